// Fetch brings what the tests need before they run: Postgres' archives, Kafka's jars, the Python environment. Without it
// the tests do the same, but inside their own time, several waiting for one, and under the race detector, where
// unpacking takes minutes. What the machine lacks is named in one line, with the Debian package that brings it.
package main

import (
	"context"
	"fmt"
	"os"
	"os/signal"
	"syscall"

	"walferry/internal/testbed"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	err := testbed.Fetch(ctx, os.Stderr)
	stop()
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}
