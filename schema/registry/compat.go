package registry

import (
	"fmt"
	"slices"
	"strconv"
	"strings"
)

// Level says which versions of a subject must be able to read which. The names are Confluent's.
type Level string

// Backward: the new schema reads what the version before it wrote. Forward: the version before reads what the new
// one writes. Full: both. Transitive: against all versions, not only the last.
const (
	None               Level = "NONE"
	Backward           Level = "BACKWARD"
	BackwardTransitive Level = "BACKWARD_TRANSITIVE"
	Forward            Level = "FORWARD"
	ForwardTransitive  Level = "FORWARD_TRANSITIVE"
	Full               Level = "FULL"
	FullTransitive     Level = "FULL_TRANSITIVE"
)

// Levels lists all levels.
var Levels = []Level{None, Backward, BackwardTransitive, Forward, ForwardTransitive, Full, FullTransitive}

// ParseLevel reads a level's name in any case.
func ParseLevel(s string) (Level, bool) {
	l := Level(strings.ToUpper(s))
	return l, slices.Contains(Levels, l)
}

func (l Level) transitive() bool { return strings.HasSuffix(string(l), "_TRANSITIVE") }
func (l Level) backward() bool   { return strings.HasPrefix(string(l), "BACKWARD") || l.full() }
func (l Level) forward() bool    { return strings.HasPrefix(string(l), "FORWARD") || l.full() }
func (l Level) full() bool       { return strings.HasPrefix(string(l), "FULL") }

// IncompatibilityType is a reason why a reader cannot read what a writer wrote; the names are those of Avro's
// SchemaCompatibility.SchemaIncompatibilityType.
type IncompatibilityType string

const (
	NameMismatch         IncompatibilityType = "NAME_MISMATCH"
	FixedSizeMismatch    IncompatibilityType = "FIXED_SIZE_MISMATCH"
	MissingEnumSymbols   IncompatibilityType = "MISSING_ENUM_SYMBOLS"
	MissingFieldDefault  IncompatibilityType = "READER_FIELD_MISSING_DEFAULT_VALUE"
	TypeMismatch         IncompatibilityType = "TYPE_MISMATCH"
	MissingUnionBranch   IncompatibilityType = "MISSING_UNION_BRANCH"
	ambiguousAlias       IncompatibilityType = "AMBIGUOUS_ALIAS"        // an exception in Java
	differentSchemaTypes IncompatibilityType = "DIFFERENT_SCHEMA_TYPES" // AVRO against JSON
)

// Incompatibility is one reason, and where it is.
type Incompatibility struct {
	Type IncompatibilityType
	// Path leads through the reader's schema by Avro's rules, as "/fields/3/type/1".
	Path string
	// Field is the same place in words: names of fields with dots, as "after.amount"; "" at the root.
	Field string
	// Detail is what differs, in the words of Java's SchemaCompatibility.
	Detail string
	// Causes says, of a union, why the branch that was meant does not do. Java leaves it out, though it is where the
	// field stands that people look for: before and after of every envelope are unions.
	Causes []Incompatibility

	fields []string // of Field
}

// Leaves are the innermost causes, i itself when there are none.
func (i Incompatibility) Leaves() []Incompatibility {
	if len(i.Causes) == 0 {
		return []Incompatibility{i}
	}
	var leaves []Incompatibility
	for _, c := range i.Causes {
		leaves = append(leaves, c.Leaves()...)
	}
	return leaves
}

// moved puts i, which was found below the first depth fields of its path, below field.
func (i Incompatibility) moved(depth int, field []string) Incompatibility {
	i.fields = slices.Concat(field, i.fields[depth:])
	i.Causes = slices.Clone(i.Causes)
	for k, c := range i.Causes {
		i.Causes[k] = c.moved(depth, field)
	}
	return i
}

func (i *Incompatibility) name() {
	i.Field = strings.Join(i.fields, ".")
	for k := range i.Causes {
		i.Causes[k].name()
	}
}

// Compare says why data written with writer cannot be read with reader; nothing means that it can.
//
// The rules are those of the Avro specification, section "Schema Resolution", in the order and with the kinds and
// paths of Java's SchemaCompatibility 1.12, so that the verdict is the same wherever it is asked for, its oddities
// included: names are compared without their namespace, Path of a pair of types that occurs more than once is that
// of its first occurrence, and an alias that makes a field ambiguous is the only finding. Field is always right.
func Compare(reader, writer *Schema) []Incompatibility {
	c := comparison{memo: map[[2]*avroType]compared{}, fieldsOf: map[*avroType]map[string]*avroField{}}
	found := c.compare(reader.root, writer.root)
	if c.clash != nil {
		found = c.clash
	}
	for i := range found {
		found[i].name()
	}
	return found
}

// comparison walks a pair of schemas. path and field are where it stands.
type comparison struct {
	path  []string
	field []string
	// memo holds the findings of each pair. A pair that is still being compared has an entry without findings: so a
	// recursive schema is assumed to be compatible with itself, and the walk ends.
	memo map[[2]*avroType]compared
	// fieldsOf indexes the writer's records.
	fieldsOf map[*avroType]map[string]*avroField
	// clash is an ambiguous alias, of which Java throws an exception: nothing else counts then, not even that another branch
	// of a union would do.
	clash []Incompatibility
}

// maxFindings bounds what one comparison finds, causes included. Without it the findings of a type count once for each
// way to it, and a small schema can be made with more ways than there is memory.
const maxFindings = 200

// size counts findings with their causes.
func size(found []Incompatibility) (n int) {
	for _, i := range found {
		n += 1 + size(i.Causes)
	}
	return n
}

// join appends what there is room for.
func join(all, more []Incompatibility) []Incompatibility {
	room := maxFindings - size(all)
	for _, i := range more {
		if n := 1 + size(i.Causes); n > room {
			i.Causes = nil
		}
		if room--; room < 0 {
			break
		}
		room -= size(i.Causes)
		all = append(all, i)
	}
	return all
}

type compared struct {
	found []Incompatibility
	depth int // of comparison.field where the pair was met
}

func (c *comparison) at(token string, compare func() []Incompatibility) []Incompatibility {
	c.path = append(c.path, token)
	found := compare()
	c.path = c.path[:len(c.path)-1]
	return found
}

func (c *comparison) found(t IncompatibilityType, token, detail string) []Incompatibility {
	path := c.path
	if token != "" {
		path = append(path[:len(path):len(path)], token)
	}
	return []Incompatibility{{Type: t, Path: "/" + strings.Join(path, "/"), fields: slices.Clone(c.field), Detail: detail}}
}

func (c *comparison) compare(reader, writer *avroType) []Incompatibility {
	if c.clash != nil {
		return nil
	}
	pair := [2]*avroType{reader, writer}
	if m, ok := c.memo[pair]; ok {
		again := slices.Clone(m.found)
		for i := range again {
			again[i] = again[i].moved(m.depth, c.field)
		}
		return again
	}
	c.memo[pair] = compared{}
	found := c.resolve(reader, writer)
	c.memo[pair] = compared{slices.Clone(found), len(c.field)}
	return found
}

// promotions lists what each type can be read from besides itself.
var promotions = map[avroKind][]avroKind{
	longKind:   {intKind},
	floatKind:  {intKind, longKind},
	doubleKind: {intKind, longKind, floatKind},
	bytesKind:  {stringKind},
	stringKind: {bytesKind},
}

func (c *comparison) resolve(reader, writer *avroType) (all []Incompatibility) {
	if reader.kind != writer.kind {
		switch {
		case writer.kind == unionKind: // whatever was written must be readable
			for i, b := range writer.branches {
				all = join(all, c.at(strconv.Itoa(i), func() []Incompatibility { return c.compare(reader, b) }))
			}
			return all
		case reader.kind == unionKind:
			return c.unionReads(reader, writer)
		case slices.Contains(promotions[reader.kind], writer.kind):
			return nil
		}
		return c.found(TypeMismatch, "", fmt.Sprintf("reader type: %s not compatible with writer type: %s", strings.ToUpper(reader.kind.String()), strings.ToUpper(writer.kind.String())))
	}
	switch reader.kind {
	case arrayKind:
		return c.at("items", func() []Incompatibility { return c.compare(reader.item, writer.item) })
	case mapKind:
		return c.at("values", func() []Incompatibility { return c.compare(reader.item, writer.item) })
	case fixedKind:
		all = c.names(reader, writer)
		if reader.size != writer.size {
			all = append(all, c.found(FixedSizeMismatch, "size", fmt.Sprintf("expected: %d, found: %d", writer.size, reader.size))...)
		}
	case enumKind:
		all = c.names(reader, writer)
		all = join(all, c.symbols(reader, writer))
	case recordKind:
		all = c.names(reader, writer)
		all = join(all, c.at("fields", func() []Incompatibility { return c.fields(reader, writer) }))
	case unionKind:
		for i, b := range writer.branches {
			if found := c.apart(reader, b); len(found) > 0 {
				all = join(all, c.at(strconv.Itoa(i), func() []Incompatibility { return c.lacking(b, found[0].Causes) }))
			}
		}
	}
	return all
}

// unionReads wants one branch that reads everything that writer's type, which is no union, can hold.
func (c *comparison) unionReads(reader, writer *avroType) []Incompatibility {
	var causes []Incompatibility
	for _, b := range reader.branches {
		found := c.apart(b, writer)
		if len(found) == 0 {
			return nil
		}
		if b.kind == writer.kind && b.name.name == writer.name.name {
			causes = found
		}
	}
	return c.lacking(writer, causes)
}

// apart compares as if the pair stood alone, as Java does with what is in a union: what it finds is seen only where the same
// pair occurs again outside of a union.
func (c *comparison) apart(reader, writer *avroType) []Incompatibility {
	path := c.path
	defer func() { c.path = path }()
	c.path = nil
	return c.compare(reader, writer)
}

func (c *comparison) lacking(writer *avroType, causes []Incompatibility) []Incompatibility {
	found := c.found(MissingUnionBranch, "", "reader union lacking writer type: "+strings.ToUpper(writer.kind.String()))
	found[0].Causes = join(nil, causes)
	return found
}

func (c *comparison) names(reader, writer *avroType) []Incompatibility {
	if reader.name.name == writer.name.name {
		return nil
	}
	// Java calls an alias without a namespace of a type with one ".Alias", which is nobody's name.
	if slices.Contains(reader.aliases, writer.name) && (writer.name.space != "" || reader.name.space == "") {
		return nil
	}
	return c.found(NameMismatch, "name", "expected: "+writer.name.String())
}

func (c *comparison) symbols(reader, writer *avroType) []Incompatibility {
	var missing []string
	known := make(map[string]bool, len(reader.symbols))
	for _, s := range reader.symbols {
		known[s] = true
	}
	for _, s := range writer.symbols {
		if !known[s] {
			missing = append(missing, s)
		}
	}
	if len(missing) == 0 || reader.enumDef != nil {
		return nil
	}
	slices.Sort(missing)
	return c.found(MissingEnumSymbols, "symbols", "["+strings.Join(missing, ", ")+"]")
}

func (c *comparison) fields(reader, writer *avroType) (all []Incompatibility) {
	written := c.fieldsOf[writer]
	if written == nil {
		written = make(map[string]*avroField, len(writer.fields))
		for _, f := range writer.fields {
			written[f.name] = f
		}
		c.fieldsOf[writer] = written
	}
	for i, f := range reader.fields {
		c.field = append(c.field, f.name)
		all = join(all, c.at(strconv.Itoa(i), func() []Incompatibility {
			w, clash := writerField(written, f)
			switch {
			case clash:
				if c.clash == nil {
					c.clash = c.found(ambiguousAlias, "", fmt.Sprintf("Reader record field %s type:%s pos:%d matches multiple fields in writer record schema %s",
						f.name, strings.ToUpper(f.typ.kind.String()), i, writer.name))
				}
				return nil
			case w != nil:
				return c.at("type", func() []Incompatibility { return c.compare(f.typ, w.typ) })
			case f.def != nil:
				return nil
			case f.typ.enumDef != nil:
				// Java takes an enum's own default for one of the field and then compares the enum with the record:
				// refused all the same, under another name.
				found := c.at("type", func() []Incompatibility { return c.compare(f.typ, writer) })
				for i := range found {
					found[i].Detail += " (the field is missing there and has no default; that of the enum does not count)"
				}
				return found
			}
			return c.found(MissingFieldDefault, "", f.name)
		}))
		c.field = c.field[:len(c.field)-1]
	}
	return all
}

// writerField finds what was written for a field of the reader, by its name or by one of its aliases. Two hits are a
// clash, also when they are one field that has its own name as an alias.
func writerField(written map[string]*avroField, f *avroField) (found *avroField, clash bool) {
	found = written[f.name]
	for _, name := range f.aliases {
		if w := written[name]; w != nil {
			clash = clash || found != nil
			found = w
		}
	}
	return found, clash
}

// Finding is what [Check] has against a new schema.
type Finding struct {
	Incompatibility
	// Version is the earlier version that it was compared with.
	Version int
	// ReaderIsNew is true when the new schema cannot read old data, false when the old one cannot read new data.
	ReaderIsNew bool
}

// String is the message in Confluent's form (Difference.java), with the field's name added. Consumers of verbose
// compatibility checks show it as it is.
func (f Finding) String() string {
	reader, writer := "old", "new"
	if f.ReaderIsNew {
		reader, writer = writer, reader
	}
	var d string
	switch f.Type {
	case FixedSizeMismatch:
		d = fmt.Sprintf("The size of FIXED type field at path '%s' in the %s schema does not match with the %s schema", f.Path, reader, writer)
	case TypeMismatch:
		d = fmt.Sprintf("The type (path '%s') of a field in the %s schema does not match with the %s schema", f.Path, reader, writer)
	case NameMismatch:
		d = fmt.Sprintf("The name of the schema has changed (path '%s')", f.Path)
	case MissingEnumSymbols:
		d = fmt.Sprintf("The %s schema is missing enum symbols '%s' at path '%s' in the %s schema", reader, f.Detail, f.Path, writer)
	case MissingUnionBranch:
		d = fmt.Sprintf("The %s schema is missing a type inside a union field at path '%s' in the %s schema", reader, f.Path, writer)
	case MissingFieldDefault:
		d = fmt.Sprintf("The field '%s' at path '%s' in the %s schema has no default value and is missing in the %s schema", f.Detail, f.Path, reader, writer)
	case differentSchemaTypes:
		return "Incompatible because of different schema type"
	case ambiguousAlias:
		return "Unexpected exception during compatibility check: " + f.Detail
	}
	field := ""
	switch {
	case len(f.Causes) > 0:
		var causes []string
		for _, l := range f.Leaves() {
			causes = append(causes, strings.TrimPrefix(l.Field+": "+string(l.Type)+" "+l.Detail, ": "))
		}
		field = fmt.Sprintf(", field:'%s'", strings.Join(causes, "; "))
	case f.Field != "":
		field = fmt.Sprintf(", field:'%s'", f.Field)
	}
	return fmt.Sprintf("{errorType:'%s', description:'%s', additionalInfo:'%s'%s}", f.Type, d, f.Detail, field)
}

// Previous is an earlier version of a subject.
type Previous struct {
	Version int
	Schema  *Schema
}

// Check compares a new schema with the versions before it, oldest first, as the level asks. Like Confluent's it
// stops at the newest version that has something against it. For full levels the findings of the old reader come first.
func Check(level Level, schema *Schema, previous []Previous) []Finding {
	if !level.transitive() && len(previous) > 1 {
		previous = previous[len(previous)-1:]
	}
	for _, p := range slices.Backward(previous) {
		var found []Finding
		if level.forward() {
			for _, i := range Compare(p.Schema, schema) {
				found = append(found, Finding{i, p.Version, false})
			}
		}
		if level.backward() {
			for _, i := range Compare(schema, p.Schema) {
				found = append(found, Finding{i, p.Version, true})
			}
		}
		if len(found) > 0 {
			return found
		}
	}
	return nil
}
