package sink_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/segmentio/kafka-go/protocol"
	"github.com/twmb/franz-go/pkg/kfake"

	"walferry/internal/kafka"
	"walferry/internal/testbed"
	"walferry/sink"
	"walferry/sink/sinktest"
)

func TestMain(m *testing.M) { os.Exit(testbed.Main(m)) }

// broker is a Kafka that a test may use, with topics and transactional ids of its own.
type broker struct {
	addr    string
	apache  bool
	version string // of the testbed's Apache Kafka
	name    string // unique prefix for this test
}

var brokers atomic.Int64

func unique(t testing.TB) string {
	name := strings.NewReplacer("/", "-", " ", "-", "#", "-", ",", "").Replace(t.Name())
	return fmt.Sprintf("%s-%d-%d", name, time.Now().UnixNano(), brokers.Add(1))
}

func fake(t testing.TB) broker {
	t.Helper()
	c, err := kfake.NewCluster(kfake.NumBrokers(1))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.Close)
	return broker{addr: c.ListenAddrs()[0], name: unique(t)}
}

// apache is a real broker: the one in WALFERRY_TEST_KAFKA_ADDR, or the testbed's.
func apache(t testing.TB) broker {
	t.Helper()
	if addr := os.Getenv("WALFERRY_TEST_KAFKA_ADDR"); addr != "" {
		return broker{addr: addr, apache: true, name: unique(t)}
	}
	b := testbed.Kafka(t)
	if !b.Apache {
		t.Skip("needs Apache Kafka: install Java 17 and Maven, or set WALFERRY_TEST_KAFKA_ADDR")
	}
	return broker{addr: b.Addr, apache: true, version: b.Version, name: unique(t)}
}

// each runs a test on kfake, which is quick, and on Apache, which is true.
func each(t *testing.T, fn func(*testing.T, broker)) {
	t.Run("kfake", func(t *testing.T) { fn(t, fake(t)) })
	t.Run("apache", func(t *testing.T) { fn(t, apache(t)) })
}

// client reaches the broker through faults, which may be nil.
func (b broker) client(t testing.TB, faults *sinktest.Faults) *kafka.Client {
	t.Helper()
	cfg := kafka.Config{Brokers: []string{b.addr}, RequestTimeout: 5 * time.Second}
	if faults != nil {
		cfg.Dial = faults.Dial
	}
	c, err := kafka.New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.Close)
	return c
}

func (b broker) producer(t testing.TB, c *kafka.Client, cfg sink.Config) *sink.Producer {
	t.Helper()
	if cfg.TransactionalID == "" {
		cfg.TransactionalID = b.name
	}
	p, err := sink.New(c, cfg)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

func faults(t testing.TB) *sinktest.Faults {
	f := sinktest.New()
	t.Cleanup(f.Close)
	return f
}

func within(t testing.TB, d time.Duration) context.Context {
	ctx, cancel := context.WithTimeoutCause(t.Context(), d, fmt.Errorf("the test waited %v", d))
	t.Cleanup(cancel)
	return ctx
}

// topics makes the events' topic and the checkpoint's.
func topics(t testing.TB, p *sink.Producer, b broker, partitions int) (events, checkpoint string) {
	t.Helper()
	ctx := within(t, 30*time.Second)
	events, checkpoint = b.name+".events", b.name+".checkpoint"
	if _, err := p.EnsureTopic(ctx, sink.TopicSpec{Name: events, Partitions: partitions, ReplicationFactor: 1}); err != nil {
		t.Fatal(err)
	}
	if _, err := p.EnsureTopic(ctx, sink.TopicSpec{Name: checkpoint, Partitions: 1, CleanupPolicy: "compact"}); err != nil {
		t.Fatal(err)
	}
	return events, checkpoint
}

func initialise(t testing.TB, p *sink.Producer) {
	t.Helper()
	if err := p.Init(within(t, 30*time.Second)); err != nil {
		t.Fatal(err)
	}
}

// committed reads what a read_committed consumer sees of a partition: want records or more, and on to the last stable
// offset, for any that should not be there.
func committed(t testing.TB, c *kafka.Client, topic string, partition int32, want int) []string {
	t.Helper()
	ctx := within(t, 30*time.Second)
	tp := kafka.TopicPartition{Topic: topic, Partition: partition}
	r := c.NewReader(map[kafka.TopicPartition]int64{tp: kafka.Earliest})
	var got []string
	for {
		if next, stable := r.Position(tp); len(got) >= want && next == stable {
			return got
		}
		recs, err := r.Poll(ctx)
		if err != nil {
			t.Fatalf("after %d records of %d: %v", len(got), want, err)
		}
		for _, r := range recs {
			got = append(got, string(r.Value))
		}
	}
}

// expect compares what is visible with what was published.
func expect(t testing.TB, got []string, want ...string) {
	t.Helper()
	if fmt.Sprint(got) != fmt.Sprint(want) {
		t.Fatalf("visible: %v\n   want: %v", got, want)
	}
}

func fill(t testing.TB, b *sink.Batch, topic string, partition int32, values ...string) {
	t.Helper()
	for _, v := range values {
		if err := b.Append(topic, partition, time.Now(), []byte(v), []byte(v), nil); err != nil {
			t.Fatal(err)
		}
	}
}

func publish(t testing.TB, p *sink.Producer, b *sink.Batch) sink.Result {
	t.Helper()
	res, err := p.Publish(within(t, 30*time.Second), b)
	if err != nil {
		t.Fatal(err)
	}
	return res
}

// recovered is Recover after a transaction that may be open. A broker before 4.0 takes that for a zombie's, see
// TestConformanceInitOverOpen; alone as we are, Init is right then.
func recovered(t testing.TB, b broker, p *sink.Producer) {
	t.Helper()
	err := p.Recover(within(t, 30*time.Second))
	if errors.Is(err, sink.ErrFenced) && strings.HasPrefix(b.version, "3.") {
		initialise(t, p)
		return
	}
	if err != nil {
		t.Fatal(err)
	}
}

func isAborted(err error) bool {
	var a *sink.AbortedError
	return errors.As(err, &a)
}

func isUncertain(err error) bool {
	var u *sink.UncertainError
	return errors.As(err, &u)
}

// only keeps the APIs of a transaction.
func only(apis []protocol.ApiKey) string {
	var out []string
	for _, a := range apis {
		switch a {
		case protocol.InitProducerId, protocol.AddPartitionsToTxn, protocol.Produce, protocol.EndTxn:
			out = append(out, a.String())
		}
	}
	return strings.Join(out, " ")
}
