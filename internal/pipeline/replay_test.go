package pipeline

import (
	"errors"
	"fmt"
	"regexp"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"walferry/checkpoint"
	"walferry/internal/testbed"
	"walferry/schema"
	"walferry/sink"
)

// armed starts a pipeline that ends at the nth time that it comes to a place, once armed by the returned function.
func (b *bed) armed(place string, nth int) (r *running, arm func()) {
	b.t.Helper()
	r = b.start()
	var mu sync.Mutex
	on, seen := false, 0
	hook(b.t, func(p string) {
		mu.Lock()
		defer mu.Unlock()
		if on && p == place {
			if seen++; seen == nth {
				r.cancel(errKilled)
			}
		}
	})
	return r, func() { mu.Lock(); on = true; mu.Unlock() }
}

// killed waits for the end that armed promises.
func (r *running) killed(t testing.TB) {
	t.Helper()
	if err := r.ended(t); !errors.Is(err, errKilled) {
		t.Fatalf("ended with %v, want %v", err, errKilled)
	}
	testHook.Store(nil)
}

// schemaID is that of an event's value.
func (e event) schemaID(t testing.TB) int32 {
	t.Helper()
	id, _, err := schema.ParseWire(e.Value)
	if err != nil {
		t.Fatal(err)
	}
	return id
}

// TestSplitReconfigured: ⚔ a transaction that was killed between its second and its third part goes on at the same row whatever
// was changed in the configuration meanwhile. Its rows come by COPY, so that many share one LSN.
func TestSplitReconfigured(t *testing.T) {
	pg := testbed.Postgres(t, "", "max_replication_slots=20", "max_wal_senders=20")
	broker := testbed.Kafka(t)
	const rows = 300
	for i, c := range []struct {
		name        string
		first, then func(*Config)
		half        string // table of which only a part is there: before the split's position, or behind it
		before      bool
	}{
		{name: "larger batches", then: func(c *Config) { c.Sink.MaxBatchBytes = 24 << 10 }},
		{name: "smaller batches", then: func(c *Config) { c.Sink.MaxBatchBytes = 4 << 10 }},
		{name: "another envelope", then: func(c *Config) { c.Envelope = schema.EnvelopeRow }},
		{name: "a table excluded", then: func(c *Config) { c.Source.Exclude = []string{"public.other*"} }, half: "other", before: true},
		{name: "a table included", first: func(c *Config) { c.Source.Exclude = []string{"public.other*"} }, half: "other"},
		{name: "text mode", then: func(c *Config) { c.Source.TextMode = true }},
	} {
		t.Run(c.name, func(t *testing.T) {
			b := newBed(t, pg, broker, fmt.Sprintf("reconf%d", i))
			item, other := "item"+b.name, "other"+b.name
			pg.Exec(testbed.Owner, `CREATE TABLE `+item+` (id int PRIMARY KEY, pad text)`, `CREATE TABLE `+other+` (id int PRIMARY KEY, pad text)`)
			b.publish(item + ", " + other)
			adjust := func(more func(*Config)) func(*Config) {
				return func(c *Config) {
					c.Source.Heartbeat, c.Sink.MaxBatchBytes = time.Hour, 12<<10
					if more != nil {
						more(c)
					}
				}
			}
			b.adjust = adjust(c.first)
			r, arm := b.armed("after-commit", 2)
			r.first(t)
			arm()
			conn := pg.Connect(testbed.Owner)
			if err := pgx.BeginFunc(t.Context(), conn, func(tx pgx.Tx) error {
				for from := 0; from < rows; from += 30 {
					for _, table := range []string{item, other} {
						if _, err := tx.CopyFrom(t.Context(), pgx.Identifier{table}, []string{"id", "pad"}, pgx.CopyFromSlice(30, func(i int) ([]any, error) {
							return []any{from + i, strings.Repeat("x", 200)}, nil
						})); err != nil {
							return err
						}
					}
				}
				return nil
			}); err != nil {
				t.Fatal(err)
			}
			r.killed(t)
			cp := b.checkpoint()
			if cp.Split == nil || cp.Split.Part != 2 {
				t.Fatalf("checkpoint %+v: want two parts of a split transaction", cp)
			}
			b.adjust = adjust(c.then)
			r = b.start()
			b.caughtUp(r)
			if cp.Position.N == 0 {
				t.Errorf("the second part ends at the first row of an LSN, position %s: a count within it is not tested", cp.Position)
			}
			for _, table := range []string{item, other} {
				ids := map[string]bool{}
				got := map[int32]place{}
				before := 0
				for _, e := range b.all(table) {
					id := b.registry.decode(t, e.Key)["id"].(int32)
					at := e.place(t)
					if _, twice := got[id]; twice || ids[e.header("id")] {
						t.Errorf("%s: row %d, id %s comes twice", table, id, e.header("id"))
					}
					ids[e.header("id")], got[id] = true, at
					if (checkpoint.Position{Commit: at.commit, Change: at.change, N: uint32(at.n)}).Compare(cp.Position) <= 0 {
						before++
					}
				}
				switch half := strings.HasPrefix(table, c.half) && c.half != ""; {
				case !half && len(got) != rows:
					t.Errorf("%s: %d of %d rows", table, len(got), rows)
				case half && c.before && (before == 0 || len(got) != before):
					t.Errorf("%s: %d rows, %d of them before the split: want all of these and no other", table, len(got), before)
				case half && !c.before && (before != 0 || len(got) == 0 || len(got) == rows):
					t.Errorf("%s: %d rows, %d of them before the split: want none of these and a part of the others", table, len(got), before)
				}
				// The rows were copied by rising id, so their places rise too.
				for id := int32(1); id < rows; id++ {
					p, ok := got[id-1]
					q, ok2 := got[id]
					if ok && ok2 && p.compare(q) >= 0 {
						t.Errorf("%s: row %d at %+v, row %d at %+v", table, id-1, p, id, q)
					}
				}
			}
			r.drain(t)
		})
	}
}

// TestSchemaReplayed: ⚔ an event gets the same schema when its transaction is replayed, whatever the catalog says by then: the
// version that was saved in the transaction of its first use wins.
func TestSchemaReplayed(t *testing.T) {
	pg := testbed.Postgres(t, "")
	b := newBed(t, pg, testbed.Kafka(t), "replayed")
	b.adjust = func(c *Config) { c.Source.Heartbeat, c.Sink.MaxBatchBytes = time.Hour, 16<<10 }
	ledger(b, "item")
	ids := func() map[int32]int32 {
		m := map[int32]int32{}
		for _, e := range b.all("item") {
			m[b.registry.decode(t, e.Key)["id"].(int32)] = e.schemaID(t)
		}
		return m
	}
	same := func(got map[int32]int32, from, to int32) int32 {
		t.Helper()
		for id := from; id <= to; id++ {
			if got[id] == 0 || got[id] != got[from] {
				t.Errorf("row %d has schema %d, row %d schema %d", from, got[from], id, got[id])
				break
			}
		}
		return got[from]
	}
	insert := `INSERT INTO item SELECT g, nextval('write_number'), repeat('x', 500) FROM generate_series(%d, %d) g`

	// Its first use is committed as part of a split transaction, and the rest of that comes after the change.
	r, arm := b.armed("after-commit", 2)
	r.first(t)
	arm()
	pg.Exec(testbed.Owner, fmt.Sprintf(insert, 1, 300))
	r.killed(t)
	pg.Exec(testbed.Owner, `INSERT INTO item VALUES (301)`,
		`COMMENT ON COLUMN item.pad IS 'what the catalog says now'`, `INSERT INTO item VALUES (302)`,
		`ALTER TABLE item ADD extra int`, `INSERT INTO item VALUES (303)`)
	r = b.start()
	b.caughtUp(r)
	got := ids()
	first := same(got, 1, 302)
	second := same(got, 303, 303)
	if first == second {
		t.Error("the added column has no schema of its own")
	}
	b.verify("item")
	r.kill(t)

	// Its first use is aborted: nothing of it is visible, and its replay makes it anew, after another change.
	r, arm = b.armed("before-publish", 1)
	arm()
	pg.Exec(testbed.Owner, `ALTER TABLE item ADD more int`, fmt.Sprintf(insert, 401, 410))
	r.killed(t)
	pg.Exec(testbed.Owner, `ALTER TABLE item DROP extra`, fmt.Sprintf(insert, 411, 420))
	r = b.start()
	b.caughtUp(r)
	got = ids()
	third, fourth := same(got, 401, 410), same(got, 411, 420)
	if third == fourth || third == second {
		t.Errorf("schemas %d, %d, %d for three shapes of the table", second, third, fourth)
	}
	for _, e := range b.all("item") {
		if id := b.registry.decode(t, e.Key)["id"].(int32); id > 400 {
			after, _ := inner(e.value["after"]).(map[string]any)
			if _, extra := after["extra"]; extra != (id <= 410) {
				t.Errorf("row %d: %v", id, after)
			}
		}
	}
	b.verify("item")
	r.kill(t)

	// Its first use is committed and the pipeline killed before it is confirmed; the table changes again.
	r, arm = b.armed("before-confirm", 1)
	arm()
	pg.Exec(testbed.Owner, `ALTER TABLE item ADD last int`, fmt.Sprintf(insert, 501, 505))
	r.killed(t)
	pg.Exec(testbed.Owner, fmt.Sprintf(insert, 506, 510), `COMMENT ON COLUMN item.last IS 'later'`, `ALTER TABLE item DROP more`, fmt.Sprintf(insert, 511, 515))
	r = b.start()
	b.caughtUp(r)
	got = ids()
	if fifth, sixth := same(got, 501, 510), same(got, 511, 515); fifth == sixth || fifth == fourth {
		t.Errorf("schemas %d, %d, %d for three shapes of the table", fourth, fifth, sixth)
	}
	b.verify("item")
	r.drain(t)
}

// TestTextMode: ⚔ the server ends a binary stream at a type without a binary form. It starts again as text by itself, and so
// does every later start, from the beginning.
func TestTextMode(t *testing.T) {
	pg := testbed.Postgres(t, "")
	b := newBed(t, pg, testbed.Kafka(t), "text")
	// aclitem has no send function.
	pg.Exec(testbed.Owner, `CREATE TABLE item (id int PRIMARY KEY, a aclitem, n numeric, d timestamptz)`)
	b.publish("item")
	const binary = `SELECT query LIKE '%binary%' FROM pg_stat_activity WHERE backend_type = 'walsender' AND query LIKE 'START_REPLICATION%'`
	r := b.start()
	r.first(t)
	if !ask[bool](b, binary) {
		t.Fatal("the first stream is not binary: the test shows nothing")
	}
	pg.Exec(testbed.Owner, `INSERT INTO item VALUES (1, 'walferry=r/app', 1.5, '2026-01-02 03:04:05.678901+00')`)
	events := b.read("item", 1)
	if got := events[0].at("after", "a"); got != "walferry=r/app" {
		t.Errorf("a is %v", got)
	}
	b.caughtUp(r)
	r.kill(t)
	r = b.start()
	r.first(t)
	if ask[bool](b, binary) {
		t.Error("text mode is not saved: the next start asks for binary again")
	}
	pg.Exec(testbed.Owner, `UPDATE item SET n = 2.5`)
	b.caughtUp(r)
	events = b.read("item", 2)
	for _, field := range []string{"a", "d"} {
		if x, y := events[0].at("after", field), events[1].at("after", field); fmt.Sprint(x) != fmt.Sprint(y) {
			t.Errorf("%s is %v, then %v", field, x, y)
		}
	}
	// Not for ever: without the column the next start is binary again, and the same column in a new table is met as at first.
	pg.Exec(testbed.Owner, `ALTER TABLE item DROP a`, `UPDATE item SET n = 3.5`)
	b.caughtUp(r)
	r.drain(t)
	r = b.start()
	r.first(t)
	if !ask[bool](b, binary) {
		t.Error("no column needs text mode any more, and it stays")
	}
	pg.Exec(testbed.Owner, `ALTER TABLE item ADD r regclass`, `UPDATE item SET r = 'item'`)
	b.caughtUp(r)
	if got := b.read("item", 4)[3].at("after", "r"); got != "public.item" {
		t.Errorf("r is %v", got)
	}
	r.drain(t)
	b.adjust = func(c *Config) {
		options := c.SchemaOptions
		c.SchemaOptions = func(s, table, db, systemID string) schema.Options {
			o := options(s, table, db, systemID)
			o.ExcludeColumns = []string{"public.item.r"}
			return o
		}
	}
	r = b.start()
	r.first(t)
	if !ask[bool](b, binary) {
		t.Error("the column is excluded, and text mode stays")
	}
	r.drain(t)
}

// TestTruncatePolicies: skip publishes nothing and goes on, stop stands before it, and each is a policy that a restart may change.
func TestTruncatePolicies(t *testing.T) {
	pg := testbed.Postgres(t, "")
	b := newBed(t, pg, testbed.Kafka(t), "truncate")
	ledger(b, "item", "side")
	policy := "skip"
	b.adjust = func(c *Config) { c.Truncate = policy }
	truncates := func(table string) (n int) {
		for _, e := range b.all(table) {
			if e.value != nil && e.value["op"] == "t" {
				n++
			}
		}
		return n
	}
	r := b.start()
	r.first(t)
	pg.Exec(testbed.Owner, `INSERT INTO item VALUES (1)`, `TRUNCATE item, side`, `INSERT INTO item VALUES (2)`)
	b.caughtUp(r)
	if n := truncates("item"); n != 0 {
		t.Errorf("%d truncate events with truncate: skip", n)
	}
	if n := r.Health().Totals.Truncates; n != 2 {
		t.Errorf("%d skipped, want one for each table", n)
	}
	r.kill(t)

	policy = "stop"
	pg.Exec(testbed.Owner, `BEGIN; INSERT INTO item VALUES (3); TRUNCATE item, side; INSERT INTO item VALUES (4); COMMIT`)
	for range 2 { // it says the same at the next start
		err := b.start().ended(t)
		var stop *StopError
		if !errors.As(err, &stop) || stop.Hint() == "" || stop.Table == "" {
			t.Fatalf("ended with %v, want %T with a way on", err, stop)
		}
	}
	if n := len(b.all("item")); n != 2 {
		t.Errorf("%d events, want the two of before: the transaction of the truncate is not published in part", n)
	}
	policy = "emit"
	r = b.start()
	b.caughtUp(r)
	if n := len(b.all("item")); n != 2+2+3 {
		t.Errorf("%d events of item, want two rows more and a truncate in each partition", n)
	}
	if n := truncates("side"); n != 3 {
		t.Errorf("%d truncate events of side, want 3", n)
	}
	ids := map[string]bool{}
	for _, table := range []string{"item", "side"} {
		for _, e := range b.all(table) {
			if id := e.header("id"); ids[id] || id == "" {
				t.Errorf("id %q is empty or comes twice", id)
			} else {
				ids[id] = true
			}
		}
	}
	r.drain(t)
}

// TestRowEnvelope: the row alone as value, everything else in headers.
func TestRowEnvelope(t *testing.T) {
	pg := testbed.Postgres(t, "")
	b := newBed(t, pg, testbed.Kafka(t), "row")
	b.adjust = func(c *Config) { c.Envelope = schema.EnvelopeRow }
	pg.Exec(testbed.Owner, `CREATE TABLE item (id int PRIMARY KEY, name text, "big, too" text, big text)`,
		`ALTER TABLE item ALTER "big, too" SET STORAGE EXTERNAL`, `ALTER TABLE item ALTER big SET STORAGE EXTERNAL`, `CREATE TABLE keyless (a int)`,
		`ALTER TABLE keyless REPLICA IDENTITY FULL`)
	b.publish("item, keyless")
	r := b.start()
	r.first(t)
	pg.Exec(testbed.Owner,
		`INSERT INTO item SELECT 1, 'a', repeat('x', 10000), repeat('y', 10000)`,
		`UPDATE item SET name = 'b'`,
		`BEGIN; UPDATE item SET id = 2, big = 'z'; DELETE FROM item; COMMIT`,
		`INSERT INTO keyless VALUES (7)`, `DELETE FROM keyless`, `TRUNCATE item`)
	b.caughtUp(r)
	var got []string
	events := b.all("item")
	slices.SortFunc(events, func(x, y event) int { return x.place(t).compare(y.place(t)) })
	for _, e := range events {
		line := e.header("op") + " " + e.header("ordinal")
		if e.Key != nil {
			line += fmt.Sprint(" key ", b.registry.decode(t, e.Key)["id"])
		}
		if e.Value != nil {
			line += fmt.Sprint(" name ", inner(e.value["name"]))
		}
		if u := e.header("unavailable"); u != "" {
			line += " unavailable " + u
		}
		if i := e.header("identity"); i != "" {
			line += " identity " + i
		}
		got = append(got, line)
		at := e.place(t)
		if e.header("commit_lsn") != at.commit.String() || e.header("xid") == "" || e.header("ts_us") != fmt.Sprint(e.Time.UnixMilli()) &&
			!strings.HasPrefix(e.header("ts_us"), fmt.Sprint(e.Time.UnixMilli())) || e.header("schema") != "public" || e.header("table") != "item" {
			t.Errorf("headers %v", e.Headers)
		}
	}
	want := []string{
		`c 1 key 1 name a`,
		`u 1 key 1 name b unavailable ["big__too","big"]`,
		`d 1 key 1 identity default`,
		`c 1 key 2 name b unavailable ["big__too"]`,
		`d 2 key 2 identity default`,
		`t 1`, `t 1`, `t 1`,
	}
	if !slices.Equal(got, want) {
		t.Errorf("item:\n%s\nwant\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
	var ops []string
	for _, e := range b.all("keyless") {
		if e.Key != nil {
			t.Errorf("key %x of a table without one", e.Key)
		}
		ops = append(ops, fmt.Sprint(e.header("op"), " ", e.Value != nil))
	}
	if slices.Sort(ops); !slices.Equal(ops, []string{"c true", "d false"}) {
		t.Errorf("keyless: %v", ops)
	}
	r.drain(t)
}

// TestKeylessCompacted: ⚔ a record without a key fails the whole batch on a compacted topic, so a table without a key is refused
// before anything else is published, whether the topic is there already or not, and also when it has no row.
func TestKeylessCompacted(t *testing.T) {
	pg := testbed.Postgres(t, "")
	b := newBed(t, pg, testbed.Kafka(t), "keyless")
	policy := "compact"
	b.adjust = func(c *Config) {
		spec := c.TopicSpec
		c.TopicSpec = func(s, t string) sink.TopicSpec {
			x := spec(s, t)
			x.CleanupPolicy = policy
			return x
		}
	}
	pg.Exec(testbed.Owner, `CREATE TABLE item (id int PRIMARY KEY)`, `CREATE TABLE log (line text)`, `CREATE TABLE whole (line text)`,
		`ALTER TABLE whole REPLICA IDENTITY FULL`)
	b.publish("item, log")
	refused := func(table string) {
		t.Helper()
		err := b.start().ended(t)
		var keyless *KeylessError
		if !errors.As(err, &keyless) || keyless.Hint() == "" || keyless.Table != "public."+table {
			t.Errorf("ended with %v, want %T of %s with a way on", err, keyless, table)
		}
	}
	refused("log")
	policy = "delete"
	r := b.start()
	r.first(t)
	pg.Exec(testbed.Owner, `INSERT INTO item VALUES (1)`, `INSERT INTO log VALUES ('a')`)
	b.caughtUp(r)
	r.kill(t)
	// The topic's own policy counts.
	client := b.plain()
	if err := client.CreateTopic(t.Context(), b.name+".public.whole", 3, 1, map[string]string{"cleanup.policy": "compact"}); err != nil {
		t.Fatal(err)
	}
	pg.Exec(testbed.Owner, `ALTER PUBLICATION walferry_keyless ADD TABLE whole`)
	policy = ""
	refused("whole")
	pg.Exec(testbed.Owner, `ALTER PUBLICATION walferry_keyless DROP TABLE whole`)
	policy = "delete"
	r = b.start()
	pg.Exec(testbed.Owner, `INSERT INTO log VALUES ('b')`)
	b.caughtUp(r)
	if n := len(b.all("log")); n != 2 {
		t.Errorf("%d events, want 2", n)
	}
	r.drain(t)
}

// TestStopsBefore: a row that cannot be published stops the stream right before its transaction. What came before is
// published, though it stands in the same block of the stream and the same batch; and the way on that the error names works.
func TestStopsBefore(t *testing.T) {
	pg := testbed.Postgres(t, "")
	b := newBed(t, pg, testbed.Kafka(t), "before")
	pg.Exec(testbed.Owner, `CREATE TABLE item (id int PRIMARY KEY, n numeric(5,2), a int[], b int[])`)
	b.publish("item")
	r := b.start()
	r.first(t)
	r.drain(t)
	pg.Exec(testbed.Owner, `INSERT INTO item VALUES (1, 1.5)`, `INSERT INTO item VALUES (2, 2.5)`,
		`BEGIN; INSERT INTO item VALUES (3, 3.5); INSERT INTO item VALUES (4, 'NaN'); COMMIT`, `INSERT INTO item VALUES (5, 5.5)`)
	ids := func() string {
		var ids []string
		for _, e := range b.all("item") {
			ids = append(ids, fmt.Sprint(e.at("after", "id")))
		}
		slices.Sort(ids)
		return strings.Join(ids, " ")
	}
	// choose changes the options that the next start has, on top of those before.
	choose := func(set func(*schema.Options)) {
		adjust := b.adjust
		b.adjust = func(c *Config) {
			if adjust != nil {
				adjust(c)
			}
			options := c.SchemaOptions
			c.SchemaOptions = func(s, table, db, systemID string) schema.Options {
				o := options(s, table, db, systemID)
				set(&o)
				return o
			}
		}
	}
	// says holds the error to naming table, key, place and column, and both ways on.
	says := func(key, column, option string) {
		t.Helper()
		err := b.start().ended(t)
		var stop *StopError
		if !errors.As(err, &stop) {
			t.Fatalf("ended with %v", err)
		}
		lsn := "[0-9A-F]+/[0-9A-F]+"
		if want := `\(table public\.item, key ` + key + `, column ` + column + `, position ` + lsn + `,` + lsn + `,1\): [^;:]+$`; !regexp.MustCompile(want).MatchString(err.Error()) {
			t.Errorf("it says %q, want %s", err, want)
		}
		for _, way := range []string{"`" + option + "` for it in schema.columns", "source.exclude_columns"} {
			if !strings.Contains(stop.Hint(), way) {
				t.Errorf("the ways on are %q, want %q", stop.Hint(), way)
			}
		}
	}
	for range 2 { // trying again changes nothing
		says("id=4", `n \(numeric\(5,2\)\)`, "numeric: string")
		if got := ids(); got != "1 2" {
			t.Fatalf("before the row stand %q", got)
		}
	}
	choose(func(o *schema.Options) { o.Numeric = schema.NumericString })
	r = b.start()
	b.caughtUp(r)
	if got := ids(); got != "1 2 3 4 5" {
		t.Errorf("after the remedy: %q", got)
	}
	r.drain(t)

	pg.Exec(testbed.Owner, `INSERT INTO item VALUES (6, 6, '{{1,2}}', NULL)`, `INSERT INTO item VALUES (7, 7, NULL, '[0:1]={1,2}')`)
	says("id=6", `a \(int4\[\]\)`, "array: text")
	choose(func(o *schema.Options) { o.Columns = map[string]schema.ColumnOptions{"a": {Array: schema.ArrayText}} })
	says("id=7", `b \(int4\[\]\)`, "array: text")
	choose(func(o *schema.Options) { o.ExcludeColumns = []string{"public.item.b"} })
	r = b.start()
	b.caughtUp(r)
	if got := ids(); got != "1 2 3 4 5 6 7" {
		t.Errorf("after both ways: %q", got)
	}
	r.drain(t)
}
