package decode_test

import (
	"bytes"
	"testing"

	"walferry/decode"

	"github.com/jackc/pglogrepl"
)

// compare checks a decoded message against what pglogrepl makes of it.
func compare(t testing.TB, d *decode.Decoder, msg []byte, e decode.Event) {
	t.Helper()
	m, err := pglogrepl.Parse(msg)
	if err != nil {
		t.Fatalf("pglogrepl refuses %x: %v", msg, err)
	}
	same := false
	switch m := m.(type) {
	case *pglogrepl.BeginMessage:
		e, ok := e.(*decode.Begin)
		same = ok && e.XID == m.Xid && e.Transaction.Commit == m.FinalLSN &&
			// pglogrepl counts nanoseconds, which overflow in 2262.
			(e.CommitTime.Equal(m.CommitTime) || e.CommitTime.Year() > 2200 || e.CommitTime.Year() < 1800)
	case *pglogrepl.CommitMessage:
		e, ok := e.(*decode.Commit)
		same = ok && e.Transaction.Commit == m.CommitLSN && e.End == m.TransactionEndLSN
	case *pglogrepl.RelationMessage:
		r := d.Relation(m.RelationID)
		same = e == nil && r != nil && (r.Schema == m.Namespace || m.Namespace == "" && r.Schema == "pg_catalog") &&
			r.Name == m.RelationName && byte(r.Identity) == m.ReplicaIdentity && len(r.Columns) == int(m.ColumnNum)
		for i := 0; same && i < len(r.Columns); i++ {
			c, n := r.Columns[i], m.Columns[i]
			same = c.Name == n.Name && c.Type == n.DataType && c.Mod == n.TypeModifier && c.Key == (n.Flags == 1)
		}
	case *pglogrepl.TypeMessage:
		schema, name, ok := d.TypeName(m.DataType)
		same = e == nil && ok && (schema == m.Namespace || m.Namespace == "" && schema == "pg_catalog") && name == m.Name
	case *pglogrepl.OriginMessage:
		same = e == nil
	case *pglogrepl.InsertMessage:
		e, ok := e.(*decode.Change)
		same = ok && e.Op == decode.Insert && e.Relation.ID == m.RelationID && e.OldKind == 0 && e.Old == nil && sameTuple(e.New, m.Tuple)
	case *pglogrepl.UpdateMessage:
		e, ok := e.(*decode.Change)
		same = ok && e.Op == decode.Update && e.Relation.ID == m.RelationID && e.OldKind == m.OldTupleType && sameTuple(e.Old, m.OldTuple) && sameTuple(e.New, m.NewTuple)
	case *pglogrepl.DeleteMessage:
		e, ok := e.(*decode.Change)
		same = ok && e.Op == decode.Delete && e.Relation.ID == m.RelationID && e.OldKind == m.OldTupleType && sameTuple(e.Old, m.OldTuple) && e.New == nil
	case *pglogrepl.TruncateMessage:
		e, ok := e.(*decode.Truncate)
		same = ok && len(e.Relations) == len(m.RelationIDs) && e.Cascade == (m.Option&pglogrepl.TruncateOptionCascade != 0) &&
			e.RestartIdentity == (m.Option&pglogrepl.TruncateOptionRestartIdentity != 0)
		for i := 0; same && i < len(e.Relations); i++ {
			same = e.Relations[i].ID == m.RelationIDs[i]
		}
	case *pglogrepl.LogicalDecodingMessage:
		e, ok := e.(*decode.Message)
		same = ok && e.Transactional == m.Transactional && e.LSN == m.LSN && e.Prefix == m.Prefix && bytes.Equal(e.Content, m.Content)
	default:
		t.Fatalf("pglogrepl makes %T of %x", m, msg)
	}
	if !same {
		t.Fatalf("%x: decode has %+v, pglogrepl %+v", msg, e, m)
	}
}

func sameTuple(a decode.Tuple, b *pglogrepl.TupleData) bool {
	if a == nil || b == nil {
		return a == nil && b == nil
	}
	if len(a) != len(b.Columns) {
		return false
	}
	for i, v := range a {
		if byte(v.Kind) != b.Columns[i].DataType || !bytes.Equal(v.Data, b.Columns[i].Data) {
			return false
		}
	}
	return true
}

// On every frame that a real server sent, decode and pglogrepl agree.
func TestAgainstPglogrepl(t *testing.T) {
	for path, frames := range captured(t) {
		d := decode.NewDecoder()
		for i, f := range frames {
			e, err := d.Decode(f.walStart, f.msg)
			if err != nil {
				t.Fatalf("%s, frame %d: %v", path, i, err)
			}
			compare(t, d, f.msg, e)
		}
	}
}
