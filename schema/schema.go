// Package schema turns relations into Avro schemas, and changes into Avro bytes under them.
//
// It has three halves that meet in Table. Derive maps a relation, as the stream describes it, and a descriptor, what
// the catalog adds, to a key and a value schema (types.go holds the mapping, envelope.go the form of events). Somebody
// registers these and gets ids. Table.Encoder compiles a plan for these ids, once for each relation version, and the
// plan appends rows straight from the bytes that Postgres sent, binary or text, with no allocation a change:
//
//	table, err := schema.Derive(relation, descriptor, "shop.public.orders", options)
//	keyID, err := registrar.Register(ctx, table.KeySubject, table.Key, level)
//	valueID, err := registrar.Register(ctx, table.ValueSubject, table.Value, level)
//	encoder := table.Encoder(keyID, valueID)
//	key, err = encoder.AppendKey(key[:0], change, false)
//	value, err = encoder.AppendValue(value[:0], change, 'c', &meta)
//
// The rule for values is: exact or not at all. Binary and text forms of a value give the same Avro bytes; a value that
// its Avro type cannot hold is a *ValueError that names the ways on, never another value. docs/types.md has the type
// mapping, docs/events.md the names of topics, fields and headers.
//
// The package does no I/O. It knows nothing of connections, topics' settings or producers.
//
// # Session settings that text forms rely on
//
// A type's text depends on settings of the session that prints it. Who opens the connection pins PinnedSettings;
// binary forms depend on client_encoding only.
package schema

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
)

// PinnedSettings are the session settings under which this package reads text forms. Under others a value is refused
// or, for client_encoding, not UTF-8 and refused; none is misread, except that money's scale is always two digits.
var PinnedSettings = map[string]string{
	"client_encoding":    "UTF8",
	"DateStyle":          "ISO, MDY",
	"IntervalStyle":      "iso_8601",
	"TimeZone":           "UTC",
	"extra_float_digits": "3",
	"bytea_output":       "hex",
	"lc_monetary":        "C",
	// The names that reg* types print have a schema, and quotes, or not by these.
	"search_path":           "pg_catalog",
	"quote_all_identifiers": "off",
}

// Envelopes.
const (
	EnvelopeDebezium = "debezium" // before, after, source, op, times, transaction, unavailable
	EnvelopeRow      = "row"      // the row itself; the rest is in headers
)

// What Options.UpdateBefore can be.
const (
	BeforeSent = "sent" // what the server sent, null for nothing; the default
	BeforeKey  = "key"  // where it sent nothing, the columns of the replica identity, all else null
)

// Choices of ColumnOptions.
const (
	NumericPrecise = "precise"        // numeric(p,s) as decimal; the default
	NumericString  = "string"         // the text that Postgres prints; the default of a numeric without precision
	NumericScale   = "variable-scale" // a numeric without precision as a record of scale and unscaled value
	NumericDouble  = "double"         // the nearest double
	TimeAvro       = "avro"           // numbers with logical types; the default
	TimeConnect    = "connect"        // Kafka Connect's own types: milliseconds, rounded down
	TimePlain      = "plain"          // the numbers of TimeAvro without logical types
	TimeISO        = "iso"            // the text that Postgres prints
	BinaryBytes    = "bytes"          // the default
	BinaryBase64   = "base64"         // a string
	BinaryHex      = "hex"            // a string of hexadecimal digits
	EnumString     = "string"         // the label; the default
	EnumAvro       = "enum"           // an Avro enum
	RangeText      = "text"           // the text that Postgres prints; the default
	RangeRecord    = "record"         // lower, upper, lower_inclusive, upper_inclusive, empty
	ArrayAvro      = "array"          // one-dimensional arrays as Avro arrays; the default
	ArrayText      = "text"           // the text that Postgres prints

	ToastMark        = "mark"        // null, and named in unavailable; the default
	ToastPlaceholder = "placeholder" // Placeholder where the type has room for it, and named in unavailable
	ToastRefetch     = "refetch"     // the value of now, which the caller reads, see Encoder.Refetch
)

// What Options.Collisions can be.
const (
	CollisionsError  = "error"  // a *CollisionError; the default
	CollisionsSuffix = "suffix" // the second gets _2, the third _3
)

// ColumnOptions are how values of a column are written. The empty string is the table's, or the default.
type ColumnOptions struct {
	Numeric       string // of numeric(p,s): NumericPrecise, NumericString or NumericDouble
	Unconstrained string // of numeric without precision: NumericString, NumericScale or NumericDouble
	Time          string // of date, time, timestamp and timestamptz: TimeAvro, TimeConnect, TimePlain or TimeISO
	Binary        string // of bytea: BinaryBytes, BinaryBase64 or BinaryHex
	Enum          string // EnumString or EnumAvro
	Range         string // of ranges and multiranges: RangeText or RangeRecord
	Array         string // ArrayAvro or ArrayText
	Toast         string // of a value that the server did not send: ToastMark, ToastPlaceholder or ToastRefetch
}

// choices are the options by their names in a configuration, the default first.
func (c *ColumnOptions) choices() []choice {
	return []choice{
		{"numeric", &c.Numeric, []string{NumericPrecise, NumericString, NumericDouble}},
		{"numeric_unconstrained", &c.Unconstrained, []string{NumericString, NumericScale, NumericDouble}},
		{"time", &c.Time, []string{TimeAvro, TimeConnect, TimePlain, TimeISO}},
		{"binary", &c.Binary, []string{BinaryBytes, BinaryBase64, BinaryHex}},
		{"enum", &c.Enum, []string{EnumString, EnumAvro}},
		{"range", &c.Range, []string{RangeText, RangeRecord}},
		{"array", &c.Array, []string{ArrayAvro, ArrayText}},
		{"toast", &c.Toast, []string{ToastMark, ToastPlaceholder, ToastRefetch}},
	}
}

type choice struct {
	name   string
	value  *string
	values []string
}

// Options are what Derive needs to know beyond the table.
type Options struct {
	Name     string // source.name: the logical server, which is the pipeline's name
	DB       string // source.db: the database
	SystemID string // source.system_id: the cluster's system identifier
	Version  string // source.version: walferry's own version
	Envelope string // EnvelopeDebezium (also when empty) or EnvelopeRow

	// ColumnOptions hold for all columns of the table, Columns by column name before them.
	ColumnOptions
	Columns map[string]ColumnOptions

	// Key names the columns of the record key instead of the replica identity's. They must be part of it, or the
	// identity full: what is not in the old tuple of an update or delete would leave ghosts behind.
	Key []string

	// UpdateBefore says what before is in an update whose old row the server did not send, since identity default or index
	// leaves the key as it was: BeforeSent (also when empty) or BeforeKey.
	UpdateBefore string

	// Collisions says what happens when names become the same Avro name: of columns, of attributes of a composite, of
	// labels of an enum that is written as one. CollisionsError (also when empty) or CollisionsSuffix.
	Collisions string

	// Subject makes the names of subjects, see Subjects; SubjectTopic when empty.
	Subject string

	// ExcludeColumns are patterns (path.Match) of columns that events leave out, matched against column, table.column
	// and schema.table.column. A key column cannot be left out.
	ExcludeColumns []string
}

func (o *Options) validate() error {
	switch o.Envelope {
	case "", EnvelopeDebezium, EnvelopeRow:
	default:
		return fmt.Errorf("envelope %q: it is %s or %s", o.Envelope, EnvelopeDebezium, EnvelopeRow)
	}
	switch o.UpdateBefore {
	case "", BeforeSent, BeforeKey:
	default:
		return fmt.Errorf("update_before %q: it is %s or %s", o.UpdateBefore, BeforeSent, BeforeKey)
	}
	switch o.Collisions {
	case "", CollisionsError, CollisionsSuffix:
	default:
		return fmt.Errorf("collisions %q: it is %s or %s", o.Collisions, CollisionsError, CollisionsSuffix)
	}
	if err := o.ColumnOptions.validate(); err != nil {
		return err
	}
	for name, c := range o.Columns {
		if err := c.validate(); err != nil {
			return fmt.Errorf("column %s: %w", name, err)
		}
	}
	return nil
}

func (c *ColumnOptions) validate() error {
	for _, p := range c.choices() {
		if *p.value != "" && !slices.Contains(p.values, *p.value) {
			return fmt.Errorf("%s %q: it is one of %s", p.name, *p.value, strings.Join(p.values, ", "))
		}
	}
	return nil
}

// column returns the options of one column with the table's filled in.
func (o *Options) column(name string) ColumnOptions {
	c := o.Columns[name]
	table := o.ColumnOptions.choices()
	for i, p := range c.choices() {
		if *p.value == "" {
			*p.value = *table[i].value
		}
	}
	return c
}

// Registrar gives a schema its id: registry.Registrar.
type Registrar interface {
	// Register returns the id of the Avro schema under the subject, as a new version if it is not there yet. level is the
	// compatibility level that a subject gets which is not there yet, as the registry names it; "" for none of its own.
	Register(ctx context.Context, subject, avro, level string) (id int32, err error)
}

// ValueError is a value that cannot be written as it is: its Avro type cannot hold it, or its bytes are not a value of
// its type. Nothing was written.
type ValueError struct {
	Table  string // schema.table
	Column string
	Type   string // as Postgres names it
	Reason string // what is wrong, without the value itself
	Remedy string // what to do; "" where only the server can be at fault
	// NeedsText says that the value came in a binary form that is not known: the stream is to be started again in
	// text mode.
	NeedsText bool
	// Stale says that the value is of another version of its type than the descriptor that the table was derived from: a
	// composite has other attributes, an array other elements, an enum a new label. A newer descriptor is needed.
	Stale bool
}

func (e *ValueError) Error() string {
	return fmt.Sprintf("table %s, column %s (%s): %s", e.Table, e.Column, e.Type, e.Reason)
}

// Hint is the way on.
func (e *ValueError) Hint() string { return e.Remedy }

// ErrNoValue is returned where the row envelope has no value to write: a delete is a tombstone there, and a truncate
// has headers only.
var ErrNoValue = errors.New("the row envelope has no value for this operation")
