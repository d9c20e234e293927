package main

import (
	"bytes"
	"context"
	"fmt"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"walferry/schema/registry"
	"walferry/schema/registry/registrytest"
)

// TestSchemaTranscripts runs the command lines of testdata/cmd/schema/*.txt against a registry. A file begins with what
// is done to the registry, a line each:
//
//	SUBJECT {"type":…}      registers a version; whatever the level says
//	level SUBJECT LEVEL     sets the level of a subject
//	delete SUBJECT VERSION  deletes a version, but not for good
//	file NAME text          writes a file
//
// The rest is as in TestTranscripts.
func TestSchemaTranscripts(t *testing.T) {
	files, err := filepath.Glob("../../testdata/cmd/schema/*.txt")
	if err != nil || len(files) < 4 {
		t.Fatalf("%d transcripts, %v", len(files), err)
	}
	for _, file := range files {
		t.Run(strings.TrimSuffix(filepath.Base(file), ".txt"), func(t *testing.T) {
			text := readFile(t, file)
			at := strings.Index(text, "\n$ ") + 1
			if at < 1 {
				t.Fatal("no command")
			}
			store := registry.NewStore(registrytest.NewTopic().Log(), nil)
			if err := store.Open(t.Context()); err != nil {
				t.Fatal(err)
			}
			server := httptest.NewServer(registry.NewServer(store, registry.ServerConfig{}))
			t.Cleanup(server.Close)
			t.Setenv("WALFERRY_CONFIG", "")
			t.Chdir(t.TempDir())
			write := func(name, text string) {
				if err := os.WriteFile(name, []byte(text), 0o600); err != nil {
					t.Fatal(err)
				}
			}
			write("walferry.yml", "name: shop\nsource: {dsn: 'postgres://x@127.0.0.1:1/x', all_tables: true}\nkafka: {brokers: ['127.0.0.1:1']}\n"+
				"registry: {url: "+strconv.Quote(server.URL)+"}\n")
			for line := range strings.Lines(text[:at]) {
				if line = strings.TrimSpace(line); line == "" || strings.HasPrefix(line, "#") {
					continue
				}
				verb, rest, _ := strings.Cut(line, " ")
				first, second, _ := strings.Cut(rest, " ")
				switch verb {
				case "level":
					err = store.SetLevel(t.Context(), first, registry.Level(second))
				case "delete":
					_, err = store.DeleteVersion(t.Context(), first, second, false)
				case "file":
					write(first, second)
				default:
					_, err = store.Register(t.Context(), verb, registry.Request{Schema: rest, Force: true})
				}
				if err != nil {
					t.Fatalf("%s: %v", line, err)
				}
			}
			got := text[:at]
			for line := range strings.Lines(text[at:]) {
				command, ok := strings.CutPrefix(strings.TrimRight(line, "\n"), "$ walferry ")
				if !ok {
					continue
				}
				var out, errs bytes.Buffer
				ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
				code := run(ctx, strings.Fields(command), strings.NewReader(""), &out, &errs)
				cancel()
				got += line + strings.ReplaceAll(out.String(), "\x1b", "␛")
				for line := range strings.Lines(errs.String()) {
					got += "! " + line
				}
				if code != 0 {
					got += fmt.Sprintf("[exit code %d]\n", code)
				}
				got += "\n"
			}
			got = strings.TrimSuffix(got, "\n")
			if *update {
				if err := os.WriteFile(abs(t, file), []byte(got), 0o644); err != nil {
					t.Fatal(err)
				}
			} else if got != text {
				t.Errorf("got\n%s\nwant\n%s", got, text)
			}
		})
	}
}
