package demo

import (
	"context"
	"encoding/json"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"
)

// build makes the walferry that is killed.
func build(t *testing.T) string {
	t.Helper()
	file := filepath.Join(t.TempDir(), "walferry")
	if out, err := exec.CommandContext(t.Context(), "go", "build", "-o", file, "walferry/cmd/walferry").CombinedOutput(); err != nil {
		t.Fatalf("go build: %v\n%s", err, out)
	}
	return file
}

// TestDemo runs it small, as it is and with each planted fault: the account must turn red, and in the right line.
func TestDemo(t *testing.T) {
	file := build(t)
	for _, c := range []struct {
		fault string
		wrong func(*Account) int // the line that turns red
	}{
		{"", nil},
		{BreakDrop, func(a *Account) int { return a.Missing }},
		{BreakRepeat, func(a *Account) int { return a.Repeated }},
		{BreakSwap, func(a *Account) int { return a.Disordered }},
	} {
		t.Run("break "+c.fault, func(t *testing.T) {
			t.Parallel()
			var out strings.Builder
			cfg := Config{Executable: file, Out: &out, Kills: 1, Changes: 900, Every: time.Second, Rate: 600, Limit: 2 * time.Minute, Break: c.fault}
			a, err := Run(t.Context(), cfg)
			if err != nil {
				t.Fatalf("%v\n%s", err, out.String())
			}
			sum := a.Missing + a.Repeated + a.Disordered
			switch {
			case a.Committed < cfg.Changes || a.Kills < cfg.Kills:
				t.Errorf("too little: %+v", *a)
			case c.wrong == nil && !a.OK():
				t.Errorf("%+v\n%s", *a, out.String())
			case c.wrong != nil && (a.OK() || c.wrong(a) != 1 || sum != 1):
				t.Errorf("%+v\n%s", *a, out.String())
			}
			for _, want := range []string{"416 rows that were there before are copied", "SIGKILL", "ALTER TABLE", "  read ", "Account"} {
				if !strings.Contains(out.String(), want) {
					t.Errorf("nothing of %s is shown\n%s", want, out.String())
				}
			}
			// One event a second is shown, whichever comes then.
			if !regexp.MustCompile("  (create|update|delete) ").MatchString(out.String()) {
				t.Errorf("no change is shown\n%s", out.String())
			}
		})
	}
}

func TestDemoRefusesAnUnknownFault(t *testing.T) {
	if _, err := Run(t.Context(), Config{Out: &strings.Builder{}, Break: "cable"}); err == nil {
		t.Error("accepted")
	}
}

// TestDemoInterrupted: it returns the reason, before or while it starts servers.
func TestDemoInterrupted(t *testing.T) {
	ctx, cancel := context.WithCancelCause(t.Context())
	why := errors.New("enough")
	cancel(why)
	if _, err := Run(ctx, Config{Executable: os.Args[0], Out: &strings.Builder{}, Limit: time.Minute}); err == nil {
		t.Error("it ran")
	}
}

func TestCompare(t *testing.T) {
	change := func(n int64) event { return event{table: "orders", key: "7", op: "u", change: n, xid: n} }
	gone := event{table: "orders", key: "7", op: "d", xid: 4}
	truth := &truth{changes: []event{change(1), change(2), change(3), gone}, rows: map[string]int64{}}
	for name, c := range map[string]struct {
		seen []event
		want Account
	}{
		"right":       {[]event{change(1), change(2), change(3), gone}, Account{}},
		"dropped":     {[]event{change(1), change(3), gone}, Account{Missing: 1}},
		"repeated":    {[]event{change(1), change(2), change(2), change(3), gone}, Account{Repeated: 1}},
		"swapped":     {[]event{change(1), change(3), change(2), gone}, Account{Disordered: 1}},
		"rolled back": {[]event{change(1), change(2), change(3), gone, change(9)}, Account{Repeated: 1}},
		"other key":   {[]event{change(1), {table: "orders", key: "8", op: "u", change: 2, xid: 2}, change(3), gone}, Account{Missing: 1, Repeated: 1}},
		"nothing":     {nil, Account{Missing: 4}},
	} {
		a := compare(truth, c.seen)
		c.want.Committed, c.want.Received = 4, len(c.seen)
		if *a != c.want {
			t.Errorf("%s: %+v, want %+v", name, *a, c.want)
		}
	}
	truth.rows["orders/9"] = 3 // a row that no event tells of
	if a := compare(truth, truth.changes); a.Missing != 1 {
		t.Errorf("a row too many: %+v", *a)
	}
}

// TestAccountLine: scripts read the last line.
func TestAccountLine(t *testing.T) {
	var out strings.Builder
	if err := (&Account{Committed: 5, Received: 4, Missing: 1, Kills: 2, Seconds: 1.5, rows: 3}).Print(&out); err != nil {
		t.Fatal(err)
	}
	const want = `{"committed":5,"received":4,"missing":1,"repeated":0,"disordered":0,"kills":2,"seconds":1.5}` + "\n"
	if out.String() != want || !json.Valid([]byte(out.String())) {
		t.Errorf("%s", out.String())
	}
}
