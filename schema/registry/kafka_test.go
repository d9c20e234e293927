package registry_test

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"os"
	"testing"
	"time"

	"github.com/segmentio/kafka-go/protocol"

	"walferry/internal/kafka"
	"walferry/internal/testbed"
	"walferry/schema/registry"
	"walferry/sink"
	"walferry/sink/sinktest"
)

// txnWriter is how the command joins the registry to the sink.
type txnWriter struct {
	p *sink.Producer
	b *sink.Batch
}

func (w *txnWriter) Init(ctx context.Context) error { return w.p.Init(ctx) }

func (w *txnWriter) Write(ctx context.Context, topic string, records []registry.Record) (int64, error) {
	w.b.Reset()
	for _, r := range records {
		err := w.b.Append(topic, 0, time.Now(), r.Key, r.Value, nil)
		var large *sink.TooLargeError
		if errors.As(err, &large) {
			return 0, fmt.Errorf("%w: %w", registry.ErrTooLarge, err)
		}
		if err != nil {
			return 0, err
		}
	}
	res, err := w.p.Publish(ctx, w.b)
	if err != nil {
		return 0, err
	}
	return res.LastOffsets[sink.TopicPartition{Topic: topic}], nil
}

// process is a registry on a real topic, with a connection that faults can be put into.
func process(t *testing.T, broker *testbed.Broker, topic string) (*registry.Store, *registry.KafkaLog, *sinktest.Faults) {
	t.Helper()
	faults := sinktest.New()
	client, err := kafka.New(kafka.Config{Brokers: []string{broker.Addr}, Dial: faults.Dial, RequestTimeout: 2 * time.Second})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		client.Close()
		faults.Close()
	})
	p, err := sink.New(client, sink.Config{TransactionalID: "registry-" + topic, TransactionTimeout: 20 * time.Second, PublishTimeout: 5 * time.Second})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := p.EnsureTopic(t.Context(), sink.TopicSpec{Name: topic, Partitions: 1, ReplicationFactor: 1, CleanupPolicy: "compact"}); err != nil {
		t.Fatal(err)
	}
	log := registry.NewKafkaLog(client, &txnWriter{p, p.NewBatch()}, topic)
	return registry.NewStore(log, nil), log, faults
}

func TestMain(m *testing.M) { os.Exit(testbed.Main(m)) }

func TestKafkaLog(t *testing.T) {
	broker := testbed.Kafka(t)
	topic := fmt.Sprintf("_schemas-%d", time.Now().UnixNano())
	first, _, faults := process(t, broker, topic)
	a := register(t, first, "a", record("x"))

	// A second process takes the log over; the first takes it back, and sees what the second one wrote.
	second, _, _ := process(t, broker, topic)
	b := register(t, second, "b", record("y"))
	c := register(t, first, "c", record("z"))
	if a.ID != 1 || b.ID != 2 || c.ID != 3 {
		t.Fatalf("ids %d, %d, %d", a.ID, b.ID, c.ID)
	}
	if got, err := first.Version("b", "latest", false); err != nil || got.ID != b.ID {
		t.Errorf("the first process does not see what the second wrote: %+v, %v", got, err)
	}

	// The commit's answer is lost: it is settled by reading, and the registration is there once.
	fault := faults.Inject(sinktest.Rule{API: protocol.EndTxn, Nth: 1, Action: sinktest.LoseAnswer})
	d := register(t, first, "d", record("w"))
	<-fault.Struck()
	if d.ID != 4 {
		t.Errorf("after a lost answer the id is %d", d.ID)
	}
	faults.Clear()

	// The commit never arrives, and the process dies: the record stands in the topic and is aborted by the next one,
	// which publishes it again before it allocates.
	fault = faults.Inject(sinktest.Rule{API: protocol.EndTxn, Action: sinktest.LoseRequest})
	ctx, cancel := context.WithCancel(t.Context())
	go func() {
		<-fault.Struck()
		cancel()
	}()
	if r, err := first.Register(ctx, "e", registry.Request{Schema: record("v")}); err == nil {
		t.Fatalf("registered without a commit: %+v", r)
	}
	third, log, _ := process(t, broker, topic)
	f := register(t, third, "f", record("u"))
	if f.ID != 6 {
		t.Errorf("the id after a lost one is %d", f.ID)
	}
	if got, err := third.Version("e", "latest", false); err != nil || got.ID != 5 || got.Schema != record("v") {
		t.Errorf("the aborted registration: %+v, %v", got, err)
	}

	// A reader that only follows.
	ctx, stop := context.WithTimeout(t.Context(), 30*time.Second)
	defer stop()
	reader := registry.NewStore(log, nil)
	done := make(chan error, 1)
	go func() { done <- reader.Follow(ctx) }()
	for {
		if got, err := reader.ByID(f.ID, ""); err == nil {
			if got.Schema != f.Schema {
				t.Errorf("followed: %+v", got)
			}
			break
		}
		select {
		case err := <-done:
			t.Fatalf("follow ended: %v", err)
		case <-time.After(20 * time.Millisecond):
		}
	}
	stop()
	if err := <-done; err == nil {
		t.Error("follow ended without an error")
	}

	// A schema that the topic does not take.
	fields := make([]string, 60000)
	for i := range fields {
		fields[i] = fmt.Sprintf("f%x", sha256.Sum256([]byte{byte(i), byte(i >> 8)})) // does not compress well enough
	}
	if _, err := third.Register(t.Context(), "huge", registry.Request{Schema: record(fields...)}); code(err) != registry.CodeSchemaTooLarge {
		t.Errorf("a huge schema: %v", err)
	}
	if g := register(t, third, "g", record("t")); g.ID != 7 {
		t.Errorf("the id after a refused one is %d", g.ID)
	}
}

// TestFollowerIsFresh holds what docs/registry.md promises of reads: what is committed is shown by every follower within a
// second. A machine that stands still can spoil a series, so the best of three counts.
func TestFollowerIsFresh(t *testing.T) {
	broker := testbed.Kafka(t)
	topic := fmt.Sprintf("_schemas-%d", time.Now().UnixNano())
	writer, _, _ := process(t, broker, topic)
	follower, _, _ := process(t, broker, topic)
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- follower.Follow(ctx) }()
	defer func() {
		cancel()
		if err := <-done; !errors.Is(err, context.Canceled) {
			t.Errorf("follow ended with %v", err)
		}
	}()
	const each = 20
	var worst time.Duration
	for series := range 3 {
		worst = 0
		for i := range each {
			name := fmt.Sprintf("s%d_%d", series, i)
			r := register(t, writer, name, record(name))
			begin := time.Now()
			for {
				if got, err := follower.ByID(r.ID, ""); err == nil {
					if got.Schema != r.Schema {
						t.Fatalf("followed: %+v", got)
					}
					break
				}
				if time.Since(begin) > time.Minute {
					t.Fatal("not followed")
				}
				time.Sleep(100 * time.Microsecond)
			}
			worst = max(worst, time.Since(begin))
		}
		if age, ok := follower.Behind(); !ok || age > time.Minute {
			t.Errorf("behind by %v, %v", age, ok)
		}
		if worst < time.Second {
			t.Logf("%d registrations were shown %v after they were answered, at most", each, worst)
			return
		}
	}
	t.Errorf("a registration was shown %v after it was answered", worst)
}
