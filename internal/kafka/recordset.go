package kafka

import (
	"encoding/binary"
	"fmt"
	"hash/crc32"
	"time"
)

// Castagnoli is the table of the checksum of record batches, CRC-32C.
var Castagnoli = crc32.MakeTable(crc32.Castagnoli)

// BatchHeaderLen is the length of a record batch's header, base offset and length included:
//
//	 0 base offset          int64
//	 8 length               int32  of everything behind it
//	12 leader epoch         int32  the broker's, outside the checksum
//	16 magic                int8   2
//	17 crc                  uint32 CRC-32C of everything behind it
//	21 attributes           int16  0–2 codec, 3 log append time, 4 transactional, 5 control, 6 delete horizon
//	23 last offset delta    int32  of the last record that the batch was written with, which compaction may have removed
//	27 base timestamp       int64  ms
//	35 max timestamp        int64  ms
//	43 producer id          int64
//	51 producer epoch       int16
//	53 base sequence        int32
//	57 records              int32
//	61 records, compressed as one
const BatchHeaderLen = 61

const (
	attrCodec         = 7
	attrAppendTime    = 1 << 3
	attrTransactional = 1 << 4
	attrControl       = 1 << 5
)

// recordBatch is one parsed header with its records still encoded.
type recordBatch struct {
	base, next    int64 // offsets: the first that it was written with, and the first behind it
	attributes    int16
	baseTime      int64
	maxTime       int64
	producerID    int64
	epoch         int16
	sequence      int32
	count         int32
	data          []byte // aliases the record set
	transactional bool
	control       bool
}

// nextBatch reads the first batch of a record set and returns the rest. A nil batch with no error is the end, or a last
// batch that the broker cut off at the size of the answer.
func nextBatch(set []byte) (*recordBatch, []byte, error) {
	if len(set) < 12 {
		return nil, nil, nil
	}
	base := int64(binary.BigEndian.Uint64(set))
	length := int32(binary.BigEndian.Uint32(set[8:]))
	if length < 0 {
		return nil, nil, fmt.Errorf("%w: a record batch of %d bytes at offset %d", ErrMalformed, length, base)
	}
	if int64(length) > int64(len(set)-12) {
		return nil, nil, nil
	}
	whole, rest := set[:12+length:12+length], set[12+length:]
	if len(whole) < 17 {
		return nil, nil, fmt.Errorf("%w: a record batch of %d bytes at offset %d", ErrMalformed, length, base)
	}
	if magic := int8(whole[16]); magic != 2 {
		return nil, nil, fmt.Errorf("%w: record format %d at offset %d, only 2 is understood", ErrMalformed, magic, base)
	}
	if len(whole) < BatchHeaderLen {
		return nil, nil, fmt.Errorf("%w: a record batch of %d bytes at offset %d", ErrMalformed, length, base)
	}
	if want, have := binary.BigEndian.Uint32(whole[17:]), crc32.Checksum(whole[21:], Castagnoli); want != have {
		return nil, nil, fmt.Errorf("%w: checksum of the record batch at offset %d is %08x, its header says %08x", ErrMalformed, base, have, want)
	}
	c := cursor{b: whole[21:]}
	b := &recordBatch{base: base, attributes: c.int16()}
	last := c.int32()
	b.baseTime, b.maxTime = c.int64(), c.int64()
	b.producerID, b.epoch, b.sequence, b.count = c.int64(), c.int16(), c.int32(), c.int32()
	b.data = c.b
	b.transactional = b.attributes&attrTransactional != 0
	b.control = b.attributes&attrControl != 0
	b.next = base + int64(last) + 1
	if base < 0 || last < 0 || b.next <= base || b.count < 0 || int64(b.count) > int64(last)+1 {
		return nil, nil, fmt.Errorf("%w: the record batch at offset %d has %d records up to %d further", ErrMalformed, base, b.count, last)
	}
	return b, rest, nil
}

// records decodes the records at or behind offset from. Keys and values alias the record set, or memory of their own where
// it was compressed: either way they stay good.
func (b *recordBatch) records(topic string, partition int32, from int64) ([]Record, error) {
	if b.count == 0 {
		return nil, nil
	}
	data, err := decompress(Compression(b.attributes&attrCodec), b.data)
	if err != nil {
		return nil, fmt.Errorf("%w: record batch at offset %d: %w", ErrMalformed, b.base, err)
	}
	c := cursor{b: data}
	// A record has at least seven bytes, so the count cannot ask for more memory than the bytes stand for.
	if int64(b.count) > int64(len(data)/7) {
		return nil, fmt.Errorf("%w: record batch at offset %d: %d records in %d bytes", ErrMalformed, b.base, b.count, len(data))
	}
	out := make([]Record, 0, b.count)
	for range b.count {
		r := cursor{b: c.varbytes()}
		r.int8() // attributes, unused
		when, delta := r.varint(), r.varint()
		rec := Record{Topic: topic, Partition: partition, Offset: b.base + delta, ProducerID: b.producerID, Epoch: b.epoch}
		if b.attributes&attrAppendTime != 0 {
			rec.Time = time.UnixMilli(b.maxTime)
		} else {
			rec.Time = time.UnixMilli(b.baseTime + when)
		}
		rec.Key, rec.Value = r.varbytes(), r.varbytes()
		n := r.varint()
		if n < 0 || n > int64(len(r.b)/2) {
			r.bad = true
			n = 0
		}
		if n > 0 {
			rec.Headers = make([]Header, 0, n)
			for range n {
				key := r.varbytes()
				rec.Headers = append(rec.Headers, Header{Key: string(key), Value: r.varbytes()})
			}
		}
		if c.bad || r.bad || delta < 0 || rec.Offset >= b.next || rec.Offset < b.base {
			return nil, fmt.Errorf("%w: record %d of the batch at offset %d", ErrMalformed, len(out), b.base)
		}
		if rec.Offset >= from {
			out = append(out, rec)
		}
	}
	return out, nil
}

// committed tells what a control batch decides: true for COMMIT, false for ABORT. ok is false for control batches that
// decide nothing (a later kind).
func (b *recordBatch) committed() (commit, ok bool, err error) {
	if b.count == 0 {
		return false, false, nil
	}
	recs, err := b.records("", 0, 0)
	if err != nil {
		return false, false, err
	}
	// The key is version and type; https://kafka.apache.org/documentation/#controlbatch.
	if len(recs) == 0 || len(recs[0].Key) < 4 {
		return false, false, fmt.Errorf("%w: control batch at offset %d without a type", ErrMalformed, b.base)
	}
	switch binary.BigEndian.Uint16(recs[0].Key[2:]) {
	case 0:
		return false, true, nil
	case 1:
		return true, true, nil
	}
	return false, false, nil
}
