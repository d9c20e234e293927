package source

import (
	"encoding/binary"
	"fmt"
	"os/exec"
	"runtime"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/jackc/pglogrepl"

	"walferry/decode"
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

// BenchmarkReadRows reads rows with 8 KiB stored out of line by key, so many with each question. rows/s is what a stream whose every
// update needs one cannot exceed.
func BenchmarkReadRows(b *testing.B) {
	pg := testbed.Postgres(b, "", "shared_buffers=128MB")
	const rows = 4096
	pg.Exec(testbed.Owner, `CREATE TABLE big (id bigint PRIMARY KEY, note text)`, `ALTER TABLE big ALTER note SET STORAGE EXTERNAL`,
		fmt.Sprintf(`INSERT INTO big SELECT n, repeat('x', 8192) FROM generate_series(0, %d) n`, rows-1), `ANALYZE big`, `GRANT SELECT ON big TO `+testbed.Reader)
	cat, err := OpenCatalog(b.Context(), Config{DSN: pg.DSN(testbed.Reader), Slot: "bench", Publication: "bench"})
	if err != nil {
		b.Fatal(err)
	}
	defer cat.Close()
	rel := &decode.Relation{Schema: "public", Name: "big", Identity: decode.IdentityDefault,
		Columns: []decode.Column{{Name: "id", Type: 20, Mod: -1, Key: true}, {Name: "note", Type: 25, Mod: -1}}}
	if err := pg.Connect(testbed.Superuser).QueryRow(b.Context(), `SELECT 'big'::regclass::oid`).Scan(&rel.ID); err != nil {
		b.Fatal(err)
	}
	for _, together := range []int{1, 8, 32, 128, 256, 1024} {
		b.Run(fmt.Sprint(together), func(b *testing.B) {
			n := 0
			for b.Loop() {
				keys := make([]RowKey, together)
				for i := range keys {
					id := binary.BigEndian.AppendUint64(nil, uint64((n+i)*2654435761%rows))
					keys[i] = RowKey{XID: 3, Identity: decode.Tuple{{Kind: decode.Binary, Data: id}}} // 3 is visible to all
				}
				found, err := cat.ReadRows(b.Context(), rel, keys, []int{1}, 1<<30)
				if err != nil || len(found) != together || len(found[together-1].Values[0].Data) != 8192 {
					b.Fatal(len(found), err)
				}
				n += together
			}
			b.ReportMetric(float64(n)/b.Elapsed().Seconds(), "rows/s")
		})
	}
}

// BenchmarkChunk reads chunks of a table in turn: of one row, which shows what a chunk costs beside its rows, and of thousands.
func BenchmarkChunk(b *testing.B) {
	pg := testbed.Postgres(b, "", "shared_buffers=256MB")
	const rows = 200_000
	pg.Exec(testbed.Owner, `CREATE TABLE item (id bigint PRIMARY KEY, note text)`,
		fmt.Sprintf(`INSERT INTO item SELECT n, repeat('x', 200) FROM generate_series(1, %d) n`, rows), `GRANT SELECT ON item TO `+testbed.Reader)
	pg.Exec(testbed.Superuser, "VACUUM ANALYZE item", "CREATE PUBLICATION bench FOR TABLE item")
	cat, err := OpenCatalog(b.Context(), Config{DSN: pg.DSN(testbed.Reader), Slot: "bench", Publication: "bench"})
	if err != nil {
		b.Fatal(err)
	}
	defer cat.Close()
	tables, err := cat.Tables(b.Context())
	if err != nil {
		b.Fatal(err)
	}
	table, err := cat.CopyTable(b.Context(), tables[0].OID)
	if err != nil {
		b.Fatal(err)
	}
	conn, err := cat.OpenCopy(b.Context())
	if err != nil {
		b.Fatal(err)
	}
	defer conn.Close()
	for _, n := range []int{1, 1000, 10_000} {
		b.Run(fmt.Sprint(n), func(b *testing.B) {
			b.ReportAllocs()
			q := &ChunkQuery{Table: table, Part: table.Parts[0].Relation, Rows: n, Bytes: 64 << 20, Timeout: time.Minute}
			var buf []byte
			for b.Loop() {
				chunk, err := conn.Chunk(b.Context(), q, buf)
				if err != nil {
					b.Fatal(err)
				}
				buf, q.After = chunk.Data, chunk.Last
				if !chunk.Cut {
					q.After = nil
				}
			}
			b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N)/float64(n), "ns/row")
		})
	}
}
