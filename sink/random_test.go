package sink_test

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"testing"
	"time"

	"github.com/segmentio/kafka-go/protocol"

	"walferry/internal/kafka"
	"walferry/sink"
	"walferry/sink/sinktest"
)

// TestRandomFaults publishes numbered records through a connection that loses requests and answers, and delivers some of
// them much later, and settles what is uncertain as the package comment says. A read_committed consumer sees each number
// once and in order. The seed of a failure repeats its choices.
func TestRandomFaults(t *testing.T) {
	each(t, func(t *testing.T, b broker) {
		seed := uint64(time.Now().UnixNano())
		t.Logf("seed %d", seed)
		r := rand.New(rand.NewPCG(seed, 0))
		f := faults(t)
		c := b.client(t, f)
		p := b.producer(t, c, sink.Config{PublishTimeout: 600 * time.Millisecond, MaxChunkBytes: 1024})
		initialise(t, p)
		events, checkpoint := topics(t, p, b, 2)
		apis := []protocol.ApiKey{protocol.AddPartitionsToTxn, protocol.Produce, protocol.EndTxn, protocol.InitProducerId}
		actions := []sinktest.Action{sinktest.LoseRequest, sinktest.LoseAnswer, sinktest.Hold}
		type held struct {
			fault *sinktest.Fault
			until int
		}
		var late []held
		const transactions = 25
		n, want := 0, [2][]string{}
		counts := map[string]int{}
		for i := range transactions {
			f.Clear()
			for j := 0; j < len(late); j++ {
				if late[j].until <= i {
					late[j].fault.Release()
					late = append(late[:j], late[j+1:]...)
					j--
				}
			}
			batch := p.NewBatch()
			for range 1 + r.IntN(60) {
				v := fmt.Sprintf("%06d %060d", n, n)
				fill(t, batch, events, int32(n%2), v)
				want[n%2] = append(want[n%2], v)
				n++
			}
			if err := batch.AppendLast(checkpoint, 0, time.Now(), []byte("position"), []byte(fmt.Sprint(i)), nil); err != nil {
				t.Fatal(err)
			}
			for range r.IntN(3) {
				rule := sinktest.Rule{API: apis[r.IntN(len(apis))], Nth: r.IntN(3), Action: actions[r.IntN(len(actions))]}
				if rule.Nth == 0 && rule.Action == sinktest.Hold {
					rule.Nth = 1 // a hold of every copy would keep a hundred
				}
				x := f.Inject(rule)
				if rule.Action == sinktest.Hold {
					late = append(late, held{x, i + r.IntN(3)})
				}
			}
		attempts:
			for attempt := 0; ; attempt++ {
				if attempt == 1 {
					f.Clear() // the fault of this transaction has done what it could
				}
				_, err := p.Publish(within(t, 30*time.Second), batch)
				switch {
				case err == nil:
					counts["committed"]++
					break attempts
				case isUncertain(err):
					counts["uncertain"]++
					f.Clear()
					if p.Recover(within(t, 30*time.Second)) != nil {
						initialise(t, p) // a late InitProducerID has bumped the epoch: alone as we are, that is no takeover
					}
					if settle(t, p, b.client(t, nil), checkpoint) == fmt.Sprint(i) {
						counts["found"]++
						break attempts
					}
				case errors.Is(err, sink.ErrFenced), errors.Is(err, sink.ErrInitRequired):
					counts["fenced"]++
					f.Clear()
					initialise(t, p)
				case isAborted(err):
					counts["aborted"]++
				default:
					t.Fatalf("transaction %d: %v", i, err)
				}
				if attempt == 20 {
					t.Fatalf("transaction %d does not get through: %v", i, err)
				}
			}
		}
		f.Clear()
		for _, h := range late {
			h.fault.Release()
		}
		initialise(t, p)
		t.Logf("%v, %+v", counts, p.Stats())
		plain := b.client(t, nil)
		for i := range want {
			expect(t, committed(t, plain, events, int32(i), len(want[i])), want[i]...)
		}
		if s := p.Stats(); s.Unanswered == 0 {
			t.Error("no fault struck")
		}
		var positions []string
		tp := kafka.TopicPartition{Topic: checkpoint}
		for _, v := range committed(t, plain, tp.Topic, 0, transactions) {
			if v != "s" {
				positions = append(positions, v)
			}
		}
		if len(positions) != transactions {
			t.Fatalf("%d checkpoints are visible, want %d: %v", len(positions), transactions, positions)
		}
		for i, v := range positions {
			if v != fmt.Sprint(i) {
				t.Fatalf("checkpoint %d says %s", i, v)
			}
		}
	})
}
