package sink_test

import (
	"errors"
	"fmt"
	"testing"
	"time"

	"walferry/internal/kafka"
	"walferry/internal/testbed"
	"walferry/sink"
)

// TestLeaderMoves publishes while the transaction coordinator, which leads partitions too, is killed and started again:
// leaders and coordinator move, and a read_committed consumer sees every number once and in order.
func TestLeaderMoves(t *testing.T) {
	if testing.Short() {
		t.Skip("three brokers take a while to start")
	}
	begin := time.Now()
	phase := func(what string) { t.Logf("%v: %s", time.Since(begin).Round(time.Millisecond), what) }
	cluster := testbed.Kafka3(t)
	phase("three brokers are up")
	b := broker{addr: cluster.Addr, apache: true, name: unique(t)}
	c, err := kafka.New(kafka.Config{Brokers: brokerList(cluster), RequestTimeout: 3 * time.Second})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.Close)
	p := b.producer(t, c, sink.Config{PublishTimeout: 15 * time.Second})
	if err := p.Init(within(t, time.Minute)); err != nil {
		t.Fatal(err)
	}
	events, checkpoint := b.name+".events", b.name+".checkpoint"
	for name, n := range map[string]int{events: 6, checkpoint: 1} {
		if _, err := p.EnsureTopic(within(t, time.Minute), sink.TopicSpec{Name: name, Partitions: n, ReplicationFactor: 3}); err != nil {
			t.Fatal(err)
		}
	}
	phase("initialised")
	n, want, slowest := 0, make([][]string, 6), time.Duration(0)
	batch := p.NewBatch()
	round := func(i int) {
		batch.Reset()
		for range 60 {
			v := fmt.Sprintf("%07d", n)
			fill(t, batch, events, int32(n%6), v)
			want[n%6] = append(want[n%6], v)
			n++
		}
		if err := batch.AppendLast(checkpoint, 0, time.Now(), []byte("position"), fmt.Append(nil, i), nil); err != nil {
			t.Fatal(err)
		}
		begin := time.Now()
		for attempt := 0; ; attempt++ {
			_, err := p.Publish(within(t, time.Minute), batch)
			if err == nil {
				break
			}
			t.Logf("transaction %d: %v", i, err)
			if attempt == 5 {
				t.Fatal("it does not get through")
			}
			if isUncertain(err) {
				if rerr := p.Recover(within(t, time.Minute)); rerr != nil {
					initialise(t, p)
				}
				if settle(t, p, c, checkpoint) == fmt.Sprint(i) {
					break
				}
			} else if errors.Is(err, sink.ErrFenced) || errors.Is(err, sink.ErrInitRequired) {
				initialise(t, p)
			}
		}
		slowest = max(slowest, time.Since(begin))
	}
	i := 0
	some := func() {
		for range 15 {
			round(i)
			i++
		}
	}
	some()
	phase("published")
	id, err := c.Coordinator(within(t, time.Minute), b.name)
	if err != nil {
		t.Fatal(err)
	}
	node := cluster.Brokers[id-1]
	if err := node.Kill(); err != nil {
		t.Fatal(err)
	}
	some()
	phase("published without it")
	if err := node.Start(within(t, 2*time.Minute)); err != nil {
		t.Fatal(err)
	}
	phase("it is back")
	some()
	t.Logf("slowest transaction %v, %+v", slowest.Round(time.Millisecond), p.Stats())
	for q := range want {
		expect(t, committed(t, c, events, int32(q), len(want[q])), want[q]...)
	}
}

func brokerList(c *testbed.Cluster) []string {
	var list []string
	for _, b := range c.Brokers {
		list = append(list, b.Addr)
	}
	return list
}
