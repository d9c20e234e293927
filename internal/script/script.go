// Package script splits SQL scripts into statements, by the lexical rules of Postgres, and says which of them cannot be tried
// in a transaction that is rolled back because the transaction is not what they act in.
//
// It is a lexer and no parser: what a statement means is the server's to say. The rules are those of the server's scan.l, and
// where a statement ends those of psql's psqlscan.l: at a semicolon outside of quotes, comments, parentheses and the bodies
// of functions that are written BEGIN ATOMIC … END. Strings are read with standard_conforming_strings on, as it is by default.
// Libraries were looked at: those around the server's own parser need cgo or carry a parser of 10 MB for one version of
// Postgres; those without know neither BEGIN ATOMIC nor psql's commands.
package script

import (
	"fmt"
	"strings"
)

// A Statement is one statement of a script.
type Statement struct {
	File string // as it was given to Split
	Line int    // of its first word, from 1
	SQL  string // without the semicolon, and without comments before and after it
	Data bool   // COPY … FROM STDIN: data follows it in the script, which is left out

	words []string // that it begins with, at most maxWords, in lower case
	all   []string // "" for each token that is no word; those of a DO block are among them
}

// String says where it is: "file:line".
func (s *Statement) String() string { return fmt.Sprintf("%s:%d", s.File, s.Line) }

// Head is the statement in one line of at most 60 characters, for messages.
func (s *Statement) Head() string {
	const limit = 60
	text := strings.Join(strings.Fields(s.SQL), " ")
	if runes := []rune(text); len(runes) > limit {
		text = strings.TrimRight(string(runes[:limit-1]), " ") + "…"
	}
	return text
}

// An Error is a script that cannot be split.
type Error struct {
	File    string
	Line    int
	Problem string
	Remedy  string
}

func (e *Error) Error() string { return fmt.Sprintf("%s:%d: %s", e.File, e.Line, e.Problem) }

// Hint is the way on.
func (e *Error) Hint() string { return e.Remedy }

// Split cuts a script into its statements; those that are empty are left out. Its errors are *Error: a quote, a comment or a
// body that does not end, a NUL byte, and psql's commands, which only psql can run.
func Split(file, text string) ([]Statement, error) {
	l := &lexer{file: file, text: strings.TrimPrefix(text, "\ufeff"), line: 1}
	if i := strings.IndexByte(l.text, 0); i >= 0 {
		return nil, &Error{file, 1 + strings.Count(l.text[:i], "\n"), "there is a NUL byte in it", "give a file of SQL in UTF-8"}
	}
	var out []Statement
	for {
		s, more, err := l.statement()
		if err != nil {
			return nil, err
		}
		if s.SQL != "" {
			s.File = file
			out = append(out, s)
		}
		if !more {
			return out, nil
		}
		if s.Data {
			l.skipData()
		}
	}
}

// kind of a token.
type kind byte

const (
	end       kind = iota
	word           // an identifier or key word
	quoted         // an identifier in double quotes, or a number
	literal        // a string
	semicolon      //
	opening        // parenthesis
	closing        // parenthesis
	other          // any other character
)

type token struct {
	kind  kind
	at    int    // offset
	line  int    // of at
	text  string // a word in lower case, or what is in a string
	after int    // offset behind it
}

func (t *token) word() string {
	if t.kind == word {
		return t.text
	}
	return ""
}

type lexer struct {
	file string
	text string
	at   int
	line int // of at
}

// statement reads up to a semicolon or the end. more says that there was a semicolon.
func (l *lexer) statement() (s Statement, more bool, err error) {
	first, last := -1, 0
	parens, body := 0, 0 // depths
	before := ""         // the token before, if it is a word
	for {
		t, err := l.next()
		if err != nil {
			return s, false, err
		}
		switch t.kind {
		case end:
			if body > 0 {
				return s, false, &Error{l.file, s.Line, "a function's body begins with BEGIN ATOMIC and does not end", "end it with END"}
			}
			if first >= 0 {
				s.SQL = l.text[first:last]
			}
			s.Data = false // there is no line after it
			return s, false, nil
		case semicolon:
			if parens == 0 && body == 0 {
				if first >= 0 {
					s.SQL = l.text[first:last]
				}
				s.Data = s.copiesFromStdin()
				return s, true, nil
			}
		case opening:
			parens++
		case closing:
			parens = max(parens-1, 0)
		case word:
			if parens == 0 && s.makesFunction() {
				switch {
				case body == 0 && before == "begin" && t.text == "atomic", body > 0 && t.text == "case": // which has an END too
					body++
				case t.text == "end":
					body = max(body-1, 0)
				}
			}
			if len(s.words) < maxWords && len(s.words) == len(s.all) {
				s.words = append(s.words, t.text)
			}
		case quoted, literal, other:
		}
		before = t.word()
		s.all = append(s.all, before)
		if t.kind == literal && s.word(0) == "do" {
			s.all = append(s.all, words(t.text)...)
		}
		if first < 0 {
			first, s.Line = t.at, t.line
		}
		last = t.after
	}
}

// maxWords is how many words at the beginning of a statement tell what it is.
const maxWords = 8

// makesFunction says whether the statement begins like CREATE [OR REPLACE] FUNCTION or PROCEDURE.
func (s *Statement) makesFunction() bool {
	w := s.words
	if len(w) > 2 && w[1] == "or" && w[2] == "replace" {
		w = append([]string{w[0]}, w[3:]...)
	}
	return len(w) > 1 && w[0] == "create" && (w[1] == "function" || w[1] == "procedure")
}

// copiesFromStdin says whether psql would read data from the lines that follow.
func (s *Statement) copiesFromStdin() bool { return s.word(0) == "copy" && s.has("from", "stdin") }

// word is the i-th of those that the statement begins with.
func (s *Statement) word(i int) string {
	if i < len(s.words) {
		return s.words[i]
	}
	return ""
}

// has says whether these words follow each other in the statement.
func (s *Statement) has(words ...string) bool {
	for i := 0; i+len(words) <= len(s.all); i++ {
		j := 0
		for j < len(words) && s.all[i+j] == words[j] {
			j++
		}
		if j == len(words) {
			return true
		}
	}
	return false
}

// words lists the words of a DO block, with "" for each token between. What cannot be read is the server's to refuse.
func words(code string) []string {
	l := &lexer{text: code, line: 1}
	var out []string
	for {
		t, err := l.next()
		if err != nil || t.kind == end {
			return out
		}
		out = append(out, t.word())
	}
}

// skipData passes by the lines after COPY … FROM STDIN, up to one that is \. and nothing else.
func (l *lexer) skipData() {
	if i := strings.IndexByte(l.text[l.at:], '\n'); i >= 0 {
		l.advance(l.at + i + 1)
	} else {
		l.advance(len(l.text))
	}
	for l.at < len(l.text) {
		end := len(l.text)
		if i := strings.IndexByte(l.text[l.at:], '\n'); i >= 0 {
			end = l.at + i + 1
		}
		line := strings.TrimRight(l.text[l.at:end], "\r\n")
		l.advance(end)
		if line == `\.` {
			return
		}
	}
}

func (l *lexer) advance(to int) {
	l.line += strings.Count(l.text[l.at:to], "\n")
	l.at = to
}

// next reads one token, after white space and comments.
func (l *lexer) next() (token, error) {
	if err := l.space(); err != nil {
		return token{}, err
	}
	t := token{at: l.at, line: l.line}
	done := func(k kind, to int) (token, error) {
		l.advance(to)
		t.kind, t.after = k, to
		return t, nil
	}
	if l.at == len(l.text) {
		return done(end, l.at)
	}
	switch c := l.text[l.at]; {
	case c == ';':
		return done(semicolon, l.at+1)
	case c == '(':
		return done(opening, l.at+1)
	case c == ')':
		return done(closing, l.at+1)
	case c == '\'':
		to, err := l.quote(l.at, '\'', false)
		if err != nil {
			return t, err
		}
		t.text = strings.ReplaceAll(l.text[l.at+1:to-1], "''", "'")
		return done(literal, to)
	case c == '"':
		to, err := l.quote(l.at, '"', false)
		if err != nil {
			return t, err
		}
		return done(quoted, to)
	case c == '$':
		to, content, err := l.dollar()
		if err != nil {
			return t, err
		}
		if to > 0 {
			t.text = content
			return done(literal, to)
		}
		return done(other, l.at+1)
	case c == '\\':
		line, _, _ := strings.Cut(l.text[l.at:], "\n")
		return t, &Error{
			l.file, l.line, fmt.Sprintf("%s is a command of psql, not SQL", strings.Join(strings.Fields(line)[:1], "")),
			"give the SQL alone: files that \\i includes can be given one after the other, and variables have to be filled in",
		}
	case identStart(c):
		to := l.at + 1
		for to < len(l.text) && identPart(l.text[to]) {
			to++
		}
		if to-l.at == 1 && to < len(l.text) && l.text[to] == '\'' && (c == 'e' || c == 'E') {
			// The prefixes of other strings (b, x, n, u&) change nothing about where they end.
			end, err := l.escaped(to)
			if err != nil {
				return t, err
			}
			return done(literal, end)
		}
		t.text = strings.ToLower(l.text[l.at:to])
		return done(word, to)
	case c >= '0' && c <= '9':
		to := l.at + 1
		for to < len(l.text) && l.text[to] >= '0' && l.text[to] <= '9' {
			to++
		}
		return done(quoted, to)
	}
	return done(other, l.at+1)
}

// identStart and identPart are ident_start and ident_cont of scan.l.
func identStart(c byte) bool { return c == '_' || 'a' <= c|0x20 && c|0x20 <= 'z' || c >= 0x80 }
func identPart(c byte) bool  { return identStart(c) || '0' <= c && c <= '9' || c == '$' }

// space passes by white space and comments. Comments of the kind /* … */ nest.
func (l *lexer) space() error {
	for l.at < len(l.text) {
		rest := l.text[l.at:]
		switch {
		case strings.IndexByte(" \t\n\r\f\v", rest[0]) >= 0:
			l.advance(l.at + 1)
		case strings.HasPrefix(rest, "--"):
			if i := strings.IndexAny(rest, "\n\r"); i >= 0 {
				l.advance(l.at + i)
			} else {
				l.advance(len(l.text))
			}
		case strings.HasPrefix(rest, "/*"):
			depth, i := 1, 2
			for depth > 0 {
				switch {
				case i >= len(rest):
					return &Error{l.file, l.line, "a comment does not end", "end it with */; a comment inside of a comment needs its own"}
				case strings.HasPrefix(rest[i:], "/*"):
					depth, i = depth+1, i+2
				case strings.HasPrefix(rest[i:], "*/"):
					depth, i = depth-1, i+2
				default:
					i++
				}
			}
			l.advance(l.at + i)
		default:
			return nil
		}
	}
	return nil
}

// quote returns the offset behind a quoted text that begins at from. A doubled quote stands for one; backslash says that the
// character after a backslash is no end either.
func (l *lexer) quote(from int, mark byte, backslash bool) (int, error) {
	for i := from + 1; i < len(l.text); i++ {
		switch {
		case backslash && l.text[i] == '\\':
			i++
		case l.text[i] != mark:
		case i+1 < len(l.text) && l.text[i+1] == mark:
			i++
		default:
			return i + 1, nil
		}
	}
	return 0, &Error{l.file, l.line, fmt.Sprintf("a text in %c does not end", mark), fmt.Sprintf("close the quote; a %c inside of it is written twice", mark)}
}

// escaped returns the offset behind a string with backslashes, whose quote is at from. Such a string can go on after a line
// break, and what follows is read like its beginning.
func (l *lexer) escaped(from int) (int, error) {
	for {
		to, err := l.quote(from, '\'', true)
		if err != nil {
			return 0, err
		}
		next, broken := to, false
		for next < len(l.text) {
			switch c := l.text[next]; {
			case c == '\n' || c == '\r':
				broken = true
				next++
				continue
			case strings.IndexByte(" \t\f\v", c) >= 0:
				next++
				continue
			case strings.HasPrefix(l.text[next:], "--"):
				i := strings.IndexAny(l.text[next:], "\n\r")
				if i < 0 {
					return to, nil
				}
				next += i
				continue
			}
			break
		}
		if !broken || next >= len(l.text) || l.text[next] != '\'' {
			return to, nil
		}
		from = next
	}
}

// dollar returns the offset behind a dollar-quoted string and its content; 0 where the dollar begins none.
func (l *lexer) dollar() (int, string, error) {
	i := l.at + 1
	for i < len(l.text) && identPart(l.text[i]) && l.text[i] != '$' {
		if i == l.at+1 && !identStart(l.text[i]) {
			return 0, "", nil // $1 is a parameter
		}
		i++
	}
	if i >= len(l.text) || l.text[i] != '$' {
		return 0, "", nil
	}
	tag := l.text[l.at : i+1]
	n := strings.Index(l.text[i+1:], tag)
	if n < 0 {
		return 0, "", &Error{l.file, l.line, fmt.Sprintf("a text in %s does not end", tag), "close it with " + tag}
	}
	return i + 1 + n + len(tag), l.text[i+1 : i+1+n], nil
}
