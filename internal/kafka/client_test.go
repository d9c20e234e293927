package kafka_test

import (
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	kafkago "github.com/segmentio/kafka-go"
	"github.com/segmentio/kafka-go/protocol"
	"github.com/segmentio/kafka-go/protocol/findcoordinator"
	"github.com/twmb/franz-go/pkg/kfake"

	"walferry/internal/kafka"
	"walferry/internal/testbed"
	"walferry/sink"
	"walferry/sink/sinktest"
)

func TestMain(m *testing.M) { os.Exit(testbed.Main(m)) }

func fake(t testing.TB, opts ...kfake.Opt) string {
	t.Helper()
	c, err := kfake.NewCluster(append([]kfake.Opt{kfake.NumBrokers(1)}, opts...)...)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.Close)
	return c.ListenAddrs()[0]
}

func apache(t testing.TB) string {
	t.Helper()
	if addr := os.Getenv("WALFERRY_TEST_KAFKA_ADDR"); addr != "" {
		return addr
	}
	b := testbed.Kafka(t)
	if !b.Apache {
		t.Skip("needs Apache Kafka: install Java 17 and Maven, or set WALFERRY_TEST_KAFKA_ADDR")
	}
	return b.Addr
}

func each(t *testing.T, fn func(*testing.T, string)) {
	t.Run("kfake", func(t *testing.T) { fn(t, fake(t)) })
	t.Run("apache", func(t *testing.T) { fn(t, apache(t)) })
}

func client(t testing.TB, cfg kafka.Config) *kafka.Client {
	t.Helper()
	c, err := kafka.New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.Close)
	return c
}

func within(t testing.TB, d time.Duration) context.Context {
	ctx, cancel := context.WithTimeout(t.Context(), d)
	t.Cleanup(cancel)
	return ctx
}

func name(t testing.TB) string {
	return strings.NewReplacer("/", "-", " ", "-").Replace(t.Name()) + fmt.Sprint(time.Now().UnixNano())
}

func TestConfig(t *testing.T) {
	for what, cfg := range map[string]kafka.Config{
		"no brokers":         {},
		"no port":            {Brokers: []string{"localhost"}},
		"two in one":         {Brokers: []string{"a:1,b:2"}},
		"unknown mechanism":  {Brokers: []string{"a:1"}, SASL: kafka.SASLConfig{Mechanism: "GSSAPI", User: "u"}},
		"no user":            {Brokers: []string{"a:1"}, SASL: kafka.SASLConfig{Mechanism: "PLAIN"}},
		"no password file":   {Brokers: []string{"a:1"}, SASL: kafka.SASLConfig{Mechanism: "PLAIN", User: "u", PasswordFile: "/nowhere"}},
		"no CA file":         {Brokers: []string{"a:1"}, TLS: &kafka.TLSConfig{CAFile: "/nowhere"}},
		"key without a cert": {Brokers: []string{"a:1"}, TLS: &kafka.TLSConfig{KeyFile: "k.pem"}},
		"negative time-out":  {Brokers: []string{"a:1"}, RequestTimeout: -1},
	} {
		if c, err := kafka.New(cfg); err == nil {
			c.Close()
			t.Errorf("%s: no error", what)
		}
	}
}

func TestTLSAndSASL(t *testing.T) {
	ca := testbed.NewAuthority(t)
	clientCert, clientKey := ca.Issue("client")
	addr := fake(t, kfake.TLS(ca.ServerTLS()),
		kfake.EnableSASL(), kfake.Superuser("PLAIN", "plain", "secret"), kfake.Superuser("SCRAM-SHA-256", "s256", "secret"),
		kfake.Superuser("SCRAM-SHA-512", "s512", "secret"))
	secret := filepath.Join(t.TempDir(), "password")
	if err := os.WriteFile(secret, []byte("secret\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	good := kafka.TLSConfig{CAFile: ca.File, CertFile: clientCert, KeyFile: clientKey}
	for mechanism, user := range map[string]string{"PLAIN": "plain", "SCRAM-SHA-256": "s256", "SCRAM-SHA-512": "s512"} {
		c := client(t, kafka.Config{Brokers: []string{addr}, TLS: &good, SASL: kafka.SASLConfig{Mechanism: mechanism, User: user, PasswordFile: secret}})
		if _, exists, err := c.Partitions(within(t, 5*time.Second), "none"); err != nil || exists {
			t.Errorf("%s: exists %v, error %v", mechanism, exists, err)
		}
		c = client(t, kafka.Config{Brokers: []string{addr}, TLS: &good, SASL: kafka.SASLConfig{Mechanism: mechanism, User: user, Password: "wrong"}})
		if _, _, err := c.Partitions(within(t, 5*time.Second), "none"); kafka.Classify(err) != kafka.Fatal || !kafka.IsCode(err, kafkago.SASLAuthenticationFailed) {
			t.Errorf("%s with a wrong password: %v", mechanism, err)
		}
	}
	sasl := kafka.SASLConfig{Mechanism: "PLAIN", User: "plain", Password: "secret"}
	for what, cfg := range map[string]kafka.TLSConfig{
		"no CA":                 {CertFile: clientCert, KeyFile: clientKey},
		"no client certificate": {CAFile: ca.File},
		"wrong name":            {CAFile: ca.File, CertFile: clientCert, KeyFile: clientKey, ServerName: "elsewhere"},
	} {
		c := client(t, kafka.Config{Brokers: []string{addr}, TLS: &cfg, SASL: sasl})
		if _, _, err := c.Partitions(within(t, 5*time.Second), "none"); kafka.Classify(err) != kafka.Fatal {
			t.Errorf("%s: class %v of %v", what, kafka.Classify(err), err)
		}
	}
	c := client(t, kafka.Config{Brokers: []string{addr}, TLS: &kafka.TLSConfig{InsecureSkipVerify: true, CertFile: clientCert, KeyFile: clientKey}, SASL: sasl})
	if _, _, err := c.Partitions(within(t, 5*time.Second), "none"); err != nil {
		t.Errorf("not verified: %v", err)
	}
	c = client(t, kafka.Config{Brokers: []string{addr}, SASL: sasl, RequestTimeout: time.Second})
	if _, _, err := c.Partitions(within(t, 5*time.Second), "none"); err == nil {
		t.Error("plain to a TLS port: no error")
	} else {
		t.Log(err)
	}
}

// TestGarbage: a server that is no Kafka is one sentence, and no allocation of what it says.
func TestGarbage(t *testing.T) {
	for what, answer := range map[string]string{
		"HTTP":               "HTTP/1.1 400 Bad Request\r\nContent-Type: text/plain\r\n\r\n",
		"a frame of nothing": "\x00\x00\x00\x00\x00\x00\x00\x00",
		"another request":    "\x00\x00\x00\x0a\x00\x00\x03\xe8\x00\x00\x00\x00\x00\x00",
		"too large":          "\x7f\xff\xff\xff\x00\x00\x00\x01\x00\x00\x00\x00",
	} {
		t.Run(what, func(t *testing.T) {
			l, err := net.Listen("tcp", "127.0.0.1:0")
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { _ = l.Close() }) // ends the goroutine below
			go func() {
				for {
					conn, err := l.Accept()
					if err != nil {
						return
					}
					go func() {
						defer func() { _ = conn.Close() }() // the peer is gone
						if _, err := io.ReadFull(conn, make([]byte, 4)); err == nil {
							_, _ = io.WriteString(conn, answer) // the peer may be gone
							_, _ = io.Copy(io.Discard, conn)    // until it hangs up
						}
					}()
				}
			}()
			c := client(t, kafka.Config{Brokers: []string{l.Addr().String()}, RequestTimeout: 3 * time.Second})
			_, _, err = c.Partitions(t.Context(), "none")
			if !errors.Is(err, kafka.ErrMalformed) {
				t.Errorf("error %v", err)
			}
			t.Log(err)
		})
	}
}

// TestSilence: a broker that accepts and does not answer costs the time-out, and no answer is told apart from not sent.
func TestSilence(t *testing.T) {
	addr := fake(t)
	f := sinktest.New()
	t.Cleanup(f.Close)
	c := client(t, kafka.Config{Brokers: []string{addr}, RequestTimeout: time.Second, Dial: f.Dial})
	if _, _, err := c.Partitions(t.Context(), "none"); err != nil {
		t.Fatal(err)
	}
	f.Inject(sinktest.Rule{API: protocol.FindCoordinator, Action: sinktest.Swallow})
	begin := time.Now()
	_, err := c.Call(t.Context(), kafka.AnyNode, &findcoordinator.Request{Key: "x", KeyType: 1})
	var unanswered *kafka.UnansweredError
	if !errors.As(err, &unanswered) || !errors.Is(err, context.DeadlineExceeded) || kafka.Classify(err) != kafka.Retry {
		t.Errorf("error %v", err)
	}
	if d := time.Since(begin); d < 900*time.Millisecond || d > 10*time.Second {
		t.Errorf("it took %v", d)
	}
	f.Clear()
	// Nothing was sent: no connection could be made.
	refused := client(t, kafka.Config{Brokers: []string{"127.0.0.1:1"}, RequestTimeout: 300 * time.Millisecond})
	if _, err := refused.Call(t.Context(), kafka.AnyNode, &findcoordinator.Request{Key: "x", KeyType: 1}); err == nil || errors.As(err, &unanswered) {
		t.Errorf("a refused connection: %v", err)
	}
	// A node that is not there, neither.
	if _, err := c.Call(t.Context(), 99, &findcoordinator.Request{Key: "x", KeyType: 1}); !kafka.IsCode(err, kafkago.BrokerNotAvailable) || errors.As(err, &unanswered) {
		t.Errorf("an unknown node: %v", err)
	}
	// A cancellation ends the call at once, and the next call has a good connection.
	x := f.Inject(sinktest.Rule{API: protocol.FindCoordinator, Nth: 1, Action: sinktest.Swallow})
	ctx, cancel := context.WithCancel(t.Context())
	go func() { <-x.Struck(); cancel() }()
	if _, err := c.Call(ctx, kafka.AnyNode, &findcoordinator.Request{Key: "x", KeyType: 1}); !errors.Is(err, context.Canceled) {
		t.Errorf("cancelled: %v", err)
	}
	if _, err := c.Call(t.Context(), kafka.AnyNode, &findcoordinator.Request{Key: "x", KeyType: 1}); err != nil {
		t.Errorf("afterwards: %v", err)
	}
}

func TestTopics(t *testing.T) {
	each(t, func(t *testing.T, addr string) {
		c := client(t, kafka.Config{Brokers: []string{addr}})
		ctx := within(t, 20*time.Second)
		topic := name(t)
		for range 2 { // asking does not create
			if n, exists, err := c.Partitions(ctx, topic); n != 0 || exists || err != nil {
				t.Fatalf("before: %d, %v, %v", n, exists, err)
			}
		}
		if err := c.CreateTopic(ctx, topic, 3, 1, map[string]string{"cleanup.policy": "compact"}); err != nil {
			t.Fatal(err)
		}
		if err := c.CreateTopic(ctx, topic, 3, 1, nil); !kafka.IsCode(err, kafkago.TopicAlreadyExists) {
			t.Errorf("again: %v", err)
		}
		for {
			n, exists, err := c.Partitions(ctx, topic)
			if err != nil {
				t.Fatal(err)
			}
			if exists && n == 3 {
				break
			}
			if err := kafka.Pause(ctx, 1); err != nil {
				t.Fatalf("it has %d partitions: %v", n, err)
			}
		}
		settings, err := c.TopicConfigs(ctx, topic)
		if err != nil || settings["cleanup.policy"] != "compact" || settings["max.message.bytes"] == "" {
			t.Errorf("settings %v, %v", settings, err)
		}
		for at, want := range map[int64]int64{kafka.Earliest: 0, kafka.Latest: 0} {
			if got, err := c.ListOffset(ctx, topic, 2, at); got != want || err != nil {
				t.Errorf("offset %d: %d, %v", at, got, err)
			}
		}
		if _, err := c.Leaders(ctx, []kafka.TopicPartition{{Topic: topic, Partition: 3}}); !kafka.IsCode(err, kafkago.UnknownTopicOrPartition) {
			t.Errorf("a partition that is not there: %v", err)
		}
	})
}

// writer publishes single records.
type writer struct {
	t     testing.TB
	p     *sink.Producer
	topic string
}

func newWriter(t testing.TB, c *kafka.Client, topic, id string) *writer {
	t.Helper()
	p, err := sink.New(c, sink.Config{TransactionalID: id, Compression: "none"})
	if err != nil {
		t.Fatal(err)
	}
	if err := p.Init(within(t, 20*time.Second)); err != nil {
		t.Fatal(err)
	}
	return &writer{t, p, topic}
}

func (w *writer) put(key, value string) int64 {
	w.t.Helper()
	b := w.p.NewBatch()
	if err := b.Append(w.topic, 0, time.Now(), []byte(key), []byte(value), nil); err != nil {
		w.t.Fatal(err)
	}
	res, err := w.p.Publish(within(w.t, 20*time.Second), b)
	if err != nil {
		w.t.Fatal(err)
	}
	return res.Offsets[kafka.TopicPartition{Topic: w.topic}]
}

func topicOf(t testing.TB, c *kafka.Client, configs map[string]string) string {
	t.Helper()
	p, err := sink.New(c, sink.Config{TransactionalID: "unused"})
	if err != nil {
		t.Fatal(err)
	}
	topic := name(t)
	if _, err := p.EnsureTopic(within(t, 20*time.Second), sink.TopicSpec{Name: topic, Partitions: 1, Configs: configs}); err != nil {
		t.Fatal(err)
	}
	return topic
}

func replay(t testing.TB, c *kafka.Client, topic string, until int64) string {
	t.Helper()
	var got []string
	if err := c.Replay(within(t, 20*time.Second), topic, 0, until, func(r kafka.Record) error {
		got = append(got, string(r.Value))
		return nil
	}); err != nil {
		t.Fatal(err)
	}
	return strings.Join(got, " ")
}

// TestReplayBehindOpenTransaction is the failure that Replay is made for: a foreign transaction holds the last stable offset
// back, so a read_committed consumer sees nothing, and aborted records lie in between.
func TestReplayBehindOpenTransaction(t *testing.T) {
	each(t, func(t *testing.T, addr string) {
		f := sinktest.New()
		t.Cleanup(f.Close)
		c := client(t, kafka.Config{Brokers: []string{addr}})
		topic := topicOf(t, c, nil)
		foreign := newWriter(t, client(t, kafka.Config{Brokers: []string{addr}, Dial: f.Dial}), topic, topic+"-foreign")
		hold := f.Inject(sinktest.Rule{API: protocol.EndTxn, Action: sinktest.LoseRequest})
		ctx, cancel := context.WithCancel(t.Context())
		go func() {
			<-hold.Struck()
			cancel()
		}()
		b := foreign.p.NewBatch()
		if err := b.Append(topic, 0, time.Now(), []byte("f"), []byte("foreign"), nil); err != nil {
			t.Fatal(err)
		}
		if _, err := foreign.p.Publish(ctx, b); err == nil {
			t.Fatal("the foreign transaction committed")
		}
		ours := newWriter(t, c, topic, topic+"-ours")
		ours.put("k", "1")
		ours.put("k", "2")
		until := ours.put("session", "s")
		stable, err := c.StableOffset(t.Context(), topic, 0)
		if err != nil || stable != 0 {
			t.Fatalf("last stable offset %d, %v: nothing is held back", stable, err)
		}
		if got := replay(t, c, topic, until); got != "1 2" {
			t.Errorf("replay: %q, want the two committed records", got)
		}
		// The marker of the session record is the last thing in the log.
		end, err := c.EndOffset(t.Context(), topic, 0)
		if err != nil {
			t.Fatal(err)
		}
		if got := replay(t, c, topic, end-1); got != "1 2 s" {
			t.Errorf("replay up to the marker: %q", got)
		}
		f.Clear()
		if err := foreign.p.Init(within(t, 10*time.Second)); err != nil { // aborts
			t.Fatal(err)
		}
		until = ours.put("session", "t")
		if got := replay(t, c, topic, until); got != "1 2 s" {
			t.Errorf("replay after the abort: %q", got)
		}
	})
}

func TestReplayStops(t *testing.T) {
	addr := fake(t)
	c := client(t, kafka.Config{Brokers: []string{addr}})
	topic := topicOf(t, c, nil)
	w := newWriter(t, c, topic, topic)
	w.put("k", "1")
	ctx, cancel := context.WithTimeout(t.Context(), 300*time.Millisecond)
	defer cancel()
	if err := c.Replay(ctx, topic, 0, 1000, func(kafka.Record) error { return nil }); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("an offset that never comes: %v", err)
	}
	stop := errors.New("stop")
	if err := c.Replay(t.Context(), topic, 0, 1, func(kafka.Record) error { return stop }); !errors.Is(err, stop) {
		t.Errorf("the callee's error became %v", err)
	}
	absent, cancel := context.WithTimeout(t.Context(), 300*time.Millisecond)
	defer cancel()
	if err := c.Replay(absent, topic+"-absent", 0, 1, func(kafka.Record) error { return stop }); !kafka.IsCode(err, kafkago.UnknownTopicOrPartition) {
		t.Errorf("a topic that is not there: %v", err)
	}
}

// TestReplayCompacted reads a log that the broker's cleaner has been at.
func TestReplayCompacted(t *testing.T) {
	c := client(t, kafka.Config{Brokers: []string{apache(t)}})
	topic := topicOf(t, c, map[string]string{"cleanup.policy": "compact", "min.cleanable.dirty.ratio": "0.001", "segment.bytes": "1048576",
		"segment.ms": "200", "delete.retention.ms": "100", "max.compaction.lag.ms": "200"})
	w := newWriter(t, c, topic, topic)
	ctx := within(t, 90*time.Second)
	for i := 0; ; i++ {
		until := w.put(fmt.Sprint("key", i%3), fmt.Sprint(i))
		seen := map[string]bool{}
		last := map[string]string{}
		var records, gaps int
		next := int64(0)
		if err := c.Replay(ctx, topic, 0, until, func(r kafka.Record) error {
			if r.Offset > next+1 {
				gaps++
			}
			next = r.Offset + 1
			records++
			seen[string(r.Value)] = true
			last[string(r.Key)] = string(r.Value)
			return nil
		}); err != nil {
			t.Fatal(err)
		}
		for back := 1; back <= min(3, i); back++ {
			if v := fmt.Sprint(i - back); !seen[v] || last[fmt.Sprint("key", (i-back)%3)] != v {
				t.Fatalf("after %d records, %s is not the last of its key: %v", i+1, v, last)
			}
		}
		if i > 20 && gaps > 0 && records < i/2 {
			t.Logf("%d of %d records are left, with %d gaps", records, i+1, gaps)
			return
		}
		if err := kafka.Pause(ctx, 4); err != nil {
			t.Skipf("the cleaner has not run in time (%d of %d records are left)", records, i+1)
		}
	}
}

// TestReaderFollows sees what commits while it waits, on several partitions, and nothing that aborts.
func TestReaderFollows(t *testing.T) {
	each(t, func(t *testing.T, addr string) {
		c := client(t, kafka.Config{Brokers: []string{addr}})
		p, err := sink.New(c, sink.Config{TransactionalID: name(t)})
		if err != nil {
			t.Fatal(err)
		}
		topic := name(t)
		ctx := within(t, 30*time.Second)
		if _, err := p.EnsureTopic(ctx, sink.TopicSpec{Name: topic, Partitions: 4}); err != nil {
			t.Fatal(err)
		}
		if err := p.Init(ctx); err != nil {
			t.Fatal(err)
		}
		at := map[kafka.TopicPartition]int64{}
		for i := range int32(4) {
			at[kafka.TopicPartition{Topic: topic, Partition: i}] = kafka.Latest
		}
		r := c.NewReader(at)
		if recs, err := r.Poll(ctx); err != nil || len(recs) != 0 {
			t.Fatalf("%v, %v", recs, err)
		}
		const n = 200
		var publishing sync.WaitGroup
		publishing.Go(func() {
			for i := range n / 20 {
				b := p.NewBatch()
				for j := range 20 {
					v := fmt.Sprintf("%04d", i*20+j)
					if err := b.Append(topic, int32(j%4), time.UnixMilli(1234567), []byte(v), []byte(v), []sink.Header{{Key: "h", Value: []byte(v)}}); err != nil {
						t.Error(err)
					}
				}
				if i%3 == 2 { // aborted once, then published
					failed, cancel := context.WithCancel(ctx)
					cancel()
					if _, err := p.Publish(failed, b); err == nil {
						t.Error("published after its end")
					}
				}
				if _, err := p.Publish(ctx, b); err != nil {
					t.Error(err)
				}
			}
		})
		defer publishing.Wait() // records can be read before the answer to their commit has come
		last := map[int32]string{}
		for got := 0; got < n; {
			recs, err := r.Poll(ctx)
			if err != nil {
				t.Fatal(err)
			}
			for _, rec := range recs {
				v := string(rec.Value)
				if v <= last[rec.Partition] || string(rec.Headers[0].Value) != v || rec.Time.UnixMilli() != 1234567 || string(rec.Key) != v {
					t.Fatalf("%+v after %s", rec, last[rec.Partition])
				}
				last[rec.Partition] = v
			}
			got += len(recs)
		}
		r.Add(kafka.TopicPartition{Topic: topic, Partition: 0}, 1<<40)
		var gone *kafka.OffsetError
		if _, err := r.Poll(ctx); !errors.As(err, &gone) || gone.Offset != 1<<40 {
			t.Errorf("an offset out of range: %v", err)
		}
	})
}

func TestClassify(t *testing.T) {
	for code, want := range map[kafkago.Error]kafka.Class{
		6: kafka.Retry, 7: kafka.Retry, 14: kafka.Retry, 15: kafka.Retry, 16: kafka.Retry, 19: kafka.Retry, 51: kafka.Retry, 3: kafka.Retry,
		45: kafka.Restart, 48: kafka.Restart, 49: kafka.Restart, 59: kafka.Restart, 120: kafka.Restart, -1: kafka.Restart, 999: kafka.Restart,
		47: kafka.Fenced, 90: kafka.Fenced,
		10: kafka.Fatal, 29: kafka.Fatal, 35: kafka.Fatal, 50: kafka.Fatal, 53: kafka.Fatal, 58: kafka.Fatal, 87: kafka.Fatal,
	} {
		if got := kafka.Classify(fmt.Errorf("wrapped: %w", code)); got != want {
			t.Errorf("%d: %v, want %v", code, got, want)
		}
	}
	for err, want := range map[error]kafka.Class{
		io.ErrUnexpectedEOF:                        kafka.Retry,
		context.DeadlineExceeded:                   kafka.Retry,
		kafka.ErrFenced:                            kafka.Fenced,
		x509.UnknownAuthorityError{}:               kafka.Fatal,
		&kafka.UnansweredError{Err: net.ErrClosed}: kafka.Retry,
	} {
		if got := kafka.Classify(fmt.Errorf("wrapped: %w", err)); got != want {
			t.Errorf("%v: %v, want %v", err, got, want)
		}
	}
}
