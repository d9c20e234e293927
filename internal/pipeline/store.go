package pipeline

import (
	"context"
	"errors"
	"fmt"
	"time"

	"walferry/checkpoint"
	"walferry/internal/kafka"
	"walferry/sink"
)

// store is the checkpoint topic of this pipeline: what is saved outside of the event batches, and how it is read back.
type store struct {
	topic    string
	kafka    *kafka.Client
	producer *sink.Producer
	session  checkpoint.Session
	changes  string // topic of schema changes; "" for none
	systemID string
	now      func() time.Time
	batch    *sink.Batch
}

// Replay is checkpoint.Replayer on the cluster.
func (s *store) Replay(ctx context.Context, topic string, partition int32, until int64, fn func(key, value []byte, offset int64) error) error {
	return s.kafka.Replay(ctx, topic, partition, until, func(r kafka.Record) error { return fn(r.Key, r.Value, r.Offset) })
}

// Peek reads what is saved in a checkpoint topic, which may not exist yet, without fencing anybody.
func Peek(ctx context.Context, client *kafka.Client, topic string) (*checkpoint.State, error) {
	_, exists, err := client.Partitions(ctx, topic)
	if err != nil {
		return nil, err
	}
	if !exists {
		return new(checkpoint.State), nil
	}
	return (&store{topic: topic, kafka: client}).peek(ctx)
}

// peek reads what is there without fencing anybody. Open transactions count for nothing.
func (s *store) peek(ctx context.Context) (*checkpoint.State, error) {
	end, err := s.kafka.EndOffset(ctx, s.topic, 0)
	if err != nil {
		return nil, err
	}
	return checkpoint.Load(ctx, s, s.topic, end-1)
}

// take fences every older instance, settles its open transaction, and reads the checkpoint topic.
func (s *store) take(ctx context.Context) (*checkpoint.State, error) {
	return s.sync(ctx, s.producer.Init)
}

// sync takes the producer id by init, commits a session record, and reads the topic up to it. Reading is uncommitted: a last
// stable offset can be held back by others, reading up to our own committed record cannot.
func (s *store) sync(ctx context.Context, init func(context.Context) error) (*checkpoint.State, error) {
	if err := init(ctx); err != nil {
		return nil, fmt.Errorf("take the producer id: %w", err)
	}
	hit("initialised")
	s.session.Started = s.now()
	value, err := checkpoint.AppendSession(nil, &s.session)
	if err != nil {
		return nil, err
	}
	offset, err := s.write(ctx, []byte(checkpoint.SessionKey), value)
	if err != nil {
		return nil, fmt.Errorf("commit the session record: %w", err)
	}
	hit("session-committed")
	return checkpoint.Load(ctx, s, s.topic, offset)
}

// write commits one record in a transaction of its own and returns its offset. On an uncertain outcome it takes the producer id
// anew and writes again: every record written here may be there twice, since the newest one of a key counts.
func (s *store) write(ctx context.Context, key, value []byte) (int64, error) {
	if s.batch == nil {
		s.batch = s.producer.NewBatch()
	}
	s.batch.Reset()
	if err := s.batch.AppendLast(s.topic, 0, s.now(), key, value, nil); err != nil {
		return 0, err
	}
	for {
		res, err := s.producer.Publish(ctx, s.batch)
		if err == nil {
			return res.LastOffsets[sink.TopicPartition{Topic: s.topic, Partition: 0}], nil
		}
		var uncertain *sink.UncertainError
		var aborted *sink.AbortedError
		switch {
		case ctx.Err() != nil:
			return 0, context.Cause(ctx)
		case mustInit(err):
			return 0, err
		case errors.As(err, &uncertain):
			if err := s.producer.Recover(ctx); err != nil {
				return 0, err
			}
		case errors.As(err, &aborted):
		default:
			return 0, err
		}
		if err := sleep(ctx, 20*time.Millisecond); err != nil {
			return 0, err
		}
	}
}

// save commits a checkpoint that covers no events: those of the first start.
func (s *store) save(ctx context.Context, c *checkpoint.Checkpoint) error {
	value, err := checkpoint.AppendCheckpoint(nil, c)
	if err != nil {
		return err
	}
	_, err = s.write(ctx, []byte(checkpoint.Key), value)
	return err
}

// saveTextMode commits that this pipeline's stream is read as text.
func (s *store) saveTextMode(ctx context.Context, reason string) error {
	value, err := checkpoint.AppendText(nil, &checkpoint.Text{On: true, Reason: reason})
	if err != nil {
		return err
	}
	_, err = s.write(ctx, []byte(checkpoint.TextKey), value)
	return err
}

// seal puts what is saved with a batch behind its records, relation versions first and the checkpoint last, and the schema
// changes that are published with it.
func (s *store) seal(b *sealed) error {
	for _, r := range b.superseded {
		if err := b.batch.AppendLast(s.topic, 0, s.now(), checkpoint.AppendRelationKey(nil, r), nil, nil); err != nil {
			return fmt.Errorf("forget relation %d: %w", r.OID, err)
		}
	}
	for _, r := range b.relations {
		value, err := checkpoint.AppendRelation(nil, r)
		if err != nil {
			return err
		}
		if err := b.batch.AppendLast(s.topic, 0, s.now(), checkpoint.AppendRelationKey(nil, r), value, nil); err != nil {
			return fmt.Errorf("save relation %d: %w", r.OID, err)
		}
	}
	for _, m := range b.moved {
		value, err := checkpoint.AppendMoved(nil, m)
		if err != nil {
			return err
		}
		if err := b.batch.AppendLast(s.topic, 0, s.now(), []byte(checkpoint.MovedPrefix+m.Topic), value, nil); err != nil {
			return fmt.Errorf("save that topic %s has moved: %w", m.Topic, err)
		}
	}
	for _, c := range b.copies {
		value, err := checkpoint.AppendCopy(nil, c)
		if err != nil {
			return err
		}
		if err := b.batch.AppendLast(s.topic, 0, s.now(), checkpoint.AppendCopyKey(nil, c.OID), value, nil); err != nil {
			return fmt.Errorf("save the copy of table %d: %w", c.OID, err)
		}
	}
	for _, c := range b.changes {
		if err := c.appendTo(b.batch, s.changes, s.systemID); err != nil {
			return err
		}
	}
	value, err := checkpoint.AppendCheckpoint(nil, &b.checkpoint)
	if err != nil {
		return err
	}
	return b.batch.AppendLast(s.topic, 0, s.now(), []byte(checkpoint.Key), value, nil)
}
