package main

import (
	"bytes"
	"fmt"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"walferry/checkpoint"
	"walferry/internal/config"
	"walferry/internal/pipeline"
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
	pl := &planner{config: b.config, topics: pipeline.NewTopics(&pipeline.Config{TopicSpec: b.config.TopicSpec}, new(checkpoint.State))}
	registrar := registry.NewRegistrar(b.store.API(), registry.Level(strings.ToUpper(b.config.Schema.Compatibility)))
	for i := range r.Before.Tables {
		d := pl.derive(&r.Before.Tables[i])
		if d.err != nil {
			b.t.Fatal(d.err)
		}
		for subject, avro := range map[string]string{d.table.KeySubject: d.table.Key, d.table.ValueSubject: d.table.Value} {
			if avro == "" {
				continue
			}
			if _, err := registrar.Register(b.t.Context(), subject, avro); err != nil {
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
			t.Run(v+"/"+name, func(t *testing.T) {
				c := readPlanCase(t, abs(t, file))
				if v < c.since {
					t.Skip("of Postgres " + c.since)
				}
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
