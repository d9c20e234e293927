package registry

import (
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
)

// canonicalJSON writes a JSON Schema down as Confluent's registry stores it (JsonSchema.canonicalString): the same
// members in the same order, without spaces. What the schema says is not looked at.
func canonicalJSON(text string, normalize bool) (string, error) {
	n, err := parseJSON(text)
	switch {
	case err != nil:
		return "", err
	case n.kind != objectNode && n.kind != trueNode && n.kind != falseNode:
		return "", errors.New("a JSON Schema is an object or a boolean")
	case normalize:
		n = sortedNode(n)
	}
	exactNumbers(n)
	return string(n.bytes()), nil
}

// exactNumbers turns the numbers in n into what Java makes of them when it reads decimals (BigDecimal.toString):
// Confluent's registry does so for JSON Schema, and reads doubles for Avro.
func exactNumbers(n *node) {
	if n.kind == numberNode {
		n.kind, n.text = decimalNode, javaDecimal(n.text)
	}
	for _, item := range n.list {
		exactNumbers(item)
	}
}

func javaDecimal(text string) string {
	if !strings.ContainsAny(text, ".eE") {
		return javaNumber(text)
	}
	mantissa, exp, _ := strings.Cut(strings.ToLower(text), "e")
	exponent, err := strconv.ParseInt(exp, 10, 32)
	if exp != "" && err != nil {
		return text // far out of any range
	}
	whole, fraction, _ := strings.Cut(mantissa, ".")
	digits, negative := strings.CutPrefix(whole, "-")
	digits = strings.TrimLeft(digits+fraction, "0")
	sign := ""
	if digits == "" {
		digits = "0"
	} else if negative {
		sign = "-"
	}
	scale := int64(len(fraction)) - exponent
	adjusted := int64(len(digits)) - 1 - scale
	switch {
	case scale == 0:
		return sign + digits
	case scale > 0 && adjusted >= -6:
		if n := int(scale) - len(digits) + 1; n > 0 {
			digits = strings.Repeat("0", n) + digits
		}
		at := len(digits) - int(scale)
		return sign + digits[:at] + "." + digits[at:]
	}
	out := sign + digits[:1]
	if len(digits) > 1 {
		out += "." + digits[1:]
	}
	if adjusted != 0 {
		out += fmt.Sprintf("E%+d", adjusted)
	}
	return out
}

// sameText tells whether two stored texts differ in nothing but spelling: the order of members in JSON, spaces and
// comments in Protobuf.
func sameText(typ, a, b string) bool {
	if a == b {
		return true
	}
	if typ == TypeProtobuf {
		x, errX := protobufTokens(a)
		y, errY := protobufTokens(b)
		return errX == nil && errY == nil && slices.Equal(x, y)
	}
	x, errX := canonicalJSON(a, true)
	y, errY := canonicalJSON(b, true)
	return errX == nil && errY == nil && x == y
}
