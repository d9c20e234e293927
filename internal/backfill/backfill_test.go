package backfill

import (
	"bytes"
	"encoding/json"
	"slices"
	"testing"

	"walferry/decode"
)

// TestKeyJSON saves keys and reads them back, byte by byte: also an empty text, and one that is no UTF-8.
func TestKeyJSON(t *testing.T) {
	for _, want := range []Key{
		{{Kind: decode.Text, Data: []byte("a\"b")}, {Kind: decode.Binary, Data: []byte{0, 0xff}}},
		{{Kind: decode.Text, Data: []byte{}}, {Kind: decode.Binary, Data: []byte{}}},
		{{Kind: decode.Text, Data: []byte{'x', 0xe4, 0xff}}},
	} {
		b, err := json.Marshal(want)
		if err != nil {
			t.Fatal(err)
		}
		var got Key
		if err := json.Unmarshal(b, &got); err != nil {
			t.Fatal(err)
		}
		if !slices.EqualFunc(got, want, func(x, y decode.Datum) bool { return x.Kind == y.Kind && bytes.Equal(x.Data, y.Data) }) {
			t.Errorf("%v is saved as %s and read as %v", want, b, got)
		}
	}
}
