package decode

import (
	"cmp"
	"fmt"

	"github.com/jackc/pglogrepl"
)

// Op is what happened to a row.
type Op byte

const (
	Insert Op = 'I'
	Update Op = 'U'
	Delete Op = 'D'
	// Read is a row that the first copy found in the table. The stream never sends it.
	Read Op = 'R'
)

// String returns insert, update, delete or read.
func (o Op) String() string {
	switch o {
	case Insert:
		return "insert"
	case Update:
		return "update"
	case Delete:
		return "delete"
	case Read:
		return "read"
	}
	return fmt.Sprintf("Op(%q)", byte(o))
}

// What Change.Old holds.
const (
	// OldNone: the server sent no old tuple.
	OldNone byte = 0
	// OldKey: only the columns of the replica identity have values, every other one is null whatever the row held.
	OldKey byte = 'K'
	// OldRow: the whole row before (replica identity full).
	OldRow byte = 'O'
)

// Position is the place of a change in the stream: the commit LSN of its transaction, the LSN of its WAL record, and
// which of the row and truncate messages with that LSN in that transaction it is. The parts are compared in this
// order. Transactions arrive in commit order, so the change LSN alone falls between transactions and orders nothing;
// many rows share one (those of a COPY do), hence N.
//
// N counts from 1, before any filter or policy, so it is the same however walferry is configured. The zero Position
// is before everything.
type Position struct {
	Commit, Change pglogrepl.LSN
	N              uint32
}

// Compare returns -1, 0 or 1 as p is before, the same as, or after q.
func (p Position) Compare(q Position) int {
	return cmp.Or(cmp.Compare(p.Commit, q.Commit), cmp.Compare(p.Change, q.Change), cmp.Compare(p.N, q.N))
}

// IsZero says whether p is before everything.
func (p Position) IsZero() bool { return p == Position{} }

// String returns the position as people and logs see it: "16/B374D848,16/B374D000,3".
func (p Position) String() string {
	return fmt.Sprintf("%s,%s,%d", p.Commit, p.Change, p.N)
}

// Event is one decoded message: *Begin, *Commit, *Change, *Truncate or *Message. It and everything it refers to are
// valid until the next call to Decode, except *Relation and strings, which never change.
type Event interface{ event() }

// Change is one row that was inserted, updated or deleted, or read by the first copy.
type Change struct {
	Op       Op
	Relation *Relation
	// Old is the row before: nil, the key (OldKey) or the whole row (OldRow), as OldKind says. An update has one only
	// when its key changed or the replica identity is full.
	Old Tuple
	// New is the row after; nil for a delete.
	New      Tuple
	OldKind  byte
	Position Position
	// Ordinal is the number of this row or truncate message in its transaction, from 1, counted before any filter.
	// It is for people and checks; resuming uses Position.
	Ordinal uint64
}

// Truncate is one TRUNCATE command, of one or several tables. It takes one position and one ordinal.
type Truncate struct {
	Relations                []*Relation
	Cascade, RestartIdentity bool
	Position                 Position
	Ordinal                  uint64
}

// Message is what an application wrote by pg_logical_emit_message. A transactional one stands at its place among the
// rows of its transaction, any other between transactions. It takes no position: who reads them and who does not
// would otherwise count differently.
type Message struct {
	Transactional bool
	// LSN is the end of the message's WAL record, so the row that follows may have the same as its change LSN.
	LSN    pglogrepl.LSN
	Prefix string
	// Content aliases the decoded message, as Datum.Data does.
	Content []byte
}

func (*Begin) event()    {}
func (*Commit) event()   {}
func (*Change) event()   {}
func (*Truncate) event() {}
func (*Message) event()  {}
