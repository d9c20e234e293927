package config

import (
	"fmt"
	"strings"
)

// Error is one thing wrong with the configuration. Line and Column are those of
// the value in the file, from 1, and 0 when the value is not in the file.
type Error struct {
	File         string
	Line, Column int
	Path         string // key, such as source.slot.name
	Problem      string // what is wrong, one sentence without a full stop
	Remedy       string // what to write or do instead
}

// Error is "file:line:column: key: problem; remedy".
func (e *Error) Error() string {
	var b strings.Builder
	if e.File != "" {
		b.WriteString(e.File)
		if e.Line > 0 {
			fmt.Fprintf(&b, ":%d:%d", e.Line, e.Column)
		}
		b.WriteString(": ")
	}
	if e.Path != "" {
		b.WriteString(e.Path + ": ")
	}
	b.WriteString(e.Problem)
	if e.Remedy != "" {
		b.WriteString("; " + e.Remedy)
	}
	return b.String()
}

// ErrorList is everything wrong with one file, in the file's order as far as it has one.
type ErrorList []*Error

// Error has one line for each error.
func (e ErrorList) Error() string {
	lines := make([]string, len(e))
	for i, x := range e {
		lines[i] = x.Error()
	}
	return strings.Join(lines, "\n")
}

// Unwrap lets errors.As find the single errors.
func (e ErrorList) Unwrap() []error {
	errs := make([]error, len(e))
	for i, x := range e {
		errs[i] = x
	}
	return errs
}
