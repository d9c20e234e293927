package registry

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
)

// grower makes schemas out of schemas by small changes, as people do and as they do not. The same seed grows the same.
type grower struct {
	*rand.Rand
	pool []*node
}

func newGrower(seed uint64, seeds []string) *grower {
	g := &grower{Rand: rand.New(rand.NewPCG(seed, 1))} //nolint:gosec // to be repeatable, not secret
	for _, text := range seeds {
		g.pool = append(g.pool, tree("%s", text))
	}
	for range 40 * len(seeds) {
		g.breed()
	}
	return g
}

// tree reads JSON that is part of this file or of the seeds.
func tree(format string, args ...any) *node {
	n, err := parseJSON(fmt.Sprintf(format, args...))
	if err != nil {
		panic(err)
	}
	return n
}

func (n *node) clone() *node {
	c := &node{kind: n.kind, text: n.text}
	for i, item := range n.list {
		if n.kind == objectNode {
			c.set(n.keys[i], item.clone())
		} else {
			c.list = append(c.list, item.clone())
		}
	}
	return c
}

// without returns n's members but key.
func (n *node) without(key string) *node {
	c := &node{kind: objectNode}
	for i, k := range n.keys {
		if k != key {
			c.set(k, n.list[i])
		}
	}
	return c
}

// string writes numbers as they were read, unlike bytes.
func (n *node) string() string {
	var b strings.Builder
	var write func(*node)
	write = func(n *node) {
		switch n.kind {
		case numberNode:
			b.WriteString(n.text)
		case arrayNode, objectNode:
			brackets := "[]"
			if n.kind == objectNode {
				brackets = "{}"
			}
			b.WriteByte(brackets[0])
			for i, item := range n.list {
				if i > 0 {
					b.WriteByte(',')
				}
				if n.kind == objectNode {
					b.Write((&node{kind: stringNode, text: n.keys[i]}).bytes())
					b.WriteByte(':')
				}
				write(item)
			}
			b.WriteByte(brackets[1])
		default:
			b.Write(n.bytes())
		}
	}
	write(n)
	return b.String()
}

// garbled returns a text that has lost or got a few bytes.
func (g *grower) garbled(text string) string {
	i := g.IntN(len(text) + 1)
	if g.IntN(2) == 0 {
		j := min(len(text), i+1+g.IntN(2))
		return text[:i] + text[j:]
	}
	return text[:i] + pick(g, []string{",", "}", "]", "{", " ", "\n", `"`, `\`, "0", "-", "+", ".", "//x\n", "/**/", "NaN", "null", `\u0000`, "\x00", "\t", "é", "'", "\ufeff", ":", "e5"}) + text[i:]
}

// breed puts a changed schema in the place of one of the pool, which keeps half of its seeds as they are.
func (g *grower) breed() {
	if len(g.pool) < 150 {
		g.pool = append(g.pool, g.valid(pick(g, g.pool), 3))
		return
	}
	g.pool[75+g.IntN(75)] = g.valid(pick(g, g.pool), 1+g.IntN(4))
}

// next returns a schema and one that was made out of it by up to n changes.
func (g *grower) next(n int) (before, after *node) {
	if g.IntN(2) == 0 {
		g.breed()
	}
	before = pick(g, g.pool)
	if g.IntN(20) == 0 {
		return before, pick(g, g.pool)
	}
	return before, g.valid(before, 1+g.IntN(n))
}

// history returns schemas of which each comes out of the one before it.
func (g *grower) history(n int) []*node {
	g.breed()
	versions := []*node{pick(g, g.pool)}
	for len(versions) < n {
		last := versions[len(versions)-1]
		if g.IntN(4) == 0 {
			last = versions[g.IntN(len(versions))] // somebody takes a change back
		}
		versions = append(versions, g.valid(last, g.IntN(2)))
	}
	return versions
}

// valid makes n changes of which each leaves a schema that is accepted.
func (g *grower) valid(n *node, changes int) *node {
	for range changes {
		for range 20 {
			c := g.change(n)
			text := c.string()
			if len(text) > 2500 {
				continue
			}
			if _, err := parseAvro(text, true, nil); err == nil {
				n = c
				break
			}
		}
	}
	return n
}

func pick[T any](g *grower, list []T) T { return list[g.IntN(len(list))] }

// referring returns named schemas, of which one may refer to those before it, and one that refers to them.
func (g *grower) referring(n *node) (references []string, schema *node) {
	var names []string
	for range 1 + g.IntN(2) {
		r := pick(g, g.pool).clone()
		g.refer(&r, names)
		if s := look(&r); len(s.named) > 0 && s.named[0] == r {
			references = append(references, r.string())
			for _, t := range s.named {
				names = append(names, fullName(t))
			}
		}
	}
	schema = n.clone()
	g.refer(&schema, names)
	return references, schema
}

// refer puts names in the place of some types.
func (g *grower) refer(root **node, names []string) {
	for range 3 {
		if len(names) > 0 {
			if at := pick(g, look(root).types); at != root {
				*at = tree("%q", pick(g, names))
			}
		}
	}
}

// sites are the places of a schema, found in one walk.
type sites struct {
	types                                         []**node
	unions, records, fields, enums, fixeds, named []*node
	objects                                       []*node // all JSON objects
}

func look(root **node) *sites {
	s := &sites{}
	s.typ(root)
	return s
}

func (s *sites) typ(at **node) {
	n := *at
	s.types = append(s.types, at)
	switch n.kind {
	case arrayNode:
		s.unions = append(s.unions, n)
		for i := range n.list {
			s.typ(&n.list[i])
		}
	case objectNode:
		s.objects = append(s.objects, n)
		kind, _ := n.str("type")
		switch kind {
		case "record", "error":
			s.records = append(s.records, n)
			s.named = append(s.named, n)
			if list := n.member("fields"); list != nil {
				for _, f := range list.list {
					s.fields = append(s.fields, f)
					s.objects = append(s.objects, f)
					if i := f.find("type"); f.kind == objectNode && i >= 0 {
						s.typ(&f.list[i])
					}
				}
			}
		case "enum":
			s.enums = append(s.enums, n)
			s.named = append(s.named, n)
		case "fixed":
			s.fixeds = append(s.fixeds, n)
			s.named = append(s.named, n)
		case "array", "map":
			for _, k := range []string{"items", "values"} {
				if i := n.find(k); i >= 0 {
					s.typ(&n.list[i])
				}
			}
		}
	}
}

// Few names, so that they meet again.
var (
	growFields  = strings.Fields("a b c d e f g h id after before amount")
	growTypes   = strings.Fields("R S T U V Value Envelope E F G H")
	growSpaces  = []string{"", "n", "n.m", "o"}
	growSymbols = strings.Fields("A B C D E F G")
	growKinds   = strings.Fields("null boolean int long float double bytes string")
	growLogical = []string{
		`{"type":"bytes","logicalType":"decimal","precision":9,"scale":2}`, `{"type":"int","logicalType":"date"}`,
		`{"type":"long","logicalType":"timestamp-micros"}`, `{"type":"string","logicalType":"uuid"}`,
		`{"type":"long","logicalType":"time-millis"}`, `{"type":"bytes","logicalType":"decimal"}`,
		`{"type":"string","connect.name":"io.debezium.data.Json","connect.version":1}`, `{"type":"int","logicalType":"nonsense"}`,
		`{"type":"string","avro.java.string":"String"}`, `{"type":"string","logicalType":"uuid","java-class":"x"}`, `{"type":"bytes","logicalType":"decimal","precision":0,"x":{"b":1,"a":[1.0,null]}}`,
	}
)

func (g *grower) name() string {
	if g.IntN(4) == 0 {
		if s := pick(g, growSpaces); s != "" || g.IntN(3) == 0 {
			return s + "." + pick(g, growTypes)
		}
	}
	return pick(g, growTypes)
}

// typ makes a new type. in is what its names may refer to, depth how far it may nest.
func (g *grower) typ(in *sites, depth int) *node {
	n := g.IntN(20)
	if depth <= 0 {
		n = g.IntN(12)
	}
	switch {
	case n < 8:
		return tree("%q", pick(g, growKinds))
	case n < 10:
		return tree("%s", pick(g, growLogical))
	case n < 12:
		if len(in.named) > 0 {
			return tree("%q", fullName(pick(g, in.named)))
		}
		return tree("%q", g.name())
	case n < 13:
		return tree(`{"type":"enum","name":%q,"symbols":["A","B","C"]}`, g.name())
	case n < 14:
		return tree(`{"type":"fixed","name":%q,"size":%d}`, g.name(), 1+g.IntN(4))
	case n < 15:
		return tree(`{"type":"array","items":%s}`, g.typ(in, depth-1).string())
	case n < 16:
		return tree(`{"type":"map","values":%s}`, g.typ(in, depth-1).string())
	case n < 18:
		u := tree(`[]`)
		if g.IntN(3) > 0 {
			u = tree(`["null"]`)
		}
		for range 1 + g.IntN(3) {
			u.list = append(u.list, g.typ(in, depth-1))
		}
		return u
	default:
		r := tree(`{"type":"record","name":%q,"fields":[]}`, g.name())
		for range g.IntN(4) {
			g.addField(in, r, depth-1)
		}
		return r
	}
}

// fullName leaves out what a namespace around n gives, and is mostly right.
func fullName(n *node) string {
	name, _ := n.str("name")
	if space, _ := n.str("namespace"); space != "" && !strings.Contains(name, ".") {
		return space + "." + name
	}
	return name
}

func (g *grower) addField(in *sites, r *node, depth int) {
	typ := g.typ(in, depth)
	f := tree(`{"name":%q,"type":%s}`, pick(g, growFields), typ.string())
	if g.IntN(2) == 0 {
		if def := g.defaultOf(in, typ, 4); def != nil {
			f.set("default", def)
		}
	}
	if list := r.member("fields"); list != nil {
		list.list = slices.Insert(list.list, g.IntN(len(list.list)+1), f)
	}
}

// defaultOf makes a default for a type, nil if it knows none.
func (g *grower) defaultOf(in *sites, typ *node, depth int) *node {
	if depth == 0 {
		return nil
	}
	kind := typ.text
	switch typ.kind {
	case arrayNode:
		if len(typ.list) == 0 {
			return nil
		}
		b := typ.list[0]
		if g.IntN(4) == 0 {
			b = pick(g, typ.list)
		}
		return g.defaultOf(in, b, depth-1)
	case objectNode:
		kind, _ = typ.str("type")
	default: // a name, or what is no type
	}
	switch kind {
	case "null":
		return tree("null")
	case "boolean":
		return tree("true")
	case "int", "long":
		return tree("%d", g.IntN(5)-2)
	case "float", "double":
		return tree("%s", pick(g, []string{"1", "1.5", "-0.0", `"NaN"`, "1e9", "0.1", "12345678", "1e-5"}))
	case "bytes", "string", "fixed":
		return tree("%s", pick(g, []string{`""`, `"x"`, `"\u00ff"`, `"a\"\\\n\u0001/é"`}))
	case "array":
		if g.IntN(2) == 0 {
			if item := typ.member("items"); item != nil {
				if d := g.defaultOf(in, item, depth-1); d != nil {
					return tree("[%s]", d.string())
				}
			}
		}
		return tree("[]")
	case "map":
		if g.IntN(2) == 0 {
			if item := typ.member("values"); item != nil {
				if d := g.defaultOf(in, item, depth-1); d != nil {
					return tree(`{"k":%s}`, d.string())
				}
			}
		}
		return tree("{}")
	case "enum":
		if s := typ.member("symbols"); s != nil && len(s.list) > 0 {
			return pick(g, s.list).clone()
		}
		return nil
	case "record", "error":
		d := tree("{}")
		if list := typ.member("fields"); list != nil {
			for _, f := range list.list {
				name, _ := f.str("name")
				if f.member("default") != nil && g.IntN(2) == 0 {
					continue
				}
				t := f.member("type")
				if t == nil {
					return nil
				}
				v := g.defaultOf(in, t, depth-1)
				if v == nil {
					return nil
				}
				d.set(name, v)
			}
		}
		return d
	}
	for _, n := range in.named {
		if fullName(n) == kind && kind != "" {
			return g.defaultOf(in, n, depth-1)
		}
	}
	return nil
}

// change returns a copy of n with one change, which may have broken it.
func (g *grower) change(n *node) *node {
	root := n.clone()
	s := look(&root)
	for !g.changeOne(s) {
	}
	return root
}

// changeOne reports whether there was something to change.
func (g *grower) changeOne(s *sites) bool {
	at := pick(g, s.types)
	switch g.IntN(33) {
	case 0: // promote or demote a primitive
		for _, p := range g.Perm(len(s.types)) {
			at = s.types[p]
			if k, ok := primitive((*at).text); ok && (*at).kind == stringNode && k != nullKind {
				*at = tree("%q", pick(g, []string{"int", "long", "float", "double", "string", "bytes"}))
				return true
			}
		}
		return false
	case 1: // another type
		*at = g.typ(s, 2)
	case 2: // into a union
		if (*at).kind == arrayNode {
			return false
		}
		u := []string{`["null",%s]`, `[%s,"null"]`, `[%s]`, `["null","string",%s]`}[g.IntN(4)]
		*at = tree(u, (*at).string())
	case 3: // out of a union
		if len(s.unions) == 0 {
			return false
		}
		u := pick(g, s.unions)
		for _, at := range s.types {
			if *at == u && len(u.list) > 0 {
				*at = pick(g, u.list)
				return true
			}
		}
		return false
	case 4, 5: // a branch more
		if len(s.unions) == 0 {
			return false
		}
		u := pick(g, s.unions)
		u.list = slices.Insert(u.list, g.IntN(len(u.list)+1), g.typ(s, 2))
	case 6: // a branch less, or others in front
		if len(s.unions) == 0 {
			return false
		}
		u := pick(g, s.unions)
		if len(u.list) == 0 {
			return false
		}
		if g.IntN(2) == 0 {
			g.Shuffle(len(u.list), func(i, j int) { u.list[i], u.list[j] = u.list[j], u.list[i] })
			return true
		}
		i := g.IntN(len(u.list))
		u.list = slices.Delete(u.list, i, i+1)
	case 7: // into a list
		*at = tree([]string{`{"type":"array","items":%s}`, `{"type":"map","values":%s}`}[g.IntN(2)], (*at).string())
	case 8: // array to map and back, or out of them
		n := *at
		kind, _ := n.str("type")
		switch {
		case kind == "array" && n.member("items") != nil:
			*at = tree(`{"type":"map","values":%s}`, n.member("items").string())
		case kind == "map" && n.member("values") != nil:
			*at = n.member("values")
		default:
			return false
		}
	case 9, 10, 11: // a field more
		if len(s.records) == 0 {
			return false
		}
		g.addField(s, pick(g, s.records), 2)
	case 12: // a field less
		if len(s.records) == 0 {
			return false
		}
		list := pick(g, s.records).member("fields")
		if list == nil || len(list.list) == 0 {
			return false
		}
		i := g.IntN(len(list.list))
		list.list = slices.Delete(list.list, i, i+1)
	case 13: // fields in another order
		if len(s.records) == 0 {
			return false
		}
		if list := pick(g, s.records).member("fields"); list != nil {
			g.Shuffle(len(list.list), func(i, j int) { list.list[i], list.list[j] = list.list[j], list.list[i] })
		}
	case 14: // a field renamed, with an alias or without
		if len(s.fields) == 0 {
			return false
		}
		f := pick(g, s.fields)
		old, _ := f.str("name")
		f.set("name", tree("%q", pick(g, growFields)))
		if g.IntN(2) == 0 {
			f.set("aliases", tree("[%q]", old))
		}
	case 15: // aliases of a field, of which two may hit
		if len(s.fields) == 0 || g.IntN(2) == 0 {
			return false
		}
		f := pick(g, s.fields)
		switch g.IntN(3) {
		case 0:
			f.set("aliases", tree("[%q]", pick(g, growFields)))
		case 1:
			f.set("aliases", tree("[%q,%q]", pick(g, growFields), pick(g, growFields)))
		default:
			*f = *f.without("aliases")
		}
	case 16, 17: // a default more or less
		if len(s.fields) == 0 {
			return false
		}
		f := pick(g, s.fields)
		if f.member("default") != nil {
			*f = *f.without("default")
			return true
		}
		t := f.member("type")
		if t == nil {
			return false
		}
		if d := g.defaultOf(s, t, 4); d != nil {
			f.set("default", d)
		}
	case 18: // doc, order, property
		if len(s.fields) == 0 {
			return false
		}
		f := pick(g, s.fields)
		k := []string{"doc", "order", "p", "q"}[g.IntN(4)]
		f.set(k, tree("%s", pick(g, []string{`"ignore"`, `"DESCENDING"`, `"ascending"`, `{"z":1,"a":[2.50,1e3]}`, `""`, `null`})))
	case 19: // property of a type
		if (*at).kind != objectNode {
			return false
		}
		k := []string{"doc", "p", "q", "logicalType", "precision", "scale"}[g.IntN(6)]
		(*at).set(k, tree("%s", pick(g, []string{`"decimal"`, `"date"`, `2`, `0`, `{"z":1,"a":[2.50,1e3]}`, `""`, `12345678901`, `"duration"`, `false`})))
	case 20, 21, 29, 31, 32: // a symbol more, a symbol less
		if len(s.enums) == 0 {
			return false
		}
		symbols := pick(g, s.enums).member("symbols")
		if symbols == nil {
			return false
		}
		if i := g.IntN(8); i < len(symbols.list) {
			symbols.list = slices.Delete(symbols.list, i, i+1)
			return true
		}
		symbols.list = append(symbols.list, tree("%q", pick(g, growSymbols)))
	case 22: // an enum's default
		if len(s.enums) == 0 {
			return false
		}
		e := pick(g, s.enums)
		if e.member("default") != nil {
			*e = *e.without("default")
			return true
		}
		e.set("default", tree("%q", pick(g, growSymbols)))
	case 23, 30: // a fixed's size
		if len(s.fixeds) == 0 {
			return false
		}
		pick(g, s.fixeds).set("size", tree("%d", g.IntN(5)))
	case 24, 25: // a type renamed, with an alias or without
		if len(s.named) == 0 {
			return false
		}
		t := pick(g, s.named)
		old := fullName(t)
		t.set("name", tree("%q", g.name()))
		if g.IntN(2) == 0 {
			t.set("aliases", tree("[%q]", old))
		}
		if g.IntN(2) == 0 { // and where it is used
			for _, at := range s.types {
				if (*at).kind == stringNode && (*at).text == old {
					*at = tree("%q", fullName(t))
				}
			}
		}
	case 26: // a namespace, aliases
		if len(s.named) == 0 {
			return false
		}
		t := pick(g, s.named)
		switch g.IntN(4) {
		case 0:
			*t = *t.without("aliases")
		case 1:
			t.set("aliases", tree("[%q,%q]", g.name(), g.name()))
		default:
			t.set("namespace", tree("%q", pick(g, growSpaces)))
		}
	case 27: // a type of here also there, in full or by name
		from := *pick(g, s.types)
		if name := fullName(from); name != "" && g.IntN(3) > 0 {
			*at = tree("%q", name)
			return true
		}
		*at = from.clone()
	case 28: // an error is a record; a plain type may be written in full; a name too, to some
		n := *at
		switch kind, _ := n.str("type"); {
		case kind == "record":
			n.set("type", tree(`"error"`))
		case kind == "error":
			n.set("type", tree(`"record"`))
		case n.kind == stringNode:
			*at = tree(`{"type":%q}`, n.text)
		default:
			return false
		}
	}
	return true
}

// broken returns a copy of n with one change that takes no care: most of these are refused.
func (g *grower) broken(n *node) *node {
	root := n.clone()
	s := look(&root)
	strange := func() *node {
		return tree("%s", pick(g, []string{`null`, `""`, `"x-y"`, `"1a"`, `"a.b"`, `".a"`, `"a."`, `"n..m"`, `"größe"`, `"string"`, `"n.string"`, `"record"`,
			`0`, `-1`, `1.0`, `1e2`, `3000000000`, `99999999999999999999`, `1.7976931348623157e309`, `true`, `[]`, `{}`, `["a","a"]`, `["A",1]`, `[null]`, `{"type":"int"}`,
			`"NaN"`, `" 1.5 "`, `"0x1p3"`, `"1_0"`, `"1f"`, `"Infinity"`, `"inf"`, `"A"`, `[{"a":1}]`, `{"a":null}`, `"ignore"`, `"int"`, `["null","int"]`}))
	}
	switch g.IntN(7) {
	case 0, 1: // an attribute that is something else
		if len(s.objects) > 0 {
			o := pick(g, s.objects)
			keys := strings.Fields("name namespace type fields symbols items values size default aliases doc order logicalType p")
			if g.IntN(3) > 0 {
				keys = o.keys
			}
			if len(keys) > 0 {
				o.set(pick(g, keys), strange())
			}
		}
	case 2: // an attribute less
		if len(s.objects) > 0 {
			o := pick(g, s.objects)
			if len(o.keys) > 0 {
				*o = *o.without(pick(g, o.keys))
			}
		}
	case 3: // a default of any kind
		if len(s.fields) > 0 {
			f := pick(g, s.fields)
			f.set("default", strange())
			if t := f.member("type"); t != nil && g.IntN(2) == 0 {
				if d := g.defaultOf(s, t, 4); d != nil {
					f.set("default", g.bent(d, strange))
				}
			}
		}
	case 4: // a thing where a type should be
		*pick(g, s.types) = strange()
	case 5: // a member of a list again, or changed
		var lists []*node
		for _, o := range s.objects {
			for _, k := range []string{"fields", "symbols", "aliases"} {
				if l := o.member(k); l != nil && l.kind == arrayNode && len(l.list) > 0 {
					lists = append(lists, l)
				}
			}
		}
		for _, u := range s.unions {
			if len(u.list) > 0 {
				lists = append(lists, u)
			}
		}
		if len(lists) > 0 {
			l := pick(g, lists)
			if g.IntN(2) == 0 {
				l.list = append(l.list, pick(g, l.list).clone())
			} else {
				l.list[g.IntN(len(l.list))] = strange()
			}
		}
	default: // a definition in the place of a name, a name in the place of a definition
		return g.change(root)
	}
	return root
}

// bent changes something inside of a value.
func (g *grower) bent(n *node, strange func() *node) *node {
	if len(n.list) == 0 || g.IntN(4) == 0 {
		return strange()
	}
	i := g.IntN(len(n.list))
	if n.kind == objectNode && g.IntN(3) == 0 {
		return n.without(n.keys[i])
	}
	n.list[i] = g.bent(n.list[i], strange)
	return n
}
