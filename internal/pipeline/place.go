package pipeline

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/jackc/pglogrepl"

	"walferry/checkpoint"
	"walferry/decode"
	"walferry/internal/backfill"
	"walferry/schema"
)

// place places rows of chunks that the stream has come far enough for, a slice at most. It is called between two transactions of the
// stream. Rows of one chunk can have places with transactions between them: what is shown of a row holds at its own place, and
// notes are kept until the last row has its place.
func (l *loop) place(ctx context.Context) (placed bool, err error) {
	l.copy.more, l.copy.batch = false, copyBatchBytes
	if time.Since(l.brought) < copyLively {
		l.copy.batch = copyLivelyBytes
	}
	room := l.copy.sliceBytes()
	for _, t := range slices.Clone(l.copy.tables) {
		if t.whole != nil {
			if err := l.takeReady(ctx, t); err != nil {
				return placed, err
			}
		}
		for j, r := t.placeable(l.delivered); j != nil; j, r = t.placeable(l.delivered) {
			if room <= 0 || !l.placeRoom() {
				// With no room the batch goes out first.
				l.copy.more = l.placeRoom()
				return placed, nil
			}
			before := l.building.batch.Bytes()
			if err := l.placeSlice(ctx, t, r, j, room); err != nil {
				return placed, err
			}
			room -= l.building.batch.Bytes() - before
			placed = true
		}
		l.finishWhole(t)
	}
	return placed, nil
}

// placeRoom says that the batch takes more rows of a copy.
func (l *loop) placeRoom() bool {
	b := l.building.batch
	return b.Records() == 0 || b.Bytes() < min(l.copy.batch, l.cfg.Sink.MaxBatchBytes/2)
}

// placeable is the next chunk of a table that the stream has come far enough for, with its range; nil for none.
func (t *copying) placeable(delivered pglogrepl.LSN) (*copyJob, *copyRange) {
	if t.whole != nil {
		// The last one has a marker, so of each it must be known whether it is.
		if w := t.whole; (len(w.pieces) > 1 || len(w.pieces) > 0 && w.ended) && w.lsn <= delivered {
			return w.pieces[0], nil
		}
		return nil, nil
	}
	for _, r := range t.ranges {
		if len(r.pending) > 0 && r.pending[0].chunk.LSN <= delivered {
			return r.pending[0], r
		}
	}
	if j := t.queued; j != nil && j.chunk.LSN <= delivered {
		return j, nil
	}
	return nil, nil
}

// placeSlice appends rows of a chunk as reads, about as many bytes as there is room for, except those that the stream has newer ones
// for. A row that cannot be published holds up the copy of its table, and nothing else: the stream goes on, and what came before
// the row has its place.
func (l *loop) placeSlice(ctx context.Context, t *copying, r *copyRange, j *copyJob, room int) error {
	if j.placing == nil {
		j.waited()
		j.placing = &placing{loop: l, t: t, r: r, j: j, left: j.chunk.Rows}
	} else {
		hit("chunk-split")
	}
	done, err := j.placing.slice(ctx, room)
	if err != nil {
		return l.unplaced(j.placing, err)
	}
	if !done {
		j.placing.down()
		return nil
	}
	l.copy.pending--
	t.Bytes += int64(len(j.chunk.Data))
	l.stats.copiedBytes += int64(len(j.chunk.Data))
	l.copy.save(t)
	switch {
	case t.whole != nil:
		t.whole.pieces = t.whole.pieces[1:]
		t.whole.buffers <- j.chunk.Data
		hit("whole-placed")
		return nil
	case r == nil:
		t.queued, t.queueing = nil, false
		if !j.chunk.Cut { // or the rows of some of them were not read, and nobody knows of which
			for _, k := range j.query.Keys {
				t.notes.Asked(&j.chunk.Snapshot, backfill.Key(k))
			}
		}
	default:
		r.pending = r.pending[1:]
		saved := &t.Ranges[r.index]
		if saved.At = backfill.Key(j.chunk.Last); r.read && len(r.pending) == 0 {
			saved.Done, saved.At, saved.After, saved.To = true, nil, nil, nil
			t.ranges = slices.DeleteFunc(t.ranges, func(x *copyRange) bool { return x == r })
		}
	}
	t.moves = t.notes.Moves()
	l.copy.release(j)
	t.prune()
	l.finishCopy(t)
	hit("chunk-placed")
	return nil
}

// unplaced takes it that a row of a chunk could not be published.
func (l *loop) unplaced(p *placing, err error) error {
	t := p.t
	if errors.Is(err, errOtherVersion) {
		p.down()
		l.unread(t)
		l.hold(t, err)
		l.enter(t)
		return nil
	}
	if !errors.Is(err, errNotCaptured) && retryable(err) || errors.Is(err, errTextMode) {
		return err
	}
	switch {
	case t.whole != nil && errors.Is(err, errNotCaptured):
		l.breakOff(t, err)
		return nil
	case t.whole != nil:
		l.giveRest(t, err)
		return nil
	}
	p.down()
	l.hold(t, err)
	l.rest(t)
	t.after = time.Now().Add(l.copy.tryMended()) // somebody has to mend it
	return nil
}

// prune forgets the notes that every chunk sees which is under way, and every one to come.
func (t *copying) prune() {
	seen := []*decode.Snapshot{t.newest}
	for _, j := range t.flying {
		if j.floor == nil {
			return
		}
		seen = append(seen, j.floor)
	}
	for _, r := range t.ranges {
		for _, j := range r.pending {
			seen = append(seen, &j.chunk.Snapshot)
		}
	}
	if t.queued != nil {
		seen = append(seen, &t.queued.chunk.Snapshot)
	}
	t.notes.Prune(seen...)
}

// finishCopy ends a copy of which nothing is left to read.
func (l *loop) finishCopy(t *copying) {
	if t.State == backfill.Paused || t.notes == nil || !t.RangesDone() || t.queueing || t.queued != nil || len(t.notes.Moved()) > 0 {
		return
	}
	l.log.Info("the rows of a table have been copied", "table", t.name(), "rows", t.Rows, "left_out_for_newer_ones", t.Newer,
		"bytes", t.Bytes, "took", now().Sub(t.Started))
	l.end(t, backfill.Done)
}

// placing is a chunk on its way into the batch.
type placing struct {
	*loop
	t     *copying
	r     *copyRange // nil for queued keys, and for a table without a key
	j     *copyJob
	rel   *decode.Relation
	table *table
	at    decode.Position
	rows  *decode.CopyReader
	left  int          // rows that were not taken out of the chunk
	ahead bool         // next was taken out and has no place
	next  decode.Tuple // as it was read
	row   decode.Tuple // the one that is held back until it is known whether it is the last
	key   decode.Tuple // of the newest row in the batch

	change decode.Change // of row
}

// slice places rows until there is no more room, and says whether all have their place or none. A row is looked up in the notes at
// its own place: one that was taken out of the chunk and found no room is looked up again.
func (p *placing) slice(ctx context.Context, room int) (done bool, err error) {
	p.rel = p.t.version()
	// Behind everything of the newest transaction, before anything of the next one.
	p.at = decode.Position{Commit: p.whole.Commit, Change: p.whole.End}
	if p.table, err = p.loop.table(ctx, p.rel, p.at); err != nil {
		return false, err
	}
	if p.table == nil {
		return false, errNotCaptured
	}
	p.builder.beginRead(p.at, p.j.chunk.Read)
	if p.rows == nil {
		kind := decode.Binary
		if p.textMode {
			kind = decode.Text
		}
		p.rows = decode.NewCopyReader(slices.Repeat([]decode.Kind{kind}, len(p.rel.Columns)), max(len(p.j.chunk.Data), 1))
		p.rows.Feed(p.j.chunk.Data)
	}
	begun := p.building.batch.Bytes()
	held := false
	for p.ahead || p.left > 0 {
		if !p.ahead {
			if err := p.take(); err != nil {
				return false, err
			}
		}
		row, ok, err := p.current(p.next)
		if err != nil {
			return false, err
		}
		if ok && held {
			if p.building.batch.Bytes()-begun >= room || !p.placeRoom() {
				// What is held back has a place here; next has not.
				return false, p.append(ctx, false)
			}
			if err := p.append(ctx, false); err != nil {
				return false, err
			}
		}
		p.ahead = false
		if ok {
			p.row, held = append(p.row[:0], row...), true
		} else {
			p.t.Newer++
			p.copy.read++
		}
	}
	if held {
		return true, p.append(ctx, p.last())
	}
	return true, nil
}

// take takes the next row out of the chunk.
func (p *placing) take() error {
	row, err := p.rows.Next()
	if err == nil && row == nil {
		err = errors.New("it ends too early")
	}
	if err != nil {
		return fmt.Errorf("a chunk of table %s: %w", p.rel, err)
	}
	p.left--
	p.next, p.ahead = row, true // the reader's until the next call of it
	return nil
}

// current is a row as it is placed here; false for one that the stream has brought since.
func (p *placing) current(row decode.Tuple) (decode.Tuple, bool, error) {
	if p.t.notes == nil {
		return row, true, nil
	}
	// Of a key that was asked for by itself the stream may have brought all since: then it has been read before.
	if p.r == nil && !p.t.notes.Has(backfill.KeyOf(row, p.t.table.Key)) {
		return nil, false, nil
	}
	verdict, row := p.t.notes.Row(&p.j.chunk.Snapshot, row, p.t.table.Key)
	if verdict == backfill.Mixed && !p.t.streamed.Equal(p.t.table.Relation) {
		return nil, false, errOtherVersion
	}
	return row, verdict != backfill.Older, nil
}

// version is the version of the table that its rows are read in; where the stream has it too, the one that its next row has, if
// nothing changes.
func (t *copying) version() *decode.Relation {
	if s := t.streamed; s != nil && s.Equal(t.table.Relation) {
		return s
	}
	return t.table.Relation
}

// last says that the row at hand is the last of the table.
func (p *placing) last() bool {
	if w := p.t.whole; w != nil {
		return w.ended && len(w.pieces) == 1
	}
	if p.r == nil && p.j.chunk.Cut || p.r != nil && !(p.r.read && len(p.r.pending) == 1) {
		return false
	}
	for i := range p.t.Ranges {
		if !p.t.Ranges[i].Done && (p.r == nil || i != p.r.index) {
			return false
		}
	}
	left := len(p.t.notes.Moved())
	for _, k := range append(p.j.query.Keys, decode.Tuple(backfill.KeyOf(p.row, p.t.table.Key))) {
		if p.t.notes.Has(backfill.Key(k)) {
			left--
		}
	}
	return left <= 0
}

// append appends the row at hand.
func (p *placing) append(ctx context.Context, last bool) error {
	l, t := p.loop, p.t
	marker := "true"
	switch {
	case last && l.copy.alone(t):
		marker = "last"
	case !l.copy.begun:
		marker = "first"
	case last:
		marker = "last_in_data_collection"
	case t.Rows == 0:
		marker = "first_in_data_collection"
	}
	p.change = decode.Change{Op: decode.Read, Relation: p.rel, New: p.row, Position: p.at}
	c := &p.change
	err := l.builder.read(p.table, c, t.Generation, t.Rows+1, marker, p.r == nil && t.notes != nil)
	if value, ok := errors.AsType[*schema.ValueError](err); ok && value.Stale {
		newer, aerr := l.again(ctx, p.rel, p.at)
		if aerr != nil {
			return aerr
		}
		if newer != nil {
			p.table = newer
			err = l.builder.read(p.table, c, t.Generation, t.Rows+1, marker, p.r == nil && t.notes != nil)
		}
	}
	if err != nil {
		return l.stopAt(p.table, c, err)
	}
	l.stats.changes[Read]++
	l.copy.begun = true
	t.Rows++
	if t.notes == nil {
		return nil
	}
	l.copy.read++
	t.notes.Placed(p.row, t.table.Key)
	p.key = p.key[:0]
	for _, k := range t.table.Key {
		p.key = append(p.key, p.row[k])
	}
	return nil
}

// down takes down how far the range has come with what is in the batch.
func (p *placing) down() {
	if p.r != nil && len(p.key) > 0 {
		p.t.Ranges[p.r.index].At = backfill.KeyOf(p.key, identity(len(p.key)))
	}
	if p.t.notes != nil {
		p.t.moves = p.t.notes.Moves()
	}
	p.copy.save(p.t)
}

// identity is 0 to n-1.
func identity(n int) []int {
	out := make([]int, n)
	for i := range out {
		out[i] = i
	}
	return out
}

// errNotCaptured holds up a copy until the list of tables ends it: placed, its rows would count as copied.
var errNotCaptured = errors.New("the table is not captured any more")

// errOtherVersion holds up a copy until the change that a row was to be merged with is seen by a snapshot, or the stream has come to
// the version of the table that was read. Whoever alters the published columns waits for nobody.
var errOtherVersion = errors.New("the stream has changes of it from before its published columns were altered, which nobody sees yet")

// sealCopies puts the copies that are to be saved with a batch into it.
func (l *loop) sealCopies(s *sealed) error {
	s.read, l.copy.read = l.copy.read, 0
	if !l.copy.dirty {
		return nil
	}
	for _, t := range l.copy.tables {
		if !t.dirty {
			continue
		}
		t.dirty = false
		if t.notes != nil {
			t.Queue = slices.Collect(maps.Values(t.notes.Moved()))
		}
		payload, err := json.Marshal(&t.Copy)
		if err == nil && len(payload) > copyRecord && len(t.Queue) > 0 {
			l.anew(t, "the keys of the rows that have moved to another one without their large values are longer than can be saved")
			t.dirty = false
			payload, err = json.Marshal(&t.Copy)
		}
		if err != nil {
			return fmt.Errorf("encode the copy of table %s: %w", t.name(), err)
		}
		s.copies = append(s.copies, &checkpoint.Copy{OID: t.Relation, Payload: payload})
	}
	s.commands, l.copy.asked = l.copy.asked, nil
	l.copy.dirty = false
	l.copiedBatches++
	return nil
}

// CopyAgain is the record of a table's copy as that of one that is not captured: its capture begins with the next start. That
// somebody does not want it copied stays.
func CopyAgain(saved *checkpoint.Copy) (*checkpoint.Copy, error) {
	var c backfill.Copy
	if err := json.Unmarshal(saved.Payload, &c); err != nil {
		return nil, fmt.Errorf("saved copy of table %d: %w", saved.OID, err)
	}
	if c.State != backfill.Cancelled {
		c.State = backfill.Uncaptured
	}
	c.Ranges, c.Queue = nil, nil
	payload, err := json.Marshal(&c)
	return &checkpoint.Copy{OID: saved.OID, Payload: payload}, err
}
