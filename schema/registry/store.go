package registry

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"sync/atomic"
)

// Store is the registry: what is registered, in memory, and the way to register more. It is safe for concurrent use.
//
// Reads come from memory and wait for nobody. Writes go one at a time: the log is taken over if it is not ours, the
// write is planned against what stands in it, and what it changes becomes visible after the commit. A store that has
// been fenced by another process does not know it until its next write, and serves what it knows; that write takes the
// log back, reads what the other one wrote, and goes on from there.
type Store struct {
	log    Log
	logger *slog.Logger

	// writer is held by who writes: a semaphore, since a mutex cannot be waited for with a context. Only its holder
	// sets leading: the log is ours as far as we know, and state is all of it.
	writer  chan struct{}
	leading atomic.Bool

	// mu guards the following. It is held for reading and for applying, never over I/O.
	mu    sync.RWMutex
	state *state
	ready bool // the log has been read once
}

// NewStore makes a store over a log. It does nothing before Open or Follow. logger may be nil.
func NewStore(log Log, logger *slog.Logger) *Store {
	if logger == nil {
		logger = slog.New(slog.DiscardHandler)
	}
	s := &Store{log: log, logger: logger, writer: make(chan struct{}, 1), state: newState()}
	return s
}

// Open takes over the log: older writers are fenced, everything is read, and what was aborted is published again.
// Called at the start; a store that was not opened opens itself at its first write.
func (s *Store) Open(ctx context.Context) error {
	return s.write(ctx, func() ([]Record, error) { return nil, nil })
}

// Follow reads the log without writing, until ctx ends. Writes to this store still take the log over.
func (s *Store) Follow(ctx context.Context) error {
	f, ok := s.log.(Follower)
	if !ok {
		return errors.New("this log cannot be followed")
	}
	fresh := newState()
	return f.Follow(ctx, func(e Entry) error {
		s.mu.Lock()
		defer s.mu.Unlock()
		fresh.apply(e.Key, e.Value)
		fresh.newest = e.Offset
		return nil
	}, func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		// While we write ourselves, what we wrote may be further than what we have followed.
		if !s.leading.Load() && fresh.newest >= s.state.newest {
			s.state, s.ready = fresh, true
		}
	})
}

// Ready tells whether the log has been read.
func (s *Store) Ready() bool {
	s.mu.RLock()
	defer s.mu.RUnlock()
	return s.ready
}

// write plans and commits one change. plan is called with the writer held and may read s.state; it is called again
// when the log had to be taken over in between. No records: nothing to do.
func (s *Store) write(ctx context.Context, plan func() ([]Record, error)) error {
	select {
	case s.writer <- struct{}{}:
		defer func() { <-s.writer }()
	case <-ctx.Done():
		return errorf(CodeTimeout, "Timed out waiting for an earlier write: %v", context.Cause(ctx))
	}
	const attempts = 3
	var last error
	for attempt := range attempts {
		if ctx.Err() != nil {
			break
		}
		if !s.leading.Load() {
			if last = s.takeOver(ctx); last != nil {
				s.logger.Warn("take over the registry's log", "attempt", attempt+1, "error", last)
				continue
			}
		}
		records, err := plan()
		if err != nil || len(records) == 0 {
			return err
		}
		if last = s.log.Append(ctx, records); last == nil {
			s.commit(records)
			return nil
		}
		if errors.Is(last, ErrTooLarge) {
			return errorf(CodeSchemaTooLarge, "Register operation failed because schema is too large")
		}
		// Whether it was written is in the log only. The next round reads it; one that finds its records there plans
		// nothing, and one that finds them aborted publishes them again before it plans.
		s.leading.Store(false)
		s.logger.Warn("append to the registry's log", "attempt", attempt+1, "error", last)
	}
	if ctx.Err() != nil {
		return errorf(CodeTimeout, "Timed out, it may still take effect: %v", errors.Join(context.Cause(ctx), last))
	}
	return errorf(CodeStore, "Error in the backend data store, it may still take effect: %v", last)
}

// commit makes committed records visible.
func (s *Store) commit(records []Record) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, r := range records {
		s.state.apply(r.Key, r.Value)
	}
}

// takeOver fences, reads everything, and publishes again what was aborted.
func (s *Store) takeOver(ctx context.Context) error {
	if err := s.log.Start(ctx); err != nil {
		return fmt.Errorf("start: %w", err)
	}
	fresh := newState()
	var lost ghosts
	err := s.log.Replay(ctx, func(e Entry) error {
		fresh.newest = e.Offset
		if e.Aborted {
			lost.add(fresh, e)
			return nil
		}
		lost.settle(e.Key)
		fresh.apply(e.Key, e.Value)
		return nil
	})
	if err != nil {
		return fmt.Errorf("replay: %w", err)
	}
	if records := lost.records(fresh); len(records) > 0 {
		if err := s.log.Append(ctx, records); err != nil {
			return fmt.Errorf("publish %d aborted records again: %w", len(records), err)
		}
		for _, r := range records {
			fresh.apply(r.Key, r.Value)
		}
		s.logger.Info("published aborted registrations again", "records", len(records))
	}
	if fresh.skipped > 0 || fresh.conflict > 0 {
		s.logger.Warn("records in the registry's log that were left alone", "malformed", fresh.skipped, "conflicting_ids", fresh.conflict)
	}
	s.mu.Lock()
	s.state, s.ready = fresh, true
	s.mu.Unlock()
	s.leading.Store(true)
	return nil
}
