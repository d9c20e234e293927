package source

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pglogrepl"
	"github.com/jackc/pgx/v5"

	"walferry/internal/pgserver"
	"walferry/internal/testbed"
	"walferry/schema"
)

func TestMain(m *testing.M) { os.Exit(testbed.Main(m)) }

// config is for the least privileged role; the publication is the owner's, as after `walferry setup`.
func config(pg *testbed.PG) Config {
	return Config{DSN: pg.DSN(testbed.Reader), Slot: "walferry", Publication: "Ferry's \"pub\"", Tables: []string{"public.*"},
		WALSenderTimeout: 10 * time.Second, CreateSlot: true}
}

const pubName = `"Ferry's ""pub"""`

func within(t *testing.T, d time.Duration) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), d)
	t.Cleanup(cancel)
	return ctx
}

func dial(t *testing.T, cfg Config) *Conn {
	t.Helper()
	c, err := Dial(within(t, 20*time.Second), cfg)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func createSlot(t *testing.T, cfg Config) pglogrepl.LSN {
	t.Helper()
	c := dial(t, cfg)
	lsn, err := c.CreateSlot(within(t, 20*time.Second))
	if err != nil {
		t.Fatal(err)
	}
	if err := c.Close(t.Context()); err != nil {
		t.Fatal(err)
	}
	return lsn
}

// start takes the slot, waiting for the holder before to let go of it.
func start(t *testing.T, cfg Config) *Stream {
	t.Helper()
	deadline := time.Now().Add(20 * time.Second)
	for {
		s, err := dial(t, cfg).Start(within(t, 20*time.Second), 0)
		if _, busy := errors.AsType[*SlotInUseError](err); busy && time.Now().Before(deadline) {
			continue // the dial of the next attempt is pause enough
		}
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = s.Close(context.Background()) })
		return s
	}
}

func catalog(t *testing.T, cfg Config) *Catalog {
	t.Helper()
	c, err := OpenCatalog(within(t, 20*time.Second), cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.Close)
	return c
}

// taken are the frames of each stream that came in the same Block behind the one that was waited for.
var taken = map[*Stream][]Frame{}

// next takes frames until one satisfies f, and returns it and all that came before.
func next(t *testing.T, s *Stream, what string, f func(Frame) bool) (Frame, []Frame) {
	t.Helper()
	ctx := within(t, 30*time.Second)
	var before []Frame
	for {
		for i, fr := range taken[s] {
			if f(fr) {
				taken[s] = taken[s][i+1:]
				return fr, before
			}
			before = append(before, fr)
		}
		taken[s] = nil
		select {
		case b, ok := <-s.Blocks():
			if !ok {
				t.Fatalf("stream ended while waiting for %s: %v", what, s.Err())
			}
			for _, fr := range b.Frames {
				fr.Payload = bytes.Clone(fr.Payload)
				taken[s] = append(taken[s], fr)
			}
			b.Release()
		case <-ctx.Done():
			t.Fatalf("no %s came", what)
		}
	}
}

func kind(k byte) func(Frame) bool { return func(f Frame) bool { return f.Payload[0] == k } }

// commitLSN reads a Commit message: 'C', flags, commit LSN.
func commitLSN(f Frame) pglogrepl.LSN {
	var l uint64
	for _, b := range f.Payload[2:10] {
		l = l<<8 | uint64(b)
	}
	return pglogrepl.LSN(l)
}

func eventually(t *testing.T, what string, f func() bool) {
	t.Helper()
	for deadline := time.Now().Add(20 * time.Second); !f(); time.Sleep(20 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("it never was so that %s", what)
		}
	}
}

func TestServer(t *testing.T) {
	for _, version := range testbed.PostgresVersions() {
		t.Run(version, func(t *testing.T) {
			pg := testbed.Postgres(t, version)
			pg.Exec(testbed.Owner,
				`CREATE TYPE mood AS ENUM ('sad', 'so ''so''', 'happy')`,
				`CREATE DOMAIN tags AS text[] CHECK (array_length(value, 1) < 9)`,
				`CREATE TYPE pair AS (a mood, b numeric(5,2))`,
				`CREATE TABLE orders (id bigint PRIMARY KEY, status mood NOT NULL DEFAULT 'sad', note text, labels tags, p pair[], twice bigint GENERATED ALWAYS AS (id * 2) STORED)`,
				`COMMENT ON TABLE orders IS 'the orders'`, `COMMENT ON COLUMN orders.note IS 'a note'`,
				`CREATE TABLE "Größe.1" ("Key A" int NOT NULL, b text, c text)`,
				`CREATE UNIQUE INDEX uq ON "Größe.1" ("Key A")`, `ALTER TABLE "Größe.1" REPLICA IDENTITY USING INDEX uq`,
				`CREATE TABLE parts (id int, at date, PRIMARY KEY (id, at)) PARTITION BY RANGE (at)`,
				`CREATE TABLE parts_1 PARTITION OF parts FOR VALUES FROM ('2026-01-01') TO ('2027-01-01')`,
				`CREATE TABLE parts_2 PARTITION OF parts FOR VALUES FROM ('2027-01-01') TO ('2028-01-01')`,
				`ALTER TABLE parts_2 REPLICA IDENTITY FULL`,
				`CREATE TABLE nokey (a int)`,
				`CREATE PUBLICATION `+pubName+` FOR TABLE orders, "Größe.1", parts, nokey WITH (publish_via_partition_root = true)`)
			cfg := config(pg)
			createSlot(t, cfg)
			cat := catalog(t, cfg)
			ctx := within(t, 2*time.Minute)

			t.Run("identity", func(t *testing.T) {
				c := dial(t, cfg)
				sys := c.System()
				if sys.Major() != pg.Version() || sys.DB != testbed.Shop || sys.Timeline != 1 || sys.ID == "" || sys.WALEnd == 0 {
					t.Fatalf("%+v", sys)
				}
				if h := c.TimelineHistory(); h != nil {
					t.Fatalf("history %v", h)
				}
				if err := cat.Expect(sys); err != nil {
					t.Fatal(err)
				}
				other := sys
				other.Timeline = 2
				if _, ok := errors.AsType[*IdentityError](cat.Expect(other)); !ok {
					t.Fatal("another timeline was accepted")
				}
				if err := cat.Heartbeat(ctx); err == nil {
					t.Fatal("a new side connection to another timeline was accepted")
				}
				if err := cat.Expect(sys); err != nil {
					t.Fatal(err)
				}
				if err := c.Close(ctx); err != nil {
					t.Fatal(err)
				}
			})

			t.Run("describe", func(t *testing.T) {
				tables, err := cat.Tables(ctx)
				if err != nil {
					t.Fatal(err)
				}
				got := map[string]Table{}
				for _, tb := range tables {
					got[tb.Name] = tb
				}
				if len(got) != 4 {
					t.Fatalf("tables %+v", tables)
				}
				if o := got["orders"]; !slices.Equal(o.IdentityColumns, []string{"id"}) || o.Identity != 'd' || slices.Contains(o.Columns, "twice") || len(o.Columns) != 5 || o.Owner != testbed.Owner {
					t.Errorf("orders %+v", o)
				}
				if g := got["Größe.1"]; g.Identity != 'i' || !slices.Equal(g.IdentityColumns, []string{"Key A"}) || len(g.PrimaryKey) != 0 {
					t.Errorf("Größe.1 %+v", g)
				}
				if p := got["parts"]; !p.Partitioned || !slices.Equal(p.OddLeaves, []string{"public.parts_2"}) {
					t.Errorf("parts %+v", p)
				}
				d, err := cat.Describe(ctx, got["orders"].OID)
				if err != nil {
					t.Fatal(err)
				}
				if d.Comment != "the orders" || !slices.Equal(d.PrimaryKey, []string{"id"}) || len(d.Columns) != 6 {
					t.Errorf("%+v", d)
				}
				if c := d.Columns[1]; !c.NotNull || c.Default != "'sad'::public.mood" {
					t.Errorf("status %+v", c)
				}
				if c := d.Columns[2]; c.Comment != "a note" || c.NotNull {
					t.Errorf("note %+v", c)
				}
				if c := d.Columns[5]; !c.Generated || c.Default != "" {
					t.Errorf("twice %+v", c)
				}
				kinds := map[string]byte{}
				for _, ty := range d.Types {
					kinds[ty.Name] = ty.Kind
					switch ty.Name {
					case "mood":
						if !slices.Equal(ty.Labels, []string{"sad", "so 'so'", "happy"}) || !ty.HasBinary {
							t.Errorf("mood %+v", ty)
						}
					case "tags":
						if ty.Base != 1009 || ty.BaseMod != -1 {
							t.Errorf("tags %+v", ty)
						}
					case "pair":
						if len(ty.Attributes) != 2 || ty.Attributes[1].Name == "" || ty.Attributes[1].Type != 1700 {
							t.Errorf("pair %+v", ty)
						}
					case "_text":
						if ty.Elem != 25 || ty.Category != 'A' || ty.Delim != ',' {
							t.Errorf("_text %+v", ty)
						}
					}
				}
				for name, k := range map[string]byte{"int8": 'b', "mood": 'e', "tags": 'd', "_text": 'b', "text": 'b', "_pair": 'b', "pair": 'c', "numeric": 'b'} {
					if kinds[name] != k {
						t.Errorf("type %s is %q", name, kinds[name])
					}
				}
				types, err := cat.DescribeTypes(ctx, 19, 600, 4451, 999999) // name, point, int4multirange, none
				if err != nil || len(types) != 5 || types[19].Elem != 0 || types[600].Elem != 0 || types[4451].Kind != 'm' ||
					types[4451].Range != 3904 || types[3904].Subtype != 23 || types[23] == nil {
					t.Errorf("types %v %v", types, err)
				}
				if _, err := cat.Describe(ctx, 1); err == nil {
					t.Error("a table that does not exist was described")
				}
			})

			t.Run("stream", func(t *testing.T) {
				s := start(t, cfg)
				_, err := dial(t, cfg).Start(ctx, 0)
				inUse, ok := errors.AsType[*SlotInUseError](err)
				if !ok || inUse.PID == 0 {
					t.Fatalf("second taker: %v", err)
				}
				if slot, err := cat.SlotInfo(ctx); err != nil || !slot.Exists || !slot.Active || slot.ActivePID != inUse.PID || slot.Plugin != "pgoutput" || slot.WALStatus != "reserved" || slot.SafeWALBytes != -1 {
					t.Fatalf("slot %+v %v", slot, err)
				}
				before, err := cat.SlotInfo(ctx)
				if err != nil {
					t.Fatal(err)
				}
				pg.Exec(testbed.Owner, `INSERT INTO orders VALUES (1, 'happy', 'x', '{a,b}', '{"(sad,1.50)"}')`,
					`INSERT INTO parts VALUES (1, '2026-05-05')`,
					// ⚔ Foreign messages, large and not transactional, are skipped.
					`SELECT pg_logical_emit_message(true, 'foreign', repeat('x', 3500000))`,
					`SELECT pg_logical_emit_message(false, 'walferry.x', repeat('x', 3500000))`)
				if err := cat.Heartbeat(ctx); err != nil {
					t.Fatal(err)
				}
				_, frames := next(t, s, "heartbeat", kind('M'))
				var kinds []byte
				for _, f := range frames {
					kinds = append(kinds, f.Payload[0])
				}
				if got := strings.Map(func(r rune) rune {
					if strings.ContainsRune("BICM", r) {
						return r
					}
					return -1
				}, string(kinds)); got != "BICBICBCB" {
					t.Fatalf("messages %s (%s)", got, kinds)
				}
				row := frames[slices.Index(kinds, 'I')].Payload
				if !bytes.Contains(row, []byte{'b', 0, 0, 0, 8, 0, 0, 0, 0, 0, 0, 0, 1}) {
					t.Errorf("no binary value in % x", row)
				}
				commit, _ := next(t, s, "commit", kind('C'))
				now, err := cat.SlotInfo(ctx)
				if err != nil || now.Confirmed != before.Confirmed {
					t.Fatalf("confirmed moved from %s to %s by itself (%v)", before.Confirmed, now.Confirmed, err)
				}
				s.Confirm(commitLSN(commit))
				eventually(t, "the slot is confirmed", func() bool {
					now, err := cat.SlotInfo(ctx)
					return err == nil && now.Confirmed == commitLSN(commit)
				})
				if s.ServerEnd() < commitLSN(commit) || time.Since(s.LastFrame()) > 20*time.Second {
					t.Errorf("server end %s, last frame %s", s.ServerEnd(), s.LastFrame())
				}
				// The slot is free when Close returns, and the transaction that was confirmed by its commit LSN comes again.
				if err := s.Close(ctx); err != nil {
					t.Fatal(err)
				}
				s2, err := dial(t, cfg).Start(ctx, 0)
				if err != nil {
					t.Fatalf("after Close: %v", err)
				}
				again, _ := next(t, s2, "commit", kind('C'))
				if commitLSN(again) != commitLSN(commit) {
					t.Fatalf("witness %s instead of %s", commitLSN(again), commitLSN(commit))
				}
				if err := s2.Close(ctx); err != nil {
					t.Fatal(err)
				}
			})

			t.Run("text", func(t *testing.T) {
				text := cfg
				text.TextMode = true
				s := start(t, text)
				pg.Exec(testbed.Owner, `INSERT INTO orders VALUES (77, 'happy')`)
				next(t, s, "row 77 in text", func(f Frame) bool { return bytes.Contains(f.Payload, []byte("t\x00\x00\x00\x0277")) })
				if err := s.Close(ctx); err != nil {
					t.Fatal(err)
				}
			})

			t.Run("preflight", func(t *testing.T) {
				got := map[string]Finding{}
				for _, f := range cat.Preflight(ctx) {
					if f.Severity == Fail && f.Remedy == "" {
						t.Errorf("no remedy: %+v", f)
					}
					got[f.ID] = f
				}
				for id, want := range map[string]Severity{"version": OK, "wal_level": OK, "replication_privilege": OK, "max_slot_wal_keep_size": Warn,
					"slot": OK, "publication": OK, "partition_identity": Fail, "replica_identity": Fail, "toast": Warn, "synchronous_standby_names": OK} {
					if got[id].Severity != want {
						t.Errorf("%s: %+v", id, got[id])
					}
				}
				pg.Exec(testbed.Owner, got["partition_identity"].Remedy, `DROP TABLE nokey`)
				for _, f := range cat.Preflight(ctx) {
					if f.Severity == Fail {
						t.Errorf("after the remedies: %+v", f)
					}
				}
			})

			t.Run("lock", func(t *testing.T) {
				unlock, ok, err := cat.AdvisoryLock(ctx, cfg.Slot)
				if err != nil || !ok {
					t.Fatal(ok, err)
				}
				if _, ok, err := cat.AdvisoryLock(ctx, cfg.Slot); ok || err != nil {
					t.Fatal("two have the lock", err)
				}
				unlock()
				eventually(t, "the lock is free", func() bool {
					unlock, ok, err := cat.AdvisoryLock(ctx, cfg.Slot)
					if ok {
						unlock()
					}
					return ok && err == nil
				})
			})

			t.Run("drop", func(t *testing.T) {
				if err := cat.DropSlot(ctx); err != nil {
					t.Fatal(err)
				}
				if s, err := cat.SlotInfo(ctx); err != nil || s.Exists {
					t.Fatal(s, err)
				}
				if err := cat.DropSlot(ctx); err != nil {
					t.Fatalf("second drop: %v", err)
				}
				_, err := dial(t, cfg).Start(ctx, 0)
				if _, ok := errors.AsType[*SlotMissingError](err); !ok {
					t.Fatalf("start without slot: %v", err)
				}
			})

			// ⚔ A slot that is older than its publication cannot start; on 18 the server would only warn and send nothing.
			t.Run("old-slot", func(t *testing.T) {
				old := cfg
				old.Slot, old.Publication = "older", "younger"
				createSlot(t, old)
				pg.Exec(testbed.Owner, `INSERT INTO orders VALUES (2)`, `CREATE PUBLICATION younger FOR TABLE orders`, `INSERT INTO orders VALUES (3)`)
				s := start(t, old)
				for b := range s.Blocks() {
					for _, f := range b.Frames {
						if f.Payload[0] == 'I' {
							t.Error("a row came")
						}
					}
					b.Release()
				}
				if _, ok := errors.AsType[*PublicationMissingError](s.Err()); !ok {
					t.Fatalf("stream: %v", s.Err())
				}
				err := catalog(t, old).Explain(ctx, s.Err())
				if _, ok := errors.AsType[*SlotOlderThanPublicationError](err); !ok || Hint(err) == "" {
					t.Fatalf("explained as %v", err)
				}
			})

			// Last, because the streams above count every transaction.
			t.Run("odd times", func(t *testing.T) {
				pg.Exec(testbed.Owner, `INSERT INTO parts VALUES (1, '2026-02-03')`, `CREATE DOMAIN day AS date`,
					`CREATE TABLE times (id int PRIMARY KEY, d day, o date, t time, z timestamptz, y timestamp, n timestamp)`,
					`INSERT INTO times SELECT n, 'infinity', '2024-02-29', '24:00', '10000-01-01 00:00+00', '0044-03-15 BC', NULL FROM generate_series(1, 9) n`,
					`ALTER PUBLICATION `+pubName+` ADD TABLE times`, `ANALYZE`)
				tables, err := cat.Tables(ctx)
				if err != nil {
					t.Fatal(err)
				}
				odd, err := cat.OddTimes(ctx, tables)
				if want := []Column{{"public", "times", "d"}, {"public", "times", "t"}, {"public", "times", "y"}, {"public", "times", "z"}}; err != nil || !slices.Equal(odd, want) {
					t.Errorf("odd times %v, %v", odd, err)
				}
			})
		})
	}
}

// TestShutdown: ⚔ a fast shutdown ends at once while nothing is confirmed, whether the stream is read or not.
func TestShutdown(t *testing.T) {
	for _, version := range testbed.PostgresVersions() {
		t.Run(version, func(t *testing.T) {
			pg := testbed.Postgres(t, version)
			pg.Exec(testbed.Owner, `CREATE TABLE t (id int PRIMARY KEY, v text)`, `CREATE PUBLICATION `+pubName+` FOR TABLE t`)
			cfg := config(pg)
			cfg.BufferBytes = 256 << 10
			cfg.WALSenderTimeout = 60 * time.Second
			createSlot(t, cfg)
			ctx := within(t, 2*time.Minute)

			t.Run("reading", func(t *testing.T) {
				s := start(t, cfg)
				pg.Exec(testbed.Owner, `INSERT INTO t SELECT i, 'x' FROM generate_series(1, 10) i`)
				next(t, s, "commit", kind('C'))
				go func() { // frames are taken and never confirmed
					for b := range s.Blocks() {
						b.Release()
					}
				}()
				begin := time.Now()
				if err := pg.Stop(pgserver.Fast); err != nil {
					t.Fatal(err)
				}
				took := time.Since(begin)
				t.Logf("stopped in %v", took)
				if took > 5*time.Second {
					t.Errorf("fast shutdown took %v", took)
				}
				eventually(t, "the stream has ended", func() bool { return s.Err() != nil })
				if _, ok := errors.AsType[*ServerShutdownError](s.Err()); !ok {
					t.Errorf("stream: %v", s.Err())
				}
				if err := pg.Start(ctx); err != nil {
					t.Fatal(err)
				}
			})

			t.Run("not-reading", func(t *testing.T) {
				cat := catalog(t, cfg)
				s := start(t, cfg)
				watched := make(chan error, 1)
				ready := make(chan struct{})
				go func() {
					close(ready)
					watched <- cat.WaitShutdown(ctx)
				}()
				<-ready
				pg.Exec(testbed.Owner, `INSERT INTO t SELECT i, repeat('x', 1000) FROM generate_series(11, 60000) i`)
				eventually(t, "reading is stopped", func() bool { return !s.BlockedSince().IsZero() })
				stopped := make(chan error, 1)
				begin := time.Now()
				go func() { stopped <- pg.Stop(pgserver.Fast) }()
				select {
				case err := <-watched:
					if _, ok := errors.AsType[*ServerShutdownError](err); !ok {
						t.Errorf("the side connection ended with %v", err)
					}
				case <-time.After(10 * time.Second):
					t.Fatal("the side connection was not told")
				}
				if err := s.Close(ctx); err != nil {
					t.Fatal(err)
				}
				if err := <-stopped; err != nil {
					t.Fatal(err)
				}
				took := time.Since(begin)
				t.Logf("stopped in %v", took)
				if took > 5*time.Second {
					t.Errorf("fast shutdown took %v", took)
				}
			})
		})
	}
}

// TestUnread: a consumer that takes nothing for longer than wal_sender_timeout keeps its walsender, and gets everything after.
func TestUnread(t *testing.T) {
	pg := testbed.Postgres(t, "")
	pg.Exec(testbed.Owner, `CREATE TABLE t (id int PRIMARY KEY, v text)`, `CREATE PUBLICATION `+pubName+` FOR TABLE t`)
	for name, dsn := range map[string]string{"tcp": pg.DSN(testbed.Reader), "unix": pg.SocketDSN(testbed.Reader)} {
		t.Run(name, func(t *testing.T) {
			cfg := config(pg)
			cfg.DSN, cfg.Slot = dsn, "unread_"+name
			cfg.BufferBytes = 256 << 10
			cfg.WALSenderTimeout = 2 * time.Second
			pg.Exec(testbed.Owner, `TRUNCATE t`)
			createSlot(t, cfg)
			cat := catalog(t, cfg)
			ctx := within(t, time.Minute)
			s := start(t, cfg)
			slot, err := cat.SlotInfo(ctx)
			if err != nil {
				t.Fatal(err)
			}
			pg.Exec(testbed.Owner, `INSERT INTO t SELECT i, repeat('x', 1000) FROM generate_series(1, 20000) i`)
			eventually(t, "reading is stopped", func() bool { return !s.BlockedSince().IsZero() })
			pg.Exec(testbed.Owner, `SELECT pg_sleep(5)`) // two and a half times the timeout
			if now, err := cat.SlotInfo(ctx); err != nil || now.ActivePID != slot.ActivePID || s.Err() != nil {
				t.Fatalf("walsender %d became %d (%v, %v)", slot.ActivePID, now.ActivePID, err, s.Err())
			}
			_, before := next(t, s, "commit", kind('C'))
			rows := 0
			for _, f := range before {
				if f.Payload[0] == 'I' {
					rows++
				}
			}
			if rows != 20000 {
				t.Fatalf("%d rows", rows)
			}
		})
	}
}

// TestSyncStandby: ⚔ a server that takes us for a synchronous standby is refused; one whose standby is missing takes heartbeats.
func TestSyncStandbyServer(t *testing.T) {
	pg := testbed.Postgres(t, "")
	pg.Exec(testbed.Owner, `CREATE PUBLICATION `+pubName)
	cfg := config(pg)
	createSlot(t, cfg)
	pg.Exec(testbed.Superuser, `ALTER SYSTEM SET synchronous_standby_names = 'FIRST 1 (missing)'`, `SELECT pg_reload_conf()`)
	cat := catalog(t, cfg)
	ctx := within(t, 30*time.Second)
	eventually(t, "the setting is in force", func() bool {
		c, err := Dial(ctx, func() Config { c := cfg; c.AppName = "MISSING"; return c }())
		if err == nil {
			if err := c.Close(ctx); err != nil {
				t.Fatal(err)
			}
		}
		_, ok := errors.AsType[*SyncStandbyError](err)
		return ok
	})
	s := start(t, cfg)
	begin := time.Now()
	if err := cat.Heartbeat(ctx); err != nil {
		t.Fatal(err)
	}
	if d := time.Since(begin); d > 5*time.Second {
		t.Fatalf("the heartbeat took %v", d)
	}
	next(t, s, "heartbeat", kind('M'))
	if err := s.Close(ctx); err != nil {
		t.Fatal(err)
	}
	pg.Exec(testbed.Superuser, `SET synchronous_commit = local`, `ALTER SYSTEM SET synchronous_standby_names = '*'`, `SELECT pg_reload_conf()`)
	eventually(t, "* is refused", func() bool {
		c, err := Dial(ctx, cfg)
		if err == nil {
			if err := c.Close(ctx); err != nil {
				t.Fatal(err)
			}
		}
		_, ok := errors.AsType[*SyncStandbyError](err)
		return ok
	})
	if i := slices.IndexFunc(cat.Preflight(ctx), func(f Finding) bool { return f.ID == "synchronous_standby_names" && f.Severity == Fail }); i < 0 {
		t.Error("preflight does not say so")
	}
}

// TestConfirmedGoesBack: ⚔ after a crash of the server the slot's confirmed position can be older than what was confirmed, and
// the stream begins with transactions that had been confirmed.
func TestConfirmedGoesBack(t *testing.T) {
	pg := testbed.Postgres(t, "")
	pg.Exec(testbed.Owner, `CREATE TABLE t (id int PRIMARY KEY)`, `CREATE PUBLICATION `+pubName+` FOR TABLE t`)
	cfg := config(pg)
	createSlot(t, cfg)
	ctx := within(t, time.Minute)
	s := start(t, cfg)
	cat := catalog(t, cfg)
	var commits []pglogrepl.LSN
	for i := range 3 {
		pg.Exec(testbed.Owner, fmt.Sprintf(`INSERT INTO t VALUES (%d)`, i))
		c, _ := next(t, s, "commit", kind('C'))
		commits = append(commits, commitLSN(c))
		s.Confirm(commitLSN(c))
		eventually(t, "it is confirmed", func() bool {
			now, err := cat.SlotInfo(ctx)
			return err == nil && now.Confirmed == commitLSN(c)
		})
	}
	if err := pg.Stop(pgserver.Immediate); err != nil {
		t.Fatal(err)
	}
	if err := pg.Start(ctx); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the old stream has ended", func() bool { return s.Err() != nil })
	now, err := cat.SlotInfo(ctx) // makes its connection again
	if err != nil {
		t.Fatal(err)
	}
	if now.Confirmed >= commits[0] {
		t.Fatalf("confirmed is %s: the crash lost nothing, and the test shows nothing", now.Confirmed)
	}
	s = start(t, cfg)
	for i, want := range commits {
		c, _ := next(t, s, "commit", kind('C'))
		if commitLSN(c) != want {
			t.Fatalf("commit %d at %s instead of %s", i, commitLSN(c), want)
		}
	}
}

// TestPinned: what a server, a database and a role set for sessions changes neither the text of a value nor how long a transaction
// may take to be sent.
func TestPinned(t *testing.T) {
	for _, version := range testbed.PostgresVersions() {
		t.Run(version, func(t *testing.T) {
			pg := testbed.Postgres(t, version)
			want := map[string]string{"standard_conforming_strings": "on", "jit": "off", "lock_timeout": "0", "idle_session_timeout": "0"}
			for name, value := range schema.PinnedSettings {
				want[name] = value
			}
			hostile := []string{"client_encoding = LATIN1", "DateStyle = 'German, MDY'", "IntervalStyle = postgres_verbose", "TimeZone = 'Asia/Kathmandu'", "extra_float_digits = -15",
				"bytea_output = escape", "lc_monetary = 'C.utf8'", "search_path = public, app", "quote_all_identifiers = on", "standard_conforming_strings = off",
				"jit = on", "lock_timeout = '1h'", "idle_session_timeout = '1h'"}
			if version >= "17" {
				want["transaction_timeout"] = "0"
				hostile = append(hostile, "transaction_timeout = '1h'")
			}
			if len(hostile) != len(want) {
				t.Fatalf("%d settings for %d that are pinned", len(hostile), len(want))
			}
			for _, s := range hostile {
				pg.Exec(testbed.Superuser, "ALTER DATABASE "+testbed.Shop+" SET "+s, "ALTER ROLE "+testbed.Reader+" SET "+s)
			}
			c := dial(t, config(pg))
			cat := catalog(t, config(pg))
			for name, value := range want {
				results, err := c.pc.Exec(t.Context(), "SHOW "+name).ReadAll()
				if err != nil {
					t.Fatal(err)
				}
				if got := string(results[0].Rows[0][0]); got != value {
					t.Errorf("replication connection: %s is %s, want %s", name, got, value)
				}
				var got string
				if err := cat.on(t.Context(), &cat.ask, "show", func(conn *pgx.Conn) error { return conn.QueryRow(t.Context(), "SHOW "+name).Scan(&got) }); err != nil {
					t.Fatal(err)
				}
				if got != value {
					t.Errorf("catalog connection: %s is %s, want %s", name, got, value)
				}
			}
			if err := c.Close(t.Context()); err != nil {
				t.Fatal(err)
			}
		})
	}
}

// TestPublication: the owner's role makes the publication and keeps it equal to the configuration.
func TestPublication(t *testing.T) {
	for _, version := range testbed.PostgresVersions() {
		t.Run(version, func(t *testing.T) {
			pg := testbed.Postgres(t, version)
			pg.Exec(testbed.Owner, `CREATE SCHEMA "S"`, `CREATE TABLE a (id int PRIMARY KEY, secret text, x int)`, `CREATE TABLE "S".b (id int PRIMARY KEY)`,
				`CREATE TABLE c_skip (id int)`, `CREATE UNLOGGED TABLE u (id int)`, `CREATE TABLE f (id int, secret text)`, `ALTER TABLE f REPLICA IDENTITY FULL`,
				`CREATE TABLE p (id int PRIMARY KEY) PARTITION BY RANGE (id)`, `CREATE TABLE p1 PARTITION OF p FOR VALUES FROM (0) TO (9)`,
				`GRANT USAGE ON SCHEMA "S" TO walferry`)
			ctx := within(t, time.Minute)
			cfg := config(pg)
			cfg.Tables, cfg.Schemas, cfg.Exclude, cfg.ExcludeColumns = []string{"public.*"}, []string{"S"}, []string{"public.*_skip"}, []string{"public.*.secret"}
			cfg.CreatePublication = true

			// The least privileged role may not, and says what its owner has to run.
			reader := catalog(t, cfg)
			_, err := reader.CreatePublication(ctx)
			denied, ok := errors.AsType[*PublicationPrivilegeError](err)
			if !ok || len(denied.SQL) != 1 {
				t.Fatalf("as reader: %v", err)
			}
			if i := slices.IndexFunc(reader.Preflight(ctx), func(f Finding) bool {
				return f.ID == "publication" && f.Severity == Fail && f.Remedy == denied.SQL[0]+";"
			}); i < 0 {
				t.Errorf("preflight: %+v", reader.Preflight(ctx))
			}

			own := cfg
			own.DSN = pg.DSN(testbed.Owner)
			cat := catalog(t, own)
			d, err := cat.CreatePublication(ctx)
			if err != nil || !d.Create || !slices.Equal(d.Add, []string{`"S"."b"`, `"public"."a"`, `"public"."f"`, `"public"."p"`}) {
				t.Fatalf("%+v %v", d, err)
			}
			tables := func() map[string]Table {
				t.Helper()
				list, err := cat.Tables(ctx)
				if err != nil {
					t.Fatal(err)
				}
				m := map[string]Table{}
				for _, tb := range list {
					m[tb.Name] = tb
				}
				return m
			}
			got := tables()
			wantA := []string{"id", "x"}
			if pg.Version() < 15 {
				wantA = []string{"id", "secret", "x"}
			}
			if len(got) != 4 || !slices.Equal(got["a"].Columns, wantA) || !slices.Equal(got["f"].Columns, []string{"id", "secret"}) {
				t.Fatalf("%+v", got)
			}
			if d, err := cat.ReconcilePublication(ctx, true); err != nil || !d.Empty() || d.String() != "" {
				t.Fatalf("a second time: %+v %v", d, err)
			}
			// The table with a column list takes updates.
			pg.Exec(testbed.Owner, `INSERT INTO a VALUES (1, 's', 1)`, `UPDATE a SET x = 2`, `INSERT INTO f VALUES (1, 's')`, `UPDATE f SET id = 2`, `DELETE FROM f`)

			// New and changed tables are noticed.
			pg.Exec(testbed.Owner, `CREATE TABLE new (id int PRIMARY KEY)`, `ALTER TABLE a ADD COLUMN y int`, `DROP TABLE "S".b`, `CREATE TABLE "S".b (id int PRIMARY KEY)`,
				`ALTER PUBLICATION `+pubName+` ADD TABLE c_skip`, `ALTER PUBLICATION `+pubName+` SET (publish = 'insert')`)
			d, err = cat.ReconcilePublication(ctx, false)
			if err != nil || d.Empty() || !strings.Contains(d.String(), `+ "public"."new"`) || !strings.Contains(d.String(), `- "public"."c_skip"`) {
				t.Fatalf("%s %v", &d, err)
			}
			if now := tables(); len(now) != 4 {
				t.Fatalf("a look changed something: %+v", now)
			}
			if _, err = cat.ReconcilePublication(ctx, true); err != nil {
				t.Fatal(err)
			}
			got = tables()
			if len(got) != 5 || !slices.Contains(got["a"].Columns, "y") || got["new"].OID == 0 || got["b"].OID == 0 {
				t.Fatalf("%+v", got)
			}
			if d, err := cat.ReconcilePublication(ctx, false); err != nil || !d.Empty() {
				t.Fatalf("afterwards: %+v %v", d, err)
			}

			bad := own
			bad.Tables, bad.Schemas = []string{"public.nosuch"}, nil
			if _, err := catalog(t, bad).CreatePublication(ctx); err == nil || !strings.Contains(err.Error(), "public.nosuch") {
				t.Errorf("missing table: %v", err)
			}
			bad = own
			bad.ExcludeColumns = []string{"public.a.id"}
			if _, err := catalog(t, bad).ReconcilePublication(ctx, true); err == nil || Hint(err) == "" {
				t.Errorf("excluded key: %v", err)
			}

			if err := cat.DropPublication(ctx); err != nil {
				t.Fatal(err)
			}
			if _, err := cat.Tables(ctx); err == nil {
				t.Error("tables of no publication")
			}
			// The SQL of setup is good as it stands.
			sql, err := SetupSQL(cfg, SetupOptions{Role: "other", Database: testbed.Shop, Version: pg.Version()})
			if err != nil {
				t.Fatal(err)
			}
			pg.Exec(testbed.Superuser, sql)
			wide := cfg
			wide.Exclude, wide.ExcludeColumns = nil, nil
			wide.Publication, wide.Tables = "wide", nil
			sup := wide
			sup.DSN = pg.DSN(testbed.Superuser)
			if d, err := catalog(t, sup).CreatePublication(ctx); err != nil || (pg.Version() >= 15) != strings.Contains(d.SQL[0], "TABLES IN SCHEMA") {
				t.Errorf("whole schema: %+v %v", d, err)
			}
			if d, err := catalog(t, sup).ReconcilePublication(ctx, false); err != nil || !d.Empty() {
				t.Errorf("whole schema again: %+v %v", d, err)
			}
		})
	}
}

// TestRefusals: each bad input gives one clear sentence and a remedy.
func TestRefusals(t *testing.T) {
	pg := testbed.Postgres(t, "", "max_replication_slots=1")
	ctx := within(t, time.Minute)
	pg.Exec(testbed.Owner, `CREATE PUBLICATION `+pubName)
	cfg := config(pg)
	check := func(name string, err error, want any) {
		t.Helper()
		if !errors.As(err, want) {
			t.Errorf("%s: %T %v", name, err, err)
			return
		}
		t.Logf("%s: %v — %s", name, err, Hint(err))
		if Hint(err) == "" || strings.Contains(err.Error(), "\n") {
			t.Errorf("%s: no remedy, or more than a line", name)
		}
	}

	// The password comes from the file, and is read again each time.
	file := filepath.Join(t.TempDir(), "password")
	withFile := cfg
	withFile.PasswordFile = file
	write := func(s string) {
		t.Helper()
		if err := os.WriteFile(file, []byte(s), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	write("wrong\n")
	_, err := Dial(ctx, withFile)
	check("wrong password", err, new(*WrongPasswordError))
	_, err = OpenCatalog(ctx, withFile)
	check("wrong password in the catalog", err, new(*WrongPasswordError))
	write(pg.Password() + "\n")
	c, err := Dial(ctx, withFile)
	if err != nil {
		t.Fatal(err)
	}
	if err := c.Close(ctx); err != nil {
		t.Fatal(err)
	}

	owner := cfg
	owner.DSN = pg.DSN(testbed.Owner)
	_, err = Dial(ctx, owner)
	check("no replication privilege", err, new(*NoReplicationPrivilegeError))

	pg.Exec(testbed.Superuser, "ALTER ROLE "+testbed.Reader+" SET default_transaction_read_only = on")
	_, err = Dial(ctx, cfg)
	check("no host takes writes", err, new(*ReadOnlyError))
	pg.Exec(testbed.Superuser, "ALTER ROLE "+testbed.Reader+" RESET default_transaction_read_only")

	nobody := cfg
	nobody.DSN = "postgres://walferry@127.0.0.1:1/shop"
	_, err = Dial(ctx, nobody)
	check("no server", err, new(*ConnectError))
	// The second host of a list is taken when the first is away.
	both := cfg
	u, err := url.Parse(cfg.DSN)
	if err != nil {
		t.Fatal(err)
	}
	u.Host = "127.0.0.1:1," + u.Host
	both.DSN = u.String()
	if c, err = Dial(ctx, both); err != nil {
		t.Errorf("two hosts: %v", err)
	} else if err := c.Close(ctx); err != nil {
		t.Fatal(err)
	}

	createSlot(t, cfg)
	full := cfg
	full.Slot = "second"
	_, err = dial(t, full).CreateSlot(ctx)
	check("no free slot", err, new(*TooManyConnectionsError))
	cat := catalog(t, full)
	if i := slices.IndexFunc(cat.Preflight(ctx), func(f Finding) bool { return f.ID == "max_replication_slots" && f.Severity == Fail && f.Remedy != "" }); i < 0 {
		t.Error("preflight does not say that no slot is free")
	}
	missing := cfg
	missing.Publication = "nosuch"
	s := start(t, missing)
	pg.Exec(testbed.Owner, `CREATE TABLE t (id int)`, `INSERT INTO t VALUES (1)`)
	for b := range s.Blocks() {
		b.Release()
	}
	check("no publication", s.Err(), new(*PublicationMissingError))
	if err := s.Close(ctx); err != nil {
		t.Fatal(err)
	}

	// The server restarts under the catalog, which connects again; with a lower wal_level nothing can stream.
	plain := catalog(t, cfg)
	eventually(t, "the walsender has ended, and the slot can be dropped", func() bool { return plain.DropSlot(ctx) == nil })
	pg.Exec(testbed.Superuser, `ALTER SYSTEM SET wal_level = replica`)
	if err := pg.Restart(ctx, pgserver.Fast); err != nil {
		t.Fatal(err)
	}
	_, err = dial(t, cfg).CreateSlot(ctx)
	check("wal_level", err, new(*WALLevelError))
	eventually(t, "the catalog is back", func() bool { return plain.Heartbeat(ctx) == nil })
	found := plain.Preflight(ctx)
	if i := slices.IndexFunc(found, func(f Finding) bool { return f.ID == "wal_level" && f.Severity == Fail && f.Remedy != "" }); i < 0 {
		t.Errorf("preflight: %+v", found)
	}
}

// TestLostSlot: WAL that was removed is told before and after.
func TestLostSlot(t *testing.T) {
	pg := testbed.Postgres(t, "", "max_slot_wal_keep_size=1MB", "wal_keep_size=0", "min_wal_size=32MB", "max_wal_size=32MB")
	ctx := within(t, time.Minute)
	pg.Exec(testbed.Owner, `CREATE TABLE t (v text)`, `CREATE PUBLICATION `+pubName+` FOR TABLE t`)
	cfg := config(pg)
	createSlot(t, cfg)
	cat := catalog(t, cfg)
	for range 4 {
		pg.Exec(testbed.Superuser, `INSERT INTO t SELECT repeat(md5(i::text), 100) FROM generate_series(1, 3000) i`, `SELECT pg_switch_wal()`)
	}
	pg.Exec(testbed.Superuser, `CHECKPOINT`)
	slot, err := cat.SlotInfo(ctx)
	if err != nil || slot.Lost() == "" {
		t.Fatalf("%+v %v", slot, err)
	}
	if i := slices.IndexFunc(cat.Preflight(ctx), func(f Finding) bool { return f.ID == "slot" && f.Severity == Fail && f.Remedy != "" }); i < 0 {
		t.Error("preflight does not say that the slot is lost")
	}
	_, err = dial(t, cfg).Start(ctx, 0)
	if _, ok := errors.AsType[*SlotLostError](err); !ok {
		t.Fatalf("start: %T %v", err, err)
	}
}
