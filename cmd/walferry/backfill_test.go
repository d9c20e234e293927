package main

import (
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"walferry/internal/admin"
	"walferry/internal/testbed"
)

// TestBackfillCommand has a running walferry copy tables that it has captured without a copy, kills it behind an answer, and gives it
// bad input.
func TestBackfillCommand(t *testing.T) {
	pg := testbed.Postgres(t, "")
	broker := testbed.KafkaAlone(t)
	pg.Exec(testbed.Owner, "CREATE TABLE public.orders (id int PRIMARY KEY, note text)", "INSERT INTO orders SELECT i, 'n' || i FROM generate_series(1, 30) i",
		"CREATE TABLE public.log (line text)", "ALTER TABLE log REPLICA IDENTITY FULL", "INSERT INTO log VALUES ('one'), ('two')", "CREATE TABLE public.other (id int PRIMARY KEY)",
		"CREATE PUBLICATION walferry_fill FOR TABLE public.orders, public.log WITH (publish_via_partition_root = true)", "ANALYZE",
		"GRANT SELECT ON ALL TABLES IN SCHEMA public TO "+testbed.Reader)
	b := &bench{t: t, file: filepath.Join(t.TempDir(), "walferry.yml")}
	address := freeAddr(t)
	b.configure(`
name: fill
source:
  dsn: %q
  tables: [public.orders, public.log]
  publication: {create: false}
  heartbeat: 1s
kafka:
  brokers: [%q]
  topic: {partitions: 1, replication_factor: 1}
registry: {listen: "127.0.0.1:0"}
backfill: {mode: none}
admin: {listen: %q}
`, pg.DSN(testbed.Reader), broker.Addr, address)
	binary := buildBinary(t)
	b.has(b.walferry(exitOK, "", "backfill", "status"), "not running", "no table has a copy")
	p := launch(t, binary, "first", nil, "run", "--config", b.file)
	await := func(what string, ok func() bool) {
		t.Helper()
		for end := time.Now().Add(2 * time.Minute); !ok(); time.Sleep(50 * time.Millisecond) {
			if time.Now().After(end) {
				t.Fatalf("%s does not come", what)
			}
		}
	}
	ready := func() bool {
		return run(t.Context(), []string{"status", "--readyz", "--config", b.file}, nil, io.Discard, io.Discard) == exitOK
	}
	await("readiness", ready)

	text := b.walferry(exitOK, "", "backfill", "start", "public.orders", "--where", "id > 10 -- not the first", "--wait")
	b.has(text, "public.orders: waiting, generation 1\n", "public.orders: done, 20 rows", "where id > 10")
	b.has(b.walferry(exitOK, "", "tail", "--from", "beginning", "-n", "20"), ` r fill.public.orders [id=11] id=11 note="n11"`, ` r fill.public.orders [id=30]`)
	b.has(b.walferry(exitOK, "", "backfill", "status"), "TABLE", "public.log     skipped", "public.orders  done     1           20")
	var status struct {
		Running bool
		State   string
		Copies  []admin.CopyStatus `json:"backfill"`
	}
	if err := json.Unmarshal([]byte(b.walferry(exitOK, "", "backfill", "status", "public.orders", "--json")), &status); err != nil {
		t.Fatal(err)
	}
	if c := status.Copies; !status.Running || status.State != "streaming" || len(c) != 1 || c[0].Rows != 20 || c[0].Where == "" || c[0].Finished == nil {
		t.Errorf("%+v", status)
	}

	for _, x := range []struct {
		code int
		says string
		args []string
	}{
		{exitConfig, "table public.nosuch is not captured", []string{"start", "public.nosuch"}},
		{exitConfig, "table public.other is not captured\n  write schema.table", []string{"start", "public.orders", "public.other"}},
		{exitConfig, "it has 1 names instead of 2", []string{"cancel", "orders"}},
		{exitConfig, `column "nosuch" does not exist` + "\n  write --where as what follows WHERE", []string{"start", "public.orders", "--where", "nosuch > 1"}},
		{exitConfig, "must be type boolean", []string{"start", "public.orders", "--where", "id"}},
		{exitConfig, "public.log has no key, and its copy begins with a truncate event", []string{"start", "--all", "--where", "true"}},
		{exitError, "there is nothing to pause: the copy of table public.orders is done", []string{"pause", "public.orders"}},
		{exitError, "there is nothing to resume: the copy of table public.log is skipped", []string{"resume", "public.log"}},
		{exitError, "there is nothing to cancel", []string{"cancel", "public.log"}},
		{exitOK, "there is no table to cancel", []string{"cancel", "--all"}},
	} {
		b.has(b.walferry(x.code, "", append([]string{"backfill"}, x.args...)...), x.says)
	}
	pg.Exec(testbed.Owner, "REVOKE SELECT ON log FROM "+testbed.Reader)
	b.has(b.walferry(exitSource, "", "backfill", "start", "public.log"), "permission denied for table log", "GRANT SELECT ON")
	pg.Exec(testbed.Owner, "GRANT SELECT ON log TO "+testbed.Reader)

	// An open transaction keeps copies where they are. What is answered outlives the process.
	writer := pg.Connect(testbed.Owner)
	for _, sql := range []string{"BEGIN", "INSERT INTO other VALUES (1)"} {
		if _, err := writer.Exec(t.Context(), sql); err != nil {
			t.Fatal(err)
		}
	}
	b.has(b.walferry(exitOK, "", "backfill", "start", "--all"), "public.orders: waiting, generation 2", "public.log: waiting, generation 1")
	await("what the copy waits for", func() bool {
		return strings.Contains(b.walferry(exitOK, "", "backfill", "status"), fmt.Sprintf("the transaction of pid %d", writer.PgConn().PID()))
	})
	b.has(b.walferry(exitOK, "", "status"), "backfill", "is open since before the copy")
	b.has(b.walferry(exitError, "", "backfill", "start", "public.orders"), "the copy of table public.orders is ", "--force")
	b.has(b.walferry(exitOK, "", "backfill", "pause", "public.orders"), "public.orders: paused, generation 2")
	if err := p.Stop(syscall.SIGKILL, time.Minute); err != nil {
		t.Fatal(err)
	}
	b.has(b.walferry(exitError, "", "backfill", "resume", "--all"), "no walferry answers at admin.listen")
	p = launch(t, binary, "second", nil, "run", "--config", b.file)
	await("readiness", ready)
	await("the copies of before", func() bool {
		return strings.Contains(b.walferry(exitOK, "", "backfill", "status"), "public.orders  paused")
	})
	if _, err := writer.Exec(t.Context(), "COMMIT"); err != nil {
		t.Fatal(err)
	}
	await("the other table", func() bool {
		return strings.Contains(b.walferry(exitOK, "", "backfill", "status", "public.log"), "done")
	})
	b.has(b.walferry(exitOK, "", "backfill", "resume", "--all"), "public.orders: ")
	b.walferry(exitOK, "", "backfill", "status", "--watch")
	b.has(b.walferry(exitOK, "", "backfill", "status"), "public.orders  done   2           30")
	b.has(b.walferry(exitOK, "", "status"), "2 tables copied, 32 rows")
	metrics := func() string {
		res, err := http.Get("http://" + address + "/metrics")
		if err != nil {
			t.Fatal(err)
		}
		text, err := io.ReadAll(res.Body)
		if cerr := res.Body.Close(); err != nil || cerr != nil {
			t.Fatal(err, cerr)
		}
		return string(text)
	}
	// A row is counted when it is committed, which can be a moment after its copy is known to be done.
	await("the rows in the metrics", func() bool { return strings.Contains(metrics(), "walferry_backfill_rows_total 32") })
	b.has(metrics(), `walferry_backfill_tables{state="done"} 2`, `walferry_backfill_tables{state="skipped"} 0`, "walferry_backfill_bytes_total")
	if err := p.Stop(syscall.SIGTERM, time.Minute); err != nil {
		t.Fatal(err)
	}
	b.has(b.walferry(exitOK, "", "backfill", "status", "public.orders"), "not running: this is what was last saved", "public.orders  done   2           30")
}
