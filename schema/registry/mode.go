package registry

import (
	"context"
	"slices"
	"strings"
)

// Mode says what may be done to a subject: https://docs.confluent.io/platform/current/schema-registry/develop/api.html#mode.
type Mode string

// The modes. ReadOnlyOverride is an older name that does what ReadOnly does.
const (
	ReadWrite        Mode = "READWRITE"
	ReadOnly         Mode = "READONLY"
	ReadOnlyOverride Mode = "READONLY_OVERRIDE"
	Import           Mode = "IMPORT" // registrations bring their ids, and are not checked against what is there
)

// ParseMode reads a mode in any case.
func ParseMode(text string) (Mode, bool) {
	m := Mode(strings.ToUpper(text))
	return m, slices.Contains([]Mode{ReadWrite, ReadOnly, ReadOnlyOverride, Import}, m)
}

func (m Mode) readOnly() bool { return m == ReadOnly || m == ReadOnlyOverride }

// mode is the one that counts for a subject: its own, its context's, the one of all.
func (s *state) mode(name string) Mode {
	for _, scope := range scopes(name) {
		if m, ok := s.modes[scope]; ok {
			return m
		}
	}
	return ReadWrite
}

// ownMode is the one that was set at exactly this place. The two that stand for all always have one.
func (s *state) ownMode(name string) (Mode, bool) {
	m, ok := s.modes[name]
	if !ok && (name == "" || contextOf(name) == globalContext) {
		return ReadWrite, true
	}
	return m, ok
}

// Mode returns the mode that counts for a subject, and whether it is its own. name "" asks for the one of all.
func (s *Store) Mode(name string) (mode Mode, own bool) {
	name = plainSubject(name)
	s.mu.RLock()
	defer s.mu.RUnlock()
	if mode, own = s.state.ownMode(name); own {
		return mode, true
	}
	return s.state.mode(name), false
}

// SetMode sets the mode of a subject, of a context (":.context:"), or with name "" of the default one; mode "" takes it
// away. Import is refused with 42205 while there are schemas: their ids would not be the ones that are brought.
// Deleted ones are then deleted for good. force sets it all the same and deletes nothing.
func (s *Store) SetMode(ctx context.Context, name string, mode Mode, force bool) error {
	name = plainSubject(name)
	if !validScope(name) {
		return invalidSubject(name)
	}
	return s.write(ctx, func() ([]Record, error) {
		s.mu.RLock()
		defer s.mu.RUnlock()
		var records []Record
		if mode == Import && s.state.mode(name) != Import && !force {
			var err error
			if records, err = s.state.clear(name); err != nil {
				return nil, err
			}
		}
		old, ok := s.state.modes[name]
		switch {
		case mode == "" && ok:
			records = append(records, Record{modeKey(name), nil})
		case mode != "" && (!ok || old != mode):
			records = append(records, modeRecord(name, mode))
		}
		return records, nil
	})
}

func modeRecord(name string, mode Mode) Record {
	n := withSubject(name)
	n.set("mode", &node{kind: stringNode, text: string(mode)})
	return Record{modeKey(name), n.bytes()}
}

func modeKey(name string) []byte { return recordKey{keytype: keyMode, subject: name}.bytes() }

// clear plans to delete for good what was soft deleted in a scope, and refuses where anything is left.
func (s *state) clear(name string) ([]Record, error) {
	var gone []Record
	for _, subject := range s.names(inScope(name)) {
		for _, v := range s.subjects[subject].versions {
			switch {
			case !v.deleted:
				return nil, &Error{CodeNotPermitted, "Cannot import since found existing subjects"}
			case len(s.referrers(subject, v.version, true)) > 0:
				return nil, referenced(subject, v.version)
			}
			gone = append(gone, Record{recordKey{keytype: keySchema, subject: subject, version: v.version}.bytes(), nil})
		}
	}
	if len(gone) == 0 {
		return nil, nil
	}
	return append([]Record{s.highID()}, gone...), nil
}

// inScope matches the subjects that a setting's name stands for: itself, a whole context, or with "" every subject
// (InMemoryCache.matchingSubjectPredicate).
func inScope(name string) func(string) bool {
	return func(subject string) bool {
		c := contextOf(name)
		whole := name == ":"+c+":"
		return name == "" || subject == name || whole && (c == globalContext || contextOf(subject) == c)
	}
}

// DeleteMode takes the mode of a subject or context away and returns it, so that the next wider one counts again;
// recursive also takes those of all subjects in the context. 40401 when there is none.
func (s *Store) DeleteMode(ctx context.Context, name string, recursive bool) (Mode, error) {
	name = plainSubject(name)
	var old Mode
	err := s.write(ctx, func() ([]Record, error) {
		s.mu.RLock()
		defer s.mu.RUnlock()
		var ok bool
		if old, ok = s.state.ownMode(name); !ok && !recursive {
			return nil, subjectNotFound(name)
		}
		var records []Record
		for _, scope := range s.state.modeScopes() {
			if scope == name || recursive && scope != "" && inContext(name, scope) {
				records = append(records, Record{modeKey(scope), nil})
			}
		}
		return records, nil
	})
	return old, err
}

func (s *state) modeScopes() []string {
	list := make([]string, 0, len(s.modes))
	for name := range s.modes {
		list = append(list, name)
	}
	slices.Sort(list)
	return list
}

// inContext tells whether a scope belongs to the context that name stands for as a whole.
func inContext(name, scope string) bool {
	if name == "" {
		return contextOf(scope) == defaultContext
	}
	c := contextOf(name)
	return name == ":"+c+":" && contextOf(scope) == c
}
