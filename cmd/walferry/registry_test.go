package main

import (
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"walferry/internal/testbed"
)

// TestRegistryListener: the built-in registry over TLS, with client certificates, with users for reads and for writes.
// Nobody answers for Kafka, so who is let through learns that the topic is not read yet.
func TestRegistryListener(t *testing.T) {
	ca, stranger := testbed.NewAuthority(t), testbed.NewAuthority(t)
	cert, key := ca.Issue("registry")
	token := filepath.Join(t.TempDir(), "token")
	if err := os.WriteFile(token, []byte("t0ken\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	address := freeAddr(t)
	b := &bench{t: t, file: filepath.Join(t.TempDir(), "walferry.yml")}
	b.configure(`
name: listener
source: {dsn: "host=127.0.0.1 port=1 user=walferry dbname=shop", tables: [public.orders]}
kafka: {brokers: ["127.0.0.1:1"]}
registry:
  listen: %q
  auth: {user: walferry, password: secret}
  allow_anonymous_reads: false
  users:
    consumers: {role: read, password: lookup}
    bot: {role: write, token_file: %q}
  listen_tls: {cert_file: %q, key_file: %q, client_ca_file: %q}
  tls: {enabled: true, ca_file: %q, cert_file: %q, key_file: %q}
`, address, token, cert, key, ca.File, ca.File, cert, key)
	p := b.start("registry", "serve")
	client := func(ca *testbed.Authority, show bool) *http.Client {
		pem, err := os.ReadFile(ca.File)
		if err != nil {
			t.Fatal(err)
		}
		c := &tls.Config{RootCAs: x509.NewCertPool(), MinVersion: tls.VersionTLS12}
		c.RootCAs.AppendCertsFromPEM(pem)
		if show {
			pair, err := tls.LoadX509KeyPair(ca.Issue("client"))
			if err != nil {
				t.Fatal(err)
			}
			c.Certificates = []tls.Certificate{pair}
		}
		return &http.Client{Transport: &http.Transport{TLSClientConfig: c, DisableKeepAlives: true}, Timeout: time.Minute}
	}
	ask := func(c *http.Client, method, path, user, password string) (int, error) {
		req, err := http.NewRequestWithContext(t.Context(), method, "https://"+address+path, nil)
		if err != nil {
			t.Fatal(err)
		}
		if user == "" {
			req.Header.Set("Authorization", password)
		} else {
			req.SetBasicAuth(user, password)
		}
		res, err := c.Do(req)
		if err != nil {
			return 0, err
		}
		_, err = io.Copy(io.Discard, res.Body)
		if cerr := res.Body.Close(); err == nil {
			err = cerr
		}
		return res.StatusCode, err
	}
	known := client(ca, true)
	for end := time.Now().Add(time.Minute); ; time.Sleep(20 * time.Millisecond) {
		_, err := ask(known, "GET", "/subjects", "walferry", "secret")
		if err == nil {
			break
		}
		if time.Now().After(end) {
			t.Fatalf("the registry does not answer: %v\n%s", err, p.errs)
		}
	}
	for _, c := range []struct {
		method, path, user, password string
		want                         int
	}{
		{"GET", "/subjects", "walferry", "secret", 503},
		{"GET", "/subjects", "consumers", "lookup", 503},
		{"GET", "/subjects", "", "Bearer t0ken", 503},
		{"GET", "/subjects", "", "", 401},
		{"GET", "/subjects", "consumers", "secret", 401},
		{"PUT", "/mode", "consumers", "lookup", 403},
		{"PUT", "/mode", "walferry", "secret", 422}, // no body
		{"PUT", "/mode", "", "Bearer t0ken", 422},
		{"PUT", "/mode", "", "Bearer lookup", 401},
	} {
		if got, err := ask(known, c.method, c.path, c.user, c.password); err != nil || got != c.want {
			t.Errorf("%s %s as %s: %d, %v; want %d", c.method, c.path, c.user+c.password, got, err, c.want)
		}
	}
	for name, c := range map[string]*http.Client{"no client certificate": client(ca, false), "of another authority": client(stranger, true)} {
		if status, err := ask(c, "GET", "/subjects", "walferry", "secret"); err == nil {
			t.Errorf("%s: %d", name, status)
		}
	}
	if code := b.stop(p); code != exitOK {
		t.Fatalf("registry serve ended with %d:\n%s", code, p.errs)
	}

	// check says what it is, and what is amiss.
	lines := func() string {
		var list []finding
		if err := json.Unmarshal([]byte(b.walferry(exitCheck, "", "check", "--json")), &list); err != nil {
			t.Fatal(err)
		}
		var out strings.Builder
		for _, f := range list {
			if f.Of == "registry" {
				out.WriteString(string(f.Severity) + " " + f.ID + ": " + f.Text + "\n")
			}
		}
		return out.String()
	}
	b.has(lines(), "asks for a user before it is read or written", "warn listen_tls: the registry's certificate is valid until ")
	text := readFile(t, b.file)
	b.configure("%s", strings.ReplaceAll(text, key, key+".gone"))
	b.has(lines(), "fail listen_tls: ", key+".gone")
	b.configure("%s", strings.ReplaceAll(text, token, token+".gone"))
	b.has(lines(), "fail auth: ", token+".gone")
	plain, _, _ := strings.Cut(strings.ReplaceAll(text, address, "0.0.0.0:0"), "  listen_tls:")
	b.configure("%s", plain)
	b.has(lines(), "warn listen_tls: passwords and tokens cross the network to 0.0.0.0:0 as they are")
}
