package pipeline

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"walferry/checkpoint"
	"walferry/internal/backfill"
	"walferry/internal/testbed"
	"walferry/sink"
)

// rewrite commits records of the checkpoint topic as somebody else wrote them; a nil value removes its key.
func (b *bed) rewrite(records map[string][]byte) {
	b.t.Helper()
	p, err := sink.New(b.client, sink.Config{TransactionalID: "rewrite"})
	if err != nil {
		b.t.Fatal(err)
	}
	if err := p.Init(b.t.Context()); err != nil {
		b.t.Fatal(err)
	}
	batch := p.NewBatch()
	for key, value := range records {
		if err := batch.Append("_walferry."+b.name, 0, time.Now(), []byte(key), value, nil); err != nil {
			b.t.Fatal(err)
		}
	}
	if _, err := p.Publish(b.t.Context(), batch); err != nil {
		b.t.Fatal(err)
	}
}

// older makes the checkpoint topic what a program without a first copy has left.
func (b *bed) older() {
	b.t.Helper()
	state := b.state()
	c := *state.Checkpoint
	c.Copies = false
	value, err := checkpoint.AppendCheckpoint(nil, &c)
	if err != nil {
		b.t.Fatal(err)
	}
	records := map[string][]byte{checkpoint.Key: value}
	for oid := range state.Copies {
		records[string(checkpoint.AppendCopyKey(nil, oid))] = nil
	}
	b.rewrite(records)
}

// TestCopyCaptured: what happens to the rows of a table is decided when its capture begins, and holds until somebody asks.
func TestCopyCaptured(t *testing.T) {
	pg := testbed.Postgres(t, "")
	b := newBed(t, pg, testbed.Kafka(t), "captured")
	only := "a"
	b.adjust = func(c *Config) {
		c.Watch = 100 * time.Millisecond
		c.Copy = Copy{Workers: 1, BufferBytes: 1 << 20, ChunkTime: time.Second}
		c.Copy.Wanted = func(_, table string) bool { return only == "" || table == only }
	}
	table := func(name string) {
		pg.Exec(testbed.Owner, fmt.Sprintf("CREATE TABLE %s (id int PRIMARY KEY)", name), fmt.Sprintf("INSERT INTO %s SELECT generate_series(1, 10)", name),
			"GRANT SELECT ON "+name+" TO "+testbed.Reader)
	}
	var r *running
	is := func(want map[string]string) {
		t.Helper()
		got := map[string]string{}
		b.await(fmt.Sprintf("copies are %v", want), r, func() bool {
			clear(got)
			for name, c := range b.copies(t.Context()) {
				got[name] = fmt.Sprintf("%s %d", c.State, c.Generation)
			}
			return fmt.Sprint(got) == fmt.Sprint(want)
		})
	}
	table("a")
	table("b")
	b.publish("a, b")
	r = b.start()
	is(map[string]string{"a": "done 1", "b": "skipped 0"})
	r.drain(t)

	only = ""
	r = b.start()
	table("c")
	pg.Exec(testbed.Owner, "ALTER PUBLICATION walferry_captured ADD TABLE c")
	is(map[string]string{"a": "done 1", "b": "skipped 0", "c": "done 1"})
	pg.Exec(testbed.Owner, "ALTER PUBLICATION walferry_captured DROP TABLE a")
	is(map[string]string{"a": "uncaptured 1", "b": "skipped 0", "c": "done 1"})
	pg.Exec(testbed.Owner, "ALTER PUBLICATION walferry_captured ADD TABLE a")
	is(map[string]string{"a": "done 2", "b": "skipped 0", "c": "done 1"})
	r.drain(t)

	b.older()
	b.logged.take()
	r = b.start()
	is(map[string]string{"a": "skipped 0", "b": "skipped 0", "c": "skipped 0"})
	if text := b.logged.take(); !strings.Contains(text, "backfill start --all") || !strings.Contains(text, "tables=3") {
		t.Error("the log does not say that tables of before are not copied")
	}
	table("d")
	pg.Exec(testbed.Owner, "ALTER PUBLICATION walferry_captured ADD TABLE d")
	is(map[string]string{"a": "skipped 0", "b": "skipped 0", "c": "skipped 0", "d": "done 1"})
	r.drain(t)
	for name, want := range map[string]int{"a": 20, "c": 10, "d": 10} {
		if got := len(b.all(name)); got != want {
			t.Errorf("table %s has %d events, want %d", name, got, want)
		}
	}
	if got := b.copies(t.Context())["d"].State; got != backfill.Done {
		t.Errorf("the copy of d is %s", got)
	}
}
