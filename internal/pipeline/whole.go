package pipeline

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"time"

	"walferry/decode"
	"walferry/internal/backfill"
	"walferry/source"

	"github.com/jackc/pglogrepl"
)

// whole is the copy of a table without a key: under one snapshot, since no range could be read again. docs/design.md, "A table
// without a key", has the argument.
//
// The snapshot is taken while the stream stands still between two transactions, for the milliseconds that it takes, and is good if it
// sees all that the stream has brought. In its place in the stream goes a truncate event, behind which the table's rows are
// those of the snapshot and what comes after it: changes that the snapshot sees are left out from there on, all others are
// published. Rows have no order among these: a row of the snapshot may come behind the event that changed it, and a table is
// what is left when all have been counted.
//
// Until then the stream brings everything, so a copy that waits, is paused or cancelled leaves nothing out. Broken off later it begins
// anew, under the next generation and behind a truncate event of its own.
type whole struct {
	ready   chan struct{}   // the worker holds the locks, and no older transaction is open
	proceed chan struct{}   // the stream stands still
	taken   chan wholeTaken // the snapshot
	verdict chan error      // nil where it is good, else why not
	buffers chan []byte     // free ones
	quit    chan struct{}   // closed when the copy is given up
	bytes   int             // of one piece
	spend   func(rows, bytes int) time.Time

	// Of the loop.
	from    pglogrepl.LSN   // where the WAL ended after the table was looked at; 0 until it is asked
	asked   time.Time       // when it was asked
	near    bool            // the stream has come there, in time
	before  map[uint32]bool // transactions that the stream has brought and no snapshot was seen to contain yet; nil until near
	shownAt time.Time       // when a snapshot was compared with them
	seen    *decode.Snapshot
	lsn     pglogrepl.LSN // what the snapshot sees lies before it
	pieces  []*copyJob    // that wait for their place
	ended   bool          // all rows were read
}

type wholeTaken struct {
	snapshot decode.Snapshot
	lsn      pglogrepl.LSN
	err      error
}

var (
	errGivenUp = errors.New("the copy of the table was given up")
	errBehind  = errors.New("the stream is behind, and a table without a key is copied when it is near the end of the WAL: its transaction is open from there on")
	errUnseen  = errors.New("a transaction that the stream has brought is not visible yet: its commit may wait for a synchronous standby")
	errWhere   = errors.New("the table has no key any more, and its copy begins with a truncate event: rows that the condition leaves out would be gone for consumers; start it without --where, or give the table a primary key")
	errSlow    = errors.New("the server has taken no snapshot in time, for which the stream stands still")
)

const (
	wholeLag    = time.Minute     // that the stream may be behind when the snapshot is taken
	wholeTaking = 3 * time.Second // that it may stand still for it
	wholeTries  = 20              // until a snapshot that sees too little is said to be one
)

func (c *Copy) wholeLag() time.Duration    { return cmp.Or(c.small.lag, wholeLag) }
func (c *Copy) wholeTaking() time.Duration { return cmp.Or(c.small.taking, wholeTaking) }

// newWhole makes one whose pieces are of so many bytes. spend takes down what was read, and says when more may be.
func newWhole(bytes int, spend func(rows, bytes int) time.Time) *whole {
	w := &whole{
		ready: make(chan struct{}, 1), proceed: make(chan struct{}, 1), taken: make(chan wholeTaken, 1), verdict: make(chan error, 1),
		buffers: make(chan []byte, 2), quit: make(chan struct{}), bytes: bytes, spend: spend,
	}
	w.buffers <- make([]byte, 0, bytes)
	w.buffers <- make([]byte, 0, bytes)
	return w
}

// stop has the worker give up.
func (w *whole) stop() { close(w.quit) }

// delivered notes that the stream has brought a transaction with a change of the table.
func (w *whole) delivered(xid uint32) {
	if w.before != nil {
		w.before[xid] = true
	}
}

// shown forgets what a snapshot sees: every later one sees it too.
func (w *whole) shown(s *decode.Snapshot) {
	w.shownAt = time.Now()
	maps.DeleteFunc(w.before, func(xid uint32, _ bool) bool { return s.Sees(xid) })
}

// forget has the place asked for again where the WAL ends, and noting begin anew when the stream is near it: with a new fence.
func (w *whole) forget(t *copying) { w.from, w.near, w.before, t.fence = 0, false, nil, 0 }

// contains says that the rows which are read contain what a transaction has done.
func (w *whole) contains(xid uint32) bool { return w.seen != nil && w.seen.Sees(xid) }

// waitsFor is the place in the WAL that the copy waits for; 0 for none.
func (w *whole) waitsFor() pglogrepl.LSN {
	switch {
	case w.seen != nil:
		return w.lsn
	case w.near:
		return 0
	}
	return w.from
}

// read is the worker's part. What the stream has brought before it was noted has an XID below the fence.
func (w *whole) read(parent context.Context, conn *source.CopyConn, j *copyJob, c *Copy, results chan<- *copyJob) error {
	defer conn.End(parent)
	ctx, cancel := context.WithCancelCause(parent)
	defer cancel(nil)
	go func() {
		select {
		case <-w.quit:
			cancel(errGivenUp) // a COPY, too
		case <-ctx.Done():
		}
	}()
	hit("whole-begin")
	// COPY would say it behind the truncate event.
	if err := conn.Check(ctx, j.table, ""); err != nil {
		return err
	}
	for try := 1; ; try++ {
		shown, err := conn.Lock(ctx, j.table, j.xid)
		j.shown = shown
		if err != nil {
			return err
		}
		hit("whole-locked")
		w.ready <- struct{}{}
		if _, err := receive(ctx, w.proceed); err != nil {
			return err
		}
		w.taken <- w.take(ctx, conn, j, c)
		if err, done := receive(ctx, w.verdict); done != nil {
			return done
		} else if err == nil {
			break
		} else if !errors.Is(err, errUnseen) || try == wholeTries {
			return err
		}
		conn.End(ctx)
		if err := sleep(ctx, c.tryAgain()/10); err != nil {
			return err
		}
	}
	read, until := time.Now(), time.Time{}
	hit("whole-snapshot")
	err := conn.Whole(ctx, j.table, "", w.bytes, func(data []byte, rows int, more bool) ([]byte, error) {
		if rows > 0 {
			p := &copyJob{copying: j.copying, epoch: j.epoch, whole: w, piece: true, chunk: &source.Chunk{Data: data, Rows: rows, Read: read}}
			select {
			case results <- p:
			case <-ctx.Done():
				return nil, context.Cause(ctx)
			}
			until = w.spend(rows, len(data))
		} else if data != nil {
			return data, nil
		}
		if !more {
			return nil, nil
		}
		hit("whole-piece")
		if err := sleep(ctx, time.Until(until)); err != nil {
			return nil, err
		}
		return receive(ctx, w.buffers)
	})
	hit("whole-read")
	return err
}

// take takes the snapshot, for which the stream stands still.
func (w *whole) take(ctx context.Context, conn *source.CopyConn, j *copyJob, c *Copy) (t wholeTaken) {
	ctx, done := context.WithTimeoutCause(ctx, c.wholeTaking(), errSlow)
	defer done()
	t.snapshot, t.lsn, t.err = conn.Snapshot(ctx, j.table, j.xid)
	if t.err != nil && ctx.Err() != nil {
		t.err = context.Cause(ctx)
	}
	return t
}

func receive[T any](ctx context.Context, c <-chan T) (v T, err error) {
	select {
	case v = <-c:
	case <-ctx.Done():
		err = context.Cause(ctx)
	}
	return v, err
}

// pieceRead takes rows that the worker has read.
func (l *loop) pieceRead(t *copying, j *copyJob) {
	if t.whole == nil || j.whole != t.whole {
		return // given up since
	}
	t.whole.pieces = append(t.whole.pieces, j)
	l.copy.pending++
}

// approach says whether the stream is near enough to the end of the WAL for the snapshot. It must have come by the place where the WAL
// ended when the table had been looked at, so that no older version of the table comes behind the snapshot's place; and in
// time, since the snapshot's transaction is open until the stream has come as far as it.
func (l *loop) approach(t *copying) {
	w := t.whole
	late := time.Since(w.asked) > l.copy.wholeLag()
	switch {
	case w.from == 0 || t.asking:
	case w.before != nil && time.Since(w.shownAt) > l.copy.wholeLag():
		w.forget(t) // what the stream brings is not noted for ever
	case w.near && late: // it was held up
		w.from, w.near = 0, false
	case !w.near && !late && w.from <= l.delivered:
		w.near = true
		if w.before == nil {
			w.before, w.shownAt = map[uint32]bool{}, time.Now() // before the fence is asked for
		}
	case !w.near && late:
		if w.from <= l.delivered {
			w.forget(t)
		}
		l.hold(t, errBehind)
	}
}

// takeReady has the snapshot taken when the stream is near and the worker ready for it.
func (l *loop) takeReady(ctx context.Context, t *copying) error {
	if t.whole.seen != nil {
		return nil
	}
	l.approach(t)
	if l.full() {
		return nil // the truncate event has no room
	}
	select {
	case <-t.whole.ready:
		return l.takeWhole(ctx, t)
	default:
		return nil
	}
}

// finishWhole ends the copy of a table without a key when all rows have their place, and all that the snapshot sees has come: it is
// published no more.
func (l *loop) finishWhole(t *copying) {
	if w := t.whole; w != nil && w.ended && len(w.pieces) == 0 && w.lsn <= l.delivered {
		l.log.Info("the rows of a table without a key have been copied", "table", t.name(), "rows", t.Rows, "bytes", t.Bytes, "took", now().Sub(t.Started))
		l.end(t, backfill.Done)
	}
}

// changedWhole is told of a change, in a version of the table, that the snapshot does not contain. Whoever alters the table has waited for
// the rows to be read, and not for their place; so they are read again.
func (l *loop) changedWhole(t *copying, rel *decode.Relation) {
	if t.whole.seen != nil && !rel.Equal(t.table.Relation) {
		l.lookAgain(t, "the table was altered")
	}
}

// truncatedWhole is told of a truncate that the snapshot does not contain: no row of it is left that would have to be placed. All that the
// snapshot contains has come before.
func (l *loop) truncatedWhole(t *copying) {
	if t.whole.seen != nil {
		l.log.Info("the copy of a table without a key ends, since the table was truncated", "table", t.name(), "rows", t.Rows)
		l.end(t, backfill.Done)
	}
}

// wholeFailed takes that the worker has failed. Behind the truncate event the copy is broken off; it says whether that is so.
func (l *loop) wholeFailed(t *copying, j *copyJob) bool {
	if j.shown != nil {
		t.whole.shown(j.shown)
	}
	if t.whole.seen != nil {
		l.breakOff(t, j.err)
		return true
	}
	return false
}

// breakOff ends a generation of a copy: what of its rows has its place is not all of them. The next one begins with a truncate event
// and all rows anew, so the pause before it grows.
func (l *loop) breakOff(t *copying, err error) {
	l.lookAgain(t, "it was broken off")
	l.hold(t, err)
	t.after = time.Now().Add(l.copy.tryMended() << min(t.broken, 8))
	t.broken++
}

// giveRest pauses the copy of a table of which a row cannot be published. Without a key nothing tells when that row is mended, and
// each try would bring all rows before it again, so somebody has to say so.
func (l *loop) giveRest(t *copying, err error) {
	l.rest(t)
	t.State = backfill.Paused
	l.copy.save(t)
	remedy := "`walferry backfill resume " + t.name() + "` copies the table anew"
	if hint := source.Hint(err); hint != "" {
		remedy = hint + "; then " + remedy
	}
	t.held = err.Error() + "; " + remedy
	l.log.Warn("the copy of a table without a key is paused; the stream goes on", "table", t.name(), "reason", err, "remedy", remedy)
}

// takeWhole has the snapshot taken while the stream stands still.
func (l *loop) takeWhole(ctx context.Context, t *copying) error {
	w := t.whole
	w.proceed <- struct{}{}
	taken, err := receive(ctx, w.taken)
	if err != nil {
		return err
	}
	if taken.err == nil {
		if w.shown(&taken.snapshot); len(w.before) > 0 {
			taken.err = errUnseen
		}
	}
	if taken.err == nil {
		if err := l.beginWhole(ctx, t); err != nil {
			if !errors.Is(err, errNotCaptured) && retryable(err) || errors.Is(err, errTextMode) {
				return err
			}
			l.lookAgain(t, "its copy cannot begin")
			l.hold(t, err)
			t.after = time.Now().Add(l.copy.tryMended()) // somebody has to mend it
			return nil
		}
		w.seen, w.lsn, w.before = &taken.snapshot, taken.lsn, nil
		hit("whole-taken")
	}
	w.verdict <- taken.err
	return nil
}

// beginWhole puts the truncate event behind all that the stream has brought, and before anything that the snapshot does not contain.
func (l *loop) beginWhole(ctx context.Context, t *copying) error {
	at := decode.Position{Commit: l.whole.Commit, Change: l.whole.End}
	tab, err := l.table(ctx, t.version(), at)
	if err != nil {
		return err
	}
	if tab == nil {
		return errNotCaptured
	}
	mark := l.builder.batch.Mark()
	if err := l.builder.emptied(tab, at, t.Relation, t.Generation, now()); err != nil {
		return errors.Join(fmt.Errorf("begin of the copy of table %s: %w", t.name(), err), l.builder.batch.Cut(mark))
	}
	t.State, t.Started = backfill.Copying, now()
	l.copy.save(t)
	return nil
}
