package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"strings"

	"github.com/spf13/cobra"

	"walferry/internal/config"
	"walferry/source"
)

func newDropCommand(p *program) *cobra.Command {
	var yes, keepPublication bool
	cmd := &cobra.Command{
		Use:   "drop",
		Short: "Drop the slot and the publication",
		Long: `Drop the slot, so that the server keeps no WAL for it, and then the publication.
Both are shown first, and you are asked. Stop walferry before. Topics, checkpoint
and schemas are left alone: with the checkpoint still there, walferry refuses to
start again until walferry recover is followed.`,
		Args: usage(noArgs),
		RunE: func(cmd *cobra.Command, _ []string) error {
			c, err := p.load()
			if err != nil {
				return err
			}
			return p.drop(cmd.Context(), c, yes, keepPublication)
		},
	}
	cmd.Flags().BoolVarP(&yes, "yes", "y", false, "do not ask")
	cmd.Flags().BoolVar(&keepPublication, "keep-publication", false, "drop the slot only")
	return cmd
}

func (p *program) drop(ctx context.Context, c *config.Config, yes, keepPublication bool) error {
	cat, err := openCatalog(ctx, c)
	if err != nil {
		return err
	}
	defer cat.Close()
	slot, err := cat.SlotInfo(ctx)
	if err != nil {
		return within(exitSource, err)
	}
	name := c.Source.Slot.Name
	switch {
	case slot.Active:
		return &source.SlotInUseError{Slot: name, PID: slot.ActivePID}
	case !slot.Exists:
		err = p.printf("slot         %s does not exist\n", name)
	default:
		err = p.printf("slot         %s, confirmed %s, keeps %s of WAL; changes after that position that are not published are given up\n", name, slot.Confirmed, bytesText(slot.RetainedBytes))
	}
	if err != nil {
		return err
	}
	if !keepPublication {
		if err := p.printf("publication  %s\n", c.Source.Publication.Name); err != nil {
			return err
		}
	}
	if !yes {
		if err := p.confirm(ctx, c.Name, "drop them"); err != nil {
			return err
		}
	}
	// The slot first: it cannot be read without its publication, so the other order
	// could leave one behind that nobody can use.
	if slot.Exists {
		if err := cat.DropSlot(ctx); err != nil {
			return within(exitSource, err)
		}
		if err := p.printf("dropped the slot\n"); err != nil {
			return err
		}
	}
	if keepPublication {
		return nil
	}
	if err := cat.DropPublication(ctx); err != nil {
		return within(exitSource, err)
	}
	return p.printf("dropped the publication\n")
}

// confirm asks for the pipeline's name on stdin: a mere y is typed too easily.
func (p *program) confirm(ctx context.Context, name, to string) error {
	if err := p.printf("\nType %s to %s: ", name, to); err != nil {
		return err
	}
	type line struct {
		text string
		err  error
	}
	read := make(chan line, 1)
	go func() { // it may sit in a terminal's read for ever; the process ends around it
		text, err := bufio.NewReader(p.stdin).ReadString('\n')
		read <- line{text, err}
	}()
	select {
	case <-ctx.Done():
		return context.Cause(ctx)
	case l := <-read:
		if l.err != nil && !errors.Is(l.err, io.EOF) {
			return l.err
		}
		if strings.TrimSpace(l.text) != name {
			return fmt.Errorf("that is not %s; nothing was changed", name)
		}
	}
	return nil
}
