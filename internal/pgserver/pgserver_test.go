package pgserver

import (
	"archive/tar"
	"context"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
)

func start(t *testing.T, cfg Config) *Server {
	t.Helper()
	s, err := Start(t.Context(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.Remove(); err != nil {
			t.Error(err)
		}
		if _, err := os.Stat(s.dir); cfg.Dir == "" && !os.IsNotExist(err) {
			t.Errorf("folder after Remove: %v", err)
		}
	})
	return s
}

func ask(t *testing.T, dsn, sql string) string {
	t.Helper()
	c, err := pgx.Connect(t.Context(), dsn)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close(context.WithoutCancel(t.Context())) //nolint:errcheck // the answer is what counts
	var answer string
	if err := c.QueryRow(t.Context(), sql).Scan(&answer); err != nil {
		t.Fatal(err)
	}
	return answer
}

// TestStart starts the oldest and the newest version, or those that the environment names, and what "" stands for.
func TestStart(t *testing.T) {
	versions := []string{"", "14", "18"}
	if v := os.Getenv("WALFERRY_TEST_POSTGRES_VERSIONS"); v != "" {
		versions = append(strings.Split(v, ","), "")
	}
	if testing.Short() {
		versions = []string{""}
	}
	for _, version := range versions {
		t.Run("version "+version, func(t *testing.T) {
			s := start(t, Config{Version: version, Settings: map[string]string{"application_name": "it's"}})
			dsn := s.DSN("postgres", "postgres")
			if got := ask(t, dsn, "SELECT current_setting('server_version_num')::int / 10000 || ''"); got != strconv.Itoa(s.Version()) {
				t.Errorf("server says %s, Version %d", got, s.Version())
			}
			if version != "" && version != strconv.Itoa(s.Version()) {
				t.Errorf("asked for %s, got %d", version, s.Version())
			}
			if got := ask(t, s.SocketDSN("postgres", "postgres"), "SELECT current_setting('wal_level')"); got != "logical" {
				t.Errorf("wal_level = %s", got)
			}
			// A slot with pgoutput needs the plugin's library, which is not the server's binary alone.
			if got := ask(t, dsn, "SELECT slot_name FROM pg_create_logical_replication_slot('s', 'pgoutput')"); got != "s" {
				t.Errorf("slot %s", got)
			}
			if os.Geteuid() == 0 {
				info, err := os.Stat("/proc/" + strconv.Itoa(s.PID()))
				if err == nil && info.Mode().IsDir() && processUser(t, s.PID()) == 0 {
					t.Error("the server runs as root")
				}
			}
		})
	}
}

func processUser(t *testing.T, pid int) int {
	t.Helper()
	b, err := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/status")
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(b)) {
		if rest, ok := strings.CutPrefix(line, "Uid:"); ok {
			uid, err := strconv.Atoi(strings.Fields(rest)[0])
			if err != nil {
				t.Fatal(err)
			}
			return uid
		}
	}
	t.Fatal("no Uid in status")
	return 0
}

// TestRestart keeps port and data over each way to stop, a kill of the postmaster under open sessions included.
func TestRestart(t *testing.T) {
	s := start(t, Config{Settings: map[string]string{"fsync": "on"}})
	dsn := s.DSN("postgres", "postgres")
	if got := ask(t, dsn, "SELECT current_setting('fsync')"); got != "on" {
		t.Fatalf("fsync = %s, Settings must win", got)
	}
	ask(t, dsn, "SELECT pg_reload_conf()::text")
	c, err := pgx.Connect(t.Context(), dsn)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := c.Exec(t.Context(), "CREATE TABLE t AS SELECT 42 AS n"); err != nil {
		t.Fatal(err)
	}
	defer c.Close(context.WithoutCancel(t.Context())) //nolint:errcheck // ended by the server below
	stops := []struct {
		name string
		stop func() error
	}{
		{"kill", s.Kill},
		{"fast", func() error { return s.Stop(Fast) }},
		{"immediate", func() error { return s.Stop(Immediate) }},
	}
	for _, how := range stops {
		before := s.PID()
		if err := how.stop(); err != nil {
			t.Fatalf("%s: %v", how.name, err)
		}
		if s.Running() {
			t.Fatalf("%s: still running", how.name)
		}
		if err := s.Start(t.Context()); err != nil {
			t.Fatalf("start after %s: %v", how.name, err)
		}
		if s.PID() == before {
			t.Fatalf("%s: pid %d again", how.name, before)
		}
		if got := ask(t, dsn, "SELECT n::text FROM t"); got != "42" {
			t.Fatalf("after %s the table has %s", how.name, got)
		}
	}
	if err := s.Stop("slow"); err == nil {
		t.Error("an unknown mode was accepted")
	}
	if err := s.Start(t.Context()); err == nil {
		t.Error("a running server was started again")
	}
}

func TestStartSaysWhy(t *testing.T) {
	for name, c := range map[string]struct {
		cfg  Config
		want string
	}{
		"unknown version": {Config{Version: "9.6"}, `version "9.6": 14 to 18`},
		"bad setting":     {Config{Settings: map[string]string{"wal_level": "loud"}}, `invalid value for parameter "wal_level"`},
	} {
		t.Run(name, func(t *testing.T) {
			s, err := Start(t.Context(), c.cfg)
			if err == nil {
				_ = s.Remove()
				t.Fatal("started")
			}
			if !strings.Contains(err.Error(), c.want) {
				t.Fatalf("got %q, want it to contain %q", err, c.want)
			}
		})
	}
}

func TestStartContext(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	begin := time.Now()
	if s, err := Start(ctx, Config{}); err == nil {
		_ = s.Remove()
		t.Fatal("started under a cancelled context")
	}
	if d := time.Since(begin); d > 10*time.Second {
		t.Fatalf("took %s to notice", d)
	}
}

// TestRepository fails when an update of embedded-postgres hides the address that repository reads.
// TestEmbeddedOnly: WALFERRY_POSTGRES=embedded takes the newest archive, whatever is installed.
func TestEmbeddedOnly(t *testing.T) {
	owner, err := unprivileged()
	if err != nil {
		t.Fatal(err)
	}
	t.Setenv("WALFERRY_POSTGRES", embeddedOnly)
	cache, err := cacheDir(owner != nil)
	if err != nil {
		t.Fatal(err)
	}
	b, err := find(t.Context(), "", owner != nil, os.Stderr)
	if err != nil {
		t.Fatal(err)
	}
	if b.major != newest || !strings.HasPrefix(b.dir, cache) || !executable(filepath.Join(b.dir, "initdb")) {
		t.Errorf("%+v, the cache is %s", b, cache)
	}
	t.Setenv("WALFERRY_POSTGRES", "installed")
	if b, err := find(t.Context(), "", owner != nil, os.Stderr); err == nil {
		t.Errorf("an unknown value gives %+v", b)
	}
}

func TestRepository(t *testing.T) {
	t.Setenv("WALFERRY_MAVEN_REPOSITORY", "")
	got, err := repository()
	if err != nil {
		t.Fatal(err)
	}
	if !strings.HasPrefix(got, "https://") {
		t.Fatalf("repository %q", got)
	}
}

func TestCacheDir(t *testing.T) {
	home := t.TempDir()
	t.Setenv("HOME", home)
	t.Setenv("XDG_CACHE_HOME", "")
	dir, err := cacheDir(false)
	if err != nil || !strings.HasPrefix(dir, home) {
		t.Fatalf("%s, %v: want it in %s", dir, err, home)
	}
	if err := os.Chmod(home, 0o700); err != nil {
		t.Fatal(err)
	}
	if reachable(filepath.Join(home, "not", "made")) {
		t.Error("a folder in a closed home is reachable")
	}
	// A link in place of the folder may lead to anyone's.
	if err := os.RemoveAll(filepath.Dir(dir)); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink(t.TempDir(), filepath.Dir(dir)); err != nil {
		t.Fatal(err)
	}
	if _, err := cacheDir(false); err == nil {
		t.Error("a link was taken for the cache")
	}
}

func TestPlaceStaysInside(t *testing.T) {
	dir := t.TempDir()
	root, err := os.OpenRoot(filepath.Join(dir))
	if err != nil {
		t.Fatal(err)
	}
	defer root.Close() //nolint:errcheck // a folder's handle
	if err := root.Symlink("/", "out"); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"../x", "/x", "out/tmp/walferry-x"} {
		if err := place(root, &tar.Header{Name: name, Typeflag: tar.TypeReg, Mode: 0o644}, strings.NewReader("")); err == nil {
			t.Errorf("%s was written", name)
		}
	}
	if err := place(root, &tar.Header{Name: "./bin/x", Typeflag: tar.TypeReg, Mode: 0o700}, strings.NewReader("x")); err != nil {
		t.Fatal(err)
	}
	info, err := os.Stat(filepath.Join(dir, "bin", "x"))
	if err != nil {
		t.Fatal(err)
	}
	if info.Mode().Perm() != 0o744 {
		t.Errorf("mode %v, want readable by all", info.Mode())
	}
}
