package demo

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strings"

	"github.com/jackc/pgx/v5"
)

// Account compares what was committed with what was received. It is printed as the last line.
type Account struct {
	Committed  int     `json:"committed"`  // changes in the journal
	Received   int     `json:"received"`   // events
	Missing    int     `json:"missing"`    // changes without an event, and rows that folding the events does not give
	Repeated   int     `json:"repeated"`   // events of a change that had one, or of none that was committed
	Disordered int     `json:"disordered"` // events that came after a later one of their key
	Kills      int     `json:"kills"`
	Seconds    float64 `json:"seconds"`

	rows int // in the tables
}

// OK says that nothing is wrong.
func (a *Account) OK() bool { return a.Missing == 0 && a.Repeated == 0 && a.Disordered == 0 }

// Print writes the account as one line of JSON.
func (a *Account) Print(w io.Writer) error { return json.NewEncoder(w).Encode(a) }

// truth is what the database says: journal and tables, out of one snapshot.
type truth struct {
	changes []event          // in the order of the journal
	rows    map[string]int64 // number of the change that made each row, by table and key
}

// readTruth reads it. The first changes of the journal, before that many, were made when nobody read yet: what came of them is rows.
func readTruth(ctx context.Context, dsn string, before int64) (*truth, error) {
	c, err := pgx.Connect(ctx, dsn)
	if err != nil {
		return nil, err
	}
	t := &truth{rows: map[string]int64{}}
	err = pgx.BeginTxFunc(ctx, c, pgx.TxOptions{IsoLevel: pgx.RepeatableRead, AccessMode: pgx.ReadOnly}, func(tx pgx.Tx) error {
		var e event
		// A CASE is named after its ELSE, and a bare seq would sort by that.
		rows, err := tx.Query(ctx, `SELECT CASE WHEN c.op = 'd' THEN 0 ELSE c.seq END AS change, CASE WHEN c.seq > $1 THEN xid ELSE 0 END,
			tbl, CASE WHEN c.seq > $1 THEN op::text ELSE 'r' END, key FROM journal.changes c ORDER BY c.seq`, before)
		if err != nil {
			return err
		}
		if _, err := pgx.ForEachRow(rows, []any{&e.change, &e.xid, &e.table, &e.op, &e.key}, func() error {
			t.changes = append(t.changes, e)
			return nil
		}); err != nil {
			return err
		}
		for table, key := range tables {
			var k string
			var n int64
			rows, err := tx.Query(ctx, fmt.Sprintf("SELECT concat_ws('/', %s), change FROM shop.%s", strings.Join(key, ", "), table))
			if err != nil {
				return err
			}
			if _, err := pgx.ForEachRow(rows, []any{&k, &n}, func() error { t.rows[table+"/"+k] = n; return nil }); err != nil {
				return err
			}
		}
		return nil
	})
	if err := errors.Join(err, c.Close(ctx)); err != nil {
		return nil, fmt.Errorf("read the journal: %w", err)
	}
	return t, nil
}

// compare takes account.
func compare(t *truth, seen []event) *Account {
	a := &Account{Committed: len(t.changes), Received: len(seen), rows: len(t.rows)}
	place := make(map[string]int, len(t.changes)) // of each change in the journal, from 1
	for i, e := range t.changes {
		place[e.id()] = i + 1
	}
	had := make(map[string]bool, len(seen))
	last := map[string]int{} // place of the newest event of a key
	rows := map[string]int64{}
	for _, e := range seen {
		id, key := e.id(), e.table+"/"+e.key
		at := place[id]
		if at == 0 || had[id] || t.changes[at-1] != e {
			a.Repeated++
			continue
		}
		had[id] = true
		if at < last[key] {
			a.Disordered++
			continue // a reader who keeps the newest is not misled by it
		}
		last[key] = at
		if rows[key] = e.change; e.change == 0 {
			delete(rows, key)
		}
	}
	a.Missing = len(t.changes) - len(had)
	if a.Missing > 0 {
		return a // what a missing event leaves wrong in the rows is counted already
	}
	for key, n := range t.rows {
		if rows[key] != n {
			a.Missing++
		}
	}
	for key := range rows {
		if _, ok := t.rows[key]; !ok {
			a.Missing++
		}
	}
	return a
}
