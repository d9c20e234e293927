package registry

import (
	"cmp"
	"slices"
	"strconv"
)

// Normalize returns s as ?normalize=true asks for it: properties and aliases sorted, logical type attributes first,
// an empty doc dropped, defaults of floats written as floats. Two schemas with the same normal form mean the same.
// Confluent: AvroSchemaUtils.toNormalizedString.
func (s *Schema) Normalize() *Schema {
	n := normalizer{types: map[*avroType]*avroType{}}
	for _, t := range s.known {
		n.types[t] = t // stays what it is: it is written by name
	}
	out := &Schema{root: n.typ(s.root), known: s.known}
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

var logicalTypes = []string{"decimal", "big-decimal", "uuid", "date", "time-millis", "time-micros", "duration",
	"timestamp-millis", "timestamp-micros", "timestamp-nanos", "local-timestamp-millis", "local-timestamp-micros", "local-timestamp-nanos"}

func normalProps(t *avroType) []prop {
	rest := sortedProps(t.props)
	at := func(key string) int { return slices.IndexFunc(rest, func(p prop) bool { return p.key == key }) }
	i := at("logicalType")
	if i < 0 || rest[i].value.kind != stringNode || !slices.Contains(logicalTypes, rest[i].value.text) {
		return rest
	}
	front := []prop{rest[i]}
	rest = slices.Delete(rest, i, i+1)
	if front[0].value.text == "decimal" {
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

// normalDefault writes an integer that stands for a float as a float.
func normalDefault(t *avroType, d *node) *node {
	if (t.kind == floatKind || t.kind == doubleKind) && d.isInteger() {
		if f, err := strconv.ParseFloat(javaNumber(d.text), 64); err == nil {
			return &node{kind: numberNode, text: strconv.FormatFloat(f, 'E', -1, 64)}
		}
	}
	return sortedNode(d)
}
