package main

import (
	"cmp"
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"time"

	kafkago "github.com/segmentio/kafka-go"
	"github.com/spf13/cobra"

	"walferry/checkpoint"
	"walferry/decode"
	"walferry/internal/config"
	"walferry/internal/kafka"
	"walferry/internal/pipeline"
	"walferry/schema"
	"walferry/sink"
	"walferry/source"
)

// answerTimeout bounds the first question to a server, so that a silent one does not
// hold check up. kafkaCheckTimeout bounds all questions to one that answers together.
const (
	answerTimeout     = 10 * time.Second
	kafkaCheckTimeout = 30 * time.Second
)

// shortRetention is what check warns below: events carry the time of their commit,
// so a backlog that is published late is deleted by that much earlier.
const shortRetention = 24 * time.Hour

func newCheckCommand(p *program) *cobra.Command {
	var asJSON bool
	cmd := &cobra.Command{
		Use:   "check",
		Short: "Find everything that would fail later",
		Long: `Ask the database, Kafka and the registry for everything that would fail later, and
print it as a table: ok, warn or fail, with the SQL or the command that mends each
line. Nothing is changed. The exit code is 0 when nothing fails, else 9.`,
		Args: usage(noArgs),
		RunE: func(cmd *cobra.Command, _ []string) error {
			c, err := p.load()
			if err != nil {
				return err
			}
			findings := checkAll(cmd.Context(), c, answerTimeout)
			if cmd.Context().Err() != nil {
				return context.Cause(cmd.Context())
			}
			if asJSON {
				err = p.printJSON(findings)
			} else {
				err = p.showFindings(findings)
			}
			if err != nil {
				return err
			}
			if slices.ContainsFunc(findings, func(f finding) bool { return f.Severity == source.Fail }) {
				return &silentError{exitCheck}
			}
			return nil
		},
	}
	cmd.Flags().BoolVar(&asJSON, "json", false, "print JSON")
	return cmd
}

// finding is one line of the table.
type finding struct {
	Of       string          `json:"of"` // postgres, kafka, registry, local
	ID       string          `json:"id"`
	Severity source.Severity `json:"severity"`
	Text     string          `json:"text"`
	Remedy   string          `json:"remedy,omitempty"`
}

// findings collects findings about one thing.
type findings struct {
	of   string
	list []finding
}

func (f *findings) add(id string, s source.Severity, text, remedy string) {
	f.list = append(f.list, finding{f.of, id, s, text, remedy})
}

// checkAll asks Kafka and the registry side by side: where both are silent, patience is spent once.
func checkAll(ctx context.Context, c *config.Config, patience time.Duration) []finding {
	registryFindings := &findings{of: "registry"}
	there := make(chan bool, 1)
	go func() { there <- checkRegistry(ctx, registryFindings, c, patience) }()
	out, tables, captured := checkPostgres(ctx, c)
	saved := new(checkpoint.State)
	out = append(out, checkKafka(ctx, c, tables, captured, saved, patience)...)
	out = append(out, checkCopies(ctx, c, captured, saved)...)
	if <-there {
		checkLevels(ctx, registryFindings, c, newTopics(c, saved), captured)
	}
	out = append(out, registryFindings.list...)
	return append(out, checkLocal(ctx, c)...)
}

// checkPostgres returns the tables that are published too, and those that are or will be captured.
func checkPostgres(ctx context.Context, c *config.Config) (out []finding, tables, captured []source.Table) {
	f := &findings{of: "postgres"}
	cat, err := openCatalog(ctx, c)
	if err != nil {
		f.add("connect", source.Fail, err.Error(), hint(err))
		return f.list, nil, nil
	}
	defer cat.Close()
	for _, x := range cat.Preflight(ctx) {
		f.add(x.ID, x.Severity, x.Text, x.Remedy)
	}
	if captured, err = cat.Captured(ctx); err != nil && !is[*source.ColumnError](err) { // which preflight has reported
		f.add("tables", source.Fail, err.Error(), hint(err))
	}
	if tables, err = cat.Tables(ctx); err != nil {
		var missing *source.PublicationMissingError
		if !errors.As(err, &missing) { // which preflight has reported
			f.add("tables", source.Fail, err.Error(), hint(err))
		}
		return f.list, nil, captured
	}
	if !c.Source.Publication.Create { // what is not published by now will not be
		captured = slices.DeleteFunc(captured, func(t source.Table) bool {
			return !slices.ContainsFunc(tables, func(p source.Table) bool { return p.OID == t.OID })
		})
	}
	for i := range tables {
		checkRefetch(ctx, f, c, cat, &tables[i])
	}
	odd, err := cat.OddTimes(ctx, tables)
	if err != nil {
		f.add("times", source.Fail, err.Error(), hint(err))
	}
	checkTimes(f, c, odd)
	checkNames(f, c, tables)
	return f.list, tables, captured
}

// checkCopies asks for what the copy of a table's rows would meet, by the statement that reads them. Tables whose copy has ended are
// left out.
func checkCopies(ctx context.Context, c *config.Config, captured []source.Table, saved *checkpoint.State) []finding {
	f := &findings{of: "postgres"}
	copies, err := pipeline.SavedCopies(saved)
	if err != nil {
		f.add("backfill", source.Fail, err.Error(), hint(err))
		return f.list
	}
	captured = slices.DeleteFunc(slices.Clone(captured), func(t source.Table) bool {
		return !c.Backfilled(t.Schema, t.Name) || slices.ContainsFunc(copies, func(p pipeline.CopyProgress) bool {
			return p.Schema == t.Schema && p.Table == t.Name && p.State.Over()
		})
	})
	if len(captured) == 0 {
		return nil
	}
	cat, err := openCatalog(ctx, c)
	if err != nil {
		return nil // checkPostgres has said so
	}
	defer cat.Close()
	if b := &c.Backfill; b.MaxReplicaLag > 0 || b.MaxSessions > 0 {
		if _, err := cat.Load(ctx); err != nil {
			f.add("backfill", source.Fail, "copies would pause for ever: "+err.Error(), hint(err))
		}
	}
	conn, err := cat.OpenCopy(ctx)
	if err != nil {
		f.add("backfill", source.Fail, err.Error(), hint(err))
		return f.list
	}
	defer conn.Close()
	for i := range captured {
		t, err := cat.CopyTable(ctx, captured[i].OID)
		if is[*source.TableMissingError](err) {
			continue // it is not published yet
		}
		if err == nil {
			err = conn.Check(ctx, t, "")
		}
		switch {
		case err != nil:
			f.add("backfill", source.Fail, "its copy would wait, and the stream go on: "+err.Error(), hint(err))
		case len(t.Key) == 0:
			f.add("backfill", source.Warn, fmt.Sprintf("table %s has no key, so its rows are copied in one transaction, which holds vacuum back until it ends (the table has about %s), and a copy that is broken off begins anew",
				t.Relation, bytesText(t.Bytes())), "ALTER TABLE "+t.Relation.String()+" ADD PRIMARY KEY (...); or `backfill: none` for the table")
		}
	}
	return f.list
}

// checkNames finds tables that no event can be made of: columns whose names become one, a key that is not sent or is left out.
// What types there are does not matter for that.
func checkNames(f *findings, c *config.Config, tables []source.Table) {
	for i := range tables {
		t := &tables[i]
		rel := &decode.Relation{Schema: t.Schema, Name: t.Name, Identity: t.Identity}
		for _, name := range t.Columns {
			const text = 25
			key := t.Identity == decode.IdentityFull || slices.Contains(t.IdentityColumns, name)
			rel.Columns = append(rel.Columns, decode.Column{Name: name, Type: text, Mod: -1, Key: key})
		}
		_, err := schema.Derive(rel, &decode.Descriptor{PrimaryKey: t.PrimaryKey}, c.TopicSpec(t.Schema, t.Name).Name, c.SchemaOptions(t.Schema, t.Name, "", "", ""))
		if err != nil {
			f.add("schema", source.Fail, err.Error(), hint(err))
		}
	}
}

// checkRefetch says what reading large values again by key would lack.
func checkRefetch(ctx context.Context, f *findings, c *config.Config, cat *source.Catalog, t *source.Table) {
	o := c.SchemaOptions(t.Schema, t.Name, "", "", "")
	var columns []string
	for _, column := range t.Toasted {
		if cmp.Or(o.Columns[column].Toast, o.Toast) == schema.ToastRefetch {
			columns = append(columns, column)
		}
	}
	list, err := cat.PreflightRead(ctx, t, columns)
	if err != nil {
		f.add("refetch", source.Fail, err.Error(), hint(err))
	}
	for _, x := range list {
		f.add(x.ID, x.Severity, x.Text, x.Remedy)
	}
}

// checkTimes warns of columns whose values a reader in another language can fail on.
func checkTimes(f *findings, c *config.Config, odd []source.Column) {
	for _, x := range odd {
		o := c.SchemaOptions(x.Schema, x.Table, "", "", "")
		if how := cmp.Or(o.Columns[x.Column].Time, o.Time); how == schema.TimePlain || how == schema.TimeISO {
			continue
		}
		f.add("times", source.Warn, fmt.Sprintf("column %s.%s.%s holds infinity, a year before 1 or after 9999, or 24:00:00: Python's Avro readers raise an error there, others read another day",
			x.Schema, x.Table, x.Column), "set time: plain or time: iso for it in schema.columns, unless your readers are made for it")
	}
}

// checkKafka fills saved, as far as Kafka tells.
func checkKafka(ctx context.Context, c *config.Config, tables, captured []source.Table, saved *checkpoint.State, patience time.Duration) []finding {
	f := &findings{of: "kafka"}
	kc, err := c.ForKafka()
	if err != nil {
		f.add("settings", source.Fail, err.Error(), hint(err))
		return f.list
	}
	client, err := kafka.New(kc)
	if err != nil {
		f.add("settings", source.Fail, err.Error(), hint(err))
		return f.list
	}
	defer client.Close()
	ctx, cancel := context.WithTimeout(ctx, kafkaCheckTimeout)
	defer cancel()

	if err := answers(ctx, client, c.Checkpoint.Topic, patience); err != nil {
		f.add("connect", source.Fail, fmt.Sprintf("no answer from %s: %v", c.BootstrapServers(), err), kafkaRemedy(err))
		return f.list
	}
	f.add("connect", source.OK, "the brokers at "+c.BootstrapServers()+" answer", "")
	if c.Kafka.SASL.Mechanism == "plain" && !c.Kafka.TLS.Enabled {
		f.add("sasl", source.Warn, "the password crosses the network in the clear", "set kafka.tls.enabled, or use scram-sha-512")
	}
	if c.Kafka.TLS.InsecureSkipVerify {
		f.add("tls", source.Warn, "any certificate is accepted, so anyone on the way can read and change everything", "set kafka.tls.ca_file and leave insecure_skip_verify out")
	}
	if err := askCoordinator(ctx, client, c.Kafka.TransactionalID); err != nil {
		remedy := "allow Describe and Write on the transactional id " + c.Kafka.TransactionalID
		if kafka.Classify(err) == kafka.Retry {
			remedy = "see that the topic __transaction_state has leaders; a cluster of fewer brokers than transaction.state.log.replication.factor cannot make it"
		}
		f.add("transactional_id", source.Fail, err.Error(), remedy)
	} else {
		f.add("transactional_id", source.OK, "the coordinator of "+c.Kafka.TransactionalID+" answers", "")
	}
	checkInternalTopic(ctx, f, client, c.Checkpoint.Topic, "checkpoint_topic")
	if c.Schema.ChangesTopic != "" {
		checkTopic(ctx, f, client, c.ChangesSpec(), "changes_topic", func(int) string { return "it is somebody else's; name another one in schema.changes_topic" })
	}
	if found, err := pipeline.Peek(ctx, client, c.Checkpoint.Topic); err == nil {
		*saved = *found
	} else {
		f.add("checkpoint_topic", source.Fail, fmt.Sprintf("what is saved in topic %s cannot be read, so where tables have moved to is not known: %v", c.Checkpoint.Topic, err),
			"allow Read on the topic "+c.Checkpoint.Topic)
	}
	topics := checkShared(f, c, saved, captured)
	for _, t := range tables {
		spec := c.TopicSpec(t.Schema, t.Name)
		spec.Name = topics.Topic(t.Schema, t.Name)
		policy := checkTopic(ctx, f, client, spec, "topic", func(n int) string { return fmt.Sprintf("set kafka.topic.partitions: %d", n) })
		if keyless := len(t.IdentityColumns) == 0 && len(t.PrimaryKey) == 0; keyless && strings.Contains(policy, "compact") {
			f.add("topic_key", source.Fail, fmt.Sprintf("table %s.%s has no key, and a compacted topic takes no record without one", t.Schema, t.Name), "give the table a primary key, or set kafka.topic.cleanup_policy: delete")
		}
	}
	return f.list
}

// answers asks Kafka a first question.
func answers(ctx context.Context, client *kafka.Client, topic string, patience time.Duration) error {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	_, err := client.Metadata(ctx, topic)
	return err
}

// newTopics knows where the tables of a configuration go.
func newTopics(c *config.Config, saved *checkpoint.State) *pipeline.Topics {
	return pipeline.NewTopics(&pipeline.Config{
		TopicSpec: c.TopicSpec, SharesTopic: c.SharesTopic, OwnTopic: c.OwnTopic,
		SchemaOptions: func(s, t, db, systemID string) schema.Options { return c.SchemaOptions(s, t, db, systemID, version) },
	}, saved)
}

// checkShared finds tables that would share a topic or a subject.
func checkShared(f *findings, c *config.Config, saved *checkpoint.State, tables []source.Table) *pipeline.Topics {
	topics := newTopics(c, saved)
	for i := range tables {
		t := &tables[i]
		if err := topics.Check(t.OID, t.Schema, t.Name); err != nil {
			id := "topic_shared"
			if e, ok := errors.AsType[*pipeline.SharedTopicError](err); ok && e.Subject != "" {
				id = "subject_shared"
			}
			f.add(id, source.Fail, err.Error(), hint(err))
		}
		topics.Add(t.OID, t.Schema, t.Name)
	}
	return topics
}

// askCoordinator finds the coordinator. The first question of a cluster's life makes the topic of transactions, so an
// answer that passes is given some time to do so.
func askCoordinator(ctx context.Context, client *kafka.Client, transactionalID string) error {
	ctx, cancel := context.WithTimeout(ctx, answerTimeout)
	defer cancel()
	for n := 0; ; n++ {
		_, err := client.Coordinator(ctx, transactionalID)
		if err == nil || kafka.Classify(err) != kafka.Retry || kafka.Pause(ctx, n) != nil {
			return err
		}
	}
}

// kafkaRemedy says what to look at when brokers do not answer.
func kafkaRemedy(err error) string {
	switch {
	case kafka.IsCode(err, kafkago.SASLAuthenticationFailed):
		return "correct kafka.sasl.user and kafka.sasl.password"
	case kafka.IsCode(err, kafkago.UnsupportedSASLMechanism):
		return "set kafka.sasl.mechanism to one that the listener has"
	case is[x509.UnknownAuthorityError](err):
		return "set kafka.tls.ca_file to the authority that signed the brokers' certificates"
	case is[x509.HostnameError](err):
		return "name the brokers in kafka.brokers as their certificates do, or set kafka.tls.server_name"
	case strings.Contains(err.Error(), "remote error: tls:"):
		return "set kafka.tls.cert_file and kafka.tls.key_file to a certificate of an authority that the listener trusts"
	case strings.Contains(err.Error(), "tls:"), strings.Contains(err.Error(), "x509:"):
		return "compare kafka.tls with the listener: its certificate, its authority, its name"
	}
	return "compare kafka.brokers, kafka.tls and kafka.sasl with the brokers' listeners, and see that they run"
}

// checkInternalTopic looks at a topic that must be compacted and have one partition.
func checkInternalTopic(ctx context.Context, f *findings, client *kafka.Client, topic, id string) {
	n, exists, err := client.Partitions(ctx, topic)
	switch {
	case err != nil:
		f.add(id, source.Fail, err.Error(), "allow Describe on the topic "+topic)
		return
	case !exists:
		f.add(id, source.OK, "topic "+topic+" does not exist yet and will be created", "")
		return
	case n != 1:
		f.add(id, source.Fail, fmt.Sprintf("topic %s has %d partitions and must have 1", topic, n), "it is somebody else's; name another one")
		return
	}
	settings, err := client.TopicConfigs(ctx, topic)
	if err != nil {
		f.add(id, source.Fail, err.Error(), "allow DescribeConfigs on the topic "+topic)
		return
	}
	if settings["cleanup.policy"] != "compact" {
		f.add(id, source.Fail, fmt.Sprintf("topic %s has cleanup.policy %s, so what it holds would be deleted", topic, settings["cleanup.policy"]),
			"kafka-configs.sh --alter --topic "+topic+" --add-config cleanup.policy=compact")
		return
	}
	f.add(id, source.OK, "topic "+topic+" is compacted and has one partition", "")
}

// checkTopic compares a topic with what it should be, and returns the cleanup policy that it has or will have: "" where the topic
// has to be mended first. partitions is the remedy for another number of partitions, which it is given.
func checkTopic(ctx context.Context, f *findings, client *kafka.Client, spec sink.TopicSpec, id string, partitions func(have int) string) string {
	info, exists, err := sink.DescribeTopic(ctx, client, spec.Name)
	var mismatch *sink.TopicMismatchError
	switch {
	case err != nil:
		f.add(id, source.Fail, err.Error(), "allow Describe, DescribeConfigs, Create and Write on the topic "+spec.Name)
		return ""
	case !exists && spec.MustExist:
		f.add(id, source.Fail, "topic "+spec.Name+" does not exist and kafka.topic.create is false", fmt.Sprintf("kafka-topics.sh --create --topic %s --partitions %d", spec.Name, spec.Partitions))
		return spec.CleanupPolicy
	case !exists:
		f.add(id, source.OK, "topic "+spec.Name+" does not exist yet and will be created", "")
		return spec.CleanupPolicy
	case info.Partitions != spec.Partitions:
		f.add(id, source.Fail, fmt.Sprintf("topic %s has %d partitions, the configuration says %d", spec.Name, info.Partitions, spec.Partitions), partitions(info.Partitions))
		return spec.CleanupPolicy
	case !samePolicy(info.CleanupPolicy, spec.CleanupPolicy):
		f.add(id, source.Fail, fmt.Sprintf("topic %s has cleanup.policy %s, the configuration says %s", spec.Name, info.CleanupPolicy, spec.CleanupPolicy),
			"kafka-configs.sh --alter --topic "+spec.Name+" --add-config cleanup.policy=["+spec.CleanupPolicy+"], or set kafka.topic.cleanup_policy")
		return ""
	case errors.As(spec.Check(info), &mismatch): // what is left: replicas
		f.add(id, source.Fail, fmt.Sprintf("topic %s has %s %s and needs %s", spec.Name, mismatch.Setting, mismatch.Have, mismatch.Want), mismatch.Remedy)
		return info.CleanupPolicy
	}
	if info.Retention > 0 && info.Retention < shortRetention && strings.Contains(info.CleanupPolicy, "delete") {
		f.add("retention", source.Warn, fmt.Sprintf("topic %s keeps records for %s; they carry the time of their commit, so what is published late is deleted sooner", spec.Name, info.Retention),
			"raise retention.ms of the topic above the longest time that walferry or a consumer may be away")
	}
	if want, err := strconv.Atoi(spec.Configs["max.message.bytes"]); err == nil && info.MaxMessageBytes < want {
		f.add("topic_size", source.Warn, fmt.Sprintf("topic %s takes records of %d bytes at most, the configuration says %d for those that walferry creates", spec.Name, info.MaxMessageBytes, want),
			fmt.Sprintf("kafka-configs.sh --alter --topic %s --add-config max.message.bytes=%d", spec.Name, want))
	}
	f.add(id, source.OK, fmt.Sprintf("topic %s has %d partitions, %d replicas, cleanup.policy %s and max.message.bytes %d",
		spec.Name, info.Partitions, info.ReplicationFactor, info.CleanupPolicy, info.MaxMessageBytes), "")
	return info.CleanupPolicy
}

func samePolicy(a, b string) bool {
	x, y := strings.Split(strings.ReplaceAll(a, " ", ""), ","), strings.Split(b, ",")
	slices.Sort(x)
	slices.Sort(y)
	return b == "" || slices.Equal(x, y)
}

// checkLocal looks at the addresses to listen on, and at the files of secrets.
func checkLocal(ctx context.Context, c *config.Config) []finding {
	f := &findings{of: "local"}
	if code, _, err := ask(ctx, c, "/healthz"); err == nil && code == http.StatusOK {
		f.add("listen", source.OK, "a walferry runs already and answers at "+c.Admin.Listen, "")
		return f.list
	}
	listen := map[string]string{"admin.listen": c.Admin.Listen}
	if c.Registry.Mode == "built-in" {
		listen["registry.listen"] = c.Registry.Listen
	}
	for _, key := range []string{"admin.listen", "registry.listen"} {
		addr, ok := listen[key]
		if !ok || addr == "" {
			continue
		}
		l, err := (&net.ListenConfig{}).Listen(ctx, "tcp", addr)
		if err != nil {
			f.add("listen", source.Fail, fmt.Sprintf("%s: %v", key, err), "set "+key+" to a free address")
			continue
		}
		if err := l.Close(); err != nil {
			f.add("listen", source.Fail, fmt.Sprintf("%s: %v", key, err), "")
			continue
		}
		f.add("listen", source.OK, key+" "+addr+" is free", "")
	}
	if c.Standby {
		f.add("standby", source.OK, "a second instance waits for the slot", "")
	}
	return f.list
}

// showFindings prints the table. A remedy stands on a line of its own below, so
// that SQL can be copied as a whole.
func (p *program) showFindings(list []finding) error {
	counts := map[source.Severity]int{}
	for _, f := range list {
		counts[f.Severity]++
		if err := p.printf("%-4s  %-8s  %-26s  %s\n", f.Severity, f.Of, f.ID, f.Text); err != nil {
			return err
		}
		if f.Remedy != "" {
			if err := p.printf("%20s%s\n", "-> ", f.Remedy); err != nil {
				return err
			}
		}
	}
	return p.printf("\n%d ok, %d to look at, %d to mend\n", counts[source.OK], counts[source.Warn], counts[source.Fail])
}
