package testbed

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"testing"

	"walferry/internal/proc"
)

var python struct {
	sync.Mutex
	path string // guarded by Mutex
	err  error  // guarded by Mutex
}

// Python returns the path of a Python 3 that has confluent-kafka (with librdkafka, Avro and the registry client) and
// fastavro. It is a virtual environment under build/, installed once from testdata/python/requirements.txt, whose
// hashes are checked, and again when that file changes.
func Python(t testing.TB) string {
	t.Helper()
	python.Lock()
	defer python.Unlock()
	if python.path == "" && python.err == nil {
		python.path, python.err = installPython(started(t))
	}
	if python.err != nil {
		t.Fatal(python.err)
	}
	return python.path
}

func installPython(ctx context.Context) (string, error) {
	root, err := moduleRoot()
	if err != nil {
		return "", err
	}
	requirements := filepath.Join(root, "testdata", "python", "requirements.txt")
	want, err := os.ReadFile(requirements)
	if err != nil {
		return "", err
	}
	dir := filepath.Join(root, "build", "python")
	path := filepath.Join(dir, "bin", "python")
	stamp := filepath.Join(dir, "requirements.sha256")
	sum := fmt.Sprintf("%x\n", sha256.Sum256(want))
	unlock, err := proc.Lock(ctx, dir+".lock")
	if err != nil {
		return "", err
	}
	defer unlock()
	if have, err := os.ReadFile(stamp); err == nil && string(have) == sum && exec.CommandContext(ctx, path, "-c", "").Run() == nil {
		return path, nil
	}
	if _, err := exec.LookPath("python3"); err != nil {
		return "", errors.New("python: python3 is not installed (Debian: apt-get install python3-venv)")
	}
	for _, cmd := range [][]string{
		{"python3", "-m", "venv", "--clear", dir}, // Debian: package python3-venv
		{path, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-input", "--only-binary", ":all:",
			"--require-hashes", "-r", requirements},
	} {
		if out, err := exec.CommandContext(ctx, cmd[0], cmd[1:]...).CombinedOutput(); err != nil {
			return "", fmt.Errorf("python: %v: %w: %s", cmd, err, bytes.TrimSpace(out))
		}
	}
	// Written last: without it the installation counts for nothing.
	return path, os.WriteFile(stamp, []byte(sum), 0o644)
}
