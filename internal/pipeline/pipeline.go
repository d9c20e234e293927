// Package pipeline joins the parts: it is the one place that knows the order of steps from a replication slot to a
// committed Kafka transaction and back to the slot.
//
//	walsender ─ pgoutput ─► source.Stream ─► decode ─► schema.Encoder ─► sink.Batch ─► Kafka transaction ─► confirm
//
// A Pipeline runs sessions, one after the other. A session takes the start road (road.go): connect, START_REPLICATION
// (the slot is the mutex), InitProducerID (fences an older instance, settles its open transaction), a session record,
// the checkpoint topic read up to it, compare. Then comes the steady state (loop.go): one goroutine decodes, encodes
// and fills a batch while another runs the Kafka transaction of the batch before it (publisher.go). An error ends the
// session, and run decides from its kind whether there is a next one: start, crash and every uncertain error take the
// same road.
//
// Four durable steps, four verbs: publish records, commit the Kafka transaction, save the checkpoint (in the same
// transaction), confirm the position to the slot. Durable before told: what is confirmed is covered by a committed
// checkpoint.
package pipeline

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"sync/atomic"
	"time"

	"walferry/checkpoint"
	"walferry/internal/kafka"
	"walferry/schema"
	"walferry/sink"
	"walferry/source"
)

const tickInterval = 100 * time.Millisecond

// drainPatience is how long a drain waits for the slot: the walsender of an instance that was just stopped ends a moment
// after it, and one that runs on is not waited for.
const drainPatience = 5 * time.Second

// Config says what one pipeline does. The zero value of a duration or size is not replaced: the configuration file's
// defaults are the only ones.
type Config struct {
	Name   string
	Source source.Config
	Sink   sink.Config
	// TopicSpec returns the topic of a table, as it is to be created or checked.
	TopicSpec func(schemaName, table string) sink.TopicSpec
	// SchemaOptions returns the options of a table's schema; db and systemID are the server's.
	SchemaOptions func(schemaName, table, db, systemID string) schema.Options
	Envelope      string
	Truncate      string // emit, skip or stop
	Checkpoint    sink.TopicSpec
	StallLimit    time.Duration // how long a transaction may be in flight before the slot is given back
	DrainTimeout  time.Duration // bound of a requested stop
	Standby       bool          // wait while another instance holds the slot
	AfterUpgrade  bool          // accept, once and only after a drain, another system identifier
	// Drain publishes what was committed before the start, saves that the pipeline is drained, confirms the end, and
	// returns: the slot has then consumed everything, which a planned move needs. See Pipeline.Drained.
	Drain        bool
	StartTimeout time.Duration // how long servers may be out of reach before anything was delivered; 0 is for ever
	// Session names this process in session records and logs.
	Session checkpoint.Session
}

// Observer is told what happens; every method may be called from any goroutine of the pipeline and must not block.
type Observer interface {
	Committed(Commit)
	Aborted(error)
	Reconnecting(to string, err error)
	Heartbeat()
	Received(bytes int)
}

// Commit is one committed Kafka transaction.
type Commit struct {
	Transactions, Changes, Skipped int64
	Records, Bytes                 int
	Took                           time.Duration // from sealing to commit
	LastCommit                     time.Time     // commit time of the newest whole source transaction; zero for none
}

// Pipeline runs one pipeline.
type Pipeline struct {
	cfg      Config
	kafka    *kafka.Client
	registry schema.Registrar
	log      *slog.Logger
	observer Observer
	health   health
	stop     chan struct{}
	stopped  atomic.Bool
	drained  atomic.Pointer[checkpoint.Checkpoint]
}

// New makes a pipeline; Run starts it.
func New(cfg Config, client *kafka.Client, registry schema.Registrar, observer Observer, log *slog.Logger) *Pipeline {
	p := &Pipeline{cfg: cfg, kafka: client, registry: registry, log: log, observer: observer, stop: make(chan struct{})}
	p.health.interval = cfg.Source.Heartbeat
	if p.health.interval == 0 {
		p.health.interval = source.DefaultHeartbeat
	}
	return p
}

// Stop asks Run to publish what has been read up to the end of the open transaction, to confirm it, and to return nil. It
// returns at once; a second call does nothing.
func (p *Pipeline) Stop() {
	if p.stopped.CompareAndSwap(false, true) {
		close(p.stop)
	}
}

// Drained returns the checkpoint that a finished drain has saved, nil before and where Config.Drain was not set.
func (p *Pipeline) Drained() *checkpoint.Checkpoint { return p.drained.Load() }

// NothingToDrainError says that a drain was asked for where nothing was ever published.
type NothingToDrainError struct{ Name, Topic string }

func (e *NothingToDrainError) Error() string {
	return fmt.Sprintf("there is nothing to drain: pipeline %s has never run, by its checkpoint topic %s", e.Name, e.Topic)
}

// Hint is the way on.
func (e *NothingToDrainError) Hint() string {
	return "compare name, checkpoint.topic and kafka.brokers with the configuration that it runs with"
}

// FencedError says that another instance of this pipeline has taken over.
type FencedError struct{ Err error }

func (e *FencedError) Error() string {
	return "another instance of this pipeline has taken over: " + e.Err.Error()
}
func (e *FencedError) Unwrap() error { return e.Err }

// Hint is the way on.
func (e *FencedError) Hint() string {
	return "nothing is lost: the other instance goes on. Start this one with `standby: true` to have it wait"
}

// Run runs sessions until Stop (nil), until ctx ends (its cause), or until an error that trying again does not mend.
// Such an error comes after everything that could be published has been, and names the way on.
func (p *Pipeline) Run(ctx context.Context) error {
	textMode := p.cfg.Source.TextMode
	fenced := false
	begun := time.Now()
	for attempt := 0; ; attempt++ {
		started := time.Now()
		s := &session{Pipeline: p, textMode: textMode, log: p.log}
		err := s.run(ctx)
		p.health.ended(err)
		switch {
		case errors.Is(err, errDrained):
			return nil
		case ctx.Err() != nil:
			return context.Cause(ctx)
		case p.stopped.Load():
			p.log.Info("stopped before everything read was published; the next start publishes it", "reason", err)
			return nil
		}
		var inUse *source.SlotInUseError
		switch {
		case errors.Is(err, errTextMode), is[*source.NeedsTextError](err) && !textMode:
			textMode = true
			p.log.Warn("the stream starts again in text mode", "reason", err)
			continue
		case errors.As(err, &inUse) && fenced && !p.cfg.Standby:
			return &FencedError{Err: err}
		case errors.Is(err, kafka.ErrFenced):
			// A transaction that its coordinator gave up looks the same. Who holds the slot decides.
			fenced = true
			p.log.Error("fenced: the transactional id was taken, or the broker gave up our transaction", "error", err)
		case errors.As(err, &inUse) && p.cfg.Drain && time.Since(begun) > drainPatience:
			return err
		case errors.As(err, &inUse):
			p.log.Info("standby: another instance holds the slot", "slot", p.cfg.Source.Slot, "pid", inUse.PID)
		case !retryable(err):
			return err
		default:
			fenced = false
			if p.late(begun) {
				return err
			}
			p.log.Warn("session ended, connecting again", "error", err)
		}
		p.observer.Reconnecting(dependency(err), err)
		if s.lived || time.Since(started) > time.Minute {
			attempt = 0
		}
		if errors.Is(err, errStalled) {
			answered, perr := p.probe(ctx, begun)
			if perr != nil {
				return perr
			}
			if !answered {
				return err
			}
		}
		select {
		case <-time.After(p.delay(attempt)):
		case <-p.stop:
			return nil
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
}

// delay is exponential with full jitter, from 50 ms, at most 5 s.
func (p *Pipeline) delay(attempt int) time.Duration {
	limit := min(5*time.Second, 50*time.Millisecond<<min(attempt, 10))
	return 10*time.Millisecond + rand.N(limit)
}

// late says that servers were out of reach for the whole of StartTimeout, and nothing was ever delivered.
func (p *Pipeline) late(begun time.Time) bool {
	return p.cfg.StartTimeout > 0 && p.health.never() && time.Since(begun) > p.cfg.StartTimeout
}

// probe waits until Kafka answers, while the slot belongs to whoever wants it. It is false when that took too long for a start.
func (p *Pipeline) probe(ctx context.Context, begun time.Time) (answered bool, err error) {
	p.health.step(stepKafka)
	for attempt := 0; ; attempt++ {
		_, _, err := p.kafka.Partitions(ctx, p.cfg.Checkpoint.Name)
		if err == nil {
			return true, nil
		}
		if p.late(begun) {
			return false, nil
		}
		p.kafka.Refresh()
		select {
		case <-time.After(p.delay(attempt)):
		case <-p.stop:
			return true, nil
		case <-ctx.Done():
			return false, context.Cause(ctx)
		}
	}
}

// retryable says whether the next session may succeed where this one failed. It is the one place that decides: what is
// listed here stays as it is until somebody changes something, everything else passes.
func retryable(err error) bool {
	return !is[*checkpoint.Refusal](err) && !is[*checkpoint.FutureError](err) && !is[*checkpoint.MalformedError](err) &&
		!errors.Is(err, errCheckpointForeign) && !is[*NothingToDrainError](err) &&
		!is[*StopError](err) && !is[*schema.ValueError](err) && !is[*schema.CollisionError](err) &&
		!is[*sink.FatalError](err) && !is[*sink.TooLargeError](err) && !is[*sink.TopicMismatchError](err) &&
		!is[*PartitionsChangedError](err) && !is[*KeylessError](err) && !is[*RefusedSchemaError](err) &&
		!is[*source.WrongPasswordError](err) && !is[*source.NoReplicationPrivilegeError](err) && !is[*source.WALLevelError](err) &&
		!is[*source.UnsupportedVersionError](err) && !is[*source.PublicationMissingError](err) &&
		!is[*source.PublicationPrivilegeError](err) && !is[*source.TableMissingError](err) && !is[*source.ColumnError](err) &&
		!is[*source.SlotLostError](err) && !is[*source.SlotOlderThanPublicationError](err) && !is[*source.SlotMissingError](err) &&
		!is[*source.SyncStandbyError](err) && !is[*source.RowTooLargeError](err)
}

func is[T error](err error) bool {
	var e T
	return errors.As(err, &e)
}

// dependency names whose fault the end of a session was, for metrics.
func dependency(err error) string {
	if errors.Is(err, errStalled) || errors.Is(err, kafka.ErrFenced) {
		return "kafka"
	}
	var aborted *sink.AbortedError
	if errors.As(err, &aborted) {
		return "kafka"
	}
	return "source"
}

// StopError stops the stream before a change that cannot be published as it is. Nothing is lost: the slot keeps it.
type StopError struct {
	Table    string
	Key      string // the row's key columns, for a person to find it; never other values
	Position string
	Err      error
	Remedy   string
}

func (e *StopError) Error() string {
	at := "table " + e.Table
	if e.Key != "" {
		at += ", key " + e.Key
	}
	return fmt.Sprintf("the stream stops before a change that cannot be published (%s, position %s): %v", at, e.Position, e.Err)
}
func (e *StopError) Unwrap() error { return e.Err }

// Hint is the way on.
func (e *StopError) Hint() string { return e.Remedy }
