package checkpoint

import (
	"errors"
	"testing"
	"time"

	"github.com/jackc/pglogrepl"
)

// step is one transaction of a stream, and what the gate says of it.
type step struct {
	commit, end pglogrepl.LSN
	xid         uint32
	at          time.Time
	want        Action
	refused     RefusalKind // at Begin, or at Commit when want is set
	open        bool        // after Commit
}

// tx is a transaction of no special meaning.
func tx(commit pglogrepl.LSN, want Action, open bool) step {
	return step{commit: commit, end: commit + 0x30, xid: 7, at: at, want: want, open: open}
}

func refusedTx(commit pglogrepl.LSN, kind RefusalKind) step {
	return step{commit: commit, end: commit + 0x30, xid: 7, at: at, refused: kind}
}

func TestGate(t *testing.T) {
	witness := step{commit: 0x5000, end: 0x5030, xid: 42, at: at, want: Drop, open: true}
	half := step{commit: 0x7000, end: 0x7030, xid: 43, at: at.Add(time.Second), want: DropUpTo, open: true}
	with := func(s step, edit func(*step)) step { edit(&s); return s }
	for _, c := range []struct {
		name  string
		cp    *Checkpoint
		srv   Server
		shut  bool // at first
		steps []step
	}{
		{"no checkpoint", nil, fitting(), false, []step{tx(0x10, Publish, true), tx(0x20, Publish, true)}},
		{"first position", live(noWitness), fitting(), false, []step{tx(0x5000, Publish, true), tx(0x6000, Publish, true)}},
		{"adopted slot went back", live(noWitness), fitting(confirmed(0x4000)), false,
			[]step{tx(0x4000, Drop, true), tx(0x4fff, Drop, true), tx(0x5000, Publish, true)}},

		{"witness", live(), fitting(), true, []step{witness, tx(0x5031, Publish, true), tx(0x6000, Publish, true)}},
		{"server crash went back", live(), fitting(confirmed(0x1000)), true,
			[]step{tx(0x1000, Drop, false), tx(0x4fff, Drop, false), witness, tx(0x6000, Publish, true)}},
		{"position older than the witness", live(func(c *Checkpoint) { c.Position = Position{Commit: 0x4000, Change: 0x3000, N: 1} }), fitting(), true,
			[]step{tx(0x4000, Drop, false), witness, tx(0x6000, Publish, true)}},
		{"time zone does not matter", live(), fitting(), true,
			[]step{with(witness, func(s *step) { s.at = at.In(time.FixedZone("elsewhere", 3600)) }), tx(0x6000, Publish, true)}},

		{"witness missing", live(), fitting(), true, []step{refusedTx(0x5001, WitnessMissing)}},
		{"witness missing after older ones", live(), fitting(), true, []step{tx(0x4000, Drop, false), refusedTx(0x9000, WitnessMissing)}},
		{"witness has another xid", live(), fitting(), true,
			[]step{with(witness, func(s *step) { s.xid++; s.want = 0; s.refused = WitnessDiffers })}},
		{"witness has another time", live(), fitting(), true,
			[]step{with(witness, func(s *step) { s.at = s.at.Add(time.Microsecond); s.want = 0; s.refused = WitnessDiffers })}},
		{"witness has another end", live(), fitting(), true,
			[]step{with(witness, func(s *step) { s.end++; s.refused = WitnessDiffers })}},

		{"split", live(split), fitting(), true, []step{witness, half, tx(0x8000, Publish, true)}},
		{"split has another xid", live(split), fitting(), true,
			[]step{witness, with(half, func(s *step) { s.xid++; s.want = 0; s.refused = SplitDiffers })}},
		{"split has another time", live(split), fitting(), true,
			[]step{witness, with(half, func(s *step) { s.at = at; s.want = 0; s.refused = SplitDiffers })}},
		{"split missing", live(split), fitting(), true, []step{witness, refusedTx(0x7001, SplitMissing)}},
		{"split comes before the witness does", live(split), fitting(), true,
			[]step{with(half, func(s *step) { s.want = 0; s.refused = WitnessMissing })}},
		{"between witness and split", live(split), fitting(), true,
			[]step{witness, tx(0x6000, Publish, true), half, tx(0x8000, Publish, true)}},
		{"split with no witness", live(noWitness, split), fitting(), false, []step{half, tx(0x8000, Publish, true)}},
		{"split with no witness, adopted slot went back", live(noWitness, split), fitting(confirmed(0x4000)), false,
			[]step{tx(0x4000, Drop, true), half, tx(0x8000, Publish, true)}},
		{"split missing with no witness", live(noWitness, split), fitting(), false, []step{refusedTx(0x7001, SplitMissing)}},

		{"drained and confirmed", live(drained), fitting(confirmed(0x5100)), false, []step{tx(0x5100, Publish, true)}},
		{"drained, not confirmed", live(drained), fitting(), true, []step{witness, tx(0x5100, Publish, true)}},
		{"drained, not confirmed, witness missing", live(drained), fitting(), true, []step{refusedTx(0x5100, WitnessMissing)}},
		{"drained and upgraded", live(drained), fitting(foreign, confirmed(0x8000)), false, []step{tx(0x8000, Publish, true)}},
	} {
		t.Run(c.name, func(t *testing.T) {
			if c.cp != nil {
				if err := c.cp.check(); err != nil {
					t.Fatalf("the test's checkpoint contradicts itself: %v", err)
				}
			}
			if err := Compare(c.cp, c.srv, Consent{Adopt: true, AfterUpgrade: true}); err != nil {
				t.Fatalf("the test's server does not fit: %v", err)
			}
			g := NewGate(c.cp, c.srv)
			if g.Open() == c.shut {
				t.Fatalf("at first open is %t", g.Open())
			}
			if c.cp != nil && (g.Witness() != c.cp.Witness || g.Position() != c.cp.Position) {
				t.Errorf("witness %+v, position %s", g.Witness(), g.Position())
			}
			for i, s := range c.steps {
				open := g.Open()
				got, err := g.Begin(s.commit, s.xid, s.at)
				if s.want == 0 {
					refusal(t, err, s.refused)
					if got != 0 || g.Open() != open {
						t.Errorf("step %d: refused, but action %s and open %t", i, got, g.Open())
					}
					return
				}
				if err != nil || got != s.want {
					t.Fatalf("step %d: %s, %v; want %s", i, got, err, s.want)
				}
				// Only a whole witness proves anything.
				if g.Open() != open {
					t.Fatalf("step %d: Begin moved the gate", i)
				}
				err = g.Commit(s.commit, s.end)
				refusal(t, err, s.refused)
				if g.Open() != s.open && s.refused == "" || g.Open() && s.refused != "" {
					t.Fatalf("step %d: open is %t", i, g.Open())
				}
			}
		})
	}
}

func TestGateCovered(t *testing.T) {
	g := NewGate(live(split), fitting())
	if g.Part() != 2 || NewGate(live(), fitting()).Part() != 0 || NewGate(nil, fitting()).Part() != 0 {
		t.Errorf("part %d", g.Part())
	}
	for _, c := range []struct {
		p    Position
		want bool
	}{
		{Position{0x7000, 0x4dff, 9}, true},
		{Position{0x7000, 0x4e00, 1}, true},
		{Position{0x7000, 0x4e00, 2}, false},
		{Position{0x7000, 0x4e01, 1}, false},
	} {
		if g.Covered(c.p) != c.want {
			t.Errorf("%s: covered is %t", c.p, !c.want)
		}
	}
}

// The gate keeps nothing of the checkpoint that the caller goes on to change.
func TestGateKeepsNoReference(t *testing.T) {
	c := live(split)
	g := NewGate(c, fitting())
	c.Split.XID++
	c.Witness.XID++
	if _, err := g.Begin(0x5000, 42, at); err != nil {
		t.Error(err)
	}
	if err := g.Commit(0x5000, 0x5030); err != nil {
		t.Error(err)
	}
	if a, err := g.Begin(0x7000, 43, at.Add(time.Second)); a != DropUpTo {
		t.Error(a, err)
	}
}

func TestGateCommitOfAnother(t *testing.T) {
	g := NewGate(live(), fitting())
	for _, begin := range []bool{false, true} {
		if begin {
			if _, err := g.Begin(0x4000, 7, at); err != nil {
				t.Fatal(err)
			}
		}
		err := g.Commit(0x5000, 0x5030)
		var r *Refusal
		if err == nil || errors.As(err, &r) || g.Open() {
			t.Errorf("begin %t: %v, open %t", begin, err, g.Open())
		}
	}
	if err := new(Gate).Commit(0, 0); err == nil {
		t.Error("a commit without LSN closed no transaction and was taken")
	}
}

// Whatever a server sends, nothing up to the witness is published, nothing is published or confirmed before the witness
// was seen, and what the checkpoint does not cover is never dropped.
func FuzzGate(f *testing.F) {
	f.Add(uint8(0), []byte{0x40, 0x50, 0x60, 0x70, 0x80})
	f.Add(uint8(1), []byte{0x50, 0x70, 0x80})
	f.Add(uint8(2), []byte{0x40, 0x50, 0x70})
	f.Add(uint8(3), []byte{0x51, 0x70})
	f.Fuzz(func(t *testing.T, which uint8, commits []byte) {
		cp := []*Checkpoint{live(), live(split), live(noWitness), live(noWitness, split)}[which%4]
		g := NewGate(cp, fitting(confirmed(0x1000)))
		var last pglogrepl.LSN
		for _, b := range commits {
			commit := pglogrepl.LSN(b) << 8
			if commit <= last {
				return // the decoder refuses it
			}
			last = commit
			end, xid, when := commit+0x30, uint32(7), at
			switch commit {
			case 0x5000:
				xid = 42
			case 0x7000:
				xid, when = 43, at.Add(time.Second)
			}
			open := g.Open()
			a, err := g.Begin(commit, xid, when)
			if err != nil {
				if commit <= cp.Witness.Commit {
					t.Fatalf("refused what came before the witness: %v", err)
				}
				return
			}
			if !open && a != Drop {
				t.Fatalf("%s at %s before the witness", a, commit)
			}
			if a == Drop && commit > cp.Witness.Commit && cp.Witness.Commit != 0 {
				t.Fatalf("dropped %s after the witness", commit)
			}
			if a == Drop && commit >= max(cp.Position.Commit, cp.Witness.Commit+1) {
				t.Fatalf("dropped %s, which the checkpoint does not cover", commit)
			}
			if a != Drop && commit <= cp.Witness.Commit {
				t.Fatalf("%s at %s, which the witness covers", a, commit)
			}
			if (a == DropUpTo) != (cp.Split != nil && commit == cp.Position.Commit) {
				t.Fatalf("%s at %s", a, commit)
			}
			if err := g.Commit(commit, end); err != nil {
				t.Fatal(err)
			}
			if g.Open() != (open || commit == cp.Witness.Commit) {
				t.Fatalf("open is %t after %s", g.Open(), commit)
			}
		}
	})
}
