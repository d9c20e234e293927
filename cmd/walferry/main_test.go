package main

import (
	"bytes"
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	kafkago "github.com/segmentio/kafka-go"

	"walferry/checkpoint"
	"walferry/internal/config"
	"walferry/internal/kafka"
	"walferry/internal/pipeline"
	"walferry/schema"
	"walferry/sink"
	"walferry/source"
)

var update = flag.Bool("update", false, "rewrite the transcripts in testdata/cmd")

// TestTranscripts runs the command lines of testdata/cmd/*.txt and compares what
// they say. A file begins with the configuration, up to the first line that begins
// with $; a blank configuration is no file. Lines of stderr begin with "! ", and the
// exit code stands last where it is not 0.
func TestTranscripts(t *testing.T) {
	files, err := filepath.Glob("../../testdata/cmd/*.txt")
	if err != nil || len(files) < 5 {
		t.Fatalf("%d transcripts, %v", len(files), err)
	}
	for _, file := range files {
		t.Run(strings.TrimSuffix(filepath.Base(file), ".txt"), func(t *testing.T) {
			text := readFile(t, file)
			at := strings.Index(text, "$ ")
			if at < 0 {
				t.Fatal("no command")
			}
			settings := text[:at]
			for _, name := range []string{"PGHOST", "PGUSER", "PGPASSWORD", "PGPASSFILE", "WALFERRY_ADMIN_DSN"} {
				t.Setenv(name, "")
			}
			t.Setenv("WALFERRY_CONFIG", "") // or the default in the help depends on who runs this
			work := t.TempDir()
			t.Chdir(work)
			if strings.TrimSpace(settings) != "" {
				if err := os.WriteFile("walferry.yml", []byte(settings), 0o600); err != nil {
					t.Fatal(err)
				}
			}
			got := settings
			for _, m := range regexp.MustCompile(`(?m)^\$ walferry ?(.*)$`).FindAllStringSubmatch(text, -1) {
				var out, errs bytes.Buffer
				ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
				code := run(ctx, strings.Fields(m[1]), strings.NewReader("no\n"), &out, &errs)
				cancel()
				got += m[0] + "\n" + out.String()
				for line := range strings.Lines(errs.String()) {
					got += "! " + line
				}
				if code != 0 {
					got += fmt.Sprintf("[exit code %d]\n", code)
				}
				got += "\n"
			}
			got = strings.TrimSuffix(got, "\n")
			if *update {
				if err := os.WriteFile(abs(t, file), []byte(got), 0o644); err != nil {
					t.Fatal(err)
				}
				return
			}
			if got != text {
				t.Errorf("got\n%s\nwant\n%s", got, text)
			}
		})
	}
}

// here is where the test began; transcripts run elsewhere.
var here, _ = os.Getwd()

func abs(t *testing.T, file string) string {
	t.Helper()
	if here == "" {
		t.Fatal("the working directory is unknown")
	}
	return filepath.Join(here, file)
}

// TestHelpOfEveryCommand: each has a sentence, and none fails.
func TestHelpOfEveryCommand(t *testing.T) {
	commands := newRoot(&program{}).Commands()
	for i := 0; i < len(commands); i++ {
		c := commands[i]
		commands = append(commands, c.Commands()...)
		if c.Short == "" || strings.HasSuffix(c.Short, ".") {
			t.Errorf("%s: %q", c.CommandPath(), c.Short)
		}
		var out, errs bytes.Buffer
		args := append(strings.Fields(c.CommandPath())[1:], "--help")
		if code := run(t.Context(), args, nil, &out, &errs); code != 0 || errs.Len() > 0 {
			t.Errorf("%s --help: %d %s", c.CommandPath(), code, errs.String())
		}
		for line := range strings.Lines(out.String()) {
			// Flags are cobra's lines, of one width less.
			if len(strings.TrimRight(line, "\n")) > 100 && !strings.HasPrefix(strings.TrimSpace(line), "-") {
				t.Errorf("%s: a line of %d characters: %s", c.CommandPath(), len(line), line)
			}
		}
	}
}

// TestSetupTrigger: the SQL of the event trigger is the same for every configuration, and needs none.
func TestSetupTrigger(t *testing.T) {
	var out, errs bytes.Buffer
	code := run(t.Context(), []string{"setup", "--ddl-trigger", "--config", filepath.Join(t.TempDir(), "none.yml")}, strings.NewReader(""), &out, &errs)
	if code != exitOK || out.String() != source.DDLTriggerSQL() {
		t.Errorf("exit code %d: %s", code, &errs)
	}
}

func TestExitCodes(t *testing.T) {
	for _, x := range []struct {
		err  error
		want int
	}{
		{nil, exitOK},
		{errors.New("x"), exitError},
		{&usageError{err: errors.New("x")}, exitConfig},
		{config.ErrorList{{Problem: "x"}}, exitConfig},
		{fmt.Errorf("a: %w", &config.Error{}), exitConfig},
		{&source.ConnectError{}, exitSource},
		{&source.WALLevelError{}, exitSource},
		{&source.SlotMissingError{}, exitSource},
		{within(exitSource, errors.New("x")), exitSource},
		{kafkago.SASLAuthenticationFailed, exitKafka},
		{fmt.Errorf("a: %w", &sink.FatalError{Err: errors.New("x")}), exitKafka},
		{&sink.TopicMismatchError{}, exitKafka},
		{fmt.Errorf("a: %w", pipeline.ErrStalled), exitKafka},
		{within(exitRegistry, errors.New("x")), exitRegistry},
		{&checkpoint.Refusal{}, exitRefused},
		{&source.SlotLostError{}, exitRefused},
		{&checkpoint.MalformedError{}, exitRefused},
		{&pipeline.PartitionsChangedError{}, exitRefused},
		{&source.SlotInUseError{}, exitFenced},
		{&pipeline.FencedError{Err: errors.New("x")}, exitFenced},
		{fmt.Errorf("a: %w", kafka.ErrFenced), exitFenced},
		{&pipeline.StopError{Err: errors.New("x")}, exitStopped},
		{&schema.ValueError{}, exitStopped},
		{fmt.Errorf("a: %w", &schema.CollisionError{}), exitStopped},
		{fmt.Errorf("a: %w", &schema.TableError{}), exitStopped},
		{&sink.TooLargeError{}, exitStopped},
		// A stop that a broker's answer caused is a stop.
		{&pipeline.StopError{Err: kafkago.MessageSizeTooLarge}, exitStopped},
		{within(exitKafka, &sink.TooLargeError{}), exitStopped},
		{&silentError{exitCheck}, exitCheck},
		{errInterrupted, exitInterrupted},
		{fmt.Errorf("a: %w", context.Canceled), exitInterrupted},
	} {
		if got := exitCode(x.err); got != x.want {
			t.Errorf("%T %v: %d, want %d", x.err, x.err, got, x.want)
		}
	}
}

// TestExitCodesAreDocumented: help and operating.md list the same codes.
func TestExitCodesAreDocumented(t *testing.T) {
	var doc, help []string
	for _, m := range regexp.MustCompile(`(?m)^\| (\d+) \| (.+) \|$`).FindAllStringSubmatch(readFile(t, "../../docs/operating.md"), -1) {
		doc = append(doc, m[1]+" "+strings.ReplaceAll(m[2], "`", ""))
	}
	for _, m := range regexp.MustCompile(`(?m)^  (\d+) +(.+)$`).FindAllStringSubmatch(exitHelp, -1) {
		help = append(help, m[1]+" "+m[2])
	}
	if len(help) != 11 || !slices.Equal(doc, help) {
		t.Errorf("docs/operating.md has\n%s\nthe help\n%s", strings.Join(doc, "\n"), strings.Join(help, "\n"))
	}
}

func TestInterruptedCommand(t *testing.T) {
	ctx, cancel := context.WithCancelCause(t.Context())
	cancel(errInterrupted)
	file := writeConfig(t, "name: shop\nsource: {dsn: 'host=127.0.0.1 port=1', tables: [a.b]}\nkafka: {brokers: ['127.0.0.1:1']}\nadmin: {listen: ''}\n")
	var out, errs bytes.Buffer
	if code := run(ctx, []string{"check", "-c", file}, nil, &out, &errs); code != exitInterrupted {
		t.Errorf("%d %s %s", code, out.String(), errs.String())
	}
	if code := run(ctx, []string{"tail", "-c", file}, nil, &out, &errs); code != exitOK {
		t.Errorf("tail: %d %s", code, errs.String())
	}
}

func writeConfig(t *testing.T, text string) string {
	t.Helper()
	file := filepath.Join(t.TempDir(), "walferry.yml")
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return file
}

func TestBytesText(t *testing.T) {
	for n, want := range map[int64]string{0: "0 B", 1023: "1023 B", 1024: "1 KiB", 1536: "1.5 KiB", 5 << 20: "5 MiB", 1 << 40: "1 TiB"} {
		if got := bytesText(n); got != want {
			t.Errorf("%d: %s, want %s", n, got, want)
		}
	}
}
