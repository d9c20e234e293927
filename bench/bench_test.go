package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"hash/maphash"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"

	"walferry/internal/testbed"
)

func TestMain(m *testing.M) { os.Exit(testbed.Main(m)) }

// TestBench runs the whole of it once, small: figures of so few changes mean nothing, but every change has to be counted once.
func TestBench(t *testing.T) {
	binary := filepath.Join(t.TempDir(), "walferry")
	build := exec.CommandContext(t.Context(), "go", "build", "-o", binary, "./cmd/walferry")
	build.Dir = testbed.Root(t)
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("go build: %v\n%s", err, out)
	}
	var out bytes.Buffer
	o := options{
		changes: 2000, rounds: 1, binary: binary, transport: "unix", timeout: 2 * time.Minute,
		parts: []string{"stream", "copy", "latency"}, rows: 100_000, workers: []int{2}, rate: 500, quiet: 3 * time.Second,
	}
	err := run(t.Context(), o, &out, t.Output())
	if errors.Is(err, errFake) {
		t.Skip(err)
	}
	if err != nil {
		t.Fatal(err)
	}
	lines := strings.Split(strings.TrimSpace(out.String()), "\n")
	var r report
	if err := json.Unmarshal([]byte(lines[len(lines)-1]), &r); err != nil {
		t.Fatalf("%v in %s", err, out.String())
	}
	if r.Stream == nil || r.Copy == nil || len(r.Latency) != 2 {
		t.Fatalf("parts are missing: %s", lines[len(lines)-1])
	}
	for name, f := range map[string]figures{
		"walferry": r.Stream.Walferry, "pg_recvlogical": r.Stream.Yardstick, "copy": r.Copy.Walferry[2].figures, "COPY": r.Copy.Yardstick.figures,
	} {
		if f.Rate <= 0 || f.CPU <= 0 {
			t.Errorf("%s: %+v", name, f)
		}
	}
	if s := r.Stream; s.Walferry.Peak < 5 || s.Walferry.Peak > 1000 || s.Ratio != s.Walferry.Rate/s.Yardstick.Rate {
		t.Errorf("%+v", s)
	}
	if c := r.Copy; c.Walferry[2].Server <= 0 || c.Ratio[2] != c.Walferry[2].Rate/c.Yardstick.Rate {
		t.Errorf("%+v", c)
	}
}

func TestBadOptions(t *testing.T) {
	for _, change := range []func(*options){
		func(o *options) { o.changes = 15 }, func(o *options) { o.rounds = 0 }, func(o *options) { o.transport = "udp" },
		func(o *options) { o.binary = filepath.Join(t.TempDir(), "none") }, func(o *options) { o.parts = []string{"other"} },
		func(o *options) { o.workers = []int{1, 0} }, func(o *options) { o.rows = 0 }, func(o *options) { o.rate = 0 },
	} {
		o := options{changes: 10, rounds: 1, transport: "tcp", binary: os.Args[0], rows: 1, rate: 1, workers: []int{1}}
		if err := o.validate(); err != nil {
			t.Fatal(err)
		}
		change(&o)
		if err := run(t.Context(), o, io.Discard, io.Discard); err == nil {
			t.Errorf("%+v was taken", o)
		}
	}
}

// TestTally plants each fault that a run has to fail for.
func TestTally(t *testing.T) {
	record := func(id string, value []byte) *kgo.Record {
		return &kgo.Record{Value: value, Headers: []kgo.RecordHeader{{Key: "other"}, {Key: "id", Value: []byte(id)}}}
	}
	one, two, gone, tombstone := record("7/0/1/0/1/1/0", []byte("v")), record("7/0/1/0/2/1/0", []byte("v")), record("7/0/1/0/3/1/0", []byte("v")), record("7/0/1/0/3/1/1", nil)
	for _, c := range []struct {
		name    string
		records []*kgo.Record
		bad     bool
	}{
		{"every one once", []*kgo.Record{one, two, gone, tombstone}, false},
		{"in another order", []*kgo.Record{tombstone, two, one, gone}, false},
		{"one missing", []*kgo.Record{one, gone, tombstone}, true},
		{"a tombstone missing", []*kgo.Record{one, two, gone}, true},
		{"one twice", []*kgo.Record{one, two, gone, tombstone, two}, true},
		{"one twice in place of another", []*kgo.Record{one, one, gone, tombstone}, true},
		{"a tombstone in place of an event", []*kgo.Record{one, two, tombstone, tombstone}, true},
	} {
		sum := tally{seed: maphash.MakeSeed()}
		for _, r := range c.records {
			if err := sum.add(r); err != nil {
				t.Fatal(err)
			}
		}
		if err := sum.check(3, 1); (err != nil) != c.bad {
			t.Errorf("%s: %v", c.name, err)
		}
	}
	sum := tally{seed: maphash.MakeSeed()}
	for _, r := range []*kgo.Record{{Value: []byte("v")}, record("7/0/1/0/1/1/2", []byte("v")), record("7/0/1/0/1/1/0", nil), record("7/0/1/0/1/1/1", []byte("v"))} {
		if err := sum.add(r); err == nil {
			t.Errorf("%+v was counted", r)
		}
	}
}

func TestMedian(t *testing.T) {
	got := median([]figures{{3, 10, 5}, {1, 30, 6}, {2, 20, 4}})
	if got != (figures{2, 20, 5}) {
		t.Errorf("%+v", got)
	}
}
