package schema

import (
	"testing"

	"walferry/decode"
)

// Type is a typ, for tests in package schema_test.
type Type struct{ t *typ }

func Resolve(desc *decode.Descriptor, oid uint32, mod int32) Type {
	r := resolver{types: desc.Types}
	return Type{r.resolve(oid, mod, 0)}
}

func (t Type) Name() string { return t.t.name }

func (t Type) KnowsBinary() bool { return t.t.bin != nil }

func (t Type) Append(dst []byte, d decode.Datum) ([]byte, error) {
	var s scratch
	if d.Kind == decode.Binary {
		return t.t.bin(&s, t.t, dst, d.Data)
	}
	return t.t.text(&s, t.t, dst, d.Data)
}

// Invert decodes Avro bytes with goavro and turns the value into what Postgres prints. goavro also reads them with
// their logical types.
func (t Type) Invert(tb testing.TB, b []byte) string {
	tb.Helper()
	if c, err := Compile(t.t.avro); err != nil {
		tb.Fatal(err)
	} else if _, rest, err := c.NativeFromBinary(b); err != nil || len(rest) != 0 {
		tb.Fatalf("%s: goavro: %v, %d bytes left", t.t.name, err, len(rest))
	}
	return invert(t.t, decodePlain(tb, t.t.avro, b))
}
