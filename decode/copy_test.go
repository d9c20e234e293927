package decode_test

import (
	"bytes"
	"encoding/binary"
	"errors"
	"strings"
	"testing"

	"walferry/decode"
)

var copyHead = "PGCOPY\n\xff\r\n\x00" + strings.Repeat("\x00", 8)

const copyTrailer = "\xff\xff"

func copyRow(row decode.Tuple) string {
	b := u16(nil, uint16(len(row)))
	for _, d := range row {
		if d.Kind == decode.Null {
			b = binary.BigEndian.AppendUint32(b, 0xffffffff)
			continue
		}
		b = append(binary.BigEndian.AppendUint32(b, uint32(len(d.Data))), d.Data...)
	}
	return string(b)
}

func sameRow(a, b decode.Tuple) bool {
	if len(a) != len(b) {
		return false
	}
	for i := range a {
		if a[i].Kind != b[i].Kind || !bytes.Equal(a[i].Data, b[i].Data) || (a[i].Data == nil) != (b[i].Data == nil) {
			return false
		}
	}
	return true
}

func cloneTuple(t decode.Tuple) decode.Tuple {
	out := make(decode.Tuple, len(t))
	for i, d := range t {
		out[i] = decode.Datum{Kind: d.Kind, Data: bytes.Clone(d.Data)}
	}
	return out
}

// readCopy feeds the pieces out of one buffer, as a connection does, and collects the rows.
func readCopy(r *decode.CopyReader, pieces ...string) (rows []decode.Tuple, err error) {
	var buf []byte
	for _, p := range pieces {
		for i := range buf {
			buf[i] = 0xee // whoever still reads the piece before sees it
		}
		buf = append(buf[:0], p...)
		r.Feed(buf)
		for {
			t, err := r.Next()
			if err != nil {
				return rows, err
			}
			if t == nil {
				break
			}
			rows = append(rows, cloneTuple(t))
		}
	}
	return rows, r.Close()
}

var (
	copyKinds = []decode.Kind{decode.Binary, decode.Text, decode.Binary}
	copyRows  = []decode.Tuple{
		{{Kind: decode.Binary, Data: []byte("\x00\x00\x00\x01")}, {Kind: decode.Text, Data: []byte("one")}, {Kind: decode.Null}},
		{{Kind: decode.Null}, {Kind: decode.Null}, {Kind: decode.Null}},
		{{Kind: decode.Binary, Data: []byte{}}, {Kind: decode.Text, Data: []byte("")}, {Kind: decode.Binary, Data: bytes.Repeat([]byte("x"), 300)}},
	}
)

func copyStream() string {
	s := copyHead
	for _, row := range copyRows {
		s += copyRow(row)
	}
	return s + copyTrailer
}

// TestCopy: the rows are the same wherever the messages are cut.
func TestCopy(t *testing.T) {
	s := copyStream()
	for cut := 0; cut <= len(s); cut++ {
		for _, pieces := range [][]string{{s[:cut], s[cut:]}, {s[:cut], "", s[cut:min(cut+3, len(s))], s[min(cut+3, len(s)):]}} {
			rows, err := readCopy(decode.NewCopyReader(copyKinds, 1000), pieces...)
			if err != nil || len(rows) != len(copyRows) {
				t.Fatalf("cut at %d: %d rows, %v", cut, len(rows), err)
			}
			for i := range rows {
				if !sameRow(rows[i], copyRows[i]) {
					t.Fatalf("cut at %d: row %d is %v, want %v", cut, i, rows[i], copyRows[i])
				}
			}
		}
	}
	rows, err := readCopy(decode.NewCopyReader(nil, 10), copyHead+"\x00\x00\x00\x00"+copyTrailer)
	if err != nil || len(rows) != 2 {
		t.Errorf("rows without columns: %v, %v", rows, err)
	}
}

// TestCopyErrors: every prefix is an error at Close, and what does not fit is one that says where.
func TestCopyErrors(t *testing.T) {
	s := copyStream()
	for cut := range s {
		_, err := readCopy(decode.NewCopyReader(copyKinds, 1000), s[:cut])
		var e *decode.CopyError
		if !errors.As(err, &e) || !strings.Contains(e.Reason, "trailer") {
			t.Fatalf("cut at %d: %v", cut, err)
		}
	}
	for _, c := range []struct {
		stream string
		offset int64
		says   string
	}{
		{"PGCOPX", 0, "signature"},
		{copyHead[:11] + "\x00\x01\x00\x00\x00\x00\x00\x00", 11, "flag"},
		{copyHead[:15] + "\xff\xff\xff\xff", 15, "extension"},
		{copyHead[:15] + "\x7f\xff\xff\xff", 15, "extension"},
		{copyHead + "\x00\x02", 19, "2 columns"},
		{copyHead + "\x00\x03\xff\xff\xff\xfe", 21, "negative"},
		{copyHead + "\x00\x03\x7f\xff\xff\xff", 21, "1000 bytes"},
		{copyHead + copyTrailer + "x", 21, "after the trailer"},
	} {
		r := decode.NewCopyReader(copyKinds, 1000)
		_, err := readCopy(r, c.stream)
		var e *decode.CopyError
		if !errors.As(err, &e) || e.Offset != c.offset || !strings.Contains(e.Error(), c.says) {
			t.Errorf("%q: %v", c.stream, err)
		}
		if _, again := r.Next(); again != err || r.Close() != err {
			t.Errorf("%q: the error did not stay: %v", c.stream, again)
		}
	}
	// An extension of the head is skipped.
	if rows, err := readCopy(decode.NewCopyReader(nil, 10), copyHead[:15]+"\x00\x00\x00\x02ex"+copyTrailer); err != nil || rows != nil {
		t.Errorf("%v %v", rows, err)
	}
}

func TestCopyNoAllocation(t *testing.T) {
	r := decode.NewCopyReader(copyKinds, 1000)
	r.Feed([]byte(copyHead))
	if _, err := r.Next(); err != nil {
		t.Fatal(err)
	}
	rows := []byte(copyRow(copyRows[0]) + copyRow(copyRows[2]))
	whole := rows[:len(rows)-5]
	rest := rows[len(rows)-5:]
	feed := func(message []byte) {
		r.Feed(message)
		for {
			if t1, err := r.Next(); err != nil {
				t.Fatal(err)
			} else if t1 == nil {
				return
			}
		}
	}
	if n := testing.AllocsPerRun(100, func() { feed(rows); feed(whole); feed(rest) }); n != 0 {
		t.Errorf("%v allocations", n)
	}
}

// FuzzCopy: whatever the bytes and wherever they are cut, nothing panics and no input changes, the rows are the same as of
// the whole, they encode to the bytes they came from, and an error is typed and within the bytes.
func FuzzCopy(f *testing.F) {
	f.Add([]byte(copyStream()), uint8(7))
	f.Add([]byte(copyHead+copyTrailer), uint8(1))
	f.Add([]byte(copyHead+"\x00\x03\x00\x00\x00\x05hello"), uint8(3))
	f.Fuzz(func(t *testing.T, stream []byte, piece uint8) {
		given := bytes.Clone(stream)
		var pieces []string
		for rest := string(stream); rest != ""; {
			n := min(int(piece)+1, len(rest))
			pieces, rest = append(pieces, rest[:n]), rest[n:]
		}
		rows, err := readCopy(decode.NewCopyReader(copyKinds, 500), pieces...)
		again, err2 := readCopy(decode.NewCopyReader(copyKinds, 500), string(stream))
		if !bytes.Equal(stream, given) {
			t.Fatal("the input was changed")
		}
		if len(rows) != len(again) || (err == nil) != (err2 == nil) || err != nil && err.Error() != err2.Error() {
			t.Fatalf("cut: %d rows, %v; whole: %d rows, %v", len(rows), err, len(again), err2)
		}
		var encoded string
		for i := range rows {
			if !sameRow(rows[i], again[i]) {
				t.Fatalf("row %d is %v cut, %v whole", i, rows[i], again[i])
			}
			encoded += copyRow(rows[i])
		}
		if err != nil {
			var e *decode.CopyError
			if !errors.As(err, &e) || e.Offset < 0 || e.Offset > int64(len(stream)) {
				t.Fatalf("%d bytes: %v", len(stream), err)
			}
			return
		}
		if !strings.HasSuffix(string(stream), encoded+copyTrailer) {
			t.Fatalf("%x has rows %x", stream, encoded)
		}
	})
}
