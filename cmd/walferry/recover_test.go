package main

import (
	"cmp"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	kafkago "github.com/segmentio/kafka-go"

	"walferry/checkpoint"
	"walferry/internal/kafka"
	"walferry/internal/pgserver"
	"walferry/internal/testbed"
	"walferry/sink"
)

// patient is a pipeline that is refused and recovers.
type patient struct {
	bench
	name       string
	pg         *testbed.PG
	settings   string // more of the section source
	broker     string
	partitions int
	registry   string
	backfill   string // "" is none
}

func (p *patient) write() {
	p.t.Helper()
	p.configure(`
name: %[1]s
source:
  dsn: %[2]q
  tables: [public.%[1]s]
  publication: {name: walferry_%[1]s, create: false}
  heartbeat: 1s
%[5]s
kafka:
  brokers: [%[3]q]
  topic: {partitions: %[7]d, replication_factor: 1}
registry: {url: %[4]q}
backfill: %[8]s
admin: {listen: %[6]q}
`, p.name, p.pg.DSN(testbed.Reader), p.broker, p.registry, p.settings, freeAddr(p.t), max(p.partitions, 1), cmp.Or(p.backfill, "none"))
}

// insert commits one row.
func (p *patient) insert(id int) {
	p.t.Helper()
	p.pg.Exec(testbed.Owner, fmt.Sprintf("INSERT INTO %s VALUES (%d)", p.name, id))
}

// on runs the pipeline until everything that is committed now is published.
func (p *patient) on(want ...int) {
	p.t.Helper()
	run := p.start("run")
	p.until(run, "status", "--readyz")
	if want != nil {
		p.insert(want[len(want)-1])
		p.published(want...)
	}
	if code := p.stop(run); code != exitOK {
		p.t.Fatalf("%s: run ended with %d:\n%s", p.name, code, run.errs)
	}
}

// published wants the rows that these ids have in the topic, in this order.
func (p *patient) published(want ...int) {
	p.t.Helper()
	text := p.walferry(exitOK, "", "tail", "--json", "--from", "beginning", "-n", fmt.Sprint(len(want)))
	var got []int
	for line := range strings.Lines(text) {
		var e struct {
			Key struct{ ID int }
		}
		if err := json.Unmarshal([]byte(line), &e); err != nil {
			p.t.Fatalf("%v: %s", err, line)
		}
		got = append(got, e.Key.ID)
	}
	if fmt.Sprint(got) != fmt.Sprint(want) {
		p.t.Errorf("%s: published are %v, want %v", p.name, got, want)
	}
}

// fails wants run to end by itself with this code, and returns what it says.
func (p *patient) fails(code int, flags ...string) string {
	p.t.Helper()
	run := p.start(append([]string{"run"}, flags...)...)
	select {
	case got := <-run.ended:
		if got != code {
			p.t.Fatalf("%s: run ended with %d, want %d:\n%s", p.name, got, code, run.errs)
		}
	case <-time.After(2 * time.Minute):
		p.t.Fatalf("%s: run goes on where it should be refused:\n%s", p.name, run.errs)
	}
	return sentence(p.t, run.errs.String())
}

// refused wants run to end with this code, one line that says what, and one with the command. It follows the command.
func (p *patient) refused(code int, what, command string, flags ...string) {
	p.t.Helper()
	p.has(p.fails(code, flags...), what, "`walferry "+command+"`")
	args := strings.Fields(command)
	p.has(p.walferry(exitError, "no\n", args...), "nothing was changed")
	p.has(p.walferry(exitOK, p.name+"\n", args...), "saved")
}

// TestRecover makes each refusal happen, runs the command that it names, and sees what that promises: 1 was published
// before, 2 is what was committed while nobody ran or in a history that is gone, 3 comes after.
func TestRecover(t *testing.T) {
	pg := testbed.Postgres(t, "", "autovacuum=off")
	broker := testbed.KafkaAlone(t)
	registry := freeAddr(t)
	serve := &bench{t: t, file: filepath.Join(t.TempDir(), "registry.yml")}
	serve.configure("name: registry\nsource: {dsn: %q, all_tables: true}\nkafka: {brokers: [%q]}\ncheckpoint: {replication_factor: 1}\nregistry: {listen: %q}\n", pg.DSN(testbed.Reader), broker.Addr, registry)
	serve.start("registry", "serve")
	awaitHTTP(t, "http://"+registry+"/subjects")

	patients := map[string]*patient{}
	create := func(on *testbed.PG, name string) {
		on.Exec(testbed.Owner, "CREATE TABLE "+name+" (id int PRIMARY KEY)", "CREATE PUBLICATION walferry_"+name+" FOR TABLE "+name)
	}
	begin := func(name string) *patient {
		p := &patient{
			bench: bench{t: t, file: filepath.Join(t.TempDir(), "walferry.yml")}, name: name, pg: pg, broker: broker.Addr, registry: "http://" + registry,
		}
		create(pg, name)
		p.write()
		patients[name] = p
		return p
	}
	const dropSlot = "SELECT pg_drop_replication_slot('walferry_%s')"

	p := begin("lost")
	p.on(1)
	pg.Exec(testbed.Superuser, fmt.Sprintf(dropSlot, p.name))
	p.insert(2)
	p.refused(exitRefused, "does not exist any more", "recover --new-slot")
	p.on(1, 3)

	// Rows that were copied are copied again: what was changed while nobody looked is in no event.
	p = begin("copied")
	p.backfill = "initial"
	p.write()
	p.insert(1)
	for _, want := range [][]int{{1}, {1, 1, 2}} {
		run := p.start("run")
		p.published(want...)
		if code := p.stop(run); code != exitOK {
			t.Fatalf("run ended with %d:\n%s", code, run.errs)
		}
		if len(want) == 1 {
			pg.Exec(testbed.Superuser, fmt.Sprintf(dropSlot, p.name))
			p.insert(2)
			p.refused(exitRefused, "does not exist any more", "recover --new-slot")
		}
	}

	p = begin("unknown")
	pg.Exec(testbed.Superuser, "SELECT pg_create_logical_replication_slot('walferry_unknown', 'pgoutput')")
	p.insert(1)
	p.refused(exitRefused, "holds no checkpoint", "recover --from-slot")
	p.on(1, 3)

	p = begin("ahead")
	p.on(1)
	p.insert(2)
	pg.Exec(testbed.Superuser, "SELECT pg_replication_slot_advance('walferry_ahead', pg_current_wal_lsn())")
	p.refused(exitRefused, "never confirmed past", "recover --from-slot")
	p.on(1, 3)

	p = begin("renamed")
	p.on(1)
	pg.Exec(testbed.Superuser, "SELECT pg_create_logical_replication_slot('new_name', 'pgoutput')")
	p.insert(2)
	p.settings = "  slot: {name: new_name}"
	p.write()
	p.refused(exitRefused, `the checkpoint is of slot "walferry_renamed"`, "recover --from-slot")
	p.on(1, 2, 3)

	p = begin("younger")
	p.on(1)
	pg.Exec(testbed.Owner, "DROP PUBLICATION walferry_younger")
	p.insert(2) // where the stream finds no publication
	pg.Exec(testbed.Owner, "CREATE PUBLICATION walferry_younger FOR TABLE younger")
	p.refused(exitSource, "is older than publication", "recover --new-slot")
	p.on(1, 3)

	// A record of somebody else's in the checkpoint topic.
	p = begin("garbled")
	p.on(1)
	client, err := kafka.New(kafka.Config{Brokers: []string{broker.Addr}})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(client.Close)
	stranger, err := sink.New(client, sink.Config{TransactionalID: "stranger"})
	if err != nil {
		t.Fatal(err)
	}
	if err := stranger.Init(t.Context()); err != nil {
		t.Fatal(err)
	}
	for _, key := range []string{checkpoint.Key, checkpoint.TextKey} {
		if _, err := publish(t.Context(), stranger, "_walferry.garbled", []record{{[]byte(key), []byte("{}!")}}); err != nil {
			t.Fatal(err)
		}
	}
	p.insert(2)
	p.refused(exitRefused, "cannot be read", "recover --from-slot")
	p.on(1, 2, 3)
	p.has(p.walferry(exitOK, "", "recover"), "nothing to recover")

	// A topic that somebody gave more partitions.
	p = begin("wider")
	p.on(1)
	res, err := (&kafkago.Client{Addr: kafkago.TCP(broker.Addr)}).CreatePartitions(t.Context(), &kafkago.CreatePartitionsRequest{
		Topics: []kafkago.TopicPartitionsConfig{{Name: "wider.public.wider", Count: 2}},
	})
	if err != nil || res.Errors["wider.public.wider"] != nil {
		t.Fatal(err, res)
	}
	p.insert(2)
	p.has(p.fails(exitRefused), "had 1 partitions", "recover --accept-partitions wider.public.wider` and configure 2 partitions for it;")
	p.partitions = 2
	p.write()
	p.has(p.fails(exitRefused), "recover --accept-partitions wider.public.wider`;")
	p.partitions = 3
	p.write()
	p.has(p.fails(exitRefused), "and configure 2 partitions for it;")
	p.partitions = 2
	p.write()
	p.has(p.walferry(exitOK, "", "recover", "--accept-partitions", "wider.public.wider", "--yes"), "2 partitions")
	p.on()
	p.walferry(exitOK, "", "tail", "--from", "beginning", "-n", "2")

	// Another cluster, with and without the claim that it is an upgraded one.
	p = begin("moved")
	p.on(1)
	p.insert(2)
	p.pg = testbed.Postgres(t, "")
	create(p.pg, p.name)
	p.write()
	p.has(p.fails(exitRefused), "this is another database cluster", "`walferry recover --new-slot`")
	p.refused(exitRefused, "was not drained before the move", "recover --new-slot", "--after-upgrade")
	p.on(1, 3)

	// Copies of the server from before.
	for _, name := range []string{"behind", "diverged", "old"} {
		begin(name).on(1)
	}
	copies := t.TempDir()
	restore := func(from, to string, standby bool) {
		t.Helper()
		if err := pg.Stop(pgserver.Fast); err != nil {
			t.Fatal(err)
		}
		for _, step := range [][2]string{{pg.DataDir(), to}, {from, pg.DataDir()}} {
			if step[0] == "" || step[1] == "" {
				continue
			}
			if out, err := exec.CommandContext(t.Context(), "sh", "-c", `rm -rf "$1" && cp -a "$0" "$1"`, step[0], step[1]).CombinedOutput(); err != nil {
				t.Fatalf("copy: %v: %s", err, out)
			}
		}
		if standby {
			file := filepath.Join(pg.DataDir(), "standby.signal")
			if err := os.WriteFile(file, nil, 0o600); err != nil {
				t.Fatal(err)
			}
			if err := pg.Own(file); err != nil {
				t.Fatal(err)
			}
		}
		if err := pg.Start(t.Context()); err != nil {
			t.Fatal(err)
		}
		if standby {
			pg.Exec(testbed.Superuser, "SELECT pg_promote()")
		}
	}
	one := filepath.Join(copies, "one")
	restore("", one, false)
	for _, name := range []string{"behind", "diverged"} {
		patients[name].on(1, 2)
	}
	restore(one, "", false)
	p = patients["behind"]
	p.refused(exitRefused, "the server was restored from a backup, or a failover lost transactions", "recover --new-slot")
	p.on(1, 2, 3)

	restore(one, "", true) // now on timeline 2
	patients["old"].on(1, 2)
	beyond := func() {
		pg.Exec(testbed.Superuser, "SELECT pg_logical_emit_message(false, 'wal', 'x'), pg_switch_wal()", "SELECT pg_logical_emit_message(true, 'wal', 'x')")
	}
	beyond()
	p = patients["diverged"]
	p.refused(exitRefused, "a failover lost transactions", "recover --new-slot")
	p.on(1, 2, 3)

	restore(one, "", false)
	beyond() // an old primary goes on writing
	p = patients["old"]
	p.refused(exitRefused, "this is an old primary", "recover --new-slot")
	p.on(1, 2, 3)

	// WAL that max_slot_wal_keep_size gave up. This loses every slot that nobody holds.
	p = begin("removed")
	p.on(1)
	p.insert(2)
	pg.Exec(testbed.Superuser, "ALTER SYSTEM SET max_slot_wal_keep_size = '1MB'", "SELECT pg_reload_conf()")
	for range 4 {
		pg.Exec(testbed.Superuser, "SELECT pg_logical_emit_message(false, 'wal', 'x'), pg_switch_wal()")
	}
	pg.Exec(testbed.Superuser, "CHECKPOINT")
	p.refused(exitRefused, "is lost", "recover --new-slot")
	p.on(1, 3)
}
