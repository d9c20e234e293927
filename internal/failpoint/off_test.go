//go:build !failpoints

package failpoint

import "testing"

// TestOff holds that a shipped binary ignores the variable.
func TestOff(t *testing.T) {
	t.Setenv("WALFERRY_FAILPOINTS", "here=kill")
	Hit("here")
	if Enabled {
		t.Error("Enabled without the build tag")
	}
}
