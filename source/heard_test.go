package source

import (
	"errors"
	"fmt"
	"syscall"
	"testing"
)

// A connection that was reset is made again, and what it is refused for the next time is what is said.
func TestHeard(t *testing.T) {
	said := errors.New("unknown certificate authority")
	for _, reset := range []error{syscall.EPIPE, syscall.ECONNRESET} {
		attempts := 0
		err := heard(t.Context(), func() error {
			if attempts++; attempts < 3 {
				return fmt.Errorf("write startup message: %w", reset)
			}
			return said
		})
		if err != said || attempts != 3 {
			t.Errorf("%v after %d attempts", err, attempts)
		}
	}
	attempts := 0
	if err := heard(t.Context(), func() error { attempts++; return syscall.ECONNRESET }); err != syscall.ECONNRESET || attempts != 5 {
		t.Errorf("%v after %d attempts of a server that resets each", err, attempts)
	}
	attempts = 0
	if err := heard(t.Context(), func() error { attempts++; return said }); err != said || attempts != 1 {
		t.Errorf("%v after %d attempts of a server that speaks", err, attempts)
	}
}
