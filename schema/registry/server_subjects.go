package registry

import (
	"errors"
	"slices"
	"strings"
)

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
				if req.ID = n; n == 0 {
					return Request{}, errorf(CodeNotPermitted, "The id 0 is not permitted: ids start at 1")
				}
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

// format is what ?format= asks for: "resolved" writes references into an Avro schema, "serialized" is a Protobuf schema
// as a descriptor in base64. What is not known is ignored, as Confluent ignores it.
func (c *call) format(r Registered) (string, error) {
	switch format := c.query.Get("format"); {
	case r.Type == TypeAvro && strings.EqualFold(format, "resolved") && len(r.References) > 0:
		return c.store.resolved(r)
	case r.Type == TypeProtobuf && strings.EqualFold(format, "serialized") && !isDescriptor(r.Schema):
		return "", errorf(CodeInvalidSchema, "Invalid schema: it was registered as text, and this registry has no Protobuf compiler that would serialize it")
	}
	return r.Schema, nil
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
