package registry

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math"
	"regexp"
	"slices"
	"strconv"
	"strings"
)

// maxDepth bounds the nesting of JSON that comes from outside. Jackson, which Confluent uses, stops at the same depth
// (StreamReadConstraints.DEFAULT_MAX_DEPTH).
const maxDepth = 1000

// node is a JSON value that remembers the order of its members and the spelling of its numbers: both are part of an
// Avro schema's canonical text, and encoding/json's maps and floats keep neither.
type node struct {
	kind nodeKind
	text string   // of a string; of a number, its spelling
	keys []string // of an object, beside list
	list []*node
	at   map[string]int // of an object with many members: where each is
}

type nodeKind byte

const (
	nullNode nodeKind = iota
	falseNode
	trueNode
	numberNode
	stringNode
	arrayNode
	objectNode
	decimalNode // a number that is written as it stands; no reader makes one
)

// parseJSON reads exactly one JSON value.
func parseJSON(text string) (*node, error) {
	d := json.NewDecoder(strings.NewReader(text))
	d.UseNumber()
	n, err := readNode(d, 0)
	if err != nil {
		return nil, err
	}
	if _, err := d.Token(); !errors.Is(err, io.EOF) {
		return nil, fmt.Errorf("dangling content after the end of the schema at byte %d", d.InputOffset())
	}
	return n, nil
}

// withoutComments puts spaces in the place of comments as in Java and JavaScript, which Avro allows inside of a schema, but not
// behind it. What may be there is white space, for which Java takes all control characters.
func withoutComments(text string) string {
	text = strings.TrimRightFunc(text, func(r rune) bool { return r <= ' ' })
	if !strings.Contains(text, "/*") && !strings.Contains(text, "//") {
		return text
	}
	b := []byte(text)
	for i := 0; i < len(b); i++ {
		switch {
		case b[i] == '"':
			for i++; i < len(b) && b[i] != '"'; i++ {
				if b[i] == '\\' {
					i++
				}
			}
		case b[i] == '/' && i+1 < len(b) && b[i+1] == '/':
			end := bytes.IndexAny(b[i:], "\r\n")
			if end < 0 {
				return text
			}
			for n := i + end; i < n; i++ {
				b[i] = ' '
			}
		case b[i] == '/' && i+1 < len(b) && b[i+1] == '*':
			end := bytes.Index(b[i+2:], []byte("*/"))
			if end < 0 || i+2+end+2 == len(b) {
				return text // no JSON, or no more of it
			}
			for n := i + 2 + end + 2; i < n; i++ {
				b[i] = ' '
			}
			i--
		}
	}
	return string(b)
}

func readNode(d *json.Decoder, depth int) (*node, error) {
	if depth > maxDepth {
		return nil, fmt.Errorf("nested deeper than %d", maxDepth)
	}
	tok, err := d.Token()
	if err != nil {
		if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
			return nil, errors.New("not JSON: unexpected end")
		}
		return nil, fmt.Errorf("not JSON: %w", err)
	}
	switch t := tok.(type) {
	case nil:
		return &node{kind: nullNode}, nil
	case bool:
		if t {
			return &node{kind: trueNode}, nil
		}
		return &node{kind: falseNode}, nil
	case json.Number:
		return &node{kind: numberNode, text: t.String()}, nil
	case string:
		return &node{kind: stringNode, text: t}, nil
	case json.Delim:
		if t == '[' {
			n := &node{kind: arrayNode}
			for d.More() {
				item, err := readNode(d, depth+1)
				if err != nil {
					return nil, err
				}
				n.list = append(n.list, item)
			}
			_, err := d.Token()
			return n, err
		}
		n := &node{kind: objectNode}
		for d.More() {
			key, err := d.Token()
			if err != nil {
				return nil, fmt.Errorf("not JSON: %w", err)
			}
			value, err := readNode(d, depth+1)
			if err != nil {
				return nil, err
			}
			n.set(key.(string), value)
		}
		_, err := d.Token()
		return n, err
	}
	return nil, fmt.Errorf("not JSON: unexpected %v", tok)
}

// set follows Jackson: of a repeated member the last value counts, at the place of the first.
func (n *node) set(key string, value *node) {
	if i := n.find(key); i >= 0 {
		n.list[i] = value
		return
	}
	n.keys = append(n.keys, key)
	n.list = append(n.list, value)
	switch {
	case n.at != nil:
		n.at[key] = len(n.keys) - 1
	case len(n.keys) > 16:
		n.at = make(map[string]int, 2*len(n.keys))
		for i, k := range n.keys {
			n.at[k] = i
		}
	}
}

// find returns the place of a member, -1 when there is none. Objects come from outside and may be large: looking
// through all members each time would make them cost their square.
func (n *node) find(key string) int {
	if n.at != nil {
		if i, ok := n.at[key]; ok {
			return i
		}
		return -1
	}
	return slices.Index(n.keys, key)
}

// member returns nil when n is no object or has no such member.
func (n *node) member(key string) *node {
	if n == nil || n.kind != objectNode {
		return nil
	}
	if i := n.find(key); i >= 0 {
		return n.list[i]
	}
	return nil
}

// str returns the text of a string member.
func (n *node) str(key string) (string, bool) {
	if m := n.member(key); m != nil && m.kind == stringNode {
		return m.text, true
	}
	return "", false
}

// appendTo writes n as Jackson writes it: no spaces, members in order, numbers as Java prints them.
func (n *node) appendTo(b *bytes.Buffer) {
	switch n.kind {
	case nullNode:
		b.WriteString("null")
	case falseNode:
		b.WriteString("false")
	case trueNode:
		b.WriteString("true")
	case numberNode:
		b.WriteString(javaNumber(n.text))
	case decimalNode:
		b.WriteString(n.text)
	case stringNode:
		appendString(b, n.text)
	case arrayNode:
		b.WriteByte('[')
		for i, item := range n.list {
			if i > 0 {
				b.WriteByte(',')
			}
			item.appendTo(b)
		}
		b.WriteByte(']')
	case objectNode:
		b.WriteByte('{')
		for i, k := range n.keys {
			if i > 0 {
				b.WriteByte(',')
			}
			appendString(b, k)
			b.WriteByte(':')
			n.list[i].appendTo(b)
		}
		b.WriteByte('}')
	}
}

func (n *node) isInteger() bool {
	return n.kind == numberNode && !strings.ContainsAny(n.text, ".eE")
}

// javaNumber writes a JSON number as Jackson writes the node it has read it into: an integer as it stands, anything
// else as Double.toString.
func javaNumber(text string) string {
	if !strings.ContainsAny(text, ".eEN") && !strings.HasSuffix(text, "Inf") { // NaN and Inf: see avroParser.fields
		if text == "-0" {
			return "0"
		}
		return text
	}
	f, _ := strconv.ParseFloat(text, 64) // out of range gives ±Inf, which is what Java reads too
	return javaDouble(f)
}

var javaDoubleForm = regexp.MustCompile(`^[+-]?(NaN|Infinity|((\d+\.?\d*|\.\d+)([eE][+-]?\d+)?|0[xX]([0-9a-fA-F]+\.?|[0-9a-fA-F]*\.[0-9a-fA-F]+)[pP][+-]?\d+)[fFdD]?)$`)

// parseJavaDouble is Double.parseDouble.
func parseJavaDouble(text string) (float64, bool) {
	text = strings.TrimFunc(text, func(r rune) bool { return r <= ' ' })
	if !javaDoubleForm.MatchString(text) {
		return 0, false
	}
	text = strings.TrimRight(text, "fFdD") // after the exponent, where the number is hexadecimal
	if strings.HasSuffix(text, "NaN") {
		return math.NaN(), true
	}
	f, err := strconv.ParseFloat(text, 64)
	return f, err == nil || errors.Is(err, strconv.ErrRange) // ±Inf, as in Java
}

// javaDouble is Double.toString: plain between 1e-3 and 1e7, else with an exponent, always with a fraction.
func javaDouble(f float64) string {
	switch {
	case math.IsNaN(f):
		return `"NaN"` // Jackson quotes what JSON has no number for
	case math.IsInf(f, 1):
		return `"Infinity"`
	case math.IsInf(f, -1):
		return `"-Infinity"`
	}
	abs := math.Abs(f)
	if f == 0 || abs >= 1e-3 && abs < 1e7 {
		s := strconv.FormatFloat(f, 'f', -1, 64)
		if !strings.Contains(s, ".") {
			s += ".0"
		}
		return s
	}
	mantissa, exponent, _ := strings.Cut(strconv.FormatFloat(f, 'E', -1, 64), "E")
	if !strings.Contains(mantissa, ".") {
		mantissa += ".0"
	}
	e, _ := strconv.Atoi(exponent) // FormatFloat wrote it
	return mantissa + "E" + strconv.Itoa(e)
}

// appendString escapes what JSON requires and nothing else, with Jackson's spelling.
func appendString(b *bytes.Buffer, s string) {
	const hex = "0123456789ABCDEF"
	b.WriteByte('"')
	for i := 0; i < len(s); i++ {
		switch c := s[i]; {
		case c == '"' || c == '\\':
			b.WriteByte('\\')
			b.WriteByte(c)
		case c >= 0x20:
			b.WriteByte(c)
		case c == '\n':
			b.WriteString(`\n`)
		case c == '\r':
			b.WriteString(`\r`)
		case c == '\t':
			b.WriteString(`\t`)
		case c == '\b':
			b.WriteString(`\b`)
		case c == '\f':
			b.WriteString(`\f`)
		default:
			b.WriteString(`\u00`)
			b.WriteByte(hex[c>>4])
			b.WriteByte(hex[c&15])
		}
	}
	b.WriteByte('"')
}
