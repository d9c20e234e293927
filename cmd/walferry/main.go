// Command walferry publishes the committed changes of a Postgres database to
// Kafka, each exactly once to a read_committed consumer.
//
// Every subcommand is in a file of its own. exit.go has the exit codes.
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"syscall"
)

// errInterrupted is the cause of the context that a first signal cancels.
var errInterrupted = errors.New("interrupted")

func main() {
	// The first SIGINT or SIGTERM cancels the context, so that a command ends in
	// order (run drains first); the second ends the process at once, which loses
	// nothing either: that is what the checkpoint is for.
	signals := make(chan os.Signal, 2)
	signal.Notify(signals, syscall.SIGINT, syscall.SIGTERM)
	ctx, cancel := context.WithCancelCause(context.Background())
	ended := make(chan int, 1)
	go func() { ended <- run(ctx, os.Args[1:], os.Stdin, os.Stdout, os.Stderr) }()

	code := exitInterrupted
	for waiting := true; waiting; {
		select {
		case code = <-ended:
			waiting = false
		case <-signals:
			waiting = ctx.Err() == nil
			cancel(errInterrupted)
		}
	}
	os.Exit(code)
}

// run is main without the process: it runs one command line and returns its exit code.
func run(ctx context.Context, args []string, stdin io.Reader, stdout, stderr io.Writer) int {
	p := &program{stdin: stdin, stdout: stdout, stderr: stderr}
	root := newRoot(p)
	root.SetArgs(args)
	err := root.ExecuteContext(ctx)
	if err == nil {
		return exitOK
	}
	code := exitCode(err)
	if code == exitInterrupted && ctx.Err() != nil {
		err = context.Cause(ctx) // whatever was under way says it in its own words
	}
	report(stderr, err)
	return code
}

// report says what went wrong, and what to do about it where that is known.
func report(w io.Writer, err error) {
	var silent *silentError
	if errors.As(err, &silent) {
		return // the command has said it already
	}
	text := "walferry: " + err.Error() + "\n"
	if h := hint(err); h != "" {
		text += "  " + h + "\n"
	}
	if _, werr := fmt.Fprint(w, text); werr != nil {
		return // nobody listens, and the exit code says it as well
	}
}
