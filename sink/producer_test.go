package sink_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/segmentio/kafka-go/protocol"

	"walferry/internal/kafka"
	"walferry/sink"
	"walferry/sink/sinktest"
)

func TestPublish(t *testing.T) {
	each(t, func(t *testing.T, b broker) {
		for _, codec := range []string{"none", "gzip", "snappy", "lz4", "zstd"} {
			t.Run(codec, func(t *testing.T) {
				b := b
				b.name = unique(t)
				c := b.client(t, nil)
				// Small chunks, so that there are several rounds, and requests that hold one batch only.
				p := b.producer(t, c, sink.Config{Compression: codec, MaxChunkBytes: 4096, MaxRequestBytes: 6000})
				initialise(t, p)
				events, checkpoint := topics(t, p, b, 3)
				batch := p.NewBatch()
				want := make([][]string, 3)
				n := 0
				for round := range 4 {
					for range 500 {
						v := fmt.Sprintf("%06d %s", n, strings.Repeat("x", n%97))
						fill(t, batch, events, int32(n%3), v)
						want[n%3] = append(want[n%3], v)
						n++
					}
					if err := batch.AppendLast(checkpoint, 0, time.Now(), []byte("position"), []byte(fmt.Sprint(n)), nil); err != nil {
						t.Fatal(err)
					}
					res := publish(t, p, batch)
					tp := sink.TopicPartition{Topic: checkpoint}
					// Each transaction has one checkpoint and one marker behind it.
					if got := res.Offsets[tp]; got != int64(2*round) || res.LastOffsets[tp] != got {
						t.Errorf("round %d: checkpoint at offset %d to %d, want %d", round, got, res.LastOffsets[tp], 2*round)
					}
					for i := range int32(3) {
						tp := sink.TopicPartition{Topic: events, Partition: i}
						if first, last := res.Offsets[tp], res.LastOffsets[tp]; last-first+1 < 166 || last-first+1 > 167 {
							t.Errorf("round %d partition %d: offsets %d to %d for 166 or 167 records", round, i, first, last)
						}
					}
					if res.Requests < 4 || res.Bytes == 0 {
						t.Errorf("%d requests, %d bytes", res.Requests, res.Bytes)
					}
					batch.Reset()
				}
				for i := range want {
					expect(t, committed(t, c, events, int32(i), len(want[i])), want[i]...)
				}
				expect(t, committed(t, c, checkpoint, 0, 4), "500", "1000", "1500", "2000")
				if s := p.Stats(); s.Transactions != 4 || s.Records != 2004 || s.Aborted != 0 || s.Unanswered != 0 {
					t.Errorf("stats %+v", s)
				}
			})
		}
	})
}

func TestPublishNeedsInit(t *testing.T) {
	b := fake(t)
	p := b.producer(t, b.client(t, nil), sink.Config{})
	batch := p.NewBatch()
	fill(t, batch, "x", 0, "v")
	if _, err := p.Publish(t.Context(), batch); !errors.Is(err, sink.ErrInitRequired) {
		t.Errorf("Publish before Init: %v", err)
	}
	if err := p.Recover(t.Context()); !errors.Is(err, sink.ErrInitRequired) {
		t.Errorf("Recover before Init: %v", err)
	}
	initialise(t, p)
	if res, err := p.Publish(t.Context(), p.NewBatch()); err != nil || len(res.Offsets) != 0 {
		t.Errorf("an empty batch: %v, %v", res, err)
	}
}

// TestEachFault loses the first copy of each request, and its answer. The transaction commits by another copy, everything is
// there once, and the next transaction begins with a new epoch (rule 1).
func TestEachFault(t *testing.T) {
	each(t, func(t *testing.T, b broker) {
		for _, api := range []protocol.ApiKey{protocol.AddPartitionsToTxn, protocol.Produce, protocol.EndTxn} {
			for name, action := range map[string]sinktest.Action{"request": sinktest.LoseRequest, "answer": sinktest.LoseAnswer} {
				t.Run(api.String()+" "+name, func(t *testing.T) {
					b := b
					b.name = unique(t)
					f := faults(t)
					c := b.client(t, f)
					p := b.producer(t, c, sink.Config{})
					initialise(t, p)
					events, checkpoint := topics(t, p, b, 1)
					batch := p.NewBatch()
					for i, v := range []string{"one", "two", "three"} {
						batch.Reset()
						fill(t, batch, events, 0, v)
						if err := batch.AppendLast(checkpoint, 0, time.Now(), []byte("k"), []byte(v), nil); err != nil {
							t.Fatal(err)
						}
						f.TakeOrder()
						if i == 1 {
							f.Inject(sinktest.Rule{API: api, Nth: 1, Action: action})
						}
						_, before := p.ID()
						publish(t, p, batch)
						_, after := p.ID()
						order := only(f.TakeOrder())
						if recovered := strings.HasPrefix(order, "InitProducerId "); recovered != (i == 2) || recovered != (before != after) {
							t.Errorf("transaction %d: epoch %d to %d, requests %s", i, before, after, order)
						}
					}
					expect(t, committed(t, b.client(t, nil), events, 0, 3), "one", "two", "three")
					expect(t, committed(t, b.client(t, nil), checkpoint, 0, 3), "one", "two", "three")
					if s := p.Stats(); s.Unanswered != 1 || s.Aborted != 0 || s.Transactions != 3 {
						t.Errorf("stats %+v", s)
					}
				})
			}
		}
	})
}

// settle is what a caller does about an UncertainError: a new epoch, a record of its own, and a read up to it.
func settle(t testing.TB, p *sink.Producer, c *kafka.Client, checkpoint string) (last string) {
	t.Helper()
	ctx := within(t, 30*time.Second)
	if err := p.Recover(ctx); err != nil {
		t.Fatal(err)
	}
	session := p.NewBatch()
	if err := session.AppendLast(checkpoint, 0, time.Now(), []byte("session"), []byte("s"), nil); err != nil {
		t.Fatal(err)
	}
	res := publish(t, p, session)
	err := c.Replay(ctx, checkpoint, 0, res.Offsets[sink.TopicPartition{Topic: checkpoint}], func(r kafka.Record) error {
		if string(r.Key) == "position" {
			last = string(r.Value)
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return last
}

// TestUncertainCommit loses every copy of EndTxn, or every answer to it, until Publish gives up. Settling by reading tells
// the two apart, and the same batch goes out again where it has to.
func TestUncertainCommit(t *testing.T) {
	each(t, func(t *testing.T, b broker) {
		for name, tc := range map[string]struct {
			action sinktest.Action
			landed bool
		}{
			"lost before the request": {sinktest.LoseRequest, false},
			"lost before the answer":  {sinktest.LoseAnswer, true},
		} {
			t.Run(name, func(t *testing.T) {
				b := b
				b.name = unique(t)
				f := faults(t)
				c := b.client(t, f)
				p := b.producer(t, c, sink.Config{PublishTimeout: 700 * time.Millisecond})
				initialise(t, p)
				events, checkpoint := topics(t, p, b, 1)
				batch, next := p.NewBatch(), p.NewBatch()
				for _, x := range []struct {
					b *sink.Batch
					v string
				}{{batch, "first"}, {next, "second"}} {
					fill(t, x.b, events, 0, x.v)
					if err := x.b.AppendLast(checkpoint, 0, time.Now(), []byte("position"), []byte(x.v), nil); err != nil {
						t.Fatal(err)
					}
				}
				f.Inject(sinktest.Rule{API: protocol.EndTxn, Action: tc.action})
				_, err := p.Publish(t.Context(), batch)
				if !isUncertain(err) || isAborted(err) {
					t.Fatalf("error %v, want an UncertainError", err)
				}
				if _, err := p.Publish(t.Context(), next); !errors.Is(err, sink.ErrUnsettled) {
					t.Fatalf("a later batch before it was settled: %v", err)
				}
				f.Clear()
				recovered(t, b, p)
				last := settle(t, p, c, checkpoint)
				if landed := last == "first"; landed != tc.landed {
					t.Fatalf("the checkpoint topic says %q", last)
				}
				if last != "first" {
					publish(t, p, batch)
				}
				publish(t, p, next)
				expect(t, committed(t, c, events, 0, 2), "first", "second")
			})
		}
	})
}

// TestLateEndTxn holds a copy of EndTxn(commit) until the next transaction is open. With the new epoch that rule 1 asks for
// it is refused; the test of the same name among the facts shows that without, it commits.
func TestLateEndTxn(t *testing.T) {
	b := apache(t)
	f := faults(t)
	c := b.client(t, f)
	p := b.producer(t, c, sink.Config{})
	initialise(t, p)
	events, checkpoint := topics(t, p, b, 1)
	batch := p.NewBatch()
	fill(t, batch, events, 0, "one")
	late := f.Inject(sinktest.Rule{API: protocol.EndTxn, Nth: 1, Action: sinktest.Hold})
	publish(t, p, batch)
	f.Clear()

	// The second transaction stops between Produce and EndTxn while the late one arrives.
	batch.Reset()
	fill(t, batch, events, 0, "two")
	if err := batch.AppendLast(checkpoint, 0, time.Now(), []byte("k"), []byte("two"), nil); err != nil {
		t.Fatal(err)
	}
	gate := f.Inject(sinktest.Rule{API: protocol.Produce, Nth: 1, Action: sinktest.HoldAnswer})
	done := make(chan error, 1)
	go func() {
		_, err := p.Publish(t.Context(), batch)
		done <- err
	}()
	<-gate.Struck()
	late.Release()
	answer, err := late.Answer(within(t, 10*time.Second))
	if err != nil {
		t.Fatal(err)
	}
	if code := endTxnCode(answer); code != 90 && code != 47 {
		t.Errorf("the late EndTxn was answered with %d, want 90 or 47", code)
	}
	expect(t, committed(t, b.client(t, nil), events, 0, 1), "one")
	gate.Release()
	if err := <-done; err != nil {
		t.Fatal(err)
	}
	expect(t, committed(t, b.client(t, nil), events, 0, 2), "one", "two")
}

// TestLateProduce holds a copy of a record batch until its transaction has committed and the next one is open.
func TestLateProduce(t *testing.T) {
	b := apache(t)
	f := faults(t)
	c := b.client(t, f)
	p := b.producer(t, c, sink.Config{})
	initialise(t, p)
	events, _ := topics(t, p, b, 1)
	batch := p.NewBatch()
	fill(t, batch, events, 0, "one")
	late := f.Inject(sinktest.Rule{API: protocol.Produce, Nth: 1, Action: sinktest.Hold})
	publish(t, p, batch)
	f.Clear()
	batch.Reset()
	fill(t, batch, events, 0, "two")
	gate := f.Inject(sinktest.Rule{API: protocol.EndTxn, Nth: 1, Action: sinktest.HoldAnswer})
	before := f.Inject(sinktest.Rule{API: protocol.Produce, Nth: 1, Action: sinktest.HoldAnswer})
	done := make(chan error, 1)
	go func() {
		_, err := p.Publish(t.Context(), batch)
		done <- err
	}()
	<-before.Struck()
	late.Release()
	answer, err := late.Answer(within(t, 10*time.Second))
	if err != nil {
		t.Fatal(err)
	}
	if code := produceCode(t, answer); code != 47 {
		t.Errorf("the late batch was answered with %d, want 47", code)
	}
	before.Release()
	gate.Release()
	if err := <-done; err != nil {
		t.Fatal(err)
	}
	expect(t, committed(t, b.client(t, nil), events, 0, 2), "one", "two")
}

// TestLateAddPartitions holds a copy of AddPartitionsToTxn; late, it would open a transaction that nobody ends.
func TestLateAddPartitions(t *testing.T) {
	b := apache(t)
	f := faults(t)
	c := b.client(t, f)
	p := b.producer(t, c, sink.Config{})
	initialise(t, p)
	events, _ := topics(t, p, b, 1)
	batch := p.NewBatch()
	fill(t, batch, events, 0, "one")
	late := f.Inject(sinktest.Rule{API: protocol.AddPartitionsToTxn, Nth: 1, Action: sinktest.Hold})
	publish(t, p, batch)
	f.Clear()
	late.Release() // opens a transaction under the old epoch
	if _, err := late.Answer(within(t, 10*time.Second)); err != nil {
		t.Fatal(err)
	}
	batch.Reset()
	fill(t, batch, events, 0, "two")
	publish(t, p, batch)
	expect(t, committed(t, b.client(t, nil), events, 0, 2), "one", "two")
}

// TestZombie: what the older of two producers does after the takeover is refused at each of its steps, and it says so.
func TestZombie(t *testing.T) {
	for _, step := range []protocol.ApiKey{protocol.AddPartitionsToTxn, protocol.Produce, protocol.EndTxn} {
		t.Run("stopped before "+step.String(), func(t *testing.T) {
			b := apache(t)
			f := faults(t)
			old := b.producer(t, b.client(t, f), sink.Config{})
			initialise(t, old)
			events, checkpoint := topics(t, old, b, 1)
			batch := old.NewBatch()
			fill(t, batch, events, 0, "old")
			if err := batch.AppendLast(checkpoint, 0, time.Now(), []byte("k"), []byte("old"), nil); err != nil {
				t.Fatal(err)
			}
			// Everything from this step on waits for the takeover.
			gate := f.Inject(sinktest.Rule{API: step, Nth: 1, Action: sinktest.Hold})
			done := make(chan error, 1)
			go func() {
				_, err := old.Publish(t.Context(), batch)
				done <- err
			}()
			<-gate.Struck()
			c := b.client(t, nil)
			p := b.producer(t, c, sink.Config{})
			initialise(t, p)
			gate.Release()
			err := <-done
			switch {
			case err == nil && step == protocol.EndTxn:
				// The second copy of EndTxn was quicker than the takeover.
			case !errors.Is(err, sink.ErrFenced):
				t.Fatalf("the older producer: %v, want ErrFenced", err)
			}
			if _, again := old.Publish(t.Context(), batch); err != nil && !errors.Is(again, sink.ErrFenced) {
				t.Fatalf("the older producer, once more: %v", again)
			}
			batch = p.NewBatch()
			fill(t, batch, events, 0, "new")
			publish(t, p, batch)
			want := []string{"new"}
			if err == nil {
				want = []string{"old", "new"}
			}
			expect(t, committed(t, c, events, 0, len(want)), want...)
			expect(t, committed(t, c, checkpoint, 0, len(want)-1), want[:len(want)-1]...)
		})
	}
}

// TestCancel: Publish ends soon when ctx does, and says truly whether the commit had been sent.
func TestCancel(t *testing.T) {
	for _, api := range []protocol.ApiKey{protocol.AddPartitionsToTxn, protocol.Produce, protocol.EndTxn} {
		t.Run(api.String(), func(t *testing.T) {
			b := fake(t)
			f := faults(t)
			c := b.client(t, f)
			p := b.producer(t, c, sink.Config{})
			initialise(t, p)
			events, _ := topics(t, p, b, 1)
			batch := p.NewBatch()
			fill(t, batch, events, 0, "one")
			hang := f.Inject(sinktest.Rule{API: api, Action: sinktest.Swallow})
			ctx, cancel := context.WithCancelCause(t.Context())
			stop := errors.New("asked to stop")
			go func() {
				<-hang.Struck()
				cancel(stop)
			}()
			begin := time.Now()
			_, err := p.Publish(ctx, batch)
			if d := time.Since(begin); d > 2*time.Second {
				t.Errorf("it took %v", d)
			}
			if !errors.Is(err, stop) {
				t.Errorf("error %v does not name the cause", err)
			}
			if isUncertain(err) != (api == protocol.EndTxn) || isAborted(err) != (api != protocol.EndTxn) {
				t.Errorf("error %T: %v", err, err)
			}
			f.Clear()
			if api == protocol.EndTxn {
				recovered(t, b, p)
			}
			publish(t, p, batch)
			expect(t, committed(t, c, events, 0, 1), "one")
		})
	}
}

// TestClose aborts what a Publish that was cancelled left open, so that a consumer sees what follows at once.
func TestClose(t *testing.T) {
	each(t, func(t *testing.T, b broker) {
		f := faults(t)
		c := b.client(t, f)
		p := b.producer(t, c, sink.Config{})
		initialise(t, p)
		events, _ := topics(t, p, b, 1)
		batch := p.NewBatch()
		fill(t, batch, events, 0, "never")
		hang := f.Inject(sinktest.Rule{API: protocol.EndTxn, Action: sinktest.LoseRequest})
		ctx, cancel := context.WithCancel(t.Context())
		go func() {
			<-hang.Struck()
			cancel()
		}()
		if _, err := p.Publish(ctx, batch); !isUncertain(err) {
			t.Fatalf("error %v, want an UncertainError", err)
		}
		f.Clear()
		if err := p.Close(within(t, 10*time.Second)); err != nil {
			t.Fatal(err)
		}
		other := b.producer(t, c, sink.Config{TransactionalID: b.name + "-other"})
		initialise(t, other)
		batch.Reset()
		fill(t, batch, events, 0, "seen")
		publish(t, other, batch)
		expect(t, committed(t, c, events, 0, 1), "seen")
	})
}

func TestEnsureTopic(t *testing.T) {
	each(t, func(t *testing.T, b broker) {
		c := b.client(t, nil)
		p := b.producer(t, c, sink.Config{})
		ctx := within(t, 30*time.Second)
		name := b.name + "-t"
		spec := sink.TopicSpec{Name: name, Partitions: 3, ReplicationFactor: 1, CleanupPolicy: "compact",
			Configs: map[string]string{"max.message.bytes": "2000", "retention.ms": "-1"}}
		info, err := p.EnsureTopic(ctx, spec)
		if err != nil {
			t.Fatal(err)
		}
		if !info.Created || info.Partitions != 3 || info.ReplicationFactor != 1 || info.CleanupPolicy != "compact" ||
			info.MaxMessageBytes != 2000 || info.CompressionType != "producer" || info.Retention >= 0 || info.MinInsyncReplicas != 1 {
			t.Errorf("created %+v", info)
		}
		if info, err = p.EnsureTopic(ctx, spec); err != nil || info.Created {
			t.Errorf("again: %+v, %v", info, err)
		}
		var large *sink.TooLargeError
		if err := p.NewBatch().Append(name, 0, time.Now(), nil, make([]byte, 100_000), nil); err != nil {
			t.Errorf("100 kB of zeros shrink to almost nothing: %v", err)
		}
		q := b.producer(t, c, sink.Config{Compression: "none"})
		if _, err := q.EnsureTopic(ctx, spec); err != nil {
			t.Fatal(err)
		}
		if err := q.NewBatch().Append(name, 0, time.Now(), nil, make([]byte, 3000), nil); !errors.As(err, &large) || large.Limit != 2000 {
			t.Errorf("3000 bytes for a topic that takes 2000: %v", err)
		}
		for setting, change := range map[string]func(*sink.TopicSpec){
			"partitions":         func(s *sink.TopicSpec) { s.Partitions = 4 },
			"replication factor": func(s *sink.TopicSpec) { s.ReplicationFactor = 2 },
			"cleanup.policy":     func(s *sink.TopicSpec) { s.CleanupPolicy = "delete" },
			"existence":          func(s *sink.TopicSpec) { s.Name, s.MustExist = name+"-absent", true },
		} {
			s := spec
			change(&s)
			var mismatch *sink.TopicMismatchError
			if _, err := p.EnsureTopic(ctx, s); !errors.As(err, &mismatch) || mismatch.Setting != setting || mismatch.Remedy == "" {
				t.Errorf("%s: error %v", setting, err)
			}
		}
		if changed, err := p.CheckTopics(ctx); err != nil || len(changed) != 0 {
			t.Errorf("CheckTopics: %v, %v", changed, err)
		}
	})
}
