package testbed

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kfake"

	"walferry/internal/proc"
)

const (
	kafkaDefault = "4.3.1"
	kafkaStart   = 4 * time.Minute // 3 s are usual, 90 were seen on two cores with thirty processes to run
	kafkaStop    = 60 * time.Second
)

// fakeLine is what the runner of the tests repeats before its account (tools/testcount): the tests did not see a Kafka.
const fakeLine = "kafka: kfake, not Apache"

// Broker is one Kafka node, Apache's or kfake. Its address stays the same over stops and starts.
type Broker struct {
	// Addr is its "127.0.0.1:port".
	Addr string
	// Apache is false for kfake.
	Apache bool
	// Version of Apache Kafka, "" for kfake.
	Version string

	dir     string
	jars    string
	process *proc.Process
	fake    *kfake.Cluster
	port    int
	remove  func() error
}

// Cluster is three nodes, replication factor 3, min.insync.replicas 2.
type Cluster struct {
	// Addr lists the nodes' addresses, separated by commas.
	Addr    string
	Brokers []*Broker
}

var shared struct {
	sync.Mutex
	broker *Broker // guarded by Mutex
	err    error   // guarded by Mutex: an answer that every later test gets at once
}

// Kafka returns the broker that all tests of this process share, started by the first of them. Tests use topics and
// transactional ids of their own. A test that stops it starts it again, and does not run in parallel with others;
// KafkaAlone is the way for a test that wants more.
func Kafka(t testing.TB) *Broker {
	t.Helper()
	shared.Lock()
	defer shared.Unlock()
	if shared.broker == nil && shared.err == nil {
		shared.broker, shared.err = StartKafka(started(t))
	}
	if shared.err != nil {
		t.Fatal(shared.err)
	}
	return shared.broker
}

// KafkaAlone starts a broker for this test. Settings are lines of server.properties as "name=value" that win over ours;
// "listener=SASL_SSL://127.0.0.1:port" adds a listener to those of its own, once for each.
func KafkaAlone(t testing.TB, settings ...string) *Broker {
	t.Helper()
	b, err := StartKafka(started(t), settings...)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := b.Close(); err != nil {
			t.Error(err)
		}
	})
	return b
}

// Kafka3 starts a cluster for this test; leaders move when a node stops. It is skipped without Apache Kafka, or fails
// where WALFERRY_TEST_KAFKA=apache.
func Kafka3(t testing.TB, settings ...string) *Cluster {
	t.Helper()
	jars, version, err := kafkaJars(started(t))
	if err != nil {
		t.Fatal(err)
	}
	if jars == "" {
		t.Skip("three nodes need Apache Kafka: install Java 17 and Maven (Debian: default-jdk-headless maven)")
	}
	c := &Cluster{}
	controllers := make([]string, 3)
	addrs := make([]string, 3)
	for i := range controllers {
		port, err := proc.FreePort()
		if err != nil {
			t.Fatal(err)
		}
		controllers[i] = fmt.Sprintf("%d@127.0.0.1:%d", i+1, port)
	}
	voters := strings.Join(controllers, ",")
	id := clusterID()
	for i, controller := range controllers {
		b, err := formatted(started(t), jars, version, node{id: i + 1, voters: voters, controller: controller,
			replicas: 3, insync: 2, cluster: id, settings: settings})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() {
			if err := b.Close(); err != nil {
				t.Error(err)
			}
		})
		c.Brokers = append(c.Brokers, b)
		addrs[i] = b.Addr
	}
	c.Addr = strings.Join(addrs, ",")
	// All at once: none is up before two of them can vote.
	errs := make(chan error)
	for _, b := range c.Brokers {
		go func() { errs <- b.Start(started(t)) }()
	}
	for range c.Brokers {
		err = errors.Join(err, <-errs)
	}
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func stopShared() error {
	shared.Lock()
	defer shared.Unlock()
	if shared.broker == nil {
		return nil
	}
	err := shared.broker.Close()
	shared.broker = nil
	return err
}

// StartKafka is KafkaAlone outside of a test; Close ends the broker. The context bounds the start only.
func StartKafka(ctx context.Context, settings ...string) (*Broker, error) {
	jars, version, err := kafkaJars(ctx)
	if err != nil {
		return nil, err
	}
	if jars == "" {
		sayFake()
		return newFake()
	}
	controller, err := proc.FreePort()
	if err != nil {
		return nil, err
	}
	self := fmt.Sprintf("1@127.0.0.1:%d", controller)
	b, err := formatted(ctx, jars, version, node{id: 1, voters: self, controller: self, replicas: 1, insync: 1,
		cluster: clusterID(), settings: settings})
	if err != nil {
		return nil, err
	}
	if err := b.Start(ctx); err != nil {
		return nil, errors.Join(err, b.Close())
	}
	return b, nil
}

// kafkaJars returns the folder with the wanted version's jars, which it fills with Maven once. An empty folder means
// kfake: it was asked for, or the machine has no Java and need not.
func kafkaJars(ctx context.Context) (dir, version string, err error) {
	want := os.Getenv("WALFERRY_TEST_KAFKA")
	switch want {
	case "kfake":
		return "", "", nil
	case "", "apache":
	default:
		return "", "", fmt.Errorf("WALFERRY_TEST_KAFKA=%s: apache, kfake or nothing", want)
	}
	if version = os.Getenv("WALFERRY_TEST_KAFKA_VERSION"); version == "" {
		version = kafkaDefault
	}
	dir = filepath.Join(cacheDir("kafka"), version)
	missing := func(program, debian string) (string, string, error) {
		if want == "apache" {
			return "", "", fmt.Errorf("kafka: %s is not installed (Debian: apt-get install %s), and WALFERRY_TEST_KAFKA=apache", program, debian)
		}
		return "", "", nil
	}
	if _, err := exec.LookPath("java"); err != nil {
		return missing("java", "default-jdk-headless")
	}
	unlock, err := proc.Lock(ctx, dir+".lock")
	if err != nil {
		return "", "", err
	}
	defer unlock()
	if _, err := os.Stat(dir); err == nil {
		return dir, version, nil
	}
	if _, err := exec.LookPath("mvn"); err != nil {
		return missing("mvn", "maven")
	}
	if err := maven(ctx, "kafka", copyJars, dir, "-Dkafka.version="+version); err != nil {
		return "", "", fmt.Errorf("kafka %s: %w", version, err)
	}
	return dir, version, nil
}

// node is what tells one broker from another.
type node struct {
	id               int
	voters           string // of controller.quorum.voters
	controller       string // own entry in voters
	replicas, insync int
	cluster          string
	settings         []string
}

// formatted makes a node's data folder. Both roles are in one process, as small clusters have it.
func formatted(ctx context.Context, jars, version string, n node) (_ *Broker, err error) {
	b := &Broker{Apache: true, Version: version, jars: jars}
	if b.port, err = proc.FreePort(); err != nil {
		return nil, err
	}
	b.Addr = net.JoinHostPort("127.0.0.1", strconv.Itoa(b.port))
	if b.dir, b.remove, err = proc.TempDir("walferry-kafka-"); err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, b.Close())
		}
	}()
	_, controller, _ := strings.Cut(n.controller, "@")
	advertised := "PLAINTEXT://" + b.Addr
	var settings []string
	for _, line := range n.settings {
		if listener, ok := strings.CutPrefix(line, "listener="); ok {
			advertised += "," + listener
			continue
		}
		settings = append(settings, line)
	}
	lines := []string{
		"process.roles=broker,controller",
		fmt.Sprintf("node.id=%d", n.id),
		"controller.quorum.voters=" + n.voters,
		"controller.listener.names=CONTROLLER",
		"listeners=" + advertised + ",CONTROLLER://" + controller,
		"advertised.listeners=" + advertised,
		"listener.security.protocol.map=PLAINTEXT:PLAINTEXT,CONTROLLER:PLAINTEXT,SSL:SSL,SASL_PLAINTEXT:SASL_PLAINTEXT,SASL_SSL:SASL_SSL",
		"inter.broker.listener.name=PLAINTEXT",
		"log.dirs=" + filepath.Join(b.dir, "data"),
		"num.partitions=1",
		fmt.Sprintf("default.replication.factor=%d", n.replicas),
		fmt.Sprintf("min.insync.replicas=%d", n.insync),
		// A topic that nobody created is a mistake that a test should see.
		"auto.create.topics.enable=false",
		"offsets.topic.num.partitions=4",
		fmt.Sprintf("offsets.topic.replication.factor=%d", n.replicas),
		"transaction.state.log.num.partitions=4",
		fmt.Sprintf("transaction.state.log.replication.factor=%d", n.replicas),
		fmt.Sprintf("transaction.state.log.min.isr=%d", n.insync),
		"share.coordinator.state.topic.num.partitions=1",
		fmt.Sprintf("share.coordinator.state.topic.replication.factor=%d", n.replicas),
		fmt.Sprintf("share.coordinator.state.topic.min.isr=%d", n.insync),
		"group.initial.rebalance.delay.ms=0",
		// A killed node is back in 5 s instead of 12.
		"broker.heartbeat.interval.ms=300",
		"broker.session.timeout.ms=2500",
		"log.cleaner.dedupe.buffer.size=16777216",
		"num.recovery.threads.per.data.dir=1",
	}
	// Properties files take the last of two lines with one name.
	lines = append(lines, settings...)
	if err := os.WriteFile(b.properties(), []byte(strings.Join(lines, "\n")+"\n"), 0o600); err != nil {
		return nil, err
	}
	const log4j = `status = warn
appender.c.type = Console
appender.c.name = C
appender.c.layout.type = PatternLayout
appender.c.layout.pattern = [%d] %p %m (%c)%n
rootLogger.level = info
rootLogger.appenderRef.c.ref = C
`
	if err := os.WriteFile(filepath.Join(b.dir, "log4j2.properties"), []byte(log4j), 0o600); err != nil {
		return nil, err
	}
	format := b.java(ctx, "-Xmx128m", "-XX:TieredStopAtLevel=1", "kafka.tools.StorageTool", "format", "-t", n.cluster,
		"-c", b.properties())
	if out, err := format.CombinedOutput(); err != nil {
		return nil, fmt.Errorf("kafka %s: format: %w: %s", version, err, bytes.TrimSpace(out))
	}
	return b, nil
}

func (b *Broker) properties() string { return filepath.Join(b.dir, "server.properties") }

// java is a command with the jars in the class path; the serial collector starts faster and costs two cores less.
func (b *Broker) java(ctx context.Context, args ...string) *exec.Cmd {
	all := append([]string{"-XX:+UseSerialGC", "-Dlog4j2.configurationFile=" + filepath.Join(b.dir, "log4j2.properties"),
		"-cp", filepath.Join(b.jars, "*")}, args...)
	cmd := exec.CommandContext(ctx, "java", all...)
	cmd.Dir = b.dir
	return cmd
}

// clusterID is 16 random bytes as Kafka writes its UUIDs.
func clusterID() string {
	id := make([]byte, 16)
	_, _ = rand.Read(id) // never fails (crypto/rand)
	id[0] &= 0x7f        // StorageTool takes an id that begins with "-" for a flag
	return base64.RawURLEncoding.EncodeToString(id)
}

// Start starts a stopped or killed broker on the port and the data it had, and returns when it is ready.
func (b *Broker) Start(ctx context.Context) error {
	if !b.Apache {
		return b.startFake()
	}
	if b.process != nil && b.process.Running() {
		return fmt.Errorf("kafka: pid %d is running already", b.process.PID())
	}
	log, err := os.OpenFile(b.LogFile(), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	from, err := log.Seek(0, io.SeekEnd)
	if err != nil {
		return errors.Join(err, log.Close())
	}
	cmd := b.java(context.WithoutCancel(ctx), "-Xms128m", "-Xmx512m", "kafka.Kafka", b.properties())
	cmd.Stdout, cmd.Stderr = log, log
	b.process, err = proc.Start(cmd, syscall.SIGKILL)
	if err := errors.Join(err, log.Close()); err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, kafkaStart)
	defer cancel()
	for {
		said, err := said(b.LogFile(), from)
		if err != nil {
			return err
		}
		if bytes.Contains(said, []byte("Kafka Server started")) {
			return nil
		}
		select {
		case <-b.process.Done():
			return fmt.Errorf("kafka: ended at once: %w: %s", b.process.Err(), tail(said))
		case <-ctx.Done():
			return errors.Join(fmt.Errorf("kafka: not up in %s: %s", kafkaStart, tail(said)),
				b.process.Stop(syscall.SIGKILL, kafkaStop))
		case <-time.After(50 * time.Millisecond):
		}
	}
}

// said returns what a log holds from an offset on.
func said(path string, from int64) ([]byte, error) {
	b, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	return b[min(from, int64(len(b))):], nil
}

func tail(log []byte) []byte {
	const most = 3000
	return bytes.TrimSpace(log[max(0, len(log)-most):])
}

// Stop shuts the broker down in order, as SIGTERM does.
func (b *Broker) Stop() error {
	if !b.Apache {
		b.stopFake()
		return nil
	}
	if b.process == nil {
		return nil
	}
	// A paused process does not hear SIGTERM.
	if err := b.Resume(); err != nil {
		return err
	}
	return b.process.Stop(syscall.SIGTERM, kafkaStop)
}

// Kill ends the broker with SIGKILL. kfake, which lives in this process, closes its connections and stops instead.
func (b *Broker) Kill() error {
	if !b.Apache {
		b.stopFake()
		return nil
	}
	if b.process == nil {
		return nil
	}
	return b.process.Stop(syscall.SIGKILL, kafkaStop)
}

// Pause stops the broker with SIGSTOP: it keeps its connections, accepts new ones (the kernel does), and answers
// nothing. kfake cannot; the error says so.
func (b *Broker) Pause() error {
	if !b.Apache {
		return errors.New("kfake cannot be paused: install Java 17 and Maven")
	}
	return b.process.Signal(syscall.SIGSTOP)
}

// Resume lets a paused broker go on.
func (b *Broker) Resume() error {
	if !b.Apache || b.process == nil {
		return nil
	}
	return b.process.Signal(syscall.SIGCONT)
}

// PID of the last start, 0 for kfake.
func (b *Broker) PID() int {
	if b.process == nil {
		return 0
	}
	return b.process.PID()
}

// LogFile is what the broker said, over all starts. kfake says nothing.
func (b *Broker) LogFile() string { return filepath.Join(b.dir, "server.log") }

// Close ends the broker and deletes its data.
func (b *Broker) Close() error {
	err := b.Kill()
	if b.remove != nil {
		err = errors.Join(err, b.remove())
		b.remove = nil
	}
	return err
}

var sayFake = sync.OnceFunc(func() { fmt.Println(fakeLine) })

func newFake() (_ *Broker, err error) {
	b := &Broker{}
	if b.port, err = proc.FreePort(); err != nil {
		return nil, err
	}
	b.Addr = net.JoinHostPort("127.0.0.1", strconv.Itoa(b.port))
	if b.dir, b.remove, err = proc.TempDir("walferry-kafka-"); err != nil {
		return nil, err
	}
	if err := b.startFake(); err != nil {
		return nil, errors.Join(err, b.Close())
	}
	return b, nil
}

func (b *Broker) startFake() (err error) {
	if b.fake != nil {
		return errors.New("kfake: is running already")
	}
	b.fake, err = kfake.NewCluster(kfake.NumBrokers(1), kfake.Ports(b.port), kfake.DataDir(b.dir), kfake.SyncWrites())
	if err != nil {
		return fmt.Errorf("kfake: %w", err)
	}
	return nil
}

func (b *Broker) stopFake() {
	if b.fake != nil {
		b.fake.Close()
		b.fake = nil
	}
}
