package pipeline

import (
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"walferry/internal/testbed"
	"walferry/schema"
	"walferry/source"
)

// TestRelationVersions holds that each version of a table is saved at its place, also one that looks like an older one;
// that a restart asks the registry for none of them again; and that those which no replay can need are taken away.
func TestRelationVersions(t *testing.T) {
	pg := testbed.Postgres(t, "")
	b := newBed(t, pg, testbed.Kafka(t), "versions")
	pg.Exec(testbed.Owner, `CREATE TABLE item (id int PRIMARY KEY, a text)`)
	b.publish("item")
	r := b.start()
	r.first(t)
	pg.Exec(testbed.Owner,
		`INSERT INTO item VALUES (1, 'x')`,
		`ALTER TABLE item ADD b int`, `INSERT INTO item VALUES (2, 'x', 2)`,
		`ALTER TABLE item DROP b`, `INSERT INTO item VALUES (3, 'x')`)
	versions := func() []int32 {
		var ids []int32
		for oid, vs := range b.state().Relations {
			for _, v := range vs {
				rec, err := decodeRelation(v)
				if err != nil {
					t.Fatalf("relation %d: %v", oid, err)
				}
				ids = append(ids, rec.ValueID)
			}
		}
		return ids
	}
	b.caughtUp(r)
	first := versions()
	if len(first) != 3 || first[0] != first[2] || first[0] == first[1] {
		t.Fatalf("saved versions have value schemas %v: want a, b, a", first)
	}
	asked := b.registry.asked
	r.drain(t)

	r = b.start()
	r.first(t)
	pg.Exec(testbed.Owner, `INSERT INTO item VALUES (4, 'x')`)
	b.caughtUp(r)
	if b.registry.asked != asked {
		t.Errorf("the registry was asked %d times for schemas that the checkpoint topic has", b.registry.asked-asked)
	}
	if left := versions(); len(left) != 1 || left[0] != first[2] {
		t.Errorf("after a restart behind them all the versions left are %v, want [%d]", left, first[2])
	}
	r.drain(t)
}

// TestDroppedTable holds that rows of a table which is gone by the time they are read, and those of another one that has
// its name by then, are published like any others.
func TestDroppedTable(t *testing.T) {
	pg := testbed.Postgres(t, "")
	b := newBed(t, pg, testbed.Kafka(t), "dropped")
	pg.Exec(testbed.Owner, `CREATE TYPE mood AS ENUM ('sad', 'glad')`, `CREATE TABLE item (id int PRIMARY KEY, m mood)`)
	b.publish("item")
	r := b.start()
	r.first(t)
	r.drain(t)
	pg.Exec(testbed.Owner,
		`INSERT INTO item VALUES (1, 'sad')`, `DROP TABLE item`, `DROP TYPE mood`,
		`CREATE TABLE item (id int PRIMARY KEY, n text)`, `ALTER PUBLICATION walferry_dropped ADD TABLE item`,
		`INSERT INTO item VALUES (2, 'two')`)
	r = b.start()
	b.caughtUp(r)
	got := map[string]bool{}
	for _, e := range b.read("item", 2) {
		after, _ := inner(e.value["after"]).(map[string]any)
		got[fmt.Sprint(inner(after["id"]), " ", inner(after["m"]), " ", inner(after["n"]))] = true
	}
	if !got["1 sad <nil>"] || !got["2 <nil> two"] {
		t.Errorf("rows %v", got)
	}
	r.drain(t)
}

// TestFacts holds that with the event trigger each event has the schema of its place in the WAL, though the catalog has moved
// on when it is read; also where the facts came before a restart and the row after it. And that a table's counter in a
// transaction goes on over its versions.
func TestFacts(t *testing.T) {
	pg := testbed.Postgres(t, "")
	b := newBed(t, pg, testbed.Kafka(t), "facts")
	b.adjust = func(c *Config) { c.Watch = 100 * time.Millisecond }
	pg.Exec(testbed.Owner, `CREATE TYPE mood AS ENUM ('sad')`, `CREATE TABLE item (id int PRIMARY KEY, m mood)`)
	pg.Exec(testbed.Owner, `CREATE TABLE early (id int PRIMARY KEY)`)
	b.publish("item")
	trigger := pg.Connect(testbed.Superuser)
	if _, err := trigger.PgConn().Exec(t.Context(), source.DDLTriggerSQL()).ReadAll(); err != nil {
		t.Fatal(err)
	}
	r := b.start()
	r.first(t)
	b.caughtUp(r)
	r.drain(t)
	pg.Exec(testbed.Owner,
		`INSERT INTO item VALUES (1, 'sad')`,
		`ALTER TYPE mood ADD VALUE 'glad'`,
		`INSERT INTO item VALUES (2, 'glad')`,
		`BEGIN; INSERT INTO item VALUES (3, 'glad'); COMMENT ON COLUMN item.m IS 'today'; INSERT INTO item VALUES (4, 'glad'); COMMIT`,
		`ALTER TYPE mood RENAME VALUE 'sad' TO 'low'`)
	r = b.start()
	b.caughtUp(r)
	r.drain(t)
	pg.Exec(testbed.Owner, `INSERT INTO item VALUES (5, 'low')`, `ALTER TYPE mood RENAME VALUE 'low' TO 'down'`, `COMMENT ON COLUMN item.m IS NULL`)
	r = b.start()
	b.caughtUp(r)

	type facts struct{ labels, doc string }
	got := map[string]facts{}
	for _, e := range b.read("item", 5) {
		id := fmt.Sprint(inner(inner(e.value["after"]).(map[string]any)["id"]))
		avro := b.registry.text(t, e.Value)
		f := facts{labels: between(avro, `"labels":[`, `]`), doc: between(avro, `"doc":"`, `"`)}
		got[id] = f
		if order := fmt.Sprint(e.at("transaction", "data_collection_order")); id == "4" && order != "2" {
			t.Errorf("the second event of its transaction has data_collection_order %s", order)
		}
	}
	for id, want := range map[string]facts{
		"1": {`"sad"`, ""}, "2": {`"sad","glad"`, ""}, "3": {`"sad","glad"`, ""}, "4": {`"sad","glad"`, "today"}, "5": {`"low","glad"`, "today"},
	} {
		if got[id] != want {
			t.Errorf("row %s has the schema of %+v, want %+v", id, got[id], want)
		}
	}

	for oid, versions := range b.state().Relations {
		if rec, err := decodeRelation(versions[len(versions)-1]); err != nil || !rec.Facts && !rec.Told {
			t.Errorf("relation %d does not go back to the trigger: %+v, %v", oid, rec, err)
		}
	}

	// Any role can emit our prefix: what cannot be right is left out, and nothing takes a column away.
	var oid uint32
	if err := trigger.QueryRow(t.Context(), `SELECT 'item'::regclass::oid`).Scan(&oid); err != nil {
		t.Fatal(err)
	}
	pg.Exec(testbed.Owner, `SELECT pg_logical_emit_message(true, 'walferry.ddl', 'nonsense')`,
		fmt.Sprintf(`SELECT pg_logical_emit_message(true, 'walferry.ddl', '{"v":1,"schema":"public","table":"item","descriptor":{"relation":%d}}')`, oid),
		`INSERT INTO item VALUES (6, 'down')`)
	b.caughtUp(r)
	for _, e := range b.read("item", 6) {
		if row := inner(e.value["after"]).(map[string]any); fmt.Sprint(inner(row["id"])) == "6" && fmt.Sprint(inner(row["m"])) != "down" {
			t.Errorf("row %v", row)
		}
	}

	// A table that is published from now on is told of, though nothing has changed it since the trigger came.
	if err := trigger.QueryRow(t.Context(), `SELECT 'early'::regclass::oid`).Scan(&oid); err != nil {
		t.Fatal(err)
	}
	pg.Exec(testbed.Owner, `ALTER PUBLICATION walferry_facts ADD TABLE early`)
	b.await("the new table to be told of", r, func() bool { return len(b.state().Relations[oid]) > 0 })
	r.drain(t)
}

// TestStale holds that without the event trigger a composite, or an enum that is written as one, which changed while its table
// did not, is described anew when a row shows it; that numbers in the transaction stay whole; and that a row which is older
// than the catalog, with nothing left to describe it, stops the stream.
func TestStale(t *testing.T) {
	pg := testbed.Postgres(t, "")
	b := newBed(t, pg, testbed.Kafka(t), "stale")
	b.adjust = func(c *Config) {
		options := c.SchemaOptions
		c.SchemaOptions = func(s, table, db, systemID string) schema.Options {
			o := options(s, table, db, systemID)
			o.Enum = schema.EnumAvro
			return o
		}
	}
	pg.Exec(testbed.Owner, `CREATE TYPE pair AS (x int, y int)`, `CREATE TYPE mood AS ENUM ('sad')`, `CREATE TABLE item (id int PRIMARY KEY, p pair, m mood)`)
	b.publish("item")
	r := b.start()
	r.first(t)
	pg.Exec(testbed.Owner, `INSERT INTO item VALUES (1, '(1,2)', 'sad')`)
	b.caughtUp(r)
	pg.Exec(testbed.Owner, `ALTER TYPE pair ADD ATTRIBUTE z int`, `ALTER TYPE mood ADD VALUE 'glad'`,
		`BEGIN; INSERT INTO item VALUES (2, '(1,2,3)', 'sad'); UPDATE item SET id = 3 WHERE id = 2; COMMIT`)
	b.caughtUp(r)
	pg.Exec(testbed.Owner, `ALTER TYPE mood ADD VALUE 'mixed'`, `UPDATE item SET m = 'mixed', id = 4 WHERE id = 1`)
	b.caughtUp(r)
	got := map[string]string{}
	for _, e := range b.all("item") {
		if e.value != nil && e.at("after") != nil {
			got[fmt.Sprint(e.at("after", "id"))] = b.registry.json(t, e.Value)
		}
	}
	for id, want := range map[string][]string{
		"1": {`"m":"sad","p":{"x":1,"y":2}`, `"total_order":1}`},
		"2": {`"m":"sad","p":{"x":1,"y":2,"z":3}`, `"total_order":1}`},
		"3": {`"m":"sad","p":{"x":1,"y":2,"z":3}`, `"total_order":3}`},
		"4": {`"m":"mixed","p":{"x":1,"y":2,"z":null}`, `"total_order":2}`},
	} {
		for _, part := range want {
			if !strings.Contains(got[id], part) {
				t.Errorf("row %s is %s, want %s in it", id, got[id], part)
			}
		}
	}
	r.drain(t)
	pg.Exec(testbed.Owner, `INSERT INTO item VALUES (5, '(1,2,3)', 'sad')`, `ALTER TYPE pair ADD ATTRIBUTE more int`)
	r = b.start()
	b.caughtUp(r) // what is saved describes it
	pg.Exec(testbed.Owner, `INSERT INTO item VALUES (6, '(1,2,3,4)', 'sad')`)
	b.caughtUp(r)
	r.drain(t)
	pg.Exec(testbed.Owner, `ALTER TYPE pair ADD ATTRIBUTE once int`, `INSERT INTO item VALUES (7, '(1,2,3,4,5)', 'sad')`, `ALTER TYPE pair DROP ATTRIBUTE once`)
	r = b.start()
	var stop *StopError
	if err := r.ended(t); !errors.As(err, &stop) || stop.Key != "id=7" || !strings.Contains(stop.Remedy, "--ddl-trigger") {
		t.Errorf("ended with %v", err)
	}
}

// between is the text between two others, "" where they are not.
func between(s, left, right string) string {
	_, s, _ = strings.Cut(s, left)
	s, _, _ = strings.Cut(s, right)
	return s
}
