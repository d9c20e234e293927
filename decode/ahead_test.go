package decode_test

import (
	"testing"

	"walferry/decode"
)

// TestAhead: what is found in messages before their turn, and where rows behind them may be of another version.
func TestAhead(t *testing.T) {
	wider := *users
	wider.Columns = append(wider.Columns[:len(wider.Columns):len(wider.Columns)], decode.Column{Name: "more", Type: 25, Mod: -1})
	other := *users
	other.ID++
	tx := begun(9, 0x1000)
	update := changeMsg(decode.Update, users.ID, 'K', adaKey, ada)
	for _, x := range []struct {
		name                 string
		msg                  []byte
		update, begins, more bool
	}{
		{"an update", update, true, false, true},
		{"an update of another table", changeMsg(decode.Update, other.ID, 'K', adaKey, ada), false, false, true},
		{"an insert", changeMsg(decode.Insert, users.ID, 0, nil, ada), false, false, true},
		{"the relation again", relationMsg(users), false, false, true},
		{"another version of it", relationMsg(&wider), false, false, false},
		{"another relation", relationMsg(&other), false, false, true},
		{"a begin", beginMsg(tx), false, true, true},
		{"a commit", commitMsg(tx), false, false, true},
		{"half an update", update[:len(update)-3], false, false, false},
		{"an update of more columns", changeMsg(decode.Update, users.ID, 0, nil, append(ada[:len(ada):len(ada)], decode.Datum{Kind: decode.Null})), false, false, false},
		{"half a relation", relationMsg(users)[:9], false, false, false},
		{"nothing", nil, false, false, true},
	} {
		var a decode.Ahead
		got, begin, more := a.Update(users, x.msg)
		if (got != nil) != x.update || (begin != nil) != x.begins || more != x.more {
			t.Errorf("%s: %+v, %v, %t", x.name, got, begin, more)
		}
		if got != nil && (got.Op != decode.Update || got.Relation != users || got.OldKind != decode.OldKey || !sameRow(got.Old, adaKey) || !sameRow(got.New, ada)) {
			t.Errorf("%s: %+v", x.name, got)
		}
		if begin != nil && begin.XID != tx.XID {
			t.Errorf("%s: %+v", x.name, begin)
		}
	}
}
