package pipeline

import (
	"math/rand/v2"
	"testing"
	"time"

	"walferry/internal/testbed"
)

// TestRestart ends a pipeline at eight places that a seed chooses, under several writers.
func TestRestart(t *testing.T) {
	pg := testbed.Postgres(t, "", "deadlock_timeout=20ms")
	b := newBed(t, pg, testbed.Kafka(t), "restart")
	b.adjust = func(c *Config) { c.Sink.MaxBatchBytes = 4 << 10 }
	ledger(b, "item", "part")
	r := b.start()
	r.first(t)
	stop := make(chan struct{})
	wait := b.writers(4, 1, stop, "item", "part")
	rng := rand.New(rand.NewPCG(7, 7))
	for range 8 {
		r.commit(t, 1+rng.IntN(6))
		// Where between two commits it ends.
		time.Sleep(time.Duration(rng.IntN(30)) * time.Millisecond)
		r.kill(t)
		r = b.start()
	}
	close(stop)
	n := wait()
	if n < 100 {
		t.Errorf("%d transactions are too few to say anything", n)
	}
	b.caughtUp(r)
	b.verify("item", "part")
	t.Logf("%d transactions", n)
	r.drain(t)
}
