package pipeline

import (
	"encoding/json"
	"fmt"

	"walferry/checkpoint"
	"walferry/decode"
	"walferry/sink"
)

// A schemaChange is a record of the topic of schema changes: JSON, which anyone can read. docs/events.md has its fields.
type schemaChange struct {
	V         int           `json:"v"` // 1
	Schema    string        `json:"schema"`
	Table     string        `json:"table"`
	OID       uint32        `json:"oid"`
	CommitLSN string        `json:"commit_lsn"`
	LSN       string        `json:"lsn"`
	XID       uint32        `json:"xid"`
	TsUs      int64         `json:"ts_us"`
	Before    *tableVersion `json:"before"`
	After     *tableVersion `json:"after"`

	tx decode.Transaction
	at decode.Position
}

// tableVersion is a table as its events have it.
type tableVersion struct {
	Schema   string          `json:"schema"`
	Table    string          `json:"table"`
	Identity string          `json:"identity"`
	Columns  []columnVersion `json:"columns"`
	Topic    string          `json:"topic"`
	KeyID    int32           `json:"key_id,omitempty"`
	ValueID  int32           `json:"value_id"`

	KeySubject   string `json:"key_subject,omitempty"`
	ValueSubject string `json:"value_subject"`
}

type columnVersion struct {
	Name string `json:"name"`
	Type string `json:"type"`
	OID  uint32 `json:"type_oid"`
	Mod  int32  `json:"type_mod"`
	Key  bool   `json:"key"`
}

func newTableVersion(rec *relationRecord) *tableVersion {
	if rec == nil || rec.Relation == nil {
		return nil // facts alone: no event had them
	}
	r := rec.Relation
	v := &tableVersion{Schema: r.Schema, Table: r.Name, Identity: r.Identity.String(), Topic: rec.Topic, KeyID: rec.KeyID, ValueID: rec.ValueID}
	v.KeySubject, v.ValueSubject = rec.subjects()
	for _, c := range r.Columns {
		v.Columns = append(v.Columns, columnVersion{Name: c.Name, Type: typeName(rec.Descriptor, c.Type), OID: c.Type, Mod: c.Mod, Key: c.Key})
	}
	return v
}

// typeName is the type's name without its modifier, with its schema where that is not the system's.
func typeName(desc *decode.Descriptor, oid uint32) string {
	t := desc.Types[oid]
	switch {
	case t == nil:
		return "" // dropped before anybody asked for it
	case t.Elem != 0 && desc.Types[t.Elem] != nil:
		return typeName(desc, t.Elem) + "[]"
	case t.Schema == "pg_catalog" || t.Schema == "":
		return t.Name
	}
	return t.Schema + "." + t.Name
}

// changed notes a new version for the topic of schema changes. It goes there with the batch that saves the version, so it is
// there once: a version that is saved is not new at a replay.
func (l *loop) changed(at decode.Position, before, after *relationRecord) {
	if l.cfg.Changes.Name == "" {
		return
	}
	r := after.Relation
	c := &schemaChange{
		V: 1, Schema: r.Schema, Table: r.Name, OID: r.ID,
		CommitLSN: at.Commit.String(), LSN: at.Change.String(), XID: l.builder.tx.XID, TsUs: l.builder.tx.CommitTime.UnixMicro(),
		Before: newTableVersion(before), After: newTableVersion(after),
		tx: l.builder.tx, at: at,
	}
	for i, other := range l.building.changes {
		if other.OID == c.OID && other.at == at {
			// The row did not fit what was made for it, and the table was described anew.
			c.Before = other.Before
			l.building.changes[i] = c
			return
		}
	}
	l.building.changes = append(l.building.changes, c)
}

// appendTo puts the record into a batch.
func (c *schemaChange) appendTo(batch *sink.Batch, topic, systemID string) error {
	value, err := json.Marshal(c)
	if err != nil {
		return fmt.Errorf("encode the schema change of %s.%s: %w", c.Schema, c.Table, err)
	}
	id := fmt.Appendf(nil, "%s/%s/%s/%d/schema/%d", systemID, c.at.Commit, c.at.Change, c.at.N, c.OID)
	if err := batch.Append(topic, 0, c.tx.CommitTime, []byte(c.Schema+"."+c.Table), value, []sink.Header{{Key: "id", Value: id}}); err != nil {
		return fmt.Errorf("schema change of %s.%s: %w", c.Schema, c.Table, err)
	}
	return nil
}

// forget takes back what is to be saved with the open transaction, which is not published: it comes again.
func (b *sealed) forget(tx decode.Transaction) {
	relations, changes := b.relations[:0], b.changes[:0]
	for _, r := range b.relations {
		if r.Start.Commit != tx.Commit {
			relations = append(relations, r)
		}
	}
	for _, c := range b.changes {
		if c.at.Commit != tx.Commit {
			changes = append(changes, c)
		}
	}
	b.relations, b.changes = relations, changes
	var moved []*checkpoint.Moved
	for _, m := range b.moved {
		kept := *m
		for n := len(kept.Moves); n > 0 && kept.Moves[n-1].Start.Commit == tx.Commit; n-- {
			kept.Moves = kept.Moves[:n-1]
		}
		moved = append(moved, &kept)
	}
	b.moved = moved
}
