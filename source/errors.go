package source

import (
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"slices"
	"strings"

	"github.com/jackc/pglogrepl"
	"github.com/jackc/pgx/v5/pgconn"
)

// Hinter is implemented by the errors of this package that an operator can do something about: Error says what happened in
// one sentence, Hint what to do about it.
type Hinter interface {
	error
	Hint() string
}

// Hint returns the remedy of the first error in err's tree that has one, or "".
func Hint(err error) string {
	if h, ok := errors.AsType[Hinter](err); ok {
		return h.Hint()
	}
	return ""
}

// ErrClosed is what Stream.Err returns after Stream.Close.
var ErrClosed = errors.New("replication stream closed")

// SlotInUseError says that another connection holds the slot: the normal state of a standby instance.
type SlotInUseError struct {
	Slot string
	PID  int32 // of the walsender that holds it; 0 when the server did not say
	err  error
}

func (e *SlotInUseError) Error() string {
	if e.PID != 0 {
		return fmt.Sprintf("replication slot %q is in use by process %d", e.Slot, e.PID)
	}
	return fmt.Sprintf("replication slot %q is in use", e.Slot)
}
func (e *SlotInUseError) Unwrap() error { return e.err }

// Hint implements [Hinter].
func (e *SlotInUseError) Hint() string {
	return fmt.Sprintf("another instance is active; wait for it, or look at it with: SELECT * FROM pg_stat_replication WHERE pid = %d; a dead one is ended by wal_sender_timeout, or by SELECT pg_terminate_backend(%[1]d)", e.PID)
}

// SlotMissingError says that the slot does not exist.
type SlotMissingError struct {
	Slot string
	err  error
}

func (e *SlotMissingError) Error() string {
	return fmt.Sprintf("replication slot %q does not exist", e.Slot)
}
func (e *SlotMissingError) Unwrap() error { return e.err }

// Hint implements [Hinter].
func (e *SlotMissingError) Hint() string {
	return "a first start creates it; after that a missing slot is a gap in the stream, and `walferry recover --new-slot` goes on from there"
}

// SlotLostError says that the slot exists and cannot be read any more: its WAL was removed or it was invalidated.
type SlotLostError struct {
	Slot   string
	Reason string // the server's words
	err    error
}

func (e *SlotLostError) Error() string {
	return fmt.Sprintf("replication slot %q is lost: %s", e.Slot, e.Reason)
}
func (e *SlotLostError) Unwrap() error { return e.err }

// Hint implements [Hinter].
func (e *SlotLostError) Hint() string {
	return "the server no longer has the WAL this slot needs, so changes are missing; raise max_slot_wal_keep_size (or idle_replication_slot_timeout), then `walferry recover --new-slot` begins anew: what was committed in between is never published"
}

// SlotOlderThanPublicationError says that the slot's position lies before the publication was created, where the server does
// not know it.
type SlotOlderThanPublicationError struct {
	Slot, Publication string
	err               error
}

func (e *SlotOlderThanPublicationError) Error() string {
	return fmt.Sprintf("replication slot %q is older than publication %q: at the slot's position the publication did not exist", e.Slot, e.Publication)
}
func (e *SlotOlderThanPublicationError) Unwrap() error { return e.err }

// Hint implements [Hinter].
func (e *SlotOlderThanPublicationError) Hint() string {
	return fmt.Sprintf("a publication must be there before its slot and be altered, never dropped and created again; `walferry recover --new-slot` makes the slot anew: what was committed since %s was last read is never published", e.Slot)
}

// PublicationMissingError says that the publication does not exist.
type PublicationMissingError struct {
	Publication string
	err         error
}

func (e *PublicationMissingError) Error() string {
	return fmt.Sprintf("publication %q does not exist", e.Publication)
}
func (e *PublicationMissingError) Unwrap() error { return e.err }

// Hint implements [Hinter].
func (e *PublicationMissingError) Hint() string {
	return "create it as the owner of the tables with the SQL that `walferry setup` prints, before the slot is created"
}

// PublicationPrivilegeError says that our role may not make a change to the publication that the configuration asks for.
type PublicationPrivilegeError struct {
	Publication string
	SQL         []string // for the owner of publication and tables to run
	err         error
}

func (e *PublicationPrivilegeError) Error() string {
	return fmt.Sprintf("publication %q cannot be changed by this role: %v", e.Publication, e.err)
}
func (e *PublicationPrivilegeError) Unwrap() error { return e.err }

// Hint implements [Hinter].
func (e *PublicationPrivilegeError) Hint() string {
	return "run as the owner of the publication and its tables (a superuser for whole schemas or all tables): " + strings.Join(e.SQL, "; ")
}

// TableMissingError names configured tables that do not exist.
type TableMissingError struct{ Patterns []string }

func (e *TableMissingError) Error() string {
	return "no table matches " + strings.Join(e.Patterns, ", ")
}

// Hint implements [Hinter].
func (e *TableMissingError) Hint() string {
	return "create the table or correct the configuration (names are compared exactly, schema first; temporary, unlogged and foreign tables and views cannot be captured)"
}

// ColumnError says that a column cannot be excluded.
type ColumnError struct {
	Table, Column, Reason string
}

func (e *ColumnError) Error() string {
	return fmt.Sprintf("column %s of table %s cannot be excluded: %s", e.Column, e.Table, e.Reason)
}

// Hint implements [Hinter].
func (e *ColumnError) Hint() string {
	return "leave it out of exclude_columns, or give the table another replica identity: ALTER TABLE " + e.Table + " REPLICA IDENTITY USING INDEX ..."
}

// WrongPasswordError says that the server did not let us in.
type WrongPasswordError struct {
	User string
	err  error
}

func (e *WrongPasswordError) Error() string {
	return fmt.Sprintf("the server refused the login of role %q: %s", e.User, serverMessage(e.err))
}
func (e *WrongPasswordError) Unwrap() error { return e.err }

// Hint implements [Hinter].
func (e *WrongPasswordError) Hint() string {
	if strings.Contains(serverMessage(e.err), "certificate") {
		return "set sslcert and sslkey in the DSN to a certificate whose common name is the role, of an authority that is in the server's ssl_ca_file"
	}
	return "check the password (or password file, which is read again on each connect) and pg_hba.conf: a logical replication connection is matched by database name"
}

// NoReplicationPrivilegeError says that the role may not use replication.
type NoReplicationPrivilegeError struct {
	User string
	err  error
}

func (e *NoReplicationPrivilegeError) Error() string {
	return fmt.Sprintf("role %q has no replication privilege", e.User)
}
func (e *NoReplicationPrivilegeError) Unwrap() error { return e.err }

// Hint implements [Hinter].
func (e *NoReplicationPrivilegeError) Hint() string {
	return fmt.Sprintf("ALTER ROLE %s REPLICATION (RDS and Aurora: GRANT rds_replication TO %[1]s)", quoteIdent(e.User))
}

// WALLevelError says that the server's wal_level is too low for logical decoding.
type WALLevelError struct {
	Level string // "" when only the refusal is known
	err   error
}

func (e *WALLevelError) Error() string {
	if e.Level == "" {
		return "wal_level of the server is not logical"
	}
	return fmt.Sprintf("wal_level of the server is %s, not logical", e.Level)
}
func (e *WALLevelError) Unwrap() error { return e.err }

// Hint implements [Hinter].
func (e *WALLevelError) Hint() string {
	return "ALTER SYSTEM SET wal_level = logical, then restart the server (RDS and Aurora: rds.logical_replication = 1; Cloud SQL: cloudsql.logical_decoding = on; Azure: wal_level in the server parameters)"
}

// UnsupportedVersionError says that the server is older or newer than we know.
type UnsupportedVersionError struct {
	Version int // server_version_num; 0 when the server did not get as far as telling
	err     error
}

func (e *UnsupportedVersionError) Error() string {
	if e.Version == 0 {
		return fmt.Sprintf("the server is older than PostgreSQL %d", MinVersion)
	}
	return fmt.Sprintf("PostgreSQL %d is not supported", e.Version/10000)
}
func (e *UnsupportedVersionError) Unwrap() error { return e.err }

// Hint implements [Hinter].
func (e *UnsupportedVersionError) Hint() string {
	return fmt.Sprintf("use PostgreSQL %d to %d", MinVersion, MaxVersion)
}

// SyncStandbyError says that synchronous_standby_names takes us for a synchronous standby: every commit of the application
// would wait until we have published it.
type SyncStandbyError struct{ Names, AppName string }

func (e *SyncStandbyError) Error() string {
	return fmt.Sprintf("synchronous_standby_names = %s matches our application_name %q, so commits would wait for walferry", quoteLiteral(e.Names), e.AppName)
}

// Hint implements [Hinter].
func (e *SyncStandbyError) Hint() string {
	return "name the standbys in synchronous_standby_names instead of *, or give walferry another application_name"
}

// ServerShutdownError says that the server is going down or coming up.
type ServerShutdownError struct{ err error }

func (e *ServerShutdownError) Error() string {
	return "the server is shutting down or starting up: " + serverMessage(e.err)
}
func (e *ServerShutdownError) Unwrap() error { return e.err }

// Hint implements [Hinter].
func (e *ServerShutdownError) Hint() string { return "walferry connects again by itself" }

// TooManyConnectionsError says that the server has no free connection, walsender or slot.
type TooManyConnectionsError struct{ err error }

func (e *TooManyConnectionsError) Error() string {
	return "the server has no room: " + serverMessage(e.err)
}
func (e *TooManyConnectionsError) Unwrap() error { return e.err }

// Hint implements [Hinter].
func (e *TooManyConnectionsError) Hint() string {
	return "raise max_wal_senders, max_replication_slots or max_connections (each needs a restart), or free one: SELECT slot_name, active FROM pg_replication_slots"
}

// ConnectError says that no connection could be made, or that one was lost without a word from the server.
type ConnectError struct{ err error }

func (e *ConnectError) Error() string {
	// pgconn writes a line for each address, and one twice when sslmode allows a second try without TLS.
	var lines []string
	for line := range strings.Lines(e.err.Error()) {
		if line = strings.TrimSpace(line); line != "" && !slices.Contains(lines, line) {
			lines = append(lines, line)
		}
	}
	return "no connection to the server: " + strings.Join(lines, " ")
}
func (e *ConnectError) Unwrap() error { return e.err }

// Hint implements [Hinter].
func (e *ConnectError) Hint() string {
	return "check that the server runs, that host, port and sslmode of the DSN are right, and what the server's log says; walferry connects again by itself"
}

// CertificateError says that one side of a TLS connection does not accept the other's certificate. It stays so until somebody
// changes a certificate or the DSN.
type CertificateError struct{ err error }

func (e *CertificateError) Error() string { return (&ConnectError{e.err}).Error() }
func (e *CertificateError) Unwrap() error { return e.err }

// Hint implements [Hinter].
func (e *CertificateError) Hint() string {
	if _, ok := errors.AsType[x509.UnknownAuthorityError](e.err); ok {
		return "set sslrootcert in the DSN to the authority that signed the server's certificate"
	}
	if _, ok := errors.AsType[x509.HostnameError](e.err); ok {
		return "connect to a name that stands in the server's certificate, or set sslmode=verify-ca, which does not look at the name"
	}
	if remoteAlert(e.err) {
		return "set sslcert and sslkey in the DSN to a certificate of an authority that is in the server's ssl_ca_file"
	}
	return "compare sslmode, sslrootcert, sslcert and sslkey of the DSN with the server's certificate"
}

// remoteAlert reports whether the server ended the TLS connection with an alert: it wants a certificate, or another one.
func remoteAlert(err error) bool {
	op, ok := errors.AsType[*net.OpError](err)
	return ok && op.Op == "remote error"
}

// certificate reports whether a connection failed for certificates alone. Where another host of the DSN could not be reached,
// it is worth another try.
func certificate(err error) bool {
	if op, ok := errors.AsType[*net.OpError](err); ok && op.Op == "dial" {
		return false
	}
	if _, ok := errors.AsType[x509.UnknownAuthorityError](err); ok {
		return true
	}
	if _, ok := errors.AsType[x509.HostnameError](err); ok {
		return true
	}
	if _, ok := errors.AsType[x509.CertificateInvalidError](err); ok {
		return true
	}
	return remoteAlert(err)
}

// ReadOnlyError says that no host of the DSN takes writes.
type ReadOnlyError struct{ err error }

func (e *ReadOnlyError) Error() string { return "no host of the DSN is a primary that takes writes" }
func (e *ReadOnlyError) Unwrap() error { return e.err }

// Hint implements [Hinter].
func (e *ReadOnlyError) Hint() string {
	return "point the DSN at the primary, or list all hosts (host=a,b); a role or database with default_transaction_read_only = on looks like a standby too"
}

// NeedsTextError says that a published column's type has no binary output function: the stream must be started in text mode.
type NeedsTextError struct{ err error }

func (e *NeedsTextError) Error() string {
	return "a published type has no binary form: " + serverMessage(e.err)
}
func (e *NeedsTextError) Unwrap() error { return e.err }

// Hint implements [Hinter].
func (e *NeedsTextError) Hint() string {
	return "the stream starts again in text mode by itself"
}

// GarbageError says that the other side sent bytes that are not the replication protocol.
type GarbageError struct{ Reason string }

func (e *GarbageError) Error() string {
	return "the server sent something that is not the replication protocol: " + e.Reason
}

// Hint implements [Hinter].
func (e *GarbageError) Hint() string {
	return "check that host and port are a PostgreSQL server and not a proxy or pooler in between"
}

// RowTooLargeError says that one frame is larger than Config.MaxRowBytes.
type RowTooLargeError struct {
	WALStart     pglogrepl.LSN
	Bytes, Limit int64
}

func (e *RowTooLargeError) Error() string {
	return fmt.Sprintf("a row at %s has %d bytes, more than the %d that are allowed", e.WALStart, e.Bytes, e.Limit)
}

// Hint implements [Hinter].
func (e *RowTooLargeError) Hint() string {
	return "raise max_row_bytes (up to 1 GiB; memory use grows to three times that)"
}

// IdentityError says that a side connection reached another server than the stream.
type IdentityError struct{ Want, Got System }

func (e *IdentityError) Error() string {
	return fmt.Sprintf("the side connection reached system %s timeline %d database %q, the stream is on system %s timeline %d database %q",
		e.Got.ID, e.Got.Timeline, e.Got.DB, e.Want.ID, e.Want.Timeline, e.Want.DB)
}

// Hint implements [Hinter].
func (e *IdentityError) Hint() string {
	return "the hosts of the DSN are not one cluster, or a failover is under way; check that each name leads to the same primary"
}

// serverMessage is the server's own sentence when err carries one: pgconn's text around it repeats code and severity.
func serverMessage(err error) string {
	if pe, ok := errors.AsType[*pgconn.PgError](err); ok {
		return pe.Message
	}
	if err == nil {
		return "unknown"
	}
	return err.Error()
}

// classify turns what a server or driver said into the typed error that an operator can act on; an error that it does not
// know is returned as it is. The SQLSTATEs are in the PostgreSQL documentation, appendix A. Where one code stands for several
// conditions, the reporting function decides first, because the words come in the server's language (lc_messages is not
// ours to set); the English words are a second chance for a function that another version calls differently.
func classify(err error, c *Config, user string) error {
	if err == nil {
		return nil
	}
	if _, ours := errors.AsType[Hinter](err); ours {
		return err
	}
	if errors.Is(err, pgconn.ErrReadOnlyConnection) {
		return &ReadOnlyError{err}
	}
	pe, ok := errors.AsType[*pgconn.PgError](err)
	if !ok {
		return err
	}
	switch pe.Code {
	case "28P01", "28000": // invalid_password, invalid_authorization_specification
		return &WrongPasswordError{user, err}
	case "42501": // insufficient_privilege
		// Raised by the walsender at start (14: "must be superuser or replication role …", 16: "permission denied to start
		// WAL sender") and by the slot functions; anything about tables is left to the caller.
		if pe.Routine == "InitPostgres" || pe.Routine == "CheckSlotPermissions" || pe.Routine == "check_permissions" ||
			strings.Contains(pe.Message, "WAL sender") || strings.Contains(pe.Message, "walsender") || strings.Contains(pe.Message, "replication") {
			return &NoReplicationPrivilegeError{user, err}
		}
	case "55006": // object_in_use
		e := &SlotInUseError{Slot: c.Slot, err: err}
		// 'replication slot "x" is active for PID 123'; the number is the only one after the last space in every language.
		if i := strings.LastIndexByte(pe.Message, ' '); i >= 0 {
			if _, err := fmt.Sscanf(pe.Message[i+1:], "%d", &e.PID); err != nil {
				e.PID = 0 // the message has another shape: the error is as good without the number
			}
		}
		return e
	case "42704": // undefined_object
		switch {
		case strings.Contains(pe.Message, "publication") || pe.Routine == "get_publication_oid" || pe.Routine == "get_publication_name":
			return &PublicationMissingError{c.Publication, err}
		case pe.Routine == "ReplicationSlotAcquire" || strings.Contains(pe.Message, "replication slot"):
			return &SlotMissingError{c.Slot, err}
		case strings.Contains(pe.Message, "configuration parameter"):
			// idle_session_timeout came with 14: an older server refuses it at start-up.
			return &UnsupportedVersionError{err: err}
		}
	case "55000": // object_not_in_prerequisite_state
		switch {
		case strings.Contains(pe.Message, "wal_level"):
			return &WALLevelError{err: err}
		case strings.Contains(pe.Message, "replication slot"):
			reason := pe.Message
			if pe.Detail != "" {
				reason = pe.Detail
			}
			return &SlotLostError{c.Slot, reason, err}
		}
	case "58P01": // undefined_file: the segment was removed
		return &SlotLostError{c.Slot, pe.Message, err}
	case "57P01", "57P02", "57P03": // admin_shutdown, crash_shutdown, cannot_connect_now
		return &ServerShutdownError{err}
	case "53300", "53400": // too_many_connections, configuration_limit_exceeded
		return &TooManyConnectionsError{err}
	case "42883": // undefined_function: "no binary output function available for type x"
		if strings.Contains(pe.Message, "binary output") || pe.Routine == "getTypeBinaryOutputInfo" {
			return &NeedsTextError{err}
		}
	case "25006": // read_only_sql_transaction
		return &ReadOnlyError{err}
	}
	return err
}

// canceled returns the cause when ctx has ended, and err otherwise: a stop is not a failure of the server.
func canceled(ctx context.Context, err error) error {
	if err != nil && ctx.Err() != nil {
		return context.Cause(ctx)
	}
	return err
}
