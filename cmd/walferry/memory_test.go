package main

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"walferry/internal/kafka"
	"walferry/internal/testbed"
	"walferry/schema"
)

// flatMemory is the bound of the process's resident memory, registry and HTTP included.
const flatMemory = 128 << 20

// TestFlatMemory: one large transaction, then load while the broker stays away, all with the shipped settings; resident memory
// stays below the bound, and every row comes once. Over 20 s the slot is kept, although wal_sender_timeout is 10 s; over two
// minutes it is given back after stall_limit and taken again without help. `make test` has a smaller transaction and
// leaves out the two minutes; WALFERRY_MEMORY_FULL=1, which `make soak` sets, asks for all of it.
func TestFlatMemory(t *testing.T) {
	full := os.Getenv("WALFERRY_MEMORY_FULL") != ""
	large := 200_000
	if full {
		large = 2_000_000
	}
	// The limits are the program's own.
	t.Setenv("GOMEMLIMIT", "")
	t.Setenv("GOGC", "")
	program := buildBinary(t)
	pg := testbed.Postgres(t, "", "max_wal_size=4GB")
	broker := testbed.KafkaAlone(t)
	if !broker.Apache {
		t.Skip("kfake cannot be paused: install Java 17 and Maven (Debian: default-jdk-headless maven)")
	}
	pg.Exec(testbed.Owner, "CREATE TABLE events (id bigserial PRIMARY KEY, at timestamptz DEFAULT now(), note text)",
		"CREATE PUBLICATION walferry_memory FOR TABLE events WITH (publish_via_partition_root = true)")
	file := filepath.Join(t.TempDir(), "walferry.yml")
	if err := os.WriteFile(file, fmt.Appendf(nil, `
name: memory
source:
  dsn: %q
  tables: [public.events]
  publication: {create: false}
  wal_sender_timeout: 10s
kafka: {brokers: [%q]}
registry: {listen: %q}
backfill: none
admin: {listen: %q}
`, pg.DSN(testbed.Reader), broker.Addr, freeAddr(t), freeAddr(t)), 0o600); err != nil {
		t.Fatal(err)
	}
	run := launch(t, program, "run.log", nil, "run", "--config", file)
	awaitSlot(t, pg)
	flat := func(after string) {
		t.Helper()
		peak, err := run.PeakMemory()
		if err != nil {
			t.Fatal(err)
		}
		t.Logf("%s: %d MiB", after, peak>>20)
		if peak >= flatMemory {
			t.Errorf("%s: %d MiB of resident memory, the bound is %d MiB", after, peak>>20, flatMemory>>20)
		}
	}
	rows := newRows(t, broker.Addr, "memory.public.events")

	pg.Exec(testbed.Owner, fmt.Sprintf("INSERT INTO events (note) SELECT repeat(md5(n::text), 4) FROM generate_series(1, %d) n", large))
	rows.await(t, large)
	flat(fmt.Sprintf("a transaction of %d rows", large))

	// Four megabytes a second: within seconds the buffers of the stream and both batches are full, and reading stops.
	writing, stop := context.WithCancel(t.Context())
	var writer sync.WaitGroup
	var werr error
	written := large
	owner := pg.Connect(testbed.Owner)
	writer.Go(func() {
		for tick := time.NewTicker(50 * time.Millisecond); ; {
			select {
			case <-writing.Done():
				tick.Stop()
				return
			case <-tick.C:
			}
			if _, werr = owner.Exec(context.WithoutCancel(writing), "INSERT INTO events (note) SELECT repeat(md5(n::text), 32) FROM generate_series(1, 200) n"); werr != nil {
				return
			}
			written += 200
		}
	})
	defer writer.Wait()
	defer stop()
	admin := pg.Connect(testbed.Superuser)
	before := walsender(t, admin)
	if err := broker.Pause(); err != nil {
		t.Fatal(err)
	}
	time.Sleep(20 * time.Second) // what is tested is this time
	if now := walsender(t, admin); now != before || before == 0 {
		t.Errorf("the walsender was process %d, and after 20 s without Kafka %d", before, now)
	}
	if err := broker.Resume(); err != nil {
		t.Fatal(err)
	}
	rows.await(t, large+1000)
	flat("Kafka away for 20 s")

	if full {
		if err := broker.Kill(); err != nil {
			t.Fatal(err)
		}
		away := time.Now()
		for walsender(t, admin) != 0 {
			if time.Since(away) > 2*time.Minute {
				t.Fatal("the slot was not given back while Kafka was away for two minutes")
			}
			time.Sleep(100 * time.Millisecond)
		}
		t.Logf("the slot was given back after %v", time.Since(away).Round(time.Second))
		time.Sleep(time.Until(away.Add(2 * time.Minute)))
		if now := walsender(t, admin); now != 0 {
			t.Errorf("process %d holds the slot while Kafka is away", now)
		}
		if err := broker.Start(t.Context()); err != nil {
			t.Fatal(err)
		}
		awaitSlot(t, pg)
	}
	stop()
	writer.Wait()
	if werr != nil {
		t.Fatal(werr)
	}
	rows.await(t, written)
	flat("everything is there")
	if err := run.Stop(syscall.SIGTERM, 30*time.Second); err != nil {
		t.Errorf("stop by SIGTERM: %v", err)
	}
	rows.end(t, written)
}

// walsender is the process that holds the slot, 0 for none.
func walsender(t *testing.T, c *pgx.Conn) (pid int) {
	t.Helper()
	if err := c.QueryRow(t.Context(), "SELECT coalesce(max(active_pid), 0) FROM pg_replication_slots").Scan(&pid); err != nil {
		t.Fatal(err)
	}
	return pid
}

// rows is a committed reader that counts inserts of one table by their bigint key, which counts from 1 without a gap.
type rows struct {
	client *kafka.Client
	reader *kafka.Reader
	topic  string
	parts  int
	seen   []uint64 // a bit for each key
	count  int
}

func newRows(t *testing.T, addr, topic string) *rows {
	t.Helper()
	client, err := kafka.New(kafka.Config{Brokers: []string{addr}})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(client.Close)
	return &rows{client: client, topic: topic}
}

// await reads until so many rows have come. Each may come once.
func (r *rows) await(t *testing.T, want int) {
	t.Helper()
	ctx, done := context.WithTimeoutCause(t.Context(), 10*time.Minute, errors.New("they did not come within ten minutes"))
	defer done()
	for r.reader == nil {
		n, exists, err := r.client.Partitions(ctx, r.topic)
		if err != nil {
			t.Fatal(err)
		}
		if !exists {
			await(ctx, t, "topic "+r.topic)
			continue
		}
		r.parts = n
		at := map[kafka.TopicPartition]int64{}
		for p := range n {
			at[kafka.TopicPartition{Topic: r.topic, Partition: int32(p)}] = kafka.Earliest
		}
		r.reader = r.client.NewReader(at)
	}
	for r.count < want {
		r.poll(ctx, t)
	}
}

func (r *rows) poll(ctx context.Context, t *testing.T) {
	t.Helper()
	recs, err := r.reader.Poll(ctx)
	if err != nil {
		t.Fatalf("after %d rows: %v", r.count, err)
	}
	for _, rec := range recs {
		_, payload, err := schema.ParseWire(rec.Key)
		if err != nil {
			t.Fatal(err)
		}
		id, n := binary.Varint(payload)
		if n != len(payload) || id < 1 {
			t.Fatalf("key %x", rec.Key)
		}
		for int(id/64) >= len(r.seen) {
			r.seen = append(r.seen, 0)
		}
		if r.seen[id/64]&(1<<(id%64)) != 0 {
			t.Fatalf("row %d came twice", id)
		}
		r.seen[id/64] |= 1 << (id % 64)
		r.count++
	}
}

// end reads to the topic's end and wants the rows 1 to want there, none of them twice and no other.
func (r *rows) end(t *testing.T, want int) {
	t.Helper()
	ctx, done := context.WithTimeout(t.Context(), time.Minute)
	defer done()
	for p := range r.parts {
		tp := kafka.TopicPartition{Topic: r.topic, Partition: int32(p)}
		end, err := r.client.EndOffset(ctx, tp.Topic, tp.Partition)
		if err != nil {
			t.Fatal(err)
		}
		for {
			if next, _ := r.reader.Position(tp); next >= end {
				break
			}
			r.poll(ctx, t)
		}
	}
	for id := 1; id <= want; id++ {
		if id/64 >= len(r.seen) || r.seen[id/64]&(1<<(id%64)) == 0 {
			t.Fatalf("row %d of %d did not come", id, want)
		}
	}
	if r.count != want {
		t.Errorf("%d rows came, %d were written", r.count, want)
	}
}
