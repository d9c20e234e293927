package pipeline

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/linkedin/goavro/v2"

	"walferry/checkpoint"
	"walferry/internal/kafka"
	"walferry/internal/testbed"
	"walferry/schema"
	"walferry/schema/registry"
	"walferry/sink"
	"walferry/source"
)

// registrar is a registry in memory: the same text under the same subject has the same id.
type registrar struct {
	mu    sync.Mutex
	ids   map[string]int32
	avr   map[int32]string
	asked int
	err   error // what every question is answered with, if set
}

func (r *registrar) Register(_ context.Context, subject, avro, _ string) (int32, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.asked++
	if r.err != nil {
		return 0, r.err
	}
	if r.ids == nil {
		r.ids, r.avr = map[string]int32{}, map[int32]string{}
	}
	k := subject + "\x00" + avro
	if id := r.ids[k]; id != 0 {
		return id, nil
	}
	id := int32(len(r.ids) + 1)
	r.ids[k], r.avr[id] = id, avro
	return id, nil
}

// text is the schema of a value.
func (r *registrar) text(t testing.TB, b []byte) string {
	t.Helper()
	id, _, err := schema.ParseWire(b)
	if err != nil {
		t.Fatal(err)
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.avr[id]
}

// decode reads a value as a stranger does, with goavro.
func (r *registrar) decode(t testing.TB, b []byte) map[string]any {
	t.Helper()
	id, payload, err := schema.ParseWire(b)
	if err != nil {
		t.Fatal(err)
	}
	avro := r.text(t, b)
	codec, err := goavro.NewCodec(avro)
	if err != nil {
		t.Fatalf("schema %d: %v", id, err)
	}
	v, rest, err := codec.NativeFromBinary(payload)
	if err != nil || len(rest) != 0 {
		t.Fatalf("decode under schema %d: %v, %d bytes left", id, err, len(rest))
	}
	return v.(map[string]any)
}

// watcher is an Observer that keeps what tests ask for.
type watcher struct {
	mu        sync.Mutex
	commits   int
	aborts    []error
	endings   []error
	looks     int
	committed chan struct{}
}

func newWatcher() *watcher { return &watcher{committed: make(chan struct{}, 1)} }

func (w *watcher) Committed(Commit) {
	w.mu.Lock()
	w.commits++
	w.mu.Unlock()
	select {
	case w.committed <- struct{}{}:
	default:
	}
}
func (w *watcher) Aborted(err error) { w.mu.Lock(); w.aborts = append(w.aborts, err); w.mu.Unlock() }
func (w *watcher) Ended(err error) {
	w.mu.Lock()
	w.endings = append(w.endings, err)
	w.mu.Unlock()
}

func (w *watcher) Looked() { w.mu.Lock(); w.looks++; w.mu.Unlock() }

// bed is a database, a broker and what is needed to run pipelines between them.
type bed struct {
	t        testing.TB
	pg       *testbed.PG
	addr     string
	name     string
	client   *kafka.Client
	registry *registrar
	register schema.Registrar // what schemas are registered with; registry where it is nil
	adjust   func(*Config)
	prepare  func(*Pipeline)
	dial     func(*kafka.Config)
	logged   journal
}

// journal keeps what is logged.
type journal struct {
	mu   sync.Mutex
	text []byte // guarded by mu
}

func (j *journal) Write(p []byte) (int, error) {
	j.mu.Lock()
	defer j.mu.Unlock()
	j.text = append(j.text, p...)
	return len(p), nil
}

// take returns what was logged since the last call.
func (j *journal) take() string {
	j.mu.Lock()
	defer j.mu.Unlock()
	s := string(j.text)
	j.text = nil
	return s
}

// has says whether a text was logged since the last take.
func (j *journal) has(text string) bool {
	j.mu.Lock()
	defer j.mu.Unlock()
	return bytes.Contains(j.text, []byte(text))
}

func newBed(t testing.TB, pg *testbed.PG, broker *testbed.Broker, name string) *bed {
	b := &bed{t: t, pg: pg, addr: broker.Addr, name: name, registry: &registrar{}}
	b.client = b.newClient()
	return b
}

func (b *bed) newClient() *kafka.Client {
	b.t.Helper()
	c := kafka.Config{Brokers: strings.Split(b.addr, ","), ClientID: "walferry-test"}
	if b.dial != nil {
		b.dial(&c)
	}
	client, err := kafka.New(c)
	if err != nil {
		b.t.Fatal(err)
	}
	b.t.Cleanup(client.Close)
	return client
}

// publish makes the publication as the owner, for all tables of public.
func (b *bed) publish(tables string) {
	b.pg.Exec(testbed.Owner, fmt.Sprintf(`CREATE PUBLICATION walferry_%s FOR TABLE %s WITH (publish_via_partition_root = true)`, b.name, tables))
}

func (b *bed) config() Config {
	c := Config{
		Name: b.name,
		Source: source.Config{
			DSN: b.pg.DSN(testbed.Reader), Slot: "walferry_" + b.name, Publication: "walferry_" + b.name,
			AppName: "walferry_" + b.name, AllTables: true, CreateSlot: true, Heartbeat: time.Second, WALSenderTimeout: 10 * time.Second,
		},
		Sink: sink.Config{TransactionalID: "walferry-" + b.name, MaxBatchBytes: 1 << 20},
		TopicSpec: func(s, t string) sink.TopicSpec {
			return sink.TopicSpec{Name: b.name + "." + s + "." + t, Partitions: 3, ReplicationFactor: 1, CleanupPolicy: "delete"}
		},
		SchemaOptions: func(_, _, db, systemID string) schema.Options {
			return schema.Options{Name: b.name, DB: db, SystemID: systemID, Version: "test"}
		},
		Envelope: schema.EnvelopeDebezium, Truncate: "emit",
		Compatibility: func(_, _ string) registry.Level { return registry.Backward },
		Checkpoint:    sink.TopicSpec{Name: "_walferry." + b.name, Partitions: 1, ReplicationFactor: 1, CleanupPolicy: "compact"},
		Watch:         time.Minute, StallLimit: 30 * time.Second, DrainTimeout: 20 * time.Second, Standby: true, StartTimeout: time.Minute,
		Session: checkpoint.Session{Instance: "test", Program: "test"},
	}
	if b.adjust != nil {
		b.adjust(&c)
	}
	options := c.SchemaOptions
	c.SchemaOptions = func(s, t, db, systemID string) schema.Options {
		o := options(s, t, db, systemID)
		o.Envelope = c.Envelope
		return o
	}
	return c
}

// running is a pipeline in this process.
type running struct {
	*Pipeline
	watcher *watcher
	cancel  context.CancelCauseFunc
	done    chan error
}

var errKilled = errors.New("killed")

// start runs a pipeline until the test ends; every start is a new instance.
func (b *bed) start() *running {
	b.t.Helper()
	w := newWatcher()
	ctx, cancel := context.WithCancelCause(context.Background())
	log := slog.New(slog.NewTextHandler(io.MultiWriter(b.t.Output(), &b.logged), &slog.HandlerOptions{Level: slog.LevelDebug}))
	var register schema.Registrar = b.registry
	if b.register != nil {
		register = b.register
	}
	r := &running{Pipeline: New(b.config(), b.client, register, w, log), watcher: w, cancel: cancel, done: make(chan error, 1)}
	r.onAborted, r.onEnded, r.onLooked = w.Aborted, w.Ended, w.Looked
	if b.prepare != nil {
		b.prepare(r.Pipeline)
	}
	go func() { r.done <- r.Run(ctx) }()
	b.t.Cleanup(func() {
		cancel(errKilled)
		select {
		case err := <-r.done:
			b.t.Logf("ended: %v", err)
		case <-time.After(30 * time.Second):
			b.t.Error("the pipeline does not end")
		}
	})
	return r
}

// drain stops it in order.
func (r *running) drain(t testing.TB) {
	t.Helper()
	r.Stop()
	select {
	case err := <-r.done:
		r.done <- err
		if err != nil {
			t.Fatalf("drain: %v", err)
		}
	case <-time.After(30 * time.Second):
		t.Fatal("not drained in 30 s")
	}
}

// event is one record as a stranger sees it.
type event struct {
	kafka.Record
	value map[string]any // nil for a tombstone
}

// read returns the committed records of a table's topic, once there are n, in the order of partition and offset.
func (b *bed) read(table string, n int) []event {
	b.t.Helper()
	topic := b.name + ".public." + table
	ctx, done := context.WithTimeout(b.t.Context(), 60*time.Second)
	defer done()
	at := map[kafka.TopicPartition]int64{}
	for p := range int32(3) {
		at[kafka.TopicPartition{Topic: topic, Partition: p}] = 0
	}
	for {
		if parts, ok, err := b.client.Partitions(ctx, topic); err == nil && ok && parts == 3 {
			break
		}
		if err := sleep(ctx, 50*time.Millisecond); err != nil {
			b.t.Fatalf("topic %s does not come", topic)
		}
	}
	r := b.client.NewReader(at)
	var out []event
	for len(out) < n {
		recs, err := r.Poll(ctx)
		if err != nil {
			b.t.Fatalf("%d of %d records of %s: %v", len(out), n, topic, err)
		}
		for _, rec := range recs {
			e := event{Record: rec}
			if rec.Value != nil {
				e.value = b.registry.decode(b.t, rec.Value)
			}
			out = append(out, e)
		}
	}
	return out
}

func (e event) header(key string) string {
	for _, h := range e.Headers {
		if h.Key == key {
			return string(h.Value)
		}
	}
	return ""
}

// must runs a statement as the owner.
func must(t testing.TB, c *pgx.Conn, sql string, args ...any) {
	t.Helper()
	if _, err := c.Exec(t.Context(), sql, args...); err != nil {
		t.Fatalf("%s: %v", sql, err)
	}
}
