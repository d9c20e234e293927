package pipeline

import (
	"encoding/binary"
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pglogrepl"

	"walferry/checkpoint"
	"walferry/decode"
	"walferry/internal/backfill"
	"walferry/schema"
	"walferry/sink"
	"walferry/source"
)

// orders is the relation of the benchmark's workload (bench/orders.sql), and a row of it in the server's binary form.
var orders = &decode.Relation{ID: 70, Schema: "public", Name: "orders", Identity: decode.IdentityDefault, Columns: []decode.Column{
	{Name: "id", Type: 20, Mod: -1, Key: true}, {Name: "customer_id", Type: 20, Mod: -1}, {Name: "status", Type: 25, Mod: -1},
	{Name: "amount", Type: 1700, Mod: 12<<16 | 2 + 4}, {Name: "note", Type: 25, Mod: -1}, {Name: "tags", Type: 1009, Mod: -1},
	{Name: "attrs", Type: 3802, Mod: -1}, {Name: "created_at", Type: 1184, Mod: -1}, {Name: "updated_at", Type: 1184, Mod: -1},
}}

func orderRow(id byte) []string {
	return []string{
		"\x00\x00\x00\x00\x00\x01\xe2" + string(rune(id&0x7f)), "\x00\x00\x00\x00\x00\x00\x30\x39", "shipped",
		"\x00\x03\x00\x01\x00\x00\x00\x02\x00\x01\x09\x29\x19\x64", strings.Repeat("note ", 20),
		"\x00\x00\x00\x01\x00\x00\x00\x00\x00\x00\x00\x19\x00\x00\x00\x02\x00\x00\x00\x01\x00\x00\x00\x03red\x00\x00\x00\x05large",
		"\x01" + `{"weight": 12, "gift": true}`, "\x00\x02\xb9\xf0\x00\x00\x00\x00", "\x00\x02\xb9\xf0\x00\x00\x00\x01",
	}
}

// What follows writes pgoutput as the protocol's page "Logical Replication Message Formats" has it.

func appendOrder(b []byte, kind byte, row []string) []byte {
	b = binary.BigEndian.AppendUint16(append(b, kind), uint16(len(row)))
	for i, v := range row {
		if kind == 'K' && i > 0 {
			b = append(b, 'n')
			continue
		}
		b = append(binary.BigEndian.AppendUint32(append(b, 'b'), uint32(len(v))), v...)
	}
	return b
}

func orderMessage(op byte) []byte { return binary.BigEndian.AppendUint32([]byte{op}, orders.ID) }

func relationMessage(r *decode.Relation) []byte {
	b := append(binary.BigEndian.AppendUint32([]byte{'R'}, r.ID), r.Schema+"\x00"+r.Name+"\x00"...)
	b = binary.BigEndian.AppendUint16(append(b, byte(r.Identity)), uint16(len(r.Columns)))
	for _, c := range r.Columns {
		key := byte(0)
		if c.Key {
			key = 1
		}
		b = append(append(append(b, key), c.Name...), 0)
		b = binary.BigEndian.AppendUint32(binary.BigEndian.AppendUint32(b, c.Type), uint32(c.Mod))
	}
	return b
}

// hotPath is a loop with a batch and a table, without servers, and a block with a transaction of every kind of change.
type hotPath struct {
	loop   *loop
	block  *source.Block
	begin  []byte
	commit []byte
	lsn    pglogrepl.LSN
	rows   int
}

func newHotPath(t testing.TB, envelope string) *hotPath {
	t.Helper()
	producer, err := sink.New(nil, sink.Config{TransactionalID: "t"})
	if err != nil {
		t.Fatal(err)
	}
	l := &loop{
		session: &session{Pipeline: &Pipeline{cfg: Config{Sink: sink.Config{MaxBatchBytes: 8 << 20}}}, tables: map[*decode.Relation]*table{}},
		stream:  &source.Stream{}, decoder: decode.NewDecoder(), gate: checkpoint.NewGate(nil, checkpoint.Server{}),
		building: &sealed{batch: producer.NewBatch()},
		builder:  builder{systemID: "7301234567890123456", envelope: envelope, truncate: "publish", now: time.Now},
	}
	l.builder.batch = l.building.batch
	h := &hotPath{loop: l, block: &source.Block{}, lsn: 0x100, begin: make([]byte, 21), commit: make([]byte, 26)}
	h.begin[0], h.commit[0] = 'B', 'C'
	row, moved := orderRow(1), orderRow(2)
	messages := [][]byte{h.begin}
	for range 10 {
		messages = append(messages,
			appendOrder(orderMessage('I'), 'N', row),
			appendOrder(orderMessage('U'), 'N', row),
			appendOrder(appendOrder(orderMessage('U'), 'O', row), 'N', row),
			appendOrder(appendOrder(orderMessage('U'), 'K', row), 'N', moved), // a changed key
			appendOrder(orderMessage('D'), 'K', moved))
	}
	h.rows = len(messages) - 1
	messages = append(messages, h.commit)
	for _, m := range messages {
		h.block.Frames = append(h.block.Frames, source.Frame{Payload: m})
	}

	// The relation is announced once, as on a stream, and its table is what newTable makes of it.
	for _, m := range [][]byte{relationMessage(orders), h.transaction(), messages[1]} {
		e, err := l.decoder.Decode(h.lsn, m)
		if err != nil {
			t.Fatal(err)
		}
		c, ok := e.(*decode.Change)
		if !ok {
			continue
		}
		derived, err := schema.Derive(c.Relation, nil, "shop.public.orders", schema.Options{Name: "shop", DB: "app", SystemID: "7", Envelope: envelope})
		if err != nil {
			t.Fatal(err)
		}
		enc, err := derived.Encoder(7, 258)
		if err != nil {
			t.Fatal(err)
		}
		l.tables[c.Relation] = &table{topic: "shop.public.orders", partitions: 6, enc: enc, schemaName: []byte("public"), tableName: []byte("orders")}
	}
	if _, err := l.decoder.Decode(h.lsn, h.commit); err != nil {
		t.Fatal(err)
	}
	return h
}

// transaction gives the block's transaction the next LSN, and returns its Begin.
func (h *hotPath) transaction() []byte {
	h.lsn += 0x100
	binary.BigEndian.PutUint64(h.begin[1:], uint64(h.lsn))
	binary.BigEndian.PutUint32(h.begin[17:], uint32(h.lsn>>8))
	binary.BigEndian.PutUint64(h.commit[2:], uint64(h.lsn))
	binary.BigEndian.PutUint64(h.commit[10:], uint64(h.lsn)+0x30)
	for i := range h.block.Frames {
		h.block.Frames[i].WALStart = h.lsn - 0x80
	}
	return h.begin
}

func (h *hotPath) consume(t testing.TB) {
	h.transaction()
	if err := h.loop.consume(t.Context(), h.block); err != nil {
		t.Fatal(err)
	}
	if h.loop.building.batch.Bytes() > 4<<20 { // the shipped limit is 8 MiB
		h.loop.building.batch.Reset()
	}
}

// TestAllocHotPath is the rule of the hot path: from a block of frames to the records in a batch nothing is allocated for a
// change, whatever kind it is of, once buffers have their size.
func TestAllocHotPath(t *testing.T) {
	for _, envelope := range []string{schema.EnvelopeDebezium, schema.EnvelopeRow} {
		t.Run(envelope, func(t *testing.T) {
			h := newHotPath(t, envelope)
			for range 2000 { // fills the batch, and it begins anew
				h.consume(t)
			}
			if n := testing.AllocsPerRun(100, func() { h.consume(t) }); n != 0 {
				t.Errorf("%v allocations for %d changes", n, h.rows)
			}
			if h.loop.building.batch.Records() < h.rows || h.loop.stats.changes.Sum() == 0 {
				t.Errorf("%d records of %d changes", h.loop.building.batch.Records(), h.loop.stats.changes.Sum())
			}
		})
	}
}

// BenchmarkHotPath is the cost of a change from frame to record, without compression.
func BenchmarkHotPath(b *testing.B) {
	for _, envelope := range []string{schema.EnvelopeDebezium, schema.EnvelopeRow} {
		b.Run(fmt.Sprintf("envelope=%s", envelope), func(b *testing.B) {
			h := newHotPath(b, envelope)
			b.ReportAllocs()
			for b.Loop() {
				h.consume(b)
			}
			b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N)/float64(h.rows), "ns/change")
		})
	}
}

// placement is the hot path's loop with a chunk of its table's rows that waits for its place.
type placement struct {
	*hotPath
	t   *copying
	job *copyJob
}

func newPlacement(t testing.TB, envelope string) *placement {
	t.Helper()
	p := &placement{hotPath: newHotPath(t, envelope)}
	rel := slices.Collect(maps.Keys(p.loop.tables))[0]
	data := []byte(decode.CopyHead)
	for i := range 1000 {
		row := appendOrder(nil, 'N', orderRow(byte(i)))[1:]
		for j, at := 0, 2; j < len(rel.Columns); j++ { // COPY's rows are without the kinds of the columns
			size := int(binary.BigEndian.Uint32(row[at+1:]))
			row = slices.Delete(row, at, at+1)
			at += 4 + size
		}
		data = append(data, row...)
	}
	p.job = &copyJob{query: &source.ChunkQuery{}, chunk: &source.Chunk{Data: data, Rows: 1000, Read: time.Now()}}
	p.t = &copying{
		Copy:  backfill.Copy{Relation: rel.ID, Generation: 1, State: backfill.Copying, Ranges: []backfill.Range{{}, {}}},
		table: &source.CopyTable{Relation: rel, Key: []int{0}}, streamed: rel, notes: backfill.NewNotes([]int{0}, 1<<20, nil),
		ranges: []*copyRange{{}},
	}
	p.loop.copy.tables, p.loop.copy.batch = []*copying{p.t}, copyBatchBytes
	// One row that the stream has a newer state of, so that each is looked up.
	p.t.notes.Change(1000, &decode.Change{Op: decode.Delete, Old: decode.Tuple{{Kind: decode.Binary, Data: []byte("8 bytes!")}}}, false)
	return p
}

// place places the whole chunk, slice by slice.
func (p *placement) place(t testing.TB) {
	p.job.placing = &placing{loop: p.loop, t: p.t, r: p.t.ranges[0], j: p.job, left: p.job.chunk.Rows}
	for done := false; !done; {
		var err error
		if done, err = p.job.placing.slice(t.Context(), copySliceBytes); err != nil {
			t.Fatal(err)
		}
		p.loop.building.batch.Reset()
	}
}

// TestAllocPlacement: to place a row of a first copy costs no allocation, what a chunk costs is shared by its rows.
func TestAllocPlacement(t *testing.T) {
	for _, envelope := range []string{schema.EnvelopeDebezium, schema.EnvelopeRow} {
		t.Run(envelope, func(t *testing.T) {
			p := newPlacement(t, envelope)
			for range 10 {
				p.place(t)
			}
			if n := testing.AllocsPerRun(20, func() { p.place(t) }); n > 20 {
				t.Errorf("%v allocations for %d rows", n, p.job.chunk.Rows)
			}
			if p.t.Rows == 0 || p.t.Rows%1000 != 0 {
				t.Errorf("%d rows were placed", p.t.Rows)
			}
		})
	}
}

// BenchmarkPlacement is the cost of a row of a first copy from the server's bytes to the record, without compression.
func BenchmarkPlacement(b *testing.B) {
	for _, envelope := range []string{schema.EnvelopeDebezium, schema.EnvelopeRow} {
		b.Run(fmt.Sprintf("envelope=%s", envelope), func(b *testing.B) {
			p := newPlacement(b, envelope)
			b.ReportAllocs()
			for b.Loop() {
				p.place(b)
			}
			b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N)/float64(p.job.chunk.Rows), "ns/row")
		})
	}
}
