package source

import "testing"

func TestVisible(t *testing.T) {
	for _, x := range []struct {
		xid      uint32
		snapshot string
		want     bool
	}{
		{9, "10:10:", true}, {10, "10:10:", false}, {11, "10:10:", false}, {12, "10:20:10,12", false}, {13, "10:20:10,12", true},
		{9, "4294967306:4294967306:", true}, {10, "4294967306:4294967306:", false}, // the second epoch
		{4294967295, "4294967306:4294967306:", true}, {4294967295, "4294967290:4294967306:4294967295", false}, // from the one before
		{2, "4294967290:4294967295:", false}, // of the next
	} {
		if got, err := visible(x.xid, x.snapshot); got != x.want || err != nil {
			t.Errorf("%d in %s: %t, %v", x.xid, x.snapshot, got, err)
		}
	}
	for _, bad := range []string{"", "1:2", "1:x:", "1:20:3,x"} {
		if _, err := visible(5, bad); err == nil {
			t.Errorf("%q is taken for a snapshot", bad)
		}
	}
}
