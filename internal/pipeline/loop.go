package pipeline

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/jackc/pglogrepl"

	"walferry/checkpoint"
	"walferry/decode"
	"walferry/schema"
	"walferry/sink"
	"walferry/source"
)

var (
	// ErrStalled is the reason of a stallError when Kafka is the server that does not answer. Run returns it where Kafka was out of
	// reach from the beginning, for longer than StartTimeout.
	ErrStalled = errors.New("nothing could be committed to Kafka within stall_limit")
	// errDrained ends a session that was asked to stop, or to drain, and has published and confirmed what it had.
	errDrained = errors.New("drained")
)

// loop is the steady state of one session: frames in, Kafka transactions out, confirmations back. It returns why it ended,
// errDrained after a requested stop. Everything in the batch being built belongs to this goroutine; the batch in
// flight belongs to the one transaction goroutine until its outcome has been received.
type loop struct {
	*session
	stream   *source.Stream
	decoder  *decode.Decoder
	gate     *checkpoint.Gate
	builder  builder
	building *sealed // batch being built; its checkpoint is made when it is sealed
	spare    *sealed // the other one, nil while it is in flight

	inTx          bool
	drop          checkpoint.Action // what the gate said of the open transaction
	beat          bool              // a heartbeat's transaction is in it
	since         time.Time         // when its first whole transaction ended
	wholes        int64             // whole transactions in the batch being built, also those without a record
	stats         batchStats        // what else is counted of it
	oldest        time.Time         // commit time of the first transaction in it
	whole         checkpoint.Witness
	position      checkpoint.Position
	before        checkpoint.Position // where it was at the open transaction's Begin
	copy          copier
	delivered     pglogrepl.LSN // of the newest transaction that the stream has brought whole, dropped or not
	brought       time.Time     // when the stream has brought the newest transaction with records of ours
	sliced        bool          // rows of a copy were placed since the block at hand began
	copiedBatches uint64        // that brought a copy further, so far
	parts         int           // parts of the open transaction already published
	results       chan outcome
	inFlight      time.Time // since when a transaction is in flight; zero when none is
	flying        time.Time // commit time of the first source transaction in flight
	stopping      bool
	heartbeat     heartbeat
	refetched     refetched // of the change at hand
	topics        *Topics   // of tables that rows have come of; nil before the first row

	// fence is set for a drain: where the WAL ended when the session began. A transaction that commits at or after it is
	// behind everything that was committed before.
	fence   pglogrepl.LSN
	reached bool // such a transaction has come, and no heartbeat is on its way behind it
}

// run is the loop's whole life after the start road is done.
func (l *loop) run(ctx context.Context) error {
	tick := time.NewTicker(tickInterval)
	defer tick.Stop()
	defer l.awaitInFlight()
	asks, shut := l.door.open()
	defer shut()
	stop := l.stop
	l.health.enter(Streaming)
	l.heartbeat.due(time.Time{}) // at once: decides on an idle database whether the witness comes
	for {
		if err := l.backfill(ctx); err != nil {
			return err
		}
		if l.inFlight.IsZero() && l.ready() {
			if err := l.start(ctx); err != nil {
				return err
			}
			continue // the other batch has room for rows of a copy that this one had none for
		}
		if l.stopping && !l.inTx && l.inFlight.IsZero() && l.idleBatch() {
			if l.reached {
				return l.finishDrain(ctx)
			}
			return errDrained
		}
		var blocks <-chan *source.Block
		if l.reading() {
			blocks = l.stream.Blocks()
		}
		var more <-chan struct{}
		if l.copy.more {
			more = always
		}
		l.health.step(l.where())
		select {
		case <-more: // and whoever else is there has his turn
		case b, ok := <-blocks:
			if !ok {
				return fmt.Errorf("replication stream: %w", l.cat.Explain(ctx, l.stream.Err()))
			}
			err := l.consume(ctx, b)
			b.Release()
			if err != nil {
				return l.leave(ctx, err)
			}
		case o := <-l.results:
			if err := l.settled(o); err != nil {
				return err
			}
		case err := <-l.heartbeat.done:
			l.heartbeat.finished(err)
		case j := <-l.copy.results:
			if err := l.answered(j); err != nil {
				return err
			}
		case x := <-asks:
			l.command(x)
		case now := <-tick.C:
			if err := l.tick(ctx, now); err != nil {
				return err
			}
		case <-stop:
			stop = nil
			l.stopping = true
			l.stopBy = time.Now().Add(l.cfg.DrainTimeout)
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
}

// always can be received from.
var always = func() <-chan struct{} {
	c := make(chan struct{})
	close(c)
	return c
}()

// emptyDelay is how long transactions without any record of ours wait for company: a server before 15 sends begin and commit
// of every transaction of the database, and each would cost a Kafka transaction.
const emptyDelay = time.Second

// ready says whether the batch being built is worth a Kafka transaction now.
func (l *loop) ready() bool {
	switch {
	case l.full():
		return true
	case l.inTx:
		return false
	case l.copy.more && !l.stopping && l.stats.changes.Sum() == l.stats.changes[Read]:
		return false // rows of a copy that wait for nobody, and heartbeats: more of them make a larger batch
	case l.wholes == 0:
		return !l.idleBatch()
	}
	return l.building.batch.Records() > 0 || l.beat || l.stopping || time.Since(l.since) > emptyDelay
}

// idleBatch says that there is nothing to publish or save in the batch being built. What a copy has to save waits until the server
// has shown that its history is ours.
func (l *loop) idleBatch() bool {
	return l.wholes == 0 && l.stats.changes[Read] == 0 && !(l.copy.dirty && l.gate.Open())
}

// backfill brings the first copy on, where there is one: chunks that the stream has come far enough for get their place,
// those that wait get a heartbeat to wait for, and workers their work.
func (l *loop) backfill(ctx context.Context) error {
	if l.copy.jobs == nil || !l.gate.Open() {
		return nil
	}
	l.copy.more = false
	if !l.inTx && l.copy.active() && !l.stopping {
		if _, err := l.place(ctx); err != nil {
			return err
		}
	}
	now := time.Now()
	l.schedule(now)
	if l.copy.waitsFor() > l.delivered {
		hit("chunk-waits")
		l.heartbeat.send(ctx, now, l.cat, l.stream.ServerEnd())
	}
	return nil
}

// reading says whether the next block is wanted: not while the batch is full and the one before it is still in flight, and
// after a requested stop only up to the end of the open transaction.
func (l *loop) reading() bool {
	if l.stopping && !l.inTx {
		return false
	}
	return !l.full() || l.inFlight.IsZero()
}

func (l *loop) full() bool { return l.building.batch.Full() }

// tick looks at the clock: the stall limit, the drain's bound and heartbeats.
func (l *loop) tick(ctx context.Context, now time.Time) error {
	if !l.inFlight.IsZero() && now.Sub(l.inFlight) > l.cfg.StallLimit {
		return l.kafkaStall()
	}
	if l.stopping && !l.stopBy.IsZero() && now.After(l.stopBy) {
		return fmt.Errorf("not drained within %v: what was in flight is settled at the next start", l.cfg.DrainTimeout)
	}
	if l.copy.active() || l.copy.untold {
		l.tellCopies(now)
	}
	if !l.stopping {
		l.heartbeat.check(ctx, now, l.cat, l.stream.ServerEnd(), l.whole.Commit)
	}
	return nil
}

// leave publishes the whole transactions before the one that err stops the stream at, if trying again will not mend it. So
// the stream stands right before it, and what came earlier need not wait until somebody has mended it.
func (l *loop) leave(ctx context.Context, err error) error {
	if retryable(err) || !l.inTx {
		return err
	}
	if l.wholes > 0 {
		if aerr := l.builder.abandon(); aerr != nil {
			return errors.Join(err, aerr)
		}
		l.building.forget(l.builder.tx)
		l.inTx, l.position = false, l.before
		if ierr := l.idle(ctx); ierr != nil {
			return errors.Join(err, ierr)
		}
		if serr := l.start(ctx); serr != nil {
			return errors.Join(err, serr)
		}
	}
	if ierr := l.idle(ctx); ierr != nil { // what is in flight would be aborted
		return errors.Join(err, ierr)
	}
	return err
}

// consume takes every frame of a block into the batch. It waits for the transaction in flight when the batch is full in the
// middle of a block.
func (l *loop) consume(ctx context.Context, blk *source.Block) error {
	n := 0
	for i := range blk.Frames {
		n += len(blk.Frames[i].Payload)
	}
	l.health.received.Add(int64(n))
	l.refetched.begin(blk.Frames)
	l.sliced = false
	for i := range blk.Frames {
		f := &blk.Frames[i]
		l.refetched.at = i
		e, err := l.decoder.Decode(f.WALStart, f.Payload)
		if err != nil {
			return err
		}
		if e == nil {
			continue
		}
		if err := l.event(ctx, e); err != nil {
			return err
		}
		if l.stopping && !l.inTx {
			return nil // the rest is sent again at the next start
		}
	}
	return nil
}

func (l *loop) event(ctx context.Context, e decode.Event) error {
	switch e := e.(type) {
	case *decode.Begin:
		return l.begin(e)
	case *decode.Change:
		return l.change(ctx, e)
	case *decode.Truncate:
		return l.truncate(ctx, e)
	case *decode.Message:
		return l.message(e)
	case *decode.Commit:
		if err := l.commit(e); err != nil || l.stopping || !l.copy.active() || l.sliced {
			return err
		}
		var err error
		l.sliced, err = l.place(ctx)
		return err
	}
	return fmt.Errorf("unknown event %T", e)
}

func (l *loop) begin(e *decode.Begin) error {
	a, err := l.gate.Begin(e.Commit, e.XID, e.CommitTime)
	if err != nil {
		return err
	}
	l.inTx, l.drop, l.parts, l.before = true, a, 0, l.position
	if a == checkpoint.DropUpTo {
		l.parts = l.gate.Part()
	}
	l.builder.begin(e.Transaction, l.parts)
	if l.parts > 0 {
		l.builder.part = l.parts + 1
	}
	if l.oldest.IsZero() && a != checkpoint.Drop {
		l.oldest = e.CommitTime
		l.waits()
	}
	return nil
}

// covered says whether the checkpoint already has the change at p.
func (l *loop) covered(p decode.Position) bool {
	switch l.drop {
	case checkpoint.Drop:
		return true
	case checkpoint.DropUpTo:
		return l.gate.Covered(position(p))
	default:
		return false
	}
}

func (l *loop) change(ctx context.Context, c *decode.Change) error {
	drop := l.covered(c.Position)
	if !drop && l.full() {
		// Before the table is made: a new version is saved in the transaction of its first row.
		if err := l.room(ctx); err != nil {
			return err
		}
	}
	contained := false
	if l.copy.active() {
		contained = l.note(c, drop)
	}
	if l.drop == checkpoint.Drop {
		return nil // relations and types were noted by the decoder
	}
	t, err := l.table(ctx, c.Relation, c.Position)
	if err != nil {
		return err
	}
	if t == nil {
		l.stats.uncaptured++
		return nil
	}
	if contained && !drop {
		l.stats.contained++
		drop = true
	}
	if t.refetches && !drop && c.Op == decode.Update {
		err = l.changeRefetched(ctx, t, c)
	} else {
		err = l.builder.change(t, c, drop)
	}
	if value, ok := errors.AsType[*schema.ValueError](err); ok && value.Stale {
		newer, aerr := l.again(ctx, c.Relation, c.Position)
		if aerr != nil {
			return aerr
		}
		if newer != nil {
			t = newer
			err = l.builder.change(t, c, drop)
		}
	}
	if err != nil {
		return l.stopAt(t, c, err)
	}
	if !drop {
		switch c.Op {
		case decode.Insert:
			l.stats.changes[Insert]++
		case decode.Update:
			l.stats.changes[Update]++
		case decode.Delete:
			l.stats.changes[Delete]++
		case decode.Read: // the builder refused it
		}
		l.position = position(c.Position)
	}
	return nil
}

func (l *loop) truncate(ctx context.Context, c *decode.Truncate) error {
	drop := l.covered(c.Position)
	if !drop && l.full() {
		if err := l.room(ctx); err != nil {
			return err
		}
	}
	l.noteTruncate(c, drop)
	if l.drop == checkpoint.Drop {
		return nil
	}
	part, before := 0, l.builder.txRecords
	for _, rel := range c.Relations {
		t, err := l.table(ctx, rel, c.Position)
		if err != nil {
			return err
		}
		if t == nil {
			l.stats.uncaptured++
			continue
		}
		w := l.copy.find(rel.ID)
		contained := w != nil && w.whole != nil && w.whole.contains(l.builder.tx.XID)
		if contained && !drop {
			l.stats.contained++
			continue
		}
		if part, err = l.builder.truncated(t, c, part, drop); err != nil {
			return fmt.Errorf("truncate of %s at %s: %w", rel, c.Position, err)
		}
		if w != nil && w.whole != nil && !contained {
			l.truncatedWhole(w)
		}
	}
	// A truncate that made no record moves nothing: a position without a record would lie in a transaction that
	// the checkpoint does not know as split.
	if l.builder.txRecords > before {
		l.stats.changes[Truncate]++
		l.position = position(c.Position)
	}
	return nil
}

func (l *loop) message(m *decode.Message) error {
	switch m.Prefix {
	case source.HeartbeatPrefix:
		l.heartbeat.seen()
		l.beat = true
	case contextPrefix:
		l.builder.setContext(m.Content)
	case source.DDLPrefix:
		return l.facts(m)
	}
	return nil
}

func (l *loop) commit(e *decode.Commit) error {
	now := time.Now()
	l.inTx, l.delivered = false, e.Commit
	l.heartbeat.delivered(now)
	if l.builder.txRecords > 0 {
		l.brought = now
	}
	shut := !l.gate.Open()
	if err := l.gate.Commit(e.Commit, e.End); err != nil {
		return err
	}
	if shut && l.gate.Open() {
		// The server has shown that its history is ours: it may hear again what the checkpoint covers.
		l.stream.Confirm(l.gate.Witness().Commit)
	}
	if l.drop == checkpoint.Drop {
		return nil
	}
	if err := l.builder.end(); err != nil {
		return err
	}
	if l.wholes == 0 {
		l.since = time.Now()
	}
	l.wholes++
	if l.parts > 0 {
		l.stats.split++
	}
	l.parts = 0
	l.whole = checkpoint.Witness{Commit: e.Commit, End: e.End, XID: e.XID, CommitTime: e.CommitTime}
	if l.fence != 0 && e.Commit >= l.fence && !l.heartbeat.outstanding {
		l.stopping, l.reached = true, true
	}
	return nil
}

// finishDrain ends a drain: everything read is published, and the last transaction is behind all that was committed before
// the drain began. This once its end is confirmed, so that the slot has nothing left to send; what allows it is saved
// before, or a start would find the slot past its checkpoint and refuse.
func (l *loop) finishDrain(ctx context.Context) error {
	c := checkpoint.Checkpoint{
		SystemID: l.system.ID, Timeline: l.system.Timeline, Slot: l.source.Slot, State: checkpoint.Drained,
		Witness: l.whole, Position: l.position, End: l.whole.End, Copied: l.copiedBatches, Copies: l.copy.known,
	}
	if err := l.save(ctx, &c); err != nil {
		return fmt.Errorf("save that the pipeline is drained: %w", err)
	}
	hit("drained-saved")
	if ctx.Err() != nil {
		return context.Cause(ctx) // what is saved allows the end to be confirmed and does not need it
	}
	l.stream.Confirm(c.End)
	// The server takes a confirmation without an answer; its slot tells when it has.
	for {
		slot, err := l.cat.SlotInfo(ctx)
		if err != nil {
			return err
		}
		if slot.Confirmed >= c.End {
			break
		}
		if err := sleep(ctx, tickInterval/5); err != nil {
			return err
		}
		if err := l.stream.Err(); err != nil {
			return fmt.Errorf("replication stream: %w", err)
		}
	}
	l.Pipeline.drained.Store(&c)
	return errDrained
}

// room makes room inside a transaction: it waits until nothing is in flight and starts the full batch as a part of the open
// transaction, or as the whole ones before it when the open one has no record in it yet.
func (l *loop) room(ctx context.Context) error {
	if err := l.idle(ctx); err != nil {
		return err
	}
	return l.start(ctx)
}

// idle waits until no transaction is in flight, with the same eye on the clock as run.
func (l *loop) idle(ctx context.Context) error {
	tick := time.NewTicker(tickInterval)
	defer tick.Stop()
	for !l.inFlight.IsZero() {
		l.health.step(stepPublish)
		select {
		case o := <-l.results:
			if err := l.settled(o); err != nil {
				return err
			}
		case err := <-l.heartbeat.done:
			l.heartbeat.finished(err)
		case now := <-tick.C:
			if now.Sub(l.inFlight) > l.cfg.StallLimit {
				return l.kafkaStall()
			}
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
	return nil
}

// start seals the batch being built and hands it to the transaction goroutine. Nothing may be in flight.
func (l *loop) start(ctx context.Context) error {
	s := l.building
	split := l.inTx && l.builder.txRecords > 0
	if split {
		if err := l.builder.cut(); err != nil {
			return err
		}
	}
	if err := l.sealCopies(s); err != nil {
		return err
	}
	c := checkpoint.Checkpoint{
		SystemID: l.system.ID, Timeline: l.system.Timeline, Slot: l.source.Slot, State: checkpoint.Live,
		Witness: l.whole, Position: l.position, Copied: l.copiedBatches, Copies: l.copy.known,
	}
	if l.inTx && (split || l.parts > 0) {
		if split {
			l.parts++
		}
		c.Split = &checkpoint.Split{XID: l.builder.tx.XID, CommitTime: l.builder.tx.CommitTime, Part: l.parts}
	}
	s.checkpoint, s.sealedAt = c, time.Now()
	s.stats = l.stats
	// Before the checkpoint's own records are in it.
	s.stats.Batch = Batch{Records: s.batch.Records(), Bytes: s.batch.Bytes()}
	s.stats.transactions, s.stats.truncates, s.stats.beat = l.wholes, l.builder.truncates, l.beat
	if l.wholes > 0 { // a batch can have rows of a copy only, or what is saved of one
		s.stats.lastCommit = l.whole.CommitTime
	}
	if err := l.store.seal(s); err != nil {
		return err
	}
	l.building, l.spare = l.spare, nil
	l.builder.batch = l.building.batch
	l.stats, l.builder.truncates, l.wholes, l.beat = batchStats{}, 0, 0, false
	l.builder.beginPart()
	l.inFlight = s.sealedAt
	l.flying, l.oldest = l.oldest, time.Time{}
	if l.inTx {
		l.oldest = l.builder.tx.CommitTime
	}
	l.waits()
	l.health.sealed(s.stats.Batch)
	hit("sealed")
	go func() {
		err := l.publisher.publish(ctx, s)
		l.results <- outcome{sealed: s, took: time.Since(s.sealedAt), err: err}
	}()
	return nil
}

// settled takes the outcome of the transaction in flight: confirms it to the slot, or ends the session.
func (l *loop) settled(o outcome) error {
	l.inFlight, l.flying = time.Time{}, time.Time{}
	l.waits()
	if o.err != nil {
		return fmt.Errorf("publish: %w", o.err)
	}
	if len(o.sealed.commands) > 0 {
		l.tellCopies(time.Now()) // who has the answer finds it in status
	}
	answer(o.sealed.commands)
	hit("before-confirm")
	// The commit LSN, never the end: so the witness is sent again at every start, and compared.
	if w := o.sealed.checkpoint.Witness; w.Commit != 0 {
		l.stream.Confirm(w.Commit)
	}
	hit("after-confirm")
	l.committed(o)
	o.sealed.batch.Reset()
	o.sealed.relations, o.sealed.changes, o.sealed.moved, o.sealed.superseded = o.sealed.relations[:0], nil, nil, nil
	o.sealed.copies, o.sealed.commands = nil, nil
	l.spare = o.sealed
	return nil
}

// awaitInFlight takes back the batch that the transaction goroutine owns. The session's context is cancelled before.
func (l *loop) awaitInFlight() {
	if !l.inFlight.IsZero() {
		l.cancel(errSessionOver)
		<-l.results
		l.inFlight = time.Time{}
	}
}

// committed tells who watches that a batch is committed and confirmed.
func (l *loop) committed(o outcome) {
	l.lived = true
	st := o.sealed.stats
	l.health.committed(time.Now(), &o.sealed.checkpoint, &st)
	l.observer.Committed(Commit{Batch: st.Batch, Took: o.took, LastCommit: st.lastCommit})
}

// waits tells whoever watches which transaction waits longest.
func (l *loop) waits() {
	oldest := l.flying
	if oldest.IsZero() {
		oldest = l.oldest
	}
	if oldest.IsZero() {
		l.health.oldest.Store(0)
		return
	}
	l.health.oldest.Store(oldest.UnixNano())
}

// where names what the loop waits for.
func (l *loop) where() string {
	switch {
	case !l.inFlight.IsZero():
		return stepPublish
	case l.heartbeat.running:
		return stepHeartbeat
	default:
		return stepReceive
	}
}

// stopAt names the row before which the stream stops.
func (l *loop) stopAt(t *table, c *decode.Change, err error) error {
	var value *schema.ValueError
	var large *sink.TooLargeError
	var unreadable *source.UnreadableRowError
	e := &StopError{Table: c.Relation.String(), Key: t.keyText(c), Err: err}
	if c.Op != decode.Read {
		e.Position = c.Position.String()
	}
	switch {
	case errors.As(err, &value):
		if value.NeedsText && !l.textMode {
			return errTextMode
		}
		e.Remedy = value.Remedy
	case errors.As(err, &large):
		e.Remedy = fmt.Sprintf("raise max.message.bytes of topic %s above %d (and the broker's message.max.bytes where it is lower), "+
			"or leave the large column out with source.exclude_columns", large.Topic, large.Bytes)
	case errors.As(err, &unreadable):
		e.Remedy = unreadable.Hint() + "; or choose another `toast` for the table's columns"
	default:
		return fmt.Errorf("table %s at %s: %w", c.Relation, c.Position, err)
	}
	return e
}

// position is decode's position in the checkpoint's words.
func position(p decode.Position) checkpoint.Position {
	return checkpoint.Position{Commit: p.Commit, Change: p.Change, N: p.N}
}
