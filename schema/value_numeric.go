package schema

import (
	"encoding/binary"
	"math"
	"math/bits"
	"strconv"
)

// Signs of a binary numeric, which is: count of digits, weight of the first, sign, display scale (each 16 bits), then
// the digits to base 10,000 (numeric_send). The value is the sum of digit[i] · 10000^(weight-i).
const (
	numericPositive = 0x0000
	numericNegative = 0x4000
	numericNaN      = 0xc000
	numericPInf     = 0xd000
	numericNInf     = 0xf000
)

var errNoDecimal = &fault{
	reason: "NaN and Infinity have no decimal form",
	remedy: "set `numeric: string` for it in schema.columns, or exclude it with source.exclude_columns",
}

var errNoScale = &fault{
	reason: "NaN and Infinity have no unscaled value",
	remedy: "set `numeric_unconstrained: string` for it in schema.columns, which the registry takes for an incompatible change (schema.on_incompatible), or exclude it with source.exclude_columns",
}

var errDouble = &fault{
	reason: "the value is beyond the range of a double",
	remedy: "choose another form than double for it in schema.columns, which the registry takes for an incompatible change (schema.on_incompatible), or exclude it with source.exclude_columns",
}

// numericHeader checks a binary numeric and takes it apart.
func numericHeader(src []byte) (digits []byte, weight int, sign uint16, dscale int, ok bool) {
	if len(src) < 8 {
		return nil, 0, 0, 0, false
	}
	digits = src[8:]
	weight = int(int16(binary.BigEndian.Uint16(src[2:])))
	sign = binary.BigEndian.Uint16(src[4:])
	dscale = int(binary.BigEndian.Uint16(src[6:]))
	if len(digits) != 2*int(binary.BigEndian.Uint16(src)) || dscale > 0x3fff {
		return nil, 0, 0, 0, false
	}
	for i := 0; i < len(digits); i += 2 {
		if binary.BigEndian.Uint16(digits[i:]) > 9999 {
			return nil, 0, 0, 0, false
		}
	}
	return digits, weight, sign, dscale, true
}

func numericDigit(digits []byte, i int) uint64 {
	if i < 0 || 2*i >= len(digits) {
		return 0
	}
	return uint64(binary.BigEndian.Uint16(digits[2*i:]))
}

var pow10 = [...]uint64{1, 10, 100, 1000, 10000, 1e5, 1e6, 1e7, 1e8, 1e9, 1e10, 1e11, 1e12, 1e13, 1e14, 1e15, 1e16, 1e17, 1e18, 1e19}

// binDecimal writes a numeric(p,s): its unscaled value at t.scale as two's complement, big-endian, shortest.
func binDecimal(s *scratch, t *typ, dst, src []byte) ([]byte, error) {
	digits, weight, sign, _, ok := numericHeader(src)
	if !ok {
		return dst, errSize
	}
	switch sign {
	case numericPositive, numericNegative:
	case numericNaN, numericPInf, numericNInf:
		return dst, errNoDecimal
	default:
		return dst, errSize
	}
	digits, weight = trimLeading(digits, weight)
	if len(digits) == 0 {
		return append(dst, 2, 0), nil // one zero byte
	}
	leading := 1
	for first := numericDigit(digits, 0); leading < 4 && first >= pow10[leading]; {
		leading++
	}
	if 4*weight+leading > t.precision-t.scale { // bounds what follows, too
		return dst, errDigits(t)
	}
	if !s.unscaled(digits, weight, t.scale) {
		return dst, errScale(t)
	}
	return s.appendDecimal(dst, sign == numericNegative), nil
}

// trimLeading drops zero digits from the front, which stored numerics do not have.
func trimLeading(digits []byte, weight int) ([]byte, int) {
	for len(digits) > 0 && numericDigit(digits, 0) == 0 {
		digits, weight = digits[2:], weight-1
	}
	return digits, weight
}

// unscaled puts the magnitude at a scale into s.words, and says whether that is all of it.
func (s *scratch) unscaled(digits []byte, weight, scale int) bool {
	s.words = s.words[:0]
	// Digit i stands for 10^(4·(weight-i)). It is whole at the scale while 4·(weight-i)+scale ≥ 0.
	last := weight + scale/4
	m, a := uint64(1), uint64(0) // four digits go into one word at a time
	for i := 0; i <= last; i++ {
		m, a = m*10000, a*10000+numericDigit(digits, i)
		if m == 1e16 || i == last {
			s.mulAdd(m, a)
			m, a = 1, 0
		}
	}
	next := max(last+1, 0)
	if rest := scale % 4; rest > 0 && last >= -1 {
		d := numericDigit(digits, last+1)
		cut := pow10[4-rest]
		if d%cut != 0 {
			return false
		}
		s.mulAdd(pow10[rest], d/cut)
		next = last + 2
	}
	for i := next; 2*i < len(digits); i++ {
		if numericDigit(digits, i) != 0 {
			return false
		}
	}
	return true
}

// binVariableScale writes the display scale and the unscaled value at it.
func binVariableScale(s *scratch, _ *typ, dst, src []byte) ([]byte, error) {
	digits, weight, sign, dscale, ok := numericHeader(src)
	if !ok {
		return dst, errSize
	}
	switch sign {
	case numericPositive, numericNegative:
	case numericNaN, numericPInf, numericNInf:
		return dst, errNoScale
	default:
		return dst, errSize
	}
	digits, weight = trimLeading(digits, weight)
	if len(digits) == 0 {
		return append(appendLong(dst, int64(dscale)), 2, 0), nil
	}
	if !s.unscaled(digits, weight, dscale) {
		return dst, errSize
	}
	return s.appendDecimal(appendLong(dst, int64(dscale)), sign == numericNegative), nil
}

func textVariableScale(s *scratch, _ *typ, dst, src []byte) ([]byte, error) {
	whole, fraction, negative, ok := splitNumeric(src)
	switch {
	case !ok && isNotFinite(src):
		return dst, errNoScale
	case !ok || len(fraction) > 0x3fff:
		return dst, errText
	}
	s.words = s.words[:0]
	s.addDigits(whole)
	s.addDigits(fraction)
	return s.appendDecimal(appendLong(dst, int64(len(fraction))), negative), nil
}

// binNumericDouble writes the nearest double.
func binNumericDouble(s *scratch, t *typ, dst, src []byte) ([]byte, error) {
	mark := len(s.buf)
	defer func() { s.buf = s.buf[:mark] }()
	var err error
	if s.buf, err = appendNumeric(s, t, s.buf, src); err != nil {
		return dst, err
	}
	return textNumericDouble(s, t, dst, s.buf[mark:])
}

func textNumericDouble(_ *scratch, _ *typ, dst, src []byte) ([]byte, error) {
	if _, _, _, ok := splitNumeric(src); !ok && !isNotFinite(src) {
		return dst, errText
	}
	v, ok := parseFloat(src, 64)
	if !ok {
		return dst, errDouble
	}
	return appendFloat8(dst, math.Float64bits(v)), nil
}

// textDecimal does the same for the text.
func textDecimal(s *scratch, t *typ, dst, src []byte) ([]byte, error) {
	whole, fraction, negative, ok := splitNumeric(src)
	if !ok {
		if isNotFinite(src) {
			return dst, errNoDecimal
		}
		return dst, errText
	}
	for len(whole) > 0 && whole[0] == '0' {
		whole = whole[1:]
	}
	if len(whole) > max(t.precision-t.scale, 0) {
		return dst, errDigits(t)
	}
	for len(fraction) > t.scale {
		if fraction[len(fraction)-1] != '0' {
			return dst, errScale(t)
		}
		fraction = fraction[:len(fraction)-1]
	}
	s.words = s.words[:0]
	s.addDigits(whole)
	s.addDigits(fraction)
	for pad := t.scale - len(fraction); pad > 0; pad -= 19 {
		s.mulAdd(pow10[min(pad, 19)], 0)
	}
	return s.appendDecimal(dst, negative), nil
}

func errDigits(t *typ) error {
	return &fault{
		reason: "the value has more than " + strconv.Itoa(t.precision-t.scale) + " digits before the point",
		remedy: "the table's definition has changed since its description was read; start again",
	}
}

func errScale(t *typ) error {
	return &fault{
		reason: "the value has more than " + strconv.Itoa(t.scale) + " digits after the point",
		remedy: "the table's definition has changed since its description was read; start again",
	}
}

func isNotFinite(src []byte) bool {
	switch string(src) {
	case "NaN", "Infinity", "-Infinity":
		return true
	}
	return false
}

// splitNumeric takes [-]digits[.digits] apart.
func splitNumeric(src []byte) (whole, fraction []byte, negative, ok bool) {
	if len(src) > 0 && src[0] == '-' {
		negative, src = true, src[1:]
	}
	point := -1
	for i, c := range src {
		if c == '.' && point < 0 {
			point = i
		} else if c < '0' || c > '9' {
			return nil, nil, false, false
		}
	}
	if point < 0 {
		return src, nil, negative, len(src) > 0
	}
	return src[:point], src[point+1:], negative, point > 0 && point < len(src)-1
}

func (s *scratch) addDigits(digits []byte) {
	for len(digits) > 0 {
		n := min(len(digits), 19)
		var v uint64
		for _, c := range digits[:n] {
			v = v*10 + uint64(c-'0')
		}
		s.mulAdd(pow10[n], v)
		digits = digits[n:]
	}
}

// mulAdd makes the magnitude in s.words times m plus a.
func (s *scratch) mulAdd(m, a uint64) {
	carry := a
	for i, w := range s.words {
		hi, lo := bits.Mul64(w, m)
		lo, c := bits.Add64(lo, carry, 0)
		s.words[i], carry = lo, hi+c
	}
	if carry != 0 {
		s.words = append(s.words, carry)
	}
}

// appendDecimal appends the magnitude with its sign as Avro bytes in two's complement. It spoils the magnitude.
func (s *scratch) appendDecimal(dst []byte, negative bool) []byte {
	words := s.words
	for len(words) > 0 && words[len(words)-1] == 0 {
		words = words[:len(words)-1]
	}
	if len(words) == 0 {
		return append(dst, 2, 0)
	}
	var flip byte
	if negative { // -m is the complement of m-1
		flip = 0xff
		for i := range words {
			words[i]--
			if words[i] != math.MaxUint64 {
				break
			}
		}
	}
	length := 1
	for i := len(words) - 1; i >= 0; i-- {
		if words[i] != 0 {
			length = (64*i+bits.Len64(words[i]))/8 + 1
			break
		}
	}
	dst = appendLong(dst, int64(length))
	for i := length - 1; i >= 0; i-- {
		var b byte
		if i/8 < len(words) {
			b = byte(words[i/8] >> (8 * (i % 8)))
		}
		dst = append(dst, b^flip)
	}
	return dst
}

func binNumericString(s *scratch, t *typ, dst, src []byte) ([]byte, error) {
	start := len(dst)
	dst, err := appendNumeric(s, t, dst, src)
	if err != nil {
		return dst, err
	}
	return prefixLength(dst, start), nil
}

// appendNumeric appends a numeric as numeric_out prints it: display scale digits after the point.
func appendNumeric(_ *scratch, _ *typ, dst, src []byte) ([]byte, error) {
	digits, weight, sign, dscale, ok := numericHeader(src)
	if !ok {
		return dst, errSize
	}
	switch sign {
	case numericPositive, numericNegative:
	case numericNaN:
		return append(dst, "NaN"...), nil
	case numericPInf:
		return append(dst, "Infinity"...), nil
	case numericNInf:
		return append(dst, "-Infinity"...), nil
	default:
		return dst, errSize
	}
	start := len(dst)
	if sign == numericNegative {
		dst = append(dst, '-')
	}
	if weight < 0 {
		dst = append(dst, '0')
	} else {
		dst = strconv.AppendUint(dst, numericDigit(digits, 0), 10)
		for i := 1; i <= weight; i++ {
			dst = append4(dst, numericDigit(digits, i))
		}
	}
	if dscale > 0 {
		dst = append(dst, '.')
		end := len(dst) + dscale
		for i := weight + 1; len(dst) < end; i++ {
			dst = append4(dst, numericDigit(digits, i))
		}
		for _, c := range dst[end:] {
			if c != '0' {
				return dst[:start], errSize
			}
		}
		dst = dst[:end]
	}
	for i := max(weight+1+(dscale+3)/4, 0); 2*i < len(digits); i++ {
		if numericDigit(digits, i) != 0 {
			return dst[:start], errSize
		}
	}
	return dst, nil
}

func append4(dst []byte, d uint64) []byte {
	return append(dst, '0'+byte(d/1000), '0'+byte(d/100%10), '0'+byte(d/10%10), '0'+byte(d%10))
}

func textNumericString(s *scratch, t *typ, dst, src []byte) ([]byte, error) {
	if _, _, _, ok := splitNumeric(src); !ok && !isNotFinite(src) {
		return dst, errText
	}
	return copyString(s, t, dst, src)
}

// binMoney: an int8 of hundredths. (In truth of the smallest unit of lc_monetary, which for a few currencies is
// another fraction; the number itself is exact, and Debezium reads it the same way.)
func binMoney(s *scratch, _ *typ, dst, src []byte) ([]byte, error) {
	if len(src) != 8 {
		return dst, errSize
	}
	v := int64(binary.BigEndian.Uint64(src))
	s.words = s.words[:0]
	if v < 0 {
		s.words = append(s.words, -uint64(v))
	} else {
		s.words = append(s.words, uint64(v))
	}
	return s.appendDecimal(dst, v < 0), nil
}

var errMoney = &fault{
	reason: "the text of money is not in the form of lc_monetary C, so it cannot be read exactly",
	remedy: "exclude the column with source.exclude_columns",
}

// textMoney reads what cash_out prints under lc_monetary C: -$1,234.56. Any other locale's form is refused, for its
// separators and fraction cannot be known.
func textMoney(s *scratch, _ *typ, dst, src []byte) ([]byte, error) {
	negative := len(src) > 0 && src[0] == '-'
	if negative {
		src = src[1:]
	}
	if len(src) < 5 || src[0] != '$' || src[len(src)-3] != '.' {
		return dst, errMoney
	}
	whole, cents := src[1:len(src)-3], src[len(src)-2:]
	s.words = s.words[:0]
	for i, c := range whole {
		// Groups of three, counted from the point.
		if comma := (len(whole)-i)%4 == 0; comma != (c == ',') || c != ',' && (c < '0' || c > '9') {
			return dst, errMoney
		} else if !comma {
			s.mulAdd(10, uint64(c-'0'))
		}
	}
	for _, c := range cents {
		if c < '0' || c > '9' {
			return dst, errMoney
		}
		s.mulAdd(10, uint64(c-'0'))
	}
	limit := uint64(math.MaxInt64)
	if negative {
		limit++
	}
	if len(whole) == 0 || whole[0] == ',' || len(s.words) > 1 || len(s.words) == 1 && s.words[0] > limit {
		return dst, errMoney
	}
	return s.appendDecimal(dst, negative), nil
}
