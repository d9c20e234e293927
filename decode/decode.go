// Package decode turns the messages of Postgres' logical replication plugin pgoutput into row changes.
//
// It is pure: bytes in, values out; no sockets, clocks or goroutines, and it knows nothing of Avro or Kafka.
package decode
