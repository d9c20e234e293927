// Package registrytest has a topic in memory for tests of the registry: it fences, aborts and loses answers as Kafka
// does, and can be stopped at every step.
package registrytest

import (
	"context"
	"fmt"
	"slices"
	"sync"

	"walferry/schema/registry"
)

// Topic is the `_schemas` topic, shared by all who write to it. It is safe for concurrent use.
type Topic struct {
	mu      sync.Mutex
	entries []entry // guarded by mu
	next    int64   // guarded by mu: offset of the next entry
	epoch   int     // guarded by mu: of the newest writer
	changed chan struct{}
}

type entry struct {
	registry.Entry
	open bool // its transaction is not ended
}

// NewTopic makes an empty topic.
func NewTopic() *Topic { return &Topic{changed: make(chan struct{})} }

// Log returns a new writer: a process. It is a registry.Log and a registry.Follower.
func (t *Topic) Log() *Log { return &Log{topic: t} }

// Write puts a committed record at the end, as a registry without transactions does.
func (t *Topic) Write(key, value []byte) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.put(registry.Record{Key: key, Value: value}, false)
}

// Abort puts an aborted record at the end.
func (t *Topic) Abort(key, value []byte) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.put(registry.Record{Key: key, Value: value}, false)
	t.entries[len(t.entries)-1].Aborted = true
}

func (t *Topic) put(r registry.Record, open bool) {
	t.entries = append(t.entries, entry{registry.Entry{Offset: t.next, Key: slices.Clone(r.Key), Value: slices.Clone(r.Value), Aborted: open}, open})
	if r.Value == nil {
		t.entries[len(t.entries)-1].Value = nil
	}
	t.next++
	close(t.changed)
	t.changed = make(chan struct{})
}

// end ends the open transaction.
func (t *Topic) end(commit bool) {
	for i := range t.entries {
		if e := &t.entries[i]; e.open {
			e.open, e.Aborted = false, !commit
		}
	}
	t.next++ // the control record
	close(t.changed)
	t.changed = make(chan struct{})
}

// Entries returns what a reader that reads uncommitted sees, in order: aborted records are among it.
func (t *Topic) Entries() []registry.Entry {
	t.mu.Lock()
	defer t.mu.Unlock()
	var list []registry.Entry
	for _, e := range t.entries {
		list = append(list, e.Entry)
	}
	return list
}

// Compact does what the broker's cleaner may do at any time: of each key the newest committed record stays, deleted
// keys and aborted records go.
func (t *Topic) Compact() {
	t.mu.Lock()
	defer t.mu.Unlock()
	newest := map[string]int64{}
	for _, e := range t.entries {
		if !e.Aborted {
			newest[string(e.Key)] = e.Offset
		}
	}
	t.entries = slices.DeleteFunc(t.entries, func(e entry) bool {
		return !e.open && (e.Aborted || e.Value == nil || newest[string(e.Key)] != e.Offset)
	})
}

// Log is one writer.
type Log struct {
	topic *Topic
	epoch int
	until int64
	// Fail, when set, is asked at every step; an error stops the method there. Steps of Start: "start", "fenced",
	// "marked". Of Replay: "replay" before each record. Of Append: "append" before anything, "written" after each
	// record, "committed" after the commit, whose answer is then lost.
	Fail func(step string) error
}

func (l *Log) fail(ctx context.Context, step string) error {
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	if l.Fail != nil {
		return l.Fail(step)
	}
	return nil
}

// Start is InitProducerID, which aborts what is open, and the session record.
func (l *Log) Start(ctx context.Context, mark []byte) error {
	if err := l.fail(ctx, "start"); err != nil {
		return err
	}
	l.topic.mu.Lock()
	l.topic.epoch++
	l.epoch = l.topic.epoch
	l.topic.end(false)
	l.topic.mu.Unlock()
	if err := l.fail(ctx, "fenced"); err != nil {
		return err
	}
	l.topic.mu.Lock()
	defer l.topic.mu.Unlock()
	if l.epoch != l.topic.epoch {
		return registry.ErrFenced
	}
	l.until = l.topic.next
	l.topic.put(registry.Record{Key: []byte(`{"keytype":"NOOP","magic":0}`), Value: mark}, false)
	return l.fail(ctx, "marked")
}

// Replay hands out all entries up to the session record.
func (l *Log) Replay(ctx context.Context, fn func(registry.Entry) error) error {
	for _, e := range l.topic.Entries() {
		if err := l.fail(ctx, "replay"); err != nil {
			return err
		}
		if e.Offset > l.until {
			return nil
		}
		if err := fn(e); err != nil {
			return err
		}
	}
	return nil
}

// Append is one transaction.
func (l *Log) Append(ctx context.Context, records []registry.Record) (int64, error) {
	if err := l.fail(ctx, "append"); err != nil {
		return 0, err
	}
	var last int64
	for _, r := range records {
		l.topic.mu.Lock()
		if l.epoch != l.topic.epoch || l.epoch == 0 {
			l.topic.mu.Unlock()
			return 0, fmt.Errorf("append: %w", registry.ErrFenced)
		}
		last = l.topic.next
		l.topic.put(r, true)
		l.topic.mu.Unlock()
		if err := l.fail(ctx, "written"); err != nil {
			return 0, err
		}
	}
	l.topic.mu.Lock()
	if l.epoch != l.topic.epoch {
		l.topic.mu.Unlock()
		return 0, fmt.Errorf("commit: %w", registry.ErrFenced)
	}
	l.topic.end(true)
	l.topic.mu.Unlock()
	return last, l.fail(ctx, "committed")
}

// Follow hands out committed entries as they come.
func (l *Log) Follow(ctx context.Context, fn func(registry.Entry) error, caughtUp func(next int64)) error {
	next := int64(0)
	for {
		l.topic.mu.Lock()
		changed := l.topic.changed
		var list []registry.Entry
		for _, e := range l.topic.entries {
			if e.open {
				break // read committed: nothing behind an open transaction
			}
			if e.Offset >= next {
				list = append(list, e.Entry)
			}
		}
		l.topic.mu.Unlock()
		for _, e := range list {
			next = e.Offset + 1
			if e.Aborted {
				continue
			}
			if err := fn(e); err != nil {
				return err
			}
		}
		caughtUp(next)
		select {
		case <-changed:
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
}
