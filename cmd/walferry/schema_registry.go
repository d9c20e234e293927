package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"walferry/internal/config"
	"walferry/internal/kafka"
	"walferry/schema"
	"walferry/schema/registry"
)

// subjects is a registry as the commands read it.
type subjects struct {
	*registry.Client
	config *config.Config // nil with --registry
}

// openSubjects finds the registry: at url, or the one of the configuration. A built-in one that nobody serves is read
// out of its topic.
func (p *program) openSubjects(ctx context.Context, url string) (*subjects, error) {
	if url != "" {
		client, err := registry.NewClient(registry.ClientConfig{URL: url})
		if err != nil {
			return nil, &usageError{err: fmt.Errorf("--registry: %w", err), command: "walferry schema"}
		}
		return &subjects{Client: client}, nil
	}
	c, err := p.load()
	if err != nil {
		return nil, err
	}
	return subjectsOf(ctx, c)
}

// subjectsOf opens the registry of a configuration.
func subjectsOf(ctx context.Context, c *config.Config) (*subjects, error) {
	s := &subjects{config: c}
	rc, err := c.ForRegistryClient()
	if err != nil {
		return nil, err
	}
	if c.Registry.Mode == "built-in" {
		rc.Retries = -1 // the topic is the second try
	}
	if s.Client, err = registry.NewClient(rc); err != nil {
		return nil, within(exitConfig, err)
	}
	if c.Registry.Mode == "external" {
		return s, nil
	}
	err = s.Ping(ctx)
	var away *registry.UnavailableError
	if !errors.As(err, &away) {
		return s, err
	}
	kc, err := c.ForKafka()
	if err != nil {
		return nil, err
	}
	client, err := kafka.New(kc)
	if err != nil {
		return nil, within(exitKafka, err)
	}
	store, err := readStore(ctx, c, client)
	client.Close()
	if err != nil {
		return nil, within(exitKafka, fmt.Errorf("read the registry's topic %s, since nothing answers at %s: %w", c.Registry.Topic, c.Registry.Listen, err))
	}
	rc.Handler = registry.NewServer(store, registry.ServerConfig{Version: version})
	if s.Client, err = registry.NewClient(rc); err != nil {
		return nil, within(exitConfig, err)
	}
	return s, nil
}

// readStore reads the registry's topic to its end.
func readStore(ctx context.Context, c *config.Config, client *kafka.Client) (*registry.Store, error) {
	store := registry.NewStore(registry.NewKafkaLog(client, nil, c.Registry.Topic), nil)
	reading, done := context.WithCancel(ctx)
	ended := make(chan error, 1)
	go func() { ended <- store.Follow(reading) }()
	for !store.Ready() {
		select {
		case err := <-ended:
			done()
			return nil, err
		case <-time.After(5 * time.Millisecond):
		}
	}
	done()
	return store, nil
}

// subject finds the subject that a person means: by its name, or by schema.table for the values of a table. It returns
// the versions that are there; deleted ones with deleted.
func (s *subjects) subject(ctx context.Context, name string, deleted bool) (string, []int, error) {
	versions, err := s.some(ctx, name, deleted)
	if !isCode(err, registry.CodeSubjectNotFound) {
		return name, versions, err
	}
	if schemaName, table, ok := strings.Cut(name, "."); ok && !strings.Contains(table, ".") && s.config != nil {
		naming := s.config.Naming()
		_, of := naming.Subjects(s.config.TopicName(schemaName, table))
		versions, e := s.some(ctx, of, deleted)
		if !isCode(e, registry.CodeSubjectNotFound) {
			return of, versions, e
		}
	}
	all, e := s.Subjects(ctx, true)
	if e != nil {
		return "", nil, e
	}
	return "", nil, &subjectError{name: name, deleted: slices.Contains(all, name), near: near(name, all), err: err}
}

// keyOf is the subject of the keys that belong to the values of a subject, whose record has this full name: by the configuration, or as
// somebody else would name it. It is "" for what is no such subject.
func (s *subjects) keyOf(subject, record string) string {
	templates := []string{schema.SubjectTopic, schema.SubjectTopicRecord, schema.SubjectRecord}
	if s.config != nil {
		templates = append([]string{s.config.Naming().Subject}, templates...)
	}
	for _, envelope := range []string{schema.EnvelopeDebezium, schema.EnvelopeRow} {
		for _, template := range templates {
			naming := schema.Options{Envelope: envelope, Subject: template}
			topic, ok := naming.TopicOf(subject)
			if !ok {
				topic = record[:max(0, strings.LastIndexByte(record, '.'))] // the record's name says as much of it as is needed
			}
			if key, value := naming.Subjects(topic); value == subject {
				return key
			}
		}
	}
	return ""
}

// some is Versions for a subject that has some: one without any is not there, whatever a registry says.
func (s *subjects) some(ctx context.Context, subject string, deleted bool) ([]int, error) {
	versions, err := s.Versions(ctx, subject, deleted)
	if err == nil && len(versions) == 0 {
		err = &registry.Error{Code: registry.CodeSubjectNotFound, Message: "subject " + subject + " has no versions"}
	}
	return versions, err
}

func isCode(err error, code int) bool {
	var e *registry.Error
	return errors.As(err, &e) && e.Code == code
}

// subjectError says that there is no such subject.
type subjectError struct {
	name    string
	deleted bool
	near    []string
	err     error
}

func (e *subjectError) Error() string {
	if e.deleted {
		return fmt.Sprintf("subject %s is deleted", e.name)
	}
	return fmt.Sprintf("subject %s is not in the registry", e.name)
}
func (e *subjectError) Unwrap() error { return e.err }

// Hint names what may be meant.
func (e *subjectError) Hint() string {
	switch {
	case e.deleted:
		return "give --deleted to see deleted versions"
	case len(e.near) > 0:
		return "did you mean " + strings.Join(e.near, " or ") + "? walferry schema list has all"
	}
	return "walferry schema list has all"
}

// near is what a name may be a slip or a part of: three at most.
func near(name string, all []string) []string {
	if n := config.Nearest(name, all); n != "" {
		return []string{n}
	}
	var list []string
	for _, s := range all {
		if len(list) < 3 && strings.Contains(strings.ToLower(s), strings.ToLower(name)) {
			list = append(list, s)
		}
	}
	return list
}

// version returns one version; its number is one of those that subject has found, so what is missing is said here.
func (s *subjects) version(ctx context.Context, subject, number string, deleted bool) (registry.Registered, error) {
	r, err := s.Version(ctx, subject, number, deleted)
	if isCode(err, registry.CodeVersionNotFound) || isCode(err, registry.CodeInvalidVersion) {
		return r, &versionError{subject, number, err}
	}
	return r, err
}

// versionError says that a subject has no such version.
type versionError struct {
	subject, version string
	err              error
}

func (e *versionError) Error() string {
	return fmt.Sprintf("subject %s has no version %s", e.subject, e.version)
}
func (e *versionError) Unwrap() error { return e.err }

// Hint is the way on.
func (e *versionError) Hint() string {
	return "walferry schema versions " + e.subject + " has them; --deleted shows deleted ones too"
}

// avroOf parses the schema of a version.
func avroOf(r *registry.Registered) (*registry.Schema, error) {
	if r.Type != registry.TypeAvro {
		return nil, fmt.Errorf("version %d of subject %s is a schema of type %s; this is for Avro", r.Version, r.Subject, r.Type)
	}
	s, err := registry.ParseStored(r.Schema)
	if err != nil {
		return nil, fmt.Errorf("version %d of subject %s: %w", r.Version, r.Subject, err)
	}
	return s, nil
}

// completeSubjects completes the first argument.
func (p *program) completeSubjects(url *string) cobra.CompletionFunc {
	return func(cmd *cobra.Command, args []string, begun string) ([]cobra.Completion, cobra.ShellCompDirective) {
		if len(args) > 0 {
			return nil, cobra.ShellCompDirectiveDefault
		}
		ctx, cancel := context.WithTimeout(cmd.Context(), 2*time.Second)
		defer cancel()
		s, err := p.openSubjects(ctx, *url)
		if err != nil {
			return nil, cobra.ShellCompDirectiveError
		}
		names, err := s.Subjects(ctx, false)
		if err != nil {
			return nil, cobra.ShellCompDirectiveError
		}
		names = slices.DeleteFunc(names, func(n string) bool { return !strings.HasPrefix(n, begun) })
		return names, cobra.ShellCompDirectiveNoFileComp
	}
}

// registryFlag adds --registry.
func registryFlag(cmd *cobra.Command, url *string) {
	cmd.Flags().StringVar(url, "registry", "", "URL of a schema registry, instead of the configuration's")
}

// formatFlag adds --format; oneOf checks it.
func formatFlag(cmd *cobra.Command, format *string, values ...string) {
	cmd.Flags().StringVar(format, "format", values[0], "how to print: "+strings.Join(values, " or "))
}

// oneOf refuses what a flag cannot be.
func oneOf(flag string, value *string, values ...string) cobra.PositionalArgs {
	return func(*cobra.Command, []string) error {
		if !slices.Contains(values, *value) {
			last := len(values) - 1
			return fmt.Errorf("--%s %s: it is %s or %s", flag, *value, strings.Join(values[:last], ", "), values[last])
		}
		return nil
	}
}

// Colours of a terminal.
const (
	red    = "31"
	green  = "32"
	yellow = "33"
	dim    = "2"
)

// painter colours text, or leaves it alone.
type painter bool

func (p painter) paint(colour, text string) string {
	if !p {
		return text
	}
	return "\x1b[" + colour + "m" + text + "\x1b[0m"
}

// newPainter decides by --color: auto is on a terminal only, and not against NO_COLOR (https://no-color.org).
func newPainter(when string, out io.Writer) painter {
	if when != "auto" {
		return when == "always"
	}
	return painter(os.Getenv("NO_COLOR") == "" && isTerminal(out))
}

// isTerminal says that what is written is shown by a terminal, which can move its cursor.
func isTerminal(out io.Writer) bool {
	file, ok := out.(*os.File)
	if !ok || os.Getenv("TERM") == "dumb" {
		return false
	}
	info, err := file.Stat()
	return err == nil && info.Mode()&os.ModeCharDevice != 0
}

// colorFlag adds --color.
func colorFlag(cmd *cobra.Command, when *string) {
	cmd.Flags().StringVar(when, "color", "auto", "auto, always or never; auto is on a terminal, unless NO_COLOR is set")
}
