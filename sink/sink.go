// Package sink publishes batches of records into Kafka, each batch in one Kafka transaction.
//
// A Batch is filled with Append, record by record, straight into encoded record batches. Producer.Publish adds every
// partition to a transaction, produces, and commits; it returns when the outcome is known, or says that it is not. Topics,
// partitions, keys and values are bytes here: what a position means is the caller's business.
//
// # What Publish promises
//
// When Publish returns nil every record of the batch is visible to a read_committed consumer, once. When it returns an
// *AbortedError none is or ever will be. When it returns an *UncertainError either all are or none: the caller settles it
// by Recover (or Init), a record of its own, and a read up to that record. ErrFenced means that another producer holds the
// transactional id; ErrInitRequired that only Init can go on.
//
// # Rules
//
// They follow from what brokers were seen to do; the tests named Conformance repeat each on a real broker.
//
//  1. A late copy of a request carries only producer id and epoch, so it would act on the next transaction. After every
//     abort, and after every AddPartitionsToTxn, Produce or EndTxn of which one copy was sent and not answered (also when a
//     later copy was answered and the transaction committed) InitProducerID with the current id and epoch comes before
//     the next transaction. An answer with an error code is an answer and needs none.
//  2. Init asks with -1/-1. Id and epoch are taken from every answer, and sequences start at 0 with each.
//  3. The decision of an EndTxn is never changed by a retry: a commit is repeated as a commit or left unknown.
//  4. Every partition is added before anything is produced. CONCURRENT_TRANSACTIONS, normal right after a commit, is
//     retried from 1 ms.
//  5. transaction timeout > publish deadline > request time-out, so a transaction that its broker gave up is one that we
//     gave up before.
package sink

import (
	"context"
	"fmt"
	"time"

	"walferry/internal/kafka"
)

// TopicPartition names a partition.
type TopicPartition = kafka.TopicPartition

// Header is one header of a record.
type Header = kafka.Header

// Config is what a Producer needs to know.
type Config struct {
	// TransactionalID is the pipeline's stable name at the brokers. Two producers with the same one fence each other. Required.
	TransactionalID string
	// TransactionTimeout is after how long the coordinator aborts an open transaction by itself, measured from its first
	// partition. Default 60 s; the broker's transaction.max.timeout.ms (15 min) is the upper end. An open transaction of a
	// dead producer holds back read_committed consumers for this long, or until the next Init.
	TransactionTimeout time.Duration
	// PublishTimeout bounds one Publish with all its retries. Default half of TransactionTimeout; must be shorter than it.
	PublishTimeout time.Duration
	// Compression is "none", "lz4" (the default), "gzip", "snappy" or "zstd".
	Compression string
	// MaxBatchBytes is the size at which Batch.Full says so: uncompressed bytes in one Kafka transaction. Default 8 MiB.
	// It is advice: Append takes what it is given.
	MaxBatchBytes int
	// MaxChunkBytes bounds one record batch before compression; a topic's max.message.bytes bounds it too. Default 1 MiB.
	MaxChunkBytes int
	// MaxRequestBytes bounds one produce request (the broker's socket.request.max.bytes is 100 MiB), one record batch at
	// least. Default 16 MiB.
	MaxRequestBytes int
	// MayRecover, if set, is asked before each Recover; an error is Recover's. A producer that was replaced must not ask for its
	// id again: a coordinator that has an open transaction of the new one ends that before it looks at the old epoch
	// (TransactionCoordinator.prepareInitProducerIdTransition, state Ongoing), and the new one is fenced.
	MayRecover func(context.Context) error
}

func (c *Config) validate() error {
	if c.TransactionalID == "" {
		return fmt.Errorf("sink: no transactional id")
	}
	if c.TransactionTimeout == 0 {
		c.TransactionTimeout = 60 * time.Second
	}
	if c.PublishTimeout == 0 {
		c.PublishTimeout = c.TransactionTimeout / 2
	}
	if c.TransactionTimeout < time.Millisecond || c.PublishTimeout < 0 {
		return fmt.Errorf("sink: time-outs must be positive")
	}
	if c.PublishTimeout >= c.TransactionTimeout {
		return fmt.Errorf("sink: publish time-out %v must be shorter than the transaction time-out %v: "+
			"else the broker aborts a transaction that is still being published", c.PublishTimeout, c.TransactionTimeout)
	}
	if c.Compression == "" {
		c.Compression = "lz4"
	}
	if c.MaxBatchBytes == 0 {
		c.MaxBatchBytes = 8 << 20
	}
	if c.MaxChunkBytes == 0 {
		c.MaxChunkBytes = 1 << 20
	}
	if c.MaxRequestBytes == 0 {
		c.MaxRequestBytes = 16 << 20
	}
	if c.MaxBatchBytes < 0 || c.MaxChunkBytes < 1024 || c.MaxRequestBytes < 1024 {
		return fmt.Errorf("sink: sizes must be at least 1 KiB")
	}
	return nil
}

// TopicSpec is a topic as the caller wants it.
type TopicSpec struct {
	Name string
	// Partitions and ReplicationFactor are used when the topic is created; 0 leaves the broker's default. Where the topic
	// exists, Partitions that differ and fewer replicas than asked for are a *TopicMismatchError.
	Partitions        int
	ReplicationFactor int
	// CleanupPolicy is "compact", "delete", "compact,delete" or "", which accepts any. It is checked.
	CleanupPolicy string
	// Configs are further settings for creation only; a topic that exists keeps its own.
	Configs map[string]string
	// MustExist refuses to create it.
	MustExist bool
}

// TopicInfo is a topic as the cluster has it.
type TopicInfo struct {
	Name              string
	Created           bool // by this call
	Partitions        int
	ReplicationFactor int // the smallest of its partitions
	CleanupPolicy     string
	MaxMessageBytes   int // bytes of one record batch as it is stored
	MinInsyncReplicas int
	CompressionType   string        // "producer" leaves batches as we send them
	Retention         time.Duration // retention.ms; negative is for ever
	RetentionBytes    int64         // retention.bytes per partition; -1 is without limit
}

// Result is what a committed Publish tells.
type Result struct {
	// Offsets are the base offsets per partition: of the first record that the batch has for it. Later records follow
	// without a gap within one record batch; another producer's records may lie between two of them.
	Offsets map[TopicPartition]int64
	// LastOffsets are the offsets of the last record per partition.
	LastOffsets map[TopicPartition]int64
	// Bytes were sent, after compression. Requests counts produce requests, retries included.
	Bytes, Requests int
}
