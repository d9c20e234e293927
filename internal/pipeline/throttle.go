package pipeline

import (
	"fmt"
	"strings"
	"sync"
	"time"

	"walferry/source"
)

// CopyLimits hold the first copy back. 0 is no limit, for each of them.
type CopyLimits struct {
	RowsPerSecond  int
	BytesPerSecond int // of what the server sends
	// MaxLag is how many bytes of WAL the stream may be behind when a chunk is read: it would have to wait for its place, with
	// all changes in between noted.
	MaxLag int64
	// MaxReplicaLag is how many bytes of WAL a physical standby may have to replay yet.
	MaxReplicaLag int64
	// MaxSessions is how many sessions of others may be active in the server.
	MaxSessions int
}

// watched says that the source is to be asked for its load.
func (c *CopyLimits) watched() bool { return c.MaxReplicaLag > 0 || c.MaxSessions > 0 }

// loadInterval lies between two questions for the source's load.
const loadInterval = 2 * time.Second

// throttle says when the next chunk may be read.
type throttle struct {
	asking bool
	askAt  time.Time
	asked  bool
	reason string // why no chunk is read now; "" for no reason
	rate   limiter
}

// limiter spreads what is read over time. Its methods may be called from several goroutines.
type limiter struct {
	mu sync.Mutex
	at time.Time
}

// spend takes down what was read, and returns when more may be.
func (p *limiter) spend(limits *CopyLimits, now time.Time, rows, bytes int) time.Time {
	var took time.Duration
	for _, x := range [...][2]int{{rows, limits.RowsPerSecond}, {bytes, limits.BytesPerSecond}} {
		if x[1] > 0 {
			took = max(took, time.Duration(float64(x[0])/float64(x[1])*float64(time.Second)))
		}
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if now.After(p.at) {
		p.at = now
	}
	p.at = p.at.Add(took)
	return p.at
}

// next is when more may be read.
func (p *limiter) next() time.Time {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.at
}

// throttled says whether no chunk is to be read now. It asks the source for its load now and then, if there is a bound for it.
func (l *loop) throttled(now time.Time) bool {
	c := &l.copy
	t := &c.throttle
	if c.Limits.watched() && !t.asking && !now.Before(t.askAt) && c.out < c.Workers {
		t.asking = true
		c.send(&copyJob{load: true})
	}
	if c.Limits.watched() && !t.asked {
		return true
	}
	if lag := l.behind(); c.Limits.MaxLag > 0 && lag > c.Limits.MaxLag {
		l.pause(fmt.Sprintf("the stream is %d bytes of WAL behind, and backfill.max_lag is %d", lag, c.Limits.MaxLag))
		return true
	} else if !c.Limits.watched() {
		l.pause("")
	}
	return t.reason != "" || now.Before(t.rate.next())
}

// behind is how many bytes of WAL the stream has still to bring; 0 before it has brought any.
func (l *loop) behind() int64 {
	at := max(l.delivered, l.whole.Commit)
	if end := l.stream.ServerEnd(); at != 0 && end > at {
		return int64(end - at)
	}
	return 0
}

// loaded takes the source's load.
func (l *loop) loaded(load source.Load, err error) {
	t, limits := &l.copy.throttle, &l.copy.Limits
	t.asking, t.askAt = false, time.Now().Add(loadInterval)
	t.asked = true
	switch {
	case err != nil:
		l.pause(strings.TrimSuffix("the source's load is not known: "+err.Error()+"; "+source.Hint(err), "; "))
	case limits.MaxReplicaLag > 0 && load.ReplicaLag > limits.MaxReplicaLag:
		l.pause(fmt.Sprintf("standby %s has %d bytes of WAL to replay yet, and backfill.max_replica_lag is %d", load.Replica, load.ReplicaLag, limits.MaxReplicaLag))
	case limits.MaxSessions > 0 && load.Sessions > limits.MaxSessions:
		l.pause(fmt.Sprintf("%d sessions are active in the source, and backfill.max_sessions is %d", load.Sessions, limits.MaxSessions))
	default:
		l.pause("")
	}
}

// pause says why no chunk is read, "" for no reason any more.
func (l *loop) pause(reason string) {
	t := &l.copy.throttle
	switch {
	case reason != "" && t.reason == "":
		l.log.Info("copies pause; the stream goes on", "reason", reason)
	case reason == "" && t.reason != "":
		l.log.Info("copies go on")
	}
	t.reason = reason
}
