package schema

import (
	"crypto/sha256"
	"fmt"
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
// can become the same; Derive refuses that.
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

// SanitizeNamespace does the same for each part of a name with dots, such as a topic.
func SanitizeNamespace(name string) string {
	parts := strings.Split(name, ".")
	for i, p := range parts {
		parts[i] = SanitizeName(p)
	}
	return strings.Join(parts, ".")
}

// CollisionError is two columns whose names become the same Avro name.
type CollisionError struct {
	Table         string // schema.table
	First, Second string // the columns
	Name          string // what both become
}

func (e *CollisionError) Error() string {
	return fmt.Sprintf("table %s: columns %q and %q both become the Avro name %s; rename one, or exclude one of them",
		e.Table, e.First, e.Second, e.Name)
}
