package schema

import (
	"encoding/base64"
	"encoding/binary"
	"encoding/hex"
	"math"
	"strconv"
)

// The functions of this file append what the output functions print, out of the binary form, for types whose Avro value is
// not that text: what ranges, and arrays and composites as text, are made of.

// binOut writes the text that Postgres prints as a string.
func binOut(s *scratch, t *typ, dst, src []byte) ([]byte, error) {
	start := len(dst)
	dst, err := t.out(s, t, dst, src)
	if err != nil {
		return dst, err
	}
	return prefixLength(dst, start), nil
}

// stripped is the out of a type whose bin writes the text as a string: it takes the length off again.
func stripped(bin valueFunc) valueFunc {
	return func(s *scratch, t *typ, dst, src []byte) ([]byte, error) {
		start := len(dst)
		dst, err := bin(s, t, dst, src)
		if err != nil {
			return dst, err
		}
		_, n := binary.Varint(dst[start:])
		return append(dst[:start], dst[start+n:]...), nil
	}
}

func outBool(s *scratch, t *typ, dst, src []byte) ([]byte, error) {
	if len(src) != 1 || src[0] > 1 {
		return dst, errSize
	}
	return append(dst, "ft"[src[0]]), nil
}

func outInt2(_ *scratch, _ *typ, dst, src []byte) ([]byte, error) {
	if len(src) != 2 {
		return dst, errSize
	}
	return strconv.AppendInt(dst, int64(int16(binary.BigEndian.Uint16(src))), 10), nil
}

func outInt4(_ *scratch, _ *typ, dst, src []byte) ([]byte, error) {
	if len(src) != 4 {
		return dst, errSize
	}
	return strconv.AppendInt(dst, int64(int32(binary.BigEndian.Uint32(src))), 10), nil
}

func outInt8(_ *scratch, _ *typ, dst, src []byte) ([]byte, error) {
	if len(src) != 8 {
		return dst, errSize
	}
	return strconv.AppendInt(dst, int64(binary.BigEndian.Uint64(src)), 10), nil
}

func outUint4(_ *scratch, _ *typ, dst, src []byte) ([]byte, error) {
	if len(src) != 4 {
		return dst, errSize
	}
	return strconv.AppendUint(dst, uint64(binary.BigEndian.Uint32(src)), 10), nil
}

func outFloat4(_ *scratch, _ *typ, dst, src []byte) ([]byte, error) {
	if len(src) != 4 {
		return dst, errSize
	}
	return appendFloatText(dst, float64(math.Float32frombits(binary.BigEndian.Uint32(src))), 32), nil
}

func outFloat8(_ *scratch, _ *typ, dst, src []byte) ([]byte, error) {
	if len(src) != 8 {
		return dst, errSize
	}
	return appendFloatText(dst, math.Float64frombits(binary.BigEndian.Uint64(src)), 64), nil
}

// outMoney prints as cash_out does under lc_monetary C.
func outMoney(_ *scratch, _ *typ, dst, src []byte) ([]byte, error) {
	if len(src) != 8 {
		return dst, errSize
	}
	v := int64(binary.BigEndian.Uint64(src))
	u := uint64(v)
	if v < 0 {
		dst, u = append(dst, '-'), -u
	}
	dst = append(dst, '$')
	start := len(dst)
	dst = strconv.AppendUint(dst, u/100, 10)
	for i := len(dst) - 3; i > start; i -= 3 {
		dst = append(dst, 0)
		copy(dst[i+1:], dst[i:])
		dst[i] = ','
	}
	return append2(append(dst, '.'), int64(u%100)), nil
}

func outBytea(_ *scratch, _ *typ, dst, src []byte) ([]byte, error) {
	return hex.AppendEncode(append(dst, `\x`...), src), nil
}

func outTime(_ *scratch, _ *typ, dst, src []byte) ([]byte, error) {
	if len(src) != 8 {
		return dst, errSize
	}
	v := int64(binary.BigEndian.Uint64(src))
	if v < 0 || v > dayMicros {
		return dst, errRange
	}
	return appendClock(dst, v), nil
}

// outTimeTZ leaves out minutes of the offset where there are none, unlike the Avro value.
func outTimeTZ(s *scratch, t *typ, dst, src []byte) ([]byte, error) {
	dst, err := clockAndOffset(s, t, dst, src)
	// What ends with ±HH:00 has no seconds: two more characters and a colon would stand there.
	if n := len(dst); err == nil && (dst[n-6] == '+' || dst[n-6] == '-') && string(dst[n-3:]) == ":00" {
		dst = dst[:n-3]
	}
	return dst, err
}

var clockAndOffset = stripped(binTimeTZ)

func binHex(_ *scratch, _ *typ, dst, src []byte) ([]byte, error) {
	return hex.AppendEncode(appendLong(dst, int64(hex.EncodedLen(len(src)))), src), nil
}

func binBase64(_ *scratch, _ *typ, dst, src []byte) ([]byte, error) {
	return base64.StdEncoding.AppendEncode(appendLong(dst, int64(base64.StdEncoding.EncodedLen(len(src)))), src), nil
}

func textHex(s *scratch, t *typ, dst, src []byte) ([]byte, error) {
	return s.reread(binHex, t, dst, src)
}

func textBase64(s *scratch, t *typ, dst, src []byte) ([]byte, error) {
	return s.reread(binBase64, t, dst, src)
}

// reread turns the text of a bytea into its bytes first.
func (s *scratch) reread(bin valueFunc, t *typ, dst, src []byte) ([]byte, error) {
	mark := len(s.buf)
	defer func() { s.buf = s.buf[:mark] }()
	var err error
	if s.buf, err = textBytea(s, t, s.buf, src); err != nil {
		return dst, err
	}
	_, n := binary.Varint(s.buf[mark:])
	return bin(s, t, dst, s.buf[mark+n:])
}

// enumSymbol is an Avro enum: the place of the label.
func enumSymbol(_ *scratch, t *typ, dst, src []byte) ([]byte, error) {
	i, ok := t.symbols[unsafeString(src)]
	if !ok {
		return dst, &fault{
			reason: "the label is not among those that the description of the type has",
			remedy: "the type was changed since its description was read; start again",
			stale:  true,
		}
	}
	return appendLong(dst, i), nil
}
