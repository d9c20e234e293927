package main

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"strconv"

	"github.com/spf13/cobra"

	"walferry/schema/registry"
)

func newSchemaShowCommand(p *program) *cobra.Command {
	var url, as string
	var deleted bool
	cmd := &cobra.Command{
		Use:   "show SUBJECT [VERSION]",
		Short: "Print a schema, as Avro, JSON Schema or SQL",
		Long: `Print a version of a subject, the newest without VERSION:

  avro         the schema as it is registered, indented
  json-schema  a JSON Schema of what walferry tail --json prints of such records
  sql          a CREATE TABLE with the columns of the row, and types that it needs; what
               the schema does not know of the table is named in comments below it

SUBJECT is a subject, or a table as schema.table, which stands for its values.`,
		Example: "  walferry schema show public.orders --as sql\n  walferry schema show shop.public.orders-key 1",
		Args:    usage(both(cobra.RangeArgs(1, 2), oneOf("as", &as, "avro", "json-schema", "sql"))),
		RunE: func(cmd *cobra.Command, args []string) error {
			s, err := p.openSubjects(cmd.Context(), url)
			if err != nil {
				return err
			}
			r, err := s.find(cmd.Context(), args[0], args[1:], deleted)
			if err != nil {
				return err
			}
			text, err := s.showAs(cmd.Context(), as, &r)
			if err != nil {
				return err
			}
			return p.printf("%s\n", text)
		},
	}
	cmd.ValidArgsFunction = p.completeSubjects(&url)
	registryFlag(cmd, &url)
	cmd.Flags().StringVar(&as, "as", "avro", "avro, json-schema or sql")
	cmd.Flags().BoolVar(&deleted, "deleted", false, "show a version too that is deleted, but not for good")
	return cmd
}

// find is the version of a subject that is asked for, or the newest.
func (s *subjects) find(ctx context.Context, name string, version []string, deleted bool) (registry.Registered, error) {
	subject, numbers, err := s.subject(ctx, name, deleted)
	if err != nil {
		return registry.Registered{}, err
	}
	number := strconv.Itoa(numbers[len(numbers)-1])
	if len(version) > 0 {
		number = version[0]
	}
	return s.version(ctx, subject, number, deleted)
}

func (s *subjects) showAs(ctx context.Context, as string, r *registry.Registered) (string, error) {
	if as == "avro" {
		var b bytes.Buffer
		if err := json.Indent(&b, []byte(r.Schema), "", "  "); err != nil {
			return r.Schema, nil //nolint:nilerr // a schema of another type than Avro need not be JSON
		}
		return b.String(), nil
	}
	if _, err := avroOf(r); err != nil {
		return "", err
	}
	tree, err := newAvroTree(r.Schema)
	if err != nil {
		return "", fmt.Errorf("version %d of subject %s: %w", r.Version, r.Subject, err)
	}
	if as == "json-schema" {
		b, err := marshal(tree.jsonSchema())
		if err != nil {
			return "", err
		}
		var indented bytes.Buffer
		err = json.Indent(&indented, b, "", "  ")
		return indented.String(), err
	}
	var key []string
	if subject := s.keyOf(r.Subject, nameOf(tree.root)); subject != "" {
		of, err := s.Version(ctx, subject, "latest", false)
		switch {
		case isCode(err, registry.CodeSubjectNotFound): // a table without a key
		case err != nil:
			return "", err
		default:
			keys, err := newAvroTree(of.Schema)
			if err != nil {
				return "", fmt.Errorf("subject %s: %w", of.Subject, err)
			}
			key = keys.columnNames()
		}
	}
	return tree.sql(fmt.Sprintf("%s, version %d (id %d)", r.Subject, r.Version, r.ID), key)
}
