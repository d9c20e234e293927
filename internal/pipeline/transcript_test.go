package pipeline

import (
	"encoding/json"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/linkedin/goavro/v2"

	"walferry/internal/testbed"
	"walferry/schema"
	"walferry/schema/registry"
	"walferry/source"
)

var update = flag.Bool("update", false, "write the transcripts' lower halves anew")

// A transcript is a file of testdata/transcripts: statements of SQL, and below a line the events that come of them and the
// schema versions that these were written under. Each runs in a schema of its own that is named after it.
type transcript struct {
	name, path string
	since      string // first version of Postgres that it is for; "" for any
	until      string // last one; "" for any
	told       bool   // it is for the event trigger only
	sql        string
	with       string // what comes with the event trigger
	without    string // what comes without it, read when all is over; "" for the same
}

const (
	below        = "\n----\n"
	belowWithout = "\n---- without the event trigger, read afterwards\n"
)

func transcripts(t *testing.T) []*transcript {
	t.Helper()
	files, err := filepath.Glob("../../testdata/transcripts/*.txt")
	if err != nil || len(files) == 0 {
		t.Fatalf("no transcripts: %v", err)
	}
	var all []*transcript
	for _, path := range files {
		b, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		tr := &transcript{name: strings.TrimSuffix(filepath.Base(path), ".txt"), path: path}
		rest := string(b)
		rest, tr.without, _ = strings.Cut(rest, belowWithout)
		tr.sql, tr.with, _ = strings.Cut(rest, below)
		tr.with += "\n"
		if tr.without == "" {
			tr.with = strings.TrimSuffix(tr.with, "\n")
		}
		for line := range strings.Lines(tr.sql) {
			if v, ok := strings.CutPrefix(line, "-- since "); ok {
				tr.since = strings.TrimSpace(v)
			}
			if v, ok := strings.CutPrefix(line, "-- until "); ok {
				tr.until = strings.TrimSpace(v)
			}
		}
		tr.told = strings.Contains(tr.sql, "-- with the event trigger only\n")
		all = append(all, tr)
	}
	return all
}

// TestTranscripts runs every transcript while the pipeline is stopped, so that the catalog which it finds is that of the end.
func TestTranscripts(t *testing.T) {
	all := transcripts(t)
	for _, version := range testbed.PostgresVersions() {
		pg := testbed.Postgres(t, version)
		broker := testbed.Kafka(t)
		for _, trigger := range []bool{false, true} {
			name := fmt.Sprintf("transcript%s%v", version, trigger)
			t.Run(name, func(t *testing.T) {
				if trigger {
					conn := pg.Connect(testbed.Superuser)
					if _, err := conn.PgConn().Exec(t.Context(), source.DDLTriggerSQL()).ReadAll(); err != nil {
						t.Fatal(err)
					}
				}
				b := newBed(t, pg, broker, name)
				pg.Exec(testbed.Owner, `CREATE PUBLICATION walferry_`+name+` WITH (publish_via_partition_root = true)`)
				r := b.start()
				r.first(t)
				r.drain(t)
				for _, tr := range all {
					if tr.isFor(version, trigger) {
						tr.play(t, pg, name)
					}
				}
				r = b.start()
				b.caughtUp(r)
				for _, tr := range all {
					if !tr.isFor(version, trigger) {
						continue
					}
					got := tr.events(t, b)
					want := tr.with
					if !trigger && tr.without != "" {
						want = tr.without
					}
					if got == want {
						continue
					}
					if *update {
						if trigger {
							tr.with = got
						} else {
							tr.without = got
						}
						continue
					}
					t.Errorf("%s gives\n%s\nwant\n%s", tr.name, got, want)
				}
				r.drain(t)
				for _, tr := range all {
					pg.Exec(testbed.Owner, `DROP SCHEMA IF EXISTS "`+tr.name+`" CASCADE`)
				}
				pg.Exec(testbed.Superuser, `SELECT pg_drop_replication_slot('walferry_`+name+`')`)
			})
		}
	}
	if *update {
		for _, tr := range all {
			s := tr.sql + below + strings.TrimSuffix(tr.with, "\n")
			if tr.without != "" && tr.without != tr.with {
				s += belowWithout + strings.TrimSuffix(tr.without, "\n")
			}
			if err := os.WriteFile(tr.path, []byte(s+"\n"), 0o600); err != nil {
				t.Fatal(err)
			}
		}
	}
}

// TestSchemasPage holds that docs/schemas.md speaks of every transcript, and of none that is not there.
func TestSchemasPage(t *testing.T) {
	const file = "../../docs/schemas.md"
	page, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	named := map[string]bool{}
	for _, m := range regexp.MustCompile("`([a-z0-9_]+)\\.txt`").FindAllStringSubmatch(string(page), -1) {
		named[m[1]] = true
	}
	for _, tr := range transcripts(t) {
		if !named[tr.name] {
			t.Errorf("%s does not speak of the transcript %s.txt", file, tr.name)
		}
		delete(named, tr.name)
	}
	for name := range named {
		t.Errorf("%s names the transcript %s.txt, which does not exist", file, name)
	}
}

func (tr *transcript) isFor(version string, trigger bool) bool {
	return (trigger || !tr.told) && version >= tr.since && (tr.until == "" || version <= tr.until)
}

// play runs the statements, one by one, as the owner.
func (tr *transcript) play(t *testing.T, pg *testbed.PG, pipeline string) {
	t.Helper()
	conn := pg.Connect(testbed.Owner)
	defer func() {
		if err := conn.Close(t.Context()); err != nil {
			t.Error(err)
		}
	}()
	must(t, conn, `CREATE SCHEMA "`+tr.name+`"`)
	must(t, conn, `SET search_path = "`+tr.name+`"`)
	for s := range strings.SplitSeq(strings.ReplaceAll(tr.sql, ":pub", "walferry_"+pipeline)+"\n", ";\n") {
		if s = strings.TrimSpace(s); s != "" {
			must(t, conn, s)
		}
	}
}

// events renders what was published of the transcript's schema, in the order of the WAL, and the schemas below.
func (tr *transcript) events(t *testing.T, b *bed) string {
	t.Helper()
	topics, err := b.plain().Metadata(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	prefix := b.name + "." + tr.name + "."
	type item struct {
		event
		table string
	}
	var items []item
	for _, topic := range topics {
		if table, ok := strings.CutPrefix(topic.Name, prefix); ok {
			for _, e := range b.topic(topic.Name) {
				items = append(items, item{e, table})
			}
		}
	}
	slices.SortStableFunc(items, func(x, y item) int { return x.place(t).compare(y.place(t)) })
	var out, schemas strings.Builder
	versions := map[string]map[string]int{}
	newest := map[string]string{}
	// version numbers the schemas of a subject as they are first used.
	version := func(subject string, wire []byte) string {
		avro := b.registry.text(t, wire)
		if versions[subject] == nil {
			versions[subject] = map[string]int{}
		}
		v := versions[subject][avro]
		if v == 0 {
			v = len(versions[subject]) + 1
			versions[subject][avro] = v
			fmt.Fprintf(&schemas, "%s v%d: %s%s\n", subject, v, describeAvro(t, avro), refusals(t, avro, newest[subject]))
			newest[subject] = avro
		}
		return fmt.Sprintf("v%d", v)
	}
	for _, e := range items {
		fmt.Fprintf(&out, "%s", e.table)
		if e.Key != nil {
			fmt.Fprintf(&out, " %s %s", version(e.table+" key", e.Key), b.registry.json(t, e.Key))
		}
		if e.Value == nil {
			out.WriteString(" tombstone\n")
			continue
		}
		var value struct {
			Op            string
			Before, After json.RawMessage
			Unavailable   []string
		}
		v := version(e.table, e.Value)
		if err := json.Unmarshal([]byte(b.registry.json(t, e.Value)), &value); err != nil {
			t.Fatal(err)
		}
		fmt.Fprintf(&out, " %s %s", v, value.Op)
		if value.Before != nil && string(value.Before) != "null" {
			fmt.Fprintf(&out, " before %s", value.Before)
		}
		if value.After != nil && string(value.After) != "null" {
			fmt.Fprintf(&out, " after %s", value.After)
		}
		if len(value.Unavailable) > 0 {
			fmt.Fprintf(&out, " unavailable %v", value.Unavailable)
		}
		out.WriteString("\n")
	}
	return out.String() + "\n" + schemas.String()
}

// refusals names the compatibility levels under which a registry refuses a schema after the one that its subject has.
func refusals(t testing.TB, avro, before string) string {
	t.Helper()
	if before == "" {
		return ""
	}
	var parsed [2]*registry.Schema
	for i, text := range []string{avro, before} {
		s, err := registry.ParseAvro(text)
		if err != nil {
			t.Fatal(err)
		}
		parsed[i] = s
	}
	var out []string
	if len(registry.Compare(parsed[0], parsed[1])) > 0 {
		out = append(out, "backward")
	}
	if len(registry.Compare(parsed[1], parsed[0])) > 0 {
		out = append(out, "forward")
	}
	if out == nil {
		return ""
	}
	return " (not " + strings.Join(out, " nor ") + ")"
}

// json is a value in plain JSON, fields sorted.
func (r *registrar) json(t testing.TB, b []byte) string {
	t.Helper()
	_, payload, err := schema.ParseWire(b)
	if err != nil {
		t.Fatal(err)
	}
	codec, err := goavro.NewCodecForStandardJSONFull(r.text(t, b))
	if err != nil {
		t.Fatal(err)
	}
	native, _, err := codec.NativeFromBinary(payload)
	if err != nil {
		t.Fatal(err)
	}
	text, err := codec.TextualFromNative(nil, native)
	if err != nil {
		t.Fatal(err)
	}
	var v any
	if err := json.Unmarshal(text, &v); err != nil {
		t.Fatal(err)
	}
	if text, err = json.Marshal(v); err != nil {
		t.Fatal(err)
	}
	return string(text)
}

// describeAvro lists the fields of a key, or of the row in an envelope: name, type, "?" for one that may be null, comment.
func describeAvro(t testing.TB, avro string) string {
	t.Helper()
	var record struct{ Fields []avroField }
	if err := json.Unmarshal([]byte(avro), &record); err != nil {
		t.Fatal(err)
	}
	fields := record.Fields
	if len(fields) > 0 && fields[0].Name == "before" {
		var union []json.RawMessage
		if err := json.Unmarshal(fields[0].Type, &union); err != nil {
			t.Fatal(err)
		}
		if err := json.Unmarshal(union[1], &record); err != nil {
			t.Fatal(err)
		}
		fields = record.Fields
	}
	var out []string
	for _, f := range fields {
		s := f.Name + " " + avroType(t, f.Type)
		if f.Doc != "" {
			s += fmt.Sprintf(" %q", f.Doc)
		}
		out = append(out, s)
	}
	return strings.Join(out, ", ")
}

type avroField struct {
	Name string
	Type json.RawMessage
	Doc  string
}

func avroType(t testing.TB, raw json.RawMessage) string {
	t.Helper()
	var union []json.RawMessage
	if json.Unmarshal(raw, &union) == nil {
		return avroType(t, union[1]) + "?"
	}
	var name string
	if json.Unmarshal(raw, &name) == nil {
		return name
	}
	var complex struct {
		Type        any
		LogicalType string
		Name        string
		Postgres    string `json:"postgres.type"`
		Labels      []string
		Precision   int
		Scale       int
		Items       json.RawMessage
		Fields      []avroField
	}
	if err := json.Unmarshal(raw, &complex); err != nil {
		t.Fatal(err)
	}
	switch {
	case complex.Items != nil:
		return avroType(t, complex.Items) + "[]"
	case complex.Labels != nil:
		return fmt.Sprintf("enum%v", complex.Labels)
	case complex.LogicalType == "decimal":
		return fmt.Sprintf("decimal(%d,%d)", complex.Precision, complex.Scale)
	case complex.LogicalType != "":
		return complex.LogicalType
	case complex.Fields != nil:
		var out []string
		for _, f := range complex.Fields {
			out = append(out, f.Name+" "+avroType(t, f.Type))
		}
		return "{" + strings.Join(out, ", ") + "}"
	case complex.Postgres != "":
		return fmt.Sprintf("%v(%s)", complex.Type, complex.Postgres)
	}
	return fmt.Sprint(complex.Type)
}
