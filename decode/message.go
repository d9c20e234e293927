package decode

import (
	"bytes"
	"encoding/binary"
	"math"
	"time"
	"unicode/utf8"

	"github.com/jackc/pglogrepl"
)

// cursor is the guarded door: the only code that indexes into bytes from a server. It reads forward and never past
// the end. The first thing that does not fit sets reason and stays; every later read returns a zero value, so a caller
// may read a whole message and ask once.
type cursor struct {
	msg    []byte
	off    int
	reason string // why it failed, at off; empty while all is well
}

func (c *cursor) fail(reason string) {
	if c.reason == "" {
		c.reason = reason
	}
}

// need says whether n more bytes are there.
func (c *cursor) need(n int) bool {
	if c.reason != "" {
		return false
	}
	if n > len(c.msg)-c.off {
		c.reason = "message ends too early"
		return false
	}
	return true
}

func (c *cursor) byte() byte {
	if !c.need(1) {
		return 0
	}
	b := c.msg[c.off]
	c.off++
	return b
}

func (c *cursor) uint32() uint32 {
	if !c.need(4) {
		return 0
	}
	v := binary.BigEndian.Uint32(c.msg[c.off:])
	c.off += 4
	return v
}

func (c *cursor) uint64() uint64 {
	if !c.need(8) {
		return 0
	}
	v := binary.BigEndian.Uint64(c.msg[c.off:])
	c.off += 8
	return v
}

func (c *cursor) lsn() pglogrepl.LSN { return pglogrepl.LSN(c.uint64()) }

// postgresEpoch is 2000-01-01 00:00 UTC in microseconds of Unix time, where Postgres counts timestamps from.
const postgresEpoch = 946_684_800_000_000

func (c *cursor) time() time.Time {
	v := int64(c.uint64())
	if c.reason != "" {
		return time.Time{}
	}
	if v > math.MaxInt64-postgresEpoch {
		c.off -= 8
		c.fail("time out of range")
		return time.Time{}
	}
	return time.UnixMicro(v + postgresEpoch).UTC()
}

// flags reads a byte in which only the bits of known may be set: another one would mean something we do not know.
func (c *cursor) flags(known byte) byte {
	b := c.byte()
	if b&^known != 0 {
		c.off--
		c.fail("unknown flag")
		return 0
	}
	return b
}

// count reads a number of columns.
func (c *cursor) count() int {
	if !c.need(2) {
		return 0
	}
	n := int16(binary.BigEndian.Uint16(c.msg[c.off:]))
	if n < 0 {
		c.fail("negative number of columns")
		return 0
	}
	c.off += 2
	return int(n)
}

// length reads the length of a value.
func (c *cursor) length() int {
	n := int32(c.uint32())
	if n < 0 {
		c.off -= 4
		c.fail("negative length")
		return 0
	}
	return int(n)
}

// bytes returns a window of the message with its capacity cut; empty but not nil for n = 0.
func (c *cursor) bytes(n int) []byte {
	if !c.need(n) {
		return nil
	}
	b := c.msg[c.off : c.off+n : c.off+n]
	c.off += n
	return b
}

// string returns the bytes before the next zero byte, and steps over that too.
func (c *cursor) string() []byte {
	if c.reason != "" {
		return nil
	}
	i := bytes.IndexByte(c.msg[c.off:], 0)
	if i < 0 {
		c.fail("string has no end")
		return nil
	}
	b := c.msg[c.off : c.off+i : c.off+i]
	c.off += i + 1
	return b
}

// name reads a name that goes into Avro, JSON and topic names as it is. A server whose encoding is SQL_ASCII may send
// one that is not UTF-8.
func (c *cursor) name() string {
	start := c.off
	b := c.string()
	if !utf8.Valid(b) {
		c.off = start
		c.fail("name is not UTF-8")
		return ""
	}
	return string(b)
}

// namespace reads a schema name. The server shortens pg_catalog to the empty string.
func (c *cursor) namespace() string {
	if name := c.name(); name != "" || c.reason != "" {
		return name
	}
	return "pg_catalog"
}

// tuple reads a row of as many columns as its relation has, into dst's memory where that is large enough.
func (c *cursor) tuple(dst Tuple, columns int) Tuple {
	dst = dst[:0]
	n := c.count()
	if c.reason != "" {
		return dst
	}
	if n != columns {
		c.off -= 2
		c.fail("number of columns differs from the relation's")
		return dst
	}
	if cap(dst) < n {
		dst = make(Tuple, 0, n)
	}
	dst = dst[:n]
	for i := range dst {
		switch kind := Kind(c.byte()); kind {
		case Text, Binary:
			dst[i] = Datum{Kind: kind, Data: c.bytes(c.length())}
		case Null, Unchanged:
			dst[i] = Datum{Kind: kind}
		default:
			// After a failed read kind is zero too; then fail keeps the earlier reason and only off must stay.
			if c.reason == "" {
				c.off--
				c.fail("unknown kind of column value")
			}
			return dst[:0]
		}
	}
	return dst
}

// finish ends a message: the sticky error, or one for bytes left over, or nil.
func (c *cursor) finish(walStart pglogrepl.LSN) error {
	if c.reason == "" && c.off != len(c.msg) {
		c.fail("bytes left over")
	}
	if c.reason != "" {
		return c.malformed(walStart)
	}
	return nil
}

func (c *cursor) malformed(walStart pglogrepl.LSN) error {
	e := &MalformedError{Offset: c.off, Reason: c.reason, LSN: walStart}
	if len(c.msg) > 0 {
		e.Message = c.msg[0]
	}
	return e
}
