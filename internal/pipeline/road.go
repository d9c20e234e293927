package pipeline

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"time"

	"github.com/jackc/pglogrepl"

	"walferry/checkpoint"
	"walferry/decode"
	"walferry/schema"
	"walferry/sink"
	"walferry/source"
)

var errSessionOver = errors.New("session over")

// session is one life of the connections, from dialling to the error that ends it.
type session struct {
	*Pipeline
	log      *slog.Logger
	textMode bool
	lived    bool // something was committed

	cancel      context.CancelCauseFunc
	source      source.Config
	cat         *source.Catalog
	system      source.System
	producer    *sink.Producer
	store       *store
	saved       *checkpoint.State
	confirmed   pglogrepl.LSN // of the slot, when it was taken
	walsender   int32         // that holds the slot for us; 0 before
	publisher   *publisher
	tables      map[*decode.Relation]*table
	published   *Topics // of the tables in the publication at the session's start
	stopBy      time.Time
	copyResults chan<- *copyJob // of the loop
	steadied    chan struct{}   // closed when the loop takes over, which hears of a stop itself
}

// run is a session: the start road, then the loop. The road, and every uncertain error comes back to its beginning:
//
//	side connection → checkpoint topic read without a fence (a foreign pipeline's is a refusal that disturbs nobody)
//	→ START_REPLICATION at 0/0 (takes the slot) → InitProducerID (fences) → session record, topic read up to it
//	→ slot's confirmed position → compare → heartbeat → loop
//
// Nobody calls InitProducerID without holding the slot or, where there is none yet, the advisory lock.
func (s *session) run(parent context.Context) (err error) {
	ctx, cancel := context.WithCancelCause(parent)
	defer cancel(errSessionOver)
	defer func() {
		// What was waited for when the session's context ended says less than why it ended.
		if cause := context.Cause(ctx); err != nil && cause != nil && cause != errSessionOver && !errors.Is(err, cause) {
			err = fmt.Errorf("%w (%w)", cause, err)
		}
	}()
	s.cancel = cancel
	s.steadied = make(chan struct{})
	go func() {
		select {
		case <-s.stop:
			select {
			case <-s.steadied:
			default:
				cancel(errStopped)
			}
		case <-s.steadied:
		case <-ctx.Done():
		}
	}()
	s.source = s.cfg.Source
	s.source.TextMode = s.textMode
	s.tables = map[*decode.Relation]*table{}

	hit("session-begun")
	s.health.step(stepSource)
	if s.cat, err = source.OpenCatalog(ctx, s.source); err != nil {
		return err
	}
	defer func() {
		// A question that hangs would hold its connection, and Close with it.
		cancel(errSessionOver)
		s.cat.Close()
	}()
	s.system = s.cat.System()

	s.health.step(stepKafka)
	producing := s.cfg.Sink
	producing.MayRecover = s.holdsSlot
	if s.producer, err = sink.New(s.kafka, producing); err != nil {
		return err
	}
	if err := s.bounded(ctx, func(ctx context.Context) error {
		_, err := s.producer.EnsureTopic(ctx, s.cfg.Checkpoint)
		return err
	}); err != nil {
		return fmt.Errorf("checkpoint topic: %w", err)
	}
	s.store = &store{topic: s.cfg.Checkpoint.Name, kafka: s.kafka, producer: s.producer, session: s.cfg.Session, now: time.Now, changes: s.cfg.Changes.Name, systemID: s.system.ID}
	if err := s.peek(ctx); err != nil {
		return err
	}
	if c := s.saved.Checkpoint; s.cfg.Drain && (c == nil && !s.source.Adopt || c != nil && c.State == checkpoint.Creating) {
		return &NothingToDrainError{Name: s.cfg.Name, Topic: s.cfg.Checkpoint.Name}
	}
	if s.saved.TextMode() && !s.textMode {
		columns, err := s.textColumns(ctx)
		if err != nil {
			return err
		}
		if len(columns) > 0 {
			s.log.Info("the stream is read in text mode, which costs speed", "columns", columns)
			s.textMode, s.source.TextMode = true, true
		}
	}

	s.health.step(stepSource)
	conn, stream, err := s.takeSlot(ctx)
	if err != nil {
		return err
	}
	s.walsender = conn.PID()
	defer func() {
		// While the slot is ours. Where Kafka or the server is what ended the session, the next holder of the slot ends what
		// is open.
		if !is[*stallError](err) && !is[*source.ServerShutdownError](err) {
			c, done := context.WithTimeout(context.WithoutCancel(parent), time.Second)
			if cerr := s.producer.Close(c); cerr != nil {
				s.log.Debug("close producer", "error", cerr)
			}
			done()
		}
		c, done := context.WithTimeout(context.WithoutCancel(parent), 2*time.Second)
		defer done()
		if cerr := stream.Close(c); cerr != nil && err == nil {
			s.log.Debug("close replication stream", "error", cerr)
		}
	}()
	hit("slot-taken")
	if err := s.cat.Expect(conn.System()); err != nil {
		return err
	}
	s.system = conn.System()
	s.health.holds(s.system, stream)
	go s.watchSlot(ctx)

	// A server that goes down waits for its walsenders: from here on the slot is given back when it says so, whatever we
	// wait for then.
	go func() {
		err := s.cat.WaitShutdown(ctx)
		cancel(fmt.Errorf("side connection: %w", err))
	}()

	if err := s.take(ctx); err != nil {
		return err
	}
	first, gate, err := s.compare(ctx, conn)
	if err != nil {
		return err
	}
	if first.Split != nil {
		hit("split-resumed")
	}
	return s.steady(ctx, stream, first, gate)
}

// bounded waits for Kafka: for stall_limit, then ErrStalled gives back the slot, where it is held, and says why in the log.
func (s *session) bounded(ctx context.Context, f func(context.Context) error) error {
	stall := s.kafkaStall()
	c, done := context.WithTimeoutCause(ctx, s.cfg.StallLimit, stall)
	defer done()
	err := f(c)
	if err != nil && context.Cause(c) == stall && !errors.Is(err, stall) {
		return fmt.Errorf("%w: %w", stall, err)
	}
	return err
}

// holdsSlot is asked before the producer takes its id anew. An instance that stood still may have been replaced without knowing.
func (s *session) holdsSlot(ctx context.Context) error {
	if s.walsender == 0 {
		return nil // a first start, under the advisory lock
	}
	slot, err := s.cat.SlotInfo(ctx)
	if err != nil {
		return err
	}
	if slot.ActivePID != s.walsender {
		return fmt.Errorf("the slot is not held by our walsender %d any more, but by %d", s.walsender, slot.ActivePID)
	}
	return nil
}

// aborted is told of every transaction that did not end at the first try.
func (s *session) aborted(err error) {
	s.health.aborted(err)
	s.log.Warn("a Kafka transaction was not committed at the first try", "error", err)
	if s.onAborted != nil {
		s.onAborted(err)
	}
}

// watchSlot keeps what the server says of the slot fresh for status and metrics, warns when its WAL may go, and ends the
// session when it has gone.
func (s *session) watchSlot(ctx context.Context) {
	warned := false
	for {
		slot, err := s.cat.SlotInfo(ctx)
		switch {
		case ctx.Err() != nil:
			return
		case err != nil:
			s.log.Warn("look at the slot", "error", err)
		case slot.Lost() != "":
			s.health.slot(s.cat.System(), slot)
			s.cancel(&source.SlotLostError{Slot: s.source.Slot, Reason: slot.Lost()})
			return
		default:
			s.health.slot(s.cat.System(), slot)
			if slot.WALStatus == "unreserved" && !warned {
				s.log.Warn("the slot keeps more WAL than max_slot_wal_keep_size allows: the server's next checkpoint may remove it, and the slot is lost with what was not published",
					"slot", s.source.Slot, "retained_bytes", slot.RetainedBytes, "sql", "ALTER SYSTEM SET max_slot_wal_keep_size = '…'; SELECT pg_reload_conf();")
			}
			warned = slot.WALStatus == "unreserved"
		}
		if sleep(ctx, s.health.interval) != nil {
			return
		}
	}
}

func (s *session) consent() checkpoint.Consent {
	return checkpoint.Consent{Adopt: s.source.Adopt, AfterUpgrade: s.cfg.AfterUpgrade}
}

// foreign refuses a checkpoint of another database or slot. It is asked before anything is fenced.
func (s *session) foreign(c *checkpoint.Checkpoint) error {
	return checkpoint.CompareOwner(c, s.system.ID, s.source.Slot, s.consent())
}

// takeSlot holds the slot when it returns. A slot that does not exist is made here, at the very first start only.
func (s *session) takeSlot(ctx context.Context) (*source.Conn, *source.Stream, error) {
	conn, stream, err := s.startStream(ctx)
	var missing *source.SlotMissingError
	if !errors.As(err, &missing) {
		if err != nil {
			return nil, nil, s.cat.Explain(ctx, err)
		}
		creating, err := s.creating(ctx)
		if err != nil || creating {
			// The slot was made and its first position not saved, and nothing was published: it is made anew, under the lock
			// that an instance holds which is about to save that position.
			c, done := context.WithTimeout(context.WithoutCancel(ctx), 2*time.Second)
			defer done()
			if err := errors.Join(err, stream.Close(c)); err != nil {
				return nil, nil, err
			}
			return s.firstStart(ctx)
		}
		return conn, stream, nil
	}
	return s.firstStart(ctx)
}

// creating says whether the slot, which is there, belongs to a first start that is not done. What the topic said before the slot
// was looked at is asked again: another instance may have begun, or be done, since.
func (s *session) creating(ctx context.Context) (bool, error) {
	if c := s.saved.Checkpoint; c == nil || c.State == checkpoint.Creating {
		if err := s.peek(ctx); err != nil {
			return false, err
		}
	}
	return s.saved.Checkpoint != nil && s.saved.Checkpoint.State == checkpoint.Creating, nil
}

// peek reads the checkpoint topic without a fence and refuses what is not ours. Whatever is held meanwhile is given back when
// Kafka hangs.
func (s *session) peek(ctx context.Context) error {
	if err := s.bounded(ctx, func(ctx context.Context) (err error) {
		s.saved, err = s.store.peek(ctx)
		return err
	}); err != nil {
		return fmt.Errorf("read checkpoint topic: %w", err)
	}
	if o := s.saved.Session; s.owned && !s.replaced && o != nil && o.Instance != s.cfg.Session.Instance {
		s.replaced = true
		s.log.Error("fenced: another instance has taken over", "instance", o.Instance, "host", o.Host, "pid", o.PID)
	}
	return s.foreign(s.saved.Checkpoint)
}

// take fences, and reads the checkpoint topic.
func (s *session) take(ctx context.Context) error {
	s.health.step(stepKafka)
	if err := s.bounded(ctx, func(ctx context.Context) (err error) {
		s.saved, err = s.store.take(ctx)
		return err
	}); err != nil {
		return fmt.Errorf("take the checkpoint topic: %w", err)
	}
	s.owned, s.replaced = true, false
	return nil
}

// save commits a checkpoint of the first start.
func (s *session) save(ctx context.Context, c *checkpoint.Checkpoint) error {
	return s.bounded(ctx, func(ctx context.Context) error { return s.store.save(ctx, c) })
}

func (s *session) startStream(ctx context.Context) (*source.Conn, *source.Stream, error) {
	conn, err := source.Dial(ctx, s.source)
	if err != nil {
		return nil, nil, err
	}
	stream, err := conn.Start(ctx, 0)
	if err != nil {
		c, done := context.WithTimeout(context.WithoutCancel(ctx), time.Second)
		defer done()
		return nil, nil, errors.Join(err, conn.Close(c))
	}
	return conn, stream, nil
}

// firstStart makes publication and slot under the advisory lock, which is the mutex until START_REPLICATION has succeeded.
//
//	save {creating} → publication, then slot (a slot older than its publication cannot start) → save the consistent point
//
// A crash after any of these leaves {creating} in the topic, or nothing: then nothing was published, and the next
// start drops the slot and begins again.
func (s *session) firstStart(ctx context.Context) (*source.Conn, *source.Stream, error) {
	unlock, ok, err := s.cat.AdvisoryLock(ctx, s.source.Slot)
	if err != nil {
		return nil, nil, err
	}
	if !ok {
		return nil, nil, &source.SlotInUseError{Slot: s.source.Slot}
	}
	defer unlock()
	slot, err := s.cat.SlotInfo(ctx)
	if err != nil {
		return nil, nil, err
	}
	if slot.Active {
		return nil, nil, &source.SlotInUseError{Slot: s.source.Slot, PID: slot.ActivePID}
	}
	if slot.Exists {
		// It came into being since START_REPLICATION said that it does not exist, or its first start was broken off. Only of
		// the latter is the lock the mutex, so nobody is fenced before that is known.
		creating, err := s.creating(ctx)
		if err != nil {
			return nil, nil, err
		}
		if !creating {
			return s.startStream(ctx)
		}
	}
	if err := s.take(ctx); err != nil {
		return nil, nil, err
	}
	cp := s.saved.Checkpoint
	if err := s.foreign(cp); err != nil {
		return nil, nil, err
	}
	switch {
	case slot.Exists && (cp == nil || cp.State != checkpoint.Creating):
		return s.startStream(ctx) // the holder of the lock before us has saved its position since
	case cp != nil && cp.State != checkpoint.Creating:
		if err := checkpoint.Compare(cp, checkpoint.Server{
			SystemID: s.system.ID, Timeline: s.system.Timeline, WALEnd: s.system.WALEnd, Slot: checkpoint.Slot{Name: s.source.Slot},
		}, s.consent()); err != nil {
			return nil, nil, err
		}
		// Drained, and upgraded without its slot: nothing was written since, so a new one begins where the old one ended.
	case slot.Exists:
		if err := s.cat.DropSlot(ctx); err != nil {
			return nil, nil, err
		}
	}
	if !s.source.CreateSlot {
		return nil, nil, &source.SlotMissingError{Slot: s.source.Slot}
	}
	// Later a table may be dropped, and the rest of them go on; now a name that no table has is a mistake.
	diff, err := s.cat.ReconcilePublication(ctx, false)
	if err != nil {
		return nil, nil, err
	}
	if len(diff.Missing) > 0 {
		return nil, nil, &source.TableMissingError{Patterns: diff.Missing}
	}
	first := checkpoint.Checkpoint{
		SystemID: s.system.ID, Timeline: s.system.Timeline, Slot: s.source.Slot, State: checkpoint.Creating,
		Copies: cp == nil || cp.State == checkpoint.Creating || cp.Copies,
	}
	if err := s.save(ctx, &first); err != nil {
		return nil, nil, fmt.Errorf("save that the slot is being created: %w", err)
	}
	hit("creating-saved")
	if _, err := s.publication(ctx); err != nil {
		return nil, nil, err
	}
	hit("publication-created")
	conn, err := source.Dial(ctx, s.source)
	if err != nil {
		return nil, nil, err
	}
	point, err := conn.CreateSlot(ctx)
	c, done := context.WithTimeout(context.WithoutCancel(ctx), time.Second)
	defer done()
	if err := errors.Join(err, conn.Close(c)); err != nil {
		return nil, nil, err
	}
	hit("slot-created")
	first.State, first.Position = checkpoint.Live, checkpoint.Position{Commit: point}
	if err := s.save(ctx, &first); err != nil {
		return nil, nil, fmt.Errorf("save the first position: %w", err)
	}
	hit("first-position-saved")
	s.log.Info("first start", "slot", s.source.Slot, "publication", s.source.Publication, "from", point.String())
	return s.startStream(ctx)
}

// publication makes the publication, or brings an existing one to the configuration. It returns the tables that it added.
func (s *session) publication(ctx context.Context) ([]string, error) {
	if !s.source.CreatePublication {
		return nil, nil
	}
	diff, err := s.cat.ReconcilePublication(ctx, true)
	if err != nil {
		return nil, err
	}
	if !diff.Empty() {
		s.log.Info("publication", "name", diff.Publication, "sql", diff.SQL)
	}
	return diff.Add, nil
}

// keyless refuses tables without a key whose topic is compacted, before anything is published: on such a topic one record without a
// key fails its whole batch, that of all other tables too.
func (s *session) keyless(ctx context.Context, tables []source.Table) error {
	for _, t := range tables {
		options := s.cfg.SchemaOptions(t.Schema, t.Name, s.system.DB, s.system.ID)
		if len(options.Key) > 0 || len(t.IdentityColumns) > 0 || t.Identity == decode.IdentityFull && len(t.PrimaryKey) > 0 {
			continue
		}
		s.health.step(stepKafka)
		spec := s.cfg.TopicSpec(t.Schema, t.Name)
		spec.Name = s.published.Topic(t.Schema, t.Name)
		policy := spec.CleanupPolicy // what it will be made with
		if err := s.bounded(ctx, func(ctx context.Context) error {
			_, exists, err := s.kafka.Partitions(ctx, spec.Name)
			if err != nil || !exists {
				return err
			}
			settings, err := s.kafka.TopicConfigs(ctx, spec.Name)
			policy = settings["cleanup.policy"]
			return err
		}); err != nil {
			return fmt.Errorf("topic %s: %w", spec.Name, err)
		}
		if strings.Contains(policy, "compact") {
			return &KeylessError{Table: t.Schema + "." + t.Name, Topic: spec.Name}
		}
	}
	return nil
}

// compare looks at checkpoint and server and refuses to go on where they cannot belong together.
func (s *session) compare(ctx context.Context, conn *source.Conn) (*checkpoint.Checkpoint, *checkpoint.Gate, error) {
	// Read after START_REPLICATION has succeeded: a later flush is never lower than this.
	slot, err := s.cat.SlotInfo(ctx)
	if err != nil {
		return nil, nil, err
	}
	srv := checkpoint.Server{
		SystemID: s.system.ID, Timeline: s.system.Timeline, WALEnd: s.system.WALEnd,
		Slot: checkpoint.Slot{Name: s.source.Slot, Exists: slot.Exists, Confirmed: slot.Confirmed},
	}
	for _, h := range conn.TimelineHistory() {
		srv.History = append(srv.History, checkpoint.Switch{Timeline: h.Timeline, LSN: h.LSN})
	}
	cp := s.saved.Checkpoint
	if err := checkpoint.Compare(cp, srv, s.consent()); err != nil {
		return nil, nil, err
	}
	s.confirmed = slot.Confirmed
	gate := checkpoint.NewGate(cp, srv)
	if cp == nil {
		cp = &checkpoint.Checkpoint{
			SystemID: s.system.ID, Timeline: s.system.Timeline, Slot: s.source.Slot, State: checkpoint.Live,
			Position: checkpoint.Position{Commit: slot.Confirmed},
		}
		s.log.Info("slot adopted", "slot", s.source.Slot, "from", slot.Confirmed.String())
	}
	return cp, gate, nil
}

// steady is the session after its start.
func (s *session) steady(ctx context.Context, stream *source.Stream, cp *checkpoint.Checkpoint, gate *checkpoint.Gate) error {
	s.publisher = &publisher{
		producer: s.producer, store: s.store, saved: *cp, aborted: s.aborted, backoff: s.delay,
	}
	var added []string
	if !s.cfg.Drain {
		var err error
		if added, err = s.publication(ctx); err != nil {
			return err
		}
	}
	tables, err := s.captured(ctx)
	if err != nil {
		return err
	}
	if err := s.parted(tables); err != nil {
		return err
	}
	if err := s.keyless(ctx, tables); err != nil {
		return err
	}
	if err := s.restoreLevels(ctx); err != nil {
		return err
	}
	if s.cfg.Changes.Name != "" {
		s.health.step(stepKafka)
		if err := s.bounded(ctx, func(ctx context.Context) error {
			_, err := s.producer.EnsureTopic(ctx, s.cfg.Changes)
			return err
		}); err != nil {
			return fmt.Errorf("topic of schema changes: %w", err)
		}
	}
	if err := s.baseline(ctx); err != nil {
		return err
	}
	if s.textMode && !s.saved.TextMode() {
		if err := s.bounded(ctx, func(ctx context.Context) error {
			return s.store.saveTextMode(ctx, "a captured column has no binary form that is known")
		}); err != nil {
			return fmt.Errorf("save text mode: %w", err)
		}
	}
	// Nothing was published yet: the slot was just made or taken, so what is in the tables comes from before it.
	first := cp.State == checkpoint.Live && cp.Witness.Commit == 0 && cp.Position.Change == 0
	if cp.State == checkpoint.Drained && gate.Open() {
		// The end was confirmed, or this is the server after the move: what was published lies before the place where the
		// slot goes on, as at a first start. The old witness is none for it: a start that finds the slot past a live
		// checkpoint's witness refuses.
		s.log.Info("going on after a drain", "end", cp.End.String(), "drained_system_id", cp.SystemID)
		cp = &checkpoint.Checkpoint{
			Position: checkpoint.Position{Commit: max(cp.End, s.confirmed)}, Copied: cp.Copied,
		}
	}
	l := &loop{
		session: s, stream: stream, decoder: decode.NewDecoder(), gate: gate,
		building: &sealed{batch: s.producer.NewBatch(), superseded: s.saved.Superseded()}, spare: &sealed{batch: s.producer.NewBatch()},
		whole: cp.Witness, position: cp.Position, copiedBatches: cp.Copied, results: make(chan outcome, 1),
		heartbeat: heartbeat{
			interval: s.health.interval, done: make(chan error, 1), wrote: s.health.wrote,
			failed: func(err error) {
				s.log.Warn("heartbeat", "error", err)
				s.health.failed(err)
			},
		},
	}
	l.builder = builder{
		systemID: s.system.ID, sequence: cp.Witness.Commit, envelope: s.cfg.Envelope, truncate: s.cfg.Truncate, now: time.Now, batch: l.building.batch,
	}
	l.builder.meta.Snapshot = "false"
	if s.cfg.Drain {
		l.fence = s.cat.System().WALEnd
	} else {
		defer s.startWatch(ctx, first, added)()
	}
	stopCopy, err := l.startCopy(ctx, added)
	if err != nil {
		return err
	}
	defer stopCopy()
	s.log.Info("streaming", "slot", s.source.Slot, "system_id", s.system.ID, "timeline", s.system.Timeline,
		"witness", cp.Witness.Commit.String(), "instance", s.cfg.Session.Instance)
	hit("streaming")
	close(s.steadied)
	return l.run(ctx)
}

// baseline has the database say what its tables are like now, where the event trigger is there to say what changes after
// it: of those that it has not told of yet. Without that the catalog of the moment would stand for their past.
func (s *session) baseline(ctx context.Context) error {
	if ok, err := s.cat.DDLTrigger(ctx); err != nil || !ok {
		return err
	}
	tables, err := s.cat.Tables(ctx)
	if err != nil {
		return err
	}
	var unknown []uint32
	for _, t := range tables {
		told := false
		if versions := s.saved.Relations[t.OID]; len(versions) > 0 {
			rec, err := decodeRelation(versions[len(versions)-1])
			if err != nil {
				return fmt.Errorf("saved relation %d: %w", t.OID, err)
			}
			told = rec.Facts || rec.Told
		}
		if !told {
			unknown = append(unknown, t.OID)
		}
	}
	if len(unknown) == 0 {
		return nil
	}
	return s.cat.EmitDDL(ctx, unknown)
}

func (s *session) schemaOptions(rel *decode.Relation) schema.Options {
	return s.cfg.SchemaOptions(rel.Schema, rel.Name, s.system.DB, s.system.ID)
}
