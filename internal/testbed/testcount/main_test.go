package main

import (
	"bytes"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// TestCount runs real modules through a real go test: each failure must be counted, and only once.
func TestCount(t *testing.T) {
	const head = "package p\nimport (\"fmt\"; \"os\"; \"testing\"; \"time\")\nvar _, _, _ = fmt.Sprint, os.Exit, time.Now\n"
	for name, c := range map[string]struct {
		src  string // of p_test.go
		want string // last line
		good bool
		says []string
	}{
		"pass": {"func TestA(t *testing.T) {}\nfunc TestB(t *testing.T) { t.Run(`x`, TestA); t.Run(`y`, TestA) }",
			"3 passed, 0 failed, 0 skipped", true, nil},
		"skip": {"func TestA(t *testing.T) {}\nfunc TestB(t *testing.T) { t.Skip(`no moon tonight`) }",
			"1 passed, 0 failed, 1 skipped", true, []string{"no moon tonight"}},
		"only skips": {"func TestA(t *testing.T) { t.Skip() }", "0 passed, 0 failed, 1 skipped", false, nil},
		"nothing":    {"var _ testing.TB", "0 passed, 0 failed, 0 skipped", false, nil},
		"fail":       {"func TestA(t *testing.T) { t.Error(`ouch`) }", "0 passed, 1 failed, 0 skipped", false, []string{"ouch"}},
		"subtest fails": {"func TestA(t *testing.T) { t.Run(`x`, func(t *testing.T) { t.Error(1) }); t.Run(`y`, func(t *testing.T) {}) }",
			"1 passed, 1 failed, 0 skipped", false, nil},
		"parent fails by itself": {"func TestA(t *testing.T) { t.Run(`x`, func(t *testing.T) {}); t.Error(1) }",
			"1 passed, 1 failed, 0 skipped", false, nil},
		"panic": {"func TestA(t *testing.T) {}\nfunc TestB(t *testing.T) { panic(`boom`) }",
			"1 passed, 1 failed, 0 skipped", false, []string{"boom"}},
		"time limit": {"func TestA(t *testing.T) { time.Sleep(time.Hour) }", "0 passed, 1 failed, 0 skipped", false, []string{"panic: test timed out"}},
		"exit":       {"func TestA(t *testing.T) { os.Exit(3) }", "0 passed, 1 failed, 0 skipped", false, nil},
		"TestMain":   {"func TestMain(m *testing.M) { os.Exit(3) }\nfunc TestA(t *testing.T) {}", "0 passed, 1 failed, 0 skipped", false, nil},
		"no build":   {"func TestA(t *testing.T) { undefined() }", "0 passed, 1 failed, 0 skipped", false, []string{"undefined: undefined"}},
		"extension": {"func TestA(t *testing.T) { fmt.Println(`" + missingLine + "postgis (apt-get)`) }",
			missingLine + "postgis (apt-get)\n1 passed, 0 failed, 0 skipped", true, nil},
		"kfake": {"func TestA(t *testing.T) { fmt.Println(`" + fakeLine + "`) }",
			fakeLine + "\n1 passed, 0 failed, 0 skipped", true, nil},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			dir := t.TempDir()
			for file, text := range map[string]string{"go.mod": "module p\ngo 1.26\n", "p_test.go": head + c.src} {
				if err := os.WriteFile(filepath.Join(dir, file), []byte(text), 0o644); err != nil {
					t.Fatal(err)
				}
			}
			var out bytes.Buffer
			k := counter{dir: dir, out: &out}
			k.run(t.Context(), []string{"go", "test", "-count=1", "-timeout=5s", "."})
			if good := k.close(); good != c.good {
				t.Errorf("good: %t, want %t", good, c.good)
			}
			if !strings.HasSuffix(out.String(), c.want+"\n") {
				t.Errorf("got\n%s\nwant at its end\n%s", &out, c.want)
			}
			for _, s := range c.says {
				if !strings.Contains(out.String(), s) {
					t.Errorf("%q is not in\n%s", s, &out)
				}
			}
		})
	}
}

func TestCountCommands(t *testing.T) {
	got := split([]string{"a", "b", "--", "c"})
	if len(got) != 2 || len(got[0]) != 2 || got[1][0] != "c" {
		t.Fatalf("split: %q", got)
	}
	var out bytes.Buffer
	k := counter{out: &out}
	k.run(t.Context(), []string{filepath.Join(t.TempDir(), "no-such-go"), "test"})
	k.run(t.Context(), []string{"go", "test", "-nonsense"})
	if k.close() || k.failed != 2 {
		t.Errorf("two commands that cannot run:\n%s", &out)
	}
}
