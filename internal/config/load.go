package config

import (
	"encoding"
	"errors"
	"fmt"
	"os"
	"reflect"
	"slices"
	"strconv"
	"strings"

	"github.com/goccy/go-yaml"
	"github.com/goccy/go-yaml/ast"
	"github.com/goccy/go-yaml/parser"
	"github.com/goccy/go-yaml/token"
)

// LoadFile reads and checks the file at path. All that is wrong is returned at
// once, as an ErrorList.
func LoadFile(path string) (*Config, error) { return loadFile(path, false) }

// LoadRegistryFile is LoadFile for what needs the registry and no pipeline: name and source may be left out.
func LoadRegistryFile(path string) (*Config, error) { return loadFile(path, true) }

func loadFile(path string, alone bool) (*Config, error) {
	b, err := os.ReadFile(path)
	if errors.Is(err, os.ErrNotExist) {
		return nil, ErrorList{{File: path, Problem: "there is no such file", Remedy: "name the configuration with --config, or write one with `walferry config --sample > " + path + "`"}}
	}
	if err != nil {
		return nil, ErrorList{{File: path, Problem: err.Error(), Remedy: "give walferry's user the right to read it"}}
	}
	return loadText(path, b, os.LookupEnv, alone)
}

// Load parses and checks data. file is used in messages only; env looks up
// variables as os.LookupEnv does. The error is of type ErrorList.
func Load(file string, data []byte, env func(string) (string, bool)) (*Config, error) {
	return loadText(file, data, env, false)
}

func loadText(file string, data []byte, env func(string) (string, bool), alone bool) (*Config, error) {
	c := Default()
	d := &decoder{file: file, env: env, at: map[string]*token.Position{}, anchors: map[string]ast.Node{}}
	f, err := parse(file, data)
	if err != nil {
		return nil, err
	}
	switch {
	case len(f.Docs) > 1:
		return nil, ErrorList{{File: file, Problem: "the file holds more than one YAML document", Remedy: "write one file for each pipeline"}}
	case len(f.Docs) == 1 && f.Docs[0].Body != nil:
		d.value("", f.Docs[0].Body, reflect.ValueOf(c).Elem())
	}
	// Rules between values are checked even after a bad value, as long as the
	// file's structure was understood: one round tells everything.
	if alone && c.Name == "" && !d.isBad("name") {
		c.Name = "registry"
	}
	c.derive()
	for _, e := range c.validate() {
		switch {
		case d.isBad(e.Path):
			continue // it has no value to judge
		case alone && strings.HasPrefix(e.Path, "source.") && d.position(e.Path) == nil:
			continue // no pipeline reads it
		}
		e.File = file
		if p := d.position(e.Path); p != nil {
			e.Line, e.Column = p.Line, p.Column
		}
		d.errs = append(d.errs, e)
	}
	if len(d.errs) > 0 {
		slices.SortStableFunc(d.errs, func(a, b *Error) int {
			if a.Line != b.Line {
				return a.Line - b.Line
			}
			return a.Column - b.Column
		})
		return nil, d.errs
	}
	return c, nil
}

// parse is the YAML parser behind a guard: it is third-party code on input from
// outside, and a panic of it shall read as a bad file.
func parse(file string, data []byte) (f *ast.File, err error) {
	const remedy = "correct the YAML there; indentation is by spaces, and text with : # { [ or quotes in it is put in quotes"
	defer func() {
		if p := recover(); p != nil {
			err = ErrorList{{File: file, Problem: "the YAML parser cannot read this file", Remedy: remedy}}
		}
	}()
	f, err = parser.ParseBytes(data, 0)
	if err == nil {
		return f, nil
	}
	e := &Error{File: file, Problem: "not valid YAML", Remedy: remedy}
	var y yaml.Error
	if errors.As(err, &y) {
		e.Problem += ": " + y.GetMessage()
		if t := y.GetToken(); t != nil && t.Position != nil {
			e.Line, e.Column = t.Position.Line, t.Position.Column
		}
	}
	return nil, ErrorList{e}
}

// decoder walks the YAML beside the structs. goccy's own decoder would stop at
// the first error and could not interpolate before it converts.
type decoder struct {
	file    string
	env     func(string) (string, bool)
	at      map[string]*token.Position // where each key's value stands
	bad     map[string]bool            // keys whose value was already reported
	anchors map[string]ast.Node
	depth   int
	errs    ErrorList
}

// maxDepth bounds aliases that hold aliases; the deepest key is at 4.
const maxDepth = 32

func (d *decoder) fail(path string, n ast.Node, problem, remedy string) {
	e := &Error{File: d.file, Path: path, Problem: problem, Remedy: remedy}
	if n != nil {
		if t := n.GetToken(); t != nil && t.Position != nil {
			e.Line, e.Column = t.Position.Line, t.Position.Column
		}
	}
	if d.bad == nil {
		d.bad = map[string]bool{}
	}
	d.bad[path] = true
	d.errs = append(d.errs, e)
}

// isBad says whether path or a section that it is in was already reported.
func (d *decoder) isBad(path string) bool {
	for ; path != ""; path = path[:max(strings.LastIndexAny(path, ".["), 0)] {
		if d.bad[path] {
			return true
		}
	}
	return d.bad[""]
}

// position finds where the value of path stands, or its nearest parent that is
// in the file.
func (d *decoder) position(path string) *token.Position {
	for path != "" {
		if p := d.at[path]; p != nil {
			return p
		}
		path = path[:max(strings.LastIndexAny(path, ".["), 0)]
	}
	return nil
}

// value decodes n into v. Null leaves the default.
func (d *decoder) value(path string, n ast.Node, v reflect.Value) {
	if d.depth++; d.depth > maxDepth {
		d.fail(path, n, "aliases are nested too deep", "write the values out")
		d.depth--
		return
	}
	defer func() { d.depth-- }()
	switch x := n.(type) {
	case nil:
		return
	case *ast.AnchorNode:
		d.anchors[x.Name.String()] = x.Value
		d.value(path, x.Value, v)
		return
	case *ast.AliasNode:
		target, ok := d.anchors[x.Value.String()]
		if !ok {
			d.fail(path, n, fmt.Sprintf("the anchor %q is not defined above", x.Value.String()), "define it with &, or write the value out")
			return
		}
		d.value(path, target, v)
		return
	case *ast.TagNode:
		d.fail(path, n, "YAML tags are not used here", "leave the tag out")
		return
	case *ast.NullNode:
		return
	}
	if t := n.GetToken(); t != nil && path != "" && d.at[path] == nil {
		d.at[path] = t.Position
	}
	switch {
	case isScalar(v):
		d.scalar(path, n, v)
	case v.Kind() == reflect.Struct:
		d.structure(path, n, v)
	case v.Kind() == reflect.Slice:
		d.list(path, n, v)
	case v.Kind() == reflect.Map:
		d.mapping(path, n, v)
	default:
		panic("config: no decoding for " + v.Type().String())
	}
}

func isScalar(v reflect.Value) bool {
	if _, ok := v.Addr().Interface().(encoding.TextUnmarshaler); ok {
		return true
	}
	switch v.Kind() {
	case reflect.String, reflect.Bool, reflect.Int:
		return true
	}
	return false
}

// pairs returns the keys and values of a mapping.
func (d *decoder) pairs(path string, n ast.Node) ([]*ast.MappingValueNode, bool) {
	switch x := n.(type) {
	case *ast.MappingNode:
		return x.Values, true
	case *ast.MappingValueNode:
		return []*ast.MappingValueNode{x}, true
	}
	d.fail(path, n, "a mapping of keys to values is expected here", "write `key: value` lines")
	return nil, false
}

func (d *decoder) structure(path string, n ast.Node, v reflect.Value) {
	known := fields(v.Type())
	if i := slices.IndexFunc(known, func(f field) bool { return f.short }); i >= 0 {
		switch n.(type) {
		case *ast.MappingNode, *ast.MappingValueNode:
		default:
			d.value(join(path, known[i].key), n, v.Field(known[i].index))
			return
		}
	}
	pairs, ok := d.pairs(path, n)
	if !ok {
		return
	}
	for _, p := range pairs {
		key := keyText(p.Key)
		i := slices.IndexFunc(known, func(f field) bool { return f.key == key })
		if i < 0 {
			names := make([]string, len(known))
			for i, f := range known {
				names[i] = f.key
			}
			where := "at the top level"
			if path != "" {
				where = "in " + path
			}
			remedy := "the keys " + where + " are " + strings.Join(names, ", ")
			if near := Nearest(key, names); near != "" {
				remedy = "did you mean " + near + "?"
			}
			d.fail(join(path, key), p.Key, "unknown key", remedy)
			continue
		}
		d.value(join(path, key), p.Value, v.Field(known[i].index))
	}
}

func (d *decoder) list(path string, n ast.Node, v reflect.Value) {
	seq, ok := n.(*ast.SequenceNode)
	if !ok {
		// One string stands for a list split at commas, so that a list can come
		// from one environment variable.
		text, ok := d.text(path, n)
		if !ok {
			return
		}
		list := reflect.MakeSlice(v.Type(), 0, 4)
		for s := range strings.SplitSeq(text, ",") {
			if s = strings.TrimSpace(s); s != "" {
				list = reflect.Append(list, reflect.ValueOf(s))
			}
		}
		v.Set(list)
		return
	}
	list := reflect.MakeSlice(v.Type(), len(seq.Values), len(seq.Values))
	for i, item := range seq.Values {
		d.value(path+"["+strconv.Itoa(i)+"]", item, list.Index(i))
	}
	v.Set(list)
}

func (d *decoder) mapping(path string, n ast.Node, v reflect.Value) {
	pairs, ok := d.pairs(path, n)
	if !ok {
		return
	}
	m := reflect.MakeMapWithSize(v.Type(), len(pairs))
	for _, p := range pairs {
		key := keyText(p.Key)
		item := reflect.New(v.Type().Elem()).Elem()
		d.value(join(path, key), p.Value, item)
		m.SetMapIndex(reflect.ValueOf(key), item)
	}
	v.Set(m)
}

func (d *decoder) scalar(path string, n ast.Node, v reflect.Value) {
	text, ok := d.text(path, n)
	if !ok {
		return
	}
	if u, ok := v.Addr().Interface().(encoding.TextUnmarshaler); ok {
		if err := u.UnmarshalText([]byte(text)); err != nil {
			problem, remedy, _ := strings.Cut(err.Error(), "; ")
			d.fail(path, n, problem, remedy)
		}
		return
	}
	switch v.Kind() {
	case reflect.String:
		v.SetString(text)
	case reflect.Bool:
		if text != "true" && text != "false" {
			d.fail(path, n, fmt.Sprintf("%q is neither true nor false", text), "write true or false")
			return
		}
		v.SetBool(text == "true")
	case reflect.Int:
		i, err := strconv.ParseInt(text, 10, 32)
		if err != nil {
			d.fail(path, n, fmt.Sprintf("%q is not a whole number", text), "write a number such as 6")
			return
		}
		v.SetInt(i)
	}
}

// text returns a scalar's text as it stands in the file, with ${} replaced.
func (d *decoder) text(path string, n ast.Node) (string, bool) {
	var text string
	switch x := n.(type) {
	case *ast.StringNode:
		text = x.Value
	case *ast.LiteralNode:
		text = x.Value.Value
	case *ast.IntegerNode, *ast.FloatNode, *ast.BoolNode, *ast.InfinityNode, *ast.NanNode:
		text = n.GetToken().Value
	default:
		d.fail(path, n, "a single value is expected here", "write it on the key's line")
		return "", false
	}
	text, problem, remedy := interpolate(text, d.env)
	if problem != "" {
		d.fail(path, n, problem, remedy)
		return "", false
	}
	return text, true
}

// interpolate replaces ${NAME} and ${NAME:-default}; $${ is a literal ${. As in
// the shell, the default also stands in for a variable that is empty. The value
// of a variable is not interpolated again.
func interpolate(s string, env func(string) (string, bool)) (out, problem, remedy string) {
	var b strings.Builder
	for {
		i := strings.Index(s, "${")
		if i < 0 {
			b.WriteString(s)
			return b.String(), "", ""
		}
		if i > 0 && s[i-1] == '$' {
			b.WriteString(s[:i-1] + "${")
			s = s[i+2:]
			continue
		}
		b.WriteString(s[:i])
		end := strings.IndexByte(s[i:], '}')
		if end < 0 {
			return "", "${ has no closing }", "close it, or write $${ for a literal ${"
		}
		name, fallback, has := strings.Cut(s[i+2:i+end], ":-")
		if !isVariable(name) {
			return "", fmt.Sprintf("${%s} does not name an environment variable", s[i+2:i+end]), "write ${NAME} or ${NAME:-default}, or $${ for a literal ${"
		}
		value, set := env(name)
		switch {
		case value != "":
		case has:
			value = fallback
		case !set:
			return "", fmt.Sprintf("the environment variable %s is not set", name), fmt.Sprintf("set it, or give a default as ${%s:-default}", name)
		}
		b.WriteString(value)
		s = s[i+end+1:]
	}
}

func isVariable(s string) bool {
	for i, r := range s {
		letter := r == '_' || r >= 'A' && r <= 'Z' || r >= 'a' && r <= 'z'
		if !letter && (i == 0 || r < '0' || r > '9') {
			return false
		}
	}
	return s != ""
}

// field is one key of a section.
type field struct {
	key, doc, example string
	enum              []string
	short             bool // a single value in the place of the section is this key's
	index             int
}

// fields returns a section's keys in order.
func fields(t reflect.Type) []field {
	fs := make([]field, t.NumField())
	for i := range fs {
		tag := t.Field(i).Tag
		fs[i] = field{key: tag.Get("yaml"), doc: tag.Get("doc"), example: tag.Get("example"), short: tag.Get("short") != "", index: i}
		if e, ok := tag.Lookup("enum"); ok {
			fs[i].enum = strings.Split(e, ",")
		}
	}
	return fs
}

func keyText(k ast.MapKeyNode) string {
	if s, ok := k.(*ast.StringNode); ok {
		return s.Value
	}
	return k.String()
}

func join(path, key string) string {
	if path == "" {
		return key
	}
	return path + "." + key
}

// Nearest returns the one of names that key is probably a slip of, or "".
func Nearest(key string, names []string) string {
	best, bestDistance := "", 3
	for _, n := range names {
		if dist := distance(key, n); dist < bestDistance && dist < len(n) {
			best, bestDistance = n, dist
		}
	}
	return best
}

// distance is Levenshtein's, by bytes.
func distance(a, b string) int {
	row := make([]int, len(b)+1)
	for j := range row {
		row[j] = j
	}
	for i := range len(a) {
		diagonal := row[0]
		row[0] = i + 1
		for j := range len(b) {
			cost := diagonal
			if a[i] != b[j] {
				cost++
			}
			diagonal = row[j+1]
			row[j+1] = min(cost, row[j]+1, diagonal+1)
		}
	}
	return row[len(b)]
}
