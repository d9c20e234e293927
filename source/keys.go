package source

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"walferry/decode"
)

// KeyError says that the server does not know a key's value any more: its type has gone, or a label of an enum has another name.
type KeyError struct{ err error }

func (e *KeyError) Error() string {
	return "a key that was read before has no value any more: " + serverMessage(e.err)
}
func (e *KeyError) Unwrap() error { return e.err }

// keyError is the error of a statement that has nothing but keys, as a *KeyError where these are what is wrong.
func keyError(err error) error {
	if pe, ok := errors.AsType[*pgconn.PgError](err); ok && (strings.HasPrefix(pe.Code, "22") || pe.Code == "42704" || pe.Code == "XX000") { // invalid value, unknown type
		return &KeyError{err}
	}
	return err
}

// ConvertKeys brings values of a key's columns, which have these types, into the form that the stream has, text or binary. The
// error is a *KeyError where one of them has none.
func (c *Catalog) ConvertKeys(ctx context.Context, types []uint32, keys []decode.Tuple) error {
	form, result := decode.Binary, int16(pgx.BinaryFormatCode)
	if c.cfg.TextMode {
		form, result = decode.Text, pgx.TextFormatCode
	}
	for _, key := range keys {
		if len(key) != len(types) {
			return &KeyError{fmt.Errorf("%d values for %d columns", len(key), len(types))}
		}
		same := true
		for _, d := range key {
			same = same && d.Kind == form
		}
		if same {
			continue
		}
		list, values, formats := make([]string, len(key)), make([][]byte, len(key)), make([]int16, len(key))
		for i, d := range key {
			list[i], values[i] = fmt.Sprintf("$%d", i+1), d.Data
			if d.Data == nil {
				values[i] = []byte{} // a null would be another thing
			}
			if formats[i] = pgx.TextFormatCode; d.Kind == decode.Binary {
				formats[i] = pgx.BinaryFormatCode
			}
		}
		err := c.on(ctx, &c.ask, "convert keys", func(conn *pgx.Conn) error {
			out := conn.PgConn().ExecParams(ctx, "SELECT "+strings.Join(list, ", "), values, types, formats, []int16{result}).Read()
			if out.Err != nil {
				return keyError(out.Err)
			}
			for i, v := range out.Rows[0] {
				key[i] = decode.Datum{Kind: form, Data: v}
			}
			return nil
		})
		if err != nil {
			return err
		}
	}
	return nil
}
