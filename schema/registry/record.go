package registry

import (
	"bytes"
	"crypto/md5"
	"encoding/base64"
	"encoding/binary"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
)

// Key types of the records, as in SchemaRegistryKeyType.java.
const (
	keySchema        = "SCHEMA"
	keyConfig        = "CONFIG"
	keyMode          = "MODE"
	keyNoop          = "NOOP"
	keyDeleteSubject = "DELETE_SUBJECT"
	keyClearSubject  = "CLEAR_SUBJECT"
	keyContext       = "CONTEXT"
)

// Type names of schemas.
const (
	TypeAvro     = "AVRO"
	TypeJSON     = "JSON"
	TypeProtobuf = "PROTOBUF"
)

var (
	// sessionKey is Confluent's own spelling: its registry writes the same record to find the end of the log.
	sessionKey = []byte(`{"keytype":"NOOP","magic":0}`)
	// highIDKey is a NOOP, too, but another key to compaction.
	highIDKey = []byte(`{"magic":0,"keytype":"NOOP"}`)
)

// recordKey is a parsed key. The fields that its type does not have are zero.
type recordKey struct {
	keytype string
	subject string
	version int
	context string
	own     bool // highIDKey
}

// errForeignRecord says that a record is none that we know: left alone, as Confluent leaves it alone.
var errForeignRecord = errors.New("not a record of a schema registry")

func parseKey(key []byte) (recordKey, error) {
	if k, ok := flatKey(key); ok {
		return k, nil
	}
	return parseAnyKey(key)
}

func parseAnyKey(key []byte) (recordKey, error) {
	n, err := parseJSON(string(key))
	if err != nil {
		return recordKey{}, fmt.Errorf("%w: key %q", errForeignRecord, clip(string(key), 80))
	}
	k := recordKey{own: bytes.Equal(key, highIDKey)}
	k.keytype, _ = n.str("keytype")
	k.subject, _ = n.str("subject")
	k.context, _ = n.str("context")
	switch k.keytype {
	case keySchema:
		v, ok := n.integer("version")
		if magic, _ := n.integer("magic"); !ok || v < 1 || magic < 0 || magic > 1 || n.member("subject") == nil {
			return recordKey{}, fmt.Errorf("%w: key %q", errForeignRecord, clip(string(key), 80))
		}
		k.version = int(v)
	case keyConfig, keyMode, keyNoop, keyDeleteSubject, keyClearSubject, keyContext:
	default:
		return recordKey{}, fmt.Errorf("%w: keytype %q", errForeignRecord, clip(k.keytype, 40))
	}
	return k, nil
}

// bytes writes the key as Confluent does, member for member: compaction compares bytes.
func (k recordKey) bytes() []byte {
	var b bytes.Buffer
	b.WriteString(`{"keytype":"` + k.keytype + `"`)
	if k.keytype == keyContext {
		b.WriteString(`,"tenant":"default","context":`)
		appendString(&b, k.context)
	}
	if k.subject != "" { // NON_EMPTY: the empty subject is left out, and so is that of the global configuration
		b.WriteString(`,"subject":`)
		appendString(&b, k.subject)
	}
	if k.keytype == keySchema {
		b.WriteString(`,"version":` + strconv.Itoa(k.version) + `,"magic":1}`)
	} else {
		b.WriteString(`,"magic":0}`)
	}
	return b.Bytes()
}

// Reference names a schema that another one uses by name.
type Reference struct {
	Name    string `json:"name"`    // of the type, for Avro its full name
	Subject string `json:"subject"` //
	Version int    `json:"version"` // -1: the latest
}

// content is a schema as it is stored, apart from where it is stored. It is immutable. Two registrations of the same
// content have the same id.
type content struct {
	text       string
	typ        string
	references []Reference
	metadata   *node // nil when there is none
	ruleSet    *node
	sum        [md5.Size]byte
	// sumText is set where the stored record has a sum of its own that must be kept (metadata that was encoded).
	sumText string
	extra   []prop // fields that we do not know
}

// newContent computes the identity as Confluent does (MD5.ofSchema, Schema.updateHash). That of a rule set is our own:
// such a schema has another guid here, and the same id all the same as long as it is registered with one registry.
func newContent(c content) *content {
	h := md5.New()
	write := func(s string) { _, _ = h.Write([]byte(s)) } // a hash never fails
	write(c.text)
	for _, r := range c.references {
		write(r.Name)
		write(r.Subject)
		_, _ = h.Write(binary.BigEndian.AppendUint32(nil, uint32(int32(r.Version))))
	}
	if c.metadata != nil {
		write("\x01")
		hashMetadata(c.metadata, write)
	}
	if c.ruleSet != nil {
		write("\x01")
		var b bytes.Buffer
		sortedNode(c.ruleSet).appendTo(&b)
		write(b.String())
	}
	h.Sum(c.sum[:0])
	if sum, err := base64.StdEncoding.DecodeString(c.sumText); c.sumText != "" && err == nil && len(sum) == md5.Size {
		copy(c.sum[:], sum)
	}
	return &c
}

// hashMetadata follows Metadata.updateHash: tags, properties and sensitive, each sorted.
func hashMetadata(m *node, write func(string)) {
	texts := func(n *node) []string {
		var list []string
		if n != nil {
			for _, item := range n.list {
				list = append(list, item.text)
			}
		}
		slices.Sort(list)
		return slices.Compact(list)
	}
	if tags := m.member("tags"); tags != nil {
		for _, k := range slices.Sorted(slices.Values(tags.keys)) {
			write(k)
			for _, v := range texts(tags.member(k)) {
				write(v)
			}
		}
	}
	if props := m.member("properties"); props != nil {
		for _, k := range slices.Sorted(slices.Values(props.keys)) {
			write(k)
			write(props.member(k).text)
		}
	}
	for _, s := range texts(m.member("sensitive")) {
		write(s)
	}
}

// guid is the identity as a UUID.
func (c *content) guid() string {
	s := fmt.Sprintf("%x", c.sum)
	return s[:8] + "-" + s[8:12] + "-" + s[12:16] + "-" + s[16:20] + "-" + s[20:]
}

// schemaRecord is the value of a SCHEMA record.
type schemaRecord struct {
	subject string
	version int
	id      int32
	deleted bool
	*content
}

func parseSchemaRecord(value []byte) (schemaRecord, error) {
	n, err := parseJSON(string(value))
	if err != nil || n.kind != objectNode {
		return schemaRecord{}, errors.New("the value is no object")
	}
	var r schemaRecord
	c := content{typ: TypeAvro}
	id, ok := n.integer("id")
	if !ok || id < 0 {
		return schemaRecord{}, errors.New("the value has no id")
	}
	version, _ := n.integer("version")
	r.id, r.version = id, int(version)
	r.subject, _ = n.str("subject")
	if c.text, ok = n.str("schema"); !ok {
		return schemaRecord{}, errors.New("the value has no schema")
	}
	for i, key := range n.keys {
		m := n.list[i]
		switch key {
		case "subject", "version", "id", "schema":
		case "deleted":
			r.deleted = m.kind == trueNode
		case "schemaType":
			if m.kind == stringNode && m.text != "" {
				c.typ = m.text
			}
		case "references":
			if c.references, err = parseReferences(m); err != nil {
				return schemaRecord{}, err
			}
		case "metadata":
			c.metadata = orNil(m)
		case "ruleSet":
			c.ruleSet = orNil(m)
		case "md5":
			c.sumText = m.text
		default:
			c.extra = append(c.extra, prop{key, m})
		}
	}
	r.content = newContent(c)
	return r, nil
}

func orNil(n *node) *node {
	if n == nil || n.kind == nullNode {
		return nil
	}
	return n
}

func parseReferences(n *node) ([]Reference, error) {
	if orNil(n) == nil {
		return nil, nil
	}
	if n.kind != arrayNode {
		return nil, errors.New("references is not an array")
	}
	var refs []Reference
	for _, item := range n.list {
		name, ok1 := item.str("name")
		subject, ok2 := item.str("subject")
		version, ok3 := item.integer("version")
		if !ok1 || !ok2 || !ok3 {
			return nil, errors.New("a reference needs name, subject and version")
		}
		refs = append(refs, Reference{name, subject, int(version)})
	}
	return refs, nil
}

// bytes writes the value in the order of Confluent's SchemaValue. schemaType is left out for Avro, as every version
// before 8 does, and all can read.
func (r schemaRecord) bytes() []byte {
	var b bytes.Buffer
	b.WriteString(`{"subject":`)
	appendString(&b, r.subject)
	fmt.Fprintf(&b, `,"version":%d,"id":%d`, r.version, r.id)
	if r.sumText != "" {
		b.WriteString(`,"md5":`)
		appendString(&b, r.sumText)
	}
	if r.typ != TypeAvro {
		b.WriteString(`,"schemaType":`)
		appendString(&b, r.typ)
	}
	if len(r.references) > 0 {
		b.WriteString(`,"references":[`)
		for i, ref := range r.references {
			if i > 0 {
				b.WriteByte(',')
			}
			b.WriteString(`{"name":`)
			appendString(&b, ref.Name)
			b.WriteString(`,"subject":`)
			appendString(&b, ref.Subject)
			fmt.Fprintf(&b, `,"version":%d}`, ref.Version)
		}
		b.WriteByte(']')
	}
	for _, p := range []prop{{"metadata", r.metadata}, {"ruleSet", r.ruleSet}} {
		if p.value != nil {
			b.WriteString(`,"` + p.key + `":`)
			p.value.appendTo(&b)
		}
	}
	b.WriteString(`,"schema":`)
	appendString(&b, r.text)
	b.WriteString(`,"deleted":` + strconv.FormatBool(r.deleted))
	writeProps(&b, r.extra)
	b.WriteByte('}')
	return b.Bytes()
}

func deleteSubjectValue(subject string, version int) []byte {
	n := &node{kind: objectNode}
	n.set("subject", &node{kind: stringNode, text: subject})
	n.set("version", &node{kind: numberNode, text: strconv.Itoa(version)})
	return n.bytes()
}

// highIDs is the value of our own NOOP.
func highIDs(ids map[string]int32) []byte {
	all := &node{kind: objectNode}
	for _, context := range slices.Sorted(maps.Keys(ids)) {
		all.set(context, &node{kind: numberNode, text: strconv.Itoa(int(ids[context]))})
	}
	n := &node{kind: objectNode}
	n.set("walferry", &node{kind: numberNode, text: "1"})
	n.set("maxIds", all)
	return n.bytes()
}

// withSubject begins the value of a setting; the one for all has no subject.
func withSubject(name string) *node {
	n := &node{kind: objectNode}
	if name != "" {
		n.set("subject", &node{kind: stringNode, text: name})
	}
	return n
}

// contextRecord makes a context known.
func contextRecord(name string) Record {
	n := &node{kind: objectNode}
	n.set("tenant", &node{kind: stringNode, text: "default"})
	n.set("context", &node{kind: stringNode, text: name})
	return Record{recordKey{keytype: keyContext, context: name}.bytes(), n.bytes()}
}

func (n *node) bytes() []byte {
	var b bytes.Buffer
	n.appendTo(&b)
	return b.Bytes()
}

// integer returns a member that is a 32-bit integer.
func (n *node) integer(key string) (int32, bool) {
	m := n.member(key)
	if m == nil || !m.isInteger() {
		return 0, false
	}
	v, err := strconv.ParseInt(m.text, 10, 32)
	return int32(v), err == nil
}

const (
	defaultContext = "."
	globalContext  = ".__GLOBAL"
)

// contextOf returns the context of a qualified subject, as ":.context:subject". Ids are counted per context.
func contextOf(subject string) string {
	if !strings.HasPrefix(subject, ":.") {
		return defaultContext
	}
	context, _, _ := strings.Cut(subject[1:], ":")
	return context
}

// plainSubject takes the default context off: ":.:s" is "s". A context as a whole ends in a colon.
func plainSubject(subject string) string {
	if strings.HasPrefix(subject, ":.") && !strings.Contains(subject[1:], ":") {
		subject += ":"
	}
	if rest, ok := strings.CutPrefix(subject, ":.:"); ok {
		return rest
	}
	return subject
}

// inContextOf qualifies a reference's subject with the context of the schema that has it.
func inContextOf(parent, subject string) string {
	if c := contextOf(parent); c != defaultContext && !strings.HasPrefix(subject, ":.") {
		return ":" + c + ":" + subject
	}
	return plainSubject(subject)
}
