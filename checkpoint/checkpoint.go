// Package checkpoint is the durable record of a pipeline's progress: what it says, how it is written, how it is read
// back, what a server must look like for the stream to go on from it, and which of the transactions that the server
// then sends again it already covers.
//
// It is pure but for Load, which reads through a small interface. It does not learn who writes a checkpoint or when;
// that it is written in the same Kafka transaction as the events it covers is what makes it true.
//
// # The topic
//
// A compacted topic with one partition for each pipeline. Every value is a JSON object with its format version in "v";
// LSNs are text as Postgres prints them ("16/B374D848"), positions are "<commit LSN>,<change LSN>,<n>", times are
// microseconds of Unix time. A null value removes what its key held.
//
//	checkpoint                                one record, written with every batch
//	    v, system, timeline, slot             whose WAL the LSNs are of
//	    state                                 creating | live | drained
//	    witness  {commit, end, xid, time}     last source transaction published whole; absent before the first
//	    position                              last published change; before the first one the place where the slot began,
//	                                          as "<LSN>,0/0,0"
//	    split    {xid, time, part}            present when position lies within a transaction of which only the first
//	                                          <part> parts are published; it is newer than the witness
//	    end                                   with state drained: what the slot was told for the move
//	    copied                                batches so far that brought rows of a first copy further
//	    copies                                true: each captured table has a copy record, so one without was not captured
//	                                          before; absent in what programs wrote that had no first copy
//	session                                   written at each start, so that reading up to it is reading everything
//	    v, instance, host, pid, started, program
//	text                                      v, on, reason: the stream is read in text mode from now on
//	relation/<OID>/<start>                    one version of a table, from the change at <start> on: its three parts as
//	    v, relation, start, payload           16, 16 and 8 hexadecimal digits joined by "-", so that keys sort in order
//	copy/<OID>                                how far the copy of a table's rows has come, written with the rows
//	    v, payload
//
// A reader refuses a version that it does not know (FutureError). A field or a key that it does not know it skips:
// whatever an older program must not ignore raises the version. Version 1 is the first.
package checkpoint

import (
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/jackc/pglogrepl"
)

// Version is the format that this program writes, and the newest that it reads.
const Version = 1

// Keys of the topic's records. Those of relations begin with RelationPrefix; AppendRelationKey makes them. A topic follows
// MovedPrefix, a subject LevelPrefix, a table's OID CopyPrefix.
const (
	Key            = "checkpoint"
	SessionKey     = "session"
	TextKey        = "text"
	RelationPrefix = "relation/"
	MovedPrefix    = "moved/"
	LevelPrefix    = "level/"
	CopyPrefix     = "copy/"
)

// Stage is how far a pipeline's life has come.
type Stage string

const (
	// Creating: the slot is being made and nothing was published, so a start drops the slot and begins again.
	Creating Stage = "creating"
	// Live: the slot streams, or did.
	Live Stage = "live"
	// Drained: all was published and the slot consumed for a planned move. Only from here may the system identifier change.
	Drained Stage = "drained"
)

// Position is the place of a change, compared part by part in this order. It is decode.Position's twin: this package
// knows progress, not rows.
type Position struct {
	Commit, Change pglogrepl.LSN
	N              uint32
}

// Compare returns -1, 0 or 1 as p is before, the same as, or after q.
func (p Position) Compare(q Position) int {
	return cmp.Or(cmp.Compare(p.Commit, q.Commit), cmp.Compare(p.Change, q.Change), cmp.Compare(p.N, q.N))
}

// String returns "16/B374D848,16/B374D000,3", which UnmarshalText reads.
func (p Position) String() string { return fmt.Sprintf("%s,%s,%d", p.Commit, p.Change, p.N) }

// first says that p is where the slot began: no change has a change LSN of zero.
func (p Position) first() bool { return p.Change == 0 && p.N == 0 }

// MarshalText implements encoding.TextMarshaler.
func (p Position) MarshalText() ([]byte, error) { return []byte(p.String()), nil }

// UnmarshalText implements encoding.TextUnmarshaler.
func (p *Position) UnmarshalText(b []byte) error {
	parts := strings.Split(string(b), ",")
	if len(parts) != 3 {
		return fmt.Errorf("position %q has not three parts", b)
	}
	commit, err := parseLSN(parts[0])
	if err != nil {
		return err
	}
	change, err := parseLSN(parts[1])
	if err != nil {
		return err
	}
	n, err := strconv.ParseUint(parts[2], 10, 32)
	if err != nil {
		return fmt.Errorf("position %q: %w", b, err)
	}
	*p = Position{Commit: commit, Change: change, N: uint32(n)}
	return nil
}

// parseLSN is strict where pglogrepl.ParseLSN, which scans, takes anything after the number.
func parseLSN(s string) (pglogrepl.LSN, error) {
	hi, lo, ok := strings.Cut(s, "/")
	h, herr := strconv.ParseUint(hi, 16, 32)
	l, lerr := strconv.ParseUint(lo, 16, 32)
	if !ok || herr != nil || lerr != nil {
		return 0, fmt.Errorf("%q is not an LSN", s)
	}
	return pglogrepl.LSN(h<<32 | l), nil
}

// Witness is the last source transaction that was published whole. The slot is told its commit LSN, never its end, so
// the server sends it again at every start and proves by it that its history is ours.
type Witness struct {
	Commit, End pglogrepl.LSN
	XID         uint32
	CommitTime  time.Time // to the microsecond
}

func (w Witness) equal(o Witness) bool {
	return w.Commit == o.Commit && w.End == o.End && w.XID == o.XID && w.CommitTime.Equal(o.CommitTime)
}

// Split is a source transaction larger than a batch, of which only the first parts are published.
type Split struct {
	XID        uint32
	CommitTime time.Time
	Part       int // parts published so far, at least 1
}

func (s *Split) equal(o *Split) bool {
	if s == nil || o == nil {
		return s == o
	}
	return s.XID == o.XID && s.Part == o.Part && s.CommitTime.Equal(o.CommitTime)
}

// Checkpoint is the progress of a pipeline.
type Checkpoint struct {
	// Version of the format it was read in. AppendCheckpoint writes Version whatever this says.
	Version  int
	SystemID string
	Timeline int32
	Slot     string
	State    Stage
	// Witness is zero before the first transaction was published whole.
	Witness Witness
	// Position of the last published change. It may be older than the witness, when the last transactions had no row of
	// ours, and newer: then Split is set. Before the first published change it is where the slot began, as a commit
	// LSN alone.
	Position Position
	// Split is set when Position lies within a transaction that is not published whole.
	Split *Split
	// End is set with Drained alone: the end of WAL that was confirmed to the slot, this once. All before it is published.
	End pglogrepl.LSN
	// Copied counts the batches that brought rows of a first copy further, so that two checkpoints of one position differ.
	Copied uint64
	// Copies says that each captured table has a copy record: a table without one has not been captured before.
	Copies bool
}

// Reach is the highest commit LSN that the checkpoint knows of. A server whose WAL ends before it is not the one that
// sent it.
func (c *Checkpoint) Reach() pglogrepl.LSN { return max(c.Witness.Commit, c.Position.Commit) }

// endsBefore says whether WAL that ends at end lacks something that c knows of.
func (c *Checkpoint) endsBefore(end pglogrepl.LSN) bool {
	if c.Witness.Commit == 0 && c.Position.first() {
		// Where the slot began is a boundary and no record: on an idle server the WAL ends just there.
		return end < c.Position.Commit || end < c.End
	}
	return end <= c.Reach() || end < c.End
}

// Equal says whether both record the same progress. It ignores Version: it is how a commit of unknown outcome is
// settled, by comparing what was written with what is read back.
func (c *Checkpoint) Equal(o *Checkpoint) bool {
	return c.SystemID == o.SystemID && c.Timeline == o.Timeline && c.Slot == o.Slot && c.State == o.State &&
		c.Witness.equal(o.Witness) && c.Position == o.Position && c.Split.equal(o.Split) && c.End == o.End &&
		c.Copied == o.Copied && c.Copies == o.Copies
}

// check says what of c contradicts itself. Nothing that fails it is written, and nothing read is believed that fails it.
func (c *Checkpoint) check() error {
	switch {
	case c.SystemID == "":
		return errors.New("no system identifier")
	case c.Slot == "":
		return errors.New("no slot name")
	case c.State != Creating && c.State != Live && c.State != Drained:
		return fmt.Errorf("unknown state %q", c.State)
	case c.Witness.Commit == 0 && !c.Witness.equal(Witness{}):
		return errors.New("witness without a commit LSN")
	case c.Witness.Commit != 0 && c.Witness.End <= c.Witness.Commit:
		return fmt.Errorf("witness ends at %s, not after its commit LSN %s", c.Witness.End, c.Witness.Commit)
	case c.Split != nil && (c.Position.Commit <= c.Witness.Commit || c.Position.first()):
		return fmt.Errorf("split transaction, but position %s is not within one after the witness at %s", c.Position, c.Witness.Commit)
	case c.Split != nil && c.Split.Part < 1:
		return fmt.Errorf("split transaction with part %d", c.Split.Part)
	case c.Split == nil && c.Position.Commit > c.Witness.Commit && (!c.Position.first() || c.Witness.Commit != 0):
		return fmt.Errorf("position %s lies after the witness at %s in no split transaction", c.Position, c.Witness.Commit)
	case c.State == Drained && c.Split != nil:
		return errors.New("drained within a split transaction")
	case c.State == Drained && (c.End < c.Witness.End || c.End < c.Position.Commit || c.End == 0):
		return fmt.Errorf("drained to %s, before what is published", c.End)
	case c.State != Drained && c.End != 0:
		return fmt.Errorf("state %s with an end, %s", c.State, c.End)
	}
	return nil
}

// Session is the record that a start commits before it reads the topic: reading up to it cannot be held back by
// others. The instance finds its own among what it read.
type Session struct {
	Instance string // random, different at each start
	Host     string
	PID      int
	Started  time.Time // to the microsecond
	Program  string    // walferry's version
}

// Text is the record of text mode: a column's binary form was not known, so a start first looks whether there is still one.
type Text struct {
	On     bool
	Reason string // for people: which column, which type
}

// Relation is one version of a table: the change at Start is the first that used it.
type Relation struct {
	OID   uint32
	Start Position
	// Payload is a JSON value that the pipeline writes and reads: descriptor, topic, schema ids.
	Payload json.RawMessage
}

// Copy is how far the copy of a table's rows has come.
type Copy struct {
	OID uint32
	// Payload is a JSON value that the pipeline writes and reads.
	Payload json.RawMessage
}

// Move says that a table's events go to another topic from the change at Start on.
type Move struct {
	Start  Position `json:"start"`
	Number int      `json:"number"` // of the topic, from 2
}

// Moved are the moves of one topic, by rising start.
type Moved struct {
	Topic string // the one that the table's name gives
	Moves []Move
}

// MovedTopic is the name of the topic with a number.
func MovedTopic(topic string, number int) string {
	if number < 2 {
		return topic
	}
	return topic + ".v" + strconv.Itoa(number)
}

// The records as JSON.
type (
	lsnText   pglogrepl.LSN
	microTime struct{ time.Time }

	versionJSON struct {
		V int `json:"v"`
	}
	checkpointJSON struct {
		V        int          `json:"v"`
		System   string       `json:"system"`
		Timeline int32        `json:"timeline"`
		Slot     string       `json:"slot"`
		State    Stage        `json:"state"`
		Witness  *witnessJSON `json:"witness,omitempty"`
		Position Position     `json:"position"`
		Split    *splitJSON   `json:"split,omitempty"`
		End      *lsnText     `json:"end,omitempty"`
		Copied   uint64       `json:"copied,omitempty"`
		Copies   bool         `json:"copies,omitempty"`
	}
	witnessJSON struct {
		Commit lsnText   `json:"commit"`
		End    lsnText   `json:"end"`
		XID    uint32    `json:"xid"`
		Time   microTime `json:"time"`
	}
	splitJSON struct {
		XID  uint32    `json:"xid"`
		Time microTime `json:"time"`
		Part int       `json:"part"`
	}
	sessionJSON struct {
		V        int       `json:"v"`
		Instance string    `json:"instance"`
		Host     string    `json:"host,omitempty"`
		PID      int       `json:"pid,omitempty"`
		Started  microTime `json:"started"`
		Program  string    `json:"program,omitempty"`
	}
	textJSON struct {
		V      int    `json:"v"`
		On     bool   `json:"on"`
		Reason string `json:"reason,omitempty"`
	}
	relationJSON struct {
		V        int             `json:"v"`
		Relation uint32          `json:"relation"`
		Start    Position        `json:"start"`
		Payload  json.RawMessage `json:"payload"`
	}
	movedJSON struct {
		V     int    `json:"v"`
		Moves []Move `json:"moves"`
	}
	copyJSON struct {
		V       int             `json:"v"`
		Payload json.RawMessage `json:"payload"`
	}
	levelJSON struct {
		V     int    `json:"v"`
		Level string `json:"level"`
	}
)

func (l lsnText) MarshalText() ([]byte, error) { return []byte(pglogrepl.LSN(l).String()), nil }

func (l *lsnText) UnmarshalText(b []byte) error {
	v, err := parseLSN(string(b))
	*l = lsnText(v)
	return err
}

func (t microTime) MarshalJSON() ([]byte, error) {
	return strconv.AppendInt(nil, t.UnixMicro(), 10), nil
}

func (t *microTime) UnmarshalJSON(b []byte) error {
	v, err := strconv.ParseInt(string(b), 10, 64)
	if err != nil {
		return fmt.Errorf("time: %w", err)
	}
	t.Time = time.UnixMicro(v).UTC()
	return nil
}

// AppendCheckpoint appends the value of record Key to dst; the caller owns the returned slice. It refuses a
// checkpoint that contradicts itself: that is a mistake of the caller, and writing it would stop every later start.
func AppendCheckpoint(dst []byte, c *Checkpoint) ([]byte, error) {
	if err := c.check(); err != nil {
		return dst, fmt.Errorf("checkpoint: %w", err)
	}
	j := checkpointJSON{
		V: Version, System: c.SystemID, Timeline: c.Timeline, Slot: c.Slot, State: c.State, Position: c.Position,
		Copied: c.Copied, Copies: c.Copies,
	}
	if w := c.Witness; w.Commit != 0 {
		j.Witness = &witnessJSON{Commit: lsnText(w.Commit), End: lsnText(w.End), XID: w.XID, Time: microTime{w.CommitTime}}
	}
	if s := c.Split; s != nil {
		j.Split = &splitJSON{XID: s.XID, Time: microTime{s.CommitTime}, Part: s.Part}
	}
	if c.End != 0 {
		j.End = (*lsnText)(&c.End)
	}
	return appendJSON(dst, j)
}

// AppendSession appends the value of record SessionKey to dst.
func AppendSession(dst []byte, s *Session) ([]byte, error) {
	if s.Instance == "" {
		return dst, errors.New("session: no instance")
	}
	return appendJSON(dst, sessionJSON{V: Version, Instance: s.Instance, Host: s.Host, PID: s.PID, Started: microTime{s.Started}, Program: s.Program})
}

// AppendText appends the value of record TextKey to dst.
func AppendText(dst []byte, t *Text) ([]byte, error) {
	return appendJSON(dst, textJSON{V: Version, On: t.On, Reason: t.Reason})
}

// AppendRelation appends the value of a relation's record to dst. It fails when Payload is not JSON.
func AppendRelation(dst []byte, r *Relation) ([]byte, error) {
	if len(r.Payload) == 0 {
		return dst, fmt.Errorf("relation %d: no payload", r.OID)
	}
	return appendJSON(dst, relationJSON{V: Version, Relation: r.OID, Start: r.Start, Payload: r.Payload})
}

// AppendMoved appends the value of a moved topic's record to dst.
func AppendMoved(dst []byte, m *Moved) ([]byte, error) {
	return appendJSON(dst, movedJSON{V: Version, Moves: m.Moves})
}

// AppendCopy appends the value of a copy's record to dst. It fails when Payload is not JSON.
func AppendCopy(dst []byte, c *Copy) ([]byte, error) {
	if len(c.Payload) == 0 {
		return dst, fmt.Errorf("copy of table %d: no payload", c.OID)
	}
	return appendJSON(dst, copyJSON{V: Version, Payload: c.Payload})
}

// AppendCopyKey appends the key of a copy's record to dst.
func AppendCopyKey(dst []byte, oid uint32) []byte { return fmt.Appendf(dst, "%s%d", CopyPrefix, oid) }

// AppendLevel appends the value of a subject's level to dst.
func AppendLevel(dst []byte, level string) ([]byte, error) {
	return appendJSON(dst, levelJSON{V: Version, Level: level})
}

// AppendRelationKey appends the key of a relation's record to dst.
func AppendRelationKey(dst []byte, r *Relation) []byte {
	return fmt.Appendf(dst, "%s%d/%016X-%016X-%08X", RelationPrefix, r.OID, uint64(r.Start.Commit), uint64(r.Start.Change), r.Start.N)
}

func appendJSON(dst []byte, v any) ([]byte, error) {
	b, err := json.Marshal(v)
	if err != nil {
		return dst, err
	}
	return append(dst, b...), nil
}

// FutureError says that a record was written by a newer program in a format that this one does not know.
type FutureError struct {
	Key            string
	Version, Known int
}

func (e *FutureError) Error() string {
	return fmt.Sprintf("record %s of the checkpoint topic has format %d, and this program knows none above %d", e.Key, e.Version, e.Known)
}

// Hint is the way on.
func (e *FutureError) Hint() string {
	return "a newer walferry has run this pipeline: run that version again; going back would lose what it saved"
}

// MalformedError says that a record is none of ours: somebody else writes to the checkpoint topic, or it was damaged.
type MalformedError struct {
	Key string
	Err error
}

func (e *MalformedError) Error() string {
	return fmt.Sprintf("record %q of the checkpoint topic cannot be read: %v", e.Key, e.Err)
}

func (e *MalformedError) Unwrap() error { return e.Err }

// Hint is the way on.
func (e *MalformedError) Hint() string {
	return "find out who else writes to the checkpoint topic; without a checkpoint events would be lost or repeated, which `" + RecoverFromSlot + "` accepts"
}

// DecodeCheckpoint reads what AppendCheckpoint wrote. Its error is a *FutureError or *MalformedError.
func DecodeCheckpoint(value []byte) (*Checkpoint, error) {
	var j checkpointJSON
	if err := decodeJSON(Key, value, &j); err != nil {
		return nil, err
	}
	c := &Checkpoint{
		Version: j.V, SystemID: j.System, Timeline: j.Timeline, Slot: j.Slot, State: j.State, Position: j.Position,
		Copied: j.Copied, Copies: j.Copies,
	}
	if w := j.Witness; w != nil {
		c.Witness = Witness{Commit: pglogrepl.LSN(w.Commit), End: pglogrepl.LSN(w.End), XID: w.XID, CommitTime: w.Time.Time}
		if c.Witness.Commit == 0 {
			return nil, &MalformedError{Key: Key, Err: errors.New("witness without a commit LSN")}
		}
	}
	if s := j.Split; s != nil {
		c.Split = &Split{XID: s.XID, CommitTime: s.Time.Time, Part: s.Part}
	}
	if j.End != nil {
		c.End = pglogrepl.LSN(*j.End)
	}
	if err := c.check(); err != nil {
		return nil, &MalformedError{Key: Key, Err: err}
	}
	return c, nil
}

// DecodeSession reads what AppendSession wrote.
func DecodeSession(value []byte) (*Session, error) {
	var j sessionJSON
	if err := decodeJSON(SessionKey, value, &j); err != nil {
		return nil, err
	}
	if j.Instance == "" {
		return nil, &MalformedError{Key: SessionKey, Err: errors.New("no instance")}
	}
	return &Session{Instance: j.Instance, Host: j.Host, PID: j.PID, Started: j.Started.Time, Program: j.Program}, nil
}

// DecodeText reads what AppendText wrote.
func DecodeText(value []byte) (*Text, error) {
	var j textJSON
	if err := decodeJSON(TextKey, value, &j); err != nil {
		return nil, err
	}
	return &Text{On: j.On, Reason: j.Reason}, nil
}

// DecodeRelation reads what AppendRelationKey and AppendRelation wrote; they must agree.
func DecodeRelation(key, value []byte) (*Relation, error) {
	oid, start, err := decodeRelationKey(key)
	if err != nil {
		return nil, &MalformedError{Key: string(key), Err: err}
	}
	var j relationJSON
	if err := decodeJSON(string(key), value, &j); err != nil {
		return nil, err
	}
	switch {
	case j.Relation != oid || j.Start != start:
		return nil, &MalformedError{Key: string(key), Err: fmt.Errorf("value is of relation %d at %s", j.Relation, j.Start)}
	case len(j.Payload) == 0 || string(j.Payload) == "null":
		return nil, &MalformedError{Key: string(key), Err: errors.New("no payload")}
	}
	return &Relation{OID: oid, Start: start, Payload: j.Payload}, nil
}

// DecodeMoved reads what AppendMoved wrote.
func DecodeMoved(key, value []byte) (*Moved, error) {
	var j movedJSON
	if err := decodeJSON(string(key), value, &j); err != nil {
		return nil, err
	}
	m := &Moved{Topic: strings.TrimPrefix(string(key), MovedPrefix), Moves: j.Moves}
	for i, v := range m.Moves {
		if v.Number < 2 || i > 0 && m.Moves[i-1].Start.Compare(v.Start) >= 0 {
			return nil, &MalformedError{Key: string(key), Err: fmt.Errorf("move %d does not follow the one before", i)}
		}
	}
	return m, nil
}

// DecodeCopy reads what AppendCopyKey and AppendCopy wrote.
func DecodeCopy(key, value []byte) (*Copy, error) {
	oid, err := decodeCopyKey(key)
	if err != nil {
		return nil, err
	}
	var j copyJSON
	if err := decodeJSON(string(key), value, &j); err != nil {
		return nil, err
	}
	if len(j.Payload) == 0 || string(j.Payload) == "null" {
		return nil, &MalformedError{Key: string(key), Err: errors.New("no payload")}
	}
	return &Copy{OID: oid, Payload: j.Payload}, nil
}

func decodeCopyKey(key []byte) (uint32, error) {
	n, err := strconv.ParseUint(strings.TrimPrefix(string(key), CopyPrefix), 10, 32)
	if err == nil && string(AppendCopyKey(nil, uint32(n))) != string(key) {
		err = errors.New("not a table's OID")
	}
	if err != nil {
		return 0, &MalformedError{Key: string(key), Err: err}
	}
	return uint32(n), nil
}

// DecodeLevel reads what AppendLevel wrote.
func DecodeLevel(key, value []byte) (string, error) {
	var j levelJSON
	err := decodeJSON(string(key), value, &j)
	return j.Level, err
}

// decodeRelationKey reads what AppendRelationKey wrote, and nothing else: two spellings of one key would be two records.
func decodeRelationKey(key []byte) (oid uint32, start Position, err error) {
	bad := errors.New("not a relation's key")
	text, ok := strings.CutPrefix(string(key), RelationPrefix)
	id, at, ok2 := strings.Cut(text, "/")
	if !ok || !ok2 {
		return 0, start, bad
	}
	parts := strings.Split(at, "-")
	if len(parts) != 3 {
		return 0, start, bad
	}
	o, err1 := strconv.ParseUint(id, 10, 32)
	c, err2 := strconv.ParseUint(parts[0], 16, 64)
	l, err3 := strconv.ParseUint(parts[1], 16, 64)
	n, err4 := strconv.ParseUint(parts[2], 16, 32)
	if errors.Join(err1, err2, err3, err4) != nil {
		return 0, start, bad
	}
	r := Relation{OID: uint32(o), Start: Position{Commit: pglogrepl.LSN(c), Change: pglogrepl.LSN(l), N: uint32(n)}}
	if string(AppendRelationKey(nil, &r)) != string(key) {
		return 0, start, bad
	}
	return r.OID, r.Start, nil
}

// decodeJSON checks the version before it looks at anything else, since a future format may differ in everything else.
func decodeJSON(key string, value []byte, into any) error {
	var v versionJSON
	if err := json.Unmarshal(value, &v); err != nil {
		return &MalformedError{Key: key, Err: err}
	}
	if v.V > Version {
		return &FutureError{Key: key, Version: v.V, Known: Version}
	}
	if v.V < 1 {
		return &MalformedError{Key: key, Err: fmt.Errorf("format version %d", v.V)}
	}
	if err := json.Unmarshal(value, into); err != nil {
		return &MalformedError{Key: key, Err: err}
	}
	return nil
}
