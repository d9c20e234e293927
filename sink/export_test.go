package sink

import "walferry/internal/kafka"

// SealedFor returns the only record batch of b, plain and sealed for a producer.
func (b *Batch) SealedFor(id int64, epoch int16, sequence int32) []byte {
	x, err := kafka.NewCompressor(kafka.None)
	if err != nil {
		panic(err)
	}
	c := b.order[0].chunks[0]
	if _, err := c.pack(x, nil); err != nil {
		panic(err)
	}
	c.seal(id, epoch, sequence)
	return c.wire
}
