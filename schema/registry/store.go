package registry

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"unicode"
	"unicode/utf8"
)

// Record is a key and a value of the log. A nil Value deletes the key.
type Record struct{ Key, Value []byte }

// Entry is a record as it is read.
type Entry struct {
	Offset     int64
	Key, Value []byte // the callee's to keep; Value is nil when null
	// Aborted: the record's transaction was aborted, or not ended where the replay ended. Confluent's registry, which
	// reads uncommitted, has taken it for true.
	Aborted bool
}

// ErrTooLarge is what Append returns, wrapped or not, when a record is larger than the topic takes. Nothing was written
// then, and the log is still the writer's.
var ErrTooLarge = errors.New("the record is larger than the topic takes")

// Log is the topic as its one writer uses it. No two methods are called at a time.
type Log interface {
	// Start fences every older writer and marks the end of the log with a record of its own. After it has returned,
	// no record of an older session can come to stand behind that mark: none of another process, and none of a
	// transaction of ours whose outcome was unknown.
	Start(ctx context.Context) error
	// Replay calls fn for every record up to the mark that Start made, in order, aborted ones included. An error of
	// fn ends it and is returned.
	Replay(ctx context.Context, fn func(Entry) error) error
	// Append writes the records in one transaction and returns after its commit. After an error their outcome is
	// unknown, until the next Start and Replay show it.
	Append(ctx context.Context, records []Record) error
}

// Follower is what a Log may also be able to do: be read without being written.
type Follower interface {
	// Follow calls fn for every committed record from the start of the log on, and goes on until ctx ends, which it
	// returns. caughtUp is called each time when nothing more is there to read.
	Follow(ctx context.Context, fn func(Entry) error, caughtUp func()) error
}

// Store is the registry: what is registered, in memory, and the way to register more. It is safe for concurrent use.
//
// Reads come from memory and wait for nobody. Writes go one at a time: the log is taken over if it is not ours, the
// write is planned against what stands in it, and what it changes becomes visible after the commit. A store that has
// been fenced by another process does not know it until its next write, and serves what it knows; that write takes the
// log back, reads what the other one wrote, and goes on from there.
type Store struct {
	log    Log
	logger *slog.Logger

	// writer is held by who writes: a semaphore, since a mutex cannot be waited for with a context. Only its holder
	// sets leading: the log is ours as far as we know, and state is all of it.
	writer  chan struct{}
	leading atomic.Bool

	// mu guards the following. It is held for reading and for applying, never over I/O.
	mu    sync.RWMutex
	state *state
	ready bool // the log has been read once
}

// NewStore makes a store over a log. It does nothing before Open or Follow. logger may be nil.
func NewStore(log Log, logger *slog.Logger) *Store {
	if logger == nil {
		logger = slog.New(slog.DiscardHandler)
	}
	s := &Store{log: log, logger: logger, writer: make(chan struct{}, 1), state: newState()}
	return s
}

// Open takes over the log: older writers are fenced, everything is read, and what was aborted is published again.
// Called at the start; a store that was not opened opens itself at its first write.
func (s *Store) Open(ctx context.Context) error {
	return s.write(ctx, func() ([]Record, error) { return nil, nil })
}

// Follow reads the log without writing, until ctx ends. Writes to this store still take the log over.
func (s *Store) Follow(ctx context.Context) error {
	f, ok := s.log.(Follower)
	if !ok {
		return errors.New("this log cannot be followed")
	}
	fresh := newState()
	return f.Follow(ctx, func(e Entry) error {
		s.mu.Lock()
		defer s.mu.Unlock()
		fresh.apply(e.Key, e.Value)
		fresh.newest = e.Offset
		return nil
	}, func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		// While we write ourselves, what we wrote may be further than what we have followed.
		if !s.leading.Load() && fresh.newest >= s.state.newest {
			s.state, s.ready = fresh, true
		}
	})
}

// Ready tells whether the log has been read.
func (s *Store) Ready() bool {
	s.mu.RLock()
	defer s.mu.RUnlock()
	return s.ready
}

// write plans and commits one change. plan is called with the writer held and may read s.state; it is called again
// when the log had to be taken over in between. No records: nothing to do.
func (s *Store) write(ctx context.Context, plan func() ([]Record, error)) error {
	select {
	case s.writer <- struct{}{}:
		defer func() { <-s.writer }()
	case <-ctx.Done():
		return errorf(CodeTimeout, "Timed out waiting for an earlier write: %v", context.Cause(ctx))
	}
	const attempts = 3
	var last error
	for attempt := range attempts {
		if ctx.Err() != nil {
			break
		}
		if !s.leading.Load() {
			if last = s.takeOver(ctx); last != nil {
				s.logger.Warn("take over the registry's log", "attempt", attempt+1, "error", last)
				continue
			}
		}
		records, err := plan()
		if err != nil || len(records) == 0 {
			return err
		}
		if last = s.log.Append(ctx, records); last == nil {
			s.commit(records)
			return nil
		}
		if errors.Is(last, ErrTooLarge) {
			return errorf(CodeSchemaTooLarge, "Register operation failed because schema is too large")
		}
		// Whether it was written is in the log only. The next round reads it; one that finds its records there plans
		// nothing, and one that finds them aborted publishes them again before it plans.
		s.leading.Store(false)
		s.logger.Warn("append to the registry's log", "attempt", attempt+1, "error", last)
	}
	if ctx.Err() != nil {
		return errorf(CodeTimeout, "Timed out, it may still take effect: %v", errors.Join(context.Cause(ctx), last))
	}
	return errorf(CodeStore, "Error in the backend data store, it may still take effect: %v", last)
}

// commit makes committed records visible.
func (s *Store) commit(records []Record) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, r := range records {
		s.state.apply(r.Key, r.Value)
	}
}

// takeOver fences, reads everything, and publishes again what was aborted.
func (s *Store) takeOver(ctx context.Context) error {
	if err := s.log.Start(ctx); err != nil {
		return fmt.Errorf("start: %w", err)
	}
	fresh := newState()
	var lost ghosts
	err := s.log.Replay(ctx, func(e Entry) error {
		fresh.newest = e.Offset
		if e.Aborted {
			lost.add(fresh, e)
			return nil
		}
		lost.settle(e.Key)
		fresh.apply(e.Key, e.Value)
		return nil
	})
	if err != nil {
		return fmt.Errorf("replay: %w", err)
	}
	if records := lost.records(fresh); len(records) > 0 {
		if err := s.log.Append(ctx, records); err != nil {
			return fmt.Errorf("publish %d aborted records again: %w", len(records), err)
		}
		for _, r := range records {
			fresh.apply(r.Key, r.Value)
		}
		s.logger.Info("published aborted registrations again", "records", len(records))
	}
	if fresh.skipped > 0 || fresh.conflict > 0 {
		s.logger.Warn("records in the registry's log that were left alone", "malformed", fresh.skipped, "conflicting_ids", fresh.conflict)
	}
	s.mu.Lock()
	s.state, s.ready = fresh, true
	s.mu.Unlock()
	s.leading.Store(true)
	return nil
}

// ghosts are aborted records after which nothing was committed under the same key: a Confluent registry may have
// acted on them, and only they say that their ids are taken.
type ghosts struct {
	order []string
	last  map[string]Entry
}

func (g *ghosts) add(s *state, e Entry) {
	k, err := parseKey(e.Key)
	if err != nil || k.keytype == keyNoop {
		return
	}
	if k.keytype == keySchema && e.Value != nil {
		if r, err := parseSchemaRecord(e.Value); err == nil {
			s.given(contextOf(k.subject), r.id)
		}
	}
	g.settle(e.Key)
	if g.last == nil {
		g.last = map[string]Entry{}
	}
	g.last[string(e.Key)] = e
	g.order = append(g.order, string(e.Key))
}

func (g *ghosts) settle(key []byte) {
	if _, ok := g.last[string(key)]; ok {
		delete(g.last, string(key))
		g.order = slices.DeleteFunc(g.order, func(k string) bool { return k == string(key) })
	}
}

// records returns what is to be published again. A registration whose id or version has meanwhile been given to
// another schema stays lost: that is how the log was decided, by Confluent's rule as well.
func (g *ghosts) records(s *state) []Record {
	var list []Record
	for _, key := range g.order {
		e := g.last[key]
		k, err := parseKey(e.Key)
		if err != nil {
			continue
		}
		if k.keytype == keySchema {
			sub := s.subjects[k.subject]
			if e.Value == nil {
				if sub == nil || sub.version(k.version) == nil {
					continue
				}
			} else {
				r, err := parseSchemaRecord(e.Value)
				if err != nil {
					continue
				}
				entry := s.context(contextOf(k.subject)).ids[r.id]
				if entry != nil && entry.text != r.text {
					continue
				}
				if sub != nil && sub.version(k.version) != nil && sub.version(k.version).id != r.id {
					continue
				}
			}
		}
		list = append(list, Record{e.Key, e.Value})
	}
	if len(list) > 0 {
		// A deletion must not come true without the record of the highest id that was aborted beside it.
		list = append([]Record{s.highID()}, list...)
	}
	return list
}

// Request is a schema that somebody wants registered, looked up or checked.
type Request struct {
	Schema     string
	Type       string // "" is AVRO
	References []Reference
	Normalize  bool
	Force      bool // register without asking for compatibility
	// Version, when above 0, must be the one that the registration gets.
	Version int
	// ID, when above 0, asks for an id; only a subject in mode IMPORT takes one, which this registry does not do.
	ID int32

	metadata, ruleSet *node
}

// Registered is a schema with its places.
type Registered struct {
	Subject    string
	Version    int
	ID         int32
	GUID       string
	Type       string
	Schema     string
	References []Reference
	Deleted    bool

	metadata, ruleSet *node
}

func registered(v *schemaRecord) Registered {
	return Registered{
		Subject: v.subject, Version: v.version, ID: v.id, GUID: v.guid(), Type: v.typ, Schema: v.text,
		References: v.references, Deleted: v.deleted, metadata: v.metadata, ruleSet: v.ruleSet,
	}
}

// Register registers a schema under a subject and returns its id and version. The same schema again returns what it
// has; the same schema under another subject has the same id. *IncompatibleError, or *Error with Confluent's code.
func (s *Store) Register(ctx context.Context, name string, req Request) (Registered, error) {
	name = plainSubject(name)
	if !validSubject(name) {
		return Registered{}, invalidSubject(name)
	}
	if s.Ready() && req.Version <= 0 && req.ID <= 0 {
		// Most registrations are of schemas that are there: they need no writer.
		if r, err := s.lookup(name, req, false); err == nil {
			return r, nil
		}
	}
	var out Registered
	err := s.write(ctx, func() ([]Record, error) {
		s.mu.RLock()
		defer s.mu.RUnlock()
		r, records, err := s.state.register(name, req)
		out = r
		return records, err
	})
	if err != nil {
		return Registered{}, err
	}
	return out, nil
}

// register plans a registration. No records: it is there.
func (s *state) register(name string, req Request) (Registered, []Record, error) {
	none := func(err error) (Registered, []Record, error) { return Registered{}, nil, err }
	mode := s.mode(name)
	ctxName := contextOf(name)
	switch {
	case strings.HasPrefix(mode, "READONLY"):
		return none(readOnlyMode(name))
	case req.ID > 0:
		return none(errorf(CodeNotPermitted, "Subject %s in context %s is not in import mode", name, contextLabel(ctxName)))
	case mode != "READWRITE":
		return none(errorf(CodeNotPermitted, "Subject %s in context %s is not in read-write mode", name, contextLabel(ctxName)))
	}
	c, schema, err := s.read(name, req, true)
	if err != nil {
		return none(err)
	}
	if req.Version <= 0 {
		if v := s.find(name, c); v != nil && !v.deleted {
			return registered(v), nil, nil
		}
		if v := s.sameMeaning(name, c, schema, false); v != nil {
			return registered(v), nil, nil
		}
	}
	next := 1
	var previous []*schemaRecord
	var buried []*schemaRecord // soft deleted
	if sub := s.subjects[name]; sub != nil {
		for _, v := range sub.versions {
			next = v.version + 1
			if v.deleted {
				buried = append(buried, v)
			} else {
				previous = append(previous, v)
			}
		}
	}
	if req.Version > 0 && req.Version != next {
		return none(errorf(CodeInvalidSchema, "Version is not one more than previous version"))
	}
	if !req.Force {
		if err := s.check(name, c, schema, previous); err != nil {
			return none(err)
		}
	}
	id := s.idOf(name, c)
	if id == 0 {
		last := int32(0)
		if c := s.contexts[ctxName]; c != nil {
			last = c.lastID
		}
		if last == 1<<31-1 {
			return none(errorf(CodeStore, "All ids are given"))
		}
		id = last + 1
	}
	var records []Record
	if ctxName != defaultContext && s.contexts[ctxName] == nil {
		n := &node{kind: objectNode}
		n.set("tenant", &node{kind: stringNode, text: "default"})
		n.set("context", &node{kind: stringNode, text: ctxName})
		records = append(records, Record{recordKey{keytype: keyContext, context: ctxName}.bytes(), n.bytes()})
	}
	for _, v := range buried {
		// One version per subject and id: an older one that was soft deleted goes (KafkaSchemaRegistry.register).
		if v.id == id && len(s.referrers(name, v.version, true)) == 0 {
			records = append(records, Record{recordKey{keytype: keySchema, subject: name, version: v.version}.bytes(), nil})
		}
	}
	r := schemaRecord{subject: name, version: next, id: id, content: c}
	records = append(records, Record{recordKey{keytype: keySchema, subject: name, version: next}.bytes(), r.bytes()})
	return registered(&r), records, nil
}

func contextLabel(context string) string {
	if context == defaultContext {
		return ""
	}
	return ":" + context + ":"
}

func readOnlyMode(name string) *Error {
	return errorf(CodeNotPermitted, "Subject %s in context %s is in read-only mode", name, contextLabel(contextOf(name)))
}

// read parses and writes down a request's schema. schema is nil for types that are only looked up.
func (s *state) read(name string, req Request, strict bool) (*content, *Schema, error) {
	if strings.TrimSpace(req.Schema) == "" {
		return nil, nil, errorf(CodeInvalidSchema, "Empty schema")
	}
	c := content{text: req.Schema, typ: req.Type, references: req.References, metadata: req.metadata, ruleSet: req.ruleSet}
	switch strings.ToUpper(req.Type) {
	case "", TypeAvro:
	case TypeJSON, TypeProtobuf:
		if strict {
			return nil, nil, errorf(CodeInvalidSchema, "Invalid schema type %s: this registry registers AVRO only", req.Type)
		}
		c.typ = strings.ToUpper(req.Type)
		return newContent(c), nil, nil
	default:
		return nil, nil, errorf(CodeInvalidSchema, "Invalid schema type %s. Supported types: AVRO", clip(req.Type, 40))
	}
	c.typ = TypeAvro
	refs, err := s.resolve(name, req.References)
	if err != nil {
		return nil, nil, invalidSchema(err)
	}
	var schema *Schema
	if strict {
		schema, err = ParseAvro(req.Schema, refs...)
	} else {
		schema, err = parseStored(req.Schema, refs)
	}
	if err != nil {
		return nil, nil, invalidSchema(err)
	}
	if req.Normalize || s.normalizes(name) {
		schema = schema.Normalize()
		c.references = slices.Clone(c.references)
		slices.SortFunc(c.references, func(a, b Reference) int {
			if n := strings.Compare(a.Subject, b.Subject); n != 0 {
				return n
			}
			return a.Version - b.Version
		})
		c.references = slices.Compact(c.references)
	}
	c.text = schema.String()
	return newContent(c), schema, nil
}

// sameMeaning finds a version of the subject that differs from c in nothing but spelling, newest first. The same
// references are asked for, or none where the version has some: then they were written into the schema
// (ParsedSchema.canLookup).
func (s *state) sameMeaning(name string, c *content, schema *Schema, deleted bool) *schemaRecord {
	if schema == nil {
		return nil
	}
	var whole, byName string
	for _, v := range slices.Backward(s.versions(name, deleted)) {
		if v.typ != TypeAvro || !sameNode(c.metadata, v.metadata) || !sameNode(c.ruleSet, v.ruleSet) {
			continue
		}
		other, err := s.parse(name, v.content)
		if err != nil {
			continue // stored by somebody else; it cannot be meant
		}
		switch {
		case slices.Equal(c.references, v.references):
			if byName == "" {
				byName = schema.Normalize().String()
			}
			if other.Normalize().String() == byName {
				return v
			}
		case len(c.references) == 0:
			if whole == "" {
				whole = schema.written().Normalize().String()
			}
			if other.written().Normalize().String() == whole {
				return v
			}
		}
	}
	return nil
}

func sameNode(a, b *node) bool {
	if a == nil || b == nil {
		return a == b
	}
	return string(sortedNode(a).bytes()) == string(sortedNode(b).bytes())
}

// written returns s with its references written into it.
func (s *Schema) written() *Schema { return &Schema{root: s.root} }

// check asks whether the content may follow.
func (s *state) check(name string, c *content, schema *Schema, previous []*schemaRecord) error {
	level := s.level(name)
	found, err := s.findings(name, level, c, schema, previous)
	if err != nil {
		return invalidSchema(err)
	}
	if len(found) > 0 {
		return &IncompatibleError{Subject: name, Level: level, Findings: found}
	}
	return nil
}

func (s *state) findings(name string, level Level, c *content, schema *Schema, previous []*schemaRecord) ([]Finding, error) {
	if level == None {
		return nil, nil
	}
	if !level.transitive() && len(previous) > 1 {
		previous = previous[len(previous)-1:]
	}
	var list []Previous
	for _, v := range previous {
		if v.typ != c.typ || schema == nil {
			return []Finding{{Incompatibility: Incompatibility{Type: differentSchemaTypes}, Version: v.version}}, nil
		}
		old, err := s.parse(name, v.content)
		if err != nil {
			return nil, fmt.Errorf("version %d: %w", v.version, err)
		}
		list = append(list, Previous{v.version, old})
	}
	return Check(level, schema, list), nil
}

// validSubject refuses what Confluent refuses, and bytes that would not survive the way to the log and back.
func validSubject(name string) bool {
	if name == "" || !utf8.ValidString(name) || strings.ContainsFunc(name, unicode.IsControl) {
		return false
	}
	plain := name
	if c := contextOf(name); c != defaultContext {
		if c == globalContext {
			return false
		}
		plain = strings.TrimPrefix(strings.TrimPrefix(name, ":"+c), ":")
	}
	return plain != "" && plain != "*" && plain != "__GLOBAL" && plain != "__EMPTY"
}

// Lookup finds a schema under a subject. *Error with 40401 or 40403 when it is not there.
func (s *Store) Lookup(name string, req Request, deleted bool) (Registered, error) {
	return s.lookup(plainSubject(name), req, deleted)
}

func (s *Store) lookup(name string, req Request, deleted bool) (Registered, error) {
	s.mu.RLock()
	defer s.mu.RUnlock()
	c, schema, err := s.state.read(name, req, false)
	if err != nil {
		return Registered{}, err
	}
	if v := s.state.find(name, c); v != nil && (deleted || !v.deleted) {
		return registered(v), nil
	}
	if v := s.state.sameMeaning(name, c, schema, deleted); v != nil {
		return registered(v), nil
	}
	if !s.state.has(name, deleted) {
		return Registered{}, subjectNotFound(name)
	}
	return Registered{}, schemaNotFound()
}

// Compatible says what speaks against registering a schema under a subject now; nothing means that nothing does.
// version is "latest", a number, or "" for all that the subject's level asks for.
func (s *Store) Compatible(name, version string, req Request) ([]string, error) {
	name = plainSubject(name)
	s.mu.RLock()
	defer s.mu.RUnlock()
	var previous []*schemaRecord
	if version == "" {
		previous = s.state.versions(name, false)
	} else {
		v, err := s.state.at(name, version, false)
		var e *Error
		switch {
		case err == nil:
			previous = []*schemaRecord{v}
		case errors.As(err, &e) && (e.Code == CodeSubjectNotFound || e.Code == CodeVersionNotFound):
			// No version yet: anything may be the first. Another number than the latest does not exist.
			if n, _ := parseVersion(version); n != -1 {
				return nil, versionNotFound(n)
			}
		default:
			return nil, err
		}
	}
	c, schema, err := s.state.read(name, req, true)
	if err != nil {
		return nil, err
	}
	level := s.state.level(name)
	found, err := s.state.findings(name, level, c, schema, previous)
	if err != nil {
		return nil, invalidSchema(err)
	}
	old := ""
	if len(found) > 0 {
		if v := s.state.subjects[name].version(found[0].Version); v != nil {
			old = v.text
		}
	}
	return messages(level, found, old), nil
}

// parseVersion reads a version as clients write it: -1 is the latest.
func parseVersion(text string) (int, error) {
	text = strings.TrimSpace(text)
	if strings.EqualFold(text, "latest") {
		return -1, nil
	}
	n, err := strconv.ParseInt(text, 10, 32)
	if err != nil || n != -1 && n < 1 {
		return 0, invalidVersion(text)
	}
	return int(n), nil
}

// at finds a version. "latest" is the newest that is not deleted.
func (s *state) at(name, version string, deleted bool) (*schemaRecord, error) {
	n, err := parseVersion(version)
	if err != nil {
		return nil, err
	}
	if sub := s.subjects[name]; sub != nil {
		v := sub.latest()
		if n != -1 {
			v = sub.version(n)
		}
		if v != nil && (deleted || !v.deleted) {
			return v, nil
		}
	}
	if !s.has(name, deleted) {
		return nil, subjectNotFound(name)
	}
	return nil, versionNotFound(n)
}

// Version returns one version of a subject; version is a number, "latest" or "-1".
func (s *Store) Version(name, version string, deleted bool) (Registered, error) {
	s.mu.RLock()
	defer s.mu.RUnlock()
	v, err := s.state.at(plainSubject(name), version, deleted)
	if err != nil {
		return Registered{}, err
	}
	return registered(v), nil
}

// Versions lists all versions of a subject, ascending, deleted ones included; nothing for an unknown subject.
func (s *Store) Versions(name string) []Registered {
	s.mu.RLock()
	defer s.mu.RUnlock()
	var list []Registered
	for _, v := range s.state.versions(plainSubject(name), true) {
		list = append(list, registered(v))
	}
	return list
}

// Schemas lists all versions of all subjects with a prefix, in order of subject and version, deleted ones included.
func (s *Store) Schemas(prefix string) []Registered {
	s.mu.RLock()
	defer s.mu.RUnlock()
	var list []Registered
	for _, name := range s.state.names(matchPrefix(prefix)) {
		for _, v := range s.state.versions(name, true) {
			list = append(list, registered(v))
		}
	}
	return list
}

// Subject is a subject's name and whether all or some of its versions are deleted.
type Subject struct {
	Name string
	// Live and Deleted count versions.
	Live, Deleted int
}

// Subjects lists subjects by name.
func (s *Store) Subjects(prefix string) []Subject {
	s.mu.RLock()
	defer s.mu.RUnlock()
	var list []Subject
	for _, name := range s.state.names(matchPrefix(prefix)) {
		sub := Subject{Name: name}
		for _, v := range s.state.subjects[name].versions {
			if v.deleted {
				sub.Deleted++
			} else {
				sub.Live++
			}
		}
		list = append(list, sub)
	}
	return list
}

// ByID returns the schema of an id and one place of it, in name if it is there. Only the context of name counts;
// "" is the default context.
func (s *Store) ByID(id int32, name string) (Registered, error) {
	name = plainSubject(name)
	s.mu.RLock()
	defer s.mu.RUnlock()
	entry := s.state.entry(id, name)
	if entry == nil {
		return Registered{}, idNotFound(id)
	}
	return s.state.place(entry, name), nil
}

func (s *state) entry(id int32, name string) *idEntry {
	if c := s.contexts[contextOf(name)]; c != nil {
		return c.ids[id]
	}
	return nil
}

func (s *state) place(entry *idEntry, name string) Registered {
	if _, ok := entry.versions[name]; !ok {
		name = slices.Min(slices.Collect(maps.Keys(entry.versions)))
	}
	return registered(s.subjects[name].version(entry.versions[name]))
}

// ByGUID returns the schema with this identity in the default context.
func (s *Store) ByGUID(guid string) (Registered, error) {
	s.mu.RLock()
	defer s.mu.RUnlock()
	if c := s.state.contexts[defaultContext]; c != nil {
		for _, entry := range c.ids {
			if entry.guid() == strings.ToLower(guid) {
				return s.state.place(entry, ""), nil
			}
		}
	}
	return Registered{}, errorf(CodeSchemaNotFound, "Schema %s not found", clip(guid, 80))
}

// Places lists where an id is registered, one version per subject, by subject.
func (s *Store) Places(id int32, name string, deleted bool) ([]Registered, error) {
	name = plainSubject(name)
	s.mu.RLock()
	defer s.mu.RUnlock()
	entry := s.state.entry(id, name)
	if entry == nil {
		return nil, schemaNotFound()
	}
	list := []Registered{}
	for _, sub := range slices.Sorted(maps.Keys(entry.versions)) {
		if r := s.state.place(entry, sub); deleted || !r.Deleted {
			list = append(list, r)
		}
	}
	return list, nil
}

// MaxID is the highest id ever given in the context of name.
func (s *Store) MaxID(name string) int32 {
	s.mu.RLock()
	defer s.mu.RUnlock()
	if c := s.state.contexts[contextOf(plainSubject(name))]; c != nil {
		return c.lastID
	}
	return 0
}

// Contexts lists the contexts, the default one always.
func (s *Store) Contexts() []string {
	s.mu.RLock()
	defer s.mu.RUnlock()
	list := append(slices.Collect(maps.Keys(s.state.contexts)), defaultContext)
	slices.Sort(list)
	return slices.Compact(list)
}

// Referrers lists the ids of schemas that refer to a version.
func (s *Store) Referrers(name, version string, deleted bool) ([]int32, error) {
	name = plainSubject(name)
	s.mu.RLock()
	defer s.mu.RUnlock()
	v, err := s.state.at(name, version, true)
	if err != nil {
		return nil, err
	}
	ids := []int32{}
	for _, r := range s.state.referrers(name, v.version, deleted) {
		ids = append(ids, r.id)
	}
	return slices.Compact(ids), nil
}

// DeleteVersion deletes one version: softly, so that it is no longer listed and its id still serves; or, after that,
// for good. It returns the number of the version.
func (s *Store) DeleteVersion(ctx context.Context, name, version string, permanent bool) (int, error) {
	name = plainSubject(name)
	var out int
	err := s.write(ctx, func() ([]Record, error) {
		s.mu.RLock()
		defer s.mu.RUnlock()
		v, err := s.state.at(name, version, true)
		if err != nil {
			return nil, err
		}
		out = v.version
		switch {
		case !permanent && v.deleted:
			return nil, errorf(CodeVersionSoftDeleted, "Subject '%s' Version %d was soft deleted.Set permanent=true to delete permanently", name, v.version)
		case strings.HasPrefix(s.state.mode(name), "READONLY"):
			return nil, readOnlyMode(name)
		case len(s.state.referrers(name, v.version, permanent)) > 0:
			return nil, referenced(name, v.version)
		case permanent && !v.deleted:
			return nil, errorf(CodeVersionNotSoftDeleted, "Subject '%s' Version %d was not deleted first before being permanently deleted", name, v.version)
		case !permanent:
			gone := *v
			gone.deleted = true
			return []Record{{recordKey{keytype: keySchema, subject: name, version: v.version}.bytes(), gone.bytes()}}, nil
		}
		return s.state.bury(name, []*schemaRecord{v}), nil
	})
	return out, err
}

func referenced(name string, version int) *Error {
	return errorf(CodeReferenceExists, "One or more references exist to the schema {magic=1,keytype=SCHEMA,subject=%s,version=%d}.", name, version)
}

// bury plans to delete versions for good, newest first. The highest id goes on record with them.
func (s *state) bury(name string, versions []*schemaRecord) []Record {
	records := []Record{s.highID()}
	for _, v := range slices.Backward(versions) {
		records = append(records, Record{recordKey{keytype: keySchema, subject: name, version: v.version}.bytes(), nil})
	}
	if len(versions) == len(s.subjects[name].versions) {
		if _, ok := s.modes[name]; ok {
			records = append(records, Record{recordKey{keytype: keyMode, subject: name}.bytes(), nil})
		}
		if _, ok := s.configs[name]; ok {
			records = append(records, Record{recordKey{keytype: keyConfig, subject: name}.bytes(), nil})
		}
	}
	return records
}

// highID is the record that keeps the ids given so far from being forgotten.
func (s *state) highID() Record {
	ids := map[string]int32{}
	for c, state := range s.contexts {
		ids[c] = state.lastID
	}
	return Record{highIDKey, highIDs(ids)}
}

// DeleteSubject deletes all versions of a subject, softly or, after that, for good, and returns their numbers.
func (s *Store) DeleteSubject(ctx context.Context, name string, permanent bool) ([]int, error) {
	name = plainSubject(name)
	var out []int
	err := s.write(ctx, func() ([]Record, error) {
		s.mu.RLock()
		defer s.mu.RUnlock()
		out = []int{}
		versions := s.state.versions(name, permanent)
		switch {
		case !s.state.has(name, true):
			return nil, subjectNotFound(name)
		case len(versions) == 0:
			return nil, errorf(CodeSubjectSoftDeleted, "Subject '%s' was soft deleted.Set permanent=true to delete permanently", name)
		case strings.HasPrefix(s.state.mode(name), "READONLY"):
			return nil, readOnlyMode(name)
		}
		for _, v := range versions {
			for _, r := range s.state.referrers(name, v.version, permanent) {
				if r.subject != name {
					return nil, referenced(name, v.version)
				}
			}
			if permanent && !v.deleted {
				return nil, errorf(CodeSubjectNotSoftDeleted, "Subject '%s' was not deleted first before being permanently deleted", name)
			}
			out = append(out, v.version)
		}
		if !permanent {
			return []Record{{recordKey{keytype: keyDeleteSubject, subject: name}.bytes(), deleteSubjectValue(name, out[len(out)-1])}}, nil
		}
		return s.state.bury(name, versions), nil
	})
	if err != nil {
		return nil, err
	}
	return out, nil
}

// Level returns the compatibility level that counts for a subject, and whether it is the subject's own. name "" asks
// for the one of all subjects.
func (s *Store) Level(name string) (level Level, own bool) {
	name = plainSubject(name)
	s.mu.RLock()
	defer s.mu.RUnlock()
	_, own = s.state.configs[name]
	return s.state.level(name), own
}

// SetLevel sets the compatibility level of a subject, or with name "" that of all which have none of their own.
func (s *Store) SetLevel(ctx context.Context, name string, level Level) error {
	if l, ok := ParseLevel(string(level)); !ok || l != level {
		return invalidLevel()
	}
	_, err := s.setConfig(ctx, name, []prop{{"compatibilityLevel", &node{kind: stringNode, text: string(level)}}})
	return err
}

// config returns the configuration record of a subject; inScope asks for the one that counts.
func (s *Store) config(name string, inScope bool) (n *node, ok bool) {
	name = plainSubject(name)
	s.mu.RLock()
	defer s.mu.RUnlock()
	n = s.state.configs[name]
	if n == nil && inScope {
		for _, scope := range scopes(name) {
			if n = s.state.configs[scope]; n != nil {
				break
			}
		}
	}
	ok = n != nil || inScope || name == ""
	out := &node{kind: objectNode}
	if n != nil {
		for i, k := range n.keys {
			if k != "subject" {
				out.set(k, n.list[i])
			}
		}
	}
	if text, has := out.str("compatibilityLevel"); !has || text == "" {
		out.set("compatibilityLevel", &node{kind: stringNode, text: string(Backward)})
	}
	return out, ok
}

// setConfig changes members of a configuration; a null value takes the member away.
func (s *Store) setConfig(ctx context.Context, name string, changes []prop) (*node, error) {
	name = plainSubject(name)
	if name != "" && !validSubject(name) && (contextOf(name) == defaultContext || !utf8.ValidString(name)) {
		return nil, invalidSubject(name)
	}
	var out *node
	err := s.write(ctx, func() ([]Record, error) {
		s.mu.RLock()
		defer s.mu.RUnlock()
		if strings.HasPrefix(s.state.mode(name), "READONLY") {
			return nil, readOnlyMode(name)
		}
		out = &node{kind: objectNode}
		if name != "" {
			out.set("subject", &node{kind: stringNode, text: name})
		}
		put := func(k string, v *node) {
			if v.kind != nullNode && k != "subject" {
				out.set(k, v)
			}
		}
		old := s.state.configs[name]
		if old != nil {
			for i, k := range old.keys {
				if !slices.ContainsFunc(changes, func(p prop) bool { return p.key == k }) {
					put(k, old.list[i])
				}
			}
		}
		for _, p := range changes {
			put(p.key, p.value)
		}
		if old != nil && string(sortedNode(old).bytes()) == string(sortedNode(out).bytes()) {
			return nil, nil
		}
		return []Record{{recordKey{keytype: keyConfig, subject: name}.bytes(), out.bytes()}}, nil
	})
	return out, err
}

// DeleteLevel takes the configuration of a subject away, so that the one of all counts again; with name "" that one.
// 40401 when the subject has none.
func (s *Store) DeleteLevel(ctx context.Context, name string) error {
	name = plainSubject(name)
	return s.write(ctx, func() ([]Record, error) {
		s.mu.RLock()
		defer s.mu.RUnlock()
		if strings.HasPrefix(s.state.mode(name), "READONLY") {
			return nil, readOnlyMode(name)
		}
		if _, ok := s.state.configs[name]; !ok {
			if name == "" {
				return nil, nil
			}
			return nil, subjectNotFound(name)
		}
		return []Record{{recordKey{keytype: keyConfig, subject: name}.bytes(), nil}}, nil
	})
}

// Mode returns the mode that counts for a subject, and whether it is its own. Modes come from a topic that
// Confluent's registry wrote, READWRITE otherwise.
func (s *Store) Mode(name string) (mode string, own bool) {
	name = plainSubject(name)
	s.mu.RLock()
	defer s.mu.RUnlock()
	_, own = s.state.modes[name]
	return s.state.mode(name), own
}

// Stats are figures for metrics and status.
type Stats struct {
	Subjects, Schemas, Versions int
	Skipped, Conflicts          int // records of the log that were left alone
}

// Stats counts.
func (s *Store) Stats() Stats {
	s.mu.RLock()
	defer s.mu.RUnlock()
	st := Stats{Subjects: len(s.state.subjects), Skipped: s.state.skipped, Conflicts: s.state.conflict}
	for _, sub := range s.state.subjects {
		st.Versions += len(sub.versions)
	}
	for _, c := range s.state.contexts {
		st.Schemas += len(c.ids)
	}
	return st
}
