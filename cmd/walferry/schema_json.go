package main

import (
	"math"
)

// jsonSchema describes what plain makes of values of this schema, and tail --json prints (JSON Schema 2020-12).
func (r *avroReader) jsonSchema() object {
	w := jsonSchemaWriter{reader: r, defined: map[string]bool{}}
	root := w.schema(r.root)
	out := append(object{{"$schema", "https://json-schema.org/draft/2020-12/schema"}}, root...)
	if len(w.defs) > 0 {
		out = append(out, member{"$defs", w.defs})
	}
	return out
}

type jsonSchemaWriter struct {
	reader  *avroReader
	defs    object
	defined map[string]bool // records that are in defs, or are about to be
}

// schema is the JSON Schema of an Avro type.
func (w *jsonSchemaWriter) schema(s any) object {
	switch x := s.(type) {
	case string:
		if named, ok := w.reader.named[x]; ok {
			return w.schema(named)
		}
		return scalarSchema(x, nil)
	case []any:
		return w.union(x)
	case map[string]any:
		switch kind := x["type"].(type) {
		case map[string]any, []any:
			return w.schema(kind)
		case string:
			switch kind {
			case "record", "error":
				return w.record(x)
			case "enum":
				return withDoc(object{{"type", "string"}, {"enum", x["symbols"]}}, x)
			case "array":
				return object{{"type", "array"}, {"items", w.schema(x["items"])}}
			case "map":
				return object{{"type", "object"}, {"additionalProperties", w.schema(x["values"])}}
			}
			if named, ok := w.reader.named[kind]; ok {
				return w.schema(named)
			}
			return scalarSchema(kind, x)
		}
	}
	return object{}
}

// union has no wrapping: plain takes it off.
func (w *jsonSchemaWriter) union(branches []any) object {
	null := false
	var rest []any
	for _, b := range branches {
		if b == "null" {
			null = true
			continue
		}
		rest = append(rest, w.schema(b))
	}
	if len(rest) == 1 {
		one, _ := rest[0].(object)
		kind, ok := one.get("type").(string)
		switch {
		case !null:
			return one
		case ok && !one.has("enum"):
			out := append(object{}, one...)
			for i := range out {
				if out[i].name == "type" {
					out[i].value = []string{kind, "null"}
				}
			}
			return out
		}
	}
	if len(rest) == 1 { // a float's own choice takes the null in
		if one, _ := rest[0].(object); len(one) == 1 && one.has("anyOf") {
			if inner, ok := one.get("anyOf").([]any); ok {
				rest = inner
			}
		}
	}
	if null {
		rest = append(rest[:len(rest):len(rest)], object{{"type", "null"}})
	}
	return object{{"anyOf", rest}}
}

// record is in full at the root, and elsewhere a reference: it can be used twice, and within itself.
func (w *jsonSchemaWriter) record(x map[string]any) object {
	full := nameOf(x)
	root := full == nameOf(w.reader.root)
	reference := "#"
	if !root {
		reference = "#/$defs/" + full
	}
	if w.defined[full] {
		return object{{"$ref", reference}}
	}
	w.defined[full] = true
	at := len(w.defs)
	if !root {
		w.defs = append(w.defs, member{full, nil}) // its place, before what it refers to
	}
	fields, _ := x["fields"].([]any)
	properties, required := object{}, []string{}
	for _, f := range fields {
		field, _ := f.(map[string]any)
		name, _ := field["name"].(string)
		properties = append(properties, member{name, withDoc(w.schema(field["type"]), field)})
		required = append(required, name)
	}
	out := withDoc(object{
		{"title", full}, {"type", "object"}, {"properties", properties}, {"required", required}, {"additionalProperties", false},
	}, x)
	if root {
		return out
	}
	w.defs[at].value = out
	return object{{"$ref", reference}}
}

// withDoc adds a comment.
func withDoc(schema object, of map[string]any) object {
	if doc, _ := of["doc"].(string); doc != "" {
		return append(schema[:len(schema):len(schema)], member{"description", doc})
	}
	return schema
}

const (
	jsonDate = `-?\d{4,}-\d\d-\d\d`
	jsonTime = `\d\d:\d\d:\d\d(\.\d{1,6})?`
)

// scalarSchema is what scalar makes of a type with its properties; both have the same cases.
func scalarSchema(kind string, properties map[string]any) object {
	logical, _ := properties[logicalKey].(string)
	pattern := func(p string) object { return object{{"type", "string"}, {"pattern", "^(" + p + ")$"}} }
	switch kind + " " + logical {
	case "int date":
		return pattern(jsonDate + `|-?infinity`)
	case "int time-millis", "long time-micros":
		return pattern(jsonTime)
	case "long timestamp-micros":
		return pattern(jsonDate + "T" + jsonTime + `Z|-?infinity`)
	case "long local-timestamp-micros", "long timestamp-millis":
		return pattern(jsonDate + "T" + jsonTime + `|-?infinity`)
	case "bytes decimal", "fixed decimal":
		return object{{"type", "number"}}
	}
	switch kind {
	case "int":
		low, high := math.MinInt32, math.MaxInt32
		if properties["connect.type"] == "int16" {
			low, high = math.MinInt16, math.MaxInt16
		}
		return object{{"type", "integer"}, {"minimum", low}, {"maximum", high}}
	case "long":
		return object{{"type", "integer"}}
	case "float", "double":
		return object{{"anyOf", []any{object{{"type", "number"}}, object{{"enum", []string{"NaN", "+Inf", "-Inf"}}}}}}
	case "bytes", "fixed":
		return object{{"type", "string"}, {"contentEncoding", "base64"}}
	case "string":
		out := object{{"type", "string"}}
		if logical == "uuid" {
			out = append(out, member{"format", "uuid"})
		}
		if properties["connect.name"] == "io.debezium.data.Json" {
			out = append(out, member{"contentMediaType", "application/json"})
		}
		// Not an enum: a label is the row's, and the list the catalog's of when the version was first seen.
		if labels, ok := properties["labels"]; ok {
			out = append(out, member{"examples", labels})
		}
		return out
	case "boolean", "null":
		return object{{"type", kind}}
	}
	return object{}
}
