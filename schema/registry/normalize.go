package registry

import (
	"cmp"
	"math"
	"slices"
	"strconv"
	"strings"
)

// Normalize returns s as ?normalize=true asks for it: properties and aliases sorted, logical type attributes first,
// an empty doc dropped, defaults of floats written as floats. Two schemas with the same normal form mean the same.
// Confluent: AvroSchemaUtils.toNormalizedString.
func (s *Schema) Normalize() *Schema {
	n := normalizer{types: map[*avroType]*avroType{}}
	out := &Schema{root: n.typ(s.root), known: s.known, open: s.open}
	for _, t := range s.defined {
		out.defined = append(out.defined, n.typ(t))
	}
	out.text = out.render()
	return out
}

type normalizer struct{ types map[*avroType]*avroType }

func (n normalizer) typ(t *avroType) *avroType {
	if done := n.types[t]; done != nil {
		return done
	}
	c := *t
	n.types[t] = &c
	c.errorType = false
	if c.doc != nil && *c.doc == "" {
		c.doc = nil
	}
	c.aliases = slices.SortedFunc(slices.Values(t.aliases), func(a, b avroName) int { return cmp.Compare(a.String(), b.String()) })
	c.props = normalProps(t)
	if t.item != nil {
		c.item = n.typ(t.item)
	}
	c.branches = nil
	for _, b := range t.branches {
		c.branches = append(c.branches, n.typ(b))
	}
	c.fields = nil
	for _, f := range t.fields {
		g := *f
		g.typ = n.typ(f.typ)
		g.aliases = slices.Sorted(slices.Values(f.aliases))
		g.props = sortedProps(f.props)
		if f.def != nil {
			g.def = normalDefault(f.typ, f.def)
		}
		c.fields = append(c.fields, &g)
	}
	return n.types[t]
}

// logicalTypes says which types each of Java's logical types may stand on.
var logicalTypes = map[string][]avroKind{
	"decimal": {bytesKind, fixedKind}, "big-decimal": {bytesKind}, "uuid": {stringKind, fixedKind}, "duration": {fixedKind},
	"date": {intKind}, "time-millis": {intKind}, "time-micros": {longKind},
	"timestamp-millis": {longKind}, "timestamp-micros": {longKind}, "timestamp-nanos": {longKind},
	"local-timestamp-millis": {longKind}, "local-timestamp-micros": {longKind}, "local-timestamp-nanos": {longKind},
}

// logicalType returns the logical type of t, "" where it has none or one that Java ignores because it is not valid.
func logicalType(t *avroType) string {
	props := map[string]*node{}
	for _, p := range t.props {
		props[p.key] = p.value
	}
	name := props["logicalType"]
	if name == nil || name.kind != stringNode || !slices.Contains(logicalTypes[name.text], t.kind) {
		return ""
	}
	for _, k := range []string{"avro.java.string", "java-class", "java-key-class", "java-element-class"} {
		if p := props[k]; p != nil && p.kind == stringNode {
			return ""
		}
	}
	switch name.text {
	case "uuid":
		if t.kind == fixedKind && t.size != 16 {
			return ""
		}
	case "duration":
		if t.size != 12 {
			return ""
		}
	case "decimal":
		whole := func(n *node) (int64, bool) {
			v, err := strconv.ParseInt(n.text, 10, 32)
			return v, err == nil && n.isInteger()
		}
		if props["precision"] == nil {
			return ""
		}
		precision, ok := whole(props["precision"])
		limit := int64(math.MaxInt32)
		if t.kind == fixedKind {
			limit = int64(math.Floor(math.Log10(2) * float64(8*t.size-1)))
		}
		if !ok || precision <= 0 || precision > limit {
			return ""
		}
		if s := props["scale"]; s != nil {
			if scale, ok := whole(s); !ok || scale < 0 || scale > precision {
				return ""
			}
		}
	}
	return name.text
}

func normalProps(t *avroType) []prop {
	rest := sortedProps(t.props)
	at := func(key string) int { return slices.IndexFunc(rest, func(p prop) bool { return p.key == key }) }
	logical := logicalType(t)
	if logical == "" {
		return rest
	}
	i := at("logicalType")
	front := []prop{rest[i]}
	rest = slices.Delete(rest, i, i+1)
	if logical == "decimal" {
		if i = at("precision"); i >= 0 {
			front, rest = append(front, rest[i]), slices.Delete(rest, i, i+1)
		}
		if i = at("scale"); i >= 0 && rest[i].value.text != "0" {
			front, rest = append(front, rest[i]), slices.Delete(rest, i, i+1)
		}
	}
	return append(front, rest...)
}

func sortedProps(props []prop) []prop {
	out := make([]prop, len(props))
	for i, p := range props {
		out[i] = prop{p.key, sortedNode(p.value)}
	}
	slices.SortStableFunc(out, func(a, b prop) int { return cmp.Compare(a.key, b.key) })
	return out
}

// sortedNode orders the members of every object in n.
func sortedNode(n *node) *node {
	if n.kind != arrayNode && n.kind != objectNode {
		return n
	}
	out := &node{kind: n.kind}
	keys := slices.Sorted(slices.Values(n.keys))
	for _, k := range keys {
		out.set(k, sortedNode(n.member(k)))
	}
	if n.kind == arrayNode {
		for _, item := range n.list {
			out.list = append(out.list, sortedNode(item))
		}
	}
	return out
}

// normalDefault writes a number that stands for a float as a float, and sorts members. It is JacksonUtils.toObject and back, which
// takes a union for its first branch; it leaves a default of another branch as it is, where Confluent drops it.
func normalDefault(t *avroType, d *node) *node {
	out := &node{kind: d.kind}
	switch {
	case t.kind == unionKind && len(t.branches) > 0 && newDefaultCheck().fits(t.branches[0], d):
		return normalDefault(t.branches[0], d)
	case (t.kind == floatKind || t.kind == doubleKind) && d.kind == numberNode:
		return normalFloat(t.kind, d)
	case (t.kind == bytesKind || t.kind == fixedKind) && d.kind == stringNode:
		out.text = strings.Map(func(r rune) rune {
			if r > 0xFF {
				return '?' // no byte: not a default by the specification, but Java takes it
			}
			return r
		}, d.text)
		return out
	case t.kind == arrayKind && d.kind == arrayNode:
		for _, item := range d.list {
			out.list = append(out.list, normalDefault(t.item, item))
		}
		return out
	case (t.kind == mapKind || t.kind == recordKind) && d.kind == objectNode:
		for _, k := range slices.Sorted(slices.Values(d.keys)) {
			typ := t.item
			for _, f := range t.fields {
				if f.name == k {
					typ = f.typ
				}
			}
			if typ == nil { // a field that is not there
				out.set(k, sortedNode(d.member(k)))
				continue
			}
			out.set(k, normalDefault(typ, d.member(k)))
		}
		return out
	}
	return sortedNode(d)
}

func normalFloat(kind avroKind, d *node) *node {
	bits := 64
	if kind == floatKind {
		bits = 32
	}
	f, err := strconv.ParseFloat(javaNumber(d.text), 64)
	if err != nil {
		return d // beyond all numbers
	}
	if bits == 32 {
		f = float64(float32(f))
	}
	return &node{kind: numberNode, text: strconv.FormatFloat(f, 'E', -1, bits)}
}
