package source

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"walferry/decode"
)

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
	// Listed tables are in the publication by their own name, not by their schema's or because it is for all tables.
	Listed bool
	// Member is the OID of what makes the table part of the publication, its own entry or its schema's: another one where it was taken
	// out and put in again. 0 where the publication is for all tables.
	Member uint32
	// OddLeaves are partitions, as "schema"."table", whose own replica identity is not the root's: the server logs old rows by the
	// leaf's identity but describes them by the root's.
	OddLeaves []string
	// Toasted are published columns that may be stored out of line, whose value is not sent when an update leaves it alone;
	// empty for replica identity full, which sends the old value, and where rows cannot become so long that the server would
	// store anything out of line. A long key is stored there too, but sent.
	Toasted []string
}

// usable reports whether updates and deletes can be told apart by a key.
func (t *Table) usable() bool { return t.Identity == 'f' || len(t.IdentityColumns) > 0 }

// Problems are what is wrong with the table's replica identity: what makes updates and deletes fail in the application as
// soon as the table is published, or takes the key from its events.
func (t *Table) Problems() []Finding {
	var out []Finding
	add := func(id string, s Severity, remedy, format string, args ...any) {
		out = append(out, Finding{id, s, fmt.Sprintf(format, args...), remedy})
	}
	name := t.quoted()
	switch {
	case t.Identity == 'n':
		add("replica_identity", Fail, "ALTER TABLE "+name+" REPLICA IDENTITY DEFAULT; -- or FULL without a primary key",
			"table %s has replica identity nothing: updates and deletes on it fail in the application", name)
	case !t.usable():
		add("replica_identity", Fail, "ALTER TABLE "+name+" ADD PRIMARY KEY (...); -- or ALTER TABLE "+name+" REPLICA IDENTITY FULL;",
			"table %s has no replica identity: updates and deletes on it fail in the application, and its events have no key", name)
	case t.Identity == 'f' && len(t.PrimaryKey) == 0:
		add("replica_identity", Warn, "ALTER TABLE "+name+" ADD PRIMARY KEY (...);", "table %s has no primary key: its events have no key", name)
	}
	for _, l := range t.OddLeaves {
		remedy := "ALTER TABLE " + l + " REPLICA IDENTITY DEFAULT;"
		if t.Identity == 'f' {
			remedy = "ALTER TABLE " + l + " REPLICA IDENTITY FULL;"
		}
		add("partition_identity", Fail, remedy, "partition %s has another replica identity than its root %s", l, name)
	}
	return out
}

// String is the table's name in SQL.
func (t *Table) String() string { return t.quoted() }

func (t *Table) quoted() string { return quoteName(t.Schema, t.Name) }

// Fate is what became of a table that was published and is no more.
type Fate int

// Fates of a table.
const (
	TableDropped   Fate = iota + 1
	TableMadeAgain      // dropped, and another one has its name: the publication does not know that one
	TableRemoved        // it is there, and somebody took it out of the publication
	TableAttached       // it is a partition now, published through its root
)

// Fate looks for what became of a table.
func (c *Catalog) Fate(ctx context.Context, t *Table) (Fate, error) {
	var there, partition, name bool
	err := c.on(ctx, &c.ask, "look for table", func(conn *pgx.Conn) error {
		return conn.QueryRow(ctx, `SELECT EXISTS (SELECT FROM pg_class WHERE oid = $1), EXISTS (SELECT FROM pg_class WHERE oid = $1 AND relispartition),
			EXISTS (SELECT FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace WHERE n.nspname = $2 AND c.relname = $3 AND c.relkind IN ('r', 'p'))`,
			t.OID, t.Schema, t.Name).Scan(&there, &partition, &name)
	})
	switch {
	case err != nil:
		return 0, err
	case partition:
		return TableAttached, nil
	case there:
		return TableRemoved, nil
	case name:
		return TableMadeAgain, nil
	}
	return TableDropped, nil
}

// indexColumns is an SQL expression: names of the columns of the index on relation rel that satisfies cond.
func indexColumns(rel, cond string) string {
	return `ARRAY(SELECT a.attname::text FROM pg_index i CROSS JOIN LATERAL unnest(i.indkey::int2[]) WITH ORDINALITY AS k(num, ord)
		JOIN pg_attribute a ON a.attrelid = i.indrelid AND a.attnum = k.num
		WHERE i.indrelid = ` + rel + `.oid AND i.indisvalid AND ` + cond + ` AND k.ord <= i.indnkeyatts ORDER BY k.ord)`
}

// identityColumns is the same for the index that the replica identity takes; a deferrable primary key does not serve as one
// (RelationGetIndexList in relcache.c).
func identityColumns(rel string) string {
	return indexColumns(rel, `i.indimmediate AND (`+rel+`.relreplident = 'd' AND i.indisprimary OR `+rel+`.relreplident = 'i' AND i.indisreplident)`)
}

// Tables returns what the publication sends, by root, in order of schema and name.
func (c *Catalog) Tables(ctx context.Context) ([]Table, error) {
	var out []Table
	err := c.on(ctx, &c.ask, "list published tables", func(conn *pgx.Conn) (err error) {
		out, err = c.tables(ctx, conn)
		return err
	})
	return out, err
}

func (c *Catalog) tables(ctx context.Context, q querier) ([]Table, error) {
	return c.tablesFrom(ctx, q, "pg_get_publication_tables($1)", c.cfg.Publication)
}

// tablesFrom is tables of another set of tables than the publication's; from has their OIDs as relid, and from 15 on attrs and
// qual. The publication's name is always the first argument.
func (c *Catalog) tablesFrom(ctx context.Context, q querier, from string, args ...any) ([]Table, error) {
	attrs, qual, schemaEntry := "NULL::int2[]", "''", "NULL::oid"
	if c.sys.Major() >= 15 {
		schemaEntry = "(SELECT s.oid FROM pg_publication_namespace s JOIN pg_publication b ON b.oid = s.pnpubid WHERE b.pubname = $1 AND s.pnnspid = c.relnamespace)"
		attrs, qual = "p.attrs::int2[]", "coalesce(pg_get_expr(p.qual, p.relid), '')"
	}
	rows, err := q.Query(ctx, `SELECT c.oid, n.nspname::text, c.relname::text, c.relkind = 'p', ascii(c.relreplident::text),
		`+identityColumns("c")+`, `+indexColumns("c", "i.indisprimary")+`,
		ARRAY(SELECT a.attname::text FROM pg_attribute a WHERE a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped
			AND CASE WHEN `+attrs+` IS NULL THEN a.attgenerated = '' ELSE a.attnum = ANY(`+attrs+`) END ORDER BY a.attnum),
		`+qual+`, pg_get_userbyid(c.relowner)::text, c.reltuples::float8,
		EXISTS (SELECT FROM pg_publication_rel r JOIN pg_publication b ON b.oid = r.prpubid WHERE b.pubname = $1 AND r.prrelid = c.oid), coalesce((SELECT r.oid FROM pg_publication_rel r JOIN pg_publication b ON b.oid = r.prpubid
			WHERE b.pubname = $1 AND r.prrelid = c.oid), `+schemaEntry+`, 0),
		ARRAY(SELECT quote_ident(ln.nspname) || '.' || quote_ident(l.relname) FROM pg_partition_tree(c.oid) t JOIN pg_class l ON l.oid = t.relid
			JOIN pg_namespace ln ON ln.oid = l.relnamespace
			WHERE c.relkind = 'p' AND t.isleaf AND l.relkind = 'r' AND (l.relreplident <> c.relreplident
				OR ARRAY(SELECT unnest(`+identityColumns("l")+`) ORDER BY 1) <> ARRAY(SELECT unnest(`+identityColumns("c")+`) ORDER BY 1)) ORDER BY 1),
		ARRAY(SELECT a.attname::text FROM pg_attribute a WHERE a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped
			AND CASE WHEN `+attrs+` IS NULL THEN a.attgenerated = '' ELSE a.attnum = ANY(`+attrs+`) END
			AND a.attstorage IN ('x', 'e') AND c.relreplident <> 'f' AND a.attname::text <> ALL (`+identityColumns("c")+`)
			AND (c.reltoastrelid <> 0 OR EXISTS (SELECT FROM pg_partition_tree(c.oid) t JOIN pg_class l ON l.oid = t.relid WHERE l.reltoastrelid <> 0)) ORDER BY a.attnum)
		FROM `+from+` p JOIN pg_class c ON c.oid = p.relid JOIN pg_namespace n ON n.oid = c.relnamespace
		ORDER BY 2, 3`, args...)
	if err != nil {
		return nil, err
	}
	var out []Table
	var t Table
	var identity int32
	_, err = pgx.ForEachRow(rows, []any{&t.OID, &t.Schema, &t.Name, &t.Partitioned, &identity, &t.IdentityColumns, &t.PrimaryKey, &t.Columns,
		&t.RowFilter, &t.Owner, &t.EstimatedRows, &t.Listed, &t.Member, &t.OddLeaves, &t.Toasted}, func() error {
		t.Identity = decode.Identity(identity)
		out = append(out, t)
		t = Table{} // the next row must not write into this one's slices
		return nil
	})
	return out, err
}

// Diff is what differs between publication and configuration.
type Diff struct {
	Publication string
	Create      bool     // the publication does not exist
	Add, Drop   []string // tables, quoted as in SQL
	Columns     []string // tables whose column list differs
	Options     []string // options that differ, as they should be
	Missing     []string // configured patterns without a star that no table matches
	Notes       []string // what differs and cannot be altered, in sentences
	SQL         []string // what brings the publication to the configuration, in order; to be run in one transaction
}

// Empty reports whether there is nothing to change.
func (d *Diff) Empty() bool { return len(d.SQL) == 0 }

// String shows the difference, one line each.
func (d *Diff) String() string {
	var b strings.Builder
	if d.Create {
		fmt.Fprintf(&b, "create publication %s\n", quoteIdent(d.Publication))
	}
	for _, l := range []struct {
		sign  string
		names []string
	}{{"+ ", d.Add}, {"- ", d.Drop}, {"~ columns of ", d.Columns}, {"~ ", d.Options}, {"? nothing matches ", d.Missing}, {"! ", d.Notes}} {
		for _, n := range l.names {
			b.WriteString(l.sign + n + "\n")
		}
	}
	return b.String()
}

// A candidate is a table that could be published.
type candidate struct {
	oid           uint32
	schema, name  string
	ancestors     []uint32
	full          bool // replica identity full
	usable        bool // updates and deletes of a published table do not fail
	columns, keys []string

	list []string // columns to publish; nil for all
}

func (t *candidate) quoted() string { return quoteName(t.schema, t.name) }

// target is how the table is written in CREATE and ALTER PUBLICATION.
func (t *candidate) target(filter string) string {
	s := t.quoted()
	if t.list != nil {
		quoted := make([]string, len(t.list))
		for i, c := range t.list {
			quoted[i] = quoteIdent(c)
		}
		s += " (" + strings.Join(quoted, ", ") + ")"
	}
	if filter != "" {
		s += " WHERE (" + filter + ")"
	}
	return s
}

// wantedTables returns the tables that the configuration selects, partitions of selected tables left out, and the exact
// patterns that select nothing.
func (c *Catalog) wantedTables(ctx context.Context, q querier) (tables []*candidate, missing []string, err error) {
	// What a publication can hold (is_publishable_class in pg_publication.c); temporary and unlogged tables have no WAL.
	rows, err := q.Query(ctx, `SELECT c.oid, n.nspname::text, c.relname::text, c.relreplident = 'f', c.relreplident = 'f' OR cardinality(`+identityColumns("c")+`) > 0,
		ARRAY(SELECT a.relid::oid FROM pg_partition_ancestors(c.oid) a WHERE a.relid <> c.oid),
		ARRAY(SELECT a.attname::text FROM pg_attribute a WHERE a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped AND a.attgenerated = '' ORDER BY a.attnum),
		`+identityColumns("c")+` || `+indexColumns("c", "i.indisprimary")+`
		FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
		WHERE c.relkind IN ('r', 'p') AND c.relpersistence = 'p' AND c.oid >= 16384 AND n.nspname !~ '^pg_' AND n.nspname <> 'information_schema'
		ORDER BY 2, 3`)
	if err != nil {
		return nil, nil, err
	}
	selected := map[uint32]bool{}
	var all []*candidate
	var t candidate
	var names [][2]string
	_, err = pgx.ForEachRow(rows, []any{&t.oid, &t.schema, &t.name, &t.full, &t.usable, &t.ancestors, &t.columns, &t.keys}, func() error {
		row := t
		t = candidate{}
		names = append(names, [2]string{row.schema, row.name})
		if c.sel.selects(row.schema, row.name) {
			all = append(all, &row)
			selected[row.oid] = true
		}
		return nil
	})
	if err != nil {
		return nil, nil, err
	}
	for _, p := range c.sel.tables {
		if p.exact() && !slices.ContainsFunc(names, func(n [2]string) bool { return p.match(n[0], n[1]) }) {
			missing = append(missing, p.text)
		}
	}
	for _, t := range all {
		if slices.ContainsFunc(t.ancestors, func(a uint32) bool { return selected[a] }) {
			continue
		}
		for _, col := range t.columns {
			if !c.sel.excludes(t.schema, t.name, col) {
				t.list = append(t.list, col)
			} else if slices.Contains(t.keys, col) {
				return nil, nil, &ColumnError{Table: t.quoted(), Column: quoteIdent(col), Reason: "it is part of the primary key or the replica identity"}
			}
		}
		// A column list must cover the replica identity, which is every column when it is full, or the application's updates
		// fail; 14 has no lists. There the column is dropped before encoding.
		if len(t.list) == len(t.columns) || t.full || c.sys.Major() < 15 {
			t.list = nil
		}
		tables = append(tables, t)
	}
	return tables, missing, nil
}

// published is the publication as it is.
type published struct {
	exists, all, viaRoot bool
	operations           bool // all four
	schemas              []string
	tables               map[uint32]publishedTable
}

type publishedTable struct {
	name    string // quoted
	columns []string
	filter  string
}

func (c *Catalog) publishedNow(ctx context.Context, tx pgx.Tx) (published, error) {
	p := published{tables: map[uint32]publishedTable{}}
	var oid uint32
	err := tx.QueryRow(ctx, `SELECT oid, puballtables, pubviaroot, pubinsert AND pubupdate AND pubdelete AND pubtruncate
		FROM pg_publication WHERE pubname = $1`, c.cfg.Publication).Scan(&oid, &p.all, &p.viaRoot, &p.operations)
	if errors.Is(err, pgx.ErrNoRows) {
		return p, nil
	}
	if err != nil {
		return p, err
	}
	p.exists = true
	columns, filter := "NULL::text[]", "''"
	if c.sys.Major() >= 15 {
		columns = "CASE WHEN r.prattrs IS NOT NULL THEN ARRAY(SELECT a.attname::text FROM pg_attribute a WHERE a.attrelid = r.prrelid AND a.attnum = ANY(r.prattrs::int2[]) ORDER BY a.attnum) END"
		filter = "coalesce(pg_get_expr(r.prqual, r.prrelid), '')"
		if err := tx.QueryRow(ctx, `SELECT ARRAY(SELECT n.nspname::text FROM pg_publication_namespace s JOIN pg_namespace n ON n.oid = s.pnnspid
			WHERE s.pnpubid = $1 ORDER BY 1)`, oid).Scan(&p.schemas); err != nil {
			return p, err
		}
	}
	rows, err := tx.Query(ctx, `SELECT r.prrelid, n.nspname::text, c.relname::text, `+columns+`, `+filter+`
		FROM pg_publication_rel r JOIN pg_class c ON c.oid = r.prrelid JOIN pg_namespace n ON n.oid = c.relnamespace WHERE r.prpubid = $1`, oid)
	if err != nil {
		return p, err
	}
	var rel uint32
	var schema, name string
	var t publishedTable
	_, err = pgx.ForEachRow(rows, []any{&rel, &schema, &name, &t.columns, &t.filter}, func() error {
		t.name = quoteName(schema, name)
		p.tables[rel] = t
		t = publishedTable{}
		return nil
	})
	return p, err
}

const publicationOptions = "publish = 'insert, update, delete, truncate', publish_via_partition_root = true"

// diff works out how the publication is brought to the configuration. Wide allows the forms FOR ALL TABLES and TABLES IN SCHEMA,
// which take in later tables by themselves, and which only a superuser may use.
func (c *Catalog) diff(now published, want []*candidate, missing []string, wide bool) Diff {
	d := Diff{Publication: c.cfg.Publication, Missing: missing}
	pub := quoteIdent(c.cfg.Publication)
	if !now.exists {
		d.Create = true
		sql := "CREATE PUBLICATION " + pub
		schemas, ok := c.wideSchemas()
		switch {
		case wide && c.wideAll():
			sql += " FOR ALL TABLES"
		case wide && ok:
			sql += " FOR TABLES IN SCHEMA " + strings.Join(schemas, ", ")
		case len(want) > 0:
			targets := make([]string, len(want))
			for i, t := range want {
				targets[i] = t.target("")
				d.Add = append(d.Add, t.quoted())
			}
			sql += " FOR TABLE " + strings.Join(targets, ", ")
		}
		d.SQL = []string{sql + " WITH (" + publicationOptions + ")"}
		return d
	}
	if !now.operations {
		d.Options = append(d.Options, "publish = 'insert, update, delete, truncate'")
	}
	if !now.viaRoot {
		d.Options = append(d.Options, "publish_via_partition_root = true")
	}
	if len(d.Options) > 0 {
		d.SQL = append(d.SQL, "ALTER PUBLICATION "+pub+" SET ("+strings.Join(d.Options, ", ")+")")
	}
	if now.all {
		if !c.cfg.AllTables || len(c.sel.exclude) > 0 || len(c.sel.columns) > 0 {
			d.Notes = append(d.Notes, "the publication is FOR ALL TABLES, which cannot be altered into a list: the server sends more than the configuration asks for")
		}
		return d
	}
	var drop, add []string
	keep := map[uint32]bool{}
	for _, t := range want {
		keep[t.oid] = true
		is, there := now.tables[t.oid]
		switch {
		case !there && slices.Contains(now.schemas, t.schema) && t.list == nil:
			// Published by its schema.
		case !there && !t.usable && !c.sel.names(t.schema, t.name):
			// Whoever made the table may not know of us: it must not be what breaks their updates.
			d.Notes = append(d.Notes, fmt.Sprintf("table %[1]s is captured by a pattern and not added, because it has no replica identity and its updates and deletes would fail in the application: "+
				"ALTER TABLE %[1]s ADD PRIMARY KEY (...), or ALTER TABLE %[1]s REPLICA IDENTITY FULL; if it is only inserted into: ALTER PUBLICATION %[2]s ADD TABLE %[1]s", t.quoted(), pub))
		case !there:
			d.Add = append(d.Add, t.quoted())
			add = append(add, t.target(""))
		case !sameColumns(is.columns, t.list):
			d.Columns = append(d.Columns, t.quoted())
			drop = append(drop, t.quoted())
			add = append(add, t.target(is.filter))
		}
	}
	for oid, is := range now.tables {
		if !keep[oid] {
			d.Drop = append(d.Drop, is.name)
		}
	}
	slices.Sort(d.Drop)
	if drop = append(drop, d.Drop...); len(drop) > 0 {
		d.SQL = append(d.SQL, "ALTER PUBLICATION "+pub+" DROP TABLE "+strings.Join(drop, ", "))
	}
	if len(add) > 0 {
		d.SQL = append(d.SQL, "ALTER PUBLICATION "+pub+" ADD TABLE "+strings.Join(add, ", "))
	}
	for _, s := range now.schemas {
		if schemas, ok := c.wideSchemas(); !ok || !slices.Contains(schemas, quoteIdent(s)) {
			d.Notes = append(d.Notes, fmt.Sprintf("the publication holds all tables of schema %s, which may be more than the configuration asks for", quoteIdent(s)))
		}
	}
	return d
}

// sameColumns compares column lists as sets: the server keeps no order.
func sameColumns(a, b []string) bool {
	if (a == nil) != (b == nil) || len(a) != len(b) {
		return false
	}
	a, b = slices.Sorted(slices.Values(a)), slices.Sorted(slices.Values(b))
	return slices.Equal(a, b)
}

// wideAll reports whether FOR ALL TABLES says exactly what the configuration says.
func (c *Catalog) wideAll() bool {
	return c.cfg.AllTables && len(c.sel.exclude) == 0 && len(c.sel.columns) == 0
}

// wideSchemas returns the quoted schemas when FOR TABLES IN SCHEMA says exactly what the configuration says.
func (c *Catalog) wideSchemas() ([]string, bool) {
	if c.sys.Major() < 15 {
		return nil, false
	}
	return wideSchemas(&c.cfg, c.sel)
}

func wideSchemas(cfg *Config, sel *selection) ([]string, bool) {
	if cfg.AllTables || len(sel.tables) > 0 || len(sel.exclude) > 0 || len(sel.columns) > 0 || len(sel.schemas) == 0 {
		return nil, false
	}
	var out []string
	for _, p := range sel.schemas {
		if !p.exact() {
			return nil, false
		}
		out = append(out, quoteIdent(p.parts[0][0]))
	}
	return out, true
}

// CreatePublication creates the publication if it does not exist, and otherwise brings it to the configuration; see
// ReconcilePublication. Configured names (patterns without a star) that no table has are a *TableMissingError.
func (c *Catalog) CreatePublication(ctx context.Context) (Diff, error) {
	d, err := c.ReconcilePublication(ctx, false)
	if err != nil {
		return d, err
	}
	if len(d.Missing) > 0 {
		return d, &TableMissingError{d.Missing}
	}
	return c.ReconcilePublication(ctx, true)
}

// ReconcilePublication compares the publication with the configuration and, when apply is set, alters it in one transaction;
// it never drops and creates it again, which would make the slot unreadable. Tables that came to match a pattern are added by
// this, so it is to be called from time to time; not one without a replica identity, unless the configuration names it. When our role may not do it (it must own the publication and the tables it
// adds) the error is a *PublicationPrivilegeError that has the SQL for who may.
//
// The table locks that it needs conflict with DDL and vacuum, not with reads and writes; it waits ten seconds for them.
func (c *Catalog) ReconcilePublication(ctx context.Context, apply bool) (Diff, error) {
	var d Diff
	err := c.once(ctx, "reconcile publication", func(conn *pgx.Conn) error {
		return pgx.BeginFunc(ctx, conn, func(tx pgx.Tx) error {
			if _, err := tx.Exec(ctx, "SET LOCAL lock_timeout = '10s'"); err != nil {
				return err
			}
			want, missing, err := c.wantedTables(ctx, tx)
			if err != nil {
				return err
			}
			now, err := c.publishedNow(ctx, tx)
			if err != nil {
				return err
			}
			var super bool
			if err := tx.QueryRow(ctx, "SELECT rolsuper FROM pg_roles WHERE rolname = current_user").Scan(&super); err != nil {
				return err
			}
			d = c.diff(now, want, missing, super)
			if !apply {
				return nil
			}
			for _, sql := range d.SQL {
				if _, err := tx.Exec(ctx, sql); err != nil {
					if pe, ok := errors.AsType[*pgconn.PgError](err); ok && pe.Code == "42501" {
						// Whoever has the right to do it may use the wide forms too.
						full := c.diff(now, want, missing, true)
						return &PublicationPrivilegeError{c.cfg.Publication, full.SQL, err}
					}
					return err
				}
			}
			return nil
		})
	})
	return d, err
}

// Captured returns the tables that the configuration selects, published or not yet, in order of schema and name. Only their OIDs
// and names are set.
func (c *Catalog) Captured(ctx context.Context) ([]Table, error) {
	var out []Table
	err := c.on(ctx, &c.ask, "list tables", func(conn *pgx.Conn) error {
		out = nil
		want, _, err := c.wantedTables(ctx, conn)
		for _, t := range want {
			out = append(out, Table{OID: t.oid, Schema: t.schema, Name: t.name})
		}
		return err
	})
	return out, err
}

// DropPublication drops the publication. One that does not exist is no error. A slot that still has to be read must be dropped
// first: it cannot be read without its publication.
func (c *Catalog) DropPublication(ctx context.Context) error {
	return c.once(ctx, "drop publication", func(conn *pgx.Conn) error {
		_, err := conn.Exec(ctx, "DROP PUBLICATION IF EXISTS "+quoteIdent(c.cfg.Publication))
		if pe, ok := errors.AsType[*pgconn.PgError](err); ok && pe.Code == "42501" {
			return &PublicationPrivilegeError{c.cfg.Publication, []string{"DROP PUBLICATION " + quoteIdent(c.cfg.Publication)}, err}
		}
		return err
	})
}
