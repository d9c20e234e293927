package pipeline

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"time"

	"walferry/checkpoint"
	"walferry/decode"
	"walferry/internal/backfill"
	"walferry/schema"
)

// place places every chunk that the stream has come far enough for. It is called between two transactions of the stream, and
// nothing of the stream comes between the pieces of a chunk that is larger than a batch.
func (l *loop) place(ctx context.Context) error {
	for _, t := range slices.Clone(l.copy.tables) {
		if t.whole != nil {
			if err := l.placeWhole(ctx, t); err != nil {
				return err
			}
			continue
		}
		for _, r := range slices.Clone(t.ranges) { // a range that is done leaves them
			for len(r.pending) > 0 && r.pending[0].chunk.LSN <= l.delivered {
				j := r.pending[0]
				r.pending = r.pending[1:]
				if err := l.placeChunk(ctx, t, r, j); err != nil {
					return err
				}
			}
		}
		if j := t.queued; j != nil && j.chunk.LSN <= l.delivered {
			t.queued = nil
			if err := l.placeChunk(ctx, t, nil, j); err != nil {
				return err
			}
		}
	}
	return nil
}

// placeChunk appends the rows of a chunk as reads, except those that the stream has newer ones for. A row that cannot be
// published holds up the copy of its table, and nothing else: the stream goes on, and what came before the row has its place.
func (l *loop) placeChunk(ctx context.Context, t *copying, r *copyRange, j *copyJob) error {
	l.copy.pending--
	j.waited()
	defer l.copy.release(j)
	p := placing{loop: l, t: t, r: r, j: j}
	if err := p.place(ctx); err != nil {
		if !errors.Is(err, errNotCaptured) && retryable(err) || errors.Is(err, errTextMode) {
			return err
		}
		p.down()
		l.hold(t, err)
		l.rest(t)
		t.after = time.Now().Add(l.copy.tryMended()) // somebody has to mend it
		return nil
	}
	t.Bytes += int64(len(j.chunk.Data))
	if r == nil {
		t.queueing = false
		if !j.chunk.Cut { // or the rows of some of them were not read, and nobody knows of which
			for _, k := range j.query.Keys {
				t.notes.Asked(&j.chunk.Snapshot, backfill.Key(k))
			}
		}
	} else {
		saved := &t.Ranges[r.index]
		if saved.At = backfill.Key(j.chunk.Last); r.read && len(r.pending) == 0 {
			saved.Done, saved.At, saved.After, saved.To = true, nil, nil, nil
			t.ranges = slices.DeleteFunc(t.ranges, func(x *copyRange) bool { return x == r })
		}
	}
	t.moves = t.notes.Moves()
	l.copy.save(t)
	t.prune()
	l.finishCopy(t)
	hit("chunk-placed")
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
	r     *copyRange // nil for queued keys
	j     *copyJob
	rel   *decode.Relation
	table *table
	at    decode.Position
	row   decode.Tuple // the one that is held back until it is known whether it is the last
	next  decode.Tuple
	key   decode.Tuple // of the newest row in the batch
	final bool         // of a table without a key: the last piece
}

func (p *placing) place(ctx context.Context) (err error) {
	p.rel = p.t.table.Relation
	if s := p.t.streamed; s != nil && s.Equal(p.rel) {
		p.rel = s // so it is the version that the next row of the stream has, if nothing changes
	}
	// Behind everything of the newest transaction, before anything of the next one.
	p.at = decode.Position{Commit: p.whole.Commit, Change: p.whole.End}
	if p.table, err = p.loop.table(ctx, p.rel, p.at); err != nil {
		return err
	}
	if p.table == nil {
		return errNotCaptured
	}
	kind := decode.Binary
	if p.textMode {
		kind = decode.Text
	}
	rows := decode.NewCopyReader(slices.Repeat([]decode.Kind{kind}, len(p.rel.Columns)), max(len(p.j.chunk.Data), 1))
	rows.Feed(p.j.chunk.Data)
	held := false
	for range p.j.chunk.Rows {
		row, err := rows.Next()
		if err == nil && row == nil {
			err = errors.New("it ends too early")
		}
		if err != nil {
			return fmt.Errorf("a chunk of table %s: %w", p.rel, err)
		}
		if p.t.notes != nil {
			// Of a key that was asked for by itself the stream may have brought all since: then it has been read before.
			over := p.r == nil && !p.t.notes.Has(backfill.KeyOf(row, p.t.table.Key))
			var verdict backfill.Verdict
			if verdict, row = p.t.notes.Row(&p.j.chunk.Snapshot, row, p.t.table.Key); over || verdict == backfill.Older {
				p.t.Newer++
				p.copy.read++
				continue
			}
		}
		p.next = append(p.next[:0], row...)
		if held {
			if err := p.append(ctx, false); err != nil {
				return err
			}
		}
		p.row, p.next, held = p.next, p.row, true
	}
	if held {
		return p.append(ctx, p.last())
	}
	return nil
}

// last says that the row at hand is the last of the table.
func (p *placing) last() bool {
	if p.t.whole != nil {
		return p.final
	}
	if p.r == nil && p.j.chunk.Cut || p.r != nil && !(p.r.read && len(p.r.pending) == 0) {
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

// append appends the row at hand. When the batch is full it goes out with what of the chunk is in it.
func (p *placing) append(ctx context.Context, last bool) error {
	l, t := p.loop, p.t
	if l.full() {
		p.down()
		if err := l.room(ctx); err != nil {
			return err
		}
		hit("chunk-split")
	}
	marker := "true"
	switch {
	case last && l.copy.alone(t):
		marker = "last"
	case last:
		marker = "last_in_data_collection"
	case !l.copy.begun:
		marker = "first"
	case t.Rows == 0:
		marker = "first_in_data_collection"
	}
	c := &decode.Change{Op: decode.Read, Relation: p.rel, New: p.row, Position: p.at}
	err := l.builder.read(p.table, c, t.Generation, t.Rows+1, p.j.chunk.Read, marker)
	if value, ok := errors.AsType[*schema.ValueError](err); ok && value.Stale {
		newer, aerr := l.again(ctx, p.rel, p.at)
		if aerr != nil {
			return aerr
		}
		if newer != nil {
			p.table = newer
			err = l.builder.read(p.table, c, t.Generation, t.Rows+1, p.j.chunk.Read, marker)
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
