package main

import (
	"fmt"
	"slices"
	"strings"

	"walferry/decode"
	"walferry/schema"
	"walferry/source"
)

// A risk is what a migration does to the stream that no schema shows.
type risk struct {
	Kind     string          `json:"kind"`
	Severity source.Severity `json:"severity"` // warn; fail where the stream or the application fails afterwards
	Text     string          `json:"text"`
	Remedy   string          `json:"remedy,omitempty"` // SQL, a setting, or words
}

type risks []risk

func (r *risks) warn(kind, remedy, format string, args ...any) {
	*r = append(*r, risk{kind, source.Warn, fmt.Sprintf(format, args...), remedy})
}

func (r *risks) fail(kind, remedy, format string, args ...any) {
	*r = append(*r, risk{kind, source.Fail, fmt.Sprintf(format, args...), remedy})
}

// left is what is to be said of a table that is not captured any more.
func (pl *planner) left(b *derived) []risk {
	var r risks
	topic := pl.topics.Topic(b.Schema, b.Name)
	now, there := pl.after.All[b.OID]
	switch {
	case !there && slices.ContainsFunc(pl.after.Tables, func(t source.Captured) bool { return t.Schema == b.Schema && t.Name == b.Name }):
		r.warn("dropped", "", "the table is dropped and made again: events go on in topic %s, with no deletes for the rows that were in it", topic)
	case !there:
		r.warn("dropped", "", "the table is dropped: topic %s and its subjects stay as they are, with no deletes for the rows that were in it", topic)
	case now.Root != 0 && pl.after.Table(now.Root) != nil:
		root := pl.after.Table(now.Root)
		r.warn("partitions", "", "the table is a partition of %s.%s now: its events go to that one's topic, the rows that it has are not sent, and topic %s stays as it is%s",
			root.Schema, root.Name, topic, pl.restart())
	case now.Schema != b.Schema || now.Name != b.Name:
		r.warn("leaves_capture", "name it in source.tables, or keep its name", "the table is called %s now, which the configuration does not capture: nothing more is published of it", sqlName(now.Schema, now.Name))
	default:
		r.warn("leaves_capture", "", "the table is not captured any more: nothing more is published of it")
	}
	return r
}

// restart is a clause about the walsender of 14, which docs/schemas.md explains.
func (pl *planner) restart() string {
	if pl.version14 {
		return "; on Postgres 14 walferry must be started again before rows are written"
	}
	return ""
}

// risks are those of a table that is captured afterwards; before is nil where it was not.
func (pl *planner) risks(b, a *derived) risks {
	var r risks
	pl.topicRisks(&r, a)
	if b == nil {
		pl.newTable(&r, a)
	} else {
		pl.renamed(&r, b, a)
		pl.publication(&r, b, a)
		pl.keys(&r, b, a)
		pl.identity(&r, b, a)
		pl.columns(&r, b, a)
	}
	pl.toast(&r, b, a)
	pl.partitions(&r, a)
	return r
}

// topicRisks are what makes the pipeline refuse a table, whatever its schema is.
func (pl *planner) topicRisks(r *risks, a *derived) {
	if err := pl.topics.Check(a.OID, a.Schema, a.Name); err != nil {
		r.fail("topic", hint(err), "the stream would stop: %v", err)
	}
	pl.topics.Add(a.OID, a.Schema, a.Name)
	spec := pl.config.TopicSpec(a.Schema, a.Name)
	if a.err == nil && a.table.Key == "" && strings.Contains(spec.CleanupPolicy, "compact") {
		r.fail("key", "keep a primary key, or set kafka.topic.cleanup_policy: delete", "the table has no key, and its topic is compacted, which takes no record without one: the stream would stop")
	}
}

func (pl *planner) newTable(r *risks, a *derived) {
	_, was := pl.before.All[a.OID]
	what := "the table is new"
	if was {
		what = "the table is captured from now on"
	}
	copied := pl.config.Backfilled(a.Schema, a.Name)
	switch {
	case a.Published:
		r.warn("new_table", "", "%s, and published from its next row on", what)
	case !a.Addable:
		r.warn("new_table", "ALTER TABLE "+sqlName(a.Schema, a.Name)+" ADD PRIMARY KEY (...); -- or REPLICA IDENTITY FULL",
			"%s and has no replica identity: walferry does not put it into the publication by itself, since its updates and deletes would fail then", what)
	case pl.config.Source.Publication.Create && copied:
		r.warn("new_table", "", "%s: walferry puts it into the publication within %s, and copies the rows that it has then", what, watchInterval)
	case pl.config.Source.Publication.Create:
		r.warn("new_table", "", "%s: walferry puts it into the publication within %s; what is written to it before that is not published", what, watchInterval)
	default:
		r.warn("new_table", fmt.Sprintf("ALTER PUBLICATION %s ADD TABLE %s", quoteIdent(pl.config.Source.Publication.Name), sqlName(a.Schema, a.Name)), "%s and not in the publication: nothing of it is published until it is there", what)
	}
	switch {
	case copied:
	case a.Filled:
		r.warn("backfill", "", "rows that are in it already are not published: its topic begins with the first change after that")
	case was && pl.scratch:
		r.warn("backfill", "", "rows that may be in it already are not published: its topic begins with the first change after that")
	}
	for _, p := range a.Problems() {
		if a.Published {
			*r = append(*r, risk{p.ID, p.Severity, p.Text, p.Remedy})
		}
	}
}

func (pl *planner) renamed(r *risks, b, a *derived) {
	was, is := pl.topics.Topic(b.Schema, b.Name), pl.topics.Topic(a.Schema, a.Name)
	if was == is {
		return
	}
	text := fmt.Sprintf("events go to topic %s from the next row on: updates and deletes of rows that were created in %s come there too, and that topic stays as it is, without deletes", is, was)
	if held := pl.derived[is]; held != nil && held.OID != a.OID {
		text += fmt.Sprintf("; until now it has the rows of another table, which was %s then", held.name())
	}
	remedy := ""
	if !pl.config.SharesTopic(a.Schema, a.Name) {
		remedy = fmt.Sprintf("to stay in the topic: schema.tables: {%s.%s: {topic: %s}}", a.Schema, a.Name, was)
	}
	r.warn("renamed", remedy, "%s", text)
}

// publication is about what the publication sends of the table.
func (pl *planner) publication(r *risks, b, a *derived) {
	name := quoteIdent(pl.config.Source.Publication.Name)
	switch {
	case b.Published && !a.Published && pl.after.Publication && pl.config.Source.Publication.Create && a.Addable:
		r.warn("publication", "", "the table is taken out of the publication; walferry puts it back within %s, and what is written to it before that is not published", watchInterval)
	case b.Published && !a.Published && pl.after.Publication:
		r.warn("publication", fmt.Sprintf("ALTER PUBLICATION %s ADD TABLE %s", name, sqlName(a.Schema, a.Name)), "the table is taken out of the publication: nothing more is published of it")
	}
	switch {
	case b.RowFilter == a.RowFilter:
	case a.RowFilter == "":
		r.warn("row_filter", "", "the publication's row filter is gone: all rows are sent. Those that were outside of it come as they are next written")
	default:
		r.warn("row_filter", "", "the publication sends rows where %s, and no others: an update that moves a row out is a delete, one that moves it in a create", a.RowFilter)
	}
	var hidden, shown, unlisted []string
	for _, number := range numbers(a.Everything) {
		column := a.Everything[number]
		_, known := b.Everything[number]
		was, is := slices.Contains(b.Numbers, number), slices.Contains(a.Numbers, number)
		switch {
		case known && was && !is:
			hidden = append(hidden, column)
		case known && !was && is:
			shown = append(shown, column)
		case !known && !is && len(a.Everything) > len(a.Numbers)+1 && len(b.Everything) > len(b.Numbers):
			unlisted = append(unlisted, column)
		}
	}
	if hidden != nil {
		r.warn("columns", "", "the publication does not send %s any more", strings.Join(hidden, ", "))
	}
	if shown != nil {
		r.warn("columns", "", "the publication sends %s too: rows that were published before have it when they are next written", strings.Join(shown, ", "))
	}
	if unlisted != nil {
		r.warn("columns", "", "the publication does not send the new column %s: it is not in the table's column list, or a generated one", strings.Join(unlisted, ", "))
	}
}

func numbers(columns map[int16]string) []int16 {
	var list []int16
	for n := range columns {
		list = append(list, n)
	}
	slices.Sort(list)
	return list
}

// keys is about the record key.
func (pl *planner) keys(r *risks, b, a *derived) {
	if b.err != nil || a.err != nil {
		return
	}
	was, is := b.table.KeyColumns, a.table.KeyColumns
	// The names in a schema are the topic's: one of another topic is another text.
	sameTopic := b.table.Topic == a.table.Topic
	switch {
	case len(was) == 0 && len(is) == 0:
	case len(is) == 0:
		r.warn("key", "keep a primary key, or a unique index as the replica identity", "records have no key any more: they are in no order by key, and a delete leaves no tombstone")
	case len(was) == 0:
		r.warn("key", "", "records have a key from now on, %s; those from before have none", strings.Join(is, ", "))
	case !slices.Equal(was, is):
		r.warn("key", "do it together with a rename of the table or a topic of its own (schema.tables, topic), which begins anew",
			"the key is %s and was %s: rows go on under new keys, and the old ones get no delete and no tombstone", strings.Join(is, ", "), strings.Join(was, ", "))
	case sameTopic && b.table.Key != a.table.Key:
		r.warn("key", "", "the schema of the key changes, and its id is part of the key's bytes: rows go on under new keys, perhaps in other partitions, and a compacted topic keeps the old ones")
	}
}

// identity is about the replica identity, and about what of it the application or the events would miss.
func (pl *planner) identity(r *risks, b, a *derived) {
	if b.Identity != a.Identity {
		switch a.Identity {
		case decode.IdentityFull:
			r.warn("replica_identity", "", "replica identity %s becomes full: before has the whole old row, and the server writes it into the WAL with each update and delete", b.Identity)
		case decode.IdentityDefault, decode.IdentityIndex:
			if b.Identity == decode.IdentityFull {
				r.warn("replica_identity", "", "replica identity full becomes %s: before has no more than the columns of the key", a.Identity)
			} else {
				r.warn("replica_identity", "", "replica identity %s becomes %s", b.Identity, a.Identity)
			}
		case decode.IdentityNothing: // its problem follows
		}
	}
	had := b.Problems()
	for _, p := range a.Problems() {
		if !slices.ContainsFunc(had, func(h source.Finding) bool { return h.ID == p.ID && h.Severity == p.Severity }) {
			*r = append(*r, risk{p.ID, p.Severity, p.Text, p.Remedy})
		}
	}
}

// columns is about columns that stay and are other ones for consumers.
func (pl *planner) columns(r *risks, b, a *derived) {
	var rewritten []string
	for i, number := range a.Numbers {
		j := slices.Index(b.Numbers, number)
		if j < 0 {
			continue
		}
		was, is := b.Relation.Columns[j], a.Relation.Columns[i]
		if was.Name != is.Name {
			r.warn("renamed_column", fmt.Sprintf("to keep both for a while: add %s beside %s, write both, and drop %s when nobody reads it", is.Name, was.Name, was.Name),
				"column %s is called %s now: for Avro that is another field, so readers with the old schema see null for %s", was.Name, is.Name, was.Name)
		}
		if b.Types[j] != a.Types[i] {
			rewritten = append(rewritten, is.Name)
		}
	}
	if rewritten != nil {
		r.warn("rewrite", "", "rows that Postgres rewrites for the new type of %s send no events: consumers see it when a row is next written", strings.Join(rewritten, ", "))
	}
	if !pl.trigger && b.err == nil && a.err == nil && b.Relation.Equal(a.Relation) && b.table.Value != a.table.Value {
		r.warn("facts", "walferry setup --ddl-trigger", "comments, labels and attributes are not part of the stream: without the event trigger consumers see them with the next other change of the table, or when a row does not fit")
	}
}

// toast is about columns whose value is not sent when an update leaves it alone, and was before, or was not there.
func (pl *planner) toast(r *risks, b, a *derived) {
	if b == nil {
		return // all is new
	}
	var new []string
	for _, column := range a.Toasted {
		i := slices.IndexFunc(a.Relation.Columns, func(c decode.Column) bool { return c.Name == column })
		if i < 0 {
			continue
		}
		if was, ok := b.Everything[a.Numbers[i]]; ok && slices.Contains(b.Toasted, was) {
			continue
		}
		new = append(new, column)
	}
	if new == nil {
		return
	}
	o := pl.options(a.Captured)
	marked := slices.DeleteFunc(slices.Clone(new), func(c string) bool {
		choice := o.Toast
		if own := o.Columns[c].Toast; own != "" {
			choice = own
		}
		return choice == schema.ToastRefetch
	})
	if len(marked) == 0 {
		return // read again by key
	}
	r.warn("toast", "ALTER TABLE "+sqlName(a.Schema, a.Name)+" REPLICA IDENTITY FULL; -- or toast: refetch in schema.columns",
		"a large value of %s that an update leaves alone is not sent: the event names it in unavailable", strings.Join(marked, ", "))
}

// partitions is about tables that become partitions, and partitions that become tables.
func (pl *planner) partitions(r *risks, a *derived) {
	if !a.Partitioned {
		return
	}
	var attached, detached []string
	for oid, now := range pl.after.All {
		was, there := pl.before.All[oid]
		if !there {
			continue
		}
		if now.Root == a.OID && was.Root != a.OID && pl.before.Table(oid) == nil {
			attached = append(attached, sqlName(now.Schema, now.Name))
		}
		if now.Root != a.OID && was.Root == a.OID {
			detached = append(detached, sqlName(now.Schema, now.Name))
		}
	}
	slices.Sort(attached)
	slices.Sort(detached)
	if attached != nil {
		r.warn("partitions", "", "%s becomes a partition: the rows that it has are not sent%s", strings.Join(attached, ", "), pl.restart())
	}
	if detached != nil {
		r.warn("partitions", "", "%s is no partition any more: its rows get no deletes%s", strings.Join(detached, ", "), pl.restart())
	}
	var dropped int
	for oid, was := range pl.before.All {
		if _, there := pl.after.All[oid]; !there && was.Root == a.OID {
			dropped++
		}
	}
	if dropped > 0 {
		r.warn("partitions", "", "%s dropped with its rows, which get no deletes", several(dropped, "partition"))
	}
}

// sqlName is a table's name in SQL.
func sqlName(schema, table string) string { return quoteIdent(schema) + "." + quoteIdent(table) }
