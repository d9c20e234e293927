// Package sinktest puts faults between a Kafka client and its brokers, in a true connection.
//
// Faults.Dial stands in for a dialer (kafka.Config.Dial). Behind it is a proxy for each connection that reads Kafka's
// frames, knows the API of each request, and loses, holds, delays or cuts where a rule says so. It does not read TLS.
package sinktest

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"sync"
	"time"

	"github.com/segmentio/kafka-go/protocol"
)

// Action is what happens to a request.
type Action int

const (
	// LoseRequest ends the connection; the broker never sees the request.
	LoseRequest Action = iota
	// LoseAnswer lets the broker answer and ends the connection instead of passing the answer on.
	LoseAnswer
	// Hold ends the client's connection and keeps the request for Release, which sends it to the broker late.
	Hold
	// HoldAnswer lets the broker answer and passes the answer on at Release. The connection stays.
	HoldAnswer
	// Keep keeps the request for Release, which sends it to the broker late. The connection stays.
	Keep
	// Swallow never passes the request on and keeps the connection, as a broker does that hangs.
	Swallow
	// Delay passes the request on after Rule.Delay.
	Delay
)

// Rule chooses requests.
type Rule struct {
	API protocol.ApiKey
	// Nth is which matching request from now on, from 1; 0 is every one.
	Nth    int
	Action Action
	Delay  time.Duration
	// Match, if set, looks at the request as well: api key and version, correlation id, client id, body. It must not keep it.
	Match func(frame []byte) bool
}

// Fault is one rule in force.
type Fault struct {
	rule Rule
	f    *Faults

	seen    int           // guarded by f.mu
	struck  chan struct{} // closed when it first acted
	release chan struct{}
	answers chan []byte
	once    struct{ struck, release sync.Once }
}

// Struck is closed when the fault first acted: for Hold and LoseRequest the broker has seen nothing, for LoseAnswer and
// HoldAnswer the broker has answered.
func (x *Fault) Struck() <-chan struct{} { return x.struck }

// Release sends what is held.
func (x *Fault) Release() { x.once.release.Do(func() { close(x.release) }) }

// Answer waits for what the broker answered to a held or lost request: the frame behind its correlation id.
func (x *Fault) Answer(ctx context.Context) ([]byte, error) {
	select {
	case a := <-x.answers:
		return a, nil
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	}
}

// Seen returns how many requests matched.
func (x *Fault) Seen() int {
	x.f.mu.Lock()
	defer x.f.mu.Unlock()
	return x.seen
}

// Faults is a set of rules and the connections that they hold for.
type Faults struct {
	// Dialer opens the connections to the brokers; the zero value is good.
	Dialer net.Dialer

	closed chan struct{}
	wg     sync.WaitGroup

	// mu guards the following.
	mu       sync.Mutex
	faults   []*Fault
	conns    map[*proxied]struct{}
	requests map[protocol.ApiKey]int
	order    []protocol.ApiKey
	done     bool
}

// New makes a set without rules.
func New() *Faults {
	return &Faults{closed: make(chan struct{}), conns: map[*proxied]struct{}{}, requests: map[protocol.ApiKey]int{}}
}

// Inject puts a rule in force, behind those that are.
func (f *Faults) Inject(r Rule) *Fault {
	x := &Fault{rule: r, f: f, struck: make(chan struct{}), release: make(chan struct{}), answers: make(chan []byte, 16)}
	f.mu.Lock()
	defer f.mu.Unlock()
	f.faults = append(f.faults, x)
	return x
}

// Clear ends all rules; what is held stays held.
func (f *Faults) Clear() {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.faults = nil
}

// CutAll ends every connection there is.
func (f *Faults) CutAll() {
	f.mu.Lock()
	defer f.mu.Unlock()
	for p := range f.conns {
		p.cut()
	}
}

// Requests returns how many requests of an API came.
func (f *Faults) Requests(api protocol.ApiKey) int {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.requests[api]
}

// TakeOrder returns the APIs of the requests since the last call, in the order in which they came.
func (f *Faults) TakeOrder() []protocol.ApiKey {
	f.mu.Lock()
	defer f.mu.Unlock()
	o := f.order
	f.order = nil
	return o
}

// Close ends all connections and waits for the goroutines.
func (f *Faults) Close() {
	f.mu.Lock()
	if !f.done {
		f.done = true
		close(f.closed)
	}
	for p := range f.conns {
		p.cut()
		_ = p.broker.Close() // ends the copying, which is the point
	}
	f.mu.Unlock()
	f.wg.Wait()
}

// Serve lets clients of other processes through the faults: each connection to l becomes one to the broker, which must give
// l's address as its own (advertised.listeners). It returns when l is closed, and its connections end with Close.
func (f *Faults) Serve(l net.Listener, broker string) {
	for {
		c, err := l.Accept()
		if err != nil {
			return
		}
		near, err := f.Dial(context.Background(), "tcp", broker)
		if err != nil {
			_ = c.Close() // the client finds the broker away
			continue
		}
		for _, way := range [][2]net.Conn{{c, near}, {near, c}} {
			f.wg.Go(func() {
				_, _ = io.Copy(way[0], way[1]) // ends with either connection
				_ = c.Close()
				_ = near.Close()
			})
		}
	}
}

// Dial connects to a broker through the faults.
func (f *Faults) Dial(ctx context.Context, network, address string) (net.Conn, error) {
	broker, err := f.Dialer.DialContext(ctx, network, address)
	if err != nil {
		return nil, err
	}
	near, far := net.Pipe()
	p := &proxied{f: f, client: far, broker: broker, fates: map[int32]fate{}}
	f.mu.Lock()
	if f.done {
		f.mu.Unlock()
		_ = broker.Close() // nothing was sent on it
		return nil, net.ErrClosed
	}
	f.conns[p] = struct{}{}
	f.mu.Unlock()
	f.wg.Go(p.requests)
	f.wg.Go(p.answers)
	return near, nil
}

// proxied is one connection.
type proxied struct {
	f      *Faults
	client net.Conn // our end of the pipe
	broker net.Conn

	// mu guards the following.
	mu    sync.Mutex
	fates map[int32]fate // of answers, by correlation id
}

type fate struct {
	fault  *Fault
	action Action
}

// cut ends the client's side. The broker's stays until everything held has been sent and answered.
func (p *proxied) cut() {
	_ = p.client.Close() // a pipe's Close does not fail
}

// strike finds the rule for a request.
func (f *Faults) strike(api protocol.ApiKey, frame []byte) *Fault {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.requests[api]++
	f.order = append(f.order, api)
	for _, x := range f.faults {
		if x.rule.API != api || x.rule.Match != nil && !x.rule.Match(frame) {
			continue
		}
		x.seen++
		if x.rule.Nth == 0 || x.seen == x.rule.Nth {
			return x
		}
	}
	return nil
}

func (x *Fault) strikes() { x.once.struck.Do(func() { close(x.struck) }) }

func (p *proxied) requests() {
	held := 0
	defer func() {
		p.cut()
		if held == 0 {
			_ = p.broker.Close() // the client is gone, and so is the reason for it
		}
	}()
	for {
		frame, err := readFrame(p.client)
		if err != nil {
			return
		}
		if len(frame) < 12 {
			return
		}
		api := protocol.ApiKey(binary.BigEndian.Uint16(frame[4:]))
		id := int32(binary.BigEndian.Uint32(frame[8:]))
		x := p.f.strike(api, frame[4:])
		if x == nil {
			if _, err := p.broker.Write(frame); err != nil {
				return
			}
			continue
		}
		switch x.rule.Action {
		case LoseRequest:
			x.strikes()
			return
		case Swallow:
			x.strikes()
			continue
		case Hold:
			held++
			p.note(id, x)
			p.cut()
			x.strikes()
			select {
			case <-x.release:
			case <-p.f.closed:
				return
			}
			if _, err := p.broker.Write(frame); err != nil {
				return
			}
			return // answers reads what comes, and closes
		case Keep:
			p.note(id, x)
			x.strikes()
			select {
			case <-x.release:
			case <-p.f.closed:
				return
			}
		case Delay:
			x.strikes()
			select {
			case <-time.After(x.rule.Delay):
			case <-p.f.closed:
				return
			}
		case LoseAnswer, HoldAnswer:
			p.note(id, x)
		}
		if _, err := p.broker.Write(frame); err != nil {
			return
		}
	}
}

func (p *proxied) note(id int32, x *Fault) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.fates[id] = fate{x, x.rule.Action}
}

func (p *proxied) answers() {
	defer func() {
		p.cut()
		_ = p.broker.Close() // read to its end, or of no more use
		p.f.mu.Lock()
		delete(p.f.conns, p)
		p.f.mu.Unlock()
	}()
	for {
		frame, err := readFrame(p.broker)
		if err != nil || len(frame) < 8 {
			return
		}
		id := int32(binary.BigEndian.Uint32(frame[4:]))
		p.mu.Lock()
		to, ok := p.fates[id]
		delete(p.fates, id)
		p.mu.Unlock()
		if ok {
			select {
			case to.fault.answers <- frame[8:]:
			default: // nobody reads the answers of a rule that strikes often
			}
			to.fault.strikes()
			switch to.action {
			case LoseAnswer, Hold:
				return
			case HoldAnswer:
				select {
				case <-to.fault.release:
				case <-p.f.closed:
					return
				}
			}
		}
		if _, err := p.client.Write(frame); err != nil && !errors.Is(err, io.ErrClosedPipe) {
			return
		}
	}
}

// readFrame reads one frame with its length.
func readFrame(r io.Reader) ([]byte, error) {
	frame := make([]byte, 4)
	if _, err := io.ReadFull(r, frame); err != nil {
		return nil, err
	}
	n := int32(binary.BigEndian.Uint32(frame))
	if n < 0 || n > 256<<20 {
		return nil, fmt.Errorf("a frame of %d bytes", n)
	}
	frame = append(frame, make([]byte, n)...)
	_, err := io.ReadFull(r, frame[4:])
	return frame, err
}
