package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strings"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/spf13/cobra"

	"walferry/internal/config"
	"walferry/source"
)

func newSetupCommand(p *program) *cobra.Command {
	var apply, slot, ddl bool
	var variant, admin string
	var serverVersion int
	cmd := &cobra.Command{
		Use:   "setup",
		Short: "Print or run the SQL that the database needs",
		Long: `Print the SQL for a role with no more rights than walferry needs, the publication,
and with --slot the slot. An administrator reads it and runs it once. With --apply
it is run here, as the role of --admin-dsn; what exists already is left as it is.

Role and database are those of source.dsn. The password that --apply sets is the
one in source.dsn or source.password_file; without one, none is set.

With --ddl-trigger it is the SQL of an event trigger instead, for a superuser: it
sends what the catalog says of a table (not-null, defaults, comments, labels of
enums, attributes of composites) with each command that changes it, so that events
have the schema of their place in the WAL also where the catalog has moved on.`,
		Example: "  walferry setup | psql -d shop\n  walferry setup --apply --admin-dsn 'postgres://postgres@localhost/shop'",
		Args:    usage(noArgs),
		RunE: func(cmd *cobra.Command, _ []string) error {
			if ddl && !apply { // the same for everybody
				return p.printf("%s", source.DDLTriggerSQL())
			}
			c, err := p.load()
			if err != nil {
				return err
			}
			if admin == "" {
				admin = os.Getenv("WALFERRY_ADMIN_DSN")
			}
			if apply && admin == "" {
				return &usageError{err: errors.New("--apply needs --admin-dsn, or WALFERRY_ADMIN_DSN in the environment"), command: cmd.CommandPath()}
			}
			sc, err := c.ForSource()
			if err != nil {
				return err
			}
			target, err := pgx.ParseConfig(sc.DSN)
			if err != nil {
				return badDSN(err)
			}
			o := source.SetupOptions{Role: target.User, Database: target.Database, Variant: variant, Version: serverVersion, Slot: slot}
			if !apply {
				sql, err := source.SetupSQL(sc, o)
				if err != nil {
					return &usageError{err: err, command: cmd.CommandPath()}
				}
				return p.printf("%s", sql)
			}
			conn, err := p.administrator(cmd.Context(), admin, target.Database)
			if err != nil {
				return err
			}
			defer func() { _ = conn.Close(context.WithoutCancel(cmd.Context())) }() // what was run has been answered
			if ddl {
				return p.applyDDLTrigger(cmd.Context(), conn)
			}
			return p.applySetup(cmd.Context(), conn, sc, o, target.Password)
		},
	}
	cmd.Flags().BoolVar(&apply, "apply", false, "run the SQL instead of printing it")
	cmd.Flags().StringVar(&admin, "admin-dsn", "", "connection string of an administrator, for --apply; default WALFERRY_ADMIN_DSN")
	cmd.Flags().BoolVar(&slot, "slot", false, "create the slot too, for slot.adopt: true")
	cmd.Flags().BoolVar(&ddl, "ddl-trigger", false, "the event trigger that sends facts of the catalog, and nothing else")
	cmd.Flags().StringVar(&variant, "variant", source.Plain, "kind of server: plain, rds, cloudsql or azure")
	cmd.Flags().IntVar(&serverVersion, "server-version", 0, fmt.Sprintf("major version of the server, %d to %d; default the newest, or that of --admin-dsn", source.MinVersion, source.MaxVersion))
	return cmd
}

// badDSN keeps pgx from showing the connection string: its error repeats it.
func badDSN(err error) error {
	var parse *pgconn.ParseConfigError
	problem := "the connection string cannot be read"
	if errors.As(err, &parse) {
		if inner := errors.Unwrap(parse); inner != nil && !strings.Contains(inner.Error(), "://") {
			problem += ": " + inner.Error()
		}
	}
	return &config.Error{Path: "source.dsn", Problem: problem, Remedy: "write postgres://user@host:port/database, or key=value pairs"}
}

// passwordPlaceholder is what source.SetupSQL writes for a person to replace.
const passwordPlaceholder = "PASSWORD 'choose one'"

// administrator connects as the one who may do what setup does.
func (p *program) administrator(ctx context.Context, dsn, database string) (*pgx.Conn, error) {
	conn, err := pgx.Connect(ctx, dsn)
	if err != nil {
		return nil, within(exitSource, fmt.Errorf("connect with --admin-dsn: %w", err))
	}
	if conn.Config().Database != database {
		_ = conn.Close(context.WithoutCancel(ctx)) // nothing was run on it
		return nil, &usageError{err: fmt.Errorf("--admin-dsn leads to database %q, source.dsn to %q", conn.Config().Database, database), command: "walferry setup"}
	}
	return conn, nil
}

// applyDDLTrigger makes the event trigger, or an older one new, in one transaction.
func (p *program) applyDDLTrigger(ctx context.Context, conn *pgx.Conn) error {
	if _, err := conn.PgConn().Exec(ctx, source.DDLTriggerSQL()).ReadAll(); err != nil {
		return within(exitSource, fmt.Errorf("create the event trigger: %w", err))
	}
	return p.printf("ok      event trigger for DDL\n")
}

// applySetup runs the statements one by one. They are not one transaction: a slot
// cannot be made in one that has written, and each is right by itself.
func (p *program) applySetup(ctx context.Context, conn *pgx.Conn, sc source.Config, o source.SetupOptions, password string) error {
	var num int
	if err := conn.QueryRow(ctx, "SELECT current_setting('server_version_num')::int").Scan(&num); err != nil {
		return within(exitSource, fmt.Errorf("ask for the version: %w", err))
	}
	if o.Version == 0 {
		o.Version = num / 10000
	}
	sql, err := source.SetupSQL(sc, o)
	if err != nil {
		return &usageError{err: err, command: "walferry setup"}
	}
	if sc.PasswordFile != "" {
		b, err := os.ReadFile(sc.PasswordFile)
		if err != nil {
			return &config.Error{Path: "source.password_file", Problem: err.Error(), Remedy: "give this user the right to read it"}
		}
		password = strings.TrimRight(string(b), "\r\n")
	}
	for _, statement := range statements(sql) {
		run := statement
		if strings.Contains(statement, passwordPlaceholder) {
			clause := ""
			if password != "" {
				var quoted string
				// The server quotes it, whatever its settings of backslashes.
				if err := conn.QueryRow(ctx, "SELECT quote_literal($1::text)", password).Scan(&quoted); err != nil {
					return within(exitSource, fmt.Errorf("quote the password: %w", err))
				}
				clause = "PASSWORD " + quoted
			}
			run = strings.Replace(statement, passwordPlaceholder, clause, 1)
			statement = strings.Replace(statement, passwordPlaceholder, "PASSWORD '***'", 1)
		}
		_, err := conn.Exec(ctx, run)
		var server *pgconn.PgError
		switch {
		case err == nil:
			err = p.printf("ok      %s\n", statement)
		case errors.As(err, &server) && server.Code == "42710": // duplicate_object
			err = p.printf("exists  %s\n", statement)
		default:
			return within(exitSource, fmt.Errorf("%s: %w", statement, err))
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// statements splits what SetupSQL writes: one statement a line, with comments.
func statements(sql string) []string {
	var out []string
	for line := range strings.Lines(sql) {
		line = strings.TrimSpace(line)
		if i := strings.LastIndex(line, "; -- "); i >= 0 {
			line = line[:i+1]
		}
		if line != "" && !strings.HasPrefix(line, "--") {
			out = append(out, line)
		}
	}
	return out
}
