package decode

import "github.com/jackc/pglogrepl"

// Ahead looks at messages before it is their turn: at those behind the one that a Decoder has decoded, which learns nothing of it.
// It is for who can do something for many rows at once that has to be done for this one. The zero value is ready to use.
type Ahead struct {
	change             Change
	oldTuple, newTuple Tuple
}

// Update returns the change of a message that is an update of this version of its relation, nil for any other message; it and its
// slices are valid until the next call, and it has no position. begin is the transaction that the message opens, nil for none. More
// is false where rows of the relation behind the message need not be of this version, or the message is none that a Decoder takes.
func (a *Ahead) Update(rel *Relation, msg []byte) (update *Change, begin *Transaction, more bool) {
	c := cursor{msg: msg}
	switch pglogrepl.MessageType(c.byte()) {
	case pglogrepl.MessageTypeBegin:
		t := Transaction{Commit: c.lsn(), CommitTime: c.time(), XID: c.uint32()}
		return nil, &t, c.reason == ""
	case pglogrepl.MessageTypeRelation:
		r := c.relation()
		return nil, nil, c.reason == "" && (r.ID != rel.ID || r.Equal(rel))
	case pglogrepl.MessageTypeUpdate:
		if c.uint32() != rel.ID || c.reason != "" {
			return nil, nil, c.reason == ""
		}
		a.change = Change{Op: Update, Relation: rel}
		part := c.byte()
		if part == OldKey || part == OldRow {
			a.oldTuple = c.tuple(a.oldTuple, len(rel.Columns))
			a.change.OldKind, a.change.Old = part, a.oldTuple
			part = c.byte()
		}
		a.newTuple = c.tuple(a.newTuple, len(rel.Columns))
		if part != 'N' || c.reason != "" {
			return nil, nil, false
		}
		a.change.New = a.newTuple
		return &a.change, nil, true
	}
	return nil, nil, true
}
