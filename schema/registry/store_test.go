package registry_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"walferry/schema/registry"
	"walferry/schema/registry/registrytest"
)

func record(fields ...string) string {
	var list []string
	for _, f := range fields {
		list = append(list, fmt.Sprintf(`{"name":"%s","type":["null","string"],"default":null}`, f))
	}
	return `{"type":"record","name":"R","fields":[` + strings.Join(list, ",") + `]}`
}

func register(t testing.TB, s *registry.Store, subject, schema string) registry.Registered {
	t.Helper()
	r, err := s.Register(t.Context(), subject, registry.Request{Schema: schema})
	if err != nil {
		t.Fatalf("register %s: %v", subject, err)
	}
	return r
}

func code(err error) int {
	var e *registry.Error
	if errors.As(err, &e) {
		return e.Code
	}
	var i *registry.IncompatibleError
	if errors.As(err, &i) {
		return registry.CodeIncompatible
	}
	return 0
}

func TestIDs(t *testing.T) {
	s := registry.NewStore(registrytest.NewTopic().Log(), nil)
	a := register(t, s, "a", record("x"))
	if a.ID != 1 || a.Version != 1 {
		t.Fatalf("the first registration is %+v", a)
	}
	if again := register(t, s, "a", " "+record("x")+"\n"); again.ID != a.ID || again.Version != 1 {
		t.Errorf("the same schema with other spaces is %+v", again)
	}
	if other := register(t, s, "b", record("x")); other.ID != a.ID || other.Version != 1 {
		t.Errorf("the same schema in another subject is %+v", other)
	}
	if next := register(t, s, "a", record("x", "y")); next.ID != 2 || next.Version != 2 {
		t.Errorf("the next version is %+v", next)
	}
	if old := register(t, s, "a", record("x")); old.ID != 1 || old.Version != 1 {
		t.Errorf("an older version again is %+v", old)
	}
	_, err := s.Register(t.Context(), "a", registry.Request{Schema: `{"type":"record","name":"R","fields":[{"name":"x","type":"int"}]}`})
	if code(err) != registry.CodeIncompatible || !strings.Contains(err.Error(), "'x'") {
		t.Errorf("an incompatible schema: %v", err)
	}
	if r, err := s.Register(t.Context(), "a", registry.Request{Schema: `{"type":"record","name":"R","fields":[{"name":"x","type":"int"}]}`, Force: true}); err != nil || r.ID != 3 {
		t.Errorf("forced: %+v, %v", r, err)
	}
	if ctx := register(t, s, ":.other:a", record("z")); ctx.ID != 1 {
		t.Errorf("another context counts for itself, got id %d", ctx.ID)
	}
}

// An id that was deleted for good is never given again, whatever compaction leaves.
func TestDeletedIDsStayTaken(t *testing.T) {
	topic := registrytest.NewTopic()
	s := registry.NewStore(topic.Log(), nil)
	register(t, s, "a", record("x"))
	top := register(t, s, "b", record("y"))
	for _, permanent := range []bool{false, true} {
		if _, err := s.DeleteSubject(t.Context(), "b", permanent); err != nil {
			t.Fatal(err)
		}
	}
	for range 3 {
		topic.Compact()
		s = registry.NewStore(topic.Log(), nil)
		if err := s.Open(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	if next := register(t, s, "c", record("z")); next.ID <= top.ID {
		t.Errorf("id %d was given again after %d", next.ID, top.ID)
	}
	if _, err := s.ByID(top.ID, ""); code(err) != registry.CodeSchemaNotFound {
		t.Errorf("a deleted id: %v", err)
	}
}

func TestSoftDelete(t *testing.T) {
	topic := registrytest.NewTopic()
	s := registry.NewStore(topic.Log(), nil)
	r := register(t, s, "a", record("x"))
	if _, err := s.DeleteVersion(t.Context(), "a", "1", true); code(err) != registry.CodeVersionNotSoftDeleted {
		t.Errorf("deleted for good at once: %v", err)
	}
	if n, err := s.DeleteVersion(t.Context(), "a", "latest", false); err != nil || n != 1 {
		t.Errorf("soft delete: %d, %v", n, err)
	}
	if _, err := s.DeleteVersion(t.Context(), "a", "1", false); code(err) != registry.CodeVersionSoftDeleted {
		t.Errorf("soft deleted twice: %v", err)
	}
	if _, err := s.ByID(r.ID, ""); err != nil {
		t.Errorf("the id of a soft deleted version: %v", err)
	}
	again := register(t, s, "a", record("x"))
	if again.ID != r.ID || again.Version != 2 {
		t.Errorf("registered again: %+v", again)
	}
	if got := s.Versions("a"); len(got) != 1 || got[0].Version != 2 {
		t.Errorf("versions: %+v", got)
	}
	topic.Compact()
	s = registry.NewStore(topic.Log(), nil)
	if err := s.Open(t.Context()); err != nil {
		t.Fatal(err)
	}
	if got := s.Versions("a"); len(got) != 1 || got[0].Version != 2 || got[0].ID != r.ID {
		t.Errorf("versions after compaction: %+v", got)
	}
}

// Two processes that both write take the log from each other, and each sees what the other wrote before it allocates.
func TestTwoWriters(t *testing.T) {
	topic := registrytest.NewTopic()
	stores := []*registry.Store{registry.NewStore(topic.Log(), nil), registry.NewStore(topic.Log(), nil)}
	var wg sync.WaitGroup
	var mu sync.Mutex
	ids := map[int32]string{}
	for w, s := range stores {
		wg.Go(func() {
			for i := range 30 {
				// Every third schema is one that the other registers, too.
				field := fmt.Sprintf("w%d_%d", w, i)
				if i%3 == 0 {
					field = fmt.Sprintf("both_%d", i)
				}
				var r registry.Registered
				for {
					var err error
					if r, err = s.Register(t.Context(), "s_"+field, registry.Request{Schema: record(field)}); err == nil {
						break
					}
					if code(err) != registry.CodeStore {
						t.Error(err)
						return
					}
				}
				mu.Lock()
				if had, ok := ids[r.ID]; ok && had != field {
					t.Errorf("id %d was given to %s and %s", r.ID, had, field)
				}
				ids[r.ID] = field
				mu.Unlock()
			}
		})
	}
	wg.Wait()
	if len(ids) != 50 {
		t.Errorf("%d ids for 50 schemas", len(ids))
	}
	checkHistory(t, topic)
}

func TestFollow(t *testing.T) {
	topic := registrytest.NewTopic()
	writer, reader := registry.NewStore(topic.Log(), nil), registry.NewStore(topic.Log(), nil)
	register(t, writer, "a", record("x"))
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error)
	go func() { done <- reader.Follow(ctx) }()
	r := register(t, writer, "a", record("x", "y"))
	limit, stop := context.WithTimeout(t.Context(), 20*time.Second)
	defer stop()
	for {
		if got, err := reader.ByID(r.ID, ""); err == nil {
			if got.Schema != r.Schema {
				t.Errorf("got %s", got.Schema)
			}
			break
		}
		if limit.Err() != nil {
			t.Fatal("not followed")
		}
		runtime.Gosched()
	}
	cancel()
	if err := <-done; !errors.Is(err, context.Canceled) {
		t.Errorf("follow ended with %v", err)
	}
}

// checkHistory reads the topic as a Confluent registry does, uncommitted from the first record: no id may ever have
// stood for two schemas, no version of a subject for two ids unless it was deleted in between.
func checkHistory(t testing.TB, topic *registrytest.Topic) {
	t.Helper()
	texts := map[string]string{}
	ids := map[string]int{}
	for _, e := range topic.Entries() {
		var k struct {
			Keytype, Subject string
			Version          int
		}
		if err := json.Unmarshal(e.Key, &k); err != nil {
			t.Fatal(err)
		}
		if k.Keytype != "SCHEMA" {
			continue
		}
		at := fmt.Sprintf("%s/%d", k.Subject, k.Version)
		if e.Value == nil {
			delete(ids, at)
			continue
		}
		var v struct {
			ID     int
			Schema string
		}
		if err := json.Unmarshal(e.Value, &v); err != nil {
			t.Fatal(err)
		}
		ctx := "."
		if strings.HasPrefix(k.Subject, ":.") {
			ctx, _, _ = strings.Cut(k.Subject[1:], ":")
		}
		id := fmt.Sprintf("%s/%d", ctx, v.ID)
		if had, ok := texts[id]; ok && had != v.Schema {
			t.Errorf("offset %d: id %s was given to %s and to %s", e.Offset, id, had, v.Schema)
		}
		texts[id] = v.Schema
		if had, ok := ids[at]; ok && had != v.ID {
			t.Errorf("offset %d: %s had id %d and has %d", e.Offset, at, had, v.ID)
		}
		ids[at] = v.ID
	}
}

// errCrashed is what a log's step returns when the process dies there.
var errCrashed = errors.New("errCrashed")

// TestCrashPoints runs one story as often as it has steps and stops it at another step each time: once with the
// process dead, which a new one follows; once with the answer lost and the process alive.
func TestCrashPoints(t *testing.T) {
	for _, dies := range []bool{true, false} {
		steps := story(t, dies)
		if steps < 45 {
			t.Fatalf("the story has only %d steps", steps)
		}
		for at := range steps {
			// Once alone, and once with a second stop in what follows: the recovery is stopped, too.
			for _, second := range []int{-1, at + 1, at + 2, at + 4, at + 7} {
				story(t, dies, at, second)
				if t.Failed() {
					t.Fatalf("stopped at steps %d and %d of %d, process dead: %v", at, second, steps, dies)
				}
			}
		}
		t.Logf("%d steps, process dead: %v", steps, dies)
	}
}

// story returns how many steps it took. Those listed in stops fail.
func story(t *testing.T, dies bool, stops ...int) (steps int) {
	topic := registrytest.NewTopic()
	dead := false
	var store *registry.Store
	process := func() {
		log := topic.Log()
		dead = false
		log.Fail = func(string) error {
			if dead {
				return errCrashed
			}
			steps++
			if slices.Contains(stops, steps-1) {
				dead = dies
				return errCrashed
			}
			return nil
		}
		store = registry.NewStore(log, nil)
	}
	process()
	// do tries until it is answered, as a client does.
	do := func(what string, fn func() error) {
		for range 4 {
			err := fn()
			if err == nil {
				return
			}
			if c := code(err); c != registry.CodeStore && c != registry.CodeTimeout {
				t.Fatalf("%s: %v", what, err)
			}
			if dead {
				process()
			}
		}
		t.Fatalf("%s: never answered", what)
	}
	type place struct {
		subject string
		version int
	}
	acked := map[place]int32{}
	texts := map[int32]string{}
	gone := map[place]bool{}
	reg := func(subject, schema string) {
		var r registry.Registered
		do("register "+subject, func() (err error) {
			r, err = store.Register(t.Context(), subject, registry.Request{Schema: schema})
			return err
		})
		p := place{subject, r.Version}
		if id, ok := acked[p]; ok && id != r.ID {
			t.Errorf("%v had id %d and has %d", p, id, r.ID)
		}
		if text, ok := texts[r.ID]; ok && text != r.Schema {
			t.Errorf("id %d had %s and has %s", r.ID, text, r.Schema)
		}
		acked[p], texts[r.ID] = r.ID, r.Schema
		delete(gone, p)
	}
	reg("a", record("x"))
	reg("b", record("x"))
	reg("a", record("x", "y"))
	reg("c", record("z"))
	do("level", func() error { return store.SetLevel(t.Context(), "a", registry.Full) })
	del := func(subject string, versions ...int) {
		for _, permanent := range []bool{false, true} {
			do("delete "+subject, func() error {
				_, err := store.DeleteSubject(t.Context(), subject, permanent)
				if c := code(err); c == registry.CodeSubjectSoftDeleted || permanent && c == registry.CodeSubjectNotFound {
					return nil // an attempt without an answer did it
				}
				return err
			})
		}
		for _, v := range versions {
			gone[place{subject, v}] = true
		}
	}
	del("c", 1) // the highest id
	topic.Compact()
	process() // a restart
	reg("d", record("w"))
	do("delete version", func() error {
		_, err := store.DeleteVersion(t.Context(), "a", "1", false)
		if code(err) == registry.CodeVersionSoftDeleted {
			return nil
		}
		return err
	})
	reg("a", record("x")) // comes back as version 3, version 1 goes
	gone[place{"a", 1}] = true
	reg("e", record("v"))

	checkHistory(t, topic)
	for _, compact := range []bool{false, true} {
		if compact {
			topic.Compact()
		}
		after := registry.NewStore(topic.Log(), nil)
		if err := after.Open(t.Context()); err != nil {
			t.Fatal(err)
		}
		for p, id := range acked {
			r, err := after.Version(p.subject, fmt.Sprint(p.version), true)
			switch {
			case gone[p] && err == nil:
				t.Errorf("%v is deleted and there", p)
			case !gone[p] && (err != nil || r.ID != id):
				t.Errorf("%v was acknowledged with id %d and is %+v, %v", p, id, r, err)
			}
		}
		if level, own := after.Level("a"); level != registry.Full || !own {
			t.Errorf("the level of a is %s", level)
		}
		last := register(t, after, "probe", record("probe"))
		if _, taken := texts[last.ID]; taken && texts[last.ID] != last.Schema {
			t.Errorf("id %d is given again", last.ID)
		}
		texts[last.ID] = last.Schema
		checkHistory(t, topic)
	}
	return steps
}

// What was aborted becomes true as it was, before anything new is written.
func TestAbortedIsPublishedAgain(t *testing.T) {
	topic := registrytest.NewTopic()
	log := topic.Log()
	s := registry.NewStore(log, nil)
	register(t, s, "a", record("x"))
	log.Fail = func(step string) error {
		if step == "written" || step == "start" {
			return errCrashed
		}
		return nil
	}
	if _, err := s.Register(t.Context(), "b", registry.Request{Schema: record("lost")}); code(err) != registry.CodeStore {
		t.Fatalf("got %v", err)
	}
	if _, err := s.ByID(2, ""); err == nil {
		t.Error("an uncommitted registration is served")
	}
	s = registry.NewStore(topic.Log(), nil)
	other := register(t, s, "c", record("new"))
	if other.ID != 3 {
		t.Errorf("the next id is %d", other.ID)
	}
	if got, err := s.Version("b", "latest", false); err != nil || got.ID != 2 || got.Schema != record("lost") {
		t.Errorf("the lost registration is %+v, %v", got, err)
	}
	var order []string
	for _, e := range topic.Entries() {
		if strings.Contains(string(e.Key), "SCHEMA") {
			order = append(order, fmt.Sprintf("%s %v", e.Key, e.Aborted))
		}
	}
	want := []string{
		`{"keytype":"SCHEMA","subject":"a","version":1,"magic":1} false`,
		`{"keytype":"SCHEMA","subject":"b","version":1,"magic":1} true`,
		`{"keytype":"SCHEMA","subject":"b","version":1,"magic":1} false`,
		`{"keytype":"SCHEMA","subject":"c","version":1,"magic":1} false`,
	}
	if !slices.Equal(order, want) {
		t.Errorf("the log is\n%s", strings.Join(order, "\n"))
	}
}

func TestReferences(t *testing.T) {
	s := registry.NewStore(registrytest.NewTopic().Log(), nil)
	register(t, s, "money", `{"type":"record","name":"Money","namespace":"shop","fields":[{"name":"cents","type":"long"}]}`)
	order := registry.Request{
		Schema:     `{"type":"record","name":"Order","namespace":"shop","fields":[{"name":"total","type":"Money"}]}`,
		References: []registry.Reference{{Name: "shop.Money", Subject: "money", Version: 1}},
	}
	r, err := s.Register(t.Context(), "order", order)
	if err != nil {
		t.Fatal(err)
	}
	if r.Schema != order.Schema {
		t.Errorf("the reference was written out: %s", r.Schema)
	}
	whole := `{"type":"record","name":"Order","namespace":"shop","fields":[{"name":"total","type":{"type":"record","name":"Money","fields":[{"name":"cents","type":"long"}]}}]}`
	if got, err := s.Lookup("order", registry.Request{Schema: whole}, false); err != nil || got.ID != r.ID {
		t.Errorf("looked up with the reference written out: %+v, %v", got, err)
	}
	if _, err := s.DeleteVersion(t.Context(), "money", "1", false); code(err) != registry.CodeReferenceExists {
		t.Errorf("a version that is referred to was deleted: %v", err)
	}
	if _, err := s.DeleteSubject(t.Context(), "money", false); code(err) != registry.CodeReferenceExists {
		t.Errorf("a subject that is referred to was deleted: %v", err)
	}
	if ids, err := s.Referrers("money", "1", false); err != nil || !slices.Equal(ids, []int32{r.ID}) {
		t.Errorf("referrers: %v, %v", ids, err)
	}
	order.References[0].Version = 9
	if _, err := s.Register(t.Context(), "order2", order); code(err) != registry.CodeInvalidSchema {
		t.Errorf("a reference to nothing: %v", err)
	}
}
