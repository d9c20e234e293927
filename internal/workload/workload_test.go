package workload

import (
	"bytes"
	"context"
	"encoding/json"
	"math/rand/v2"
	"os"
	"reflect"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"walferry/internal/pgserver"
)

func database(t *testing.T) (*pgserver.Server, *pgx.Conn) {
	t.Helper()
	s, err := pgserver.Start(t.Context(), pgserver.Config{Progress: os.Stderr})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.Remove(); err != nil {
			t.Error(err)
		}
	})
	return s, dial(t, s)
}

func shop(t *testing.T) (*pgserver.Server, *pgx.Conn) {
	t.Helper()
	s, c := database(t)
	if err := Create(t.Context(), c); err != nil {
		t.Fatal(err)
	}
	return s, c
}

func dial(t *testing.T, s *pgserver.Server) *pgx.Conn {
	t.Helper()
	c, err := pgx.Connect(t.Context(), s.DSN("postgres", "postgres"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Close(context.Background()) }) // may be cut by then
	return c
}

// TestRun holds that the audit is the truth: its count is what the writers committed, and replaying it gives the tables.
func TestRun(t *testing.T) {
	s, c := shop(t)
	large := make(chan int, 1)
	large <- 3000
	stats, err := Run(t.Context(), Config{DSN: s.DSN("postgres", "postgres"), Seed: 1, Transactions: 120, DDL: true, Big: 2000, Large: large})
	if err != nil {
		t.Fatal(err)
	}
	t.Logf("%+v", stats)
	if stats.Transactions == 0 || stats.RolledBack == 0 || stats.Altered == 0 || stats.Uncertain != 0 {
		t.Errorf("%+v: want commits, rollbacks and ALTERs, and nothing uncertain", stats)
	}
	n, err := Committed(t.Context(), c)
	if err != nil {
		t.Fatal(err)
	}
	if n != stats.Changes {
		t.Errorf("audit has %d changes, writers counted %d", n, stats.Changes)
	}
	replay(t, c, n)

	// What the workload is for must be in it.
	for what, sql := range map[string]string{
		"key updates":                 "SELECT count(*) FROM audit.changes WHERE op = 'U' AND old->>'id' <> new->>'id'",
		"updates beside TOAST":        "SELECT count(*) FROM audit.changes WHERE tbl = 'public.documents' AND op = 'U' AND old->>'body' = new->>'body'",
		"TOASTed values":              "SELECT count(*) FROM documents WHERE pg_column_size(body) > 2000",
		"transactions over 50 rows":   "SELECT count(*) FROM (SELECT FROM audit.changes GROUP BY xid HAVING count(*) > 50) x",
		"the big transaction":         "SELECT count(*) FROM (SELECT FROM audit.changes GROUP BY xid HAVING count(*) = 2000) x",
		"large transaction on demand": "SELECT count(*) FROM (SELECT FROM audit.changes GROUP BY xid HAVING count(*) = 3000) x",
		"keys of several writers":     "SELECT count(*) FROM (SELECT FROM audit.changes WHERE tbl = 'public.orders' GROUP BY new->>'id' HAVING count(DISTINCT xid) > 2) x",
		"deletes":                     "SELECT count(*) FROM audit.changes WHERE op = 'D'",
		"changes with another column": "SELECT count(*) FROM audit.changes WHERE new::text LIKE '%extra_%'",
	} {
		var n int
		if err := c.QueryRow(t.Context(), sql).Scan(&n); err != nil {
			t.Fatal(err)
		}
		if n == 0 {
			t.Errorf("no %s", what)
		}
	}
}

// replay folds the export's changes and compares with its rows.
func replay(t *testing.T, c *pgx.Conn, want int64) {
	t.Helper()
	var b bytes.Buffer
	if err := Export(t.Context(), c, &b); err != nil {
		t.Fatal(err)
	}
	keys := map[string][]string{}
	folded, rows := map[string]map[string]any{}, map[string]map[string]any{}
	var changes int64
	for d := json.NewDecoder(&b); d.More(); {
		var l struct {
			Kind, Table, Op string
			Key             []string
			Old, New, Row   map[string]any
		}
		d.UseNumber()
		if err := d.Decode(&l); err != nil {
			t.Fatal(err)
		}
		id := func(row map[string]any) string {
			key := []any{l.Table}
			for _, k := range keys[l.Table] {
				key = append(key, row[k])
			}
			b, err := json.Marshal(key)
			if err != nil {
				t.Fatal(err)
			}
			return string(b)
		}
		switch l.Kind {
		case "table":
			if len(l.Key) == 0 {
				t.Fatalf("%s has no key", l.Table)
			}
			keys[l.Table] = l.Key
		case "change":
			changes++
			if l.Old != nil {
				delete(folded, id(l.Old))
			}
			if l.New != nil {
				folded[id(l.New)] = l.New
			}
		case "row":
			rows[id(l.Row)] = l.Row
		}
	}
	if changes != want {
		t.Errorf("%d changes exported, want %d", changes, want)
	}
	if len(keys) != len(All()) || len(rows) == 0 || len(folded) != len(rows) {
		t.Fatalf("%d tables, %d rows, %d folded", len(keys), len(rows), len(folded))
	}
	for id, row := range rows {
		for column, value := range row {
			if !reflect.DeepEqual(folded[id][column], value) { // an added column that no change has named is null
				t.Fatalf("%s: %s is %v in the table and %v in the audit", id, column, value, folded[id][column])
			}
		}
	}
}

// TestRunOverCrash goes on when the server is killed and started again, and the audit still replays to the tables.
func TestRunOverCrash(t *testing.T) {
	s, _ := shop(t)
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	type result struct {
		Stats
		error
	}
	done := make(chan result, 1)
	go func() {
		st, err := Run(ctx, Config{DSN: s.DSN("postgres", "postgres"), Seed: 2})
		done <- result{st, err}
	}()
	written := func(more int64) {
		c := dial(t, s)
		begin, err := Committed(t.Context(), c)
		for n := begin; err == nil && n < begin+more; n, err = Committed(t.Context(), c) {
			time.Sleep(20 * time.Millisecond)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	written(500)
	if err := s.Restart(t.Context(), pgserver.Immediate); err != nil {
		t.Fatal(err)
	}
	written(500)
	cancel()
	r := <-done
	if r.error != nil {
		t.Fatal(r.error)
	}
	t.Logf("%+v", r.Stats)
	if r.Reconnects < 4 {
		t.Errorf("%d reconnects of 4 writers", r.Reconnects)
	}
	c := dial(t, s)
	n, err := Committed(t.Context(), c)
	if err != nil {
		t.Fatal(err)
	}
	replay(t, c, n)
}

// TestPlan holds that a seed makes the same statements, and another seed other ones.
func TestPlan(t *testing.T) {
	plans := func(seed uint64) (all [][]statement) {
		w := writer{cfg: Config{Writers: 4, Tables: All()}, next: 1000, rng: rand.New(rand.NewPCG(seed, 0))}
		for range 200 {
			plan := w.plan()
			if len(plan) < 1 || len(plan) > 202 {
				t.Fatalf("%d statements", len(plan))
			}
			all = append(all, plan)
		}
		return all
	}
	if !reflect.DeepEqual(plans(1), plans(1)) {
		t.Error("one seed, two plans")
	}
	if reflect.DeepEqual(plans(1), plans(2)) {
		t.Error("two seeds, one plan")
	}
}

func TestRunSaysWhy(t *testing.T) {
	s, _ := shop(t)
	c := dial(t, s)
	if _, err := c.Exec(t.Context(), "ALTER TABLE orders DROP COLUMN note"); err != nil {
		t.Fatal(err)
	}
	if _, err := c.Exec(t.Context(), "ALTER TABLE items ADD CHECK (false) NOT VALID"); err != nil {
		t.Fatal(err)
	}
	if _, err := Run(t.Context(), Config{DSN: s.DSN("postgres", "postgres"), Transactions: 50}); err == nil {
		t.Error("a check that fails every insert went unnoticed")
	}
	if _, err := Run(t.Context(), Config{DSN: s.DSN("nowhere", "postgres"), Transactions: 1}); err == nil {
		t.Error("a database that is not there went unnoticed")
	}
}
