package schema

import (
	"encoding/binary"
	"strconv"
	"strings"
)

var (
	errDimensions = &fault{
		reason: "the array has more than one dimension",
		remedy: "set `array: text` for it in schema.columns, which the registry takes for an incompatible change (schema.on_incompatible), or exclude it with source.exclude_columns",
	}
	errLowerBound = &fault{
		reason: "the array's lower bound is not 1",
		remedy: "set `array: text` for it in schema.columns, which the registry takes for an incompatible change (schema.on_incompatible), or exclude it with source.exclude_columns",
	}
)

// binArray reads count of dimensions, flags, element type, for each dimension its length and lower bound, then for
// each element its length, -1 for null, and bytes (array_send).
func binArray(s *scratch, t *typ, dst, src []byte) ([]byte, error) {
	if len(src) < 12 {
		return dst, errSize
	}
	dimensions := binary.BigEndian.Uint32(src)
	if elem := binary.BigEndian.Uint32(src[8:]); elem != t.elemOID {
		return dst, &fault{
			reason: "the array's elements are of another type than its description says",
			remedy: "the type was changed since its description was read; start again",
			stale:  true,
		}
	}
	src = src[12:]
	switch {
	case dimensions == 0 && len(src) == 0:
		return append(dst, 0), nil
	case dimensions > 1:
		return dst, errDimensions
	case dimensions == 0 || len(src) < 8:
		return dst, errSize
	}
	n := int32(binary.BigEndian.Uint32(src))
	lower := int32(binary.BigEndian.Uint32(src[4:]))
	src = src[8:]
	if n < 1 || int(n) > len(src)/4 {
		return dst, errSize
	}
	if lower != 1 {
		return dst, errLowerBound
	}
	dst = appendLong(dst, int64(n))
	for range n {
		if len(src) < 4 {
			return dst, errSize
		}
		size := int32(binary.BigEndian.Uint32(src))
		src = src[4:]
		if size == -1 {
			dst = append(dst, branchFirst)
			continue
		}
		if size < 0 || int(size) > len(src) {
			return dst, errSize
		}
		var err error
		if dst, err = t.elem.bin(s, t.elem, append(dst, branchSecond), src[:size:size]); err != nil {
			return dst, err
		}
		src = src[size:]
	}
	if len(src) != 0 {
		return dst, errSize
	}
	return append(dst, 0), nil
}

// textArray reads {a,NULL,"quoted \" text"} (array_out).
func textArray(s *scratch, t *typ, dst, src []byte) ([]byte, error) {
	if len(src) > 0 && src[0] == '[' {
		// Bounds are printed only where a lower one is not 1: [0:1]={a,b}.
		bounds, _, _ := strings.Cut(unsafeString(src), "=")
		if strings.Count(bounds, "[") > 1 {
			return dst, errDimensions
		}
		return dst, errLowerBound
	}
	if len(src) < 2 || src[0] != '{' || src[len(src)-1] != '}' {
		return dst, errText
	}
	src = src[1 : len(src)-1]
	if len(src) == 0 {
		return append(dst, 0), nil
	}
	// Avro wants the count first, so the text is walked twice.
	n := int64(0)
	for rest := src; ; n++ {
		item, tail, more, err := nextElement(rest, t.delim)
		if err != nil {
			return dst, err
		}
		if len(item) == 0 {
			return dst, errText
		}
		if !more {
			n++
			break
		}
		rest = tail
	}
	dst = appendLong(dst, n)
	mark := len(s.buf)
	defer func() { s.buf = s.buf[:mark] }()
	for range n {
		item, tail, _, err := nextElement(src, t.delim)
		if err != nil {
			return dst, err
		}
		src = tail
		s.buf = s.buf[:mark]
		quoted := item[0] == '"'
		if quoted {
			item = item[1 : len(item)-1]
		} else if strings.EqualFold(unsafeString(item), "NULL") {
			dst = append(dst, branchFirst)
			continue
		}
		for i := 0; i < len(item); i++ {
			if item[i] == '\\' {
				i++ // nextElement made sure that something follows
			}
			s.buf = append(s.buf, item[i])
		}
		value := s.buf[mark:len(s.buf):len(s.buf)]
		if dst, err = t.elem.text(s, t.elem, append(dst, branchSecond), value); err != nil {
			return dst, err
		}
	}
	return append(dst, 0), nil
}

// nextElement cuts the first element, with its quotes, off what stands between the braces.
func nextElement(src []byte, delim byte) (item, tail []byte, more bool, err error) {
	quoted, closed := false, false
	for i := 0; i < len(src); i++ {
		c := src[i]
		switch {
		case c == '\\':
			if i++; i == len(src) || closed {
				return nil, nil, false, errText
			}
		case c == '"':
			if !quoted && i > 0 {
				return nil, nil, false, errText
			}
			closed = quoted
			quoted = !quoted
		case quoted:
		case c == delim:
			return src[:i], src[i+1:], true, nil
		case c == '{' && i == 0:
			return nil, nil, false, errDimensions
		case c == '{', c == '}', closed:
			return nil, nil, false, errText
		}
	}
	if quoted {
		return nil, nil, false, errText
	}
	return src, nil, false, nil
}

// outArray does as array_out: bounds where a lower one is not 1, then elements in braces for each dimension.
func outArray(s *scratch, t *typ, dst, src []byte) ([]byte, error) {
	const maxDimensions = 6 // MAXDIM
	if len(src) < 12 {
		return dst, errSize
	}
	dimensions := binary.BigEndian.Uint32(src)
	if dimensions > maxDimensions || len(src) < 12+8*int(dimensions) {
		return dst, errSize
	}
	if binary.BigEndian.Uint32(src[8:]) != t.elemOID {
		return dst, errStale
	}
	if dimensions == 0 {
		if len(src) != 12 {
			return dst, errSize
		}
		return append(dst, "{}"...), nil
	}
	var length, at [maxDimensions]int
	elements, bounds := 1, false
	head := src[12 : 12+8*dimensions]
	src = src[12+8*dimensions:]
	for d := range int(dimensions) {
		length[d] = int(int32(binary.BigEndian.Uint32(head[8*d:])))
		bounds = bounds || binary.BigEndian.Uint32(head[8*d+4:]) != 1
		if length[d] < 1 || length[d] > len(src)/4/elements {
			return dst, errSize
		}
		elements *= length[d]
	}
	if bounds {
		for d := range int(dimensions) {
			lower := int64(int32(binary.BigEndian.Uint32(head[8*d+4:])))
			dst = strconv.AppendInt(append(dst, '['), lower, 10)
			dst = append(strconv.AppendInt(append(dst, ':'), lower+int64(length[d])-1, 10), ']')
		}
		dst = append(dst, '=')
	}
	inner := int(dimensions) - 1
	for i := range elements {
		// Each dimension that begins here opens a brace; each that ends closes one.
		if i > 0 {
			dst = append(dst, t.delim)
		}
		for d := inner; d >= 0 && at[d] == 0; d-- {
			dst = append(dst, '{')
		}
		value, rest, null, err := sized(src)
		if err != nil {
			return dst, err
		}
		src = rest
		if null {
			dst = append(dst, "NULL"...)
		} else {
			start := len(dst)
			if dst, err = t.elem.out(s, t.elem, dst, value); err != nil {
				return dst, err
			}
			dst = quoteArray(dst, start, t.delim)
		}
		for d := inner; d >= 0; d-- {
			if at[d]++; at[d] < length[d] {
				break
			}
			at[d] = 0
			dst = append(dst, '}')
		}
	}
	if len(src) != 0 {
		return dst, errSize
	}
	return dst, nil
}

// quoteArray puts quotes around what was appended since start, an element, where array_out does.
func quoteArray(dst []byte, start int, delim byte) []byte {
	item := dst[start:]
	quoted := len(item) == 0 || strings.EqualFold(unsafeString(item), "NULL")
	for _, c := range item {
		quoted = quoted || c == '"' || c == '\\' || c == '{' || c == '}' || c == delim || isSpace(c)
	}
	if !quoted {
		return dst
	}
	return quoteSince(dst, start, true)
}

// outVector is int2vector and oidvector: elements of an array, apart from its form, between blanks.
func outVector(_ *scratch, _ *typ, dst, src []byte) ([]byte, error) {
	const oidInt2 = 21
	if len(src) < 20 || binary.BigEndian.Uint32(src) != 1 {
		return dst, errSize
	}
	elem := binary.BigEndian.Uint32(src[8:])
	n := int(int32(binary.BigEndian.Uint32(src[12:])))
	src = src[20:]
	for i := range n {
		value, rest, null, err := sized(src)
		if err != nil || null {
			return dst, errSize
		}
		src = rest
		if i > 0 {
			dst = append(dst, ' ')
		}
		switch {
		case elem == oidInt2 && len(value) == 2:
			dst = strconv.AppendInt(dst, int64(int16(binary.BigEndian.Uint16(value))), 10)
		case elem == 26 && len(value) == 4: // oid
			dst = strconv.AppendUint(dst, uint64(binary.BigEndian.Uint32(value)), 10)
		default:
			return dst, errSize
		}
	}
	if len(src) != 0 {
		return dst, errSize
	}
	return dst, nil
}
