package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"slices"
	"strconv"
	"strings"

	"github.com/spf13/cobra"

	"walferry/internal/config"
	"walferry/schema/registry"
)

func newSchemaDiffCommand(p *program) *cobra.Command {
	var url, format, color string
	var deleted bool
	cmd := &cobra.Command{
		Use:   "diff SUBJECT [OLD [NEW]]",
		Short: "Say what is different between two versions",
		Long: `Say field by field what version NEW of a subject has otherwise than version OLD, and
whether a reader with one can read what the other wrote. Without NEW it is the newest
version, without OLD the one before that.

SUBJECT is a subject, or a table as schema.table, which stands for its values. Fields
stand below the record that they are in, with the ways to it: an envelope holds the row
in before and in after.`,
		Example: "  walferry schema diff public.orders\n  walferry schema diff shop.public.orders-value 3 7 --format json",
		Args: usage(both(cobra.RangeArgs(1, 3), both(oneOf("format", &format, "text", "json"),
			oneOf("color", &color, "auto", "always", "never")))),
		RunE: func(cmd *cobra.Command, args []string) error {
			s, err := p.openSubjects(cmd.Context(), url)
			if err != nil {
				return err
			}
			d, err := s.diff(cmd.Context(), args[0], args[1:], deleted)
			if err != nil {
				return err
			}
			if format == "json" {
				return p.printJSON(d)
			}
			return p.printf("%s", d.text(newPainter(color, p.stdout)))
		},
	}
	cmd.ValidArgsFunction = p.completeSubjects(&url)
	registryFlag(cmd, &url)
	formatFlag(cmd, &format, "text", "json")
	colorFlag(cmd, &color)
	cmd.Flags().BoolVar(&deleted, "deleted", false, "look at versions too that are deleted, but not for good")
	return cmd
}

// subjectDiff is what is different between two versions.
type subjectDiff struct {
	Subject     string                `json:"subject"`
	Old         int                   `json:"old"`
	OldID       int32                 `json:"old_id"`
	New         int                   `json:"new"`
	NewID       int32                 `json:"new_id"`
	Differences []registry.Difference `json:"differences"`
	Backward    []fieldFinding        `json:"backward"` // why new cannot read old; empty if it can
	Forward     []fieldFinding        `json:"forward"`  // why old cannot read new
}

func (s *subjects) diff(ctx context.Context, name string, versions []string, deleted bool) (*subjectDiff, error) {
	subject, numbers, err := s.subject(ctx, name, deleted)
	if err != nil {
		return nil, err
	}
	if len(versions) == 0 {
		if len(numbers) < 2 {
			return nil, fmt.Errorf("subject %s has one version, %d, and nothing to compare it with", subject, numbers[0])
		}
		versions = []string{strconv.Itoa(numbers[len(numbers)-2])}
	}
	if len(versions) == 1 {
		versions = append(versions, strconv.Itoa(numbers[len(numbers)-1]))
	}
	var schemas [2]*registry.Schema
	var found [2]registry.Registered
	for i := range schemas {
		if found[i], err = s.version(ctx, subject, versions[i], deleted); err != nil {
			return nil, err
		}
		if schemas[i], err = avroOf(&found[i]); err != nil {
			return nil, err
		}
	}
	d := &subjectDiff{
		Subject: subject, Old: found[0].Version, OldID: found[0].ID, New: found[1].Version, NewID: found[1].ID,
		Differences: registry.Diff(schemas[0], schemas[1]),
		Backward:    fieldFindings(registry.Compare(schemas[1], schemas[0])),
		Forward:     fieldFindings(registry.Compare(schemas[0], schemas[1])),
	}
	if d.Differences == nil {
		d.Differences = []registry.Difference{}
	}
	return d, nil
}

func (d *subjectDiff) text(paint painter) string {
	var b strings.Builder
	fmt.Fprintf(&b, "%s: version %d (id %d) → %d (id %d)\n\n", d.Subject, d.Old, d.OldID, d.New, d.NewID)
	if len(d.Differences) == 0 {
		b.WriteString("no field is different\n")
	}
	b.WriteString(registry.FormatDiff(d.Differences, func(d *registry.Difference, line string) string {
		switch d.Sign() {
		case "+":
			return paint.paint(green, line)
		case "-":
			return paint.paint(red, line)
		}
		return paint.paint(yellow, line)
	}))
	b.WriteString("\n")
	for _, way := range []struct {
		name           string
		reader, writer int
		found          []fieldFinding
	}{{"backward", d.New, d.Old, d.Backward}, {"forward", d.Old, d.New, d.Forward}} {
		if len(way.found) == 0 {
			fmt.Fprintf(&b, "%s compatible: a reader with version %d can read version %d\n", way.name, way.reader, way.writer)
			continue
		}
		fmt.Fprintf(&b, "%s\n", paint.paint(red, fmt.Sprintf("not %s compatible: a reader with version %d cannot read version %d", way.name, way.reader, way.writer)))
		writeFindings(&b, way.found)
	}
	return b.String()
}

// writeFindings writes a line for each, once for a record that is in several places.
func writeFindings(b *strings.Builder, list []fieldFinding) {
	type same struct {
		rule         registry.IncompatibilityType
		detail, path string
	}
	var order []same
	fields := map[same][]string{}
	for _, f := range list {
		s := same{f.Rule, f.Detail, f.Path}
		if fields[s] == nil {
			order = append(order, s)
		}
		fields[s] = append(fields[s], f.Field)
	}
	for _, s := range order {
		where := strings.Join(fields[s], ", ")
		fmt.Fprintf(b, "  %s\n", strings.TrimPrefix(fmt.Sprintf("%s: %s %s", where, s.rule, s.detail), ": "))
	}
}

// fieldFinding is a rule that a schema breaks, at the field where it does.
type fieldFinding struct {
	Field  string                       `json:"field"`
	Rule   registry.IncompatibilityType `json:"rule"`
	Detail string                       `json:"detail"`
	Path   string                       `json:"path"` // Avro's, through the reader's schema
}

// fieldFindings are the innermost causes, once each.
func fieldFindings(list []registry.Incompatibility) []fieldFinding {
	found := []fieldFinding{}
	for _, i := range list {
		for _, l := range i.Leaves() {
			f := fieldFinding{Field: l.Field, Rule: l.Type, Detail: l.Detail, Path: l.Path}
			if !slices.Contains(found, f) {
				found = append(found, f)
			}
		}
	}
	return found
}

func newSchemaCheckCommand(p *program) *cobra.Command {
	var url, format string
	cmd := &cobra.Command{
		Use:   "check SUBJECT FILE",
		Short: "Say whether a subject would take a schema",
		Long: `Ask the registry whether it would take the Avro schema in FILE (- for standard input) as the
next version of SUBJECT, under the compatibility level of the subject. Nothing is
registered. If it would not, each field is named with the rule that it breaks, and the
exit code is 9. A subject that is not there would take any schema, and is an error here,
since it is more often a slip.`,
		Example: "  walferry schema show public.orders > orders.avsc\n  walferry schema check public.orders orders.avsc",
		Args:    usage(both(cobra.ExactArgs(2), oneOf("format", &format, "text", "json"))),
		RunE: func(cmd *cobra.Command, args []string) error {
			text, err := p.readInput(args[1])
			if err != nil {
				return err
			}
			parsed, err := registry.ParseAvro(string(text))
			if err != nil {
				return &config.Error{Path: args[1], Problem: "it is no Avro schema: " + err.Error(), Remedy: "correct it; `walferry schema show` prints one to begin with"}
			}
			s, err := p.openSubjects(cmd.Context(), url)
			if err != nil {
				return err
			}
			v, err := s.check(cmd.Context(), args[0], parsed)
			if err != nil {
				return err
			}
			if format == "json" {
				err = p.printJSON(v)
			} else {
				err = p.printf("%s", v.text())
			}
			if err == nil && !v.Compatible {
				err = &silentError{exitCheck}
			}
			return err
		},
	}
	cmd.ValidArgsFunction = p.completeSubjects(&url)
	registryFlag(cmd, &url)
	formatFlag(cmd, &format, "text", "json")
	return cmd
}

// readInput reads a file, or standard input.
func (p *program) readInput(file string) ([]byte, error) {
	var b []byte
	var err error
	if file == "-" {
		b, err = io.ReadAll(p.stdin)
	} else {
		b, err = os.ReadFile(file)
	}
	if err != nil {
		var inner *fs.PathError
		if errors.As(err, &inner) {
			err = inner.Err // the rest is said already
		}
		return nil, &config.Error{Path: file, Problem: err.Error(), Remedy: "name a file that is there and readable, or -"}
	}
	return b, nil
}

// verdict is whether a subject would take a schema.
type verdict struct {
	Subject    string         `json:"subject"`
	Level      registry.Level `json:"level"`
	Compatible bool           `json:"compatible"`
	// Version has something against it; 0 where only the registry knows which.
	Version  int            `json:"version,omitempty"`
	Findings []checkFinding `json:"findings"`
	// Messages are the registry's own, where it refuses what is not known here.
	Messages []string `json:"messages,omitempty"`
	// Registered is the version that has this very schema; 0 for none.
	Registered int `json:"registered,omitempty"`
}

type checkFinding struct {
	fieldFinding
	Reader string `json:"reader"` // who cannot read: new or old
}

// check has the registry decide, and says why by the same rules.
func (s *subjects) check(ctx context.Context, name string, schema *registry.Schema) (*verdict, error) {
	subject, numbers, err := s.subject(ctx, name, false)
	if err != nil {
		return nil, err
	}
	v := &verdict{Subject: subject, Findings: []checkFinding{}}
	if v.Level, _, err = s.Level(ctx, subject); err != nil {
		return nil, err
	}
	if v.Compatible, v.Messages, err = s.Compatible(ctx, subject, schema.String()); err != nil {
		return nil, err
	}
	if v.Compatible {
		v.Messages = nil
		var e *registry.Error
		if _, v.Registered, err = s.Lookup(ctx, subject, schema.String()); errors.As(err, &e) {
			err = nil // it is new, or the registry does not look up
		}
		return v, err
	}
	previous := make([]registry.Previous, len(numbers))
	err = each(ctx, len(numbers), func(ctx context.Context, i int) error {
		r, err := s.version(ctx, subject, strconv.Itoa(numbers[i]), false)
		if err != nil {
			return err
		}
		previous[i].Version = r.Version
		previous[i].Schema, err = avroOf(&r)
		return err
	})
	if err != nil {
		return nil, err
	}
	for _, f := range registry.Check(v.Level, schema, previous) {
		reader := "old"
		if f.ReaderIsNew {
			reader = "new"
		}
		v.Version = f.Version
		for _, ff := range fieldFindings([]registry.Incompatibility{f.Incompatibility}) {
			if c := (checkFinding{ff, reader}); !slices.Contains(v.Findings, c) {
				v.Findings = append(v.Findings, c)
			}
		}
	}
	if len(v.Findings) > 0 {
		v.Messages = nil
	}
	return v, nil
}

func (v *verdict) text() string {
	switch {
	case v.Registered > 0:
		return fmt.Sprintf("%s has this schema as version %d\n", v.Subject, v.Registered)
	case v.Compatible:
		return fmt.Sprintf("%s would take it (%s)\n", v.Subject, v.Level)
	}
	var b strings.Builder
	fmt.Fprintf(&b, "%s would not take it (%s)\n", v.Subject, v.Level)
	for _, reader := range []string{"new", "old"} {
		var found []fieldFinding
		for _, f := range v.Findings {
			if f.Reader == reader {
				found = append(found, f.fieldFinding)
			}
		}
		switch {
		case found == nil:
			continue
		case reader == "new":
			fmt.Fprintf(&b, "with it one cannot read version %d:\n", v.Version)
		default:
			fmt.Fprintf(&b, "with version %d one cannot read it:\n", v.Version)
		}
		writeFindings(&b, found)
	}
	for _, m := range v.Messages {
		fmt.Fprintf(&b, "  %s\n", m)
	}
	return b.String()
}
