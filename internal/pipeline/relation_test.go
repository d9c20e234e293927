package pipeline

import (
	"fmt"
	"testing"

	"walferry/internal/testbed"
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
