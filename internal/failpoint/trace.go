package failpoint

import (
	"errors"
	"fmt"
	"os"
	"strconv"
	"strings"
)

// TraceVariable is the environment variable that names the file in which a build with the tag failpoints notes every place
// that it reaches. A crash test makes it with NewTrace.
const TraceVariable = "WALFERRY_FAILPOINT_TRACE"

// A trace is a text file with a line for each place in the order in which they were first reached: the name, how often it was
// reached, and the number of its last Hit among all of the process. Each Hit writes its line with one system call, and what
// was written to a file stays when the process is killed: the trace says how far it came.
const (
	traceName   = 40
	traceNumber = 11
	traceLine   = traceName + 2*(1+traceNumber) + 1
)

// Trace is the trace of one process, seen from another. It is not safe for concurrent use.
type Trace struct {
	file  *os.File
	lines map[string]int64 // offsets of the places that were seen
	end   int64            // of the lines in it
	line  [traceLine]byte
}

// NewTrace makes an empty trace at path. The caller closes it.
func NewTrace(path string) (*Trace, error) {
	f, err := os.Create(path)
	if err != nil {
		return nil, err
	}
	return &Trace{file: f, lines: map[string]int64{}}, nil
}

// Path names the file, for TraceVariable.
func (t *Trace) Path() string { return t.file.Name() }

// Close closes the file, which stays.
func (t *Trace) Close() error { return t.file.Close() }

// Place is a line of a trace. The zero value is a place that was not reached.
type Place struct {
	Hits   uint64 // how often it was reached, or the sum of what Add has added
	Number uint64 // of its last Hit, counted from 1 over all places
}

// At returns what the process has written so far of the place with this name.
func (t *Trace) At(name string) (Place, error) {
	offset, ok := t.lines[name]
	if !ok {
		if err := t.look(); err != nil {
			return Place{}, err
		}
		if offset, ok = t.lines[name]; !ok {
			return Place{}, nil
		}
	}
	_, p, err := t.read(offset)
	return p, err
}

// Last returns the name of the place that was reached last; "" when none was.
func (t *Trace) Last() (name string, err error) {
	if err := t.look(); err != nil {
		return "", err
	}
	var last uint64
	for n, offset := range t.lines {
		_, p, err := t.read(offset)
		if err != nil {
			return "", err
		}
		if p.Number > last {
			name, last = n, p.Number
		}
	}
	return name, nil
}

// look finds the places that came since it looked last.
func (t *Trace) look() error {
	info, err := t.file.Stat()
	if err != nil {
		return err
	}
	for ; t.end+traceLine <= info.Size(); t.end += traceLine {
		name, _, err := t.read(t.end)
		if err != nil {
			return err
		}
		t.lines[name] = t.end
	}
	return nil
}

func (t *Trace) read(offset int64) (name string, p Place, err error) {
	if _, err := t.file.ReadAt(t.line[:], offset); err != nil {
		return "", Place{}, err
	}
	name = strings.TrimRight(string(t.line[:traceName]), " ")
	number := func(from int) uint64 {
		n, perr := strconv.ParseUint(strings.TrimLeft(string(t.line[from:from+traceNumber]), " "), 10, 64)
		err = errors.Join(err, perr)
		return n
	}
	p.Hits, p.Number = number(traceName+1), number(traceName+traceNumber+2)
	if err != nil {
		return "", Place{}, fmt.Errorf("failpoint: trace %s: line %q: %w", t.file.Name(), t.line[:], err)
	}
	return name, p, nil
}
