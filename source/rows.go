package source

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
)

// Filled is a table that holds rows.
type Filled struct {
	Table string // quoted as in SQL
	Rows  int64  // the planner's estimate, or -1 when it has none
	Bytes int64  // size of the table without indexes and large values; 0 when it could not be asked
}

// String says how much there is.
func (f Filled) String() string {
	switch {
	case f.Rows >= 0:
		return fmt.Sprintf("about %d rows", f.Rows)
	case f.Bytes > 0:
		return fmt.Sprintf("an unknown number of rows, %d bytes", f.Bytes)
	}
	return "an unknown number of rows"
}

// Filled returns which of the tables hold rows, partitions counted with their root. It asks the catalog, and no more than
// CONNECT is needed: of a table whose size is not 0 and of which the planner knows nothing a row is looked for, and where our role
// may not read it is taken to have some.
func (c *Catalog) Filled(ctx context.Context, tables []Table) ([]Filled, error) {
	var out []Filled
	err := c.on(ctx, &c.ask, "look for rows", func(conn *pgx.Conn) error {
		out = nil
		for i := range tables {
			f := Filled{Table: tables[i].quoted()}
			var refused *pgconn.PgError
			// A table that was emptied since it was analysed has a size of 0, one that was filled since an estimate of 0.
			err := short(ctx, conn, func(tx pgx.Tx) error {
				return tx.QueryRow(ctx, `SELECT coalesce(sum(greatest(l.reltuples, 0)) FILTER (WHERE s.size > 0), 0)::int8, coalesce(sum(s.size), 0)::int8
					FROM (SELECT $1::oid AS oid UNION SELECT t.relid::oid FROM pg_partition_tree($1::oid::regclass) t WHERE t.isleaf) AS t
					JOIN pg_class l ON l.oid = t.oid AND l.relkind = 'r' CROSS JOIN LATERAL (SELECT pg_relation_size(l.oid) AS size) AS s`, tables[i].OID).Scan(&f.Rows, &f.Bytes)
			})
			switch {
			case errors.As(err, &refused): // somebody holds a lock on it: it may have some
				f.Rows, f.Bytes = -1, 0
			case err != nil:
				return fmt.Errorf("table %s: %w", f.Table, err)
			case f.Bytes == 0:
				continue
			case f.Rows == 0:
				f.Rows = -1
				some := true
				err := short(ctx, conn, func(tx pgx.Tx) error {
					return tx.QueryRow(ctx, `SELECT EXISTS (SELECT FROM `+f.Table+`)`).Scan(&some)
				})
				switch {
				case errors.As(err, &refused): // no SELECT, row security, a lock, a time-out
				case err != nil:
					return fmt.Errorf("table %s: %w", f.Table, err)
				case !some:
					continue
				}
			}
			out = append(out, f)
		}
		return nil
	})
	return out, err
}

// rowsTimeout bounds each look into one table.
const rowsTimeout = 2 * time.Second

// short runs f in a transaction that waits neither long nor for locks, and that row security makes fail instead of
// showing less.
func short(ctx context.Context, conn *pgx.Conn, f func(pgx.Tx) error) error {
	return pgx.BeginTxFunc(ctx, conn, pgx.TxOptions{AccessMode: pgx.ReadOnly}, func(tx pgx.Tx) error {
		if _, err := tx.Exec(ctx, fmt.Sprintf("SET LOCAL lock_timeout = '%[1]s'; SET LOCAL statement_timeout = '%[1]s'; SET LOCAL row_security = off", milliseconds(rowsTimeout))); err != nil {
			return err
		}
		return f(tx)
	})
}
