package source

import (
	"errors"
	"net/url"
	"os"
	"path/filepath"
	"testing"
	"time"

	"walferry/internal/pgserver"
	"walferry/internal/testbed"
)

// secure gives pg a certificate for 127.0.0.1, and returns a DSN that verifies it and shows one of the Reader's.
func secure(t testing.TB, pg *testbed.PG) (dsn *url.URL) {
	t.Helper()
	ca := testbed.NewAuthority(t)
	clientCert, clientKey := ca.Issue(testbed.Reader)
	serverCert, serverKey := ca.Issue("server")
	pg.Certificate(serverCert, serverKey, ca.File)
	// The Reader comes over TCP with a certificate of its name and nothing else.
	hba := "local all all scram-sha-256\nhostssl all " + testbed.Reader + " 127.0.0.1/32 cert\nhost all " + testbed.Owner + "," + testbed.Superuser + " 127.0.0.1/32 scram-sha-256\n"
	if err := os.WriteFile(filepath.Join(pg.DataDir(), "pg_hba.conf"), []byte(hba), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := pg.Restart(t.Context(), pgserver.Fast); err != nil {
		t.Fatal(err)
	}
	u, err := url.Parse(pg.DSN(testbed.Reader))
	if err != nil {
		t.Fatal(err)
	}
	u.User = url.User(testbed.Reader)
	u.RawQuery = url.Values{"sslmode": {"verify-full"}, "sslrootcert": {ca.File},
		"sslcert": {clientCert}, "sslkey": {clientKey}}.Encode()
	return u
}

// TestTLS: verify-full with a client certificate, for the stream and beside it; a backlog comes through whole and a single
// change is not held back by the low-water mark below TLS.
func TestTLS(t *testing.T) {
	pg := testbed.Postgres(t, "")
	pg.Exec(testbed.Owner, `CREATE TABLE t (id int PRIMARY KEY, v text)`, `CREATE PUBLICATION `+pubName+` FOR TABLE t`)
	dsn := secure(t, pg)
	cfg := config(pg)
	cfg.DSN = dsn.String()
	ctx := within(t, time.Minute)
	createSlot(t, cfg)
	s := start(t, cfg)
	if wireOf(s.conn) == nil {
		t.Fatal("our connection is not below TLS")
	}
	pg.Exec(testbed.Owner, `INSERT INTO t SELECT i, repeat('x', i % 500) FROM generate_series(1, 100000) i`)
	_, before := next(t, s, "commit", kind('C'))
	rows := 0
	for _, f := range before {
		if f.Payload[0] == 'I' {
			rows++
		}
	}
	if rows != 100_000 {
		t.Fatalf("%d rows", rows)
	}
	cat := catalog(t, cfg)
	for range 20 {
		if err := cat.Heartbeat(ctx); err != nil {
			t.Fatal(err)
		}
		next(t, s, "heartbeat", kind('M'))
	}
	if err := s.Close(ctx); err != nil {
		t.Fatal(err)
	}

	q := dsn.Query()
	q.Del("sslrootcert")
	unknown := *dsn
	unknown.RawQuery = q.Encode()
	bad := cfg
	bad.DSN = unknown.String()
	_, err := Dial(ctx, bad)
	if _, ok := errors.AsType[*CertificateError](err); !ok {
		t.Errorf("an unknown authority: %v", err)
	}
	q = dsn.Query()
	q.Del("sslcert")
	q.Del("sslkey")
	noCert := *dsn
	noCert.RawQuery = q.Encode()
	bad.DSN = noCert.String()
	_, err = Dial(ctx, bad)
	if _, ok := errors.AsType[*WrongPasswordError](err); !ok {
		t.Errorf("no certificate: %v", err)
	}
	name := *dsn
	name.Host = "localhost:" + dsn.Port()
	bad.DSN = name.String()
	_, err = Dial(ctx, bad)
	if _, ok := errors.AsType[*CertificateError](err); !ok {
		t.Errorf("a certificate for another name: %v", err)
	}
	// One of two hosts that cannot be reached may be back in a moment.
	two := name
	two.Host = "127.0.0.1:1,localhost:" + dsn.Port()
	bad.DSN = two.String()
	_, err = Dial(ctx, bad)
	if _, ok := errors.AsType[*ConnectError](err); !ok {
		t.Errorf("a host out of reach and one with a certificate for another name: %v", err)
	}
}
