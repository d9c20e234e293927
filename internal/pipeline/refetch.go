package pipeline

import (
	"context"
	"errors"
	"time"

	"walferry/decode"
	"walferry/schema"
	"walferry/sink"
	"walferry/source"
)

// refetchPause is how long no row of a table is read after the server has not let one be read: each may have cost a time-out.
const refetchPause = 30 * time.Second

// refetched is what the rows of a change that were read again put into it.
type refetched struct {
	columns []int
	names   []string
	text    []byte
}

// refetch reads, by key, the columns that the change's new row lacks, where `toast: refetch` is chosen for them, and puts the
// values of now into it. What there is no value of now for, since the row is gone or has another key, or the value is null by
// now, stays marked. The stream waits for it: that is the price of this choice, and only such updates pay it.
func (l *loop) refetch(ctx context.Context, t *table, c *decode.Change) error {
	r := &l.refetched
	r.columns = t.enc.Refetch(r.columns[:0], c)
	if len(r.columns) == 0 || time.Now().Before(t.refetchAfter) {
		return nil
	}
	row, err := l.cat.ReadRow(ctx, l.builder.tx.XID, c.Relation, c.New, r.columns)
	if unreadable, ok := errors.AsType[*source.UnreadableRowError](err); ok && !unreadable.Denied {
		t.refetchAfter = time.Now().Add(refetchPause)
		l.log.Warn("unchanged values stay marked for a while", "pause", refetchPause, "error", err)
		return nil
	}
	if err != nil || row == nil {
		return err
	}
	r.names = r.names[:0]
	for i, at := range r.columns {
		if row[i].Kind != decode.Null {
			c.New[at] = row[i]
			r.names = append(r.names, t.enc.FieldName(at))
		}
	}
	if len(r.names) > 0 {
		r.text = appendNames(r.text[:0], r.names)
		l.builder.refetched = r.text
	}
	return nil
}

// unfetch marks again what refetch has read. It says whether that was anything.
func (l *loop) unfetch(c *decode.Change) bool {
	if l.builder.refetched == nil {
		return false
	}
	for _, at := range l.refetched.columns {
		c.New[at] = decode.Datum{Kind: decode.Unchanged}
	}
	l.builder.refetched = nil
	return true
}

// changeRefetched is builder.change for a table with refetched columns. A value of now that cannot be published, because it is
// too large or does not fit the row's schema, is no reason to stop before a row that has it not.
func (l *loop) changeRefetched(ctx context.Context, t *table, c *decode.Change) error {
	if err := l.refetch(ctx, t, c); err != nil {
		return err
	}
	before := l.builder.txRecords
	err := l.builder.change(t, c, false)
	if (is[*schema.ValueError](err) || is[*sink.TooLargeError](err)) && l.builder.txRecords == before && l.unfetch(c) {
		l.log.Warn("a value of now cannot be published, it stays marked", "table", c.Relation.String(), "error", err)
		err = l.builder.change(t, c, false)
	}
	l.builder.refetched = nil
	return err
}
