package pipeline

import (
	"fmt"
	"strings"
	"syscall"
	"testing"
	"time"

	"walferry/internal/backfill"
	"walferry/internal/testbed"
)

const (
	bag     = `CREATE TABLE bag (a int, b text)`
	bagFull = `ALTER TABLE bag REPLICA IDENTITY FULL`
	bags    = `INSERT INTO bag SELECT i % 2, 'old' FROM generate_series(1, 5) i`
)

// forceBag makes a bed with a table without a key and five rows in it.
func forceBag(t *testing.T, pg *testbed.PG, name string, bytes int) *forced {
	f := force(t, pg, name, bytes, "", bag, bagFull, bags, `CREATE TABLE other (id int PRIMARY KEY, v int)`)
	f.publish("bag, other")
	return f
}

// plain makes a name of what has other characters than letters.
func plain(s string) string { return strings.NewReplacer("-", "", " ", "").Replace(s) }

// ops counts the events of a table without a key; of a truncate that of one partition.
func (f *forced) ops(table string) map[string]int {
	f.t.Helper()
	out := map[string]int{}
	for _, e := range f.all(table) {
		if op := e.value["op"].(string); op != "t" || e.Partition == 0 {
			out[op]++
		}
	}
	return out
}

// holdsOps compares them, as "op number".
func (f *forced) holdsOps(table, want string) {
	f.t.Helper()
	var got []string
	ops := f.ops(table)
	for _, op := range []string{"c", "u", "d", "t", "r"} {
		if ops[op] > 0 {
			got = append(got, fmt.Sprintf("%s %d", op, ops[op]))
		}
	}
	if g := strings.Join(got, " "); g != want {
		f.t.Errorf("events of %s: %s, want %s", table, g, want)
	}
}

// reader is the backend of the worker that has its transaction open.
func (f *forced) reader() (pid int32) {
	f.t.Helper()
	return ask[int32](f.bed, `SELECT l.pid FROM pg_locks l JOIN pg_stat_activity a USING (pid)
		WHERE l.relation = 'public.bag'::regclass AND l.mode = 'AccessShareLock' AND a.usename = $1`, testbed.Reader)
}

// TestCopyWithoutKey: what holds up or ends the copy of a table without a key; TestCopyKeyless has the order of its events.
func TestCopyWithoutKey(t *testing.T) {
	pg, name := forcedPG(t, ""), "whole"

	t.Run("no partitions", func(t *testing.T) {
		f := force(t, pg, name+"none", 1<<16, "", `CREATE TABLE bag (a int, b text) PARTITION BY LIST (a)`, bagFull)
		f.publish("bag")
		r := f.start()
		f.state(f.done(r, 1)["bag"], backfill.Done, 1, 0)
		f.sql(`CREATE TABLE bag1 PARTITION OF bag FOR VALUES IN (1)`, `INSERT INTO bag VALUES (1, 'new')`)
		f.delivered(r)
		f.holdsKeyless("bag")
		f.holdsOps("bag", "c 1 t 1")
	})

	// Partitions that come after the look, with their rows.
	t.Run("a partition more", func(t *testing.T) {
		f := force(t, pg, name+"more", 1<<16, "", `CREATE TABLE bag (a int, b text) PARTITION BY LIST (a)`, bagFull, `CREATE TABLE bag1 PARTITION OF bag FOR VALUES IN (1)`,
			`INSERT INTO bag VALUES (1, 'old')`, `CREATE TABLE bag2 (a int, b text)`, `INSERT INTO bag2 VALUES (2, 'old')`)
		f.publish("bag")
		locked := f.hold("whole-locked")
		r := f.start()
		locked.wait()
		f.sql(`ALTER TABLE bag ATTACH PARTITION bag2 FOR VALUES IN (2)`, `CREATE TABLE bag3 PARTITION OF bag FOR VALUES IN (3)`, `INSERT INTO bag VALUES (3, 'new')`)
		locked.release()
		f.state(f.done(r, 1)["bag"], backfill.Done, 1, 3)
		f.holdsKeyless("bag")
	})

	// What holds a copy up holds up none of the table's changes.
	t.Run("waits for an older transaction", func(t *testing.T) {
		f := forceBag(t, pg, name+"fence", 1<<16)
		look := f.hold("copy-look")
		r := f.start()
		look.wait()
		older := f.begin(`INSERT INTO other VALUES (1, 1)`, `INSERT INTO bag VALUES (1, 'older')`)
		look.release()
		f.says(r, "is open since before the copy")
		f.sql(`INSERT INTO bag VALUES (2, 'new')`, `DELETE FROM bag WHERE b = 'old' AND a = 0`)
		f.delivered(r)
		f.holdsOps("bag", "c 1 d 2")
		must(t, older, `COMMIT`)
		f.state(f.done(r, 2)["bag"], backfill.Done, 1, 5)
		f.holdsKeyless("bag")
		f.holdsOps("bag", "c 2 d 2 t 1 r 5")
	})

	// Delivered, and in no snapshot yet.
	t.Run("delivered and not visible", func(t *testing.T) {
		f := forceBag(t, pg, name+"unseen", 1<<16)
		begin := f.hold("whole-begin")
		r := f.start()
		begin.wait()
		f.standby(true)
		defer f.standby(false)
		waits := f.blocked("SyncRep", `INSERT INTO bag VALUES (1, 'new')`)
		f.delivered(r)
		begin.release()
		f.says(r, "is not visible yet")
		f.holdsOps("bag", "c 1")
		f.standby(false)
		f.goes(waits)
		f.state(f.done(r, 2)["bag"], backfill.Done, 1, 6)
		f.holdsKeyless("bag")
		f.holdsOps("bag", "c 1 t 1 r 6")
	})

	// The snapshot sees what the stream has not brought yet: left out, whether rows are read or none.
	for _, x := range []struct {
		name, sql, want string
		rows            int64
	}{
		{"changed", `UPDATE bag SET b = 'new' WHERE a = 0`, "t 1 r 5", 5},
		{"emptied row by row", `DELETE FROM bag`, "t 1", 0},
		{"emptied", `TRUNCATE bag`, "t 1", 0},
	} {
		t.Run("visible and not delivered: "+x.name, func(t *testing.T) {
			f := forceBag(t, pg, name+"ahead"+plain(x.name), 1<<16)
			sluice := f.throughSluice()
			begin, read := f.hold("whole-begin"), f.hold("whole-read")
			r := f.start()
			begin.wait()
			sluice.close()
			f.sql(x.sql)
			begin.release()
			read.wait()
			read.release()
			n := f.times("chunk-waits")
			f.await("the end of the rows to be waited with", r, func() bool { return f.times("chunk-waits") > n+3 })
			if c := f.copies(t.Context())["bag"]; c.State.Over() {
				t.Errorf("it has ended before the stream has come as far: %+v", c)
			}
			sluice.open()
			f.state(f.done(r, 2)["bag"], backfill.Done, 1, x.rows)
			f.holdsKeyless("bag")
			f.holdsOps("bag", x.want)
		})
	}

	// Broken off when some of its rows have their place: all of it anew, behind another truncate event.
	t.Run("connection lost", func(t *testing.T) {
		f := forceBag(t, pg, name+"lost", 30)
		piece := f.hold("whole-piece")
		r := f.start()
		piece.wait()
		f.delivered(r)
		f.pg.Exec(testbed.Superuser, fmt.Sprintf(`SELECT pg_terminate_backend(%d, 60000)`, f.reader()))
		f.sql(`UPDATE bag SET b = 'new' WHERE a = 0`)
		piece.release()
		f.state(f.done(r, 2)["bag"], backfill.Done, 2, 5)
		f.holdsKeyless("bag")
		if n := f.ops("bag")["t"]; n != 2 {
			t.Errorf("%d truncate events", n)
		}
	})

	// Killed before the stream has brought what the snapshot sees.
	for _, place := range []string{"whole-read", "after-commit"} {
		t.Run("killed: "+place, func(t *testing.T) {
			f := forceBag(t, pg, name+"kill"+plain(place), 30)
			locked := f.hold("whole-locked")
			r := f.start()
			locked.wait()
			held := f.hold(place)
			f.sql(`UPDATE bag SET b = 'new' WHERE a = 0`)
			locked.release()
			held.kill(r)
			f.sql(`INSERT INTO bag VALUES (3, 'later')`)
			r = f.start()
			c := f.done(r, 2)["bag"]
			f.state(c, backfill.Done, c.Generation, 6)
			f.holdsKeyless("bag")
		})
	}

	// Until the stream has come by the place where the table was looked at there is no snapshot, and one version of the table behind the
	// other in the topic.
	t.Run("altered while the stream is behind", func(t *testing.T) {
		f := forceBag(t, pg, name+"behind", 1<<16)
		sluice := f.throughSluice()
		f.also(func(c *Config) { c.Copy.small.lag = 200 * time.Millisecond })
		listed := f.hold("copy-look")
		r := f.start()
		listed.wait()
		sluice.close()
		f.sql(`INSERT INTO bag VALUES (1, 'new')`, `ALTER TABLE bag DROP b`, `ALTER TABLE bag ADD b text DEFAULT 'added'`, `INSERT INTO bag VALUES (2)`)
		listed.release()
		f.says(r, "the stream is behind")
		f.holdsOps("bag", "")
		sluice.open()
		f.state(f.done(r, 2)["bag"], backfill.Done, 1, 7)
		f.holdsKeyless("bag")
		f.holdsOps("bag", "c 2 t 1 r 7")
	})

	// A server that does not answer: the stream goes on.
	t.Run("no snapshot comes", func(t *testing.T) {
		f := forceBag(t, pg, name+"slow", 1<<16)
		f.also(func(c *Config) { c.Copy.small.taking = 100 * time.Millisecond })
		locked := f.hold("whole-locked")
		r := f.start()
		locked.wait()
		pid := int(f.reader())
		if err := syscall.Kill(pid, syscall.SIGSTOP); err != nil {
			t.Fatal(err)
		}
		defer func() { _ = syscall.Kill(pid, syscall.SIGCONT) }() // it may have ended
		locked.release()
		f.says(r, "has taken no snapshot in time")
		f.sql(`INSERT INTO bag VALUES (1, 'new')`)
		f.delivered(r)
		f.state(f.done(r, 2)["bag"], backfill.Done, 1, 6)
		f.holdsKeyless("bag")
		f.holdsOps("bag", "c 1 t 1 r 6")
	})

	// A row that cannot be published: one generation, until somebody says that it is mended.
	t.Run("a row that cannot be published", func(t *testing.T) {
		f := force(t, pg, name+"row", 1<<16, "", `CREATE TABLE bag (a numeric(8,2), b text)`, bagFull,
			`INSERT INTO bag VALUES (1, 'old'), ('NaN', 'old')`, `CREATE TABLE other (id int PRIMARY KEY, v int)`)
		f.publish("bag, other")
		r := f.start()
		f.isSaved(r, "bag", "paused 1 1")
		f.says(r, "walferry backfill resume public.bag")
		f.sql(`ALTER TABLE bag ALTER a TYPE numeric(8,2) USING nullif(a, 'NaN')`, `INSERT INTO bag VALUES (2, 'new')`) // an update would come with the row
		f.delivered(r)
		f.holdsOps("bag", "c 1 t 1 r 1")
		f.asks(r, BackfillCommand{Do: BackfillResume, All: true}, "public.bag 1 waiting")
		f.state(f.done(r, 2)["bag"], backfill.Done, 2, 3)
		f.holdsOps("bag", "c 1 t 2 r 4")
	})

	// Row-level security is found before the truncate event.
	t.Run("rows that are hidden from us", func(t *testing.T) {
		f := forceBag(t, pg, name+"hidden", 1<<16)
		f.sql(`ALTER TABLE bag ENABLE ROW LEVEL SECURITY`, `CREATE POLICY p ON bag USING (a = 0)`)
		r := f.start()
		f.says(r, "row-level security hides rows")
		f.sql(`INSERT INTO bag VALUES (1, 'new')`)
		f.delivered(r)
		f.holdsOps("bag", "c 1")
		f.sql(`ALTER TABLE bag DISABLE ROW LEVEL SECURITY`)
		f.state(f.done(r, 2)["bag"], backfill.Done, 1, 6)
		f.holdsKeyless("bag")
	})

	// Paused, cancelled and started anew, before the snapshot and behind it.
	for _, x := range []struct {
		place      string
		generation uint32
		note       bool
	}{{"whole-locked", 1, false}, {"whole-piece", 2, true}} {
		t.Run("paused at "+x.place, func(t *testing.T) {
			f := forceBag(t, pg, name+"pause"+plain(x.place), 30)
			held := f.hold(x.place)
			r := f.start()
			held.wait()
			f.delivered(r)
			a := f.asks(r, BackfillCommand{Do: BackfillPause, Tables: []string{"public.bag"}}, "public.bag 1 paused")
			if (a[0].Note != "") != x.note {
				t.Errorf("note %q", a[0].Note)
			}
			held.release()
			f.await("our transaction to end", r, func() bool {
				return ask[bool](f.bed, `SELECT count(*) = 0 FROM pg_locks WHERE relation = 'public.bag'::regclass`)
			})
			f.sql(`UPDATE bag SET b = 'new' WHERE a = 0`, `INSERT INTO bag VALUES (3, 'new')`)
			f.delivered(r)
			if ops := f.ops("bag"); ops["u"] != 2 || ops["c"] != 1 {
				t.Errorf("while it is paused: %v", ops)
			}
			f.asks(r, BackfillCommand{Do: BackfillResume, Tables: []string{"public.bag"}}, "public.bag 1 waiting")
			f.state(f.done(r, 2)["bag"], backfill.Done, x.generation, 6)
			f.holdsKeyless("bag")
		})
		t.Run("cancelled at "+x.place, func(t *testing.T) {
			f := forceBag(t, pg, name+"cancel"+plain(x.place), 30)
			held := f.hold(x.place)
			r := f.start()
			held.wait()
			f.delivered(r)
			a := f.asks(r, BackfillCommand{Do: BackfillCancel, Tables: []string{"public.bag"}}, "public.bag 1 cancelled")
			if (a[0].Note != "") != x.note {
				t.Errorf("note %q", a[0].Note)
			}
			held.release()
			f.sql(`INSERT INTO bag VALUES (3, 'new')`)
			f.delivered(r)
			if ops := f.ops("bag"); ops["c"] != 1 || !x.note && len(ops) != 1 {
				t.Errorf("when it is cancelled: %v", ops)
			}
			f.asks(r, BackfillCommand{Do: BackfillStart, Tables: []string{"public.bag"}}, "public.bag 2 waiting")
			f.isSaved(r, "bag", "done 2 6")
			f.delivered(r)
			f.holdsKeyless("bag")
		})
	}
}
