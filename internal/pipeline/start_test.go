package pipeline

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"walferry/checkpoint"
	"walferry/internal/testbed"
	"walferry/source"
)

// TestPlaces ends a pipeline at every place between two durable steps, those of the first start and those of the stream, and
// starts it again.
func TestPlaces(t *testing.T) {
	pg := testbed.Postgres(t, "", "max_replication_slots=20", "max_wal_senders=20")
	broker := testbed.Kafka(t)
	for i, at := range []string{
		"creating-saved", "publication-created", "slot-created", "first-position-saved",
		"initialised", "session-committed", "sealed", "before-publish", "after-commit", "before-confirm", "after-confirm",
	} {
		t.Run(at, func(t *testing.T) {
			b := newBed(t, pg, broker, fmt.Sprintf("place%d", i))
			table := "t_" + b.name
			ledger(b, table)
			// The pipeline makes the publication, as a role that may.
			pg.Exec(testbed.Superuser, "DROP PUBLICATION walferry_"+b.name)
			b.adjust = func(c *Config) {
				c.Source.DSN = pg.DSN(testbed.Superuser)
				c.Source.CreatePublication, c.Source.AllTables = true, false
				c.Source.Tables = []string{"public." + table}
			}
			var kill func(error)
			var mu sync.Mutex
			reached := make(chan struct{})
			var once sync.Once
			hook(t, func(place string) {
				if place == at {
					once.Do(func() {
						mu.Lock()
						defer mu.Unlock()
						kill(errKilled)
						close(reached)
					})
				}
			})
			mu.Lock()
			r := b.start()
			kill = r.cancel
			mu.Unlock()
			within(t, at, reached)
			if err := r.ended(t); !errors.Is(err, errKilled) {
				t.Fatalf("ended with %v", err)
			}
			testHook.Store(nil)
			r = b.start()
			r.first(t)
			pg.Exec(testbed.Owner, `INSERT INTO `+table+` SELECT g FROM generate_series(1, 20) g`, `DELETE FROM `+table+` WHERE id < 5`)
			b.caughtUp(r)
			b.verify(table)
			r.kill(t)
			pg.Exec(testbed.Superuser, `SELECT pg_drop_replication_slot('walferry_`+b.name+`')`)
		})
	}
}

// TestSplit ends a pipeline between the second and the third part of a transaction larger than a batch.
func TestSplit(t *testing.T) {
	pg := testbed.Postgres(t, "")
	b := newBed(t, pg, testbed.Kafka(t), "split")
	b.adjust = func(c *Config) { c.Source.Heartbeat, c.Sink.MaxBatchBytes = 3600e9, 16<<10 }
	ledger(b, "item")
	r := b.start()
	r.first(t)
	commits := 0
	hook(t, func(place string) {
		if place == "after-commit" {
			if commits++; commits == 2 {
				r.cancel(errKilled)
			}
		}
	})
	pg.Exec(testbed.Owner, `INSERT INTO item SELECT g, nextval('write_number'), repeat('x', 500) FROM generate_series(1, 300) g`)
	if err := r.ended(t); !errors.Is(err, errKilled) {
		t.Fatalf("ended with %v, want %v", err, errKilled)
	}
	testHook.Store(nil)
	cp := b.checkpoint()
	if cp.Split == nil || cp.Split.Part != 2 {
		t.Fatalf("checkpoint %+v: want two parts of a split transaction", cp)
	}
	first := len(b.all("item"))
	if first == 0 || first >= 300 {
		t.Fatalf("%d events are there after two parts", first)
	}
	r = b.start()
	b.caughtUp(r)
	b.verify("item")
	events := b.all("item")
	slices.SortFunc(events, func(x, y event) int { return x.place(t).compare(y.place(t)) })
	var parts []string
	for _, e := range events {
		if p := e.header("split"); len(parts) == 0 || parts[len(parts)-1] != p {
			parts = append(parts, p)
		}
	}
	var want []string
	for i := range parts {
		want = append(want, fmt.Sprint(i+1))
	}
	want[len(want)-1] += "/last"
	if len(parts) < 4 || !slices.Equal(parts, want) {
		t.Errorf("parts %v, want %v", parts, want)
	}
	r.drain(t)
}

// TestRefuse holds that a start which cannot belong to its checkpoint ends with the right refusal and touches nothing.
func TestRefuse(t *testing.T) {
	pg := testbed.Postgres(t, "")
	other := testbed.Postgres(t, "")
	broker := testbed.Kafka(t)
	drop := func(b *bed) { pg.Exec(testbed.Superuser, `SELECT pg_drop_replication_slot('walferry_`+b.name+`')`) }
	for _, c := range []struct {
		name    string
		kind    checkpoint.RefusalKind
		before  bool // a pipeline ran before
		fenceOK bool // the slot is ours, so a session record may be written
		meddle  func(*bed)
	}{
		{"slot lost", checkpoint.SlotLost, true, true, drop},
		{"slot without checkpoint", checkpoint.SlotWithoutCheckpoint, false, true, func(b *bed) {
			pg.Exec(testbed.Superuser, `SELECT pg_create_logical_replication_slot('walferry_`+b.name+`', 'pgoutput')`)
		}},
		{"slot advanced", checkpoint.SlotAhead, true, true, func(b *bed) {
			pg.Exec(testbed.Superuser, `SELECT pg_replication_slot_advance('walferry_`+b.name+`', pg_current_wal_lsn())`)
		}},
		{"other slot", checkpoint.ForeignSlot, true, false, func(b *bed) {
			b.adjust = func(c *Config) { c.Source.Slot += "_other" }
		}},
		{"other server", checkpoint.ForeignSystem, true, false, func(b *bed) {
			other.Exec(testbed.Owner, `CREATE TABLE t_`+b.name+` (id int PRIMARY KEY)`,
				`CREATE PUBLICATION walferry_`+b.name+` FOR TABLE t_`+b.name)
			b.adjust = func(c *Config) { c.Source.DSN = other.DSN(testbed.Reader) }
		}},
	} {
		t.Run(c.name, func(t *testing.T) {
			b := newBed(t, pg, broker, "refuse_"+strings.ReplaceAll(c.name, " ", "_"))
			table := "t_" + b.name
			ledger(b, table)
			insert := `INSERT INTO ` + table + ` SELECT g FROM generate_series((SELECT count(*) + 1 FROM ` + table + `), (SELECT count(*) + 10 FROM ` + table + `)) g`
			if c.before {
				r := b.start()
				r.first(t)
				pg.Exec(testbed.Owner, insert)
				b.caughtUp(r)
				r.drain(t)
			}
			pg.Exec(testbed.Owner, insert)
			c.meddle(b)
			topics := []string{b.name + ".public." + table}
			if !c.fenceOK {
				topics = append(topics, "_walferry."+b.name)
			}
			ends := b.ends(topics...)
			err := b.start().ended(t)
			var refusal *checkpoint.Refusal
			if !errors.As(err, &refusal) || refusal.Kind != c.kind {
				t.Errorf("ended with %v, want the refusal %s", err, c.kind)
			} else if refusal.Hint() == "" {
				t.Error("the refusal names no way on")
			}
			if now := b.ends(topics...); now != ends {
				t.Errorf("topics before\n%s\nand after\n%s", ends, now)
			}
		})
	}
}

// TestStandby has a second instance wait for the slot and take over, while the first one's producer lives on as a zombie.
func TestStandby(t *testing.T) {
	pg := testbed.Postgres(t, "")
	b := newBed(t, pg, testbed.Kafka(t), "standby")
	ledger(b, "item")
	one := b.start()
	one.first(t)
	two := b.start()
	b.await("the second to wait for the slot", two, func() bool {
		two.watcher.mu.Lock()
		defer two.watcher.mu.Unlock()
		return slices.ContainsFunc(two.watcher.endings, func(err error) bool { return is[*source.SlotInUseError](err) })
	})
	pg.Exec(testbed.Owner, `INSERT INTO item SELECT g FROM generate_series(1, 20) g`)
	b.caughtUp(one) // the one that waits disturbs it in nothing
	one.watcher.mu.Lock()
	if len(one.watcher.aborts)+len(one.watcher.endings) > 0 {
		t.Errorf("the first was disturbed: %v %v", one.watcher.aborts, one.watcher.endings)
	}
	one.watcher.mu.Unlock()

	// The first stands still with a sealed batch; its walsender is ended, as by wal_sender_timeout, and the second has the slot.
	held, release := make(chan struct{}), make(chan struct{})
	var once atomic.Bool
	hook(t, func(place string) {
		if place == "before-publish" && once.CompareAndSwap(false, true) {
			close(held)
			<-release
		}
	})
	pg.Exec(testbed.Owner, `UPDATE item SET seq = DEFAULT`)
	within(t, "a sealed batch", held)
	pg.Exec(testbed.Superuser, `SELECT pg_terminate_backend(active_pid) FROM pg_replication_slots WHERE slot_name = 'walferry_standby'`)
	two.first(t)
	close(release)
	b.caughtUp(two)
	pg.Exec(testbed.Owner, `DELETE FROM item WHERE id < 4`)
	b.caughtUp(two)
	b.verify("item")
	one.kill(t)
	two.drain(t)
}
