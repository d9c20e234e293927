package main

import (
	"bytes"
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"

	"github.com/goccy/go-yaml"

	"walferry/decode"
	"walferry/internal/config"
	"walferry/internal/testbed"
	"walferry/schema"
	"walferry/schema/registry"
)

// document is something to validate: by a JSON Schema, or by AsyncAPI's own where schema is "asyncapi".
type document struct {
	Name   string          `json:"name"`
	Schema json.RawMessage `json:"schema"`
	Value  json.RawMessage `json:"value"`
}

const asyncAPISchema = `"asyncapi"`

// validate asks testdata/readers/validate.js, and returns what it says of each document, "valid" or what is wrong.
func validate(t *testing.T, documents []document) []string {
	t.Helper()
	var input, out, complained bytes.Buffer
	enc := json.NewEncoder(&input)
	for _, d := range documents {
		if err := enc.Encode(d); err != nil {
			t.Fatal(err)
		}
	}
	cmd := exec.CommandContext(t.Context(), "node", filepath.Join(testbed.Root(t), "testdata", "readers", "validate.js"), testbed.Node(t))
	cmd.Stdin, cmd.Stdout, cmd.Stderr = &input, &out, &complained
	if err := cmd.Run(); err != nil {
		t.Fatalf("%v: %v: %s", cmd.Args, err, &complained)
	}
	var said []string
	for dec := json.NewDecoder(&out); dec.More(); {
		var line struct{ Name, Said string }
		if err := dec.Decode(&line); err != nil {
			t.Fatal(err)
		}
		if len(said) >= len(documents) || line.Name != documents[len(said)].Name {
			t.Fatalf("line %d is of %q", len(said), line.Name)
		}
		said = append(said, line.Said)
	}
	if len(said) != len(documents) {
		t.Fatalf("%d answers for %d documents: %s", len(said), len(documents), &complained)
	}
	return said
}

// describedTopics is what the document of a test is made of: the tables of testdata/schema, under settings that differ.
func describedTopics(t *testing.T, settings string) *topicsDescription {
	t.Helper()
	c, err := config.Load("walferry.yml", []byte("name: shop\nsource: {dsn: 'postgres://x@127.0.0.1:1/x', all_tables: true}\n"+settings),
		func(string) (string, bool) { return "", false })
	if err != nil {
		t.Fatal(err)
	}
	d := &topicsDescription{config: c, registry: "http://127.0.0.1:8081"}
	files, err := filepath.Glob("../../testdata/schema/*.avsc")
	if err != nil || len(files) < 8 {
		t.Fatal("too few derived schemas", err)
	}
	for i, file := range files {
		table := "public." + strings.TrimSuffix(filepath.Base(file), ".avsc")
		name := "shop." + table
		topic := describedTopic{name: name, partitions: 3, replicas: 2, settings: map[string]string{
			"cleanup.policy": "compact,delete", "retention.ms": "604800000", "max.message.bytes": "1048588", "segment.bytes": "1",
		}}
		if i == 0 { // Kafka and the database were not asked
			topic.partitions, topic.settings = 0, nil
		} else {
			topic.tables = []describedTable{{table, &decode.Descriptor{Comment: "it's \"odd\": # not a comment\nin two lines\u007f", Columns: []decode.ColumnFacts{
				{Name: "id", Comment: "yes"}, {Name: "gone", Comment: "not published"},
			}}}}
		}
		var avro []string
		for dec := json.NewDecoder(strings.NewReader(readFile(t, file))); dec.More(); {
			var one json.RawMessage
			if err := dec.Decode(&one); err != nil {
				t.Fatal(err)
			}
			avro = append(avro, string(one))
		}
		topic.value = registry.Registered{Subject: name + "-value", ID: int32(2 * i), Version: 1, Type: registry.TypeAvro, Schema: avro[len(avro)-1]}
		if len(avro) > 1 {
			topic.key = registry.Registered{Subject: name + "-key", ID: int32(2*i + 1), Version: 1, Type: registry.TypeAvro, Schema: avro[0]}
		}
		d.topics = append(d.topics, topic)
	}
	if c.Schema.ChangesTopic != "" {
		d.changes = &describedTopic{name: c.Schema.ChangesTopic, partitions: 1, replicas: 1, settings: map[string]string{"cleanup.policy": "delete", "retention.ms": "-1"}}
	}
	return d
}

// TestAsyncAPI validates documents by AsyncAPI's own schema of 3.0.0, follows each reference in them, and sees the same
// schema refuse documents with one thing wrong.
func TestAsyncAPI(t *testing.T) {
	var documents []document
	for _, x := range [][2]string{
		{"plain", "kafka: {brokers: ['a:1', 'b:2']}\n"},
		{"secure", "kafka: {brokers: ['a:1'], tls: {enabled: true}, sasl: {mechanism: scram-sha-512, user: x, password: y}}\nregistry: {url: 'https://r'}\n"},
		{"row", "kafka: {brokers: ['a:1']}\nschema: {envelope: row, changes_topic: shop.changes}\n"},
	} {
		name, settings := x[0], x[1]
		d := describedTopics(t, settings)
		made, err := d.asyncAPI()
		if err != nil {
			t.Fatal(err)
		}
		again, err := d.asyncAPI()
		if err != nil {
			t.Fatal(err)
		}
		text, err := marshal(made)
		if err != nil {
			t.Fatal(err)
		}
		if yamlText(made) != yamlText(again) {
			t.Errorf("%s: not the same twice", name)
		}
		sameYAML(t, yamlText(made), text)
		references(t, text)
		documents = append(documents, document{name, json.RawMessage(asyncAPISchema), text})
	}
	good := string(documents[0].Value)
	for _, x := range [][3]string{
		{"no version", `"version":`, `"x-version":`},
		{"another AsyncAPI", `"asyncapi":"3.0.0"`, `"asyncapi":"2.6.0"`},
		{"no protocol", `"protocol":"kafka`, `"x-protocol":"kafka`},
		{"an action of AsyncAPI 2", `"action":"send"`, `"action":"publish"`},
		{"a channel's address", `"address":"shop.public.orders"`, `"address":7`},
		{"no partition", `"partitions":3`, `"partitions":0`},
		{"a policy of Kafka's", `"cleanup.policy":["compact"`, `"cleanup.policy":["shred"`},
		{"an unknown binding", `"bindingVersion":"0.5.0"`, `"bindingVersion":"9.9.9"`},
		{"an Avro record without fields", `"fields":[`, `"columns":[`},
		{"an Avro type", `"type":"long"`, `"type":"long long"`},
		{"an Avro key", `"key":{"type":"record"`, `"key":{"type":"row"`},
		{"a header's type", `"headers":{"type":"object"`, `"headers":{"type":"avro"`},
	} {
		broken := strings.ReplaceAll(good, x[1], x[2])
		if broken == good {
			t.Errorf("%s: nothing to break", x[0])
		}
		documents = append(documents, document{x[0], json.RawMessage(asyncAPISchema), json.RawMessage(broken)})
	}
	for i, said := range validate(t, documents) {
		if (said == "valid") != (i < 3) {
			t.Errorf("%s: %s", documents[i].Name, said)
		}
	}
}

// sameYAML has another parser read the YAML.
func sameYAML(t *testing.T, text string, want []byte) {
	t.Helper()
	var fromYAML, fromJSON any
	if err := yaml.Unmarshal([]byte(text), &fromYAML); err != nil {
		t.Fatalf("the YAML cannot be read: %v\n%s", err, text)
	}
	b, err := json.Marshal(fromYAML)
	if err != nil {
		t.Fatal(err)
	}
	var back any
	if err := json.Unmarshal(b, &back); err != nil {
		t.Fatal(err)
	}
	if err := json.Unmarshal(want, &fromJSON); err != nil {
		t.Fatal(err)
	}
	if !reflect.DeepEqual(back, fromJSON) {
		t.Errorf("YAML and JSON differ:\n%s\n%s", b, want)
	}
}

// references follows each $ref of a document.
func references(t *testing.T, text []byte) {
	t.Helper()
	var root any
	if err := json.Unmarshal(text, &root); err != nil {
		t.Fatal(err)
	}
	n := 0
	var walk func(v any)
	walk = func(v any) {
		switch x := v.(type) {
		case []any:
			for _, item := range x {
				walk(item)
			}
		case map[string]any:
			if ref, ok := x["$ref"].(string); ok {
				n++
				at := root
				for _, part := range strings.Split(ref, "/")[1:] {
					o, _ := at.(map[string]any)
					at = o[part]
				}
				if at == nil {
					t.Errorf("nothing at %s", ref)
				}
			}
			for _, m := range x {
				walk(m)
			}
		}
	}
	walk(root)
	if n < 10 {
		t.Errorf("only %d references", n)
	}
}

// TestAsyncAPITopics finds the topics of subjects by each strategy, with tables and without, and nobody else's.
func TestAsyncAPITopics(t *testing.T) {
	subjects := []string{
		"elsewhere-value", "shop.public.a-key", "shop.public.a-value", "shop.public.a.v2-value", "shop.public.a.v2-shop.public.a.v2.Envelope", "shop.public.a.v3.Envelope",
		"shop.public.b-c-shop.public.b_c.Envelope", "shop.public.d-shop.public.e.Envelope", "shop.public.b-c.Envelope", "of/shop.public.b-c/value", "other.public.a-value",
	}
	for _, x := range []struct{ subject, want, tables string }{
		{"topic", "elsewhere shop.public.a shop.public.a.v2", "shop.public.a shop.public.a.v2 shop.public.a.v3 shop.public.b-c shop.public.b-c.v2 shop.public.b-c.v3"},
		{"topic-record", "shop.public.a.v2 shop.public.b-c", "shop.public.a shop.public.a.v2 shop.public.a.v3 shop.public.b-c shop.public.b-c.v2 shop.public.b-c.v3"},
		{"'of/{topic}/{kind}'", "shop.public.b-c", "shop.public.a shop.public.a.v2 shop.public.a.v3 shop.public.b-c shop.public.b-c.v2 shop.public.b-c.v3"},
		{"record", "", "shop.public.a shop.public.a.v2 shop.public.a.v3 shop.public.b-c shop.public.b-c.v2 shop.public.b-c.v3"},
	} {
		c, err := config.Load("walferry.yml", []byte("name: shop\nsource: {dsn: 'postgres://x@127.0.0.1:1/x', all_tables: true}\nkafka: {brokers: ['a:1']}\n"+
			"schema: {subject: "+x.subject+", tables: {public.far: {topic: elsewhere}}}\n"), func(string) (string, bool) { return "", false })
		if err != nil {
			t.Fatal(err)
		}
		d := &topicsDescription{config: c}
		got, err := d.topicNames(t.Context(), subjects, nil, false, false)
		if x.want == "" {
			if !is[*usageError](err) {
				t.Errorf("%s: %q, %v", x.subject, got, err)
			}
		} else if err != nil || strings.Join(got, " ") != x.want {
			t.Errorf("%s: %q, %v", x.subject, got, err)
		}
		if got, err := d.topicNames(t.Context(), subjects, []string{"shop.public.a", "shop.public.b-c"}, true, false); err != nil || strings.Join(got, " ") != x.tables {
			t.Errorf("%s, with tables: %q, %v", x.subject, got, err)
		}
	}
}

// TestAsyncAPIText holds one document as it is read in review.
func TestAsyncAPIText(t *testing.T) {
	d := describedTopics(t, "kafka: {brokers: ['kafka-1:9093'], tls: {enabled: true}, sasl: {mechanism: plain, user: x, password: y}}\n")
	d.topics = slices.DeleteFunc(d.topics, func(t describedTopic) bool { return t.name != "shop.public.orders" && t.name != "shop.public.keyless" })
	made, err := d.asyncAPI()
	if err != nil {
		t.Fatal(err)
	}
	const file = "../../testdata/cmd/asyncapi.yaml"
	if *update {
		if err := os.WriteFile(file, []byte(yamlText(made)), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	if got := yamlText(made); got != readFile(t, file) {
		t.Errorf("it differs from %s; now:\n%s", file, got)
	}
}

// TestAsyncAPIHeaders: every header that there is, is in the document.
func TestAsyncAPIHeaders(t *testing.T) {
	var names []string
	for _, h := range headers {
		names = append(names, h.name)
	}
	if !slices.Equal(names, schema.HeaderNames) {
		t.Errorf("headers %v, want %v", names, schema.HeaderNames)
	}
}
