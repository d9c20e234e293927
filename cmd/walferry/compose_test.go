package main

import (
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/compose-spec/compose-go/v2/loader"
	"github.com/compose-spec/compose-go/v2/types"

	"walferry/internal/config"
)

func project(t *testing.T) *types.Project {
	t.Helper()
	root, err := filepath.Abs("../..")
	if err != nil {
		t.Fatal(err)
	}
	p, err := loader.LoadWithContext(t.Context(), types.ConfigDetails{
		WorkingDir:  root,
		ConfigFiles: []types.ConfigFile{{Filename: filepath.Join(root, "docker-compose.yml")}},
		Environment: types.Mapping{},
	}, func(o *loader.Options) { o.SkipResolveEnvironment = true })
	if err != nil {
		t.Fatalf("docker-compose.yml does not conform to the Compose specification: %v", err)
	}
	return p
}

func TestComposeServices(t *testing.T) {
	p := project(t)
	for _, name := range []string{"postgres", "kafka", "walferry", "workload"} {
		s, ok := p.Services[name]
		if !ok {
			t.Fatalf("no service %s", name)
		}
		if image := s.Image; s.Build == nil && (!strings.Contains(image, ":") || strings.HasSuffix(image, ":latest")) {
			t.Errorf("%s: image %q is not pinned", name, image)
		}
		for _, port := range s.Ports {
			if port.HostIP != "127.0.0.1" {
				t.Errorf("%s: port %s is open to the network", name, port.Published)
			}
		}
		for _, v := range s.Volumes {
			if v.Type != types.VolumeTypeBind {
				continue
			}
			if _, err := os.Stat(v.Source); err != nil {
				t.Errorf("%s mounts what is not there: %v", name, err)
			}
		}
	}
	for _, edge := range [][2]string{{"walferry", "postgres"}, {"walferry", "kafka"}, {"workload", "walferry"}} {
		if c := p.Services[edge[0]].DependsOn[edge[1]].Condition; c != types.ServiceConditionHealthy {
			t.Errorf("%s starts on %q of %s, not when it is healthy", edge[0], c, edge[1])
		}
		if h := p.Services[edge[1]].HealthCheck; h == nil || len(h.Test) == 0 {
			t.Errorf("%s has no health check", edge[1])
		}
	}
	if !strings.Contains(strings.Join(p.Services["postgres"].Command, " "), "wal_level=logical") {
		t.Error("postgres has no logical WAL")
	}
	if p.Services["postgres"].Image != "postgres:17" {
		t.Error("not Postgres 17")
	}
	for _, v := range []string{"postgres", "kafka"} {
		if _, ok := p.Volumes[v]; !ok {
			t.Errorf("no volume %s", v)
		}
	}
}

// TestDockerfile holds what cannot be tried on a machine without Docker: the compiler that go.mod asks for, a static binary, a
// user that is not root, a health check without a shell, and nothing left out that the build reads.
func TestDockerfile(t *testing.T) {
	text := readFile(t, "../../Dockerfile")
	language := regexp.MustCompile(`(?m)^go (\d+\.\d+)`).FindStringSubmatch(readFile(t, "../../go.mod"))
	if language == nil || !strings.Contains(text, "FROM golang:"+language[1]+" AS build\n") {
		t.Errorf("the image is not built with the version of go.mod, %v", language)
	}
	stages := strings.Split(text, "\nFROM ")
	last := stages[len(stages)-1]
	for _, want := range []string{"distroless/static-", "\nUSER 65532:65532\n", "\nHEALTHCHECK ", ` CMD ["/walferry", "status", `, "\nENTRYPOINT [\"/walferry\"]\n"} {
		if !strings.Contains(last, want) {
			t.Errorf("the last stage has no %q", want)
		}
	}
	if !strings.Contains(text, "CGO_ENABLED=0 go build") || strings.Contains(last, "\nRUN ") {
		t.Error("the binary is not static, or the image that has no shell runs something")
	}
	out, err := exec.CommandContext(t.Context(), "go", "list", "-deps", "-f", "{{if .Module}}{{if .Module.Main}}{{.Dir}}{{end}}{{end}}", ".").Output()
	if err != nil {
		t.Fatal(err)
	}
	root, err := filepath.Abs("../..")
	if err != nil {
		t.Fatal(err)
	}
	ignored := strings.Fields(readFile(t, "../../.dockerignore"))
	for _, dir := range strings.Fields(string(out)) {
		rel, err := filepath.Rel(root, dir)
		if err != nil {
			t.Fatal(err)
		}
		if top, _, _ := strings.Cut(rel, string(filepath.Separator)); slices.Contains(ignored, top) {
			t.Errorf("%s is part of the program and in .dockerignore", rel)
		}
	}
}

// TestComposeCommandsExist runs what the compose file and the Dockerfile call.
func TestComposeCommandsExist(t *testing.T) {
	s := project(t).Services["walferry"]
	lines := [][]string{s.Command, s.HealthCheck.Test[2:]}
	docker := readFile(t, "../../Dockerfile")
	m := regexp.MustCompile(`HEALTHCHECK .* CMD \["/walferry", (.*)\]`).FindStringSubmatch(docker)
	if m == nil {
		t.Fatal("the Dockerfile has no health check by walferry")
	}
	lines = append(lines, strings.Split(strings.ReplaceAll(m[1], `"`, ""), ", "))
	for _, args := range lines {
		var out, errs bytes.Buffer
		if code := run(t.Context(), append(args, "--help"), nil, &out, &errs); code != 0 || !strings.Contains(out.String(), "Usage:\n  walferry "+args[0]) {
			t.Errorf("walferry %v: exit code %d\n%s", args, code, errs.String())
		}
		for _, a := range args[1:] {
			if !strings.Contains(out.String(), a+" ") {
				t.Errorf("walferry %s has no %s", args[0], a)
			}
		}
	}
	for _, want := range []string{"CGO_ENABLED=0", "USER 65532", "AS build"} {
		if !strings.Contains(docker, want) {
			t.Errorf("the Dockerfile has no %s", want)
		}
	}
}

func TestComposeConfigurationIsAccepted(t *testing.T) {
	s := project(t).Services["walferry"]
	file := ""
	for _, v := range s.Volumes {
		if v.Target == "/etc/walferry/walferry.yml" {
			file = v.Source
		}
	}
	env := s.Environment
	c, err := config.Load(file, []byte(readFile(t, file)), func(k string) (string, bool) {
		v, ok := env[k]
		if !ok || v == nil {
			return "", false
		}
		return *v, true
	})
	if err != nil {
		t.Fatal(err)
	}
	for k, v := range env {
		t.Setenv(k, *v)
	}
	var out, errs bytes.Buffer
	if code := run(t.Context(), []string{"config", "--config", file}, nil, &out, &errs); code != exitOK {
		t.Errorf("walferry config: exit code %d\n%s", code, errs.String())
	}
	if strings.Contains(out.String(), "walferry:walferry@") {
		t.Error("walferry config shows the password")
	}
	// What the file says must fit what the other services are told.
	if !strings.Contains(string(c.Source.DSN), "@postgres:5432/shop") || c.Kafka.Brokers[0] != "kafka:9092" {
		t.Errorf("%s, %v", config.RedactDSN(string(c.Source.DSN)), c.Kafka.Brokers)
	}
	if c.DrainTimeout.Std() >= time.Duration(*s.StopGracePeriod) {
		t.Error("docker kills walferry before it has drained")
	}
	if write, err := c.AnonymousWrites(); err != nil || !write {
		t.Errorf("the registry refuses the writes of the other services: %v", err)
	}
	sql := readFile(t, "../../testdata/compose/init/10-shop.sql")
	for _, want := range []string{"CREATE PUBLICATION " + c.Source.Publication.Name + " ", "CREATE ROLE walferry LOGIN REPLICATION", "CREATE SCHEMA " + c.Source.Schemas[0]} {
		if !strings.Contains(sql, want) {
			t.Errorf("the init script has no %s", want)
		}
	}
}
