package source

import (
	"fmt"
	"os/exec"
	"runtime"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/jackc/pglogrepl"

	"walferry/internal/testbed"
)

// drained is how many changes BenchmarkDrain reads each time: 10 in each transaction.
const drained = 300_000

// BenchmarkDrain reads a copy of one slot to its end, over TCP, a Unix socket and TLS, beside pg_recvlogical to /dev/null. Run it
// with -benchtime=3x; the reported changes/s is of the whole run, cpu-s/M the client's user and system seconds per million
// changes, both with the connection's making.
func BenchmarkDrain(b *testing.B) {
	pg := testbed.Postgres(b, "", "shared_buffers=128MB", "max_wal_size=4GB", "logical_decoding_work_mem=64MB")
	pg.Exec(testbed.Owner,
		`CREATE TABLE orders (id bigint PRIMARY KEY, customer_id bigint, status text, amount numeric(12,2), note text, tags text[], attrs jsonb, created_at timestamptz, updated_at timestamptz)`,
		`CREATE PUBLICATION bench FOR TABLE orders`)
	cfg := Config{DSN: pg.DSN(testbed.Reader), Slot: "bench", Publication: "bench", CreateSlot: true}
	c, err := Dial(b.Context(), cfg)
	if err != nil {
		b.Fatal(err)
	}
	if _, err := c.CreateSlot(b.Context()); err != nil {
		b.Fatal(err)
	}
	if err := c.Close(b.Context()); err != nil {
		b.Fatal(err)
	}
	// 5 inserts, 4 updates, 1 delete in each transaction.
	pg.Exec(testbed.Owner, fmt.Sprintf(`DO $$ BEGIN FOR i IN 0..%d LOOP
		INSERT INTO orders SELECT i * 5 + k, i %% 1000, 'new', 12.34, repeat('n', 100), '{a,b}', '{"k": 1, "v": "x"}', now(), now() FROM generate_series(0, 4) k;
		UPDATE orders SET status = 'paid', updated_at = now() WHERE id BETWEEN i * 5 AND i * 5 + 3;
		DELETE FROM orders WHERE id = i * 5 + 4;
		COMMIT; END LOOP; END $$`, drained/10-1))
	var end string
	sql := pg.Connect(testbed.Superuser)
	if err := sql.QueryRow(b.Context(), "SELECT pg_current_wal_insert_lsn()::text").Scan(&end); err != nil {
		b.Fatal(err)
	}
	last, err := pglogrepl.ParseLSN(end)
	if err != nil {
		b.Fatal(err)
	}
	pg.Exec(testbed.Superuser, "SELECT pg_logical_emit_message(true, 'walferry.heartbeat', '')")

	copies := 0
	copySlot := func(b *testing.B) string {
		copies++
		name := fmt.Sprintf("copy_%d", copies)
		b.StopTimer()
		defer b.StartTimer()
		if _, err := sql.Exec(b.Context(), "SELECT pg_copy_logical_replication_slot('bench', $1)", name); err != nil {
			b.Fatal(err)
		}
		return name
	}
	dropSlot := func(b *testing.B, name string) {
		b.StopTimer()
		defer b.StartTimer()
		if _, err := sql.Exec(b.Context(), "SELECT pg_drop_replication_slot($1)", name); err != nil {
			b.Fatal(err)
		}
	}
	cpu := func(who int) time.Duration {
		var u syscall.Rusage
		if err := syscall.Getrusage(who, &u); err != nil {
			b.Fatal(err)
		}
		return time.Duration(u.Utime.Nano() + u.Stime.Nano())
	}
	run := func(name string, who int, f func(*testing.B, string)) {
		b.Run(name, func(b *testing.B) {
			var used time.Duration
			b.ReportAllocs()
			for range b.N {
				slot := copySlot(b)
				runtime.GC()
				before := cpu(who)
				f(b, slot)
				used += cpu(who) - before
				dropSlot(b, slot)
			}
			b.ReportMetric(float64(drained)*float64(b.N)/b.Elapsed().Seconds(), "changes/s")
			b.ReportMetric(used.Seconds()/float64(b.N)/drained*1e6, "cpu-s/M")
		})
	}
	ours := func(dsn string) func(*testing.B, string) {
		return func(b *testing.B, slot string) {
			cfg := cfg
			cfg.DSN, cfg.Slot = dsn, slot
			c, err := Dial(b.Context(), cfg)
			if err != nil {
				b.Fatal(err)
			}
			s, err := c.Start(b.Context(), 0)
			if err != nil {
				b.Fatal(err)
			}
			rows, blocks := 0, 0
			for done := false; !done; {
				bl, ok := <-s.Blocks()
				if !ok {
					b.Fatal(s.Err())
				}
				blocks++
				for _, f := range bl.Frames {
					switch f.Payload[0] {
					case 'I', 'U', 'D':
						rows++
					case 'M':
						done = true
					}
				}
				bl.Release()
			}
			if rows != drained {
				b.Fatalf("%d rows", rows)
			}
			if err := s.Close(b.Context()); err != nil {
				b.Fatal(err)
			}
			b.ReportMetric(float64(blocks), "blocks")
		}
	}
	theirs := func(b *testing.B, slot string) {
		tool, err := pg.PgRecvlogical()
		if err != nil {
			b.Skip(err)
		}
		cmd := exec.CommandContext(b.Context(), tool, "-d", pg.DSN(testbed.Reader), "--slot="+slot, "--start", "-f", "/dev/null", "--endpos="+last.String(),
			"-o", "proto_version=1", "-o", "publication_names=bench", "-o", "binary=true")
		if out, err := cmd.CombinedOutput(); err != nil {
			b.Fatalf("%v: %s", err, out)
		}
	}
	order := []string{"pg_recvlogical", "tcp", "unix", "tls"}
	dsn := map[string]string{"tcp": pg.DSN(testbed.Reader), "unix": pg.SocketDSN(testbed.Reader)}
	for _, name := range slices.Concat(order[:3], order[:2]) { // the first two again, so that the order shows
		if name == order[0] {
			run(name, syscall.RUSAGE_CHILDREN, theirs)
		} else {
			run(name, syscall.RUSAGE_SELF, ours(dsn[name]))
		}
	}
	if err := sql.Close(b.Context()); err != nil {
		b.Fatal(err)
	}
	tls := secure(b, pg)
	sql = pg.Connect(testbed.Superuser)
	run("tls", syscall.RUSAGE_SELF, ours(strings.TrimSpace(tls.String())))
}
