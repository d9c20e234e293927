package main

import (
	"context"

	"github.com/spf13/cobra"

	"walferry/internal/config"
	"walferry/source"
)

func newDrainCommand(p *program) *cobra.Command {
	return &cobra.Command{
		Use:   "drain",
		Short: "Publish everything and get ready for a move to an upgraded server",
		Long: `Publish everything that was committed before, note in the checkpoint that the
pipeline is drained and how far, and confirm all of it to the slot, so that
pg_upgrade accepts the slot. Exits with 0 when that is done. For a planned move:

  1. Stop the applications that write to the database, and every walferry of this
     pipeline, standbys too.
  2. walferry drain
  3. Stop the server and upgrade it. pg_upgrade carries slots over from 17 on;
     from older versions step 4 makes a new one.
  4. walferry run --after-upgrade, and only when it streams let the applications
     write again. What is written before to a server without its slot is missed.

Nothing is lost by draining without a move: walferry run goes on as before.`,
		Args: usage(noArgs),
		RunE: func(cmd *cobra.Command, _ []string) error {
			c, err := p.load()
			if err != nil {
				return err
			}
			return p.drain(cmd.Context(), c)
		},
	}
}

func (p *program) drain(ctx context.Context, c *config.Config) error {
	// A walferry that still runs is found here, before its addresses are found taken.
	cat, err := openCatalog(ctx, c)
	if err != nil {
		return err
	}
	slot, err := cat.SlotInfo(ctx)
	cat.Close()
	switch {
	case err != nil:
		return within(exitSource, err)
	case slot.Active:
		return &source.SlotInUseError{Slot: c.Source.Slot.Name, PID: slot.ActivePID}
	}
	pl, err := p.runPipeline(ctx, c, runOptions{drain: true})
	if err != nil {
		return err
	}
	done := pl.Drained()
	if done == nil {
		return errInterrupted // in order, and before the end was reached
	}
	if err := p.printf("drained     %s of system %s: everything up to %s is published and confirmed\n", c.Name, done.SystemID, done.End); err != nil {
		return err
	}
	if err := p.showSessions(ctx, c); err != nil {
		return err
	}
	return p.printf(`
Next, with the applications still stopped: stop the server, upgrade it, point
source.dsn at the new one, and start

    walferry run --after-upgrade

To stay on this server after all: walferry run
`)
}

// showSessions warns of who may still write: what commits behind a drain is not published, and pg_upgrade refuses the slot.
func (p *program) showSessions(ctx context.Context, c *config.Config) error {
	cat, err := openCatalog(ctx, c)
	if err != nil {
		return err
	}
	defer cat.Close()
	n, err := cat.OtherSessions(ctx)
	if err != nil {
		return within(exitSource, err)
	}
	if n == 0 {
		return nil
	}
	return p.printf("attention   sessions of others on database %[2]s: %[1]d. What they commit from now on is not published,\n"+
		"            and pg_upgrade refuses the slot then. If they are applications, stop them and drain again.\n", n, cat.System().DB)
}
