// Package registry is the schema registry that walferry brings along: Confluent's REST API over Confluent's own
// `_schemas` topic, and a client for it or for an external one. It knows subjects, versions, ids and what may follow
// what. It knows nothing of Postgres, of pipelines or of the rows that are written under a schema.
//
// Its parts, in the order in which a registration passes them:
//
//   - [Server] speaks HTTP: paths, bodies, error codes.
//   - [ParseAvro] checks a schema and writes it down in the one form that is stored; [Check] says whether it may follow
//     the versions before it.
//   - [Store] keeps what is registered in memory, plans a write and answers after it is committed.
//   - [Log] is the topic: one fenced writer, everybody may read. [KafkaLog] is the real one, registrytest.Log a fake.
//   - [Client] is the other side of [Server], and of any registry that speaks the same.
//
// # Records
//
// The topic has one partition and is compacted. Keys and values are JSON. The format is Confluent's
// (confluentinc/schema-registry, core/.../storage/*Key.java and *Value.java), so that its registry can be stopped and
// walferry's started on the same topic, or the other way round, and no id changes:
//
//	{"keytype":"SCHEMA","subject":"s","version":1,"magic":1}    {"subject":"s","version":1,"id":7,"schema":"…","deleted":false}
//	                                                            and schemaType (not for AVRO), references, metadata, ruleSet, md5; null: deleted for good
//	{"keytype":"CONFIG","subject":"s","magic":0}                {"subject":"s","compatibilityLevel":"FULL"}; without subject: for all
//	{"keytype":"MODE","subject":"s","magic":0}                  {"subject":"s","mode":"READONLY"}
//	{"keytype":"DELETE_SUBJECT","subject":"s","magic":0}        {"subject":"s","version":3}: versions up to 3 are soft deleted at this place in the log
//	{"keytype":"CLEAR_SUBJECT","subject":"s","magic":0}         {"subject":"s"}: soft deleted versions are forgotten
//	{"keytype":"CONTEXT","tenant":"default","context":".c","magic":0} {"tenant":"default","context":".c"}
//	{"keytype":"NOOP","magic":0}                                nothing: Confluent finds the end of the log with it, and so do we (the session record).
//	                                                            Ours: {"walferry":1,"instance":"…","advertise":"http://…"}, who took the log over and where it is reached
//	{"magic":0,"keytype":"NOOP"}                                {"walferry":1,"maxIds":{".":7}}: ours, see below
//
// Fields that we do not know are kept when a record is written again. The last line is a NOOP to Confluent, which never
// looks at its value, but another key to compaction. It holds the highest id ever given per context and is written in
// the transaction that deletes a version for good: without it, compaction could take the record with the highest id
// away, and the next registration would be given an id that stands in front of old messages.
//
// # Writing
//
// Confluent's registry reads the topic uncommitted. A registration in an aborted transaction is therefore not nothing:
// for a Confluent registry it has happened. So [Store] counts the ids of aborted records as given, and whoever takes
// over the log publishes an aborted record again, as it was, before it writes anything new. What a client was told
// has been committed; what was aborted becomes true or stays unknown, and never becomes something else.
package registry
