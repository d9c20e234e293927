package pipeline

import (
	"strings"
	"testing"

	"walferry/internal/backfill"
)

// Of wide each row is a chunk of 1,500 bytes.
const wide = `CREATE TABLE wide (id int PRIMARY KEY, v int, pad text)`
const wides = `INSERT INTO wide SELECT i, 0, repeat('p', 1000) FROM generate_series(1, 3) i`

// state holds what became of a table's copy.
func (f *forced) state(c *backfill.Copy, state backfill.State, generation uint32, rows int64) {
	f.t.Helper()
	if c == nil {
		f.t.Error("there is no copy")
	} else if c.State != state || c.Generation != generation || c.Rows != rows {
		f.t.Errorf("the copy is %s in generation %d with %d rows, want %s, %d, %d", c.State, c.Generation, c.Rows, state, generation, rows)
	}
}

// TestCopyAltered: a table that is altered at each place of a copy.
func TestCopyAltered(t *testing.T) {
	pg, name := forcedPG(t, ""), "altered"
	const retype = `ALTER TABLE item ALTER v TYPE text USING 'n' || v` // rewrites it

	// The lock keeps it out between snapshot and COPY: it waits for the chunk, and comes before the chunk's place.
	for _, x := range []struct {
		name, ddl, after string
		want             map[string]string
	}{
		{"type", retype, `UPDATE item SET v = 'm' WHERE id = 1`, map[string]string{"1": "u m; r m first", "2": "r n0 true", "3": "r n0 last"}},
		{"add", `ALTER TABLE item ADD w int DEFAULT 7`, `UPDATE item SET v = 1 WHERE id = 1`, map[string]string{"1": "u 1,7; r 1,7 first", "2": "r 0,7 true", "3": "r 0,7 last"}},
		{"remove", `ALTER TABLE item DROP v`, `UPDATE item SET id = 4 WHERE id = 1`, map[string]string{"1": "d", "2": "r  first", "3": "r  last", "4": "c "}},
		{"truncate", `TRUNCATE item`, `INSERT INTO item VALUES (2, 1)`, map[string]string{"": "t; t; t", "2": "c 1"}},
		{"drop", `DROP TABLE item`, ``, map[string]string{"1": "r 0 first", "2": "r 0 true", "3": "r 0 last"}},
		{"unheard", retype, ``, map[string]string{"1": "r 0 first", "2": "r 0 true", "3": "r 0 last"}},
	} {
		t.Run("between snapshot and COPY: "+x.name, func(t *testing.T) {
			f := force(t, pg, name+"inside"+x.name, 1<<16, "item", item, items)
			snapshot, read := f.hold("chunk-snapshot"), f.hold("chunk-read")
			r := f.start()
			snapshot.wait()
			waits := f.blocked("Lock", x.ddl)
			snapshot.release()
			f.goes(waits)
			if x.after != "" {
				f.sql(x.after)
			}
			read.wait()
			f.delivered(r)
			read.release()
			f.done(r, 1)
			f.tells("item", x.want)
		})
	}

	// Who has the lock first is waited for, and the table is looked at again.
	for _, x := range []struct {
		name, ddl string
		state     backfill.State
		rows      int64
		want      map[string]string
	}{
		{"type", retype, backfill.Done, 3, map[string]string{"1": "r n0 first", "2": "r n0 true", "3": "r n0 last"}},
		{"truncate", `TRUNCATE item`, backfill.Done, 0, map[string]string{"": "t; t; t"}},
		{"drop", `DROP TABLE item`, backfill.Uncaptured, 0, nil},
	} {
		t.Run("before the lock: "+x.name, func(t *testing.T) {
			f := force(t, pg, name+"before"+x.name, 1<<16, "item", item, items)
			begin := f.hold("chunk-begin")
			r := f.start()
			begin.wait()
			altering := f.begin(x.ddl)
			begin.release()
			f.says(r, "canceling statement due to lock timeout")
			must(t, altering, `COMMIT`)
			f.state(f.done(r, 1)["item"], x.state, 1, x.rows)
			f.tells("item", x.want)
		})
	}

	// Between two chunks: what has its place stays as it was.
	for _, x := range []struct {
		name, ddl string
		state     backfill.State
		rows      int64
		want      map[string]string
	}{
		{"type", `ALTER TABLE wide ALTER v TYPE text USING 'n' || v`, backfill.Done, 3, map[string]string{"1": "r p…1000,0 first", "2": "r p…1000,n0 true", "3": "r p…1000,n0 last"}},
		{"add", `ALTER TABLE wide ADD w int DEFAULT 7`, backfill.Done, 3, map[string]string{"1": "r p…1000,0 first", "2": "r p…1000,0,7 true", "3": "r p…1000,0,7 last"}},
		{"remove", `ALTER TABLE wide DROP v`, backfill.Done, 3, map[string]string{"1": "r p…1000,0 first", "2": "r p…1000 true", "3": "r p…1000 last"}},
		{"rename", `ALTER TABLE wide RENAME v TO w`, backfill.Done, 3, map[string]string{"1": "r p…1000,0 first", "2": "r p…1000,0 true", "3": "r p…1000,0 last"}},
		{"truncate", `TRUNCATE wide`, backfill.Done, 1, map[string]string{"1": "r p…1000,0 first", "": "t; t; t"}},
		{"drop", `DROP TABLE wide`, backfill.Uncaptured, 1, map[string]string{"1": "r p…1000,0 first"}},
		{"made again", `DROP TABLE wide; CREATE TABLE wide (id int PRIMARY KEY, v int, pad text); INSERT INTO wide VALUES (1, 9)`, backfill.Uncaptured, 1, map[string]string{"1": "r p…1000,0 first"}},
		{"type of the key", `ALTER TABLE wide ALTER id TYPE bigint`, backfill.Done, 3, map[string]string{"1": "r p…1000,0 first; r p…1000,0 first_in_data_collection", "2": "r p…1000,0 true", "3": "r p…1000,0 last"}},
	} {
		t.Run("between chunks: "+x.name, func(t *testing.T) {
			f := force(t, pg, name+"between"+strings.ReplaceAll(x.name, " ", ""), 1500, "wide", wide, wides)
			r, second := f.between()
			f.sql(x.ddl)
			second.release()
			generation := uint32(1)
			if x.name == "type of the key" {
				generation = 2
			}
			f.state(f.done(r, 1)["wide"], x.state, generation, x.rows)
			f.tells("wide", x.want)
		})
	}

	// Another key, or another replica identity: the copy begins anew, whatever of it the stream says first.
	for _, x := range []struct {
		name       string
		key        []string
		ddl, after []string
		generation uint32
		rows       int64
		want       map[string]string
	}{
		// A delete does not say the old key any more.
		{"another index", []string{"code", "id"}, []string{`ALTER TABLE item ADD code text; UPDATE item SET code = 'k' || id; ALTER TABLE item ALTER code SET NOT NULL;
			CREATE UNIQUE INDEX code ON item (code); ALTER TABLE item REPLICA IDENTITY USING INDEX code`},
			[]string{`DELETE FROM item WHERE id = 3`, `UPDATE item SET id = 9 WHERE id = 1`}, 2, 2,
			map[string]string{"1": "u k1,0", "2": "u k2,0", "3": "u k3,0", "k1": "u 9,0; r 9,0 first", "k2": "r 2,0 last", "k3": "d"}},
		{"full", []string{"id"}, []string{`ALTER TABLE item REPLICA IDENTITY FULL`}, []string{`DELETE FROM item WHERE id = 3`, `UPDATE item SET id = 9 WHERE id = 1`}, 1, 1,
			map[string]string{"1": "d", "2": "r 0 last", "3": "d", "9": "c 0"}},
		{"no key", nil, []string{`ALTER TABLE item DROP CONSTRAINT item_pkey`}, []string{`INSERT INTO item VALUES (4, 0)`}, 2, 4,
			map[string]string{"": "c 4,0; t; t; t; r 1,0 first; r 2,0 true; r 3,0 true; r 4,0 last"}},
		{"another key", []string{"id", "v"}, []string{`ALTER TABLE item DROP CONSTRAINT item_pkey, ADD PRIMARY KEY (v, id)`}, []string{`DELETE FROM item WHERE id = 3`}, 2, 2,
			map[string]string{"1,0": "r  first", "2,0": "r  last", "3,0": "d"}},
	} {
		t.Run("identity: "+x.name, func(t *testing.T) {
			f := force(t, pg, name+"identity"+strings.ReplaceAll(x.name, " ", ""), 1<<16, "item", item, items)
			read, look := f.hold("chunk-read"), f.hold("copy-look")
			r := f.start()
			look.wait()
			look.release()
			read.wait()
			look = f.hold("copy-look")
			f.sql(x.ddl...)
			f.sql(x.after...)
			f.delivered(r)
			read.release()
			look.wait()
			look.release()
			f.state(f.done(r, 1)["item"], backfill.Done, x.generation, x.rows)
			f.tellsBy("item", x.key, x.want)
		})
	}
	t.Run("identity: a first key", func(t *testing.T) {
		f := force(t, pg, name+"firstkey", 1<<16, "keyless", keyless, keylessRows)
		locked := f.hold("whole-begin")
		r := f.start()
		locked.wait()
		f.sql(`ALTER TABLE keyless ADD PRIMARY KEY (a)`)
		locked.release()
		f.state(f.done(r, 1)["keyless"], backfill.Done, 1, 3)
		f.tellsBy("keyless", []string{"a"}, map[string]string{"1": "r  first", "2": "r  true", "3": "r  last"})
	})
}
