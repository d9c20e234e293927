package registry

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"

	"walferry/internal/testbed"
)

// question and answer are described at the top of testdata/avro/Oracle.java.
type question struct {
	Op         string   `json:"op"`
	Schema     string   `json:"schema,omitempty"`
	Reader     string   `json:"reader,omitempty"`
	Writer     string   `json:"writer,omitempty"`
	Level      Level    `json:"level,omitempty"`
	History    []string `json:"history,omitempty"`
	References []string `json:"references,omitempty"`
	Stored     bool     `json:"stored,omitempty"`
}

type answer struct {
	Text    string          `json:"text"`
	Normal  string          `json:"normal"`
	Lost    string          `json:"lost"`
	Found   json.RawMessage `json:"found"`
	Version int             `json:"version"`
	Error   string          `json:"error"`
}

// oracle is Avro's Java implementation with Confluent's rules above it.
type oracle struct {
	in  io.WriteCloser
	out *bufio.Reader
}

func startOracle(t *testing.T) *oracle {
	t.Helper()
	if testing.Short() {
		t.Skip("starts Java; run without -short")
	}
	// It ends with its input.
	cmd := exec.CommandContext(context.WithoutCancel(t.Context()), "java", "-cp", testbed.JavaLibraries(t, "avro"), filepath.Join(testbed.Root(t), "testdata", "avro", "Oracle.java"))
	var complaint bytes.Buffer
	cmd.Stderr = &complaint
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := in.Close(); err != nil {
			t.Error(err)
		}
		if err := cmd.Wait(); err != nil {
			t.Errorf("oracle: %v: %s", err, &complaint)
		}
	})
	return &oracle{in, bufio.NewReader(out)}
}

func (o *oracle) ask(t *testing.T, questions ...question) []answer {
	t.Helper()
	var b bytes.Buffer
	enc := json.NewEncoder(&b)
	for _, q := range questions {
		if err := enc.Encode(q); err != nil {
			t.Fatal(err)
		}
	}
	written := make(chan error, 1)
	go func() {
		_, err := o.in.Write(b.Bytes())
		written <- err
	}()
	answers := make([]answer, len(questions))
	for i := range answers {
		line, err := o.out.ReadBytes('\n')
		if err == nil {
			err = json.Unmarshal(line, &answers[i])
		}
		if err != nil {
			t.Fatalf("answer to %+v: %v", questions[i], err)
		}
	}
	if err := <-written; err != nil {
		t.Fatal(err)
	}
	return answers
}

// growth is testdata/avro/seeds.txt: what schemas are grown out of, and the numbers that chance starts from.
func growth(t *testing.T) (numbers []uint64, schemas []string) {
	t.Helper()
	text, err := os.ReadFile("testdata/avro/seeds.txt")
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(text)) {
		line = strings.TrimSpace(line)
		switch {
		case strings.HasPrefix(line, "#") || line == "":
		case strings.HasPrefix(line, "seed "):
			n, err := strconv.ParseUint(strings.TrimPrefix(line, "seed "), 10, 64)
			if err != nil {
				t.Fatal(err)
			}
			numbers = append(numbers, n)
		default:
			schemas = append(schemas, line)
		}
	}
	if s := os.Getenv("WALFERRY_ORACLE_SEED"); s != "" {
		n, err := strconv.ParseUint(s, 10, 64)
		if err != nil {
			t.Fatal(err)
		}
		numbers = []uint64{n}
	}
	return numbers, schemas
}

// times makes the tests below longer than they are by default.
func times(t *testing.T, n int) int {
	t.Helper()
	if s := os.Getenv("WALFERRY_ORACLE_TIMES"); s != "" {
		f, err := strconv.Atoi(s)
		if err != nil {
			t.Fatal(err)
		}
		return n * f
	}
	return n
}

// differs compares our answer with the oracle's; "" means they agree.
func (q question) differs(a answer) string {
	switch q.Op {
	case "parse":
		return q.parseDiffers(a)
	case "compare":
		return q.compareDiffers(a)
	}
	return q.checkDiffers(a)
}

func (q question) parseDiffers(a answer) string {
	var references []*Schema
	for _, text := range q.References {
		r, err := ParseAvro(text, references...)
		if err != nil {
			return "" // asked on its own
		}
		references = append(references, r)
	}
	s, err := ParseAvro(q.Schema, references...)
	if q.Stored {
		// What Java cannot read any more may have been accepted by an older one.
		if s, err = parseStored(q.Schema, references); a.Error != "" {
			return ""
		}
	}
	switch {
	case (err != nil) != (a.Error != ""):
		return fmt.Sprintf("we say %v, Java %s", err, a.Error)
	case err != nil:
		return ""
	case s.String() != a.Text:
		return fmt.Sprintf("we write %s\nJava     %s", s, a.Text)
	case a.Normal != "" && s.Normalize().String() != a.Normal:
		return fmt.Sprintf("our normal form  %s\nConfluent's      %s", s.Normalize(), a.Normal)
	}
	return ""
}

func (q question) compareDiffers(a answer) string {
	reader, err := parseAvro(q.Reader, true, nil)
	if err != nil {
		return fmt.Sprintf("we refuse the reader: %v", err)
	}
	writer, err := parseAvro(q.Writer, true, nil)
	if err != nil {
		return fmt.Sprintf("we refuse the writer: %v", err)
	}
	var got, want []string
	found := Compare(reader, writer)
	for _, i := range found {
		detail := strings.TrimSuffix(i.Detail, beyondJava)
		got = append(got, fmt.Sprintf("%s|%s|%s", i.Type, i.Path, detail))
	}
	if len(found) == 1 && found[0].Type == ambiguousAlias {
		got = []string{found[0].Detail}
	}
	if a.Error != "" {
		want = []string{nameOnly(a.Error)}
	} else {
		var list [][3]string
		if err := json.Unmarshal(a.Found, &list); err != nil {
			return err.Error()
		}
		for _, i := range list {
			want = append(want, strings.Join(i[:], "|"))
		}
	}
	return listsDiffer(got, want, size(found) >= maxFindings)
}

// beyondJava is what we explain and Java does not.
const beyondJava = " (the field is missing there and has no default; that of the enum does not count)"

func (q question) checkDiffers(a answer) string {
	schema, err := parseAvro(q.Schema, true, nil)
	if err != nil {
		return fmt.Sprintf("we refuse the schema: %v", err)
	}
	var previous []Previous
	for i, text := range q.History {
		old, err := parseStored(text, nil)
		if err != nil {
			return fmt.Sprintf("we refuse version %d: %v", i+1, err)
		}
		previous = append(previous, Previous{i + 1, old})
	}
	var got, want []string
	version, all, old := 0, 0, ""
	found := Check(q.Level, schema, previous)
	for _, f := range found {
		version, old = f.Version, previous[f.Version-1].Schema.String()
		all += size([]Incompatibility{f.Incompatibility})
	}
	for i, text := range messages(q.Level, found, old) {
		if i < len(found) {
			if i := strings.LastIndex(text, ", field:'"); i >= 0 {
				text = text[:i] + "}" // ours alone
			}
			text = strings.Replace(text, beyondJava, "", 1)
		}
		got = append(got, text)
	}
	if a.Error != "" {
		return fmt.Sprintf("we find %q, Java %s", got, a.Error)
	}
	if err := json.Unmarshal(a.Found, &want); err != nil {
		return err.Error()
	}
	if version != a.Version {
		return fmt.Sprintf("we name version %d, Confluent %d", version, a.Version)
	}
	for i := range want {
		want[i] = nameOnly(want[i])
	}
	return listsDiffer(got, want, all >= maxFindings)
}

// nameOnly puts the writer's name, which is enough for us, in the place of its text in the message of an ambiguous alias.
func nameOnly(message string) string {
	before, text, ok := strings.Cut(message, " matches multiple fields in writer record schema ")
	if !ok {
		return message
	}
	s, err := parseStored(text, nil)
	if err != nil {
		return err.Error()
	}
	return before + " matches multiple fields in writer record schema " + s.Name()
}

func listsDiffer(got, want []string, cut bool) string {
	if cut && len(got) < len(want) {
		want = want[:len(got)]
	}
	if slices.Equal(got, want) {
		return ""
	}
	return fmt.Sprintf("we find\n  %s\nJava\n  %s", strings.Join(got, "\n  "), strings.Join(want, "\n  "))
}

// agree puts the questions to both. What they differ in is made as small as it goes, and printed as testdata/avro/oracle.txt wants it.
func (o *oracle) agree(t *testing.T, questions []question) []answer {
	t.Helper()
	answers := o.ask(t, questions...)
	failed := 0
	for i, q := range questions {
		if q.differs(answers[i]) == "" {
			continue
		}
		if failed++; failed > 5 {
			continue
		}
		q = o.shrink(t, q)
		text, err := json.Marshal(q)
		if err != nil {
			t.Fatal(err)
		}
		t.Errorf("%s\n%s", text, q.differs(o.ask(t, q)[0]))
	}
	if failed > 5 {
		t.Errorf("%d more", failed-5)
	}
	return answers
}

// shrink leaves out what is not needed for the two to differ.
func (o *oracle) shrink(t *testing.T, q question) question {
	t.Helper()
	differ := func(q question) bool {
		d := q.differs(o.ask(t, q)[0])
		// What cannot be parsed any more differs for another reason.
		return d != "" && !strings.HasPrefix(d, "we refuse")
	}
	for smaller := true; smaller; {
		smaller = false
		for i := range q.History {
			c := q
			c.History = slices.Delete(slices.Clone(q.History), i, i+1)
			if differ(c) {
				q, smaller = c, true
				break
			}
		}
		parts := []func(*question) *string{
			func(q *question) *string { return &q.Schema }, func(q *question) *string { return &q.Reader }, func(q *question) *string { return &q.Writer },
		}
		for i := range q.History {
			parts = append(parts, func(q *question) *string { return &q.History[i] })
		}
		for _, part := range parts {
			text := *part(&q)
			root, err := parseJSON(text)
			if err != nil {
				continue
			}
			for _, less := range lessOf(root) {
				c := q
				c.History = slices.Clone(q.History)
				*part(&c) = less.string()
				if differ(c) {
					q, smaller = c, true
					break
				}
			}
		}
	}
	return q
}

// lessOf returns n without each of its parts, largest first, and with each part in its parent's place.
func lessOf(n *node) (list []*node) {
	var walk func(at *node, put func(*node) *node)
	walk = func(at *node, put func(*node) *node) {
		for i, item := range at.list {
			if at.kind == objectNode {
				list = append(list, put(at.without(at.keys[i])))
			} else {
				c := *at
				c.list = slices.Delete(slices.Clone(at.list), i, i+1)
				list = append(list, put(&c))
			}
			if item.kind == objectNode || item.kind == arrayNode || at.kind == arrayNode {
				list = append(list, put(item))
			}
			walk(item, func(changed *node) *node {
				c := *at
				c.list = slices.Clone(at.list)
				c.list[i] = changed
				return put(&c)
			})
		}
	}
	walk(n, func(n *node) *node { return n })
	slices.SortStableFunc(list, func(a, b *node) int { return len(a.string()) - len(b.string()) })
	return list
}

// TestOracle asks Avro's Java implementation, and Confluent's rules above it, whether they say what we say. With
// WALFERRY_ORACLE_SEED it grows other schemas, with WALFERRY_ORACLE_TIMES that many times as many.
func TestOracle(t *testing.T) {
	o := startOracle(t)
	for _, part := range []struct {
		name string
		test func(*testing.T, *oracle)
	}{{"cases", casesWithOracle}, {"compare", compareWithOracle}, {"levels", levelsWithOracle}, {"parse", parseWithOracle}} {
		t.Run(part.name, func(t *testing.T) { part.test(t, o) })
	}
}

// Ten thousand pairs of schemas: Java's SchemaCompatibility finds the same in each, at the same places, in the same words.
func compareWithOracle(t *testing.T, o *oracle) {
	numbers, schemas := growth(t)
	var questions []question
	for _, number := range numbers {
		g := newGrower(number, schemas)
		for range times(t, 10000) / len(numbers) {
			before, after := g.next(3)
			if g.IntN(2) == 0 {
				before, after = after, before
			}
			questions = append(questions, question{Op: "compare", Reader: after.string(), Writer: before.string()})
		}
	}
	seen, pairs := map[string]int{}, map[string]bool{}
	for i, a := range o.agree(t, questions) {
		pairs[questions[i].Reader+questions[i].Writer] = true
		var list [][3]string
		if a.Error != "" {
			seen["exception"]++
		} else if err := json.Unmarshal(a.Found, &list); err != nil {
			t.Fatal(err)
		}
		if len(list) > 0 || a.Error != "" {
			seen["incompatible"]++
		}
		kinds := map[string]bool{}
		for _, i := range list {
			kinds[i[0]] = true
		}
		for kind := range kinds {
			seen[kind]++
		}
	}
	t.Logf("%d pairs, %d of them different; %v", len(questions), len(pairs), seen)
	if n := len(questions); len(pairs) < n*8/10 {
		t.Errorf("only %d of %d pairs are different", len(pairs), n)
	}
	if share := 100 * seen["incompatible"] / len(questions); share < 30 || share > 70 {
		t.Errorf("%d %% of the pairs are incompatible", share)
	}
	for _, kind := range []IncompatibilityType{NameMismatch, FixedSizeMismatch, MissingEnumSymbols, MissingFieldDefault, TypeMismatch, MissingUnionBranch} {
		if seen[string(kind)] < 100 {
			t.Errorf("only %d pairs with %s", seen[string(kind)], kind)
		}
	}
}

// Histories of five versions and a sixth under each level: the same verdict, the same version that objects, the same messages as a
// Confluent registry has.
func levelsWithOracle(t *testing.T, o *oracle) {
	numbers, schemas := growth(t)
	var questions []question
	for _, number := range numbers {
		g := newGrower(number, schemas)
		for range times(t, 400) / len(numbers) {
			var history []string
			for _, n := range g.history(6) {
				history = append(history, n.string())
			}
			for _, level := range Levels {
				questions = append(questions, question{Op: "check", Level: level, Schema: history[5], History: history[:5]})
			}
		}
	}
	refused, earlier := map[Level]int{}, map[Level]int{}
	for i, a := range o.agree(t, questions) {
		if a.Version > 0 {
			refused[questions[i].Level]++
		}
		if a.Version > 0 && a.Version < 5 {
			earlier[questions[i].Level]++
		}
	}
	t.Logf("%d checks; refused %v, of these by an earlier version than the last %v", len(questions), refused, earlier)
	for _, level := range Levels {
		n := len(questions) / len(Levels)
		switch {
		case level == None && refused[level] > 0, level != None && (refused[level] < n/10 || refused[level] > n*9/10):
			t.Errorf("%s refuses %d of %d", level, refused[level], n)
		case level.transitive() && earlier[level] < n/20:
			t.Errorf("%s refuses %d for an earlier version than the last", level, earlier[level])
		}
	}
}

// Schemas, whole and broken: Java's parser accepts the same, and stores and normalises them as the same text.
func parseWithOracle(t *testing.T, o *oracle) {
	numbers, schemas := growth(t)
	var questions []question
	for _, number := range numbers {
		g := newGrower(number, schemas)
		for range times(t, 3000) / len(numbers) {
			g.breed()
			n := pick(g, g.pool)
			q := question{Op: "parse", Stored: g.IntN(5) == 0}
			switch g.IntN(10) {
			case 0:
				q.Schema = g.garbled(n.string())
			case 1, 2:
				q.Schema = g.valid(n, 3).string()
			case 3:
				var schema *node
				q.References, schema = g.referring(n)
				q.Schema = schema.string()
			default:
				q.Schema = g.broken(n).string()
			}
			questions = append(questions, q)
		}
	}
	refused, lost, referring := 0, 0, 0
	for i, a := range o.agree(t, questions) {
		switch {
		case a.Error != "":
			refused++
		case a.Lost != "":
			lost++
		case len(questions[i].References) > 0:
			referring++
		}
	}
	t.Logf("%d schemas, %d refused, %d without a normal form of Confluent's to compare with, %d with references", len(questions), refused, lost, referring)
	if lost > len(questions)/5 || referring < len(questions)/50 {
		t.Error("too few normal forms or references compared")
	}
	if share := 100 * refused / len(questions); share < 20 || share > 80 {
		t.Errorf("%d %% of the schemas are refused", share)
	}
}

// What once made a difference, by name.
func casesWithOracle(t *testing.T, o *oracle) {
	text, err := os.ReadFile("testdata/avro/oracle.txt")
	if err != nil {
		t.Fatal(err)
	}
	cases := map[string]question{}
	for block := range strings.SplitSeq(strings.TrimRight(string(text), "\n"), "\n\n") {
		title, line, _ := strings.Cut(block, "\n")
		name, ok := strings.CutPrefix(title, "# ")
		var q question
		if !ok || json.Unmarshal([]byte(line), &q) != nil || cases[name].Op != "" {
			t.Fatalf("not a name and a question: %q", block)
		}
		cases[name] = q
	}
	for _, name := range slices.Sorted(maps.Keys(cases)) {
		t.Run(name, func(t *testing.T) { o.agree(t, []question{cases[name]}) })
	}
	var old []question
	for _, c := range canonicalCases(t) {
		old = append(old, question{Op: "parse", Schema: c[0]})
	}
	for _, c := range compatibilityCases(t) {
		old = append(old, question{Op: "compare", Reader: c[0], Writer: c[1]})
	}
	o.agree(t, old)
}
