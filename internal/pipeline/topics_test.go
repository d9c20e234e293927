package pipeline

import (
	"errors"
	"strings"
	"testing"

	"walferry/checkpoint"
	"walferry/internal/testbed"
	"walferry/schema"
	"walferry/sink"
)

// TestTopics: who may go where, whatever the order in which the tables come.
func TestTopics(t *testing.T) {
	named := map[string]string{"shard1": "t.all", "shard2": "t.all", "taker": "t.plain", "odd": "t.far", "late": "t.orders.v2"}
	cfg := &Config{
		TopicSpec: func(_, table string) sink.TopicSpec {
			if n, ok := named[table]; ok {
				return sink.TopicSpec{Name: n}
			}
			return sink.TopicSpec{Name: "t." + strings.ReplaceAll(table, " ", "_")}
		},
		SharesTopic: func(_, table string) bool { return named[table] != "" },
		OwnTopic: func(topic string) string {
			if topic == "t.mine" || topic == "t.other.v2" {
				return "progress"
			}
			return ""
		},
	}
	saved := &checkpoint.State{Moved: map[string]*checkpoint.Moved{
		"t.orders": {Topic: "t.orders", Moves: []checkpoint.Move{{Number: 2}, {Start: checkpoint.Position{Commit: 9}, Number: 4}}},
		"t.other":  {Topic: "t.other", Moves: []checkpoint.Move{{Number: 2}}},
	}}
	for _, x := range []struct{ a, b, topic string }{
		{"a b", "a_b", "t.a_b"},             // by sanitising
		{"plain", "taker", "t.plain"},       // named for one only
		{"all", "shard1", "t.all"},          // the same
		{"shard1", "shard2", ""},            // on purpose
		{"orders", "orders.v2", "orders.v"}, // was there
		{"orders", "orders.v4", "orders.v"}, // is there
		{"orders", "orders.v3", ""},         // passed over
		{"orders", "late", "orders.v"},      // named, and moved to
		{"nothing", "orders.v2", ""},        // who moved there is gone
		{"odd", "far", "t.far"},
		{"x", "y", ""},
	} {
		for _, pair := range [][2]string{{x.a, x.b}, {x.b, x.a}} {
			topics := NewTopics(cfg, saved)
			if err := topics.Check(1, "public", pair[0]); err != nil {
				t.Errorf("%s alone: %v", pair[0], err)
			}
			topics.Add(1, "public", pair[0])
			err := topics.Check(2, "public", pair[1])
			if x.topic == "" {
				if err != nil {
					t.Errorf("%v: %v", pair, err)
				}
				continue
			}
			shared, ok := errors.AsType[*SharedTopicError](err)
			if !ok || !strings.Contains(shared.Topic, x.topic) {
				t.Errorf("%v: %v", pair, err)
				continue
			}
			for _, part := range []string{`"public"."` + x.a + `"`, `"public"."` + x.b + `"`, "schema.tables", "kafka.topic.template"} {
				if !strings.Contains(err.Error()+shared.Hint(), part) {
					t.Errorf("%v: %v; %s: no %s", pair, err, shared.Hint(), part)
				}
			}
			// The same table under another name is not in its own way, nor is one that has its name now.
			if err := topics.Check(1, "public", pair[1]); err != nil {
				t.Errorf("%s renamed to %s: %v", pair[0], pair[1], err)
			}
			if err := topics.Check(2, "public", pair[0]); err != nil {
				t.Errorf("another %s: %v", pair[0], err)
			}
		}
	}
	topics := NewTopics(cfg, saved)
	for _, table := range []string{"mine", "other"} {
		if err := topics.Check(1, "public", table); err == nil || !strings.Contains(err.Error(), "which holds progress") {
			t.Errorf("%s: %v", table, err)
		}
	}
	// Two tables that swap their names by way of a third.
	topics.Add(1, "public", "p")
	topics.Add(2, "public", "q")
	topics.Add(1, "public", "q")
	topics.Add(2, "public", "p")
	if !topics.taken(tableName{"public", "x"}, "t.p") || !topics.taken(tableName{"public", "x"}, "t.q") || topics.taken(tableName{"public", "x"}, "t.r") || !topics.taken(tableName{"public", "x"}, "t.mine") {
		t.Error("after a swap")
	}
}

// TestSharedSubjects: two topics that Kafka tells apart and Avro's names do not, under strategies that leave the topic out.
func TestSharedSubjects(t *testing.T) {
	named := map[string]string{"shard1": "t.a-b", "shard2": "t.a-b", "apart1": "t.c-d", "apart2": "t.c_d"}
	template := ""
	cfg := &Config{
		TopicSpec: func(_, table string) sink.TopicSpec {
			if n, ok := named[table]; ok {
				return sink.TopicSpec{Name: n}
			}
			return sink.TopicSpec{Name: "t." + table}
		},
		SharesTopic:   func(_, table string) bool { return named[table] != "" },
		SchemaOptions: func(_, _, _, _ string) schema.Options { return schema.Options{Subject: template} },
	}
	saved := &checkpoint.State{Moved: map[string]*checkpoint.Moved{"t.o-1": {Topic: "t.o-1", Moves: []checkpoint.Move{{Number: 2}}}}}
	for _, x := range []struct{ a, b, subject string }{
		{"a-b", "a_b", "t.a_b.Key"},
		{"shard1", "shard2", ""},          // of one topic, on purpose
		{"shard1", "a_b", "t.a_b.Key"},    // named, and another topic
		{"apart1", "apart2", "t.c_d.Key"}, // named, for each another one
		{"o-1", "o_1.v2", "t.o_1.v2.Key"}, // was moved there
		{"o-1", "o_1.v3", ""},             // was not
		{"x-y", "x.y", ""},                // parted by a dot
		{"1x", "_1x", "t._1x.Key"},        // a digit in front
		{"naïve", "na_ve", "t.na_ve.Key"},
	} {
		for _, pair := range [][2]string{{x.a, x.b}, {x.b, x.a}} {
			for _, template = range []string{"", schema.SubjectTopicRecord, "{record}.{kind}.{topic}", schema.SubjectRecord, "{record}/{kind}"} {
				topics := NewTopics(cfg, saved)
				topics.Add(1, "public", pair[0])
				err := topics.Check(2, "public", pair[1])
				if x.subject == "" || strings.Contains(template, "{topic}") || template == "" {
					if err != nil {
						t.Errorf("%q: %v: %v", template, pair, err)
					}
					continue
				}
				shared, ok := errors.AsType[*SharedTopicError](err)
				if !ok || !strings.HasPrefix(shared.Subject, x.subject) {
					t.Errorf("%q: %v: %v", template, pair, err)
					continue
				}
				for _, part := range []string{`"public"."` + x.a + `"`, `"public"."` + x.b + `"`, shared.Subject, "put {topic} into schema.subject", "schema.tables"} {
					if !strings.Contains(err.Error()+shared.Hint(), part) {
						t.Errorf("%q: %v: %v; %s: no %s", template, pair, err, shared.Hint(), part)
					}
				}
				if err := topics.Check(1, "public", pair[1]); err != nil {
					t.Errorf("%s renamed to %s: %v", pair[0], pair[1], err)
				}
			}
		}
	}
	// A table moves to a topic whose subjects are free too.
	template = schema.SubjectRecord
	topics := NewTopics(cfg, saved)
	topics.Add(1, "public", "a_b.v2")
	if n := (tableName{"public", "a-b"}); !topics.taken(n, "t.a-b.v2") || topics.taken(n, "t.a-b.v3") {
		t.Error("a topic is free whose subjects are not, or the other way round")
	}
}

// TestSharedTopic: a table that comes while the pipeline runs stops the stream before its first row where the topic is another
// one's, by its name or because that has moved there; what is before it is published. So does a start. Named for both, it is shared.
func TestSharedTopic(t *testing.T) {
	pg := testbed.Postgres(t, "")
	b := newBed(t, pg, testbed.Kafka(t), "shared")
	b.withRegistry()
	named := map[string]string{}
	b.adjust = func(c *Config) {
		spec := c.TopicSpec
		c.TopicSpec = func(s, table string) sink.TopicSpec {
			out := spec(s, strings.ReplaceAll(table, " ", "_"))
			if n := named[table]; n != "" {
				out.Name = b.name + ".public." + n
			}
			return out
		}
		c.SharesTopic = func(_, table string) bool { return named[table] != "" }
		c.OnIncompatible = func(_, table string) string { return map[string]string{"orders": incompatibleNewTopic}[table] }
	}
	pg.Exec(testbed.Owner, `CREATE TABLE a_b (id int PRIMARY KEY, v text)`, `CREATE TABLE orders (id int PRIMARY KEY, v text)`)
	b.publish("a_b, orders")
	r := b.start()
	r.first(t)
	pg.Exec(testbed.Owner, `INSERT INTO a_b VALUES (1, 'a')`, `INSERT INTO orders VALUES (1, 'a')`,
		`ALTER TABLE orders ALTER v TYPE int USING 1`, `INSERT INTO orders VALUES (2, 2)`)
	b.caughtUp(r)
	b.wantRows("orders.v2", "c2=2")

	stops := func(r *running, tables ...string) {
		t.Helper()
		err := r.ended(t)
		shared, ok := errors.AsType[*SharedTopicError](err)
		if !ok {
			t.Fatalf("ended with %v", err)
		}
		for _, table := range tables {
			if !strings.Contains(shared.Error(), `"public"."`+table+`"`) {
				t.Errorf("%v: no %s", shared, table)
			}
		}
	}
	for n, x := range [][2]string{{"a b", "a_b"}, {"orders.v2", "orders"}} {
		pg.Exec(testbed.Owner, `CREATE TABLE "`+x[0]+`" (id int PRIMARY KEY, v text)`, `ALTER PUBLICATION walferry_shared ADD TABLE "`+x[0]+`"`,
			`INSERT INTO a_b VALUES (`+[]string{"2", "4"}[n]+`, 'before')`,
			`BEGIN; INSERT INTO a_b VALUES (`+[]string{"3", "5"}[n]+`, 'with'); INSERT INTO "`+x[0]+`" VALUES (7, 'b'); COMMIT`)
		stops(r, x[0], x[1])
		b.wantRows("a_b", []string{"c1=a c2=before", "c1=a c2=before c3=with c4=before"}[n])
		stops(b.start(), x[0], x[1]) // by the publication, before anything is read
		named[x[0]] = "own" + []string{"1", "2"}[n]
		r = b.start()
		b.caughtUp(r)
		b.wantRows(named[x[0]], "c7=b")
	}
	b.wantRows("a_b", "c1=a c2=before c3=with c4=before c5=with")
	b.wantRows("orders.v2", "c2=2")

	// Shared on purpose: one topic, one subject.
	r.drain(t)
	named["a b"], named["a_b"] = "all", "all"
	r = b.start()
	pg.Exec(testbed.Owner, `INSERT INTO a_b VALUES (6, 'x')`, `INSERT INTO "a b" VALUES (8, 'y')`)
	b.caughtUp(r)
	b.wantRows("all", "c6=x c8=y")
	r.drain(t)
}
