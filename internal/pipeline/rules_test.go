package pipeline

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/segmentio/kafka-go/protocol"

	"walferry/checkpoint"
	"walferry/internal/kafka"
	"walferry/internal/testbed"
	"walferry/schema/registry"
	"walferry/sink"
	"walferry/sink/sinktest"
	"walferry/source"
)

// ending says whether a session of r ended with an error of type E.
func ending[E error](r *running) bool {
	r.watcher.mu.Lock()
	defer r.watcher.mu.Unlock()
	for _, err := range r.watcher.endings {
		if is[E](err) {
			return true
		}
	}
	return false
}

// ask is one answer of the server to the superuser.
func ask[T any](b *bed, sql string, args ...any) T {
	b.t.Helper()
	c := b.pg.Connect(testbed.Superuser)
	var v T
	if err := c.QueryRow(b.t.Context(), sql, args...).Scan(&v); err != nil {
		b.t.Fatalf("%s: %v", sql, err)
	}
	if err := c.Close(b.t.Context()); err != nil {
		b.t.Fatal(err)
	}
	return v
}

// TestForeignTransactions: ⚔ somebody else's transactions in the checkpoint topic, one open and some aborted, hide nothing and
// count for nothing.
func TestForeignTransactions(t *testing.T) {
	pg := testbed.Postgres(t, "")
	b := newBed(t, pg, testbed.Kafka(t), "foreign")
	ledger(b, "item")
	r := b.start()
	r.first(t)
	pg.Exec(testbed.Owner, `INSERT INTO item SELECT g FROM generate_series(1, 20) g`)
	b.caughtUp(r)
	r.kill(t)

	// What they write would be believed if it counted.
	topic := "_walferry." + b.name
	faults := sinktest.New()
	t.Cleanup(faults.Close)
	stranger := func(id string) (*sink.Producer, *sink.Batch) {
		client, err := kafka.New(kafka.Config{Brokers: []string{b.addr}, Dial: faults.Dial, RequestTimeout: 2 * time.Second})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(client.Close)
		p, err := sink.New(client, sink.Config{TransactionalID: id, TransactionTimeout: 5 * time.Minute, PublishTimeout: 4 * time.Minute})
		if err != nil {
			t.Fatal(err)
		}
		if err := p.Init(t.Context()); err != nil {
			t.Fatal(err)
		}
		batch := p.NewBatch()
		for _, key := range []string{checkpoint.Key, checkpoint.SessionKey, checkpoint.TextKey} {
			if err := batch.Append(topic, 0, time.Now(), []byte(key), []byte("theirs"), nil); err != nil {
				t.Fatal(err)
			}
		}
		return p, batch
	}
	// abort publishes up to the commit, which is lost, and aborts.
	abort := func(p *sink.Producer, batch *sink.Batch) {
		x := faults.Inject(sinktest.Rule{API: protocol.EndTxn, Action: sinktest.Swallow})
		ctx, cancel := context.WithCancel(t.Context())
		go func() { <-x.Struck(); cancel() }()
		if _, err := p.Publish(ctx, batch); err == nil {
			t.Fatal("committed")
		}
		faults.Clear()
		if err := p.Recover(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	p, batch := stranger("stranger-aborted")
	abort(p, batch)

	open, openBatch := stranger("stranger-open")
	x := faults.Inject(sinktest.Rule{API: protocol.EndTxn, Action: sinktest.Swallow})
	ctx, cancel := context.WithCancel(t.Context())
	published := make(chan error, 1)
	go func() { _, err := open.Publish(ctx, openBatch); published <- err }()
	within(t, "an open transaction", x.Struck())
	faults.Clear()

	pg.Exec(testbed.Owner, `INSERT INTO item SELECT g FROM generate_series(21, 40) g`)
	r = b.start()
	b.caughtUp(r)
	b.verify("item")
	r.kill(t)
	// Again, with our own session behind theirs and theirs behind ours.
	abort(p, batch)
	pg.Exec(testbed.Owner, `DELETE FROM item WHERE id < 30`)
	r = b.start()
	b.caughtUp(r)
	b.verify("item")
	cancel()
	if err := <-published; err == nil {
		t.Error("the open transaction was committed, and the test shows nothing")
	}
	r.drain(t)
}

// TestForeignMessages: ⚔ logical messages of other applications, larger than any row may be, are never buffered, in no
// transaction, in one of their own and in one of ours.
func TestForeignMessages(t *testing.T) {
	pg := testbed.Postgres(t, "")
	b := newBed(t, pg, testbed.Kafka(t), "messages")
	b.adjust = func(c *Config) { c.Source.BufferBytes, c.Source.MaxRowBytes = 256<<10, 1<<20 }
	ledger(b, "item")
	r := b.start()
	r.first(t)
	c := pg.Connect(testbed.Owner)
	for i, transactional := range []bool{false, true} {
		tx, err := c.Begin(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		for j := range 3 {
			if _, err := tx.Exec(t.Context(), `INSERT INTO item SELECT g FROM generate_series($1::int, $1 + 9) g`, 100*i+10*j+1); err != nil {
				t.Fatal(err)
			}
			if _, err := tx.Exec(t.Context(), `SELECT pg_logical_emit_message($1, 'theirs', repeat('x', 3 << 20))`, transactional); err != nil {
				t.Fatal(err)
			}
		}
		if err := tx.Commit(t.Context()); err != nil {
			t.Fatal(err)
		}
		must(t, c, `SELECT pg_logical_emit_message($1, 'theirs', repeat('x', 3 << 20))`, transactional)
		// A prefix of ours that is not what it says changes nothing.
		must(t, c, `SELECT pg_logical_emit_message($1, 'walferry.context', 'no JSON'), pg_logical_emit_message($1, 'walferry.else', 'x')`, transactional)
	}
	b.caughtUp(r)
	b.verify("item")
	r.watcher.mu.Lock()
	if n := len(r.watcher.endings); n != 0 {
		t.Errorf("%d sessions ended: %v", n, r.watcher.endings)
	}
	r.watcher.mu.Unlock()
	r.drain(t)
}

// TestSynchronousStandby: ⚔ a missing synchronous standby blocks the application's commits and not the heartbeats; a server that
// would make the application wait for us is refused.
func TestSynchronousStandby(t *testing.T) {
	pg := testbed.Postgres(t, "")
	b := newBed(t, pg, testbed.Kafka(t), "sync")
	ledger(b, "item")
	// The test's own writes shall not wait. Walferry's role has no such setting.
	pg.Exec(testbed.Superuser, `ALTER ROLE `+testbed.Owner+` SET synchronous_commit = local`, `ALTER ROLE `+testbed.Superuser+` SET synchronous_commit = local`)
	names := func(s string) {
		pg.Exec(testbed.Superuser, `ALTER SYSTEM SET synchronous_standby_names = '`+s+`'`, `SELECT pg_reload_conf()`)
		b.await("the setting to be in force", nil, func() bool { return ask[string](b, `SHOW synchronous_standby_names`) == s })
	}
	names("FIRST 1 (missing)")
	r := b.start()
	r.first(t) // a heartbeat's: there is nothing else
	r.commit(t, 2)
	pg.Exec(testbed.Owner, `INSERT INTO item SELECT g FROM generate_series(1, 20) g`)
	b.caughtUp(r)
	b.verify("item")
	r.kill(t)

	names("*")
	err := b.start().ended(t)
	var refused *source.SyncStandbyError
	if !errors.As(err, &refused) || refused.Hint() == "" {
		t.Errorf("ended with %v, want %T with a way on", err, refused)
	}
	names("")
	r = b.start()
	pg.Exec(testbed.Owner, `INSERT INTO item SELECT g FROM generate_series(21, 40) g`)
	b.caughtUp(r)
	b.verify("item")
	r.drain(t)
}

// TestShutdownWithoutKafka: ⚔ a fast stop of the server ends at once while Kafka is away, whether the stream is read or reading
// has stopped because the buffer is spent, and long before stall_limit.
func TestShutdownWithoutKafka(t *testing.T) {
	pg := testbed.Postgres(t, "")
	b := newBed(t, pg, testbed.Kafka(t), "shutdown")
	b.adjust = func(c *Config) {
		c.StallLimit, c.Source.BufferBytes, c.Sink.MaxBatchBytes = time.Hour, 256<<10, 256<<10
		c.Sink.TransactionTimeout, c.Sink.PublishTimeout = 10*time.Minute, 5*time.Minute
		c.Source.WALSenderTimeout = 10 * time.Minute // it does not end a walsender that is stuck
	}
	faults := b.faulty()
	ledger(b, "item")
	r := b.start()
	r.first(t)
	pg.Exec(testbed.Owner, `INSERT INTO item VALUES (0)`)
	b.caughtUp(r)
	for i, c := range []struct {
		name  string
		rows  int
		stuck bool
	}{{"reading", 10, false}, {"not reading", 40000, true}} {
		t.Run(c.name, func(t *testing.T) {
			b.t = t
			x := faults.Inject(sinktest.Rule{API: protocol.Produce, Action: sinktest.Swallow})
			pg.Exec(testbed.Owner, fmt.Sprintf(`INSERT INTO item SELECT g, nextval('write_number'), repeat('x', 1000) FROM generate_series(%d, %d) g`,
				100_000*(i+1), 100_000*(i+1)+c.rows-1))
			within(t, "the fault", x.Struck())
			if c.stuck {
				b.await("the walsender to be stuck in send", r, func() bool {
					return ask[bool](b, `SELECT coalesce(bool_or(wait_event = 'WalSenderWriteData'), false) FROM pg_stat_activity WHERE backend_type = 'walsender'`)
				})
			}
			begun := time.Now()
			if err := pg.Stop("fast"); err != nil {
				t.Fatal(err)
			}
			// A walsender that is waited for keeps the server for ever; the bound only leaves room for a busy machine.
			if took := time.Since(begun); took > 30*time.Second {
				t.Errorf("a fast stop took %v", took)
			}
			faults.Clear()
			faults.CutAll()
			if err := pg.Start(t.Context()); err != nil {
				t.Fatal(err)
			}
			b.caughtUp(r)
			b.verify("item")
		})
	}
	b.t = t
	r.drain(t)
}

// TestStartStalls: a start whose Kafka hangs once the slot is held, or once the advisory lock is, gives it back after
// stall_limit, so that a standby whose broker works can take over.
func TestStartStalls(t *testing.T) {
	pg := testbed.Postgres(t, "")
	b := newBed(t, pg, testbed.Kafka(t), "hang")
	b.adjust = func(c *Config) { c.StallLimit = time.Second }
	faults := b.faulty()
	ledger(b, "item")
	for _, c := range []struct {
		what, held string
	}{
		{"the advisory lock", `SELECT EXISTS (SELECT FROM pg_locks WHERE locktype = 'advisory')`},
		{"the slot", `SELECT coalesce(bool_or(active), false) FROM pg_replication_slots WHERE slot_name = 'walferry_hang'`},
	} {
		t.Run(c.what, func(t *testing.T) {
			b.t = t
			x := faults.Inject(sinktest.Rule{API: protocol.InitProducerId, Action: sinktest.Swallow})
			r := b.start()
			within(t, "the fault", x.Struck())
			if !ask[bool](b, c.held) {
				t.Errorf("%s is not held when InitProducerID is sent", c.what)
			}
			// It may be tried again at once; what counts is that it is free in between.
			b.await(c.what+" to be given back", r, func() bool { return !ask[bool](b, c.held) })
			faults.Clear()
			faults.CutAll()
			r.first(t)
			pg.Exec(testbed.Owner, `INSERT INTO item SELECT g FROM generate_series((SELECT count(*) + 1 FROM item), (SELECT count(*) + 10 FROM item)) g`)
			b.caughtUp(r)
			b.verify("item")
			r.drain(t)
		})
	}
	b.t = t

	// One that is asked to stop while it waits has nothing to drain.
	b.adjust = func(c *Config) { c.StallLimit, c.DrainTimeout = time.Hour, time.Hour }
	x := faults.Inject(sinktest.Rule{API: protocol.InitProducerId, Action: sinktest.Swallow})
	r := b.start()
	within(t, "the fault", x.Struck())
	r.drain(t)
	faults.Clear()
	faults.CutAll()

	// And a registry that wants other credentials is no registry that will answer.
	b.registry.err = fmt.Errorf("register: %w", &registry.AuthError{URL: "http://registry", Status: 401})
	pg.Exec(testbed.Owner, `CREATE TABLE other (id int PRIMARY KEY)`, `ALTER PUBLICATION walferry_hang ADD TABLE other`)
	r = b.start()
	r.first(t)
	pg.Exec(testbed.Owner, `INSERT INTO other VALUES (1)`)
	if err := r.ended(t); !is[*registry.AuthError](err) {
		t.Errorf("ended with %v", err)
	}
}

// TestFirstStartTogether: ⚔ of two instances at the very first start one makes the slot. The other waits, wherever the first
// one stands, and fences nobody; and when both begin at once.
func TestFirstStartTogether(t *testing.T) {
	pg := testbed.Postgres(t, "", "max_replication_slots=20", "max_wal_senders=20")
	broker := testbed.Kafka(t)
	places := []string{"initialised", "creating-saved", "publication-created", "slot-created", "first-position-saved"}
	const together = 10
	for i := range len(places) + together {
		name := "together"
		if i < len(places) {
			name = places[i]
		}
		t.Run(name, func(t *testing.T) {
			b := newBed(t, pg, broker, fmt.Sprintf("pair%d", i))
			table := "t_" + b.name
			ledger(b, table)
			pg.Exec(testbed.Superuser, "DROP PUBLICATION walferry_"+b.name)
			b.adjust = func(c *Config) {
				c.Source.DSN = pg.DSN(testbed.Superuser)
				c.Source.CreatePublication, c.Source.AllTables = true, false
				c.Source.Tables = []string{"public." + table}
			}
			var one, two *running
			if i < len(places) {
				held, release := make(chan struct{}), make(chan struct{})
				var once sync.Once
				hook(t, func(place string) {
					if place == places[i] {
						once.Do(func() { close(held); <-release })
					}
				})
				one = b.start()
				within(t, name, held)
				b.client = b.newClient()
				two = b.start()
				if name == "first-position-saved" {
					two.first(t) // the slot is there and nobody streams: whoever takes it goes on
				} else {
					b.await("the second to wait", two, func() bool { return ending[*source.SlotInUseError](two) })
				}
				close(release)
			} else {
				one = b.start()
				b.client = b.newClient()
				two = b.start()
			}
			b.await("one of them to publish", nil, func() bool { return one.count()+two.count() > 0 })
			pg.Exec(testbed.Owner, `INSERT INTO `+table+` SELECT g FROM generate_series(1, 20) g`)
			b.caughtUp(one)
			b.verify(table)
			for _, r := range []*running{one, two} {
				r.watcher.mu.Lock()
				for _, err := range r.watcher.endings {
					if errors.Is(err, kafka.ErrFenced) {
						t.Errorf("fenced: %v", err)
					}
				}
				r.watcher.mu.Unlock()
			}
			one.kill(t)
			two.kill(t)
			pg.Exec(testbed.Superuser, `SELECT pg_drop_replication_slot('walferry_`+b.name+`')`)
		})
	}
}

func (r *running) count() int {
	r.watcher.mu.Lock()
	defer r.watcher.mu.Unlock()
	return r.watcher.commits
}
