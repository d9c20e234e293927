package pipeline

import (
	"context"
	"errors"
	"fmt"
	"time"

	"walferry/decode"
	"walferry/internal/backfill"
	"walferry/source"

	"github.com/jackc/pglogrepl"
)

// whole is the copy of a table without a key: under one snapshot, since no range could be read again.
//
// Its changes are left out of the stream until the snapshot is taken, which contains them. It is taken while the stream stands still
// between two transactions, for the milliseconds that it takes, and is good if it sees all that was left out. In its place in
// the stream goes a truncate event, behind which the table's rows are those of the snapshot and what comes after it: changes
// that the snapshot sees are left out, all others are published. Rows have no order among these: a row of the snapshot may come
// behind the event that changed it, and a table is what is left when all have been counted.
//
// Broken off, it begins anew, under the next generation and behind a truncate event of its own.
type whole struct {
	ready   chan struct{}   // the worker holds the locks, and no older transaction is open
	proceed chan struct{}   // the stream stands still
	taken   chan wholeTaken // the snapshot
	verdict chan bool       // whether it is good
	buffers chan []byte     // free ones
	quit    chan struct{}   // closed when the copy is given up
	bytes   int             // of one piece
	spend   func(rows, bytes int) time.Time

	// Of the loop.
	seen   *decode.Snapshot
	lsn    pglogrepl.LSN
	left   map[uint32]bool // transactions whose changes were left out before the snapshot
	pieces []*copyJob      // that wait for their place
	ended  bool            // all rows were read
}

type wholeTaken struct {
	snapshot decode.Snapshot
	lsn      pglogrepl.LSN
	err      error
}

var errGivenUp = errors.New("the copy of the table was given up")

// newWhole makes one whose pieces are of so many bytes. spend takes down what was read, and says when more may be.
func newWhole(bytes int, spend func(rows, bytes int) time.Time) *whole {
	w := &whole{
		ready: make(chan struct{}, 1), proceed: make(chan struct{}, 1), taken: make(chan wholeTaken, 1), verdict: make(chan bool, 1),
		buffers: make(chan []byte, 2), quit: make(chan struct{}), left: map[uint32]bool{},
		bytes: bytes, spend: spend,
	}
	w.buffers <- make([]byte, 0, bytes)
	w.buffers <- make([]byte, 0, bytes)
	return w
}

// stop has the worker give up.
func (w *whole) stop() { close(w.quit) }

// contains says that the snapshot, which may be still to come, contains what a transaction has done. Of one delivered before
// the snapshot it is noted.
func (w *whole) contains(xid uint32) bool {
	if w.seen == nil {
		w.left[xid] = true
		return true
	}
	return w.seen.Sees(xid)
}

// read is the worker's part.
func (w *whole) read(ctx context.Context, conn *source.CopyConn, j *copyJob, results chan<- *copyJob) error {
	defer conn.End(ctx)
	hit("whole-begin")
	// What was delivered before any change was left out has a lower XID.
	fence, err := conn.Fence(ctx)
	if err != nil {
		return err
	}
	for {
		err := conn.Lock(ctx, j.table, fence)
		if err != nil {
			return err
		}
		hit("whole-locked")
		w.ready <- struct{}{}
		if err := wait(ctx, w, w.proceed); err != nil {
			return err
		}
		var t wholeTaken
		t.snapshot, t.lsn, t.err = conn.Snapshot(ctx, j.table, fence)
		w.taken <- t
		good, err := receive(ctx, w, w.verdict)
		if err != nil {
			return err
		}
		if good {
			break
		}
		conn.End(ctx)
		if t.err != nil {
			return t.err
		}
		if err := sleep(ctx, copyAgain/10); err != nil {
			return err
		}
	}
	read := time.Now()
	hit("whole-snapshot")
	return conn.Whole(ctx, j.table, j.copying.Where, w.bytes, func(data []byte, rows int, more bool) ([]byte, error) {
		if rows > 0 {
			p := &copyJob{copying: j.copying, epoch: j.epoch, whole: w, piece: true, chunk: &source.Chunk{Data: data, Rows: rows, Read: read}}
			select {
			case results <- p:
			case <-w.quit:
				return nil, errGivenUp
			case <-ctx.Done():
				return nil, context.Cause(ctx)
			}
			if err := w.until(ctx, w.spend(rows, len(data))); err != nil {
				return nil, err
			}
		} else if data != nil {
			return data, nil
		}
		if !more {
			return nil, nil
		}
		return receive(ctx, w, w.buffers)
	})
}

// until waits for a moment.
func (w *whole) until(ctx context.Context, at time.Time) error {
	timer := time.NewTimer(time.Until(at))
	defer timer.Stop()
	select {
	case <-timer.C:
		return nil
	case <-w.quit:
		return errGivenUp
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

func wait(ctx context.Context, w *whole, c <-chan struct{}) error {
	_, err := receive(ctx, w, c)
	return err
}

func receive[T any](ctx context.Context, w *whole, c <-chan T) (v T, err error) {
	select {
	case v = <-c:
	case <-w.quit:
		err = errGivenUp
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

// takeReady has the snapshot taken when the worker is ready for it.
func (l *loop) takeReady(ctx context.Context, t *copying) error {
	if l.delivered == 0 {
		return nil // nothing has shown yet that the stream is ours, and its events have no place
	}
	select {
	case <-t.whole.ready:
		return l.takeWhole(ctx, t)
	default:
		return nil
	}
}

// finishWhole ends the copy of a table without a key when all rows have their place.
func (l *loop) finishWhole(t *copying) {
	if w := t.whole; w != nil && w.ended && len(w.pieces) == 0 {
		l.log.Info("the rows of a table without a key have been copied", "table", t.name(), "rows", t.Rows, "bytes", t.Bytes, "took", now().Sub(t.Started))
		l.end(t, backfill.Done)
	}
}

// changedWhole is told of a change, in a version of the table, that the snapshot does not contain. Whoever alters the table has waited for
// the rows to be read, and not for their place; so they are read again.
func (l *loop) changedWhole(t *copying, rel *decode.Relation) {
	if t.whole.seen != nil && !rel.Equal(t.table.Relation) {
		l.anew(t, "the table was altered")
	}
}

// truncatedWhole is told of a truncate that the snapshot does not contain: no row of it is left that would have to be placed.
func (l *loop) truncatedWhole(t *copying) {
	if t.whole.seen != nil {
		l.log.Info("the copy of a table without a key ends, since the table was truncated", "table", t.name(), "rows", t.Rows)
		l.end(t, backfill.Done)
	}
}

// takeWhole has the snapshot taken while the stream stands still.
func (l *loop) takeWhole(ctx context.Context, t *copying) error {
	w := t.whole
	w.proceed <- struct{}{}
	var taken wholeTaken
	select {
	case taken = <-w.taken:
	case <-ctx.Done():
		return context.Cause(ctx)
	}
	good := taken.err == nil
	for xid := range w.left {
		good = good && taken.snapshot.Sees(xid)
	}
	if good {
		// Before anything that the snapshot does not contain.
		at := decode.Position{Commit: l.whole.Commit, Change: l.whole.End}
		tab, err := l.table(ctx, t.table.Relation, at)
		if err != nil {
			return err
		}
		if tab == nil {
			w.verdict <- false
			l.end(t, backfill.Uncaptured)
			return nil
		}
		if err := l.builder.emptied(tab, at, t.Relation, t.Generation, now()); err != nil {
			return fmt.Errorf("begin of the copy of table %s: %w", t.name(), err)
		}
		w.seen, w.lsn, w.left = &taken.snapshot, taken.lsn, nil
		l.copy.save(t)
		hit("whole-taken")
	}
	w.verdict <- good
	return nil
}
