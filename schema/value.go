package schema

import (
	"encoding/binary"
	"encoding/hex"
	"math"
	"strconv"
	"unicode/utf8"
	"unsafe"
)

// The value functions below read what the send and output functions of src/backend/utils/adt write. Bytes come from
// outside: each function checks lengths before it reads.

var (
	errSize = &fault{reason: "the binary value has a wrong length"}
	errText = &fault{reason: "the text is not a value of this type; are the session's settings pinned?"}
	errUTF8 = &fault{
		reason: "the text is not UTF-8",
		remedy: "mend the value before it is written, or exclude the column with source.exclude_columns (a database in encoding SQL_ASCII does not check its text)",
	}
)

// unsafeString is b as a string, without a copy, for calls that do not keep it.
func unsafeString(b []byte) string { return unsafe.String(unsafe.SliceData(b), len(b)) }

func binBool(_ *scratch, _ *typ, dst, src []byte) ([]byte, error) {
	if len(src) != 1 || src[0] > 1 {
		return dst, errSize
	}
	return append(dst, src[0]), nil
}

func textBool(_ *scratch, _ *typ, dst, src []byte) ([]byte, error) {
	if len(src) == 1 && src[0] == 't' {
		return append(dst, 1), nil
	}
	if len(src) == 1 && src[0] == 'f' {
		return append(dst, 0), nil
	}
	return dst, errText
}

func binInt2(_ *scratch, _ *typ, dst, src []byte) ([]byte, error) {
	if len(src) != 2 {
		return dst, errSize
	}
	return appendLong(dst, int64(int16(binary.BigEndian.Uint16(src)))), nil
}

func binInt4(_ *scratch, _ *typ, dst, src []byte) ([]byte, error) {
	if len(src) != 4 {
		return dst, errSize
	}
	return appendLong(dst, int64(int32(binary.BigEndian.Uint32(src)))), nil
}

func binInt8(_ *scratch, _ *typ, dst, src []byte) ([]byte, error) {
	if len(src) != 8 {
		return dst, errSize
	}
	return appendLong(dst, int64(binary.BigEndian.Uint64(src))), nil
}

func binUint4(_ *scratch, _ *typ, dst, src []byte) ([]byte, error) {
	if len(src) != 4 {
		return dst, errSize
	}
	return appendLong(dst, int64(binary.BigEndian.Uint32(src))), nil
}

func textInt2(_ *scratch, _ *typ, dst, src []byte) ([]byte, error) {
	return textInt(dst, src, math.MinInt16, math.MaxInt16)
}

func textInt4(_ *scratch, _ *typ, dst, src []byte) ([]byte, error) {
	return textInt(dst, src, math.MinInt32, math.MaxInt32)
}

func textInt8(_ *scratch, _ *typ, dst, src []byte) ([]byte, error) {
	return textInt(dst, src, math.MinInt64, math.MaxInt64)
}

func textUint4(_ *scratch, _ *typ, dst, src []byte) ([]byte, error) {
	return textInt(dst, src, 0, math.MaxUint32)
}

func textInt(dst, src []byte, lowest, highest int64) ([]byte, error) {
	v, ok := parseInt(src)
	if !ok || v < lowest || v > highest {
		return dst, errText
	}
	return appendLong(dst, v), nil
}

// parseInt reads a decimal number with an optional minus, as Postgres prints integers.
func parseInt(src []byte) (int64, bool) {
	digits := src
	negative := len(src) > 0 && src[0] == '-'
	if negative {
		digits = src[1:]
	}
	if len(digits) == 0 || len(digits) > 19 {
		return 0, false
	}
	var v uint64
	for _, c := range digits {
		if c < '0' || c > '9' {
			return 0, false
		}
		v = v*10 + uint64(c-'0') // 19 digits are below 2^64
	}
	if negative {
		return -int64(v), v <= 1<<63
	}
	return int64(v), v < 1<<63
}

// A float's NaN can have any payload and sign; text has one NaN. Both forms become Postgres' own.
const (
	nan32 = 0x7fc00000
	nan64 = 0x7ff8000000000000
)

func appendFloat4(dst []byte, bits uint32) []byte {
	if v := math.Float32frombits(bits); v != v {
		bits = nan32
	}
	return binary.LittleEndian.AppendUint32(dst, bits)
}

func appendFloat8(dst []byte, bits uint64) []byte {
	if v := math.Float64frombits(bits); v != v {
		bits = nan64
	}
	return binary.LittleEndian.AppendUint64(dst, bits)
}

func binFloat4(_ *scratch, _ *typ, dst, src []byte) ([]byte, error) {
	if len(src) != 4 {
		return dst, errSize
	}
	return appendFloat4(dst, binary.BigEndian.Uint32(src)), nil
}

func binFloat8(_ *scratch, _ *typ, dst, src []byte) ([]byte, error) {
	if len(src) != 8 {
		return dst, errSize
	}
	return appendFloat8(dst, binary.BigEndian.Uint64(src)), nil
}

func textFloat4(_ *scratch, _ *typ, dst, src []byte) ([]byte, error) {
	v, ok := parseFloat(src, 32)
	if !ok {
		return dst, errText
	}
	return appendFloat4(dst, math.Float32bits(float32(v))), nil
}

func textFloat8(_ *scratch, _ *typ, dst, src []byte) ([]byte, error) {
	v, ok := parseFloat(src, 64)
	if !ok {
		return dst, errText
	}
	return appendFloat8(dst, math.Float64bits(v)), nil
}

func parseFloat(src []byte, size int) (float64, bool) {
	switch string(src) {
	case "NaN":
		return math.NaN(), true
	case "Infinity":
		return math.Inf(1), true
	case "-Infinity":
		return math.Inf(-1), true
	}
	for _, c := range src { // ParseFloat takes more: hexadecimal, underscores, other words
		if (c < '0' || c > '9') && c != '.' && c != '-' && c != '+' && c != 'e' {
			return 0, false
		}
	}
	v, err := strconv.ParseFloat(unsafeString(src), size)
	return v, err == nil
}

// copyString is for values that are their text in either form.
func copyString(_ *scratch, _ *typ, dst, src []byte) ([]byte, error) {
	if !utf8.Valid(src) {
		return dst, errUTF8
	}
	dst = appendLong(dst, int64(len(src)))
	return append(dst, src...), nil
}

// binVersioned is a version byte and the text: jsonb_send, jsonpath_send.
func binVersioned(s *scratch, t *typ, dst, src []byte) ([]byte, error) {
	if len(src) < 1 || src[0] != 1 {
		return dst, &fault{reason: "the binary value has a version that is not known"}
	}
	return copyString(s, t, dst, src[1:])
}

// binChar: one byte. Zero prints as nothing, and a byte beyond ASCII as \ooo (since 16; before as itself, which is no
// UTF-8).
func binChar(_ *scratch, _ *typ, dst, src []byte) ([]byte, error) {
	if len(src) != 1 {
		return dst, errSize
	}
	switch c := src[0]; {
	case c == 0:
		return append(dst, 0), nil
	case c < 0x80:
		return append(dst, 2, c), nil
	default:
		return append(dst, 8, '\\', '0'+c>>6, '0'+c>>3&7, '0'+c&7), nil
	}
}

func textChar(s *scratch, t *typ, dst, src []byte) ([]byte, error) {
	switch {
	case len(src) == 0:
		return append(dst, 0), nil
	case len(src) == 1:
		return binChar(s, t, dst, src)
	case len(src) == 4 && src[0] == '\\':
		return copyString(s, t, dst, src)
	}
	return dst, errText
}

// textCharArray takes the text of a whole array. Before 16 an element beyond ASCII is that byte, which is no UTF-8; since then
// it is in quotes, for its backslash.
func textCharArray(_ *scratch, _ *typ, dst, src []byte) ([]byte, error) {
	start := len(dst)
	for _, c := range src {
		if c < 0x80 {
			dst = append(dst, c)
		} else {
			dst = append(dst, '"', '\\', '\\', '0'+c>>6, '0'+c>>3&7, '0'+c&7, '"')
		}
	}
	return prefixLength(dst, start), nil
}

func binBytea(_ *scratch, _ *typ, dst, src []byte) ([]byte, error) {
	dst = appendLong(dst, int64(len(src)))
	return append(dst, src...), nil
}

// textBytea reads both of bytea_output's forms, which cannot be taken for each other: a value in escape form never
// begins with \x, its backslashes are doubled.
func textBytea(_ *scratch, _ *typ, dst, src []byte) ([]byte, error) {
	start := len(dst)
	if len(src) >= 2 && src[0] == '\\' && src[1] == 'x' {
		if len(src)%2 != 0 {
			return dst, errText
		}
		n := (len(src) - 2) / 2
		dst = appendLong(dst, int64(n))
		at := len(dst)
		dst = append(dst, src[2:2+n]...) // makes room
		if _, err := hex.Decode(dst[at:], src[2:]); err != nil {
			return dst[:start], errText
		}
		return dst, nil
	}
	for i := 0; i < len(src); i++ {
		c := src[i]
		switch {
		case c != '\\':
			dst = append(dst, c)
		case i+1 < len(src) && src[i+1] == '\\':
			dst = append(dst, '\\')
			i++
		case i+3 < len(src) && src[i+1]-'0' <= 3 && src[i+2]-'0' <= 7 && src[i+3]-'0' <= 7:
			dst = append(dst, (src[i+1]-'0')<<6|(src[i+2]-'0')<<3|(src[i+3]-'0'))
			i += 3
		default:
			return dst[:start], errText
		}
	}
	return prefixLength(dst, start), nil
}

const lowerHex = "0123456789abcdef"

func binUUID(_ *scratch, _ *typ, dst, src []byte) ([]byte, error) {
	if len(src) != 16 {
		return dst, errSize
	}
	dst = appendLong(dst, 36)
	for i, c := range src {
		if i == 4 || i == 6 || i == 8 || i == 10 {
			dst = append(dst, '-')
		}
		dst = append(dst, lowerHex[c>>4], lowerHex[c&15])
	}
	return dst, nil
}

func textUUID(_ *scratch, _ *typ, dst, src []byte) ([]byte, error) {
	if len(src) != 36 {
		return dst, errText
	}
	for i, c := range src {
		if i == 8 || i == 13 || i == 18 || i == 23 {
			if c != '-' {
				return dst, errText
			}
		} else if (c < '0' || c > '9') && (c < 'a' || c > 'f') {
			return dst, errText
		}
	}
	dst = appendLong(dst, 36)
	return append(dst, src...), nil
}

// binBits: number of bits, then the bits from the highest of the first byte on (varbit_send).
func binBits(_ *scratch, _ *typ, dst, src []byte) ([]byte, error) {
	if len(src) < 4 {
		return dst, errSize
	}
	n := int64(int32(binary.BigEndian.Uint32(src)))
	src = src[4:]
	if n < 0 || int64(len(src)) != (n+7)/8 {
		return dst, errSize
	}
	dst = appendLong(dst, n)
	for i := range n {
		dst = append(dst, '0'+src[i/8]>>(7-i%8)&1)
	}
	return dst, nil
}

func textBits(_ *scratch, _ *typ, dst, src []byte) ([]byte, error) {
	for _, c := range src {
		if c != '0' && c != '1' {
			return dst, errText
		}
	}
	dst = appendLong(dst, int64(len(src)))
	return append(dst, src...), nil
}

func binUint4Text(_ *scratch, _ *typ, dst, src []byte) ([]byte, error) {
	if len(src) != 4 {
		return dst, errSize
	}
	start := len(dst)
	return prefixLength(strconv.AppendUint(dst, uint64(binary.BigEndian.Uint32(src)), 10), start), nil
}

func binUint8Text(_ *scratch, _ *typ, dst, src []byte) ([]byte, error) {
	if len(src) != 8 {
		return dst, errSize
	}
	start := len(dst)
	return prefixLength(strconv.AppendUint(dst, binary.BigEndian.Uint64(src), 10), start), nil
}

// appendHexUpper appends v in upper-case hexadecimal without leading zeros.
func appendHexUpper(dst []byte, v uint32) []byte {
	start := len(dst)
	dst = strconv.AppendUint(dst, uint64(v), 16)
	for i := start; i < len(dst); i++ {
		if dst[i] >= 'a' {
			dst[i] -= 'a' - 'A'
		}
	}
	return dst
}

func binLSN(_ *scratch, _ *typ, dst, src []byte) ([]byte, error) {
	if len(src) != 8 {
		return dst, errSize
	}
	start := len(dst)
	dst = appendHexUpper(dst, binary.BigEndian.Uint32(src))
	dst = append(dst, '/')
	return prefixLength(appendHexUpper(dst, binary.BigEndian.Uint32(src[4:])), start), nil
}

func binTID(_ *scratch, _ *typ, dst, src []byte) ([]byte, error) {
	if len(src) != 6 {
		return dst, errSize
	}
	start := len(dst)
	dst = strconv.AppendUint(append(dst, '('), uint64(binary.BigEndian.Uint32(src)), 10)
	dst = strconv.AppendUint(append(dst, ','), uint64(binary.BigEndian.Uint16(src[4:])), 10)
	return prefixLength(append(dst, ')'), start), nil
}

// binSnapshot: count, xmin, xmax, the transactions in progress (pg_snapshot_send).
func binSnapshot(_ *scratch, _ *typ, dst, src []byte) ([]byte, error) {
	if len(src) < 20 || uint64(len(src)) != 20+8*uint64(binary.BigEndian.Uint32(src)) {
		return dst, errSize
	}
	start := len(dst)
	dst = strconv.AppendUint(dst, binary.BigEndian.Uint64(src[4:]), 10)
	dst = strconv.AppendUint(append(dst, ':'), binary.BigEndian.Uint64(src[12:]), 10)
	dst = append(dst, ':')
	for i := 20; i < len(src); i += 8 {
		if i > 20 {
			dst = append(dst, ',')
		}
		dst = strconv.AppendUint(dst, binary.BigEndian.Uint64(src[i:]), 10)
	}
	return prefixLength(dst, start), nil
}

// binTSVector: count, then for each lexeme its text, a zero, and its positions with their weights (tsvectorsend).
func binTSVector(_ *scratch, _ *typ, dst, src []byte) ([]byte, error) {
	if len(src) < 4 {
		return dst, errSize
	}
	n := binary.BigEndian.Uint32(src)
	src = src[4:]
	start := len(dst)
	for i := range n {
		if i > 0 {
			dst = append(dst, ' ')
		}
		dst = append(dst, '\'')
		end := 0
		for ; end < len(src) && src[end] != 0; end++ {
			if c := src[end]; c == '\'' || c == '\\' {
				dst = append(dst, c)
			}
			dst = append(dst, src[end])
		}
		dst = append(dst, '\'')
		if end+3 > len(src) {
			return dst[:start], errSize
		}
		if !utf8.Valid(src[:end]) {
			return dst[:start], errUTF8
		}
		positions := int(binary.BigEndian.Uint16(src[end+1:]))
		src = src[end+3:]
		if len(src) < 2*positions {
			return dst[:start], errSize
		}
		for p := range positions {
			if p == 0 {
				dst = append(dst, ':')
			} else {
				dst = append(dst, ',')
			}
			v := binary.BigEndian.Uint16(src[2*p:])
			dst = strconv.AppendUint(dst, uint64(v&0x3fff), 10)
			if w := v >> 14; w > 0 {
				dst = append(dst, "DCBA"[w])
			}
		}
		src = src[2*positions:]
	}
	if len(src) != 0 {
		return dst[:start], errSize
	}
	return prefixLength(dst, start), nil
}
