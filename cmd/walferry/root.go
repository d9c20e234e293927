package main

import (
	"fmt"
	"io"
	"log/slog"
	"os"
	"strings"

	"github.com/spf13/cobra"

	"walferry/internal/config"
)

// program is what all commands share.
type program struct {
	stdin          io.Reader
	stdout, stderr io.Writer
	configFile     string // --config
}

// commands are all subcommands; the help sorts them.
func commands() []func(*program) *cobra.Command {
	return append([]func(*program) *cobra.Command{
		newRunCommand, newDrainCommand, newCheckCommand, newSetupCommand, newStatusCommand, newBackfillCommand, newTailCommand, newConfigCommand, newRegistryCommand, newSchemaCommand, newAsyncAPICommand,
		newRecoverCommand, newDropCommand, newVersionCommand,
	}, more...)
}

// more are the commands of files that add themselves in an init.
var more []func(*program) *cobra.Command

func newRoot(p *program) *cobra.Command {
	root := &cobra.Command{
		Use:   "walferry",
		Short: "Postgres changes to Kafka, each exactly once",
		Long: `walferry runs beside a Postgres and publishes every committed change of the
captured tables to Kafka as Avro. A read_committed consumer sees each change
exactly once and, for each key, in commit order, whatever is killed meanwhile.

Begin with

    walferry demo                      see it at work, with nothing to install
    walferry config --sample > walferry.yml
    walferry setup                     the SQL that the database needs
    walferry check                     everything that would fail later
    walferry run

` + exitHelp,
		SilenceErrors: true,
		SilenceUsage:  true,
		Args:          usage(noArgs),
		RunE:          func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	root.SetIn(p.stdin)
	root.SetOut(p.stdout)
	root.SetErr(p.stderr)
	root.SetFlagErrorFunc(func(cmd *cobra.Command, err error) error {
		return &usageError{err: err, command: cmd.CommandPath()}
	})
	file := os.Getenv("WALFERRY_CONFIG")
	if file == "" {
		file = "walferry.yml"
	}
	root.PersistentFlags().StringVarP(&p.configFile, "config", "c", file, "configuration file; the default comes from WALFERRY_CONFIG")
	if err := root.MarkPersistentFlagFilename("config", "yml", "yaml"); err != nil {
		panic(err) // the flag is defined above
	}
	for _, c := range commands() {
		root.AddCommand(c(p))
	}
	return root
}

// usage turns what cobra says about arguments into a usageError.
func usage(check cobra.PositionalArgs) cobra.PositionalArgs {
	return func(cmd *cobra.Command, args []string) error {
		if err := check(cmd, args); err != nil {
			return &usageError{err: err, command: cmd.CommandPath()}
		}
		return nil
	}
}

// noArgs is for commands that take no arguments. cobra's own words for one are about a command that it does not know, which
// is right where there are commands below.
func noArgs(cmd *cobra.Command, args []string) error {
	if len(args) == 0 || cmd.HasSubCommands() {
		return cobra.NoArgs(cmd, args)
	}
	return fmt.Errorf("%q: %s takes no arguments, only flags", args[0], cmd.CommandPath())
}

// both checks arguments twice.
func both(a, b cobra.PositionalArgs) cobra.PositionalArgs {
	return func(cmd *cobra.Command, args []string) error {
		if err := a(cmd, args); err != nil {
			return err
		}
		return b(cmd, args)
	}
}

// exclusive says that at most one of these flags is given. cobra's own check for
// this comes after everything that could tell it from other errors.
func exclusive(names ...string) cobra.PositionalArgs {
	return func(cmd *cobra.Command, _ []string) error {
		var given []string
		for _, n := range names {
			if cmd.Flags().Changed(n) {
				given = append(given, "--"+n)
			}
		}
		if len(given) > 1 {
			return fmt.Errorf("%s cannot be given together", strings.Join(given, " and "))
		}
		return nil
	}
}

// load reads the configuration file.
func (p *program) load() (*config.Config, error) { return config.LoadFile(p.configFile) }

// loadRegistry is load for commands that need no pipeline.
func (p *program) loadRegistry() (*config.Config, error) {
	return config.LoadRegistryFile(p.configFile)
}

// newLogger writes to stderr: stdout is for what a command prints.
func (p *program) newLogger(c *config.Config) *slog.Logger {
	var level slog.Level
	if err := level.UnmarshalText([]byte(c.Log.Level)); err != nil {
		panic(err) // the configuration is validated
	}
	o := &slog.HandlerOptions{Level: level}
	var h slog.Handler = slog.NewTextHandler(p.stderr, o)
	if c.Log.Format == "json" {
		h = slog.NewJSONHandler(p.stderr, o)
	}
	return slog.New(h).With("pipeline", c.Name)
}

// printf writes to stdout.
func (p *program) printf(format string, args ...any) error {
	_, err := fmt.Fprintf(p.stdout, format, args...)
	return err
}
