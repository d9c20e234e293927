package schema

import (
	"encoding/binary"
	"fmt"
	"slices"

	"walferry/decode"
)

// Encoder appends keys and values of one relation version in the registry's wire format. It keeps scratch space, so
// it is not safe for concurrent use; any number of encoders can be made from one Table.
type Encoder struct {
	table      *Table
	key, value [WireSize]byte
	envelope   envelopePlan
	row        bool
	scratch    scratch
	missing    []int // fields of the row just written that were not sent; indexes of Table.fields
}

// scratch is space that value functions use again from row to row.
type scratch struct {
	words []uint64 // a magnitude, least significant word first
	buf   []byte   // unescaped parts of a text, used as a stack
	used  int      // bytes of its text that the last part took, see part
}

// Encoder compiles the plan for the ids under which Key and Value are registered. keyID is not used where the table
// has no key.
func (t *Table) Encoder(keyID, valueID int32) (*Encoder, error) {
	if keyID < 0 || valueID < 0 {
		return nil, fmt.Errorf("table %s: schema ids %d and %d: an id is not negative", t.Relation, keyID, valueID)
	}
	e := &Encoder{table: t, envelope: newEnvelopePlan(t), row: t.opt.Envelope == EnvelopeRow}
	AppendWire(e.key[:0], keyID)
	AppendWire(e.value[:0], valueID)
	return e, nil
}

// Table is the table that e encodes.
func (e *Encoder) Table() *Table { return e.table }

// AppendKey appends the record key of a change, from the old tuple if old is set and from the new one otherwise. dst
// comes back as it was where the table has no key. It costs no allocation beyond what dst needs to grow. On an error,
// a *ValueError or one that says how the tuple does not fit the relation, dst comes back as it was.
//
// The key has changed if an update carries an old tuple and the keys of old and new differ in a byte.
func (e *Encoder) AppendKey(dst []byte, c *decode.Change, old bool) ([]byte, error) {
	if len(e.table.keys) == 0 {
		return dst, nil
	}
	row, rest := c.New, c.Old
	if old {
		row, rest = c.Old, nil
	}
	if err := e.check(row, "row"); err != nil {
		return dst, err
	}
	out := append(dst, e.key[:]...)
	for i := range e.table.keys {
		var err error
		if out, _, err = e.appendField(out, &e.table.keys[i], row, rest, c.OldKind); err != nil {
			return dst, err
		}
	}
	return out, nil
}

// AppendValue appends the record value of a change. op is Debezium's: c, u, d or r; m goes into the Debezium
// envelope. There before is the old tuple of a u or d, if the server sent one (of kind K: key columns, all else
// null; see also Options.UpdateBefore), and after the new one of any but a d. In the row envelope the value is the new row, and a d is ErrNoValue.
//
// A field whose value the server did not send (unchanged TOAST) is taken from the old row where that has it;
// otherwise it is null, or the placeholder by choice, and named in the field unavailable, or by Unchanged. It costs no allocation beyond what dst
// needs to grow. On an error dst comes back as it was.
func (e *Encoder) AppendValue(dst []byte, c *decode.Change, op byte, m *Meta) ([]byte, error) {
	switch op {
	case 'c', 'u', 'd', 'r':
	case 't':
		return e.AppendTruncate(dst, m)
	default:
		return dst, fmt.Errorf("table %s: operation %q: it is c, u, d, r or t", e.table.Relation, op)
	}
	out := append(dst, e.value[:]...)
	var err error
	if e.row {
		if op == 'd' {
			return dst, ErrNoValue
		}
		if out, err = e.appendRow(out, c.New, c.Old, c.OldKind); err != nil {
			return dst, err
		}
		return out, nil
	}
	if op == 'd' || op == 'u' && c.Old != nil {
		if out, err = e.appendRow(append(out, branchSecond), c.Old, nil, decode.OldNone); err != nil {
			return dst, err
		}
		if len(e.missing) > 0 {
			// The server flattens old tuples (ExtractReplicaIdentity), and unavailable speaks of after only.
			f := &e.table.fields[e.missing[0]]
			return dst, e.fault(f, &fault{reason: "the old row lacks a value", remedy: ""})
		}
	} else if op == 'u' && e.table.opt.UpdateBefore == BeforeKey {
		// An update without an old row has left the identity as it was.
		if out, err = e.appendIdentity(append(out, branchSecond), c.New); err != nil {
			return dst, err
		}
	} else {
		out = append(out, branchFirst)
	}
	e.missing = e.missing[:0]
	if op == 'd' {
		out = append(out, branchFirst)
	} else if out, err = e.appendRow(append(out, branchSecond), c.New, c.Old, c.OldKind); err != nil {
		return dst, err
	}
	if op == 'r' {
		out = append(out, e.envelope.read(m)...)
	} else {
		out = e.envelope.appendSource(out, m)
		out = appendTail(out, op, m)
	}
	if len(e.missing) == 0 {
		return append(out, branchFirst), nil
	}
	out = append(out, branchSecond)
	out = appendLong(out, int64(len(e.missing)))
	for _, i := range e.missing {
		out = appendString(out, e.table.fields[i].name)
	}
	return append(out, 0), nil
}

// AppendTruncate appends the value of a truncate: op t, without before and after. In the row envelope it is
// ErrNoValue.
func (e *Encoder) AppendTruncate(dst []byte, m *Meta) ([]byte, error) {
	if e.row {
		return dst, ErrNoValue
	}
	dst = append(dst, e.value[:]...)
	dst = append(dst, branchFirst, branchFirst)
	dst = e.envelope.appendSource(dst, m)
	dst = appendTail(dst, 't', m)
	return append(dst, branchFirst), nil
}

// Unchanged appends the names of the fields of the new row that the server did not send and no old row has; what the
// Debezium envelope lists in unavailable.
func (e *Encoder) Unchanged(dst []string, c *decode.Change) []string {
	for i := range e.table.fields {
		f := &e.table.fields[i]
		if f.unsent(c) {
			dst = append(dst, f.name)
		}
	}
	return dst
}

// inOld says whether an old tuple of that kind holds the column's value.
func (f *field) inOld(old decode.Tuple, kind byte) bool {
	if f.column >= len(old) || old[f.column].Kind == decode.Unchanged {
		return false
	}
	return kind == decode.OldRow || kind == decode.OldKey && f.identity
}

func (e *Encoder) check(row decode.Tuple, what string) error {
	if len(row) != len(e.table.Relation.Columns) {
		return fmt.Errorf("table %s: a %s of %d columns, but the relation has %d", e.table.Relation, what, len(row),
			len(e.table.Relation.Columns))
	}
	return nil
}

// appendRow appends the value record. rest is the old tuple, for what row lacks. What neither has is in e.missing.
func (e *Encoder) appendRow(dst []byte, row, rest decode.Tuple, restKind byte) ([]byte, error) {
	e.missing = e.missing[:0]
	if err := e.check(row, "row"); err != nil {
		return dst, err
	}
	for i := range e.table.fields {
		var missing bool
		var err error
		if dst, missing, err = e.appendField(dst, &e.table.fields[i], row, rest, restKind); err != nil {
			return dst, err
		}
		if missing {
			e.missing = append(e.missing, i)
		}
	}
	return dst, nil
}

// appendIdentity appends the value record with the columns of the replica identity only.
func (e *Encoder) appendIdentity(dst []byte, row decode.Tuple) ([]byte, error) {
	if err := e.check(row, "row"); err != nil {
		return dst, err
	}
	for i := range e.table.fields {
		f := &e.table.fields[i]
		if !f.identity {
			dst = append(dst, branchFirst)
			continue
		}
		var err error
		if dst, _, err = e.appendField(dst, f, row, nil, decode.OldNone); err != nil {
			return dst, err
		}
	}
	return dst, nil
}

func (e *Encoder) appendField(dst []byte, f *field, row, rest decode.Tuple, restKind byte) (_ []byte, missing bool, err error) {
	d := &row[f.column]
	if d.Kind == decode.Unchanged {
		if f.inOld(rest, restKind) {
			d = &rest[f.column]
		} else if f.placeholder != nil {
			return append(append(dst, branchSecond), f.placeholder...), true, nil
		} else if f.nullable {
			return append(dst, branchFirst), true, nil
		} else {
			return dst, false, e.fault(f, &fault{reason: "the server did not send a value of the key"})
		}
	}
	switch d.Kind {
	case decode.Null:
		if !f.nullable {
			return dst, false, e.fault(f, &fault{reason: "null in a column of the key"})
		}
		return append(dst, branchFirst), false, nil
	case decode.Binary:
		if f.typ.bin == nil {
			return dst, false, e.needsText(f)
		}
		dst = room(dst, d.Data)
		if f.nullable {
			dst = append(dst, branchSecond)
		}
		dst, err = f.typ.bin(&e.scratch, f.typ, dst, d.Data)
	case decode.Text:
		dst = room(dst, d.Data)
		if f.nullable {
			dst = append(dst, branchSecond)
		}
		dst, err = f.typ.text(&e.scratch, f.typ, dst, d.Data)
	default:
		err = &fault{reason: fmt.Sprintf("a value of unknown kind %s", d.Kind)}
	}
	if err != nil {
		return dst, false, e.fault(f, err)
	}
	return dst, false, nil
}

// room makes place for a large value and for what comes behind it. Growing step by step would hold it two or three times.
func room(dst, value []byte) []byte {
	if len(value) < largeValue {
		return dst
	}
	return slices.Grow(dst, len(value)+largeValue)
}

const largeValue = 1 << 20

func (e *Encoder) fault(f *field, err error) error {
	v := &ValueError{
		Table: e.table.Relation.String(), Column: e.table.Relation.Columns[f.column].Name, Type: f.typ.name, Reason: err.Error(),
	}
	if ft, ok := err.(*fault); ok {
		v.Remedy, v.Stale = ft.remedy, ft.stale
	}
	return v
}

func (e *Encoder) needsText(f *field) error {
	v := e.fault(f, &fault{
		reason: "the binary form of this type is not known",
		remedy: "the stream has to be started again in text mode",
	}).(*ValueError)
	v.NeedsText = true
	return v
}

// appendLong appends an Avro int or long.
func appendLong(dst []byte, v int64) []byte { return binary.AppendVarint(dst, v) }

func appendString(dst []byte, s string) []byte {
	return append(appendLong(dst, int64(len(s))), s...)
}

// prefixLength turns what was appended since start into an Avro string or bytes, by moving it behind its length.
func prefixLength(dst []byte, start int) []byte {
	n := len(dst) - start
	var head [binary.MaxVarintLen64]byte
	h := binary.PutVarint(head[:], int64(n))
	dst = append(dst, head[:h]...) // makes room; what it holds is overwritten
	copy(dst[start+h:], dst[start:start+n])
	copy(dst[start:], head[:h])
	return dst
}
