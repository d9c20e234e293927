package source

import "strings"

// syncStandbyMatches reports whether a server with this synchronous_standby_names takes a walsender of this application_name
// for a synchronous standby (a logical one counts). The forms are `name, …`, `N (name, …)`, `FIRST N (name, …)` and
// `ANY N (name, …)`; names are compared without case and * is every name (PostgreSQL documentation, "Replication").
func syncStandbyMatches(names, app string) bool {
	list := names
	if open := indexUnquoted(names, '('); open >= 0 {
		list = names[open+1:]
		if end := indexUnquoted(list, ')'); end >= 0 {
			list = list[:end]
		}
	}
	for list != "" {
		name := list
		if i := indexUnquoted(list, ','); i >= 0 {
			name, list = list[:i], list[i+1:]
		} else {
			list = ""
		}
		name = strings.TrimSpace(name)
		if name == "*" {
			return true
		}
		if len(name) >= 2 && name[0] == '"' && name[len(name)-1] == '"' {
			name = strings.ReplaceAll(name[1:len(name)-1], `""`, `"`)
			if name == "*" {
				return true // SyncRepGetStandbyPriority compares the name only
			}
		}
		if name != "" && strings.EqualFold(name, app) {
			return true
		}
	}
	return false
}

// indexUnquoted is strings.IndexByte outside of double quotes.
func indexUnquoted(s string, c byte) int {
	quoted := false
	for i := range len(s) {
		switch {
		case s[i] == '"':
			quoted = !quoted
		case s[i] == c && !quoted:
			return i
		}
	}
	return -1
}
