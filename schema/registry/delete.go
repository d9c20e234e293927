package registry

import (
	"context"
	"slices"
)

// DeleteVersion deletes one version: softly, so that it is no longer listed and its id still serves; or, after that,
// for good. It returns the number of the version.
func (s *Store) DeleteVersion(ctx context.Context, name, version string, permanent bool) (int, error) {
	name = plainSubject(name)
	var out int
	err := s.write(ctx, func() ([]Record, error) {
		s.mu.RLock()
		defer s.mu.RUnlock()
		v, err := s.state.at(name, version, true)
		if err != nil {
			return nil, err
		}
		out = v.version
		switch {
		case !permanent && v.deleted:
			return nil, errorf(CodeVersionSoftDeleted, "Subject '%s' Version %d was soft deleted.Set permanent=true to delete permanently", name, v.version)
		case s.state.mode(name).readOnly():
			return nil, readOnlyMode(name)
		case len(s.state.referrers(name, v.version, permanent)) > 0:
			return nil, referenced(name, v.version)
		case permanent && !v.deleted:
			return nil, errorf(CodeVersionNotSoftDeleted, "Subject '%s' Version %d was not deleted first before being permanently deleted", name, v.version)
		case !permanent:
			gone := *v
			gone.deleted = true
			return []Record{{recordKey{keytype: keySchema, subject: name, version: v.version}.bytes(), gone.bytes()}}, nil
		}
		return s.state.bury(name, []*schemaRecord{v}), nil
	})
	return out, err
}

func referenced(name string, version int) *Error {
	return errorf(CodeReferenceExists, "One or more references exist to the schema {magic=1,keytype=SCHEMA,subject=%s,version=%d}.", name, version)
}

// bury plans to delete versions for good, newest first. The highest id goes on record with them.
func (s *state) bury(name string, versions []*schemaRecord) []Record {
	records := []Record{s.highID()}
	for _, v := range slices.Backward(versions) {
		records = append(records, Record{recordKey{keytype: keySchema, subject: name, version: v.version}.bytes(), nil})
	}
	if len(versions) == len(s.subjects[name].versions) {
		if _, ok := s.modes[name]; ok {
			records = append(records, Record{recordKey{keytype: keyMode, subject: name}.bytes(), nil})
		}
		if _, ok := s.configs[name]; ok {
			records = append(records, Record{recordKey{keytype: keyConfig, subject: name}.bytes(), nil})
		}
	}
	return records
}

// highID is the record that keeps the ids given so far from being forgotten.
func (s *state) highID() Record {
	ids := map[string]int32{}
	for c, state := range s.contexts {
		ids[c] = state.lastID
	}
	return Record{highIDKey, highIDs(ids)}
}

// DeleteContext takes an empty context from the list. Its ids are not given again. 42211 while it has subjects, deleted
// ones included. It is no error when there is no such context.
func (s *Store) DeleteContext(ctx context.Context, name string) error {
	name = wholeContext(name)
	return s.write(ctx, func() ([]Record, error) {
		s.mu.RLock()
		defer s.mu.RUnlock()
		c := contextOf(name)
		if s.state.names(func(subject string) bool { return contextOf(subject) == c }) != nil {
			return nil, errorf(CodeContextNotEmpty, "The specified context '%s' is not empty.", clip(name, 200))
		}
		if known := s.state.contexts[c]; known == nil || !known.listed {
			return nil, nil
		}
		return []Record{s.state.highID(), {recordKey{keytype: keyContext, context: c}.bytes(), nil}}, nil
	})
}

// DeleteSubject deletes all versions of a subject, softly or, after that, for good, and returns their numbers.
func (s *Store) DeleteSubject(ctx context.Context, name string, permanent bool) ([]int, error) {
	name = plainSubject(name)
	var out []int
	err := s.write(ctx, func() ([]Record, error) {
		s.mu.RLock()
		defer s.mu.RUnlock()
		out = []int{}
		versions := s.state.versions(name, permanent)
		switch {
		case !s.state.has(name, true):
			return nil, subjectNotFound(name)
		case len(versions) == 0:
			return nil, errorf(CodeSubjectSoftDeleted, "Subject '%s' was soft deleted.Set permanent=true to delete permanently", name)
		case s.state.mode(name).readOnly():
			return nil, readOnlyMode(name)
		}
		for _, v := range versions {
			for _, r := range s.state.referrers(name, v.version, permanent) {
				if r.subject != name {
					return nil, referenced(name, v.version)
				}
			}
			if permanent && !v.deleted {
				return nil, errorf(CodeSubjectNotSoftDeleted, "Subject '%s' was not deleted first before being permanently deleted", name)
			}
			out = append(out, v.version)
		}
		if !permanent {
			return []Record{{recordKey{keytype: keyDeleteSubject, subject: name}.bytes(), deleteSubjectValue(name, out[len(out)-1])}}, nil
		}
		return s.state.bury(name, versions), nil
	})
	if err != nil {
		return nil, err
	}
	return out, nil
}
