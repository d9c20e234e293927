package registry

import (
	"context"
	"errors"
)

// Record is a key and a value of the log. A nil Value deletes the key.
type Record struct{ Key, Value []byte }

// Entry is a record as it is read.
type Entry struct {
	Offset     int64
	Key, Value []byte // the callee's to keep; Value is nil when null
	// Aborted: the record's transaction was aborted, or not ended where the replay ended. Confluent's registry, which
	// reads uncommitted, has taken it for true.
	Aborted bool
}

// ErrTooLarge is what Append returns, wrapped or not, when a record is larger than the topic takes. Nothing was written
// then, and the log is still the writer's.
var ErrTooLarge = errors.New("the record is larger than the topic takes")

// ErrFenced is what Start and Append return, wrapped, when another writer has started since: its session record stands in
// the log by then, or soon.
var ErrFenced = errors.New("another writer has taken the log over")

// Log is the topic as its one writer uses it. No two methods are called at a time.
type Log interface {
	// Start fences every older writer and marks the end of the log with a session record, whose value is mark. After it
	// has returned, no record of an older session can come to stand behind that one: none of another process, and none
	// of a transaction of ours whose outcome was unknown.
	Start(ctx context.Context, mark []byte) error
	// Replay calls fn for every record up to the mark that Start made, in order, aborted ones included. An error of
	// fn ends it and is returned.
	Replay(ctx context.Context, fn func(Entry) error) error
	// Append writes the records in one transaction and returns, after its commit, the offset of the last one; the others
	// stand right before it. After an error their outcome is unknown, until the next Start and Replay show it.
	Append(ctx context.Context, records []Record) (last int64, err error)
}

// Follower is what a Log may also be able to do: be read without being written.
type Follower interface {
	// Follow calls fn for every committed record from the start of the log on, and goes on until ctx ends, which it
	// returns. caughtUp is called each time when nothing more is there to read, at least once a second; next is the
	// offset where reading goes on.
	Follow(ctx context.Context, fn func(Entry) error, caughtUp func(next int64)) error
}
