package kafka

import (
	"context"
	"errors"
	"net"

	"github.com/segmentio/kafka-go/sasl"
)

var ErrFenced = errors.New("another producer has taken over this transactional id")

type Class int

const (
	Retry Class = iota
	Restart
	Fenced
	Fatal
)

func Classify(err error) Class { return Retry }

type topicEntry struct{}

func dialer(*Config) (func(context.Context, string, string) (net.Conn, error), error) {
	return nil, nil
}
func mechanism(SASLConfig) (sasl.Mechanism, error) { return nil, nil }

func (c *Client) Partitions(ctx context.Context, topic string) (n int, exists bool, err error) {
	return 0, false, errors.ErrUnsupported
}

func (c *Client) Replay(ctx context.Context, topic string, partition int32, until int64, fn func(Record) error) error {
	return errors.ErrUnsupported
}

const (
	Earliest int64 = -2
	Latest   int64 = -1
)

func (c *Client) ListOffset(ctx context.Context, topic string, partition int32, at int64) (int64, error) {
	return 0, errors.ErrUnsupported
}

type Reader struct{}

func (c *Client) NewReader(at map[TopicPartition]int64) *Reader { return &Reader{} }

func (r *Reader) Poll(ctx context.Context) ([]Record, error) { return nil, errors.ErrUnsupported }
