package main

import (
	"bytes"
	"errors"
	"fmt"
	"net/http/httptest"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"walferry/checkpoint"
	"walferry/internal/config"
	"walferry/internal/kafka"
	"walferry/internal/testbed"
	"walferry/schema/registry"
	"walferry/schema/registry/registrytest"
	"walferry/source"
)

// A planCase is a file of testdata/plan. Its parts begin with a line "---- NAME":
//
//	(before the first)  SQL of what is there when the migration comes
//	settings            more of the configuration; the compatibility level of subjects is schema.compatibility
//	register            SQL that is run after the schemas have been registered
//	migration           what is planned
//	text, json, …       what walferry schema plan says with this format
//	text 14             what it says on Postgres 14, where that is something else
//
// A line "-- since 15" says which version of Postgres it needs.
type planCase struct {
	path, since string
	parts       []planPart
}

type planPart struct{ name, text string }

func (c *planCase) part(name string) (string, bool) {
	for _, p := range c.parts {
		if p.name == name {
			return p.text, true
		}
	}
	return "", false
}

func (c *planCase) set(name, text string) {
	for i := range c.parts {
		if c.parts[i].name == name {
			c.parts[i].text = text
			return
		}
	}
	c.parts = append(c.parts, planPart{name, text})
}

func (c *planCase) drop(name string) {
	c.parts = slices.DeleteFunc(c.parts, func(p planPart) bool { return p.name == name })
}

func (c *planCase) String() string {
	var b strings.Builder
	for _, p := range c.parts {
		if p.name != "" {
			b.WriteString("---- " + p.name + "\n")
		}
		b.WriteString(p.text)
	}
	return b.String()
}

func readPlanCase(t *testing.T, path string) *planCase {
	t.Helper()
	c := &planCase{path: path}
	name, text := "", ""
	for line := range strings.Lines(readFile(t, path)) {
		if next, ok := strings.CutPrefix(line, "---- "); ok {
			c.parts = append(c.parts, planPart{name, text})
			name, text = strings.TrimSpace(next), ""
			continue
		}
		if v, ok := strings.CutPrefix(line, "-- since "); ok {
			c.since = strings.TrimSpace(v)
		}
		text += line
	}
	c.parts = append(c.parts, planPart{name, text})
	return c
}

// planBed is a database with a registry that has the schemas of its tables.
type planBed struct {
	t      *testing.T
	config *config.Config
	store  *registry.Store
	dsn    string
}

const planSettings = `name: shop
source:
  dsn: %q
  tables: [public.*]
  publication: {name: shop}
kafka: {brokers: [%q]}
registry: {url: %q}
`

// newPlanBed makes the database of a case and registers what its tables look like.
func newPlanBed(t *testing.T, pg *testbed.PG, broker, name string, c *planCase) *planBed {
	t.Helper()
	super := pg.Connect(testbed.Superuser)
	if _, err := super.Exec(t.Context(), fmt.Sprintf("CREATE DATABASE %s OWNER %s", name, testbed.Owner)); err != nil {
		t.Fatal(err)
	}
	b := &planBed{t: t, dsn: pg.Server.DSN(name, testbed.Owner)}
	if err := testbed.Exec(t.Context(), pg.Server.DSN(name, testbed.Superuser), "ALTER SCHEMA public OWNER TO "+testbed.Owner); err != nil {
		t.Fatal(err)
	}
	sql, _ := c.part("")
	b.exec(sql)
	b.store = registry.NewStore(registrytest.NewTopic().Log(), nil)
	if err := b.store.Open(t.Context()); err != nil {
		t.Fatal(err)
	}
	server := httptest.NewServer(registry.NewServer(b.store, registry.ServerConfig{}))
	t.Cleanup(server.Close)
	text := fmt.Sprintf(planSettings, b.dsn, broker, server.URL)
	settings, _ := c.part("settings")
	if !strings.Contains(settings, "source:") {
		text += settings
	} else {
		text = strings.Replace(text, "  tables: [public.*]\n  publication: {name: shop}\n", strings.TrimPrefix(settings, "source:\n"), 1)
	}
	t.Setenv("WALFERRY_CONFIG", "")
	t.Setenv("WALFERRY_ADMIN_DSN", "")
	t.Chdir(t.TempDir())
	if err := os.WriteFile("walferry.yml", []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	var err error
	if b.config, err = config.LoadFile("walferry.yml"); err != nil {
		t.Fatal(err)
	}
	b.register()
	if sql, ok := c.part("register"); ok {
		b.exec(sql)
	}
	return b
}

func (b *planBed) exec(sql string) {
	b.t.Helper()
	for s := range strings.SplitSeq(sql, ";\n") {
		if s = strings.TrimSpace(s); s != "" {
			if err := testbed.Exec(b.t.Context(), b.dsn, s); err != nil {
				b.t.Fatal(err)
			}
		}
	}
}

// register does what the pipeline does at the first row of each table.
func (b *planBed) register() {
	b.t.Helper()
	sc, err := b.config.ForSource()
	if err != nil {
		b.t.Fatal(err)
	}
	cat, err := source.OpenCatalog(b.t.Context(), sc)
	if err != nil {
		b.t.Fatal(err)
	}
	defer cat.Close()
	r, err := cat.Rehearse(b.t.Context(), nil, source.RehearseOptions{})
	if err != nil {
		b.t.Fatal(err)
	}
	pl := &planner{config: b.config, topics: newTopics(b.config, new(checkpoint.State))}
	registrar := registry.NewRegistrar(b.store.API())
	for i := range r.Before.Tables {
		d := pl.derive(&r.Before.Tables[i])
		if d.err != nil {
			b.t.Fatal(d.err)
		}
		for subject, avro := range map[string]string{d.table.KeySubject: d.table.Key, d.table.ValueSubject: d.table.Value} {
			if avro == "" {
				continue
			}
			if _, err := registrar.Register(b.t.Context(), subject, avro, string(b.config.Compatibility(d.Schema, d.Name))); err != nil {
				b.t.Fatal(err)
			}
		}
	}
}

// plan runs the command on a migration.
func (b *planBed) plan(sql string, args ...string) string {
	b.t.Helper()
	if err := os.WriteFile("migration.sql", []byte(sql), 0o600); err != nil {
		b.t.Fatal(err)
	}
	var out, errs bytes.Buffer
	code := run(b.t.Context(), append([]string{"schema", "plan", "migration.sql"}, args...), strings.NewReader(""), &out, &errs)
	got := out.String()
	for line := range strings.Lines(errs.String()) {
		got += "! " + line
	}
	if code != 0 {
		got += fmt.Sprintf("[exit code %d]\n", code)
	}
	return got
}

// TestPlanTranscripts plans every migration of testdata/plan.
func TestPlanTranscripts(t *testing.T) {
	files, err := filepath.Glob("../../testdata/plan/*.txt")
	if err != nil || len(files) < 10 {
		t.Fatalf("%d migrations, %v", len(files), err)
	}
	broker := testbed.Kafka(t)
	for _, v := range []string{"18", "14"} {
		pg := testbed.Postgres(t, v)
		for _, file := range files {
			name := strings.TrimSuffix(filepath.Base(file), ".txt")
			c := readPlanCase(t, abs(t, file))
			if v < c.since {
				continue
			}
			t.Run(v+"/"+name, func(t *testing.T) {
				b := newPlanBed(t, pg, broker.Addr, name, c)
				migration, _ := c.part("migration")
				for _, p := range slices.Clone(c.parts) {
					format, args, _ := strings.Cut(p.name, " ")
					if !slices.Contains([]string{"text", "json", "markdown"}, format) || strings.HasSuffix(p.name, " 14") {
						continue
					}
					got := b.plan(migration, append(strings.Fields(args), "--format", format)...)
					want := p.text
					own, differs := c.part(p.name + " 14")
					if v == "14" && differs {
						want = own
					}
					switch {
					case got == want:
					case !*update:
						t.Errorf("%s says\n%s\nwant\n%s", p.name, got, want)
					case v == "14":
						c.set(p.name+" 14", got)
					default:
						c.set(p.name, got)
						c.drop(p.name + " 14")
					}
				}
				if *update {
					if err := os.WriteFile(abs(t, file), []byte(c.String()), 0o644); err != nil {
						t.Fatal(err)
					}
				}
			})
		}
	}
}

// TestPlanBesideRun: a plan on a database whose changes are being published leaves nothing behind in it, and nothing of it
// comes to the topics or the registry.
func TestPlanBesideRun(t *testing.T) {
	pg := testbed.Postgres(t, "18")
	broker := testbed.Kafka(t)
	pg.Exec(testbed.Owner, "CREATE TABLE orders (id int PRIMARY KEY, amount int)", "CREATE TABLE items (id int PRIMARY KEY)",
		"CREATE PUBLICATION walferry_planned FOR TABLE orders, items WITH (publish_via_partition_root = true)")
	if _, err := pg.Connect(testbed.Superuser).PgConn().Exec(t.Context(), source.DDLTriggerSQL()).ReadAll(); err != nil {
		t.Fatal(err)
	}
	b := &bench{t: t, file: filepath.Join(t.TempDir(), "walferry.yml")}
	address := freeAddr(t)
	b.configure(`
name: planned
source:
  dsn: %q
  tables: [public.*]
  publication: {name: walferry_planned}
  heartbeat: 1s
kafka:
  brokers: [%q]
  topic: {partitions: 1, replication_factor: 1}
schema: {changes_topic: planned.schema-changes}
registry: {listen: %q, topic: _schemas_planned}
backfill: none
admin: {listen: %q}
`, pg.DSN(testbed.Reader), broker.Addr, address, freeAddr(t))
	p := b.start("run")
	b.until(p, "status", "--readyz")
	pg.Exec(testbed.Owner, "INSERT INTO orders VALUES (1, 1), (2, 2)", "INSERT INTO items VALUES (1)")
	b.has(b.walferry(exitOK, "", "tail", "--from", "beginning", "-n", "3"), "id=2 amount=2")

	super := pg.Connect(testbed.Superuser)
	catalog := func() string {
		t.Helper()
		var s string
		if err := super.QueryRow(t.Context(), `SELECT concat_ws(E'\n', (SELECT string_agg(a::text, ' ' ORDER BY attrelid, attnum) FROM pg_attribute a WHERE attrelid >= 16384),
			(SELECT string_agg(c.oid || c.relname || c.relreplident::text, ' ' ORDER BY c.oid) FROM pg_class c WHERE c.oid >= 16384), (SELECT json_agg(o ORDER BY o) FROM orders o),
			(SELECT string_agg(p::text, ' ') FROM pg_publication_rel p), (SELECT string_agg(s.slot_name, ' ') FROM pg_replication_slots s),
			(SELECT count(*) FROM pg_prepared_xacts), (SELECT string_agg(datname, ' ' ORDER BY oid) FROM pg_database))`).Scan(&s); err != nil {
			t.Fatal(err)
		}
		return s
	}
	subjects := func() string { return b.walferry(exitOK, "", "schema", "list", "--format", "json") }
	wasCatalog, wasSubjects := catalog(), subjects()
	for _, migration := range []string{
		"ALTER TABLE orders ALTER amount TYPE text;\nUPDATE orders SET amount = 'x';\nINSERT INTO orders SELECT g, 'y' FROM generate_series(10, 2000) g;\n" +
			"COMMENT ON COLUMN orders.id IS 'z';\nDROP TABLE items;\nCREATE TABLE items (id int PRIMARY KEY, v text);\nTRUNCATE orders;\nNOTIFY a;\n" +
			"SELECT pg_logical_emit_message(true, 'walferry.context', '{}');\nCOMMIT;\nALTER PUBLICATION walferry_planned DROP TABLE orders;",
		"ALTER TABLE orders REPLICA IDENTITY NOTHING;\nDO $$ BEGIN INSERT INTO orders VALUES (3, 3); COMMIT; END $$;",
	} {
		text := b.walferry(exitCheck, migration, "schema", "plan", "-", "--admin-dsn", pg.DSN(testbed.Owner))
		b.has(text, "not run", "public.orders")
		if strings.Contains(text, "Kafka could not be asked") {
			t.Error(text)
		}
	}
	if now := catalog(); now != wasCatalog {
		t.Errorf("the catalog was\n%s\nand is\n%s", wasCatalog, now)
	}
	// A row that comes after the plans in the WAL is the next one in the topic.
	pg.Exec(testbed.Owner, "INSERT INTO orders VALUES (3, 3)", "INSERT INTO items VALUES (2)")
	text := b.walferry(exitOK, "", "tail", "--from", "beginning", "-n", "5", "--json")
	if got := strings.Count(text, "\n"); got != 5 || strings.Count(text, `"amount":3`) != 1 {
		t.Errorf("%d events:\n%s", got, text)
	}
	if code := b.stop(p); code != exitOK {
		t.Fatalf("run ended with %d:\n%s", code, p.errs)
	}
	client, err := kafka.New(kafka.Config{Brokers: []string{broker.Addr}})
	if err != nil {
		t.Fatal(err)
	}
	defer client.Close()
	for topic, want := range map[string]int{"planned.public.orders": 3, "planned.public.items": 2, "planned.schema-changes": 2} {
		n := 0
		end, err := client.EndOffset(t.Context(), topic, 0)
		if err != nil {
			t.Fatal(err)
		}
		if err := client.Replay(t.Context(), topic, 0, end-1, func(kafka.Record) error { n++; return nil }); err != nil {
			t.Fatal(err)
		}
		if n != want {
			t.Errorf("topic %s has %d records, want %d", topic, n, want)
		}
	}
	// Nobody serves the registry now: it is read in its topic, by schema list and by the plan.
	if now := subjects(); now != wasSubjects {
		t.Errorf("the registry had\n%s\nand has\n%s", wasSubjects, now)
	}
	b.has(b.walferry(exitCheck, "ALTER TABLE orders ALTER amount TYPE text", "schema", "plan", "-", "--admin-dsn", pg.DSN(testbed.Owner)), "incompatible under BACKWARD with version 1")
}

// TestPlanInScratch: the migration runs in a copy of the schema, where statements that no transaction takes run too, and
// the copy is gone afterwards.
func TestPlanInScratch(t *testing.T) {
	// The version of Debian's client programs, which the tests need anyway: pg_dump reads no server that is newer than it.
	pg := testbed.Postgres(t, "15")
	c := &planCase{parts: []planPart{{"", `CREATE TYPE state AS ENUM ('open');
CREATE TABLE orders (id int PRIMARY KEY, amount int, s state);
CREATE TABLE "it's" (id int PRIMARY KEY);
INSERT INTO orders VALUES (1, 1, 'open');
CREATE PUBLICATION shop FOR TABLE orders, "it's" WITH (publish_via_partition_root = true);
`}}}
	b := newPlanBed(t, pg, "127.0.0.1:1", "copied", c)
	databases := func() (n int) {
		t.Helper()
		if err := pg.Connect(testbed.Superuser).QueryRow(t.Context(), "SELECT count(*) FROM pg_database").Scan(&n); err != nil {
			t.Fatal(err)
		}
		return n
	}
	before := databases()
	scratch := []string{"--scratch", pg.Server.DSN("postgres", testbed.Superuser)}
	const migration = "BEGIN; ALTER TYPE state ADD VALUE 'paid'; COMMIT;\nALTER TABLE orders ALTER s SET DEFAULT 'paid';\nCREATE INDEX CONCURRENTLY x ON orders (amount);\n" +
		"VACUUM orders;\nSELECT 1/(SELECT count(*) FROM orders WHERE false IS NULL OR true);\n"
	text := b.plan(strings.Replace(migration, "SELECT 1/", "SELECT 1+", 1)+"ALTER TABLE orders ALTER amount TYPE text;\nCREATE ROLE somebody;", scratch...)
	has := func(text string, wants ...string) {
		t.Helper()
		for _, w := range wants {
			if !strings.Contains(text, w) {
				t.Errorf("no %q in\n%s", w, text)
			}
		}
	}
	has(text, "8 statements run in a scratch database, 1 not run", "CREATE ROLE somebody", "shop.public.orders-value: incompatible under BACKWARD with version 1", "~ amount: type int → string",
		"~ s: labels +paid", "ADD COLUMN amount_new text", "unchanged: public.it's", "Kafka could not be asked", "[exit code 9]")
	// There are no rows in it, and a statement that needs some says so.
	has(b.plan(migration, scratch...), "migration.sql:5", "division by zero", "scratch", "[exit code 3]")
	has(b.plan("SELECT 1", "--scratch", pg.Server.DSN("postgres", testbed.Reader)), "create the scratch database", "[exit code 3]")
	has(b.plan("SELECT 1", append(scratch, "--pg-dump", "no-such-program")...), "no-such-program", "[exit code 2]")
	if now := databases(); now != before {
		t.Errorf("there were %d databases, and are %d", before, now)
	}
	var columns int
	if err := pg.Connect(testbed.Superuser).QueryRow(t.Context(), "SELECT count(*) FROM pg_roles WHERE rolname = 'somebody'").Scan(&columns); err != nil || columns != 0 {
		t.Errorf("%d roles, %v", columns, err)
	}

	// In the database itself the same needs what a transaction does not have.
	has(b.plan(migration), "migration.sql:2", "unsafe use of new value", "--scratch", "[exit code 3]")
	// Files come in their order.
	for name, sql := range map[string]string{"1.sql": "ALTER TABLE orders ADD note int;", "2.sql": "ALTER TABLE orders\nDROP note,\nDROP missing;", "3.sql": "SELECT 1;\n\\i other.sql\n", "4.sql": "-- nothing"} {
		if err := os.WriteFile(name, []byte(sql), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	for args, wants := range map[string][]string{
		"1.sql -":                               {"1.sql, -: 1 statement", "+ note", "[exit code 0]"},
		"1.sql 2.sql":                           {"2.sql:1:", "does not exist", "[exit code 3]"},
		"2.sql 1.sql":                           {"2.sql:1:", `column "note"`, "[exit code 3]"},
		"3.sql":                                 {`3.sql:2: \i is a command of psql`, "[exit code 2]"},
		"4.sql":                                 {"there is no statement in it", "[exit code 2]"},
		"5.sql":                                 {"no such file", "[exit code 2]"},
		"1.sql 1.sql":                           {"given twice", "[exit code 2]"},
		"1.sql --lock-timeout 0":                {"above 0", "[exit code 2]"},
		"1.sql --format html":                   {"text, json or markdown", "[exit code 2]"},
		"1.sql --admin-dsn postgres://u@h:1/db": {"leads to database", "[exit code 2]"},
	} {
		var out bytes.Buffer
		code := run(t.Context(), append([]string{"schema", "plan"}, strings.Fields(args)...), strings.NewReader("-- from standard input\n;"), &out, &out)
		has(out.String()+fmt.Sprintf("[exit code %d]", code), wants...)
	}
}

func TestConnectionStrings(t *testing.T) {
	for in, want := range map[string][2]string{ // without the password, and on database d
		"postgres://u:p@h:1/x":                    {"postgres://u@h:1/x", "postgres://u:p@h:1/d"},
		"postgres://u@h/x?sslmode=disable":        {"postgres://u@h/x?sslmode=disable", "postgres://u@h/d?sslmode=disable"},
		"postgresql://h1:1,h2:2?password=p&a=b":   {"postgresql://h1:1,h2:2?a=b", "postgresql://h1:1,h2:2/d?a=b&password=p"},
		"postgres://u@h?dbname=x":                 {"postgres://u@h?dbname=x", "postgres://u@h/d"},
		"host=h user=u password='a b' dbname=x":   {"host=h user=u  dbname=x", "host=h user=u password='a b' dbname=x dbname=d"},
		"host=h sslpassword=secret password=p":    {"host=h", "host=h sslpassword=secret password=p dbname=d"},
		"postgres:///x?host=/tmp&password=secret": {"postgres:///x?host=/tmp", "postgres:///d?host=%2Ftmp&password=secret"},
	} {
		got, err := withoutPassword(in)
		if err != nil || strings.TrimSpace(got) != want[0] {
			t.Errorf("%s without its password: %s, %v", in, got, err)
		}
		if got, err := onDatabase(in, "d"); err != nil || got != want[1] {
			t.Errorf("%s on d: %s, %v", in, got, err)
		}
	}
	if got, err := withoutPassword("postgres://u:a?b@h/x"); err == nil {
		t.Errorf("%s", got)
	}
}

// TestCompatibilityTable tries every row of the table of docs/schemas.md under every level, on a server and a registry.
func TestCompatibilityTable(t *testing.T) {
	page := abs(t, "../../docs/schemas.md")
	text := readFile(t, page)
	section := text[strings.Index(text, "### Which DDL under which level"):]
	section = section[:strings.Index(section[4:], "\n### ")+4]
	_, sql, _ := strings.Cut(section, "```sql\n")
	sql, _, _ = strings.Cut(sql, "```\n")
	rows := regexp.MustCompile(`(?m)^\| (.+) \| (`+"`.+`"+`) \| ([a-z?]+) \| ([a-z?]+) \| ([a-z?]+) \| ([a-z?]+) \| ([a-z?]+) \| ([a-z?]+) \|$`).FindAllStringSubmatch(section, -1)
	if len(rows) < 25 {
		t.Fatalf("%d rows", len(rows))
	}
	header := regexp.MustCompile(`(?m)^\| change \| DDL \| (.+) \|$`).FindStringSubmatch(section)
	if header == nil {
		t.Fatal("no header")
	}
	var levels []registry.Level
	for name := range strings.SplitSeq(header[1], " | ") {
		level, ok := registry.ParseLevel(strings.ReplaceAll(name, " ", ""))
		if !ok {
			t.Fatalf("level %q", name)
		}
		levels = append(levels, level)
	}
	pg := testbed.Postgres(t, "18")
	c := &planCase{parts: []planPart{{"", sql + "CREATE PUBLICATION shop FOR TABLE item;\n"}}}
	b := newPlanBed(t, pg, "127.0.0.1:1", "levels", c)
	sc, err := b.config.ForSource()
	if err != nil {
		t.Fatal(err)
	}
	cat, err := source.OpenCatalog(t.Context(), sc)
	if err != nil {
		t.Fatal(err)
	}
	defer cat.Close()
	for _, row := range rows {
		own := *b.config
		if strings.Contains(row[1], "`schema.enum: enum`") {
			own.Schema.Enum = "enum"
		}
		pl := &planner{config: &own, topics: newTopics(&own, new(checkpoint.State))}
		var versions [][][2]string // of each step, subjects with their schemas
		add := func(s *source.Shape) {
			t.Helper()
			d := pl.derive(&s.Tables[0])
			if d.err != nil || len(s.Tables) != 1 {
				t.Fatalf("%s: %d tables, %v", row[1], len(s.Tables), d.err)
			}
			version := [][2]string{{d.table.ValueSubject, d.table.Value}}
			if d.table.Key != "" {
				version = append(version, [2]string{d.table.KeySubject, d.table.Key})
			}
			versions = append(versions, version)
		}
		var steps []source.Step
		for _, m := range regexp.MustCompile("`([^`]+)`").FindAllStringSubmatch(row[2], -1) {
			steps = append(steps, source.Step{SQL: m[1]})
			r, err := cat.Rehearse(t.Context(), steps, source.RehearseOptions{StatementTimeout: 5 * time.Minute, LockTimeout: 5 * time.Minute})
			if err != nil || len(r.Refused) > 0 {
				t.Fatalf("%s: %v %v", m[1], err, r)
			}
			if versions == nil {
				add(r.Before)
			}
			add(r.After)
		}
		line := fmt.Sprintf("| %s | %s |", row[1], row[2])
		for _, level := range append(slices.Clone(levels), registry.None) {
			store := registry.NewStore(registrytest.NewTopic().Log(), nil)
			if err := store.Open(t.Context()); err != nil {
				t.Fatal(err)
			}
			answer := "yes"
			for i, version := range versions {
				for _, v := range version {
					if err := store.SetLevel(t.Context(), v[0], level); err != nil {
						t.Fatal(err)
					}
					_, err := store.Register(t.Context(), v[0], registry.Request{Schema: v[1], Force: i < len(versions)-1})
					var incompatible *registry.IncompatibleError
					switch {
					case errors.As(err, &incompatible):
						answer = "no"
					case err != nil:
						t.Fatal(err)
					}
				}
			}
			if level == registry.None {
				if answer != "yes" {
					t.Errorf("%s: refused under NONE", row[2])
				}
				continue
			}
			line += " " + answer + " |"
		}
		if line != row[0] {
			if !*update {
				t.Errorf("the page says\n%s\nand it is\n%s", row[0], line)
			}
			text = strings.Replace(text, row[0], line, 1)
		}
	}
	if *update {
		if err := os.WriteFile(page, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
}
