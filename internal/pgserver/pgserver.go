// Package pgserver starts a real Postgres for the demo and for tests: a server of its own in a folder of its own, on
// loopback, with logical decoding on, that ends with the process that started it.
//
// The binaries are those installed on the machine where the wanted major version is, and otherwise the archives that
// github.com/fergusstrange/embedded-postgres uses, downloaded once into a cache (see binaries.go). WALFERRY_POSTGRES=embedded
// takes the archives in any case. Postgres refuses to run as root; started by root, the server runs as the user postgres, or
// nobody, and the folder is given to that user.
//
// It is no way to run a database that anyone needs: fsync is off unless Settings say otherwise.
package pgserver

import (
	"bufio"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"sort"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"walferry/internal/proc"
)

// Config says what server to start. The zero Config is a good one.
type Config struct {
	// Version is the major version, "14" to "18". Empty: the newest that is installed, or if none is, the newest archive.
	Version string
	// Dir keeps data, socket and log. It is created if it is not there; a folder that holds a cluster already is started
	// as it is. Empty: a new folder under the system's one for temporary files, which Remove deletes.
	// Its path is part of the socket's, which may have 107 bytes.
	Dir string
	// Settings go to postgresql.conf behind ours and win over them: "fsync": "on", "wal_sender_timeout": "10s".
	// Values are quoted as needed.
	Settings map[string]string
	// Port on 127.0.0.1. 0: a free one, kept over restarts.
	Port int
	// Password of the superuser postgres, used when the cluster is made. Empty: a random one.
	Password string
	// Progress is told in lines what takes long: a download. Nil: nobody.
	Progress io.Writer
}

// Mode is how Postgres is asked to stop, by pg_ctl's names.
type Mode string

const (
	// Smart waits for clients to leave by themselves (SIGTERM).
	Smart Mode = "smart"
	// Fast ends sessions, waits for walsenders to send everything, writes a checkpoint (SIGINT).
	Fast Mode = "fast"
	// Immediate ends at once, without a checkpoint: the next start recovers from WAL, as after a crash (SIGQUIT).
	Immediate Mode = "immediate"
)

func (m Mode) signal() (syscall.Signal, error) {
	switch m {
	case Smart:
		return syscall.SIGTERM, nil
	case Fast:
		return syscall.SIGINT, nil
	case Immediate:
		return syscall.SIGQUIT, nil
	}
	return 0, fmt.Errorf("unknown mode %q: smart, fast or immediate", string(m))
}

const (
	startTimeout = 60 * time.Second
	stopTimeout  = 60 * time.Second
)

// Server is one cluster, running or stopped. It is for one goroutine at a time.
type Server struct {
	bin      binaries
	owner    *syscall.Credential // nil when we are not root
	dir      string
	remove   func() error // deletes dir; nil when dir was given
	port     int
	password string
	process  *proc.Process // nil before the first start
}

// Start makes a cluster in cfg.Dir unless there is one, starts it and returns when it takes connections.
// The context bounds the start only, a download included.
func Start(ctx context.Context, cfg Config) (*Server, error) {
	s, err := open(ctx, cfg)
	if err != nil {
		return nil, fmt.Errorf("postgres: %w", err)
	}
	if err := s.Start(ctx); err != nil {
		return nil, errors.Join(err, s.Remove())
	}
	return s, nil
}

// Fetch makes sure of the binaries of a version, named as in Config, so that Start need not download them.
func Fetch(ctx context.Context, version string, progress io.Writer) error {
	owner, err := unprivileged()
	if err == nil {
		_, err = find(ctx, version, owner != nil, progress)
	}
	if err != nil {
		return fmt.Errorf("postgres: %w", err)
	}
	return nil
}

// open chooses binaries and folder and runs initdb where there is no cluster yet.
func open(ctx context.Context, cfg Config) (_ *Server, err error) {
	s := &Server{port: cfg.Port, password: cfg.Password, dir: cfg.Dir}
	if s.owner, err = unprivileged(); err != nil {
		return nil, err
	}
	if s.bin, err = find(ctx, cfg.Version, s.owner != nil, cfg.Progress); err != nil {
		return nil, err
	}
	if s.port == 0 {
		if s.port, err = proc.FreePort(); err != nil {
			return nil, err
		}
	}
	if s.password == "" {
		s.password = rand.Text()
	}
	if s.dir == "" {
		if s.dir, s.remove, err = proc.TempDir("walferry-pg-"); err != nil {
			return nil, err
		}
	}
	if s.dir, err = filepath.Abs(s.dir); err != nil {
		return nil, err
	}
	if _, err = os.Stat(filepath.Join(s.DataDir(), "PG_VERSION")); err == nil {
		return s, nil
	}
	if err = s.init(ctx, cfg.Settings); err != nil {
		return nil, errors.Join(err, s.Remove())
	}
	return s, nil
}

func (s *Server) init(ctx context.Context, settings map[string]string) error {
	if err := os.MkdirAll(s.dir, 0o755); err != nil {
		return err
	}
	if err := s.chown(s.dir); err != nil {
		return err
	}
	pw := filepath.Join(s.dir, "password")
	if err := os.WriteFile(pw, []byte(s.password+"\n"), 0o600); err != nil {
		return err
	}
	if err := s.chown(pw); err != nil {
		return err
	}
	// The C locale is in every build; --no-sync because a machine that crashes takes the test with it.
	initdb := s.command(ctx, "initdb", "--pgdata="+s.DataDir(), "--username=postgres", "--pwfile="+pw,
		"--auth=scram-sha-256", "--no-locale", "--encoding=UTF8", "--no-sync")
	if out, err := initdb.CombinedOutput(); err != nil {
		return fmt.Errorf("initdb: %w: %s", err, strings.TrimSpace(string(out)))
	}
	if err := os.Remove(pw); err != nil {
		return err
	}
	return s.configure(settings)
}

// configure appends to postgresql.conf, not to the command line, so that ALTER SYSTEM still wins over everything here.
func (s *Server) configure(settings map[string]string) error {
	all := map[string]string{
		"listen_addresses":          "127.0.0.1",
		"unix_socket_directories":   s.dir,
		"wal_level":                 "logical",
		"max_wal_senders":           "20",
		"max_replication_slots":     "20",
		"max_connections":           "60",
		"max_prepared_transactions": "10",
		"shared_buffers":            "64MB",
		"fsync":                     "off",
		"logging_collector":         "off", // standard error is the log, see launch
	}
	for name, value := range settings {
		all[name] = value
	}
	names := make([]string, 0, len(all))
	for name := range all {
		names = append(names, name)
	}
	sort.Strings(names)
	var b strings.Builder
	b.WriteString("\n# set by walferry\n")
	for _, name := range names {
		fmt.Fprintf(&b, "%s = '%s'\n", name, strings.ReplaceAll(all[name], "'", "''"))
	}
	f, err := os.OpenFile(filepath.Join(s.DataDir(), "postgresql.conf"), os.O_APPEND|os.O_WRONLY, 0)
	if err != nil {
		return err
	}
	_, err = f.WriteString(b.String())
	return errors.Join(err, f.Close())
}

// Start starts a stopped server on the port it had, and returns when it takes connections.
func (s *Server) Start(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, startTimeout)
	defer cancel()
	for {
		err := s.launch(ctx)
		if err == nil {
			return nil
		}
		// After a kill -9 of the postmaster its children need a moment to notice; until then the memory is theirs.
		if ctx.Err() != nil || !strings.Contains(err.Error(), "pre-existing shared memory block") {
			return fmt.Errorf("postgres: %w", err)
		}
		if err := sleep(ctx, 50*time.Millisecond); err != nil {
			return fmt.Errorf("postgres: %w", err)
		}
	}
}

func (s *Server) launch(ctx context.Context) error {
	if s.process != nil && s.process.Running() {
		return fmt.Errorf("server with pid %d is running already", s.PID())
	}
	log, err := os.OpenFile(s.LogFile(), os.O_CREATE|os.O_APPEND|os.O_RDWR, 0o644)
	if err != nil {
		return err
	}
	from, err := log.Seek(0, io.SeekEnd)
	if err != nil {
		return errors.Join(err, log.Close())
	}
	// The server outlives ctx, so the command must not be bound to it.
	cmd := s.command(context.WithoutCancel(ctx), "postgres", "-D", s.DataDir(), "-p", strconv.Itoa(s.port))
	cmd.Stdout, cmd.Stderr = log, log
	// An immediate shutdown when we die: unlike after SIGKILL, no socket file and no shared memory stay behind.
	process, err := proc.Start(cmd, syscall.SIGQUIT)
	if err := errors.Join(err, log.Close()); err != nil {
		return err
	}
	s.process = process
	for {
		err := s.ping(ctx)
		if err == nil {
			return nil
		}
		select {
		case <-process.Done():
			return fmt.Errorf("server ended at once: %w: %s", process.Err(), s.logTail(from))
		case <-ctx.Done():
			return errors.Join(fmt.Errorf("server takes no connections: %w: %w: %s", context.Cause(ctx), err, s.logTail(from)),
				process.Stop(syscall.SIGQUIT, stopTimeout))
		case <-time.After(20 * time.Millisecond):
		}
	}
}

// ping asks whether sessions are accepted. An answer that refuses the user or its password is one of a ready server.
func (s *Server) ping(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	c, err := pgx.Connect(ctx, s.DSN("postgres", "postgres"))
	var refused *pgconn.PgError
	if errors.As(err, &refused) && strings.HasPrefix(refused.Code, "28") {
		return nil
	}
	if err != nil {
		return err
	}
	return c.Close(ctx)
}

// Stop stops the server and waits for its end, at most a minute; then it is killed, which is an error.
func (s *Server) Stop(mode Mode) error {
	sig, err := mode.signal()
	if err != nil {
		return fmt.Errorf("stop postgres: %w", err)
	}
	if s.process == nil {
		return nil
	}
	if err := s.process.Stop(sig, stopTimeout); err != nil {
		return fmt.Errorf("stop postgres: %w", err)
	}
	return nil
}

// Kill ends the postmaster with SIGKILL and waits for it. Its children end by themselves a moment later.
func (s *Server) Kill() error {
	if s.process == nil {
		return nil
	}
	if err := s.process.Stop(syscall.SIGKILL, stopTimeout); err != nil {
		return fmt.Errorf("kill postgres: %w", err)
	}
	return nil
}

// Restart stops the server in the given mode and starts it on the same port.
func (s *Server) Restart(ctx context.Context, mode Mode) error {
	if err := s.Stop(mode); err != nil {
		return err
	}
	return s.Start(ctx)
}

// Reload makes the server read its configuration files again. It does not wait until every session has.
func (s *Server) Reload() error {
	if s.process == nil {
		return errors.New("reload postgres: not started")
	}
	return s.process.Signal(syscall.SIGHUP)
}

// Remove ends the server at once, if it runs, and deletes its folder, if that was not given by the caller. A second call
// does nothing.
func (s *Server) Remove() error {
	err := s.Stop(Immediate)
	if s.remove != nil {
		err = errors.Join(err, s.remove())
		s.remove = nil
	}
	return err
}

// DSN is the URL of a database for a user over TCP, without TLS and with the superuser's password, which callers may
// give to their own roles too.
func (s *Server) DSN(db, user string) string {
	u := url.URL{Scheme: "postgres", User: url.UserPassword(user, s.password), Path: "/" + db,
		Host: "127.0.0.1:" + strconv.Itoa(s.port), RawQuery: "sslmode=disable"}
	return u.String()
}

// SocketDSN is DSN over the Unix socket, as keywords and values: libpq and pgx read it.
func (s *Server) SocketDSN(db, user string) string {
	return fmt.Sprintf("host='%s' port=%d dbname='%s' user='%s' password='%s'", s.dir, s.port, db, user, s.password)
}

// Port on 127.0.0.1, the same over restarts.
func (s *Server) Port() int { return s.port }

// PID of the postmaster, of the last start.
func (s *Server) PID() int {
	if s.process == nil {
		return 0
	}
	return s.process.PID()
}

// Running reports whether the postmaster is there.
func (s *Server) Running() bool { return s.process != nil && s.process.Running() }

// Password of the superuser.
func (s *Server) Password() string { return s.password }

// Version is the major version, such as 17.
func (s *Server) Version() int { return s.bin.major }

// DataDir holds the cluster; files that are put there need Owner's permission to be read.
func (s *Server) DataDir() string { return filepath.Join(s.dir, "data") }

// LogFile is what the server said, over all starts.
func (s *Server) LogFile() string { return filepath.Join(s.dir, "server.log") }

// Own gives a file to the user that the server runs as: a TLS key, say, which Postgres wants to own.
func (s *Server) Own(path string) error { return s.chown(path) }

// Tool returns the path of a client program such as psql or pg_recvlogical: of this version, or the newest installed
// one, since the archives hold the server alone.
func (s *Server) Tool(name string) (string, error) {
	dirs := []string{s.bin.dir}
	for _, b := range installed() {
		dirs = append(dirs, b.dir)
	}
	for _, dir := range dirs {
		if path := filepath.Join(dir, name); executable(path) {
			return path, nil
		}
	}
	path, err := exec.LookPath(name)
	if err != nil {
		return "", fmt.Errorf("%s is not installed (Debian: postgresql-client): %w", name, err)
	}
	return path, nil
}

// PgRecvlogical is Tool("pg_recvlogical").
func (s *Server) PgRecvlogical() (string, error) { return s.Tool("pg_recvlogical") }

// command runs a server program as the server's user, in its folder, without PG variables of the caller's.
func (s *Server) command(ctx context.Context, name string, args ...string) *exec.Cmd {
	cmd := exec.CommandContext(ctx, filepath.Join(s.bin.dir, name), args...)
	cmd.Dir = s.dir
	if s.owner != nil {
		cmd.SysProcAttr = &syscall.SysProcAttr{Credential: s.owner}
	}
	cmd.Env = []string{"LC_ALL=C"}
	for _, kv := range os.Environ() {
		if !strings.HasPrefix(kv, "PG") && !strings.HasPrefix(kv, "LC_") && !strings.HasPrefix(kv, "LANG") {
			cmd.Env = append(cmd.Env, kv)
		}
	}
	return cmd
}

func (s *Server) chown(path string) error {
	if s.owner == nil {
		return nil
	}
	return os.Chown(path, int(s.owner.Uid), int(s.owner.Gid))
}

// logTail is what the log says that explains a failure: its last lines from an offset on.
func (s *Server) logTail(from int64) string {
	f, err := os.Open(s.LogFile())
	if err != nil {
		return err.Error()
	}
	defer f.Close() //nolint:errcheck // read only
	if _, err := f.Seek(from, io.SeekStart); err != nil {
		return err.Error()
	}
	var lines []string
	for sc := bufio.NewScanner(f); sc.Scan(); {
		if lines = append(lines, sc.Text()); len(lines) > 10 {
			lines = lines[1:]
		}
	}
	return strings.Join(lines, "\n")
}

func sleep(ctx context.Context, d time.Duration) error {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
		return context.Cause(ctx)
	case <-t.C:
		return nil
	}
}
