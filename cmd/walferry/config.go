package main

import (
	"github.com/spf13/cobra"

	"walferry/internal/config"
)

func newConfigCommand(p *program) *cobra.Command {
	var sample, schema bool
	cmd := &cobra.Command{
		Use:   "config",
		Short: "Print the effective configuration",
		Long: `Print the configuration that is in effect, defaults and the environment's values
included. Secrets are printed as ***. The file is checked on the way: everything
that is wrong with it is listed with line and column, and the exit code is 2.`,
		Example: "  walferry config --sample > walferry.yml\n  walferry config --schema > walferry.schema.json",
		Args:    usage(both(noArgs, exclusive("sample", "schema"))),
		RunE: func(*cobra.Command, []string) error {
			switch {
			case sample:
				return p.printf("%s", config.Sample())
			case schema:
				return p.printf("%s", config.JSONSchema())
			}
			c, err := p.load()
			if err != nil {
				return err
			}
			return c.Print(p.stdout)
		},
	}
	cmd.Flags().BoolVar(&sample, "sample", false, "print a commented file to begin with")
	cmd.Flags().BoolVar(&schema, "schema", false, "print a JSON Schema of the file, for editors")
	return cmd
}
