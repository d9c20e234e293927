package registry

import (
	"bytes"
	"fmt"
	"slices"
	"strings"
)

// DifferenceKind says what is different between two schemas. The values are words of `walferry schema diff --format json`.
type DifferenceKind string

const (
	FieldAdded         DifferenceKind = "added"
	FieldRemoved       DifferenceKind = "removed"
	FieldRenamed       DifferenceKind = "renamed" // by an alias of the new field; without one it is removed and added
	TypeChanged        DifferenceKind = "type"
	NullabilityChanged DifferenceKind = "nullability"
	LogicalTypeChanged DifferenceKind = "logical type" // precision and scale included
	DefaultChanged     DifferenceKind = "default"      // of a field, or of an Avro enum
	SymbolsChanged     DifferenceKind = "symbols"      // of an Avro enum
	LabelsChanged      DifferenceKind = "labels"       // of a Postgres enum that is written as a string
	DocChanged         DifferenceKind = "doc"
	NameChanged        DifferenceKind = "name"     // of a record, enum or fixed
	AliasesChanged     DifferenceKind = "aliases"  // of a field or a named type
	OrderChanged       DifferenceKind = "order"    // of the fields that both have
	PropertyChanged    DifferenceKind = "property" // any other attribute
)

// Difference is one difference between two schemas.
type Difference struct {
	Kind DifferenceKind `json:"kind"`
	// Record is the full name, in the new schema, of the record that the field is in; "" outside of any.
	Record string `json:"record"`
	// Field is the place within Record: a field's name, the new one if it has two, followed by [] for the items of an
	// array, {} for the values of a map; "" is the record itself, or the root of a schema that is no record.
	Field string `json:"field"`
	// Paths are the same place as seen from the root: as many as there are ways to the record, up to maxPaths. An
	// envelope has its row twice, so a column is at before.NAME and at after.NAME.
	Paths []string `json:"paths"`
	// Old and New are what was and what is: types in words, defaults and properties in JSON, else plain text. "" for
	// what is not there.
	Old string `json:"old,omitempty"`
	New string `json:"new,omitempty"`
	// Property names the attribute of a PropertyChanged.
	Property string `json:"property,omitempty"`
	// Added and Removed are the symbols or labels, or aliases, that came and went, in their order. Neither for a mere
	// change of order.
	Added   []string `json:"added,omitempty"`
	Removed []string `json:"removed,omitempty"`
}

// maxPaths bounds Difference.Paths: a small schema can have more ways to a record than there is memory.
const maxPaths = 16

// Sign is +, - or ~, as in a diff.
func (d *Difference) Sign() string {
	switch d.Kind {
	case FieldAdded:
		return "+"
	case FieldRemoved:
		return "-"
	}
	return "~"
}

// Text says what is different, without where: "type int → long".
func (d *Difference) Text() string {
	switch d.Kind {
	case FieldAdded:
		return d.New
	case FieldRemoved:
		return d.Old
	case FieldRenamed:
		return "was " + d.Old
	case NullabilityChanged:
		return d.Old + " → " + d.New
	case DocChanged:
		switch {
		case d.Old == "":
			return fmt.Sprintf("comment %q", d.New)
		case d.New == "":
			return fmt.Sprintf("no comment any more, was %q", d.Old)
		}
		return fmt.Sprintf("comment %q → %q", d.Old, d.New)
	case SymbolsChanged, LabelsChanged, AliasesChanged:
		var parts []string
		for _, s := range d.Added {
			parts = append(parts, "+"+s)
		}
		for _, s := range d.Removed {
			parts = append(parts, "-"+s)
		}
		if parts == nil {
			return fmt.Sprintf("%s in another order: %s → %s", d.Kind, d.Old, d.New)
		}
		return string(d.Kind) + " " + strings.Join(parts, ", ")
	case PropertyChanged:
		return fmt.Sprintf("property %s %s → %s", d.Property, orNone(d.Old), orNone(d.New))
	}
	return fmt.Sprintf("%s %s → %s", d.Kind, orNone(d.Old), orNone(d.New))
}

// String is the whole difference in one line: "before.id, after.id: type int → long".
func (d *Difference) String() string {
	what := d.Text()
	if d.Kind == FieldAdded || d.Kind == FieldRemoved {
		what = string(d.Kind) + " " + what
	}
	if where := strings.Join(d.Paths, ", "); where != "" {
		return where + ": " + what
	}
	return what
}

// FormatDiff writes differences for people, grouped by record: a line that names the record and the ways to it, and below
// it one for each difference. paint may colour a line, given without its newline; nil leaves it plain.
func FormatDiff(list []Difference, paint func(d *Difference, line string) string) string {
	var records []string
	of := map[string][]*Difference{}
	for i := range list {
		d := &list[i]
		if of[d.Record] == nil {
			records = append(records, d.Record)
		}
		of[d.Record] = append(of[d.Record], d)
	}
	var sorted []*Difference
	for _, r := range records {
		sorted = append(sorted, of[r]...)
	}
	var b strings.Builder
	for i, d := range sorted {
		if i == 0 || sorted[i-1].Record != d.Record {
			b.WriteString(d.heading())
		}
		line := "  " + d.Sign() + " "
		if d.Field != "" {
			line += d.Field + ": "
		}
		line += d.Text()
		if paint != nil {
			line = paint(d, line)
		}
		b.WriteString(line + "\n")
	}
	return b.String()
}

// heading names the record of d, and where it is unless it is the root.
func (d *Difference) heading() string {
	if d.Record == "" {
		return ""
	}
	var ways []string
	for _, path := range d.Paths {
		if way := strings.TrimSuffix(strings.TrimSuffix(path, d.Field), "."); way != "" {
			ways = append(ways, way)
		}
	}
	if ways == nil {
		return d.Record + "\n"
	}
	return d.Record + " (" + strings.Join(ways, ", ") + ")\n"
}

func orNone(s string) string {
	if s == "" {
		return "none"
	}
	return s
}

// Diff lists what is different in new, in the order of its fields; removed fields stand where they were. It is empty
// for two schemas that say the same. A pair of records is looked at once, however many ways lead to it.
func Diff(old, new *Schema) []Difference {
	root := &visit{}
	w := diffWalk{records: map[[2]*avroType]*visit{}}
	w.types(old.root, new.root, place{root, ""})
	root.ways()
	for i := range w.found {
		d := &w.found[i]
		for _, path := range w.in[i].paths {
			d.Paths = append(d.Paths, joinPath(path, d.Field))
		}
	}
	return w.found
}

// DiffText is Diff for Avro schemas as they are stored, with nothing to refer to.
func DiffText(old, new string) ([]Difference, error) {
	o, err := parseStored(old, nil)
	if err != nil {
		return nil, fmt.Errorf("old schema: %w", err)
	}
	n, err := parseStored(new, nil)
	if err != nil {
		return nil, fmt.Errorf("new schema: %w", err)
	}
	return Diff(o, n), nil
}

// place is where a walk stands: at a field, as Difference.Field has it, of a record.
type place struct {
	in    *visit
	field string
}

type diffWalk struct {
	found   []Difference
	in      []*visit // of found
	records map[[2]*avroType]*visit
}

// visit is a pair of records, or the root.
type visit struct {
	record string
	inner  []place // records that it holds, and at which of its fields
	paths  []string
}

// ways fills in the paths to all records, from the root on: the short ones first, and none that goes through a record
// twice.
func (root *visit) ways() {
	type way struct {
		to   *visit
		path string
		from *way
	}
	for queue := []*way{{to: root}}; len(queue) > 0; queue = queue[1:] {
		at := queue[0]
		if len(at.to.paths) == maxPaths {
			continue
		}
		at.to.paths = append(at.to.paths, at.path)
		for _, next := range at.to.inner {
			twice := false
			for w := at; w != nil; w = w.from {
				twice = twice || w.to == next.in
			}
			if !twice {
				queue = append(queue, &way{next.in, joinPath(at.path, next.field), at})
			}
		}
	}
}

func joinPath(path, field string) string {
	if path == "" || field == "" {
		return path + field
	}
	return path + "." + field
}

func (w *diffWalk) add(p place, d Difference) {
	d.Record, d.Field = p.in.record, p.field
	w.found = append(w.found, d)
	w.in = append(w.in, p.in)
}

// changed adds a difference if there is one.
func (w *diffWalk) changed(p place, kind DifferenceKind, old, new string) {
	if old != new {
		w.add(p, Difference{Kind: kind, Old: old, New: new})
	}
}

func (w *diffWalk) types(old, new *avroType, p place) {
	oldNull, oldRest := nullApart(old)
	newNull, newRest := nullApart(new)
	if len(oldRest) == 1 && len(newRest) == 1 {
		if oldNull != newNull {
			w.changed(p, NullabilityChanged, nullability(oldNull), nullability(newNull))
		} else if old.kind != new.kind && (old.kind == unionKind || new.kind == unionKind) ||
			oldNull && (old.branches[0].kind == nullKind) != (new.branches[0].kind == nullKind) {
			w.changed(p, TypeChanged, typeText(old), typeText(new)) // that it is a union, and their order, show in the bytes
		}
		w.branch(oldRest[0], newRest[0], p)
		return
	}
	if names(old) != names(new) {
		w.changed(p, TypeChanged, typeText(old), typeText(new))
	}
	for _, n := range newRest {
		for _, o := range oldRest {
			if branchName(o) == branchName(n) {
				w.branch(o, n, p)
			}
		}
	}
}

// nullApart splits a type into whether it can be null and what else it can be.
func nullApart(t *avroType) (null bool, rest []*avroType) {
	if t.kind != unionKind {
		return false, []*avroType{t}
	}
	for _, b := range t.branches {
		if b.kind == nullKind {
			null = true
		} else {
			rest = append(rest, b)
		}
	}
	return null, rest
}

func names(t *avroType) string {
	if t.kind == unionKind {
		return describe(t)
	}
	return branchName(t)
}

func nullability(null bool) string {
	if null {
		return "can be null"
	}
	return "required"
}

// branch compares two types that are no unions.
func (w *diffWalk) branch(old, new *avroType, p place) {
	if old.kind != new.kind || old.size != new.size {
		w.changed(p, TypeChanged, typeText(old), typeText(new))
		return
	}
	switch new.kind {
	case arrayKind:
		w.types(old.item, new.item, place{p.in, p.field + "[]"})
	case mapKind:
		w.types(old.item, new.item, place{p.in, p.field + "{}"})
	case enumKind, fixedKind:
		w.named(old, new, p)
		w.list(p, SymbolsChanged, old.symbols, new.symbols)
		w.changed(p, DefaultChanged, deref(old.enumDef), deref(new.enumDef))
	case recordKind:
		pair := [2]*avroType{old, new}
		v := w.records[pair]
		met := v != nil
		if !met {
			v = &visit{record: new.name.String()}
			w.records[pair] = v
		}
		p.in.inner = append(p.in.inner, place{v, p.field})
		if met {
			return
		}
		p = place{v, ""}
		w.named(old, new, p)
		w.properties(old.props, new.props, p)
		w.fields(old, new, p)
		return
	}
	w.properties(old.props, new.props, p)
}

func (w *diffWalk) named(old, new *avroType, p place) {
	w.changed(p, NameChanged, old.name.String(), new.name.String())
	w.list(p, AliasesChanged, fullNames(old.aliases), fullNames(new.aliases))
	w.changed(p, DocChanged, deref(old.doc), deref(new.doc))
}

// fields compares two records that are at p.
func (w *diffWalk) fields(old, new *avroType, p place) {
	partners := make([]int, len(new.fields)) // in old, -1 for none
	kept := map[int]bool{}
	var order []int
	for i, f := range new.fields {
		partners[i] = partner(old, new, f)
		if at := partners[i]; at >= 0 && !kept[at] {
			kept[at], order = true, append(order, at)
		} else {
			partners[i] = -1
		}
	}
	if !slices.IsSorted(order) {
		var now []string
		for i, f := range new.fields {
			if partners[i] >= 0 {
				now = append(now, f.name)
			}
		}
		var then []string
		for _, at := range slices.Sorted(slices.Values(order)) {
			then = append(then, now[slices.Index(order, at)])
		}
		w.changed(p, OrderChanged, strings.Join(then, ", "), strings.Join(now, ", "))
	}
	gone := 0 // fields of old before it are dealt with
	removed := func(end int) {
		for ; gone < end; gone++ {
			if f := old.fields[gone]; !kept[gone] {
				w.add(place{p.in, f.name}, Difference{Kind: FieldRemoved, Old: fieldText(f)})
			}
		}
	}
	for i, f := range new.fields {
		at := place{p.in, f.name}
		if partners[i] < 0 {
			next := slices.IndexFunc(partners[i:], func(p int) bool { return p >= 0 })
			if next < 0 {
				removed(len(old.fields))
			} else {
				removed(partners[i+next])
			}
			w.add(at, Difference{Kind: FieldAdded, New: fieldText(f)})
			continue
		}
		removed(partners[i])
		w.field(old.fields[partners[i]], f, at)
	}
	removed(len(old.fields))
}

// partner is the place in old of the field that f goes on with: the one of its name, or one that an alias names and
// that is under no name in new.
func partner(old, new *avroType, f *avroField) int {
	at := func(name string) int {
		return slices.IndexFunc(old.fields, func(o *avroField) bool { return o.name == name })
	}
	if i := at(f.name); i >= 0 {
		return i
	}
	for _, alias := range f.aliases {
		taken := slices.ContainsFunc(new.fields, func(n *avroField) bool { return n.name == alias })
		if i := at(alias); i >= 0 && !taken {
			return i
		}
	}
	return -1
}

func (w *diffWalk) field(old, new *avroField, p place) {
	w.changed(p, FieldRenamed, old.name, new.name)
	w.types(old.typ, new.typ, p)
	w.changed(p, DefaultChanged, jsonText(old.def), jsonText(new.def))
	w.changed(p, DocChanged, deref(old.doc), deref(new.doc))
	was, is := old.aliases, new.aliases
	if old.name != new.name { // which is said already
		is = slices.DeleteFunc(slices.Clone(is), func(a string) bool { return a == old.name })
	}
	w.list(p, AliasesChanged, was, is)
	w.properties(old.props, new.props, p)
}

// list compares two lists of names.
func (w *diffWalk) list(p place, kind DifferenceKind, old, new []string) {
	if slices.Equal(old, new) {
		return
	}
	d := Difference{Kind: kind, Old: strings.Join(old, ", "), New: strings.Join(new, ", "), Added: without(new, old), Removed: without(old, new)}
	w.add(p, d)
}

func without(list, other []string) (rest []string) {
	known := make(map[string]bool, len(other))
	for _, s := range other {
		known[s] = true
	}
	for _, s := range list {
		if !known[s] {
			rest = append(rest, s)
		}
	}
	return rest
}

// properties compares attributes. Those of a logical type are one difference, and so are labels. What Kafka Connect is
// told of a type repeats that, and is a difference where nothing else is.
func (w *diffWalk) properties(old, new []prop, p place) {
	before := len(w.found)
	w.changed(p, LogicalTypeChanged, logicalText(old), logicalText(new))
	w.list(p, LabelsChanged, stringItems(property(old, "labels")), stringItems(property(new, "labels")))
	ours := len(w.found) - before
	var keys []string
	for _, list := range [][]prop{new, old} {
		for _, a := range list {
			if !slices.Contains(keys, a.key) {
				keys = append(keys, a.key)
			}
		}
	}
	for _, key := range keys {
		switch key {
		case "logicalType", "precision", "scale", "labels":
			continue
		case "connect.name", "connect.parameters", "connect.version":
			if ours > 0 || key == "connect.name" && p.in.record != "" && p.field == "" {
				continue // of a record it is the record's name
			}
		}
		if o, n := jsonText(property(old, key)), jsonText(property(new, key)); o != n {
			w.add(p, Difference{Kind: PropertyChanged, Property: key, Old: o, New: n})
		}
	}
}

func property(props []prop, key string) *node {
	for _, p := range props {
		if p.key == key {
			return p.value
		}
	}
	return nil
}

// logicalText is a logical type as one reads it: "decimal(12,2)", "timestamp-micros"; "" for none.
func logicalText(props []prop) string {
	name := property(props, "logicalType")
	if name == nil {
		return ""
	}
	text := plainText(name)
	if precision := property(props, "precision"); precision != nil {
		scale := "0"
		if s := property(props, "scale"); s != nil {
			scale = plainText(s)
		}
		text += "(" + plainText(precision) + "," + scale + ")"
	}
	return text
}

// typeText is a type in words.
func typeText(t *avroType) string {
	switch t.kind {
	case unionKind:
		var parts []string
		for _, b := range t.branches {
			parts = append(parts, typeText(b))
		}
		if len(parts) == 2 && parts[0] == "null" {
			slices.Reverse(parts) // the usual way to say that a value can be missing
			return strings.Join(parts, " or ")
		}
		return "union of " + strings.Join(parts, ", ")
	case arrayKind, mapKind:
		return t.kind.String() + " of " + typeText(t.item)
	case recordKind, enumKind:
		return t.kind.String() + " " + t.name.String()
	case fixedKind:
		return fmt.Sprintf("fixed %s of %d bytes", t.name, t.size)
	}
	text := t.kind.String()
	if logical := logicalText(t.props); logical != "" {
		text += " " + logical
	}
	if pg := property(t.props, "postgres.type"); pg != nil {
		text += " (" + plainText(pg) + ")"
	}
	return text
}

// fieldText is a field without its name.
func fieldText(f *avroField) string {
	text := typeText(f.typ)
	if f.def != nil {
		text += ", default " + jsonText(f.def)
	}
	if f.doc != nil && *f.doc != "" {
		text += fmt.Sprintf(", comment %q", *f.doc)
	}
	return text
}

// jsonText is "" for what is not there.
func jsonText(n *node) string {
	if n == nil {
		return ""
	}
	var b bytes.Buffer
	n.appendTo(&b)
	return b.String()
}

// plainText is a string without its quotes, and anything else in JSON.
func plainText(n *node) string {
	if n.kind == stringNode {
		return n.text
	}
	return jsonText(n)
}

// stringItems are the items of an array as plain text.
func stringItems(n *node) (list []string) {
	if n == nil {
		return nil
	}
	for _, item := range n.list {
		list = append(list, plainText(item))
	}
	return list
}

func fullNames(names []avroName) (list []string) {
	for _, n := range names {
		list = append(list, n.String())
	}
	return list
}

func deref(s *string) string {
	if s == nil {
		return ""
	}
	return *s
}
