package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"walferry/internal/admin"
	"walferry/internal/config"
	"walferry/internal/kafka"
	"walferry/internal/pipeline"
	"walferry/source"
)

func newBackfillCommand(p *program) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "backfill",
		Short: "Copy rows of tables that are captured already, and show how far that is",
		Long: `Ask a running walferry at admin.listen to copy the rows of tables while their
changes are streamed, as the first start does by backfill.mode: each row becomes
an event with op r. A command is answered when it is saved, so it outlives the
process. A row that was deleted before a copy sends no delete event.

TABLE is schema.table, with * for any characters and double quotes around a name
that has a dot or a star.`,
		Args: usage(noArgs),
		RunE: func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	cmd.AddCommand(newBackfillStart(p), newBackfillDo(p, "pause", "Stop reading tables for now",
		`Have no more rows read of the tables, until resume or cancel. What is copied stays, and
resume goes on behind it; only a table without a key begins anew.`),
		newBackfillDo(p, "resume", "Go on with copies that are paused", "Go on with copies that are paused, behind the last row that was copied."),
		newBackfillDo(p, "cancel", "End copies that are not done",
			`End copies that are not done. What is copied stays in the topics, and the tables are not
copied again by themselves: not with the next start, nor with another backfill.mode.`),
		newBackfillStatus(p))
	return cmd
}

// tablesOrAll checks the arguments of a command about copies.
func tablesOrAll(all *bool) cobra.PositionalArgs {
	return func(_ *cobra.Command, args []string) error {
		switch {
		case len(args) == 0 && !*all:
			return errors.New("name the tables, or give --all")
		case len(args) > 0 && *all:
			return errors.New("name the tables or give --all, not both")
		}
		return nil
	}
}

func newBackfillStart(p *program) *cobra.Command {
	var r admin.BackfillRequest
	var wait bool
	cmd := &cobra.Command{
		Use:   "start {TABLE... | --all}",
		Short: "Copy the rows of tables, also where they were copied before",
		Long: `Copy the rows of the tables, also of those that were copied before: the copy gets
the next generation, which is in the id of each event. All tables begin, or none.
With --where only rows that fit a condition are copied: what follows WHERE in a
SELECT of that table alone, with the schema before other names than those of its
columns. The server is asked whether it is one before anything begins. A table
without a key takes no condition: its copy begins with a truncate event.

A copy that is under way is left alone; --force gives it up and begins anew.`,
		Example: "  walferry backfill start public.orders --where \"created_at >= '2026-01-01'\" --wait\n  walferry backfill start --all",
		Args:    usage(tablesOrAll(&r.All)),
		RunE: func(cmd *cobra.Command, args []string) error {
			r.Tables = args
			return p.backfill(cmd.Context(), "start", r, wait)
		},
		ValidArgsFunction: p.completeTables,
	}
	cmd.Flags().BoolVar(&r.All, "all", false, "every captured table")
	cmd.Flags().StringVar(&r.Where, "where", "", "copy only rows that fit this condition in SQL")
	cmd.Flags().BoolVar(&r.Force, "force", false, "begin anew where a copy is under way")
	cmd.Flags().BoolVar(&wait, "wait", false, "show progress until the copies are done; fails if one is not")
	return cmd
}

func newBackfillDo(p *program, do, short, long string) *cobra.Command {
	var r admin.BackfillRequest
	cmd := &cobra.Command{
		Use: do + " {TABLE... | --all}", Short: short, Long: long,
		Args: usage(tablesOrAll(&r.All)),
		RunE: func(cmd *cobra.Command, args []string) error {
			r.Tables = args
			return p.backfill(cmd.Context(), do, r, false)
		},
		ValidArgsFunction: p.completeTables,
	}
	cmd.Flags().BoolVar(&r.All, "all", false, "every table to which this can be done")
	return cmd
}

func newBackfillStatus(p *program) *cobra.Command {
	var asJSON, watch bool
	cmd := &cobra.Command{
		Use:   "status [TABLE...]",
		Short: "Show how far the copies of tables are",
		Long: `Show for each captured table the state of the copy of its rows, how far it is, what
it waits for, and which one follows why:

  waiting     its first rows are still to be read
  copying     rows are read
  paused      until resume or cancel
  done        all rows are copied
  cancelled   by walferry backfill cancel
  skipped     no copy was wanted when its capture began, see backfill.mode
  uncaptured  not captured any more; copied when it is again

Without a running walferry it is what was last saved. With --watch progress is shown
until no copy is under way: bars on a terminal, else a line for each table every 10 s.`,
		Args: usage(exclusive("json", "watch")),
		RunE: func(cmd *cobra.Command, args []string) error {
			c, err := p.load()
			if err != nil {
				return err
			}
			pick, err := pickTables(args)
			if err != nil {
				return &usageError{err: err, command: cmd.CommandPath()}
			}
			if watch {
				err := p.watchCopies(cmd.Context(), c, pick, func(s *admin.CopyStatus) bool { return copyOver(s.State) })
				if cmd.Context().Err() != nil {
					return nil // that is how watching ends
				}
				return err
			}
			return p.backfillStatus(cmd.Context(), c, pick, asJSON)
		},
		ValidArgsFunction: p.completeTables,
	}
	cmd.Flags().BoolVar(&asJSON, "json", false, "print JSON")
	cmd.Flags().BoolVar(&watch, "watch", false, "show progress until no copy is under way")
	return cmd
}

// pickTables says whether a table is one of those named, with patterns as in source.tables.
func pickTables(tables []string) (func(*admin.CopyStatus) bool, error) {
	sc := source.Config{Tables: tables}
	if _, err := sc.Selects("", ""); err != nil {
		return nil, err
	}
	return func(s *admin.CopyStatus) bool {
		schemaName, table, _ := strings.Cut(s.Table, ".")
		is, err := sc.Selects(schemaName, table)
		return len(tables) == 0 || err == nil && is
	}, nil
}

func copyOver(state string) bool {
	return state != "waiting" && state != "copying" && state != "paused"
}

// backfill sends one command and shows the answer.
func (p *program) backfill(ctx context.Context, do string, r admin.BackfillRequest, wait bool) error {
	c, err := p.load()
	if err != nil {
		return err
	}
	body, err := json.Marshal(r)
	if err != nil {
		return err
	}
	code, answer, err := adminRequest(ctx, c, http.MethodPost, "/backfill/"+do, body, admin.BackfillTimeout+5*time.Second)
	if err != nil {
		return notRunning(ctx, c, err)
	}
	if code != http.StatusOK {
		var problem admin.Problem
		if err := json.Unmarshal(answer, &problem); err != nil || problem.Text == "" {
			return fmt.Errorf("admin.listen %s answers %d to a command about copies: another program, or another version of walferry, listens there", c.Admin.Listen, code)
		}
		problem.Code = code
		return &backfillProblem{problem}
	}
	var reply admin.BackfillReply
	if err := json.Unmarshal(answer, &reply); err != nil {
		return fmt.Errorf("read the answer of %s: %w", c.Admin.Listen, err)
	}
	if len(reply.Tables) == 0 {
		return p.printf("there is no table to %s\n", do)
	}
	generation := map[string]uint32{}
	for _, t := range reply.Tables {
		text := fmt.Sprintf("%s: %s, generation %d", t.Table, t.State, t.Generation)
		if t.Note != "" {
			text += "; " + t.Note
		}
		if err := p.printf("%s\n", text); err != nil {
			return err
		}
		generation[t.Table] = t.Generation
	}
	if !wait {
		return nil
	}
	failed := map[string]string{}
	err = p.watchCopies(ctx, c, func(s *admin.CopyStatus) bool { return generation[s.Table] != 0 }, func(s *admin.CopyStatus) bool {
		if s.Generation < generation[s.Table] || !copyOver(s.State) {
			return false // status is a moment behind the answer
		}
		if delete(failed, s.Table); s.State != "done" {
			failed[s.Table] = s.State
		}
		return true
	})
	if err != nil {
		return err
	}
	for table, state := range failed {
		return fmt.Errorf("the copy of table %s is %s", table, state)
	}
	return nil
}

// notRunning is the error where no walferry can be asked.
func notRunning(ctx context.Context, c *config.Config, err error) error {
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	if c.Admin.Listen == "" {
		return err
	}
	return fmt.Errorf("no walferry answers at admin.listen %s, and only a running one copies tables: %w", c.Admin.Listen, err)
}

// backfillProblem is what a running walferry answers instead of doing something.
type backfillProblem struct{ admin.Problem }

func (e *backfillProblem) Error() string { return e.Text }

// Hint is the way on.
func (e *backfillProblem) Hint() string { return e.Remedy }

// exitCode says whose fault it is.
func (e *backfillProblem) exitCode() int {
	switch e.Code {
	case http.StatusBadRequest, http.StatusNotFound:
		return exitConfig
	case http.StatusBadGateway:
		return exitSource
	}
	return exitError
}

// completeTables completes tables from what a running walferry knows.
func (p *program) completeTables(cmd *cobra.Command, args []string, begun string) ([]cobra.Completion, cobra.ShellCompDirective) {
	c, err := p.load()
	if err != nil {
		return nil, cobra.ShellCompDirectiveError
	}
	s, err := askStatus(cmd.Context(), c)
	if err != nil {
		return nil, cobra.ShellCompDirectiveError
	}
	var names []string
	for i := range s.Copies {
		if t := s.Copies[i].Table; strings.HasPrefix(t, begun) && !slices.Contains(args, t) {
			names = append(names, t)
		}
	}
	return names, cobra.ShellCompDirectiveNoFileComp
}

// askStatus asks the running walferry of this configuration for its status.
func askStatus(ctx context.Context, c *config.Config) (*admin.Status, error) {
	_, body, err := ask(ctx, c, "/status")
	if err != nil {
		return nil, err
	}
	s := new(admin.Status)
	if err := json.Unmarshal(body, s); err != nil {
		return nil, fmt.Errorf("read the answer of %s: %w", c.Admin.Listen, err)
	}
	return s, nil
}

// backfillStatus shows the copies of all tables, or of some.
func (p *program) backfillStatus(ctx context.Context, c *config.Config, pick func(*admin.CopyStatus) bool, asJSON bool) error {
	out := struct {
		Running bool               `json:"running"`
		State   string             `json:"state,omitempty"`
		Copies  []admin.CopyStatus `json:"backfill"`
	}{Copies: []admin.CopyStatus{}}
	var copies []admin.CopyStatus
	s, err := askStatus(ctx, c)
	switch {
	case err == nil:
		out.Running, out.State, copies = true, s.State, s.Copies
	case ctx.Err() != nil:
		return context.Cause(ctx)
	}
	if len(copies) == 0 {
		// No walferry, or one that has not streamed yet.
		saved, serr := savedCopies(ctx, c)
		if serr != nil {
			if err != nil {
				return fmt.Errorf("no walferry answers at admin.listen (%w), and what it has saved cannot be read: %w", err, serr)
			}
			return serr
		}
		copies = saved
	}
	for i := range copies {
		if pick(&copies[i]) {
			out.Copies = append(out.Copies, copies[i])
		}
	}
	if asJSON {
		return p.printJSON(out)
	}
	if !out.Running {
		if err := p.printf("not running: this is what was last saved\n\n"); err != nil {
			return err
		}
	}
	return p.showCopies(out.Copies)
}

// savedCopies reads the checkpoint topic.
func savedCopies(ctx context.Context, c *config.Config) ([]admin.CopyStatus, error) {
	kc, err := c.ForKafka()
	if err != nil {
		return nil, err
	}
	client, err := kafka.New(kc)
	if err != nil {
		return nil, within(exitKafka, err)
	}
	defer client.Close()
	ctx, done := context.WithTimeout(ctx, 10*time.Second)
	defer done()
	state, err := pipeline.Peek(ctx, client, c.Checkpoint.Topic)
	if err != nil {
		return nil, within(exitKafka, fmt.Errorf("read checkpoint topic %s: %w", c.Checkpoint.Topic, err))
	}
	list, err := pipeline.SavedCopies(state)
	if err != nil {
		return nil, err
	}
	var out []admin.CopyStatus
	for i := range list {
		out = append(out, copyStatus(&list[i]))
	}
	return out, nil
}

func (p *program) showCopies(copies []admin.CopyStatus) error {
	if len(copies) == 0 {
		return p.printf("no table has a copy\n")
	}
	w := tabwriter.NewWriter(p.stdout, 0, 0, 2, ' ', 0)
	if _, err := fmt.Fprintln(w, "TABLE\tSTATE\tGENERATION\tROWS\tOF ABOUT\tBYTES\tROWS/S\tLEFT\tRANGES\tWORKERS\tNOTE"); err != nil {
		return err
	}
	for i := range copies {
		c := &copies[i]
		number := func(n int64) string {
			if n == 0 {
				return "-"
			}
			return fmt.Sprint(n)
		}
		ranges, left := "-", "-"
		if c.Ranges > 0 {
			ranges = fmt.Sprintf("%d/%d", c.RangesDone, c.Ranges)
		}
		if c.LeftSeconds > 0 {
			left = seconds(c.LeftSeconds)
		}
		if _, err := fmt.Fprintf(w, "%s\t%s\t%d\t%d\t%s\t%s\t%s\t%s\t%s\t%s\t%s\n", c.Table, c.State, c.Generation, c.Rows, number(c.Estimated), bytesText(c.Bytes),
			number(int64(c.RowsPerSecond)), left, ranges, number(int64(c.Workers)), copyNote(c)); err != nil {
			return err
		}
	}
	return w.Flush()
}

// copyNote is what there is to say of a copy beside its numbers.
func copyNote(c *admin.CopyStatus) string {
	var notes []string
	if c.Where != "" {
		notes = append(notes, "where "+c.Where)
	}
	switch {
	case c.Waits != "":
		notes = append(notes, "waits: "+c.Waits)
	case c.Turn > 0 && c.Order != "":
		notes = append(notes, fmt.Sprintf("number %d to follow: %s", c.Turn, c.Order))
	case c.State == "done" && c.Started != nil && c.Finished != nil:
		notes = append(notes, fmt.Sprintf("from %s, took %s", c.Started.UTC().Format(time.RFC3339), c.Finished.Sub(*c.Started).Round(time.Millisecond)))
	}
	return strings.Join(notes, "; ")
}

func seconds(n float64) string {
	return time.Duration(n * float64(time.Second)).Round(time.Second).String()
}

const (
	watchEach = 500 * time.Millisecond // between two looks
	watchLine = 10 * time.Second       // between two lines of one table, where there is no terminal
	watchLost = time.Minute            // how long a walferry that does not answer is waited for
	watchBars = 20                     // tables that are shown at a time
)

// watchCopies shows the copies of some tables until of all of them over says that there is nothing to wait for.
func (p *program) watchCopies(ctx context.Context, c *config.Config, pick, over func(*admin.CopyStatus) bool) error {
	terminal := isTerminal(p.stdout)
	said := map[string]time.Time{}
	states := map[string]string{}
	drawn := 0
	var lost time.Time
	for {
		s, err := askStatus(ctx, c)
		switch {
		case ctx.Err() != nil:
			return context.Cause(ctx)
		case err != nil && lost.IsZero():
			lost = time.Now()
		case err != nil && time.Since(lost) > watchLost:
			return notRunning(ctx, c, err)
		case err == nil:
			lost = time.Time{}
		}
		if err != nil {
			if err := wait(ctx, watchEach); err != nil {
				return err
			}
			continue
		}
		open, known := 0, 0
		var lines []string
		for i := range s.Copies {
			t := &s.Copies[i]
			if !pick(t) {
				continue
			}
			known++
			ended := over(t)
			if !ended {
				open++
			}
			// Every change of a copy's state, and of what it waits for, is a line by itself.
			now := fmt.Sprint(t.Generation, t.State, t.Waits)
			before, seen := states[t.Table]
			states[t.Table] = now
			changed := now != before && (seen || !ended)
			switch {
			case !terminal && (changed || t.State == "copying" && time.Since(said[t.Table]) >= watchLine):
				said[t.Table] = time.Now()
				lines = append(lines, t.Table+": "+copyText(t))
			case terminal && !ended && len(lines) < watchBars:
				lines = append(lines, copyBar(t))
			}
		}
		if terminal {
			if more := open - len(lines); more > 0 {
				lines = append(lines, counted(int64(more), "more table")+" to come")
			}
			if open == 0 && known > 0 {
				lines = append(lines, "nothing is left to copy")
			}
			if drawn > 0 {
				// Up to the first of the lines before, and everything from there on away.
				if err := p.printf("\x1b[%dA\x1b[J", drawn); err != nil {
					return err
				}
			}
			drawn = len(lines)
		}
		for _, line := range lines {
			if err := p.printf("%s\n", line); err != nil {
				return err
			}
		}
		if open == 0 && (known > 0 || s.State == "streaming") {
			return nil
		}
		if err := wait(ctx, watchEach); err != nil {
			return err
		}
	}
}

// copyBar is one line of a terminal.
func copyBar(c *admin.CopyStatus) string {
	const width, name, line = 20, 28, 118
	table := c.Table
	if r := []rune(table); len(r) > name {
		table = string(r[:name-1]) + "…"
	}
	done, share := 0, "    "
	if c.Estimated > 0 {
		f := min(0.99, float64(c.Rows)/float64(c.Estimated))
		done, share = int(f*width), fmt.Sprintf("%2.0f %%", 100*f)
	}
	text := fmt.Sprintf("%-*s [%s%s] %s %s", name, table, strings.Repeat("#", done), strings.Repeat(".", width-done), share, copyText(c))
	if r := []rune(text); len(r) > line {
		text = string(r[:line-1]) + "…"
	}
	return text
}

// copyText says in words how far a copy is.
func copyText(c *admin.CopyStatus) string {
	text := fmt.Sprintf("%s, %s", c.State, counted(c.Rows, "row"))
	if c.Estimated > 0 {
		text += fmt.Sprintf(" of about %d (%.0f %%)", c.Estimated, min(99, 100*float64(c.Rows)/float64(c.Estimated)))
	}
	if c.Bytes > 0 {
		text += ", " + bytesText(c.Bytes)
	}
	if c.RowsPerSecond > 0 {
		text += fmt.Sprintf(", %.0f rows/s", c.RowsPerSecond)
	}
	if c.LeftSeconds > 0 {
		text += ", about " + seconds(c.LeftSeconds) + " left"
	}
	if c.Ranges > 1 {
		text += fmt.Sprintf(", %d of %d ranges", c.RangesDone, c.Ranges)
	}
	if note := copyNote(c); note != "" {
		text += "; " + note
	}
	return text
}

// copyStatus is a copy as the admin listener shows it.
func copyStatus(c *pipeline.CopyProgress) admin.CopyStatus {
	return admin.CopyStatus{
		Table: c.Schema + "." + c.Table, Generation: c.Generation, State: string(c.State), Where: c.Where, Rows: c.Rows, Estimated: c.Estimated, Bytes: c.Bytes,
		Newer: c.Newer, Ranges: c.Ranges, RangesDone: c.Done, Workers: c.Workers, RowsPerSecond: c.RowsPerSecond, BytesPerSecond: c.BytesPerSecond,
		LeftSeconds: c.Left.Seconds(), Waits: c.Waits, Turn: c.Turn, Order: c.Order,
		Asked: moment(c.Asked), Started: moment(c.Started), Finished: moment(c.Finished),
	}
}

// askBackfill has the pipeline do what the admin listener is asked.
func (s *statusOf) askBackfill(ctx context.Context, do string, r admin.BackfillRequest) (*admin.BackfillReply, *admin.Problem) {
	answers, err := s.pipeline.Backfill(ctx, pipeline.BackfillCommand{Do: pipeline.BackfillDo(do), Tables: r.Tables, All: r.All, Where: r.Where, Force: r.Force})
	if err != nil {
		return nil, problemOf(err)
	}
	out := &admin.BackfillReply{Tables: []admin.BackfillTable{}}
	for _, a := range answers {
		out.Tables = append(out.Tables, admin.BackfillTable{Table: a.Table, Generation: a.Generation, State: string(a.State), Note: a.Note})
	}
	return out, nil
}

// problemOf is an error of a command about copies in HTTP's words.
func problemOf(err error) *admin.Problem {
	out := &admin.Problem{Code: http.StatusBadGateway, Text: err.Error(), Remedy: hint(err)} // mostly it is the database that says no
	e, ok := errors.AsType[*pipeline.BackfillError](err)
	switch {
	case errors.Is(err, context.DeadlineExceeded):
		out.Code, out.Text = http.StatusGatewayTimeout, fmt.Sprintf("the command could not be saved within %v; it may be done all the same", admin.BackfillTimeout)
		out.Remedy = "`walferry backfill status` shows what is saved, `walferry status` what keeps it"
	case ok && e.Unknown:
		out.Code = http.StatusNotFound
	case ok && e.Absent:
		out.Code = http.StatusServiceUnavailable
	case ok && e.State:
		out.Code = http.StatusConflict
	case ok, is[*source.ConditionError](err):
		out.Code = http.StatusBadRequest
	}
	return out
}
