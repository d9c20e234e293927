package pipeline

import (
	"bytes"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"hash"
	"hash/fnv"
	"maps"
	"slices"
	"strconv"
	"time"

	"github.com/jackc/pglogrepl"

	"walferry/decode"
	"walferry/schema"
	"walferry/sink"
)

// builder turns the decoded changes of whole or split transactions into the records of the batch being built. It does
// no I/O and knows no clock but now: what it needs of a table (encoders, topic, partitions) the caller has resolved.
//
// It runs on the one goroutine that decodes, so the order of the records is the order of the calls.
type builder struct {
	systemID string
	envelope string
	truncate string // "publish" or "skip"
	now      func() time.Time

	batch *sink.Batch

	sequence  pglogrepl.LSN // commit LSN of the whole transaction before
	tx        decode.Transaction
	events    int64     // events of the transaction so far, published ones and dropped ones alike: transaction.total_order
	part      int       // 0 while the transaction is whole, else the part being built, from 1
	txRecords int       // records of this transaction in batch
	txMark    sink.Mark // where they begin
	context   []sink.Header

	key, oldKey, newKey, value []byte
	id, text                   []byte
	unchanged                  []string
	refetched                  []byte // header of the change's new row, nil for none; see loop.refetch
	headers                    []sink.Header
	meta                       schema.Meta
	reads                      schema.Meta // of the rows of a first copy that are placed here

	hash hash.Hash // of keys
	sum  []byte

	truncates int64 // skipped by policy since the last seal
}

// contextPrefix is the prefix of the logical messages that carry an application's correlation values.
const contextPrefix = "walferry.context"

func (b *builder) begin(t decode.Transaction, part int) {
	b.tx, b.part, b.events = t, part, 0
	b.beginPart()
	b.context = b.context[:0]
	b.meta.XID, b.meta.Commit, b.meta.CommitTime = t.XID, t.Commit, t.CommitTime
}

// beginPart notes that what is appended from here on belongs to the next part of the open transaction.
func (b *builder) beginPart() {
	b.txRecords, b.txMark = 0, b.batch.Mark()
}

// abandon takes the records of the open transaction out of the batch again.
func (b *builder) abandon() error {
	b.txRecords = 0
	return b.batch.Cut(b.txMark)
}

// end closes the transaction. When it was split, the records of its last part say so.
func (b *builder) end() error {
	b.sequence = b.tx.Commit
	if b.part == 0 {
		return nil
	}
	return b.markSplit(true)
}

// cut ends a part inside a transaction: its records say which part they are.
func (b *builder) cut() error {
	if b.part == 0 {
		b.part = 1
	}
	if err := b.markSplit(false); err != nil {
		return err
	}
	b.part++
	return nil
}

func (b *builder) markSplit(last bool) error {
	if b.txRecords == 0 {
		return nil
	}
	v := strconv.AppendInt(nil, int64(b.part), 10)
	if last {
		v = append(v, "/last"...)
	}
	if err := b.batch.AddHeader(b.txMark, sink.Header{Key: "split", Value: v}); err != nil {
		return fmt.Errorf("mark part %d of transaction %d as split: %w", b.part, b.tx.XID, err)
	}
	return nil
}

// appendID writes the unique id of a record: system id, commit LSN, change LSN, n, part.
func (b *builder) appendID(p decode.Position, part int) []byte {
	d := append(b.id[:0], b.systemID...)
	d = append(d, '/')
	d = appendLSN(d, p.Commit)
	d = append(d, '/')
	d = appendLSN(d, p.Change)
	d = append(d, '/')
	d = strconv.AppendUint(d, uint64(p.N), 10)
	d = append(d, '/')
	d = strconv.AppendInt(d, int64(part), 10)
	b.id = d
	return d
}

// appendLSN is LSN.String without its allocation.
func appendLSN(d []byte, l pglogrepl.LSN) []byte {
	const digits = "0123456789ABCDEF"
	hex := func(d []byte, v uint32) []byte {
		shift := 28
		for shift > 0 && v>>shift == 0 {
			shift -= 4
		}
		for ; shift >= 0; shift -= 4 {
			d = append(d, digits[v>>shift&15])
		}
		return d
	}
	d = hex(d, uint32(l>>32))
	d = append(d, '/')
	return hex(d, uint32(l))
}

// change appends the records of one row. With drop it appends none and only counts, which keeps the order numbers of
// a replayed transaction the same. After a *schema.ValueError all is as before, so that it can be called again.
func (b *builder) change(t *table, c *decode.Change, drop bool) error {
	all, tables, tx := b.events, t.events, t.tx
	err := b.apply(t, c, drop)
	if err != nil {
		b.events, t.events, t.tx = all, tables, tx
	}
	return err
}

func (b *builder) apply(t *table, c *decode.Change, drop bool) error {
	switch c.Op {
	case decode.Insert:
		return b.event(t, c, 'c', drop)
	case decode.Delete:
		return b.remove(t, c, drop, nil)
	case decode.Update:
		if t.keyless || c.OldKind == decode.OldNone {
			return b.event(t, c, 'u', drop)
		}
		var err error
		if b.oldKey, err = t.enc.AppendKey(b.oldKey[:0], c, true); err != nil {
			return err
		}
		if b.key, err = t.enc.AppendKey(b.key[:0], c, false); err != nil {
			return err
		}
		if bytes.Equal(b.oldKey, b.key) {
			return b.event(t, c, 'u', drop)
		}
		return b.move(t, c, drop)
	case decode.Read:
		return errors.New("a read row came on the stream")
	}
	return fmt.Errorf("unknown operation %s", c.Op)
}

// count gives the event its numbers in the transaction.
func (b *builder) count(t *table, c decode.Position, ordinal uint64) {
	if t.tx != b.tx.Commit {
		t.tx, t.events = b.tx.Commit, 0
	}
	b.events++
	t.events++
	m := &b.meta
	m.Change, m.Ordinal = c.Change, int64(ordinal)
	m.Sequence = [2]pglogrepl.LSN{b.sequence, c.Change}
	m.TotalOrder, m.CollectionOrder = b.events, t.events
	m.Now = b.now()
}

// event appends the one record of an insert or of an update that kept its key.
func (b *builder) event(t *table, c *decode.Change, op byte, drop bool) error {
	b.count(t, c.Position, c.Ordinal)
	if drop {
		return nil
	}
	return b.record(t, c, op, false, 0, nil)
}

// move appends what a changed key becomes: delete of the old, its tombstone, create of the new. b.key and b.oldKey hold
// the two keys: record writes every record's own key into b.key, so the new one moves aside, and leaves b.oldKey alone.
func (b *builder) move(t *table, c *decode.Change, drop bool) error {
	b.newKey = append(b.newKey[:0], b.key...)
	if !drop {
		// The second record must not fail when the first is there.
		var err error
		if b.value, err = t.enc.AppendValue(b.value[:0], c, 'c', &b.meta); err != nil {
			return err
		}
	}
	if err := b.remove(t, c, drop, b.newKey); err != nil {
		return err
	}
	b.count(t, c.Position, c.Ordinal)
	if drop {
		return nil
	}
	return b.record(t, c, 'c', false, 2, &sink.Header{Key: schema.HeaderOldKey, Value: b.oldKey})
}

// remove appends a delete and its tombstone. newKey is set where the row lives on under another key.
func (b *builder) remove(t *table, c *decode.Change, drop bool, newKey []byte) error {
	b.count(t, c.Position, c.Ordinal)
	if drop {
		return nil
	}
	var link *sink.Header
	if newKey != nil {
		link = &sink.Header{Key: schema.HeaderNewKey, Value: newKey}
	}
	if b.envelope == schema.EnvelopeRow {
		// The tombstone is the delete; a keyless table has none and its delete is a record without a value.
		return b.record(t, c, 'd', true, 0, link)
	}
	if err := b.record(t, c, 'd', false, 0, link); err != nil {
		return err
	}
	if t.keyless {
		return nil
	}
	return b.record(t, c, 'd', true, 1, link)
}

// record appends one record. A tombstone has the key and no value.
func (b *builder) record(t *table, c *decode.Change, op byte, tombstone bool, part int, link *sink.Header) error {
	old := op == 'd'
	var err error
	var key []byte
	if !t.keyless {
		if b.key, err = t.enc.AppendKey(b.key[:0], c, old); err != nil {
			return err
		}
		key = b.key
	}
	var value []byte
	if !tombstone {
		if b.value, err = t.enc.AppendValue(b.value[:0], c, op, &b.meta); err != nil {
			return err
		}
		value = b.value
	}
	h := append(b.headers[:0], sink.Header{Key: "id", Value: b.appendID(c.Position, part)})
	if old {
		h = append(h, sink.Header{Key: "identity", Value: identityHeader(c.Relation.Identity)})
	}
	if link != nil {
		h = append(h, *link)
	}
	if b.refetched != nil && !old {
		h = append(h, sink.Header{Key: schema.HeaderRefetched, Value: b.refetched})
	}
	if b.envelope == schema.EnvelopeRow {
		h = b.rowHeaders(h, t, c, op, &b.meta)
	}
	h = append(h, b.context...)
	b.headers = h
	partition := t.partition(key, b.tx.Commit)
	if err := b.batch.Append(t.topic, partition, b.tx.CommitTime, key, value, h); err != nil {
		return err
	}
	if cap(b.value) > largeRow {
		b.value = nil
	}
	b.txRecords++
	return nil
}

// beginRead notes the boundary, behind the newest whole transaction, at which rows of a first copy are placed until it is called again.
// read is when they were read.
func (b *builder) beginRead(at decode.Position, read time.Time) {
	b.reads = schema.Meta{
		Commit: at.Commit, Change: at.Change, CommitTime: read, Now: b.now(), Sequence: [2]pglogrepl.LSN{b.sequence, at.Change},
	}
}

// read appends a row of a first copy: a state of the row at the boundary that beginRead was told. number is the row's in the copy, from
// 1. One that was asked for by its key may have been read before under that key, and has its place in its id.
func (b *builder) read(t *table, c *decode.Change, generation uint32, number int64, marker string, asked bool) error {
	m := &b.reads
	m.Snapshot = marker
	var err error
	var key []byte
	if !t.keyless {
		if b.key, err = t.enc.AppendKey(b.key[:0], c, false); err != nil {
			return err
		}
		key = b.key
	}
	if b.value, err = t.enc.AppendValue(b.value[:0], c, 'r', m); err != nil {
		return err
	}
	id := b.appendReadID(c.Relation.ID, generation, number, key)
	if asked {
		id = appendLSN(append(id, '/'), m.Commit)
		b.id = id
	}
	h := append(b.headers[:0], sink.Header{Key: schema.HeaderID, Value: id})
	if b.envelope == schema.EnvelopeRow {
		h = b.rowHeaders(h, t, c, 'r', m)
	}
	b.headers = h
	if err := b.batch.Append(t.topic, t.partition(key, m.Commit), m.CommitTime, key, b.value, h); err != nil {
		return err
	}
	if cap(b.value) > largeRow {
		b.value = nil
	}
	return nil
}

// emptied appends the truncate event behind which a table's rows are those of a copy, one record for each partition.
func (b *builder) emptied(t *table, at decode.Position, oid, generation uint32, now time.Time) error {
	m := schema.Meta{
		Commit: at.Commit, Change: at.Change, CommitTime: now, Now: b.now(), Snapshot: "true", Sequence: [2]pglogrepl.LSN{b.sequence, at.Change},
	}
	_, err := b.everywhere(t, &m, nil, func(p int) []byte { return b.appendReadID(oid, generation, int64(-p), nil) })
	return err
}

// appendReadID writes the unique id of a read: system id, OID of the table, generation of its copy, and a hash of the key without
// its schema's id; without a key the row's number in the copy.
func (b *builder) appendReadID(oid, generation uint32, number int64, key []byte) []byte {
	d := append(b.id[:0], b.systemID...)
	d = append(d, '/')
	d = strconv.AppendUint(d, uint64(oid), 10)
	d = append(d, '/')
	d = strconv.AppendUint(d, uint64(generation), 10)
	d = append(d, '/')
	if key == nil {
		d = strconv.AppendInt(d, number, 10)
		b.id = d
		return d
	}
	if b.hash == nil {
		b.hash = fnv.New128a()
	}
	b.hash.Reset()
	_, _ = b.hash.Write(key[schema.WireSize:]) // never fails
	b.sum = b.hash.Sum(b.sum[:0])
	d = hex.AppendEncode(d, b.sum)
	b.id = d
	return d
}

// largeRow is the most memory that is kept for the next value, in bytes.
const largeRow = 4 << 20

var (
	identityDefault = []byte("default")
	identityFull    = []byte("full")
	identityIndex   = []byte("index")
	identityNothing = []byte("nothing")
)

func identityHeader(i decode.Identity) []byte {
	switch i {
	case decode.IdentityFull:
		return identityFull
	case decode.IdentityIndex:
		return identityIndex
	case decode.IdentityNothing:
		return identityNothing
	default:
		return identityDefault
	}
}

// rowHeaders carries, in UTF-8 text, what the row envelope has no room for. The texts live in b.text until the record
// is appended.
func (b *builder) rowHeaders(h []sink.Header, t *table, c *decode.Change, op byte, m *schema.Meta) []sink.Header {
	d := b.text[:0]
	put := func(name string, appendText func([]byte) []byte) {
		at := len(d)
		d = appendText(d)
		h = append(h, sink.Header{Key: name, Value: d[at:len(d):len(d)]})
	}
	put("op", func(d []byte) []byte { return append(d, op) })
	put("commit_lsn", func(d []byte) []byte { return appendLSN(d, m.Commit) })
	put("ordinal", func(d []byte) []byte { return strconv.AppendInt(d, m.Ordinal, 10) })
	put("xid", func(d []byte) []byte { return strconv.AppendUint(d, uint64(m.XID), 10) })
	put("ts_us", func(d []byte) []byte { return strconv.AppendInt(d, m.CommitTime.UnixMicro(), 10) })
	h = append(h, sink.Header{Key: "schema", Value: t.schemaName}, sink.Header{Key: "table", Value: t.tableName})
	if op == 'c' || op == 'u' {
		b.unchanged = t.enc.Unchanged(b.unchanged[:0], c)
		if len(b.unchanged) > 0 {
			put("unavailable", func(d []byte) []byte { return appendNames(d, b.unchanged) })
		}
	}
	b.text = d
	return h
}

// appendNames appends names of fields as a JSON array. They are Avro's: nothing in them needs an escape.
func appendNames(d []byte, names []string) []byte {
	for i, n := range names {
		d = append(d, "[,"[min(i, 1)], '"')
		d = append(d, n...)
		d = append(d, '"')
	}
	return append(d, ']')
}

// truncated appends the truncate event of one table, one record for each partition; part is the id's part of the first, and
// the next one is returned. By policy it appends none.
func (b *builder) truncated(t *table, c *decode.Truncate, part int, drop bool) (int, error) {
	switch {
	case drop: // published under whatever policy there was
	case b.truncate == "skip":
		b.truncates++
		return part, nil
	case b.truncate == "stop":
		return part, &StopError{
			Table: string(t.schemaName) + "." + string(t.tableName), Position: c.Position.String(), Err: errTruncate,
			Remedy: "set schema.truncate to emit or skip",
		}
	}
	b.count(t, c.Position, c.Ordinal)
	if drop {
		return part, nil
	}
	n, err := b.everywhere(t, &b.meta, b.context, func(p int) []byte { return b.appendID(c.Position, part+p) })
	b.txRecords += n
	return part + n, err
}

// everywhere appends a truncate event to each partition of a table's topic, since it has no key; id gives each record's. It returns
// how many it has appended.
func (b *builder) everywhere(t *table, m *schema.Meta, context []sink.Header, id func(partition int) []byte) (int, error) {
	value, err := t.enc.AppendTruncate(b.value[:0], m)
	switch {
	case errors.Is(err, schema.ErrNoValue):
		value = nil
	case err != nil:
		return 0, err
	default:
		b.value = value
	}
	for p := range t.partitions {
		h := append(b.headers[:0], sink.Header{Key: schema.HeaderID, Value: id(p)})
		if b.envelope == schema.EnvelopeRow {
			h = b.rowHeaders(h, t, nil, 't', m)
		}
		h = append(h, context...)
		b.headers = h
		if err := b.batch.Append(t.topic, int32(p), m.CommitTime, nil, value, h); err != nil {
			return p, err
		}
	}
	return t.partitions, nil
}

var errTruncate = errors.New("the table was truncated, and schema.truncate is stop")

// setContext takes the values that an application sent along: they are headers of its transaction's events after it. What is
// not a JSON object of strings is left out: any role can emit the message, and a bad one must not stop the stream.
func (b *builder) setContext(content []byte) {
	var m map[string]string
	b.context = b.context[:0]
	if err := json.Unmarshal(content, &m); err != nil {
		return
	}
	for _, k := range slices.Sorted(maps.Keys(m)) {
		if slices.Contains(schema.HeaderNames, k) {
			// They are ours: an application's context cannot stand in for them.
			continue
		}
		b.context = append(b.context, sink.Header{Key: k, Value: []byte(m[k])})
	}
}
