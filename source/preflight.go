package source

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/jackc/pgx/v5"
)

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

// facts is what preflight asks the server in one question.
type facts struct {
	walLevel, syncNames, keepSize, archiveTimeout, archiveMode, synchronizedSlots string
	slots, slotsUsed, senders, sendersUsed                                        int
	replication, super, createDB                                                  bool
	publication, pubOwner                                                         *string
	pubViaRoot, pubOperations                                                     *bool
	ownsPublication                                                               *bool
}

// Preflight looks for everything that would fail later and for what is unwise, each with the SQL that mends it. It changes
// nothing. What could not be asked is a finding too.
func (c *Catalog) Preflight(ctx context.Context) []Finding {
	var out []Finding
	add := func(id string, s Severity, remedy, format string, args ...any) {
		out = append(out, Finding{id, s, fmt.Sprintf(format, args...), remedy})
	}
	failed := func(id string, err error) { add(id, Fail, Hint(err), "%s", err) }

	switch major := c.sys.Major(); {
	case major > MaxVersion:
		add("version", Warn, "", "PostgreSQL %d is newer than the versions walferry was tested with (%d to %d)", major, MinVersion, MaxVersion)
	default:
		add("version", OK, "", "PostgreSQL %d, system %s, timeline %d, database %s", major, c.sys.ID, c.sys.Timeline, c.sys.DB)
	}

	var f facts
	err := c.on(ctx, &c.ask, "ask for settings", func(conn *pgx.Conn) error {
		return conn.QueryRow(ctx, `SELECT current_setting('wal_level'), current_setting('synchronous_standby_names'), current_setting('max_slot_wal_keep_size'),
			current_setting('archive_timeout'), current_setting('archive_mode'), coalesce(current_setting('synchronized_standby_slots', true), ''),
			current_setting('max_replication_slots')::int, (SELECT count(*) FROM pg_replication_slots)::int,
			current_setting('max_wal_senders')::int, (SELECT count(*) FROM pg_stat_get_wal_senders())::int,
			r.rolreplication OR EXISTS (SELECT FROM pg_roles g WHERE g.rolname = 'rds_replication' AND pg_has_role(r.oid, g.oid, 'member')),
			r.rolsuper, has_database_privilege(current_database(), 'CREATE'),
			p.pubname::text, pg_get_userbyid(p.pubowner)::text, p.pubviaroot, p.pubinsert AND p.pubupdate AND p.pubdelete AND p.pubtruncate,
			pg_has_role(p.pubowner, 'usage')
			FROM pg_roles r LEFT JOIN pg_publication p ON p.pubname = $1 WHERE r.rolname = current_user`, c.cfg.Publication).
			Scan(&f.walLevel, &f.syncNames, &f.keepSize, &f.archiveTimeout, &f.archiveMode, &f.synchronizedSlots,
				&f.slots, &f.slotsUsed, &f.senders, &f.sendersUsed, &f.replication, &f.super, &f.createDB,
				&f.publication, &f.pubOwner, &f.pubViaRoot, &f.pubOperations, &f.ownsPublication)
	})
	if err != nil {
		failed("settings", err)
		return out
	}
	slot, err := c.SlotInfo(ctx)
	if err != nil {
		failed("slot", err)
		return out
	}

	if f.walLevel == "logical" {
		add("wal_level", OK, "", "wal_level is logical")
	} else {
		failed("wal_level", &WALLevelError{Level: f.walLevel})
	}
	if f.replication || f.super {
		add("replication_privilege", OK, "", "role %s may use replication", quoteIdent(c.user))
	} else {
		failed("replication_privilege", &NoReplicationPrivilegeError{User: c.user})
	}
	if f.super {
		add("superuser", Warn, "walferry setup", "role %s is a superuser, which walferry does not need", quoteIdent(c.user))
	}
	switch free := f.slots - f.slotsUsed; {
	case slot.Exists, free > 1:
		add("max_replication_slots", OK, "", "%d of %d replication slots are used", f.slotsUsed, f.slots)
	case free == 1:
		add("max_replication_slots", Warn, fmt.Sprintf("ALTER SYSTEM SET max_replication_slots = %d; -- and restart", f.slots+4), "our slot takes the last of %d replication slots", f.slots)
	default:
		add("max_replication_slots", Fail, fmt.Sprintf("ALTER SYSTEM SET max_replication_slots = %d; -- and restart", f.slots+4), "all %d replication slots are used", f.slots)
	}
	switch free := f.senders - f.sendersUsed; {
	case slot.Active, free > 1:
		add("max_wal_senders", OK, "", "%d of %d WAL senders are used", f.sendersUsed, f.senders)
	case free == 1:
		add("max_wal_senders", Warn, fmt.Sprintf("ALTER SYSTEM SET max_wal_senders = %d; -- and restart", f.senders+4), "our stream takes the last of %d WAL senders, and a standby instance needs one for a moment", f.senders)
	default:
		add("max_wal_senders", Fail, fmt.Sprintf("ALTER SYSTEM SET max_wal_senders = %d; -- and restart", f.senders+4), "all %d WAL senders are used", f.senders)
	}
	if syncStandbyMatches(f.syncNames, c.cfg.AppName) {
		failed("synchronous_standby_names", &SyncStandbyError{Names: f.syncNames, AppName: c.cfg.AppName})
	} else {
		add("synchronous_standby_names", OK, "", "the server does not take walferry for a synchronous standby")
	}
	if f.keepSize == "-1" {
		add("max_slot_wal_keep_size", Warn, "ALTER SYSTEM SET max_slot_wal_keep_size = '50GB'; SELECT pg_reload_conf();",
			"max_slot_wal_keep_size is unlimited: a stopped walferry lets WAL fill the disk (with a limit, the slot is lost instead)")
	} else {
		add("max_slot_wal_keep_size", OK, "", "slots may keep %s of WAL", f.keepSize)
	}
	if f.archiveMode != "off" && f.archiveTimeout != "0" {
		add("archive_timeout", Warn, "", "archive_timeout is %s: on an idle server each heartbeat makes the archiver keep one more segment; lengthen heartbeat if that matters", f.archiveTimeout)
	}

	c.preflightSlot(slot, f.synchronizedSlots, add)
	if c.preflightPublication(ctx, f, add, failed) {
		c.preflightTables(ctx, add, failed)
	}
	return out
}

type adder func(id string, s Severity, remedy, format string, args ...any)

func (c *Catalog) preflightSlot(s Slot, synchronized string, add adder) {
	name := quoteLiteral(c.cfg.Slot)
	drop := "SELECT pg_drop_replication_slot(" + name + ");"
	switch {
	case !s.Exists && c.cfg.CreateSlot:
		add("slot", OK, "", "slot %s does not exist yet and will be created", name)
	case !s.Exists:
		add("slot", Fail, "SELECT pg_create_logical_replication_slot("+name+", 'pgoutput');", "slot %s does not exist and slot.create is off", name)
	case s.Lost() != "":
		add("slot", Fail, (&SlotLostError{}).Hint(), "slot %s is lost: %s", name, s.Lost())
	case s.Plugin != "pgoutput":
		add("slot", Fail, drop, "slot %s uses the output plugin %q instead of pgoutput", name, s.Plugin)
	case s.Database != c.sys.DB:
		add("slot", Fail, "choose another slot name", "slot %s belongs to database %s", name, s.Database)
	case s.Temporary:
		add("slot", Fail, "choose another slot name", "slot %s is temporary", name)
	case s.TwoPhase:
		add("slot", Fail, drop, "slot %s was created with two_phase, which walferry does not read", name)
	case s.WALStatus == "unreserved":
		add("slot", Fail, "start walferry now, or raise max_slot_wal_keep_size: ALTER SYSTEM SET max_slot_wal_keep_size = '100GB'; SELECT pg_reload_conf();",
			"slot %s keeps %d bytes of WAL, more than it may, and is lost at the next checkpoint", name, s.RetainedBytes)
	case s.WALStatus == "extended":
		add("slot", Warn, "", "slot %s keeps %d bytes of WAL, more than max_wal_size", name, s.RetainedBytes)
	default:
		add("slot", OK, "", "slot %s keeps %d bytes of WAL", name, s.RetainedBytes)
	}
	if s.Exists && s.Active {
		add("slot_active", Warn, "", "slot %s is in use by process %d: another instance runs", name, s.ActivePID)
	}
	if c.cfg.Failover && c.sys.Major() < 17 {
		add("failover", Warn, "", "failover slots need PostgreSQL 17: after a failover the slot is gone")
	}
	if s.Failover && synchronized == "" {
		add("synchronized_standby_slots", Warn, "ALTER SYSTEM SET synchronized_standby_slots = '<physical slot of each standby>'; SELECT pg_reload_conf();",
			"slot %s is a failover slot but synchronized_standby_slots is empty: walferry may publish what a promoted standby does not have", name)
	}
}

// preflightPublication returns whether there is a publication to look into.
func (c *Catalog) preflightPublication(ctx context.Context, f facts, add adder, failed func(string, error)) bool {
	pub := quoteIdent(c.cfg.Publication)
	d, err := c.ReconcilePublication(ctx, false)
	if err != nil {
		failed("publication", err)
		return f.publication != nil
	}
	for _, m := range d.Missing {
		failed("table_missing", &TableMissingError{[]string{m}})
	}
	for _, n := range d.Notes {
		add("publication_scope", Warn, "", "%s", n)
	}
	// In SQL that a person runs, a statement ends with a semicolon.
	sql := strings.Join(d.SQL, "; ") + ";"
	may := f.super || f.createDB
	if f.publication != nil {
		may = f.ownsPublication != nil && *f.ownsPublication
	}
	switch {
	case f.publication == nil && c.cfg.CreatePublication && may:
		add("publication", OK, "", "publication %s does not exist yet and will be created with %d tables", pub, len(d.Add))
		c.preflightOwners(ctx, d.Add, sql, add, failed)
		return false
	case f.publication == nil:
		add("publication", Fail, sql, "publication %s does not exist, and role %s may not create it (or publication.create is off)", pub, quoteIdent(c.user))
		return false
	case d.Empty():
		add("publication", OK, "", "publication %s is as configured", pub)
	case c.cfg.CreatePublication && may:
		add("publication", OK, "", "publication %s differs and will be altered: %s", pub, strings.ReplaceAll(strings.TrimSpace(d.String()), "\n", ", "))
		c.preflightOwners(ctx, d.Add, sql, add, failed)
	default:
		add("publication", Fail, sql, "publication %s, owned by %s, differs from the configuration: %s", pub, quoteIdent(*f.pubOwner), strings.ReplaceAll(strings.TrimSpace(d.String()), "\n", ", "))
	}
	return true
}

// preflightOwners says which tables our role cannot add to a publication.
func (c *Catalog) preflightOwners(ctx context.Context, tables []string, sql string, add adder, failed func(string, error)) {
	var foreign []string
	err := c.on(ctx, &c.ask, "look at owners", func(conn *pgx.Conn) error {
		return conn.QueryRow(ctx, `SELECT ARRAY(SELECT t FROM unnest($1::text[]) t JOIN pg_class c ON c.oid = t::regclass
			WHERE NOT pg_has_role(c.relowner, 'usage') ORDER BY 1)`, tables).Scan(&foreign)
	})
	if err != nil {
		failed("table_owner", err)
		return
	}
	if len(foreign) > 0 {
		add("table_owner", Fail, sql, "role %s does not own %s, and only an owner can add a table to a publication", quoteIdent(c.user), strings.Join(foreign, ", "))
	}
}

func (c *Catalog) preflightTables(ctx context.Context, add adder, failed func(string, error)) {
	tables, err := c.Tables(ctx)
	if err != nil {
		failed("tables", err)
		return
	}
	if len(tables) == 0 {
		add("tables", Warn, "", "the publication has no tables yet")
	}
	for _, t := range tables {
		name := t.quoted()
		for _, f := range t.Problems() {
			add(f.ID, f.Severity, f.Remedy, "%s", f.Text)
		}
		for _, col := range t.Columns {
			if c.sel.excludes(t.Schema, t.Name, col) && slices.Contains(append(slices.Clone(t.IdentityColumns), t.PrimaryKey...), col) {
				failed("exclude_columns", &ColumnError{name, quoteIdent(col), "it is part of the primary key or the replica identity"})
			}
		}
		toasted := slices.DeleteFunc(slices.Clone(t.Toasted), func(col string) bool { return c.sel.excludes(t.Schema, t.Name, col) })
		if len(toasted) > 0 {
			add("toast", Warn, "ALTER TABLE "+name+" REPLICA IDENTITY FULL;",
				"large values of %s in table %s are not sent when an update leaves them alone: schema.toast says what events hold then", strings.Join(toasted, ", "), name)
		}
	}
}

// PreflightRead looks for what ReadRows would meet when it reads these columns of a table: a role without the right to, and rows
// that row security hides from it. Columns that are not published are left out.
func (c *Catalog) PreflightRead(ctx context.Context, t *Table, columns []string) ([]Finding, error) {
	columns = slices.DeleteFunc(slices.Clone(columns), func(col string) bool { return c.sel.excludes(t.Schema, t.Name, col) })
	if len(columns) == 0 {
		return nil, nil
	}
	var may, hidden bool
	err := c.on(ctx, &c.ask, "look at privileges", func(conn *pgx.Conn) error {
		return conn.QueryRow(ctx, `SELECT has_schema_privilege(c.relnamespace, 'USAGE') AND NOT EXISTS (SELECT FROM unnest($2::text[]) col WHERE NOT has_column_privilege(c.oid, col, 'SELECT')),
			row_security_active(c.oid) AND NOT coalesce((SELECT bool_or(p.polpermissive AND pg_get_expr(p.polqual, p.polrelid) = 'true') AND bool_and(p.polpermissive)
				FROM pg_policy p WHERE p.polrelid = c.oid AND p.polcmd IN ('r', '*')
				AND EXISTS (SELECT FROM unnest(p.polroles) r WHERE r = 0 OR pg_has_role(r, 'usage'))), false)
			FROM pg_class c WHERE c.oid = $1`, t.OID, slices.Concat(t.IdentityColumns, columns)).Scan(&may, &hidden)
	})
	if errors.Is(err, pgx.ErrNoRows) {
		return nil, nil // dropped meanwhile
	}
	if err != nil {
		return nil, err
	}
	role, name := quoteIdent(c.user), t.quoted()
	switch {
	case !may:
		return []Finding{{ID: "refetch", Severity: Fail,
			Text:   fmt.Sprintf("role %s may not read table %s, which toast: refetch needs for %s: the stream would stop at the first update that leaves a large value alone", role, name, strings.Join(columns, ", ")),
			Remedy: fmt.Sprintf("GRANT USAGE ON SCHEMA %s TO %s; GRANT SELECT ON %s TO %s;", quoteIdent(t.Schema), role, name, role)}}, nil
	case hidden: // unless a policy lets the role see all
		return []Finding{{ID: "refetch", Severity: Warn,
			Text:   fmt.Sprintf("row security can hide rows of table %s from role %s: toast: refetch cannot read large values of these, which stay marked", name, role),
			Remedy: fmt.Sprintf("CREATE POLICY walferry ON %s FOR SELECT TO %s USING (true);", name, role)}}, nil
	}
	return nil, nil
}

// A Column names one.
type Column struct{ Schema, Table, Column string }

// OddTimes returns the published columns of dates and times that hold what many languages have no value for, as far as the
// server's statistics show it: infinity, years before 1 and after 9999, 24:00:00.
func (c *Catalog) OddTimes(ctx context.Context, tables []Table) ([]Column, error) {
	var oids []uint32
	for i := range tables {
		oids = append(oids, tables[i].OID)
	}
	var out []Column
	err := c.on(ctx, &c.ask, "look at statistics of times", func(conn *pgx.Conn) error {
		out = nil
		// A partitioned table's own statistics are mostly missing: those of its leaves count for it.
		rows, err := conn.Query(ctx, `SELECT DISTINCT n.nspname::text, c.relname::text, a.attname::text
			FROM unnest($1::oid[]) AS root LEFT JOIN LATERAL pg_partition_tree(root) AS leaf ON true
			JOIN pg_class l ON l.oid = coalesce(leaf.relid, root) JOIN pg_namespace ln ON ln.oid = l.relnamespace
			JOIN pg_class c ON c.oid = root JOIN pg_namespace n ON n.oid = c.relnamespace
			JOIN pg_attribute a ON a.attrelid = l.oid JOIN pg_type t ON t.oid = a.atttypid
			JOIN pg_stats s ON s.schemaname = ln.nspname AND s.tablename = l.relname AND s.attname = a.attname
			WHERE coalesce(nullif(t.typbasetype, 0), t.oid) IN ('date'::regtype, 'time'::regtype, 'timestamp'::regtype, 'timestamptz'::regtype)
			AND concat(s.most_common_vals, ' ', s.histogram_bounds) ~ 'infinity| BC|[0-9]{5,}-|24:00:00' ORDER BY 1, 2, 3`, oids)
		if err != nil {
			return err
		}
		var col Column
		_, err = pgx.ForEachRow(rows, []any{&col.Schema, &col.Table, &col.Column}, func() error {
			if slices.ContainsFunc(tables, func(t Table) bool {
				return t.Schema == col.Schema && t.Name == col.Table && slices.Contains(t.Columns, col.Column)
			}) {
				out = append(out, col)
			}
			return nil
		})
		return err
	})
	return out, err
}
