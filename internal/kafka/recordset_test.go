package kafka

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"reflect"
	"strings"
	"testing"
	"time"
)

// written is a record batch as a broker stores it.
type written struct {
	base       int64
	lastDelta  int32 // -1 for the last record's
	attributes int16
	id         int64
	epoch      int16
	codec      Compression
	records    []Record // Offset is absolute
}

func (w written) bytes(t testing.TB) []byte {
	t.Helper()
	var recs []byte
	for _, r := range w.records {
		var b []byte
		b = append(b, 0)
		b = binary.AppendVarint(b, r.Time.UnixMilli()-1000)
		b = binary.AppendVarint(b, r.Offset-w.base)
		for _, f := range [][]byte{r.Key, r.Value} {
			b = appendField(b, f)
		}
		b = binary.AppendVarint(b, int64(len(r.Headers)))
		for _, h := range r.Headers {
			b = appendField(b, []byte(h.Key))
			b = appendField(b, h.Value)
		}
		recs = binary.AppendVarint(recs, int64(len(b)))
		recs = append(recs, b...)
	}
	x, err := NewCompressor(w.codec)
	if err != nil {
		t.Fatal(err)
	}
	out, err := x.AppendCompressed(make([]byte, BatchHeaderLen), recs)
	if err != nil {
		t.Fatal(err)
	}
	last := w.lastDelta
	if last < 0 {
		last = int32(w.records[len(w.records)-1].Offset - w.base)
	}
	be := binary.BigEndian
	be.PutUint64(out, uint64(w.base))
	be.PutUint32(out[8:], uint32(len(out)-12))
	out[16] = 2
	be.PutUint16(out[21:], uint16(w.attributes|int16(w.codec)))
	be.PutUint32(out[23:], uint32(last))
	be.PutUint64(out[27:], 1000)
	be.PutUint64(out[35:], 9000)
	be.PutUint64(out[43:], uint64(w.id))
	be.PutUint16(out[51:], uint16(w.epoch))
	be.PutUint32(out[57:], uint32(len(w.records)))
	be.PutUint32(out[17:], crc32.Checksum(out[21:], Castagnoli))
	return out
}

func appendField(b, f []byte) []byte {
	if f == nil {
		return append(b, 1)
	}
	return append(binary.AppendVarint(b, int64(len(f))), f...)
}

// data is a batch of records named by their offsets.
func data(transactional bool, id int64, offsets ...int64) written {
	w := written{base: offsets[0], lastDelta: -1, id: id, epoch: 1}
	if transactional {
		w.attributes = attrTransactional
	}
	for _, o := range offsets {
		w.records = append(w.records, Record{Offset: o, Time: time.UnixMilli(2000), Key: []byte("k"), Value: fmt.Append(nil, o)})
	}
	return w
}

func marker(commit bool, id, offset int64) written {
	key := []byte{0, 0, 0, 0}
	if commit {
		key[3] = 1
	}
	return written{base: offset, lastDelta: -1, id: id, epoch: 1, attributes: attrTransactional | attrControl,
		records: []Record{{Offset: offset, Time: time.UnixMilli(2000), Key: key, Value: []byte{0, 0, 0, 0, 0, 0}}}}
}

func set(t testing.TB, batches ...written) []byte {
	var b []byte
	for _, w := range batches {
		b = append(b, w.bytes(t)...)
	}
	return b
}

func TestRecordsOfEveryCodec(t *testing.T) {
	want := []Record{
		{Offset: 10, Time: time.UnixMilli(2000), Key: []byte("a"), Value: []byte("b"), Headers: []Header{{"h", []byte("x")}, {"h", nil}, {"", []byte{}}}},
		{Offset: 12, Time: time.UnixMilli(1), Key: nil, Value: []byte{}},
		{Offset: 13, Time: time.UnixMilli(3000), Key: []byte{}, Value: nil},
		{Offset: 20, Time: time.UnixMilli(3000), Key: []byte("z"), Value: bytes.Repeat([]byte("long "), 50_000)},
	}
	for codec := None; codec <= Zstd; codec++ {
		b, rest, err := nextBatch(written{base: 10, lastDelta: 15, id: 5, epoch: 2, codec: codec, records: want}.bytes(t))
		if err != nil || len(rest) != 0 {
			t.Fatalf("%v: %v, %d bytes left", codec, err, len(rest))
		}
		if b.next != 26 || b.producerID != 5 || b.epoch != 2 {
			t.Errorf("%v: %+v", codec, b)
		}
		got, err := b.records("t", 3, 12)
		if err != nil {
			t.Fatalf("%v: %v", codec, err)
		}
		for i, w := range want[1:] {
			w.Topic, w.Partition, w.ProducerID, w.Epoch = "t", 3, 5, 2
			if !reflect.DeepEqual(got[i], w) {
				t.Errorf("%v record %d:\n got %.200s\nwant %.200s", codec, i, fmt.Sprintf("%+v", got[i]), fmt.Sprintf("%+v", w))
			}
		}
		if len(got) != len(want)-1 {
			t.Errorf("%v: %d records", codec, len(got))
		}
	}
}

func TestMalformedRecordSets(t *testing.T) {
	good := data(false, 1, 0, 1, 2).bytes(t)
	patch := func(at int, b ...byte) []byte {
		p := bytes.Clone(good)
		copy(p[at:], b)
		binary.BigEndian.PutUint32(p[17:], crc32.Checksum(p[21:], Castagnoli))
		return p
	}
	broken := bytes.Clone(good)
	broken[len(broken)-1] ^= 1
	for name, in := range map[string][]byte{
		"checksum":              broken,
		"magic":                 patch(16, 1),
		"length":                patch(8, 0, 0, 0, 3),
		"negative length":       patch(8, 0xff, 0xff, 0xff, 0xff),
		"negative base":         patch(0, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff),
		"negative delta":        patch(23, 0xff, 0xff, 0xff, 0xff),
		"offset overflow":       patch(0, 0x7f, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff),
		"negative count":        patch(57, 0xff, 0xff, 0xff, 0xff),
		"count above delta":     patch(57, 0, 0, 0, 9),
		"count above bytes":     patch(23, 0x7f, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0x7f, 0, 0, 0),
		"unknown codec":         patch(21, 0, 7),
		"not gzip":              patch(21, 0, 1),
		"not snappy":            patch(21, 0, 2),
		"not lz4":               patch(21, 0, 3),
		"not zstd":              patch(21, 0, 4),
		"record length":         patch(61, 0xff),
		"offset behind delta":   patch(65, 0x20),
		"key length":            patch(66, 0x7e),
		"control without a key": patch(21, 0, attrControl),
	} {
		b, _, err := nextBatch(in)
		if err == nil && b != nil {
			if b.control {
				_, _, err = b.committed()
			} else {
				_, err = b.records("t", 0, 0)
			}
		}
		if !errors.Is(err, ErrMalformed) {
			t.Errorf("%s: error %v", name, err)
		}
	}
	// A last batch that was cut off is what a full answer looks like, and no error.
	for n := range good {
		if b, _, err := nextBatch(good[:n]); b != nil || err != nil {
			t.Fatalf("the first %d bytes: %v, %v", n, b, err)
		}
	}
}

func TestBombs(t *testing.T) {
	for codec := Gzip; codec <= Zstd; codec++ {
		x, err := NewCompressor(codec)
		if err != nil {
			t.Fatal(err)
		}
		small, err := x.AppendCompressed(nil, make([]byte, 1<<20))
		if err != nil {
			t.Fatal(err)
		}
		if _, err := decompress(codec, small); err != nil {
			t.Errorf("%v: a megabyte: %v", codec, err)
		}
	}
	// A block of snappy that says it unpacks to 4 GB.
	if _, err := decompress(Snappy, []byte{0xff, 0xff, 0xff, 0xff, 0x0f, 0}); err == nil {
		t.Error("a snappy block of 4 GB was tried")
	}
	// One bare block is what librdkafka writes.
	framed, err := (&Compressor{codec: Snappy}).AppendCompressed(nil, []byte("hello hello hello"))
	if err != nil {
		t.Fatal(err)
	}
	if got, err := decompress(Snappy, framed[len(xerialHeader)+4:]); err != nil || string(got) != "hello hello hello" {
		t.Errorf("a bare block: %q, %v", got, err)
	}
}

// TestLedger is the rule of Replay on record sets as compaction and aborts leave them.
func TestLedger(t *testing.T) {
	for _, tc := range []struct {
		name    string
		batches []written
		until   int64
		want    string
		next    int64
	}{
		{"no transaction", []written{data(false, -1, 0, 1), data(false, -1, 2)}, 2, "0 1 2", 3},
		{"committed", []written{data(true, 7, 0, 1), marker(true, 7, 2), data(true, 7, 3), marker(true, 7, 4)}, 4, "0 1 3", 5},
		{"aborted", []written{data(true, 7, 0, 1), marker(false, 7, 2), data(true, 7, 3), marker(true, 7, 4)}, 4, "3", 5},
		{"open at the end", []written{data(true, 7, 0), marker(true, 7, 1), data(true, 7, 2)}, 2, "0", 3},
		{"marker behind the end", []written{data(true, 7, 0), marker(true, 7, 1), data(true, 7, 2), marker(true, 7, 3)}, 2, "0", 3},
		{"the end is the marker", []written{data(true, 7, 0), marker(true, 7, 1)}, 1, "0", 2},
		{"only a marker is left", []written{data(true, 7, 0), marker(true, 7, 1), marker(true, 7, 9)}, 9, "0", 10},
		{"the end lies in a gap", []written{data(false, 7, 0), data(false, 7, 20)}, 9, "0", 20},
		{"the end was emptied", []written{data(false, 7, 0), {base: 5, lastDelta: 4, id: 7}}, 8, "0", 10},
		{"gaps inside", []written{data(true, 7, 3, 8), marker(true, 7, 11), data(true, 7, 12, 19)}, 10, "", 11},
		{"two producers, in the order of offsets",
			[]written{data(true, 7, 0), data(true, 8, 1), marker(true, 8, 2), data(false, -1, 3), marker(true, 7, 4)}, 4, "0 1 3", 5},
		{"one of two aborts", []written{data(true, 7, 0), data(true, 8, 1), marker(false, 7, 2), marker(true, 8, 3)}, 3, "1", 4},
		{"a foreign open transaction holds nothing back in the end",
			[]written{data(true, 9, 0), data(true, 7, 1), marker(true, 7, 2), data(true, 7, 3)}, 3, "1", 4},
		{"a marker without records", []written{marker(false, 7, 0), data(true, 7, 1), marker(true, 7, 2)}, 2, "1", 3},
		{"batch cut at the end", []written{data(true, 7, 0, 1, 2), marker(true, 7, 3)}, 1, "", 3},
		{"plain batch cut at the end", []written{data(false, 7, 0, 1, 2)}, 1, "0 1", 3},
	} {
		t.Run(tc.name, func(t *testing.T) {
			var l ledger
			var got []string
			pos, err := l.read(set(t, tc.batches...), TopicPartition{"t", 0}, 0, tc.until, func(r Record) error {
				got = append(got, string(r.Value))
				return nil
			})
			// What Replay does at its end.
			if err == nil {
				err = l.finish(func(r Record) error {
					got = append(got, string(r.Value))
					return nil
				})
			}
			if err != nil {
				t.Fatal(err)
			}
			if s := strings.Join(got, " "); s != tc.want || pos != tc.next {
				t.Errorf("got %q and position %d, want %q and %d", s, pos, tc.want, tc.next)
			}
		})
	}
	stop := errors.New("stop")
	var l ledger
	if _, err := l.read(set(t, data(false, 1, 0)), TopicPartition{}, 0, 0, func(Record) error { return stop }); !errors.Is(err, stop) {
		t.Errorf("the callee's error became %v", err)
	}
}

func TestReaderTake(t *testing.T) {
	tp := TopicPartition{"t", 0}
	r := (&Client{}).NewReader(map[TopicPartition]int64{tp: 1})
	f := &fetched{TopicPartition: tp, stable: 12,
		// Producer 7 aborts at 3 and commits at 6; 8 aborts at 9. The list need not be sorted.
		aborted: []abortedTransaction{{8, 7}, {7, 0}},
		set: set(t, data(true, 7, 0, 1), data(false, -1, 2), marker(false, 7, 3), data(true, 7, 4, 5), marker(true, 7, 6),
			data(true, 8, 7), data(true, 7, 8), marker(false, 8, 9), marker(true, 7, 10), written{base: 11, lastDelta: 3, id: 7})}
	recs, err := r.take(f)
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, rec := range recs {
		got = append(got, string(rec.Value))
	}
	if s := strings.Join(got, " "); s != "2 4 5 8" {
		t.Errorf("visible: %s, want 2 4 5 8", s)
	}
	if next, stable := r.Position(tp); next != 15 || stable != 12 {
		t.Errorf("position %d, stable %d", next, stable)
	}
}

// FuzzRecordSet: any bytes are an error or records inside of their batch; what is read depends on the batch's own bytes only.
func FuzzRecordSet(f *testing.F) {
	for codec := None; codec <= Zstd; codec++ {
		w := data(true, 7, 0, 1, 5)
		w.codec = codec
		f.Add(w.bytes(f), true)
		f.Add(w.bytes(f), false)
	}
	f.Add(marker(true, 3, 9).bytes(f), true)
	f.Fuzz(func(t *testing.T, in []byte, mend bool) {
		if mend && len(in) > 21 { // past the checksum
			in = bytes.Clone(in)
			if n := binary.BigEndian.Uint32(in[8:]); uint64(n)+12 <= uint64(len(in)) && n > 9 {
				binary.BigEndian.PutUint32(in[17:], crc32.Checksum(in[21:12+n], Castagnoli))
			}
		}
		for set := in; ; {
			b, rest, err := nextBatch(set)
			if err != nil && !errors.Is(err, ErrMalformed) {
				t.Fatalf("error %v", err)
			}
			if b == nil {
				break
			}
			if len(rest) >= len(set) {
				t.Fatal("no progress")
			}
			recs, err := b.records("t", 0, 0)
			if err != nil && !errors.Is(err, ErrMalformed) {
				t.Fatalf("error %v", err)
			}
			for _, r := range recs {
				if r.Offset < b.base || r.Offset >= b.next {
					t.Fatalf("offset %d in a batch from %d to %d", r.Offset, b.base, b.next)
				}
			}
			if b.control {
				if _, _, err := b.committed(); err != nil && !errors.Is(err, ErrMalformed) {
					t.Fatalf("error %v", err)
				}
			}
			alone, _, err2 := nextBatch(bytes.Clone(set[:len(set)-len(rest)]))
			if err2 != nil {
				t.Fatalf("the batch by itself: %v", err2)
			}
			again, err2 := alone.records("t", 0, 0)
			if !reflect.DeepEqual(recs, again) || (err == nil) != (err2 == nil) {
				t.Fatal("the batch by itself reads otherwise")
			}
			set = rest
		}
	})
}

// FuzzFetchAnswer and its like: the decoders of answers read no byte that is not there.
func FuzzAnswers(f *testing.F) {
	f.Add([]byte{0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0, 1, 't', 0, 0, 0, 1})
	f.Add(bytes.Repeat([]byte{0}, 120))
	f.Fuzz(func(t *testing.T, in []byte) {
		parts, err := decodeFetch(in)
		if err != nil && parts != nil {
			t.Fatal("an error and an answer")
		}
		for _, p := range parts {
			if len(p.set) > len(in) || len(p.aborted) > len(in) {
				t.Fatal("more than there was")
			}
		}
		req := &ProduceRequest{Items: []ProduceItem{{TopicPartition: TopicPartition{"t", 0}}}}
		if res, err := req.decodeAnswer(in); err == nil && len(res) != 1 {
			t.Fatalf("%d results", len(res))
		}
	})
}
