package main

import (
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"walferry/internal/config"
	"walferry/internal/proc"
	"walferry/internal/testbed"
)

// TestReadmeConfiguration: the README's example is accepted as it stands.
func TestReadmeConfiguration(t *testing.T) {
	blocks := regexp.MustCompile("(?s)```yaml\n(.*?)```").FindAllStringSubmatch(readFile(t, "../../README.md"), -1)
	if len(blocks) == 0 {
		t.Fatal("the README shows no configuration")
	}
	for _, b := range blocks {
		c, err := config.Load("README.md", []byte(b[1]), func(string) (string, bool) { return "", false })
		if err != nil {
			t.Fatal(err)
		}
		if len(c.Kafka.Brokers) == 0 || c.Kafka.TransactionalID == "" {
			t.Errorf("the example is no configuration: %+v", c.Kafka)
		}
	}
}

// TestReadmeExitCodes: the README and the help list the same codes.
func TestReadmeExitCodes(t *testing.T) {
	var doc, help []string
	for _, m := range regexp.MustCompile(`(?m)^\| (\d+) \| (.+) \|$`).FindAllStringSubmatch(readFile(t, "../../README.md"), -1) {
		doc = append(doc, m[1]+" "+strings.ReplaceAll(m[2], "`", ""))
	}
	for _, m := range regexp.MustCompile(`(?m)^  (\d+) +(.+)$`).FindAllStringSubmatch(exitHelp, -1) {
		help = append(help, m[1]+" "+m[2])
	}
	if len(help) != 11 || !slices.Equal(doc, help) {
		t.Errorf("README.md has\n%s\nthe help\n%s", strings.Join(doc, "\n"), strings.Join(help, "\n"))
	}
}

// TestReadmeCommands: each command line of the README that calls walferry is one that exists.
func TestReadmeCommands(t *testing.T) {
	known := map[string]bool{}
	for _, c := range newRoot(&program{}).Commands() {
		known[c.Name()] = true
	}
	n := 0
	for _, m := range regexp.MustCompile("(?m)(?:^    |`)(?:build/)?walferry ([a-z]+)").FindAllStringSubmatch(readFile(t, "../../README.md"), -1) {
		if n++; !known[m[1]] {
			t.Errorf("the README calls `walferry %s`, which does not exist", m[1])
		}
	}
	if n < 6 {
		t.Errorf("only %d calls found", n)
	}
}

// TestReadmeConsumers runs the three consumers of the README as they stand there, but for the addresses, on what walferry wrote.
func TestReadmeConsumers(t *testing.T) {
	python, libraries := testbed.Python(t), testbed.JavaLibraries(t, "java")
	pg, broker := testbed.Postgres(t, ""), testbed.Kafka(t)
	pg.Exec(testbed.Owner, "CREATE TABLE public.orders (id int PRIMARY KEY, note text, price numeric(8,2), tags text[], placed timestamptz)",
		"CREATE PUBLICATION walferry_shop FOR TABLE public.orders WITH (publish_via_partition_root = true)")
	dir := t.TempDir()
	registry := freeAddr(t)
	b := &bench{t: t, file: filepath.Join(dir, "walferry.yml")}
	b.configure(`
name: shop
source:
  dsn: %q
  tables: [public.orders]
  publication: {create: false}
kafka:
  brokers: [%q]
  topic: {partitions: 1, replication_factor: 1, prefix: %s}
registry: {listen: %q, topic: %s}
admin: {listen: %q}
`, pg.DSN(testbed.Reader), broker.Addr, "readme", registry, "_schemas.readme", freeAddr(t))
	p := b.start("run")
	b.until(p, "status", "--readyz")
	b.copied(p, 1)
	pg.Exec(testbed.Owner, "INSERT INTO orders VALUES (7, 'first', 12.50, '{a,b}', '2024-02-29 12:00:00+00')",
		"UPDATE orders SET note = 'second'", "DELETE FROM orders", "INSERT INTO orders (id, note) VALUES (8, 'last')")

	readme := readFile(t, "../../README.md")
	for name, command := range map[string]func(file string) *exec.Cmd{
		"java Consumer.java": func(file string) *exec.Cmd {
			return exec.CommandContext(t.Context(), "java", "-XX:TieredStopAtLevel=1", "-cp", libraries, file)
		},
		"python consumer.py": func(file string) *exec.Cmd { return exec.CommandContext(t.Context(), python, file) },
		"go consumer.go": func(file string) *exec.Cmd {
			program := filepath.Join(dir, "consumer")
			// In the folder of this package, so with the modules of walferry.
			if out, err := exec.CommandContext(t.Context(), "go", "build", "-o", program, file).CombinedOutput(); err != nil {
				t.Fatalf("go build: %v\n%s", err, out)
			}
			return exec.CommandContext(t.Context(), program)
		},
	} {
		t.Run(name, func(t *testing.T) {
			_, after, found := strings.Cut(readme, "```"+name+"\n")
			code, _, closed := strings.Cut(after, "```")
			if !found || !closed {
				t.Fatalf("the README has no block %q", name)
			}
			_, file, _ := strings.Cut(name, " ")
			for _, x := range []struct{ from, to string }{
				{"kafka-1.internal:9093", broker.Addr}, {"127.0.0.1:8081", registry},
				{"shop.public.orders", "readme.public.orders"}, {`"search"`, `"` + file + `"`},
			} {
				if strings.Count(code, x.from) != 1 {
					t.Fatalf("%s stands %d times in it", x.from, strings.Count(code, x.from))
				}
				code = strings.Replace(code, x.from, x.to, 1)
			}
			file = writeTo(t, dir, file, code)
			var out, errs lockedBuffer
			cmd := command(file)
			cmd.Stdout, cmd.Stderr = &out, &errs
			running, err := proc.Start(cmd, syscall.SIGKILL)
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() {
				if err := running.Stop(syscall.SIGKILL, time.Minute); err != nil {
					t.Error(err)
				}
			})
			for deadline := time.Now().Add(2 * time.Minute); strings.Count(out.String(), "\n") < 4; time.Sleep(50 * time.Millisecond) {
				select {
				case <-running.Done():
					t.Fatalf("it ended: %v\n%s%s", running.Err(), out.String(), errs.String())
				default:
				}
				if time.Now().After(deadline) {
					t.Fatalf("it saw\n%s%s", out.String(), errs.String())
				}
			}
			for i, want := range [][]string{{"c", "7", "first", "a", "b"}, {"u", "7", "second"}, {"d", "7"}, {"c", "8", "last"}} {
				line := strings.Split(out.String(), "\n")[i]
				for _, w := range want {
					if !strings.Contains(line, w) || line[0] != want[0][0] {
						t.Errorf("event %d is shown as %s, without %s", i, line, w)
					}
				}
			}
			t.Log(out.String())
		})
	}
	if code := b.stop(p); code != exitOK {
		t.Errorf("run ended with %d:\n%s", code, p.errs)
	}
}
