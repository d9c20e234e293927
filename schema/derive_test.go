package schema

import (
	"bytes"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"

	"walferry/decode"
)

var update = flag.Bool("update", false, "rewrite golden files and tables in docs")

// everything has a column of each built-in type, an enum, domains, and types that are text.
func everything() (*decode.Relation, *decode.Descriptor) {
	rel := &decode.Relation{Schema: "public", Name: "everything", Identity: decode.IdentityDefault}
	for _, b := range builtins {
		mod := int32(-1)
		if b.oid == oidNumeric {
			mod = mod122
		}
		name := strings.Trim(b.name, `"`)
		if b.name == `"char"` {
			name = "internal_char"
		}
		rel.Columns = append(rel.Columns, decode.Column{Name: name, Type: b.oid, Mod: mod, Key: b.oid == 20})
	}
	rel.Columns = append(rel.Columns, []decode.Column{
		{Name: "numeric_any", Type: 1700, Mod: -1},
		{Name: "numeric_negative_scale", Type: 1700, Mod: (3<<16 | 0x7fe) + 4},
		{Name: "numeric_large_scale", Type: 1700, Mod: (2<<16 | 5) + 4},
		{Name: "mood", Type: 20000, Mod: -1},
		{Name: "moods", Type: 20001, Mod: -1},
		{Name: "price", Type: 20003, Mod: -1},
		{Name: "citext", Type: 20004, Mod: -1},
		{Name: "pair", Type: 20005, Mod: -1},
		{Name: "pairs", Type: 20006, Mod: -1},
		{Name: "nest", Type: 20007, Mod: -1},
		{Name: "int4range", Type: 3904, Mod: -1},
		{Name: "textmultirange", Type: 20009, Mod: -1},
		{Name: "hstore", Type: 20010, Mod: -1},
		{Name: "ltree", Type: 20011, Mod: -1},
		{Name: "geometry", Type: 20013, Mod: -1},
		{Name: "geography", Type: 20014, Mod: -1},
		{Name: "vector", Type: 20015, Mod: -1},
		{Name: "halfvec", Type: 20016, Mod: -1},
		{Name: "sparsevec", Type: 20017, Mod: -1},
		{Name: "isbns", Type: 20020, Mod: -1},
		{Name: "unknown", Type: 30000, Mod: -1},
		{Name: "numerics", Type: 1231, Mod: mod122},
	}...)
	return rel, &decode.Descriptor{
		Comment: `every "type"`,
		Types:   testTypes,
	}
}

// TestGolden holds the schemas that consumers see. A difference here is a difference to every consumer.
func TestGolden(t *testing.T) {
	all, allDesc := everything()
	row := testOptions()
	row.Envelope = EnvelopeRow
	iso := row
	iso.Numeric, iso.Array, iso.Time, iso.Binary = NumericString, ArrayText, TimeISO, BinaryHex
	other, connect := row, row
	other.ColumnOptions, other.Collisions = everyChoice[1], CollisionsSuffix
	connect.ColumnOptions = everyChoice[3]
	named := &decode.Relation{Schema: "Odd Schema", Name: "t-1", Identity: decode.IdentityIndex, Columns: []decode.Column{
		{Name: "1st key", Type: 23, Mod: -1, Key: true},
		{Name: "größe", Type: 25, Mod: -1, Key: true},
		{Name: "record", Type: 25, Mod: -1},
		{Name: "🐘", Type: 16, Mod: -1},
		{Name: "secret", Type: 25, Mod: -1},
	}}
	excluding := testOptions()
	excluding.ExcludeColumns = []string{"*.t-1.secret"}
	keyless := &decode.Relation{Schema: "public", Name: "log", Identity: decode.IdentityNothing, Columns: []decode.Column{
		{Name: "at", Type: 1184, Mod: -1}, {Name: "line", Type: 25, Mod: -1}}}
	full := &decode.Relation{Schema: "public", Name: "pairs", Identity: decode.IdentityFull, Columns: []decode.Column{
		{Name: "a", Type: 23, Mod: -1, Key: true}, {Name: "b", Type: 25, Mod: -1, Key: true}, {Name: "c", Type: 23, Mod: -1, Key: true}}}
	chosen := testOptions()
	chosen.Key = []string{"b", "c"}
	for _, c := range []struct {
		name  string
		rel   *decode.Relation
		desc  *decode.Descriptor
		topic string
		opt   Options
	}{
		{"orders", orders(decode.IdentityDefault), &decode.Descriptor{
			Comment: "what customers bought",
			Columns: []decode.ColumnFacts{{Name: "amount", Comment: "in euros, with \"VAT\""}},
		}, "shop.public.orders", testOptions()},
		{"every-type", all, allDesc, "shop.public.everything", row},
		{"every-type-as-text", all, allDesc, "shop.public.everything", iso},
		{"every-type-otherwise", all, allDesc, "shop.public.everything", other},
		{"every-type-for-connect", all, allDesc, "shop.public.everything", connect},
		{"odd-names", named, nil, "9-shop.Odd Schema.t-1", excluding},
		{"keyless", keyless, nil, "shop.public.log", row},
		{"full-primary-key", full, &decode.Descriptor{PrimaryKey: []string{"b"}}, "shop.public.pairs", row},
		{"full-chosen-key", full, &decode.Descriptor{Columns: []decode.ColumnFacts{{Name: "b", NotNull: true}}}, "shop.public.pairs", chosen},
	} {
		t.Run(c.name, func(t *testing.T) {
			table, err := Derive(c.rel, c.desc, c.topic, c.opt)
			if err != nil {
				t.Fatal(err)
			}
			var got bytes.Buffer
			schemas := []string{table.Value}
			if table.Key != "" {
				schemas = []string{table.Key, table.Value}
			}
			for _, s := range schemas {
				if err := json.Indent(&got, []byte(s), "", "  "); err != nil {
					t.Fatal(err)
				}
				got.WriteByte('\n')
			}
			file := filepath.Join("..", "testdata", "schema", c.name+".avsc")
			if *update {
				if err := os.WriteFile(file, got.Bytes(), 0o644); err != nil {
					t.Fatal(err)
				}
			}
			want, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			if !bytes.Equal(got.Bytes(), want) {
				t.Errorf("%s differs; go test ./schema -run Golden -update, and read the difference", file)
			}
			// The checkpoint topic keeps descriptors as JSON, and a replay derives from what comes back.
			kept, err := json.Marshal(c.desc)
			if err != nil {
				t.Fatal(err)
			}
			var back *decode.Descriptor
			if err := json.Unmarshal(kept, &back); err != nil {
				t.Fatal(err)
			}
			again, err := Derive(c.rel, back, c.topic, c.opt)
			if err != nil || again.Value != table.Value || again.Key != table.Key {
				t.Errorf("derived again it differs: %v", err)
			}
		})
	}
}

func TestDeriveKey(t *testing.T) {
	two := []decode.Column{{Name: "a", Type: 23, Mod: -1, Key: true}, {Name: "b", Type: 23, Mod: -1}}
	all := []decode.Column{{Name: "a", Type: 23, Mod: -1, Key: true}, {Name: "b", Type: 23, Mod: -1, Key: true}}
	for _, c := range []struct {
		name     string
		identity decode.Identity
		columns  []decode.Column
		primary  []string
		opt      Options
		want     []string
		err      string
	}{
		{"default", 'd', two, nil, Options{}, []string{"a"}, ""},
		{"default ignores the catalog", 'd', two, []string{"b"}, Options{}, []string{"a"}, ""},
		{"index", 'i', all, nil, Options{}, []string{"a", "b"}, ""},
		{"nothing", 'n', two[1:], nil, Options{}, nil, ""},
		{"full without a primary key", 'f', all, nil, Options{}, nil, ""},
		{"full", 'f', all, []string{"b"}, Options{}, []string{"b"}, ""},
		{"full, key not sent", 'f', all, []string{"x"}, Options{}, nil, "not among the columns that the publication sends; name"},
		{"chosen of the identity", 'i', all, nil, Options{Key: []string{"b"}}, []string{"b"}, ""},
		{"chosen under full", 'f', all, []string{"a"}, Options{Key: []string{"b"}}, []string{"b"}, ""},
		{"chosen outside of the identity", 'd', two, nil, Options{Key: []string{"b"}}, nil, "REPLICA IDENTITY FULL"},
		{"chosen, not there", 'd', two, nil, Options{Key: []string{"x"}}, nil, "not among the columns"},
		{"excluded", 'd', two, nil, Options{ExcludeColumns: []string{"a"}}, nil, "cannot be excluded; take it out"},
		{"bad pattern", 'd', two, nil, Options{ExcludeColumns: []string{"["}}, nil, "pattern"},
		{"unknown identity", 'x', two, nil, Options{}, nil, "identity"},
		{"envelope", 'd', two, nil, Options{Envelope: "x"}, nil, "envelope"},
		{"policy", 'd', two, nil, Options{ColumnOptions: ColumnOptions{Time: "x"}}, nil, "time"},
		{"policy of a column", 'd', two, nil, Options{Columns: map[string]ColumnOptions{"a": {Array: "x"}}}, nil, "column a: array"},
	} {
		rel := &decode.Relation{Schema: "public", Name: "t", Identity: c.identity, Columns: c.columns}
		table, err := Derive(rel, &decode.Descriptor{PrimaryKey: c.primary}, "t", c.opt)
		if c.err != "" {
			text := fmt.Sprint(err)
			var te *TableError
			if errors.As(err, &te) {
				text += "; " + te.Hint()
			}
			if err == nil || !strings.Contains(text, c.err) {
				t.Errorf("%s: error %s", c.name, text)
			}
			continue
		}
		if err != nil {
			t.Errorf("%s: %v", c.name, err)
			continue
		}
		if !reflect.DeepEqual(table.KeyColumns, c.want) {
			t.Errorf("%s: key %v, want %v", c.name, table.KeyColumns, c.want)
		}
		if (table.Key == "") != (len(c.want) == 0) || (table.KeySubject == "") != (len(c.want) == 0) || table.ValueSubject != "t-value" {
			t.Errorf("%s: key schema %q, subjects %q and %q", c.name, table.Key, table.KeySubject, table.ValueSubject)
		}
		if len(c.want) == 0 {
			e, err := table.Encoder(0, 1)
			if err != nil {
				t.Fatal(err)
			}
			if out, err := e.AppendKey([]byte("x"), &decode.Change{}, false); string(out) != "x" || err != nil {
				t.Errorf("%s: key %q, %v", c.name, out, err)
			}
		}
	}
}

// TestKeySchema: the schema of a key is the same whatever comments, names of types and labels there are, for every type and choice.
func TestKeySchema(t *testing.T) {
	rel, desc := everything()
	for i := range rel.Columns {
		rel.Columns[i].Key = true
	}
	other := &decode.Descriptor{Comment: "another one", Types: map[uint32]*decode.Type{}}
	renamed := *rel
	renamed.Columns = slices.Clone(rel.Columns)
	for i := range rel.Columns {
		if c := &renamed.Columns[i]; strings.Contains(c.Name, "_") {
			c.Name = strings.ReplaceAll(c.Name, "_", " ")
		}
		other.Columns = append(other.Columns, decode.ColumnFacts{Name: renamed.Columns[i].Name, Comment: "of it"})
	}
	for oid, d := range testTypes {
		moved := *d
		moved.Schema += "moved"
		if moved.Extension == "" {
			moved.Name += "renamed"
		}
		if moved.Kind == 'e' {
			moved.Labels = append([]string{"new"}, d.Labels...)
		}
		other.Types[oid] = &moved
	}
	for _, choice := range everyChoice {
		opt := testOptions()
		opt.ColumnOptions, opt.Collisions = choice, CollisionsSuffix
		was, err := Derive(rel, desc, "shop.public.everything", opt)
		if err != nil {
			t.Fatal(err)
		}
		is, err := Derive(&renamed, other, "shop.public.everything", opt)
		if err != nil {
			t.Fatal(err)
		}
		if was.Key != is.Key {
			t.Errorf("%+v: the key's schema was\n%s\nand is\n%s", choice, was.Key, is.Key)
		}
		if was.Value == is.Value {
			t.Errorf("%+v: the value's schema is the same", choice)
		}
	}
}

func TestCollision(t *testing.T) {
	columns := func(names ...string) *decode.Relation {
		rel := &decode.Relation{Schema: "public", Name: "t", Identity: decode.IdentityNothing}
		for _, n := range names {
			rel.Columns = append(rel.Columns, decode.Column{Name: n, Type: 23, Mod: -1})
		}
		return rel
	}
	var c *CollisionError
	rel := columns("a-b", "a b", "a_b", "a.b", "a_b_2")
	if _, err := Derive(rel, nil, "t", Options{}); !errors.As(err, &c) || c.First != "a_b" || c.Second != "a-b" || c.Name != "a_b" || c.Of != "table public.t" {
		t.Errorf("%v", err)
	}
	if _, err := Derive(columns("a-b", "a b"), nil, "t", Options{ExcludeColumns: []string{"a b"}}); err != nil {
		t.Error(err)
	}
	table, err := Derive(rel, nil, "t", Options{Envelope: EnvelopeRow, Collisions: CollisionsSuffix})
	if err != nil {
		t.Fatal(err)
	}
	if got := fieldNames(t, table.Value); !slices.Equal(got, []string{"a_b_3", "a_b_4", "a_b", "a_b_5", "a_b_2"}) {
		t.Errorf("%q", got)
	}
	// Attributes of a composite and labels of an Avro enum collide too.
	types := map[uint32]*decode.Type{
		30000: {OID: 30000, Schema: "public", Name: "c", Kind: 'c', Attributes: []decode.Attribute{{Name: "x y", Type: 23, Mod: -1}, {Name: "x.y", Type: 23, Mod: -1}}},
		30001: {OID: 30001, Schema: "public", Name: "e", Kind: 'e', Labels: []string{"", "-", "ok"}},
	}
	for oid, of := range map[uint32]string{30000: "type public.c", 30001: "type public.e"} {
		rel := &decode.Relation{Schema: "public", Name: "t", Identity: decode.IdentityNothing, Columns: []decode.Column{{Name: "v", Type: oid, Mod: -1}}}
		opt := Options{Envelope: EnvelopeRow, ColumnOptions: ColumnOptions{Enum: EnumAvro}}
		if _, err := Derive(rel, &decode.Descriptor{Types: types}, "t", opt); !errors.As(err, &c) || c.Of != of || !strings.Contains(c.Hint(), "collisions: suffix") {
			t.Errorf("%v", err)
		}
		opt.Collisions = CollisionsSuffix
		if _, err := Derive(rel, &decode.Descriptor{Types: types}, "t", opt); err != nil {
			t.Error(err)
		}
	}
}

func TestNeedsText(t *testing.T) {
	rel := &decode.Relation{Schema: "public", Name: "t", Identity: decode.IdentityNothing, Columns: []decode.Column{
		{Name: "a", Type: 23, Mod: -1}, {Name: "r", Type: 2205, Mod: -1}, {Name: "x", Type: 1007, Mod: -1}, {Name: "i", Type: 20020, Mod: -1},
		{Name: "v", Type: 20019, Mod: -1}}}
	desc := &decode.Descriptor{Types: testTypes}
	table, err := Derive(rel, desc, "t", Options{Columns: map[string]ColumnOptions{"x": {Array: ArrayText}}})
	if err != nil || !table.NeedsText || !reflect.DeepEqual(table.TextColumns, []string{"r", "i", "v"}) {
		t.Errorf("%v %v %v", table.NeedsText, table.TextColumns, err)
	}
	table, err = Derive(rel, desc, "t", Options{ExcludeColumns: []string{"r", "i", "v"}})
	if err != nil || table.NeedsText || table.TextColumns != nil {
		t.Errorf("%v %v %v", table.NeedsText, table.TextColumns, err)
	}
}

// A descriptor is data from outside: a domain that is its own base ends as text.
func TestDomainCycle(t *testing.T) {
	types := map[uint32]*decode.Type{
		1: {OID: 1, Schema: "public", Name: "a", Kind: 'd', Base: 2, BaseMod: -1},
		2: {OID: 2, Schema: "public", Name: "b", Kind: 'b', Category: 'A', Elem: 1},
	}
	r := resolver{types: types}
	if got := r.resolve(1, -1, "test.columns.x"); got.bin != nil {
		t.Errorf("%+v", got)
	}
}

func TestSanitize(t *testing.T) {
	for name, want := range map[string]string{
		"a": "a", "": "_", "1": "_1", "a.b": "a_b", "größe": "gr__e", "🐘": "_", "A_9": "A_9", "-": "_", "a\xffb": "a_b",
	} {
		if got := SanitizeName(name); got != want {
			t.Errorf("%q becomes %q, want %q", name, got, want)
		}
	}
	if got := SanitizeNamespace("1.a-b..c"); got != "_1.a_b._.c" {
		t.Error(got)
	}
}

// The fingerprint tells apart what Avro's canonical form does not.
func TestFingerprint(t *testing.T) {
	a, b := avroDecimal(12, 2), avroDecimal(12, 4)
	x, err := Compile(a)
	if err != nil {
		t.Fatal(err)
	}
	y, err := Compile(b)
	if err != nil {
		t.Fatal(err)
	}
	if x.CanonicalSchema() != y.CanonicalSchema() {
		t.Error("the canonical forms differ: the reason for Fingerprint is gone")
	}
	if Fingerprint(a) == Fingerprint(b) {
		t.Error("one fingerprint for numeric(12,2) and numeric(12,4)")
	}
	if _, err := Compile(`{"type":"record","name":"a b","fields":[]}`); err == nil {
		t.Error("a bad name compiles")
	}
}

// 1,600 columns is what Postgres allows.
func TestManyColumns(t *testing.T) {
	rel := &decode.Relation{Schema: "public", Name: "wide", Identity: decode.IdentityNothing}
	var row decode.Tuple
	for i := range 1600 {
		rel.Columns = append(rel.Columns, decode.Column{Name: "c" + strings.Repeat("x", i%50) + string(rune('a'+i/50%26)) +
			string(rune('a'+i/1300)), Type: 23, Mod: -1})
		row = append(row, text("1"))
	}
	e := mustEncoder(t, rel, nil, testOptions())
	value, err := e.AppendValue(nil, &decode.Change{New: row}, 'c', meta())
	if err != nil {
		t.Fatal(err)
	}
	if v := decodeEvent(t, e.table.Value, 258, value); len(inner(v["after"]).(map[string]any)) != 1600 {
		t.Error("columns are missing")
	}
}
