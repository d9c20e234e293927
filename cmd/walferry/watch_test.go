package main

import (
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/jackc/pglogrepl"
	"github.com/jackc/pgx/v5"
	dto "github.com/prometheus/client_model/go"
	"github.com/prometheus/common/expfmt"
	"github.com/prometheus/common/model"

	"walferry/internal/admin"
	"walferry/internal/testbed"
)

// muteProxy is a way to a server that can fall silent: then it accepts connections and answers nothing.
type muteProxy struct {
	listener net.Listener
	to       string
	wg       sync.WaitGroup

	mu    sync.Mutex // guards the following
	mute  bool
	conns map[net.Conn]bool
}

func newMuteProxy(t *testing.T, to string) *muteProxy {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	m := &muteProxy{listener: l, to: to, conns: map[net.Conn]bool{}}
	m.wg.Go(func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			m.wg.Go(func() { m.serve(t, c) })
		}
	})
	t.Cleanup(func() {
		if err := l.Close(); err != nil {
			t.Error(err)
		}
		m.speak()
		m.wg.Wait()
	})
	return m
}

func (m *muteProxy) serve(t *testing.T, c net.Conn) {
	server, err := net.Dial("tcp", m.to)
	if err != nil {
		t.Logf("the proxy's server: %v", err)
		_ = c.Close() // the client sees that
		return
	}
	m.mu.Lock()
	m.conns[c] = true
	m.mu.Unlock()
	m.wg.Go(func() {
		_, _ = io.Copy(c, server) // ends with either connection
		_ = c.Close()
	})
	buf := make([]byte, 32<<10)
	for {
		n, err := c.Read(buf)
		m.mu.Lock()
		mute := m.mute
		m.mu.Unlock()
		if err == nil && !mute {
			_, err = server.Write(buf[:n])
		}
		if err != nil {
			_ = c.Close()
			_ = server.Close()
			m.mu.Lock()
			delete(m.conns, c)
			m.mu.Unlock()
			return
		}
	}
}

func (m *muteProxy) fallSilent() {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.mute = true
}

// speak ends the silence and the connections that it befell.
func (m *muteProxy) speak() {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.mute = false
	for c := range m.conns {
		_ = c.Close() // serve ends the rest
	}
}

// probes asks a running walferry's admin listener.
type probes struct {
	t    *testing.T
	addr string
	run  *process
}

func (p *probes) get(path string) (int, []byte) {
	p.t.Helper()
	res, err := http.Get("http://" + p.addr + path)
	if err != nil {
		p.t.Fatalf("%v\n%s", err, p.run.errs)
	}
	body, err := io.ReadAll(res.Body)
	if cerr := res.Body.Close(); err != nil || cerr != nil {
		p.t.Fatal(err, cerr)
	}
	return res.StatusCode, body
}

// ready asks for readiness; last is when a checkpoint was last committed.
func (p *probes) ready() (r admin.Readiness, last time.Time) {
	p.t.Helper()
	code, body := p.get("/readyz")
	if err := json.Unmarshal(body, &r); err != nil {
		p.t.Fatalf("%v: %s", err, body)
	}
	if (code == http.StatusOK) != r.OK || code != http.StatusOK && code != http.StatusServiceUnavailable {
		p.t.Errorf("%d %s", code, body)
	}
	if s, ok := r.Details["last_checkpoint"].(string); ok {
		var err error
		if last, err = time.Parse(time.RFC3339Nano, s); err != nil {
			p.t.Error(err)
		}
	}
	return r, last
}

func (p *probes) status() (s admin.Status) {
	p.t.Helper()
	_, body := p.get("/status")
	if err := json.Unmarshal(body, &s); err != nil {
		p.t.Fatalf("%v: %s", err, body)
	}
	return s
}

// metrics reads /metrics with Prometheus' own parser.
func (p *probes) metrics() map[string]*dto.MetricFamily {
	p.t.Helper()
	_, body := p.get("/metrics")
	parser := expfmt.NewTextParser(model.UTF8Validation)
	families, err := parser.TextToMetricFamilies(strings.NewReader(string(body)))
	if err != nil {
		p.t.Fatalf("%v:\n%s", err, body)
	}
	return families
}

// untilReady waits for readiness; no server hangs.
func (p *probes) untilReady() {
	p.t.Helper()
	for end := time.Now().Add(90 * time.Second); ; time.Sleep(20 * time.Millisecond) {
		r, _ := p.ready()
		if r.OK {
			return
		}
		select {
		case code := <-p.run.ended:
			p.t.Fatalf("ended with %d:\n%s", code, p.run.errs)
		default:
		}
		if time.Now().After(end) {
			p.t.Fatalf("not ready: %+v\n%s", r, p.run.errs)
		}
	}
}

// untilStuck waits until readiness is gone, which two and a half heartbeat intervals after the fault, or after what was on its
// way then, it must be; and then for the step that is stuck.
func (p *probes) untilStuck(fault time.Time, heartbeat time.Duration, steps ...string) {
	p.t.Helper()
	for {
		asked := time.Now()
		r, last := p.ready()
		if !r.OK {
			break
		}
		if last.After(fault.Add(heartbeat)) {
			p.t.Fatalf("a checkpoint was committed %v after the fault", last.Sub(fault))
		}
		if last.Before(fault) {
			last = fault
		}
		if late := asked.Sub(last); late > heartbeat*5/2 {
			p.t.Fatalf("ready %v after the last delivery: %+v", late, r)
		}
		time.Sleep(10 * time.Millisecond)
	}
	for end := time.Now().Add(60 * time.Second); ; time.Sleep(10 * time.Millisecond) {
		r, _ := p.ready()
		if slices.Contains(steps, r.Step) {
			p.t.Logf("not ready after %v: %s", time.Since(fault).Round(time.Millisecond), r.Step)
			return
		}
		if time.Now().After(end) {
			p.t.Fatalf("stuck in %q, want one of %q", r.Step, steps)
		}
	}
}

// TestReadiness: ready means delivering. It is true on an idle database, false soon after a broker, a walsender or a registry
// falls silent, and true again without a restart; the body names the step that is stuck. And what is told meanwhile, on
// /status and /metrics, is what happened.
func TestReadiness(t *testing.T) {
	pg := testbed.Postgres(t, "")
	broker := testbed.KafkaAlone(t)
	pg.Exec(testbed.Owner, "CREATE TABLE public.orders (id int PRIMARY KEY, note text)", "CREATE TABLE public.hidden (id int PRIMARY KEY)")
	pg.Exec(testbed.Superuser, "CREATE PUBLICATION walferry_ready FOR ALL TABLES WITH (publish_via_partition_root = true)")
	const heartbeat = 2 * time.Second
	settings := `
name: ready
source:
  dsn: %q
  all_tables: true
  exclude: [public.hidden]
  publication: {create: false}
  heartbeat: 2s
  stall_limit: 5s
kafka:
  brokers: [%q]
  request_timeout: 2s
  batch_bytes: 64KiB
  topic: {partitions: 1, replication_factor: 1}
registry: %s
backfill: none
admin: {listen: %q}
`
	dir := t.TempDir()
	registryAddr := freeAddr(t)
	r := &bench{t: t, file: filepath.Join(dir, "registry.yml")}
	r.configure(settings, pg.DSN(testbed.Reader), broker.Addr, fmt.Sprintf("{listen: %q}", registryAddr), "")
	r.start("registry", "serve")
	awaitHTTP(t, "http://"+registryAddr+"/subjects")
	proxy := newMuteProxy(t, registryAddr)

	b := &bench{t: t, file: filepath.Join(dir, "run.yml")}
	p := &probes{t: t, addr: freeAddr(t)}
	b.configure(settings, pg.DSN(testbed.Reader), broker.Addr, fmt.Sprintf("{url: %q, timeout: 2s}", "http://"+proxy.listener.Addr().String()), p.addr)
	p.run = b.start("run")
	b.until(p.run, "status", "--readyz")

	// Idle: ready for three intervals on end, and never unready without a reason.
	for since, end := time.Now(), time.Now().Add(90*time.Second); time.Since(since) < 3*heartbeat; time.Sleep(20 * time.Millisecond) {
		asked := time.Now()
		if r, last := p.ready(); !r.OK {
			if asked.Sub(last) < 2*heartbeat-100*time.Millisecond {
				t.Fatalf("not ready %v after a checkpoint: %+v", asked.Sub(last), r)
			}
			since = time.Now()
		}
		if time.Now().After(end) {
			t.Fatalf("not ready for %v on an idle database\n%s", 3*heartbeat, p.run.errs)
		}
	}
	told(t, b, p, pg, broker)

	fault := time.Now()
	if err := broker.Pause(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := broker.Resume(); err != nil {
			t.Error(err)
		}
	})
	p.untilStuck(fault, heartbeat, "publish to Kafka")
	p.untilStuck(fault, heartbeat, "wait for Kafka") // the slot is given back
	if s := p.status(); s.State != "stalled" || s.Active || s.Error == "" || s.Source.LagSeconds < 4 {
		t.Errorf("%+v", s)
	}
	if err := broker.Resume(); err != nil {
		t.Fatal(err)
	}
	p.untilReady()

	admin := pg.Connect(testbed.Superuser)
	holder := func() (pid int) {
		if err := admin.QueryRow(t.Context(), "SELECT coalesce(active_pid, 0) FROM pg_replication_slots WHERE slot_name = 'walferry_ready'").Scan(&pid); err != nil {
			t.Fatal(err)
		}
		return pid
	}
	pid := holder()
	fault = time.Now()
	if err := syscall.Kill(pid, syscall.SIGSTOP); err != nil {
		t.Fatal(err)
	}
	p.untilStuck(fault, heartbeat, "receive from Postgres")
	if s := p.status(); s.State != "stalled" || !s.Active || s.Source.LagSeconds < 4 {
		t.Errorf("%+v", s)
	}
	if err := syscall.Kill(pid, syscall.SIGCONT); err != nil {
		t.Fatal(err)
	}
	p.untilReady()

	// A registry is asked for a new schema only.
	proxy.fallSilent()
	p.untilReady()
	fault = time.Now()
	pg.Exec(testbed.Owner, "CREATE TABLE public.items (id int PRIMARY KEY, note text)", "INSERT INTO items VALUES (1, 'kept')")
	p.untilStuck(fault, heartbeat, "wait for the schema registry")
	// The slot is given back after stall_limit, and nobody takes it before the registry has answered.
	for end := time.Now().Add(60 * time.Second); holder() != 0; time.Sleep(20 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("the slot is held while the registry is silent\n%s", p.run.errs)
		}
	}
	before := p.status().Totals
	for range 300 {
		if pid := holder(); pid != 0 {
			t.Fatalf("process %d has the slot while the registry is silent\n%s", pid, p.run.errs)
		}
		time.Sleep(10 * time.Millisecond)
	}
	if s := p.status(); s.State != "stalled" || s.Step != "wait for the schema registry" || s.Totals.Sessions != before.Sessions || s.Totals.Reconnects["registry"] != 1 {
		t.Errorf("%+v", s)
	}
	proxy.speak()
	p.untilReady()
	b.has(b.walferry(exitOK, "", "tail", "public.items", "--from", "beginning", "-n", "1"), `note="kept"`)
	if code := b.stop(p.run); code != exitOK {
		t.Errorf("run ended with %d:\n%s", code, p.run.errs)
	}
}

// told compares /status and /metrics with what was done.
func told(t *testing.T, b *bench, p *probes, pg *testbed.PG, broker *testbed.Broker) {
	t.Helper()
	pg.Exec(testbed.Owner,
		"INSERT INTO orders SELECT g, 'x' FROM generate_series(1, 30) g",
		"UPDATE orders SET note = 'y' WHERE id <= 7",
		"UPDATE orders SET id = 100 WHERE id = 30", // delete, tombstone, create
		"DELETE FROM orders WHERE id > 25 AND id < 30",
		"BEGIN; INSERT INTO orders VALUES (1000, 'rolled back'); ROLLBACK",
		"INSERT INTO hidden VALUES (1), (2)",
		"TRUNCATE hidden",
		"INSERT INTO orders SELECT g, repeat('x', 400) FROM generate_series(2001, 2500) g", // over batch_bytes
		"TRUNCATE orders",
	)
	const transactions, records = 8, 30 + 7 + 3 + 4*2 + 500 + 1
	changes := map[string]float64{"insert": 530, "update": 8, "delete": 4, "truncate": 1}
	c := pg.Connect(testbed.Superuser)
	var target string
	if err := c.QueryRow(t.Context(), "SELECT pg_current_wal_insert_lsn()::text").Scan(&target); err != nil {
		t.Fatal(err)
	}
	all := slotAt(t, c, "walferry_ready", target)

	// One walsender is ended, so that there is a session to count.
	var ended bool
	if err := c.QueryRow(t.Context(), "SELECT pg_terminate_backend(active_pid) FROM pg_replication_slots WHERE slot_name = 'walferry_ready'").Scan(&ended); err != nil || !ended {
		t.Fatal(ended, err)
	}
	for end := time.Now().Add(60 * time.Second); ; time.Sleep(20 * time.Millisecond) {
		// Delivering again, and nothing under way.
		if s := p.status(); s.Totals.Sessions == 2 && s.State == "streaming" && s.Error == "" && s.Kafka.InFlightRecords == 0 {
			break
		}
		if time.Now().After(end) {
			t.Fatalf("no second session\n%s", p.run.errs)
		}
	}

	before := retained(t, c)
	f := p.metrics()
	s := p.status()
	after := retained(t, c)
	number := func(name, label string) float64 {
		family := f["walferry_"+name]
		if family == nil {
			t.Errorf("no walferry_%s", name)
			return -1
		}
		for _, m := range family.Metric {
			if label != "" && (len(m.Label) != 1 || m.Label[0].GetValue() != label) {
				continue
			}
			switch {
			case m.Counter != nil:
				return m.Counter.GetValue()
			case m.Gauge != nil:
				return m.Gauge.GetValue()
			}
		}
		t.Errorf("no walferry_%s of %q", name, label)
		return -1
	}
	is := func(name, label string, want float64) {
		if got := number(name, label); got != want {
			t.Errorf("walferry_%s %s: %v, want %v", name, label, got, want)
		}
	}
	between := func(name, label string, low, high float64) {
		if got := number(name, label); got < low || got > high {
			t.Errorf("walferry_%s %s: %v, want %v to %v", name, label, got, low, high)
		}
	}
	for op, n := range changes {
		is("changes_total", op, n)
	}
	is("records_total", "", records)
	is("records_total", "", float64(len(readAll(t, broker.Addr, "ready.public.orders"))))
	beats := number("heartbeats_total", "")
	// Of a heartbeat on its way either half may be known first, and the first session may have ended before it knew.
	between("transactions_total", "", transactions+beats-1, transactions+beats+1)
	is("split_transactions_total", "", 1)
	is("skipped_total", "not_captured", 3)
	is("skipped_total", "truncate", 0)
	is("sessions_total", "", 2)
	is("reconnects_total", "source", 1)
	is("reconnects_total", "kafka", 0)
	is("errors_total", "retry", 1)
	is("errors_total", "fatal", 0)
	is("aborts_total", "", 0)
	is("uncertain_commits_total", "", 0)
	is("active", "", 1)
	is("ready", "", 1)
	is("state", "streaming", 1)
	is("state", "standby", 0)
	is("in_flight_records", "", 0)
	between("record_bytes_total", "", 500*400, 500*400*2)
	between("received_bytes_total", "", 500*400, 500*400*4) // sent again to the second session, at most
	between("buffer_bytes", "", 1, 8<<20)
	between("lag_seconds", "", 0, 4)
	between("retained_wal_bytes", "", min(before, after)-1<<16, max(before, after)+1<<16)
	now := float64(time.Now().UnixMicro()) / 1e6
	between("last_checkpoint_timestamp_seconds", "", now-6, now)
	between("last_heartbeat_timestamp_seconds", "", now-10, now)
	if lag := number("server_end_position_bytes", "") - number("confirmed_position_bytes", ""); lag != number("lag_bytes", "") || lag < 0 {
		t.Errorf("lag_bytes %v, between the positions are %v", number("lag_bytes", ""), lag)
	}
	batches := uint64(number("batches_total", ""))
	// Where a batch ends no transaction, as the one that saves that a table's copy is done, there is no commit to count from.
	if n := f["walferry_latency_seconds"].GetMetric()[0].GetHistogram().GetSampleCount(); n == 0 || n > batches {
		t.Errorf("latency_seconds: %d samples of %d", n, batches)
	}
	for name, sum := range map[string]float64{
		"batch_records": records, "batch_bytes": number("record_bytes_total", ""), "publish_seconds": -1,
	} {
		h := f["walferry_"+name].GetMetric()[0].GetHistogram()
		if h.GetSampleCount() != batches || sum >= 0 && h.GetSampleSum() != sum || h.GetSampleSum() < 0 {
			t.Errorf("%s: %d samples of %d, sum %v, want %v", name, h.GetSampleCount(), batches, h.GetSampleSum(), sum)
		}
	}

	// The same and more as JSON.
	var system, confirmed string
	var timeline int32
	if err := c.QueryRow(t.Context(), `SELECT system_identifier::text, timeline_id, confirmed_flush_lsn::text
		FROM pg_control_system(), pg_control_checkpoint(), pg_replication_slots WHERE slot_name = 'walferry_ready'`).Scan(&system, &timeline, &confirmed); err != nil {
		t.Fatal(err)
	}
	if s.Source.SystemID != system || s.Source.Timeline != timeline || s.Source.Slot != "walferry_ready" || s.Source.WALStatus != "reserved" {
		t.Errorf("server %s, timeline %d, but %+v", system, timeline, s.Source)
	}
	if at, now := lsn(t, s.Source.Confirmed), lsn(t, confirmed); at > now || at < lsn(t, all) {
		t.Errorf("confirmed %s, the slot is at %s and was at %s", at, now, all)
	}
	if w := s.Kafka.Witness; w == nil || w.Commit != s.Source.Confirmed || w.XID == 0 || time.Since(w.CommitTime) > time.Minute || lsn(t, w.End) <= lsn(t, w.Commit) {
		t.Errorf("witness %+v", w)
	}
	if at := lsn(t, strings.Split(s.Kafka.Position, ",")[0]); at == 0 || at > lsn(t, all) {
		t.Errorf("position %s, everything was written by %s", s.Kafka.Position, all)
	}
	const changed = 530 + 8 + 4 + 1
	if r := s.Kafka.ChangesPerSecond; r < changed/60. || r > changed {
		t.Errorf("%v changes/s over the last minute, of %d", r, changed)
	}
	if s.Totals.Records != records || s.Totals.Changes["insert"] != 530 || s.Totals.Sessions != 2 || s.State != "streaming" {
		t.Errorf("%+v", s)
	}
	b.has(b.walferry(exitOK, "", "status"), "streaming, ready", "2 sessions", "system "+system, "543 changes in ", "delete 4, insert 530, truncate 1, update 8", "not_captured 3", "retry 1")
}

func lsn(t *testing.T, s string) pglogrepl.LSN {
	t.Helper()
	l, err := pglogrepl.ParseLSN(s)
	if err != nil {
		t.Error(err)
	}
	return l
}

// slotAt waits until a slot is confirmed up to a position, and returns the position of then.
func slotAt(t *testing.T, c *pgx.Conn, slot, target string) string {
	t.Helper()
	for end := time.Now().Add(60 * time.Second); ; time.Sleep(20 * time.Millisecond) {
		var at string
		if err := c.QueryRow(t.Context(), "SELECT confirmed_flush_lsn::text FROM pg_replication_slots WHERE slot_name = $1", slot).Scan(&at); err != nil {
			t.Fatal(err)
		}
		if lsn(t, at) >= lsn(t, target) {
			return at
		}
		if time.Now().After(end) {
			t.Fatalf("the slot is at %s and does not come to %s", at, target)
		}
	}
}

func retained(t *testing.T, c *pgx.Conn) (n float64) {
	t.Helper()
	if err := c.QueryRow(t.Context(), "SELECT pg_wal_lsn_diff(pg_current_wal_insert_lsn(), restart_lsn)::float8 FROM pg_replication_slots WHERE slot_name = 'walferry_ready'").Scan(&n); err != nil {
		t.Fatal(err)
	}
	return n
}
