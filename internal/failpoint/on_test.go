//go:build failpoints

package failpoint

import (
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"testing"
	"time"
)

func TestParse(t *testing.T) {
	for _, tc := range []struct {
		in      string
		wantErr bool
	}{
		{"", false},
		{"a=kill", false},
		{"a=kill, b=sleep:5ms,c=count:3:exit:4", false},
		{"a", true},
		{"=kill", true},
		{"a=explode", true},
		{"a=kill:1", true},
		{"a=sleep:soon", true},
		{"a=count:0:kill", true},
		{"a=count:2:", true},
		{"a=exit:x", true},
	} {
		if _, err := parse(tc.in); (err != nil) != tc.wantErr {
			t.Errorf("parse(%q): error %v, want error %v", tc.in, err, tc.wantErr)
		}
	}
}

func TestCount(t *testing.T) {
	p, err := parseAction("count:3:sleep:1ms")
	if err != nil {
		t.Fatal(err)
	}
	var due []bool
	for range 5 {
		due = append(due, p.due())
	}
	for i, d := range due {
		if d != (i == 2) {
			t.Errorf("hit %d: due %v", i+1, d)
		}
	}
}

// TestKill starts this test binary again, which kills itself at the second Hit.
func TestKill(t *testing.T) {
	if os.Getenv("FAILPOINT_CHILD") != "" {
		Hit("other")
		Hit("here")
		if _, err := os.Stdout.WriteString("once"); err != nil {
			t.Fatal(err)
		}
		Hit("here")
		t.Fatal("still alive after the second hit")
	}
	cmd := exec.Command(os.Args[0], "-test.run=^TestKill$")
	cmd.Env = append(os.Environ(), "FAILPOINT_CHILD=1", Variable+"=here=count:2:kill")
	begin := time.Now()
	out, err := cmd.Output()
	ee, ok := err.(*exec.ExitError)
	if !ok {
		t.Fatalf("child ended with %v after %v, want a signal; output %q", err, time.Since(begin), out)
	}
	if st := ee.Sys().(syscall.WaitStatus); !st.Signaled() || st.Signal() != syscall.SIGKILL {
		t.Fatalf("child ended with %v, want SIGKILL", st)
	}
	if string(out) != "once" {
		t.Fatalf("child wrote %q before it died, want %q", out, "once")
	}
}

// TestTrace starts this test binary again, which kills itself at the second Hit of a place, and reads how far it came.
func TestTrace(t *testing.T) {
	if os.Getenv("FAILPOINT_CHILD") != "" {
		for range 3 {
			Hit("first")
			Hit("pipeline/second")
			Hit("third")
			Add("rows", 500)
		}
		t.Fatal("still alive")
	}
	trace, err := NewTrace(filepath.Join(t.TempDir(), "trace"))
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := trace.Close(); err != nil {
			t.Error(err)
		}
	}()
	at := func(name string) Place {
		p, err := trace.At(name)
		if err != nil {
			t.Fatal(err)
		}
		return p
	}
	if last, err := trace.Last(); err != nil || last != "" || at("first") != (Place{}) {
		t.Fatalf("an empty trace has %q, %v", last, err)
	}
	cmd := exec.Command(os.Args[0], "-test.run=^TestTrace$")
	cmd.Env = append(os.Environ(), "FAILPOINT_CHILD=1", Variable+"=pipeline/second=count:2:kill", TraceVariable+"="+trace.Path())
	if out, err := cmd.CombinedOutput(); err == nil || len(out) > 0 {
		t.Fatalf("child ended with %v, want a signal; output %q", err, out)
	}
	for name, want := range map[string]Place{"first": {2, 5}, "pipeline/second": {2, 6}, "third": {1, 3}, "rows": {500, 4}, "fourth": {}} {
		if got := at(name); got != want {
			t.Errorf("%s: %+v, want %+v", name, got, want)
		}
	}
	if last, err := trace.Last(); err != nil || last != "pipeline/second" {
		t.Errorf("last place: %q, %v", last, err)
	}
	if err := os.WriteFile(trace.Path(), append(traced("a", 1, 1), traced("b", 1, 1)[:traceLine-2]...), 0o600); err != nil {
		t.Fatal(err)
	}
	damaged, err := os.Open(trace.Path())
	if err != nil {
		t.Fatal(err)
	}
	if _, err := (&Trace{file: damaged, lines: map[string]int64{"b": traceLine}}).At("b"); err == nil {
		t.Error("half a line was read")
	}
	if err := damaged.Close(); err != nil {
		t.Error(err)
	}
}
