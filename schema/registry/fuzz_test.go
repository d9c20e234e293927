package registry_test

import (
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"walferry/schema/registry"
	"walferry/schema/registry/registrytest"
)

// request is a request as the transcripts have it.
type request struct{ method, path, body string }

// requests are those of all transcripts, the refused ones included.
func requests(t testing.TB) (list []request) {
	files, err := filepath.Glob("testdata/api/*.txt")
	if err != nil || len(files) == 0 {
		t.Fatal("no transcripts", err)
	}
	for _, file := range files {
		text, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		for line := range strings.Lines(string(text)) {
			method, rest, ok := strings.Cut(strings.TrimRight(line, "\n"), " ")
			if ok && (method == "GET" || method == "POST" || method == "PUT" || method == "DELETE") {
				path, body, _ := strings.Cut(rest, " ")
				list = append(list, request{method, path, body})
			}
		}
	}
	return list
}

// FuzzServer: whatever is sent, the answer is of the documented shape, is no 500, a refused request changes nothing, and
// an accepted one is there after a restart.
func FuzzServer(f *testing.F) {
	for _, r := range requests(f) {
		f.Add(r.method, r.path, r.body)
	}
	f.Fuzz(fuzzOne)
}

// Each body has a target of its own: a mutation that leaves the path alone reaches deeper.

func FuzzRegisterBody(f *testing.F) {
	fuzzBody(f, "POST", "/subjects/s/versions", func(r request) bool {
		return strings.Contains(r.path, "/versions") && strings.HasPrefix(r.path, "/subjects")
	})
}

func FuzzImportBody(f *testing.F) {
	fuzzBody(f, "POST", "/subjects/import/versions", func(r request) bool { return strings.Contains(r.body, `"id"`) })
}

func FuzzLookupBody(f *testing.F) {
	fuzzBody(f, "POST", "/subjects/s", func(r request) bool { return strings.HasPrefix(r.path, "/subjects") })
}

func FuzzCompatibilityBody(f *testing.F) {
	fuzzBody(f, "POST", "/compatibility/subjects/s/versions/latest?verbose=true", func(r request) bool { return strings.HasPrefix(r.path, "/compatibility") })
}

func FuzzConfigBody(f *testing.F) {
	fuzzBody(f, "PUT", "/config/s", func(r request) bool { return strings.HasPrefix(r.path, "/config") })
}

func FuzzModeBody(f *testing.F) {
	fuzzBody(f, "PUT", "/mode/s?force=true", func(r request) bool { return strings.HasPrefix(r.path, "/mode") })
}

func fuzzBody(f *testing.F, method, path string, seed func(request) bool) {
	n := 0
	for _, r := range requests(f) {
		if r.body != "" && seed(r) {
			f.Add(r.body)
			n++
		}
	}
	if n == 0 {
		f.Fatal("no transcript has such a body")
	}
	f.Fuzz(func(t *testing.T, body string) { fuzzOne(t, method, path, body) })
}

func fuzzOne(t *testing.T, method, path, body string) {
	topic := registrytest.NewTopic()
	store := registry.NewStore(topic.Log(), nil)
	if _, err := store.Register(t.Context(), "s", registry.Request{Schema: record("a")}); err != nil {
		t.Fatal(err)
	}
	if err := store.SetMode(t.Context(), "import", registry.Import, false); err != nil {
		t.Fatal(err)
	}
	before := len(topic.Entries())
	if !strings.HasPrefix(path, "/") {
		path = "/" + path
	}
	req, err := http.NewRequestWithContext(t.Context(), method, "http://registry"+path, strings.NewReader(body))
	if err != nil {
		t.Skip() // no request that a server could get
	}
	req.RequestURI = path
	w := httptest.NewRecorder()
	registry.NewServer(store, registry.ServerConfig{}).ServeHTTP(w, req)
	if problem := wrongAnswer(w); problem != "" {
		t.Fatalf("%s %s %s: %d %s: %s", method, path, body, w.Code, w.Body, problem)
	}
	// The text of a schema by itself is no JSON where it is Protobuf.
	if w.Code == http.StatusOK && !strings.Contains(path, "/schema") && !json.Valid(w.Body.Bytes()) {
		t.Fatalf("%s %s %s: not JSON: %s", method, path, body, w.Body)
	}
	if after := len(topic.Entries()); w.Code >= 300 && after != before {
		t.Fatalf("%s %s %s was refused with %s and wrote %d records", method, path, body, w.Body, after-before)
	}
	checkHistory(t, topic)
	// What was accepted survives a restart.
	again := registry.NewStore(topic.Log(), nil)
	if err := again.Open(t.Context()); err != nil {
		t.Fatal(err)
	}
	if a, b := text(t, store.Dump()), text(t, again.Dump()); a != b {
		t.Fatalf("after a restart\n%s\nis\n%s", a, b)
	}
}

// wrongAnswer says what is wrong with an answer: it is a 5xx, or not of the documented shape.
func wrongAnswer(w *httptest.ResponseRecorder) string {
	if w.Code >= 500 {
		return "a failure of the server"
	}
	if w.Code >= 300 {
		var e struct {
			Code    int    `json:"error_code"`
			Message string `json:"message"`
		}
		if err := json.Unmarshal(w.Body.Bytes(), &e); err != nil || e.Message == "" || e.Code != w.Code && e.Code/100 != w.Code {
			return "no error of the documented shape"
		}
		if !knownCodes[e.Code] {
			return "no documented code"
		}
	}
	if media := w.Header().Get("Content-Type"); w.Code != http.StatusNoContent && !strings.HasPrefix(media, "application/") {
		return "content type " + media
	}
	return ""
}

// knownCodes are the documented ones below 500, and 40301, which is ours.
var knownCodes = map[int]bool{
	400: true, 401: true, 403: true, 404: true, 405: true, 406: true, 413: true, 415: true, 422: true,
	40301: true, 40401: true, 40402: true, 40403: true, 40404: true, 40405: true, 40406: true, 40407: true, 40408: true, 40409: true, 40901: true,
	42201: true, 42202: true, 42203: true, 42204: true, 42205: true, 42206: true, 42208: true, 42209: true, 42211: true,
}

// FuzzFlat: what the fast reader of records reads is what the other one reads.
func FuzzFlat(f *testing.F) {
	for _, value := range []string{
		`{"subject":"s","version":1,"id":7,"schema":"\"int\"","deleted":false}`,
		`{"subject":"é\/\b","version":2147483647,"id":0,"md5":"AAAAAAAAAAAAAAAAAAAAAA==","schemaType":"JSON","schema":"\\\n\t\"","deleted":true} `,
		` { "schema" : "" , "id" : 10 , "subject" : "s" }`, `{"schemaType":"AVRO","id":1,"schema":"x","id":2}`,
		`{"id":1,"schema":"\u00e9"}`, `{"id":01,"schema":"x"}`, `{"id":-1,"schema":"x"}`, `{"id":1.0,"schema":"x"}`, `{"id":1,"schema":"x"}x`,
		`{"id":1,"schema":"x","references":[]}`, `{"id":99999999999,"schema":"x"}`, "{\"id\":1,\"schema\":\"\xff\"}", "{\"id\":1,\"schema\":\"\n\"}", `{}`, ``,
	} {
		f.Add([]byte(`{"keytype":"SCHEMA","subject":"s","version":1,"magic":1}`), []byte(value))
	}
	for _, key := range []string{
		`{"magic":1,"keytype":"SCHEMA","subject":"a\"b","version":3}`, `{"keytype":"SCHEMA","subject":"s","version":0,"magic":1}`,
		`{"keytype":"NOOP","magic":0}`, `{"keytype":"SCHEMA","subject":"s","version":1,"magic":2}`, `{"keytype":"SCHEMA","subject":"s","version":1,"magic":1,"x":[]}`,
	} {
		f.Add([]byte(key), []byte(`{}`))
	}
	f.Fuzz(func(t *testing.T, key, value []byte) {
		if _, err := registry.FlatAsParsed(key, value); err != nil {
			t.Error(err)
		}
	})
}

// The records that are written are read the fast way.
func TestFlat(t *testing.T) {
	topic := registrytest.NewTopic()
	s := registry.NewStore(topic.Log(), nil)
	register(t, s, "a", record("x"))
	register(t, s, "b/\"é\\", `{"type":"record","name":"R","doc":"\"quoted\"\n","fields":[]}`)
	n := 0
	for _, e := range topic.Entries() {
		if strings.Contains(string(e.Key), "SCHEMA") {
			if read, err := registry.FlatAsParsed(e.Key, e.Value); err != nil || !read {
				t.Errorf("%s %s: %v, %v", e.Key, e.Value, read, err)
			}
			n++
		}
	}
	if n != 2 {
		t.Errorf("%d records", n)
	}
}
