package registry

import (
	"bytes"
	"context"
	"errors"
	"io"
	"log/slog"
	"mime"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"
)

// ServerConfig says how the REST API is served.
type ServerConfig struct {
	// MaxBodyBytes bounds a request's body. Default 1 MiB: about what a topic takes as one record.
	MaxBodyBytes int64
	// WriteTimeout bounds one registration, configuration or deletion. Default 30 s; what takes longer is answered
	// with 50002 and may still take effect. The time-outs of reading and writing a connection are the http.Server's.
	WriteTimeout time.Duration
	// Users are those who may do more than anyone. With a Writer among them, writes are asked for one.
	Users []User
	// Closed asks for one of Users before a read, too. Otherwise reads are open: most consumers have no password for
	// schemas.
	Closed bool
	// ReadOnly refuses every write and says why; "" allows them. For a server that others can reach and that asks for
	// no password.
	ReadOnly string
	// ClusterID is Kafka's cluster id for /v1/metadata/id; may be empty.
	ClusterID string
	// Version is ours for /v1/metadata/version.
	Version string
	// Logger gets refused and failed writes; nil discards them.
	Logger *slog.Logger
}

// AnonymousWritesRefused is the text for ServerConfig.ReadOnly where the address is not loopback and no user is
// configured.
const AnonymousWritesRefused = "writes are refused, because this registry can be reached from other machines and asks for no password: " +
	"set registry.auth.user and registry.auth.password_file, or registry.allow_anonymous_writes: true"

// Server serves a store.
type Server struct {
	store *Store
	cfg   ServerConfig
}

// NewServer makes a handler of the whole API at "/".
func NewServer(store *Store, cfg ServerConfig) *Server {
	if cfg.MaxBodyBytes <= 0 {
		cfg.MaxBodyBytes = 1 << 20
	}
	if cfg.WriteTimeout <= 0 {
		cfg.WriteTimeout = 30 * time.Second
	}
	if cfg.Logger == nil {
		cfg.Logger = slog.New(slog.DiscardHandler)
	}
	return &Server{store, cfg}
}

// call is one request on its way: the decoded path and query, and the body where there is one.
type call struct {
	*Server
	r     *http.Request
	query url.Values
	arg   []string // decoded variable segments of the path, in order
	body  *node
	raw   []byte // the body as it came
}

// ServeHTTP answers one request. Every answer is JSON, errors as {"error_code":…,"message":…}. Reads never wait.
func (s *Server) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	media, ok := accepted(r.Header.Values("Accept"))
	if !ok {
		respond(w, mediaTypes[0], &Error{406, "HTTP 406 Not Acceptable"})
		return
	}
	if s.forOther(r) {
		respond(w, media, notWriter())
		return
	}
	if of := r.Header.Get(instanceHeader); of != "" {
		w.Header().Set(instanceHeader, of)
		if r.Method == http.MethodGet && r.URL.Path == "/" {
			respond(w, media, object{}) // whether we are there: nobody has to have a right for that
			return
		}
	}
	answer, err := s.serve(r)
	if r.Header.Get(instanceHeader) != "" {
		w.Header().Set(offsetHeader, strconv.FormatInt(s.store.applied(), 10))
	}
	if err == nil {
		respond(w, media, answer)
		return
	}
	e := asError(err)
	if e.Code == 401 {
		w.Header().Add("WWW-Authenticate", `Basic realm="schema registry", charset="UTF-8"`)
		w.Header().Add("WWW-Authenticate", `Bearer realm="schema registry"`)
	}
	if e.Status() >= 500 {
		s.cfg.Logger.Error("schema registry", "method", r.Method, "path", r.URL.EscapedPath(), "error", err)
	}
	respond(w, media, e)
}

func (s *Server) serve(r *http.Request) (any, error) {
	segments, err := split(r.URL.EscapedPath())
	if err != nil {
		return nil, &Error{400, "HTTP 400 Bad Request: " + err.Error()}
	}
	query, err := url.ParseQuery(r.URL.RawQuery)
	if err != nil {
		return nil, &Error{400, "HTTP 400 Bad Request: the query cannot be read"}
	}
	segments = inPath(segments, query)
	s.store.alias(segments, query)
	rt, args, known := find(r.Method, segments)
	switch {
	case rt == nil && known:
		return nil, &Error{405, "HTTP 405 Method Not Allowed"}
	case rt == nil:
		return nil, &Error{404, "HTTP 404 Not Found"}
	}
	c := &call{Server: s, r: r, query: query, arg: args}
	if err := s.authorize(r, rt.write); err != nil {
		return nil, err
	}
	if rt.write {
		ctx, cancel := context.WithTimeout(r.Context(), s.cfg.WriteTimeout)
		defer cancel()
		c.r = r.WithContext(ctx)
	}
	if (r.Method == http.MethodPost || r.Method == http.MethodPut) && rt.path != "" {
		if c.raw, c.body, err = s.readBody(r); err != nil {
			return nil, err
		}
	}
	if !rt.write && !s.store.Ready() && rt.path != "" {
		// The log has not been read: an empty answer would be a wrong one.
		return nil, &Error{50301, "the registry is still reading its topic"}
	}
	if rt.write {
		return s.write(c, rt)
	}
	return rt.fn(c)
}

// readBody reads a JSON object. An empty body and null are 422 as in Confluent's (a validation error), anything that
// is not JSON 400.
func (s *Server) readBody(r *http.Request) (text []byte, n *node, err error) {
	if ct := r.Header.Get("Content-Type"); ct != "" {
		media, _, err := mime.ParseMediaType(ct)
		if err != nil || !slices.Contains(mediaTypes, media) && media != "application/octet-stream" {
			return nil, nil, &Error{415, "HTTP 415 Unsupported Media Type"}
		}
	}
	text, err = io.ReadAll(http.MaxBytesReader(nil, r.Body, s.cfg.MaxBodyBytes))
	var large *http.MaxBytesError
	switch {
	case errors.As(err, &large):
		return nil, nil, errorf(413, "the body is larger than %d bytes", large.Limit)
	case err != nil:
		return nil, nil, &Error{400, "the body cannot be read"}
	case len(bytes.TrimSpace(text)) == 0:
		return nil, nil, &Error{422, "the body may not be null"}
	}
	n, err = parseJSON(string(text))
	switch {
	case err != nil:
		return nil, nil, errorf(400, "the body cannot be read: %v", err)
	case n.kind == nullNode:
		return nil, nil, &Error{422, "the body may not be null"}
	case n.kind != objectNode:
		return nil, nil, &Error{400, "the body is not a JSON object"}
	}
	return text, n, nil
}

// flag reads a boolean parameter as JAX-RS does: "true" in any case, everything else is false.
func (c *call) flag(name string) bool { return strings.EqualFold(c.query.Get(name), "true") }
