package registry

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
