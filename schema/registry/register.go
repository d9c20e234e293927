package registry

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"unicode"
	"unicode/utf8"
)

// Request is a schema that somebody wants registered, looked up or checked.
type Request struct {
	Schema     string
	Type       string // "" is AVRO
	References []Reference
	Normalize  bool
	Force      bool // register without asking for compatibility
	// Version, when above 0, must be the one that the registration gets; in mode Import it may be any that is free.
	Version int
	// ID, when above 0, is the one that the schema is to have; only a subject in mode Import takes one.
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
	case mode.readOnly():
		return none(readOnlyMode(name))
	case req.ID > 0 && mode == Import:
		return s.bring(name, req)
	case req.ID > 0:
		return none(errorf(CodeNotPermitted, "Subject %s in context %s is not in import mode", name, contextLabel(ctxName)))
	case mode != ReadWrite:
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
	for _, v := range s.versions(name, true) {
		next = v.version + 1
		if !v.deleted {
			previous = append(previous, v)
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
			return none(errorf(CodeNotPermitted, "All ids are given"))
		}
		id = last + 1
	}
	if err := s.free(id, name, c); err != nil {
		return none(err)
	}
	return s.put(name, next, id, c)
}

// bring plans a registration that comes with its id, and may come with its version: what mode Import is for. Nothing
// is asked of compatibility. An id or a version that stands for another schema is not taken away from it.
func (s *state) bring(name string, req Request) (Registered, []Record, error) {
	none := func(err error) (Registered, []Record, error) { return Registered{}, nil, err }
	c, _, err := s.read(name, req, false)
	if err != nil {
		return none(err)
	}
	if err := s.free(req.ID, name, c); err != nil {
		return none(err)
	}
	version := req.Version
	if version <= 0 {
		version = 1
		for _, v := range s.versions(name, true) {
			if v.id == req.ID && !v.deleted {
				return registered(v), nil, nil
			}
			version = v.version + 1
		}
	}
	if sub := s.subjects[name]; sub != nil {
		if v := sub.version(version); v != nil {
			switch {
			case v.id != req.ID:
				return none(errorf(CodeNotPermitted, "Version %d of subject %s has the schema with id %d, and id %d is not permitted to replace it.", version, clip(name, 200), v.id, req.ID))
			case !v.deleted:
				return registered(v), nil, nil
			}
		}
	}
	return s.put(name, version, req.ID, c)
}

// free refuses an id that stands for another schema (AbstractSchemaRegistry.checkIfSchemaWithIdExist).
func (s *state) free(id int32, name string, c *content) error {
	entry := s.entry(id, name)
	if entry == nil || entry.sum == c.sum && entry.typ == c.typ {
		return nil
	}
	return errorf(CodeNotPermitted, "Overwrite new schema with id %d in context %s is not permitted.", id, contextLabel(contextOf(name)))
}

// put plans the records of a new version.
func (s *state) put(name string, version int, id int32, c *content) (Registered, []Record, error) {
	var records []Record
	if ctxName := contextOf(name); ctxName != defaultContext && !s.listed(ctxName) {
		records = append(records, contextRecord(ctxName))
	}
	for _, v := range s.versions(name, true) {
		// One version per subject and id: an older one that was soft deleted goes (KafkaSchemaRegistry.register).
		if v.deleted && v.id == id && v.version < version && len(s.referrers(name, v.version, true)) == 0 {
			records = append(records, Record{recordKey{keytype: keySchema, subject: name, version: v.version}.bytes(), nil})
		}
	}
	r := schemaRecord{subject: name, version: version, id: id, content: c}
	records = append(records, Record{recordKey{keytype: keySchema, subject: name, version: version}.bytes(), r.bytes()})
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

// read parses and writes down a request's schema. schema is nil for types other than Avro.
func (s *state) read(name string, req Request, strict bool) (*content, *Schema, error) {
	if strings.TrimSpace(req.Schema) == "" {
		return nil, nil, errorf(CodeInvalidSchema, "Empty schema")
	}
	c := content{text: req.Schema, typ: strings.ToUpper(req.Type), references: req.References, metadata: req.metadata, ruleSet: req.ruleSet}
	normalize := (req.Normalize || s.normalizes(name)) && s.mode(name) != Import
	if normalize {
		c.references = normalReferences(c.references)
	}
	switch c.typ {
	case "", TypeAvro:
		c.typ = TypeAvro
		return s.readAvro(name, c, normalize, strict)
	case TypeJSON:
		text, err := canonicalJSON(c.text, normalize)
		if err != nil {
			return nil, nil, invalidSchema(err)
		}
		c.text = text
	case TypeProtobuf:
		if err := checkProtobuf(c.text); err != nil {
			return nil, nil, invalidSchema(err)
		}
	default:
		return nil, nil, errorf(CodeInvalidSchema, "Invalid schema type %s. Supported types: JSON, PROTOBUF, AVRO", clip(req.Type, 40))
	}
	for _, ref := range c.references {
		if _, err := s.referred(name, ref); err != nil {
			return nil, nil, invalidSchema(err)
		}
	}
	return newContent(c), nil, nil
}

func normalReferences(references []Reference) []Reference {
	list := slices.Clone(references)
	slices.SortFunc(list, func(a, b Reference) int {
		if n := strings.Compare(a.Subject, b.Subject); n != 0 {
			return n
		}
		return a.Version - b.Version
	})
	return slices.Compact(list)
}

func (s *state) readAvro(name string, c content, normalize, strict bool) (*content, *Schema, error) {
	refs, err := s.resolve(name, c.references)
	if err != nil {
		return nil, nil, invalidSchema(err)
	}
	var schema *Schema
	if strict {
		schema, err = ParseAvro(c.text, refs...)
	} else {
		schema, err = parseStored(c.text, refs)
	}
	if err != nil {
		return nil, nil, invalidSchema(err)
	}
	if normalize {
		schema = schema.Normalize()
	}
	c.text = schema.String()
	return newContent(c), schema, nil
}

// sameMeaning finds a version of the subject that differs from c in nothing but spelling, newest first. The same
// references are asked for, or none where the version has some: then they were written into the schema
// (ParsedSchema.canLookup).
func (s *state) sameMeaning(name string, c *content, schema *Schema, deleted bool) *schemaRecord {
	var whole, byName string
	for _, v := range slices.Backward(s.versions(name, deleted)) {
		if v.typ != c.typ || !sameNode(c.metadata, v.metadata) || !sameNode(c.ruleSet, v.ruleSet) {
			continue
		}
		if c.typ != TypeAvro {
			if slices.Equal(c.references, v.references) && sameText(c.typ, c.text, v.text) {
				return v
			}
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
	var different []Finding // said if no later version has anything to say
	for _, v := range slices.Backward(previous) {
		if v.typ != c.typ {
			different = []Finding{{Incompatibility: Incompatibility{Type: differentSchemaTypes}, Version: v.version}}
			break
		}
		if c.typ != TypeAvro {
			continue // only Avro is compared
		}
		old, err := s.parse(name, v.content)
		if err != nil {
			return nil, fmt.Errorf("version %d: %w", v.version, err)
		}
		list = append(list, Previous{v.version, old})
	}
	slices.Reverse(list)
	if found := Check(level, schema, list); len(found) > 0 {
		return found, nil
	}
	return different, nil
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

// validScope tells whether a setting can have this name: a subject, a context, or "" for all.
func validScope(name string) bool {
	if name == "" || validSubject(name) {
		return true
	}
	c := contextOf(name)
	return c != defaultContext && (name == ":"+c+":" || c == globalContext) && utf8.ValidString(name) && !strings.ContainsFunc(name, unicode.IsControl)
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
