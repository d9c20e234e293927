package registry_test

import (
	"fmt"
	"testing"

	"walferry/schema/registry"
	"walferry/schema/registry/registrytest"
)

// envelope is about as long as what a table of ten columns has.
func envelope(i int) string {
	columns := ""
	for k := range 10 {
		columns += fmt.Sprintf(`{"name":"column_%d","type":["null","string"],"default":null},`, k)
	}
	return fmt.Sprintf(`{"type":"record","name":"Envelope","namespace":"shop.public.table_%d","fields":[{"name":"before","type":["null",{"type":"record","name":"Value","fields":[%s{"name":"id","type":"long"}]}],"default":null},{"name":"after","type":["null","Value"],"default":null},{"name":"op","type":"string"}]}`, i, columns)
}

// BenchmarkOpen reads a topic with 5,000 schemas of 950 bytes.
func BenchmarkOpen(b *testing.B) {
	topic := registrytest.NewTopic()
	const schemas = 5000
	for i := range schemas {
		subject := fmt.Sprintf("shop.public.table_%d-value", i)
		topic.Write(fmt.Appendf(nil, `{"keytype":"SCHEMA","subject":"%s","version":1,"magic":1}`, subject),
			fmt.Appendf(nil, `{"subject":"%s","version":1,"id":%d,"schema":%q,"deleted":false}`, subject, i+1, envelope(i)))
	}
	b.ReportAllocs()
	for b.Loop() {
		s := registry.NewStore(topic.Log(), nil)
		if err := s.Open(b.Context()); err != nil {
			b.Fatal(err)
		}
		if got := s.Stats().Schemas; got != schemas {
			b.Fatalf("%d schemas", got)
		}
	}
	b.ReportMetric(float64(b.Elapsed().Microseconds())/float64(b.N)/schemas, "µs/schema")
}

func BenchmarkRegisterKnown(b *testing.B) {
	s := registry.NewStore(registrytest.NewTopic().Log(), nil)
	text := envelope(1)
	register(b, s, "s", text)
	for b.Loop() {
		register(b, s, "s", text)
	}
}

func BenchmarkByID(b *testing.B) {
	s := registry.NewStore(registrytest.NewTopic().Log(), nil)
	register(b, s, "s", envelope(1))
	for b.Loop() {
		if _, err := s.ByID(1, ""); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkCompare(b *testing.B) {
	old, err := registry.ParseAvro(envelope(1))
	if err != nil {
		b.Fatal(err)
	}
	for b.Loop() {
		if found := registry.Compare(old, old); len(found) > 0 {
			b.Fatal(found)
		}
	}
}
