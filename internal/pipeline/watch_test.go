package pipeline

import (
	"os"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"walferry/checkpoint"
	"walferry/internal/kafka"
	"walferry/internal/testbed"
	"walferry/source"
)

// TestRates: a minute is what the last 60 seconds saw, and less where there was less.
func TestRates(t *testing.T) {
	begun := time.Unix(1_700_000_000, 0)
	w := window{begun: begun}
	at := func(s float64) time.Time { return begun.Add(time.Duration(s * float64(time.Second))) }
	want := func(s, changes, bytes float64) {
		t.Helper()
		if c, b := w.rates(at(s)); c != changes || b != bytes {
			t.Errorf("after %v s: %v changes/s, %v bytes/s, want %v and %v", s, c, b, changes, bytes)
		}
	}
	want(0, 0, 0)
	w.add(at(0.5), 10, 1000)
	want(0.5, 10, 1000) // no second has passed: not more than was done
	want(10, 1, 100)
	w.add(at(30), 50, 5000)
	w.add(at(30.5), 60, 6000)
	want(59, 120./59, 12000./59)
	want(61, 110./60, 11000./60) // the first ten are older than a minute
	want(120, 0, 0)
	w.add(at(120), 6, 60) // in a place that was used a minute ago
	want(121, 0.1, 1)
}

// clock gives a pipeline an hour for nothing, and then the time that all have.
type clock struct {
	mu    sync.Mutex
	given time.Duration // guarded by mu
	over  chan struct{} // closed when the hour is
}

func (c *clock) after(d time.Duration) <-chan time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.given >= time.Hour {
		return time.After(d)
	}
	if c.given += d; c.given >= time.Hour {
		close(c.over)
	}
	now := make(chan time.Time, 1)
	now <- time.Now()
	return now
}

// TestStandbyHour: a standby that waits for an hour disturbs the active instance in nothing, leaves the server's log alone, and
// takes over at once. With standby: false it waits as long as a dead holder may keep the slot.
func TestStandbyHour(t *testing.T) {
	pg := testbed.Postgres(t, "")
	b := newBed(t, pg, testbed.Kafka(t), "hour")
	b.adjust = func(c *Config) { c.Session.Instance = "one" }
	ledger(b, "item")
	one := b.start()
	one.first(t)
	pg.Exec(testbed.Owner, `INSERT INTO item SELECT g FROM generate_series(1, 20) g`)
	b.caughtUp(one)
	type producer struct {
		id    int64
		epoch int16
	}
	// Who has written to a topic, each once, in order.
	producers := func(records []event) (out []producer) {
		for _, e := range records {
			if p := (producer{e.ProducerID, e.Epoch}); !slices.Contains(out, p) {
				out = append(out, p)
			}
		}
		return out
	}
	before, sessions := producers(b.all("item")), b.sessions()
	refusals := func() int {
		log, err := os.ReadFile(pg.LogFile())
		if err != nil {
			t.Fatal(err)
		}
		return strings.Count(string(log), `replication slot "walferry_hour" is active for PID`)
	}

	hour := &clock{over: make(chan struct{})}
	b.adjust = func(c *Config) { c.Session.Instance = "two" }
	b.prepare = func(p *Pipeline) { p.after = hour.after }
	two := b.start()
	select {
	case <-hour.over:
	case err := <-two.done:
		two.done <- err
		t.Fatalf("the standby ended: %v", err)
	case <-time.After(5 * time.Minute):
		t.Fatalf("an hour does not pass: %+v", two.Health())
	}
	if n := refusals(); n != 1 {
		t.Errorf("an hour of waiting left %d lines in the server's log, want the first attempt's", n)
	}
	if h := two.Health(); h.State != Standby || h.Step != stepStandby || h.Ready || h.Holds || h.Confirmed == 0 || h.Totals.Sessions != 0 {
		t.Errorf("the standby says %+v", h)
	}

	// Without leave to stand by: a third one.
	short := &clock{over: make(chan struct{})}
	b.adjust = func(c *Config) {
		c.Session.Instance, c.Standby, c.Source.WALSenderTimeout = "three", false, 10*time.Second
	}
	b.prepare = func(p *Pipeline) { p.after = short.after }
	if err := b.start().ended(t); !is[*source.SlotInUseError](err) {
		t.Errorf("with standby: false it ended with %v", err)
	}
	short.mu.Lock()
	if short.given < 10*time.Second || short.given > 15*time.Second {
		t.Errorf("it waited for %v, with wal_sender_timeout at 10 s", short.given)
	}
	short.mu.Unlock()

	pg.Exec(testbed.Owner, `UPDATE item SET seq = DEFAULT`)
	b.caughtUp(one)
	if after := producers(b.all("item")); len(before) != 1 || !slices.Equal(before, after) {
		t.Errorf("the active instance wrote as %v, and then as %v", before, after)
	}
	one.watcher.mu.Lock()
	if len(one.watcher.aborts)+len(one.watcher.endings) > 0 {
		t.Errorf("the active instance was disturbed: %v %v", one.watcher.aborts, one.watcher.endings)
	}
	one.watcher.mu.Unlock()
	if n := b.sessions(); n != sessions {
		t.Errorf("%d session records, %d were the active instance's", n, sessions)
	}

	one.kill(t)
	two.first(t)
	pg.Exec(testbed.Owner, `DELETE FROM item WHERE id < 4`)
	b.caughtUp(two)
	b.verify("item")
	if n := refusals(); n != 2 { // the third one's
		t.Errorf("%d lines in the server's log", n)
	}
	two.drain(t)
}

// sessions counts the session records in the checkpoint topic.
func (b *bed) sessions() (n int) {
	b.t.Helper()
	client, topic := b.plain(), "_walferry."+b.name
	end, err := client.EndOffset(b.t.Context(), topic, 0)
	if err != nil {
		b.t.Fatal(err)
	}
	if err := client.Replay(b.t.Context(), topic, 0, end-1, func(r kafka.Record) error {
		if string(r.Key) == checkpoint.SessionKey {
			n++
		}
		return nil
	}); err != nil {
		b.t.Fatal(err)
	}
	return n
}
