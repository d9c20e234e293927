package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"math/big"
	"strings"
	"time"

	"github.com/linkedin/goavro/v2"

	"walferry/schema"
)

// An avroReader decodes payloads of one schema into values that print and marshal
// as a person would write them: decimals as numbers in text, dates in ISO 8601.
//
// goavro decodes; it is given the schema without logical types, because its own
// conversions turn dates outside Go's range and the sentinels of infinity into
// something else. The logical types are applied here.
type avroReader struct {
	codec *goavro.Codec
	root  any
	named map[string]any
}

// logicalKey stands in for "logicalType", which goavro would act on.
const logicalKey = "walferry.logicalType"

// fullNameKey is where prepare puts the full name of a named type.
const fullNameKey = "walferry.fullName"

func newAvroReader(text string) (*avroReader, error) {
	r, err := newAvroTree(text)
	if err != nil {
		return nil, err
	}
	b, err := json.Marshal(r.root)
	if err != nil {
		return nil, fmt.Errorf("read Avro schema: %w", err)
	}
	if r.codec, err = goavro.NewCodec(string(b)); err != nil {
		return nil, fmt.Errorf("read Avro schema: %w", err)
	}
	return r, nil
}

// newAvroTree reads a schema for somebody who walks along it, and decodes nothing.
func newAvroTree(text string) (*avroReader, error) {
	r := &avroReader{named: map[string]any{}}
	if err := json.Unmarshal([]byte(text), &r.root); err != nil {
		return nil, fmt.Errorf("read Avro schema: %w", err)
	}
	r.root = r.prepare(r.root, "")
	return r, nil
}

// prepare renames logical types and notes named ones under their full names.
func (r *avroReader) prepare(s any, namespace string) any {
	switch x := s.(type) {
	case []any:
		for i := range x {
			x[i] = r.prepare(x[i], namespace)
		}
	case map[string]any:
		if l, ok := x["logicalType"]; ok {
			delete(x, "logicalType")
			x[logicalKey] = l
		}
		if name, ok := x["name"].(string); ok && x["type"] != nil {
			switch x["type"] {
			case "record", "enum", "fixed":
				if ns, ok := x["namespace"].(string); ok {
					namespace = ns
				}
				if i := strings.LastIndexByte(name, '.'); i >= 0 {
					namespace = name[:i]
				}
				x[fullNameKey] = fullName(name, namespace)
				r.named[fullName(name, namespace)] = x
			}
		}
		if list, ok := x["fields"].([]any); ok {
			for _, f := range list {
				if field, ok := f.(map[string]any); ok {
					field["type"] = r.prepare(field["type"], namespace)
				}
			}
		}
		for _, k := range []string{"items", "values"} {
			if x[k] != nil {
				x[k] = r.prepare(x[k], namespace)
			}
		}
		// A type may be wrapped to carry properties: {"type": {"type": …}}.
		if inner, ok := x["type"].(map[string]any); ok {
			x["type"] = r.prepare(inner, namespace)
		}
	case string:
		if _, ok := r.named[fullName(x, namespace)]; ok {
			return fullName(x, namespace)
		}
	}
	return s
}

func fullName(name, namespace string) string {
	if namespace == "" || strings.Contains(name, ".") {
		return name
	}
	return namespace + "." + name
}

// read decodes one payload, which must be spent.
func (r *avroReader) read(payload []byte) (value any, err error) {
	// goavro trusts lengths in the data; what is on a topic is not ours to trust.
	defer func() {
		if p := recover(); p != nil {
			err = errors.New("the payload is not what its schema says")
		}
	}()
	native, rest, err := r.codec.NativeFromBinary(payload)
	if err != nil {
		return nil, fmt.Errorf("decode Avro: %w", err)
	}
	if len(rest) > 0 {
		return nil, fmt.Errorf("decode Avro: %d bytes are left over", len(rest))
	}
	return r.plain(r.root, native), nil
}

// object is a record with its fields in the schema's order.
type object []member

type member struct {
	name  string
	value any
}

func (o object) get(name string) any {
	for _, m := range o {
		if m.name == name {
			return m.value
		}
	}
	return nil
}

// MarshalJSON keeps the order.
func (o object) MarshalJSON() ([]byte, error) {
	b := []byte{'{'}
	for i, m := range o {
		if i > 0 {
			b = append(b, ',')
		}
		k, err := marshal(m.name)
		if err != nil {
			return nil, err
		}
		v, err := marshal(m.value)
		if err != nil {
			return nil, err
		}
		b = append(append(append(b, k...), ':'), v...)
	}
	return append(b, '}'), nil
}

// marshal is json.Marshal that leaves <, > and & as they are.
func marshal(v any) ([]byte, error) {
	var b bytes.Buffer
	e := json.NewEncoder(&b)
	e.SetEscapeHTML(false)
	err := e.Encode(v)
	return bytes.TrimRight(b.Bytes(), "\n"), err
}

// plain turns goavro's native form into ours, along the schema: unions lose their
// wrapping, records keep their order, logical types become text.
func (r *avroReader) plain(s, v any) any {
	switch x := s.(type) {
	case string:
		if named, ok := r.named[x]; ok {
			return r.plain(named, v)
		}
		return scalar(nil, v)
	case []any:
		wrapped, ok := v.(map[string]any)
		if !ok || len(wrapped) != 1 {
			return nil // the null branch
		}
		for branch, inner := range wrapped {
			for _, b := range x {
				if r.branchName(b) == branch {
					return r.plain(b, inner)
				}
			}
			return inner
		}
	case map[string]any:
		switch kind := x["type"].(type) {
		case map[string]any, []any:
			return r.plain(kind, v)
		case string:
			switch kind {
			case "record":
				fields, _ := x["fields"].([]any)
				values, _ := v.(map[string]any)
				o := make(object, 0, len(fields))
				for _, f := range fields {
					if field, ok := f.(map[string]any); ok {
						name, _ := field["name"].(string)
						o = append(o, member{name, r.plain(field["type"], values[name])})
					}
				}
				return o
			case "array":
				items, _ := v.([]any)
				list := make([]any, len(items))
				for i := range items {
					list[i] = r.plain(x["items"], items[i])
				}
				return list
			case "map":
				values, _ := v.(map[string]any)
				m := make(map[string]any, len(values))
				for k := range values {
					m[k] = r.plain(x["values"], values[k])
				}
				return m
			default:
				if named, ok := r.named[kind]; ok {
					return r.plain(named, v)
				}
				return scalar(x, v)
			}
		}
	}
	return v
}

// nameOf is the full name of a named type that prepare has seen, "" of any other.
func nameOf(s any) string {
	x, _ := s.(map[string]any)
	name, _ := x[fullNameKey].(string)
	return name
}

// branchName is goavro's name of a union's branch.
func (r *avroReader) branchName(b any) string {
	switch x := b.(type) {
	case string:
		return x
	case map[string]any:
		kind, _ := x["type"].(string)
		switch kind {
		case "record", "enum", "fixed":
			return nameOf(x)
		}
		return kind
	}
	return ""
}

// scalar applies a logical type.
func scalar(properties map[string]any, v any) any {
	logical, _ := properties[logicalKey].(string)
	switch n := v.(type) {
	case int32:
		if logical == "date" {
			switch n {
			case math.MaxInt32:
				return "infinity"
			case math.MinInt32:
				return "-infinity"
			}
			return time.Unix(int64(n)*86400, 0).UTC().Format("2006-01-02")
		}
		if logical == "time-millis" {
			return clock(int64(n) * 1000)
		}
	case int64:
		switch logical {
		case "timestamp-micros", "local-timestamp-micros", "timestamp-millis":
			switch n {
			case math.MaxInt64:
				return "infinity"
			case math.MinInt64:
				return "-infinity"
			}
			layout := "2006-01-02T15:04:05.999999"
			if logical == "timestamp-micros" {
				layout += "Z"
			}
			if logical == "timestamp-millis" { // of timestamps with and without a zone
				return time.UnixMilli(n).UTC().Format(layout)
			}
			return time.UnixMicro(n).UTC().Format(layout)
		case "time-micros":
			return clock(n)
		}
	case float32:
		return float(float64(n))
	case float64:
		return float(n)
	case []byte:
		if logical == "decimal" {
			scale, _ := properties["scale"].(float64)
			return json.Number(decimal(n, int(scale)))
		}
	}

	return v
}

// clock is a time of day, 24:00:00 included: Postgres has it, clocks do not.
func clock(micros int64) string {
	if micros == 86400e6 {
		return "24:00:00"
	}
	return time.UnixMicro(micros).UTC().Format("15:04:05.999999")
}

// float writes what JSON has no number for as text.
func float(f float64) any {
	if math.IsNaN(f) || math.IsInf(f, 0) {
		return fmt.Sprint(f)
	}
	return f
}

// decimal writes a big-endian two's complement integer with a scale.
func decimal(b []byte, scale int) string {
	i := new(big.Int).SetBytes(b)
	if len(b) > 0 && b[0]&0x80 != 0 {
		i.Sub(i, new(big.Int).Lsh(big.NewInt(1), uint(8*len(b))))
	}
	return new(big.Rat).SetFrac(i, new(big.Int).Exp(big.NewInt(10), big.NewInt(int64(scale)), nil)).FloatString(scale)
}

// schemas decodes keys and values of topics, asking the registry once for each id.
type schemas struct {
	fetch   func(id int32) (string, error)
	readers map[int32]*avroReader
}

// read decodes a record's key or value; id is the schema's. nil stays nil.
func (s *schemas) read(b []byte) (value any, id int32, err error) {
	if b == nil {
		return nil, 0, nil
	}
	id, payload, err := schema.ParseWire(b)
	if err != nil {
		return nil, 0, err
	}
	r := s.readers[id]
	if r == nil {
		text, err := s.fetch(id)
		if err != nil {
			return nil, id, err
		}
		if r, err = newAvroReader(text); err != nil {
			return nil, id, fmt.Errorf("schema %d: %w", id, err)
		}
		s.readers[id] = r
	}
	value, err = r.read(payload)
	return value, id, err
}
