package registry_test

import (
	"bytes"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"net/http/httptest"
	"net/url"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	"walferry/schema/registry"
	"walferry/schema/registry/registrytest"
)

// world is a registry with one of everything, whose writers are asked for a password.
type world struct {
	topic  *registrytest.Topic
	store  *registry.Store
	server *registry.Server
}

func newWorld(t testing.TB, entries []registry.Entry) *world {
	t.Helper()
	w := &world{topic: registrytest.NewTopic()}
	for _, e := range entries {
		w.topic.Write(e.Key, e.Value)
	}
	w.store = registry.NewStore(w.topic.Log(), nil)
	if err := w.store.Open(t.Context()); err != nil {
		t.Fatal(err)
	}
	w.server = registry.NewServer(w.store, registry.ServerConfig{
		MaxBodyBytes: 64 << 10, Closed: true,
		Users: []registry.User{{Name: "w", Password: "p", Role: registry.Writer}, {Name: "r", Token: "t", Role: registry.Reader}},
	})
	return w
}

// sent is a request with its headers.
type sent struct {
	request
	accept, media, login string
}

func (r sent) String() string {
	return fmt.Sprintf("%s %s\nAccept: %q\nContent-Type: %q\nAuthorization: %q\n%q", r.method, clipped(r.path), r.accept, r.media, r.login, clipped(r.body))
}

func clipped(s string) string {
	if len(s) > 2000 {
		return fmt.Sprintf("%s… (%d bytes)", s[:2000], len(s))
	}
	return s
}

// send returns nil for what HTTP itself does not let through to a handler.
func (w *world) send(t testing.TB, r sent) (*httptest.ResponseRecorder, time.Duration) {
	u, err := url.ParseRequestURI(r.path)
	if err != nil || !regexp.MustCompile(`^[A-Za-z]+$`).MatchString(r.method) {
		return nil, 0
	}
	req := &http.Request{Method: r.method, URL: u, RequestURI: r.path, Host: "registry", Proto: "HTTP/1.1", ProtoMajor: 1, ProtoMinor: 1, Header: http.Header{}, Body: io.NopCloser(strings.NewReader(r.body))}
	for k, v := range map[string]string{"Accept": r.accept, "Content-Type": r.media, "Authorization": r.login} {
		if v != "" {
			req.Header.Set(k, v)
		}
	}
	rec := httptest.NewRecorder()
	begin := time.Now()
	w.server.ServeHTTP(rec, req.WithContext(t.Context()))
	return rec, time.Since(begin)
}

// validRequests are more than 200 over all of the API; each is answered with 2xx by a world as it is at first.
func validRequests() (list []sent) {
	add := func(method, path, body string) {
		r := sent{request: request{method, path, body}, accept: "application/vnd.schemaregistry.v1+json", login: "Basic dzpw"}
		if body != "" {
			r.media = "application/vnd.schemaregistry.v1+json"
		}
		if method == "GET" && len(list)%2 == 0 {
			r.login = "Bearer t"
		}
		list = append(list, r)
	}
	const avro, wider = `{"schema":"{\"type\":\"record\",\"name\":\"Order\",\"fields\":[{\"name\":\"id\",\"type\":\"long\"}]}"}`,
		`{"schema":"{\"type\":\"record\",\"name\":\"Order\",\"fields\":[{\"name\":\"id\",\"type\":\"long\"},{\"name\":\"x\",\"type\":[\"null\",{\"type\":\"enum\",\"name\":\"E\",\"symbols\":[\"A\",\"B\"]}],\"default\":null}]}","schemaType":"AVRO"}`
	add("GET", "/", "")
	add("POST", "/", "")
	for _, q := range []string{"", "?deleted=true", "?deletedOnly=true", "?subjectPrefix=orders", "?subjectPrefix=:.staging:", "?subjectPrefix=:*:p", "?offset=1&limit=2", "?limit=0", "?offset=-1&limit=-1"} {
		add("GET", "/subjects"+q, "")
		add("GET", "/schemas"+q, "")
		add("GET", "/contexts"+q, "")
	}
	for _, q := range []string{"?latestOnly=true", "?ruleType=CEL", "?latestOnly=true&deleted=true&subjectPrefix=:*:"} {
		add("GET", "/schemas"+q, "")
	}
	for _, s := range []string{"orders-value", "a%2Fb%20%C3%A9", "zz-money", "price", "person", "proto", ":.staging:s", "half"} {
		for _, v := range []string{"latest", "-1"} {
			add("GET", "/subjects/"+s+"/versions/"+v, "")
			add("GET", "/subjects/"+s+"/versions/"+v+"/schema?format=resolved", "")
			add("GET", "/subjects/"+s+"/versions/"+v+"/referencedby?deleted=true", "")
		}
		for _, q := range []string{"", "?deleted=true", "?deletedAsNegative=true", "?limit=1"} {
			add("GET", "/subjects/"+s+"/versions"+q, "")
		}
		add("GET", "/config/"+s+"?defaultToGlobal=true", "")
		add("GET", "/mode/"+s+"?defaultToGlobal=true", "")
		add("PUT", "/mode/"+s, `{"mode":"READWRITE"}`)
		add("PUT", "/mode/"+s+"?force=true", `{"mode":"IMPORT"}`)
	}
	for _, s := range []string{"a%2Fb%20%C3%A9", "zz-money", "price", "person", "proto", "half", "new", ":.new:s"} {
		add("PUT", "/config/"+s, `{"compatibility":"NONE"}`)
		add("PUT", "/config/"+s, `{"compatibility":"FULL_TRANSITIVE","normalize":true,"alias":"other","defaultMetadata":{"properties":{"a":"b"}}}`)
	}
	for _, s := range []string{"a%2Fb%20%C3%A9", "half", "price", "person", "proto"} {
		add("DELETE", "/subjects/"+s, "")
		add("DELETE", "/subjects/"+s+"/versions/latest", "")
	}
	add("DELETE", "/subjects/gone?permanent=true", "")
	add("DELETE", "/subjects/gone/versions/1?permanent=true", "")
	for _, s := range []string{"new", "orders-key", "x%20y", ":.staging2:s", "contexts", "%E2%82%AC"} {
		add("POST", "/subjects/"+s+"/versions", avro)
		add("POST", "/subjects/"+s+"/versions?normalize=true&force=true", wider)
		add("POST", "/subjects/"+s+"/versions", `{"schemaType":"JSON","schema":"{\"type\":\"object\",\"properties\":{\"a\":{\"type\":\"number\",\"minimum\":1.5}}}"}`)
		add("POST", "/subjects/"+s+"/versions", `{"schemaType":"PROTOBUF","schema":"syntax = \"proto3\"; message A { map<string, int32> m = 1; }"}`)
		add("POST", "/subjects/"+s+"/versions", `{"schema":"\"string\"","metadata":{"tags":{"a":["PII"]},"properties":{"k":"v"},"sensitive":["k"]},"ruleSet":{"domainRules":[{"name":"n","type":"CEL"}]}}`)
		add("POST", "/compatibility/subjects/"+s+"/versions/latest", avro)
		add("POST", "/compatibility/subjects/"+s+"/versions", wider)
		add("GET", "/config/"+s+"?defaultToGlobal=true", "")
	}
	for _, s := range []string{"price", "half", "person", "a%2Fb%20%C3%A9"} {
		for _, schema := range []string{`\"int\"`, `\"bytes\"`, `{\"type\":\"enum\",\"name\":\"E\",\"symbols\":[\"Z\"]}`} {
			add("POST", "/subjects/"+s+"/versions?force=true", `{"schema":"`+schema+`"}`)
		}
	}
	add("POST", "/subjects/new/versions", `{"schema":"{\"type\":\"record\",\"name\":\"Price\",\"fields\":[{\"name\":\"net\",\"type\":\"Money\"}]}","references":[{"name":"Money","subject":"zz-money","version":1}]}`)
	for i := range 5 {
		add("POST", "/subjects/import/versions", fmt.Sprintf(`{"schema":"{\"type\":\"fixed\",\"name\":\"F\",\"size\":%d}","id":%d,"version":%d}`, i+1, 900+i, i+1))
	}
	for _, q := range []string{"", "?deleted=true", "?normalize=true"} {
		add("POST", "/subjects/orders-value"+q, avro)
		add("POST", "/subjects/a%2Fb%20%C3%A9"+q, avro)
	}
	add("POST", "/compatibility/subjects/orders-value/versions/1?verbose=true", wider)
	add("POST", "/compatibility/subjects/orders-value/versions?verbose=true&normalize=true", avro)
	add("POST", "/compatibility/subjects/orders-value/versions/latest?verbose=true", `{"schema":"nonsense"}`)
	add("GET", "/subjects/price/metadata?key=a&value=2", "")
	for id := 1; id <= 6; id++ {
		for _, tail := range []string{"", "?fetchMaxId=true&subject=orders-value", "/schema", "/subjects?deleted=true", "/versions?limit=1"} {
			add("GET", fmt.Sprintf("/schemas/ids/%d%s", id, tail), "")
		}
	}
	add("GET", "/schemas/types", "")
	add("GET", "/schemas/guids/b040db4b-fdae-23ea-4a07-95f3973b98c8", "")
	add("GET", "/schemas/guids/b040db4b-fdae-23ea-4a07-95f3973b98c8/ids", "")
	for _, what := range []string{"config", "mode"} {
		add("GET", "/"+what, "")
		add("DELETE", "/"+what, "")
		add("GET", "/"+what+"/orders-value", "")
		add("GET", "/contexts/.staging/"+what, "")
	}
	add("DELETE", "/mode/:.staging:?recursive=true", "")
	add("DELETE", "/config/price", "")
	for _, m := range []string{"READWRITE", "readonly", "READONLY_OVERRIDE"} {
		add("PUT", "/mode", `{"mode":"`+m+`"}`)
		add("PUT", "/mode/:.staging:", `{"mode":"`+m+`"}`)
		add("PUT", "/contexts/.staging/mode/s", `{"mode":"`+m+`"}`)
	}
	add("PUT", "/mode?force=true", `{"mode":"IMPORT"}`)
	add("PUT", "/config", `{"compatibility":"FORWARD"}`)
	add("GET", "/contexts/.staging/subjects", "")
	add("GET", "/contexts/.staging/subjects/s/versions/latest", "")
	add("POST", "/contexts/.other/subjects/s/versions", avro)
	add("DELETE", "/contexts/.other", "")
	add("GET", "/v1/metadata/id", "")
	add("GET", "/v1/metadata/version", "")
	return list
}

var (
	nastyNames = []string{
		"", ".", "..", "*", "%00", "%0A", "%2F", "%ff%fe", "%C3", "-1", "-2", "0", "1", "7", "2147483647", "2147483648", "99999999999999999999", "latest", "LATEST", "last", "1.5", "1e3", "%201", "+1", "0x1",
		"__GLOBAL", "__EMPTY", ":", "::", ":.", ":.:", ":.c", ":.c:", ":.c:s", ":.__GLOBAL:", ":.__GLOBAL:s", ":*:", ":*:s", "%F0%9F%98%80", "null", "%7B%7D", "subjects", "versions", "contexts", "orders-value", "zz-money", "price", "half", "gone", "nobody", strings.Repeat("a", 5000),
	}
	nastyValues  = append(append(slices.Repeat([]string{"true"}, 20), "false", "TRUE", "yes", "resolved", "serialized"), nastyNames...)
	nastyParams  = []string{"deleted", "permanent", "offset", "limit", "subject", "subjectPrefix", "format", "normalize", "force", "verbose", "recursive", "defaultToGlobal", "key", "value", "fetchMaxId", "a;b", "%"}
	nastyMethods = []string{"GET", "POST", "PUT", "DELETE", "HEAD", "PATCH", "OPTIONS", "TRACE", "get", "BREW"}
	nastyMedia   = []string{"", "application/json", "application/vnd.schemaregistry+json", "text/html", "*/*", "*/*;q=0", "application/*", ";", "application/json; charset=\"", "application/xml", "a/b/c", "application/octet-stream", strings.Repeat("x/y,", 500)}
	nastyLogins  = []string{"", "Basic", "Basic !", "Basic dzpw", "Basic dzpx", "Basic Og==", "Bearer t", "Bearer", "Bearer w", "Digest x", strings.Repeat("A", 10_000)}
	nastyJSON    = []string{
		"", " ", "null", "true", "0", "-1", "1e400", "2147483648", "1.5", `""`, `"x"`, `"\u0000"`, `"\ud800"`, "[]", "{}", `[null]`, `{"":null}`, `"AVRO"`, `"JSON"`, `"PROTOBUF"`, `"{}"`, `"\"string\""`, "nonsense", "{", "]", "\x00", "\xff",
		strings.Repeat("[", 2000), strings.Repeat(`{"a":`, 2000), `"` + strings.Repeat("x", 70_000) + `"`, `"` + strings.Repeat(`[`, 5000) + `"`,
	}
	jsonToken = regexp.MustCompile(`"(?:[^"\\]|\\.)*"|-?[0-9.]+|true|false|null|[{}\[\],:]`)
)

// fixed are the words of the API's paths.
var fixed = func() map[string]bool {
	words := map[string]bool{}
	for _, route := range registry.Routes() {
		for word := range strings.SplitSeq(route, "/") {
			words[word] = word != "*"
		}
	}
	return words
}()

// mutate makes one to three changes, seldom to what HTTP itself is about: that is refused before anything else is read.
// other is another valid request, whose body or path may come instead.
func mutate(rng *rand.Rand, r, other sent) sent {
	pick := func(list []string) string { return list[rng.IntN(len(list))] }
	for range 1 + max(0, rng.IntN(5)-2) {
		path, query, _ := strings.Cut(r.path, "?")
		segments := strings.Split(path, "/")
		at := 1 + rng.IntN(len(segments)-1)
		for try := 0; try < 3 && fixed[segments[at]]; try++ { // what stands in the path for good is changed less often
			at = 1 + rng.IntN(len(segments)-1)
		}
		switch kind := rng.IntN(20); {
		case kind == 0:
			switch rng.IntN(4) {
			case 0:
				r.method = pick(nastyMethods)
			case 1:
				r.accept = pick(nastyMedia)
			case 2:
				r.media = pick(nastyMedia)
			default:
				r.login = pick(nastyLogins)
			}
		case kind == 1 || kind == 8:
			segments[at] = pick(nastyNames)
		case kind == 2:
			if rng.IntN(2) == 0 {
				segments = slices.Delete(segments, at, at+1)
			} else {
				segments = slices.Insert(segments, at, pick(nastyNames))
			}
		case kind == 3 && query != "":
			query = ""
		case kind == 4:
			segments[at] = scramble(rng, segments[at])
		case kind == 5 || kind == 6:
			query += "&" + pick(nastyParams) + "=" + pick(nastyValues)
		case kind == 7 && query != "":
			query = scramble(rng, query)
		case kind == 7 || kind == 9:
			r.body, r.media = other.body, other.media
		case kind == 10:
			r.method, r.path = other.method, other.path
			segments, query = strings.Split(r.path, "/"), ""
		case kind == 11 && r.body == "":
			r.body = pick(nastyJSON)
		case r.body == "":
			segments[at] = pick(nastyNames)
		case kind <= 16:
			tokens := jsonToken.FindAllStringIndex(r.body, -1)
			if len(tokens) > 0 {
				t := tokens[rng.IntN(len(tokens))]
				r.body = r.body[:t[0]] + pick(nastyJSON) + r.body[t[1]:]
			}
		default:
			r.body = scramble(rng, r.body)
		}
		r.path = strings.Join(segments, "/")
		if !strings.HasPrefix(r.path, "/") {
			r.path = "/" + r.path
		}
		if query != "" {
			r.path += "?" + strings.TrimPrefix(query, "&")
		}
	}
	return r
}

// scramble changes, takes away, repeats or inserts bytes.
func scramble(rng *rand.Rand, s string) string {
	if s == "" {
		return string(rune(rng.IntN(256)))
	}
	b := []byte(s)
	i := rng.IntN(len(b))
	j := i + rng.IntN(min(len(b)-i, 20)+1)
	switch rng.IntN(5) {
	case 0:
		b[i] ^= byte(1 << rng.IntN(8))
	case 1:
		b = slices.Delete(b, i, j)
	case 2:
		b = slices.Insert(b, i, b[i:j]...)
	case 3:
		b = slices.Insert(b, i, byte(rng.IntN(256)))
	default:
		b = b[:i]
	}
	return string(b)
}

// TestBadRequests changes valid requests until 100,000 of them are refused (fewer under the race detector). Each is
// refused within a second, in the documented form, with a documented code, and leaves nothing behind: neither in the
// topic nor in what walferry registry export writes. What is still valid and changes something does not count; the
// registry is set back to what it was then.
func TestBadRequests(t *testing.T) {
	first := newWorld(t, nil)
	for _, r := range strings.Split(strings.TrimSpace(everything), "\n") {
		method, rest, _ := strings.Cut(r, " ")
		path, body, _ := strings.Cut(rest, " ")
		rec, _ := first.send(t, sent{request: request{method, path, body}, login: "Basic dzpw"})
		if rec == nil || rec.Code != 200 {
			t.Fatalf("%s: %v", r, rec)
		}
	}
	if err := first.store.SetMode(t.Context(), "import", registry.Import, false); err != nil {
		t.Fatal(err)
	}
	entries := first.topic.Entries()
	export := text(t, first.store.Dump())
	again := func() *world { return newWorld(t, entries) }
	if got := text(t, again().store.Dump()); got != export {
		t.Fatalf("the same topic gives\n%s\nnot\n%s", got, export)
	}

	valid := validRequests()
	missing := registry.Routes()
	seen := map[string]bool{}
	for _, r := range valid {
		rec, _ := again().send(t, r)
		if rec == nil || rec.Code >= 300 {
			t.Fatalf("%s\nis not valid: %v", r, rec)
		}
		path, _, _ := strings.Cut(r.path, "?")
		missing = slices.DeleteFunc(missing, func(route string) bool { return route == registry.RouteOf(r.method, path) })
		seen[r.method+r.path+r.body] = true
	}
	if len(seen) < 200 || len(missing) > 0 {
		t.Fatalf("%d different valid requests; none for %v", len(seen), missing)
	}

	const seed = 1
	w := again()
	at := len(w.topic.Entries())
	codes := map[int]int{}
	bad, good, rebuilt, slowest := 0, 0, 0, time.Duration(0)
	for i := uint64(0); bad < badRequests; i++ {
		r := changed(seed, i, valid)
		rec, took := w.send(t, r)
		if rec == nil {
			continue
		}
		fail := func(format string, args ...any) {
			t.Helper()
			t.Fatalf("request %d: %s\n%s\n%d %s", i, fmt.Sprintf(format, args...), r, rec.Code, clipped(rec.Body.String()))
		}
		if problem := wrongAnswer(rec); problem != "" {
			fail("%s", problem)
		}
		if !utf8.Valid(rec.Body.Bytes()) {
			fail("not UTF-8")
		}
		after := len(w.topic.Entries())
		if rec.Code < 300 {
			good++
			if after != at {
				// What stands in memory is what stands in the topic: nothing of the refused ones is in it either. Seldom,
				// since it costs more than all the rest.
				if rebuilt%20 == 0 {
					if a, b := text(t, w.store.Dump()), text(t, newWorld(t, w.topic.Entries()).store.Dump()); a != b {
						fail("in memory\n%s\nin the topic\n%s", a, b)
					}
				}
				w = again()
				at = len(w.topic.Entries())
				rebuilt++
			}
			continue
		}
		for range 3 { // a machine that is busy with something else
			if took < time.Second {
				break
			}
			_, took = w.send(t, r)
		}
		if slowest = max(slowest, took); took >= time.Second {
			fail("took %s", took)
		}
		if after != at {
			fail("was refused and wrote %d records", after-at)
		}
		bad++
		codes[errorCode(rec.Body.Bytes())]++
		if bad%1000 == 0 {
			if got := text(t, w.store.Dump()); got != export {
				fail("the export is\n%s\nand was\n%s", got, export)
			}
		}
	}
	if got := text(t, newWorld(t, w.topic.Entries()).store.Dump()); got != export {
		t.Fatalf("the export is\n%s\nand was\n%s", got, export)
	}
	t.Logf("%d valid requests, %d refused, %d still valid (%d of them set back), slowest refusal %s, by code: %v", len(seen), bad, good, rebuilt, slowest, codes)
	if bad >= 100_000 {
		for code := range knownCodes {
			// Nobody is refused with 403 alone, and a topic in memory takes records of any size.
			if codes[code] == 0 && code != 403 && code != registry.CodeSchemaTooLarge {
				t.Errorf("no request was refused with %d", code)
			}
		}
	}
}

// changed is the i-th request.
func changed(seed, i uint64, valid []sent) sent {
	rng := rand.New(rand.NewPCG(seed, i))
	return mutate(rng, valid[i%uint64(len(valid))], valid[rng.IntN(len(valid))])
}

func errorCode(body []byte) (code int) {
	if m := regexp.MustCompile(`"error_code":(\d+)`).FindSubmatch(body); m != nil {
		_, _ = fmt.Fscan(bytes.NewReader(m[1]), &code)
	}
	return code
}
