package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"walferry/checkpoint"
	"walferry/internal/config"
	"walferry/internal/kafka"
	"walferry/internal/pipeline"
	"walferry/internal/script"
	"walferry/schema"
	"walferry/schema/registry"
	"walferry/source"
)

func newSchemaPlanCommand(p *program) *cobra.Command {
	var o planOptions
	var url, format string
	cmd := &cobra.Command{
		Use:   "plan FILE...",
		Short: "Say what a migration will do to consumers, before it runs",
		Long: `Run a migration in a transaction that is rolled back, and say what follows from it for
each captured table: what changes in its schemas, field by field, whether the subjects'
compatibility levels allow it, in which steps it would be compatible, and what else
consumers would see (keys, replica identity, large values, the publication).

FILE is SQL; several are run in their order, - is standard input. Commands of psql are
refused. Statements that cannot run in a transaction, or whose work no rollback undoes,
are named and not run: BEGIN and COMMIT, VACUUM, CREATE INDEX CONCURRENTLY, setval, COPY
from the client.

The statements really run, under --lock-timeout and --statement-timeout each, and the
locks that they take are held until all have run: applications wait for them. An UPDATE
of a whole table is one. What functions do outside of the transaction is not undone:
sequences go on counting, dblink connects. Neither stream nor topics see anything of it.

With --scratch nothing is run in the database: its schema is copied with pg_dump into a
new database on another server (or the same), each statement runs there in a transaction
of its own, and the database is dropped.

The exit code is 0 when nothing speaks against the migration, and 9 when a subject would
refuse its new schema, or the stream or the application would fail after it.`,
		Example: "  walferry schema plan migration.sql --admin-dsn 'postgres://owner@localhost/shop'\n" +
			"  walferry schema plan *.sql --scratch 'postgres://postgres@localhost/postgres' --format markdown",
		Args: usage(both(cobra.MinimumNArgs(1), oneOf("format", &format, "text", "json", "markdown"))),
		RunE: func(cmd *cobra.Command, args []string) error {
			c, err := p.load()
			if err != nil {
				return err
			}
			if o.rehearse.LockTimeout <= 0 || o.rehearse.StatementTimeout <= 0 {
				return &usageError{err: errors.New("--lock-timeout and --statement-timeout are above 0: without them applications could wait for ever"), command: cmd.CommandPath()}
			}
			if o.admin == "" {
				o.admin = os.Getenv("WALFERRY_ADMIN_DSN")
			}
			o.files = args
			plan, err := p.plan(cmd.Context(), c, url, o)
			if err != nil {
				return err
			}
			switch format {
			case "json":
				err = p.printJSON(plan)
			case "markdown":
				err = p.printf("%s", plan.markdown())
			default:
				err = p.printf("%s", plan.text())
			}
			if err == nil && plan.Refused {
				err = &silentError{exitCheck}
			}
			return err
		},
	}
	cmd.Flags().StringVar(&o.admin, "admin-dsn", "", "connection string of a role that may run the migration; default WALFERRY_ADMIN_DSN, else source.dsn")
	cmd.Flags().DurationVar(&o.rehearse.LockTimeout, "lock-timeout", 2*time.Second, "how long a statement waits for a lock")
	cmd.Flags().DurationVar(&o.rehearse.StatementTimeout, "statement-timeout", 30*time.Second, "how long a statement may take")
	cmd.Flags().StringVar(&o.scratch, "scratch", "", "connection string of a server to copy the schema to, of a role that may create databases")
	cmd.Flags().StringVar(&o.pgDump, "pg-dump", "pg_dump", "the pg_dump to copy it with, beside a pg_restore; at least as new as both servers")
	registryFlag(cmd, &url)
	formatFlag(cmd, &format, "text", "json", "markdown")
	return cmd
}

type planOptions struct {
	files           []string
	admin           string
	scratch, pgDump string
	rehearse        source.RehearseOptions
}

// A migrationPlan is what a migration will do.
type migrationPlan struct {
	Files      []string       `json:"files"`
	Statements int            `json:"statements"`
	Scratch    bool           `json:"scratch"`
	NotRun     []notRun       `json:"not_run"`
	Notes      []string       `json:"notes"`
	Risks      []risk         `json:"risks"`     // of the publication as a whole
	Tables     []plannedTable `json:"tables"`    // those that something changes for
	Unchanged  []string       `json:"unchanged"` // the others
	Refused    bool           `json:"refused"`   // the exit code is 9
}

// notRun is a statement that was left out.
type notRun struct {
	File      string `json:"file"`
	Line      int    `json:"line"`
	Statement string `json:"statement"` // its beginning
	Reason    string `json:"reason"`
}

// plan tries the migration and asks the registry about what came of it. By the time that a registry is asked, no lock is held.
func (p *program) plan(ctx context.Context, c *config.Config, url string, o planOptions) (*migrationPlan, error) {
	plan := &migrationPlan{Files: o.files, Scratch: o.scratch != "", NotRun: []notRun{}, Notes: []string{}, Risks: []risk{}, Tables: []plannedTable{}, Unchanged: []string{}}
	statements, err := p.readMigration(o.files)
	if err != nil {
		return nil, err
	}
	where := script.InTransaction
	if plan.Scratch {
		where = script.InScratch
	}
	var steps []source.Step
	var run []script.Statement // of steps
	leave := func(s *script.Statement, why string) {
		plan.NotRun = append(plan.NotRun, notRun{s.File, s.Line, s.Head(), why})
	}
	refused := func(words map[int]string) {
		for i := range run {
			if words[i] != "" {
				leave(&run[i], words[i])
			}
		}
	}
	for i := range statements {
		s := &statements[i]
		if why := s.Outside(where); why != "" {
			leave(s, why)
			continue
		}
		steps, run = append(steps, source.Step{SQL: s.SQL, Savepoint: s.Savepoint()}), append(run, *s)
	}
	rehearsal, err := rehearse(ctx, c, o, steps)
	if err != nil {
		if e, ok := errors.AsType[*source.RehearsalError](err); ok && e.Step >= 0 {
			refused(e.Refused)
			return nil, within(exitSource, newMigrationError(e, &run[e.Step], plan.NotRun))
		}
		return nil, err
	}
	refused(rehearsal.Refused)
	slices.SortStableFunc(plan.NotRun, func(a, b notRun) int {
		if d := slices.Index(o.files, a.File) - slices.Index(o.files, b.File); d != 0 {
			return d
		}
		return a.Line - b.Line
	})
	plan.Statements = len(statements) - len(plan.NotRun)

	subjects, err := p.openSubjects(ctx, url)
	if err != nil {
		return nil, err
	}
	saved := peekMoves(ctx, c, plan)
	pl := &planner{
		config: c, subjects: subjects, before: rehearsal.Before, after: rehearsal.After, trigger: rehearsal.DDLTrigger, scratch: plan.Scratch,
		version14: rehearsal.System.Major() == 14,
		topics:    newTopics(c, saved),
	}
	return plan, pl.make(ctx, plan)
}

// readMigration splits the files into statements.
func (p *program) readMigration(files []string) ([]script.Statement, error) {
	var all []script.Statement
	for i, file := range files {
		if slices.Contains(files[:i], file) {
			return nil, &usageError{err: fmt.Errorf("%s is given twice", file), command: "walferry schema plan"}
		}
		text, err := p.readInput(file)
		if err != nil {
			return nil, err
		}
		list, err := script.Split(file, string(text))
		if e, ok := errors.AsType[*script.Error](err); ok {
			return nil, &config.Error{Path: fmt.Sprintf("%s:%d", e.File, e.Line), Problem: e.Problem, Remedy: e.Remedy}
		}
		all = append(all, list...)
	}
	if len(all) == 0 {
		return nil, &config.Error{Path: strings.Join(files, ", "), Problem: "there is no statement in it", Remedy: "give the SQL of the migration"}
	}
	return all, nil
}

// rehearse runs the statements where they are to be tried.
func rehearse(ctx context.Context, c *config.Config, o planOptions, steps []source.Step) (*source.Rehearsal, error) {
	sc, err := c.ForSource()
	if err != nil {
		return nil, err
	}
	if o.admin != "" {
		sc.DSN, sc.PasswordFile, err = o.admin, "", sameDatabase(sc.DSN, o.admin)
		if err != nil {
			return nil, err
		}
	}
	if o.scratch != "" {
		return rehearseInScratch(ctx, sc, o, steps)
	}
	cat, err := source.OpenCatalog(ctx, sc)
	if err != nil {
		return nil, within(exitSource, err)
	}
	defer cat.Close()
	r, err := cat.Rehearse(ctx, steps, o.rehearse)
	return r, within(exitSource, err)
}

// A migrationError is a statement that the server refused.
type migrationError struct {
	statement *script.Statement
	line      int
	err       *source.RehearsalError
	missed    []notRun
}

func (e *migrationError) Error() string {
	return fmt.Sprintf("%s:%d: %s: %v", e.statement.File, e.line, e.statement.Head(), e.err)
}
func (e *migrationError) Unwrap() error { return e.err.Err }

// Hint is the way on.
func (e *migrationError) Hint() string {
	h := e.err.Hint()
	if len(e.missed) > 0 {
		m := e.missed[0]
		more := fmt.Sprintf("%s:%d was not run (%s); if this needs it, use --scratch", m.File, m.Line, m.Reason)
		if h == "" {
			return more
		}
		h += "; " + more
	}
	return h
}

func newMigrationError(err *source.RehearsalError, s *script.Statement, left []notRun) *migrationError {
	m := &migrationError{statement: s, line: s.Line, err: err}
	if text := []rune(s.SQL); err.Offset > 0 && err.Offset <= len(text) {
		m.line += strings.Count(string(text[:err.Offset]), "\n")
	}
	for _, n := range left {
		if n.File != s.File || n.Line < s.Line {
			m.missed = append(m.missed, n)
		}
	}
	return m
}

// peekTimeout bounds the look at where tables have moved to.
const peekTimeout = 10 * time.Second

// peekMoves reads where tables have moved to. A migration can be planned where only the database and the registry are in reach.
func peekMoves(ctx context.Context, c *config.Config, plan *migrationPlan) *checkpoint.State {
	ctx, cancel := context.WithTimeout(ctx, peekTimeout)
	defer cancel()
	state, err := func() (*checkpoint.State, error) {
		kc, err := c.ForKafka()
		if err != nil {
			return nil, err
		}
		client, err := kafka.New(kc)
		if err != nil {
			return nil, err
		}
		defer client.Close()
		return pipeline.Peek(ctx, client, c.Checkpoint.Topic)
	}()
	if err != nil {
		plan.Notes = append(plan.Notes, "Kafka could not be asked where tables have moved to by on_incompatible: new-topic; they are taken to be in the topics of their names")
		return new(checkpoint.State)
	}
	return state
}

// planner compares the tables before and after.
type planner struct {
	config        *config.Config
	subjects      *subjects
	before, after *source.Shape
	trigger       bool
	scratch       bool
	version14     bool
	topics        *pipeline.Topics
	derived       map[string]*derived // of before, by topic
}

// derived is a table with its schemas.
type derived struct {
	*source.Captured
	table *schema.Table
	err   error
}

func (d *derived) name() string { return d.Schema + "." + d.Name }

// derive is what the pipeline does with a relation, see internal/pipeline/table.go.
func (pl *planner) derive(t *source.Captured) *derived {
	d := &derived{Captured: t}
	d.table, d.err = schema.Derive(t.Relation, t.Descriptor, pl.topics.Topic(t.Schema, t.Name), pl.options(t))
	return d
}

func (pl *planner) options(t *source.Captured) schema.Options {
	return pl.config.SchemaOptions(t.Schema, t.Name, "", "", version)
}

// make fills in the plan.
func (pl *planner) make(ctx context.Context, plan *migrationPlan) error {
	pl.derived = map[string]*derived{}
	var gone []*derived
	for i := range pl.before.Tables {
		d := pl.derive(&pl.before.Tables[i])
		if d.err == nil {
			pl.derived[d.table.Topic] = d
		}
		if pl.after.Table(d.OID) == nil {
			gone = append(gone, d)
		}
	}
	for i := range pl.after.Tables {
		t, err := pl.table(ctx, pl.derive(&pl.after.Tables[i]))
		if err != nil {
			return err
		}
		if t.quiet() {
			plan.Unchanged = append(plan.Unchanged, t.Table)
		} else {
			plan.Tables = append(plan.Tables, *t)
		}
	}
	for _, d := range gone {
		again := slices.IndexFunc(plan.Tables, func(t plannedTable) bool { return t.Table == d.name() })
		if again >= 0 {
			plan.Tables[again].Risks = append(pl.left(d), plan.Tables[again].Risks...)
			continue
		}
		plan.Tables = append(plan.Tables, plannedTable{Table: d.name(), Subjects: []plannedSubject{}, Risks: pl.left(d), Choices: []choice{}})
	}
	slices.SortStableFunc(plan.Tables, func(a, b plannedTable) int { return strings.Compare(a.Table, b.Table) })
	name := pl.config.Source.Publication.Name
	switch {
	case pl.before.Publication && !pl.after.Publication:
		plan.Risks = append(plan.Risks, risk{Kind: "publication", Severity: source.Fail, Text: "the publication " + name + " is dropped, and the slot cannot be read without it", Remedy: "leave it as it is"})
	case !pl.after.Publication:
		plan.Notes = append(plan.Notes, "the publication "+name+" does not exist yet: what it will hold is taken from the configuration")
	}
	if err := pl.after.Unpublishable; err != nil {
		plan.Risks = append(plan.Risks, risk{Kind: "publication", Severity: source.Fail, Text: err.Error(), Remedy: hint(err)})
	}
	refuses := func(r risk) bool { return r.Severity == source.Fail }
	plan.Refused = slices.ContainsFunc(plan.Risks, refuses) || slices.ContainsFunc(plan.Tables, func(t plannedTable) bool { return t.refused() })
	return nil
}

// A plannedTable is what changes for a table.
type plannedTable struct {
	Table    string           `json:"table"`         // schema.table after the migration, or as it was where it is gone
	Was      string           `json:"was,omitempty"` // another name that it had
	Topic    string           `json:"topic,omitempty"`
	Policy   string           `json:"on_incompatible,omitempty"`
	Subjects []plannedSubject `json:"subjects"`
	Risks    []risk           `json:"risks"`
	Choices  []choice         `json:"choices"`
}

func (t *plannedTable) quiet() bool { return len(t.Subjects)+len(t.Risks) == 0 && t.Was == "" }

func (t *plannedTable) refused() bool {
	return slices.ContainsFunc(t.Subjects, func(s plannedSubject) bool { return s.Verdict == verdictIncompatible }) ||
		slices.ContainsFunc(t.Risks, func(r risk) bool { return r.Severity == source.Fail })
}

// Verdicts of a subject.
const (
	verdictNew          = "new"
	verdictCompatible   = "compatible"
	verdictIncompatible = "incompatible"
)

// A plannedSubject is a subject that gets another schema.
type plannedSubject struct {
	Subject string         `json:"subject"`
	Level   registry.Level `json:"level"`
	// Version is the newest in the registry; 0 for none.
	Version int    `json:"version"`
	Verdict string `json:"verdict"`
	// Registered is the version that has the new schema already; 0 for none.
	Registered int                   `json:"registered,omitempty"`
	Changes    []registry.Difference `json:"changes"`
	Findings   []planFinding         `json:"findings"`
	// Messages are the registry's own, where it refuses what is not known here.
	Messages []string `json:"messages"`

	previous []registry.Previous
}

type planFinding struct {
	checkFinding
	// Version has it; 0 for the schema that the table has before the migration, where the registry does not have that.
	Version int `json:"version"`
}

// table says what changes for a table that is captured afterwards.
func (pl *planner) table(ctx context.Context, after *derived) (*plannedTable, error) {
	t := &plannedTable{Table: after.name(), Topic: pl.topics.Topic(after.Schema, after.Name), Subjects: []plannedSubject{}, Risks: []risk{}, Choices: []choice{}}
	t.Policy = pl.config.OnIncompatible(after.Schema, after.Name)
	var before *derived
	if b := pl.before.Table(after.OID); b != nil {
		before = pl.derive(b)
		if n := before.name(); n != t.Table {
			t.Was = n
		}
	}
	t.Risks = append(t.Risks, pl.risks(before, after)...)
	if after.err != nil {
		if before == nil || before.err == nil {
			t.Risks = append(t.Risks, risk{Kind: "schema", Severity: source.Fail, Text: "no schema can be made of it, and the stream would stop: " + after.err.Error(), Remedy: hint(after.err)})
		}
		return t, nil
	}
	moved := before == nil || before.err != nil || before.table.Topic != after.table.Topic
	// The topic may have been another table's.
	held := pl.derived[after.table.Topic]
	for _, s := range []struct{ subject, now, was string }{
		{after.table.KeySubject, after.table.Key, keyOf(held)},
		{after.table.ValueSubject, after.table.Value, valueOf(held)},
	} {
		if s.now == "" || s.now == s.was && !moved {
			continue
		}
		sub, err := pl.subject(ctx, s.subject, s.now, s.was, pl.config.Compatibility(after.Schema, after.Name))
		if err != nil {
			return nil, err
		}
		if len(sub.Changes) > 0 || sub.Verdict != verdictCompatible {
			t.Subjects = append(t.Subjects, *sub)
		}
	}
	t.Choices = append(t.Choices, pl.choices(t, before, after)...)
	return t, nil
}

func keyOf(d *derived) string {
	if d == nil {
		return ""
	}
	return d.table.Key
}

func valueOf(d *derived) string {
	if d == nil {
		return ""
	}
	return d.table.Value
}

// subject asks the registry about a new schema; was is the one that the subject has, or gets before it, and "" for none. level is
// for one that is not there yet.
func (pl *planner) subject(ctx context.Context, name, now, was string, level registry.Level) (*plannedSubject, error) {
	s := &plannedSubject{Subject: name, Verdict: verdictCompatible, Changes: []registry.Difference{}, Findings: []planFinding{}, Messages: []string{}}
	next, err := registry.ParseAvro(now)
	if err != nil {
		return nil, fmt.Errorf("subject %s: %w", name, err)
	}
	numbers, err := pl.subjects.Versions(ctx, name, false)
	if isCode(err, registry.CodeSubjectNotFound) {
		numbers, err = nil, nil
	}
	if err != nil {
		return nil, err
	}
	if s.Level, err = pl.level(ctx, name, level); err != nil {
		return nil, err
	}
	s.previous = make([]registry.Previous, len(numbers))
	if err := each(ctx, len(numbers), func(ctx context.Context, i int) error {
		r, err := pl.subjects.version(ctx, name, fmt.Sprint(numbers[i]), false)
		if err != nil {
			return err
		}
		s.previous[i].Version = r.Version
		s.previous[i].Schema, err = avroOf(&r)
		return err
	}); err != nil {
		return nil, err
	}
	old := was
	if n := len(numbers); n > 0 {
		s.Version = numbers[n-1]
		if old == "" {
			old = s.previous[n-1].Schema.String()
		}
		if s.Registered, err = pl.registered(ctx, name, now); err != nil {
			return nil, err
		}
	}
	if old == "" {
		s.Verdict = verdictNew
		return s, nil
	}
	parsed, err := registry.ParseStored(old)
	if err != nil {
		return nil, fmt.Errorf("subject %s: %w", name, err)
	}
	s.Changes = append(s.Changes, registry.Diff(parsed, next)...)
	if s.Registered > 0 {
		return s, nil // a registry takes what it has, whatever the level
	}
	// Rows that were written under the schema from before and are not published yet come first, with a version of their own.
	if was != "" {
		have := 0
		if len(numbers) > 0 {
			if have, err = pl.registered(ctx, name, was); err != nil {
				return nil, err
			}
		}
		if have == 0 {
			s.previous = append(s.previous, registry.Previous{Schema: parsed})
		}
	}
	for _, f := range registry.Check(s.Level, next, s.previous) {
		reader := "old"
		if f.ReaderIsNew {
			reader = "new"
		}
		for _, ff := range fieldFindings([]registry.Incompatibility{f.Incompatibility}) {
			if c := (planFinding{checkFinding{ff, reader}, f.Version}); !slices.Contains(s.Findings, c) {
				s.Findings = append(s.Findings, c)
			}
		}
	}
	if len(s.Findings) == 0 && len(numbers) > 0 {
		// It is the registry that decides: it may have rules of its own.
		ok, why, err := pl.subjects.Compatible(ctx, name, now)
		if err != nil {
			return nil, err
		}
		if !ok {
			s.Verdict, s.Messages = verdictIncompatible, append(s.Messages, why...)
		}
	}
	if len(s.Findings) > 0 {
		s.Verdict = verdictIncompatible
	}
	return s, nil
}

// registered is the version under which a subject has a schema; 0 for none.
func (pl *planner) registered(ctx context.Context, subject, avro string) (int, error) {
	_, n, err := pl.subjects.Lookup(ctx, subject, avro)
	if isCode(err, registry.CodeSchemaNotFound) || isCode(err, registry.CodeSubjectNotFound) {
		return 0, nil
	}
	return n, err
}

// level is the one that counts for a subject, or will once walferry has made it with this one, as registry.Registrar does.
func (pl *planner) level(ctx context.Context, subject string, made registry.Level) (registry.Level, error) {
	level, own, err := pl.subjects.Level(ctx, subject)
	if err != nil || own {
		return level, err
	}
	there, err := pl.subjects.HasSubject(ctx, subject)
	if err == nil && !there {
		level = made
	}
	return level, err
}
