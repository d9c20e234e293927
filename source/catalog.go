package source

import (
	"context"
	"errors"
	"fmt"
	"hash/fnv"
	"time"

	"github.com/jackc/pgx/v5"
	"walferry/decode"
)

// A Catalog is what walferry asks and tells the server beside the stream, over ordinary connections: one for questions, one
// for heartbeats and one for rows, so that a question that waits for a lock never delays these, and short-lived ones for the rest. A connection
// that was lost is made again by the next call. Safe for concurrent use.
type Catalog struct {
	cfg  Config
	user string
	sel  *selection

	ask, beat, read side
	sys             System
	bounded         *pgx.Conn // of read, once its statement_timeout is set; guarded by its lock

	expect chan *System // capacity 1, always full: what Expect was given
}

// A side is one lasting connection and its lock, a channel so that waiting for it ends with the context.
type side struct {
	lock chan struct{}
	conn *pgx.Conn
}

// OpenCatalog connects and asks the server who it is.
func OpenCatalog(ctx context.Context, cfg Config) (*Catalog, error) {
	if err := cfg.validate(); err != nil {
		return nil, err
	}
	sel, err := cfg.selection()
	if err != nil {
		return nil, err
	}
	c := &Catalog{cfg: cfg, sel: sel, expect: make(chan *System, 1)}
	c.ask.lock, c.beat.lock, c.read.lock = make(chan struct{}, 1), make(chan struct{}, 1), make(chan struct{}, 1)
	c.expect <- nil
	conn, sys, err := c.connect(ctx)
	if err != nil {
		return nil, err
	}
	c.ask.conn, c.sys, c.user = conn, sys, conn.Config().User
	return c, nil
}

// Close ends the connections. The Catalog cannot be used afterwards.
func (c *Catalog) Close() {
	for _, s := range []*side{&c.ask, &c.beat, &c.read} {
		s.lock <- struct{}{} // and keep it: a later call waits until its context ends
		if s.conn != nil {
			closeConn(s.conn)
		}
	}
}

// System returns what the server said when the Catalog was opened. WALEnd is the insert position of that moment.
func (c *Catalog) System() System { return c.sys }

// Expect makes every connection from now on refuse another system identifier, timeline or database than want's (of the
// replication connection), and checks the present one at once. The error is an *IdentityError.
func (c *Catalog) Expect(want System) error {
	<-c.expect
	c.expect <- &want
	return same(want, c.sys)
}

func same(want, got System) error {
	if want.ID != got.ID || want.Timeline != got.Timeline || want.DB != got.DB {
		return &IdentityError{want, got}
	}
	return nil
}

func closeConn(conn *pgx.Conn) {
	ctx, cancel := context.WithTimeout(context.Background(), time.Second)
	defer cancel()
	_ = conn.Close(ctx) // nothing was left unfinished on it
}

// connect makes one connection and checks that it is the server we mean.
func (c *Catalog) connect(ctx context.Context) (*pgx.Conn, System, error) {
	return c.connectWith(ctx, func(pcfg *pgx.ConnConfig) {
		pcfg.RuntimeParams["statement_timeout"] = milliseconds(c.cfg.StatementTimeout)
		// A missing synchronous standby would block the heartbeat's commit, and nothing of ours needs one.
		pcfg.RuntimeParams["synchronous_commit"] = "local"
	})
}

// connectWith is connect with other settings of the session.
func (c *Catalog) connectWith(ctx context.Context, settings func(*pgx.ConnConfig)) (*pgx.Conn, System, error) {
	pcfg, err := pgx.ParseConfig(c.cfg.DSN)
	if err != nil {
		return nil, System{}, fmt.Errorf("read DSN: %w", err)
	}
	if err := c.cfg.pin(&pcfg.Config); err != nil {
		return nil, System{}, err
	}
	settings(pcfg)
	var conn *pgx.Conn
	err = heard(ctx, func() (err error) {
		conn, err = pgx.ConnectConfig(ctx, pcfg)
		return err
	})
	if err != nil {
		return nil, System{}, canceled(ctx, connectError(err, &c.cfg, pcfg.User))
	}
	var s System
	// pg_control_checkpoint's timeline is the last checkpoint's; the name of the current WAL file has the current one.
	err = conn.QueryRow(ctx, `SELECT system_identifier::text,
		('x' || substr(pg_walfile_name(pg_current_wal_insert_lsn()), 1, 8))::bit(32)::int,
		pg_current_wal_insert_lsn()::text, current_database(), current_setting('server_version_num')::int, `+noTransactionTimeout+`
		FROM pg_control_system()`).Scan(&s.ID, &s.Timeline, &s.WALEnd, &s.DB, &s.Version, nil)
	if err == nil {
		switch want := c.wanted(); {
		case s.Major() < MinVersion:
			err = &UnsupportedVersionError{Version: s.Version}
		case want != nil:
			err = same(*want, s)
		}
	}
	if err != nil {
		closeConn(conn)
		return nil, System{}, canceled(ctx, classify(fmt.Errorf("identify server: %w", err), &c.cfg, pcfg.User))
	}
	return conn, s, nil
}

func (c *Catalog) wanted() *System {
	s := <-c.expect
	c.expect <- s
	return s
}

// on runs f with the side's connection, which it makes when there is none, and gives errors their type. F may run twice.
func (c *Catalog) on(ctx context.Context, s *side, what string, f func(*pgx.Conn) error) error {
	select {
	case s.lock <- struct{}{}:
		defer func() { <-s.lock }()
	case <-ctx.Done():
		return context.Cause(ctx)
	}
	fresh := s.conn == nil || s.conn.IsClosed()
	for {
		if fresh {
			conn, _, err := c.connect(ctx)
			if err != nil {
				return err
			}
			s.conn = conn
		}
		err := f(s.conn)
		if err == nil || fresh || !s.conn.IsClosed() || ctx.Err() != nil {
			return c.wrap(ctx, what, err, s.conn)
		}
		// The connection had died while it lay idle, which only its next use shows.
		fresh = true
	}
}

// once runs f with a connection of its own.
func (c *Catalog) once(ctx context.Context, what string, f func(*pgx.Conn) error) error {
	conn, _, err := c.connect(ctx)
	if err != nil {
		return err
	}
	defer closeConn(conn)
	return c.wrap(ctx, what, f(conn), conn)
}

// visit is once with the session's settings as the DSN, the role and the database have them: those of anybody who runs SQL.
func (c *Catalog) visit(ctx context.Context, what string, f func(*pgx.Conn) error) error {
	own, err := pgx.ParseConfig(c.cfg.DSN)
	if err != nil {
		return fmt.Errorf("read DSN: %w", err)
	}
	conn, _, err := c.connectWith(ctx, func(pcfg *pgx.ConnConfig) {
		pcfg.RuntimeParams = own.RuntimeParams
		pcfg.RuntimeParams["application_name"], pcfg.RuntimeParams["client_encoding"] = c.cfg.AppName, "UTF8"
	})
	if err != nil {
		return err
	}
	defer closeConn(conn)
	return c.wrap(ctx, what, f(conn), conn)
}

func (c *Catalog) wrap(ctx context.Context, what string, err error, conn *pgx.Conn) error {
	if err == nil {
		return nil
	}
	typed := classify(err, &c.cfg, c.user)
	if typed == err && conn.IsClosed() && ctx.Err() == nil {
		typed = &ConnectError{err}
	}
	return canceled(ctx, fmt.Errorf("%s: %w", what, typed))
}

// Heartbeat writes a transaction that every slot of the database sees and that no table or publication is needed for. Its
// commit is flushed at once, unlike that of a non-transactional message, which waits for the WAL writer. It returns when the
// server has committed.
func (c *Catalog) Heartbeat(ctx context.Context) error {
	return c.on(ctx, &c.beat, "emit heartbeat", func(conn *pgx.Conn) error {
		_, err := conn.Exec(ctx, "SELECT pg_logical_emit_message(true, $1, '')", HeartbeatPrefix)
		return err
	})
}

// WaitShutdown keeps a connection open and waits for the server to end it: *ServerShutdownError when it said that it goes down,
// *ConnectError when it vanished, and the context's cause when ctx ends first. A walsender that is stuck in send keeps its
// server from stopping without telling us; this connection is told.
func (c *Catalog) WaitShutdown(ctx context.Context) error {
	return c.once(ctx, "watch server", func(conn *pgx.Conn) error {
		for {
			if _, err := conn.WaitForNotification(ctx); err != nil {
				return err
			}
		}
	})
}

// AdvisoryLock tries to take the session lock under which publication and slot are made and dropped. Ok is false when another
// session has it. Unlock ends the session.
func (c *Catalog) AdvisoryLock(ctx context.Context, slot string) (unlock func(), ok bool, err error) {
	conn, _, err := c.connect(ctx)
	if err != nil {
		return nil, false, err
	}
	h := fnv.New64a()
	_, _ = h.Write([]byte("walferry slot " + slot)) // a hash never fails
	err = conn.QueryRow(ctx, "SELECT pg_try_advisory_lock($1)", int64(h.Sum64())).Scan(&ok)
	if err != nil || !ok {
		err = c.wrap(ctx, "take advisory lock", err, conn)
		closeConn(conn)
		return nil, false, err
	}
	return func() { closeConn(conn) }, true, nil
}

// OtherSessions counts the sessions of the database that are not walferry's own: those that may write.
func (c *Catalog) OtherSessions(ctx context.Context) (int, error) {
	var n int
	err := c.on(ctx, &c.ask, "count sessions", func(conn *pgx.Conn) error {
		// Of another role's session its user and database are shown to anyone, its application_name is not.
		return conn.QueryRow(ctx, `SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND usename IS NOT NULL
			AND pid <> pg_backend_pid() AND NOT (usename = current_user AND coalesce(application_name, '') = $1)`, c.cfg.AppName).Scan(&n)
	})
	return n, err
}

// Explain looks closer at an error of Dial, Start or a Stream where the server's words alone do not tell what happened: a
// publication that is missing for the stream but there now is younger than the slot. Any other error is returned as it is.
func (c *Catalog) Explain(ctx context.Context, err error) error {
	missing, ok := errors.AsType[*PublicationMissingError](err)
	if !ok {
		return err
	}
	var there bool
	if e := c.on(ctx, &c.ask, "look for publication", func(conn *pgx.Conn) error {
		return conn.QueryRow(ctx, "SELECT EXISTS (SELECT FROM pg_publication WHERE pubname = $1)", c.cfg.Publication).Scan(&there)
	}); e != nil {
		return errors.Join(err, e)
	}
	if there {
		return &SlotOlderThanPublicationError{c.cfg.Slot, c.cfg.Publication, missing.err}
	}
	return err
}

// Describe returns what the catalog knows now about a table and a Relation message does not say. A table that does not exist
// (any more) is a *TableMissingError.
func (c *Catalog) Describe(ctx context.Context, relation uint32) (*decode.Descriptor, error) {
	d := new(decode.Descriptor)
	err := c.on(ctx, &c.ask, "describe table", func(conn *pgx.Conn) error {
		*d = decode.Descriptor{}
		err := conn.QueryRow(ctx, describeTable, relation).Scan(d)
		if errors.Is(err, pgx.ErrNoRows) {
			return &TableMissingError{[]string{fmt.Sprintf("OID %d", relation)}}
		}
		return err
	})
	if err != nil {
		return nil, err
	}
	return d, nil
}

// DescribeTypes returns the types and, recursively, what they are made of: elements of arrays, bases of domains, attributes of
// composites, subtypes of ranges, ranges of multiranges. A type that does not exist is not in the result.
func (c *Catalog) DescribeTypes(ctx context.Context, oids ...uint32) (map[uint32]*decode.Type, error) {
	m := make(map[uint32]*decode.Type)
	err := c.on(ctx, &c.ask, "describe types", func(conn *pgx.Conn) error {
		clear(m)
		return conn.QueryRow(ctx, "SELECT coalesce(("+describeTypes("unnest($1::oid[])")+"), '{}')", oids).Scan(&m)
	})
	if err != nil {
		return nil, err
	}
	return m, nil
}

type querier interface {
	Query(ctx context.Context, sql string, args ...any) (pgx.Rows, error)
}

// describeTable is decode.Descriptor in JSON for the table with OID $1, in one statement and so of one snapshot; no row for one
// that does not exist. A column's default leaves out the expression of a generated one, which nobody can insert.
var describeTable = `SELECT jsonb_strip_nulls(jsonb_build_object(
	'relation', c.oid::bigint,
	'comment', obj_description(c.oid, 'pg_class'),
	'primary_key', (SELECT jsonb_agg(a.attname ORDER BY k.ord) FROM pg_index i
		CROSS JOIN LATERAL unnest(i.indkey::int2[]) WITH ORDINALITY AS k(num, ord)
		JOIN pg_attribute a ON a.attrelid = i.indrelid AND a.attnum = k.num
		WHERE i.indrelid = c.oid AND i.indisprimary AND k.ord <= i.indnkeyatts),
	'columns', (SELECT jsonb_agg(jsonb_build_object(
			'name', a.attname, 'comment', col_description(a.attrelid, a.attnum), 'not_null', nullif(a.attnotnull, false),
			'default', CASE WHEN a.attgenerated = '' THEN pg_get_expr(f.adbin, f.adrelid) END,
			'generated', nullif(a.attgenerated <> '', false)) ORDER BY a.attnum)
		FROM pg_attribute a LEFT JOIN pg_attrdef f ON f.adrelid = a.attrelid AND f.adnum = a.attnum
		WHERE a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped),
	'types', (` + describeTypes(`atttypid FROM pg_attribute WHERE attrelid = c.oid AND attnum > 0 AND NOT attisdropped`) + `)))
	FROM pg_class c WHERE c.oid = $1`

// describeTypes is a query of one row: a map of decode.Type in JSON by OID, of the types that "SELECT <seed>" names and of
// what these are made of. typsubscript tells true arrays from types like name and point, which have a typelem too.
func describeTypes(seed string) string {
	return `WITH RECURSIVE wanted(oid) AS (
		SELECT ` + seed + `
		UNION
		SELECT part.oid FROM wanted JOIN pg_type t ON t.oid = wanted.oid
		CROSS JOIN LATERAL (
			SELECT t.typelem WHERE t.typelem <> 0 AND t.typsubscript = 'pg_catalog.array_subscript_handler'::regproc
			UNION ALL SELECT t.typbasetype WHERE t.typbasetype <> 0
			UNION ALL SELECT a.atttypid FROM pg_attribute a WHERE t.typtype = 'c' AND a.attrelid = t.typrelid AND a.attnum > 0 AND NOT a.attisdropped
			UNION ALL SELECT r.rngsubtype FROM pg_range r WHERE r.rngtypid = t.oid
			UNION ALL SELECT r.rngtypid FROM pg_range r WHERE r.rngmultitypid = t.oid
		) AS part(oid))
	SELECT jsonb_object_agg(t.oid::text, jsonb_strip_nulls(jsonb_build_object(
		'oid', t.oid::bigint, 'schema', n.nspname, 'name', t.typname, 'kind', t.typtype, 'category', t.typcategory, 'delim', t.typdelim,
		'elem', CASE WHEN t.typsubscript = 'pg_catalog.array_subscript_handler'::regproc THEN t.typelem::bigint END,
		'base', nullif(t.typbasetype::bigint, 0), 'base_mod', t.typtypmod, 'has_binary', t.typsend <> 0,
		'labels', (SELECT jsonb_agg(e.enumlabel ORDER BY e.enumsortorder) FROM pg_enum e WHERE e.enumtypid = t.oid),
		'attributes', (SELECT jsonb_agg(jsonb_build_object('name', a.attname, 'type', a.atttypid::bigint, 'mod', a.atttypmod) ORDER BY a.attnum)
			FROM pg_attribute a WHERE t.typtype = 'c' AND a.attrelid = t.typrelid AND a.attnum > 0 AND NOT a.attisdropped),
		'subtype', (SELECT r.rngsubtype::bigint FROM pg_range r WHERE r.rngtypid = t.oid),
		'range', (SELECT r.rngtypid::bigint FROM pg_range r WHERE r.rngmultitypid = t.oid),
		'extension', (SELECT e.extname FROM pg_depend d JOIN pg_extension e ON e.oid = d.refobjid WHERE d.classid = 'pg_catalog.pg_type'::regclass
			AND d.objid = t.oid AND d.refclassid = 'pg_catalog.pg_extension'::regclass AND d.deptype = 'e'))))
	FROM wanted JOIN pg_type t ON t.oid = wanted.oid JOIN pg_namespace n ON n.oid = t.typnamespace`
}
