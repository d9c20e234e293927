package source

import "walferry/decode"

// Table is one table as the publication sends it: with publish_via_partition_root the root of a partition tree.
type Table struct {
	OID          uint32
	Schema, Name string
	Partitioned  bool
	Identity     decode.Identity
	// IdentityColumns are the columns that identify an old row, in index order: of the primary key for default, of the
	// index for using index, none for full and nothing, and none for default without a primary key.
	IdentityColumns []string
	PrimaryKey      []string
	// Columns that are published, in table order.
	Columns   []string
	RowFilter string // SQL text of the publication's row filter, or ""
	Owner     string
	// EstimatedRows is the planner's estimate, -1 when it has none.
	EstimatedRows float64
	// Leaves whose own replica identity is not the root's: updates and deletes there come with another identity.
	OddLeaves []string
}

// Severity of a Finding.
type Severity string

// Severities of a finding.
const (
	OK   Severity = "ok"
	Warn Severity = "warn"
	Fail Severity = "fail"
)

// Finding is one line of the preflight.
type Finding struct {
	ID       string // stable name, for scripts
	Severity Severity
	Text     string
	Remedy   string // SQL or command, "" when there is nothing to do
}

// Diff is what differs between publication and configuration.
type Diff struct {
	Publication string
	Create      bool     // the publication does not exist
	Add, Drop   []string // tables, as schema.table
	Columns     []string // tables whose column list differs
	Options     []string // options to set, for example "publish_via_partition_root = true"
	SQL         []string // what brings the publication to the configuration, in order
}

// Empty reports whether there is nothing to change.
func (d *Diff) Empty() bool { return len(d.SQL) == 0 }
