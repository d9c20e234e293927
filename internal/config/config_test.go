package config

import (
	"bytes"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"reflect"
	"regexp"
	"strings"
	"testing"
	"time"
)

var update = flag.Bool("update", false, "rewrite the expected files")

const minimal = "name: shop\nsource:\n  tables: [public.*]\nkafka:\n  brokers: [localhost:9092]\n"

func load(t *testing.T, yaml string, env ...string) (*Config, error) {
	t.Helper()
	m := map[string]string{}
	for i := 0; i < len(env); i += 2 {
		m[env[i]] = env[i+1]
	}
	return Load("w.yml", []byte(yaml), func(k string) (string, bool) { v, ok := m[k]; return v, ok })
}

func mustLoad(t *testing.T, yaml string, env ...string) *Config {
	t.Helper()
	c, err := load(t, yaml, env...)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func TestDefaultsAndDerivedNames(t *testing.T) {
	c := mustLoad(t, strings.Replace(minimal, "shop", "Shop-1.eu", 1))
	for _, x := range []struct{ got, want any }{
		{c.Source.Slot.Name, "walferry_shop_1_eu"},
		{c.Source.Publication.Name, "walferry_shop_1_eu"},
		{c.Kafka.Topic.Prefix, "Shop-1.eu"},
		{c.Kafka.TransactionalID, "walferry-Shop-1.eu"},
		{c.Checkpoint.Topic, "_walferry.Shop-1.eu"},
		{c.Source.StallLimit.Std(), 30 * time.Second},
		{c.Source.Heartbeat.Std(), 10 * time.Second},
		{c.Kafka.Compression, "lz4"},
		{c.Registry.Listen, "127.0.0.1:8081"},
		{c.Registry.Topic, "_schemas"},
		{c.Admin.Listen, "127.0.0.1:8080"},
		{c.Registry.Mode, "built-in"},
		{c.Standby, true},
	} {
		if x.got != x.want {
			t.Errorf("got %v, want %v", x.got, x.want)
		}
	}
	if long := slotName(strings.Repeat("x", 100)); len(long) != 63 {
		t.Errorf("slot name of %d bytes", len(long))
	}
}

func TestValues(t *testing.T) {
	c := mustLoad(t, `
name: ${NAME}
standby: ${STANDBY:-false}
source:
  dsn: postgres://u:${PW}@h/db
  tables: ${TABLES}
  heartbeat: 1m30s
  buffer_bytes: 64MiB
  max_row_bytes: ${ROW:-2MB}
kafka:
  brokers: &b
    - ${HOST:-localhost}:9092
    - "other:${PORT}"
  transactional_id: a$${b}c
  topic:
    partitions: ${N:-3}
    config:
      retention.ms: 1000
      "local": "true"
schema: ~
backfill: ${COPY:-none}
log:
  level: debug
`, "NAME", "shop", "PW", "a: #b", "TABLES", "public.a, public.b", "PORT", "1", "HOST", "")
	want := Default()
	want.Name, want.Standby = "shop", false
	want.Source.DSN = "postgres://u:a: #b@h/db"
	want.Source.Tables = []string{"public.a", "public.b"}
	want.Source.Heartbeat = Duration(90 * time.Second)
	want.Source.BufferBytes, want.Source.MaxRowBytes = 64<<20, 2e6
	want.Kafka.Brokers = []string{"localhost:9092", "other:1"}
	want.Kafka.TransactionalID = "a${b}c"
	want.Kafka.Topic.Partitions = 3
	want.Kafka.Topic.Config = map[string]string{"retention.ms": "1000", "local": "true"}
	want.Log.Level = "debug"
	want.Backfill.Mode = "none"
	want.derive()
	if !reflect.DeepEqual(c, want) {
		t.Errorf("got\n%+v\nwant\n%+v", c, want)
	}
}

// TestErrors runs every file of testdata/errors: the configuration, then a line
// of dashes, then what Load says about it.
func TestErrors(t *testing.T) {
	files, err := filepath.Glob("testdata/errors/*.txt")
	if err != nil || len(files) < 15 {
		t.Fatalf("%d files, %v", len(files), err)
	}
	for _, file := range files {
		t.Run(strings.TrimSuffix(filepath.Base(file), ".txt"), func(t *testing.T) {
			b, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			in, want, _ := strings.Cut(string(b), "----\n")
			_, err = load(t, in)
			if err == nil {
				t.Fatal("accepted")
			}
			var list ErrorList
			if !errors.As(err, &list) {
				t.Fatalf("%T is not an ErrorList", err)
			}
			for _, e := range list {
				if e.Remedy == "" {
					t.Errorf("no remedy: %v", e)
				}
			}
			if *update {
				if err := os.WriteFile(file, []byte(in+"----\n"+err.Error()+"\n"), 0o644); err != nil {
					t.Fatal(err)
				}
				return
			}
			if got := err.Error() + "\n"; got != want {
				t.Errorf("got\n%s\nwant\n%s", got, want)
			}
		})
	}
}

func TestPrintHidesSecretsAndLoadsAgain(t *testing.T) {
	c := mustLoad(t, minimal+`
  sasl: {mechanism: plain, user: u, password: hunter2}
  topic:
    config: {"retention.ms": 5, "x: y": "a ${Z:-z} # c"}
registry:
  auth: {user: u, password: hunter2}
schema:
  columns: {public.a.b: {numeric: string}}
  keys: {public.a: [b, c]}
`)
	c.Source.DSN = "postgres://walferry:hunter2@h:5432,i:5433/db?sslpassword=hunter2&sslmode=require"
	c.Kafka.ClientID = "a$${b"
	var b bytes.Buffer
	if err := c.Print(&b); err != nil {
		t.Fatal(err)
	}
	if strings.Contains(b.String(), "hunter2") {
		t.Errorf("a secret is printed:\n%s", b.String())
	}
	again := mustLoad(t, b.String())
	c.Source.DSN = Secret(RedactDSN(string(c.Source.DSN)))
	c.Kafka.SASL.Password, c.Registry.Auth.Password = hidden, hidden
	if a, b := fmt.Sprintf("%+v", show(c)), fmt.Sprintf("%+v", show(again)); a != b {
		t.Errorf("printed and loaded again\n%s\nis not\n%s", b, a)
	}

	secret := Secret("hunter2")
	var log bytes.Buffer
	slog.New(slog.NewJSONHandler(&log, nil)).Info("x", "a", secret, "b", Auth{Password: secret})
	j, err := json.Marshal(Auth{Password: secret})
	if err != nil {
		t.Fatal(err)
	}
	for _, s := range []string{log.String(), string(j), fmt.Sprintf("%v %+v %#v %s %q", secret, Auth{Password: secret}, Auth{Password: secret}, secret, secret)} {
		if strings.Contains(s, "hunter2") {
			t.Errorf("a secret is shown: %s", s)
		}
	}
}

// show makes empty and missing collections look the same.
func show(c *Config) Config {
	x := *c
	for _, l := range []*[]string{&x.Source.Exclude, &x.Source.ExcludeColumns, &x.Source.Schemas} {
		if len(*l) == 0 {
			*l = nil
		}
	}
	if len(x.Schema.Columns) == 0 {
		x.Schema.Columns = nil
	}
	if len(x.Schema.Tables) == 0 {
		x.Schema.Tables = nil
	}
	return x
}

func TestRedactDSN(t *testing.T) {
	for in, want := range map[string]string{
		"":                                  "",
		"host=h user=u":                     "host=h user=u",
		"host=h password=abc user=u":        "host=h password=*** user=u",
		"password='a b\\'c' user=u":         "password=*** user=u",
		`password=a\ b user=u`:              "password=*** user=u",
		"password = 'open":                  "password = ***",
		"postgres://h/db":                   "postgres://h/db",
		"postgres://u@h/db":                 "postgres://u@h/db",
		"postgres://u:p@h/db":               "postgres://u:***@h/db",
		"postgres://u:p/x@h/db":             "postgres://u:***@h/db",
		"postgres://u:p?x@h/db":             "postgres://***",
		"postgres://u:p@h1:1,h2:2/db":       "postgres://u:***@h1:1,h2:2/db",
		"postgres://h/db?password=p&user=u": "postgres://h/db?password=***&user=u",
		"postgres://h/db?pass%77ord=p":      "postgres://h/db?pass%77ord=***",
	} {
		if got := RedactDSN(in); got != want {
			t.Errorf("RedactDSN(%q) = %q, want %q", in, got, want)
		}
	}
}

func TestSizesAndDurations(t *testing.T) {
	for in, want := range map[string]Size{"0": 0, "10": 10, "1KiB": 1024, "16 MiB": 16 << 20, "2GB": 2e9, "7B": 7, "3kB": 3000} {
		var s Size
		if err := s.UnmarshalText([]byte(in)); err != nil || s != want {
			t.Errorf("%q: %d, %v", in, s, err)
		}
		var again Size
		if err := again.UnmarshalText([]byte(s.String())); err != nil || again != s {
			t.Errorf("%q prints as %q", in, s)
		}
	}
	for _, in := range []string{"", "MiB", "-1", "1.5MiB", "9223372036854775807KiB", "1TiBB", "x"} {
		var s Size
		if err := s.UnmarshalText([]byte(in)); err == nil {
			t.Errorf("%q: %d, no error", in, s)
		}
	}
	for d, want := range map[time.Duration]string{0: "0s", time.Minute: "1m", time.Hour: "1h", 90 * time.Second: "1m30s", 10 * time.Minute: "10m", 20 * time.Hour: "20h", time.Hour + time.Second: "1h0m1s"} {
		if got := Duration(d).String(); got != want {
			t.Errorf("%s, want %s", got, want)
		}
	}
}

func TestPatterns(t *testing.T) {
	for p, want := range map[string]bool{
		"a.b": true, "*.*": true, `"a.b".c`: true, `a."b"`: true, `"x""y".z`: true, `"".b`: false, `"a`: false, `"a"`: false,
		"": false, ".": false, "a.": false, ".b": false, "a.b.c": false, `a"b".c`: false, `"a"b.c`: false, `"a""`: false, `"a"""."b"`: true, `"`: false,
	} {
		v := &validator{}
		v.pattern("x", p, 2, "schema.table")
		if got := len(v.errs) == 0; got != want {
			t.Errorf("%s: accepted is %v", p, got)
		}
	}
}

func TestSecretFiles(t *testing.T) {
	dir := t.TempDir()
	file := filepath.Join(dir, "pw")
	if err := os.WriteFile(file, []byte("one two\r\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	c := mustLoad(t, minimal+"  sasl: {mechanism: plain, user: u, password_file: "+file+"}\n")
	if got, err := c.Kafka.SASL.ReadPassword(); err != nil || got != "one two" {
		t.Errorf("%q, %v", got, err)
	}
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := c.Kafka.SASL.ReadPassword(); err == nil || !strings.Contains(err.Error(), "kafka.sasl.password_file") {
		t.Errorf("empty file: %v", err)
	}
	c.Source.DSNFile = filepath.Join(dir, "missing")
	if _, err := c.Source.ReadDSN(); err == nil || !strings.Contains(err.Error(), "source.dsn_file") {
		t.Errorf("missing file: %v", err)
	}
}

func TestSampleLoadsAndItsCommentsToo(t *testing.T) {
	c := mustLoad(t, Sample())
	if c.Name != "shop" || c.Standby != true {
		t.Errorf("%+v", c)
	}
	// The settings in comments must exist as well: they are a key and a value
	// (or a section), prose is not.
	setting := regexp.MustCompile(`(?m)^( *)# ( *(?:[a-z_]+:(?: .*)?|- .*))$`)
	all := setting.ReplaceAllString(Sample(), "$1$2")
	all = regexp.MustCompile(`(?m)^(host=.*|  host=.*)$`).ReplaceAllString(all, "")
	c, err := load(t, all, "KAFKA_PASSWORD", "x", "REGISTRY_PASSWORD", "y")
	if err != nil {
		t.Fatalf("%v\n%s", err, all)
	}
	if c.Log.Format != "json" || c.Registry.URL == "" || c.Kafka.SASL.User == "" || c.Kafka.Topic.Partitions != 6 {
		t.Errorf("comments were not taken: %+v", c)
	}
}

func TestJSONSchemaKnowsEveryKeyAndNoOther(t *testing.T) {
	var s map[string]any
	if err := json.Unmarshal(JSONSchema(), &s); err != nil {
		t.Fatal(err)
	}
	var walk func(path string, typ reflect.Type, s map[string]any)
	walk = func(path string, typ reflect.Type, s map[string]any) {
		properties := s["properties"].(map[string]any)
		if s["additionalProperties"] != false || len(properties) != typ.NumField() {
			t.Errorf("%s: %d properties for %d keys", path, len(properties), typ.NumField())
		}
		for _, f := range fields(typ) {
			p, ok := properties[f.key].(map[string]any)
			if !ok {
				t.Errorf("%s.%s is not in the schema", path, f.key)
				continue
			}
			if p["description"] == "" || f.doc == "" || !strings.HasSuffix(f.doc, ".") {
				t.Errorf("%s.%s is not described in a sentence", path, f.key)
			}
			if typ.Field(f.index).Type.Kind() == reflect.Struct {
				walk(path+"."+f.key, typ.Field(f.index).Type, p)
			}
			if d, ok := p["default"].(string); ok && p["pattern"] != nil {
				if ok, err := regexp.MatchString(p["pattern"].(string), d); err != nil || !ok {
					t.Errorf("%s.%s: default %q does not match %q", path, f.key, d, p["pattern"])
				}
			}
		}
	}
	walk("", reflect.TypeFor[Config](), s)
}

// TestReference keeps docs/configuration.md in step with the structs.
func TestReference(t *testing.T) {
	const file, mark = "../../docs/configuration.md", "<!-- The rest is written by `go test ./internal/config -update`. -->\n"
	b, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	head, _, ok := strings.Cut(string(b), mark)
	if !ok {
		t.Fatalf("%s has no line %s", file, mark)
	}
	want := head + mark + "\n## Reference\n\n" + Reference()
	if *update {
		if err := os.WriteFile(file, []byte(want), 0o644); err != nil {
			t.Fatal(err)
		}
		return
	}
	if string(b) != want {
		t.Errorf("%s is out of date: run go test ./internal/config -update", file)
	}
	for _, example := range regexp.MustCompile("(?s)```yaml\n(.*?)```").FindAllStringSubmatch(head, -1) {
		if _, err := load(t, example[1], "PGHOST", "h", "KAFKA_PASSWORD", "x", "REGISTRY_PASSWORD", "y"); err != nil {
			t.Errorf("an example is refused: %v\n%s", err, example[1])
		}
	}
}

// FuzzLoad: no input panics, and what is accepted prints as something that is
// accepted again (secrets aside).
func FuzzLoad(f *testing.F) {
	f.Add([]byte(minimal))
	f.Add([]byte(Sample()))
	f.Add([]byte("a: &a [*a]\n"))
	f.Add([]byte("? {}\n: ${\n"))
	f.Add([]byte("--- !!x\n...\n"))
	files, err := filepath.Glob("testdata/errors/*.txt")
	if err != nil {
		f.Fatal(err)
	}
	for _, file := range files {
		b, err := os.ReadFile(file)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(b)
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		c, err := Load("f.yml", data, func(string) (string, bool) { return "", false })
		if err != nil {
			var list ErrorList
			if !errors.As(err, &list) || len(list) == 0 {
				t.Fatalf("%T %v", err, err)
			}
			return
		}
		var b bytes.Buffer
		if err := c.Print(&b); err != nil {
			t.Fatal(err)
		}
		if _, err := Load("again.yml", b.Bytes(), func(string) (string, bool) { return "", false }); err != nil {
			t.Fatalf("%v\n%s", err, b.String())
		}
	})
}
