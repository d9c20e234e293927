package pipeline

import (
	"context"
	"fmt"
	"slices"
	"sync"
	"time"

	"walferry/internal/backfill"
	"walferry/source"
)

// BackfillDo is what can be asked of the copies of tables.
type BackfillDo string

// What can be asked. Start begins a copy, also where there was one; Pause and Cancel end one for now and for good.
const (
	BackfillStart  BackfillDo = "start"
	BackfillPause  BackfillDo = "pause"
	BackfillResume BackfillDo = "resume"
	BackfillCancel BackfillDo = "cancel"
)

// BackfillCommand is asked of the copies of tables.
type BackfillCommand struct {
	Do     BackfillDo
	Tables []string // as schema.table, with double quotes around names that have a dot
	All    bool     // instead of Tables: to start every captured table, else every copy that can be paused, resumed or cancelled
	Where  string   // to start: a condition in SQL that rows are held to, "" for none
	Force  bool     // to start: also where a copy is under way, which is given up
}

// BackfillAnswer is what has become of one table. It is saved: whatever happens to the process, it stays so.
type BackfillAnswer struct {
	Table      string // as schema.table
	Generation uint32
	State      backfill.State
	Note       string // what is to be known of it, "" for nothing
}

// BackfillError says why nothing was done.
type BackfillError struct {
	// Unknown is a table that is not captured. Absent is a pipeline that does not stream, or has ceased to meanwhile: it can be asked
	// again. State is a copy in a state that what was asked does not fit. With none of these it is the command that is at fault.
	Unknown, Absent, State bool
	text, hint             string
}

func (e *BackfillError) Error() string { return e.text }

// Hint is the way on.
func (e *BackfillError) Hint() string { return e.hint }

// door is where a session takes commands while it streams.
type door struct {
	mu   sync.Mutex // guards the following
	asks chan *copyCommand
	shut chan struct{} // closed when the session that reads asks is over
}

func (d *door) open() (asks <-chan *copyCommand, shut func()) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.asks, d.shut = make(chan *copyCommand), make(chan struct{})
	return d.asks, func() {
		d.mu.Lock()
		defer d.mu.Unlock()
		close(d.shut)
		d.asks = nil
	}
}

// copyCommand is a command on its way.
type copyCommand struct {
	BackfillCommand
	tables  []source.Table   // to start
	sizes   map[uint32]int64 // of these
	answers []BackfillAnswer
	done    chan error // has room for one
}

// Backfill has the running session do what is asked, and returns when that is saved. The error is a *BackfillError, what a server
// said of a table or a condition, or ctx's cause; with the latter the command may be done all the same.
func (p *Pipeline) Backfill(ctx context.Context, c BackfillCommand) ([]BackfillAnswer, error) {
	if err := c.check(); err != nil {
		return nil, err
	}
	p.door.mu.Lock()
	asks, shut := p.door.asks, p.door.shut
	p.door.mu.Unlock()
	if asks == nil {
		h := p.Health()
		return nil, &BackfillError{
			Absent: true, text: fmt.Sprintf("this instance does not stream now (%s: %s), and only one that does copies tables", h.State, h.Step),
			hint: "ask the instance that streams, or this one when `walferry status` says that it is streaming",
		}
	}
	x := &copyCommand{BackfillCommand: c, done: make(chan error, 1)}
	if c.Do == BackfillStart {
		if err := p.prepare(ctx, x); err != nil {
			return nil, err
		}
	}
	over := &BackfillError{
		Absent: true, text: "the session ended before it could say that the command is saved",
		hint: "`walferry backfill status` shows what is saved once it streams again",
	}
	select {
	case asks <- x:
	case <-shut:
		return nil, over
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	}
	select {
	case err := <-x.done:
		return x.answers, err
	case <-shut:
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	}
	select {
	case err := <-x.done:
		return x.answers, err
	default:
		return nil, over
	}
}

// check looks at what needs no server.
func (c *BackfillCommand) check() error {
	bad := func(format string, args ...any) error {
		return &BackfillError{text: fmt.Sprintf(format, args...), hint: "see `walferry backfill --help`"}
	}
	switch c.Do {
	case BackfillStart, BackfillPause, BackfillResume, BackfillCancel:
	default:
		return bad("%q is nothing that can be asked of a copy", c.Do)
	}
	switch {
	case len(c.Tables) == 0 && !c.All:
		return bad("name the tables, or ask for all")
	case len(c.Tables) > 0 && c.All:
		return bad("name the tables or ask for all, not both")
	case c.Do != BackfillStart && (c.Where != "" || c.Force):
		return bad("a condition and force are for a start")
	}
	for _, t := range c.Tables {
		if _, err := (&source.Config{Tables: []string{t}}).Selects("", ""); err != nil {
			return bad("%v", err)
		}
	}
	return nil
}

// names says which of the command's tables one is; -1 for none, 0 where all are meant.
func (c *BackfillCommand) names(schemaName, table string) int {
	if c.All {
		return 0
	}
	return slices.IndexFunc(c.Tables, func(t string) bool {
		is, err := (&source.Config{Tables: []string{t}}).Selects(schemaName, table)
		return err == nil && is
	})
}

// unknown is the error for the first table of the command that none was found for.
func (c *BackfillCommand) unknown(found []bool) error {
	for i, t := range c.Tables {
		if !found[i] {
			return &BackfillError{Unknown: true, text: fmt.Sprintf("table %s is not captured", t),
				hint: "write schema.table as `walferry backfill status` does, or capture it: add it to source.tables and restart, see `walferry check`"}
		}
	}
	return nil
}

// prepare looks up the tables of a start, on a connection of its own: what cannot be read, and a condition that is none, is said at
// once and changes nothing.
func (p *Pipeline) prepare(ctx context.Context, x *copyCommand) error {
	cat, err := source.OpenCatalog(ctx, p.cfg.Source)
	if err != nil {
		return err
	}
	defer cat.Close()
	tables, err := capturedTables(ctx, cat, &p.cfg.Source)
	if err != nil {
		return err
	}
	found := make([]bool, len(x.Tables))
	for i := range tables {
		if at := x.names(tables[i].Schema, tables[i].Name); at >= 0 {
			x.tables = append(x.tables, tables[i])
			if !x.All {
				found[at] = true
			}
		}
	}
	if err := x.unknown(found); err != nil {
		return err
	}
	if x.sizes, err = cat.TableBytes(ctx, unknown(x.tables, nil)); err != nil {
		return err
	}
	if x.All && x.Where == "" {
		return nil // a table that cannot be read says so when its turn comes, and the others are copied
	}
	conn, err := cat.OpenCopy(ctx)
	if err != nil {
		return err
	}
	defer conn.Close()
	for i := range x.tables {
		t, err := cat.CopyTable(ctx, x.tables[i].OID)
		if err != nil {
			return err
		}
		if len(t.Key) == 0 && x.Where != "" {
			return &BackfillError{
				text: fmt.Sprintf("table %s has no key, and its copy begins with a truncate event: rows that the condition leaves out would be gone for consumers", t.Relation),
				hint: "start it without --where, or give the table a primary key",
			}
		}
		if err := conn.Check(ctx, t, x.Where); err != nil {
			return err
		}
	}
	return nil
}

// command does what is asked, or says why not. It is answered when what it has changed is saved.
func (l *loop) command(x *copyCommand) {
	c := &l.copy
	switch {
	case c.jobs == nil, l.stopping:
		x.done <- &BackfillError{Absent: true, text: "this session copies nothing: it is about to end", hint: "ask again when `walferry status` says that it is streaming"}
		return
	case c.listAt.IsZero():
		c.early = append(c.early, x) // the session has not looked yet which tables there are
		return
	}
	act := l.steer
	if x.Do == BackfillStart {
		act = l.restart
	}
	answers, err := act(x)
	if err != nil {
		x.done <- err
		return
	}
	x.answers = answers
	c.asked = append(c.asked, x)
	c.dirty, c.untold, c.endedTold = true, true, nil
	c.sort()
}

// restart begins the next generation of tables' copies: of all that were asked for, or of none.
func (l *loop) restart(x *copyCommand) (answers []BackfillAnswer, err error) {
	c := &l.copy
	under := map[uint32]*copying{}
	for _, t := range c.tables {
		if !t.State.Over() {
			under[t.Relation] = t
		}
	}
	for i := range x.tables {
		if t := under[x.tables[i].OID]; t != nil && !x.Force && !x.All {
			return nil, &BackfillError{State: true, text: fmt.Sprintf("the copy of table %s is %s", t.name(), t.State),
				hint: "let it come to its end, or `walferry backfill resume` where it is paused; --force gives it up and begins anew"}
		}
	}
	for i := range x.tables {
		p := &x.tables[i]
		t := under[p.OID]
		switch {
		case t == nil:
			t = c.again(c.ended[p.OID], p)
		case !x.Force:
			answers = append(answers, t.answer("left as it was: this copy is not at its end"))
			continue
		default:
			t.State = backfill.Waiting
			l.anew(t, "it was asked for")
			t.Asked, t.after, t.resting, t.held = now(), time.Time{}, false, ""
		}
		t.Where, t.Size = x.Where, x.sizes[p.OID]
		l.log.Info("the table's rows are going to be copied, as was asked for", "table", t.name(), "generation", t.Generation, "where", t.Where)
		answers = append(answers, t.answer(""))
	}
	return answers, nil
}

// steer pauses, resumes or cancels copies: all that were asked for, or none.
func (l *loop) steer(x *copyCommand) (answers []BackfillAnswer, err error) {
	fits := func(t *copying) bool {
		return !t.State.Over() && (x.Do == BackfillCancel || (t.State == backfill.Paused) == (x.Do == BackfillResume))
	}
	found := make([]bool, len(x.Tables))
	var list []*copying
	for _, t := range l.copy.tables {
		at := x.names(t.Schema, t.Table)
		if at < 0 || t.State.Over() || x.All && !fits(t) {
			continue
		}
		if list = append(list, t); !x.All {
			found[at] = true
		}
		if x.Do == BackfillResume && !fits(t) {
			return nil, t.nothingTo(x.Do, "`walferry backfill status` says how far it is, and what it waits for")
		}
	}
	for _, t := range l.copy.ended {
		if at := x.names(t.Schema, t.Table); !x.All && at >= 0 && !found[at] && t.State != backfill.Uncaptured {
			return nil, t.nothingTo(x.Do, "`walferry backfill start` copies it")
		}
	}
	if err := x.unknown(found); err != nil {
		return nil, err
	}
	for _, t := range list {
		note := ""
		switch {
		case !fits(t):
			note = "it was paused already"
		case x.Do == BackfillPause:
			note = l.pauseCopy(t)
		case x.Do == BackfillResume:
			note = l.resumeCopy(t)
		default:
			note = l.cancelCopy(t)
		}
		answers = append(answers, t.answer(note))
	}
	return answers, nil
}

func (t *copying) nothingTo(do BackfillDo, hint string) error {
	return &BackfillError{State: true, text: fmt.Sprintf("there is nothing to %s: the copy of table %s is %s", do, t.name(), t.State), hint: hint}
}

func (t *copying) answer(note string) BackfillAnswer {
	return BackfillAnswer{Table: t.name(), Generation: t.Generation, State: t.State, Note: note}
}

// half says that consumers have a part of the rows of a table without a key, behind a truncate event, or lack changes that such a
// copy was to contain.
func (t *copying) half() bool { return t.Columns == nil && !t.Started.IsZero() }

// pauseCopy has nothing more read of a table. What has its place keeps it, and the stream's moved keys are noted further on.
func (l *loop) pauseCopy(t *copying) (note string) {
	if t.half() {
		note = "it has no key, so its topic lacks rows until resume has copied the table anew"
	}
	l.rest(t)
	t.State, t.held = backfill.Paused, ""
	l.copy.save(t)
	l.log.Info("the copy of a table is paused", "table", t.name(), "rows", t.Rows)
	return note
}

// resumeCopy goes on behind what has its place.
func (l *loop) resumeCopy(t *copying) (note string) {
	t.State, t.after = backfill.Waiting, time.Time{}
	if t.Ranges != nil {
		t.State = backfill.Copying
	}
	if t.half() {
		note = fmt.Sprintf("it has no key, so it begins anew as generation %d", t.Generation+1)
	}
	t.wake()
	l.copy.save(t)
	l.log.Info("the copy of a table goes on", "table", t.name(), "rows", t.Rows)
	return note
}

// cancelCopy ends a copy for good.
func (l *loop) cancelCopy(t *copying) (note string) {
	if t.half() {
		note = "it has no key, so its topic lacks rows until `walferry backfill start` has copied the table anew"
	}
	l.log.Info("the copy of a table is cancelled", "table", t.name(), "rows", t.Rows, "attention", note)
	l.end(t, backfill.Cancelled)
	return note
}

// answer tells those whose commands are saved now.
func answer(commands []*copyCommand) {
	for _, x := range commands {
		x.done <- nil
	}
}
