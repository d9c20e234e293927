package schema

import (
	"cmp"
	"strings"
)

// Templates of subjects' names, as Options.Subject. Confluent's serialisers make the same names with the strategy that each is
// called after, for keys and values (package io.confluent.kafka.serializers.subject, and confluent_kafka.schema_registry in
// Python): a record is its full name, without a word for key or value.
const (
	SubjectTopic       = "{topic}-{kind}"   // TopicNameStrategy
	SubjectRecord      = "{record}"         // RecordNameStrategy
	SubjectTopicRecord = "{topic}-{record}" // TopicRecordNameStrategy
)

// Last parts of the records' full names; what comes before is the topic, as SanitizeNamespace writes it.
const (
	keyRecord      = ".Key"
	rowRecord      = ".Value" // what the row envelope publishes, and before and after of the other
	envelopeRecord = ".Envelope"
)

// Subjects are the subjects of the schemas of keys and of values in a topic: Subject with {topic}, {record}, the record's full
// name, and {kind}, which is key or value, filled in.
func (o *Options) Subjects(topic string) (key, value string) {
	return fill(o.subject(), topic, SanitizeNamespace(topic)+keyRecord, "key"), fill(o.subject(), topic, SanitizeNamespace(topic)+o.valueRecord(), "value")
}

func fill(template, topic, record, kind string) string {
	return strings.NewReplacer("{topic}", topic, "{record}", record, "{kind}", kind).Replace(template)
}

func (o *Options) subject() string { return cmp.Or(o.Subject, SubjectTopic) }

func (o *Options) valueRecord() string {
	if o.Envelope == EnvelopeRow {
		return rowRecord
	}
	return envelopeRecord
}

// TopicOf is the topic whose values have this subject. It is not known where Subject has no {topic}, and there is none where
// the subject is not one of Subjects.
func (o *Options) TopicOf(subject string) (string, bool) {
	template := o.subject()
	before, _, has := strings.Cut(template, "{topic}")
	if !has {
		return "", false
	}
	topics, records := strings.Count(template, "{topic}"), strings.Count(template, "{record}")
	left := len(subject) - len(fill(template, "", "", "value")) // for topics and records
	for n := 1; n*topics <= left; n++ {
		record := 0 // length of the record's name
		if records > 0 {
			record = (left - n*topics) / records
		}
		if n*topics+record*records != left {
			continue
		}
		at := len(fill(before, "", strings.Repeat("r", record), "value"))
		if at+n > len(subject) {
			continue
		}
		topic := subject[at : at+n]
		if _, value := o.Subjects(topic); value == subject {
			return topic, true
		}
	}
	return "", false
}
