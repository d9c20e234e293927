package schema

import (
	"encoding/hex"
	"fmt"
	"math"
	"math/big"
	"regexp"
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

// invert turns a decoded value of a type into what Postgres prints for it.
func invert(t *typ, v any) string {
	switch v := v.(type) {
	case bool:
		return map[bool]string{true: "t", false: "f"}[v]
	case int32:
		if strings.Contains(t.avro, `"logicalType":"date"`) {
			return invertDate(v)
		}
		return strconv.Itoa(int(v))
	case int64:
		switch {
		case strings.Contains(t.avro, "timestamp-micros"):
			return invertTimestamp(v, !strings.Contains(t.avro, "local-"))
		case strings.Contains(t.avro, "time-micros"):
			return invertClock(v)
		}
		return strconv.FormatInt(v, 10)
	case float32:
		return invertFloat(float64(v), 32)
	case float64:
		return invertFloat(v, 64)
	case []byte:
		if t.name == "money" {
			return invertMoney(v)
		}
		if strings.Contains(t.avro, `"decimal"`) {
			return invertDecimal(v, t.scale)
		}
		return `\x` + hex.EncodeToString(v)
	case string:
		if strings.Contains(t.avro, `"postgres.type":"timetz"`) {
			return strings.TrimSuffix(v, ":00") // hours alone
		}
		return v
	case []any:
		items := make([]string, len(v))
		for i, item := range v {
			switch item := item.(type) {
			case nil:
				items[i] = "NULL"
			case map[string]any:
				for _, inner := range item {
					items[i] = invert(t.elem, inner)
					if t.elem.elem != nil || needsQuotes(items[i], t.delim) {
						items[i] = `"` + strings.NewReplacer(`\`, `\\`, `"`, `\"`).Replace(items[i]) + `"`
					}
				}
			}
		}
		return "{" + strings.Join(items, string(rune(t.delim))) + "}"
	}
	panic(fmt.Sprintf("%T", v))
}

func needsQuotes(s string, delim byte) bool {
	return s == "" || strings.EqualFold(s, "null") || strings.ContainsAny(s, "{}\"\\ \t\n\r\v\f"+string(rune(delim)))
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

func invertTimestamp(micros int64, zone bool) string {
	switch micros {
	case math.MaxInt64:
		return "infinity"
	case math.MinInt64:
		return "-infinity"
	}
	days := new(big.Int).Div(big.NewInt(micros), big.NewInt(86400e6)) // Euclidean
	clock := micros - days.Int64()*86400e6
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

// invertFloat is exact, and the same text as Postgres' but where the shortest lies on a bound.
func invertFloat(v float64, size int) string {
	switch {
	case math.IsNaN(v):
		return "NaN"
	case math.IsInf(v, 0):
		return map[bool]string{true: "Infinity", false: "-Infinity"}[v > 0]
	}
	e := strconv.FormatFloat(v, 'e', -1, size)
	exponent, err := strconv.Atoi(e[strings.IndexByte(e, 'e')+1:])
	if err != nil {
		panic(err)
	}
	if limit := map[int]int{32: 6, 64: 15}[size]; exponent < -4 || exponent >= limit {
		return e
	}
	return strconv.FormatFloat(v, 'f', -1, size)
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
