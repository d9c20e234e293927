package checkpoint

import (
	"errors"
	"strings"
	"testing"

	"github.com/jackc/pglogrepl"
)

// fitting is a server from which live() goes on.
func fitting(edits ...func(*Server)) Server {
	s := Server{
		SystemID: "7400000000000000001", Timeline: 3, WALEnd: 0x9000,
		Slot: Slot{Name: "walferry", Exists: true, Confirmed: 0x5000},
	}
	for _, edit := range edits {
		edit(&s)
	}
	return s
}

func walEnd(l pglogrepl.LSN) func(*Server)    { return func(s *Server) { s.WALEnd = l } }
func confirmed(l pglogrepl.LSN) func(*Server) { return func(s *Server) { s.Slot.Confirmed = l } }
func noSlot(s *Server)                        { s.Slot.Exists, s.Slot.Confirmed = false, 0 }
func foreign(s *Server)                       { s.SystemID = "2" }

// history puts the server on a timeline with these switches on the way.
func history(timeline int32, switches ...Switch) func(*Server) {
	return func(s *Server) { s.Timeline, s.History = timeline, switches }
}

func TestCompare(t *testing.T) {
	creating := &Checkpoint{SystemID: "7400000000000000001", Slot: "walferry", State: Creating}
	onlySplit := live(noWitness, split)
	for _, c := range []struct {
		name string
		cp   *Checkpoint
		srv  Server
		ok   Consent
		want RefusalKind // "" for none
	}{
		{"steady", live(), fitting(), Consent{}, ""},
		{"first start", nil, fitting(noSlot), Consent{}, ""},
		{"first start, adopting what is not there", nil, fitting(noSlot), Consent{Adopt: true}, ""},
		{"slot without checkpoint", nil, fitting(), Consent{}, SlotWithoutCheckpoint},
		{"slot without checkpoint, upgrade claimed", nil, fitting(), Consent{AfterUpgrade: true}, SlotWithoutCheckpoint},
		{"slot adopted", nil, fitting(), Consent{Adopt: true}, ""},

		{"broken off while creating, slot made", creating, fitting(), Consent{}, ""},
		{"broken off while creating, no slot", creating, fitting(noSlot), Consent{}, ""},
		{"broken off while creating, elsewhere", creating, fitting(noSlot, foreign), Consent{}, ForeignSystem},
		{"broken off while creating another slot", creating, fitting(noSlot, func(s *Server) { s.Slot.Name = "x" }), Consent{}, ForeignSlot},

		{"another slot", live(), fitting(func(s *Server) { s.Slot.Name = "x" }), Consent{}, ForeignSlot},
		{"another slot, adopting", live(), fitting(func(s *Server) { s.Slot.Name = "x" }), Consent{Adopt: true, AfterUpgrade: true}, ForeignSlot},
		{"another system", live(), fitting(foreign), Consent{}, ForeignSystem},
		{"another system, adopting", live(), fitting(foreign), Consent{Adopt: true}, ForeignSystem},
		{"another system, not drained", live(), fitting(foreign), Consent{AfterUpgrade: true}, NotDrained},

		{"slot lost", live(), fitting(noSlot), Consent{}, SlotLost},
		{"slot lost, adopting", live(), fitting(noSlot), Consent{Adopt: true}, SlotLost},

		{"WAL ends at the witness", live(), fitting(walEnd(0x5000)), Consent{}, BehindCheckpoint},
		{"WAL ends before the witness", live(), fitting(walEnd(0x4fff)), Consent{}, BehindCheckpoint},
		{"WAL ends after the witness", live(), fitting(walEnd(0x5001)), Consent{}, ""},
		{"WAL ends before the split transaction", live(split), fitting(walEnd(0x7000)), Consent{}, BehindCheckpoint},
		{"WAL ends after the split transaction", live(split), fitting(walEnd(0x7001)), Consent{}, ""},
		{"WAL ends where the slot began", live(noWitness), fitting(walEnd(0x5000)), Consent{}, ""},
		{"WAL ends before the slot began", live(noWitness), fitting(walEnd(0x4fff)), Consent{}, BehindCheckpoint},
		{"WAL ends at a split transaction with no witness", onlySplit, fitting(walEnd(0x7000)), Consent{}, BehindCheckpoint},

		{"earlier timeline", live(), fitting(history(2)), Consent{}, OldPrimary},
		{"failover", live(), fitting(history(4, Switch{1, 0x100}, Switch{2, 0x200}, Switch{3, 0x5001})), Consent{}, ""},
		{"two failovers", live(), fitting(history(5, Switch{3, 0x6000}, Switch{4, 0x7000})), Consent{}, ""},
		{"failover lost the witness", live(), fitting(history(4, Switch{3, 0x5000})), Consent{}, Diverged},
		{"failover lost the split transaction", live(split), fitting(history(4, Switch{3, 0x7000})), Consent{}, Diverged},
		{"failover after the split transaction", live(split), fitting(history(4, Switch{3, 0x7001})), Consent{}, ""},
		{"second failover went back", live(), fitting(history(5, Switch{3, 0x6000}, Switch{4, 0x5000})), Consent{}, Diverged},
		{"failover where the slot began", live(noWitness), fitting(history(4, Switch{3, 0x5000})), Consent{}, ""},
		{"failover before the slot began", live(noWitness), fitting(history(4, Switch{3, 0x4fff})), Consent{}, Diverged},
		{"timeline of another branch", live(), fitting(history(4, Switch{1, 0x100}, Switch{2, 0x4000})), Consent{}, Diverged},
		{"timeline without history", live(), fitting(history(4)), Consent{}, Diverged},

		{"slot behind, after a server crash", live(), fitting(confirmed(0x1000)), Consent{}, ""},
		{"slot ahead", live(), fitting(confirmed(0x5001)), Consent{}, SlotAhead},
		{"slot ahead of the witness, within the split", live(split), fitting(confirmed(0x6000)), Consent{}, SlotAhead},
		{"slot where it began", live(noWitness), fitting(confirmed(0x5000)), Consent{}, ""},
		{"slot ahead of where it began", live(noWitness), fitting(confirmed(0x5001)), Consent{}, SlotAhead},
		{"slot behind where it began", live(noWitness), fitting(confirmed(0x4000)), Consent{}, ""},
		{"slot ahead with only a split transaction", onlySplit, fitting(confirmed(0x7001)), Consent{}, SlotAhead},
		{"slot before the split transaction", onlySplit, fitting(confirmed(0x5000)), Consent{}, ""},

		{"drained, going on here", live(drained), fitting(confirmed(0x5100)), Consent{}, ""},
		{"drained, the end was not confirmed", live(drained), fitting(), Consent{}, ""},
		{"drained, slot ahead of the end", live(drained), fitting(confirmed(0x5101)), Consent{}, SlotAhead},
		{"drained, WAL behind the end", live(drained), fitting(confirmed(0x5000), walEnd(0x50ff)), Consent{}, BehindCheckpoint},
		{"drained, upgraded without consent", live(drained), fitting(foreign), Consent{}, ForeignSystem},
		{"drained, upgraded", live(drained), fitting(foreign, history(1), confirmed(0x8000)), Consent{AfterUpgrade: true}, ""},
		{"drained, upgraded, slot begins at the end", live(drained), fitting(foreign, history(1), confirmed(0x5100)), Consent{AfterUpgrade: true}, ""},
		{"drained, upgraded, slot begins before the end", live(drained), fitting(foreign, history(1), confirmed(0x50ff)), Consent{AfterUpgrade: true}, BehindCheckpoint},
		{"drained, upgraded, slot not carried over", live(drained), fitting(foreign, history(1), noSlot), Consent{AfterUpgrade: true}, ""},
		{"drained, upgraded, no slot, WAL ends before the end", live(drained), fitting(foreign, history(1), noSlot, walEnd(0x50ff)), Consent{AfterUpgrade: true}, BehindCheckpoint},
		{"drained, slot lost", live(drained), fitting(noSlot), Consent{AfterUpgrade: true}, SlotLost},
		{"drained, consent but the same system on an old timeline", live(drained), fitting(history(2)), Consent{AfterUpgrade: true}, OldPrimary},
	} {
		t.Run(c.name, func(t *testing.T) {
			if c.cp != nil {
				if err := c.cp.check(); err != nil {
					t.Fatalf("the test's checkpoint contradicts itself: %v", err)
				}
			}
			err := Compare(c.cp, c.srv, c.ok)
			refusal(t, err, c.want)
		})
	}
}

// refusal checks that err is a refusal of this kind that tells what happened, what it would cost and what to run.
func refusal(t *testing.T, err error, want RefusalKind) {
	t.Helper()
	if want == "" {
		if err != nil {
			t.Errorf("refused: %v", err)
		}
		return
	}
	var r *Refusal
	if !errors.As(err, &r) || r.Kind != want {
		t.Errorf("got %v, want %s", err, want)
		return
	}
	if r.What == "" || r.Cost == "" || r.Remedy == "" || r.Error() != r.What {
		t.Errorf("incomplete: %+v", r)
	}
	if !strings.Contains(r.Hint(), "to go on ") || !strings.Contains(r.Hint(), "`walferry ") {
		t.Errorf("hint names no cost or no command: %s", r.Hint())
	}
	if strings.Contains(r.What+r.Hint(), "%!") {
		t.Errorf("bad format: %s; %s", r.What, r.Hint())
	}
}

func TestCompareOwner(t *testing.T) {
	for _, c := range []struct {
		name, system, slot string
		cp                 *Checkpoint
		ok                 Consent
		want               RefusalKind
	}{
		{"no checkpoint", "2", "x", nil, Consent{}, ""},
		{"ours", live().SystemID, "walferry", live(), Consent{}, ""},
		{"another slot", live().SystemID, "x", live(), Consent{}, ForeignSlot},
		{"another system", "2", "walferry", live(), Consent{}, ForeignSystem},
		{"drained", "2", "walferry", live(drained), Consent{}, ForeignSystem},
		{"drained, upgraded", "2", "walferry", live(drained), Consent{AfterUpgrade: true}, ""},
		{"not drained", "2", "walferry", live(), Consent{AfterUpgrade: true}, NotDrained},
	} {
		t.Run(c.name, func(t *testing.T) {
			refusal(t, CompareOwner(c.cp, c.system, c.slot, c.ok), c.want)
		})
	}
	// Drained is the one state from which another system may be right: its refusal says how.
	if err := CompareOwner(live(drained), "2", "walferry", Consent{}); !strings.Contains(err.(*Refusal).Hint(), RunAfterUpgrade) {
		t.Error(err.(*Refusal).Hint())
	}
}
