package proc

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
)

// TempDir makes a new folder named prefix and a number under the system's folder for temporary files, with mode 0700,
// and returns it with what deletes it. It also deletes the folders of that prefix whose processes ended without doing
// so, by kill -9 or a test's time-out: a locked file beside each folder, <folder>.lock, says that its process lives.
func TempDir(prefix string) (dir string, remove func() error, err error) {
	sweep(prefix)
	for range 100 {
		dir = filepath.Join(os.TempDir(), prefix+strconv.FormatUint(uint64(rand.Uint32()), 36))
		// The lock comes first: a folder without one is nobody's.
		f, err := os.OpenFile(dir+".lock", os.O_CREATE|os.O_EXCL|os.O_RDWR, 0o600)
		if errors.Is(err, os.ErrExist) {
			continue
		}
		if err != nil {
			return "", nil, fmt.Errorf("temporary folder: %w", err)
		}
		if err := syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB); err != nil {
			if err := f.Close(); err != nil { // a sweep was faster, and has deleted the file by now
				return "", nil, fmt.Errorf("temporary folder: %w", err)
			}
			continue
		}
		if err := os.Mkdir(dir, 0o700); err != nil {
			return "", nil, errors.Join(fmt.Errorf("temporary folder: %w", err), f.Close(), os.Remove(f.Name()))
		}
		return dir, func() error {
			return errors.Join(os.RemoveAll(dir), os.Remove(f.Name()), f.Close())
		}, nil
	}
	return "", nil, fmt.Errorf("temporary folder: no free name for %s", prefix)
}

// sweep has no errors to report: what it cannot delete is another user's, or another sweep's, who is at it now.
func sweep(prefix string) {
	locks, err := filepath.Glob(filepath.Join(os.TempDir(), prefix+"*.lock"))
	if err != nil {
		return
	}
	for _, lock := range locks {
		f, err := os.OpenFile(lock, os.O_RDWR, 0)
		if err != nil {
			continue
		}
		if syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB) == nil {
			if os.RemoveAll(strings.TrimSuffix(lock, ".lock")) == nil {
				_ = os.Remove(lock)
			}
		}
		_ = f.Close()
	}
}
