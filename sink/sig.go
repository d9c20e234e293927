package sink

import (
	"context"
	"errors"
	"time"

	"walferry/internal/kafka"
)

type Producer struct{}

func New(client *kafka.Client, cfg Config) (*Producer, error) { return nil, errors.ErrUnsupported }

func (p *Producer) Init(ctx context.Context) error    { return errors.ErrUnsupported }
func (p *Producer) Recover(ctx context.Context) error { return errors.ErrUnsupported }
func (p *Producer) Close(ctx context.Context) error   { return errors.ErrUnsupported }
func (p *Producer) Publish(ctx context.Context, b *Batch) (Result, error) {
	return Result{}, errors.ErrUnsupported
}
func (p *Producer) EnsureTopic(ctx context.Context, spec TopicSpec) (TopicInfo, error) {
	return TopicInfo{}, errors.ErrUnsupported
}
func (p *Producer) NewBatch() *Batch { return nil }

type Batch struct{}

func (b *Batch) Append(topic string, partition int32, ts time.Time, key, value []byte, headers []Header) error {
	return errors.ErrUnsupported
}
func (b *Batch) AppendLast(topic string, partition int32, ts time.Time, key, value []byte, headers []Header) error {
	return errors.ErrUnsupported
}
func (b *Batch) Bytes() int   { return 0 }
func (b *Batch) Records() int { return 0 }
func (b *Batch) Full() bool   { return false }
func (b *Batch) Reset()       {}

func Partition(key []byte, n int) int32 { return 0 }
