package schema

import (
	"encoding/binary"
	"math"
	"strconv"
)

// Postgres counts days and microseconds from 2000-01-01, Avro from 1970-01-01. Its infinities are the ends of the
// integers; ours too, and the finite range leaves them free.
const (
	epochDays   = 10957
	dayMicros   = 86400 * 1000000
	epochMicros = epochDays * dayMicros

	dateInfinity      = math.MaxInt32
	dateMinusInfinity = math.MinInt32
	timeInfinity      = math.MaxInt64
	timeMinusInfinity = math.MinInt64

	// Postgres' range (src/include/datatype/timestamp.h): 4714-11-24 BC, Julian day 0, to 5874897-12-31.
	firstDay = -2451545
	lastDay  = 2145031948

	endMicros = 9223371331200000000 // 294277-01-01, the first that is no timestamp any more
)

var errRange = &fault{reason: "the value is outside of the range that Postgres has"}

var errLate = &fault{
	reason: "the timestamp is after 294247-01-10 04:00:54.775806, the last that microseconds since 1970 hold",
	remedy: "set `time: iso` for it in schema.columns, which the registry takes for an incompatible change (schema.on_incompatible), or exclude it with source.exclude_columns",
}

func binDate(_ *scratch, _ *typ, dst, src []byte) ([]byte, error) {
	if len(src) != 4 {
		return dst, errSize
	}
	return appendDate(dst, int32(binary.BigEndian.Uint32(src)))
}

// appendDate takes days since 2000.
func appendDate(dst []byte, days int32) ([]byte, error) {
	if days != dateInfinity && days != dateMinusInfinity {
		if days < firstDay || days > lastDay {
			return dst, errRange
		}
		days += epochDays
	}
	return appendLong(dst, int64(days)), nil
}

func textDate(_ *scratch, _ *typ, dst, src []byte) ([]byte, error) {
	switch string(src) {
	case "infinity":
		return appendLong(dst, dateInfinity), nil
	case "-infinity":
		return appendLong(dst, dateMinusInfinity), nil
	}
	src, bc := cutBC(src)
	days, rest, ok := parseDate(src, bc)
	if !ok || len(rest) != 0 || days > lastDay {
		return dst, errText
	}
	return appendDate(dst, int32(days))
}

func binTime(_ *scratch, _ *typ, dst, src []byte) ([]byte, error) {
	if len(src) != 8 {
		return dst, errSize
	}
	v := int64(binary.BigEndian.Uint64(src))
	if v < 0 || v > dayMicros { // 24:00:00 is a time
		return dst, errText
	}
	return appendLong(dst, v), nil
}

func textTime(_ *scratch, _ *typ, dst, src []byte) ([]byte, error) {
	v, rest, ok := parseTime(src)
	if !ok || len(rest) != 0 {
		return dst, errText
	}
	return appendLong(dst, v), nil
}

// binTimeTZ: microseconds of the day, and seconds west of Greenwich.
func binTimeTZ(_ *scratch, _ *typ, dst, src []byte) ([]byte, error) {
	if len(src) != 12 {
		return dst, errSize
	}
	v := int64(binary.BigEndian.Uint64(src))
	west := int64(int32(binary.BigEndian.Uint32(src[8:])))
	return appendTimeTZ(dst, v, -west)
}

// appendTimeTZ appends HH:MM:SS[.ffffff]±HH:MM[:SS]; the offset is in seconds east.
func appendTimeTZ(dst []byte, micros, east int64) ([]byte, error) {
	if micros < 0 || micros > dayMicros || east <= -16*3600 || east >= 16*3600 {
		return dst, errText
	}
	start := len(dst)
	dst = appendClock(dst, micros)
	if east < 0 {
		dst, east = append(dst, '-'), -east
	} else {
		dst = append(dst, '+')
	}
	dst = append2(dst, east/3600)
	dst = append2(append(dst, ':'), east/60%60)
	if east%60 != 0 {
		dst = append2(append(dst, ':'), east%60)
	}
	return prefixLength(dst, start), nil
}

func textTimeTZ(_ *scratch, _ *typ, dst, src []byte) ([]byte, error) {
	v, rest, ok := parseTime(src)
	if !ok {
		return dst, errText
	}
	east, rest, ok := parseOffset(rest)
	if !ok || len(rest) != 0 {
		return dst, errText
	}
	return appendTimeTZ(dst, v, east)
}

func binTimestamp(_ *scratch, _ *typ, dst, src []byte) ([]byte, error) {
	if len(src) != 8 {
		return dst, errSize
	}
	return appendTimestamp(dst, int64(binary.BigEndian.Uint64(src)))
}

// appendTimestamp takes microseconds since 2000.
func appendTimestamp(dst []byte, micros int64) ([]byte, error) {
	if micros != timeInfinity && micros != timeMinusInfinity {
		if micros < firstDay*dayMicros {
			return dst, errRange
		}
		if micros >= timeInfinity-epochMicros {
			return dst, errLate
		}
		micros += epochMicros
	}
	return appendLong(dst, micros), nil
}

func textTimestamp(_ *scratch, _ *typ, dst, src []byte) ([]byte, error) {
	micros, ok := parseTimestamp(src, false)
	if !ok {
		return dst, errText
	}
	return appendTimestamp(dst, micros)
}

func textTimestampTZ(_ *scratch, _ *typ, dst, src []byte) ([]byte, error) {
	micros, ok := parseTimestamp(src, true)
	if !ok {
		return dst, errText
	}
	return appendTimestamp(dst, micros)
}

// parseTimestamp reads a timestamp, with the offset of a zone or without one, as microseconds since 2000.
func parseTimestamp(src []byte, zone bool) (micros int64, ok bool) {
	switch string(src) {
	case "infinity":
		return timeInfinity, true
	case "-infinity":
		return timeMinusInfinity, true
	}
	src, bc := cutBC(src)
	days, rest, ok := parseDate(src, bc)
	// Postgres ends with 294276, 106751983 days after 2000: in microseconds an int64, with room for an offset.
	if !ok || days > 106751983 || days < -2500000 || len(rest) == 0 || rest[0] != ' ' {
		return 0, false
	}
	clock, rest, ok := parseTime(rest[1:])
	if !ok {
		return 0, false
	}
	var east int64
	if zone {
		if east, rest, ok = parseOffset(rest); !ok {
			return 0, false
		}
	}
	return days*dayMicros + clock - east*1000000, len(rest) == 0
}

// The functions of `time: connect`: milliseconds, rounded down.

func binTimeMillis(s *scratch, t *typ, dst, src []byte) ([]byte, error) {
	if len(src) != 8 {
		return dst, errSize
	}
	v := int64(binary.BigEndian.Uint64(src))
	if v < 0 || v > dayMicros {
		return dst, errRange
	}
	return appendLong(dst, v/1000), nil
}

func textTimeMillis(_ *scratch, _ *typ, dst, src []byte) ([]byte, error) {
	v, rest, ok := parseTime(src)
	if !ok || len(rest) != 0 {
		return dst, errText
	}
	return appendLong(dst, v/1000), nil
}

func binTimestampMillis(_ *scratch, _ *typ, dst, src []byte) ([]byte, error) {
	if len(src) != 8 {
		return dst, errSize
	}
	return appendMillis(dst, int64(binary.BigEndian.Uint64(src)))
}

func textTimestampMillis(_ *scratch, _ *typ, dst, src []byte) ([]byte, error) {
	micros, ok := parseTimestamp(src, false)
	if !ok {
		return dst, errText
	}
	return appendMillis(dst, micros)
}

func textTimestampTZMillis(_ *scratch, _ *typ, dst, src []byte) ([]byte, error) {
	micros, ok := parseTimestamp(src, true)
	if !ok {
		return dst, errText
	}
	return appendMillis(dst, micros)
}

// appendMillis takes microseconds since 2000.
func appendMillis(dst []byte, micros int64) ([]byte, error) {
	if micros == timeInfinity || micros == timeMinusInfinity {
		return appendLong(dst, micros), nil
	}
	if micros < firstDay*dayMicros || micros >= endMicros {
		return dst, errRange
	}
	millis := micros / 1000
	if micros%1000 < 0 {
		millis--
	}
	return appendLong(dst, millis+epochMicros/1000), nil
}

// binInterval: microseconds, days, months. It is written as interval_out does under IntervalStyle iso_8601, each part
// with its own sign.
func binInterval(_ *scratch, _ *typ, dst, src []byte) ([]byte, error) {
	if len(src) != 16 {
		return dst, errSize
	}
	micros := int64(binary.BigEndian.Uint64(src))
	days := int32(binary.BigEndian.Uint32(src[8:]))
	months := int32(binary.BigEndian.Uint32(src[12:]))
	switch {
	case micros == math.MaxInt64 && days == math.MaxInt32 && months == math.MaxInt32: // since 17
		return appendString(dst, "infinity"), nil
	case micros == math.MinInt64 && days == math.MinInt32 && months == math.MinInt32:
		return appendString(dst, "-infinity"), nil
	case micros == 0 && days == 0 && months == 0:
		return appendString(dst, "PT0S"), nil
	}
	start := len(dst)
	dst = append(dst, 'P')
	dst = appendPart(dst, int64(months/12), 'Y')
	dst = appendPart(dst, int64(months%12), 'M')
	dst = appendPart(dst, int64(days), 'D')
	if micros != 0 {
		dst = append(dst, 'T')
	}
	dst = appendPart(dst, micros/3600000000, 'H')
	dst = appendPart(dst, micros/60000000%60, 'M')
	if rest := micros % 60000000; rest != 0 {
		if rest < 0 {
			dst, rest = append(dst, '-'), -rest
		}
		dst = strconv.AppendInt(dst, rest/1000000, 10)
		dst = append(appendFraction(dst, rest%1000000), 'S')
	}
	return prefixLength(dst, start), nil
}

func appendPart(dst []byte, v int64, unit byte) []byte {
	if v == 0 {
		return dst
	}
	return append(strconv.AppendInt(dst, v, 10), unit)
}

func textInterval(s *scratch, t *typ, dst, src []byte) ([]byte, error) {
	if string(src) != "infinity" && string(src) != "-infinity" {
		if len(src) < 3 || src[0] != 'P' {
			return dst, errText
		}
		for _, c := range src[1:] {
			switch {
			case '0' <= c && c <= '9', c == '-', c == '.', c == 'Y', c == 'M', c == 'D', c == 'T', c == 'H', c == 'S':
			default:
				return dst, errText
			}
		}
	}
	return copyString(s, t, dst, src)
}

// Text of dates and timestamps, for `time: iso`: what Postgres prints under DateStyle ISO and TimeZone UTC.

func binDateText(_ *scratch, _ *typ, dst, src []byte) ([]byte, error) {
	if len(src) != 4 {
		return dst, errSize
	}
	days := int32(binary.BigEndian.Uint32(src))
	switch days {
	case dateInfinity:
		return appendString(dst, "infinity"), nil
	case dateMinusInfinity:
		return appendString(dst, "-infinity"), nil
	}
	start := len(dst)
	dst, bc := appendDay(dst, int64(days))
	if bc {
		dst = append(dst, " BC"...)
	}
	return prefixLength(dst, start), nil
}

func binTimestampText(_ *scratch, _ *typ, dst, src []byte) ([]byte, error) {
	return timestampText(dst, src, "")
}

func binTimestampTZText(_ *scratch, _ *typ, dst, src []byte) ([]byte, error) {
	return timestampText(dst, src, "+00")
}

func timestampText(dst, src []byte, zone string) ([]byte, error) {
	if len(src) != 8 {
		return dst, errSize
	}
	micros := int64(binary.BigEndian.Uint64(src))
	switch micros {
	case timeInfinity:
		return appendString(dst, "infinity"), nil
	case timeMinusInfinity:
		return appendString(dst, "-infinity"), nil
	}
	days, clock := micros/dayMicros, micros%dayMicros
	if clock < 0 {
		days, clock = days-1, clock+dayMicros
	}
	start := len(dst)
	dst, bc := appendDay(dst, days)
	dst = append(appendClock(append(dst, ' '), clock), zone...)
	if bc {
		dst = append(dst, " BC"...)
	}
	return prefixLength(dst, start), nil
}

// appendDay appends YYYY-MM-DD of a day counted from 2000, and says whether its year is before Christ.
func appendDay(dst []byte, days int64) (_ []byte, bc bool) {
	year, month, day := civil(days + epochDays)
	if year <= 0 {
		year, bc = 1-year, true
	}
	for limit := int64(1000); limit > 1 && year < limit; limit /= 10 {
		dst = append(dst, '0')
	}
	dst = strconv.AppendInt(dst, year, 10)
	dst = append2(append(dst, '-'), month)
	return append2(append(dst, '-'), day), bc
}

func appendClock(dst []byte, micros int64) []byte {
	seconds := micros / 1000000
	dst = append2(dst, seconds/3600)
	dst = append2(append(dst, ':'), seconds/60%60)
	dst = append2(append(dst, ':'), seconds%60)
	return appendFraction(dst, micros%1000000)
}

// appendFraction appends .ffffff without its last zeros; nothing for zero.
func appendFraction(dst []byte, micros int64) []byte {
	if micros == 0 {
		return dst
	}
	dst = append(dst, '.')
	for unit := int64(100000); micros > 0; unit /= 10 {
		dst = append(dst, '0'+byte(micros/unit))
		micros %= unit
	}
	return dst
}

func append2(dst []byte, v int64) []byte { return append(dst, '0'+byte(v/10), '0'+byte(v%10)) }

func cutBC(src []byte) ([]byte, bool) {
	if n := len(src); n > 3 && string(src[n-3:]) == " BC" {
		return src[:n-3], true
	}
	return src, false
}

// parseDate reads YYYY-MM-DD, with a year of four to seven digits, as days since 2000. It does not check that the
// month has that day: what Postgres printed it has.
func parseDate(src []byte, bc bool) (days int64, rest []byte, ok bool) {
	n := 0
	for n < len(src) && n < 8 && src[n]-'0' <= 9 {
		n++
	}
	if n < 4 || n > 7 || len(src) < n+6 || src[n] != '-' || src[n+3] != '-' {
		return 0, nil, false
	}
	year, _ := parseInt(src[:n])
	month, ok1 := parse2(src[n+1:])
	day, ok2 := parse2(src[n+4:])
	if !ok1 || !ok2 || year < 1 || year > 5874898 || month < 1 || month > 12 || day < 1 || day > 31 {
		return 0, nil, false
	}
	if bc {
		if year > 4714 {
			return 0, nil, false
		}
		year = 1 - year
	}
	return fromCivil(year, month, day) - epochDays, src[n+6:], true
}

func parse2(src []byte) (int64, bool) {
	if len(src) < 2 || src[0]-'0' > 9 || src[1]-'0' > 9 {
		return 0, false
	}
	return int64(src[0]-'0')*10 + int64(src[1]-'0'), true
}

// parseTime reads HH:MM:SS[.ffffff] as microseconds of the day, 24:00:00 included.
func parseTime(src []byte) (micros int64, rest []byte, ok bool) {
	if len(src) < 8 || src[2] != ':' || src[5] != ':' {
		return 0, nil, false
	}
	h, ok1 := parse2(src)
	m, ok2 := parse2(src[3:])
	s, ok3 := parse2(src[6:])
	if !ok1 || !ok2 || !ok3 || m > 59 || s > 59 {
		return 0, nil, false
	}
	micros, src = ((h*60+m)*60+s)*1000000, src[8:]
	if len(src) > 0 && src[0] == '.' {
		src = src[1:]
		unit := int64(100000)
		for len(src) > 0 && src[0]-'0' <= 9 {
			if unit == 0 {
				return 0, nil, false
			}
			micros += int64(src[0]-'0') * unit
			unit, src = unit/10, src[1:]
		}
		if unit == 100000 {
			return 0, nil, false
		}
	}
	return micros, src, micros <= dayMicros
}

// parseOffset reads ±HH[:MM[:SS]] as seconds east.
func parseOffset(src []byte) (east int64, rest []byte, ok bool) {
	if len(src) < 3 || src[0] != '+' && src[0] != '-' {
		return 0, nil, false
	}
	sign := int64(1)
	if src[0] == '-' {
		sign = -1
	}
	v, ok := parse2(src[1:])
	if !ok {
		return 0, nil, false
	}
	east, src = v*3600, src[3:]
	for unit := int64(60); unit > 0 && len(src) > 0 && src[0] == ':'; unit /= 60 {
		if v, ok = parse2(src[1:]); !ok || v > 59 {
			return 0, nil, false
		}
		east, src = east+v*unit, src[3:]
	}
	return sign * east, src, true
}

// civil and fromCivil turn days since 1970 into the proleptic Gregorian calendar and back; year 0 is 1 BC.
// (http://howardhinnant.github.io/date_algorithms.html)
func civil(days int64) (year, month, day int64) {
	days += 719468
	era := days / 146097
	if days < 0 {
		era = (days - 146096) / 146097
	}
	dayOfEra := days - era*146097
	yearOfEra := (dayOfEra - dayOfEra/1460 + dayOfEra/36524 - dayOfEra/146096) / 365
	dayOfYear := dayOfEra - (365*yearOfEra + yearOfEra/4 - yearOfEra/100)
	mp := (5*dayOfYear + 2) / 153
	day = dayOfYear - (153*mp+2)/5 + 1
	month = mp + 3
	year = yearOfEra + era*400
	if month > 12 {
		month, year = month-12, year+1
	}
	return year, month, day
}

func fromCivil(year, month, day int64) int64 {
	if month <= 2 {
		year, month = year-1, month+12
	}
	era := year / 400
	if year < 0 {
		era = (year - 399) / 400
	}
	yearOfEra := year - era*400
	dayOfYear := (153*(month-3)+2)/5 + day - 1
	dayOfEra := yearOfEra*365 + yearOfEra/4 - yearOfEra/100 + dayOfYear
	return era*146097 + dayOfEra - 719468
}
