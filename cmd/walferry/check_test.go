package main

import (
	"os"
	"testing"

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
