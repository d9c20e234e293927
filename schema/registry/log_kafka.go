package registry

import (
	"context"
	"errors"
	"fmt"

	"walferry/internal/failpoint"
	"walferry/internal/kafka"
)

// TxnWriter is a transactional producer under the registry's own transactional id, as [KafkaLog] uses it. sink.Producer
// does the work; this package must not know it.
type TxnWriter interface {
	// Init takes the producer id anew: it fences older producers and settles a transaction that was left open, or
	// whose outcome is unknown.
	Init(ctx context.Context) error
	// Write writes the records to partition 0 of the topic in one Kafka transaction and returns the offset of the last
	// one after the commit. A record that is too large is ErrTooLarge, with nothing written.
	Write(ctx context.Context, topic string, records []Record) (lastOffset int64, err error)
}

// Replayer reads the topic; *kafka.Client does.
type Replayer interface {
	ReplayAll(ctx context.Context, topic string, partition int32, until int64, fn func(r kafka.Record, committed bool) error) error
}

// KafkaLog is the [Log] in a compacted topic with one partition, which must exist. Its road is the one of every start
// of walferry: take the producer id (fence), commit a session record, read up to its offset uncommitted, then write.
//
// The session record is a NOOP as Confluent's registry writes it to find the end of the log. Its transaction is
// committed before its offset is known, so what stands before it is decided, and a read up to it cannot stop short.
type KafkaLog struct {
	topic  string
	writer TxnWriter
	reader Replayer
	client *kafka.Client // for Follow; nil without
	until  int64         // offset of the session record, -1 before the first Start
}

// NewKafkaLog makes the log of a topic, "_schemas" as a rule. client also reads; it stays the caller's.
func NewKafkaLog(client *kafka.Client, writer TxnWriter, topic string) *KafkaLog {
	return &KafkaLog{topic: topic, writer: writer, reader: client, client: client, until: -1}
}

// Start fences older writers and commits the session record.
func (l *KafkaLog) Start(ctx context.Context, mark []byte) error {
	l.until = -1
	if err := l.writer.Init(ctx); err != nil {
		return fmt.Errorf("take the registry's producer id: %w", fenced(err))
	}
	failpoint.Hit("registry-fenced")
	until, err := l.writer.Write(ctx, l.topic, []Record{{sessionKey, mark}})
	if err != nil {
		return fmt.Errorf("write the session record to topic %s: %w", l.topic, fenced(err))
	}
	failpoint.Hit("registry-marked")
	l.until = until
	return nil
}

func fenced(err error) error {
	if errors.Is(err, kafka.ErrFenced) {
		return fmt.Errorf("%w: %w", ErrFenced, err)
	}
	return err
}

// Replay reads up to the session record of the last Start.
func (l *KafkaLog) Replay(ctx context.Context, fn func(Entry) error) error {
	if l.until < 0 {
		return errors.New("replay before start")
	}
	err := l.reader.ReplayAll(ctx, l.topic, 0, l.until, func(r kafka.Record, committed bool) error {
		// The session record's own commit stands behind it; Start has seen it.
		return fn(Entry{Offset: r.Offset, Key: r.Key, Value: r.Value, Aborted: !committed && r.Offset != l.until})
	})
	if err != nil {
		return fmt.Errorf("read topic %s: %w", l.topic, err)
	}
	return nil
}

// Append writes in one Kafka transaction.
func (l *KafkaLog) Append(ctx context.Context, records []Record) (int64, error) {
	if l.until < 0 {
		return 0, errors.New("append before start")
	}
	failpoint.Hit("registry-append")
	last, err := l.writer.Write(ctx, l.topic, records)
	if err == nil {
		failpoint.Hit("registry-appended")
	}
	return last, fenced(err)
}

// Follow reads the topic as a read_committed consumer, without writing.
func (l *KafkaLog) Follow(ctx context.Context, fn func(Entry) error, caughtUp func(next int64)) error {
	if l.client == nil {
		return errors.New("follow without a client")
	}
	tp := kafka.TopicPartition{Topic: l.topic}
	reader := l.client.NewReader(map[kafka.TopicPartition]int64{tp: kafka.Earliest})
	for {
		records, err := reader.Poll(ctx)
		if err != nil {
			return fmt.Errorf("follow topic %s: %w", l.topic, err)
		}
		for _, r := range records {
			if err := fn(Entry{Offset: r.Offset, Key: r.Key, Value: r.Value}); err != nil {
				return err
			}
		}
		if next, stable := reader.Position(tp); next >= stable {
			caughtUp(next)
		}
	}
}
