package pipeline

import (
	"context"
	"errors"
	"slices"
	"time"

	"walferry/decode"
	"walferry/schema"
	"walferry/sink"
	"walferry/source"
)

// refetchPause is how long no row of a table is read after the server has not let one be read: each may have cost a time-out.
const refetchPause = 30 * time.Second

// Rows of a table are read many at a time: those whose updates are in the block at hand, behind the one whose turn it is.
const (
	// refetchFirst is for how many rows the first question of a table asks; the answers tell how large they are.
	refetchFirst = 32
	// refetchMost: more of them cost no less.
	refetchMost = 256
	// refetchBytes bounds the values that wait for their updates' turn, those of a single row aside.
	refetchBytes = 1 << 20
)

// refetched is what the rows of a change that were read again put into it, and what was read for those behind it.
type refetched struct {
	columns []int
	names   []string
	text    []byte

	frames []source.Frame // of the block at hand
	at     int            // of these, the one at hand
	ahead  decode.Ahead
	waits  map[int]waiting // by their frames
	bytes  int             // of the values in waits
}

// waiting is what was read for a change before its turn.
type waiting struct {
	table   *table
	columns []int // that were read; at least those that the change lacks
	values  decode.Tuple
}

// begin is told of a new block.
func (r *refetched) begin(frames []source.Frame) {
	r.frames, r.bytes = frames, 0
	clear(r.waits)
}

// take hands out what was read for the change at hand; false for nothing.
func (r *refetched) take(t *table) (waiting, bool) {
	w, ok := r.waits[r.at]
	if ok {
		delete(r.waits, r.at)
		r.bytes -= size(w.values)
	}
	return w, ok && w.table == t // of another version of the table it may lack a column
}

func size(row decode.Tuple) (n int) {
	for i := range row {
		n += len(row[i].Data)
	}
	return n
}

// refetch reads, by key, the columns that the change's new row lacks, where `toast: refetch` is chosen for them, and puts the
// values of now into it. What there is no value of now for, since the row is gone or has another key, or the value is null by
// now, stays marked. The stream waits for it: that is the price of this choice, and only such updates pay it, many of them
// together where they come close to one another.
func (l *loop) refetch(ctx context.Context, t *table, c *decode.Change) error {
	r := &l.refetched
	r.columns = t.enc.Refetch(r.columns[:0], c)
	if len(r.columns) == 0 || time.Now().Before(t.refetchAfter) {
		return nil
	}
	w, ok := r.take(t)
	if !ok {
		var err error
		w, err = l.ask(ctx, t, c)
		if unreadable, ok := errors.AsType[*source.UnreadableRowError](err); ok && !unreadable.Denied {
			t.refetchAfter = time.Now().Add(refetchPause)
			l.log.Warn("unchanged values stay marked for a while", "pause", refetchPause, "error", err)
			return nil
		}
		if err != nil {
			return err
		}
	}
	if w.values == nil {
		return nil
	}
	r.names = r.names[:0]
	for _, at := range r.columns {
		if v := w.values[slices.Index(w.columns, at)]; v.Kind != decode.Null {
			c.New[at] = v
			r.names = append(r.names, t.enc.FieldName(at))
		}
	}
	if len(r.names) > 0 {
		r.text = appendNames(r.text[:0], r.names)
		l.builder.refetched = r.text
	}
	return nil
}

// ask reads the row of the change at hand, and rows of changes behind it: each one's transaction is visible to the question,
// so a value is as good as one that is read in the change's own turn.
func (l *loop) ask(ctx context.Context, t *table, c *decode.Change) (waiting, error) {
	r := &l.refetched
	first, ok := source.Key(l.builder.tx.XID, c.Relation, c.New)
	if !ok {
		return waiting{}, nil
	}
	keys, frames, columns := []source.RowKey{first}, []int{r.at}, slices.Clone(r.columns)
	xid := l.builder.tx.XID
	var lacks []int
	for at := r.at + 1; at < len(r.frames) && len(keys) < t.refetchRows; at++ {
		update, begin, more := r.ahead.Update(c.Relation, r.frames[at].Payload)
		if !more {
			break
		}
		if begin != nil {
			xid = begin.XID
		}
		if update == nil {
			continue
		}
		if lacks = t.enc.Refetch(lacks[:0], update); len(lacks) == 0 {
			continue
		}
		if w, ok := r.waits[at]; ok && w.table == t {
			continue
		}
		if key, ok := source.Key(xid, c.Relation, update.New); ok {
			keys, frames = append(keys, key), append(frames, at)
			for _, column := range lacks {
				if !slices.Contains(columns, column) {
					columns = append(columns, column)
				}
			}
		}
	}
	found, err := l.cat.ReadRows(ctx, c.Relation, keys, columns, refetchBytes-r.bytes)
	if err != nil {
		return waiting{}, err
	}
	l.log.Debug("rows read again", "table", c.Relation.String(), "asked", len(keys), "read", len(found))
	read := size(found[0].Values)
	for i := 1; i < len(found); i++ {
		if found[i].Seen {
			if r.waits == nil {
				r.waits = map[int]waiting{}
			}
			n := size(found[i].Values)
			r.waits[frames[i]] = waiting{t, columns, found[i].Values}
			r.bytes += n
			read += n
		}
	}
	switch {
	case len(found) < len(keys):
		t.refetchRows = len(found)
	case len(keys) == t.refetchRows && 2*read <= refetchBytes:
		t.refetchRows = min(2*t.refetchRows, refetchMost)
	}
	return waiting{t, columns, found[0].Values}, nil
}

// unfetch marks again what refetch has read. It says whether that was anything.
func (l *loop) unfetch(c *decode.Change) bool {
	if l.builder.refetched == nil {
		return false
	}
	for _, at := range l.refetched.columns {
		c.New[at] = decode.Datum{Kind: decode.Unchanged}
	}
	l.builder.refetched = nil
	return true
}

// changeRefetched is builder.change for a table with refetched columns. A value of now that cannot be published, because it is
// too large or does not fit the row's schema, is no reason to stop before a row that has it not.
func (l *loop) changeRefetched(ctx context.Context, t *table, c *decode.Change) error {
	if err := l.refetch(ctx, t, c); err != nil {
		return err
	}
	before := l.builder.txRecords
	err := l.builder.change(t, c, false)
	if (is[*schema.ValueError](err) || is[*sink.TooLargeError](err)) && l.builder.txRecords == before && l.unfetch(c) {
		l.log.Warn("a value of now cannot be published, it stays marked", "table", c.Relation.String(), "error", err)
		err = l.builder.change(t, c, false)
	}
	l.builder.refetched = nil
	return err
}
