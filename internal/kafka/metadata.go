package kafka

import (
	"context"
	"fmt"
	"sort"
	"time"

	kafkago "github.com/segmentio/kafka-go"
	"github.com/segmentio/kafka-go/protocol/createtopics"
	"github.com/segmentio/kafka-go/protocol/describeconfigs"
	"github.com/segmentio/kafka-go/protocol/findcoordinator"
	"github.com/segmentio/kafka-go/protocol/listoffsets"
	"github.com/segmentio/kafka-go/protocol/metadata"
)

// TopicMetadata is what a broker says about a topic.
type TopicMetadata struct {
	Name     string
	Err      error // nil, or why there is nothing to say: UNKNOWN_TOPIC_OR_PARTITION for a topic that does not exist
	Internal bool
	// Partitions by number.
	Partitions []PartitionMetadata
}

// PartitionMetadata is what a broker says about a partition.
type PartitionMetadata struct {
	Leader        int32 // -1 when there is none
	Replicas, ISR []int32
}

// topicEntry is a kept TopicMetadata.
type topicEntry struct {
	at   time.Time
	meta TopicMetadata
}

// metadataAge is how long leaders are believed without an error that says otherwise.
const metadataAge = time.Minute

// Metadata asks a broker about topics; no names ask for all. It creates no topic, whatever auto.create.topics.enable says.
// The answer is in the order of the names.
func (c *Client) Metadata(ctx context.Context, names ...string) ([]TopicMetadata, error) {
	msg, err := c.Call(ctx, AnyNode, &metadata.Request{TopicNames: names})
	if err != nil {
		return nil, err
	}
	byName := map[string]TopicMetadata{}
	for _, t := range msg.(*metadata.Response).Topics {
		m := TopicMetadata{Name: t.Name, Internal: t.IsInternal, Err: CodeError(t.ErrorCode, "")}
		m.Partitions = make([]PartitionMetadata, len(t.Partitions))
		for i := range m.Partitions {
			m.Partitions[i].Leader = -1
		}
		for _, p := range t.Partitions {
			if p.PartitionIndex < 0 || int(p.PartitionIndex) >= len(m.Partitions) {
				return nil, fmt.Errorf("metadata of topic %s: %w: partition %d of %d", t.Name, ErrMalformed, p.PartitionIndex, len(m.Partitions))
			}
			m.Partitions[p.PartitionIndex] = PartitionMetadata{Leader: p.LeaderID, Replicas: p.ReplicaNodes, ISR: p.IsrNodes}
		}
		byName[t.Name] = m
	}
	if len(names) == 0 {
		for n := range byName {
			names = append(names, n)
		}
		sort.Strings(names)
	}
	out := make([]TopicMetadata, len(names))
	now := time.Now()
	c.mu.Lock()
	defer c.mu.Unlock()
	for i, n := range names {
		m, ok := byName[n]
		if !ok {
			m = TopicMetadata{Name: n, Err: kafkago.UnknownTopicOrPartition}
		}
		out[i] = m
		if m.Err == nil {
			c.topics[n] = topicEntry{at: now, meta: m}
		}
	}
	return out, nil
}

// Partitions tells how many partitions a topic has, and whether it exists. A topic we have no right to describe is an error.
func (c *Client) Partitions(ctx context.Context, topic string) (n int, exists bool, err error) {
	ms, err := c.Metadata(ctx, topic)
	if err != nil {
		return 0, false, err
	}
	switch m := ms[0]; {
	case m.Err == nil:
		return len(m.Partitions), true, nil
	case IsCode(m.Err, kafkago.UnknownTopicOrPartition):
		return 0, false, nil
	default:
		return 0, false, fmt.Errorf("topic %s: %w", topic, m.Err)
	}
}

// Leaders returns the node ids of the leaders of these partitions, in their order, from what is kept where that is at most
// a minute old. No leader is LEADER_NOT_AVAILABLE.
func (c *Client) Leaders(ctx context.Context, parts []TopicPartition) ([]int32, error) {
	var missing []string
	now := time.Now()
	c.mu.Lock()
	for _, tp := range parts {
		if e, ok := c.topics[tp.Topic]; !ok || now.Sub(e.at) > metadataAge {
			missing = append(missing, tp.Topic)
		}
	}
	c.mu.Unlock()
	if len(missing) > 0 {
		sort.Strings(missing)
		n := 1
		for i := 1; i < len(missing); i++ {
			if missing[i] != missing[n-1] {
				missing[n] = missing[i]
				n++
			}
		}
		ms, err := c.Metadata(ctx, missing[:n]...)
		if err != nil {
			return nil, err
		}
		for _, m := range ms {
			if m.Err != nil {
				return nil, fmt.Errorf("topic %s: %w", m.Name, m.Err)
			}
		}
	}
	out := make([]int32, len(parts))
	c.mu.Lock()
	defer c.mu.Unlock()
	for i, tp := range parts {
		e := c.topics[tp.Topic] // none when Refresh came between: then no leader is known
		if tp.Partition < 0 || int(tp.Partition) >= len(e.meta.Partitions) {
			return nil, fmt.Errorf("topic %s partition %d: %w", tp.Topic, tp.Partition, kafkago.UnknownTopicOrPartition)
		}
		if out[i] = e.meta.Partitions[tp.Partition].Leader; out[i] < 0 {
			delete(c.topics, tp.Topic)
			return nil, fmt.Errorf("topic %s partition %d: %w", tp.Topic, tp.Partition, kafkago.LeaderNotAvailable)
		}
	}
	return out, nil
}

// Coordinator returns the node id of the transaction coordinator for a transactional id, kept until Refresh.
func (c *Client) Coordinator(ctx context.Context, transactionalID string) (int32, error) {
	c.mu.Lock()
	node, ok := c.coordinators[transactionalID]
	c.mu.Unlock()
	if ok {
		return node, nil
	}
	const transactionKey = 1
	msg, err := c.Call(ctx, AnyNode, &findcoordinator.Request{Key: transactionalID, KeyType: transactionKey})
	if err != nil {
		return 0, err
	}
	res := msg.(*findcoordinator.Response)
	if err := CodeError(res.ErrorCode, res.ErrorMessage); err != nil {
		return 0, fmt.Errorf("coordinator of transactional id %s: %w", transactionalID, err)
	}
	c.mu.Lock()
	c.coordinators[transactionalID] = res.NodeID
	c.mu.Unlock()
	return res.NodeID, nil
}

// CreateTopic creates a topic. 0 partitions or replicas leave the broker's default. TOPIC_ALREADY_EXISTS is an error like
// any other.
func (c *Client) CreateTopic(ctx context.Context, name string, partitions, replicationFactor int, configs map[string]string) error {
	// The controller creates topics; in KRaft mode every broker forwards to it.
	t := createtopics.RequestTopic{Name: name, NumPartitions: -1, ReplicationFactor: -1}
	if partitions > 0 {
		t.NumPartitions = int32(partitions)
	}
	if replicationFactor > 0 {
		t.ReplicationFactor = int16(replicationFactor)
	}
	for _, k := range sortedKeys(configs) {
		t.Configs = append(t.Configs, createtopics.RequestConfig{Name: k, Value: configs[k]})
	}
	msg, err := c.Call(ctx, AnyNode, &createtopics.Request{
		Topics:    []createtopics.RequestTopic{t},
		TimeoutMs: int32(c.cfg.RequestTimeout.Milliseconds() / 2),
	})
	if err != nil {
		return err
	}
	for _, r := range msg.(*createtopics.Response).Topics {
		if r.Name == name {
			if err := CodeError(r.ErrorCode, r.ErrorMessage); err != nil {
				return fmt.Errorf("create topic %s: %w", name, err)
			}
			return nil
		}
	}
	return fmt.Errorf("create topic %s: %w: the answer does not name it", name, ErrMalformed)
}

func sortedKeys(m map[string]string) []string {
	keys := make([]string, 0, len(m))
	for k := range m {
		keys = append(keys, k)
	}
	sort.Strings(keys)
	return keys
}

// TopicConfigs returns a topic's effective settings, the brokers' defaults included.
func (c *Client) TopicConfigs(ctx context.Context, topic string) (map[string]string, error) {
	const topicResource = 2
	msg, err := c.Call(ctx, AnyNode, &describeconfigs.Request{
		Resources: []describeconfigs.RequestResource{{ResourceType: topicResource, ResourceName: topic}},
	})
	if err != nil {
		return nil, err
	}
	for _, r := range msg.(*describeconfigs.Response).Resources {
		if r.ResourceName != topic {
			continue
		}
		if err := CodeError(r.ErrorCode, r.ErrorMessage); err != nil {
			return nil, fmt.Errorf("settings of topic %s: %w", topic, err)
		}
		out := make(map[string]string, len(r.ConfigEntries))
		for _, e := range r.ConfigEntries {
			out[e.ConfigName] = e.ConfigValue
		}
		return out, nil
	}
	return nil, fmt.Errorf("settings of topic %s: %w: the answer does not name it", topic, ErrMalformed)
}

// Offsets that ListOffset and NewReader understand beside plain ones.
const (
	Latest   int64 = -1
	Earliest int64 = -2
)

// ListOffset returns the first offset of a partition (Earliest), its high watermark (Latest), or the first offset whose
// record is not older than a time in milliseconds (-1 if there is none).
func (c *Client) ListOffset(ctx context.Context, topic string, partition int32, at int64) (int64, error) {
	return c.listOffset(ctx, TopicPartition{topic, partition}, at, readUncommitted)
}

// EndOffset returns the offset that the next record of a partition will have at the earliest: its high watermark.
func (c *Client) EndOffset(ctx context.Context, topic string, partition int32) (int64, error) {
	return c.ListOffset(ctx, topic, partition, Latest)
}

// StableOffset returns the last stable offset: a read_committed consumer sees what is below it.
func (c *Client) StableOffset(ctx context.Context, topic string, partition int32) (int64, error) {
	return c.listOffset(ctx, TopicPartition{topic, partition}, Latest, readCommitted)
}

func (c *Client) listOffset(ctx context.Context, tp TopicPartition, at int64, isolation int8) (int64, error) {
	var offset int64
	err := c.retry(ctx, func(ctx context.Context) error {
		nodes, err := c.Leaders(ctx, []TopicPartition{tp})
		if err != nil {
			return err
		}
		msg, err := c.Call(ctx, nodes[0], &listoffsets.Request{
			ReplicaID:      -1,
			IsolationLevel: isolation,
			Topics: []listoffsets.RequestTopic{{Topic: tp.Topic, Partitions: []listoffsets.RequestPartition{
				{Partition: tp.Partition, CurrentLeaderEpoch: -1, Timestamp: at},
			}}},
		})
		if err != nil {
			return err
		}
		for _, t := range msg.(*listoffsets.Response).Topics {
			for _, p := range t.Partitions {
				if t.Topic == tp.Topic && p.Partition == tp.Partition {
					offset = p.Offset
					return CodeError(p.ErrorCode, "")
				}
			}
		}
		return fmt.Errorf("%w: the answer does not name the partition", ErrMalformed)
	})
	if err != nil {
		return 0, fmt.Errorf("offsets of topic %s partition %d: %w", tp.Topic, tp.Partition, err)
	}
	return offset, nil
}

// retry runs fn until it succeeds, its error is not worth another try, or ctx ends, with a Refresh and a pause between. For
// requests that change nothing.
func (c *Client) retry(ctx context.Context, fn func(context.Context) error) error {
	var last error
	for n := 0; ; n++ {
		err := fn(ctx)
		switch {
		case err == nil:
			return nil
		case ctx.Err() != nil:
			if last != nil {
				return fmt.Errorf("%w (last: %w)", context.Cause(ctx), last)
			}
			return err
		case Classify(err) != Retry:
			return err
		}
		last = err
		c.Refresh()
		if cause := Pause(ctx, n); cause != nil {
			return fmt.Errorf("%w (last: %w)", cause, last)
		}
	}
}
