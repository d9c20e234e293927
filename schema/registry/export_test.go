package registry

import (
	"fmt"
	"reflect"
)

// RouteOf is the line of the API that a request comes to; "" for none.
func RouteOf(method, path string) string {
	segments, err := split(path)
	if err != nil {
		return ""
	}
	if rt, _, _ := find(method, inPath(segments, map[string][]string{})); rt != nil {
		return rt.method + " /" + rt.path
	}
	return ""
}

// Routes are all lines of the API.
func Routes() (list []string) {
	for _, rt := range routes {
		list = append(list, rt.method+" /"+rt.path)
	}
	return list
}

// FlatAsParsed compares the two ways in which a record of a schema is read. read tells whether the fast one has read it.
func FlatAsParsed(key, value []byte) (read bool, err error) {
	if k, ok := flatKey(key); ok {
		read = true
		if want, err := parseAnyKey(key); err != nil || k != want {
			return true, fmt.Errorf("key %q is read as %+v, and is %+v, %v", key, k, want, err)
		}
	}
	if r, ok := flatSchemaRecord(value, "s"); ok {
		read = true
		if want, err := parseSchemaRecord(value); err != nil || !reflect.DeepEqual(r, want) {
			return true, fmt.Errorf("value %q is read as %+v %+v, and is %+v %+v, %v", value, r, r.content, want, want.content, err)
		}
	}
	return read, nil
}
