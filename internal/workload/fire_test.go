package workload

import (
	"testing"
)

// TestFire holds what the oracle rests on: whatever a key has is of a higher version than what it had before.
func TestFire(t *testing.T) {
	s, c := database(t)
	rows := map[string]int64{Counters: 300, Pairs: 200, Marks: 100, Blobs: 60}
	if err := CreateFire(t.Context(), c, rows); err != nil {
		t.Fatal(err)
	}
	stats, err := Run(t.Context(), Config{DSN: s.DSN("postgres", "postgres"), Seed: 1, Writers: 8, Transactions: 30, Tables: Fire(), Rows: rows})
	if err != nil {
		t.Fatal(err)
	}
	t.Logf("%+v", stats)
	if n, err := Committed(t.Context(), c); err != nil || n < stats.Changes { // a row that comes back is two changes of one statement
		t.Errorf("%d changes in the audit, %d were counted; %v", n, stats.Changes, err)
	}
	const states = `WITH states AS (
		SELECT seq, 0 AS part, tbl, concat_ws(',', old->>'id', old->>'a', old->>'b') AS key, (old->>'version')::bigint AS version FROM audit.changes WHERE old IS NOT NULL
		UNION ALL SELECT seq, 1, tbl, concat_ws(',', new->>'id', new->>'a', new->>'b'), (new->>'version')::bigint FROM audit.changes WHERE new IS NOT NULL),
		steps AS (SELECT *, max(version) OVER (PARTITION BY tbl, key ORDER BY seq, part ROWS BETWEEN UNBOUNDED PRECEDING AND 1 PRECEDING) AS before
			FROM states WHERE tbl <> 'public.marks')
		SELECT count(*) FROM steps WHERE `
	for what, sql := range map[string]string{
		"a version that is not above the one before": states + "part = 1 AND version <= before",
		"a row from before":                          states + "part = 0 AND version < before",
	} {
		var n int
		if err := c.QueryRow(t.Context(), sql).Scan(&n); err != nil || n > 0 {
			t.Errorf("%s: %d times; %v", what, n, err)
		}
	}
	for what, sql := range map[string]string{
		"keys that were left for others":           "SELECT count(*) FROM audit.changes WHERE old->>'id' <> new->>'id' OR old->>'b' <> new->>'b'",
		"with a large value that stayed":           "SELECT count(*) FROM audit.changes WHERE old->>'id' <> new->>'id' AND length(new->>'body') > 2000",
		"keys that came back":                      "SELECT count(*) FROM audit.changes d JOIN audit.changes i ON i.xid = d.xid AND i.tbl = d.tbl AND i.new->>'id' = d.old->>'id' WHERE d.op = 'D' AND i.op = 'I'",
		"rows without a key that are there twice":  "SELECT count(*) FROM (SELECT FROM marks GROUP BY n, version, note HAVING count(*) > 1) x",
		"changes of a row by several transactions": "SELECT count(*) FROM (SELECT FROM audit.changes GROUP BY tbl, new->>'id' HAVING count(DISTINCT xid) > 2) x",
	} {
		var n int
		if err := c.QueryRow(t.Context(), sql).Scan(&n); err != nil || n == 0 {
			t.Errorf("no %s; %v", what, err)
		}
	}
}
