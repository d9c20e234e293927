package main

import (
	"bytes"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"

	"walferry/internal/config"
	"walferry/source"
)

// dropTimeout bounds the end of a scratch database, which is dropped after an interrupt too.
const dropTimeout = 30 * time.Second

// rehearseInScratch copies the schema of the database into a new one, runs the migration there and drops it.
func rehearseInScratch(ctx context.Context, sc source.Config, o planOptions, steps []source.Step) (r *source.Rehearsal, err error) {
	dump, err := exec.LookPath(o.pgDump)
	if err != nil {
		return nil, &config.Error{Path: "--pg-dump", Problem: err.Error(), Remedy: "install PostgreSQL's client programs (Debian: postgresql-client), or name a pg_dump"}
	}
	restore := filepath.Join(filepath.Dir(dump), "pg_restore"+strings.TrimPrefix(filepath.Base(dump), "pg_dump"))
	server, err := pgx.Connect(ctx, o.scratch)
	if err != nil {
		return nil, within(exitSource, fmt.Errorf("connect with --scratch: %w", err))
	}
	name := "walferry_plan_" + strings.ToLower(rand.Text()[:10])
	defer func() {
		end, stop := context.WithTimeout(context.WithoutCancel(ctx), dropTimeout)
		defer stop()
		err = errors.Join(err, server.Close(end))
	}()
	if _, err := server.Exec(ctx, "CREATE DATABASE "+name); err != nil {
		return nil, within(exitSource, fmt.Errorf("create the scratch database: %w", err))
	}
	defer func() {
		end, stop := context.WithTimeout(context.WithoutCancel(ctx), dropTimeout)
		defer stop()
		if _, derr := server.Exec(end, "DROP DATABASE "+name+" WITH (FORCE)"); derr != nil {
			err = errors.Join(err, within(exitSource, fmt.Errorf("drop the scratch database %s: %w", name, derr)))
		}
	}()
	dsn, err := onDatabase(o.scratch, name)
	if err != nil {
		return nil, err
	}
	dir, err := os.MkdirTemp("", "walferry-plan-")
	if err != nil {
		return nil, fmt.Errorf("make a folder for the schema: %w", err)
	}
	defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
	file := filepath.Join(dir, "schema")
	if err := postgresProgram(ctx, sc, dump, "--schema-only", "--format=custom", "--file="+file, "--no-owner", "--no-privileges", "--no-subscriptions",
		"--no-tablespaces", "--no-security-labels", fmt.Sprintf("--lock-wait-timeout=%d", o.rehearse.LockTimeout.Milliseconds())); err != nil {
		return nil, err
	}
	sc.DSN, sc.PasswordFile = dsn, ""
	if err := postgresProgram(ctx, sc, restore, "--no-owner", "--no-privileges", "--exit-on-error", file); err != nil {
		return nil, err
	}
	cat, err := source.OpenCatalog(ctx, sc)
	if err != nil {
		return nil, within(exitSource, err)
	}
	defer cat.Close()
	o.rehearse.Keep = true
	r, err = cat.Rehearse(ctx, steps, o.rehearse)
	return r, within(exitSource, err)
}

// postgresProgram runs pg_dump or pg_restore on a database. The password is not among the arguments, which anybody on the
// machine can see.
func postgresProgram(ctx context.Context, sc source.Config, program string, args ...string) error {
	pcfg, err := pgx.ParseConfig(sc.DSN)
	if err != nil {
		return badDSN(err)
	}
	dsn, err := withoutPassword(sc.DSN)
	if err != nil {
		return err
	}
	password := pcfg.Password
	if sc.PasswordFile != "" {
		b, err := os.ReadFile(sc.PasswordFile)
		if err != nil {
			return &config.Error{Path: "source.password_file", Problem: err.Error(), Remedy: "give this user the right to read it"}
		}
		password = strings.TrimRight(string(b), "\r\n")
	}
	cmd := exec.CommandContext(ctx, program, append([]string{"--dbname=" + dsn, "--no-password"}, args...)...)
	cmd.Env = append(os.Environ(), "PGPASSWORD="+password, "LC_ALL=C")
	var said bytes.Buffer
	cmd.Stdout, cmd.Stderr = &said, &said
	if err := cmd.Run(); err != nil {
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		return within(exitSource, fmt.Errorf("%s: %w: %s", filepath.Base(program), err, strings.Join(strings.Fields(said.String()), " ")))
	}
	return nil
}

var hiddenPassword = regexp.MustCompile(`(?i)\b\w*password\s*=\s*\*\*\*&?`)

// withoutPassword takes the passwords out of a connection string.
func withoutPassword(dsn string) (string, error) {
	shown := strings.Replace(config.RedactDSN(dsn), ":***@", "@", 1)
	shown = strings.TrimRight(hiddenPassword.ReplaceAllString(shown, ""), "?&")
	if strings.Contains(shown, "***") {
		return "", &config.Error{Path: "source.dsn", Problem: "where the password ends cannot be told", Remedy: "escape its special characters (%3F for a question mark), or use source.password_file"}
	}
	return shown, nil
}

// onDatabase is a connection string for another database of the same server.
func onDatabase(dsn, database string) (string, error) {
	if !strings.Contains(dsn, "://") {
		return dsn + " dbname=" + database, nil // the last one counts
	}
	scheme, rest, _ := strings.Cut(dsn, "://")
	base, query, _ := strings.Cut(rest, "?")
	hosts := base
	if i := strings.Index(base[strings.LastIndex(base, "@")+1:], "/"); i >= 0 {
		hosts = base[:strings.LastIndex(base, "@")+1+i]
	}
	values, err := url.ParseQuery(query)
	if err != nil {
		return "", &usageError{err: fmt.Errorf("--scratch: %w", err), command: "walferry schema plan"}
	}
	values.Del("dbname")
	if len(values) > 0 {
		return scheme + "://" + hosts + "/" + database + "?" + values.Encode(), nil
	}
	return scheme + "://" + hosts + "/" + database, nil
}

// sameDatabase refuses an administrator of another database.
func sameDatabase(dsn, admin string) error {
	ours, err := pgx.ParseConfig(dsn)
	if err != nil {
		return badDSN(err)
	}
	theirs, err := pgx.ParseConfig(admin)
	if err != nil {
		return &usageError{err: errors.New("--admin-dsn cannot be read: write postgres://user@host:port/database, or key=value pairs"), command: "walferry schema plan"}
	}
	if ours.Database != theirs.Database {
		return &usageError{err: fmt.Errorf("--admin-dsn leads to database %q, source.dsn to %q", theirs.Database, ours.Database), command: "walferry schema plan"}
	}
	return nil
}
