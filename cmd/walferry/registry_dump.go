package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/spf13/cobra"

	"walferry/internal/config"
	"walferry/internal/kafka"
	"walferry/schema/registry"
)

// otherRegistry are the flags that name a registry other than the configured one.
type otherRegistry struct {
	url, user, passwordFile string
}

func (o *otherRegistry) flags(cmd *cobra.Command) {
	cmd.Flags().StringVar(&o.url, "url", "", "address of a registry, instead of the configured one")
	cmd.Flags().StringVar(&o.user, "user", "", "user for --url")
	cmd.Flags().StringVar(&o.passwordFile, "password-file", "", "file with the password for --url")
}

// check refuses a user for the configured registry, which has its own.
func (o *otherRegistry) check(*cobra.Command, []string) error {
	switch {
	case o.url == "" && (o.user != "" || o.passwordFile != ""):
		return errors.New("--user and --password-file belong to --url; for the configured registry, registry.auth has them")
	case (o.user == "") != (o.passwordFile == ""):
		return errors.New("--user and --password-file are given together or not at all")
	}
	return nil
}

func newExportCommand(p *program) *cobra.Command {
	var from otherRegistry
	var file string
	cmd := &cobra.Command{
		Use:   "export",
		Short: "Write all that a registry holds as lines of JSON",
		Long: `Write all that a registry holds: schemas with their ids, versions and deleted flags,
levels, modes, and the highest id ever given. Two registries that hold the same give
the same bytes.

The built-in registry is read from its topic, whether it runs or not; an external one
(registry.url, or --url) through its API, which does not tell the settings of subjects
that have no schema.`,
		Args: usage(both(noArgs, from.check)),
		RunE: func(cmd *cobra.Command, _ []string) error { return p.exportRegistry(cmd.Context(), from, file) },
	}
	from.flags(cmd)
	cmd.Flags().StringVarP(&file, "output", "o", "-", "file to write to, - for stdout")
	return cmd
}

func newImportCommand(p *program) *cobra.Command {
	var into otherRegistry
	cmd := &cobra.Command{
		Use:   "import FILE",
		Short: "Bring what walferry registry export wrote, ids included",
		Long: `Bring what walferry registry export wrote into a registry, with the same ids, versions,
deleted flags, levels and modes. What is there already is left alone. If the registry
holds anything else under one of these ids, versions or names, nothing is written.
An import that was interrupted can be repeated. FILE is - for stdin.

The built-in registry's topic is written directly: stop the walferry that serves it, or
give its address with --url. An external registry (registry.url, or --url) is written
through its API, with its subjects in mode IMPORT meanwhile.`,
		Args: usage(both(cobra.ExactArgs(1), into.check)),
		RunE: func(cmd *cobra.Command, args []string) error {
			return p.importRegistry(cmd.Context(), into, args[0])
		},
	}
	into.flags(cmd)
	return cmd
}

// api is the client for a registry that is asked through its API; nil where the
// built-in one's topic is used, whose configuration is returned then.
func (p *program) api(o otherRegistry) (*registry.Client, *config.Config, error) {
	if o.url != "" {
		client, err := registry.NewClient(registry.ClientConfig{URL: o.url, User: o.user, PasswordFile: o.passwordFile})
		return client, nil, within(exitConfig, err)
	}
	c, err := p.loadRegistry()
	if err != nil || c.Registry.Mode == "built-in" {
		return nil, c, err
	}
	client, err := registryClient(c)
	return client, c, err
}

func (p *program) exportRegistry(ctx context.Context, from otherRegistry, file string) error {
	client, c, err := p.api(from)
	if err != nil {
		return err
	}
	var d *registry.Dump
	if client != nil {
		d, err = client.Dump(ctx)
		err = within(exitRegistry, err)
	} else {
		d, err = dumpTopic(ctx, c)
		err = within(exitKafka, err)
	}
	if err != nil {
		return fmt.Errorf("export the registry: %w", err)
	}
	if file == "-" {
		return d.Write(p.stdout)
	}
	// Beside it first: a file that is half an export must never stand under this name.
	temp, err := os.CreateTemp(filepath.Dir(file), filepath.Base(file)+".*")
	if err != nil {
		return err
	}
	err = d.Write(temp)
	if cerr := temp.Close(); err == nil {
		err = cerr
	}
	if err == nil {
		err = os.Rename(temp.Name(), file)
	}
	if err != nil {
		return errors.Join(err, os.Remove(temp.Name()))
	}
	return nil
}

func dumpTopic(ctx context.Context, c *config.Config) (*registry.Dump, error) {
	kc, err := c.ForKafka()
	if err != nil {
		return nil, err
	}
	client, err := kafka.New(kc)
	if err != nil {
		return nil, err
	}
	defer client.Close()
	store, err := readTopic(ctx, c, client)
	if err != nil {
		return nil, err
	}
	return store.Dump(), nil
}

func (p *program) importRegistry(ctx context.Context, into otherRegistry, file string) error {
	in := p.stdin
	if file != "-" {
		f, err := os.Open(file)
		if err != nil {
			var perr *fs.PathError
			if errors.As(err, &perr) {
				err = perr.Err
			}
			return &codedError{exitConfig, fmt.Errorf("read %s: %w", file, err)}
		}
		defer func() { _ = f.Close() }() // read only
		in = f
	}
	d, err := registry.ReadDump(in)
	if err != nil {
		return &codedError{exitConfig, fmt.Errorf("read %s: %w", file, err)}
	}
	client, c, err := p.api(into)
	if err != nil {
		return err
	}
	var entries int
	if client != nil {
		entries, err = client.Import(ctx, d)
	} else {
		entries, err = p.importTopic(ctx, c, d)
	}
	if err != nil {
		return within(exitRegistry, fmt.Errorf("import into the registry: %w", err))
	}
	_, err = fmt.Fprintf(p.stdout, "%d entries read, %d of them new to the registry\n", d.Len(), entries)
	return err
}

// importTopic writes the built-in registry's topic, as its one writer.
func (p *program) importTopic(ctx context.Context, c *config.Config, d *registry.Dump) (int, error) {
	kc, err := c.ForKafka()
	if err != nil {
		return 0, err
	}
	client, err := kafka.New(kc)
	if err != nil {
		return 0, within(exitKafka, err)
	}
	defer client.Close()
	store, w, err := newStore(c, client, p.newLogger(c))
	if err != nil {
		return 0, err
	}
	entries, err := store.Import(ctx, d)
	return entries, errors.Join(err, w.close(ctx))
}
