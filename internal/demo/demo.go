// Package demo shows walferry at work, on one machine, with nothing to install: a Postgres, an in-process Kafka (kfake), a
// schema registry and walferry itself as processes of their own, a shop that is written to, SIGKILL to walferry every few
// seconds, and a stranger who reads the topics.
//
// The truth is a journal that triggers write in the transactions that it tells of. The stranger knows topics, Avro and the
// registry's HTTP. The account compares the two; neither knows how walferry works.
package demo

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/twmb/franz-go/pkg/kfake"

	"walferry/internal/kafka"
	"walferry/internal/pgserver"
	"walferry/internal/proc"
)

// Config says what is shown. Executable and Out must be set; Default has the rest.
type Config struct {
	Executable string    // the walferry to run
	Out        io.Writer // what people see
	Terminal   bool      // Out is a terminal: colours, and a line that is written over

	Kills   int           // at least so many
	Changes int           // at least so many are committed
	Every   time.Duration // from one kill to the next, give or take a half
	Rate    int           // changes a second that are aimed at; 0 is as fast as it goes
	Limit   time.Duration // the whole demo ends with an error beyond it, unless Forever
	Forever bool          // go on until the context ends, then take account
	Break   string        // fault planted in what the consumer saw: drop, repeat, swap, or none
	Keep    bool          // leave the servers up until the context ends
}

// Default is what `walferry demo` does.
func Default() Config {
	return Config{Kills: 6, Changes: 10_000, Every: 6 * time.Second, Rate: 280, Limit: 170 * time.Second}
}

const (
	stopTimeout  = 15 * time.Second
	readyTimeout = 30 * time.Second
)

// stage is everything that runs, and what ends it.
type stage struct {
	cfg      Config
	screen   *screen
	dir      string
	pg       *pgserver.Server
	brokers  string
	registry string // URL
	admin    string // walferry's admin listener
	file     string // walferry's configuration
	dsn      string // of the shop's owner
	closers  []func() error
}

// Run shows the demo and returns its account. The context's end interrupts it, or with Forever ends it in order. Every
// child has ended when it returns.
func Run(ctx context.Context, cfg Config) (_ *Account, err error) {
	switch cfg.Break {
	case "", BreakDrop, BreakRepeat, BreakSwap:
	default:
		return nil, fmt.Errorf("break %q: it is drop, repeat or swap", cfg.Break)
	}
	s := &stage{cfg: cfg, screen: newScreen(cfg.Out, cfg.Terminal)}
	defer func() {
		s.screen.done()
		for i := len(s.closers) - 1; i >= 0; i-- {
			err = errors.Join(err, s.closers[i]())
		}
	}()
	begun := time.Now()
	// Servers end in the order that we choose, not with the context.
	work := context.WithoutCancel(ctx)
	if err := s.servers(ctx); err != nil {
		return nil, err
	}
	show, cancel := context.WithCancelCause(work)
	defer cancel(nil)
	if !cfg.Forever {
		stop := context.AfterFunc(ctx, func() { cancel(context.Cause(ctx)) })
		defer stop()
		late := time.AfterFunc(cfg.Limit-time.Since(begun), func() {
			cancel(fmt.Errorf("the demo has not ended within %v; walferry said last:\n%s", cfg.Limit, tail(filepath.Join(s.dir, "walferry.log"))))
		})
		defer late.Stop()
	}

	consumer, err := s.consumer()
	if err != nil {
		return nil, err
	}
	shop := newShop(s.dsn, cfg.Rate, cfg.Changes/2, s.screen)
	before, err := shop.stock(show)
	if err != nil {
		return nil, fmt.Errorf("workload: %w", err)
	}
	consumed, sold := make(chan error, 1), make(chan error, 1)
	reading, stopReading := context.WithCancelCause(show)
	selling, stopSelling := context.WithCancelCause(show)
	runners := 0
	start := func(out chan error, f func() error) {
		runners++
		go func() { out <- f() }()
	}
	defer func() {
		stopReading(errOver)
		stopSelling(errOver)
		for range runners {
			var err error // the one that ended the demo says more
			select {
			case err = <-consumed:
			case err = <-sold:
			}
			_ = err
		}
	}()
	ferry := &ferry{stage: s, consumer: consumer}
	if err := ferry.start(); err != nil {
		return nil, err
	}
	start(consumed, func() error { return consumer.run(reading) })
	// Each of the rows that are there is read once. With the shop open, what the journal says of one that is written and read at the
	// same time would depend on who was first.
	if err := ferry.copied(show, before); err != nil {
		return nil, err
	}
	s.screen.good("%d rows that were there before are copied; the shop opens", before)
	start(sold, func() error { return shop.run(selling) })

	// Kill, start again, until enough was killed and enough is committed.
	next := time.Now().Add(s.pause())
	tick := time.NewTicker(100 * time.Millisecond)
	defer tick.Stop()
	for {
		enough := !cfg.Forever && ferry.kills >= cfg.Kills && shop.committed.Load() >= int64(cfg.Changes)
		if enough || cfg.Forever && ctx.Err() != nil {
			break
		}
		select {
		case err := <-consumed:
			runners--
			return nil, fmt.Errorf("consumer: %w", err)
		case err := <-sold:
			runners--
			return nil, fmt.Errorf("workload: %w", err)
		case <-ferry.process.Done():
			return nil, ferry.died()
		case <-show.Done():
			return nil, context.Cause(show)
		case now := <-tick.C:
			ferry.watch()
			s.screen.status(shop, consumer, ferry.kills, now.Sub(begun))
			// What has delivered nothing since it was started has not been killed at work.
			if now.After(next) && ferry.delivered() && (cfg.Forever || ferry.kills < cfg.Kills || cfg.Changes > 0 && shop.committed.Load() < int64(cfg.Changes)) {
				if err := ferry.kill(); err != nil {
					return nil, err
				}
				next = now.Add(s.pause())
			}
		}
	}

	stopSelling(errOver)
	runners--
	if err := <-sold; err != nil && !errors.Is(err, errOver) {
		return nil, fmt.Errorf("workload: %w", err)
	}
	s.screen.say("The shop is closed. Reading what is still on its way.")
	truth, err := readTruth(work, s.dsn, before)
	if err != nil {
		return nil, err
	}
	if err := s.settle(show, consumer, ferry, truth, consumed, begun, shop); err != nil {
		return nil, err
	}
	stopReading(errOver)
	runners--
	if err := <-consumed; err != nil && !errors.Is(err, errOver) {
		return nil, fmt.Errorf("consumer: %w", err)
	}
	consumer.release()
	account := compare(truth, consumer.seen)
	account.Kills, account.Seconds = ferry.kills, float64(time.Since(begun).Round(100*time.Millisecond))/float64(time.Second)
	s.screen.account(account)
	if cfg.Keep {
		s.screen.keep(s)
		if err := account.Print(cfg.Out); err != nil {
			return nil, err
		}
		select {
		case <-ctx.Done():
		case <-ferry.process.Done():
			return nil, ferry.died()
		}
	}
	return account, ferry.stop()
}

var errOver = errors.New("the demo is over")

// pause is the time to the next kill.
func (s *stage) pause() time.Duration {
	return s.cfg.Every/2 + rand.N(s.cfg.Every)
}

// settle waits until the consumer has as many events as were committed and nothing more has come for a moment, in which
// one too many would.
func (s *stage) settle(ctx context.Context, c *consumer, f *ferry, t *truth, consumed chan error, begun time.Time, shop *shop) error {
	const quiet = time.Second
	const patience = 30 * time.Second // without anything new: what is missing then is missing
	tick := time.NewTicker(50 * time.Millisecond)
	defer tick.Stop()
	last, since := c.received.Load(), time.Now()
	for {
		n := c.received.Load()
		if n != last {
			last, since = n, time.Now()
		}
		if idle := time.Since(since); c.read.Load() >= int64(len(t.changes)) && idle > quiet || idle > patience {
			return nil
		}
		select {
		case err := <-consumed:
			consumed <- err // Run takes it
			return fmt.Errorf("consumer: %w", err)
		case <-f.process.Done():
			return f.died()
		case <-ctx.Done():
			return context.Cause(ctx)
		case now := <-tick.C:
			f.watch()
			s.screen.status(shop, c, f.kills, now.Sub(begun))
		}
	}
}

// servers starts Postgres, Kafka and the registry, and makes the shop.
func (s *stage) servers(ctx context.Context) error {
	dir, remove, err := proc.TempDir("walferry-demo-")
	if err != nil {
		return err
	}
	s.dir = dir
	s.closers = append(s.closers, remove)

	s.screen.say("Starting Postgres.")
	s.pg, err = pgserver.Start(ctx, pgserver.Config{Progress: s.cfg.Out, Settings: map[string]string{"max_slot_wal_keep_size": "4GB"}})
	if err != nil {
		return err
	}
	s.closers = append(s.closers, s.pg.Remove)
	s.dsn = s.pg.DSN("shop", "postgres")
	if err := createShop(ctx, s.pg); err != nil {
		return err
	}

	s.screen.say("Starting Kafka (kfake, inside this process).")
	port, err := proc.FreePort()
	if err != nil {
		return err
	}
	cluster, err := kfake.NewCluster(kfake.NumBrokers(1), kfake.Ports(port))
	if err != nil {
		return fmt.Errorf("kfake: %w", err)
	}
	s.closers = append(s.closers, func() error { cluster.Close(); return nil })
	s.brokers = "127.0.0.1:" + strconv.Itoa(port)

	return s.startRegistry(ctx)
}

// startRegistry writes the configurations and starts `walferry registry serve`.
func (s *stage) startRegistry(ctx context.Context) error {
	port, err := proc.FreePort()
	if err != nil {
		return err
	}
	admin, err := proc.FreePort()
	if err != nil {
		return err
	}
	listen := "127.0.0.1:" + strconv.Itoa(port)
	s.registry = "http://" + listen
	s.admin = "127.0.0.1:" + strconv.Itoa(admin)
	registryFile := filepath.Join(s.dir, "registry.yml")
	s.file = filepath.Join(s.dir, "walferry.yml")
	for file, text := range map[string]string{
		registryFile: s.configuration("listen: "+listen, `""`),
		s.file:       s.configuration("url: "+s.registry, s.admin),
	} {
		if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
			return err
		}
	}
	s.screen.say("Starting the schema registry.")
	process, err := s.child("registry.log", "registry", "serve", "--config", registryFile)
	if err != nil {
		return err
	}
	s.closers = append(s.closers, func() error { return process.Stop(syscall.SIGTERM, stopTimeout) })
	ctx, cancel := context.WithTimeoutCause(ctx, readyTimeout, errors.New("it does not answer"))
	defer cancel()
	for {
		if answers(ctx, s.registry+"/subjects") {
			return nil
		}
		select {
		case <-process.Done():
			return fmt.Errorf("registry ended: %w\n%s", process.Err(), tail(filepath.Join(s.dir, "registry.log")))
		case <-ctx.Done():
			return fmt.Errorf("registry: %w\n%s", context.Cause(ctx), tail(filepath.Join(s.dir, "registry.log")))
		case <-time.After(50 * time.Millisecond):
		}
	}
}

// configuration is a file as anyone would write it; the registry's section and the admin listener differ.
func (s *stage) configuration(registry, admin string) string {
	return fmt.Sprintf(`name: shop
source:
  dsn: %q
  tables: [shop.*]
  publication:
    create: false # the role walferry owns no table
kafka:
  brokers: [%q]
  topic:
    partitions: 3
    replication_factor: 1
registry:
  %s
admin:
  listen: %s
`, s.pg.DSN("shop", "walferry"), s.brokers, registry, admin)
}

// child starts this program again as a process that ends with this one.
func (s *stage) child(log string, args ...string) (*proc.Process, error) {
	f, err := os.OpenFile(filepath.Join(s.dir, log), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return nil, err
	}
	// Not bound to a context: its end is ours to choose.
	cmd := exec.CommandContext(context.Background(), s.cfg.Executable, args...)
	cmd.Dir, cmd.Stdout, cmd.Stderr = s.dir, f, f
	for _, kv := range os.Environ() {
		if !strings.HasPrefix(kv, "PG") && !strings.HasPrefix(kv, "WALFERRY_") {
			cmd.Env = append(cmd.Env, kv)
		}
	}
	process, err := proc.Start(cmd, syscall.SIGKILL)
	return process, errors.Join(err, f.Close())
}

// consumer makes the stranger.
func (s *stage) consumer() (*consumer, error) {
	client, err := kafka.New(kafka.Config{Brokers: []string{s.brokers}, ClientID: "stranger"})
	if err != nil {
		return nil, err
	}
	s.closers = append(s.closers, func() error { client.Close(); return nil })
	return newConsumer(client, s.registry, s.cfg.Break, int64(s.cfg.Changes/3), s.screen), nil
}

// ferry is the walferry that is killed and started again.
type ferry struct {
	*stage
	consumer *consumer
	process  *proc.Process
	kills    int
	at       int64     // events received when it was started
	started  time.Time // zero once its first event has been seen
}

func (f *ferry) start() error {
	process, err := f.child("walferry.log", "run", "--config", f.file)
	if err != nil {
		return err
	}
	if f.process == nil {
		f.closers = append(f.closers, func() error { return f.process.Stop(syscall.SIGKILL, stopTimeout) })
	}
	f.process, f.at, f.started = process, f.consumer.read.Load(), time.Now()
	f.screen.good("walferry runs, pid %d", process.PID())
	return nil
}

// copied waits until walferry has copied every table, and the consumer has so many events.
func (f *ferry) copied(ctx context.Context, events int64) error {
	ctx, cancel := context.WithTimeoutCause(ctx, readyTimeout, errors.New("walferry does not copy the rows that are there"))
	defer cancel()
	for {
		var status struct {
			Backfill []struct{ State string }
		}
		done := 0
		if body, err := get(ctx, "http://"+f.admin+"/status"); err == nil && json.Unmarshal(body, &status) == nil {
			for _, c := range status.Backfill {
				if c.State == "done" {
					done++
				}
			}
		}
		if done == len(tables) && f.consumer.read.Load() >= events {
			return nil
		}
		select {
		case <-f.process.Done():
			return f.died()
		case <-ctx.Done():
			return fmt.Errorf("%w\n%s", context.Cause(ctx), tail(filepath.Join(f.dir, "walferry.log")))
		case <-time.After(50 * time.Millisecond):
		}
	}
}

func (f *ferry) kill() error {
	if err := f.process.Stop(syscall.SIGKILL, stopTimeout); err != nil {
		return err
	}
	f.kills++
	f.screen.bad("SIGKILL to walferry, pid %d (kill %d)", f.process.PID(), f.kills)
	return f.start()
}

// delivered says whether events have come since the start.
func (f *ferry) delivered() bool { return f.consumer.read.Load() > f.at }

// watch tells when the first events after a start have come.
func (f *ferry) watch() {
	if !f.started.IsZero() && f.delivered() {
		f.screen.good("pid %d delivers, %.1f s after its start", f.process.PID(), time.Since(f.started).Seconds())
		f.started = time.Time{}
	}
}

// died is the error for an end that was not our doing.
func (f *ferry) died() error {
	return fmt.Errorf("walferry ended by itself: %w\n%s", f.process.Err(), tail(filepath.Join(f.dir, "walferry.log")))
}

// stop ends it as an operator would.
func (f *ferry) stop() error {
	if err := f.process.Stop(syscall.SIGTERM, 30*time.Second); err != nil {
		return fmt.Errorf("stop walferry: %w", err)
	}
	if err := f.process.Err(); err != nil {
		return f.died()
	}
	return nil
}

// answers says whether a GET is answered with 200.
func answers(ctx context.Context, url string) bool {
	_, err := get(ctx, url)
	return err == nil
}

// get is the body of an answer with 200.
func get(ctx context.Context, url string) ([]byte, error) {
	ctx, cancel := context.WithTimeout(ctx, 2*time.Second)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return nil, err
	}
	res, err := local.Do(req)
	if err != nil {
		return nil, err
	}
	body, err := io.ReadAll(io.LimitReader(res.Body, 1<<20))
	if err := errors.Join(err, res.Body.Close()); err != nil {
		return nil, err
	}
	if res.StatusCode != http.StatusOK {
		return nil, errors.New(res.Status)
	}
	return body, nil
}

// local asks servers of this machine, through no proxy.
var local = &http.Client{
	Timeout:   10 * time.Second,
	Transport: &http.Transport{DialContext: (&net.Dialer{Timeout: 2 * time.Second}).DialContext},
}

// tail is the end of a log.
func tail(file string) string {
	b, err := os.ReadFile(file)
	if err != nil {
		return err.Error()
	}
	lines := strings.Split(strings.TrimSpace(string(b)), "\n")
	return strings.Join(lines[max(0, len(lines)-12):], "\n")
}
