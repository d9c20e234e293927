package schema

import "encoding/binary"

// Flags of a binary range (src/include/utils/rangetypes.h). A bound that is there stands behind them with its length,
// the lower one first (range_send).
const (
	rangeEmpty        = 0x01
	rangeLowerIn      = 0x02
	rangeUpperIn      = 0x04
	rangeLowerNone    = 0x08
	rangeUpperNone    = 0x10
	rangeContainEmpty = 0x80 // of no meaning outside of an index
)

// rangeParts takes a binary range apart.
func rangeParts(src []byte) (flags byte, lower, upper []byte, err error) {
	if len(src) < 1 {
		return 0, nil, nil, errSize
	}
	flags = src[0] &^ rangeContainEmpty
	src = src[1:]
	if flags > 0x1f || flags&rangeEmpty != 0 && flags != rangeEmpty {
		return 0, nil, nil, &fault{reason: "the range has flags that are not known"}
	}
	for _, b := range []struct {
		none  byte
		bound *[]byte
	}{{rangeLowerNone, &lower}, {rangeUpperNone, &upper}} {
		if flags&(rangeEmpty|b.none) != 0 {
			continue
		}
		value, rest, null, err := sized(src)
		if err != nil || null {
			return 0, nil, nil, errSize
		}
		*b.bound, src = value, rest
	}
	if len(src) != 0 {
		return 0, nil, nil, errSize
	}
	return flags, lower, upper, nil
}

// outRange does as range_out: empty, or brackets with quoted bounds.
func outRange(s *scratch, t *typ, dst, src []byte) ([]byte, error) {
	flags, lower, upper, err := rangeParts(src)
	if err != nil {
		return dst, err
	}
	if flags&rangeEmpty != 0 {
		return append(dst, "empty"...), nil
	}
	dst = append(dst, "(["[flags&rangeLowerIn>>1])
	if flags&rangeLowerNone == 0 {
		start := len(dst)
		if dst, err = t.elem.out(s, t.elem, dst, lower); err != nil {
			return dst, err
		}
		dst = quotePart(dst, start, true)
	}
	dst = append(dst, ',')
	if flags&rangeUpperNone == 0 {
		start := len(dst)
		if dst, err = t.elem.out(s, t.elem, dst, upper); err != nil {
			return dst, err
		}
		dst = quotePart(dst, start, true)
	}
	return append(dst, ")]"[flags&rangeUpperIn>>2]), nil
}

func binRangeRecord(s *scratch, t *typ, dst, src []byte) ([]byte, error) {
	flags, lower, upper, err := rangeParts(src)
	if err != nil {
		return dst, err
	}
	if flags&(rangeEmpty|rangeLowerNone) != 0 {
		dst = append(dst, branchFirst)
	} else if dst, err = t.elem.bin(s, t.elem, append(dst, branchSecond), lower); err != nil {
		return dst, err
	}
	if flags&(rangeEmpty|rangeUpperNone) != 0 {
		dst = append(dst, branchFirst)
	} else if dst, err = t.elem.bin(s, t.elem, append(dst, branchSecond), upper); err != nil {
		return dst, err
	}
	return append(dst, flags&rangeLowerIn>>1, flags&rangeUpperIn>>2, flags&rangeEmpty), nil
}

// textRangeRecord reads what range_out prints: [1,"a b"), (,5], empty.
func textRangeRecord(s *scratch, t *typ, dst, src []byte) ([]byte, error) {
	if string(src) == "empty" {
		return append(dst, branchFirst, branchFirst, 0, 0, 1), nil
	}
	if len(src) < 3 || src[0] != '[' && src[0] != '(' {
		return dst, errText
	}
	var lowerIn, upperIn byte
	if src[0] == '[' {
		lowerIn = 1
	}
	src = src[1:]
	mark := len(s.buf)
	defer func() { s.buf = s.buf[:mark] }()
	for i := range 2 {
		s.buf = s.buf[:mark]
		end, none, err := s.part(src, true)
		if err != nil {
			return dst, err
		}
		if (end == ',') != (i == 0) {
			return dst, errText
		}
		src = src[s.used:]
		if end == ']' {
			upperIn = 1
		}
		if none {
			dst = append(dst, branchFirst)
			continue
		}
		value := s.buf[mark:len(s.buf):len(s.buf)]
		if dst, err = t.elem.text(s, t.elem, append(dst, branchSecond), value); err != nil {
			return dst, err
		}
	}
	if len(src) != 0 {
		return dst, errText
	}
	return append(dst, lowerIn, upperIn, 0), nil
}

// multirangeHead reads the count of ranges that a binary multirange begins with; each stands there with its length
// (multirange_send).
func multirangeHead(src []byte) (n int, rest []byte, err error) {
	if len(src) < 4 {
		return 0, nil, errSize
	}
	count := binary.BigEndian.Uint32(src)
	if src = src[4:]; int64(count) > int64(len(src)/5) {
		return 0, nil, errSize
	}
	return int(count), src, nil
}

func binMultirange(s *scratch, t *typ, dst, src []byte) ([]byte, error) {
	n, src, err := multirangeHead(src)
	if err != nil {
		return dst, err
	}
	if n > 0 {
		dst = appendLong(dst, int64(n))
	}
	for range n {
		value, rest, null, err := sized(src)
		if err != nil || null {
			return dst, errSize
		}
		src = rest
		if dst, err = t.elem.bin(s, t.elem, dst, value); err != nil {
			return dst, err
		}
	}
	if len(src) != 0 {
		return dst, errSize
	}
	return append(dst, 0), nil
}

func outMultirange(s *scratch, t *typ, dst, src []byte) ([]byte, error) {
	n, src, err := multirangeHead(src)
	if err != nil {
		return dst, err
	}
	dst = append(dst, '{')
	for i := range n {
		value, rest, null, err := sized(src)
		if err != nil || null {
			return dst, errSize
		}
		src = rest
		if i > 0 {
			dst = append(dst, ',')
		}
		if dst, err = t.elem.out(s, t.elem, dst, value); err != nil {
			return dst, err
		}
	}
	if len(src) != 0 {
		return dst, errSize
	}
	return append(dst, '}'), nil
}

// textMultirange reads {[1,2),[5,6)} (multirange_out).
func textMultirange(s *scratch, t *typ, dst, src []byte) ([]byte, error) {
	if len(src) < 2 || src[0] != '{' || src[len(src)-1] != '}' {
		return dst, errText
	}
	src = src[1 : len(src)-1]
	if len(src) == 0 {
		return append(dst, 0), nil
	}
	// Avro wants the count first, so the text is walked twice.
	n := int64(1)
	for rest := src; ; n++ {
		end := rangeEnd(rest)
		if end < 0 {
			return dst, errText
		}
		if end == len(rest) {
			break
		}
		if rest[end] != ',' {
			return dst, errText
		}
		rest = rest[end+1:]
	}
	dst = appendLong(dst, n)
	for len(src) > 0 {
		end := rangeEnd(src)
		var err error
		if dst, err = t.elem.text(s, t.elem, dst, src[:end:end]); err != nil {
			return dst, err
		}
		src = src[min(end+1, len(src)):]
	}
	return append(dst, 0), nil
}

// rangeEnd is where the text of a range ends that src begins with, behind its bracket; -1 where there is none.
func rangeEnd(src []byte) int {
	quoted := false
	for i := 0; i < len(src); i++ {
		switch c := src[i]; {
		case c == '\\':
			i++
		case c == '"': // a doubled one opens at once what it has closed
			quoted = !quoted
		case !quoted && (c == ')' || c == ']'):
			return i + 1
		}
	}
	return -1
}
