package schema

import (
	"encoding/binary"
	"math"
	"strconv"
)

// Geometric types: their text, with floats as float8out prints them.

func binPoint(_ *scratch, _ *typ, dst, src []byte) ([]byte, error) {
	if len(src) != 16 {
		return dst, errSize
	}
	start := len(dst)
	return prefixLength(appendPoint(dst, src), start), nil
}

func binLine(_ *scratch, _ *typ, dst, src []byte) ([]byte, error) {
	if len(src) != 24 {
		return dst, errSize
	}
	start := len(dst)
	for i, before := range "{,," {
		dst = appendCoordinate(append(dst, byte(before)), src[8*i:])
	}
	return prefixLength(append(dst, '}'), start), nil
}

func binSegment(_ *scratch, _ *typ, dst, src []byte) ([]byte, error) {
	if len(src) != 32 {
		return dst, errSize
	}
	start := len(dst)
	dst = append(appendPoints(append(dst, '['), src), ']')
	return prefixLength(dst, start), nil
}

func binBox(_ *scratch, _ *typ, dst, src []byte) ([]byte, error) {
	if len(src) != 32 {
		return dst, errSize
	}
	start := len(dst)
	return prefixLength(appendPoints(dst, src), start), nil
}

func binPath(_ *scratch, _ *typ, dst, src []byte) ([]byte, error) {
	if len(src) < 5 || src[0] > 1 || uint64(len(src)) != 5+16*uint64(binary.BigEndian.Uint32(src[1:])) {
		return dst, errSize
	}
	start := len(dst)
	if src[0] == 1 {
		dst = append(appendPoints(append(dst, '('), src[5:]), ')')
	} else {
		dst = append(appendPoints(append(dst, '['), src[5:]), ']')
	}
	return prefixLength(dst, start), nil
}

func binPolygon(_ *scratch, _ *typ, dst, src []byte) ([]byte, error) {
	if len(src) < 4 || uint64(len(src)) != 4+16*uint64(binary.BigEndian.Uint32(src)) {
		return dst, errSize
	}
	start := len(dst)
	dst = append(appendPoints(append(dst, '('), src[4:]), ')')
	return prefixLength(dst, start), nil
}

func binCircle(_ *scratch, _ *typ, dst, src []byte) ([]byte, error) {
	if len(src) != 24 {
		return dst, errSize
	}
	start := len(dst)
	dst = appendPoint(append(dst, '<'), src)
	dst = append(appendCoordinate(append(dst, ','), src[16:]), '>')
	return prefixLength(dst, start), nil
}

func appendPoints(dst, src []byte) []byte {
	for i := 0; i < len(src); i += 16 {
		if i > 0 {
			dst = append(dst, ',')
		}
		dst = appendPoint(dst, src[i:])
	}
	return dst
}

func appendPoint(dst, src []byte) []byte {
	dst = appendCoordinate(append(dst, '('), src)
	dst = appendCoordinate(append(dst, ','), src[8:])
	return append(dst, ')')
}

func appendCoordinate(dst, src []byte) []byte {
	return appendFloatText(dst, math.Float64frombits(binary.BigEndian.Uint64(src)), 64)
}

// appendFloatText does as float4out and float8out under extra_float_digits of 1 and more; size is 32 or 64.
func appendFloatText(dst []byte, v float64, size int) []byte {
	switch {
	case v != v:
		return append(dst, "NaN"...)
	case v > math.MaxFloat64:
		return append(dst, "Infinity"...)
	case v < -math.MaxFloat64:
		return append(dst, "-Infinity"...)
	case v == 0 && math.Signbit(v):
		return append(dst, "-0"...)
	case v == 0:
		return append(dst, '0')
	}
	if v < 0 {
		dst, v = append(dst, '-'), -v
	}
	// Postgres prints the shortest text that lies strictly inside the interval of numbers that round to v
	// (src/common/d2s.c, acceptBounds false). Go takes a bound of it as well, where rounding half to even gives v: 1e+23
	// for what Postgres prints as 9.999999999999999e+22. So take one digit more until the text is strictly inside.
	var buf [32]byte
	longest, large := 17, 15 // digits that tell any two doubles apart; the first exponent to be printed (DBL_DIG)
	if size == 32 {
		longest, large = 9, 6
	}
	d, exponent := mantissa(strconv.AppendFloat(buf[:0], v, 'e', -1, size))
	for len(d) < longest && onBound(d, exponent, v, size) {
		d, exponent = mantissa(strconv.AppendFloat(buf[:0], v, 'e', len(d), size))
	}
	switch {
	case exponent < -4 || exponent >= large:
		dst = append(dst, d[0])
		if len(d) > 1 {
			dst = append(append(dst, '.'), d[1:]...)
		}
		dst = append(dst, 'e', '+')
		if exponent < 0 {
			dst[len(dst)-1], exponent = '-', -exponent
		}
		if exponent < 10 {
			dst = append(dst, '0')
		}
		return strconv.AppendInt(dst, int64(exponent), 10)
	case exponent < 0:
		dst = append(dst, "0.000"[:1-exponent]...)
		return append(dst, d...)
	case len(d) <= exponent+1:
		dst = append(dst, d...)
		return append(dst, "000000000000000"[:exponent+1-len(d)]...)
	}
	dst = append(append(dst, d[:exponent+1]...), '.')
	return append(dst, d[exponent+1:]...)
}

// mantissa takes d.dde±xx apart, in place: digits, without a point, and exponent.
func mantissa(e []byte) (digits []byte, exponent int) {
	at := 0
	for e[at] != 'e' {
		at++
	}
	exponent, _ = strconv.Atoi(unsafeString(e[at+1:])) // strconv wrote it
	if at > 1 {
		copy(e[1:], e[2:at])
		at--
	}
	return e[:at], exponent
}

// onBound says whether the least more or less than the number no longer rounds to v.
func onBound(digits []byte, exponent int, v float64, size int) bool {
	if size == 64 && math.Float64bits(v)&1 != 0 || size == 32 && math.Float32bits(float32(v))&1 != 0 {
		return false // only an even mantissa takes its bounds
	}
	const far = 30 // digits; no bound of a float with 17 digits or fewer is that near to another
	var buf [80]byte
	read := func(b []byte) float64 {
		b = strconv.AppendInt(append(b, 'e'), int64(exponent-len(digits)+1-far), 10)
		f, err := strconv.ParseFloat(unsafeString(b), size)
		if err != nil {
			return math.Inf(1)
		}
		return f
	}
	b := append(buf[:0], digits...)
	for range far - 1 {
		b = append(b, '0')
	}
	if read(append(b, '1')) != v {
		return true
	}
	b = append(buf[:0], digits...)
	i := len(b) - 1
	for ; b[i] == '0'; i-- {
		b[i] = '9'
	}
	b[i]--
	for range far {
		b = append(b, '9')
	}
	return read(b) != v
}
