package schema

import (
	"cmp"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"maps"
	"math"
	"math/big"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"

	"github.com/linkedin/goavro/v2"
)

// The documented inverse (docs/types.md): from an Avro value back to the text that Postgres prints. It shares no code
// with the functions that read values.

var logicalType = regexp.MustCompile(`"logicalType":"[a-z-]+",?`)

var codecs sync.Map // Avro schema → *goavro.Codec

// plainCodec decodes a type without its logical type: goavro's dates end where Go's do.
func plainCodec(t testing.TB, avro string) *goavro.Codec {
	t.Helper()
	if c, ok := codecs.Load(avro); ok {
		return c.(*goavro.Codec)
	}
	plain := strings.ReplaceAll(logicalType.ReplaceAllString(avro, ""), ",}", "}")
	c, err := Compile(plain)
	if err != nil {
		t.Fatalf("%s: %v", plain, err)
	}
	codecs.Store(avro, c)
	return c
}

// decodePlain decodes the Avro bytes of one value, all of them.
func decodePlain(t testing.TB, avro string, b []byte) any {
	t.Helper()
	v, rest, err := plainCodec(t, avro).NativeFromBinary(b)
	if err != nil || len(rest) != 0 {
		t.Fatalf("goavro does not read what was written: %v, %d bytes left\nschema %s\nbytes %x", err, len(rest), avro, b)
	}
	return v
}

// invert turns a decoded value of a type into what Postgres prints for it. It knows the schema and nothing else.
func invert(t *typ, v any) string { return invertSchema(parsedSchema(t.avro), v) }

var parsed sync.Map // Avro schema → what its JSON holds

func parsedSchema(avro string) any {
	if s, ok := parsed.Load(avro); ok {
		return s
	}
	var s any
	if err := json.Unmarshal([]byte(avro), &s); err != nil {
		panic(err)
	}
	parsed.Store(avro, s)
	return s
}

func invertSchema(schema, v any) string {
	m, _ := schema.(map[string]any)
	property := func(name string) string { s, _ := m[name].(string); return s }
	kind, postgres := property("type"), property("postgres.type")
	if m == nil {
		kind = schema.(string)
	}
	switch v := v.(type) {
	case bool:
		return map[bool]string{true: "t", false: "f"}[v]
	case int32:
		switch property("connect.name") {
		case "org.apache.kafka.connect.data.Date", "io.debezium.time.Date":
			return invertDate(v)
		case "org.apache.kafka.connect.data.Time":
			return invertClock(int64(v) * 1000)
		}
		return strconv.Itoa(int(v))
	case int64:
		switch name := property("connect.name"); {
		case name == "org.apache.kafka.connect.data.Timestamp":
			return invertTimestamp(v, 1000, postgres == "timestamptz")
		case name == "io.debezium.time.MicroTimestamp", postgres == "timestamptz":
			return invertTimestamp(v, 1, postgres == "timestamptz")
		case name == "io.debezium.time.MicroTime":
			return invertClock(v)
		}
		return strconv.FormatInt(v, 10)
	case float32:
		return invertFloat(float64(v), 32)
	case float64:
		if postgres == "numeric" && !math.IsInf(v, 0) {
			return strconv.FormatFloat(v, 'f', -1, 64) // Postgres prints more digits; these make the same double
		}
		return invertFloat(v, 64)
	case []byte:
		switch {
		case postgres == "money":
			return invertMoney(v)
		case m["scale"] != nil:
			return invertDecimal(v, int(m["scale"].(float64)))
		}
		return `\x` + hex.EncodeToString(v)
	case string:
		switch {
		case kind == "enum":
			return m["labels"].([]any)[slices.Index(m["symbols"].([]any), any(v))].(string)
		case property("encoding") == "base64":
			b, err := base64.StdEncoding.DecodeString(v)
			if err != nil {
				panic(err)
			}
			return `\x` + hex.EncodeToString(b)
		case property("encoding") == "hex":
			return `\x` + v
		case postgres == "timetz":
			return strings.TrimSuffix(v, ":00") // hours alone
		}
		return v
	case []any:
		return invertArray(m, v)
	case map[string]any:
		if kind == "map" {
			return invertHstore(v)
		}
		return invertRecord(m, v)
	}
	panic(fmt.Sprintf("%T", v))
}

func invertArray(m map[string]any, list []any) string {
	postgres, _ := m["postgres.type"].(string)
	delim, open, end := ",", "{", "}"
	switch {
	case m["postgres.delimiter"] != nil:
		delim = m["postgres.delimiter"].(string)
	case m["connect.name"] == "io.debezium.data.FloatVector":
		open, end = "[", "]"
	}
	items := make([]string, len(list))
	for i, item := range list {
		of := m["items"]
		if union, ok := of.([]any); ok {
			if item == nil {
				items[i] = "NULL"
				continue
			}
			item, of = branch(item), union[1]
		}
		items[i] = invertSchema(of, item)
		if m["postgres.kind"] == nil && postgres == "" && needsQuotes(items[i], "{}"+delim) || strings.EqualFold(items[i], "null") {
			items[i] = `"` + strings.NewReplacer(`\`, `\\`, `"`, `\"`).Replace(items[i]) + `"`
		}
	}
	return open + strings.Join(items, delim) + end
}

// branch takes goavro's wrapping off a value of a union.
func branch(v any) any {
	for _, v := range v.(map[string]any) {
		return v
	}
	panic("empty union")
}

func needsQuotes(s, special string) bool {
	return s == "" || strings.ContainsAny(s, "\"\\ \t\n\r\v\f"+special)
}

// double quotes a part of a composite or range where it is needed.
func double(s, special string) string {
	if !needsQuotes(s, special) {
		return s
	}
	return `"` + strings.NewReplacer(`\`, `\\`, `"`, `""`).Replace(s) + `"`
}

func invertHstore(m map[string]any) string {
	keys := slices.SortedFunc(maps.Keys(m), func(a, b string) int { return cmp.Or(cmp.Compare(len(a), len(b)), cmp.Compare(a, b)) })
	escape := strings.NewReplacer(`\`, `\\`, `"`, `\"`)
	pairs := make([]string, len(keys))
	for i, k := range keys {
		value := "NULL"
		if m[k] != nil {
			value = `"` + escape.Replace(branch(m[k]).(string)) + `"`
		}
		pairs[i] = `"` + escape.Replace(k) + `"=>` + value
	}
	return strings.Join(pairs, ", ")
}

func invertRecord(m, v map[string]any) string {
	field := func(name string) (string, bool) {
		for _, f := range m["fields"].([]any) {
			if f := f.(map[string]any); f["name"] == name {
				if union, ok := f["type"].([]any); ok {
					if v[name] == nil {
						return "", false
					}
					return invertSchema(union[1], branch(v[name])), true
				}
				return invertSchema(f["type"], v[name]), true
			}
		}
		panic(name)
	}
	switch m["postgres.kind"] {
	case "composite":
		var parts []string
		for _, f := range m["fields"].([]any) {
			part := ""
			if s, ok := field(f.(map[string]any)["name"].(string)); ok {
				part = double(s, "(),")
			}
			parts = append(parts, part)
		}
		return "(" + strings.Join(parts, ",") + ")"
	case "range":
		if v["empty"].(bool) {
			return "empty"
		}
		text := map[bool]string{true: "[", false: "("}[v["lower_inclusive"].(bool)]
		if s, ok := field("lower"); ok {
			text += double(s, "()[],")
		}
		text += ","
		if s, ok := field("upper"); ok {
			text += double(s, "()[],")
		}
		return text + map[bool]string{true: "]", false: ")"}[v["upper_inclusive"].(bool)]
	}
	switch name := m["connect.name"]; {
	case name == "io.debezium.data.VariableScaleDecimal":
		return invertDecimal(v["value"].([]byte), int(v["scale"].(int32)))
	case v["wkb"] != nil:
		return strings.ToUpper(hex.EncodeToString(v["wkb"].([]byte)))
	case v["dimensions"] != nil:
		indices, values := v["indices"].([]any), v["values"].([]any)
		pairs := make([]string, len(indices))
		for i := range indices {
			pairs[i] = fmt.Sprintf("%d:%s", indices[i], invertFloat(float64(values[i].(float32)), 32))
		}
		return fmt.Sprintf("{%s}/%d", strings.Join(pairs, ","), v["dimensions"])
	}
	panic(fmt.Sprint(m))
}

func invertDate(days int32) string {
	switch days {
	case math.MaxInt32:
		return "infinity"
	case math.MinInt32:
		return "-infinity"
	}
	day, era := invertDay(int64(days))
	return day + era
}

// invertDay counts from the Julian day, as the astronomers do (Richards 2013).
func invertDay(days int64) (day, era string) {
	j := days + 2440588
	// The formula wants positive numbers throughout; Postgres' first day is Julian day 0.
	f := j + 1401 + (4*j+274277)/146097*3/4 - 38
	e := 4*f + 3
	g := e % 1461 / 4
	h := 5*g + 2
	d := h%153/5 + 1
	m := (h/153+2)%12 + 1
	y := e/1461 - 4716 + (12+2-m)/12
	if y <= 0 {
		return fmt.Sprintf("%04d-%02d-%02d", 1-y, m, d), " BC"
	}
	return fmt.Sprintf("%04d-%02d-%02d", y, m, d), ""
}

// invertTimestamp: unit is in microseconds.
func invertTimestamp(v, unit int64, zone bool) string {
	switch v {
	case math.MaxInt64:
		return "infinity"
	case math.MinInt64:
		return "-infinity"
	}
	days := new(big.Int).Div(big.NewInt(v), big.NewInt(86400e6/unit)) // Euclidean
	clock := (v - days.Int64()*(86400e6/unit)) * unit
	day, era := invertDay(days.Int64())
	s := day + " " + invertClock(clock)
	if zone {
		s += "+00"
	}
	return s + era
}

func invertClock(micros int64) string {
	s := micros / 1e6
	text := fmt.Sprintf("%02d:%02d:%02d", s/3600, s/60%60, s%60)
	if f := micros % 1e6; f != 0 {
		text += strings.TrimRight(fmt.Sprintf(".%06d", f), "0")
	}
	return text
}

// invertFloat prints the shortest number that lies strictly between the middles to the floats beside v.
func invertFloat(v float64, size int) string {
	switch {
	case math.IsNaN(v):
		return "NaN"
	case math.IsInf(v, 0):
		return map[bool]string{true: "Infinity", false: "-Infinity"}[v > 0]
	}
	digits := 0
	e := strconv.FormatFloat(v, 'e', -1, size)
	for v != 0 && !between(e, v, size) {
		if digits == 0 {
			digits = len(strings.NewReplacer("-", "", ".", "").Replace(e[:strings.IndexByte(e, 'e')])) - 1
		}
		digits++
		e = strconv.FormatFloat(v, 'e', digits, size)
	}
	exponent, err := strconv.Atoi(e[strings.IndexByte(e, 'e')+1:])
	if err != nil {
		panic(err)
	}
	if limit := map[int]int{32: 6, 64: 15}[size]; exponent < -4 || exponent >= limit {
		return e
	}
	mantissa := strings.NewReplacer("-", "", ".", "").Replace(e[:strings.IndexByte(e, 'e')])
	return strconv.FormatFloat(v, 'f', max(len(mantissa)-1-exponent, 0), size)
}

// between is exact. Beyond the largest float the spacing goes on.
func between(text string, v float64, size int) bool {
	below, above := math.Nextafter(v, math.Inf(-1)), math.Nextafter(v, math.Inf(1))
	if size == 32 {
		below = float64(math.Nextafter32(float32(v), float32(math.Inf(-1))))
		above = float64(math.Nextafter32(float32(v), float32(math.Inf(1))))
	}
	x, ok := new(big.Rat).SetString(text)
	if !ok {
		panic(text)
	}
	at := new(big.Rat).SetFloat64(v)
	middle := func(next float64) *big.Rat {
		m := new(big.Rat).SetFloat64(next)
		if m == nil {
			return nil
		}
		return m.Quo(m.Add(m, at), big.NewRat(2, 1))
	}
	low, high := middle(below), middle(above)
	return (low == nil || low.Cmp(x) < 0) && (high == nil || x.Cmp(high) < 0)
}

func invertDecimal(b []byte, scale int) string {
	v := new(big.Int).SetBytes(b)
	if b[0] >= 0x80 {
		v.Sub(v, new(big.Int).Lsh(big.NewInt(1), uint(8*len(b))))
	}
	sign := ""
	if v.Sign() < 0 {
		sign = "-"
		v.Neg(v)
	}
	digits := v.String()
	if scale == 0 {
		return sign + digits
	}
	for len(digits) <= scale {
		digits = "0" + digits
	}
	return sign + digits[:len(digits)-scale] + "." + digits[len(digits)-scale:]
}

// invertMoney is money under lc_monetary C.
func invertMoney(b []byte) string {
	s := invertDecimal(b, 2)
	sign := ""
	if s[0] == '-' {
		sign, s = "-", s[1:]
	}
	whole, cents := s[:len(s)-3], s[len(s)-3:]
	for i := len(whole) - 3; i > 0; i -= 3 {
		whole = whole[:i] + "," + whole[i:]
	}
	return sign + "$" + whole + cents
}
