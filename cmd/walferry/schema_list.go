package main

import (
	"context"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"sync"
	"text/tabwriter"

	"github.com/spf13/cobra"

	"walferry/schema/registry"
)

func newSchemaListCommand(p *program) *cobra.Command {
	var url, format string
	var deleted bool
	cmd := &cobra.Command{
		Use:   "list [PREFIX]",
		Short: "List the subjects",
		Long: `List the subjects of the registry, all or those whose name begins with PREFIX: each with
its newest version, the id of that, and the compatibility level that counts for it ("own"
is one that was set for the subject, "all" the one of all subjects).`,
		Example: "  walferry schema list\n  walferry schema list shop.public. --format json",
		Args:    usage(both(cobra.MaximumNArgs(1), oneOf("format", &format, "text", "json"))),
		RunE: func(cmd *cobra.Command, args []string) error {
			s, err := p.openSubjects(cmd.Context(), url)
			if err != nil {
				return err
			}
			list, err := s.list(cmd.Context(), strings.Join(args, ""), deleted)
			if err != nil {
				return err
			}
			if format == "json" {
				return p.printJSON(list)
			}
			return p.showSubjects(list)
		},
	}
	registryFlag(cmd, &url)
	formatFlag(cmd, &format, "text", "json")
	cmd.Flags().BoolVar(&deleted, "deleted", false, "list subjects and versions too that are deleted, but not for good")
	return cmd
}

// subjectLine is a subject in a list.
type subjectLine struct {
	Subject string         `json:"subject"`
	Version int            `json:"version"` // the newest
	ID      int32          `json:"id"`
	Type    string         `json:"type"`
	Level   registry.Level `json:"level"`
	Own     bool           `json:"own_level"`
	Deleted bool           `json:"deleted"` // all its versions are
}

// askers is how many questions are under way to a registry at a time.
const askers = 8

// list asks for each subject by itself: there is no one question for this that every registry answers.
func (s *subjects) list(ctx context.Context, prefix string, deleted bool) ([]subjectLine, error) {
	names, err := s.Subjects(ctx, deleted)
	if err != nil {
		return nil, err
	}
	live := names
	if deleted {
		if live, err = s.Subjects(ctx, false); err != nil {
			return nil, err
		}
	}
	names = slices.DeleteFunc(slices.Clone(names), func(n string) bool { return !strings.HasPrefix(n, prefix) })
	lines := make([]subjectLine, len(names))
	err = each(ctx, len(names), func(ctx context.Context, i int) error {
		_, there := slices.BinarySearch(live, names[i])
		l := subjectLine{Subject: names[i], Deleted: !there}
		version := "latest"
		if l.Deleted {
			versions, err := s.Versions(ctx, l.Subject, true)
			if err != nil || len(versions) == 0 {
				return unlessGone(err)
			}
			version = strconv.Itoa(versions[len(versions)-1])
		}
		r, err := s.Version(ctx, l.Subject, version, l.Deleted)
		if err != nil {
			return unlessGone(err)
		}
		l.Version, l.ID, l.Type = r.Version, r.ID, r.Type
		if l.Level, l.Own, err = s.Level(ctx, l.Subject); err != nil {
			return err
		}
		lines[i] = l
		return nil
	})
	if err != nil {
		return nil, err
	}
	return slices.DeleteFunc(lines, func(l subjectLine) bool { return l.Subject == "" }), nil
}

// unlessGone forgets that a subject is not there, when it was a moment ago: it is left out of the list.
func unlessGone(err error) error {
	if isCode(err, registry.CodeSubjectNotFound) || isCode(err, registry.CodeVersionNotFound) {
		return nil
	}
	return err
}

// each calls f for 0 to n-1, some at a time, and returns the first error.
func each(ctx context.Context, n int, f func(context.Context, int) error) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	next := make(chan int)
	var workers sync.WaitGroup
	for range min(askers, n) {
		workers.Go(func() {
			for i := range next {
				if err := f(ctx, i); err != nil {
					cancel(err)
				}
			}
		})
	}
	for i := 0; i < n && ctx.Err() == nil; i++ {
		select {
		case next <- i:
		case <-ctx.Done():
		}
	}
	close(next)
	workers.Wait()
	return context.Cause(ctx)
}

func (p *program) showSubjects(list []subjectLine) error {
	w := tabwriter.NewWriter(p.stdout, 0, 0, 2, ' ', 0)
	if len(list) == 0 {
		return p.printf("no subjects\n")
	}
	if _, err := fmt.Fprintln(w, "SUBJECT\tVERSION\tID\tLEVEL"); err != nil {
		return err
	}
	for _, l := range list {
		level := string(l.Level) + " (all)"
		if l.Own {
			level = string(l.Level) + " (own)"
		}
		if l.Type != registry.TypeAvro {
			level += ", " + l.Type
		}
		if l.Deleted {
			level += ", deleted"
		}
		if _, err := fmt.Fprintf(w, "%s\t%d\t%d\t%s\n", l.Subject, l.Version, l.ID, level); err != nil {
			return err
		}
	}
	return w.Flush()
}

func newSchemaVersionsCommand(p *program) *cobra.Command {
	var url, format string
	var deleted bool
	cmd := &cobra.Command{
		Use:   "versions SUBJECT",
		Short: "List the versions of a subject and what each changed",
		Long: `List the versions of a subject, each with its id and, in a few words, what it changed
against the one before (walferry schema diff says it in full).

SUBJECT is a subject, or a table as schema.table, which stands for its values.`,
		Example: "  walferry schema versions public.orders",
		Args:    usage(both(cobra.ExactArgs(1), oneOf("format", &format, "text", "json"))),
		RunE: func(cmd *cobra.Command, args []string) error {
			s, err := p.openSubjects(cmd.Context(), url)
			if err != nil {
				return err
			}
			list, err := s.versions(cmd.Context(), args[0], deleted)
			if err != nil {
				return err
			}
			if format == "json" {
				return p.printJSON(list)
			}
			return p.showVersions(list)
		},
	}
	cmd.ValidArgsFunction = p.completeSubjects(&url)
	registryFlag(cmd, &url)
	formatFlag(cmd, &format, "text", "json")
	cmd.Flags().BoolVar(&deleted, "deleted", false, "list versions too that are deleted, but not for good")
	return cmd
}

// versionLine is a version in a list.
type versionLine struct {
	Subject string                `json:"subject"`
	Version int                   `json:"version"`
	ID      int32                 `json:"id"`
	Type    string                `json:"type"`
	Deleted bool                  `json:"deleted"`
	Changes []registry.Difference `json:"changes"` // against the version listed before; null for the first and where one is no Avro
}

func (s *subjects) versions(ctx context.Context, name string, deleted bool) ([]versionLine, error) {
	subject, numbers, err := s.subject(ctx, name, deleted)
	if err != nil {
		return nil, err
	}
	live := numbers
	if deleted {
		if live, err = s.Versions(ctx, subject, false); err != nil && !isCode(err, registry.CodeSubjectNotFound) {
			return nil, err
		}
	}
	lines, texts := make([]versionLine, len(numbers)), make([]registry.Registered, len(numbers))
	err = each(ctx, len(numbers), func(ctx context.Context, i int) (err error) {
		texts[i], err = s.version(ctx, subject, strconv.Itoa(numbers[i]), deleted)
		return err
	})
	if err != nil {
		return nil, err
	}
	for i, r := range texts {
		lines[i] = versionLine{Subject: subject, Version: r.Version, ID: r.ID, Type: r.Type, Deleted: !slices.Contains(live, r.Version)}
		if i == 0 || r.Type != registry.TypeAvro || texts[i-1].Type != registry.TypeAvro {
			continue
		}
		if lines[i].Changes, err = registry.DiffText(texts[i-1].Schema, r.Schema); err != nil {
			return nil, fmt.Errorf("versions %d and %d of subject %s: %w", texts[i-1].Version, r.Version, subject, err)
		}
		if lines[i].Changes == nil {
			lines[i].Changes = []registry.Difference{}
		}
	}
	return lines, nil
}

func (p *program) showVersions(list []versionLine) error {
	w := tabwriter.NewWriter(p.stdout, 0, 0, 2, ' ', 0)
	if _, err := fmt.Fprintln(w, "VERSION\tID\tCHANGES"); err != nil {
		return err
	}
	for i, l := range list {
		text := ""
		switch {
		case i == 0:
			text = "first"
		case l.Type != registry.TypeAvro:
			text = l.Type
		default:
			text = inFewWords(l.Changes)
		}
		if l.Deleted {
			text += ", deleted"
		}
		if _, err := fmt.Fprintf(w, "%d\t%d\t%s\n", l.Version, l.ID, text); err != nil {
			return err
		}
	}
	return w.Flush()
}

// inFewWords lists the fields of differences with their signs.
func inFewWords(list []registry.Difference) string {
	const most = 8
	var words []string
	for i := range list {
		where := list[i].Field
		if where == "" {
			where = string(list[i].Kind)
		}
		if word := list[i].Sign() + where; !slices.Contains(words, word) {
			words = append(words, word)
		}
	}
	switch n := len(words); {
	case n == 0:
		return "attributes only"
	case n > most:
		return strings.Join(words[:most], " ") + fmt.Sprintf(" and %d more", n-most)
	}
	return strings.Join(words, " ")
}
