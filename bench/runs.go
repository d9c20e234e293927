package main

import (
	"bytes"
	"context"
	_ "embed"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"syscall"
	"time"

	"github.com/jackc/pgx/v5"

	"walferry/internal/kafka"
	"walferry/internal/pgserver"
	"walferry/internal/proc"
	"walferry/internal/testbed"
)

//go:embed orders.sql
var script string

// base is the slot that is never read from: each run drains a copy of it.
const base = "bench"

// bed is the two servers with a slot full of changes.
type bed struct {
	o        options
	dir      string
	remove   func() error
	postgres *pgserver.Server
	broker   *testbed.Broker
	client   *kafka.Client
	end      string // WAL position behind the last change
	resident int    // processes of Postgres that serve no connection
	written  int    // runs with a writer so far
}

var errFake = errors.New("figures of kfake say nothing: install Java 17 and Maven (Debian: default-jdk-headless maven)")

func open(ctx context.Context, o options, progress io.Writer) (_ *bed, err error) {
	b := &bed{o: o}
	defer func() {
		if err != nil {
			err = errors.Join(err, b.close())
		}
	}()
	if b.dir, b.remove, err = proc.TempDir("walferry-bench-"); err != nil {
		return nil, err
	}
	say := func(format string, args ...any) { _, _ = fmt.Fprintf(progress, format+"\n", args...) }
	say("starting Postgres and Kafka")
	b.postgres, err = pgserver.Start(ctx, pgserver.Config{Version: o.postgres, Progress: progress, Settings: map[string]string{
		"shared_buffers": "256MB", "max_wal_size": "8GB", "logical_decoding_work_mem": "64MB",
		"autovacuum": "off", // the server does what it is measured for
		// The clock of a run starts with this line of the log: %n is Unix time in milliseconds.
		"log_replication_commands": "on", "log_line_prefix": "%n ",
	}})
	if err != nil {
		return nil, err
	}
	if b.broker, err = testbed.StartKafka(ctx); err != nil {
		return nil, err
	}
	if !b.broker.Apache {
		return nil, errFake
	}
	if b.client, err = kafka.New(kafka.Config{Brokers: []string{b.broker.Addr}}); err != nil {
		return nil, err
	}
	if err := testbed.OpenShop(ctx, b.postgres); err != nil {
		return nil, err
	}
	return b, nil
}

// changes makes the slot full of changes.
func (b *bed) changes(ctx context.Context) error {
	owner := b.postgres.DSN(testbed.Shop, testbed.Owner)
	if err := testbed.Exec(ctx, owner, script, fmt.Sprintf("CALL load_orders(-50, 0, %d)", seed),
		"CREATE PUBLICATION bench FOR TABLE orders WITH (publish_via_partition_root = true)"); err != nil {
		return err
	}
	admin := b.postgres.DSN(testbed.Shop, testbed.Superuser)
	if err := testbed.Exec(ctx, admin, "SELECT pg_create_logical_replication_slot('"+base+"', 'pgoutput')"); err != nil {
		return err
	}
	if err := testbed.Exec(ctx, owner, "SET synchronous_commit = off", fmt.Sprintf("CALL load_orders(0, %d, %d)", b.o.changes/10, seed)); err != nil {
		return err
	}
	return b.settle(ctx, admin)
}

// settle notes where the changes end and leaves a server that has nothing else to do.
func (b *bed) settle(ctx context.Context, admin string) error {
	if err := testbed.Exec(ctx, admin, "VACUUM ANALYZE orders", "CHECKPOINT"); err != nil {
		return err
	}
	c, err := pgx.Connect(ctx, admin)
	if err != nil {
		return err
	}
	defer c.Close(context.WithoutCancel(ctx)) //nolint:errcheck // only read from
	if err := c.QueryRow(ctx, "SELECT pg_current_wal_insert_lsn()::text").Scan(&b.end); err != nil {
		return err
	}
	// pg_recvlogical ends when it is shown something at or behind the end.
	_, err = c.Exec(ctx, "SELECT pg_logical_emit_message(true, 'bench', '')")
	return err
}

func (b *bed) close() error {
	var err error
	if b.client != nil {
		b.client.Close()
	}
	if b.broker != nil {
		err = b.broker.Close()
	}
	if b.postgres != nil {
		err = errors.Join(err, b.postgres.Remove())
	}
	if b.remove != nil {
		err = errors.Join(err, b.remove())
	}
	return err
}

// withSlot runs f on a copy of the slot.
func (b *bed) withSlot(ctx context.Context, name string, f func() error) (err error) {
	admin := b.postgres.DSN(testbed.Shop, testbed.Superuser)
	if err := testbed.Exec(ctx, admin, fmt.Sprintf("SELECT pg_copy_logical_replication_slot('%s', '%s')", base, name)); err != nil {
		return err
	}
	defer func() {
		err = errors.Join(err, b.dropSlot(context.WithoutCancel(ctx), name))
	}()
	return f()
}

// dropSlot drops a slot whose reader has ended.
func (b *bed) dropSlot(ctx context.Context, name string) error {
	// The walsender may need a moment to see that its client has gone.
	wait := fmt.Sprintf("SELECT pg_terminate_backend(active_pid, 10000) FROM pg_replication_slots WHERE slot_name = '%s' AND active_pid IS NOT NULL", name)
	return testbed.Exec(ctx, b.postgres.DSN(testbed.Shop, testbed.Superuser), wait, fmt.Sprintf("SELECT pg_drop_replication_slot('%s')", name))
}

// dsn is how the measured program reaches the database.
func (b *bed) dsn() string {
	if b.o.transport == "unix" {
		return b.postgres.SocketDSN(testbed.Shop, testbed.Reader)
	}
	return b.postgres.DSN(testbed.Shop, testbed.Reader)
}

// measured makes the figures of a program that has ended.
func (b *bed) measured(slot string, done time.Time, state *os.ProcessState, peak int64) (figures, error) {
	began, err := b.began(slot)
	if err != nil {
		return figures{}, err
	}
	millions := float64(b.o.changes) / 1e6
	return figures{
		Rate: float64(b.o.changes) / done.Sub(began).Seconds(),
		CPU:  (state.UserTime() + state.SystemTime()).Seconds() / millions,
		Peak: float64(peak) / (1 << 20),
	}, nil
}

// began is when the server got the first START_REPLICATION for the slot.
func (b *bed) began(slot string) (time.Time, error) {
	log, err := os.ReadFile(b.postgres.LogFile())
	if err != nil {
		return time.Time{}, err
	}
	m := regexp.MustCompile(`(?m)^(\d+)\.(\d{3}) .*START_REPLICATION SLOT "?` + regexp.QuoteMeta(slot) + `"? `).FindSubmatch(log)
	if m == nil {
		return time.Time{}, fmt.Errorf("the server's log has no START_REPLICATION of slot %s", slot)
	}
	ms, err := strconv.ParseInt(string(m[1])+string(m[2]), 10, 64)
	return time.UnixMilli(ms), err
}

// recvlogical measures the yardstick: it receives and throws away.
func (b *bed) recvlogical(ctx context.Context, round int) (f figures, err error) {
	slot := fmt.Sprintf("theirs_%d", round)
	tool, err := b.postgres.PgRecvlogical()
	if err != nil {
		return f, err
	}
	ctx, done := context.WithTimeout(ctx, b.o.timeout)
	defer done()
	err = b.withSlot(ctx, slot, func() error {
		cmd := exec.Command(tool, "--dbname="+b.dsn(), "--slot="+slot, "--start", "--file=/dev/null", "--endpos="+b.end, "--no-loop",
			"-o", "proto_version=1", "-o", "publication_names=bench", "-o", "binary=true", "-o", "messages=true")
		var said bytes.Buffer
		cmd.Stderr = &said
		p, err := proc.Start(cmd, syscall.SIGKILL)
		if err != nil {
			return err
		}
		peak := int64(0)
		for p.Running() {
			if now, err := p.PeakMemory(); err == nil { // it may end at any time
				peak = now
			}
			select {
			case <-p.Done():
			case <-time.After(100 * time.Millisecond):
			case <-ctx.Done():
				return errors.Join(context.Cause(ctx), p.Stop(syscall.SIGKILL, time.Minute))
			}
		}
		end := time.Now()
		if p.Err() != nil {
			return fmt.Errorf("%w: %s", p.Err(), said.Bytes())
		}
		f, err = b.measured(slot, end, cmd.ProcessState, peak)
		return err
	})
	return f, err
}

// walferry measures a pipeline of its own name, and so with topics, checkpoint and registry of its own. Everything in the
// configuration but names and addresses is as shipped.
func (b *bed) walferry(ctx context.Context, round int, profile bool) (f figures, err error) {
	slot := fmt.Sprintf("ours_%d", round)
	ctx, cancel := context.WithTimeout(ctx, b.o.timeout)
	defer cancel()
	registry, err := freeAddr()
	if err != nil {
		return f, err
	}
	admin, err := freeAddr()
	if err != nil {
		return f, err
	}
	text := fmt.Sprintf(`
name: %[1]s
source:
  dsn: %[2]q
  tables: [public.orders]
  slot: {name: %[1]s, adopt: true}
  publication: {name: bench, create: false}
kafka:
  brokers: [%[3]q]
registry: {listen: %[4]q, topic: %[1]s.schemas}
backfill: none
admin: {listen: %[5]q, pprof: %[6]v}
`, slot, b.dsn(), b.broker.Addr, registry, admin, profile)
	// The topic is there beforehand with the shipped number of partitions, so that the consumer need not look for it.
	topic := slot + ".public.orders"
	if err := b.client.CreateTopic(ctx, topic, partitions, 1, map[string]string{"cleanup.policy": "delete"}); err != nil {
		return f, err
	}
	c, err := newConsumer(b.broker.Addr, topic)
	if err != nil {
		return f, err
	}
	defer c.client.Close()
	err = b.withSlot(ctx, slot, func() error {
		cmd, p, failed, err := b.start(slot, text)
		if err != nil {
			return err
		}
		reading, stop := context.WithCancelCause(ctx)
		defer stop(nil)
		go func() {
			<-p.Done()
			stop(errors.New("walferry ended"))
		}()
		var profiled chan error
		if profile {
			profiled = make(chan error, 1)
			go func() { profiled <- fetchProfile(ctx, "http://"+admin+"/debug/pprof/profile?seconds=10", b.o.profile) }()
		}
		deletes := b.o.changes / 10
		if err := c.read(reading, func() bool { return c.tally.records() >= b.o.changes+deletes }); err != nil {
			return failed(err)
		}
		end := time.Now()
		if profile {
			if err := <-profiled; err != nil {
				return failed(err)
			}
		}
		peak, err := p.PeakMemory()
		if err != nil {
			return failed(err)
		}
		if err := p.Stop(syscall.SIGTERM, time.Minute); err != nil {
			return failed(err)
		}
		if p.Err() != nil {
			return failed(p.Err())
		}
		// Whatever else is in the topic has to be seen too.
		behind := map[int32]int64{}
		for i := range int32(partitions) {
			if behind[i], err = b.client.EndOffset(ctx, topic, i); err != nil {
				return err
			}
		}
		if err := c.read(ctx, func() bool {
			for i, end := range behind {
				if c.next[i] < end {
					return false
				}
			}
			return true
		}); err != nil {
			return err
		}
		if err := c.tally.check(b.o.changes, deletes); err != nil {
			return err
		}
		f, err = b.measured(slot, end, cmd.ProcessState, peak)
		return err
	})
	return f, err
}

// partitions is the shipped number of a topic's.
const partitions = 6

// start starts walferry with a configuration. failed ends it and adds what it said to an error.
func (b *bed) start(name, config string) (cmd *exec.Cmd, p *proc.Process, failed func(error) error, err error) {
	file := filepath.Join(b.dir, name+".yml")
	if err := os.WriteFile(file, []byte(config), 0o600); err != nil {
		return nil, nil, nil, err
	}
	cmd = exec.Command(b.o.binary, "run", "--config", file)
	log := filepath.Join(b.dir, name+".log")
	said, err := os.Create(log)
	if err != nil {
		return nil, nil, nil, err
	}
	cmd.Stderr = said
	p, err = proc.Start(cmd, syscall.SIGKILL)
	if err := errors.Join(err, said.Close()); err != nil {
		return nil, nil, nil, err
	}
	return cmd, p, func(err error) error {
		b, rerr := os.ReadFile(log)
		return errors.Join(fmt.Errorf("%w; walferry said:\n%s", err, b[max(0, len(b)-4000):]), rerr, p.Stop(syscall.SIGKILL, time.Minute))
	}, nil
}

// fetchProfile asks until the listener is up.
func fetchProfile(ctx context.Context, url, file string) error {
	for {
		req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
		if err != nil {
			return err
		}
		resp, err := http.DefaultClient.Do(req)
		if err != nil {
			select {
			case <-ctx.Done():
				return errors.Join(err, context.Cause(ctx))
			case <-time.After(50 * time.Millisecond):
				continue
			}
		}
		b, err := io.ReadAll(resp.Body)
		if err := errors.Join(err, resp.Body.Close()); err != nil {
			return err
		}
		if resp.StatusCode != http.StatusOK {
			return fmt.Errorf("profile: %s: %s", resp.Status, b)
		}
		return os.WriteFile(file, b, 0o600)
	}
}

func freeAddr() (string, error) {
	port, err := proc.FreePort()
	if err != nil {
		return "", err
	}
	return net.JoinHostPort("127.0.0.1", strconv.Itoa(port)), nil
}
