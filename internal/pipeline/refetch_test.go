package pipeline

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"

	"github.com/jackc/pgx/v5"

	"walferry/internal/testbed"
	"walferry/schema"
)

// TestRefetchTogether: whatever happens to rows, one after the other and many in a block, a consumer that folds the events has the
// table in the end, and no value that was read again is older than its event. Few questions are asked for many rows.
func TestRefetchTogether(t *testing.T) {
	pg := testbed.Postgres(t, "")
	b := newBed(t, pg, testbed.Kafka(t), "together")
	b.adjust = func(c *Config) {
		options := c.SchemaOptions
		c.SchemaOptions = func(s, table, db, systemID string) schema.Options {
			o := options(s, table, db, systemID)
			o.Toast = schema.ToastRefetch
			return o
		}
	}
	tables := []string{"one", "two"}
	for _, table := range tables {
		pg.Exec(testbed.Owner, `CREATE TABLE `+table+` (id int PRIMARY KEY, n int, big text, more text)`,
			`ALTER TABLE `+table+` ALTER big SET STORAGE EXTERNAL, ALTER more SET STORAGE EXTERNAL`, `GRANT SELECT ON `+table+` TO `+testbed.Reader)
	}
	b.publish("one, two")
	r := b.start()
	r.first(t)

	rng := rand.New(rand.NewPCG(4, 4))
	version := 0
	value := func() string {
		version++
		return fmt.Sprintf("'%06d' || repeat('x', 3000)", version)
	}
	transaction := func() string {
		sql := []string{"BEGIN"}
		for range 1 + rng.IntN(8) {
			table, id := tables[rng.IntN(2)], 1+rng.IntN(12)
			switch rng.IntN(12) {
			case 0, 1:
				sql = append(sql, fmt.Sprintf(`INSERT INTO %s VALUES (%d, 0, %s, %s) ON CONFLICT DO NOTHING`, table, id, value(), value()))
			case 2:
				sql = append(sql, fmt.Sprintf(`UPDATE %s SET big = %s WHERE id %% 100 = %d`, table, value(), id))
			case 3:
				sql = append(sql, fmt.Sprintf(`UPDATE %s SET more = %s WHERE id %% 100 IN (%d, %d)`, table, []string{value(), "NULL"}[rng.IntN(2)], id, id+1))
			case 4:
				sql = append(sql, fmt.Sprintf(`DELETE FROM %s WHERE id %% 100 = %d`, table, id))
			case 5:
				sql = append(sql, fmt.Sprintf(`UPDATE %s t SET id = id + 100 WHERE id = %d AND NOT EXISTS (SELECT FROM %s o WHERE o.id = t.id + 100)`, table, id, table))
			default:
				sql = append(sql, fmt.Sprintf(`UPDATE %s SET n = n + 1 WHERE id %% 100 BETWEEN %d AND %d`, table, id, id+4))
			}
		}
		return strings.Join(append(sql, "COMMIT"), "; ")
	}
	transactions := func(n int) (sql []string) {
		for range n {
			sql = append(sql, transaction())
		}
		return sql
	}
	pg.Exec(testbed.Owner, transactions(60)...) // close behind
	b.caughtUp(r)
	r.drain(t)
	b.logged.take()
	pg.Exec(testbed.Owner, slices.Concat(transactions(100), []string{`ALTER TABLE one ADD w int`}, transactions(100))...)
	r = b.start()
	b.caughtUp(r)
	said := b.logged.take()
	if strings.Contains(said, "stay marked for a while") {
		t.Fatal("a row could not be read in time, so the rest says nothing")
	}

	again := 0
	for _, table := range tables {
		type row struct{ n, big, more any }
		rows, newest := map[any]row{}, map[any][2]string{} // versions that the stream itself has sent
		events := b.all(table)
		slices.SortStableFunc(events, func(x, y event) int { return x.place(t).compare(y.place(t)) })
		for _, e := range events {
			if e.value == nil {
				continue
			}
			if e.value["op"] == "d" {
				delete(rows, e.at("before", "id"))
				delete(newest, e.at("before", "id"))
				continue
			}
			id := e.at("after", "id")
			now, sent := row{n: e.at("after", "n")}, newest[id]
			for i, column := range []string{"big", "more"} {
				v := e.at("after", column)
				switch {
				case strings.Contains(fmt.Sprint(e.at("unavailable")), column):
					v = [...]any{rows[id].big, rows[id].more}[i]
				case strings.Contains(e.header("refetched"), `"`+column+`"`):
					again++
					if s, ok := v.(string); !ok || s < sent[i] {
						t.Errorf("table %s, row %v: %.6v was read again after %.6s was sent", table, id, v, sent[i])
					}
				default:
					sent[i], _ = v.(string)
				}
				*[...]*any{&now.big, &now.more}[i] = v
			}
			rows[id], newest[id] = now, sent
		}
		type stored struct {
			ID, N     int32
			Big, More *string
		}
		q, err := pg.Connect(testbed.Owner).Query(t.Context(), `SELECT id, n, big, more FROM `+table)
		if err != nil {
			t.Fatal(err)
		}
		wants, err := pgx.CollectRows(q, pgx.RowToStructByPos[stored])
		if err != nil {
			t.Fatal(err)
		}
		for _, want := range wants {
			got, text := rows[want.ID], func(s *string) any {
				if s == nil {
					return nil
				}
				return *s
			}
			if got.n != want.N || got.big != text(want.Big) || got.more != text(want.More) {
				t.Errorf("table %s, row %d folds to %v, %.6v, %.6v, want %d, %.6v, %.6v", table, want.ID, got.n, got.big, got.more, want.N, text(want.Big), text(want.More))
			}
		}
		if n := len(wants); n != len(rows) || n < 5 {
			t.Errorf("table %s has %d rows, its events %d", table, n, len(rows))
		}
	}
	questions := strings.Count(said, "rows read again")
	t.Logf("%d values read again, %d questions in the second run", again, questions)
	if again < 500 || questions == 0 || questions > again/10 {
		t.Errorf("%d questions for %d values", questions, again)
	}
	r.drain(t)
}
