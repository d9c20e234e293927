package registry_test

import (
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"testing"

	"walferry/schema/registry"
	"walferry/schema/registry/registrytest"
)

// TestClientReads asks a server in this process, which Handler is for, what a person wants to know of a registry.
func TestClientReads(t *testing.T) {
	store := registry.NewStore(registrytest.NewTopic().Log(), nil)
	if err := store.Open(t.Context()); err != nil {
		t.Fatal(err)
	}
	for _, x := range [][2]string{
		{"s/1 ü", `"int"`}, {"s/1 ü", `"long"`}, {"gone", `"int"`}, {"a", `{"type":"record","name":"r","fields":[]}`},
	} {
		if _, err := store.Register(t.Context(), x[0], registry.Request{Schema: x[1], Force: true}); err != nil {
			t.Fatal(err)
		}
	}
	refers := registry.Request{Schema: `{"type":"array","items":"r"}`, References: []registry.Reference{{Name: "r", Subject: "a", Version: 1}}}
	if _, err := store.Register(t.Context(), "b", refers); err != nil {
		t.Fatal(err)
	}
	for _, x := range [][2]string{{"s/1 ü", "1"}, {"gone", "1"}} {
		if _, err := store.DeleteVersion(t.Context(), x[0], x[1], false); err != nil {
			t.Fatal(err)
		}
	}
	client, err := registry.NewClient(registry.ClientConfig{URL: "http://nowhere.invalid", Handler: registry.NewServer(store, registry.ServerConfig{})})
	if err != nil {
		t.Fatal(err)
	}
	for deleted, want := range map[bool][]string{false: {"a", "b", "s/1 ü"}, true: {"a", "b", "gone", "s/1 ü"}} {
		if got, err := client.Subjects(t.Context(), deleted); err != nil || !slices.Equal(got, want) {
			t.Errorf("subjects: %q %v, want %q", got, err, want)
		}
	}
	for deleted, want := range map[bool][]int{false: {2}, true: {1, 2}} {
		if got, err := client.Versions(t.Context(), "s/1 ü", deleted); err != nil || !slices.Equal(got, want) {
			t.Errorf("versions: %v %v, want %v", got, err, want)
		}
	}
	if r, err := client.Version(t.Context(), "s/1 ü", "latest", false); err != nil || r.Version != 2 || r.ID != 2 || r.Schema != `"long"` || r.Type != registry.TypeAvro {
		t.Errorf("latest: %+v %v", r, err)
	}
	if r, err := client.Version(t.Context(), "s/1 ü", "1", true); err != nil || r.Version != 1 || r.ID != 1 {
		t.Errorf("a deleted version: %+v %v", r, err)
	}
	if r, err := client.Version(t.Context(), "b", "1", false); err != nil || !strings.Contains(r.Schema, `"fields"`) {
		t.Errorf("references are not written into it: %+v %v", r, err)
	}
	for _, x := range []struct {
		ask  func() error
		code int
	}{
		{func() error { _, err := client.Versions(t.Context(), "gone", false); return err }, registry.CodeSubjectNotFound},
		{func() error { _, err := client.Version(t.Context(), "s/1 ü", "1", false); return err }, registry.CodeVersionNotFound},
		{func() error { _, err := client.Version(t.Context(), "s/1 ü", "x", false); return err }, registry.CodeInvalidVersion},
	} {
		var e *registry.Error
		if err := x.ask(); !errors.As(err, &e) || e.Code != x.code {
			t.Errorf("%v, want code %d", err, x.code)
		}
	}
}

// TestClientReadsNonsense: what is no registry's answer is no answer.
func TestClientReadsNonsense(t *testing.T) {
	for _, answer := range []string{`{}`, `7`, `null`, `["a"]`, `[1.5]`, `{"id":1,"version":2}`, `{"id":"1","version":2,"schema":"x"}`} {
		client, err := registry.NewClient(registry.ClientConfig{URL: "http://nowhere.invalid", Retries: -1,
			Handler: http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { _, _ = fmt.Fprint(w, answer) })})
		if err != nil {
			t.Fatal(err)
		}
		var away *registry.UnavailableError
		if _, err := client.Subjects(t.Context(), false); !errors.As(err, &away) && answer[0] != '[' {
			t.Errorf("subjects out of %s: %v", answer, err)
		}
		if _, err := client.Versions(t.Context(), "s", false); !errors.As(err, &away) {
			t.Errorf("versions out of %s: %v", answer, err)
		}
		if _, err := client.Version(t.Context(), "s", "1", false); !errors.As(err, &away) {
			t.Errorf("a version out of %s: %v", answer, err)
		}
	}
}
