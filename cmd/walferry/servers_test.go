package main

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"walferry/checkpoint"
	"walferry/internal/kafka"
	"walferry/internal/testbed"
)

// bench is a command line with its servers.
type bench struct {
	t    *testing.T
	file string
}

// walferry runs a command line and wants this exit code; in answers what it asks.
// It returns stdout and stderr.
func (b *bench) walferry(want int, in string, args ...string) string {
	b.t.Helper()
	var out, errs bytes.Buffer
	ctx, cancel := context.WithTimeout(b.t.Context(), 3*time.Minute) // one that waits for ever fails here, and says what it said
	defer cancel()
	code := run(ctx, append(args, "--config", b.file), strings.NewReader(in), &out, &errs)
	if code != want {
		b.t.Fatalf("walferry %s: exit code %d, want %d\n%s%s", strings.Join(args, " "), code, want, out.String(), errs.String())
	}
	return out.String() + errs.String()
}

func (b *bench) has(text string, wants ...string) {
	b.t.Helper()
	for _, w := range wants {
		if !strings.Contains(text, w) {
			b.t.Errorf("no %q in\n%s", w, text)
		}
	}
}

func (b *bench) configure(format string, args ...any) {
	b.t.Helper()
	if err := os.WriteFile(b.file, fmt.Appendf(nil, format, args...), 0o600); err != nil {
		b.t.Fatal(err)
	}
}

// TestCommandsOnServers walks through the life of a pipeline as an operator does.
func TestCommandsOnServers(t *testing.T) {
	pg := testbed.Postgres(t, "")
	broker := testbed.KafkaAlone(t)
	pg.Exec(testbed.Owner, "CREATE TABLE public.orders (id int PRIMARY KEY, note text)", "CREATE TABLE public.log (line text)")
	b := &bench{t: t, file: filepath.Join(t.TempDir(), "walferry.yml")}

	// setup makes the role, so the configuration names one that does not exist yet.
	dsn, err := url.Parse(pg.DSN("feeder"))
	if err != nil {
		t.Fatal(err)
	}
	dsn.User = url.UserPassword("feeder", `it's a \secret`)
	const settings = `
name: ops
source:
  dsn: %q
  tables: [%s]
  slot: {name: %s}
  publication: {name: walferry_ops, create: false}
kafka:
  brokers: [%q]
  topic: {partitions: 2, replication_factor: 1}
registry: {listen: "127.0.0.1:0"}
admin: {listen: ""}
`
	b.configure(settings, dsn, "public.orders", "walferry_ops", broker.Addr)
	admin := pg.DSN(testbed.Superuser)
	text := b.walferry(exitCheck, "", "check")
	b.has(text, "fail  postgres  connect", "ok    kafka     connect")
	text = b.walferry(exitOK, "", "setup", "--apply", "--admin-dsn", admin)
	b.has(text, `ok      CREATE ROLE "feeder"`, "ok      CREATE PUBLICATION", "PASSWORD '***'")
	if strings.Contains(text, "secret") {
		t.Errorf("setup shows the password:\n%s", text)
	}
	text = b.walferry(exitOK, "", "setup", "--apply", "--admin-dsn", admin)
	b.has(text, `exists  CREATE ROLE "feeder"`, "exists  CREATE PUBLICATION", "ok      GRANT")
	b.has(b.walferry(exitOK, "", "setup", "--ddl-trigger"), "CREATE EVENT TRIGGER", "To remove it: DROP EVENT TRIGGER")
	b.has(b.walferry(exitOK, "", "setup", "--ddl-trigger", "--apply", "--admin-dsn", admin), "ok      event trigger")

	text = b.walferry(exitOK, "", "check")
	b.has(text, "ok    postgres  publication", "ok    kafka     transactional_id", "topic ops.public.orders does not exist yet", ", 0 to mend")
	if strings.Contains(text, "secret") {
		t.Errorf("check shows the password:\n%s", text)
	}

	// A topic that is not as configured.
	client, err := kafka.New(kafka.Config{Brokers: []string{broker.Addr}})
	if err != nil {
		t.Fatal(err)
	}
	defer client.Close()
	if err := client.CreateTopic(t.Context(), "ops.public.orders", 3, 1, map[string]string{"retention.ms": "60000"}); err != nil {
		t.Fatal(err)
	}
	var found []finding
	if err := json.Unmarshal([]byte(b.walferry(exitCheck, "", "check", "--json")), &found); err != nil {
		t.Fatal(err)
	}
	remedies := map[string]string{}
	for _, f := range found {
		if f.Of == "kafka" && f.Severity != "ok" {
			remedies[f.ID] += f.Remedy
		}
	}
	if len(remedies) != 1 || remedies["topic"] != "set kafka.topic.partitions: 3" {
		t.Errorf("%v", remedies)
	}

	// Nothing has run yet: neither checkpoint nor slot.
	b.has(b.walferry(exitOK, "", "recover"), "checkpoint  none", "nothing to recover")
	b.has(b.walferry(exitOK, "", "status"), "walferry_ops does not exist")
	// A slot without a checkpoint.
	pg.Exec(testbed.Superuser, "SELECT pg_create_logical_replication_slot('walferry_ops', 'pgoutput')")
	b.has(b.walferry(exitRefused, "", "recover"), "no checkpoint", checkpoint.RecoverFromSlot)
	b.has(b.walferry(exitError, "yes\n", "recover", "--from-slot"), "Type ops to go on", "nothing was changed")
	b.has(b.walferry(exitOK, "ops\n", "recover", "--from-slot"), "saved")
	b.has(b.walferry(exitOK, "", "recover"), "checkpoint  live", "nothing to recover")
	b.has(b.walferry(exitOK, "", "status", "--json"), `"exists": true`, `"running": false`)
	// Another slot under the same name.
	b.configure(settings, dsn, "public.orders", "other", broker.Addr)
	b.has(b.walferry(exitRefused, "", "recover"), `of slot "walferry_ops"`)
	b.configure(settings, dsn, "public.orders", "walferry_ops", broker.Addr)
	// The slot goes, and with it the way on.
	pg.Exec(testbed.Superuser, "SELECT pg_drop_replication_slot('walferry_ops')")
	b.has(b.walferry(exitRefused, "", "recover"), "does not exist any more", checkpoint.RecoverNewSlot)
	b.has(b.walferry(exitError, "", "recover", "--from-slot", "--yes"), "nothing to go on from")
	b.has(b.walferry(exitOK, "", "recover", "--new-slot", "--yes"), "saved")
	b.has(b.walferry(exitOK, "", "recover"), "checkpoint  creating", "nothing to recover")
	b.has(b.walferry(exitError, "", "recover", "--accept-partitions", "ops.public.orders", "--yes"), "no event was published")

	// Removing the pipeline: an administrator's connection, since the publication is theirs.
	dsn.User = url.UserPassword(testbed.Superuser, pg.Password())
	b.configure(settings, dsn, "public.orders", "walferry_ops", broker.Addr)
	pg.Exec(testbed.Superuser, "SELECT pg_create_logical_replication_slot('walferry_ops', 'pgoutput')")
	b.has(b.walferry(exitError, "no\n", "drop"), "keeps", "nothing was changed")
	b.has(b.walferry(exitOK, "", "status"), "held by nobody")
	b.has(b.walferry(exitOK, "ops\n", "drop"), "dropped the slot", "dropped the publication")
	b.has(b.walferry(exitOK, "ops\n", "drop"), "does not exist")
	var n int
	if err := pg.Connect(testbed.Superuser).QueryRow(t.Context(), "SELECT (SELECT count(*) FROM pg_publication) + (SELECT count(*) FROM pg_replication_slots)").Scan(&n); err != nil || n != 0 {
		t.Errorf("%d slots and publications are left, %v", n, err)
	}
}

// process is a command line that runs beside the test.
type process struct {
	cancel context.CancelCauseFunc
	ended  chan int
	errs   *lockedBuffer
}

type lockedBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer // guarded by mu
}

func (b *lockedBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.Write(p)
}

func (b *lockedBuffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.String()
}

func (b *bench) start(args ...string) *process {
	ctx, cancel := context.WithCancelCause(b.t.Context())
	p := &process{cancel: cancel, ended: make(chan int, 1), errs: &lockedBuffer{}}
	go func() { p.ended <- run(ctx, append(args, "--config", b.file), nil, io.Discard, p.errs) }()
	b.t.Cleanup(func() { cancel(errInterrupted) })
	return p
}

// stop does what SIGTERM does and returns the exit code.
func (b *bench) stop(p *process) int {
	b.t.Helper()
	p.cancel(errInterrupted)
	select {
	case code := <-p.ended:
		return code
	case <-time.After(time.Minute):
		b.t.Fatalf("does not stop:\n%s", p.errs)
		return 0
	}
}

// until runs a command line until it exits with 0.
func (b *bench) until(p *process, args ...string) {
	b.t.Helper()
	var errs bytes.Buffer
	for end := time.Now().Add(time.Minute); time.Now().Before(end); time.Sleep(50 * time.Millisecond) {
		errs.Reset()
		if run(b.t.Context(), append(args, "--config", b.file), nil, io.Discard, &errs) == exitOK {
			return
		}
		select {
		case code := <-p.ended:
			b.t.Fatalf("ended with %d:\n%s", code, p.errs)
		default:
		}
	}
	b.t.Fatalf("walferry %s: %s\n%s", strings.Join(args, " "), errs.String(), p.errs)
}

// copied waits until the rows of so many tables are copied, which is what happens first.
func (b *bench) copied(p *process, tables int) {
	b.t.Helper()
	for end := time.Now().Add(time.Minute); ; time.Sleep(50 * time.Millisecond) {
		var out, errs bytes.Buffer
		if run(b.t.Context(), []string{"backfill", "status", "--json", "--config", b.file}, nil, &out, &errs) == exitOK && strings.Count(out.String(), `"state": "done"`) == tables {
			return
		}
		select {
		case code := <-p.ended:
			b.t.Fatalf("ended with %d:\n%s", code, p.errs)
		default:
		}
		if time.Now().After(end) {
			b.t.Fatalf("walferry backfill status: %s%s\n%s", out.String(), errs.String(), p.errs)
		}
	}
}

// TestRunStatusTail: the commands around a running walferry, and what is left when it
// has stopped.
func TestRunStatusTail(t *testing.T) {
	pg := testbed.Postgres(t, "")
	broker := testbed.KafkaAlone(t)
	pg.Exec(testbed.Owner, "CREATE TABLE public.orders (id int PRIMARY KEY, note text)", "INSERT INTO orders VALUES (0, 'before')",
		"GRANT SELECT ON orders TO "+testbed.Reader, "CREATE PUBLICATION walferry_tail FOR TABLE public.orders WITH (publish_via_partition_root = true)")
	b := &bench{t: t, file: filepath.Join(t.TempDir(), "walferry.yml")}
	settings := func(registry string, standby bool) {
		b.configure(`
name: tail
source:
  dsn: %q
  tables: [public.orders]
  publication: {create: false}
  heartbeat: 1s
kafka:
  brokers: [%q]
  topic: {partitions: 1, replication_factor: 1}
schema:
  tables: {public.orders: {on_incompatible: new-topic}}
  changes_topic: tail.schema-changes
registry: {listen: %q}
admin: {listen: %q}
standby: %v
`, pg.DSN(testbed.Reader), broker.Addr, registry, freeAddr(t), standby)
	}
	address := freeAddr(t)
	settings(address, true)
	p := b.start("run")
	b.until(p, "status", "--readyz")
	b.copied(p, 1)
	pg.Exec(testbed.Owner, "INSERT INTO orders VALUES (1, 'first')", "UPDATE orders SET note = 'second' WHERE id = 1", "DELETE FROM orders WHERE id = 1")
	text := b.walferry(exitOK, "", "tail", "--from", "beginning", "-n", "5")
	b.has(text, ` r tail.public.orders [id=0] id=0 note="before"`, ` c tail.public.orders [id=1] id=1 note="first"`, ` u tail.public.orders [id=1] id=1 note="second"`, ` d tail.public.orders [id=1]`, ` - tail.public.orders [id=1]`)
	b.has(b.walferry(exitOK, "", "tail", "public.orders", "--from", "beginning", "-n", "1", "--json"), `"op":"r"`, `"key":{"id":0}`, `"after":{"id":0,"note":"before"}`, `"schema_id":`)
	b.has(b.walferry(exitKafka, "", "tail", "public.nosuch"), "topic tail.public.nosuch: no event of this table has been published yet")
	b.has(b.walferry(exitOK, "", "status"), "streaming, ready", "slot", "walferry_tail")
	b.has(b.walferry(exitOK, "", "status", "--json"), `"running": true`, `"ready": true`)
	b.has(b.walferry(exitOK, "", "check"), "a walferry runs already", "topic tail.schema-changes has 1 partitions", ", 0 to mend")
	pg.Exec(testbed.Owner, "ALTER TABLE orders ALTER note TYPE int USING 1", "INSERT INTO orders VALUES (9, 9)")
	b.has(b.walferry(exitOK, "", "tail", "public.orders", "--from", "beginning", "-n", "6"), ` c tail.public.orders.v2 [id=9] id=9 note=9`)
	b.has(b.walferry(exitOK, "", "status", "--json"), `"new-topic": 1`)
	b.has(b.walferry(exitFenced, "", "drop", "--yes"), "in use by process")
	b.has(b.walferry(exitFenced, "", "recover", "--new-slot", "--yes"), "in use")
	b.has(b.walferry(exitFenced, "", "drain"), "in use by process")

	// A second instance waits for the slot, and ends in order while it waits.
	first := b.file
	b.file = filepath.Join(t.TempDir(), "second.yml")
	settings(freeAddr(t), true)
	second := b.start("run")
	for end := time.Now().Add(30 * time.Second); !strings.Contains(second.errs.String(), "standby: another instance holds the slot"); time.Sleep(50 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("no standby:\n%s", second.errs)
		}
	}
	if code := b.stop(second); code != exitOK {
		t.Errorf("the standby ended with %d:\n%s", code, second.errs)
	}
	b.file = first
	if code := b.stop(p); code != exitOK {
		t.Fatalf("run ended with %d:\n%s", code, p.errs)
	}
	if strings.Contains(p.errs.String(), "second") {
		t.Errorf("a row's value is in the log:\n%s", p.errs)
	}

	// Nobody serves the registry now; its topic is still there.
	b.has(b.walferry(exitOK, "", "tail", "--from", "beginning", "-n", "6"), `note="second"`)
	b.has(b.walferry(exitOK, "", "status"), "held by nobody")
	b.has(b.walferry(exitOK, "", "recover"), "checkpoint  live", "nothing to recover")

	// A planned move begins with what is not published yet.
	application := pg.Connect(testbed.Owner)
	if _, err := application.Exec(t.Context(), "INSERT INTO orders VALUES (2, 3)"); err != nil {
		t.Fatal(err)
	}
	b.has(b.walferry(exitOK, "", "drain"), "drained     tail of system", "sessions of others on database shop: 1.", "walferry run --after-upgrade")
	if err := application.Close(t.Context()); err != nil {
		t.Fatal(err)
	}
	b.has(b.walferry(exitOK, "", "tail", "--from", "beginning", "-n", "7"), `note=3`)
	b.has(b.walferry(exitOK, "", "recover"), "checkpoint  drained", "nothing to recover")

	p = b.start("registry", "serve")
	for end := time.Now().Add(30 * time.Second); ; time.Sleep(50 * time.Millisecond) {
		res, err := http.Get("http://" + address + "/subjects")
		if err == nil {
			body, rerr := io.ReadAll(res.Body)
			if cerr := res.Body.Close(); rerr == nil && cerr == nil && res.StatusCode == http.StatusOK {
				b.has(string(body), "tail.public.orders-key", "tail.public.orders-value")
				break
			}
		}
		if time.Now().After(end) {
			t.Fatalf("the registry does not answer: %v\n%s", err, p.errs)
		}
	}
	served := b.walferry(exitOK, "", "registry", "export", "--url", "http://"+address)
	if code := b.stop(p); code != exitOK {
		t.Fatalf("registry serve ended with %d:\n%s", code, p.errs)
	}

	// The registry's contents, from its topic as through its API, and into another topic.
	exported := filepath.Join(t.TempDir(), "registry.jsonl")
	b.walferry(exitOK, "", "registry", "export", "--output", exported)
	want := readFile(t, exported)
	b.has(want, `{"kind":"registry","format":1,`, `{"kind":"schema","subject":"tail.public.orders-value","version":1,`)
	if served != want {
		t.Errorf("through the API\n%s\nfrom the topic\n%s", served, want)
	}
	b.has(b.walferry(exitOK, "", "registry", "import", exported), ", 0 of them new")
	b.configure("%s", strings.Replace(readFile(t, b.file), "registry: {", "registry: {topic: _schemas.copy, ", 1))
	b.walferry(exitOK, want, "registry", "import", "-")
	if got := b.walferry(exitOK, "", "registry", "export"); got != want {
		t.Errorf("the copy\n%s\nwant\n%s", got, want)
	}
}
