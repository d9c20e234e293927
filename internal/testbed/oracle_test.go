package testbed

import (
	"bytes"
	"cmp"
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"maps"
	"math/big"
	"net/http"
	"net/http/httptest"
	"os/exec"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/linkedin/goavro/v2"
	"github.com/segmentio/kafka-go"

	"walferry/internal/workload"
)

// TestOracle publishes what the audit holds as a pipeline without faults would, and wants a clean account; then each
// planted fault must be found, and found as what it is. The publisher below is the test's own: the oracle is tested
// before, and without, what it is for.
func TestOracle(t *testing.T) {
	p := Postgres(t, "")
	if err := workload.Create(t.Context(), p.Connect(Owner)); err != nil {
		t.Fatal(err)
	}
	stats, err := workload.Run(t.Context(), workload.Config{DSN: p.DSN(Owner), Seed: 3, Transactions: 100, DDL: true, Big: 500})
	if err != nil {
		t.Fatal(err)
	}
	registry := &registryStub{}
	server := httptest.NewServer(registry)
	defer server.Close()
	b := Kafka(t)
	pub := publisher{t: t, registry: registry, prefix: "oracle"}
	pub.publish(b.Addr, p.DSN(Owner))
	o := Oracle{DSN: p.DSN(Owner), Brokers: b.Addr, Registry: server.URL, Prefix: "oracle", Wait: 20 * time.Second}

	a := o.Run(t)
	t.Logf("%d records in %.1f s", a.Records, a.Seconds)
	if !a.Clean() || int64(a.Committed) != stats.Changes || a.Received != a.Committed {
		t.Fatalf("no fault was planted, %d changes committed: %s", stats.Changes, a)
	}
	t.Run("fault", func(t *testing.T) {
		for fault, found := range map[string]func(a Account) bool{
			"drop":   func(a Account) bool { return a.Missing == 1 && a.Repeated == 0 && a.Disordered == 0 },
			"repeat": func(a Account) bool { return a.Repeated == 1 && a.DuplicateIDs == 1 && a.Missing == 0 },
			"swap": func(a Account) bool {
				return a.Disordered > 0 && a.Missing == 0 && a.Repeated == 0 && a.Different == 0
			},
			"value": func(a Account) bool {
				return a.Different == 1 && a.Missing == 0 && a.Repeated == 0 && a.Disordered == 0
			},
			"transaction": func(a Account) bool {
				return a.Missing > 0 && a.Received+a.Missing == a.Committed && a.Repeated == 0
			},
		} {
			t.Run(fault, func(t *testing.T) {
				t.Parallel()
				o := o
				o.Fault = fault
				if a := o.Run(t); a.Clean() || !found(a) {
					t.Error(a)
				}
			})
		}
	})

	// What the events do not say, the tables do: a change without an audit shows in the fold alone.
	p.Exec(Owner, "ALTER TABLE items DISABLE TRIGGER audit", "UPDATE items SET n = n + 1 WHERE id = (SELECT min(id) FROM items)")
	if a := o.Run(t); a.FoldMismatch != 1 || a.Missing+a.Different+a.Repeated+a.Disordered != 0 {
		t.Errorf("a row changed behind the audit's back: %s", a)
	}
	// A change of a transaction that never committed, and a change that never comes.
	p.Exec(Owner, "UPDATE items SET n = n - 1 WHERE id = (SELECT min(id) FROM items)",
		"DELETE FROM audit.changes WHERE seq = (SELECT max(seq) FROM audit.changes)",
		"INSERT INTO audit.changes (xid, tbl, op, new) SELECT 1, 'public.items', 'I', row_to_json(i) FROM items i WHERE id = (SELECT min(id) FROM items)")
	o.Wait = 3 * time.Second
	if a := o.Run(t); a.Unexpected == 0 || a.Missing != 1 {
		t.Errorf("one change too many and one too few: %s", a)
	}
}

// TestOracleOfCopies is TestOracle for the rows that a first copy brings, and for faults that only it can have.
func TestOracleOfCopies(t *testing.T) {
	p := Postgres(t, "")
	rows := map[string]int64{workload.Counters: 90, workload.Pairs: 60, workload.Marks: 40, workload.Blobs: 40}
	if err := workload.CreateFire(t.Context(), p.Connect(Owner), rows); err != nil {
		t.Fatal(err)
	}
	if _, err := workload.Run(t.Context(), workload.Config{DSN: p.DSN(Owner), Seed: 3, Transactions: 8, Tables: workload.Fire(), Rows: rows}); err != nil {
		t.Fatal(err)
	}
	registry := &registryStub{}
	server := httptest.NewServer(registry)
	defer server.Close()
	b := Kafka(t)
	pub := publisher{t: t, registry: registry, prefix: "copies", copies: true}
	pub.publish(b.Addr, p.DSN(Owner))
	o := Oracle{DSN: p.DSN(Owner), Brokers: b.Addr, Registry: server.URL, Prefix: "copies", Wait: 20 * time.Second}

	a := o.Run(t)
	t.Logf("%d records, %d reads, %d changes contained", a.Records, a.Reads, a.Contained)
	if !a.Clean() || a.Committed == 0 || a.Reads == 0 || a.Contained == 0 {
		t.Fatalf("no fault was planted: %s", a)
	}
	t.Run("fault", func(t *testing.T) {
		for fault, found := range map[string]func(a Account) bool{
			"stale": func(a Account) bool {
				return a.Stale == 1 && a.FoldMismatch == 1 && a.Reread+a.Missing+a.Disordered == 0
			},
			"lose":   func(a Account) bool { return a.FoldMismatch == 1 && a.Stale+a.Reread+a.Missing+a.Disordered == 0 },
			"reread": func(a Account) bool { return a.Reread == 1 && a.FoldMismatch+a.Stale+a.Disordered == 0 },
			"undead": func(a Account) bool {
				return a.Stale == 1 && a.FoldMismatch == 1 && a.Reread+a.Missing+a.Disordered == 0
			},
			"doubled": func(a Account) bool { return a.FoldMismatch > 10 && a.Stale+a.Reread+a.Missing+a.Disordered == 0 },
		} {
			t.Run(fault, func(t *testing.T) {
				t.Parallel()
				o := o
				o.Fault = fault
				if a := o.Run(t); a.Clean() || !found(a) {
					t.Error(a)
				}
			})
		}
	})
}

// registryStub serves GET /schemas/ids/{id} of what it was given.
type registryStub struct{ schemas []string }

func (r *registryStub) register(schema string) int {
	if i := slices.Index(r.schemas, schema); i >= 0 {
		return i + 1
	}
	r.schemas = append(r.schemas, schema)
	return len(r.schemas)
}

func (r *registryStub) ServeHTTP(w http.ResponseWriter, req *http.Request) {
	id, err := strconv.Atoi(strings.TrimPrefix(req.URL.Path, "/schemas/ids/"))
	if err != nil || id < 1 || id > len(r.schemas) {
		http.NotFound(w, req)
		return
	}
	_ = json.NewEncoder(w).Encode(map[string]string{"schema": r.schemas[id-1]}) // the reader notices a short answer
}

// change is a line of the export.
type change struct {
	Kind, Table, Op, Identity string
	Seq, XID                  int64
	Key                       []string
	Old, New, Row             map[string]any
	ordinal                   int
}

type publisher struct {
	t        *testing.T
	registry *registryStub
	prefix   string
	keys     map[string][]string
	full     map[string]bool
	codecs   map[string]codec
	out      []kafka.Message

	copies bool                      // the tables are those of workload.CreateFire, and were copied while they were written
	rows   map[string]map[string]any // of copies: each row as it is at the place that publishing has come to, by table and key
	read   map[string]bool           // keys that were read
	known  map[string]bool           // keys of whose large values a reader knows, by themselves or by the keys before
	loose  []map[string]any          // rows of the table without a key
}

type codec struct {
	id int
	*goavro.Codec
}

// publish reads the audit and writes its events, transaction after transaction.
func (p *publisher) publish(addr, dsn string) {
	t := p.t
	var b bytes.Buffer
	if err := workload.Export(t.Context(), connect(t, dsn), &b); err != nil {
		t.Fatal(err)
	}
	p.keys, p.full, p.codecs = map[string][]string{}, map[string]bool{}, map[string]codec{}
	transactions := map[int64][]change{}
	p.rows, p.read, p.known = map[string]map[string]any{}, map[string]bool{}, map[string]bool{}
	for d := json.NewDecoder(&b); d.More(); {
		d.UseNumber()
		var c change
		if err := d.Decode(&c); err != nil {
			t.Fatal(err)
		}
		switch c.Kind {
		case "table":
			p.keys[c.Table], p.full[c.Table] = c.Key, c.Identity == "f"
		case "change":
			c.ordinal = len(transactions[c.XID]) + 1
			transactions[c.XID] = append(transactions[c.XID], c)
		case "row":
			p.came(c.Table, c.Row)
		}
	}
	// Whoever wrote last committed last, as far as a key can tell: a row's lock is held until the commit.
	var order [][]change
	for _, tx := range transactions {
		order = append(order, tx)
	}
	slices.SortFunc(order, func(a, b []change) int { return cmp.Compare(a[len(a)-1].Seq, b[len(b)-1].Seq) })
	if p.copies { // back to what was there at first
		for _, tx := range slices.Backward(order) {
			for _, c := range slices.Backward(tx) {
				p.went(c.Table, c.New)
				p.came(c.Table, c.Old)
			}
		}
	}
	for i, tx := range order {
		commit := int64(1000 + i*8)
		for _, c := range tx {
			if p.copies {
				p.went(c.Table, c.Old)
				p.came(c.Table, c.New)
				p.learn(c)
			}
			if !p.copies || len(p.keys[c.Table]) > 0 || i >= len(order)/3 { // what comes before is contained in the copy
				p.events(c, commit)
			}
		}
		if p.copies {
			p.copy(i, len(order), commit)
		}
	}
	client := &kafka.Client{Addr: kafka.TCP(addr), Timeout: 30 * time.Second, Transport: &kafka.Transport{}}
	topics := &kafka.CreateTopicsRequest{}
	for table := range p.keys {
		topics.Topics = append(topics.Topics, kafka.TopicConfig{Topic: p.prefix + "." + table, NumPartitions: 3, ReplicationFactor: 1})
	}
	r, err := client.CreateTopics(t.Context(), topics)
	if err != nil {
		t.Fatal(err)
	}
	for topic, err := range r.Errors {
		if err != nil {
			t.Fatalf("%s: %v", topic, err)
		}
	}
	names := make([]string, len(topics.Topics))
	for i, topic := range topics.Topics {
		names[i] = topic.Topic
	}
	awaitLeaders(t, client, names...)
	hashed := &kafka.Hash{}
	w := &kafka.Writer{Addr: kafka.TCP(addr), RequiredAcks: kafka.RequireAll, BatchTimeout: time.Millisecond, Transport: client.Transport, Balancer: kafka.BalancerFunc(func(m kafka.Message, partitions ...int) int {
		if p, ok := m.WriterData.(int); ok {
			return p
		}
		return hashed.Balance(m, partitions...)
	})}
	if err := w.WriteMessages(t.Context(), p.out...); err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
}

// events makes the records of one change: a changed key is a delete of the old one and a create of the new one.
func (p *publisher) events(c change, commit int64) {
	moved := false
	if c.Op == "U" {
		for _, k := range p.keys[c.Table] {
			moved = moved || c.Old[k] != c.New[k]
		}
	}
	switch {
	case c.Op == "I":
		p.event(c, commit, "c", nil, c.New, 0)
	case c.Op == "D":
		p.event(c, commit, "d", c.Old, nil, 0)
	case moved:
		p.event(c, commit, "d", c.Old, nil, 0, kafka.Header{Key: "__debezium.newkey"})
		p.event(c, commit, "c", nil, c.New, 2, kafka.Header{Key: "__debezium.oldkey"})
	default:
		var before map[string]any
		if p.full[c.Table] {
			before = c.Old
		}
		p.event(c, commit, "u", before, c.New, 0)
	}
}

// came takes a row into the tables as they are at the place that publishing has come to.
func (p *publisher) came(table string, row map[string]any) {
	switch {
	case row == nil:
	case len(p.keys[table]) == 0:
		p.loose = append(p.loose, row)
	default:
		p.rows[p.slot(table, row)] = row
	}
}

// went takes a row out.
func (p *publisher) went(table string, row map[string]any) {
	switch {
	case row == nil:
	case len(p.keys[table]) == 0:
		i := slices.IndexFunc(p.loose, func(r map[string]any) bool { return reflect.DeepEqual(r, row) })
		p.loose = slices.Delete(p.loose, i, i+1)
	default:
		delete(p.rows, p.slot(table, row))
	}
}

// learn says of whose large values the change tells a reader.
func (p *publisher) learn(c change) {
	var before, after string
	if c.Old != nil {
		before = p.slot(c.Table, c.Old)
	}
	if c.New != nil {
		after = p.slot(c.Table, c.New)
	}
	told := c.Old == nil || c.New == nil || c.Old["body"] != c.New["body"] || p.known[before]
	delete(p.known, before)
	if c.New != nil {
		p.known[after] = told
	}
}

func (p *publisher) slot(table string, row map[string]any) string {
	slot := table
	for _, k := range p.keys[table] {
		slot += fmt.Sprintf(",%v", row[k])
	}
	return slot
}

// copy reads rows behind the transaction i of n: some that were not read yet, all at the end. The table without a key it reads
// twice, since the first time is broken off.
func (p *publisher) copy(i, n int, commit int64) {
	read := func(table, id string, row map[string]any) {
		p.event(change{Table: table, Op: "R"}, commit, "r", nil, row, 0, kafka.Header{Key: "id", Value: []byte(id)})
	}
	slots := slices.Sorted(maps.Keys(p.rows))
	for at, slot := range slots {
		switch large := strings.HasPrefix(slot, "public.blobs"); {
		case p.read[slot] || i < n-1 && at%n != i:
		case i == n-1 && large && p.known[slot]: // it came by itself
		default:
			table, _, _ := strings.Cut(slot, ",")
			p.read[slot], p.known[slot] = true, true
			read(table, "test/1/1/"+slot, p.rows[slot])
		}
	}
	const marks = "public.marks"
	for generation, place := range map[int]int{1: n / 3, 2: n / 2} {
		if i != place {
			continue
		}
		for partition := range 3 {
			p.event(change{Table: marks, Op: "T"}, commit, "t", nil, nil, 0, kafka.Header{Key: "id", Value: fmt.Appendf(nil, "test/2/%d/-%d", generation, partition)})
			p.out[len(p.out)-1].WriterData = partition
		}
		for j, row := range p.loose {
			if generation == 2 || j%2 == 0 {
				read(marks, fmt.Sprintf("test/2/%d/%d", generation, j), row)
			}
		}
	}
}

func (p *publisher) event(c change, commit int64, op string, before, after map[string]any, part int, headers ...kafka.Header) {
	row := after
	switch op {
	case "d":
		row = before
	case "t":
		row = p.loose[0] // for its columns
	}
	columns := make([]string, 0, len(row))
	for name := range row {
		columns = append(columns, name)
	}
	slices.Sort(columns)
	schemaName, table, _ := strings.Cut(c.Table, ".")
	keyCodec, codec := p.codecsOf(c.Table, columns)
	key := map[string]any{}
	for _, k := range p.keys[c.Table] {
		key[k] = native(k, row[k])
	}
	var unavailable []any
	value := map[string]any{"before": nil, "after": nil, "op": op, "source": map[string]any{"schema": schemaName, "table": table,
		"txId": map[string]any{"long": c.XID & 0xffffffff}, "commit_lsn": commit, "ordinal": int64(c.ordinal), "snapshot": "false"}}
	if op == "r" || op == "t" {
		source := value["source"].(map[string]any)
		source["txId"], source["snapshot"] = nil, "true"
	}
	if before != nil {
		r := map[string]any{}
		for _, name := range columns {
			r[name] = nil
			if p.full[c.Table] || slices.Contains(p.keys[c.Table], name) {
				r[name] = optional(name, before[name])
			}
		}
		value["before"] = map[string]any{"row": r}
	}
	if after != nil {
		r := map[string]any{}
		for _, name := range columns {
			r[name] = optional(name, after[name])
			if s, ok := after[name].(string); c.Op == "U" && ok && len(s) > 2000 && c.Old[name] == s {
				r[name] = nil
				unavailable = append(unavailable, name)
			}
		}
		value["after"] = map[string]any{"row": r}
	}
	value["unavailable"] = nil
	if unavailable != nil {
		value["unavailable"] = map[string]any{"array": unavailable}
	}
	id := fmt.Sprintf("test/%X/%d", commit, c.ordinal)
	if len(headers) == 0 || headers[0].Key != "id" {
		headers = append(headers, kafka.Header{Key: "id", Value: fmt.Appendf(nil, "%s/%d", id, part)})
	}
	m := kafka.Message{Topic: p.prefix + "." + c.Table, Value: p.encode(codec, value), Headers: headers}
	if len(key) > 0 && op != "t" {
		m.Key = p.encode(keyCodec, key)
	}
	p.out = append(p.out, m)
	if op == "d" && len(key) > 0 {
		p.out = append(p.out, kafka.Message{Topic: m.Topic, Key: m.Key,
			Headers: []kafka.Header{{Key: "id", Value: fmt.Appendf(nil, "%s/%d", id, part+1)}}})
	}
}

func (p *publisher) encode(c codec, v map[string]any) []byte {
	b := binary.BigEndian.AppendUint32([]byte{0}, uint32(c.id))
	b, err := c.BinaryFromNative(b, v)
	if err != nil {
		p.t.Fatalf("%v: %v", v, err)
	}
	return b
}

// codecsOf returns codecs of key and envelope for a table with these columns.
func (p *publisher) codecsOf(table string, columns []string) (key, value codec) {
	get := func(schema string) codec {
		c, ok := p.codecs[schema]
		if !ok {
			parsed, err := goavro.NewCodec(schema)
			if err != nil {
				p.t.Fatalf("%s: %v", schema, err)
			}
			c = codec{p.registry.register(schema), parsed}
			p.codecs[schema] = c
		}
		return c
	}
	var keys, fields []string
	for _, k := range p.keys[table] {
		keys = append(keys, fmt.Sprintf(`{"name":%q,"type":%s}`, k, avroOf(k).schema))
	}
	for _, name := range columns {
		fields = append(fields, fmt.Sprintf(`{"name":%q,"type":["null",%s]}`, name, avroOf(name).schema))
	}
	if len(keys) > 0 {
		key = get(`{"type":"record","name":"key","fields":[` + strings.Join(keys, ",") + `]}`)
	}
	return key, get(`{"type":"record","name":"envelope","fields":[
			{"name":"before","type":["null",{"type":"record","name":"row","fields":[` + strings.Join(fields, ",") + `]}]},
			{"name":"after","type":["null","row"]},
			{"name":"source","type":{"type":"record","name":"source","fields":[
				{"name":"schema","type":"string"},{"name":"table","type":"string"},{"name":"txId","type":["null","long"]},
				{"name":"commit_lsn","type":"long"},{"name":"ordinal","type":"long"},{"name":"snapshot","type":"string"}]}},
			{"name":"op","type":"string"},
			{"name":"unavailable","type":["null",{"type":"array","items":"string"}]}]}`)
}

// avroType is how a column is written: its schema, the name of its branch in a union, and its value from Postgres' JSON.
type avroType struct {
	schema, branch string
	native         func(v any) any
}

func text(v any) any { return fmt.Sprint(v) }

func long(v any) any {
	n, err := v.(json.Number).Int64()
	if err != nil {
		panic(err)
	}
	return n
}

func instant(layout string) func(v any) any {
	return func(v any) any {
		at, err := time.Parse(layout, v.(string))
		if err != nil {
			panic(err)
		}
		return at
	}
}

// avroOf knows the workload's columns by their names; one that was added while it ran is written as text.
func avroOf(column string) avroType {
	switch column {
	case "id", "n", "version", "small", "customer_id", "views", "sku", "quantity", "account":
		return avroType{`"long"`, "long", long}
	case "amount", "delta":
		return avroType{`{"type":"bytes","logicalType":"decimal","precision":20,"scale":4}`, "bytes.decimal", func(v any) any {
			r, ok := new(big.Rat).SetString(string(v.(json.Number)))
			if !ok {
				panic(v)
			}
			return r
		}}
	case "tags":
		return avroType{`{"type":"array","items":["null","string"]}`, "array", func(v any) any {
			list := []any{}
			for _, e := range v.([]any) {
				if e != nil {
					e = map[string]any{"string": e}
				}
				list = append(list, e)
			}
			return list
		}}
	case "attrs":
		return avroType{`"string"`, "string", func(v any) any {
			b, err := json.Marshal(v)
			if err != nil {
				panic(err)
			}
			return string(b)
		}}
	case "paid":
		return avroType{`"boolean"`, "boolean", func(v any) any { return v }}
	case "created_at", "updated_at":
		return avroType{`{"type":"long","logicalType":"timestamp-micros"}`, "long.timestamp-micros", instant(time.RFC3339)}
	case "booked": // goavro does not know the logical type and writes the number
		return avroType{`{"type":"long","logicalType":"local-timestamp-micros"}`, "long",
			func(v any) any { return instant("2006-01-02T15:04:05")(v).(time.Time).UnixMicro() }}
	case "counted":
		return avroType{`{"type":"int","logicalType":"date"}`, "int.date", instant(time.DateOnly)}
	case "score":
		return avroType{`"double"`, "double", func(v any) any {
			f, err := v.(json.Number).Float64()
			if err != nil {
				panic(err)
			}
			return f
		}}
	case "raw":
		return avroType{`"bytes"`, "bytes", func(v any) any {
			b, err := hex.DecodeString(strings.TrimPrefix(v.(string), `\x`))
			if err != nil {
				panic(err)
			}
			return b
		}}
	}
	return avroType{`"string"`, "string", text}
}

func native(column string, v any) any { return avroOf(column).native(v) }

func optional(column string, v any) any {
	if v == nil {
		return nil
	}
	return map[string]any{avroOf(column).branch: native(column, v)}
}

// TestOracleSaysWhy: what cannot be found out is no account.
func TestOracleSaysWhy(t *testing.T) {
	python := Python(t)
	out, err := exec.CommandContext(t.Context(), python, Root(t)+"/testdata/oracle/oracle.py", "--brokers", "127.0.0.1:1",
		"--registry", "http://127.0.0.1:1", "--prefix", "x", "--audit", "/nowhere").CombinedOutput()
	if err == nil || !strings.HasPrefix(string(out), "oracle: FileNotFoundError") {
		t.Errorf("%v: %s", err, out)
	}
}
