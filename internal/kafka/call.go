package kafka

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"os"
	"sync/atomic"
	"time"

	kafkago "github.com/segmentio/kafka-go"
	"github.com/segmentio/kafka-go/protocol"
)

// AnyNode sends a request to whichever broker answers.
const AnyNode int32 = -1

// UnansweredError says that a request was sent, perhaps in part, and brought no answer that we could read. The broker may
// have acted on it, may still act on it, or never will.
type UnansweredError struct {
	API protocol.ApiKey
	Err error
}

func (e *UnansweredError) Error() string {
	return fmt.Sprintf("%s was sent and not answered: %v", e.API, e.Err)
}
func (e *UnansweredError) Unwrap() error { return e.Err }

// ErrMalformed is what an answer that cannot be understood is.
var ErrMalformed = errors.New("malformed answer")

// Call sends one request to one broker and waits for its answer, RequestTimeout at most. node is a broker's id or AnyNode.
// msg is a request of kafka-go's protocol packages. An error code inside an answer is the caller's to find.
//
// The error is an *UnansweredError exactly if a byte of the request may have reached the broker. Nothing that msg refers to
// is read after Call returns.
func (c *Client) Call(ctx context.Context, node int32, msg protocol.Message) (protocol.Message, error) {
	res, err := c.exchange(ctx, node, &message{msg})
	if err != nil {
		return nil, err
	}
	return res.(protocol.Message), nil
}

// codec writes one request and reads its answer.
type codec interface {
	ApiKey() protocol.ApiKey
	// encode appends a whole frame, length included, to segs. version is what the connection negotiated.
	encode(version int16, correlation int32, clientID string) (segs [][]byte, err error)
	// decode reads the frame of an answer without its length. The result may alias frame, which is its own.
	decode(version int16, frame []byte) (any, error)
}

func (c *Client) exchange(ctx context.Context, node int32, m codec) (any, error) {
	ctx, cancel := context.WithTimeout(ctx, c.cfg.RequestTimeout)
	defer cancel()
	begun := time.Now()
	x := &exchange{codec: m, node: node, clientID: c.cfg.ClientID, ctx: ctx, done: make(chan struct{})}
	_, err := c.transport.RoundTrip(ctx, c.addr, x)
	if x.state.CompareAndSwap(exchangeIdle, exchangeCancelled) {
		// Never started, and never will be.
		if err == nil {
			err = fmt.Errorf("%w: the transport returned without an exchange", ErrMalformed)
		}
		if f := c.failed.Load(); f != nil && f.at.After(begun.Add(-c.cfg.DialTimeout)) && errors.Is(err, context.DeadlineExceeded) {
			err = fmt.Errorf("%w (%w)", err, f.err)
		}
		return nil, fmt.Errorf("%s: %w", m.ApiKey(), err)
	}
	// The transport returns as soon as ctx ends; the exchange then still holds the request's bytes, and may have an answer.
	<-x.done
	if x.err != nil {
		if x.sent {
			return nil, &UnansweredError{API: m.ApiKey(), Err: x.err}
		}
		return nil, fmt.Errorf("%s: %w", m.ApiKey(), x.err)
	}
	return x.res, nil
}

const (
	exchangeIdle = iota
	exchangeStarted
	exchangeCancelled
)

// exchange is one request on its way through the Transport.
type exchange struct {
	codec
	node     int32
	clientID string
	ctx      context.Context //nolint:containedctx // the Transport does not hand it to RawExchange
	versions map[protocol.ApiKey]int16

	state atomic.Int32
	done  chan struct{} // closed when the following are final
	res   any
	err   error
	sent  bool
}

var (
	_ protocol.BrokerMessage = (*exchange)(nil)
	_ protocol.RawExchanger  = (*exchange)(nil)
)

// Broker routes the request. An id of -1 means any broker to the Transport.
func (x *exchange) Broker(cluster protocol.Cluster) (protocol.Broker, error) {
	if x.node < 0 {
		return protocol.Broker{ID: -1}, nil
	}
	b, ok := cluster.Brokers[x.node]
	if !ok {
		return b, fmt.Errorf("broker %d: %w", x.node, kafkago.BrokerNotAvailable)
	}
	return b, nil
}

// Required learns the versions that this connection negotiated.
func (x *exchange) Required(versions map[protocol.ApiKey]int16) bool {
	x.versions = versions
	return true
}

// RawExchange runs on the goroutine of the connection. An error closes the connection.
func (x *exchange) RawExchange(rw io.ReadWriter) (protocol.Message, error) {
	if !x.state.CompareAndSwap(exchangeIdle, exchangeStarted) {
		return nil, context.Cause(x.ctx)
	}
	defer close(x.done)
	if d, ok := rw.(interface{ SetDeadline(time.Time) error }); ok {
		// The Transport sets a deadline and does not look at a cancellation.
		fired := make(chan struct{})
		stop := context.AfterFunc(x.ctx, func() {
			defer close(fired)
			_ = d.SetDeadline(time.Unix(1, 0)) // a closed connection is as good
		})
		defer func() {
			if !stop() {
				<-fired // or the deadline would hit the next request on this connection
			}
		}()
	}
	x.res, x.err = x.run(rw)
	if x.err != nil {
		cause := context.Cause(x.ctx)
		if cause == nil && errors.Is(x.err, os.ErrDeadlineExceeded) {
			cause = context.DeadlineExceeded // the connection's clock was a little quicker
		}
		if cause != nil {
			x.err = fmt.Errorf("%w (%v)", cause, x.err)
		}
		return nil, x.err
	}
	return x, nil
}

// correlations are unique in the process, which is more than is needed.
var correlations atomic.Int32

func (x *exchange) run(rw io.ReadWriter) (res any, err error) {
	defer func() {
		// kafka-go's decoders panic on some lengths; nothing that a server sends may end the process.
		if r := recover(); r != nil {
			res, err = nil, fmt.Errorf("%w to %s: %v", ErrMalformed, x.ApiKey(), r)
		}
	}()
	version, ok := x.versions[x.ApiKey()]
	if !ok {
		return nil, fmt.Errorf("the broker does not know %s: %w", x.ApiKey(), kafkago.UnsupportedVersion)
	}
	id := correlations.Add(1)
	segs, err := x.encode(version, id, x.clientID)
	if err != nil {
		return nil, err
	}
	x.sent = true
	if err := writeSegments(rw, segs); err != nil {
		return nil, fmt.Errorf("write: %w", err)
	}
	frame, err := readFrame(rw)
	if err != nil {
		return nil, fmt.Errorf("read: %w", err)
	}
	if got := int32(binary.BigEndian.Uint32(frame)); got != id {
		return nil, fmt.Errorf("%w to %s: correlation id %d, sent %d", ErrMalformed, x.ApiKey(), got, id)
	}
	return x.decode(version, frame)
}

// writeSegments joins small segments into one write and hands large ones through uncopied.
func writeSegments(w io.Writer, segs [][]byte) error {
	const large = 16 << 10
	var small []byte
	flush := func() error {
		if len(small) == 0 {
			return nil
		}
		_, err := w.Write(small)
		small = small[:0]
		return err
	}
	for _, s := range segs {
		if len(s) < large {
			small = append(small, s...)
			continue
		}
		if err := flush(); err != nil {
			return err
		}
		if _, err := w.Write(s); err != nil {
			return err
		}
	}
	return flush()
}

// readFrame reads one answer. The caller owns the returned slice, which holds four bytes at least.
func readFrame(r io.Reader) ([]byte, error) {
	var head [4]byte
	if _, err := io.ReadFull(r, head[:]); err != nil {
		return nil, err
	}
	size := int32(binary.BigEndian.Uint32(head[:]))
	if size < 4 || size > maxFrame {
		return nil, fmt.Errorf("%w: a frame of %d bytes", ErrMalformed, size)
	}
	if size <= 1<<20 {
		frame := make([]byte, size)
		_, err := io.ReadFull(r, frame)
		return frame, unexpectedEOF(err)
	}
	// A large length is believed as its bytes arrive.
	var b bytes.Buffer
	b.Grow(1 << 20)
	if _, err := io.CopyN(&b, r, int64(size)); err != nil {
		return nil, unexpectedEOF(err)
	}
	return b.Bytes(), nil
}

func unexpectedEOF(err error) error {
	if errors.Is(err, io.EOF) {
		return io.ErrUnexpectedEOF
	}
	return err
}

// message is the codec of kafka-go's own message types.
type message struct{ protocol.Message }

func (m *message) encode(version int16, correlation int32, clientID string) ([][]byte, error) {
	if p, ok := m.Message.(protocol.PreparedMessage); ok {
		p.Prepare(version)
	}
	var b bytes.Buffer
	if err := protocol.WriteRequest(&b, version, correlation, clientID, m.Message); err != nil {
		return nil, err
	}
	return [][]byte{b.Bytes()}, nil
}

func (m *message) decode(version int16, frame []byte) (any, error) {
	size := binary.BigEndian.AppendUint32(nil, uint32(len(frame)))
	_, res, err := protocol.ReadResponse(io.MultiReader(bytes.NewReader(size), bytes.NewReader(frame)), m.ApiKey(), version)
	if err != nil {
		return nil, fmt.Errorf("%w to %s: %w", ErrMalformed, m.ApiKey(), err)
	}
	return res, nil
}

// frameHeader appends a request header of version 1 (no tagged fields) behind room for the length.
func frameHeader(dst []byte, api protocol.ApiKey, version int16, correlation int32, clientID string) []byte {
	dst = append(dst, 0, 0, 0, 0)
	dst = binary.BigEndian.AppendUint16(dst, uint16(api))
	dst = binary.BigEndian.AppendUint16(dst, uint16(version))
	dst = binary.BigEndian.AppendUint32(dst, uint32(correlation))
	return appendString(dst, clientID)
}

func appendString(dst []byte, s string) []byte {
	dst = binary.BigEndian.AppendUint16(dst, uint16(len(s)))
	return append(dst, s...)
}

// cursor reads an answer's fields. The first read past the end makes it fail, and every later read returns zero.
type cursor struct {
	b   []byte
	bad bool
}

func (c *cursor) take(n int) []byte {
	if c.bad || n < 0 || n > len(c.b) {
		c.bad = true
		return nil
	}
	p := c.b[:n:n]
	c.b = c.b[n:]
	return p
}

func (c *cursor) int8() int8 {
	if p := c.take(1); p != nil {
		return int8(p[0])
	}
	return 0
}

func (c *cursor) int16() int16 {
	if p := c.take(2); p != nil {
		return int16(binary.BigEndian.Uint16(p))
	}
	return 0
}

func (c *cursor) int32() int32 {
	if p := c.take(4); p != nil {
		return int32(binary.BigEndian.Uint32(p))
	}
	return 0
}

func (c *cursor) int64() int64 {
	if p := c.take(8); p != nil {
		return int64(binary.BigEndian.Uint64(p))
	}
	return 0
}

// string reads a nullable string; null is empty.
func (c *cursor) string() string {
	n := c.int16()
	if n < 0 {
		return ""
	}
	return string(c.take(int(n)))
}

// count reads the length of an array whose elements have at least size bytes, so that no length asks for more memory than
// the answer could fill. A null array has none.
func (c *cursor) count(size int) int {
	n := int(c.int32())
	if n < 0 {
		return 0
	}
	if n > len(c.b)/size {
		c.bad = true
		return 0
	}
	return n
}

// varint reads a zigzag varint of at most ten bytes.
func (c *cursor) varint() int64 {
	if c.bad {
		return 0
	}
	v, n := binary.Varint(c.b)
	if n <= 0 {
		c.bad = true
		return 0
	}
	c.b = c.b[n:]
	return v
}

// varbytes reads bytes behind a varint length, of which -1 is null.
func (c *cursor) varbytes() []byte {
	n := c.varint()
	switch {
	case c.bad || n == -1:
		return nil
	case n < -1 || n > int64(len(c.b)):
		c.bad = true
		return nil
	case n == 0:
		return []byte{} // empty is not null
	}
	return c.take(int(n))
}
