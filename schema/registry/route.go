package registry

import (
	"errors"
	"net/http"
	"net/url"
	"strings"
)

// route is one line of the API. Segments "*" are variable.
type route struct {
	method string
	path   string
	write  bool
	fn     func(*call) (any, error)
}

var routes = []route{
	{"GET", "", false, func(*call) (any, error) { return object{}, nil }},
	{"POST", "", false, func(*call) (any, error) { return object{}, nil }},
	{"GET", "subjects", false, (*call).listSubjects},
	{"POST", "subjects/*", false, (*call).lookup},
	{"DELETE", "subjects/*", true, (*call).deleteSubject},
	{"GET", "subjects/*/metadata", false, (*call).latestWithMetadata},
	{"GET", "subjects/*/versions", false, (*call).listVersions},
	{"POST", "subjects/*/versions", true, (*call).register},
	{"GET", "subjects/*/versions/*", false, (*call).version},
	{"DELETE", "subjects/*/versions/*", true, (*call).deleteVersion},
	{"GET", "subjects/*/versions/*/schema", false, (*call).versionText},
	{"GET", "subjects/*/versions/*/referencedby", false, (*call).referencedBy},
	{"GET", "schemas", false, (*call).listSchemas},
	{"GET", "schemas/types", false, func(*call) (any, error) { return []any{TypeJSON, TypeProtobuf, TypeAvro}, nil }},
	{"GET", "schemas/ids/*", false, (*call).schemaByID},
	{"GET", "schemas/ids/*/schema", false, (*call).textByID},
	{"GET", "schemas/ids/*/subjects", false, (*call).subjectsOfID},
	{"GET", "schemas/ids/*/versions", false, (*call).versionsOfID},
	{"GET", "schemas/guids/*", false, (*call).schemaByGUID},
	{"GET", "schemas/guids/*/ids", false, (*call).idsOfGUID},
	{"POST", "compatibility/subjects/*/versions", false, (*call).compatibility},
	{"POST", "compatibility/subjects/*/versions/*", false, (*call).compatibility},
	{"GET", "config", false, (*call).config},
	{"PUT", "config", true, (*call).setConfig},
	{"DELETE", "config", true, (*call).deleteConfig},
	{"GET", "config/*", false, (*call).config},
	{"PUT", "config/*", true, (*call).setConfig},
	{"DELETE", "config/*", true, (*call).deleteConfig},
	{"GET", "mode", false, (*call).mode},
	{"PUT", "mode", true, (*call).setMode},
	{"DELETE", "mode", true, (*call).deleteMode},
	{"GET", "mode/*", false, (*call).mode},
	{"PUT", "mode/*", true, (*call).setMode},
	{"DELETE", "mode/*", true, (*call).deleteMode},
	{"GET", "contexts", false, (*call).contexts},
	{"DELETE", "contexts/*", true, (*call).deleteContext},
	{"GET", "v1/metadata/id", false, (*call).clusterID},
	{"GET", "v1/metadata/version", false, (*call).serverVersion},
}

// split takes a path apart before it decodes it: a subject may hold an escaped slash.
func split(path string) ([]string, error) {
	path = strings.Trim(path, "/")
	if path == "" {
		return nil, nil
	}
	segments := strings.Split(path, "/")
	for i, s := range segments {
		var err error
		if segments[i], err = url.PathUnescape(s); err != nil {
			return nil, errors.New("the path cannot be read")
		}
	}
	return segments, nil
}

// find returns the route and its arguments; known says that the path exists with another method.
func find(method string, segments []string) (rt *route, args []string, known bool) {
	if method == http.MethodHead {
		method = http.MethodGet
	}
	for i := range routes {
		var pattern []string
		if routes[i].path != "" {
			pattern = strings.Split(routes[i].path, "/")
		}
		if len(pattern) != len(segments) {
			continue
		}
		var got []string
		match := true
		for k, p := range pattern {
			switch {
			case p == "*":
				got = append(got, segments[k])
			case p != segments[k]:
				match = false
			}
		}
		if !match {
			continue
		}
		known = true
		if routes[i].method == method {
			return &routes[i], got, true
		}
	}
	return nil, nil, known
}
