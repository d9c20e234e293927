package schema

import (
	"encoding/binary"
	"errors"
)

// WireSize is the length of what stands before each Avro payload: a zero byte and the schema's id, big-endian
// (https://docs.confluent.io/platform/current/schema-registry/fundamentals/serdes-develop/index.html#wire-format).
const WireSize = 5

// ErrNotWire is returned for bytes that do not begin as the wire format does.
var ErrNotWire = errors.New("not in the registry's wire format: it begins with a zero byte and a schema id of four bytes")

// AppendWire appends the wire format's prefix for a schema id.
func AppendWire(dst []byte, id int32) []byte {
	return binary.BigEndian.AppendUint32(append(dst, 0), uint32(id))
}

// ParseWire splits a record key or value into schema id and Avro payload. The payload aliases b.
func ParseWire(b []byte) (id int32, payload []byte, err error) {
	if len(b) < WireSize || b[0] != 0 {
		return 0, nil, ErrNotWire
	}
	return int32(binary.BigEndian.Uint32(b[1:])), b[WireSize:], nil
}
