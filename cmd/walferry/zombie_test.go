package main

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/segmentio/kafka-go/protocol"

	"walferry/checkpoint"
	"walferry/internal/kafka"
	"walferry/internal/proc"
	"walferry/internal/testbed"
	"walferry/sink/sinktest"
)

// zombie is one way for an instance to stand still and come back.
type zombie struct {
	name      string
	failpoint string          // where it stops itself, or
	api       protocol.ApiKey // the request of its, or the answer to it, that is kept while it is stopped from outside
	action    sinktest.Action
	late      bool // the kept request reaches the broker after the takeover
	standby   bool

	table   string
	writes  *pgx.Conn
	look    *pgx.Conn
	written int // ids from 1 to it are in the table
}

// TestZombie stops an instance with SIGSTOP in the middle of a transaction, lets a second one take over, and continues the
// first. Nothing that it sends afterwards is visible in any topic, each row is there once, and the first becomes the standby, or
// exits with the fenced code.
func TestZombie(t *testing.T) {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	broker := testbed.KafkaAlone(t, "advertised.listeners=PLAINTEXT://"+listener.Addr().String())
	faults := sinktest.New()
	var serving sync.WaitGroup
	serving.Go(func() { faults.Serve(listener, broker.Addr) })
	t.Cleanup(func() {
		if err := listener.Close(); err != nil {
			t.Error(err)
		}
		faults.Close()
		serving.Wait()
	})
	pg := testbed.Postgres(t, "", "max_wal_senders=20", "max_replication_slots=20")
	// The tag is for the places between two requests; the others act on the same binary from outside.
	bin := buildBinary(t, "-tags", "failpoints")

	zombies := []*zombie{
		{name: "before AddPartitionsToTxn", failpoint: "publish-begun", standby: true},
		{name: "after Produce", failpoint: "publish-produced"},
		{name: "EndTxn answered", api: protocol.EndTxn, action: sinktest.HoldAnswer, standby: true},
		{name: "EndTxn under way", api: protocol.EndTxn, action: sinktest.Keep, late: true},
		{name: "Produce under way", api: protocol.Produce, action: sinktest.Keep, late: true, standby: true},
	}
	registry := freeAddr(t)
	dir := t.TempDir()
	for i, z := range zombies {
		z.table = fmt.Sprintf("z%d", i+1)
		pg.Exec(testbed.Owner, "CREATE TABLE "+z.table+" (id int PRIMARY KEY)",
			fmt.Sprintf("CREATE PUBLICATION walferry_%[1]s FOR TABLE %[1]s WITH (publish_via_partition_root = true)", z.table))
		z.writes, z.look = pg.Connect(testbed.Owner), pg.Connect(testbed.Owner)
	}
	config := func(z *zombie, name, registry, admin string) string {
		file := filepath.Join(dir, name+".yml")
		if err := os.WriteFile(file, fmt.Appendf(nil, `
name: %[1]s
source:
  dsn: %[2]q
  tables: [public.%[1]s]
  heartbeat: 1s
  wal_sender_timeout: 5s
  publication: {create: false}
kafka:
  brokers: [%[3]q]
  topic: {partitions: 2, replication_factor: 1}
registry: %[4]s
backfill: none
admin: {listen: %[5]q}
standby: %[6]v
`, z.table, pg.DSN(testbed.Reader), listener.Addr(), registry, admin, z.standby), 0o600); err != nil {
			t.Fatal(err)
		}
		return file
	}
	launch(t, bin, "registry.log", nil, "registry", "serve", "--config", config(zombies[0], "registry", fmt.Sprintf("{listen: %q}", registry), ""))
	awaitHTTP(t, "http://"+registry+"/subjects")

	t.Run("stopped", func(t *testing.T) {
		for _, z := range zombies {
			t.Run(z.name, func(t *testing.T) {
				t.Parallel()
				older, newer := freeAddr(t), freeAddr(t)
				external := fmt.Sprintf("{url: %q}", "http://"+registry)
				z.test(t, faults, broker, bin, dir, older, newer, config(z, z.table+"-older", external, older), config(z, z.table+"-newer", external, newer))
			})
		}
	})
}

func (z *zombie) test(t *testing.T, faults *sinktest.Faults, broker *testbed.Broker, bin, dir, olderAddr, newerAddr, olderFile, newerFile string) {
	var env []string
	if z.failpoint != "" {
		env = []string{"WALFERRY_FAILPOINTS=" + z.failpoint + "=count:40:stop"}
	}
	log := filepath.Join(dir, z.table+"-older.log")
	older := launchTo(t, log, bin, env, "run", "--config", olderFile)
	awaitHTTP(t, "http://"+olderAddr+"/readyz")

	// One writer, so that rows are in order and none is rolled back.
	stop, wrote := make(chan struct{}), make(chan error, 1)
	var mu sync.Mutex
	go func() {
		for n := 0; ; n += 3 {
			select {
			case <-stop:
				wrote <- nil
				return
			case <-time.After(20 * time.Millisecond): // a steady load
			}
			if _, err := z.writes.Exec(t.Context(), "INSERT INTO "+z.table+" SELECT generate_series($1::int, $2::int)", n+1, n+3); err != nil {
				wrote <- err
				return
			}
			mu.Lock()
			z.written = n + 3
			mu.Unlock()
		}
	}()
	written := func() int {
		mu.Lock()
		defer mu.Unlock()
		return z.written
	}
	eventually(t, "rows", func() bool { return written() > 30 })

	var fault *sinktest.Fault
	if z.failpoint == "" {
		id := []byte("walferry-" + z.table)
		fault = faults.Inject(sinktest.Rule{API: z.api, Nth: 1, Action: z.action, Match: func(frame []byte) bool { return bytes.Contains(frame, id) }})
		select {
		case <-fault.Struck():
		case <-time.After(time.Minute):
			t.Fatal("waited in vain for the request")
		}
		if err := older.Signal(syscall.SIGSTOP); err != nil {
			t.Fatal(err)
		}
		if !z.late {
			fault.Release() // the answer is there and not read
		}
	}
	eventually(t, "the older to be stopped", func() bool { return stopped(t, older) })
	newer := launchTo(t, filepath.Join(dir, z.table+"-newer.log"), bin, nil, "run", "--config", newerFile)
	awaitHTTP(t, "http://"+newerAddr+"/readyz")

	// From here on nothing of the older's may become visible.
	client, err := kafka.New(kafka.Config{Brokers: []string{broker.Addr}})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(client.Close)
	events, progress := z.table+".public."+z.table, "_walferry."+z.table
	partitions := []kafka.TopicPartition{{Topic: events, Partition: 0}, {Topic: events, Partition: 1}, {Topic: progress, Partition: 0}}
	takeover := map[kafka.TopicPartition]int64{}
	for _, tp := range partitions {
		if takeover[tp], err = client.EndOffset(t.Context(), tp.Topic, tp.Partition); err != nil {
			t.Fatal(err)
		}
	}
	if z.late {
		fault.Release()
		// What the broker says to it is in the socket, for the older to read.
		ctx, done := context.WithTimeout(t.Context(), time.Minute)
		defer done()
		if _, err := fault.Answer(ctx); err != nil {
			t.Fatalf("no answer to the late request: %v", err)
		}
	}
	if err := older.Signal(syscall.SIGCONT); err != nil {
		t.Fatal(err)
	}
	if z.standby {
		p := &probes{t: t, addr: olderAddr}
		eventually(t, "the older to be the standby", func() bool { return p.status().State == "standby" })
	} else {
		if err := older.Wait(time.Minute); err != nil {
			t.Fatal(err)
		}
		var exit *exec.ExitError
		if !errors.As(older.Err(), &exit) || exit.ExitCode() != exitFenced {
			t.Errorf("the older ended with %v, want exit code %d", older.Err(), exitFenced)
		}
	}
	if said := readFile(t, log); !strings.Contains(said, `level=ERROR msg="fenced`) {
		t.Error("the older does not say that it was fenced")
	}
	seen := written()
	eventually(t, "rows after the takeover", func() bool { return written() > seen+30 })
	if z.standby {
		// It is a standby: it goes on when the newer is gone.
		if err := newer.Stop(syscall.SIGKILL, 10*time.Second); err != nil && newer.Running() {
			t.Fatal(err)
		}
		p := &probes{t: t, addr: olderAddr}
		eventually(t, "the older to take over", func() bool { return p.status().Totals.Sessions > 1 })
		awaitHTTP(t, "http://"+olderAddr+"/readyz")
	}
	close(stop)
	if err := <-wrote; err != nil {
		t.Fatal(err)
	}
	var end string
	if err := z.look.QueryRow(t.Context(), "SELECT pg_current_wal_insert_lsn()::text").Scan(&end); err != nil {
		t.Fatal(err)
	}
	slotAt(t, z.look, "walferry_"+z.table, end)
	z.account(t, client, partitions, takeover)
}

// account reads all topics as a read_committed consumer does: each row once, and in each place behind the takeover what the
// newer instance and its successors wrote.
func (z *zombie) account(t *testing.T, client *kafka.Client, partitions []kafka.TopicPartition, takeover map[kafka.TopicPartition]int64) {
	t.Helper()
	type producer struct {
		id    int64
		epoch int16
	}
	at, end := map[kafka.TopicPartition]int64{}, map[kafka.TopicPartition]int64{}
	for _, tp := range partitions {
		var err error
		if end[tp], err = client.EndOffset(t.Context(), tp.Topic, tp.Partition); err != nil {
			t.Fatal(err)
		}
		at[tp] = 0
	}
	var records []kafka.Record
	r := client.NewReader(at)
	for left := len(end); left > 0; {
		recs, err := r.Poll(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		records = append(records, recs...)
		left = 0
		for tp, e := range end {
			if next, _ := r.Position(tp); next < e {
				left++
			}
		}
	}
	// Whose the producers are is in the session records; the first instance is the older.
	var first string
	var sessions []string
	older := map[producer]bool{}
	for _, rec := range records {
		if string(rec.Key) != checkpoint.SessionKey {
			continue
		}
		s, err := checkpoint.DecodeSession(rec.Value)
		if err != nil {
			t.Fatal(err)
		}
		if first == "" {
			first = s.Instance
		}
		sessions = append(sessions, s.Instance)
		if s.Instance != first {
			break
		}
		older[producer{rec.ProducerID, rec.Epoch}] = true
	}
	if len(sessions) < 2 || sessions[len(sessions)-1] == first {
		t.Errorf("sessions of %v: no other instance took over", sessions)
	}
	ids, rows := map[string]bool{}, map[int64]int{}
	for _, rec := range records {
		tp := kafka.TopicPartition{Topic: rec.Topic, Partition: rec.Partition}
		if by := (producer{rec.ProducerID, rec.Epoch}); older[by] && rec.Offset >= takeover[tp] {
			t.Errorf("%s/%d offset %d, behind the takeover at %d, is by the older's producer %v", rec.Topic, rec.Partition, rec.Offset, takeover[tp], by)
		}
		if tp.Topic != partitions[0].Topic {
			continue
		}
		for _, h := range rec.Headers {
			if h.Key == "id" {
				if ids[string(h.Value)] {
					t.Errorf("id %s comes twice", h.Value)
				}
				ids[string(h.Value)] = true
			}
		}
		// The key is one Avro int behind the wire format's five bytes.
		id, n := binary.Varint(rec.Key[5:])
		if n != len(rec.Key)-5 {
			t.Fatalf("key %x", rec.Key)
		}
		rows[id]++
	}
	var count, least, most int
	if err := z.look.QueryRow(t.Context(), "SELECT count(*), min(id), max(id) FROM "+z.table).Scan(&count, &least, &most); err != nil {
		t.Fatal(err)
	}
	if count != z.written || least != 1 || most != z.written || len(ids) != count || len(rows) != count {
		t.Errorf("%d rows were written, the table has %d (%d to %d), the topic %d of %d ids", z.written, count, least, most, len(rows), len(ids))
	}
	for id := int64(1); id <= int64(count); id++ {
		if rows[id] != 1 {
			t.Errorf("row %d is there %d times", id, rows[id])
		}
	}
	t.Logf("%d rows, %d sessions to the takeover, %d producers of the older", count, len(sessions), len(older))
}

// stopped tells whether SIGSTOP has taken effect on a process.
func stopped(t *testing.T, p *proc.Process) bool {
	t.Helper()
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", p.PID()))
	if err != nil {
		t.Fatal(err)
	}
	// The state is the field behind the name, which is in parentheses and may hold anything.
	return strings.HasPrefix(string(b[bytes.LastIndexByte(b, ')')+1:]), " T")
}

// eventually waits for what nothing announces.
func eventually(t *testing.T, what string, ok func() bool) {
	t.Helper()
	for end := time.Now().Add(90 * time.Second); !ok(); time.Sleep(20 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("waited in vain for %s", what)
		}
	}
}
