package sink

import (
	"context"
	"errors"
	"fmt"
	"math"
	"sync"

	kafkago "github.com/segmentio/kafka-go"
	"github.com/segmentio/kafka-go/protocol"
	"github.com/segmentio/kafka-go/protocol/addpartitionstotxn"
	"github.com/segmentio/kafka-go/protocol/endtxn"

	"walferry/internal/failpoint"
	"walferry/internal/kafka"
)

// kafkaMessage is any request.
type kafkaMessage = protocol.Message

// Publish makes the records of b visible, all or none: AddPartitionsToTxn with every partition, Produce with acks=all until
// each record batch is acknowledged, EndTxn(commit). The package comment says what its errors promise; look for ErrFenced
// and ErrInitRequired first, which may stand inside of the others. When ctx ends Publish returns soon, as *AbortedError if
// the commit had not been sent, and *UncertainError if it had. b is the caller's again when Publish returns.
func (p *Producer) Publish(ctx context.Context, b *Batch) (Result, error) {
	switch p.state {
	case unsettled:
		return Result{}, ErrUnsettled
	case orphaned:
		return Result{}, &AbortedError{Err: ErrInitRequired}
	case fenced:
		return Result{}, &AbortedError{Err: ErrFenced}
	}
	if b.records == 0 {
		return Result{}, nil
	}
	caller := ctx
	ctx, cancel := context.WithTimeoutCause(ctx, p.cfg.PublishTimeout,
		fmt.Errorf("not published within %v: %w", p.cfg.PublishTimeout, context.DeadlineExceeded))
	defer cancel()
	if p.state == dirty {
		if err := p.Recover(ctx); err != nil {
			return Result{}, p.refused(err)
		}
	}

	// Compressing needs nothing from the broker, so it runs beside the first round trip.
	packed := make(chan error, 1)
	go func() { packed <- p.pack(b) }()
	failpoint.Hit("publish-begun")
	err := p.addPartitions(ctx, b)
	if perr := <-packed; err == nil {
		err = perr
	}
	if err != nil {
		return Result{}, p.abort(caller, err)
	}
	failpoint.Hit("publish-added")
	res := Result{Offsets: make(map[TopicPartition]int64, len(b.order)), LastOffsets: make(map[TopicPartition]int64, len(b.order))}
	if err := p.produce(ctx, b, &res); err != nil {
		return Result{}, p.abort(caller, err)
	}
	failpoint.Hit("publish-produced")
	maybe, err := p.commit(ctx)
	switch {
	case err == nil:
	case maybe:
		// Whether it took effect is in the log only. Until the caller has read it, nothing may follow.
		p.stats.uncertain.Add(1)
		p.settleBy(err)
		if p.state != fenced && p.state != orphaned {
			p.state = unsettled
		}
		return Result{}, &UncertainError{Err: err}
	default:
		return Result{}, p.abort(caller, err)
	}
	failpoint.Hit("publish-committed")
	p.stats.transactions.Add(1)
	p.stats.records.Add(int64(b.records))
	p.stats.bytes.Add(int64(res.Bytes))
	return res, nil
}

// settleBy moves the state as err wants it.
func (p *Producer) settleBy(err error) {
	switch {
	case errors.Is(err, ErrFenced):
		p.state = fenced
	case errors.Is(err, ErrInitRequired):
		p.state = orphaned
	}
}

// refused is for a Publish that ended before it sent anything of its batch.
func (p *Producer) refused(err error) error {
	var f *FatalError
	if errors.As(err, &f) {
		return err
	}
	return &AbortedError{Err: err}
}

// abort ends a transaction whose commit was not sent, or was refused: InitProducerID aborts it, waits for that, and bumps the
// epoch, which shuts out whatever is still on its way (rule 1).
func (p *Producer) abort(caller context.Context, err error) error {
	p.stats.aborted.Add(1)
	p.state = dirty
	p.settleBy(err)
	if p.state == dirty && caller.Err() == nil {
		ctx, cancel := context.WithTimeout(caller, min(recoverTimeout, p.cfg.PublishTimeout))
		defer cancel()
		if rerr := p.Recover(ctx); rerr != nil {
			err = fmt.Errorf("%w; then %w", err, rerr)
		} else {
			failpoint.Hit("publish-aborted")
		}
	}
	return p.refused(err)
}

// pack compresses the chunks that are not yet, in parallel.
func (p *Producer) pack(b *Batch) error {
	var todo []*chunk
	for _, q := range b.order {
		for _, c := range q.chunks {
			if c.wire == nil {
				todo = append(todo, c)
			}
		}
	}
	// A handful of small chunks is not worth a second goroutine.
	workers := min(len(p.packs), len(todo), 1+b.bytes/(128<<10))
	errs := make([]error, workers)
	var wg sync.WaitGroup
	for w := range workers {
		q := &p.packs[w]
		work := func() {
			for i := w; i < len(todo) && errs[w] == nil; i += workers {
				q.scratch, errs[w] = todo[i].pack(q.compressor, q.scratch)
			}
			if cap(q.scratch) > 4*p.cfg.MaxChunkBytes {
				q.scratch = nil
			}
		}
		if w == workers-1 {
			work()
		} else {
			wg.Go(work)
		}
	}
	wg.Wait()
	return errors.Join(errs...)
}

// addPartitions adds every partition of the batch in one request, before anything is produced: a Produce to a partition that
// was not added is refused with 48, with transaction.version 2 as well, for the versions that kafka-go speaks.
func (p *Producer) addPartitions(ctx context.Context, b *Batch) error {
	req := &addpartitionstotxn.Request{TransactionalID: p.cfg.TransactionalID, ProducerID: p.id, ProducerEpoch: p.epoch}
	index := map[string]int{}
	for _, q := range b.order {
		i, ok := index[q.tp.Topic]
		if !ok {
			i = len(req.Topics)
			index[q.tp.Topic] = i
			req.Topics = append(req.Topics, addpartitionstotxn.RequestTopic{Name: q.tp.Topic})
		}
		req.Topics[i].Partitions = append(req.Topics[i].Partitions, q.tp.Partition)
	}
	var retry retrier
	for {
		res, err := coordinate[*addpartitionstotxn.Response](ctx, p, req)
		if err == nil {
			err = addPartitionsError(res, len(b.order))
		}
		if err == nil {
			return nil
		}
		if p.sent(err) {
			p.state = dirty
		}
		if err = p.judge(fmt.Errorf("add partitions: %w", err)); kafka.Classify(err) != kafka.Retry {
			return err
		}
		if cause := retry.wait(ctx, p, err); cause != nil {
			return fmt.Errorf("%w (last: %w)", cause, err)
		}
	}
}

// addPartitionsError picks the error that says most: OPERATION_NOT_ATTEMPTED only goes with another one.
func addPartitionsError(res *addpartitionstotxn.Response, want int) error {
	var first error
	n := 0
	for _, t := range res.Results {
		for _, r := range t.Results {
			n++
			if err := kafka.CodeError(r.ErrorCode, ""); err != nil && (first == nil || kafka.IsCode(first, kafkago.BrokerAuthorizationFailed)) {
				first = fmt.Errorf("topic %s partition %d: %w", t.Name, r.PartitionIndex, err)
			}
		}
	}
	if first == nil && n != want {
		first = fmt.Errorf("%w: %d partitions were asked for, %d answered", kafka.ErrMalformed, want, n)
	}
	return first
}

// judge turns what ends a transaction into the errors that the caller knows.
func (p *Producer) judge(err error) error {
	switch {
	case kafka.Classify(err) == kafka.Fenced:
		return fmt.Errorf("%w: %w", ErrFenced, err)
	case kafka.IsCode(err, kafkago.InvalidProducerIDMapping), kafka.IsCode(err, kafkago.UnknownProducerId):
		return fmt.Errorf("%w: %w", ErrInitRequired, err)
	case kafka.Classify(err) == kafka.Fatal:
		return fatal(err)
	}
	return err
}

// item is one chunk on its way.
type item struct {
	part  *part
	chunk *chunk
	first bool // the partition's first
	node  int32
}

// produce sends the chunks in rounds, the next chunk of each partition in each: a request has at most one record batch per
// partition, and a partition's next batch leaves when the one before has been acknowledged, so order needs no more. The
// partitions of AppendLast are held back to the last rounds and stand last there.
func (p *Producer) produce(ctx context.Context, b *Batch, res *Result) error {
	rounds := 0
	for _, q := range b.order {
		rounds = max(rounds, len(q.chunks))
	}
	items := make([]item, 0, len(b.order))
	for round := range rounds {
		items = items[:0]
		for _, last := range [...]bool{false, true} {
			for _, q := range b.order {
				i := round
				if q.last {
					i = round - (rounds - len(q.chunks))
				}
				if q.last == last && i >= 0 && i < len(q.chunks) {
					items = append(items, item{part: q, chunk: q.chunks[i], first: i == 0})
				}
			}
		}
		for _, it := range items {
			sequence := p.sequences[it.part.tp]
			it.chunk.seal(p.id, p.epoch, sequence)
			p.sequences[it.part.tp] = nextSequence(sequence, it.chunk.count)
		}
		if err := p.round(ctx, items, res); err != nil {
			return err
		}
	}
	return nil
}

// nextSequence adds in the ring of 31 bits that sequences live in.
func nextSequence(sequence, count int32) int32 {
	return int32((int64(sequence) + int64(count)) & math.MaxInt32)
}

// round sends one chunk of each of several partitions until all are acknowledged.
func (p *Producer) round(ctx context.Context, items []item, res *Result) error {
	var retry retrier
	for len(items) > 0 {
		err := p.lead(ctx, items)
		if err == nil {
			items, err = p.send(ctx, items, res)
			if len(items) == 0 {
				return err
			}
		}
		if err = p.judge(err); kafka.Classify(err) != kafka.Retry {
			return err
		}
		if cause := retry.wait(ctx, p, err); cause != nil {
			return fmt.Errorf("%w (last: %w)", cause, err)
		}
	}
	return nil
}

// lead finds the leaders.
func (p *Producer) lead(ctx context.Context, items []item) error {
	tps := make([]TopicPartition, len(items))
	for i := range items {
		tps[i] = items[i].part.tp
	}
	nodes, err := p.client.Leaders(ctx, tps)
	if err != nil {
		return fmt.Errorf("find leaders: %w", err)
	}
	for i := range items {
		items[i].node = nodes[i]
	}
	return nil
}

// send makes one request for each leader (more, one after the other, where it would be too large) and returns the items that
// have to go again, with the error that says most about why, or the error that ends the transaction.
func (p *Producer) send(ctx context.Context, items []item, res *Result) ([]item, error) {
	byNode := map[int32][]item{}
	for _, it := range items {
		byNode[it.node] = append(byNode[it.node], it)
	}
	type outcome struct {
		items   []item
		results []kafka.ProduceResult
		err     error
	}
	var (
		mu       sync.Mutex
		outcomes []outcome
		wg       sync.WaitGroup
	)
	for node, list := range byNode {
		work := func() {
			for len(list) > 0 {
				n, size := 0, 0
				for n < len(list) && (n == 0 || size+len(list[n].chunk.wire) <= p.cfg.MaxRequestBytes) {
					size += len(list[n].chunk.wire)
					n++
				}
				results, err := p.request(ctx, node, list[:n])
				mu.Lock()
				outcomes = append(outcomes, outcome{list[:n], results, err})
				mu.Unlock()
				list = list[n:]
			}
		}
		if len(byNode) == 1 {
			work()
		} else {
			wg.Go(work)
		}
	}
	wg.Wait()

	var again []item
	var worst error
	note := func(err error) {
		if worst == nil || kafka.Classify(worst) == kafka.Retry && kafka.Classify(err) != kafka.Retry {
			worst = err
		}
	}
	for _, o := range outcomes {
		res.Requests++
		if o.err != nil {
			if p.sent(o.err) {
				p.state = dirty
			}
			note(fmt.Errorf("produce: %w", o.err))
			again = append(again, o.items...)
			continue
		}
		for i, it := range o.items {
			r := o.results[i]
			switch {
			case r.Err == nil, kafka.IsCode(r.Err, kafkago.DuplicateSequenceNumber):
				// A duplicate of one of its last five batches is answered like the first copy, with its offset. 46, without
				// one, is what the protocol has for older ones; brokers from 3.9 on were seen to answer these with 45.
				res.Bytes += len(it.chunk.wire)
				if it.first {
					res.Offsets[it.part.tp] = r.BaseOffset
				}
				res.LastOffsets[it.part.tp] = -1
				if r.BaseOffset >= 0 {
					res.LastOffsets[it.part.tp] = r.BaseOffset + int64(it.chunk.count) - 1
				}
			default:
				note(fmt.Errorf("produce to topic %s partition %d: %w", it.part.tp.Topic, it.part.tp.Partition, r.Err))
				again = append(again, it)
			}
		}
	}
	return again, worst
}

func (p *Producer) request(ctx context.Context, node int32, items []item) ([]kafka.ProduceResult, error) {
	req := &kafka.ProduceRequest{
		TransactionalID: p.cfg.TransactionalID,
		Timeout:         p.client.RequestTimeout() / 2,
		Items:           make([]kafka.ProduceItem, len(items)),
	}
	for i, it := range items {
		req.Items[i] = kafka.ProduceItem{TopicPartition: it.part.tp, Batch: it.chunk.wire}
	}
	p.stats.requests.Add(1)
	return p.client.Produce(ctx, node, req)
}

// commit sends EndTxn(commit) until it is answered. maybe tells, beside an error, that a copy may have taken effect: one
// without an answer, or with an answer that the coordinator also gives when its own log did not answer in time. A refusal
// of the only copy is certain.
func (p *Producer) commit(ctx context.Context) (maybe bool, err error) {
	req := &endtxn.Request{TransactionalID: p.cfg.TransactionalID, ProducerID: p.id, ProducerEpoch: p.epoch, Committed: true}
	var retry retrier
	for {
		res, err := coordinate[*endtxn.Response](ctx, p, req)
		answered := err == nil
		if answered {
			err = kafka.CodeError(res.ErrorCode, "")
		}
		if err == nil {
			return false, nil
		}
		if p.sent(err) {
			p.state, maybe = dirty, true
		}
		if answered && unclear(err) {
			maybe = true
		}
		if err = p.judge(fmt.Errorf("commit: %w", err)); kafka.Classify(err) != kafka.Retry {
			return maybe, err
		}
		if cause := retry.wait(ctx, p, err); cause != nil {
			return maybe, fmt.Errorf("%w (last: %w)", cause, err)
		}
	}
}

// unclear tells whether an error in the answer to EndTxn leaves open what became of it.
func unclear(err error) bool {
	for _, code := range [...]kafkago.Error{
		// Not done, or refused by a state that no copy of ours made.
		kafkago.ConcurrentTransactions, kafkago.GroupLoadInProgress, kafkago.InvalidTransactionState,
		kafkago.ProducerFenced, kafkago.InvalidProducerEpoch, kafkago.InvalidProducerIDMapping, kafkago.UnknownProducerId,
		kafkago.TransactionalIDAuthorizationFailed, kafkago.InvalidRequest, kafkago.UnsupportedVersion, transactionAbortable,
	} {
		if kafka.IsCode(err, code) {
			return false
		}
	}
	// COORDINATOR_NOT_AVAILABLE and NOT_COORDINATOR are also what a failed append to the coordinator's log becomes
	// (TransactionStateManager.appendTransactionToLog), and a record that was appended too late for its answer may stay.
	return true
}

// transactionAbortable is a code that kafka-go has no name for.
const transactionAbortable kafkago.Error = 120
