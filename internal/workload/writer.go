package workload

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"
)

const (
	// shared is the highest id that all writers use. Small, so that they meet.
	shared = 300
	// documents and stock have fewer rows still: their values are large, or their key has two columns.
	sharedDocuments = 40
	sharedSKUs      = 60
)

// statement is one SQL command of a transaction. Statements are sorted by table and key, in which order all writers take
// their row locks, so that they wait for each other more often than they deadlock.
type statement struct {
	table string
	key   int64
	sql   string
	args  []any
}

type writer struct {
	cfg   Config
	id    int
	next  int64 // id that no other writer takes; grows by the number of writers
	tick  <-chan time.Time
	count *counters
	rng   *rand.Rand
	conn  *pgx.Conn        // nil while not connected
	added []string         // columns of orders that this run has added and not dropped
	came  map[string]int64 // keys that were made up for the tables of CreateFire
	names int              // of added columns, never used twice: a column that comes back by its name would be another one
}

func (w *writer) run(ctx context.Context) error {
	if w.id == 0 && w.cfg.Big > 0 {
		if err := w.try(ctx, w.big(w.cfg.Big), false); err != nil {
			return err
		}
	}
	var large <-chan int
	if w.id == 0 {
		large = w.cfg.Large
	}
	for n := 0; w.cfg.Transactions == 0 || n < w.cfg.Transactions; n++ {
		select {
		case rows := <-large:
			if err := w.try(ctx, w.big(rows), false); err != nil {
				return err
			}
		default:
		}
		if w.tick != nil {
			select {
			case <-ctx.Done():
			case <-w.tick:
			}
		}
		if w.cfg.Pace != nil {
			w.cfg.Pace(ctx)
		}
		if ctx.Err() != nil {
			return nil
		}
		var work work
		if w.cfg.DDL && w.id == 0 && n%40 == 20 && slices.Contains(w.cfg.Tables, Orders) {
			work = w.alter()
		} else {
			plan := w.plan()
			work = func(ctx context.Context, tx pgx.Tx, c *counted) error { return send(ctx, tx, plan, c) }
		}
		if err := w.try(ctx, work, w.rng.IntN(12) == 0); err != nil {
			return err
		}
	}
	return nil
}

// work is what is done in a transaction, which adds to counted.
type work func(ctx context.Context, tx pgx.Tx, c *counted) error

// counted is what a transaction has done so far; it is added to the counters when it has committed.
type counted struct{ rows, altered, large int64 }

// try runs one transaction and counts how it ended. It is not repeated: the next one is as good.
func (w *writer) try(ctx context.Context, work work, rollBack bool) error {
	if err := w.connect(ctx); err != nil {
		return err
	}
	if ctx.Err() != nil {
		return nil
	}
	// A transaction that has begun is ended in order: a context that ends would cut the connection inside it.
	ctx = context.WithoutCancel(ctx)
	var c counted
	committing := false
	err := func() error {
		tx, err := w.conn.Begin(ctx)
		if err != nil {
			return err
		}
		if err := work(ctx, tx, &c); err != nil {
			// The cause is reported; the rollback of a transaction that failed has nothing to add.
			_ = tx.Rollback(ctx)
			return err
		}
		if rollBack {
			return tx.Rollback(ctx)
		}
		committing = true
		return tx.Commit(ctx)
	}()
	switch {
	case err == nil && rollBack:
		w.count.rolledBack.Add(1)
	case err == nil:
		w.count.transactions.Add(1)
		w.count.changes.Add(c.rows)
		w.count.altered.Add(c.altered)
		w.count.large.Add(c.large)
	case !transient(err):
		return fmt.Errorf("writer %d: %w", w.id, err)
	case w.conn.IsClosed() && committing:
		w.count.uncertain.Add(1)
	default:
		w.count.rolledBack.Add(1)
	}
	return nil
}

// connect makes sure of a connection, trying until the context ends.
func (w *writer) connect(ctx context.Context) error {
	if w.conn != nil && !w.conn.IsClosed() {
		return nil
	}
	cfg, err := pgx.ParseConfig(w.cfg.DSN)
	if err != nil {
		return err
	}
	// Columns come and go: no statement may be prepared for longer than its use.
	cfg.DefaultQueryExecMode = pgx.QueryExecModeExec
	cfg.RuntimeParams["application_name"] = "workload"
	cfg.RuntimeParams["TimeZone"] = "UTC"
	cfg.RuntimeParams["lock_timeout"] = "10s"
	for again := w.conn != nil; ctx.Err() == nil; again = true {
		if again {
			w.count.reconnects.Add(1)
		}
		try, cancel := context.WithTimeout(ctx, 10*time.Second)
		c, err := pgx.ConnectConfig(try, cfg)
		cancel()
		if err == nil {
			w.conn = c
			return nil
		}
		if !transient(err) {
			return fmt.Errorf("writer %d: %w", w.id, err)
		}
		select {
		case <-ctx.Done():
		case <-time.After(100 * time.Millisecond):
		}
	}
	return nil
}

func (w *writer) disconnect() {
	if w.conn != nil {
		// The last transaction has ended, or the connection has: there is nothing to lose.
		_ = w.conn.Close(context.Background())
	}
}

// send runs the statements in one round trip.
func send(ctx context.Context, tx pgx.Tx, plan []statement, c *counted) error {
	b := &pgx.Batch{}
	for _, s := range plan {
		b.Queue(s.sql, s.args...)
	}
	r := tx.SendBatch(ctx, b)
	inner := int64(0) // rows since the last savepoint
	for _, s := range plan {
		tag, err := r.Exec()
		if err != nil {
			return errors.Join(fmt.Errorf("%s: %w", s.sql, err), r.Close())
		}
		switch {
		case strings.HasPrefix(s.sql, "SAVEPOINT"):
			inner = 0
		case strings.HasPrefix(s.sql, "ROLLBACK TO"):
			c.rows -= inner
		default:
			inner += tag.RowsAffected()
			c.rows += tag.RowsAffected()
		}
	}
	return r.Close()
}

// plan makes the statements of one transaction of 1 to 200 rows, most of them small; a part of it may be undone by a
// savepoint.
func (w *writer) plan() []statement {
	rows := 1 + w.rng.IntN(20)
	if w.rng.IntN(10) == 0 {
		rows = 1 + w.rng.IntN(200)
	}
	var plan []statement
	for ; rows > 0; rows-- {
		s, extra := w.change(rows)
		plan = append(plan, s)
		rows -= extra
	}
	slices.SortStableFunc(plan, func(a, b statement) int {
		if c := strings.Compare(a.table, b.table); c != 0 {
			return c
		}
		return int(a.key - b.key)
	})
	if w.rng.IntN(12) == 0 && len(plan) > 2 {
		at := 1 + w.rng.IntN(len(plan)-1)
		to := at + 1 + w.rng.IntN(len(plan)-at)
		plan = slices.Insert(plan, to, statement{sql: "ROLLBACK TO SAVEPOINT s"})
		plan = slices.Insert(plan, at, statement{sql: "SAVEPOINT s"})
	}
	return plan
}

// change makes a statement on one row, or on at most `most` rows, and says how many more than one it may touch.
func (w *writer) change(most int) (s statement, extra int) {
	s.table = w.cfg.Tables[w.rng.IntN(len(w.cfg.Tables))]
	switch s.table {
	case Items:
		return w.item(s, most)
	case Orders:
		return w.order(s), 0
	case Documents:
		return w.document(s), 0
	case Stock:
		return w.stock(s), 0
	case Counters, Pairs, Marks, Blobs:
		return w.fire(s), 0
	default:
		return w.ledger(s), 0
	}
}

func (w *writer) fresh() int64 {
	id := w.next
	w.next += int64(w.cfg.Writers)
	return id
}

func (w *writer) hot(n int) int64 { return 1 + int64(w.rng.IntN(n)) }

func (w *writer) item(s statement, most int) (statement, int) {
	s.key = w.hot(shared)
	switch w.rng.IntN(8) {
	case 0: // several rows of one statement have one LSN
		n := min(most, 1+w.rng.IntN(30))
		s.key = w.next
		values := make([]string, n)
		for i := range values {
			values[i] = fmt.Sprintf("(%d, %d, NULL, 'of %d')", w.fresh(), w.rng.Int32(), n)
		}
		s.sql = "INSERT INTO items (id, n, small, label) VALUES " + strings.Join(values, ", ")
		return s, n - 1
	case 1:
		n := min(most, 1+w.rng.IntN(10))
		s.sql, s.args = "UPDATE items SET n = n + 1 WHERE id BETWEEN $1 AND $2", []any{s.key, s.key + int64(n) - 1}
		return s, n - 1
	case 2:
		s.sql, s.args = "DELETE FROM items WHERE id = $1", []any{s.key}
	case 3:
		s.sql, s.args = "UPDATE items SET id = $2 WHERE id = $1", []any{s.key, w.fresh()}
	case 4, 5:
		s.sql, s.args = "UPDATE items SET n = $2, label = $3 WHERE id = $1", []any{s.key, w.rng.Int32(), w.text(40)}
	default:
		s.sql = "INSERT INTO items VALUES ($1, $2, $3, $4) ON CONFLICT (id) DO UPDATE SET n = excluded.n, small = excluded.small"
		s.args = []any{s.key, w.rng.Int32(), int16(w.rng.Uint32()), w.text(40)}
	}
	return s, 0
}

func (w *writer) order(s statement) statement {
	s.key = w.hot(shared)
	at := time.UnixMicro(1_600_000_000_000_000 + w.rng.Int64N(400_000_000_000_000)).UTC()
	amount := fmt.Sprintf("%d.%02d", w.rng.IntN(1_000_000)-500_000, w.rng.IntN(100))
	switch w.rng.IntN(8) {
	case 0:
		s.sql, s.args = "DELETE FROM orders WHERE id = $1", []any{s.key}
	case 1:
		s.sql, s.args = "UPDATE orders SET id = $2, status = 'moved' WHERE id = $1", []any{s.key, w.fresh()}
	case 2, 3:
		s.sql = "UPDATE orders SET status = $2, amount = $3, updated_at = $4, note = $5 WHERE id = $1"
		s.args = []any{s.key, []string{"new", "paid", "sent", "", "zurück"}[w.rng.IntN(5)], amount, at, w.text(120)}
	default:
		if w.rng.IntN(3) == 0 {
			s.key = w.fresh()
		}
		s.sql = `INSERT INTO orders (id, customer_id, status, amount, note, tags, attrs, paid, created_at)
			VALUES ($1, $2, 'new', $3, $4, $5, $6, $7, $8)
			ON CONFLICT (id) DO UPDATE SET amount = excluded.amount, tags = excluded.tags, attrs = excluded.attrs`
		s.args = []any{s.key, w.hot(1000), amount, w.text(120), w.tags(), w.attrs(), []any{nil, true, false}[w.rng.IntN(3)], at}
	}
	return s
}

func (w *writer) document(s statement) statement {
	s.key = w.hot(sharedDocuments)
	switch w.rng.IntN(10) {
	case 0:
		s.sql, s.args = "DELETE FROM documents WHERE id = $1", []any{s.key}
	case 1:
		s.sql, s.args = "UPDATE documents SET body = $2 WHERE id = $1", []any{s.key, w.long()}
	case 2, 3:
		raw := make([]byte, 2500+w.rng.IntN(3000))
		for i := range raw {
			raw[i] = byte(w.rng.Uint32())
		}
		s.sql = `INSERT INTO documents VALUES ($1, $2, $3, $4, 0, $5)
			ON CONFLICT (id) DO UPDATE SET raw = excluded.raw, score = excluded.score`
		s.args = []any{s.key, "Nr. " + fmt.Sprint(s.key), w.long(), raw, w.rng.NormFloat64()}
	default: // the key stays: an event with a new key could not carry a value that was not sent
		s.sql, s.args = "UPDATE documents SET views = views + 1 WHERE id = $1", []any{s.key}
	}
	return s
}

func (w *writer) stock(s statement) statement {
	house := []string{"Kiel", "Łódź", "o'Neill"}[w.rng.IntN(3)]
	sku := w.hot(sharedSKUs)
	s.key = sku
	switch w.rng.IntN(6) {
	case 0:
		s.sql, s.args = "DELETE FROM stock WHERE warehouse = $1 AND sku = $2", []any{house, sku}
	case 1:
		s.sql, s.args = "UPDATE stock SET sku = $3 WHERE warehouse = $1 AND sku = $2", []any{house, sku, w.fresh()}
	case 2:
		s.sql, s.args = "UPDATE stock SET quantity = quantity - 1 WHERE warehouse = $1 AND sku = $2", []any{house, sku}
	default:
		day := time.Unix(0, 0).UTC().AddDate(0, 0, w.rng.IntN(30000))
		s.sql = "INSERT INTO stock VALUES ($1, $2, $3, $4) ON CONFLICT (warehouse, sku) DO UPDATE SET quantity = excluded.quantity"
		s.args = []any{house, sku, w.rng.IntN(1000), day.Format(time.DateOnly)}
	}
	return s
}

func (w *writer) ledger(s statement) statement {
	s.key = w.hot(shared)
	delta := fmt.Sprintf("%d.%04d", w.rng.Int64N(1_000_000_000_000)-500_000_000_000, w.rng.IntN(10_000))
	switch w.rng.IntN(5) {
	case 0:
		s.sql, s.args = "DELETE FROM ledger WHERE id = $1", []any{s.key}
	case 1:
		s.sql, s.args = "UPDATE ledger SET id = $2 WHERE id = $1", []any{s.key, w.fresh()}
	case 2:
		s.sql, s.args = "UPDATE ledger SET delta = $2 WHERE id = $1", []any{s.key, delta}
	default:
		ref := fmt.Sprintf("%08x-0000-4000-8000-%012x", w.rng.Uint32(), w.rng.Uint64()&0xffffffffffff)
		booked := time.UnixMicro(w.rng.Int64N(2_000_000_000_000_000)).UTC().Format("2006-01-02 15:04:05.999999")
		s.sql = "INSERT INTO ledger VALUES ($1, $2, $3, $4, $5) ON CONFLICT (id) DO UPDATE SET account = excluded.account"
		s.args = []any{s.key, int32(w.hot(50)), delta, ref, booked}
	}
	return s
}

// text is null now and then, or empty, or holds what quoting and encodings get wrong.
func (w *writer) text(most int) any {
	switch w.rng.IntN(8) {
	case 0:
		return nil
	case 1:
		return ""
	case 2:
		return `"quoted", it's \ back, ` + "\ttab\nline, žluťoučký 🐎"
	}
	return w.letters(1 + w.rng.IntN(most))
}

func (w *writer) letters(n int) string {
	const alphabet = "abcdefghijklmnopqrstuvwxyz ABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789"
	b := make([]byte, n)
	for i := range b {
		b[i] = alphabet[w.rng.IntN(len(alphabet))]
	}
	return string(b)
}

// long is TOASTed.
func (w *writer) long() string { return w.letters(2500 + w.rng.IntN(6000)) }

func (w *writer) tags() any {
	if w.rng.IntN(6) == 0 {
		return nil
	}
	tags := make([]*string, w.rng.IntN(4))
	for i := range tags {
		if s, ok := w.text(8).(string); ok {
			tags[i] = &s
		}
	}
	return tags
}

func (w *writer) attrs() any {
	if w.rng.IntN(6) == 0 {
		return nil
	}
	return fmt.Sprintf(`{"n": %d, "deep": {"list": [1, 2.50, null, "x"]}, "ok": %t}`, w.rng.Int64(), w.rng.IntN(2) == 0)
}

// alter adds a column to orders or drops one, with rows before and after it in the same transaction.
func (w *writer) alter() work {
	before := []statement{{sql: "UPDATE orders SET status = 'before' WHERE id = $1", args: []any{w.hot(shared)}}}
	after := []statement{{sql: "UPDATE orders SET status = 'after' WHERE id BETWEEN $1 AND $2", args: []any{w.hot(shared), shared}}}
	adds := len(w.added) == 0 || len(w.added) < 3 && w.rng.IntN(2) == 0
	kind := []string{"integer", "text", "timestamptz"}[w.rng.IntN(3)]
	value := []string{"7", "'added'", "now()"}[slices.Index([]string{"integer", "text", "timestamptz"}, kind)]
	return func(ctx context.Context, tx pgx.Tx, c *counted) error {
		if err := send(ctx, tx, before, c); err != nil {
			return err
		}
		if adds {
			w.names++
			name := fmt.Sprintf("extra_%d_%d", w.cfg.Seed, w.names)
			// The list is of what was tried: a column that is there, or that a rollback took away again.
			w.added = append(w.added, name)
			if _, err := tx.Exec(ctx, fmt.Sprintf("ALTER TABLE orders ADD COLUMN %s %s", name, kind)); err != nil {
				return err
			}
			after = append(after, statement{sql: fmt.Sprintf("UPDATE orders SET %s = %s WHERE id %% 3 = 0 AND id <= %d", name, value, shared)})
		} else {
			name := w.added[0]
			w.added = w.added[1:]
			if _, err := tx.Exec(ctx, fmt.Sprintf("ALTER TABLE orders DROP COLUMN IF EXISTS %s", name)); err != nil {
				return err
			}
		}
		c.altered++
		return send(ctx, tx, after, c)
	}
}

// big writes rows of items in one transaction, half of them inserted and then updated, so that it is long in the WAL, in
// the decoder's memory and in the topics.
func (w *writer) big(rows int) work {
	half := int64(rows / 2)
	first := w.next
	w.next += half * int64(w.cfg.Writers)
	step := int64(w.cfg.Writers)
	return func(ctx context.Context, tx pgx.Tx, c *counted) error {
		c.large = 1
		return send(ctx, tx, []statement{
			{sql: `INSERT INTO items SELECT $1::bigint + g * $2::bigint, g, g % 1000, 'big ' || g FROM generate_series(0, $3::bigint - 1) g`,
				args: []any{first, step, half}},
			{sql: "UPDATE items SET n = -n WHERE id >= $1 AND id < $2 AND (id - $1) % $3 = 0", args: []any{first, first + half*step, step}},
		}, c)
	}
}
