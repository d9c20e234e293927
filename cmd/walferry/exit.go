package main

import (
	"context"
	"errors"
	"fmt"

	"github.com/jackc/pgx/v5/pgconn"
	kafkago "github.com/segmentio/kafka-go"

	"walferry/checkpoint"
	"walferry/decode"
	"walferry/internal/config"
	"walferry/internal/kafka"
	"walferry/internal/pipeline"
	"walferry/schema"
	"walferry/schema/registry"
	"walferry/sink"
	"walferry/source"
)

// Exit codes are an interface: scripts and supervisors branch on them. They are
// listed in docs/operating.md and in the help, and a test compares the three.
const (
	exitOK          = 0
	exitError       = 1
	exitConfig      = 2
	exitSource      = 3
	exitKafka       = 4
	exitRegistry    = 5
	exitRefused     = 6
	exitFenced      = 7
	exitStopped     = 8
	exitCheck       = 9
	exitInterrupted = 130
)

const exitHelp = `Exit codes:
  0    done
  1    any other error
  2    the command line or the configuration is wrong
  3    Postgres cannot be reached or refuses
  4    Kafka cannot be reached or refuses
  5    the schema registry cannot be reached or refuses
  6    the checkpoint and the database do not belong together; see walferry recover
  7    another instance holds the slot or has taken the transactional id
  8    a value, a record or a schema cannot be published; the stream stands before it
  9    a check found something to mend
  130  interrupted`

// A codedError is an error whose place decides the exit code: where cmd calls a
// package, it knows which of the three servers was asked.
type codedError struct {
	code int
	err  error
}

func (e *codedError) Error() string { return e.err.Error() }
func (e *codedError) Unwrap() error { return e.err }

// within gives err an exit code, unless its type has one already.
func within(code int, err error) error {
	if err == nil || exitCode(err) != exitError {
		return err
	}
	return &codedError{code, err}
}

// A silentError ends the command with a code and no message: it was said already.
type silentError struct{ code int }

func (e *silentError) Error() string { return fmt.Sprintf("exit code %d", e.code) }

// A usageError is a command line that cannot be run.
type usageError struct {
	err     error
	command string
}

func (e *usageError) Error() string { return e.err.Error() }
func (e *usageError) Unwrap() error { return e.err }

// Hint names the help.
func (e *usageError) Hint() string { return "see `" + e.command + " --help`" }

// exitCode is the one place that decides it. The first match counts, so the order
// is from the particular to the general: a value that stops the stream may come
// wrapped in what a broker said.
func exitCode(err error) int {
	var (
		silent   *silentError
		refusal  *checkpoint.Refusal
		fenced   *pipeline.FencedError
		inUse    *source.SlotInUseError
		stop     *pipeline.StopError
		value    *schema.ValueError
		tooLarge *sink.TooLargeError
		row      *source.RowTooLargeError
		coded    *codedError
		asked    *backfillProblem
		usage    *usageError
		settings *config.Error
		mismatch *sink.TopicMismatchError
		fatal    *sink.FatalError
		code     kafkago.Error
		server   *pgconn.PgError
	)
	switch {
	case err == nil:
		return exitOK
	case errors.As(err, &silent):
		return silent.code
	case errors.Is(err, errInterrupted), errors.Is(err, context.Canceled):
		return exitInterrupted
	case errors.As(err, &asked):
		return asked.exitCode()
	case errors.As(err, &usage), errors.As(err, &settings):
		return exitConfig
	case errors.As(err, &refusal), is[*source.SlotLostError](err), is[*checkpoint.FutureError](err), is[*checkpoint.MalformedError](err),
		is[*pipeline.PartitionsChangedError](err), is[*sink.PartitionsChangedError](err):
		return exitRefused
	case errors.As(err, &fenced), errors.Is(err, kafka.ErrFenced), errors.As(err, &inUse):
		return exitFenced
	case errors.As(err, &stop), errors.As(err, &value), errors.As(err, &tooLarge), errors.As(err, &row),
		is[*pipeline.KeylessError](err), is[*pipeline.SharedTopicError](err), is[*schema.PlaceholderError](err), is[*schema.CollisionError](err), is[*schema.TableError](err), is[*pipeline.RefusedSchemaError](err), is[*registry.IncompatibleError](err):
		return exitStopped
	case errors.As(err, &coded):
		return coded.code
	case is[*registry.UnavailableError](err), is[*registry.AuthError](err), is[*registry.Error](err):
		return exitRegistry
	case errors.As(err, &mismatch), errors.As(err, &fatal), errors.As(err, &code), errors.Is(err, pipeline.ErrStalled):
		return exitKafka
	case errors.As(err, &server), isSource(err):
		return exitSource
	}
	return exitError
}

func is[E error](err error) bool {
	_, ok := errors.AsType[E](err)
	return ok
}

// isSource says whether err is one of package source's.
func isSource(err error) bool {
	return is[*source.SlotMissingError](err) || is[*source.SlotOlderThanPublicationError](err) ||
		is[*source.PublicationMissingError](err) || is[*source.PublicationPrivilegeError](err) ||
		is[*source.TableMissingError](err) || is[*source.ColumnError](err) ||
		is[*source.WrongPasswordError](err) || is[*source.CertificateError](err) || is[*source.NoReplicationPrivilegeError](err) ||
		is[*source.WALLevelError](err) || is[*source.UnsupportedVersionError](err) ||
		is[*source.SyncStandbyError](err) || is[*source.ServerShutdownError](err) ||
		is[*source.TooManyConnectionsError](err) || is[*source.ConnectError](err) ||
		is[*source.ReadOnlyError](err) || is[*source.NeedsTextError](err) ||
		is[*decode.MalformedError](err) || is[*decode.OrderError](err) || is[*decode.UnsupportedError](err) ||
		is[*source.GarbageError](err) || is[*source.IdentityError](err)
}

// hint is the remedy of the first error in err's tree that has one; what a broker or
// the way to it said has one here.
func hint(err error) string {
	var h interface{ Hint() string }
	if errors.As(err, &h) {
		return h.Hint()
	}
	if f, ok := errors.AsType[*sink.FatalError](err); ok {
		if f.Hint != "" {
			return "" // its sentence ends with it
		}
		return kafkaRemedy(err)
	}
	var coded *codedError
	if errors.Is(err, pipeline.ErrStalled) {
		return kafkaRemedy(err)
	}
	if errors.As(err, &coded) {
		switch coded.code {
		case exitKafka:
			return kafkaRemedy(err)
		case exitRegistry:
			return "see that registry.url names a schema registry with Confluent's REST API, and that it answers"
		}
	}
	return ""
}
