package pipeline

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"time"

	"walferry/source"
)

// watched is what the watch of one session leaves to that of the next: a reconnect is no reason to say everything again, nor to
// forget which tables were published before it. Watches of one pipeline run one after the other, so nothing guards it.
type watched struct {
	tables map[uint32]source.Table // published tables by OID; nil before the first look
	said   map[string]bool         // warnings that still hold
}

// watch looks at the publication and its tables while a session streams. It has connections of its own, whose
// statements and locks have time-outs, so it delays neither the stream nor heartbeats, and whatever it cannot ask it asks
// again the next time.
type watch struct {
	*session
	cat  *source.Catalog // nil while there is no connection
	says []string        // warnings of this round
}

// startWatch begins to watch; the returned func ends it and waits. The first look comes at once. first says that the stream
// begins with this session, added are tables that it has put into the publication.
func (s *session) startWatch(ctx context.Context, first bool, added []string) (stop func()) {
	ctx, cancel := context.WithCancel(ctx)
	done := make(chan struct{})
	w := &watch{session: s}
	go func() {
		defer close(done)
		tick := time.NewTicker(s.cfg.Watch)
		defer tick.Stop()
		for {
			switch err := w.look(ctx, first, added); {
			case ctx.Err() != nil:
			case err != nil:
				w.log.Warn("the publication could not be looked at; the stream is not concerned", "error", err)
			default:
				first, added = false, nil
				if s.onLooked != nil {
					s.onLooked()
				}
			}
			select {
			case <-ctx.Done():
				w.disconnect()
				return
			case <-tick.C:
			}
		}
	}()
	return func() { cancel(); <-done }
}

func (w *watch) disconnect() {
	if w.cat != nil {
		w.cat.Close()
		w.cat = nil
	}
}

// look is one round.
func (w *watch) look(ctx context.Context, first bool, added []string) (err error) {
	if w.cat == nil {
		if w.cat, err = source.OpenCatalog(ctx, w.source); err != nil {
			return err
		}
		if err := w.cat.Expect(w.system); err != nil {
			w.disconnect()
			return err
		}
	}
	w.says = nil
	before, err := w.cat.Tables(ctx)
	if err != nil {
		return err
	}
	now, back, err := w.reconcile(ctx, before)
	if err != nil {
		return err
	}
	gone, err := w.gone(ctx, before, now, back)
	if err != nil {
		return err
	}
	added = slices.Concat(added, back)
	var look []source.Table
	for i := range now {
		t := &now[i]
		for _, p := range t.Problems() {
			w.warn(p.Text, p.Text, "sql", p.Remedy)
		}
		// What is published by its schema or with all tables is so from its first row on.
		_, known := w.watched.tables[t.OID]
		if first || slices.Contains(added, t.String()) || w.watched.tables != nil && !known && t.Listed {
			look = append(look, *t)
		}
	}
	if !first {
		if err := w.describe(ctx, look); err != nil {
			return err
		}
	}
	filled, err := w.cat.Filled(ctx, slices.DeleteFunc(look, func(t source.Table) bool {
		return w.cfg.Copy.Wanted != nil && w.cfg.Copy.Wanted(t.Schema, t.Name)
	}))
	if err != nil {
		return err
	}
	for _, f := range filled {
		w.log.Warn("rows that are in the table already are not copied: changes of it are published from now on", "table", f.Table, "rows", f.String())
	}
	for _, g := range gone {
		w.log.Warn(g)
	}
	w.watched.tables = byOID(now)
	w.keep()
	return nil
}

// describe has the database say what tables are like that are published from now on, where the event trigger says what changes
// after it.
func (w *watch) describe(ctx context.Context, tables []source.Table) error {
	if len(tables) == 0 {
		return nil
	}
	if ok, err := w.cat.DDLTrigger(ctx); err != nil || !ok {
		return err
	}
	var oids []uint32
	for _, t := range tables {
		oids = append(oids, t.OID)
	}
	return w.cat.EmitDDL(ctx, oids)
}

func byOID(tables []source.Table) map[uint32]source.Table {
	m := make(map[uint32]source.Table, len(tables))
	for _, t := range tables {
		m[t.OID] = t
	}
	return m
}

// gone looks for tables that were published, in the last round or at the beginning of this one, and were not for a while: they are
// not there now, or reconcile has put them back. What was written meanwhile is on no stream, and only here can it be said.
func (w *watch) gone(ctx context.Context, before, now []source.Table, back []string) ([]string, error) {
	were := byOID(before)
	maps.Copy(were, w.watched.tables)
	var out []string
	for oid, t := range were {
		if !slices.Contains(back, t.String()) && slices.ContainsFunc(now, func(n source.Table) bool {
			// One that is published by its schema is so again as soon as it is made again.
			return n.OID == oid || n.Schema == t.Schema && n.Name == t.Name && !n.Listed
		}) {
			continue
		}
		captured, err := w.source.Selects(t.Schema, t.Name)
		if err != nil {
			return nil, err
		}
		fate, err := w.cat.Fate(ctx, &t)
		if err != nil {
			return nil, err
		}
		switch {
		case fate == source.TableDropped:
			w.log.Info("a captured table was dropped", "table", t.String())
		case !captured:
		case fate == source.TableMadeAgain:
			out = append(out, fmt.Sprintf("table %s was dropped and created again, which took it out of the publication: what was written to it before it was put back is not published", &t))
		case fate == source.TableRemoved:
			out = append(out, fmt.Sprintf("somebody took table %s out of the publication: what is written to it before it is put back is not published", &t))
		}
	}
	slices.Sort(out)
	return out, nil
}

// reconcile brings the publication to the configuration, or says what is to be done where that is not ours to do. It returns
// the tables that are published then, and the names of those that it added.
func (w *watch) reconcile(ctx context.Context, before []source.Table) (now []source.Table, added []string, err error) {
	diff, err := w.cat.ReconcilePublication(ctx, w.source.CreatePublication)
	var denied *source.PublicationPrivilegeError
	switch {
	case errors.As(err, &denied):
		w.warn(denied.Hint(), "the publication is not as configured, and this role may not change it", "sql", denied.SQL)
		return before, nil, nil
	case err != nil:
		return nil, nil, err
	}
	for _, m := range diff.Missing {
		w.warn("missing "+m, "a configured table does not exist", "table", m)
	}
	for _, n := range diff.Notes {
		w.warn(n, n)
	}
	if diff.Empty() {
		return before, nil, nil
	}
	if !w.source.CreatePublication {
		w.warn(diff.String(), "the publication is not as configured, and publication.create is off", "sql", diff.SQL)
		return before, nil, nil
	}
	w.log.Info("publication changed", "name", diff.Publication, "sql", diff.SQL)
	now, err = w.cat.Tables(ctx)
	return now, diff.Add, err
}

// warn says something once for as long as it holds; key tells it from everything else.
func (w *watch) warn(key, msg string, args ...any) {
	w.says = append(w.says, key)
	if !w.watched.said[key] {
		w.log.Warn(msg, args...)
	}
}

// keep forgets the warnings that did not come up this time, so that they are said again when they do.
func (w *watch) keep() {
	w.watched.said = map[string]bool{}
	for _, s := range w.says {
		w.watched.said[s] = true
	}
}
