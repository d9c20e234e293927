package imports

import (
	"fmt"
	"go/parser"
	"go/token"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
)

const module = "walferry"

// rule says what the production files of a package may import.
type rule struct {
	// ours lists packages of this module; "*" is any.
	ours string
	// never lists prefixes of packages, of the standard library too, that it must not learn of.
	never string
	// by lists who may import it, with "*" anywhere in a name; "" is anyone whose own rule says so.
	by string
}

const (
	postgres = "github.com/jackc/pgx "
	wal      = "github.com/jackc/pglogrepl "
	brokers  = "github.com/segmentio/kafka-go github.com/twmb "
	avro     = "github.com/linkedin/goavro "
	sockets  = "net os/exec database/sql "
	servers  = "internal/testbed internal/testbed/* internal/workload cmd/walferry internal/demo internal/demo/* bench bench/*"
)

// rules has a line for each package. The arrows follow the flow, source → decode → schema → sink with checkpoint beside,
// and are fewer: a package knows its own protocol and nothing of its neighbours'.
var rules = map[string]rule{
	"decode":            {ours: "", never: sockets + "os time/tzdata sync log " + postgres + brokers + avro},
	"source":            {ours: "decode internal/failpoint", never: brokers + avro},
	"schema":            {ours: "decode", never: sockets + "os " + postgres + brokers},
	"schema/registry":   {ours: "schema internal/kafka internal/failpoint", never: "database/sql " + postgres + wal + "github.com/twmb "},
	"internal/kafka":    {ours: "", never: postgres + wal + avro + "github.com/twmb "},
	"sink":              {ours: "internal/kafka internal/failpoint", never: postgres + wal + avro + "github.com/twmb "},
	"checkpoint":        {ours: "internal/kafka", never: postgres + brokers + avro},
	"internal/backfill": {ours: "decode", never: sockets + "os sync log " + postgres + brokers + avro, by: "internal/pipeline"},
	"internal/pipeline": {
		ours:  "decode internal/backfill source schema schema/registry sink checkpoint internal/kafka internal/failpoint",
		never: "github.com/twmb ", by: "cmd/walferry"},
	"cmd/walferry": {ours: "*"},

	// What is not the way of the data is used by the command alone.
	"internal/config": {ours: "source schema schema/registry sink internal/kafka internal/pipeline", by: "cmd/walferry internal/demo internal/demo/*"},
	"internal/admin":  {ours: "schema/registry", never: postgres + brokers, by: "cmd/walferry"},
	"internal/demo":   {ours: "*", by: "cmd/walferry"},
	"internal/script": {ours: "", never: sockets + postgres + brokers + avro, by: "cmd/walferry"},
	"bench":           {ours: "*", by: "bench/*"},

	// A leaf that anything may stand on, since it is empty without its build tag.
	"internal/failpoint": {ours: "", never: postgres + brokers + avro},

	// Servers for tests, the demo and the benchmark. Nothing on the way of the data starts one.
	"internal/proc":              {ours: "", by: "internal/pgserver " + servers},
	"internal/pgserver":          {ours: "internal/proc", by: servers},
	"internal/workload":          {ours: "", never: wal + brokers + avro, by: servers},
	"internal/testbed":           {ours: "internal/pgserver internal/proc internal/workload", by: "internal/testbed/fetch bench bench/*"},
	"internal/testbed/fetch":     {ours: "internal/testbed", by: "nobody"},
	"internal/testbed/testcount": {ours: "", by: "nobody"},
	"internal/imports":           {ours: "", by: "nobody"},
}

// ruleOf returns a package's rule. A fake lives in <package>/<package>test, may import what its package may and the
// package itself, and is imported by tests only; other sub-packages follow their parent unless they have a line.
func ruleOf(pkg string) (rule, bool) {
	if r, ok := rules[pkg]; ok {
		return r, true
	}
	parent := path.Dir(pkg)
	if parent == "." {
		return rule{}, false
	}
	r, ok := ruleOf(parent)
	if path.Base(pkg) == path.Base(parent)+"test" {
		r.by = "nobody"
	}
	if r.ours != "*" {
		r.ours += " " + parent + " " + parent + "/*"
	}
	return r, ok
}

func matches(patterns, name string) bool {
	return slices.ContainsFunc(strings.Fields(patterns), func(p string) bool {
		prefix, any := strings.CutSuffix(p, "*")
		return p == name || any && strings.HasPrefix(name, prefix)
	})
}

// under reports whether a package is one of those listed or below it; versions (".../v5") are below.
func under(list, pkg string) bool {
	return slices.ContainsFunc(strings.Fields(list), func(p string) bool { return pkg == p || strings.HasPrefix(pkg, p+"/") })
}

// check says what is wrong with one import, or "".
func check(pkg, imported string) string {
	r, ok := ruleOf(pkg)
	if !ok {
		return fmt.Sprintf("package %s has no line in the table of internal/imports", pkg)
	}
	own, ours := strings.CutPrefix(imported, module+"/")
	if !ours {
		if under(r.never, imported) {
			return fmt.Sprintf("%s must not learn of %s", pkg, imported)
		}
		return ""
	}
	if !matches(r.ours, own) {
		return fmt.Sprintf("%s may not import %s", pkg, own)
	}
	if target, ok := ruleOf(own); ok && target.by != "" && !matches(target.by, pkg) {
		return fmt.Sprintf("%s may not be imported by %s", own, pkg)
	}
	return ""
}

// TestImports reads the files themselves and not go list, so that files behind any build tag count.
func TestImports(t *testing.T) {
	root := filepath.Join("..", "..")
	if _, err := os.Stat(filepath.Join(root, "go.mod")); err != nil {
		t.Fatal(err)
	}
	arrows := 0
	err := filepath.WalkDir(root, func(file string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		rel, err := filepath.Rel(root, file)
		if err != nil {
			return err
		}
		if d.IsDir() {
			if name := d.Name(); rel != "." && (name == "testdata" || name == "build" || name == "tools" || strings.HasPrefix(name, ".")) {
				return fs.SkipDir
			}
			return nil
		}
		if !strings.HasSuffix(file, ".go") || strings.HasSuffix(file, "_test.go") {
			return nil
		}
		f, err := parser.ParseFile(token.NewFileSet(), file, nil, parser.ImportsOnly)
		if err != nil {
			return err
		}
		for _, spec := range f.Imports {
			imported, err := strconv.Unquote(spec.Path.Value)
			if err != nil {
				return err
			}
			arrows++
			if wrong := check(filepath.ToSlash(filepath.Dir(rel)), imported); wrong != "" {
				t.Errorf("%s: %s", rel, wrong)
			}
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	if arrows < 50 {
		t.Errorf("only %d imports seen: not the whole tree was read", arrows)
	}
}

// TestCheck holds the table's reading: the test above must be able to fail.
func TestCheck(t *testing.T) {
	for _, c := range []struct {
		pkg, imported string
		fine          bool
	}{
		{"decode", "fmt", true},
		{"decode", "net", false},
		{"decode", "net/http", false},
		{"decode", "walferry/source", false},
		{"source", "walferry/decode", true},
		{"source", "walferry/schema", false},
		{"source", "github.com/segmentio/kafka-go/protocol", false},
		{"schema", "github.com/jackc/pgx/v5/pgtype", false},
		{"schema", "walferry/schema/registry", false},
		{"schema/registry", "walferry/schema", true},
		{"schema/registry", "walferry/schema/registry/registrytest", false},
		{"schema/registry", "walferry/decode", false},
		{"schema/registry/registrytest", "walferry/schema/registry", true},
		{"sink", "walferry/decode", false},
		{"sink", "walferry/internal/kafka", true},
		{"sink", "walferry/sink/sinktest", false},
		{"sink/sinktest", "walferry/sink", true},
		{"sink/sinktest", "walferry/source", false},
		{"checkpoint", "walferry/sink", false},
		{"internal/pipeline", "walferry/schema/registry", true},
		{"internal/pipeline", "walferry/internal/testbed", false},
		{"internal/pipeline", "walferry/internal/config", false},
		{"internal/kafka", "walferry/internal/failpoint", false},
		{"internal/pgserver", "walferry/internal/proc", true},
		{"internal/workload", "walferry/decode", false},
		{"cmd/walferry", "walferry/internal/pgserver", true},
		{"cmd/walferry", "walferry/internal/testbed", false},
		{"cmd/walferry", "walferry/sink/sinktest", false},
		{"internal/demo", "walferry/internal/pgserver", true},
		{"util", "fmt", false},
	} {
		if wrong := check(c.pkg, c.imported); (wrong == "") != c.fine {
			t.Errorf("%s imports %s: %q, want fine %t", c.pkg, c.imported, wrong, c.fine)
		}
	}
}
