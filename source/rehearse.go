package source

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
)

// RehearseOptions say how a migration is tried.
type RehearseOptions struct {
	// LockTimeout and StatementTimeout bound each statement, whatever the migration sets (unless it is kept). Default 2 s and 30 s.
	LockTimeout, StatementTimeout time.Duration
	// Keep runs each statement by itself and rolls nothing back. For a database that was made for it.
	Keep bool
}

// Step is one statement of a migration.
type Step struct {
	SQL string
	// Savepoint says that it makes a savepoint, releases one or goes back to one.
	Savepoint bool
}

// Rehearsal is what a migration made of a database.
type Rehearsal struct {
	Before, After *Shape
	// Refused has, by the index of the step, the server's words about statements that it does not run inside of a transaction.
	Refused map[int]string
	// DDLTrigger says whether the event trigger is there and enabled afterwards.
	DDLTrigger bool
	System     System // that it was tried on
}

// RehearsalError is a statement of a migration that failed. Nothing is left of those before it, unless they were kept.
type RehearsalError struct {
	Step int // index; -1 for what is read of the catalog before and after
	Kept bool
	// Offset is where in the statement the server saw the error, in characters from 0; -1 where it does not say.
	Offset int
	// Refused is what Rehearsal.Refused would be.
	Refused map[int]string
	Err     error
}

func (e *RehearsalError) Error() string { return withDetail(e.Err) }
func (e *RehearsalError) Unwrap() error { return e.Err }

// Hint is the way on.
func (e *RehearsalError) Hint() string {
	pe, ok := errors.AsType[*pgconn.PgError](e.Err)
	if !ok {
		return ""
	}
	switch pe.Code {
	case "55P03": // lock_not_available
		return "somebody holds a lock on it: try again when there is less to do, raise --lock-timeout, or use --scratch"
	case "57014": // query_canceled
		return "raise --statement-timeout, or use --scratch: there are no rows in a scratch database"
	case "42501": // insufficient_privilege
		if e.Step < 0 {
			return "the role needs TEMPORARY on the database: give another one with --admin-dsn, or use --scratch"
		}
		return "give the connection string of a role that may run the migration with --admin-dsn, or use --scratch"
	case "55P04": // unsafe_new_enum_value_usage
		return "a new label cannot be used in the transaction that adds it: use --scratch, where each statement is a transaction"
	}
	if e.Kept {
		return "a scratch database has neither rows nor other roles than its server has: see that the migration needs none of another server"
	}
	return pe.Hint
}

// withDetail is what the server said.
func withDetail(err error) string {
	if pe, ok := errors.AsType[*pgconn.PgError](err); ok && pe.Detail != "" {
		return pe.Message + " (" + pe.Detail + ")"
	}
	return serverMessage(err)
}

var errEnded = errors.New("the statement ended the transaction that was to be rolled back, and the database undid it all the same")

// guard makes a COMMIT of the transaction fail: a row whose foreign key is looked at when it comes to that. Nothing of ours
// commits; it stands against statements that do so in a way that nobody thought of.
const guard = `CREATE TEMPORARY TABLE pg_temp.walferry_plan (id int PRIMARY KEY, missing int REFERENCES pg_temp.walferry_plan DEFERRABLE INITIALLY DEFERRED);
INSERT INTO pg_temp.walferry_plan VALUES (1, 2)`

// Rehearse runs the statements of a migration in one transaction, reads the catalog as it is then, and rolls back. Locks are
// held until then: the caller does nothing slow in between, since there is no between. What the statements do outside of the
// transaction is not undone, which script.Outside knows of; each of them is sent by itself, in a form in which the server takes
// one command only.
//
// A statement that fails is a *RehearsalError.
func (c *Catalog) Rehearse(ctx context.Context, steps []Step, opt RehearseOptions) (*Rehearsal, error) {
	if opt.LockTimeout <= 0 {
		opt.LockTimeout = 2 * time.Second
	}
	if opt.StatementTimeout <= 0 {
		opt.StatementTimeout = 30 * time.Second
	}
	r := &Rehearsal{Refused: map[int]string{}, System: c.sys}
	err := c.visit(ctx, "try the migration", func(conn *pgx.Conn) error {
		if err := pgx.BeginTxFunc(ctx, conn, pgx.TxOptions{AccessMode: pgx.ReadOnly}, func(tx pgx.Tx) (err error) {
			r.Before, err = c.readShape(ctx, tx, opt)
			return err
		}); err != nil {
			return failed(-1, opt.Keep, err)
		}
		if opt.Keep {
			return c.keep(ctx, conn, steps, opt)
		}
		return c.rollBack(ctx, conn, steps, opt, r)
	})
	if err == nil && opt.Keep {
		// A connection of its own: the migration may have set roles and discarded whatever the other one had.
		err = c.once(ctx, "read what the migration has made", func(conn *pgx.Conn) error {
			return pgx.BeginTxFunc(ctx, conn, pgx.TxOptions{AccessMode: pgx.ReadOnly}, func(tx pgx.Tx) error { return c.finish(ctx, tx, opt, r) })
		})
	}
	if e, ok := errors.AsType[*RehearsalError](err); ok {
		e.Refused = r.Refused
	}
	if err != nil {
		return nil, err
	}
	return r, nil
}

func (c *Catalog) readShape(ctx context.Context, tx pgx.Tx, opt RehearseOptions) (*Shape, error) {
	// As in any other connection of a Catalog: what the catalog says must not depend on the session, which is the migration's.
	// From 16 on the tables of a publication are locked when it is asked for them.
	if _, err := tx.Exec(ctx, fmt.Sprintf("RESET ROLE; SET LOCAL search_path = pg_catalog; SET LOCAL jit = off; SET LOCAL statement_timeout = '%s'; SET LOCAL lock_timeout = '%s'",
		milliseconds(c.cfg.StatementTimeout), milliseconds(opt.LockTimeout))); err != nil {
		return nil, err
	}
	return c.shape(ctx, tx)
}

// rollBack is Rehearse in a transaction.
func (c *Catalog) rollBack(ctx context.Context, conn *pgx.Conn, steps []Step, opt RehearseOptions, r *Rehearsal) error {
	tx, err := conn.BeginTx(ctx, pgx.TxOptions{IsoLevel: pgx.ReadCommitted, AccessMode: pgx.ReadWrite})
	if err != nil {
		return err
	}
	// Were this process to stop, the server would let go of the locks by itself.
	limits := fmt.Sprintf("SET LOCAL lock_timeout = '%s'; SET LOCAL statement_timeout = '%s'; SET LOCAL idle_in_transaction_session_timeout = '10s'",
		milliseconds(opt.LockTimeout), milliseconds(opt.StatementTimeout))
	if _, err = tx.Exec(ctx, limits+"; "+guard); err != nil {
		err = failed(-1, false, err)
	}
	for i, s := range steps {
		if err != nil {
			break
		}
		err = c.try(ctx, conn, i, s, limits, r)
	}
	if err == nil {
		err = c.finish(ctx, tx, opt, r)
	}
	if rerr := tx.Rollback(ctx); rerr != nil && !errors.Is(rerr, pgx.ErrTxClosed) && err == nil {
		err = fmt.Errorf("roll back: %w", rerr) // the connection is closed then, and the server rolls back by itself
	}
	return err
}

// try runs one statement, after a savepoint, so that one which the server does not run inside of a transaction can be left out.
func (c *Catalog) try(ctx context.Context, conn *pgx.Conn, i int, s Step, limits string, r *Rehearsal) error {
	const savepoint = "walferry_plan"
	prepare := limits
	if !s.Savepoint {
		prepare += "; SAVEPOINT " + savepoint
	}
	if _, err := conn.Exec(ctx, prepare); err != nil {
		return err
	}
	err := one(ctx, conn, s.SQL)
	var pe *pgconn.PgError
	switch {
	case conn.PgConn().TxStatus() == 'I':
		return &RehearsalError{Step: i, Offset: -1, Err: errors.Join(errEnded, err)}
	case err == nil && !s.Savepoint:
		_, err = conn.Exec(ctx, "RELEASE SAVEPOINT "+savepoint)
	case !s.Savepoint && errors.As(err, &pe) && (pe.Code == "25001" || pe.Code == "2D000"): // active_sql_transaction, invalid_transaction_termination
		r.Refused[i] = pe.Message
		if pe.Code == "2D000" {
			r.Refused[i] = "it ends a transaction by itself (" + pe.Message + ")"
		}
		_, err = conn.Exec(ctx, "ROLLBACK TO SAVEPOINT "+savepoint)
	case err != nil:
		return failed(i, false, err)
	}
	return err
}

func failed(i int, kept bool, err error) *RehearsalError {
	e := &RehearsalError{Step: i, Kept: kept, Offset: -1, Err: err}
	if pe, ok := errors.AsType[*pgconn.PgError](err); ok && pe.Position > 0 {
		e.Offset = int(pe.Position) - 1
	}
	return e
}

// one runs a statement in the extended protocol, in which the server takes no second one. Its rows are not kept.
func one(ctx context.Context, conn *pgx.Conn, sql string) error {
	_, err := conn.PgConn().ExecParams(ctx, sql, nil, nil, nil, nil).Close()
	return err
}

// keep is Rehearse without a transaction. One that the migration leaves open goes with the connection.
func (c *Catalog) keep(ctx context.Context, conn *pgx.Conn, steps []Step, opt RehearseOptions) error {
	limits := fmt.Sprintf("SET lock_timeout = '%s'; SET statement_timeout = '%s'", milliseconds(opt.LockTimeout), milliseconds(opt.StatementTimeout))
	if _, err := conn.Exec(ctx, limits); err != nil {
		return err
	}
	for i, s := range steps {
		if err := one(ctx, conn, s.SQL); err != nil {
			return failed(i, true, err)
		}
	}
	return nil
}

// finish reads what the migration has made.
func (c *Catalog) finish(ctx context.Context, tx pgx.Tx, opt RehearseOptions, r *Rehearsal) (err error) {
	if r.After, err = c.readShape(ctx, tx, opt); err != nil {
		return failed(-1, opt.Keep, err)
	}
	for i := range r.After.Tables {
		t := &r.After.Tables[i]
		if r.Before.Table(t.OID) != nil {
			continue
		}
		var may bool
		if err := tx.QueryRow(ctx, "SELECT has_table_privilege($1::oid, 'SELECT')", t.OID).Scan(&may); err != nil {
			return err
		}
		if !may {
			continue
		}
		if err := tx.QueryRow(ctx, "SELECT EXISTS (SELECT FROM "+t.quoted()+")").Scan(&t.Filled); err != nil {
			return err
		}
	}
	return tx.QueryRow(ctx, ddlTriggerThere, ddlTrigger).Scan(&r.DDLTrigger)
}
