package schema

import (
	"encoding/json"
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"

	"walferry/decode"
)

const typesPage = "../docs/types.md"

// TestTypesPage holds the mapping table of docs/types.md to the code: a row for each type, and what it says of Avro.
func TestTypesPage(t *testing.T) {
	want := map[string][3]string{}
	var order []string
	add := func(name string, ty *typ) {
		order = append(order, name)
		want[name] = describe(t, ty)
	}
	of := func(oid uint32) *typ { return resolveTest(oid, -1, ColumnOptions{}) }
	for _, b := range builtins {
		if b.oid == oidNumeric {
			add("numeric(p,s)", resolveTest(b.oid, mod122, ColumnOptions{}))
		}
		add(b.name, of(b.oid))
	}
	add("citext", of(20004))
	add("enum", of(20000))
	order = append(order, "domain")
	want["domain"] = [3]string{"its base type's", "", ""}
	add("composite", of(20005))
	want["composite"] = [3]string{"record", "", ""} // its Connect name is its full name
	add("range", of(20008))
	add("multirange", of(20009))
	add("array of T", of(1007))
	want["array of T"] = [3]string{`array of ["null", T]`, "", ""}
	add("hstore", of(20010))
	want["hstore"] = [3]string{`map of ["null", string]`, "", ""}
	add("ltree", of(20011))
	add("lquery, ltxtquery", of(20012))
	add("geometry", of(20013))
	add("geography", of(20014))
	add("vector", of(20015))
	add("halfvec", of(20016))
	add("sparsevec", of(20017))
	want["sparsevec"] = [3]string{"record", "", ""}
	add("anything else", of(20018))

	page, err := os.ReadFile(typesPage)
	if err != nil {
		t.Fatal(err)
	}
	lines := strings.Split(string(page), "\n")
	var rows []string
	for i, line := range lines {
		if line == "## Back to what Postgres prints" {
			break
		}
		if !strings.HasPrefix(line, "| ") || strings.HasPrefix(line, "| Postgres ") || strings.HasPrefix(line, "| ---") {
			continue
		}
		cells := strings.Split(line, " | ")
		name := strings.TrimPrefix(cells[0], "| ")
		w, ok := want[name]
		if !ok {
			t.Errorf("%s: a row for %q, which is no type of the mapping", typesPage, name)
			continue
		}
		rows = append(rows, name)
		if len(cells) != 6 {
			t.Errorf("%s: %s has %d cells", typesPage, name, len(cells))
			continue
		}
		if *update {
			copy(cells[1:4], w[:])
			lines[i] = strings.Join(cells, " | ")
		} else if got := [3]string(cells[1:4]); got != w {
			t.Errorf("%s: %s is %q, want %q; -update writes it", typesPage, name, got, w)
		}
	}
	if !slices.Equal(rows, order) {
		t.Errorf("%s has rows %q, want %q", typesPage, rows, order)
	}
	for _, c := range (&ColumnOptions{}).choices() {
		if row := "| `" + c.name + "` | `" + strings.Join(c.values, "`, `") + "` |"; !strings.Contains(string(page), row) {
			t.Errorf("%s has no row %s", typesPage, row)
		}
	}
	for name, value := range PinnedSettings {
		if !strings.Contains(strings.ReplaceAll(string(page), "\n", " "), "`"+name+" = "+strings.TrimSuffix(value, ", MDY")+"`") {
			t.Errorf("%s does not name the setting %s = %s", typesPage, name, value)
		}
	}
	if *update {
		if err := os.WriteFile(typesPage, []byte(strings.Join(lines, "\n")), 0o644); err != nil {
			t.Fatal(err)
		}
	}
}

func describe(t *testing.T, ty *typ) [3]string {
	var s any
	if err := json.Unmarshal([]byte(ty.avro), &s); err != nil {
		t.Fatal(err)
	}
	m, ok := s.(map[string]any)
	if !ok {
		return [3]string{s.(string), "", ""}
	}
	out := [3]string{m["type"].(string), "", ""}
	if l, ok := m["logicalType"].(string); ok {
		out[1] = l
	}
	if n, ok := m["connect.name"].(string); ok {
		out[2] = n
	}
	return out
}

// TestEventsPage holds the lists of docs/events.md to the code: under each heading the names stand first in a row of
// its table, in order.
func TestEventsPage(t *testing.T) {
	const file = "../docs/events.md"
	page, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	table, err := Derive(orders(decode.IdentityDefault), nil, "shop.public.orders", testOptions())
	if err != nil {
		t.Fatal(err)
	}
	for heading, want := range map[string][]string{
		"## The envelope `debezium`": fieldNames(t, table.Value),
		"### source":                 fieldNames(t, avroSource),
		"### transaction":            fieldNames(t, avroTransaction),
		"## Headers":                 HeaderNames,
	} {
		_, section, ok := strings.Cut(string(page), "\n"+heading+"\n")
		if !ok {
			t.Errorf("%s has no heading %q", file, heading)
			continue
		}
		if end := strings.Index(section, "\n#"); end >= 0 {
			section = section[:end]
		}
		var got []string
		for _, m := range regexp.MustCompile("(?m)^\\| `([^`]+)`").FindAllStringSubmatch(section, -1) {
			got = append(got, m[1])
		}
		if !slices.Equal(got, want) {
			t.Errorf("%s: %s lists %q, want %q", file, heading, got, want)
		}
	}
	for _, name := range []string{table.KeySubject, table.ValueSubject, "shop.public.orders.Key", "shop.public.orders.Value",
		"shop.public.orders.Envelope"} {
		if !strings.Contains(string(page), "`"+name+"`") {
			t.Errorf("%s does not name %s", file, name)
		}
	}
}
