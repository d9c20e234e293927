package registry_test

import (
	"bytes"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"reflect"
	"regexp"
	"strings"
	"testing"

	"github.com/twmb/franz-go/pkg/sr"

	"walferry/internal/testbed"
	"walferry/schema/registry"
)

// Clients that people use, unmodified: each registers, looks up, checks, configures and deletes, and serialises where it can.

// Confluent's own for Python.
func TestPythonClient(t *testing.T) {
	python := testbed.Python(t)
	eachAccess(t, func(t *testing.T, a access) { a.run(t, python, "testdata/client.py") })
}

// Confluent's own for Java, out of Flink's jar, which is the one that Flink reads through.
func TestJavaClient(t *testing.T) {
	if testing.Short() {
		t.Skip("starts Java; run without -short")
	}
	libraries := testbed.JavaLibraries(t, "flink")
	eachAccess(t, func(t *testing.T, a access) {
		a.run(t, "java", "-XX:TieredStopAtLevel=1", "-cp", libraries, "testdata/Client.java")
	})
}

// @kafkajs/confluent-schema-registry.
func TestJavaScriptClient(t *testing.T) {
	modules := testbed.Node(t)
	eachAccess(t, func(t *testing.T, a access) { a.run(t, "node", "testdata/client.js", modules) })
}

// github.com/twmb/franz-go/pkg/sr.
func TestGoClient(t *testing.T) {
	eachAccess(t, func(t *testing.T, a access) {
		opts := []sr.ClientOpt{sr.URLs(a.url)}
		if token, ok := strings.CutPrefix(a.login, bearer); ok {
			opts = append(opts, sr.BearerToken(token))
		} else if name, password, ok := strings.Cut(a.login, ":"); ok {
			opts = append(opts, sr.BasicAuth(name, password))
		}
		if a.ca != "" {
			pem, err := os.ReadFile(a.ca)
			if err != nil {
				t.Fatal(err)
			}
			pair, err := tls.LoadX509KeyPair(a.cert, a.key)
			if err != nil {
				t.Fatal(err)
			}
			c := &tls.Config{Certificates: []tls.Certificate{pair}, RootCAs: x509.NewCertPool(), MinVersion: tls.VersionTLS12}
			c.RootCAs.AppendCertsFromPEM(pem)
			opts = append(opts, sr.DialTLSConfig(c))
		}
		c, err := sr.NewClient(opts...)
		if err != nil {
			t.Fatal(err)
		}
		goClient(t, c)
	})
	t.Run("wrong token", func(t *testing.T) {
		_, server := newServer(t, registry.ServerConfig{Closed: true, Users: []registry.User{{Name: "tool", Token: "look", Role: registry.Reader}}})
		for token, want := range map[string]int{"look": registry.CodeReadOnly, "other": http.StatusUnauthorized} {
			c, err := sr.NewClient(sr.URLs(server.URL), sr.BearerToken(token))
			if err != nil {
				t.Fatal(err)
			}
			_, err = c.CreateSchema(t.Context(), "s", sr.Schema{Schema: `"int"`})
			if got := goCode(err); got != want {
				t.Errorf("%s: %v", token, err)
			}
		}
	})
}

// access is how a client gets at a registry.
type access struct {
	url, login    string // login is "user:password", "Bearer token" or ""
	ca, cert, key string // files in PEM, where the registry wants a client certificate
}

const bearer = "Bearer "

// eachAccess runs a client at an open registry, at closed ones that ask for a password or a token, and at one that asks for a
// client certificate.
func eachAccess(t *testing.T, client func(t *testing.T, a access)) {
	for name, login := range map[string]string{"open": "", "password": "walferry:päss:word", "token": bearer + "t0ken"} {
		t.Run(name, func(t *testing.T) {
			var cfg registry.ServerConfig
			if token, ok := strings.CutPrefix(login, bearer); ok {
				cfg.Users, cfg.Closed = []registry.User{{Name: "ci", Token: token, Role: registry.Writer}}, true
			} else if name, password, ok := strings.Cut(login, ":"); ok {
				cfg.Users, cfg.Closed = []registry.User{{Name: name, Password: password, Role: registry.Writer}}, true
			}
			_, server := newServer(t, cfg)
			client(t, access{url: server.URL, login: login})
		})
	}
	t.Run("certificate", func(t *testing.T) {
		ca := testbed.NewAuthority(t)
		store, _ := newServer(t, registry.ServerConfig{})
		server := httptest.NewUnstartedServer(registry.NewServer(store, registry.ServerConfig{}))
		server.TLS = ca.ServerTLS()
		server.StartTLS()
		defer server.Close()
		a := access{url: server.URL, ca: ca.File}
		a.cert, a.key = ca.Issue("client")
		client(t, a)
	})
}

// run starts a client of another language. Its arguments are those given, and the access, field by field.
func (a access) run(t *testing.T, name string, args ...string) {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), name, append(args, a.url, a.login, a.ca, a.cert, a.key)...)
	cmd.Env = append(os.Environ(), "LC_ALL=C.UTF-8") // or Java does not understand its own arguments
	out, err := cmd.CombinedOutput()
	if err != nil || !strings.HasSuffix(strings.TrimSpace(string(out)), "ok") {
		t.Fatalf("%v\n%s", err, out)
	}
}

// goCode is the error code of the client's error, 0 of none.
func goCode(err error) int {
	var e *sr.ResponseError
	if err == nil {
		return 0
	}
	if !errors.As(err, &e) {
		return -1
	}
	return e.ErrorCode
}

func goClient(t *testing.T, c *sr.Client) {
	ctx := t.Context()
	refused := func(code int, what string, err error) {
		t.Helper()
		if goCode(err) != code {
			t.Errorf("%s: %v, want code %d", what, err, code)
		}
	}
	fine := func(what string, err error) {
		t.Helper()
		if err != nil {
			t.Fatalf("%s: %v", what, err)
		}
	}
	equal := func(what string, got, want any) {
		t.Helper()
		if !reflect.DeepEqual(got, want) {
			t.Errorf("%s: %v, want %v", what, got, want)
		}
	}
	avro := func(text string) sr.Schema { return sr.Schema{Schema: text} }
	const bad = `{"type":"record","name":"R","fields":[{"name":"x","type":"int"}]}`

	types, err := c.SupportedTypes(ctx)
	fine("types", err)
	equal("types", types, []sr.SchemaType{sr.TypeAvro, sr.TypeProtobuf, sr.TypeJSON})

	// The client asks for the new id's versions, and for each of them, to say where the schema has come to stand.
	const subject = "orders/1 é-value"
	first, err := c.CreateSchema(ctx, subject, avro(record("x")))
	fine("create", err)
	if first.Version != 1 || first.Subject != subject || first.Schema.Schema != record("x") || first.GUID == "" {
		t.Errorf("created: %+v", first)
	}
	second, err := c.CreateSchema(ctx, subject, avro(record("x", "y")))
	fine("create", err)
	other, err := c.CreateSchema(ctx, "copy", avro(record("x")))
	fine("create elsewhere", err)
	equal("the id elsewhere", other.ID, first.ID)

	// A message as consumers and producers of the library write it.
	var serde sr.Serde
	serde.Register(second.ID, "", sr.EncodeFn(func(any) ([]byte, error) { return []byte{2}, nil }))
	message, err := serde.Encode("")
	fine("encode", err)
	id, payload, err := serde.DecodeID(message)
	fine("decode", err)
	text, err := c.SchemaTextByID(ctx, id)
	fine("text", err)
	if text != record("x", "y") || !bytes.Equal(payload, []byte{2}) {
		t.Errorf("schema %d is %s", id, text)
	}

	// Looking up.
	byID, err := c.SchemaByID(ctx, first.ID)
	fine("by id", err)
	equal("by id", byID.Schema, record("x"))
	latest, err := c.SchemaByVersion(ctx, subject, -1)
	fine("latest", err)
	equal("latest", latest, second)
	text, err = c.SchemaTextByVersion(ctx, subject, 1)
	fine("text of a version", err)
	equal("text of a version", text, record("x"))
	guid, err := c.SchemaByGUID(ctx, second.GUID)
	fine("by guid", err)
	equal("by guid", guid.Schema.Schema, record("x", "y"))
	ids, err := c.SchemaIDsByGUID(ctx, second.GUID)
	fine("ids of a guid", err)
	equal("ids of a guid", ids, []sr.ContextID{{Context: ".", ID: second.ID}})
	subjects, err := c.Subjects(ctx)
	fine("subjects", err)
	equal("subjects", subjects, []string{"copy", subject})
	subjects, err = c.Subjects(sr.WithParams(ctx, sr.SubjectPrefix("co"), sr.Offset(0), sr.Limit(1)))
	fine("subjects by prefix", err)
	equal("subjects by prefix", subjects, []string{"copy"})
	subjects, err = c.SubjectsByID(ctx, first.ID)
	fine("subjects of an id", err)
	equal("subjects of an id", subjects, []string{"copy", subject})
	versions, err := c.SubjectVersions(ctx, subject)
	fine("versions", err)
	equal("versions", versions, []int{1, 2})
	all, err := c.AllSchemas(sr.WithParams(ctx, sr.LatestOnly))
	fine("schemas", err)
	equal("newest schemas", all, []sr.SubjectSchema{other, second})
	of, err := c.Schemas(ctx, subject)
	fine("schemas of a subject", err)
	equal("schemas of a subject", of, []sr.SubjectSchema{first, second})
	found, err := c.LookupSchema(ctx, subject, avro(record("x")))
	fine("lookup", err)
	equal("lookup", found, first)
	_, err = c.LookupSchema(ctx, subject, avro(`"int"`))
	refused(registry.CodeSchemaNotFound, "lookup of another schema", err)
	_, err = c.LookupSchema(ctx, "nobody", avro(`"int"`))
	refused(registry.CodeSubjectNotFound, "lookup in no subject", err)
	_, err = c.SchemaByVersion(ctx, subject, 9)
	refused(registry.CodeVersionNotFound, "no version", err)

	// Compatibility: checks, levels, normalize and force.
	check, err := c.CheckCompatibility(sr.WithParams(ctx, sr.Verbose), subject, -1, avro(bad))
	fine("check", err)
	if check.Is || len(check.Messages) == 0 || !strings.Contains(check.Messages[0], "field:'x'") {
		t.Errorf("check: %+v", check)
	}
	check, err = c.CheckCompatibility(ctx, subject, -2, avro(record("x", "y", "z"))) // -2: all versions
	fine("check", err)
	equal("check", check.Is, true)
	_, err = c.CreateSchema(ctx, subject, avro(bad))
	refused(registry.CodeIncompatible, "incompatible", err)
	for _, r := range c.SetCompatibility(ctx, sr.SetCompatibility{Level: sr.CompatFullTransitive, Normalize: true}, subject, "copy") {
		fine("set the level", r.Err)
	}
	got := c.Compatibility(ctx, subject, sr.GlobalSubject, "nobody")
	equal("level", []any{got[0].Level, got[0].Normalize, got[0].Err}, []any{sr.CompatFullTransitive, true, nil})
	equal("level of all", []any{got[1].Level, got[1].Normalize, got[1].Err}, []any{sr.CompatBackward, false, nil})
	refused(registry.CodeLevelNotConfigured, "level of nobody", got[2].Err)
	got = c.Compatibility(sr.WithParams(ctx, sr.DefaultToGlobal), "nobody")
	equal("level of nobody by default", []any{got[0].Level, got[0].Err}, []any{sr.CompatBackward, nil})
	// It looks for the level that was under another name than Confluent's registry, and ours, give it.
	fine("take the level away", c.ResetCompatibility(ctx, "copy")[0].Err)
	refused(registry.CodeLevelNotConfigured, "a level that was taken away", c.Compatibility(ctx, "copy")[0].Err)
	normal, err := c.CreateSchema(sr.WithParams(ctx, sr.Normalize), "normal", avro(`{"z":1,"type":"long","a":2}`))
	fine("normalize", err)
	equal("normalized", normal.Schema.Schema, `{"type":"long","a":2,"z":1}`)
	forced, err := c.CreateSchema(sr.WithParams(ctx, sr.Force), subject, avro(bad))
	fine("force", err)
	equal("forced", forced.Version, 3)

	// References and other types.
	money, err := c.CreateSchema(ctx, "money", avro(`{"type":"record","name":"Money","namespace":"shop","fields":[{"name":"cents","type":"long"}]}`))
	fine("money", err)
	price, err := c.CreateSchema(ctx, "price", sr.Schema{Schema: `{"type":"array","items":"shop.Money"}`, References: []sr.SchemaReference{{Name: "shop.Money", Subject: "money", Version: 1}},
		SchemaMetadata: &sr.SchemaMetadata{Properties: map[string]string{"owner": "shop"}}})
	fine("price", err)
	if len(price.References) != 1 || price.SchemaMetadata == nil || price.SchemaMetadata.Properties["owner"] != "shop" {
		t.Errorf("price: %+v", price)
	}
	uses, err := c.SchemaReferences(ctx, "money", 1)
	fine("references", err)
	equal("references", uses, []sr.SubjectSchema{price})
	usages, err := c.SchemaUsagesByID(ctx, money.ID)
	fine("usages", err)
	equal("usages", usages, []sr.SubjectSchema{money})
	resolved, err := c.SchemaByVersion(sr.WithParams(ctx, sr.Format("resolved")), "price", 1)
	fine("resolved", err)
	equal("resolved", strings.Contains(resolved.Schema.Schema, `"cents"`), true)
	_, err = c.DeleteSubject(ctx, "money", sr.SoftDelete)
	refused(registry.CodeReferenceExists, "delete what is referred to", err)
	for _, s := range []sr.Schema{{Type: sr.TypeJSON, Schema: `{"type":"object"}`}, {Type: sr.TypeProtobuf, Schema: "syntax = \"proto3\";\nmessage A {\n  int64 id = 1;\n}\n"}} {
		made, err := c.CreateSchema(ctx, "typed-"+s.Type.String(), s)
		fine(s.Type.String(), err)
		equal("type", []any{made.Type, made.Schema.Schema}, []any{s.Type, s.Schema})
	}

	// Modes, and ids that are brought along.
	modes := c.SetMode(ctx, sr.ModeReadOnly, "frozen")
	fine("read only", modes[0].Err)
	_, err = c.CreateSchema(ctx, "frozen", avro(`"int"`))
	refused(registry.CodeNotPermitted, "a write to what is read-only", err)
	modes = c.ResetMode(ctx, "frozen")
	equal("the mode that was", []any{modes[0].Mode, modes[0].Err}, []any{sr.ModeReadOnly, nil})
	modes = c.Mode(ctx, "frozen", sr.GlobalSubject)
	refused(registry.CodeModeNotConfigured, "a mode that is not there", modes[0].Err)
	equal("mode of all", []any{modes[1].Mode, modes[1].Err}, []any{sr.ModeReadWrite, nil})
	modes = c.SetMode(ctx, sr.ModeImport, "brought")
	fine("import", modes[0].Err)
	brought, err := c.CreateSchemaWithIDAndVersion(ctx, "brought", avro(`"bytes"`), 900, 7)
	fine("bring", err)
	equal("brought", []int{brought.ID, brought.Version}, []int{900, 7})

	// A context.
	within := sr.InContext(ctx, ".staging")
	staged, err := c.CreateSchema(within, "s", avro(record("x")))
	fine("in a context", err)
	equal("in a context", []any{staged.ID, staged.Subject}, []any{1, ":.staging:s"})
	contexts, err := c.Contexts(ctx)
	fine("contexts", err)
	equal("contexts", contexts, []string{".", ".staging"})

	// Deleting, in its order.
	refused(registry.CodeVersionNotSoftDeleted, "delete for good at once", c.DeleteSchema(ctx, subject, 1, sr.HardDelete))
	fine("delete", c.DeleteSchema(ctx, subject, 1, sr.SoftDelete))
	versions, err = c.SubjectVersions(sr.WithParams(ctx, sr.ShowDeleted), subject)
	fine("versions", err)
	equal("versions", versions, []int{1, 2, 3})
	versions, err = c.SubjectVersions(ctx, subject)
	fine("versions", err)
	equal("versions", versions, []int{2, 3})
	fine("delete for good", c.DeleteSchema(ctx, subject, 1, sr.HardDelete))
	versions, err = c.DeleteSubject(ctx, subject, sr.SoftDelete)
	fine("delete a subject", err)
	equal("deleted", versions, []int{2, 3})
	subjects, err = c.Subjects(sr.WithParams(ctx, sr.DeletedOnly))
	fine("deleted subjects", err)
	equal("deleted subjects", subjects, []string{subject})
	versions, err = c.DeleteSubject(ctx, subject, sr.HardDelete)
	fine("delete a subject for good", err)
	equal("deleted for good", versions, []int{2, 3})
	_, err = c.SubjectVersions(ctx, subject)
	refused(registry.CodeSubjectNotFound, "versions of what is gone", err)
	_, err = c.DeleteSubject(within, "s", sr.SoftDelete)
	fine("delete in a context", err)
	refused(registry.CodeContextNotEmpty, "delete a context that has something", c.DeleteContext(ctx, ".staging"))
	_, err = c.DeleteSubject(within, "s", sr.HardDelete)
	fine("delete in a context for good", err)
	fine("delete a context", c.DeleteContext(ctx, ".staging"))
}

// TestClientsPage holds the versions in docs/registry.md to those that are tested.
func TestClientsPage(t *testing.T) {
	root := testbed.Root(t)
	read := func(name string) string {
		b, err := os.ReadFile(filepath.Join(root, name))
		if err != nil {
			t.Fatal(err)
		}
		return string(b)
	}
	page := read("docs/registry.md")
	for _, c := range []struct{ file, version, page string }{
		{"testdata/python/requirements.txt", `(?m)^confluent-kafka==(\S+)`, "`confluent-kafka` | %s |"},
		{"testdata/flink/pom.xml", `<flink.version>(\S+)</flink.version>`, "`flink-sql-avro-confluent-registry` %s,"},
		{"testdata/readers/package.json", `"@kafkajs/confluent-schema-registry": "(\S+)"`, "`@kafkajs/confluent-schema-registry` | %s |"},
		{"go.mod", `github.com/twmb/franz-go/pkg/sr v(\S+)`, "`github.com/twmb/franz-go/pkg/sr` | %s |"},
		{"testdata/apicurio/pom.xml", `<artifactId>apicurio-registry-app</artifactId>\s*<version>(\S+)</version>`, "Apicurio Registry %s "},
	} {
		m := regexp.MustCompile(c.version).FindStringSubmatch(read(c.file))
		if m == nil {
			t.Errorf("%s has no %s", c.file, c.version)
		} else if want := fmt.Sprintf(c.page, m[1]); !strings.Contains(page, want) {
			t.Errorf("docs/registry.md does not say %q, as %s does", want, c.file)
		}
	}
}
