package source

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/jackc/pglogrepl"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgproto3"
)

// Conn is a replication connection that does not stream yet. It is not safe for concurrent use.
type Conn struct {
	cfg     Config
	pc      *pgconn.PgConn
	user    string
	sys     System
	history []Switch
}

// Dial makes a replication connection to the first host of the DSN that takes writes, and asks it who it is. It refuses a
// version that walferry does not know and a server that takes us for a synchronous standby.
func Dial(ctx context.Context, cfg Config) (*Conn, error) {
	if err := cfg.validate(); err != nil {
		return nil, err
	}
	pcfg, err := pgconn.ParseConfig(cfg.DSN)
	if err != nil {
		return nil, fmt.Errorf("read DSN: %w", err)
	}
	if err := cfg.pin(pcfg); err != nil {
		return nil, err
	}
	pcfg.RuntimeParams["replication"] = "database"
	pcfg.RuntimeParams["wal_sender_timeout"] = milliseconds(cfg.WALSenderTimeout)
	pcfg.MaxProtocolMessageBodyLen = 64 << 20
	pcfg.BuildFrontend = func(r io.Reader, w io.Writer) *pgproto3.Frontend {
		return pgproto3.NewFrontend(&oneMessage{r: r}, w)
	}
	if cfg.OnNotice != nil {
		pcfg.OnNotice = func(_ *pgconn.PgConn, n *pgconn.Notice) { cfg.OnNotice(n.SeverityUnlocalized, n.Message) }
	}
	var pc *pgconn.PgConn
	err = heard(ctx, func() (err error) {
		pc, err = pgconn.ConnectConfig(ctx, pcfg)
		return err
	})
	if err != nil {
		return nil, canceled(ctx, connectError(err, &cfg, pcfg.User))
	}
	c := &Conn{cfg: cfg, pc: pc, user: pcfg.User}
	err = c.identify(ctx)
	if err == nil {
		c.history, err = c.readHistory(ctx)
	}
	if err != nil {
		c.abandon()
		return nil, canceled(ctx, classify(err, &cfg, c.user))
	}
	return c, nil
}

// heard connects, and once more where the server cut the connection off while we wrote. A server that does not take our certificate
// says so and closes; what it said is lost when our next words, written meanwhile, are answered by a reset.
func heard(ctx context.Context, connect func() error) error {
	for attempt := 0; ; attempt++ {
		err := connect()
		if !errors.Is(err, syscall.EPIPE) && !errors.Is(err, syscall.ECONNRESET) || attempt == 4 || ctx.Err() != nil {
			return err
		}
	}
}

// pin sets what must not depend on the DSN or on the server's configuration: everything that changes the text of a value, and
// the time-outs that would end a long-lived session.
func (c *Config) pin(p *pgconn.Config) error {
	password, err := c.password()
	if err != nil {
		return err
	}
	if c.PasswordFile != "" {
		p.Password = password
	}
	switch {
	case c.ConnectTimeout > 0:
		p.ConnectTimeout = c.ConnectTimeout
	case p.ConnectTimeout == 0:
		p.ConnectTimeout = DefaultConnectTimeout
	}
	// A peer that vanished without a FIN is noticed after 25 s.
	dialer := &net.Dialer{KeepAliveConfig: net.KeepAliveConfig{Enable: true, Idle: 10 * time.Second, Interval: 5 * time.Second, Count: 3}}
	p.DialFunc = func(ctx context.Context, network, addr string) (net.Conn, error) {
		nc, err := dialer.DialContext(ctx, network, addr)
		if err != nil {
			return nil, err
		}
		return newWire(nc), nil
	}
	p.ValidateConnect = pgconn.ValidateConnectTargetSessionAttrsReadWrite
	for name, value := range map[string]string{
		"application_name":   c.AppName,
		"client_encoding":    "UTF8",
		"DateStyle":          "ISO",
		"IntervalStyle":      "iso_8601",
		"TimeZone":           "UTC",
		"extra_float_digits": "3",
		"bytea_output":       "hex",
		"lc_monetary":        "C", // the text of money
		"statement_timeout":  "0",
		"lock_timeout":       "0",
		// The planner takes the questions to the catalog for expensive, and compiling one takes longer than its answer.
		"jit":                  "off",
		"idle_session_timeout": "0", // since 14, the oldest that we support
		// The text of a regclass, regtype and their like has a schema, and quotes, or not by these.
		"search_path":           "pg_catalog",
		"quote_all_identifiers": "off",
		// What our own questions mean.
		"standard_conforming_strings": "on",
	} {
		p.RuntimeParams[name] = value
	}
	return nil
}

// noTransactionTimeout is part of the first question of a connection: 17 and later would end a walsender that takes longer than
// transaction_timeout to send one transaction, so always at the same one; servers before know no such setting.
const noTransactionTimeout = `CASE WHEN current_setting('server_version_num')::int >= 170000 THEN set_config('transaction_timeout', '0', false) END`

func milliseconds(d time.Duration) string { return strconv.FormatInt(d.Milliseconds(), 10) + "ms" }

// connectError names a connection that never came to be.
func connectError(err error, c *Config, user string) error {
	if e := classify(err, c, user); e != err {
		return e
	}
	if certificate(err) {
		return &CertificateError{err}
	}
	return &ConnectError{err}
}

func (c *Conn) identify(ctx context.Context) error {
	id, err := pglogrepl.IdentifySystem(ctx, c.pc)
	if err != nil {
		return fmt.Errorf("identify system: %w", err)
	}
	c.sys = System{ID: id.SystemID, Timeline: id.Timeline, WALEnd: id.XLogPos, DB: id.DBName}
	results, err := c.pc.Exec(ctx, "SELECT current_setting('server_version_num'), current_setting('synchronous_standby_names'), "+noTransactionTimeout).ReadAll()
	if err != nil {
		return fmt.Errorf("ask for settings: %w", err)
	}
	if len(results) != 1 || len(results[0].Rows) != 1 || len(results[0].Rows[0]) != 3 {
		return &GarbageError{"no answer to a question about settings"}
	}
	row := results[0].Rows[0]
	if c.sys.Version, err = strconv.Atoi(string(row[0])); err != nil {
		return &GarbageError{fmt.Sprintf("server version %q", row[0])}
	}
	if c.sys.Major() < MinVersion {
		return &UnsupportedVersionError{Version: c.sys.Version}
	}
	if syncStandbyMatches(string(row[1]), c.cfg.AppName) {
		return &SyncStandbyError{Names: string(row[1]), AppName: c.cfg.AppName}
	}
	return nil
}

// PID is the process id of the connection's server process: the walsender, once it streams.
func (c *Conn) PID() int32 { return int32(c.pc.PID()) }

// System returns what the server said about itself when the connection was made.
func (c *Conn) System() System { return c.sys }

// TimelineHistory returns where the ancestors of the server's timeline ended, oldest first, as it was when the connection was
// made; nil on timeline 1, which has none, and where the server has lost the file: then nothing shows where it comes from.
func (c *Conn) TimelineHistory() []Switch { return c.history }

func (c *Conn) readHistory(ctx context.Context) ([]Switch, error) {
	if c.sys.Timeline <= 1 {
		return nil, nil // the server answers a question for 00000001.history with an error
	}
	h, err := pglogrepl.TimelineHistory(ctx, c.pc, c.sys.Timeline)
	if pe, ok := errors.AsType[*pgconn.PgError](err); ok && pe.Code == "58P01" { // undefined_file
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("read timeline history: %w", err)
	}
	return parseHistory(h.Content)
}

// parseHistory reads a timeline history file: lines of timeline, tab, LSN of its end, tab, reason; # begins a comment.
func parseHistory(b []byte) ([]Switch, error) {
	var out []Switch
	for line := range strings.Lines(string(b)) {
		line = strings.TrimSpace(line)
		if line == "" || line[0] == '#' {
			continue
		}
		f := strings.Fields(line)
		if len(f) < 2 {
			return nil, &GarbageError{fmt.Sprintf("line %q of a timeline history", line)}
		}
		tli, err := strconv.ParseInt(f[0], 10, 32)
		if err != nil || tli < 1 {
			return nil, &GarbageError{fmt.Sprintf("timeline %q of a timeline history", f[0])}
		}
		lsn, err := pglogrepl.ParseLSN(f[1])
		if err != nil {
			return nil, &GarbageError{fmt.Sprintf("position %q of a timeline history", f[1])}
		}
		if n := len(out); n > 0 && (int32(tli) <= out[n-1].Timeline || lsn < out[n-1].LSN) {
			return nil, &GarbageError{"a timeline history out of order"}
		}
		out = append(out, Switch{Timeline: int32(tli), LSN: lsn})
	}
	return out, nil
}

// Start sends START_REPLICATION, which takes the slot, and turns the connection into a Stream. From is the position from which
// the server shall send, 0 for the slot's confirmed position; the server never begins before that one. Whatever happens, c
// cannot be used afterwards; on an error it has been closed.
//
// A slot that another connection holds is *SlotInUseError, a missing one *SlotMissingError, one whose WAL is gone *SlotLostError.
func (c *Conn) Start(ctx context.Context, from pglogrepl.LSN) (*Stream, error) {
	args := []string{
		"proto_version '1'",
		"publication_names " + quoteOption(quoteIdent(c.cfg.Publication)),
		"messages 'true'",
	}
	if !c.cfg.TextMode {
		args = append(args, "binary 'true'")
	}
	// pgconn reads in the background while it waits for a slow write; such a reader must have ended before the bytes are ours.
	err := c.pc.SyncConn(ctx)
	if err == nil {
		// Mode's zero value is logical replication and a zero Timeline means the current one; both are meant here.
		err = pglogrepl.StartReplication(ctx, c.pc, quoteIdent(c.cfg.Slot), from,
			pglogrepl.StartReplicationOptions{Mode: pglogrepl.LogicalReplication, PluginArgs: args})
	}
	if err != nil {
		c.abandon()
		return nil, canceled(ctx, classify(fmt.Errorf("start replication: %w", err), &c.cfg, c.user))
	}
	hc, err := c.pc.Hijack()
	if err != nil {
		c.abandon()
		return nil, fmt.Errorf("take over replication connection: %w", err)
	}
	return newStream(hc.Conn, &c.cfg, c.user), nil
}

// quoteOption quotes a value for the replication grammar, which knows no escapes but the doubled quote.
func quoteOption(s string) string { return "'" + strings.ReplaceAll(s, "'", "''") + "'" }

// CreateSlot creates the slot with the output plugin pgoutput and returns its consistent point: every transaction whose commit
// record lies at or after it will be sent. It waits for all transactions that are open now, however long these take, until ctx
// ends. The publication must exist already, or the slot can never be read.
func (c *Conn) CreateSlot(ctx context.Context) (pglogrepl.LSN, error) {
	action := "NOEXPORT_SNAPSHOT" // the only form that 14 knows
	if c.sys.Major() >= 15 {
		action = "(SNAPSHOT 'nothing')"
		if c.cfg.Failover && c.sys.Major() >= 17 {
			action = "(SNAPSHOT 'nothing', FAILOVER true)"
		}
	}
	res, err := pglogrepl.CreateReplicationSlot(ctx, c.pc, quoteIdent(c.cfg.Slot), "pgoutput",
		pglogrepl.CreateReplicationSlotOptions{Mode: pglogrepl.LogicalReplication, SnapshotAction: action})
	if err != nil {
		return 0, canceled(ctx, classify(fmt.Errorf("create slot: %w", err), &c.cfg, c.user))
	}
	lsn, err := pglogrepl.ParseLSN(res.ConsistentPoint)
	if err != nil {
		return 0, &GarbageError{fmt.Sprintf("consistent point %q of a new slot", res.ConsistentPoint)}
	}
	return lsn, nil
}

// Close ends a connection that was not turned into a Stream.
func (c *Conn) Close(ctx context.Context) error { return c.pc.Close(ctx) }

// abandon closes a connection in an unknown state, without waiting for the server's farewell.
func (c *Conn) abandon() {
	ctx, cancel := context.WithTimeout(context.Background(), time.Second)
	defer cancel()
	_ = c.pc.Close(ctx) // the error that led here is the one to tell
}

// oneMessage hands out the server's messages one at a time, header and body apart, so that whoever reads from it with a
// buffer of any size never takes bytes of the next message: after CopyBothResponse those belong to the Stream.
type oneMessage struct {
	r    io.Reader
	head [5]byte
	have int // bytes of head not handed out yet, at its end
	left int // bytes of the body not handed out yet
}

func (m *oneMessage) Read(p []byte) (int, error) {
	if m.have == 0 && m.left == 0 {
		if _, err := io.ReadFull(m.r, m.head[:]); err != nil {
			return 0, err
		}
		n := int64(binary.BigEndian.Uint32(m.head[1:]))
		if strings.IndexByte("RKSZTDCEINntsAVvWcdGH123", m.head[0]) < 0 || n < 4 || n > 1<<30 {
			return 0, &GarbageError{fmt.Sprintf("message type %q of %d bytes", m.head[0], n)}
		}
		m.have, m.left = len(m.head), int(n-4)
	}
	if m.have > 0 {
		n := copy(p, m.head[len(m.head)-m.have:])
		m.have -= n
		return n, nil
	}
	if len(p) > m.left {
		p = p[:m.left]
	}
	n, err := m.r.Read(p)
	m.left -= n
	return n, err
}
