package pipeline

import (
	"sync"
	"sync/atomic"
	"time"

	"github.com/jackc/pglogrepl"

	"walferry/internal/failpoint"
)

// What a session can be waiting for, as readiness and status say it.
const (
	stepStart    = "start"
	stepSource   = "connect to Postgres"
	stepKafka    = "wait for Kafka"
	stepRegistry = "wait for the schema registry"
	stepReceive  = "receive from Postgres"
	stepPublish  = "publish to Kafka"
	stepStandby  = "wait for the slot"
)

// health is what others may ask while the pipeline works or hangs. Every method may be called from any goroutine.
type health struct {
	interval time.Duration // of heartbeats

	mu        sync.Mutex // guards the following
	at        string
	since     time.Time
	covered   time.Time // when a checkpoint that covers a delivered transaction was last committed
	confirmed pglogrepl.LSN
	serverEnd pglogrepl.LSN
	lastErr   error
}

// Health is a look at a running pipeline.
type Health struct {
	// Ready: a transaction, if need be a heartbeat's, was covered by a committed checkpoint within two heartbeat intervals.
	Ready     bool
	Step      string    // what it does or waits for now
	Since     time.Time // since when
	Covered   time.Time // when a checkpoint was last committed; zero before the first
	Confirmed pglogrepl.LSN
	ServerEnd pglogrepl.LSN
	Err       error // why the last session ended; nil once something was committed after it
}

// Health tells how the pipeline is; it does not wait for it.
func (p *Pipeline) Health() Health {
	h := &p.health
	h.mu.Lock()
	defer h.mu.Unlock()
	step := h.at
	if step == "" {
		step = stepStart
	}
	return Health{
		Ready: !h.covered.IsZero() && time.Since(h.covered) < 2*h.interval, Step: step, Since: h.since, Covered: h.covered,
		Confirmed: h.confirmed, ServerEnd: h.serverEnd, Err: h.lastErr,
	}
}

func (h *health) step(s string) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.at != s {
		h.at, h.since = s, time.Now()
	}
}

func (h *health) committed(now time.Time, confirmed, end pglogrepl.LSN) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.covered, h.lastErr = now, nil
	h.confirmed, h.serverEnd = max(h.confirmed, confirmed), end
}

// never says that nothing was ever committed.
func (h *health) never() bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.covered.IsZero()
}

func (h *health) ended(err error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.lastErr = err
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
