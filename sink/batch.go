package sink

import (
	"encoding/binary"
	"fmt"
	"hash/crc32"
	"math/bits"
	"time"

	"walferry/internal/kafka"
)

// A Batch is what one Kafka transaction publishes. Records are encoded as they are appended, into one or more chunks for
// each partition; a chunk becomes one of Kafka's record batches. The order of Append is the order within a partition.
//
// A Batch belongs to one goroutine at a time. Publish reads it and keeps nothing of it; its records stay until Reset, so it
// can be published again, without encoding or compressing again.
type Batch struct {
	limits   func(topic string) topicLimit
	maxChunk int
	maxBytes int
	shrink   *kafka.Compressor // of records larger than their topic's limit, to see what becomes of them

	parts   map[TopicPartition]*part // every partition since they were last forgotten; most are used again
	order   []*part                  // those with records, in order of their first
	current *part                    // of the last Append: most records follow one of their own partition
	free    []*chunk
	bytes   int
	records int
	mark    uint64 // the newest Mark
}

// part is one partition's share of a batch.
type part struct {
	tp     TopicPartition
	last   bool // sent last in its leader's request
	limit  topicLimit
	chunks []*chunk
	since  position // of the newest mark
}

// topicLimit is what decides the size of a chunk.
type topicLimit struct {
	maxMessageBytes int  // of a record batch as it is stored
	asStored        bool // the broker compresses again, or not at all, so what counts is the size before our compression
}

// chunk is one record batch (magic 2). The records stand straight behind room for the header.
type chunk struct {
	buf      []byte // header and records; once packed, header and compressed records
	shrunk   []byte // header and compressed records of one that is too large otherwise; mostly nil
	wire     []byte // what is sent, once it has been compressed; nil before
	codec    kafka.Compression
	count    int32
	baseTime int64 // ms, of the first record
	maxTime  int64
}

const attrTransactional = 1 << 4

func (c *chunk) reset() {
	if cap(c.buf) < kafka.BatchHeaderLen {
		c.buf = make([]byte, 0, 4<<10)
	}
	c.buf = c.buf[:kafka.BatchHeaderLen]
	c.wire, c.shrunk, c.count, c.codec = nil, nil, 0, kafka.None
}

// Append adds a record. A nil key or value is null (a null value is a tombstone), an empty one is not. ts is kept in
// milliseconds. Everything is copied: key, value and headers are the caller's again when it returns. It allocates nothing
// once the batch has grown to its usual size.
//
// A record that its topic does not take is a *TooLargeError, and the batch is as it was.
func (b *Batch) Append(topic string, partition int32, ts time.Time, key, value []byte, headers []Header) error {
	p := b.current
	if p == nil || p.tp.Partition != partition || p.tp.Topic != topic {
		p = b.part(TopicPartition{Topic: topic, Partition: partition})
		b.current = p
	}
	return b.append(p, ts.UnixMilli(), key, value, headers)
}

// AppendLast is Append for a partition whose records are sent in the last round and, there, last in its leader's request:
// the checkpoint's. It holds for all the batch's records of that partition.
func (b *Batch) AppendLast(topic string, partition int32, ts time.Time, key, value []byte, headers []Header) error {
	p := b.part(TopicPartition{Topic: topic, Partition: partition})
	if err := b.append(p, ts.UnixMilli(), key, value, headers); err != nil {
		return err
	}
	p.last = true
	return nil
}

// part finds or makes a partition's share.
func (b *Batch) part(tp TopicPartition) *part {
	p := b.parts[tp]
	if p == nil {
		p = &part{tp: tp}
		b.parts[tp] = p
	}
	if len(p.chunks) == 0 {
		p.limit = b.limits(tp.Topic)
	}
	return p
}

func (b *Batch) append(p *part, ts int64, key, value []byte, headers []Header) error {
	b.note(p)
	fixed := 1 + lenBytes(key) + lenBytes(value) + lenHeaders(headers) // what does not depend on the place in the chunk
	var c *chunk
	if n := len(p.chunks); n > 0 {
		c = p.chunks[n-1]
		size := fixed + varintLen(ts-c.baseTime) + varintLen(int64(c.count))
		if len(c.buf)+varintLen(int64(size))+size > min(b.maxChunk, p.limit.maxMessageBytes) || c.wire != nil {
			c = nil
		}
	}
	if c == nil {
		if _, err := b.begin(p, fixed, ts, key, value, headers); err != nil {
			return err
		}
	} else {
		before := len(c.buf)
		c.append(b.maxChunk, ts, key, value, headers)
		b.bytes += len(c.buf) - before
	}
	b.records++
	return nil
}

// begin opens a chunk with one record.
func (b *Batch) begin(p *part, fixed int, ts int64, key, value []byte, headers []Header) (*chunk, error) {
	size := fixed + 2 // both deltas are 0
	whole := kafka.BatchHeaderLen + varintLen(int64(size)) + size
	oversize := whole > p.limit.maxMessageBytes
	if oversize && (p.limit.asStored || b.shrink.Codec() == kafka.None || whole > maxOversize) {
		return nil, &TooLargeError{Topic: p.tp.Topic, Bytes: whole, Limit: p.limit.maxMessageBytes}
	}
	c := b.chunk()
	c.append(b.maxChunk, ts, key, value, headers)
	if oversize {
		// The limit is on what is stored: a large value that compresses well is taken.
		if err := c.tryCompress(b.shrink); err != nil || len(c.wire) > p.limit.maxMessageBytes {
			tooLarge := &TooLargeError{Topic: p.tp.Topic, Bytes: len(c.wire), Limit: p.limit.maxMessageBytes}
			c.reset()
			b.free = append(b.free, c)
			if err != nil {
				return nil, err
			}
			return nil, tooLarge
		}
	}
	if len(p.chunks) == 0 {
		b.order = append(b.order, p)
	}
	p.chunks = append(p.chunks, c)
	b.bytes += len(c.buf)
	return c, nil
}

// maxOversize bounds what is compressed just to see whether it fits: Postgres has no value above 1 GiB, and sizes on the
// wire are int32.
const maxOversize = 1<<30 + 64<<20

func (b *Batch) chunk() *chunk {
	n := len(b.free)
	if n == 0 {
		c := &chunk{}
		c.reset()
		return c
	}
	c := b.free[n-1]
	b.free[n-1] = nil
	b.free = b.free[:n-1]
	return c
}

// Bytes returns the size of what has been appended, before compression.
func (b *Batch) Bytes() int { return b.bytes }

// Records returns how many records have been appended.
func (b *Batch) Records() int { return b.records }

// Full tells whether the batch has reached Config.MaxBatchBytes.
func (b *Batch) Full() bool { return b.bytes >= b.maxBytes }

// Reset empties the batch and keeps its memory, up to about twice Config.MaxBatchBytes.
func (b *Batch) Reset() {
	kept := 0
	for _, c := range b.free {
		kept += cap(c.buf)
	}
	for _, p := range b.order {
		for i, c := range p.chunks {
			p.chunks[i] = nil
			c.reset()
			// The memory of one very large record is not kept for ever.
			if kept+cap(c.buf) <= 2*b.maxBytes {
				kept += cap(c.buf)
				b.free = append(b.free, c)
			}
		}
		p.chunks, p.last, p.since = p.chunks[:0], false, position{}
	}
	clear(b.order)
	b.order, b.current = b.order[:0], nil
	b.bytes, b.records = 0, 0
	b.mark++ // an older mark means nothing any more
	if len(b.parts) > maxKeptParts {
		clear(b.parts)
	}
}

// maxKeptParts bounds the memory of partitions that are used no more.
const maxKeptParts = 16 << 10

// append encodes one record, https://kafka.apache.org/documentation/#record. full is the size up to which the chunk may grow
// ahead of its records.
func (c *chunk) append(full int, ts int64, key, value []byte, headers []Header) {
	if c.count == 0 {
		c.baseTime, c.maxTime = ts, ts
	} else if ts > c.maxTime {
		c.maxTime = ts
	}
	dt, do := ts-c.baseTime, int64(c.count)
	size := 1 + varintLen(dt) + varintLen(do) + lenBytes(key) + lenBytes(value) + lenHeaders(headers)
	c.room(varintLen(int64(size))+size, full)
	p := binary.AppendVarint(c.buf, int64(size))
	p = append(p, 0) // attributes, unused
	p = binary.AppendVarint(p, dt)
	p = binary.AppendVarint(p, do)
	p = appendBytes(p, key)
	p = appendBytes(p, value)
	p = binary.AppendVarint(p, int64(len(headers)))
	for i := range headers {
		h := &headers[i]
		p = binary.AppendVarint(p, int64(len(h.Key)))
		p = append(p, h.Key...)
		p = appendBytes(p, h.Value)
	}
	c.buf = p
	c.count++
}

func appendBytes(dst, b []byte) []byte {
	if b == nil {
		return append(dst, 1) // the varint of -1
	}
	dst = binary.AppendVarint(dst, int64(len(b)))
	return append(dst, b...)
}

func varintLen(v int64) int { return (bits.Len64(uint64(v<<1)^uint64(v>>63)|1) + 6) / 7 }

func lenBytes(b []byte) int {
	if b == nil {
		return 1
	}
	return varintLen(int64(len(b))) + len(b)
}

func lenHeaders(headers []Header) int {
	n := varintLen(int64(len(headers)))
	for i := range headers {
		n += varintLen(int64(len(headers[i].Key))) + len(headers[i].Key) + lenBytes(headers[i].Value)
	}
	return n
}

// room makes place for n more bytes. It doubles as append does for small slices, but never beyond what the chunk may come to
// hold: a batch is dozens of chunks, and half of each for nothing would be more than its records.
func (c *chunk) room(n, full int) {
	if cap(c.buf)-len(c.buf) >= n {
		return
	}
	bigger := make([]byte, len(c.buf), max(min(2*cap(c.buf), full), len(c.buf)+n))
	copy(bigger, c.buf)
	c.buf = bigger
}

// tryCompress makes wire of a chunk whose records stay readable, because it may still be refused or get a header.
func (c *chunk) tryCompress(x *kafka.Compressor) error {
	packed, err := x.AppendCompressed(make([]byte, kafka.BatchHeaderLen, kafka.BatchHeaderLen+len(c.buf)/2), c.buf[kafka.BatchHeaderLen:])
	if err != nil {
		return fmt.Errorf("compress with %s: %w", x.Codec(), err)
	}
	c.wire = c.buf
	if len(packed) < len(c.buf) {
		c.shrunk = packed
		c.wire, c.codec = packed, x.Codec()
	}
	return nil
}

// pack makes wire, once, by way of scratch, which comes back for the next chunk. The compressed records take the place of the
// records, so that a batch needs no memory for both; whoever wants the records afterwards (AddHeader) is refused. Records
// that do not shrink are sent as they are.
func (c *chunk) pack(x *kafka.Compressor, scratch []byte) ([]byte, error) {
	if c.wire != nil {
		return scratch, nil
	}
	if x.Codec() != kafka.None {
		if n := len(c.buf); n > 2*cap(scratch) {
			scratch = make([]byte, 0, n+n/256) // growing step by step would hold a large record two or three times
		}
		var err error
		if scratch, err = x.AppendCompressed(scratch[:0], c.buf[kafka.BatchHeaderLen:]); err != nil {
			return scratch, fmt.Errorf("compress with %s: %w", x.Codec(), err)
		}
		if kafka.BatchHeaderLen+len(scratch) < len(c.buf) {
			c.buf = append(c.buf[:kafka.BatchHeaderLen], scratch...)
			c.codec = x.Codec()
		}
	}
	c.wire = c.buf
	return scratch, nil
}

// packed says that the records cannot be read any more.
func (c *chunk) packed() bool { return c.wire != nil && c.shrunk == nil && c.codec != kafka.None }

// seal writes the header for a producer's id, epoch and sequence, and the checksum. It may be called again with others.
func (c *chunk) seal(id int64, epoch int16, sequence int32) {
	be, h := binary.BigEndian, c.wire
	be.PutUint64(h[0:], 0) // base offset: the broker's to fill in
	be.PutUint32(h[8:], uint32(len(h)-12))
	be.PutUint32(h[12:], ^uint32(0)) // leader epoch: the broker's to fill in
	h[16] = 2
	be.PutUint16(h[21:], uint16(attrTransactional|int16(c.codec)))
	be.PutUint32(h[23:], uint32(c.count-1))
	be.PutUint64(h[27:], uint64(c.baseTime))
	be.PutUint64(h[35:], uint64(c.maxTime))
	be.PutUint64(h[43:], uint64(id))
	be.PutUint16(h[51:], uint16(epoch))
	be.PutUint32(h[53:], uint32(sequence))
	be.PutUint32(h[57:], uint32(c.count))
	be.PutUint32(h[17:], crc32.Checksum(h[21:], kafka.Castagnoli))
}
