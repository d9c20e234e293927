package source

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/jackc/pglogrepl"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"walferry/decode"
)

// CopyTable is what the catalog says of a table whose rows are to be read.
type CopyTable struct {
	// Relation is the table as the stream describes it.
	Relation *decode.Relation
	// Key are the places in Relation.Columns of the columns that rows are read by, in the order of their index: those of the
	// replica identity, for replica identity full those of the primary key. Empty where there is neither.
	Key []int
	// Parts are the tables that hold the rows: the leaves of a partitioned table, or the table itself.
	Parts []CopyPart

	partitioned bool

	order  []orderColumn
	output []string // of each column: the output function of its type, quoted
	filter string   // the publication's row filter
	shape  string   // what the catalog says of the table, as a hash
}

// CopyPart is one table that holds rows.
type CopyPart struct {
	Relation uint32
	Name     string // quoted
	Rows     int64  // the planner's estimate; -1 where it has none
	Bytes    int64  // without indexes and large values
}

// Bytes is the size of all parts.
func (t *CopyTable) Bytes() (n int64) {
	for _, p := range t.Parts {
		n += p.Bytes
	}
	return n
}

// orderColumn is one column of the index that rows are read by. Its operators are those of the index, in whose order
// reading needs no sort whatever collation or operator class it has.
type orderColumn struct {
	name, typ                     string // the column, quoted, with its collation; its type
	oid                           uint32
	less, upTo, equal, from, more string // <, <=, =, >= and > as OPERATOR(…)
	desc, nullsFirst              bool
	nullable                      bool // a row may have a null there: the constraint holds for new rows alone
}

// CopyTable describes a published table; a *TableMissingError where the publication does not have it.
func (c *Catalog) CopyTable(ctx context.Context, oid uint32) (*CopyTable, error) {
	var out *CopyTable
	var before string
	err := c.on(ctx, &c.ask, "look at a table", func(conn *pgx.Conn) error {
		// These are several statements, and whoever alters the table waits for none of them.
		for out == nil || out.shape != before {
			if err := conn.QueryRow(ctx, "SELECT "+c.copyShape(oid)).Scan(&before); err != nil {
				return err
			}
			tables, err := c.tables(ctx, conn)
			if err != nil {
				return err
			}
			i := slices.IndexFunc(tables, func(t Table) bool { return t.OID == oid })
			if i < 0 {
				return &TableMissingError{Patterns: []string{"OID " + strconv.FormatUint(uint64(oid), 10)}}
			}
			if out, err = c.copyTable(ctx, conn, &tables[i]); err != nil {
				return err
			}
		}
		return nil
	})
	return out, err
}

// TableBytes are the sizes of tables in bytes with what is stored out of line, without indexes; of a partitioned table those of its
// leaves together. A table that is gone is missing.
func (c *Catalog) TableBytes(ctx context.Context, tables []uint32) (map[uint32]int64, error) {
	out := map[uint32]int64{}
	if len(tables) == 0 {
		return out, nil
	}
	err := c.on(ctx, &c.ask, "ask for the sizes of tables", func(conn *pgx.Conn) error {
		rows, err := conn.Query(ctx, `SELECT t.oid, sum(pg_table_size(p.oid))::int8
			FROM unnest($1::oid[]) AS t(oid) CROSS JOIN LATERAL (SELECT t.oid UNION SELECT l.relid::oid FROM pg_partition_tree(t.oid::regclass) l) AS p(oid)
			GROUP BY 1 HAVING sum(pg_table_size(p.oid)) IS NOT NULL`, tables)
		if err != nil {
			return err
		}
		var oid uint32
		var size int64
		_, err = pgx.ForEachRow(rows, []any{&oid, &size}, func() error {
			out[oid] = size
			return nil
		})
		return err
	})
	return out, err
}

// Load is what the server has to do besides us.
type Load struct {
	Sessions   int    // of clients, active, without ours
	ReplicaLag int64  // bytes of WAL that the slowest physical standby has still to replay
	Replica    string // its application_name
}

// LoadHiddenError says that our role may not see what others do.
type LoadHiddenError struct{ User string }

func (e *LoadHiddenError) Error() string {
	return fmt.Sprintf("role %s may not see the sessions of others", quoteIdent(e.User))
}

// Hint implements [Hinter].
func (e *LoadHiddenError) Hint() string {
	return fmt.Sprintf("GRANT pg_read_all_stats TO %s, or leave backfill.max_sessions and backfill.max_replica_lag at 0", quoteIdent(e.User))
}

// Load asks for it. The error is a *LoadHiddenError where our role may not see it.
func (c *Catalog) Load(ctx context.Context) (Load, error) {
	var out Load
	err := c.on(ctx, &c.ask, "ask for the server's load", func(conn *pgx.Conn) error {
		var seen bool
		if err := conn.QueryRow(ctx, `SELECT pg_has_role('pg_read_all_stats', 'USAGE'),
			(SELECT count(*) FROM pg_stat_activity WHERE backend_type = 'client backend' AND state = 'active' AND pid <> pg_backend_pid()
				AND NOT (usename = current_user AND application_name = $1)),
			coalesce(r.lag, 0), coalesce(r.application_name, '')
			FROM (SELECT) AS one LEFT JOIN (SELECT (pg_current_wal_lsn() - r.replay_lsn)::int8 AS lag, r.application_name FROM pg_stat_replication r
				WHERE NOT EXISTS (SELECT FROM pg_replication_slots s WHERE s.active_pid = r.pid AND s.slot_type = 'logical') AND r.replay_lsn IS NOT NULL
				ORDER BY 1 DESC LIMIT 1) AS r ON true`, c.cfg.AppName).Scan(&seen, &out.Sessions, &out.ReplicaLag, &out.Replica); err != nil {
			return err
		}
		if !seen {
			return &LoadHiddenError{User: c.user}
		}
		return nil
	})
	return out, err
}

func (c *Catalog) copyTable(ctx context.Context, conn *pgx.Conn, t *Table) (*CopyTable, error) {
	out := &CopyTable{Relation: &decode.Relation{ID: t.OID, Schema: t.Schema, Name: t.Name, Identity: t.Identity}, partitioned: t.Partitioned, filter: t.RowFilter}
	rows, err := conn.Query(ctx, `SELECT a.attname::text, a.atttypid, a.atttypmod, quote_ident(n.nspname) || '.' || quote_ident(f.proname)
		FROM pg_attribute a JOIN pg_type t ON t.oid = a.atttypid JOIN pg_proc f ON f.oid = t.typoutput JOIN pg_namespace n ON n.oid = f.pronamespace
		WHERE a.attrelid = $1 AND a.attnum > 0 AND NOT a.attisdropped AND a.attname::text = ANY ($2) ORDER BY a.attnum`, t.OID, t.Columns)
	if err != nil {
		return nil, err
	}
	var col decode.Column
	var output string
	if _, err := pgx.ForEachRow(rows, []any{&col.Name, &col.Type, &col.Mod, &output}, func() error {
		col.Key = t.Identity == decode.IdentityFull || slices.Contains(t.IdentityColumns, col.Name)
		out.Relation.Columns = append(out.Relation.Columns, col)
		out.output = append(out.output, output)
		return nil
	}); err != nil {
		return nil, err
	}
	index := "i.indisreplident"
	switch t.Identity {
	case decode.IdentityDefault:
		index = "i.indisprimary AND i.indimmediate" // a deferrable one is no replica identity: the table has no key on the stream
	case decode.IdentityFull:
		index = "i.indisprimary"
	case decode.IdentityIndex, decode.IdentityNothing:
	}
	if t.Identity != decode.IdentityNothing {
		if err := c.order(ctx, conn, out, index); err != nil {
			return nil, err
		}
		if len(out.order) > 0 && slices.ContainsFunc(out.order, func(o orderColumn) bool { return o.less == "" }) {
			return nil, &NoOrderError{Table: out.Relation.String()}
		}
		if i := slices.IndexFunc(out.order, func(o orderColumn) bool { return o.nullable }); i >= 0 {
			return nil, &NullKeyError{Table: out.Relation.String(), Column: out.Relation.Columns[out.Key[i]].Name}
		}
	}
	rows, err = conn.Query(ctx, `SELECT l.oid, quote_ident(n.nspname) || '.' || quote_ident(l.relname), l.reltuples::int8, pg_relation_size(l.oid)
		FROM (SELECT $1::oid AS oid UNION SELECT t.relid::oid FROM pg_partition_tree($1::oid::regclass) t WHERE t.isleaf) AS t
		JOIN pg_class l ON l.oid = t.oid JOIN pg_namespace n ON n.oid = l.relnamespace WHERE l.relkind = 'r' ORDER BY l.oid`, t.OID)
	if err != nil {
		return nil, err
	}
	var part CopyPart
	if _, err = pgx.ForEachRow(rows, []any{&part.Relation, &part.Name, &part.Rows, &part.Bytes}, func() error {
		out.Parts = append(out.Parts, part)
		return nil
	}); err != nil {
		return nil, err
	}
	return out, conn.QueryRow(ctx, "SELECT "+c.copyShape(t.OID)).Scan(&out.shape)
}

// copyShape is an expression for what the catalog says of a table, as a hash: it is another one after whatever changes what the
// stream sends of its rows, where they are, and by which names and in which order they are read.
func (c *Catalog) copyShape(oid uint32) string {
	list := "''"
	if c.sys.Major() >= 15 {
		list = fmt.Sprintf(`coalesce((SELECT concat(r.prattrs::text, r.prqual::text) FROM pg_publication_rel r JOIN pg_publication p ON p.oid = r.prpubid
			WHERE p.pubname = %s AND r.prrelid = %d), '')`, quoteLiteral(c.cfg.Publication), oid)
	}
	return fmt.Sprintf(`coalesce((SELECT md5(concat(t.relname, ',', (SELECT nspname FROM pg_namespace n WHERE n.oid = t.relnamespace), ',', t.relreplident, ',', %s, ';',
		(SELECT string_agg(concat_ws(',', a.attnum, a.attname, a.atttypid, a.atttypmod, a.attisdropped, a.attgenerated), ';' ORDER BY a.attnum)
			FROM pg_attribute a WHERE a.attrelid = t.oid AND a.attnum > 0),
		(SELECT string_agg(concat_ws(',', i.indexrelid, i.indkey::text, i.indoption::text, i.indcollation::text), ';' ORDER BY i.indexrelid)
			FROM pg_index i WHERE i.indrelid = t.oid AND (i.indisprimary OR i.indisreplident)),
		';', CASE WHEN t.relkind = 'p' THEN (WITH RECURSIVE p(oid) AS (SELECT t.oid UNION ALL SELECT i.inhrelid FROM pg_inherits i JOIN p ON i.inhparent = p.oid
			WHERE NOT i.inhdetachpending) SELECT string_agg(concat_ws(',', l.oid, ln.nspname, l.relname), ';' ORDER BY l.oid)
			FROM p JOIN pg_class l ON l.oid = p.oid JOIN pg_namespace ln ON ln.oid = l.relnamespace) END))
		FROM pg_class t WHERE t.oid = %d), '')`, list, oid)
}

// order finds the columns of the table's index that is meant, with its operators.
func (c *Catalog) order(ctx context.Context, conn *pgx.Conn, t *CopyTable, index string) error {
	operator := func(strategy int) string {
		return fmt.Sprintf(`coalesce((SELECT 'OPERATOR(' || quote_ident(n.nspname) || '.' || p.oprname || ')' FROM pg_amop m JOIN pg_operator p ON p.oid = m.amopopr
			JOIN pg_namespace n ON n.oid = p.oprnamespace JOIN pg_am a ON a.oid = m.amopmethod AND a.amname = 'btree' WHERE m.amopfamily = k.opcfamily AND m.amoplefttype = k.opcintype
			AND m.amoprighttype = k.opcintype AND m.amopstrategy = %d), '')`, strategy)
	}
	rows, err := conn.Query(ctx, `SELECT a.attname::text, quote_ident(a.attname) || coalesce(' COLLATE ' || quote_ident(cn.nspname) || '.' || quote_ident(co.collname), ''),
		format_type(a.atttypid, -1), a.atttypid, u.option & 1 = 1, u.option & 2 = 2,
		EXISTS (SELECT FROM pg_constraint x WHERE x.conrelid = a.attrelid AND x.contype = 'n' AND NOT x.convalidated AND x.conkey = ARRAY[a.attnum]),
		`+operator(1)+`, `+operator(2)+`, `+operator(3)+`, `+operator(4)+`, `+operator(5)+`
		FROM pg_index i CROSS JOIN LATERAL unnest(i.indkey::int2[], i.indclass::oid[], i.indcollation::oid[], i.indoption::int2[]) WITH ORDINALITY u(attnum, class, coll, option, n)
		JOIN pg_attribute a ON a.attrelid = i.indrelid AND a.attnum = u.attnum JOIN pg_opclass k ON k.oid = u.class
		LEFT JOIN pg_collation co ON co.oid = u.coll LEFT JOIN pg_namespace cn ON cn.oid = co.collnamespace
		WHERE i.indrelid = $1 AND `+index+` AND u.n <= i.indnkeyatts ORDER BY u.n`, t.Relation.ID)
	if err != nil {
		return err
	}
	var name string
	var o orderColumn
	_, err = pgx.ForEachRow(rows, []any{&name, &o.name, &o.typ, &o.oid, &o.desc, &o.nullsFirst, &o.nullable, &o.less, &o.upTo, &o.equal, &o.from, &o.more}, func() error {
		i := slices.IndexFunc(t.Relation.Columns, func(c decode.Column) bool { return c.Name == name })
		if i < 0 {
			return fmt.Errorf("column %s of the key of table %s is not published", name, t.Relation)
		}
		t.Key = append(t.Key, i)
		t.order = append(t.order, o)
		return nil
	})
	return err
}

// CanSplit says that the table can be read in ranges beside each other: the columns of its index run in one direction, so one
// comparison of rows bounds a range.
func (t *CopyTable) CanSplit() bool {
	for i := range t.order {
		o := &t.order[i]
		if f := &t.order[0]; o.desc != f.desc || o.behind() != f.behind() || o.until() != f.until() {
			return false
		}
	}
	return len(t.order) > 0
}

// A Chunk is a part of a table in the order of its key, as one snapshot shows it.
type Chunk struct {
	// Snapshot says whose changes the rows contain, LSN the place in the WAL that all of these lie before.
	Snapshot decode.Snapshot
	LSN      pglogrepl.LSN
	// Data is what COPY … (FORMAT binary) sent. It is the caller's.
	Data []byte
	// Rows in Data, and how many were looked at: more where a condition has left rows out.
	Rows, Scanned int
	// Last is the key of the last row that was looked at; nil for none. The caller's.
	Last decode.Tuple
	// Cut: there may be rows behind the last one.
	Cut bool
	// Took is how long the transaction was open.
	Took time.Duration
	Read time.Time
}

// ChunkQuery says what to read.
type ChunkQuery struct {
	Table *CopyTable
	Part  uint32       // one of Table.Parts; 0 for all of them, with Keys
	After decode.Tuple // key, exclusive; nil for the beginning
	To    decode.Tuple // key, inclusive; nil for the end. Only where Table.CanSplit.
	// Keys, if set, are read instead of a range.
	Keys []decode.Tuple
	// Where is a further condition in SQL, "" for none.
	Where string
	// Rows and Bytes bound the chunk. Bytes may be overdrawn by one row.
	Rows  int
	Bytes int
	// Fence is the XID below which every transaction of this database must have ended before the snapshot.
	Fence uint64
	// Timeout bounds each statement.
	Timeout time.Duration
	// At is called at places between the steps of a chunk, for tests that hold it there; nil for none.
	At func(place string)
}

// FenceError says that a transaction is open which is older than the copy: what it has written is neither in a snapshot nor
// certain to come in the stream. The copy waits for its end; the stream does not.
type FenceError struct {
	XID      uint64
	PID      int32  // of its session; 0 where there is none
	Prepared string // the prepared transaction's gid
	User     string // whose it is
	App      string // its application_name
	// Snapshot in which it is open.
	Snapshot decode.Snapshot
}

func (e *FenceError) Error() string {
	switch {
	case e.Prepared != "":
		return fmt.Sprintf("prepared transaction %s (XID %d) is open since before the copy", quoteLiteral(e.Prepared), e.XID)
	case e.PID != 0:
		return fmt.Sprintf("the transaction of pid %d (%s of user %s, XID %d) is open since before the copy", e.PID, cmp.Or(e.App, "an application"), e.User, e.XID)
	}
	return fmt.Sprintf("transaction %d is open since before the copy", e.XID)
}

// Hint implements [Hinter].
func (e *FenceError) Hint() string {
	switch {
	case e.Prepared != "":
		return fmt.Sprintf("COMMIT PREPARED %[1]s, or ROLLBACK PREPARED %[1]s", quoteLiteral(e.Prepared))
	case e.PID != 0:
		return fmt.Sprintf("end it, or SELECT pg_terminate_backend(%d)", e.PID)
	}
	return ""
}

// TableChangedError says that a table is not what it was when it was described.
type TableChangedError struct{ Table string }

func (e *TableChangedError) Error() string {
	return fmt.Sprintf("table %s was altered, or dropped, since it was looked at", e.Table)
}

// NoOrderError says that the index of a table's key gives no order to read rows by, as that of a key WITHOUT OVERLAPS.
type NoOrderError struct{ Table string }

func (e *NoOrderError) Error() string {
	return fmt.Sprintf("table %s cannot be copied: the index of its key is no btree, so there is no order to read its rows in", e.Table)
}

// Hint implements [Hinter].
func (e *NoOrderError) Hint() string {
	return "ALTER TABLE … REPLICA IDENTITY USING INDEX with a btree index, or `backfill: none` for the table"
}

// NullKeyError says that a column of a table's key may hold a null, of a row from before its NOT NULL constraint: such a row has no key.
type NullKeyError struct{ Table, Column string }

func (e *NullKeyError) Error() string {
	return fmt.Sprintf("table %s cannot be copied: column %s of its replica identity may hold nulls, since its NOT NULL constraint is not valid", e.Table, e.Column)
}

// Hint implements [Hinter].
func (e *NullKeyError) Hint() string {
	return "ALTER TABLE … VALIDATE CONSTRAINT, or `backfill: none` for the table"
}

// UnreadableTableError says that our role may not read a table, or not all of its rows.
type UnreadableTableError struct {
	Table       string // quoted
	User        string
	partitioned bool
	err         error
}

func (e *UnreadableTableError) Error() string {
	return fmt.Sprintf("table %s cannot be copied: %s", e.Table, serverMessage(e.err))
}
func (e *UnreadableTableError) Unwrap() error { return e.err }

// Hint implements [Hinter].
func (e *UnreadableTableError) Hint() string {
	if strings.Contains(e.err.Error(), "row-level security") {
		return fmt.Sprintf("row-level security hides rows of it from us: ALTER ROLE %s BYPASSRLS, or `backfill: none` for the table", quoteIdent(e.User))
	}
	also := ""
	if e.partitioned {
		also = "and on each of its partitions, "
	}
	return fmt.Sprintf("GRANT SELECT ON %s TO %s, %sand USAGE on its schema, or `backfill: none` for the table", e.Table, quoteIdent(e.User), also)
}

// ConditionError says that the condition of a copy is none of a table, or of one of its rows.
type ConditionError struct {
	Table string
	Where string
	err   error
}

func (e *ConditionError) Error() string {
	return fmt.Sprintf("the condition (%s) cannot be asked of table %s: %s", e.Where, e.Table, serverMessage(e.err))
}
func (e *ConditionError) Unwrap() error { return e.err }

// Hint implements [Hinter].
func (e *ConditionError) Hint() string {
	return "write --where as what follows WHERE in a SELECT of that table alone, with the schema before every other name than its columns'; `walferry backfill start` with --force begins a copy under way anew"
}

// condition says of an error that the query of rows met behind Lock and the comparison of the table's shape: what is not there then, or
// cannot be computed, is of the condition.
func condition(t *CopyTable, where string, err error) error {
	pe, ok := errors.AsType[*pgconn.PgError](err)
	if where == "" || !ok || len(pe.Code) != 5 {
		return err
	}
	switch class := pe.Code[:2]; {
	// Wrong data, no such feature, wrong text or names or types, an exception of a function.
	case class == "22", class == "0A", class == "42" && pe.Code != "42501", class == "P0", class == "38", class == "25":
		return &ConditionError{Table: t.Relation.String(), Where: where, err: err}
	}
	return err
}

// lockTimeout is how long a chunk waits for its lock. Whoever wants to alter the table waits behind it, and everybody behind
// them.
const lockTimeout = time.Second

// TimedOut says that the server has broken a statement off, as statement_timeout has it do.
func TimedOut(err error) bool {
	pe, ok := errors.AsType[*pgconn.PgError](err)
	return ok && pe.Code == "57014" // query_canceled
}

// CopyConn is a connection that reads chunks. It is for one goroutine.
type CopyConn struct {
	cat  *Catalog
	conn *pgx.Conn
}

// OpenCopy makes one.
func (c *Catalog) OpenCopy(ctx context.Context) (*CopyConn, error) {
	conn, _, err := c.connect(ctx)
	if err != nil {
		return nil, err
	}
	return &CopyConn{cat: c, conn: conn}, nil
}

// Close ends the connection.
func (r *CopyConn) Close() { closeConn(r.conn) }

// Closed says that the connection has ended.
func (r *CopyConn) Closed() bool { return r.conn.IsClosed() }

// Fence returns an XID that is above those of all transactions which have written anything before.
func (r *CopyConn) Fence(ctx context.Context) (uint64, error) {
	var text string
	if err := r.conn.QueryRow(ctx, `SELECT pg_current_xact_id()::text`).Scan(&text); err != nil {
		return 0, r.cat.wrap(ctx, "take a fence", err, r.conn)
	}
	return strconv.ParseUint(text, 10, 64)
}

// Bounds cuts each part of a table into ranges that hold about as much each, by a sample of its pages: the keys at which
// they end, in their order. The last one is the greatest key that is there. What comes behind it later is on the stream, since
// everything that was written before the fence has ended by then. Where no one comparison bounds a range the end is nil: there is
// one, and it is open. A part without rows has none. n says how many ranges a part shall have.
//
// The error is a *FenceError while a transaction is open that is older than the fence, and a *TableChangedError.
func (r *CopyConn) Bounds(ctx context.Context, t *CopyTable, fence uint64, timeout time.Duration, n func(CopyPart) int) ([][]decode.Tuple, error) {
	out := make([][]decode.Tuple, len(t.Parts))
	if !t.CanSplit() {
		for i := range out {
			out[i] = []decode.Tuple{nil}
		}
		return out, nil
	}
	err := r.begin(ctx, timeout, t.lockNames()...)
	if err == nil {
		_, _, err = r.snapshot(ctx, t, fence)
	}
	for i, p := range t.Parts {
		if err == nil {
			out[i], err = r.bounds(ctx, t, p, n(p))
		}
	}
	if err != nil {
		return nil, r.failed(ctx, t, err)
	}
	r.End(ctx)
	return out, nil
}

func (r *CopyConn) bounds(ctx context.Context, t *CopyTable, part CopyPart, n int) ([]decode.Tuple, error) {
	columns := make([]string, len(t.order))
	for i, o := range t.order {
		columns[i] = o.name
	}
	list := strings.Join(columns, ", ")
	last, err := r.keys(ctx, "SELECT "+list+" FROM ONLY "+part.Name+" ORDER BY "+orderBy(t.order, "", true)+" LIMIT 1")
	if err != nil || len(last) == 0 || n < 2 {
		return last, err
	}
	const pages = 400
	percent := min(100, pages*100*8192/max(float64(part.Bytes), 1))
	keys, places := make([]string, len(t.order)), make([]string, len(t.order))
	for i, o := range t.order {
		keys[i], places[i] = fmt.Sprintf("%s AS k%d", o.name, i+1), fmt.Sprintf("k%d", i+1)
	}
	out, err := r.keys(ctx, fmt.Sprintf(`SELECT %[1]s FROM (SELECT *, row_number() OVER (ORDER BY %[2]s) AS n, count(*) OVER () AS rows
		FROM (SELECT %[3]s FROM ONLY %[4]s TABLESAMPLE SYSTEM (%[5]g)) s) s
		WHERE n IN (SELECT rows * i / %[6]d FROM generate_series(1, %[6]d - 1) i) ORDER BY n`,
		strings.Join(places, ", "), orderBy(t.order, "k%d", false), strings.Join(keys, ", "), part.Name, percent, n))
	return append(out, last...), err
}

// keys are the rows of a query that asks for keys.
func (r *CopyConn) keys(ctx context.Context, sql string) ([]decode.Tuple, error) {
	res := r.conn.PgConn().ExecParams(ctx, sql, nil, nil, nil, []int16{r.format()}).Read()
	if res.Err != nil {
		return nil, res.Err
	}
	var out []decode.Tuple
	for _, row := range res.Rows {
		key := make(decode.Tuple, len(row))
		for i, v := range row {
			key[i] = decode.Datum{Kind: r.kind(), Data: v}
		}
		out = append(out, key)
	}
	return out, nil
}

func (r *CopyConn) kind() decode.Kind {
	if r.cat.cfg.TextMode {
		return decode.Text
	}
	return decode.Binary
}

func (r *CopyConn) format() int16 {
	if r.cat.cfg.TextMode {
		return pgx.TextFormatCode
	}
	return pgx.BinaryFormatCode
}

// orderBy is the order of an index over columns whose names name gives: %d stands for a column's number, "" for its own name.
func orderBy(order []orderColumn, name string, reverse bool) string {
	var out []string
	for i, o := range order {
		column, by, nulls := o.name, o.less, "LAST"
		if name != "" {
			column = fmt.Sprintf(name, i+1)
		}
		if o.desc != reverse {
			by = o.more
		}
		// There are none, but an index in another order than this would not be used.
		if o.nullsFirst != reverse {
			nulls = "FIRST"
		}
		out = append(out, column+" USING "+by+" NULLS "+nulls)
	}
	return strings.Join(out, ", ")
}

// Chunk reads rows under a snapshot of their own. The error is a *FenceError while a transaction is open that is older than
// the fence, and a *TableChangedError.
func (r *CopyConn) Chunk(ctx context.Context, q *ChunkQuery, buf []byte) (*Chunk, error) {
	out, err := r.chunk(ctx, q, buf)
	if err != nil {
		return nil, r.failed(ctx, q.Table, err)
	}
	return out, nil
}

// failed ends the transaction after an error, and says what the error means.
func (r *CopyConn) failed(ctx context.Context, t *CopyTable, err error) error {
	if err == nil {
		return nil
	}
	r.End(ctx)
	if is[*ConditionError](err) {
		return err
	}
	if pe, ok := errors.AsType[*pgconn.PgError](err); ok {
		switch pe.Code {
		case "42P01", "42703", "3F000": // undefined_table, undefined_column, invalid_schema_name
			return &TableChangedError{Table: t.Relation.String()}
		case "42501": // insufficient_privilege
			name := quoteName(t.Relation.Schema, t.Relation.Name)
			return &UnreadableTableError{Table: name, User: r.cat.user, partitioned: t.partitioned, err: err}
		}
	}
	if is[*FenceError](err) || is[*TableChangedError](err) || is[*KeyError](err) {
		return err
	}
	return r.cat.wrap(ctx, "read rows of table "+t.Relation.String(), err, r.conn)
}

func is[T error](err error) bool {
	_, ok := errors.AsType[T](err)
	return ok
}

func (r *CopyConn) chunk(ctx context.Context, q *ChunkQuery, buf []byte) (*Chunk, error) {
	from := quoteName(q.Table.Relation.Schema, q.Table.Relation.Name)
	if !q.Table.partitioned {
		from = "ONLY " + from
	}
	if q.Part != 0 {
		at := slices.IndexFunc(q.Table.Parts, func(p CopyPart) bool { return p.Relation == q.Part })
		if at < 0 {
			return nil, &TableChangedError{Table: q.Table.Relation.String()}
		}
		from = "ONLY " + q.Table.Parts[at].Name
	}
	after, err := r.literals(ctx, q.Table, q.After)
	if err != nil {
		return nil, err
	}
	to, err := r.literals(ctx, q.Table, q.To)
	if err != nil {
		return nil, err
	}
	var keys [][]string
	for _, k := range q.Keys {
		key, err := r.literals(ctx, q.Table, k)
		if err != nil {
			return nil, err
		}
		keys = append(keys, key)
	}
	begun := time.Now()
	// The lock comes first: it does not freeze the snapshot, and without it an ALTER that rewrites the table between snapshot
	// and COPY makes the COPY return nothing. The snapshot is the first thing that is asked, and the WAL's end comes after it:
	// a transaction that others see has written its commit before.
	if err := r.begin(ctx, q.Timeout, from); err != nil {
		return nil, err
	}
	q.at("chunk-locked")
	out := &Chunk{Read: begun}
	if out.Snapshot, out.LSN, err = r.snapshot(ctx, q.Table, q.Fence); err != nil {
		return nil, err
	}
	q.at("chunk-snapshot")
	// A condition can leave so many rows out that a chunk full of the others takes for ever. So the chunk ends at a key that is so
	// many rows away, whatever is left of them.
	var until decode.Tuple
	if bounded := q.Keys == nil && q.Table.CanSplit() && (q.Where != "" || q.Table.filter != ""); bounded {
		if until, err = r.bound(ctx, q, from, after, to); err != nil {
			return nil, err
		}
		if until != nil {
			if to, err = r.literals(ctx, q.Table, until); err != nil {
				return nil, err
			}
		}
	}
	w := r.newRowWriter(q.Table, buf, q.Bytes)
	w.full = func() error { return errChunkFull }
	if _, err := r.conn.PgConn().CopyTo(ctx, w, "COPY ("+r.query(q, from, after, to, keys)+") TO STDOUT (FORMAT binary)"); err != nil && !errors.Is(w.err, errChunkFull) {
		return nil, condition(q.Table, q.Where, errors.Join(w.err, err))
	}
	if w.err == nil {
		if err := w.reader.Close(); err != nil {
			return nil, err
		}
		if err := r.conn.PgConn().Exec(ctx, "COMMIT").Close(); err != nil {
			return nil, err
		}
	}
	out.Took = time.Since(begun)
	out.Data, out.Rows, out.Scanned = w.data, w.rows, w.rows
	switch {
	case w.err == nil && until != nil:
		out.Last, out.Scanned, out.Cut = until, q.Rows, true
	case w.rows > 0:
		out.Last = w.key
		out.Cut = w.err != nil || q.Keys == nil && w.rows >= q.Rows
	}
	return out, nil
}

// bound is the key of the last of so many rows as the chunk shall have, whether the conditions hold for them or not; nil if there are
// fewer.
func (r *CopyConn) bound(ctx context.Context, q *ChunkQuery, from string, after, to []string) (decode.Tuple, error) {
	t := q.Table
	columns := make([]string, len(t.order))
	for i, o := range t.order {
		columns[i] = o.name
	}
	sql := "SELECT " + strings.Join(columns, ", ") + " FROM " + from
	if conds := t.between(after, to); len(conds) > 0 {
		sql += " WHERE " + strings.Join(conds, " AND ")
	}
	keys, err := r.keys(ctx, fmt.Sprintf("%s ORDER BY %s OFFSET %d LIMIT 1", sql, orderBy(t.order, "", false), q.Rows-1))
	if err != nil || len(keys) == 0 {
		return nil, err
	}
	return keys[0], nil
}

// between are the conditions for keys behind after, up to to.
func (t *CopyTable) between(after, to []string) (conds []string) {
	if after != nil {
		conds = append(conds, rowCompare(t.order, t.order[0].behind(), after))
	}
	if to != nil {
		conds = append(conds, rowCompare(t.order, t.order[0].until(), to))
	}
	return conds
}

func (q *ChunkQuery) at(place string) {
	if q.At != nil {
		q.At(place)
	}
}

// Check plans the queries of a table's rows, and reads none: it says whether our role may read them, and whether they can be held
// to a condition in SQL, which is "" for none. The error is an *UnreadableTableError or a *ConditionError where it is that.
func (r *CopyConn) Check(ctx context.Context, t *CopyTable, where string) error {
	names := t.lockNames()
	if err := r.begin(ctx, 0, names...); err != nil {
		return r.failed(ctx, t, err)
	}
	defer r.End(ctx)
	conds := []string{where}
	if where != "" {
		// The statement is prepared, so it is one. A text that closes the bracket around it and goes on as something else fails
		// within two brackets, and one that closes two fails within one.
		conds = append(conds, "("+where+"\n)")
	}
	for _, from := range names {
		for _, cond := range conds {
			q := &ChunkQuery{Table: t, Where: cond, Rows: 1}
			out := r.conn.PgConn().ExecParams(ctx, "EXPLAIN "+r.query(q, from, nil, nil, nil), nil, nil, nil, nil).Read()
			if out.Err != nil {
				return r.failed(ctx, t, condition(t, where, out.Err))
			}
		}
	}
	return nil
}

// lockNames are the tables to be locked: those that hold the rows, or one without partitions itself.
func (t *CopyTable) lockNames() []string {
	names := make([]string, len(t.Parts))
	for i, p := range t.Parts {
		names[i] = "ONLY " + p.Name
	}
	if len(names) == 0 {
		names = append(names, "ONLY "+quoteName(t.Relation.Schema, t.Relation.Name))
	}
	return names
}

// begin begins a transaction that has tables locked and no snapshot yet. No statement runs longer than timeout, 0 for any time.
func (r *CopyConn) begin(ctx context.Context, timeout time.Duration, tables ...string) error {
	statements := []string{
		"BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY",
		fmt.Sprintf("SET LOCAL lock_timeout = '%s'; SET LOCAL row_security = off; SET LOCAL statement_timeout = '%s'; SET LOCAL idle_in_transaction_session_timeout = 0",
			milliseconds(lockTimeout), milliseconds(timeout)),
	}
	if len(tables) > 0 { // a partitioned table may have no partition
		statements = append(statements, "LOCK TABLE "+strings.Join(tables, ", ")+" IN ACCESS SHARE MODE")
	}
	// In one message: the server analyses each statement when those before it are done, and none of these takes a snapshot.
	return r.conn.PgConn().Exec(ctx, strings.Join(statements, "; ")).Close()
}

// snapshot takes the transaction's snapshot, and then the WAL's end; and holds the table to what it was, and the snapshot to the
// fence.
func (r *CopyConn) snapshot(ctx context.Context, t *CopyTable, fence uint64) (s decode.Snapshot, lsn pglogrepl.LSN, err error) {
	var text, end string
	var same bool
	if err := r.conn.QueryRow(ctx, `SELECT pg_current_snapshot()::text, pg_current_wal_insert_lsn()::text, `+r.cat.copyShape(t.Relation.ID)+` = $1`, t.shape).Scan(&text, &end, &same); err != nil {
		return s, 0, err
	}
	if !same {
		return s, 0, &TableChangedError{Table: t.Relation.String()}
	}
	if s, err = decode.ParseSnapshot(text); err != nil {
		return s, 0, err
	}
	if lsn, err = pglogrepl.ParseLSN(end); err != nil {
		return s, 0, err
	}
	return s, lsn, r.fenced(ctx, &s, fence)
}

// WALEnd returns the place where the server writes its WAL: all that has happened before lies before it.
func (r *CopyConn) WALEnd(ctx context.Context) (pglogrepl.LSN, error) {
	var text string
	if err := r.conn.QueryRow(ctx, `SELECT pg_current_wal_insert_lsn()::text`).Scan(&text); err != nil {
		return 0, r.cat.wrap(ctx, "ask where the WAL ends", err, r.conn)
	}
	return pglogrepl.ParseLSN(text)
}

// Lock begins the one transaction under which a table without a key is read: Snapshot, then Whole, then End follow, or End
// alone. It returns a *FenceError while Snapshot would. The snapshot, nil for none, was taken before: what it sees every later one
// sees too.
func (r *CopyConn) Lock(ctx context.Context, t *CopyTable, fence uint64) (*decode.Snapshot, error) {
	var text string
	if err := r.conn.QueryRow(ctx, `SELECT pg_current_snapshot()::text`).Scan(&text); err != nil {
		return nil, r.failed(ctx, t, err)
	}
	s, err := decode.ParseSnapshot(text)
	if err != nil {
		return nil, err
	}
	if err = r.fenced(ctx, &s, fence); err == nil {
		err = r.begin(ctx, 0, t.lockNames()...)
	}
	return &s, r.failed(ctx, t, err)
}

// Snapshot takes the snapshot, and then the place in the WAL that all which it sees lies before. It waits for nothing.
func (r *CopyConn) Snapshot(ctx context.Context, t *CopyTable, fence uint64) (decode.Snapshot, pglogrepl.LSN, error) {
	s, lsn, err := r.snapshot(ctx, t, fence)
	return s, lsn, r.failed(ctx, t, err)
}

// Whole reads all rows. Each time that so many bytes are together, and at the end of each part, piece gets a buffer of COPY's binary
// format, in which rows whole, and returns the next buffer; a buffer without rows comes back as it is. It begins with nil, and
// nothing comes behind the piece of which more is false.
func (r *CopyConn) Whole(ctx context.Context, t *CopyTable, where string, bytes int, piece func(data []byte, rows int, more bool) ([]byte, error)) error {
	next, err := piece(nil, 0, true)
	if err != nil {
		return err
	}
	for i, p := range t.Parts {
		w := r.newRowWriter(t, next, bytes)
		w.full = func() error {
			room, err := piece(w.data, w.rows, true)
			// Every piece but the first begins without a head, and a reader wants one.
			w.data, w.rows = append(room[:0], decode.CopyHead...), 0
			return err
		}
		sql := r.query(&ChunkQuery{Table: t, Where: where}, "ONLY "+p.Name, nil, nil, nil)
		if _, err := r.conn.PgConn().CopyTo(ctx, w, "COPY ("+sql+") TO STDOUT (FORMAT binary)"); err != nil {
			return r.failed(ctx, t, condition(t, where, errors.Join(w.err, err)))
		}
		if err := w.reader.Close(); err != nil {
			return err
		}
		if next, err = piece(w.data, w.rows, i < len(t.Parts)-1); err != nil {
			return err
		}
	}
	return nil
}

// End ends the transaction.
func (r *CopyConn) End(ctx context.Context) {
	if !r.conn.IsClosed() && r.conn.PgConn().TxStatus() != 'I' {
		if _, err := r.conn.Exec(ctx, "ROLLBACK"); err != nil {
			closeConn(r.conn)
		}
	}
}

// maxRow is the longest row that is taken, in bytes.
func (c *Catalog) maxRow() int64 {
	if c.cfg.MaxRowBytes > 0 {
		return c.cfg.MaxRowBytes
	}
	return DefaultMaxRowBytes
}

// errChunkFull breaks a COPY off: the connection ends with it, and what has come is a whole chunk, since it came in the order
// of the key.
var errChunkFull = errors.New("the chunk is full")

// rowWriter takes what COPY sends. When it has limit bytes it calls full, which may make room; its error breaks the COPY off.
type rowWriter struct {
	data    []byte
	limit   int
	full    func() error
	reader  *decode.CopyReader
	columns []int        // of the key
	rows    int          // in data
	key     decode.Tuple // of the last row
	err     error
}

// newRowWriter makes a writer into data for the rows of a table, whose last one's key it keeps.
func (r *CopyConn) newRowWriter(t *CopyTable, data []byte, limit int) *rowWriter {
	return &rowWriter{
		data: data[:0], limit: limit, columns: t.Key, key: make(decode.Tuple, len(t.Key)),
		reader: decode.NewCopyReader(slices.Repeat([]decode.Kind{r.kind()}, len(t.Relation.Columns)), int(r.cat.maxRow())),
	}
}

// trailer is the length of what ends COPY's binary format.
const trailer = 2

// Write takes one CopyData message, which holds one whole row and may hold the format's head, or its trailer.
func (w *rowWriter) Write(b []byte) (int, error) {
	if w.err != nil {
		return 0, w.err
	}
	if w.rows > 0 && len(w.data)+len(b) > w.limit && len(b) > trailer {
		if w.err = w.full(); w.err != nil {
			return 0, w.err
		}
	}
	w.data = append(w.data, b...)
	w.reader.Feed(b)
	for {
		row, err := w.reader.Next()
		if err != nil {
			w.err = err
			return 0, err
		}
		if row == nil {
			return len(b), nil
		}
		w.rows++
		for i, c := range w.columns {
			w.key[i].Kind, w.key[i].Data = row[c].Kind, append(w.key[i].Data[:0], row[c].Data...)
		}
	}
}

// literals are the values of a key as SQL writes them, with their types. The server makes them: it reads them again.
func (r *CopyConn) literals(ctx context.Context, t *CopyTable, key decode.Tuple) ([]string, error) {
	if key == nil {
		return nil, nil
	}
	if len(key) != len(t.order) {
		return nil, &TableChangedError{Table: t.Relation.String()}
	}
	var list []string
	var values [][]byte
	var types []uint32
	var formats []int16
	for i, d := range key {
		list = append(list, fmt.Sprintf("format('%%L', $%d)", i+1))
		values, types = append(values, d.Data), append(types, t.order[i].oid)
		format := int16(pgx.TextFormatCode)
		if d.Kind == decode.Binary {
			format = pgx.BinaryFormatCode
		}
		formats = append(formats, format)
		if d.Data == nil {
			values[i] = []byte{} // a null would be another thing
		}
	}
	out := r.conn.PgConn().ExecParams(ctx, "SELECT "+strings.Join(list, ", "), values, types, formats, nil).Read()
	if out.Err != nil {
		return nil, keyError(out.Err)
	}
	texts := make([]string, len(key))
	for i, v := range out.Rows[0] {
		texts[i] = string(v) + "::" + t.order[i].typ
	}
	return texts, nil
}

// query is the statement that reads a chunk.
func (r *CopyConn) query(q *ChunkQuery, from string, after, to []string, keys [][]string) string {
	t := q.Table
	columns := make([]string, len(t.Relation.Columns))
	for i, c := range t.Relation.Columns {
		columns[i] = quoteIdent(c.Name)
		if r.cat.cfg.TextMode {
			// ::text is another form than the stream's for inet, char and boolean.
			columns[i] = "textin(" + t.output[i] + "(" + columns[i] + "))"
		}
	}
	var base []string
	for _, cond := range []string{t.filter, q.Where} {
		if cond != "" {
			base = append(base, "("+cond+"\n)") // it may end with a comment
		}
	}
	read := func(columns []string, conds ...string) string {
		s := "SELECT " + strings.Join(columns, ", ") + " FROM " + from
		if conds = append(slices.Clip(conds), base...); len(conds) > 0 {
			s += " WHERE " + strings.Join(conds, " AND ")
		}
		return s
	}
	if len(t.order) == 0 {
		return read(columns)
	}
	limit := " LIMIT " + strconv.Itoa(q.Rows)
	ordered := " ORDER BY " + orderBy(t.order, "", false) + limit
	switch {
	case keys != nil:
		var any []string
		for _, k := range keys {
			var all []string
			for i, o := range t.order {
				all = append(all, o.name+" "+o.equal+" "+k[i])
			}
			any = append(any, "("+strings.Join(all, " AND ")+")")
		}
		return read(columns, "("+strings.Join(any, " OR ")+")")
	case t.CanSplit():
		return read(columns, t.between(after, to)...) + ordered
	case after == nil:
		return read(columns) + ordered
	}
	// The columns of the index run in two directions, or have operators of different names: no one comparison says what
	// follows. So what follows is read in pieces, each of which the index gives in order: same in all columns but the last, then in
	// fewer.
	var parts, outer []string
	inner := make([]string, 0, len(columns)+len(t.order))
	for i, c := range columns {
		inner, outer = append(inner, fmt.Sprintf("%s AS c%d", c, i+1)), append(outer, fmt.Sprintf("c%d", i+1))
	}
	for i, o := range t.order {
		inner = append(inner, fmt.Sprintf("%s AS k%d", o.name, i+1))
	}
	for n := len(t.order); n > 0; n-- {
		var conds []string
		for i, o := range t.order[:n-1] {
			conds = append(conds, o.name+" "+o.equal+" "+after[i])
		}
		o := t.order[n-1]
		parts = append(parts, "("+read(inner, append(conds, o.name+" "+o.behind()+" "+after[n-1])...)+ordered+")")
	}
	return "SELECT " + strings.Join(outer, ", ") + " FROM (" + strings.Join(parts, " UNION ALL ") + ") AS p ORDER BY " + orderBy(t.order, "k%d", false) + limit
}

// rowCompare compares the key of a row with values by one operator, from left to right.
func rowCompare(order []orderColumn, op string, values []string) string {
	names := make([]string, len(order))
	for i, o := range order {
		names[i] = o.name
	}
	return "ROW(" + strings.Join(names, ", ") + ") " + op + " ROW(" + strings.Join(values, ", ") + ")"
}

// behind is the operator for what comes after a value in the index, until for what does not.
func (o *orderColumn) behind() string {
	if o.desc {
		return o.less
	}
	return o.more
}

func (o *orderColumn) until() string {
	if o.desc {
		return o.from
	}
	return o.upTo
}

// fenced holds a snapshot to the fence: every transaction with an XID below it has ended. What runs in another database does
// not count.
func (r *CopyConn) fenced(ctx context.Context, s *decode.Snapshot, fence uint64) error {
	for _, x := range s.Running {
		if x >= fence {
			break
		}
		e := &FenceError{XID: x, Snapshot: *s}
		var here bool
		err := r.conn.QueryRow(ctx, `SELECT database = current_database(), pid, gid, owner, app FROM (
			SELECT datname::text AS database, pid, '' AS gid, coalesce(usename::text, '') AS owner, application_name AS app FROM pg_stat_activity WHERE backend_xid = $1::text::xid
			UNION ALL SELECT database::text, 0, gid, owner::text, '' FROM pg_prepared_xacts WHERE transaction = $1::text::xid) x LIMIT 1`,
			strconv.FormatUint(uint64(uint32(x)), 10)).Scan(&here, &e.PID, &e.Prepared, &e.User, &e.App)
		switch {
		case errors.Is(err, pgx.ErrNoRows): // ended since; the next snapshot sees it
			return e
		case err != nil:
			return err
		case here:
			return e
		}
	}
	return nil
}
