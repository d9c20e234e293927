package registry_test

import (
	"encoding/base64"
	"flag"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"walferry/schema/registry"
	"walferry/schema/registry/registrytest"
)

var update = flag.Bool("update", false, "write the transcripts in testdata/api anew; read the difference")

func newServer(t testing.TB, cfg registry.ServerConfig) (*registry.Store, *httptest.Server) {
	t.Helper()
	store := registry.NewStore(registrytest.NewTopic().Log(), nil)
	if err := store.Open(t.Context()); err != nil {
		t.Fatal(err)
	}
	server := httptest.NewServer(registry.NewServer(store, cfg))
	t.Cleanup(server.Close)
	return store, server
}

// serverOf serves a store that there is.
func serverOf(t testing.TB, store *registry.Store) (*registry.Store, *httptest.Server) {
	t.Helper()
	if err := store.Open(t.Context()); err != nil {
		t.Fatal(err)
	}
	server := httptest.NewServer(registry.NewServer(store, registry.ServerConfig{}))
	t.Cleanup(server.Close)
	return store, server
}

// stopping is a proxy that lets n requests through, and then calls stop and answers nothing.
func stopping(t testing.TB, base string, n int, stop func()) string {
	t.Helper()
	target, err := url.Parse(base)
	if err != nil {
		t.Fatal(err)
	}
	through := httputil.NewSingleHostReverseProxy(target)
	var mu sync.Mutex
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		mu.Lock()
		n--
		left := n
		mu.Unlock()
		if left < 0 {
			stop()
			return
		}
		through.ServeHTTP(w, r)
	}))
	t.Cleanup(server.Close)
	return server.URL
}

// ask sends one request and returns status and body in a line.
func ask(t testing.TB, base, method, path, body string) string {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), method, base+path, strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	if body != "" {
		req.Header.Set("Content-Type", "application/vnd.schemaregistry.v1+json")
	}
	res, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = res.Body.Close() }()
	text, err := io.ReadAll(res.Body)
	if err != nil {
		t.Fatal(err)
	}
	if ct := res.Header.Get("Content-Type"); ct != "application/vnd.schemaregistry.v1+json" && res.StatusCode != http.StatusNoContent {
		t.Errorf("%s %s: content type %q", method, path, ct)
	}
	return strings.TrimSpace(fmt.Sprintf("%d %s", res.StatusCode, text))
}

// The transcripts hold requests, each with its answer below it. docs/registry.md refers to them.
func TestTranscripts(t *testing.T) {
	files, err := filepath.Glob("testdata/api/*.txt")
	if err != nil || len(files) == 0 {
		t.Fatal("no transcripts", err)
	}
	for _, file := range files {
		t.Run(filepath.Base(file), func(t *testing.T) {
			_, server := newServer(t, registry.ServerConfig{ClusterID: "cluster", Version: "test"})
			text, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			var out strings.Builder
			for line := range strings.Lines(string(text)) {
				line = strings.TrimRight(line, "\n")
				switch {
				case strings.HasPrefix(line, "  "), line == "":
				case strings.HasPrefix(line, "#"):
					fmt.Fprintf(&out, "\n%s\n", line)
				default:
					method, rest, _ := strings.Cut(line, " ")
					path, body, _ := strings.Cut(rest, " ")
					fmt.Fprintf(&out, "%s\n  %s\n", line, ask(t, server.URL, method, path, body))
				}
			}
			got := strings.TrimLeft(out.String(), "\n")
			if *update {
				if err := os.WriteFile(file, []byte(got), 0o644); err != nil {
					t.Fatal(err)
				}
				return
			}
			diff(t, got, string(text))
		})
	}
}

// diff fails the test at the first line that differs.
func diff(t *testing.T, got, want string) {
	t.Helper()
	if got == want {
		return
	}
	a, b := strings.Split(got, "\n"), strings.Split(want, "\n")
	for i := range min(len(a), len(b)) {
		if a[i] != b[i] {
			t.Fatalf("line %d\n got  %s\n want %s", i+1, a[i], b[i])
		}
	}
	t.Fatal("more or fewer lines than before")
}

func TestServerRefuses(t *testing.T) {
	const body = `{"schema":"\"string\""}`
	send := func(t *testing.T, server *httptest.Server, method, path, body string, header ...string) (int, string, http.Header) {
		t.Helper()
		req, err := http.NewRequestWithContext(t.Context(), method, server.URL+path, strings.NewReader(body))
		if err != nil {
			t.Fatal(err)
		}
		for i := 0; i < len(header); i += 2 {
			req.Header.Set(header[i], header[i+1])
		}
		res, err := http.DefaultClient.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		defer func() { _ = res.Body.Close() }()
		text, _ := io.ReadAll(res.Body)
		return res.StatusCode, string(text), res.Header
	}
	t.Run("anonymous writes", func(t *testing.T) {
		_, server := newServer(t, registry.ServerConfig{ReadOnly: registry.AnonymousWritesRefused})
		for _, w := range [][2]string{{"POST", "/subjects/s/versions"}, {"DELETE", "/subjects/s"}, {"DELETE", "/subjects/s/versions/1"}, {"PUT", "/config"}, {"PUT", "/config/s"}, {"DELETE", "/config"}, {"DELETE", "/config/s"}, {"PUT", "/mode"}, {"DELETE", "/mode/s"}} {
			status, text, _ := send(t, server, w[0], w[1], body)
			if status != 403 || !strings.Contains(text, `"error_code":40301`) || !strings.Contains(text, "allow_anonymous_writes") {
				t.Errorf("%v: %d %s", w, status, text)
			}
		}
		if status, text, _ := send(t, server, "GET", "/subjects", ""); status != 200 || text != "[]" {
			t.Errorf("a read: %d %s", status, text)
		}
		if status, _, _ := send(t, server, "POST", "/compatibility/subjects/s/versions", body); status != 200 {
			t.Errorf("a check: %d", status)
		}
	})
	t.Run("password", func(t *testing.T) {
		_, server := newServer(t, registry.ServerConfig{Users: []registry.User{{Name: "u", Password: "p", Role: registry.Writer}}})
		status, _, header := send(t, server, "POST", "/subjects/s/versions", body)
		if status != 401 || !strings.HasPrefix(header.Get("WWW-Authenticate"), "Basic ") {
			t.Errorf("without: %d %v", status, header)
		}
		for auth, want := range map[string]int{"Basic dTpw": 200, "Basic dTpx": 401, "Basic !": 401, "Bearer p": 401, "Basic Og==": 401} {
			if status, text, _ := send(t, server, "POST", "/subjects/s/versions", body, "Authorization", auth); status != want {
				t.Errorf("%s: %d %s", auth, status, text)
			}
		}
		if status, _, _ := send(t, server, "GET", "/subjects", ""); status != 200 {
			t.Errorf("a read: %d", status)
		}
	})
	t.Run("roles", func(t *testing.T) {
		_, server := newServer(t, registry.ServerConfig{Closed: true, Users: []registry.User{
			{Name: "w", Password: "p:w", Role: registry.Writer}, {Name: "r", Password: "pr", Role: registry.Reader},
			{Name: "bot", Token: "tw", Role: registry.Writer}, {Name: "tool", Token: "tr", Role: registry.Reader}, {Token: "nameless", Role: registry.Writer},
		}})
		basic := func(login string) string { return "Basic " + base64.StdEncoding.EncodeToString([]byte(login)) }
		for auth, want := range map[string][2]int{ // of a read, of a write
			"": {401, 401}, basic("w:p:w"): {200, 200}, basic("r:pr"): {200, 403}, "Bearer tw": {200, 200}, "bearer tr": {200, 403}, "Bearer nameless": {200, 200},
			basic("w:pr"): {401, 401}, basic("w:"): {401, 401}, basic("bot:tw"): {401, 401}, basic("bot:"): {401, 401}, basic(":"): {401, 401},
			"Bearer pr": {401, 401}, "Bearer": {401, 401}, "Bearer ": {401, 401}, "Digest tw": {401, 401}, "tw": {401, 401},
		} {
			read, _, header := send(t, server, "GET", "/subjects", "", "Authorization", auth)
			check, _, _ := send(t, server, "POST", "/compatibility/subjects/s/versions", body, "Authorization", auth)
			write, text, _ := send(t, server, "POST", "/subjects/s/versions", body, "Authorization", auth)
			if read != want[0] || check != want[0] || write != want[1] {
				t.Errorf("%q: %d and %d for reads, %d for a write", auth, read, check, write)
			}
			if read == 401 && len(header.Values("WWW-Authenticate")) != 2 {
				t.Errorf("%q: %v", auth, header)
			}
			if write == 403 && !strings.Contains(text, `"error_code":40301`) {
				t.Error(text)
			}
		}
	})
	t.Run("size and types", func(t *testing.T) {
		_, server := newServer(t, registry.ServerConfig{MaxBodyBytes: 100})
		for _, c := range []struct {
			header []string
			body   string
			want   int
		}{
			{nil, `{"schema":"\"string\""` + strings.Repeat(" ", 100) + `}`, 413},
			{[]string{"Content-Type", "text/xml"}, body, 415},
			{[]string{"Content-Type", "application/json; charset=utf-8"}, body, 200},
			{[]string{"Content-Type", "application/octet-stream"}, body, 200},
			{[]string{"Accept", "text/html"}, body, 406},
			{[]string{"Accept", "text/html, */*;q=0.1"}, body, 200},
		} {
			status, text, _ := send(t, server, "POST", "/subjects/s/versions", c.body, c.header...)
			if status != c.want || status != 200 && !strings.HasPrefix(text, fmt.Sprintf(`{"error_code":%d`, c.want)) {
				t.Errorf("%v: %d %s", c.header, status, text)
			}
		}
		for accept, want := range map[string]string{
			"": "application/vnd.schemaregistry.v1+json", "application/json": "application/json",
			"application/vnd.schemaregistry+json": "application/vnd.schemaregistry+json",
			"application/vnd.schemaregistry.v1+json, application/vnd.schemaregistry+json, application/json": "application/vnd.schemaregistry.v1+json",
		} {
			if _, _, h := send(t, server, "GET", "/subjects", "", "Accept", accept); h.Get("Content-Type") != want {
				t.Errorf("Accept %q: %s", accept, h.Get("Content-Type"))
			}
		}
	})
	t.Run("before the topic is read", func(t *testing.T) {
		store := registry.NewStore(registrytest.NewTopic().Log(), nil)
		server := httptest.NewServer(registry.NewServer(store, registry.ServerConfig{}))
		defer server.Close()
		if status, text, _ := send(t, server, "GET", "/schemas/ids/1", ""); status != 503 {
			t.Errorf("a read: %d %s", status, text)
		}
		if status, text, _ := send(t, server, "POST", "/subjects/s/versions", body); status != 200 {
			t.Errorf("a write opens the store: %d %s", status, text)
		}
	})
	t.Run("a log that hangs", func(t *testing.T) {
		log := registrytest.NewTopic().Log()
		log.Fail = func(string) error { return errCrashed }
		server := httptest.NewServer(registry.NewServer(registry.NewStore(log, nil), registry.ServerConfig{}))
		defer server.Close()
		if status, text, _ := send(t, server, "POST", "/subjects/s/versions", body); status != 500 || !strings.Contains(text, `"error_code":50001`) {
			t.Errorf("%d %s", status, text)
		}
	})
}
