package registry

import (
	"fmt"
	"os"
	"strings"
	"testing"
)

func mustParse(t testing.TB, text string, references ...*Schema) *Schema {
	t.Helper()
	s, err := ParseAvro(text, references...)
	if err != nil {
		t.Fatalf("%s: %v", text, err)
	}
	return s
}

// compatibilityCases reads testdata/avro/compatibility.txt.
func compatibilityCases(t *testing.T) (cases [][]string) {
	t.Helper()
	text, err := os.ReadFile("testdata/avro/compatibility.txt")
	if err != nil {
		t.Fatal(err)
	}
	for block := range strings.SplitSeq(strings.TrimRight(string(text), "\n"), "\n\n") {
		if !strings.HasPrefix(block, "#") {
			cases = append(cases, strings.Split(block, "\n"))
		}
	}
	return cases
}

func TestCompareAgreesWithJava(t *testing.T) {
	seen := map[string]int{}
	for _, lines := range compatibilityCases(t) {
		reader, writer := mustParse(t, lines[0]), mustParse(t, lines[1])
		found := Compare(reader, writer)
		got := []string{"COMPATIBLE"}
		if len(found) > 0 {
			got[0] = "INCOMPATIBLE"
		}
		for _, i := range found {
			got = append(got, fmt.Sprintf("%s|%s|%s", i.Type, i.Path, strings.TrimSuffix(i.Detail, beyondJava)))
			seen[string(i.Type)]++
		}
		seen[got[0]]++
		if want := strings.Join(lines[2:], "\n"); strings.Join(got, "\n") != want {
			t.Errorf("reader %s\nwriter %s\n got\n%s\n want\n%s", lines[0], lines[1], strings.Join(got, "\n"), want)
		}
		// What is compatible with itself must stay so, and every finding must print.
		if again := Compare(reader, reader); len(again) != 0 && !strings.Contains(again[0].Detail, "matches multiple") {
			t.Errorf("%s cannot read itself: %v", reader, again)
		}
		for _, i := range found {
			if s := (Finding{i, 1, true}).String(); !strings.Contains(s, "new schema") && i.Type != NameMismatch && i.Type != ambiguousAlias {
				t.Errorf("message without direction: %s", s)
			}
		}
	}
	for _, kind := range []string{"COMPATIBLE", "INCOMPATIBLE", "NAME_MISMATCH", "FIXED_SIZE_MISMATCH", "MISSING_ENUM_SYMBOLS", "READER_FIELD_MISSING_DEFAULT_VALUE", "TYPE_MISMATCH", "MISSING_UNION_BRANCH"} {
		if seen[kind] < 40 {
			t.Errorf("only %d cases of %s", seen[kind], kind)
		}
	}
}

func TestFindingsNameTheField(t *testing.T) {
	old := mustParse(t, `{"type":"record","name":"Envelope","fields":[{"name":"after","type":["null",{"type":"record","name":"Value","fields":[{"name":"id","type":"int"},{"name":"amount","type":"string"}]}]}]}`)
	next := mustParse(t, `{"type":"record","name":"Envelope","fields":[{"name":"after","type":["null",{"type":"record","name":"Value","fields":[{"name":"id","type":"int"},{"name":"amount","type":"int"},{"name":"note","type":"string"}]}]}]}`)
	found := Compare(next, old)
	if len(found) != 1 || found[0].Field != "after" {
		t.Fatalf("a union is judged as a whole: %+v", found)
	}
	message := Finding{found[0], 1, true}.String()
	for _, want := range []string{"after.amount: TYPE_MISMATCH", "after.note: READER_FIELD_MISSING_DEFAULT_VALUE"} {
		if !strings.Contains(message, want) {
			t.Errorf("%q is not in %s", want, message)
		}
	}
	flat := Compare(mustParse(t, `{"type":"record","name":"V","fields":[{"name":"in","type":{"type":"record","name":"W","fields":[{"name":"amount","type":"int"}]}},{"name":"also","type":"W"},{"name":"note","type":"string"}]}`),
		mustParse(t, `{"type":"record","name":"V","fields":[{"name":"in","type":{"type":"record","name":"W","fields":[{"name":"amount","type":"string"}]}},{"name":"also","type":"W"}]}`))
	var fields []string
	for _, f := range flat {
		fields = append(fields, f.Field)
	}
	if got := strings.Join(fields, " "); got != "in.amount also.amount note" {
		t.Errorf("fields named: %s", got)
	}
}

// A chain of versions in which each step alone is harmless and the whole is not.
func TestCheckLevels(t *testing.T) {
	v1 := mustParse(t, `{"type":"record","name":"R","fields":[{"name":"a","type":"int"}]}`)
	v2 := mustParse(t, `{"type":"record","name":"R","fields":[{"name":"a","type":"int","default":0},{"name":"b","type":"int","default":0}]}`)
	v3 := mustParse(t, `{"type":"record","name":"R","fields":[{"name":"a","type":"int","default":0},{"name":"b","type":"int"}]}`)
	less := mustParse(t, `{"type":"record","name":"R","fields":[]}`)
	history := []Previous{{1, v1}, {2, v2}}
	for _, c := range []struct {
		level   Level
		schema  *Schema
		against int // version that objects; 0: none
		isNew   bool
	}{
		{None, v3, 0, false},
		{Backward, v3, 0, false},            // b has no default, but v2 always writes it
		{BackwardTransitive, v3, 1, true},   // v1 does not
		{Forward, v3, 0, false},             // v2 reads it
		{ForwardTransitive, v3, 0, false},   // v1 as well
		{Full, v3, 0, false},                // both ways against v2
		{FullTransitive, v3, 1, true},       //
		{Backward, less, 0, false},          // a reader may leave fields out
		{Forward, less, 0, false},           // v2 has defaults for both
		{ForwardTransitive, less, 1, false}, // v1 has none for a
		{FullTransitive, less, 1, false},    //
		{BackwardTransitive, less, 0, false},
	} {
		found := Check(c.level, c.schema, history)
		switch {
		case c.against == 0 && len(found) > 0:
			t.Errorf("%s %s: unexpected %v", c.level, c.schema, found)
		case c.against != 0 && (len(found) == 0 || found[0].Version != c.against || found[0].ReaderIsNew != c.isNew):
			t.Errorf("%s %s: got %v, want version %d to object", c.level, c.schema, found, c.against)
		}
	}
	if _, ok := ParseLevel("sideways"); ok {
		t.Error("an unknown level is accepted")
	}
	if l, ok := ParseLevel("full_transitive"); !ok || l != FullTransitive {
		t.Error("a level in lower case is not accepted")
	}
}
