package main

import (
	"regexp"
	"slices"
	"strings"
	"testing"

	"walferry/internal/config"
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
