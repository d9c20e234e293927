package decode

import (
	"encoding/binary"
	"fmt"
)

// copyHead begins COPY's binary format: a signature, then flags and the length of what follows them.
const copyHead = "PGCOPY\n\xff\r\n\x00"

// CopyHead is what stands before the first row: the signature, no flags, no extension.
const CopyHead = copyHead + "\x00\x00\x00\x00\x00\x00\x00\x00"

// CopyReader cuts what COPY … TO STDOUT (FORMAT binary) sends into rows
// (https://www.postgresql.org/docs/current/sql-copy.html, "Binary Format"):
//
//	head     signature 11 · flags 4 (0) · length 4 of an extension, which is skipped
//	row      columns 2 · { length 4, -1 for null · bytes }
//	trailer  columns 2 (-1)
//
// The bytes of a value are those of its send function, as in a binary stream; so its rows are the same tuples. CopyData
// messages need not hold whole rows:
//
//	for each CopyData message {
//		r.Feed(message)
//		for {
//			tuple, err := r.Next()
//			if tuple == nil {
//				break // or err
//			}
//		}
//	}
//	err := r.Close()
//
// An error stays: every later call returns it. A CopyReader is for one goroutine and one COPY.
type CopyReader struct {
	kinds   []Kind
	maxRow  int
	tuple   Tuple
	data    []byte // what is left to read: of the message that was fed, or of own
	own     []byte // the unread rest of earlier messages, and what was fed behind it
	read    int64  // bytes before data
	started bool   // the head was read
	ended   bool   // the trailer was read
	err     error
}

// NewCopyReader makes a reader of rows whose columns come in these kinds: Binary, or Text where the statement selects
// textin of the type's output function, whose bytes are that text. A row longer than maxRow bytes is an error, so that a
// false length cannot make the reader wait for ever and hold what comes.
func NewCopyReader(kinds []Kind, maxRow int) *CopyReader {
	return &CopyReader{kinds: kinds, maxRow: maxRow, tuple: make(Tuple, len(kinds))}
}

// Feed hands over the content of one CopyData message. It must stay as it is until Next has returned nil, and may be
// used for something else from then on: what is needed further is copied.
func (r *CopyReader) Feed(message []byte) {
	if len(r.data) == 0 {
		r.data = message
		return
	}
	r.own = append(append(r.own[:0], r.data...), message...) // where data is a part of own, append moves it down
	r.data = r.own
}

// Next returns the next row, or nil when more must be fed. The row is valid until the next call to Feed, its Datums
// until the message's memory is used for something else; a null has nil Data. No row costs an allocation. An error is a
// *CopyError.
func (r *CopyReader) Next() (Tuple, error) {
	if r.err != nil {
		return nil, r.err
	}
	if !r.started {
		if whole, err := r.head(); err != nil {
			return nil, err
		} else if !whole {
			return r.more()
		}
	}
	if r.ended {
		if len(r.data) > 0 {
			return nil, r.fail(0, "bytes after the trailer")
		}
		return nil, nil
	}
	if len(r.data) < 2 {
		return r.more()
	}
	n := int16(binary.BigEndian.Uint16(r.data))
	if n == -1 {
		r.step(2)
		r.ended = true
		return r.Next()
	}
	if int(n) != len(r.kinds) {
		return nil, r.fail(0, fmt.Sprintf("a row of %d columns, but %d were asked for", n, len(r.kinds)))
	}
	at := 2
	for i := range r.tuple {
		if len(r.data)-at < 4 {
			return r.more()
		}
		size := int32(binary.BigEndian.Uint32(r.data[at:]))
		at += 4
		if size == -1 {
			r.tuple[i] = Datum{Kind: Null}
			continue
		}
		if size < 0 {
			return nil, r.fail(at-4, "negative length")
		}
		if int(size) > r.maxRow-at {
			return nil, r.fail(at-4, fmt.Sprintf("a row of more than %d bytes", r.maxRow))
		}
		if int(size) > len(r.data)-at {
			return r.more()
		}
		end := at + int(size)
		r.tuple[i] = Datum{Kind: r.kinds[i], Data: r.data[at:end:end]}
		at = end
	}
	r.step(at)
	return r.tuple, nil
}

// Close is called when the server has ended the COPY: without the trailer rows are missing.
func (r *CopyReader) Close() error {
	if r.err == nil && !r.ended {
		return r.fail(len(r.data), "the copy ends without its trailer")
	}
	return r.err
}

// head reads what stands before the first row, and reports whether it was all there.
func (r *CopyReader) head() (bool, error) {
	n := min(len(r.data), len(copyHead))
	if string(r.data[:n]) != copyHead[:n] {
		return false, r.fail(0, "not COPY's binary format: it begins with another signature")
	}
	if len(r.data) < len(copyHead)+8 {
		return false, nil
	}
	// Bits 16 to 31 are such that a reader must know them (16: OIDs, before 12); none is in use.
	if flags := binary.BigEndian.Uint32(r.data[len(copyHead):]); flags>>16 != 0 {
		return false, r.fail(len(copyHead), "unknown flag")
	}
	at := len(copyHead) + 4
	extension := int32(binary.BigEndian.Uint32(r.data[at:]))
	if at += 4; extension < 0 || int(extension) > r.maxRow {
		return false, r.fail(at-4, "a false length of the head's extension")
	}
	if int(extension) > len(r.data)-at {
		return false, nil
	}
	r.step(at + int(extension))
	r.started = true
	return true, nil
}

func (r *CopyReader) step(n int) {
	r.data = r.data[n:]
	r.read += int64(n)
}

// more says that a row is unfinished, and takes a copy of it: the message that it begins in is about to be given back.
func (r *CopyReader) more() (Tuple, error) {
	if len(r.data) > 0 {
		r.own = append(r.own[:0], r.data...)
		r.data = r.own
	}
	return nil, nil
}

func (r *CopyReader) fail(at int, reason string) error {
	r.err = &CopyError{Offset: r.read + int64(at), Reason: reason}
	return r.err
}

// CopyError says that bytes are not what COPY sends in its binary format for the columns that were asked for.
type CopyError struct {
	Offset int64 // from the beginning of the copy
	Reason string
}

func (e *CopyError) Error() string {
	return fmt.Sprintf("malformed binary copy at byte %d: %s", e.Offset, e.Reason)
}
