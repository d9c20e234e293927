package schema

import (
	"encoding/binary"
)

var errStale = &fault{
	reason: "the value is of another version of its type than the description says",
	remedy: "the type was changed after this row was written: change it back until the row is published, or exclude the column with source.exclude_columns; " +
		"with the event trigger (`walferry setup --ddl-trigger`) descriptions come in the order of the rows",
	stale: true,
}

// sized cuts a length and as many bytes off; -1 is null.
func sized(src []byte) (value, rest []byte, null bool, err error) {
	if len(src) < 4 {
		return nil, nil, false, errSize
	}
	n := int32(binary.BigEndian.Uint32(src))
	src = src[4:]
	switch {
	case n == -1:
		return nil, src, true, nil
	case n < 0 || int(n) > len(src):
		return nil, nil, false, errSize
	}
	return src[:n:n], src[n:], false, nil
}

// field cuts the next attribute off a binary composite and wants it to be of a type.
func compositeField(src []byte, oid uint32) (value, rest []byte, null bool, err error) {
	if len(src) < 4 {
		return nil, nil, false, errSize
	}
	if binary.BigEndian.Uint32(src) != oid {
		return nil, nil, false, errStale
	}
	return sized(src[4:])
}

// compositeHead reads the count of attributes that a binary composite begins with.
func compositeHead(t *typ, src []byte) ([]byte, error) {
	if len(src) < 4 {
		return nil, errSize
	}
	if int64(binary.BigEndian.Uint32(src)) != int64(len(t.attrs)) {
		return nil, errStale
	}
	return src[4:], nil
}

// binComposite reads count of attributes, then for each its type, length, -1 for null, and bytes (record_send). Dropped
// attributes are not there.
func binComposite(s *scratch, t *typ, dst, src []byte) ([]byte, error) {
	src, err := compositeHead(t, src)
	if err != nil {
		return dst, err
	}
	for i := range t.attrs {
		a := &t.attrs[i]
		value, rest, null, err := compositeField(src, a.oid)
		if err != nil {
			return dst, err
		}
		src = rest
		if null {
			dst = append(dst, branchFirst)
		} else if dst, err = a.typ.bin(s, a.typ, append(dst, branchSecond), value); err != nil {
			return dst, err
		}
	}
	if len(src) != 0 {
		return dst, errSize
	}
	return dst, nil
}

// textComposite reads (a,"quoted "" text",,) (record_out): nothing between commas is null.
func textComposite(s *scratch, t *typ, dst, src []byte) ([]byte, error) {
	if len(src) < 2 || src[0] != '(' {
		return dst, errText
	}
	src = src[1:]
	mark := len(s.buf)
	defer func() { s.buf = s.buf[:mark] }()
	for i := range t.attrs {
		s.buf = s.buf[:mark]
		end, null, err := s.part(src, false)
		if err != nil {
			return dst, err
		}
		if last := i == len(t.attrs)-1; end == ',' && last || end == ')' && !last {
			return dst, errStale
		} else if end != ',' && end != ')' {
			return dst, errText
		}
		src = src[s.used:]
		if null {
			dst = append(dst, branchFirst)
			continue
		}
		a := t.attrs[i].typ
		value := s.buf[mark:len(s.buf):len(s.buf)]
		if dst, err = a.text(s, a, append(dst, branchSecond), value); err != nil {
			return dst, err
		}
	}
	if len(src) != 0 {
		return dst, errText
	}
	return dst, nil
}

// part reads one part of the text of a composite or range, up to a comma or closing bracket outside of quotes, which it
// returns, and appends it to s.buf without its quotes. s.used is how many bytes it took, the end included. A part of
// nothing, not even quotes, is null. A range can end with a square bracket too.
func (s *scratch) part(src []byte, brackets bool) (end byte, null bool, err error) {
	quoted := false
	null = true
	for i := 0; i < len(src); i++ {
		c := src[i]
		switch {
		case c == '\\':
			if i++; i == len(src) {
				return 0, false, errText
			}
			s.buf = append(s.buf, src[i])
		case c == '"' && quoted && i+1 < len(src) && src[i+1] == '"':
			i++
			s.buf = append(s.buf, c)
		case c == '"':
			quoted = !quoted
		case !quoted && (c == ',' || c == ')' || brackets && c == ']'):
			s.used = i + 1
			return c, null, nil
		default:
			s.buf = append(s.buf, c)
		}
		null = false
	}
	return 0, false, errText
}

// outComposite does as record_out.
func outComposite(s *scratch, t *typ, dst, src []byte) ([]byte, error) {
	src, err := compositeHead(t, src)
	if err != nil {
		return dst, err
	}
	for i := range t.attrs {
		a := &t.attrs[i]
		if i == 0 {
			dst = append(dst, '(')
		} else {
			dst = append(dst, ',')
		}
		value, rest, null, err := compositeField(src, a.oid)
		if err != nil {
			return dst, err
		}
		src = rest
		if null {
			continue
		}
		start := len(dst)
		if dst, err = a.typ.out(s, a.typ, dst, value); err != nil {
			return dst, err
		}
		dst = quotePart(dst, start, false)
	}
	if len(src) != 0 {
		return dst, errSize
	}
	return append(dst, ')'), nil
}

// isSpace is what isspace of C says in the locales that a UTF-8 database has, for bytes of its text.
func isSpace(c byte) bool { return c == ' ' || '\t' <= c && c <= '\r' }

// quotePart puts quotes around what was appended since start, an attribute or a bound, where record_out does, or
// range_out, which minds square brackets too.
func quotePart(dst []byte, start int, brackets bool) []byte {
	quoted := len(dst) == start
	for _, c := range dst[start:] {
		quoted = quoted || c == '"' || c == '\\' || c == '(' || c == ')' || c == ',' || isSpace(c) || brackets && (c == '[' || c == ']')
	}
	if !quoted {
		return dst
	}
	return quoteSince(dst, start, false)
}

// quoteSince puts quotes around what was appended since start. Quotes and backslashes in it get a backslash before them, or
// are doubled.
func quoteSince(dst []byte, start int, backslash bool) []byte {
	end := len(dst)
	more := 2
	for _, c := range dst[start:] {
		if c == '"' || c == '\\' {
			more++
		}
	}
	for range more {
		dst = append(dst, '"')
	}
	// From the last byte to the first, each into its place.
	at := len(dst) - 2
	for i := end - 1; i >= start; i-- {
		c := dst[i]
		dst[at] = c
		at--
		if c == '"' || c == '\\' {
			dst[at] = c
			if backslash {
				dst[at] = '\\'
			}
			at--
		}
	}
	dst[start] = '"'
	return dst
}
