package main

import (
	"encoding/binary"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pglogrepl"
	"github.com/jackc/pgx/v5/pgtype"

	"walferry/decode"
	"walferry/internal/kafka"
	"walferry/schema"
)

// TestAvroReader: every kind of value that has a logical type or a trap, from Avro to
// what tail prints.
func TestAvroReader(t *testing.T) {
	long := func(v int64) []byte { return binary.AppendVarint(nil, v) } // Avro's long is a zigzag varint, and so is Go's
	blob := func(b ...byte) []byte { return append(long(int64(len(b))), b...) }
	for _, x := range []struct {
		schema  string
		payload []byte
		want    string
	}{
		{`"int"`, long(-7), `-7`},
		{`"string"`, append(long(3), "<a>"...), `"<a>"`},
		{`["null","string"]`, []byte{0}, `null`},
		{`["null","string"]`, append([]byte{2}, blob('x')...), `"x"`},
		{`{"type":"int","logicalType":"date"}`, long(19723), `"2024-01-01"`},
		{`{"type":"int","logicalType":"date"}`, long(-800000), `"-0221-09-04"`},
		{`{"type":"int","logicalType":"date"}`, long(1<<31 - 1), `"infinity"`},
		{`{"type":"int","logicalType":"date"}`, long(-1 << 31), `"-infinity"`},
		{`{"type":"long","logicalType":"timestamp-micros"}`, long(1704067200123456), `"2024-01-01T00:00:00.123456Z"`},
		{`{"type":"long","logicalType":"local-timestamp-micros"}`, long(1704067200000000), `"2024-01-01T00:00:00"`},
		{`{"type":"long","logicalType":"timestamp-micros"}`, long(1<<63 - 1), `"infinity"`},
		{`{"type":"long","logicalType":"timestamp-micros"}`, long(-1 << 63), `"-infinity"`},
		{`{"type":"long","logicalType":"time-micros"}`, long(86400e6), `"24:00:00"`},
		{`{"type":"int","logicalType":"time-millis"}`, long(3661001), `"01:01:01.001"`},
		{`{"type":"long","logicalType":"timestamp-millis"}`, long(1709210096789), `"2024-02-29T12:34:56.789"`},
		{`{"type":"long","logicalType":"timestamp-millis"}`, long(1<<63 - 1), `"infinity"`},
		{`{"type":"long","logicalType":"time-micros"}`, long(3661000001), `"01:01:01.000001"`},
		{`{"type":"bytes","logicalType":"decimal","precision":5,"scale":2}`, blob(0xff, 0x85), `-1.23`},
		{`{"type":"bytes","logicalType":"decimal","precision":5,"scale":0}`, blob(0x00, 0xff), `255`},
		{`{"type":"bytes","logicalType":"decimal","precision":5,"scale":3}`, blob(), `0.000`},
		{`"bytes"`, blob(1, 2), `"AQI="`},
		{`"double"`, []byte{0, 0, 0, 0, 0, 0, 0xf8, 0x7f}, `"NaN"`},
		{`"boolean"`, []byte{1}, `true`},
		{`{"type":"array","items":["null","int"]}`, []byte{4, 0, 2, 8, 0}, `[null,4]`},
		{`{"type":"enum","name":"e","symbols":["A","B"]}`, []byte{2}, `"B"`},
		// Named types used again, in unions and by their full names.
		{`{"type":"record","name":"E","namespace":"a.b","fields":[
			{"name":"before","type":["null",{"type":"record","name":"V","fields":[{"name":"z","type":"int"},{"name":"a","type":["null",{"type":"int","logicalType":"date"}]}]}]},
			{"name":"after","type":["null","V"]},{"name":"again","type":"a.b.V"}]}`,
			[]byte{0, 2, 2, 2, 2, 4, 0}, `{"before":null,"after":{"z":1,"a":"1970-01-02"},"again":{"z":2,"a":null}}`},
	} {
		r, err := newAvroReader(x.schema)
		if err != nil {
			t.Errorf("%s: %v", x.schema, err)
			continue
		}
		v, err := r.read(x.payload)
		if err != nil {
			t.Errorf("%s: %v", x.schema, err)
			continue
		}
		if got := compact(v); got != x.want {
			t.Errorf("%s: %s, want %s", x.schema, got, x.want)
		}
	}
	r, err := newAvroReader(`"string"`)
	if err != nil {
		t.Fatal(err)
	}
	for _, bad := range [][]byte{{}, {200, 1, 'x'}, {2, 'x', 'y'}, {1}, {255, 255, 255, 255, 255, 255, 255, 255, 255, 1}} {
		if v, err := r.read(bad); err == nil {
			t.Errorf("% x: %v, no error", bad, v)
		}
	}
	for _, bad := range []string{``, `{`, `"nothing"`, `{"type":"record"}`} {
		if _, err := newAvroReader(bad); err == nil {
			t.Errorf("schema %s: no error", bad)
		}
	}
}

// orders is a table with what events of it say, by package schema itself.
func orders(t *testing.T, envelope string) (*schema.Table, *schema.Encoder, *decode.Relation) {
	t.Helper()
	rel := &decode.Relation{ID: 1, Schema: "public", Name: "orders", Identity: decode.IdentityFull, Columns: []decode.Column{
		{Name: "id", Type: pgtype.Int4OID, Mod: -1, Key: true}, {Name: "note", Type: pgtype.TextOID, Mod: -1, Key: true},
		{Name: "big", Type: pgtype.TextOID, Mod: -1, Key: true},
	}}
	desc := &decode.Descriptor{Relation: 1, PrimaryKey: []string{"id"}, Types: map[uint32]*decode.Type{}, Columns: []decode.ColumnFacts{{Name: "id", NotNull: true}, {Name: "note"}, {Name: "big"}}}
	for _, o := range []struct {
		oid  uint32
		name string
	}{{pgtype.Int4OID, "int4"}, {pgtype.TextOID, "text"}} {
		desc.Types[o.oid] = &decode.Type{OID: o.oid, Schema: "pg_catalog", Name: o.name, Kind: 'b', HasBinary: true}
	}
	tab, err := schema.Derive(rel, desc, "shop.public.orders", schema.Options{Name: "shop", DB: "shop", SystemID: "1", Version: "v", Envelope: envelope, Key: []string{"id"}})
	if err != nil {
		t.Fatal(err)
	}
	enc, err := tab.Encoder(1, 2)
	if err != nil {
		t.Fatal(err)
	}
	return tab, enc, rel
}

// TestTailText: lines for people, from what the encoders of package schema write.
func TestTailText(t *testing.T) {
	text := func(s string) decode.Datum { return decode.Datum{Kind: decode.Text, Data: []byte(s)} }
	at := time.Date(2026, 1, 2, 3, 4, 5, 6e6, time.UTC)
	for _, x := range []struct {
		envelope string
		op       byte
		old, new decode.Tuple
		headers  []kafka.Header
		null     bool
		want     string
	}{
		{"debezium", 'c', nil, decode.Tuple{text("1"), text("a < b"), text("x")}, nil, false, `03:04:05.006 c shop.public.orders [id=1] id=1 note="a < b" big="x"`},
		{"debezium", 'u', decode.Tuple{text("1"), text("a"), text("x")}, decode.Tuple{text("1"), text("b"), {Kind: decode.Unchanged}}, nil, false,
			`03:04:05.006 u shop.public.orders [id=1] id=1 note="b" big="x" (was note="a")`},
		{"debezium", 'd', decode.Tuple{text("1"), text("a"), {Kind: decode.Null}}, nil, nil, false, `03:04:05.006 d shop.public.orders [id=1] id=1 note="a" big=null`},
		{"debezium", 'd', decode.Tuple{text("1"), text("a"), text("x")}, nil, nil, true, `03:04:05.006 - shop.public.orders [id=1]`},
		{"row", 'u', nil, decode.Tuple{text("2"), text("b"), text("y")}, []kafka.Header{{Key: "op", Value: []byte("u")}, {Key: "unavailable", Value: []byte(`["big"]`)}}, false,
			`03:04:05.006 u shop.public.orders [id=2] id=2 note="b" big=…`},
		{"row", 'd', decode.Tuple{text("2"), text("b"), text("y")}, nil, []kafka.Header{{Key: "op", Value: []byte("d")}}, true, `03:04:05.006 d shop.public.orders [id=2]`},
	} {
		tab, enc, rel := orders(t, x.envelope)
		c := &decode.Change{Relation: rel, Old: x.old, New: x.new}
		switch x.op {
		case 'c':
			c.Op = decode.Insert
		case 'u':
			c.Op = decode.Update
		case 'd':
			c.Op = decode.Delete
		}
		if x.old != nil {
			c.OldKind = decode.OldRow
		}
		key, err := enc.AppendKey(nil, c, x.op == 'd')
		if err != nil {
			t.Fatal(err)
		}
		var value []byte
		if !x.null {
			meta := schema.Meta{XID: 1, Commit: pglogrepl.LSN(1), Change: 1, Ordinal: 1, TotalOrder: 1, CollectionOrder: 1, CommitTime: at, Now: at}
			if value, err = enc.AppendValue(nil, c, x.op, &meta); err != nil {
				t.Fatal(err)
			}
		}
		asked := 0
		s := &schemas{readers: map[int32]*avroReader{}, fetch: func(id int32) (string, error) {
			asked++
			return map[int32]string{1: tab.Key, 2: tab.Value}[id], nil
		}}
		for range 2 {
			e, err := s.event(&kafka.Record{Topic: "shop.public.orders", Time: at, Key: key, Value: value, Headers: x.headers})
			if err != nil {
				t.Fatal(err)
			}
			if got := e.text(); got != x.want {
				t.Errorf("got  %s\nwant %s", got, x.want)
			}
		}
		if asked > 2 {
			t.Errorf("the registry was asked %d times for two schemas", asked)
		}
	}
	s := &schemas{readers: map[int32]*avroReader{}}
	if _, err := s.event(&kafka.Record{Value: []byte("plain text")}); err == nil || !strings.Contains(err.Error(), "wire format") {
		t.Errorf("foreign record: %v", err)
	}
}
