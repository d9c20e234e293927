package main

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"walferry/internal/testbed"
)

// TestExternalRegistry: a pipeline whose registry is another one. One is another walferry's, which wants a client certificate and a
// bearer token; one is Apicurio's, which knows no force. In both a new version is registered, one that the level forbids stops
// the pipeline, and is forced then.
func TestExternalRegistry(t *testing.T) {
	t.Run("walferry", func(t *testing.T) {
		broker := testbed.Kafka(t)
		ca := testbed.NewAuthority(t)
		dir := t.TempDir()
		serverCert, serverKey := ca.Issue("registry")
		cert, key := ca.Issue("pipeline")
		token := writeTo(t, dir, "token", "t0ken\n")
		address := freeAddr(t)
		server := &bench{t: t, file: filepath.Join(dir, "registry.yml")}
		server.configure(`
name: registry
source: {dsn: "host=127.0.0.1 port=1 user=nobody dbname=nothing", tables: [public.nothing]}
kafka: {brokers: [%q], topic: {partitions: 1, replication_factor: 1}}
registry:
  listen: %q
  topic: _schemas.external
  allow_anonymous_reads: false
  auth: {token_file: %q}
  listen_tls: {cert_file: %q, key_file: %q, client_ca_file: %q}
  tls: {enabled: true, ca_file: %q, cert_file: %q, key_file: %q}
`, broker.Addr, address, token, serverCert, serverKey, ca.File, ca.File, cert, key)
		p := server.start("registry", "serve")
		configuration := func(auth, tls string) string { return fmt.Sprintf("{url: %q%s%s}", "https://"+address, auth, tls) }
		withToken := fmt.Sprintf(", auth: {token_file: %q}", token)
		withTLS := fmt.Sprintf(", tls: {enabled: true, ca_file: %q, cert_file: %q, key_file: %q}", ca.File, cert, key)
		b := externalPipeline(t, "externalwalferry", broker, configuration(withToken, withTLS))

		// Without either of them there is no registry, which the checks say.
		b.until(p, "schema", "list")
		for registry, says := range map[string]string{
			configuration("", withTLS): "does not accept our credentials",
			configuration(withToken, fmt.Sprintf(", tls: {enabled: true, ca_file: %q}", ca.File)): "certificate required",
		} {
			other := &bench{t: t, file: filepath.Join(t.TempDir(), "walferry.yml")}
			other.configure("%s", strings.Replace(readFile(t, b.file), configuration(withToken, withTLS), registry, 1))
			other.has(failure(t, other.walferry(exitCheck, "", "check"), "registry", "connect"), says)
		}
		b.versions("field after.note: MISSING_UNION_BRANCH reader union lacking writer type: STRING")
		if code := server.stop(p); code != exitOK {
			t.Errorf("registry serve ended with %d:\n%s", code, p.errs)
		}
	})
	t.Run("apicurio", func(t *testing.T) {
		url := testbed.Apicurio(t)
		externalPipeline(t, "externalapicurio", testbed.Kafka(t), fmt.Sprintf("{url: %q}", url)).versions("reader union lacking writer type: RECORD at /fields/1/type/1")
	})
}

// external is a pipeline of one table.
type external struct {
	*bench
	pg   *testbed.PG
	name string
}

func externalPipeline(t *testing.T, name string, broker *testbed.Broker, registry string) *external {
	t.Helper()
	pg := testbed.Postgres(t, "")
	pg.Exec(testbed.Owner, "CREATE TABLE public.orders (id int PRIMARY KEY, note text)",
		"CREATE PUBLICATION walferry_"+name+" FOR TABLE public.orders WITH (publish_via_partition_root = true)")
	b := &external{&bench{t: t, file: filepath.Join(t.TempDir(), "walferry.yml")}, pg, name}
	b.configure(`
name: %s
source:
  dsn: %q
  tables: [public.orders]
  publication: {create: false}
kafka:
  brokers: [%q]
  topic: {partitions: 1, replication_factor: 1}
schema:
  on_incompatible: stop
registry: %s
backfill: none
admin: {listen: %q}
`, name, pg.DSN(testbed.Reader), broker.Addr, registry, freeAddr(t))
	return b
}

// versions takes the table through three versions, the last of which its level forbids; why is what the registry says of it.
func (b *external) versions(why string) {
	b.t.Helper()
	p := b.start("run")
	b.until(p, "status", "--readyz")
	b.has(b.walferry(exitOK, "", "check"), ", 0 to mend")
	b.pg.Exec(testbed.Owner, "INSERT INTO orders VALUES (1, 'first')", "ALTER TABLE orders ADD COLUMN extra int", "INSERT INTO orders VALUES (2, 'second', 2)")
	b.has(b.walferry(exitOK, "", "tail", "--from", "beginning", "-n", "2"), `[id=1] id=1 note="first"`, `[id=2] id=2 note="second" extra=2`)
	subject := b.name + ".public.orders-value"
	b.has(b.walferry(exitOK, "", "schema", "list"), b.name+".public.orders-key", subject, "BACKWARD")
	b.has(b.walferry(exitOK, "", "schema", "versions", "public.orders"), "extra")

	b.pg.Exec(testbed.Owner, "ALTER TABLE orders ALTER note TYPE int USING 3", "INSERT INTO orders VALUES (3, 3, 3)")
	var code int
	select {
	case code = <-p.ended:
	case <-time.After(2 * time.Minute):
		b.t.Fatalf("does not stop at a version that is not compatible:\n%s", p.errs)
	}
	if code != exitStopped {
		b.t.Errorf("ended with %d, want %d:\n%s", code, exitStopped, p.errs)
	}
	b.has(p.errs.String(), "subject "+subject, why, "`force` registers the schema all the same")

	text := readFile(b.t, b.file)
	if err := os.WriteFile(b.file, []byte(strings.Replace(text, "on_incompatible: stop", "on_incompatible: force", 1)), 0o600); err != nil {
		b.t.Fatal(err)
	}
	p = b.start("run")
	b.has(b.walferry(exitOK, "", "tail", "--from", "beginning", "-n", "3"), `[id=3] id=3 note=3 extra=3`)
	// The level is what it was.
	b.has(b.walferry(exitOK, "", "schema", "list", subject), "BACKWARD")
	if code := b.stop(p); code != exitOK {
		b.t.Errorf("run ended with %d:\n%s", code, p.errs)
	}
}
