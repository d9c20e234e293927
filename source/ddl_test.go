package source

import (
	"fmt"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pglogrepl"

	"walferry/decode"
	"walferry/internal/testbed"
)

// TestDDLTrigger holds that each command which changes what a Relation message does not say sends, for every table that it
// touches, just what the catalog says after it; and that it comes in the transaction of the command.
func TestDDLTrigger(t *testing.T) {
	for _, version := range testbed.PostgresVersions() {
		t.Run(version, func(t *testing.T) {
			pg := testbed.Postgres(t, version)
			pg.Exec(testbed.Owner, `CREATE TYPE mood AS ENUM ('sad')`, `CREATE TYPE pair AS (a mood, b int)`, `CREATE DOMAIN moods AS mood[]`,
				`CREATE TABLE a (id int PRIMARY KEY, n int)`, `CREATE TABLE b (id int, p pair[], m moods)`, `CREATE TABLE c (id int, m mood)`)
			super := pg.Connect(testbed.Superuser)
			for range 2 { // it can be run again
				if _, err := super.PgConn().Exec(t.Context(), DDLTriggerSQL()).ReadAll(); err != nil {
					t.Fatal(err)
				}
			}
			cat := catalog(t, config(pg))
			if ok, err := cat.DDLTrigger(t.Context()); !ok || err != nil {
				t.Fatalf("trigger %v, %v", ok, err)
			}
			// Servers as distributions build them compile what the planner takes for expensive: half a second and more for each command.
			var uncompiled bool
			if err := super.QueryRow(t.Context(), `SELECT 'jit=off' = ANY (proconfig) FROM pg_proc WHERE oid = 'walferry.emit_ddl'::regproc`).Scan(&uncompiled); err != nil || !uncompiled {
				t.Errorf("the trigger's function is compiled: %v", err)
			}
			const slot = "ddl"
			read := func() (facts []*DDL) {
				t.Helper()
				rows, err := super.Query(t.Context(), `SELECT lsn::text, data FROM pg_logical_slot_get_binary_changes($1, NULL, NULL,
					'proto_version', '1', 'publication_names', 'none', 'messages', 'true')`, slot)
				if err != nil {
					t.Fatal(err)
				}
				d := decode.NewDecoder()
				for rows.Next() {
					var at string
					var data []byte
					if err := rows.Scan(&at, &data); err != nil {
						t.Fatal(err)
					}
					lsn, err := pglogrepl.ParseLSN(at)
					if err != nil {
						t.Fatal(err)
					}
					e, err := d.Decode(lsn, data)
					if err != nil {
						t.Fatal(err)
					}
					if m, ok := e.(*decode.Message); ok && m.Transactional && m.Prefix == DDLPrefix {
						f, err := ParseDDL(m.Content)
						if err != nil {
							t.Fatal(err)
						}
						facts = append(facts, f)
					}
				}
				if err := rows.Err(); err != nil {
					t.Fatal(err)
				}
				return facts
			}
			pg.Exec(testbed.Superuser, `CREATE PUBLICATION none`, `SELECT pg_create_logical_replication_slot('ddl', 'pgoutput')`)
			for _, c := range []struct{ sql, tables string }{
				{`ALTER TABLE a ADD x text NOT NULL DEFAULT 'y'`, "a"},
				{`ALTER TABLE a ALTER n SET NOT NULL`, "a"},
				{`ALTER TABLE a RENAME n TO "N.ü"`, "a"},
				{`COMMENT ON COLUMN a.x IS 'of ''x'''`, "a"},
				{`COMMENT ON TABLE a IS '$walferry$'`, "a"},
				{`ALTER TABLE a DROP x`, "a"},
				{`ALTER TABLE a DROP CONSTRAINT a_pkey`, "a"},
				{`ALTER TABLE a RENAME TO a2; ALTER TABLE c RENAME TO a; ALTER TABLE a2 RENAME TO c`, "a a2 c"},
				{`ALTER TYPE mood ADD VALUE 'glad'`, "a b"},
				{`ALTER TYPE mood RENAME VALUE 'sad' TO 'low'`, "a b"},
				{`ALTER TYPE pair ADD ATTRIBUTE c text`, "b"},
				{`ALTER TYPE pair DROP ATTRIBUTE a`, "b"},
				{`ALTER DOMAIN moods RENAME TO states`, "b"},
				{`CREATE TABLE e (id int PRIMARY KEY, r a)`, "e"},
				{`ALTER TABLE a ADD inside int`, "a e"},
				{`CREATE TABLE part (id int PRIMARY KEY) PARTITION BY RANGE (id)`, "part"},
				{`CREATE TEMP TABLE t (id int); DROP TABLE t; CREATE UNLOGGED TABLE u (id int)`, ""},
				{`DROP TABLE e`, ""},
				{`SET session_replication_role = replica; ALTER TABLE c ADD y int; RESET session_replication_role`, "c"},
				{`BEGIN; ALTER TABLE c ADD z int; ROLLBACK`, ""},
			} {
				conn := pg.Connect(testbed.Superuser)
				if _, err := conn.PgConn().Exec(t.Context(), c.sql).ReadAll(); err != nil {
					t.Fatalf("%s: %v", c.sql, err)
				}
				_ = conn.Close(t.Context())
				var tables []string
				last := map[string]*DDL{}
				for _, f := range read() {
					if last[f.Table] == nil {
						tables = append(tables, f.Table)
					}
					last[f.Table] = f
				}
				slices.Sort(tables)
				if got := strings.Join(tables, " "); got != c.tables {
					t.Errorf("%s: facts of %q, want %q", c.sql, got, c.tables)
				}
				for name, f := range last {
					if name == "a2" {
						continue // it has another name since
					}
					want, err := cat.Describe(t.Context(), f.Descriptor.Relation)
					if err != nil {
						t.Fatalf("%s: %v", c.sql, err)
					}
					if !reflect.DeepEqual(f.Descriptor, want) || len(want.Columns) == 0 {
						t.Errorf("%s: %s is described as\n%s, want\n%s", c.sql, name, show(f.Descriptor), show(want))
					}
				}
			}

			// Any role may change its tables, and none is disturbed by a trigger that cannot do its work.
			owner := pg.Connect(testbed.Owner)
			if _, err := owner.Exec(t.Context(), `CREATE TABLE mine (id int)`); err != nil {
				t.Fatal(err)
			}
			if f := read(); len(f) != 1 || f[0].Table != "mine" {
				t.Errorf("a table of an ordinary role has facts %v", f)
			}
			pg.Exec(testbed.Superuser, `DO $$ DECLARE f regprocedure; BEGIN
				FOR f IN SELECT oid FROM pg_proc WHERE proname = 'pg_logical_emit_message' LOOP
					EXECUTE 'REVOKE EXECUTE ON FUNCTION ' || f || ' FROM PUBLIC';
				END LOOP; END $$`)
			if _, err := owner.Exec(t.Context(), `CREATE TABLE still (id int)`); err != nil {
				t.Errorf("a trigger that may not send fails the command: %v", err)
			}
			if f := read(); len(f) != 0 {
				t.Errorf("facts %v", f)
			}
			pg.Exec(testbed.Superuser, `GRANT EXECUTE ON ALL FUNCTIONS IN SCHEMA pg_catalog TO walferry`)

			// Baseline facts are those of the trigger.
			var oid uint32
			if err := super.QueryRow(t.Context(), `SELECT 'a'::regclass::oid`).Scan(&oid); err != nil {
				t.Fatal(err)
			}
			if err := cat.EmitDDL(t.Context(), []uint32{oid, 1}); err != nil {
				t.Fatal(err)
			}
			want, err := cat.Describe(t.Context(), oid)
			if err != nil {
				t.Fatal(err)
			}
			if f := read(); len(f) != 1 || f[0].Schema != "public" || f[0].Table != "a" || !reflect.DeepEqual(f[0].Descriptor, want) {
				t.Errorf("baseline %v, want %s", f, show(want))
			}
			pg.Exec(testbed.Superuser, `DROP EVENT TRIGGER walferry_ddl`, `DROP SCHEMA walferry CASCADE`)
			if ok, err := cat.DDLTrigger(within(t, 10*time.Second)); ok || err != nil {
				t.Errorf("removed trigger: %v, %v", ok, err)
			}
		})
	}
}

func show(d *decode.Descriptor) string {
	s := fmt.Sprintf("%+v", *d)
	for _, ty := range d.Types {
		s += fmt.Sprintf("\n  %+v", *ty)
	}
	return s
}

func TestParseDDL(t *testing.T) {
	for _, bad := range []string{``, `null`, `{}`, `{"v":1}`, `{"v":2,"table":"t","descriptor":{"relation":1}}`, `{"v":1,"table":"t","descriptor":{}}`, `[]`, "\x00"} {
		if d, err := ParseDDL([]byte(bad)); err == nil {
			t.Errorf("%q is read as %+v", bad, d)
		}
	}
}
