package pipeline

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"

	"github.com/jackc/pglogrepl"

	"walferry/checkpoint"
	"walferry/decode"
	"walferry/schema"
	"walferry/source"
)

// tableName is a table's name without quotes.
type tableName struct{ schema, name string }

func (n tableName) String() string { return (&source.Table{Schema: n.schema, Name: n.name}).String() }

// Topics knows which tables' events go where, and finds two tables that would have one topic or one subject by accident: each
// one's schemas would be checked against the other's, and in one topic a key of one be taken for that of the other.
type Topics struct {
	cfg   *Config
	saved *checkpoint.State
	names map[uint32]tableName           // by OID
	by    map[claim]map[uint32]tableName // by what the name gives
}

// claim is what a table has for itself: a topic, or a subject of it.
type claim struct {
	subject bool
	name    string
}

// NewTopics knows no table yet; saved is where tables have moved to. Of cfg it uses TopicSpec, SharesTopic, OwnTopic and SchemaOptions.
func NewTopics(cfg *Config, saved *checkpoint.State) *Topics {
	return &Topics{cfg: cfg, saved: saved, names: map[uint32]tableName{}, by: map[claim]map[uint32]tableName{}}
}

// claims are the topic and its subjects, for a table's events.
func (t *Topics) claims(n tableName, topic string) [3]claim {
	var o schema.Options
	if t.cfg.SchemaOptions != nil {
		o = t.cfg.SchemaOptions(n.schema, n.name, "", "")
	}
	key, value := o.Subjects(topic)
	return [3]claim{{false, topic}, {true, key}, {true, value}}
}

// Add says that the table with this OID has this name, in place of the one that it had.
func (t *Topics) Add(oid uint32, schemaName, table string) {
	n := tableName{schemaName, table}
	old, known := t.names[oid]
	if known && old == n {
		return
	}
	t.names[oid] = n
	if known {
		for _, c := range t.claims(old, t.cfg.TopicSpec(old.schema, old.name).Name) {
			delete(t.by[c], oid)
		}
	}
	for _, c := range t.claims(n, t.cfg.TopicSpec(schemaName, table).Name) {
		if t.by[c] == nil {
			t.by[c] = map[uint32]tableName{}
		}
		t.by[c][oid] = n
	}
}

// Topic is where the table's events go now.
func (t *Topics) Topic(schemaName, table string) string {
	topic := t.cfg.TopicSpec(schemaName, table).Name
	return checkpoint.MovedTopic(topic, t.saved.Number(topic, checkpoint.Position{Commit: ^pglogrepl.LSN(0)}))
}

// Check returns a *SharedTopicError when the table, which need not be added, would share its topic or a subject with another one
// or its topic with what walferry keeps, unless the configuration names the topic for both.
func (t *Topics) Check(oid uint32, schemaName, table string) error {
	me, topic := tableName{schemaName, table}, t.cfg.TopicSpec(schemaName, table).Name
	moved := t.Topic(schemaName, table)
	for _, name := range []string{topic, moved} {
		if t.cfg.OwnTopic != nil {
			if what := t.cfg.OwnTopic(name); what != "" {
				return &SharedTopicError{Table: me.String(), Topic: name, Own: what}
			}
		}
	}
	shares := func(n tableName) bool { return t.cfg.SharesTopic != nil && t.cfg.SharesTopic(n.schema, n.name) }
	mine := t.claims(me, topic)
	for _, c := range mine {
		for _, other := range t.others(c, oid, me) {
			if !shares(me) || !shares(other) || t.cfg.TopicSpec(other.schema, other.name).Name != topic {
				return shared(me, other, c, moved)
			}
		}
	}
	// A topic that a table has moved to holds its events, and its subjects their schemas, whether they go there still or on to
	// the next.
	for _, m := range t.moves(topic) {
		to := checkpoint.MovedTopic(topic, m.Number)
		for _, c := range t.claims(me, to) {
			for _, other := range t.others(c, oid, me) {
				return shared(me, other, c, to)
			}
		}
	}
	// Only a topic whose name ends so can be one that another table has moved to, or have records that are called like those there.
	_, last, found := strings.Cut(topic[max(0, strings.LastIndex(topic, ".v")):], ".v")
	number, err := strconv.Atoi(last)
	if !found || err != nil {
		return nil
	}
	for _, from := range slices.Sorted(maps.Keys(t.saved.Moved)) {
		if !slices.ContainsFunc(t.moves(from), func(m checkpoint.Move) bool { return m.Number == number }) {
			continue
		}
		for _, other := range t.others(claim{name: from}, oid, me) {
			for _, c := range t.claims(other, checkpoint.MovedTopic(from, number)) {
				if slices.Contains(mine[:], c) {
					return shared(me, other, c, topic)
				}
			}
		}
	}
	return nil
}

func shared(me, other tableName, c claim, topic string) error {
	e := &SharedTopicError{Table: me.String(), Other: other.String(), Topic: topic}
	if c.subject {
		e.Subject = c.name
	}
	return e
}

func (t *Topics) moves(topic string) []checkpoint.Move {
	if m := t.saved.Moved[topic]; m != nil {
		return m.Moves
	}
	return nil
}

// others are the tables whose name gives this, in order, but for the one with this OID, whatever it was called before, and
// one that had its name.
func (t *Topics) others(c claim, oid uint32, me tableName) []tableName {
	var out []tableName
	for id, n := range t.by[c] {
		if id != oid && n != me {
			out = append(out, n)
		}
	}
	slices.SortFunc(out, func(a, b tableName) int { return strings.Compare(a.String(), b.String()) })
	return out
}

// taken says whether a topic that a table would move to is that of a table by its name, or has a subject of one, or is walferry's own.
func (t *Topics) taken(n tableName, topic string) bool {
	for _, c := range t.claims(n, topic) {
		if len(t.by[c]) > 0 {
			return true
		}
	}
	return t.cfg.OwnTopic != nil && t.cfg.OwnTopic(topic) != ""
}

// SharedTopicError says that two captured tables would go to one topic or have one subject, or one to a topic of walferry's.
type SharedTopicError struct {
	Table, Other string // quoted; Other is "" where Own is not
	Topic        string // of Table
	Subject      string // that is shared, where the topic is not
	Own          string // what walferry keeps there
}

func (e *SharedTopicError) Error() string {
	if e.Own != "" {
		return fmt.Sprintf("the events of table %s would go to topic %s, which holds %s", e.Table, e.Topic, e.Own)
	}
	if e.Subject != "" {
		return fmt.Sprintf("the tables %s and %s would share the subject %s: versions of one would be checked against those of the other", e.Table, e.Other, e.Subject)
	}
	return fmt.Sprintf("the tables %s and %s would share the topic %s: keys of one would be taken for those of the other", e.Table, e.Other, e.Topic)
}

// Hint is the way on.
func (e *SharedTopicError) Hint() string {
	part := fmt.Sprintf("name another topic for %s in schema.tables (topic: …), or have kafka.topic.template part them, or exclude a table", e.Table)
	if e.Own != "" {
		return part
	}
	if e.Subject != "" {
		return "put {topic} into schema.subject, or " + part
	}
	return part + "; if they are to share it, name it for both there"
}

// parted refuses tables that would share a topic, before anything is published.
func (s *session) parted(tables []source.Table) error {
	all := NewTopics(&s.cfg, s.saved)
	for i := range tables {
		t := &tables[i]
		if err := all.Check(t.OID, t.Schema, t.Name); err != nil {
			return err
		}
		all.Add(t.OID, t.Schema, t.Name)
	}
	s.published = all
	return nil
}

// captured are the published tables that the configuration captures.
func (s *session) captured(ctx context.Context) ([]source.Table, error) {
	tables, err := s.cat.Tables(ctx)
	switch {
	case is[*source.PublicationMissingError](err):
		return nil, nil // the stream still has what came before it was dropped, and says so at what came after
	case err != nil:
		return nil, err
	}
	out := tables[:0]
	for _, t := range tables {
		captured, err := s.source.Selects(t.Schema, t.Name)
		if err != nil {
			return nil, err
		}
		if captured {
			out = append(out, t)
		}
	}
	return out, nil
}

// seen are the tables that rows have come of, by their newest names on the stream.
func (l *loop) seen() (*Topics, error) {
	if l.topics != nil {
		return l.topics, nil
	}
	topics := NewTopics(&l.cfg, l.saved)
	for oid, versions := range l.saved.Relations {
		rec, err := decodeRelation(versions[len(versions)-1])
		if err != nil {
			return nil, fmt.Errorf("saved relation %d: %w", oid, err)
		}
		if r := rec.Relation; r != nil {
			captured, err := l.source.Selects(r.Schema, r.Name)
			if err != nil {
				return nil, err
			}
			if captured {
				topics.Add(oid, r.Schema, r.Name)
			}
		}
	}
	l.topics = topics
	return topics, nil
}

// own refuses a table whose row would be the first in another one's topic.
func (l *loop) own(rel *decode.Relation) error {
	topics, err := l.seen()
	if err != nil {
		return err
	}
	if err := topics.Check(rel.ID, rel.Schema, rel.Name); err != nil {
		return err
	}
	topics.Add(rel.ID, rel.Schema, rel.Name)
	return nil
}
