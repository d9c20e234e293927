package registry

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"net/url"
	"os"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"
)

// ClientConfig says how to reach a registry: ours, Confluent's, or another one with the same API.
type ClientConfig struct {
	// URL is the registry's address, with a path where the API does not stand at the root
	// ("http://host:8080/apis/ccompat/v7"). Required.
	URL string
	// User and Password are sent as HTTP basic authentication. PasswordFile is read at each request and wins over
	// Password, so that a changed password needs no restart.
	User, Password, PasswordFile string
	// Token is sent as "Authorization: Bearer". TokenFile is read at each request and wins over Token.
	Token, TokenFile string
	// CAFile (PEM) replaces the system's authorities. CertFile and KeyFile (PEM), both or neither, are ours.
	CAFile, CertFile, KeyFile string
	// ServerName replaces the URL's host in the check of its certificate.
	ServerName string
	// InsecureSkipVerify accepts any certificate; for experiments only.
	InsecureSkipVerify bool
	// Timeout bounds one request. Default 10 s.
	Timeout time.Duration
	// Retries is how often a request without a usable answer is repeated, with a growing pause. Default 4, negative
	// none. All requests of this client may be repeated without harm.
	Retries int
	// Handler answers the requests, in this process, instead of what is at URL: a [Server] over a store that is read from
	// its topic, where nothing serves it.
	Handler http.Handler
}

// Client talks to a registry. It keeps what it learned: ids of schemas and schemas of ids do not change. It is safe
// for concurrent use. It is a schema.Registrar and an [API].
type Client struct {
	cfg  ClientConfig
	base *url.URL
	http *http.Client

	to     string       // the store that requests are for, where several work together; "" for any
	offset atomic.Int64 // how far the log was at the newest answer of such a store

	// mu guards the following.
	mu      sync.Mutex
	ids     map[[2]string]int32 // by subject and text
	schemas map[int32]string
}

// maxCached bounds both caches; a client that passes it has seen something else than a database's tables, and starts
// again.
const maxCached = 100_000

// NewClient builds a client; files that cannot be read and settings that do not agree are errors. It connects to nothing.
func NewClient(cfg ClientConfig) (*Client, error) {
	u, err := url.Parse(cfg.URL)
	if err != nil || u.Scheme != "http" && u.Scheme != "https" || u.Host == "" {
		return nil, fmt.Errorf("registry: %q is not an http or https URL", cfg.URL)
	}
	if u.User != nil {
		if cfg.User == "" {
			cfg.User = u.User.Username()
			cfg.Password, _ = u.User.Password()
		}
		u.User = nil // or every error would show it
	}
	if cfg.User != "" && (cfg.Token != "" || cfg.TokenFile != "") {
		return nil, errors.New("registry: both a user and a token are given; one of them authenticates")
	}
	if (cfg.CertFile == "") != (cfg.KeyFile == "") {
		return nil, errors.New("registry: a client certificate needs both cert_file and key_file")
	}
	if cfg.Timeout <= 0 {
		cfg.Timeout = 10 * time.Second
	}
	if cfg.Retries == 0 {
		cfg.Retries = 4
	}
	tlsConfig := &tls.Config{ServerName: cfg.ServerName, InsecureSkipVerify: cfg.InsecureSkipVerify, MinVersion: tls.VersionTLS12}
	if cfg.CAFile != "" {
		pem, err := os.ReadFile(cfg.CAFile)
		if err != nil {
			return nil, fmt.Errorf("registry: read CA file: %w", err)
		}
		tlsConfig.RootCAs = x509.NewCertPool()
		if !tlsConfig.RootCAs.AppendCertsFromPEM(pem) {
			return nil, fmt.Errorf("registry: no certificate in CA file %s", cfg.CAFile)
		}
	}
	if cfg.CertFile != "" {
		if _, err := tls.LoadX509KeyPair(cfg.CertFile, cfg.KeyFile); err != nil {
			return nil, fmt.Errorf("registry: client certificate: %w", err)
		}
		// Read again at each handshake: certificates are renewed while we run.
		tlsConfig.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) {
			cert, err := tls.LoadX509KeyPair(cfg.CertFile, cfg.KeyFile)
			return &cert, err
		}
	}
	transport := http.DefaultTransport.(*http.Transport).Clone()
	transport.TLSClientConfig = tlsConfig
	var way http.RoundTripper = transport
	if cfg.Handler != nil {
		way = local{cfg.Handler}
	}
	return &Client{
		cfg:     cfg,
		base:    u,
		http:    &http.Client{Transport: way, CheckRedirect: sameHost},
		ids:     map[[2]string]int32{},
		schemas: map[int32]string{},
	}, nil
}

// sameHost keeps credentials from following a redirect elsewhere.
func sameHost(r *http.Request, via []*http.Request) error {
	if len(via) > 5 || r.URL.Host != via[0].URL.Host || r.URL.Scheme != via[0].URL.Scheme {
		return fmt.Errorf("redirected to %s://%s: give that as the registry's URL", r.URL.Scheme, r.URL.Host)
	}
	return nil
}

// UnavailableError says that the registry gave no usable answer: it cannot be reached, is overloaded, or has lost its
// own store. Trying again later may help.
type UnavailableError struct {
	URL string // without credentials
	Err error
}

func (e *UnavailableError) Error() string {
	return fmt.Sprintf("schema registry %s gave no usable answer: %v", e.URL, e.Err)
}
func (e *UnavailableError) Unwrap() error { return e.Err }

// Hint is the way on.
func (e *UnavailableError) Hint() string {
	return "start the registry, or check registry.url and the network between; nothing is lost meanwhile"
}

// AuthError says that the registry wants other credentials.
type AuthError struct {
	URL    string
	Status int // 401 or 403
	Detail string
}

func (e *AuthError) Error() string {
	if e.Status == http.StatusForbidden {
		return fmt.Sprintf("schema registry %s forbids this: %s", e.URL, e.Detail)
	}
	return fmt.Sprintf("schema registry %s does not accept our credentials: %s", e.URL, e.Detail)
}

// Hint is the way on.
func (e *AuthError) Hint() string {
	if e.Status == http.StatusForbidden {
		return "give this user the right to read and register schemas, or use another one in registry.auth"
	}
	return "set registry.auth.user and registry.auth.password_file"
}

// Fields names the fields that the registry objects to, as far as they are known.
func (e *IncompatibleError) Fields() []string {
	var list []string
	add := func(f string) {
		if f != "" && !slices.Contains(list, f) {
			list = append(list, f)
		}
	}
	for _, f := range e.Findings {
		for _, l := range f.Leaves() {
			add(l.Field)
		}
	}
	if len(e.Findings) == 0 {
		for _, m := range fieldInText.FindAllStringSubmatch(e.Detail, -1) {
			for part := range strings.SplitSeq(m[1]+m[2], "; ") {
				name, _, _ := strings.Cut(part, ": ")
				add(name)
			}
		}
	}
	return list
}

// fieldInText finds names in the messages of Confluent's registry ("The field 'x' at path …") and of ours (field:'x').
var fieldInText = regexp.MustCompile(`[Tt]he field '([^']+)'|field:'([^']+)'`)

// do sends a request until it is answered or there is no more trying. body may be nil. It returns the answer's JSON.
func (c *Client) do(ctx context.Context, method string, segments []string, query url.Values, body *node) (*node, error) {
	var text []byte
	if body != nil {
		text = body.bytes()
	}
	for attempt := 0; ; attempt++ {
		answer, err := c.once(ctx, method, segments, query, text)
		var unavailable *UnavailableError
		if err == nil || !errors.As(err, &unavailable) || attempt >= c.cfg.Retries || ctx.Err() != nil {
			return answer, err
		}
		// Exponential with full jitter: 0.1 s, 0.2 s … at most 5 s.
		pause := time.NewTimer(rand.N(min(100*time.Millisecond<<min(attempt, 10), 5*time.Second)) + time.Millisecond)
		select {
		case <-pause.C:
		case <-ctx.Done():
			pause.Stop()
			return nil, err
		}
	}
}

// maxAnswer bounds what a registry may make us read.
const maxAnswer = 16 << 20

func (c *Client) once(ctx context.Context, method string, segments []string, query url.Values, body []byte) (*node, error) {
	ctx, cancel := context.WithTimeout(ctx, c.cfg.Timeout)
	defer cancel()
	u := *c.base
	path := strings.TrimRight(u.EscapedPath(), "/")
	for _, s := range segments {
		path += "/" + url.PathEscape(s)
	}
	var err error
	if u.Path, err = url.PathUnescape(path); err != nil {
		return nil, fmt.Errorf("registry: path %q: %w", path, err)
	}
	u.RawPath, u.RawQuery = path, query.Encode()
	req, err := http.NewRequestWithContext(ctx, method, u.String(), bytes.NewReader(body))
	if err != nil {
		return nil, fmt.Errorf("registry: %w", err)
	}
	if err := c.authenticate(req); err != nil {
		return nil, err
	}
	req.Header.Set("Accept", strings.Join(mediaTypes, ", "))
	if body != nil {
		req.Header.Set("Content-Type", mediaTypes[0])
	}
	res, text, err := c.send(req)
	if err != nil {
		return nil, err
	}
	return c.judge(res.StatusCode, text)
}

// send sends a request and reads its answer. The answer's body is closed.
func (c *Client) send(req *http.Request) (*http.Response, []byte, error) {
	if c.to != "" {
		req.Header.Set(instanceHeader, c.to)
	}
	res, err := c.http.Do(req)
	if err != nil {
		return nil, nil, &UnavailableError{c.base.Redacted(), err}
	}
	defer func() { _ = res.Body.Close() }() // read to its end or given up; nothing is written to it
	text, err := io.ReadAll(io.LimitReader(res.Body, maxAnswer+1))
	if err != nil {
		return nil, nil, &UnavailableError{c.base.Redacted(), err}
	}
	if len(text) > maxAnswer {
		return nil, nil, &UnavailableError{c.base.Redacted(), fmt.Errorf("the answer is larger than %d bytes", maxAnswer)}
	}
	c.noteOffset(res.Header)
	return res, text, nil
}

func (c *Client) authenticate(req *http.Request) error {
	secret := func(value, file string) (string, error) {
		if file == "" {
			return value, nil
		}
		b, err := os.ReadFile(file)
		if err != nil {
			return "", fmt.Errorf("registry: read secret: %w", err)
		}
		return strings.TrimRight(string(b), "\r\n"), nil
	}
	if c.cfg.User != "" {
		password, err := secret(c.cfg.Password, c.cfg.PasswordFile)
		if err != nil {
			return err
		}
		req.SetBasicAuth(c.cfg.User, password)
		return nil
	}
	token, err := secret(c.cfg.Token, c.cfg.TokenFile)
	if err == nil && token != "" {
		req.Header.Set("Authorization", "Bearer "+token)
	}
	return err
}

// judge sorts answers. What is not JSON comes from something else than a registry: a proxy, or a wrong URL.
func (c *Client) judge(status int, text []byte) (*node, error) {
	n, err := parseJSON(string(text))
	if status >= 200 && status < 300 {
		if len(text) == 0 {
			return &node{kind: nullNode}, nil
		}
		if err != nil {
			return nil, &UnavailableError{c.base.Redacted(), fmt.Errorf("the answer is not JSON: is %s a schema registry?", c.base.Redacted())}
		}
		return n, nil
	}
	e := &Error{Code: status, Message: fmt.Sprintf("HTTP %d %s", status, http.StatusText(status))}
	if err == nil {
		if code, ok := n.integer("error_code"); ok && code > 0 {
			e.Code = int(code)
		}
		if message, ok := n.str("message"); ok && message != "" {
			e.Message = clip(message, 64<<10)
		}
	}
	switch {
	case status == http.StatusUnauthorized || status == http.StatusForbidden:
		return nil, &AuthError{c.base.Redacted(), status, e.Message}
	case status >= 500 || status == http.StatusTooManyRequests || status == http.StatusRequestTimeout:
		return nil, &UnavailableError{c.base.Redacted(), e}
	case status == http.StatusNotFound && (err != nil || n.member("error_code") == nil):
		return nil, &UnavailableError{c.base.Redacted(), fmt.Errorf("%s, without a registry's error code: is this URL a schema registry's?", e.Message)}
	}
	return nil, e
}

// Register registers an Avro schema and returns its id: at once and without asking when this client has seen it
// before. *IncompatibleError when it may not follow the versions there are.
func (c *Client) Register(ctx context.Context, subject, avro string) (int32, error) {
	return c.RegisterSchema(ctx, subject, avro, false)
}

// RegisterSchema is Register; with force it asks for an incompatible schema as well. A registry that does not know
// ?force=true (Confluent's before 8) still answers with *IncompatibleError then: [Registrar.Force] knows the way on.
func (c *Client) RegisterSchema(ctx context.Context, subject, avro string, force bool) (int32, error) {
	c.mu.Lock()
	id, ok := c.ids[[2]string{subject, avro}]
	c.mu.Unlock()
	if ok {
		return id, nil
	}
	query := url.Values{}
	if force {
		query.Set("force", "true")
	}
	id, err := c.register(ctx, subject, avro, query)
	if err != nil {
		return 0, err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if len(c.ids) >= maxCached {
		clear(c.ids)
	}
	c.ids[[2]string{subject, avro}] = id
	return id, nil
}

func (c *Client) register(ctx context.Context, subject, avro string, query url.Values) (int32, error) {
	body := &node{kind: objectNode}
	body.set("schema", &node{kind: stringNode, text: avro})
	n, err := c.do(ctx, http.MethodPost, []string{"subjects", subject, "versions"}, query, body)
	var e *Error
	if errors.As(err, &e) && e.Status() == http.StatusConflict {
		return 0, &IncompatibleError{Subject: subject, Detail: e.Message}
	}
	if err != nil {
		return 0, err
	}
	id, ok := n.integer("id")
	if !ok || id <= 0 {
		return 0, &UnavailableError{c.base.Redacted(), errors.New("the answer to a registration has no id")}
	}
	return id, nil
}

// Lookup returns id and version of a schema that is registered under a subject; *Error with 40401 or 40403 if it is not.
func (c *Client) Lookup(ctx context.Context, subject, avro string) (id int32, version int, err error) {
	body := &node{kind: objectNode}
	body.set("schema", &node{kind: stringNode, text: avro})
	n, err := c.do(ctx, http.MethodPost, []string{"subjects", subject}, nil, body)
	if err != nil {
		return 0, 0, err
	}
	id, ok1 := n.integer("id")
	v, ok2 := n.integer("version")
	if !ok1 || !ok2 {
		return 0, 0, &UnavailableError{c.base.Redacted(), errors.New("the answer to a lookup has no id and version")}
	}
	return id, int(v), nil
}

// Schema returns the text of a schema by its id. References are written into it, so that it can be compiled alone.
func (c *Client) Schema(ctx context.Context, id int32) (string, error) {
	c.mu.Lock()
	text, ok := c.schemas[id]
	c.mu.Unlock()
	if ok {
		return text, nil
	}
	n, err := c.do(ctx, http.MethodGet, []string{"schemas", "ids", strconv.Itoa(int(id))}, url.Values{"format": {"resolved"}}, nil)
	if err != nil {
		return "", err
	}
	if t, ok := n.str("schemaType"); ok && t != TypeAvro {
		return "", fmt.Errorf("schema %d is of type %s, not AVRO", id, clip(t, 40))
	}
	if text, ok = n.str("schema"); !ok {
		return "", &UnavailableError{c.base.Redacted(), fmt.Errorf("the answer for schema %d has no schema", id)}
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if len(c.schemas) >= maxCached {
		clear(c.schemas)
	}
	c.schemas[id] = text
	return text, nil
}

// Compatible asks whether a schema could be registered now; if not, why, in the registry's words.
func (c *Client) Compatible(ctx context.Context, subject, avro string) (ok bool, why []string, err error) {
	body := &node{kind: objectNode}
	body.set("schema", &node{kind: stringNode, text: avro})
	n, err := c.do(ctx, http.MethodPost, []string{"compatibility", "subjects", subject, "versions"}, url.Values{"verbose": {"true"}}, body)
	if err != nil {
		return false, nil, err
	}
	verdict := n.member("is_compatible")
	if verdict == nil || verdict.kind != trueNode && verdict.kind != falseNode {
		return false, nil, &UnavailableError{c.base.Redacted(), errors.New("the answer to a compatibility check has no verdict")}
	}
	if list := n.member("messages"); list != nil {
		for _, m := range list.list {
			why = append(why, m.text)
		}
	}
	return verdict.kind == trueNode, why, nil
}

// HasSubject tells whether a subject has versions, deleted ones included.
func (c *Client) HasSubject(ctx context.Context, subject string) (bool, error) {
	n, err := c.do(ctx, http.MethodGet, []string{"subjects", subject, "versions"}, url.Values{"deleted": {"true"}}, nil)
	var e *Error
	if errors.As(err, &e) && e.Code == CodeSubjectNotFound {
		return false, nil
	}
	return err == nil && len(n.list) > 0, err
}

// Level returns the compatibility level that counts for a subject, and whether it is its own.
func (c *Client) Level(ctx context.Context, subject string) (level Level, own bool, err error) {
	n, err := c.do(ctx, http.MethodGet, []string{"config", subject}, nil, nil)
	var e *Error
	if own = err == nil; errors.As(err, &e) && e.Status() == http.StatusNotFound {
		n, err = c.do(ctx, http.MethodGet, []string{"config"}, nil, nil)
	}
	if err != nil {
		return "", false, err
	}
	text, _ := n.str("compatibilityLevel")
	level, ok := ParseLevel(text)
	if !ok {
		return "", false, &UnavailableError{c.base.Redacted(), fmt.Errorf("unknown compatibility level %q", clip(text, 40))}
	}
	return level, own, nil
}

// SetLevel sets a subject's own compatibility level.
func (c *Client) SetLevel(ctx context.Context, subject string, level Level) error {
	body := &node{kind: objectNode}
	body.set("compatibility", &node{kind: stringNode, text: string(level)})
	_, err := c.do(ctx, http.MethodPut, []string{"config", subject}, nil, body)
	return err
}

// DeleteLevel takes a subject's own compatibility level away, so that the one of all subjects counts again. It is no error
// when it has none.
func (c *Client) DeleteLevel(ctx context.Context, subject string) error {
	_, err := c.do(ctx, http.MethodDelete, []string{"config", subject}, nil, nil)
	var e *Error
	if errors.As(err, &e) && e.Status() == http.StatusNotFound {
		return nil
	}
	return err
}

// Ping asks the registry for anything, to learn that it is there and lets us read.
func (c *Client) Ping(ctx context.Context) error {
	_, err := c.do(ctx, http.MethodGet, []string{"schemas", "types"}, nil, nil)
	return err
}
