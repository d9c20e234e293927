package kafka

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net"

	kafkago "github.com/segmentio/kafka-go"
)

// ErrFenced: another producer has taken over the transactional id, or the coordinator aborted our transaction because it
// was open for too long, which looks the same (codes 90 and 47).
var ErrFenced = errors.New("fenced: another producer has taken over this transactional id, or its transaction timed out")

// Class is what to do about an error.
type Class int

const (
	// Retry the same bytes with the same sequence; Refresh first unless the error is CONCURRENT_TRANSACTIONS.
	Retry Class = iota
	// Restart: give up the transaction, take the producer id anew, and go on from the checkpoint.
	Restart
	// Fenced: stop producing, make sure that the slot is held, then Init and believe the checkpoint.
	Fenced
	// Fatal: it stays as it is until somebody changes something.
	Fatal
)

func (c Class) String() string {
	switch c {
	case Retry:
		return "retry"
	case Restart:
		return "restart"
	case Fenced:
		return "fenced"
	case Fatal:
		return "fatal"
	}
	return fmt.Sprintf("Class(%d)", int(c))
}

// Codes that kafka-go has no name for, https://kafka.apache.org/protocol#protocol_error_codes.
const (
	operationNotAttempted kafkago.Error = 55
	transactionAbortable  kafkago.Error = 120
)

// Classify decides for every error of this package and of sink. Cancellation is the caller's own doing and has no class of
// its own: look at the context first.
func Classify(err error) Class {
	var code kafkago.Error
	switch {
	case errors.Is(err, ErrFenced):
		return Fenced
	case errors.As(err, &code):
		return classifyCode(code)
	}
	var (
		authority x509.UnknownAuthorityError
		hostname  x509.HostnameError
		invalid   x509.CertificateInvalidError
		verify    *tls.CertificateVerificationError
		op        *net.OpError
	)
	switch {
	case errors.As(err, &authority), errors.As(err, &hostname), errors.As(err, &invalid), errors.As(err, &verify):
		// Certificates do not mend themselves.
		return Fatal
	case errors.As(err, &op) && op.Op == "remote error":
		// The peer's TLS alert, of a type that crypto/tls keeps to itself: it wants a certificate, or another one.
		return Fatal
	case errors.Is(err, context.DeadlineExceeded):
		return Retry
	}
	// Everything else is a connection that broke or could not be made.
	return Retry
}

func classifyCode(code kafkago.Error) Class {
	switch code {
	// The leader or the coordinator is elsewhere, not ready, or not known yet. Nothing was done.
	case kafkago.UnknownTopicOrPartition, // also: a new topic that this broker has not heard of
		kafkago.LeaderNotAvailable, kafkago.NotLeaderForPartition, kafkago.BrokerNotAvailable, kafkago.ReplicaNotAvailable,
		kafkago.GroupLoadInProgress, kafkago.GroupCoordinatorNotAvailable, kafkago.NotCoordinatorForGroup, kafkago.NotController,
		kafkago.FencedLeaderEpoch, kafkago.UnknownLeaderEpoch, kafkago.ListenerNotFound, kafkago.OffsetNotAvailable,
		kafkago.KafkaStorageError, kafkago.UnknownTopicID, kafkago.ThrottlingQuotaExceeded, kafkago.NetworkException:
		return Retry
	// It may have been done: the same bytes under the same sequence count once.
	case kafkago.RequestTimedOut, kafkago.NotEnoughReplicas, kafkago.NotEnoughReplicasAfterAppend:
		return Retry
	// The record set was damaged on its way (the checksum failed).
	case kafkago.InvalidMessage:
		return Retry
	// The transaction before is still being ended: normal right after a commit.
	case kafkago.ConcurrentTransactions:
		return Retry

	case kafkago.ProducerFenced, kafkago.InvalidProducerEpoch:
		return Fenced

	// The coordinator forgot the producer (transactional.id.expiration.ms, a lost transaction log): only -1/-1 begins anew.
	case kafkago.InvalidProducerIDMapping, kafkago.UnknownProducerId:
		return Restart
	// This transaction is lost; the next may not be.
	case kafkago.OutOfOrderSequenceNumber, kafkago.InvalidTransactionState, kafkago.TransactionCoordinatorFenced,
		operationNotAttempted, transactionAbortable, kafkago.TransactionalIDNotFound, kafkago.Unknown:
		return Restart
	// What a reader wanted is not in the log: asking again brings the same answer.
	case kafkago.OffsetOutOfRange:
		return Restart
	case kafkago.DuplicateSequenceNumber:
		// The producer takes it for success. Elsewhere it is a sequence that we did not expect.
		return Restart

	// Rights, credentials, limits and settings.
	case kafkago.TopicAuthorizationFailed, kafkago.GroupAuthorizationFailed, kafkago.ClusterAuthorizationFailed,
		kafkago.TransactionalIDAuthorizationFailed, kafkago.SASLAuthenticationFailed, kafkago.UnsupportedSASLMechanism,
		kafkago.IllegalSASLState, kafkago.MessageSizeTooLarge, kafkago.RecordListTooLarge, kafkago.InvalidTimestamp,
		kafkago.InvalidRecord, kafkago.InvalidTransactionTimeout, kafkago.InvalidRequiredAcks, kafkago.UnsupportedVersion,
		kafkago.UnsupportedForMessageFormat, kafkago.UnsupportedCompressionType, kafkago.PolicyViolation, kafkago.InvalidRequest,
		kafkago.InvalidTopic, kafkago.InvalidConfiguration, kafkago.InvalidPartitionNumber, kafkago.InvalidReplicationFactor,
		kafkago.InvalidReplicaAssignment, kafkago.SecurityDisabled, kafkago.TopicAlreadyExists:
		return Fatal
	}
	// A code that this table does not know: nothing is safe but to begin again from what is known.
	return Restart
}

// CodeError is the error of a Kafka error code; nil for 0. message is what the broker said about it, or empty.
func CodeError(code int16, message string) error {
	if code == 0 {
		return nil
	}
	var err error = kafkago.Error(code)
	if kafkago.Error(code) == transactionAbortable {
		err = fmt.Errorf("the broker wants this transaction aborted: %w", err)
	}
	if message != "" {
		return fmt.Errorf("%w (%s)", err, message)
	}
	return err
}

// IsCode tells whether err carries this Kafka error code.
func IsCode(err error, code kafkago.Error) bool {
	var k kafkago.Error
	return errors.As(err, &k) && k == code
}
