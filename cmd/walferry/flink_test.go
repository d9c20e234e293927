package main

import (
	"bytes"
	"context"
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"os/exec"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"time"

	"walferry/internal/kafka"
	"walferry/internal/testbed"
	"walferry/schema"
)

// flinkColumns are the columns of the tables that Flink reads, in the order in which testdata/flink/Rows.java declares them, with
// the text that it prints of each.
const flinkColumns = `id::text, c_bool::text, c_int2::text, c_int4::text, c_int8::text, encode(float4send(c_float4), 'hex'),
	encode(float8send(c_float8), 'hex'), c_numeric::text, c_text, c_varchar, encode(c_bytea, 'hex'), (c_date - date '1970-01-01')::text,
	(extract(epoch FROM c_time) * 1000000)::bigint::text, (extract(epoch FROM c_timestamp) * 1000000)::bigint::text,
	(extract(epoch FROM c_timestamptz) * 1000000)::bigint::text, c_uuid::text, c_jsonb::text, c_enum::text, to_jsonb(c_array),
	(extract(epoch FROM m_time) * 1000)::bigint::text, to_char(m_timestamp, 'YYYY-MM-DD"T"HH24:MI:SS.MS'),
	to_char(m_timestamptz AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.MS')`

// flinkRow is a row of Flink's changelog.
type flinkRow struct {
	Kind string
	Row  []any // text, nil, or a slice of them
}

// TestFlink holds that the rows which Flink's format debezium-avro-confluent makes of the events, folded, are the table, with
// identity full and default; and that it refuses what docs/events.md says it refuses.
func TestFlink(t *testing.T) {
	if testing.Short() {
		t.Skip("starts Java; run without -short")
	}
	libraries := testbed.JavaLibraries(t, "flink")
	pg, broker := testbed.Postgres(t, ""), testbed.Kafka(t)
	const last = 1000 // id of the row that each table gets last
	tables := []string{"whole", "lean", "refused"}
	pg.Exec(testbed.Owner, `CREATE TYPE mood AS ENUM ('sad', 'so, so')`)
	for _, table := range tables {
		pg.Exec(testbed.Owner, `CREATE TABLE `+table+` (id int PRIMARY KEY, c_bool bool, c_int2 int2, c_int4 int4, c_int8 int8, c_float4 float4,
			c_float8 float8, c_numeric numeric(12,2), c_text text, c_varchar varchar(40), c_bytea bytea, c_date date, c_time time,
			c_timestamp timestamp, c_timestamptz timestamptz, c_uuid uuid, c_jsonb jsonb, c_enum mood, c_array text[],
			m_time time(3), m_timestamp timestamp(3), m_timestamptz timestamptz(3))`)
	}
	pg.Exec(testbed.Owner, `ALTER TABLE whole REPLICA IDENTITY FULL`,
		`CREATE PUBLICATION walferry_flink FOR TABLE whole, lean, refused WITH (publish_via_partition_root = true)`)
	registry := freeAddr(t)
	b := &bench{t: t, file: filepath.Join(t.TempDir(), "walferry.yml")}
	configure := func(before string) {
		b.configure(`
name: flink
source:
  dsn: %q
  tables: [public.whole, public.lean, public.refused]
  publication: {create: false}
kafka:
  brokers: [%q]
  topic: {partitions: 1, replication_factor: 1}
schema:
  update_before: %s
  columns:
    public.whole.m_time: {time: connect}
    public.whole.m_timestamp: {time: connect}
    public.whole.m_timestamptz: {time: connect}
    public.lean.m_time: {time: connect}
    public.lean.m_timestamp: {time: connect}
    public.lean.m_timestamptz: {time: connect}
registry: {listen: %q, topic: _schemas.flink}
backfill: none
admin: {listen: %q}
`, pg.DSN(testbed.Reader), broker.Addr, before, registry, freeAddr(t))
	}
	configure("key")
	p := b.start("run")
	b.until(p, "status", "--readyz")
	for _, table := range tables[:2] {
		pg.Exec(testbed.Owner,
			`INSERT INTO `+table+` VALUES
			(1, true, -32768, 2147483647, -9223372036854775808, '1e-45', '-0', 9999999999.99, '', 'żółw 🐢', '\x00ff', '0044-03-15 BC', '24:00:00',
				'2024-02-29 12:34:56.789012', '294247-01-10 04:00:54.775806+00', 'a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11', '{"b": 1, "a": [null]}', 'so, so',
				'{a,NULL,"x,y"}', '23:59:59.999', '2024-02-29 12:34:56.789', '1969-12-31 23:59:59.999+00'),
			(2, false, 32767, -2147483648, 9223372036854775807, 'NaN', '-Infinity', -0.01, 'x', '', '', '5874897-12-31', '00:00:00.000001',
				'4714-11-24 00:00:00 BC', '1969-12-31 23:59:59.999999+00', '00000000-0000-0000-0000-000000000000', 'null', 'sad',
				'{}', '00:00:00', '1900-01-01 00:00:00.001', '2200-01-01 00:00:00.001+00')`,
			`INSERT INTO `+table+` (id) SELECT generate_series(3, 9)`,
			// Of each column: a value for null, null for a value, another value.
			`UPDATE `+table+` t SET (c_bool, c_int2, c_int4, c_int8, c_float4, c_float8, c_numeric, c_text, c_varchar, c_bytea, c_date, c_time, c_timestamp,
				c_timestamptz, c_uuid, c_jsonb, c_enum, c_array, m_time, m_timestamp, m_timestamptz)
				= (SELECT c_bool, c_int2, c_int4, c_int8, c_float4, c_float8, c_numeric, c_text, c_varchar, c_bytea, c_date, c_time, c_timestamp,
				c_timestamptz, c_uuid, c_jsonb, c_enum, c_array, m_time, m_timestamp, m_timestamptz FROM `+table+` s
				WHERE s.id = CASE t.id WHEN 1 THEN 2 WHEN 2 THEN 3 WHEN 3 THEN 1 WHEN 4 THEN 2 END) WHERE id IN (1, 2, 3, 4)`,
			`UPDATE `+table+` SET c_text = 'changed', c_array = '{one}' WHERE id IN (4, 5)`,
			`UPDATE `+table+` SET id = id + 100, c_int4 = 7 WHERE id IN (4, 6)`,
			`BEGIN; UPDATE `+table+` SET c_int8 = 1 WHERE id = 7; DELETE FROM `+table+` WHERE id IN (5, 7, 104); INSERT INTO `+table+` (id, c_text) VALUES (5, 'again'); COMMIT`,
			fmt.Sprintf(`INSERT INTO %s (id) VALUES (%d)`, table, last))
	}
	var lines []string
	ends := map[string]int{} // number of lines behind the table's last one
	read := func(table string) {
		lines = append(lines, valuesUntil(t, broker.Addr, "flink.public."+table, last)...)
		ends[table] = len(lines)
	}
	read("whole")
	read("lean")
	if code := b.stop(p); code != exitOK {
		t.Fatalf("run ended with %d:\n%s", code, p.errs)
	}
	configure("sent")
	p = b.start("run")
	b.until(p, "status", "--readyz")
	pg.Exec(testbed.Owner, `INSERT INTO refused (id) VALUES (1)`, `UPDATE refused SET c_text = 'x'`, `TRUNCATE refused`,
		fmt.Sprintf(`INSERT INTO refused (id) VALUES (%d)`, last))
	read("refused")

	cmd := exec.CommandContext(t.Context(), "java", "-XX:TieredStopAtLevel=1", "-cp", libraries,
		filepath.Join(testbed.Root(t), "testdata", "flink", "Rows.java"), "http://"+registry)
	var out, errs bytes.Buffer
	cmd.Stdin, cmd.Stdout, cmd.Stderr = strings.NewReader(strings.Join(lines, "\n")), &out, &errs
	if err := cmd.Run(); err != nil {
		t.Fatalf("java: %v\n%s", err, &errs)
	}
	if code := b.stop(p); code != exitOK {
		t.Errorf("run ended with %d:\n%s", code, p.errs)
	}
	said := strings.Split(strings.TrimSpace(out.String()), "\n")
	if len(said) != len(lines) {
		t.Fatalf("%d answers to %d events:\n%s%s", len(said), len(lines), &out, &errs)
	}

	from := 0
	for _, table := range tables[:2] {
		var rows []flinkRow
		for _, s := range said[from:ends[table]] {
			var some []flinkRow
			if err := json.Unmarshal([]byte(s), &some); err != nil {
				t.Fatalf("%s: Flink says %s", table, s)
			}
			rows = append(rows, some...)
		}
		from = ends[table]
		got, want := foldFlink(t, table, rows), flinkTruth(t, pg, table)
		if len(got) != len(want) || len(want) != 8 {
			t.Errorf("%s has %d rows, folded %d", table, len(want), len(got))
		}
		for id, row := range want {
			for i := range row {
				if i >= len(got[id]) || !reflect.DeepEqual(got[id][i], row[i]) {
					t.Errorf("%s: row %s is\n%v\nfolded\n%v", table, id, row, got[id])
					break
				}
			}
		}
	}
	refused := said[from:]
	for i, want := range []string{`[{"kind":"+I"`, `"The \"before\" field of UPDATE message is null`, `"Unknown \"op\" value \"t\"`, `[{"kind":"+I"`} {
		if i >= len(refused) || !strings.HasPrefix(refused[i], want) {
			t.Fatalf("Flink says\n%s\nnot %s", strings.Join(refused, "\n"), want)
		}
	}
}

// foldFlink applies a changelog: a row that goes was there, as far as it is told.
func foldFlink(t *testing.T, table string, rows []flinkRow) map[any][]any {
	t.Helper()
	now := map[any][]any{}
	count := map[string]int{}
	for _, r := range rows {
		count[r.Kind]++
		id := r.Row[0]
		old := now[id]
		switch r.Kind {
		case "+I", "+U":
			if old != nil {
				t.Errorf("%s: %s of row %v, which is there", table, r.Kind, id)
			}
			now[id] = r.Row
		case "-U", "-D":
			if old == nil {
				t.Errorf("%s: %s of row %v, which is not there", table, r.Kind, id)
			}
			for i, v := range r.Row {
				if table == "whole" && !reflect.DeepEqual(v, old[i]) || table != "whole" && i > 0 && v != nil {
					t.Errorf("%s: %s of row %v says %v of what was %v", table, r.Kind, id, r.Row, old)
					break
				}
			}
			delete(now, id)
		default:
			t.Errorf("%s: kind %q", table, r.Kind)
		}
	}
	if count["-U"] != 7 || count["+U"] != 7 || count["-D"] != 5 || count["+I"] != 13 {
		t.Errorf("%s: %v", table, count)
	}
	return now
}

// flinkTruth is the table by id, in the text of flinkColumns.
func flinkTruth(t *testing.T, pg *testbed.PG, table string) map[any][]any {
	t.Helper()
	rows, err := pg.Connect(testbed.Owner).Query(t.Context(), `SELECT jsonb_build_array(`+flinkColumns+`) FROM `+table)
	if err != nil {
		t.Fatal(err)
	}
	truth := map[any][]any{}
	for rows.Next() {
		var row []any
		if err := rows.Scan(&row); err != nil {
			t.Fatal(err)
		}
		truth[row[0]] = row
	}
	if err := rows.Err(); err != nil {
		t.Fatal(err)
	}
	return truth
}

// valuesUntil reads a topic of one partition, whose keys are ints, up to the first record with this key, and returns the values in
// hexadecimal, without tombstones.
func valuesUntil(t *testing.T, addr, topic string, last int64) (values []string) {
	t.Helper()
	ctx, done := context.WithTimeout(t.Context(), 2*time.Minute)
	defer done()
	client, err := kafka.New(kafka.Config{Brokers: []string{addr}})
	if err != nil {
		t.Fatal(err)
	}
	defer client.Close()
	for {
		_, exists, err := client.Partitions(ctx, topic)
		if err != nil {
			t.Fatal(err)
		}
		if exists {
			break
		}
		await(ctx, t, "topic "+topic)
	}
	r := client.NewReader(map[kafka.TopicPartition]int64{{Topic: topic}: kafka.Earliest})
	for {
		recs, err := r.Poll(ctx)
		if err != nil {
			t.Fatalf("%s, after %d records: %v", topic, len(values), err)
		}
		for _, rec := range recs {
			if rec.Value != nil {
				values = append(values, hex.EncodeToString(rec.Value))
			}
			if rec.Key == nil {
				continue // of a truncate
			}
			_, payload, err := schema.ParseWire(rec.Key)
			if err != nil {
				t.Fatal(err)
			}
			if id, _ := binary.Varint(payload); id == last {
				return values
			}
		}
	}
}
