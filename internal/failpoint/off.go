//go:build !failpoints

package failpoint

// Enabled tells whether this binary was built with the tag failpoints.
const Enabled = false

// Hit does nothing in this build.
func Hit(string) {}

// Add does nothing in this build.
func Add(string, int) {}
