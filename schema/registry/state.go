package registry

import (
	"bytes"
	"crypto/md5"
	"fmt"
	"maps"
	"slices"
	"strings"
)

// state is what the log says, in memory. It changes by apply only, so that a replay and a write of our own can not
// come to different ends. It is not safe for concurrent use.
type state struct {
	subjects map[string]*subject
	contexts map[string]*contextState
	configs  map[string]*node // by subject, "" for all
	modes    map[string]Mode  // by subject, "" for all
	skipped  int              // records that are none of ours, or malformed
	conflict int              // records that would have given an id a second schema
	newest   int64            // everything up to this offset has been applied; -1 before the first record
	session  session          // of the newest session record
}

type subject struct {
	name     string
	versions []*schemaRecord // ascending
}

type contextState struct {
	ids    map[int32]*idEntry
	bySum  map[[md5.Size]byte]int32
	lastID int32 // highest ever given, 0 before the first
	listed bool  // it has subjects, or had and was not deleted
}

// idEntry is one id. versions holds, per subject, the version that was registered last under it (Confluent's
// guidToSubjectVersions).
type idEntry struct {
	*content
	id       int32
	versions uses
}

// uses of an id are subjects, each with a version, in order of name. Most ids have one.
type uses []use

type use struct {
	subject string
	version int
}

func (u uses) find(subject string) (int, bool) {
	return slices.BinarySearchFunc(u, subject, func(at use, want string) int { return strings.Compare(at.subject, want) })
}

// at returns the version in a subject, 0 when there is none.
func (u uses) at(subject string) int {
	if i, ok := u.find(subject); ok {
		return u[i].version
	}
	return 0
}

func (u *uses) set(subject string, version int) {
	i, ok := u.find(subject)
	if !ok {
		*u = slices.Insert(*u, i, use{subject: subject})
	}
	(*u)[i].version = version
}

func (u *uses) remove(subject string) {
	if i, ok := u.find(subject); ok {
		*u = slices.Delete(*u, i, i+1)
	}
}

func newState() *state {
	return &state{
		subjects: map[string]*subject{},
		contexts: map[string]*contextState{},
		configs:  map[string]*node{},
		modes:    map[string]Mode{},
		newest:   -1,
		session:  session{offset: -1},
	}
}

func (s *state) context(name string) *contextState {
	c := s.contexts[name]
	if c == nil {
		c = &contextState{ids: map[int32]*idEntry{}, bySum: map[[md5.Size]byte]int32{}}
		s.contexts[name] = c
	}
	return c
}

// apply takes one record of the log, once: what is not newer than newest is left out. Whatever stands in it, the state
// stays sound: a record that makes no sense is counted and left alone, as Confluent leaves it alone
// (KafkaStoreMessageHandler).
func (s *state) apply(offset int64, key, value []byte) {
	if offset <= s.newest {
		return
	}
	s.newest = offset
	k, err := parseKey(key)
	if err != nil {
		s.skipped++
		return
	}
	switch k.keytype {
	case keySchema:
		s.applySchema(k, value)
	case keyDeleteSubject:
		n, err := parseJSON(string(value))
		if value == nil || err != nil {
			s.skip(value)
			return
		}
		upTo, _ := n.integer("version")
		name, _ := n.str("subject")
		if sub := s.subjects[name]; sub != nil {
			for _, v := range sub.versions {
				if v.version <= int(upTo) {
					v.deleted = true
				}
			}
		}
	case keyClearSubject:
		n, err := parseJSON(string(value))
		if value == nil || err != nil {
			s.skip(value)
			return
		}
		name, _ := n.str("subject")
		for _, sub := range slices.Collect(maps.Values(s.subjects)) {
			if !inScope(name)(sub.name) {
				continue
			}
			for _, v := range slices.Clone(sub.versions) {
				if v.deleted {
					s.remove(sub, v)
				}
			}
		}
	case keyConfig:
		n, err := parseJSON(string(value))
		switch {
		case value == nil:
			delete(s.configs, k.subject)
		case err != nil || n.kind != objectNode:
			s.skipped++
		default:
			s.configs[k.subject] = n
		}
	case keyMode:
		n, err := parseJSON(string(value))
		if value == nil {
			delete(s.modes, k.subject)
			return
		}
		if err != nil {
			s.skipped++
			return
		}
		if mode, ok := n.str("mode"); ok {
			s.modes[k.subject] = Mode(mode)
		} else {
			delete(s.modes, k.subject)
		}
	case keyContext:
		s.context(k.context).listed = value != nil
	case keyNoop:
		if bytes.Equal(key, sessionKey) {
			s.session = parseSession(offset, value)
			return
		}
		if !k.own || value == nil {
			return
		}
		n, err := parseJSON(string(value))
		if err != nil {
			s.skipped++
			return
		}
		if ids := n.member("maxIds"); ids != nil {
			for _, name := range ids.keys {
				if id, ok := ids.integer(name); ok {
					s.given(name, id)
				}
			}
		}
	}
}

func (s *state) skip(value []byte) {
	if value != nil {
		s.skipped++
	}
}

// given notes that an id stands before messages, or may.
func (s *state) given(context string, id int32) {
	c := s.context(context)
	c.lastID = max(c.lastID, id)
}

func (s *state) applySchema(k recordKey, value []byte) {
	if value == nil {
		if sub := s.subjects[k.subject]; sub != nil {
			if v := sub.version(k.version); v != nil {
				s.remove(sub, v)
			}
		}
		return
	}
	r, ok := flatSchemaRecord(value, k.subject)
	if !ok {
		var err error
		if r, err = parseSchemaRecord(value); err != nil {
			s.skipped++
			return
		}
	}
	r.subject, r.version = k.subject, k.version
	c := s.context(contextOf(r.subject))
	c.lastID = max(c.lastID, r.id)
	c.listed = true
	entry := c.ids[r.id]
	if entry != nil && entry.text != r.text {
		s.conflict++
		return
	}
	if entry == nil {
		entry = &idEntry{content: r.content, id: r.id}
		c.ids[r.id] = entry
	}
	if r.sum == entry.sum {
		r.content = entry.content // one copy of the text
	}
	sub := s.subjects[r.subject]
	if sub == nil {
		sub = &subject{name: r.subject}
		s.subjects[r.subject] = sub
	}
	if old := sub.version(r.version); old != nil {
		if old.id != r.id {
			s.forget(old)
		}
		*old = r
	} else {
		at, _ := slices.BinarySearchFunc(sub.versions, r.version, func(v *schemaRecord, want int) int { return v.version - want })
		sub.versions = slices.Insert(sub.versions, at, &r)
	}
	entry.versions.set(r.subject, r.version)
	c.bySum[r.sum] = r.id
}

// remove takes a version out for good.
func (s *state) remove(sub *subject, v *schemaRecord) {
	sub.versions = slices.DeleteFunc(sub.versions, func(o *schemaRecord) bool { return o == v })
	if len(sub.versions) == 0 {
		delete(s.subjects, sub.name)
	}
	s.forget(v)
}

// forget takes a version out of the index of ids. An id without a version is unknown, and never given again.
func (s *state) forget(v *schemaRecord) {
	c := s.context(contextOf(v.subject))
	entry := c.ids[v.id]
	if entry == nil || entry.versions.at(v.subject) != v.version {
		return
	}
	entry.versions.remove(v.subject)
	if len(entry.versions) == 0 {
		delete(c.ids, v.id)
		if c.bySum[entry.sum] == v.id {
			delete(c.bySum, entry.sum)
		}
	}
}

func (sub *subject) version(n int) *schemaRecord {
	at, ok := slices.BinarySearchFunc(sub.versions, n, func(v *schemaRecord, want int) int { return v.version - want })
	if !ok {
		return nil
	}
	return sub.versions[at]
}

// latest returns the newest version that is not deleted.
func (sub *subject) latest() *schemaRecord {
	for _, v := range slices.Backward(sub.versions) {
		if !v.deleted {
			return v
		}
	}
	return nil
}

// live returns the versions that are not deleted, or all.
func (s *state) versions(name string, deleted bool) []*schemaRecord {
	sub := s.subjects[name]
	if sub == nil {
		return nil
	}
	var list []*schemaRecord
	for _, v := range sub.versions {
		if deleted || !v.deleted {
			list = append(list, v)
		}
	}
	return list
}

func (s *state) has(name string, deleted bool) bool { return len(s.versions(name, deleted)) > 0 }

// find returns the version that a content is registered under in a subject, deleted or not.
func (s *state) find(name string, c *content) *schemaRecord {
	ctx := s.contexts[contextOf(name)]
	if ctx == nil {
		return nil
	}
	id, ok := ctx.bySum[c.sum]
	if !ok {
		return nil
	}
	entry := ctx.ids[id]
	if entry == nil || entry.typ != c.typ {
		return nil
	}
	if sub := s.subjects[name]; sub != nil {
		return sub.version(entry.versions.at(name))
	}
	return nil
}

// idOf returns the id of a content in the context of a subject, 0 when it has none.
func (s *state) idOf(name string, c *content) int32 {
	ctx := s.contexts[contextOf(name)]
	if ctx == nil {
		return 0
	}
	if id, ok := ctx.bySum[c.sum]; ok && ctx.ids[id] != nil {
		return id
	}
	return 0
}

// scopes lists where a setting of a subject may come from, nearest first (InMemoryCache.config).
func scopes(name string) []string {
	list := []string{name}
	if c := contextOf(name); c != defaultContext {
		list = append(list, ":"+c+":")
	} else if name != "" {
		list = append(list, "")
	}
	return append(list, ":"+globalContext+":")
}

// level returns the compatibility level that counts for a subject.
func (s *state) level(name string) Level {
	for _, scope := range scopes(name) {
		if n := s.configs[scope]; n != nil {
			text, _ := n.str("compatibilityLevel")
			if l, ok := ParseLevel(text); ok {
				return l
			}
			return Backward
		}
	}
	return Backward
}

func (s *state) normalizes(name string) bool {
	for _, scope := range scopes(name) {
		if n := s.configs[scope]; n != nil {
			m := n.member("normalize")
			return m != nil && m.kind == trueNode
		}
	}
	return false
}

// referrers lists the versions whose schemas refer to a version.
func (s *state) referrers(name string, version int, deleted bool) []*schemaRecord {
	var list []*schemaRecord
	for _, sub := range s.subjects {
		for _, v := range sub.versions {
			if v.deleted && !deleted {
				continue
			}
			for _, r := range v.references {
				if r.Version == version && inContextOf(v.subject, r.Subject) == name {
					list = append(list, v)
					break
				}
			}
		}
	}
	slices.SortFunc(list, func(a, b *schemaRecord) int { return int(a.id) - int(b.id) })
	return list
}

// names lists subjects in order.
func (s *state) names(match func(string) bool) []string {
	var list []string
	for name := range s.subjects {
		if match(name) {
			list = append(list, name)
		}
	}
	slices.Sort(list)
	return list
}

// matchPrefix is what subjectPrefix means: ":*:" stands for any context.
func matchPrefix(prefix string) func(string) bool {
	rest, any := strings.CutPrefix(prefix, ":*:")
	return func(name string) bool {
		if any {
			if c := contextOf(name); c != defaultContext {
				name = strings.TrimPrefix(name, ":"+c+":")
			}
			return strings.HasPrefix(name, rest)
		}
		return strings.HasPrefix(name, prefix)
	}
}

// parse reads a stored Avro schema with what it refers to.
func (s *state) parse(name string, c *content) (*Schema, error) {
	refs, err := s.resolve(name, c.references)
	if err != nil {
		return nil, err
	}
	return parseStored(c.text, refs)
}

// resolve reads the schemas that references name, and those that these refer to, innermost first.
func (s *state) resolve(parent string, references []Reference) ([]*Schema, error) {
	r := resolver{state: s, done: map[string]bool{}}
	if err := r.add(parent, references, 0); err != nil {
		return nil, err
	}
	return r.schemas, nil
}

// referred returns the version that a reference of a schema of the subject parent names.
func (s *state) referred(parent string, ref Reference) (*schemaRecord, error) {
	if sub := s.subjects[inContextOf(parent, ref.Subject)]; sub != nil {
		v := sub.latest()
		if ref.Version != -1 {
			v = sub.version(ref.Version)
		}
		if v != nil {
			return v, nil
		}
	}
	return nil, fmt.Errorf("no schema reference found for subject %q and version %d", clip(ref.Subject, 200), ref.Version)
}

type resolver struct {
	state   *state
	done    map[string]bool
	schemas []*Schema
}

func (r *resolver) add(parent string, references []Reference, depth int) error {
	if depth > 100 {
		return fmt.Errorf("references nest deeper than 100")
	}
	for _, ref := range references {
		name := inContextOf(parent, ref.Subject)
		v, err := r.state.referred(parent, ref)
		if err != nil {
			return err
		}
		if v.typ != TypeAvro {
			return fmt.Errorf("the reference to subject %q is of type %s", clip(ref.Subject, 200), v.typ)
		}
		at := fmt.Sprintf("%s/%d", name, v.version)
		if r.done[at] {
			continue
		}
		r.done[at] = true
		if err := r.add(name, v.references, depth+1); err != nil {
			return err
		}
		schema, err := parseStored(v.text, r.schemas)
		if err != nil {
			return fmt.Errorf("reference to subject %q: %w", clip(ref.Subject, 200), err)
		}
		r.schemas = append(r.schemas, schema)
	}
	return nil
}
