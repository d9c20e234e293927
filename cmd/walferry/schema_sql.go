package main

import (
	"errors"
	"fmt"
	"slices"
	"strings"
)

// columnNames are the columns of the row that this schema describes, by their own names.
func (r *avroReader) columnNames() []string {
	var names []string
	for _, f := range r.rowFields() {
		names = append(names, columnName(f))
	}
	return names
}

func columnName(field map[string]any) string {
	if name, ok := field["postgres.name"].(string); ok {
		return name
	}
	name, _ := field["name"].(string)
	return name
}

// row is the record of the row: what after is of an envelope, else the schema itself. nil where there is no record.
func (r *avroReader) row() map[string]any {
	root, _ := r.root.(map[string]any)
	for _, f := range fieldsOf(root) {
		if f["name"] == "after" && slices.ContainsFunc(fieldsOf(root), func(f map[string]any) bool { return f["name"] == "op" }) {
			if _, inner := r.nullable(f["type"]); inner != nil {
				root = inner
			}
		}
	}
	if root["type"] != "record" {
		return nil
	}
	return root
}

func (r *avroReader) rowFields() []map[string]any { return fieldsOf(r.row()) }

func fieldsOf(record map[string]any) (fields []map[string]any) {
	list, _ := record["fields"].([]any)
	for _, f := range list {
		if field, ok := f.(map[string]any); ok {
			fields = append(fields, field)
		}
	}
	return fields
}

// nullable splits a type into whether it can be null and what it is otherwise, as an object with its properties; nil for
// a union of more.
func (r *avroReader) nullable(s any) (null bool, t map[string]any) {
	switch x := s.(type) {
	case string:
		if named, ok := r.named[x].(map[string]any); ok {
			return false, named
		}
		return x == "null", map[string]any{"type": x}
	case []any:
		for _, b := range x {
			switch n, inner := r.nullable(b); {
			case n:
				null = true
			case t != nil:
				return null, nil
			default:
				t = inner
			}
		}
		return null, t
	case map[string]any:
		switch kind := x["type"].(type) {
		case map[string]any, []any:
			return r.nullable(kind)
		case string:
			if named, ok := r.named[kind].(map[string]any); ok {
				return false, named
			}
		}
		return x["type"] == "null", x
	}
	return false, nil
}

// sql writes a table of the row's columns, with the types that it needs. Whatever a schema does not know of a table is
// named in comments. of says where the schema is from; key are the columns of the primary key.
func (r *avroReader) sql(of string, key []string) (string, error) {
	row := r.row()
	if row == nil {
		return "", errors.New("this schema is no record, so there is no table of it")
	}
	w := &sqlWriter{reader: r, made: map[string]bool{}, notes: map[string][]string{}}
	var columns, comments []string
	table := tableOf(nameOf(row))
	if doc, _ := row["doc"].(string); doc != "" {
		comments = append(comments, fmt.Sprintf("COMMENT ON TABLE %s IS %s;", table, quoteText(doc)))
	}
	for _, f := range fieldsOf(row) {
		name := columnName(f)
		null, _ := r.nullable(f["type"])
		column := "    " + quoteIdent(name) + " " + w.typeName(f["type"], name)
		if !null {
			column += " NOT NULL"
		}
		columns = append(columns, column)
		if doc, _ := f["doc"].(string); doc != "" {
			comments = append(comments, fmt.Sprintf("COMMENT ON COLUMN %s.%s IS %s;", table, quoteIdent(name), quoteText(doc)))
		}
	}
	if len(key) > 0 {
		quoted := make([]string, len(key))
		for i, k := range key {
			quoted[i] = quoteIdent(k)
		}
		columns = append(columns, "    PRIMARY KEY ("+strings.Join(quoted, ", ")+")")
	}
	var b strings.Builder
	fmt.Fprintf(&b, "-- %s\n", of)
	for _, t := range w.types {
		b.WriteString(t + "\n")
	}
	fmt.Fprintf(&b, "CREATE TABLE %s (\n%s\n);\n", table, strings.Join(columns, ",\n"))
	for _, c := range comments {
		b.WriteString(c + "\n")
	}
	b.WriteString("-- Not in the schema, so not here: defaults, constraints, indexes, NOT NULL but for the key, and domains, whose base types stand here.\n")
	for _, n := range noteTexts {
		if list := w.notes[n.kind]; list != nil {
			fmt.Fprintf(&b, "-- %s: %s\n", n.text, strings.Join(list, ", "))
		}
	}
	return strings.TrimSuffix(b.String(), "\n"), nil
}

// noteTexts say what a column's type may be otherwise, in this order.
var noteTexts = []struct{ kind, text string }{
	{"text", "May be varchar or char with a length, name or citext"},
	{"int8", "May be oid"},
	{"json", "May be json"},
	{"bits", "Had a length, if it was bit"},
	{"millis", "Had more digits than the milliseconds that the schema keeps"},
	{"array", "May have more dimensions, which Postgres does not tell apart"},
	{"missing", "These types must be there before"},
	{"unknown", "Of a type that is not known any more"},
	{"none", "No type of Postgres is known for what the schema has here"},
}

type sqlWriter struct {
	reader *avroReader
	types  []string        // CREATE TYPE, in the order in which they need each other
	made   map[string]bool // names of these
	notes  map[string][]string
}

func (w *sqlWriter) note(kind, what string) {
	if !slices.Contains(w.notes[kind], what) {
		w.notes[kind] = append(w.notes[kind], what)
	}
}

// typeName is the Postgres type of an Avro type in a column.
func (w *sqlWriter) typeName(s any, column string) string {
	_, t := w.reader.nullable(s)
	if t == nil {
		w.note("none", column)
		return "text"
	}
	kind, _ := t["type"].(string)
	if name, ok := t["postgres.type"].(string); ok && !strings.HasPrefix(name, "oid ") { // which is of a type that was gone
		return w.named(name, t, column)
	}
	connect, _ := t["connect.name"].(string)
	logical, _ := t[logicalKey].(string)
	switch {
	case kind == "array":
		w.note("array", column)
		return w.typeName(t["items"], column) + "[]"
	case logical == "decimal":
		scale, _ := t["scale"].(float64)
		return fmt.Sprintf("numeric(%v,%v)", t["precision"], scale)
	case logical == "uuid":
		return "uuid"
	case logical == "date" || connect == "io.debezium.time.Date":
		return "date"
	case logical == "time-millis":
		w.note("millis", column)
		return "time"
	case logical == "time-micros" || connect == "io.debezium.time.MicroTime":
		return "time"
	case connect == "org.apache.kafka.connect.data.Timestamp":
		w.note("millis", column)
		return "timestamp"
	case logical == "local-timestamp-micros" || connect == "io.debezium.time.MicroTimestamp":
		return "timestamp"
	case logical == "timestamp-micros" || logical == "timestamp-millis":
		return "timestamptz"
	}
	switch connect {
	case "io.debezium.time.Interval":
		return "interval"
	case "io.debezium.data.Json":
		w.note("json", column)
		return "jsonb"
	case "io.debezium.data.Xml":
		return "xml"
	}
	switch kind {
	case "boolean":
		return "bool"
	case "int":
		if t["connect.type"] == "int16" {
			return "int2"
		}
		return "int4"
	case "long":
		w.note("int8", column)
		return "int8"
	case "float":
		return "float4"
	case "double":
		return "float8"
	case "bytes", "fixed":
		return "bytea"
	case "string":
		if _, gone := t["postgres.type"]; gone {
			w.note("unknown", column)
		} else {
			w.note("text", column)
		}
		return "text"
	case "record", "map":
		w.note("none", column)
		return "jsonb"
	}
	w.note("none", column)
	return "text"
}

// named is a type that has a name in Postgres. Enums, composites and ranges are made before the table, once each.
func (w *sqlWriter) named(name string, t map[string]any, column string) string {
	quoted := quoteTypeName(name)
	labels, isEnum := t["labels"].([]any)
	kind, _ := t["postgres.kind"].(string)
	_, user := splitTypeName(name)
	switch {
	case w.made[name]:
	case isEnum:
		list := make([]string, len(labels))
		for i, l := range labels {
			label, _ := l.(string)
			list[i] = quoteText(label)
		}
		w.make(name, fmt.Sprintf("CREATE TYPE %s AS ENUM (%s);", quoted, strings.Join(list, ", ")))
	case kind == "composite":
		var attributes []string
		for _, f := range fieldsOf(t) {
			attributes = append(attributes, quoteIdent(columnName(f))+" "+w.typeName(f["type"], column+"."+columnName(f)))
		}
		w.make(name, fmt.Sprintf("CREATE TYPE %s AS (%s);", quoted, strings.Join(attributes, ", ")))
	case kind == "range" && user:
		for _, f := range fieldsOf(t) {
			if f["name"] == "lower" {
				w.make(name, fmt.Sprintf("CREATE TYPE %s AS RANGE (subtype = %s);", quoted, w.typeName(f["type"], column)))
			}
		}
	case user:
		w.note("missing", quoted)
	case name == "bit":
		w.note("bits", column)
		return "varbit"
	}
	return quoted
}

func (w *sqlWriter) make(name, statement string) {
	w.made[name] = true
	w.types = append(w.types, statement)
}

// tableOf is the table of a record's name, <topic>.Value: the last two parts of the topic, as topics are named after
// tables.
func tableOf(record string) string {
	parts := strings.Split(record, ".")
	parts = parts[:len(parts)-1]
	if len(parts) > 2 {
		parts = parts[len(parts)-2:]
	}
	if len(parts) == 0 {
		return quoteIdent(record)
	}
	for i := range parts {
		parts[i] = quoteIdent(parts[i])
	}
	return strings.Join(parts, ".")
}

// splitTypeName takes the schema off a type's name; user says that it has one, and is not of pg_catalog.
func splitTypeName(name string) (parts []string, user bool) {
	if schemaName, typeName, ok := strings.Cut(name, "."); ok {
		return []string{schemaName, typeName}, true
	}
	return []string{name}, false
}

// quoteTypeName quotes a type's name as types.md has it: bare in pg_catalog, schema.name elsewhere, [] behind an array.
func quoteTypeName(name string) string {
	name, array := strings.CutSuffix(name, "[]")
	parts, _ := splitTypeName(name)
	for i, p := range parts {
		parts[i] = quoteIdent(p)
	}
	quoted := strings.Join(parts, ".")
	if array {
		quoted += "[]"
	}
	return quoted
}

// quoteIdent quotes a name where Postgres would not read it as it stands.
func quoteIdent(name string) string {
	plain := name != "" && !slices.Contains(reserved, name)
	for i, c := range name {
		plain = plain && (c == '_' || 'a' <= c && c <= 'z' || i > 0 && '0' <= c && c <= '9')
	}
	if plain {
		return name
	}
	return `"` + strings.ReplaceAll(name, `"`, `""`) + `"`
}

// quoteText is a literal, whatever standard_conforming_strings is.
func quoteText(s string) string {
	s = strings.ReplaceAll(s, `'`, `''`)
	if strings.Contains(s, `\`) {
		return `E'` + strings.ReplaceAll(s, `\`, `\\`) + `'`
	}
	return `'` + s + `'`
}

// reserved are the key words that Postgres 18 does not take for a column or a table (pg_get_keywords, catcode R and T).
var reserved = strings.Fields(`all analyse analyze and any array as asc asymmetric authorization binary both case cast check collate
	collation column concurrently constraint create cross current_catalog current_date current_role current_schema current_time
	current_timestamp current_user default deferrable desc distinct do else end except false fetch for foreign freeze from full
	grant group having ilike in initially inner intersect into is isnull join lateral leading left like limit localtime
	localtimestamp natural not notnull null offset on only or order outer overlaps placing primary references returning right
	select session_user similar some symmetric system_user table tablesample then to trailing true union unique user using
	variadic verbose when where window with`)
