package testbed

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/jackc/pgx/v5"

	"walferry/internal/pgserver"
)

// Roles of a PG and its database. All have the server's password.
const (
	// Superuser is for what only a superuser may do, such as setup; never for what is tested.
	Superuser = "postgres"
	// Owner owns the database Shop and what is in it, and writes.
	Owner = "app"
	// Reader is whom walferry runs as, with the least privilege: REPLICATION, CONNECT, and SELECT on what Owner made in
	// the schema public. No publication can be created with that; setup or Owner does.
	Reader = "walferry"
	// Shop is the database.
	Shop = "shop"
)

// PG is a Postgres of one test.
type PG struct {
	*pgserver.Server
	t testing.TB
}

// Postgres starts a server for this test, of a major version "14" to "18", or with "" that of WALFERRY_TEST_POSTGRES,
// or of the newest that is installed. Settings are lines of postgresql.conf as "name=value"; wal_level is logical and
// fsync off unless they say otherwise.
func Postgres(t testing.TB, version string, settings ...string) *PG {
	t.Helper()
	cfg := pgserver.Config{Version: version, Settings: map[string]string{}, Progress: os.Stderr}
	if version == "" {
		cfg.Version = os.Getenv("WALFERRY_TEST_POSTGRES")
	}
	for _, s := range settings {
		name, value, ok := strings.Cut(s, "=")
		if !ok {
			t.Fatalf("testbed: setting %q is not name=value", s)
		}
		cfg.Settings[strings.TrimSpace(name)] = strings.TrimSpace(value)
	}
	server, err := pgserver.Start(started(t), cfg)
	if err != nil {
		t.Fatal(err)
	}
	p := &PG{Server: server, t: t}
	t.Cleanup(func() {
		if err := server.Remove(); err != nil {
			t.Error(err)
		}
	})
	if err := OpenShop(t.Context(), server); err != nil {
		t.Fatal(err)
	}
	return p
}

// OpenShop makes the roles and the database in a new server.
func OpenShop(ctx context.Context, server *pgserver.Server) error {
	if err := Exec(ctx, server.DSN("postgres", Superuser),
		fmt.Sprintf("CREATE ROLE %s LOGIN PASSWORD '%s'", Owner, server.Password()),
		fmt.Sprintf("CREATE ROLE %s LOGIN REPLICATION PASSWORD '%s'", Reader, server.Password()),
		fmt.Sprintf("CREATE DATABASE %s OWNER %s", Shop, Owner),
		fmt.Sprintf("REVOKE CONNECT ON DATABASE %s FROM PUBLIC", Shop),
		fmt.Sprintf("GRANT CONNECT ON DATABASE %s TO %s", Shop, Reader),
	); err != nil {
		return err
	}
	return Exec(ctx, server.DSN(Shop, Superuser),
		"ALTER SCHEMA public OWNER TO "+Owner,
		"GRANT USAGE ON SCHEMA public TO "+Reader,
		fmt.Sprintf("ALTER DEFAULT PRIVILEGES FOR ROLE %s GRANT SELECT ON TABLES TO %s", Owner, Reader))
}

// Exec runs statements on a connection of their own, each in a transaction of its own.
func Exec(ctx context.Context, dsn string, statements ...string) error {
	c, err := pgx.Connect(ctx, dsn)
	if err != nil {
		return err
	}
	for _, sql := range statements {
		if _, err := c.Exec(ctx, sql); err != nil {
			return errors.Join(fmt.Errorf("%s: %w", sql, err), c.Close(context.WithoutCancel(ctx)))
		}
	}
	return c.Close(context.WithoutCancel(ctx))
}

// DSN is the URL of the database Shop for a role.
func (p *PG) DSN(role string) string { return p.Server.DSN(Shop, role) }

// SocketDSN is DSN over the Unix socket, as keywords and values.
func (p *PG) SocketDSN(role string) string { return p.Server.SocketDSN(Shop, role) }

// Connect connects to Shop as a role until the test ends.
func (p *PG) Connect(role string) *pgx.Conn {
	p.t.Helper()
	return connect(p.t, p.DSN(role))
}

func connect(t testing.TB, dsn string) *pgx.Conn {
	t.Helper()
	c, err := pgx.Connect(t.Context(), dsn)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		// The server may be gone by now, and then so is the connection.
		_ = c.Close(started(t))
	})
	return c
}

// Exec runs statements in Shop as a role, each in a transaction of its own.
func (p *PG) Exec(role string, statements ...string) {
	p.t.Helper()
	if err := Exec(p.t.Context(), p.DSN(role), statements...); err != nil {
		p.t.Fatal(err)
	}
}

// Certificate gives the server a certificate, its key and the authority of its clients, all files in PEM, and turns TLS on,
// from its next start on.
func (p *PG) Certificate(cert, key, authority string) {
	p.t.Helper()
	for name, file := range map[string]string{"ssl_cert_file": cert, "ssl_key_file": key, "ssl_ca_file": authority} {
		b, err := os.ReadFile(file)
		if err != nil {
			p.t.Fatal(err)
		}
		own := filepath.Join(p.DataDir(), name+".pem")
		if err := os.WriteFile(own, b, 0o600); err != nil {
			p.t.Fatal(err)
		}
		if err := p.Own(own); err != nil {
			p.t.Fatal(err)
		}
		p.Exec(Superuser, fmt.Sprintf("ALTER SYSTEM SET %s = '%s'", name, filepath.Base(own)))
	}
	p.Exec(Superuser, "ALTER SYSTEM SET ssl = on")
}
