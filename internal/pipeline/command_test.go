package pipeline

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"walferry/internal/backfill"
	"walferry/internal/testbed"
	"walferry/source"
)

// asks sends a command and wants the states of the answer, as "table generation state".
func (b *bed) asks(r *running, c BackfillCommand, want ...string) []BackfillAnswer {
	b.t.Helper()
	ctx, done := context.WithTimeout(b.t.Context(), time.Minute)
	defer done()
	answers, err := r.Backfill(ctx, c)
	if err != nil {
		b.t.Fatalf("%+v: %v (%s)", c, err, source.Hint(err))
	}
	var got []string
	for _, a := range answers {
		got = append(got, fmt.Sprintf("%s %d %s", a.Table, a.Generation, a.State))
	}
	slices.Sort(got)
	if !slices.Equal(got, want) {
		b.t.Fatalf("%+v: %v, want %v", c, got, want)
	}
	return answers
}

// streams waits until a pipeline takes commands.
func (b *bed) streams(r *running) {
	b.t.Helper()
	b.await("the pipeline streams", r, func() bool { return r.Health().State == Streaming })
}

// isSaved wants the state of a table's copy in the checkpoint topic, as "state generation rows".
func (b *bed) isSaved(r *running, table, want string) {
	b.t.Helper()
	got := ""
	b.await(fmt.Sprintf("the copy of %s is %s", table, want), r, func() bool {
		if c := b.copies(b.t.Context())[table]; c != nil {
			got = fmt.Sprintf("%s %d %d", c.State, c.Generation, c.Rows)
		}
		return got == want
	})
}

// TestBackfillCommands asks a pipeline without a first copy for copies.
func TestBackfillCommands(t *testing.T) {
	pg := testbed.Postgres(t, "")
	b := newBed(t, pg, testbed.Kafka(t), "asked")
	var wanted func(string, string) bool
	b.adjust = func(c *Config) {
		c.Watch = 200 * time.Millisecond
		c.Copy = Copy{Wanted: wanted, Workers: 1, BufferBytes: 1 << 20, ChunkTime: time.Second}
	}
	pg.Exec(testbed.Owner, "CREATE TABLE item (id int PRIMARY KEY, v int)", "INSERT INTO item SELECT i, i % 2 FROM generate_series(1, 40) i",
		"CREATE TABLE log (line text)", "ALTER TABLE log REPLICA IDENTITY FULL", "INSERT INTO log SELECT 'l' || i FROM generate_series(1, 5) i",
		`CREATE TABLE "odd.one" (id int PRIMARY KEY)`, "CREATE TABLE other (id int PRIMARY KEY)", "GRANT SELECT ON ALL TABLES IN SCHEMA public TO "+testbed.Reader)
	b.publish(`item, log, "odd.one"`)

	idle := New(b.config(), b.client, b.registry, newWatcher(), nil)
	if _, err := idle.Backfill(t.Context(), BackfillCommand{Do: BackfillPause, All: true}); err == nil || !strings.Contains(err.Error(), "does not stream now (starting: start)") {
		t.Errorf("without a session: %v", err)
	}

	r := b.start()
	b.streams(r)
	refused := func(want string, c BackfillCommand) {
		t.Helper()
		_, err := r.Backfill(t.Context(), c)
		if err == nil || !strings.Contains(err.Error(), want) || source.Hint(err) == "" {
			t.Errorf("%+v: %v (%s), want %s", c, err, source.Hint(err), want)
		}
	}
	refused("table public.nosuch is not captured", BackfillCommand{Do: BackfillStart, Tables: []string{"public.nosuch"}})
	refused("table public.other is not captured", BackfillCommand{Do: BackfillStart, Tables: []string{"public.item", "public.other"}})
	refused("table public.nosuch is not captured", BackfillCommand{Do: BackfillCancel, Tables: []string{"public.nosuch"}})
	refused("it has 1 names instead of 2", BackfillCommand{Do: BackfillStart, Tables: []string{"item"}})
	refused(`column "nosuch" does not exist`, BackfillCommand{Do: BackfillStart, Tables: []string{"public.item"}, Where: "nosuch = 1"})
	refused("has no key", BackfillCommand{Do: BackfillStart, Tables: []string{"public.log"}, Where: "true"})
	refused("name the tables, or ask for all", BackfillCommand{Do: BackfillStart})
	refused("not both", BackfillCommand{Do: BackfillStart, All: true, Tables: []string{"public.item"}})
	refused("are for a start", BackfillCommand{Do: BackfillPause, All: true, Where: "true"})
	refused("nothing that can be asked", BackfillCommand{Do: "stop", All: true})
	refused("there is nothing to pause: the copy of table public.item is skipped", BackfillCommand{Do: BackfillPause, Tables: []string{"public.item"}})
	b.asks(r, BackfillCommand{Do: BackfillPause, All: true}) // of nothing

	b.asks(r, BackfillCommand{Do: BackfillStart, Tables: []string{"public.item"}, Where: "id <= 10"}, "public.item 1 waiting")
	b.isSaved(r, "item", "done 1 10")
	b.asks(r, BackfillCommand{Do: BackfillStart, Tables: []string{`public."odd.one"`}}, "public.odd.one 1 waiting")
	b.isSaved(r, "odd.one", "done 1 0")
	b.asks(r, BackfillCommand{Do: BackfillStart, All: true}, "public.item 2 waiting", "public.log 1 waiting", "public.odd.one 2 waiting")
	b.isSaved(r, "item", "done 2 40")
	b.isSaved(r, "log", "done 1 5")
	b.isSaved(r, "odd.one", "done 2 0")
	if n := len(b.all("item")); n != 50 {
		t.Errorf("item has %d events, not those of 10 and of 40 rows", n)
	}
	var last *CopyProgress
	b.await("what is done is told", r, func() bool {
		all := r.Health().Copies
		i := slices.IndexFunc(all, func(p CopyProgress) bool { return p.Table == "item" })
		if i < 0 {
			return false
		}
		last = &all[i]
		return len(all) == 3 && last.State == backfill.Done
	})
	if last.Rows != 40 || last.Generation != 2 || last.Bytes == 0 {
		t.Errorf("%+v", *last)
	}

	// A condition that fits no more holds the copy up, and says so. Until then an open transaction does.
	writer := pg.Connect(testbed.Owner)
	must(t, writer, "BEGIN")
	must(t, writer, "INSERT INTO other VALUES (1)")
	b.asks(r, BackfillCommand{Do: BackfillStart, Tables: []string{"public.item"}, Where: "v = 1"}, "public.item 3 waiting")
	waits := func(want string) {
		t.Helper()
		b.await("the copy waits for "+want, r, func() bool {
			return slices.ContainsFunc(r.Health().Copies, func(p CopyProgress) bool { return p.Table == "item" && strings.Contains(p.Waits, want) })
		})
	}
	waits("is open since before the copy")
	refused("the copy of table public.item is ", BackfillCommand{Do: BackfillStart, Tables: []string{"public.item"}})
	pg.Exec(testbed.Owner, "ALTER TABLE item DROP v")
	must(t, writer, "COMMIT")
	waits(`column "v" does not exist`)
	if a := b.asks(r, BackfillCommand{Do: BackfillStart, All: true}, "public.item 3 copying", "public.log 2 waiting", "public.odd.one 3 waiting"); !slices.ContainsFunc(a, func(a BackfillAnswer) bool {
		return strings.Contains(a.Note, "left as it was")
	}) {
		t.Errorf("a start of all says nothing of what it leaves: %+v", a)
	}
	b.isSaved(r, "log", "done 2 5") // the one worker is not held up
	b.asks(r, BackfillCommand{Do: BackfillStart, Tables: []string{"public.item"}, Where: "id = 7", Force: true}, "public.item 4 waiting")
	b.isSaved(r, "item", "done 4 1")

	// What is cancelled stays so, whatever the configuration wants.
	must(t, writer, "BEGIN")
	must(t, writer, "INSERT INTO other VALUES (2)")
	b.asks(r, BackfillCommand{Do: BackfillStart, Tables: []string{"public.item"}}, "public.item 5 waiting")
	b.asks(r, BackfillCommand{Do: BackfillPause, All: true}, "public.item 5 paused")
	refused("there is nothing to resume: the copy of table public.log is done", BackfillCommand{Do: BackfillResume, Tables: []string{"public.log"}})
	b.asks(r, BackfillCommand{Do: BackfillCancel, All: true}, "public.item 5 cancelled")
	must(t, writer, "COMMIT")
	r.drain(t)
	wanted = everyTable
	r = b.start()
	pg.Exec(testbed.Owner, "INSERT INTO item VALUES (100)")
	pg.Exec(testbed.Owner, "ALTER PUBLICATION walferry_asked ADD TABLE other")
	b.isSaved(r, "other", "done 1 2") // so the tables have been looked at
	b.isSaved(r, "item", "cancelled 5 0")
	r.drain(t)
}

// TestBackfillPause pauses a copy in its middle: it goes on behind what has its place, and a row that moves meanwhile is whole.
func TestBackfillPause(t *testing.T) {
	pg := testbed.Postgres(t, "")
	b := newBed(t, pg, testbed.Kafka(t), "paused")
	b.copying(1, 32<<10)
	pg.Exec(testbed.Owner, "CREATE TABLE item (id bigint PRIMARY KEY, v int, big text)", "ALTER TABLE item ALTER big SET STORAGE EXTERNAL",
		"INSERT INTO item SELECT i, 0, repeat('x', 2500) || i FROM generate_series(1, 60) i", "GRANT SELECT ON item TO "+testbed.Reader)
	b.publish("item")
	var placed atomic.Int64
	reached, goOn := make(chan struct{}), make(chan struct{})
	hook(t, func(place string) {
		if place == "chunk-placed" && placed.Add(1) == 3 {
			close(reached)
			<-goOn
		}
	})
	r := b.start()
	within(t, "the third chunk", reached)
	answered := make(chan []BackfillAnswer)
	go func() {
		answers, err := r.Backfill(context.Background(), BackfillCommand{Do: BackfillPause, Tables: []string{"public.*"}})
		if err != nil {
			t.Error(err)
		}
		answered <- answers
	}()
	close(goOn)
	if a := <-answered; len(a) != 1 || a[0].State != backfill.Paused {
		t.Fatalf("%+v", a)
	}
	at := placed.Load()
	b.await("the pause is read", r, func() bool { // its commit is answered before it can be
		saved := b.copies(t.Context())["item"]
		return saved.State == backfill.Paused && saved.Rows > 0 && saved.Rows < 60
	})
	moves := []string{"UPDATE item SET id = id + 1000 WHERE id IN (1, 59)", "UPDATE item SET v = 1 WHERE id IN (2, 60)", "DELETE FROM item WHERE id IN (3, 58)"}
	pg.Exec(testbed.Owner, moves...)
	b.caughtUp(r)
	r.kill(t)
	r = b.start()
	pg.Exec(testbed.Owner, "UPDATE item SET id = id + 1000 WHERE id IN (4, 57)")
	b.caughtUp(r)
	if n := placed.Load(); n != at {
		t.Errorf("%d chunks were placed while the copy was paused", n-at)
	}
	b.streams(r)
	if a := b.asks(r, BackfillCommand{Do: BackfillPause, All: true}); len(a) != 0 {
		t.Errorf("%+v", a)
	}
	b.asks(r, BackfillCommand{Do: BackfillPause, Tables: []string{"public.item"}}, "public.item 1 paused")
	b.asks(r, BackfillCommand{Do: BackfillResume, All: true}, "public.item 1 copying")
	b.copied(1)
	b.caughtUp(r)
	b.holdsTable("item")
	r.drain(t)
}

// TestBackfillKilled kills a process between a command and its answer, and behind it: what was answered is there, and what was not
// is as before or done.
func TestBackfillKilled(t *testing.T) {
	pg := testbed.Postgres(t, "")
	b := newBed(t, pg, testbed.Kafka(t), "answered")
	b.adjust = func(c *Config) { c.Copy = Copy{Workers: 1, BufferBytes: 1 << 20, ChunkTime: time.Second} }
	pg.Exec(testbed.Owner, "CREATE TABLE item (id int PRIMARY KEY)", "INSERT INTO item SELECT generate_series(1, 3)", "GRANT SELECT ON item TO "+testbed.Reader)
	b.publish("item")
	// An open transaction keeps every copy where it is.
	writer := pg.Connect(testbed.Owner)
	must(t, writer, "CREATE TABLE other (id int)")
	r := b.start()
	b.isSaved(r, "item", "skipped 0 0") // and the slot is made, which waits for every open transaction
	r.kill(t)
	must(t, writer, "BEGIN")
	must(t, writer, "INSERT INTO other VALUES (1)")
	for _, x := range []struct {
		place    string
		do       BackfillDo
		was, is  string // with or without what is asked
		answered bool
	}{
		{"before-publish", BackfillStart, "skipped 0 0", "waiting 1 0", false},
		{"after-commit", BackfillPause, "waiting 1 0", "paused 1 0", false},
		{"before-confirm", BackfillResume, "paused 1 0", "waiting 1 0", true},
		{"before-publish", BackfillCancel, "waiting 1 0", "cancelled 1 0", false},
		{"after-commit", BackfillStart, "cancelled 1 0", "waiting 2 0", false},
	} {
		var armed atomic.Bool
		hook(t, func(place string) {
			if place == x.place && armed.CompareAndSwap(true, false) {
				r.cancel(errKilled)
			}
		})
		r = b.start()
		b.isSaved(r, "item", x.was)
		b.streams(r)
		b.await("the pipeline is at rest", r, func() bool { return r.Health().InFlight == Batch{} })
		armed.Store(true)
		_, err := r.Backfill(t.Context(), BackfillCommand{Do: x.do, Tables: []string{"public.item"}})
		r.killed(t)
		var e *BackfillError
		if x.answered && err != nil || err != nil && !errors.As(err, &e) {
			t.Errorf("%s, killed at %s: %v", x.do, x.place, err)
		}
		testHook.Store(nil)
		r = b.start()
		b.streams(r) // so what was being committed is, or is not
		c := b.copies(t.Context())["item"]
		now := fmt.Sprintf("%s %d %d", c.State, c.Generation, c.Rows)
		t.Logf("%s, killed at %s: answered %v, is %s", x.do, x.place, err, now)
		if err == nil && now != x.is || now != x.was && now != x.is {
			t.Errorf("%s, killed at %s: is %s, answered %v", x.do, x.place, now, err)
		}
		if now == x.was && x.was != x.is {
			b.asks(r, BackfillCommand{Do: x.do, Tables: []string{"public.item"}}, "public.item "+strings.Fields(x.is)[1]+" "+strings.Fields(x.is)[0])
		}
		r.kill(t)
	}
	must(t, writer, "COMMIT")
	r = b.start()
	b.isSaved(r, "item", "done 2 3")
	r.drain(t)
}
