package source

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"walferry/decode"
	"walferry/internal/testbed"
)

// copyTables are tables with keys of every kind of order, and how to fill them from a number i.
var copyTables = []struct{ name, ddl, row string }{
	{"big", `id bigint PRIMARY KEY, v text`, `i * 1000003 % 100019, repeat('x', i % 50)`},
	{"pair", `a text, b uuid, v int, PRIMARY KEY (a, b)`, `'Straße ' || i % 5, md5(i::text)::uuid, i`},
	{"swapped", `v int, b int, a text COLLATE "C", PRIMARY KEY (a, b)`, `i, i % 7, chr(65 + i % 60) || i`},
	{"descending", `a int NOT NULL, b text NOT NULL; CREATE UNIQUE INDEX d ON descending (a DESC, b DESC); ALTER TABLE descending REPLICA IDENTITY USING INDEX d`, `i % 9, 'v' || i`},
	{"nulls", `a int NOT NULL, b text NOT NULL; CREATE UNIQUE INDEX n ON nulls (a NULLS FIRST, b NULLS FIRST); ALTER TABLE nulls REPLICA IDENTITY USING INDEX n`, `i % 9, 'v' || i`},
	{"mixed", `a int NOT NULL, b text NOT NULL, c date NOT NULL, v int; CREATE UNIQUE INDEX m ON mixed (a, b DESC, c); ALTER TABLE mixed REPLICA IDENTITY USING INDEX m`, `i % 3, 'v' || i % 11, date '2020-01-01' + i, i`},
	{"patterns", `a text NOT NULL, b int NOT NULL; CREATE UNIQUE INDEX p ON patterns (a text_pattern_ops, b); ALTER TABLE patterns REPLICA IDENTITY USING INDEX p`, `'é' || i % 13, i`},
	{"numbers", `a numeric PRIMARY KEY, v int`, `CASE i WHEN 1 THEN 'NaN' ELSE i / 7.0 - 3 END, i`},
	{"floats", `a float8 PRIMARY KEY`, `CASE i WHEN 1 THEN 'NaN' WHEN 2 THEN '-Infinity' ELSE i / 3.0 - 10 END`},
	{"times", `a timestamptz, b interval, PRIMARY KEY (a, b)`, `CASE i WHEN 1 THEN 'infinity' WHEN 2 THEN '0044-03-15 BC' ELSE timestamptz '2000-01-01' + i % 4 * interval '1 day' END, i * interval '1 hour 1 microsecond'`},
	{"characters", `a char(9), b "char", c bytea, PRIMARY KEY (a, b, c)`, `'k' || i % 3, chr(65 + i % 26)::"char", decode(md5(i::text), 'hex')`},
	{"moods", `a mood, b bool, c int2[], PRIMARY KEY (a, b, c)`, `(ARRAY['sad','ok','so "so"'])[1 + i % 3]::mood, i % 2 = 0, ARRAY[i, -i]::int2[]`},
	{"domains", `a tag, b inet, c int4range, PRIMARY KEY (a, b, c)`, `'t' || i % 4, '10.0.0.0'::inet + i, int4range(i, i + 3)`},
	{"whole", `a int PRIMARY KEY, v text; ALTER TABLE whole REPLICA IDENTITY FULL`, `i, 'v'`},
	{`"Sömé ""table"""`, `"Sömé ""key""" text PRIMARY KEY, "order" int`, `'it''s \ ' || i, i`},
	{"split_up", `a int, v text, PRIMARY KEY (a)) PARTITION BY RANGE (a); CREATE TABLE split_up_1 PARTITION OF split_up FOR VALUES FROM (0) TO (100);
		CREATE TABLE split_up_2 (v text, gone int, a int NOT NULL); ALTER TABLE split_up_2 DROP gone; ALTER TABLE split_up ATTACH PARTITION split_up_2 FOR VALUES FROM (100) TO (1000`, `i, 'v' || i`},
}

const copyRows = 237

func TestCopyChunks(t *testing.T) {
	for _, version := range testbed.PostgresVersions() {
		t.Run(version, func(t *testing.T) {
			pg := testbed.Postgres(t, version, "max_prepared_transactions=5")
			pg.Exec(testbed.Owner, `CREATE TYPE mood AS ENUM ('sad', 'ok', 'so "so"')`, `CREATE DOMAIN tag AS text COLLATE "C"`)
			pg.Exec(testbed.Superuser, "CREATE PUBLICATION "+pubName+" FOR ALL TABLES WITH (publish_via_partition_root)")
			for _, x := range copyTables {
				ddl := strings.Split(x.ddl, ";")
				ddl[0] = "CREATE TABLE " + x.name + " (" + ddl[0]
				if len(ddl) == 1 || !strings.Contains(ddl[0], "PARTITION BY") {
					ddl[0] += ")"
				} else {
					ddl[len(ddl)-1] += ")"
				}
				pg.Exec(testbed.Owner, append(ddl, fmt.Sprintf("INSERT INTO %s SELECT %s FROM generate_series(1, %d) i", x.name, x.row, copyRows), "ANALYZE "+x.name)...)
			}
			pg.Exec(testbed.Owner, "GRANT SELECT ON ALL TABLES IN SCHEMA public TO "+testbed.Reader)
			for _, text := range []bool{false, true} {
				cfg := config(pg)
				cfg.TextMode = text
				cat := catalog(t, cfg)
				tables, err := cat.Tables(t.Context())
				if err != nil {
					t.Fatal(err)
				}
				conn, err := cat.OpenCopy(t.Context())
				if err != nil {
					t.Fatal(err)
				}
				defer conn.Close()
				if len(tables) != len(copyTables) {
					t.Fatalf("%d tables are published, not %d", len(tables), len(copyTables))
				}
				for i := range tables {
					t.Run(fmt.Sprintf("%s text=%t", tables[i].Name, text), func(t *testing.T) { copyAll(t, cat, conn, &tables[i], pg.Connect(testbed.Owner)) })
				}
			}
			t.Run("relations", func(t *testing.T) { sameRelations(t, pg) })
			t.Run("fence", func(t *testing.T) { fence(t, pg) })
			t.Run("moved names", func(t *testing.T) { copyNames(t, pg) })
			t.Run("filter", func(t *testing.T) { copyFilter(t, pg) })
			t.Run("refusals", func(t *testing.T) { copyRefusals(t, pg) })
		})
	}
}

// copyAll reads a table in small chunks, in one range and in several, and holds that every row came once.
func copyAll(t *testing.T, cat *Catalog, conn *CopyConn, table *Table, owner *pgx.Conn) {
	ct, err := cat.CopyTable(t.Context(), table.OID)
	if err != nil {
		t.Fatal(err)
	}
	if len(ct.Key) == 0 {
		t.Fatal("no key")
	}
	for _, ranges := range []int{1, 4} {
		rows, keys := 0, map[string]bool{}
		all, err := conn.Bounds(t.Context(), ct, 0, 10*time.Second, func(CopyPart) int { return ranges })
		if err != nil {
			t.Fatal(err)
		}
		for i, part := range ct.Parts {
			if ct.CanSplit() && len(all[i]) != ranges && part.Rows >= copyRows {
				t.Errorf("%d bounds of %d ranges", len(all[i]), ranges)
			}
			var from decode.Tuple
			for _, to := range all[i] {
				if ct.CanSplit() != (to != nil) {
					t.Errorf("a range ends at %v", to)
				}
				for after := from; ; {
					q := &ChunkQuery{Table: ct, Part: part.Relation, After: after, To: to, Rows: 10, Bytes: 1 << 20, Timeout: 10 * time.Second}
					c, err := conn.Chunk(t.Context(), q, nil)
					if err != nil {
						t.Fatal(err)
					}
					rows += c.Rows
					for _, k := range chunkKeys(t, ct, conn.kind(), c) {
						if keys[k] {
							t.Fatalf("key %q came twice", k)
						}
						keys[k] = true
					}
					if after != nil {
						explain(t, owner, conn, q)
					}
					if !c.Cut {
						break
					}
					after = c.Last
				}
				from = to
			}
		}
		if rows != copyRows || len(keys) != copyRows {
			t.Errorf("%d rows with %d keys came in %d ranges, not %d", rows, len(keys), ranges, copyRows)
		}
	}
}

// explain holds that a chunk reads what it needs through the index, and sorts nothing.
func explain(t *testing.T, owner *pgx.Conn, conn *CopyConn, q *ChunkQuery) {
	t.Helper()
	after, err := conn.literals(t.Context(), q.Table, q.After)
	if err != nil {
		t.Fatal(err)
	}
	to, err := conn.literals(t.Context(), q.Table, q.To)
	if err != nil {
		t.Fatal(err)
	}
	i := slices.IndexFunc(q.Table.Parts, func(p CopyPart) bool { return p.Relation == q.Part })
	tx, err := owner.Begin(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = tx.Rollback(context.Background()) }()
	if _, err := tx.Exec(t.Context(), "SET LOCAL enable_seqscan = off; SET LOCAL enable_bitmapscan = off"); err != nil {
		t.Fatal(err)
	}
	rows, err := tx.Query(t.Context(), "EXPLAIN "+conn.query(q, "ONLY "+q.Table.Parts[i].Name, after, to, nil))
	if err != nil {
		t.Fatal(err)
	}
	lines, err := pgx.CollectRows(rows, pgx.RowTo[string])
	if err != nil {
		t.Fatal(err)
	}
	plan := strings.Join(lines, "\n")
	// In two directions at once there are pieces to put in order, none longer than the chunk.
	if strings.Contains(plan, "Sort  ") && q.Table.CanSplit() || strings.Contains(plan, "Filter:") || !strings.Contains(plan, "Index Cond:") {
		t.Errorf("a chunk of %s is not read by its index alone:\n%s", q.Table.Relation, plan)
	}
}

func chunkKeys(t *testing.T, ct *CopyTable, kind decode.Kind, c *Chunk) []string {
	t.Helper()
	r := decode.NewCopyReader(slices.Repeat([]decode.Kind{kind}, len(ct.Relation.Columns)), 1<<20)
	r.Feed(c.Data)
	var out []string
	for {
		row, err := r.Next()
		if err != nil {
			t.Fatal(err)
		}
		if row == nil {
			break
		}
		var k []string
		for _, i := range ct.Key {
			k = append(k, string(row[i].Data))
		}
		out = append(out, strings.Join(k, "\x00|"))
	}
	if len(out) != c.Rows {
		t.Fatalf("%d rows in a chunk that says %d", len(out), c.Rows)
	}
	return out
}

// sameRelations holds that a table is described as the stream describes it: both get one schema.
func sameRelations(t *testing.T, pg *testbed.PG) {
	cfg := config(pg)
	createSlot(t, cfg)
	cat := catalog(t, cfg)
	stream := start(t, cfg)
	decoder := decode.NewDecoder()
	for _, x := range copyTables {
		pg.Exec(testbed.Owner, fmt.Sprintf("INSERT INTO %s SELECT %s FROM generate_series(%d, %[3]d) i", x.name, x.row, copyRows+500))
	}
	tables, err := cat.Tables(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	seen := map[uint32]bool{}
	next(t, stream, "row of each table", func(f Frame) bool {
		e, err := decoder.Decode(f.WALStart, f.Payload)
		if err != nil {
			t.Fatal(err)
		}
		if c, ok := e.(*decode.Change); ok {
			seen[c.Relation.ID] = true
		}
		return len(seen) == len(copyTables)
	})
	for i := range tables {
		ct, err := cat.CopyTable(t.Context(), tables[i].OID)
		if err != nil {
			t.Fatal(err)
		}
		if streamed := decoder.Relation(tables[i].OID); !ct.Relation.Equal(streamed) {
			t.Errorf("the catalog gives\n%+v\nand the stream\n%+v", ct.Relation, streamed)
		}
	}
}

// fence holds that no snapshot is taken for usable while a transaction is open that began before the copy, and that it is named.
func fence(t *testing.T, pg *testbed.PG) {
	cfg := config(pg)
	cat := catalog(t, cfg)
	conn, err := cat.OpenCopy(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	ct := copyTable(t, cat, "big")
	chunk := func() error {
		fence, err := conn.Fence(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		_, err = conn.Chunk(t.Context(), &ChunkQuery{Table: ct, Part: ct.Relation.ID, Rows: 1, Bytes: 1 << 20, Timeout: 10 * time.Second, Fence: fence}, nil)
		return err
	}
	if err := chunk(); err != nil {
		t.Fatal(err)
	}
	// Of another database, and one that has written nothing: neither counts.
	other, err := pgx.Connect(t.Context(), pg.Server.DSN("postgres", testbed.Superuser))
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = other.Close(context.Background()) }()
	reader := pg.Connect(testbed.Owner)
	begin(t, other, "SELECT pg_current_xact_id()")
	begin(t, reader, "SELECT 1")
	if err := chunk(); err != nil {
		t.Errorf("a transaction of another database, or one that only reads, holds the copy up: %v", err)
	}
	writer := pg.Connect(testbed.Owner)
	begin(t, writer, "UPDATE whole SET v = 'w' WHERE a = 1")
	var open *FenceError
	if err := chunk(); !errors.As(err, &open) || open.PID != int32(writer.PgConn().PID()) || open.User != testbed.Owner || open.Snapshot.Sees(uint32(open.XID)) {
		t.Errorf("with a writer open: %v, %+v", err, open)
	}
	if _, err := writer.Exec(t.Context(), "PREPARE TRANSACTION 'it''s'"); err != nil {
		t.Fatal(err)
	}
	if err := chunk(); !errors.As(err, &open) || open.Hint() != "COMMIT PREPARED 'it''s', or ROLLBACK PREPARED 'it''s'" {
		t.Errorf("with a prepared transaction: %v, %s", err, Hint(err))
	}
	if _, err := writer.Exec(t.Context(), "ROLLBACK PREPARED 'it''s'"); err != nil {
		t.Fatal(err)
	}
	if err := chunk(); err != nil {
		t.Error(err)
	}
}

func begin(t *testing.T, conn *pgx.Conn, sql string) {
	t.Helper()
	if _, err := conn.Exec(t.Context(), "BEGIN; "+sql); err != nil {
		t.Fatal(err)
	}
}

func copyTable(t *testing.T, cat *Catalog, name string) *CopyTable {
	t.Helper()
	ct, err := cat.CopyTable(t.Context(), listedTable(t, cat, name).OID)
	if err != nil {
		t.Fatal(err)
	}
	return ct
}

// listedTable is a table of schema public by its name, or of another one by both names.
func listedTable(t *testing.T, cat *Catalog, name string) *Table {
	t.Helper()
	tables, err := cat.Tables(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	i := slices.IndexFunc(tables, func(x Table) bool { return x.Schema+"."+x.Name == name || x.Schema == "public" && x.Name == name })
	if i < 0 {
		t.Fatalf("table %s is not published", name)
	}
	return &tables[i]
}

// copyNames: a table is read by names, and other tables may come to have them.
func copyNames(t *testing.T, pg *testbed.PG) {
	pg.Exec(testbed.Superuser, "CREATE SCHEMA prod AUTHORIZATION "+testbed.Owner, "CREATE SCHEMA staging AUTHORIZATION "+testbed.Owner,
		"ALTER DATABASE "+testbed.Shop+" OWNER TO "+testbed.Owner)
	pg.Exec(testbed.Owner, "CREATE TABLE prod.swapped (a int PRIMARY KEY)", "CREATE TABLE staging.swapped (a int PRIMARY KEY)", "INSERT INTO prod.swapped VALUES (1)", "INSERT INTO staging.swapped VALUES (2)",
		"CREATE TABLE tree (a int PRIMARY KEY) PARTITION BY LIST (a)", "CREATE TABLE leaf1 PARTITION OF tree FOR VALUES IN (1)", "CREATE TABLE leaf2 PARTITION OF tree FOR VALUES IN (2)",
		"CREATE TABLE outside (a int PRIMARY KEY)",
		"GRANT USAGE ON SCHEMA prod, staging TO "+testbed.Reader, "GRANT SELECT ON ALL TABLES IN SCHEMA public, prod, staging TO "+testbed.Reader)
	cat := catalog(t, config(pg))
	conn, err := cat.OpenCopy(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	for _, x := range []struct {
		table string
		sql   []string
	}{
		{"prod.swapped", []string{"ALTER SCHEMA prod RENAME TO old", "ALTER SCHEMA staging RENAME TO prod", "ALTER SCHEMA old RENAME TO staging"}},
		{"public.tree", []string{"CREATE TABLE leaf3 PARTITION OF tree FOR VALUES IN (3)"}},
		{"public.tree", []string{"ALTER TABLE tree DETACH PARTITION leaf1"}},
		{"public.tree", []string{"ALTER TABLE leaf2 RENAME TO x", "ALTER TABLE outside RENAME TO leaf2"}},
	} {
		ct := copyTable(t, cat, x.table)
		read := func() error {
			_, err := conn.Chunk(t.Context(), &ChunkQuery{Table: ct, Part: ct.Parts[0].Relation, Rows: 10, Bytes: 1 << 20, Timeout: 10 * time.Second}, nil)
			return err
		}
		if err := read(); err != nil {
			t.Errorf("before %s: %v", x.sql, err)
		}
		pg.Exec(testbed.Owner, x.sql...)
		if err := read(); !is[*TableChangedError](err) {
			t.Errorf("after %s: %v", x.sql, err)
		}
	}
	if cat.sys.Major() >= 18 {
		pg.Exec(testbed.Superuser, "CREATE EXTENSION btree_gist")
		pg.Exec(testbed.Owner, "CREATE TABLE booked (room int, at tsrange, PRIMARY KEY (room, at WITHOUT OVERLAPS))")
		if _, err := cat.CopyTable(t.Context(), listedTable(t, cat, "booked").OID); !is[*NoOrderError](err) || !strings.Contains(Hint(err), "REPLICA IDENTITY USING INDEX") {
			t.Errorf("a key WITHOUT OVERLAPS: %v (%s)", err, Hint(err))
		}
	}
}

// copyFilter: a chunk is no longer than so many rows of the index, however few of them a condition leaves.
func copyFilter(t *testing.T, pg *testbed.PG) {
	pg.Exec(testbed.Owner, "CREATE TABLE filtered (a int PRIMARY KEY, v int)", "INSERT INTO filtered SELECT i, i FROM generate_series(1, 1000) i", "GRANT SELECT ON filtered TO "+testbed.Reader)
	cat := catalog(t, config(pg))
	conn, err := cat.OpenCopy(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	ct := copyTable(t, cat, "filtered")
	bounds, err := conn.Bounds(t.Context(), ct, 0, 10*time.Second, func(CopyPart) int { return 1 })
	if err != nil {
		t.Fatal(err)
	}
	chunks, rows := 0, 0
	for q := (&ChunkQuery{Table: ct, Part: ct.Relation.ID, To: bounds[0][0], Where: "v % 400 = 0", Rows: 100, Bytes: 1 << 20, Timeout: 10 * time.Second}); ; {
		c, err := conn.Chunk(t.Context(), q, nil)
		if err != nil {
			t.Fatal(err)
		}
		chunks, rows = chunks+1, rows+c.Rows
		if c.Cut && c.Scanned != 100 {
			t.Errorf("chunk %d has looked at %d rows", chunks, c.Scanned)
		}
		if !c.Cut {
			break
		}
		q.After = c.Last
	}
	if chunks < 10 || chunks > 11 || rows != 2 {
		t.Errorf("%d chunks with %d rows", chunks, rows)
	}
}

// copyRefusals holds what a chunk is refused for, and that it can be cut short by its size.
func copyRefusals(t *testing.T, pg *testbed.PG) {
	cat := catalog(t, config(pg))
	conn, err := cat.OpenCopy(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer func() { conn.Close() }()
	read := func(ct *CopyTable, bytes int) (*Chunk, error) {
		if conn.Closed() {
			if conn, err = cat.OpenCopy(t.Context()); err != nil {
				t.Fatal(err)
			}
		}
		return conn.Chunk(t.Context(), &ChunkQuery{Table: ct, Part: ct.Relation.ID, Rows: 1000, Bytes: bytes, Timeout: 10 * time.Second}, nil)
	}
	ct := copyTable(t, cat, "big")
	c, err := read(ct, 2000)
	if err != nil {
		t.Fatal(err)
	}
	if len(c.Data) > 2000 || c.Rows < 5 || !c.Cut || len(chunkKeys(t, ct, conn.kind(), c)) != c.Rows {
		t.Errorf("a chunk of at most 2,000 bytes has %d, with %d rows", len(c.Data), c.Rows)
	}
	if c, err := read(ct, 1); err != nil || c.Rows != 1 {
		t.Errorf("a chunk that is smaller than a row: %d rows, %v", c.Rows, err)
	}
	for _, x := range []struct{ sql, undo, want, hint string }{
		{"REVOKE SELECT ON big FROM walferry", "GRANT SELECT ON big TO walferry", "permission denied for table big", "GRANT SELECT ON"},
		{"ALTER TABLE big ENABLE ROW LEVEL SECURITY", "ALTER TABLE big DISABLE ROW LEVEL SECURITY", "row-level security", "BYPASSRLS"},
		{"ALTER TABLE big ADD x int", "ALTER TABLE big DROP x", "was altered", ""},
	} {
		pg.Exec(testbed.Owner, x.sql)
		_, err := read(ct, 1<<20)
		if err == nil || !strings.Contains(err.Error(), x.want) || !strings.Contains(Hint(err), x.hint) {
			t.Errorf("after %s: %v (%s)", x.sql, err, Hint(err))
		}
		pg.Exec(testbed.Owner, x.undo)
	}
	for _, sql := range []string{"ALTER TABLE big RENAME TO large", "DROP TABLE large"} {
		ct := copyTable(t, cat, strings.Fields(sql)[2])
		pg.Exec(testbed.Owner, sql)
		if _, err := read(ct, 1<<20); !is[*TableChangedError](err) {
			t.Errorf("after %s: %v", sql, err)
		}
	}
}

// TestCopyCondition: a condition that is not one of the table's rows is refused in one sentence before any is read, and one that
// fits no more says so instead of being taken for an altered table.
func TestCopyCondition(t *testing.T) {
	pg := testbed.Postgres(t, "")
	pg.Exec(testbed.Owner, "CREATE TABLE big (id int PRIMARY KEY, v text, n int)", "INSERT INTO big SELECT i, 'v' || i, i % 2 FROM generate_series(1, 10) i",
		"CREATE TABLE secret (v text)", "REVOKE ALL ON secret FROM "+testbed.Reader, "GRANT SELECT ON big TO "+testbed.Reader)
	pg.Exec(testbed.Superuser, "CREATE PUBLICATION "+pubName+" FOR TABLE big")
	for _, text := range []bool{false, true} {
		cfg := config(pg)
		cfg.TextMode = text
		cat := catalog(t, cfg)
		conn, err := cat.OpenCopy(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		ct := copyTable(t, cat, "big")
		read := func(where string) (*Chunk, error) {
			return conn.Chunk(t.Context(), &ChunkQuery{Table: ct, Part: ct.Relation.ID, Where: where, Rows: 1000, Bytes: 1 << 20, Timeout: 10 * time.Second}, nil)
		}
		for where, rows := range map[string]int{"": 10, "id > 3": 7, "id > 3 OR id < 2": 8, "id > 3 -- not the first": 7, "v LIKE 'v1%' /* two */": 2, "id IN (SELECT 5)": 1, "NULL": 0} {
			if err := conn.Check(t.Context(), ct, where); err != nil {
				t.Errorf("%s: %v", where, err)
				continue
			}
			if c, err := read(where); err != nil || c.Rows != rows {
				t.Errorf("%s: %+v, %v, want %d rows", where, c, err, rows)
			}
		}
		for where, want := range map[string]string{
			"nosuch = 1": `column "nosuch" does not exist`, "id": "must be type boolean", "id >": "syntax error", "id = 'x'": `invalid input syntax for type integer: "x"`,
			"nosuch(id)": "function nosuch(integer) does not exist", "count(*) > 1": "aggregate functions are not allowed", "v": "must be type boolean",
			"true) UNION ALL SELECT NULL, NULL, NULL WHERE (true": "", "true)) UNION SELECT 1, 'x', 1 WHERE ((true": "syntax error", "true) --": "syntax error",
			"true); DROP TABLE big; SELECT (1": "multiple commands", "true; SELECT 1": "syntax error", "/* no end": "unterminated", "id > 1 '": "unterminated", " ": "syntax error",
		} {
			if err := conn.Check(t.Context(), ct, where); !is[*ConditionError](err) || !strings.Contains(err.Error(), want) {
				t.Errorf("%s: %v, want %s", where, err, want)
			}
		}
		if err := conn.Check(t.Context(), ct, "EXISTS (SELECT FROM public.secret)"); !is[*UnreadableTableError](err) {
			t.Errorf("another table: %v", err)
		}
		// What plans and cannot be computed, and what has gone since it was asked for.
		if _, err := read("1 / n > 0"); !is[*ConditionError](err) || !strings.Contains(err.Error(), "division by zero") {
			t.Errorf("division: %v", err)
		}
		pg.Exec(testbed.Owner, "ALTER TABLE big DROP n")
		if _, err := read("n > 0"); !is[*TableChangedError](err) {
			t.Errorf("the table is another one: %v", err)
		}
		ct = copyTable(t, cat, "big")
		if _, err := read("n > 0"); !is[*ConditionError](err) {
			t.Errorf("the column has gone: %v", err)
		}
		pg.Exec(testbed.Owner, "REVOKE SELECT ON big FROM walferry")
		if err := conn.Check(t.Context(), ct, ""); !is[*UnreadableTableError](err) {
			t.Errorf("no right to read: %v", err)
		}
		pg.Exec(testbed.Owner, "GRANT SELECT ON big TO walferry", "ALTER TABLE big ADD n int", "UPDATE big SET n = id % 2")
	}
}
