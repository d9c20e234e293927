package registry_test

import (
	"bytes"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"walferry/schema/registry"
)

// Each case of testdata/diff is two schemas and, below them, what is different: for people, then as JSON.
func TestDiff(t *testing.T) {
	files, err := filepath.Glob("testdata/diff/*.txt")
	if err != nil || len(files) == 0 {
		t.Fatal("no cases", err)
	}
	kinds := map[registry.DifferenceKind]bool{}
	for _, file := range files {
		text, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		var out strings.Builder
		for block := range strings.SplitSeq(strings.Trim(string(text), "\n"), "\n\n# ") {
			title, rest, _ := strings.Cut(strings.TrimPrefix(block, "# "), "\n")
			old, rest, _ := strings.Cut(rest, "\n---\n")
			new, _, _ := strings.Cut(rest, "\n===")
			list, err := registry.DiffText(old, new)
			if err != nil {
				t.Fatalf("%s: %s: %v", file, title, err)
			}
			if out.Len() > 0 {
				out.WriteString("\n")
			}
			fmt.Fprintf(&out, "# %s\n%s\n---\n%s\n===\n%s", title, old, new, registry.FormatDiff(list, nil))
			for _, d := range list {
				kinds[d.Kind] = true
				b, err := json.Marshal(d)
				if err != nil {
					t.Fatal(err)
				}
				fmt.Fprintf(&out, "%s\n", b)
			}
		}
		if *update {
			if err := os.WriteFile(file, []byte(out.String()), 0o600); err != nil {
				t.Fatal(err)
			}
		} else if out.String() != string(text) {
			t.Errorf("%s differs; with -update it is written anew. Now:\n%s", file, out.String())
		}
	}
	for _, k := range []registry.DifferenceKind{
		registry.FieldAdded, registry.FieldRemoved, registry.FieldRenamed, registry.TypeChanged, registry.NullabilityChanged,
		registry.LogicalTypeChanged, registry.DefaultChanged, registry.SymbolsChanged, registry.LabelsChanged, registry.DocChanged,
		registry.NameChanged, registry.AliasesChanged, registry.OrderChanged, registry.PropertyChanged,
	} {
		if !kinds[k] {
			t.Errorf("no case of %q", k)
		}
	}
}

// Two schemas that differ in their text have a difference, and those of which one cannot read the other too; a schema
// has none from itself. The pairs are those of the compatibility rules, and what tables of every type become.
func TestDiffMissesNothing(t *testing.T) {
	text, err := os.ReadFile("testdata/avro/compatibility.txt")
	if err != nil {
		t.Fatal(err)
	}
	pairs, different := 0, 0
	for block := range strings.SplitSeq(strings.TrimRight(string(text), "\n"), "\n\n") {
		if strings.HasPrefix(block, "#") {
			continue
		}
		lines := strings.Split(block, "\n")
		a, err := registry.ParseAvro(lines[0])
		if err != nil {
			t.Fatal(err)
		}
		b, err := registry.ParseAvro(lines[1])
		if err != nil {
			t.Fatal(err)
		}
		pairs++
		there, back := registry.Diff(a, b), registry.Diff(b, a)
		if same := a.String() == b.String(); same != (len(there) == 0) || same != (len(back) == 0) {
			t.Errorf("%d and %d differences between\n%s\n%s", len(there), len(back), a, b)
		}
		for _, d := range append(there, back...) {
			different++
			if d.Text() == "" || len(d.Paths) == 0 {
				t.Errorf("difference without text or place: %+v", d)
			}
		}
		for _, s := range []*registry.Schema{a, b} {
			if d := registry.Diff(s, s); len(d) > 0 {
				t.Errorf("%s differs from itself: %v", s, d)
			}
		}
	}
	if pairs < 300 || different < pairs {
		t.Errorf("only %d pairs with %d differences", pairs, different)
	}
	files, err := filepath.Glob("../../testdata/schema/*.avsc")
	if err != nil || len(files) < 5 {
		t.Fatal("too few derived schemas", err)
	}
	for _, file := range files {
		text, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		for d := json.NewDecoder(bytes.NewReader(text)); d.More(); { // key and value
			var avro json.RawMessage
			if err := d.Decode(&avro); err != nil {
				t.Fatal(err)
			}
			if list, err := registry.DiffText(string(avro), string(avro)); err != nil || len(list) > 0 {
				t.Errorf("%s: a schema differs from itself: %v %v", file, list, err)
			}
		}
	}
}
