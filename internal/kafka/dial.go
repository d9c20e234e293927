package kafka

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"strings"
	"time"

	kafkago "github.com/segmentio/kafka-go"
	"github.com/segmentio/kafka-go/protocol"
	"github.com/segmentio/kafka-go/sasl"
	"github.com/segmentio/kafka-go/sasl/plain"
	"github.com/segmentio/kafka-go/sasl/scram"
)

// dialer makes the function that opens a connection: plain, then TLS, then the guard. TLS is done here and not by the
// Transport so that the guard stands above it, and so that a failed handshake is told apart from a Kafka answer.
func dialer(cfg *Config) (func(context.Context, string, string) (net.Conn, error), error) {
	dial := cfg.Dial
	if dial == nil {
		d := &net.Dialer{Timeout: cfg.DialTimeout, KeepAlive: 15 * time.Second}
		dial = d.DialContext
	}
	var tlsConfig *tls.Config
	if cfg.TLS != nil {
		var err error
		if tlsConfig, err = cfg.TLS.load(); err != nil {
			return nil, err
		}
	}
	return func(ctx context.Context, network, address string) (net.Conn, error) {
		conn, err := dial(ctx, network, address)
		if err != nil {
			return nil, err
		}
		if tlsConfig != nil {
			tc := tlsConfig.Clone()
			if tc.ServerName == "" {
				host, _, err := net.SplitHostPort(address)
				if err != nil {
					_ = conn.Close() // the address is the error that matters
					return nil, fmt.Errorf("broker address %q: %w", address, err)
				}
				tc.ServerName = host
			}
			secure := tls.Client(conn, tc)
			if err := secure.HandshakeContext(ctx); err != nil {
				_ = conn.Close() // the handshake is the error that matters
				return nil, fmt.Errorf("TLS handshake with broker %s: %w", address, err)
			}
			conn = secure
		}
		return &guard{Conn: conn}, nil
	}, nil
}

func (t *TLSConfig) load() (*tls.Config, error) {
	cfg := &tls.Config{MinVersion: tls.VersionTLS12, ServerName: t.ServerName, InsecureSkipVerify: t.InsecureSkipVerify} //nolint:gosec // the operator asked for it by name
	if t.CAFile != "" {
		pem, err := os.ReadFile(t.CAFile)
		if err != nil {
			return nil, fmt.Errorf("kafka: CA file: %w", err)
		}
		cfg.RootCAs = x509.NewCertPool()
		if !cfg.RootCAs.AppendCertsFromPEM(pem) {
			return nil, fmt.Errorf("kafka: CA file %s holds no PEM certificate", t.CAFile)
		}
	}
	if (t.CertFile == "") != (t.KeyFile == "") {
		return nil, errors.New("kafka: a client certificate needs both its certificate file and its key file")
	}
	if t.CertFile != "" {
		cert, err := tls.LoadX509KeyPair(t.CertFile, t.KeyFile)
		if err != nil {
			return nil, fmt.Errorf("kafka: client certificate: %w", err)
		}
		cfg.Certificates = []tls.Certificate{cert}
	}
	return cfg, nil
}

// mechanism returns nil where no authentication is configured.
func mechanism(cfg SASLConfig) (sasl.Mechanism, error) {
	switch name := strings.ToUpper(cfg.Mechanism); name {
	case "":
		return nil, nil
	case "PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512":
		if cfg.User == "" {
			return nil, errors.New("kafka: SASL needs a user")
		}
		m := &credentials{name: name, cfg: cfg}
		if _, err := m.start(); err != nil { // a password file that is not there is noticed now
			return nil, err
		}
		return m, nil
	}
	return nil, fmt.Errorf("kafka: SASL mechanism %q is none of PLAIN, SCRAM-SHA-256, SCRAM-SHA-512", cfg.Mechanism)
}

// credentials is a sasl.Mechanism that reads its password file at each connection.
type credentials struct {
	name string
	cfg  SASLConfig
}

func (m *credentials) Name() string { return m.name }

func (m *credentials) Start(ctx context.Context) (sasl.StateMachine, []byte, error) {
	mech, err := m.start()
	if err != nil {
		return nil, nil, err
	}
	return mech.Start(ctx)
}

func (m *credentials) start() (sasl.Mechanism, error) {
	password := m.cfg.Password
	if m.cfg.PasswordFile != "" {
		b, err := os.ReadFile(m.cfg.PasswordFile)
		if err != nil {
			return nil, fmt.Errorf("kafka: SASL password file: %w", err)
		}
		password = strings.TrimRight(string(b), "\r\n")
	}
	var mech sasl.Mechanism
	var err error
	switch m.name {
	case "PLAIN":
		mech = plain.Mechanism{Username: m.cfg.User, Password: password}
	case "SCRAM-SHA-256":
		mech, err = scram.Mechanism(scram.SHA256, m.cfg.User, password)
	default:
		mech, err = scram.Mechanism(scram.SHA512, m.cfg.User, password)
	}
	if err != nil {
		return nil, fmt.Errorf("kafka: SASL %s: %w", m.name, err)
	}
	return mech, nil
}

// maxFrame bounds one answer: a fetch brings at most fetchMaxBytes, or one record batch where that is larger.
const maxFrame = 256 << 20

// guard checks the framing of what a broker sends, before kafka-go's decoders see it: they allocate what a length field
// asks for. A frame is four bytes of length, then the correlation id of the request that it answers; the Transport has one
// request at a time on a connection. Something that does not speak Kafka fails here, in one sentence.
type guard struct {
	net.Conn
	out, in  frames
	api      protocol.ApiKey // of the newest request
	expected [4]byte         // its correlation id
	broken   error           // kept: kafka-go reads on after an error, to discard what it takes for the rest of the answer
}

// frames walks a byte stream of length-prefixed frames. head collects the first bytes of a frame.
type frames struct {
	head [12]byte
	n    int   // bytes of head so far
	rest int64 // bytes of the frame that follow head
}

func (g *guard) Write(p []byte) (int, error) {
	n, err := g.Conn.Write(p)
	// length, api key and version, correlation id
	bad := g.out.walk(p[:n], 12, func(head []byte) error {
		g.api = protocol.ApiKey(binary.BigEndian.Uint16(head[4:]))
		copy(g.expected[:], head[8:12])
		return nil
	})
	if err == nil {
		err = bad
	}
	return n, err
}

func (g *guard) Read(p []byte) (int, error) {
	if g.broken != nil {
		return 0, g.broken
	}
	n, err := g.Conn.Read(p)
	if errors.Is(err, io.EOF) && (g.api == protocol.SaslAuthenticate || g.api == protocol.SaslHandshake) {
		// Some servers say no like this.
		g.broken = fmt.Errorf("broker %s ended the connection in the middle of the authentication: %w", g.RemoteAddr(), kafkago.SASLAuthenticationFailed)
		return n, g.broken
	}
	if op, ok := errors.AsType[*net.OpError](err); ok && op.Op == "remote error" {
		// With TLS 1.3 a server looks at our certificate after its side of the handshake.
		g.broken = fmt.Errorf("broker %s refuses our TLS connection: %w", g.RemoteAddr(), err)
		return n, g.broken
	}
	if bad := g.in.walk(p[:n], 8, func(head []byte) error {
		if size := int32(binary.BigEndian.Uint32(head)); size < 4 || size > maxFrame || [4]byte(head[4:8]) != g.expected {
			return fmt.Errorf("%w: %s answered with bytes that are not Kafka's protocol (%q); is this a broker's plain or TLS port?",
				ErrMalformed, g.RemoteAddr(), head[:8])
		}
		return nil
	}); bad != nil {
		g.broken = bad
		return 0, bad
	}
	return n, err
}

// walk calls fn with the first want bytes of each frame that begins in p.
func (f *frames) walk(p []byte, want int, fn func(head []byte) error) error {
	for len(p) > 0 {
		if f.rest > 0 {
			skip := min(f.rest, int64(len(p)))
			f.rest -= skip
			p = p[skip:]
			continue
		}
		n := copy(f.head[f.n:want], p)
		f.n += n
		p = p[n:]
		if f.n == want {
			f.n = 0
			if err := fn(f.head[:want]); err != nil {
				return err
			}
			f.rest = max(0, int64(binary.BigEndian.Uint32(f.head[:]))+4-int64(want))
		}
	}
	return nil
}
