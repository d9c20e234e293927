package main

import (
	"context"
	"crypto/md5"
	"encoding/hex"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	kafkago "github.com/segmentio/kafka-go"

	"walferry/internal/kafka"
	"walferry/internal/testbed"
	"walferry/schema"
)

// TestLargeValue: a text of 64 MiB that does not shrink stops the stream before it while its topic takes a megabyte, and
// nothing of it is sent; with the limits raised, as the error says, the next start publishes it exactly. Resident memory stays
// within the bound of a process and three times the row.
func TestLargeValue(t *testing.T) {
	t.Setenv("GOMEMLIMIT", "") // the limits are the program's own
	t.Setenv("GOGC", "")
	const size = 64 << 20
	program := buildBinary(t)
	pg := testbed.Postgres(t, "")
	broker := testbed.KafkaAlone(t, "message.max.bytes=104857600", "replica.fetch.max.bytes=104857600")
	if !broker.Apache {
		t.Skip("kfake has no limits: install Java 17 and Maven (Debian: default-jdk-headless maven)")
	}
	pg.Exec(testbed.Owner, "CREATE TABLE documents (id int PRIMARY KEY, body text)", "ALTER TABLE documents ALTER body SET STORAGE EXTERNAL",
		"CREATE PUBLICATION walferry_large FOR TABLE documents WITH (publish_via_partition_root = true)")
	file := filepath.Join(t.TempDir(), "walferry.yml")
	if err := os.WriteFile(file, fmt.Appendf(nil, `
name: large
source:
  dsn: %q
  tables: [public.documents]
  publication: {create: false}
kafka:
  brokers: [%q]
  topic: {partitions: 1, config: {max.message.bytes: 1048588}}
registry: {listen: %q}
backfill: none
admin: {listen: %q}
`, pg.DSN(testbed.Reader), broker.Addr, freeAddr(t), freeAddr(t)), 0o600); err != nil {
		t.Fatal(err)
	}
	log := filepath.Join(t.TempDir(), "refused.log")
	run := launchTo(t, log, program, nil, "run", "--config", file)
	awaitSlot(t, pg)
	// Hexadecimal digits of hashes: lz4 finds nothing to shorten.
	pg.Exec(testbed.Owner, "INSERT INTO documents VALUES (1, 'small')",
		fmt.Sprintf("INSERT INTO documents SELECT 2, string_agg(md5(n::text), '') FROM generate_series(1, %d) n", size/32),
		"INSERT INTO documents VALUES (3, 'small')")
	select {
	case <-run.Done():
	case <-time.After(3 * time.Minute):
		t.Fatal("it did not stop before the large row")
	}
	said, err := os.ReadFile(log)
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"raise max.message.bytes of topic large.public.documents", "id=2"} {
		if !strings.Contains(string(said), want) {
			t.Errorf("the log has no %q", want)
		}
	}
	client, err := kafka.New(kafka.Config{Brokers: []string{broker.Addr}})
	if err != nil {
		t.Fatal(err)
	}
	defer client.Close()
	const topic = "large.public.documents"
	if end, err := client.EndOffset(t.Context(), topic, 0); err != nil || end != 2 { // a record and its transaction's marker
		t.Errorf("the topic ends at %d, %v: more than the row before was sent", end, err)
	}

	if res, err := (&kafkago.Client{Addr: kafkago.TCP(broker.Addr)}).IncrementalAlterConfigs(t.Context(), &kafkago.IncrementalAlterConfigsRequest{
		Resources: []kafkago.IncrementalAlterConfigsRequestResource{{ResourceType: kafkago.ResourceTypeTopic, ResourceName: topic,
			Configs: []kafkago.IncrementalAlterConfigsRequestConfig{{Name: "max.message.bytes", Value: "104857600"}}}},
	}); err != nil || res.Resources[0].Error != nil {
		t.Fatalf("raise max.message.bytes: %v, %+v", err, res)
	}
	run = launch(t, program, "raised.log", nil, "run", "--config", file)
	ctx, done := context.WithTimeout(t.Context(), 3*time.Minute)
	defer done()
	reader := client.NewReader(map[kafka.TopicPartition]int64{{Topic: topic}: 0})
	var bodies []string
	for len(bodies) < 3 {
		recs, err := reader.Poll(ctx)
		if err != nil {
			t.Fatalf("after %d records: %v", len(bodies), err)
		}
		for _, r := range recs {
			// The large one by its hash: the value's bytes are the text, with a few before and behind it.
			if len(r.Value) > size {
				at := strings.Index(string(r.Value), "c4ca4238a0b923820dcc509a6f75849b") // md5 of "1", where the text begins
				if at < 0 || len(r.Value) < at+size {
					t.Fatalf("a value of %d bytes, and the text begins at %d", len(r.Value), at)
				}
				sum := md5.Sum(r.Value[at : at+size])
				bodies = append(bodies, hex.EncodeToString(sum[:]))
				continue
			}
			if _, _, err := schema.ParseWire(r.Value); err != nil {
				t.Fatal(err)
			}
			bodies = append(bodies, "small")
		}
	}
	var want string
	if err := pg.Connect(testbed.Owner).QueryRow(ctx, "SELECT md5(body) FROM documents WHERE id = 2").Scan(&want); err != nil {
		t.Fatal(err)
	}
	if got := fmt.Sprint(bodies); got != fmt.Sprint([]string{"small", want, "small"}) {
		t.Errorf("records %s, want the hash %s between two small ones", got, want)
	}
	peak, err := run.PeakMemory()
	if err != nil {
		t.Fatal(err)
	}
	t.Logf("a row of %d MiB: %d MiB", size>>20, peak>>20)
	if peak > flatMemory+3*size {
		t.Errorf("%d MiB of resident memory for a row of %d, the bound is %d", peak>>20, size>>20, (flatMemory+3*size)>>20)
	}
	if err := run.Stop(syscall.SIGTERM, 30*time.Second); err != nil {
		t.Errorf("stop by SIGTERM: %v", err)
	}
}
