// Package testbed gives tests real servers: Postgres (package pgserver), Apache Kafka out of Maven's jars, and a Python
// with librdkafka and an Avro decoder of its own. Each is started on loopback, with free ports and its own data, by the
// test process that wants it, and ends with it.
//
// What a test asks for is there or the test fails, with one exception: without Java and Maven, Kafka is kfake, which a
// line of output says. WALFERRY_TEST_KAFKA=apache makes that a failure too, WALFERRY_TEST_KAFKA=kfake chooses it.
//
// What is downloaded is kept: jars in the user's cache folder, the Python environment under build/.
package testbed

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"testing"
)

// Main runs the tests of a package and ends what its tests shared, for use in TestMain:
//
//	func TestMain(m *testing.M) { os.Exit(testbed.Main(m)) }
//
// Without it nothing is left running either, but data folders stay until the next test process sweeps them.
func Main(m *testing.M) int {
	code := m.Run()
	if err := stopShared(); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	return code
}

// Root is the module's folder: the first one above the test's that has a go.mod.
func Root(t testing.TB) string {
	t.Helper()
	root, err := moduleRoot()
	if err != nil {
		t.Fatal(err)
	}
	return root
}

func moduleRoot() (string, error) {
	dir, err := os.Getwd()
	if err != nil {
		return "", err
	}
	for {
		if _, err := os.Stat(filepath.Join(dir, "go.mod")); err == nil {
			return dir, nil
		}
		up := filepath.Dir(dir)
		if up == dir {
			return "", errors.New("no go.mod above the working folder")
		}
		dir = up
	}
}

// cacheDir is where downloads of a kind are kept: in the user's cache folder, or where there is no home, in the
// system's folder for temporary files.
func cacheDir(kind string) string {
	base, err := os.UserCacheDir()
	if err != nil {
		return filepath.Join(os.TempDir(), "walferry-"+strconv.Itoa(os.Getuid()), kind)
	}
	return filepath.Join(base, "walferry", kind)
}

// started is a context for starting servers in a test, which Cleanup functions can use too: a test's own is cancelled
// before these run.
func started(t testing.TB) context.Context { return context.WithoutCancel(t.Context()) }
