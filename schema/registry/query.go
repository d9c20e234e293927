package registry

import (
	"crypto/md5"
	"encoding/hex"
	"iter"
	"maps"
	"slices"
	"strconv"
	"strings"
)

// parseVersion reads a version as clients write it: -1 is the latest.
func parseVersion(text string) (int, error) {
	text = strings.TrimSpace(text)
	if strings.EqualFold(text, "latest") {
		return -1, nil
	}
	n, err := strconv.ParseInt(text, 10, 32)
	if err != nil || n != -1 && n < 1 {
		return 0, invalidVersion(text)
	}
	return int(n), nil
}

// at finds a version. "latest" is the newest that is not deleted.
func (s *state) at(name, version string, deleted bool) (*schemaRecord, error) {
	n, err := parseVersion(version)
	if err != nil {
		return nil, err
	}
	if sub := s.subjects[name]; sub != nil {
		v := sub.latest()
		if n != -1 {
			v = sub.version(n)
		}
		if v != nil && (deleted || !v.deleted) {
			return v, nil
		}
	}
	if !s.has(name, deleted) {
		return nil, subjectNotFound(name)
	}
	return nil, versionNotFound(n)
}

// Version returns one version of a subject; version is a number, "latest" or "-1".
func (s *Store) Version(name, version string, deleted bool) (Registered, error) {
	s.mu.RLock()
	defer s.mu.RUnlock()
	v, err := s.state.at(plainSubject(name), version, deleted)
	if err != nil {
		return Registered{}, err
	}
	return registered(v), nil
}

// Versions lists all versions of a subject, ascending, deleted ones included; nothing for an unknown subject.
func (s *Store) Versions(name string) []Registered {
	s.mu.RLock()
	defer s.mu.RUnlock()
	var list []Registered
	for _, v := range s.state.versions(plainSubject(name), true) {
		list = append(list, registered(v))
	}
	return list
}

// Schemas lists all versions of all subjects with a prefix, in order of subject and version, deleted ones included.
func (s *Store) Schemas(prefix string) []Registered {
	s.mu.RLock()
	defer s.mu.RUnlock()
	var list []Registered
	for _, name := range s.state.names(matchPrefix(prefix)) {
		for _, v := range s.state.versions(name, true) {
			list = append(list, registered(v))
		}
	}
	return list
}

// Subject is a subject's name and whether all or some of its versions are deleted.
type Subject struct {
	Name string
	// Live and Deleted count versions.
	Live, Deleted int
}

// Subjects lists subjects by name.
func (s *Store) Subjects(prefix string) []Subject {
	s.mu.RLock()
	defer s.mu.RUnlock()
	var list []Subject
	for _, name := range s.state.names(matchPrefix(prefix)) {
		sub := Subject{Name: name}
		for _, v := range s.state.subjects[name].versions {
			if v.deleted {
				sub.Deleted++
			} else {
				sub.Live++
			}
		}
		list = append(list, sub)
	}
	return list
}

// ByID returns the schema of an id and one place of it, in name if it is there. Only the context of name counts;
// "" is the default context.
func (s *Store) ByID(id int32, name string) (Registered, error) {
	name = plainSubject(name)
	s.mu.RLock()
	defer s.mu.RUnlock()
	entry := s.state.entry(id, name)
	if entry == nil {
		return Registered{}, idNotFound(id)
	}
	return s.state.place(entry, name), nil
}

func (s *state) entry(id int32, name string) *idEntry {
	if c := s.contexts[contextOf(name)]; c != nil {
		return c.ids[id]
	}
	return nil
}

func (s *state) place(entry *idEntry, name string) Registered {
	version := entry.versions.at(name)
	if version == 0 {
		name, version = entry.versions[0].subject, entry.versions[0].version
	}
	return registered(s.subjects[name].version(version))
}

// ByGUID returns the schema with this identity, of the first context that has it.
func (s *Store) ByGUID(guid string) (Registered, error) {
	s.mu.RLock()
	defer s.mu.RUnlock()
	for _, entry := range s.state.withGUID(guid) {
		return s.state.place(entry, ""), nil
	}
	return Registered{}, guidNotFound(guid)
}

// IDsOfGUID lists the ids of the schema with this identity, by the contexts that have it.
func (s *Store) IDsOfGUID(guid string) (contexts []string, ids []int32) {
	s.mu.RLock()
	defer s.mu.RUnlock()
	for context, entry := range s.state.withGUID(guid) {
		contexts, ids = append(contexts, context), append(ids, entry.id)
	}
	return contexts, ids
}

// withGUID goes through the contexts that have a schema, in order.
func (s *state) withGUID(guid string) iter.Seq2[string, *idEntry] {
	return func(yield func(string, *idEntry) bool) {
		b, err := hex.DecodeString(strings.ReplaceAll(guid, "-", ""))
		if err != nil || len(b) != md5.Size {
			return
		}
		for _, context := range slices.Sorted(maps.Keys(s.contexts)) {
			c := s.contexts[context]
			if id, ok := c.bySum[[md5.Size]byte(b)]; ok && c.ids[id] != nil && !yield(context, c.ids[id]) {
				return
			}
		}
	}
}

// Places lists where an id is registered, one version per subject, by subject.
func (s *Store) Places(id int32, name string, deleted bool) ([]Registered, error) {
	name = plainSubject(name)
	s.mu.RLock()
	defer s.mu.RUnlock()
	entry := s.state.entry(id, name)
	if entry == nil {
		return nil, schemaNotFound()
	}
	list := []Registered{}
	for _, p := range entry.versions {
		if r := s.state.place(entry, p.subject); deleted || !r.Deleted {
			list = append(list, r)
		}
	}
	return list, nil
}

// MaxID is the highest id ever given in the context of name.
func (s *Store) MaxID(name string) int32 {
	s.mu.RLock()
	defer s.mu.RUnlock()
	if c := s.state.contexts[contextOf(plainSubject(name))]; c != nil {
		return c.lastID
	}
	return 0
}

// Contexts lists the contexts, the default one always.
func (s *Store) Contexts() []string {
	s.mu.RLock()
	defer s.mu.RUnlock()
	list := []string{defaultContext}
	for name := range s.state.contexts {
		if name != defaultContext && s.state.listed(name) {
			list = append(list, name)
		}
	}
	slices.Sort(list)
	return list
}

func (s *state) listed(context string) bool {
	c := s.contexts[context]
	return c != nil && c.listed
}

// Referrers lists the ids of schemas that refer to a version.
func (s *Store) Referrers(name, version string, deleted bool) ([]int32, error) {
	name = plainSubject(name)
	s.mu.RLock()
	defer s.mu.RUnlock()
	v, err := s.state.at(name, version, true)
	if err != nil {
		return nil, err
	}
	ids := []int32{}
	for _, r := range s.state.referrers(name, v.version, deleted) {
		ids = append(ids, r.id)
	}
	return slices.Compact(ids), nil
}

// Stats are figures for metrics and status.
type Stats struct {
	Subjects, Schemas, Versions int
	Skipped, Conflicts          int // records of the log that were left alone
}

// Stats counts.
func (s *Store) Stats() Stats {
	s.mu.RLock()
	defer s.mu.RUnlock()
	st := Stats{Subjects: len(s.state.subjects), Skipped: s.state.skipped, Conflicts: s.state.conflict}
	for _, sub := range s.state.subjects {
		st.Versions += len(sub.versions)
	}
	for _, c := range s.state.contexts {
		st.Schemas += len(c.ids)
	}
	return st
}
