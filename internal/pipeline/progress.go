package pipeline

import (
	"cmp"
	"encoding/json"
	"fmt"
	"slices"
	"time"

	"walferry/checkpoint"
	"walferry/internal/backfill"
)

const (
	copyTold = time.Second      // between two looks of whoever watches
	copySaid = 10 * time.Second // between two lines in the log for one table
	copyPace = 10               // seconds over which the rate of a copy is taken
)

// CopyProgress is how far the copy of a table's rows has come.
type CopyProgress struct {
	Schema, Table string
	Generation    uint32
	State         backfill.State
	Where         string // the condition that rows are held to, "" for none
	Rows, Bytes   int64  // that have their place
	Newer         int64  // rows left out because the stream had newer ones
	Estimated     int64  // rows of the table, as the planner takes them to be; 0 where nobody knows, or the copy has ended
	Ranges, Done  int    // pieces of the table that are read beside each other
	Workers       int    // that read it now
	// RowsPerSecond and BytesPerSecond are over the last seconds, 0 where nothing has its place since. Left is the time that the rest
	// of the rows takes at this rate, 0 where that is unknown.
	RowsPerSecond, BytesPerSecond float64
	Left                          time.Duration
	Waits                         string // for what, "" for nothing but its turn
	// Turn is 0 for a table that is read now, n for the n-th that is to follow. Order says why.
	Turn     int
	Order    string
	Asked    time.Time
	Started  time.Time // zero before the first chunk
	Finished time.Time // zero before the end
}

// CopyStates are all states of a copy.
func CopyStates() []backfill.State { return backfill.States() }

func savedCopy(saved *checkpoint.Copy) (*copying, error) {
	t := &copying{}
	if err := json.Unmarshal(saved.Payload, &t.Copy); err != nil {
		return nil, fmt.Errorf("saved copy of table %d: %w", saved.OID, err)
	}
	return t, nil
}

// SavedCopies is how far the copies of tables were when the checkpoint was saved.
func SavedCopies(state *checkpoint.State) ([]CopyProgress, error) {
	var out []CopyProgress
	for _, saved := range state.Copies {
		t, err := savedCopy(saved)
		if err != nil {
			return nil, err
		}
		out = append(out, t.progress())
	}
	slices.SortFunc(out, CopyProgress.compare)
	return out, nil
}

func (p CopyProgress) compare(o CopyProgress) int {
	return cmp.Or(cmp.Compare(p.Schema, o.Schema), cmp.Compare(p.Table, o.Table))
}

// copiesTold is what whoever watches sees; its slices are not written to any more.
type copiesTold struct{ underWay, ended []CopyProgress }

// pace is how far a copy was at one moment.
type pace struct {
	at          time.Time
	rows, bytes int64
}

func (t *copying) progress() CopyProgress {
	p := CopyProgress{
		Schema: t.Schema, Table: t.Table, Generation: t.Generation, State: t.State, Where: t.Where, Rows: t.Rows, Bytes: t.Bytes, Newer: t.Newer,
		Ranges: len(t.Ranges), Waits: t.held, Asked: t.Asked, Started: t.Started, Finished: t.Finished, Workers: len(t.flying),
	}
	if t.whole != nil && !t.whole.ended {
		p.Workers = 1
	}
	for i := range t.Ranges {
		if t.Ranges[i].Done {
			p.Done++
		}
	}
	if t.State.Over() || t.Where != "" {
		return p // nobody knows how many rows a condition leaves
	}
	p.Estimated = t.estimate
	if t.table != nil {
		n := int64(0)
		for _, part := range t.table.Parts {
			n += max(part.Rows, 0)
		}
		p.Estimated = cmp.Or(n, p.Estimated)
	}
	return p
}

// measure takes the rate of a copy.
func (t *copying) measure(now time.Time, p *CopyProgress) {
	if t.State != backfill.Copying || len(t.paces) > 0 && t.Rows < t.paces[0].rows {
		t.paces = nil
	}
	if t.State != backfill.Copying {
		return
	}
	if n := len(t.paces); n == 0 || now.Sub(t.paces[n-1].at) >= time.Second {
		t.paces = append(t.paces, pace{now, t.Rows, t.Bytes})
		if len(t.paces) > copyPace+1 {
			t.paces = slices.Delete(t.paces, 0, 1)
		}
	}
	first := t.paces[0]
	if over := now.Sub(first.at).Seconds(); over > 0 {
		p.RowsPerSecond, p.BytesPerSecond = float64(t.Rows-first.rows)/over, float64(t.Bytes-first.bytes)/over
	}
	if rest := p.Estimated - t.Rows; rest > 0 && p.RowsPerSecond > 0 {
		p.Left = time.Duration(float64(rest) / p.RowsPerSecond * float64(time.Second)).Round(time.Second)
	}
}

// tellCopies tells whoever watches how far the copies have come, and the log now and then.
func (l *loop) tellCopies(now time.Time) {
	c := &l.copy
	if !c.untold && now.Sub(c.toldAt) < copyTold {
		return
	}
	c.untold, c.toldAt = false, now
	told := &copiesTold{ended: c.endedTold}
	if told.ended == nil {
		for _, t := range c.ended {
			told.ended = append(told.ended, t.progress())
		}
		slices.SortFunc(told.ended, CopyProgress.compare)
		c.endedTold = told.ended
	}
	turn := 0
	for _, t := range c.tables {
		if t.State.Over() {
			continue
		}
		p := t.progress()
		t.measure(now, &p)
		if t.State != backfill.Paused {
			p.Waits = cmp.Or(p.Waits, c.throttle.reason)
		}
		if t.State != backfill.Paused && !t.resting {
			if turn++; turn > c.Workers {
				p.Turn = turn - c.Workers
			}
			p.Order = c.order(t)
		}
		told.underWay = append(told.underWay, p)
		l.say(t, &p, now)
	}
	l.health.copies.Store(told)
}

// say logs how far a table is that is being copied, every ten seconds.
func (l *loop) say(t *copying, p *CopyProgress, now time.Time) {
	switch {
	case t.State != backfill.Copying:
		t.saidAt = time.Time{}
		return
	case t.saidAt.IsZero():
		t.saidAt = now
	}
	if now.Sub(t.saidAt) < copySaid {
		return
	}
	t.saidAt = now
	args := []any{"table", t.name(), "rows", p.Rows, "bytes", p.Bytes, "rows_per_second", int64(p.RowsPerSecond), "bytes_per_second", int64(p.BytesPerSecond)}
	if p.Estimated > 0 {
		args = append(args, "estimated_rows", p.Estimated)
	}
	if p.Left > 0 {
		args = append(args, "left", p.Left)
	}
	if p.Waits != "" {
		args = append(args, "waits_for", p.Waits)
	}
	l.log.Info("the rows of a table are being copied", args...)
}

// order says why a table's turn is where it is. The rules are those of sort.
func (c *copier) order(t *copying) string {
	if t.Rows > 0 {
		return "its copy has begun"
	}
	by := "smaller tables first"
	if t.Size > 0 {
		by = fmt.Sprintf("%s, and this one has %d bytes", by, t.Size)
	}
	if c.Priority != nil {
		return fmt.Sprintf("by backfill.first (%d), then %s", c.Priority(t.Schema, t.Table)+1, by)
	}
	return by
}
