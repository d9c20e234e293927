package schema

import (
	"encoding/binary"
	"strconv"
	"unicode/utf8"
)

// A binary tsquery is its count of items, then the items in prefix order, the right operand of a binary operator before
// its left one (tsquerysend). An operand is 1, weights, prefix, text, zero; an operator is 2, which one, and for a phrase
// the distance.
const (
	tsOperand  = 1
	tsOperator = 2

	tsNot    = 1
	tsAnd    = 2
	tsOr     = 3
	tsPhrase = 4
)

// tsPriority is by operator (tsearch_op_priority).
var tsPriority = [...]int{tsNot: 4, tsAnd: 2, tsOr: 1, tsPhrase: 3}

// tsDepth is more than the server's stack holds: it is here for bytes that no server sent.
const tsDepth = 100000

// outTSQuery does as infix of tsquery.c.
func outTSQuery(s *scratch, _ *typ, dst, src []byte) ([]byte, error) {
	if len(src) < 4 {
		return dst, errSize
	}
	n := int64(binary.BigEndian.Uint32(src))
	if src = src[4:]; n > int64(len(src)) {
		return dst, errSize
	}
	if n == 0 && len(src) == 0 {
		return dst, nil
	}
	// s.words gets for each item where it begins, and for a binary operator, in the upper half, the index of its left
	// operand. A stack of operands that wait for their operator lies behind the items: they are read backwards.
	s.words = s.words[:0]
	at := 0
	for range n {
		s.words = append(s.words, uint64(uint32(at)))
		size := tsSize(src[at:])
		if size == 0 {
			return dst, errSize
		}
		at += size
	}
	if at != len(src) {
		return dst, errSize
	}
	stack := int(n)
	for i := int(n) - 1; i >= 0; i-- {
		item := src[uint32(s.words[i]):]
		pops := 0
		if item[0] == tsOperator {
			if pops = 2; item[1] == tsNot {
				pops = 1
			}
		}
		if len(s.words)-stack < pops {
			return dst, errSize
		}
		if pops == 2 {
			s.words[i] |= s.words[len(s.words)-2] << 32
		}
		s.words = append(s.words[:len(s.words)-pops], uint64(i))
	}
	if len(s.words)-stack != 1 {
		return dst, errSize
	}
	return s.appendTSQuery(dst, src, 0, -1, false, tsDepth)
}

// tsSize is how many bytes the item takes that src begins with; 0 if there is none.
func tsSize(src []byte) int {
	switch {
	case len(src) >= 4 && src[0] == tsOperand:
		for end := 3; end < len(src); end++ {
			if src[end] == 0 {
				return end + 1
			}
		}
	case len(src) >= 2 && src[0] == tsOperator && tsNot <= src[1] && src[1] < tsPhrase:
		return 2
	case len(src) >= 4 && src[0] == tsOperator && src[1] == tsPhrase:
		return 4
	}
	return 0
}

func (s *scratch) appendTSQuery(dst, src []byte, i int, parent int, rightOfPhrase bool, depth int) ([]byte, error) {
	if depth == 0 {
		return dst, errSize
	}
	item := src[uint32(s.words[i]):]
	if item[0] == tsOperand {
		return appendTSOperand(dst, item)
	}
	operator := item[1]
	priority := tsPriority[operator]
	parentheses := priority < parent || operator == tsPhrase && rightOfPhrase // a phrase depends on the order
	if parentheses {
		dst = append(dst, "( "...)
	}
	var err error
	if operator == tsNot {
		dst, err = s.appendTSQuery(append(dst, '!'), src, i+1, priority, false, depth-1)
	} else {
		if dst, err = s.appendTSQuery(dst, src, int(s.words[i]>>32), priority, false, depth-1); err != nil {
			return dst, err
		}
		switch operator {
		case tsOr:
			dst = append(dst, " | "...)
		case tsAnd:
			dst = append(dst, " & "...)
		default:
			if distance := int16(binary.BigEndian.Uint16(item[2:])); distance == 1 {
				dst = append(dst, " <-> "...)
			} else {
				dst = append(strconv.AppendInt(append(dst, " <"...), int64(distance), 10), "> "...)
			}
		}
		dst, err = s.appendTSQuery(dst, src, i+1, priority, operator == tsPhrase, depth-1)
	}
	if parentheses && err == nil {
		dst = append(dst, " )"...)
	}
	return dst, err
}

func appendTSOperand(dst, item []byte) ([]byte, error) {
	weights, prefix := item[1], item[2]
	text := item[3:]
	end := 0
	dst = append(dst, '\'')
	for ; text[end] != 0; end++ { // tsSize has seen the zero
		if c := text[end]; c == '\'' || c == '\\' {
			dst = append(dst, c)
		}
		dst = append(dst, text[end])
	}
	if !utf8.Valid(text[:end]) {
		return dst, errUTF8
	}
	dst = append(dst, '\'')
	if weights != 0 || prefix != 0 {
		dst = append(dst, ':')
		if prefix != 0 {
			dst = append(dst, '*')
		}
		for bit, letter := range "ABCD" {
			if weights&(8>>bit) != 0 {
				dst = append(dst, byte(letter))
			}
		}
	}
	return dst, nil
}
