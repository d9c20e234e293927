package pipeline

import (
	"bytes"
	"encoding/hex"
	"encoding/json"
	"net/http/httptest"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"walferry/internal/testbed"
	"walferry/schema"
	"walferry/schema/registry"
	"walferry/sink"
)

// TestSubjects takes a table through each strategy for subjects, with a kill and another level in between: its schemas are under
// the new names before the first event, with the ids that they have, and no level of a subject that is there changes. Under a
// strategy without the topic a table that moves to another topic has other subjects all the same. Confluent's serialiser finds
// each by the strategy.
func TestSubjects(t *testing.T) {
	python := testbed.Python(t)
	pg := testbed.Postgres(t, "")
	b := newBed(t, pg, testbed.Kafka(t), "subjects")
	store := b.withRegistry()
	template, level := schema.SubjectTopic, registry.Backward
	b.adjust = func(c *Config) {
		options := c.SchemaOptions
		c.SchemaOptions = func(s, table, db, systemID string) schema.Options {
			o := options(s, table, db, systemID)
			o.Subject = template
			return o
		}
		c.OnIncompatible = func(_, _ string) string { return incompatibleNewTopic }
		l := level
		c.Compatibility = func(_, _ string) registry.Level { return l }
		c.Changes = sink.TopicSpec{Name: "changes." + b.name, Partitions: 1, ReplicationFactor: 1, CleanupPolicy: "delete"}
	}
	pg.Exec(testbed.Owner, `CREATE TABLE "o-1" (id int PRIMARY KEY, v text)`)
	b.publish(`"o-1"`)

	const first, moved = "subjects.public.o-1", "subjects.public.o-1.v2"
	levels := map[string]registry.Level{} // as they must stay
	ids := map[string][2]int32{}          // of key and value, by topic
	var lines bytes.Buffer                // what the serialiser reads
	input := json.NewEncoder(&lines)
	var r *running
	for n, x := range []struct {
		strategy, template string
		level              registry.Level
		sql                string
		topic, key, value  string
	}{
		{"topic", schema.SubjectTopic, registry.Backward, `INSERT INTO "o-1" VALUES (1, 'a')`,
			first, "subjects.public.o-1-key", "subjects.public.o-1-value"},
		{"record", schema.SubjectRecord, registry.Full, `INSERT INTO "o-1" VALUES (2, 'b')`,
			first, "subjects.public.o_1.Key", "subjects.public.o_1.Envelope"},
		{"record", schema.SubjectRecord, registry.None, `ALTER TABLE "o-1" ALTER v TYPE int USING 3; INSERT INTO "o-1" VALUES (3, 3)`,
			moved, "subjects.public.o_1.v2.Key", "subjects.public.o_1.v2.Envelope"},
		{"topic-record", schema.SubjectTopicRecord, registry.Forward, `INSERT INTO "o-1" VALUES (4, 4)`,
			moved, "subjects.public.o-1.v2-subjects.public.o_1.v2.Key", "subjects.public.o-1.v2-subjects.public.o_1.v2.Envelope"},
		{"", "cdc/{topic}:{kind}", registry.FullTransitive, `UPDATE "o-1" SET v = 5 WHERE id = 4`,
			moved, "cdc/subjects.public.o-1.v2:key", "cdc/subjects.public.o-1.v2:value"},
		{"topic", schema.SubjectTopic, registry.Full, `DELETE FROM "o-1" WHERE id = 1; INSERT INTO "o-1" VALUES (5, 5)`,
			moved, "subjects.public.o-1.v2-key", "subjects.public.o-1.v2-value"},
	} {
		if r != nil {
			r.kill(t)
		}
		template, level = x.template, x.level
		r = b.start()
		if n == 0 {
			r.first(t)
		}
		pg.Exec(testbed.Owner, strings.Split(x.sql, "; ")...)
		b.caughtUp(r)

		events := slices.DeleteFunc(b.topic(x.topic), func(e event) bool { return e.value == nil })
		e := slices.MaxFunc(events, func(x, y event) int { return x.place(t).compare(y.place(t)) })
		var found [2]int32
		for i, payload := range [][]byte{e.Key, e.Value} {
			id, _, err := schema.ParseWire(payload)
			if err != nil {
				t.Fatal(err)
			}
			found[i] = id
			subject := []string{x.key, x.value}[i]
			versions := store.Versions(subject)
			if len(versions) != 1 || versions[0].ID != id {
				t.Errorf("%s: subject %s has versions %+v, and the event the id %d", x.template, subject, versions, id)
			}
			levels[subject] = x.level
		}
		if had, ok := ids[x.topic]; ok && had != found {
			t.Errorf("%s: the ids in topic %s were %v and are %v", x.template, x.topic, had, found)
		}
		ids[x.topic] = found
		for subject, want := range levels {
			if now, own := store.Level(subject); now != want || !own {
				t.Errorf("%s: the level of %s is %s, want %s", x.template, subject, now, want)
			}
		}
		changes := b.records("changes." + b.name)
		var c schemaChange
		if err := json.Unmarshal(changes[len(changes)-1].Value, &c); err != nil {
			t.Fatal(err)
		}
		if len(changes) != n+1 || c.After.KeySubject != x.key || c.After.ValueSubject != x.value || c.After.Topic != x.topic {
			t.Errorf("%s: %d changes, the last is %s", x.template, len(changes), changes[len(changes)-1].Value)
		}
		if x.strategy != "" {
			err := input.Encode(map[string]string{
				"strategy": x.strategy, "topic": x.topic, "key": hex.EncodeToString(e.Key), "value": hex.EncodeToString(e.Value),
				"key_subject": x.key, "value_subject": x.value,
			})
			if err != nil {
				t.Fatal(err)
			}
		}
	}
	var all []string
	for subject := range levels {
		all = append(all, subject)
	}
	slices.Sort(all)
	var got []string
	for _, s := range store.Subjects("") {
		got = append(got, s.Name)
	}
	if !slices.Equal(got, all) {
		t.Errorf("the registry has %q, want %q", got, all)
	}
	// A start under the same strategy asks for nothing and changes nothing.
	r.kill(t)
	before := len(b.records("changes." + b.name))
	r = b.start()
	pg.Exec(testbed.Owner, `INSERT INTO "o-1" VALUES (6, 6)`)
	b.caughtUp(r)
	if now := len(b.records("changes." + b.name)); now != before {
		t.Errorf("%d changes after a start, %d before", now, before)
	}

	server := httptest.NewServer(registry.NewServer(store, registry.ServerConfig{}))
	defer server.Close()
	cmd := exec.CommandContext(t.Context(), python, filepath.Join(testbed.Root(t), "testdata", "python", "subjects.py"), server.URL)
	cmd.Stdin = &lines
	if out, err := cmd.CombinedOutput(); err != nil || strings.TrimSpace(string(out)) != "ok" {
		t.Errorf("%v\n%s", err, out)
	}
}
