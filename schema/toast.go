package schema

import (
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"fmt"

	"walferry/decode"
)

// Placeholder is what Debezium writes for a value that the server did not send, unless it is configured otherwise
// (unavailable.value.placeholder in the documentation of its connector for Postgres).
const Placeholder = "__debezium_unavailable_value"

// PlaceholderError says that a column is to have the placeholder, and that its type has no room for it.
type PlaceholderError struct{ Table, Column, Type string }

func (e *PlaceholderError) Error() string {
	return fmt.Sprintf("table %s, column %s: the type %s has no room for Debezium's placeholder", e.Table, e.Column, e.Type)
}

// Hint is the way on.
func (e *PlaceholderError) Hint() string {
	return "set `toast: mark` or `toast: refetch` for this column, or ALTER TABLE … REPLICA IDENTITY FULL"
}

// placeholder is Placeholder as a value of an Avro type, nil where the type has no room for it. It goes where Debezium's
// UnchangedToastedPlaceholder puts it: a string, its bytes, one element of an array of these, an array of integers with
// one for each byte, a map of it to itself.
func placeholder(avro string) []byte {
	var schema any
	if err := json.Unmarshal([]byte(avro), &schema); err != nil {
		return nil // Derive compiles it, and says so
	}
	return appendPlaceholder(nil, schema)
}

func appendPlaceholder(dst []byte, schema any) []byte {
	m, ok := schema.(map[string]any)
	if !ok {
		m = map[string]any{"type": schema}
	}
	if m["logicalType"] != nil {
		return nil // a reader would take it apart
	}
	switch m["type"] {
	case "string":
		text := Placeholder
		switch m["encoding"] {
		case "base64":
			text = base64.StdEncoding.EncodeToString([]byte(Placeholder))
		case "hex":
			text = hex.EncodeToString([]byte(Placeholder))
		}
		return appendString(dst, text)
	case "bytes":
		return appendString(dst, Placeholder)
	case "map":
		if values, ok := m["values"].([]any); !ok || len(values) != 2 || values[1] != "string" {
			return nil
		}
		dst = appendString(appendLong(dst, 1), Placeholder)
		return append(appendString(append(dst, branchSecond), Placeholder), 0)
	case "array":
		items, ok := m["items"].([]any)
		if !ok || len(items) != 2 {
			return nil
		}
		of := items[1]
		if o, ok := of.(map[string]any); ok && o["logicalType"] == nil {
			of = o["type"]
		}
		if of == "int" || of == "long" {
			dst = appendLong(dst, int64(len(Placeholder)))
			for i := range len(Placeholder) {
				dst = appendLong(append(dst, branchSecond), int64(Placeholder[i]))
			}
			return append(dst, 0)
		}
		if of != "string" && of != "bytes" {
			return nil
		}
		if dst = appendPlaceholder(append(appendLong(dst, 1), branchSecond), items[1]); dst == nil {
			return nil
		}
		return append(dst, 0)
	}
	return nil
}

// Refetch appends the places in the relation of the columns that ToastRefetch is chosen for and that the change lacks: the
// server did not send them, and no old row has them. Who can read them puts their values into the change's new row; what
// is left as it is counts as ToastMark.
func (e *Encoder) Refetch(dst []int, c *decode.Change) []int {
	for i := range e.table.fields {
		if f := &e.table.fields[i]; f.refetch && f.unsent(c) {
			dst = append(dst, f.column)
		}
	}
	return dst
}

// FieldName is the name of the field that a column of the relation became, "" for one that is left out.
func (e *Encoder) FieldName(column int) string {
	for i := range e.table.fields {
		if e.table.fields[i].column == column {
			return e.table.fields[i].name
		}
	}
	return ""
}

// unsent says that neither the new row nor the old one has the column's value.
func (f *field) unsent(c *decode.Change) bool {
	return f.column < len(c.New) && c.New[f.column].Kind == decode.Unchanged && !f.inOld(c.Old, c.OldKind)
}
