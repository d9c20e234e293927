package config

import (
	"encoding"
	"encoding/json"
	"fmt"
	"io"
	"reflect"
	"slices"
	"strconv"
	"strings"
)

// Print writes the effective configuration as YAML that Load reads again, with
// secrets as ***. Passwords inside source.dsn are hidden, the rest of it is shown.
func (c *Config) Print(w io.Writer) error {
	var b strings.Builder
	shown := *c
	shown.Source.DSN = ""
	printStruct(&b, "", reflect.ValueOf(&shown).Elem())
	text := b.String()
	if c.Source.DSN != "" {
		text = strings.Replace(text, "\n  dsn: \"\"\n", "\n  dsn: "+quote(RedactDSN(string(c.Source.DSN)))+"\n", 1)
	}
	_, err := io.WriteString(w, text)
	return err
}

func printStruct(b *strings.Builder, indent string, v reflect.Value) {
	for _, f := range fields(v.Type()) {
		b.WriteString(indent + f.key + ":")
		printValue(b, indent, v.Field(f.index))
	}
}

// printValue writes what follows a key's colon.
func printValue(b *strings.Builder, indent string, x reflect.Value) {
	switch {
	case isScalar(addressable(x)):
		b.WriteString(" " + scalarText(x) + "\n")
	case x.Kind() == reflect.Struct:
		b.WriteString("\n")
		printStruct(b, indent+"  ", x)
	case x.Len() == 0 && x.Kind() == reflect.Map:
		b.WriteString(" {}\n")
	case x.Len() == 0:
		b.WriteString(" []\n")
	case x.Kind() == reflect.Map:
		b.WriteString("\n")
		keys := x.MapKeys()
		slices.SortFunc(keys, func(a, b reflect.Value) int { return strings.Compare(a.String(), b.String()) })
		for _, k := range keys {
			b.WriteString(indent + "  " + quoteKey(k.String()) + ":")
			printValue(b, indent+"  ", x.MapIndex(k))
		}
	default:
		b.WriteString("\n")
		for i := range x.Len() {
			b.WriteString(indent + "  - " + quote(x.Index(i).String()) + "\n")
		}
	}
}

func scalarText(x reflect.Value) string {
	if m, ok := x.Interface().(encoding.TextMarshaler); ok {
		text, err := m.MarshalText()
		if err != nil {
			panic("config: " + err.Error()) // none of ours fails
		}
		return quote(string(text))
	}
	switch x.Kind() {
	case reflect.Bool:
		return strconv.FormatBool(x.Bool())
	case reflect.Int:
		return strconv.FormatInt(x.Int(), 10)
	}
	return quote(x.String())
}

// quote writes s plainly where YAML reads it back as the same text, else in
// double quotes. ${ is escaped, so that printed text is not interpolated.
func quote(s string) string { return quoteKey(strings.ReplaceAll(s, "${", "$${")) }

// quoteKey is quote for keys, which are not interpolated.
func quoteKey(s string) string {
	plain := s != "" && s != "true" && s != "false" && s != "null"
	for i, r := range s {
		letter := r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || r == '_' || r == '/'
		inside := i > 0 && (r >= '0' && r <= '9' || strings.ContainsRune(".-+:@", r))
		digit := r >= '0' && r <= '9'
		if !letter && !inside && !digit {
			plain = false
		}
	}
	if plain && !strings.HasSuffix(s, ":") {
		return s
	}
	b, err := json.Marshal(s)
	if err != nil {
		panic("config: " + err.Error()) // a string always marshals
	}
	return string(b)
}

// JSONSchema returns a JSON Schema (draft 2020-12) of the file for editors. Every
// scalar may also be an interpolated string, which the schema says for those that
// are not strings.
func JSONSchema() []byte {
	s := schemaOf(reflect.TypeFor[Config](), reflect.ValueOf(Default()).Elem())
	s["$schema"] = "https://json-schema.org/draft/2020-12/schema"
	s["title"] = "walferry configuration"
	s["required"] = []string{"name", "source", "kafka"}
	b, err := json.MarshalIndent(s, "", "  ")
	if err != nil {
		panic("config: " + err.Error()) // maps of strings always marshal
	}
	return append(b, '\n')
}

const interpolated = `\$\{[A-Za-z_][A-Za-z0-9_]*(:-[^}]*)?\}`

func schemaOf(t reflect.Type, defaults reflect.Value) map[string]any {
	properties := map[string]any{}
	for _, f := range fields(t) {
		ft, dv := t.Field(f.index).Type, defaults.Field(f.index)
		var p map[string]any
		switch {
		case ft.Kind() == reflect.Struct:
			p = schemaOf(ft, dv)
			for _, short := range fields(ft) {
				if short.short {
					p["type"], p["pattern"] = []string{"object", "string"}, "^("+strings.Join(short.enum, "|")+")$|"+interpolated
				}
			}
		case ft.Kind() == reflect.Slice:
			p = map[string]any{"anyOf": []any{
				map[string]any{"type": "array", "items": map[string]any{"type": "string"}},
				map[string]any{"type": "string"},
			}}
		case ft.Kind() == reflect.Map && ft.Elem().Kind() == reflect.Struct:
			p = map[string]any{"type": "object", "additionalProperties": schemaOf(ft.Elem(), reflect.Zero(ft.Elem()))}
		case ft == reflect.TypeFor[map[string][]string]():
			p = map[string]any{"type": "object", "additionalProperties": map[string]any{"type": "array", "items": map[string]any{"type": "string"}}}
		case ft.Kind() == reflect.Map:
			p = map[string]any{"type": "object", "additionalProperties": map[string]any{"type": []string{"string", "number", "boolean"}}}
		case ft == reflect.TypeFor[Duration]():
			p = map[string]any{"type": "string", "pattern": `^([0-9.]+(ns|us|µs|ms|s|m|h))+$|` + interpolated}
		case ft == reflect.TypeFor[Size]():
			p = map[string]any{"type": []string{"integer", "string"}, "pattern": `^[0-9]+ ?([kKMG]i?B|B)?$|` + interpolated}
		case ft.Kind() == reflect.Bool:
			p = map[string]any{"type": []string{"boolean", "string"}, "pattern": `^(true|false)$|` + interpolated}
		case ft.Kind() == reflect.Int:
			p = map[string]any{"type": []string{"integer", "string"}, "pattern": `^-?[0-9]+$|` + interpolated}
		case f.enum != nil:
			p = map[string]any{"type": "string", "anyOf": []any{
				map[string]any{"enum": f.enum},
				map[string]any{"pattern": interpolated},
			}}
		default:
			p = map[string]any{"type": "string"}
		}
		p["description"] = f.doc
		if isScalar(addressable(dv)) && !dv.IsZero() {
			p["default"] = dv.Interface()
		}
		properties[f.key] = p
	}
	return map[string]any{"type": "object", "properties": properties, "additionalProperties": false}
}

// addressable returns a copy of v that can be asked for its methods on a pointer.
func addressable(v reflect.Value) reflect.Value {
	p := reflect.New(v.Type()).Elem()
	p.Set(v)
	return p
}

// Reference returns the Markdown tables of docs/configuration.md.
func Reference() string {
	var b strings.Builder
	c := Default()
	referenceOf(&b, "", reflect.ValueOf(c).Elem())
	return b.String()
}

func referenceOf(b *strings.Builder, path string, v reflect.Value) {
	b.WriteString("| key | default | what it does |\n| --- | --- | --- |\n")
	type section struct {
		f field
		v reflect.Value
	}
	var sections []section
	for _, f := range fields(v.Type()) {
		x := v.Field(f.index)
		if x.Kind() == reflect.Struct {
			sections = append(sections, section{f, x})
			continue
		}
		fallback := ""
		switch {
		case isScalar(x) && (!x.IsZero() || x.Kind() == reflect.Bool):
			fallback = "`" + scalarText(x) + "`"
		case f.example != "":
			fallback = "e.g. `" + f.example + "`"
		}
		doc := f.doc
		if f.enum != nil {
			doc += " One of " + enumText(f.enum) + "."
		}
		fmt.Fprintf(b, "| `%s` | %s | %s |\n", join(path, f.key), fallback, strings.ReplaceAll(doc, "|", "\\|"))
	}
	for _, s := range sections {
		at := join(path, s.f.key)
		fmt.Fprintf(b, "\n### %s\n\n%s\n\n", at, s.f.doc)
		referenceOf(b, at, s.v)
	}
}

func enumText(enum []string) string {
	names := make([]string, len(enum))
	for i, e := range enum {
		names[i] = "`" + e + "`"
		if e == "" {
			names[i] = "empty"
		}
	}
	return strings.Join(names, ", ")
}
