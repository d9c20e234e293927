package pipeline

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"walferry/internal/backfill"
	"walferry/internal/testbed"
)

// TestLimiter: what is read is spread over time by the slower of the two rates, and time in which nothing was read is not saved up.
func TestLimiter(t *testing.T) {
	var p limiter
	limits := CopyLimits{RowsPerSecond: 1000, BytesPerSecond: 1 << 20}
	at := time.Unix(1000, 0)
	for _, x := range []struct {
		after       time.Duration
		rows, bytes int
		want        time.Duration
	}{
		{0, 500, 0, 500 * time.Millisecond},
		{0, 100, 1 << 20, 1500 * time.Millisecond},
		{10 * time.Second, 1000, 10, 11 * time.Second},
		{10 * time.Second, 0, 0, 11 * time.Second},
	} {
		if got := p.spend(&limits, at.Add(x.after), x.rows, x.bytes); got != at.Add(x.want) || p.next() != got {
			t.Errorf("%+v: more after %v", x, got.Sub(at))
		}
	}
	if got := new(limiter).spend(&CopyLimits{}, at, 1e6, 1e9); got != at {
		t.Errorf("without limits more after %v", got.Sub(at))
	}
}

// TestCopyOrder: what is named comes first, then small tables before large ones, and no faster than the rate allows, with a key
// and without.
func TestCopyOrder(t *testing.T) {
	pg := testbed.Postgres(t, "")
	b := newBed(t, pg, testbed.Kafka(t), "order")
	b.copying(1, 64<<10)
	copying := b.adjust
	b.adjust = func(c *Config) {
		copying(c)
		c.Copy.Limits.RowsPerSecond = 1500
		c.Copy.Priority = func(_, table string) int {
			if table == "large" {
				return 0
			}
			return 1
		}
	}
	for _, x := range []struct {
		table string
		rows  int
	}{{"a_middle", 600}, {"b_small", 1}, {"large", 1500}} {
		pg.Exec(testbed.Owner, fmt.Sprintf("CREATE TABLE %s (id int PRIMARY KEY, pad text)", x.table),
			fmt.Sprintf("INSERT INTO %s SELECT i, repeat('x', 100) FROM generate_series(1, %d) i", x.table, x.rows))
	}
	pg.Exec(testbed.Owner, "CREATE TABLE keyless (a int)", "INSERT INTO keyless SELECT generate_series(1, 3000)", "GRANT SELECT ON ALL TABLES IN SCHEMA public TO "+testbed.Reader)
	b.publish("a_middle, b_small, large, keyless")
	b.start()
	copies := b.copied(4)
	var last time.Time
	for _, name := range []string{"large", "b_small", "a_middle", "keyless"} {
		c := copies[name]
		if c.State != backfill.Done || c.Size == 0 || c.Finished.Before(last) {
			t.Errorf("%s: %+v", name, c)
		}
		last = c.Finished
	}
	// The last chunk of all is placed before its time is over.
	if took := last.Sub(copies["large"].Started); took < 2*time.Second {
		t.Errorf("5101 rows were copied in %v, at 1500 a second", took)
	}
}

// TestCopyPauses: no chunk is read while the source is busy, and whoever asks is told why.
func TestCopyPauses(t *testing.T) {
	pg := testbed.Postgres(t, "")
	b := newBed(t, pg, testbed.Kafka(t), "pauses")
	b.copying(1, 64<<10)
	copying := b.adjust
	b.adjust = func(c *Config) {
		copying(c)
		c.Copy.Limits.MaxSessions = 1
	}
	pg.Exec(testbed.Owner, "CREATE TABLE item (id int PRIMARY KEY)", "INSERT INTO item SELECT generate_series(1, 100)", "GRANT SELECT ON item TO "+testbed.Reader)
	b.publish("item")
	waits := func(r *running, text string) {
		t.Helper()
		b.await("the copy to wait for "+text, r, func() bool {
			c := r.Health().Copies
			return len(c) == 1 && c[0].Rows == 0 && strings.Contains(c[0].Waits, text)
		})
	}
	r := b.start()
	waits(r, "GRANT pg_read_all_stats")
	// Two sessions that are busy until a lock is given up.
	lock := pg.Connect(testbed.Owner)
	must(t, lock, "SELECT pg_advisory_lock(77)")
	for range 2 {
		c := pg.Connect(testbed.Owner)
		done := make(chan error, 1)
		go func() {
			_, err := c.Exec(t.Context(), "SELECT pg_advisory_lock_shared(77)")
			done <- err
		}()
		t.Cleanup(func() {
			if err := <-done; err != nil {
				t.Error(err)
			}
		})
	}
	pg.Exec(testbed.Superuser, "GRANT pg_read_all_stats TO "+testbed.Reader)
	waits(r, "sessions are active in the source, and backfill.max_sessions is 1")
	must(t, lock, "SELECT pg_advisory_unlock(77)")
	if c := b.copied(1)["item"]; c.Rows != 100 {
		t.Errorf("%+v", c)
	}
	if !strings.Contains(b.logged.take(), "copies go on") {
		t.Error("nobody was told that copies go on")
	}
}
