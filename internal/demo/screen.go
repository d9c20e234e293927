package demo

import (
	"fmt"
	"io"
	"math/big"
	"sort"
	"strings"
	"sync"
	"time"
)

// screen is what people see: lines, and on a terminal a status line below them that is written over. Its methods may be
// called from any goroutine. What cannot be written is not shown: the account does not depend on it.
type screen struct {
	terminal bool

	mu      sync.Mutex // guards the following
	out     io.Writer
	line    string // the status line, as it stands
	told    time.Time
	sampled time.Time
	rate    float64
	rateAt  time.Time
	rateN   int64
}

func newScreen(out io.Writer, terminal bool) *screen { return &screen{out: out, terminal: terminal} }

const (
	plainText = ""
	red       = "31"
	green     = "32"
	yellow    = "33"
	grey      = "90"
	bold      = "1"

	width = 100
)

// write puts a line above the status line.
func (s *screen) write(color, text string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.terminal {
		if color != plainText {
			text = "\x1b[" + color + "m" + text + "\x1b[0m"
		}
		text = "\r\x1b[K" + text
	}
	_, _ = fmt.Fprintf(s.out, "%s\n%s", text, s.line)
}

func (s *screen) say(format string, args ...any)  { s.write(plainText, fmt.Sprintf(format, args...)) }
func (s *screen) good(format string, args ...any) { s.write(green, "+ "+fmt.Sprintf(format, args...)) }
func (s *screen) bad(format string, args ...any)  { s.write(red, "x "+fmt.Sprintf(format, args...)) }
func (s *screen) note(format string, args ...any) { s.write(yellow, "* "+fmt.Sprintf(format, args...)) }

// event shows one of many: enough to see what flows, not more than can be read.
func (s *screen) event(e event, row map[string]any) {
	every := time.Second
	if s.terminal {
		every = 150 * time.Millisecond
	}
	s.mu.Lock()
	show := time.Since(s.sampled) > every
	if show {
		s.sampled = time.Now()
	}
	s.mu.Unlock()
	if !show {
		return
	}
	op := map[string]string{"c": "create", "u": "update", "d": "delete", "r": "read"}[e.op]
	names := make([]string, 0, len(row))
	for name := range row {
		names = append(names, name)
	}
	sort.Strings(names)
	var fields []string
	for _, name := range names {
		if v := plain(row[name]); v != nil && name != "change" && name != "placed" && name != "since" {
			fields = append(fields, name+"="+shown(v))
		}
	}
	text := []rune(fmt.Sprintf("  %-6s %-11s %-8s %s", op, e.table, e.key, strings.Join(fields, " ")))
	s.write(grey, string(text[:min(len(text), width)]))
}

// shown is a value as people write it.
func shown(v any) string {
	switch x := plain(v).(type) {
	case []any:
		parts := make([]string, len(x))
		for i := range x {
			parts[i] = shown(x[i])
		}
		return "[" + strings.Join(parts, " ") + "]"
	case *big.Rat: // a decimal; all of the shop's have two digits
		return x.FloatString(2)
	default:
		return fmt.Sprint(x)
	}
}

// status shows where things stand: on a terminal at once, elsewhere every few seconds.
func (s *screen) status(w *shop, c *consumer, kills int, elapsed time.Duration) {
	committed, received := w.committed.Load(), c.received.Load()
	s.mu.Lock()
	now := time.Now()
	if since := now.Sub(s.rateAt); since > time.Second {
		if !s.rateAt.IsZero() {
			s.rate = float64(received-s.rateN) / since.Seconds()
		}
		s.rateAt, s.rateN = now, received
	}
	text := fmt.Sprintf("%3.0f s   committed %6d   received %6d (%4.0f/s)   rolled back %d   kills %d", elapsed.Seconds(), committed, received, s.rate, w.rolledBack.Load(), kills)
	if s.terminal {
		s.line = "\x1b[" + bold + "m" + text + "\x1b[0m"
		_, _ = fmt.Fprintf(s.out, "\r\x1b[K%s", s.line)
	}
	tell := !s.terminal && now.Sub(s.told) > 5*time.Second
	if tell {
		s.told = now
	}
	s.mu.Unlock()
	if tell {
		s.say("%s", text)
	}
}

// done takes the status line away.
func (s *screen) done() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.line != "" {
		_, _ = fmt.Fprint(s.out, "\r\x1b[K")
		s.line = ""
	}
}

func (s *screen) account(a *Account) {
	s.done()
	s.say("")
	s.say("Account: the journal of the database against what a read_committed consumer saw")
	row := func(name string, n int, bad bool) {
		color := plainText
		if bad {
			color = green
			if n > 0 {
				color = red
			}
		}
		s.write(color, fmt.Sprintf("  %-12s %7d", name, n))
	}
	row("committed", a.Committed, false)
	row("received", a.Received, false)
	row("missing", a.Missing, true)
	row("repeated", a.Repeated, true)
	row("disordered", a.Disordered, true)
	if a.OK() {
		s.good("every change exactly once, in order, over %d kills; folding the topics gives the %d rows of the tables", a.Kills, a.rows)
	} else {
		s.bad("the consumer did not see what was committed")
	}
}

// keep says how to look around.
func (s *screen) keep(st *stage) {
	s.say("")
	s.say("The servers stay up until Ctrl-C:")
	s.say("  psql '%s'", st.dsn)
	s.say("  kcat -b %s -C -t shop.shop.orders -s value=avro -r %s", st.brokers, st.registry)
	s.say("  curl %s/subjects", st.registry)
	s.say("  %s tail --config %s shop.orders --from beginning", st.cfg.Executable, st.file)
}
