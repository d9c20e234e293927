package main

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"walferry/internal/testbed"
	"walferry/schema/registry"
	"walferry/schema/registry/registrytest"
)

// TestSchemaTranscripts runs the command lines of testdata/cmd/schema/*.txt against a registry. A file begins with what
// is done to the registry, a line each:
//
//	SUBJECT {"type":…}      registers a version; whatever the level says
//	level SUBJECT LEVEL     sets the level of a subject
//	delete SUBJECT VERSION  deletes a version, but not for good
//	json SUBJECT {"type":…} registers a version that is JSON Schema
//	file NAME text          writes a file
//	settings NAME text      writes walferry.yml with more in it
//
// The rest is as in TestTranscripts.
func TestSchemaTranscripts(t *testing.T) {
	files, err := filepath.Glob("../../testdata/cmd/schema/*.txt")
	if err != nil || len(files) < 4 {
		t.Fatalf("%d transcripts, %v", len(files), err)
	}
	for _, file := range files {
		t.Run(strings.TrimSuffix(filepath.Base(file), ".txt"), func(t *testing.T) {
			text := readFile(t, file)
			at := strings.Index(text, "\n$ ") + 1
			if at < 1 {
				t.Fatal("no command")
			}
			store := registry.NewStore(registrytest.NewTopic().Log(), nil)
			if err := store.Open(t.Context()); err != nil {
				t.Fatal(err)
			}
			server := httptest.NewServer(registry.NewServer(store, registry.ServerConfig{}))
			t.Cleanup(server.Close)
			t.Setenv("WALFERRY_CONFIG", "")
			t.Chdir(t.TempDir())
			write := func(name, text string) {
				if err := os.WriteFile(name, []byte(text), 0o600); err != nil {
					t.Fatal(err)
				}
			}
			settings := "name: shop\nsource: {dsn: 'postgres://x@127.0.0.1:1/x', all_tables: true}\nkafka: {brokers: ['127.0.0.1:1']}\n" +
				"registry: {url: " + strconv.Quote(server.URL) + "}\n"
			write("walferry.yml", settings)
			for line := range strings.Lines(text[:at]) {
				if line = strings.TrimSpace(line); line == "" || strings.HasPrefix(line, "#") {
					continue
				}
				verb, rest, _ := strings.Cut(line, " ")
				first, second, _ := strings.Cut(rest, " ")
				switch verb {
				case "level":
					err = store.SetLevel(t.Context(), first, registry.Level(second))
				case "delete":
					_, err = store.DeleteVersion(t.Context(), first, second, false)
				case "json":
					_, err = store.Register(t.Context(), first, registry.Request{Schema: second, Type: registry.TypeJSON, Force: true})
				case "file":
					write(first, second)
				case "settings":
					write(first, settings+second+"\n")
				default:
					_, err = store.Register(t.Context(), verb, registry.Request{Schema: rest, Force: true})
				}
				if err != nil {
					t.Fatalf("%s: %v", line, err)
				}
			}
			got := text[:at]
			for line := range strings.Lines(text[at:]) {
				command, ok := strings.CutPrefix(strings.TrimRight(line, "\n"), "$ walferry ")
				if !ok {
					continue
				}
				var out, errs bytes.Buffer
				ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
				code := run(ctx, strings.Fields(command), strings.NewReader(""), &out, &errs)
				cancel()
				got += line + strings.ReplaceAll(out.String(), "\x1b", "␛")
				for line := range strings.Lines(errs.String()) {
					got += "! " + line
				}
				if code != 0 {
					got += fmt.Sprintf("[exit code %d]\n", code)
				}
				got += "\n"
			}
			got = strings.TrimSuffix(got, "\n")
			if *update {
				if err := os.WriteFile(abs(t, file), []byte(got), 0o644); err != nil {
					t.Fatal(err)
				}
			} else if got != text {
				t.Errorf("got\n%s\nwant\n%s", got, text)
			}
		})
	}
}

// wideTable has a column of every type that a CREATE TABLE out of a schema gets back; what it loses is in schema_sql.go.
const wideTable = `CREATE TABLE %[1]s.orders (id int PRIMARY KEY, b bool, i2 int2, i8 int8, f4 float4, f8 float8, amount numeric(12,2), n numeric,
	m money, t text, j jsonb, x xml, by bytea, u uuid, d date, ti time, tz timetz, ts timestamp, tsz timestamptz, iv interval, vb varbit, ip inet,
	r int4range, mr int4multirange, mood %[1]s.mood, moods %[1]s.mood[], home %[1]s.address, tags text[], "odd name" int, po point, tv tsvector)`

const wideRow = `INSERT INTO %s.orders VALUES (%d, true, -1, 9007199254740993, 'NaN', '-Infinity', -1.28, 1e30, 12.5, 'it''s', '{"a": 1}', '<a/>', '\x00ff',
	'a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11', '%s', '24:00', '12:00+02', '%s', '%s', '1 day', B'101', '10.0.0.1/8', '[1,5)', '{[1,2)}', 'ok',
	'{sad,NULL}', ROW('Berlin', 10115), '{a,NULL}', 7, '(1,2)', 'a fat cat'%s)`

// TestSchemaCommands reads what a pipeline has registered, while it runs and after: two versions of a table's schema. The
// JSON Schema holds the rows that tail prints, the SQL makes a table with the same schema, and the AsyncAPI document is valid.
func TestSchemaCommands(t *testing.T) {
	pg := testbed.Postgres(t, "")
	broker := testbed.Kafka(t)
	create := func(in string) []string {
		return []string{"CREATE TYPE " + in + ".mood AS ENUM ('sad', 'ok')", "CREATE TYPE " + in + ".address AS (city text, zip int)", fmt.Sprintf(wideTable, in)}
	}
	pg.Exec(testbed.Owner, create("public")...)
	pg.Exec(testbed.Superuser, "CREATE SCHEMA copy", "GRANT ALL ON SCHEMA copy TO PUBLIC", "CREATE PUBLICATION walferry_people FOR ALL TABLES WITH (publish_via_partition_root = true)")
	b := &bench{t: t, file: filepath.Join(t.TempDir(), "walferry.yml")}
	const settings = `
name: people
source:
  dsn: %q
  all_tables: true
  publication: {create: false}
  heartbeat: 1s
kafka:
  brokers: [%q]
  topic: {partitions: 3, replication_factor: 1, config: {retention.ms: "86400000"}}
schema: {changes_topic: people.schema-changes, subject: %s}
registry: {listen: %q, topic: _schemas_people}
backfill: none
admin: {listen: %q}
`
	listen, admin := freeAddr(t), freeAddr(t)
	b.configure(settings, pg.DSN(testbed.Reader), broker.Addr, "topic", listen, admin)
	p := b.start("run")
	b.until(p, "status", "--readyz")
	insert := func(in string, id int, day, ts, more string) string {
		return fmt.Sprintf(wideRow, in, id, day, ts, ts, more)
	}
	pg.Exec(testbed.Owner, insert("public", 1, "infinity", "-infinity", ""))
	b.until(p, "tail", "public.orders", "--from", "beginning", "-n", "1")
	pg.Exec(testbed.Owner, "COMMENT ON TABLE orders IS 'What was ordered'", "COMMENT ON COLUMN orders.amount IS 'in euros'",
		"ALTER TABLE orders ADD status text", insert("public", 2, "0044-03-15 BC", "294246-12-31 23:59:59.999999", ", 'new'"),
		insert("public", 3, "2024-02-29", "2024-02-29 12:34:56.789", ", NULL"), "DELETE FROM orders WHERE id = 1")
	rows := b.walferry(exitOK, "", "tail", "public.orders", "--from", "beginning", "-n", "5", "--json")

	b.has(b.walferry(exitOK, "", "schema", "versions", "public.orders"), "1        2   first", "~doc ~amount +status")
	b.has(b.walferry(exitOK, "", "schema", "diff", "public.orders"), "people.public.orders.Value (before, after)\n", `~ comment "What was ordered"`,
		`~ amount: comment "in euros"`, "+ status: string or null, default null", "\nbackward compatible", "\nforward compatible")

	// The rows are as the JSON Schema says, each by the version that it was written under.
	var documents []document
	shown := map[int32]json.RawMessage{}
	for version, id := range []int32{2, 3} {
		shown[id] = json.RawMessage(b.walferry(exitOK, "", "schema", "show", "public.orders", strconv.Itoa(version+1), "--as", "json-schema"))
	}
	for line := range strings.Lines(rows) {
		var e struct {
			Offset   int64           `json:"offset"`
			SchemaID int32           `json:"schema_id"`
			Value    json.RawMessage `json:"value"`
		}
		if err := json.Unmarshal([]byte(line), &e); err != nil {
			t.Fatal(err)
		}
		if string(e.Value) == "null" {
			continue // the tombstone
		}
		if shown[e.SchemaID] == nil {
			t.Fatalf("a row of schema %d: %s", e.SchemaID, line)
		}
		documents = append(documents, document{fmt.Sprintf("row at %d", e.Offset), shown[e.SchemaID], e.Value},
			document{fmt.Sprintf("broken row at %d", e.Offset), shown[e.SchemaID], json.RawMessage(strings.Replace(string(e.Value), `{"id":`, `{"number":`, 1))})
	}
	if len(documents) != 8 {
		t.Fatalf("%d documents out of\n%s", len(documents), rows)
	}

	// The SQL makes a table of which the same schema is derived.
	sql := strings.ReplaceAll(b.walferry(exitOK, "", "schema", "show", "public.orders", "--as", "sql"), "public.", "copy.")
	pg.Exec(testbed.Owner, sql, insert("copy", 1, "2024-02-29", "2024-02-29", ", 'new'"))
	b.until(p, "tail", "copy.orders", "--from", "beginning", "-n", "1")
	for _, kind := range []string{"key", "value"} {
		public := b.walferry(exitOK, "", "schema", "show", "people.public.orders-"+kind)
		copied := strings.ReplaceAll(b.walferry(exitOK, "", "schema", "show", "people.copy.orders-"+kind), "copy.", "public.")
		if d, err := registry.DiffText(public, copied); err != nil || len(d) > 0 {
			t.Errorf("%v: after\n%s\nthe %s is another:\n%s", err, sql, kind, registry.FormatDiff(d, nil))
		}
	}

	list := b.walferry(exitOK, "", "schema", "list", "--format", "json")
	asyncapi := b.walferry(exitOK, "", "asyncapi", "--format", "json")
	b.has(asyncapi, `"description": "What was ordered\n\n- `+"`amount`"+`: in euros"`, `"partitions": 3`, `"replicas": 1`, `"retention.ms": 86400000`,
		`"people.copy.orders"`, `"people.public.orders.tombstone"`)
	sameYAML(t, b.walferry(exitOK, "", "asyncapi"), []byte(asyncapi))
	b.has(b.walferry(exitOK, "", "asyncapi", "--no-database", "--no-kafka", "--format", "json"), `"description": "What was ordered\n\n- `+"`amount`"+`: in euros"`)
	documents = append(documents, document{"asyncapi", json.RawMessage(asyncAPISchema), json.RawMessage(asyncapi)})

	changes, err := marshal(changeSchema())
	if err != nil {
		t.Fatal(err)
	}
	for i, r := range readAll(t, broker.Addr, "people.schema-changes") {
		documents = append(documents, document{fmt.Sprintf("change %d", i), changes, r.Value},
			document{fmt.Sprintf("broken change %d", i), changes, json.RawMessage(strings.Replace(string(r.Value), `"value_id":`, `"id":`, 1))})
	}
	if len(documents) != 8+1+6 {
		t.Errorf("%d documents", len(documents))
	}

	// Nobody serves the registry now; its topic is still there, and says the same.
	if code := b.stop(p); code != exitOK {
		t.Fatalf("run ended with %d:\n%s", code, p.errs)
	}
	if again := b.walferry(exitOK, "", "schema", "list", "--format", "json"); again != list {
		t.Errorf("out of the topic\n%s\nserved\n%s", again, list)
	}
	b.has(b.walferry(exitOK, "", "schema", "diff", "public.orders", "1", "2"), "+ status: string or null")
	file := filepath.Join(t.TempDir(), "next.avsc")
	next := strings.Replace(b.walferry(exitOK, "", "schema", "show", "public.orders"), `"name": "i8"`, `"name": "renamed"`, 1)
	if err := os.WriteFile(file, []byte(next), 0o600); err != nil {
		t.Fatal(err)
	}
	b.has(b.walferry(exitOK, "", "schema", "check", "public.orders", file), "people.public.orders-value would take it (BACKWARD)")
	if err := os.WriteFile(file, []byte(strings.Replace(next, `"name": "id",`, `"name": "number",`, 1)), 0o600); err != nil {
		t.Fatal(err)
	}
	b.has(b.walferry(exitCheck, "", "schema", "check", "public.orders", file), "would not take it (BACKWARD)",
		"before.number, after.number: READER_FIELD_MISSING_DEFAULT_VALUE number")

	// Under another strategy the same tables have the same document, and the commands find them.
	b.configure(settings, pg.DSN(testbed.Reader), broker.Addr, "record", listen, admin)
	p = b.start("run")
	b.until(p, "status", "--readyz")
	pg.Exec(testbed.Owner, "DELETE FROM orders", "DELETE FROM copy.orders")
	b.until(p, "schema", "show", "people.public.orders.Envelope")
	b.until(p, "schema", "show", "people.copy.orders.Envelope")
	for _, args := range [][]string{{"asyncapi", "--format", "json"}, {"asyncapi", "--format", "json", "--no-database"}} {
		got := b.walferry(exitOK, "", args...)
		if len(args) > 3 { // comments come from the schemas then
			b.has(got, `"people.copy.orders"`, `"people.public.orders.tombstone"`, `"partitions": 3`)
		} else if got != asyncapi {
			t.Errorf("under another strategy the document is\n%s\nand was\n%s", got, asyncapi)
		}
	}
	b.has(b.walferry(exitConfig, "", "asyncapi", "--no-database", "--no-kafka"), "schema.subject is record, so that subjects do not name their topics")
	if again := strings.ReplaceAll(b.walferry(exitOK, "", "schema", "show", "public.orders", "--as", "sql"), "public.", "copy."); !strings.Contains(again, "PRIMARY KEY (id)") {
		t.Errorf("of a subject by its record:\n%s", again)
	}
	b.has(b.walferry(exitOK, "", "check"), "the levels of 4 subjects are those of the configuration")

	for i, said := range validate(t, documents) {
		if (said == "valid") == strings.HasPrefix(documents[i].Name, "broken") {
			t.Errorf("%s: %s\n%s", documents[i].Name, said, documents[i].Value)
		}
	}
}
