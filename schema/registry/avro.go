package registry

import (
	"bytes"
	"errors"
	"fmt"
	"math"
	"slices"
	"strconv"
	"strings"
	"unicode"

	"github.com/linkedin/goavro/v2"
)

// Schema is a parsed Avro schema. It is immutable.
type Schema struct {
	root *avroType
	// known are the roots of the references that it was parsed with: they are written by name only.
	known []avroName
	// defined are the named types in the order in which their definitions end, without those of references.
	defined []*avroType
	open    bool // a name is used before the end of its definition, here or in a reference
	text    string
}

// avroType is one type of a schema. A named type that occurs again is the same pointer, unless it is written out again.
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
// The rules are the Avro specification's (1.12) in the reading of its Java implementation 1.12.1, because that is what
// decides over a schema elsewhere; an oracle in the tests holds us to it. goavro must compile what is accepted, see [Schema.compile].
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

// parseStored reads a schema that somebody has accepted before: nothing is gained by refusing a default or a namespace now.
func parseStored(text string, references []*Schema) (*Schema, error) {
	return parseAvro(text, false, references)
}

// ParseStored reads an Avro schema that a registry has accepted before and that refers to no other: nothing is gained by
// refusing it now.
func ParseStored(text string) (*Schema, error) { return parseStored(text, nil) }

func parseAvro(text string, strict bool, references []*Schema) (*Schema, error) {
	n, err := parseJSON(withoutComments(text))
	if err != nil {
		return nil, err
	}
	p := avroParser{names: map[string]*avroType{}, strict: strict, check: newDefaultCheck()}
	s := &Schema{}
	for _, r := range references {
		for _, t := range r.defined {
			if p.names[t.name.String()] == nil {
				p.names[t.name.String()] = t
				p.order = append(p.order, t)
			}
		}
		if r.root.kind.named() {
			s.known = append(s.known, r.root.name)
		}
		p.open = p.open || r.open
	}
	defined := len(p.order)
	if s.root, err = p.parse(n, ""); err != nil {
		return nil, err
	}
	if s.root, err = p.resolve(s.root, len(p.order) > defined); err != nil {
		return nil, err
	}
	if s.root.kind.named() {
		s.root = p.names[s.root.name.String()] // a reference may have it, too
	}
	s.defined, s.open = p.order[defined:], p.open
	s.text = s.render()
	return s, nil
}

// render writes the canonical text.
func (s *Schema) render() string {
	var b bytes.Buffer
	w := canonicalWriter{b: &b, names: map[avroName]bool{}}
	for _, name := range s.known {
		w.names[name] = true
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

// avroParser reads in two steps, as Java does since 1.12.1: a type has its name only from the end of its definition on, and
// what was used before is put in its place when the whole is read.
type avroParser struct {
	names  map[string]*avroType
	order  []*avroType // of names
	strict bool
	open   bool // a name was used before the end of its definition
	check  *defaultCheck
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
	if !strings.Contains(name, ".") && space != "" {
		name = space + "." + name
	}
	p.open = true
	return &avroType{kind: unresolvedKind, name: avroName{"", name}}, nil
}

// resolve puts definitions in the place of names that were used before them, and looks at the defaults again, which may be of
// these. It goes the way of Java's SchemaResolver.ResolvingVisitor, because Java refuses a default whose type it has met
// and not yet left. news says that there are definitions besides those of references.
func (p *avroParser) resolve(root *avroType, news bool) (*avroType, error) {
	if !p.open {
		return root, nil
	}
	r := newLinker(p)
	for _, t := range p.order {
		if !news {
			break
		}
		if _, err := r.visit(t, map[*avroType]bool{}); err != nil {
			return nil, err
		}
	}
	if root.kind.named() {
		return root, nil
	}
	r.again = newLinker(p)
	return r.visit(root, map[*avroType]bool{})
}

type linker struct {
	p     *avroParser
	met   map[*avroType]bool // records
	check *defaultCheck
	// again, when the root has no name itself, follows the names that it uses before their definitions: Java looks at these types
	// another time, from there.
	again *linker
}

func newLinker(p *avroParser) *linker {
	r := &linker{p: p, met: map[*avroType]bool{}, check: newDefaultCheck()}
	r.check.whole = map[*avroType]bool{}
	return r
}

// visit returns what stands for t. seen is what this walk has met; a name that leads to a type not yet met begins another.
func (r *linker) visit(t *avroType, seen map[*avroType]bool) (*avroType, error) {
	if t.kind == unresolvedKind {
		d := r.p.names[t.name.name]
		if d == nil {
			return nil, fmt.Errorf("undefined name: %q", clip(t.name.name, 80))
		}
		if r.again != nil {
			r = r.again
		}
		if d.kind == recordKind && !r.met[d] {
			return r.visit(d, map[*avroType]bool{})
		}
		return d, nil
	}
	if seen[t] {
		return t, nil
	}
	seen[t] = true
	if t.item != nil {
		if err := r.put(&t.item, seen); err != nil {
			return nil, err
		}
	}
	for i := range slices.Backward(t.branches) {
		if err := r.put(&t.branches[i], seen); err != nil {
			return nil, err
		}
	}
	names := map[string]bool{}
	for _, b := range t.branches {
		if names[branchName(b)] {
			return nil, fmt.Errorf("duplicate in union: %s", branchName(b))
		}
		names[branchName(b)] = true
	}
	if t.kind != recordKind || r.check.whole[t] {
		return t, nil
	}
	r.met[t] = true
	for _, f := range t.fields {
		if err := r.put(&f.typ, seen); err != nil {
			return nil, err
		}
	}
	if r.check.whole[t] { // from inside of it
		return t, nil
	}
	for _, f := range t.fields {
		if err := r.p.checkDefault(r.check, t, f); err != nil {
			return nil, err
		}
	}
	r.check.whole[t] = true
	return t, nil
}

// put writes only what changes: a reference may be in use elsewhere, and is resolved.
func (r *linker) put(at **avroType, seen map[*avroType]bool) error {
	t, err := r.visit(*at, seen)
	if err == nil && t != *at {
		*at = t
	}
	return err
}

func (p *avroParser) checkDefault(check *defaultCheck, record *avroType, f *avroField) error {
	if !p.strict || f.def == nil {
		return nil
	}
	fits := check.fits(f.typ, f.def)
	if check.open {
		return fmt.Errorf("the default for field %s of %s needs a type that is not yet defined there: define it before", f.name, record.name)
	}
	if !fits {
		return fmt.Errorf("invalid default for field %s of %s: %s is not a %s", f.name, record.name, clip(string(f.def.bytes()), 80), describe(f.typ))
	}
	return nil
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
		return t, p.checkProps(t)
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
	if err := p.checkName(t.name); err != nil {
		return nil, err
	}
	if _, ok := primitive(t.name.String()); ok {
		return nil, fmt.Errorf("schemas may not be named after primitives: %s", t.name)
	}
	if doc, ok := n.str("doc"); ok {
		t.doc = &doc
	}
	switch typ {
	case "record", "error":
		t.kind, t.errorType = recordKind, typ == "error"
		if err := p.fields(t, n.member("fields")); err != nil {
			return nil, err
		}
	case "enum":
		t.kind = enumKind
		if err := p.symbols(t, n); err != nil {
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
	if t.kind == recordKind {
		if err := p.checkProps(t); err != nil {
			return nil, err
		}
	}
	aliases, err := stringList(n.member("aliases"), "aliases")
	if err != nil {
		return nil, fmt.Errorf("%s: %w", t.name, err)
	}
	seen := map[avroName]bool{}
	for _, a := range aliases {
		alias := splitName(a, t.name.space)
		if p.strict && !p.validName(alias.name) {
			return nil, fmt.Errorf("illegal alias of %s: %q", t.name, clip(a, 80))
		}
		if !seen[alias] {
			t.aliases = append(t.aliases, alias)
		}
		seen[alias] = true
	}
	if earlier := p.names[t.name.String()]; earlier == nil {
		p.names[t.name.String()] = t
		p.order = append(p.order, t)
	} else if !(sameness{}).types(earlier, t) {
		return nil, fmt.Errorf("can't redefine: %s", t.name)
	}
	return t, nil
}

// sameness is Java's Schema.equals, by which a type may be written out again: it leaves out docs, aliases and the default of an
// enum. It holds the pairs that are assumed to be the same while they are compared.
type sameness map[[2]*avroType]bool

func (s sameness) types(a, b *avroType) bool {
	pair := [2]*avroType{a, b}
	if a == b || s[pair] {
		return true
	}
	if a.kind != b.kind || a.kind == unresolvedKind || a.name != b.name || a.size != b.size || !slices.Equal(a.symbols, b.symbols) || !sameProps(a.props, b.props) {
		return false
	}
	s[pair] = true
	same := (a.item == nil || s.types(a.item, b.item)) && slices.EqualFunc(a.branches, b.branches, s.types) &&
		slices.EqualFunc(a.fields, b.fields, func(f, g *avroField) bool {
			return f.name == g.name && f.order == g.order && sameNode(f.def, g.def) && sameProps(f.props, g.props) && s.types(f.typ, g.typ)
		})
	if !same {
		delete(s, pair)
	}
	return same
}

func sameProps(a, b []prop) bool {
	var x, y bytes.Buffer
	writeProps(&x, sortedProps(a))
	writeProps(&y, sortedProps(b))
	return bytes.Equal(x.Bytes(), y.Bytes())
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
		if !p.validName(f.name) {
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
				v, ok := parseJavaDouble(f.def.text)
				if !ok {
					return fmt.Errorf("invalid default for field %s of %s: %q is not a number", f.name, t.name, clip(f.def.text, 40))
				}
				f.def = &node{kind: numberNode, text: strconv.FormatFloat(v, 'E', -1, 64)}
			}
			if err := p.checkDefault(p.check, t, f); err != nil {
				return err
			}
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

func (p *avroParser) symbols(t *avroType, n *node) error {
	var err error
	if t.symbols, err = stringList(n.member("symbols"), "symbols"); err != nil || n.member("symbols") == nil {
		return fmt.Errorf("enum %s has no symbols", t.name)
	}
	seen := map[string]bool{}
	for _, s := range t.symbols {
		if !p.validName(s) {
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

// checkProps refuses what Java cannot copy: it makes records, arrays and maps anew when it has read all.
func (p *avroParser) checkProps(t *avroType) error {
	if !p.strict {
		return nil
	}
	var tooLarge func(n *node) bool
	tooLarge = func(n *node) bool {
		_, err := strconv.ParseInt(n.text, 10, 64)
		return n.isInteger() && err != nil || slices.ContainsFunc(n.list, tooLarge)
	}
	for _, prop := range t.props {
		if tooLarge(prop.value) {
			return fmt.Errorf("the property %q of %s has a whole number of more than 64 bits", clip(prop.key, 80), describe(t))
		}
	}
	return nil
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

func (p *avroParser) checkName(n avroName) error {
	if !p.validName(n.name) {
		return fmt.Errorf("illegal name: %q", clip(n.name, 80))
	}
	if n.space == "" || !p.strict {
		return nil
	}
	for part := range strings.SplitSeq(n.space, ".") {
		if !p.validName(part) {
			return fmt.Errorf("illegal namespace %q of %s", clip(n.space, 80), n.name)
		}
	}
	return nil
}

// validName takes all letters, not only those of ASCII, in a schema that is there: so did Avro before 1.12.
func (p *avroParser) validName(s string) bool {
	for i, c := range s {
		switch {
		case c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c == '_':
		case c >= '0' && c <= '9' && i > 0:
		case !p.strict && c <= 0xFFFF && (unicode.IsLetter(c) || i > 0 && unicode.IsDigit(c)):
		default:
			return false
		}
	}
	return s != ""
}

// defaultCheck says whether JSON defaults fit types. A default of a union may fit any branch (Avro 1.12). Each pair is
// looked at once: a schema can be made in which there are endlessly many ways to the same pair.
type defaultCheck struct {
	done map[defaultPair]bool
	// whole are the records whose fields are known, nil while reading: all that are not [unresolvedKind] are.
	whole map[*avroType]bool
	open  bool // a record was needed that is not among them
}

type defaultPair struct {
	typ *avroType
	def *node
}

func newDefaultCheck() *defaultCheck { return &defaultCheck{done: map[defaultPair]bool{}} }

func (c *defaultCheck) fits(t *avroType, d *node) bool {
	if !t.kind.named() && t.kind != unionKind {
		return c.look(t, d)
	}
	pair := defaultPair{t, d}
	if fits, ok := c.done[pair]; ok {
		return fits
	}
	c.done[pair] = false // while it is looked at: a default that needs itself has no end
	c.done[pair] = c.look(t, d)
	return c.done[pair]
}

func (c *defaultCheck) look(t *avroType, d *node) bool {
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
	case unresolvedKind: // is looked at again when it is known
		return d.kind == objectNode
	case recordKind:
		if d.kind != objectNode {
			return false
		}
		if c.whole != nil && !c.whole[t] {
			c.open = true
			return true
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
	names map[avroName]bool
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
	if w.names[t.name] {
		appendString(b, t.name.in(space))
		return
	}
	w.names[t.name] = true
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
