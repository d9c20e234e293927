package pipeline

import (
	"bytes"
	"cmp"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"maps"
	"net"
	"net/url"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"walferry/internal/backfill"
	"walferry/internal/testbed"
)

// stage is where a test brings an interleaving about. It holds whoever comes by a place until he is let on: nothing rests on how
// fast a machine is.
type stage struct {
	t    testing.TB
	mu   sync.Mutex
	next map[string][]*held // guarded by mu: who is to be held at a place, in turn
	past map[string]int     // guarded by mu: how often a place was come by
}

// held is one who is to be held.
type held struct {
	stage       *stage
	place       string
	reached, on chan struct{}
	let         sync.Once
}

// newStage begins to watch the places. It ends, and lets everybody on, with the test.
func newStage(t testing.TB) *stage {
	s := &stage{t: t, next: map[string][]*held{}, past: map[string]int{}}
	all := []*held{}
	hook(t, func(place string) {
		s.mu.Lock()
		s.past[place]++
		var h *held
		if q := s.next[place]; len(q) > 0 {
			h, s.next[place] = q[0], q[1:]
			all = append(all, h)
		}
		s.mu.Unlock()
		if h != nil {
			close(h.reached)
			<-h.on
		}
	})
	t.Cleanup(func() {
		testHook.Store(nil)
		s.mu.Lock()
		defer s.mu.Unlock()
		for _, h := range all {
			h.release()
		}
	})
	return s
}

// hold holds the next one who comes by a place; called again, the one after him.
func (s *stage) hold(place string) *held {
	h := &held{stage: s, place: place, reached: make(chan struct{}), on: make(chan struct{})}
	s.mu.Lock()
	s.next[place] = append(s.next[place], h)
	s.mu.Unlock()
	return h
}

// nobody holds nobody any more who has not been held yet.
func (s *stage) nobody() {
	s.mu.Lock()
	defer s.mu.Unlock()
	clear(s.next)
}

// times is how often a place was come by.
func (s *stage) times(place string) int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.past[place]
}

// wait waits until somebody is held.
func (h *held) wait() {
	h.stage.t.Helper()
	within(h.stage.t, h.place, h.reached)
}

// release lets him on.
func (h *held) release() { h.let.Do(func() { close(h.on) }) }

// kill ends the pipeline while he is held.
func (h *held) kill(r *running) {
	h.stage.t.Helper()
	h.wait()
	r.cancel(errKilled)
	h.release()
	if err := r.ended(h.stage.t); !errors.Is(err, errKilled) {
		h.stage.t.Fatalf("ended with %v, want %v", err, errKilled)
	}
}

// sluice is a way to a Postgres on which what the server sends on its replication connections can be held back.
type sluice struct {
	listener net.Listener
	to       string
	wg       sync.WaitGroup

	mu    sync.Mutex // guards the following
	moved *sync.Cond
	shut  bool
	conns []net.Conn
}

func newSluice(t testing.TB, pg *testbed.PG) *sluice {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	s := &sluice{listener: l, to: net.JoinHostPort("127.0.0.1", fmt.Sprint(pg.Port()))}
	s.moved = sync.NewCond(&s.mu)
	s.wg.Go(func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			s.wg.Go(func() { s.serve(c) })
		}
	})
	t.Cleanup(func() {
		if err := l.Close(); err != nil {
			t.Error(err)
		}
		s.mu.Lock()
		s.shut = false
		for _, c := range s.conns {
			_ = c.Close() // its other end may have closed it
		}
		s.mu.Unlock()
		s.moved.Broadcast()
		s.wg.Wait()
	})
	return s
}

// way is a DSN that leads through the sluice.
func (s *sluice) way(t testing.TB, dsn string) string {
	u, err := url.Parse(dsn)
	if err != nil {
		t.Fatal(err)
	}
	u.Host = s.listener.Addr().String()
	return u.String()
}

// close holds back what is committed from now on, open lets it come.
func (s *sluice) close() { s.set(true) }
func (s *sluice) open()  { s.set(false) }

func (s *sluice) set(shut bool) {
	s.mu.Lock()
	s.shut = shut
	s.mu.Unlock()
	s.moved.Broadcast()
}

func (s *sluice) serve(c net.Conn) {
	defer func() { _ = c.Close() }() // its other end may have closed it
	server, err := net.Dial("tcp", s.to)
	if err != nil {
		return // the client sees that
	}
	defer func() { _ = server.Close() }()
	s.mu.Lock()
	s.conns = append(s.conns, c, server)
	s.mu.Unlock()
	// The first message: its length, the protocol, names and values.
	var head [4]byte
	if _, err := io.ReadFull(c, head[:]); err != nil {
		return
	}
	first := make([]byte, binary.BigEndian.Uint32(head[:]))
	copy(first, head[:])
	if _, err := io.ReadFull(c, first[4:]); err != nil {
		return
	}
	if _, err := server.Write(first); err != nil {
		return
	}
	replication := bytes.Contains(first, []byte("replication\x00database"))
	s.wg.Go(func() {
		s.pass(server, c, func() {
			for replication && s.shut {
				s.moved.Wait()
			}
		})
		_ = c.Close() // the client may have closed it
	})
	s.pass(c, server, func() {})
}

// pass copies until either end is closed; gate is called with mu held before each piece goes on.
func (s *sluice) pass(from, to net.Conn, gate func()) {
	b := make([]byte, 32<<10)
	for {
		n, err := from.Read(b)
		if n > 0 {
			s.mu.Lock()
			gate()
			s.mu.Unlock()
			if _, err := to.Write(b[:n]); err != nil {
				return
			}
		}
		if err != nil {
			return
		}
	}
}

// forced is a bed on which interleavings are forced: one worker, chunks of at most bytes, no heartbeat that was not asked for.
type forced struct {
	*bed
	*stage
	t     testing.TB
	conn  *pgx.Conn // the owner's, of the test's own statements
	conns []*pgx.Conn
}

// forcedPG is a server for many of them.
func forcedPG(t testing.TB, version string) *testbed.PG {
	pg := testbed.Postgres(t, version, "max_replication_slots=60", "max_wal_senders=60", "max_connections=200", "max_prepared_transactions=5")
	// The test's own commits wait for no standby; walferry's role has no such setting.
	pg.Exec(testbed.Superuser, `ALTER ROLE `+testbed.Owner+` SET synchronous_commit = local`, `ALTER ROLE `+testbed.Superuser+` SET synchronous_commit = local`)
	return pg
}

// force makes one, with tables made by ddl and published; a name of its own for each in the process.
func force(t testing.TB, pg *testbed.PG, name string, bytes int, tables string, ddl ...string) *forced {
	t.Helper()
	f := &forced{bed: newBed(t, pg, testbed.Kafka(t), name), stage: newStage(t), t: t}
	f.adjust = func(c *Config) {
		c.Source.Heartbeat, c.Source.WALSenderTimeout, c.Watch = time.Hour, 5*time.Minute, 100*time.Millisecond
		// Two chunks of each worker have room: one is read, one waits. An hour: a chunk that is held is none that is slow.
		c.Copy = Copy{Wanted: everyTable, Workers: 1, BufferBytes: 4 * bytes, ChunkTime: time.Hour, StatementTimeout: time.Minute}
		c.Copy.small = smallCopy{noteBytes: 16 << 20, again: 20 * time.Millisecond, after: 20 * time.Millisecond}
	}
	f.conn = f.connect()
	f.sql(ddl...)
	if tables != "" {
		f.publish(tables)
	}
	t.Cleanup(func() {
		// Behind the end of its pipelines, which began later.
		ctx, done := context.WithTimeout(context.Background(), time.Minute)
		defer done()
		for _, c := range f.conns {
			_ = c.Close(ctx) // a test may have ended it
		}
		if err := testbed.Exec(ctx, pg.DSN(testbed.Superuser),
			`SELECT pg_terminate_backend(active_pid, 60000) FROM pg_replication_slots WHERE active AND slot_name = 'walferry_`+name+`'`,
			`SELECT pg_drop_replication_slot(slot_name) FROM pg_replication_slots WHERE slot_name = 'walferry_`+name+`'`,
			`DROP PUBLICATION IF EXISTS walferry_`+name, `DROP OWNED BY `+testbed.Owner,
			`CREATE SCHEMA IF NOT EXISTS public`, `ALTER SCHEMA public OWNER TO `+testbed.Owner, `GRANT USAGE ON SCHEMA public TO `+testbed.Reader,
			`ALTER DEFAULT PRIVILEGES FOR ROLE `+testbed.Owner+` GRANT SELECT ON TABLES TO `+testbed.Reader); err != nil {
			t.Error(err)
		}
	})
	return f
}

// also adjusts the configuration further.
func (f *forced) also(more func(*Config)) {
	adjust := f.adjust
	f.adjust = func(c *Config) { adjust(c); more(c) }
}

// throughSluice leads the pipelines to the server through a sluice.
func (f *forced) throughSluice() *sluice {
	s := newSluice(f.t, f.pg)
	f.also(func(c *Config) { c.Source.DSN = s.way(f.t, c.Source.DSN) })
	return s
}

// between starts a pipeline and returns when a chunk has its place and the next one is about to begin, which is held.
func (f *forced) between() (*running, *held) {
	f.t.Helper()
	first, second, placed := f.hold("chunk-begin"), f.hold("chunk-begin"), f.hold("chunk-placed")
	r := f.start()
	first.wait()
	first.release()
	placed.wait() // also before the next one begins, where the stream has come far enough by itself
	placed.release()
	second.wait()
	return r, second
}

// connect connects as the owner until the case ends.
func (f *forced) connect() *pgx.Conn {
	f.t.Helper()
	c := f.pg.Connect(testbed.Owner)
	f.conns = append(f.conns, c)
	return c
}

// sql runs statements as the owner, one after the other.
func (f *forced) sql(statements ...string) {
	f.t.Helper()
	for _, sql := range statements {
		must(f.t, f.conn, sql)
	}
}

// begin begins a transaction on a connection of its own, and runs statements in it.
func (f *forced) begin(statements ...string) *pgx.Conn {
	f.t.Helper()
	c := f.connect()
	must(f.t, c, `BEGIN`)
	for _, sql := range statements {
		must(f.t, c, sql)
	}
	return c
}

// blocked runs a statement on a connection of its own, beside the test, and returns when it waits for wait_event_type. The channel
// has its outcome.
func (f *forced) blocked(on, sql string) <-chan error {
	f.t.Helper()
	c := f.connect()
	if on == "SyncRep" {
		must(f.t, c, `SET synchronous_commit = on`)
	}
	done := make(chan error, 1)
	go func() {
		_, err := c.Exec(context.Background(), sql)
		done <- err
	}()
	f.await(sql+" to wait for "+on, nil, func() bool {
		select {
		case err := <-done:
			f.t.Fatalf("%s does not wait: %v", sql, err)
		default:
		}
		return ask[bool](f.bed, `SELECT coalesce(bool_or(wait_event_type = $2 OR wait_event = $2), false) FROM pg_stat_activity WHERE pid = $1`, int32(c.PgConn().PID()), on)
	})
	return done
}

// goes takes the outcome of a statement that waited.
func (f *forced) goes(done <-chan error) {
	f.t.Helper()
	select {
	case err := <-done:
		if err != nil {
			f.t.Fatal(err)
		}
	case <-time.After(40 * time.Second):
		f.t.Fatal("a statement that was let on does not end")
	}
}

// delivered returns when the stream has delivered, and Kafka committed, all that was committed before the call.
func (f *forced) delivered(r *running) {
	f.t.Helper()
	f.caughtUp(r)
}

// done waits for the end of the copies of n tables, and until all is confirmed.
func (f *forced) done(r *running, n int) map[string]*backfill.Copy {
	f.t.Helper()
	ctx, cancel := context.WithTimeout(f.t.Context(), 2*time.Minute)
	defer cancel()
	for {
		out := f.copies(ctx)
		over := 0
		for _, c := range out {
			if c.State.Over() {
				over++
			}
		}
		if over >= n {
			f.caughtUp(r)
			return out
		}
		select {
		case err := <-r.done:
			r.done <- err
			f.t.Fatalf("the pipeline ended: %v", err)
		case <-r.watcher.committed:
		case <-time.After(200 * time.Millisecond):
		}
		if ctx.Err() != nil {
			f.t.Fatalf("%d of %d tables are copied: %+v, %+v", over, n, out, r.Health().Copies)
		}
	}
}

// story is what the events of a table tell of each key, in their order: the operation, the row without its key (a value that the
// stream has left out is ?, a long one its first character and its length), and of a read its snapshot marker.
func (f *forced) story(table string, keyColumns ...string) map[string][]string {
	f.t.Helper()
	out := map[string][]string{}
	events := f.all(table)
	if !slices.ContainsFunc(events, func(e event) bool { return e.Key != nil }) {
		// Without keys only what is in one partition has an order.
		slices.SortStableFunc(events, func(x, y event) int {
			at := func(e event, lsn string) int64 { return e.at("source", lsn).(int64) }
			emptied := func(e event) int { return strings.Index("t", e.value["op"].(string)) }
			return cmp.Or(cmp.Compare(at(x, "commit_lsn"), at(y, "commit_lsn")), cmp.Compare(at(x, "lsn"), at(y, "lsn")), cmp.Compare(emptied(y), emptied(x)))
		})
	}
	for _, e := range events {
		if e.value == nil {
			continue // a tombstone
		}
		key := "" // a truncate event, or of a table without a key
		var k map[string]any
		if e.Key != nil {
			k = f.registry.decode(f.t, e.Key)
			var parts []string
			for _, name := range keyColumns {
				if v, ok := k[name]; ok {
					parts = append(parts, shown(v))
				}
			}
			key = strings.Join(parts, ",")
		}
		lacks, _ := inner(e.value["unavailable"]).([]any)
		row := func(v any) string {
			m, _ := inner(v).(map[string]any)
			var parts []string
			for _, name := range slices.Sorted(maps.Keys(m)) {
				_, inKey := k[name]
				switch {
				case inKey:
				case slices.Contains(lacks, any(name)):
					parts = append(parts, "?")
				default:
					parts = append(parts, shown(m[name]))
				}
			}
			return strings.Join(parts, ",")
		}
		op := e.value["op"].(string)
		line := op
		switch op {
		case "d":
			if e.Key == nil {
				line += " " + row(e.value["before"])
			}
		case "u":
			if e.Key == nil {
				line += " " + row(e.value["before"]) + " to"
			}
			line += " " + row(e.value["after"])
		case "c", "r":
			line += " " + row(e.value["after"])
		}
		if marker := e.at("source", "snapshot"); op == "r" {
			line += " " + fmt.Sprint(marker)
		}
		out[key] = append(out[key], line)
	}
	return out
}

func shown(v any) string {
	switch v := inner(v).(type) {
	case nil:
		return "null"
	case string:
		if len(v) > 40 {
			return fmt.Sprintf("%s…%d", v[:1], len(v))
		}
		return v
	default:
		return fmt.Sprint(v)
	}
}

// tells compares the story of a table with what it should be: key, then events separated by "; ".
func (f *forced) tells(table string, want map[string]string) {
	f.t.Helper()
	key := []string{"id"}
	if table == "pair" || table == "root" {
		key = []string{"id", "at"}
	}
	f.tellsBy(table, key, want)
}

func (f *forced) tellsBy(table string, key []string, want map[string]string) {
	f.t.Helper()
	got := f.story(table, key...)
	keys := slices.Concat(slices.Collect(maps.Keys(got)), slices.Collect(maps.Keys(want)))
	slices.SortFunc(keys, func(x, y string) int { return cmp.Or(cmp.Compare(len(x), len(y)), cmp.Compare(x, y)) })
	for _, k := range slices.Compact(keys) {
		if g := strings.Join(got[k], "; "); g != want[k] {
			f.t.Errorf("%s %s:\n got %s\nwant %s", table, k, g, want[k])
		}
	}
}

// says waits until the log has a text.
func (f *forced) says(r *running, text string) {
	f.t.Helper()
	f.await("the log to say "+text, r, func() bool { return f.logged.has(text) })
}

// standby makes commits wait for a synchronous standby that is not there, or, with false, no more.
func (f *forced) standby(missing bool) {
	f.t.Helper()
	name := ""
	if missing {
		name = "nobody"
	}
	f.pg.Exec(testbed.Superuser, `ALTER SYSTEM SET synchronous_standby_names = '`+name+`'`, `SELECT pg_reload_conf()`)
	f.await("the setting to be in force", nil, func() bool { return ask[string](f.bed, `SHOW synchronous_standby_names`) == name })
}
