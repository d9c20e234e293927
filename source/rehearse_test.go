package source

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pglogrepl"
	"github.com/jackc/pgx/v5"

	"walferry/decode"
	"walferry/internal/testbed"
)

// TestShapeIsTheStreams: tables are described as the stream describes them, before and after a migration.
func TestShapeIsTheStreams(t *testing.T) {
	for _, version := range []string{"14", "15", "18"} {
		t.Run(version, func(t *testing.T) {
			pg := testbed.Postgres(t, version)
			pg.Exec(testbed.Owner,
				`CREATE DOMAIN cents AS numeric(12,2)`, `CREATE TYPE mood AS ENUM ('sad')`,
				`CREATE TABLE plain (id int PRIMARY KEY, v varchar(10), n numeric(8,2), c cents, m mood, a int[])`,
				`CREATE TABLE two (a int, b int, c text, PRIMARY KEY (c, a) INCLUDE (b))`,
				`CREATE TABLE entire (id int PRIMARY KEY, v text)`, `ALTER TABLE entire REPLICA IDENTITY FULL`,
				`CREATE TABLE indexed (id int PRIMARY KEY, code text NOT NULL UNIQUE)`, `ALTER TABLE indexed REPLICA IDENTITY USING INDEX indexed_code_key`,
				`CREATE TABLE nothing (id int PRIMARY KEY)`, `ALTER TABLE nothing REPLICA IDENTITY NOTHING`,
				`CREATE TABLE keyless (v text)`, `CREATE TABLE late (id int PRIMARY KEY DEFERRABLE)`,
				`CREATE TABLE computed (id int PRIMARY KEY, twice int GENERATED ALWAYS AS (id * 2) STORED, v text)`, `ALTER TABLE computed DROP v`,
				`CREATE TABLE parts (id int, region text, v text, PRIMARY KEY (id, region)) PARTITION BY LIST (region)`,
				`CREATE TABLE parts_eu (v text, region text NOT NULL, id int NOT NULL)`, `ALTER TABLE parts ATTACH PARTITION parts_eu FOR VALUES IN ('eu')`,
				`CREATE TABLE narrow (id int PRIMARY KEY, a int, b int)`,
				`CREATE TABLE "odd ""one""" (id int PRIMARY KEY)`, `CREATE TABLE other (id int PRIMARY KEY)`)
			tables := `plain, two, entire, indexed, nothing, keyless, late, computed, parts, "odd ""one""", other`
			if version != "14" {
				tables += ", narrow (id, b)"
			} else {
				tables += ", narrow"
			}
			options := "publish_via_partition_root = true"
			if version == "18" {
				options += ", publish_generated_columns = stored"
			}
			pg.Exec(testbed.Owner, `CREATE PUBLICATION `+pubName+` FOR TABLE `+tables+` WITH (`+options+`)`)
			pg.Exec(testbed.Superuser, `SELECT pg_create_logical_replication_slot('shapes', 'pgoutput')`)
			fill := []string{
				`INSERT INTO plain VALUES (1)`, `INSERT INTO two VALUES (1, 2, 'c')`, `INSERT INTO entire VALUES (1)`, `INSERT INTO indexed VALUES (1, 'a')`,
				`INSERT INTO nothing VALUES (1)`, `INSERT INTO keyless VALUES ('a')`, `INSERT INTO late VALUES (1)`, `INSERT INTO computed VALUES (1)`,
				`INSERT INTO parts VALUES (1, 'eu')`, `INSERT INTO narrow VALUES (1)`, `INSERT INTO "odd ""one""" VALUES (1)`, `INSERT INTO other VALUES (1)`,
			}
			pg.Exec(testbed.Owner, fill...)
			cfg := config(pg)
			cfg.DSN, cfg.Exclude = pg.DSN(testbed.Owner), []string{"public.other"}
			cat := catalog(t, cfg)
			compare := func(shape *Shape) {
				t.Helper()
				streamed := relations(t, pg, "shapes")
				for _, table := range shape.Tables {
					rel := streamed[table.OID]
					if rel == nil || !rel.Equal(table.Relation) {
						t.Errorf("the stream says\n%+v, the catalog\n%+v", rel, table.Relation)
					}
					delete(streamed, table.OID)
					if len(table.Numbers) != len(table.Relation.Columns) || table.Descriptor.Relation != table.OID {
						t.Errorf("%+v", table)
					}
				}
				for _, rel := range streamed {
					if rel.Name != "other" {
						t.Errorf("%s is on the stream and not in the shape", rel)
					}
				}
			}
			migration := []Step{
				{SQL: `ALTER TABLE plain ALTER v TYPE text, DROP n, ADD x jsonb, ALTER c TYPE numeric(14,2)`}, {SQL: `ALTER TABLE entire REPLICA IDENTITY DEFAULT`},
				{SQL: `ALTER TABLE two DROP CONSTRAINT two_pkey, ADD PRIMARY KEY (a)`}, {SQL: `ALTER TABLE keyless ADD id int PRIMARY KEY DEFAULT 0`},
				{SQL: `ALTER TABLE indexed RENAME code TO codes`}, {SQL: `ALTER TABLE parts ADD n int`}, {SQL: `ALTER TABLE nothing RENAME TO something`},
			}
			r, err := cat.Rehearse(t.Context(), migration, RehearseOptions{})
			if err != nil {
				t.Fatal(err)
			}
			compare(r.Before)
			for _, s := range migration {
				pg.Exec(testbed.Owner, s.SQL)
			}
			fill[4] = `INSERT INTO something VALUES (2)`
			pg.Exec(testbed.Owner, `DELETE FROM keyless`, `TRUNCATE plain, two, entire, indexed, something, late, computed, parts, narrow, "odd ""one""", other`)
			pg.Exec(testbed.Owner, fill...)
			compare(r.After)
			pg.Exec(testbed.Superuser, `SELECT pg_drop_replication_slot('shapes')`)
		})
	}
}

// relations reads a slot to its end and returns the newest description of each table that had rows.
func relations(t *testing.T, pg *testbed.PG, slot string) map[uint32]*decode.Relation {
	t.Helper()
	rows, err := pg.Connect(testbed.Superuser).Query(t.Context(), `SELECT lsn::text, data FROM pg_logical_slot_get_binary_changes($1, NULL, NULL,
		'proto_version', '1', 'publication_names', $2)`, slot, pubName)
	if err != nil {
		t.Fatal(err)
	}
	d := decode.NewDecoder()
	out := map[uint32]*decode.Relation{}
	var at string
	var data []byte
	if _, err := pgx.ForEachRow(rows, []any{&at, &data}, func() error {
		lsn, err := pglogrepl.ParseLSN(at)
		if err != nil {
			return err
		}
		e, err := d.Decode(lsn, data)
		if c, ok := e.(*decode.Change); ok {
			out[c.Relation.ID] = c.Relation
		}
		return err
	}); err != nil {
		t.Fatal(err)
	}
	return out
}

func TestRehearse(t *testing.T) {
	pg := testbed.Postgres(t, "18")
	pg.Exec(testbed.Owner, `CREATE TABLE a (id int PRIMARY KEY, v int)`, `CREATE TABLE b (id int PRIMARY KEY)`, `INSERT INTO a VALUES (1, 1)`,
		`CREATE PUBLICATION `+pubName+` FOR TABLE a, b`, `CREATE PROCEDURE ends() LANGUAGE plpgsql AS $$ BEGIN DROP TABLE b; COMMIT; END $$`)
	cfg := config(pg)
	cfg.DSN = pg.DSN(testbed.Owner)
	cat := catalog(t, cfg)
	state := func() string {
		t.Helper()
		var s string
		if err := pg.Connect(testbed.Superuser).QueryRow(t.Context(), `SELECT concat_ws(' ', (SELECT json_agg(a) FROM a), (SELECT count(*) FROM b),
			(SELECT string_agg(attrelid || ' ' || attname || ' ' || atttypid, ',' ORDER BY attrelid, attnum) FROM pg_attribute WHERE attrelid >= 16384),
			(SELECT string_agg(oid || relname, ',' ORDER BY oid) FROM pg_class WHERE oid >= 16384), (SELECT count(*) FROM pg_prepared_xacts))`).Scan(&s); err != nil {
			t.Fatal(err)
		}
		return s
	}
	before := state()
	steps := func(sql ...string) (out []Step) {
		for _, s := range sql {
			savepoint := strings.HasPrefix(s, "SAVEPOINT") || strings.HasPrefix(s, "ROLLBACK TO") || strings.HasPrefix(s, "RELEASE")
			out = append(out, Step{s, savepoint})
		}
		return out
	}

	r, err := cat.Rehearse(t.Context(), steps(
		`ALTER TABLE a ADD w text`, `VACUUM a`, `CREATE INDEX CONCURRENTLY x ON a (v)`, `UPDATE a SET v = 2`, `DO 'BEGIN DROP TABLE b; COMMIT; END'`, `CALL ends()`,
		`SAVEPOINT one`, `DROP TABLE a`, `ROLLBACK TO one`, `RELEASE one`, `CREATE TABLE c AS SELECT 1 AS id`, `ALTER TABLE c ADD PRIMARY KEY (id)`,
		`SET search_path = b`, `CREATE TABLE public.d (id int PRIMARY KEY)`), RehearseOptions{})
	if err != nil {
		t.Fatal(err)
	}
	var refused []int
	for i := range 14 {
		if r.Refused[i] != "" {
			refused = append(refused, i)
		}
	}
	if !slices.Equal(refused, []int{1, 2, 4, 5}) || len(r.Refused) != 4 {
		t.Errorf("refused %v", r.Refused)
	}
	var names []string
	for _, c := range r.After.Tables {
		names = append(names, fmt.Sprintf("%s %d %v %v %v", c.Name, len(c.Relation.Columns), c.Published, c.Addable, c.Filled))
	}
	if got := strings.Join(names, ", "); got != "a 3 true true false, b 1 true true false, c 1 false true true, d 1 false true false" {
		t.Errorf("after: %s", got)
	}
	if len(r.Before.Tables) != 2 || len(r.Before.Tables[0].Relation.Columns) != 2 || len(r.After.All) != 4 {
		t.Errorf("before %+v, all %v", r.Before.Tables, r.After.All)
	}

	// Whatever a statement is, nothing of it is committed.
	for _, sql := range []string{
		"COMMIT", "END", "ROLLBACK", "COMMIT AND CHAIN", "PREPARE TRANSACTION 'x'", "SELECT 1; COMMIT", "COMMIT; DROP TABLE b", "SELECT 1 +",
		"SET CONSTRAINTS ALL IMMEDIATE", "DISCARD TEMP", "DROP TABLE pg_temp.walferry_plan", "DELETE FROM pg_temp.walferry_plan; COMMIT",
	} {
		for _, savepoint := range []bool{false, true} {
			_, err := cat.Rehearse(t.Context(), append(steps("DROP TABLE a CASCADE"), Step{sql, savepoint}), RehearseOptions{})
			var e *RehearsalError
			if !errors.As(err, &e) || e.Step != 1 {
				t.Errorf("%s: %v", sql, err)
			}
		}
	}
	if got := state(); got != before {
		t.Errorf("it was\n%s\nand is\n%s", before, got)
	}

	// Limits hold, whatever the migration sets.
	for _, x := range []struct {
		lock, want string
		step       int
		sql        []string
	}{
		{"SHARE", "lock timeout", 1, []string{"SET lock_timeout = 0", "ALTER TABLE a ADD w text"}},
		{"SHARE", "statement timeout", 1, []string{"SET LOCAL statement_timeout = 0", "SELECT pg_sleep(600)"}},
		{"ACCESS EXCLUSIVE", "lock timeout", -1, []string{"SELECT 1"}},
	} {
		holder := pg.Connect(testbed.Owner)
		for _, sql := range []string{"BEGIN", "LOCK TABLE a IN " + x.lock + " MODE"} {
			if _, err := holder.Exec(t.Context(), sql); err != nil {
				t.Fatal(err)
			}
		}
		_, err := cat.Rehearse(t.Context(), steps(x.sql...), RehearseOptions{LockTimeout: 50 * time.Millisecond, StatementTimeout: 3 * time.Second})
		var e *RehearsalError
		if !errors.As(err, &e) || e.Step != x.step || !strings.Contains(err.Error(), x.want) || !strings.Contains(e.Hint(), "--scratch") {
			t.Errorf("%s: %v", x.sql, err)
		}
		if err := holder.Close(t.Context()); err != nil {
			t.Fatal(err)
		}
	}

	_, err = cat.Rehearse(t.Context(), steps("SELECT 1", "ALTER TABLE missing\nADD w text"), RehearseOptions{})
	if e, ok := errors.AsType[*RehearsalError](err); !ok || e.Step != 1 || !strings.Contains(err.Error(), `relation "missing" does not exist`) {
		t.Errorf("%v", err)
	}
	_, err = cat.Rehearse(t.Context(), steps("SELECT 1,\n wrong"), RehearseOptions{})
	if e, ok := errors.AsType[*RehearsalError](err); !ok || e.Offset != 11 {
		t.Errorf("%+v", err)
	}
	reader := catalog(t, config(pg))
	_, err = reader.Rehearse(t.Context(), steps("DROP TABLE b"), RehearseOptions{})
	if e, ok := errors.AsType[*RehearsalError](err); !ok || !strings.Contains(e.Hint(), "--admin-dsn") {
		t.Errorf("%v", err)
	}
	pg.Exec(testbed.Superuser, "REVOKE TEMPORARY ON DATABASE shop FROM PUBLIC")
	_, err = reader.Rehearse(t.Context(), steps("SELECT 1"), RehearseOptions{})
	if e, ok := errors.AsType[*RehearsalError](err); !ok || e.Step != -1 || !strings.Contains(e.Hint(), "TEMPORARY") {
		t.Errorf("%v", err)
	}

	// Kept, each statement is a transaction.
	r, err = cat.Rehearse(t.Context(), steps("VACUUM a", "BEGIN", "ALTER TABLE a ADD w text", "COMMIT", "CREATE INDEX CONCURRENTLY x ON a (v)", "DISCARD ALL", "BEGIN", "DROP TABLE b"), RehearseOptions{Keep: true})
	if err != nil || len(r.Refused) > 0 || len(r.After.Tables) != 2 || len(r.After.Tables[0].Relation.Columns) != 3 {
		t.Errorf("%+v, %v", r, err)
	}
}
