package registry

import (
	"net/url"
	"slices"
	"strings"
)

// inPath takes a context off the path, where a client has it in its URL ("http://host/contexts/.staging"), and names it
// in what is left, as Confluent's ContextFilter does: before a subject, and in the query of what lists subjects or ids.
func inPath(segments []string, query url.Values) []string {
	if len(segments) < 3 || segments[0] != "contexts" {
		return segments
	}
	context := wholeContext(segments[1])
	rest := slices.Clone(segments[2:])
	qualify := func(subject string) string {
		if strings.HasPrefix(subject, ":.") || strings.HasPrefix(subject, ":*:") {
			return subject
		}
		return context + subject
	}
	switch setting := rest[0] == "config" || rest[0] == "mode"; {
	case setting && len(rest) == 1:
		rest = append(rest, context)
	case setting, rest[0] == "subjects" && len(rest) > 1:
		rest[1] = qualify(rest[1])
	case rest[0] == "compatibility" && len(rest) > 2:
		rest[2] = qualify(rest[2])
	case rest[0] == "schemas" && len(rest) > 1:
		query.Set("subject", qualify(query.Get("subject")))
	case rest[0] == "schemas", rest[0] == "subjects":
		query.Set("subjectPrefix", qualify(query.Get("subjectPrefix")))
	}
	return rest
}

// wholeContext writes a context as it stands before a subject: ".c", ":.c:" and "c" are ":.c:".
func wholeContext(name string) string {
	return ":." + strings.TrimPrefix(strings.TrimSuffix(strings.TrimPrefix(name, ":"), ":"), ".") + ":"
}

// alias puts the subject in place that another one's configuration names as its alias: in the paths of subjects and in
// the parameter of ids, not in those of configurations and modes (AliasFilter.java).
func (s *Store) alias(segments []string, query url.Values) {
	s.mu.RLock()
	defer s.mu.RUnlock()
	follow := func(name string) string {
		plain := plainSubject(name)
		if n := s.state.configs[plain]; n != nil && name != "" {
			if to, _ := n.str("alias"); to != "" {
				return inContextOf(plain, to)
			}
		}
		return name
	}
	for i, segment := range segments {
		if segment == "subjects" && i <= 1 && i+1 < len(segments) {
			segments[i+1] = follow(segments[i+1])
			return
		}
	}
	if len(segments) > 1 && segments[0] == "schemas" && segments[1] == "ids" && query.Has("subject") {
		query.Set("subject", follow(query.Get("subject")))
	}
}
