package source

import (
	"context"
	"crypto/tls"
	"encoding/binary"
	"errors"
	"net"
	"sync"
	"sync/atomic"
	"time"

	"github.com/jackc/pglogrepl"

	"walferry/internal/failpoint"
)

// A Stream is a running replication stream. Two goroutines serve it: one reads frames into Blocks, one writes feedback on its
// own timer, and neither waits for the other, so a consumer that takes nothing for as long as it likes does not look like a
// dead client to the server.
//
// What the consumer has to know of a stopped reader: a Block that is not released holds its part of Config.BufferBytes; when
// that is spent reading stops, TCP fills up and the walsender waits in send. It keeps the slot, for feedback goes on, but it
// cannot see a request to shut down: whoever keeps a Stream unread for long (BlockedSince tells) must Close it, or the server
// never stops.
type Stream struct {
	conn     net.Conn
	cfg      *Config
	user     string
	blocks   chan *Block
	interval time.Duration // between two status messages

	memory memory

	done    chan struct{} // closed by fail and Close: nobody waits for the consumer any more
	closing chan struct{} // closed by Close: send the last confirmation, and goodbye
	closed  sync.Once
	wg      sync.WaitGroup

	// mu guards the following two.
	mu  sync.Mutex
	err error // first cause of the end
	bye bool  // Close was called

	kick      chan struct{} // capacity 1: there is something to say
	confirmed atomic.Uint64 // highest position given to Confirm
	written   atomic.Uint64 // highest WAL end of a keepalive: what we claim to have received
	asked     atomic.Bool   // a keepalive wants an answer
	serverEnd atomic.Uint64
	heard     atomic.Int64 // time of the last bytes, Unix nanoseconds
	blocked   atomic.Int64 // since when the reader waits for the consumer, Unix nanoseconds; 0: it does not
}

// newStream takes ownership of conn, on which CopyBothResponse was the last message read, and starts both goroutines.
func newStream(conn net.Conn, cfg *Config, user string) *Stream {
	s := &Stream{
		conn: conn, cfg: cfg, user: user,
		// Items are bounded as well as bytes, since a Block of one small frame costs more than its bytes.
		blocks: make(chan *Block, 256),
		// The server pings after half of its timeout and ends the connection after all of it; a third leaves room for one
		// message that is late. Ten seconds keep LastFrame and ServerEnd fresh with long timeouts.
		interval: min(cfg.WALSenderTimeout/3, 10*time.Second),
		done:     make(chan struct{}),
		closing:  make(chan struct{}),
		kick:     make(chan struct{}, 1),
	}
	s.memory.init(cfg.BufferBytes)
	s.heard.Store(time.Now().UnixNano())
	if w := wireOf(conn); w != nil {
		w.readAhead()
	}
	s.wg.Add(2)
	go s.receive()
	go s.feedback()
	return s
}

// wireOf finds our own connection below TLS, nil when there is none (in tests).
func wireOf(conn net.Conn) *wire {
	if t, ok := conn.(*tls.Conn); ok {
		conn = t.NetConn()
	}
	w, _ := conn.(*wire)
	return w
}

// Blocks is where frames come out, in the server's order. It is closed when the stream has ended; Err says why.
func (s *Stream) Blocks() <-chan *Block { return s.blocks }

// Err returns why the stream has ended, nil while it runs and ErrClosed after Close.
func (s *Stream) Err() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.err
}

// Confirm tells the server that everything up to lsn is durable elsewhere, at once and without waiting. A position lower than
// an earlier one is ignored. Until the first call nothing is confirmed.
func (s *Stream) Confirm(lsn pglogrepl.LSN) {
	for {
		old := s.confirmed.Load()
		if uint64(lsn) <= old {
			return
		}
		if s.confirmed.CompareAndSwap(old, uint64(lsn)) {
			s.wake()
			return
		}
	}
}

func (s *Stream) wake() {
	select {
	case s.kick <- struct{}{}:
	default: // a wake-up is pending already
	}
}

// ServerEnd returns the newest end of the server's WAL that was heard of.
func (s *Stream) ServerEnd() pglogrepl.LSN { return pglogrepl.LSN(s.serverEnd.Load()) }

// LastFrame returns when the server was last heard: a frame or a keepalive, for which we ask when it has been silent for a
// third of wal_sender_timeout (10 s at most). It stands still while the reader waits for the consumer.
func (s *Stream) LastFrame() time.Time { return time.Unix(0, s.heard.Load()) }

// BlockedSince returns since when reading has been stopped because the consumer holds the whole buffer; the zero time while
// the reader reads.
func (s *Stream) BlockedSince() time.Time {
	if t := s.blocked.Load(); t != 0 {
		return time.Unix(0, t)
	}
	return time.Time{}
}

// Buffered returns how many bytes of Config.BufferBytes are in use: by Blocks that are not released, and by the buffer that is
// being read into.
func (s *Stream) Buffered() int64 {
	s.memory.mu.Lock()
	defer s.memory.mu.Unlock()
	return s.memory.used
}

// goodbye bounds how long Close waits for the server to end the connection by itself.
const goodbye = 500 * time.Millisecond

// Close sends what was confirmed last, says goodbye and waits, half a second or until ctx ends, for the server to end the
// connection: then the slot is free. A walsender that is stuck in send because nobody read is freed as well. Blocks is closed;
// what had been put there before can still be taken. A second call waits like the first one.
func (s *Stream) Close(ctx context.Context) error {
	s.closed.Do(func() {
		s.mu.Lock()
		s.bye = true
		ended := s.err != nil
		s.mu.Unlock()
		if !ended {
			close(s.closing)
		}
		s.fail(ErrClosed)
	})
	finished := make(chan struct{})
	go func() { s.wg.Wait(); close(finished) }()
	timer := time.NewTimer(goodbye)
	defer timer.Stop()
	select {
	case <-finished:
	case <-timer.C:
	case <-ctx.Done():
	}
	// Unread bytes make this a reset, which ends a walsender that is stuck in send.
	err := s.conn.Close()
	<-finished
	if errors.Is(err, net.ErrClosed) {
		return nil // the stream had ended, and whoever ended it has closed the connection
	}
	return err
}

// fail ends the stream for the reason err, the first one wins.
func (s *Stream) fail(err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.err != nil {
		return
	}
	s.err = err
	close(s.done)
	if !s.bye {
		_ = s.conn.Close() // the reason to tell is err
	}
}

// feedback is the goroutine that writes. It is the only writer of the connection from newStream on.
func (s *Stream) feedback() {
	defer s.wg.Done()
	timer := time.NewTicker(s.interval)
	defer timer.Stop()
	var buf []byte
	var told pglogrepl.LSN // highest flush position that was sent
	now := time.Now()
	ask := true // the first message learns the server's end
	for {
		flush := pglogrepl.LSN(s.confirmed.Load())
		if flush <= told {
			flush = 0
		}
		answer := s.asked.Swap(false)
		if flush > 0 || answer || !now.IsZero() {
			if now.IsZero() {
				now = time.Now()
			}
			buf = appendStatus(buf[:0], max(pglogrepl.LSN(s.written.Load()), flush), flush, now, ask)
			if err := s.write(buf); err != nil {
				s.lost(err)
				return
			}
			if flush > 0 {
				failpoint.Hit("confirm-sent")
			}
			told = max(told, flush)
		}
		now, ask = time.Time{}, false
		select {
		case now = <-timer.C:
			// Only an idle line needs a question; the answer is a keepalive, which asks for none itself.
			// While nobody reads, answers would only pile up.
			ask = s.blocked.Load() == 0 && now.Sub(s.LastFrame()) >= s.interval/2
		case <-s.kick:
		case <-s.done:
			// closing is closed before done.
			select {
			case <-s.closing:
				s.farewell(buf, told)
			default:
			}
			return
		}
	}
}

// farewell sends the last confirmation and Terminate. An error is of no interest: the connection ends either way, and what
// was not confirmed is sent again and dropped by its checkpoint.
func (s *Stream) farewell(buf []byte, told pglogrepl.LSN) {
	buf = buf[:0]
	if flush := pglogrepl.LSN(s.confirmed.Load()); flush > told {
		buf = appendStatus(buf, max(pglogrepl.LSN(s.written.Load()), flush), flush, time.Now(), false)
	}
	buf = append(buf, 'X', 0, 0, 0, 4)
	_ = s.conn.SetWriteDeadline(time.Now().Add(goodbye))
	_, _ = s.conn.Write(buf)
}

// lost ends the stream because nothing can be written. The server may have said why before it closed the connection, so the
// reader has a moment to find that.
func (s *Stream) lost(err error) {
	t := time.NewTimer(goodbye)
	defer t.Stop()
	select {
	case <-s.done:
	case <-t.C:
		s.fail(&ConnectError{err})
	}
}

// write sends one message. The server reads feedback between any two messages of its own, so a write that does not get
// through for its whole timeout means that nobody is there.
func (s *Stream) write(b []byte) error {
	if err := s.conn.SetWriteDeadline(time.Now().Add(s.cfg.WALSenderTimeout)); err != nil {
		return err
	}
	_, err := s.conn.Write(b)
	return err
}

// appendStatus appends a CopyData message with a Standby status update: write, flush and apply position, the time and whether
// an answer is wanted. The bytes are our own because pglogrepl.SendStandbyStatusUpdate turns a flush position of 0 into the
// write position, which would confirm what is not published. Flush 0 leaves the slot alone and keeps the connection alive;
// and a server that shuts down compares its end with flush, or with write where flush is 0 (WalSndDone in walsender.c), so
// write = the end of its keepalive lets it stop although not everything is confirmed.
func appendStatus(dst []byte, write, flush pglogrepl.LSN, now time.Time, ask bool) []byte {
	dst = append(dst, 'd', 0, 0, 0, 4+34, 'r')
	dst = binary.BigEndian.AppendUint64(dst, uint64(write))
	dst = binary.BigEndian.AppendUint64(dst, uint64(flush))
	dst = binary.BigEndian.AppendUint64(dst, uint64(flush))
	dst = binary.BigEndian.AppendUint64(dst, uint64(now.UnixMicro()-epoch))
	if ask {
		return append(dst, 1)
	}
	return append(dst, 0)
}

// epoch is 2000-01-01, where Postgres' times begin, in Unix microseconds.
const epoch = 946684800 * 1000000

func postgresTime(microseconds uint64) time.Time {
	return time.UnixMicro(int64(microseconds) + epoch)
}

func raise(a *atomic.Uint64, lsn pglogrepl.LSN) {
	// Only the reader raises, so a load and a store are enough.
	if uint64(lsn) > a.Load() {
		a.Store(uint64(lsn))
	}
}
