package registry_test

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"walferry/schema/registry"
	"walferry/schema/registry/registrytest"
)

// joined is a registry as one process has it: store, server, and the address that others know.
type joined struct {
	t     *testing.T
	store *registry.Store
	log   *registrytest.Log
	url   string
	// behind, when set, stands between the others and this one.
	behind atomic.Pointer[http.HandlerFunc]
}

type joinOptions struct {
	users     []registry.User
	advertise string // instead of its own address
	patience  time.Duration
}

func join(t *testing.T, topic *registrytest.Topic, o joinOptions) *joined {
	t.Helper()
	j := &joined{t: t, log: topic.Log()}
	j.store = registry.NewStore(j.log, nil)
	handler := registry.NewServer(j.store, registry.ServerConfig{Users: o.users})
	direct := httptest.NewServer(handler)
	t.Cleanup(direct.Close)
	j.url = direct.URL
	front := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if h := j.behind.Load(); h != nil {
			(*h)(w, r)
			return
		}
		handler.ServeHTTP(w, r)
	}))
	t.Cleanup(front.Close)
	if o.advertise == "" {
		o.advertise = front.URL
	}
	if o.patience == 0 {
		o.patience = 10 * time.Second // nobody is taken for dead because the machine is slow
	}
	if err := j.store.Join(registry.Member{URL: o.advertise, Patience: o.patience}); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.WithoutCancel(t.Context()))
	done := make(chan struct{})
	go func() {
		defer close(done)
		_ = j.store.Follow(ctx) // ends with ctx
	}()
	t.Cleanup(func() {
		cancel()
		<-done
	})
	return j
}

type answer struct {
	status int
	body   string
}

func (a answer) id(t *testing.T) int {
	t.Helper()
	var v struct{ ID int }
	if err := json.Unmarshal([]byte(a.body), &v); err != nil || a.status != 200 || v.ID == 0 {
		t.Fatalf("answered %d %s", a.status, a.body)
	}
	return v.ID
}

// ask sends a request as any client does. It may be called outside of the test's goroutine.
func (j *joined) ask(method, path, user, body string) answer {
	req, err := http.NewRequestWithContext(j.t.Context(), method, j.url+path, strings.NewReader(body))
	if err != nil {
		j.t.Error(err)
		return answer{}
	}
	if name, password, ok := strings.Cut(user, ":"); ok {
		req.SetBasicAuth(name, password)
	}
	res, err := http.DefaultClient.Do(req)
	if err != nil {
		j.t.Error(err)
		return answer{}
	}
	text, err := io.ReadAll(res.Body)
	if cerr := res.Body.Close(); err == nil {
		err = cerr
	}
	if err != nil {
		j.t.Error(err)
	}
	return answer{res.StatusCode, string(text)}
}

func (j *joined) register(subject, field string) answer {
	body, err := json.Marshal(map[string]string{"schema": record(field)})
	if err != nil {
		j.t.Error(err)
	}
	return j.ask("POST", "/subjects/"+subject+"/versions", "", string(body))
}

// sessions lists the addresses of those who took the log over, in order.
func sessions(topic *registrytest.Topic) []string {
	var list []string
	for _, e := range topic.Entries() {
		if string(e.Key) == `{"keytype":"NOOP","magic":0}` {
			var v struct{ Advertise string }
			if e.Value != nil && json.Unmarshal(e.Value, &v) != nil {
				v.Advertise = "malformed"
			}
			list = append(list, v.Advertise)
		}
	}
	return list
}

// Writes are passed on, of every kind, and who passed one on shows it when it answers.
func TestPassOn(t *testing.T) {
	topic := registrytest.NewTopic()
	writer, other := join(t, topic, joinOptions{}), join(t, topic, joinOptions{})
	if id := writer.register("a", "x").id(t); id != 1 {
		t.Fatalf("the first id is %d", id)
	}
	for i := range 20 {
		subject := fmt.Sprintf("b%d", i)
		id := other.register(subject, subject).id(t)
		if got := other.ask("GET", fmt.Sprintf("/schemas/ids/%d", id), "", ""); got.status != 200 || !strings.Contains(got.body, subject) {
			t.Errorf("id %d right after it was given: %+v", id, got)
		}
	}
	for _, x := range []struct {
		method, path, body string
		want               answer
	}{
		{"PUT", "/config/b1", `{"compatibility":"FULL"}`, answer{200, `{"compatibility":"FULL"}`}},
		{"GET", "/config/b1", "", answer{200, `{"compatibilityLevel":"FULL"}`}},
		{"DELETE", "/config/b1", "", answer{200, `{"compatibilityLevel":"FULL"}`}},
		{"DELETE", "/config/b1", "", answer{404, `{"error_code":40401,"message":"Subject 'b1' not found."}`}},
		{"PUT", "/mode/b1", `{"mode":"READONLY"}`, answer{200, `{"mode":"READONLY"}`}},
		{"DELETE", "/mode/b1", "", answer{200, `{"mode":"READONLY"}`}},
		{"DELETE", "/subjects/b1", "", answer{200, `[1]`}},
		{"DELETE", "/subjects/b1/versions/1?permanent=true", "", answer{200, `1`}},
		{"DELETE", "/subjects/b2?permanent=true", "", answer{404, `{"error_code":40405,"message":"Subject 'b2' was not deleted first before being permanently deleted"}`}},
		{"POST", "/subjects/b3/versions", `{"schema":"{\"type\":\"record\",\"name\":\"R\",\"fields\":[{\"name\":\"b3\",\"type\":\"int\"}]}"}`, answer{409, ""}},
		{"POST", "/subjects/b3/versions", `{"schema":"no"}`, answer{422, ""}},
		{"POST", "/contexts/.c/subjects/s%2F%20%C3%A9/versions", `{"schema":"\"int\""}`, answer{200, ""}},
		{"GET", "/subjects/:.c:s%2F%20%C3%A9/versions", "", answer{200, "[1]"}},
	} {
		got := other.ask(x.method, x.path, "", x.body)
		if got.status != x.want.status || x.want.body != "" && got.body != x.want.body {
			t.Errorf("%s %s: %+v, want %+v", x.method, x.path, got, x.want)
		}
	}
	if list := sessions(topic); len(list) != 1 {
		t.Errorf("the log was taken over: %q", list)
	}
	checkHistory(t, topic)
}

// What this process writes itself goes the same way.
func TestPassOnAPI(t *testing.T) {
	topic := registrytest.NewTopic()
	writer, other := join(t, topic, joinOptions{}), join(t, topic, joinOptions{})
	writer.register("a", "x").id(t)
	api := other.store.API()
	registrar := registry.NewRegistrar(api)
	id, err := registrar.Register(t.Context(), "b", record("y"), string(registry.Full))
	if err != nil || id != 2 {
		t.Fatalf("registered with id %d, %v", id, err)
	}
	if level, own, err := api.Level(t.Context(), "b"); err != nil || !own || level != registry.Full {
		t.Errorf("the level is %s, own %v, %v", level, own, err)
	}
	if err := api.DeleteLevel(t.Context(), "b"); err != nil {
		t.Error(err)
	}
	if level, own, err := api.Level(t.Context(), "b"); err != nil || own || level != registry.Backward {
		t.Errorf("after it was deleted the level is %s, own %v, %v", level, own, err)
	}
	if _, err := api.RegisterSchema(t.Context(), "b", `{"type":"record","name":"R","fields":[{"name":"y","type":"int"}]}`, false); code(err) != registry.CodeIncompatible {
		t.Errorf("an incompatible schema: %v", err)
	}
	if list := sessions(topic); len(list) != 1 {
		t.Errorf("the log was taken over: %q", list)
	}
}

// A writer that asks for a user that this process does not have gives way to it: Kafka's rights are what counts.
func TestPassOnAPIRefused(t *testing.T) {
	topic := registrytest.NewTopic()
	writer := join(t, topic, joinOptions{users: []registry.User{{Name: "u", Password: "p", Role: registry.Writer}}})
	other := join(t, topic, joinOptions{})
	if err := writer.store.Open(t.Context()); err != nil {
		t.Fatal(err)
	}
	if id, err := other.store.API().RegisterSchema(t.Context(), "a", record("x"), false); err != nil || id != 1 {
		t.Fatalf("registered with id %d, %v", id, err)
	}
	if list := sessions(topic); len(list) != 2 {
		t.Errorf("sessions: %q", list)
	}
}

// The caller's user goes along, and both have to know it.
func TestPassOnUsers(t *testing.T) {
	topic := registrytest.NewTopic()
	both := registry.User{Name: "both", Password: "p", Role: registry.Writer}
	one := registry.User{Name: "one", Password: "p", Role: registry.Writer}
	writer := join(t, topic, joinOptions{users: []registry.User{both, {Name: "one", Password: "other", Role: registry.Writer}}})
	other := join(t, topic, joinOptions{users: []registry.User{both, one}})
	if err := writer.store.Open(t.Context()); err != nil {
		t.Fatal(err)
	}
	for _, x := range []struct {
		user string
		want int
	}{{"both:p", 200}, {"both:q", 401}, {"", 401}, {"one:p", 401}} {
		if got := other.ask("PUT", "/config", x.user, `{"compatibility":"FULL"}`); got.status != x.want {
			t.Errorf("as %q: %+v, want %d", x.user, got, x.want)
		}
	}
	if list := sessions(topic); len(list) != 1 {
		t.Errorf("the log was taken over: %q", list)
	}
}

// Each of several finds the writer gone at the same time. Whoever comes to write, no id is given twice, everyone is
// answered, and then they agree on one.
func TestTakeOverAtOnce(t *testing.T) {
	topic := registrytest.NewTopic()
	dead := join(t, topic, joinOptions{})
	dead.register("a", "x").id(t)
	gone := http.HandlerFunc(func(http.ResponseWriter, *http.Request) { panic(http.ErrAbortHandler) })
	dead.behind.Store(&gone)
	const others = 3
	var list []*joined
	var start sync.WaitGroup
	start.Add(others)
	for range others {
		j := join(t, topic, joinOptions{})
		var once sync.Once
		j.log.Fail = func(step string) error {
			if step == "start" {
				once.Do(func() {
					start.Done()
					start.Wait() // none fences before all are about to
				})
			}
			return nil
		}
		list = append(list, j)
	}
	var mu sync.Mutex
	ids := map[int]string{}
	var wg sync.WaitGroup
	for k, j := range list {
		wg.Go(func() {
			for i := range 10 {
				subject := fmt.Sprintf("s%d_%d", k, i)
				a := j.register(subject, subject)
				var v struct{ ID int }
				if err := json.Unmarshal([]byte(a.body), &v); err != nil || a.status != 200 {
					t.Errorf("answered %d %s", a.status, a.body)
					return
				}
				mu.Lock()
				if had, ok := ids[v.ID]; ok || v.ID == 1 {
					t.Errorf("id %d was given to %s and to %s", v.ID, had, subject)
				}
				ids[v.ID] = subject
				mu.Unlock()
			}
		})
	}
	wg.Wait()
	if len(ids) != others*10 {
		t.Errorf("%d ids", len(ids))
	}
	// Each takes over from the dead one at most once, and from nobody else.
	took := sessions(topic)
	if len(took) > 1+others {
		t.Errorf("the log was taken over by %q", took)
	}
	for _, j := range list {
		j.register("after", "after").id(t)
	}
	if now := sessions(topic); len(now) != len(took) {
		t.Errorf("they do not agree: %q after %q", now, took)
	}
	checkHistory(t, topic)
}

// The writer hangs in the middle of a registration, is taken over from, and comes back: its client gets the id that the
// other one has published, and it does not take the log back.
func TestWriterHangs(t *testing.T) {
	for _, step := range []string{"append", "written", "committed"} {
		t.Run(step, func(t *testing.T) {
			topic := registrytest.NewTopic()
			writer, other := join(t, topic, joinOptions{}), join(t, topic, joinOptions{patience: 300 * time.Millisecond})
			writer.register("a", "x").id(t)
			hung, resume := make(chan struct{}), make(chan struct{})
			var once sync.Once
			writer.log.Fail = func(s string) error {
				if s == step {
					once.Do(func() {
						silent := http.HandlerFunc(func(http.ResponseWriter, *http.Request) { <-resume })
						writer.behind.Store(&silent)
						close(hung)
						<-resume
					})
				}
				return nil
			}
			late := make(chan answer, 1)
			go func() { late <- writer.register("b", "y") }()
			<-hung
			c := other.register("c", "z").id(t)
			// What hung is asked for again where there is an answer.
			b := other.register("b", "y").id(t)
			close(resume)
			writer.behind.Store(nil)
			if got := (<-late).id(t); got != b {
				t.Errorf("the one that hung gave id %d, the one that took over %d", got, b)
			}
			if b == c || b == 1 || c == 1 {
				t.Errorf("ids 1, %d and %d", b, c)
			}
			writer.register("d", "w").id(t)
			if list := sessions(topic); len(list) != 2 {
				t.Errorf("sessions: %q", list)
			}
			checkHistory(t, topic)
		})
	}
}

// The answer to a write that was passed on is lost: once with the writer alive, once with it dead from then on.
func TestForwardedAnswerLost(t *testing.T) {
	for _, dies := range []bool{false, true} {
		topic := registrytest.NewTopic()
		writer, other := join(t, topic, joinOptions{}), join(t, topic, joinOptions{})
		writer.register("a", "x").id(t)
		at, err := url.Parse(writer.url)
		if err != nil {
			t.Fatal(err)
		}
		proxy := httputil.NewSingleHostReverseProxy(at)
		var passed, lost atomic.Int32
		cut := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if r.Method == "GET" && (lost.Load() == 0 || !dies) {
				proxy.ServeHTTP(w, r)
				return
			}
			if lost.Load() > 0 && !dies {
				passed.Add(1)
				proxy.ServeHTTP(w, r)
				return
			}
			if lost.Add(1) == 1 {
				body, err := io.ReadAll(r.Body)
				if err != nil {
					t.Error(err)
				}
				r.Body = io.NopCloser(bytes.NewReader(body))
				proxy.ServeHTTP(httptest.NewRecorder(), r)
			}
			panic(http.ErrAbortHandler)
		})
		writer.behind.Store(&cut)
		id := other.register("b", "y").id(t)
		if id != 2 || lost.Load() == 0 {
			t.Errorf("writer dead %v: id %d, %d answers lost", dies, id, lost.Load())
		}
		if got := other.ask("GET", "/subjects/b/versions", "", ""); got.body != "[1]" {
			t.Errorf("writer dead %v: versions %s", dies, got.body)
		}
		other.register("c", "z").id(t)
		if list := sessions(topic); !dies && (len(list) != 1 || passed.Load() != 2) || dies && len(list) != 2 {
			t.Errorf("writer dead %v: %q, passed on again %d times", dies, list, passed.Load())
		}
		checkHistory(t, topic)
	}
}

// No write goes in circles or to a stranger, whatever the addresses say.
func TestPassOnNeverCircles(t *testing.T) {
	var strange atomic.Int32
	stranger := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Method != "GET" || r.Header.Get("Authorization") != "" {
			strange.Add(1)
		}
		_, _ = w.Write([]byte("{}"))
	}))
	defer stranger.Close()
	topic := registrytest.NewTopic()
	b := join(t, topic, joinOptions{})
	for _, advertise := range []string{b.url, stranger.URL, "http://127.0.0.1:1"} {
		a := join(t, topic, joinOptions{advertise: advertise})
		if err := a.store.Open(t.Context()); err != nil {
			t.Fatal(err)
		}
		before := len(sessions(topic))
		if got := b.ask("PUT", "/config/"+fmt.Sprint(before), "u:p", `{"compatibility":"FULL"}`); got.status != 200 {
			t.Errorf("the writer is said to be at %s: %+v", advertise, got)
		}
		if now := len(sessions(topic)); now != before+1 {
			t.Errorf("the writer is said to be at %s: taken over %d times", advertise, now-before)
		}
	}
	if n := strange.Load(); n > 0 {
		t.Errorf("a stranger got %d requests that are not for it", n)
	}

	// Passed on to one that does not write: refused, and taken over by nobody.
	a := join(t, topic, joinOptions{})
	if a.register("x", "x").status != 200 {
		t.Fatal("not registered")
	}
	var instance string
	for _, e := range topic.Entries() {
		var v struct{ Instance, Advertise string }
		if string(e.Key) == `{"keytype":"NOOP","magic":0}` && e.Value != nil && json.Unmarshal(e.Value, &v) == nil {
			instance = v.Instance
		}
	}
	before := len(sessions(topic))
	req, err := http.NewRequestWithContext(t.Context(), "PUT", a.url+"/config", strings.NewReader(`{"compatibility":"NONE"}`))
	if err != nil {
		t.Fatal(err)
	}
	for _, x := range []struct {
		to     string
		fenced bool
		want   int
	}{{"0123456789abcdef", false, 500}, {instance, false, 200}, {instance, true, 500}} {
		if x.fenced {
			if err := a.store.Open(t.Context()); err != nil {
				t.Fatal(err)
			}
			before++
		}
		req.Header.Set("Walferry-Registry-Instance", x.to)
		req.URL.Host = strings.TrimPrefix(b.url, "http://")
		req.Body = io.NopCloser(strings.NewReader(fmt.Sprintf(`{"compatibility":"%s"}`, map[bool]string{false: "NONE", true: "FULL"}[x.fenced])))
		res, err := http.DefaultClient.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		if err := res.Body.Close(); err != nil {
			t.Error(err)
		}
		if res.StatusCode != x.want {
			t.Errorf("for %s: %d, want %d", x.to, res.StatusCode, x.want)
		}
	}
	if now := len(sessions(topic)); now != before {
		t.Errorf("taken over %d times", now-before)
	}
}
