package checkpoint

import (
	"fmt"

	"github.com/jackc/pglogrepl"
)

// Commands that accept what a refusal warns of. They are exact: an operator copies them.
const (
	// RecoverFromSlot forgets the checkpoint and believes the slot: the stream goes on where the slot is.
	RecoverFromSlot = "walferry recover --from-slot"
	// RecoverNewSlot forgets checkpoint and slot and begins anew with the changes from now on.
	RecoverNewSlot = "walferry recover --new-slot"
	// RunAfterUpgrade accepts, once and only after walferry drain, another system identifier.
	RunAfterUpgrade = "walferry run --after-upgrade"
)

// RefusalKind is why a server and a checkpoint do not belong together.
type RefusalKind string

const (
	ForeignSystem         RefusalKind = "foreign-system"          // another database cluster
	ForeignSlot           RefusalKind = "foreign-slot"            // another pipeline under this name
	NotDrained            RefusalKind = "not-drained"             // an upgrade is claimed that was not prepared
	BehindCheckpoint      RefusalKind = "behind-checkpoint"       // the server's WAL ends before what was published
	OldPrimary            RefusalKind = "old-primary"             // an earlier timeline than the checkpoint's
	Diverged              RefusalKind = "diverged"                // a timeline that left ours before what was published
	SlotLost              RefusalKind = "slot-lost"               // a checkpoint without a slot
	SlotWithoutCheckpoint RefusalKind = "slot-without-checkpoint" // a slot without a checkpoint
	SlotAhead             RefusalKind = "slot-ahead"              // the slot was confirmed past the checkpoint
	WitnessMissing        RefusalKind = "witness-missing"         // the stream steps over the last published transaction
	WitnessDiffers        RefusalKind = "witness-differs"         // another transaction stands in its place
	SplitMissing          RefusalKind = "split-missing"           // the stream steps over the half published transaction
	SplitDiffers          RefusalKind = "split-differs"           // another transaction stands in its place
)

// Refusal says that a stream must not go on from a checkpoint. Nothing was published or confirmed, and it stays so
// until an operator decides: repeating the start gives the same answer.
type Refusal struct {
	Kind RefusalKind
	What string // what happened, one clause
	Cost string // what it would cost to go on, one clause
	// Commands that go on, or what to do first where none should.
	Remedy string
}

func (e *Refusal) Error() string { return e.What }

// Hint says what it would cost to go on, and what does it.
func (e *Refusal) Hint() string { return e.Cost + "; " + e.Remedy }

// Costs that several refusals share.
const (
	costGap     = "to go on leaves a gap: changes committed between the checkpoint and the new start are never published"
	costForeign = "to go on would mix the changes of two histories in one set of topics, and consumers could not tell them apart"
)

// Server is what a replication connection and its slot say, read after START_REPLICATION has succeeded.
type Server struct {
	SystemID string
	Timeline int32
	WALEnd   pglogrepl.LSN // flushed end of the WAL (IDENTIFY_SYSTEM)
	// History of Timeline: each timeline on the way to it, and where it ended (TIMELINE_HISTORY). Needed only when the
	// checkpoint's timeline is another.
	History []Switch
	Slot    Slot
}

// Switch is one line of a timeline's history: Timeline ended at LSN, where the next one began.
type Switch struct {
	Timeline int32
	LSN      pglogrepl.LSN
}

// Slot is what the comparison needs of the replication slot.
type Slot struct {
	Name      string
	Exists    bool
	Confirmed pglogrepl.LSN // confirmed_flush_lsn
}

// Consent is what the operator has agreed to beforehand.
type Consent struct {
	// Adopt takes a slot that was made by somebody else (slot.adopt), where there is no checkpoint.
	Adopt bool
	// AfterUpgrade accepts another system identifier, where the checkpoint says drained.
	AfterUpgrade bool
}

// CompareOwner is the part of Compare that needs no slot: it asks, before every InitProducerID, whether the topic is this
// pipeline's at all, so that a foreign instance disturbs nobody. c may be nil.
func CompareOwner(c *Checkpoint, systemID, slot string, ok Consent) error {
	if c == nil {
		return nil
	}
	if c.Slot != slot {
		return &Refusal{
			Kind:   ForeignSlot,
			What:   fmt.Sprintf("the checkpoint is of slot %q, and this pipeline is configured for slot %q: two pipelines have one name, or the slot was renamed", c.Slot, slot),
			Cost:   "to go on would fence the other pipeline and overwrite its progress",
			Remedy: fmt.Sprintf("give this pipeline a name of its own, or set slot.name back to %q; if the slot was really replaced: `%s`", c.Slot, RecoverFromSlot),
		}
	}
	if c.SystemID == systemID {
		return nil
	}
	switch {
	case c.State == Drained && ok.AfterUpgrade:
		return nil
	case c.State == Drained:
		return &Refusal{
			Kind:   ForeignSystem,
			What:   fmt.Sprintf("the server's system identifier is %s, the checkpoint's %s, and the pipeline was drained for a move", systemID, c.SystemID),
			Cost:   "to go on is safe if this server is the upgraded one, opened for writing only after the slot was carried over; otherwise " + costForeign[len("to go on "):],
			Remedy: fmt.Sprintf("`%s`", RunAfterUpgrade),
		}
	case ok.AfterUpgrade:
		return &Refusal{
			Kind:   NotDrained,
			What:   fmt.Sprintf("the server's system identifier is %s, the checkpoint's %s, and the pipeline was not drained before the move", systemID, c.SystemID),
			Cost:   costGap,
			Remedy: fmt.Sprintf("start the old server again and run `walferry drain` on it; if it is gone: `%s`", RecoverNewSlot),
		}
	}
	return &Refusal{
		Kind:   ForeignSystem,
		What:   fmt.Sprintf("the server's system identifier is %s, the checkpoint's %s: this is another database cluster", systemID, c.SystemID),
		Cost:   costForeign,
		Remedy: fmt.Sprintf("point source.dsn at the right server, or give this pipeline a name of its own; if this cluster replaces the old one: `%s`", RecoverNewSlot),
	}
}

// Compare asks whether a stream may go on from c on this server: nil, or a *Refusal. c is nil when the topic has no
// checkpoint. nil is also the answer for a first start, with neither checkpoint nor slot, and for one that was broken
// off (c.State is Creating), whatever became of its slot: nothing was published, the caller drops the slot and begins
// again. After a drain, with consent, it is also the answer for another system without a slot: no version before 17 carries
// one over, so the caller makes it.
//
// What only the stream can show (the witness, a split transaction) is left to Gate.
func Compare(c *Checkpoint, s Server, ok Consent) error {
	if c == nil {
		if !s.Slot.Exists || ok.Adopt {
			return nil
		}
		return &Refusal{
			Kind:   SlotWithoutCheckpoint,
			What:   fmt.Sprintf("slot %q exists at %s, but the checkpoint topic holds no checkpoint", s.Slot.Name, s.Slot.Confirmed),
			Cost:   "to go on at the slot repeats what was published after it or misses what came before, if this pipeline has run before",
			Remedy: fmt.Sprintf("if the slot was made for this pipeline and never used, set slot.adopt: true; if the topic was lost: `%s`", RecoverFromSlot),
		}
	}
	if err := CompareOwner(c, s.SystemID, s.Slot.Name, ok); err != nil {
		return err
	}
	if c.State == Creating {
		return nil
	}
	if c.SystemID != s.SystemID {
		return compareMoved(c, s)
	}
	if !s.Slot.Exists {
		return &Refusal{
			Kind:   SlotLost,
			What:   fmt.Sprintf("slot %q does not exist any more; events up to %s are published", s.Slot.Name, c.Reach()),
			Cost:   costGap,
			Remedy: fmt.Sprintf("if a failover lost it and the old primary still has it, go back there; else `%s`", RecoverNewSlot),
		}
	}
	if c.endsBefore(s.WALEnd) {
		return &Refusal{
			Kind:   BehindCheckpoint,
			What:   fmt.Sprintf("the server's WAL ends at %s, but events up to %s are already published: the server was restored from a backup, or a failover lost transactions", s.WALEnd, c.Reach()),
			Cost:   "to go on leaves events in the topics that the database does not have, and later changes contradict them",
			Remedy: fmt.Sprintf("if this is the wrong server, point source.dsn at the right one; else `%s`", RecoverNewSlot),
		}
	}
	if err := compareTimelines(c, s); err != nil {
		return err
	}
	return compareConfirmed(c, s)
}

// compareMoved: a cluster that an upgrade made has a system identifier and timelines of its own, and goes on counting where
// the WAL of the old one ended (pg_upgrade sees to it). Events are ordered by commit LSN and what is published is told by it,
// so a cluster that counts from an earlier place cannot follow. Without a slot it is where the WAL ends that counts: a
// slot that is made now begins there.
func compareMoved(c *Checkpoint, s Server) error {
	at := s.WALEnd
	if s.Slot.Exists {
		at = s.Slot.Confirmed
	}
	if at >= c.End {
		return nil
	}
	what, remedy := fmt.Sprintf("slot %q begins at %s", s.Slot.Name, at), RecoverFromSlot
	if !s.Slot.Exists {
		what, remedy = fmt.Sprintf("the new server's WAL ends at %s", at), RecoverNewSlot
	}
	return &Refusal{
		Kind:   BehindCheckpoint,
		What:   fmt.Sprintf("%s, before %s to which the old server was drained: it was not made by pg_upgrade from the drained one, whose LSNs it would go on counting", what, c.End),
		Cost:   "to go on gives later events lower commit LSNs than those that are published, so a consumer that orders by commit_lsn takes them for old",
		Remedy: fmt.Sprintf("if it was made by dump and restore, raise its WAL past %s with pg_resetwal -l before it is used; if no consumer minds: `%s`", c.End, remedy),
	}
}

func compareTimelines(c *Checkpoint, s Server) error {
	if s.Timeline == c.Timeline {
		return nil
	}
	if s.Timeline < c.Timeline {
		return &Refusal{
			Kind:   OldPrimary,
			What:   fmt.Sprintf("the server is on timeline %d, and the checkpoint on %d: this is an old primary", s.Timeline, c.Timeline),
			Cost:   costForeign,
			Remedy: fmt.Sprintf("point source.dsn at the primary of timeline %d or later, with target_session_attrs=read-write; if that one is gone: `%s`", c.Timeline, RecoverNewSlot),
		}
	}
	left := false // the history passes through the checkpoint's timeline
	for _, h := range s.History {
		if h.Timeline < c.Timeline {
			continue
		}
		left = left || h.Timeline == c.Timeline
		if c.endsBefore(h.LSN) {
			return &Refusal{
				Kind:   Diverged,
				What:   fmt.Sprintf("timeline %d ended at %s, but events up to %s are already published: a failover lost transactions", h.Timeline, h.LSN, c.Reach()),
				Cost:   "to go on leaves events in the topics that the database does not have, and later changes contradict them",
				Remedy: fmt.Sprintf("`%s`", RecoverNewSlot),
			}
		}
	}
	if !left {
		return &Refusal{
			Kind:   Diverged,
			What:   fmt.Sprintf("the server's timeline %d does not descend from the checkpoint's timeline %d", s.Timeline, c.Timeline),
			Cost:   costForeign,
			Remedy: fmt.Sprintf("point source.dsn at a server that descends from timeline %d; if there is none: `%s`", c.Timeline, RecoverNewSlot),
		}
	}
	return nil
}

// compareConfirmed: the slot is told only what a committed checkpoint covers, so it is never ahead of one. It may be
// behind: after a crash of the server it goes back to what was on its disk.
func compareConfirmed(c *Checkpoint, s Server) error {
	limit := c.Witness.Commit
	switch {
	case c.State == Drained:
		limit = c.End
	case limit == 0:
		limit = c.Position.Commit
	}
	if s.Slot.Confirmed <= limit {
		return nil
	}
	return &Refusal{
		Kind:   SlotAhead,
		What:   fmt.Sprintf("slot %q is confirmed up to %s, and this pipeline never confirmed past %s: somebody else has read or advanced it, or it was dropped and made again", s.Slot.Name, s.Slot.Confirmed, limit),
		Cost:   costGap,
		Remedy: fmt.Sprintf("find out what else uses the slot; then `%s`", RecoverFromSlot),
	}
}
