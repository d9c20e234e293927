package source

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"os"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/jackc/pglogrepl"
)

// status is a Standby status update as a fake server reads it.
type status struct {
	at                  time.Time
	write, flush, apply pglogrepl.LSN
	ask                 bool
}

// fakeServer is the server's end of a net.Pipe: it reads everything that the client says.
type fakeServer struct {
	net.Conn
	mu     sync.Mutex // guards the following
	heard  []status
	goaway bool // Terminate came
}

// statuses returns what was heard so far.
func (f *fakeServer) statuses() []status {
	f.mu.Lock()
	defer f.mu.Unlock()
	return slices.Clone(f.heard)
}

func (f *fakeServer) read(t *testing.T) {
	for {
		head := make([]byte, 5)
		if _, err := io.ReadFull(f, head); err != nil {
			return
		}
		body := make([]byte, binary.BigEndian.Uint32(head[1:])-4)
		if _, err := io.ReadFull(f, body); err != nil {
			return
		}
		switch head[0] {
		case 'd':
			if len(body) != 34 || body[0] != 'r' {
				t.Errorf("status update % x", body)
				return
			}
			lsn := func(i int) pglogrepl.LSN { return pglogrepl.LSN(binary.BigEndian.Uint64(body[i:])) }
			f.mu.Lock()
			f.heard = append(f.heard, status{postgresTime(binary.BigEndian.Uint64(body[25:])), lsn(1), lsn(9), lsn(17), body[33] == 1})
			f.mu.Unlock()
		case 'X':
			f.mu.Lock()
			f.goaway = true
			f.mu.Unlock()
			_ = f.Close()
			return
		default:
			t.Errorf("message %q from the client", head[0])
		}
	}
}

func fakeStream(t *testing.T, change func(*Config)) (*Stream, *fakeServer) {
	t.Helper()
	cfg := Config{Slot: "s", Publication: "p"}
	if change != nil {
		change(&cfg)
	}
	if err := cfg.validate(); err != nil {
		t.Fatal(err)
	}
	ours, theirs := net.Pipe()
	f := &fakeServer{Conn: theirs}
	go f.read(t)
	s := newStream(ours, &cfg, "walferry")
	t.Cleanup(func() {
		_ = s.Close(context.Background()) // a test that looks at its error closes by itself
		_ = theirs.Close()
	})
	return s, f
}

func message(kind byte, body []byte) []byte {
	return append(binary.BigEndian.AppendUint32([]byte{kind}, uint32(len(body)+4)), body...)
}

func xlog(start pglogrepl.LSN, payload []byte) []byte {
	b := binary.BigEndian.AppendUint64([]byte{'w'}, uint64(start))
	b = binary.BigEndian.AppendUint64(b, uint64(start))
	b = binary.BigEndian.AppendUint64(b, 1)
	return message('d', append(b, payload...))
}

func keepalive(end pglogrepl.LSN, ask byte) []byte {
	b := binary.BigEndian.AppendUint64([]byte{'k'}, uint64(end))
	b = binary.BigEndian.AppendUint64(b, 1)
	return message('d', append(b, ask))
}

func logical(flags byte, prefix string, content []byte) []byte {
	b := append([]byte{'M', flags}, make([]byte, 8)...)
	b = append(append(b, prefix...), 0)
	b = binary.BigEndian.AppendUint32(b, uint32(len(content)))
	return append(b, content...)
}

func serverError(code, text string) []byte {
	var b []byte
	for _, f := range []struct{ k, v string }{{"S", "FATAL"}, {"V", "FATAL"}, {"C", code}, {"M", text}} {
		b = append(append(append(b, f.k...), f.v...), 0)
	}
	return message('E', append(b, 0))
}

func (f *fakeServer) send(t *testing.T, msgs ...[]byte) {
	t.Helper()
	for _, m := range msgs {
		if _, err := f.Write(m); err != nil && !errors.Is(err, io.ErrClosedPipe) {
			t.Error(err)
			return
		}
	}
}

// collect takes blocks until the stream ends, releasing each.
func collect(s *Stream) (payloads [][]byte) {
	for b := range s.Blocks() {
		for _, f := range b.Frames {
			payloads = append(payloads, bytes.Clone(f.Payload))
		}
		b.Release()
	}
	return payloads
}

func TestFeedbackTiming(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, f := fakeStream(t, func(c *Config) { c.WALSenderTimeout = 9 * time.Second })
		synctest.Wait()
		first := f.statuses()
		if len(first) != 1 || first[0].flush != 0 || first[0].write != 0 || !first[0].ask {
			t.Fatalf("first message %+v, want flush 0 that asks for the server's end", first)
		}
		// Nobody takes Blocks. A minute long, feedback comes every third of wal_sender_timeout and never confirms.
		for range 20 {
			time.Sleep(3 * time.Second)
		}
		synctest.Wait()
		all := f.statuses()
		if len(all) != 21 {
			t.Fatalf("%d messages in a minute, want 21", len(all))
		}
		for i, m := range all[1:] {
			if gap := m.at.Sub(all[i].at); gap > 3*time.Second+time.Millisecond || m.flush != 0 || m.apply != 0 {
				t.Fatalf("message %d after %v: %+v", i+1, gap, m)
			}
			if !m.ask {
				t.Fatalf("message %d asks nothing of a server that is silent", i+1)
			}
		}
		// A confirmation goes out at once, once, and never lower.
		s.Confirm(0x500)
		synctest.Wait()
		s.Confirm(0x400)
		synctest.Wait()
		time.Sleep(3 * time.Second)
		synctest.Wait()
		tail := f.statuses()[21:]
		if len(tail) != 2 || tail[0].flush != 0x500 || tail[0].apply != 0x500 || tail[0].write != 0x500 || tail[1].flush != 0 {
			t.Fatalf("after Confirm: %+v", tail)
		}
	})
}

func TestKeepaliveAnswer(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, f := fakeStream(t, nil)
		synctest.Wait()
		s.Confirm(0x100)
		synctest.Wait()
		n := len(f.statuses())
		f.send(t, keepalive(0x900, 0))
		synctest.Wait()
		if got := f.statuses()[n:]; len(got) != 0 {
			t.Fatalf("a keepalive that asks nothing was answered: %+v", got)
		}
		f.send(t, keepalive(0x1000, 1))
		synctest.Wait()
		got := f.statuses()[n:]
		if len(got) != 1 || got[0].write != 0x1000 || got[0].flush != 0 || got[0].apply != 0 || got[0].ask {
			t.Fatalf("answer %+v, want write = 0/1000 and flush = apply = 0", got)
		}
		if s.ServerEnd() != 0x1000 {
			t.Fatalf("server end %s", s.ServerEnd())
		}
	})
}

func TestCloseConfirmsLast(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, f := fakeStream(t, nil)
		synctest.Wait()
		s.Confirm(0x700)
		if err := s.Close(t.Context()); err != nil {
			t.Fatal(err)
		}
		synctest.Wait()
		all := f.statuses()
		if last := all[len(all)-1]; last.flush != 0x700 || !f.goaway {
			t.Fatalf("last message %+v, terminated %v", last, f.goaway)
		}
		if _, open := <-s.Blocks(); open || !errors.Is(s.Err(), ErrClosed) {
			t.Fatalf("open %v, error %v", open, s.Err())
		}
		if err := s.Close(t.Context()); err != nil {
			t.Fatalf("second Close: %v", err)
		}
	})
}

// TestCloseDoesNotHang: a server that neither reads nor ends the connection costs half a second.
func TestCloseDoesNotHang(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		cfg := Config{Slot: "s", Publication: "p"}
		if err := cfg.validate(); err != nil {
			t.Fatal(err)
		}
		ours, theirs := net.Pipe()
		defer func() { _ = theirs.Close() }() // the other end may have closed it
		s := newStream(ours, &cfg, "walferry")
		start := time.Now()
		if err := s.Close(t.Context()); err != nil {
			t.Fatal(err)
		}
		if d := time.Since(start); d > goodbye {
			t.Fatalf("Close took %v", d)
		}
	})
}

// TestWriteBlocked: feedback that does not get through ends the stream after wal_sender_timeout, also when nobody reads.
func TestWriteBlocked(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		cfg := Config{Slot: "s", Publication: "p", WALSenderTimeout: 6 * time.Second}
		if err := cfg.validate(); err != nil {
			t.Fatal(err)
		}
		ours, theirs := net.Pipe()
		defer func() { _ = theirs.Close() }() // the other end may have closed it
		s := newStream(ours, &cfg, "walferry")
		start := time.Now()
		collect(s)
		if _, ok := errors.AsType[*ConnectError](s.Err()); !ok || !errors.Is(s.Err(), os.ErrDeadlineExceeded) {
			t.Fatalf("error %v", s.Err())
		}
		if d := time.Since(start); d != 6*time.Second+goodbye {
			t.Fatalf("after %v", d)
		}
		if err := s.Close(t.Context()); err != nil {
			t.Fatal(err)
		}
	})
}

// TestBudget: reading stops when the budget is spent, feedback goes on, and reading resumes on Release.
func TestBudget(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, f := fakeStream(t, func(c *Config) { c.BufferBytes = 256 << 10 })
		var sent int
		stop := make(chan struct{})
		go func() {
			defer close(stop)
			row := bytes.Repeat([]byte{'I'}, 10_000)
			for sent < 200 {
				if _, err := f.Write(xlog(pglogrepl.LSN(sent+1), row)); err != nil {
					t.Error(err)
					return
				}
				sent++
			}
		}()
		synctest.Wait()
		if sent < 10 || sent > 40 {
			t.Fatalf("%d frames of 10,000 bytes were read with a budget of 256 KiB", sent)
		}
		if s.BlockedSince().IsZero() {
			t.Fatal("a blocked reader says that it reads")
		}
		n := len(f.statuses())
		time.Sleep(time.Minute)
		synctest.Wait()
		if got := len(f.statuses()) - n; got < 5 {
			t.Fatalf("%d feedback messages in a minute while reading is stopped", got)
		}
		var got []pglogrepl.LSN
		for len(got) < 200 {
			b, ok := <-s.Blocks()
			if !ok {
				t.Fatal(s.Err())
			}
			for _, fr := range b.Frames {
				if len(fr.Payload) != 10_000 || cap(fr.Payload) != 10_000 {
					t.Fatalf("payload of %d, capacity %d", len(fr.Payload), cap(fr.Payload))
				}
				got = append(got, fr.WALStart)
			}
			b.Release()
		}
		<-stop
		for i, l := range got {
			if l != pglogrepl.LSN(i+1) {
				t.Fatalf("frame %d has position %d", i, l)
			}
		}
		synctest.Wait()
		if !s.BlockedSince().IsZero() {
			t.Fatal("a reader that reads says that it is blocked")
		}
	})
}

// TestLargeFrame: a frame larger than the whole budget comes as one, and its memory goes back.
func TestLargeFrame(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, f := fakeStream(t, func(c *Config) { c.BufferBytes = 256 << 10; c.MaxRowBytes = 4 << 20 })
		big := bytes.Repeat([]byte("U123"), 1<<20) // exactly the limit
		go f.send(t, xlog(1, []byte("a")), xlog(2, big), xlog(3, []byte("b")), serverError("57P01", "terminating"))
		got := collect(s)
		if len(got) != 3 || !bytes.Equal(got[1], big) || string(got[2]) != "b" {
			t.Fatalf("%d frames", len(got))
		}
		if _, ok := errors.AsType[*ServerShutdownError](s.Err()); !ok {
			t.Fatalf("error %v", s.Err())
		}
		if s.memory.used != 0 {
			t.Fatalf("%d bytes are still in use", s.memory.used)
		}
	})
	synctest.Test(t, func(t *testing.T) {
		s, f := fakeStream(t, func(c *Config) { c.MaxRowBytes = 4 << 20 })
		go f.send(t, xlog(1, []byte("a")), xlog(2, make([]byte, 4<<20+1)))
		got := collect(s)
		e, ok := errors.AsType[*RowTooLargeError](s.Err())
		if !ok || e.Bytes != 4<<20+1 || e.WALStart != 2 || len(got) != 1 {
			t.Fatalf("error %v after %d frames", s.Err(), len(got))
		}
	})
}

// TestForeignMessages: messages of others are skipped, whatever their size, without memory.
func TestForeignMessages(t *testing.T) {
	huge := make([]byte, 3<<20)
	synctest.Test(t, func(t *testing.T) {
		s, f := fakeStream(t, func(c *Config) { c.BufferBytes = 256 << 10; c.MaxRowBytes = 1 << 20 })
		go f.send(t,
			xlog(1, logical(1, "walferry.heartbeat", nil)),
			xlog(2, logical(1, "other", huge)),
			xlog(3, logical(0, "walferry.heartbeat", huge)), // not transactional
			xlog(4, logical(1, "walferry", nil)),            // the dot is missing
			xlog(5, logical(1, "", nil)),
			xlog(6, logical(1, "walferryx", nil)),
			xlog(7, logical(1, "walferry.context", []byte("{}"))),
			xlog(8, []byte("M")), // too short: the decoder's to refuse
			serverError("57P01", "terminating"))
		// The first Block is not released until the end, so skipping must get by with what is left.
		first := <-s.Blocks()
		got := collect(s)
		first.Release()
		if len(got) != 2 || !bytes.HasPrefix(got[0][10:], []byte("walferry.context\x00")) || string(got[1]) != "M" {
			t.Fatalf("got %q", got)
		}
		if n := len(s.memory.chunks); n > 2 {
			t.Fatalf("skipping used %d chunks", n)
		}
		if s.memory.used != 0 {
			t.Fatalf("%d bytes are still in use", s.memory.used)
		}
		if s.ServerEnd() != 8 {
			t.Fatalf("server end %s", s.ServerEnd())
		}
	})
}

func TestEndings(t *testing.T) {
	garbage := func(err error) bool { _, ok := errors.AsType[*GarbageError](err); return ok }
	shutdown := func(err error) bool { _, ok := errors.AsType[*ServerShutdownError](err); return ok }
	lost := func(err error) bool { _, ok := errors.AsType[*ConnectError](err); return ok }
	warning := func(routine string) []byte {
		var b []byte
		for _, f := range []struct{ k, v string }{{"S", "WARNUNG"}, {"V", "WARNING"}, {"C", "55000"}, {"M", "skipped loading publication \"p\""}, {"R", routine}} {
			b = append(append(append(b, f.k...), f.v...), 0)
		}
		return message('N', append(b, 0))
	}
	for name, c := range map[string]struct {
		bytes []byte
		want  func(error) bool
	}{
		"html":                 {[]byte("HTTP/1.1 400 Bad Request\r\n\r\n"), garbage},
		"length-zero":          {[]byte{'d', 0, 0, 0, 0, 'w'}, garbage},
		"length-huge":          {[]byte{'d', 0xff, 0xff, 0xff, 0xff, 'w'}, garbage},
		"error-huge":           {[]byte{'E', 0x10, 0, 0, 0, 'w'}, garbage},
		"copydata-empty":       {[]byte{'d', 0, 0, 0, 4}, garbage},
		"copydata-unknown":     {message('d', []byte("?abc")), garbage},
		"xlog-short":           {message('d', []byte("w1234567")), garbage},
		"keepalive-short":      {message('d', []byte("k123")), garbage},
		"keepalive-long":       {message('d', append([]byte("k"), make([]byte, 18)...)), garbage},
		"error-unterminated":   {message('E', []byte("SFATAL")), garbage},
		"ready-for-query":      {message('Z', []byte("I")), garbage},
		"data-row":             {message('D', []byte{0, 0}), garbage},
		"frame-truncated":      {xlog(1, []byte("abcdef"))[:33], lost},
		"header-truncated":     {[]byte{'d', 0}, lost},
		"nothing":              {nil, lost},
		"admin-shutdown":       {serverError("57P01", "terminating"), shutdown},
		"command-complete":     {message('C', []byte("COPY 0\x00")), shutdown},
		"copy-done":            {message('c', nil), shutdown},
		"publication-missing":  {serverError("42704", `publication "p" does not exist`), func(err error) bool { _, ok := errors.AsType[*PublicationMissingError](err); return ok }},
		"publication-skipped":  {warning("LoadPublications"), func(err error) bool { _, ok := errors.AsType[*PublicationMissingError](err); return ok }},
		"notice-then-shutdown": {slices.Concat(warning("x"), message('S', []byte("a\x00b\x00")), message('A', nil), message('c', nil)), shutdown},
		"no-binary":            {serverError("42883", "no binary output function available for type aclitem"), func(err error) bool { _, ok := errors.AsType[*NeedsTextError](err); return ok }},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s, f := fakeStream(t, nil)
				go func() {
					f.send(t, c.bytes)
					_ = f.Close()
				}()
				if got := collect(s); len(got) != 0 {
					t.Errorf("frames %q", got)
				}
				if !c.want(s.Err()) {
					t.Errorf("error %T %v", s.Err(), s.Err())
				}
				if s.Err() != nil && Hint(s.Err()) == "" {
					t.Errorf("no hint for %v", s.Err())
				}
			})
		})
	}
}

// script is a connection that hands out data in pieces of the given sizes, then ends.
type script struct {
	net.Conn
	data  []byte
	sizes []byte
	i     int
}

func (c *script) Read(p []byte) (int, error) {
	if len(c.data) == 0 {
		return 0, io.EOF
	}
	n := len(c.data)
	if len(c.sizes) > 0 {
		n = min(n, 1+int(c.sizes[c.i%len(c.sizes)]))
		c.i++
	}
	n = copy(p, c.data[:n])
	c.data = c.data[n:]
	return n, nil
}

func (c *script) Write(p []byte) (int, error)      { return len(p), nil }
func (c *script) Close() error                     { return nil }
func (c *script) SetWriteDeadline(time.Time) error { return nil }

// readAll runs the reader over data and returns the payloads and the end.
func readAll(t testing.TB, data, sizes []byte, buffer int64) ([][]byte, error) {
	cfg := Config{Slot: "s", Publication: "p", BufferBytes: buffer, MaxRowBytes: 1 << 20}
	if err := cfg.validate(); err != nil {
		t.Fatal(err)
	}
	s := newStream(&script{data: data, sizes: sizes}, &cfg, "walferry")
	got := collect(s)
	if err := s.Close(context.Background()); err != nil {
		t.Fatal(err)
	}
	if s.memory.used != 0 {
		t.Fatalf("%d bytes are still in use", s.memory.used)
	}
	return got, s.Err()
}

// FuzzFrames: whatever comes and however it is cut, the reader ends with a typed error, all memory goes back, and the frames do
// not depend on the cuts.
func FuzzFrames(f *testing.F) {
	f.Add(slices.Concat(xlog(1, []byte("B12345")), keepalive(9, 1), xlog(2, logical(1, "x", []byte("yyy"))), xlog(3, []byte("C"))), []byte{0, 3, 50})
	f.Add(slices.Concat(message('N', []byte("SNOTICE\x00\x00")), xlog(1, logical(1, "walferry.x", nil)), serverError("57P01", "x")), []byte{1})
	f.Add([]byte("HTTP/1.1 400"), []byte{})
	f.Fuzz(func(t *testing.T, data, sizes []byte) {
		whole, err := readAll(t, data, nil, 256<<10)
		if err == nil || Hint(err) == "" && !isPgError(err) {
			t.Fatalf("end without a typed error: %v", err)
		}
		cut, cutErr := readAll(t, data, sizes, 256<<10)
		if !slices.EqualFunc(whole, cut, bytes.Equal) || fmt.Sprint(err) != fmt.Sprint(cutErr) {
			t.Fatalf("whole: %d frames, %v\ncut: %d frames, %v", len(whole), err, len(cut), cutErr)
		}
	})
}

// TestCuts: frames of all sizes around the chunk's come out the same however the bytes arrive.
func TestCuts(t *testing.T) {
	rnd := rand.New(rand.NewPCG(1, 2))
	for round := range 30 {
		var data []byte
		var want [][]byte
		for i := range 300 {
			n := rnd.IntN(200)
			switch rnd.IntN(20) {
			case 0:
				n = 32<<10 - 40 + rnd.IntN(80) // a chunk
			case 1:
				n = rnd.IntN(300 << 10)
			}
			switch p := bytes.Repeat([]byte{byte(i)}, n); rnd.IntN(8) {
			case 0:
				data = append(data, xlog(1, logical(1, "somebody", p))...)
			case 1:
				data = append(data, keepalive(pglogrepl.LSN(i), 0)...)
			default:
				p = append([]byte{'I'}, p...)
				data = append(data, xlog(pglogrepl.LSN(i), p)...)
				want = append(want, p)
			}
		}
		sizes := make([]byte, 1+rnd.IntN(5))
		for i := range sizes {
			sizes[i] = byte(rnd.IntN(256))
		}
		if round%2 == 0 {
			sizes = nil
		}
		got, err := readAll(t, data, sizes, 256<<10)
		if _, ok := errors.AsType[*ConnectError](err); !ok {
			t.Fatalf("round %d: %v", round, err)
		}
		if !slices.EqualFunc(want, got, bytes.Equal) {
			t.Fatalf("round %d: %d frames instead of %d, or others", round, len(got), len(want))
		}
	}
}

// TestLowWater: the mark is one on an idle line, goes up with a backlog and down when it ends.
func TestLowWater(t *testing.T) {
	now := time.Now()
	var m lowWater
	for range 100 { // 500 transactions a second of a few messages each
		now = now.Add(2 * time.Millisecond)
		for range 12 {
			now = now.Add(10 * time.Microsecond)
			m.note(200, false, now)
		}
		if m.want > 1 {
			t.Fatalf("mark %d under a light load", m.want)
		}
	}
	for range 200 {
		now = now.Add(5 * time.Microsecond)
		m.note(300, false, now)
	}
	if m.want < markMin {
		t.Fatalf("mark %d with a backlog", m.want)
	}
	for range 20 {
		now = now.Add(100 * time.Microsecond)
		m.note(m.want, false, now)
	}
	if m.want != markMax {
		t.Fatalf("mark %d with a large backlog", m.want)
	}
	now = now.Add(patience)
	m.note(10, true, now)
	if m.want > 1 {
		t.Fatalf("mark %d after the backlog", m.want)
	}
}

// TestWireTCP: over a true TCP connection nothing is lost or held back, at full speed and message by message.
func TestWireTCP(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = l.Close() }() // the other end may have closed it
	go func() {
		c, err := l.Accept()
		if err != nil {
			return
		}
		defer func() { _ = c.Close() }() // the other end may have closed it
		b := make([]byte, 1000)
		for i := range 50_000 { // a backlog
			binary.BigEndian.PutUint64(b, uint64(i))
			if _, err := c.Write(b); err != nil {
				return
			}
		}
		for i := range 50 { // single messages, each after an answer
			if _, err := io.ReadFull(c, b[:1]); err != nil {
				return
			}
			binary.BigEndian.PutUint64(b, uint64(50_000+i))
			if _, err := c.Write(b); err != nil {
				return
			}
		}
	}()
	nc, err := net.Dial("tcp", l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	w := newWire(nc)
	defer func() { _ = w.Close() }() // the other end may have closed it
	w.readAhead()
	buf := make([]byte, 0, 1<<20)
	next := uint64(0)
	reads := 0
	for {
		n, err := w.Read(buf[len(buf):cap(buf)])
		if err == io.EOF {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		reads++
		buf = buf[:len(buf)+n]
		for len(buf) >= 1000 {
			if got := binary.BigEndian.Uint64(buf); got != next {
				t.Fatalf("message %d instead of %d", got, next)
			}
			next++
			if next >= 50_000 && next < 50_050 {
				if _, err := w.Write([]byte{1}); err != nil {
					t.Fatal(err)
				}
			}
			buf = buf[1000:]
		}
		buf = append(make([]byte, 0, 1<<20), buf...)
	}
	if next != 50_050 || len(buf) != 0 {
		t.Fatalf("%d messages and %d bytes", next, len(buf))
	}
	t.Logf("%d reads", reads)
}

func isPgError(err error) bool {
	var e interface{ SQLState() string }
	return errors.As(err, &e)
}
