package kafka

import (
	"context"
	"fmt"
	"time"

	kafkago "github.com/segmentio/kafka-go"
)

// Replay reads a partition from its start and calls fn, in the order of offsets, for every record at or below offset until
// whose outcome is known by then: records of no transaction, and those whose producer's next control batch is a COMMIT. An
// aborted record is dropped, and so is one without a control batch at or below until. It returns when until has been
// passed; records above are not looked at.
//
// The fetch is an uncommitted one. A read_committed fetch ends at the last stable offset, which a foreign open transaction
// or a stale leader can hold back below records that are long committed; reading up to an offset that we have just been
// given for a record of our own cannot stop short. Such a fetch brings no list of aborted transactions, hence the
// bookkeeping per producer. The caller takes the producer id anew before it writes that record: then every earlier
// transaction of its transactional id has its control batch before it.
//
// Offsets that compaction removed, batches that it emptied and control batches are stepped over; until may be one of these.
// The record's slices are the callee's to keep. An error of fn ends the replay and is returned as it is.
func (c *Client) Replay(ctx context.Context, topic string, partition int32, until int64, fn func(Record) error) error {
	return c.replay(ctx, topic, partition, until, ledger{}, fn)
}

// ReplayAll is Replay, but hands out the records that Replay drops as well, with committed false, in their places. The
// registry needs them: readers of its topic that read uncommitted have seen them.
func (c *Client) ReplayAll(ctx context.Context, topic string, partition int32, until int64, fn func(r Record, committed bool) error) error {
	held := ledger{lost: func(r Record) error { return fn(r, false) }}
	return c.replay(ctx, topic, partition, until, held, func(r Record) error { return fn(r, true) })
}

func (c *Client) replay(ctx context.Context, topic string, partition int32, until int64, held ledger, fn func(Record) error) error {
	tp := TopicPartition{topic, partition}
	pos, err := c.ListOffset(ctx, topic, partition, Earliest)
	if err != nil {
		return fmt.Errorf("replay: %w", err)
	}
	var (
		failures int
		idle     int
		last     error
	)
	for pos <= until {
		part, err := c.fetchOne(ctx, tp, pos, readUncommitted, c.pollWait())
		if err == nil {
			err = part.err
		}
		if err != nil {
			if ctx.Err() != nil {
				return c.replayStopped(ctx, tp, pos, until, last)
			}
			last = err
			switch {
			case IsCode(err, kafkago.OffsetOutOfRange) && failures < 10:
				// The log's start moved past us (records were deleted: they are no more), or this leader is behind.
				start, err := c.ListOffset(ctx, topic, partition, Earliest)
				if err != nil {
					return fmt.Errorf("replay: %w", err)
				}
				pos = max(pos, start)
			case Classify(err) != Retry:
				return fmt.Errorf("replay of topic %s partition %d at offset %d: %w", topic, partition, pos, err)
			}
			failures++
			c.Refresh()
			if Pause(ctx, failures) != nil {
				return c.replayStopped(ctx, tp, pos, until, last)
			}
			continue
		}
		before := pos
		if pos, err = held.read(part.set, tp, pos, until, fn); err != nil {
			return err
		}
		if pos > before {
			failures, idle = 0, 0
			continue
		}
		// Nothing came although until is below the end: a leader that is behind (its high watermark is), or no leader any more.
		if idle++; idle%5 == 0 {
			c.Refresh()
		}
		if part.highWatermark > before {
			// The broker has something there and sent nothing that parses: do not spin.
			if Pause(ctx, idle) != nil {
				return c.replayStopped(ctx, tp, pos, until, last)
			}
		}
		if ctx.Err() != nil {
			return c.replayStopped(ctx, tp, pos, until, last)
		}
	}
	return held.finish(fn)
}

func (c *Client) replayStopped(ctx context.Context, tp TopicPartition, pos, until int64, last error) error {
	err := fmt.Errorf("replay of topic %s partition %d stopped at offset %d of %d: %w", tp.Topic, tp.Partition, pos, until, context.Cause(ctx))
	if last != nil {
		err = fmt.Errorf("%w (last: %w)", err, last)
	}
	return err
}

// pollWait is how long a fetch may wait at the broker: well below the time-out of the request.
func (c *Client) pollWait() time.Duration {
	return min(500*time.Millisecond, c.cfg.RequestTimeout/2)
}

// fetchOne reads one partition from its leader. The error is of finding it or of the exchange.
func (c *Client) fetchOne(ctx context.Context, tp TopicPartition, offset int64, isolation int8, wait time.Duration) (*fetched, error) {
	nodes, err := c.Leaders(ctx, []TopicPartition{tp})
	if err != nil {
		return nil, err
	}
	parts, err := c.fetch(ctx, nodes[0], &fetchRequest{isolation: isolation, maxWait: wait, parts: []fetchFrom{{tp, offset}}})
	if err != nil {
		return nil, err
	}
	for i := range parts {
		if parts[i].TopicPartition == tp {
			return &parts[i], nil
		}
	}
	return nil, fmt.Errorf("%w: the answer does not name topic %s partition %d", ErrMalformed, tp.Topic, tp.Partition)
}

// ledger holds records back until their transaction is decided, and lets them out in the order of their offsets.
type ledger struct {
	queue []*heldBatch           // in order of offsets; its head is undecided, or the queue is empty
	open  map[int64][]*heldBatch // undecided ones by producer id
	lost  func(Record) error     // gets the records that are dropped; may be nil
}

type heldBatch struct {
	records []Record
	state   holdState
}

type holdState int8

const (
	undecided holdState = iota
	counts
	dropped
)

// read takes a record set fetched at pos and returns the position behind its batches that begin at or below until.
func (l *ledger) read(set []byte, tp TopicPartition, pos, until int64, fn func(Record) error) (int64, error) {
	for len(set) > 0 && pos <= until {
		b, rest, err := nextBatch(set)
		if err != nil {
			return pos, fmt.Errorf("topic %s partition %d: %w", tp.Topic, tp.Partition, err)
		}
		if b == nil || b.base > until {
			if b != nil {
				pos = b.base // compaction removed everything in between, until included
			}
			break
		}
		set = rest
		if b.next <= pos {
			continue // a fetch into the middle of a compressed set may begin earlier
		}
		if err := l.add(b, tp, pos, until, fn); err != nil {
			return pos, err
		}
		pos = b.next
	}
	return pos, nil
}

func (l *ledger) add(b *recordBatch, tp TopicPartition, from, until int64, fn func(Record) error) error {
	if b.control {
		commit, ok, err := b.committed()
		if err != nil {
			return fmt.Errorf("topic %s partition %d: %w", tp.Topic, tp.Partition, err)
		}
		if !ok {
			return nil
		}
		state := dropped
		if commit {
			state = counts
		}
		for _, h := range l.open[b.producerID] {
			h.state = state
		}
		delete(l.open, b.producerID)
		return l.flush(fn)
	}
	recs, err := b.records(tp.Topic, tp.Partition, from)
	if err != nil {
		return fmt.Errorf("topic %s partition %d: %w", tp.Topic, tp.Partition, err)
	}
	for len(recs) > 0 && recs[len(recs)-1].Offset > until {
		recs = recs[:len(recs)-1]
	}
	h := &heldBatch{records: recs, state: counts}
	if b.transactional {
		h.state = undecided
		if l.open == nil {
			l.open = map[int64][]*heldBatch{}
		}
		l.open[b.producerID] = append(l.open[b.producerID], h)
	}
	l.queue = append(l.queue, h)
	return l.flush(fn)
}

// finish drops what is still undecided and lets out the rest.
func (l *ledger) finish(fn func(Record) error) error {
	for _, held := range l.open {
		for _, h := range held {
			h.state = dropped
		}
	}
	l.open = nil
	return l.flush(fn)
}

// flush lets out what is decided at the head of the queue.
func (l *ledger) flush(fn func(Record) error) error {
	for len(l.queue) > 0 && l.queue[0].state != undecided {
		h := l.queue[0]
		l.queue[0] = nil
		l.queue = l.queue[1:]
		out := fn
		if h.state == dropped {
			out = l.lost
		}
		if out == nil {
			continue
		}
		for _, r := range h.records {
			if err := out(r); err != nil {
				return err
			}
		}
	}
	return nil
}
