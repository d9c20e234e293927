package pipeline

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"hash/fnv"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/jackc/pglogrepl"

	"walferry/decode"
	"walferry/internal/backfill"
	"walferry/internal/failpoint"
	"walferry/source"
)

// Copy says how the rows are copied that are in a table when its capture begins.
type Copy struct {
	// Wanted says whether a table is copied whose capture begins; nil is none. Others are copied when somebody asks for it.
	Wanted func(schemaName, table string) bool
	// Workers is how many chunks are read beside each other. With 0 nothing is copied, and nobody can ask for it.
	Workers int
	// BufferBytes bounds the rows that were read and wait for their place, with one half, and with the other what is noted of
	// the stream's changes. A single row may overdraw it.
	BufferBytes int
	// ChunkTime is how long a chunk's transaction is meant to be open, StatementTimeout how long it may.
	ChunkTime, StatementTimeout time.Duration
	// Priority orders tables: those of lower numbers are copied first, and among equals smaller tables before larger ones. nil
	// is one number for all.
	Priority func(schemaName, table string) int
	Limits   CopyLimits

	small smallCopy
}

// smallCopy has, for tests of this package, other bounds than the constants below where it is not 0.
type smallCopy struct {
	noteBytes    int
	sliceBytes   int
	rangeBytes   int64
	again, after time.Duration
	lag, taking  time.Duration // see wholeLag and wholeTaking
}

const (
	copyAgain = 500 * time.Millisecond // between two tries of what somebody else's transaction or lock holds up
	copyAfter = 10 * time.Second       // between two tries of what somebody has to mend
	// What is placed at one boundary while the stream may have more: about a millisecond's work.
	copySliceBytes = 256 << 10
	// What a batch may have in it when more of a copy is placed, at most half of a full one: what the stream brings next waits for
	// its transaction. It is less while the stream brings changes, and for so long after.
	copyBatchBytes  = 4 << 20
	copyLivelyBytes = 1 << 20
	copyLively      = time.Second
	copyQueue       = 10_000    // keys that are read by themselves; with more the copy begins anew
	copyRecord      = 512 << 10 // bytes of what is saved of a copy; with a queue that makes it longer the copy begins anew: a topic takes 1 MiB at a time
	copyQueueRead   = 500       // of them in one chunk, at most
	rangeBytes      = 64 << 20  // of a table to which a range of its own is given
)

// copier is the first copy as the loop drives it: which tables, which ranges, what is being read and what waits for its
// place. Its workers read (copyWorker); everything here is of the loop's goroutine.
type copier struct {
	Copy
	jobs      chan *copyJob
	results   chan *copyJob
	out       int // jobs that are with the workers
	tables    []*copying
	ended     map[uint32]*copying // by the table's OID, copies of which nothing is left to do
	known     bool                // each captured table has a record in the checkpoint topic, or gets it with the next batch
	listAt    time.Time
	listed    time.Time // when the list that is being made was asked for
	listing   bool
	early     []*copyCommand // that came before the first list
	asked     []*copyCommand // that are saved with the next batch
	untold    bool           // health has not heard of the newest state
	toldAt    time.Time
	endedTold []CopyProgress // of ended, as health has it; nil when that has changed
	added     []string       // tables that were put into the publication when the session began
	buffers   [][]byte       // free ones
	pending   int            // chunks that were read and wait for their place, or for that of a part of them
	batch     int            // what a batch may have in it when more is placed, in bytes
	more      bool           // rows can be placed at this boundary, and the batch has room for them
	dirty     bool           // some copying is to be saved
	read      int            // rows of chunks that were dealt with since the last seal, left out ones included
	throttle  throttle
	begun     bool // a row was placed in this run of copies: the next one is not the first
}

// copying is one table on its way.
type copying struct {
	backfill.Copy
	table    *source.CopyTable // nil until it has been looked at
	streamed *decode.Relation  // the version that the stream had when noting began, or has since, being the same
	notes    *backfill.Notes   // nil until the table has been looked at
	moves    int               // of notes, when the queue was last saved
	fence    uint64            // 0 until it is taken
	ranges   []*copyRange
	newest   *decode.Snapshot // that a chunk has shown
	asking   bool             // a job other than a chunk is with a worker
	after    time.Time        // no job before
	held     string           // why, as it was logged
	resting  bool             // paused, or somebody has to mend something: nothing is read, and nothing noted but moved keys
	estimate int64            // rows of the table as the planner takes them to be; 0 for unknown
	paces    []pace           // of the last seconds
	saidAt   time.Time        // when the log had a line of it
	flying   []*copyJob       // chunks that are with a worker
	epoch    int              // a job of an older one is forgotten
	queueing bool             // a chunk of queued keys is with a worker or waits
	queued   *copyJob         // the one that waits
	ask      int              // how many queued keys the next one is to read; 0 for the first one
	whole    *whole           // of a table without a key; nil for the others
	broken   int              // how often it was broken off behind its truncate event
	dirty    bool
}

// copyRange is a range of a table on its way.
type copyRange struct {
	index   int          // in Copy.Ranges
	after   decode.Tuple // behind which the next chunk is read
	rows    int          // that the next chunk is to have
	reading bool
	read    bool // to its end
	pending []*copyJob
}

// copyJob is what a worker is asked, and its answer.
type copyJob struct {
	copying *copying // nil for the list of tables, and for the source's load
	load    bool
	known   map[uint32]bool // tables that the list need not have the size of
	rng     *copyRange
	epoch   int
	floor   *decode.Snapshot   // one that the chunk's is not older than
	query   *source.ChunkQuery // nil for anything but a chunk
	look    uint32             // the table to look at
	fence   bool               // take a fence
	place   bool               // ask where the WAL ends
	split   bool               // cut the table into ranges
	have    []uint32           // parts of it that are cut already
	buffer  []byte
	whole   *whole
	piece   bool     // of a table without a key: one piece of its rows
	waits   bool     // the chunk was read, and the stream has not come to its place yet
	placing *placing // nil before the first row has its place

	tables []source.Table
	sizes  map[uint32]int64 // of tables that are not known
	loaded source.Load
	table  *source.CopyTable
	xid    uint64           // the fence
	lsn    pglogrepl.LSN    // where the WAL ended
	shown  *decode.Snapshot // of a table without a key: one that was taken
	ranges []backfill.Range
	chunk  *source.Chunk
	err    error
}

// noteBytes bounds the notes of one table: no more tables are copied at a time than there are workers.
func (c *Copy) noteBytes() int           { return cmp.Or(c.small.noteBytes, c.BufferBytes/2/c.Workers) }
func (c *Copy) sliceBytes() int          { return cmp.Or(c.small.sliceBytes, copySliceBytes) }
func (c *Copy) rangeBytes() int64        { return cmp.Or(c.small.rangeBytes, rangeBytes) }
func (c *Copy) tryAgain() time.Duration  { return cmp.Or(c.small.again, copyAgain) }
func (c *Copy) tryMended() time.Duration { return cmp.Or(c.small.after, copyAfter) }

// startCopy takes up the copies that the checkpoint topic has, and starts the workers; the returned func ends them and waits.
// added are the tables that this session has put into the publication.
func (l *loop) startCopy(ctx context.Context, added []string) (stop func(), err error) {
	s, c := l.session, &l.copy
	cp := s.saved.Checkpoint
	*c = copier{Copy: s.cfg.Copy, ended: map[uint32]*copying{}, added: added, known: cp == nil || cp.Copies || len(s.saved.Copies) > 0}
	reads := c.Workers > 0 && !s.cfg.Drain
	for oid, saved := range s.saved.Copies {
		t, err := savedCopy(saved)
		if err != nil {
			return nil, err
		}
		if t.State.Over() {
			c.ended[oid] = t
			continue
		}
		if t.Columns != nil {
			if err := l.requeue(ctx, t); err != nil {
				return nil, err
			}
		}
		if t.Columns != nil {
			// From the first change on: a queued row may move on, or one that was not read come to a key that was. In a drain, too.
			t.notes = backfill.NewNotes(nil, c.noteBytes(), t.Queue)
			if t.resting = !reads || t.State == backfill.Paused; t.resting {
				t.notes.Rest()
			}
		}
		c.begun = c.begun || t.Rows > 0
		c.tables = append(c.tables, t)
	}
	// A table that was done while others waited is of the same run of copies.
	for _, t := range c.ended {
		c.begun = c.begun || t.Rows > 0 && slices.ContainsFunc(c.tables, func(o *copying) bool { return o.Asked.Before(t.Finished) })
	}
	c.sort()
	if !reads {
		return func() {}, nil
	}
	c.untold = true
	c.jobs, c.results = make(chan *copyJob, c.Workers), make(chan *copyJob, c.Workers)
	s.copyResults = c.results
	for range 2 * c.Workers {
		c.buffers = append(c.buffers, nil)
	}
	ctx, cancel := context.WithCancel(ctx)
	var workers sync.WaitGroup
	for range c.Workers {
		workers.Go(func() { s.copyWorker(ctx, c) })
	}
	return func() {
		hit("copy-stops")
		cancel()
		workers.Wait()
	}, nil
}

// requeue brings the queued keys of a copy into the form that this session's stream has, text or binary: they are compared by their
// bytes.
func (l *loop) requeue(ctx context.Context, t *copying) error {
	types := make([]uint32, len(t.Columns))
	for i, c := range t.Columns {
		if _, err := fmt.Sscanf(c[strings.LastIndexByte(c, ' ')+1:], "%d", &types[i]); err != nil {
			return fmt.Errorf("saved copy of table %s: column %q of its key: %w", t.name(), c, err)
		}
	}
	keys := make([]decode.Tuple, len(t.Queue))
	for i, k := range t.Queue {
		keys[i] = decode.Tuple(k)
	}
	err := l.cat.ConvertKeys(ctx, types, keys)
	if is[*source.KeyError](err) {
		l.anew(t, err.Error())
		return nil
	}
	return err
}

// sort is the order in which tables are copied: what was begun first, then by priority, then smaller ones before larger ones, so
// that most tables are done early.
func (c *copier) sort() {
	priority := func(t *copying) int {
		if c.Priority == nil {
			return 0
		}
		return c.Priority(t.Schema, t.Table)
	}
	slices.SortFunc(c.tables, func(a, b *copying) int {
		return cmp.Or(-cmp.Compare(min(a.Rows, 1), min(b.Rows, 1)), cmp.Compare(priority(a), priority(b)), cmp.Compare(a.Size, b.Size),
			cmp.Compare(a.Schema, b.Schema), cmp.Compare(a.Table, b.Table))
	})
}

// knows are the tables that have a copy, done or not.
func (c *copier) knows() map[uint32]bool {
	out := make(map[uint32]bool, len(c.ended)+len(c.tables))
	for oid, t := range c.ended {
		out[oid] = t.State != backfill.Uncaptured
	}
	for _, t := range c.tables {
		out[t.Relation] = !t.State.Over()
	}
	return out
}

// active says that there is a table to be copied.
func (c *copier) active() bool { return len(c.tables) > 0 }

// find is the table that is being copied and noted, or without a key; nil for none.
func (c *copier) find(oid uint32) *copying {
	for _, t := range c.tables {
		if t.Relation == oid && (t.notes != nil || t.whole != nil) {
			return t
		}
	}
	return nil
}

// alone says that no other table is still to be copied.
func (c *copier) alone(t *copying) bool {
	return !slices.ContainsFunc(c.tables, func(o *copying) bool { return o != t && !o.State.Over() })
}

// waitsFor is the place in the WAL that a chunk waits for which has been read; 0 for none.
func (c *copier) waitsFor() (lsn pglogrepl.LSN) {
	for _, t := range c.tables {
		if t.whole != nil {
			lsn = max(lsn, t.whole.waitsFor())
		}
		if c.pending == 0 {
			continue
		}
		for _, r := range t.ranges {
			for _, j := range r.pending {
				lsn = max(lsn, j.chunk.LSN)
			}
		}
		if t.queued != nil {
			lsn = max(lsn, t.queued.chunk.LSN)
		}
	}
	return lsn
}

// schedule hands the workers what is next. It does not wait.
func (l *loop) schedule(now time.Time) {
	c := &l.copy
	if l.stopping {
		return
	}
	for _, t := range c.tables {
		l.finishCopy(t) // the stream may have brought the end of the last row that was waited for
	}
	c.tables = slices.DeleteFunc(c.tables, func(t *copying) bool { return t.State.Over() && !t.dirty })
	if !c.listing && !now.Before(c.listAt) && c.out < c.Workers {
		c.listing, c.listed = true, now
		c.send(&copyJob{known: c.knows()})
	}
	throttled := c.active() && l.throttled(now)
	// No more tables at a time than there are workers: of each of them every change is noted.
	n := 0
	for _, t := range c.tables {
		if t.State.Over() || t.State == backfill.Paused {
			continue
		}
		if t.resting {
			if now.Before(t.after) {
				continue
			}
			t.wake()
		}
		if n++; n > c.Workers {
			return
		}
		for c.out < c.Workers {
			job := c.next(t, now, throttled)
			if job == nil {
				break
			}
			c.send(job)
		}
	}
}

func (c *copier) send(j *copyJob) {
	c.out++
	c.jobs <- j // has room for as many as are out
}

// next is what is to be asked for a table now; nil for nothing.
func (c *copier) next(t *copying, now time.Time, throttled bool) *copyJob {
	switch {
	case t.asking || now.Before(t.after):
		return nil
	case t.table == nil:
		t.asking = true
		return &copyJob{copying: t, epoch: t.epoch, look: t.Relation}
	case throttled && (t.fence != 0 || t.whole != nil):
		return nil
	case t.whole != nil && t.whole.from == 0:
		t.asking = true
		return &copyJob{copying: t, epoch: t.epoch, place: true}
	case t.whole != nil && !t.whole.near:
		return nil
	case t.whole != nil && t.fence != 0:
		t.asking = true
		return &copyJob{copying: t, epoch: t.epoch, table: t.table, whole: t.whole, xid: t.fence}
	case t.fence == 0:
		t.asking = true
		return &copyJob{copying: t, epoch: t.epoch, fence: true}
	case !t.isCut():
		t.asking = true
		return &copyJob{copying: t, epoch: t.epoch, table: t.table, split: true, have: t.cutParts(), xid: t.fence}
	case len(c.buffers) == 0:
		return nil
	}
	for _, r := range t.ranges {
		// Two chunks of a range at a time: one is read while the other waits for its place.
		if r.reading || r.read || len(r.pending) > 1 {
			continue
		}
		r.reading = true
		saved := &t.Ranges[r.index]
		return c.chunk(t, r, &source.ChunkQuery{Part: saved.Relation, After: r.after, To: decode.Tuple(saved.To), Rows: r.rows})
	}
	if t.RangesDone() && !t.queueing && len(t.notes.Moved()) > 0 {
		t.queueing = true
		t.ask = cmp.Or(t.ask, copyQueueRead)
		q := &source.ChunkQuery{}
		for _, k := range t.notes.Moved() {
			if q.Keys = append(q.Keys, decode.Tuple(k)); len(q.Keys) == t.ask {
				break
			}
		}
		return c.chunk(t, nil, q)
	}
	return nil
}

func (c *copier) chunk(t *copying, r *copyRange, q *source.ChunkQuery) *copyJob {
	q.Table, q.Where, q.Fence, q.Timeout, q.Bytes, q.At = t.table, t.Where, t.fence, c.StatementTimeout, c.chunkBytes(), hit
	b := c.buffers[len(c.buffers)-1]
	c.buffers = c.buffers[:len(c.buffers)-1]
	j := &copyJob{copying: t, rng: r, epoch: t.epoch, floor: t.newest, query: q, buffer: b}
	t.flying = append(t.flying, j)
	return j
}

// chunkBytes is how large a chunk may be: two of each worker are in the buffers' half, and none takes longer than a second.
func (c *copier) chunkBytes() int {
	n := c.BufferBytes / 2 / (2 * c.Workers)
	if c.Limits.BytesPerSecond > 0 {
		n = min(n, c.Limits.BytesPerSecond)
	}
	return n
}

// waited says that a chunk waits for the stream no more.
func (j *copyJob) waited() {
	if j.waits {
		j.waits = false
		hit("chunk-waited")
	}
}

// release gives a job's buffer back, unless one large row has made it too large to keep.
func (c *copier) release(j *copyJob) {
	b := j.buffer
	if j.chunk != nil {
		b = j.chunk.Data
	}
	if cap(b) > 2*c.chunkBytes() {
		b = nil
	}
	c.buffers = append(c.buffers, b)
	j.chunk, j.buffer, j.placing = nil, nil, nil
}

// copyWorker reads what it is asked until the session ends.
func (s *session) copyWorker(ctx context.Context, c *copier) {
	var conn *source.CopyConn
	defer func() {
		if conn != nil {
			conn.Close()
		}
	}()
	for {
		var j *copyJob
		select {
		case j = <-c.jobs:
		case <-ctx.Done():
			return
		}
		if reads := j.copying != nil && j.look == 0; reads && (conn == nil || conn.Closed()) {
			conn, j.err = s.cat.OpenCopy(ctx)
		}
		if j.err == nil {
			s.work(ctx, conn, j)
		}
		if ctx.Err() != nil {
			return // what went wrong says nothing of the table
		}
		select {
		case c.results <- j:
		case <-ctx.Done():
			return
		}
	}
}

// work does one job.
func (s *session) work(ctx context.Context, conn *source.CopyConn, j *copyJob) {
	switch {
	case j.load:
		j.loaded, j.err = s.cat.Load(ctx)
	case j.copying == nil:
		hit("copy-list")
		if j.tables, j.err = capturedTables(ctx, s.cat, &s.source); j.err == nil {
			j.sizes, j.err = s.cat.TableBytes(ctx, unknown(j.tables, j.known))
		}
	case j.look != 0:
		hit("copy-look")
		j.table, j.err = s.cat.CopyTable(ctx, j.look)
	case j.fence:
		hit("copy-fence")
		// The table's changes are noted by now, so what was delivered before has a lower XID.
		j.xid, j.err = conn.Fence(ctx)
	case j.place:
		j.lsn, j.err = conn.WALEnd(ctx)
	case j.split:
		j.ranges, j.err = split(ctx, conn, j, &s.cfg.Copy)
	case j.whole != nil:
		j.err = j.whole.read(ctx, conn, j, &s.cfg.Copy, s.copyResults)
	default:
		hit("chunk-begin")
		if j.chunk, j.err = conn.Chunk(ctx, j.query, j.buffer); j.err == nil {
			failpoint.Add("pipeline/chunk-rows", j.chunk.Rows)
		}
		hit("chunk-read")
	}
}

// split cuts a table into ranges that are read beside each other; of its parts those that have no ranges yet.
func split(ctx context.Context, conn *source.CopyConn, j *copyJob, c *Copy) ([]backfill.Range, error) {
	bounds, err := conn.Bounds(ctx, j.table, j.xid, c.StatementTimeout, func(p source.CopyPart) int {
		return min(4*c.Workers, 1+int(p.Bytes/c.rangeBytes()))
	})
	if err != nil {
		return nil, err
	}
	out := []backfill.Range{}
	for i, p := range j.table.Parts {
		if slices.Contains(j.have, p.Relation) {
			continue
		}
		if len(bounds[i]) == 0 {
			out = append(out, backfill.Range{Relation: p.Relation, Done: true})
		}
		var from backfill.Key
		for _, to := range bounds[i] {
			out = append(out, backfill.Range{Relation: p.Relation, After: from, To: backfill.Key(to)})
			from = backfill.Key(to)
		}
	}
	return out, nil
}

// answered takes a worker's answer.
func (l *loop) answered(j *copyJob) error {
	c, t := &l.copy, j.copying
	if j.piece {
		l.pieceRead(t, j)
		return nil
	}
	c.out--
	if j.load {
		l.loaded(j.loaded, j.err)
		return nil
	}
	if t == nil {
		l.listed(j)
		return nil
	}
	chunk := j.query != nil
	t.flying = slices.DeleteFunc(t.flying, func(x *copyJob) bool { return x == j })
	switch {
	case j.rng != nil:
		j.rng.reading = false
	case !chunk && j.epoch == t.epoch:
		t.asking = false
	}
	if j.err != nil || j.epoch != t.epoch {
		if chunk {
			c.release(j)
		}
		if r := j.rng; r != nil && source.TimedOut(j.err) {
			r.rows = max(1, r.rows/4)
		}
		if j.epoch != t.epoch {
			return nil
		}
		t.queueing = t.queueing && (!chunk || j.rng != nil)
		if j.whole != nil && l.wholeFailed(t, j) {
			return nil
		}
		l.hold(t, j.err)
		return nil
	}
	t.held = ""
	switch {
	case j.whole != nil:
		t.whole.ended, t.asking = true, true // nothing more is asked
		return nil
	case j.look != 0:
		l.looked(t, j.table)
		return nil
	case j.fence:
		t.fence = j.xid
		l.enter(t)
		return nil
	case j.place:
		t.whole.from, t.whole.asked = j.lsn, time.Now()
		return nil
	case j.split:
		l.cut(t, j.ranges)
		return nil
	}
	t.newest = &j.chunk.Snapshot
	c.throttle.rate.spend(&c.Limits, time.Now(), j.chunk.Rows, len(j.chunk.Data))
	c.pending++
	if j.waits = j.chunk.LSN > l.delivered; j.waits {
		hit("chunk-pending")
	}
	if j.rng == nil {
		t.queued = j
		if t.ask = min(copyQueueRead, 2*t.ask); j.chunk.Cut {
			t.ask = max(1, j.chunk.Rows)
		}
		return nil
	}
	r := j.rng
	r.pending = append(r.pending, j)
	r.read = !j.chunk.Cut || same(j.chunk.Last, t.Ranges[r.index].To)
	if j.chunk.Last != nil {
		r.after = j.chunk.Last
		r.rows = c.rows(j)
	}
	return nil
}

// same says that a row has the key at which a range ends.
func same(key decode.Tuple, end backfill.Key) bool {
	return end != nil && slices.EqualFunc(key, end, func(x, y decode.Datum) bool { return x.Kind == y.Kind && bytes.Equal(x.Data, y.Data) })
}

// rows is how many rows the next chunk shall have, from what the last one took.
func (c *copier) rows(j *copyJob) int {
	n := float64(j.chunk.Scanned)
	byTime := n * min(4, max(0.25, float64(c.ChunkTime)/float64(max(j.chunk.Took, time.Millisecond))))
	// A chunk that grows over its bytes costs a connection.
	byBytes := n * 0.8 * float64(c.chunkBytes()) / float64(max(len(j.chunk.Data), 1))
	return max(1, min(int(min(byTime, byBytes, 1e9)), c.mostRows()))
}

// mostRows is how many rows a chunk may have: none takes longer than a second.
func (c *copier) mostRows() int { return cmp.Or(c.Limits.RowsPerSecond, 10_000_000) }

// capturedTables are the tables that are published and captured.
func capturedTables(ctx context.Context, cat *source.Catalog, cfg *source.Config) ([]source.Table, error) {
	tables, err := cat.Tables(ctx)
	if err != nil {
		return nil, err
	}
	out := tables[:0]
	for i := range tables {
		switch captured, err := cfg.Selects(tables[i].Schema, tables[i].Name); {
		case err != nil:
			return nil, err
		case captured:
			out = append(out, tables[i])
		}
	}
	return out, nil
}

// unknown are the OIDs of tables that are not among the known ones.
func unknown(tables []source.Table, known map[uint32]bool) (out []uint32) {
	for i := range tables {
		if !known[tables[i].OID] {
			out = append(out, tables[i].OID)
		}
	}
	return out
}

// listed takes up tables whose capture has begun since the last list, and leaves those that are not captured any more. Each gets a
// record, also where no copy is wanted: so a table that is captured already is not taken for a new one when that changes.
func (l *loop) listed(j *copyJob) {
	c := &l.copy
	c.listing = false
	c.listAt = time.Now().Add(l.cfg.Watch)
	if j.err != nil {
		l.log.Warn("look for tables to copy", "error", j.err)
		return
	}
	captured, before := map[uint32]bool{}, 0
	for i := range j.tables {
		p := &j.tables[i]
		captured[p.OID] = true
		l.sameEntry(p)
		old := c.ended[p.OID]
		if i := slices.IndexFunc(c.tables, func(t *copying) bool { return t.Relation == p.OID && !t.State.Over() }); i >= 0 {
			c.tables[i].estimate = max(int64(p.EstimatedRows), 0)
			continue
		}
		if old != nil && old.State != backfill.Uncaptured {
			continue
		}
		t := c.again(old, p)
		t.Size = j.sizes[p.OID]
		switch {
		case !c.known && !slices.Contains(c.added, p.String()):
			t.State = backfill.Skipped
			before++
		case c.Wanted == nil || !c.Wanted(p.Schema, p.Name):
			t.State = backfill.Skipped
		default:
			l.log.Info("the table's rows are going to be copied", "table", p.String(), "estimated_rows", p.EstimatedRows)
		}
		if t.State == backfill.Skipped {
			t.Generation-- // it has none
			c.ended[p.OID] = t
		}
	}
	if !c.known {
		c.known, c.dirty = true, true
		if before > 0 {
			l.log.Info("rows of the tables that were captured before this version are not copied by themselves", "tables", before,
				"remedy", "`walferry backfill start --all` copies them")
		}
	}
	for _, t := range slices.Clone(c.tables) {
		if !t.State.Over() && !captured[t.Relation] && t.Asked.Before(c.listed) {
			l.log.Warn("the table is not captured any more: its copy ends", "table", t.name())
			l.end(t, backfill.Uncaptured)
		}
	}
	for oid, t := range c.ended {
		if (t.State == backfill.Done || t.State == backfill.Skipped) && !captured[oid] {
			t.State = backfill.Uncaptured
			c.keep(t)
		}
	}
	c.sort()
	c.untold, c.endedTold = true, nil
	early := c.early
	c.early = nil
	for _, x := range early {
		l.command(x)
	}
}

// sameEntry looks whether a table was taken out of the publication and put in again since its copy was last listed. What was written
// meanwhile is not on the stream. Whoever alters its columns or its row filter makes another entry, too, in one transaction.
func (l *loop) sameEntry(p *source.Table) {
	c := &l.copy
	t := c.ended[p.OID]
	if i := slices.IndexFunc(c.tables, func(t *copying) bool { return t.Relation == p.OID && !t.State.Over() }); i >= 0 {
		t = c.tables[i]
	}
	published := entryOptions(p)
	if t == nil || t.Member == p.Member && t.Published == published || !t.Asked.Before(c.listed) {
		return
	}
	gap := t.Member != 0 && t.Member != p.Member && t.Published == published
	t.Member, t.Published = p.Member, published
	switch {
	case !gap || t.State == backfill.Cancelled:
		c.keep(t)
	case !t.State.Over():
		l.log.Warn("the table was not published for a time: its copy ends", "table", t.name())
		l.end(t, backfill.Uncaptured)
	default:
		t.State = backfill.Uncaptured
		c.keep(t)
	}
}

// entryOptions is what the publication sends of a table, as a hash.
func entryOptions(p *source.Table) string {
	h := fnv.New64a()
	_, _ = fmt.Fprintf(h, "%q %q", p.Columns, p.RowFilter) // never fails
	return strconv.FormatUint(h.Sum64(), 16)
}

// again makes the next generation of a table's copy; old is the one before it, nil for none.
func (c *copier) again(old *copying, p *source.Table) *copying {
	t := &copying{estimate: max(int64(p.EstimatedRows), 0), Copy: backfill.Copy{
		Relation: p.OID, Schema: p.Schema, Table: p.Name, Generation: 1, State: backfill.Waiting, Asked: now(),
		Member: p.Member, Published: entryOptions(p),
	}}
	if old != nil {
		t.Generation, t.Size = old.Generation+1, old.Size
		delete(c.ended, p.OID)
		c.tables = slices.DeleteFunc(c.tables, func(x *copying) bool { return x == old })
	}
	if !slices.ContainsFunc(c.tables, func(x *copying) bool { return !x.State.Over() }) {
		c.begun = false // another run of copies
	}
	c.keep(t)
	return t
}

// keep has a copy saved that is not among those under way, or is new.
func (c *copier) keep(t *copying) {
	if !slices.Contains(c.tables, t) {
		c.tables = append(c.tables, t)
	}
	c.save(t)
}

// save has a copy saved with the next batch.
func (c *copier) save(t *copying) { t.dirty, c.dirty = true, true }

// hold says why a table's copy does not go on, once, and when it is tried again.
func (l *loop) hold(t *copying, err error) {
	wait := l.copy.tryAgain()
	switch {
	case is[*source.TableMissingError](err):
		l.log.Warn("the table is not captured any more: its copy ends", "table", t.name())
		l.end(t, backfill.Uncaptured)
		return
	case is[*source.TableChangedError](err):
		l.lookAgain(t, "the table was altered")
		t.after = time.Now().Add(wait) // it may go on being altered
		return
	case is[*source.KeyError](err):
		l.otherKey(t, err.Error())
		return
	case is[*source.UnreadableTableError](err), is[*source.ConditionError](err), is[*source.NoOrderError](err), is[*source.NullKeyError](err):
		l.rest(t)
		wait = l.copy.tryMended()
	case errors.Is(err, errSlow):
		wait = l.copy.tryMended()
	}
	if fence, ok := errors.AsType[*source.FenceError](err); ok && t.notes != nil {
		t.newest = &fence.Snapshot
		t.prune() // it can take long, and every snapshot to come sees what this one sees
	}
	t.after = time.Now().Add(wait)
	text := err.Error()
	if remedy := source.Hint(err); remedy != "" {
		text += "; " + remedy
	}
	if text != t.held {
		t.held = text
		l.log.Warn("the copy of a table waits; the stream goes on", "table", t.name(), "reason", err, "remedy", source.Hint(err))
	}
}

func (t *copying) name() string { return t.Schema + "." + t.Table }

// lookAgain looks at a table anew, and reads again what was read and has no place yet. What is noted stays: noting has not
// stopped, so the fence holds.
func (l *loop) lookAgain(t *copying, why string) {
	l.log.Info("the table is looked at again, and chunks without a place are read again", "table", t.name(), "reason", why)
	l.unread(t)
	t.table = nil
}

// rest has a table wait without a worker and without notes, which the next one may need.
func (l *loop) rest(t *copying) {
	l.unread(t)
	t.table, t.fence, t.resting = nil, 0, true
	if t.notes != nil {
		t.notes.Rest()
	}
}

// wake ends a rest. Noting begins anew, so what follows needs a new fence.
func (t *copying) wake() {
	t.resting = false
	if t.notes != nil {
		t.notes.Wake()
	}
}

// unread forgets what was read and has no place, and what is being read.
func (l *loop) unread(t *copying) {
	t.epoch++
	t.asking, t.queueing = false, false
	drop := func(j *copyJob) {
		j.waited()
		l.copy.release(j)
		l.copy.pending--
	}
	for _, r := range t.ranges {
		for _, j := range r.pending {
			drop(j)
		}
		r.pending = nil // whoever goes through the ranges finds nothing of this one
	}
	if t.queued != nil {
		drop(t.queued)
	}
	t.queued, t.ranges = nil, nil
	if t.whole != nil {
		t.whole.stop()
		l.copy.pending -= len(t.whole.pieces)
		t.whole = nil
	}
}

// end ends a table's copy.
func (l *loop) end(t *copying, state backfill.State) {
	l.unread(t)
	t.State, t.Finished = state, now()
	t.Ranges, t.Queue, t.notes = nil, nil, nil
	l.copy.ended[t.Relation] = t
	l.copy.untold, l.copy.endedTold = true, nil
	l.copy.save(t)
}

func now() time.Time { return time.Now().UTC().Truncate(time.Microsecond) }

// looked takes a table as the catalog describes it now. At the first look of all noting begins.
func (l *loop) looked(t *copying, table *source.CopyTable) {
	rel := table.Relation
	if len(table.Key) == 0 {
		if !t.Started.IsZero() || t.Columns != nil {
			l.anew(t, "the copy of a table without a key was broken off")
		}
		if t.Where != "" {
			l.hold(t, errWhere)
			t.after = time.Now().Add(l.copy.tryMended())
			return
		}
		t.Schema, t.Table, t.table, t.fence = rel.Schema, rel.Name, table, 0
		t.whole = newWhole(l.copy.chunkBytes(), func(rows, bytes int) time.Time {
			return l.copy.throttle.rate.spend(&l.copy.Limits, time.Now(), rows, bytes)
		})
		return
	}
	var columns []string
	for _, k := range table.Key {
		columns = append(columns, fmt.Sprintf("%s %d", rel.Columns[k].Name, rel.Columns[k].Type))
	}
	if (!t.Started.IsZero() || t.Columns != nil) && !slices.Equal(columns, t.Columns) {
		l.anew(t, "the table has another key")
	}
	t.Columns, t.Schema, t.Table, t.table = columns, rel.Schema, rel.Name, table
	if t.Ranges != nil {
		// A partition that was detached is none of the table's any more.
		t.Ranges = slices.DeleteFunc(t.Ranges, func(r backfill.Range) bool {
			return !slices.ContainsFunc(table.Parts, func(p source.CopyPart) bool { return p.Relation == r.Relation })
		})
		l.copy.save(t)
	}
	if t.notes == nil {
		t.notes, t.streamed, t.fence = backfill.NewNotes(table.Key, l.copy.noteBytes(), t.Queue), nil, 0
	}
	if t.fence != 0 {
		l.enter(t)
	}
	hit("copy-looked")
}

// anew begins the next generation of a table's copy.
func (l *loop) anew(t *copying, why string) {
	l.log.Warn("the copy of a table begins anew", "table", t.name(), "reason", why)
	l.unread(t)
	if !t.Started.IsZero() {
		t.Generation++
	}
	if t.State != backfill.Paused {
		t.State = backfill.Waiting
	}
	t.Ranges, t.Queue, t.Columns, t.Rows, t.Bytes, t.Newer, t.Started = nil, nil, nil, 0, 0, 0, time.Time{}
	t.table, t.notes, t.fence = nil, nil, 0
	l.copy.save(t)
}

// isCut says that each part of a table has its ranges.
func (t *copying) isCut() bool {
	have := t.cutParts()
	return t.Ranges != nil && !slices.ContainsFunc(t.table.Parts, func(p source.CopyPart) bool { return !slices.Contains(have, p.Relation) })
}

func (t *copying) cutParts() (out []uint32) {
	for i := range t.Ranges {
		out = append(out, t.Ranges[i].Relation)
	}
	return out
}

// cut takes the ranges of a table, or of parts that it has got since.
func (l *loop) cut(t *copying, ranges []backfill.Range) {
	if t.Ranges == nil {
		t.Ranges, t.State, t.Started = []backfill.Range{}, backfill.Copying, now()
	}
	t.Ranges = append(t.Ranges, ranges...)
	l.copy.save(t)
	l.enter(t)
	l.finishCopy(t) // there may be no row
}

// enter begins to read each range behind what of it has its place.
func (l *loop) enter(t *copying) {
	t.ranges = nil
	if t.table == nil {
		return // it is looked at again first
	}
	for i := range t.Ranges {
		saved := &t.Ranges[i]
		if saved.Done {
			continue
		}
		r := &copyRange{index: i, after: decode.Tuple(saved.From()), rows: min(1000, l.copy.mostRows())}
		for _, p := range t.table.Parts {
			if p.Relation == saved.Relation && p.Rows > 0 && p.Bytes > 0 {
				r.rows = min(l.copy.mostRows(), max(100, int(float64(l.copy.chunkBytes())*0.5*float64(p.Rows)/float64(p.Bytes))))
			}
		}
		t.ranges = append(t.ranges, r)
	}
}

// note notes a change of a table that is being copied.
// It says whether the change is left out of the stream, because the rows of the table that are read later contain it.
func (l *loop) note(c *decode.Change, covered bool) (contained bool) {
	t := l.copy.find(c.Relation.ID)
	if t == nil {
		return false
	}
	if t.whole != nil {
		t.streamed = c.Relation
		t.whole.delivered(l.builder.tx.XID)
		if contained = t.whole.contains(l.builder.tx.XID); !contained {
			l.changedWhole(t, c.Relation)
		}
		return contained
	}
	if c.Relation != t.streamed {
		l.streamed(t, c.Relation)
		if t.notes == nil {
			return false
		}
	}
	if !t.notes.Change(l.builder.tx.XID, c, covered) {
		l.otherKey(t, "the stream brings a change that does not say its key")
		return false
	}
	if t.notes.Full() && !t.resting {
		// The copy begins to note again, so what was delivered before needs a fence again.
		l.lookAgain(t, "the stream brings more changes of it than are noted")
		t.notes.Reset(t.keyOf(c.Relation))
		t.fence, t.after = 0, time.Now().Add(l.copy.tryAgain())
	}
	if t.notes.Moves() != t.moves {
		t.moves = t.notes.Moves()
		l.copy.save(t)
		if len(t.notes.Moved()) > copyQueue {
			l.anew(t, "more rows than can be remembered have moved to another key without their large values")
		}
	}
	return false
}

// streamed takes the version of a table that the stream has from here on. Notes are of rows with the columns of one version, so
// they begin anew with another, and with them the fence: whoever alters a table has waited for those who changed it, but whoever
// alters the columns that are published has not.
func (l *loop) streamed(t *copying, rel *decode.Relation) {
	columns := t.keyOf(rel)
	before := t.streamed
	t.streamed = rel
	switch {
	case columns == nil:
		l.otherKey(t, "the stream brings the table with another key")
	case before != nil && rel.Equal(before):
	case before != nil:
		t.notes.Reset(columns)
		l.lookAgain(t, "the table was altered")
		t.fence = 0
	default: // the first in this session: nothing is noted yet
		t.notes.Reset(columns)
		if t.table != nil && !rel.Equal(t.table.Relation) {
			l.lookAgain(t, "the table was altered")
		}
	}
	if t.resting && t.notes != nil {
		t.notes.Rest()
	}
}

// otherKey begins a copy anew, since notes by its key are not possible. The stream may be behind whoever gave the table its key, so
// this can come again until it has caught up.
func (l *loop) otherKey(t *copying, why string) {
	l.anew(t, why)
	t.after = time.Now().Add(l.copy.tryAgain())
}

// keyOf finds the columns of the key in a version of the table; nil where they are not the columns of its replica identity: a delete
// does not say them then, or two rows have the same values in them.
func (t *copying) keyOf(rel *decode.Relation) []int {
	var out []int
	n := 0
	for _, c := range rel.Columns {
		if c.Key {
			n++
		}
	}
	if n != len(t.Columns) && rel.Identity != decode.IdentityFull {
		return nil
	}
	for _, k := range t.Columns {
		i := slices.IndexFunc(rel.Columns, func(c decode.Column) bool { return c.Key && fmt.Sprintf("%s %d", c.Name, c.Type) == k })
		if i < 0 {
			return nil
		}
		out = append(out, i)
	}
	return out
}

// noteTruncate notes a truncate of tables that are being copied.
func (l *loop) noteTruncate(c *decode.Truncate, covered bool) {
	for _, rel := range c.Relations {
		t := l.copy.find(rel.ID)
		if t == nil {
			continue
		}
		if t.whole != nil {
			t.streamed = rel
			t.whole.delivered(l.builder.tx.XID)
			continue
		}
		if rel != t.streamed {
			if l.streamed(t, rel); t.notes == nil {
				continue
			}
		}
		t.notes.Truncate(l.builder.tx.XID, covered)
		if t.notes.Moves() != t.moves {
			t.moves = t.notes.Moves()
			l.copy.save(t)
		}
	}
}
