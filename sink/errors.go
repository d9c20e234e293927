package sink

import (
	"errors"
	"fmt"

	"walferry/internal/kafka"
)

var (
	// ErrFenced: another producer has taken the transactional id, or the coordinator gave up our transaction, which looks the
	// same (codes 90 and 47). The caller ends what it does, makes sure that it still holds the slot, and only then calls Init.
	// It is kafka.ErrFenced.
	ErrFenced = kafka.ErrFenced
	// ErrInitRequired: the coordinator no longer knows our producer id (codes 49 and 59), or Init has not been called. Only
	// Init goes on.
	ErrInitRequired = errors.New("the producer needs a new id: Init")
	// ErrUnsettled: the outcome of an earlier commit is unknown, and Recover or Init has to come before the next Publish.
	ErrUnsettled = errors.New("the outcome of an earlier commit is not settled")
)

// AbortedError says that nothing of the batch is visible or ever will be. The same batch can be published again: Publish
// has taken the producer id anew, or the next Publish does so before anything else. Err says why; it is ErrFenced or
// ErrInitRequired, too, where those forbid the next Publish.
type AbortedError struct{ Err error }

func (e *AbortedError) Error() string { return "kafka transaction aborted: " + e.Err.Error() }
func (e *AbortedError) Unwrap() error { return e.Err }

// UncertainError says that EndTxn(commit) was sent and its outcome is unknown. The caller calls Recover or Init (which
// settle it at the broker), publishes a record of its own, and reads up to it: then it goes on, or publishes the same batch
// again. Nothing else may be published before. Err may be ErrFenced as well.
type UncertainError struct{ Err error }

func (e *UncertainError) Error() string {
	return "outcome of a kafka commit is unknown: " + e.Err.Error()
}
func (e *UncertainError) Unwrap() error { return e.Err }

// FatalError says that trying again will not help before somebody changes something. Nothing of the batch is visible.
type FatalError struct {
	Err  error
	Hint string // what to do, one sentence; may be empty
}

func (e *FatalError) Error() string {
	if e.Hint == "" {
		return e.Err.Error()
	}
	return e.Err.Error() + "; " + e.Hint
}
func (e *FatalError) Unwrap() error { return e.Err }

// TooLargeError says that a record does not fit the topic, by itself in a record batch and compressed as configured. The
// batch is as it was before the Append.
type TooLargeError struct {
	Topic string
	Bytes int // of the record in a record batch of its own, as it would be sent
	Limit int // the topic's max.message.bytes
}

func (e *TooLargeError) Error() string {
	return fmt.Sprintf("a record of %d bytes is larger than topic %s takes (max.message.bytes %d)", e.Bytes, e.Topic, e.Limit)
}

// TopicMismatchError says that a topic exists and is not as the configuration wants it.
type TopicMismatchError struct {
	Topic, Setting string
	Want, Have     string
	Remedy         string
}

func (e *TopicMismatchError) Error() string {
	return fmt.Sprintf("topic %s has %s %s, wanted %s; %s", e.Topic, e.Setting, e.Have, e.Want, e.Remedy)
}

// PartitionsChangedError says that a topic's partition count is not what it was when it was first looked up. Keys would
// move between partitions and lose their order, so the old count stays in use until a restart decides.
type PartitionsChangedError struct {
	Topic      string
	Kept, Have int
}

func (e *PartitionsChangedError) Error() string {
	return fmt.Sprintf("topic %s now has %d partitions, %d when it was first used: "+
		"new records stay in the first %d so that the order of each key holds", e.Topic, e.Have, e.Kept, e.Kept)
}
