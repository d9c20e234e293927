package backfill

import (
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"os"
	"slices"
	"strconv"
	"testing"

	"walferry/decode"
)

// A server of one table with a key of two columns, a value and a large value: transactions take locks of rows, commit into a WAL,
// and are seen by others at some time after that. Every interleaving that matters is one of its steps, in an order that a seed
// gives. The publication has a row filter, which keys above a number do not pass; and its columns may change while others write.
type server struct {
	r       *rand.Rand
	version int    // of what is published
	large   bool   // the second column of the key is out of line, too, so an update leaves it out and brings the old key
	next    uint32 // XID
	open    []*transaction
	wal     []*transaction // committed, in their order
	rows    map[int]row    // as of all that is committed
	lock    map[int]*transaction
	log     []string
}

type row struct{ value, large string }

type transaction struct {
	xid       uint32
	changes   []change
	rows      map[int]*row // what it has written; nil for a row that is gone
	truncated bool
	seen      bool
}

// change is what the stream brings of one operation.
type change struct {
	c        decode.Change
	now      row // that it brings, or leaves out
	version  int
	truncate bool
}

func (s *server) logf(format string, args ...any) {
	s.log = append(s.log, fmt.Sprintf(format, args...))
}

func datum(v string) decode.Datum { return decode.Datum{Kind: decode.Text, Data: []byte(v)} }

// keys are those of the table; only the first of them pass the row filter.
const keys, published = 8, 6

// layout is where a version of the table has its columns.
type layout struct{ first, second, value, large int }

var layouts = [2]layout{{1, 3, 0, 2}, {2, 0, 3, 1}}

func (l *layout) columns() []int { return []int{l.first, l.second} }

func tuple(version, key int, r row) decode.Tuple {
	l, out := layouts[version], identity(version, key)
	out[l.value], out[l.large] = datum(r.value), datum(r.large)
	return out
}

// identity is a row with the values of its key alone.
func identity(version, key int) decode.Tuple {
	l, out := layouts[version], slices.Repeat(decode.Tuple{{Kind: decode.Null}}, 4)
	out[l.first], out[l.second] = datum(strconv.Itoa(key%2)), datum(strconv.Itoa(key/2))
	return out
}

func keyOf(k Key) int {
	a, _ := strconv.Atoi(string(k[0].Data))
	b, _ := strconv.Atoi(string(k[1].Data))
	return 2*b + a
}

func (t *transaction) get(s *server, key int) (row, bool) {
	if r, ok := t.rows[key]; ok {
		if r == nil {
			return row{}, false
		}
		return *r, true
	}
	if t.truncated {
		return row{}, false
	}
	r, ok := s.rows[key]
	return r, ok
}

// take takes a row's lock, unless another transaction has it.
func (s *server) take(t *transaction, key int) bool {
	if o := s.lock[key]; o != nil && o != t {
		return false
	}
	s.lock[key] = t
	return true
}

func (s *server) begin() {
	t := &transaction{xid: s.next, rows: map[int]*row{}}
	s.next++
	s.open = append(s.open, t)
}

// work does one operation of an open transaction.
func (s *server) work(t *transaction) {
	key := 1 + s.r.IntN(keys)
	if !s.take(t, key) {
		return
	}
	old, there := t.get(s, key)
	fresh := row{value: fmt.Sprintf("v%d.%d", t.xid, len(t.changes)), large: fmt.Sprintf("l%d.%d", t.xid, len(t.changes))}
	if !there {
		t.rows[key] = &fresh
		s.publish(t, 0, key, fresh, false)
		s.logf("%d insert %d", t.xid, key)
		return
	}
	switch s.r.IntN(8) {
	case 0, 1, 2:
		kept := row{fresh.value, old.large}
		t.rows[key] = &kept
		s.publish(t, key, key, kept, true)
		s.logf("%d update %d, large value unchanged", t.xid, key)
	case 3:
		t.rows[key] = &fresh
		s.publish(t, key, key, fresh, false)
		s.logf("%d update %d", t.xid, key)
	case 4:
		t.rows[key] = nil
		s.publish(t, key, 0, row{}, false)
		s.logf("%d delete %d", t.xid, key)
	case 5, 6:
		to := 1 + s.r.IntN(keys)
		if _, there := t.get(s, to); to == key || !s.take(t, to) || there {
			return
		}
		kept := row{fresh.value, old.large}
		t.rows[key], t.rows[to] = nil, &kept
		s.publish(t, key, to, kept, true)
		s.logf("%d move %d to %d, large value unchanged", t.xid, key, to)
	case 7:
		if s.r.IntN(6) > 0 {
			return
		}
		for k := 1; k <= keys; k++ {
			if o := s.lock[k]; o != nil && o != t {
				return
			}
		}
		for k := 1; k <= keys; k++ {
			s.lock[k] = t
		}
		t.rows, t.truncated = map[int]*row{}, true
		t.changes = append(t.changes, change{truncate: true, version: s.version})
		s.logf("%d truncate", t.xid)
	}
}

// publish is what the stream will bring of a change from one key to another; 0 for none. unchanged: the large value was left alone.
func (s *server) publish(t *transaction, from, to int, now row, unchanged bool) {
	v := s.version
	l := &layouts[v]
	c := decode.Change{Op: decode.Update}
	if from != 0 && (to != from || s.large) {
		c.Old, c.OldKind = identity(v, from), decode.OldKey
	}
	if to != 0 {
		if c.New = tuple(v, to, now); unchanged {
			c.New[l.large] = decode.Datum{Kind: decode.Unchanged}
		}
	}
	switch was, is := from != 0 && from <= published, to != 0 && to <= published; {
	case !was && !is:
		return
	case !was: // with all of its key
		c.Op, c.Old, c.OldKind = decode.Insert, nil, decode.OldNone
	case !is:
		c.Op, c.Old, c.OldKind, c.New = decode.Delete, identity(v, from), decode.OldKey, nil
	case s.large && from/2 == to/2:
		c.New[l.second] = decode.Datum{Kind: decode.Unchanged}
	}
	t.changes = append(t.changes, change{c: c, now: now, version: v})
}

func (s *server) commit(i int) {
	t := s.open[i]
	s.open = slices.Delete(s.open, i, i+1)
	s.wal = append(s.wal, t)
	if t.truncated {
		clear(s.rows)
	}
	for k, r := range t.rows {
		if delete(s.rows, k); r != nil {
			s.rows[k] = *r
		}
	}
	s.logf("%d commits at %d", t.xid, len(s.wal))
}

// show lets others see a transaction that has committed: only now its locks are gone.
func (s *server) show(t *transaction) {
	t.seen = true
	for k, o := range s.lock {
		if o == t {
			delete(s.lock, k)
		}
	}
	s.logf("%d is seen", t.xid)
}

func (s *server) snapshot() decode.Snapshot {
	out := decode.Snapshot{Xmin: uint64(s.next), Xmax: uint64(s.next)}
	for _, t := range slices.Concat(s.open, s.wal) {
		if !t.seen {
			out.Running = append(out.Running, uint64(t.xid))
			out.Xmin = min(out.Xmin, uint64(t.xid))
		}
	}
	slices.Sort(out.Running)
	return out
}

// visible are the rows that the transactions seen have left.
func (s *server) visible() map[int]row {
	out := map[int]row{}
	for _, t := range s.wal {
		if t.seen {
			t.apply(out)
		}
	}
	return out
}

func (t *transaction) apply(rows map[int]row) {
	if t.truncated {
		clear(rows)
	}
	for k, r := range t.rows {
		if delete(rows, k); r != nil {
			rows[k] = *r
		}
	}
}

// copying is what the pipeline does, in small: it notes, reads chunks, places them, and publishes the stream.
type copying struct {
	*server
	delivered int // of wal
	rows      map[int]row
	consumer  map[int]row // with "" for a large value that no event has brought
	reads     map[int]int
	notes     *Notes
	noted     int // the version of what is noted; -1 for none
	fence     uint64
	chunks    []*read
	todo      [][]int // ranges of keys that are not read
	queued    bool    // the moved keys are read
	err       error
}

type read struct {
	s       decode.Snapshot
	h       int
	version int
	keys    []int
	rows    map[int]row
	asked   bool // for its keys, which have moved
}

func (c *copying) deliver() {
	t := c.wal[c.delivered]
	c.delivered++
	for i := range t.changes {
		x := &t.changes[i]
		if c.notes != nil && x.version != c.noted {
			c.streamed(x.version)
		}
		if x.truncate {
			clear(c.consumer)
			if c.notes != nil {
				c.notes.Truncate(t.xid, false)
			}
			continue
		}
		ch, l := &x.c, &layouts[x.version]
		// Delete and create of a row that has moved name each other in their headers, so a large value can go along.
		var moved row
		from := 0
		if ch.Old != nil {
			from = keyOf(KeyOf(ch.Old, l.columns()))
			moved = c.consumer[from]
			delete(c.consumer, from)
		}
		if ch.New != nil {
			key := slices.Clone(ch.New)
			if key[l.second].Kind == decode.Unchanged {
				key[l.second] = ch.Old[l.second]
			}
			k := keyOf(KeyOf(key, l.columns()))
			r := row{string(ch.New[l.value].Data), string(ch.New[l.large].Data)}
			switch {
			case ch.New[l.large].Kind != decode.Unchanged:
			case ch.Op == decode.Insert && c.queued:
				r = x.now // nothing is read any more: what the stream leaves out then is no matter of the copy
			case from == 0:
				r.large = c.consumer[k].large
			default:
				r.large = moved.large
			}
			c.consumer[k] = r
		}
		if c.notes != nil && !c.notes.Change(t.xid, ch, false) {
			c.err = fmt.Errorf("transaction %d: a change has no key", t.xid)
		}
	}
	t.apply(c.rows)
	c.logf("%d delivered", t.xid)
}

// streamed takes another version of the table: whoever alters what is published waits for nobody, so all that was noted before
// needs another fence.
func (c *copying) streamed(version int) {
	c.notes.Reset(layouts[version].columns())
	if c.noted >= 0 {
		c.fence = 0
		for _, x := range c.chunks {
			c.again(x)
		}
		c.chunks = nil
	}
	c.noted = version
}

// again has a chunk read again.
func (c *copying) again(x *read) {
	c.logf("keys %v are read again", x.keys)
	if !x.asked {
		c.todo = append(c.todo, x.keys)
	}
}

// chunk reads the next range, if the fence lets it.
func (c *copying) chunk() {
	s := c.snapshot()
	if s.Xmin < c.fence {
		return
	}
	x := &read{s: s, h: len(c.wal), version: c.version, rows: map[int]row{}}
	switch {
	case len(c.todo) > 0:
		x.keys, c.todo = c.todo[0], c.todo[1:]
	case len(c.chunks) > 0 || c.queued:
		return
	case len(c.notes.Moved()) == 0:
		c.queued = true
		return
	default:
		for _, k := range c.notes.Moved() {
			x.keys = append(x.keys, keyOf(k))
		}
		slices.Sort(x.keys)
		x.asked = true
	}
	now := c.visible()
	for _, k := range x.keys {
		if r, ok := now[k]; ok {
			x.rows[k] = r
		}
	}
	c.chunks = append(c.chunks, x)
	// Somebody writes after H, so that the stream goes past it.
	t := &transaction{xid: c.next, rows: map[int]*row{}}
	c.next++
	c.wal = append(c.wal, t)
	t.seen = true
	c.logf("keys %v read under %s, H %d", x.keys, &x.s, x.h)
}

// place places the first chunk, if the stream has come past its H.
func (c *copying) place() {
	if len(c.chunks) == 0 || c.delivered <= c.chunks[0].h {
		return
	}
	x := c.chunks[0]
	c.chunks = c.chunks[1:]
	l := &layouts[x.version]
	var moved []int
	for _, k := range c.notes.Moved() {
		moved = append(moved, keyOf(k))
	}
	for at, k := range x.keys {
		r, ok := x.rows[k]
		if !ok {
			continue
		}
		verdict, out := c.notes.Row(&x.s, tuple(x.version, k, r), l.columns())
		c.logf("key %d placed at %d: %d", k, c.delivered, verdict)
		if (verdict == Current) != x.s.Sees(c.newest(k)) {
			c.err = fmt.Errorf("key %d gets verdict %d, its newest change is of %d", k, verdict, c.newest(k))
		}
		if verdict == Mixed && x.version != c.noted {
			// The stream has not come to the version that the chunk has.
			x.keys = x.keys[at:]
			c.again(x)
			return
		}
		if verdict == Older || x.asked && !c.notes.Has(KeyOf(out, l.columns())) {
			continue
		}
		got := row{string(out[l.value].Data), string(out[l.large].Data)}
		if want, there := c.rows[k]; !there || got != want {
			c.err = fmt.Errorf("key %d is placed as %v, and is %v (%t) there", k, got, want, there)
		}
		if c.reads[k]++; c.reads[k] > 1 && !slices.Contains(moved, k) {
			c.err = fmt.Errorf("key %d comes twice", k)
		}
		c.consumer[k] = got
		c.notes.Placed(out, l.columns())
	}
	if x.asked {
		for _, k := range x.keys {
			c.notes.Asked(&x.s, KeyOf(identity(x.version, k), l.columns()))
		}
	}
	// The snapshot of this one is not newer than those of the others.
	seen := []*decode.Snapshot{&x.s}
	for _, o := range c.chunks {
		seen = append(seen, &o.s)
	}
	c.notes.Prune(seen...)
}

// newest is the transaction that has delivered the newest change of a key.
func (c *copying) newest(key int) uint32 {
	for _, t := range slices.Backward(c.wal[:c.delivered]) {
		if _, ok := t.rows[key]; ok || t.truncated {
			return t.xid
		}
	}
	return 0
}

// TestNotes runs a copy against many histories: at each placed row it is held to the table as of the stream's place, and in
// the end the consumer's rows to the table.
func TestNotes(t *testing.T) {
	histories := 30_000
	if v := os.Getenv("WALFERRY_HISTORIES"); v != "" {
		histories, _ = strconv.Atoi(v)
	}
	verdicts := map[string]int{}
	for seed := range uint64(histories) {
		c := history(seed)
		if c.err != nil {
			t.Fatalf("seed %d: %v\n%s", seed, c.err, join(c.log))
		}
		maps.DeleteFunc(c.server.rows, func(k int, _ row) bool { return k > published })
		for k, want := range c.server.rows {
			if got := c.consumer[k]; got != want {
				t.Fatalf("seed %d: the consumer has key %d as %v, the table as %v\n%s", seed, k, got, want, join(c.log))
			}
		}
		if len(c.consumer) != len(c.server.rows) {
			t.Fatalf("seed %d: the consumer has %v, the table %v\n%s", seed, c.consumer, c.server.rows, join(c.log))
		}
		for _, l := range c.log {
			var k, at, v int
			if n, _ := fmt.Sscanf(l, "key %d placed at %d: %d", &k, &at, &v); n == 3 {
				verdicts[fmt.Sprint(v)]++
			}
		}
	}
	for _, v := range []Verdict{Current, Older, Mixed} {
		if verdicts[fmt.Sprint(v)] < histories/50 {
			t.Errorf("verdict %d was given %d times in %d histories: they show little", v, verdicts[fmt.Sprint(v)], histories)
		}
	}
}

func history(seed uint64) *copying {
	r := rand.New(rand.NewPCG(seed, 7))
	c := &copying{server: &server{r: r, next: 100, rows: map[int]row{}, lock: map[int]*transaction{}, large: seed%2 == 0},
		noted: -1, rows: map[int]row{}, consumer: map[int]row{}, reads: map[int]int{}, todo: [][]int{{1, 2}, {3, 4}, {5, 6}}}
	// Rows from before the slot, which no event brings.
	for k := 1; k <= keys; k++ {
		if r.IntN(3) > 0 {
			first := row{"v0", fmt.Sprintf("l0.%d", k)}
			c.server.rows[k], c.rows[k] = first, first
		}
	}
	base := &transaction{xid: 99, seen: true, rows: map[int]*row{}}
	for k, r := range c.server.rows {
		base.rows[k] = &r
	}
	c.wal, c.delivered = append(c.wal, base), 1
	steps := 20 + r.IntN(60)
	for i := 0; c.err == nil && (i < steps || !c.over()); i++ {
		if i == 100_000 {
			c.err = errors.New("the copy does not come to its end")
		}
		hidden := slices.DeleteFunc(slices.Clone(c.wal), func(t *transaction) bool { return t.seen })
		if i < steps && r.IntN(40) == 0 {
			c.version = 1 - c.version
			c.logf("version %d", c.version)
		}
		switch x := r.IntN(20); {
		case x < 3 && i < steps:
			c.begin()
		case x < 9 && len(c.open) > 0 && i < steps:
			c.work(c.open[r.IntN(len(c.open))])
		case x < 11 && len(c.open) > 0:
			c.commit(r.IntN(len(c.open)))
		case x < 13 && len(hidden) > 0:
			c.show(hidden[r.IntN(len(hidden))])
		case x < 16 && c.delivered < len(c.wal):
			c.deliver()
		case x < 18 && c.notes == nil:
			c.notes = NewNotes(nil, 1<<20, nil)
			c.logf("noting begins")
		case x < 18 && c.fence == 0 && c.notes != nil:
			c.fence = uint64(c.next)
			c.next++
			c.logf("fence %d", c.fence)
		case x < 18 && c.fence != 0:
			c.chunk()
		case x < 20 && c.fence != 0:
			c.place()
		}
	}
	return c
}

func (c *copying) over() bool {
	return len(c.open) == 0 && c.delivered == len(c.wal) && len(c.todo) == 0 && len(c.chunks) == 0 && c.queued
}

func join(lines []string) (s string) {
	for _, l := range lines {
		s += l + "\n"
	}
	return s
}
