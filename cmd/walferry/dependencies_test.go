package main

import (
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
)

func readFile(t *testing.T, file string) string {
	t.Helper()
	b, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

// TestDependencies compares docs/dependencies.md with what is in the binary, as a
// release builds it, and holds the binary's size.
func TestDependencies(t *testing.T) {
	bin := filepath.Join(t.TempDir(), "walferry")
	build := exec.CommandContext(t.Context(), "go", "build", "-trimpath", "-ldflags", "-s -w", "-o", bin, ".")
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	info, err := os.Stat(bin)
	if err != nil {
		t.Fatal(err)
	}
	if info.Size() > 40<<20 {
		t.Errorf("the binary has %d bytes, more than 40 MiB", info.Size())
	}
	out, err := exec.CommandContext(t.Context(), "go", "version", "-m", bin).Output()
	if err != nil {
		t.Fatal(err)
	}
	var in []string
	for _, m := range regexp.MustCompile(`(?m)^\tdep\t(\S+)\t(\S+)`).FindAllStringSubmatch(string(out), -1) {
		in = append(in, m[1])
	}
	var listed []string
	for _, m := range regexp.MustCompile("(?m)^\\| `([^`]+)` \\| [^|]+ \\| [^|]+ \\|$").FindAllStringSubmatch(readFile(t, "../../docs/dependencies.md"), -1) {
		listed = append(listed, m[1])
	}
	if len(in) < 10 {
		t.Fatalf("go version -m lists %d modules:\n%s", len(in), out)
	}
	for _, m := range in {
		if !slices.Contains(listed, m) {
			t.Errorf("%s is in the binary and not in docs/dependencies.md", m)
		}
	}
	for _, m := range listed {
		if !slices.Contains(in, m) {
			t.Errorf("%s is in docs/dependencies.md and not in the binary", m)
		}
	}
	if !slices.IsSorted(listed) {
		t.Error("docs/dependencies.md is not sorted")
	}
	if strings.Contains(string(out), "\tCGO_ENABLED=1") {
		t.Error("the binary is not static")
	}
}
