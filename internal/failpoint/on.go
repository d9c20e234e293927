//go:build failpoints

package failpoint

import (
	"fmt"
	"os"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"
)

// Enabled tells whether this binary was built with the tag failpoints.
const Enabled = true

// Variable is the environment variable that says which places act, and how.
const Variable = "WALFERRY_FAILPOINTS"

var (
	once sync.Once

	// mu guards the following after once has run.
	mu     sync.Mutex
	points map[string]*point
	trace  *os.File // nil when nobody asked for one
	lines  = map[string]*line{}
	number uint64 // of the last Hit
)

// line is a place in the trace.
type line struct {
	offset int64
	hits   uint64
}

// Hit acts as WALFERRY_FAILPOINTS says for this name.
func Hit(name string) {
	reach(name, 1)
}

// Add adds n to the hits of a name in the trace: for what is counted, where Hit is for what is done. Actions are not for it.
func Add(name string, n int) {
	reach(name, n)
}

func reach(name string, n int) {
	once.Do(func() {
		var err error
		if points, err = parse(os.Getenv(Variable)); err != nil {
			fail("%s: %v", Variable, err)
		}
		if file := os.Getenv(TraceVariable); file != "" {
			if trace, err = os.OpenFile(file, os.O_WRONLY, 0); err != nil {
				fail("%s: %v", TraceVariable, err)
			}
		}
	})
	mu.Lock()
	if trace != nil {
		note(name, n)
	}
	p := points[name]
	act := p != nil && p.due()
	mu.Unlock()
	if act {
		p.act()
	}
}

// note adds to the place's line. The caller holds mu.
func note(name string, n int) {
	l := lines[name]
	if l == nil {
		if len(name) > traceName {
			fail("the name %q is longer than %d bytes", name, traceName)
		}
		l = &line{offset: int64(len(lines)) * traceLine}
		lines[name] = l
	}
	l.hits += uint64(n)
	number++
	if _, err := trace.WriteAt(traced(name, l.hits, number), l.offset); err != nil {
		fail("%s: %v", TraceVariable, err)
	}
}

func traced(name string, hits, number uint64) []byte {
	return fmt.Appendf(nil, "%-*s %*d %*d\n", traceName, name, traceNumber, hits, traceNumber, number)
}

// fail ends the process: a test whose fault is not injected, or not seen, must not pass.
func fail(format string, args ...any) {
	fmt.Fprintf(os.Stderr, "failpoint: "+format+"\n", args...)
	os.Exit(2)
}

// point is one name=action of the variable.
type point struct {
	verb  string
	sleep time.Duration
	code  int
	at    int // act only the at-th time; 0 means every time
	hits  int
}

func (p *point) due() bool {
	p.hits++
	return p.at == 0 || p.hits == p.at
}

func (p *point) act() {
	switch p.verb {
	case "kill":
		signal(syscall.SIGKILL)
		select {} // the signal is on its way; nothing after this place may run
	case "stop":
		signal(syscall.SIGSTOP)
	case "exit":
		os.Exit(p.code)
	case "sleep":
		time.Sleep(p.sleep)
	}
}

func signal(s syscall.Signal) {
	if err := syscall.Kill(os.Getpid(), s); err != nil {
		fail("%v: %v", s, err)
	}
}

func parse(s string) (map[string]*point, error) {
	m := map[string]*point{}
	for item := range strings.SplitSeq(s, ",") {
		if item = strings.TrimSpace(item); item == "" {
			continue
		}
		name, action, ok := strings.Cut(item, "=")
		if !ok || name == "" {
			return nil, fmt.Errorf("%q is not name=action", item)
		}
		p, err := parseAction(action)
		if err != nil {
			return nil, fmt.Errorf("%q: %w", item, err)
		}
		m[name] = p
	}
	return m, nil
}

func parseAction(s string) (*point, error) {
	verb, arg, _ := strings.Cut(s, ":")
	switch verb {
	case "kill", "stop":
		if arg != "" {
			return nil, fmt.Errorf("%s takes no argument", verb)
		}
		return &point{verb: verb}, nil
	case "exit":
		code, err := strconv.Atoi(arg)
		if err != nil {
			return nil, fmt.Errorf("exit code %q is not a number", arg)
		}
		return &point{verb: verb, code: code}, nil
	case "sleep":
		d, err := time.ParseDuration(arg)
		if err != nil {
			return nil, err
		}
		return &point{verb: verb, sleep: d}, nil
	case "count":
		n, rest, _ := strings.Cut(arg, ":")
		at, err := strconv.Atoi(n)
		if err != nil || at < 1 {
			return nil, fmt.Errorf("count %q is not a positive number", n)
		}
		p, err := parseAction(rest)
		if err != nil {
			return nil, err
		}
		p.at = at
		return p, nil
	}
	return nil, fmt.Errorf("unknown action %q", verb)
}
