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
// they are no good any more; see Full.
func NewNotes(columns []int, limit int) *Notes {
	return &Notes{columns: columns, limit: limit, keys: map[string]*note{}, moved: map[string]Key{}}
}

// Full says that there was more to note than the limit allows: what is noted is not all, and the notes must begin anew.
func (n *Notes) Full() bool { return n.over }

// Size is about how much memory the notes take, in bytes.
func (n *Notes) Size() int { return n.size }

// Change notes a change by its transaction. Nothing of c is kept but copies. It returns false for a row that does not say its
// key, which no row of a table with a replica identity is.
func (n *Notes) Change(xid uint32, c *decode.Change) bool {
	if n.over {
		return true
	}
	switch c.Op {
	case decode.Insert:
		return n.put(xid, c.New, c, false, true)
	case decode.Delete:
		return n.put(xid, c.Old, nil, false, true)
	case decode.Update:
		whole := !lacks(c)
		if c.OldKind == decode.OldNone {
			return n.put(xid, c.New, c, false, whole)
		}
		n.scratch = n.key(n.scratch[:0], c.Old)
		old := string(n.scratch)
		// A key column that the server left out of the new row, as a long text, is in the old one and the same.
		if now := n.key(n.scratch[:0], c.New); now == nil || old == string(now) {
			return old != "" && n.put(xid, c.Old, c, false, whole)
		}
		return n.put(xid, c.Old, nil, false, true) && n.put(xid, c.New, c, true, whole)
	case decode.Read:
	}
	return false
}

// Truncate notes that a transaction has emptied the table.
func (n *Notes) Truncate(xid uint32) {
	n.emptied, n.empty = true, xid
	clear(n.moved)
}

// lacks says that the stream brings an update without one of its values.
func lacks(c *decode.Change) bool {
	for i := range c.New {
		if c.New[i].Kind == decode.Unchanged && (c.OldKind != decode.OldRow || i >= len(c.Old) || c.Old[i].Kind == decode.Unchanged) {
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
	old := n.keys[string(n.scratch)]
	if old == nil {
		n.size += len(n.scratch) + noteBytes
		if n.size > n.limit {
			n.over = true
			n.keys = map[string]*note{}
			return true
		}
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
	switch {
	case whole:
		delete(n.moved, string(n.scratch))
	case moved:
		n.moved[string(n.scratch)] = KeyOf(c.New, n.columns)
	}
	if n.size > n.limit {
		n.over = true
		n.keys = map[string]*note{}
	}
	return true
}

// Moved are the keys to which rows have come from another key without all of their values, and of which no change since has
// brought the whole row: what a chunk knows of them, if one reads them at all, is for Take to say. It is for the caller to
// read, until the next call of a method.
func (n *Notes) Moved() map[string]Key { return n.moved }

// Verdict is what becomes of a row that a chunk has read.
type Verdict uint8

// Verdicts. Older: the stream has brought the row's newer state, or its end. Mixed: it has brought a newer state without the
// values that it left alone, so the row is placed with these from the chunk and all others from the stream.
const (
	Current Verdict = iota + 1
	Older
	Mixed
)

// Row says what becomes of a row that was read under s. With Mixed the row is returned as it is now; its values are row's and
// the notes'.
func (n *Notes) Row(s *decode.Snapshot, row decode.Tuple) (Verdict, decode.Tuple) {
	if n.emptied && !s.Sees(n.empty) {
		return Older, nil
	}
	if len(n.keys) == 0 {
		return Current, row
	}
	n.scratch = n.key(n.scratch[:0], row)
	k := n.keys[string(n.scratch)]
	switch {
	case k == nil || s.Sees(k.xid):
		return Current, row
	case k.row == nil:
		return Older, nil
	}
	return Mixed, merged(row, k.row)
}

// Placed notes that a row has been placed with all its values: it need not be read by its key.
func (n *Notes) Placed(row decode.Tuple) {
	if len(n.moved) > 0 {
		n.scratch = n.key(n.scratch[:0], row)
		delete(n.moved, string(n.scratch))
	}
}

// Prune forgets what every chunk to come will see, and every chunk that is under way sees: s is the oldest snapshot of those,
// or the newest that was taken where none is.
func (n *Notes) Prune(s *decode.Snapshot) {
	for key, k := range n.keys {
		if s.Sees(k.xid) {
			n.size -= len(key) + noteBytes + size(k.row)
			delete(n.keys, key)
		}
	}
	if n.emptied && s.Sees(n.empty) {
		n.emptied = false
	}
}

// key appends a row's key; nil when the row does not say it. Each column is its length and its bytes, so no two keys are
// written alike.
func (n *Notes) key(dst []byte, row decode.Tuple) []byte {
	for _, c := range n.columns {
		if c >= len(row) || row[c].Kind == decode.Null || row[c].Kind == decode.Unchanged {
			return nil
		}
		dst = binary.BigEndian.AppendUint32(dst, uint32(len(row[c].Data)))
		dst = append(dst, row[c].Data...)
	}
	return dst
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
