package source

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"math/big"
	"net"
	"net/url"
	"os"
	"path/filepath"
	"testing"
	"time"

	"walferry/internal/pgserver"
	"walferry/internal/testbed"
)

// authority signs the certificates of one test.
type authority struct {
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
}

// issue writes name.crt and name.key to dir; the authority itself is issued by nobody.
func (a *authority) issue(t testing.TB, dir, name, cn string, ip net.IP) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	tmpl := &x509.Certificate{
		SerialNumber: big.NewInt(time.Now().UnixNano()), Subject: pkix.Name{CommonName: cn},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour), BasicConstraintsValid: true,
	}
	if ip != nil {
		tmpl.IPAddresses = []net.IP{ip}
	}
	parent, signer := a.cert, a.key
	if parent == nil {
		tmpl.IsCA, tmpl.KeyUsage = true, x509.KeyUsageCertSign
		parent, signer = tmpl, key
	}
	der, err := x509.CreateCertificate(rand.Reader, tmpl, parent, &key.PublicKey, signer)
	if err != nil {
		t.Fatal(err)
	}
	if a.cert == nil {
		if a.cert, err = x509.ParseCertificate(der); err != nil {
			t.Fatal(err)
		}
		a.key = key
	}
	kb, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	for file, b := range map[string]*pem.Block{name + ".crt": {Type: "CERTIFICATE", Bytes: der}, name + ".key": {Type: "PRIVATE KEY", Bytes: kb}} {
		if err := os.WriteFile(filepath.Join(dir, file), pem.EncodeToMemory(b), 0o600); err != nil {
			t.Fatal(err)
		}
	}
}

// secure gives pg a certificate for 127.0.0.1, and returns a DSN that verifies it and shows one of the Reader's.
func secure(t testing.TB, pg *testbed.PG) (dsn *url.URL) {
	t.Helper()
	dir := t.TempDir()
	var ca authority
	ca.issue(t, dir, "ca", "test authority", nil)
	ca.issue(t, dir, "client", testbed.Reader, nil)
	ca.issue(t, pg.DataDir(), "server", "db", net.IPv4(127, 0, 0, 1))
	root, err := os.ReadFile(filepath.Join(dir, "ca.crt"))
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(pg.DataDir(), "root.crt"), root, 0o600); err != nil {
		t.Fatal(err)
	}
	// The Reader comes over TCP with a certificate of its name and nothing else.
	hba := "local all all scram-sha-256\nhostssl all " + testbed.Reader + " 127.0.0.1/32 cert\nhost all " + testbed.Owner + "," + testbed.Superuser + " 127.0.0.1/32 scram-sha-256\n"
	if err := os.WriteFile(filepath.Join(pg.DataDir(), "pg_hba.conf"), []byte(hba), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, f := range []string{"server.crt", "server.key", "root.crt"} {
		if err := pg.Own(filepath.Join(pg.DataDir(), f)); err != nil {
			t.Fatal(err)
		}
	}
	pg.Exec(testbed.Superuser, "ALTER SYSTEM SET ssl = on", "ALTER SYSTEM SET ssl_ca_file = 'root.crt'")
	if err := pg.Restart(t.Context(), pgserver.Fast); err != nil {
		t.Fatal(err)
	}
	u, err := url.Parse(pg.DSN(testbed.Reader))
	if err != nil {
		t.Fatal(err)
	}
	u.User = url.User(testbed.Reader)
	u.RawQuery = url.Values{"sslmode": {"verify-full"}, "sslrootcert": {filepath.Join(dir, "ca.crt")},
		"sslcert": {filepath.Join(dir, "client.crt")}, "sslkey": {filepath.Join(dir, "client.key")}}.Encode()
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
	if _, ok := errors.AsType[*ConnectError](err); !ok {
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
	if _, err := Dial(ctx, bad); err == nil {
		t.Error("a certificate for another name was accepted")
	}
}
