package source

import (
	"fmt"
	"slices"
	"strings"
)

// Variants of SetupSQL.
const (
	Plain    = "plain"
	RDS      = "rds" // Amazon RDS and Aurora
	CloudSQL = "cloudsql"
	Azure    = "azure"
)

// SetupOptions say for whom SetupSQL writes.
type SetupOptions struct {
	Role     string // of walferry; default "walferry"
	Database string // default: a placeholder
	Variant  string // default Plain
	Version  int    // major version of the server; default MaxVersion
	Slot     bool   // create the slot too, for slot.adopt
}

// SetupSQL returns the SQL that an administrator runs once so that walferry works with the least privileges: a role that may
// log in, replicate and read the captured tables, the publication, owned by who runs it, and nothing else. Tables that are
// only matched by a pattern with a star are put in by the publication's owner later; `walferry check` prints that SQL.
func SetupSQL(cfg Config, o SetupOptions) (string, error) {
	if err := cfg.validate(); err != nil {
		return "", err
	}
	sel, err := cfg.selection()
	if err != nil {
		return "", err
	}
	if o.Role == "" {
		o.Role = "walferry"
	}
	if o.Variant == "" {
		o.Variant = Plain
	}
	if o.Version == 0 {
		o.Version = MaxVersion
	}
	if o.Database == "" {
		o.Database = "your_database"
	}
	var b strings.Builder
	p := func(format string, args ...any) { fmt.Fprintf(&b, format+"\n", args...) }
	role := quoteIdent(o.Role)

	switch o.Variant {
	case Plain:
		p("-- wal_level must be logical; changing it needs a restart: ALTER SYSTEM SET wal_level = logical;")
		p("CREATE ROLE %s LOGIN REPLICATION PASSWORD 'choose one';", role)
	case RDS:
		p("-- Set rds.logical_replication = 1 in the parameter group and reboot.")
		p("CREATE ROLE %s LOGIN PASSWORD 'choose one';", role)
		p("GRANT rds_replication TO %s;", role)
	case CloudSQL:
		p("-- Set the flag cloudsql.logical_decoding = on, which restarts the instance.")
		p("CREATE ROLE %s LOGIN REPLICATION PASSWORD 'choose one';", role)
	case Azure:
		p("-- Set wal_level = logical in the server parameters and restart.")
		p("CREATE ROLE %s LOGIN REPLICATION PASSWORD 'choose one';", role)
	default:
		return "", fmt.Errorf("setup variant %q: %s, %s, %s and %s are known", o.Variant, Plain, RDS, CloudSQL, Azure)
	}
	p("GRANT CONNECT ON DATABASE %s TO %s;", quoteIdent(o.Database), role)
	p("")
	p("-- Reading the tables is for the first copy; the stream needs no SELECT, but for toast: refetch.")
	var schemas []string
	note := func(g glob) {
		if len(g) == 1 && !slices.Contains(schemas, g[0]) {
			schemas = append(schemas, g[0])
		}
	}
	for _, t := range sel.tables {
		note(t.parts[0])
	}
	for _, s := range sel.schemas {
		note(s.parts[0])
	}
	for _, s := range schemas {
		p("GRANT USAGE ON SCHEMA %s TO %s;", quoteIdent(s), role)
	}
	var exact []string
	starred := cfg.AllTables
	for _, t := range sel.tables {
		switch name := t.parts; {
		case t.exact():
			exact = append(exact, quoteName(name[0][0], name[1][0]))
		case len(name[0]) == 1:
			starred = true
			p("GRANT SELECT ON ALL TABLES IN SCHEMA %s TO %s; -- for the pattern %s", quoteIdent(name[0][0]), role, t.text)
		default:
			starred = true
		}
	}
	for _, s := range sel.schemas {
		if s.exact() {
			p("GRANT SELECT ON ALL TABLES IN SCHEMA %s TO %s;", quoteIdent(s.parts[0][0]), role)
			p("ALTER DEFAULT PRIVILEGES IN SCHEMA %s GRANT SELECT ON TABLES TO %s; -- for tables that you create later", quoteIdent(s.parts[0][0]), role)
		} else {
			starred = true
		}
	}
	if len(exact) > 0 {
		p("GRANT SELECT ON %s TO %s;", strings.Join(exact, ", "), role)
	}
	if cfg.AllTables {
		p("-- and USAGE on every schema, SELECT on all of its tables.")
	}

	p("")
	p("-- The publication comes before the slot and is never dropped and created again. Whoever owns it and the tables can alter it.")
	pub := "CREATE PUBLICATION " + quoteIdent(cfg.Publication)
	wide, ok := wideSchemas(&cfg, sel)
	switch {
	case cfg.AllTables && len(sel.exclude) == 0 && len(sel.columns) == 0 && o.Variant != CloudSQL && o.Variant != RDS && o.Variant != Azure:
		pub += " FOR ALL TABLES"
		starred = false
	case ok && o.Version >= 15 && o.Variant == Plain:
		pub += " FOR TABLES IN SCHEMA " + strings.Join(wide, ", ")
	case len(exact) > 0:
		pub += " FOR TABLE " + strings.Join(exact, ", ")
	default:
		starred = true
	}
	p("%s WITH (%s);", pub, publicationOptions)
	if starred || len(sel.columns) > 0 || len(sel.exclude) > 0 {
		p("-- The configuration has patterns, exclusions or column lists: `walferry check` prints the ALTER PUBLICATION that completes this.")
	}
	if o.Slot {
		p("")
		p("-- The slot keeps WAL from now on; for slot.adopt: true.")
		name := quoteLiteral(cfg.Slot)
		if cfg.Failover && o.Version >= 17 {
			p("SELECT pg_create_logical_replication_slot(%s, 'pgoutput', failover => true);", name)
		} else {
			p("SELECT pg_create_logical_replication_slot(%s, 'pgoutput');", name)
		}
	}
	return b.String(), nil
}
