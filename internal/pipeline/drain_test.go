package pipeline

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"

	"github.com/jackc/pglogrepl"
	"github.com/jackc/pgx/v5"

	"walferry/checkpoint"
	"walferry/internal/pgserver"
	"walferry/internal/testbed"
	"walferry/source"
)

// drainTo runs a drain that must end well and returns what it has saved.
func (b *bed) drainTo() *checkpoint.Checkpoint {
	b.t.Helper()
	defer b.as(func(c *Config) { c.Drain = true })()
	r := b.start()
	if err := r.ended(b.t); err != nil {
		b.t.Fatalf("drain: %v", err)
	}
	c := r.Drained()
	if c == nil || c.State != checkpoint.Drained || c.End == 0 || c.End != c.Witness.End {
		b.t.Fatalf("drained to %+v", c)
	}
	if saved := b.checkpoint(); !saved.Equal(c) {
		b.t.Fatalf("saved is %+v, and the drain says %+v", saved, c)
	}
	if at := b.confirmed(); at != c.End {
		b.t.Fatalf("the slot is at %s, want the end %s", at, c.End)
	}
	return c
}

// as changes the configuration of the next starts; the returned func undoes it.
func (b *bed) as(change func(*Config)) func() {
	before := b.adjust
	b.adjust = func(c *Config) {
		if before != nil {
			before(c)
		}
		change(c)
	}
	return func() { b.adjust = before }
}

func (b *bed) confirmed() pglogrepl.LSN {
	b.t.Helper()
	var text string
	if err := b.pg.Connect(testbed.Owner).QueryRow(b.t.Context(),
		`SELECT confirmed_flush_lsn::text FROM pg_replication_slots WHERE slot_name = $1`, "walferry_"+b.name).Scan(&text); err != nil {
		b.t.Fatal(err)
	}
	lsn, err := pglogrepl.ParseLSN(text)
	if err != nil {
		b.t.Fatal(err)
	}
	return lsn
}

// write commits n rows and a few changes more.
func (b *bed) write(table string, n int) {
	b.pg.Exec(testbed.Owner,
		fmt.Sprintf(`INSERT INTO %[1]s SELECT g FROM generate_series((SELECT coalesce(max(id), 0) + 1 FROM %[1]s), (SELECT coalesce(max(id), 0) + %[2]d FROM %[1]s)) g`, table, n),
		`UPDATE `+table+` SET seq = DEFAULT WHERE id % 3 = 0`, `DELETE FROM `+table+` WHERE id % 7 = 1`)
}

// killAt starts a pipeline and ends it the n-th time that it comes by a place.
func (b *bed) killAt(place string, n int) {
	b.t.Helper()
	reached, kill := make(chan struct{}), make(chan func(error), 1)
	seen := 0
	hook(b.t, func(at string) {
		if at == place {
			if seen++; seen == n {
				(<-kill)(errKilled)
				close(reached)
			}
		}
	})
	r := b.start()
	kill <- r.cancel
	within(b.t, place, reached)
	if err := r.ended(b.t); !errors.Is(err, errKilled) {
		b.t.Fatalf("ended with %v", err)
	}
	testHook.Store(nil)
}

// caughtUpForUpgrade asks the stopped server what pg_upgrade asks it: whether the slot has consumed everything.
func caughtUpForUpgrade(t *testing.T, pg *testbed.PG, slot string) bool {
	t.Helper()
	if err := pg.Stop(pgserver.Fast); err != nil {
		t.Fatal(err)
	}
	postgres, err := pg.Tool("postgres")
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.CommandContext(t.Context(), postgres, "--single", "-b", "-D", pg.DataDir(), testbed.Shop)
	cmd.Dir, cmd.Env = pg.DataDir(), []string{"LC_ALL=C"}
	cmd.Stdin = strings.NewReader("SELECT binary_upgrade_logical_slot_has_caught_up('" + slot + "');\n")
	if os.Geteuid() == 0 {
		dir, err := os.Stat(pg.DataDir())
		if err != nil {
			t.Fatal(err)
		}
		owner := dir.Sys().(*syscall.Stat_t)
		cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: owner.Uid, Gid: owner.Gid}}
	}
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	yes, no := strings.Contains(string(out), `has_caught_up = "t"`), strings.Contains(string(out), `has_caught_up = "f"`)
	if yes == no {
		t.Fatalf("no answer in %s", out)
	}
	if err := pg.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	return yes
}

// TestDrain walks through a planned move: drained, killed within, gone on with after all, drained again,
// and taken over by another cluster.
func TestDrain(t *testing.T) {
	pg := testbed.Postgres(t, "18")
	broker := testbed.Kafka(t)
	b := newBed(t, pg, broker, "drain")
	b.adjust = func(c *Config) { c.Sink.MaxBatchBytes = 16 << 10 }

	undo := b.as(func(c *Config) { c.Drain = true })
	ledger(b, "item")
	if err := b.start().ended(t); !is[*NothingToDrainError](err) {
		t.Errorf("a drain before the first start ends with %v", err)
	}
	undo()

	r := b.start()
	r.first(t)
	b.write("item", 40)
	b.caughtUp(r)
	r.drain(t)
	if caughtUpForUpgrade(t, pg, "walferry_drain") {
		t.Error("pg_upgrade would take a slot whose last transaction is confirmed by its commit LSN only; then a drain is for nothing")
	}

	// What is written while nobody runs is drained too.
	b.write("item", 40)
	end := b.drainTo().End
	b.verify("item")
	if !caughtUpForUpgrade(t, pg, "walferry_drain") {
		t.Error("pg_upgrade would refuse the drained slot")
	}
	if again := b.drainTo().End; again <= end {
		t.Errorf("drained to %s, and again to %s", end, again)
	}

	// A plain run goes on, the more so when the first thing that it finds is a split transaction in which it dies.
	b.pg.Exec(testbed.Owner, `INSERT INTO item SELECT g, nextval('write_number'), repeat('x', 500) FROM generate_series(10001, 10300) g`)
	b.killAt("after-commit", 2)
	if c := b.checkpoint(); c.State != checkpoint.Live || c.Split == nil {
		t.Errorf("killed within a split transaction, the checkpoint is %+v", c)
	}
	r = b.start()
	b.write("item", 20)
	b.caughtUp(r)
	b.verify("item")

	// A second one does not wait for the first for ever.
	undo = b.as(func(c *Config) { c.Drain = true })
	if err := b.start().ended(t); !is[*source.SlotInUseError](err) {
		t.Errorf("a drain beside a run ends with %v", err)
	}
	undo()
	r.drain(t)

	// Killed between saving and confirming: a run goes on, and so does a drain.
	for _, next := range []string{"run", "drain"} {
		b.write("item", 10)
		undo := b.as(func(c *Config) { c.Drain = true })
		b.killAt("drained-saved", 1)
		undo()
		if at, c := b.confirmed(), b.checkpoint(); c.State != checkpoint.Drained || at >= c.End {
			t.Fatalf("killed before the end was confirmed: the slot is at %s, the checkpoint %+v", at, c)
		}
		b.write("item", 10)
		if next == "drain" {
			b.drainTo()
		} else {
			r := b.start()
			b.caughtUp(r)
			r.kill(t)
		}
		b.verify("item")
	}

	t.Run("move", func(t *testing.T) { b.t = t; testMove(t, b, broker) })
}

// testMove takes a pipeline to other clusters, to which its tables are carried as an upgrade does.
func testMove(t *testing.T, b *bed, broker *testbed.Broker) {
	old := b.pg
	undrained := b.checkpoint().State != checkpoint.Drained
	for _, withSlot := range []bool{true, false} {
		b.write("item", 10)
		if !undrained {
			r := b.start()
			b.caughtUp(r)
			r.kill(t)
		}
		next := testbed.Postgres(t, "")
		b.pg = next
		ledger(b, "item")
		refused := func(what string, kind checkpoint.RefusalKind, after bool) {
			t.Helper()
			defer b.as(func(c *Config) { c.AfterUpgrade, c.Source.DSN = after, next.DSN(testbed.Reader) })()
			before := b.ends("_walferry."+b.name, b.name+".public.item")
			var refusal *checkpoint.Refusal
			if err := b.start().ended(t); !errors.As(err, &refusal) || refusal.Kind != kind {
				t.Errorf("%s: ended with %v, want the refusal %s", what, err, kind)
			}
			// A new cluster is known before anything is fenced; where its WAL is only later.
			if now := b.ends("_walferry."+b.name, b.name+".public.item"); now != before && kind != checkpoint.BehindCheckpoint {
				t.Errorf("%s: topics before\n%s\nand after\n%s", what, before, now)
			}
		}
		refused("not drained", checkpoint.ForeignSystem, false)
		refused("not drained, upgrade claimed", checkpoint.NotDrained, true)
		b.pg = old
		end := b.drainTo().End
		b.pg = next
		carry(t, old, next)
		refused("drained, no upgrade claimed", checkpoint.ForeignSystem, false)

		slot := func() {
			if withSlot {
				next.Exec(testbed.Superuser, `SELECT pg_create_logical_replication_slot('walferry_`+b.name+`', 'pgoutput')`)
			}
		}
		c := next.Connect(testbed.Superuser)
		reset := func() bool {
			var behind bool
			if err := c.QueryRow(t.Context(), `SELECT pg_current_wal_insert_lsn() < $1::text::pg_lsn`, end.String()).Scan(&behind); err != nil {
				t.Fatal(err)
			}
			return behind
		}
		if !reset() {
			t.Fatalf("the new cluster's WAL is beyond %s already, so this shows nothing", end)
		}
		slot()
		refused("a WAL that does not go on where the old one ended", checkpoint.BehindCheckpoint, true)
		if withSlot {
			next.Exec(testbed.Superuser, `SELECT pg_drop_replication_slot('walferry_`+b.name+`')`)
		}
		for reset() { // as pg_upgrade does with pg_resetwal
			must(t, c, `SELECT pg_logical_emit_message(false, 'wal', 'x'), pg_switch_wal()`)
		}
		slot()
		undo := b.as(func(c *Config) { c.AfterUpgrade, c.Source.DSN = true, next.DSN(testbed.Reader) })
		if withSlot {
			b.write("item", 10)
		}
		r := b.start()
		r.first(t) // or the slot is not there
		b.write("item", 10)
		b.caughtUp(r)
		r.kill(t)
		undo()
		// Once is enough.
		undo = b.as(func(c *Config) { c.Source.DSN = next.DSN(testbed.Reader) })
		b.write("item", 10)
		r = b.start()
		b.caughtUp(r)
		b.verify("item")
		r.drain(t)
		if withSlot {
			undo()
		}
		old, undrained = next, true
	}
}

// carry copies what ledger has made from one cluster to another.
func carry(t *testing.T, from, to *testbed.PG) {
	t.Helper()
	src, dst := from.Connect(testbed.Owner), to.Connect(testbed.Owner)
	must(t, dst, `ALTER TABLE item DISABLE TRIGGER note`)
	for _, table := range []string{"item", "audit"} {
		rows, err := src.Query(t.Context(), `SELECT * FROM `+table)
		if err != nil {
			t.Fatal(err)
		}
		var all [][]any
		for rows.Next() {
			v, err := rows.Values()
			if err != nil {
				t.Fatal(err)
			}
			all = append(all, v)
		}
		if err := rows.Err(); err != nil {
			t.Fatal(err)
		}
		columns := make([]string, len(rows.FieldDescriptions()))
		for i, f := range rows.FieldDescriptions() {
			columns[i] = f.Name
		}
		if _, err := dst.CopyFrom(t.Context(), pgx.Identifier{table}, columns, pgx.CopyFromRows(all)); err != nil {
			t.Fatal(err)
		}
	}
	must(t, dst, `ALTER TABLE item ENABLE TRIGGER note`)
	must(t, dst, `SELECT setval('audit_n_seq', (SELECT max(n) FROM audit)), setval('write_number', (SELECT max(seq) FROM audit))`)
}
