package pipeline

import (
	"fmt"
	"strings"
	"testing"

	"walferry/internal/backfill"
	"walferry/internal/testbed"
)

// Each of these forces one interleaving of a copy with what others do, and holds the events of each key in their order.

const item = `CREATE TABLE item (id int PRIMARY KEY, v int)`
const items = `INSERT INTO item SELECT i, 0 FROM generate_series(1, 3) i`

// TestCopyWindow: changes at each place of a chunk's window, which begins with noting and ends where its rows are placed.
func TestCopyWindow(t *testing.T) {
	for _, version := range testbed.PostgresVersions() {
		t.Run(version, func(t *testing.T) { copyWindow(t, forcedPG(t, version), "window"+version) })
	}
}

func copyWindow(t *testing.T, pg *testbed.PG, name string) {
	// In progress at S, of which nothing can be seen: what becomes of the row depends on where its transaction commits.
	t.Run("open at S", func(t *testing.T) {
		f := force(t, pg, name+"open", 1<<16, "item", item, items)
		begin, snapshot, read := f.hold("chunk-begin"), f.hold("chunk-snapshot"), f.hold("chunk-read")
		r := f.start()
		begin.wait()
		first, then := f.begin(`UPDATE item SET v = 1 WHERE id = 1`), f.begin(`UPDATE item SET v = 1 WHERE id = 2`)
		begin.release()
		snapshot.wait()
		must(t, first, `COMMIT`) // behind S and H, before the chunk is placed
		snapshot.release()
		read.wait()
		f.delivered(r)
		read.release()
		f.done(r, 1)
		must(t, then, `COMMIT`) // behind the place
		f.delivered(r)
		f.tells("item", map[string]string{"1": "u 1", "2": "r 0 first; u 1", "3": "r 0 last"})
	})

	// Not in S, and its commit is before H, since it is in the WAL and delivered and nobody sees it: its standby does not answer.
	t.Run("delivered before S", func(t *testing.T) {
		f := force(t, pg, name+"unseen", 1<<16, "item", item, items)
		f.standby(true)
		defer f.standby(false)
		begin := f.hold("chunk-begin")
		r := f.start()
		begin.wait()
		waits := f.blocked("SyncRep", `UPDATE item SET v = 1 WHERE id = 1`)
		f.delivered(r)
		f.tells("item", map[string]string{"1": "u 1"})
		begin.release()
		f.done(r, 1)
		f.tells("item", map[string]string{"1": "u 1", "2": "r 0 first", "3": "r 0 last"})
		f.standby(false)
		f.goes(waits)
	})

	// The same of a transaction that was delivered before noting began, which therefore knows nothing of it: it is older than the
	// fence, and no snapshot is used that does not see it.
	t.Run("delivered before noting", func(t *testing.T) {
		f := force(t, pg, name+"fence", 1<<16, "item", item, items)
		f.standby(true)
		defer f.standby(false)
		looks := f.hold("copy-look")
		r := f.start()
		looks.wait()
		waits := f.blocked("SyncRep", `UPDATE item SET v = 1 WHERE id = 1`)
		f.delivered(r)
		looks.release()
		f.says(r, "is open since before the copy")
		f.standby(false)
		f.goes(waits)
		f.done(r, 1)
		f.tells("item", map[string]string{"1": "u 1; r 1 first", "2": "r 0 true", "3": "r 0 last"})
	})

	// The same after a restart: what the session before has noted is gone with it.
	t.Run("delivered before a restart", func(t *testing.T) {
		f := force(t, pg, name+"restart", 1<<16, "item", item, items)
		f.standby(true)
		defer f.standby(false)
		begin, read := f.hold("chunk-begin"), f.hold("chunk-read")
		r := f.start()
		begin.wait()
		waits := f.blocked("SyncRep", `UPDATE item SET v = 1 WHERE id = 1`)
		f.delivered(r)
		begin.release()
		read.kill(r)
		f.logged.take()
		r = f.start()
		f.says(r, "is open since before the copy")
		f.tells("item", map[string]string{"1": "u 1"})
		f.standby(false)
		f.goes(waits)
		f.done(r, 1)
		f.tells("item", map[string]string{"1": "u 1; r 1 first", "2": "r 0 true", "3": "r 0 last"})
	})

	// Visible and not yet streamed: what the chunk has read is newer than the stream, and waits for it.
	t.Run("visible before it is delivered", func(t *testing.T) {
		f := force(t, pg, name+"visible", 1<<16, "item", item, items)
		stream := f.throughSluice()
		locked := f.hold("chunk-locked")
		r := f.start()
		locked.wait()
		stream.close()
		f.sql(`UPDATE item SET v = 1 WHERE id = 1`, `DELETE FROM item WHERE id = 2`)
		waits := f.hold("chunk-waits")
		locked.release()
		waits.wait()
		waits.release()
		f.tells("item", nil)
		stream.open()
		f.done(r, 1)
		f.tells("item", map[string]string{"1": "u 1; r 1 first", "2": "d", "3": "r 0 last"})
	})

	// A writer that was open when the table came into the publication: what it wrote before is not on the stream, and no snapshot is
	// used that does not see it.
	t.Run("open across the publication change", func(t *testing.T) {
		f := force(t, pg, name+"writer", 1<<16, "item", item, items, `CREATE TABLE late (id int PRIMARY KEY, v int)`, `INSERT INTO late SELECT i, 0 FROM generate_series(1, 3) i`)
		r := f.start()
		f.done(r, 1)
		open := f.begin(`UPDATE late SET v = 1 WHERE id = 1`, `INSERT INTO late VALUES (4, 1)`)
		prepared := f.begin(`UPDATE late SET v = 1 WHERE id = 2`, `PREPARE TRANSACTION 'late'`)
		f.sql(`ALTER PUBLICATION walferry_` + f.name + ` ADD TABLE late`)
		f.says(r, fmt.Sprintf("the transaction of pid %d", open.PgConn().PID()))
		must(t, open, `UPDATE late SET v = 1 WHERE id = 3`)
		must(t, open, `COMMIT`)
		f.says(r, "prepared transaction 'late'")
		f.delivered(r)
		for _, c := range r.Health().Copies {
			if c.Table == "late" && c.Rows > 0 {
				t.Errorf("%d rows were read before the fence", c.Rows)
			}
		}
		must(t, prepared, `COMMIT PREPARED 'late'`)
		f.done(r, 2)
		f.tells("late", map[string]string{"1": "r 1 first", "2": "r 1 true", "3": "u 1; r 1 true", "4": "r 1 last"})
	})
}

// TestCopyIdle: nobody writes, and the WAL ends at the border of a page. The place that a chunk waits for is behind the head of the next
// one, and what a keepalive says stays before it for ever; a heartbeat brings the chunk there.
func TestCopyIdle(t *testing.T) {
	pg := forcedPG(t, "")
	f := force(t, pg, "idle", 1500, "wide", wide, wides)
	const head = 24 // bytes
	at := func() (n int64) {
		if err := f.conn.QueryRow(t.Context(), `SELECT (pg_current_wal_insert_lsn() - '0/0')::int8 % 8192`).Scan(&n); err != nil {
			t.Fatal(err)
		}
		return n
	}
	begins, reads := []*held{}, []*held{}
	for range 3 {
		begins, reads = append(begins, f.hold("chunk-begin")), append(reads, f.hold("chunk-read"))
	}
	r := f.start()
	met := 0
	for i := range begins {
		begins[i].wait()
		write := func(n int64) { must(t, f.conn, `SELECT pg_logical_emit_message(false, 'fill', repeat('x', $1))`, n) }
		for range 20 {
			before := at()
			write(300)
			after := at()
			if after > before { // in one page: so a message takes 300 less
				write(8192 - after - (after - before - 300))
			}
			if at() == head {
				break
			}
		}
		begins[i].release()
		reads[i].wait()
		if at() == head { // the server writes something by itself now and then
			met++
		}
		reads[i].release()
		f.awaitRows(r, "wide", int64(i)+1)
	}
	if met == 0 {
		t.Error("no chunk was read with the WAL's end at the border of a page")
	}
	f.done(r, 1)
	f.tells("wide", map[string]string{"1": "r p…1000,0 first", "2": "r p…1000,0 true", "3": "r p…1000,0 last"})
}

// TestCopyKeys: rows are read by the replica identity, and of identity full by the primary key; in several ranges.
func TestCopyKeys(t *testing.T) {
	pg := forcedPG(t, "")
	t.Run("index", func(t *testing.T) {
		f := force(t, pg, "keysindex", 1<<16, "item", `CREATE TABLE item (id int PRIMARY KEY, code text NOT NULL, v int)`, `CREATE UNIQUE INDEX code ON item (code)`,
			`ALTER TABLE item REPLICA IDENTITY USING INDEX code`, `INSERT INTO item SELECT i, 'k' || 9 - i, 0 FROM generate_series(1, 5) i`)
		read := f.hold("chunk-read")
		r := f.start()
		read.wait()
		// The primary key is a column like any other; a row that leaves its code, and one that takes it over, are other rows.
		f.sql(`UPDATE item SET id = 11 WHERE code = 'k8'`, `UPDATE item SET code = 'k0' WHERE code = 'k7'`, `INSERT INTO item VALUES (12, 'k7', 1)`, `DELETE FROM item WHERE id = 3`)
		f.delivered(r)
		read.release()
		f.done(r, 1)
		f.tellsBy("item", []string{"code"}, map[string]string{"k8": "u 11,0", "k7": "d; c 12,1", "k0": "c 2,0", "k6": "d", "k5": "r 4,0 last", "k4": "r 5,0 first"})
	})
	t.Run("full", func(t *testing.T) {
		f := force(t, pg, "keysfull", 1<<16, "item", large, largeOut, `ALTER TABLE item REPLICA IDENTITY FULL`, largeRows)
		read := f.hold("chunk-read")
		r := f.start()
		read.wait()
		f.sql(`UPDATE item SET v = 1 WHERE id = 10`, `UPDATE item SET id = 25 WHERE id = 20`, `DELETE FROM item WHERE id = 30`)
		f.delivered(r)
		read.release()
		f.done(r, 1)
		// The old row has its large values, so nothing is left out.
		f.tells("item", map[string]string{"10": "u b…3000,1", "20": "d", "25": "c b…3000,0", "30": "d", "40": "r b…3000,0 last"})
	})
	t.Run("ranges", func(t *testing.T) {
		f := force(t, pg, "keysranges", 1<<16, "item", item, `INSERT INTO item SELECT i, 0 FROM generate_series(1, 4000) i`)
		f.also(func(c *Config) { c.Copy.small.rangeBytes = 64 << 10 })
		begin := f.hold("chunk-begin")
		r := f.start()
		begin.wait()
		f.delivered(r) // the ranges are saved
		ranges := len(f.copies(t.Context())["item"].Ranges)
		if ranges < 3 {
			t.Errorf("%d ranges of a table of 18 pages", ranges)
		}
		read := f.hold("chunk-read")
		begin.release()
		read.wait() // the first range
		f.sql(`UPDATE item SET id = -1 WHERE id = 4000`, `UPDATE item SET id = 4000 WHERE id = 2`, `DELETE FROM item WHERE id = 3`, `INSERT INTO item VALUES (3, 1), (5000, 0)`)
		f.delivered(r)
		read.release()
		f.state(f.done(r, 1)["item"], backfill.Done, 1, 3998)
		got := f.story("item", "id")
		for id, want := range map[string]string{"-1": "c 0", "1": "r 0 first", "2": "d", "3": "d; c 1", "4": "r 0 true", "4000": "d; c 0; r 0 last", "5000": "c 0"} {
			if g := strings.Join(got[id], "; "); g != want {
				t.Errorf("%s: %s, want %s", id, g, want)
			}
		}
		if len(got) != 4002 {
			t.Errorf("%d keys, want 4,002", len(got))
		}
	})
}
