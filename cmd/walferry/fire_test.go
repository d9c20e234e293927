package main

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"walferry/internal/admin"
	"walferry/internal/testbed"
	"walferry/internal/workload"
)

const (
	// fireRows and fireRounds are what `make test` copies, and how often it kills; WALFERRY_FIRE_ROWS, WALFERRY_FIRE_ROUNDS and
	// WALFERRY_FIRE_SEED ask for more and for others.
	fireRows   = 20_000
	fireRounds = 5
	fireSeed   = 1

	// fireSoak is from how many rounds on each place must be struck fireKills times, and once below.
	fireSoak  = 30
	fireKills = 5

	// fireOpen is how long a transaction of ours may be open, other than that of a table without a key.
	fireOpen = 10 * time.Second
)

// TestCopyFire is the proof of the first copy. Tables of several kinds are copied while eight writers change, delete and move
// rows all over them, and walferry is killed before the last chunk has its place: while a chunk waits for the stream, while the
// Kafka transaction that brings one is open, between its commit and the next snapshot, and at moments of any kind. Where a kill
// fell the trace says (see TestCrash). Then the oracle compares the topics with the tables and with what was written.
func TestCopyFire(t *testing.T) {
	rows := numberFrom(t, "WALFERRY_FIRE_ROWS", fireRows)
	rounds := int(numberFrom(t, "WALFERRY_FIRE_ROUNDS", fireRounds))
	seed := uint64(numberFrom(t, "WALFERRY_FIRE_SEED", fireSeed))
	soak := rounds >= fireSoak
	kills, workers, batch, rate, behind := 1, 8, "256KiB", 40.0, int64(8<<20)
	if soak {
		kills, workers, batch, rate, behind = fireKills, 4, "1MiB", 60, 64<<20
	}
	t.Logf("seed %d, %d rows, %d rounds", seed, rows, rounds)
	random := rand.New(rand.NewPCG(seed, 2))
	loose := rows * 5 / 100
	if !soak {
		loose = rows * 20 / 100 // so that it is read in several pieces
	}
	tables := map[string]int64{
		workload.Counters: rows*65/100 - loose, workload.Pairs: rows * 28 / 100, workload.Marks: loose, workload.Blobs: rows * 7 / 100,
	}

	binary := buildBinary(t, "-tags", "failpoints")
	pg := testbed.Postgres(t, "", "max_wal_size=4GB")
	broker := testbed.KafkaAlone(t)
	if err := workload.CreateFire(t.Context(), pg.Connect(testbed.Owner), tables); err != nil {
		t.Fatal(err)
	}
	pg.Exec(testbed.Owner, "CREATE PUBLICATION walferry_fire FOR TABLE counters, pairs, marks, blobs WITH (publish_via_partition_root = true)")
	registry, adminAddr := freeAddr(t), freeAddr(t)
	dir := t.TempDir()
	configure := func(name, of, listen string) string {
		file := filepath.Join(dir, name)
		if err := os.WriteFile(file, fmt.Appendf(nil, `
name: fire
source:
  dsn: %q
  all_tables: true
  heartbeat: 1s
  publication: {create: false}
backfill: {mode: initial, workers: %d, buffer_bytes: 1MiB, chunk_time: 50ms}
kafka:
  brokers: [%q]
  batch_bytes: %s
  topic: {partitions: 3, replication_factor: 1}
registry: {%s}
admin: {listen: %q}
`, pg.DSN(testbed.Reader), workers, broker.Addr, batch, of, listen), 0o600); err != nil {
			t.Fatal(err)
		}
		return file
	}
	serve := launch(t, binary, "registry.log", nil, "registry", "serve", "--config", configure("registry.yml", fmt.Sprintf("listen: %q", registry), ""))
	awaitHTTP(t, "http://"+registry+"/subjects")
	config := configure("walferry.yml", fmt.Sprintf("url: %q", "http://"+registry), adminAddr)

	// A life that ends where the stream begins: what is written from here on is on it, and nothing was copied before.
	first := live(t, binary, "run-0.log", config, "WALFERRY_FAILPOINTS=pipeline/streaming=kill")
	if !first.until(10*time.Millisecond, 3*time.Minute, func() bool { return !first.Running() }) || first.at("pipeline/chunk-begin").Hits > 0 {
		t.Fatalf("the first start did not come to the stream: %v", first.Err())
	}

	watch := &watcher{open: map[string]*opened{}, keys: map[string][]string{}, most: behind}
	watching, unwatch := context.WithCancel(t.Context())
	var watchers sync.WaitGroup
	watchers.Go(func() { watch.run(watching, pg.Connect(testbed.Superuser)) })
	defer watchers.Wait()
	defer unwatch()
	writing, stop := context.WithCancel(t.Context())
	var writers sync.WaitGroup
	var stats workload.Stats
	var written error
	writers.Go(func() {
		stats, written = workload.Run(writing, workload.Config{
			DSN: pg.DSN(testbed.Owner), Seed: seed, Writers: 8, Rate: rate, Tables: workload.Fire(), Rows: tables, Pace: watch.pace, Near: watch.near,
		})
	})
	defer writers.Wait()
	defer stop()

	begin := time.Now()
	r := &fireReport{seed: seed, servers: fmt.Sprintf("Postgres %d, Kafka %s", pg.Version(), broker.Version), rows: rows, keyed: rows - tables[workload.Marks]}
	var aimed []fireAim
	for n := 0; ; n++ {
		aim, more := r.missing(kills)
		switch {
		case n == 0:
			aim = fireWhole
		case n < rounds:
			if len(aimed) == 0 {
				aimed = fireAims(random, soak)
			}
			aim, aimed = aimed[0], aimed[1:]
		case n >= 3*rounds+10:
			t.Fatalf("after %d rounds too few kills were aimed well: %s\n%s", n, aim, r.markdown())
		}
		if n >= rounds && !more {
			break
		}
		// A life copies about a 50th of the rows, so that there are some left for the last one.
		share := random.Int64N(rows/25 + 1)
		l := live(t, binary, fmt.Sprintf("run-%d.log", n+1), config, aim.env(soak, random)...)
		aim.await(l, soak, share, random)
		r.add(aim, l.strike())
		r.lost += l.lost()
		t.Logf("round %d: %s: %s (%s), %d rows committed", n+1, aim, r.kills[n].at, r.kills[n].at.last, r.kills[n].at.committed)
	}

	last := live(t, binary, "run-last.log", config, "WALFERRY_FAILPOINTS=pipeline/chunk-snapshot=sleep:5ms")
	ended := awaitCopies(t, "http://"+adminAddr+"/status", len(tables))
	r.copied = time.Since(begin).Seconds()
	stop()
	writers.Wait()
	if written != nil {
		t.Fatal(written)
	}
	awaitConfirmed(t, pg)
	end := last.kill()
	r.read += last.at("pipeline/chunk-rows").Hits
	r.lost += last.lost()
	if n := last.at("pipeline/chunk-committed").Hits; n == 0 {
		t.Errorf("no chunk was left for the life after the last kill: not all of the %d kills fell before the last one had its place", len(r.kills))
	}
	if end.start {
		t.Error("the last life has not begun to stream")
	}
	// As in TestCrash: nothing is left to the life after it, and what is in the topics is all there will be.
	run := live(t, binary, "run-nothing.log", config)
	awaitConfirmed(t, pg)
	if n := run.at("pipeline/chunk-begin").Hits; n > 0 {
		t.Errorf("a start after the copies read %d chunks", n)
	}
	if err := run.Stop(syscall.SIGTERM, time.Minute); err != nil {
		t.Errorf("stop by SIGTERM: %v", err)
	}
	if !serve.Running() {
		t.Errorf("the registry ended by itself: %v", serve.Err())
	}
	unwatch()
	watchers.Wait()
	if watch.err != nil {
		t.Fatal(watch.err)
	}
	r.longest, r.longestLoose, r.samples = watch.longest()
	if r.longest >= fireOpen {
		t.Errorf("a transaction of ours was open for %v", r.longest)
	}
	if err := pg.Connect(testbed.Owner).QueryRow(t.Context(), `SELECT count(*) FROM audit.changes
		WHERE tbl <> 'public.marks' AND (op = 'I' OR op = 'U' AND (old->>'id', old->>'a', old->>'b') IS DISTINCT FROM (new->>'id', new->>'a', new->>'b'))`).Scan(&r.came); err != nil {
		t.Fatal(err)
	}
	// What was in flight when a session ended by itself, as it may on a slow machine, fits into the buffers.
	if most := uint64(r.keyed+r.came) + r.inFlight() + r.lost*(1<<20/30); r.read > most {
		t.Errorf("COPY read %d rows; the tables had %d and %d came, and %d were in flight at the kills", r.read, r.keyed, r.came, r.inFlight())
	}
	r.tables = ended
	for _, c := range ended {
		if c.Table == "public."+workload.Marks && c.Generation < 2 {
			t.Error("the copy of the table without a key was never broken off")
		}
	}
	r.written = fmt.Sprintf("8 writers; %d transactions, %d rolled back", stats.Transactions, stats.RolledBack)
	account := testbed.Oracle{
		DSN: pg.DSN(testbed.Owner), Brokers: broker.Addr, Registry: "http://" + registry, Prefix: "fire", Wait: time.Minute, Limit: 6 * time.Hour,
	}.Run(t)
	r.account, r.events, r.contained, r.records, r.reads, r.seconds = account.String(), account.Committed, account.Contained, account.Records, account.Reads, time.Since(begin).Seconds()
	if err := r.write(testbed.Root(t)); err != nil {
		t.Error(err)
	}
	t.Logf("\n%s", r.markdown())
	if !account.Clean() || account.Committed == 0 {
		t.Errorf("seed %d: %s", seed, account)
	}
}

// numberFrom is a number from the environment.
func numberFrom(t *testing.T, name string, otherwise int64) int64 {
	t.Helper()
	s := os.Getenv(name)
	if s == "" {
		return otherwise
	}
	n, err := strconv.ParseInt(s, 10, 64)
	if err != nil || n < 1 {
		t.Fatalf("%s=%q is not a number above 0", name, s)
	}
	return n
}

// watcher looks at the server twenty times a second: how far the stream is behind, for which the writers wait, where chunks are
// being read, where they write, and how long our transactions are open.
type watcher struct {
	most   int64 // bytes that the stream may be behind
	behind atomic.Int64
	open   map[string]*opened // by process and begin
	looks  int
	err    error

	mu   sync.Mutex
	keys map[string][]string // behind which chunks of a table were read last; guarded by mu
}

// readFrom finds the table in a statement of ours that reads a chunk, and literals the key behind which it reads.
var (
	readFrom = regexp.MustCompile(`^COPY \(.* FROM ONLY public\.(\w+) WHERE`)
	literals = regexp.MustCompile(`'(?:[^']|'')*'::\w+`)
)

// opened is a transaction of ours.
type opened struct {
	loose bool // it has to do with the table without a key
	age   time.Duration
}

func (w *watcher) run(ctx context.Context, c *pgx.Conn) {
	look := time.NewTicker(50 * time.Millisecond)
	defer look.Stop()
	for {
		if err := w.look(ctx, c); err != nil {
			if ctx.Err() == nil {
				w.err = err
			}
			return
		}
		select {
		case <-ctx.Done():
			return
		case <-look.C:
		}
	}
}

func (w *watcher) look(ctx context.Context, c *pgx.Conn) error {
	var behind int64
	if err := c.QueryRow(ctx, "SELECT pg_wal_lsn_diff(pg_current_wal_flush_lsn(), confirmed_flush_lsn)::bigint FROM pg_replication_slots").Scan(&behind); err != nil {
		return err
	}
	w.behind.Store(behind)
	rows, err := c.Query(ctx, `SELECT coalesce(pid || ' ' || xact_start, ''), query, coalesce(extract(epoch FROM clock_timestamp() - xact_start), 0)::float8
		FROM pg_stat_activity WHERE application_name = 'walferry_fire' AND backend_type = 'client backend'`)
	if err != nil {
		return err
	}
	w.looks++
	var id, query string
	var age float64
	keys := map[string][]string{}
	_, err = pgx.ForEachRow(rows, []any{&id, &query, &age}, func() error {
		if m := readFrom.FindStringSubmatch(query); m != nil {
			columns := 1
			if m[1] == workload.Pairs {
				columns = 2
			}
			if key := literals.FindAllString(query, columns); len(key) == columns {
				keys[m[1]] = append(keys[m[1]], strings.Join(key, ", "))
			}
		}
		if id == "" {
			return nil
		}
		o := w.open[id]
		if o == nil {
			o = &opened{}
			w.open[id] = o
		}
		o.loose, o.age = o.loose || strings.Contains(query, workload.Marks), max(o.age, time.Duration(age*float64(time.Second)))
		return nil
	})
	w.mu.Lock()
	defer w.mu.Unlock()
	for table, k := range keys {
		w.keys[table] = k
	}
	return err
}

// near is a key behind which a chunk was read last, for the writers.
func (w *watcher) near(table string) string {
	w.mu.Lock()
	defer w.mu.Unlock()
	if k := w.keys[table]; len(k) > 0 {
		return k[rand.IntN(len(k))]
	}
	return ""
}

// pace holds the writers back while the stream is too far behind: a slow machine makes the test slower, and never red.
func (w *watcher) pace(ctx context.Context) {
	for ctx.Err() == nil && w.behind.Load() > w.most {
		select {
		case <-ctx.Done():
		case <-time.After(20 * time.Millisecond):
		}
	}
}

// longest is how long a transaction of ours was seen open: of all but that of the table without a key, and of that one; and how
// often it was looked.
func (w *watcher) longest() (keyed, loose time.Duration, looks int) {
	for _, o := range w.open {
		if o.loose {
			loose = max(loose, o.age)
		} else {
			keyed = max(keyed, o.age)
		}
	}
	return keyed, loose, w.looks
}

// awaitCopies waits until the copies of n tables are done, and says how they went.
func awaitCopies(t *testing.T, url string, n int) []admin.CopyStatus {
	t.Helper()
	ctx, done := context.WithTimeout(t.Context(), 4*time.Hour)
	defer done()
	for {
		req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
		if err != nil {
			t.Fatal(err)
		}
		var s admin.Status
		if resp, err := http.DefaultClient.Do(req); err == nil {
			b, err := io.ReadAll(resp.Body)
			if err != nil {
				t.Fatal(err)
			}
			if err := resp.Body.Close(); err != nil {
				t.Fatal(err)
			}
			if err := json.Unmarshal(b, &s); err != nil {
				t.Fatalf("%v: %s", err, b)
			}
		}
		over := slices.DeleteFunc(s.Copies, func(c admin.CopyStatus) bool { return c.State != "done" })
		if len(over) == n {
			return over
		}
		await(ctx, t, "the copies of all tables")
	}
}

// firePlace is where in the copy a process was killed, as its trace tells.
type firePlace struct {
	place
	waits     bool   // a chunk was read, and waits for the stream to come to its place
	published bool   // the Kafka transaction that is open brings rows of a chunk
	between   bool   // a chunk was committed, and no snapshot taken since
	whole     bool   // rows of the table without a key were committed, and not all
	read      uint64 // rows that COPY read
	committed uint64 // of these, those whose chunk was committed
	chunks    uint64 // begun and not read yet
}

func (p firePlace) String() string {
	var in []string
	for _, w := range []struct {
		is   bool
		what string
	}{
		{p.start, "start-up"}, {p.waits, "chunk waits"}, {p.published && p.open, "transaction open"}, {p.published && p.ending, "EndTxn unanswered"},
		{p.between, "committed, no snapshot since"}, {p.whole, "table without a key half committed"},
	} {
		if w.is {
			in = append(in, w.what)
		}
	}
	if len(in) == 0 {
		return "elsewhere"
	}
	return strings.Join(in, ", ")
}

// firePlaceOf finds the place from the lines of a trace.
func firePlaceOf(p place, hits, number func(failpoint string) uint64) firePlace {
	f := firePlace{place: p}
	f.waits = hits("pipeline/chunk-pending") > hits("pipeline/chunk-waited")
	begun := number("pipeline/before-publish")
	f.published = number("pipeline/chunk-publish") > begun
	committed := number("pipeline/chunk-committed")
	if c := number("publish-committed"); f.published && c > begun {
		committed = c
	}
	f.between = committed > number("pipeline/chunk-snapshot")
	if placed, sealed := number("pipeline/whole-placed"), number("pipeline/sealed"); placed > 0 && hits("pipeline/whole-read") == 0 {
		f.whole = sealed > placed && number("pipeline/whole-committed") > sealed
	}
	f.read, f.committed = hits("pipeline/chunk-rows"), hits("pipeline/chunk-rows-committed")
	f.chunks = hits("pipeline/chunk-begin") - hits("pipeline/chunk-read")
	return f
}

func TestFirePlaceOf(t *testing.T) {
	const (
		read    = "pipeline/streaming pipeline/chunk-begin pipeline/chunk-snapshot pipeline/chunk-rows pipeline/chunk-read pipeline/chunk-pending"
		publish = read + " pipeline/chunk-waited pipeline/chunk-placed pipeline/sealed pipeline/before-publish pipeline/chunk-publish publish-begun publish-added"
		commit  = publish + " publish-produced publish-committed"
		stream  = " pipeline/before-publish publish-begun publish-added"
	)
	for _, tc := range []struct{ hits, want string }{
		{"", "start-up"},
		{"pipeline/streaming", "elsewhere"},
		{"pipeline/streaming pipeline/chunk-begin pipeline/chunk-snapshot", "elsewhere"},
		{read, "chunk waits"},
		{read + stream, "chunk waits"},
		{publish, "transaction open"},
		{publish + " pipeline/chunk-pending", "chunk waits, transaction open"},
		{publish + " publish-produced", "EndTxn unanswered"},
		{commit, "committed, no snapshot since"},
		{commit + " pipeline/chunk-rows-committed pipeline/chunk-committed", "committed, no snapshot since"},
		{commit + " pipeline/chunk-rows-committed pipeline/chunk-committed" + stream, "committed, no snapshot since"},
		{commit + " pipeline/chunk-snapshot", "elsewhere"},
		{"pipeline/streaming pipeline/whole-placed pipeline/whole-committed", "elsewhere"},
		{"pipeline/streaming pipeline/whole-placed pipeline/sealed pipeline/whole-committed", "table without a key half committed"},
		{"pipeline/streaming pipeline/whole-placed pipeline/sealed pipeline/whole-read pipeline/whole-committed", "elsewhere"},
		{commit + " pipeline/chunk-snapshot pipeline/chunk-committed", "elsewhere"},
	} {
		hits, numbers := map[string]uint64{}, map[string]uint64{}
		for i, name := range strings.Fields(tc.hits) {
			hits[name]++
			numbers[name] = uint64(i) + 1
		}
		number := func(name string) uint64 { return numbers[name] }
		if got := firePlaceOf(placeOf(number), func(name string) uint64 { return hits[name] }, number); got.String() != tc.want {
			t.Errorf("%s\n got %s\nwant %s", tc.hits, got, tc.want)
		}
	}
}

func (l *life) firePlace() firePlace {
	return firePlaceOf(l.place(), func(name string) uint64 { return l.at(name).Hits }, func(name string) uint64 { return l.at(name).Number })
}

// strike is kill for a process that may have killed itself where it was to be struck.
func (l *life) strike() firePlace {
	l.t.Helper()
	if l.Running() {
		if err := l.Stop(syscall.SIGKILL, 10*time.Second); err != nil {
			l.t.Fatal(err)
		}
	} else if err := l.Err(); err == nil || !strings.Contains(err.Error(), "killed") {
		l.t.Fatalf("walferry ended by itself: %v", err)
	}
	return l.firePlace()
}

// lost is how many sessions ended by themselves.
func (l *life) lost() uint64 { return max(l.at("pipeline/session-begun").Hits, 1) - 1 }

// fireAim is how the moment of a kill is chosen.
type fireAim string

const (
	fireAny     fireAim = "any moment"
	fireStart   fireAim = "start-up"
	fireWaits   fireAim = "a chunk waits"
	fireOpened  fireAim = "its transaction is open"
	fireBetween fireAim = "between its commit and the next snapshot"
	fireWhole   fireAim = "the table without a key is half committed"
)

// fireAims returns how the next ten kills are chosen; of a short run, the first four.
func fireAims(random *rand.Rand, soak bool) []fireAim {
	a := []fireAim{fireWaits, fireOpened, fireBetween}
	if soak {
		a = append(a, fireWaits, fireOpened, fireBetween, fireAny, fireAny, fireAny, fireStart)
	}
	random.Shuffle(len(a), func(i, j int) { a[i], a[j] = a[j], a[i] })
	if !soak {
		a = append(a, fireAny)
	}
	return a
}

// env is what the process has in its environment that this aim is for. The few rows of a short run are copied in a moment: there
// the process kills itself where it is aimed at. In a soak it is killed from outside; only the place between a commit and the next
// snapshot is held open for some milliseconds. And between a chunk's snapshot and its rows there is time for changes.
func (a fireAim) env(soak bool, random *rand.Rand) []string {
	var points []string
	if a == fireWhole { // its third piece never comes
		return []string{"WALFERRY_FAILPOINTS=pipeline/whole-piece=count:3:sleep:1h"}
	}
	if !soak {
		points = append(points, "pipeline/chunk-snapshot=sleep:20ms")
		switch n := 1 + random.IntN(3); a {
		case fireWaits:
			points = append(points, fmt.Sprintf("pipeline/chunk-pending=count:%d:kill", n))
		case fireOpened: // await has it go on until a chunk is in the transaction
			points = append(points, "publish-added=stop")
		case fireBetween:
			points = append(points, fmt.Sprintf("pipeline/chunk-committed=count:%d:kill", n))
		case fireAny, fireStart, fireWhole:
		}
	} else {
		switch a {
		case fireBetween:
			points = append(points, "pipeline/chunk-locked=sleep:5ms")
		case fireAny, fireStart:
			points = append(points, "pipeline/chunk-snapshot=sleep:20ms")
		case fireWaits, fireOpened, fireWhole:
		}
	}
	if points == nil {
		return nil
	}
	return []string{"WALFERRY_FAILPOINTS=" + strings.Join(points, ",")}
}

// await waits for the moment, which in a soak comes after so many rows were committed, whatever time they take.
func (a fireAim) await(l *life, soak bool, share int64, random *rand.Rand) {
	const atMost = 5 * time.Minute
	switch a {
	case fireStart:
		time.Sleep(time.Duration(random.Int64N(int64(500 * time.Millisecond))))
		return
	case fireAny:
		l.until(time.Millisecond, atMost, func() bool { return l.at("pipeline/chunk-begin").Hits > 0 })
		l.until(time.Millisecond, time.Duration(random.Int64N(int64(2*time.Second))), func() bool { return l.at("pipeline/chunk-rows-committed").Hits >= uint64(share) })
		return
	case fireWaits, fireOpened, fireBetween, fireWhole:
	}
	if soak && a != fireWhole {
		l.until(time.Millisecond, atMost, func() bool { return l.at("pipeline/chunk-rows-committed").Hits >= uint64(share) })
		l.until(20*time.Microsecond, atMost, func() bool { return a.in(l.firePlace()) })
		return
	}
	l.until(5*time.Millisecond, atMost, func() bool {
		if a.in(l.firePlace()) {
			return true
		}
		if err := l.Signal(syscall.SIGCONT); err != nil && l.Running() {
			l.t.Fatal(err)
		}
		return false
	})
}

// in says whether a place is the one that is aimed at.
func (a fireAim) in(p firePlace) bool {
	switch a {
	case fireWaits:
		return p.waits
	case fireOpened:
		return p.published && p.open
	case fireBetween:
		return p.between
	case fireStart:
		return p.start
	case fireWhole:
		return p.whole
	case fireAny:
	}
	return true
}

// fireReport is what a run found.
type fireReport struct {
	seed                  uint64
	servers, written      string
	rows, keyed           int64 // at first: of all tables, of those with a key
	came                  int64 // to keys of these while it ran
	read                  uint64
	lost                  uint64 // sessions that ended by themselves
	kills                 []fireKill
	copied, seconds       float64
	longest, longestLoose time.Duration
	samples               int
	tables                []admin.CopyStatus
	account               string
	events, contained     int
	records, reads        int
}

type fireKill struct {
	aim fireAim
	at  firePlace
}

func (r *fireReport) add(aim fireAim, at firePlace) {
	r.kills = append(r.kills, fireKill{aim, at})
	r.read += at.read
}

// inFlight are the rows that were read and not committed at the kills.
func (r *fireReport) inFlight() (n uint64) {
	for _, k := range r.kills {
		n += k.at.read - k.at.committed
	}
	return n
}

func (r *fireReport) struck(a fireAim) (n int) {
	for _, k := range r.kills {
		if a.in(k.at) {
			n++
		}
	}
	return n
}

// missing returns an aim whose place was struck fewer than n times; ok is false when there is none.
func (r *fireReport) missing(n int) (a fireAim, ok bool) {
	for _, a := range []fireAim{fireWaits, fireOpened, fireBetween} {
		if r.struck(a) < n {
			return a, true
		}
	}
	return fireAny, false
}

func (r *fireReport) markdown() string {
	var b strings.Builder
	line := func(format string, args ...any) { fmt.Fprintf(&b, format+"\n", args...) }
	line("| | |\n| --- | --- |")
	line("| seed | %d |", r.seed)
	line("| servers | %s |", r.servers)
	line("| rows at first | %d, of these %d in tables with a key |", r.rows, r.keyed)
	line("| kills before the last chunk had its place | %d |", len(r.kills))
	line("| time | %.0f s until all was copied, %.0f s with the account |", r.copied, r.seconds)
	line("| workload | %s; %d changes were on the stream, %d contained in a copy |", r.written, r.events, r.contained)
	line("| records | %d, of these %d reads |", r.records, r.reads)
	line("| rows that COPY read of tables with a key | %d; rows there at first %d, rows that came to a key meanwhile %d, rows in flight at the kills %d; sessions that ended by themselves %d |", r.read, r.keyed, r.came, r.inFlight(), r.lost)
	line("| longest transaction of ours seen open | %.1f s; that of the table without a key %.1f s (%d looks at `pg_stat_activity`, up to 20 a second) |", r.longest.Seconds(), r.longestLoose.Seconds(), r.samples)
	account, samples, _ := strings.Cut(strings.TrimSpace(r.account), "\n")
	line("| account | %s |", account)
	line("\n| table | rows placed | left out for newer ones | generation |\n| --- | --- | --- | --- |")
	for _, c := range r.tables {
		line("| %s | %d | %d | %d |", c.Table, c.Rows, c.Newer, c.Generation)
	}
	line("\n| SIGKILL fell | kills |\n| --- | --- |")
	line("| while a chunk waited for the stream to come to its place | %d |", r.struck(fireWaits))
	line("| while the Kafka transaction that brings one was open | %d |", r.struck(fireOpened))
	line("| between its commit and the next snapshot | %d |", r.struck(fireBetween))
	line("| while rows of the table without a key were committed, and not all | %d |", r.struck(fireWhole))
	line("| during start-up | %d |", r.struck(fireStart))
	line("\n| round | moment chosen | fell | last place passed | rows read | not committed | chunks being read |\n| --- | --- | --- | --- | --- | --- | --- |")
	for i, k := range r.kills {
		line("| %d | %s | %s | %s | %d | %d | %d |", i+1, k.aim, k.at, k.at.last, k.at.read, k.at.read-k.at.committed, k.at.chunks)
	}
	if samples != "" {
		line("\n```\n%s\n```", samples)
	}
	return b.String()
}

// write leaves the report in build/, from where it goes to docs/soak.md.
func (r *fireReport) write(root string) error {
	path := filepath.Join(root, "build", "soak-copy.md")
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return err
	}
	return os.WriteFile(path, []byte(r.markdown()), 0o644)
}
