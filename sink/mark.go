package sink

import (
	"encoding/binary"
	"errors"
	"slices"

	"walferry/internal/kafka"
)

// Mark is a place between two records of a batch. It is good until the next Mark or Reset of that batch.
type Mark struct{ n uint64 }

// position is where a partition's records stood when its first record after the newest mark came.
type position struct {
	mark    uint64 // of which this is; 0 for none
	chunks  int
	size    int   // of the last chunk's buf
	count   int32 // of its records
	maxTime int64
}

// Mark notes the place behind the records that there are. It costs nothing for records that follow.
func (b *Batch) Mark() Mark {
	b.mark++
	return Mark{b.mark}
}

// note remembers where p stands, before its first record after a mark.
func (b *Batch) note(p *part) {
	if p.since.mark == b.mark {
		return
	}
	p.since = position{mark: b.mark, chunks: len(p.chunks)}
	if n := len(p.chunks); n > 0 {
		c := p.chunks[n-1]
		p.since.size, p.since.count, p.since.maxTime = len(c.buf), c.count, c.maxTime
	}
}

// AddHeader adds a header, as the last, to every record appended since the newest mark, m. What a transaction turns out to
// be only at its end (split, say) can so stand in records that are already encoded; it costs encoding these again. Not for
// the partitions of AppendLast, whose records belong to no transaction.
//
// It comes before the first Publish. A record that is too large with its new header is a *TooLargeError; after any error the batch is good for Reset only.
func (b *Batch) AddHeader(m Mark, h Header) error {
	if m.n == 0 || m.n != b.mark {
		return errors.New("sink: the mark is not the batch's newest")
	}
	for i := 0; i < len(b.order); i++ { // by index: append does not add to order here, as long as every part keeps a place
		p := b.order[i]
		if p.since.mark != b.mark || p.last {
			continue
		}
		if err := b.addHeader(p, h); err != nil {
			return err
		}
	}
	return nil
}

// Cut takes every record appended since the newest mark, m, away again, but for those of AppendLast. It comes before the
// first Publish.
func (b *Batch) Cut(m Mark) error {
	if m.n == 0 || m.n != b.mark {
		return errors.New("sink: the mark is not the batch's newest")
	}
	for _, p := range b.order {
		s := p.since
		if s.mark != b.mark || p.last {
			continue
		}
		for i, c := range p.chunks[s.chunks:] {
			p.chunks[s.chunks+i] = nil
			b.bytes -= len(c.buf)
			b.records -= int(c.count)
			c.reset()
			b.free = append(b.free, c)
		}
		p.chunks, p.since = p.chunks[:s.chunks], position{}
		if s.chunks == 0 {
			continue
		}
		if c := p.chunks[s.chunks-1]; len(c.buf) > s.size {
			if c.packed() {
				return errors.New("sink: the batch has been published already")
			}
			b.bytes -= len(c.buf) - s.size
			b.records -= int(c.count - s.count)
			c.buf, c.count, c.maxTime = c.buf[:s.size], s.count, s.maxTime
		}
	}
	b.order = slices.DeleteFunc(b.order, func(p *part) bool { return len(p.chunks) == 0 })
	b.current = nil
	return nil
}

func (b *Batch) addHeader(p *part, h Header) error {
	for _, c := range p.chunks[max(p.since.chunks-1, 0):] {
		if c.packed() {
			return errors.New("sink: the batch has been published already")
		}
	}
	// Take the records since the mark off the part, then append each again.
	s := p.since
	var first, taken []*chunk
	if s.chunks > 0 {
		first = p.chunks[s.chunks-1 : s.chunks]
	}
	taken = append(taken, p.chunks[s.chunks:]...)
	p.chunks = p.chunks[:s.chunks]
	for _, c := range taken {
		b.bytes -= len(c.buf)
		b.records -= int(c.count)
	}
	var tail []byte
	var baseTime int64
	if len(first) > 0 && len(first[0].buf) > s.size {
		c := first[0]
		tail, baseTime = append(tail, c.buf[s.size:]...), c.baseTime
		b.bytes -= len(tail)
		b.records -= int(c.count - s.count)
		c.buf, c.count, c.maxTime = c.buf[:s.size], s.count, s.maxTime
	}
	listed := len(p.chunks) > 0 // in order; begin lists a part whose chunks begin
	var headers []Header
	again := func(records []byte, baseTime int64) error {
		for len(records) > 0 {
			var r record
			r, headers, records = splitRecord(records, headers[:0])
			headers = append(headers, h)
			if err := b.appendListed(p, listed, baseTime+r.delta, r.key, r.value, headers); err != nil {
				return err
			}
			listed = true
		}
		return nil
	}
	if err := again(tail, baseTime); err != nil {
		return err
	}
	for _, c := range taken {
		if err := again(c.buf[kafka.BatchHeaderLen:], c.baseTime); err != nil {
			return err
		}
		c.reset()
		b.free = append(b.free, c)
	}
	return nil
}

// appendListed is append for a part that stands in order already although it may have no chunk at this moment.
func (b *Batch) appendListed(p *part, listed bool, ts int64, key, value []byte, headers []Header) error {
	n := len(b.order)
	err := b.append(p, ts, key, value, headers)
	if !listed && len(b.order) > n {
		b.order = b.order[:n]
	}
	return err
}

// record is one of our own records, decoded again.
type record struct {
	delta      int64
	key, value []byte
}

// splitRecord decodes the first of some records that chunk.append wrote, and returns the rest. Everything aliases b.
func splitRecord(b []byte, headers []Header) (record, []Header, []byte) {
	size, n := binary.Varint(b)
	b, rest := b[n:n+int(size)], b[n+int(size):]
	var r record
	b = b[1:] // attributes
	r.delta, n = binary.Varint(b)
	b = b[n:]
	_, n = binary.Varint(b) // offset delta
	b = b[n:]
	r.key, b = splitBytes(b)
	r.value, b = splitBytes(b)
	count, n := binary.Varint(b)
	b = b[n:]
	for range count {
		var key, value []byte
		key, b = splitBytes(b)
		value, b = splitBytes(b)
		headers = append(headers, Header{Key: string(key), Value: value})
	}
	return r, headers, rest
}

func splitBytes(b []byte) (field, rest []byte) {
	size, n := binary.Varint(b)
	if size < 0 {
		return nil, b[n:]
	}
	return b[n : n+int(size) : n+int(size)], b[n+int(size):]
}
