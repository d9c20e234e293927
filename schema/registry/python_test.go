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
		if name, password, ok := strings.Cut(login, ":"); ok {
			cfg.Users, cfg.Closed = []registry.User{{Name: name, Password: password, Role: registry.Writer}}, true
		}
		_, server := newServer(t, cfg)
		out, err := exec.CommandContext(t.Context(), python, "testdata/client.py", server.URL, login).CombinedOutput()
		if err != nil || !strings.HasSuffix(strings.TrimSpace(string(out)), "ok") {
			t.Fatalf("login %q: %v\n%s", login, err, out)
		}
	}
}
