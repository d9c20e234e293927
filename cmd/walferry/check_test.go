package main

import (
	"context"
	"net"
	"net/http/httptest"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"walferry/checkpoint"
	"walferry/decode"
	"walferry/internal/config"
	"walferry/internal/testbed"
	"walferry/schema/registry"
	"walferry/schema/registry/registrytest"
	"walferry/source"
)

// TestCheckTimes: a column that readers fail on is named, unless it is written in a way that they do not.
func TestCheckTimes(t *testing.T) {
	c, err := config.Load("w.yml", []byte(`
name: shop
source: {dsn: "host=h", tables: ["public.*"]}
kafka: {brokers: ["b:9092"]}
schema:
  columns:
    public.t.plain: {time: plain}
    public.t.iso: {time: iso}
    public.t.connect: {time: connect}
`), os.LookupEnv)
	if err != nil {
		t.Fatal(err)
	}
	var odd []source.Column
	for _, column := range []string{"avro", "connect", "iso", "plain"} {
		odd = append(odd, source.Column{Schema: "public", Table: "t", Column: column})
	}
	f := &findings{of: "postgres"}
	checkTimes(f, c, odd)
	if len(f.list) != 2 || f.list[0].ID != "times" || f.list[0].Severity != source.Warn || f.list[0].Text[:len("column public.t.avro ")] != "column public.t.avro " {
		t.Errorf("%+v", f.list)
	}
	c.Schema.Time = "iso"
	f.list = nil
	if checkTimes(f, c, odd); len(f.list) != 1 {
		t.Errorf("with time: iso for all: %+v", f.list)
	}
}

// TestCheckShared: tables whose events would share a topic are named, with the topic and what to do, also where one of them has
// moved there.
func TestCheckShared(t *testing.T) {
	const text = `
name: shop
source: {dsn: "host=h", tables: ["public.*"]}
kafka: {brokers: ["b:9092"]}
schema:
  tables:
    public.shard1: {topic: shop.shards}
    public.shard2: {topic: shop.shards}
`
	c, err := config.Load("w.yml", []byte(text), os.LookupEnv)
	if err != nil {
		t.Fatal(err)
	}
	saved := &checkpoint.State{Moved: map[string]*checkpoint.Moved{"shop.public.orders": {Moves: []checkpoint.Move{{Number: 2}}}}}
	var tables []source.Table
	for i, name := range []string{"a b", "a_b", "orders", "orders.v2", "shard1", "shard2"} {
		tables = append(tables, source.Table{OID: uint32(i), Schema: "public", Name: name})
	}
	f := &findings{of: "kafka"}
	topics := checkShared(f, c, saved, tables)
	if got := topics.Topic("public", "orders"); got != "shop.public.orders.v2" {
		t.Errorf("the topic of orders is %s", got)
	}
	wants := [][]string{{`"public"."a b"`, `"public"."a_b"`, "topic shop.public.a_b"}, {`"public"."orders"`, `"public"."orders.v2"`, "topic shop.public.orders.v2"}}
	if len(f.list) != len(wants) {
		t.Fatalf("%+v", f.list)
	}
	for i, want := range wants {
		for _, w := range append(want, "schema.tables") {
			if x := f.list[i]; x.ID != "topic_shared" || x.Severity != source.Fail || !strings.Contains(x.Text+x.Remedy, w) {
				t.Errorf("%+v: no %s", x, w)
			}
		}
	}
	// Two topics of one record.
	if c, err = config.Load("w.yml", []byte(text+"  subject: record\n"), os.LookupEnv); err != nil {
		t.Fatal(err)
	}
	f = &findings{of: "kafka"}
	checkShared(f, c, new(checkpoint.State), []source.Table{{OID: 1, Schema: "public", Name: "c-d"}, {OID: 2, Schema: "public", Name: "c_d"}, tables[4], tables[5]})
	if len(f.list) != 1 || f.list[0].ID != "subject_shared" || f.list[0].Severity != source.Fail || !strings.Contains(f.list[0].Text, `"public"."c_d" and "public"."c-d" would share the subject shop.public.c_d.Key`) {
		t.Errorf("%+v", f.list)
	}
}

// TestCheckNames: a table of which no event can be made is found before there is one.
func TestCheckNames(t *testing.T) {
	table := func(name string, columns ...string) source.Table {
		return source.Table{Schema: "public", Name: name, Identity: decode.IdentityDefault, IdentityColumns: columns[:1], PrimaryKey: columns[:1], Columns: columns}
	}
	unsent := table("unsent", "a", "b")
	unsent.Identity, unsent.IdentityColumns, unsent.PrimaryKey = decode.IdentityFull, nil, []string{"id"}
	tables := []source.Table{table("fine", "id", "a-b", "c"), table("names", "id", "a-b", "a b"), table("chosen", "id", "a"), table("excluded", "id", "a"), unsent}
	c, err := config.Load("w.yml", []byte(`
name: shop
source: {dsn: "host=h", tables: ["public.*"], exclude_columns: [public.excluded.id]}
kafka: {brokers: ["b:9092"]}
schema: {keys: {public.chosen: [a]}}
`), os.LookupEnv)
	if err != nil {
		t.Fatal(err)
	}
	f := &findings{of: "postgres"}
	checkNames(f, c, tables)
	want := []string{"public.names", "public.chosen", "public.excluded", "public.unsent"}
	if len(f.list) != len(want) {
		t.Fatalf("%+v", f.list)
	}
	for i, x := range f.list {
		if x.ID != "schema" || x.Severity != source.Fail || x.Remedy == "" || !strings.Contains(x.Text, want[i]) {
			t.Errorf("%+v, want one of %s", x, want[i])
		}
	}
}

// TestCheckOnServers: the topic that a table has moved to is looked at as any other, and what toast: refetch and large values lack is
// named with the SQL that ends it.
func TestCheckOnServers(t *testing.T) {
	pg := testbed.Postgres(t, "")
	broker := testbed.Kafka(t)
	pg.Exec(testbed.Owner, `CREATE TABLE orders (id int PRIMARY KEY, note text, other text)`, `CREATE TABLE hidden (id int PRIMARY KEY, note text)`,
		`CREATE TABLE marked (id int PRIMARY KEY, note text)`, `ALTER TABLE hidden ENABLE ROW LEVEL SECURITY`,
		`CREATE TABLE "a b" (id int PRIMARY KEY)`, `CREATE TABLE a_b (id int PRIMARY KEY)`,
		`REVOKE SELECT ON orders, marked FROM `+testbed.Reader, `GRANT SELECT (id, other) ON orders TO `+testbed.Reader)
	b := &bench{t: t, file: filepath.Join(t.TempDir(), "walferry.yml")}
	const settings = `
name: looks
source: {dsn: %q, tables: ["public.*"], publication: {create: %t}}
kafka: {brokers: [%q], topic: {partitions: 1, config: {max.message.bytes: "2000000"}}}
schema:
  tables: {public.orders: {toast: refetch}, public.hidden: {toast: refetch}}
registry: {listen: "127.0.0.1:0"}
admin: {listen: ""}
`
	b.configure(settings, pg.DSN(testbed.Reader), true, broker.Addr)
	// Before there is a publication.
	b.has(failure(t, b.walferry(exitCheck, "", "check"), "kafka", "topic_shared"), `"public"."a b"`, `"public"."a_b"`, "topic looks.public.a_b", "schema.tables")

	pg.Exec(testbed.Owner, `CREATE PUBLICATION walferry_looks FOR TABLE orders, hidden, marked WITH (publish_via_partition_root = true)`)
	b.configure(settings, pg.DSN(testbed.Reader), false, broker.Addr)
	client := b.client(broker.Addr)
	create := func(topic string, partitions int, settings map[string]string) {
		t.Helper()
		if err := client.CreateTopic(t.Context(), topic, partitions, 1, settings); err != nil {
			t.Fatal(err)
		}
	}
	create("looks.public.orders", 1, nil)
	create("looks.public.orders.v3", 3, nil)
	create("looks.public.hidden.v2", 1, map[string]string{"cleanup.policy": "compact"})
	create("looks.public.marked.v2", 1, map[string]string{"max.message.bytes": "1000000"})
	create("_walferry.looks", 1, map[string]string{"cleanup.policy": "compact"})
	for table, number := range map[string]int{"orders": 3, "hidden": 2, "marked": 2} {
		topic := "looks.public." + table
		value, err := checkpoint.AppendMoved(nil, &checkpoint.Moved{Topic: topic, Moves: []checkpoint.Move{{Start: checkpoint.Position{Commit: 1}, Number: number}}})
		if err != nil {
			t.Fatal(err)
		}
		b.record(broker.Addr, "_walferry.looks", checkpoint.MovedPrefix+topic, value)
	}
	text := b.walferry(exitCheck, "", "check")
	b.has(text, "topic looks.public.orders.v3 has 3 partitions, the configuration says 1", "topic looks.public.hidden.v2 has cleanup.policy compact, the configuration says delete",
		"topic looks.public.marked.v2 takes records of 1000000 bytes at most", "--add-config max.message.bytes=2000000", "row security can hide rows of table \"public\".\"hidden\"")
	if strings.Contains(text, "topic looks.public.orders has") || strings.Contains(text, "topic_shared") {
		t.Errorf("check looks at a topic that is of nobody, or at a table that is not published:\n%s", text)
	}
	denied := failure(t, text, "postgres", "refetch")
	b.has(denied, `may not read table "public"."orders"`, "for note, other")
	if strings.Contains(text, `may not read table "public"."marked"`) {
		t.Errorf("marked needs no reading:\n%s", text)
	}
	b.has(text, `large values of note, other in table "public"."orders" are not sent`, `large values of note in table "public"."marked" are not sent`)

	// What it says to run ends each.
	for _, sql := range []string{`GRANT .+;`, `CREATE POLICY .+;`, `ALTER TABLE "public"."marked" .+;`} {
		pg.Exec(testbed.Owner, regexp.MustCompile(sql).FindString(text))
	}
	text = b.walferry(exitCheck, "", "check")
	for _, part := range []string{"postgres  refetch", `large values of note in table "public"."marked"`} {
		if strings.Contains(text, part) {
			t.Errorf("after the remedies check says %q:\n%s", part, text)
		}
	}
	b.has(text, `large values of note, other in table "public"."orders" are not sent`)

	// What a first copy would meet.
	pg.Exec(testbed.Owner, `CREATE TABLE keyless (a int)`, `ALTER PUBLICATION walferry_looks ADD TABLE keyless`, `GRANT SELECT ON keyless TO `+testbed.Reader, `REVOKE SELECT ON orders FROM `+testbed.Reader)
	b.configure(settings+"backfill: {mode: initial, max_sessions: 5, tables: {public.marked: none}}\n", pg.DSN(testbed.Reader), false, broker.Addr)
	text = b.walferry(exitCheck, "", "check")
	b.has(text, "may not see the sessions of others", "GRANT pg_read_all_stats TO", "permission denied for table orders", "GRANT SELECT ON", "row-level security", "BYPASSRLS",
		"table public.keyless has no key, so its rows are copied in one transaction")
	if strings.Contains(text, "denied for table marked") {
		t.Errorf("no copy of marked is wanted:\n%s", text)
	}
}

// TestCheckSilence: Kafka and the registry are asked side by side, and one that is silent is waited for no longer than it may be.
func TestCheckSilence(t *testing.T) {
	silent := func() (addr string, met <-chan struct{}) {
		l, err := (&net.ListenConfig{}).Listen(t.Context(), "tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		came := make(chan struct{}, 100)
		var ended sync.WaitGroup
		ended.Go(func() {
			var held []net.Conn
			for {
				conn, err := l.Accept()
				if err != nil {
					break // closed below
				}
				held = append(held, conn)
				came <- struct{}{}
			}
			for _, conn := range held {
				if err := conn.Close(); err != nil {
					t.Error(err)
				}
			}
		})
		t.Cleanup(func() {
			if err := l.Close(); err != nil {
				t.Error(err)
			}
			ended.Wait()
		})
		return l.Addr().String(), came
	}
	broker, brokerMet := silent()
	server, serverMet := silent()
	c, err := config.Load("w.yml", []byte(`
name: shop
source: {dsn: "postgres://x@127.0.0.1:1/x", tables: ["public.*"]}
kafka: {brokers: ["`+broker+`"]}
registry: {url: "http://`+server+`"}
`), os.LookupEnv)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan []finding, 1)
	go func() { ended <- checkAll(ctx, c, time.Hour) }()
	<-brokerMet // one after the other, the second of them would be asked in an hour
	<-serverMet
	cancel()
	<-ended
	failed := map[string]bool{}
	for _, f := range checkAll(t.Context(), c, 200*time.Millisecond) {
		failed[f.Of+" "+f.ID] = f.Severity == source.Fail && f.Remedy != ""
	}
	if !failed["kafka connect"] || !failed["registry connect"] {
		t.Errorf("check says %v", failed)
	}
}

// TestCheckLevels: check says which subjects have another level than the configuration, of the topic that a table is in now and by
// the strategy, and changes none.
func TestCheckLevels(t *testing.T) {
	store := registry.NewStore(registrytest.NewTopic().Log(), nil)
	server := httptest.NewServer(registry.NewServer(store, registry.ServerConfig{}))
	defer server.Close()
	avro := func(name string) string { return `{"type":"record","name":"` + name + `","fields":[]}` }
	levels := map[string]registry.Level{}
	for subject, level := range map[string]registry.Level{
		"shop.public.same.Key": registry.Full, "shop.public.same.Envelope": registry.Full, "shop.public.moved.Envelope": registry.None,
		"shop.public.moved.v2.Envelope": registry.Forward, "shop.public.all.Key": "", "shop.public.all-value": registry.Forward, "somebody": registry.None,
	} {
		if _, err := store.Register(t.Context(), subject, registry.Request{Schema: avro("R")}); err != nil {
			t.Fatal(err)
		}
		if level != "" {
			if err := store.SetLevel(t.Context(), subject, level); err != nil {
				t.Fatal(err)
			}
		}
		levels[subject], _ = store.Level(subject)
	}
	c, err := config.Load("walferry.yml", []byte(`name: shop
source: {dsn: "postgres://x@127.0.0.1:1/x", all_tables: true}
kafka: {brokers: ["127.0.0.1:1"]}
registry: {url: "`+server.URL+`"}
schema: {subject: record, compatibility: forward_transitive, tables: {public.same: {compatibility: full}}}
`), func(string) (string, bool) { return "", false })
	if err != nil {
		t.Fatal(err)
	}
	tables := []source.Table{{Schema: "public", Name: "same"}, {Schema: "public", Name: "moved"}, {Schema: "public", Name: "all"}, {Schema: "public", Name: "new"}}
	saved := &checkpoint.State{Moved: map[string]*checkpoint.Moved{"shop.public.moved": {Topic: "shop.public.moved", Moves: []checkpoint.Move{{Number: 2}}}}}
	look := func() (out []string) {
		t.Helper()
		found := &findings{of: "registry"}
		if !checkRegistry(t.Context(), found, c, time.Minute) {
			t.Errorf("no registry: %+v", found.list)
		}
		checkLevels(t.Context(), found, c, newTopics(c, saved), tables)
		for _, f := range found.list {
			if f.ID == "compatibility" {
				out = append(out, string(f.Severity)+" "+f.Text+"; "+f.Remedy)
			}
		}
		return out
	}
	want := []string{
		`warn subject shop.public.moved.v2.Envelope of table "public"."moved" has the level FORWARD and the configuration says FORWARD_TRANSITIVE: walferry sets it when it makes a subject, and never after; ` +
			`PUT /config/shop.public.moved.v2.Envelope {"compatibility": "FORWARD_TRANSITIVE"}; or write compatibility: forward for the table in schema.tables`,
		`warn subject shop.public.all.Key of table "public"."all" has the level BACKWARD, that of all subjects, and the configuration says FORWARD_TRANSITIVE: walferry sets it when it makes a subject, and never after; ` +
			`PUT /config/shop.public.all.Key {"compatibility": "FORWARD_TRANSITIVE"}; or write compatibility: backward for the table in schema.tables`,
	}
	if got := look(); !slices.Equal(got, want) {
		t.Errorf("check says\n%s", strings.Join(got, "\n"))
	}
	for subject, before := range levels {
		if now, _ := store.Level(subject); now != before {
			t.Errorf("%s has become %s", subject, now)
		}
	}
	for _, subject := range []string{"shop.public.moved.v2.Envelope", "shop.public.all.Key"} {
		if err := store.SetLevel(t.Context(), subject, registry.ForwardTransitive); err != nil {
			t.Fatal(err)
		}
	}
	if got := look(); len(got) != 1 || got[0] != "ok the levels of 4 subjects are those of the configuration; " {
		t.Errorf("after the remedy check says %q", got)
	}
}
