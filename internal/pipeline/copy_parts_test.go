package pipeline

import (
	"strings"
	"testing"

	"walferry/internal/backfill"
	"walferry/internal/testbed"
)

// TestCopyParts: partitions that come and go while their table is copied, and rows that change theirs.
func TestCopyParts(t *testing.T) {
	pg, name := forcedPG(t, ""), "parts"
	root := []string{
		`CREATE TABLE root (id int, at int, v int, PRIMARY KEY (id, at)) PARTITION BY RANGE (at)`,
		`CREATE TABLE leaf1 PARTITION OF root FOR VALUES FROM (0) TO (10)`, `CREATE TABLE leaf2 PARTITION OF root FOR VALUES FROM (10) TO (20)`,
		`CREATE TABLE leaf3 PARTITION OF root FOR VALUES FROM (20) TO (30)`,
		`INSERT INTO root VALUES (1, 1, 0), (2, 12, 0), (3, 23, 0)`,
	}
	for _, x := range []struct {
		name string
		ddl  []string
		rows int64
		want map[string]string
	}{
		{"detached", []string{`ALTER TABLE root DETACH PARTITION leaf2`, `UPDATE leaf2 SET v = 1`}, 2, map[string]string{"1,1": "r 0 first", "3,23": "r 0 last"}},
		{"detached concurrently", []string{`ALTER TABLE root DETACH PARTITION leaf2 CONCURRENTLY`, `UPDATE leaf2 SET v = 1`}, 2, map[string]string{"1,1": "r 0 first", "3,23": "r 0 last"}},
		{"dropped", []string{`DROP TABLE leaf3`, `DROP TABLE leaf2`}, 1, map[string]string{"1,1": "r 0 first"}},
		{"attached", []string{`CREATE TABLE leaf4 (id int NOT NULL, at int NOT NULL, v int, PRIMARY KEY (id, at))`, `INSERT INTO leaf4 VALUES (4, 34, 0), (5, 35, 0)`,
			`ALTER TABLE root ATTACH PARTITION leaf4 FOR VALUES FROM (30) TO (40)`, `UPDATE root SET v = 1 WHERE id = 4`}, 5,
			map[string]string{"1,1": "r 0 first", "2,12": "r 0 true", "3,23": "r 0 true", "4,34": "u 1; r 1 true", "5,35": "r 0 last"}},
		{"made", []string{`CREATE TABLE leaf4 PARTITION OF root FOR VALUES FROM (30) TO (40)`, `INSERT INTO root VALUES (4, 34, 0)`}, 4,
			map[string]string{"1,1": "r 0 first", "2,12": "r 0 true", "3,23": "r 0 true", "4,34": "c 0; r 0 last"}},
		// A row that changes its partition comes as a delete and an insert, with all its values.
		{"moved back", []string{`UPDATE root SET at = 2 WHERE id = 2`}, 2, map[string]string{"1,1": "r 0 first", "2,12": "d", "2,2": "c 0", "3,23": "r 0 last"}},
		{"moved on", []string{`UPDATE root SET at = 13 WHERE id = 1`}, 4, map[string]string{"1,1": "r 0 first; d", "1,13": "c 0; r 0 true", "2,12": "r 0 true", "3,23": "r 0 last"}},
		{"truncated", []string{`TRUNCATE root`}, 1, map[string]string{"1,1": "r 0 first", "": "t; t; t"}},
	} {
		t.Run(x.name, func(t *testing.T) {
			f := force(t, pg, name+strings.ReplaceAll(x.name, " ", ""), 1<<16, "root", root...)
			r, held := f.between() // the chunk of the first leaf and that of the second
			f.sql(x.ddl...)
			f.delivered(r)
			held.release()
			f.state(f.done(r, 1)["root"], backfill.Done, 1, x.rows)
			f.tells("root", x.want)
		})
	}

	// A partitioned table may have no partition.
	t.Run("none", func(t *testing.T) {
		f := force(t, pg, name+"none", 1<<16, "root, keyless", `CREATE TABLE root (id int, at int, PRIMARY KEY (id, at)) PARTITION BY RANGE (at)`,
			`CREATE TABLE keyless (a int) PARTITION BY RANGE (a)`)
		r := f.start()
		copies := f.done(r, 2)
		f.state(copies["root"], backfill.Done, 1, 0)
		f.state(copies["keyless"], backfill.Done, 1, 0)
		f.tells("root", nil)
		f.tells("keyless", map[string]string{"": "t; t; t"})
	})

	t.Run("without a key", func(t *testing.T) {
		f := force(t, pg, name+"keyless", 1<<16, "keyless", `CREATE TABLE keyless (a int) PARTITION BY RANGE (a)`,
			`CREATE TABLE leaf1 PARTITION OF keyless FOR VALUES FROM (0) TO (10)`, `CREATE TABLE leaf2 PARTITION OF keyless FOR VALUES FROM (10) TO (20)`,
			`CREATE TABLE leaf3 PARTITION OF keyless FOR VALUES FROM (20) TO (30)`, `CREATE TABLE leaf4 PARTITION OF keyless FOR VALUES FROM (30) TO (40)`,
			`INSERT INTO keyless VALUES (1), (11), (31)`, `CREATE TABLE leaf5 (a int)`, `INSERT INTO leaf5 VALUES (41)`)
		begin := f.hold("whole-begin")
		r := f.start()
		begin.wait()
		f.sql(`ALTER TABLE keyless ATTACH PARTITION leaf5 FOR VALUES FROM (40) TO (50)`, `ALTER TABLE keyless DETACH PARTITION leaf2`)
		begin.release()
		if c := f.done(r, 1)["keyless"]; c.State != backfill.Done || c.Rows != 3 {
			t.Errorf("the copy: %+v", c)
		}
		f.tells("keyless", map[string]string{"": "t; t; t; r 1 first; r 31 true; r 41 last"})
	})
}

// TestCopyPublished: a copy reads what the publication publishes, no more and no less.
func TestCopyPublished(t *testing.T) {
	for _, version := range testbed.PostgresVersions() {
		t.Run(version, func(t *testing.T) { copyPublished(t, forcedPG(t, version), "published"+version, version) })
	}
}

func copyPublished(t *testing.T, pg *testbed.PG, name, version string) {
	t.Run("generated", func(t *testing.T) {
		f := force(t, pg, name+"generated", 1<<16, "item", `CREATE TABLE item (id int PRIMARY KEY, v int, w int GENERATED ALWAYS AS (v + 7) STORED)`,
			`INSERT INTO item VALUES (1, 0), (2, 0)`)
		want := map[string]string{"1": "r 0 first", "2": "r 0 last; u 1"}
		if version == "18" {
			f.sql(`ALTER PUBLICATION walferry_` + f.name + ` SET (publish_generated_columns = stored)`)
			want = map[string]string{"1": "r 0,7 first", "2": "r 0,7 last; u 1,8"}
		}
		r := f.start()
		f.done(r, 1)
		f.sql(`UPDATE item SET v = 1 WHERE id = 2`)
		f.delivered(r)
		f.tells("item", want)
	})

	// Each table of a family is published and copied by itself.
	t.Run("inherited", func(t *testing.T) {
		f := force(t, pg, name+"inherited", 1<<16, "parent", `CREATE TABLE parent (id int PRIMARY KEY, v int)`, `CREATE TABLE child (w int, PRIMARY KEY (id)) INHERITS (parent)`,
			`INSERT INTO parent VALUES (1, 0)`, `INSERT INTO child VALUES (1, 0, 5), (2, 0, 6)`)
		r := f.start()
		f.done(r, 2)
		f.sql(`UPDATE parent SET v = 1 WHERE id = 1`)
		f.delivered(r)
		f.tells("parent", map[string]string{"1": "r 0 last; u 1"})
		f.tells("child", map[string]string{"1": "r 0,5 first; u 1,5", "2": "r 0,6 last_in_data_collection"})
	})

	t.Run("row-level security", func(t *testing.T) {
		f := force(t, pg, name+"rls", 1<<16, "item", item, items, `ALTER TABLE item ENABLE ROW LEVEL SECURITY`, `CREATE POLICY few ON item USING (v = 0 AND id < 3)`)
		r := f.start()
		f.says(r, "ALTER ROLE \\\"walferry\\\" BYPASSRLS")
		f.sql(`UPDATE item SET v = 1 WHERE id = 3`)
		f.delivered(r) // the stream goes on
		f.tells("item", map[string]string{"3": "u 1"})
		f.pg.Exec(testbed.Superuser, `ALTER ROLE `+testbed.Reader+` BYPASSRLS`)
		defer f.pg.Exec(testbed.Superuser, `ALTER ROLE `+testbed.Reader+` NOBYPASSRLS`)
		f.done(r, 1)
		f.tells("item", map[string]string{"1": "r 0 first", "2": "r 0 true", "3": "u 1; r 1 last"})
	})

	if version == "14" {
		return // without filters and lists
	}
	t.Run("filter and columns", func(t *testing.T) {
		f := force(t, pg, name+"filter", 1<<16, "item (id, v) WHERE (v < 5), keyless (a) WHERE (a < 3)", `CREATE TABLE item (id int PRIMARY KEY, v int, secret text)`,
			`ALTER TABLE item REPLICA IDENTITY FULL`, `ALTER TABLE item REPLICA IDENTITY DEFAULT`, `ALTER TABLE item DROP CONSTRAINT item_pkey, ADD PRIMARY KEY (id, v)`,
			`INSERT INTO item SELECT i, i, 'x' FROM generate_series(1, 7) i`, `CREATE TABLE keyless (a int, secret text)`, `INSERT INTO keyless SELECT i, 'x' FROM generate_series(1, 4) i`)
		read := f.hold("chunk-read")
		r := f.start()
		read.wait()
		// Into the filter and out of it.
		f.sql(`UPDATE item SET v = 3 WHERE id = 6`, `UPDATE item SET v = 6 WHERE id = 2`)
		f.delivered(r)
		read.release()
		f.done(r, 2)
		f.tellsBy("item", []string{"id", "v"}, map[string]string{"1,1": "r  first", "2,2": "d", "3,3": "r  true", "4,4": "r  last_in_data_collection", "6,3": "c "})
		f.tells("keyless", map[string]string{"": "t; t; t; r 1 first_in_data_collection; r 2 last"})
	})

	// The publication's list changes without waiting for anybody: a transaction that is delivered and seen by nobody was noted with
	// the columns of before.
	t.Run("columns changed", func(t *testing.T) {
		f := force(t, pg, name+"list", 1<<16, "item", `CREATE TABLE item (id int PRIMARY KEY, v int, w int)`, `INSERT INTO item VALUES (1, 0, 0), (2, 0, 0)`)
		f.standby(true)
		defer f.standby(false)
		begin := f.hold("chunk-begin")
		r := f.start()
		begin.wait()
		waits := f.blocked("SyncRep", `UPDATE item SET v = 1 WHERE id = 1`)
		f.delivered(r)
		f.sql(`ALTER PUBLICATION walferry_`+f.name+` SET TABLE item (id, v)`, `UPDATE item SET v = 2 WHERE id = 2`)
		f.delivered(r)
		begin.release()
		f.says(r, "is open since before the copy")
		f.standby(false)
		f.goes(waits)
		f.done(r, 1)
		f.tells("item", map[string]string{"1": "u 1,0; r 1 first", "2": "u 2; r 2 last"})
	})
}
