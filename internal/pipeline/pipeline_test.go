package pipeline

import (
	"fmt"
	"testing"

	"walferry/internal/testbed"
)

// TestStream follows single rows from the slot to a committed reader.
func TestStream(t *testing.T) {
	pg := testbed.Postgres(t, "")
	b := newBed(t, pg, testbed.Kafka(t), "stream")
	pg.Exec(testbed.Owner, `CREATE TABLE item (id int PRIMARY KEY, name text, qty int)`)
	b.publish("item")
	r := b.start()
	<-r.watcher.committed // the first heartbeat: the slot is there, so what follows is captured
	c := pg.Connect(testbed.Owner)
	must(t, c, `INSERT INTO item VALUES (1, 'a', 10), (2, 'b', NULL)`)
	must(t, c, `UPDATE item SET qty = 11 WHERE id = 1`)
	must(t, c, `UPDATE item SET id = 3 WHERE id = 2`)
	must(t, c, `DELETE FROM item WHERE id = 1`)
	events := b.read("item", 8)
	var ops []string
	ids := map[string]bool{}
	for _, e := range events {
		if ids[e.header("id")] || e.header("id") == "" {
			t.Errorf("id %q is empty or repeated", e.header("id"))
		}
		ids[e.header("id")] = true
		if e.value == nil {
			ops = append(ops, "tombstone")
		} else {
			ops = append(ops, e.value["op"].(string))
		}
	}
	count := map[string]int{}
	for _, o := range ops {
		count[o]++
	}
	want := map[string]int{"c": 3, "u": 1, "d": 2, "tombstone": 2}
	if fmt.Sprint(count) != fmt.Sprint(want) {
		t.Errorf("operations %v, want %v", count, want)
	}
	r.drain(t)
}
