// Package schema turns relations into Avro schemas, and changes into Avro bytes under them.
//
// It has three halves that meet in Table. Derive maps a relation, as the stream describes it, and a descriptor, what
// the catalog adds, to a key and a value schema (types.go holds the mapping, envelope.go the form of events). Somebody
// registers these and gets ids. Table.Encoder compiles a plan for these ids, once for each relation version, and the
// plan appends rows straight from the bytes that Postgres sent, binary or text, with no allocation a change:
//
//	table, err := schema.Derive(relation, descriptor, "shop.public.orders", options)
//	keyID, err := registrar.Register(ctx, table.KeySubject, table.Key)
//	valueID, err := registrar.Register(ctx, table.ValueSubject, table.Value)
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
}

// Envelopes.
const (
	EnvelopeDebezium = "debezium" // before, after, source, op, times, transaction, unavailable
	EnvelopeRow      = "row"      // the row itself; the rest is in headers
)

// Policies of ColumnOptions.
const (
	NumericPrecise = "precise" // numeric(p,s) as decimal; the default
	NumericString  = "string"  // the text that Postgres prints
	ArrayAvro      = "array"   // one-dimensional arrays as Avro arrays; the default
	ArrayText      = "text"    // the text that Postgres prints; needs a stream in text mode
	TimeAvro       = "avro"    // numbers with logical types; the default
	TimeISO        = "iso"     // the text that Postgres prints
)

// ColumnOptions are how values of a column are written. The empty string is the table's, or the default.
type ColumnOptions struct {
	Numeric string // NumericPrecise or NumericString
	Array   string // ArrayAvro or ArrayText
	Time    string // TimeAvro or TimeISO: of date, timestamp and timestamptz
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
	for _, p := range []struct{ name, value, a, b string }{
		{"numeric", c.Numeric, NumericPrecise, NumericString},
		{"array", c.Array, ArrayAvro, ArrayText},
		{"time", c.Time, TimeAvro, TimeISO},
	} {
		if p.value != "" && p.value != p.a && p.value != p.b {
			return fmt.Errorf("%s %q: it is %s or %s", p.name, p.value, p.a, p.b)
		}
	}
	return nil
}

// column returns the options of one column with the table's filled in.
func (o *Options) column(name string) ColumnOptions {
	c := o.Columns[name]
	if c.Numeric == "" {
		c.Numeric = o.Numeric
	}
	if c.Array == "" {
		c.Array = o.Array
	}
	if c.Time == "" {
		c.Time = o.Time
	}
	return c
}

// Registrar gives a schema its id. The registry's client and the embedded server implement it.
type Registrar interface {
	// Register returns the id of the Avro schema under the subject, as a new version if it is not there yet.
	Register(ctx context.Context, subject, avro string) (id int32, err error)
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
}

func (e *ValueError) Error() string {
	s := fmt.Sprintf("table %s, column %s (%s): %s", e.Table, e.Column, e.Type, e.Reason)
	if e.Remedy != "" {
		s += "; " + e.Remedy
	}
	return s
}

// ErrNoValue is returned where the row envelope has no value to write: a delete is a tombstone there, and a truncate
// has headers only.
var ErrNoValue = errors.New("the row envelope has no value for this operation")
