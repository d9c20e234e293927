package source

import (
	"encoding/binary"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"github.com/jackc/pglogrepl"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgproto3"
)

// A Frame is one XLogData message of the stream.
type Frame struct {
	// WALStart is where the message's record starts. It is not an order: see decode.Position.
	WALStart pglogrepl.LSN
	// ServerEnd is the end of WAL that the message carries; a logical walsender repeats WALStart here.
	ServerEnd  pglogrepl.LSN
	ServerTime time.Time
	// Payload is the pgoutput message, valid until the Block is released and not to be changed.
	Payload []byte
}

// frameBytes is what a Frame costs beside its payload.
const frameBytes = 72

// maxFrames bounds the Frames of one Block, so that its slice has a bound too.
const maxFrames = 4096

// A Block is a run of consecutive frames. Frames and everything in them are valid until Release.
type Block struct {
	Frames []Frame
	chunk  *chunk
	memory *memory
	cost   int64
}

// Release gives the Block's memory back to the stream. It must be called exactly once for each Block, from any goroutine, also
// after the stream has ended; nothing of the Block may be used afterwards.
func (b *Block) Release() {
	c, m, cost := b.chunk, b.memory, b.cost
	if c == nil {
		panic("source: Block released twice")
	}
	b.chunk = nil
	m.putBlock(b, cost)
	m.drop(c)
}

// A chunk is a buffer that the reader fills from the front and that Blocks point into. It goes back when the reader and all
// Blocks have let go of it.
type chunk struct {
	buf  []byte
	refs atomic.Int32
}

// memory is the byte budget of a stream: what is in use, and what can be used again.
type memory struct {
	limit     int64
	chunkSize int
	freed     chan struct{} // capacity 1: used went down

	// mu guards the following.
	mu     sync.Mutex
	used   int64
	chunks []*chunk // free, of chunkSize
	blocks []*Block // free
}

func (m *memory) init(limit int64) {
	m.limit = limit
	m.chunkSize = int(min(max(limit/8, 32<<10), 1<<20))
	m.freed = make(chan struct{}, 1)
}

// take returns a chunk of at least size bytes, or nil when the budget does not allow it now. Held is what the caller itself
// has in use and cannot give back before it has the new one: a single frame may overdraw the budget, or it could never come.
func (m *memory) take(size int, held int64) *chunk {
	size = max(size, m.chunkSize)
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.used > held && m.used+int64(size) > m.limit {
		return nil
	}
	m.used += int64(size)
	if n := len(m.chunks); size == m.chunkSize && n > 0 {
		c := m.chunks[n-1]
		m.chunks = m.chunks[:n-1]
		c.refs.Store(1)
		return c
	}
	c := &chunk{buf: make([]byte, size)}
	c.refs.Store(1)
	return c
}

func (m *memory) drop(c *chunk) {
	if c.refs.Add(-1) > 0 {
		return
	}
	m.mu.Lock()
	m.used -= int64(len(c.buf))
	if len(c.buf) == m.chunkSize {
		m.chunks = append(m.chunks, c)
	}
	m.mu.Unlock()
	m.wake()
}

func (m *memory) wake() {
	select {
	case m.freed <- struct{}{}:
	default:
	}
}

func (m *memory) block() *Block {
	m.mu.Lock()
	defer m.mu.Unlock()
	if n := len(m.blocks); n > 0 {
		b := m.blocks[n-1]
		m.blocks = m.blocks[:n-1]
		return b
	}
	return &Block{memory: m}
}

// seal charges the Block's frames to the budget, before it is handed over.
func (m *memory) seal(b *Block) {
	b.cost = int64(cap(b.Frames)) * frameBytes
	m.mu.Lock()
	m.used += b.cost
	m.mu.Unlock()
}

func (m *memory) putBlock(b *Block, cost int64) {
	clear(b.Frames)
	b.Frames = b.Frames[:0]
	m.mu.Lock()
	m.used -= cost
	// Free Blocks are outside the budget, so only a few with large slices are kept.
	if len(m.blocks) < 8 {
		m.blocks = append(m.blocks, b)
	}
	m.mu.Unlock()
	m.wake()
}

// receive is the goroutine that reads.
func (s *Stream) receive() {
	defer s.wg.Done()
	r := &receiver{s: s}
	err := r.run()
	if r.c != nil {
		s.memory.drop(r.c)
	}
	if err != nil {
		s.fail(err)
	}
	close(s.blocks)
	s.mu.Lock()
	bye := s.bye
	s.mu.Unlock()
	if !bye {
		return
	}
	// After Terminate the server closes the connection once its process has let go of the slot, and it can only get there
	// when it is not stuck in send.
	waste := make([]byte, 64<<10)
	for {
		if _, err := s.conn.Read(waste); err != nil {
			return
		}
	}
}

// peekBytes is how much of a message decides whether it is foreign: header, 'w', XLogData's header, 'M', flags, LSN, prefix.
const peekBytes = 5 + xlogHeader + 1 + 1 + 8 + len(MessagePrefix)

const (
	xlogHeader      = 1 + 8 + 8 + 8 // 'w', start, end, time
	keepaliveLength = 1 + 8 + 8 + 1 // 'k', end, time, whether an answer is wanted
	maxControl      = 1 << 20       // of messages other than CopyData
)

// receiver is the state of the reading goroutine: bytes rp to wp of the chunk are not looked at yet, bytes before keep belong
// to Blocks that were handed out.
type receiver struct {
	s      *Stream
	c      *chunk
	rp, wp int
	keep   int
	skip   int64 // bytes of a foreign message still to come
	b      *Block
}

// run reads until the stream ends. It returns nil when the consumer ended it.
func (r *receiver) run() error {
	s := r.s
	for {
		ok, err := r.room()
		if err != nil || !ok {
			return err
		}
		n, err := s.conn.Read(r.c.buf[r.wp:])
		if n > 0 {
			r.wp += n
			s.heard.Store(time.Now().UnixNano())
			for r.rp < r.wp {
				progress, err := r.scan()
				if err != nil {
					// What came before is good and its transactions may be whole.
					r.deliver()
					return err
				}
				if !r.deliver() {
					return nil
				}
				if !progress {
					break
				}
			}
		}
		if err != nil {
			select {
			case <-s.done:
				return nil
			default:
				return &ConnectError{err}
			}
		}
	}
}

// room makes sure that there is space to read into: where a message is begun, enough for the rest of it. It waits for the
// consumer when the budget is spent, and returns false when the stream ends meanwhile.
func (r *receiver) room() (bool, error) {
	if r.c == nil {
		return r.chunk(0)
	}
	if r.rp == r.wp {
		// Nothing is begun, so whatever was skipped since the last frame can be overwritten.
		r.rp, r.wp = r.keep, r.keep
	}
	need := 0 // bytes from rp on
	if have := r.wp - r.rp; have > 0 {
		need = peekBytes
		if have >= 5 {
			total := 1 + int(binary.BigEndian.Uint32(r.c.buf[r.rp+1:])) // scan has checked it
			if need = min(total, peekBytes); have >= need {
				need = total
			}
		}
	}
	// With little space left reads become small; but the end of a message that fits is still read here.
	if least := r.s.memory.chunkSize / 16; need <= r.wp-r.rp && len(r.c.buf)-r.wp < least {
		need = r.wp - r.rp + least
	}
	if need <= len(r.c.buf)-r.rp {
		return true, nil
	}
	if need <= len(r.c.buf) && r.c.refs.Load() == 1 {
		// Nobody else looks at this chunk (references only go up here), so the bytes can move.
		r.wp = copy(r.c.buf, r.c.buf[r.rp:r.wp])
		r.rp, r.keep = 0, 0
		return true, nil
	}
	return r.chunk(need)
}

// chunk takes a new chunk of at least need bytes and moves there what was begun.
func (r *receiver) chunk(need int) (bool, error) {
	s := r.s
	var held int64
	if r.c != nil && r.rp == r.wp {
		s.memory.drop(r.c)
		r.c, r.rp, r.wp, r.keep = nil, 0, 0, 0
	}
	if r.c != nil {
		held = int64(len(r.c.buf))
	}
	c := s.memory.take(need, held)
	for c == nil {
		s.blocked.CompareAndSwap(0, time.Now().UnixNano())
		select {
		case <-s.memory.freed:
			c = s.memory.take(need, held)
		case <-s.done:
			return false, nil
		}
	}
	s.blocked.Store(0)
	if r.c != nil {
		r.wp = copy(c.buf, r.c.buf[r.rp:r.wp])
		s.memory.drop(r.c)
	}
	r.c, r.rp, r.keep = c, 0, 0
	return true, nil
}

// deliver hands the frames that were found over. It returns false when the stream ended.
func (r *receiver) deliver() bool {
	s, b := r.s, r.b
	if b == nil {
		return true
	}
	r.b = nil
	b.chunk = r.c
	r.c.refs.Add(1)
	s.memory.seal(b)
	select {
	case <-s.done: // first: after the end nothing more is handed out
	default:
		select {
		case s.blocks <- b:
			return true
		default:
		}
		s.blocked.CompareAndSwap(0, time.Now().UnixNano())
		select {
		case s.blocks <- b:
			s.blocked.Store(0)
			return true
		case <-s.done:
		}
	}
	b.Release()
	return false
}

// scan looks at the messages from rp on, and appends frames to the Block until the bytes or the Block's room end. It returns
// false when a message is begun that needs more bytes.
func (r *receiver) scan() (progress bool, err error) {
	for {
		if r.skip > 0 {
			n := min(r.skip, int64(r.wp-r.rp))
			r.rp += int(n)
			r.skip -= n
		}
		buf := r.c.buf[r.rp:r.wp]
		if len(buf) < 5 {
			return false, nil
		}
		kind, length := buf[0], binary.BigEndian.Uint32(buf[1:])
		if length < 4 || length > 1<<30 {
			return false, &GarbageError{fmt.Sprintf("message %q of %d bytes", kind, length)}
		}
		total := 1 + int(length)
		if kind != 'd' {
			if total > maxControl {
				return false, &GarbageError{fmt.Sprintf("message %q of %d bytes", kind, length)}
			}
			if len(buf) < total {
				return false, nil
			}
			r.rp += total
			if err := r.control(kind, buf[5:total]); err != nil {
				return false, err
			}
			continue
		}
		if len(buf) < min(total, peekBytes) {
			return false, nil
		}
		body := buf[5:min(total, len(buf))]
		if len(body) == 0 {
			return false, &GarbageError{"an empty CopyData message"}
		}
		switch body[0] {
		case 'w':
			if total < 5+xlogHeader {
				return false, &GarbageError{fmt.Sprintf("an XLogData message of %d bytes", total-5)}
			}
			if foreign(body[xlogHeader:]) {
				raise(&r.s.serverEnd, pglogrepl.LSN(binary.BigEndian.Uint64(body[9:])))
				r.skip = int64(total)
				continue
			}
			if int64(total-5-xlogHeader) > r.s.cfg.MaxRowBytes {
				return false, &RowTooLargeError{WALStart: pglogrepl.LSN(binary.BigEndian.Uint64(body[1:])), Bytes: int64(total - 5 - xlogHeader), Limit: r.s.cfg.MaxRowBytes}
			}
			if len(buf) < total {
				return false, nil
			}
			r.rp += total
			r.keep = r.rp
			r.frame(body)
			if len(r.b.Frames) == maxFrames {
				return true, nil
			}
		case 'k':
			if total != 5+keepaliveLength {
				return false, &GarbageError{fmt.Sprintf("a keepalive of %d bytes", total-5)}
			}
			if len(buf) < total {
				return false, nil
			}
			r.rp += total
			if err := r.keepalive(body[1:]); err != nil {
				return false, err
			}
		default:
			return false, &GarbageError{fmt.Sprintf("a CopyData message of kind %q", body[0])}
		}
	}
}

// frame appends one XLogData message, whose length scan has checked.
func (r *receiver) frame(body []byte) {
	if r.b == nil {
		r.b = r.s.memory.block()
	}
	f := Frame{
		WALStart:   pglogrepl.LSN(binary.BigEndian.Uint64(body[1:])),
		ServerEnd:  pglogrepl.LSN(binary.BigEndian.Uint64(body[9:])),
		ServerTime: postgresTime(binary.BigEndian.Uint64(body[17:])),
		Payload:    body[xlogHeader:len(body):len(body)],
	}
	r.b.Frames = append(r.b.Frames, f)
	raise(&r.s.serverEnd, f.ServerEnd)
}

func (r *receiver) keepalive(body []byte) error {
	k, err := pglogrepl.ParsePrimaryKeepaliveMessage(body)
	if err != nil {
		return &GarbageError{err.Error()}
	}
	raise(&r.s.serverEnd, k.ServerWALEnd)
	raise(&r.s.written, k.ServerWALEnd)
	if k.ReplyRequested {
		r.s.asked.Store(true) // after written, which the answer carries
		r.s.wake()
	}
	return nil
}

// foreign reports whether a pgoutput message, of which at least the first peekBytes are there, is a logical message that is
// not ours: Byte1('M'), Int8 flags (1: transactional), Int64 LSN, String prefix, … A message too short for that is left to
// the decoder, which says what is wrong with it.
func foreign(payload []byte) bool {
	if len(payload) < 10 || payload[0] != 'M' {
		return false
	}
	if payload[1]&1 == 0 {
		return true
	}
	prefix := payload[10:]
	n := min(len(prefix), len(MessagePrefix))
	return string(prefix[:n]) != MessagePrefix[:n]
}

// control handles a message that is not CopyData.
func (r *receiver) control(kind byte, body []byte) error {
	switch kind {
	case 'E':
		var m pgproto3.ErrorResponse
		if err := m.Decode(body); err != nil {
			return &GarbageError{"an error message that ends early"}
		}
		return classify(pgconn.ErrorResponseToPgError(&m), r.s.cfg, r.s.user)
	case 'N':
		var m pgproto3.NoticeResponse
		if err := m.Decode(body); err != nil {
			return &GarbageError{"a notice that ends early"}
		}
		// 18 skips a publication that is missing at a slot's position and sends nothing of it, where older servers end the
		// stream with an error. Going on would lose changes without a word.
		if m.SeverityUnlocalized == "WARNING" && m.Routine == "LoadPublications" {
			return &PublicationMissingError{r.s.cfg.Publication, fmt.Errorf("the server warns: %s", m.Message)}
		}
		if f := r.s.cfg.OnNotice; f != nil {
			f(m.SeverityUnlocalized, m.Message)
		}
	case 'S', 'A': // ParameterStatus, NotificationResponse: of no interest
	case 'C', 'c':
		// CommandComplete in the middle of a copy is what a walsender says when its server shuts down.
		return &ServerShutdownError{errors.New("the server ended the stream")}
	case 'Z':
		return &GarbageError{"ReadyForQuery in the middle of the stream"}
	default:
		return &GarbageError{fmt.Sprintf("message type %q in the middle of the stream", kind)}
	}
	return nil
}
