package registry

import (
	"bytes"
	"context"
	"crypto/sha256"
	"crypto/subtle"
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
	// User and Password, when User is not empty, are asked for (HTTP basic authentication) before a write. Reads are
	// open: consumers have no password for schemas.
	User, Password string
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

// Media types of the API, best first (Versions.java).
var mediaTypes = []string{"application/vnd.schemaregistry.v1+json", "application/vnd.schemaregistry+json", "application/json"}

// call is one request on its way: the decoded path and query, and the body where there is one.
type call struct {
	*Server
	r     *http.Request
	query url.Values
	arg   []string // decoded variable segments of the path, in order
	body  *node
}

// route is one line of the API. Segments "*" are variable.
type route struct {
	method string
	path   string
	write  bool
	fn     func(*call) (any, error)
}

var routes = []route{
	{"GET", "", false, func(*call) (any, error) { return object{}, nil }},
	{"POST", "", false, func(*call) (any, error) { return object{}, nil }},
	{"GET", "subjects", false, (*call).listSubjects},
	{"POST", "subjects/*", false, (*call).lookup},
	{"DELETE", "subjects/*", true, (*call).deleteSubject},
	{"GET", "subjects/*/metadata", false, (*call).latestWithMetadata},
	{"GET", "subjects/*/versions", false, (*call).listVersions},
	{"POST", "subjects/*/versions", true, (*call).register},
	{"GET", "subjects/*/versions/*", false, (*call).version},
	{"DELETE", "subjects/*/versions/*", true, (*call).deleteVersion},
	{"GET", "subjects/*/versions/*/schema", false, (*call).versionText},
	{"GET", "subjects/*/versions/*/referencedby", false, (*call).referencedBy},
	{"GET", "schemas", false, (*call).listSchemas},
	{"GET", "schemas/types", false, func(*call) (any, error) { return []any{TypeAvro}, nil }},
	{"GET", "schemas/ids/*", false, (*call).schemaByID},
	{"GET", "schemas/ids/*/schema", false, (*call).textByID},
	{"GET", "schemas/ids/*/subjects", false, (*call).subjectsOfID},
	{"GET", "schemas/ids/*/versions", false, (*call).versionsOfID},
	{"GET", "schemas/guids/*", false, (*call).schemaByGUID},
	{"POST", "compatibility/subjects/*/versions", false, (*call).compatibility},
	{"POST", "compatibility/subjects/*/versions/*", false, (*call).compatibility},
	{"GET", "config", false, (*call).config},
	{"PUT", "config", true, (*call).setConfig},
	{"DELETE", "config", true, (*call).deleteConfig},
	{"GET", "config/*", false, (*call).config},
	{"PUT", "config/*", true, (*call).setConfig},
	{"DELETE", "config/*", true, (*call).deleteConfig},
	{"GET", "mode", false, (*call).mode},
	{"PUT", "mode", true, (*call).setMode},
	{"DELETE", "mode", true, (*call).setMode},
	{"GET", "mode/*", false, (*call).mode},
	{"PUT", "mode/*", true, (*call).setMode},
	{"DELETE", "mode/*", true, (*call).setMode},
	{"GET", "contexts", false, (*call).contexts},
	{"GET", "v1/metadata/id", false, (*call).clusterID},
	{"GET", "v1/metadata/version", false, (*call).serverVersion},
}

// object is a JSON object under construction: names and values in turn.
type object []any

// ServeHTTP answers one request. Every answer is JSON, errors as {"error_code":…,"message":…}. Reads never wait.
func (s *Server) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	media, ok := accepted(r.Header.Values("Accept"))
	if !ok {
		respond(w, mediaTypes[0], &Error{406, "HTTP 406 Not Acceptable"})
		return
	}
	answer, err := s.serve(r)
	if err == nil {
		respond(w, media, answer)
		return
	}
	e := asError(err)
	if e.Code == 401 {
		w.Header().Set("WWW-Authenticate", `Basic realm="schema registry", charset="UTF-8"`)
	}
	if e.Status() >= 500 {
		s.cfg.Logger.Error("schema registry", "method", r.Method, "path", r.URL.EscapedPath(), "error", err)
	}
	respond(w, media, e)
}

// asError gives every error of the store a code.
func asError(err error) *Error {
	var e *Error
	var i *IncompatibleError
	switch {
	case errors.As(err, &i):
		return &Error{CodeIncompatible, i.Error()}
	case errors.As(err, &e):
		return e
	}
	return errorf(CodeStore, "Error in the backend data store: %v", err)
}

func (s *Server) serve(r *http.Request) (any, error) {
	segments, err := split(r.URL.EscapedPath())
	if err != nil {
		return nil, &Error{400, "HTTP 400 Bad Request: " + err.Error()}
	}
	rt, args, known := find(r.Method, segments)
	switch {
	case rt == nil && known:
		return nil, &Error{405, "HTTP 405 Method Not Allowed"}
	case rt == nil:
		return nil, &Error{404, "HTTP 404 Not Found"}
	}
	c := &call{Server: s, r: r, arg: args}
	if c.query, err = url.ParseQuery(r.URL.RawQuery); err != nil {
		return nil, &Error{400, "HTTP 400 Bad Request: the query cannot be read"}
	}
	if rt.write {
		if err := s.authorize(r); err != nil {
			return nil, err
		}
		ctx, cancel := context.WithTimeout(r.Context(), s.cfg.WriteTimeout)
		defer cancel()
		c.r = r.WithContext(ctx)
	}
	if (r.Method == http.MethodPost || r.Method == http.MethodPut) && rt.path != "" {
		if c.body, err = s.readBody(r); err != nil {
			return nil, err
		}
	}
	if !rt.write && !s.store.Ready() && rt.path != "" {
		// The log has not been read: an empty answer would be a wrong one.
		return nil, &Error{50301, "the registry is still reading its topic"}
	}
	return rt.fn(c)
}

// authorize lets writes through.
func (s *Server) authorize(r *http.Request) error {
	if s.cfg.ReadOnly != "" {
		return &Error{CodeReadOnly, s.cfg.ReadOnly}
	}
	if s.cfg.User == "" {
		return nil
	}
	user, password, ok := r.BasicAuth()
	if ok {
		// Hashed first: the comparison then takes as long for any length.
		u, p := sha256.Sum256([]byte(user)), sha256.Sum256([]byte(password))
		wantU, wantP := sha256.Sum256([]byte(s.cfg.User)), sha256.Sum256([]byte(s.cfg.Password))
		if subtle.ConstantTimeCompare(u[:], wantU[:])&subtle.ConstantTimeCompare(p[:], wantP[:]) == 1 {
			return nil
		}
	}
	return &Error{401, "HTTP 401 Unauthorized: writes need the user and password of registry.auth"}
}

// readBody reads a JSON object. An empty body and null are 422 as in Confluent's (a validation error), anything that
// is not JSON 400.
func (s *Server) readBody(r *http.Request) (*node, error) {
	if ct := r.Header.Get("Content-Type"); ct != "" {
		media, _, err := mime.ParseMediaType(ct)
		if err != nil || !slices.Contains(mediaTypes, media) && media != "application/octet-stream" {
			return nil, &Error{415, "HTTP 415 Unsupported Media Type"}
		}
	}
	text, err := io.ReadAll(http.MaxBytesReader(nil, r.Body, s.cfg.MaxBodyBytes))
	var large *http.MaxBytesError
	switch {
	case errors.As(err, &large):
		return nil, errorf(413, "the body is larger than %d bytes", large.Limit)
	case err != nil:
		return nil, &Error{400, "the body cannot be read"}
	case len(bytes.TrimSpace(text)) == 0:
		return nil, &Error{422, "the body may not be null"}
	}
	n, err := parseJSON(string(text))
	switch {
	case err != nil:
		return nil, errorf(400, "the body cannot be read: %v", err)
	case n.kind == nullNode:
		return nil, &Error{422, "the body may not be null"}
	case n.kind != objectNode:
		return nil, &Error{400, "the body is not a JSON object"}
	}
	return n, nil
}

// split takes a path apart before it decodes it: a subject may hold an escaped slash.
func split(path string) ([]string, error) {
	path = strings.Trim(path, "/")
	if path == "" {
		return nil, nil
	}
	segments := strings.Split(path, "/")
	for i, s := range segments {
		var err error
		if segments[i], err = url.PathUnescape(s); err != nil {
			return nil, errors.New("the path cannot be read")
		}
	}
	return segments, nil
}

// find returns the route and its arguments; known says that the path exists with another method.
func find(method string, segments []string) (rt *route, args []string, known bool) {
	if method == http.MethodHead {
		method = http.MethodGet
	}
	for i := range routes {
		var pattern []string
		if routes[i].path != "" {
			pattern = strings.Split(routes[i].path, "/")
		}
		if len(pattern) != len(segments) {
			continue
		}
		var got []string
		match := true
		for k, p := range pattern {
			switch {
			case p == "*":
				got = append(got, segments[k])
			case p != segments[k]:
				match = false
			}
		}
		if !match {
			continue
		}
		known = true
		if routes[i].method == method {
			return &routes[i], got, true
		}
	}
	return nil, nil, known
}

// accepted chooses the media type of the answer. Qualities are not weighed, beyond 0.
func accepted(headers []string) (string, bool) {
	list := strings.Split(strings.Join(headers, ","), ",")
	for _, media := range mediaTypes {
		for _, a := range list {
			name, params, err := mime.ParseMediaType(a)
			if strings.TrimSpace(a) == "" && len(list) == 1 {
				return mediaTypes[0], true
			}
			if q, qerr := strconv.ParseFloat(params["q"], 64); err != nil || qerr == nil && q == 0 {
				continue
			}
			if name == "*/*" || name == "application/*" || name == media {
				return media, true
			}
		}
	}
	return "", false
}

func respond(w http.ResponseWriter, media string, answer any) {
	status := http.StatusOK
	if e, ok := answer.(*Error); ok {
		status = e.Status()
		answer = object{"error_code", e.Code, "message", e.Message}
	}
	var b bytes.Buffer
	if text, ok := answer.(rawText); ok {
		b.WriteString(string(text))
	} else {
		appendAny(&b, answer)
	}
	w.Header().Set("Content-Type", media)
	w.Header().Set("X-Content-Type-Options", "nosniff")
	w.WriteHeader(status)
	_, _ = w.Write(b.Bytes()) // the client is gone: nobody to tell
}

// rawText is an answer that is JSON already.
type rawText string

// appendAny writes what the calls answer. encoding/json is not used because it escapes what Jackson does not.
func appendAny(b *bytes.Buffer, v any) {
	switch v := v.(type) {
	case object:
		b.WriteByte('{')
		for i := 0; i+1 < len(v); i += 2 {
			if i > 0 {
				b.WriteByte(',')
			}
			appendString(b, v[i].(string))
			b.WriteByte(':')
			appendAny(b, v[i+1])
		}
		b.WriteByte('}')
	case []any:
		b.WriteByte('[')
		for i, item := range v {
			if i > 0 {
				b.WriteByte(',')
			}
			appendAny(b, item)
		}
		b.WriteByte(']')
	case *node:
		v.appendTo(b)
	case string:
		appendString(b, strings.ToValidUTF8(v, "\uFFFD"))
	case int:
		b.WriteString(strconv.Itoa(v))
	case int32:
		b.WriteString(strconv.Itoa(int(v)))
	case bool:
		b.WriteString(strconv.FormatBool(v))
	}
}

// flag reads a boolean parameter as JAX-RS does: "true" in any case, everything else is false.
func (c *call) flag(name string) bool { return strings.EqualFold(c.query.Get(name), "true") }

// page cuts a list by offset and limit.
func page[T any](c *call, list []T) ([]T, error) {
	offset, limit := 0, -1
	for name, v := range map[string]*int{"offset": &offset, "limit": &limit} {
		if text := c.query.Get(name); text != "" {
			n, err := strconv.ParseInt(text, 10, 32)
			if err != nil {
				return nil, &Error{404, "HTTP 404 Not Found"} // what JAX-RS makes of a parameter that is no number
			}
			*v = int(n)
		}
	}
	list = list[min(max(offset, 0), len(list)):]
	if limit >= 0 {
		list = list[:min(limit, len(list))]
	}
	return list, nil
}

func anySlice[T any](list []T, err error) (any, error) {
	out := make([]any, len(list))
	for i, v := range list {
		out[i] = v
	}
	return out, err
}

func (c *call) listSubjects() (any, error) {
	prefix := ":*:"
	if c.query.Has("subjectPrefix") {
		prefix = c.query.Get("subjectPrefix")
	}
	list := []string{}
	for _, s := range c.store.Subjects(prefix) {
		switch {
		case c.flag("deletedOnly") && s.Live > 0:
		case s.Live == 0 && !c.flag("deleted") && !c.flag("deletedOnly"):
		default:
			list = append(list, s.Name)
		}
	}
	return anySlice(page(c, list))
}

func (c *call) listVersions() (any, error) {
	deleted, only, negative := c.flag("deleted"), c.flag("deletedOnly"), c.flag("deletedAsNegative")
	list := []int{}
	live := false
	all := c.store.Versions(c.arg[0])
	for _, v := range all {
		live = live || !v.Deleted
		switch {
		case negative && v.Deleted:
			list = append(list, -v.Version)
		case negative, only && v.Deleted, !only && (deleted || !v.Deleted):
			list = append(list, v.Version)
		}
	}
	if len(all) == 0 || !live && !deleted && !only {
		return nil, subjectNotFound(c.arg[0])
	}
	return anySlice(page(c, list))
}

// request reads the body of a registration, a lookup or a check (RegisterSchemaRequest).
func (c *call) request() (Request, error) {
	req := Request{Normalize: c.flag("normalize"), Force: c.flag("force")}
	bad := func(field string) (Request, error) {
		return Request{}, errorf(400, "the body cannot be read: %s has the wrong type", field)
	}
	for i, k := range c.body.keys {
		m := c.body.list[i]
		if m.kind == nullNode {
			continue
		}
		switch k {
		case "schema", "schemaType":
			if m.kind != stringNode {
				return bad(k)
			}
			if k == "schema" {
				req.Schema = m.text
			} else {
				req.Type = m.text
			}
		case "version", "id":
			n, ok := c.body.integer(k)
			if !ok {
				return bad(k)
			}
			if k == "id" {
				req.ID = n
			} else {
				req.Version = int(n)
			}
		case "references":
			var err error
			if req.References, err = parseReferences(m); err != nil {
				return bad(k)
			}
		case "metadata":
			if !metadataShape(m) {
				return bad(k)
			}
			req.metadata = m
		case "ruleSet":
			if m.kind != objectNode {
				return bad(k)
			}
			req.ruleSet = m
		}
	}
	return req, nil
}

// metadataShape checks {"tags":{name:[text]},"properties":{name:text},"sensitive":[text]}.
func metadataShape(m *node) bool {
	texts := func(n *node) bool {
		return n.kind == arrayNode && !slices.ContainsFunc(n.list, func(t *node) bool { return t.kind != stringNode })
	}
	if m.kind != objectNode {
		return false
	}
	for i, k := range m.keys {
		v := m.list[i]
		switch {
		case v.kind == nullNode:
		case k == "tags" && (v.kind != objectNode || slices.ContainsFunc(v.list, func(t *node) bool { return !texts(t) })):
			return false
		case k == "properties" && (v.kind != objectNode || slices.ContainsFunc(v.list, func(t *node) bool { return t.kind != stringNode })):
			return false
		case k == "sensitive" && !texts(v):
			return false
		}
	}
	return true
}

func (r Registered) object() object {
	o := object{"subject", r.Subject, "version", r.Version, "id", r.ID, "guid", r.GUID, "schemaType", r.Type}
	return append(append(o, r.extras()...), "schema", r.Schema)
}

// byID leaves the id out: the caller has it.
func (r Registered) byID() object {
	o := object{"subject", r.Subject, "version", r.Version, "guid", r.GUID, "schemaType", r.Type, "schema", r.Schema}
	return append(o, r.extras()...)
}

func (r Registered) extras() object {
	var o object
	if len(r.References) > 0 {
		refs := make([]any, len(r.References))
		for i, ref := range r.References {
			refs[i] = object{"name", ref.Name, "subject", ref.Subject, "version", ref.Version}
		}
		o = append(o, "references", refs)
	}
	if r.metadata != nil {
		o = append(o, "metadata", r.metadata)
	}
	if r.ruleSet != nil {
		o = append(o, "ruleSet", r.ruleSet)
	}
	return o
}

func (c *call) register() (any, error) {
	req, err := c.request()
	if err != nil {
		return nil, err
	}
	r, err := c.store.Register(c.r.Context(), c.arg[0], req)
	if err != nil {
		return nil, err
	}
	o := object{"id", r.ID, "version", r.Version, "guid", r.GUID, "schemaType", r.Type}
	return append(append(o, r.extras()...), "schema", r.Schema), nil
}

func (c *call) lookup() (any, error) {
	req, err := c.request()
	if err != nil {
		return nil, err
	}
	r, err := c.store.Lookup(c.arg[0], req, c.flag("deleted"))
	if err != nil {
		return nil, err
	}
	return r.object(), nil
}

func (c *call) version() (any, error) {
	r, err := c.store.Version(c.arg[0], c.arg[1], c.flag("deleted"))
	if err != nil {
		return nil, err
	}
	if r.Schema, err = c.format(r); err != nil {
		return nil, err
	}
	return r.object(), nil
}

func (c *call) versionText() (any, error) {
	r, err := c.store.Version(c.arg[0], c.arg[1], c.flag("deleted"))
	if err != nil {
		return nil, err
	}
	text, err := c.format(r)
	return rawText(text), err
}

// format writes references into an Avro schema for ?format=resolved.
func (c *call) format(r Registered) (string, error) {
	if !strings.EqualFold(c.query.Get("format"), "resolved") || len(r.References) == 0 || r.Type != TypeAvro {
		return r.Schema, nil
	}
	return c.store.resolved(r)
}

func (s *Store) resolved(r Registered) (string, error) {
	s.mu.RLock()
	defer s.mu.RUnlock()
	refs, err := s.state.resolve(r.Subject, r.References)
	if err != nil {
		return "", invalidSchema(err)
	}
	schema, err := parseStored(r.Schema, refs)
	if err != nil {
		return "", invalidSchema(err)
	}
	return schema.written().render(), nil
}

func (c *call) referencedBy() (any, error) {
	ids, err := c.store.Referrers(c.arg[0], c.arg[1], c.flag("deleted"))
	if err != nil {
		return nil, err
	}
	return anySlice(page(c, ids))
}

func (c *call) latestWithMetadata() (any, error) {
	keys, values := c.query["key"], c.query["value"]
	live := false
	for _, r := range slices.Backward(c.store.Versions(c.arg[0])) {
		if r.Deleted && !c.flag("deleted") {
			continue
		}
		live = true
		props := r.metadata.member("properties")
		match := props != nil
		for i := range min(len(keys), len(values)) {
			v, ok := props.str(keys[i])
			match = match && ok && v == values[i]
		}
		if match {
			return r.object(), nil
		}
	}
	if !live {
		return nil, subjectNotFound(c.arg[0])
	}
	return nil, schemaNotFound()
}

func (c *call) deleteVersion() (any, error) {
	return c.store.DeleteVersion(c.r.Context(), c.arg[0], c.arg[1], c.flag("permanent"))
}

func (c *call) deleteSubject() (any, error) {
	return anySlice(c.store.DeleteSubject(c.r.Context(), c.arg[0], c.flag("permanent")))
}

func (c *call) listSchemas() (any, error) {
	var list []Registered
	all := c.store.Schemas(c.query.Get("subjectPrefix"))
	for i, r := range all {
		if r.Deleted && !c.flag("deleted") {
			continue
		}
		if c.flag("latestOnly") {
			newer := func(o Registered) bool { return o.Subject == r.Subject && (c.flag("deleted") || !o.Deleted) }
			if slices.ContainsFunc(all[i+1:], newer) {
				continue
			}
		}
		list = append(list, r)
	}
	list, err := page(c, list)
	out := make([]any, len(list))
	for i, r := range list {
		out[i] = r.object()
	}
	return out, err
}

// id reads the id of a path. What is no number is no path of the API.
func (c *call) id() (int32, error) {
	n, err := strconv.ParseInt(c.arg[0], 10, 32)
	if err != nil {
		return 0, &Error{404, "HTTP 404 Not Found"}
	}
	return int32(n), nil
}

func (c *call) byID() (Registered, error) {
	id, err := c.id()
	if err != nil {
		return Registered{}, err
	}
	r, err := c.store.ByID(id, c.query.Get("subject"))
	if err != nil {
		return Registered{}, err
	}
	r.Schema, err = c.format(r)
	return r, err
}

func (c *call) schemaByID() (any, error) {
	r, err := c.byID()
	if err != nil {
		return nil, err
	}
	o := r.byID()
	if c.flag("fetchMaxId") {
		o = append(o, "maxId", c.store.MaxID(c.query.Get("subject")))
	}
	return o, nil
}

func (c *call) textByID() (any, error) {
	r, err := c.byID()
	return rawText(r.Schema), err
}

func (c *call) schemaByGUID() (any, error) {
	r, err := c.store.ByGUID(c.arg[0])
	if err != nil {
		return nil, err
	}
	return r.byID(), nil
}

func (c *call) places() ([]Registered, error) {
	id, err := c.id()
	if err != nil {
		return nil, err
	}
	list, err := c.store.Places(id, c.query.Get("subject"), c.flag("deleted"))
	if err != nil {
		return nil, err
	}
	return page(c, list)
}

func (c *call) subjectsOfID() (any, error) {
	list, err := c.places()
	out := make([]any, len(list))
	for i, r := range list {
		out[i] = r.Subject
	}
	return out, err
}

func (c *call) versionsOfID() (any, error) {
	list, err := c.places()
	out := make([]any, len(list))
	for i, r := range list {
		out[i] = object{"subject", r.Subject, "version", r.Version}
	}
	return out, err
}

func (c *call) compatibility() (any, error) {
	req, err := c.request()
	if err != nil {
		return nil, err
	}
	version := ""
	if len(c.arg) == 2 {
		if version = c.arg[1]; version == "" {
			return nil, invalidVersion("")
		}
	}
	found, err := c.store.Compatible(c.arg[0], version, req)
	var e *Error
	if errors.As(err, &e) && e.Code == CodeInvalidSchema && c.flag("verbose") {
		found, err = []string{e.Message}, nil
	}
	if err != nil {
		return nil, err
	}
	o := object{"is_compatible", len(found) == 0}
	if c.flag("verbose") {
		list, _ := anySlice(found, nil)
		o = append(o, "messages", list)
	}
	return o, nil
}

// subject is the variable of /config/* and /mode/*; "" stands for all subjects.
func (c *call) subject() string {
	if len(c.arg) == 0 {
		return ""
	}
	return c.arg[0]
}

func (c *call) config() (any, error) {
	n, ok := c.store.config(c.subject(), c.flag("defaultToGlobal"))
	if !ok {
		return nil, errorf(CodeLevelNotConfigured, "Subject '%s' does not have subject-level compatibility configured", clip(c.subject(), 200))
	}
	return n, nil
}

// configFields are the members of ConfigUpdateRequest with their types; compatibility is stored as compatibilityLevel.
var configFields = map[string][]nodeKind{
	"compatibility":       {stringNode},
	"alias":               {stringNode},
	"aliasForDeks":        {stringNode},
	"normalize":           {trueNode, falseNode},
	"validateFields":      {trueNode, falseNode},
	"validateNewSchemas":  {trueNode, falseNode},
	"validateRules":       {trueNode, falseNode},
	"compatibilityPolicy": {stringNode},
	"compatibilityGroup":  {stringNode},
	"defaultMetadata":     {objectNode},
	"overrideMetadata":    {objectNode},
	"defaultRuleSet":      {objectNode},
	"overrideRuleSet":     {objectNode},
}

func (c *call) setConfig() (any, error) {
	var changes []prop
	var echo object
	for i, k := range c.body.keys {
		kinds, known := configFields[k]
		v := c.body.list[i]
		switch {
		case !known:
			continue
		case v.kind != nullNode && !slices.Contains(kinds, v.kind):
			return nil, errorf(400, "the body cannot be read: %s has the wrong type", k)
		}
		name := k
		if k == "compatibility" {
			name = "compatibilityLevel"
			if v.kind == stringNode {
				level, ok := ParseLevel(v.text)
				if !ok {
					return nil, invalidLevel()
				}
				v = &node{kind: stringNode, text: string(level)}
			}
		}
		changes = append(changes, prop{name, v})
		echo = append(echo, k, v)
	}
	if _, err := c.store.setConfig(c.r.Context(), c.subject(), changes); err != nil {
		return nil, err
	}
	return echo, nil
}

func (c *call) deleteConfig() (any, error) {
	old, ok := c.store.config(c.subject(), false)
	if !ok {
		return nil, subjectNotFound(c.subject())
	}
	return old, c.store.DeleteLevel(c.r.Context(), c.subject())
}

func (c *call) mode() (any, error) {
	mode, own := c.store.Mode(c.subject())
	if !own && c.subject() != "" && !c.flag("defaultToGlobal") {
		return nil, errorf(CodeModeNotConfigured, "Subject '%s' does not have subject-level mode configured", clip(c.subject(), 200))
	}
	return object{"mode", mode}, nil
}

func (c *call) setMode() (any, error) {
	if c.r.Method == http.MethodPut {
		if mode, _ := c.body.str("mode"); !slices.Contains([]string{"READWRITE", "READONLY", "READONLY_OVERRIDE", "IMPORT", "FORWARD"}, strings.ToUpper(mode)) {
			return nil, &Error{CodeInvalidMode, "Invalid mode. Valid values are READWRITE, READONLY, IMPORT and FORWARD."}
		}
	}
	return nil, &Error{CodeNotPermitted, "Mode changes are not allowed"} // as a Confluent registry with mode.mutability=false
}

func (c *call) contexts() (any, error) { return anySlice(page(c, c.store.Contexts())) }

func (c *call) clusterID() (any, error) {
	return object{"id", "", "scope", object{"path", []any{}, "clusters", object{"kafka-cluster", c.cfg.ClusterID, "schema-registry-cluster", "schema-registry"}}}, nil
}

func (c *call) serverVersion() (any, error) {
	return object{"version", "walferry " + c.cfg.Version, "commitId", ""}, nil
}
