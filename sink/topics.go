package sink

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	kafkago "github.com/segmentio/kafka-go"

	"walferry/internal/kafka"
)

// defaultMaxMessageBytes is Kafka's default of max.message.bytes.
const defaultMaxMessageBytes = 1048588

// limit returns what is known of a topic's limits.
func (p *Producer) limit(topic string) topicLimit {
	p.mu.Lock()
	info, ok := p.topics[topic]
	p.mu.Unlock()
	if !ok {
		return topicLimit{maxMessageBytes: defaultMaxMessageBytes}
	}
	return topicLimit{
		maxMessageBytes: info.MaxMessageBytes,
		asStored:        info.CompressionType != "producer" && info.CompressionType != p.codec.String(),
	}
}

// Topic returns what the last EnsureTopic found.
func (p *Producer) Topic(name string) (TopicInfo, bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	info, ok := p.topics[name]
	return info, ok
}

// EnsureTopic creates a topic that is not there and checks one that is. What it finds is kept: the limits for every Batch,
// and the partition count, which stays what it was at the first call. Errors that pass by themselves are retried until ctx
// ends.
//
// A topic that is not as wanted is a *TopicMismatchError. One that may not be described or created is a *FatalError.
func (p *Producer) EnsureTopic(ctx context.Context, spec TopicSpec) (TopicInfo, error) {
	var retry retrier
	created := false
	for {
		info, err := p.ensureTopic(ctx, spec, &created)
		if err == nil {
			p.mu.Lock()
			if kept, ok := p.topics[spec.Name]; ok {
				info.Partitions = kept.Partitions
			}
			p.topics[spec.Name] = info
			p.mu.Unlock()
			return info, nil
		}
		var mismatch *TopicMismatchError
		if errors.As(err, &mismatch) {
			return info, err
		}
		switch kafka.Classify(err) {
		case kafka.Retry:
			if cause := retry.wait(ctx, p, err); cause != nil {
				return TopicInfo{}, fmt.Errorf("%w (last: %w)", cause, err)
			}
		case kafka.Fatal:
			return TopicInfo{}, fatal(err)
		default:
			return TopicInfo{}, err
		}
	}
}

func (p *Producer) ensureTopic(ctx context.Context, spec TopicSpec, created *bool) (TopicInfo, error) {
	info, exists, err := DescribeTopic(ctx, p.client, spec.Name)
	if err != nil {
		return TopicInfo{}, err
	}
	if !exists && !*created {
		if spec.MustExist {
			return TopicInfo{}, &TopicMismatchError{Topic: spec.Name, Setting: "existence", Want: "an existing topic", Have: "none",
				Remedy: "create it, or allow walferry to create topics"}
		}
		configs := map[string]string{}
		for k, v := range spec.Configs {
			configs[k] = v
		}
		if spec.CleanupPolicy != "" {
			configs["cleanup.policy"] = spec.CleanupPolicy
		}
		err := p.client.CreateTopic(ctx, spec.Name, spec.Partitions, spec.ReplicationFactor, configs)
		switch {
		case err == nil:
			*created = true
		case kafka.IsCode(err, kafkago.TopicAlreadyExists):
			// Somebody else was quicker, or an unanswered copy of ours: it is checked like any other.
		default:
			return TopicInfo{}, err
		}
	}
	if !exists {
		// The broker that is asked next may not have heard of it yet.
		return TopicInfo{}, fmt.Errorf("topic %s was just created: %w", spec.Name, kafkago.UnknownTopicOrPartition)
	}
	info.Created = *created
	return info, spec.Check(info)
}

// DescribeTopic looks at a topic; exists is false where there is none.
func DescribeTopic(ctx context.Context, client *kafka.Client, topic string) (info TopicInfo, exists bool, err error) {
	ms, err := client.Metadata(ctx, topic)
	if err != nil {
		return TopicInfo{}, false, err
	}
	m := ms[0]
	if kafka.IsCode(m.Err, kafkago.UnknownTopicOrPartition) {
		return TopicInfo{}, false, nil
	}
	if m.Err != nil {
		return TopicInfo{}, false, fmt.Errorf("topic %s: %w", topic, m.Err)
	}
	info = TopicInfo{Name: topic, Partitions: len(m.Partitions)}
	for i, q := range m.Partitions {
		if q.Leader < 0 {
			return TopicInfo{}, true, fmt.Errorf("topic %s partition %d: %w", topic, i, kafkago.LeaderNotAvailable)
		}
		if i == 0 || len(q.Replicas) < info.ReplicationFactor {
			info.ReplicationFactor = len(q.Replicas)
		}
	}
	settings, err := client.TopicConfigs(ctx, topic)
	if err != nil {
		return TopicInfo{}, true, err
	}
	return info, true, info.read(settings)
}

// read fills in the settings; one that the broker does not send has Kafka's default.
func (info *TopicInfo) read(settings map[string]string) error {
	number := func(name string, def int64) (int64, error) {
		s, ok := settings[name]
		if !ok || s == "" {
			return def, nil
		}
		n, err := strconv.ParseInt(s, 10, 64)
		if err != nil {
			return 0, fmt.Errorf("topic %s: %w: %s is %q", info.Name, kafka.ErrMalformed, name, s)
		}
		return n, nil
	}
	var size, insync, retention int64
	var err error
	if size, err = number("max.message.bytes", defaultMaxMessageBytes); err != nil {
		return err
	}
	if insync, err = number("min.insync.replicas", 1); err != nil {
		return err
	}
	if retention, err = number("retention.ms", 7*24*3600*1000); err != nil {
		return err
	}
	if info.RetentionBytes, err = number("retention.bytes", -1); err != nil {
		return err
	}
	info.MaxMessageBytes, info.MinInsyncReplicas = int(size), int(insync)
	info.Retention = time.Duration(min(retention, int64(1<<63-1)/int64(time.Millisecond))) * time.Millisecond
	if info.CleanupPolicy = settings["cleanup.policy"]; info.CleanupPolicy == "" {
		info.CleanupPolicy = "delete"
	}
	if info.CompressionType = settings["compression.type"]; info.CompressionType == "" {
		info.CompressionType = "producer"
	}
	return nil
}

// Check compares a topic with what is wanted. Its error is a *TopicMismatchError.
func (s *TopicSpec) Check(info TopicInfo) error {
	mismatch := func(setting, want, have, remedy string) error {
		return &TopicMismatchError{Topic: s.Name, Setting: setting, Want: want, Have: have, Remedy: remedy}
	}
	if s.Partitions > 0 && info.Partitions != s.Partitions {
		return mismatch("partitions", strconv.Itoa(s.Partitions), strconv.Itoa(info.Partitions),
			"configure the number that it has, or make a topic of another name: records already written keep their partitions")
	}
	if info.ReplicationFactor < s.ReplicationFactor {
		return mismatch("replication factor", strconv.Itoa(s.ReplicationFactor), strconv.Itoa(info.ReplicationFactor),
			"raise it with kafka-reassign-partitions.sh, or configure the number that it has")
	}
	if s.CleanupPolicy != "" && policy(s.CleanupPolicy) != policy(info.CleanupPolicy) {
		return mismatch("cleanup.policy", s.CleanupPolicy, info.CleanupPolicy,
			fmt.Sprintf("set it with kafka-configs.sh --alter --topic %s --add-config cleanup.policy=%s", s.Name, quoteList(s.CleanupPolicy)))
	}
	if info.MinInsyncReplicas > info.ReplicationFactor {
		return mismatch("min.insync.replicas", "at most its replication factor "+strconv.Itoa(info.ReplicationFactor),
			strconv.Itoa(info.MinInsyncReplicas), "nothing can be written with acks=all before one of the two changes")
	}
	return nil
}

// policy brings a list of policies into one order.
func policy(s string) string {
	parts := strings.Split(s, ",")
	for i := range parts {
		parts[i] = strings.TrimSpace(parts[i])
	}
	slices.Sort(parts)
	return strings.Join(parts, ",")
}

// quoteList brackets a value with a comma, as kafka-configs.sh wants it.
func quoteList(s string) string {
	if strings.Contains(s, ",") {
		return "[" + s + "]"
	}
	return s
}

// CheckTopics asks again for every topic that EnsureTopic knows and returns what has changed: *PartitionsChangedError, or an
// error naming a topic that is gone. Nothing is followed: new records keep to the partitions there were.
func (p *Producer) CheckTopics(ctx context.Context) ([]error, error) {
	p.mu.Lock()
	names := make([]string, 0, len(p.topics))
	for n := range p.topics {
		names = append(names, n)
	}
	p.mu.Unlock()
	if len(names) == 0 {
		return nil, nil
	}
	slices.Sort(names)
	ms, err := p.client.Metadata(ctx, names...)
	if err != nil {
		return nil, err
	}
	var found []error
	for _, m := range ms {
		kept, _ := p.Topic(m.Name)
		switch {
		case m.Err != nil:
			found = append(found, fmt.Errorf("topic %s: %w", m.Name, m.Err))
		case len(m.Partitions) != kept.Partitions:
			found = append(found, &PartitionsChangedError{Topic: m.Name, Kept: kept.Partitions, Have: len(m.Partitions)})
		}
	}
	return found, nil
}
