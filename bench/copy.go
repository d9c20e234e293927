package main

import (
	"context"
	_ "embed"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math"
	"net/http"
	"os"
	"os/exec"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/segmentio/kafka-go/protocol/deletetopics"
	"github.com/twmb/franz-go/pkg/kgo"

	"walferry/internal/proc"
	"walferry/internal/testbed"
)

//go:embed stored.sql
var storedScript string

// copyFigures are what one copy of the table measured, or the medians of several.
type copyFigures struct {
	figures
	// Server is user and system time of the server's processes for the program's connections.
	Server float64 `json:"server_cpu_seconds_per_million"`
	// Broker is user and system time of Kafka's process.
	Broker float64 `json:"broker_cpu_seconds_per_million"`
}

// latencies are of transactions of one row, from the answer to their commit until the broker's clock said that a consumer with
// read_committed could have them, in milliseconds.
type latencies struct {
	Transactions int     `json:"transactions"`
	P50          float64 `json:"p50_ms"`
	P99          float64 `json:"p99_ms"`
	Max          float64 `json:"max_ms"`
}

// copyReport is the copy's part of the report.
type copyReport struct {
	Rows      int         `json:"rows"`
	Yardstick copyFigures `json:"copy_binary"`
	// Walferry and Ratio are by number of workers.
	Walferry map[int]copyFigures `json:"walferry"`
	Ratio    map[int]float64     `json:"ratio"`
}

// latencyReport is what a writer saw, in another table and in the one that is copied.
type latencyReport struct {
	Copying     bool      `json:"copying"`
	PerSecond   int       `json:"transactions_per_second"`
	Other       latencies `json:"another_table"`
	Copied      latencies `json:"the_copied_table"`
	CopySeconds float64   `json:"copy_seconds,omitempty"`
}

// fill makes the table that is copied.
func (b *bed) fill(ctx context.Context) error {
	owner := b.postgres.DSN(testbed.Shop, testbed.Owner)
	if err := testbed.Exec(ctx, owner, storedScript, fmt.Sprintf("CALL load_stored(%d, %d)", b.o.rows, seed),
		"GRANT SELECT ON stored, beside TO "+testbed.Reader, "CREATE PUBLICATION copied FOR TABLE stored, beside"); err != nil {
		return err
	}
	if err := testbed.Exec(ctx, b.postgres.DSN(testbed.Shop, testbed.Superuser), "VACUUM (FREEZE, ANALYZE) stored", "CHECKPOINT"); err != nil {
		return err
	}
	var err error
	b.resident, err = b.residents(ctx)
	return err
}

// copies measures the copy.
func (b *bed) copies(ctx context.Context, progress io.Writer) (*copyReport, error) {
	say := func(format string, args ...any) { _, _ = fmt.Fprintf(progress, format+"\n", args...) }
	r := &copyReport{Rows: b.o.rows, Walferry: map[int]copyFigures{}, Ratio: map[int]float64{}}
	runs := map[int][]copyFigures{} // by workers; 0 is the yardstick
	for round := range b.o.rounds + 1 {
		order := slices.Clone(append([]int{0}, b.o.workers...))
		if round%2 == 0 {
			slices.Reverse(order)
		}
		if round == 0 {
			order = []int{b.o.workers[0], 0} // warms up
		}
		for _, workers := range order {
			name, measure := "COPY (FORMAT binary)", b.copyOut
			if workers > 0 {
				name = fmt.Sprintf("walferry with %d workers", workers)
				measure = func(ctx context.Context) (copyFigures, error) {
					return b.copyRun(ctx, fmt.Sprintf("copy_%d_%d", round, workers), workers, round == b.o.rounds && workers == b.o.workers[len(b.o.workers)-1])
				}
			}
			f, err := measure(ctx)
			if err != nil {
				return nil, fmt.Errorf("round %d: %s: %w", round, name, err)
			}
			say("round %d: %s: %.0f rows/s, %.2f CPU s per million, Postgres %.2f, Kafka %.2f, %.0f MiB", round, name, f.Rate, f.CPU, f.Server, f.Broker, f.Peak)
			if round > 0 {
				runs[workers] = append(runs[workers], f)
			}
		}
	}
	r.Yardstick = copyMedian(runs[0])
	for _, w := range b.o.workers {
		r.Walferry[w] = copyMedian(runs[w])
		r.Ratio[w] = r.Walferry[w].Rate / r.Yardstick.Rate
	}
	return r, nil
}

func copyMedian(runs []copyFigures) copyFigures {
	var all, server, broker []figures
	for _, f := range runs {
		all, server, broker = append(all, f.figures), append(server, figures{CPU: f.Server}), append(broker, figures{CPU: f.Broker})
	}
	return copyFigures{figures: median(all), Server: median(server).CPU, Broker: median(broker).CPU}
}

// copyOut measures the yardstick: psql writes COPY's output to nowhere.
func (b *bed) copyOut(ctx context.Context) (f copyFigures, err error) {
	psql, err := b.postgres.Tool("psql")
	if err != nil {
		return f, err
	}
	before, err := b.spending(ctx)
	if err != nil {
		return f, err
	}
	cmd := exec.CommandContext(ctx, psql, "--no-psqlrc", "--dbname="+b.dsn(), "--command=COPY stored TO STDOUT (FORMAT binary)")
	var said strings.Builder
	cmd.Stderr = &said
	begun := time.Now()
	if err := cmd.Run(); err != nil {
		return f, fmt.Errorf("%w: %s", err, said.String())
	}
	f.Rate = float64(b.o.rows) / time.Since(begun).Seconds()
	usage, _ := cmd.ProcessState.SysUsage().(*syscall.Rusage)
	f.Peak = float64(usage.Maxrss) / 1024
	return b.spent(ctx, f, cmd.ProcessState, before)
}

// spending is the CPU time of the two servers, in seconds: of Postgres that of processes which have ended.
type spending struct{ postgres, kafka float64 }

// spent adds what a program and the servers have spent since.
func (b *bed) spent(ctx context.Context, f copyFigures, state *os.ProcessState, before spending) (copyFigures, error) {
	after, err := b.spending(ctx)
	millions := float64(b.o.rows) / 1e6
	f.CPU = (state.UserTime() + state.SystemTime()).Seconds() / millions
	f.Server, f.Broker = (after.postgres-before.postgres)/millions, (after.kafka-before.kafka)/millions
	return f, err
}

// spending waits until the server's processes have ended that served connections.
func (b *bed) spending(ctx context.Context) (s spending, err error) {
	pid := b.postgres.PID()
	for {
		children, err := os.ReadFile(fmt.Sprintf("/proc/%[1]d/task/%[1]d/children", pid))
		if err != nil {
			return s, err
		}
		if len(strings.Fields(string(children))) <= b.resident {
			break
		}
		select {
		case <-ctx.Done():
			return s, context.Cause(ctx)
		case <-time.After(10 * time.Millisecond):
		}
	}
	if s.postgres, err = cpuTime(pid, 13); err != nil {
		return s, err
	}
	s.kafka, err = cpuTime(b.broker.PID(), 11)
	return s, err
}

// cpuTime reads user and system time from the numbers of a process, which proc(5) describes: those at 11 are its own, those at 13
// of its children that have ended, counted from behind its name.
func cpuTime(pid, at int) (seconds float64, err error) {
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return 0, err
	}
	_, rest, _ := strings.Cut(string(stat), ") ")
	fields := strings.Fields(rest)
	if len(fields) < at+2 {
		return 0, fmt.Errorf("/proc/%d/stat has %d numbers", pid, len(fields))
	}
	for _, s := range fields[at : at+2] {
		ticks, err := strconv.ParseFloat(s, 64) // of 10 ms
		if err != nil {
			return 0, err
		}
		seconds += ticks / 100
	}
	return seconds, nil
}

// residents counts the server's processes that serve no connection.
func (b *bed) residents(ctx context.Context) (n int, err error) {
	c, err := pgx.Connect(ctx, b.postgres.DSN(testbed.Shop, testbed.Superuser))
	if err != nil {
		return 0, err
	}
	defer c.Close(context.WithoutCancel(ctx)) //nolint:errcheck // only read from
	err = c.QueryRow(ctx, "SELECT count(*) FROM pg_stat_activity WHERE backend_type NOT IN ('client backend', 'walsender')").Scan(&n)
	return n, err
}

// copyPipeline is a walferry that copies, or does not.
type copyPipeline struct {
	name, admin string
	p           *proc.Process
	cmd         *exec.Cmd
	failed      func(error) error
}

// startCopying starts a pipeline of its own name. Everything in the configuration but names and addresses is as shipped.
func (b *bed) startCopying(name, backfill string, profile bool) (*copyPipeline, error) {
	registry, err := freeAddr()
	if err != nil {
		return nil, err
	}
	admin, err := freeAddr()
	if err != nil {
		return nil, err
	}
	cmd, p, failed, err := b.start(name, fmt.Sprintf(`
name: %[1]s
source:
  dsn: %[2]q
  tables: [public.stored, public.beside]
  slot: {name: %[1]s}
  publication: {name: copied, create: false}
kafka:
  brokers: [%[3]q]
registry: {listen: %[4]q, topic: %[1]s.schemas}
admin: {listen: %[5]q, pprof: %[6]v}
backfill: %[7]s
`, name, b.dsn(), b.broker.Addr, registry, admin, profile, backfill))
	return &copyPipeline{name: name, admin: "http://" + admin, p: p, cmd: cmd, failed: failed}, err
}

// finish stops it, and drops its slot.
func (b *bed) finish(ctx context.Context, c *copyPipeline) error {
	if err := c.p.Stop(syscall.SIGTERM, time.Minute); err != nil {
		return c.failed(err)
	}
	if c.p.Err() != nil {
		return c.failed(c.p.Err())
	}
	return b.dropSlot(ctx, c.name)
}

// await asks for the status until ok takes it.
func (c *copyPipeline) await(ctx context.Context, ok func(*pipelineStatus) bool) error {
	for {
		s, err := c.status(ctx)
		if err == nil && ok(s) {
			return nil
		}
		select {
		case <-c.p.Done():
			return c.failed(errors.New("walferry ended"))
		case <-ctx.Done():
			return c.failed(errors.Join(err, context.Cause(ctx)))
		case <-time.After(20 * time.Millisecond):
		}
	}
}

// pipelineStatus is what the bench wants of GET /status.
type pipelineStatus struct {
	Ready  bool `json:"ready"`
	Copies []struct {
		Table string `json:"table"`
		State string `json:"state"`
	} `json:"backfill"`
}

func (s *pipelineStatus) copied(table string) bool {
	for _, c := range s.Copies {
		if c.Table == table {
			return c.State == "done"
		}
	}
	return false
}

func (c *copyPipeline) status(ctx context.Context) (*pipelineStatus, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, c.admin+"/status", nil)
	if err != nil {
		return nil, err
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close() //nolint:errcheck // only read from
	s := &pipelineStatus{}
	return s, json.NewDecoder(resp.Body).Decode(s)
}

const copiedTable = "public.stored"

// copyRun measures one copy.
func (b *bed) copyRun(ctx context.Context, name string, workers int, profile bool) (f copyFigures, err error) {
	ctx, cancel := context.WithTimeout(ctx, b.o.timeout)
	defer cancel()
	profile = profile && b.o.profile != ""
	before, err := b.spending(ctx)
	if err != nil {
		return f, err
	}
	c, err := b.startCopying(name, fmt.Sprintf("{mode: initial, workers: %d}", workers), profile)
	if err != nil {
		return f, err
	}
	var profiled chan error
	if profile {
		profiled = make(chan error, 1)
		go func() { profiled <- fetchProfile(ctx, c.admin+"/debug/pprof/profile?seconds=6", b.o.profile) }()
	}
	if err := c.await(ctx, func(s *pipelineStatus) bool { return s.copied(copiedTable) }); err != nil {
		return f, err
	}
	if profile {
		if err := <-profiled; err != nil {
			return f, c.failed(err)
		}
	}
	peak, err := c.p.PeakMemory()
	if err != nil {
		return f, c.failed(err)
	}
	if err := b.finish(ctx, c); err != nil {
		return f, err
	}
	if f, err = b.spent(ctx, f, c.cmd.ProcessState, before); err != nil {
		return f, err
	}
	began, err := b.began(name)
	if err != nil {
		return f, err
	}
	seen, err := b.readCopy(ctx, name+"."+copiedTable, nil)
	if err != nil {
		return f, err
	}
	f.Rate, f.Peak = float64(b.o.rows)/seen.last.Sub(began).Seconds(), float64(peak)/(1<<20)
	return f, b.forget(ctx, name)
}

// forget deletes the topics of a pipeline: a dozen copies of millions of rows would fill a disk.
func (b *bed) forget(ctx context.Context, name string) error {
	_, err := b.client.RoundTrip(ctx, &deletetopics.Request{TopicNames: []string{name + ".public.stored", name + ".public.beside"}, TimeoutMs: 30_000})
	if err != nil {
		return fmt.Errorf("delete the topics of %s: %w", name, err)
	}
	return nil
}

// copySeen is what the topic of a copied table has.
type copySeen struct {
	first, last time.Time // when the first and the last row of the copy could be read, by the broker's clock
}

// readCopy reads a topic to its end. Every row must have come once; change is called for each record that the stream has brought,
// with when it could be read.
func (b *bed) readCopy(ctx context.Context, topic string, change func(r *kgo.Record, at time.Time)) (seen copySeen, err error) {
	c, err := newConsumer(b.broker.Addr, topic)
	if err != nil {
		return seen, err
	}
	defer c.client.Close()
	behind := map[int32]int64{}
	for p := range int32(partitions) {
		if behind[p], err = b.client.EndOffset(ctx, topic, p); err != nil {
			return seen, err
		}
	}
	rows := 0
	open := map[int32][]*kgo.Record{} // of the stream, of the transaction whose end is to come
	read := map[int32]bool{}          // that the copy has rows in it
	c.each = func(r *kgo.Record) error {
		switch {
		case r.Attrs.IsControl():
			// The marker that ends a transaction: from its time on it can be read.
			for _, o := range open[r.Partition] {
				change(o, r.Timestamp)
			}
			if read[r.Partition] {
				if seen.first.IsZero() || r.Timestamp.Before(seen.first) {
					seen.first = r.Timestamp
				}
				if r.Timestamp.After(seen.last) {
					seen.last = r.Timestamp
				}
			}
			open[r.Partition], read[r.Partition] = open[r.Partition][:0], false
		case isRead(r):
			rows++
			read[r.Partition] = true
			return c.tally.addRead(r)
		case change != nil:
			open[r.Partition] = append(open[r.Partition], &kgo.Record{Key: slices.Clone(r.Key)})
		}
		return nil
	}
	if err := c.read(ctx, func() bool {
		for p, end := range behind {
			if c.next[p] < end {
				return false
			}
		}
		return true
	}); err != nil {
		return seen, err
	}
	if change == nil {
		return seen, c.tally.check(b.o.rows, 0)
	}
	return seen, c.tally.check(rows, 0)
}

// isRead says that a record is a row of a copy: its id has fewer parts than that of a change.
func isRead(r *kgo.Record) bool {
	at := slices.IndexFunc(r.Headers, func(h kgo.RecordHeader) bool { return h.Key == "id" })
	return at >= 0 && strings.Count(string(r.Headers[at].Value), "/") == 3
}

// writers are how many connections share the writer's rate.
const writers = 4

// writer updates a row in each of its transactions, in turn in the copied table and in another one, at a steady rate. Each row
// is updated once, so its key says which transaction it was.
type writer struct {
	mu              sync.Mutex
	stored, beside  map[int64]time.Time // when the commit was answered, by key
	stop            context.CancelFunc
	done            sync.WaitGroup
	failed          atomic.Pointer[error]
	begun           time.Time
	rate, rows, nth int
}

func (b *bed) startWriter(ctx context.Context) *writer {
	w := &writer{stored: map[int64]time.Time{}, beside: map[int64]time.Time{}, begun: time.Now(), rate: b.o.rate, rows: b.o.rows, nth: b.written}
	b.written++
	ctx, w.stop = context.WithCancel(ctx)
	for i := range writers {
		w.done.Go(func() {
			if err := w.run(ctx, i, b.postgres.DSN(testbed.Shop, testbed.Owner)); err != nil && ctx.Err() == nil {
				w.failed.Store(&err)
			}
		})
	}
	return w
}

func (w *writer) run(ctx context.Context, nth int, dsn string) error {
	c, err := pgx.Connect(ctx, dsn)
	if err != nil {
		return err
	}
	defer c.Close(context.WithoutCancel(ctx)) //nolint:errcheck // nothing is open
	for i := nth; ; i += writers {
		select {
		case <-time.After(time.Until(w.begun.Add(time.Duration(i) * time.Second / time.Duration(w.rate)))):
		case <-ctx.Done():
			return nil
		}
		// The multiplier has no factor in common with a round number of rows, so the keys are all over the table and come once.
		table, id, of := "stored", int64(i)*7919%int64(w.rows), w.stored
		sql := "UPDATE stored SET updated_at = updated_at + interval '1 minute' WHERE id = $1"
		if i/writers%2 == 1 {
			table, id, of = "beside", int64(i)+int64(w.nth)<<32, w.beside
			sql = "INSERT INTO beside VALUES ($1)"
		}
		// The transaction is at its end before its key is looked up: this goroutine is stopped between two of them only.
		if _, err := c.Exec(context.WithoutCancel(ctx), sql, id); err != nil {
			return fmt.Errorf("write to %s: %w", table, err)
		}
		now := time.Now()
		w.mu.Lock()
		of[id] = now
		w.mu.Unlock()
	}
}

func (w *writer) end() error {
	w.stop()
	w.done.Wait()
	if err := w.failed.Load(); err != nil {
		return *err
	}
	return nil
}

// delays measures how late changes are at the broker that were written at a steady rate, with or without a copy beside them.
func (b *bed) delays(ctx context.Context, round int, copying bool) (r latencyReport, err error) {
	ctx, cancel := context.WithTimeout(ctx, b.o.timeout)
	defer cancel()
	r = latencyReport{Copying: copying, PerSecond: b.o.rate}
	name, mode := fmt.Sprintf("quiet_%d", round), "{mode: none}"
	if copying {
		name, mode = fmt.Sprintf("beside_%d", round), "{mode: initial}"
	}
	c, err := b.startCopying(name, mode, false)
	if err != nil {
		return r, err
	}
	if err := c.await(ctx, func(s *pipelineStatus) bool { return s.Ready }); err != nil {
		return r, err
	}
	w := b.startWriter(ctx)
	wait := func(s *pipelineStatus) bool { return s.copied(copiedTable) }
	if !copying {
		until := time.Now().Add(b.o.quiet)
		wait = func(*pipelineStatus) bool { return time.Now().After(until) }
	}
	if err := errors.Join(c.await(ctx, wait), w.end(), b.delivered(ctx, name)); err != nil {
		return r, err
	}
	if err := b.finish(ctx, c); err != nil {
		return r, err
	}
	took := map[string]map[int64]time.Time{"stored": {}, "beside": {}}
	var seen copySeen
	for table, of := range took {
		s, err := b.readCopy(ctx, name+".public."+table, func(r *kgo.Record, at time.Time) {
			if id, n := binary.Varint(r.Key[min(5, len(r.Key)):]); n > 0 { // behind the registry's prefix: a long
				of[id] = at
			}
		})
		if err != nil {
			return r, err
		}
		if table == "stored" {
			seen = s
		}
	}
	if copying {
		r.CopySeconds = seen.last.Sub(seen.first).Seconds()
	} else {
		seen = copySeen{last: time.Now()}
	}
	// The first rows of a table make its topic.
	if warm := w.begun.Add(time.Second); seen.first.Before(warm) {
		seen.first = warm
	}
	if r.Copied, err = delayed(w.stored, took["stored"], seen); err != nil {
		return r, err
	}
	if r.Other, err = delayed(w.beside, took["beside"], seen); err != nil {
		return r, err
	}
	return r, b.forget(ctx, name)
}

// delivered waits until the slot's reader has confirmed all that was written before.
func (b *bed) delivered(ctx context.Context, slot string) error {
	c, err := pgx.Connect(ctx, b.postgres.DSN(testbed.Shop, testbed.Superuser))
	if err != nil {
		return err
	}
	defer c.Close(context.WithoutCancel(ctx)) //nolint:errcheck // only read from
	var end string
	if err := c.QueryRow(ctx, "SELECT pg_current_wal_insert_lsn()::text").Scan(&end); err != nil {
		return err
	}
	// What is confirmed is where a transaction has committed: this one's place is behind the end.
	if _, err := c.Exec(ctx, "SELECT pg_logical_emit_message(true, 'bench', '')"); err != nil {
		return err
	}
	for done := false; !done; {
		select {
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-time.After(20 * time.Millisecond):
		}
		if err := c.QueryRow(ctx, "SELECT confirmed_flush_lsn >= $2::pg_lsn FROM pg_replication_slots WHERE slot_name = $1", slot, end).Scan(&done); err != nil {
			return err
		}
	}
	return nil
}

// delayed sorts what lies between the commits and the moments at which they could be read, of commits in a span.
func delayed(committed, readable map[int64]time.Time, in copySeen) (l latencies, err error) {
	var all []float64
	for id, at := range committed {
		if at.Before(in.first) || at.After(in.last) {
			continue
		}
		end, ok := readable[id]
		if !ok {
			return l, fmt.Errorf("the change of row %d is in no topic", id)
		}
		all = append(all, math.Max(0, float64(end.Sub(at).Microseconds())/1000))
	}
	if len(all) == 0 {
		return l, errors.New("no transaction fell into the copy: take more rows")
	}
	slices.Sort(all)
	at := func(q float64) float64 { return all[min(len(all)-1, int(q*float64(len(all))))] }
	return latencies{Transactions: len(all), P50: at(0.5), P99: at(0.99), Max: all[len(all)-1]}, nil
}

// latency measures delays without a copy and beside one, one after the other, in each round.
func (b *bed) latency(ctx context.Context, progress io.Writer) ([]latencyReport, error) {
	var all []latencyReport
	for round := range b.o.rounds {
		for _, copying := range []bool{false, true} {
			r, err := b.delays(ctx, round, copying)
			if err != nil {
				return nil, fmt.Errorf("latency, round %d: %w", round, err)
			}
			_, _ = fmt.Fprintf(progress, "round %d: latency, copying %v: p50 %.0f, p99 %.0f, max %.0f ms of another table; p50 %.0f, p99 %.0f, max %.0f ms of the copied one; the copy took %.1f s\n",
				round+1, copying, r.Other.P50, r.Other.P99, r.Other.Max, r.Copied.P50, r.Copied.P99, r.Copied.Max, r.CopySeconds)
			all = append(all, r)
		}
	}
	return all, nil
}
