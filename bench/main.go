// The end-to-end benchmark: a slot full of changes, drained by walferry into Kafka and by pg_recvlogical into nothing.
// README.md beside this file says what is measured and how.
package main

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"runtime"
	"slices"
	"syscall"
	"text/tabwriter"
	"time"
)

func main() {
	var o options
	flag.IntVar(&o.changes, "changes", 1_000_000, "changes in the slot, a multiple of 10")
	flag.IntVar(&o.rounds, "rounds", 3, "measured runs of each program; one run of each comes before, to warm up")
	flag.StringVar(&o.binary, "walferry", "build/walferry", "the program to measure")
	flag.StringVar(&o.postgres, "postgres", "", "major version; empty is the newest that is installed")
	flag.StringVar(&o.transport, "transport", "tcp", "tcp or unix: how both programs reach Postgres")
	flag.StringVar(&o.profile, "profile", "", "write a CPU profile of walferry's last run to this file; profiling adds to its CPU time")
	flag.DurationVar(&o.timeout, "timeout", 5*time.Minute, "bound of one run")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := run(ctx, o, os.Stdout, os.Stderr); err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1) //nolint:gocritic // stop has nothing left to undo
	}
}

type options struct {
	changes, rounds             int
	binary, postgres, transport string
	profile                     string
	timeout                     time.Duration
}

// seed makes the rows. Another one makes others of the same kind.
const seed = 20261

// figures are what one run of a program measured, or the medians of several.
type figures struct {
	// Rate counts changes from START_REPLICATION until the last one was there.
	Rate float64 `json:"changes_per_second"`
	// CPU is user and system time of the process from exec to exit.
	CPU float64 `json:"cpu_seconds_per_million"`
	// Peak is the highest resident memory (VmHWM).
	Peak float64 `json:"peak_mib"`
}

// report is the last line of the output, as JSON.
type report struct {
	Workload  string  `json:"workload"`
	Changes   int     `json:"changes"`
	Rounds    int     `json:"rounds"`
	Transport string  `json:"transport"`
	Postgres  int     `json:"postgres"`
	Kafka     string  `json:"kafka"`
	CPUs      int     `json:"cpus"`
	Walferry  figures `json:"walferry"`
	Yardstick figures `json:"pg_recvlogical"`
	// Ratio is walferry's rate divided by pg_recvlogical's.
	Ratio float64 `json:"ratio"`
}

func run(ctx context.Context, o options, out, progress io.Writer) (err error) {
	if o.changes < 10 || o.changes%10 != 0 || o.rounds < 1 || o.transport != "tcp" && o.transport != "unix" {
		return errors.New("-changes is a multiple of 10, -rounds at least 1, -transport tcp or unix")
	}
	if _, err := os.Stat(o.binary); err != nil {
		return fmt.Errorf("%w (make build)", err)
	}
	b, err := open(ctx, o, progress)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, b.close()) }()
	ours, theirs := make([]figures, 0, o.rounds), make([]figures, 0, o.rounds)
	for round := range o.rounds + 1 {
		programs := []func() error{
			func() error {
				f, err := b.walferry(ctx, round, round == o.rounds && o.profile != "")
				return note(progress, round, "walferry", f, err, &ours)
			},
			func() error {
				f, err := b.recvlogical(ctx, round)
				return note(progress, round, "pg_recvlogical", f, err, &theirs)
			},
		}
		if round%2 == 0 {
			slices.Reverse(programs)
		}
		for _, program := range programs {
			if err := program(); err != nil {
				return err
			}
		}
	}
	r := report{
		Workload: "orders", Changes: o.changes, Rounds: o.rounds, Transport: o.transport, Postgres: b.postgres.Version(),
		Kafka: b.broker.Version, CPUs: runtime.NumCPU(), Walferry: median(ours), Yardstick: median(theirs),
	}
	r.Ratio = r.Walferry.Rate / r.Yardstick.Rate
	return r.print(out)
}

// note keeps what a run measured, unless it was the first one, which only warms up.
func note(progress io.Writer, round int, program string, f figures, err error, kept *[]figures) error {
	if err != nil {
		return fmt.Errorf("round %d: %s: %w", round, program, err)
	}
	name := fmt.Sprintf("round %d", round)
	if round == 0 {
		name = "warm-up"
	} else {
		*kept = append(*kept, f)
	}
	_, err = fmt.Fprintf(progress, "%s: %s: %.0f changes/s, %.2f CPU s per million, %.0f MiB\n", name, program, f.Rate, f.CPU, f.Peak)
	return err
}

// median takes the middle of each figure by itself; of an even number the lower one.
func median(runs []figures) figures {
	middle := func(of func(figures) float64) float64 {
		var all []float64
		for _, f := range runs {
			all = append(all, of(f))
		}
		slices.Sort(all)
		return all[(len(all)-1)/2]
	}
	return figures{
		Rate: middle(func(f figures) float64 { return f.Rate }),
		CPU:  middle(func(f figures) float64 { return f.CPU }),
		Peak: middle(func(f figures) float64 { return f.Peak }),
	}
}

func (r *report) print(out io.Writer) error {
	w := tabwriter.NewWriter(out, 0, 0, 2, ' ', tabwriter.AlignRight)
	line := func(format string, args ...any) {
		_, _ = fmt.Fprintf(w, format, args...) // Flush returns the error
	}
	line("\tchanges/s\tCPU s per million\tpeak MiB\tof pg_recvlogical\t\n")
	line("pg_recvlogical\t%.0f\t%.2f\t%.0f\t\t\n", r.Yardstick.Rate, r.Yardstick.CPU, r.Yardstick.Peak)
	line("walferry\t%.0f\t%.2f\t%.0f\t%.2f\t\n", r.Walferry.Rate, r.Walferry.CPU, r.Walferry.Peak, r.Ratio)
	if err := w.Flush(); err != nil {
		return err
	}
	return json.NewEncoder(out).Encode(r)
}
