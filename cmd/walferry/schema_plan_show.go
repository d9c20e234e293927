package main

import (
	"fmt"
	"strings"

	"walferry/schema/registry"
	"walferry/source"
)

// summary is the plan in one sentence.
func (m *migrationPlan) summary() string {
	incompatible, failing := 0, len(m.failing(m.Risks))
	for i := range m.Tables {
		t := &m.Tables[i]
		for _, s := range t.Subjects {
			if s.Verdict == verdictIncompatible {
				incompatible++
			}
		}
		failing += len(m.failing(t.Risks))
	}
	var parts []string
	if incompatible > 0 {
		parts = append(parts, several(incompatible, "subject")+" would refuse the new schema")
	}
	if failing > 0 {
		parts = append(parts, several(failing, "thing")+" to mend first")
	}
	switch {
	case parts != nil:
		return strings.Join(parts, ", ")
	case len(m.Tables) == 0:
		return "nothing changes for consumers"
	}
	return "nothing speaks against it"
}

func (m *migrationPlan) failing(list []risk) (out []risk) {
	for _, r := range list {
		if r.Severity == source.Fail {
			out = append(out, r)
		}
	}
	return out
}

func several(n int, what string) string {
	if n == 1 {
		return "1 " + what
	}
	return fmt.Sprintf("%d %ss", n, what)
}

// tried says what was run, and where.
func (m *migrationPlan) tried() string {
	where := "run in a transaction and rolled back"
	if m.Scratch {
		where = "run in a scratch database"
	}
	s := fmt.Sprintf("%s %s", several(m.Statements, "statement"), where)
	if len(m.NotRun) > 0 {
		s += fmt.Sprintf(", %d not run", len(m.NotRun))
	}
	return s
}

// heading is a table with where its events go.
func (t *plannedTable) heading() string {
	s := t.Table
	if t.Was != "" {
		s += " (was " + t.Was + ")"
	}
	return s
}

// verdict is what becomes of a subject, in words.
func (s *plannedSubject) verdict() string {
	with := fmt.Sprintf("with version %d", s.Version)
	if s.Version == 0 {
		with = "with the schema from before the migration, of which the registry has no version yet"
	}
	switch {
	case s.Verdict == verdictNew:
		return "new, under " + string(s.Level)
	case s.Registered > 0:
		return fmt.Sprintf("compatible, since it has this schema as version %d", s.Registered)
	case s.Verdict == verdictCompatible:
		return fmt.Sprintf("compatible under %s %s", s.Level, with)
	case s.Level == registry.None:
		return "refused by the registry"
	case len(s.Findings) > 0 && s.Findings[0].Version == 0 && s.Version > 0:
		with = "with the schema from before the migration, of which the registry has no version yet"
	case len(s.Findings) > 0 && s.Findings[0].Version > 0:
		with = fmt.Sprintf("with version %d", s.Findings[0].Version)
	}
	return fmt.Sprintf("incompatible under %s %s", s.Level, with)
}

// after says what walferry does at the first row under a schema that is refused.
func (t *plannedTable) after() string {
	switch t.Policy {
	case "force":
		return "on_incompatible is force: walferry registers it all the same, and readers that use it on older events fail"
	case "new-topic":
		return "on_incompatible is new-topic: from the first row after the migration on the events go to another topic"
	}
	return "on_incompatible is stop: the stream stops before the first row after the migration"
}

// why lists the findings by who cannot read what.
func (s *plannedSubject) why() (out []struct{ who, lines string }) {
	for _, reader := range []string{"new", "old"} {
		var found []fieldFinding
		for _, f := range s.Findings {
			if f.Reader == reader {
				found = append(found, f.fieldFinding)
			}
		}
		if found == nil {
			continue
		}
		who := "a reader with the new schema cannot read older events"
		if reader == "old" {
			who = "a reader with the older schema cannot read new events"
		}
		var b strings.Builder
		writeFindings(&b, found)
		out = append(out, struct{ who, lines string }{who, b.String()})
	}
	return out
}

func indent(text, by string) string {
	var b strings.Builder
	for line := range strings.Lines(text) {
		b.WriteString(by + line)
	}
	return b.String()
}

func (m *migrationPlan) text() string {
	var b strings.Builder
	fmt.Fprintf(&b, "%s: %s\n", strings.Join(m.Files, ", "), m.tried())
	for _, n := range m.NotRun {
		fmt.Fprintf(&b, "  %s:%d: not run: %s\n    %s\n", n.File, n.Line, n.Reason, n.Statement)
	}
	for _, n := range m.Notes {
		fmt.Fprintf(&b, "note: %s\n", n)
	}
	writeRisks(&b, m.Risks, "")
	for i := range m.Tables {
		t := &m.Tables[i]
		fmt.Fprintf(&b, "\n%s\n", t.heading())
		refused := false
		for j := range t.Subjects {
			s := &t.Subjects[j]
			refused = refused || s.Verdict == verdictIncompatible
			fmt.Fprintf(&b, "  %s: %s\n", s.Subject, s.verdict())
			b.WriteString(indent(registry.FormatDiff(s.Changes, nil), "    "))
			for _, w := range s.why() {
				fmt.Fprintf(&b, "    %s:\n%s", w.who, indent(w.lines, "    "))
			}
			for _, message := range s.Messages {
				fmt.Fprintf(&b, "      %s\n", message)
			}
		}
		if refused {
			fmt.Fprintf(&b, "  %s\n", t.after())
		}
		writeRisks(&b, t.Risks, "  ")
		for _, c := range t.Choices {
			fmt.Fprintf(&b, "  instead: %s\n", c.heading())
			for k, step := range c.Steps {
				fmt.Fprintf(&b, "    %d. %s\n", k+1, step)
			}
		}
	}
	if len(m.Unchanged) > 0 {
		fmt.Fprintf(&b, "\nunchanged: %s\n", strings.Join(m.Unchanged, ", "))
	}
	fmt.Fprintf(&b, "\n%s\n", m.summary())
	return b.String()
}

func (c *choice) heading() string {
	if c.Checked {
		return c.Title + " (compatible in each step)"
	}
	return c.Title
}

func writeRisks(b *strings.Builder, list []risk, by string) {
	for _, r := range list {
		fmt.Fprintf(b, "%s%s  %s: %s\n", by, r.Severity, r.Kind, r.Text)
		if r.Remedy != "" {
			fmt.Fprintf(b, "%s      -> %s\n", by, r.Remedy)
		}
	}
}

// markdown is the plan for a pull request: the verdict first, what one may want to look up folded away.
func (m *migrationPlan) markdown() string {
	var b strings.Builder
	mark := "✅"
	if m.Refused {
		mark = "❌"
	}
	fmt.Fprintf(&b, "### %s Schema plan: %s\n\n%s: %s.\n", mark, m.summary(), codes(m.Files), m.tried())
	if len(m.NotRun) > 0 {
		b.WriteString("\n| not run | statement | because |\n| --- | --- | --- |\n")
		for _, n := range m.NotRun {
			fmt.Fprintf(&b, "| %s | %s | %s |\n", cell(fmt.Sprintf("%s:%d", n.File, n.Line)), codeCell(n.Statement), cell(n.Reason))
		}
	}
	for _, n := range m.Notes {
		fmt.Fprintf(&b, "\n> %s\n", n)
	}
	markdownRisks(&b, m.Risks)
	for i := range m.Tables {
		t := &m.Tables[i]
		fmt.Fprintf(&b, "\n#### %s\n", cell(t.heading()))
		if len(t.Subjects) > 0 {
			b.WriteString("\n| subject | verdict |\n| --- | --- |\n")
		}
		refused := false
		for j := range t.Subjects {
			s := &t.Subjects[j]
			sign := ""
			if s.Verdict == verdictIncompatible {
				refused, sign = true, "❌ "
			}
			fmt.Fprintf(&b, "| %s | %s%s |\n", codeCell(s.Subject), sign, cell(s.verdict()))
		}
		for j := range t.Subjects {
			s := &t.Subjects[j]
			if len(s.Changes) > 0 {
				fmt.Fprintf(&b, "\n```diff\n%s```\n", diffLines(s))
			}
			for _, w := range s.why() {
				fmt.Fprintf(&b, "\n%s:\n\n", w.who)
				for line := range strings.Lines(w.lines) {
					fmt.Fprintf(&b, "- %s\n", code(strings.TrimSpace(line)))
				}
			}
			for _, message := range s.Messages {
				fmt.Fprintf(&b, "\n- %s\n", code(message))
			}
		}
		if refused {
			fmt.Fprintf(&b, "\n%s.\n", t.after())
		}
		markdownRisks(&b, t.Risks)
		for _, c := range t.Choices {
			fmt.Fprintf(&b, "\n<details><summary>Instead: %s</summary>\n\n", html(c.heading()))
			for k, step := range c.Steps {
				if strings.HasSuffix(step, ";") {
					step = code(step)
				}
				fmt.Fprintf(&b, "%d. %s\n", k+1, step)
			}
			b.WriteString("\n</details>\n")
		}
	}
	if len(m.Unchanged) > 0 {
		fmt.Fprintf(&b, "\nUnchanged: %s\n", codes(m.Unchanged))
	}
	return b.String()
}

// diffLines has + and - at the beginnings of lines, where they are coloured.
func diffLines(s *plannedSubject) string {
	var b strings.Builder
	for line := range strings.Lines(registry.FormatDiff(s.Changes, nil)) {
		switch text := strings.TrimLeft(line, " "); {
		case strings.HasPrefix(text, "+ "), strings.HasPrefix(text, "- "):
			b.WriteString(text)
		case strings.HasPrefix(text, "~ "):
			b.WriteString("!" + text[1:])
		default:
			b.WriteString("# " + text)
		}
	}
	return b.String()
}

func markdownRisks(b *strings.Builder, list []risk) {
	if len(list) == 0 {
		return
	}
	b.WriteString("\n")
	for _, r := range list {
		mark := "⚠️"
		if r.Severity == source.Fail {
			mark = "❌"
		}
		fmt.Fprintf(b, "- %s **%s**: %s", mark, r.Kind, cell(r.Text))
		if r.Remedy != "" {
			fmt.Fprintf(b, "<br>→ %s", code(r.Remedy))
		}
		b.WriteString("\n")
	}
}

// cell is text in a table or a line of Markdown: names are the database's, and must not end either.
func cell(s string) string {
	return strings.NewReplacer("\n", " ", "|", "\\|", "<", "&lt;", "*", "\\*", "`", "\\`", "_", "\\_").Replace(s)
}

// code is text in back quotes.
func code(s string) string {
	fence := "`"
	for strings.Contains(s, fence) {
		fence += "`"
	}
	s = strings.ReplaceAll(s, "\n", " ")
	if fence != "`" {
		return fence + " " + s + " " + fence
	}
	return fence + s + fence
}

// codeCell is code in a table, where a bar would end the cell.
func codeCell(s string) string { return strings.ReplaceAll(code(s), "|", "\\|") }

func codes(list []string) string {
	var out []string
	for _, s := range list {
		out = append(out, code(s))
	}
	return strings.Join(out, ", ")
}

func html(s string) string { return strings.NewReplacer("&", "&amp;", "<", "&lt;").Replace(s) }
