package main

import (
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/jackc/pgx/v5"

	"walferry/checkpoint"
	"walferry/decode"
	"walferry/internal/config"
	"walferry/internal/pipeline"
	"walferry/internal/testbed"
	"walferry/schema"
	"walferry/source"
)

// TestKeyTable tries every row of the table of docs/schemas.md that says which changes leave the bytes of a row's key as they
// are. These choose the partition, and compaction goes by them, so what is not needed to read a key must not change them.
func TestKeyTable(t *testing.T) {
	page := abs(t, "../../docs/schemas.md")
	text := readFile(t, page)
	section := text[strings.Index(text, "## What makes a key other bytes"):]
	section = section[:strings.Index(section[3:], "\n## ")+3]
	_, sql, _ := strings.Cut(section, "```sql\n")
	sql, _, _ = strings.Cut(sql, "```\n")
	rows := regexp.MustCompile(`(?m)^\| (.+) \| (`+"`.+`"+`) \| ([a-z?]+) \|$`).FindAllStringSubmatch(section, -1)
	if len(rows) < 30 {
		t.Fatalf("%d rows", len(rows))
	}
	b := newPlanBed(t, testbed.Postgres(t, "18"), "127.0.0.1:1", "keys", &planCase{parts: []planPart{
		{"", sql + "CREATE PUBLICATION shop FOR TABLE item;\n"},
		{"settings", "source:\n  tables: [public.*, store.*]\n  publication: {name: shop}\n"},
	}})
	sc, err := b.config.ForSource()
	if err != nil {
		t.Fatal(err)
	}
	cat, err := source.OpenCatalog(t.Context(), sc)
	if err != nil {
		t.Fatal(err)
	}
	defer cat.Close()
	settings, err := pgx.ParseConfig(b.dsn)
	if err != nil {
		t.Fatal(err)
	}
	for name, value := range schema.PinnedSettings {
		settings.RuntimeParams[name] = value
	}
	conn, err := pgx.ConnectConfig(t.Context(), settings)
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := conn.Close(t.Context()); err != nil {
			t.Error(err)
		}
	}()

	// key is the key of the one row, under an id that the text of the key's schema has to itself.
	ids := []string{}
	key := func(c *config.Config) (topic, bytes string) {
		t.Helper()
		r, err := cat.Rehearse(t.Context(), nil, source.RehearseOptions{})
		if err != nil || len(r.Before.Tables) != 1 {
			t.Fatalf("%d tables, %v", len(r.Before.Tables), err)
		}
		pl := &planner{config: c, topics: pipeline.NewTopics(&pipeline.Config{TopicSpec: c.TopicSpec}, new(checkpoint.State))}
		d := pl.derive(&r.Before.Tables[0])
		if d.err != nil {
			t.Fatal(d.err)
		}
		id := slices.Index(ids, d.table.Key)
		if id < 0 {
			id, ids = len(ids), append(ids, d.table.Key)
		}
		e, err := d.table.Encoder(int32(id), 0)
		if err != nil {
			t.Fatal(err)
		}
		var columns []string
		for _, column := range d.Relation.Columns {
			columns = append(columns, quoteIdent(column.Name))
		}
		results, err := conn.PgConn().Exec(t.Context(), "SELECT "+strings.Join(columns, ", ")+" FROM "+sqlName(d.Schema, d.Name)).ReadAll()
		if err != nil || len(results[0].Rows) != 1 {
			t.Fatalf("%v, %v", results, err)
		}
		row := make(decode.Tuple, len(columns))
		for i, value := range results[0].Rows[0] {
			row[i] = decode.Datum{Kind: decode.Text, Data: value}
		}
		out, err := e.AppendKey(nil, &decode.Change{Relation: d.Relation, New: row}, false)
		if err != nil {
			t.Fatal(err)
		}
		return d.table.Topic, string(out)
	}
	for _, row := range rows {
		b.exec("DROP SCHEMA IF EXISTS public, store, types CASCADE;\nCREATE SCHEMA public;\n" + sql + "ALTER PUBLICATION shop ADD TABLE item;\n")
		c := *b.config
		switch {
		case strings.Contains(row[1], "`schema.keys`"):
			c.Schema.Keys = map[string][]string{"public.item": {"n"}}
			b.exec("ALTER TABLE item REPLICA IDENTITY FULL")
		case strings.Contains(row[1], "`schema.enum: enum`"):
			c.Schema.Enum = schema.EnumAvro
		case strings.Contains(row[1], "`schema.tables`"):
			c.Schema.Tables = map[string]config.Table{"public.item": {Topic: "shop.item"}, "public.article": {Topic: "shop.item"}}
		}
		wasTopic, was := key(&c)
		for _, m := range regexp.MustCompile("`([^`]+)`").FindAllStringSubmatch(row[2], -1) {
			b.exec(m[1])
		}
		answer := "others"
		if topic, is := key(&c); topic == wasTopic && is == was {
			answer = "stay"
		}
		line := "| " + row[1] + " | " + row[2] + " | " + answer + " |"
		if line == row[0] {
			continue
		}
		if !*update {
			t.Errorf("the page says\n%s\nand it is\n%s", row[0], line)
		}
		text = strings.Replace(text, row[0], line, 1)
	}
	if *update {
		if err := os.WriteFile(page, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
}
