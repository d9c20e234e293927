package kafka

import (
	"context"
	"math/rand/v2"
	"time"
)

// Pause waits before the n-th retry (from 0): full jitter under a bound that doubles from 20 ms to 1 s. It returns the cause
// when ctx ends first.
func Pause(ctx context.Context, n int) error {
	bound := min(20*time.Millisecond<<min(n, 10), time.Second)
	return sleep(ctx, time.Millisecond+rand.N(bound))
}

// PauseConcurrent waits before the n-th retry of a request that was answered with CONCURRENT_TRANSACTIONS: 1 ms, doubling
// to 32. The markers of a small transaction take the coordinator about as long.
func PauseConcurrent(ctx context.Context, n int) error {
	return sleep(ctx, time.Millisecond<<min(n, 5))
}

func sleep(ctx context.Context, d time.Duration) error {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
		return context.Cause(ctx)
	case <-t.C:
		return nil
	}
}
