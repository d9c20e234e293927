package source

import (
	"fmt"
	"slices"
	"strings"
)

// A pattern is a dotted name of identifiers in which * stands for any run of characters. An identifier in double quotes is
// taken literally, with "" for a quote, so names with dots or stars can be written.
type pattern struct {
	text  string
	parts []glob
}

// A glob is one identifier: the literal pieces between its stars. One piece means an exact name.
type glob []string

// parsePattern splits s into exactly n identifiers.
func parsePattern(s string, n int) (pattern, error) {
	p := pattern{text: s}
	shape := [...]string{1: "schema", 2: "schema.table", 3: "schema.table.column"}[n]
	bad := func(why string) (pattern, error) {
		return pattern{}, fmt.Errorf("pattern %q: %s; write %s, with * for any characters and \"…\" around a name that has a dot or a star", s, why, shape)
	}
	rest := s
	for {
		var g glob
		if strings.HasPrefix(rest, `"`) {
			var name strings.Builder
			i, closed := 1, false
			for i < len(rest) {
				if rest[i] == '"' {
					if i+1 < len(rest) && rest[i+1] == '"' {
						name.WriteByte('"')
						i += 2
						continue
					}
					closed = true
					i++
					break
				}
				name.WriteByte(rest[i])
				i++
			}
			if !closed {
				return bad("a quote is not closed")
			}
			g, rest = glob{name.String()}, rest[i:]
		} else {
			i := strings.IndexAny(rest, `."`)
			if i < 0 {
				i = len(rest)
			}
			g, rest = glob(strings.Split(rest[:i], "*")), rest[i:]
		}
		if len(g) == 1 && g[0] == "" {
			return bad("a name is empty")
		}
		p.parts = append(p.parts, g)
		if rest == "" {
			break
		}
		if rest[0] != '.' {
			return bad("a dot is missing after a quoted name")
		}
		rest = rest[1:]
	}
	if len(p.parts) != n {
		return bad(fmt.Sprintf("it has %d names instead of %d", len(p.parts), n))
	}
	return p, nil
}

// exact reports whether the pattern has no star, so that it names one thing.
func (p pattern) exact() bool {
	for _, g := range p.parts {
		if len(g) > 1 {
			return false
		}
	}
	return true
}

func (p pattern) match(names ...string) bool {
	if len(names) != len(p.parts) {
		return false
	}
	for i, g := range p.parts {
		if !g.match(names[i]) {
			return false
		}
	}
	return true
}

func (g glob) match(s string) bool {
	if len(g) == 1 {
		return s == g[0]
	}
	first, last := g[0], g[len(g)-1]
	if len(s) < len(first)+len(last) || !strings.HasPrefix(s, first) || !strings.HasSuffix(s, last) {
		return false
	}
	s = s[len(first) : len(s)-len(last)]
	for _, piece := range g[1 : len(g)-1] {
		i := strings.Index(s, piece)
		if i < 0 {
			return false
		}
		s = s[i+len(piece):]
	}
	return true
}

// Matches reports whether a pattern for tables, as in Config.Tables, is for this one.
func Matches(text, schema, table string) (bool, error) {
	p, err := parsePattern(text, 2)
	return err == nil && p.match(schema, table), err
}

// A selection is the compiled form of the configuration's patterns.
type selection struct {
	tables, schemas, exclude, columns []pattern
	all                               bool
}

func (c *Config) selection() (*selection, error) {
	s := &selection{all: c.AllTables}
	for _, l := range []struct {
		dst  *[]pattern
		from []string
		n    int
	}{{&s.tables, c.Tables, 2}, {&s.schemas, c.Schemas, 1}, {&s.exclude, c.Exclude, 2}, {&s.columns, c.ExcludeColumns, 3}} {
		for _, text := range l.from {
			p, err := parsePattern(text, l.n)
			if err != nil {
				return nil, err
			}
			*l.dst = append(*l.dst, p)
		}
	}
	return s, nil
}

// Selects reports whether the configuration captures a table. A publication can hold more (one for all tables cannot be
// narrowed), so whoever consumes the stream asks, once for each relation.
func (c *Config) Selects(schema, table string) (bool, error) {
	s, err := c.selection()
	if err != nil {
		return false, err
	}
	return s.selects(schema, table), nil
}

// selects reports whether a table is captured by the configuration.
func (s *selection) selects(schema, table string) bool {
	for _, p := range s.exclude {
		if p.match(schema, table) {
			return false
		}
	}
	if s.all {
		return true
	}
	for _, p := range s.schemas {
		if p.match(schema) {
			return true
		}
	}
	for _, p := range s.tables {
		if p.match(schema, table) {
			return true
		}
	}
	return false
}

// names says whether a pattern without a star selects the table.
func (s *selection) names(schema, table string) bool {
	return slices.ContainsFunc(s.tables, func(p pattern) bool { return p.exact() && p.match(schema, table) })
}

// excludes reports whether a column is to be left out.
func (s *selection) excludes(schema, table, column string) bool {
	for _, p := range s.columns {
		if p.match(schema, table, column) {
			return true
		}
	}
	return false
}

// quoteIdent quotes a name as SQL wants it, always with quotes: a keyword needs them and nobody else minds.
func quoteIdent(s string) string { return `"` + strings.ReplaceAll(s, `"`, `""`) + `"` }

// quoteLiteral quotes a string constant; the E form is used where a backslash would otherwise depend on a setting.
func quoteLiteral(s string) string {
	q := "'" + strings.ReplaceAll(s, "'", "''") + "'"
	if strings.Contains(s, `\`) {
		return " E" + strings.ReplaceAll(q, `\`, `\\`)
	}
	return q
}

func quoteName(schema, name string) string { return quoteIdent(schema) + "." + quoteIdent(name) }
