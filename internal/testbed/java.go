package testbed

import (
	"bytes"
	"context"
	"crypto/sha256"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"walferry/internal/proc"
)

// poms are the folders of testdata whose pom.xml names libraries of Java programs, and what Maven does with them.
var poms = map[string]string{"java": copyJars, "flink": copyJars, "avro": copyJars, "apicurio": unpackArchive}

const (
	copyJars      = "copy-dependencies"
	unpackArchive = "unpack"
)

// JavaLibraries returns the class path of a Java program with the libraries of testdata/<pom>/pom.xml: "java" has Kafka's
// consumer and Avro, "flink" the formats of Flink with Confluent's client of a registry in them, "avro" Avro as Confluent's
// registry has it. The test is skipped, or with WALFERRY_TEST_KAFKA=apache fails, on a machine without Java and Maven.
func JavaLibraries(t testing.TB, pom string) string {
	t.Helper()
	return filepath.Join(javaFolder(t, pom), "*")
}

func javaFolder(t testing.TB, pom string) string {
	t.Helper()
	jars, _, err := kafkaJars(started(t))
	if err != nil {
		t.Fatal(err)
	}
	if jars == "" {
		t.Skip("needs Java: install Java 17 and Maven (Debian: default-jdk-headless maven)")
	}
	dir, err := javaLibraries(started(t), pom)
	if err != nil {
		t.Fatal(err)
	}
	return dir
}

// javaLibraries returns the folder of a pom, which it fills with Maven once for each content of the pom.
func javaLibraries(ctx context.Context, pom string) (string, error) {
	root, err := moduleRoot()
	if err != nil {
		return "", err
	}
	text, err := os.ReadFile(filepath.Join(root, "testdata", pom, "pom.xml"))
	if err != nil {
		return "", err
	}
	dir := filepath.Join(cacheDir("java"), fmt.Sprintf("%x", sha256.Sum256(text))[:16])
	unlock, err := proc.Lock(ctx, dir+".lock")
	if err != nil {
		return "", err
	}
	defer unlock()
	if _, err := os.Stat(dir); err == nil {
		return dir, nil
	}
	if err := maven(ctx, pom, poms[pom], dir); err != nil {
		return "", fmt.Errorf("%s: %w", pom, err)
	}
	return dir, nil
}

// maven fills dir, which does not exist, with what testdata/<pom>/pom.xml names.
func maven(ctx context.Context, pom, goal, dir string, flags ...string) error {
	root, err := moduleRoot()
	if err != nil {
		return err
	}
	part := dir + ".part"
	if err := os.RemoveAll(part); err != nil {
		return err
	}
	args := append([]string{"-B", "-q", "-f", filepath.Join(root, "testdata", pom, "pom.xml"), "dependency:" + goal,
		"-DincludeScope=runtime", "-DoutputDirectory=" + part}, flags...)
	if out, err := exec.CommandContext(ctx, "mvn", args...).CombinedOutput(); err != nil {
		return fmt.Errorf("mvn: %w: %s", err, bytes.TrimSpace(out))
	}
	// Renamed when it is whole.
	return os.Rename(part, dir)
}
