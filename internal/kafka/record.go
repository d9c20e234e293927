package kafka

import "time"

// TopicPartition names a partition.
type TopicPartition struct {
	Topic     string
	Partition int32
}

// Header is one header of a record. Keys may repeat; the order is kept.
type Header struct {
	Key   string
	Value []byte
}

// Record is one record as read from a partition. Whoever hands it out says how long Key, Value and Headers are good for.
type Record struct {
	Topic      string
	Partition  int32
	Offset     int64
	Time       time.Time // of the record, in milliseconds; the log append time where the topic says so
	Key, Value []byte    // nil when null
	Headers    []Header
	ProducerID int64 // -1 without an idempotent producer
	Epoch      int16 // the producer's
}
