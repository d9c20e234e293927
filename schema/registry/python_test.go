package registry_test

import (
	"os/exec"
	"strings"
	"testing"

	"walferry/internal/testbed"
	"walferry/schema/registry"
)

// Confluent's own client, unmodified: serialises, deserialises, registers, looks up, checks, configures and deletes.
func TestPythonClient(t *testing.T) {
	python := testbed.Python(t)
	for _, login := range []string{"", "walferry:päss:word"} {
		var cfg registry.ServerConfig
		cfg.User, cfg.Password, _ = strings.Cut(login, ":")
		_, server := newServer(t, cfg)
		out, err := exec.CommandContext(t.Context(), python, "testdata/client.py", server.URL, login).CombinedOutput()
		if err != nil || !strings.HasSuffix(strings.TrimSpace(string(out)), "ok") {
			t.Fatalf("login %q: %v\n%s", login, err, out)
		}
	}
}
