package main

import (
	"context"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"walferry/internal/failpoint"
	"walferry/internal/pgserver"
	"walferry/internal/proc"
	"walferry/internal/testbed"
)

// place says where in its work a process is, as its trace tells: observed, since the process notes each step before it takes
// the next one, and what it noted stays when it is killed.
type place struct {
	last        string // failpoint that it reached last; "" before the first
	start       bool   // it has not streamed yet
	again       bool   // it connects again, after a session that ended
	open        bool   // a Kafka transaction with events is open: its partitions are added, its EndTxn was not sent
	ending      bool   // the EndTxn was sent, its answer not seen: committed or not
	unconfirmed bool   // the commit was answered, and the position that it covers was not sent to the slot
	split       bool   // parts of a source transaction are committed, its last one is not
}

func (p place) String() string {
	var in []string
	for _, w := range []struct {
		is   bool
		what string
	}{
		{p.start, "start-up"}, {p.again, "connecting again"}, {p.open, "open transaction"}, {p.ending, "EndTxn unanswered"},
		{p.unconfirmed, "committed, not confirmed"}, {p.split, "split"},
	} {
		if w.is {
			in = append(in, w.what)
		}
	}
	if len(in) == 0 {
		return "between transactions"
	}
	return strings.Join(in, ", ")
}

// placeOf finds the place from the number of each failpoint's last hit, 0 for one that was not reached.
func placeOf(number func(failpoint string) uint64) place {
	session, streaming := number("pipeline/session-begun"), number("pipeline/streaming")
	// A session record is written by a transaction too, after the producer id was taken; one with events begins with before-publish.
	taken, begun := number("pipeline/initialised"), number("pipeline/before-publish")
	added, produced := number("publish-added"), number("publish-produced")
	committed, aborted := number("publish-committed"), number("publish-aborted")
	part, whole := number("pipeline/part-committed"), number("pipeline/whole-committed")
	confirming, confirmed := number("pipeline/after-confirm"), number("confirm-sent")

	p := place{start: streaming == 0, again: streaming > 0 && session > streaming}
	p.split = max(part, number("pipeline/split-resumed")) > whole
	if streaming <= session {
		return p
	}
	if events := begun > max(streaming, taken); events {
		p.open = added > max(begun, produced, aborted)
		p.ending = produced > max(added, committed, aborted) && added > begun
		p.unconfirmed = committed > max(begun, part, whole)
	}
	switch {
	case p.unconfirmed: // the loop has not even been told
	case part > max(whole, streaming):
		p.unconfirmed = confirming < part // a part confirms nothing: the whole transaction will
	case whole > streaming:
		p.unconfirmed = confirmed < whole
	}
	return p
}

func TestPlaceOf(t *testing.T) {
	const (
		start   = "pipeline/session-begun pipeline/slot-taken publish-begun pipeline/initialised publish-added publish-produced publish-committed pipeline/session-committed"
		stream  = start + " pipeline/streaming confirm-sent"
		begun   = " pipeline/sealed pipeline/before-publish publish-begun"
		commits = begun + " publish-added publish-produced publish-committed pipeline/after-commit"
		whole   = commits + " pipeline/whole-committed"
		part    = commits + " pipeline/part-committed"
		told    = " pipeline/before-confirm pipeline/after-confirm"
	)
	for _, tc := range []struct {
		hits string
		want place
	}{
		{"", place{start: true}},
		{"pipeline/session-begun publish-begun publish-added", place{start: true}},
		{start, place{start: true}},
		{stream, place{}},
		{stream + begun, place{}},
		{stream + begun + " publish-added", place{open: true}},
		{stream + begun + " publish-added publish-aborted", place{}},
		{stream + begun + " publish-added publish-produced", place{ending: true}},
		{stream + begun + " publish-added publish-produced pipeline/initialised publish-begun publish-added", place{}},
		{stream + commits, place{unconfirmed: true}},
		{stream + whole, place{unconfirmed: true}},
		{stream + whole + told, place{unconfirmed: true}},
		{stream + whole + told + " confirm-sent", place{}},
		{stream + whole + " pipeline/before-confirm confirm-sent pipeline/after-confirm", place{}},
		{stream + whole + told + begun + " publish-added", place{open: true, unconfirmed: true}},
		{stream + whole + told + begun + " publish-added confirm-sent", place{open: true}},
		{stream + part, place{unconfirmed: true, split: true}},
		{stream + part + told, place{split: true}},
		{stream + part + told + begun + " publish-added", place{split: true, open: true}},
		{stream + part + told + commits, place{split: true, unconfirmed: true}},
		{stream + part + told + whole + told + " confirm-sent", place{}},
		{stream + part + told + " pipeline/session-begun", place{again: true, split: true}},
		{stream + whole + told + " confirm-sent " + stream, place{}},
		{start + " pipeline/split-resumed", place{start: true, split: true}},
		{start + " pipeline/split-resumed pipeline/streaming", place{split: true}},
		{start + " pipeline/split-resumed pipeline/streaming confirm-sent" + whole, place{unconfirmed: true}},
	} {
		numbers := map[string]uint64{}
		for i, name := range strings.Fields(tc.hits) {
			numbers[name] = uint64(i) + 1
		}
		if got := placeOf(func(name string) uint64 { return numbers[name] }); got != tc.want {
			t.Errorf("%s\n got %+v\nwant %+v", tc.hits, got, tc.want)
		}
	}
}

// life is one run of the pipeline, from its start to its kill.
type life struct {
	*proc.Process
	t     *testing.T
	trace *failpoint.Trace
}

// live starts the pipeline with a trace.
func live(t *testing.T, binary, name, config string, env ...string) *life {
	t.Helper()
	trace, err := failpoint.NewTrace(filepath.Join(t.TempDir(), "trace"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := trace.Close(); err != nil {
			t.Error(err)
		}
	})
	return &life{
		Process: launch(t, binary, name, append(env, failpoint.TraceVariable+"="+trace.Path()), "run", "--config", config),
		t:       t, trace: trace,
	}
}

func (l *life) at(name string) failpoint.Place {
	p, err := l.trace.At(name)
	if err != nil {
		l.t.Fatal(err)
	}
	return p
}

func (l *life) place() place {
	p := placeOf(func(name string) uint64 { return l.at(name).Number })
	var err error
	if p.last, err = l.trace.Last(); err != nil {
		l.t.Fatal(err)
	}
	return p
}

// kill ends it with SIGKILL and says where that struck.
func (l *life) kill() place {
	l.t.Helper()
	if !l.Running() {
		l.t.Fatalf("walferry ended by itself: %v", l.Err())
	}
	if err := l.Stop(syscall.SIGKILL, 10*time.Second); err != nil {
		l.t.Fatal(err)
	}
	return l.place()
}

// until looks every interval, without a pause for 0, until it sees what is wanted, or for as long as given.
func (l *life) until(interval, atMost time.Duration, seen func() bool) bool {
	for end := time.Now().Add(atMost); !seen(); {
		if time.Now().After(end) || !l.Running() {
			return false
		}
		if interval > 0 {
			time.Sleep(interval)
		}
	}
	return true
}

// streams waits until the start is over.
func (l *life) streams() bool {
	return l.until(time.Millisecond, time.Minute, func() bool { return l.at("pipeline/streaming").Hits > 0 })
}

// aim is how the moment of a kill is chosen. Most are any moment; but the places that matter are short, so for some rounds the
// process is watched, and killed a random moment after it was seen there, wherever it is by then.
type aim string

const (
	anyMoment aim = "any moment"
	atStart   aim = "start-up"
	atOpen    aim = "open transaction"
	atEnd     aim = "EndTxn unanswered"
	atConfirm aim = "between commit and confirm"
	// The same, which takes microseconds, in a process that sleeps a millisecond there: for rounds that are added because too
	// few have struck it.
	atHeld  aim = "between commit and confirm, held for 1 ms"
	atSplit aim = "split"
)

// startPlaces are on the road to the first frame, in their order.
var startPlaces = []string{
	"pipeline/session-begun", "pipeline/slot-taken", "pipeline/initialised", "publish-added", "publish-produced", "pipeline/session-committed",
}

// env is what the process that this aim is for has in its environment.
func (a aim) env() []string {
	if a == atHeld {
		return []string{"WALFERRY_FAILPOINTS=pipeline/before-confirm=sleep:1ms"}
	}
	return nil
}

// await waits for the moment.
func (a aim) await(l *life, random *rand.Rand) {
	below := func(d time.Duration) time.Duration { return time.Duration(random.Int64N(int64(d))) }
	switch a {
	case anyMoment:
		// Short lives die while starting, long ones in the middle of the work.
		time.Sleep(below(6 * time.Second))
	case atStart:
		if random.IntN(2) == 0 {
			time.Sleep(below(300 * time.Millisecond))
			return
		}
		name, delay := startPlaces[random.IntN(len(startPlaces))], below(3*time.Millisecond)
		l.until(20*time.Microsecond, 10*time.Second, func() bool { return l.at(name).Hits > 0 })
		time.Sleep(delay)
	case atOpen, atEnd:
		work, delay, name := below(2*time.Second), below(2*time.Millisecond), "publish-added"
		if a == atEnd {
			name = "publish-produced"
		}
		l.streams()
		time.Sleep(work)
		before := l.at(name).Hits
		l.until(20*time.Microsecond, 10*time.Second, func() bool { return l.at(name).Hits > before })
		time.Sleep(delay)
	case atConfirm, atHeld:
		work, delay := below(2*time.Second), below(100*time.Microsecond)
		l.streams()
		l.until(time.Millisecond, time.Minute, func() bool { return !l.place().split }) // only whole transactions are confirmed
		time.Sleep(work)
		before := l.at("publish-produced").Hits
		l.until(20*time.Microsecond, 10*time.Second, func() bool { return l.at("publish-produced").Hits > before })
		// From here it is a matter of microseconds.
		before = l.at("publish-committed").Hits
		l.until(0, 10*time.Second, func() bool { return l.at("publish-committed").Hits > before })
		for end := time.Now().Add(delay); time.Now().Before(end); {
		}
	case atSplit:
		parts, delay := uint64(random.IntN(6)), below(30*time.Millisecond)
		l.until(time.Millisecond, 90*time.Second, func() bool {
			return l.place().split && l.at("pipeline/part-committed").Hits >= parts
		})
		time.Sleep(delay)
	}
}

// killed is a kill and where it fell.
type killed struct {
	aim   aim
	fault string // what else was struck
	place place
}

// target is a place in which a soak must have killed.
type target struct {
	aim  aim
	what string
	in   func(place) bool
}

var targets = []target{
	{atOpen, "inside an open Kafka transaction", func(p place) bool { return p.open }},
	{atHeld, "between its commit and the confirm", func(p place) bool { return p.unconfirmed }},
	{atStart, "during start-up", func(p place) bool { return p.start }},
	{atSplit, "while a large transaction was split", func(p place) bool { return p.split }},
}

func count(kills []killed, in func(place) bool) (n int) {
	for _, k := range kills {
		if in(k.place) {
			n++
		}
	}
	return n
}

// aims returns how the next ten kills are chosen; of a short run, the first three, and then those of which one may strike
// more.
func aims(random *rand.Rand, short bool) []aim {
	a := []aim{atOpen, atConfirm, atSplit}
	if !short {
		a = append(a, atConfirm, atStart, atEnd, anyMoment, anyMoment, anyMoment, anyMoment)
	}
	random.Shuffle(len(a), func(i, j int) { a[i], a[j] = a[j], a[i] })
	if short {
		a = append(a, atStart, anyMoment)
	}
	return a
}

// plan is how one round kills.
type plan struct {
	aim aim
	strike
}

// strike is what else is struck in a round, and when: in every tenth round the broker is killed, in another tenth Postgres
// is shut down at once, while walferry runs or just after it was killed.
type strike struct {
	name  string
	when  when
	down  func() error
	start func(context.Context) error
}

type when int

const (
	never when = iota
	before
	after
)

func newStrike(round int, random *rand.Rand, pg *testbed.PG, broker *testbed.Broker) strike {
	s := strike{when: before + when(random.IntN(2))}
	switch round % 10 {
	case 4:
		s.name, s.down, s.start = "broker", broker.Kill, broker.Start
	case 5:
		s.name, s.down, s.start = "Postgres", func() error { return pg.Stop(pgserver.Immediate) }, pg.Start
	default:
		return strike{}
	}
	if s.when == before {
		s.name += " before"
	} else {
		s.name += " after"
	}
	return s
}

// fell ends the server and starts it again; the channel says when it is back.
func (s strike) fell(t *testing.T) <-chan error {
	t.Helper()
	if err := s.down(); err != nil {
		t.Fatal(err)
	}
	back := make(chan error, 1)
	go func() { back <- s.start(t.Context()) }()
	return back
}

// soakReport is what a run of rounds found.
type soakReport struct {
	seed    uint64
	seconds float64
	servers string
	kills   []killed
	events  int
	records int
	written string // of the workload
	account string
}

func (r *soakReport) markdown() string {
	var b strings.Builder
	line := func(format string, args ...any) { fmt.Fprintf(&b, format+"\n", args...) }
	line("| | |\n| --- | --- |")
	line("| seed | %d |", r.seed)
	line("| servers | %s |", r.servers)
	line("| rounds | %d in %.0f s |", len(r.kills), r.seconds)
	line("| events (committed changes) | %d, %d a round; %d records |", r.events, r.events/max(1, len(r.kills)), r.records)
	line("| workload | %s |", r.written)
	account, samples, _ := strings.Cut(strings.TrimSpace(r.account), "\n")
	line("| account | %s |", account)
	line("\n| SIGKILL to walferry fell | kills |\n| --- | --- |")
	for _, p := range targets {
		line("| %s | %d |", p.what, count(r.kills, p.in))
	}
	line("| of these: in a start with a transaction half published | %d |", count(r.kills, func(p place) bool { return p.start && p.split }))
	line("| EndTxn sent, its answer not seen | %d |", count(r.kills, func(p place) bool { return p.ending }))
	line("| while it connected again, after broker or Postgres had gone | %d |", count(r.kills, func(p place) bool { return p.again }))
	line("| between transactions | %d |", count(r.kills, func(p place) bool {
		return !p.start && !p.again && !p.open && !p.ending && !p.unconfirmed && !p.split
	}))
	line("\nOne kill can count in several lines: a part of a split transaction is a Kafka transaction too.")
	line("\n| round | moment chosen | also struck | fell | last place passed |\n| --- | --- | --- | --- | --- |")
	for i, k := range r.kills {
		line("| %d | %s | %s | %s | %s |", i+1, k.aim, k.fault, k.place, k.place.last)
	}
	if samples != "" {
		line("\n```\n%s\n```", samples)
	}
	return b.String()
}

// write leaves the report in build/, from where it goes to docs/soak.md.
func (r *soakReport) write(root string) error {
	path := filepath.Join(root, "build", "soak.md")
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return err
	}
	return os.WriteFile(path, []byte(r.markdown()), 0o644)
}

// missing returns an aim whose place was struck fewer than n times; ok is false when there is none.
func missing(kills []killed, n int) (a aim, ok bool) {
	for _, p := range targets {
		if count(kills, p.in) < n {
			return p.aim, true
		}
	}
	return anyMoment, false
}
