package registry_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"

	"walferry/schema/registry"
	"walferry/schema/registry/registrytest"
)

// everything is requests that leave a registry with one of everything.
const everything = `
PUT /config {"compatibility":"FULL"}
POST /subjects/orders-value/versions {"schema":"{\"type\":\"record\",\"name\":\"Order\",\"fields\":[{\"name\":\"id\",\"type\":\"long\"}]}"}
POST /subjects/orders-value/versions {"schema":"{\"type\":\"record\",\"name\":\"Order\",\"fields\":[{\"name\":\"id\",\"type\":\"long\"},{\"name\":\"note\",\"type\":\"string\",\"default\":\"\"}]}"}
POST /subjects/a%2Fb%20%C3%A9/versions {"schema":"{\"type\":\"record\",\"name\":\"Order\",\"fields\":[{\"name\":\"id\",\"type\":\"long\"}]}"}
POST /subjects/zz-money/versions {"schema":"{\"type\":\"record\",\"name\":\"Money\",\"fields\":[{\"name\":\"cents\",\"type\":\"long\"}]}"}
POST /subjects/price/versions {"schema":"{\"type\":\"record\",\"name\":\"Price\",\"fields\":[{\"name\":\"net\",\"type\":\"Money\"}]}","references":[{"name":"Money","subject":"zz-money","version":1}],"metadata":{"properties":{"z":"1","a":"2"}}}
POST /subjects/person/versions {"schemaType":"JSON","schema":"{\"type\":\"object\"}"}
POST /subjects/proto/versions {"schemaType":"PROTOBUF","schema":"message A {}\n"}
POST /subjects/gone/versions {"schema":"\"float\""}
POST /subjects/gone/versions {"schema":"\"float\""}
DELETE /subjects/gone
POST /subjects/half/versions {"schema":"{\"type\":\"enum\",\"name\":\"E\",\"symbols\":[\"A\"]}"}
POST /subjects/half/versions {"schema":"{\"type\":\"enum\",\"name\":\"E\",\"doc\":\"x\",\"symbols\":[\"A\"]}"}
DELETE /subjects/half/versions/1
POST /subjects/buried/versions {"schema":"\"bytes\""}
DELETE /subjects/buried
DELETE /subjects/buried?permanent=true
POST /subjects/:.staging:s/versions {"schema":"\"boolean\""}
PUT /config/orders-value {"compatibility":"NONE","normalize":true}
PUT /config/:.staging: {"compatibility":"FORWARD"}
PUT /config/price {"compatibility":"FORWARD_TRANSITIVE"}
PUT /mode/orders-value {"mode":"READONLY"}
PUT /mode/:.staging: {"mode":"READONLY"}
`

// full is that registry.
func full(t testing.TB) (*registry.Store, string) {
	t.Helper()
	store, server := newServer(t, registry.ServerConfig{})
	for line := range strings.Lines(everything) {
		method, rest, ok := strings.Cut(strings.TrimSpace(line), " ")
		if !ok {
			continue
		}
		path, body, _ := strings.Cut(rest, " ")
		if answer := ask(t, server.URL, method, path, body); !strings.HasPrefix(answer, "200 ") {
			t.Fatalf("%s: %s", line, answer)
		}
	}
	return store, server.URL
}

func text(t testing.TB, d *registry.Dump) string {
	t.Helper()
	var b bytes.Buffer
	if err := d.Write(&b); err != nil {
		t.Fatal(err)
	}
	return b.String()
}

// A dump is the same from the topic and through the API, comes back byte for byte, and is no work the second time.
func TestExportImport(t *testing.T) {
	source, url := full(t)
	want := text(t, source.Dump())
	d, err := registry.ReadDump(strings.NewReader(want))
	if err != nil {
		t.Fatal(err)
	}
	if got := text(t, d); got != want {
		t.Fatalf("read and written\n%s\nis\n%s", want, got)
	}
	t.Run("read through the API", func(t *testing.T) {
		api, err := newClient(t, registry.ClientConfig{URL: url, Retries: -1}).Dump(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		if got := text(t, api); got != want {
			t.Errorf("the API says\n%s\nthe topic\n%s", got, want)
		}
	})
	t.Run("into a topic", func(t *testing.T) {
		topic := registrytest.NewTopic()
		target := registry.NewStore(topic.Log(), nil)
		for round, entries := range []int{d.Len(), 0} {
			n, err := target.Import(t.Context(), d)
			if err != nil || n != entries {
				t.Fatalf("round %d: %d entries, %v", round, n, err)
			}
			if got := text(t, target.Dump()); got != want {
				t.Fatalf("round %d\n%s\nwant\n%s", round, got, want)
			}
		}
		before := len(topic.Entries())
		if _, err := target.Import(t.Context(), d); err != nil || len(topic.Entries()) != before {
			t.Errorf("nothing to do wrote %d records, %v", len(topic.Entries())-before, err)
		}
		// Ids go on behind the highest that was ever given, and readers find what they found.
		if r := register(t, target, "next", `"double"`); r.ID != source.MaxID("")+1 {
			t.Errorf("next id: %d", r.ID)
		}
		again := registry.NewStore(topic.Log(), nil)
		if err := again.Open(t.Context()); err != nil {
			t.Fatal(err)
		}
		if r, err := again.ByID(1, ""); err != nil || !strings.Contains(r.Schema, "Order") {
			t.Errorf("id 1 after a restart: %+v, %v", r, err)
		}
	})
	t.Run("through the API", func(t *testing.T) {
		target, server := newServer(t, registry.ServerConfig{})
		client := newClient(t, registry.ClientConfig{URL: server.URL, Retries: -1})
		for round := range 2 {
			n, err := client.Import(t.Context(), d)
			if err != nil || (n == 0) != (round == 1) {
				t.Fatalf("round %d: %d entries, %v", round, n, err)
			}
			// The id that was given to what is buried cannot be told through the API.
			wanted := strings.Replace(want, fmt.Sprintf(`"maxId":%d}`, source.MaxID("")), fmt.Sprintf(`"maxId":%d}`, target.MaxID("")), 1)
			if got := text(t, target.Dump()); got != wanted {
				t.Fatalf("round %d\n%s\nwant\n%s", round, got, wanted)
			}
		}
	})
}

// Whatever is there otherwise is a conflict, said in one sentence before anything is written.
func TestImportConflicts(t *testing.T) {
	source, _ := full(t)
	d := source.Dump()
	for name, c := range map[string]struct{ request, want string }{
		"id":      {`POST /subjects/x/versions {"schema":"\"string\""}`, "nothing was imported: id 1 is another schema in the registry, version 1 of subject x, and 1 more"},
		"level":   {`PUT /config/orders-value {"compatibility":"FULL"}`, "nothing was imported: the registry has another configuration for orders-value"},
		"all":     {`PUT /config {"compatibility":"NONE"}`, "nothing was imported: the registry has another configuration for all subjects"},
		"mode":    {`PUT /mode/orders-value {"mode":"READWRITE"}`, "nothing was imported: the registry has mode READWRITE for orders-value"},
		"version": {`POST /subjects/orders-value/versions {"id":900,"schema":"\"string\""}`, "nothing was imported: version 1 of subject orders-value has the id 900 in the registry, not 1"},
		"deleted": {`POST /subjects/gone/versions {"id":7,"schema":"\"float\""}`, "nothing was imported: version 1 of subject gone is not deleted in the registry"},
		"frozen":  {`PUT /mode {"mode":"READONLY"}`, "Subject a/b é in context  is in read-only mode"},
	} {
		t.Run(name, func(t *testing.T) {
			topic := registrytest.NewTopic()
			target := registry.NewStore(topic.Log(), nil)
			_, server := serverOf(t, target)
			method, rest, _ := strings.Cut(c.request, " ")
			path, body, _ := strings.Cut(rest, " ")
			if strings.Contains(body, `"id"`) {
				ask(t, server.URL, "PUT", "/mode", `{"mode":"IMPORT"}`)
			}
			if answer := ask(t, server.URL, method, path, body); !strings.HasPrefix(answer, "200 ") {
				t.Fatal(answer)
			}
			if strings.Contains(body, `"id"`) {
				ask(t, server.URL, "DELETE", "/mode", "")
			}
			before := len(topic.Entries())
			_, err := target.Import(t.Context(), d)
			if err == nil || err.Error() != c.want {
				t.Errorf("into the topic: %v\nwant %s", err, c.want)
			}
			_, err = newClient(t, registry.ClientConfig{URL: server.URL, Retries: -1}).Import(t.Context(), d)
			if err == nil || err.Error() != c.want {
				t.Errorf("through the API: %v\nwant %s", err, c.want)
			}
			if after := len(topic.Entries()); after != before {
				t.Errorf("%d records were written", after-before)
			}
		})
	}
}

// Killed at any step and begun again, an import ends as if nothing had happened.
func TestImportKilled(t *testing.T) {
	source, _ := full(t)
	d := source.Dump()
	want := text(t, d)
	t.Run("into a topic", func(t *testing.T) {
		for stop := 0; ; stop++ {
			topic := registrytest.NewTopic()
			step := 0
			log := topic.Log()
			log.Fail = func(string) error {
				if step++; step > stop {
					return errCrashed
				}
				return nil
			}
			ctx, cancel := context.WithCancel(t.Context())
			_, err := registry.NewStore(log, nil).Import(ctx, d)
			cancel()
			target := registry.NewStore(topic.Log(), nil)
			if _, err := target.Import(t.Context(), d); err != nil {
				t.Fatalf("again after step %d: %v", stop, err)
			}
			if got := text(t, target.Dump()); got != want {
				t.Fatalf("again after step %d\n%s\nwant\n%s", stop, got, want)
			}
			checkHistory(t, topic)
			if err == nil {
				return
			}
		}
	})
	t.Run("through the API", func(t *testing.T) {
		for stop := 0; ; stop++ {
			target, server := newServer(t, registry.ServerConfig{})
			ctx, cancel := context.WithCancelCause(t.Context())
			client := newClient(t, registry.ClientConfig{URL: stopping(t, server.URL, stop, func() { cancel(errCrashed) }), Retries: -1})
			_, err := client.Import(ctx, d)
			cancel(nil)
			if _, err := newClient(t, registry.ClientConfig{URL: server.URL, Retries: -1}).Import(t.Context(), d); err != nil {
				t.Fatalf("again after request %d: %v", stop, err)
			}
			wanted := strings.Replace(want, fmt.Sprintf(`"maxId":%d}`, source.MaxID("")), fmt.Sprintf(`"maxId":%d}`, target.MaxID("")), 1)
			if got := text(t, target.Dump()); got != wanted {
				t.Fatalf("again after request %d\n%s\nwant\n%s", stop, got, wanted)
			}
			if err == nil {
				return
			}
		}
	})
}

// What is no whole export is refused with the line.
func TestReadDump(t *testing.T) {
	source, _ := full(t)
	whole := text(t, source.Dump())
	lines := strings.SplitAfter(strings.TrimSuffix(whole, "\n"), "\n")
	for name, c := range map[string]struct{ text, want string }{
		"empty":     {"", "there is nothing in it"},
		"other":     {"{}", "line 1: this is no export of a registry"},
		"newer":     {strings.Replace(whole, `"format":1`, `"format":2`, 1), "line 1: format 2 is not known"},
		"cut":       {strings.Join(lines[:len(lines)-1], ""), "it is not whole"},
		"cut line":  {whole[:len(whole)-9], "not JSON"},
		"twice":     {strings.Replace(whole, lines[len(lines)-1], lines[len(lines)-2], 1), "is in it twice"},
		"two of id": {strings.Replace(whole, `"id":2,`, `"id":1,`, 1), "which is another schema"},
		"subject":   {strings.Replace(whole, `"subject":"proto"`, `"subject":"__GLOBAL"`, 1), `"__GLOBAL" is no subject`},
		"kind":      {strings.Replace(whole, `"kind":"mode"`, `"kind":"mood"`, 1), `kind "mood" is not known`},
		"mode":      {strings.Replace(whole, `"mode":"READONLY"`, `"mode":"SIDEWAYS"`, 1), `"SIDEWAYS" is no mode`},
		"level":     {strings.Replace(whole, `"NONE"`, `"SOME"`, 1), `"SOME" is no compatibility level`},
	} {
		t.Run(name, func(t *testing.T) {
			if _, err := registry.ReadDump(strings.NewReader(c.text)); err == nil || !strings.Contains(err.Error(), c.want) {
				t.Errorf("%v\nwant %s", err, c.want)
			}
		})
	}
	var conflict *registry.ImportConflictError
	if err := error(&registry.ImportConflictError{First: "x", More: 2}); !errors.As(err, &conflict) || err.Error() != "nothing was imported: x, and 2 more" {
		t.Error(err)
	}
}

// FuzzReadDump: what is read is written and read again as the same, and can be imported into an empty registry.
func FuzzReadDump(f *testing.F) {
	source, _ := full(f)
	f.Add(text(f, source.Dump()))
	f.Add(`{"kind":"registry","format":1,"entries":0}`)
	f.Fuzz(func(t *testing.T, in string) {
		d, err := registry.ReadDump(strings.NewReader(in))
		if err != nil {
			return
		}
		first := text(t, d)
		again, err := registry.ReadDump(strings.NewReader(first))
		if err != nil {
			t.Fatalf("%v\n%s", err, first)
		}
		if second := text(t, again); second != first {
			t.Fatalf("written and read\n%s\nis\n%s", first, second)
		}
		target := registry.NewStore(registrytest.NewTopic().Log(), nil)
		var refused *registry.Error
		if _, err := target.Import(t.Context(), d); errors.As(err, &refused) {
			return
		} else if err != nil {
			t.Fatal(err)
		}
		if n, err := target.Import(t.Context(), d); err != nil || n != 0 {
			t.Fatalf("again: %d entries, %v", n, err)
		}
	})
}
