package main

import (
	"os"
	"strings"
	"testing"

	"walferry/checkpoint"
	"walferry/decode"
	"walferry/internal/config"
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
