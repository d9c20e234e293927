package schema

import (
	"fmt"
	"path"
	"slices"
	"strings"

	"walferry/decode"
)

// Table is how one version of a relation is published: its schemas and the plan behind them. It is immutable.
type Table struct {
	Relation *decode.Relation
	Topic    string
	// KeySubject and ValueSubject name the schemas in the registry, see Options.Subject. KeySubject is empty without a key.
	KeySubject, ValueSubject string
	// Key and Value are Avro schemas in JSON, the same text for the same input. Key is empty where the table has no
	// key: its records have none.
	Key, Value string
	// KeyColumns are the columns of the key, in the relation's order; none for a keyless table.
	KeyColumns []string
	// NeedsText says that a column's binary form is not known (TextColumns names them): the stream that feeds this
	// table must be in text mode, or an encoder refuses its rows.
	NeedsText   bool
	TextColumns []string
	// Refetches says that columns are to be read again where the server did not send them, see Encoder.Refetch.
	Refetches bool

	opt    Options
	fields []field // of the value record
	keys   []field // of the key record
}

// field is one column of a record.
type field struct {
	name     string // Avro's
	column   int    // in Relation.Columns and in tuples
	identity bool   // an old tuple of kind K has it
	nullable bool   // ["null", T]
	typ      *typ

	placeholder []byte // in Avro, instead of null where the value was not sent; nil for none
	refetch     bool
}

// Derive maps a relation to its schemas. desc may be nil or know only some of the columns and types: columns of types
// that neither it nor the mapping table knows are text. topic is where the table's records go; it gives the schemas
// their names.
//
// Columns become fields in their order. Key columns are required, all others ["null", T] with default null, so that
// a column can come and go without breaking a reader of either side.
//
// The id of the key schema is part of each key's bytes, which choose the partition and are what compaction goes by. So
// Key says only what is needed to read a key: no comments, no names that the Avro form does not have, no labels.
func Derive(rel *decode.Relation, desc *decode.Descriptor, topic string, opt Options) (*Table, error) {
	if err := opt.validate(); err != nil {
		return nil, err
	}
	if desc == nil {
		desc = &decode.Descriptor{}
	}
	keySubject, valueSubject := opt.Subjects(topic)
	t := &Table{Relation: rel, Topic: topic, ValueSubject: valueSubject, opt: opt}
	key, err := keyColumns(rel, desc, &opt)
	if err != nil {
		return nil, err
	}
	facts := make(map[string]*decode.ColumnFacts, len(desc.Columns))
	for i := range desc.Columns {
		facts[desc.Columns[i].Name] = &desc.Columns[i]
	}
	namespace := SanitizeNamespace(topic)
	var columns []int
	var list []string
	for i := range rel.Columns {
		name := rel.Columns[i].Name
		out, err := excluded(rel, name, opt.ExcludeColumns)
		if err != nil {
			return nil, err
		}
		if !out {
			columns, list = append(columns, i), append(list, name)
		} else if slices.Contains(key, name) {
			return nil, &TableError{rel.String(), fmt.Sprintf("column %q is part of the key and cannot be excluded", name),
				"take it out of source.exclude_columns, or name other columns in schema.keys"}
		}
	}
	names, err := avroNames("table "+rel.String(), list, opt.Collisions == CollisionsSuffix)
	if err != nil {
		return nil, err
	}
	var valueJSON, keyJSON []string
	for at, i := range columns {
		c := &rel.Columns[i]
		isKey := slices.Contains(key, c.Name)
		f := field{name: names[at], column: i, identity: c.Key, nullable: true}
		path := namespace + ".columns." + recordName(f.name)
		r := resolver{types: desc.Types, opt: opt.column(c.Name), suffix: opt.Collisions == CollisionsSuffix}
		f.typ = r.resolve(c.Type, c.Mod, path)
		if r.err != nil {
			return nil, fmt.Errorf("table %s, column %q: %w", rel, c.Name, r.err)
		}
		if f.typ.bin == nil {
			t.NeedsText = true
			t.TextColumns = append(t.TextColumns, c.Name)
		}
		fact := facts[c.Name]
		if isKey {
			// Columns of a primary key and of a replica identity index cannot be null. A configured column under
			// replica identity full can, unless the catalog says otherwise.
			f.nullable = len(opt.Key) > 0 && rel.Identity == decode.IdentityFull &&
				!slices.Contains(desc.PrimaryKey, c.Name) && (fact == nil || !fact.NotNull)
		} else {
			switch r.opt.Toast {
			case ToastRefetch:
				f.refetch, t.Refetches = true, true
			case ToastPlaceholder:
				f.placeholder = placeholder(f.typ.avro)
				if f.placeholder == nil && opt.Columns[c.Name].Toast == ToastPlaceholder {
					return nil, &PlaceholderError{Table: rel.String(), Column: c.Name, Type: f.typ.name}
				}
			}
		}
		comment := ""
		if fact != nil {
			comment = fact.Comment
		}
		t.fields = append(t.fields, f)
		valueJSON = append(valueJSON, fieldJSON(&f, c.Name, comment))
		if isKey {
			r := resolver{types: desc.Types, opt: r.opt, suffix: r.suffix, key: true}
			f.typ = r.resolve(c.Type, c.Mod, path) // what collides has been found above
			t.KeyColumns = append(t.KeyColumns, c.Name)
			t.keys = append(t.keys, f)
			keyJSON = append(keyJSON, fieldJSON(&f, f.name, ""))
		}
	}
	value := record(namespace+rowRecord, desc.Comment, valueJSON)
	t.Value = value
	if opt.Envelope != EnvelopeRow {
		t.Value = envelope(namespace, value)
	}
	if len(t.keys) > 0 {
		t.KeySubject = keySubject
		t.Key = record(namespace+keyRecord, "", keyJSON)
		if _, err := Compile(t.Key); err != nil {
			return nil, fmt.Errorf("table %s, key: %w", rel, err)
		}
	}
	if _, err := Compile(t.Value); err != nil {
		return nil, fmt.Errorf("table %s, value: %w", rel, err)
	}
	return t, nil
}

// TableError is a table that cannot be published under its options.
type TableError struct{ Table, Reason, Remedy string }

func (e *TableError) Error() string { return "table " + e.Table + ": " + e.Reason }

// Hint is the way on.
func (e *TableError) Hint() string { return e.Remedy }

func notSent(rel *decode.Relation, what, name string) error {
	return &TableError{rel.String(), fmt.Sprintf("%s %q is not among the columns that the publication sends", what, name),
		"name columns that are sent in schema.keys; or add it to the publication's column list, which helps rows that are written after that"}
}

// keyColumns are the columns of the record key: those configured, or the replica identity's. With identity full, which
// flags every column, they are the primary key's.
func keyColumns(rel *decode.Relation, desc *decode.Descriptor, opt *Options) ([]string, error) {
	sent := func(name string) *decode.Column {
		for i := range rel.Columns {
			if rel.Columns[i].Name == name {
				return &rel.Columns[i]
			}
		}
		return nil
	}
	if len(opt.Key) > 0 {
		for _, name := range opt.Key {
			c := sent(name)
			if c == nil {
				return nil, notSent(rel, "key column", name)
			}
			if rel.Identity != decode.IdentityFull && !c.Key {
				return nil, &TableError{rel.String(), fmt.Sprintf("key column %q is not part of the replica identity (%s), so updates and deletes "+
					"do not carry its old value", name, rel.Identity), "use columns of the identity, or before rows are written ALTER TABLE … REPLICA IDENTITY FULL"}
			}
		}
		return opt.Key, nil
	}
	switch rel.Identity {
	case decode.IdentityDefault, decode.IdentityIndex:
		var key []string
		for i := range rel.Columns {
			if rel.Columns[i].Key {
				key = append(key, rel.Columns[i].Name)
			}
		}
		return key, nil
	case decode.IdentityFull:
		for _, name := range desc.PrimaryKey {
			if sent(name) == nil {
				return nil, notSent(rel, "column of the primary key", name)
			}
		}
		return desc.PrimaryKey, nil
	case decode.IdentityNothing:
		return nil, nil
	}
	return nil, fmt.Errorf("table %s: unknown replica identity %s", rel, rel.Identity)
}

func excluded(rel *decode.Relation, column string, patterns []string) (bool, error) {
	for _, p := range patterns {
		for _, name := range []string{column, rel.Name + "." + column, rel.Schema + "." + rel.Name + "." + column} {
			ok, err := path.Match(p, name)
			if err != nil {
				return false, fmt.Errorf("excluded columns: pattern %q: %w", p, err)
			}
			if ok {
				return true, nil
			}
		}
	}
	return false, nil
}

// fieldJSON is a field of a record. original is the column's or attribute's own name: f.name where it is not to be told.
func fieldJSON(f *field, original, comment string) string {
	s := `{"name":` + quote(f.name)
	if f.nullable {
		s += `,"type":["null",` + f.typ.avro + `],"default":null`
	} else {
		s += `,"type":` + f.typ.avro
	}
	if comment != "" {
		s += `,"doc":` + quote(comment)
	}
	if f.name != original {
		s += `,"postgres.name":` + quote(original)
	}
	return s + "}"
}

func record(fullName, doc string, fields []string) string {
	return recordHead(fullName, doc) + `,"fields":[` + strings.Join(fields, ",") + `],"connect.name":` + quote(fullName) + `}`
}
