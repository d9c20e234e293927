package kafka

import (
	"context"
	"encoding/binary"
	"fmt"
	"time"

	kafkago "github.com/segmentio/kafka-go"
	"github.com/segmentio/kafka-go/protocol"
)

const (
	readUncommitted int8 = 0
	readCommitted   int8 = 1

	fetchVersion      = 11 // the last that names topics and has no tagged fields
	fetchMaxBytes     = 16 << 20
	fetchMaxPartBytes = 4 << 20
)

// fetchRequest reads partitions from one leader.
type fetchRequest struct {
	isolation int8
	maxWait   time.Duration // how long the broker may wait for something to send
	parts     []fetchFrom
}

type fetchFrom struct {
	TopicPartition
	offset int64
}

// fetched is one partition's part of the answer.
type fetched struct {
	TopicPartition
	err           error // of an error code
	highWatermark int64
	stable        int64 // last stable offset
	aborted       []abortedTransaction
	set           []byte // record set
}

type abortedTransaction struct{ producerID, first int64 }

func (c *Client) fetch(ctx context.Context, node int32, req *fetchRequest) ([]fetched, error) {
	res, err := c.exchange(ctx, node, req)
	if err != nil {
		return nil, err
	}
	return res.([]fetched), nil
}

func (r *fetchRequest) ApiKey() protocol.ApiKey { return protocol.Fetch }

func (r *fetchRequest) encode(version int16, correlation int32, clientID string) ([][]byte, error) {
	if version < fetchVersion {
		return nil, fmt.Errorf("the broker is too old: Fetch version %d, %d is needed: %w", version, fetchVersion, kafkago.UnsupportedVersion)
	}
	be := binary.BigEndian
	b := frameHeader(nil, protocol.Fetch, fetchVersion, correlation, clientID)
	b = be.AppendUint32(b, ^uint32(0)) // replica id: a consumer
	b = be.AppendUint32(b, uint32(r.maxWait.Milliseconds()))
	b = be.AppendUint32(b, 1) // min bytes
	b = be.AppendUint32(b, fetchMaxBytes)
	b = append(b, byte(r.isolation))
	b = be.AppendUint32(b, 0)          // session id: none
	b = be.AppendUint32(b, ^uint32(0)) // session epoch: none
	topics, byTopic := groupByTopic(len(r.parts), func(i int) string { return r.parts[i].Topic })
	b = be.AppendUint32(b, uint32(len(topics)))
	for _, t := range topics {
		b = appendString(b, t)
		b = be.AppendUint32(b, uint32(len(byTopic[t])))
		for _, i := range byTopic[t] {
			b = be.AppendUint32(b, uint32(r.parts[i].Partition))
			b = be.AppendUint32(b, ^uint32(0)) // current leader epoch: not known
			b = be.AppendUint64(b, uint64(r.parts[i].offset))
			b = be.AppendUint64(b, ^uint64(0)) // log start offset: followers only
			b = be.AppendUint32(b, fetchMaxPartBytes)
		}
	}
	b = be.AppendUint32(b, 0) // forgotten topics
	b = appendString(b, "")   // rack
	be.PutUint32(b, uint32(len(b)-4))
	return [][]byte{b}, nil
}

// groupByTopic lists topics in order of first appearance, and the indexes of each.
func groupByTopic(n int, topic func(int) string) ([]string, map[string][]int) {
	var topics []string
	byTopic := make(map[string][]int)
	for i := range n {
		t := topic(i)
		if _, ok := byTopic[t]; !ok {
			topics = append(topics, t)
		}
		byTopic[t] = append(byTopic[t], i)
	}
	return topics, byTopic
}

func (r *fetchRequest) decode(_ int16, frame []byte) (any, error) {
	return decodeFetch(frame)
}

func decodeFetch(frame []byte) ([]fetched, error) {
	c := cursor{b: frame}
	c.int32() // correlation id, checked
	c.int32() // throttle time: the broker has muted the connection itself
	code := c.int16()
	c.int32() // session id
	if err := CodeError(code, ""); err != nil && !c.bad {
		return nil, err
	}
	var out []fetched
	for range c.count(6) {
		topic := c.string()
		for range c.count(38) {
			f := fetched{TopicPartition: TopicPartition{topic, c.int32()}, err: CodeError(c.int16(), "")}
			f.highWatermark, f.stable = c.int64(), c.int64()
			c.int64() // log start offset
			if n := c.count(16); n > 0 {
				f.aborted = make([]abortedTransaction, n)
				for i := range f.aborted {
					f.aborted[i] = abortedTransaction{c.int64(), c.int64()}
				}
			}
			c.int32() // preferred read replica: we name no rack
			if n := c.int32(); n > 0 {
				f.set = c.take(int(n))
			}
			out = append(out, f)
		}
	}
	if c.bad {
		return nil, fmt.Errorf("%w to %s", ErrMalformed, protocol.Fetch)
	}
	return out, nil
}
