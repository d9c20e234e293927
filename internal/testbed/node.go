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
	"testing"

	"walferry/internal/proc"
)

// Node returns the folder of node_modules that testdata/readers/package-lock.json describes, installed once under build/.
// The test is skipped on a machine without Node.js and npm.
func Node(t testing.TB) string {
	t.Helper()
	if !hasNode() {
		t.Skip("needs JavaScript: install Node.js and npm (Debian: apt-get install nodejs npm)")
	}
	dir, err := installNode(started(t))
	if err != nil {
		t.Fatal(err)
	}
	return dir
}

func hasNode() bool {
	_, err1 := exec.LookPath("node")
	_, err2 := exec.LookPath("npm")
	return errors.Join(err1, err2) == nil
}

func installNode(ctx context.Context) (string, error) {
	root, err := moduleRoot()
	if err != nil {
		return "", err
	}
	from := filepath.Join(root, "testdata", "readers")
	lock, err := os.ReadFile(filepath.Join(from, "package-lock.json"))
	if err != nil {
		return "", err
	}
	manifest, err := os.ReadFile(filepath.Join(from, "package.json"))
	if err != nil {
		return "", err
	}
	dir := filepath.Join(root, "build", "node")
	stamp := filepath.Join(dir, "package-lock.sha256")
	sum := fmt.Sprintf("%x\n", sha256.Sum256(lock))
	unlock, err := proc.Lock(ctx, dir+".lock")
	if err != nil {
		return "", err
	}
	defer unlock()
	modules := filepath.Join(dir, "node_modules")
	if have, err := os.ReadFile(stamp); err == nil && string(have) == sum {
		return modules, nil
	}
	if err := errors.Join(os.RemoveAll(dir), os.MkdirAll(dir, 0o755), os.WriteFile(filepath.Join(dir, "package.json"), manifest, 0o644),
		os.WriteFile(filepath.Join(dir, "package-lock.json"), lock, 0o644)); err != nil {
		return "", err
	}
	cmd := exec.CommandContext(ctx, "npm", "ci", "--ignore-scripts", "--no-audit", "--no-fund")
	cmd.Dir = dir
	if out, err := cmd.CombinedOutput(); err != nil {
		return "", fmt.Errorf("node: npm ci: %w: %s", err, bytes.TrimSpace(out))
	}
	// Written last: without it the installation counts for nothing.
	return modules, os.WriteFile(stamp, []byte(sum), 0o644)
}
