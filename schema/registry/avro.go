package registry

import (
	"bytes"
	"errors"
	"fmt"
	"math"
	"slices"
	"strconv"
	"strings"

	"github.com/linkedin/goavro/v2"
)

// Schema is a parsed Avro schema. It is immutable.
type Schema struct {
	root  *avroType
	known []*avroType // types of the references it was parsed with; written by name only
	text  string
}

// avroType is one type of a schema. A named type that occurs again is the same pointer.
type avroType struct {
	kind      avroKind
	name      avroName   // record, enum, fixed
	aliases   []avroName // of name
	doc       *string
	fields    []*avroField // record
	symbols   []string     // enum
	enumDef   *string      // enum: default symbol
	size      int          // fixed
	item      *avroType    // array: items; map: values
	branches  []*avroType  // union
	props     []prop
	errorType bool // a record declared as "error"
}

type avroField struct {
	name    string
	aliases []string
	doc     *string
	typ     *avroType
	def     *node // nil: no default
	order   string
	props   []prop
}

type prop struct {
	key   string
	value *node
}

type avroKind byte

const (
	nullKind avroKind = iota
	booleanKind
	intKind
	longKind
	floatKind
	doubleKind
	bytesKind
	stringKind
	recordKind
	enumKind
	fixedKind
	arrayKind
	mapKind
	unionKind
	unresolvedKind // while parsing: a name that is used before its definition
)

var kindNames = [...]string{"null", "boolean", "int", "long", "float", "double", "bytes", "string", "record", "enum", "fixed", "array", "map", "union", "undefined name"}

func (k avroKind) String() string { return kindNames[k] }

func (k avroKind) named() bool { return k == recordKind || k == enumKind || k == fixedKind }

// avroName is a full name in its two parts.
type avroName struct{ space, name string }

func (n avroName) String() string {
	if n.space == "" {
		return n.name
	}
	return n.space + "." + n.name
}

// in is how the name is written inside namespace space. A name like "string" needs its namespace, or it would be
// read as the primitive type (AVRO-3340).
func (n avroName) in(space string) string {
	if n.space == space && !slices.Contains(kindNames[:], n.name) {
		return n.name
	}
	return n.String()
}

// ParseAvro reads an Avro schema as Confluent's registry does for a new one: names are checked, and every default
// must fit its type. references are schemas whose named types may be used by name.
//
// The rules are the Avro specification's (1.12) in the reading of its Java implementation, because that is what
// decides over a schema elsewhere. goavro must compile what is accepted, see [Schema.compile].
func ParseAvro(text string, references ...*Schema) (*Schema, error) {
	s, err := parseAvro(text, true, references)
	if err != nil {
		return nil, err
	}
	if err := s.compile(); err != nil {
		return nil, err
	}
	return s, nil
}

// parseStored reads a schema that somebody has accepted before: nothing is gained by refusing a default now.
func parseStored(text string, references []*Schema) (*Schema, error) {
	return parseAvro(text, false, references)
}

// ParseStored reads an Avro schema that a registry has accepted before and that refers to no other: nothing is gained by
// refusing it now.
func ParseStored(text string) (*Schema, error) { return parseStored(text, nil) }

func parseAvro(text string, strict bool, references []*Schema) (*Schema, error) {
	n, err := parseJSON(text)
	if err != nil {
		return nil, err
	}
	p := avroParser{names: map[string]*avroType{}, strict: strict}
	s := &Schema{}
	for _, r := range references {
		r.named(func(t *avroType) {
			if p.names[t.name.String()] == nil {
				p.names[t.name.String()] = t
				s.known = append(s.known, t)
			}
		})
	}
	p.references = s.known
	if s.root, err = p.parse(n, ""); err != nil {
		return nil, err
	}
	if s.root, err = p.resolve(s.root); err != nil {
		return nil, err
	}
	if strict {
		// After the whole is read, since a default may belong to a type that is still open where it stands.
		check := defaultCheck{}
		for _, c := range p.defaults {
			if !check.fits(c.field.typ, c.field.def) {
				var b bytes.Buffer
				c.field.def.appendTo(&b)
				return nil, fmt.Errorf("invalid default for field %s of %s: %s is not a %s", c.field.name, c.record, clip(b.String(), 80), describe(c.field.typ))
			}
		}
	}
	s.text = s.render()
	return s, nil
}

// render writes the canonical text.
func (s *Schema) render() string {
	var b bytes.Buffer
	w := canonicalWriter{b: &b, names: map[string]*avroType{}}
	for _, t := range s.known {
		w.names[t.name.String()] = t
	}
	w.write(s.root, "")
	return b.String()
}

// String is the text that is stored and served: the schema without insignificant space and with its attributes in
// Java's order (Schema.toString), which Confluent calls canonical. Properties, docs and aliases are kept.
func (s *Schema) String() string { return s.text }

// Name is the full name of the type at the root, "" for an unnamed one.
func (s *Schema) Name() string {
	if s.root.kind.named() {
		return s.root.name.String()
	}
	return ""
}

// named calls fn for each named type that s uses, once each, definitions of references included.
func (s *Schema) named(fn func(*avroType)) {
	seen := map[*avroType]bool{}
	var walk func(*avroType)
	walk = func(t *avroType) {
		if t.kind.named() {
			if seen[t] {
				return
			}
			seen[t] = true
			fn(t)
		}
		for _, f := range t.fields {
			walk(f.typ)
		}
		if t.item != nil {
			walk(t.item)
		}
		for _, b := range t.branches {
			walk(b)
		}
	}
	walk(s.root)
}

type avroParser struct {
	names    map[string]*avroType
	defaults []pendingDefault
	strict   bool
	open     bool // a name was used before its definition
	// references are the types that were there before.
	references []*avroType
}

type pendingDefault struct {
	record string
	field  *avroField
}

func (p *avroParser) parse(n *node, space string) (*avroType, error) {
	switch n.kind {
	case stringNode:
		return p.lookup(n.text, space)
	case arrayNode:
		return p.union(n, space)
	case objectNode:
		return p.object(n, space)
	}
	var b bytes.Buffer
	n.appendTo(&b)
	return nil, fmt.Errorf("schema not yet supported: %s", clip(b.String(), 80))
}

func primitive(name string) (avroKind, bool) {
	i := slices.Index(kindNames[:recordKind], name)
	return avroKind(max(i, 0)), i >= 0
}

func (p *avroParser) lookup(name, space string) (*avroType, error) {
	if k, ok := primitive(name); ok {
		return &avroType{kind: k}, nil
	}
	if !strings.Contains(name, ".") && space != "" {
		if t := p.names[space+"."+name]; t != nil {
			return t, nil
		}
	}
	// Java looks in the null namespace too when the enclosing one has no such type.
	if t := p.names[name]; t != nil {
		return t, nil
	}
	// Since 1.12 a name may be used before it is defined.
	p.open = true
	return &avroType{kind: unresolvedKind, name: avroName{space, name}}, nil
}

// resolve puts definitions in the place of names that were used before them.
func (p *avroParser) resolve(root *avroType) (*avroType, error) {
	if !p.open {
		return root, nil
	}
	seen := map[*avroType]bool{}
	for _, t := range p.references {
		seen[t] = true // complete, and perhaps in use elsewhere
	}
	var walk func(*avroType) (*avroType, error)
	walk = func(t *avroType) (_ *avroType, err error) {
		if t.kind == unresolvedKind {
			space, name := t.name.space, t.name.name
			if t = p.names[space+"."+name]; t == nil || strings.Contains(name, ".") {
				if t = p.names[name]; t == nil {
					return nil, fmt.Errorf("undefined name: %q", clip(name, 80))
				}
			}
		}
		if seen[t] {
			return t, nil
		}
		seen[t] = true
		for _, f := range t.fields {
			if f.typ, err = walk(f.typ); err != nil {
				return nil, err
			}
		}
		if t.item != nil {
			if t.item, err = walk(t.item); err != nil {
				return nil, err
			}
		}
		names := map[string]bool{}
		for i, b := range t.branches {
			if b, err = walk(b); err != nil {
				return nil, err
			}
			if names[branchName(b)] {
				return nil, fmt.Errorf("duplicate in union: %s", branchName(b))
			}
			names[branchName(b)], t.branches[i] = true, b
		}
		return t, nil
	}
	return walk(root)
}

func (p *avroParser) union(n *node, space string) (*avroType, error) {
	t := &avroType{kind: unionKind}
	seen := map[string]bool{}
	for _, item := range n.list {
		b, err := p.parse(item, space)
		if err != nil {
			return nil, err
		}
		if b.kind == unionKind {
			return nil, errors.New("nested union")
		}
		name := branchName(b)
		if seen[name] && b.kind != unresolvedKind {
			return nil, fmt.Errorf("duplicate in union: %s", name)
		}
		seen[name] = true
		t.branches = append(t.branches, b)
	}
	return t, nil
}

func branchName(t *avroType) string {
	if t.kind.named() {
		return t.name.String()
	}
	return t.kind.String()
}

func (p *avroParser) object(n *node, space string) (*avroType, error) {
	typ, ok := n.str("type")
	if !ok {
		var b bytes.Buffer
		n.appendTo(&b)
		return nil, fmt.Errorf("no type: %s", clip(b.String(), 80))
	}
	t := &avroType{}
	if k, ok := primitive(typ); ok {
		t.kind = k
		t.props = properties(n, false)
		return t, nil
	}
	var err error
	switch typ {
	case "array", "map":
		t.kind = arrayKind
		member := "items"
		if typ == "map" {
			t.kind, member = mapKind, "values"
		}
		m := n.member(member)
		if m == nil {
			return nil, fmt.Errorf("%s has no %s type", typ, member)
		}
		if t.item, err = p.parse(m, space); err != nil {
			return nil, err
		}
		t.props = properties(n, false)
		return t, nil
	case "record", "error", "enum", "fixed":
		return p.namedType(n, typ, space)
	}
	return p.lookup(typ, space) // {"type":"Name"}: other attributes are lost, as in Java
}

func (p *avroParser) namedType(n *node, typ, space string) (*avroType, error) {
	t := &avroType{}
	full, ok := n.str("name")
	if !ok {
		return nil, fmt.Errorf("no name in schema of type %s", typ)
	}
	if ns, ok := n.str("namespace"); ok {
		space = ns
	}
	t.name = splitName(full, space)
	if err := checkName(t.name); err != nil {
		return nil, err
	}
	if _, ok := primitive(t.name.String()); ok {
		return nil, fmt.Errorf("schemas may not be named after primitives: %s", t.name)
	}
	earlier := p.names[t.name.String()]
	if earlier != nil && (earlier.kind == recordKind || typ == "record" || typ == "error") {
		return nil, fmt.Errorf("can't redefine: %s", t.name)
	}
	if doc, ok := n.str("doc"); ok {
		t.doc = &doc
	}
	switch typ {
	case "record", "error":
		t.kind, t.errorType = recordKind, typ == "error"
		p.names[t.name.String()] = t // before the fields: they may refer to it
		if err := p.fields(t, n.member("fields")); err != nil {
			return nil, err
		}
	case "enum":
		t.kind = enumKind
		if err := enumSymbols(t, n); err != nil {
			return nil, err
		}
	case "fixed":
		t.kind = fixedKind
		size := n.member("size")
		if size == nil || !size.isInteger() {
			return nil, fmt.Errorf("invalid or no size for fixed %s", t.name)
		}
		v, err := strconv.ParseInt(size.text, 10, 32)
		if err != nil || v < 0 {
			return nil, fmt.Errorf("malformed length %s of fixed %s", clip(size.text, 20), t.name)
		}
		t.size = int(v)
	}
	t.props = properties(n, t.kind == enumKind)
	aliases, err := stringList(n.member("aliases"), "aliases")
	if err != nil {
		return nil, fmt.Errorf("%s: %w", t.name, err)
	}
	seen := map[avroName]bool{}
	for _, a := range aliases {
		alias := splitName(a, t.name.space)
		if !seen[alias] {
			t.aliases = append(t.aliases, alias)
		}
		seen[alias] = true
	}
	if earlier != nil {
		// An enum or fixed may be written out again if nothing differs (Java since 1.12).
		if !sameEnumOrFixed(earlier, t) {
			return nil, fmt.Errorf("can't redefine: %s", t.name)
		}
		return earlier, nil
	}
	p.names[t.name.String()] = t
	return t, nil
}

// sameEnumOrFixed leaves out docs and aliases, as Schema.equals does.
func sameEnumOrFixed(a, b *avroType) bool {
	var x, y bytes.Buffer
	writeProps(&x, sortedProps(a.props))
	writeProps(&y, sortedProps(b.props))
	sameDef := a.enumDef == nil && b.enumDef == nil || a.enumDef != nil && b.enumDef != nil && *a.enumDef == *b.enumDef
	return a.kind == b.kind && a.size == b.size && sameDef && slices.Equal(a.symbols, b.symbols) && bytes.Equal(x.Bytes(), y.Bytes())
}

func (p *avroParser) fields(t *avroType, list *node) error {
	if list == nil || list.kind != arrayNode {
		return fmt.Errorf("record %s has no fields", t.name)
	}
	seen := map[string]bool{}
	for _, n := range list.list {
		f := &avroField{}
		var ok bool
		if f.name, ok = n.str("name"); !ok {
			return fmt.Errorf("a field of %s has no name", t.name)
		}
		if !validName(f.name) {
			return fmt.Errorf("illegal name of a field of %s: %q", t.name, clip(f.name, 80))
		}
		if seen[f.name] {
			return fmt.Errorf("duplicate field %s in record %s", f.name, t.name)
		}
		seen[f.name] = true
		if doc, ok := n.str("doc"); ok {
			f.doc = &doc
		}
		typ := n.member("type")
		if typ == nil {
			return fmt.Errorf("field %s of %s has no type", f.name, t.name)
		}
		var err error
		if f.typ, err = p.parse(typ, t.name.space); err != nil {
			return fmt.Errorf("field %s of %s: %w", f.name, t.name, err)
		}
		if o := n.member("order"); o != nil {
			f.order = strings.ToLower(o.text)
			if o.kind != stringNode || !slices.Contains([]string{"ascending", "descending", "ignore"}, f.order) {
				return fmt.Errorf("field %s of %s has an unknown order", f.name, t.name)
			}
		}
		if f.aliases, err = stringList(n.member("aliases"), "aliases"); err != nil {
			return fmt.Errorf("field %s of %s: %w", f.name, t.name, err)
		}
		if f.def = n.member("default"); f.def != nil {
			if (f.typ.kind == floatKind || f.typ.kind == doubleKind) && f.def.kind == stringNode {
				// Java takes "1.5" and "NaN" for a number here, and stores the number.
				v, err := strconv.ParseFloat(strings.TrimSpace(f.def.text), 64)
				if err != nil {
					return fmt.Errorf("invalid default for field %s of %s: %q is not a number", f.name, t.name, clip(f.def.text, 40))
				}
				f.def = &node{kind: numberNode, text: strconv.FormatFloat(v, 'E', -1, 64)}
			}
			p.defaults = append(p.defaults, pendingDefault{t.name.String(), f})
		}
		for i, k := range n.keys {
			if !slices.Contains(fieldReserved, k) {
				f.props = append(f.props, prop{k, n.list[i]})
			}
		}
		t.fields = append(t.fields, f)
	}
	return nil
}

func enumSymbols(t *avroType, n *node) error {
	var err error
	if t.symbols, err = stringList(n.member("symbols"), "symbols"); err != nil || n.member("symbols") == nil {
		return fmt.Errorf("enum %s has no symbols", t.name)
	}
	seen := map[string]bool{}
	for _, s := range t.symbols {
		if !validName(s) {
			return fmt.Errorf("illegal symbol of enum %s: %q", t.name, clip(s, 80))
		}
		if seen[s] {
			return fmt.Errorf("duplicate enum symbol %s in %s", s, t.name)
		}
		seen[s] = true
	}
	if def, ok := n.str("default"); ok {
		if !seen[def] {
			return fmt.Errorf("the default %q of enum %s is not one of its symbols", clip(def, 80), t.name)
		}
		t.enumDef = &def
	}
	return nil
}

// Attributes that belong to the type itself; all others are properties. Java's SCHEMA_RESERVED, FIELD_RESERVED.
var (
	schemaReserved = []string{"doc", "fields", "items", "name", "namespace", "size", "symbols", "values", "type", "aliases"}
	fieldReserved  = []string{"default", "doc", "name", "order", "type", "aliases"}
)

func properties(n *node, enum bool) []prop {
	var ps []prop
	for i, k := range n.keys {
		if slices.Contains(schemaReserved, k) || enum && k == "default" {
			continue
		}
		ps = append(ps, prop{k, n.list[i]})
	}
	return ps
}

func stringList(n *node, what string) ([]string, error) {
	if n == nil {
		return nil, nil
	}
	if n.kind != arrayNode {
		return nil, fmt.Errorf("%s is not an array", what)
	}
	var list []string
	seen := map[string]bool{}
	for _, item := range n.list {
		if item.kind != stringNode {
			return nil, fmt.Errorf("%s holds something that is not a string", what)
		}
		if !seen[item.text] || what == "symbols" {
			list = append(list, item.text)
		}
		seen[item.text] = true
	}
	return list, nil
}

func splitName(full, space string) avroName {
	if i := strings.LastIndexByte(full, '.'); i >= 0 {
		return avroName{full[:i], full[i+1:]}
	}
	return avroName{space, full}
}

func checkName(n avroName) error {
	if !validName(n.name) {
		return fmt.Errorf("illegal name: %q", clip(n.name, 80))
	}
	if n.space == "" {
		return nil
	}
	for _, part := range strings.Split(n.space, ".") {
		if !validName(part) {
			return fmt.Errorf("illegal namespace %q of %s", clip(n.space, 80), n.name)
		}
	}
	return nil
}

func validName(s string) bool {
	for i, c := range []byte(s) {
		switch {
		case c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c == '_':
		case c >= '0' && c <= '9' && i > 0:
		default:
			return false
		}
	}
	return s != ""
}

// defaultCheck says whether JSON defaults fit types. A default of a union may fit any branch (Avro 1.12). Each pair is
// looked at once: a schema can be made in which there are endlessly many ways to the same pair.
type defaultCheck map[defaultPair]bool

type defaultPair struct {
	typ *avroType
	def *node
}

func (c defaultCheck) fits(t *avroType, d *node) bool {
	if !t.kind.named() && t.kind != unionKind {
		return c.look(t, d)
	}
	pair := defaultPair{t, d}
	if fits, ok := c[pair]; ok {
		return fits
	}
	c[pair] = false // while it is looked at: a default that needs itself has no end
	c[pair] = c.look(t, d)
	return c[pair]
}

func (c defaultCheck) look(t *avroType, d *node) bool {
	switch t.kind {
	case nullKind:
		return d.kind == nullNode
	case booleanKind:
		return d.kind == trueNode || d.kind == falseNode
	case intKind, longKind:
		if !d.isInteger() {
			return false
		}
		v, err := strconv.ParseInt(d.text, 10, 64)
		return err == nil && (t.kind == longKind || v >= math.MinInt32 && v <= math.MaxInt32)
	case floatKind, doubleKind:
		return d.kind == numberNode
	case bytesKind, stringKind, enumKind, fixedKind:
		return d.kind == stringNode
	case arrayKind:
		return d.kind == arrayNode && !slices.ContainsFunc(d.list, func(n *node) bool { return !c.fits(t.item, n) })
	case mapKind:
		return d.kind == objectNode && !slices.ContainsFunc(d.list, func(n *node) bool { return !c.fits(t.item, n) })
	case unionKind:
		return slices.ContainsFunc(t.branches, func(b *avroType) bool { return c.fits(b, d) })
	case recordKind:
		if d.kind != objectNode {
			return false
		}
		for _, f := range t.fields {
			v := d.member(f.name)
			if v == nil {
				v = f.def
			}
			if v == nil || !c.fits(f.typ, v) {
				return false
			}
		}
		return true
	}
	return false
}

// describe names a type in a message.
func describe(t *avroType) string {
	switch t.kind {
	case unionKind:
		names := make([]string, len(t.branches))
		for i, b := range t.branches {
			names[i] = branchName(b)
		}
		return "[" + strings.Join(names, ", ") + "]"
	case recordKind, enumKind, fixedKind:
		return t.kind.String() + " " + t.name.String()
	}
	return t.kind.String()
}

// clip keeps what a client sent from filling a message.
func clip(s string, n int) string {
	if len(s) <= n {
		return s
	}
	for n > 0 && s[n]&0xC0 == 0x80 {
		n--
	}
	return s[:n] + "…"
}

// canonicalWriter writes Java's Schema.toString: a named type in full where it is met first, then by name.
type canonicalWriter struct {
	b     *bytes.Buffer
	names map[string]*avroType
}

func (w *canonicalWriter) write(t *avroType, space string) {
	b := w.b
	switch t.kind {
	case unionKind:
		b.WriteByte('[')
		for i, branch := range t.branches {
			if i > 0 {
				b.WriteByte(',')
			}
			w.write(branch, space)
		}
		b.WriteByte(']')
	case arrayKind:
		b.WriteString(`{"type":"array","items":`)
		w.write(t.item, space)
		writeProps(b, t.props)
		b.WriteByte('}')
	case mapKind:
		b.WriteString(`{"type":"map","values":`)
		w.write(t.item, space)
		writeProps(b, t.props)
		b.WriteByte('}')
	case recordKind, enumKind, fixedKind:
		w.writeNamed(t, space)
	default:
		if len(t.props) == 0 {
			appendString(b, t.kind.String())
			return
		}
		b.WriteString(`{"type":`)
		appendString(b, t.kind.String())
		writeProps(b, t.props)
		b.WriteByte('}')
	}
}

func (w *canonicalWriter) writeNamed(t *avroType, space string) {
	b := w.b
	if w.names[t.name.String()] == t {
		appendString(b, t.name.in(space))
		return
	}
	w.names[t.name.String()] = t
	b.WriteString(`{"type":"`)
	if t.errorType {
		b.WriteString("error")
	} else {
		b.WriteString(t.kind.String())
	}
	b.WriteString(`","name":`)
	appendString(b, t.name.name)
	if t.name.space != space {
		b.WriteString(`,"namespace":`)
		appendString(b, t.name.space)
	}
	writeDoc(b, t.doc)
	switch t.kind {
	case recordKind:
		b.WriteString(`,"fields":[`)
		for i, f := range t.fields {
			if i > 0 {
				b.WriteByte(',')
			}
			w.writeField(f, t.name.space)
		}
		b.WriteByte(']')
	case enumKind:
		b.WriteString(`,"symbols":`)
		writeStrings(b, t.symbols)
		if t.enumDef != nil {
			b.WriteString(`,"default":`)
			appendString(b, *t.enumDef)
		}
	case fixedKind:
		b.WriteString(`,"size":`)
		b.WriteString(strconv.Itoa(t.size))
	}
	writeProps(b, t.props)
	if len(t.aliases) > 0 {
		names := make([]string, len(t.aliases))
		for i, a := range t.aliases {
			names[i] = a.in(t.name.space)
		}
		b.WriteString(`,"aliases":`)
		writeStrings(b, names)
	}
	b.WriteByte('}')
}

func (w *canonicalWriter) writeField(f *avroField, space string) {
	b := w.b
	b.WriteString(`{"name":`)
	appendString(b, f.name)
	b.WriteString(`,"type":`)
	w.write(f.typ, space)
	writeDoc(b, f.doc)
	if f.def != nil {
		b.WriteString(`,"default":`)
		f.def.appendTo(b)
	}
	if f.order != "" && f.order != "ascending" {
		b.WriteString(`,"order":`)
		appendString(b, f.order)
	}
	if len(f.aliases) > 0 {
		b.WriteString(`,"aliases":`)
		writeStrings(b, f.aliases)
	}
	writeProps(b, f.props)
	b.WriteByte('}')
}

func writeDoc(b *bytes.Buffer, doc *string) {
	if doc != nil {
		b.WriteString(`,"doc":`)
		appendString(b, *doc)
	}
}

func writeProps(b *bytes.Buffer, props []prop) {
	for _, p := range props {
		b.WriteByte(',')
		appendString(b, p.key)
		b.WriteByte(':')
		p.value.appendTo(b)
	}
}

func writeStrings(b *bytes.Buffer, list []string) {
	b.WriteByte('[')
	for i, s := range list {
		if i > 0 {
			b.WriteByte(',')
		}
		appendString(b, s)
	}
	b.WriteByte(']')
}

// compile has goavro compile s, with the definitions of its references written into it.
//
// goavro refuses some schemas that the specification and every other implementation accept: a logical type that it does
// not know the attributes of, a default that fits another branch of its union than the first. Such a schema must not
// be refused by a registry that is to be Confluent's equal, so it is compiled a second time reduced to what decides
// over the bytes: types, names and order of fields. A schema that goavro cannot even compile so is refused.
func (s *Schema) compile() error {
	if _, err := goavroCodec(s.written().render()); err == nil {
		return nil
	}
	var b bytes.Buffer
	writeReduced(&b, s.root, map[*avroType]string{})
	if _, err := goavroCodec(b.String()); err != nil {
		return fmt.Errorf("goavro does not compile it: %w", err)
	}
	return nil
}

// goavroCodec guards against a panic in goavro: the text came from outside.
func goavroCodec(text string) (codec *goavro.Codec, err error) {
	defer func() {
		if r := recover(); r != nil {
			err = fmt.Errorf("goavro: %v", r)
		}
	}()
	return goavro.NewCodec(text)
}

// writeReduced writes only what the binary encoding depends on, with short names in place of the named types'.
func writeReduced(b *bytes.Buffer, t *avroType, names map[*avroType]string) {
	if name, ok := names[t]; ok {
		appendString(b, name)
		return
	}
	if t.kind.named() {
		names[t] = "t" + strconv.Itoa(len(names))
	}
	switch t.kind {
	case unionKind:
		if len(t.branches) == 0 {
			b.WriteString(`["null"]`) // it has no value: nothing depends on it
			return
		}
		b.WriteByte('[')
		for i, branch := range t.branches {
			if i > 0 {
				b.WriteByte(',')
			}
			writeReduced(b, branch, names)
		}
		b.WriteByte(']')
	case arrayKind:
		b.WriteString(`{"type":"array","items":`)
		writeReduced(b, t.item, names)
		b.WriteByte('}')
	case mapKind:
		b.WriteString(`{"type":"map","values":`)
		writeReduced(b, t.item, names)
		b.WriteByte('}')
	case recordKind:
		fmt.Fprintf(b, `{"type":"record","name":"%s","fields":[`, names[t])
		for i, f := range t.fields {
			if i > 0 {
				b.WriteByte(',')
			}
			b.WriteString(`{"name":`)
			appendString(b, f.name)
			b.WriteString(`,"type":`)
			writeReduced(b, f.typ, names)
			b.WriteByte('}')
		}
		b.WriteString(`]}`)
	case enumKind:
		fmt.Fprintf(b, `{"type":"enum","name":"%s","symbols":`, names[t])
		symbols := t.symbols
		if len(symbols) == 0 {
			symbols = []string{"none"} // an enum without symbols has no value: nothing depends on it
		}
		writeStrings(b, symbols)
		b.WriteByte('}')
	case fixedKind:
		fmt.Fprintf(b, `{"type":"fixed","name":"%s","size":%d}`, names[t], max(t.size, 1))
	default:
		appendString(b, t.kind.String())
	}
}
