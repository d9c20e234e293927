package registry_test

import (
	"fmt"
	"os"
	"strings"
	"testing"

	"walferry/decode"
	"walferry/schema"
	"walferry/schema/registry"
)

// TestSchemasPage holds the table of changes of type in docs/schemas.md to what a registry at the default level says.
func TestSchemasPage(t *testing.T) {
	const file = "../../docs/schemas.md"
	page, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	_, table, found := strings.Cut(string(page), "| from | accepted to |\n| --- | --- |\n")
	table, _, closed := strings.Cut(table, "\n\n")
	if !found || !closed {
		t.Fatalf("%s has no table of changes of type", file)
	}
	accepted := map[[2]string]bool{}
	var names []string
	for line := range strings.Lines(table) {
		cells := strings.Split(line, "|")
		if len(cells) != 4 {
			t.Fatalf("%s: %q", file, line)
		}
		for _, from := range list(cells[1]) {
			names = append(names, from)
			for _, to := range list(cells[2]) {
				accepted[[2]string{from, to}] = true
			}
		}
	}
	schemas := map[string]*registry.Schema{}
	for _, x := range []struct {
		name string
		oid  uint32
		mod  int32
	}{
		{"bool", 16, -1}, {"int2", 21, -1}, {"int4", 23, -1}, {"int8", 20, -1}, {"float4", 700, -1}, {"float8", 701, -1},
		{"numeric(5,2)", 1700, 5<<16 | 2 + 4}, {"numeric(9,4)", 1700, 9<<16 | 4 + 4}, {"numeric", 1700, -1},
		{"text", 25, -1}, {"varchar", 1043, -1}, {"uuid", 2950, -1}, {"jsonb", 3802, -1}, {"bytea", 17, -1},
		{"date", 1082, -1}, {"time", 1083, -1}, {"timestamp", 1114, -1}, {"timestamptz", 1184, -1},
	} {
		table, err := schema.Derive(&decode.Relation{ID: 1, Schema: "public", Name: "item", Identity: decode.IdentityDefault, Columns: []decode.Column{
			{Name: "id", Type: 23, Mod: -1, Key: true}, {Name: "x", Type: x.oid, Mod: x.mod},
		}}, &decode.Descriptor{}, "shop.public.item", schema.Options{Name: "shop"})
		if err != nil {
			t.Fatal(err)
		}
		if schemas[x.name], err = registry.ParseAvro(table.Value); err != nil {
			t.Fatal(err)
		}
	}
	if len(names) != len(schemas) {
		t.Errorf("%s speaks of %d types, the test of %d", file, len(names), len(schemas))
	}
	for _, from := range names {
		for to, s := range schemas {
			if schemas[from] == nil {
				t.Fatalf("%s: type %q is not known to the test", file, from)
			}
			refused := registry.Check(registry.Backward, s, []registry.Previous{{Version: 1, Schema: schemas[from]}})
			if want := from == to || accepted[[2]string{from, to}]; want != (len(refused) == 0) {
				t.Errorf("%s to %s: %s says %v, the registry %v", from, to, file, want, refused)
			}
		}
	}
}

// list is the names in a cell; a comma within a name has no blank behind it.
func list(cell string) (names []string) {
	for s := range strings.SplitSeq(strings.TrimSpace(cell), ", ") {
		if s != "" {
			names = append(names, s)
		}
	}
	return names
}

// TestTypesPage holds what docs/types.md says of choices that are changed later to what a registry accepts under backward.
func TestTypesPage(t *testing.T) {
	const file = "../../docs/types.md"
	page, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	_, table, found := strings.Cut(string(page), "| option | of | accepted |\n| --- | --- | --- |\n")
	table, _, closed := strings.Cut(table, "\n\n")
	if !found || !closed {
		t.Fatalf("%s has no table of choices that are changed later", file)
	}
	var want strings.Builder
	for _, x := range []struct {
		option string
		values []string
		of     string
		oid    uint32
		mod    int32
		set    func(o *schema.ColumnOptions, value string)
	}{
		{"numeric", []string{"precise", "string", "double"}, "numeric(12,2)", 1700, 12<<16 | 2 + 4, func(o *schema.ColumnOptions, v string) { o.Numeric = v }},
		{"numeric_unconstrained", []string{"string", "variable-scale", "double"}, "numeric", 1700, -1, func(o *schema.ColumnOptions, v string) { o.Unconstrained = v }},
		{"time", []string{"avro", "connect", "plain", "iso"}, "date", 1082, -1, func(o *schema.ColumnOptions, v string) { o.Time = v }},
		{"time", []string{"avro", "connect", "plain", "iso"}, "time", 1083, -1, func(o *schema.ColumnOptions, v string) { o.Time = v }},
		{"time", []string{"avro", "connect", "plain", "iso"}, "timestamp", 1114, -1, func(o *schema.ColumnOptions, v string) { o.Time = v }},
		{"time", []string{"avro", "connect", "plain", "iso"}, "timestamptz", 1184, -1, func(o *schema.ColumnOptions, v string) { o.Time = v }},
		{"binary", []string{"bytes", "base64", "hex"}, "bytea", 17, -1, func(o *schema.ColumnOptions, v string) { o.Binary = v }},
		{"enum", []string{"string", "enum"}, "an enum", 30000, -1, func(o *schema.ColumnOptions, v string) { o.Enum = v }},
		{"range", []string{"text", "record"}, "int4range", 3904, -1, func(o *schema.ColumnOptions, v string) { o.Range = v }},
		{"array", []string{"array", "text"}, "int4[]", 1007, -1, func(o *schema.ColumnOptions, v string) { o.Array = v }},
	} {
		schemas := map[string]*registry.Schema{}
		for _, v := range x.values {
			o := schema.Options{Name: "shop"}
			x.set(&o.ColumnOptions, v)
			derived, err := schema.Derive(&decode.Relation{ID: 1, Schema: "public", Name: "item", Identity: decode.IdentityDefault, Columns: []decode.Column{
				{Name: "id", Type: 23, Mod: -1, Key: true}, {Name: "x", Type: x.oid, Mod: x.mod},
			}}, &decode.Descriptor{Types: map[uint32]*decode.Type{30000: {OID: 30000, Schema: "public", Name: "mood", Kind: 'e', HasBinary: true, Labels: []string{"sad"}}}},
				"shop.public.item", o)
			if err != nil {
				t.Fatal(err)
			}
			if schemas[v], err = registry.ParseAvro(derived.Value); err != nil {
				t.Fatal(err)
			}
		}
		var accepted []string
		for _, from := range x.values {
			var to []string
			for _, v := range x.values {
				if v != from && len(registry.Check(registry.Backward, schemas[v], []registry.Previous{{Version: 1, Schema: schemas[from]}})) == 0 {
					to = append(to, "`"+v+"`")
				}
			}
			if to != nil {
				accepted = append(accepted, "`"+from+"` to "+strings.Join(to, ", "))
			}
		}
		if accepted == nil {
			accepted = []string{"none"}
		}
		fmt.Fprintf(&want, "| `%s` | %s | %s |\n", x.option, x.of, strings.Join(accepted, "; "))
	}
	if got := table + "\n"; got != want.String() {
		t.Errorf("%s says\n%s\nthe registry\n%s", file, got, &want)
	}
}
