package pipeline

import (
	"errors"
	"log/slog"
	"testing"
	"time"

	"walferry/checkpoint"
	"walferry/source"
)

// TestReadiness: one session that ends costs no readiness, a second one in a row does, and a commit gives it back. A server that
// cannot be reached is waited for.
func TestReadiness(t *testing.T) {
	p := New(Config{Source: source.Config{Heartbeat: time.Hour}}, nil, nil, nil, slog.New(slog.DiscardHandler))
	h := &p.health
	hold := func() { h.holds(source.System{}, new(source.Stream)); h.enter(Streaming) }
	end := func() { h.ended(errors.New("broken")) }
	commit := func() { h.committed(time.Now(), new(checkpoint.Checkpoint), new(batchStats)) }
	nothing := func() {}
	for i, step := range []struct {
		what  string
		do    func()
		ready bool
		state State
	}{
		{"a start", hold, false, Streaming},
		{"the first commit", commit, true, Streaming},
		{"a session that ended", end, true, Starting},
		{"servers that are away", func() { end(); end(); end() }, true, Starting},
		{"the next session", hold, true, Streaming},
		{"its commit", commit, true, Streaming},
		{"its end", end, true, Starting},
		{"another session", hold, true, Streaming},
		{"one that ended without a commit", end, false, Stalled},
		{"one more", hold, false, Stalled},
		{"time that passes", nothing, false, Stalled},
		{"a commit", commit, true, Streaming},
		{"a change to text mode", func() { h.ended(errTextMode); hold() }, true, Streaming},
		{"the end of that session", end, true, Starting},
	} {
		step.do()
		if got := p.Health(); got.Ready != step.ready || got.State != step.state {
			t.Errorf("%d: after %s: ready %v, %s; want %v, %s", i, step.what, got.Ready, got.State, step.ready, step.state)
		}
	}
}
