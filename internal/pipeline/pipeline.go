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
	"walferry/schema/registry"
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
	// SharesTopic says that the table's topic is named for it by itself: it may be that of other such tables. nil is never.
	SharesTopic func(schemaName, table string) bool
	// OwnTopic says what of walferry's own is in a topic, "" for nothing. nil is nothing.
	OwnTopic func(topic string) string
	// SchemaOptions returns the options of a table's schema; db and systemID are the server's.
	SchemaOptions func(schemaName, table, db, systemID string) schema.Options
	Envelope      string
	Truncate      string // emit, skip or stop
	// OnIncompatible returns what happens when the registry refuses a table's schema as incompatible: stop, force or
	// new-topic. nil is stop.
	OnIncompatible func(schemaName, table string) string
	// Compatibility returns the level that the subjects of a table get when they are not there yet. nil is that of all subjects.
	Compatibility func(schemaName, table string) registry.Level
	Copy          Copy
	Changes       sink.TopicSpec // topic of schema changes; without a name for none
	Checkpoint    sink.TopicSpec
	StallLimit    time.Duration // how long a transaction may be in flight before the slot is given back
	DrainTimeout  time.Duration // bound of a requested stop
	Standby       bool          // wait while another instance holds the slot
	AfterUpgrade  bool          // accept, once and only after a drain, another system identifier
	StartTimeout  time.Duration // how long servers may be out of reach before anything was delivered; 0 is for ever
	Watch         time.Duration // how often the publication and its tables are looked at
	// Drain publishes what was committed before the start, saves that the pipeline is drained, confirms the end, and
	// returns: the slot has then consumed everything, which a planned move needs. See Pipeline.Drained.
	Drain bool
	// Session names this process in session records and logs.
	Session checkpoint.Session
}

// Observer is told of each Kafka transaction, by a goroutine of the pipeline that it must not block. What can be summed is
// in Health.
type Observer interface {
	Committed(Commit)
}

// Commit is one committed Kafka transaction.
type Commit struct {
	Batch                    // its size
	Took       time.Duration // from sealing to commit
	LastCommit time.Time     // commit time of the newest whole source transaction in it; zero for none
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
	door     door
	watched  watched
	after    func(time.Duration) <-chan time.Time // time.After; a test's own clock

	// Of the goroutine of Run.
	owned    bool // a session of this instance had the checkpoint topic
	replaced bool // since then another instance had it

	// Called by tests of this package; nil otherwise.
	onAborted, onEnded func(error)
	onLooked           func() // at the publication, from beginning to end
}

// New makes a pipeline; Run starts it.
func New(cfg Config, client *kafka.Client, registry schema.Registrar, observer Observer, log *slog.Logger) *Pipeline {
	p := &Pipeline{cfg: cfg, kafka: client, registry: registry, log: log, observer: observer, stop: make(chan struct{}), after: time.After}
	interval := cfg.Source.Heartbeat
	if interval == 0 {
		interval = source.DefaultHeartbeat
	}
	p.health.init(interval)
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
		inUse, _ := errors.AsType[*source.SlotInUseError](err)
		switch {
		case errors.Is(err, errTextMode), is[*source.NeedsTextError](err) && !textMode:
			textMode = true
			p.log.Warn("the stream starts again in text mode", "reason", err)
			continue
		case errors.Is(err, kafka.ErrFenced):
			// A transaction that its coordinator gave up looks the same. Who holds the slot decides.
			p.replaced = true
			p.log.Error("fenced: the transactional id was taken, or the broker gave up our transaction", "error", err)
		case inUse != nil:
			if p.replaced && !p.cfg.Standby {
				return &FencedError{Err: err}
			}
			p.log.Info("standby: another instance holds the slot", "slot", p.cfg.Source.Slot, "pid", inUse.PID)
		case !retryable(err):
			return err
		case p.late(begun):
			return err
		default:
			p.log.Warn("session ended, connecting again", "error", err)
		}
		p.health.again(Dependency(err))
		if p.onEnded != nil {
			p.onEnded(err)
		}
		if s.lived || time.Since(started) > time.Minute {
			attempt = 0
		}
		switch err := p.between(ctx, err, &attempt, begun); {
		case errors.Is(err, errStopped):
			return nil
		case err != nil:
			return err
		}
	}
}

// errStopped ends a start, or a wait between two sessions: Stop was called, and nothing is under way.
var errStopped = errors.New("stopped")

// between waits between two sessions, the first of which ended with err: for what it missed, and a moment.
func (p *Pipeline) between(ctx context.Context, err error, attempt *int, begun time.Time) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	go func() {
		select {
		case <-p.stop:
			cancel(errStopped)
		case <-ctx.Done():
		}
	}()
	var stall *stallError
	var inUse *source.SlotInUseError
	switch {
	case errors.As(err, &stall):
		if err := p.probe(ctx, stall, begun); err != nil {
			return err
		}
	case errors.As(err, &inUse):
		free, err := p.standby(ctx, inUse)
		if err != nil {
			return err
		}
		if free {
			*attempt = 0
		}
	}
	return p.pause(ctx, p.delay(*attempt))
}

func (p *Pipeline) pause(ctx context.Context, d time.Duration) error {
	select {
	case <-p.after(d):
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// late says that servers were out of reach for the whole of StartTimeout, and nothing was ever delivered.
func (p *Pipeline) late(begun time.Time) bool {
	return p.cfg.StartTimeout > 0 && p.health.never() && time.Since(begun) > p.cfg.StartTimeout
}

// delay is exponential with full jitter, from 50 ms, at most 5 s.
func (p *Pipeline) delay(attempt int) time.Duration {
	limit := min(5*time.Second, 50*time.Millisecond<<min(attempt, 10))
	return 10*time.Millisecond + rand.N(limit)
}

// stallError ends a session in which a server that the stream waits for gave no answer for stall_limit: the slot is given
// back, and taken again when that server has answered.
type stallError struct {
	step string
	// ask puts a question to the server: nil when it answered, whatever it said.
	ask func(context.Context) error
	err error
}

func (e *stallError) Error() string { return e.err.Error() }
func (e *stallError) Unwrap() error { return e.err }

// kafkaStall is the stall of a broker. Partitions of a topic are what every broker knows.
func (p *Pipeline) kafkaStall() error {
	return &stallError{step: stepKafka, err: ErrStalled, ask: func(ctx context.Context) error {
		_, _, err := p.kafka.Partitions(ctx, p.cfg.Checkpoint.Name)
		if err != nil {
			p.kafka.Refresh()
		}
		return err
	}}
}

// askTimeout bounds one question of a probe: the server may have come back behind a connection that is dead.
const askTimeout = 10 * time.Second

// probe waits until the server that did not answer does, while the slot belongs to whoever wants it.
func (p *Pipeline) probe(ctx context.Context, stall *stallError, begun time.Time) error {
	p.health.enter(Stalled)
	p.health.step(stall.step)
	for attempt := 0; ; attempt++ {
		c, done := context.WithTimeout(ctx, askTimeout)
		err := stall.ask(c)
		done()
		switch {
		case err == nil:
			return nil
		case p.late(begun):
			return fmt.Errorf("%w (%w)", stall, err)
		}
		p.health.failed(fmt.Errorf("%w (%w)", stall, err))
		if err := p.pause(ctx, p.delay(attempt)); err != nil {
			return err
		}
	}
}

// standbyPoll is how often a standby looks whether the slot is free. It asks pg_replication_slots: an attempt to take a slot
// that is in use is an error in the server's log, a question is not.
const standbyPoll = time.Second

// standby waits while another instance holds the slot; free tells that the slot was seen held and is so no more. With
// standby: false it waits no longer than a holder that died can keep the slot, for a drain no longer than drainPatience, and
// then returns inUse.
func (p *Pipeline) standby(ctx context.Context, inUse *source.SlotInUseError) (free bool, err error) {
	p.health.enter(Standby)
	p.health.step(stepStandby)
	cat, err := source.OpenCatalog(ctx, p.cfg.Source)
	if err != nil {
		p.log.Warn("standby: connect to Postgres", "error", err)
		return false, nil
	}
	defer cat.Close()
	limit := p.cfg.Source.WALSenderTimeout
	switch {
	case p.cfg.Drain:
		limit = drainPatience
	case limit == 0:
		limit = source.DefaultWALSenderTimeout
	}
	for waited := time.Duration(0); ; waited += standbyPoll {
		slot, err := cat.SlotInfo(ctx)
		if ctx.Err() != nil {
			return false, context.Cause(ctx)
		}
		if err != nil {
			p.log.Warn("standby: look at the slot", "error", err)
			return false, nil
		}
		p.health.slot(cat.System(), slot)
		if !slot.Active {
			return waited > 0, nil
		}
		if waited > limit && (p.cfg.Drain || !p.cfg.Standby) {
			return false, inUse
		}
		if err := p.pause(ctx, standbyPoll); err != nil {
			return false, err
		}
	}
}

// retryable says whether the next session may succeed where this one failed. It is the one place that decides: what is
// listed here stays as it is until somebody changes something, everything else passes.
func retryable(err error) bool {
	return !is[*checkpoint.Refusal](err) && !is[*checkpoint.FutureError](err) && !is[*checkpoint.MalformedError](err) &&
		!errors.Is(err, errCheckpointForeign) && !is[*NothingToDrainError](err) &&
		!is[*StopError](err) && !is[*schema.ValueError](err) && !is[*schema.CollisionError](err) && !is[*schema.PlaceholderError](err) && !is[*schema.TableError](err) &&
		!is[*sink.FatalError](err) && !is[*sink.TooLargeError](err) && !is[*sink.TopicMismatchError](err) &&
		!is[*PartitionsChangedError](err) && !is[*KeylessError](err) && !is[*SharedTopicError](err) && !is[*RefusedSchemaError](err) && !is[*registry.AuthError](err) &&
		!is[*source.WrongPasswordError](err) && !is[*source.CertificateError](err) && !is[*source.NoReplicationPrivilegeError](err) && !is[*source.WALLevelError](err) &&
		!is[*source.UnsupportedVersionError](err) && !is[*source.PublicationMissingError](err) &&
		!is[*source.PublicationPrivilegeError](err) && !is[*source.TableMissingError](err) && !is[*source.ColumnError](err) &&
		!is[*source.SlotLostError](err) && !is[*source.SlotOlderThanPublicationError](err) && !is[*source.SlotMissingError](err) &&
		!is[*source.SyncStandbyError](err) && !is[*source.RowTooLargeError](err)
}

func is[T error](err error) bool {
	var e T
	return errors.As(err, &e)
}

// Dependency names whose fault the end of a session was: one of Dependencies.
func Dependency(err error) string {
	var stall *stallError
	switch {
	case errors.As(err, &stall) && stall.step == stepRegistry:
		return "registry"
	case errors.As(err, &stall), errors.Is(err, kafka.ErrFenced):
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
	Position string // "" for a row that a copy has read, which stops that copy alone
	Err      error
	Remedy   string
}

func (e *StopError) Error() string {
	at := "table " + e.Table
	if e.Key != "" {
		at += ", key " + e.Key
	}
	reason := e.Err.Error()
	if value, ok := errors.AsType[*schema.ValueError](e.Err); ok {
		at += fmt.Sprintf(", column %s (%s)", value.Column, value.Type)
		reason = value.Reason
	}
	if e.Position == "" {
		return fmt.Sprintf("a row that was read cannot be published (%s): %s", at, reason)
	}
	return fmt.Sprintf("the stream stops before a change that cannot be published (%s, position %s): %s", at, e.Position, reason)
}
func (e *StopError) Unwrap() error { return e.Err }

// Hint is the way on.
func (e *StopError) Hint() string { return e.Remedy }
