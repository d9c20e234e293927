package pipeline

import (
	"errors"
	"maps"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/jackc/pglogrepl"

	"walferry/checkpoint"
	"walferry/internal/failpoint"
	"walferry/internal/kafka"
	"walferry/schema"
	"walferry/sink"
	"walferry/source"
)

// What a session can be waiting for, as readiness and status say it.
const (
	stepStart     = "start"
	stepSource    = "connect to Postgres"
	stepKafka     = "wait for Kafka"
	stepRegistry  = "wait for the schema registry"
	stepReceive   = "receive from Postgres"
	stepHeartbeat = "write a heartbeat to Postgres"
	stepPublish   = "publish to Kafka"
	stepStandby   = "wait for the slot"
)

// State is what an instance is at, in one word.
type State string

// The states of an instance.
const (
	Starting  State = "starting"  // on the road to the stream, or back to it
	Streaming State = "streaming" // delivering
	Standby   State = "standby"   // another instance holds the slot
	Stalled   State = "stalled"   // it delivered before and does not now, or a server gave no answer for stall_limit
	Draining  State = "draining"  // asked to stop, publishing what was read
)

// States are all of them.
func States() []State { return []State{Starting, Streaming, Standby, Stalled, Draining} }

// Op is the kind of a change, as it is counted.
type Op int

// The kinds of changes.
const (
	Insert Op = iota
	Update
	Delete
	Truncate
	Read // a row of a first copy
	ops
)

func (o Op) String() string { return [...]string{"insert", "update", "delete", "truncate", "read"}[o] }

// Changes counts row changes and truncates by kind.
type Changes [ops]int64

// Sum is the number of all of them.
func (c *Changes) Sum() (n int64) {
	for _, x := range c {
		n += x
	}
	return n
}

// Class sorts errors for whoever counts them. It is decided in classOf.
type Class string

// The classes of errors.
const (
	ClassRetry    Class = "retry"     // passes by itself: a connection, a server that is away
	ClassRestart  Class = "restart"   // the producer begins anew, or the slot was given back after stall_limit
	ClassFenced   Class = "fenced"    // another instance took over, or the broker gave up our transaction
	ClassFatal    Class = "fatal"     // stays as it is until somebody changes something
	ClassValue    Class = "value"     // a value that cannot be encoded
	ClassTooLarge Class = "too_large" // a record or a row over a limit
	ClassSchema   Class = "schema"    // a schema that the registry refuses
)

// Classes are all of them.
func Classes() []Class {
	return []Class{ClassRetry, ClassRestart, ClassFenced, ClassFatal, ClassValue, ClassTooLarge, ClassSchema}
}

// Dependencies are the servers that a session can end for, as Totals.Reconnects counts them.
func Dependencies() []string { return []string{"source", "kafka", "registry"} }

func classOf(err error) Class {
	var stall *stallError
	switch {
	case errors.Is(err, kafka.ErrFenced):
		return ClassFenced
	case is[*sink.TooLargeError](err), is[*source.RowTooLargeError](err):
		return ClassTooLarge
	case is[*schema.ValueError](err), is[*StopError](err):
		return ClassValue
	case is[*RefusedSchemaError](err), is[*schema.CollisionError](err), is[*schema.PlaceholderError](err), is[*schema.TableError](err):
		return ClassSchema
	case !retryable(err):
		return ClassFatal
	case errors.As(err, &stall), errors.Is(err, sink.ErrInitRequired), is[*sink.UncertainError](err):
		return ClassRestart
	case is[*sink.AbortedError](err) && kafka.Classify(err) == kafka.Restart:
		return ClassRestart
	}
	return ClassRetry
}

// Totals are what an instance has done since it was started.
type Totals struct {
	Sessions     int64            // that took the slot
	Batches      int64            // Kafka transactions committed
	Transactions int64            // source transactions committed whole, heartbeats included
	Split        int64            // of these, the ones that needed more than one Kafka transaction
	Changes      Changes          // committed
	Uncaptured   int64            // rows and truncates of tables that the publication has and the configuration does not
	Contained    int64            // rows and truncates that the copy of a table without a key contains, which was under way
	Truncates    int64            // truncates not published, by schema.truncate: skip
	Records      int64            // event records committed, tombstones included, checkpoints not
	RecordBytes  int64            // their bytes before compression
	CopiedBytes  int64            // of rows that copies have read, as the server sent them
	Received     int64            // bytes of pgoutput received
	Heartbeats   int64            // written to the database
	Aborted      int64            // Kafka transactions aborted and published again
	Uncertain    int64            // commits without an answer, settled by reading
	Incompatible map[string]int64 // schemas that the registry refused as incompatible, by what was done: force, new-topic
	Errors       map[Class]int64
	Reconnects   map[string]int64 // sessions begun again, by the server whose fault it was: source, kafka, registry
}

// Batch is the size of a batch.
type Batch struct{ Records, Bytes int }

// health is what others may ask while the pipeline works or hangs. Every method may be called from any goroutine.
type health struct {
	interval time.Duration // of heartbeats

	received atomic.Int64 // bytes of pgoutput
	copies   atomic.Pointer[copiesTold]
	oldest   atomic.Int64 // commit time of the oldest transaction that was received and is not committed, Unix nanoseconds; 0 for none

	mu         sync.Mutex // guards the following
	state      State
	at         string
	since      time.Time
	covered    time.Time // when a checkpoint that covers a delivered transaction was last committed
	heartbeat  time.Time // when a heartbeat was last covered by one
	streaming  time.Time // when the stream last began
	system     source.System
	stream     *source.Stream // nil while the slot is not held
	witness    checkpoint.Witness
	position   checkpoint.Position
	confirmed  pglogrepl.LSN
	serverEnd  pglogrepl.LSN
	slotInfo   source.Slot
	flying     Batch
	lastErr    error
	fruitless  int // sessions that held the slot and ended, since something was last committed
	totals     Totals
	throughput window
}

// Health is a look at a running pipeline.
type Health struct {
	State State
	// Ready: a transaction, if need be a heartbeat's, was covered by a committed checkpoint within two heartbeat intervals, and
	// since then no more than one session that held the slot has ended.
	Ready     bool
	Step      string    // what it does or waits for now
	Since     time.Time // since when
	Covered   time.Time // when a checkpoint was last committed; zero before the first
	Heartbeat time.Time // when a heartbeat was last covered by one; zero before the first
	Holds     bool      // the slot
	System    source.System
	Witness   checkpoint.Witness  // newest source transaction that a committed checkpoint covers whole
	Position  checkpoint.Position // newest change that one covers
	Confirmed pglogrepl.LSN       // what the slot was told, by whichever instance
	ServerEnd pglogrepl.LSN       // newest WAL end that was heard of
	Slot      source.Slot         // as of at most a heartbeat interval ago
	LastFrame time.Time           // when the walsender was last heard; zero while there is none
	Buffered  int64               // bytes of source.buffer_bytes in use
	InFlight  Batch               // being published
	// Lag is the age of the oldest change that was received and is not committed to Kafka, by the clocks of both machines. An
	// instance that does not deliver cannot know what it missed: then it is at least the time since the last checkpoint.
	Lag                              time.Duration
	ChangesPerSecond, BytesPerSecond float64 // over the last minute
	Totals                           Totals
	Copies                           []CopyProgress // of tables whose rows are copied, or were
	Err                              error          // why the last session ended; nil once something was committed after it
}

// maxFruitless is how many sessions may hold the slot and end without a commit between them before readiness is lost. One is a
// connection that broke; the next one shows whether it mends that. Sessions that do not get as far are those of a server that is
// away, which a restart or a failover makes many of within seconds: for them the time since the last commit counts alone.
const maxFruitless = 2

// Health tells how the pipeline is; it does not wait for it.
func (p *Pipeline) Health() Health {
	h := &p.health
	now := time.Now()
	h.mu.Lock()
	defer h.mu.Unlock()
	out := Health{
		State: h.state, Ready: !h.covered.IsZero() && now.Sub(h.covered) < 2*h.interval && h.fruitless < maxFruitless, Step: h.at, Since: h.since,
		Covered: h.covered, Heartbeat: h.heartbeat, Holds: h.stream != nil, System: h.system, Witness: h.witness,
		Position: h.position, Confirmed: max(h.confirmed, h.slotInfo.Confirmed), ServerEnd: h.serverEnd, Slot: h.slotInfo, InFlight: h.flying,
		Totals: h.totals, Err: h.lastErr,
	}
	if h.stream != nil {
		out.ServerEnd = max(out.ServerEnd, h.stream.ServerEnd())
		out.LastFrame, out.Buffered = h.stream.LastFrame(), h.stream.Buffered()
	}
	out.Totals.Received = h.received.Load()
	if c := h.copies.Load(); c != nil {
		out.Copies = slices.Concat(c.underWay, c.ended)
	}
	out.Totals.Errors, out.Totals.Reconnects = maps.Clone(h.totals.Errors), maps.Clone(h.totals.Reconnects)
	out.Totals.Incompatible = maps.Clone(h.totals.Incompatible)
	out.ChangesPerSecond, out.BytesPerSecond = h.throughput.rates(now)
	if t := h.oldest.Load(); t != 0 {
		out.Lag = max(now.Sub(time.Unix(0, t)), 0)
	}
	if !out.Ready && !h.covered.IsZero() {
		out.Lag = max(out.Lag, now.Sub(h.covered))
	}
	late := !h.covered.IsZero() || now.Sub(h.streaming) > 2*h.interval
	switch {
	case p.stopped.Load():
		out.State = Draining
	case out.State == Streaming && !out.Ready && late, out.State == Starting && !out.Ready && !h.covered.IsZero():
		out.State = Stalled
	}
	return out
}

func (h *health) init(interval time.Duration) {
	h.interval, h.state, h.at = interval, Starting, stepStart
	h.totals.Errors, h.totals.Reconnects = map[Class]int64{}, map[string]int64{}
	h.totals.Incompatible = map[string]int64{incompatibleForce: 0, incompatibleNewTopic: 0}
	h.throughput.begun = time.Now()
}

func (h *health) step(s string) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.at != s {
		h.at, h.since = s, time.Now()
	}
}

func (h *health) enter(s State) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.state = s; s == Streaming {
		h.streaming = time.Now()
	}
}

// holds notes that the slot is held.
func (h *health) holds(system source.System, stream *source.Stream) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.state, h.system, h.stream = Starting, system, stream
	h.totals.Sessions++
}

// slot notes what a server says of the slot.
func (h *health) slot(system source.System, s source.Slot) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.system, h.slotInfo = system, s
	if s.Restart != 0 {
		// A walsender that says nothing hides how far the server is; this does not.
		h.serverEnd = max(h.serverEnd, s.Restart+pglogrepl.LSN(s.RetainedBytes))
	}
}

// sealed notes that a batch is being published.
func (h *health) sealed(b Batch) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.flying = b
}

func (h *health) wrote() {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.totals.Heartbeats++
}

func (h *health) committed(now time.Time, c *checkpoint.Checkpoint, st *batchStats) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.covered, h.lastErr, h.flying, h.fruitless = now, nil, Batch{}, 0
	if st.beat {
		h.heartbeat = now
	}
	h.witness, h.position, h.confirmed = c.Witness, c.Position, max(h.confirmed, c.Witness.Commit)
	t := &h.totals
	t.Batches++
	t.Transactions += st.transactions
	t.Split += st.split
	for op, n := range st.changes {
		t.Changes[op] += n
	}
	t.Uncaptured += st.uncaptured
	t.Contained += st.contained
	t.Truncates += st.truncates
	t.Records += int64(st.Records)
	t.RecordBytes += int64(st.Bytes)
	t.CopiedBytes += st.copiedBytes
	h.throughput.add(now, st.changes.Sum(), int64(st.Bytes))
}

func (h *health) aborted(err error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if is[*sink.UncertainError](err) {
		h.totals.Uncertain++
	} else {
		h.totals.Aborted++
	}
	h.totals.Errors[classOf(err)]++
	h.lastErr = err
}

// never says that nothing was ever committed.
func (h *health) never() bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.covered.IsZero()
}

// failed notes an error that the session survives.
func (h *health) failed(err error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.totals.Errors[classOf(err)]++
	h.lastErr = err
}

// incompatible counts a schema that the registry refused and that is used all the same.
func (h *health) incompatible(how string) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.totals.Incompatible[how]++
}

// ended notes the end of a session.
func (h *health) ended(err error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.stream != nil {
		h.serverEnd, h.stream = max(h.serverEnd, h.stream.ServerEnd()), nil
		if !errors.Is(err, errTextMode) {
			h.fruitless++
		}
	}
	if h.state == Streaming {
		h.state = Starting
	}
	h.flying, h.lastErr = Batch{}, err
	h.oldest.Store(0)
	// A stop, a change to text mode and a slot that another instance holds are no errors.
	if !errors.Is(err, errDrained) && !errors.Is(err, errTextMode) && !is[*source.SlotInUseError](err) {
		h.totals.Errors[classOf(err)]++
	}
}

// again notes that a session begins again, and whose fault it was.
func (h *health) again(of string) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.totals.Reconnects[of]++
}

// window sums what was published in each of the last 60 seconds.
type window struct {
	begun time.Time
	slots [60]struct{ second, changes, bytes int64 }
}

func (w *window) add(now time.Time, changes, bytes int64) {
	second := now.Unix()
	s := &w.slots[second%int64(len(w.slots))]
	if s.second != second {
		s.second, s.changes, s.bytes = second, 0, 0
	}
	s.changes += changes
	s.bytes += bytes
}

// rates are a second's mean over the last minute, or since the beginning where that is later.
func (w *window) rates(now time.Time) (changes, bytes float64) {
	for _, s := range w.slots {
		if s.second > now.Unix()-int64(len(w.slots)) {
			changes += float64(s.changes)
			bytes += float64(s.bytes)
		}
	}
	over := min(max(now.Sub(w.begun).Seconds(), 1), float64(len(w.slots)))
	return changes / over, bytes / over
}

// hit is a place between two durable steps, where the tests' builds can end the process, and tests of this package a
// pipeline.
func hit(name string) {
	failpoint.Hit("pipeline/" + name)
	if f := testHook.Load(); f != nil {
		(*f)(name)
	}
}

// testHook is called at every place by tests of this package; nil otherwise.
var testHook atomic.Pointer[func(place string)]
