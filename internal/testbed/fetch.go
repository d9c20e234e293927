package testbed

import (
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"os/exec"
	"slices"
	"strings"

	"walferry/internal/pgserver"
)

// PostgresVersions lists the majors that tests of what differs between servers run on: the oldest and the newest, or
// those that WALFERRY_TEST_POSTGRES_VERSIONS names, separated by commas.
func PostgresVersions() []string {
	if v := os.Getenv("WALFERRY_TEST_POSTGRES_VERSIONS"); v != "" {
		return strings.Split(v, ",")
	}
	return []string{"14", "18"}
}

// Fetch downloads and installs what the tests of this module need, where it is not there yet. Its error names all that
// the machine lacks.
func Fetch(ctx context.Context, progress io.Writer) error {
	var errs []error
	// The race detector needs a C compiler.
	if _, err := exec.LookPath("gcc"); err != nil {
		if _, err := exec.LookPath("cc"); err != nil {
			errs = append(errs, errors.New("a C compiler is not installed (Debian: apt-get install gcc libc6-dev)"))
		}
	}
	if _, err := installPython(ctx); err != nil {
		errs = append(errs, err)
	}
	if hasNode() {
		if _, err := installNode(ctx); err != nil {
			errs = append(errs, err)
		}
	} else {
		_, _ = fmt.Fprintln(progress, "javascript: not tested; for it install Node.js and npm (Debian: apt-get install nodejs npm)")
	}
	jars, version, err := kafkaJars(ctx)
	switch {
	case err != nil:
		errs = append(errs, err)
	case jars == "":
		// Not an error, and nobody reads it but people.
		_, _ = fmt.Fprintln(progress, "kafka: tests run on kfake; for Apache Kafka install Java 17 and Maven (Debian: apt-get install default-jdk-headless maven)")
	default:
		_, _ = fmt.Fprintf(progress, "kafka: Apache %s\n", version)
		for _, pom := range slices.Sorted(maps.Keys(poms)) {
			if _, err := javaLibraries(ctx, pom); err != nil {
				errs = append(errs, err)
			}
		}
	}
	for _, version := range append(PostgresVersions(), os.Getenv("WALFERRY_TEST_POSTGRES")) {
		if err := pgserver.Fetch(ctx, version, progress); err != nil {
			errs = append(errs, err)
		}
	}
	return errors.Join(errs...)
}
