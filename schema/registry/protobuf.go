package registry

import (
	"encoding/base64"
	"encoding/binary"
	"errors"
	"fmt"
	"slices"
	"strings"
	"unicode/utf8"
)

// checkProtobuf refuses what cannot be a Protobuf schema: neither the text of a .proto file, nor a FileDescriptorProto
// in base64, which is what Confluent's Python client sends. There is no compiler behind it: names are not resolved.
func checkProtobuf(text string) error {
	_, err := protobufTokens(text)
	if err == nil || isDescriptor(text) {
		return nil
	}
	return err
}

// protobufTokens takes a .proto file apart, without its comments
// (https://protobuf.dev/reference/protobuf/proto3-spec/#lexical_elements).
func protobufTokens(text string) ([]string, error) {
	if !utf8.ValidString(text) {
		return nil, errors.New("not Protobuf: the text is not UTF-8")
	}
	var tokens []string
	var open []byte // brackets
	line := 1
	for i := 0; i < len(text); {
		c := text[i]
		start := i
		switch {
		case c == '\n':
			line++
			i++
			continue
		case c == ' ' || c == '\t' || c == '\r' || c == '\v' || c == '\f':
			i++
			continue
		case strings.HasPrefix(text[i:], "//"):
			end := strings.IndexByte(text[i:], '\n')
			if end < 0 {
				end = len(text) - i
			}
			i += end
			continue
		case strings.HasPrefix(text[i:], "/*"):
			end := strings.Index(text[i+2:], "*/")
			if end < 0 {
				return nil, fmt.Errorf("not Protobuf: the comment that begins in line %d does not end", line)
			}
			line += strings.Count(text[i:i+end+4], "\n")
			i += end + 4
			continue
		case c == '"' || c == '\'':
			for i++; i < len(text) && text[i] != c && text[i] != '\n'; i++ {
				if text[i] == '\\' {
					i++
				}
			}
			if i >= len(text) || text[i] != c {
				return nil, fmt.Errorf("not Protobuf: the string in line %d does not end", line)
			}
			i++
		case isWord(c):
			for i < len(text) && isWord(text[i]) {
				i++
			}
		case strings.IndexByte("{[(", c) >= 0:
			open = append(open, c)
			i++
		case strings.IndexByte("}])", c) >= 0:
			if len(open) == 0 || open[len(open)-1] != map[byte]byte{'}': '{', ']': '[', ')': '('}[c] {
				return nil, fmt.Errorf("not Protobuf: the %c in line %d closes nothing", c, line)
			}
			open = open[:len(open)-1]
			i++
		case strings.IndexByte("<>=;:,.+-/", c) >= 0:
			i++
		default:
			return nil, fmt.Errorf("not Protobuf: unexpected %q in line %d", []rune(text[i:])[0], line)
		}
		tokens = append(tokens, text[start:i])
	}
	switch {
	case len(tokens) == 0:
		return nil, errors.New("not Protobuf: there is nothing in it")
	case len(open) > 0:
		return nil, fmt.Errorf("not Protobuf: a %c is not closed", open[len(open)-1])
	case !slices.Contains([]string{"syntax", "edition", "import", "package", "option", "message", "enum", "service", "extend", ";"}, tokens[0]):
		return nil, fmt.Errorf("not Protobuf: it begins with %q", clip(tokens[0], 40))
	case tokens[len(tokens)-1] != ";" && tokens[len(tokens)-1] != "}":
		return nil, errors.New("not Protobuf: the last declaration does not end")
	}
	return tokens, nil
}

func isWord(c byte) bool {
	return c == '_' || c >= '0' && c <= '9' || c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z'
}

// isDescriptor tells whether a text is a FileDescriptorProto in base64, by the fields of its outermost level
// (google/protobuf/descriptor.proto).
func isDescriptor(text string) bool {
	b, err := base64.StdEncoding.DecodeString(text)
	if err != nil {
		return false
	}
	something := false
	for len(b) > 0 {
		tag, n := binary.Uvarint(b)
		if n <= 0 {
			return false
		}
		b = b[n:]
		v, n := binary.Uvarint(b)
		if n <= 0 {
			return false
		}
		b = b[n:]
		switch field := tag >> 3; {
		case tag&7 == 0 && (field == 10 || field == 11 || field == 14): // indices of imports, the edition
		case tag&7 == 2 && field >= 1 && field <= 15 && v <= uint64(len(b)):
			something = something || field == 1 || field >= 4 && field <= 7 // a name, or something declared
			if (field <= 3 || field == 12) && !utf8.Valid(b[:v]) {
				return false
			}
			b = b[v:]
		default:
			return false
		}
	}
	return something
}
