package main

import (
	"bytes"
	"context"
	"encoding/binary"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pglogrepl"
	kafkago "github.com/segmentio/kafka-go"

	"walferry/checkpoint"
	"walferry/internal/kafka"
	"walferry/internal/testbed"
	"walferry/sink"
)

// badInput is one thing that is wrong with a pipeline that was right a moment ago.
type badInput struct {
	name    string
	dsn     string // instead of the good one
	source  string // lines of the section more
	broker  string
	topic   string
	config  string // whole sections more
	args    []string
	code    int      // of run
	says    []string // parts of its sentence and remedy
	check   string   // part of a line of check that fails; empty where check has no eyes for it
	doctor  func(*checkpoint.Checkpoint)
	raw     string // instead of a checkpoint
	nothing bool   // the pipeline has another name: it never ran
}

// TestBadInput runs walferry with one wrong thing after the other, between two good runs of the same pipeline: each ends with
// its exit code and one sentence with a remedy, and in the end every row is there once.
func TestBadInput(t *testing.T) {
	patience := startTimeout
	t.Cleanup(func() { startTimeout = patience })
	pg := testbed.Postgres(t, "")
	replica := testbed.Postgres(t, "", "wal_level=replica")
	broker := testbed.KafkaAlone(t, "authorizer.class.name=org.apache.kafka.metadata.authorizer.StandardAuthorizer",
		"allow.everyone.if.no.acl.found=true")
	for _, p := range []*testbed.PG{pg, replica} {
		p.Exec(testbed.Owner, "CREATE TABLE public.orders (id int PRIMARY KEY, note text)",
			"CREATE PUBLICATION walferry_bad FOR TABLE public.orders WITH (publish_via_partition_root = true)")
	}
	pg.Exec(testbed.Superuser, "SELECT pg_create_logical_replication_slot('walferry_unused', 'pgoutput')",
		fmt.Sprintf("CREATE ROLE feeder LOGIN PASSWORD '%s'", pg.Password()), "GRANT CONNECT ON DATABASE "+testbed.Shop+" TO feeder")
	b := &bench{t: t, file: filepath.Join(t.TempDir(), "walferry.yml")}
	configure := func(x badInput) {
		name, topic, stall := "bad", "{partitions: 1, replication_factor: 1}", "30s"
		// No time is enough for what is not there. The limit of a registry is that of the servers that are, too.
		switch {
		case x.code == exitKafka && x.broker != "":
			stall = "1s"
		case x.code == exitRegistry:
			stall = "5s"
		}
		if x.nothing {
			name = "unused"
		}
		if x.dsn == "" {
			x.dsn = pg.DSN(testbed.Reader)
		}
		if x.broker == "" {
			x.broker = broker.Addr
		}
		if x.topic != "" {
			topic = x.topic
		}
		if x.source == "" {
			x.source = "tables: [public.orders]"
		}
		if !strings.Contains(x.config, "registry:") {
			x.config += "\nregistry: {listen: \"127.0.0.1:0\"}"
		}
		b.configure(`
name: %s
source:
  dsn: %q
  publication: {name: walferry_bad, create: false}
  heartbeat: 1s
  stall_limit: %s
  %s
kafka:
  brokers: [%q]
  topic: %s
backfill: none
admin: {listen: ""}
%s
`, name, x.dsn, stall, x.source, x.broker, topic, x.config)
	}
	good := func(until string, more ...string) {
		t.Helper()
		configure(badInput{})
		p := b.start(append([]string{"run"}, more...)...)
		awaitSlot(t, pg) // a slot that is being made lies behind everything that was before it, and nothing is published yet
		c := pg.Connect(testbed.Superuser)
		var target string
		if err := c.QueryRow(t.Context(), "SELECT pg_current_wal_insert_lsn()::text").Scan(&target); err != nil {
			t.Fatal(err)
		}
		for end := time.Now().Add(time.Minute); ; time.Sleep(20 * time.Millisecond) {
			var done bool
			if err := c.QueryRow(t.Context(), `SELECT coalesce(bool_or(confirmed_flush_lsn > $1::text::pg_lsn), false) FROM pg_replication_slots
				WHERE slot_name = 'walferry_bad'`, target).Scan(&done); err != nil {
				t.Fatal(err)
			}
			if done {
				break
			}
			select {
			case code := <-p.ended:
				t.Fatalf("%s: ended with %d\n%s", until, code, p.errs)
			default:
			}
			if time.Now().After(end) {
				t.Fatalf("%s:\n%s", until, p.errs)
			}
		}
		if code := b.stop(p); code != exitOK {
			t.Fatalf("run ended with %d:\n%s", code, p.errs)
		}
	}
	good("the first start is not done")
	// The new column needs a schema that no registry has seen.
	pg.Exec(testbed.Owner, "INSERT INTO orders VALUES (1, 'first')")
	good("the first row is not published")
	pg.Exec(testbed.Owner, "ALTER TABLE orders ADD amount int", "INSERT INTO orders VALUES (2, 'second', 2)")

	user := func(name, password string) string {
		u, err := url.Parse(pg.DSN(testbed.Reader))
		if err != nil {
			t.Fatal(err)
		}
		u.User = url.UserPassword(name, password)
		return u.String()
	}
	deny := func(kind kafkago.ResourceType, name string) {
		res, err := (&kafkago.Client{Addr: kafkago.TCP(broker.Addr)}).CreateACLs(t.Context(), &kafkago.CreateACLsRequest{ACLs: []kafkago.ACLEntry{{
			ResourceType: kind, ResourceName: name, ResourcePatternType: kafkago.PatternTypeLiteral,
			Principal: "User:ANONYMOUS", Host: "*", Operation: kafkago.ACLOperationTypeAll, PermissionType: kafkago.ACLPermissionTypeDeny,
		}}})
		if err != nil {
			t.Fatal(err)
		}
		for _, err := range res.Errors {
			if err != nil {
				t.Fatal(err)
			}
		}
	}
	deny(kafkago.ResourceTypeTopic, "denied.public.orders")
	deny(kafkago.ResourceTypeTopic, "denied-checkpoints")
	deny(kafkago.ResourceTypeTransactionalID, "denied-id")

	original := b.checkpoint(broker.Addr, "_walferry.bad")
	next := nextCommit(t, pg)
	inside := original.Witness.Commit + 8 // no transaction commits there
	external := func(url string) string { return fmt.Sprintf("registry: {url: %q}", url) }
	answers := func(status int, kind, body string) string {
		s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Type", kind)
			w.WriteHeader(status)
			_, _ = io.WriteString(w, body) // the client may be gone
		}))
		t.Cleanup(s.Close)
		return external(s.URL)
	}
	silent, err := net.Listen("tcp", "127.0.0.1:0") // accepts, and nobody answers
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = silent.Close() }) // nothing was written
	closed := freeAddr(t)
	refused := func(name string, doctor func(*checkpoint.Checkpoint), says ...string) badInput {
		return badInput{name: name, code: exitRefused, doctor: doctor, says: says}
	}

	for _, x := range []badInput{
		// Postgres.
		{name: "wrong password", dsn: user(testbed.Reader, "wrong"), code: exitSource, says: []string{`role "walferry"`, "password", "pg_hba.conf"}, check: "postgres  connect"},
		{name: "no such role", dsn: user("nobody", "wrong"), code: exitSource, says: []string{`role "nobody"`, "pg_hba.conf"}, check: "postgres  connect"},
		{name: "no replication privilege", dsn: user("feeder", pg.Password()), code: exitSource, says: []string{`role "feeder" has no replication privilege`, `ALTER ROLE "feeder" REPLICATION`}, check: "postgres  replication"},
		{name: "wal_level=replica", dsn: replica.DSN(testbed.Reader), config: "checkpoint: {topic: level}", code: exitSource, says: []string{"wal_level", "ALTER SYSTEM SET wal_level = logical"}, check: "postgres  wal_level"},
		{name: "no server", dsn: "postgres://x@" + closed + "/x?sslmode=disable", code: exitSource, says: []string{"no connection to the server", "refused", "check that the server runs"}, check: "postgres  connect"},
		{name: "a server that is silent", dsn: "postgres://x@" + silent.Addr().String() + "/x?sslmode=disable&connect_timeout=1", code: exitSource, says: []string{"no connection to the server", "check that the server runs"}, check: "postgres  connect"},
		{name: "no such table", source: "tables: [public.nowhere]\n  slot: {name: walferry_nowhere}", config: "checkpoint: {topic: nowhere}", code: exitSource, says: []string{"no table matches public.nowhere", "create the table or correct the configuration"}, check: "public.nowhere"},
		{name: "not Postgres but HTTP", dsn: "postgres://x@" + b.garbage("HTTP/1.1 400 Bad Request\r\n\r\n") + "/x?sslmode=disable", code: exitSource, says: []string{"server"}, check: "postgres  connect"},
		{name: "not Postgres but zeros", dsn: "postgres://x@" + b.garbage(strings.Repeat("\x00", 64)) + "/x?sslmode=disable", code: exitSource, says: []string{"server"}, check: "postgres  connect"},
		{name: "garbage after the login", dsn: b.spoilt(pg, 'Z', 1, "\xff\xff\xff\xff\xff\xff"), code: exitSource, says: []string{"server"}, check: "postgres  connect"},
		{name: "garbage in an answer", dsn: b.spoilt(pg, 'D', 1, "D\x00\x00\x00\x0a\x7f\xff\xff\xff\xff\xff"), code: exitSource, says: []string{"server"}, check: "postgres  connect"},
		{name: "an endless answer", dsn: b.spoilt(pg, 'D', 1, "D\x7f\xff\xff\xff"), code: exitSource, says: []string{"server"}, check: "postgres  connect"},
		{name: "garbage on the stream", dsn: b.spoilt(pg, 'd', 2, "\x00\x00\x00\x00\x00\x00"), code: exitSource, says: []string{"server"}},
		{name: "a frame of nothing on the stream", dsn: b.spoilt(pg, 'd', 2, "d\x00\x00\x00\x04"), code: exitSource, says: []string{"server"}},
		{name: "an endless frame on the stream", dsn: b.spoilt(pg, 'd', 2, "d\x7f\xff\xff\xffw"), code: exitSource, says: []string{"not the replication protocol"}},
		{name: "an unknown message on the stream", dsn: b.spoilt(pg, 'd', 2, "d\x00\x00\x00\x1ew"+strings.Repeat("\x00", 24)+"?"), code: exitSource, says: []string{"server"}},

		// Kafka.
		{name: "no broker", broker: closed, code: exitKafka, says: []string{"refused", "kafka.brokers"}, check: "kafka     connect"},
		{name: "a broker that is silent", broker: silent.Addr().String(), code: exitKafka, says: []string{"Kafka", "kafka.brokers"}},
		{name: "not Kafka but HTTP", broker: b.garbage("HTTP/1.1 400 Bad Request\r\n\r\n"), code: exitKafka, says: []string{"kafka.brokers"}, check: "kafka     connect"},
		{name: "an endless answer of Kafka", broker: b.garbage("\x7f\xff\xff\xff\x00\x00\x00\x01\x00\x00\x00\x00"), code: exitKafka, says: []string{"kafka.brokers"}},
		{name: "nothing but zeros from Kafka", broker: b.garbage(strings.Repeat("\x00", 64)), code: exitKafka, says: []string{"kafka.brokers"}},
		{name: "a topic that is not allowed", topic: "{partitions: 1, replication_factor: 1, prefix: denied}", code: exitKafka, says: []string{"denied.public.orders", "grant"}, check: "denied.public.orders"},
		{name: "a checkpoint topic that is not allowed", config: "checkpoint: {topic: denied-checkpoints}", code: exitKafka, says: []string{"checkpoint topic", "grant"}, check: "denied-checkpoints"},
		{name: "a checkpoint topic with many partitions", config: "checkpoint: {topic: many}", code: exitKafka, says: []string{"topic many has", "partitions"}, check: "topic many has 3 partitions"},

		// The registry.
		{name: "no registry", config: external("http://" + closed), code: exitRegistry, says: []string{"registry", closed}, check: "registry"},
		{name: "a registry that is silent", config: external("http://" + silent.Addr().String()), code: exitRegistry, says: []string{"registry"}},
		{name: "a registry that answers 500", config: answers(500, "text/plain", "oh no"), code: exitRegistry, says: []string{"registry", "500"}, check: "registry"},
		{name: "a registry that answers HTML", config: answers(200, "text/html", "<html>Welcome</html>"), code: exitRegistry, says: []string{"registry"}, check: "registry"},
		{name: "a registry that answers half of JSON", config: answers(200, "application/json", `{"id": `), code: exitRegistry, says: []string{"registry"}, check: "registry"},
		{name: "a registry that wants a password", config: answers(401, "application/json", `{"error_code": 40101, "message": "who are you"}`), code: exitRegistry, says: []string{"does not accept our credentials", "registry.auth"}, check: "registry"},

		// Checkpoint and database do not belong together.
		refused("another cluster", func(c *checkpoint.Checkpoint) { c.SystemID = "1" }, "another database cluster", "source.dsn"),
		{name: "not drained", code: exitRefused, args: []string{"--after-upgrade"}, doctor: func(c *checkpoint.Checkpoint) { c.SystemID = "1" }, says: []string{"not drained", "walferry drain"}},
		refused("another pipeline of this name", func(c *checkpoint.Checkpoint) { c.Slot = "other" }, `of slot "other"`, "name of its own"),
		refused("a server behind the checkpoint", func(c *checkpoint.Checkpoint) { c.Witness.Commit += 1 << 40; c.Witness.End += 1 << 40 }, "restored from a backup", checkpoint.RecoverNewSlot),
		refused("an old primary", func(c *checkpoint.Checkpoint) { c.Timeline = 2 }, "old primary", "target_session_attrs"),
		refused("a timeline that is no ancestor", func(c *checkpoint.Checkpoint) { c.Timeline = 0 }, "does not descend", checkpoint.RecoverNewSlot),
		refused("a slot ahead of its checkpoint", func(c *checkpoint.Checkpoint) {
			c.Witness.Commit, c.Witness.End, c.Position = 1, 2, checkpoint.Position{Commit: 1}
		}, "never confirmed past", checkpoint.RecoverFromSlot),
		refused("another witness", func(c *checkpoint.Checkpoint) { c.Witness.XID++ }, "another history", checkpoint.RecoverNewSlot),
		refused("no witness", func(c *checkpoint.Checkpoint) { c.Witness.Commit, c.Witness.End = inside, inside+1 }, "should send again", checkpoint.RecoverFromSlot),
		refused("another half published transaction", func(c *checkpoint.Checkpoint) {
			c.Position = checkpoint.Position{Commit: next, Change: 1}
			c.Split = &checkpoint.Split{XID: 3, Part: 2}
		}, "half published", checkpoint.RecoverNewSlot),
		refused("no half published transaction", func(c *checkpoint.Checkpoint) {
			c.Position = checkpoint.Position{Commit: inside, Change: 1}
			c.Split = &checkpoint.Split{XID: 3, Part: 2}
		}, "half published", checkpoint.RecoverFromSlot),
		{name: "a checkpoint of the future", raw: `{"v": 99}`, code: exitRefused, says: []string{"newer walferry"}},
		{name: "a checkpoint that is none", raw: `nonsense`, code: exitRefused, says: []string{"cannot be read", "who else writes"}},
		{name: "a slot without a checkpoint", nothing: true, code: exitRefused, says: []string{"holds no checkpoint", "slot.adopt", checkpoint.RecoverFromSlot}},
	} {
		t.Run(x.name, func(t *testing.T) {
			b.t = t
			if strings.Contains(x.config, "topic: many") {
				b.topic(broker.Addr, "many", 3)
			}
			if x.doctor != nil || x.raw != "" {
				b.doctor(broker.Addr, "_walferry.bad", original, x)
			}
			configure(x)
			startTimeout = patience
			if x.code == exitSource || x.code == exitKafka || x.code == exitRegistry {
				startTimeout = time.Nanosecond // one try
			}
			var out, errs bytes.Buffer
			ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
			defer cancel()
			code := run(ctx, append(append([]string{"run"}, x.args...), "--config", b.file), nil, &out, &errs)
			if code != x.code {
				t.Errorf("exit code %d, want %d\n%s", code, x.code, errs.String())
			}
			_, said, _ := strings.Cut(errs.String(), "\nwalferry: ")
			t.Logf("walferry: %s", said)
			for _, w := range x.says {
				if !strings.Contains(said, w) {
					t.Errorf("run does not say %q", w)
				}
			}
			sentence, remedy, _ := strings.Cut(strings.TrimSpace(said), "\n")
			if len(sentence) == 0 || len(sentence) > 600 || strings.Contains(remedy, "\n") || strings.Contains(said, "goroutine ") {
				t.Errorf("not one sentence and its remedy:\n%s", said)
			}
			if remedy == "" && !strings.Contains(sentence, ";") {
				t.Error("no remedy")
			}
			if out.Len() > 0 {
				t.Errorf("on stdout: %s", out.String())
			}
			if x.check == "" {
				return
			}
			text := b.walferry(exitCheck, "", "check")
			var failed bool
			for line := range strings.Lines(text) {
				failed = failed || strings.HasPrefix(line, "fail") && strings.Contains(line, x.check)
			}
			if !failed {
				t.Errorf("check has no failing line with %q:\n%s", x.check, text)
			}
		})
	}
	b.t = t
	startTimeout = patience
	b.doctor(broker.Addr, "_walferry.bad", original, badInput{})
	pg.Exec(testbed.Owner, "INSERT INTO orders VALUES (3, 'third', 3)")
	good("nothing is published after all this")
	text := b.walferry(exitOK, "", "tail", "--from", "beginning", "-n", "3")
	b.has(text, `id=1 note="first"`, `id=2 note="second" amount=2`, `id=3 note="third" amount=3`)
	if n := len(readAll(t, broker.Addr, "bad.public.orders")); n != 3 {
		t.Errorf("%d records, want 3", n)
	}

	pg.Exec(testbed.Superuser, "SELECT pg_drop_replication_slot('walferry_bad')")
	configure(badInput{})
	text = b.walferry(exitRefused, "", "run")
	b.has(text, "does not exist any more", checkpoint.RecoverNewSlot)
}

func (b *bench) client(addr string) *kafka.Client {
	b.t.Helper()
	client, err := kafka.New(kafka.Config{Brokers: []string{addr}})
	if err != nil {
		b.t.Fatal(err)
	}
	b.t.Cleanup(client.Close)
	return client
}

func (b *bench) topic(addr, name string, partitions int) {
	b.t.Helper()
	if err := b.client(addr).CreateTopic(b.t.Context(), name, partitions, 1, map[string]string{"cleanup.policy": "compact"}); err != nil {
		b.t.Fatal(err)
	}
}

// checkpoint reads a pipeline's checkpoint.
func (b *bench) checkpoint(addr, topic string) *checkpoint.Checkpoint {
	b.t.Helper()
	client := b.client(addr)
	end, err := client.EndOffset(b.t.Context(), topic, 0)
	if err != nil {
		b.t.Fatal(err)
	}
	var state checkpoint.State
	if err := client.Replay(b.t.Context(), topic, 0, end-1, func(r kafka.Record) error { return state.Apply(r.Key, r.Value) }); err != nil {
		b.t.Fatal(err)
	}
	return state.Checkpoint
}

// doctor writes another checkpoint in the place of the original, or the original.
func (b *bench) doctor(addr, topic string, original *checkpoint.Checkpoint, x badInput) {
	b.t.Helper()
	c := *original
	if x.doctor != nil {
		x.doctor(&c)
	}
	value := []byte(x.raw)
	if x.raw == "" {
		var err error
		if value, err = checkpoint.AppendCheckpoint(nil, &c); err != nil {
			b.t.Fatal(err)
		}
	}
	b.record(addr, topic, checkpoint.Key, value)
}

// record commits one record.
func (b *bench) record(addr, topic, key string, value []byte) {
	b.t.Helper()
	p, err := sink.New(b.client(addr), sink.Config{TransactionalID: "doctor"})
	if err != nil {
		b.t.Fatal(err)
	}
	if err := p.Init(b.t.Context()); err != nil {
		b.t.Fatal(err)
	}
	batch := p.NewBatch()
	if err := batch.Append(topic, 0, time.Now(), []byte(key), value, nil); err != nil {
		b.t.Fatal(err)
	}
	if _, err := p.Publish(b.t.Context(), batch); err != nil {
		b.t.Fatal(err)
	}
}

// nextCommit is the commit LSN of the first transaction behind the witness, which the slot sends again, that has a row.
func nextCommit(t *testing.T, pg *testbed.PG) (lsn pglogrepl.LSN) {
	t.Helper()
	c := pg.Connect(testbed.Superuser)
	rows, err := c.Query(t.Context(), `SELECT data FROM pg_logical_slot_peek_binary_changes('walferry_bad', NULL, NULL, 'proto_version', '1', 'publication_names', 'walferry_bad')`)
	if err != nil {
		t.Fatal(err)
	}
	defer rows.Close()
	for rows.Next() {
		var data []byte
		if err := rows.Scan(&data); err != nil {
			t.Fatal(err)
		}
		if data[0] == 'B' {
			lsn = pglogrepl.LSN(binary.BigEndian.Uint64(data[1:]))
		}
	}
	if rows.Err() != nil || lsn == 0 {
		t.Fatalf("no transaction in the slot: %v", rows.Err())
	}
	return lsn
}

// garbage is the address of a server that answers the first bytes it gets with the same nonsense.
func (b *bench) garbage(answer string) string {
	return b.listen(func(conn net.Conn) {
		if _, err := io.ReadFull(conn, make([]byte, 4)); err == nil {
			_, _ = io.WriteString(conn, answer) // the peer may be gone
			_, _ = io.Copy(io.Discard, conn)    // until it hangs up
		}
	})
}

// listen serves connections until the test ends.
func (b *bench) listen(serve func(net.Conn)) string {
	b.t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		b.t.Fatal(err)
	}
	var wg sync.WaitGroup
	b.t.Cleanup(func() {
		_ = l.Close() // ends the goroutine below
		wg.Wait()
	})
	wg.Go(func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			go func() {
				defer func() { _ = conn.Close() }() // the peer is gone
				serve(conn)
			}()
		}
	})
	return l.Addr().String()
}

// spoilt is the DSN of a server whose nth message of a kind, on each connection that has so many, is nonsense and its last.
func (b *bench) spoilt(pg *testbed.PG, kind byte, nth int, nonsense string) string {
	b.t.Helper()
	u, err := url.Parse(pg.DSN(testbed.Reader))
	if err != nil {
		b.t.Fatal(err)
	}
	server := u.Host
	u.Host = b.listen(func(client net.Conn) {
		conn, err := net.Dial("tcp", server)
		if err != nil {
			return
		}
		defer func() { _ = conn.Close() }() // the client is gone
		go func() {
			_, _ = io.Copy(conn, client) // until one of them hangs up
			_ = conn.Close()
		}()
		for seen := 0; ; {
			head := make([]byte, 5)
			if _, err := io.ReadFull(conn, head); err != nil {
				return
			}
			if head[0] == kind {
				seen++
			}
			if seen == nth {
				_, _ = io.WriteString(client, nonsense) // it may have hung up
				_, _ = io.Copy(io.Discard, conn)
				return
			}
			if _, err := client.Write(head); err != nil {
				return
			}
			if _, err := io.CopyN(client, conn, int64(binary.BigEndian.Uint32(head[1:]))-4); err != nil {
				return
			}
		}
	})
	return u.String()
}
