package source

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"walferry/decode"
)

// rowTimeout bounds the reading of rows: the stream waits for it, and somebody may hold a lock on the table, or a commit may
// wait for a synchronous standby.
const rowTimeout = 3 * time.Second

// rowLockTimeout is less, which tells a table that is locked from too much at once.
const rowLockTimeout = 2 * time.Second

// UnreadableRowError says that the server does not let a row be read by key, which trying the next one will hardly mend: the
// table is gone, renamed or locked, or the role may not read it.
type UnreadableRowError struct {
	Table  string // quoted
	User   string
	Denied bool // the role has no right to it
	slow   bool // it took longer than rowTimeout
	err    error
}

func (e *UnreadableRowError) Error() string {
	return fmt.Sprintf("a row of table %s cannot be read: %s", e.Table, serverMessage(e.err))
}
func (e *UnreadableRowError) Unwrap() error { return e.err }

// Hint implements [Hinter].
func (e *UnreadableRowError) Hint() string {
	if e.Denied {
		return fmt.Sprintf("GRANT SELECT ON %s TO %s, and USAGE on its schema", e.Table, quoteIdent(e.User))
	}
	return ""
}

var errNotVisible = errors.New("its transaction was delivered and is not visible yet: the commit waits, as for a synchronous standby")

// A RowKey names a row to be read.
type RowKey struct {
	XID      uint32       // of the transaction that has delivered the row
	Identity decode.Tuple // its values in the identity's columns, in the relation's order
}

// Key is the key of a row, which has to live as long. It is false for a row that cannot be asked for: its relation has no identity,
// or the row no value in it.
func Key(xid uint32, rel *decode.Relation, row decode.Tuple) (RowKey, bool) {
	var identity decode.Tuple
	for i := range rel.Columns {
		if !rel.Columns[i].Key {
			continue
		}
		if i >= len(row) || row[i].Kind != decode.Text && row[i].Kind != decode.Binary {
			return RowKey{}, false
		}
		identity = append(identity, row[i])
	}
	return RowKey{xid, identity}, len(identity) > 0
}

// A FoundRow is what ReadRows has read for a key.
type FoundRow struct {
	Seen   bool         // false: it has to be asked for again
	Values decode.Tuple // of the columns that were asked for; nil where there is no such row
}

// ReadRows reads columns, named by their places in rel, of the rows of now that have these keys, in the forms of the stream. A
// row is not there where it was deleted or has another key by now, and where the table or one of these columns is not what rel says
// any more. The values are the caller's.
//
// The answer is for the first key, always, and for as many of those behind it as maxBytes has room for. It is not older than the
// transaction that has delivered the row: the server sends a transaction when its commit is in the WAL, and others see it a moment
// later, or much later where the commit waits for a synchronous standby. The first one's transaction is waited for; what is of one
// that was not visible is not Seen.
func (c *Catalog) ReadRows(ctx context.Context, rel *decode.Relation, keys []RowKey, columns []int, maxBytes int) ([]FoundRow, error) {
	for started, wait := time.Now(), time.Millisecond/4; ; wait = min(2*wait, 50*time.Millisecond) {
		out, err := c.readRows(ctx, rel, keys, columns, maxBytes)
		unreadable, ok := errors.AsType[*UnreadableRowError](err)
		switch {
		case ok && unreadable.slow && len(keys) > 1:
			keys = keys[:1] // it may have been too much at once
			continue
		case err != nil || out[0].Seen:
			return out, err
		case time.Since(started) > rowTimeout:
			return nil, &UnreadableRowError{Table: quoteName(rel.Schema, rel.Name), User: c.user, err: errNotVisible}
		}
		keys = keys[:1]
		select {
		case <-time.After(wait):
		case <-ctx.Done():
			return nil, context.Cause(ctx)
		}
	}
}

// readRows asks once. There is at least one row in an answer.
func (c *Catalog) readRows(ctx context.Context, rel *decode.Relation, keys []RowKey, columns []int, maxBytes int) (out []FoundRow, err error) {
	sql := rowsQuery(rel, len(keys), columns)
	var values [][]byte
	var types []uint32
	var formats []int16
	for _, k := range keys {
		at := 0
		for _, col := range rel.Columns {
			if !col.Key {
				continue
			}
			format := int16(pgx.BinaryFormatCode)
			if k.Identity[at].Kind == decode.Text {
				format = pgx.TextFormatCode
			}
			values, types, formats = append(values, k.Identity[at].Data), append(types, col.Type), append(formats, format)
			at++
		}
	}
	kind, format := decode.Binary, int16(pgx.BinaryFormatCode)
	if c.cfg.TextMode {
		kind, format = decode.Text, pgx.TextFormatCode
	}
	var unreadable *UnreadableRowError
	err = c.on(ctx, &c.read, "read rows", func(conn *pgx.Conn) error {
		out, unreadable = nil, nil
		if c.bounded != conn {
			// A plan for a question that is never asked again is not worth compiling.
			if _, err := conn.Exec(ctx, "SET statement_timeout = '"+milliseconds(rowTimeout)+"'; SET lock_timeout = '"+milliseconds(rowLockTimeout)+"'; SET jit = off"); err != nil {
				return err
			}
			c.bounded = conn
		}
		r := conn.PgConn().ExecParams(ctx, sql, values, types, formats, []int16{format})
		var err error
		var seen decode.Snapshot
		for size := 0; r.NextRow(); {
			answer := r.Values()
			if err != nil || len(out) > 0 && size > maxBytes {
				continue // there is no other way to the end of the answer
			}
			if len(answer) != len(columns)+2 || len(out) == len(keys) {
				err = errors.New("the answer is not of the form that was asked for")
				continue
			}
			if len(out) == 0 {
				if seen, err = decode.ParseSnapshot(string(answer[0])); err != nil {
					continue
				}
			}
			row := FoundRow{Seen: seen.Sees(keys[len(out)].XID)}
			if row.Seen && answer[1] != nil {
				n := 0
				for _, v := range answer[2:] {
					n += len(v)
				}
				if size += n; len(out) > 0 && size > maxBytes {
					continue
				}
				row.Values = copyRow(answer[2:], n, kind)
			}
			out = append(out, row)
		}
		_, rerr := r.Close()
		if pe, ok := errors.AsType[*pgconn.PgError](rerr); ok && slices.Contains(unreadableCodes, pe.Code) {
			unreadable = &UnreadableRowError{quoteName(rel.Schema, rel.Name), c.user, pe.Code == "42501", pe.Code == "57014", rerr}
			return nil
		}
		if err = cmp.Or(rerr, err); err == nil && len(out) == 0 {
			err = errors.New("the answer has no row")
		}
		return err
	})
	if err == nil && unreadable != nil {
		err = unreadable
	}
	return out, err
}

// copyRow takes values of size bytes out of the connection's buffer.
func copyRow(values [][]byte, size int, kind decode.Kind) decode.Tuple {
	row, buf := make(decode.Tuple, len(values)), make([]byte, 0, size)
	for i, v := range values {
		if v == nil {
			row[i].Kind = decode.Null
			continue
		}
		at := len(buf)
		buf = append(buf, v...)
		row[i] = decode.Datum{Kind: kind, Data: buf[at:len(buf):len(buf)]}
	}
	return row
}

// unreadableCodes are SQLSTATEs of a table that is not, or not now, what a question takes it for: insufficient_privilege,
// undefined_table, invalid_schema_name, undefined_column, undefined_function (no = for a type of the key), lock_not_available (by
// lock_timeout), query_canceled (by statement_timeout).
var unreadableCodes = []string{"42501", "42P01", "3F000", "42703", "42883", "55P03", "57014"}

// rowsQuery is the question of readRows for so many keys: one row for each, in their order. It holds the table to what rel says,
// since another one may have its name by now, and a column another type. Each key is looked up by itself, so that the identity's
// index is what the server takes, and large values are fetched as their rows are sent.
func rowsQuery(rel *decode.Relation, keys int, columns []int) string {
	table := quoteName(rel.Schema, rel.Name)
	var want, same, list, names []string
	for _, i := range columns {
		list = append(list, "t."+quoteIdent(rel.Columns[i].Name))
	}
	for i, col := range rel.Columns {
		if col.Key {
			name := "k" + strconv.Itoa(len(names))
			names = append(names, name)
			want = append(want, "t."+quoteIdent(col.Name)+" = k."+name)
		}
		if col.Key || slices.Contains(columns, i) {
			same = append(same, fmt.Sprintf("(%s, '%d'::oid, %d)", quoteLiteral(col.Name), col.Type, col.Mod))
		}
	}
	var b strings.Builder
	b.WriteString("SELECT CASE WHEN k.ord = 0 THEN pg_current_snapshot()::text END, r.* FROM (VALUES ")
	for n := range keys {
		if n > 0 {
			b.WriteString(", ")
		}
		fmt.Fprintf(&b, "(%d", n)
		for i := range names {
			fmt.Fprintf(&b, ", $%d", n*len(names)+i+1)
		}
		b.WriteString(")")
	}
	fmt.Fprintf(&b, `) k (ord, %s) LEFT JOIN LATERAL (SELECT true, %s FROM %s t
		WHERE %s AND (SELECT count(*) FROM pg_attribute WHERE attrelid = %s::regclass AND attrelid = '%d'::oid
		AND NOT attisdropped AND (attname, atttypid, atttypmod) IN (%s)) = %d LIMIT 1) r ON true ORDER BY k.ord`,
		strings.Join(names, ", "), strings.Join(list, ", "), table, strings.Join(want, " AND "),
		quoteLiteral(table), rel.ID, strings.Join(same, ", "), len(same))
	return b.String()
}
