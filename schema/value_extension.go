package schema

import (
	"bytes"
	"encoding/binary"
	"encoding/hex"
	"math"
	"strconv"
	"unicode/utf8"

	"walferry/decode"
)

// extensionType is the typ of a type that an extension brings, in whatever schema it is: nil where it is not one of these.
// Both names must fit, since two extensions have a type vector.
func (r *resolver) extensionType(d *decode.Type, name, path string) *typ {
	t := &typ{name: name, avro: r.textual(name)}
	property := r.postgresType(name)
	switch d.Extension + " " + d.Name {
	case "hstore hstore":
		t.avro = `{"type":"map","values":["null","string"]` + property + `}`
		t.bin, t.text, t.out = binHstore, textHstore, outHstore
	case "ltree ltree":
		t.avro = `{"type":"string"` + connectVersion + `,"connect.name":"io.debezium.data.Ltree"` + property + `}`
		t.bin, t.text, t.out = binVersioned, copyString, stripped(binVersioned)
	case "ltree lquery", "ltree ltxtquery":
		t.bin, t.text, t.out = binVersioned, copyString, stripped(binVersioned)
	case "postgis geometry", "postgis geography":
		t.avro = avroGeometry(d.Name, property, path)
		t.bin, t.text, t.out = binGeometry, textGeometry, outGeometry
	case "vector vector":
		t.avro = avroVector(property)
		t.bin, t.text, t.out = binVector, textVector, outVectorText
	case "vector halfvec":
		t.avro = avroVector(property)
		t.bin, t.text, t.out = binHalfvec, textVector, outHalfvecText
	case "vector sparsevec":
		t.avro = recordHead(path, "") + `,"fields":[{"name":"dimensions","type":"int"},{"name":"indices","type":{"type":"array","items":"int"}},` +
			`{"name":"values","type":{"type":"array","items":"float"}}],"connect.name":` + quote(path) + property + `}`
		t.bin, t.text, t.out = binSparsevec, textSparsevec, outSparsevecText
	default:
		return nil
	}
	return t
}

// An hstore is its count of pairs, then for each the length of its key and the key, the length of its value, -1 for null,
// and the value (hstore_send). Both forms have the keys in the order that it is stored in: by length, then by bytes.

// hstorePair cuts a pair off a binary hstore.
func hstorePair(src []byte) (key, value, rest []byte, null bool, err error) {
	key, src, null, err = sized(src)
	if err != nil || null {
		return nil, nil, nil, false, errSize
	}
	value, src, null, err = sized(src)
	if err != nil {
		return nil, nil, nil, false, err
	}
	if !utf8.Valid(key) || !utf8.Valid(value) {
		return nil, nil, nil, false, errUTF8
	}
	return key, value, src, null, nil
}

func hstoreHead(src []byte) (n int, rest []byte, err error) {
	if len(src) < 4 {
		return 0, nil, errSize
	}
	count := binary.BigEndian.Uint32(src)
	if src = src[4:]; int64(count) > int64(len(src)/8) {
		return 0, nil, errSize
	}
	return int(count), src, nil
}

func binHstore(_ *scratch, _ *typ, dst, src []byte) ([]byte, error) {
	n, src, err := hstoreHead(src)
	if err != nil {
		return dst, err
	}
	if n > 0 {
		dst = appendLong(dst, int64(n))
	}
	for range n {
		key, value, rest, null, err := hstorePair(src)
		if err != nil {
			return dst, err
		}
		src = rest
		dst = append(appendLong(dst, int64(len(key))), key...)
		if null {
			dst = append(dst, branchFirst)
			continue
		}
		dst = append(appendLong(append(dst, branchSecond), int64(len(value))), value...)
	}
	if len(src) != 0 {
		return dst, errSize
	}
	return append(dst, 0), nil
}

func outHstore(_ *scratch, _ *typ, dst, src []byte) ([]byte, error) {
	n, src, err := hstoreHead(src)
	if err != nil {
		return dst, err
	}
	for i := range n {
		key, value, rest, null, err := hstorePair(src)
		if err != nil {
			return dst, err
		}
		src = rest
		if i > 0 {
			dst = append(dst, ", "...)
		}
		start := len(dst)
		dst = append(quoteSince(append(dst, key...), start, true), "=>"...)
		if null {
			dst = append(dst, "NULL"...)
			continue
		}
		start = len(dst)
		dst = quoteSince(append(dst, value...), start, true)
	}
	if len(src) != 0 {
		return dst, errSize
	}
	return dst, nil
}

// textHstore reads "key"=>"value", "key"=>NULL (hstore_out).
func textHstore(_ *scratch, _ *typ, dst, src []byte) ([]byte, error) {
	if len(src) == 0 {
		return append(dst, 0), nil
	}
	if !utf8.Valid(src) {
		return dst, errUTF8
	}
	// Avro wants the count first, so the text is walked twice.
	n := int64(1)
	for rest := src; ; n++ {
		tail, more := hstoreText(rest, nil)
		if tail == nil {
			return dst, errText
		}
		if !more {
			break
		}
		rest = tail
	}
	dst = appendLong(dst, n)
	for more := true; more; {
		src, more = hstoreText(src, &dst)
	}
	return append(dst, 0), nil
}

// hstoreText reads a pair and what separates it from the next, and writes it to dst unless that is nil. The tail is nil
// where there is no pair.
func hstoreText(src []byte, dst *[]byte) (tail []byte, more bool) {
	src = hstoreString(src, dst)
	if len(src) < 2 || src[0] != '=' || src[1] != '>' {
		return nil, false
	}
	if src = src[2:]; bytes.HasPrefix(src, []byte("NULL")) {
		if src = src[4:]; dst != nil {
			*dst = append(*dst, branchFirst)
		}
	} else {
		if dst != nil {
			*dst = append(*dst, branchSecond)
		}
		if src = hstoreString(src, dst); src == nil {
			return nil, false
		}
	}
	if len(src) == 0 {
		return src, false
	}
	if len(src) < 3 || src[0] != ',' || src[1] != ' ' {
		return nil, false
	}
	return src[2:], true
}

// hstoreString reads a quoted string; nil where there is none.
func hstoreString(src []byte, dst *[]byte) (tail []byte) {
	if len(src) == 0 || src[0] != '"' {
		return nil
	}
	start := 0
	if dst != nil {
		start = len(*dst)
	}
	for i := 1; i < len(src); i++ {
		switch src[i] {
		case '"':
			if dst != nil {
				*dst = prefixLength(*dst, start)
			}
			return src[i+1:]
		case '\\':
			if i++; i == len(src) {
				return nil
			}
		}
		if dst != nil {
			*dst = append(*dst, src[i])
		}
	}
	return nil
}

// avroGeometry is Debezium's form of PostGIS' types.
func avroGeometry(kind, property, path string) string {
	kind = string(kind[0]-'a'+'A') + kind[1:] // Geometry, Geography
	return recordHead(path, "") + `,"fields":[{"name":"wkb","type":"bytes"},{"name":"srid","type":["null","int"],"default":null}]` +
		connectVersion + `,"connect.name":"io.debezium.data.geometry.` + kind + `"` + property + `}`
}

// binGeometry takes the EWKB that PostGIS sends, and its SRID out of it: byte order, type with flags, SRID if a flag says
// so (liblwgeom/lwin_wkb.c).
func binGeometry(_ *scratch, _ *typ, dst, src []byte) ([]byte, error) {
	srid, has, err := ewkbSRID(src)
	if err != nil {
		return dst, err
	}
	dst = append(appendLong(dst, int64(len(src))), src...)
	if !has {
		return append(dst, branchFirst), nil
	}
	return appendLong(append(dst, branchSecond), int64(srid)), nil
}

func ewkbSRID(b []byte) (srid int32, has bool, err error) {
	const flag = 0x20000000
	if len(b) < 5 || b[0] > 1 {
		return 0, false, &fault{reason: "the value is no EWKB"}
	}
	var order binary.ByteOrder = binary.BigEndian
	if b[0] == 1 {
		order = binary.LittleEndian
	}
	if order.Uint32(b[1:])&flag == 0 {
		return 0, false, nil
	}
	if len(b) < 9 {
		return 0, false, &fault{reason: "the value is no EWKB"}
	}
	return int32(order.Uint32(b[5:])), true, nil
}

// textGeometry reads the same in hexadecimal.
func textGeometry(s *scratch, t *typ, dst, src []byte) ([]byte, error) {
	mark := len(s.buf)
	defer func() { s.buf = s.buf[:mark] }()
	var err error
	if s.buf, err = hex.AppendDecode(s.buf, src); err != nil {
		return dst, errText
	}
	return binGeometry(s, t, dst, s.buf[mark:])
}

func outGeometry(_ *scratch, _ *typ, dst, src []byte) ([]byte, error) {
	start := len(dst)
	dst = hex.AppendEncode(dst, src)
	for i := start; i < len(dst); i++ {
		if dst[i] >= 'a' {
			dst[i] -= 'a' - 'A'
		}
	}
	return dst, nil
}

// pgvector's types (https://github.com/pgvector/pgvector). vector and halfvec are the number of dimensions, two unused
// bytes, and floats of 32 or 16 bits; sparsevec is the numbers of dimensions and of elements, four unused bytes, the
// indices of the elements, from 0 (the text counts from 1), and the elements as floats of 32 bits.

func avroVector(property string) string {
	return `{"type":"array","items":"float"` + connectVersion + `,"connect.name":"io.debezium.data.FloatVector"` + property + `}`
}

func vectorHead(src []byte, size int) (n int, rest []byte, err error) {
	if len(src) < 4 || binary.BigEndian.Uint16(src[2:]) != 0 {
		return 0, nil, errSize
	}
	n = int(binary.BigEndian.Uint16(src))
	if src = src[4:]; len(src) != n*size {
		return 0, nil, errSize
	}
	return n, src, nil
}

func binVector(_ *scratch, _ *typ, dst, src []byte) ([]byte, error) {
	n, src, err := vectorHead(src, 4)
	if err != nil {
		return dst, err
	}
	if n > 0 {
		dst = appendLong(dst, int64(n))
	}
	for ; len(src) > 0; src = src[4:] {
		dst = appendFloat4(dst, binary.BigEndian.Uint32(src))
	}
	return append(dst, 0), nil
}

func binHalfvec(_ *scratch, _ *typ, dst, src []byte) ([]byte, error) {
	n, src, err := vectorHead(src, 2)
	if err != nil {
		return dst, err
	}
	if n > 0 {
		dst = appendLong(dst, int64(n))
	}
	for ; len(src) > 0; src = src[2:] {
		dst = appendFloat4(dst, math.Float32bits(half(binary.BigEndian.Uint16(src))))
	}
	return append(dst, 0), nil
}

// half is a float of 16 bits (IEEE 754 binary16). A float32 holds it exactly.
func half(bits uint16) float32 {
	sign := uint32(bits>>15) << 31
	exponent, fraction := uint32(bits>>10&0x1f), uint32(bits&0x3ff)
	switch exponent {
	case 0: // subnormal, in units of 2^-24
		v := float32(fraction) * (1.0 / (1 << 24))
		return math.Float32frombits(math.Float32bits(v) | sign)
	case 0x1f:
		return math.Float32frombits(sign | 0x7f800000 | fraction<<13)
	}
	return math.Float32frombits(sign | (exponent+127-15)<<23 | fraction<<13)
}

func outVectorText(_ *scratch, _ *typ, dst, src []byte) ([]byte, error) {
	_, src, err := vectorHead(src, 4)
	if err != nil {
		return dst, err
	}
	dst = append(dst, '[')
	for i := 0; i < len(src); i += 4 {
		if i > 0 {
			dst = append(dst, ',')
		}
		dst = appendFloatText(dst, float64(math.Float32frombits(binary.BigEndian.Uint32(src[i:]))), 32)
	}
	return append(dst, ']'), nil
}

func outHalfvecText(_ *scratch, _ *typ, dst, src []byte) ([]byte, error) {
	_, src, err := vectorHead(src, 2)
	if err != nil {
		return dst, err
	}
	dst = append(dst, '[')
	for i := 0; i < len(src); i += 2 {
		if i > 0 {
			dst = append(dst, ',')
		}
		dst = appendFloatText(dst, float64(half(binary.BigEndian.Uint16(src[i:]))), 32)
	}
	return append(dst, ']'), nil
}

// textVector reads [1,2.5,3].
func textVector(_ *scratch, _ *typ, dst, src []byte) ([]byte, error) {
	if len(src) < 2 || src[0] != '[' || src[len(src)-1] != ']' {
		return dst, errText
	}
	src = src[1 : len(src)-1]
	if len(src) > 0 {
		dst = appendLong(dst, int64(bytes.Count(src, []byte(","))+1))
	}
	for len(src) > 0 {
		item, rest, more := bytes.Cut(src, []byte(","))
		v, ok := parseFloat(item, 32)
		if !ok || more && len(rest) == 0 {
			return dst, errText
		}
		dst = appendFloat4(dst, math.Float32bits(float32(v)))
		src = rest
	}
	return append(dst, 0), nil
}

func sparsevecHead(src []byte) (dimensions, n int, indices, values []byte, err error) {
	if len(src) < 12 || binary.BigEndian.Uint32(src[8:]) != 0 {
		return 0, 0, nil, nil, errSize
	}
	dimensions, n = int(int32(binary.BigEndian.Uint32(src))), int(int32(binary.BigEndian.Uint32(src[4:])))
	if src = src[12:]; dimensions < 0 || n < 0 || len(src) != 8*n {
		return 0, 0, nil, nil, errSize
	}
	for i := range n {
		if uint64(binary.BigEndian.Uint32(src[4*i:])) >= uint64(dimensions) {
			return 0, 0, nil, nil, errSize
		}
	}
	return dimensions, n, src[:4*n], src[4*n:], nil
}

func binSparsevec(_ *scratch, _ *typ, dst, src []byte) ([]byte, error) {
	dimensions, n, indices, values, err := sparsevecHead(src)
	if err != nil {
		return dst, err
	}
	dst = appendLong(dst, int64(dimensions))
	if n > 0 {
		dst = appendLong(dst, int64(n))
	}
	for ; len(indices) > 0; indices = indices[4:] {
		dst = appendLong(dst, int64(binary.BigEndian.Uint32(indices))+1)
	}
	if dst = append(dst, 0); n > 0 {
		dst = appendLong(dst, int64(n))
	}
	for ; len(values) > 0; values = values[4:] {
		dst = appendFloat4(dst, binary.BigEndian.Uint32(values))
	}
	return append(dst, 0), nil
}

func outSparsevecText(_ *scratch, _ *typ, dst, src []byte) ([]byte, error) {
	dimensions, n, indices, values, err := sparsevecHead(src)
	if err != nil {
		return dst, err
	}
	dst = append(dst, '{')
	for i := range n {
		if i > 0 {
			dst = append(dst, ',')
		}
		dst = strconv.AppendInt(dst, int64(binary.BigEndian.Uint32(indices[4*i:]))+1, 10)
		dst = appendFloatText(append(dst, ':'), float64(math.Float32frombits(binary.BigEndian.Uint32(values[4*i:]))), 32)
	}
	return strconv.AppendInt(append(dst, "}/"...), int64(dimensions), 10), nil
}

// textSparsevec reads {1:1.5,3:2}/5.
func textSparsevec(_ *scratch, _ *typ, dst, src []byte) ([]byte, error) {
	list, tail, ok := bytes.Cut(src, []byte("}/"))
	dimensions, ok2 := parseInt(tail)
	if !ok || !ok2 || dimensions < 0 || dimensions > math.MaxInt32 || len(list) < 1 || list[0] != '{' {
		return dst, errText
	}
	list = list[1:]
	dst = appendLong(dst, dimensions)
	n := int64(0)
	if len(list) > 0 {
		n = int64(bytes.Count(list, []byte(","))) + 1
	}
	for pass := range 2 {
		if n > 0 {
			dst = appendLong(dst, n)
		}
		rest := list
		for range n {
			var item []byte
			item, rest, _ = bytes.Cut(rest, []byte(","))
			index, value, _ := bytes.Cut(item, []byte(":"))
			i, ok := parseInt(index)
			v, ok2 := parseFloat(value, 32)
			if !ok || !ok2 || i < 1 || i > dimensions {
				return dst, errText
			}
			if pass == 0 {
				dst = appendLong(dst, i)
			} else {
				dst = appendFloat4(dst, math.Float32bits(float32(v)))
			}
		}
		dst = append(dst, 0)
	}
	return dst, nil
}
