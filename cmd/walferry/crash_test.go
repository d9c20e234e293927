package main

import (
	"context"
	"fmt"
	"math/rand/v2"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"sync"
	"syscall"
	"testing"
	"time"

	"walferry/internal/pgserver"
	"walferry/internal/proc"
	"walferry/internal/testbed"
	"walferry/internal/workload"
)

// crashRounds is how often `make test` kills; WALFERRY_CRASH_ROUNDS asks for more.
const crashRounds = 5

// TestCrash is the proof of the main promise. Each round kills walferry at a random moment of its life while four writers
// write; every tenth round kills the broker too, another tenth shuts Postgres down at once. Then the oracle, which shares no
// code with walferry, compares the topics with what the audit table says was committed.
func TestCrash(t *testing.T) {
	rounds, seed := crashRounds, uint64(time.Now().UnixNano())
	var err error
	if s := os.Getenv("WALFERRY_CRASH_ROUNDS"); s != "" {
		if rounds, err = strconv.Atoi(s); err != nil || rounds < 1 {
			t.Fatalf("WALFERRY_CRASH_ROUNDS=%q is not a number of rounds", s)
		}
	}
	if s := os.Getenv("WALFERRY_CRASH_SEED"); s != "" {
		if seed, err = strconv.ParseUint(s, 10, 64); err != nil {
			t.Fatalf("WALFERRY_CRASH_SEED=%q is not a number", s)
		}
	}
	big := 200_000 // rows of one transaction, split over many of Kafka's
	if rounds <= crashRounds {
		big = 60_000
	}
	t.Logf("seed %d, %d rounds", seed, rounds)
	random := rand.New(rand.NewPCG(seed, 1))

	binary := buildBinary(t)
	pg := testbed.Postgres(t, "", "fsync=on")
	broker := testbed.KafkaAlone(t)
	owner := pg.Connect(testbed.Owner)
	if err := workload.Create(t.Context(), owner); err != nil {
		t.Fatal(err)
	}
	pg.Exec(testbed.Owner, "CREATE PUBLICATION walferry_crash FOR TABLE items, orders, documents, stock, ledger WITH (publish_via_partition_root = true)")
	registry := freeAddr(t)
	file := filepath.Join(t.TempDir(), "walferry.yml")
	if err := os.WriteFile(file, fmt.Appendf(nil, `
name: crash
source:
  dsn: %q
  all_tables: true
  heartbeat: 1s
  wal_sender_timeout: 5s
  publication: {create: false}
kafka:
  brokers: [%q]
  batch_bytes: 2MiB
  topic: {partitions: 3, replication_factor: 1}
registry: {listen: %q}
admin: {listen: ""}
`, pg.DSN(testbed.Reader), broker.Addr, registry), 0o600); err != nil {
		t.Fatal(err)
	}
	serve := launch(t, binary, "registry.log", "registry", "serve", "--config", file)
	defer stopProcess(t, serve)
	awaitHTTP(t, "http://"+registry+"/subjects")

	// The pipeline registers at the registry that outlives it, as a second walferry would.
	child := filepath.Join(filepath.Dir(file), "child.yml")
	b, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	b = append(b[:len(b)-len(fmt.Sprintf("registry: {listen: %q}\nadmin: {listen: \"\"}\n", registry))],
		fmt.Appendf(nil, "registry: {url: \"http://%s\"}\nadmin: {listen: \"\"}\n", registry)...)
	if err := os.WriteFile(child, b, 0o600); err != nil {
		t.Fatal(err)
	}

	// The slot has to be there before the first row, or that row comes before the pipeline's beginning.
	run := launch(t, binary, "run-0.log", "run", "--config", child)
	awaitSlot(t, pg)

	writing, stop := context.WithCancel(t.Context())
	var writers sync.WaitGroup
	var stats workload.Stats
	var written error
	writers.Go(func() {
		stats, written = workload.Run(writing, workload.Config{DSN: pg.DSN(testbed.Owner), Seed: seed, Writers: 4, Rate: 200, DDL: true, Big: big})
	})
	defer writers.Wait()
	defer stop()
	for round := 1; round <= rounds; round++ {
		// Short lives die while starting, long ones in the middle of the work.
		time.Sleep(time.Duration(random.Int64N(int64(6 * time.Second))))
		if err := run.Stop(syscall.SIGKILL, 10*time.Second); err != nil && run.Running() {
			t.Fatal(err)
		}
		switch round % 10 {
		case 4:
			if err := broker.Kill(); err != nil {
				t.Fatal(err)
			}
			if err := broker.Start(t.Context()); err != nil {
				t.Fatal(err)
			}
		case 5:
			if err := pg.Stop(pgserver.Immediate); err != nil {
				t.Fatal(err)
			}
			if err := pg.Start(t.Context()); err != nil {
				t.Fatal(err)
			}
		}
		run = launch(t, binary, fmt.Sprintf("run-%d.log", round), "run", "--config", child)
	}
	stop()
	writers.Wait()
	if written != nil {
		t.Fatal(written)
	}
	account := testbed.Oracle{
		DSN: pg.DSN(testbed.Owner), Brokers: broker.Addr, Registry: "http://" + registry, Prefix: "crash", Wait: 2 * time.Minute,
	}.Run(t)
	t.Logf("seed %d: %+v; %d transactions, %d rolled back, %d altered; %d records", seed, stats, stats.Transactions, stats.RolledBack, stats.Altered, account.Records)
	if !account.Clean() || account.Committed == 0 {
		t.Errorf("seed %d: %s", seed, account)
	}
	// And a stop in order.
	if err := run.Stop(syscall.SIGTERM, 30*time.Second); err != nil {
		t.Errorf("stop by SIGTERM: %v", err)
	}
}

func buildBinary(t *testing.T) string {
	t.Helper()
	binary := filepath.Join(t.TempDir(), "walferry")
	if out, err := exec.CommandContext(t.Context(), "go", "build", "-o", binary, ".").CombinedOutput(); err != nil {
		t.Fatalf("go build: %v\n%s", err, out)
	}
	return binary
}

// launch starts a command of the binary. Its log is shown when the test fails.
func launch(t *testing.T, binary, name string, args ...string) *proc.Process {
	t.Helper()
	file := filepath.Join(t.TempDir(), name)
	f, err := os.Create(file)
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(binary, args...)
	cmd.Stdout, cmd.Stderr = f, f
	p, err := proc.Start(cmd, syscall.SIGKILL)
	if err != nil {
		t.Fatal(err)
	}
	if err := f.Close(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		stopProcess(t, p)
		if !t.Failed() {
			return
		}
		b, err := os.ReadFile(file)
		if err != nil {
			t.Log(err)
		}
		t.Logf("%s:\n%s", name, b[max(0, len(b)-6000):])
	})
	return p
}

func stopProcess(t *testing.T, p *proc.Process) {
	t.Helper()
	if !p.Running() {
		return
	}
	if err := p.Stop(syscall.SIGKILL, 10*time.Second); err != nil && p.Running() {
		t.Error(err)
	}
}

func freeAddr(t *testing.T) string {
	t.Helper()
	port, err := proc.FreePort()
	if err != nil {
		t.Fatal(err)
	}
	return net.JoinHostPort("127.0.0.1", strconv.Itoa(port))
}

func awaitHTTP(t *testing.T, url string) {
	t.Helper()
	ctx, done := context.WithTimeout(t.Context(), time.Minute)
	defer done()
	for {
		req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
		if err != nil {
			t.Fatal(err)
		}
		if resp, err := http.DefaultClient.Do(req); err == nil {
			if err := resp.Body.Close(); err != nil {
				t.Fatal(err)
			}
			if resp.StatusCode == http.StatusOK {
				return
			}
		}
		await(ctx, t, url)
	}
}

// awaitSlot waits until the walsender is active: the slot is consistent then.
func awaitSlot(t *testing.T, pg *testbed.PG) {
	t.Helper()
	ctx, done := context.WithTimeout(t.Context(), time.Minute)
	defer done()
	c := pg.Connect(testbed.Superuser)
	for {
		var active bool
		if err := c.QueryRow(ctx, "SELECT coalesce(bool_or(active), false) FROM pg_replication_slots").Scan(&active); err != nil {
			t.Fatal(err)
		}
		if active {
			return
		}
		await(ctx, t, "an active slot")
	}
}

func await(ctx context.Context, t *testing.T, what string) {
	t.Helper()
	select {
	case <-ctx.Done():
		t.Fatalf("waited in vain for %s", what)
	case <-time.After(50 * time.Millisecond):
	}
}
