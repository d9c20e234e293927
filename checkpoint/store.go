package checkpoint

import (
	"bytes"
	"cmp"
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"
)

// State is what the topic holds, folded.
type State struct {
	Checkpoint *Checkpoint // nil when there is none: a first start
	Session    *Session    // the newest
	Text       *Text       // nil until text mode was ever asked for
	// Relations by OID, each one's versions by rising start.
	Relations map[uint32][]*Relation
	// Moved by the topic that a table's name gives.
	Moved map[string]*Moved
	// Levels are to be restored in the registry, by subject; "" for none of its own.
	Levels map[string]string
	// Copies by OID of the table.
	Copies map[uint32]*Copy
}

// TextMode says whether the stream must be read as text.
func (s *State) TextMode() bool { return s.Text != nil && s.Text.On }

// Relation returns the version of the table that is in force for a change at this position: the one with the greatest
// start that is not after it; nil if there is none.
func (s *State) Relation(oid uint32, at Position) *Relation {
	versions := s.Relations[oid]
	i, found := find(versions, at)
	if found {
		return versions[i]
	}
	if i == 0 {
		return nil
	}
	return versions[i-1]
}

// Remember adds a version that the running session saves, in place of one with the same start.
func (s *State) Remember(r *Relation) {
	versions := s.Relations[r.OID]
	if i, found := find(versions, r.Start); found {
		versions[i] = r
	} else {
		versions = slices.Insert(versions, i, r)
	}
	if s.Relations == nil {
		s.Relations = make(map[uint32][]*Relation)
	}
	s.Relations[r.OID] = versions
}

// Number returns the number of the topic that a table's events go to at this position: 1 for the one that its name gives.
func (s *State) Number(topic string, at Position) int {
	n := 1
	if m := s.Moved[topic]; m != nil {
		for _, v := range m.Moves {
			if v.Start.Compare(at) <= 0 {
				n = v.Number
			}
		}
	}
	return n
}

// Move adds a move that the running session makes, in place of those at or after it. The caller saves what it returns.
func (s *State) Move(topic string, v Move) *Moved {
	next := &Moved{Topic: topic}
	if old := s.Moved[topic]; old != nil {
		for _, o := range old.Moves {
			if o.Start.Compare(v.Start) < 0 {
				next.Moves = append(next.Moves, o)
			}
		}
	}
	next.Moves = append(next.Moves, v)
	s.keepMoved(next)
	return next
}

func (s *State) keepMoved(m *Moved) {
	if s.Moved == nil {
		s.Moved = map[string]*Moved{}
	}
	s.Moved[m.Topic] = m
}

func find(versions []*Relation, start Position) (int, bool) {
	return slices.BinarySearchFunc(versions, start, func(r *Relation, p Position) int { return r.Start.Compare(p) })
}

// Apply folds one committed record into s, in the order of offsets. It keeps neither key nor value. An unknown key is
// skipped, as the package comment says. Its error is a *FutureError or *MalformedError.
func (s *State) Apply(key, value []byte) error {
	switch {
	case string(key) == Key:
		return fold(&s.Checkpoint, value, DecodeCheckpoint)
	case string(key) == SessionKey:
		return fold(&s.Session, value, DecodeSession)
	case string(key) == TextKey:
		return fold(&s.Text, value, DecodeText)
	case bytes.HasPrefix(key, []byte(RelationPrefix)):
		return s.applyRelation(key, value)
	case bytes.HasPrefix(key, []byte(MovedPrefix)):
		return s.applyMoved(key, value)
	case bytes.HasPrefix(key, []byte(LevelPrefix)):
		return s.applyLevel(key, value)
	case bytes.HasPrefix(key, []byte(CopyPrefix)):
		return s.applyCopy(key, value)
	}
	return nil
}

func (s *State) applyCopy(key, value []byte) error {
	if value == nil {
		oid, err := decodeCopyKey(key)
		delete(s.Copies, oid)
		return err
	}
	c, err := DecodeCopy(key, value)
	if err != nil {
		return err
	}
	if s.Copies == nil {
		s.Copies = map[uint32]*Copy{}
	}
	s.Copies[c.OID] = c
	return nil
}

func (s *State) applyMoved(key, value []byte) error {
	if value == nil {
		delete(s.Moved, strings.TrimPrefix(string(key), MovedPrefix))
		return nil
	}
	m, err := DecodeMoved(key, value)
	if err == nil {
		s.keepMoved(m)
	}
	return err
}

func (s *State) applyLevel(key, value []byte) error {
	subject := strings.TrimPrefix(string(key), LevelPrefix)
	if value == nil {
		delete(s.Levels, subject)
		return nil
	}
	level, err := DecodeLevel(key, value)
	if err != nil {
		return err
	}
	if s.Levels == nil {
		s.Levels = map[string]string{}
	}
	s.Levels[subject] = level
	return nil
}

func fold[T any](into **T, value []byte, decode func([]byte) (*T, error)) error {
	if value == nil {
		*into = nil
		return nil
	}
	v, err := decode(value)
	if err != nil {
		return err
	}
	*into = v
	return nil
}

func (s *State) applyRelation(key, value []byte) error {
	if value != nil {
		r, err := DecodeRelation(key, value)
		if err != nil {
			return err
		}
		s.Remember(r)
		return nil
	}
	oid, start, err := decodeRelationKey(key)
	if err != nil {
		return &MalformedError{Key: string(key), Err: err}
	}
	i, found := find(s.Relations[oid], start)
	if !found {
		return nil
	}
	s.Relations[oid] = slices.Delete(s.Relations[oid], i, i+1)
	if len(s.Relations[oid]) == 0 {
		delete(s.Relations, oid)
	}
	return nil
}

// Superseded returns, by rising key, the relation versions that no replay can need any more: a later version of the same
// table was in force before the witness ended, and everything up to the witness is dropped whole. (The position would
// be too late a bound: the published part of a split transaction is decoded again.) The caller may write null values
// for them.
func (s *State) Superseded() []*Relation {
	if s.Checkpoint == nil {
		return nil
	}
	var old []*Relation
	for _, versions := range s.Relations {
		for i := 1; i < len(versions) && versions[i].Start.Commit <= s.Checkpoint.Witness.Commit; i++ {
			old = append(old, versions[i-1])
		}
	}
	slices.SortFunc(old, func(a, b *Relation) int { return cmp.Or(cmp.Compare(a.OID, b.OID), a.Start.Compare(b.Start)) })
	return old
}

// Replayer reads a topic from its beginning until the record at offset until has been passed, and calls fn with each
// record of a committed transaction in the order of offsets. key and value are valid during the call; a null value is nil.
// internal/kafka's Client does it, behind an adapter of a few lines.
type Replayer interface {
	Replay(ctx context.Context, topic string, partition int32, until int64, fn func(key, value []byte, offset int64) error) error
}

// Load reads the topic up to the session record at offset until, which the caller has committed just before. Of each key the
// newest record counts, and it alone has to be one that this program reads: whether compaction has come by makes no difference.
func Load(ctx context.Context, r Replayer, topic string, until int64) (*State, error) {
	s := new(State)
	bad := map[string]error{}
	err := r.Replay(ctx, topic, 0, until, func(key, value []byte, offset int64) error {
		delete(bad, string(key))
		if err := s.Apply(key, value); err != nil {
			bad[string(key)] = fmt.Errorf("offset %d: %w", offset, err)
		}
		return nil
	})
	if len(bad) > 0 && err == nil {
		err = bad[slices.Min(slices.Collect(maps.Keys(bad)))]
	}
	if err != nil {
		return nil, fmt.Errorf("read checkpoint topic %s: %w", topic, err)
	}
	return s, nil
}
