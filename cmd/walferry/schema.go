package main

import (
	"github.com/spf13/cobra"
)

// schemaCommands are the subcommands of `walferry schema`; each is in a file of its own.
func schemaCommands() []func(*program) *cobra.Command {
	return []func(*program) *cobra.Command{
		newSchemaListCommand, newSchemaVersionsCommand, newSchemaShowCommand, newSchemaDiffCommand, newSchemaCheckCommand,
		newSchemaPlanCommand,
	}
}

func newSchemaCommand(p *program) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "schema",
		Short: "See what consumers see, now and after a migration",
		Args:  usage(noArgs),
		RunE:  func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	for _, c := range schemaCommands() {
		cmd.AddCommand(c(p))
	}
	return cmd
}
