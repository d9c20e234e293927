package decode_test

import (
	"bytes"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"
	"unsafe"

	"walferry/decode"

	"github.com/jackc/pglogrepl"
)

// Encoders for the messages of protocol version 1, written from the protocol's page and not from the decoder.

func u16(b []byte, v uint16) []byte { return binary.BigEndian.AppendUint16(b, v) }
func u32(b []byte, v uint32) []byte { return binary.BigEndian.AppendUint32(b, v) }
func u64(b []byte, v uint64) []byte { return binary.BigEndian.AppendUint64(b, v) }
func str(b []byte, s string) []byte { return append(append(b, s...), 0) }
func flag1(b []byte, on bool, bit byte) []byte {
	if on {
		return append(b, bit)
	}
	return append(b, 0)
}

func pgTime(t time.Time) uint64 { return uint64(t.UnixMicro() - 946_684_800_000_000) }

func beginMsg(t decode.Transaction) []byte {
	return u32(u64(u64([]byte{'B'}, uint64(t.Commit)), pgTime(t.CommitTime)), t.XID)
}

func commitMsg(t decode.Transaction) []byte {
	return u64(u64(u64([]byte{'C', 0}, uint64(t.Commit)), uint64(t.End)), pgTime(t.CommitTime))
}

func relationMsg(r *decode.Relation) []byte {
	schema := r.Schema
	if schema == "pg_catalog" {
		schema = ""
	}
	b := str(str(u32([]byte{'R'}, r.ID), schema), r.Name)
	b = u16(append(b, byte(r.Identity)), uint16(len(r.Columns)))
	for _, c := range r.Columns {
		b = u32(u32(str(flag1(b, c.Key, 1), c.Name), c.Type), uint32(c.Mod))
	}
	return b
}

func appendTuple(b []byte, t decode.Tuple) []byte {
	b = u16(b, uint16(len(t)))
	for _, v := range t {
		b = append(b, byte(v.Kind))
		if v.Kind == decode.Text || v.Kind == decode.Binary {
			b = append(u32(b, uint32(len(v.Data))), v.Data...)
		}
	}
	return b
}

func changeMsg(op decode.Op, id uint32, oldKind byte, before, after decode.Tuple) []byte {
	b := u32([]byte{byte(op)}, id)
	if oldKind != decode.OldNone {
		b = appendTuple(append(b, oldKind), before)
	}
	if op != decode.Delete {
		b = appendTuple(append(b, 'N'), after)
	}
	return b
}

func truncateMsg(options byte, ids ...uint32) []byte {
	b := append(u32([]byte{'T'}, uint32(len(ids))), options)
	for _, id := range ids {
		b = u32(b, id)
	}
	return b
}

func messageMsg(m *decode.Message) []byte {
	b := str(u64(flag1([]byte{'M'}, m.Transactional, 1), uint64(m.LSN)), m.Prefix)
	return append(u32(b, uint32(len(m.Content))), m.Content...)
}

// encode is the inverse of Decode.
func encode(e decode.Event) []byte {
	switch e := e.(type) {
	case *decode.Begin:
		return beginMsg(e.Transaction)
	case *decode.Commit:
		return commitMsg(e.Transaction)
	case *decode.Message:
		return messageMsg(e)
	case *decode.Change:
		return changeMsg(e.Op, e.Relation.ID, e.OldKind, e.Old, e.New)
	case *decode.Truncate:
		var ids []uint32
		for _, r := range e.Relations {
			ids = append(ids, r.ID)
		}
		var options byte
		if e.Cascade {
			options |= 1
		}
		if e.RestartIdentity {
			options |= 2
		}
		return truncateMsg(options, ids...)
	}
	panic(fmt.Sprintf("no such event: %T", e))
}

var (
	at      = time.Date(2026, 11, 21, 14, 30, 0, 123456000, time.UTC)
	users   = &decode.Relation{ID: 7, Schema: "public", Name: "users", Identity: decode.IdentityDefault, Columns: []decode.Column{{Name: "id", Type: 20, Mod: -1, Key: true}, {Name: "name", Type: 25, Mod: -1}}}
	orders  = &decode.Relation{ID: 8, Schema: "pg_catalog", Name: "orders", Identity: decode.IdentityFull, Columns: []decode.Column{{Name: "id", Type: 20, Mod: -1, Key: true}}}
	ada     = decode.Tuple{{Kind: decode.Binary, Data: []byte{0, 0, 0, 0, 0, 0, 0, 1}}, {Kind: decode.Text, Data: []byte("ada")}}
	adaKey  = decode.Tuple{ada[0], {Kind: decode.Null}}
	adaSame = decode.Tuple{ada[0], {Kind: decode.Unchanged}}
)

func begun(xid uint32, commit pglogrepl.LSN) decode.Transaction {
	return decode.Transaction{XID: xid, Commit: commit, End: commit + 0x30, CommitTime: at}
}

// feed decodes messages, each at its own LSN, and fails on an error.
func feed(t testing.TB, d *decode.Decoder, frames ...frame) decode.Event {
	t.Helper()
	var last decode.Event
	for i, f := range frames {
		e, err := d.Decode(f.walStart, f.msg)
		if err != nil {
			t.Fatalf("message %d: %v", i, err)
		}
		last = e
	}
	return last
}

func TestMessages(t *testing.T) {
	tx := begun(42, 0x1000)
	open := []frame{{0, relationMsg(users)}, {0, relationMsg(orders)}, {0x900, beginMsg(tx)}}
	first := decode.Position{Commit: 0x1000, Change: 0x910, N: 1}
	noEnd := tx
	noEnd.End = 0
	for _, c := range []struct {
		name string
		msg  []byte
		want decode.Event
	}{
		{"insert", changeMsg(decode.Insert, 7, 0, nil, ada), &decode.Change{Op: decode.Insert, Relation: users, New: ada, Position: first, Ordinal: 1}},
		{"insert empty value", changeMsg(decode.Insert, 7, 0, nil, decode.Tuple{ada[0], {Kind: decode.Text, Data: []byte{}}}),
			&decode.Change{Op: decode.Insert, Relation: users, New: decode.Tuple{ada[0], {Kind: decode.Text, Data: []byte{}}}, Position: first, Ordinal: 1}},
		{"update", changeMsg(decode.Update, 7, 0, nil, adaSame), &decode.Change{Op: decode.Update, Relation: users, New: adaSame, Position: first, Ordinal: 1}},
		{"update of the key", changeMsg(decode.Update, 7, 'K', adaKey, ada), &decode.Change{Op: decode.Update, Relation: users, OldKind: decode.OldKey, Old: adaKey, New: ada, Position: first, Ordinal: 1}},
		{"update, full", changeMsg(decode.Update, 8, 'O', ada[:1], ada[:1]), &decode.Change{Op: decode.Update, Relation: orders, OldKind: decode.OldRow, Old: ada[:1], New: ada[:1], Position: first, Ordinal: 1}},
		{"delete", changeMsg(decode.Delete, 7, 'K', adaKey, nil), &decode.Change{Op: decode.Delete, Relation: users, OldKind: decode.OldKey, Old: adaKey, Position: first, Ordinal: 1}},
		{"delete, full", changeMsg(decode.Delete, 8, 'O', ada[:1], nil), &decode.Change{Op: decode.Delete, Relation: orders, OldKind: decode.OldRow, Old: ada[:1], Position: first, Ordinal: 1}},
		{"truncate", truncateMsg(0, 7), &decode.Truncate{Relations: []*decode.Relation{users}, Position: first, Ordinal: 1}},
		{"truncate two", truncateMsg(3, 8, 7), &decode.Truncate{Relations: []*decode.Relation{orders, users}, Cascade: true, RestartIdentity: true, Position: first, Ordinal: 1}},
		{"message", messageMsg(&decode.Message{Transactional: true, LSN: 0x908, Prefix: "p\xff", Content: []byte("c\x00")}), &decode.Message{Transactional: true, LSN: 0x908, Prefix: "p\xff", Content: []byte("c\x00")}},
		{"message, not transactional", messageMsg(&decode.Message{LSN: 1, Content: []byte{}}), &decode.Message{LSN: 1, Content: []byte{}}},
		{"commit", commitMsg(tx), &decode.Commit{Transaction: tx}},
		{"relation", relationMsg(users), nil},
		{"type", str(str(u32([]byte{'Y'}, 99), "s"), "n"), nil},
		{"origin", str(u64([]byte{'O'}, 5), "elsewhere"), nil},
	} {
		t.Run(c.name, func(t *testing.T) {
			d := decode.NewDecoder()
			if got := feed(t, d, open...); !reflect.DeepEqual(got, &decode.Begin{Transaction: noEnd}) {
				t.Errorf("begin is %+v", got)
			}
			got := feed(t, d, frame{0x910, c.msg})
			if !reflect.DeepEqual(got, c.want) && (got != nil || c.want != nil) {
				t.Errorf("\n got %+v\nwant %+v", got, c.want)
			}
			// Every shorter message is refused, and so is a longer one.
			for n := range c.msg {
				refused(t, open, c.msg[:n])
			}
			refused(t, open, append(slices.Clone(c.msg), 0))
		})
	}
}

func refused(t *testing.T, open []frame, msg []byte) {
	t.Helper()
	d := decode.NewDecoder()
	feed(t, d, open...)
	e, err := d.Decode(0x910, msg)
	var malformed *decode.MalformedError
	if !errors.As(err, &malformed) || e != nil {
		t.Fatalf("%x: event %v, error %v", msg, e, err)
	}
	if malformed.Offset > len(msg) || malformed.LSN != 0x910 || malformed.Reason == "" {
		t.Fatalf("%x: %+v", msg, malformed)
	}
}

func TestMalformed(t *testing.T) {
	tx := begun(42, 0x1000)
	insert := func(tail ...byte) []byte { return append([]byte{'I', 0, 0, 0, 7}, tail...) }
	for _, c := range []struct {
		name, reason string
		offset       int
		msg          []byte
	}{
		{"empty", "message ends too early", 0, nil},
		{"unknown type", "unknown message type", 0, []byte("zz")},
		{"negative length", "negative length", 9, insert('N', 0, 2, 'b', 0xff, 0xff, 0xff, 0xff, 'n')},
		{"length past the end", "message ends too early", 13, insert('N', 0, 2, 'b', 0x7f, 0xff, 0xff, 0xff, 'n')},
		{"unknown kind", "unknown kind of column value", 8, insert('N', 0, 2, 'x', 'n')},
		{"fewer columns than the relation", "number of columns differs from the relation's", 6, insert('N', 0, 1, 'n')},
		{"negative columns", "negative number of columns", 6, insert('N', 0xff, 0xff)},
		{"insert with a key", "unexpected kind of tuple", 5, insert('K', 0, 2, 'n', 'n')},
		{"update with two old tuples", "unexpected kind of tuple", 10, append([]byte{'U', 0, 0, 0, 7}, 'K', 0, 2, 'n', 'n', 'K', 0, 2, 'n', 'n')},
		{"delete with a new tuple", "unexpected kind of tuple", 5, append([]byte{'D', 0, 0, 0, 7}, 'N', 0, 2, 'n', 'n')},
		{"truncate of too many", "number of relations does not fit the length", 6, append([]byte{'T', 0xff, 0xff, 0xff, 0xff, 0}, 0, 0, 0, 7)},
		{"truncate option", "unknown flag", 5, truncateMsg(4, 7)},
		{"message flag", "unknown flag", 1, append([]byte{'M', 2}, make([]byte, 13)...)},
		{"commit flag", "unknown flag", 1, append([]byte{'C', 1}, commitMsg(tx)[2:]...)},
		{"commit without length", "end LSN is not above commit LSN", 18, commitMsg(decode.Transaction{Commit: 5, End: 5, CommitTime: at})},
		{"time", "time out of range", 9, u32(u64(u64([]byte{'B'}, 0x2000), math.MaxInt64), 1)},
		{"identity", "unknown replica identity", 9, append(str(str(u32([]byte{'R'}, 1), "a"), "b"), 'x', 0, 0)},
		{"name", "name is not UTF-8", 7, append(str(str(u32([]byte{'R'}, 1), "a"), "\xff"), 'd', 0, 0)},
		{"schema", "name is not UTF-8", 5, str(str(u32([]byte{'Y'}, 1), "\xff"), "t")},
		{"too many columns", "number of columns does not fit the length", 12, append(str(str(u32([]byte{'R'}, 1), "a"), "b"), 'd', 0x7f, 0xff, 0)},
		{"column flag", "unknown flag", 12, append(append(str(str(u32([]byte{'R'}, 1), "a"), "b"), 'd', 0, 1, 2), make([]byte, 9)...)},
	} {
		t.Run(c.name, func(t *testing.T) {
			d := decode.NewDecoder()
			feed(t, d, frame{0, relationMsg(users)}, frame{0, beginMsg(tx)})
			e, err := d.Decode(0x16B374D848, c.msg)
			var malformed *decode.MalformedError
			if !errors.As(err, &malformed) || e != nil {
				t.Fatalf("event %v, error %v", e, err)
			}
			want := decode.MalformedError{Offset: c.offset, Reason: c.reason, LSN: 0x16B374D848}
			if len(c.msg) > 0 {
				want.Message = c.msg[0]
			}
			if *malformed != want {
				t.Errorf("got %+v, want %+v", *malformed, want)
			}
			if !strings.Contains(err.Error(), "16/B374D848") || !strings.Contains(err.Error(), c.reason) {
				t.Errorf("error does not name place and reason: %v", err)
			}
			// The stream is over, whatever comes.
			if _, again := d.Decode(0x920, changeMsg(decode.Insert, 7, 0, nil, ada)); again != err {
				t.Errorf("after an error: %v", again)
			}
		})
	}
}

func TestOrder(t *testing.T) {
	insert := changeMsg(decode.Insert, 7, 0, nil, ada)
	one, two := begun(1, 0x1000), begun(2, 0x2000)
	mismatch := one
	mismatch.Commit++
	later := one
	later.CommitTime = at.Add(time.Second)
	described := frame{0, relationMsg(users)}
	for _, c := range []struct {
		name   string
		before []frame
		last   frame
		reason string
	}{
		{"row outside", []frame{described}, frame{0x910, insert}, "outside a transaction"},
		{"row after commit", []frame{described, {0, beginMsg(one)}, {0, commitMsg(one)}}, frame{0x910, insert}, "outside a transaction"},
		{"truncate outside", []frame{described}, frame{0x910, truncateMsg(0, 7)}, "outside a transaction"},
		{"message outside", nil, frame{0x910, messageMsg(&decode.Message{Transactional: true})}, "transactional message outside a transaction"},
		{"nested begin", []frame{{0, beginMsg(one)}}, frame{0, beginMsg(two)}, "transaction 2 begins inside transaction 1"},
		{"commit outside", nil, frame{0, commitMsg(one)}, "commit at 0/1000 outside a transaction"},
		{"commit of another", []frame{{0, beginMsg(one)}}, frame{0, commitMsg(mismatch)}, "commit at 0/1001, but transaction 1 began with commit LSN 0/1000"},
		{"commit at another time", []frame{{0, beginMsg(one)}}, frame{0, commitMsg(later)}, "commit time 2026-11-21T14:30:01.123456Z of transaction 1 differs from 2026-11-21T14:30:00.123456Z at its begin"},
		{"commit LSN falls", []frame{{0, beginMsg(two)}, {0, commitMsg(two)}}, frame{0, beginMsg(one)}, "commit LSN 0/1000 of transaction 1 is not above 0/2000 of the one before"},
		{"commit LSN repeated", []frame{{0, beginMsg(one)}, {0, commitMsg(one)}}, frame{0, beginMsg(one)}, "commit LSN 0/1000 of transaction 1 is not above 0/1000 of the one before"},
		{"commit LSN zero", nil, frame{0, beginMsg(begun(1, 0))}, "commit LSN 0/0 of transaction 1 is not above 0/0 of the one before"},
		{"change LSN falls", []frame{described, {0, beginMsg(one)}, {0x910, insert}}, frame{0x90f, insert}, "change LSN falls below 0/910 within transaction 1"},
		{"change LSN falls at truncate", []frame{described, {0, beginMsg(one)}, {0x910, insert}}, frame{0x90f, truncateMsg(0, 7)}, "change LSN falls below 0/910 within transaction 1"},
		{"unknown relation", []frame{{0, beginMsg(one)}}, frame{0x910, insert}, "relation 7 was not described before"},
		{"truncate of an unknown relation", []frame{described, {0, beginMsg(one)}}, frame{0x910, truncateMsg(0, 7, 9)}, "relation 9 was not described before"},
	} {
		t.Run(c.name, func(t *testing.T) {
			d := decode.NewDecoder()
			feed(t, d, c.before...)
			e, err := d.Decode(c.last.walStart, c.last.msg)
			var order *decode.OrderError
			if !errors.As(err, &order) || e != nil {
				t.Fatalf("event %v, error %v", e, err)
			}
			if want := (decode.OrderError{Message: c.last.msg[0], Reason: c.reason, LSN: c.last.walStart}); *order != want {
				t.Errorf("got %+v, want %+v", *order, want)
			}
			if _, again := d.Decode(0, beginMsg(begun(9, 0x9000))); again != err {
				t.Errorf("after an error: %v", again)
			}
		})
	}
}

func TestUnsupported(t *testing.T) {
	// https://www.postgresql.org/docs/current/protocol-logicalrep-message-formats.html, "Since protocol version 2" and 3.
	for _, kind := range []byte("SEcAbPKrp") {
		_, err := decode.NewDecoder().Decode(5, []byte{kind, 0, 0})
		var unsupported *decode.UnsupportedError
		if !errors.As(err, &unsupported) || *unsupported != (decode.UnsupportedError{Message: kind, LSN: 5}) {
			t.Errorf("%c: %v", kind, err)
		}
	}
}

// N starts again with each change LSN and each transaction; the ordinal with each transaction; neither counts anything
// but rows and truncates, whether or not someone wants them.
func TestPosition(t *testing.T) {
	d := decode.NewDecoder()
	insert, truncate := changeMsg(decode.Insert, 7, 0, nil, ada), truncateMsg(0, 7, 8)
	message := messageMsg(&decode.Message{Transactional: true, LSN: 0x920})
	one, two := begun(1, 0x1000), begun(2, 0x2000)
	feed(t, d, frame{0, relationMsg(users)}, frame{0, relationMsg(orders)})
	for i, step := range []struct {
		frame
		want    decode.Position
		ordinal uint64
	}{
		{frame{0x900, beginMsg(one)}, decode.Position{}, 0},
		{frame{0x910, insert}, decode.Position{Commit: 0x1000, Change: 0x910, N: 1}, 1},
		{frame{0x910, insert}, decode.Position{Commit: 0x1000, Change: 0x910, N: 2}, 2},
		{frame{0x910, message}, decode.Position{}, 0},
		{frame{0, relationMsg(users)}, decode.Position{}, 0},
		{frame{0x910, truncate}, decode.Position{Commit: 0x1000, Change: 0x910, N: 3}, 3},
		{frame{0x920, truncate}, decode.Position{Commit: 0x1000, Change: 0x920, N: 1}, 4},
		{frame{0x920, insert}, decode.Position{Commit: 0x1000, Change: 0x920, N: 2}, 5},
		{frame{0x1030, commitMsg(one)}, decode.Position{}, 0},
		{frame{0x800, beginMsg(two)}, decode.Position{}, 0},
		// The transaction that commits later may have written first.
		{frame{0x800, insert}, decode.Position{Commit: 0x2000, Change: 0x800, N: 1}, 1},
		{frame{0x920, insert}, decode.Position{Commit: 0x2000, Change: 0x920, N: 1}, 2},
		{frame{0x2030, commitMsg(two)}, decode.Position{}, 0},
	} {
		var got decode.Position
		var ordinal uint64
		switch e := feed(t, d, step.frame).(type) {
		case *decode.Change:
			got, ordinal = e.Position, e.Ordinal
		case *decode.Truncate:
			got, ordinal = e.Position, e.Ordinal
		}
		if got != step.want || ordinal != step.ordinal {
			t.Errorf("step %d: %s ordinal %d, want %s ordinal %d", i, got, ordinal, step.want, step.ordinal)
		}
	}
}

func TestPositionCompare(t *testing.T) {
	ascending := []decode.Position{
		{}, {Commit: 1}, {Commit: 1, Change: 1}, {Commit: 1, Change: 1, N: 1}, {Commit: 1, Change: 1, N: 2},
		{Commit: 1, Change: 2, N: 1}, {Commit: 2, Change: 1, N: 1}, {Commit: math.MaxUint64},
	}
	for i, p := range ascending {
		for j, q := range ascending {
			if got, want := p.Compare(q), min(1, max(-1, i-j)); got != want {
				t.Errorf("%s compared with %s is %d, want %d", p, q, got, want)
			}
		}
		if p.IsZero() != (i == 0) {
			t.Errorf("%s: IsZero is %t", p, p.IsZero())
		}
	}
	if got := (decode.Position{Commit: 0x16B374D848, Change: 0x16B374D000, N: 3}).String(); got != "16/B374D848,16/B374D000,3" {
		t.Error(got)
	}
}

// A Relation message makes a version only when a row uses it and it differs.
func TestRelationVersions(t *testing.T) {
	d := decode.NewDecoder()
	other := *users
	other.Columns = slices.Clone(users.Columns)
	other.Columns[1].Mod = 24
	row := frame{0x910, changeMsg(decode.Insert, 7, 0, nil, ada)}
	use := func() *decode.Relation {
		t.Helper()
		r := feed(t, d, row).(*decode.Change).Relation
		if d.Relation(7) != r {
			t.Error("Relation differs from the row's")
		}
		return r
	}
	announce := func(r *decode.Relation) { t.Helper(); feed(t, d, frame{0, relationMsg(r)}) }

	if d.Relation(7) != nil {
		t.Error("a relation before any was described")
	}
	announce(users)
	feed(t, d, frame{0, beginMsg(begun(1, 0x1000))})
	announced := d.Relation(7)
	announce(users)
	v1 := use()
	if v1 != announced || !reflect.DeepEqual(v1, users) {
		t.Errorf("first version %+v", v1)
	}
	announce(users)
	if use() != v1 {
		t.Error("a repeated relation made a version")
	}
	announce(&other)
	if d.Relation(7) == v1 {
		t.Error("Relation does not show what the next row will carry")
	}
	announce(users)
	if d.Relation(7) != v1 || use() != v1 {
		t.Error("a relation that no row used made a version")
	}
	announce(&other)
	v2 := use()
	if v2 == v1 || !reflect.DeepEqual(v2, &other) || !reflect.DeepEqual(v1, users) {
		t.Errorf("second version %+v, first %+v", v2, v1)
	}
	announce(users)
	feed(t, d, frame{0x910, truncateMsg(0, 7)})
	if v3 := use(); v3 == v1 || v3 == v2 || !reflect.DeepEqual(v3, users) {
		t.Errorf("third version %+v", v3)
	}

	for name, change := range map[string]func(*decode.Relation){
		"schema":       func(r *decode.Relation) { r.Schema = "x" },
		"name":         func(r *decode.Relation) { r.Name = "x" },
		"identity":     func(r *decode.Relation) { r.Identity = decode.IdentityIndex },
		"column name":  func(r *decode.Relation) { r.Columns[0].Name = "x" },
		"column type":  func(r *decode.Relation) { r.Columns[0].Type++ },
		"column mod":   func(r *decode.Relation) { r.Columns[0].Mod++ },
		"column key":   func(r *decode.Relation) { r.Columns[0].Key = false },
		"column order": func(r *decode.Relation) { slices.Reverse(r.Columns) },
	} {
		announce(users)
		before := use()
		next := *users
		next.Columns = slices.Clone(users.Columns)
		change(&next)
		announce(&next)
		if use() == before {
			t.Errorf("%s changed and made no version", name)
		}
	}
}

func TestTypeName(t *testing.T) {
	d := decode.NewDecoder()
	if _, _, ok := d.TypeName(9); ok {
		t.Error("a type before any was described")
	}
	feed(t, d, frame{0, str(str(u32([]byte{'Y'}, 9), "s"), "mood")}, frame{0, str(str(u32([]byte{'Y'}, 10), ""), "numeric")})
	for oid, want := range map[uint32][2]string{9: {"s", "mood"}, 10: {"pg_catalog", "numeric"}} {
		if schema, name, ok := d.TypeName(oid); !ok || schema != want[0] || name != want[1] {
			t.Errorf("%d: %s.%s %t", oid, schema, name, ok)
		}
	}
}

// Values are windows of the message with their capacity cut, and the message is left as it was.
func TestAliasing(t *testing.T) {
	d := decode.NewDecoder()
	msg := changeMsg(decode.Update, 7, 'K', adaKey, ada)
	before := bytes.Clone(msg)
	feed(t, d, frame{0, relationMsg(users)}, frame{0, beginMsg(begun(1, 0x1000))})
	c := feed(t, d, frame{0x910, msg}).(*decode.Change)
	within(t, msg, c.Old)
	within(t, msg, c.New)
	_ = append(c.New[0].Data, 0xff) // must not reach the neighbour
	if !bytes.Equal(msg, before) {
		t.Error("the message was changed")
	}
}

func within(t testing.TB, msg []byte, tuple decode.Tuple) {
	t.Helper()
	for i, v := range tuple {
		switch v.Kind {
		case decode.Text, decode.Binary:
			if v.Data == nil || cap(v.Data) != len(v.Data) {
				t.Fatalf("value %d: nil %t, length %d, capacity %d", i, v.Data == nil, len(v.Data), cap(v.Data))
			}
			first, start := uintptr(unsafe.Pointer(unsafe.SliceData(v.Data))), uintptr(unsafe.Pointer(unsafe.SliceData(msg)))
			if first < start || first+uintptr(len(v.Data)) > start+uintptr(len(msg)) {
				t.Fatalf("value %d lies outside its message", i)
			}
		case decode.Null, decode.Unchanged:
			if v.Data != nil {
				t.Fatalf("value %d is %s and has data", i, v.Kind)
			}
		default:
			t.Fatalf("value %d: %s", i, v.Kind)
		}
	}
}

func TestStrings(t *testing.T) {
	for got, want := range map[fmt.Stringer]string{
		decode.Insert: "insert", decode.Update: "update", decode.Delete: "delete", decode.Read: "read", decode.Op('?'): "Op('?')",
		decode.Null: "null", decode.Unchanged: "unchanged", decode.Text: "text", decode.Binary: "binary", decode.Kind('?'): "Kind('?')",
		decode.IdentityDefault: "default", decode.IdentityFull: "full", decode.IdentityIndex: "index", decode.IdentityNothing: "nothing",
		decode.Identity('?'): "Identity('?')", users: "public.users",
	} {
		if got.String() != want {
			t.Errorf("%q, want %q", got, want)
		}
	}
}

func TestRelationJSON(t *testing.T) {
	b, err := json.Marshal(users)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Contains(b, []byte(`"identity":"d"`)) {
		t.Errorf("identity is not a letter: %s", b)
	}
	var got decode.Relation
	if err := json.Unmarshal(b, &got); err != nil || !got.Equal(users) || got.Equal(orders) {
		t.Errorf("%v: got %+v, want %+v", err, got, users)
	}
	if _, err := json.Marshal(decode.Relation{Identity: 'x'}); err == nil {
		t.Error("an unknown identity was written")
	}
	for _, bad := range []string{`{"identity":"x"}`, `{"identity":"dd"}`, `{"identity":100}`} {
		if err := json.Unmarshal([]byte(bad), new(decode.Relation)); err == nil {
			t.Errorf("%s was read", bad)
		}
	}
}

func TestDescriptorJSON(t *testing.T) {
	want := decode.Descriptor{
		Relation: 7, Comment: "c", PrimaryKey: []string{"id"},
		Columns: []decode.ColumnFacts{{Name: "id", Comment: "x", NotNull: true, Default: "nextval('s')"}, {Name: "g", Generated: true}},
		Types: map[uint32]*decode.Type{
			9:  {OID: 9, Schema: "s", Name: "mood", Kind: 'e', Category: 'E', BaseMod: -1, Labels: []string{"sad", "ok"}, Delim: ',', HasBinary: true},
			10: {OID: 10, Schema: "s", Name: "_mood", Kind: 'b', Category: 'A', Elem: 9, Delim: ','},
			11: {OID: 11, Schema: "s", Name: "pos", Kind: 'd', Category: 'N', Base: 1700, BaseMod: 393221},
			12: {OID: 12, Schema: "s", Name: "hstore", Kind: 'b', Category: 'U', BaseMod: -1, Extension: "hstore", HasBinary: true},
		},
	}
	b, err := json.Marshal(want)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Contains(b, []byte(`"kind":"e"`)) {
		t.Errorf("kind is not a letter: %s", b)
	}
	var got decode.Descriptor
	if err := json.Unmarshal(b, &got); err != nil || !reflect.DeepEqual(got, want) {
		t.Errorf("%v\n got %+v\nwant %+v", err, got, want)
	}
	if _, err := json.Marshal(decode.Type{Kind: 0x80}); err == nil {
		t.Error("a code that JSON would change was written")
	}
	for _, bad := range []string{`{"kind":"be"}`, `{"delim":"é"}`, `{"oid":-1}`} {
		var typ decode.Type
		if err := json.Unmarshal([]byte(bad), &typ); err == nil {
			t.Errorf("%s was read as %+v", bad, typ)
		}
	}
}

// wideRow is a row like those of the orders table that the benchmarks of the whole use.
func wideRow() (*decode.Relation, []byte) {
	r := &decode.Relation{ID: 70, Schema: "public", Name: "orders", Identity: decode.IdentityDefault}
	var row decode.Tuple
	for i, size := range []int{8, 8, 7, 12, 100, 40, 60, 8, 8} {
		r.Columns = append(r.Columns, decode.Column{Name: fmt.Sprintf("c%d", i), Type: 25, Mod: -1, Key: i == 0})
		row = append(row, decode.Datum{Kind: decode.Binary, Data: make([]byte, size)})
	}
	return r, changeMsg(decode.Insert, r.ID, 0, nil, row)
}

func TestNoAllocationPerRow(t *testing.T) {
	r, insert := wideRow()
	row := decode.Tuple{}
	for range r.Columns {
		row = append(row, decode.Datum{Kind: decode.Text, Data: []byte("v")})
	}
	d := decode.NewDecoder()
	feed(t, d, frame{0, relationMsg(users)}, frame{0, relationMsg(orders)}, frame{0, relationMsg(r)})
	tx := begun(1, 0x1000)
	begin, commit := beginMsg(tx), commitMsg(tx)
	msgs := [][]byte{
		begin, insert, changeMsg(decode.Update, r.ID, 'O', row, row), changeMsg(decode.Delete, r.ID, 'K', row, nil),
		changeMsg(decode.Insert, 7, 0, nil, ada), truncateMsg(0, 7, 8, r.ID),
		messageMsg(&decode.Message{Transactional: true, Prefix: "walferry.heartbeat"}),
		commit,
	}
	next := tx.Commit
	allocs := testing.AllocsPerRun(1000, func() {
		// Transactions too: on Postgres 14 every empty one is sent.
		next += 0x100
		binary.BigEndian.PutUint64(begin[1:], uint64(next))
		binary.BigEndian.PutUint64(commit[2:], uint64(next))
		binary.BigEndian.PutUint64(commit[10:], uint64(next)+0x30)
		for _, msg := range msgs {
			if _, err := d.Decode(0x910, msg); err != nil {
				t.Fatal(err)
			}
		}
	})
	if allocs != 0 {
		t.Errorf("%v allocations a run", allocs)
	}
}

func BenchmarkDecodeInsert(b *testing.B) {
	r, msg := wideRow()
	d := decode.NewDecoder()
	feed(b, d, frame{0, relationMsg(r)}, frame{0, beginMsg(begun(1, math.MaxUint64))})
	b.SetBytes(int64(len(msg)))
	b.ReportAllocs()
	lsn := pglogrepl.LSN(0)
	for b.Loop() {
		lsn++
		if _, err := d.Decode(lsn, msg); err != nil {
			b.Fatal(err)
		}
	}
}
