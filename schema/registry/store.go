package registry

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"walferry/internal/failpoint"
)

// Store is the registry: what is registered, in memory, and the way to register more. It is safe for concurrent use.
//
// Reads come from memory and wait for nobody. Writes go one at a time: the log is taken over if it is not ours, the
// write is planned against what stands in it, and what it changes becomes visible after the commit. A store that is
// kept in step by Follow learns there that another one has taken the log over; one that is not learns it at its next
// write, and serves what it knows until then. Where several work together ([Store.Join]), writes are passed on to the
// one that has the log, and it is taken over from one that does not answer.
type Store struct {
	log    Log
	logger *slog.Logger
	self   session // what our session records say
	member *member // nil: alone

	// writer is held by who writes: a semaphore, since a mutex cannot be waited for with a context.
	writer chan struct{}

	// mu guards the following. It is held for reading and for applying, never over I/O.
	mu    sync.RWMutex
	state *state
	ready bool          // the log has been read once
	own   int64         // offset of our session record while the log is ours as far as we know, else -1
	moved chan struct{} // closed when any of these changes; nil while nobody waits

	whole atomic.Int64 // when Follow last had nothing more to read, in ns since 1970; 0 before
}

// NewStore makes a store over a log. It does nothing before Open or Follow. logger may be nil.
func NewStore(log Log, logger *slog.Logger) *Store {
	if logger == nil {
		logger = slog.New(slog.DiscardHandler)
	}
	return &Store{log: log, logger: logger, self: session{instance: newInstance()}, writer: make(chan struct{}, 1), state: newState(), own: -1}
}

// Open takes over the log: older writers are fenced, everything is read, and what was aborted is published again.
// Called at the start; a store that was not opened opens itself at its first write.
func (s *Store) Open(ctx context.Context) error {
	return s.write(ctx, func() ([]Record, error) { return nil, nil })
}

// Follow reads the log without writing, until ctx ends, and shows what is committed as it comes.
func (s *Store) Follow(ctx context.Context) error {
	f, ok := s.log.(Follower)
	if !ok {
		return errors.New("this log cannot be followed")
	}
	fresh := newState() // read aside until it is no older than what is served; nil from then on
	return f.Follow(ctx, func(e Entry) error {
		if fresh != nil {
			fresh.apply(e.Offset, e.Key, e.Value)
			return nil
		}
		s.change(func() { s.state.apply(e.Offset, e.Key, e.Value) })
		return nil
	}, func(next int64) {
		defer func() { s.whole.Store(time.Now().UnixNano()) }()
		if fresh == nil {
			return
		}
		s.change(func() {
			fresh.newest = max(fresh.newest, next-1)
			switch {
			case s.leads() && fresh.session.offset <= s.own:
				// Ours knows more: ids that were given in aborted transactions, too.
			case fresh.newest < s.state.newest:
				return
			default:
				s.state, s.ready = fresh, true
			}
			fresh = nil
		})
	})
}

// Behind returns for how long it has not been known that the store shows everything that is committed: some
// milliseconds while Follow runs and Kafka answers, and growing otherwise. ok is false before it was known at all.
func (s *Store) Behind() (age time.Duration, ok bool) {
	at := s.whole.Load()
	return time.Since(time.Unix(0, at)), at != 0
}

// change changes what mu guards and tells those who wait for it.
func (s *Store) change(fn func()) {
	s.mu.Lock()
	defer s.mu.Unlock()
	fn()
	if s.moved != nil {
		close(s.moved)
		s.moved = nil
	}
}

// leads tells whether the log is ours as far as we know. The caller holds mu.
func (s *Store) leads() bool { return s.own >= 0 && s.state.session.offset <= s.own }

// applied is how far the log has been applied.
func (s *Store) applied() int64 {
	s.mu.RLock()
	defer s.mu.RUnlock()
	return s.state.newest
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
		s.mu.RLock()
		newest, leads := s.state.session.offset, s.leads()
		s.mu.RUnlock()
		if !leads {
			if err := s.elsewhere(ctx); err != nil {
				return err
			}
			if last = s.takeOver(ctx); last != nil {
				s.logger.Warn("take over the registry's log", "attempt", attempt+1, "error", last)
				s.lost(ctx, newest, last)
				continue
			}
		}
		records, err := plan()
		if err != nil || len(records) == 0 {
			return err
		}
		offset, err := s.log.Append(ctx, records)
		if last = err; last == nil {
			s.change(func() { s.commit(s.state, records, offset) })
			failpoint.Hit("registry-answer")
			return nil
		}
		if errors.Is(last, ErrTooLarge) {
			return errorf(CodeSchemaTooLarge, "Register operation failed because schema is too large")
		}
		// Whether it was written is in the log only. The next round reads it; one that finds its records there plans
		// nothing, and one that finds them aborted publishes them again before it plans.
		s.logger.Warn("append to the registry's log", "attempt", attempt+1, "error", last)
		s.lost(ctx, newest, last)
	}
	if ctx.Err() != nil {
		return errorf(CodeTimeout, "Timed out, it may still take effect: %v", errors.Join(context.Cause(ctx), last))
	}
	return errorf(CodeStore, "Error in the backend data store, it may still take effect: %v", last)
}

// commit applies committed records, unless the follower was faster. last is the offset of the last one.
func (s *Store) commit(to *state, records []Record, last int64) {
	for i, r := range records {
		to.apply(last-int64(len(records)-1-i), r.Key, r.Value)
	}
}

// lost notes that the log may not be ours. Where another store has fenced us, it waits a moment to learn which: taking
// the log back would fence that one in turn. newest is the session that was known before.
func (s *Store) lost(ctx context.Context, newest int64, err error) {
	s.change(func() { s.own = -1 })
	if _, ok := ctx.Value(passageKey{}).(passage); ok && s.member != nil && errors.Is(err, ErrFenced) {
		s.await(ctx, s.member.Patience, func() bool { return s.state.session.offset > newest && s.state.session.instance != s.self.instance })
	}
}

// takeOver fences, reads everything, and publishes again what was aborted.
func (s *Store) takeOver(ctx context.Context) error {
	if err := s.log.Start(ctx, s.self.bytes()); err != nil {
		return fmt.Errorf("start: %w", err)
	}
	fresh := newState()
	var lost ghosts
	err := s.log.Replay(ctx, func(e Entry) error {
		if e.Aborted {
			lost.add(fresh, e)
			return nil
		}
		lost.settle(e.Key)
		fresh.apply(e.Offset, e.Key, e.Value)
		return nil
	})
	if err != nil {
		return fmt.Errorf("replay: %w", err)
	}
	failpoint.Hit("registry-read")
	own := fresh.session.offset
	if records := lost.records(fresh); len(records) > 0 {
		last, err := s.log.Append(ctx, records)
		if err != nil {
			return fmt.Errorf("publish %d aborted records again: %w", len(records), err)
		}
		s.commit(fresh, records, last)
		s.logger.Info("published aborted registrations again", "records", len(records))
	}
	if fresh.skipped > 0 || fresh.conflict > 0 {
		s.logger.Warn("records in the registry's log that were left alone", "malformed", fresh.skipped, "conflicting_ids", fresh.conflict)
	}
	err = ErrFenced // while we were reading
	s.change(func() {
		if s.state.session.offset <= own {
			s.state, s.ready, s.own = fresh, true, own
			err = nil
		}
	})
	if err == nil {
		s.logger.Info("took over the registry's log", "offset", own)
	}
	return err
}
