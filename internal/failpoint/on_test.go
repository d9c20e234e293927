//go:build failpoints

package failpoint

import (
	"os"
	"os/exec"
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
