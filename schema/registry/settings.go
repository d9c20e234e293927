package registry

import (
	"context"
	"slices"
)

// Level returns the compatibility level that counts for a subject, and whether it is the subject's own. name "" asks
// for the one of all subjects.
func (s *Store) Level(name string) (level Level, own bool) {
	name = plainSubject(name)
	s.mu.RLock()
	defer s.mu.RUnlock()
	_, own = s.state.configs[name]
	return s.state.level(name), own
}

// SetLevel sets the compatibility level of a subject, or with name "" that of all which have none of their own.
func (s *Store) SetLevel(ctx context.Context, name string, level Level) error {
	if l, ok := ParseLevel(string(level)); !ok || l != level {
		return invalidLevel()
	}
	_, err := s.setConfig(ctx, name, []prop{{"compatibilityLevel", &node{kind: stringNode, text: string(level)}}})
	return err
}

// config returns the configuration record of a subject; inScope asks for the one that counts.
func (s *Store) config(name string, inScope bool) (n *node, ok bool) {
	s.mu.RLock()
	defer s.mu.RUnlock()
	return s.state.config(plainSubject(name), inScope)
}

func (s *state) config(name string, inScope bool) (n *node, ok bool) {
	n = s.configs[name]
	if n == nil && inScope {
		for _, scope := range scopes(name) {
			if n = s.configs[scope]; n != nil {
				break
			}
		}
	}
	ok = n != nil || inScope || name == ""
	out := &node{kind: objectNode}
	if n != nil {
		for i, k := range n.keys {
			if k != "subject" {
				out.set(k, n.list[i])
			}
		}
	}
	if text, has := out.str("compatibilityLevel"); !has || text == "" {
		out.set("compatibilityLevel", &node{kind: stringNode, text: string(Backward)})
	}
	return out, ok
}

// setConfig changes members of a configuration; a null value takes the member away.
func (s *Store) setConfig(ctx context.Context, name string, changes []prop) (*node, error) {
	name = plainSubject(name)
	if !validScope(name) {
		return nil, invalidSubject(name)
	}
	var out *node
	err := s.write(ctx, func() ([]Record, error) {
		s.mu.RLock()
		defer s.mu.RUnlock()
		if s.state.mode(name).readOnly() {
			return nil, readOnlyMode(name)
		}
		out = withSubject(name)
		put := func(k string, v *node) {
			if v.kind != nullNode && k != "subject" {
				out.set(k, v)
			}
		}
		old := s.state.configs[name]
		if old != nil {
			for i, k := range old.keys {
				if !slices.ContainsFunc(changes, func(p prop) bool { return p.key == k }) {
					put(k, old.list[i])
				}
			}
		}
		for _, p := range changes {
			put(p.key, p.value)
		}
		if old != nil && string(sortedNode(old).bytes()) == string(sortedNode(out).bytes()) {
			return nil, nil
		}
		return []Record{{recordKey{keytype: keyConfig, subject: name}.bytes(), out.bytes()}}, nil
	})
	return out, err
}

// DeleteLevel takes the configuration of a subject away, so that the one of all counts again; with name "" that one.
// 40401 when the subject has none.
func (s *Store) DeleteLevel(ctx context.Context, name string) error {
	_, err := s.deleteConfig(ctx, name)
	return err
}

// deleteConfig is DeleteLevel, and returns what there was.
func (s *Store) deleteConfig(ctx context.Context, name string) (old *node, err error) {
	name = plainSubject(name)
	err = s.write(ctx, func() ([]Record, error) {
		s.mu.RLock()
		defer s.mu.RUnlock()
		var ok bool
		if old, ok = s.state.config(name, false); !ok {
			return nil, subjectNotFound(name)
		}
		if s.state.mode(name).readOnly() {
			return nil, readOnlyMode(name)
		}
		if _, ok := s.state.configs[name]; !ok {
			return nil, nil
		}
		return []Record{{recordKey{keytype: keyConfig, subject: name}.bytes(), nil}}, nil
	})
	return old, err
}
