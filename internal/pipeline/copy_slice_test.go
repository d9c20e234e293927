package pipeline

import (
	"fmt"
	"testing"
	"time"

	"github.com/jackc/pglogrepl"

	"walferry/internal/testbed"
)

// TestCopySlices places the rows of one chunk one by one, with changes of the rows behind them delivered in between: each row is what
// it is at its own place.
//
//	S        read rows 1 to 300        row 1 placed    row 2 placed   …   row k
//	stream                                   row 300 changed   row 299 deleted   …
func TestCopySlices(t *testing.T) {
	pg := testbed.Postgres(t, "")
	b := newBed(t, pg, testbed.Kafka(t), "slices")
	b.copying(1, 1<<20)
	adjust := b.adjust
	b.adjust = func(c *Config) { adjust(c); c.Copy.small.sliceBytes = 1 }
	const rows, changes = 300, 60
	pg.Exec(testbed.Owner,
		`CREATE TABLE item (id bigint PRIMARY KEY, v int, big text)`, `ALTER TABLE item ALTER big SET STORAGE EXTERNAL`,
		fmt.Sprintf(`INSERT INTO item SELECT i, 0, CASE WHEN i %% 10 = 0 THEN repeat('x', 3000) || i END FROM generate_series(1, %d) i`, rows),
		`GRANT SELECT ON item TO `+testbed.Reader)
	b.publish("item")
	owner, admin := pg.Connect(testbed.Owner), pg.Connect(testbed.Superuser)
	n := 0
	hook(t, func(place string) {
		// Of the loop, which stands still meanwhile: what is written now comes between two rows that are placed later.
		if place != "chunk-split" || n >= changes {
			return
		}
		id := rows - n
		sql := []string{
			"UPDATE item SET v = v + 1 WHERE id = %[1]d", "DELETE FROM item WHERE id = %[1]d", "UPDATE item SET id = id + 1000 WHERE id = %[1]d",
			"INSERT INTO item VALUES (%[1]d, 5, NULL) ON CONFLICT (id) DO UPDATE SET v = 7",
		}[n%4]
		n++
		var end pglogrepl.LSN
		if _, err := owner.Exec(t.Context(), fmt.Sprintf(sql, id)); err != nil {
			t.Error(err)
		}
		if err := admin.QueryRow(t.Context(), "SELECT pg_current_wal_insert_lsn()").Scan(&end); err != nil {
			t.Error(err)
		}
		for sent := false; !sent && t.Context().Err() == nil && !t.Failed(); time.Sleep(time.Millisecond) {
			if err := admin.QueryRow(t.Context(), "SELECT coalesce(bool_and(sent_lsn >= $1), true) FROM pg_stat_replication", end).Scan(&sent); err != nil {
				t.Error(err)
			}
		}
	})
	r := b.start()
	copies := b.copied(1)
	b.caughtUp(r)
	b.holdsTable("item")
	c := copies["item"]
	t.Logf("%d rows placed, %d left out, %d changes between them", c.Rows, c.Newer, n)
	if n < changes || c.Newer == 0 {
		t.Errorf("%d changes were made between the rows of a chunk, and %d rows were left out for them", n, c.Newer)
	}
	if c.Generation != 1 || c.Rows+c.Newer < rows {
		t.Errorf("generation %d, %d rows placed and %d left out of %d", c.Generation, c.Rows, c.Newer, rows)
	}
}
