package pipeline

import (
	"cmp"
	"context"
	"fmt"
	"math/rand/v2"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pglogrepl"
	"github.com/jackc/pgx/v5"

	"walferry/checkpoint"
	"walferry/internal/kafka"
	"walferry/internal/testbed"
)

// ledger makes a table whose rows carry a number of their own for every write, and an audit of every write, made by a trigger
// in the same transaction. Row locks serialise the writes of one key, so the audit's order of a key is its commit order.
// The audit is not published.
func ledger(b *bed, tables ...string) {
	b.pg.Exec(testbed.Owner,
		`CREATE SEQUENCE IF NOT EXISTS write_number`,
		`CREATE TABLE IF NOT EXISTS audit (n bigserial PRIMARY KEY, tab text, op text, id int, seq bigint)`,
		`CREATE OR REPLACE FUNCTION note() RETURNS trigger LANGUAGE plpgsql AS $$
		BEGIN
			IF TG_OP = 'DELETE' OR TG_OP = 'UPDATE' AND OLD.id <> NEW.id THEN
				INSERT INTO audit (tab, op, id, seq) VALUES (TG_TABLE_NAME, 'd', OLD.id, 0);
			END IF;
			IF TG_OP = 'INSERT' OR TG_OP = 'UPDATE' AND OLD.id <> NEW.id THEN
				INSERT INTO audit (tab, op, id, seq) VALUES (TG_TABLE_NAME, 'c', NEW.id, NEW.seq);
			ELSIF TG_OP = 'UPDATE' THEN
				INSERT INTO audit (tab, op, id, seq) VALUES (TG_TABLE_NAME, 'u', NEW.id, NEW.seq);
			END IF;
			RETURN NULL;
		END $$`)
	for _, t := range tables {
		b.pg.Exec(testbed.Owner,
			fmt.Sprintf(`CREATE TABLE %s (id int PRIMARY KEY, seq bigint NOT NULL DEFAULT nextval('write_number'), pad text)`, t),
			fmt.Sprintf(`CREATE TRIGGER note AFTER INSERT OR UPDATE OR DELETE ON %s FOR EACH ROW EXECUTE FUNCTION note()`, t))
	}
	b.publish(strings.Join(tables, ", "))
}

// caughtUp returns when all that was committed before the call is published and confirmed to the slot.
func (b *bed) caughtUp(r *running) {
	b.t.Helper()
	c := b.pg.Connect(testbed.Owner)
	var target string
	if err := c.QueryRow(b.t.Context(), `SELECT pg_current_wal_insert_lsn()::text`).Scan(&target); err != nil {
		b.t.Fatal(err)
	}
	must(b.t, c, `SELECT pg_logical_emit_message(true, 'walferry.heartbeat', '')`)
	b.await("the slot to be confirmed up to "+target, r, func() bool {
		var ok bool
		err := c.QueryRow(b.t.Context(), `SELECT coalesce(confirmed_flush_lsn >= $1::text::pg_lsn, false) FROM pg_replication_slots WHERE slot_name = $2`,
			target, "walferry_"+b.name).Scan(&ok)
		if err != nil {
			b.t.Fatal(err)
		}
		return ok
	})
}

// await polls a state of a server that nothing announces. r, if given, must not end before.
func (b *bed) await(what string, r *running, ok func() bool) {
	b.t.Helper()
	deadline := time.After(2 * time.Minute)
	var done chan error
	if r != nil {
		done = r.done
	}
	for !ok() {
		select {
		case err := <-done:
			done <- err
			b.t.Fatalf("waiting for %s: the pipeline ended: %v", what, err)
		case <-deadline:
			if r != nil {
				b.t.Fatalf("waited in vain for %s: %+v", what, r.Health())
			}
			b.t.Fatalf("waited in vain for %s", what)
		case <-time.After(20 * time.Millisecond):
		}
	}
}

// plain is a client without faults.
func (b *bed) plain() *kafka.Client {
	b.t.Helper()
	c, err := kafka.New(kafka.Config{Brokers: strings.Split(b.addr, ","), ClientID: "reader"})
	if err != nil {
		b.t.Fatal(err)
	}
	b.t.Cleanup(c.Close)
	return c
}

// all returns every committed record of a table's topic up to its end, none if there is no topic.
func (b *bed) all(table string) []event {
	b.t.Helper()
	return b.topic(b.name + ".public." + table)
}

func (b *bed) topic(topic string) []event {
	b.t.Helper()
	out := b.records(topic)
	for i, e := range out {
		if e.Value != nil {
			out[i].value = b.registry.decode(b.t, e.Value)
		}
	}
	return out
}

// records are a topic's committed records up to its end, not decoded; none if there is no topic.
func (b *bed) records(topic string) []event {
	b.t.Helper()
	client := b.plain()
	ctx, done := context.WithTimeout(b.t.Context(), 30*time.Second)
	defer done()
	n, exists, err := client.Partitions(ctx, topic)
	if err != nil {
		b.t.Fatal(err)
	}
	if !exists {
		return nil
	}
	end := map[kafka.TopicPartition]int64{}
	at := map[kafka.TopicPartition]int64{}
	for p := range int32(n) {
		tp := kafka.TopicPartition{Topic: topic, Partition: p}
		if end[tp], err = client.EndOffset(ctx, topic, p); err != nil {
			b.t.Fatal(err)
		}
		at[tp] = 0
	}
	r := client.NewReader(at)
	var out []event
	for {
		left := 0
		for tp, e := range end {
			if next, _ := r.Position(tp); next < e {
				left++
			}
		}
		if left == 0 {
			break
		}
		recs, err := r.Poll(ctx)
		if err != nil {
			b.t.Fatalf("read %s: %v", topic, err)
		}
		for _, rec := range recs {
			out = append(out, event{Record: rec})
		}
	}
	slices.SortStableFunc(out, func(x, y event) int {
		return cmp.Or(cmp.Compare(x.Partition, y.Partition), cmp.Compare(x.Offset, y.Offset))
	})
	return out
}

// checkpoint reads the pipeline's checkpoint, nil if there is none.
func (b *bed) checkpoint() *checkpoint.Checkpoint {
	b.t.Helper()
	return b.state().Checkpoint
}

// state is what the checkpoint topic holds.
func (b *bed) state() *checkpoint.State {
	b.t.Helper()
	s := &store{topic: "_walferry." + b.name, kafka: b.plain()}
	st, err := s.peek(b.t.Context())
	if err != nil {
		b.t.Fatal(err)
	}
	return st
}

// ends are the end offsets of topics, -1 for one that does not exist.
func (b *bed) ends(topics ...string) string {
	b.t.Helper()
	client := b.plain()
	var out []string
	for _, topic := range topics {
		n, exists, err := client.Partitions(b.t.Context(), topic)
		if err != nil {
			b.t.Fatal(err)
		}
		if !exists {
			out = append(out, topic+" -1")
		}
		for p := range n {
			end, err := client.EndOffset(b.t.Context(), topic, int32(p))
			if err != nil {
				b.t.Fatal(err)
			}
			out = append(out, fmt.Sprintf("%s/%d %d", topic, p, end))
		}
	}
	return strings.Join(out, "\n")
}

// place is where a record's change was, out of its id.
type place struct {
	commit, change pglogrepl.LSN
	n, part        int64
}

func (e event) place(t testing.TB) place {
	t.Helper()
	f := strings.Split(e.header("id"), "/")
	if len(f) != 7 {
		t.Fatalf("id %q", e.header("id"))
	}
	commit, err1 := pglogrepl.ParseLSN(f[1] + "/" + f[2])
	change, err2 := pglogrepl.ParseLSN(f[3] + "/" + f[4])
	n, err3 := strconv.ParseInt(f[5], 10, 64)
	part, err4 := strconv.ParseInt(f[6], 10, 64)
	for _, err := range []error{err1, err2, err3, err4} {
		if err != nil {
			t.Fatalf("id %q: %v", e.header("id"), err)
		}
	}
	return place{commit, change, n, part}
}

func (p place) compare(q place) int {
	return cmp.Or(cmp.Compare(p.commit, q.commit), cmp.Compare(p.change, q.change), cmp.Compare(p.n, q.n), cmp.Compare(p.part, q.part))
}

// inner is the value of a union as goavro returns it.
func inner(v any) any {
	if m, ok := v.(map[string]any); ok && len(m) == 1 {
		for _, x := range m {
			return x
		}
	}
	return v
}

// at is a path into an event's value, through unions; nil where there is nothing.
func (e event) at(path ...string) any {
	var v any = e.value
	for _, p := range path {
		m, ok := v.(map[string]any)
		if !ok {
			return nil
		}
		v = m[p]
		if u, ok := v.(map[string]any); ok && len(u) == 1 {
			v = inner(u)
		}
	}
	return v
}

// verify compares the topics with the audit and the tables: for each key the same writes in the same order and no other,
// each id once, places and numbers in the transaction rising without a gap, a tombstone behind each delete.
func (b *bed) verify(tables ...string) {
	b.t.Helper()
	c := b.pg.Connect(testbed.Owner)
	type numbered struct {
		place place
		total int64
	}
	ids := map[string]bool{}
	transactions := map[pglogrepl.LSN][]numbered{}
	for _, table := range tables {
		want := map[int32][]string{}
		rows, err := c.Query(b.t.Context(), `SELECT op, id, seq FROM audit WHERE tab = $1 ORDER BY n`, table)
		if err != nil {
			b.t.Fatal(err)
		}
		var op string
		var id int32
		var seq int64
		if _, err := pgx.ForEachRow(rows, []any{&op, &id, &seq}, func() error {
			want[id] = append(want[id], fmt.Sprint(op, seq))
			return nil
		}); err != nil {
			b.t.Fatal(err)
		}
		got := map[int32][]string{}
		last := map[string]place{}
		fold := map[int32]int64{}
		deletes, tombstones := map[int32]int{}, map[int32]int{}
		for _, e := range b.all(table) {
			if ids[e.header("id")] {
				b.t.Errorf("%s: id %s comes twice", table, e.header("id"))
			}
			ids[e.header("id")] = true
			at := e.place(b.t)
			if before, ok := last[string(e.Key)]; ok && before.compare(at) >= 0 {
				b.t.Errorf("%s: %+v after %+v under one key", table, at, before)
			}
			last[string(e.Key)] = at
			key := b.registry.decode(b.t, e.Key)["id"].(int32)
			if e.value == nil {
				tombstones[key]++
				continue
			}
			if lsn := e.at("source", "commit_lsn").(int64); lsn != int64(at.commit) {
				b.t.Errorf("%s: commit_lsn %d and id %s", table, lsn, e.header("id"))
			}
			transactions[at.commit] = append(transactions[at.commit], numbered{at, e.at("transaction", "total_order").(int64)})
			op := e.value["op"].(string)
			if op == "d" {
				deletes[key]++
				delete(fold, key)
				got[key] = append(got[key], "d0")
				continue
			}
			seq := e.at("after", "seq").(int64)
			fold[key] = seq
			got[key] = append(got[key], fmt.Sprint(op, seq))
		}
		for key, w := range want {
			if g := got[key]; !slices.Equal(w, g) {
				b.t.Errorf("%s %d: written %v, published %v", table, key, w, g)
			}
		}
		for key, g := range got {
			if want[key] == nil {
				b.t.Errorf("%s %d: never written, published %v", table, key, g)
			}
			if deletes[key] != tombstones[key] {
				b.t.Errorf("%s %d: %d deletes, %d tombstones", table, key, deletes[key], tombstones[key])
			}
		}
		state := map[int32]int64{}
		rows, err = c.Query(b.t.Context(), `SELECT id, seq FROM `+table)
		if err != nil {
			b.t.Fatal(err)
		}
		if _, err := pgx.ForEachRow(rows, []any{&id, &seq}, func() error { state[id] = seq; return nil }); err != nil {
			b.t.Fatal(err)
		}
		if fmt.Sprint(state) != fmt.Sprint(fold) {
			b.t.Errorf("%s: the table is %v, its events make %v", table, state, fold)
		}
	}
	for commit, tx := range transactions {
		slices.SortFunc(tx, func(x, y numbered) int { return x.place.compare(y.place) })
		for i, e := range tx {
			if e.total != int64(i+1) {
				b.t.Errorf("transaction %s: event %d of %d has total_order %d", commit, i+1, len(tx), e.total)
				break
			}
		}
	}
}

// writers write random transactions until stop is closed, n at a time, and return how many were committed. The same seed
// gives each writer the same transactions; how they interleave is the server's choice.
func (b *bed) writers(n int, seed uint64, stop <-chan struct{}, tables ...string) (wait func() int) {
	var wg sync.WaitGroup
	var mu sync.Mutex
	total := 0
	for w := range n {
		c := b.pg.Connect(testbed.Owner)
		rng := rand.New(rand.NewPCG(seed, uint64(w)))
		wg.Go(func() {
			for {
				select {
				case <-stop:
					return
				case <-time.After(time.Duration(rng.IntN(15)) * time.Millisecond):
				}
				// A conflict of keys or a deadlock rolls back, which is part of the workload.
				if err := b.transaction(c, rng, tables); err == nil {
					mu.Lock()
					total++
					mu.Unlock()
				}
			}
		})
	}
	return func() int { wg.Wait(); return total }
}

func (b *bed) transaction(c *pgx.Conn, rng *rand.Rand, tables []string) error {
	return pgx.BeginFunc(b.t.Context(), c, func(tx pgx.Tx) error {
		for range 1 + rng.IntN(6) {
			table := tables[rng.IntN(len(tables))]
			id, other := rng.IntN(30), rng.IntN(30)
			var err error
			switch rng.IntN(8) {
			case 0:
				_, err = tx.Exec(b.t.Context(), `DELETE FROM `+table+` WHERE id = $1`, id)
			case 1:
				_, err = tx.Exec(b.t.Context(), `UPDATE `+table+` SET id = $2, seq = DEFAULT WHERE id = $1
					AND NOT EXISTS (SELECT FROM `+table+` WHERE id = $2)`, id, other)
			default:
				_, err = tx.Exec(b.t.Context(), `INSERT INTO `+table+` VALUES ($1, DEFAULT, 'x') ON CONFLICT (id) DO UPDATE SET seq = excluded.seq`, id)
			}
			if err != nil {
				return err
			}
		}
		if rng.IntN(10) == 0 {
			return errKilled
		}
		return nil
	})
}

// kill ends a pipeline as a crash does, as far as one process can: nothing more is published or confirmed.
func (r *running) kill(t testing.TB) {
	t.Helper()
	r.cancel(errKilled)
	if err := r.ended(t); err == nil {
		t.Error("a killed pipeline says that it drained")
	}
}

// ended waits for the end of Run.
func (r *running) ended(t testing.TB) error {
	t.Helper()
	select {
	case err := <-r.done:
		r.done <- err
		return err
	case <-time.After(40 * time.Second):
		t.Fatalf("the pipeline does not end: %+v", r.Health())
		return nil
	}
}

// commit waits for n more commits.
func (r *running) commit(t testing.TB, n int) {
	t.Helper()
	r.watcher.mu.Lock()
	until := r.watcher.commits + n
	r.watcher.mu.Unlock()
	for {
		r.watcher.mu.Lock()
		have := r.watcher.commits
		r.watcher.mu.Unlock()
		if have >= until {
			return
		}
		select {
		case <-r.watcher.committed:
		case err := <-r.done:
			r.done <- err
			t.Fatalf("the pipeline ended: %v", err)
		case <-time.After(40 * time.Second):
			t.Fatalf("nothing is committed: %+v", r.Health())
		}
	}
}

// first waits for the first commit of an instance.
func (r *running) first(t testing.TB) {
	t.Helper()
	r.watcher.mu.Lock()
	have := r.watcher.commits
	r.watcher.mu.Unlock()
	if have == 0 {
		r.commit(t, 1)
	}
}

// hook calls f at every place between two durable steps until the test ends.
func hook(t testing.TB, f func(place string)) {
	testHook.Store(&f)
	t.Cleanup(func() { testHook.Store(nil) })
}
