// Package backfill is the arithmetic of the first copy: which rows that a chunk has read go into the stream, and what of a
// table is done. It is pure; docs/design.md, "First copy", has the argument that it rests on.
//
// A chunk is a range of a table's keys, read under one snapshot S, with the place H in the WAL that S lies before. Its rows
// are placed into the stream at a boundary between two transactions, once the stream has delivered one that commits at or
// after H. From before S until then every change of the table is noted (Notes). A row whose key was changed by a transaction
// that S does not see is older than what the stream has brought, and is left out; all others are the row's state at that
// boundary.
//
// A Copy is what the checkpoint topic keeps of one table's copy: its generation, and how far each range has been placed. It is
// saved in the Kafka transaction that holds the rows, so a finished chunk is not read again, and a broken one leaves nothing.
package backfill

import (
	"encoding/json"
	"fmt"
	"slices"
	"time"
	"unicode/utf8"

	"walferry/decode"
)

// State is where a table's copy stands.
type State string

// States of a copy. Waiting is before its first chunk, Copying after, Paused either while somebody wants it so. The others are
// ends: Cancelled is somebody's wish, and with Skipped no copy was wanted when the table's capture began. A table that is
// Uncaptured is copied anew when it is captured again, all others when somebody asks for it.
const (
	Waiting    State = "waiting"
	Copying    State = "copying"
	Paused     State = "paused"
	Done       State = "done"
	Cancelled  State = "cancelled"
	Skipped    State = "skipped"
	Uncaptured State = "uncaptured"
)

// States are all of them.
func States() []State { return []State{Waiting, Copying, Paused, Done, Cancelled, Skipped, Uncaptured} }

// Over says that nothing of the copy is left to do.
func (s State) Over() bool { return s != Waiting && s != Copying && s != Paused }

// Key is the value of a table's key, in the order of its columns: as the server sent it, so that it can be compared with
// what it sends later, and given back to it.
type Key []decode.Datum

// keyJSON is one column of a key: t for its text form, r where that is no UTF-8 (of a database in SQL_ASCII), b for the binary one.
type keyJSON struct {
	Text   *string `json:"t,omitempty"`
	Raw    []byte  `json:"r,omitempty"`
	Binary []byte  `json:"b,omitempty"`
}

// MarshalJSON implements [json.Marshaler].
func (k Key) MarshalJSON() ([]byte, error) {
	out := make([]keyJSON, len(k))
	for i, d := range k {
		switch d.Kind {
		case decode.Text:
			if !utf8.Valid(d.Data) {
				out[i].Raw = d.Data
				continue
			}
			s := string(d.Data)
			out[i].Text = &s
		case decode.Binary:
			out[i].Binary = d.Data
			if len(d.Data) == 0 {
				out[i].Binary = []byte{} // an empty text: neither field, see UnmarshalJSON
			}
		case decode.Null, decode.Unchanged:
			return nil, fmt.Errorf("column %d of a key has no value", i+1)
		}
	}
	return json.Marshal(out)
}

// UnmarshalJSON implements [json.Unmarshaler].
func (k *Key) UnmarshalJSON(b []byte) error {
	var in []keyJSON
	if err := json.Unmarshal(b, &in); err != nil {
		return err
	}
	*k = make(Key, len(in))
	for i, v := range in {
		switch {
		case v.Text != nil:
			(*k)[i] = decode.Datum{Kind: decode.Text, Data: []byte(*v.Text)}
		case v.Raw != nil:
			(*k)[i] = decode.Datum{Kind: decode.Text, Data: v.Raw}
		default:
			(*k)[i] = decode.Datum{Kind: decode.Binary, Data: v.Binary}
		}
	}
	return nil
}

// KeyOf is a copy of the key of a row; columns are the places of the key's columns in it, in the key's order. It is nil when
// the row does not say its key.
func KeyOf(row decode.Tuple, columns []int) Key {
	k := make(Key, 0, len(columns))
	for _, c := range columns {
		if c >= len(row) || row[c].Kind == decode.Null || row[c].Kind == decode.Unchanged {
			return nil
		}
		k = append(k, decode.Datum{Kind: row[c].Kind, Data: slices.Clone(row[c].Data)})
	}
	return k
}

// Range is a piece of a table between two keys in the order of its index, which is read from one end to the other.
type Range struct {
	// Relation is the table that is read: of a partitioned table one of its leaves.
	Relation uint32 `json:"relation,omitempty"`
	After    Key    `json:"after,omitempty"` // exclusive; nil for the beginning
	To       Key    `json:"to,omitempty"`    // inclusive; nil for the end
	At       Key    `json:"at,omitempty"`    // the last key placed; nil for none
	Done     bool   `json:"done,omitempty"`
}

// From is the key behind which reading goes on; nil for the beginning.
func (r *Range) From() Key {
	if r.At != nil {
		return r.At
	}
	return r.After
}

// Copy is what the checkpoint topic keeps of one table's copy.
type Copy struct {
	Relation   uint32 `json:"relation"` // OID of the table, the root of a partitioned one
	Schema     string `json:"schema"`
	Table      string `json:"table"`
	Generation uint32 `json:"generation"` // of this table's copies, from 1; in the id of each row; 0 before the first
	State      State  `json:"state"`
	// Columns of the key, with their types: a range of other columns says nothing.
	Columns []string `json:"columns,omitempty"`
	// Member is the OID of the table's entry in the publication, Published a hash of what it sends of the
	// table: another entry that sends the same says that the table was not published for a time.
	Member    uint32 `json:"member,omitempty"`
	Published string `json:"published,omitempty"`
	// Where is a condition in SQL that rows are held to; "" for all of them.
	Where  string  `json:"where,omitempty"`
	Ranges []Range `json:"ranges,omitempty"` // nil until the table has been looked at
	// Queue are keys that are read by themselves when the ranges are done: of rows that were moved to another key and whose
	// large values the stream did not bring.
	Queue []Key `json:"queue,omitempty"`
	Size  int64 `json:"size,omitempty"` // of the table in bytes when the copy was asked for
	// Rows that were placed, and the bytes of them that the server sent.
	Rows  int64 `json:"rows"`
	Bytes int64 `json:"bytes"`
	// Left out, because the stream had newer ones.
	Newer    int64     `json:"newer,omitempty"`
	Asked    time.Time `json:"asked"`
	Started  time.Time `json:"started,omitzero"`
	Finished time.Time `json:"finished,omitzero"`
}

// RangesDone says that every range has been placed to its end.
func (c *Copy) RangesDone() bool {
	return c.Ranges != nil && !slices.ContainsFunc(c.Ranges, func(r Range) bool { return !r.Done })
}
