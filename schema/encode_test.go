package schema

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"reflect"
	"strings"
	"testing"
	"time"

	"walferry/decode"
)

// orders is the table of the benchmarks.
func orders(identity decode.Identity) *decode.Relation {
	return &decode.Relation{ID: 1, Schema: "public", Name: "orders", Identity: identity, Columns: []decode.Column{
		{Name: "id", Type: 20, Mod: -1, Key: true},
		{Name: "customer_id", Type: 20, Mod: -1, Key: identity == decode.IdentityFull},
		{Name: "status", Type: 25, Mod: -1, Key: identity == decode.IdentityFull},
		{Name: "amount", Type: 1700, Mod: mod122, Key: identity == decode.IdentityFull},
		{Name: "note", Type: 25, Mod: -1, Key: identity == decode.IdentityFull},
		{Name: "tags", Type: 1009, Mod: -1, Key: identity == decode.IdentityFull},
		{Name: "attrs", Type: 3802, Mod: -1, Key: identity == decode.IdentityFull},
		{Name: "created_at", Type: 1184, Mod: -1, Key: identity == decode.IdentityFull},
		{Name: "updated_at", Type: 1184, Mod: -1, Key: identity == decode.IdentityFull},
	}}
}

func bin(s string) decode.Datum { return decode.Datum{Kind: decode.Binary, Data: []byte(s)} }

func text(s string) decode.Datum { return decode.Datum{Kind: decode.Text, Data: []byte(s)} }

var (
	null      = decode.Datum{Kind: decode.Null}
	unchanged = decode.Datum{Kind: decode.Unchanged}
)

func orderBinary() decode.Tuple {
	return decode.Tuple{
		bin("\x00\x00\x00\x00\x00\x01\xe2\x40"), bin("\x00\x00\x00\x00\x00\x00\x30\x39"), bin("shipped"),
		bin("\x00\x03\x00\x01\x00\x00\x00\x02\x00\x01\x09\x29\x19\x64"), bin(strings.Repeat("note ", 20)),
		bin("\x00\x00\x00\x01\x00\x00\x00\x00\x00\x00\x00\x19\x00\x00\x00\x02\x00\x00\x00\x01\x00\x00\x00\x03red\x00\x00\x00\x05large"),
		bin("\x01" + `{"weight": 12, "gift": true}`),
		bin("\x00\x02\xb9\xf0\x00\x00\x00\x00"), bin("\x00\x02\xb9\xf0\x00\x00\x00\x01"),
	}
}

func orderText() decode.Tuple {
	return decode.Tuple{
		text("123456"), text("12345"), text("shipped"), text("12345.65"), text(strings.Repeat("note ", 20)), text("{red,large}"),
		text(`{"weight": 12, "gift": true}`), text(stamp(0x0002b9f000000000)),
		text(stamp(0x0002b9f000000001)),
	}
}

func stamp(micros int64) string { return invertTimestamp(micros+946684800e6, 1, true) }

func meta() *Meta {
	return &Meta{XID: 771, Commit: 0x16B374D848, Change: 0x16B374D000, Ordinal: 3, TotalOrder: 2, CollectionOrder: 1,
		CommitTime: time.UnixMicro(1700000000123456), Now: time.UnixMicro(1700000000200001)}
}

func testOptions() Options {
	return Options{Name: "shop", DB: "app", SystemID: "7301234567890123456", Version: "0.1.0"}
}

func mustEncoder(t testing.TB, rel *decode.Relation, desc *decode.Descriptor, opt Options) *Encoder {
	t.Helper()
	table, err := Derive(rel, desc, "shop.public.orders", opt)
	if err != nil {
		t.Fatal(err)
	}
	e, err := table.Encoder(7, 258)
	if err != nil {
		t.Fatal(err)
	}
	return e
}

// decodeEvent checks the wire prefix and decodes with goavro.
func decodeEvent(t testing.TB, avro string, id int32, b []byte) map[string]any {
	t.Helper()
	got, payload, err := ParseWire(b)
	if err != nil || got != id {
		t.Fatalf("wire id %d, %v; want %d", got, err, id)
	}
	c, err := Compile(avro)
	if err != nil {
		t.Fatal(err)
	}
	v, rest, err := c.NativeFromBinary(payload)
	if err != nil || len(rest) != 0 {
		t.Fatalf("goavro: %v, %d bytes left", err, len(rest))
	}
	return v.(map[string]any)
}

// inner takes a union's value out of goavro's wrapping.
func inner(v any) any {
	if m, ok := v.(map[string]any); ok && len(m) == 1 {
		for _, v := range m {
			return v
		}
	}
	return v
}

func TestEnvelope(t *testing.T) {
	e := mustEncoder(t, orders(decode.IdentityDefault), nil, testOptions())
	c := &decode.Change{Op: decode.Insert, New: orderBinary()}
	m := meta()
	value, err := e.AppendValue(nil, c, 'c', m)
	if err != nil {
		t.Fatal(err)
	}
	c.New = orderText()
	fromText, err := e.AppendValue(nil, c, 'c', m)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(value, fromText) {
		t.Fatalf("binary %x\ntext   %x", value, fromText)
	}
	v := decodeEvent(t, e.table.Value, 258, value)
	after := inner(v["after"]).(map[string]any)
	if v["before"] != nil || after["id"] != int64(123456) || inner(after["status"]) != "shipped" || v["op"] != "c" {
		t.Errorf("%v", v)
	}
	if got := inner(v["ts_ms"]); got != int64(1700000000200) {
		t.Errorf("ts_ms %v", got)
	}
	if got := inner(v["ts_us"]); got != int64(1700000000200001) {
		t.Errorf("ts_us %v", got)
	}
	source := v["source"].(map[string]any)
	want := map[string]any{"version": "0.1.0", "connector": "postgresql", "name": "shop", "ts_ms": int64(1700000000123),
		"ts_us": int64(1700000000123456), "snapshot": "false", "db": "app", "sequence": `[null,"0"]`, "schema": "public",
		"table": "orders", "txId": int64(771), "lsn": int64(0x16B374D000), "commit_lsn": int64(0x16B374D848), "ordinal": int64(3),
		"system_id": "7301234567890123456"}
	for k, w := range want {
		if got := inner(source[k]); got != w {
			t.Errorf("source.%s is %v, want %v", k, got, w)
		}
	}
	if len(source) != len(want) {
		t.Errorf("source has %d fields, want %d", len(source), len(want))
	}
	block := map[string]any{"id": "771:97500059720", "total_order": int64(2), "data_collection_order": int64(1)}
	if got := inner(v["transaction"]); !reflect.DeepEqual(got, block) {
		t.Errorf("transaction %v, want %v", got, block)
	}
	if v["unavailable"] != nil {
		t.Errorf("unavailable %v", v["unavailable"])
	}
	key, err := e.AppendKey(nil, c, false)
	if err != nil {
		t.Fatal(err)
	}
	if k := decodeEvent(t, e.table.Key, 7, key); len(k) != 1 || k["id"] != int64(123456) {
		t.Errorf("key %v", k)
	}
}

// A row that the first copy read is in no transaction.
func TestRead(t *testing.T) {
	e := mustEncoder(t, orders(decode.IdentityDefault), nil, testOptions())
	m := meta()
	m.XID, m.Snapshot, m.Sequence[0], m.Sequence[1] = 0, "true", 5, 6
	value, err := e.AppendValue(nil, &decode.Change{New: orderBinary()}, 'r', m)
	if err != nil {
		t.Fatal(err)
	}
	v := decodeEvent(t, e.table.Value, 258, value)
	source := v["source"].(map[string]any)
	if v["transaction"] != nil || source["txId"] != nil || inner(source["snapshot"]) != "true" ||
		inner(source["sequence"]) != `["5","6"]` || v["op"] != "r" {
		t.Errorf("%v", v)
	}
}

func TestDeleteHoldsTheKeyOnly(t *testing.T) {
	e := mustEncoder(t, orders(decode.IdentityDefault), nil, testOptions())
	old := decode.Tuple{orderBinary()[0], null, null, null, null, null, null, null, null}
	c := &decode.Change{Op: decode.Delete, Old: old, OldKind: decode.OldKey}
	value, err := e.AppendValue(nil, c, 'd', meta())
	if err != nil {
		t.Fatal(err)
	}
	v := decodeEvent(t, e.table.Value, 258, value)
	before := inner(v["before"]).(map[string]any)
	if v["after"] != nil || before["id"] != int64(123456) || before["note"] != nil || v["unavailable"] != nil {
		t.Errorf("%v", v)
	}
	key, err := e.AppendKey(nil, c, true)
	if err != nil {
		t.Fatal(err)
	}
	if k := decodeEvent(t, e.table.Key, 7, key); k["id"] != int64(123456) {
		t.Errorf("key %v", k)
	}
}

// TestUpdateBefore holds what before is in an update without an old row: null, or by option the key.
func TestUpdateBefore(t *testing.T) {
	for _, x := range []struct {
		choice string
		want   any
	}{{"", nil}, {BeforeSent, nil}, {BeforeKey, int64(123456)}} {
		opt := testOptions()
		opt.UpdateBefore = x.choice
		e := mustEncoder(t, orders(decode.IdentityDefault), nil, opt)
		v, err := e.AppendValue(nil, &decode.Change{Op: decode.Update, New: orderBinary()}, 'u', meta())
		if err != nil {
			t.Fatal(err)
		}
		before, ok := inner(decodeEvent(t, e.Table().Value, 258, v)["before"]).(map[string]any)
		if ok != (x.want != nil) || inner(before["id"]) != x.want {
			t.Errorf("%q: before is %v", x.choice, before)
		}
		for name, v := range before {
			if name != "id" && v != nil {
				t.Errorf("%q: %s is %v, want null", x.choice, name, v)
			}
		}
	}
}

func TestUnchangedIsMarked(t *testing.T) {
	rel := orders(decode.IdentityDefault)
	rel.Columns[4].Name = "a note"
	e := mustEncoder(t, rel, nil, testOptions())
	c := &decode.Change{Op: decode.Update, New: orderBinary()}
	c.New[4], c.New[6] = unchanged, unchanged
	check := func(c *decode.Change, want ...string) {
		t.Helper()
		value, err := e.AppendValue(nil, c, 'u', meta())
		if err != nil {
			t.Fatal(err)
		}
		v := decodeEvent(t, e.table.Value, 258, value)
		var got []string
		if list, ok := inner(v["unavailable"]).([]any); ok {
			for _, s := range list {
				got = append(got, s.(string))
			}
		}
		if !reflect.DeepEqual(got, want) {
			t.Errorf("unavailable %v, want %v", got, want)
		}
		if got := e.Unchanged(nil, c); !reflect.DeepEqual(got, want) {
			t.Errorf("Unchanged is %v, want %v", got, want)
		}
		after := inner(v["after"]).(map[string]any)
		for _, name := range want {
			if after[name] != nil {
				t.Errorf("%s is %v", name, after[name])
			}
		}
	}
	check(c, "a_note", "attrs")
	// An old tuple of kind K knows the key only: its nulls are no values.
	c.Old = decode.Tuple{orderBinary()[0], null, null, null, null, null, null, null, null}
	c.OldKind = decode.OldKey
	check(c, "a_note", "attrs")
	c.New[0] = unchanged // a key column's value can be TOASTed as well; then K has it
	check(c, "a_note", "attrs")
	// A whole old row has all of it.
	rel.Identity = decode.IdentityFull
	e = mustEncoder(t, rel, &decode.Descriptor{PrimaryKey: []string{"id"}}, testOptions())
	c.Old, c.OldKind = orderBinary(), decode.OldRow
	c.Old[6] = null
	check(c)
	value, err := e.AppendValue(nil, c, 'u', meta())
	if err != nil {
		t.Fatal(err)
	}
	v := decodeEvent(t, e.table.Value, 258, value)
	after, before := inner(v["after"]).(map[string]any), inner(v["before"]).(map[string]any)
	if inner(after["a_note"]) != strings.Repeat("note ", 20) || after["attrs"] != nil || inner(before["a_note"]) != inner(after["a_note"]) {
		t.Errorf("%v", v)
	}
	// A key that nobody sent is an error, never null.
	c.Old, c.OldKind = nil, decode.OldNone
	var fault *ValueError
	if _, err := e.AppendValue(nil, c, 'u', meta()); !errors.As(err, &fault) || fault.Column != "id" {
		t.Errorf("error %v", err)
	}
	if _, err := e.AppendKey(nil, c, false); !errors.As(err, &fault) || fault.Column != "id" {
		t.Errorf("error %v", err)
	}
	// A null in a required column too.
	c.New[0] = null
	if _, err := e.AppendValue(nil, c, 'u', meta()); !errors.As(err, &fault) || fault.Column != "id" {
		t.Errorf("error %v", err)
	}
}

func TestRowEnvelope(t *testing.T) {
	opt := testOptions()
	opt.Envelope = EnvelopeRow
	e := mustEncoder(t, orders(decode.IdentityDefault), nil, opt)
	c := &decode.Change{Op: decode.Insert, New: orderBinary()}
	value, err := e.AppendValue(nil, c, 'c', meta())
	if err != nil {
		t.Fatal(err)
	}
	if v := decodeEvent(t, e.table.Value, 258, value); v["id"] != int64(123456) || inner(v["status"]) != "shipped" {
		t.Errorf("%v", v)
	}
	if _, err := e.AppendValue(nil, c, 'd', meta()); !errors.Is(err, ErrNoValue) {
		t.Errorf("delete: %v", err)
	}
	if _, err := e.AppendTruncate(nil, meta()); !errors.Is(err, ErrNoValue) {
		t.Errorf("truncate: %v", err)
	}
}

func TestTruncate(t *testing.T) {
	e := mustEncoder(t, orders(decode.IdentityDefault), nil, testOptions())
	value, err := e.AppendTruncate(nil, meta())
	if err != nil {
		t.Fatal(err)
	}
	v := decodeEvent(t, e.table.Value, 258, value)
	if v["op"] != "t" || v["before"] != nil || v["after"] != nil {
		t.Errorf("%v", v)
	}
}

// Tuples that do not fit the relation are errors.
func TestMisfits(t *testing.T) {
	e := mustEncoder(t, orders(decode.IdentityDefault), nil, testOptions())
	for _, c := range []*decode.Change{
		{New: orderBinary()[:3]},
		{},
		{New: orderBinary(), Old: orderBinary()[:1], OldKind: decode.OldRow},
	} {
		if out, err := e.AppendValue([]byte("x"), c, 'u', meta()); err == nil || string(out) != "x" {
			t.Errorf("%v: %q, %v", c, out, err)
		}
	}
	if _, err := e.AppendValue(nil, &decode.Change{New: orderBinary()}, 'd', meta()); err == nil {
		t.Error("a delete without an old tuple")
	}
	if _, err := e.AppendKey(nil, &decode.Change{}, true); err == nil {
		t.Error("a key out of no tuple")
	}
	if _, err := e.AppendValue(nil, &decode.Change{New: orderBinary()}, 'x', meta()); err == nil {
		t.Error("an operation x")
	}
	c := &decode.Change{New: orderBinary()}
	c.New[1].Kind = 'z'
	if _, err := e.AppendValue(nil, c, 'c', meta()); err == nil {
		t.Error("a kind z")
	}
}

// TestNoAllocation is the rule of the hot path: nothing is allocated for a change, in either form.
func TestNoAllocation(t *testing.T) {
	for name, row := range map[string]decode.Tuple{"binary": orderBinary(), "text": orderText()} {
		e := mustEncoder(t, orders(decode.IdentityDefault), nil, testOptions())
		row[4] = unchanged
		c := &decode.Change{Op: decode.Update, New: row}
		m := meta()
		var key, value []byte
		var err error
		if n := testing.AllocsPerRun(1000, func() {
			if key, err = e.AppendKey(key[:0], c, false); err != nil {
				t.Fatal(err)
			}
			if value, err = e.AppendValue(value[:0], c, 'u', m); err != nil {
				t.Fatal(err)
			}
		}); n != 0 {
			t.Errorf("%s: %v allocations a change", name, n)
		}
	}
	// And for a row of every type that has a known binary form, under every choice that can hold the value.
	for _, choice := range everyChoice {
		rel := &decode.Relation{Schema: "public", Name: "t", Identity: decode.IdentityNothing}
		var binary, texts decode.Tuple
		for _, l := range literals {
			var s scratch
			ty := resolveTest(l.oid, l.mod, choice)
			if _, err := ty.bin(&s, ty, nil, unhex(t, l.bin)); err != nil {
				continue
			}
			rel.Columns = append(rel.Columns, decode.Column{Name: fmt.Sprintf("c%d", len(binary)), Type: l.oid, Mod: l.mod})
			binary = append(binary, decode.Datum{Kind: decode.Binary, Data: unhex(t, l.bin)})
			texts = append(texts, text(l.text))
		}
		opt := testOptions()
		opt.ColumnOptions, opt.Collisions = choice, CollisionsSuffix
		for name, row := range map[string]decode.Tuple{"binary": binary, "text": texts} {
			e := mustEncoder(t, rel, &decode.Descriptor{Types: testTypes}, opt)
			c := &decode.Change{New: row}
			m := meta()
			var value []byte
			var err error
			if n := testing.AllocsPerRun(200, func() {
				if value, err = e.AppendValue(value[:0], c, 'c', m); err != nil {
					t.Fatal(err)
				}
			}); n != 0 {
				t.Errorf("all types, %+v, %s: %v allocations a row", choice, name, n)
			}
		}
	}
}

func BenchmarkAppendValue(b *testing.B) {
	for _, bench := range []struct {
		name, envelope string
		row            decode.Tuple
	}{
		{"debezium/binary", EnvelopeDebezium, orderBinary()},
		{"debezium/text", EnvelopeDebezium, orderText()},
		{"row/binary", EnvelopeRow, orderBinary()},
		{"row/text", EnvelopeRow, orderText()},
	} {
		b.Run(bench.name, func(b *testing.B) {
			opt := testOptions()
			opt.Envelope = bench.envelope
			e := mustEncoder(b, orders(decode.IdentityDefault), nil, opt)
			c := &decode.Change{Op: decode.Insert, New: bench.row}
			m := meta()
			var value []byte
			var err error
			b.ReportAllocs()
			for b.Loop() {
				if value, err = e.AppendValue(value[:0], c, 'c', m); err != nil {
					b.Fatal(err)
				}
			}
			b.SetBytes(int64(len(value)))
		})
	}
}

// BenchmarkAppendTypes is of types that are made of others, each alone in a row.
func BenchmarkAppendTypes(b *testing.B) {
	for _, oid := range []uint32{1007, 20005, 20007, 3904, 3910, 20010, 3615} {
		for _, choice := range everyChoice[:2] {
			var l literal
			for _, l = range literals {
				if l.oid == oid {
					break
				}
			}
			ty := resolveTest(l.oid, l.mod, choice)
			value, text := unhex(b, l.bin), []byte(l.text)
			name := ty.name + "/" + map[bool]string{true: "otherwise", false: "default"}[choice.Range != ""]
			for form, f := range map[string]func(dst []byte) ([]byte, error){
				"binary": func(dst []byte) ([]byte, error) { return ty.bin(benchScratch, ty, dst, value) },
				"text":   func(dst []byte) ([]byte, error) { return ty.text(benchScratch, ty, dst, text) },
			} {
				b.Run(name+"/"+form, func(b *testing.B) {
					var dst []byte
					var err error
					b.ReportAllocs()
					for b.Loop() {
						if dst, err = f(dst[:0]); err != nil {
							b.Fatal(err)
						}
					}
				})
			}
		}
	}
}

var benchScratch = new(scratch)

func BenchmarkAppendKey(b *testing.B) {
	e := mustEncoder(b, orders(decode.IdentityDefault), nil, testOptions())
	c := &decode.Change{Op: decode.Insert, New: orderBinary()}
	var key []byte
	var err error
	b.ReportAllocs()
	for b.Loop() {
		if key, err = e.AppendKey(key[:0], c, false); err != nil {
			b.Fatal(err)
		}
	}
}

func TestWire(t *testing.T) {
	b := AppendWire([]byte("x"), 0x01020304)
	if string(b) != "x\x00\x01\x02\x03\x04" {
		t.Fatalf("%x", b)
	}
	id, payload, err := ParseWire(append(b[1:], 'p'))
	if id != 0x01020304 || string(payload) != "p" || err != nil {
		t.Errorf("%d %q %v", id, payload, err)
	}
	for _, bad := range []string{"", "\x00\x01", "\x01\x00\x00\x00\x01"} {
		if _, _, err := ParseWire([]byte(bad)); !errors.Is(err, ErrNotWire) {
			t.Errorf("%x: %v", bad, err)
		}
	}
}

func fieldNames(t testing.TB, avro string) []string {
	t.Helper()
	var s struct {
		Fields []struct {
			Name string
		}
	}
	if err := json.Unmarshal([]byte(avro), &s); err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, f := range s.Fields {
		names = append(names, f.Name)
	}
	return names
}

// TestPlaceholder: what Debezium writes for a value that was not sent, where the type has room for it, as a reader sees it.
func TestPlaceholder(t *testing.T) {
	raw := []byte(Placeholder)
	var numbers []any
	for _, b := range raw {
		numbers = append(numbers, map[string]any{"int": int32(b)})
	}
	for _, x := range []struct {
		name string
		oid  uint32
		opt  ColumnOptions
		want any // nil where there is no room
	}{
		{"text", 25, ColumnOptions{}, Placeholder},
		{"jsonb", 3802, ColumnOptions{}, Placeholder},
		{"numeric", oidNumeric, ColumnOptions{}, Placeholder},
		{"bytea", oidBytea, ColumnOptions{}, raw},
		{"bytea in base64", oidBytea, ColumnOptions{Binary: BinaryBase64}, "X19kZWJleml1bV91bmF2YWlsYWJsZV92YWx1ZQ=="},
		{"bytea in hex", oidBytea, ColumnOptions{Binary: BinaryHex}, "5f5f646562657a69756d5f756e617661696c61626c655f76616c7565"},
		{"text[]", 1009, ColumnOptions{}, []any{map[string]any{"string": Placeholder}}},
		{"jsonb[]", 3807, ColumnOptions{}, []any{map[string]any{"string": Placeholder}}},
		{"bytea[]", 1001, ColumnOptions{}, []any{map[string]any{"bytes": raw}}},
		{"int4[]", 1007, ColumnOptions{}, numbers},
		{"hstore", 20010, ColumnOptions{}, map[string]any{Placeholder: map[string]any{"string": Placeholder}}},
		{"uuid[]", 2951, ColumnOptions{}, nil},
		{"uuid[] as text", 2951, ColumnOptions{Array: ArrayText}, Placeholder},
		{"bool[]", 1000, ColumnOptions{}, nil},
		{"date[]", 1182, ColumnOptions{}, nil},
		{"variable-scale", oidNumeric, ColumnOptions{Unconstrained: NumericScale}, nil},
		{"composite", 20005, ColumnOptions{}, nil},
		{"multirange of records", 4451, ColumnOptions{Range: RangeRecord}, nil},
	} {
		rel := &decode.Relation{Schema: "public", Name: "t", Identity: decode.IdentityDefault, Columns: []decode.Column{
			{Name: "id", Type: 23, Mod: -1, Key: true}, {Name: "c", Type: x.oid, Mod: -1}}}
		desc := &decode.Descriptor{Types: testTypes}
		opt := testOptions()
		opt.ColumnOptions = x.opt
		opt.Toast = ToastPlaceholder
		e := mustEncoder(t, rel, desc, opt)
		c := &decode.Change{Op: decode.Update, New: decode.Tuple{bin("\x00\x00\x00\x01"), unchanged}}
		b, err := e.AppendValue(nil, c, 'u', meta())
		if err != nil {
			t.Fatal(err)
		}
		v := decodeEvent(t, e.table.Value, 258, b)
		got := inner(v["after"]).(map[string]any)["c"]
		if m, ok := got.(map[string]any); ok {
			got = inner(m)
		}
		if !reflect.DeepEqual(got, x.want) {
			t.Errorf("%s: %v, want %v", x.name, got, x.want)
		}
		if u := inner(v["unavailable"]); !reflect.DeepEqual(u, []any{"c"}) {
			t.Errorf("%s: unavailable is %v", x.name, u)
		}
		opt.Columns = map[string]ColumnOptions{"c": {Toast: ToastPlaceholder}}
		_, err = Derive(rel, desc, "t", opt)
		if room := new(PlaceholderError); errors.As(err, &room) != (x.want == nil) || x.want != nil && err != nil {
			t.Errorf("%s, chosen by name: %v", x.name, err)
		}
	}
}
