package pipeline

import (
	"fmt"
	"slices"
	"testing"

	"walferry/internal/testbed"
)

// TestRows follows what is special about single rows, on the oldest server and on the newest.
func TestRows(t *testing.T) {
	for _, version := range []string{"14", "18"} {
		t.Run(version, func(t *testing.T) {
			pg := testbed.Postgres(t, version)
			b := newBed(t, pg, testbed.Kafka(t), "rows"+version)
			pg.Exec(testbed.Owner,
				`CREATE TABLE item (id int PRIMARY KEY, name text, big text)`,
				`ALTER TABLE item ALTER big SET STORAGE EXTERNAL`,
				`CREATE TABLE whole (id int PRIMARY KEY, name text)`, `ALTER TABLE whole REPLICA IDENTITY FULL`,
				`CREATE TABLE keyless (a int)`,
				`CREATE TABLE root (id int, at int, PRIMARY KEY (id, at)) PARTITION BY RANGE (at)`,
				`CREATE TABLE leaf PARTITION OF root FOR VALUES FROM (0) TO (10)`)
			b.publish("item, whole, keyless, root")
			r := b.start()
			r.first(t)
			pg.Exec(testbed.Owner,
				`INSERT INTO item SELECT 1, 'a', repeat('x', 10000)`,
				`UPDATE item SET name = 'b' WHERE id = 1`,
				`ALTER TABLE item ADD extra int`,
				`UPDATE item SET extra = 5 WHERE id = 1`,
				`ALTER TABLE item DROP name`,
				`UPDATE item SET id = 2 WHERE id = 1`,
				`INSERT INTO whole VALUES (1, 'a')`, `UPDATE whole SET name = 'b'`,
				`INSERT INTO keyless VALUES (1), (2)`,
				`INSERT INTO root VALUES (1, 5)`,
				`TRUNCATE whole`)
			b.caughtUp(r)
			items := b.all("item")
			slices.SortFunc(items, func(x, y event) int { return x.place(t).compare(y.place(t)) })
			var ops []string
			for _, e := range items {
				if e.value == nil {
					ops = append(ops, "tombstone")
					continue
				}
				ops = append(ops, e.value["op"].(string))
			}
			if want := []string{"c", "u", "u", "d", "tombstone", "c"}; !slices.Equal(ops, want) {
				t.Fatalf("operations %v, want %v", ops, want)
			}
			if got := fmt.Sprint(items[1].at("unavailable")); got != "[big]" {
				t.Errorf("unavailable of an update that left big alone: %s", got)
			}
			if got := items[2].at("after", "extra"); got != int32(5) {
				t.Errorf("the added column is %v", got)
			}
			after, _ := inner(items[5].value["after"]).(map[string]any)
			if _, there := after["name"]; there || after["extra"] == nil {
				t.Errorf("after the drop of name: %v", after)
			}
			if string(items[5].header("__debezium.oldkey")) != string(items[3].Key) || string(items[3].header("__debezium.newkey")) != string(items[5].Key) {
				t.Error("the halves of a changed key do not name each other")
			}
			whole := map[string]int{}
			for _, e := range b.all("whole") {
				op := e.value["op"].(string)
				whole[op]++
				if before := e.at("before", "name"); op == "u" && before != "a" {
					t.Errorf("before of an update under identity full: %v", before)
				}
			}
			if fmt.Sprint(whole) != "map[c:1 t:3 u:1]" {
				t.Errorf("whole: %v, want a truncate in each of three partitions", whole)
			}
			keyless := b.all("keyless")
			if len(keyless) != 2 || keyless[0].Key != nil || keyless[0].Partition != keyless[1].Partition {
				t.Errorf("keyless: %+v", keyless)
			}
			if n := len(b.all("root")); n != 1 {
				t.Errorf("%d events through the root of a partitioned table, want 1", n)
			}
			r.drain(t)
		})
	}
}
