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

	"walferry/internal/proc"
	"walferry/internal/testbed"
	"walferry/internal/workload"
)

const (
	// crashRounds is how often `make test` kills, and crashSeed what it chooses the moments by: a build is tested like the
	// one before it. WALFERRY_CRASH_ROUNDS and WALFERRY_CRASH_SEED ask for more and for others.
	crashRounds = 5
	crashSeed   = 1

	// From soakRounds on, at least soakKills kills must have struck each of the targets, and a round have soakEvents on
	// average; there are more rounds until it is so.
	soakRounds = 50
	soakKills  = 5
	soakEvents = 20_000
)

// TestCrash is the proof of the main promise. Each round kills walferry at a random moment of its life while four writers
// write; every tenth round kills the broker too, another tenth shuts Postgres down at once. Then the oracle, which shares no
// code with walferry, compares the topics with what the audit table says was committed.
//
// The binary has the tag failpoints, without any that acts: it notes in a file how far it has come (package failpoint), so the
// report in build/soak.md says where each kill fell.
func TestCrash(t *testing.T) {
	rounds, seed := crashRounds, uint64(crashSeed)
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
	soak := rounds >= soakRounds
	// Rows of a large transaction, and how much of it goes into one of Kafka's.
	big, batch := 30_000, "1MiB"
	if soak {
		big, batch = 200_000, "2MiB"
	}
	t.Logf("seed %d, %d rounds", seed, rounds)
	random := rand.New(rand.NewPCG(seed, 1))

	binary := buildBinary(t, "-tags", "failpoints")
	pg := testbed.Postgres(t, "", "fsync=on")
	broker := testbed.KafkaAlone(t)
	if err := workload.Create(t.Context(), pg.Connect(testbed.Owner)); err != nil {
		t.Fatal(err)
	}
	pg.Exec(testbed.Owner, "CREATE PUBLICATION walferry_crash FOR TABLE items, orders, documents, stock, ledger WITH (publish_via_partition_root = true)")
	registry := freeAddr(t)
	dir := t.TempDir()
	// The pipeline registers at a registry that outlives it, as a second walferry would.
	configure := func(name, of string) string {
		file := filepath.Join(dir, name)
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
  batch_bytes: %s
  topic: {partitions: 3, replication_factor: 1}
registry: {%s}
backfill: none
admin: {listen: ""}
`, pg.DSN(testbed.Reader), broker.Addr, batch, of), 0o600); err != nil {
			t.Fatal(err)
		}
		return file
	}
	serve := launch(t, binary, "registry.log", nil, "registry", "serve", "--config", configure("registry.yml", fmt.Sprintf("listen: %q", registry)))
	awaitHTTP(t, "http://"+registry+"/subjects")
	config := configure("walferry.yml", fmt.Sprintf("url: %q", "http://"+registry))

	r := &soakReport{seed: seed, servers: fmt.Sprintf("Postgres %d, Kafka %s", pg.Version(), broker.Version)}
	if !broker.Apache {
		r.servers = fmt.Sprintf("Postgres %d, kfake", pg.Version())
	}
	var aimed []aim
	// next plans a round; ok is false when there have been enough.
	next := func() (p plan, ok bool) {
		n := len(r.kills)
		p.strike = newStrike(n+1, random, pg, broker)
		short, more := missing(r.kills, soakKills)
		switch {
		case n < rounds && p.when == before:
			p.aim = anyMoment
		case n < rounds:
			if len(aimed) == 0 {
				aimed = aims(random, !soak)
			}
			p.aim, aimed = aimed[0], aimed[1:]
		case soak && n > 4*rounds:
			t.Errorf("after %d rounds too few kills were aimed well: %s", n, short)
			return p, false
		case soak && more:
			p.aim = short
		case soak && committed(t, pg) < int64(soakEvents*n):
			p.aim = anyMoment
		default:
			return p, false
		}
		return p, true
	}

	// The slot has to be there before the first row, or that row comes before the pipeline's beginning.
	p, ok := next()
	run := live(t, binary, "run-1.log", config, p.aim.env()...)
	awaitSlot(t, pg)

	writing, stop := context.WithCancel(t.Context())
	var writers sync.WaitGroup
	var stats workload.Stats
	var written error
	large := make(chan int, 1)
	writers.Go(func() {
		stats, written = workload.Run(writing, workload.Config{
			DSN: pg.DSN(testbed.Owner), Seed: seed, Writers: 4, Rate: 200, DDL: true, Large: large,
		})
	})
	defer writers.Wait()
	defer stop()
	begin := time.Now()
	for ok {
		if p.aim == atSplit && (len(r.kills) == 0 || !r.kills[len(r.kills)-1].place.split) {
			select {
			case large <- big:
			default: // the one before has not been written yet
			}
		}
		k := killed{aim: p.aim, fault: p.name}
		switch p.when {
		case never:
			p.aim.await(run, random)
			k.place = run.kill()
		case before: // it has to live with what was struck, and dies while that comes back or after
			p.aim.await(run, random)
			back := p.fell(t)
			p.aim.await(run, random)
			k.place = run.kill()
			if err := <-back; err != nil {
				t.Fatal(err)
			}
		case after:
			p.aim.await(run, random)
			k.place = run.kill()
			if err := <-p.fell(t); err != nil {
				t.Fatal(err)
			}
		}
		r.kills = append(r.kills, k)
		t.Logf("round %d: %s: %s (%s)", len(r.kills), k.aim, k.place, k.place.last)
		if p, ok = next(); ok {
			run = live(t, binary, fmt.Sprintf("run-%d.log", len(r.kills)+1), config, p.aim.env()...)
		}
	}
	stop()
	writers.Wait()
	if written != nil {
		t.Fatal(written)
	}
	// All that was written is published; then comes one more life, to which nothing is left, and a stop in order: so what is in
	// the topics now is all that there will be, and a repetition cannot come when nobody looks any more.
	run = live(t, binary, "run-catch-up.log", config)
	awaitConfirmed(t, pg)
	run.kill()
	run = live(t, binary, "run-last.log", config)
	awaitConfirmed(t, pg)
	if err := run.Stop(syscall.SIGTERM, 30*time.Second); err != nil {
		t.Errorf("stop by SIGTERM: %v", err)
	}
	if err := run.Err(); err != nil {
		t.Errorf("stop by SIGTERM: %v", err)
	}
	if !serve.Running() {
		t.Errorf("the registry ended by itself: %v", serve.Err())
	}
	r.seconds = time.Since(begin).Seconds()
	account := testbed.Oracle{
		DSN: pg.DSN(testbed.Owner), Brokers: broker.Addr, Registry: "http://" + registry, Prefix: "crash", Wait: time.Minute,
	}.Run(t)
	r.account, r.events, r.records = account.String(), account.Committed, account.Records
	r.written = fmt.Sprintf("4 writers; %d transactions and %d large ones of %d rows; %d rolled back, %d of unknown outcome; %d columns added or dropped",
		stats.Transactions-stats.Large, stats.Large, big, stats.RolledBack, stats.Uncertain, stats.Altered)
	if err := r.write(testbed.Root(t)); err != nil {
		t.Error(err)
	}
	t.Logf("\n%s", r.markdown())
	if !account.Clean() || account.Committed == 0 {
		t.Errorf("seed %d: %s", seed, account)
	}
}

// committed counts what the writers have committed so far.
func committed(t *testing.T, pg *testbed.PG) int64 {
	t.Helper()
	n, err := workload.Committed(t.Context(), pg.Connect(testbed.Owner))
	if err != nil {
		t.Fatal(err)
	}
	return n
}

func buildBinary(t *testing.T, flags ...string) string {
	t.Helper()
	binary := filepath.Join(t.TempDir(), "walferry")
	if out, err := exec.CommandContext(t.Context(), "go", append(append([]string{"build"}, flags...), "-o", binary, ".")...).CombinedOutput(); err != nil {
		t.Fatalf("go build: %v\n%s", err, out)
	}
	return binary
}

// launch starts a command of the binary. Its log is shown when the test fails.
func launch(t *testing.T, binary, name string, env []string, args ...string) *proc.Process {
	t.Helper()
	return launchTo(t, filepath.Join(t.TempDir(), name), binary, env, args...)
}

// launchTo is launch with a file for the log.
func launchTo(t *testing.T, file, binary string, env []string, args ...string) *proc.Process {
	t.Helper()
	f, err := os.Create(file)
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(binary, args...)
	cmd.Env = append(os.Environ(), env...)
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
		t.Logf("%s:\n%s", filepath.Base(file), b[max(0, len(b)-6000):])
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
	ctx, done := context.WithTimeout(t.Context(), 3*time.Minute)
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

// awaitSlot waits until a slot is read: it is consistent then, and where it begins is saved.
func awaitSlot(t *testing.T, pg *testbed.PG) {
	t.Helper()
	ctx, done := context.WithTimeout(t.Context(), 3*time.Minute)
	defer done()
	c := pg.Connect(testbed.Superuser)
	for {
		var active bool
		// One that is being made is active, too.
		if err := c.QueryRow(ctx, `SELECT EXISTS (SELECT FROM pg_replication_slots s JOIN pg_stat_replication r ON r.pid = s.active_pid
			WHERE r.state IN ('catchup', 'streaming'))`).Scan(&active); err != nil {
			t.Fatal(err)
		}
		if active {
			return
		}
		await(ctx, t, "an active slot")
	}
}

// awaitConfirmed waits until the slot was told of all that is in the WAL now; heartbeats bring it there.
func awaitConfirmed(t *testing.T, pg *testbed.PG) {
	t.Helper()
	ctx, done := context.WithTimeout(t.Context(), 10*time.Minute)
	defer done()
	c := pg.Connect(testbed.Superuser)
	var end string
	if err := c.QueryRow(ctx, "SELECT pg_current_wal_flush_lsn()::text").Scan(&end); err != nil {
		t.Fatal(err)
	}
	for {
		var there bool
		if err := c.QueryRow(ctx, "SELECT confirmed_flush_lsn >= $1::text::pg_lsn FROM pg_replication_slots", end).Scan(&there); err != nil {
			t.Fatal(err)
		}
		if there {
			return
		}
		await(ctx, t, "the confirmation of "+end)
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
