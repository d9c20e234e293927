package main

import (
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"net/url"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"github.com/spf13/cobra"

	"walferry/checkpoint"
	"walferry/decode"
	"walferry/internal/config"
	"walferry/internal/kafka"
	"walferry/schema"
	"walferry/schema/registry"
	"walferry/source"
)

func newAsyncAPICommand(p *program) *cobra.Command {
	var format string
	var noDatabase, noKafka bool
	cmd := &cobra.Command{
		Use:   "asyncapi",
		Short: "Describe the topics as an AsyncAPI 3 document",
		Long: `Write an AsyncAPI 3.0 document of the topics that have events: brokers, a channel for each
topic with its partitions and settings, and its messages with the newest schemas of key
and value out of the registry, and the headers. What a table and its columns are comes from
their comments in the database.

The same registry, topics and comments make the same document. Its version is the highest
id of the schemas in it.`,
		Example: "  walferry asyncapi > asyncapi.yaml\n  walferry asyncapi --format json --no-database",
		Args:    usage(both(noArgs, oneOf("format", &format, "yaml", "json"))),
		RunE: func(cmd *cobra.Command, _ []string) error {
			c, err := p.load()
			if err != nil {
				return err
			}
			d, err := p.describeTopics(cmd.Context(), c, !noDatabase, !noKafka)
			if err != nil {
				return err
			}
			document, err := d.asyncAPI()
			if err != nil {
				return err
			}
			if format == "json" {
				return p.printJSON(document)
			}
			return p.printf("%s", yamlText(document))
		},
	}
	formatFlag(cmd, &format, "yaml", "json")
	cmd.Flags().BoolVar(&noDatabase, "no-database", false, "do not ask the database; comments are those in the schemas")
	cmd.Flags().BoolVar(&noKafka, "no-kafka", false, "do not ask Kafka; partitions and settings of topics are left out")
	return cmd
}

// topicsDescription is what an AsyncAPI document is made of.
type topicsDescription struct {
	config   *config.Config
	registry string // its URL, without credentials
	topics   []describedTopic
	changes  *describedTopic // the topic of schema changes; nil for none
}

// describedTopic is a topic with events.
type describedTopic struct {
	name                     string
	key, value               registry.Registered // key.Schema is empty without a key
	keySubject, valueSubject string
	tables                   []describedTable // of which it has the events; empty where the database was not asked
	partitions               int              // 0: Kafka was not asked, or does not have the topic
	replicas                 int
	settings                 map[string]string
}

type describedTable struct {
	name       string
	descriptor *decode.Descriptor
}

// describeTopics asks the database, the registry and Kafka.
func (p *program) describeTopics(ctx context.Context, c *config.Config, database, brokers bool) (*topicsDescription, error) {
	d := &topicsDescription{config: c}
	rc, err := c.ForRegistryClient()
	if err != nil {
		return nil, err
	}
	if u, err := url.Parse(rc.URL); err == nil {
		u.User = nil
		d.registry = u.String()
	}
	tables := map[string][]describedTable{} // by topic
	if database {
		if tables, err = commentedTables(ctx, c); err != nil {
			return nil, err
		}
	}
	s, err := subjectsOf(ctx, c)
	if err != nil {
		return nil, err
	}
	names, err := s.Subjects(ctx, false)
	if err != nil {
		return nil, err
	}
	topics, err := d.topicNames(ctx, names, slices.Sorted(maps.Keys(tables)), database, brokers)
	if err != nil {
		return nil, err
	}
	naming := c.Naming()
	for _, topic := range topics {
		of := tables[topic]
		if database && of == nil {
			of = tables[movedAway(topic)]
		}
		key, value := naming.Subjects(topic)
		if _, ok := slices.BinarySearch(names, value); ok {
			d.topics = append(d.topics, describedTopic{name: topic, tables: of, keySubject: key, valueSubject: value})
		}
	}
	if database {
		for _, topic := range slices.Sorted(maps.Keys(tables)) {
			if !slices.ContainsFunc(d.topics, func(t describedTopic) bool { return t.name == topic }) {
				if _, err := fmt.Fprintf(p.stderr, "walferry: topic %s of table %s has no schema yet, since nothing was published; it is left out\n",
					topic, tables[topic][0].name); err != nil {
					return nil, err
				}
			}
		}
	}
	if err := d.readSchemas(ctx, s, names); err != nil {
		return nil, err
	}
	if c.Schema.ChangesTopic != "" {
		d.changes = &describedTopic{name: c.Schema.ChangesTopic}
	}
	if brokers {
		err = d.readTopics(ctx)
	}
	return d, err
}

// movedNumber is the number in a subject of a topic that a table has moved to: checkpoint.MovedTopic makes the topic's name.
var movedNumber = regexp.MustCompile(`\.v([0-9]+)`)

// topicNames are the topics that may have events, in order: those of the tables and those that these can have moved to, by the
// numbers in the subjects; without the database those that the subjects name, or else Kafka has.
func (d *topicsDescription) topicNames(ctx context.Context, subjects, tables []string, database, brokers bool) ([]string, error) {
	topics := map[string]bool{}
	naming := d.config.Naming()
	switch {
	case database:
		numbers := map[int]bool{}
		for _, s := range subjects {
			for _, m := range movedNumber.FindAllStringSubmatch(s, -1) {
				if n, err := strconv.Atoi(m[1]); err == nil && n > 1 {
					numbers[n] = true
				}
			}
		}
		for _, topic := range tables {
			topics[topic] = true
			for n := range numbers {
				topics[checkpoint.MovedTopic(topic, n)] = true
			}
		}
	case strings.Contains(naming.Subject, "{topic}"):
		for _, s := range subjects {
			if topic, ok := naming.TopicOf(s); ok && (belongs(d.config, topic) || named(d.config, topic)) {
				topics[topic] = true
			}
		}
	case brokers:
		found, err := d.allTopics(ctx)
		if err != nil {
			return nil, err
		}
		for _, topic := range found {
			if belongs(d.config, topic) || named(d.config, topic) {
				topics[topic] = true
			}
		}
	default:
		return nil, &usageError{err: fmt.Errorf("schema.subject is %s, so that subjects do not name their topics: leave out --no-database or --no-kafka", d.config.Schema.Subject), command: "walferry asyncapi"}
	}
	return slices.Sorted(maps.Keys(topics)), nil
}

// allTopics are the topics that Kafka has.
func (d *topicsDescription) allTopics(ctx context.Context) ([]string, error) {
	kc, err := d.config.ForKafka()
	if err != nil {
		return nil, err
	}
	client, err := kafka.New(kc)
	if err != nil {
		return nil, within(exitKafka, err)
	}
	defer client.Close()
	found, err := client.Metadata(ctx)
	if err != nil {
		return nil, within(exitKafka, fmt.Errorf("ask %s for topics: %w", d.config.BootstrapServers(), err))
	}
	names := make([]string, len(found))
	for i := range found {
		names[i] = found[i].Name
	}
	return names, nil
}

// named says whether the configuration names a topic for a table, or that topic has moved to this one.
func named(c *config.Config, topic string) bool {
	for _, t := range c.Schema.Tables {
		if t.Topic != "" && (t.Topic == topic || t.Topic == movedAway(topic)) {
			return true
		}
	}
	return false
}

// movedAway is the topic that <topic>.v2 goes on with, "" for a topic that goes on with none.
func movedAway(topic string) string {
	at := strings.LastIndex(topic, ".v")
	if at < 0 || !movedFrom(topic[:at], topic) {
		return ""
	}
	return topic[:at]
}

// commentedTables are the captured tables with their comments, by topic.
func commentedTables(ctx context.Context, c *config.Config) (map[string][]describedTable, error) {
	cat, err := openCatalog(ctx, c)
	if err != nil {
		return nil, err
	}
	defer cat.Close()
	list, err := cat.Tables(ctx)
	if err != nil {
		return nil, within(exitSource, err)
	}
	tables := map[string][]describedTable{}
	for _, t := range list {
		d, err := cat.Describe(ctx, t.OID)
		if is[*source.TableMissingError](err) {
			continue // dropped a moment ago
		}
		if err != nil {
			return nil, within(exitSource, err)
		}
		topic := c.TopicName(t.Schema, t.Name)
		tables[topic] = append(tables[topic], describedTable{t.Schema + "." + t.Name, d})
	}
	for _, list := range tables {
		slices.SortFunc(list, func(a, b describedTable) int { return cmp.Compare(a.name, b.name) })
	}
	return tables, nil
}

// readSchemas finds the newest schemas of the topics.
func (d *topicsDescription) readSchemas(ctx context.Context, s *subjects, names []string) error {
	return each(ctx, len(d.topics), func(ctx context.Context, i int) error {
		t := &d.topics[i]
		var err error
		if t.value, err = s.Version(ctx, t.valueSubject, "latest", false); err != nil {
			return err
		}
		if _, err := avroOf(&t.value); err != nil {
			return err
		}
		if _, keyed := slices.BinarySearch(names, t.keySubject); !keyed {
			return nil
		}
		if t.key, err = s.Version(ctx, t.keySubject, "latest", false); err != nil {
			return err
		}
		_, err = avroOf(&t.key)
		return err
	})
}

// readTopics asks Kafka about the topics.
func (d *topicsDescription) readTopics(ctx context.Context) error {
	asked := make([]*describedTopic, 0, len(d.topics)+1)
	for i := range d.topics {
		asked = append(asked, &d.topics[i])
	}
	if d.changes != nil {
		asked = append(asked, d.changes)
	}
	if len(asked) == 0 {
		return nil // no names would ask for all
	}
	kc, err := d.config.ForKafka()
	if err != nil {
		return err
	}
	client, err := kafka.New(kc)
	if err != nil {
		return within(exitKafka, err)
	}
	defer client.Close()
	names := make([]string, len(asked))
	for i, t := range asked {
		names[i] = t.name
	}
	found, err := client.Metadata(ctx, names...)
	if err != nil {
		return within(exitKafka, fmt.Errorf("ask %s for topics: %w", d.config.BootstrapServers(), err))
	}
	return each(ctx, len(found), func(ctx context.Context, i int) error {
		t := asked[i]
		if found[i].Err != nil { // a topic that was deleted still has its schemas
			return nil
		}
		t.partitions = len(found[i].Partitions)
		if t.partitions > 0 {
			t.replicas = len(found[i].Partitions[0].Replicas)
		}
		var err error
		t.settings, err = client.TopicConfigs(ctx, t.name)
		return within(exitKafka, err)
	})
}

// avroFormat is AsyncAPI's name of Avro in JSON: the format of schemas has not changed since 1.9.0.
const avroFormat = "application/vnd.apache.avro+json;version=1.9.0"

// asyncAPI is the document (https://www.asyncapi.com/docs/reference/specification/v3.0.0, and for Kafka the bindings 0.5.0,
// https://github.com/asyncapi/bindings/tree/master/kafka).
func (d *topicsDescription) asyncAPI() (object, error) {
	channels, operations, messages, schemas := object{}, object{}, object{}, object{}
	newest := int32(0)
	for i := range d.topics {
		t := &d.topics[i]
		newest = max(newest, t.key.ID, t.value.ID)
		value, err := newAvroTree(t.value.Schema)
		if err != nil {
			return nil, err
		}
		avro, err := orderedJSON(t.value.Schema)
		if err != nil {
			return nil, fmt.Errorf("version %d of subject %s: %w", t.value.Version, t.value.Subject, err)
		}
		schemas = append(schemas, member{t.schemaName(), object{{"schemaFormat", avroFormat}, {"schema", avro}}})
		kinds := []string{"event"}
		var key any
		if t.key.Schema != "" {
			kinds = append(kinds, "tombstone")
			if key, err = orderedJSON(t.key.Schema); err != nil {
				return nil, fmt.Errorf("version %d of subject %s: %w", t.key.Version, t.key.Subject, err)
			}
		}
		refs, used := object{}, []any{}
		for _, kind := range kinds {
			messages = append(messages, member{t.name + "." + kind, d.message(t, kind, key)})
			refs = append(refs, member{kind, reference("components", "messages", t.name+"."+kind)})
			used = append(used, reference("channels", t.name, "messages", kind))
		}
		channel := object{{"address", t.name}, {"title", t.title(value)}}
		if text := t.description(value); text != "" {
			channel = append(channel, member{"description", text})
		}
		channels = append(channels, member{t.name, append(channel, object{{"messages", refs}, {"bindings", t.binding()}}...)})
		operations = append(operations, member{"publish." + t.name, object{
			{"action", "send"}, {"channel", reference("channels", t.name)},
			{"summary", "walferry publishes the changes of " + t.title(value)}, {"messages", used},
		}})
	}
	if t := d.changes; t != nil {
		channels = append(channels, member{t.name, object{
			{"address", t.name}, {"title", "Changes of schemas"},
			{"description", "A record for each change of a captured table's columns, types or keys, in the Kafka transaction of the first event after it"},
			{"messages", object{{"change", reference("components", "messages", t.name+".change")}}}, {"bindings", t.binding()},
		}})
		operations = append(operations, member{"publish." + t.name, object{
			{"action", "send"}, {"channel", reference("channels", t.name)}, {"summary", "walferry publishes changes of schemas"},
			{"messages", []any{reference("channels", t.name, "messages", "change")}},
		}})
		messages = append(messages, member{t.name + ".change", object{
			{"name", t.name + ".change"}, {"summary", "A version of a table that is published from here on"}, {"contentType", "application/json"},
			{"headers", object{{"type", "object"}, {"properties", object{{schema.HeaderID, object{{"type", "string"}}}}}, {"required", []string{schema.HeaderID}}}},
			{"payload", changeSchema()},
			{"bindings", object{{"kafka", object{{"key", object{{"type", "string"}, {"description", "<schema>.<table>"}}}, {"bindingVersion", "0.4.0"}}}}},
		}})
	}
	schemas = append(schemas, member{"headers", headersSchema(d.config.Schema.Envelope)})
	components := object{{"schemas", schemas}, {"messages", messages}}
	servers, security := d.servers()
	if security != nil {
		components = append(components, member{"securitySchemes", security})
	}
	return object{
		{"asyncapi", "3.0.0"},
		{"info", object{
			{"title", d.config.Name}, {"version", strconv.Itoa(int(newest))},
			{"description", "The committed changes of tables of a Postgres database, published by walferry. A consumer with " +
				"isolation.level=read_committed sees each exactly once, and those of a key in the order of their commits."},
		}},
		{"defaultContentType", "application/avro"},
		{"servers", servers},
		{"channels", channels},
		{"operations", operations},
		{"components", components},
	}, nil
}

// reference is a Reference Object (RFC 6901).
func reference(path ...string) object {
	text := "#"
	for _, p := range path {
		text += "/" + strings.NewReplacer("~", "~0", "/", "~1").Replace(p)
	}
	return object{{"$ref", text}}
}

// servers are the brokers, and how they want to know who asks.
func (d *topicsDescription) servers() (servers, security object) {
	k := &d.config.Kafka
	protocol := "kafka"
	if k.TLS.Enabled {
		protocol = "kafka-secure"
	}
	vendor := "confluent"
	if d.config.Registry.Mode == "built-in" {
		vendor = "walferry"
	}
	kinds := map[string]string{"plain": "plain", "scram-sha-256": "scramSha256", "scram-sha-512": "scramSha512"}
	if kind := kinds[k.SASL.Mechanism]; kind != "" {
		security = object{{"sasl", object{{"type", kind}}}}
	}
	for i, host := range k.Brokers {
		s := object{{"host", host}, {"protocol", protocol}}
		if security != nil {
			s = append(s, member{"security", []any{reference("components", "securitySchemes", "sasl")}})
		}
		binding := object{{"schemaRegistryUrl", d.registry}, {"schemaRegistryVendor", vendor}, {"bindingVersion", "0.5.0"}}
		servers = append(servers, member{"broker-" + strconv.Itoa(i+1), append(s, member{"bindings", object{{"kafka", binding}}})})
	}
	return servers, security
}

// schemaName is the key of the value's schema among the components: AsyncAPI allows letters, digits, . - and _ there.
func (t *describedTopic) schemaName() string { return t.name + "-value" }

func (t *describedTopic) title(value *avroReader) string {
	if len(t.tables) == 0 {
		return tableOf(nameOf(value.row()))
	}
	names := make([]string, len(t.tables))
	for i := range t.tables {
		names[i] = t.tables[i].name
	}
	return strings.Join(names, ", ")
}

// description is what the comments say: the database's if it was asked, else those in the schema.
func (t *describedTopic) description(value *avroReader) string {
	var b strings.Builder
	if len(t.tables) == 0 {
		row := value.row()
		doc, _ := row["doc"].(string)
		b.WriteString(doc + "\n\n")
		for _, f := range fieldsOf(row) {
			if doc, _ := f["doc"].(string); doc != "" {
				fmt.Fprintf(&b, "- `%s`: %s\n", columnName(f), doc)
			}
		}
	}
	for _, table := range t.tables {
		if len(t.tables) > 1 {
			fmt.Fprintf(&b, "%s: ", table.name)
		}
		b.WriteString(table.descriptor.Comment + "\n\n")
		for _, c := range table.descriptor.Columns {
			// A column that is not published has no field.
			if c.Comment != "" && slices.Contains(value.columnNames(), c.Name) {
				fmt.Fprintf(&b, "- `%s`: %s\n", c.Name, c.Comment)
			}
		}
		b.WriteString("\n")
	}
	return strings.TrimSpace(b.String())
}

// binding is the channel's Kafka binding. It has only the settings that the binding has a place for.
func (t *describedTopic) binding() object {
	b := object{{"topic", t.name}}
	if t.partitions > 0 {
		b = append(b, object{{"partitions", t.partitions}, {"replicas", t.replicas}}...)
	}
	settings := object{}
	if policy := t.settings["cleanup.policy"]; policy != "" {
		settings = append(settings, member{"cleanup.policy", strings.Split(policy, ",")})
	}
	for _, name := range []string{"retention.ms", "retention.bytes", "delete.retention.ms", "max.message.bytes"} {
		if n, err := strconv.ParseInt(t.settings[name], 10, 64); err == nil {
			settings = append(settings, member{name, n})
		}
	}
	if len(settings) > 0 {
		b = append(b, member{"topicConfiguration", settings})
	}
	return object{{"kafka", append(b, member{"bindingVersion", "0.5.0"})}}
}

// message is an event of a topic, or the tombstone after a delete.
//
// Its Kafka binding is 0.4.0, the last in which a key can be Avro. In the official schema of 0.5.0 it can be a JSON Schema only:
// a reference is refused there too, since it is one of exactly two choices and fits both.
func (d *topicsDescription) message(t *describedTopic, kind string, key any) object {
	row := d.config.Schema.Envelope == schema.EnvelopeRow
	m := object{{"name", t.name + "." + kind}}
	switch {
	case kind == "tombstone" && row:
		m = append(m, member{"summary", "A row was deleted: the key, and no value"})
	case kind == "tombstone":
		m = append(m, member{"summary", "Follows the event of a deleted row, so that a compacted topic forgets the key: no value"})
	case row:
		m = append(m, member{"summary", "A row after a change, or for a truncate, with op t and a null key, no value"})
	default:
		m = append(m, member{"summary", "A change of a row (op c, u, d or r), or with a null key a truncate of the table (op t)"})
	}
	m = append(m, member{"headers", reference("components", "schemas", "headers")})
	binding := object{}
	if key != nil {
		binding = append(binding, member{"key", key})
	}
	binding = append(binding, object{{"schemaIdLocation", "payload"}, {"schemaIdPayloadEncoding", "confluent"}, {"bindingVersion", "0.4.0"}}...)
	payload := object{{"type", "null"}}
	if kind == "event" {
		payload = reference("components", "schemas", t.schemaName())
	}
	return append(m, object{{"payload", payload}, {"bindings", object{{"kafka", binding}}}}...)
}

// headers are all headers, as docs/events.md has them.
var headers = []struct {
	name, text string
	row        bool // with the envelope row only
	required   bool
}{
	{schema.HeaderID, "unique id of the record", false, true},
	{schema.HeaderIdentity, "on a delete: replica identity of the table (default, index, full, nothing)", false, false},
	{schema.HeaderSplit, "on events of a transaction that was split: <part>, in its last part <part>/last", false, false},
	{schema.HeaderRefetched, "fields that were not sent and hold the value of when the event was made, as a JSON array of strings", false, false},
	{schema.HeaderNewKey, "on the delete and tombstone of a changed key: the new key, as in a record's key", false, false},
	{schema.HeaderOldKey, "on the create of a changed key: the old key, as in a record's key", false, false},
	{schema.HeaderOp, "c create, u update, d delete, r read, t truncate", true, true},
	{schema.HeaderCommitLSN, "LSN of the commit, as X/X", true, true},
	{schema.HeaderOrdinal, "number of the row in its transaction, from 1", true, true},
	{schema.HeaderXID, "transaction id", true, true},
	{schema.HeaderTSMicros, "commit time, microseconds since 1970 UTC", true, true},
	{schema.HeaderSchema, "the table's schema", true, true},
	{schema.HeaderTable, "the table's name", true, true},
	{schema.HeaderUnavailable, "fields that were not sent, as a JSON array of strings", true, false},
}

func headersSchema(envelope string) object {
	properties, required := object{}, []string{}
	for _, h := range headers {
		if h.row && envelope != schema.EnvelopeRow {
			continue
		}
		properties = append(properties, member{h.name, object{{"type", "string"}, {"description", h.text}}})
		if h.required {
			required = append(required, h.name)
		}
	}
	return object{
		{"type", "object"}, {"description", "UTF-8 text. An application can add headers of its own to a transaction's events."},
		{"properties", properties}, {"required", required}, {"additionalProperties", object{{"type", "string"}}},
	}
}

// changeSchema is the JSON Schema of a record of schema.changes_topic, as docs/events.md has it.
func changeSchema() object {
	text, number, truth := object{{"type", "string"}}, object{{"type", "integer"}}, object{{"type", "boolean"}}
	record := func(optional []string, properties object) object {
		required := []string{}
		for _, p := range properties {
			if !slices.Contains(optional, p.name) {
				required = append(required, p.name)
			}
		}
		return object{{"type", "object"}, {"properties", properties}, {"required", required}, {"additionalProperties", false}}
	}
	column := record(nil, object{{"name", text}, {"type", text}, {"type_oid", number}, {"type_mod", number}, {"key", truth}})
	version := record([]string{"key_id", "key_subject"}, object{
		{"schema", text}, {"table", text}, {"identity", object{{"type", "string"}, {"enum", []string{"default", "index", "full", "nothing"}}}},
		{"columns", object{{"type", "array"}, {"items", column}}}, {"topic", text}, {"key_id", number}, {"value_id", number},
		{"key_subject", text}, {"value_subject", text},
	})
	return record(nil, object{
		{"v", object{{"type", "integer"}, {"enum", []any{1}}}}, {"schema", text}, {"table", text}, {"oid", number}, {"commit_lsn", text}, {"lsn", text},
		{"xid", number}, {"ts_us", number}, {"before", object{{"anyOf", []any{version, object{{"type", "null"}}}}}}, {"after", version},
	})
}

// orderedJSON reads JSON with the members of objects in their order.
func orderedJSON(text string) (any, error) {
	d := json.NewDecoder(strings.NewReader(text))
	d.UseNumber()
	v, err := orderedValue(d)
	if err != nil {
		return nil, err
	}
	if _, err := d.Token(); err != io.EOF { //nolint:errorlint // Token returns it bare
		return nil, fmt.Errorf("something follows the JSON at byte %d", d.InputOffset())
	}
	return v, nil
}

func orderedValue(d *json.Decoder) (any, error) {
	token, err := d.Token()
	if err != nil {
		return nil, err
	}
	switch token {
	case json.Delim('['):
		list := []any{}
		for d.More() {
			v, err := orderedValue(d)
			if err != nil {
				return nil, err
			}
			list = append(list, v)
		}
		_, err = d.Token()
		return list, err
	case json.Delim('{'):
		o := object{}
		for d.More() {
			name, err := d.Token()
			if err != nil {
				return nil, err
			}
			v, err := orderedValue(d)
			if err != nil {
				return nil, err
			}
			o = append(o, member{fmt.Sprint(name), v})
		}
		_, err = d.Token()
		return o, err
	}
	return token, nil
}

// yamlText writes objects, lists, strings, numbers and truths as YAML 1.2, of which JSON is a part: a string that could be
// read as something else is written as in JSON.
func yamlText(v any) string {
	var b strings.Builder
	writeYAML(&b, v, "", false)
	return b.String()
}

// writeYAML writes v behind what it belongs to: on the same line, or for what has members on lines of its own, indented.
// inList says that the first of these goes behind a dash.
func writeYAML(b *strings.Builder, v any, indent string, inList bool) {
	switch x := v.(type) {
	case object:
		if len(x) == 0 {
			b.WriteString(" {}\n")
			return
		}
		for i, m := range x {
			switch {
			case inList && i == 0:
				b.WriteString(" ")
			case i == 0 && indent != "":
				b.WriteString("\n" + indent)
			default:
				b.WriteString(indent)
			}
			b.WriteString(yamlScalar(m.name) + ":")
			writeYAML(b, m.value, indent+"  ", false)
		}
	case []string:
		list := make([]any, len(x))
		for i := range x {
			list[i] = x[i]
		}
		writeYAML(b, list, indent, inList)
	case []any:
		if len(x) == 0 {
			b.WriteString(" []\n")
			return
		}
		for i, item := range x {
			switch {
			case inList && i == 0:
				b.WriteString(" -")
			case i == 0:
				b.WriteString("\n" + indent + "-")
			default:
				b.WriteString(indent + "-")
			}
			writeYAML(b, item, indent+"  ", true)
		}
	default:
		b.WriteString(" " + yamlScalar(v) + "\n")
	}
}

var (
	yamlPlain = regexp.MustCompile(`^[A-Za-z_$/][A-Za-z0-9_$./-]*( [A-Za-z0-9_$./-]+)*$`)
	yamlWord  = regexp.MustCompile(`(?i)^(true|false|null|yes|no|on|off|y|n)$`) // of YAML 1.1 too
)

func yamlScalar(v any) string {
	if s, ok := v.(string); ok && yamlPlain.MatchString(s) && !yamlWord.MatchString(s) {
		return s
	}
	return unprintable.ReplaceAllStringFunc(compact(v), func(s string) string { return fmt.Sprintf("\\u%04x", []rune(s)[0]) })
}

// unprintable characters are not allowed in YAML as they are, but are in JSON.
var unprintable = regexp.MustCompile(`[\x{7f}-\x{9f}\x{feff}\x{fffe}\x{ffff}]`)
