package checkpoint

import (
	"fmt"
	"time"

	"github.com/jackc/pglogrepl"
)

// Action is what to do with a source transaction. Its zero value is none of them.
type Action uint8

const (
	// Drop the whole transaction: the checkpoint covers it. What it tells about relations and types still counts.
	Drop Action = iota + 1
	// DropUpTo drops the changes that Gate.Covered names and publishes the rest: the transaction was split.
	DropUpTo
	// Publish the whole transaction.
	Publish
)

// String returns drop, drop up to or publish.
func (a Action) String() string {
	switch a {
	case Drop:
		return "drop"
	case DropUpTo:
		return "drop up to"
	case Publish:
		return "publish"
	}
	return fmt.Sprintf("Action(%d)", uint8(a))
}

// Gate stands between a stream that has just started and everything behind it: it is told each transaction's Begin and
// Commit and says what of it the checkpoint covers, and it stays shut until the stream has proved that its history is
// the checkpoint's.
//
//   - The witness must come, with the same XID and commit time. Transactions before it are dropped: after a server crash
//     the slot goes back. One with a greater commit LSN first is a refusal. A heartbeat at each start decides this also
//     on an idle database. Until the witness is committed the gate is shut: nothing may be published or confirmed.
//   - With no witness yet there is nothing to wait for: Compare has held the slot against the first position.
//   - After a drain that was confirmed the server does not send the witness again, since its end was confirmed.
//   - A transaction with commit LSN up to the witness's is dropped whole, the one with the position's commit LSN up to
//     the position, every other is published. A split transaction must come too, with its own XID and commit time.
//
// It compares and never searches. It is pure, and not safe for concurrent use.
type Gate struct {
	witness  Witness
	position Position
	split    *Split
	// awaitWitness and awaitSplit: the stream still owes it.
	awaitWitness, awaitSplit bool
	begun                    pglogrepl.LSN // commit LSN of the open transaction, 0 when there is none
}

// NewGate returns the gate for a stream that goes on from c, which Compare has accepted, on this server. c is nil when
// there is no checkpoint yet (a slot that was just created or adopted): everything is published. Gate keeps no
// reference to c.
func NewGate(c *Checkpoint, s Server) *Gate {
	if c == nil {
		return new(Gate)
	}
	g := &Gate{witness: c.Witness, position: c.Position}
	g.awaitWitness = c.Witness.Commit != 0
	// The server sends transactions whose commit record starts at or after the confirmed position, so past it none comes.
	if c.State == Drained && (c.SystemID != s.SystemID || s.Slot.Confirmed > c.Witness.Commit) {
		g.awaitWitness = false
	}
	if c.Split != nil {
		split := *c.Split
		g.split, g.awaitSplit = &split, true
	}
	return g
}

// Open says whether the stream has proved itself. Until then nothing may be published or confirmed.
func (g *Gate) Open() bool { return !g.awaitWitness }

// Witness is the checkpoint's: what a start confirms first, once the gate is open. Zero if there is none.
func (g *Gate) Witness() Witness { return g.witness }

// Position is the checkpoint's.
func (g *Gate) Position() Position { return g.position }

// Part is how many parts of the split transaction are published; 0 when the checkpoint has none.
func (g *Gate) Part() int {
	if g.split == nil {
		return 0
	}
	return g.split.Part
}

// Covered says whether the change at p of a transaction that Begin answered DropUpTo is published already.
func (g *Gate) Covered(p Position) bool { return p.Compare(g.position) <= 0 }

// Begin takes the Begin of the next transaction. The error is a *Refusal: stop, nothing after it may be used.
func (g *Gate) Begin(commit pglogrepl.LSN, xid uint32, commitTime time.Time) (Action, error) {
	if g.awaitWitness {
		switch {
		case commit > g.witness.Commit:
			return 0, &Refusal{
				Kind:   WitnessMissing,
				What:   fmt.Sprintf("the stream begins with a transaction that committed at %s, after the last published one at %s (xid %d), which it should send again: the slot was made again or advanced, or this is another history", commit, g.witness.Commit, g.witness.XID),
				Cost:   costGap,
				Remedy: fmt.Sprintf("find out what else uses the slot, and whether this is the right server; then `%s`", RecoverFromSlot),
			}
		case commit == g.witness.Commit && (xid != g.witness.XID || !commitTime.Equal(g.witness.CommitTime)):
			return 0, g.differs(WitnessDiffers, "last published", commit, xid, commitTime, g.witness.XID, g.witness.CommitTime)
		}
	}
	a := Publish
	switch {
	case commit <= g.witness.Commit:
		a = Drop
	case g.witness.Commit == 0 && commit < g.position.Commit:
		// From before the slot began: an adopted one goes back behind that too when its server crashes.
		a = Drop
	case g.split == nil:
	case commit == g.position.Commit:
		if xid != g.split.XID || !commitTime.Equal(g.split.CommitTime) {
			return 0, g.differs(SplitDiffers, "half published", commit, xid, commitTime, g.split.XID, g.split.CommitTime)
		}
		g.awaitSplit = false
		a = DropUpTo
	case commit > g.position.Commit && g.awaitSplit:
		return 0, &Refusal{
			Kind:   SplitMissing,
			What:   fmt.Sprintf("the stream steps from before the half published transaction at %s (xid %d, %d parts) to one that committed at %s", g.position.Commit, g.split.XID, g.split.Part, commit),
			Cost:   fmt.Sprintf("to go on leaves transaction %d half published for ever", g.split.XID),
			Remedy: fmt.Sprintf("find out whether this is the right server, and whether the publication was made again; then `%s`", RecoverFromSlot),
		}
	}
	g.begun = commit
	return a, nil
}

// Commit takes the Commit of the transaction that the last Begin opened; with the witness's the gate opens. An error
// that is no *Refusal says that the two do not belong together.
func (g *Gate) Commit(commit, end pglogrepl.LSN) error {
	if commit == 0 || commit != g.begun {
		return fmt.Errorf("commit at %s, but the transaction began with commit LSN %s", commit, g.begun)
	}
	g.begun = 0
	if !g.awaitWitness || commit != g.witness.Commit {
		return nil
	}
	if end != g.witness.End {
		return &Refusal{
			Kind:   WitnessDiffers,
			What:   fmt.Sprintf("the last published transaction, committed at %s, ends at %s on this server and at %s in the checkpoint: this is another history", commit, end, g.witness.End),
			Cost:   costForeign,
			Remedy: fmt.Sprintf("point source.dsn at the right server; if there is no other: `%s`", RecoverNewSlot),
		}
	}
	g.awaitWitness = false
	return nil
}

func (g *Gate) differs(kind RefusalKind, which string, commit pglogrepl.LSN, xid uint32, at time.Time, wantXID uint32, wantAt time.Time) error {
	return &Refusal{
		Kind: kind,
		What: fmt.Sprintf("at %s this server has transaction %d of %s where the %s one is %d of %s: this is another history",
			commit, xid, at.UTC().Format(time.RFC3339Nano), which, wantXID, wantAt.UTC().Format(time.RFC3339Nano)),
		Cost:   costForeign,
		Remedy: fmt.Sprintf("point source.dsn at the right server; if there is no other: `%s`", RecoverNewSlot),
	}
}
