package demo

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"strings"
	"sync/atomic"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"walferry/internal/pgserver"
)

// schema is the shop with its journal. Every row carries the number of the change that made it, which a trigger draws
// after the row is locked: for one key, numbers rise in the order of commits. Keys are never used twice, since an insert
// draws its number before it waits for anybody. A delete, and the old half of a changed key, leaves no row; it is known by
// table, key and transaction.
const schema = `
CREATE SCHEMA journal;
CREATE SEQUENCE journal.seq;
CREATE TABLE journal.changes (seq bigint PRIMARY KEY, xid bigint NOT NULL, tbl text NOT NULL, op "char" NOT NULL, key text NOT NULL);
CREATE FUNCTION journal.number() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
	NEW.change := nextval('journal.seq');
	RETURN NEW;
END $$;
-- The arguments are the key's columns.
CREATE FUNCTION journal.record() RETURNS trigger LANGUAGE plpgsql AS $$
DECLARE
	old_key text := (SELECT string_agg(to_jsonb(OLD)->>c, '/' ORDER BY n) FROM unnest(TG_ARGV) WITH ORDINALITY a(c, n));
	new_key text := (SELECT string_agg(to_jsonb(NEW)->>c, '/' ORDER BY n) FROM unnest(TG_ARGV) WITH ORDINALITY a(c, n));
	x bigint := pg_current_xact_id()::text::bigint;
BEGIN
	IF TG_OP = 'DELETE' OR TG_OP = 'UPDATE' AND old_key <> new_key THEN
		INSERT INTO journal.changes VALUES (nextval('journal.seq'), x, TG_TABLE_NAME, 'd', old_key);
	END IF;
	IF TG_OP <> 'DELETE' THEN
		INSERT INTO journal.changes VALUES (NEW.change, x, TG_TABLE_NAME, CASE WHEN TG_OP = 'UPDATE' AND old_key = new_key THEN 'u' ELSE 'c' END, new_key);
	END IF;
	RETURN NULL;
END $$;

CREATE SCHEMA shop;
CREATE SEQUENCE shop.ids START 1000;
CREATE TABLE shop.products (id bigint PRIMARY KEY, name text NOT NULL, price numeric(10,2) NOT NULL, stock integer NOT NULL, change bigint NOT NULL);
CREATE TABLE shop.customers (id bigint PRIMARY KEY, name text NOT NULL, email text, since timestamptz NOT NULL DEFAULT now(), change bigint NOT NULL);
CREATE TABLE shop.orders (
	id bigint PRIMARY KEY, customer_id bigint NOT NULL, status text NOT NULL, total numeric(10,2) NOT NULL,
	tags text[], placed timestamptz NOT NULL DEFAULT now(), change bigint NOT NULL);
CREATE TABLE shop.order_items (order_id bigint, line integer, product_id bigint NOT NULL, quantity integer NOT NULL, change bigint NOT NULL, PRIMARY KEY (order_id, line));
`

// tables are the shop's, with their key columns.
var tables = map[string][]string{"products": {"id"}, "customers": {"id"}, "orders": {"id"}, "order_items": {"order_id", "line"}}

var products = []string{"lantern", "rope", "anchor", "compass", "sail", "bell", "chart", "oar", "flag", "barrel", "hook", "net", "buoy", "pulley", "sextant", "tar"}

// createShop makes the database, the shop in it, the role that walferry runs as, and the publication.
func createShop(ctx context.Context, pg *pgserver.Server) error {
	exec := func(db, sql string) error {
		c, err := pgx.Connect(ctx, pg.DSN(db, "postgres"))
		if err == nil {
			_, err = c.Exec(ctx, sql)
			err = errors.Join(err, c.Close(ctx))
		}
		if err != nil {
			return fmt.Errorf("make the shop: %w", err)
		}
		return nil
	}
	if err := exec("postgres", "CREATE DATABASE shop"); err != nil {
		return err
	}
	var sql, list strings.Builder
	sql.WriteString(schema)
	for _, t := range []string{"products", "customers", "orders", "order_items"} {
		fmt.Fprintf(&sql, "CREATE TRIGGER number BEFORE INSERT OR UPDATE ON shop.%s FOR EACH ROW EXECUTE FUNCTION journal.number();\n", t)
		fmt.Fprintf(&sql, "CREATE TRIGGER record AFTER INSERT OR UPDATE OR DELETE ON shop.%s FOR EACH ROW EXECUTE FUNCTION journal.record('%s');\n",
			t, strings.Join(tables[t], "', '"))
		if list.Len() > 0 {
			list.WriteString(", ")
		}
		list.WriteString("shop." + t)
	}
	// The password is random text of letters and digits; there is nothing in it to quote.
	fmt.Fprintf(&sql, `CREATE ROLE walferry LOGIN REPLICATION PASSWORD '%s';
GRANT CONNECT ON DATABASE shop TO walferry;
GRANT USAGE ON SCHEMA shop TO walferry;
GRANT SELECT ON ALL TABLES IN SCHEMA shop TO walferry;
CREATE PUBLICATION walferry_shop FOR TABLE %s WITH (publish_via_partition_root = true);
`, pg.Password(), list.String())
	return exec("shop", sql.String())
}

// shop is the workload.
type shop struct {
	dsn        string
	rate       int
	alterAt    int64
	screen     *screen
	committed  atomic.Int64 // changes, as the writer counts them; the journal is the truth
	rolledBack atomic.Int64 // transactions
	altered    atomic.Bool
}

func newShop(dsn string, rate, alterAt int, s *screen) *shop {
	return &shop{dsn: dsn, rate: rate, alterAt: int64(alterAt), screen: s}
}

const writers = 3

// stock fills the shelves before the shop opens. It returns the number of the newest change, which is that of rows as well: they are
// inserts.
func (s *shop) stock(ctx context.Context) (rows int64, err error) {
	c, err := pgx.Connect(ctx, s.dsn)
	if err != nil {
		return 0, err
	}
	w := &writer{shop: s, conn: c}
	if err = w.try(ctx, false, w.stockUp); err == nil {
		err = c.QueryRow(ctx, "SELECT max(seq) FROM journal.changes").Scan(&rows)
	}
	return rows, errors.Join(err, c.Close(context.WithoutCancel(ctx)))
}

// run opens the shop and sells until the context ends, whose cause it returns.
func (s *shop) run(ctx context.Context) error {
	c, err := pgx.Connect(ctx, s.dsn)
	if err != nil {
		return err
	}
	first := &writer{shop: s, conn: c}
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	ended := make(chan error, writers)
	go func() { ended <- first.sell(ctx, true) }()
	for range writers - 1 {
		go func() {
			c, err := pgx.Connect(ctx, s.dsn)
			if err != nil {
				ended <- err
				return
			}
			ended <- (&writer{shop: s, conn: c}).sell(ctx, false)
		}()
	}
	var out error
	for range writers {
		if err := <-ended; out == nil {
			out = err
			cancel(err)
		}
	}
	return out
}

type writer struct {
	*shop
	conn *pgx.Conn
	rows int64 // of the open transaction
	tx   pgx.Tx
}

// sell runs transactions until the context ends. One that has begun is ended in order.
func (w *writer) sell(ctx context.Context, alters bool) (err error) {
	defer func() { err = errors.Join(err, w.conn.Close(context.WithoutCancel(ctx))) }()
	begun, from := time.Now(), w.committed.Load()
	for ctx.Err() == nil {
		if w.rate > 0 {
			// Ahead of the clock: wait for it.
			ahead := time.Duration(w.committed.Load()-from)*time.Second/time.Duration(w.rate) - time.Since(begun)
			if ahead > 0 {
				select {
				case <-ctx.Done():
				case <-time.After(ahead):
				}
				continue
			}
		}
		if alters && w.committed.Load() >= w.alterAt && !w.altered.Load() {
			if err := w.try(ctx, false, w.alter); err != nil {
				return err
			}
			w.altered.Store(true)
			w.screen.note("ALTER TABLE shop.orders ADD COLUMN gift boolean")
			continue
		}
		var err error
		switch n := rand.IntN(20); {
		case n < 12:
			err = w.try(ctx, rand.IntN(12) == 0, w.order)
		case n < 16:
			err = w.try(ctx, false, w.advance)
		case n < 18:
			err = w.try(ctx, rand.IntN(4) == 0, w.cancel)
		case n < 19:
			err = w.try(ctx, false, w.register)
		default:
			err = w.try(ctx, false, w.renumber)
		}
		if err != nil {
			return err
		}
	}
	return context.Cause(ctx)
}

// try runs one transaction. One that the server chose to end is a rollback like another.
func (w *writer) try(ctx context.Context, rollBack bool, work func(context.Context) error) error {
	ctx = context.WithoutCancel(ctx)
	w.rows = 0
	err := pgx.BeginFunc(ctx, w.conn, func(tx pgx.Tx) error {
		w.tx = tx
		if err := work(ctx); err != nil {
			return err
		}
		if rollBack {
			return pgx.ErrTxCommitRollback
		}
		return nil
	})
	var refused *pgconn.PgError
	switch {
	case err == nil:
		w.committed.Add(w.rows)
		return nil
	case errors.Is(err, pgx.ErrTxCommitRollback), errors.As(err, &refused) && refused.Code == "40P01":
		w.rolledBack.Add(1)
		return nil
	}
	return err
}

func (w *writer) exec(ctx context.Context, sql string, args ...any) error {
	tag, err := w.tx.Exec(ctx, sql, args...)
	w.rows += tag.RowsAffected()
	return err
}

// stockUp puts products on the shelves, and people into the books.
func (w *writer) stockUp(ctx context.Context) error {
	for i, name := range products {
		if err := w.exec(ctx, "INSERT INTO shop.products VALUES ($1, $2, $3::text::numeric, 100)", i+1, name, fmt.Sprintf("%d.%02d", 1+rand.IntN(90), rand.IntN(100))); err != nil {
			return err
		}
	}
	for range 400 {
		if err := w.register(ctx); err != nil {
			return err
		}
	}
	return nil
}

func (w *writer) register(ctx context.Context) error {
	name := []string{"Ada", "Bo", "Čeněk", "Dörte", "Eun", "Fatima", "Gus", "Ines"}[rand.IntN(8)]
	return w.exec(ctx, "INSERT INTO shop.customers (id, name, email) VALUES (nextval('shop.ids'), $1, $2)", name,
		fmt.Sprintf("%s%d@example.com", strings.ToLower(name[:1]), rand.IntN(1000)))
}

// order is placed: the order, its items, and less on the shelves. Products are locked in the order of their ids.
func (w *writer) order(ctx context.Context) error {
	var id int64
	if err := w.tx.QueryRow(ctx, "SELECT nextval('shop.ids')").Scan(&id); err != nil {
		return err
	}
	gift := ""
	if w.altered.Load() {
		gift = ", true"
	}
	columns := "id, customer_id, status, total, tags"
	if gift != "" {
		columns += ", gift"
	}
	if err := w.exec(ctx, "INSERT INTO shop.orders ("+columns+") SELECT $1::bigint, id, 'new', $2::text::numeric, $3::text[]"+gift+" FROM shop.customers ORDER BY random() LIMIT 1",
		id, fmt.Sprintf("%d.%02d", rand.IntN(900), rand.IntN(100)), []string{"web", "harbour"}[:rand.IntN(3)]); err != nil {
		return err
	}
	product := 1
	for line := 1; line <= 1+rand.IntN(4); line++ {
		if product += rand.IntN(5); product > len(products) {
			break
		}
		quantity := 1 + rand.IntN(3)
		if err := w.exec(ctx, "INSERT INTO shop.order_items VALUES ($1, $2, $3, $4)", id, line, product, quantity); err != nil {
			return err
		}
		if err := w.exec(ctx, "UPDATE shop.products SET stock = stock - $2 WHERE id = $1", product, quantity); err != nil {
			return err
		}
		product++
	}
	return nil
}

// some is an order that nobody else works on.
const some = "(SELECT id FROM shop.orders WHERE id >= (SELECT min(id) + floor(random() * (max(id) - min(id)))::bigint FROM shop.orders) ORDER BY id LIMIT 1 FOR UPDATE SKIP LOCKED)"

func (w *writer) advance(ctx context.Context) error {
	return w.exec(ctx, "UPDATE shop.orders SET status = CASE status WHEN 'new' THEN 'paid' WHEN 'paid' THEN 'sent' ELSE 'done' END WHERE id = "+some)
}

func (w *writer) cancel(ctx context.Context) error {
	var id int64
	err := w.tx.QueryRow(ctx, "SELECT id FROM "+some+" AS picked").Scan(&id)
	if errors.Is(err, pgx.ErrNoRows) {
		return nil
	}
	if err != nil {
		return err
	}
	if err := w.exec(ctx, "DELETE FROM shop.order_items WHERE order_id = $1", id); err != nil {
		return err
	}
	return w.exec(ctx, "DELETE FROM shop.orders WHERE id = $1", id)
}

// renumber changes a key, which is a delete and a create to a consumer.
func (w *writer) renumber(ctx context.Context) error {
	err := w.exec(ctx, "UPDATE shop.customers SET id = nextval('shop.ids') WHERE id = (SELECT id FROM shop.customers ORDER BY random() LIMIT 1 FOR UPDATE SKIP LOCKED)")
	w.rows *= 2
	return err
}

func (w *writer) alter(ctx context.Context) error {
	return w.exec(ctx, "ALTER TABLE shop.orders ADD COLUMN gift boolean")
}
