package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	kafkago "github.com/segmentio/kafka-go"
	"github.com/spf13/cobra"

	"walferry/checkpoint"
	"walferry/internal/config"
	"walferry/internal/kafka"
	"walferry/schema"
)

// topicsInterval is how often tail looks for topics that came up meanwhile.
const topicsInterval = 3 * time.Second

func newTailCommand(p *program) *cobra.Command {
	var asJSON bool
	var from string
	var limit int
	cmd := &cobra.Command{
		Use:   "tail [TOPIC...]",
		Short: "Follow the topics and print what is published, decoded",
		Long: `Follow the topics of the pipeline as a read_committed consumer and print one line
for each event: commit time, operation (c create, u update, d delete, r read, t
truncate, - tombstone), topic, key, and the row. Fields that an update changed
are told from the rest where the old row is known.

TOPIC is a topic, or a table as schema.table, which stands for the topics too that it
moved to by schema.on_incompatible: new-topic. Without any, all topics of the
pipeline are followed, those created later included. End with Ctrl-C.`,
		Example: "  walferry tail\n  walferry tail public.orders --from beginning --json | jq .value.after",
		RunE: func(cmd *cobra.Command, args []string) error {
			if from != "beginning" && from != "end" {
				return &usageError{err: fmt.Errorf("--from %s: it is beginning or end", from), command: cmd.CommandPath()}
			}
			c, err := p.load()
			if err != nil {
				return err
			}
			err = p.tail(cmd.Context(), c, args, tailOptions{json: asJSON, beginning: from == "beginning", limit: limit})
			if cmd.Context().Err() != nil {
				return nil // that is how tail ends
			}
			return err
		},
	}
	cmd.Flags().BoolVar(&asJSON, "json", false, "print JSON, one line for each record")
	cmd.Flags().StringVar(&from, "from", "end", "where to start: beginning or end")
	cmd.Flags().IntVarP(&limit, "limit", "n", 0, "stop after so many records; 0 follows for ever")
	return cmd
}

type tailOptions struct {
	json, beginning bool
	limit           int
}

func (p *program) tail(ctx context.Context, c *config.Config, topics []string, o tailOptions) error {
	kc, err := c.ForKafka()
	if err != nil {
		return err
	}
	client, err := kafka.New(kc)
	if err != nil {
		return within(exitKafka, err)
	}
	defer client.Close()
	fetch, err := schemaText(ctx, c, client)
	if err != nil {
		return err
	}
	decoder := &schemas{readers: map[int32]*avroReader{}, fetch: fetch}

	var tables []string // topics that were given as tables: those that they moved to are followed too
	for i, t := range topics {
		if schemaName, table, ok := strings.Cut(t, "."); ok && !strings.Contains(table, ".") {
			topics[i] = c.TopicName(schemaName, table)
			tables = append(tables, topics[i])
		}
	}
	reader := client.NewReader(nil)
	followed := map[kafka.TopicPartition]bool{}
	look := time.Time{}
	n := 0
	for first := true; ; first = false {
		if time.Since(look) > topicsInterval {
			look = time.Now()
			at := kafka.Earliest // of a topic that came up while we looked on
			if first && !o.beginning {
				at = kafka.Latest
			}
			if err := follow(ctx, c, client, reader, topics, tables, followed, at); err != nil {
				return err
			}
		}
		if len(followed) == 0 {
			if err := wait(ctx, topicsInterval/10); err != nil {
				return err
			}
			continue
		}
		records, err := reader.Poll(ctx)
		if err != nil {
			var gone *kafka.OffsetError
			if errors.As(err, &gone) {
				reader.Add(gone.TopicPartition, kafka.Earliest)
				continue
			}
			return within(exitKafka, err)
		}
		for i := range records {
			line, err := decoder.event(&records[i])
			if err != nil {
				return fmt.Errorf("topic %s, partition %d, offset %d: %w", records[i].Topic, records[i].Partition, records[i].Offset, err)
			}
			if o.json {
				err = p.printLine(line)
			} else {
				err = p.printf("%s\n", line.text())
			}
			if err != nil {
				return err
			}
			if n++; n == o.limit {
				return nil
			}
		}
	}
}

// follow adds the partitions of topics that are not followed yet.
func follow(ctx context.Context, c *config.Config, client *kafka.Client, reader *kafka.Reader, topics, tables []string, followed map[kafka.TopicPartition]bool, at int64) error {
	if len(topics) == 0 {
		topics = nil // all; an empty list would ask for none
	}
	found, err := client.Metadata(ctx, topics...)
	if err == nil && len(tables) > 0 {
		var all []kafka.TopicMetadata
		all, err = client.Metadata(ctx)
		for _, t := range all {
			if t.Err == nil && slices.ContainsFunc(tables, func(table string) bool { return movedFrom(table, t.Name) }) {
				found = append(found, t)
			}
		}
	}
	if err != nil {
		return within(exitKafka, fmt.Errorf("ask %s for topics: %w", c.BootstrapServers(), err))
	}
	for _, t := range found {
		switch {
		case errors.Is(t.Err, kafkago.UnknownTopicOrPartition) && len(topics) > 0:
			return within(exitKafka, fmt.Errorf("topic %s: no event of this table has been published yet, or its name is another: %w", t.Name, t.Err))
		case t.Err != nil && len(topics) > 0:
			return within(exitKafka, fmt.Errorf("topic %s: %w", t.Name, t.Err))
		case t.Err != nil, len(topics) == 0 && !belongs(c, t.Name):
			continue
		}
		for i := range t.Partitions {
			tp := kafka.TopicPartition{Topic: t.Name, Partition: int32(i)}
			if !followed[tp] {
				followed[tp] = true
				reader.Add(tp, at)
			}
		}
	}
	return nil
}

// movedFrom says whether a topic is one that the table of another topic can have moved to.
func movedFrom(topic, to string) bool {
	number, ok := strings.CutPrefix(to, topic+".v")
	n, err := strconv.Atoi(number)
	return ok && err == nil && n > 1 && checkpoint.MovedTopic(topic, n) == to
}

// belongs says whether a topic can have come out of the template. Names of tables
// are not known here, so it is the text before and after the placeholders.
func belongs(c *config.Config, topic string) bool {
	if topic == c.Checkpoint.Topic || topic == c.Registry.Topic || topic == c.Schema.ChangesTopic {
		return false
	}
	t := strings.ReplaceAll(c.Kafka.Topic.Template, "{prefix}", c.Kafka.Topic.Prefix)
	before, _, _ := strings.Cut(t, "{")
	after := t[strings.LastIndex(t, "}")+1:]
	return len(topic) > len(before)+len(after) && strings.HasPrefix(topic, before) && strings.HasSuffix(topic, after)
}

// event is one record as tail shows it.
type event struct {
	Topic     string            `json:"topic"`
	Partition int32             `json:"partition"`
	Offset    int64             `json:"offset"`
	Time      time.Time         `json:"time"`
	Op        string            `json:"op"` // c, u, d, r, t, or - for a tombstone
	Key       any               `json:"key"`
	Value     any               `json:"value"`
	SchemaID  int32             `json:"schema_id,omitempty"`
	Headers   map[string]string `json:"headers"`
}

// event decodes a record of either envelope.
func (s *schemas) event(r *kafka.Record) (*event, error) {
	e := &event{Topic: r.Topic, Partition: r.Partition, Offset: r.Offset, Time: r.Time.UTC(), Headers: map[string]string{}}
	for _, h := range r.Headers {
		e.Headers[h.Key] = string(h.Value)
	}
	var err error
	if e.Key, _, err = s.read(r.Key); err != nil {
		return nil, fmt.Errorf("key: %w", err)
	}
	if e.Value, e.SchemaID, err = s.read(r.Value); err != nil {
		return nil, fmt.Errorf("value: %w", err)
	}
	e.Op = e.Headers[schema.HeaderOp]
	if o, ok := e.Value.(object); ok && e.Op == "" {
		e.Op, _ = o.get("op").(string)
	}
	if e.Op == "" {
		e.Op = "-"
		if r.Value != nil {
			e.Op = "?"
		}
	}
	return e, nil
}

// text is the line for people.
func (e *event) text() string {
	var b strings.Builder
	fmt.Fprintf(&b, "%s %s %s", e.Time.Format("15:04:05.000"), e.Op, e.Topic)
	if key, ok := e.Key.(object); ok {
		b.WriteString(" [")
		writeMembers(&b, key, nil)
		b.WriteString("]")
	}
	row, ok := e.Value.(object)
	if !ok {
		return b.String()
	}
	var before object
	var unavailable []any
	if row.has("after") && row.has("op") { // the envelope debezium
		before, _ = row.get("before").(object)
		unavailable, _ = row.get("unavailable").([]any)
		after, ok := row.get("after").(object)
		if !ok {
			after, before = before, nil
		}
		row = after
	} else if text := e.Headers[schema.HeaderUnavailable]; text != "" {
		if err := json.Unmarshal([]byte(text), &unavailable); err != nil {
			fmt.Fprintf(&b, " (header %s: %v)", schema.HeaderUnavailable, err)
		}
	}
	if len(row) > 0 {
		b.WriteString(" ")
		writeMembers(&b, row, unavailable)
	}
	if before != nil {
		if old := changed(before, row); len(old) > 0 {
			b.WriteString(" (was ")
			writeMembers(&b, old, nil)
			b.WriteString(")")
		}
	}
	return b.String()
}

func (o object) has(name string) bool {
	return slices.ContainsFunc(o, func(m member) bool { return m.name == name })
}

// changed returns the members of before that differ from after.
func changed(before, after object) object {
	var out object
	for _, m := range before {
		if m.value != nil && compact(m.value) != compact(after.get(m.name)) {
			out = append(out, m)
		}
	}
	return out
}

// writeMembers writes name=value, with a value that was not sent as ….
func writeMembers(b *strings.Builder, o object, unavailable []any) {
	for i, m := range o {
		if i > 0 {
			b.WriteString(" ")
		}
		b.WriteString(m.name + "=")
		if slices.Contains(unavailable, any(m.name)) {
			b.WriteString("…")
			continue
		}
		b.WriteString(compact(m.value))
	}
}

func compact(v any) string {
	b, err := marshal(v)
	if err != nil {
		return fmt.Sprintf("%v", v)
	}
	return string(b)
}

// printLine writes v as one line of JSON.
func (p *program) printLine(v any) error {
	e := json.NewEncoder(p.stdout)
	e.SetEscapeHTML(false)
	return e.Encode(v)
}

// wait pauses, or returns why ctx ended.
func wait(ctx context.Context, d time.Duration) error {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}
