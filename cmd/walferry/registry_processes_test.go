package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"walferry/internal/kafka"
	"walferry/internal/proc"
	"walferry/internal/testbed"
)

// registries are processes of `walferry registry serve` on one topic of a real Kafka.
type registries struct {
	t      *testing.T
	binary string
	broker *testbed.Broker
	topic  string
	dir    string
}

func newRegistries(t *testing.T) *registries {
	return &registries{
		t: t, binary: buildBinary(t, "-tags", "failpoints"), broker: testbed.Kafka(t),
		topic: fmt.Sprintf("_schemas-%d", time.Now().UnixNano()), dir: t.TempDir(),
	}
}

// serving is one of them, or its next life at the same address.
type serving struct {
	*proc.Process
	r       *registries
	address string
}

// serve starts one with the failpoints that are given, and waits until it is ready, or dead where a failpoint may strike
// before. There is no section about a database in its configuration.
func (r *registries) serve(address, failpoints string) *serving {
	r.t.Helper()
	file := filepath.Join(r.dir, strings.ReplaceAll(address, ":", "-")+".yml")
	text := fmt.Sprintf("kafka: {brokers: [%q]}\nregistry: {listen: %q, topic: %q}\n", r.broker.Addr, address, r.topic)
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		r.t.Fatal(err)
	}
	s := &serving{launch(r.t, r.binary, filepath.Base(file), []string{"WALFERRY_FAILPOINTS=" + failpoints}, "registry", "serve", "--config", file), r, address}
	for end := time.Now().Add(time.Minute); ; time.Sleep(5 * time.Millisecond) {
		status, _, err := s.ask(r.t.Context(), "GET", "/readyz", "")
		if err == nil && status == http.StatusOK {
			return s
		}
		if time.Now().After(end) || !s.Running() {
			r.t.Fatalf("the registry at %s is not ready: %d, %v", address, status, err)
		}
	}
}

// ask sends a request on a connection of its own.
func (s *serving) ask(ctx context.Context, method, path, body string) (int, string, error) {
	req, err := http.NewRequestWithContext(ctx, method, "http://"+s.address+path, strings.NewReader(body))
	if err != nil {
		return 0, "", err
	}
	req.Close = true
	res, err := http.DefaultClient.Do(req)
	if err != nil {
		return 0, "", err
	}
	text, err := io.ReadAll(res.Body)
	return res.StatusCode, string(text), errors.Join(err, res.Body.Close())
}

// register returns the id of a schema that is the subject's own; an error when there was no answer that has one.
func (s *serving) register(ctx context.Context, subject string) (int, error) {
	schema := fmt.Sprintf(`{"type":"record","name":"R","fields":[{"name":"f_%s","type":"int"}]}`, subject)
	body, err := json.Marshal(map[string]string{"schema": schema})
	if err != nil {
		return 0, err
	}
	status, text, err := s.ask(ctx, "POST", "/subjects/"+subject+"/versions", string(body))
	if err != nil {
		return 0, err
	}
	var v struct{ ID int }
	if err := json.Unmarshal([]byte(text), &v); err != nil || status != http.StatusOK {
		return 0, fmt.Errorf("%d %s", status, text)
	}
	return v.ID, nil
}

func (s *serving) mustRegister(subject string) int {
	s.r.t.Helper()
	id, err := s.register(s.r.t.Context(), subject)
	if err != nil {
		s.r.t.Fatalf("register %s at %s: %v", subject, s.address, err)
	}
	return id
}

func (s *serving) kill() {
	s.r.t.Helper()
	if err := s.Stop(syscall.SIGKILL, 10*time.Second); err != nil {
		s.r.t.Fatal(err)
	}
}

// history reads the topic as a Confluent registry does, uncommitted from the first record: no id may ever have stood for two
// schemas, no version of a subject for two ids. It returns the id of each subject's version and who took the log over.
func (r *registries) history() (ids map[string]int, sessions []string) {
	r.t.Helper()
	client, err := kafka.New(kafka.Config{Brokers: []string{r.broker.Addr}})
	if err != nil {
		r.t.Fatal(err)
	}
	defer client.Close()
	end, err := client.ListOffset(r.t.Context(), r.topic, 0, kafka.Latest)
	if err != nil {
		r.t.Fatal(err)
	}
	ids, texts := map[string]int{}, map[int]string{}
	err = client.ReplayAll(r.t.Context(), r.topic, 0, end-1, func(rec kafka.Record, committed bool) error {
		var k struct {
			Keytype, Subject string
			Version          int
		}
		var v struct {
			ID                int
			Schema, Advertise string
		}
		if err := json.Unmarshal(rec.Key, &k); err != nil {
			return err
		}
		if rec.Value != nil {
			if err := json.Unmarshal(rec.Value, &v); err != nil {
				return err
			}
		}
		switch {
		case k.Keytype == "NOOP" && v.Advertise != "" && committed:
			sessions = append(sessions, v.Advertise)
		case k.Keytype == "SCHEMA" && rec.Value != nil:
			at := fmt.Sprintf("%s/%d", k.Subject, k.Version)
			if had, ok := ids[at]; ok && had != v.ID {
				r.t.Errorf("offset %d: %s had id %d and has %d", rec.Offset, at, had, v.ID)
			}
			if had, ok := texts[v.ID]; ok && had != v.Schema {
				r.t.Errorf("offset %d: id %d was given to %s and to %s", rec.Offset, v.ID, had, v.Schema)
			}
			ids[at], texts[v.ID] = v.ID, v.Schema
		}
		return nil
	})
	if err != nil {
		r.t.Fatal(err)
	}
	return ids, sessions
}

// TestRegistryKilled kills the registry at every point between two durable steps, the first, second and third time that it
// is there: in the transaction of the session record, of what is published again, and of a registration. The client asks
// again until it is answered.
func TestRegistryKilled(t *testing.T) {
	r := newRegistries(t)
	address := freeAddr(t)
	points := []string{
		"registry-fenced", "registry-marked", "registry-read", "registry-append", "registry-appended", "registry-answer",
		"publish-begun", "publish-added", "publish-produced", "publish-committed",
	}
	var lives []string
	for _, p := range points {
		for n := 1; n <= 3; n++ {
			if strings.HasPrefix(p, "publish-") || n == 1 {
				lives = append(lives, fmt.Sprintf("%s=count:%d:kill", p, n))
			}
		}
	}
	answered := map[string]int{}
	killed := 0
	n := 0
	s := r.serve(address, lives[0])
	for next := 1; ; {
		n++
		subject := fmt.Sprintf("s%d", n)
		id, err := s.register(t.Context(), subject)
		for err != nil {
			if s.Running() {
				select {
				case <-s.Done():
				case <-time.After(30 * time.Second):
					t.Fatalf("no answer from a process that lives: %v", err)
				}
			}
			killed++
			point := ""
			if next < len(lives) {
				point = lives[next]
			}
			next++
			s = r.serve(address, point)
			id, err = s.register(t.Context(), subject)
		}
		answered[subject+"/1"] = id
		if next > len(lives) {
			break
		}
		if n > 20*len(lives) {
			t.Fatalf("after %d registrations only %d of %d lives have ended", n, next, len(lives))
		}
	}
	if killed != len(lives) {
		t.Errorf("%d of %d lives ended at their point", killed, len(lives))
	}
	s.mustRegister("last")
	ids, _ := r.history()
	for at, id := range answered {
		if ids[at] != id {
			t.Errorf("%s was answered with id %d and has %d", at, id, ids[at])
		}
	}
	for at, id := range ids {
		status, text, err := s.ask(t.Context(), "GET", fmt.Sprintf("/schemas/ids/%d/versions", id), "")
		subject, _, _ := strings.Cut(at, "/")
		if want := fmt.Sprintf(`[{"subject":"%s","version":1}]`, subject); err != nil || status != http.StatusOK || text != want {
			t.Errorf("id %d: %d %s, %v; want %s", id, status, text, err, want)
		}
	}
}

// TestRegistryProcesses: three processes on one topic of a real Kafka. The one that writes hangs in the middle of a
// registration and comes back, the next one is killed and comes back, the last one is asked to end.
func TestRegistryProcesses(t *testing.T) {
	r := newRegistries(t)
	ids := map[string]int{}
	put := func(s *serving, subject string) {
		t.Helper()
		id := s.mustRegister(subject)
		for other, had := range ids {
			if other != subject && had == id {
				t.Errorf("id %d was given to %s and to %s", id, other, subject)
			}
		}
		if had, ok := ids[subject]; ok && had != id {
			t.Errorf("%s had id %d and has %d", subject, had, id)
		}
		ids[subject] = id
	}
	// The fourth transaction is that of the third registration, after the session record and two that are passed on to it.
	a := r.serve(freeAddr(t), "publish-produced=count:4:stop")
	b, c := r.serve(freeAddr(t), ""), r.serve(freeAddr(t), "")
	put(a, "a1")
	put(b, "b1")
	if _, sessions := r.history(); len(sessions) != 1 {
		t.Fatalf("a write was not passed on: %q", sessions)
	}
	type late struct {
		id  int
		err error
	}
	hanging := make(chan late, 1)
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	go func() {
		id, err := a.register(ctx, "hung")
		hanging <- late{id, err}
	}()
	for end := time.Now().Add(time.Minute); !stopped(t, a.Process); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatal("it does not hang")
		}
	}
	begin := time.Now()
	put(b, "b2")
	t.Logf("taken over from a writer that hangs, and registered, after %v", time.Since(begin).Round(time.Millisecond))
	put(c, "hung")
	if err := a.Signal(syscall.SIGCONT); err != nil {
		t.Fatal(err)
	}
	if got := <-hanging; got.err != nil || got.id != ids["hung"] {
		t.Errorf("the one that hung answers with id %d, %v; it is %d", got.id, got.err, ids["hung"])
	}
	put(a, "a2")
	_, sessions := r.history()
	if want := []string{"http://" + a.address, "http://" + b.address}; !slices.Equal(sessions, want) {
		t.Errorf("who took over: %q, want %q", sessions, want)
	}

	b.kill()
	begin = time.Now()
	put(c, "c1")
	t.Logf("taken over from a writer that is dead, and registered, after %v", time.Since(begin).Round(time.Millisecond))
	put(a, "a3")
	b = r.serve(b.address, "")
	put(b, "b3")
	if _, sessions := r.history(); len(sessions) != 3 || sessions[2] != "http://"+c.address {
		t.Errorf("who took over: %q", sessions)
	}
	if err := c.Stop(syscall.SIGTERM, time.Minute); err != nil {
		t.Errorf("SIGTERM: %v", err)
	}
	put(a, "a4")
	for _, s := range []*serving{a, b} {
		for subject, id := range ids {
			if got := s.mustRegister(subject); got != id {
				t.Errorf("%s has id %d at %s, and %d elsewhere", subject, got, s.address, id)
			}
		}
	}
	seen, _ := r.history()
	for subject, id := range ids {
		if seen[subject+"/1"] != id {
			t.Errorf("%s has id %d, and %d in the topic", subject, id, seen[subject+"/1"])
		}
	}
}
