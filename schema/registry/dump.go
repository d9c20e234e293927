package registry

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"slices"
	"strconv"
	"strings"
)

// Dump is all that a registry holds, apart from how it came to hold it: schemas with their ids, versions and deleted
// flags, levels, modes, contexts and the highest ids ever given. Its text is lines of JSON, in order; two registries that
// hold the same have the same text, byte for byte:
//
//	{"kind":"registry","format":1,"entries":5}
//	{"kind":"context","context":".","maxId":7}
//	{"kind":"config","compatibilityLevel":"FULL"}                       without subject: for all
//	{"kind":"mode","subject":"s","mode":"READONLY"}
//	{"kind":"schema","subject":"s","version":1,"id":7,"schema":"…","deleted":false}
//	                                              with schemaType (not for AVRO), references, metadata and ruleSet where there are any
//
// A level and a mode for all that are the ones without any setting are left out: a registry does not tell them apart.
type Dump struct {
	maxIDs  map[string]int32 // by context
	configs map[string]*node // by subject, "" for all; members in order, without the subject
	modes   map[string]Mode  // by subject, "" for all
	schemas []schemaRecord   // by subject and version
}

// dumpFormat is the number in the first line. A later format has another one.
const dumpFormat = 1

// maxDumpLine bounds one line of a dump: a record is no larger than what a topic takes, which is a few MiB at most.
const maxDumpLine = 64 << 20

func newDump() *Dump {
	return &Dump{maxIDs: map[string]int32{}, configs: map[string]*node{}, modes: map[string]Mode{}}
}

// Dump returns what the store holds now.
func (s *Store) Dump() *Dump {
	s.mu.RLock()
	defer s.mu.RUnlock()
	return s.state.dump()
}

func (s *state) dump() *Dump {
	d := newDump()
	for name, c := range s.contexts {
		if name != defaultContext || c.lastID > 0 {
			d.maxIDs[name] = c.lastID
		}
	}
	for name, n := range s.configs {
		d.setConfig(name, n)
	}
	for name, m := range s.modes {
		d.setMode(name, m)
	}
	for _, name := range s.names(func(string) bool { return true }) {
		for _, v := range s.subjects[name].versions {
			d.schemas = append(d.schemas, *v)
		}
	}
	return d
}

func (d *Dump) setConfig(name string, n *node) {
	out := &node{kind: objectNode}
	for _, k := range slices.Sorted(slices.Values(n.keys)) {
		if k != "subject" && k != "kind" && n.member(k).kind != nullNode {
			out.set(k, sortedNode(n.member(k)))
		}
	}
	if len(out.keys) == 0 || (name == "" || contextOf(name) == globalContext) && string(out.bytes()) == `{"compatibilityLevel":"BACKWARD"}` {
		return
	}
	d.configs[name] = out
}

func (d *Dump) setMode(name string, m Mode) {
	if name != "" && contextOf(name) != globalContext || m != ReadWrite {
		d.modes[name] = m
	}
}

// sort brings the versions in order.
func (d *Dump) sort() {
	slices.SortFunc(d.schemas, func(a, b schemaRecord) int {
		if n := strings.Compare(a.subject, b.subject); n != 0 {
			return n
		}
		return a.version - b.version
	})
}

// Len counts the entries: schemas, levels, modes and contexts.
func (d *Dump) Len() int { return len(d.maxIDs) + len(d.configs) + len(d.modes) + len(d.schemas) }

// Write writes the text.
func (d *Dump) Write(w io.Writer) error {
	b := bufio.NewWriter(w)
	line := func(kind, subject string, members *node) {
		n := &node{kind: objectNode}
		n.set("kind", &node{kind: stringNode, text: kind})
		if subject != "" {
			n.set("subject", &node{kind: stringNode, text: subject})
		}
		for i, k := range members.keys {
			n.set(k, members.list[i])
		}
		_, _ = b.Write(append(n.bytes(), '\n')) // Flush returns the first error
	}
	number := func(n int) *node { return &node{kind: numberNode, text: strconv.Itoa(n)} }
	text := func(s string) *node { return &node{kind: stringNode, text: s} }
	members := func(list ...any) *node {
		n := &node{kind: objectNode}
		for i := 0; i < len(list); i += 2 {
			n.set(list[i].(string), list[i+1].(*node))
		}
		return n
	}
	line("registry", "", members("format", number(dumpFormat), "entries", number(d.Len())))
	for _, name := range slices.Sorted(maps.Keys(d.maxIDs)) {
		line("context", "", members("context", text(name), "maxId", number(int(d.maxIDs[name]))))
	}
	for _, name := range slices.Sorted(maps.Keys(d.configs)) {
		line("config", name, d.configs[name])
	}
	for _, name := range slices.Sorted(maps.Keys(d.modes)) {
		line("mode", name, members("mode", text(string(d.modes[name]))))
	}
	for _, r := range d.schemas {
		_, _ = b.Write(dumpLine(r))
	}
	return b.Flush()
}

// dumpLine writes a version as its record does, with what has no order of its own in order.
func dumpLine(r schemaRecord) []byte {
	c := *r.content
	if c.metadata != nil {
		c.metadata = sortedNode(c.metadata)
	}
	if c.ruleSet != nil {
		c.ruleSet = sortedNode(c.ruleSet)
	}
	c.extra = slices.Clone(c.extra)
	slices.SortFunc(c.extra, func(a, b prop) int { return strings.Compare(a.key, b.key) })
	for i := range c.extra {
		c.extra[i].value = sortedNode(c.extra[i].value)
	}
	r.content = &c
	return append(append([]byte(`{"kind":"schema",`), r.bytes()[1:]...), '\n')
}

// ReadDump reads a dump's text. A text that ends too early, that has an entry twice, or in which an id stands for two
// schemas, is refused.
func ReadDump(r io.Reader) (*Dump, error) {
	lines := bufio.NewScanner(r)
	lines.Buffer(nil, maxDumpLine)
	d := newDump()
	entries, got, number := -1, 0, 0
	for lines.Scan() {
		number++
		if len(bytes.TrimSpace(lines.Bytes())) == 0 {
			continue
		}
		n, err := parseJSON(lines.Text())
		if err == nil && n.kind != objectNode {
			err = errors.New("it is no JSON object")
		}
		if err == nil && entries < 0 {
			entries, err = dumpHeader(n)
		} else if err == nil {
			err = d.read(n)
			got++
		}
		if err != nil {
			return nil, fmt.Errorf("line %d: %w", number, err)
		}
	}
	if err := lines.Err(); err != nil {
		return nil, fmt.Errorf("line %d: %w", number+1, err)
	}
	if entries < 0 {
		return nil, errors.New("there is nothing in it")
	}
	if got != entries {
		return nil, fmt.Errorf("it says that it has %d entries and has %d: it is not whole", entries, got)
	}
	d.sort()
	for i, r := range d.schemas {
		if i > 0 && r.subject == d.schemas[i-1].subject && r.version == d.schemas[i-1].version {
			return nil, fmt.Errorf("version %d of subject %s is in it twice", r.version, r.subject)
		}
	}
	return d, d.consistent(map[idKey]schemaRecord{})
}

func dumpHeader(n *node) (entries int, err error) {
	kind, _ := n.str("kind")
	format, ok := n.integer("format")
	count, counted := n.integer("entries")
	switch {
	case kind != "registry" || !ok || !counted || count < 0:
		return 0, errors.New("this is no export of a registry")
	case format != dumpFormat:
		return 0, fmt.Errorf("format %d is not known, %d is: a newer walferry wrote it", format, dumpFormat)
	}
	return int(count), nil
}

func (d *Dump) read(n *node) error {
	kind, _ := n.str("kind")
	name, _ := n.str("subject")
	if !validScope(name) || kind == "schema" && !validSubject(name) {
		return fmt.Errorf("%q is no subject", clip(name, 80))
	}
	twice := func(there bool) error {
		if there {
			return fmt.Errorf("the %s of %q is in it twice", kind, clip(name, 80))
		}
		return nil
	}
	switch kind {
	case "context":
		context, _ := n.str("context")
		id, ok := n.integer("maxId")
		if !strings.HasPrefix(context, ".") || strings.Contains(context, ":") || !ok || id < 0 {
			return errors.New("a context needs a name that begins with a dot, and maxId")
		}
		_, there := d.maxIDs[context]
		d.maxIDs[context] = id
		return twice(there)
	case "config":
		_, there := d.configs[name]
		if level, ok := n.str("compatibilityLevel"); ok {
			if _, ok := ParseLevel(level); !ok {
				return fmt.Errorf("%q is no compatibility level", clip(level, 40))
			}
		}
		d.setConfig(name, n)
		return twice(there)
	case "mode":
		text, _ := n.str("mode")
		mode, ok := ParseMode(text)
		if !ok {
			return fmt.Errorf("%q is no mode", clip(text, 40))
		}
		_, there := d.modes[name]
		d.setMode(name, mode)
		return twice(there)
	case "schema":
		r, err := parseSchemaRecord(n.bytes())
		if err != nil {
			return err
		}
		if r.version < 1 {
			return errors.New("a schema needs a version above 0")
		}
		r.extra = slices.DeleteFunc(r.extra, func(p prop) bool { return p.key == "kind" })
		d.schemas = append(d.schemas, r)
		return nil
	}
	return fmt.Errorf("kind %q is not known", clip(kind, 40))
}

// idKey is an id where it counts.
type idKey struct {
	context string
	id      int32
}

// consistent refuses an id that stands for two schemas, in d or between d and seen.
func (d *Dump) consistent(seen map[idKey]schemaRecord) error {
	for _, r := range d.schemas {
		k := idKey{contextOf(r.subject), r.id}
		o, ok := seen[k]
		if ok && !sameSchema(o.content, r.content) {
			return fmt.Errorf("id %d is version %d of subject %s and also version %d of subject %s, which is another schema", r.id, o.version, o.subject, r.version, r.subject)
		}
		seen[k] = r
	}
	return nil
}

func sameSchema(a, b *content) bool {
	return a.text == b.text && a.typ == b.typ && slices.Equal(a.references, b.references) && sameNode(a.metadata, b.metadata) && sameNode(a.ruleSet, b.ruleSet)
}

// ImportConflictError says that a registry holds something else than what is to be imported. Nothing was written.
type ImportConflictError struct {
	First string // what was found first
	More  int    // how many more there are
}

func (e *ImportConflictError) Error() string {
	text := "nothing was imported: " + e.First
	if e.More > 0 {
		text += fmt.Sprintf(", and %d more", e.More)
	}
	return text
}

// Hint is the way on.
func (e *ImportConflictError) Hint() string {
	return "import into an empty registry, into the one that this came from, or under a context of its own"
}

// without returns what of d is not in have yet. Where have says something else it is an *ImportConflictError.
func (d *Dump) without(have *Dump) (*Dump, error) {
	todo := newDump()
	var conflicts []string
	conflict := func(format string, args ...any) { conflicts = append(conflicts, fmt.Sprintf(format, args...)) }
	for name, id := range d.maxIDs {
		if has, ok := have.maxIDs[name]; !ok || has < id {
			todo.maxIDs[name] = id
		}
	}
	for _, name := range slices.Sorted(maps.Keys(d.configs)) {
		switch old := have.configs[name]; {
		case old == nil:
			todo.configs[name] = d.configs[name]
		case !sameNode(old, d.configs[name]):
			conflict("the registry has another configuration for %s", scopeLabel(name))
		}
	}
	for _, name := range slices.Sorted(maps.Keys(d.modes)) {
		// IMPORT is what an import that did not end leaves behind.
		switch old, ok := have.modes[name]; {
		case !ok || old == Import && d.modes[name] != Import:
			todo.modes[name] = d.modes[name]
		case old != d.modes[name]:
			conflict("the registry has mode %s for %s", old, scopeLabel(name))
		}
	}
	versions := map[string]schemaRecord{}
	ids := map[idKey]schemaRecord{}
	at := func(r schemaRecord) string { return fmt.Sprintf("%d %s", r.version, r.subject) }
	for _, r := range have.schemas {
		versions[at(r)] = r
		ids[idKey{contextOf(r.subject), r.id}] = r
	}
	for _, r := range d.schemas {
		old, there := versions[at(r)]
		other, given := ids[idKey{contextOf(r.subject), r.id}]
		switch {
		case given && !sameSchema(other.content, r.content):
			conflict("id %d is another schema in the registry, version %d of subject %s", r.id, other.version, other.subject)
		case !there:
			todo.schemas = append(todo.schemas, r)
		case old.id != r.id:
			conflict("version %d of subject %s has the id %d in the registry, not %d", r.version, r.subject, old.id, r.id)
		case old.deleted == r.deleted:
		case r.deleted && have.modes[r.subject] == Import:
			todo.schemas = append(todo.schemas, r) // brought, and not deleted yet
		default:
			conflict("version %d of subject %s is %s in the registry", r.version, r.subject, map[bool]string{true: "deleted", false: "not deleted"}[old.deleted])
		}
	}
	if len(conflicts) > 0 {
		return nil, &ImportConflictError{conflicts[0], len(conflicts) - 1}
	}
	for _, r := range todo.schemas {
		if have.mode(r.subject).readOnly() {
			return nil, readOnlyMode(r.subject)
		}
	}
	return todo, nil
}

// mode is the one that counts for a subject.
func (d *Dump) mode(name string) Mode {
	for _, scope := range scopes(name) {
		if m, ok := d.modes[scope]; ok {
			return m
		}
	}
	return ReadWrite
}

func scopeLabel(name string) string {
	if name == "" {
		return "all subjects"
	}
	return name
}

// importBatch is how many records one transaction of an import has. An import is many: each leaves the registry sound,
// and the same import again goes on where it was interrupted.
const importBatch = 2000

// Import writes what of d is not there yet and returns how many entries that were. Ids, versions, deleted flags, levels
// and modes come as they are, whatever the levels and modes that are there. Where the registry holds something else
// already nothing is written and the error is an *ImportConflictError. An import that was interrupted can be repeated.
func (s *Store) Import(ctx context.Context, d *Dump) (entries int, err error) {
	for first := true; ; first = false {
		more := false
		err := s.write(ctx, func() ([]Record, error) {
			s.mu.RLock()
			defer s.mu.RUnlock()
			todo, err := d.without(s.state.dump())
			if err != nil {
				return nil, err
			}
			if first {
				entries = todo.Len()
			}
			records := todo.records(s.state)
			more = len(records) > importBatch
			return records[:min(len(records), importBatch)], nil
		})
		if err != nil || !more {
			return entries, err
		}
	}
}

// records plans what is to be written. The highest ids come first and the modes last: a mode READONLY must not stand
// in the way of the rest when it is interrupted.
func (d *Dump) records(s *state) []Record {
	var list []Record
	if len(d.maxIDs) > 0 {
		ids := map[string]int32{}
		for name, c := range s.contexts {
			ids[name] = c.lastID
		}
		for name, id := range d.maxIDs {
			ids[name] = max(ids[name], id)
		}
		list = append(list, Record{highIDKey, highIDs(ids)})
	}
	for _, name := range slices.Sorted(maps.Keys(d.maxIDs)) {
		if name != defaultContext && !s.listed(name) {
			list = append(list, contextRecord(name))
		}
	}
	for _, r := range d.schemas {
		list = append(list, Record{recordKey{keytype: keySchema, subject: r.subject, version: r.version}.bytes(), r.bytes()})
	}
	for _, name := range slices.Sorted(maps.Keys(d.configs)) {
		n := withSubject(name)
		for i, k := range d.configs[name].keys {
			n.set(k, d.configs[name].list[i])
		}
		list = append(list, Record{recordKey{keytype: keyConfig, subject: name}.bytes(), n.bytes()})
	}
	for _, name := range slices.Sorted(maps.Keys(d.modes)) {
		list = append(list, modeRecord(name, d.modes[name]))
	}
	return list
}
