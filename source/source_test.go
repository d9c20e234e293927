package source

import (
	"errors"
	"slices"
	"strings"
	"testing"
	"testing/iotest"

	"github.com/jackc/pgx/v5/pgconn"
)

func TestPattern(t *testing.T) {
	for _, c := range []struct {
		pattern string
		yes, no []string // schema|table
	}{
		{`public.orders`, []string{"public|orders"}, []string{"public|Orders", "public|orders2", "x|orders"}},
		{`public.*`, []string{"public|a", "public|ä.b"}, []string{"publics|a"}},
		{`*.order_*`, []string{"a|order_1", "b|order_"}, []string{"a|order"}},
		{`s.a*b*c`, []string{"s|abc", "s|aXbYc", "s|abbc"}, []string{"s|ac", "s|ab", "s|acb"}},
		{`s.aa*aa`, []string{"s|aaaa", "s|aaxaa"}, []string{"s|aaa"}},
		{`"My.Schema"."a*""b"`, []string{`My.Schema|a*"b`}, []string{`My.Schema|aX"b`}},
		{`größe.тест`, []string{"größe|тест"}, nil},
	} {
		p, err := parsePattern(c.pattern, 2)
		if err != nil {
			t.Fatal(err)
		}
		for _, s := range c.yes {
			if a, b, _ := strings.Cut(s, "|"); !p.match(a, b) {
				t.Errorf("%s does not match %s", c.pattern, s)
			}
		}
		for _, s := range c.no {
			if a, b, _ := strings.Cut(s, "|"); p.match(a, b) {
				t.Errorf("%s matches %s", c.pattern, s)
			}
		}
	}
	for _, bad := range []string{"", "a", "a.", ".a", "a.b.c", `"a.b`, `"a"b.c`, `a."b"c`, `"".a`} {
		if _, err := parsePattern(bad, 2); err == nil {
			t.Errorf("pattern %q was accepted", bad)
		}
	}
}

func TestSyncStandby(t *testing.T) {
	for names, want := range map[string]bool{
		"":                          false,
		"*":                         true,
		"a, *":                      true,
		"walferry":                  true,
		"WalFerry":                  true,
		`"walferry"`:                true,
		"FIRST 1 (a, walferry)":     true,
		"ANY 2 (a, b, c)":           false,
		"any 1(*)":                  true,
		"2 (a,b)":                   false,
		`1 ("a,b", "walferry")`:     true,
		`1 ("a(b", "walferry ""x")`: false,
		`"walferry, a"`:             false,
		"walferry2, walferr":        false,
	} {
		if got := syncStandbyMatches(names, "walferry"); got != want {
			t.Errorf("%s: %v", names, got)
		}
	}
	if !syncStandbyMatches(`1 ("walferry ""x")`, `walferry "x`) {
		t.Error("a doubled quote is not a quote")
	}
}

func TestHistory(t *testing.T) {
	got, err := parseHistory([]byte("# comment\n1\t0/16B5A50\tno recovery target specified\n\n2\t1/0\tbefore 2026\n"))
	if err != nil || !slices.Equal(got, []Switch{{1, 0x16B5A50}, {2, 1 << 32}}) {
		t.Fatalf("%v %v", got, err)
	}
	for _, bad := range []string{"1", "x\t0/1", "1\tzz", "0\t0/1", "2\t0/1\n1\t0/2", "1\t0/2\n2\t0/1"} {
		if _, err := parseHistory([]byte(bad)); err == nil {
			t.Errorf("history %q was accepted", bad)
		}
	}
}

func FuzzHistory(f *testing.F) {
	f.Add([]byte("1\t0/16B5A50\tx\n2\t1/0\ty\n"))
	f.Fuzz(func(t *testing.T, b []byte) {
		h, err := parseHistory(b)
		if err == nil && !slices.IsSortedFunc(h, func(a, b Switch) int { return int(a.Timeline) - int(b.Timeline) }) {
			t.Fatal("out of order")
		}
	})
}

func TestConfig(t *testing.T) {
	good := Config{Slot: "s_1", Publication: `My "pub"`}
	if err := good.validate(); err != nil || good.BufferBytes != DefaultBufferBytes || good.WALSenderTimeout != DefaultWALSenderTimeout {
		t.Fatalf("%v %+v", err, good)
	}
	for name, change := range map[string]func(*Config){
		"slot":        func(c *Config) { c.Slot = "Upper" },
		"publication": func(c *Config) { c.Publication = "" },
		"timeout":     func(c *Config) { c.WALSenderTimeout = 1 },
		"buffer":      func(c *Config) { c.BufferBytes = 1 },
		"row":         func(c *Config) { c.MaxRowBytes = 2 << 30 },
		"pattern":     func(c *Config) { c.Tables = []string{"orders"} },
		"heartbeat":   func(c *Config) { c.Heartbeat = -1 },
	} {
		c := Config{Slot: "s", Publication: "p"}
		change(&c)
		if c.validate() == nil {
			t.Errorf("%s was accepted", name)
		}
	}
}

func TestClassify(t *testing.T) {
	cfg := &Config{Slot: "s", Publication: "p"}
	for _, c := range []struct {
		e    pgconn.PgError
		want any
	}{
		{pgconn.PgError{Code: "28P01"}, new(*WrongPasswordError)},
		{pgconn.PgError{Code: "28000"}, new(*WrongPasswordError)},
		{pgconn.PgError{Code: "42501", Routine: "InitPostgres"}, new(*NoReplicationPrivilegeError)},
		{pgconn.PgError{Code: "55006", Message: `replication slot "s" is active for PID 42`}, new(*SlotInUseError)},
		{pgconn.PgError{Code: "42704", Routine: "ReplicationSlotAcquire", Message: "anders"}, new(*SlotMissingError)},
		{pgconn.PgError{Code: "42704", Message: `unrecognized configuration parameter "idle_session_timeout"`}, new(*UnsupportedVersionError)},
		{pgconn.PgError{Code: "55000", Message: `cannot read from logical replication slot "s"`, Detail: "This slot has been invalidated"}, new(*SlotLostError)},
		{pgconn.PgError{Code: "55000", Message: "logical decoding requires wal_level >= logical"}, new(*WALLevelError)},
		{pgconn.PgError{Code: "58P01"}, new(*SlotLostError)},
		{pgconn.PgError{Code: "57P03"}, new(*ServerShutdownError)},
		{pgconn.PgError{Code: "53300"}, new(*TooManyConnectionsError)},
	} {
		err := classify(&c.e, cfg, "u")
		if !errors.As(err, c.want) {
			t.Errorf("%s %s: %T", c.e.Code, c.e.Message, err)
			continue
		}
		if Hint(err) == "" || !errors.Is(err, &c.e) {
			t.Errorf("%T has no remedy or no cause", err)
		}
		if e, ok := errors.AsType[*SlotInUseError](err); ok && e.PID != 42 {
			t.Errorf("process %d", e.PID)
		}
	}
	other := &pgconn.PgError{Code: "22012"}
	if classify(other, cfg, "u") != error(other) {
		t.Error("an error of no interest was changed")
	}
}

// TestOneMessage: a reader with a large buffer gets no byte of the next message.
func TestOneMessage(t *testing.T) {
	data := slices.Concat(message('Z', []byte("I")), message('d', []byte("frame")))
	m := &oneMessage{r: iotest.OneByteReader(strings.NewReader(string(data)))}
	var got []byte
	buf := make([]byte, 100)
	for len(got) < 6 {
		n, err := m.Read(buf)
		if err != nil {
			t.Fatal(err)
		}
		got = append(got, buf[:n]...)
	}
	if string(got) != string(data[:6]) {
		t.Fatalf("%q", got)
	}
	m = &oneMessage{r: strings.NewReader("HTTP/1.1")}
	if _, err := m.Read(buf); err == nil {
		t.Fatal("garbage was accepted")
	}
}

func TestSetupSQL(t *testing.T) {
	cfg := Config{Slot: "s", Publication: "p", Tables: []string{`public."Order"`, "shop.a*"}, Schemas: []string{"crm"}}
	for variant, want := range map[string]string{
		Plain:    "LOGIN REPLICATION",
		RDS:      "GRANT rds_replication",
		CloudSQL: "cloudsql.logical_decoding",
		Azure:    "server parameters",
	} {
		sql, err := SetupSQL(cfg, SetupOptions{Variant: variant, Slot: true})
		if err != nil || !strings.Contains(sql, want) || !strings.Contains(sql, "publish_via_partition_root = true") || !strings.Contains(sql, `"public"."Order"`) {
			t.Errorf("%s: %v\n%s", variant, err, sql)
		}
		if strings.Index(sql, "CREATE PUBLICATION") > strings.Index(sql, "pg_create_logical_replication_slot") {
			t.Errorf("%s: the slot comes before the publication", variant)
		}
		if strings.Contains(strings.ToUpper(sql), " SUPERUSER") {
			t.Errorf("%s asks for a superuser", variant)
		}
	}
	if _, err := SetupSQL(cfg, SetupOptions{Variant: "x"}); err == nil {
		t.Error("an unknown variant was accepted")
	}
}
