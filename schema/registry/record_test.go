package registry_test

import (
	"bytes"
	"os"
	"strings"
	"testing"

	"walferry/schema/registry"
	"walferry/schema/registry/registrytest"
)

func confluentTopic(t testing.TB) *registrytest.Topic {
	t.Helper()
	text, err := os.ReadFile("testdata/schemas/confluent.txt")
	if err != nil {
		t.Fatal(err)
	}
	topic := registrytest.NewTopic()
	for line := range strings.SplitSeq(strings.TrimSpace(string(text)), "\n") {
		if strings.HasPrefix(line, "#") {
			continue
		}
		key, value, ok := strings.Cut(line, "\t")
		if !ok {
			t.Fatalf("no value: %s", line)
		}
		if value == "null" {
			topic.Write([]byte(key), nil)
		} else {
			topic.Write([]byte(key), []byte(value))
		}
	}
	return topic
}

// walferry's registry starts where Confluent's stopped.
func TestTakeOverFromConfluent(t *testing.T) {
	topic := confluentTopic(t)
	s := registry.NewStore(topic.Log(), nil)
	if err := s.Open(t.Context()); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		subject, version string
		id               int32
		typ              string
	}{
		{"old-value", "1", 1, "AVRO"}, {"orders-value", "1", 2, "AVRO"}, {"orders-value", "latest", 7, "AVRO"},
		{"copy-value", "1", 2, "AVRO"}, {"json-value", "1", 3, "JSON"}, {"price-value", "1", 5, "AVRO"}, {":.staging:s", "1", 1, "AVRO"},
	} {
		r, err := s.Version(c.subject, c.version, false)
		if err != nil || r.ID != c.id || r.Type != c.typ {
			t.Errorf("%s version %s: %+v, %v", c.subject, c.version, r, err)
		}
	}
	if _, err := s.Version("gone-value", "1", false); code(err) != registry.CodeSubjectNotFound {
		t.Errorf("soft deleted by its subject: %v", err)
	}
	if r, err := s.Version("gone-value", "1", true); err != nil || r.ID != 6 {
		t.Errorf("soft deleted: %+v, %v", r, err)
	}
	for _, name := range []string{"buried-value", "clear-value", "bad-value", "broken", "future"} {
		if got := s.Versions(name); len(got) > 0 {
			t.Errorf("%s: %+v", name, got)
		}
	}
	if r, err := s.ByID(2, ""); err != nil || !strings.Contains(r.Schema, "Order") {
		t.Errorf("id 2 has become %+v, %v", r, err)
	}
	if l, own := s.Level("orders-value"); l != registry.None || !own {
		t.Errorf("level of orders-value: %s", l)
	}
	if l, own := s.Level("copy-value"); l != registry.Forward || own {
		t.Errorf("level of copy-value: %s", l)
	}
	if st := s.Stats(); st.Skipped != 4 || st.Conflicts != 1 {
		t.Errorf("left alone: %+v", st)
	}
	if _, err := s.Register(t.Context(), "old-value", registry.Request{Schema: `"int"`}); code(err) != registry.CodeNotPermitted {
		t.Errorf("a subject in mode READONLY: %v", err)
	}
	// 9 was given and deleted for good; its record is still there, so 10 is next.
	if r := register(t, s, "next-value", `"double"`); r.ID != 10 {
		t.Errorf("next id: %d", r.ID)
	}
	if r := register(t, s, ":.staging:t", `"double"`); r.ID != 2 {
		t.Errorf("next id of the other context: %d", r.ID)
	}
	if r := register(t, s, "copy-value", `{"type":"record","name":"Order","fields":[{"name":"id","type":"long"}]}`); r.ID != 2 || r.Version != 1 {
		t.Errorf("registered before: %+v", r)
	}
	// What is not ours is kept when a record is written again.
	if err := s.SetLevel(t.Context(), "orders-value", registry.Full); err != nil {
		t.Fatal(err)
	}
	if _, err := s.DeleteVersion(t.Context(), "price-value", "1", false); err != nil {
		t.Fatal(err)
	}
	last := map[string]string{}
	for _, e := range topic.Entries() {
		last[string(e.Key)] = string(e.Value)
	}
	for key, want := range map[string]string{
		`{"keytype":"CONFIG","subject":"orders-value","magic":0}`:            `{"subject":"orders-value","normalize":true,"compatibilityGroup":"g","compatibilityLevel":"FULL"}`,
		`{"keytype":"SCHEMA","subject":"price-value","version":1,"magic":1}`: `{"subject":"price-value","version":1,"id":5,"references":[{"name":"Money","subject":"money","version":1}],"metadata":{"properties":{"owner":"shop"}},"schema":"{\"type\":\"record\",\"name\":\"Price\",\"fields\":[{\"name\":\"net\",\"type\":\"Money\"}]}","deleted":true,"somethingNew":{"b":1}}`,
		`{"keytype":"SCHEMA","subject":"next-value","version":1,"magic":1}`:  `{"subject":"next-value","version":1,"id":10,"schema":"\"double\"","deleted":false}`,
	} {
		if last[key] != want {
			t.Errorf("%s\n got  %s\n want %s", key, last[key], want)
		}
	}
}

// What we write, byte for byte: keys are compared as bytes by compaction, so that Confluent's must be the same.
func TestRecordsWritten(t *testing.T) {
	topic := registrytest.NewTopic()
	s := registry.NewStore(topic.Log(), nil)
	register(t, s, `a/"é`, `"string"`)
	if err := s.SetLevel(t.Context(), "", registry.Full); err != nil {
		t.Fatal(err)
	}
	if err := s.SetLevel(t.Context(), "b", registry.None); err != nil {
		t.Fatal(err)
	}
	if err := s.DeleteLevel(t.Context(), "b"); err != nil {
		t.Fatal(err)
	}
	for _, permanent := range []bool{false, true} {
		if _, err := s.DeleteSubject(t.Context(), `a/"é`, permanent); err != nil {
			t.Fatal(err)
		}
	}
	register(t, s, ":.c:x", `"int"`)
	var got bytes.Buffer
	for _, e := range topic.Entries() {
		got.Write(e.Key)
		got.WriteByte(' ')
		got.Write(e.Value)
		got.WriteByte('\n')
	}
	want := `{"keytype":"NOOP","magic":0} 
{"keytype":"SCHEMA","subject":"a/\"é","version":1,"magic":1} {"subject":"a/\"é","version":1,"id":1,"schema":"\"string\"","deleted":false}
{"keytype":"CONFIG","magic":0} {"compatibilityLevel":"FULL"}
{"keytype":"CONFIG","subject":"b","magic":0} {"subject":"b","compatibilityLevel":"NONE"}
{"keytype":"CONFIG","subject":"b","magic":0} 
{"keytype":"DELETE_SUBJECT","subject":"a/\"é","magic":0} {"subject":"a/\"é","version":1}
{"magic":0,"keytype":"NOOP"} {"walferry":1,"maxIds":{".":1}}
{"keytype":"SCHEMA","subject":"a/\"é","version":1,"magic":1} 
{"keytype":"CONTEXT","tenant":"default","context":".c","magic":0} {"tenant":"default","context":".c"}
{"keytype":"SCHEMA","subject":":.c:x","version":1,"magic":1} {"subject":":.c:x","version":1,"id":1,"schema":"\"int\"","deleted":false}
`
	if got.String() != want {
		t.Errorf("got\n%s\nwant\n%s", got.String(), want)
	}
}

// FuzzRecords: whatever stands in the topic, reading it ends, and the registry still works and gives no id twice.
func FuzzRecords(f *testing.F) {
	for _, e := range confluentTopic(f).Entries() {
		f.Add(e.Key, e.Value, e.Value == nil)
	}
	f.Add([]byte(`{"magic":0,"keytype":"NOOP"}`), []byte(`{"walferry":1,"maxIds":{".":7}}`), false)
	f.Fuzz(func(t *testing.T, key, value []byte, null bool) {
		topic := confluentTopic(t)
		if null {
			value = nil
		} else if value == nil {
			value = []byte{}
		}
		topic.Write(key, value)
		s := registry.NewStore(topic.Log(), nil)
		if err := s.Open(t.Context()); err != nil {
			t.Fatal(err)
		}
		taken := map[int32]bool{}
		for _, r := range s.Schemas("") {
			if r.Subject != "" && !strings.HasPrefix(r.Subject, ":.") {
				taken[r.ID] = true
			}
		}
		r, err := s.Register(t.Context(), "fuzz-value", registry.Request{Schema: `{"type":"enum","name":"Fuzz","symbols":["A"]}`})
		switch {
		case err == nil && taken[r.ID] && len(s.Versions("fuzz-value")) > 0 && r.Version == 1:
			if places, err := s.Places(r.ID, "", true); err != nil || len(places) == 1 {
				t.Fatalf("id %d was given again: %v, %v", r.ID, places, err)
			}
		case err != nil && code(err)/100 != 422 && code(err)/100 != 409 && code(err) != registry.CodeStore && code(err) != registry.CodeIncompatible:
			t.Fatalf("register: %v", err)
		}
	})
}
