package pipeline

import (
	"errors"
	"strings"
	"testing"
	"time"

	"walferry/internal/testbed"
	"walferry/source"
)

// TestPublicationWatch: what changes in the database while a pipeline runs, and what it says about it.
func TestPublicationWatch(t *testing.T) {
	pg := testbed.Postgres(t, "", "autovacuum=off")
	b := newBed(t, pg, testbed.Kafka(t), "watch")
	b.adjust = func(c *Config) { c.Watch = 50 * time.Millisecond }
	// says waits for lines with all these words.
	var said string
	says := func(r *running, words ...string) {
		t.Helper()
		b.await("a line with "+strings.Join(words, ", "), r, func() bool {
			said += b.logged.take()
			for line := range strings.Lines(said) {
				all := true
				for _, w := range words {
					all = all && strings.Contains(line, w)
				}
				if all {
					return true
				}
			}
			return false
		})
	}
	// rounds waits until the watch has looked twice from beginning to end.
	rounds := func(r *running) {
		t.Helper()
		for range 3 { // the first may have begun before
			r.watcher.mu.Lock()
			n := r.watcher.looks
			r.watcher.mu.Unlock()
			b.await("a look", r, func() bool {
				r.watcher.mu.Lock()
				defer r.watcher.mu.Unlock()
				return r.watcher.looks > n
			})
		}
		said += b.logged.take()
	}
	count := func(what string) int { return strings.Count(said, what) }

	// A first start.
	pg.Exec(testbed.Owner,
		`CREATE TABLE known (id int PRIMARY KEY)`, `INSERT INTO known SELECT generate_series(1, 10)`, `ANALYZE known`,
		`CREATE TABLE fresh (id int PRIMARY KEY)`, `INSERT INTO fresh VALUES (1)`,
		`CREATE TABLE hidden (id int PRIMARY KEY)`, `INSERT INTO hidden VALUES (1)`, `REVOKE SELECT ON hidden FROM `+testbed.Reader,
		`CREATE TABLE parted (id int PRIMARY KEY) PARTITION BY RANGE (id)`, `CREATE TABLE parted_1 PARTITION OF parted FOR VALUES FROM (0) TO (99)`,
		`INSERT INTO parted SELECT generate_series(1, 7)`, `ANALYZE parted_1`,
		`CREATE TABLE empty (id int PRIMARY KEY)`, `CREATE TABLE emptied (id int PRIMARY KEY)`, `INSERT INTO emptied VALUES (1)`, `ANALYZE emptied`, `TRUNCATE emptied`,
		`CREATE TABLE dead (id int PRIMARY KEY)`, `INSERT INTO dead VALUES (1)`, `DELETE FROM dead`,
		`CREATE TABLE keyless (id int)`, `CREATE TABLE late (id int PRIMARY KEY)`, `INSERT INTO late VALUES (1)`)
	b.publish("known, fresh, hidden, parted, empty, emptied, dead, keyless")
	const notCopied = "already are not copied"
	r := b.start()
	says(r, notCopied, "known", "about 10 rows")
	says(r, notCopied, "parted", "about 7 rows")
	says(r, notCopied, "fresh", "unknown number of rows")
	says(r, notCopied, "hidden", "unknown number of rows")
	says(r, "keyless", "updates and deletes on it fail", "ADD PRIMARY KEY")
	rounds(r)
	if n := count(notCopied); n != 4 {
		t.Errorf("%d lines of tables that are not copied, want 4:\n%s", n, said)
	}
	if n := count("updates and deletes on it fail"); n != 1 {
		t.Errorf("keyless is said %d times:\n%s", n, said)
	}
	// One more that the publication's owner adds.
	pg.Exec(testbed.Owner, `ALTER PUBLICATION walferry_watch ADD TABLE late`)
	says(r, notCopied, `late`)
	// And one that goes.
	pg.Exec(testbed.Owner, `ALTER PUBLICATION walferry_watch DROP TABLE empty`)
	says(r, "somebody took table", "empty")
	pg.Exec(testbed.Owner, `DROP TABLE emptied`)
	says(r, "a captured table was dropped", "emptied")
	r.drain(t)
	said = ""
	b.logged.take()
	r = b.start()
	rounds(r)
	if count(notCopied) > 0 || count("somebody") > 0 {
		t.Errorf("a second start says again:\n%s", said)
	}
	r.drain(t)

	// A role that may change the publication, which is the tables' owner's.
	pg.Exec(testbed.Owner, `ALTER TABLE keyless ADD PRIMARY KEY (id)`)
	pg.Exec(testbed.Superuser, `GRANT `+testbed.Owner+` TO `+testbed.Reader)
	defer b.as(func(c *Config) {
		c.Source.CreatePublication, c.Source.AllTables, c.Source.Tables = true, false, []string{"public.*", "public.nosuch"}
	})()
	said = ""
	b.logged.take()
	r = b.start()
	says(r, "a configured table does not exist", "nosuch")
	rounds(r)
	pg.Exec(testbed.Owner, `CREATE TABLE made (id int PRIMARY KEY)`)
	says(r, "publication changed", `made`)
	pg.Exec(testbed.Owner, `INSERT INTO made VALUES (1)`)
	b.read("made", 1)
	// The application's updates go on, whatever our patterns say.
	pg.Exec(testbed.Owner, `CREATE TABLE unkeyed (id int)`, `INSERT INTO unkeyed VALUES (1)`)
	says(r, "unkeyed", "captured by a pattern and not added", "ADD PRIMARY KEY")
	pg.Exec(testbed.Owner, `UPDATE unkeyed SET id = 2`, `ALTER TABLE unkeyed ADD PRIMARY KEY (id)`)
	says(r, "publication changed", "unkeyed")
	says(r, notCopied, "unkeyed")
	pg.Exec(testbed.Owner, `DROP TABLE made`, `CREATE TABLE made (id int PRIMARY KEY)`, `INSERT INTO made VALUES (2)`)
	says(r, "made", "was dropped and created again")
	rounds(r)
	pg.Exec(testbed.Owner, `INSERT INTO made VALUES (3)`)
	b.read("made", 2)
	pg.Exec(testbed.Owner, `ALTER PUBLICATION walferry_watch DROP TABLE made`)
	says(r, "somebody took table", "made")
	rounds(r)
	pg.Exec(testbed.Owner, `INSERT INTO made VALUES (4)`)
	b.read("made", 3)
	if n := count("a configured table does not exist"); n != 1 {
		t.Errorf("the missing table is said %d times", n)
	}

	// A look that hangs delays nothing.
	owner := pg.Connect(testbed.Superuser)
	must(t, owner, `BEGIN`)
	must(t, owner, `LOCK TABLE pg_publication_rel IN ACCESS EXCLUSIVE MODE`)
	r.commit(t, 3) // heartbeats
	must(t, owner, `ROLLBACK`)

	// The slot comes to its limit while the pipeline stands still, and is lost with the next checkpoint.
	held := make(chan struct{})
	hook(t, func(place string) {
		if place == "before-publish" {
			<-held
		}
	})
	pg.Exec(testbed.Superuser, `ALTER SYSTEM SET max_slot_wal_keep_size = '16MB'`, `SELECT pg_reload_conf()`)
	for range 5 {
		pg.Exec(testbed.Superuser, `SELECT pg_logical_emit_message(false, 'wal', 'x'), pg_switch_wal()`)
	}
	says(r, "max_slot_wal_keep_size", "next checkpoint")
	if slot := r.Health().Slot; slot.WALStatus != "unreserved" || slot.RetainedBytes < 48<<20 {
		t.Errorf("observed %+v", slot)
	}
	pg.Exec(testbed.Superuser, `CHECKPOINT`)
	var lost *source.SlotLostError
	close(held) // whatever it publishes now, nothing more can be read
	err := r.ended(t)
	if !errors.As(err, &lost) || !strings.Contains(lost.Hint(), "walferry recover") {
		t.Errorf("ended with %v", err)
	}
}
