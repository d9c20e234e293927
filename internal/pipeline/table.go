package pipeline

import (
	"context"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/jackc/pglogrepl"

	"walferry/checkpoint"
	"walferry/decode"
	"walferry/schema"
	"walferry/schema/registry"
	"walferry/sink"
	"walferry/source"
)

// errTextMode ends a session whose stream brings a type that can only be read as text: the next one asks for text.
var errTextMode = errors.New("the stream starts again in text mode")

// errRegistryStalled is the reason of a stallError when the registry is the server that does not answer.
var errRegistryStalled = errors.New("the schema registry gave no usable answer within stall_limit")

// table is one version of a relation with all that its events need. It lives as long as its *decode.Relation.
type table struct {
	topic                 string
	partitions            int
	keyless               bool
	keyColumns            []string
	enc                   *schema.Encoder
	schemaName, tableName []byte
	tx                    pglogrepl.LSN // commit LSN of the transaction that events counts
	events                int64         // events of this table in it, of all its versions
	seed                  []byte
	stale                 bool // facts came that it was not made from
	refetches             bool // columns are read again by key where the server did not send them
	refetchAfter          time.Time
	refetchRows           int // that the next question asks for, at most
}

// partition chooses the partition of a record: by its key as Java producers do, or, for a table without a key, one for all
// rows of a transaction.
func (t *table) partition(key []byte, commit pglogrepl.LSN) int32 {
	if key == nil {
		t.seed = strconv.AppendUint(t.seed[:0], uint64(commit), 10)
		key = t.seed
	}
	return sink.Partition(key, t.partitions)
}

// relationRecord is what the checkpoint topic keeps of a relation version, so that a replay derives the same schema
// whatever the catalog says by then.
type relationRecord struct {
	Relation   *decode.Relation   `json:"relation"`
	Descriptor *decode.Descriptor `json:"descriptor"`
	// Facts: the descriptor came on the stream, so it holds from here on for whatever Relation message follows. The rest is
	// then what the version before had.
	Facts      bool   `json:"facts,omitempty"`
	Told       bool   `json:"told,omitempty"` // the descriptor goes back to such a message
	Topic      string `json:"topic"`
	Partitions int    `json:"partitions"`
	KeyHash    string `json:"key_hash,omitempty"`
	KeyID      int32  `json:"key_id,omitempty"`
	ValueHash  string `json:"value_hash"`
	ValueID    int32  `json:"value_id"`
	// KeySubject and ValueSubject have the schemas; KeySubject is empty without a key, and both in what older versions wrote.
	KeySubject   string `json:"key_subject,omitempty"`
	ValueSubject string `json:"value_subject,omitempty"`
}

// subjects are KeySubject and ValueSubject, also of a record that has none: they were of the topic then.
func (r *relationRecord) subjects() (key, value string) {
	if r.ValueSubject != "" {
		return r.KeySubject, r.ValueSubject
	}
	key, value = (&schema.Options{Subject: schema.SubjectTopic}).Subjects(r.Topic)
	if r.KeyHash == "" {
		key = ""
	}
	return key, value
}

// sameSchemas says whether another version has the same schemas under the same subjects.
func (r *relationRecord) sameSchemas(o *relationRecord) bool {
	key, value := r.subjects()
	otherKey, otherValue := o.subjects()
	return r.KeyHash == o.KeyHash && r.ValueHash == o.ValueHash && key == otherKey && value == otherValue
}

// PartitionsChangedError says that a topic's partition count is not the one its keys were spread over.
type PartitionsChangedError struct {
	Topic      string
	Had, Have  int
	Configured int // the number that the topic should have by the configuration
}

func (e *PartitionsChangedError) Error() string {
	return fmt.Sprintf("topic %s had %d partitions when its keys were spread over them and has %d now: "+
		"keys would move and lose their order at this point", e.Topic, e.Had, e.Have)
}

// Hint is the way on.
func (e *PartitionsChangedError) Hint() string {
	configure := ""
	if e.Configured != e.Have {
		configure = fmt.Sprintf(" and configure %d partitions for it", e.Have)
	}
	return fmt.Sprintf("let the consumers finish what is there, then `walferry recover --accept-partitions %s`%s; "+
		"the order of a key's events before and after is then by commit_lsn, not by offset", e.Topic, configure)
}

// table finds or makes the table of a relation version; nil when the configuration does not capture it, since a publication
// can hold more. at is the place of its first row.
func (l *loop) table(ctx context.Context, rel *decode.Relation, at decode.Position) (*table, error) {
	known, ok := l.tables[rel]
	if ok && (known == nil || !known.stale) {
		return known, nil
	}
	captured, err := l.source.Selects(rel.Schema, rel.Name)
	if err != nil {
		return nil, err
	}
	if !captured {
		l.log.Info("relation not captured", "table", rel.String())
		l.tables[rel] = nil
		return nil, nil
	}
	before, err := l.newest(rel.ID, at)
	if err != nil {
		return nil, err
	}
	t, err := l.newTable(ctx, rel, before, at)
	if err != nil {
		return nil, fmt.Errorf("table %s at %s: %w", rel, at, err)
	}
	l.keep(rel, t)
	return t, nil
}

// keep puts a table in the place of every older version of it.
func (l *loop) keep(rel *decode.Relation, t *table) {
	for old, v := range l.tables {
		if v != nil && old.ID == rel.ID {
			if v.tx == l.builder.tx.Commit {
				t.tx, t.events = v.tx, v.events
			}
			delete(l.tables, old) // the decoder gives a version out until another one replaces it
		}
	}
	l.tables[rel] = t
}

// again makes a table from the catalog of now, for a row whose values are of another version of their types than what it was
// made from. Nil when that says nothing new.
func (l *loop) again(ctx context.Context, rel *decode.Relation, at decode.Position) (*table, error) {
	desc, err := l.cat.Describe(ctx, rel.ID)
	if is[*source.TableMissingError](err) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	before, err := l.newest(rel.ID, at)
	if err != nil || before != nil && reflect.DeepEqual(before.Descriptor, desc) {
		return nil, err
	}
	facts := relationRecord{Descriptor: desc}
	if before != nil {
		facts = *before
		facts.Descriptor = desc
	}
	facts.Facts = true
	t, err := l.newTable(ctx, rel, &facts, at)
	if err != nil {
		return nil, fmt.Errorf("table %s: %w", rel, err)
	}
	l.keep(rel, t)
	return t, nil
}

// newTable makes the table of a relation version from the newest saved version before it, nil for none.
func (l *loop) newTable(ctx context.Context, rel *decode.Relation, before *relationRecord, at decode.Position) (*table, error) {
	var err error
	saved := before
	if before != nil && !before.Facts && !before.Relation.Equal(rel) {
		saved = nil // it was another table then
	}
	var desc *decode.Descriptor
	if saved != nil {
		desc = saved.Descriptor
	} else if desc, err = l.cat.Describe(ctx, rel.ID); is[*source.TableMissingError](err) {
		l.log.Warn("the table was dropped: comments, and the primary key under replica identity full, are not known", "table", rel.String())
		desc, err = &decode.Descriptor{Relation: rel.ID}, nil
	}
	if err != nil {
		return nil, err
	}
	if desc, err = l.complete(ctx, rel, desc); err != nil {
		return nil, err
	}
	v, err := l.placed(ctx, rel, desc, before, saved, at)
	if err != nil {
		return nil, err
	}
	rec := v.rec
	if saved == nil || saved.Relation == nil || !saved.Relation.Equal(rel) || !saved.sameSchemas(&rec) || saved.KeyID != rec.KeyID || saved.ValueID != rec.ValueID || saved.Topic != rec.Topic {
		if err := l.saveRelation(rel.ID, at, &rec); err != nil {
			return nil, err
		}
		l.changed(at, before, &rec)
	}
	enc, err := v.st.Encoder(rec.KeyID, rec.ValueID)
	if err != nil {
		return nil, err
	}
	l.log.Info("relation", "table", rel.String(), "topic", rec.Topic, "partitions", rec.Partitions,
		"key_id", rec.KeyID, "value_id", rec.ValueID, "from", at.String())
	return &table{
		topic: rec.Topic, partitions: rec.Partitions, keyless: v.st.Key == "", keyColumns: v.st.KeyColumns, enc: enc,
		schemaName: []byte(rel.Schema), tableName: []byte(rel.Name), refetches: v.st.Refetches,
		refetchRows: refetchFirst,
	}, nil
}

// version is a relation version with its topic and its schemas.
type version struct {
	st  *schema.Table
	rec relationRecord
}

// placed finds the topic of a relation version and registers its schemas. That is the topic that the table's name gives, or
// the one that the table has moved to; where these schemas may not follow those there, the table's policy decides.
func (l *loop) placed(ctx context.Context, rel *decode.Relation, desc *decode.Descriptor, before, saved *relationRecord, at decode.Position) (*version, error) {
	if err := l.own(rel); err != nil {
		return nil, err
	}
	spec := l.cfg.TopicSpec(rel.Schema, rel.Name)
	name := spec.Name
	was := l.saved.Number(name, position(at))
	for number := was; ; {
		spec.Name = checkpoint.MovedTopic(name, number)
		v, err := l.in(ctx, spec, rel, desc, before, saved)
		if err == nil {
			if number != was {
				l.move(name, spec.Name, checkpoint.Move{Start: position(at), Number: number})
			}
			return v, nil
		}
		if !is[*registry.IncompatibleError](err) || l.policy(rel) != incompatibleNewTopic {
			return nil, err
		}
		l.log.Warn("the registry refuses the schema as incompatible: the table's events go on in another topic", "table", rel.String(), "topic", spec.Name, "reason", err)
		number = l.unused(rel, name, number)
	}
}

// in derives a relation version's schemas for a topic, makes the topic and registers them.
func (l *loop) in(ctx context.Context, spec sink.TopicSpec, rel *decode.Relation, desc *decode.Descriptor, before, saved *relationRecord) (*version, error) {
	topic := spec.Name
	st, err := schema.Derive(rel, desc, topic, l.schemaOptions(rel))
	if err != nil {
		return nil, err
	}
	if st.NeedsText && !l.textMode {
		return nil, fmt.Errorf("only as text can be read: column %s: %w", strings.Join(st.TextColumns, ", "), errTextMode)
	}
	rec := relationRecord{
		Relation: rel, Descriptor: desc, Told: saved != nil && (saved.Facts || saved.Told), Topic: topic,
		ValueHash: fingerprint(st.Value), KeySubject: st.KeySubject, ValueSubject: st.ValueSubject,
	}
	if st.Key != "" {
		rec.KeyHash = fingerprint(st.Key)
	}
	l.health.step(stepKafka)
	var info sink.TopicInfo
	err = l.bounded(ctx, func(ctx context.Context) (err error) {
		info, err = l.producer.EnsureTopic(ctx, spec)
		return err
	})
	// This comes before what the configuration says of the number: to write the new one there is not all that is to be done.
	if (err == nil || is[*sink.TopicMismatchError](err)) && before != nil && before.Topic == topic && info.Partitions > 0 && before.Partitions != info.Partitions {
		return nil, &PartitionsChangedError{Topic: topic, Had: before.Partitions, Have: info.Partitions, Configured: spec.Partitions}
	}
	if err != nil {
		return nil, err
	}
	if st.Key == "" && strings.Contains(info.CleanupPolicy, "compact") {
		return nil, &KeylessError{Table: rel.String(), Topic: topic}
	}
	l.health.step(stepRegistry)
	rec.Partitions = info.Partitions
	if saved != nil && saved.sameSchemas(&rec) {
		rec.KeyID, rec.ValueID = saved.KeyID, saved.ValueID
		return &version{st, rec}, nil
	}
	if st.Key != "" {
		if rec.KeyID, err = l.register(ctx, rel, st.KeySubject, st.Key); err != nil {
			return nil, err
		}
	}
	if rec.ValueID, err = l.register(ctx, rel, st.ValueSubject, st.Value); err != nil {
		return nil, err
	}
	return &version{st, rec}, nil
}

// complete adds the types of the columns that a descriptor does not have: of a table that is gone by now, or as one was that
// the catalog shows with other columns.
func (l *loop) complete(ctx context.Context, rel *decode.Relation, desc *decode.Descriptor) (*decode.Descriptor, error) {
	var missing []uint32
	for _, c := range rel.Columns {
		if desc.Types[c.Type] == nil {
			missing = append(missing, c.Type)
		}
	}
	if len(missing) == 0 {
		return desc, nil
	}
	types, err := l.cat.DescribeTypes(ctx, missing...)
	if err != nil {
		return nil, err
	}
	maps.Copy(types, desc.Types)
	d := *desc
	d.Types = types
	return &d, nil
}

// newest is the newest saved version of a relation that begins at or before at; nil for none.
func (l *loop) newest(oid uint32, at decode.Position) (*relationRecord, error) {
	r := l.saved.Relation(oid, position(at))
	if r == nil {
		return nil, nil
	}
	rec, err := decodeRelation(r)
	if err == nil && rec.Relation == nil && !rec.Facts {
		err = errors.New("it says nothing of the relation")
	}
	if err != nil {
		return nil, fmt.Errorf("saved relation %d: %w", oid, err)
	}
	return rec, nil
}

// facts takes what the event trigger says of a table: from here on it is described like this. It is saved at once, since a
// message from before a start is not sent again, and the table's first row may come after it. Any role can emit one, so one
// that cannot be read is left out.
func (l *loop) facts(m *decode.Message) error {
	if l.drop == checkpoint.Drop {
		return nil // saved in the transaction that covers it
	}
	at := decode.Position{Commit: l.builder.tx.Commit, Change: m.LSN}
	if l.covered(at) {
		return nil
	}
	d, err := source.ParseDDL(m.Content)
	if err != nil {
		l.log.Warn("a DDL message was left out", "at", at.String(), "error", err)
		return nil
	}
	if captured, err := l.source.Selects(d.Schema, d.Table); err != nil || !captured {
		return err
	}
	oid := d.Descriptor.Relation
	before, err := l.newest(oid, at)
	if err != nil {
		return err
	}
	rec := relationRecord{Facts: true, Descriptor: d.Descriptor}
	if before != nil {
		rec = *before
		rec.Facts, rec.Descriptor = true, d.Descriptor
		keepTypes(d.Descriptor, before)
	}
	for rel, t := range l.tables {
		if t != nil && rel.ID == oid {
			t.stale = true
		}
	}
	return l.saveRelation(oid, at, &rec)
}

// keepTypes adds the types of a version's columns that the table does not have any more: until its next row that version is its
// newest, and a record of the topic of schema changes names them.
func keepTypes(to *decode.Descriptor, before *relationRecord) {
	if before.Relation == nil || before.Descriptor == nil {
		return
	}
	if to.Types == nil {
		to.Types = map[uint32]*decode.Type{}
	}
	for _, c := range before.Relation.Columns {
		for oid := c.Type; to.Types[oid] == nil && before.Descriptor.Types[oid] != nil; oid = before.Descriptor.Types[oid].Elem {
			to.Types[oid] = before.Descriptor.Types[oid]
		}
	}
}

func decodeRelation(r *checkpoint.Relation) (*relationRecord, error) {
	rec := new(relationRecord)
	return rec, json.Unmarshal(r.Payload, rec)
}

// textColumns are those columns of captured tables, as they were last published, that can only be read as text. Where there is
// none any more the stream is binary again, and a row from before that is met all the same starts it as text once more.
func (s *session) textColumns(ctx context.Context) ([]string, error) {
	tables, err := s.captured(ctx)
	if err != nil {
		return nil, err
	}
	var out []string
	for _, t := range tables {
		versions := s.saved.Relations[t.OID]
		if len(versions) == 0 {
			continue
		}
		rec, err := decodeRelation(versions[len(versions)-1])
		if err != nil {
			return nil, fmt.Errorf("read the saved version of table %s.%s: %w", t.Schema, t.Name, err)
		}
		if rec.Relation == nil {
			continue
		}
		st, err := schema.Derive(rec.Relation, rec.Descriptor, rec.Topic, s.schemaOptions(rec.Relation))
		if err != nil {
			continue // the table's next row says so
		}
		for _, c := range st.TextColumns {
			out = append(out, rec.Relation.String()+"."+c)
		}
	}
	return out, nil
}

// saveRelation puts the version into the checkpoint topic in the transaction of its first use.
func (l *loop) saveRelation(oid uint32, at decode.Position, rec *relationRecord) error {
	payload, err := json.Marshal(rec)
	if err != nil {
		return fmt.Errorf("encode relation %d: %w", oid, err)
	}
	r := &checkpoint.Relation{OID: oid, Start: position(at), Payload: payload}
	l.building.relations = append(l.building.relations, r)
	// Known at once: were the next version to say the same as an older one, it would be taken for that.
	l.saved.Remember(r)
	return nil
}

func fingerprint(avro string) string {
	f := schema.Fingerprint(avro)
	return hex.EncodeToString(f[:])
}

// KeylessError says that a table without a key would go to a compacted topic, which refuses the whole batch.
type KeylessError struct{ Table, Topic string }

func (e *KeylessError) Error() string {
	return fmt.Sprintf("table %s has no key, and topic %s is compacted: a compacted topic takes no record without one", e.Table, e.Topic)
}

// Hint is the way on.
func (e *KeylessError) Hint() string {
	return fmt.Sprintf("give the table a primary key, or set cleanup.policy=delete on topic %s, or exclude the table", e.Topic)
}

// keyText is the row's key for a person to find it by, from the old row where there is one. Values are in text form.
func (t *table) keyText(c *decode.Change) string {
	row := c.New
	if c.Old != nil {
		row = c.Old
	}
	var b strings.Builder
	for i, col := range c.Relation.Columns {
		if !slices.Contains(t.keyColumns, col.Name) || i >= len(row) {
			continue
		}
		if b.Len() > 0 {
			b.WriteString(", ")
		}
		b.WriteString(col.Name + "=" + datumText(col.Type, row[i]))
	}
	return b.String()
}

// datumText shows a key column's value: text as it is, binary integers as numbers, anything else in hexadecimal.
func datumText(oid uint32, d decode.Datum) string {
	switch d.Kind {
	case decode.Text:
		return string(d.Data)
	case decode.Binary:
		switch {
		case (oid == 20 || oid == 21 || oid == 23) && len(d.Data) <= 8: // int8, int2, int4
			var v uint64
			for _, x := range d.Data {
				v = v<<8 | uint64(x)
			}
			shift := 64 - 8*len(d.Data)
			return strconv.FormatInt(int64(v<<shift)>>shift, 10)
		case oid == 25 || oid == 1043: // text, varchar
			return string(d.Data)
		}
		return "0x" + hex.EncodeToString(d.Data)
	}
	return d.Kind.String()
}
