package pipeline

import (
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"testing"

	"github.com/jackc/pglogrepl"

	"walferry/checkpoint"
	"walferry/internal/pgserver"
	"walferry/internal/testbed"
	"walferry/source"
)

// copyData copies a stopped server's data folder, as a base backup does.
func copyData(t testing.TB, from, to string) {
	t.Helper()
	if err := os.RemoveAll(to); err != nil {
		t.Fatal(err)
	}
	if out, err := exec.CommandContext(t.Context(), "cp", "-a", from, to).CombinedOutput(); err != nil {
		t.Fatalf("copy %s: %v\n%s", from, err, out)
	}
}

// restart stops the server at once, does something to its folder and starts it.
func restart(t testing.TB, pg *testbed.PG, mode pgserver.Mode, meanwhile func()) {
	t.Helper()
	if err := pg.Stop(mode); err != nil {
		t.Fatal(err)
	}
	meanwhile()
	if err := pg.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
}

// asStandby makes a stopped server begin as a standby that follows nobody, which promote makes a primary on the next timeline.
func asStandby(t testing.TB, pg *testbed.PG) {
	t.Helper()
	file := filepath.Join(pg.DataDir(), "standby.signal")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := pg.Own(file); err != nil {
		t.Fatal(err)
	}
}

func (b *bed) promote() {
	b.t.Helper()
	if !ask[bool](b, `SELECT pg_promote()`) {
		b.t.Fatal("not promoted")
	}
}

// writeBeyond makes the server's WAL end behind lsn, with transactions of other tables.
func (b *bed) writeBeyond(lsn pglogrepl.LSN) {
	b.t.Helper()
	b.await("the WAL to end behind "+lsn.String(), nil, func() bool {
		return ask[bool](b, `SELECT pg_logical_emit_message(true, 'walferry.else', repeat('x', 1 << 20)) > $1::text::pg_lsn`, lsn.String())
	})
}

// refused wants the next start to be refused for one of these reasons, with nothing published, in the topics or to the slot.
func (b *bed) refused(topic string, kinds ...checkpoint.RefusalKind) {
	b.t.Helper()
	const slot = `SELECT confirmed_flush_lsn::text FROM pg_replication_slots WHERE slot_name = $1`
	ends, confirmed := b.ends(topic), ask[string](b, slot, "walferry_"+b.name)
	before := b.checkpoint()
	err := b.start().ended(b.t)
	var refusal *checkpoint.Refusal
	if !errors.As(err, &refusal) || !slices.Contains(kinds, refusal.Kind) {
		b.t.Errorf("ended with %v, want a refusal of %v", err, kinds)
		return
	}
	b.t.Logf("%s: %v; %s", refusal.Kind, refusal, refusal.Hint())
	if now := b.ends(topic); now != ends {
		b.t.Errorf("%s before\n%s\nand after\n%s", topic, ends, now)
	}
	if now := ask[string](b, slot, "walferry_"+b.name); now != confirmed {
		b.t.Errorf("the slot was confirmed up to %s before, and up to %s after", confirmed, now)
	}
	if now := b.checkpoint(); !before.Equal(now) {
		b.t.Errorf("checkpoint %+v before, %+v after", before, now)
	}
}

// TestHistory takes one server through a crash, a promotion, and restores of older copies of itself.
func TestHistory(t *testing.T) {
	pg := testbed.Postgres(t, "")
	b := newBed(t, pg, testbed.Kafka(t), "history")
	ledger(b, "item")
	topic := b.name + ".public.item"
	insert := func() {
		pg.Exec(testbed.Owner, `INSERT INTO item SELECT g FROM generate_series((SELECT coalesce(max(id), 0) + 1 FROM item), (SELECT coalesce(max(id), 0) + 10 FROM item)) g`,
			`UPDATE item SET seq = DEFAULT WHERE id % 3 = 0`)
	}
	r := b.start()
	r.first(t)
	insert()
	b.caughtUp(r)
	first := b.checkpoint()
	insert()
	b.caughtUp(r)
	r.kill(t)

	// ⚔ A crash of the server takes the slot's confirmed position back behind what is published. What comes again is dropped.
	insert()
	restart(t, pg, pgserver.Immediate, func() {})
	confirmed, err := pglogrepl.ParseLSN(ask[string](b, `SELECT confirmed_flush_lsn::text FROM pg_replication_slots`))
	if err != nil {
		t.Fatal(err)
	}
	if confirmed >= first.Witness.Commit {
		t.Fatalf("confirmed up to %s after the crash, not before %s: the test shows nothing", confirmed, first.Witness.Commit)
	}
	r = b.start()
	b.caughtUp(r)
	b.verify("item")

	// A promoted standby: the timeline descends from the checkpoint's, and the stream goes on by itself.
	copies := t.TempDir()
	restart(t, pg, pgserver.Fast, func() {
		copyData(t, pg.DataDir(), filepath.Join(copies, "one"))
		asStandby(t, pg)
	})
	b.promote()
	insert()
	b.caughtUp(r)
	b.verify("item")
	if cp := b.checkpoint(); cp.Timeline != 2 {
		t.Errorf("the checkpoint is on timeline %d after a promotion, want 2", cp.Timeline)
	}
	// And a start from a checkpoint of this timeline.
	r.kill(t)
	insert()
	r = b.start()
	b.caughtUp(r)
	b.verify("item")

	// Restored from a copy of before: it has a history of its own from there on.
	r.kill(t)
	restart(t, pg, pgserver.Fast, func() { copyData(t, pg.DataDir(), filepath.Join(copies, "two")) })
	r = b.start()
	for range 3 {
		insert()
		b.writeBeyond(0)
	}
	b.caughtUp(r)
	b.verify("item")
	r.kill(t)
	reach := b.checkpoint().Reach()
	restore := func(name string, more func()) {
		restart(t, pg, pgserver.Immediate, func() {
			copyData(t, filepath.Join(copies, name), pg.DataDir())
			more()
		})
	}
	nothing := func() {}
	restore("two", nothing)
	b.refused(topic, checkpoint.BehindCheckpoint) // ⚔ START_REPLICATION itself accepts it in silence
	b.writeBeyond(reach)
	b.refused(topic, checkpoint.WitnessMissing, checkpoint.WitnessDiffers)
	restore("two", func() { asStandby(t, pg) })
	b.promote()
	b.writeBeyond(reach)
	b.refused(topic, checkpoint.Diverged)
	restore("one", nothing)
	b.writeBeyond(reach)
	b.refused(topic, checkpoint.OldPrimary)
}

// TestPublicationMadeAnew: ⚔ a slot that is older than its publication cannot be read, and this is said instead of tried again.
// A publication that is gone is another thing.
func TestPublicationMadeAnew(t *testing.T) {
	pg := testbed.Postgres(t, "")
	b := newBed(t, pg, testbed.Kafka(t), "anew")
	ledger(b, "item")
	r := b.start()
	r.first(t)
	r.kill(t)
	pg.Exec(testbed.Owner, `DROP PUBLICATION walferry_anew`, `INSERT INTO item VALUES (1)`)
	err := b.start().ended(t)
	var missing *source.PublicationMissingError
	if !errors.As(err, &missing) || missing.Hint() == "" {
		t.Errorf("ended with %v, want %T with a way on", err, missing)
	}
	b.publish("item")
	err = b.start().ended(t)
	var older *source.SlotOlderThanPublicationError
	if !errors.As(err, &older) || older.Hint() == "" {
		t.Errorf("ended with %v, want %T with a way on", err, older)
	}
	if n := len(b.all("item")); n != 0 {
		t.Errorf("%d events", n)
	}
}
