package main

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"runtime/debug"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/spf13/cobra"

	"walferry/internal/config"
	"walferry/internal/kafka"
	"walferry/internal/pipeline"
	"walferry/schema"
	"walferry/schema/registry"
	"walferry/sink"
	"walferry/source"
)

func newRegistryCommand(p *program) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "registry",
		Short: "Serve the schema registry by itself, or copy one",
		Args:  usage(noArgs),
		RunE:  func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	cmd.AddCommand(newExportCommand(p), newImportCommand(p), &cobra.Command{
		Use:   "serve",
		Short: "Serve the schema registry by itself",
		Long: `Serve the registry that walferry run has built in, without a pipeline: Confluent's
REST API at registry.listen, kept in the topic registry.topic. No database is needed.
Several may serve one topic: one of them writes, the others follow it and pass writes on.
Of the configuration, kafka and registry are enough.`,
		Args: usage(noArgs),
		RunE: func(cmd *cobra.Command, _ []string) error {
			c, err := p.loadRegistry()
			if err != nil {
				return err
			}
			return p.serveRegistry(cmd.Context(), c)
		},
	})
	return cmd
}

func (p *program) serveRegistry(ctx context.Context, c *config.Config) error {
	if c.Registry.Mode != "built-in" {
		return &config.Error{Path: "registry.url", Problem: "the configured registry is an external one, so there is none to serve", Remedy: "leave registry.url out"}
	}
	kc, err := c.ForKafka()
	if err != nil {
		return err
	}
	client, err := kafka.New(kc)
	if err != nil {
		return within(exitKafka, err)
	}
	defer client.Close()
	if os.Getenv("GOGC") == "" {
		debug.SetGCPercent(collectAt) // no limit as in run: what it has in memory is what is registered
	}
	log := p.newLogger(c)
	b, err := newBuiltIn(ctx, c, client, log)
	if err != nil {
		return err
	}
	log.Info("registry", "listen", b.listener.Addr().String(), "topic", c.Registry.Topic)
	return b.serve(ctx)
}

// registry is what run registers schemas with, and for the built-in one what serves
// it. Nothing is asked of Kafka here: it may be away, and run says so in its own way.
func (p *program) registry(ctx context.Context, c *config.Config, client *kafka.Client, log *slog.Logger) (schema.Registrar, func(context.Context) error, error) {
	if c.Registry.Mode == "external" {
		api, err := registryClient(c)
		if err != nil {
			return nil, nil, err
		}
		return registry.NewRegistrar(api), nil, nil
	}
	b, err := newBuiltIn(ctx, c, client, log)
	if err != nil {
		return nil, nil, err
	}
	log.Info("registry", "listen", b.listener.Addr().String(), "topic", c.Registry.Topic)
	return registry.NewRegistrar(b.store.API()), b.serve, nil
}

func registryClient(c *config.Config) (*registry.Client, error) {
	rc, err := c.ForRegistryClient()
	if err != nil {
		return nil, err
	}
	client, err := registry.NewClient(rc)
	if err != nil {
		return nil, within(exitConfig, err)
	}
	return client, nil
}

// builtIn is the registry in this process.
type builtIn struct {
	listener net.Listener
	handler  http.Handler
	store    *registry.Store
	writer   *registryWriter
	log      *slog.Logger
}

// newBuiltIn binds the address and builds the rest. The caller calls serve.
func newBuiltIn(ctx context.Context, c *config.Config, client *kafka.Client, log *slog.Logger) (*builtIn, error) {
	users, err := c.RegistryUsers()
	if err != nil {
		return nil, err
	}
	sc := registry.ServerConfig{Users: users, Closed: !c.Registry.AllowAnonymousReads, Version: version, Logger: log}
	anonymous, err := c.AnonymousWrites()
	if err != nil {
		return nil, err
	}
	if !anonymous && len(users) == 0 {
		sc.ReadOnly = registry.AnonymousWritesRefused
	}
	secure, err := c.RegistryTLS()
	if err != nil {
		return nil, err
	}
	store, w, err := newStore(c, client, log)
	if err != nil {
		return nil, err
	}
	l, err := (&net.ListenConfig{}).Listen(ctx, "tcp", c.Registry.Listen)
	if err != nil {
		return nil, &codedError{exitConfig, fmt.Errorf("registry.listen: %w", err)}
	}
	if secure != nil {
		l = tls.NewListener(l, secure)
	}
	member, err := c.RegistryMember()
	if err == nil {
		err = store.Join(member)
	}
	if err != nil {
		_ = l.Close() // nothing has been accepted
		return nil, within(exitConfig, err)
	}
	return &builtIn{listener: l, handler: withHealth(store, registry.NewServer(store, sc)), store: store, writer: w, log: log}, nil
}

// withHealth answers /healthz and /readyz before the registry's own paths, to anyone: they tell nothing of what is in it.
// Without Kafka it stays ready, since what it has read it goes on serving; how old that may be is in the answer.
func withHealth(store *registry.Store, next http.Handler) http.Handler {
	mux := http.NewServeMux()
	answer := func(w http.ResponseWriter, status int, body string) {
		w.Header().Set("Content-Type", "application/json")
		w.WriteHeader(status)
		_, _ = io.WriteString(w, body+"\n") // who asked is gone: nobody to tell
	}
	mux.HandleFunc("GET /healthz", func(w http.ResponseWriter, _ *http.Request) { answer(w, http.StatusOK, `{"healthy":true}`) })
	mux.HandleFunc("GET /readyz", func(w http.ResponseWriter, _ *http.Request) {
		if age, ok := store.Behind(); ok {
			answer(w, http.StatusOK, fmt.Sprintf(`{"ready":true,"behind_seconds":%.3f}`, age.Seconds()))
			return
		}
		answer(w, http.StatusServiceUnavailable, `{"ready":false,"step":"read the registry's topic"}`)
	})
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/healthz" || r.URL.Path == "/readyz" {
			mux.ServeHTTP(w, r)
			return
		}
		next.ServeHTTP(w, r)
	})
}

// newStore builds the registry over its topic, and what writes there.
func newStore(c *config.Config, client *kafka.Client, log *slog.Logger) (*registry.Store, *registryWriter, error) {
	settings := c.ForSink()
	settings.TransactionalID = c.RegistryTransactionalID()
	producer, err := sink.New(client, settings)
	if err != nil {
		return nil, nil, within(exitKafka, err)
	}
	w := &registryWriter{producer: producer, spec: c.RegistrySpec()}
	return registry.NewStore(registry.NewKafkaLog(client, w, c.Registry.Topic), log), w, nil
}

// serve answers requests and follows the topic until ctx ends. Following is reading
// only: a standby or a reader fences nobody, and the first write takes the topic over.
func (b *builtIn) serve(ctx context.Context) error {
	server := &http.Server{
		Handler:           b.handler,
		ReadHeaderTimeout: 5 * time.Second,
		ReadTimeout:       30 * time.Second,
		WriteTimeout:      60 * time.Second, // a registration may wait for Kafka for 30 s
		IdleTimeout:       2 * time.Minute,
		MaxHeaderBytes:    64 << 10,
		ErrorLog:          slog.NewLogLogger(b.log.Handler(), slog.LevelDebug),
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	var following sync.WaitGroup
	following.Go(func() { b.follow(ctx) })
	done := make(chan error, 1)
	go func() { done <- server.Serve(b.listener) }()

	var err error
	select {
	case err = <-done:
		cancel()
	case <-ctx.Done():
		end, stop := context.WithTimeout(context.WithoutCancel(ctx), 2*time.Second)
		defer stop()
		if err = server.Shutdown(end); err != nil {
			err = server.Close() // somebody still waits; the process is about to end
		}
		if serr := <-done; err == nil && !errors.Is(serr, http.ErrServerClosed) {
			err = serr
		}
	}
	following.Wait()
	if cerr := b.writer.close(ctx); cerr != nil {
		b.log.Debug("close the registry's producer", "error", cerr)
	}
	if err != nil {
		return fmt.Errorf("serve the registry: %w", err)
	}
	return nil
}

// follow keeps the store in step with the topic, over whatever happens to Kafka.
func (b *builtIn) follow(ctx context.Context) {
	for ctx.Err() == nil {
		err := b.writer.ensure(ctx)
		if err == nil {
			err = b.store.Follow(ctx)
		}
		if ctx.Err() != nil {
			return
		}
		b.log.Warn("follow the registry's topic, trying again", "error", err)
		if wait(ctx, 2*time.Second) != nil {
			return
		}
	}
}

// registryWriter is the sink's producer as the registry's log uses it.
type registryWriter struct {
	producer *sink.Producer
	spec     sink.TopicSpec

	mu    sync.Mutex // guards the following
	known bool       // the topic was there
}

// ensure makes the topic, once.
func (w *registryWriter) ensure(ctx context.Context) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.known {
		return nil
	}
	if _, err := w.producer.EnsureTopic(ctx, w.spec); err != nil {
		return err
	}
	w.known = true
	return nil
}

// close ends the producer, also when ctx has ended.
func (w *registryWriter) close(ctx context.Context) error {
	end, stop := context.WithTimeout(context.WithoutCancel(ctx), 2*time.Second)
	defer stop()
	return w.producer.Close(end)
}

// Init implements registry.TxnWriter.
func (w *registryWriter) Init(ctx context.Context) error {
	if err := w.ensure(ctx); err != nil {
		return err
	}
	return w.producer.Init(ctx)
}

// Write implements registry.TxnWriter. It publishes once: an outcome that is unknown
// is for the log's next Start and Replay to show.
func (w *registryWriter) Write(ctx context.Context, topic string, records []registry.Record) (int64, error) {
	batch := w.producer.NewBatch()
	now := time.Now()
	for _, r := range records {
		err := batch.Append(topic, 0, now, r.Key, r.Value, nil)
		var large *sink.TooLargeError
		if errors.As(err, &large) {
			return 0, fmt.Errorf("%w: %w", registry.ErrTooLarge, err)
		}
		if err != nil {
			return 0, err
		}
	}
	res, err := w.producer.Publish(ctx, batch)
	if err != nil {
		return 0, err
	}
	return res.LastOffsets[sink.TopicPartition{Topic: topic}], nil
}

// schemaText finds schemas by id for tail: through the registry's API, or, where the
// built-in registry is not running, in its topic.
func schemaText(ctx context.Context, c *config.Config, client *kafka.Client) (func(id int32) (string, error), error) {
	rc, err := c.ForRegistryClient()
	if err != nil {
		return nil, err
	}
	if c.Registry.Mode == "built-in" {
		rc.Retries = -1 // the topic is the second try
	}
	api, err := registry.NewClient(rc)
	if err != nil {
		return nil, within(exitConfig, err)
	}
	return func(id int32) (string, error) {
		text, err := api.Schema(ctx, id)
		var away *registry.UnavailableError
		if errors.As(err, &away) && c.Registry.Mode == "built-in" {
			text, err = schemaInTopic(ctx, c, client, id)
		}
		if err != nil {
			return "", within(exitRegistry, fmt.Errorf("look up schema %d: %w", id, err))
		}
		return text, nil
	}, nil
}

// schemaInTopic reads the registry's topic to its end and looks there.
func schemaInTopic(ctx context.Context, c *config.Config, client *kafka.Client, id int32) (string, error) {
	store, err := readTopic(ctx, c, client)
	if err != nil {
		return "", err
	}
	return store.API().Schema(ctx, id)
}

// readTopic reads the registry's topic to its end, and writes nothing.
func readTopic(ctx context.Context, c *config.Config, client *kafka.Client) (*registry.Store, error) {
	store := registry.NewStore(registry.NewKafkaLog(client, nil, c.Registry.Topic), nil)
	reading, done := context.WithCancel(ctx)
	defer done()
	ended := make(chan error, 1)
	go func() { ended <- store.Follow(reading) }()
	for !store.Ready() {
		select {
		case err := <-ended:
			return nil, err
		case <-time.After(5 * time.Millisecond):
		}
	}
	return store, nil
}

// checkRegistry looks at the registry that is configured, and says whether it has subjects to look at.
func checkRegistry(ctx context.Context, f *findings, c *config.Config, patience time.Duration) bool {
	if c.Registry.Mode == "external" {
		return checkExternalRegistry(ctx, f, c, patience)
	}
	return checkBuiltIn(ctx, f, c, patience)
}

// checkLevels compares the levels of the subjects that are there with the configuration's, which they got when walferry made them.
func checkLevels(ctx context.Context, f *findings, c *config.Config, topics *pipeline.Topics, tables []source.Table) {
	if err := compareLevels(ctx, f, c, topics, tables); err != nil {
		f.add("compatibility", source.Fail, "the levels of subjects cannot be read: "+err.Error(), hint(err))
	}
}

func compareLevels(ctx context.Context, f *findings, c *config.Config, topics *pipeline.Topics, tables []source.Table) error {
	ctx, cancel := context.WithTimeout(ctx, kafkaCheckTimeout)
	defer cancel()
	s, err := subjectsOf(ctx, c)
	if err != nil {
		return err
	}
	names, err := s.Subjects(ctx, false)
	if err != nil {
		return err
	}
	type line struct {
		table, subject string
		want, level    registry.Level
		own            bool
	}
	naming := c.Naming()
	var lines []line
	for i := range tables {
		t := &tables[i]
		want := c.Compatibility(t.Schema, t.Name)
		key, value := naming.Subjects(topics.Topic(t.Schema, t.Name))
		for _, subject := range []string{key, value} {
			_, ok := slices.BinarySearch(names, subject)
			if ok && !slices.ContainsFunc(lines, func(l line) bool { return l.subject == subject }) { // tables can share them
				lines = append(lines, line{table: t.String(), subject: subject, want: want})
			}
		}
	}
	if err := each(ctx, len(lines), func(ctx context.Context, i int) (err error) {
		lines[i].level, lines[i].own, err = s.Level(ctx, lines[i].subject)
		return err
	}); err != nil {
		return err
	}
	other := 0
	for _, l := range lines {
		if l.level == l.want {
			continue
		}
		other++
		level := string(l.level)
		if !l.own {
			level += ", that of all subjects,"
		}
		f.add("compatibility", source.Warn, fmt.Sprintf("subject %s of table %s has the level %s and the configuration says %s: walferry sets it when it makes a subject, and never after", l.subject, l.table, level, l.want),
			fmt.Sprintf("PUT /config/%s {\"compatibility\": \"%s\"}; or write compatibility: %s for the table in schema.tables", l.subject, l.want, strings.ToLower(string(l.level))))
	}
	if len(lines) > 0 && other == 0 {
		f.add("compatibility", source.OK, fmt.Sprintf("the levels of %s are those of the configuration", several(len(lines), "subject")), "")
	}
	return nil
}

// checkBuiltIn looks at the registry that this configuration serves, and says whether it has subjects already.
func checkBuiltIn(ctx context.Context, f *findings, c *config.Config, patience time.Duration) bool {
	anonymous, err := c.AnonymousWrites()
	switch {
	case err != nil:
		f.add("access", source.Fail, err.Error(), hint(err))
	case c.Registry.AllowAnonymousWrites && anonymous:
		f.add("access", source.Warn, "anyone who reaches "+c.Registry.Listen+" can register and delete schemas", "set registry.auth and leave allow_anonymous_writes out")
	case !c.Registry.AllowAnonymousReads:
		f.add("access", source.OK, "the registry at "+c.Registry.Listen+" asks for a user before it is read or written", "")
	case !anonymous && c.Registry.Auth == config.Auth{} && len(c.Registry.Users) == 0:
		f.add("access", source.OK, "others can read the registry at "+c.Registry.Listen+" and not write to it", "")
	default:
		f.add("access", source.OK, "the registry is served at "+c.Registry.Listen, "")
	}
	if _, err := c.RegistryUsers(); err != nil {
		f.add("auth", source.Fail, err.Error(), hint(err))
	}
	checkListenTLS(f, c)
	kc, err := c.ForKafka()
	if err != nil {
		return false // which the lines about Kafka say
	}
	client, err := kafka.New(kc)
	if err != nil {
		return false
	}
	defer client.Close()
	ctx, cancel := context.WithTimeout(ctx, kafkaCheckTimeout)
	defer cancel()
	if err := answers(ctx, client, c.Registry.Topic, patience); err != nil {
		f.add("topic", source.Fail, "the registry is kept in Kafka, which does not answer", "")
		return false
	}
	checkInternalTopic(ctx, f, client, c.Registry.Topic, "topic")
	id := c.RegistryTransactionalID()
	if err := askCoordinator(ctx, client, id); err != nil {
		f.add("transactional_id", source.Fail, err.Error(), "allow Describe and Write on the transactional id "+id)
	}
	_, exists, err := client.Partitions(ctx, c.Registry.Topic)
	return err == nil && exists
}

// certificateLeft is how long before its end a certificate is warned of.
const certificateLeft = 14 * 24 * time.Hour

func checkListenTLS(f *findings, c *config.Config) {
	secure, err := c.RegistryTLS()
	if err != nil {
		f.add("listen_tls", source.Fail, err.Error(), hint(err))
		return
	}
	if secure == nil {
		local, err := c.RegistryLoopback()
		if users, uerr := c.RegistryUsers(); err == nil && uerr == nil && !local && len(users) > 0 {
			f.add("listen_tls", source.Warn, "passwords and tokens cross the network to "+c.Registry.Listen+" as they are", "set registry.listen_tls")
		}
		return
	}
	pair, err := secure.GetCertificate(nil)
	if err != nil {
		f.add("listen_tls", source.Fail, err.Error(), "")
		return
	}
	const renew = "renew registry.listen_tls.cert_file"
	switch end := pair.Leaf.NotAfter; {
	case time.Until(end) <= 0:
		f.add("listen_tls", source.Fail, "the registry's certificate was valid until "+end.UTC().Format(time.DateOnly), renew)
	case time.Until(end) < certificateLeft:
		f.add("listen_tls", source.Warn, "the registry's certificate is valid until "+end.UTC().Format(time.DateOnly), renew)
	default:
		f.add("listen_tls", source.OK, "the registry's certificate is valid until "+end.UTC().Format(time.DateOnly), "")
	}
}

// checkExternalRegistry says whether it answers.
func checkExternalRegistry(ctx context.Context, f *findings, c *config.Config, patience time.Duration) bool {
	client, err := registryClient(c)
	if err != nil {
		f.add("settings", source.Fail, err.Error(), hint(err))
		return false
	}
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	if err := client.Ping(ctx); err != nil {
		remedy := hint(err)
		if remedy == "" {
			remedy = "compare registry.url, registry.auth and registry.tls with the registry, and see that it runs"
		}
		f.add("connect", source.Fail, err.Error(), remedy)
		return false
	}
	f.add("connect", source.OK, "the registry at "+c.Registry.URL+" answers", "")
	return true
}
