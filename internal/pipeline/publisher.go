package pipeline

import (
	"context"
	"errors"
	"fmt"
	"time"

	"walferry/checkpoint"
	"walferry/internal/failpoint"
	"walferry/sink"
)

// sealed is a batch that takes no more records, with the checkpoint that its Kafka transaction saves.
type sealed struct {
	batch      *sink.Batch
	checkpoint checkpoint.Checkpoint
	relations  []*checkpoint.Relation // versions first used in it
	superseded []*checkpoint.Relation // versions that it takes away
	moved      []*checkpoint.Moved    // tables that go to another topic from a row in it on
	changes    []*schemaChange        // one for each of relations that is a change
	copies     []*checkpoint.Copy     // of tables whose copy it brings further
	read       int                    // rows of chunks that it brings, or for which the stream had newer ones
	commands   []*copyCommand         // that are done when it is committed
	stats      batchStats
	sealedAt   time.Time
}

// batchStats are counted when a batch is sealed and reported when it is committed.
type batchStats struct {
	Batch
	changes                                    Changes
	transactions, split, uncaptured, truncates int64
	copiedBytes                                int64     // of chunks, as the server sent them
	contained                                  int64     // rows left out because a copy that was under way contains them
	beat                                       bool      // a heartbeat's transaction is in it
	lastCommit                                 time.Time // commit time of the newest transaction in it
}

// outcome is how the transaction of one sealed batch ended: committed when err is nil.
type outcome struct {
	sealed *sealed
	took   time.Duration
	err    error
}

// errCheckpointForeign says that the checkpoint topic holds neither the checkpoint of our batch nor the one before it:
// somebody else wrote there.
var errCheckpointForeign = errors.New("the checkpoint topic holds a checkpoint that this instance did not write")

// publisher runs Kafka transactions one at a time and settles those whose outcome is unknown.
//
// The bytes of a batch are kept until its fate is known and no later batch overtakes it: Publish, on an uncertain end,
// is followed by InitProducerID (which ends the open transaction one way or the other), a session record, and reading the
// checkpoint topic up to that record. If the checkpoint covers the batch it was committed, else it is published again.
type publisher struct {
	producer *sink.Producer
	store    *store
	saved    checkpoint.Checkpoint // newest one known to be committed
	aborted  func(error)           // told of every transaction that did not end at the first try
	backoff  func(attempt int) time.Duration
}

// publish returns once the batch is committed, or with an error that ends the session; ctx ends the waiting.
func (p *publisher) publish(ctx context.Context, s *sealed) error {
	for attempt := 0; ; attempt++ {
		hit("before-publish")
		if s.read > 0 {
			hit("chunk-publish")
		}
		_, err := p.producer.Publish(ctx, s.batch)
		if err == nil {
			hit("after-commit")
			p.committed(s)
			return nil
		}
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		p.aborted(err)
		var uncertain *sink.UncertainError
		var aborted *sink.AbortedError
		switch {
		case mustInit(err):
			// Only the road goes on: hold the slot again, then Init, and believe the checkpoint.
			return err
		case errors.As(err, &uncertain):
			covered, serr := p.settle(ctx, s)
			if serr != nil {
				return fmt.Errorf("settle a commit of unknown outcome: %w", serr)
			}
			if covered {
				p.committed(s)
				return nil
			}
		case errors.As(err, &aborted):
			// Nothing is visible, and the producer has a new epoch, so nothing late can act on the next attempt.
		default:
			return err
		}
		if err := sleep(ctx, p.backoff(attempt)); err != nil {
			return err
		}
	}
}

func (p *publisher) committed(s *sealed) {
	p.saved = s.checkpoint
	if s.read > 0 {
		failpoint.Add("pipeline/chunk-rows-committed", s.read)
		hit("chunk-committed")
	}
	if s.checkpoint.Split != nil {
		hit("part-committed")
	} else {
		hit("whole-committed")
	}
}

// settle finds out whether the transaction of s was committed.
func (p *publisher) settle(ctx context.Context, s *sealed) (bool, error) {
	for attempt := 0; ; attempt++ {
		st, err := p.store.sync(ctx, p.producer.Recover)
		switch {
		case err == nil && st.Checkpoint != nil && st.Checkpoint.Equal(&s.checkpoint):
			return true, nil
		case err == nil && (st.Checkpoint == nil || st.Checkpoint.Equal(&p.saved)):
			return false, nil
		case err == nil:
			return false, errCheckpointForeign
		case ctx.Err() != nil:
			return false, context.Cause(ctx)
		case mustInit(err) || !retryable(err):
			return false, err
		}
		if err := sleep(ctx, p.backoff(attempt)); err != nil {
			return false, err
		}
	}
}

// mustInit says that this producer id is at its end: another producer took the transactional id, or its coordinator forgot
// or gave up our transaction. An aborted or uncertain outcome can carry it, so it is asked first.
func mustInit(err error) bool {
	return errors.Is(err, sink.ErrFenced) || errors.Is(err, sink.ErrInitRequired)
}

// sleep waits for d or until ctx ends, whose cause it then returns.
func sleep(ctx context.Context, d time.Duration) error {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
		return context.Cause(ctx)
	case <-t.C:
		return nil
	}
}
