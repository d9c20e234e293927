package decode

import "fmt"

// Kind is in what form a column's value came.
type Kind byte

const (
	Null Kind = 'n'
	// Unchanged is a TOASTed value that the server did not send because the update left it alone: neither null nor empty.
	Unchanged Kind = 'u'
	// Text is the type's output function's text, in the client encoding, without a terminating zero.
	Text Kind = 't'
	// Binary is what the type's send function wrote.
	Binary Kind = 'b'
)

// String returns null, unchanged, text or binary.
func (k Kind) String() string {
	switch k {
	case Null:
		return "null"
	case Unchanged:
		return "unchanged"
	case Text:
		return "text"
	case Binary:
		return "binary"
	}
	return fmt.Sprintf("Kind(%q)", byte(k))
}

// Datum is the value of one column. Data is nil for Null and Unchanged. It aliases the decoded message, its capacity
// is cut to its length, and nobody may change it; it is valid until the next call to Decode or until the message's
// buffer is released, whichever comes first.
type Datum struct {
	Kind Kind
	Data []byte
}

// Tuple is a row, one Datum for each of Relation.Columns.
type Tuple []Datum
