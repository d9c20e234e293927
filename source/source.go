// Package source is walferry's Postgres side: it makes connections, owns the replication slot and the publication, reads
// the stream of frames that a logical walsender sends, and answers it.
//
// A [Conn] is a replication connection before START_REPLICATION, a [Stream] the same connection after it: frames come out of
// [Stream.Blocks], and what has become durable elsewhere goes back in through [Stream.Confirm]. A [Catalog] is the ordinary
// side connection: it describes slots, publications, tables and types, emits heartbeats and tells what would fail later
// ([Catalog.Preflight]), each finding with the SQL that mends it.
//
// The package knows frames, not what is in them: the bytes of a pgoutput message are handed on as they came (package decode
// reads them). The one exception is the logical message (pgoutput 'M'): with messages 'true' the server sends those of every
// application in the database, no filter exists on its side, and their size has no bound, so the prefix is looked at while
// reading and anything that is not a transactional message with a prefix starting with [MessagePrefix] is skipped unseen.
//
// The protocol is described in the PostgreSQL documentation, chapters "Streaming Replication Protocol", "Logical Streaming
// Replication Protocol" and "Message Formats".
package source

import (
	"errors"
	"fmt"
	"os"
	"regexp"
	"strings"
	"time"

	"github.com/jackc/pglogrepl"
)

// Versions of PostgreSQL that walferry supports, as major numbers.
const (
	MinVersion = 14
	MaxVersion = 18
)

// MessagePrefix is the beginning of the prefixes of our own logical messages; only transactional messages whose prefix
// begins with it are handed on.
const MessagePrefix = "walferry."

// HeartbeatPrefix is the prefix of the message that [Catalog.Heartbeat] emits.
const HeartbeatPrefix = MessagePrefix + "heartbeat"

// Defaults of [Config].
const (
	DefaultAppName          = "walferry"
	DefaultHeartbeat        = 10 * time.Second
	DefaultWALSenderTimeout = 60 * time.Second
	DefaultConnectTimeout   = 10 * time.Second
	DefaultStatementTimeout = 30 * time.Second
	DefaultBufferBytes      = 8 << 20
	DefaultMaxRowBytes      = 128 << 20
)

// Config says which server, slot and publication to read and how. The zero value of a field with a default means the default.
type Config struct {
	// DSN is a connection string in either of libpq's forms, several hosts and every sslmode included. Whatever
	// target_session_attrs it names, only a server that takes writes is accepted: a standby has no publication to own.
	DSN string
	// PasswordFile, when set, is read anew for each connection, so a rotated password needs no restart. One trailing line
	// break is dropped. It wins over a password in DSN.
	PasswordFile string
	// Slot is the name of the replication slot: lower case letters, digits and underscores, at most 63.
	Slot string
	// Publication is the name of the publication; any name of at most 63 bytes.
	Publication string
	// AppName is the application_name of all connections. Default "walferry".
	AppName string

	// Tables are patterns `schema.table` in which * stands for any run of characters and a part in double quotes is taken
	// as it is. Names are compared exactly: nothing is folded to lower case.
	Tables []string
	// Schemas are patterns of schema names whose tables are all captured.
	Schemas []string
	// AllTables captures every table of the database.
	AllTables bool
	// Exclude are patterns like Tables that win over the three above.
	Exclude []string
	// ExcludeColumns are patterns `schema.table.column` of columns that must not leave the server (14: this process). A
	// column of the replica identity or the primary key cannot be excluded.
	ExcludeColumns []string

	// Heartbeat is the time between two heartbeats on an idle slot. Default 10 s. (The pipeline keeps the time.)
	Heartbeat time.Duration
	// WALSenderTimeout is set as wal_sender_timeout of the replication connection: after so long without a sign of life the
	// server gives the slot back. Feedback comes three times as often. Default 60 s; at least 1 s.
	WALSenderTimeout time.Duration
	// ConnectTimeout bounds one attempt to connect to one host. Default 10 s, or the DSN's connect_timeout.
	ConnectTimeout time.Duration
	// StatementTimeout bounds each catalog query and heartbeat. Default 30 s.
	StatementTimeout time.Duration

	// BufferBytes bounds the memory of frames that were read and not yet released. When it is spent the reader stops, and
	// TCP holds the server. A single frame may overdraw it. Default 8 MiB; at least 256 KiB.
	BufferBytes int64
	// MaxRowBytes is the largest frame that is accepted; a larger one ends the stream with *RowTooLargeError. Default 128 MiB.
	MaxRowBytes int64

	// Adopt takes a slot that was made beforehand, starting at its confirmed position.
	Adopt bool
	// CreateSlot and CreatePublication allow making what is missing; a publication is then kept equal to the configuration.
	CreateSlot, CreatePublication bool
	// Failover asks for a slot that is synchronised to standbys (17 and newer; ignored before).
	Failover bool
	// TextMode asks for text instead of binary values.
	TextMode bool

	// OnNotice, when set, is given notices and warnings of the server. It is called from the goroutine that reads.
	OnNotice func(severity, message string)
}

var slotName = regexp.MustCompile(`^[a-z0-9_]{1,63}$`)

// validate fills in defaults and checks that the fields agree.
func (c *Config) validate() error {
	def := func(d *time.Duration, v time.Duration) {
		if *d == 0 {
			*d = v
		}
	}
	def(&c.Heartbeat, DefaultHeartbeat)
	def(&c.WALSenderTimeout, DefaultWALSenderTimeout)
	def(&c.StatementTimeout, DefaultStatementTimeout)
	if c.AppName == "" {
		c.AppName = DefaultAppName
	}
	if c.BufferBytes == 0 {
		c.BufferBytes = DefaultBufferBytes
	}
	if c.MaxRowBytes == 0 {
		c.MaxRowBytes = DefaultMaxRowBytes
	}
	switch {
	case !slotName.MatchString(c.Slot):
		return fmt.Errorf("slot name %q: 1 to 63 lower case letters, digits and underscores are allowed", c.Slot)
	case c.Publication == "" || len(c.Publication) > 63 || strings.ContainsRune(c.Publication, 0):
		return fmt.Errorf("publication name %q: 1 to 63 bytes are allowed", c.Publication)
	case c.WALSenderTimeout < time.Second:
		return fmt.Errorf("wal_sender_timeout %v: at least 1s is needed to answer in time", c.WALSenderTimeout)
	case c.Heartbeat < 0, c.ConnectTimeout < 0, c.StatementTimeout < 0:
		return errors.New("heartbeat, connect and statement timeouts cannot be negative")
	case c.BufferBytes < 256<<10:
		return fmt.Errorf("buffer of %d bytes: at least 256 KiB is needed", c.BufferBytes)
	case c.MaxRowBytes < 1<<10 || c.MaxRowBytes > 1<<30:
		return fmt.Errorf("largest row of %d bytes: between 1 KiB and 1 GiB is allowed", c.MaxRowBytes)
	}
	if _, err := c.selection(); err != nil {
		return err
	}
	return nil
}

// password returns the content of PasswordFile, or "" when there is none.
func (c *Config) password() (string, error) {
	if c.PasswordFile == "" {
		return "", nil
	}
	b, err := os.ReadFile(c.PasswordFile)
	if err != nil {
		return "", fmt.Errorf("read password file: %w", err)
	}
	s := strings.TrimSuffix(string(b), "\n")
	return strings.TrimSuffix(s, "\r"), nil
}

// System is what a server says about itself when a connection is made.
type System struct {
	ID       string        // system identifier, a decimal number
	Timeline int32         // current timeline
	WALEnd   pglogrepl.LSN // flushed end of the WAL at that moment
	DB       string        // name of the database
	Version  int           // server_version_num, for example 150018
}

// Major returns the major version, for example 15.
func (s System) Major() int { return s.Version / 10000 }

// Switch is one line of a timeline's history: Timeline ended at LSN, and its child began there.
type Switch struct {
	Timeline int32
	LSN      pglogrepl.LSN
}
