package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"time"

	"github.com/spf13/cobra"

	"walferry/internal/demo"
)

func init() { more = append(more, newDemoCommand) }

func newDemoCommand(p *program) *cobra.Command {
	cfg := demo.Default()
	cmd := &cobra.Command{
		Use:   "demo",
		Short: "See walferry at work, with nothing to install",
		Long: `Start a Postgres, an in-process Kafka, a schema registry and walferry, have the rows
of a small shop copied, write to it, kill walferry with SIGKILL every few seconds, and
read the topics as a stranger would. Ends with an account of what was committed and
what was received; the last line is JSON. The exit code is 0 only if nothing is
missing, repeated or out of order.

The Postgres is the one that is installed, else an archive that is downloaded
once; WALFERRY_POSTGRES=embedded takes the archive in any case. Everything ends with
the demo. With --forever the account comes at Ctrl-C, and memory grows until then.`,
		Args: usage(noArgs),
		RunE: func(cmd *cobra.Command, _ []string) error {
			switch cfg.Break {
			case "", demo.BreakDrop, demo.BreakRepeat, demo.BreakSwap:
			default:
				return &usageError{err: fmt.Errorf("--break %s: it is drop, repeat or swap", cfg.Break), command: cmd.CommandPath()}
			}
			return p.demo(cmd.Context(), cfg)
		},
	}
	f := cmd.Flags()
	f.BoolVar(&cfg.Forever, "forever", false, "go on until Ctrl-C")
	f.BoolVar(&cfg.Keep, "keep", false, "leave the servers up until Ctrl-C, and say how to look around")
	f.StringVar(&cfg.Break, "break", "", "plant a fault in what the consumer saw: drop, repeat or swap")
	f.IntVar(&cfg.Kills, "kills", cfg.Kills, "kill walferry at least so many times")
	f.IntVar(&cfg.Changes, "changes", cfg.Changes, "commit at least so many changes")
	f.DurationVar(&cfg.Every, "every", cfg.Every, "mean time from one kill to the next")
	f.IntVar(&cfg.Rate, "rate", cfg.Rate, "changes a second; 0 is as fast as it goes")
	return cmd
}

func (p *program) demo(ctx context.Context, cfg demo.Config) error {
	var err error
	if cfg.Executable, err = os.Executable(); err != nil {
		return fmt.Errorf("find this program: %w", err)
	}
	cfg.Out = p.stdout
	cfg.Terminal = isTerminal(p.stdout)
	if cfg.Every < 100*time.Millisecond || cfg.Kills < 0 || cfg.Changes < 0 || cfg.Rate < 0 {
		return &usageError{err: errors.New("numbers are not negative, and --every is at least 100ms"), command: "walferry demo"}
	}
	account, err := demo.Run(ctx, cfg)
	if err != nil {
		return err
	}
	if !cfg.Keep { // else it has been printed, before the wait
		if err := account.Print(p.stdout); err != nil {
			return err
		}
	}
	if !account.OK() {
		return &silentError{exitError}
	}
	return nil
}
