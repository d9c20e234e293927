package testbed

import (
	"bytes"
	"context"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5/pgconn"
	"github.com/segmentio/kafka-go"
)

func TestMain(m *testing.M) { os.Exit(Main(m)) }

func TestPostgresRoles(t *testing.T) {
	p := Postgres(t, "", "work_mem = 5MB")
	p.Exec(Owner, "CREATE TABLE t (id int PRIMARY KEY)", "INSERT INTO t VALUES (1)")
	reader := p.Connect(Reader)
	var n int
	var mem string
	if err := reader.QueryRow(t.Context(), "SELECT count(*), current_setting('work_mem') FROM t").Scan(&n, &mem); err != nil {
		t.Fatal(err)
	}
	if n != 1 || mem != "5MB" {
		t.Fatalf("%d rows, work_mem %s", n, mem)
	}
	for _, sql := range []string{"INSERT INTO t VALUES (2)", "CREATE TABLE u ()", "CREATE PUBLICATION p", "CREATE ROLE r"} {
		_, err := reader.Exec(t.Context(), sql)
		var refused *pgconn.PgError
		if !errors.As(err, &refused) || refused.Code != "42501" {
			t.Errorf("%s as %s: %v, want insufficient privilege", sql, Reader, err)
		}
	}
	if _, err := reader.Exec(t.Context(), "SELECT pg_create_logical_replication_slot('s', 'pgoutput')"); err != nil {
		t.Errorf("slot as %s: %v", Reader, err)
	}
}

// client makes a topic and writes and reads it, with kafka-go as it comes.
type client struct {
	*kafka.Client
	topic string
}

func newClient(t *testing.T, addr, topic string, replicas int) client {
	t.Helper()
	c := client{&kafka.Client{Addr: kafka.TCP(strings.Split(addr, ",")...), Timeout: 30 * time.Second, Transport: &kafka.Transport{}}, topic}
	r, err := c.CreateTopics(t.Context(), &kafka.CreateTopicsRequest{Topics: []kafka.TopicConfig{{Topic: topic, NumPartitions: 1, ReplicationFactor: replicas}}})
	if err != nil {
		t.Fatal(err)
	}
	if err := r.Errors[topic]; err != nil {
		t.Fatal(err)
	}
	awaitLeaders(t, c.Client, topic)
	return c
}

// awaitLeaders waits until the broker knows of topics that the controller has just made: kafka-go's Writer does not.
func awaitLeaders(t *testing.T, c *kafka.Client, topics ...string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	for ready := false; !ready; {
		c.Transport.(*kafka.Transport).CloseIdleConnections() // its metadata are cached for seconds
		m, err := c.Metadata(ctx, &kafka.MetadataRequest{Topics: topics})
		switch {
		case errors.Is(err, kafka.UnknownTopicOrPartition):
		case err != nil:
			t.Fatal(err)
		default:
			ready = len(m.Topics) == len(topics)
			for _, topic := range m.Topics {
				ready = ready && topic.Error == nil && len(topic.Partitions) > 0
				for _, p := range topic.Partitions {
					ready = ready && p.Error == nil
				}
			}
		}
		if !ready {
			select {
			case <-ctx.Done():
				t.Fatalf("topics %v have no leaders", topics)
			case <-time.After(20 * time.Millisecond):
			}
		}
	}
}

func (c client) write(ctx context.Context, value string) error {
	// The default transport would know this address from another test, and with it the topics of that time.
	c.Transport.(*kafka.Transport).CloseIdleConnections()
	w := &kafka.Writer{Addr: c.Addr, Transport: c.Transport, Topic: c.topic, RequiredAcks: kafka.RequireAll, BatchSize: 1, MaxAttempts: 100,
		WriteBackoffMax: 200 * time.Millisecond}
	return errors.Join(w.WriteMessages(ctx, kafka.Message{Value: []byte(value)}), w.Close())
}

func (c client) end(ctx context.Context) (int64, error) {
	// A connection from before a restart would be used, and end with EOF.
	c.Transport.(*kafka.Transport).CloseIdleConnections()
	r, err := c.ListOffsets(ctx, &kafka.ListOffsetsRequest{Topics: map[string][]kafka.OffsetRequest{c.topic: {kafka.LastOffsetOf(0)}}})
	if err != nil {
		return 0, err
	}
	p := r.Topics[c.topic][0]
	return p.LastOffset, p.Error
}

func testStops(t *testing.T, b *Broker) {
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	c := newClient(t, b.Addr, "stops", 1)
	for i, stop := range []func() error{b.Kill, b.Stop} {
		if err := c.write(ctx, "x"); err != nil {
			t.Fatal(err)
		}
		if err := stop(); err != nil {
			t.Fatal(err)
		}
		begin := time.Now()
		if err := b.Start(ctx); err != nil {
			t.Fatal(err)
		}
		t.Logf("started again in %s", time.Since(begin).Round(time.Millisecond))
		if err := c.write(ctx, "y"); err != nil {
			t.Fatal(err)
		}
		if end, err := c.end(ctx); err != nil || end != int64(2*i+2) {
			t.Fatalf("end of the topic %d, %v; want %d", end, err, 2*i+2)
		}
	}
}

func TestKafkaStops(t *testing.T) {
	b := Kafka(t)
	if again := Kafka(t); again != b {
		t.Error("two tests got two brokers")
	}
	testStops(t, b)
	if !b.Apache {
		return
	}
	if err := b.Pause(); err != nil {
		t.Fatal(err)
	}
	c := client{&kafka.Client{Addr: kafka.TCP(b.Addr), Transport: &kafka.Transport{}}, "stops"}
	ctx, cancel := context.WithTimeout(t.Context(), 300*time.Millisecond)
	defer cancel()
	if _, err := c.end(ctx); err == nil {
		t.Error("a paused broker answered")
	}
	if err := b.Resume(); err != nil {
		t.Fatal(err)
	}
	ctx, cancel = context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	if err := c.write(ctx, "z"); err != nil {
		t.Error(err)
	}
}

func TestFakeStops(t *testing.T) {
	// Not through KafkaAlone: this says nothing about what the other tests ran against.
	b, err := newFake()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := b.Close(); err != nil {
			t.Error(err)
		}
	})
	testStops(t, b)
	if b.Pause() == nil {
		t.Error("kfake was paused")
	}
}

func TestKafka3(t *testing.T) {
	if testing.Short() {
		t.Skip("starts three brokers; run without -short")
	}
	k := Kafka3(t)
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	c := newClient(t, k.Addr, "moves", 3)
	if err := c.write(ctx, "x"); err != nil {
		t.Fatal(err)
	}
	m, err := c.Metadata(ctx, &kafka.MetadataRequest{Topics: []string{c.topic}})
	if err != nil {
		t.Fatal(err)
	}
	leader := k.Brokers[m.Topics[0].Partitions[0].Leader.ID-1]
	if err := leader.Kill(); err != nil {
		t.Fatal(err)
	}
	if err := c.write(ctx, "y"); err != nil {
		t.Fatalf("with the leader %s killed: %v", leader.Addr, err)
	}
	if err := leader.Start(ctx); err != nil {
		t.Fatal(err)
	}
}

func TestKafkaMissing(t *testing.T) {
	t.Setenv("PATH", t.TempDir())
	t.Setenv("WALFERRY_TEST_KAFKA", "apache")
	if _, _, err := kafkaJars(t.Context()); err == nil || !strings.Contains(err.Error(), "apt-get install default-jdk-headless") {
		t.Errorf("apache without Java: %v", err)
	}
	t.Setenv("WALFERRY_TEST_KAFKA", "")
	if dir, _, err := kafkaJars(t.Context()); err != nil || dir != "" {
		t.Errorf("anything without Java: %q, %v; want kfake", dir, err)
	}
	t.Setenv("WALFERRY_TEST_KAFKA", "redpanda")
	if _, _, err := kafkaJars(t.Context()); err == nil {
		t.Error("a broker that nobody knows was taken")
	}
}

func TestPython(t *testing.T) {
	path := Python(t)
	out, err := exec.CommandContext(t.Context(), path, "-c",
		"import confluent_kafka.schema_registry.avro, fastavro, sys; print(sys.prefix)").CombinedOutput()
	if err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	want, err := filepath.EvalSymlinks(filepath.Join(Root(t), "build", "python"))
	if err != nil {
		t.Fatal(err)
	}
	if got := string(bytes.TrimSpace(out)); got != want {
		t.Errorf("runs in %s, want %s", got, want)
	}
}
