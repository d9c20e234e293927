package pipeline

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"
	"time"

	"walferry/internal/backfill"
	"walferry/internal/testbed"
	"walferry/sink"
)

// TestCopyManyTables copies a hundred tables, twenty of them empty, with the process killed on the way, and holds Debezium's
// markers over all of them: of several that would stand on one row, last goes before first, and both before those of the table.
func TestCopyManyTables(t *testing.T) {
	pg := testbed.Postgres(t, "")
	b := newBed(t, pg, testbed.Kafka(t), "many")
	b.copying(2, 64<<10)
	adjust := b.adjust
	b.adjust = func(c *Config) { // one partition: the events of a table have one order
		adjust(c)
		spec := c.TopicSpec
		c.TopicSpec = func(s, t string) (out sink.TopicSpec) {
			out = spec(s, t)
			out.Partitions = 1
			return out
		}
	}
	want := map[string]int{}
	var sql []string
	for i := range 100 {
		name, rows := fmt.Sprintf("m%02d", i), 1+i*7%40
		switch {
		case i%5 == 4: // the last one by its name, too
			rows = 0
		case i%10 == 3:
			rows = 1
		}
		key := " PRIMARY KEY"
		if i == 50 {
			key = ""
		}
		sql = append(sql, fmt.Sprintf("CREATE TABLE %s (id int%s, note text); INSERT INTO %[1]s SELECT i, 'row' FROM generate_series(1, %[3]d) i", name, key, rows))
		want[name] = rows
	}
	pg.Exec(testbed.Owner, strings.Join(sql, ";"))
	names := slices.Sorted(maps.Keys(want))
	b.publish(strings.Join(names, ", "))
	b.killAt("chunk-placed", 45)
	r := b.start()
	b.explains(r)
	copies := b.copied(len(want))
	b.caughtUp(r)

	var first, last string
	var filled []string
	for _, name := range names {
		c := copies[name]
		if c.State != backfill.Done || c.Rows != int64(want[name]) || c.Started.IsZero() || c.Finished.Before(c.Started) {
			t.Errorf("%s, of %d rows: %+v", name, want[name], *c)
		}
		if want[name] > 0 {
			filled = append(filled, name)
		}
		var markers []string
		for _, e := range b.all(name) {
			if e.value["op"] == "r" {
				markers = append(markers, e.at("source", "snapshot").(string))
			}
		}
		if len(markers) != want[name] {
			t.Errorf("%s: %d reads of %d rows", name, len(markers), want[name])
			continue
		}
		for i, m := range markers {
			expect := "true"
			switch {
			case m == "first" && i == 0:
				expect, first = m, first+name
			case m == "last" && i == len(markers)-1:
				expect, last = m, last+name
			case i == len(markers)-1:
				expect = "last_in_data_collection"
			case i == 0:
				expect = "first_in_data_collection"
			}
			if m != expect {
				t.Errorf("%s: read %d of %d is %s, want %s", name, i+1, len(markers), m, expect)
			}
		}
	}
	// Two workers begin two tables beside each other, and either may have the first row.
	slices.SortFunc(filled, func(x, y string) int { return copies[x].Started.Compare(copies[y].Started) })
	if !slices.Contains(filled[:2], first) {
		t.Errorf("first stands in %q; %v began first", first, filled[:2])
	}
	slices.SortFunc(filled, func(x, y string) int { return copies[y].Finished.Compare(copies[x].Finished) })
	if last != filled[0] {
		t.Errorf("last stands in %q; %q ended last", last, filled[0])
	}
}

// explains waits until whoever watches is told which tables are to follow and why.
func (b *bed) explains(r *running) {
	b.t.Helper()
	ctx, done := context.WithTimeout(b.t.Context(), 2*time.Minute)
	defer done()
	for {
		following := map[int]string{}
		for _, p := range r.Health().Copies {
			if p.Turn > 0 {
				following[p.Turn] = p.Order
			}
		}
		if len(following) > 0 {
			for turn := range len(following) {
				if following[turn+1] == "" {
					b.t.Errorf("number %d to follow has no reason: %v", turn+1, following)
				}
			}
			return
		}
		if err := sleep(ctx, 10*time.Millisecond); err != nil {
			b.t.Fatal("nobody was told which tables follow")
		}
	}
}
