package checkpoint

import (
	"context"
	"encoding/json"
	"errors"
	"slices"
	"strings"
	"testing"
)

// topic is a compacted topic in memory. Like the real one it may use its buffers again after each call.
type topic struct {
	t       *testing.T
	records [][2][]byte
	err     error
}

func (r *topic) add(key string, value []byte) {
	r.records = append(r.records, [2][]byte{[]byte(key), value})
}

func (r *topic) Replay(_ context.Context, name string, partition int32, until int64, fn func(key, value []byte, offset int64) error) error {
	if name != "walferry.checkpoint" || partition != 0 {
		r.t.Errorf("replay of %s/%d", name, partition)
	}
	for i, rec := range r.records {
		if int64(i) > until {
			break
		}
		key, value := slices.Clone(rec[0]), slices.Clone(rec[1])
		if err := fn(key, value, int64(i)); err != nil {
			return err
		}
		clear(key)
		clear(value)
	}
	return r.err
}

func TestLoad(t *testing.T) {
	r := &topic{t: t}
	checkpoint := func(c *Checkpoint) {
		t.Helper()
		b, err := AppendCheckpoint(nil, c)
		if err != nil {
			t.Fatal(err)
		}
		r.add(Key, b)
	}
	relation := func(oid uint32, start Position, payload string) {
		t.Helper()
		rel := &Relation{OID: oid, Start: start, Payload: json.RawMessage(payload)}
		b, err := AppendRelation(nil, rel)
		if err != nil {
			t.Fatal(err)
		}
		r.add(string(AppendRelationKey(nil, rel)), b)
	}
	load := func() *State {
		t.Helper()
		s, err := Load(t.Context(), r, "walferry.checkpoint", int64(len(r.records)-1))
		if err != nil {
			t.Fatal(err)
		}
		return s
	}
	if s := load(); s.Checkpoint != nil || s.Session != nil || s.TextMode() || s.Relation(7, Position{Commit: 1}) != nil || s.Superseded() != nil {
		t.Errorf("an empty topic is %+v", s)
	}

	checkpoint(live(noWitness))
	relation(7, Position{0x3000, 0x2000, 1}, `"third"`)
	relation(7, Position{0x1000, 0x900, 1}, `"first"`)
	relation(7, Position{0x2000, 0x800, 2}, `"other"`)
	relation(8, Position{0x9000, 0x8000, 1}, `"eight"`)
	relation(7, Position{0x2000, 0x800, 2}, `"second"`)
	r.add(TextKey, []byte(`{"v":1,"on":true,"reason":"ltree"}`))
	r.add("from-a-later-program", []byte{0xff})
	checkpoint(live())
	r.add(SessionKey, []byte(`{"v":1,"instance":"mine","started":0}`))
	s := load()
	if !s.Checkpoint.Equal(live()) || s.Session.Instance != "mine" || !s.TextMode() || s.Text.Reason != "ltree" {
		t.Errorf("%+v", s)
	}
	for _, c := range []struct {
		oid  uint32
		at   Position
		want string
	}{
		{7, Position{0x1000, 0x8ff, 9}, ""},
		{7, Position{0x1000, 0x900, 1}, `"first"`},
		{7, Position{0x2000, 0x800, 1}, `"first"`},
		{7, Position{0x2000, 0x800, 2}, `"second"`},
		{7, Position{0x2fff, 0xffff, 2}, `"second"`},
		{7, Position{0x3000, 0x2000, 1}, `"third"`},
		{7, Position{0x9000, 0x1, 1}, `"third"`},
		{8, Position{0x3000, 0x2000, 1}, ""},
		{9, Position{0x3000, 0x2000, 1}, ""},
	} {
		got := ""
		if rel := s.Relation(c.oid, c.at); rel != nil {
			got = string(rel.Payload)
		}
		if got != c.want {
			t.Errorf("relation %d at %s is %s, want %s", c.oid, c.at, got, c.want)
		}
	}

	// Topics that tables moved to, and levels that are to be restored.
	moved := func(m *Moved) {
		t.Helper()
		b, err := AppendMoved(nil, m)
		if err != nil {
			t.Fatal(err)
		}
		r.add(MovedPrefix+m.Topic, b)
	}
	moved(s.Move("shop.orders", Move{Start: Position{0x1000, 0x900, 1}, Number: 2}))
	moved(s.Move("shop.orders", Move{Start: Position{0x3000, 0x900, 1}, Number: 3}))
	moved(s.Move("shop.orders", Move{Start: Position{0x2000, 0x900, 1}, Number: 4})) // in place of what was after it
	moved(s.Move("shop.gone", Move{Start: Position{0x2000, 0x900, 1}, Number: 2}))
	r.add(MovedPrefix+"shop.gone", nil)
	for subject, level := range map[string]string{"a-value": "FULL", "b-value": "", "c-value": "FULL"} {
		b, err := AppendLevel(nil, level)
		if err != nil {
			t.Fatal(err)
		}
		r.add(LevelPrefix+subject, b)
	}
	r.add(LevelPrefix+"c-value", nil)
	s = load()
	for at, want := range map[Position]int{{0x1000, 0x8ff, 9}: 1, {0x1000, 0x900, 1}: 2, {0x2000, 0x8ff, 1}: 2, {0x2000, 0x900, 1}: 4, {0x9000, 1, 1}: 4} {
		if n := s.Number("shop.orders", at); n != want {
			t.Errorf("topic %d at %s, want %d", n, at, want)
		}
	}
	if n := s.Number("shop.gone", Position{0x9000, 1, 1}); n != 1 || MovedTopic("x", n) != "x" || MovedTopic("x", 2) != "x.v2" {
		t.Errorf("a topic that was not moved has number %d", n)
	}
	if level, ok := s.Levels["b-value"]; len(s.Levels) != 2 || s.Levels["a-value"] != "FULL" || !ok || level != "" {
		t.Errorf("levels %v", s.Levels)
	}
	for _, bad := range []string{`{"v":1,"moves":[{"start":"0/1,0/1,1","number":1}]}`, `{"v":1,"moves":[{"start":"0/1,0/1,1","number":2},{"start":"0/1,0/1,1","number":3}]}`, `{}`} {
		if _, err := DecodeMoved([]byte(MovedPrefix+"x"), []byte(bad)); err == nil {
			t.Errorf("%s is accepted", bad)
		}
	}

	// Superseded versions: those that ended before the witness, and no others.
	var old []string
	for _, rel := range s.Superseded() {
		old = append(old, string(rel.Payload))
		r.add(string(AppendRelationKey(nil, rel)), nil)
	}
	if got := strings.Join(old, " "); got != `"first" "second"` {
		t.Errorf("superseded: %s", got)
	}
	s = load()
	if len(s.Relations[7]) != 1 || string(s.Relation(7, Position{0x3000, 0x2000, 1}).Payload) != `"third"` || s.Superseded() != nil {
		t.Errorf("after removal: %+v", s.Relations[7])
	}
	relation(7, Position{0x7000, 0x4000, 1}, `"in the split"`)
	checkpoint(live(split))
	if old := load().Superseded(); old != nil {
		t.Errorf("a version that the published part of a split transaction is decoded with again: %+v", old)
	}

	// Not past until.
	if s, err := Load(t.Context(), r, "walferry.checkpoint", 0); err != nil || s.Session != nil || !s.Checkpoint.Equal(live(noWitness)) {
		t.Errorf("up to the first record: %+v, %v", s, err)
	}
	// Removed records are gone.
	r.add(Key, nil)
	r.add(TextKey, nil)
	r.add(SessionKey, nil)
	if s := load(); s.Checkpoint != nil || s.TextMode() || s.Session != nil {
		t.Errorf("after removal: %+v", s)
	}
}

func TestLoadErrors(t *testing.T) {
	r := &topic{t: t}
	r.add(TextKey, []byte(`{"v":1,"on":true}`))
	r.add(Key, []byte(`{"v":7}`))
	_, err := Load(t.Context(), r, "walferry.checkpoint", 9)
	var future *FutureError
	if !errors.As(err, &future) || !strings.Contains(err.Error(), "offset 1") {
		t.Error(err)
	}
	// Overwritten, it is of no more interest than after compaction.
	r.add(Key, []byte(`nonsense`))
	var malformed *MalformedError
	if _, err := Load(t.Context(), r, "walferry.checkpoint", 9); !errors.As(err, &malformed) || !strings.Contains(err.Error(), "offset 2") {
		t.Error(err)
	}
	r.add(Key, nil)
	if s, err := Load(t.Context(), r, "walferry.checkpoint", 9); err != nil || s.Checkpoint != nil || !s.TextMode() {
		t.Errorf("%+v, %v", s, err)
	}
	gone := errors.New("broker is gone")
	if _, err := Load(t.Context(), &topic{t: t, err: gone}, "walferry.checkpoint", 9); !errors.Is(err, gone) {
		t.Error(err)
	}
}
