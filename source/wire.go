package source

import (
	"errors"
	"net"
	"os"
	"syscall"
	"time"
)

// A wire is the network connection below TLS. It reads like any other until readAhead is called; from then on it lets the
// kernel collect bytes before it wakes the reader, as far as the backlog allows.
//
// A walsender hands every message to the kernel by itself. A reader woken for each pays more for the waking than for the
// decoding, and makes the walsender pay too: with SO_RCVLOWAT the same slot drains 1.4 times as fast with a fifth of the CPU.
// The mark is 1 while the stream is idle, so a single change is never held back. It does nothing on Unix sockets, where
// Linux ignores it, nor on systems that lack it.
type wire struct {
	net.Conn
	raw syscall.RawConn // nil: no low-water mark on this connection

	ahead bool
	mark  lowWater
	set   int // SO_RCVLOWAT as the kernel has it

	// Below TLS, which reads a record's header and body by themselves, bytes are collected here first.
	buf    []byte
	rp, wp int
}

const (
	wireDirect = 32 << 10  // a read of at least so much goes past buf
	wireBuffer = 256 << 10 // size of buf
)

func newWire(nc net.Conn) *wire {
	w := &wire{Conn: nc, set: 1}
	if tcp, ok := nc.(*net.TCPConn); ok && haveLowWater {
		if raw, err := tcp.SyscallConn(); err == nil {
			w.raw = raw
		}
	}
	return w
}

// readAhead begins collecting. It must be called by the goroutine that reads, or before that one starts.
func (w *wire) readAhead() { w.ahead = w.raw != nil }

func (w *wire) Read(p []byte) (int, error) {
	if !w.ahead || len(p) == 0 {
		return w.Conn.Read(p)
	}
	if w.rp == w.wp {
		if len(p) >= wireDirect {
			return w.fill(p)
		}
		if w.buf == nil {
			w.buf = make([]byte, wireBuffer)
		}
		n, err := w.fill(w.buf)
		w.rp, w.wp = 0, n
		if n == 0 {
			return 0, err
		}
	}
	n := copy(p, w.buf[w.rp:w.wp])
	w.rp += n
	return n, nil
}

// fill reads once, after as many bytes as the mark asks for have come or its patience has ended.
func (w *wire) fill(p []byte) (int, error) {
	want := min(w.mark.want, len(p))
	late := false
	if want > 1 {
		var err error
		if late, err = w.await(want); err != nil {
			return 0, err
		}
	} else if err := w.lower(1); err != nil {
		return 0, err
	}
	n, err := w.Conn.Read(p)
	w.mark.note(n, late, time.Now())
	return n, err
}

// await waits until want bytes are there, the peer has ended, or the patience is over: then late is true, and the mark is
// lowered if nothing at all has come, since the next read would otherwise wait for the mark.
func (w *wire) await(want int) (late bool, err error) {
	if err := w.lower(want); err != nil {
		return false, err
	}
	if err := w.Conn.SetReadDeadline(time.Now().Add(patience)); err != nil {
		return false, err
	}
	first := true
	err = w.raw.Read(func(fd uintptr) bool {
		// The runtime asks first and waits then; an event that comes in between is not lost, for the poll was armed before.
		done := !first || readable(fd) >= want
		first = false
		return done
	})
	if err != nil && !errors.Is(err, os.ErrDeadlineExceeded) {
		return false, err
	}
	late = err != nil
	if err := w.Conn.SetReadDeadline(time.Time{}); err != nil {
		return false, err
	}
	// Below the mark the kernel does not wake a reader, and an event may have been spurious: whoever waits now must wait
	// for the first byte.
	there := 0
	if err := w.raw.Control(func(fd uintptr) { there = readable(fd) }); err != nil {
		return false, err
	}
	if there == 0 {
		return late, w.lower(1)
	}
	return late, nil
}

// lower sets SO_RCVLOWAT if it is not so already.
func (w *wire) lower(n int) error {
	if n == w.set {
		return nil
	}
	var err error
	if e := w.raw.Control(func(fd uintptr) { err = setLowWater(fd, n) }); e != nil {
		return e
	}
	if err != nil {
		return os.NewSyscallError("setsockopt", err)
	}
	w.set = n
	return nil
}

// patience bounds how long bytes may lie in the kernel because the mark is not reached.
const patience = 2 * time.Millisecond

const (
	markMin    = 16 << 10
	markMax    = 512 << 10
	markWindow = 500 * time.Microsecond
	// So many bytes and so many reads within a window are a backlog: 4 KiB in half a millisecond are 30,000 changes a
	// second, far above what a database writes whose changes should arrive one by one.
	markBytes = 4 << 10
	markReads = 4
)

// A lowWater decides how many bytes to wait for. It goes up while bytes come faster than they are taken, and back to one as
// soon as they stay away.
type lowWater struct {
	want  int // 0 and 1 mean: do not wait
	since time.Time
	bytes int
	reads int
}

// note takes in one read: its size, whether patience ended before the mark was reached, and when it returned.
func (m *lowWater) note(n int, late bool, now time.Time) {
	if m.want <= 1 {
		if now.Sub(m.since) > markWindow {
			m.since, m.bytes, m.reads = now, 0, 0
		}
		m.bytes += n
		m.reads++
		if m.bytes >= markBytes && m.reads >= markReads || n >= 4*markMin {
			m.want, m.since = markMin, now
		}
		return
	}
	took := now.Sub(m.since)
	m.since = now
	switch {
	case late && n < m.want/2:
		m.want, m.bytes, m.reads = 1, 0, 0
	case late:
		m.want = max(m.want/2, markMin)
	case took < markWindow:
		m.want = min(m.want*2, markMax)
	}
}
