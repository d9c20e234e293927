package pipeline

import (
	"context"
	"time"

	"github.com/jackc/pglogrepl"
)

// walPastWitness is how far the server's WAL end may run past the newest published transaction before a heartbeat is sent at
// once: an idle slot on a busy server would otherwise hold WAL for a whole interval. Bytes.
const walPastWitness = 1 << 20

// emitter is the side connection, as far as heartbeats need it.
type emitter interface {
	Heartbeat(ctx context.Context) error
}

// heartbeat decides when the next heartbeat is due and keeps at most one outstanding: from the request until its
// transaction has been delivered by the stream, or until the request has failed.
type heartbeat struct {
	interval    time.Duration
	next        time.Time // when one is due if no transaction is delivered before
	outstanding bool
	sentAt      pglogrepl.LSN // server's WAL end when the newest was asked for
	running     bool          // a request is on its way on the side connection
	done        chan error    // its result
	failed      func(error)
	wrote       func()
}

// due sets when the next one is wanted; the zero time means at once.
func (h *heartbeat) due(at time.Time) { h.next = at }

// delivered notes that a transaction, ours or not, has come: the next heartbeat is an interval away.
func (h *heartbeat) delivered(now time.Time) { h.next = now.Add(h.interval) }

// seen notes that a heartbeat's own transaction has come.
func (h *heartbeat) seen() { h.outstanding = false }

// finished takes the result of a request. A failed one is tried again after the interval: the side connection's end is
// noticed elsewhere.
func (h *heartbeat) finished(err error) {
	h.running = false
	if err != nil {
		h.outstanding = false
		h.failed(err)
		return
	}
	h.wrote()
}

// check sends a heartbeat if one is due.
func (h *heartbeat) check(ctx context.Context, now time.Time, e emitter, end, witness pglogrepl.LSN) {
	if h.outstanding || h.running {
		return
	}
	far := end > witness+walPastWitness && end > h.sentAt+walPastWitness
	if now.Before(h.next) && !far {
		return
	}
	h.send(ctx, now, e, end)
}

// send sends a heartbeat, unless one is on its way.
func (h *heartbeat) send(ctx context.Context, now time.Time, e emitter, end pglogrepl.LSN) {
	if h.outstanding || h.running {
		return
	}
	h.outstanding, h.running, h.sentAt = true, true, end
	h.next = now.Add(h.interval)
	go func() { h.done <- e.Heartbeat(ctx) }()
}
