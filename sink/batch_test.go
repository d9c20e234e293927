package sink

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"reflect"
	"testing"
	"time"

	"github.com/segmentio/kafka-go/protocol"

	"walferry/internal/kafka"
)

// offline makes a producer that never sends.
func offline(t testing.TB, compression string, limits map[string]TopicInfo) *Producer {
	t.Helper()
	p, err := New(nil, Config{TransactionalID: "t", Compression: compression, MaxBatchBytes: 4 << 20})
	if err != nil {
		t.Fatal(err)
	}
	for n, info := range limits {
		p.topics[n] = info
	}
	return p
}

type plain struct {
	Time       int64
	Key, Value []byte
	Headers    []Header
}

// decodeChunk reads a sealed chunk with kafka-go's decoder, which shares no code with ours.
func decodeChunk(t testing.TB, c *chunk) (out []plain, rb *protocol.RecordBatch) {
	t.Helper()
	var set protocol.RecordSet
	framed := binary.BigEndian.AppendUint32(nil, uint32(len(c.wire)))
	framed = append(framed, c.wire...)
	if _, err := set.ReadFrom(bytes.NewReader(framed)); err != nil {
		t.Fatalf("read a record set: %v", err)
	}
	if set.Attributes&protocol.Transactional == 0 {
		t.Fatalf("attributes %v are not transactional", set.Attributes)
	}
	switch r := set.Records.(type) {
	case *protocol.RecordBatch:
		rb = r
	case *protocol.RecordStream:
		rb = r.Records[0].(*protocol.RecordBatch)
	default:
		t.Fatalf("a record set of %T", set.Records)
	}
	for {
		r, err := rb.ReadRecord()
		if errors.Is(err, io.EOF) {
			return out, rb
		}
		if err != nil {
			t.Fatalf("record %d: %v", len(out), err)
		}
		p := plain{Time: r.Time.UnixMilli(), Key: readAll(t, r.Key), Value: readAll(t, r.Value)}
		for _, h := range r.Headers {
			p.Headers = append(p.Headers, Header{Key: h.Key, Value: h.Value})
		}
		out = append(out, p)
	}
}

func readAll(t testing.TB, b protocol.Bytes) []byte {
	if b == nil {
		return nil
	}
	p, err := protocol.ReadAll(b)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

// sealAll compresses and seals every chunk, with sequences from 0.
func sealAll(t testing.TB, p *Producer, b *Batch) {
	t.Helper()
	if err := p.pack(b); err != nil {
		t.Fatal(err)
	}
	for _, q := range b.order {
		var sequence int32
		for _, c := range q.chunks {
			c.seal(7, 3, sequence)
			sequence = nextSequence(sequence, c.count)
		}
	}
}

func contents(t testing.TB, b *Batch) map[TopicPartition][]plain {
	t.Helper()
	m := map[TopicPartition][]plain{}
	for _, q := range b.order {
		for _, c := range q.chunks {
			recs, _ := decodeChunk(t, c)
			m[q.tp] = append(m[q.tp], recs...)
		}
	}
	return m
}

// random makes records with every kind of null and empty.
func random(r *rand.Rand, maxValue int) plain {
	field := func(n int) []byte {
		switch r.IntN(8) {
		case 0:
			return nil
		case 1:
			return []byte{}
		}
		b := make([]byte, r.IntN(n+1))
		for i := range b {
			b[i] = "aaaaaaaabcd"[r.IntN(11)]
		}
		return b
	}
	p := plain{Time: 1_700_000_000_000 + r.Int64N(100_000) - 50_000, Key: field(20), Value: field(maxValue)}
	for range r.IntN(4) {
		p.Headers = append(p.Headers, Header{Key: string(field(10)), Value: field(10)})
	}
	return p
}

func equal(a, b plain) bool {
	same := func(a, b []byte) bool { return (a == nil) == (b == nil) && bytes.Equal(a, b) }
	if a.Time != b.Time || !same(a.Key, b.Key) || !same(a.Value, b.Value) || len(a.Headers) != len(b.Headers) {
		return false
	}
	for i := range a.Headers {
		// kafka-go reads a null header value as an empty one.
		if a.Headers[i].Key != b.Headers[i].Key || !bytes.Equal(a.Headers[i].Value, b.Headers[i].Value) {
			return false
		}
	}
	return true
}

func compare(t testing.TB, got, want map[TopicPartition][]plain) {
	t.Helper()
	if len(got) != len(want) {
		t.Fatalf("%d partitions, want %d", len(got), len(want))
	}
	for tp, w := range want {
		if len(got[tp]) != len(w) {
			t.Fatalf("%v: %d records, want %d", tp, len(got[tp]), len(w))
		}
		for i := range w {
			if !equal(got[tp][i], w[i]) {
				t.Fatalf("%v record %d:\n got %+v\nwant %+v", tp, i, got[tp][i], w[i])
			}
		}
	}
}

func TestBatchReadsBack(t *testing.T) {
	for _, codec := range []string{"none", "gzip", "snappy", "lz4", "zstd"} {
		t.Run(codec, func(t *testing.T) {
			r := rand.New(rand.NewPCG(1, 2))
			p := offline(t, codec, map[string]TopicInfo{"small": {MaxMessageBytes: 3000, CompressionType: "producer"}})
			b := p.NewBatch()
			for round := range 3 { // memory used again must not show
				want := map[TopicPartition][]plain{}
				records := 0
				for range 2000 {
					tp := TopicPartition{Topic: []string{"small", "large"}[r.IntN(2)], Partition: int32(r.IntN(3))}
					rec := random(r, 300)
					if err := b.Append(tp.Topic, tp.Partition, time.UnixMilli(rec.Time), rec.Key, rec.Value, rec.Headers); err != nil {
						t.Fatal(err)
					}
					want[tp] = append(want[tp], rec)
					records++
				}
				sum := 0
				for _, q := range b.order {
					for _, c := range q.chunks {
						sum += len(c.buf)
					}
				}
				if sum != b.Bytes() {
					t.Fatalf("Bytes() = %d, the chunks have %d", b.Bytes(), sum)
				}
				sealAll(t, p, b)
				compare(t, contents(t, b), want)
				if b.Records() != records {
					t.Fatalf("round %d: Records() = %d, want %d", round, b.Records(), records)
				}
				for _, q := range b.order {
					for _, c := range q.chunks {
						if q.tp.Topic == "small" && len(c.wire) > 3000 {
							t.Fatalf("a chunk of %d bytes for a topic that takes 3000", len(c.wire))
						}
						if codec != "none" && len(c.wire) > 2000 && c.codec == kafka.None {
							t.Fatalf("%d bytes of compressible records were sent as they are", len(c.wire))
						}
					}
					if q.tp.Topic == "small" && len(q.chunks) < 3 {
						t.Fatalf("%v has %d chunks, so the limit was not met once", q.tp, len(q.chunks))
					}
				}
				b.Reset()
				if b.Records() != 0 || b.Bytes() != 0 || len(b.order) != 0 {
					t.Fatalf("after Reset: %d records, %d bytes, %d partitions", b.Records(), b.Bytes(), len(b.order))
				}
			}
		})
	}
}

// TestSealAgain is what makes a batch fit for a second Publish: only the header changes, and the checksum fits again.
func TestSealAgain(t *testing.T) {
	p := offline(t, "lz4", nil)
	b := p.NewBatch()
	for i := range 100 {
		if err := b.Append("t", 0, time.UnixMilli(int64(i)), []byte("k"), bytes.Repeat([]byte("v"), 100), nil); err != nil {
			t.Fatal(err)
		}
	}
	sealAll(t, p, b)
	c := b.order[0].chunks[0]
	before, packed := decodeAll(t, c), &c.wire[kafka.BatchHeaderLen]
	// While the fate of a batch is unknown the producer commits a session record: another batch goes through the same
	// packer, and what is kept for the second Publish must not be its scratch space.
	other := p.NewBatch()
	for range 100 {
		if err := other.Append("session", 0, time.UnixMilli(0), []byte("other"), bytes.Repeat([]byte("other"), 100), nil); err != nil {
			t.Fatal(err)
		}
	}
	sealAll(t, p, other)
	if err := p.pack(b); err != nil {
		t.Fatal(err)
	}
	c.seal(8, 4, 55)
	after, rb := decodeChunk(t, c)
	if !reflect.DeepEqual(before, after) || packed != &c.wire[kafka.BatchHeaderLen] {
		t.Fatal("records changed or were compressed again")
	}
	if rb.ProducerID != 8 || rb.ProducerEpoch != 4 || rb.BaseSequence != 55 {
		t.Fatalf("sealed for %d/%d/%d, want 8/4/55", rb.ProducerID, rb.ProducerEpoch, rb.BaseSequence)
	}
}

func decodeAll(t testing.TB, c *chunk) []plain {
	recs, _ := decodeChunk(t, c)
	return recs
}

func TestTooLarge(t *testing.T) {
	topics := map[string]TopicInfo{
		"packed": {MaxMessageBytes: 1000, CompressionType: "producer"},
		"plain":  {MaxMessageBytes: 1000, CompressionType: "uncompressed"},
	}
	compressible := bytes.Repeat([]byte("x"), 5000)
	r := rand.New(rand.NewPCG(3, 4))
	noise := make([]byte, 5000)
	for i := range noise {
		noise[i] = byte(r.Uint32())
	}
	for _, tc := range []struct {
		name, codec, topic string
		value              []byte
		refused            bool
	}{
		{"fits", "lz4", "packed", compressible[:900], false},
		{"fits when compressed", "lz4", "packed", compressible, false},
		{"does not fit when compressed", "lz4", "packed", noise, true},
		{"not compressed", "none", "packed", compressible, true},
		{"compressed, but the broker stores it plain", "lz4", "plain", compressible, true},
		{"one byte too many", "none", "packed", compressible[:1000-61-8+1], true},
		{"to the byte", "none", "packed", compressible[:1000-61-9], false},
	} {
		t.Run(tc.name, func(t *testing.T) {
			p := offline(t, tc.codec, topics)
			b := p.NewBatch()
			if err := b.Append(tc.topic, 0, time.UnixMilli(1), nil, []byte("before"), nil); err != nil {
				t.Fatal(err)
			}
			bytesBefore := b.Bytes()
			err := b.Append(tc.topic, 0, time.UnixMilli(1), nil, tc.value, nil)
			want := 3
			if tc.refused {
				var large *TooLargeError
				if !errors.As(err, &large) || large.Topic != tc.topic || large.Limit != 1000 || large.Bytes <= 1000 {
					t.Fatalf("error %v, want a TooLargeError", err)
				}
				if b.Bytes() != bytesBefore {
					t.Fatalf("the batch grew from %d to %d bytes", bytesBefore, b.Bytes())
				}
				want = 2
			} else if err != nil {
				t.Fatal(err)
			}
			if err := b.Append(tc.topic, 0, time.UnixMilli(1), nil, []byte("after"), nil); err != nil {
				t.Fatal(err)
			}
			sealAll(t, p, b)
			recs := contents(t, b)[TopicPartition{Topic: tc.topic}]
			if len(recs) != want || string(recs[0].Value) != "before" || string(recs[want-1].Value) != "after" {
				t.Fatalf("%d records, want %d", len(recs), want)
			}
			for _, c := range b.order[0].chunks {
				if len(c.wire) > 1000 {
					t.Fatalf("a chunk of %d bytes", len(c.wire))
				}
			}
		})
	}
}

// TestAddHeader compares with a batch whose records had the header from the start.
func TestAddHeader(t *testing.T) {
	extra := Header{Key: "split", Value: []byte("1/last")}
	for seed := range uint64(20) {
		r := rand.New(rand.NewPCG(seed, 5))
		p := offline(t, "none", map[string]TopicInfo{"s": {MaxMessageBytes: 2000, CompressionType: "producer"}})
		b := p.NewBatch()
		want := map[TopicPartition][]plain{}
		var m Mark
		at, n := r.IntN(60), 60+r.IntN(60)
		for i := range n {
			if i == at {
				m = b.Mark()
			}
			tp := TopicPartition{Topic: "s", Partition: int32(r.IntN(3))}
			rec := random(r, 200)
			if err := b.Append(tp.Topic, tp.Partition, time.UnixMilli(rec.Time), rec.Key, rec.Value, rec.Headers); err != nil {
				t.Fatal(err)
			}
			if i >= at {
				rec.Headers = append(rec.Headers, extra)
			}
			want[tp] = append(want[tp], rec)
		}
		if err := b.AppendLast("checkpoint", 0, time.UnixMilli(1), []byte("k"), []byte("v"), nil); err != nil {
			t.Fatal(err)
		}
		want[TopicPartition{Topic: "checkpoint"}] = []plain{{Time: 1, Key: []byte("k"), Value: []byte("v")}}
		if err := b.AddHeader(m, extra); err != nil {
			t.Fatal(err)
		}
		sealAll(t, p, b)
		compare(t, contents(t, b), want)
		if b.Records() != n+1 {
			t.Fatalf("seed %d: %d records, want %d", seed, b.Records(), n+1)
		}
		sum := 0
		for _, q := range b.order {
			for _, c := range q.chunks {
				sum += len(c.buf)
			}
		}
		if sum != b.Bytes() {
			t.Fatalf("seed %d: Bytes() = %d, the chunks have %d", seed, b.Bytes(), sum)
		}
		b.Mark()
		if err := b.AddHeader(m, extra); err == nil {
			t.Fatal("an old mark was taken")
		}
	}
}

func TestSequenceWraps(t *testing.T) {
	if got := nextSequence(1<<31-1, 1); got != 0 {
		t.Errorf("after the highest sequence comes %d, want 0", got)
	}
	if got := nextSequence(1<<31-10, 15); got != 5 {
		t.Errorf("got %d, want 5", got)
	}
}

// FuzzBatch appends what the input says and reads it back.
func FuzzBatch(f *testing.F) {
	f.Add([]byte("\x01abc\x05\x00\x02"), uint8(3))
	f.Add(bytes.Repeat([]byte{7, 0, 200, 9}, 50), uint8(0))
	f.Fuzz(func(t *testing.T, in []byte, codec uint8) {
		name := kafka.Compression(codec % 5).String()
		p := offline(t, name, map[string]TopicInfo{"t": {MaxMessageBytes: 1500, CompressionType: "producer"}})
		b := p.NewBatch()
		want := map[TopicPartition][]plain{}
		next := func(n int) []byte {
			n = min(n, len(in))
			s := in[:n]
			in = in[n:]
			return s
		}
		for len(in) > 3 {
			h := next(3)
			rec := plain{Time: int64(int8(h[0])) * 1e10, Key: next(int(h[1])), Value: next(int(h[2]) * 4)}
			if h[0]&1 != 0 {
				rec.Headers = []Header{{Key: string(rec.Key), Value: rec.Value[:len(rec.Value)/2]}}
			}
			tp := TopicPartition{Topic: "t", Partition: int32(h[0] & 3)}
			before := b.Bytes()
			if err := b.Append(tp.Topic, tp.Partition, time.UnixMilli(rec.Time), rec.Key, rec.Value, rec.Headers); err != nil {
				var large *TooLargeError
				if !errors.As(err, &large) || b.Bytes() != before {
					t.Fatal(err)
				}
				continue
			}
			want[tp] = append(want[tp], rec)
		}
		sealAll(t, p, b)
		compare(t, contents(t, b), want)
	})
}

func benchRecord() (key, value []byte, headers []Header) {
	key, value = []byte("\x00\x00\x00\x00\x01\x00\x01\xe2\x40"), make([]byte, 150)
	for i := range value {
		value[i] = "the quick brown fox jumps over the lazy dog 0123456789"[(i*7+i/11)%54]
	}
	return key, value, []Header{{Key: "id", Value: []byte("7301234567890123456/0/1A2B3C40/0/1A2B3C08/1/0")}}
}

// TestAppendAllocates holds that a record costs no allocation once the batch has its size.
func TestAppendAllocates(t *testing.T) {
	p := offline(t, "lz4", nil)
	b := p.NewBatch()
	key, value, headers := benchRecord()
	topics := []string{"prefix.public.orders", "prefix.public.customers"}
	at := time.UnixMilli(1_700_000_000_000)
	run := func() {
		b.Reset()
		b.Mark()
		for i := range 10_000 {
			if err := b.Append(topics[i&1], int32(i%5), at, key, value, headers); err != nil {
				t.Fatal(err)
			}
		}
		if err := b.AppendLast("checkpoint", 0, at, key, value, nil); err != nil {
			t.Fatal(err)
		}
	}
	run()
	if n := testing.AllocsPerRun(20, run); n > 0 {
		t.Errorf("%v allocations for 10,001 records", n)
	}
}

// TestBatchMemory holds what a batch may take: chunks grow to what they may hold and no further, compressed records stand in the
// place of the plain ones, and a batch that is filled again takes nothing new.
func TestBatchMemory(t *testing.T) {
	p := offline(t, "lz4", nil)
	b := p.NewBatch()
	key, value, headers := benchRecord()
	memory := func() (n int) {
		seen := map[*chunk]bool{}
		for _, q := range b.order {
			for _, c := range q.chunks {
				n += cap(c.buf) + cap(c.shrunk)
				seen[c] = true
			}
		}
		for _, c := range b.free {
			if !seen[c] {
				n += cap(c.buf) + cap(c.shrunk)
			}
		}
		return n
	}
	for round := range 10 {
		for i := 0; !b.Full(); i++ {
			if err := b.Append("t", int32(i%6), time.UnixMilli(int64(i)), key, value, headers); err != nil {
				t.Fatal(err)
			}
		}
		for _, q := range b.order {
			for _, c := range q.chunks {
				if cap(c.buf) > p.cfg.MaxChunkBytes {
					t.Fatalf("a chunk for %d bytes takes %d", p.cfg.MaxChunkBytes, cap(c.buf))
				}
			}
		}
		sealAll(t, p, b)
		if n := memory(); n > 2*b.maxBytes {
			t.Fatalf("round %d: %d bytes for a batch of %d", round, n, b.maxBytes)
		}
		b.Reset()
	}
}

// TestAddHeaderTooLate: packing has put the compressed records in place of the records.
// TestCut holds that what is cut was never there: records that follow are encoded as if they came right behind the mark.
func TestCut(t *testing.T) {
	for seed := range uint64(20) {
		r := rand.New(rand.NewPCG(seed, 6))
		p := offline(t, "none", map[string]TopicInfo{"s": {MaxMessageBytes: 2000, CompressionType: "producer"}})
		b := p.NewBatch()
		want := map[TopicPartition][]plain{}
		n := 0
		fill := func(count int, kept bool) {
			for range count {
				tp := TopicPartition{Topic: "s", Partition: int32(r.IntN(4))}
				rec := random(r, 200)
				if err := b.Append(tp.Topic, tp.Partition, time.UnixMilli(rec.Time), rec.Key, rec.Value, rec.Headers); err != nil {
					t.Fatal(err)
				}
				if kept {
					want[tp] = append(want[tp], rec)
					n++
				}
			}
		}
		fill(r.IntN(60), true)
		old := b.Mark()
		m := b.Mark()
		bytes := b.Bytes()
		for range 2 {
			fill(r.IntN(60), false)
			if err := b.Cut(old); err == nil {
				t.Fatal("cut at a mark that is not the newest")
			}
			if err := b.Cut(m); err != nil {
				t.Fatal(err)
			}
			if b.Records() != n || b.Bytes() != bytes {
				t.Fatalf("seed %d: %d records in %d bytes, want %d in %d", seed, b.Records(), b.Bytes(), n, bytes)
			}
		}
		fill(r.IntN(60), true)
		sealAll(t, p, b)
		compare(t, contents(t, b), want)
	}
}

func TestAddHeaderTooLate(t *testing.T) {
	p := offline(t, "lz4", nil)
	b := p.NewBatch()
	m := b.Mark()
	if err := b.Append("t", 0, time.UnixMilli(0), []byte("k"), bytes.Repeat([]byte("v"), 1000), nil); err != nil {
		t.Fatal(err)
	}
	sealAll(t, p, b)
	want := contents(t, b)
	if err := b.AddHeader(m, Header{Key: "split", Value: []byte("1")}); err == nil {
		t.Error("a header was added to packed records")
	}
	compare(t, contents(t, b), want)
}

func BenchmarkBatchAppend(b *testing.B) {
	for _, spread := range []int{1, 12} {
		b.Run(fmt.Sprintf("partitions=%d", spread), func(b *testing.B) {
			p := offline(b, "lz4", nil)
			batch := p.NewBatch()
			key, value, headers := benchRecord()
			at := time.UnixMilli(1_700_000_000_000)
			b.ReportAllocs()
			b.SetBytes(int64(len(key) + len(value)))
			for i := 0; b.Loop(); i++ {
				if batch.Full() {
					batch.Reset()
				}
				if err := batch.Append("prefix.public.orders", int32(i%spread), at, key, value, headers); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

// BenchmarkBatchSeal compresses and checksums a batch of 20,000 records, per record.
func BenchmarkBatchSeal(b *testing.B) {
	for _, codec := range []string{"none", "lz4", "snappy", "zstd", "gzip"} {
		b.Run(codec, func(b *testing.B) {
			p := offline(b, codec, nil)
			batch := p.NewBatch()
			key, value, headers := benchRecord()
			for i := range 20_000 {
				binary.BigEndian.PutUint32(key[5:], uint32(i))
				copy(value[20:], fmt.Sprint(i*7919))
				if err := batch.Append("t", int32(i%4), time.UnixMilli(int64(i)), key, value, headers); err != nil {
					b.Fatal(err)
				}
			}
			var plain [][]byte
			for _, q := range batch.order {
				for _, c := range q.chunks {
					plain = append(plain, bytes.Clone(c.buf))
				}
			}
			b.ReportAllocs()
			for b.Loop() {
				b.StopTimer() // packing has put the compressed records in place of these
				i := 0
				for _, q := range batch.order {
					for _, c := range q.chunks {
						c.buf, c.wire, c.codec = append(c.buf[:0], plain[i]...), nil, kafka.None
						i++
					}
				}
				b.StartTimer()
				sealAll(b, p, batch)
			}
			b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N)/20_000, "ns/record")
		})
	}
}
