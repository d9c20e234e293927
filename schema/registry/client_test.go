package registry_test

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"walferry/internal/testbed"
	"walferry/schema/registry"
	"walferry/schema/registry/registrytest"
)

var _ registry.API = (*registry.Client)(nil)

// recorder counts requests and may answer in the server's place.
type recorder struct {
	http.Handler
	mu       sync.Mutex
	requests []string                            // guarded by mu
	answer   func(http.ResponseWriter, int) bool // guarded by mu; asked with the number of the request, from 0
}

func (r *recorder) ServeHTTP(w http.ResponseWriter, req *http.Request) {
	r.mu.Lock()
	n := len(r.requests)
	r.requests = append(r.requests, req.Method+" "+req.URL.RequestURI())
	answer := r.answer
	r.mu.Unlock()
	if answer != nil && answer(w, n) {
		return
	}
	r.Handler.ServeHTTP(w, req)
}

func (r *recorder) instead(answer func(http.ResponseWriter, int) bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.answer = answer
}

func (r *recorder) seen() []string {
	r.mu.Lock()
	defer r.mu.Unlock()
	list := r.requests
	r.requests = nil
	return list
}

func newRecorded(t testing.TB, cfg registry.ServerConfig) (*registry.Store, *recorder, *httptest.Server) {
	t.Helper()
	store := registry.NewStore(registrytest.NewTopic().Log(), nil)
	if err := store.Open(t.Context()); err != nil {
		t.Fatal(err)
	}
	rec := &recorder{Handler: registry.NewServer(store, cfg)}
	server := httptest.NewServer(rec)
	t.Cleanup(server.Close)
	return store, rec, server
}

func newClient(t testing.TB, cfg registry.ClientConfig) *registry.Client {
	t.Helper()
	c, err := registry.NewClient(cfg)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func TestClient(t *testing.T) {
	_, rec, server := newRecorded(t, registry.ServerConfig{})
	c := newClient(t, registry.ClientConfig{URL: server.URL + "/"})
	ctx := t.Context()
	if err := c.Ping(ctx); err != nil {
		t.Fatal(err)
	}
	if has, err := c.HasSubject(ctx, "odd/subject é?#%"); err != nil || has {
		t.Errorf("HasSubject: %v, %v", has, err)
	}
	id, err := c.Register(ctx, "odd/subject é?#%", record("x"))
	if err != nil || id != 1 {
		t.Fatalf("register: %d, %v", id, err)
	}
	rec.seen()
	if again, err := c.Register(ctx, "odd/subject é?#%", record("x")); err != nil || again != id || len(rec.seen()) != 0 {
		t.Errorf("a known schema is asked for again: %d, %v", again, err)
	}
	if has, err := c.HasSubject(ctx, "odd/subject é?#%"); err != nil || !has {
		t.Errorf("HasSubject: %v, %v", has, err)
	}
	if got, version, err := c.Lookup(ctx, "odd/subject é?#%", record("x")); err != nil || got != id || version != 1 {
		t.Errorf("lookup: %d, %d, %v", got, version, err)
	}
	if _, _, err := c.Lookup(ctx, "nobody", record("x")); code(err) != registry.CodeSubjectNotFound {
		t.Errorf("lookup of nothing: %v", err)
	}
	for range 2 {
		if text, err := c.Schema(ctx, id); err != nil || text != record("x") {
			t.Errorf("schema: %s, %v", text, err)
		}
	}
	if n := len(rec.seen()); n != 4 {
		t.Errorf("%d requests, the second schema should come from memory", n)
	}
	if _, err := c.Schema(ctx, 99); code(err) != registry.CodeSchemaNotFound {
		t.Errorf("schema of nothing: %v", err)
	}
	bad := `{"type":"record","name":"R","fields":[{"name":"x","type":"int"}]}`
	if ok, why, err := c.Compatible(ctx, "odd/subject é?#%", bad); err != nil || ok || !strings.Contains(strings.Join(why, ""), "'x") {
		t.Errorf("compatible: %v, %v, %v", ok, why, err)
	}
	if ok, why, err := c.Compatible(ctx, "odd/subject é?#%", record("x", "y")); err != nil || !ok || len(why) != 0 {
		t.Errorf("compatible: %v, %v, %v", ok, why, err)
	}
	_, err = c.Register(ctx, "odd/subject é?#%", bad)
	var incompatible *registry.IncompatibleError
	if !errors.As(err, &incompatible) || !incompatible.Refused() || !slices.Equal(incompatible.Fields(), []string{"x"}) || incompatible.Hint() == "" {
		t.Errorf("incompatible: %v", err)
	}
	if got := incompatible.Rules(); !slices.Equal(got, []string{
		`field x: TYPE_MISMATCH reader type: INT not compatible with writer type: NULL (at /fields/0/type/0)`,
		`field x: TYPE_MISMATCH reader type: INT not compatible with writer type: STRING (at /fields/0/type/1)`,
	}) {
		t.Errorf("rules: %q", got)
	}
	_, err = c.Register(ctx, "s", `{"type":"nonsense"}`)
	var e *registry.Error
	if !errors.As(err, &e) || e.Code != registry.CodeInvalidSchema || !e.Refused() {
		t.Errorf("invalid: %v", err)
	}
}

// TestRules reads the texts of Confluent's registry, which name no field inside of unions, and those of ours.
func TestRules(t *testing.T) {
	for detail, want := range map[string][]string{
		`Schema being registered is incompatible with an earlier schema for subject "s", details: [{errorType:'MISSING_UNION_BRANCH', description:'The new schema is missing a type inside a union field at path '/fields/0/type/1' in the old schema', additionalInfo:'reader union lacking writer type: RECORD'}, {oldSchemaVersion: 1}, {validateFields: 'false', compatibility: 'BACKWARD'}]`: {
			`MISSING_UNION_BRANCH reader union lacking writer type: RECORD (at /fields/0/type/1)`,
		},
		`x; error code: 409 [{errorType:'READER_FIELD_MISSING_DEFAULT_VALUE', description:'The field 'amount' at path '/fields/1' in the new schema has no default value and is missing in the old schema', additionalInfo:'amount'}, {errorType:'MISSING_UNION_BRANCH', description:'The new schema is missing a type inside a union field at path '/fields/0/type/1' in the old schema', additionalInfo:'reader union lacking writer type: RECORD', field:'after.amount: TYPE_MISMATCH reader type: INT'}]`: {
			`field amount: READER_FIELD_MISSING_DEFAULT_VALUE (at /fields/1)`, `field after.amount: TYPE_MISMATCH reader type: INT (at /fields/0/type/1)`,
		},
		"no": nil,
	} {
		if got := (&registry.IncompatibleError{Detail: detail}).Rules(); !slices.Equal(got, want) {
			t.Errorf("%s\ngives %q, want %q", detail, got, want)
		}
	}
}

func TestClientRetries(t *testing.T) {
	_, rec, server := newRecorded(t, registry.ServerConfig{})
	c := newClient(t, registry.ClientConfig{URL: server.URL, Retries: 3})
	for name, answer := range map[string]func(http.ResponseWriter){
		"503": func(w http.ResponseWriter) {
			http.Error(w, `{"error_code":50301,"message":"busy"}`, http.StatusServiceUnavailable)
		},
		"500":              func(w http.ResponseWriter) { http.Error(w, `{"error_code":50001,"message":"store"}`, 500) },
		"429":              func(w http.ResponseWriter) { http.Error(w, `slow down`, http.StatusTooManyRequests) },
		"cut":              func(http.ResponseWriter) { panic(http.ErrAbortHandler) },
		"a page":           func(w http.ResponseWriter) { _, _ = w.Write([]byte("<html>welcome</html>")) },
		"another 404":      func(w http.ResponseWriter) { http.Error(w, "<html>not here</html>", 404) },
		"no id":            func(w http.ResponseWriter) { _, _ = w.Write([]byte("{}")) },
		"an id of nothing": func(w http.ResponseWriter) { _, _ = w.Write([]byte(`{"id":0}`)) },
	} {
		t.Run(name, func(t *testing.T) {
			rec.seen()
			rec.instead(func(w http.ResponseWriter, n int) bool {
				if n < 2 {
					answer(w)
				}
				return n < 2
			})
			id, err := c.Register(t.Context(), "s-"+name, record("x"))
			retried := len(rec.seen()) == 3
			var unavailable *registry.UnavailableError
			if strings.Contains(name, "id") {
				if !errors.As(err, &unavailable) {
					t.Errorf("got %d, %v", id, err)
				}
				return
			}
			if err != nil || id != 1 || !retried {
				t.Errorf("got %d, %v, retried: %v", id, err, retried)
			}
			rec.instead(func(w http.ResponseWriter, _ int) bool { answer(w); return true })
			_, err = c.Register(t.Context(), "t-"+name, record("x"))
			if !errors.As(err, &unavailable) || len(rec.seen()) != 4 || unavailable.Hint() == "" || !strings.Contains(err.Error(), server.URL) {
				t.Errorf("for ever: %v", err)
			}
		})
	}
	// A refusal is an answer: it is not asked for again.
	rec.instead(nil)
	rec.seen()
	if _, err := c.Register(t.Context(), "s", "nonsense"); err == nil || len(rec.seen()) != 1 {
		t.Errorf("a refusal: %v", err)
	}
	// An ended context ends the retries.
	rec.instead(func(w http.ResponseWriter, _ int) bool { http.Error(w, "", http.StatusServiceUnavailable); return true })
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := c.Register(ctx, "u", record("x")); err == nil || len(rec.seen()) > 1 {
		t.Errorf("with an ended context: %v", err)
	}
	// A server that is not there, and one that answers nothing.
	gone := newClient(t, registry.ClientConfig{URL: "http://user:secret@127.0.0.1:1", Retries: -1})
	_, err := gone.Register(t.Context(), "s", record("x"))
	var unavailable *registry.UnavailableError
	if !errors.As(err, &unavailable) || strings.Contains(err.Error(), "secret") {
		t.Errorf("nobody there: %v", err)
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = l.Close() }()
	silent := newClient(t, registry.ClientConfig{URL: "http://" + l.Addr().String(), Retries: -1, Timeout: 50 * time.Millisecond})
	if _, err := silent.Register(t.Context(), "s", record("x")); !errors.As(err, &unavailable) {
		t.Errorf("nothing answered: %v", err)
	}
}

func TestClientAuthenticates(t *testing.T) {
	_, rec, server := newRecorded(t, registry.ServerConfig{Users: []registry.User{{Name: "u", Password: "p", Role: registry.Writer}}})
	file := filepath.Join(t.TempDir(), "password")
	write := func(text string) {
		if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	write("wrong\n")
	c := newClient(t, registry.ClientConfig{URL: server.URL, User: "u", PasswordFile: file})
	_, err := c.Register(t.Context(), "s", record("x"))
	var auth *registry.AuthError
	if !errors.As(err, &auth) || auth.Status != 401 || auth.Hint() == "" || len(rec.seen()) != 1 {
		t.Errorf("a wrong password: %v", err)
	}
	write("p\n") // a changed password needs no new client
	if _, err := c.Register(t.Context(), "s", record("x")); err != nil {
		t.Error(err)
	}
	withUser := strings.Replace(server.URL, "http://", "http://u:p@", 1)
	if _, err := newClient(t, registry.ClientConfig{URL: withUser}).Register(t.Context(), "t", record("x")); err != nil {
		t.Errorf("user in the URL: %v", err)
	}
	var got string
	bearer := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		got = r.Header.Get("Authorization")
		http.Error(w, `{"error_code":40301,"message":"writes are refused"}`, http.StatusForbidden)
	}))
	defer bearer.Close()
	_, err = newClient(t, registry.ClientConfig{URL: bearer.URL, Token: "abc"}).Register(t.Context(), "t", record("x"))
	if !errors.As(err, &auth) || auth.Status != 403 || got != "Bearer abc" || !strings.Contains(err.Error(), "writes are refused") {
		t.Errorf("bearer %q: %v", got, err)
	}
	// Credentials do not follow to another host.
	elsewhere := httptest.NewServer(http.RedirectHandler(server.URL+"/subjects/s/versions", http.StatusTemporaryRedirect))
	defer elsewhere.Close()
	if _, err := newClient(t, registry.ClientConfig{URL: elsewhere.URL, User: "u", Password: "p", Retries: -1}).Register(t.Context(), "t", record("y")); err == nil || !strings.Contains(err.Error(), "redirected") {
		t.Errorf("redirected: %v", err)
	}
	for _, cfg := range []registry.ClientConfig{{URL: "ftp://x"}, {URL: "localhost:8081"}, {URL: "http://x", User: "u", Token: "t"}, {URL: "https://x", CertFile: "c"}, {URL: "https://x", CAFile: "/nowhere"}} {
		if _, err := registry.NewClient(cfg); err == nil {
			t.Errorf("%+v is accepted", cfg)
		}
	}
}

func TestClientTLS(t *testing.T) {
	ca := testbed.NewAuthority(t)
	cert, key := ca.Issue("client")
	store := registry.NewStore(registrytest.NewTopic().Log(), nil)
	server := httptest.NewUnstartedServer(registry.NewServer(store, registry.ServerConfig{}))
	server.TLS = ca.ServerTLS()
	server.Config.ErrorLog = nil
	server.StartTLS()
	defer server.Close()
	good := registry.ClientConfig{URL: server.URL, CAFile: ca.File, CertFile: cert, KeyFile: key, Retries: -1}
	if _, err := newClient(t, good).Register(t.Context(), "s", record("x")); err != nil {
		t.Error(err)
	}
	for name, change := range map[string]func(*registry.ClientConfig){
		"unknown authority":     func(c *registry.ClientConfig) { c.CAFile = "" },
		"no client certificate": func(c *registry.ClientConfig) { c.CertFile, c.KeyFile = "", "" },
		"another name":          func(c *registry.ClientConfig) { c.ServerName = "elsewhere.example" },
	} {
		cfg := good
		change(&cfg)
		if _, err := newClient(t, cfg).Register(t.Context(), "s", record("y")); err == nil {
			t.Errorf("%s is accepted", name)
		}
	}
	cfg := good
	cfg.CAFile, cfg.InsecureSkipVerify = "", true
	if _, err := newClient(t, cfg).Register(t.Context(), "s", record("x", "y")); err != nil {
		t.Errorf("without verification: %v", err)
	}
}

// The level of a subject is set when we create it, and is its owner's from then on.
func TestRegistrarLevels(t *testing.T) {
	store, _, server := newRecorded(t, registry.ServerConfig{})
	apis := map[string]registry.API{"client": newClient(t, registry.ClientConfig{URL: server.URL}), "store": store.API()}
	for name, api := range apis {
		t.Run(name, func(t *testing.T) {
			ctx := t.Context()
			fresh := func() *registry.Registrar { return registry.NewRegistrar(api) }
			const level = string(registry.FullTransitive)
			mine, theirs, decided := name+"-mine", name+"-theirs", name+"-decided"
			if _, err := fresh().Register(ctx, mine, record("x"), level); err != nil {
				t.Fatal(err)
			}
			// Another configuration later.
			if _, err := fresh().Register(ctx, mine, record("x", "z"), string(registry.None)); err != nil {
				t.Fatal(err)
			}
			if l, own := store.Level(mine); l != registry.FullTransitive || !own {
				t.Errorf("a subject that we created has level %s, own: %v", l, own)
			}
			register(t, store, theirs, record("x"))
			if err := store.SetLevel(ctx, decided, registry.Forward); err != nil {
				t.Fatal(err)
			}
			if err := store.SetLevel(ctx, mine, registry.Backward); err != nil {
				t.Fatal(err)
			}
			for _, subject := range []string{mine, theirs, decided} {
				if _, err := fresh().Register(ctx, subject, record("x", "y"), level); err != nil {
					t.Fatal(err)
				}
			}
			for subject, want := range map[string]registry.Level{mine: registry.Backward, theirs: registry.Backward, decided: registry.Forward} {
				if l, _ := store.Level(subject); l != want {
					t.Errorf("%s has become %s", subject, l)
				}
			}
			bad := `{"type":"record","name":"R","fields":[{"name":"x","type":"int"}]}`
			_, err := fresh().Register(ctx, mine, bad, level)
			if code(err) != registry.CodeIncompatible {
				t.Errorf("incompatible: %v", err)
			}
			id, err := fresh().Force(ctx, mine, bad, &ledger{t: t})
			if err != nil {
				t.Errorf("forced: %v", err)
			}
			if text, err := api.Schema(ctx, id); err != nil || text != bad {
				t.Errorf("schema: %s, %v", text, err)
			}
			if l, own := store.Level(mine); l != registry.Backward || !own {
				t.Errorf("after forcing the level is %s", l)
			}
		})
	}
}

// A registry that does not know ?force=true, as Confluent's before 8: the level is NONE for that moment only.
func TestForceOnAnOlderRegistry(t *testing.T) {
	store, rec, server := newRecorded(t, registry.ServerConfig{})
	inner := rec.Handler
	var left atomic.Int64 // requests that still come through
	left.Store(1 << 30)
	rec.Handler = http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if left.Add(-1) < 0 {
			panic(http.ErrAbortHandler)
		}
		r.URL.RawQuery = strings.ReplaceAll(r.URL.RawQuery, "force=true", "")
		inner.ServeHTTP(w, r)
	})
	bad := `{"type":"record","name":"R","fields":[{"name":"x","type":"int"}]}`
	for _, own := range []bool{false, true} {
		subject := fmt.Sprintf("own-%v", own)
		register(t, store, subject, record("x"))
		if own {
			if err := store.SetLevel(t.Context(), subject, registry.Full); err != nil {
				t.Fatal(err)
			}
		}
		want := registry.Backward
		if own {
			want = registry.Full
		}
		level := func(what string, want registry.Level, wantOwn bool) {
			t.Helper()
			if l, isOwn := store.Level(subject); l != want || isOwn != wantOwn {
				t.Errorf("%s, %s: level %s, own %v", subject, what, l, isOwn)
			}
		}
		l := &ledger{t: t}
		r := registry.NewRegistrar(newClient(t, registry.ClientConfig{URL: server.URL, Retries: -1}))
		// A death before each step leaves what can be restored: the level is lowered, the schema registered, the level asked
		// for and set back.
		for step, typ := range []string{"int", "boolean", "bytes", "boolean"} {
			bad := strings.Replace(bad, "int", typ, 1) // the third is registered
			l.lowered = func() { left.Store(int64(step)) }
			if id, err := r.Force(t.Context(), subject, bad, l); err == nil {
				t.Errorf("%s, cut before step %d: id %d", subject, step, id)
			}
			left.Store(1 << 30)
			if !l.open {
				t.Errorf("%s, cut before step %d: the ledger has nothing", subject, step)
			}
			if step > 0 {
				level(fmt.Sprintf("cut before step %d", step), registry.None, true)
			}
			for range 2 {
				if err := r.RestoreLevel(t.Context(), subject, l.level); err != nil {
					t.Error(err)
				}
				level("restored", want, own)
			}
		}
		l.lowered = nil
		if _, err := r.Force(t.Context(), subject, bad, l); err != nil || l.open {
			t.Errorf("%s: %v", subject, err)
		}
		level("forced", want, own)
		// Somebody has set another level since.
		if err := store.SetLevel(t.Context(), subject, registry.Forward); err != nil {
			t.Fatal(err)
		}
		if err := r.RestoreLevel(t.Context(), subject, l.level); err != nil {
			t.Error(err)
		}
		level("set since", registry.Forward, true)
	}
}

// ledger is a registry.Ledger in memory.
type ledger struct {
	t       *testing.T
	level   registry.Level
	open    bool
	lowered func()
}

func (l *ledger) Lowered(_ context.Context, _ string, level registry.Level) error {
	l.level, l.open = level, true
	if l.lowered != nil {
		l.lowered()
	}
	return nil
}

func (l *ledger) Restored(context.Context, string) error {
	l.open = false
	return nil
}

// A client that is given the server's own certificate as authority trusts it, whoever signed it: that is what
// walferry's own commands do.
func TestClientTrustsCertificate(t *testing.T) {
	cert, key := testbed.NewAuthority(t).Issue("registry")
	pair, err := tls.LoadX509KeyPair(cert, key)
	if err != nil {
		t.Fatal(err)
	}
	store, _ := newServer(t, registry.ServerConfig{})
	server := httptest.NewUnstartedServer(registry.NewServer(store, registry.ServerConfig{}))
	server.TLS = &tls.Config{Certificates: []tls.Certificate{pair}, MinVersion: tls.VersionTLS12}
	server.StartTLS()
	defer server.Close()
	if err := newClient(t, registry.ClientConfig{URL: server.URL, CAFile: cert, Retries: -1}).Ping(t.Context()); err != nil {
		t.Error(err)
	}
	other, _ := testbed.NewAuthority(t).Issue("registry")
	if err := newClient(t, registry.ClientConfig{URL: server.URL, CAFile: other, Retries: -1}).Ping(t.Context()); err == nil {
		t.Error("another certificate is trusted")
	}
}
