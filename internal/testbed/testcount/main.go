// Testcount runs `go test` and counts: its last line is "N passed, N failed, N skipped", of individual tests (a test
// with subtests is not counted, its subtests are). It prints a line per package, what failed with its output, and what
// was skipped with the reason. Its exit code is 1 when anything failed or nothing passed.
//
//	testcount go test ./... -- go test -run Alloc ./decode
//
// Several commands are separated by "--" and counted together; -json is added to each.
package main

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"os/signal"
	"slices"
	"strings"
	"syscall"
	"time"
)

// fakeLine is printed by package testbed where tests ran against kfake. It is repeated before the count, because
// nobody reads the middle of a log.
const fakeLine = "kafka: kfake, not Apache"

// missingLine begins the lines that package testbed prints where a server lacks an extension; they are repeated too.
const missingLine = "not tested, extension missing: "

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	c := counter{out: os.Stdout}
	for _, command := range split(os.Args[1:]) {
		c.run(ctx, command)
	}
	stop()
	if !c.close() {
		os.Exit(1)
	}
}

// split cuts the arguments at each "--".
func split(args []string) (commands [][]string) {
	for len(args) > 0 {
		i := slices.Index(args, "--")
		if i < 0 {
			return append(commands, args)
		}
		commands, args = append(commands, args[:i]), args[i+1:]
	}
	return commands
}

// event is one line of `go test -json`, see `go doc cmd/test2json`.
type event struct {
	Action     string
	Package    string
	ImportPath string // of a package that did not build
	Test       string
	Elapsed    float64 // seconds
	Output     string
}

type test struct{ pkg, name string }

type counter struct {
	dir                     string // where commands run, "" for here
	out                     io.Writer
	passed, failed, skipped int
	fake                    bool
	missing                 []string                  // what was not tested
	open                    map[test]*strings.Builder // output of what has not ended yet
	parents                 map[test]bool             // tests that have subtests
	broken                  map[test]bool             // tests that failed
}

func (c *counter) run(ctx context.Context, command []string) {
	c.open, c.parents, c.broken = map[test]*strings.Builder{}, map[test]bool{}, map[test]bool{}
	if len(command) < 2 {
		c.fail("testcount: a command is `go test …`")
		return
	}
	args := append([]string{command[1], "-json"}, command[2:]...)
	cmd := exec.CommandContext(ctx, command[0], args...)
	// The tests end their servers on SIGINT and SIGTERM; a kill would leave that to the kernel.
	cmd.Cancel = func() error { return cmd.Process.Signal(os.Interrupt) }
	cmd.WaitDelay = 30 * time.Second
	cmd.Dir = c.dir
	cmd.Stderr = os.Stderr
	stdout, err := cmd.StdoutPipe()
	if err == nil {
		err = cmd.Start()
	}
	if err != nil {
		c.fail("testcount: %v", err)
		return
	}
	before := c.failed
	c.read(stdout)
	if err := cmd.Wait(); err != nil && c.failed == before {
		c.fail("%s: %v", strings.Join(command, " "), err)
	}
}

func (c *counter) fail(format string, args ...any) {
	c.failed++
	c.say(format+"\n", args...)
}

// say has nobody to report an error to: this is the report.
func (c *counter) say(format string, args ...any) { _, _ = fmt.Fprintf(c.out, format, args...) }

func (c *counter) read(r io.Reader) {
	for br := bufio.NewReader(r); ; {
		line, err := br.ReadBytes('\n')
		if len(line) > 0 {
			var e event
			if json.Unmarshal(line, &e) != nil {
				c.say("%s", line) // not of test2json: go's own word
			} else {
				c.take(e)
			}
		}
		if err != nil {
			if !errors.Is(err, io.EOF) {
				c.fail("testcount: %v", err)
			}
			break
		}
	}
	// What never ended was cut short with its package, by a panic or the time limit.
	for t := range c.open {
		if t.name != "" && !c.parents[t] {
			c.failed++
		}
	}
}

func (c *counter) take(e event) {
	t := test{e.Package, e.Test}
	switch e.Action {
	case "build-output":
		c.say("%s", e.Output)
	case "run":
		c.open[t] = &strings.Builder{}
		for i := strings.LastIndexByte(t.name, '/'); i > 0; i = strings.LastIndexByte(t.name[:i], '/') {
			c.parents[test{t.pkg, t.name[:i]}] = true
		}
	case "output":
		if strings.Contains(e.Output, fakeLine) {
			c.fake = true
		}
		if _, what, ok := strings.Cut(e.Output, missingLine); ok && !slices.Contains(c.missing, strings.TrimSpace(what)) {
			c.missing = append(c.missing, strings.TrimSpace(what))
		}
		if c.open[t] == nil {
			c.open[t] = &strings.Builder{}
		}
		c.open[t].WriteString(e.Output)
	case "pass", "fail", "skip":
		c.end(t, e)
	}
}

func (c *counter) end(t test, e event) {
	said := c.open[t]
	if said == nil {
		said = &strings.Builder{}
	}
	delete(c.open, t)
	if t.name == "" {
		c.endPackage(e, said.String())
		return
	}
	// A parent fails with its subtests, or by itself: then it counts, or the failure would be lost.
	parent := c.parents[t]
	switch e.Action {
	case "pass":
		if !parent {
			c.passed++
		}
	case "skip":
		if !parent {
			c.skipped++
		}
		c.say("skipped %s %s%s\n", t.pkg, t.name, reason(said.String()))
	case "fail":
		if !parent || !c.under(t) {
			c.failed++
		}
		c.broken[t] = true
		c.say("FAILED %s %s\n%s", t.pkg, t.name, said)
	}
}

// under reports whether a subtest of t, or with an empty name any test of its package, has failed.
func (c *counter) under(t test) bool {
	prefix := t.name + "/"
	if t.name == "" {
		prefix = ""
	}
	for b := range c.broken {
		if b.pkg == t.pkg && strings.HasPrefix(b.name, prefix) {
			return true
		}
	}
	return false
}

func (c *counter) endPackage(e event, said string) {
	switch e.Action {
	case "pass":
		c.say("ok      %-40s %6.1f s\n", e.Package, e.Elapsed)
	case "fail":
		c.say("FAILED  %-40s %6.1f s\n", e.Package, e.Elapsed)
		counted := c.under(test{pkg: e.Package})
		for t, open := range c.open {
			if t.pkg == e.Package && t.name != "" {
				counted = true
				c.say("not ended: %s\n%s", t.name, open)
			}
		}
		if !counted { // it did not build, or ended outside of a test
			c.failed++
		}
		c.say("%s", said)
	}
}

// reason is what a skipped test said, without the frame that package testing puts around it.
func reason(said string) string {
	for line := range strings.Lines(said) {
		line = strings.TrimSpace(line)
		if line != "" && !strings.HasPrefix(line, "===") && !strings.HasPrefix(line, "---") {
			if _, rest, ok := strings.Cut(line, ": "); ok {
				line = rest
			}
			return ": " + line
		}
	}
	return ""
}

// close prints the account and reports whether it is good.
func (c *counter) close() bool {
	if c.fake {
		c.say("%s\n", fakeLine)
	}
	for _, what := range c.missing {
		c.say("%s%s\n", missingLine, what)
	}
	c.say("%d passed, %d failed, %d skipped\n", c.passed, c.failed, c.skipped)
	return c.failed == 0 && c.passed > 0
}
