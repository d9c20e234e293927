package admin

import (
	"context"
	"encoding/json"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"strings"
	"sync/atomic"
	"testing"
	"time"
)

func config(ready *atomic.Bool) Config {
	m := NewMetrics("v1", "shop")
	return Config{
		Metrics: m,
		Ready: func() Readiness {
			return Readiness{OK: ready.Load(), Step: "publish to Kafka", Details: map[string]any{"last_checkpoint": "never"}}
		},
		Status: func() Status {
			return Status{Pipeline: "shop", State: "streaming", Source: SourceStatus{Slot: "walferry_shop", Confirmed: "0/16B3748", LagBytes: 12}}
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
	if code != 200 || s != c.Status() {
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
	m.Changes("insert", 3)
	m.Transactions.Inc()
	m.Error("restart")
	m.Published(3 * time.Millisecond)
	m.Latency(-time.Second)
	m.Lag(-time.Second)
	m.Saved(time.Unix(1700000000, 500e6))
	m.Reconnects.WithLabelValues("kafka").Inc()
	_, body := get(t, Handler(c), "GET", "/metrics")
	for _, line := range []string{
		`walferry_changes_total{op="insert"} 3`,
		`walferry_changes_total{op="delete"} 0`,
		`walferry_transactions_total 1`,
		`walferry_errors_total{class="restart"} 1`,
		`walferry_publish_seconds_bucket{le="0.002"} 0`,
		`walferry_publish_seconds_bucket{le="0.004"} 1`,
		`walferry_latency_seconds_sum 0`,
		`walferry_lag_seconds 0`,
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
	if n := testing.AllocsPerRun(100, func() { m.Changes("insert", 1); m.Error("retry"); m.Published(time.Millisecond) }); n != 0 {
		t.Errorf("%v allocations to count", n)
	}
}

// TestMetricsAreDocumented keeps docs/operating.md complete.
func TestMetricsAreDocumented(t *testing.T) {
	doc := read(t, "../../docs/operating.md")
	families, err := NewMetrics("v", "p").registry.Gather()
	if err != nil {
		t.Fatal(err)
	}
	n := 0
	for _, f := range families {
		if name := f.GetName(); strings.HasPrefix(name, "walferry_") {
			n++
			if !strings.Contains(doc, "`"+name+"`") {
				t.Errorf("%s is not in docs/operating.md", name)
			}
		}
	}
	if n < 20 {
		t.Errorf("only %d metrics", n)
	}
}

func TestServeEndsWithItsContext(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	s, err := Listen(ctx, "127.0.0.1:0", config(new(atomic.Bool)))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := Listen(ctx, s.Addr().String(), Config{Metrics: NewMetrics("", "")}); err == nil || !strings.Contains(err.Error(), "admin.listen") {
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
