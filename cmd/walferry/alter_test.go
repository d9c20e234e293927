package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/linkedin/goavro/v2"

	"walferry/internal/kafka"
	"walferry/internal/testbed"
	"walferry/schema"
	"walferry/source"
)

// alterRounds is how often a change of the schema has a kill around it.
const alterRounds = 30

// described is the table's columns as they are for the statement that writes them: it has locked the table before its snapshot
// is taken, so no change of the table lies between them and its row.
const described = `(SELECT string_agg(attname || ':' || format_type(atttypid, atttypmod), ',' ORDER BY attnum)
	FROM pg_attribute WHERE attrelid = 'item'::regclass AND attnum > 0 AND NOT attisdropped)`

// TestAlter kills walferry around changes of a table under load. Each row says which columns its table had; no event may have a
// schema with others, none may come twice, and folding them gives the table. The registry is the pipeline's own, so it is
// killed while it registers.
func TestAlter(t *testing.T) {
	random := rand.New(rand.NewPCG(11, 3))
	pg := testbed.Postgres(t, "")
	broker := testbed.Kafka(t)
	pg.Exec(testbed.Superuser, source.DDLTriggerSQL())
	pg.Exec(testbed.Owner, `CREATE TABLE item (id serial PRIMARY KEY, n integer, cols text)`,
		`CREATE PUBLICATION walferry_alter FOR TABLE item`)
	registry := freeAddr(t)
	file := filepath.Join(t.TempDir(), "walferry.yml")
	if err := os.WriteFile(file, fmt.Appendf(nil, `
name: alter
source:
  dsn: %q
  all_tables: true
  heartbeat: 1s
  wal_sender_timeout: 5s
  publication: {create: false}
kafka:
  brokers: [%q]
  topic: {partitions: 3, replication_factor: 1}
registry: {listen: %q, topic: _schemas_alter}
backfill: none
admin: {listen: ""}
`, pg.DSN(testbed.Reader), broker.Addr, registry), 0o600); err != nil {
		t.Fatal(err)
	}
	binary := buildBinary(t)
	run := launch(t, binary, "run-1.log", nil, "run", "--config", file)
	awaitSlot(t, pg)

	writing, stop := context.WithCancel(t.Context())
	defer stop()
	var writers sync.WaitGroup
	for w := range 2 {
		conn := pg.Connect(testbed.Owner)
		writers.Go(func() {
			for i := 0; writing.Err() == nil; i++ {
				sql := `INSERT INTO item (n, cols) VALUES (1, ` + described + `)`
				if i%3 == 2 {
					sql = fmt.Sprintf(`UPDATE item SET cols = %s WHERE id = (SELECT max(id) - %d FROM item)`, described, w)
				}
				// A plan from before the change is no error of ours.
				if _, err := conn.Exec(t.Context(), sql); err != nil && !strings.Contains(err.Error(), "0A000") {
					t.Errorf("write: %v", err)
					return
				}
			}
		})
	}
	alter := pg.Connect(testbed.Owner)
	var added []string
	for round := 1; round <= alterRounds; round++ {
		changed := make(chan error, 1)
		sql := fmt.Sprintf(`ALTER TABLE item ADD c%d %s`, round, []string{"text", "integer NOT NULL DEFAULT 7"}[round%2])
		switch {
		case round == 3:
			sql = `ALTER TABLE item ALTER n TYPE bigint`
		case round%4 == 0:
			sql = `ALTER TABLE item DROP ` + added[random.IntN(len(added))]
			added = nil // the others stay for ever
		default:
			added = append(added, fmt.Sprintf("c%d", round))
		}
		go func() {
			_, err := alter.Exec(t.Context(), sql)
			changed <- err
		}()
		time.Sleep(time.Duration(random.IntN(150)) * time.Millisecond) // the moment of the kill
		stopProcess(t, run)
		if err := <-changed; err != nil {
			t.Fatalf("%s: %v", sql, err)
		}
		run = launch(t, binary, fmt.Sprintf("run-%d.log", round+1), nil, "run", "--config", file)
		if round%3 != 0 { // else it is killed in its start
			awaitSlot(t, pg)
		}
	}
	stop()
	writers.Wait()
	awaitConfirmed(t, pg)

	events := readAll(t, broker.Addr, "alter.public.item")
	seen := map[string]bool{}
	fold := map[string]string{}
	schemas := map[int32]*rowSchema{}
	for _, e := range events {
		for _, h := range e.Headers {
			if h.Key == "id" {
				if seen[string(h.Value)] {
					t.Fatalf("event %s came twice", h.Value)
				}
				seen[string(h.Value)] = true
			}
		}
		id, payload, err := schema.ParseWire(e.Value)
		if err != nil {
			t.Fatal(err)
		}
		if schemas[id] == nil {
			schemas[id] = fetchRowSchema(t, registry, id)
		}
		after := schemas[id].after(t, payload)
		if cols := fmt.Sprint(after["cols"]); cols != schemas[id].columns {
			t.Errorf("a row of a table with columns %s has schema %d with %s", cols, id, schemas[id].columns)
		}
		fold[fmt.Sprint(after["id"])] = fmt.Sprint(after["cols"])
	}
	rows, err := alter.Query(t.Context(), `SELECT id::text, cols FROM item`)
	if err != nil {
		t.Fatal(err)
	}
	n := 0
	for rows.Next() {
		var id, cols string
		if err := rows.Scan(&id, &cols); err != nil {
			t.Fatal(err)
		}
		if n++; fold[id] != cols {
			t.Errorf("row %s is folded to %q, and is %q", id, fold[id], cols)
		}
	}
	if err := rows.Err(); err != nil {
		t.Fatal(err)
	}
	if n != len(fold) || n < 20*alterRounds || len(schemas) < alterRounds/2 {
		t.Errorf("%d rows, %d of them in the topic, under %d schemas: too little to say anything, or not the same", n, len(fold), len(schemas))
	}
	t.Logf("%d kills, %d rows, %d events under %d schemas", alterRounds, n, len(events), len(schemas))
	if err := run.Stop(syscall.SIGTERM, 30*time.Second); err != nil {
		t.Errorf("the last run ended with %v", err)
	}
}

// readAll returns the committed records of a topic up to its end.
func readAll(t *testing.T, addr, topic string) (all []kafka.Record) {
	t.Helper()
	client, err := kafka.New(kafka.Config{Brokers: []string{addr}})
	if err != nil {
		t.Fatal(err)
	}
	defer client.Close()
	ctx, done := context.WithTimeoutCause(t.Context(), 2*time.Minute, errors.New("the topic's end does not come"))
	defer done()
	n, _, err := client.Partitions(ctx, topic)
	if err != nil {
		t.Fatal(err)
	}
	at, end := map[kafka.TopicPartition]int64{}, map[kafka.TopicPartition]int64{}
	for p := range int32(n) {
		tp := kafka.TopicPartition{Topic: topic, Partition: p}
		if end[tp], err = client.EndOffset(ctx, topic, p); err != nil {
			t.Fatal(err)
		}
		at[tp] = kafka.Earliest
	}
	reader := client.NewReader(at)
	behind := func() bool {
		for tp, e := range end {
			if next, _ := reader.Position(tp); next < e {
				return true
			}
		}
		return false
	}
	for behind() {
		recs, err := reader.Poll(ctx)
		if err != nil {
			t.Fatal(err)
		}
		all = append(all, recs...)
	}
	return all
}

// rowSchema is a value schema as a stranger sees it.
type rowSchema struct {
	codec   *goavro.Codec
	columns string // of the row in the envelope, as described writes them
}

func fetchRowSchema(t *testing.T, registry string, id int32) *rowSchema {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, fmt.Sprintf("http://%s/schemas/ids/%d", registry, id), nil)
	if err != nil {
		t.Fatal(err)
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	body, err := io.ReadAll(resp.Body)
	if err := errors.Join(err, resp.Body.Close()); err != nil {
		t.Fatal(err)
	}
	var answer struct{ Schema string }
	var envelope struct {
		Fields []struct{ Type json.RawMessage }
	}
	var union []json.RawMessage
	var row struct {
		Fields []struct {
			Name string
			Type json.RawMessage
		}
	}
	for _, step := range []struct {
		from func() []byte
		into any
	}{
		{func() []byte { return body }, &answer},
		{func() []byte { return []byte(answer.Schema) }, &envelope},
		{func() []byte { return envelope.Fields[0].Type }, &union},
		{func() []byte { return union[1] }, &row},
	} {
		if err := json.Unmarshal(step.from(), step.into); err != nil {
			t.Fatalf("schema %d: %v in %s", id, err, body)
		}
	}
	s := new(rowSchema)
	if s.codec, err = goavro.NewCodec(answer.Schema); err != nil {
		t.Fatal(err)
	}
	var columns []string
	for _, f := range row.Fields {
		avro := strings.Trim(strings.NewReplacer(`["null",`, "", `]`, "").Replace(string(f.Type)), `"`)
		columns = append(columns, f.Name+":"+map[string]string{"int": "integer", "long": "bigint", "string": "text"}[avro])
	}
	s.columns = strings.Join(columns, ",")
	return s
}

// after is the row of an insert or update.
func (s *rowSchema) after(t *testing.T, payload []byte) map[string]any {
	t.Helper()
	native, _, err := s.codec.NativeFromBinary(payload)
	if err != nil {
		t.Fatal(err)
	}
	bare := func(v any) any {
		if m, ok := v.(map[string]any); ok && len(m) == 1 {
			for _, x := range m {
				return x
			}
		}
		return v
	}
	row, ok := bare(native.(map[string]any)["after"]).(map[string]any)
	if !ok {
		t.Fatalf("no row in %v", native)
	}
	for name, v := range row {
		row[name] = bare(v)
	}
	return row
}
