package checkpoint

import (
	"bytes"
	"encoding/json"
	"errors"
	"math"
	"reflect"
	"strings"
	"testing"
	"time"
)

var at = time.Date(2026, 11, 21, 14, 30, 0, 123456000, time.UTC)

// live is a checkpoint in the steady state; edits make the variants.
func live(edits ...func(*Checkpoint)) *Checkpoint {
	c := &Checkpoint{
		Version: 1, SystemID: "7400000000000000001", Timeline: 3, Slot: "walferry", State: Live,
		Witness:  Witness{Commit: 0x5000, End: 0x5030, XID: 42, CommitTime: at},
		Position: Position{Commit: 0x5000, Change: 0x4f00, N: 2},
	}
	for _, edit := range edits {
		edit(c)
	}
	return c
}

func split(c *Checkpoint) {
	c.Position = Position{Commit: 0x7000, Change: 0x4e00, N: 1}
	c.Split = &Split{XID: 43, CommitTime: at.Add(time.Second), Part: 2}
}

func noWitness(c *Checkpoint) {
	c.Witness = Witness{}
	c.Position = Position{Commit: 0x5000}
}

func drained(c *Checkpoint) {
	c.State = Drained
	c.End = 0x5100
}

func TestCheckpointJSON(t *testing.T) {
	for _, c := range []struct {
		name string
		cp   *Checkpoint
		want string
	}{
		{"live", live(), `{"v":1,"system":"7400000000000000001","timeline":3,"slot":"walferry","state":"live",` +
			`"witness":{"commit":"0/5000","end":"0/5030","xid":42,"time":1795271400123456},"position":"0/5000,0/4F00,2"}`},
		{"creating", &Checkpoint{Version: 1, SystemID: "1", Slot: "s", State: Creating},
			`{"v":1,"system":"1","timeline":0,"slot":"s","state":"creating","position":"0/0,0/0,0"}`},
		{"first position", live(noWitness), `{"v":1,"system":"7400000000000000001","timeline":3,"slot":"walferry","state":"live","position":"0/5000,0/0,0"}`},
		{"split, copied", live(split, func(c *Checkpoint) { c.Copied, c.Copies = 2, true }),
			`{"v":1,"system":"7400000000000000001","timeline":3,"slot":"walferry","state":"live",` +
				`"witness":{"commit":"0/5000","end":"0/5030","xid":42,"time":1795271400123456},"position":"0/7000,0/4E00,1",` +
				`"split":{"xid":43,"time":1795271401123456,"part":2},"copied":2,"copies":true}`},
		{"drained", live(drained), `{"v":1,"system":"7400000000000000001","timeline":3,"slot":"walferry","state":"drained",` +
			`"witness":{"commit":"0/5000","end":"0/5030","xid":42,"time":1795271400123456},"position":"0/5000,0/4F00,2","end":"0/5100"}`},
	} {
		t.Run(c.name, func(t *testing.T) {
			got, err := AppendCheckpoint([]byte("before "), c.cp)
			if err != nil || string(got) != "before "+c.want {
				t.Fatalf("%v\n got %s\nwant %s", err, got, c.want)
			}
			back, err := DecodeCheckpoint([]byte(c.want))
			if err != nil || !reflect.DeepEqual(back, c.cp) || !back.Equal(c.cp) {
				t.Fatalf("%v\n got %+v\nwant %+v", err, back, c.cp)
			}
		})
	}
}

func TestCheckpointContradicts(t *testing.T) {
	for name, c := range map[string]*Checkpoint{
		"no system identifier":       live(func(c *Checkpoint) { c.SystemID = "" }),
		"no slot name":               live(func(c *Checkpoint) { c.Slot = "" }),
		"unknown state":              live(func(c *Checkpoint) { c.State = "" }),
		"witness without a commit":   live(noWitness, func(c *Checkpoint) { c.Witness.XID = 1 }),
		"witness ends at 0/5000":     live(func(c *Checkpoint) { c.Witness.End = 0x5000 }),
		"is not within one":          live(split, func(c *Checkpoint) { c.Position.Commit = 0x5000 }),
		"position 0/5000,0/0,0":      live(noWitness, split, func(c *Checkpoint) { c.Position = Position{Commit: 0x5000} }),
		"part 0":                     live(split, func(c *Checkpoint) { c.Split.Part = 0 }),
		"in no split transaction":    live(split, func(c *Checkpoint) { c.Split = nil }),
		"first position and witness": live(func(c *Checkpoint) { c.Position = Position{Commit: 0x6000} }),
		"drained within a split":     live(drained, split),
		"drained to 0/0":             live(drained, func(c *Checkpoint) { c.End = 0 }),
		"drained to 0/5001":          live(drained, func(c *Checkpoint) { c.End = 0x5001 }),
		"live with an end":           live(func(c *Checkpoint) { c.End = 0x5100 }),
	} {
		want := name
		switch name {
		case "first position and witness":
			want = "in no split transaction"
		case "live with an end":
			want = "state live with an end"
		}
		dst := []byte("kept")
		got, err := AppendCheckpoint(dst, c)
		if err == nil || !strings.Contains(err.Error(), want) || string(got) != "kept" {
			t.Errorf("%s: %s, %v", name, got, err)
		}
	}
}

func TestCheckpointEqual(t *testing.T) {
	full := func() *Checkpoint {
		return live(split, func(c *Checkpoint) { c.Copied = 1 })
	}
	other := full()
	other.Version = 0
	other.Witness.CommitTime = at.In(time.FixedZone("elsewhere", 3600))
	if !full().Equal(other) {
		t.Error("version and time zone are no progress")
	}
	for name, edit := range map[string]func(*Checkpoint){
		"system": func(c *Checkpoint) { c.SystemID = "2" }, "timeline": func(c *Checkpoint) { c.Timeline++ },
		"slot": func(c *Checkpoint) { c.Slot = "x" }, "state": func(c *Checkpoint) { c.State = Drained },
		"witness commit": func(c *Checkpoint) { c.Witness.Commit++ }, "witness end": func(c *Checkpoint) { c.Witness.End++ },
		"witness xid": func(c *Checkpoint) { c.Witness.XID++ }, "witness time": func(c *Checkpoint) { c.Witness.CommitTime = at.Add(1000) },
		"position": func(c *Checkpoint) { c.Position.N++ }, "no split": func(c *Checkpoint) { c.Split = nil },
		"split part": func(c *Checkpoint) { c.Split.Part++ }, "split xid": func(c *Checkpoint) { c.Split.XID++ },
		"split time": func(c *Checkpoint) { c.Split.CommitTime = at }, "end": func(c *Checkpoint) { c.End = 1 },
		"copied": func(c *Checkpoint) { c.Copied = 2 }, "copies": func(c *Checkpoint) { c.Copies = true },
	} {
		other := full()
		edit(other)
		if full().Equal(other) || other.Equal(full()) {
			t.Errorf("%s differs and is not seen", name)
		}
	}
	if live().Equal(live(split)) {
		t.Error("a split differs and is not seen")
	}
}

func TestPosition(t *testing.T) {
	ascending := []Position{{}, {Commit: 1}, {Commit: 1, Change: 1, N: 1}, {Commit: 1, Change: 1, N: 2}, {Commit: 1, Change: 2}, {Commit: 2, Change: 1}, {math.MaxUint64, math.MaxUint64, math.MaxUint32}}
	for i, p := range ascending {
		for j, q := range ascending {
			if got, want := p.Compare(q), min(1, max(-1, i-j)); got != want {
				t.Errorf("%s compared with %s is %d, want %d", p, q, got, want)
			}
		}
		var back Position
		if err := back.UnmarshalText([]byte(p.String())); err != nil || back != p {
			t.Errorf("%s comes back as %s: %v", p, back, err)
		}
	}
	for _, bad := range []string{"", "0/1,0/1", "0/1,0/1,1,1", "1,0/1,1", "0/1,x/1,1", "0/1 ,0/1,1", "0/100000000,0/1,1", "0/1,0/1,-1", "0/1,0/1,4294967296", "0/1/2,0/1,1"} {
		if err := new(Position).UnmarshalText([]byte(bad)); err == nil {
			t.Errorf("%q was read", bad)
		}
	}
}

func TestRecords(t *testing.T) {
	session := &Session{Instance: "6f1c", Host: "db1", PID: 17, Started: at, Program: "1.0"}
	b, err := AppendSession([]byte("x"), session)
	if err != nil || string(b) != `x{"v":1,"instance":"6f1c","host":"db1","pid":17,"started":1795271400123456,"program":"1.0"}` {
		t.Fatalf("%s, %v", b, err)
	}
	if got, err := DecodeSession(b[1:]); err != nil || !reflect.DeepEqual(got, session) {
		t.Errorf("%+v, %v", got, err)
	}
	if _, err := AppendSession(nil, &Session{}); err == nil {
		t.Error("a session without instance was written")
	}

	text := &Text{On: true, Reason: "public.t.c is of type ltree"}
	b, err = AppendText(nil, text)
	if err != nil || string(b) != `{"v":1,"on":true,"reason":"public.t.c is of type ltree"}` {
		t.Fatalf("%s, %v", b, err)
	}
	if got, err := DecodeText(b); err != nil || *got != *text {
		t.Errorf("%+v, %v", got, err)
	}

	relation := &Relation{OID: 16401, Start: Position{0x16B374D848, 0x16B374D000, 3}, Payload: json.RawMessage(`{"a":[1,2]}`)}
	key := AppendRelationKey(nil, relation)
	if string(key) != "relation/16401/00000016B374D848-00000016B374D000-00000003" {
		t.Error(string(key))
	}
	b, err = AppendRelation(nil, relation)
	if err != nil || string(b) != `{"v":1,"relation":16401,"start":"16/B374D848,16/B374D000,3","payload":{"a":[1,2]}}` {
		t.Fatalf("%s, %v", b, err)
	}
	if got, err := DecodeRelation(key, b); err != nil || !reflect.DeepEqual(got, relation) {
		t.Errorf("%+v, %v", got, err)
	}
	for _, payload := range []string{"", "{"} {
		if _, err := AppendRelation(nil, &Relation{Payload: json.RawMessage(payload)}); err == nil {
			t.Errorf("payload %q was written", payload)
		}
	}
	other := AppendRelationKey(nil, &Relation{OID: 16402, Start: relation.Start})
	malformed(t, "value of another relation", second(DecodeRelation(other, b)))
}

func second[T any](_ T, err error) error { return err }

func malformed(t *testing.T, what string, err error) {
	t.Helper()
	var m *MalformedError
	if !errors.As(err, &m) || m.Hint() == "" || m.Unwrap() == nil {
		t.Errorf("%s: %v", what, err)
	}
}

func TestDecodeRefuses(t *testing.T) {
	key := "relation/7/0000000000000001-0000000000000001-00000001"
	good := map[string]string{
		Key:        `{"v":1,"system":"1","slot":"s","state":"live","position":"0/5000,0/0,0"}`,
		SessionKey: `{"v":1,"instance":"a","started":1}`,
		TextKey:    `{"v":1,"on":true}`,
		key:        `{"v":1,"relation":7,"start":"0/1,0/1,1","payload":{}}`,
	}
	for k, value := range good {
		if err := new(State).Apply([]byte(k), []byte(value)); err != nil {
			t.Fatalf("%s: %v", k, err)
		}
		// Fields that a later program of the same format adds are skipped.
		if err := new(State).Apply([]byte(k), []byte(strings.Replace(value, `{"v":1`, `{"later":{"v":9},"v":1`, 1))); err != nil {
			t.Errorf("%s with an unknown field: %v", k, err)
		}
		// A later format is refused for what it is, however little of the rest makes sense to us.
		var future *FutureError
		err := new(State).Apply([]byte(k), []byte(`{"v":2,"state":{},"on":7,"payload":null}`))
		if !errors.As(err, &future) || *future != (FutureError{Key: k, Version: 2, Known: Version}) || future.Hint() == "" {
			t.Errorf("%s of a later format: %v", k, err)
		}
		for _, bad := range []string{"", "{", "[]", "null", "7", `{}`, `{"v":0}`, `{"v":-1}`, `{"v":"1"}`, value + "x", strings.Replace(value, `"v":1,`, "", 1)} {
			malformed(t, k+" "+bad, new(State).Apply([]byte(k), []byte(bad)))
		}
	}
	for _, bad := range []string{
		`{"v":1,"system":"","slot":"s","state":"live","position":"0/5000,0/0,0"}`,
		`{"v":1,"system":"1","slot":"s","state":"alive","position":"0/5000,0/0,0"}`,
		`{"v":1,"system":"1","slot":"s","state":"live","position":"0/5000"}`,
		`{"v":1,"system":"1","slot":"s","state":"live","position":"0/5000,0/1,1"}`,
		`{"v":1,"system":"1","slot":"s","state":"live","position":"0/0,0/0,0","witness":{"commit":"0/0","end":"0/1"}}`,
		`{"v":1,"system":"1","slot":"s","state":"live","position":"0/0,0/0,0","witness":{"commit":"0/2","end":"0/1"}}`,
		`{"v":1,"system":"1","slot":"s","state":"live","position":"0/0,0/0,0","witness":{"commit":"2","end":"0/3"}}`,
		`{"v":1,"system":"1","slot":"s","state":"live","position":"0/9,0/1,1","split":{"xid":1,"time":1.5,"part":1}}`,
		`{"v":1,"system":"1","slot":"s","state":"live","position":"0/9,0/1,1","split":{"xid":1,"time":1,"part":0}}`,
	} {
		malformed(t, bad, second(DecodeCheckpoint([]byte(bad))))
	}
	for _, bad := range []string{"relation/", "relation/7", "relation/7/1-1-1", "relation/07/" + key[11:], strings.ToLower("relation/7/00000000000000AB-0000000000000001-00000001"), "relation/x/" + key[11:], key + "-1", key + "0"} {
		malformed(t, bad, new(State).Apply([]byte(bad), []byte(good[key])))
		malformed(t, bad+" removed", new(State).Apply([]byte(bad), nil))
	}
	malformed(t, "null payload", new(State).Apply([]byte(key), []byte(`{"v":1,"relation":7,"start":"0/1,0/1,1","payload":null}`)))
	malformed(t, "no instance", new(State).Apply([]byte(SessionKey), []byte(`{"v":1,"started":1}`)))
}

// FuzzApply: whatever a record holds, it is refused with a typed error or read; what was read is written as something
// that reads the same, and the null value of its key removes it.
func FuzzApply(f *testing.F) {
	for _, c := range []*Checkpoint{live(), live(split), live(noWitness), live(drained)} {
		b, err := AppendCheckpoint(nil, c)
		if err != nil {
			f.Fatal(err)
		}
		f.Add([]byte(Key), b)
	}
	f.Add([]byte(SessionKey), []byte(`{"v":1,"instance":"a","host":"h","pid":1,"started":1,"program":"p"}`))
	f.Add([]byte(TextKey), []byte(`{"v":1,"on":true,"reason":"r"}`))
	f.Add([]byte("relation/7/0000000000000001-0000000000000001-00000001"), []byte(`{"v":1,"relation":7,"start":"0/1,0/1,1","payload":{"a":1}}`))
	f.Add([]byte("other"), []byte("x"))
	f.Fuzz(func(t *testing.T, key, value []byte) {
		if value == nil {
			value = []byte{}
		}
		var s State
		if err := s.Apply(key, value); err != nil {
			var future *FutureError
			var malformed *MalformedError
			if !errors.As(err, &future) && !errors.As(err, &malformed) {
				t.Fatalf("untyped error %v", err)
			}
			if !reflect.DeepEqual(s, State{}) {
				t.Fatalf("%v, but the state is %+v", err, s)
			}
			return
		}
		var again []byte
		var err error
		switch {
		case s.Checkpoint != nil:
			again, err = AppendCheckpoint(nil, s.Checkpoint)
		case s.Session != nil:
			again, err = AppendSession(nil, s.Session)
		case s.Text != nil:
			again, err = AppendText(nil, s.Text)
		case len(s.Relations) > 0:
			for oid, versions := range s.Relations {
				if len(versions) != 1 || versions[0].OID != oid || !bytes.Equal(AppendRelationKey(nil, versions[0]), key) {
					t.Fatalf("%s makes %+v", key, versions)
				}
				again, err = AppendRelation(nil, versions[0])
			}
		default:
			return
		}
		if err != nil {
			t.Fatalf("%+v was read and cannot be written: %v", s, err)
		}
		var back State
		if err := back.Apply(key, again); err != nil {
			t.Fatalf("%s: %v", again, err)
		}
		var twice []byte
		if back.Checkpoint != nil {
			if !back.Checkpoint.Equal(s.Checkpoint) {
				t.Fatalf("%+v comes back as %+v", s.Checkpoint, back.Checkpoint)
			}
			if twice, err = AppendCheckpoint(nil, back.Checkpoint); err != nil || !bytes.Equal(twice, again) {
				t.Fatalf("%s, then %s, %v", again, twice, err)
			}
		}
		if err := s.Apply(key, nil); err != nil || s.Checkpoint != nil || s.Session != nil || s.Text != nil || len(s.Relations) != 0 {
			t.Fatalf("after removal: %+v, %v", s, err)
		}
	})
}

func BenchmarkAppendCheckpoint(b *testing.B) {
	c := live(split)
	var dst []byte
	b.ReportAllocs()
	for b.Loop() {
		var err error
		if dst, err = AppendCheckpoint(dst[:0], c); err != nil {
			b.Fatal(err)
		}
	}
}
