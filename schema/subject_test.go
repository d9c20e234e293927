package schema

import (
	"encoding/json"
	"strings"
	"testing"

	"walferry/decode"
)

// TestSubjects: the names are those that Confluent's strategies make of the topic and of the schemas that Derive makes.
func TestSubjects(t *testing.T) {
	rel := &decode.Relation{Schema: "public", Name: "t", Identity: decode.IdentityDefault, Columns: []decode.Column{{Name: "id", Type: 23, Mod: -1, Key: true}}}
	const odd = "a-b.1.t"
	for _, x := range []struct{ subject, envelope, key, value string }{
		{"", "", "a-b.1.t-key", "a-b.1.t-value"},
		{SubjectTopic, EnvelopeRow, "a-b.1.t-key", "a-b.1.t-value"},
		{SubjectRecord, "", "a_b._1.t.Key", "a_b._1.t.Envelope"},
		{SubjectRecord, EnvelopeRow, "a_b._1.t.Key", "a_b._1.t.Value"},
		{SubjectTopicRecord, EnvelopeDebezium, "a-b.1.t-a_b._1.t.Key", "a-b.1.t-a_b._1.t.Envelope"},
		{"{kind}/{record}@{topic}", "", "key/a_b._1.t.Key@a-b.1.t", "value/a_b._1.t.Envelope@a-b.1.t"},
	} {
		o := Options{Subject: x.subject, Envelope: x.envelope}
		got, err := Derive(rel, nil, odd, o)
		if err != nil {
			t.Fatal(err)
		}
		if got.KeySubject != x.key || got.ValueSubject != x.value {
			t.Errorf("%q: %s and %s", x.subject, got.KeySubject, got.ValueSubject)
		}
		for avro, subject := range map[string]string{got.Key: got.KeySubject, got.Value: got.ValueSubject} {
			var record struct{ Namespace, Name string }
			if err := json.Unmarshal([]byte(avro), &record); err != nil {
				t.Fatal(err)
			}
			if name := record.Namespace + "." + record.Name; x.subject == SubjectRecord && name != subject || x.subject == SubjectTopicRecord && odd+"-"+name != subject {
				t.Errorf("%q: the record %s has the subject %s", x.subject, name, subject)
			}
		}
		if topic, ok := o.TopicOf(x.value); ok != (x.subject != SubjectRecord) || ok && topic != odd {
			t.Errorf("%q: %s is of topic %q, %t", x.subject, x.value, topic, ok)
		}
		if topic, ok := o.TopicOf(x.key); ok {
			t.Errorf("%q: the key's subject %s is the value's of topic %q", x.subject, x.key, topic)
		}
	}
	rel.Columns[0].Key = false
	if got, err := Derive(rel, nil, odd, Options{Subject: SubjectRecord}); err != nil || got.KeySubject != "" {
		t.Errorf("without a key: %q, %v", got.KeySubject, err)
	}
}

// FuzzTopicOf: a topic is found again from its values' subject, and what is found has that subject.
func FuzzTopicOf(f *testing.F) {
	for _, template := range []string{"", "{topic}-{kind}", "{topic}-{record}", "{record}{topic}{kind}", "{topic}{topic}{kind}", "x-{record}.{record}-{topic}", "{record}", "-"} {
		f.Add(template, "1.a-b..2", "shop.orders-value")
	}
	f.Fuzz(func(t *testing.T, template, topic, other string) {
		o := Options{Subject: template}
		_, value := o.Subjects(topic)
		found, ok := o.TopicOf(value)
		// The braces of a placeholder are in no topic, and an empty topic is none.
		if topic == "" || strings.ContainsAny(topic, "{}") {
			return
		}
		if _, again := o.Subjects(found); ok && again != value {
			t.Errorf("%q: topic %q has subject %q, of which %q is found", template, topic, value, found)
		}
		if has := strings.Contains(o.subject(), "{topic}"); ok != has {
			t.Errorf("%q: topic %q, subject %q, found %t", template, topic, value, ok)
		}
		if found, ok := o.TopicOf(other); ok {
			if _, again := o.Subjects(found); again != other {
				t.Errorf("%q: %q is found in %q, and has %q", template, found, other, again)
			}
		}
	})
}
