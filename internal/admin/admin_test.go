package admin

import (
	"context"
	"encoding/json"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"reflect"
	"regexp"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"
)

func config(ready *atomic.Bool) Config {
	status := func() Status {
		s := Status{
			Pipeline: "shop", State: "streaming", States: []string{"streaming", "standby"},
			CopyStates: []string{"copying", "done"}, Copies: []CopyStatus{{Table: "a.b", State: "done"}, {Table: "a.c", State: "done"}},
			Source: SourceStatus{Slot: "walferry_shop", LagSeconds: 2},
			Kafka:  KafkaStatus{LastCheckpoint: new(time.Time)},
			Totals: Totals{
				Changes: map[string]int64{"insert": 3, "delete": 0}, Transactions: 1, Errors: map[string]int64{"restart": 1},
				Reconnects: map[string]int64{"kafka": 1}, Skipped: map[string]int64{"truncate": 2},
			},
		}
		*s.Kafka.LastCheckpoint = time.UnixMilli(1700000000500).UTC()
		s.Source.SetPositions(0x116B3748, 0x116B3740)
		return s
	}
	return Config{
		Metrics: NewMetrics("v1", "shop", status),
		Status:  status,
		Ready: func() Readiness {
			return Readiness{OK: ready.Load(), Step: "publish to Kafka", Details: map[string]any{"last_checkpoint": "never"}}
		},
	}
}

func get(t *testing.T, h http.Handler, method, path string) (int, string) {
	t.Helper()
	w := httptest.NewRecorder()
	h.ServeHTTP(w, httptest.NewRequest(method, path, nil))
	return w.Code, w.Body.String()
}

func TestReadyFollowsThePipeline(t *testing.T) {
	var ready atomic.Bool
	h := Handler(config(&ready))
	code, body := get(t, h, "GET", "/readyz")
	var r Readiness
	if err := json.Unmarshal([]byte(body), &r); err != nil {
		t.Fatal(err)
	}
	if code != 503 || r.OK || r.Step != "publish to Kafka" || r.Details["last_checkpoint"] != "never" {
		t.Errorf("not ready: %d %s", code, body)
	}
	ready.Store(true)
	if code, body := get(t, h, "GET", "/readyz"); code != 200 || !strings.Contains(body, `"ready": true`) {
		t.Errorf("ready: %d %s", code, body)
	}
	if code, _ := get(t, h, "GET", "/healthz"); code != 200 {
		t.Errorf("healthz: %d", code)
	}
}

func TestStatusRoundTrip(t *testing.T) {
	c := config(new(atomic.Bool))
	code, body := get(t, Handler(c), "GET", "/status")
	var s Status
	if err := json.Unmarshal([]byte(body), &s); err != nil {
		t.Fatal(err)
	}
	want := c.Status()
	want.States, want.CopyStates, want.Source.serverEnd, want.Source.confirmed = nil, nil, 0, 0 // of metrics only
	if code != 200 || !reflect.DeepEqual(s, want) || s.Source.LagBytes != 8 || s.Source.Confirmed != "0/116B3740" {
		t.Errorf("%d %s", code, body)
	}
}

func TestOnlyReads(t *testing.T) {
	c := config(new(atomic.Bool))
	for _, path := range []string{"/healthz", "/readyz", "/status", "/metrics"} {
		if code, _ := get(t, Handler(c), "POST", path); code != 405 {
			t.Errorf("POST %s: %d", path, code)
		}
	}
	if code, _ := get(t, Handler(c), "GET", "/debug/pprof/"); code != 404 {
		t.Errorf("pprof is served without being configured: %d", code)
	}
	if code, _ := get(t, Handler(c), "GET", "/nothing"); code != 404 {
		t.Errorf("unknown path: %d", code)
	}
	c.Pprof = true
	if code, _ := get(t, Handler(c), "GET", "/debug/pprof/"); code != 200 {
		t.Errorf("pprof: %d", code)
	}
}

func TestMetrics(t *testing.T) {
	c := config(new(atomic.Bool))
	m := c.Metrics
	m.Committed(5, 1000, 3*time.Millisecond)
	m.Latency(-time.Second)
	_, body := get(t, Handler(c), "GET", "/metrics")
	for _, line := range []string{
		`walferry_changes_total{op="insert"} 3`,
		`walferry_changes_total{op="delete"} 0`,
		`walferry_transactions_total 1`,
		`walferry_errors_total{class="restart"} 1`,
		`walferry_publish_seconds_bucket{le="0.002"} 0`,
		`walferry_publish_seconds_bucket{le="0.004"} 1`,
		`walferry_latency_seconds_sum 0`,
		`walferry_lag_seconds 2`,
		`walferry_lag_bytes 8`,
		`walferry_confirmed_position_bytes 2.92239168e+08`,
		`walferry_skipped_total{reason="truncate"} 2`,
		`walferry_state{state="streaming"} 1`,
		`walferry_state{state="standby"} 0`,
		`walferry_batch_records_bucket{le="4"} 0`,
		`walferry_batch_records_bucket{le="16"} 1`,
		`walferry_batch_bytes_sum 1000`,
		`walferry_last_checkpoint_timestamp_seconds 1.7000000005e+09`,
		`walferry_reconnects_total{to="kafka"} 1`,
		`walferry_info{pipeline="shop",version="v1"} 1`,
	} {
		if !strings.Contains(body, line+"\n") {
			t.Errorf("no line %s", line)
		}
	}
	if t.Failed() {
		t.Log(body)
	}
	if n := testing.AllocsPerRun(100, func() { m.Committed(1, 1, time.Millisecond); m.Latency(time.Millisecond) }); n != 0 {
		t.Errorf("%v allocations to count", n)
	}
}

// TestMetricsAreDocumented keeps the table in docs/operating.md complete, and free of what is not there any more.
func TestMetricsAreDocumented(t *testing.T) {
	families, err := config(new(atomic.Bool)).Metrics.registry.Gather()
	if err != nil {
		t.Fatal(err)
	}
	var have, documented []string
	for _, f := range families {
		if name := f.GetName(); strings.HasPrefix(name, "walferry_") {
			have = append(have, name)
		}
	}
	for _, m := range regexp.MustCompile("(?m)^\\| `(walferry_[a-z_]+)` \\|").FindAllStringSubmatch(read(t, "../../docs/operating.md"), -1) {
		documented = append(documented, m[1])
	}
	slices.Sort(have)
	slices.Sort(documented)
	if !slices.Equal(have, documented) {
		t.Errorf("metrics\n%s\ndocumented\n%s", strings.Join(have, " "), strings.Join(documented, " "))
	}
}

func TestServeEndsWithItsContext(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	s, err := Listen(ctx, "127.0.0.1:0", config(new(atomic.Bool)))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := Listen(ctx, s.Addr().String(), Config{Metrics: NewMetrics("", "", nil)}); err == nil || !strings.Contains(err.Error(), "admin.listen") {
		t.Errorf("a busy port: %v", err)
	}
	done := make(chan error, 1)
	go func() { done <- s.Serve(ctx) }()
	res, err := http.Get("http://" + s.Addr().String() + "/healthz")
	if err != nil {
		t.Fatal(err)
	}
	b, err := io.ReadAll(res.Body)
	if err != nil || res.Body.Close() != nil || !strings.Contains(string(b), "true") {
		t.Errorf("%s %v", b, err)
	}
	cancel()
	if err := <-done; err != nil {
		t.Error(err)
	}
}

func read(t *testing.T, file string) string {
	t.Helper()
	b, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}
