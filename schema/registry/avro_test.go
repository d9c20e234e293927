package registry

import (
	"fmt"
	"os"
	"strings"
	"testing"
	"time"
)

// canonicalCases reads testdata/avro/canonical.txt.
func canonicalCases(t testing.TB) (cases [][2]string) {
	t.Helper()
	text, err := os.ReadFile("testdata/avro/canonical.txt")
	if err != nil {
		t.Fatal(err)
	}
	for block := range strings.SplitSeq(strings.TrimRight(string(text), "\n"), "\n\n") {
		if strings.HasPrefix(block, "#") {
			continue
		}
		in, out, ok := strings.Cut(block, "\n")
		if !ok {
			t.Fatalf("case without an answer: %q", block)
		}
		cases = append(cases, [2]string{in, out})
	}
	return cases
}

func TestCanonicalTextIsJavas(t *testing.T) {
	cases := canonicalCases(t)
	if len(cases) < 80 {
		t.Fatalf("only %d cases", len(cases))
	}
	for _, c := range cases {
		s, err := ParseAvro(c[0])
		switch {
		case err != nil && c[1] != "refused":
			t.Errorf("%s\n refused: %v", c[0], err)
		case err == nil && c[1] == "refused":
			t.Errorf("%s\n accepted as %s", c[0], s)
		case err == nil && s.String() != c[1]:
			t.Errorf("%s\n got  %s\n want %s", c[0], s, c[1])
		}
		if err != nil {
			continue
		}
		again, err := ParseAvro(s.String())
		if err != nil || again.String() != s.String() {
			t.Errorf("%s: the canonical text reads back as %v, %v", s, again, err)
		}
		n := s.Normalize()
		if again := n.Normalize(); again.String() != n.String() {
			t.Errorf("normal form of the normal form differs:\n %s\n %s", n, again)
		}
		if _, err := ParseAvro(n.String()); err != nil {
			t.Errorf("normal form %s: %v", n, err)
		}
	}
}

// FuzzParseAvro: what is accepted reads back as itself, means the same after normalising, and can read itself.
func FuzzParseAvro(f *testing.F) {
	for _, c := range canonicalCases(f) {
		f.Add(c[0])
	}
	f.Fuzz(func(t *testing.T, text string) {
		defer inTime(t, time.Now(), len(text))
		s, err := ParseAvro(text)
		if err != nil {
			return
		}
		again, err := ParseAvro(s.String())
		if err != nil {
			t.Fatalf("%s reads back as %v", s, err)
		}
		if again.String() != s.String() {
			t.Fatalf("canonical text is not stable:\n%s\n%s", s, again)
		}
		n := s.Normalize()
		back, err := ParseAvro(n.String())
		if err != nil {
			t.Fatalf("normal form %s: %v", n, err)
		}
		if back.Normalize().String() != n.String() {
			t.Fatalf("normal form is not stable:\n%s\n%s", n, back.Normalize())
		}
		for _, i := range Compare(s, again) {
			if i.Type != ambiguousAlias {
				for _, l := range i.Leaves() {
					if l.Type != ambiguousAlias {
						t.Fatalf("%s cannot read itself: %+v", s, i)
					}
				}
			}
		}
	})
}

// inTime fails a test of something that took longer than its size explains.
func inTime(t testing.TB, begun time.Time, size int) {
	if took := time.Since(begun); took > 5*time.Second {
		t.Errorf("%d bytes took %v", size, took)
	}
}

// Schemas made to cost more than their size: each is answered, whatever the answer is, in time proportional to it.
func TestHostileSchemas(t *testing.T) {
	many := func(n int, open, format, end string) string {
		var b strings.Builder
		b.WriteString(open)
		for i := range n {
			if i > 0 {
				b.WriteByte(',')
			}
			fmt.Fprintf(&b, format, i)
		}
		b.WriteString(end)
		return b.String()
	}
	// ladder makes records of which each has the next one twice, in the given wrapping.
	ladder := func(depth int, wrap, leaf string) string {
		text := fmt.Sprintf(`{"type":"record","name":"R%d","fields":[{"name":"x","type":"%s"}]}`, depth, leaf)
		for i := depth - 1; i >= 0; i-- {
			text = fmt.Sprintf(`{"type":"record","name":"R%d","fields":[{"name":"a","type":%s},{"name":"b","type":%s}]}`, i, fmt.Sprintf(wrap, text), fmt.Sprintf(wrap, fmt.Sprintf(`"R%d"`, i+1)))
		}
		return text
	}
	pairs := map[string][2]string{
		"fields":      {many(20000, `{"type":"record","name":"R","fields":[`, `{"name":"f%d","type":"int"}`, `]}`), many(20000, `{"type":"record","name":"R","fields":[`, `{"name":"g%d","type":"int"}`, `]}`)},
		"symbols":     {many(60000, `{"type":"enum","name":"E","symbols":[`, `"s%d"`, `]}`), many(60000, `{"type":"enum","name":"E","symbols":[`, `"t%d"`, `]}`)},
		"aliases":     {many(60000, `{"type":"fixed","name":"F","size":1,"aliases":[`, `"a%d"`, `]}`), `{"type":"fixed","name":"G","size":1}`},
		"properties":  {many(60000, `{"type":"string",`, `"p%d":1`, `}`), `"int"`},
		"ladder":      {ladder(80, "%s", "int"), ladder(80, "%s", "string")},
		"unions":      {ladder(80, `["null",%s]`, "int"), ladder(80, `["null",%s]`, "string")},
		"deep arrays": {strings.Repeat(`{"type":"array","items":`, 400) + `"int"` + strings.Repeat("}", 400), strings.Repeat(`{"type":"array","items":`, 400) + `"string"` + strings.Repeat("}", 400)},
		"too deep":    {strings.Repeat("[", 100000), `"int"`},
		"defaults":    {`{"type":"record","name":"R","fields":[{"name":"a","type":["int",{"type":"record","name":"S","fields":[{"name":"r","type":["R","S"],"default":{}},{"name":"q","type":["S","R"],"default":{}}]},"R"],"default":{}}]}`, `"int"`},
	}
	for name, p := range pairs {
		t.Run(name, func(t *testing.T) {
			defer inTime(t, time.Now(), len(p[0]))
			a, err := ParseAvro(p[0])
			if err != nil {
				t.Logf("refused: %v", err)
				return
			}
			_ = a.Normalize()
			b, err := ParseAvro(p[1])
			if err != nil {
				t.Fatal(err)
			}
			found := Compare(a, b)
			if len(found) == 0 || size(found) > maxFindings {
				t.Errorf("%d findings", size(found))
			}
		})
	}
}

// What goavro refuses as it is and the specification allows, is accepted; docs/registry.md names these.
func TestSchemasBeyondGoavro(t *testing.T) {
	for _, text := range []string{
		`{"type":"bytes","logicalType":"decimal"}`,
		`{"type":"enum","name":"E","symbols":[]}`,
		`{"type":"record","name":"R","fields":[{"name":"a","type":["null","int"],"default":3}]}`,
		`{"type":"error","name":"R","fields":[]}`,
		`[]`,
	} {
		s, err := ParseAvro(text)
		if err != nil {
			t.Errorf("%s: %v", text, err)
			continue
		}
		if _, err := goavroCodec(s.String()); err == nil {
			t.Errorf("goavro compiles %s: take it off this list and out of docs/registry.md", text)
		}
	}
}
