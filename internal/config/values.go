package config

import (
	"fmt"
	"log/slog"
	"math"
	"net/url"
	"regexp"
	"strconv"
	"strings"
	"time"
)

// Duration is a time.Duration written as Go does: 10s, 1m30s, 500ms. A number
// without a unit is refused, because its unit would be a guess.
type Duration time.Duration

// Std returns d as the standard library's type.
func (d Duration) Std() time.Duration { return time.Duration(d) }

// String writes d without zero units: 1m, not 1m0s.
func (d Duration) String() string {
	s := time.Duration(d).String()
	if strings.HasSuffix(s, "m0s") {
		s = s[:len(s)-2]
	}
	if strings.HasSuffix(s, "h0m") {
		s = s[:len(s)-2]
	}
	return s
}

// MarshalText and UnmarshalText make JSON and YAML agree.
func (d Duration) MarshalText() ([]byte, error) { return []byte(d.String()), nil }

// UnmarshalText parses what String writes.
func (d *Duration) UnmarshalText(b []byte) error {
	v, err := time.ParseDuration(string(b))
	if err != nil {
		return fmt.Errorf("%q is not a duration; write a number with a unit, such as 500ms, 10s or 5m", b)
	}
	*d = Duration(v)
	return nil
}

// Size is a number of bytes: 1048576, 1MiB, 64KiB, 1MB (decimal).
type Size int64

var sizeUnits = []struct {
	name  string
	bytes int64
}{
	{"GiB", 1 << 30}, {"MiB", 1 << 20}, {"KiB", 1 << 10},
	{"GB", 1e9}, {"MB", 1e6}, {"kB", 1e3}, {"KB", 1e3}, {"B", 1}, {"", 1},
}

// String writes s in the largest unit of 1024 that loses nothing.
func (s Size) String() string {
	for _, u := range sizeUnits[:3] {
		if s != 0 && int64(s)%u.bytes == 0 {
			return strconv.FormatInt(int64(s)/u.bytes, 10) + u.name
		}
	}
	return strconv.FormatInt(int64(s), 10)
}

// MarshalText writes what UnmarshalText parses.
func (s Size) MarshalText() ([]byte, error) { return []byte(s.String()), nil }

// UnmarshalText parses a number with an optional unit.
func (s *Size) UnmarshalText(b []byte) error {
	in := string(b)
	for _, u := range sizeUnits {
		num, ok := strings.CutSuffix(in, u.name)
		if !ok {
			continue
		}
		n, err := strconv.ParseInt(strings.TrimSpace(num), 10, 64)
		if err != nil || n < 0 || n > math.MaxInt64/u.bytes {
			break
		}
		*s = Size(n * u.bytes)
		return nil
	}
	return fmt.Errorf("%q is not a size; write a number of bytes or a number with a unit, such as 64KiB or 16MiB", in)
}

// Secret is text that is never shown: fmt, slog, JSON and Print all write ***.
// Convert to string to use it.
type Secret string

const hidden = "***"

// String hides the secret; an empty one stays empty, so that it can be seen
// that none is set.
func (s Secret) String() string {
	if s == "" {
		return ""
	}
	return hidden
}

// GoString hides the secret from %#v.
func (s Secret) GoString() string { return strconv.Quote(s.String()) }

// LogValue hides the secret from slog.
func (s Secret) LogValue() slog.Value { return slog.StringValue(s.String()) }

// MarshalText hides the secret from encoders.
func (s Secret) MarshalText() ([]byte, error) { return []byte(s.String()), nil }

var keywordPassword = regexp.MustCompile(`(?i)\b((?:ssl)?password\s*=\s*)('(?:[^'\\]|\\.)*'?|(?:[^\s\\]|\\.)+)`)

// RedactDSN returns a connection string with its passwords hidden, in either of
// libpq's two forms. What cannot be parsed is hidden as a whole behind the
// scheme, because a guess could show the password.
func RedactDSN(dsn string) string {
	if !strings.Contains(dsn, "://") {
		return keywordPassword.ReplaceAllString(dsn, "${1}"+hidden)
	}
	// Several hosts are not a URL for net/url when they have ports, so the
	// password is cut out of the text and the rest is left as it is. The last @
	// ends it, which at worst hides a part of an unescaped database name too.
	scheme, rest, _ := strings.Cut(dsn, "://")
	base, query, hasQuery := strings.Cut(rest, "?")
	if i := strings.LastIndex(base, "@"); i >= 0 {
		if user, _, has := strings.Cut(base[:i], ":"); has {
			base = user + ":" + hidden + base[i:]
		}
	} else if strings.Contains(query, "@") {
		// An unescaped ? in the password: nothing after the scheme can be told apart.
		return scheme + "://" + hidden
	}
	if !hasQuery {
		return scheme + "://" + base
	}
	parts := strings.Split(query, "&")
	for i, p := range parts {
		key, _, _ := strings.Cut(p, "=")
		if k, err := url.QueryUnescape(key); err != nil || strings.HasSuffix(strings.ToLower(k), "password") {
			parts[i] = key + "=" + hidden
		}
	}
	return scheme + "://" + base + "?" + strings.Join(parts, "&")
}
