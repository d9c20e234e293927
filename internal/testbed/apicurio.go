package testbed

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"syscall"
	"testing"
	"time"

	"walferry/internal/proc"
)

// Apicurio starts the server of Apicurio Registry for this test, with its schemas in memory, and returns the address of its
// API that is compatible with Confluent's. A test of what is particular to it is skipped, or with WALFERRY_TEST_KAFKA=apache
// fails, on a machine without Java and Maven.
func Apicurio(t testing.TB) string {
	t.Helper()
	root := javaFolder(t, "apicurio")
	jars, err := filepath.Glob(filepath.Join(root, "*-runner.jar"))
	if err != nil || len(jars) != 1 {
		t.Fatalf("apicurio: %d programs in %s, %v", len(jars), root, err)
	}
	port, err := proc.FreePort()
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	path := filepath.Join(dir, "apicurio.log")
	log, err := os.Create(path)
	if err != nil {
		t.Fatal(err)
	}
	// The serial collector and the first compiler start faster.
	cmd := exec.CommandContext(started(t), "java", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1", "-Xmx256m", "-jar", jars[0])
	cmd.Dir = dir
	cmd.Env = append(os.Environ(), "QUARKUS_HTTP_HOST=127.0.0.1", "QUARKUS_HTTP_PORT="+strconv.Itoa(port))
	cmd.Stdout, cmd.Stderr = log, log
	p, err := proc.Start(cmd, syscall.SIGKILL)
	if err := errors.Join(err, log.Close()); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := p.Stop(syscall.SIGKILL, time.Minute); err != nil {
			t.Error(err)
		}
	})
	url := "http://" + net.JoinHostPort("127.0.0.1", strconv.Itoa(port)) + "/apis/ccompat/v7"
	// 3 s are usual.
	ctx, cancel := context.WithTimeout(t.Context(), 4*time.Minute)
	defer cancel()
	for err := answers(ctx, url+"/subjects"); err != nil; err = answers(ctx, url+"/subjects") {
		select {
		case <-p.Done():
			err = p.Err()
		case <-ctx.Done():
		case <-time.After(50 * time.Millisecond):
			continue
		}
		said, e := said(path, 0)
		t.Fatalf("apicurio: %v: %s", errors.Join(err, e), tail(said))
	}
	return url
}

// answers reports what keeps a server from answering a request with 200.
func answers(ctx context.Context, url string) error {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return err
	}
	res, err := http.DefaultClient.Do(req)
	if err != nil {
		return err
	}
	_, err = io.Copy(io.Discard, res.Body)
	if err = errors.Join(err, res.Body.Close()); err == nil && res.StatusCode != http.StatusOK {
		err = fmt.Errorf("HTTP %d", res.StatusCode)
	}
	return err
}
