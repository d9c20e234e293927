package schema

import (
	"testing"
)

// Invert decodes the Avro bytes of a row with goavro, and turns each value into what Postgres prints; nil for null. goavro
// also reads them with their logical types.
func Invert(tb testing.TB, t *Table, b []byte) []*string {
	tb.Helper()
	if c, err := Compile(t.Value); err != nil {
		tb.Fatal(err)
	} else if _, rest, err := c.NativeFromBinary(b); err != nil || len(rest) != 0 {
		tb.Fatalf("%s: goavro: %v, %d bytes left", t.Relation, err, len(rest))
	}
	row := decodePlain(tb, t.Value, b).(map[string]any)
	out := make([]*string, len(t.fields))
	for i := range t.fields {
		f := &t.fields[i]
		v := row[f.name]
		if f.nullable {
			if v == nil {
				continue
			}
			v = branch(v)
		}
		s := invert(f.typ, v)
		out[i] = &s
	}
	return out
}

// TypeName is the name of a column's type.
func (t *Table) TypeName(i int) string { return t.fields[i].typ.name }
