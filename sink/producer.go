package sink

import (
	"context"
	"errors"
	"fmt"
	"runtime"
	"sync"
	"sync/atomic"
	"time"

	kafkago "github.com/segmentio/kafka-go"
	"github.com/segmentio/kafka-go/protocol/initproducerid"

	"walferry/internal/kafka"
)

// Producer publishes batches under one transactional id. Init, Recover, Publish and Close belong to one goroutine at a time;
// NewBatch, EnsureTopic, Topic and Stats, and the batches themselves, may be used beside them.
type Producer struct {
	client *kafka.Client
	cfg    Config
	codec  kafka.Compression
	packs  []packer // one for each goroutine of pack

	id        int64
	epoch     int16
	state     state
	sequences map[TopicPartition]int32

	// mu guards the following.
	mu     sync.Mutex
	topics map[string]TopicInfo

	stats struct {
		transactions, aborted, uncertain, inits, requests, retries, concurrent, unanswered, bytes, records atomic.Int64
	}
}

// packer is what one goroutine of pack needs.
type packer struct {
	compressor *kafka.Compressor
	scratch    []byte // a compressed chunk; the memory of a very large one is not kept
}

// state says what has to come before the next transaction.
type state int8

const (
	ready     state = iota
	dirty           // Recover: rule 1
	unsettled       // Recover or Init by the caller, who then reads
	orphaned        // Init by the caller
	fenced          // Init by the caller, who first makes sure that it may
)

// Stats are counters since New.
type Stats struct {
	Transactions int64 // committed
	Aborted      int64
	Uncertain    int64
	Inits        int64 // InitProducerID answered
	Requests     int64 // produce requests sent
	Retries      int64 // requests sent again, for whatever reason but the next
	Concurrent   int64 // answers CONCURRENT_TRANSACTIONS
	Unanswered   int64 // requests sent and not answered
	Bytes        int64 // of record batches committed, after compression
	Records      int64 // committed
}

// New makes a producer. It sends nothing: Init comes next.
func New(client *kafka.Client, cfg Config) (*Producer, error) {
	if err := cfg.validate(); err != nil {
		return nil, err
	}
	codec, err := kafka.ParseCompression(cfg.Compression)
	if err != nil {
		return nil, fmt.Errorf("sink: %w", err)
	}
	p := &Producer{
		client: client, cfg: cfg, codec: codec,
		id: -1, epoch: -1, state: orphaned,
		sequences: map[TopicPartition]int32{},
		topics:    map[string]TopicInfo{},
	}
	for range min(runtime.GOMAXPROCS(0), 4) {
		x, err := kafka.NewCompressor(codec)
		if err != nil {
			return nil, fmt.Errorf("sink: %w", err)
		}
		p.packs = append(p.packs, packer{compressor: x})
	}
	return p, nil
}

// NewBatch makes an empty batch. The limits of a topic are those of the last EnsureTopic when the batch's first record for
// one of its partitions is appended, and Kafka's defaults before any.
func (p *Producer) NewBatch() *Batch {
	shrink, err := kafka.NewCompressor(p.codec)
	if err != nil {
		panic("sink: " + err.Error()) // New has made the same
	}
	return &Batch{
		limits:   p.limit,
		maxChunk: min(p.cfg.MaxChunkBytes, p.cfg.MaxRequestBytes),
		maxBytes: p.cfg.MaxBatchBytes,
		shrink:   shrink,
		parts:    map[TopicPartition]*part{},
	}
}

// Stats returns the counters.
func (p *Producer) Stats() Stats {
	s := &p.stats
	return Stats{
		Transactions: s.transactions.Load(), Aborted: s.aborted.Load(), Uncertain: s.uncertain.Load(), Inits: s.inits.Load(),
		Requests: s.requests.Load(), Retries: s.retries.Load(), Concurrent: s.concurrent.Load(),
		Unanswered: s.unanswered.Load(), Bytes: s.bytes.Load(), Records: s.records.Load(),
	}
}

// ID returns the producer id and epoch, -1 before Init.
func (p *Producer) ID() (id int64, epoch int16) { return p.id, p.epoch }

// Init takes the transactional id: an older producer is fenced and its open transaction aborted, or, where its commit had
// begun, completed. It waits for that. Only the holder of the pipeline's slot may call it. It tries until it succeeds, ctx
// ends, or the error is one that does not pass.
func (p *Producer) Init(ctx context.Context) error {
	// -1/-1, never the zero values: 0/0 names a producer, and is refused with 90.
	return p.initProducerID(ctx, -1, -1)
}

// Recover takes id and epoch anew (KIP-360): what is open under them is aborted, and no late copy of a request can act
// any more. It fences nobody: if another producer has taken the transactional id the error is ErrFenced. Publish does it by
// itself where rule 1 wants it; after an *UncertainError it is the caller's to begin with.
func (p *Producer) Recover(ctx context.Context) error {
	switch p.state {
	case orphaned:
		return ErrInitRequired
	case fenced:
		return ErrFenced
	}
	if p.cfg.MayRecover != nil {
		if err := p.cfg.MayRecover(ctx); err != nil {
			return fmt.Errorf("take producer id for %s again: %w", p.cfg.TransactionalID, err)
		}
	}
	return p.initProducerID(ctx, p.id, p.epoch)
}

// Close aborts what is open, so that consumers do not have to wait for its time-out. The producer can be used again after
// Init. A producer that has nothing open sends nothing.
func (p *Producer) Close(ctx context.Context) error {
	var err error
	if p.state == dirty || p.state == unsettled {
		if err = p.Recover(ctx); errors.Is(err, ErrFenced) || errors.Is(err, ErrInitRequired) {
			err = nil // then nothing of ours is open
		}
	}
	p.state = orphaned
	return err
}

func (p *Producer) initProducerID(ctx context.Context, id int64, epoch int16) error {
	req := &initproducerid.Request{
		TransactionalID:      p.cfg.TransactionalID,
		TransactionTimeoutMs: int32(p.cfg.TransactionTimeout.Milliseconds()),
		ProducerID:           id,
		ProducerEpoch:        epoch,
	}
	var retry retrier
	for {
		res, err := coordinate[*initproducerid.Response](ctx, p, req)
		if err == nil {
			err = kafka.CodeError(res.ErrorCode, "")
		}
		if err == nil {
			p.id, p.epoch, p.state = res.ProducerID, res.ProducerEpoch, ready
			clear(p.sequences)
			p.stats.inits.Add(1)
			return nil
		}
		err = fmt.Errorf("take producer id for %s: %w", p.cfg.TransactionalID, err)
		switch kafka.Classify(err) {
		case kafka.Retry:
			if cause := retry.wait(ctx, p, err); cause != nil {
				return fmt.Errorf("%w (last: %w)", cause, err)
			}
		case kafka.Fenced:
			p.state = fenced
			return fmt.Errorf("%w: %w", ErrFenced, err)
		case kafka.Restart:
			if id >= 0 {
				p.state = orphaned
				return fmt.Errorf("%w: %w", ErrInitRequired, err)
			}
			return err
		case kafka.Fatal:
			return fatal(err)
		}
	}
}

// coordinate sends a request to the transaction coordinator and waits for its answer.
func coordinate[R any](ctx context.Context, p *Producer, req interface{ kafkaMessage }) (R, error) {
	var zero R
	node, err := p.client.Coordinator(ctx, p.cfg.TransactionalID)
	if err != nil {
		return zero, err
	}
	msg, err := p.client.Call(ctx, node, req)
	if err != nil {
		return zero, err
	}
	res, ok := msg.(R)
	if !ok {
		return zero, fmt.Errorf("%w: %T", kafka.ErrMalformed, msg)
	}
	return res, nil
}

// retrier waits between the attempts of one request.
type retrier struct{ broken, concurrent int }

// wait pauses as err asks for and returns the cause when ctx ends first.
func (r *retrier) wait(ctx context.Context, p *Producer, err error) error {
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	if kafka.IsCode(err, kafkago.ConcurrentTransactions) {
		p.stats.concurrent.Add(1)
		r.concurrent++
		return kafka.PauseConcurrent(ctx, r.concurrent-1)
	}
	p.stats.retries.Add(1)
	p.client.Refresh()
	r.broken++
	return kafka.Pause(ctx, r.broken-1)
}

// sent tells whether err leaves a copy of a request without an answer, and counts it.
func (p *Producer) sent(err error) bool {
	var u *kafka.UnansweredError
	if !errors.As(err, &u) {
		return false
	}
	p.stats.unanswered.Add(1)
	return true
}

// fatal adds the remedy where the code has one.
func fatal(err error) error {
	var code kafkago.Error
	hint := ""
	if errors.As(err, &code) {
		switch code {
		case kafkago.TopicAuthorizationFailed:
			hint = "grant Describe and Write on the topic to this user (kafka-acls.sh --add --producer)"
		case kafkago.TransactionalIDAuthorizationFailed:
			hint = "grant Describe and Write on the transactional id to this user (kafka-acls.sh --add --producer --transactional-id)"
		case kafkago.ClusterAuthorizationFailed:
			hint = "grant Create on the cluster or on the topic to this user, or create the topic beforehand"
		case kafkago.SASLAuthenticationFailed:
			hint = "check user, password and mechanism"
		case kafkago.InvalidTransactionTimeout:
			hint = "lower the transaction time-out or raise transaction.max.timeout.ms at the broker"
		case kafkago.MessageSizeTooLarge, kafkago.RecordListTooLarge:
			hint = "raise max.message.bytes of the topic; it was lowered after it was read"
		case kafkago.InvalidRecord:
			hint = "a record with a null key went to a compacted topic"
		case kafkago.InvalidTimestamp:
			hint = "raise message.timestamp.before.max.ms of the topic: the records' time is that of the commit in Postgres"
		case kafkago.InvalidTopic:
			hint = "a topic's name has letters, digits, '.', '_' and '-' only, 249 at most"
		case kafkago.UnsupportedVersion:
			hint = "brokers from 3.9 on are supported"
		}
	}
	return &FatalError{Err: err, Hint: hint}
}

// recoverTimeout bounds the Recover that ends a failed Publish. When it does not succeed the next Publish goes on with it.
const recoverTimeout = 5 * time.Second
