package kafka

import (
	"context"
	"errors"
	"net"
	"strings"
	"sync/atomic"
	"testing"
	"time"
)

// TestWhyNoConnection holds that a request which waits in vain for a connection says why there is none: the Transport dials
// on its own, and its attempt may have failed before the one that the request waits for.
func TestWhyNoConnection(t *testing.T) {
	var dials atomic.Int32
	c, err := New(Config{
		Brokers: []string{"127.0.0.1:1"},
		Dial: func(ctx context.Context, _, _ string) (net.Conn, error) {
			if dials.Add(1) == 1 {
				return nil, errors.New("the first is refused")
			}
			<-ctx.Done()
			return nil, ctx.Err()
		},
	})
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	ctx, cancel := context.WithTimeout(t.Context(), 500*time.Millisecond)
	defer cancel()
	_, err = c.Metadata(ctx)
	if err == nil || !strings.Contains(err.Error(), "the first is refused") || !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("Metadata: %v", err)
	}
	if dials.Load() < 2 {
		t.Errorf("%d dials: nothing was waited for", dials.Load())
	}
}
