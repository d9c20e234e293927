package schema

import (
	"bytes"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"walferry/decode"
	"walferry/internal/testbed"
)

// edges are values that readers make different things of; name is what docs/types.md calls them.
var edges = []struct {
	name string
	oid  uint32
	mod  int32
	opt  ColumnOptions
	text string
}{
	{"int8, 2^53 + 1", 20, -1, ColumnOptions{}, "9007199254740993"},
	{"oid, 4294967295", 26, -1, ColumnOptions{}, "4294967295"},
	{"float8, -0", 701, -1, ColumnOptions{}, "-0"},
	{"float8, NaN", 701, -1, ColumnOptions{}, "NaN"},
	{"float8, infinity", 701, -1, ColumnOptions{}, "Infinity"},
	{"float4, least subnormal", 700, -1, ColumnOptions{}, "1e-45"},
	{"numeric(12,2), -1.28", oidNumeric, mod122, ColumnOptions{}, "-1.28"},
	{"numeric(38,17), 21 digits before the point", oidNumeric, (38<<16 | 17) + 4, ColumnOptions{}, "123456789012345678901.12345678901234567"},
	{"numeric(3,-2), 99900", oidNumeric, (3<<16 | 0x7fe) + 4, ColumnOptions{}, "99900"},
	{"numeric, 1.50 as variable-scale", oidNumeric, -1, ColumnOptions{Unconstrained: NumericScale}, "1.50"},
	{"numeric, 1.50 as double", oidNumeric, -1, ColumnOptions{Unconstrained: NumericDouble}, "1.50"},
	{"money, -$0.01", oidMoney, -1, ColumnOptions{}, "-$0.01"},
	{"uuid", 2950, -1, ColumnOptions{}, "a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11"},
	{"bytea, \\x00ff", 17, -1, ColumnOptions{}, `\x00ff`},
	{"date, 2024-02-29", oidDate, -1, ColumnOptions{}, "2024-02-29"},
	{"date, 0044-03-15 BC", oidDate, -1, ColumnOptions{}, "0044-03-15 BC"},
	{"date, 5874897-12-31", oidDate, -1, ColumnOptions{}, "5874897-12-31"},
	{"date, infinity", oidDate, -1, ColumnOptions{}, "infinity"},
	{"date, -infinity, plain", oidDate, -1, ColumnOptions{Time: TimePlain}, "-infinity"},
	{"time, 23:59:59.999999", oidTime, -1, ColumnOptions{}, "23:59:59.999999"},
	{"time, 24:00:00", oidTime, -1, ColumnOptions{}, "24:00:00"},
	{"time, 24:00:00, connect", oidTime, -1, ColumnOptions{Time: TimeConnect}, "24:00:00"},
	{"timestamp, 2024-02-29 12:34:56.789012", oidTimestamp, -1, ColumnOptions{}, "2024-02-29 12:34:56.789012"},
	{"timestamp, 4714-11-24 00:00:00 BC", oidTimestamp, -1, ColumnOptions{}, "4714-11-24 00:00:00 BC"},
	{"timestamp, 10000-01-01", oidTimestamp, -1, ColumnOptions{}, "10000-01-01 00:00:00"},
	{"timestamp, 10000-01-01, connect", oidTimestamp, -1, ColumnOptions{Time: TimeConnect}, "10000-01-01 00:00:00"},
	{"timestamp, infinity", oidTimestamp, -1, ColumnOptions{}, "infinity"},
	{"timestamptz, 2024-02-29 12:34:56.789012+00", oidTimestampTZ, -1, ColumnOptions{}, "2024-02-29 12:34:56.789012+00"},
	{"timestamptz, 10000-01-01", oidTimestampTZ, -1, ColumnOptions{}, "10000-01-01 00:00:00+00"},
	{"timestamptz, 294247-01-10", oidTimestampTZ, -1, ColumnOptions{}, "294247-01-10 04:00:54.775806+00"},
	{"timestamptz, infinity", oidTimestampTZ, -1, ColumnOptions{}, "infinity"},
	{"timestamptz, -infinity", oidTimestampTZ, -1, ColumnOptions{}, "-infinity"},
	{"timestamptz, infinity, connect", oidTimestampTZ, -1, ColumnOptions{Time: TimeConnect}, "infinity"},
	{"timestamptz, infinity, plain", oidTimestampTZ, -1, ColumnOptions{Time: TimePlain}, "infinity"},
	{"timestamptz, infinity, iso", oidTimestampTZ, -1, ColumnOptions{Time: TimeISO}, "infinity"},
	{"enum, as an Avro enum", 20000, -1, ColumnOptions{Enum: EnumAvro}, `it's, "ok"`},
	{"int4[], {1,NULL}", 1007, -1, ColumnOptions{}, "{1,NULL}"},
	{"composite, (1,)", 20005, -1, ColumnOptions{}, "(1,)"},
	{"int4range, [1,) as a record", 3904, -1, ColumnOptions{Range: RangeRecord}, "[1,)"},
	{"int4multirange, {[1,2)} as records", 4451, -1, ColumnOptions{Range: RangeRecord}, "{[1,2)}"},
	{"vector, [1,0.1]", 20015, -1, ColumnOptions{}, "[1,0.1]"},
	{"sparsevec, {2:0.5}/3", 20017, -1, ColumnOptions{}, "{2:0.5}/3"},
	{"hstore, a null", 20010, -1, ColumnOptions{}, `"a"=>NULL`},
}

var readers = []struct {
	name    string
	command func(t *testing.T, dir string) *exec.Cmd
}{
	{"Python", func(t *testing.T, dir string) *exec.Cmd {
		return exec.CommandContext(t.Context(), testbed.Python(t), filepath.Join(dir, "read.py"))
	}},
	{"Java", func(t *testing.T, dir string) *exec.Cmd {
		return exec.CommandContext(t.Context(), "java", "-cp", testbed.JavaLibraries(t, "java"), filepath.Join(dir, "Read.java"))
	}},
	{"Go", nil}, // here
	{"JavaScript", func(t *testing.T, dir string) *exec.Cmd {
		return exec.CommandContext(t.Context(), "node", filepath.Join(dir, "read.js"), filepath.Join(testbed.Node(t), "avsc"))
	}},
}

// TestReaders gives edge values to other Avro readers, and holds the table of docs/types.md to what these say.
func TestReaders(t *testing.T) {
	if testing.Short() {
		t.Skip("starts other languages; run without -short")
	}
	page, err := os.ReadFile(typesPage)
	if err != nil {
		t.Fatal(err)
	}
	const from, to = "<!-- What readers say; written by go test ./schema -run Readers -update. -->\n", "<!-- end -->\n"
	before, rest, ok1 := strings.Cut(string(page), from)
	table, after, ok2 := strings.Cut(rest, to)
	if !ok1 || !ok2 {
		t.Fatalf("%s has no table of readers", typesPage)
	}
	written := map[string][]string{} // by value, in the order of readers
	for line := range strings.Lines(table) {
		if cells := strings.Split(strings.TrimSpace(line), " | "); len(cells) == len(readers)+1 {
			cells[len(readers)] = strings.TrimSuffix(cells[len(readers)], " |")
			written[strings.TrimPrefix(cells[0], "| ")] = cells[1:]
		}
	}
	var input bytes.Buffer
	enc := json.NewEncoder(&input)
	said := make([][]string, len(edges))
	names := make([]string, len(edges))
	for i, e := range edges {
		names[i] = e.name
		ty := resolveTest(e.oid, e.mod, e.opt)
		avro, err := ty.text(&scratch{}, ty, nil, []byte(e.text))
		if err != nil {
			t.Fatalf("%s: %v", e.name, err)
		}
		if err := enc.Encode(map[string]string{"name": e.name, "schema": ty.avro, "avro": fmt.Sprintf("%x", avro)}); err != nil {
			t.Fatal(err)
		}
		said[i] = make([]string, len(readers))
		codec, err := Compile(ty.avro)
		if err != nil {
			t.Fatal(err)
		}
		v, _, err := codec.NativeFromBinary(avro)
		if said[i][2] = fmt.Sprint(v); err != nil {
			said[i][2] = err.Error()
		}
	}
	for r, reader := range readers {
		t.Run(reader.name, func(t *testing.T) {
			if reader.command != nil {
				for i, s := range ask(t, reader.command(t, filepath.Join(testbed.Root(t), "testdata", "readers")), input.Bytes(), names) {
					said[i][r] = s
				}
			}
			for i, e := range edges {
				said[i][r] = cell(said[i][r])
				if have := written[e.name]; !*update && (have == nil || have[r] != said[i][r]) {
					t.Errorf("%s: %s reads %s; %s has %q", e.name, reader.name, said[i][r], typesPage, have)
				}
			}
		})
	}
	if len(written) != len(edges)+2 && !*update { // and the head
		t.Errorf("%s has %d rows, want %d", typesPage, len(written)-2, len(edges))
	}
	if !*update {
		return
	}
	var b strings.Builder
	b.WriteString("\n| value | Python | Java | Go | JavaScript |\n| --- | --- | --- | --- | --- |\n")
	for i, e := range edges {
		for r := range readers {
			if said[i][r] == "" && written[e.name] != nil { // skipped
				said[i][r] = written[e.name][r]
			}
		}
		b.WriteString("| " + e.name + " | " + strings.Join(said[i], " | ") + " |\n")
	}
	if err := os.WriteFile(typesPage, []byte(before+from+b.String()+"\n"+to+after), 0o644); err != nil {
		t.Fatal(err)
	}
}

// TestReadersNames gives other readers events whose columns and attributes are called like what Avro has names for itself.
func TestReadersNames(t *testing.T) {
	if testing.Short() {
		t.Skip("starts other languages; run without -short")
	}
	types := map[uint32]*decode.Type{
		20000: testTypes[20000],
		30000: {OID: 30000, Schema: "public", Name: "outer", Kind: 'c', HasBinary: true, Attributes: []decode.Attribute{
			{Name: "string", Type: 30001, Mod: -1}, {Name: "string_", Type: 30001, Mod: -1}}},
		30001: {OID: 30001, Schema: "public", Name: "inner", Kind: 'c', HasBinary: true, Attributes: []decode.Attribute{{Name: "null", Type: 23, Mod: -1}}},
	}
	rel := &decode.Relation{Schema: "public", Name: "t", Identity: decode.IdentityNothing}
	var row decode.Tuple
	for _, name := range []string{"null", "boolean", "int", "int_", "int__", "long", "float", "double", "bytes", "string", "record", "enum", "array", "map", "fixed",
		"union", "error", "request", "date", "Key", "Value", "Envelope", "Source", "block", "columns", "class", "1st", "🐘"} {
		rel.Columns = append(rel.Columns, decode.Column{Name: name, Type: 30000, Mod: -1}, decode.Column{Name: name + "_enum", Type: 20000, Mod: -1})
		row = append(row, text(`("(7)","(8)")`), text("sad"))
	}
	for _, name := range []string{"bytes", "float"} {
		rel.Columns = append(rel.Columns, decode.Column{Name: name + "__", Type: 20000, Mod: -1})
		row = append(row, text("sad"))
	}
	opt := testOptions()
	opt.Enum = EnumAvro
	e := mustEncoder(t, rel, &decode.Descriptor{Types: types}, opt)
	event, err := e.AppendValue(nil, &decode.Change{New: row}, 'c', meta())
	if err != nil {
		t.Fatal(err)
	}
	input, err := json.Marshal(map[string]string{"name": "names", "schema": e.table.Value, "avro": fmt.Sprintf("%x", event[WireSize:])})
	if err != nil {
		t.Fatal(err)
	}
	for _, reader := range readers {
		if reader.command == nil {
			continue // mustEncoder compiles it
		}
		t.Run(reader.name, func(t *testing.T) {
			said := ask(t, reader.command(t, filepath.Join(testbed.Root(t), "testdata", "readers")), input, []string{"names"})[0]
			for _, n := range []string{"7", "8"} {
				if got := strings.Count(strings.ReplaceAll(said, `"`, "'"), "'null': "+n) + strings.Count(said, "null: "+n); got != 28 {
					t.Errorf("%s %d times, want 28: %s", n, got, said)
				}
			}
		})
	}
}

// ask runs a reader, and returns what it says of each case.
func ask(t *testing.T, cmd *exec.Cmd, input []byte, names []string) []string {
	t.Helper()
	var out, complained bytes.Buffer
	cmd.Stdin, cmd.Stdout, cmd.Stderr = bytes.NewReader(input), &out, &complained
	if err := cmd.Run(); err != nil {
		t.Fatalf("%v: %v: %s", cmd.Args, err, &complained)
	}
	var said []string
	dec := json.NewDecoder(&out)
	for i := 0; dec.More(); i++ {
		var line struct{ Name, Said string }
		if err := dec.Decode(&line); err != nil {
			t.Fatal(err)
		}
		if i >= len(names) || line.Name != names[i] {
			t.Fatalf("line %d is of %q", i, line.Name)
		}
		said = append(said, line.Said)
	}
	if len(said) != len(names) {
		t.Fatalf("%d lines for %d values: %s", len(said), len(names), &complained)
	}
	return said
}

// cell is text in a cell of a table.
func cell(s string) string {
	return "`" + strings.NewReplacer("|", "¦", "`", "'", "\n", " ").Replace(s) + "`"
}
