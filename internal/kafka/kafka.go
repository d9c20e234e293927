// Package kafka is walferry's one client of a Kafka cluster.
//
// It holds what every user of the cluster shares: one kafka-go Transport with TLS and SASL that carries each request, the
// table of error classes, topics and their limits, and two ways to read a partition. Replay reads all that was committed up
// to an offset of our own (the start of a pipeline and of the registry need exactly this); Reader follows partitions as a
// read_committed consumer. It knows nothing of what the bytes mean. Producing in transactions is package sink.
//
// # Requests
//
// A request is sent with Client.Call. It travels through the Transport as a protocol.RawExchanger, for three reasons: the
// transport's own exchange does not tell whether a byte of a request was written, which the rules of package sink turn on;
// it may still be reading a request's memory after it has returned; and its decoders trust the lengths that a server sends.
// Call answers all three: an *UnansweredError says that a copy was sent and not answered, no byte slice is looked at after
// Call returns, and malformed answers are errors.
//
// # Record batches
//
// Records are parsed here from raw record sets (magic 2, https://kafka.apache.org/documentation/#recordbatch), because
// kafka-go's readers hide producer ids, aborted transactions and the last offset of an emptied batch.
package kafka

import (
	"context"
	"errors"
	"fmt"
	"net"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	kafkago "github.com/segmentio/kafka-go"
	"github.com/segmentio/kafka-go/protocol"
)

// Config says how to reach a cluster.
type Config struct {
	// Brokers are host:port of one or more brokers to start from. Required.
	Brokers []string
	// ClientID names us in the brokers' logs and quotas. Default "walferry".
	ClientID string
	// TLS, when not nil, encrypts every connection.
	TLS *TLSConfig
	// SASL authenticates every connection when its Mechanism is set.
	SASL SASLConfig
	// DialTimeout bounds one connection with its TLS and SASL exchanges. Default 5 s.
	DialTimeout time.Duration
	// RequestTimeout bounds one request on one connection; retries come on top and are the caller's. Default 10 s. A broker
	// that accepts connections and answers nothing costs this much before it is noticed.
	RequestTimeout time.Duration
	// MetadataTopics are the topics that the Transport keeps metadata of, for requests of kafka-go's own message types that
	// are routed by topic. Default none: this package asks for the topics that it needs, when it needs them, and a cluster
	// may have many thousands.
	MetadataTopics []string
	// Dial opens the plain connection under TLS. Default a net.Dialer. Tests put faults here.
	Dial func(ctx context.Context, network, address string) (net.Conn, error)
}

// TLSConfig names the files of an encrypted connection. They are read once, by New.
type TLSConfig struct {
	CAFile             string // PEM; default the system's roots
	CertFile, KeyFile  string // PEM client certificate, both or neither
	ServerName         string // default the host of each broker's address
	InsecureSkipVerify bool   // accept any certificate; for experiments only
}

// SASLConfig is how we authenticate.
type SASLConfig struct {
	Mechanism    string // "", "PLAIN", "SCRAM-SHA-256" or "SCRAM-SHA-512"
	User         string
	Password     string
	PasswordFile string // read again at each connection, so that a rotated password needs no restart; wins over Password
}

func (c *Config) validate() error {
	if len(c.Brokers) == 0 {
		return errors.New("kafka: no brokers configured")
	}
	for _, b := range c.Brokers {
		if host, port, err := net.SplitHostPort(b); err != nil || host == "" || port == "" || strings.Contains(b, ",") {
			return fmt.Errorf("kafka: broker %q is not host:port", b)
		}
	}
	if c.ClientID == "" {
		c.ClientID = "walferry"
	}
	if c.DialTimeout == 0 {
		c.DialTimeout = 5 * time.Second
	}
	if c.RequestTimeout == 0 {
		c.RequestTimeout = 10 * time.Second
	}
	if c.DialTimeout < 0 || c.RequestTimeout < 0 {
		return errors.New("kafka: time-outs must be positive")
	}
	if c.MetadataTopics == nil {
		// An empty list asks for no topic, a nil one for all.
		c.MetadataTopics = []string{}
	}
	return nil
}

// Client talks to one cluster. It is safe for concurrent use.
type Client struct {
	cfg       Config
	addr      net.Addr
	transport *kafkago.Transport
	stop      context.CancelFunc
	failed    atomic.Pointer[failedDial] // the newest; nil for none

	// mu guards the following, which Refresh empties.
	mu           sync.Mutex
	topics       map[string]topicEntry // what brokers said about topics, for leaders
	coordinators map[string]int32      // node id by transactional id
}

// New builds a client. It connects to nothing: files that cannot be read and settings that do not agree are errors here,
// a cluster that cannot be reached is one at the first request.
func New(cfg Config) (*Client, error) {
	if err := cfg.validate(); err != nil {
		return nil, err
	}
	dial, err := dialer(&cfg)
	if err != nil {
		return nil, err
	}
	mech, err := mechanism(cfg.SASL)
	if err != nil {
		return nil, err
	}
	ctx, stop := context.WithCancel(context.Background())
	c := &Client{
		cfg:  cfg,
		addr: kafkago.TCP(cfg.Brokers...),
		stop: stop,
		transport: &kafkago.Transport{
			DialTimeout:    cfg.DialTimeout,
			ClientID:       cfg.ClientID,
			SASL:           mech,
			MetadataTopics: cfg.MetadataTopics,
			Context:        ctx,
			// Shorter than a broker's connections.max.idle.ms (10 min), so that a connection is closed by us and never found
			// closed by them: that would look like a request without an answer.
			IdleTimeout: 60 * time.Second,
		},
		topics:       map[string]topicEntry{},
		coordinators: map[string]int32{},
	}
	c.transport.Dial = func(ctx context.Context, network, address string) (net.Conn, error) {
		conn, err := dial(ctx, network, address)
		if err != nil && ctx.Err() == nil {
			c.failed.Store(&failedDial{time.Now(), err})
		}
		return conn, err
	}
	return c, nil
}

// failedDial is why there was no connection. The Transport dials on its own, and a request that waits for it may learn of
// nothing but its own time-out.
type failedDial struct {
	at  time.Time
	err error
}

// Close ends all connections. Requests under way fail.
func (c *Client) Close() {
	c.transport.CloseIdleConnections()
	c.stop()
}

// Refresh forgets leaders and coordinators and closes idle connections, so that the next request starts from fresh
// metadata. Called on errors that mean stale knowledge (a moved leader, a dropped coordinator, a broken connection): it
// costs milliseconds where the transport's own refresh takes seconds.
func (c *Client) Refresh() {
	c.mu.Lock()
	clear(c.topics)
	clear(c.coordinators)
	c.mu.Unlock()
	c.transport.CloseIdleConnections()
}

// RoundTrip sends one of kafka-go's messages as the Transport routes it. Messages routed by topic (fetch, produce,
// listoffsets) work for MetadataTopics only. Most callers want Call, which says whether an unanswered request was sent.
func (c *Client) RoundTrip(ctx context.Context, msg protocol.Message) (protocol.Message, error) {
	ctx, cancel := context.WithTimeout(ctx, c.cfg.RequestTimeout)
	defer cancel()
	return c.transport.RoundTrip(ctx, c.addr, msg)
}

// RequestTimeout returns the configured bound of one request.
func (c *Client) RequestTimeout() time.Duration { return c.cfg.RequestTimeout }
