package schema

import (
	"crypto/sha256"
	"fmt"
	"strconv"
	"strings"

	"github.com/linkedin/goavro/v2"
)

// Compile parses an Avro schema and checks it, names and defaults included. Every derived schema passes it before
// anybody can register it. The codec decodes what Encoder writes (without the wire prefix).
func Compile(avro string) (*goavro.Codec, error) {
	codec, err := goavro.NewCodec(avro)
	if err != nil {
		return nil, fmt.Errorf("compile schema: %w", err)
	}
	return codec, nil
}

// Fingerprint identifies a schema for caches. It is of the whole text, which Derive writes the same way every time,
// and not of Avro's parsing canonical form: that form leaves out logical types, scale and properties, so two tables
// that differ in numeric(12,2) and numeric(12,4) would share one, and a reader would be off by a hundred.
func Fingerprint(avro string) [sha256.Size]byte { return sha256.Sum256([]byte(avro)) }

// SanitizeName makes a name that Avro allows out of any name, the way Debezium does: each character other than a
// letter of ASCII, a digit or an underscore becomes an underscore, and one is put before a leading digit. Two names
// can become the same: Options.Collisions says what then.
func SanitizeName(name string) string {
	valid := name != ""
	for i := 0; i < len(name) && valid; i++ {
		c := name[i]
		valid = c == '_' || 'a' <= c|0x20 && c|0x20 <= 'z' || i > 0 && '0' <= c && c <= '9'
	}
	if valid {
		return name
	}
	var b strings.Builder
	for i, r := range name {
		switch {
		case r == '_', 'a' <= r && r <= 'z', 'A' <= r && r <= 'Z':
			b.WriteRune(r)
		case '0' <= r && r <= '9':
			if i == 0 {
				b.WriteByte('_')
			}
			b.WriteRune(r)
		default:
			b.WriteByte('_')
		}
	}
	if b.Len() == 0 {
		return "_"
	}
	return b.String()
}

// recordName is the last part of the full name of the record or enum that a column or attribute becomes. Avro allows no type
// with a primitive one's name in any namespace, and avsc does not read one: those get an underscore more, and so does what
// would be the same then.
func recordName(name string) string {
	switch strings.TrimRight(name, "_") {
	case "null", "boolean", "int", "long", "float", "double", "bytes", "string":
		return name + "_"
	}
	return name
}

// SanitizeNamespace does the same for each part of a name with dots, such as a topic.
func SanitizeNamespace(name string) string {
	parts := strings.Split(name, ".")
	for i, p := range parts {
		parts[i] = SanitizeName(p)
	}
	return strings.Join(parts, ".")
}

// avroNames are the Avro names of a list of different names. A name that Avro allows stays as it is, whatever stands
// before it. of is what has them, for the error.
func avroNames(of string, list []string, suffix bool) ([]string, error) {
	names := make([]string, len(list))
	taken := make(map[string]string, len(list)) // Avro name → name
	for i, name := range list {
		if names[i] = SanitizeName(name); names[i] == name {
			taken[name] = name
		}
	}
	var collision error
	for i, name := range list {
		if names[i] == name {
			continue
		}
		wish := names[i]
		for n := 2; ; n++ {
			first, ok := taken[names[i]]
			if !ok {
				break
			}
			if !suffix && collision == nil {
				collision = &CollisionError{Of: of, First: first, Second: name, Name: wish}
			}
			names[i] = wish + "_" + strconv.Itoa(n)
		}
		taken[names[i]] = name
	}
	return names, collision
}

// CollisionError is two columns of a table, attributes of a composite or labels of an enum whose names become the same
// Avro name.
type CollisionError struct {
	Of            string // "table schema.table" or "type schema.type"
	First, Second string // the names
	Name          string // what both become
}

func (e *CollisionError) Error() string {
	return fmt.Sprintf("%s: %q and %q both become the Avro name %s", e.Of, e.First, e.Second, e.Name)
}

// Hint is the way on. To give one another name is none for the rows that are written already.
func (e *CollisionError) Hint() string {
	return "exclude one of the columns (source.exclude_columns), or set schema.collisions: suffix, which numbers the second"
}
