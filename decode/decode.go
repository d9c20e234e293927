// Package decode turns the messages of Postgres' logical replication plugin pgoutput into row changes.
//
// It is pure: bytes in, values out. It knows pgoutput, relations, tuples and their order; it knows no sockets, clocks
// or goroutines, and nothing of Avro or Kafka. What values mean is for package schema; here they are bytes.
//
//	d := decode.NewDecoder()          // one for each START_REPLICATION
//	for each XLogData frame {
//		event, err := d.Decode(frame.WALStart, frame.Payload)
//		switch e := event.(type) {
//		case *decode.Begin:           // commit LSN, xid and commit time are known from here on
//		case *decode.Change:          // one row
//		case *decode.Truncate:
//		case *decode.Message:
//		case *decode.Commit:          // the end LSN is known
//		case nil:                     // Relation, Type, Origin: the decoder remembers what matters of them
//		}
//	}
//
// # What is accepted
//
// Protocol version 1 with options binary and messages, as Postgres 14 to 18 send it
// (https://www.postgresql.org/docs/current/protocol-logicalrep-message-formats.html). A frame holds one message:
//
//	Begin    'B'  commit LSN 8 · commit time 8 · xid 4
//	Commit   'C'  flags 1 (0) · commit LSN 8 · end LSN 8 · commit time 8
//	Origin   'O'  commit LSN at the origin 8 · name z
//	Relation 'R'  OID 4 · schema z ("" is pg_catalog) · name z · identity 1 · columns 2 · { flags 1 · name z · type 4 · mod 4 }
//	Type     'Y'  OID 4 · schema z ("" is pg_catalog) · name z
//	Insert   'I'  OID 4 · 'N' tuple
//	Update   'U'  OID 4 · [ 'K' tuple | 'O' tuple ] · 'N' tuple
//	Delete   'D'  OID 4 · ( 'K' tuple | 'O' tuple )
//	Truncate 'T'  relations 4 · options 1 (1 cascade, 2 restart identity) · { OID 4 }
//	Message  'M'  flags 1 (1 transactional) · LSN 8 · prefix z · length 4 · content
//	tuple         columns 2 · { 'n' | 'u' | 't' length 4 bytes | 'b' length 4 bytes }
//
// Integers are big-endian, z is a string ended by a zero byte, times are microseconds since 2000-01-01 UTC. Messages of
// later protocol versions (streamed and prepared transactions) are refused by UnsupportedError: positions would not
// survive them as they are counted here.
//
// # What is checked
//
// A length never reaches past its message, no byte is left over, a tuple has as many columns as its relation, names
// are UTF-8 (MalformedError). A row stands inside a transaction and after its Relation message, transactions do not
// nest, a Commit names the commit LSN and time of the transaction that is open, change LSNs do not fall within a
// transaction, and commit LSNs rise (OrderError). No bytes from a server make this package panic. After an error the
// stream cannot be trusted: Decode returns the same error from then on, and the way on is a new connection with a new
// Decoder.
package decode

import (
	"fmt"
	"time"

	"github.com/jackc/pglogrepl"
)

// Decoder decodes the messages of one START_REPLICATION, in the order in which they came. Relations and types are
// learned on the way, so a new connection wants a new Decoder. It is not safe for concurrent use.
type Decoder struct {
	relations map[uint32]*versions
	types     map[uint32]typeName
	// used is the relation of the last row, since rows of one table come in runs.
	used *versions
	err  error

	// open is the transaction between its Begin and its Commit; its zero commit LSN means that there is none.
	open Transaction
	// last is the commit LSN of the transaction before; the next one's must be greater.
	last pglogrepl.LSN
	// position and ordinal are those of the last row or truncate of the open transaction.
	position Position
	ordinal  uint64

	// Below is handed out and used again, so that a row costs no allocation.
	begin    Begin
	commit   Commit
	change   Change
	truncate Truncate
	message  Message
	oldTuple Tuple
	newTuple Tuple
}

// versions are what is known of the relation with one OID. The server repeats Relation messages, for leaves of a
// partitioned table too whose rows go by the root's; so one makes a version only when a row uses it and it differs.
type versions struct {
	id        uint32
	current   *Relation // what rows used so far; nil before the first
	announced *Relation // differs from current, not used by a row yet; or nil
}

func (v *versions) next() *Relation {
	if v.announced != nil {
		return v.announced
	}
	return v.current
}

func (v *versions) use() *Relation {
	if v.announced != nil {
		v.current, v.announced = v.announced, nil
	}
	return v.current
}

func (v *versions) announce(r *Relation) {
	switch {
	case v.current != nil && v.current.Equal(r):
		v.announced = nil
	case v.announced != nil && v.announced.Equal(r):
	default:
		v.announced = r
	}
}

type typeName struct{ schema, name string }

// NewDecoder returns a Decoder for a connection that has just started to stream.
func NewDecoder() *Decoder {
	return &Decoder{relations: make(map[uint32]*versions), types: make(map[uint32]typeName)}
}

// Decode decodes one pgoutput message: the payload of an XLogData frame whose WAL start was walStart, which for a row
// is the LSN of its WAL record. It returns nil and no error for a message that is no event (Relation, Type, Origin).
//
// The event and its slices are valid until the next call to Decode; values in it alias msg, which Decode neither
// keeps nor changes. A row costs no allocation. The error is a *MalformedError, *OrderError or *UnsupportedError, and
// Decode returns it again from then on.
func (d *Decoder) Decode(walStart pglogrepl.LSN, msg []byte) (Event, error) {
	if d.err != nil {
		return nil, d.err
	}
	e, err := d.decode(walStart, msg)
	if err != nil {
		d.err = err
		return nil, err
	}
	return e, nil
}

// Relation returns the relation that the next row of the table with this OID would carry, or nil if no Relation
// message named it.
func (d *Decoder) Relation(id uint32) *Relation {
	if v := d.relations[id]; v != nil {
		return v.next()
	}
	return nil
}

// TypeName returns the name that a Type message gave to the type with this OID. The server sends one for each column
// type that is not built in. For a domain it is the base type's name, though the OID is the domain's: good for people,
// not for deciding.
func (d *Decoder) TypeName(oid uint32) (schema, name string, ok bool) {
	t, ok := d.types[oid]
	return t.schema, t.name, ok
}

func (d *Decoder) decode(walStart pglogrepl.LSN, msg []byte) (Event, error) {
	c := cursor{msg: msg}
	kind := c.byte()
	if c.reason != "" {
		return nil, c.malformed(walStart)
	}
	switch pglogrepl.MessageType(kind) {
	case pglogrepl.MessageTypeInsert, pglogrepl.MessageTypeUpdate, pglogrepl.MessageTypeDelete:
		return d.decodeChange(&c, walStart)
	case pglogrepl.MessageTypeBegin:
		return d.decodeBegin(&c, walStart)
	case pglogrepl.MessageTypeCommit:
		return d.decodeCommit(&c, walStart)
	case pglogrepl.MessageTypeTruncate:
		return d.decodeTruncate(&c, walStart)
	case pglogrepl.MessageTypeMessage:
		return d.decodeMessage(&c, walStart)
	case pglogrepl.MessageTypeRelation:
		return nil, d.decodeRelation(&c, walStart)
	case pglogrepl.MessageTypeType:
		return nil, d.decodeType(&c, walStart)
	case pglogrepl.MessageTypeOrigin:
		// Where a replicated transaction came from first. Nothing here asks for it, but its shape is checked.
		c.lsn()
		c.string()
		return nil, c.finish(walStart)
	case pglogrepl.MessageTypeStreamStart, pglogrepl.MessageTypeStreamStop, pglogrepl.MessageTypeStreamCommit,
		pglogrepl.MessageTypeStreamAbort, 'b', 'P', 'K', 'r', 'p':
		// The last five are Begin Prepare, Prepare, Commit Prepared, Rollback Prepared and Stream Prepare.
		return nil, &UnsupportedError{Message: kind, LSN: walStart}
	}
	c.off = 0
	c.fail("unknown message type")
	return nil, c.malformed(walStart)
}

func (d *Decoder) decodeBegin(c *cursor, walStart pglogrepl.LSN) (Event, error) {
	t := Transaction{Commit: c.lsn(), CommitTime: c.time(), XID: c.uint32()}
	if err := c.finish(walStart); err != nil {
		return nil, err
	}
	if d.open.Commit != 0 {
		return nil, outOfOrder(c, walStart, "transaction %d begins inside transaction %d", t.XID, d.open.XID)
	}
	if t.Commit <= d.last {
		return nil, outOfOrder(c, walStart, "commit LSN %s of transaction %d is not above %s of the one before", t.Commit, t.XID, d.last)
	}
	d.open = t
	d.position = Position{Commit: t.Commit}
	d.ordinal = 0
	d.begin.Transaction = t
	return &d.begin, nil
}

func (d *Decoder) decodeCommit(c *cursor, walStart pglogrepl.LSN) (Event, error) {
	c.flags(0)
	commit, end := c.lsn(), c.lsn()
	if c.reason == "" && end <= commit {
		c.fail("end LSN is not above commit LSN")
	}
	commitTime := c.time()
	if err := c.finish(walStart); err != nil {
		return nil, err
	}
	if d.open.Commit == 0 {
		return nil, outOfOrder(c, walStart, "commit at %s outside a transaction", commit)
	}
	if commit != d.open.Commit {
		return nil, outOfOrder(c, walStart, "commit at %s, but transaction %d began with commit LSN %s", commit, d.open.XID, d.open.Commit)
	}
	// The server fills both messages from one field; a checkpoint's witness is compared by it.
	if !commitTime.Equal(d.open.CommitTime) {
		return nil, outOfOrder(c, walStart, "commit time %s of transaction %d differs from %s at its begin",
			commitTime.Format(time.RFC3339Nano), d.open.XID, d.open.CommitTime.Format(time.RFC3339Nano))
	}
	d.commit.Transaction = d.open
	d.commit.End = end
	d.last = commit
	d.open = Transaction{}
	return &d.commit, nil
}

// place gives a row or truncate message its position and ordinal.
func (d *Decoder) place(c *cursor, walStart pglogrepl.LSN) error {
	if d.open.Commit == 0 {
		return outOfOrder(c, walStart, "outside a transaction")
	}
	if walStart < d.position.Change {
		return outOfOrder(c, walStart, "change LSN falls below %s within transaction %d", d.position.Change, d.open.XID)
	}
	if walStart != d.position.Change {
		d.position.Change = walStart
		d.position.N = 0
	}
	d.position.N++
	d.ordinal++
	return nil
}

// relation finds the relation that a row or truncate message uses.
func (d *Decoder) relation(c *cursor, walStart pglogrepl.LSN, id uint32) (*Relation, error) {
	if d.used == nil || d.used.id != id {
		v := d.relations[id]
		if v == nil {
			return nil, outOfOrder(c, walStart, "relation %d was not described before", id)
		}
		d.used = v
	}
	return d.used.use(), nil
}

func (d *Decoder) decodeChange(c *cursor, walStart pglogrepl.LSN) (Event, error) {
	op := Op(c.msg[0])
	id := c.uint32()
	part := c.byte()
	if c.reason != "" {
		return nil, c.malformed(walStart)
	}
	rel, err := d.relation(c, walStart, id)
	if err != nil {
		return nil, err
	}
	ch := &d.change
	*ch = Change{Op: op, Relation: rel}
	if (part == OldKey || part == OldRow) && op != Insert {
		ch.OldKind = part
		d.oldTuple = c.tuple(d.oldTuple, len(rel.Columns))
		ch.Old = d.oldTuple
		if op == Update {
			part = c.byte()
		}
	}
	switch {
	case op == Delete && ch.OldKind != OldNone:
	case op != Delete && part == 'N':
		d.newTuple = c.tuple(d.newTuple, len(rel.Columns))
		ch.New = d.newTuple
	case c.reason == "":
		c.off--
		c.fail("unexpected kind of tuple")
	}
	if err := c.finish(walStart); err != nil {
		return nil, err
	}
	if err := d.place(c, walStart); err != nil {
		return nil, err
	}
	ch.Position, ch.Ordinal = d.position, d.ordinal
	return ch, nil
}

func (d *Decoder) decodeTruncate(c *cursor, walStart pglogrepl.LSN) (Event, error) {
	n := c.uint32()
	options := c.flags(3)
	if c.reason == "" && uint64(n)*4 != uint64(len(c.msg)-c.off) {
		c.fail("number of relations does not fit the length")
	}
	if c.reason != "" {
		return nil, c.malformed(walStart)
	}
	t := &d.truncate
	*t = Truncate{Relations: t.Relations[:0], Cascade: options&1 != 0, RestartIdentity: options&2 != 0}
	for range n {
		rel, err := d.relation(c, walStart, c.uint32())
		if err != nil {
			return nil, err
		}
		t.Relations = append(t.Relations, rel)
	}
	if err := c.finish(walStart); err != nil {
		return nil, err
	}
	if err := d.place(c, walStart); err != nil {
		return nil, err
	}
	t.Position, t.Ordinal = d.position, d.ordinal
	return t, nil
}

func (d *Decoder) decodeMessage(c *cursor, walStart pglogrepl.LSN) (Event, error) {
	m := &d.message
	m.Transactional = c.flags(1) != 0
	m.LSN = c.lsn()
	// The prefix is another application's choice, so it may be anything; the same one comes again and again.
	if prefix := c.string(); string(prefix) != m.Prefix {
		m.Prefix = string(prefix)
	}
	m.Content = c.bytes(c.length())
	if err := c.finish(walStart); err != nil {
		return nil, err
	}
	if m.Transactional && d.open.Commit == 0 {
		return nil, outOfOrder(c, walStart, "transactional message outside a transaction")
	}
	return m, nil
}

func (d *Decoder) decodeRelation(c *cursor, walStart pglogrepl.LSN) error {
	r := c.relation()
	if err := c.finish(walStart); err != nil {
		return err
	}
	v := d.relations[r.ID]
	if v == nil {
		v = &versions{id: r.ID}
		d.relations[r.ID] = v
	}
	v.announce(r)
	return nil
}

// relation reads a Relation message behind its type. After a read that failed it is of no use.
func (c *cursor) relation() *Relation {
	r := &Relation{ID: c.uint32(), Schema: c.namespace(), Name: c.name(), Identity: Identity(c.byte())}
	if c.reason == "" && !r.Identity.known() {
		c.off--
		c.fail("unknown replica identity")
	}
	n := c.count()
	// A column takes ten bytes at least, so a false count cannot make a large slice.
	if c.reason == "" && n*10 > len(c.msg)-c.off {
		c.fail("number of columns does not fit the length")
	}
	if c.reason != "" {
		return r
	}
	r.Columns = make([]Column, n)
	for i := range r.Columns {
		r.Columns[i] = Column{Key: c.flags(1) != 0, Name: c.name(), Type: c.uint32(), Mod: int32(c.uint32())}
	}
	return r
}

func (d *Decoder) decodeType(c *cursor, walStart pglogrepl.LSN) error {
	oid := c.uint32()
	t := typeName{schema: c.namespace(), name: c.name()}
	if err := c.finish(walStart); err != nil {
		return err
	}
	d.types[oid] = t
	return nil
}

// MalformedError says that bytes are not a pgoutput message.
type MalformedError struct {
	Message byte          // first byte of the message, its type; zero for an empty one
	Offset  int           // where in the message
	Reason  string        // what is wrong there
	LSN     pglogrepl.LSN // WAL start of its frame
}

func (e *MalformedError) Error() string {
	return fmt.Sprintf("malformed pgoutput message %s at %s, byte %d: %s", messageName(e.Message), e.LSN, e.Offset, e.Reason)
}

// Hint is the way on.
func (e *MalformedError) Hint() string { return hintProtocol }

// hintProtocol is the remedy of everything that no server sends.
const hintProtocol = "look for a proxy or a pooler between walferry and the server, and compare the server's version with those supported; nothing is lost, the slot keeps the changes"

// OrderError says that a well-formed message came where it must not. A server never sends such: frames were lost,
// repeated or mixed on the way, or the Decoder has seen another connection before.
type OrderError struct {
	Message byte
	Reason  string
	LSN     pglogrepl.LSN // WAL start of its frame
}

func (e *OrderError) Error() string {
	return fmt.Sprintf("pgoutput message %s at %s is out of order: %s", messageName(e.Message), e.LSN, e.Reason)
}

// Hint is the way on.
func (e *OrderError) Hint() string { return hintProtocol }

// UnsupportedError names a message that belongs to streamed or prepared transactions, which a server sends only
// when asked for protocol version 2 or later with streaming or two_phase on.
type UnsupportedError struct {
	Message byte
	LSN     pglogrepl.LSN // WAL start of its frame
}

func (e *UnsupportedError) Error() string {
	return fmt.Sprintf("pgoutput message %s at %s is of a streamed or prepared transaction: ask for proto_version 1", messageName(e.Message), e.LSN)
}

func messageName(b byte) string {
	if name := pglogrepl.MessageType(b).String(); name != "Unknown" {
		return name
	}
	return fmt.Sprintf("%q", b)
}

func outOfOrder(c *cursor, walStart pglogrepl.LSN, format string, args ...any) error {
	return &OrderError{Message: c.msg[0], Reason: fmt.Sprintf(format, args...), LSN: walStart}
}
