package pipeline

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/segmentio/kafka-go/protocol"

	"walferry/internal/kafka"
	"walferry/internal/testbed"
	"walferry/sink"
	"walferry/sink/sinktest"
)

// faulty puts faults between the bed's pipelines and the broker. Reading goes around them.
func (b *bed) faulty() *sinktest.Faults {
	f := sinktest.New()
	b.t.Cleanup(f.Close)
	b.dial = func(c *kafka.Config) { c.Dial = f.Dial; c.RequestTimeout = 5 * time.Second }
	b.client = b.newClient()
	return f
}

// within waits for a channel to be closed.
func within(t testing.TB, what string, c <-chan struct{}) {
	t.Helper()
	select {
	case <-c:
	case <-time.After(2 * time.Minute):
		t.Fatalf("waited in vain for %s", what)
	}
}

// TestUncertainCommit loses requests and answers of a transaction at each of its steps, and lets some of them reach the broker
// late: whatever the producer could know, each event is there once.
func TestUncertainCommit(t *testing.T) {
	pg := testbed.Postgres(t, "")
	broker := testbed.Kafka(t)
	b := newBed(t, pg, broker, "uncertain")
	// No heartbeat of its own: the faults strike the transaction that the test writes.
	b.adjust = func(c *Config) { c.Source.Heartbeat, c.Sink.PublishTimeout = time.Hour, 2*time.Second }
	faults := b.faulty()
	ledger(b, "item")
	r := b.start()
	r.first(t)
	c := pg.Connect(testbed.Owner)
	id := 0
	write := func() {
		id++
		must(t, c, `INSERT INTO item SELECT g, nextval('write_number'), 'x' FROM generate_series($1::int, $1 + 9) g`, 100*id)
		must(t, c, `UPDATE item SET seq = DEFAULT, id = id + 50 WHERE id BETWEEN $1 AND $1 + 4`, 100*id)
	}
	for _, api := range []protocol.ApiKey{protocol.AddPartitionsToTxn, protocol.Produce, protocol.EndTxn} {
		for name, action := range map[string]sinktest.Action{
			"request lost": sinktest.LoseRequest, "answer lost": sinktest.LoseAnswer, "request late": sinktest.Hold,
		} {
			t.Run(fmt.Sprintf("%v %s", api, name), func(t *testing.T) {
				b.t = t
				x := faults.Inject(sinktest.Rule{API: api, Nth: 1, Action: action})
				write()
				within(t, "the fault", x.Struck())
				b.caughtUp(r)
				if action == sinktest.Hold {
					x.Release()
					ctx, done := context.WithTimeout(t.Context(), 10*time.Second)
					defer done()
					if _, err := x.Answer(ctx); err != nil {
						t.Fatalf("the late request: %v", err)
					}
					write()
					b.caughtUp(r)
				}
				faults.Clear()
				b.verify("item")
			})
		}
	}
	b.t = t
	// No copy of a commit gets an answer, or none reaches the broker: publishing gives up, and its outcome is read.
	for name, action := range map[string]sinktest.Action{"no commit": sinktest.LoseRequest, "no answer": sinktest.LoseAnswer} {
		t.Run(name, func(t *testing.T) {
			b.t = t
			before := r.watcher.aborted()
			faults.Inject(sinktest.Rule{API: protocol.EndTxn, Action: action})
			write()
			b.await("a commit of unknown outcome", r, func() bool { return r.watcher.aborted() > before })
			faults.Clear()
			b.caughtUp(r)
			b.verify("item")
		})
	}
	b.t = t
	r.watcher.mu.Lock()
	defer r.watcher.mu.Unlock()
	// Brokers before 4.0 take the way out of an open transaction for a zombie's, see TestConformanceInitOverOpen in sink.
	allowed := 0
	if strings.HasPrefix(broker.Version, "3.") {
		allowed = 1
	}
	for _, err := range r.watcher.endings {
		if n := len(r.watcher.endings); n > allowed || !errors.Is(err, kafka.ErrFenced) {
			t.Errorf("%d sessions ended: a Kafka error alone must not cost a session: %v", n, err)
		}
	}
	for _, err := range r.watcher.aborts {
		var uncertain *sink.UncertainError
		if !errors.As(err, &uncertain) {
			t.Errorf("%v is no commit of unknown outcome", err)
		}
	}
}

func (w *watcher) aborted() int {
	w.mu.Lock()
	defer w.mu.Unlock()
	return len(w.aborts)
}

// TestStall hangs the broker's side of every Produce for longer than stall_limit: the slot is given back, a stopping server
// is not held, and everything arrives when Kafka answers again.
func TestStall(t *testing.T) {
	pg := testbed.Postgres(t, "")
	b := newBed(t, pg, testbed.Kafka(t), "stall")
	b.adjust = func(c *Config) { c.StallLimit = 1500 * time.Millisecond }
	faults := b.faulty()
	ledger(b, "item")
	r := b.start()
	r.first(t)
	active := func() (ok bool) {
		c := pg.Connect(testbed.Owner)
		if err := c.QueryRow(t.Context(), `SELECT active FROM pg_replication_slots WHERE slot_name = 'walferry_stall'`).Scan(&ok); err != nil {
			t.Fatal(err)
		}
		if err := c.Close(t.Context()); err != nil {
			t.Fatal(err)
		}
		return ok
	}
	y := faults.Inject(sinktest.Rule{API: protocol.Metadata, Action: sinktest.Swallow})
	begun := time.Now()
	// The first row of a table asks for its topic, and this hangs before any transaction does.
	pg.Exec(testbed.Owner, `INSERT INTO item SELECT g FROM generate_series(1, 100) g`)
	within(t, "the fault", y.Struck())
	b.await("the slot to be given back", r, func() bool { return !active() })
	if took := time.Since(begun); took > 6*time.Second {
		t.Errorf("the slot was given back after %v, with a stall limit of 1.5 s", took)
	}
	faults.Clear()
	faults.CutAll()
	b.caughtUp(r)
	b.verify("item")

	// A transaction hangs.
	x := faults.Inject(sinktest.Rule{API: protocol.Produce, Action: sinktest.Swallow})
	begun = time.Now()
	pg.Exec(testbed.Owner, `INSERT INTO item SELECT g FROM generate_series(6001, 6100) g`)
	within(t, "the fault", x.Struck())
	// Only now: the transport asks for metadata when it pleases, and would hang before the Produce.
	faults.Inject(sinktest.Rule{API: protocol.Metadata, Action: sinktest.Swallow})
	b.await("the slot to be given back", r, func() bool { return !active() })
	if took := time.Since(begun); took > 6*time.Second {
		t.Errorf("the slot was given back after %v, with a stall limit of 1.5 s", took)
	}
	faults.Clear()
	faults.CutAll()
	b.caughtUp(r)
	b.verify("item")

	// Again, and the server is stopped while a transaction hangs and before the limit.
	x = faults.Inject(sinktest.Rule{API: protocol.Produce, Action: sinktest.Swallow})
	pg.Exec(testbed.Owner, `INSERT INTO item SELECT g, nextval('write_number'), repeat('x', 1000) FROM generate_series(101, 5000) g`)
	within(t, "the fault", x.Struck())
	begun = time.Now()
	if err := pg.Stop("fast"); err != nil {
		t.Fatal(err)
	}
	if took := time.Since(begun); took > 10*time.Second {
		t.Errorf("a fast stop took %v while Kafka hung", took)
	}
	faults.Clear()
	faults.CutAll()
	if err := pg.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	b.caughtUp(r)
	b.verify("item")
	r.watcher.mu.Lock()
	stalls := 0
	for _, err := range r.watcher.endings {
		if errors.Is(err, ErrStalled) {
			stalls++
		}
	}
	r.watcher.mu.Unlock()
	if stalls == 0 {
		t.Error("no session ended for the stall limit")
	}
	r.drain(t)
}
