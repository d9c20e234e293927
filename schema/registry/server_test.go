package registry_test

import (
	"flag"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
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
	if ct := res.Header.Get("Content-Type"); ct != "application/vnd.schemaregistry.v1+json" {
		t.Errorf("%s %s: content type %q", method, path, ct)
	}
	return fmt.Sprintf("%d %s", res.StatusCode, text)
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
			if got != string(text) {
				a, b := strings.Split(got, "\n"), strings.Split(string(text), "\n")
				for i := range min(len(a), len(b)) {
					if a[i] != b[i] {
						t.Fatalf("line %d\n got  %s\n want %s", i+1, a[i], b[i])
					}
				}
				t.Fatal("more or fewer lines than before")
			}
		})
	}
}
