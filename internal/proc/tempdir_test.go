package proc

import (
	"os"
	"path/filepath"
	"testing"
)

func TestTempDir(t *testing.T) {
	t.Setenv("TMPDIR", t.TempDir())
	dir, remove, err := TempDir("walferry-x-")
	if err != nil {
		t.Fatal(err)
	}
	left := filepath.Join(os.TempDir(), "walferry-x-left")
	other := filepath.Join(os.TempDir(), "walferry-y-other")
	for _, d := range []string{left, other} {
		if err := os.Mkdir(d, 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(d+".lock", nil, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	again, removeAgain, err := TempDir("walferry-x-")
	if err != nil {
		t.Fatal(err)
	}
	for path, want := range map[string]bool{dir: true, again: true, other: true, left: false, left + ".lock": false} {
		if _, err := os.Stat(path); (err == nil) != want {
			t.Errorf("%s: there %t, want %t", filepath.Base(path), err == nil, want)
		}
	}
	for _, r := range []func() error{remove, removeAgain} {
		if err := r(); err != nil {
			t.Error(err)
		}
	}
	for _, path := range []string{dir, dir + ".lock", again} {
		if _, err := os.Stat(path); !os.IsNotExist(err) {
			t.Errorf("%s after remove: %v", filepath.Base(path), err)
		}
	}
}
