package kafka

import (
	"context"
	"fmt"
	"sort"
	"sync"

	kafkago "github.com/segmentio/kafka-go"
)

// Reader follows partitions as a read_committed consumer does: records of aborted transactions, of open ones and control
// batches are not seen. It belongs to no group and saves no offsets. Not safe for concurrent use.
type Reader struct {
	client *Client
	parts  map[TopicPartition]*readerPart
	fails  int
}

type readerPart struct {
	tp     TopicPartition
	offset int64 // of the next fetch; Earliest or Latest until it is looked up
	stable int64 // the last stable offset that a broker told
}

// NewReader makes a reader that begins at these offsets, Earliest and Latest included.
func (c *Client) NewReader(at map[TopicPartition]int64) *Reader {
	r := &Reader{client: c, parts: map[TopicPartition]*readerPart{}}
	for tp, offset := range at {
		r.Add(tp, offset)
	}
	return r
}

// Add follows one more partition. A partition that is followed already moves to this offset.
func (r *Reader) Add(tp TopicPartition, offset int64) {
	r.parts[tp] = &readerPart{tp: tp, offset: offset, stable: -1}
}

// Position returns the offset of the next fetch of a partition, and the last stable offset as of the last answer (-1 before
// the first): where they are equal, everything that a read_committed consumer may see has been returned.
func (r *Reader) Position(tp TopicPartition) (next, stable int64) {
	p := r.parts[tp]
	if p == nil {
		return -1, -1
	}
	return p.offset, p.stable
}

// Poll asks every leader once and returns what came, in order within each partition; nothing after half a second in which
// nothing came. The caller owns the records. Errors that pass by themselves are retried inside, with a pause.
func (r *Reader) Poll(ctx context.Context) ([]Record, error) {
	for {
		recs, err := r.poll(ctx)
		if err == nil {
			r.fails = 0
			return recs, nil
		}
		if ctx.Err() != nil {
			return nil, context.Cause(ctx)
		}
		if Classify(err) != Retry {
			return nil, err
		}
		r.client.Refresh()
		r.fails++
		if cause := Pause(ctx, r.fails); cause != nil {
			return nil, fmt.Errorf("%w (last: %w)", cause, err)
		}
	}
}

func (r *Reader) poll(ctx context.Context) ([]Record, error) {
	list := make([]*readerPart, 0, len(r.parts))
	for _, p := range r.parts {
		if p.offset == Earliest || p.offset == Latest {
			var err error
			if p.offset == Latest {
				p.offset, err = r.client.StableOffset(ctx, p.tp.Topic, p.tp.Partition)
			} else {
				p.offset, err = r.client.ListOffset(ctx, p.tp.Topic, p.tp.Partition, Earliest)
			}
			if err != nil {
				return nil, err
			}
		}
		list = append(list, p)
	}
	sort.Slice(list, func(i, j int) bool {
		a, b := list[i].tp, list[j].tp
		return a.Topic < b.Topic || a.Topic == b.Topic && a.Partition < b.Partition
	})
	tps := make([]TopicPartition, len(list))
	for i, p := range list {
		tps[i] = p.tp
	}
	nodes, err := r.client.Leaders(ctx, tps)
	if err != nil {
		return nil, err
	}
	requests := map[int32]*fetchRequest{}
	for i, p := range list {
		q := requests[nodes[i]]
		if q == nil {
			q = &fetchRequest{isolation: readCommitted, maxWait: r.client.pollWait()}
			requests[nodes[i]] = q
		}
		q.parts = append(q.parts, fetchFrom{p.tp, p.offset})
	}
	// The first answer with records ends the waiting of the others.
	type answer struct {
		parts []fetched
		err   error
	}
	answers := make(chan answer, len(requests))
	var wg sync.WaitGroup
	for node, q := range requests {
		wg.Go(func() {
			parts, err := r.client.fetch(ctx, node, q)
			answers <- answer{parts, err}
		})
	}
	wg.Wait()
	close(answers)
	var recs []Record
	for a := range answers {
		if err == nil {
			err = a.err
		}
		for i := range a.parts {
			got, perr := r.take(&a.parts[i])
			recs = append(recs, got...)
			if err == nil {
				err = perr
			}
		}
	}
	if len(recs) > 0 {
		// Positions have moved past these, so they have to be returned; an error beside them comes again with the next Poll.
		return recs, nil
	}
	return nil, err
}

// take filters one partition's answer and moves its position.
func (r *Reader) take(f *fetched) ([]Record, error) {
	p := r.parts[f.TopicPartition]
	if p == nil {
		return nil, fmt.Errorf("%w: topic %s partition %d was not asked for", ErrMalformed, f.Topic, f.Partition)
	}
	if f.err != nil {
		if IsCode(f.err, kafkago.OffsetOutOfRange) {
			return nil, &OffsetError{TopicPartition: p.tp, Offset: p.offset}
		}
		return nil, fmt.Errorf("topic %s partition %d: %w", f.Topic, f.Partition, f.err)
	}
	p.stable = f.stable
	// A batch belongs to an aborted transaction from the offset that the list tells until its producer's ABORT.
	// https://cwiki.apache.org/confluence/display/KAFKA/KIP-98, "Consumer".
	aborted := f.aborted
	sort.SliceStable(aborted, func(i, j int) bool { return aborted[i].first < aborted[j].first })
	inside := map[int64]bool{}
	var out []Record
	for set := f.set; len(set) > 0; {
		b, rest, err := nextBatch(set)
		if err != nil {
			return out, fmt.Errorf("topic %s partition %d: %w", f.Topic, f.Partition, err)
		}
		if b == nil {
			break
		}
		set = rest
		for len(aborted) > 0 && aborted[0].first < b.next {
			inside[aborted[0].producerID] = true
			aborted = aborted[1:]
		}
		if b.next <= p.offset {
			continue
		}
		switch {
		case b.control:
			commit, ok, err := b.committed()
			if err != nil {
				return out, fmt.Errorf("topic %s partition %d: %w", f.Topic, f.Partition, err)
			}
			if ok && !commit {
				delete(inside, b.producerID)
			}
		case b.transactional && inside[b.producerID]:
		default:
			recs, err := b.records(f.Topic, f.Partition, p.offset)
			if err != nil {
				return out, fmt.Errorf("topic %s partition %d: %w", f.Topic, f.Partition, err)
			}
			out = append(out, recs...)
		}
		p.offset = b.next
	}
	return out, nil
}

// OffsetError says that a reader's next offset is no longer, or not yet, in the log: retention removed it, or the topic was
// made anew. Add with another offset goes on.
type OffsetError struct {
	TopicPartition
	Offset int64
}

func (e *OffsetError) Error() string {
	return fmt.Sprintf("offset %d of topic %s partition %d is out of range", e.Offset, e.Topic, e.Partition)
}

// Is makes it a Kafka error code to Classify, which then says that trying again will not help.
func (e *OffsetError) Unwrap() error { return kafkago.OffsetOutOfRange }
