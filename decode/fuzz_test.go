package decode_test

import (
	"bytes"
	"encoding/binary"
	"errors"
	"testing"

	"walferry/decode"

	"github.com/jackc/pglogrepl"
)

// A fuzz input is a stream of frames: WAL start 8, length 2, message.

func appendFrame(b []byte, f frame) []byte {
	return append(u16(u64(b, uint64(f.walStart)), uint16(len(f.msg))), f.msg...)
}

func cutFrame(b []byte) (f frame, rest []byte, ok bool) {
	if len(b) < 10 {
		return frame{}, nil, false
	}
	n := int(binary.BigEndian.Uint16(b[8:]))
	if n > len(b)-10 {
		return frame{}, nil, false
	}
	return frame{pglogrepl.LSN(binary.BigEndian.Uint64(b)), b[10 : 10+n : 10+n]}, b[10+n:], true
}

// FuzzDecode: whatever a stream holds,
//   - nothing panics, and the message is left as it was;
//   - an error is one of the three types, comes with no event, and stays;
//   - a value lies within its message, and a tuple has as many columns as its relation;
//   - an event encodes to the message it came from, so nothing of it was skipped or guessed;
//   - positions of rows rise strictly over the whole stream, ordinals by one from 1 in each transaction;
//   - transactions alternate: Begin, rows, the Commit of the same one;
//   - looking ahead finds an update as decoding does, and changes nothing;
//   - pglogrepl reads the same message, so what we accept is no more than it does.
func FuzzDecode(f *testing.F) {
	for _, frames := range captured(f) {
		var stream []byte
		for _, fr := range frames {
			stream = appendFrame(stream, fr)
		}
		f.Add(stream)
	}
	tx := begun(1, 0x1000)
	var stream []byte
	for _, fr := range []frame{
		{0, relationMsg(users)}, {0, beginMsg(tx)}, {0x910, changeMsg(decode.Update, 7, 'K', adaKey, ada)},
		{0x910, truncateMsg(3, 7)}, {0x910, messageMsg(&decode.Message{Transactional: true, Prefix: "p", Content: []byte("c")})},
		{0x1030, commitMsg(tx)},
	} {
		stream = appendFrame(stream, fr)
	}
	f.Add(stream)
	f.Fuzz(func(t *testing.T, stream []byte) {
		d := decode.NewDecoder()
		var open *decode.Transaction
		var last decode.Position
		var ordinal uint64
		var ahead decode.Ahead
		for {
			fr, rest, ok := cutFrame(stream)
			if !ok {
				return
			}
			stream = rest
			before := bytes.Clone(fr.msg)
			if update, _, _ := ahead.Update(users, fr.msg); update != nil {
				within(t, fr.msg, update.Old)
				within(t, fr.msg, update.New)
			}
			e, err := d.Decode(fr.walStart, fr.msg)
			if !bytes.Equal(fr.msg, before) {
				t.Fatal("the message was changed")
			}
			if err != nil {
				if e != nil {
					t.Fatalf("event %T beside error %v", e, err)
				}
				var malformed *decode.MalformedError
				var order *decode.OrderError
				var unsupported *decode.UnsupportedError
				if !errors.As(err, &malformed) && !errors.As(err, &order) && !errors.As(err, &unsupported) {
					t.Fatalf("untyped error %v", err)
				}
				if malformed != nil && (malformed.Offset < 0 || malformed.Offset > len(fr.msg)) {
					t.Fatalf("offset %d in %d bytes", malformed.Offset, len(fr.msg))
				}
				if _, again := d.Decode(fr.walStart, fr.msg); again != err {
					t.Fatalf("error did not stay: %v", again)
				}
				return
			}
			if e != nil && !bytes.Equal(encode(e), fr.msg) {
				t.Fatalf("%T encodes to\n%x, not\n%x", e, encode(e), fr.msg)
			}
			var position decode.Position
			switch e := e.(type) {
			case *decode.Begin:
				if open != nil {
					t.Fatal("transactions nest")
				}
				tx := e.Transaction
				open, ordinal = &tx, 0
			case *decode.Commit:
				if open == nil || open.XID != e.XID || open.Commit != e.Transaction.Commit || open.CommitTime != e.CommitTime {
					t.Fatalf("commit %+v of %+v", e, open)
				}
				open = nil
			case *decode.Change:
				position = e.Position
				ordinal++
				if e.Ordinal != ordinal {
					t.Fatalf("ordinal %d, want %d", e.Ordinal, ordinal)
				}
				for _, tuple := range []decode.Tuple{e.Old, e.New} {
					if tuple != nil && len(tuple) != len(e.Relation.Columns) {
						t.Fatalf("%d values of %d columns", len(tuple), len(e.Relation.Columns))
					}
					within(t, fr.msg, tuple)
				}
				update, begin, more := ahead.Update(e.Relation, fr.msg)
				if begin != nil || !more || (update != nil) != (e.Op == decode.Update) {
					t.Fatalf("looking ahead at %s finds %+v, %v, %t", e.Op, update, begin, more)
				}
				if update != nil && (update.OldKind != e.OldKind || !sameRow(update.Old, e.Old) || !sameRow(update.New, e.New)) {
					t.Fatalf("looking ahead finds %+v, want %+v", update, e)
				}
			case *decode.Truncate:
				position = e.Position
				ordinal++
				if e.Ordinal != ordinal {
					t.Fatalf("ordinal %d, want %d", e.Ordinal, ordinal)
				}
			case *decode.Message:
				if e.Transactional && open == nil {
					t.Fatal("transactional message outside a transaction")
				}
			}
			if !position.IsZero() {
				if open == nil || position.Commit != open.Commit || position.Change != fr.walStart || position.Compare(last) <= 0 {
					t.Fatalf("position %s after %s in %+v", position, last, open)
				}
				last = position
			}
			compare(t, d, fr.msg, e)
		}
	})
}
