package pipeline

import (
	"context"
	"fmt"
	"log/slog"
	"testing"
	"time"

	"walferry/checkpoint"
	"walferry/decode"
	"walferry/internal/backfill"
	"walferry/internal/testbed"
	"walferry/sink"
	"walferry/source"
)

const (
	bigItem  = `CREATE TABLE item (id int PRIMARY KEY, v int, big text)`
	external = `ALTER TABLE item ALTER big SET STORAGE EXTERNAL`
	bigItems = `INSERT INTO item SELECT i, 0, repeat('b', 3000) FROM generate_series(1, 3) i`
)

// TestCopyLeftAlone: rows that come to another key, or into the row filter, without a value that was left alone.
func TestCopyLeftAlone(t *testing.T) {
	pg := forcedPG(t, "18")

	// Of the key (a, b) only a changes, and b is out of line: the stream leaves it out of the new row.
	t.Run("part of the key left alone", func(t *testing.T) {
		f := force(t, pg, "movedpart", 1<<16, "pair", `CREATE TABLE pair (a int, b text, v int, PRIMARY KEY (a, b))`,
			`ALTER TABLE pair ALTER b SET STORAGE EXTERNAL`, `INSERT INTO pair SELECT i, repeat('b', 2500), 0 FROM generate_series(1, 3) i`)
		read := f.hold("chunk-read")
		r := f.start()
		read.wait()
		f.sql(`UPDATE pair SET a = 12 WHERE a = 1`, `DELETE FROM pair WHERE a = 12`, `UPDATE pair SET a = 13 WHERE a = 2`)
		f.delivered(r)
		read.release()
		f.done(r, 1)
		const b = ",b…2500"
		f.tellsBy("pair", []string{"a", "b"}, map[string]string{"1" + b: "d", "2" + b: "d", "3" + b: "r 0 last", "12" + b: "c 0; d", "13" + b: "c 0"})
	})

	t.Run("into the row filter", func(t *testing.T) {
		f := force(t, pg, "movedin", 1<<16, "item WHERE (id < 10)", bigItem, external, bigItems, `INSERT INTO item VALUES (20, 0, repeat('x', 3000))`)
		read := f.hold("chunk-read")
		r := f.start()
		read.wait()
		f.sql(`UPDATE item SET id = 4 WHERE id = 20`)
		f.delivered(r)
		read.release()
		f.done(r, 1)
		f.tells("item", map[string]string{"1": "r b…3000,0 first", "2": "r b…3000,0 true", "3": "r b…3000,0 true", "4": "c ?,0; r x…3000,0 last"})
	})

	// It was read, and has its place, before it left its key and came back.
	t.Run("back to its key", func(t *testing.T) {
		f := force(t, pg, "movedback", 1<<12, "item", bigItem, external, bigItems)
		r, second := f.between()
		f.sql(`UPDATE item SET id = 4 WHERE id = 1`, `UPDATE item SET id = 1 WHERE id = 4`)
		f.delivered(r)
		second.release()
		f.done(r, 1)
		f.tells("item", map[string]string{"1": "r b…3000,0 first; d; c ?,0; r b…3000,0 last", "2": "r b…3000,0 true", "3": "r b…3000,0 true", "4": "c ?,0; d"})
		ids := map[string]bool{}
		for _, e := range f.all("item") {
			if id := e.header("id"); ids[id] {
				t.Errorf("id %s comes twice", id)
			} else {
				ids[id] = true
			}
		}
	})

	// Nobody reads in a drain, but what it publishes moves rows out of the ranges that are to be read.
	t.Run("in a drain", func(t *testing.T) {
		f := force(t, pg, "moveddrain", 1<<12, "item", bigItem, external, bigItems)
		first, second := f.hold("chunk-begin"), f.hold("chunk-begin")
		r := f.start()
		first.wait()
		first.release()
		second.wait()
		f.delivered(r)
		second.kill(r)
		f.sql(`UPDATE item SET id = 4 WHERE id = 3`)
		undo := f.as(func(c *Config) { c.Source.Heartbeat = time.Second })
		f.drainTo()
		undo()
		r = f.start()
		f.done(r, 1)
		f.tells("item", map[string]string{"1": "r b…3000,0 first", "2": "r b…3000,0 true", "3": "d", "4": "c ?,0; r b…3000,0 last"})
	})

	// The key that it came to was saved in binary.
	t.Run("before text mode", func(t *testing.T) {
		f := force(t, pg, "movedtext", 1<<12, "item, odd", bigItem, external, bigItems, `CREATE TABLE odd (id int PRIMARY KEY, a aclitem)`)
		f.also(func(c *Config) { c.Copy.Wanted = func(_, table string) bool { return table == "item" } })
		first, second, stops := f.hold("chunk-begin"), f.hold("chunk-begin"), f.hold("copy-stops")
		r := f.start()
		first.wait()
		first.release()
		second.wait()
		f.sql(`UPDATE item SET id = 4 WHERE id = 3`)
		f.delivered(r)
		f.sql(`INSERT INTO odd VALUES (1, 'walferry=r/app')`)
		stops.wait()
		stops.release()
		second.release()
		f.done(r, 2)
		f.tells("item", map[string]string{"1": "r b…3000,0 first", "2": "r b…3000,0 true", "3": "d", "4": "c ?,0; r b…3000,0 last"})
	})
}

// TestCopyColumns: the published columns are altered while a transaction that changed the table is delivered and seen by nobody.
// Whoever alters a table waits for that one, whoever alters a publication does not.
func TestCopyColumns(t *testing.T) {
	pg := forcedPG(t, "18")
	f := force(t, pg, "published", 1<<16, "item (id, big)", bigItem, external, bigItems)
	f.standby(true)
	defer f.standby(false)
	begin := f.hold("chunk-begin")
	r := f.start()
	begin.wait()
	waits := f.blocked("SyncRep", `UPDATE item SET v = 1 WHERE id = 1`)
	f.delivered(r)
	f.pg.Exec(testbed.Owner, `ALTER PUBLICATION walferry_published SET TABLE item (big, id, v)`)
	begin.release()
	f.says(r, errOtherVersion.Error())
	f.standby(false)
	f.goes(waits)
	f.done(r, 1)
	f.tells("item", map[string]string{"1": "u ?; r b…3000,1 first", "2": "r b…3000,0 true", "3": "r b…3000,0 last"})
}

// TestCopyLabel: a label of an enum has another name when a chunk is to begin behind it.
func TestCopyLabel(t *testing.T) {
	pg := forcedPG(t, "")
	f := force(t, pg, "label", 1500, "item", `CREATE TYPE kind AS ENUM ('a', 'b', 'c')`, `CREATE TABLE item (id kind PRIMARY KEY, v int, pad text)`,
		`INSERT INTO item SELECT k, 0, repeat('p', 1000) FROM unnest(enum_range(NULL::kind)) k`)
	r, second := f.between()
	f.sql(`ALTER TYPE kind RENAME VALUE 'a' TO 'z'`)
	second.release()
	f.state(f.done(r, 1)["item"], backfill.Done, 2, 3)
	f.tells("item", map[string]string{"a": "r p…1000,0 first", "z": "r p…1000,0 first_in_data_collection", "b": "r p…1000,0 true", "c": "r p…1000,0 last"})
}

// TestCopyUnpublished: a table is taken out of the publication and put in again between two looks at it. What was written meanwhile
// is not on the stream, so its rows are copied again. Another row filter makes another entry, too, and no gap.
func TestCopyUnpublished(t *testing.T) {
	pg := forcedPG(t, "18")
	f := force(t, pg, "unpublished", 1<<16, "item", item, items)
	r := f.start()
	f.done(r, 1)
	list := f.hold("copy-list")
	list.wait()
	f.pg.Exec(testbed.Owner, `ALTER PUBLICATION walferry_unpublished DROP TABLE item`, `UPDATE item SET v = 1 WHERE id = 1`,
		`ALTER PUBLICATION walferry_unpublished ADD TABLE item`)
	list.release()
	f.await("the second copy", r, func() bool { return f.copies(t.Context())["item"].Generation == 2 })
	f.state(f.done(r, 1)["item"], backfill.Done, 2, 3)
	list = f.hold("copy-list")
	list.wait()
	f.pg.Exec(testbed.Owner, `ALTER PUBLICATION walferry_unpublished SET TABLE item WHERE (id < 100)`)
	list.release()
	member := f.copies(t.Context())["item"].Member
	f.await("the other entry to be seen", r, func() bool { return f.copies(t.Context())["item"].Member != member })
	f.state(f.done(r, 1)["item"], backfill.Done, 2, 3)
	f.tells("item", map[string]string{"1": "r 0 first; r 1 first", "2": "r 0 true; r 0 true", "3": "r 0 last; r 0 last"})
}

// TestCopyNoKey: an index that is no replica identity, or holds rows without a key, gives none to read by.
func TestCopyNoKey(t *testing.T) {
	pg := forcedPG(t, "18")
	t.Run("deferrable", func(t *testing.T) {
		f := force(t, pg, "deferrable", 1<<16, "item", `CREATE TABLE item (id int PRIMARY KEY DEFERRABLE, v int)`, items)
		r := f.start()
		f.state(f.done(r, 1)["item"], backfill.Done, 1, 3)
		f.sql(`INSERT INTO item VALUES (4, 0)`)
		f.delivered(r)
		f.tellsBy("item", nil, map[string]string{"": "t; t; t; r 1,0 first; r 2,0 true; r 3,0 last; c 4,0"})
	})
	t.Run("null", func(t *testing.T) {
		f := force(t, pg, "null", 1<<16, "item", `CREATE TABLE item (id int UNIQUE, v int)`, items, `INSERT INTO item VALUES (NULL, 0)`,
			`ALTER TABLE item ADD CONSTRAINT filled NOT NULL id NOT VALID`, `ALTER TABLE item REPLICA IDENTITY USING INDEX item_id_key`)
		r := f.start()
		f.says(r, "VALIDATE CONSTRAINT")
		// The stream stops at a change of the row without a key, as without a copy.
		f.sql(`TRUNCATE item`, `ALTER TABLE item VALIDATE CONSTRAINT filled`, items)
		f.state(f.done(r, 1)["item"], backfill.Done, 1, 3)
	})
}

// TestCopyGate: until the server has shown that its history is ours, a copy asks for nothing and has nothing published or saved.
func TestCopyGate(t *testing.T) {
	witness := checkpoint.Witness{Commit: 100, End: 120, XID: 7, CommitTime: time.Unix(1, 0)}
	producer, err := sink.New(nil, sink.Config{TransactionalID: "t"})
	if err != nil {
		t.Fatal(err)
	}
	l := &loop{
		session: &session{Pipeline: new(Pipeline)}, building: &sealed{batch: producer.NewBatch()},
		gate: checkpoint.NewGate(&checkpoint.Checkpoint{State: checkpoint.Live, Witness: witness}, checkpoint.Server{}),
		copy: copier{Copy: Copy{Workers: 1}, jobs: make(chan *copyJob, 1), dirty: true},
	}
	turn := func(open bool) {
		t.Helper()
		if err := l.backfill(context.Background()); err != nil {
			t.Fatal(err)
		}
		if ready, asked := l.ready(), len(l.copy.jobs) > 0; ready != open || asked != open {
			t.Errorf("with the gate open %t: a batch goes out %t, the list of tables is asked for %t", open, ready, asked)
		}
	}
	turn(false)
	if _, err := l.gate.Begin(witness.Commit, witness.XID, witness.CommitTime); err != nil {
		t.Fatal(err)
	}
	if err := l.gate.Commit(witness.Commit, witness.End); err != nil {
		t.Fatal(err)
	}
	turn(true)
}

// TestCopyLongQueue: keys of moved rows that no record of the checkpoint topic could hold.
func TestCopyLongQueue(t *testing.T) {
	var queue []backfill.Key
	for i := range 1000 {
		queue = append(queue, backfill.Key{{Kind: decode.Text, Data: fmt.Appendf(nil, "%01000d", i)}})
	}
	c := &copying{Copy: backfill.Copy{Generation: 1, State: backfill.Copying, Started: now()}, notes: backfill.NewNotes([]int{0}, 1<<20, queue), dirty: true}
	l := &loop{
		session: &session{Pipeline: new(Pipeline), log: slog.New(slog.DiscardHandler)},
		copy:    copier{Copy: Copy{Workers: 1}, tables: []*copying{c}, dirty: true},
	}
	var s sealed
	if err := l.sealCopies(&s); err != nil {
		t.Fatal(err)
	}
	if len(s.copies) != 1 || len(s.copies[0].Payload) > copyRecord || c.Generation != 2 || c.dirty || c.notes != nil {
		t.Errorf("%d bytes are saved of generation %d", len(s.copies[0].Payload), c.Generation)
	}
}

// TestCopyStale: an answer to what was asked before a table was looked at again says nothing of what was asked since.
func TestCopyStale(t *testing.T) {
	now := &copying{epoch: 2, queueing: true}
	l := &loop{copy: copier{Copy: Copy{Workers: 1}, out: 1}}
	if err := l.answered(&copyJob{copying: now, epoch: 1, query: &source.ChunkQuery{}}); err != nil {
		t.Fatal(err)
	}
	if !now.queueing {
		t.Error("the queue would be read twice at a time")
	}
}
