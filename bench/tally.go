package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"hash/maphash"
	"slices"

	"github.com/twmb/franz-go/pkg/kgo"
)

// A consumer reads a topic as anybody does who reads only what is committed. It shares no code with walferry.
type consumer struct {
	client *kgo.Client
	next   map[int32]int64 // offset behind the last record, by partition; markers of transactions included
	tally  tally
	each   func(*kgo.Record) error // if set, it takes the records in the tally's place, markers of transactions too
}

func newConsumer(broker, topic string) (*consumer, error) {
	client, err := kgo.NewClient(kgo.SeedBrokers(broker), kgo.ConsumeTopics(topic), kgo.FetchIsolationLevel(kgo.ReadCommitted()),
		kgo.ConsumeResetOffset(kgo.NewOffset().AtStart()), kgo.KeepControlRecords())
	if err != nil {
		return nil, fmt.Errorf("consumer: %w", err)
	}
	return &consumer{client: client, next: map[int32]int64{}, tally: tally{seed: maphash.MakeSeed()}}, nil
}

// read takes records until enough says so.
func (c *consumer) read(ctx context.Context, enough func() bool) error {
	for !enough() {
		fetches := c.client.PollFetches(ctx)
		if ctx.Err() != nil {
			return fmt.Errorf("after %d records: %w", c.tally.records(), context.Cause(ctx))
		}
		if err := fetches.Err(); err != nil {
			return fmt.Errorf("consumer: %w", err)
		}
		for i := fetches.RecordIter(); !i.Done(); {
			r := i.Next()
			c.next[r.Partition] = r.Offset + 1
			take := c.each
			if take == nil {
				take = c.change
			}
			if err := take(r); err != nil {
				return fmt.Errorf("partition %d offset %d: %w", r.Partition, r.Offset, err)
			}
		}
	}
	return nil
}

// change counts the record of a change.
func (c *consumer) change(r *kgo.Record) error {
	if r.Attrs.IsControl() {
		return nil
	}
	return c.tally.add(r)
}

// A tally says whether every change came once. Each record has an id that no other has, in its header; behind its last slash
// stands which part of its change's event it is, 0 for the event itself and 1 for the tombstone behind a delete.
type tally struct {
	seed       maphash.Seed
	ids        []uint64 // hashes: a million of them have two alike by chance once in forty million runs
	events     int
	tombstones int
}

func (t *tally) records() int { return len(t.ids) }

func (t *tally) add(r *kgo.Record) error {
	at := slices.IndexFunc(r.Headers, func(h kgo.RecordHeader) bool { return h.Key == "id" })
	if at < 0 {
		return errors.New("a record without the header id")
	}
	id := r.Headers[at].Value
	t.ids = append(t.ids, maphash.Bytes(t.seed, id))
	switch {
	case bytes.HasSuffix(id, []byte("/0")) && r.Value != nil:
		t.events++
	case bytes.HasSuffix(id, []byte("/1")) && r.Value == nil:
		t.tombstones++
	default:
		return fmt.Errorf("record %s with a value of %d bytes is neither an event nor its tombstone", id, len(r.Value))
	}
	return nil
}

// addRead counts a row of a copy: its id ends in a hash of its key.
func (t *tally) addRead(r *kgo.Record) error {
	at := slices.IndexFunc(r.Headers, func(h kgo.RecordHeader) bool { return h.Key == "id" })
	if at < 0 || r.Value == nil {
		return errors.New("a row of a copy without an id, or without a value")
	}
	t.ids = append(t.ids, maphash.Bytes(t.seed, r.Headers[at].Value))
	t.events++
	return nil
}

// check compares with what was committed. It changes the order of the ids.
func (t *tally) check(changes, deletes int) error {
	slices.Sort(t.ids)
	repeated := len(t.ids) - len(slices.Compact(slices.Clone(t.ids)))
	if t.events != changes || t.tombstones != deletes || repeated != 0 {
		return fmt.Errorf("%d events and %d tombstones came, %d of them more than once, of %d changes with %d deletes",
			t.events, t.tombstones, repeated, changes, deletes)
	}
	return nil
}
