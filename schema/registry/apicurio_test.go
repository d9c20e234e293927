package registry_test

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync/atomic"
	"testing"

	"walferry/internal/testbed"
	"walferry/schema/registry"
)

// TestApicurio: another registry with Confluent's API, which answers the same requests as ours, but for the differences that
// testdata/apicurio.txt lists; and our client with it.
func TestApicurio(t *testing.T) {
	url := testbed.Apicurio(t)
	t.Run("answers", func(t *testing.T) { compareAnswers(t, url) })
	t.Run("client", func(t *testing.T) { clientAtApicurio(t, url) })
}

// clientAtApicurio has our client register, read and force at Apicurio's registry, which stands behind a proxy that wants a
// client certificate and a token, and fails now and then.
func clientAtApicurio(t *testing.T, backend string) {
	ctx := t.Context()
	const level = `{"compatibility":"NONE"}` // of all subjects, as Apicurio has it at first
	if answer := newAnswerer(backend).ask(t, "", "PUT", "/config", level); !strings.HasPrefix(answer, "200 ") {
		t.Fatal(answer)
	}
	target, err := url.Parse(backend)
	if err != nil {
		t.Fatal(err)
	}
	ca := testbed.NewAuthority(t)
	cert, key := ca.Issue("client")
	token := filepath.Join(t.TempDir(), "token")
	write := func(s string) {
		t.Helper()
		if err := os.WriteFile(token, []byte(s), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	write("first\n")
	var want atomic.Value // the token
	want.Store("first")
	through := httputil.NewSingleHostReverseProxy(target)
	rec := &recorder{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Header.Get("Authorization") != "Bearer "+want.Load().(string) {
			http.Error(w, "who is that?", http.StatusUnauthorized)
			return
		}
		through.ServeHTTP(w, r)
	})}
	proxy := httptest.NewUnstartedServer(rec)
	proxy.TLS = ca.ServerTLS()
	proxy.Config.ErrorLog = log.New(io.Discard, "", 0) // the client without a certificate
	proxy.StartTLS()
	t.Cleanup(proxy.Close)
	good := registry.ClientConfig{URL: proxy.URL, CAFile: ca.File, CertFile: cert, KeyFile: key, TokenFile: token, Retries: 2}
	c := newClient(t, good)
	if err := c.Ping(ctx); err != nil {
		t.Fatal(err)
	}

	// Who does not show both does not get through; a token that changes is read again.
	for name, change := range map[string]func(*registry.ClientConfig){
		"no certificate": func(c *registry.ClientConfig) { c.CertFile, c.KeyFile = "", "" },
		"another token":  func(c *registry.ClientConfig) { c.TokenFile, c.Token = "", "second" },
		"a password":     func(c *registry.ClientConfig) { c.TokenFile, c.User, c.Password = "", "u", "first" },
	} {
		cfg := good
		cfg.Retries = -1
		change(&cfg)
		var refused *registry.AuthError
		if err := newClient(t, cfg).Ping(ctx); err == nil || errors.As(err, &refused) != (name != "no certificate") {
			t.Errorf("%s: %v", name, err)
		}
	}
	want.Store("second")
	write("second\n")
	if err := c.Ping(ctx); err != nil {
		t.Error(err)
	}

	// A new subject: its level is set before its first version, and an id is asked for once.
	r := registry.NewRegistrar(c)
	rec.seen()
	failures := 0
	rec.instead(func(w http.ResponseWriter, _ int) bool {
		if failures++; failures > 2 {
			return false
		}
		http.Error(w, "starting", http.StatusServiceUnavailable)
		return true
	})
	const subject = "odd/subject é"
	id, err := r.Register(ctx, subject, record("x"), string(registry.Full))
	if err != nil {
		t.Fatal(err)
	}
	rec.instead(nil)
	if asked := rec.seen(); failures < 3 || !strings.HasPrefix(asked[len(asked)-2], "PUT /config/") || !strings.HasPrefix(asked[len(asked)-1], "POST /subjects/") {
		t.Errorf("asked %q", asked)
	}
	if again, err := r.Register(ctx, subject, record("x"), string(registry.Full)); err != nil || again != id || len(rec.seen()) != 0 {
		t.Errorf("a known schema is asked for again: %d, %v", again, err)
	}
	if text, err := c.Schema(ctx, id); err != nil || text != record("x") {
		t.Errorf("schema %d: %s, %v", id, text, err)
	}
	if found, version, err := c.Lookup(ctx, subject, record("x")); err != nil || found != id || version != 1 {
		t.Errorf("lookup: %d, %d, %v", found, version, err)
	}
	levelIs := func(want registry.Level) {
		t.Helper()
		if l, own, err := c.Level(ctx, subject); err != nil || l != want || !own {
			t.Errorf("level %s, own %v, %v; want %s", l, own, err, want)
		}
	}
	levelIs(registry.Full)
	// It is its owner's from then on.
	if err := c.SetLevel(ctx, subject, registry.Backward); err != nil {
		t.Fatal(err)
	}
	second, err := registry.NewRegistrar(c).Register(ctx, subject, record("x", "y"), string(registry.Full))
	if err != nil || second == id {
		t.Errorf("a second version: %d, %v", second, err)
	}
	levelIs(registry.Backward)

	// A refused schema says why, and can be forced: Apicurio does not know ?force=true, so by the level.
	bad := `{"type":"record","name":"R","fields":[{"name":"x","type":"int"}]}`
	if ok, _, err := c.Compatible(ctx, subject, bad); err != nil || ok {
		t.Errorf("compatible: %v, %v", ok, err)
	}
	_, err = r.Register(ctx, subject, bad, string(registry.Full))
	var incompatible *registry.IncompatibleError
	if !errors.As(err, &incompatible) || !strings.Contains(err.Error(), "reader type: INT not compatible with writer type: NULL") {
		t.Errorf("incompatible: %v", err)
	}
	l := &ledger{t: t}
	third, err := r.Force(ctx, subject, bad, l)
	if err != nil || l.level != registry.Backward || l.open {
		t.Errorf("forced: %d, %v, %+v", third, err, l)
	}
	levelIs(registry.Backward)
	if versions, err := c.Versions(ctx, subject, false); err != nil || !slices.Equal(versions, []int{1, 2, 3}) {
		t.Errorf("versions %v, %v", versions, err)
	}
	if latest, err := c.Version(ctx, subject, "latest", false); err != nil || latest.ID != third || latest.Schema != bad {
		t.Errorf("latest: %+v, %v", latest, err)
	}

	// It has no list of all schemas, so it cannot be exported.
	var unavailable *registry.UnavailableError
	if _, err := c.Dump(ctx); !errors.As(err, &unavailable) || !strings.Contains(err.Error(), "404") {
		t.Errorf("export: %v", err)
	}

	// Under a level of all, Apicurio takes NONE of a subject for none of its own: then it cannot be forced, and nothing is
	// different afterwards.
	if answer := newAnswerer(backend).ask(t, "", "PUT", "/config", `{"compatibility":"BACKWARD"}`); !strings.HasPrefix(answer, "200 ") {
		t.Fatal(answer)
	}
	if _, err := r.Force(ctx, subject, strings.Replace(bad, "int", "boolean", 1), l); !errors.As(err, &incompatible) || l.open {
		t.Errorf("forced under a level of all: %v", err)
	}
	levelIs(registry.Backward)
}

// answerer is a registry that is asked the requests of testdata/apicurio.txt.
type answerer struct {
	base  string
	ids   map[string]string // by the names that the file has for them
	names map[string]string // of ids; the first one that an id was given
}

// compareAnswers puts the requests of testdata/apicurio.txt to ours and to Apicurio's registry. Below each stands what both
// answer, or ours and Apicurio's with the reason, which docs/registry.md explains. "name = POST …" gives the id in the answer
// a name, which differs from server to server; $name stands for it in requests and answers.
func compareAnswers(t *testing.T, url string) {
	const file = "testdata/apicurio.txt"
	text, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	docs, err := os.ReadFile("../../docs/registry.md")
	if err != nil {
		t.Fatal(err)
	}
	_, server := newServer(t, registry.ServerConfig{})
	ours, theirs := newAnswerer(server.URL), newAnswerer(url)
	var out strings.Builder
	missing := registry.Routes()
	reasons := map[string]int{}
	because := "" // of the request that is looked at
	lines := strings.Split(strings.TrimRight(string(text), "\n"), "\n")
	for i, line := range lines {
		if line == "" || strings.HasPrefix(line, "  ") {
			continue
		}
		if strings.HasPrefix(line, "#") {
			fmt.Fprintf(&out, "\n%s\n", line)
			continue
		}
		because = ""
		for _, below := range lines[i+1:] {
			if !strings.HasPrefix(below, "  ") {
				break
			}
			if reason, ok := strings.CutPrefix(below, "  because: "); ok {
				because = reason
			}
		}
		name, request := "", line
		if m := named.FindStringSubmatch(line); m != nil {
			name, request = m[1], m[2]
		}
		method, rest, _ := strings.Cut(request, " ")
		path, body, _ := strings.Cut(rest, " ")
		plain, _, _ := strings.Cut(path, "?")
		missing = slices.DeleteFunc(missing, func(r string) bool {
			return r == registry.RouteOf(method, strings.ReplaceAll(plain, "$", ""))
		})
		a, b := ours.ask(t, name, method, path, body), theirs.ask(t, name, method, path, body)
		fmt.Fprintf(&out, "%s\n  %s\n", line, a)
		if a == b {
			continue
		}
		fmt.Fprintf(&out, "  apicurio: %s\n", b)
		if because == "" {
			because = "?"
			t.Errorf("%s\n%s\napicurio: %s\nand no reason is given", line, a, b)
		} else if !strings.Contains(string(docs), "\n| "+because+" | ") {
			t.Errorf("%s: docs/registry.md has no reason %q", line, because)
		}
		fmt.Fprintf(&out, "  because: %s\n", because)
		reasons[because]++
	}
	if len(missing) > 0 {
		t.Errorf("no request for %q", missing)
	}
	t.Logf("%d differences: %v", strings.Count(out.String(), "\n  apicurio: "), reasons)
	got := strings.TrimLeft(out.String(), "\n")
	if *update {
		if err := os.WriteFile(file, []byte(got), 0o644); err != nil {
			t.Fatal(err)
		}
		return
	}
	diff(t, got, string(text))
}

func newAnswerer(base string) *answerer {
	return &answerer{base: base, ids: map[string]string{}, names: map[string]string{}}
}

var (
	named  = regexp.MustCompile(`^([a-z]+) = (.*)$`)
	idName = regexp.MustCompile(`\$[a-z]+`)
)

// ask sends one request and returns status and body in a line, without what differs from server to server without a
// meaning: ids by their names, no guids, of an error its code alone, of the messages of a check that there are some.
func (a *answerer) ask(t *testing.T, name, method, path, body string) string {
	t.Helper()
	fill := func(s string) string {
		return idName.ReplaceAllStringFunc(s, func(n string) string {
			id, ok := a.ids[n]
			if !ok {
				return "0" // a registration that was refused
			}
			return id
		})
	}
	req, err := http.NewRequestWithContext(t.Context(), method, a.base+fill(path), strings.NewReader(fill(body)))
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
	decoder := json.NewDecoder(strings.NewReader(string(text)))
	decoder.UseNumber()
	var answer any
	if err := decoder.Decode(&answer); err != nil || decoder.More() {
		if len(text) == 0 {
			return fmt.Sprintf("%d and nothing", res.StatusCode)
		}
		return fmt.Sprintf("%d and no JSON", res.StatusCode)
	}
	if o, ok := answer.(map[string]any); ok && name != "" && o["id"] != nil {
		id := fmt.Sprint(o["id"])
		a.ids["$"+name] = id
		if a.names[id] == "" {
			a.names[id] = "$" + name
		}
	}
	if list, ok := answer.([]any); ok && strings.HasSuffix(path, "/referencedby") {
		for i := range list {
			list[i] = a.nameOf(list[i])
		}
	}
	tidy, err := json.Marshal(a.tidy(answer))
	if err != nil {
		t.Fatal(err)
	}
	return fmt.Sprintf("%d %s", res.StatusCode, tidy)
}

func (a *answerer) nameOf(id any) any {
	if name, ok := a.names[fmt.Sprint(id)]; ok {
		return name
	}
	return id
}

func (a *answerer) tidy(v any) any {
	switch v := v.(type) {
	case []any:
		for i := range v {
			v[i] = a.tidy(v[i])
		}
	case map[string]any:
		if code, ok := v["error_code"]; ok {
			return map[string]any{"error_code": code}
		}
		delete(v, "guid")
		for key, member := range v {
			list, _ := member.([]any)
			switch {
			case key == "id" || key == "maxId":
				v[key] = a.nameOf(member)
			case key == "references" && len(list) == 0:
				delete(v, key)
			case key == "messages":
				v[key] = len(list) > 0
			default:
				v[key] = a.tidy(member)
			}
		}
	}
	return v
}
