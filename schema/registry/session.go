package registry

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strconv"
	"strings"
	"sync"
	"time"
)

// session is a session record: who took the log over, and where others reach it. The newest one names the writer.
type session struct {
	offset   int64  // -1: none was read
	instance string // "" for a record without a value, as Confluent's registry writes it, too
	url      string // "" when it is not to be reached
}

// bytes is the value of the session record; nil, as Confluent writes it, where nobody could do anything with it.
// Confluent's registry does not look at the value of a NOOP (KafkaStoreReaderThread.doWork goes by the key alone).
func (s session) bytes() []byte {
	if s.url == "" {
		return nil
	}
	n := &node{kind: objectNode}
	n.set("walferry", &node{kind: numberNode, text: "1"})
	n.set("instance", &node{kind: stringNode, text: s.instance})
	n.set("advertise", &node{kind: stringNode, text: s.url})
	return n.bytes()
}

func parseSession(offset int64, value []byte) session {
	s := session{offset: offset}
	n, err := parseJSON(string(value))
	if value == nil || err != nil {
		return s
	}
	s.instance, _ = n.str("instance")
	s.url, _ = n.str("advertise")
	return s
}

// newInstance names one store among all that ever used the topic.
func newInstance() string {
	var b [8]byte
	_, _ = rand.Read(b[:]) // never fails: it ends the program instead
	return hex.EncodeToString(b[:])
}

// Headers between registries on one topic.
const (
	// instanceHeader names the store that a request is for: no other one does it. Its answer has it, too.
	instanceHeader = "Walferry-Registry-Instance"
	// offsetHeader is how far the log had been applied when a write was answered.
	offsetHeader = "Walferry-Registry-Offset"
)

// Member says how a store works with the others on its topic.
type Member struct {
	// URL is where the others reach the [Server] of this store; it is saved in the topic when the store takes the log
	// over. With "" the others cannot pass writes on to it, and take the log over instead.
	URL string
	// Client is how this one reaches theirs: URL and Handler are left out. Its user or token are for writes of this
	// process itself ([Store.API]); a request that is passed on carries its own.
	Client ClientConfig
	// Patience is how long a writer may take to say that it is there. Default 2 s. It may take as long as the
	// request has for the write itself, as long as it goes on to say so.
	Patience time.Duration
}

// member is a store's Member with the connection to the writer of the moment.
type member struct {
	Member

	mu     sync.Mutex // guards the following
	to     session
	client *Client
}

// Join makes the store one of several: while another one has the log and answers, a write of [Server] or of
// [Store.API] is passed on to that one. Called before anything else; the caller keeps [Store.Follow] running. Writes by
// the store's own methods take the log over, as ever.
func (s *Store) Join(m Member) error {
	m.URL = strings.TrimRight(m.URL, "/")
	if m.Patience <= 0 {
		m.Patience = 2 * time.Second
	}
	m.Client.Handler, m.Client.Retries, m.Client.Timeout = nil, -1, time.Minute // the caller's context ends it
	s.member = &member{Member: m}
	s.self.url = m.URL
	if m.URL == "" {
		return nil
	}
	_, err := s.member.reach(s.self)
	return err
}

// reach returns the client for a session's writer.
func (m *member) reach(to session) (*Client, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.client != nil && m.to == to {
		return m.client, nil
	}
	cfg := m.Client
	cfg.URL = to.url
	c, err := NewClient(cfg)
	if err != nil {
		return nil, err
	}
	c.to = to.instance
	if m.client != nil {
		m.client.http.CloseIdleConnections()
	}
	m.to, m.client = to, c
	return c, nil
}

// passage is what a write carries in its context where several stores work together. Without one it takes the log over
// when it has to.
type passage struct {
	// forwarded: somebody has passed it on to us. It is done here or nowhere, so it cannot go in circles.
	forwarded bool
	// judged is the offset of the session whose writer was found not to answer. Only that one is taken over from: where
	// a newer session stands in the log, somebody else was faster.
	judged int64
}

type passageKey struct{}

func withPassage(ctx context.Context, p passage) context.Context {
	return context.WithValue(ctx, passageKey{}, p)
}

// elsewhere says that another store has the log, and is to be asked.
type elsewhere struct{ session }

func (e *elsewhere) Error() string { return "the registry at " + e.url + " writes" }

// notWriter is the answer to a write that was passed on to a store that does not have the log.
func notWriter() *Error {
	return errorf(CodeNoLeader, "this registry does not write its topic at the moment")
}

// errAway says why a writer is taken over from.
type errAway struct{ err error }

func (e *errAway) Error() string { return e.err.Error() }
func (e *errAway) Unwrap() error { return e.err }

// probe asks the writer whether it is there and is the one that the session record names: the address may be somebody
// else's by now, or mean another machine from here. It is asked before every write, so that no write and no password
// gets to a stranger.
func (m *member) probe(ctx context.Context, c *Client) error {
	ctx, cancel := context.WithTimeoutCause(ctx, m.Patience, fmt.Errorf("no answer within %v", m.Patience))
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, c.base.String()+"/", nil)
	if err != nil {
		return err
	}
	req.Header.Set(instanceHeader, c.to)
	res, err := c.http.Do(req)
	if err != nil {
		return errors.Join(context.Cause(ctx), err)
	}
	_, err = io.Copy(io.Discard, io.LimitReader(res.Body, maxAnswer))
	if cerr := res.Body.Close(); err == nil {
		err = cerr
	}
	if err == nil && res.Header.Get(instanceHeader) != c.to {
		err = errors.New("somebody else answers there")
	}
	return err
}

// ask runs fn, a request to the writer, for as long as the writer says that it is there. *errAway: it does not.
func (m *member) ask(ctx context.Context, to session, fn func(ctx context.Context, c *Client) error) error {
	c, err := m.reach(to)
	if err != nil {
		return &errAway{err}
	}
	const tries = 3
	for range tries {
		if err = m.probe(ctx, c); err != nil {
			break
		}
		watched, end := context.WithCancelCause(ctx)
		watching := make(chan struct{})
		go func() {
			defer close(watching)
			for {
				pause := time.NewTimer(m.Patience)
				select {
				case <-pause.C:
				case <-watched.Done():
					pause.Stop()
					return
				}
				if err := m.probe(watched, c); err != nil {
					end(err)
				}
			}
		}()
		err = fn(watched, c)
		cause := context.Cause(watched)
		end(nil)
		<-watching
		var lost *UnavailableError
		var refused *AuthError
		if errors.As(err, &refused) {
			break // our own user is none of its: only Kafka's rights count for what this process needs itself
		}
		if !errors.As(err, &lost) {
			return err
		}
		if cause != nil {
			err = cause
			break
		}
		var said *Error
		if errors.As(err, &said) {
			break // it answers, and cannot write
		}
		// The connection broke with the answer on its way: the same write again does no harm.
	}
	if ctx.Err() != nil {
		return errorf(CodeTimeout, "Timed out waiting for the registry that writes, it may still take effect: %v", err)
	}
	return &errAway{err}
}

// through does a write here, or where the log is. here is called with a context that lets it end with *elsewhere.
func (s *Store) through(ctx context.Context, here func(context.Context) error, there func(context.Context, *Client) error) error {
	if s.member == nil {
		return here(ctx)
	}
	p := passage{judged: -1}
	for {
		err := here(withPassage(ctx, p))
		var to *elsewhere
		if !errors.As(err, &to) {
			return err
		}
		err = s.member.ask(ctx, to.session, there)
		var away *errAway
		if !errors.As(err, &away) {
			return err
		}
		var said *Error
		if errors.As(err, &said) && said.Code == CodeNoLeader && s.await(ctx, s.member.Patience, func() bool { return s.state.session.offset > to.offset }) {
			continue // it has lost the log, and here is who has it
		}
		s.logger.Warn("take the registry's log over from a writer that gives no usable answer", "writer", to.url, "error", err)
		p.judged = to.offset
	}
}

// elsewhere says whom a write is to be passed on to; nil: it is done here. The caller holds writer.
func (s *Store) elsewhere(ctx context.Context) error {
	p, ok := ctx.Value(passageKey{}).(passage)
	if s.member == nil || !ok {
		return nil
	}
	// Before the log is read, who writes is not known.
	if !s.await(ctx, 0, func() bool { return s.ready }) {
		return errorf(CodeTimeout, "Timed out: the registry is still reading its topic: %v", context.Cause(ctx))
	}
	s.mu.RLock()
	defer s.mu.RUnlock()
	now := s.state.session
	switch {
	case now.instance == "", now.url == "", now.url == s.self.url, now.instance == s.self.instance:
		return nil // nobody, nobody to be reached, or ourselves before a restart
	case p.forwarded:
		return notWriter()
	case now.offset <= p.judged:
		return nil
	}
	return &elsewhere{now}
}

// await waits until cond, which is called with mu held, holds: for that long at most, or with 0 until ctx ends.
func (s *Store) await(ctx context.Context, atMost time.Duration, cond func() bool) bool {
	if atMost > 0 {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, atMost)
		defer cancel()
	}
	for {
		s.mu.Lock()
		if cond() {
			s.mu.Unlock()
			return true
		}
		if s.moved == nil {
			s.moved = make(chan struct{})
		}
		moved := s.moved
		s.mu.Unlock()
		select {
		case <-moved:
		case <-ctx.Done():
			return false
		}
	}
}

// relayed is an answer as another registry gave it.
type relayed struct {
	status int
	media  string
	body   []byte
}

// relay sends a request on as it came. What cannot be used of the answer is *UnavailableError.
func (c *Client) relay(ctx context.Context, r *http.Request, body []byte) (*relayed, error) {
	u := strings.TrimRight(c.base.String(), "/") + "/" + strings.TrimLeft(r.URL.EscapedPath(), "/")
	if r.URL.RawQuery != "" {
		u += "?" + r.URL.RawQuery
	}
	req, err := http.NewRequestWithContext(ctx, r.Method, u, strings.NewReader(string(body)))
	if err != nil {
		return nil, err
	}
	for _, name := range []string{"Authorization", "Accept", "Content-Type"} {
		if v := r.Header.Values(name); len(v) > 0 {
			req.Header[name] = v
		}
	}
	res, text, err := c.send(req)
	if err != nil {
		return nil, err
	}
	if res.StatusCode >= 500 {
		_, err := c.judge(res.StatusCode, text)
		return nil, err
	}
	return &relayed{res.StatusCode, res.Header.Get("Content-Type"), text}, nil
}

// write does a request that changes something, here or where the log is.
func (s *Server) write(c *call, rt *route) (answer any, err error) {
	if c.r.Header.Get(instanceHeader) != "" {
		c.r = c.r.WithContext(withPassage(c.r.Context(), passage{forwarded: true}))
		return rt.fn(c)
	}
	original := c.r
	err = s.store.through(original.Context(), func(ctx context.Context) (err error) {
		c.r = original.WithContext(ctx)
		answer, err = rt.fn(c)
		return err
	}, func(ctx context.Context, to *Client) error {
		relayed, err := to.relay(ctx, original, c.raw)
		if err == nil {
			answer = relayed
			s.store.catchUp(ctx, to)
		}
		return err
	})
	return answer, err
}

// catchUp waits until this store shows what its writes through another one have changed.
func (s *Store) catchUp(ctx context.Context, c *Client) {
	offset := c.offset.Load()
	s.await(ctx, 5*time.Second, func() bool { return s.state.newest >= offset })
}

// noteOffset keeps how far the log was when an answer was given.
func (c *Client) noteOffset(h http.Header) {
	n, err := strconv.ParseInt(h.Get(offsetHeader), 10, 64)
	if err != nil {
		return
	}
	for {
		old := c.offset.Load()
		if n <= old || c.offset.CompareAndSwap(old, n) {
			return
		}
	}
}

// forOther tells whether a request is meant for another store than this one.
func (s *Server) forOther(r *http.Request) bool {
	name := r.Header.Get(instanceHeader)
	return name != "" && name != s.store.self.instance
}
