package registry

import (
	"os"
	"strings"
	"testing"
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
