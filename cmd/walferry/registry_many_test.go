package main

import (
	"fmt"
	"io"
	"log/slog"
	"math/rand/v2"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"walferry/internal/config"
	"walferry/internal/kafka"
	"walferry/schema/registry"
)

// TestManySchemas starts a registry on a topic with many schemas of a table with ten columns, looks ids up, and registers one
// more. With WALFERRY_REGISTRY_SCHEMAS=50000 (make bench) it holds the limits and says the numbers that stand in docs/registry.md.
func TestManySchemas(t *testing.T) {
	many, full := 1000, false
	if s := os.Getenv("WALFERRY_REGISTRY_SCHEMAS"); s != "" {
		var err error
		if many, err = strconv.Atoi(s); err != nil || many < 1 {
			t.Fatalf("WALFERRY_REGISTRY_SCHEMAS=%q is not a number of schemas", s)
		}
		full = true
	}
	r := newRegistries(t)
	file := filepath.Join(r.dir, "fill.yml")
	if err := os.WriteFile(file, fmt.Appendf(nil, "kafka: {brokers: [%q]}\nregistry: {topic: %q}\n", r.broker.Addr, r.topic), 0o600); err != nil {
		t.Fatal(err)
	}
	c, err := config.LoadRegistryFile(file)
	if err != nil {
		t.Fatal(err)
	}
	client, err := kafka.New(kafka.Config{Brokers: []string{r.broker.Addr}})
	if err != nil {
		t.Fatal(err)
	}
	defer client.Close()
	_, w, err := newStore(c, client, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	if err := w.Init(t.Context()); err != nil {
		t.Fatal(err)
	}
	bytes := 0
	var batch []registry.Record
	for id := 1; id <= many; id++ {
		key := fmt.Appendf(nil, `{"keytype":"SCHEMA","subject":"shop.public.table_%d-value","version":1,"magic":1}`, id)
		text := tableSchema(id)
		bytes += len(text)
		value := fmt.Appendf(nil, `{"subject":"shop.public.table_%d-value","version":1,"id":%d,"schema":%q,"deleted":false}`, id, id, text)
		if batch = append(batch, registry.Record{Key: key, Value: value}); len(batch) == 500 || id == many {
			if _, err := w.Write(t.Context(), r.topic, batch); err != nil {
				t.Fatal(err)
			}
			batch = batch[:0]
		}
	}

	begin := time.Now()
	s := r.serve(freeAddr(t), "")
	ready := time.Since(begin)
	t.Logf("%d schemas of %d bytes: reads are served %v after the start, with %s", many, bytes/many, ready.Round(time.Millisecond), memoryOf(t, s.PID()))
	const lookups = 2000
	var took []time.Duration
	for range lookups {
		id := 1 + rand.IntN(many)
		begin := time.Now()
		res, err := http.Get(fmt.Sprintf("http://%s/schemas/ids/%d", s.address, id))
		if err != nil {
			t.Fatal(err)
		}
		text, err := io.ReadAll(res.Body)
		took = append(took, time.Since(begin))
		if cerr := res.Body.Close(); err != nil || cerr != nil || !strings.Contains(string(text), fmt.Sprintf(`table_%d-value"`, id)) {
			t.Fatalf("id %d: %s, %v, %v", id, text, err, cerr)
		}
	}
	slices.Sort(took)
	t.Logf("an id over HTTP: median %v, 99 of 100 within %v", took[lookups/2], took[lookups*99/100])
	begin = time.Now()
	if id := s.mustRegister("more"); id != many+1 {
		t.Errorf("the next id is %d", id)
	}
	t.Logf("the first registration, which takes the log over, %v; then %s", time.Since(begin).Round(time.Millisecond), memoryOf(t, s.PID()))
	begin = time.Now()
	s.mustRegister("evenmore")
	t.Logf("the next one %v", time.Since(begin).Round(time.Millisecond))
	if full && (ready > 2*time.Second || took[lookups/2] > time.Millisecond) {
		t.Error("a start may take 2 s, and an id 1 ms")
	}
}

// tableSchema is about as long as what a table of ten columns has.
func tableSchema(id int) string {
	var columns strings.Builder
	for k := range 10 {
		fmt.Fprintf(&columns, `{"name":"column_%d","type":["null","string"],"default":null},`, k)
	}
	return fmt.Sprintf(`{"type":"record","name":"Envelope","namespace":"shop.public.table_%d","fields":[{"name":"before","type":["null",{"type":"record","name":"Value","fields":[%s{"name":"id","type":"long"}]}],"default":null},{"name":"after","type":["null","Value"],"default":null},{"name":"op","type":"string"}],"connect.name":"table_%d"}`, id, columns.String(), id)
}

var memoryLine = regexp.MustCompile(`(?m)^(VmHWM|VmRSS):\s*(\d+) kB`)

// memoryOf says what a process has in memory, and had at most.
func memoryOf(t *testing.T, pid int) string {
	t.Helper()
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		t.Fatal(err)
	}
	mib := map[string]int{}
	for _, m := range memoryLine.FindAllStringSubmatch(string(text), -1) {
		kb, err := strconv.Atoi(m[2])
		if err != nil {
			t.Fatal(err)
		}
		mib[m[1]] = kb >> 10
	}
	return fmt.Sprintf("%d MiB resident, %d at most", mib["VmRSS"], mib["VmHWM"])
}
