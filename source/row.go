package source

import (
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

// rowTimeout bounds the reading of a row: the stream waits for it, and somebody may hold a lock on the table, or a commit may
// wait for a synchronous standby.
const rowTimeout = 3 * time.Second

// UnreadableRowError says that the server does not let a row be read by key, which trying the next one will hardly mend: the
// table is gone, renamed or locked, or the role may not read it.
type UnreadableRowError struct {
	Table  string // quoted
	User   string
	Denied bool // the role has no right to it
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

// ReadRow reads columns, named by their places in rel, of the row of now that has the identity of row, in the forms of the
// stream. It is nil where there is no such row, and where the table or one of these columns is not what rel says any more.
// The values are the caller's.
//
// What is read is not older than the transaction xid, which has delivered row: the server sends a transaction when its commit
// is in the WAL, and others see it a moment later, or much later where the commit waits for a synchronous standby.
func (c *Catalog) ReadRow(ctx context.Context, xid uint32, rel *decode.Relation, row decode.Tuple, columns []int) (decode.Tuple, error) {
	sql, identity := rowQuery(rel, columns)
	var values [][]byte
	var types []uint32
	var formats []int16
	for _, i := range identity {
		switch row[i].Kind {
		case decode.Text:
			formats = append(formats, pgx.TextFormatCode)
		case decode.Binary:
			formats = append(formats, pgx.BinaryFormatCode)
		case decode.Null, decode.Unchanged:
			return nil, nil
		}
		values, types = append(values, row[i].Data), append(types, rel.Columns[i].Type)
	}
	if len(identity) == 0 {
		return nil, nil
	}
	kind, format := decode.Binary, int16(pgx.BinaryFormatCode)
	if c.cfg.TextMode {
		kind, format = decode.Text, pgx.TextFormatCode
	}
	for started, wait := time.Now(), time.Millisecond/4; ; wait = min(2*wait, 50*time.Millisecond) {
		out, seen, err := c.readRow(ctx, sql, values, types, formats, format, kind, rel, xid)
		switch {
		case err != nil || seen:
			return out, err
		case time.Since(started) > rowTimeout:
			return nil, &UnreadableRowError{Table: quoteName(rel.Schema, rel.Name), User: c.user, err: errNotVisible}
		}
		select {
		case <-time.After(wait):
		case <-ctx.Done():
			return nil, context.Cause(ctx)
		}
	}
}

// readRow asks once. Seen says that the answer is of a time when the transaction was visible.
func (c *Catalog) readRow(ctx context.Context, sql string, values [][]byte, types []uint32, formats []int16, format int16, kind decode.Kind,
	rel *decode.Relation, xid uint32) (out decode.Tuple, seen bool, err error) {
	var unreadable *UnreadableRowError
	err = c.on(ctx, &c.read, "read a row", func(conn *pgx.Conn) error {
		out, seen, unreadable = nil, false, nil
		if c.bounded != conn {
			if _, err := conn.Exec(ctx, "SET statement_timeout = '"+milliseconds(rowTimeout)+"'"); err != nil {
				return err
			}
			c.bounded = conn
		}
		r := conn.PgConn().ExecParams(ctx, sql, values, types, formats, []int16{format}).Read()
		if pe, ok := errors.AsType[*pgconn.PgError](r.Err); ok && slices.Contains(unreadableCodes, pe.Code) {
			unreadable = &UnreadableRowError{quoteName(rel.Schema, rel.Name), c.user, pe.Code == "42501", r.Err}
			return nil
		}
		if r.Err != nil {
			return r.Err
		}
		if len(r.Rows) != 1 || len(r.Rows[0]) < 2 {
			return errors.New("the answer is not one row")
		}
		answer := r.Rows[0]
		if seen, r.Err = visible(xid, string(answer[0])); r.Err != nil || !seen || answer[1] == nil {
			return r.Err
		}
		for _, v := range answer[2:] {
			d := decode.Datum{Kind: kind, Data: v}
			if v == nil {
				d.Kind = decode.Null
			}
			out = append(out, d)
		}
		return nil
	})
	if err == nil && unreadable != nil {
		err = unreadable
	}
	return out, seen, err
}

// visible tells whether a transaction that has committed is seen by a snapshot in pg_snapshot's text, xmin:xmax:xip,…, whose
// numbers have an epoch in front of the 32 bits of xid.
func visible(xid uint32, snapshot string) (bool, error) {
	f := strings.Split(snapshot, ":")
	if len(f) != 3 {
		return false, fmt.Errorf("a snapshot of another form than xmin:xmax:xip: %q", snapshot)
	}
	xmax, err := strconv.ParseUint(f[1], 10, 64)
	if err != nil {
		return false, fmt.Errorf("the snapshot %q: %w", snapshot, err)
	}
	if int32(xid-uint32(xmax)) >= 0 {
		return false, nil
	}
	for s := range strings.SplitSeq(f[2], ",") {
		if s == "" {
			continue
		}
		x, err := strconv.ParseUint(s, 10, 64)
		if err != nil {
			return false, fmt.Errorf("the snapshot %q: %w", snapshot, err)
		}
		if uint32(x) == xid {
			return false, nil
		}
	}
	return true, nil
}

// unreadableCodes are SQLSTATEs of a table that is not, or not now, what a question takes it for: insufficient_privilege,
// undefined_table, invalid_schema_name, undefined_column, undefined_function (no = for a type of the key), query_canceled (by
// statement_timeout).
var unreadableCodes = []string{"42501", "42P01", "3F000", "42703", "42883", "57014"}

// rowQuery is the question of ReadRow, and the places of the columns that its parameters are. It holds the table to what rel
// says, since another one may have its name by now, and a column another type.
func rowQuery(rel *decode.Relation, columns []int) (sql string, identity []int) {
	table := quoteName(rel.Schema, rel.Name)
	var want, same, list []string
	for _, i := range columns {
		list = append(list, quoteIdent(rel.Columns[i].Name))
	}
	for i, col := range rel.Columns {
		if col.Key {
			identity = append(identity, i)
			want = append(want, fmt.Sprintf("%s = $%d", quoteIdent(col.Name), len(identity)))
		}
		if col.Key || slices.Contains(columns, i) {
			same = append(same, fmt.Sprintf("(%s, '%d'::oid, %d)", quoteLiteral(col.Name), col.Type, col.Mod))
		}
	}
	return fmt.Sprintf(`SELECT pg_current_snapshot()::text, r.* FROM (VALUES (1)) v LEFT JOIN (SELECT true, %s FROM %s
		WHERE %s AND (SELECT count(*) FROM pg_attribute WHERE attrelid = %s::regclass AND attrelid = '%d'::oid
		AND NOT attisdropped AND (attname, atttypid, atttypmod) IN (%s)) = %d) r ON true`, strings.Join(list, ", "), table, strings.Join(want, " AND "),
		quoteLiteral(table), rel.ID, strings.Join(same, ", "), len(same)), identity
}
