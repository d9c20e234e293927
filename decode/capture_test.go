//go:build capture

package decode_test

import (
	"bytes"
	"context"
	"encoding/hex"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pglogrepl"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgproto3"
)

// TestCapture writes the transcripts that TestGolden reads. It runs each script of testdata/pgoutput in a database of
// its own on the server that WALFERRY_CAPTURE_DSN names (as a superuser, wal_level=logical), and keeps every XLogData
// frame that pgoutput sent, under the server's major version:
//
//	WALFERRY_CAPTURE_DSN='host=/tmp user=postgres dbname=postgres' go test -tags capture -run TestCapture ./decode
//	go test -run TestGolden ./decode -update
func TestCapture(t *testing.T) {
	dsn := os.Getenv("WALFERRY_CAPTURE_DSN")
	if dsn == "" {
		t.Fatal("WALFERRY_CAPTURE_DSN is not set")
	}
	scripts, err := filepath.Glob("../testdata/pgoutput/*/script.sql")
	if err != nil || len(scripts) == 0 {
		t.Fatalf("no scripts: %v", err)
	}
	for _, path := range scripts {
		dir := filepath.Dir(path)
		t.Run(filepath.Base(dir), func(t *testing.T) {
			ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
			defer cancel()
			c := capture{t: t, ctx: ctx, dsn: dsn, database: "capture_" + strings.ReplaceAll(filepath.Base(dir), "-", "_")}
			c.run(dir)
		})
	}
}

type capture struct {
	t             *testing.T
	ctx           context.Context
	dsn, database string
}

func (c *capture) connect(params map[string]string) *pgconn.PgConn {
	c.t.Helper()
	config, err := pgconn.ParseConfig(c.dsn)
	if err != nil {
		c.t.Fatal(err)
	}
	for k, v := range params {
		if k == "database" {
			config.Database = v
		} else {
			config.RuntimeParams[k] = v
		}
	}
	conn, err := pgconn.ConnectConfig(c.ctx, config)
	if err != nil {
		c.t.Fatal(err)
	}
	c.t.Cleanup(func() { _ = conn.Close(context.Background()) }) // the test is over, nothing hangs on it
	return conn
}

func (c *capture) exec(conn *pgconn.PgConn, sql string) {
	c.t.Helper()
	if _, err := conn.Exec(c.ctx, sql).ReadAll(); err != nil {
		c.t.Fatalf("%s: %v", sql, err)
	}
}

func (c *capture) run(dir string) {
	script, err := os.ReadFile(filepath.Join(dir, "script.sql"))
	if err != nil {
		c.t.Fatal(err)
	}
	setup, rest, ok := strings.Cut(string(script), "-- run\n")
	if !ok {
		c.t.Fatal("script has no -- run")
	}
	_, options, ok := strings.Cut(setup, "-- options: ")
	if !ok {
		c.t.Fatal("script has no -- options")
	}
	options, _, _ = strings.Cut(options, "\n")
	name, value, _ := strings.Cut(options, "=")

	admin := c.connect(nil)
	c.exec(admin, "DROP DATABASE IF EXISTS "+c.database)
	c.exec(admin, "CREATE DATABASE "+c.database+" TEMPLATE template0 ENCODING 'UTF8'")
	a := c.connect(map[string]string{"database": c.database, "TimeZone": "UTC"})
	c.script(map[string]*pgconn.PgConn{"a": a}, "a", setup)
	c.exec(a, "CREATE PUBLICATION everything FOR ALL TABLES WITH (publish_via_partition_root)")

	repl := c.connect(map[string]string{"database": c.database, "replication": "database", "TimeZone": "UTC", "DateStyle": "ISO", "IntervalStyle": "iso_8601"})
	if _, err := pglogrepl.CreateReplicationSlot(c.ctx, repl, c.database, "pgoutput", pglogrepl.CreateReplicationSlotOptions{Temporary: true}); err != nil {
		c.t.Fatal(err)
	}
	sessions := map[string]*pgconn.PgConn{"a": a}
	if strings.Contains(rest, "-- session b\n") {
		sessions["b"] = c.connect(map[string]string{"database": c.database, "TimeZone": "UTC"})
	}
	c.script(sessions, "a", rest)
	c.exec(a, "SELECT pg_logical_emit_message(true, 'capture.end', '')")

	err = pglogrepl.StartReplication(c.ctx, repl, c.database, 0, pglogrepl.StartReplicationOptions{PluginArgs: []string{
		"proto_version '1'", "publication_names 'everything'", "messages 'true'", name + " '" + value + "'",
	}})
	if err != nil {
		c.t.Fatal(err)
	}
	var out bytes.Buffer
	version := repl.ParameterStatus("server_version")
	fmt.Fprintf(&out, "# PostgreSQL %s, proto_version 1, messages true, %s; SQL in script.sql. WAL start, then the message.\n", version, options)
	begin := out.Len()
	for {
		msg, err := repl.ReceiveMessage(c.ctx)
		if err != nil {
			c.t.Fatal(err)
		}
		data, ok := msg.(*pgproto3.CopyData)
		if !ok || data.Data[0] != pglogrepl.XLogDataByteID {
			continue
		}
		x, err := pglogrepl.ParseXLogData(data.Data[1:])
		if err != nil {
			c.t.Fatal(err)
		}
		if x.WALData[0] == 'M' && bytes.Contains(x.WALData, []byte("capture.end")) {
			break
		}
		if x.WALData[0] == 'B' {
			begin = out.Len()
		}
		fmt.Fprintf(&out, "%s %s\n", x.WALStart, hex.EncodeToString(x.WALData))
	}
	out.Truncate(begin) // the Begin of capture.end's own transaction
	major, _, _ := strings.Cut(version, ".")
	if err := os.WriteFile(filepath.Join(dir, "frames-"+major+".txt"), out.Bytes(), 0o644); err != nil {
		c.t.Fatal(err)
	}
}

// script runs statements, which end with a semicolon at the end of a line; "-- session x" goes to another session, and
// the data of COPY … FROM STDIN follows it up to a line \.
func (c *capture) script(sessions map[string]*pgconn.PgConn, session, text string) {
	c.t.Helper()
	var statement, data strings.Builder
	var copying bool
	for line := range strings.Lines(text) {
		switch {
		case copying && line == "\\.\n":
			if _, err := sessions[session].CopyFrom(c.ctx, strings.NewReader(data.String()), statement.String()); err != nil {
				c.t.Fatalf("%s: %v", statement.String(), err)
			}
			statement.Reset()
			copying = false
		case copying:
			data.WriteString(line)
		case strings.HasPrefix(line, "-- session "):
			session = strings.TrimSpace(strings.TrimPrefix(line, "-- session "))
		case strings.HasPrefix(line, "--"):
		default:
			statement.WriteString(line)
			if !strings.HasSuffix(line, ";\n") {
				continue
			}
			if copying = strings.HasSuffix(line, "FROM STDIN;\n"); copying {
				data.Reset()
				continue
			}
			c.exec(sessions[session], statement.String())
			statement.Reset()
		}
	}
}
