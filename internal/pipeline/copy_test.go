package pipeline

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"walferry/internal/backfill"
	"walferry/internal/testbed"
)

func everyTable(string, string) bool { return true }

// copying makes the pipelines of a bed copy every table, in chunks so small that a table has many: bufferBytes is for rows alone.
func (b *bed) copying(workers, bufferBytes int) {
	adjust := b.adjust
	b.adjust = func(c *Config) {
		if adjust != nil {
			adjust(c)
		}
		c.Copy = Copy{Wanted: everyTable, Workers: workers, BufferBytes: 2 * bufferBytes, ChunkTime: 20 * time.Millisecond, StatementTimeout: time.Minute}
		c.Copy.small.noteBytes = 16 << 20
	}
}

// smallBatches makes a chunk larger than a batch.
func smallBatches(adjust func(*Config)) func(*Config) {
	return func(c *Config) {
		adjust(c)
		c.Sink.MaxBatchBytes = 6 << 10
	}
}

// copied waits until the checkpoint topic says that the copies of n tables are done, and returns them by table.
func (b *bed) copied(n int) map[string]*backfill.Copy {
	b.t.Helper()
	ctx, done := context.WithTimeout(b.t.Context(), 5*time.Minute)
	defer done()
	for {
		out := b.copies(ctx)
		over := 0
		for _, c := range out {
			if c.State.Over() {
				over++
			}
		}
		if over >= n {
			return out
		}
		if err := sleep(ctx, 50*time.Millisecond); err != nil {
			for name, c := range out {
				b.t.Logf("%s: %+v", name, *c)
			}
			b.t.Fatalf("%d of %d tables are copied", over, n)
		}
	}
}

func (b *bed) copies(ctx context.Context) map[string]*backfill.Copy {
	b.t.Helper()
	s := &store{topic: "_walferry." + b.name, kafka: b.client}
	state, err := s.peek(ctx)
	if err != nil {
		return nil // not made yet
	}
	out := map[string]*backfill.Copy{}
	for _, saved := range state.Copies {
		c := new(backfill.Copy)
		if err := json.Unmarshal(saved.Payload, c); err != nil {
			b.t.Fatal(err)
		}
		out[c.Table] = c
	}
	return out
}

// TestCopyFirst copies tables of several kinds while others write to them, with the process killed now and then, and holds each
// key's events in their order to the table.
func TestCopyFirst(t *testing.T) {
	for _, version := range []string{"14", "18"} {
		t.Run(version, func(t *testing.T) {
			pg := testbed.Postgres(t, version)
			b := newBed(t, pg, testbed.Kafka(t), "copy"+version)
			b.copying(2, 48<<10)
			b.adjust = smallBatches(b.adjust)
			pg.Exec(testbed.Owner,
				`CREATE TABLE item (id bigint PRIMARY KEY, v int, big text)`,
				`ALTER TABLE item ALTER big SET STORAGE EXTERNAL`,
				`INSERT INTO item SELECT i, 0, CASE WHEN i % 10 = 0 THEN repeat('x', 3000) || i ELSE 'small' END FROM generate_series(1, 1200) i`,
				`CREATE TABLE pair (a text, b uuid, v int, PRIMARY KEY (a, b))`,
				`INSERT INTO pair SELECT 'a' || i % 7, md5(i::text)::uuid, 0 FROM generate_series(1, 1200) i`,
				`CREATE TABLE empty (id int PRIMARY KEY)`,
				`CREATE TABLE root (id int, at int, v int, PRIMARY KEY (id, at)) PARTITION BY RANGE (at)`,
				`CREATE TABLE leaf1 PARTITION OF root FOR VALUES FROM (0) TO (10)`,
				`CREATE TABLE leaf2 PARTITION OF root FOR VALUES FROM (10) TO (20)`,
				`INSERT INTO root SELECT i, i % 20, 0 FROM generate_series(1, 900) i`,
				`CREATE TABLE keyless (a int, b text)`, `ALTER TABLE keyless REPLICA IDENTITY FULL`,
				`INSERT INTO keyless SELECT i % 50, 'k' FROM generate_series(1, 1200) i`,
				`GRANT SELECT ON ALL TABLES IN SCHEMA public TO `+testbed.Reader)
			b.publish("item, pair, empty, root, keyless")
			ctx, cancel := context.WithCancel(t.Context())
			var writers sync.WaitGroup
			var moved atomic.Int64
			for w := range 3 {
				conn := pg.Connect(testbed.Owner)
				r := rand.New(rand.NewPCG(uint64(w), 1))
				writers.Go(func() {
					for n := 0; ctx.Err() == nil; n++ {
						if n%16 == 0 && !b.keepsUp(ctx, conn) {
							return
						}
						i := 1 + r.IntN(1200)
						sql := []string{
							fmt.Sprintf("UPDATE item SET v = v + 1 WHERE id = %d", i),
							fmt.Sprintf("UPDATE item SET v = v + 1 WHERE id = %d", (i+9)/10*10),
							fmt.Sprintf("UPDATE item SET id = %d WHERE id = %d", 10_000+moved.Add(1), i),
							fmt.Sprintf("DELETE FROM item WHERE id = %d", i),
							fmt.Sprintf("INSERT INTO item VALUES (%d, 1, repeat('y', 2500)) ON CONFLICT DO NOTHING", i),
							fmt.Sprintf("UPDATE pair SET v = v + 1 WHERE b = md5('%d')::uuid", i),
							fmt.Sprintf("DELETE FROM pair WHERE b = md5('%d')::uuid", i),
							fmt.Sprintf("UPDATE root SET v = v + 1 WHERE id = %d", i),
							fmt.Sprintf("UPDATE root SET at = (at + 7) %% 20 WHERE id = %d", i),
							fmt.Sprintf("INSERT INTO keyless VALUES (%d, 'n')", i%50),
							fmt.Sprintf("UPDATE keyless SET b = b || 'u' WHERE ctid = (SELECT ctid FROM keyless WHERE a = %d LIMIT 1)", i%50),
							fmt.Sprintf("DELETE FROM keyless WHERE ctid = (SELECT ctid FROM keyless WHERE a = %d LIMIT 1)", i%50),
						}[r.IntN(12)]
						// Two that move a row of one partition: one of them fails.
						if _, err := conn.Exec(context.Background(), sql); err != nil {
							if pe, ok := errors.AsType[*pgconn.PgError](err); ok && pe.Code == "40001" {
								continue // two have moved one row to another partition
							}
							t.Errorf("%s: %v", sql, err)
							return
						}
						time.Sleep(time.Millisecond)
					}
				})
			}
			for _, place := range []string{"chunk-placed", "chunk-split", "before-publish", "after-commit", "chunk-placed", "after-confirm"} {
				b.killAt(place, 1+rand.IntN(3))
			}
			r := b.start()
			copies := b.copied(5)
			cancel()
			writers.Wait()
			b.caughtUp(r)
			for name, c := range copies {
				t.Logf("%s: generation %d, %d rows, %d left out, %d bytes", name, c.Generation, c.Rows, c.Newer, c.Bytes)
			}
			for _, table := range []string{"item", "pair", "root"} {
				b.holdsTable(table)
			}
			b.holdsKeyless("keyless")
		})
	}
}

// keepsUp has a writer wait until the stream is near, or the chunks would wait longer the slower the machine is. It returns false
// when ctx has ended.
func (b *bed) keepsUp(ctx context.Context, c *pgx.Conn) bool {
	for {
		var near bool
		if err := c.QueryRow(context.WithoutCancel(ctx), `SELECT coalesce(pg_current_wal_insert_lsn() - confirmed_flush_lsn < 1000000, true)
			FROM (SELECT 1) AS one LEFT JOIN pg_replication_slots ON slot_name = $1`, "walferry_"+b.name).Scan(&near); err != nil {
			b.t.Errorf("how far the stream is: %v", err)
			return false
		}
		if near {
			return ctx.Err() == nil
		}
		if err := sleep(ctx, 20*time.Millisecond); err != nil {
			return false
		}
	}
}

// holdsTable folds the events of a table, key by key in their order, and compares what is left with the table. No key may be read
// twice in a generation, and no large value may be missing.
func (b *bed) holdsTable(table string) {
	b.t.Helper()
	type row map[string]any
	fold, reads, ids := map[string]row{}, map[string]int{}, map[string]bool{}
	left := map[string]row{} // rows that have moved to another key, by the one they had
	events := slices.DeleteFunc(b.all(table), func(e event) bool { return e.value == nil })
	// A row that moves to another key can go to another partition. Reads are behind the transaction whose commit they have.
	slices.SortStableFunc(events, func(x, y event) int {
		if c := cmp.Compare(x.at("source", "commit_lsn").(int64), y.at("source", "commit_lsn").(int64)); c != 0 {
			return c
		}
		switch xr, yr := x.value["op"] == "r", y.value["op"] == "r"; {
		case xr && yr:
			return 0
		case xr:
			return 1
		case yr:
			return -1
		}
		return x.place(b.t).compare(y.place(b.t))
	})
	for _, e := range events {
		if id := e.header("id"); ids[id] {
			b.t.Errorf("%s: id %s comes twice", table, id)
		} else {
			ids[id] = true
		}
		key := string(e.Key)
		switch op := e.value["op"]; op {
		case "d":
			left[key] = fold[key]
			delete(fold, key)
		case "c", "u", "r":
			after := row(inner(e.value["after"]).(map[string]any))
			if op == "r" {
				if reads[e.header("id")]++; e.at("source", "snapshot") == "false" {
					b.t.Errorf("%s: a read without a marker", table)
				}
			}
			lacks, _ := inner(e.value["unavailable"]).([]any)
			for _, name := range lacks {
				old := fold[key]
				if from := e.header("__debezium.oldkey"); from != "" {
					old = left[from]
				}
				after[name.(string)] = "?"
				if v, ok := old[name.(string)]; ok {
					after[name.(string)] = v
				}
			}
			fold[key] = after
		}
	}
	var got []string
	for _, r := range fold {
		got = append(got, rowText(r))
	}
	slices.Sort(got)
	rows, err := b.pg.Connect(testbed.Owner).Query(b.t.Context(), "SELECT * FROM "+table)
	if err != nil {
		b.t.Fatal(err)
	}
	var want []string
	for rows.Next() {
		values, err := rows.Values()
		if err != nil {
			b.t.Fatal(err)
		}
		r := row{}
		for i, f := range rows.FieldDescriptions() {
			if u, ok := values[i].([16]byte); ok {
				values[i] = fmt.Sprintf("%x-%x-%x-%x-%x", u[:4], u[4:6], u[6:8], u[8:10], u[10:])
			}
			r[f.Name] = values[i]
		}
		want = append(want, rowText(r))
	}
	slices.Sort(want)
	if !slices.Equal(got, want) {
		missing, more := 0, 0
		for _, x := range want {
			if !slices.Contains(got, x) {
				if missing++; missing < 5 {
					b.t.Logf("only in the table: %.100s", x)
				}
			}
		}
		for _, x := range got {
			if !slices.Contains(want, x) {
				if more++; more < 5 {
					b.t.Logf("only in the events: %.100s", x)
				}
			}
		}
		b.t.Errorf("%s: the table has %d rows and its events fold to %d: %d rows are missing, %d should not be", table, len(want), len(got), missing, more)
	}
}

func rowText(r map[string]any) string {
	var out []string
	for _, k := range slices.Sorted(maps.Keys(r)) {
		out = append(out, fmt.Sprintf("%s=%v", k, inner(r[k])))
	}
	return strings.Join(out, " ")
}

// holdsKeyless counts the rows of a table without a key: in each partition a truncate event makes the rest of that partition begin
// anew, and the order of all others says nothing.
func (b *bed) holdsKeyless(table string) {
	b.t.Helper()
	parts, emptied := map[int32]map[string]int{}, 0
	for _, e := range b.all(table) {
		if parts[e.Partition] == nil {
			parts[e.Partition] = map[string]int{}
		}
		bump := func(v any, n int) { parts[e.Partition][rowText(inner(v).(map[string]any))] += n }
		switch e.value["op"] {
		case "t":
			clear(parts[e.Partition])
			emptied++
		case "c", "r":
			bump(e.value["after"], 1)
		case "d":
			bump(e.value["before"], -1)
		case "u":
			bump(e.value["before"], -1)
			bump(e.value["after"], 1)
		}
	}
	count := map[string]int{}
	for _, part := range parts {
		for text, n := range part {
			if count[text] += n; count[text] == 0 {
				delete(count, text)
			}
		}
	}
	rows, err := b.pg.Connect(testbed.Owner).Query(b.t.Context(), "SELECT a, b, count(*) FROM "+table+" GROUP BY a, b")
	if err != nil {
		b.t.Fatal(err)
	}
	var x int32
	var y string
	var n, wrong, total int
	if _, err := pgx.ForEachRow(rows, []any{&x, &y, &n}, func() error {
		text := rowText(map[string]any{"a": x, "b": y})
		if total += n; count[text] != n {
			if wrong++; wrong < 10 {
				b.t.Logf("%s: %d times in the table, %d in the events", text, n, count[text])
			}
		}
		delete(count, text)
		return nil
	}); err != nil {
		b.t.Fatal(err)
	}
	if wrong > 0 || len(count) > 0 || emptied == 0 {
		b.t.Errorf("%s: %d kinds of rows differ, %d are too many, of %d rows; it was emptied %d times", table, wrong, len(count), total, emptied/3)
	}
}

// TestCopyHeld: a row that cannot be published holds up the copy of its table with all that was read behind it, and neither the
// stream nor another table. When it is mended the copy goes on from there.
func TestCopyHeld(t *testing.T) {
	pg := testbed.Postgres(t, "")
	b := newBed(t, pg, testbed.Kafka(t), "held")
	b.copying(2, 8<<10)
	pg.Exec(testbed.Owner,
		`CREATE TABLE item (id int PRIMARY KEY, n numeric(8,2), pad text)`,
		`INSERT INTO item SELECT i, CASE i WHEN 700 THEN 'NaN'::numeric END, repeat('x', 50) FROM generate_series(1, 2000) i`,
		`CREATE TABLE other (id int PRIMARY KEY)`, `INSERT INTO other SELECT generate_series(1, 500)`,
		`GRANT SELECT ON ALL TABLES IN SCHEMA public TO `+testbed.Reader)
	b.publish("item, other")
	r := b.start()
	held := func() string {
		for _, c := range r.Health().Copies {
			if c.Table == "item" {
				return c.Waits
			}
		}
		return ""
	}
	b.await("the copy of item to be held", r, func() bool { return held() != "" })
	if text := held(); !strings.Contains(text, "NaN") || !strings.Contains(text, "id=700") {
		t.Errorf("it waits for %q", text)
	}
	pg.Exec(testbed.Owner, `INSERT INTO item VALUES (5000, NULL, 'new')`, `INSERT INTO other VALUES (5000)`, `UPDATE item SET pad = 'changed' WHERE id < 800 AND id <> 700`)
	b.caughtUp(r)
	if c := b.copies(t.Context())["item"]; c.Rows == 0 || c.Rows >= 700 || c.State.Over() {
		t.Errorf("before the row it cannot publish: %+v", c)
	}
	if c := b.copied(1)["other"]; c.State != backfill.Done {
		t.Errorf("the other table: %+v", c)
	}
	pg.Exec(testbed.Owner, `UPDATE item SET n = NULL WHERE id = 700`)
	b.copied(2)
	b.caughtUp(r)
	b.holdsTable("item")
	b.holdsTable("other")
}
