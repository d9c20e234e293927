// Package workload writes to a Postgres as a busy shop does, and keeps the truth about it: an audit table that triggers
// fill in the same transaction, so that what committed, and nothing else, is in it. It knows nothing of replication.
//
// Create makes the tables, Run writes, Export hands the truth to the oracle (testdata/oracle), which compares it with
// what a consumer read.
//
// The stream of statements of each writer is a function of the seed. What they find is not: writers share keys, and the
// database decides who comes first.
package workload

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
)

// Tables that the workload writes, all in the schema public. Items has ints and text alone; Documents has values that are
// TOASTed, and updates that leave them alone; Stock has a key of two columns; Ledger has REPLICA IDENTITY FULL.
const (
	Items     = "items"
	Orders    = "orders"
	Documents = "documents"
	Stock     = "stock"
	Ledger    = "ledger"
)

// All lists the tables.
func All() []string { return []string{Items, Orders, Documents, Stock, Ledger} }

// auditSchema makes the audit. It is in a schema of its own, which no publication of schema public or of the tables
// has; its sequence orders the rows within a transaction.
const auditSchema = `
CREATE SCHEMA audit;
CREATE TABLE audit.changes (
	seq bigserial PRIMARY KEY,
	xid bigint NOT NULL,
	tbl text NOT NULL,
	op "char" NOT NULL,
	old json,
	new json
);
CREATE FUNCTION audit.record() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
	INSERT INTO audit.changes (xid, tbl, op, old, new) VALUES (
		pg_current_xact_id()::text::bigint, TG_TABLE_SCHEMA || '.' || TG_TABLE_NAME, left(TG_OP, 1)::"char",
		CASE WHEN TG_OP <> 'INSERT' THEN row_to_json(OLD) END,
		CASE WHEN TG_OP <> 'DELETE' THEN row_to_json(NEW) END);
	RETURN NULL;
END $$;
`

// audited has the changes of a table noted from now on.
func audited(table string) string {
	return fmt.Sprintf("CREATE TRIGGER audit AFTER INSERT OR UPDATE OR DELETE ON %s FOR EACH ROW EXECUTE FUNCTION audit.record();\n", table)
}

const schema = `
CREATE TABLE items (id bigint PRIMARY KEY, n integer NOT NULL, small smallint, label text);
CREATE TABLE orders (
	id bigint PRIMARY KEY, customer_id bigint NOT NULL, status text NOT NULL, amount numeric(12,2), note text,
	tags text[], attrs jsonb, paid boolean, created_at timestamptz NOT NULL, updated_at timestamptz);
CREATE TABLE documents (id integer PRIMARY KEY, title text NOT NULL, body text, raw bytea, views integer NOT NULL, score double precision);
-- Without compression and out of line, whatever the size above 2 kB: else a value is TOASTed by chance.
ALTER TABLE documents ALTER COLUMN body SET STORAGE EXTERNAL, ALTER COLUMN raw SET STORAGE EXTERNAL;
CREATE TABLE stock (warehouse text, sku integer, quantity integer NOT NULL, counted date, PRIMARY KEY (warehouse, sku));
CREATE TABLE ledger (id bigint PRIMARY KEY, account integer NOT NULL, delta numeric(20,4) NOT NULL, ref uuid, booked timestamp);
ALTER TABLE ledger REPLICA IDENTITY FULL;
`

// Create makes the tables and their audit in an empty database. The role must own it.
func Create(ctx context.Context, c *pgx.Conn) error {
	sql := auditSchema + schema
	for _, t := range All() {
		sql += audited(t)
	}
	if _, err := c.Exec(ctx, sql); err != nil {
		return fmt.Errorf("workload: create: %w", err)
	}
	return nil
}

// Config says how much is written, and where. DSN is all that must be set.
type Config struct {
	// DSN of a role that may write the tables, and own them where DDL is wanted.
	DSN string
	// Seed of the statements. Runs that follow each other on one database want different ones.
	Seed uint64
	// Writers work at the same time, on a connection each. 0 is 4.
	Writers int
	// Transactions of each writer, rolled back ones included. 0: until the context ends.
	Transactions int
	// Rate limits the transactions of all writers together, in transactions per second. 0: as fast as it goes.
	Rate float64
	// Tables that are written; one that is named twice is twice as often. None is all of those of Create.
	Tables []string
	// Rows that the tables of CreateFire had at first, where Tables are of these.
	Rows map[string]int64
	// Near says where in a table of CreateFire half of the changes are to be: a little behind that key, its columns as they stand in
	// SQL; "" for anywhere. Nil: anywhere.
	Near func(table string) string
	// Pace is called before each transaction, which waits for its end. Nil: none.
	Pace func(context.Context)
	// DDL makes the first writer add and drop columns of orders now and then (if Tables has it).
	DDL bool
	// Big makes the first writer begin with one transaction of so many rows of items. 0: none.
	Big int
	// Large makes the first writer write another such transaction for each number of rows that it receives, between two of
	// its others. One that fails is not repeated. Nil: none.
	Large <-chan int
}

// Stats count what was written, as the writers know it. The audit is what really committed.
type Stats struct {
	Transactions int64 // committed
	Changes      int64 // rows in these
	Large        int64 // of the transactions, those of Big and Large
	RolledBack   int64 // transactions ended by us with ROLLBACK, or by the server for a deadlock or a lock's time-out
	Uncertain    int64 // transactions whose COMMIT got no answer
	Altered      int64 // columns added and dropped
	Reconnects   int64
}

type counters struct {
	transactions, changes, large, rolledBack, uncertain, altered, reconnects atomic.Int64
}

// Run writes until every writer has done its transactions or the context ends, which is not an error. A server that goes
// away is waited for: a writer connects again and goes on with its next transaction.
func Run(ctx context.Context, cfg Config) (Stats, error) {
	if cfg.Writers == 0 {
		cfg.Writers = 4
	}
	if len(cfg.Tables) == 0 {
		cfg.Tables = All()
	}
	var fresh int64
	if cfg.Rows == nil {
		var err error
		if fresh, err = freshKeys(ctx, cfg.DSN); err != nil {
			return Stats{}, fmt.Errorf("workload: %w", err)
		}
	}
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	var tick <-chan time.Time
	if cfg.Rate > 0 {
		t := time.NewTicker(time.Duration(float64(time.Second) / cfg.Rate))
		defer t.Stop()
		tick = t.C
	}
	var count counters
	var wg sync.WaitGroup
	errs := make([]error, cfg.Writers)
	for i := range cfg.Writers {
		w := &writer{cfg: cfg, id: i, next: fresh + int64(i), tick: tick, count: &count,
			rng: rand.New(rand.NewPCG(cfg.Seed, uint64(i)))}
		wg.Go(func() {
			defer w.disconnect()
			if errs[i] = w.run(ctx); errs[i] != nil {
				cancel(errs[i])
			}
		})
	}
	wg.Wait()
	s := Stats{count.transactions.Load(), count.changes.Load(), count.large.Load(), count.rolledBack.Load(), count.uncertain.Load(),
		count.altered.Load(), count.reconnects.Load()}
	if err := errors.Join(errs...); err != nil {
		return s, fmt.Errorf("workload: %w", err)
	}
	return s, nil
}

// freshKeys returns an id above all that are there and above the shared ones: from it on, writers take ids of their own.
func freshKeys(ctx context.Context, dsn string) (int64, error) {
	c, err := pgx.Connect(ctx, dsn)
	if err != nil {
		return 0, err
	}
	var most int64
	err = c.QueryRow(ctx, `SELECT greatest((SELECT max(id) FROM items), (SELECT max(id) FROM orders),
		(SELECT max(id) FROM documents), (SELECT max(sku) FROM stock), (SELECT max(id) FROM ledger), $1)`, shared).Scan(&most)
	return most + 1, errors.Join(err, c.Close(context.WithoutCancel(ctx)))
}

// transient reports whether a writer goes on after an error: the server went away, or it chose this transaction to end.
func transient(err error) bool {
	var refused *pgconn.PgError
	if !errors.As(err, &refused) {
		return true // the connection
	}
	switch refused.Code {
	case "40001", "40P01", // serialisation, deadlock
		"55P03", // lock_timeout
		"42703", // a column that another run has dropped
		"53300": // too many connections, while old ones end
		return true
	}
	return refused.Code[:2] == "57" || refused.Code[:2] == "08" // shutdown, crash, connection
}

// Export writes what the oracle compares with, as one JSON object a line, out of one snapshot: for each table that has the audit
// its name, key columns (null for none), replica identity, and whether its rows have a version, then every committed change in
// order of the audit's sequence, then every row.
//
//	{"kind":"table","table":"public.items","key":["id"],"identity":"d","version":false}
//	{"kind":"change","seq":1,"xid":750,"table":"public.items","op":"I","old":null,"new":{"id":1,…}}
//	{"kind":"row","table":"public.items","row":{"id":1,…}}
func Export(ctx context.Context, c *pgx.Conn, w io.Writer) error {
	err := pgx.BeginTxFunc(ctx, c, pgx.TxOptions{IsoLevel: pgx.RepeatableRead, AccessMode: pgx.ReadOnly}, func(tx pgx.Tx) error {
		if _, err := tx.Exec(ctx, "SET LOCAL TimeZone = 'UTC'"); err != nil {
			return err
		}
		rows, err := tx.Query(ctx, "SELECT c.relname::text FROM pg_trigger g JOIN pg_class c ON c.oid = g.tgrelid WHERE g.tgname = 'audit' ORDER BY 1")
		if err != nil {
			return err
		}
		tables, err := pgx.CollectRows(rows, pgx.RowTo[string])
		if err != nil {
			return err
		}
		for _, t := range tables {
			var line struct {
				Kind     string   `json:"kind"`
				Table    string   `json:"table"`
				Key      []string `json:"key"`
				Identity string   `json:"identity"`
				Version  bool     `json:"version"`
			}
			line.Kind, line.Table = "table", "public."+t
			err := tx.QueryRow(ctx, `SELECT c.relreplident::text,
				(SELECT array_agg(a.attname::text ORDER BY array_position(i.indkey::int2[], a.attnum)) FROM pg_index i JOIN pg_attribute a
					ON a.attrelid = i.indrelid AND a.attnum = ANY (i.indkey) WHERE i.indrelid = c.oid AND i.indisprimary),
				EXISTS (SELECT FROM pg_attribute a WHERE a.attrelid = c.oid AND a.attname = 'version')
				FROM pg_class c WHERE c.oid = $1::regclass`, line.Table).Scan(&line.Identity, &line.Key, &line.Version)
			if err != nil {
				return err
			}
			if err := json.NewEncoder(w).Encode(line); err != nil {
				return err
			}
		}
		// The server writes the JSON: what it says a value is, is not changed on the way.
		if err := lines(ctx, tx, w, `SELECT json_build_object('kind', 'change', 'seq', seq, 'xid', xid, 'table', tbl, 'op', op,
			'old', old, 'new', new)::text FROM audit.changes ORDER BY seq`); err != nil {
			return err
		}
		for _, t := range tables {
			if err := lines(ctx, tx, w, fmt.Sprintf(`SELECT json_build_object('kind', 'row', 'table', 'public.%s', 'row', row_to_json(t))::text
				FROM public.%s t`, t, t)); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		return fmt.Errorf("workload: export: %w", err)
	}
	return nil
}

func lines(ctx context.Context, tx pgx.Tx, w io.Writer, sql string) error {
	rows, err := tx.Query(ctx, sql, pgx.QueryExecModeExec)
	if err != nil {
		return err
	}
	defer rows.Close()
	for rows.Next() {
		if _, err := w.Write(append(rows.RawValues()[0], '\n')); err != nil {
			return err
		}
	}
	return rows.Err()
}

// Committed counts the changes in the audit.
func Committed(ctx context.Context, c *pgx.Conn) (n int64, err error) {
	if err := c.QueryRow(ctx, "SELECT count(*) FROM audit.changes").Scan(&n); err != nil {
		return 0, fmt.Errorf("workload: %w", err)
	}
	return n, nil
}
