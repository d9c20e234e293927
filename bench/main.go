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
	"maps"
	"os"
	"os/signal"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"text/tabwriter"
	"time"
)

func main() {
	var o options
	var parts, workers string
	flag.IntVar(&o.changes, "changes", 1_000_000, "changes in the slot, a multiple of 10")
	flag.IntVar(&o.rounds, "rounds", 3, "measured runs of each program; one run of each comes before, to warm up")
	flag.StringVar(&o.binary, "walferry", "build/walferry", "the program to measure")
	flag.StringVar(&o.postgres, "postgres", "", "major version; empty is the newest that is installed")
	flag.StringVar(&o.transport, "transport", "tcp", "tcp or unix: how both programs reach Postgres")
	flag.StringVar(&o.profile, "profile", "", "write a CPU profile of walferry's last run to this file; profiling adds to its CPU time")
	flag.StringVar(&parts, "parts", "stream,copy,latency", "what is measured, a list of stream, copy and latency")
	flag.IntVar(&o.rows, "rows", 2_000_000, "rows of the table that is copied")
	flag.StringVar(&workers, "workers", "1,2,4", "numbers of workers of a copy")
	flag.IntVar(&o.rate, "rate", 500, "transactions per second beside a copy")
	flag.DurationVar(&o.quiet, "quiet", 10*time.Second, "how long latency is measured without a copy")
	flag.DurationVar(&o.timeout, "timeout", 5*time.Minute, "bound of one run")
	flag.Parse()
	o.parts = strings.Split(parts, ",")
	for w := range strings.SplitSeq(workers, ",") {
		n, err := strconv.Atoi(w)
		if err != nil {
			n = 0 // run refuses it
		}
		o.workers = append(o.workers, n)
	}
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
	parts                       []string // stream, copy, latency
	rows, rate                  int
	workers                     []int
	quiet                       time.Duration
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
	Workload  string          `json:"workload"`
	Rounds    int             `json:"rounds"`
	Transport string          `json:"transport"`
	Postgres  int             `json:"postgres"`
	Kafka     string          `json:"kafka"`
	CPUs      int             `json:"cpus"`
	Stream    *streamReport   `json:"stream,omitempty"`
	Copy      *copyReport     `json:"copy,omitempty"`
	Latency   []latencyReport `json:"latency,omitempty"`
}

// streamReport is of the drain of a slot.
type streamReport struct {
	Changes   int     `json:"changes"`
	Walferry  figures `json:"walferry"`
	Yardstick figures `json:"pg_recvlogical"`
	// Ratio is walferry's rate divided by pg_recvlogical's.
	Ratio float64 `json:"ratio"`
}

func run(ctx context.Context, o options, out, progress io.Writer) (err error) {
	if err := o.validate(); err != nil {
		return err
	}
	b, err := open(ctx, o, progress)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, b.close()) }()
	r := report{
		Workload: "orders", Rounds: o.rounds, Transport: o.transport, Postgres: b.postgres.Version(), Kafka: b.broker.Version, CPUs: runtime.NumCPU(),
	}
	if slices.Contains(o.parts, "stream") {
		if r.Stream, err = b.stream(ctx, progress); err != nil {
			return err
		}
	}
	if slices.Contains(o.parts, "copy") || slices.Contains(o.parts, "latency") {
		_, _ = fmt.Fprintf(progress, "writing %d rows\n", o.rows)
		if err := b.fill(ctx); err != nil {
			return err
		}
	}
	if slices.Contains(o.parts, "copy") {
		if r.Copy, err = b.copies(ctx, progress); err != nil {
			return err
		}
	}
	if slices.Contains(o.parts, "latency") {
		if r.Latency, err = b.latency(ctx, progress); err != nil {
			return err
		}
	}
	return r.print(out)
}

func (o *options) validate() error {
	if o.changes < 10 || o.changes%10 != 0 || o.rounds < 1 || o.transport != "tcp" && o.transport != "unix" {
		return errors.New("-changes is a multiple of 10, -rounds at least 1, -transport tcp or unix")
	}
	for _, p := range o.parts {
		if p != "stream" && p != "copy" && p != "latency" {
			return fmt.Errorf("-parts: %q is none of stream, copy and latency", p)
		}
	}
	for _, w := range o.workers {
		if w < 1 {
			return errors.New("-workers is a list of numbers from 1")
		}
	}
	if o.rows < 1 || o.rate < 1 || len(o.workers) == 0 {
		return errors.New("-rows and -rate are at least 1")
	}
	if _, err := os.Stat(o.binary); err != nil {
		return fmt.Errorf("%w (make build)", err)
	}
	return nil
}

// stream measures the drain of a slot that is full of changes.
func (b *bed) stream(ctx context.Context, progress io.Writer) (*streamReport, error) {
	o := b.o
	_, _ = fmt.Fprintf(progress, "writing %d changes\n", o.changes)
	if err := b.changes(ctx); err != nil {
		return nil, err
	}
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
				return nil, err
			}
		}
	}
	r := &streamReport{Changes: o.changes, Walferry: median(ours), Yardstick: median(theirs)}
	r.Ratio = r.Walferry.Rate / r.Yardstick.Rate
	return r, nil
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
	if s := r.Stream; s != nil {
		line("\tchanges/s\tCPU s per million\tpeak MiB\tof pg_recvlogical\t\n")
		line("pg_recvlogical\t%.0f\t%.2f\t%.0f\t\t\n", s.Yardstick.Rate, s.Yardstick.CPU, s.Yardstick.Peak)
		line("walferry\t%.0f\t%.2f\t%.0f\t%.2f\t\n", s.Walferry.Rate, s.Walferry.CPU, s.Walferry.Peak, s.Ratio)
	}
	if c := r.Copy; c != nil {
		line("\trows/s\tCPU s per million\tPostgres\tKafka\tpeak MiB\tof COPY\t\n")
		line("COPY (FORMAT binary)\t%.0f\t%.2f\t%.2f\t\t%.0f\t\t\n", c.Yardstick.Rate, c.Yardstick.CPU, c.Yardstick.Server, c.Yardstick.Peak)
		for _, n := range slices.Sorted(maps.Keys(c.Walferry)) {
			f := c.Walferry[n]
			line("walferry, workers: %d\t%.0f\t%.2f\t%.2f\t%.2f\t%.0f\t%.2f\t\n", n, f.Rate, f.CPU, f.Server, f.Broker, f.Peak, c.Ratio[n])
		}
	}
	for i, l := range r.Latency {
		if i == 0 {
			line("\ttransactions\tp50 ms\tp99 ms\tmax ms\t\n")
		}
		beside := "no copy"
		if l.Copying {
			beside = "copying"
		}
		for _, t := range []struct {
			name string
			latencies
		}{{"another table", l.Other}, {"the table that is copied", l.Copied}} {
			line("%s, %s\t%d\t%.0f\t%.0f\t%.0f\t\n", t.name, beside, t.Transactions, t.P50, t.P99, t.Max)
		}
	}
	if err := w.Flush(); err != nil {
		return err
	}
	return json.NewEncoder(out).Encode(r)
}
