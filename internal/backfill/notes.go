package backfill

import (
	"encoding/binary"
	"slices"

	"walferry/decode"
)

// Notes are what the stream has brought for one table while its rows are read: for each key the newest change. They hold for
// every chunk whose snapshot sees all transactions that were delivered before the first note.
//
// Of one key only the newest transaction need be known. Two transactions that change one row do so one after the other: the
// second waits until others see the first. So a snapshot that sees the newest sees them all, and those that it does not see
// are the last ones.
//
// Not safe for concurrent use.
type Notes struct {
	columns []int // places of the key's columns in a row
	limit   int
	keys    map[string]*note
	size    int
	over    bool
	emptied bool   // by a truncate
	empty   uint32 // the transaction of the newest one
	moved   map[string]Key
	moves   int // changes of moved
	covered bool
	scratch []byte
}

// note is the newest state of one key.
type note struct {
	xid uint32
	// whole: the stream has brought every value of the row, or its end. Otherwise row has the values it brought, and
	// Unchanged for what it left out.
	whole bool
	// foreign: the row came here from another key, so a row of this key that a snapshot does not see moved is another one.
	foreign bool
	row     decode.Tuple
}

// noteBytes is about what a note takes besides its key and its values.
const noteBytes = 120

// NewNotes makes notes of a table whose key is in these columns of a row, in the key's order. When they grow over limit bytes
// they are no good any more; see Full. moved are the keys that Moved is to begin with.
func NewNotes(columns []int, limit int, moved []Key) *Notes {
	n := &Notes{columns: columns, limit: limit, keys: map[string]*note{}, moved: map[string]Key{}}
	for _, k := range moved {
		n.moved[string(appendKey(nil, k))] = k
	}
	return n
}

// Reset forgets every change, for a table whose rows have their columns in other places from now on, or after Full. Moved stays.
func (n *Notes) Reset(columns []int) {
	n.columns, n.keys, n.size, n.over, n.emptied = columns, map[string]*note{}, 0, false, false
}

// Rest forgets every change and notes none until Wake or Reset: while no chunk is to be read, only Moved need go on.
func (n *Notes) Rest() {
	n.Reset(n.columns)
	n.over = true
}

// Wake begins to note again.
func (n *Notes) Wake() { n.Reset(n.columns) }

// Full says that there was more to note than the limit allows: what is noted is not all, and the notes must begin anew.
func (n *Notes) Full() bool { return n.over }

// Size is about how much memory the notes take, in bytes.
func (n *Notes) Size() int { return n.size }

// Change notes a change by its transaction. Nothing of c is kept but copies. A covered change was delivered before, to this
// instance or another one: what it moved is known. It returns false for a row that does not say its key, which no row of a
// table with a replica identity is.
func (n *Notes) Change(xid uint32, c *decode.Change, covered bool) bool {
	n.covered = covered
	switch c.Op {
	case decode.Insert:
		// An update that brings a row into the publication's row filter comes as an insert, without what it left alone: as far as the
		// stream knows, the row has come from elsewhere.
		came := lacks(c.New, c)
		return n.put(xid, c.New, c, came, !came)
	case decode.Delete:
		return n.put(xid, c.Old, nil, false, true)
	case decode.Update:
		if c.OldKind == decode.OldNone {
			return n.put(xid, c.New, c, false, !lacks(c.New, c))
		}
		n.scratch = n.key(n.scratch[:0], c.Old)
		old, now := string(n.scratch), n.keyed(c)
		whole := !lacks(now, c)
		if n.scratch = n.key(n.scratch[:0], now); n.scratch != nil && old == string(n.scratch) {
			return n.put(xid, now, c, false, whole)
		}
		return n.put(xid, c.Old, nil, false, true) && n.put(xid, now, c, true, whole)
	case decode.Read:
	}
	return false
}

// Truncate notes that a transaction has emptied the table.
func (n *Notes) Truncate(xid uint32, covered bool) {
	n.emptied, n.empty = true, xid
	if !covered && len(n.moved) > 0 {
		clear(n.moved)
		n.moves++
	}
}

// keyed is the new row of an update with its whole key: a column of it that the server left out, as a long text, is in the old row
// and the same, while the others may have changed.
func (n *Notes) keyed(c *decode.Change) decode.Tuple {
	out, copied := c.New, false
	for _, k := range n.columns {
		if k < len(out) && k < len(c.Old) && out[k].Kind == decode.Unchanged {
			if !copied {
				out, copied = slices.Clone(out), true
			}
			out[k] = c.Old[k]
		}
	}
	return out
}

// lacks says that the stream brings the new row of a change without one of its values.
func lacks(row decode.Tuple, c *decode.Change) bool {
	for i := range row {
		if row[i].Kind == decode.Unchanged && (c.OldKind != decode.OldRow || i >= len(c.Old) || c.Old[i].Kind == decode.Unchanged) {
			return true
		}
	}
	return false
}

// put notes the newest state under the key that is in row. c has its values, nil for a row that is gone.
func (n *Notes) put(xid uint32, row decode.Tuple, c *decode.Change, moved, whole bool) bool {
	if n.scratch = n.key(n.scratch[:0], row); n.scratch == nil {
		return false
	}
	if !n.covered {
		switch {
		case whole:
			n.forget(n.scratch)
		case moved:
			n.moved[string(n.scratch)] = KeyOf(row, n.columns)
			n.moves++
		}
	}
	if n.over {
		return true
	}
	old := n.keys[string(n.scratch)]
	if old == nil {
		n.size += len(n.scratch) + noteBytes
		old = &note{}
		n.keys[string(n.scratch)] = old
	}
	before := *old
	*old = note{xid: xid, whole: whole, foreign: moved}
	switch {
	case whole:
	case moved:
	case before.whole:
		// The stream has brought all of the row before, and now what has changed of it.
		old.whole = true
	case before.foreign:
		old.foreign = true
	case before.row != nil:
		old.row = merged(before.row, c.New)
	default:
		old.row = clone(c.New)
	}
	n.size += size(old.row) - size(before.row)
	if n.size > n.limit {
		n.over = true
		n.keys = map[string]*note{}
	}
	return true
}

// Moved are the keys to which rows have come from another key without all of their values, and of which no change since has
// brought the whole row: what a chunk knows of them, if one reads them at all, is for Take to say. It is for the caller to
// read, until the next call of a method. Moves counts their changes.
func (n *Notes) Moved() map[string]Key { return n.moved }

// Moves counts the changes of Moved.
func (n *Notes) Moves() int { return n.moves }

// Asked takes out of Moved a key that was asked for by itself, under s: a row that did not come is gone or has moved on, and the
// events of that say so. But a transaction can be delivered before it is seen, and then the row has not come to its key yet.
func (n *Notes) Asked(s *decode.Snapshot, k Key) {
	n.scratch = appendKey(n.scratch[:0], k)
	if note := n.keys[string(n.scratch)]; note == nil || s.Sees(note.xid) {
		n.forget(n.scratch)
	}
}

// Has says that a key is in Moved.
func (n *Notes) Has(k Key) bool {
	_, ok := n.moved[string(appendKey(n.scratch[:0], k))]
	return ok
}

func (n *Notes) forget(key []byte) {
	if _, ok := n.moved[string(key)]; ok {
		delete(n.moved, string(key))
		n.moves++
	}
}

// Verdict is what becomes of a row that a chunk has read.
type Verdict uint8

// Verdicts. Older: the stream has brought the row's newer state, or its end. Mixed: it has brought a newer state without the
// values that it left alone, so the row is placed with these from the chunk and all others from the stream.
const (
	Current Verdict = iota + 1
	Older
	Mixed
)

// Row says what becomes of a row that was read under s and has its key in these columns. With Mixed the row is returned as it is
// now; its values are row's and the notes', so it is only of use where both have the same columns. Whoever alters the table waits
// for every transaction that has changed it, but whoever alters the published columns does not.
func (n *Notes) Row(s *decode.Snapshot, row decode.Tuple, columns []int) (Verdict, decode.Tuple) {
	if n.emptied && !s.Sees(n.empty) {
		return Older, nil
	}
	if len(n.keys) == 0 {
		return Current, row
	}
	n.scratch = appendKeyOf(n.scratch[:0], row, columns)
	k := n.keys[string(n.scratch)]
	switch {
	case k == nil || s.Sees(k.xid):
		return Current, row
	case k.row == nil:
		return Older, nil
	}
	return Mixed, merged(row, k.row)
}

// Placed notes that a row, with its key in these columns, has been placed with all its values: it need not be read by its key.
func (n *Notes) Placed(row decode.Tuple, columns []int) {
	if len(n.moved) > 0 {
		n.scratch = appendKeyOf(n.scratch[:0], row, columns)
		n.forget(n.scratch)
	}
}

// Prune forgets what all of these snapshots see: of every chunk under way one that is not newer than its own, and, for those to
// come, one that has been taken.
func (n *Notes) Prune(snapshots ...*decode.Snapshot) {
	seen := func(xid uint32) bool {
		return !slices.ContainsFunc(snapshots, func(s *decode.Snapshot) bool { return !s.Sees(xid) })
	}
	for key, k := range n.keys {
		if seen(k.xid) {
			n.size -= len(key) + noteBytes + size(k.row)
			delete(n.keys, key)
		}
	}
	if n.emptied && seen(n.empty) {
		n.emptied = false
	}
}

// key appends a row's key; nil when the row does not say it. Each column is its length and its bytes, so no two keys are
// written alike.
func (n *Notes) key(dst []byte, row decode.Tuple) []byte { return appendKeyOf(dst, row, n.columns) }

func appendKeyOf(dst []byte, row decode.Tuple, columns []int) []byte {
	for _, c := range columns {
		if c >= len(row) || row[c].Kind == decode.Null || row[c].Kind == decode.Unchanged {
			return nil
		}
		dst = appendColumn(dst, row[c].Data)
	}
	return dst
}

func appendKey(dst []byte, k Key) []byte {
	for _, d := range k {
		dst = appendColumn(dst, d.Data)
	}
	return dst
}

func appendColumn(dst, data []byte) []byte {
	return append(binary.BigEndian.AppendUint32(dst, uint32(len(data))), data...)
}

// merged is base with what over brings of it.
func merged(base, over decode.Tuple) decode.Tuple {
	out := clone(over)
	for i := range out {
		if out[i].Kind == decode.Unchanged && i < len(base) {
			out[i] = base[i]
		}
	}
	return out
}

func clone(t decode.Tuple) decode.Tuple {
	out := slices.Clone(t)
	for i := range out {
		out[i].Data = slices.Clone(out[i].Data)
	}
	return out
}

func size(t decode.Tuple) int {
	n := 0
	for i := range t {
		n += len(t[i].Data) + 40
	}
	return n
}
