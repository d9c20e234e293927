package kafka

import (
	"context"
	"encoding/binary"
	"fmt"
	"strings"
	"time"

	kafkago "github.com/segmentio/kafka-go"
	"github.com/segmentio/kafka-go/protocol"
)

const produceVersion = 8 // the last without tagged fields; with error messages

// ProduceRequest carries one encoded record batch for each of some partitions that have the same leader.
type ProduceRequest struct {
	TransactionalID string
	Timeout         time.Duration // how long the leader waits for its replicas
	Items           []ProduceItem // at most one of each partition
}

// ProduceItem is one record batch. Batch is read until Produce returns, and not after.
type ProduceItem struct {
	TopicPartition
	Batch []byte
}

// ProduceResult is the answer about one item.
type ProduceResult struct {
	Err        error // of the error code, with what the broker said
	BaseOffset int64 // of the batch's first record; -1 when the broker does not know
}

// Produce sends a request with acks=all to the leader of its partitions and returns the results in the order of Items. The
// error is of the exchange, as with Call. On the wire the partitions stand in the order of Items within each topic, and the
// topics in order of their first item.
func (c *Client) Produce(ctx context.Context, node int32, req *ProduceRequest) ([]ProduceResult, error) {
	res, err := c.exchange(ctx, node, req)
	if err != nil {
		return nil, err
	}
	return res.([]ProduceResult), nil
}

// ApiKey is Kafka's number of the request.
func (r *ProduceRequest) ApiKey() protocol.ApiKey { return protocol.Produce }

func (r *ProduceRequest) encode(version int16, correlation int32, clientID string) ([][]byte, error) {
	if version < produceVersion {
		return nil, fmt.Errorf("the broker is too old: Produce version %d, %d is needed: %w", version, produceVersion, kafkago.UnsupportedVersion)
	}
	be := binary.BigEndian
	b := frameHeader(nil, protocol.Produce, produceVersion, correlation, clientID)
	if r.TransactionalID == "" {
		b = be.AppendUint16(b, ^uint16(0)) // null
	} else {
		b = appendString(b, r.TransactionalID)
	}
	b = be.AppendUint16(b, ^uint16(0)) // acks: all
	b = be.AppendUint32(b, uint32(r.Timeout.Milliseconds()))
	topics, byTopic := groupByTopic(len(r.Items), func(i int) string { return r.Items[i].Topic })
	b = be.AppendUint32(b, uint32(len(topics)))
	// The batches stay where they are: segments of b lie between them.
	var segs [][]byte
	from, size := 0, 0
	for _, t := range topics {
		b = appendString(b, t)
		b = be.AppendUint32(b, uint32(len(byTopic[t])))
		for _, i := range byTopic[t] {
			item := &r.Items[i]
			b = be.AppendUint32(b, uint32(item.Partition))
			b = be.AppendUint32(b, uint32(len(item.Batch)))
			segs = append(segs, b[from:len(b):len(b)], item.Batch)
			from = len(b)
			size += len(item.Batch)
		}
	}
	if len(segs) == 0 {
		return nil, fmt.Errorf("a produce request without a batch")
	}
	// b may have moved while it grew, so the first segment is not the start of b; the length goes where it is.
	be.PutUint32(segs[0], uint32(len(b)+size-4))
	return segs, nil
}

func (r *ProduceRequest) decode(_ int16, frame []byte) (any, error) {
	return r.decodeAnswer(frame)
}

func (r *ProduceRequest) decodeAnswer(frame []byte) ([]ProduceResult, error) {
	c := cursor{b: frame}
	c.int32() // correlation id, checked
	found := make(map[TopicPartition]ProduceResult, len(r.Items))
	for range c.count(6) {
		topic := c.string()
		for range c.count(36) {
			tp := TopicPartition{topic, c.int32()}
			code := c.int16()
			res := ProduceResult{BaseOffset: c.int64()}
			c.int64() // log append time
			c.int64() // log start offset
			var said []string
			for range c.count(6) {
				n := c.int32()
				if m := c.string(); m != "" {
					said = append(said, fmt.Sprintf("record %d: %s", n, m))
				}
			}
			if m := c.string(); m != "" {
				said = append(said, m)
			}
			res.Err = CodeError(code, strings.Join(said, "; "))
			found[tp] = res
		}
	}
	c.int32() // throttle time: the broker has muted the connection itself
	if c.bad {
		return nil, fmt.Errorf("%w to %s", ErrMalformed, protocol.Produce)
	}
	out := make([]ProduceResult, len(r.Items))
	for i := range r.Items {
		res, ok := found[r.Items[i].TopicPartition]
		if !ok {
			return nil, fmt.Errorf("%w to %s: it does not name topic %s partition %d", ErrMalformed, protocol.Produce,
				r.Items[i].Topic, r.Items[i].Partition)
		}
		out[i] = res
	}
	return out, nil
}
