package pipeline

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"reflect"
	"regexp"
	"slices"
	"strings"
	"sync/atomic"
	"testing"

	"walferry/internal/testbed"
	"walferry/schema/registry"
	"walferry/schema/registry/registrytest"
	"walferry/sink"
	"walferry/source"
)

// real is our registry, whose schemas the bed can read.
type real struct {
	*registry.Registrar
	seen *registrar
}

func (r *real) Register(ctx context.Context, subject, avro, level string) (int32, error) {
	id, err := r.Registrar.Register(ctx, subject, avro, level)
	return r.note(id, avro, err)
}

func (r *real) Force(ctx context.Context, subject, avro string, ledger registry.Ledger) (int32, error) {
	id, err := r.Registrar.Force(ctx, subject, avro, ledger)
	return r.note(id, avro, err)
}

func (r *real) note(id int32, avro string, err error) (int32, error) {
	if err == nil {
		r.seen.mu.Lock()
		defer r.seen.mu.Unlock()
		if r.seen.avr == nil {
			r.seen.avr = map[int32]string{}
		}
		r.seen.avr[id] = avro
	}
	return id, err
}

// withRegistry gives the bed our registry.
func (b *bed) withRegistry() *registry.Store {
	store := registry.NewStore(registrytest.NewTopic().Log(), nil)
	if err := store.Open(b.t.Context()); err != nil {
		b.t.Fatal(err)
	}
	b.register = &real{registry.NewRegistrar(store.API()), b.registry}
	return store
}

// rows are the events of a topic in short, in the order of the WAL: op, id, v.
func (b *bed) rows(topic string) string {
	b.t.Helper()
	events := b.topic(b.name + ".public." + topic)
	slices.SortStableFunc(events, func(x, y event) int { return x.place(b.t).compare(y.place(b.t)) })
	var out []string
	ids := map[string]bool{}
	for _, e := range events {
		if ids[e.header("id")] {
			b.t.Errorf("%s: id %s comes twice", topic, e.header("id"))
		}
		ids[e.header("id")] = true
		switch {
		case e.value == nil:
			out = append(out, "-")
		case e.value["op"] == "d":
			out = append(out, fmt.Sprint("d", e.at("before", "id")))
		case e.value["op"] == "t":
			out = append(out, "t")
		default:
			out = append(out, fmt.Sprint(e.value["op"], e.at("after", "id"), "=", e.at("after", "v")))
		}
	}
	return strings.Join(out, " ")
}

func (b *bed) wantRows(topic, want string) {
	b.t.Helper()
	if got := b.rows(topic); got != want {
		b.t.Errorf("topic %s has %s, want %s", topic, got, want)
	}
}

// changes are the records of the topic of schema changes, in short: table, and the versions before and after.
func (b *bed) changes() []string {
	b.t.Helper()
	var out []string
	ids := map[string]bool{}
	for _, e := range b.records("changes." + b.name) {
		var c schemaChange
		if err := json.Unmarshal(e.Value, &c); err != nil {
			b.t.Fatal(err)
		}
		id := e.header("id")
		if ids[id] || id == "" || string(e.Key) != c.Schema+"."+c.Table || c.After.ValueID == 0 || c.After.KeyID == 0 || c.CommitLSN == "" || c.LSN == "" || c.XID == 0 {
			b.t.Errorf("key %s, id %s, value %s", e.Key, id, e.Value)
		}
		ids[id] = true
		out = append(out, c.Table+": "+c.Before.short(b.name)+" > "+c.After.short(b.name))
	}
	return out
}

func (v *tableVersion) short(prefix string) string {
	if v == nil {
		return "nothing"
	}
	var columns []string
	for _, c := range v.Columns {
		columns = append(columns, c.Name+" "+c.Type)
	}
	return strings.TrimPrefix(v.Topic, prefix+".public.") + "(" + strings.Join(columns, ", ") + ")"
}

func (b *bed) wantChanges(want ...string) {
	b.t.Helper()
	if got := b.changes(); !slices.Equal(got, want) {
		b.t.Errorf("changes\n%s\nwant\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
}

// TestChangesPage holds the tables of docs/events.md to what is written into the topic of schema changes.
func TestChangesPage(t *testing.T) {
	page, err := os.ReadFile("../../docs/events.md")
	if err != nil {
		t.Fatal(err)
	}
	_, section, ok := strings.Cut(string(page), "\n## The topic of schema changes\n")
	if !ok {
		t.Fatal("no such section")
	}
	section, _, _ = strings.Cut(section, "\n## ")
	var got, want []string
	for _, m := range regexp.MustCompile("(?m)^\\| `([^`]+)`").FindAllStringSubmatch(section, -1) {
		got = append(got, m[1])
	}
	fields := func(v any, kept func(name string)) {
		for _, f := range reflect.VisibleFields(reflect.TypeOf(v)) {
			if name, _, _ := strings.Cut(f.Tag.Get("json"), ","); name != "" {
				kept(name)
			}
		}
	}
	add := func(name string) { want = append(want, name) }
	fields(schemaChange{}, add)
	fields(tableVersion{}, add)
	if !slices.Equal(got, want) {
		t.Errorf("the page lists %q, want %q", got, want)
	}
	fields(columnVersion{}, func(name string) {
		if !strings.Contains(section, "`"+name+"`") {
			t.Errorf("the page does not name %s of a column", name)
		}
	})
}

// TestIncompatible takes three tables through a change that their registry refuses: one stops the stream, one is forced, and one
// goes on in another topic, over kills and restarts, a second such change, and a table of the same name that is made anew. It is the
// same where the event trigger tells of each change.
func TestIncompatible(t *testing.T) {
	for _, trigger := range []bool{false, true} {
		t.Run(fmt.Sprintf("trigger %t", trigger), func(t *testing.T) { testIncompatible(t, trigger) })
	}
}

func testIncompatible(t *testing.T, trigger bool) {
	pg := testbed.Postgres(t, "")
	name := map[bool]string{false: "incompatible", true: "incompatibletold"}[trigger]
	if trigger {
		if _, err := pg.Connect(testbed.Superuser).PgConn().Exec(t.Context(), source.DDLTriggerSQL()).ReadAll(); err != nil {
			t.Fatal(err)
		}
	}
	b := newBed(t, pg, testbed.Kafka(t), name)
	store := b.withRegistry()
	policies := map[string]string{"forced": incompatibleForce, "moved": incompatibleNewTopic}
	b.adjust = func(c *Config) {
		c.OnIncompatible = func(_, table string) string { return policies[table] }
		c.Changes = sink.TopicSpec{Name: "changes." + b.name, Partitions: 1, ReplicationFactor: 1, CleanupPolicy: "delete"}
	}
	for _, table := range []string{"forced", "moved", "stopped"} {
		pg.Exec(testbed.Owner, `CREATE TABLE `+table+` (id int PRIMARY KEY, v text)`)
	}
	b.publish("forced, moved, stopped")
	r := b.start()
	r.first(t)
	pg.Exec(testbed.Owner, `BEGIN; INSERT INTO forced VALUES (1, 'a'); INSERT INTO moved VALUES (1, 'a'); INSERT INTO stopped VALUES (1, 'a'); COMMIT`)
	b.caughtUp(r)
	changes := []string{
		"forced: nothing > forced(id int4, v text)", "moved: nothing > moved(id int4, v text)", "stopped: nothing > stopped(id int4, v text)",
	}
	b.wantChanges(changes...)

	// Killed before and after the commit of the transaction that moves the table: rows before the change are in the old topic,
	// rows after it in the new one, each once.
	r.kill(t)
	for n, place := range []string{"before-publish", "after-commit"} {
		r, arm := b.armed(place, 1)
		r.commit(t, 1)
		arm()
		if n == 0 {
			pg.Exec(testbed.Owner, `BEGIN; INSERT INTO moved VALUES (2, 'b'); ALTER TABLE moved ALTER v TYPE int USING 7; INSERT INTO moved VALUES (3, 3); COMMIT`)
		} else {
			pg.Exec(testbed.Owner, `BEGIN; UPDATE moved SET v = 4 WHERE id = 3; UPDATE moved SET id = 5 WHERE id = 1; DELETE FROM moved WHERE id = 5; TRUNCATE moved; COMMIT`)
		}
		r.killed(t)
	}
	r = b.start()
	b.caughtUp(r)
	b.wantRows("moved", "c1=a c2=b")
	const second = "c3=3 u3=4 d1 - c5=7 d5 - t t t"
	b.wantRows("moved.v2", second)
	changes = append(changes, "moved: moved(id int4, v text) > moved.v2(id int4, v int4)")
	b.wantChanges(changes...)
	if n := r.Health().Totals.Incompatible[incompatibleNewTopic]; n != 0 {
		t.Errorf("%d moves after a restart, want the one that was saved", n)
	}

	// Versions that are compatible stay there; the next one that is not goes on in a third topic, and so does a table of the same
	// name that is made anew.
	pg.Exec(testbed.Owner, `ALTER TABLE moved ADD COLUMN w int`, `INSERT INTO moved VALUES (1, 1, 1)`,
		`ALTER TABLE moved ALTER v TYPE boolean USING true`, `INSERT INTO moved VALUES (2, true, 2)`,
		`DROP TABLE moved`, `CREATE TABLE moved (id int PRIMARY KEY, v boolean)`, `ALTER PUBLICATION walferry_`+name+` ADD TABLE moved`, `INSERT INTO moved VALUES (3, false)`)
	b.caughtUp(r)
	b.wantRows("moved", "c1=a c2=b")
	b.wantRows("moved.v2", second+" c1=1")
	b.wantRows("moved.v3", "c2=true c3=false")
	if n := r.Health().Totals.Incompatible[incompatibleNewTopic]; n != 1 {
		t.Errorf("%d moves, want 1", n)
	}
	changes = append(changes, "moved: moved.v2(id int4, v int4) > moved.v2(id int4, v int4, w int4)", "moved: moved.v2(id int4, v int4, w int4) > moved.v3(id int4, v bool, w int4)",
		"moved: nothing > moved.v3(id int4, v bool)")
	b.wantChanges(changes...)

	// Forced: a second version of the same subject, whose level is what it was.
	pg.Exec(testbed.Owner, `ALTER TABLE forced ALTER v TYPE int USING 1`, `INSERT INTO forced VALUES (2, 2)`)
	b.caughtUp(r)
	b.wantRows("forced", "c1=a c2=2")
	subject := b.name + ".public.forced-value"
	if level, own := store.Level(subject); level != registry.Backward || !own || len(store.Versions(subject)) != 2 {
		t.Errorf("level %s, own %v, versions %v", level, own, store.Versions(subject))
	}
	if n := r.Health().Totals.Incompatible[incompatibleForce]; n != 1 {
		t.Errorf("%d forced, want 1", n)
	}
	changes = append(changes, "forced: forced(id int4, v text) > forced(id int4, v int4)")

	// Stop: what is before it is published, nothing of its transaction is, and the error has all that a person needs.
	pg.Exec(testbed.Owner, `INSERT INTO stopped VALUES (2, 'b')`,
		`BEGIN; INSERT INTO forced VALUES (3, 3); ALTER TABLE forced ADD w int; INSERT INTO forced VALUES (4, 4, 4); ALTER TABLE stopped ALTER v TYPE int USING 1; INSERT INTO stopped VALUES (3, 3); COMMIT`)
	err := r.ended(t)
	var refused *RefusedSchemaError
	if !errors.As(err, &refused) {
		t.Fatalf("ended with %v", err)
	}
	for _, part := range []string{"public.stopped", name + ".public.stopped-value", "field before.v: MISSING_UNION_BRANCH", "field after.v: MISSING_UNION_BRANCH reader union lacking writer type: STRING", "(at /fields/1/type/1)"} {
		if !strings.Contains(err.Error(), part) {
			t.Errorf("%q has no %q", err, part)
		}
	}
	for _, part := range []string{"`new-topic`", "`force`", "schema.tables", "PUT /config/" + name + ".public.stopped-value"} {
		if !strings.Contains(refused.Hint(), part) {
			t.Errorf("%q has no %q", refused.Hint(), part)
		}
	}
	b.wantRows("stopped", "c1=a c2=b")
	b.wantRows("forced", "c1=a c2=2")
	b.wantChanges(changes...)
	policies["stopped"] = incompatibleNewTopic
	r = b.start()
	b.caughtUp(r)
	b.wantRows("stopped", "c1=a c2=b")
	b.wantRows("stopped.v2", "c3=3")
	b.wantRows("forced", "c1=a c2=2 c3=3 c4=4")
	changes = append(changes, "forced: forced(id int4, v int4) > forced(id int4, v int4, w int4)", "stopped: stopped(id int4, v text) > stopped.v2(id int4, v int4)")
	b.wantChanges(changes...)
	r.drain(t)
}

// TestForceKilled ends a pipeline, at an older registry, at every place between the saving of a subject's level and its
// restoring, the registry being out of reach from there on. The next one restores it.
func TestForceKilled(t *testing.T) {
	pg := testbed.Postgres(t, "")
	b := newBed(t, pg, testbed.Kafka(t), "forcekilled")
	store := b.withRegistry()
	const plenty = 1 << 30
	var left atomic.Int64 // requests that the registry still answers
	left.Store(plenty)
	inner := registry.NewServer(store, registry.ServerConfig{})
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
		if left.Add(-1) < 0 {
			panic(http.ErrAbortHandler)
		}
		req.URL.RawQuery = strings.ReplaceAll(req.URL.RawQuery, "force=true", "")
		inner.ServeHTTP(w, req)
	}))
	defer server.Close()
	client, err := registry.NewClient(registry.ClientConfig{URL: server.URL, Retries: -1})
	if err != nil {
		t.Fatal(err)
	}
	b.adjust = func(c *Config) {
		c.OnIncompatible = func(_, _ string) string { return incompatibleForce }
		c.Compatibility = func(_, _ string) registry.Level { return registry.Full }
	}
	pg.Exec(testbed.Owner, `CREATE TABLE item (id int PRIMARY KEY, v text)`)
	b.publish("item")
	subject := b.name + ".public.item-value"
	want := "c0=a"
	for step, typ := range []string{"int", "boolean", "bytea", "date"} {
		b.register = &real{registry.NewRegistrar(client), b.registry}
		r := b.start()
		r.first(t)
		if step == 0 {
			pg.Exec(testbed.Owner, `INSERT INTO item VALUES (0, 'a')`)
		}
		b.caughtUp(r)
		cut := make(chan struct{})
		hook(t, func(place string) {
			if place == "level-saved" && left.Load() > plenty/2 {
				left.Store(int64(step))
				close(cut)
			}
		})
		pg.Exec(testbed.Owner, fmt.Sprintf(`ALTER TABLE item DROP v, ADD v %s`, typ), fmt.Sprintf(`INSERT INTO item VALUES (%d, NULL)`, step+1))
		within(t, "the level to be lowered", cut)
		b.await("the registry to be asked in vain", r, func() bool { return left.Load() < 0 })
		r.kill(t)
		testHook.Store(nil)
		if len(b.state().Levels) != 1 {
			t.Errorf("step %d: levels %v", step, b.state().Levels)
		}
		if level, _ := store.Level(subject); step > 0 && level != registry.None {
			t.Errorf("step %d: level %s after the kill, want %s: the test shows nothing", step, level, registry.None)
		}
		left.Store(plenty)
		r = b.start()
		b.caughtUp(r)
		want += fmt.Sprintf(" c%d=<nil>", step+1)
		b.wantRows("item", want)
		if level, own := store.Level(subject); level != registry.Full || !own || len(b.state().Levels) != 0 || len(store.Versions(subject)) != step+2 {
			t.Errorf("step %d: level %s, own %v, levels %v, versions %v", step, level, own, b.state().Levels, store.Versions(subject))
		}
		r.drain(t)
	}
}
