package sink_test

import (
	"context"
	"fmt"
	"testing"
	"time"

	kafkago "github.com/segmentio/kafka-go"
	"github.com/segmentio/kafka-go/protocol"
	"github.com/segmentio/kafka-go/protocol/addpartitionstotxn"
	"github.com/segmentio/kafka-go/protocol/endtxn"
	"github.com/segmentio/kafka-go/protocol/initproducerid"

	"walferry/internal/kafka"
	"walferry/sink"
)

// The tests named Conformance hold what brokers were seen to do, and what the rules of this package rest on. They send single
// requests, without a Producer. Where one fails on a new version of Kafka, look at the rule before the test.

// raw is a transactional id at a real broker, and one partition.
type raw struct {
	t     *testing.T
	c     *kafka.Client
	b     broker
	topic string
	txnID string
	p     *sink.Producer // makes batches only
}

func conformance(t *testing.T) *raw {
	t.Helper()
	b := apache(t)
	c := b.client(t, nil)
	r := &raw{t: t, c: c, b: b, topic: b.name, txnID: b.name, p: b.producer(t, c, sink.Config{Compression: "none"})}
	ctx := within(t, 30*time.Second)
	if _, err := r.p.EnsureTopic(ctx, sink.TopicSpec{Name: r.topic, Partitions: 1, ReplicationFactor: 1}); err != nil {
		t.Fatal(err)
	}
	return r
}

func (r *raw) call(req protocol.Message) protocol.Message {
	r.t.Helper()
	ctx := within(r.t, 20*time.Second)
	node, err := r.c.Coordinator(ctx, r.txnID)
	for err != nil && kafka.Classify(err) == kafka.Retry && kafka.Pause(ctx, 3) == nil {
		node, err = r.c.Coordinator(ctx, r.txnID) // the first transactional id of a broker makes the topic of transactions
	}
	if err != nil {
		r.t.Fatal(err)
	}
	res, err := r.c.Call(ctx, node, req)
	if err != nil {
		r.t.Fatal(err)
	}
	return res
}

// settled repeats a call while it is answered with CONCURRENT_TRANSACTIONS, and counts these, or with one of the codes of a
// broker that has just started or a topic that is new.
func (r *raw) settled(fn func() int16) (code int16, concurrent int) {
	r.t.Helper()
	ctx := within(r.t, 20*time.Second)
	for n := 0; ; n++ {
		code := fn()
		switch {
		case kafkago.Error(code) == kafkago.ConcurrentTransactions:
			concurrent++
		case code == 0 || kafka.Classify(kafkago.Error(code)) != kafka.Retry:
			return code, concurrent
		default:
			r.c.Refresh()
		}
		if err := kafka.PauseConcurrent(ctx, n); err != nil {
			r.t.Fatal(err)
		}
	}
}

func (r *raw) init(id int64, epoch int16) (newID int64, newEpoch int16, code int16) {
	r.t.Helper()
	return r.initTimeout(id, epoch, time.Minute)
}

func (r *raw) initTimeout(id int64, epoch int16, timeout time.Duration) (newID int64, newEpoch int16, code int16) {
	r.t.Helper()
	code, _ = r.settled(func() int16 {
		res := r.call(&initproducerid.Request{TransactionalID: r.txnID, TransactionTimeoutMs: int32(timeout.Milliseconds()),
			ProducerID: id, ProducerEpoch: epoch}).(*initproducerid.Response)
		newID, newEpoch = res.ProducerID, res.ProducerEpoch
		return res.ErrorCode
	})
	return newID, newEpoch, code
}

func (r *raw) add(id int64, epoch int16) (code int16, concurrent int) {
	r.t.Helper()
	return r.settled(func() int16 {
		res := r.call(&addpartitionstotxn.Request{TransactionalID: r.txnID, ProducerID: id, ProducerEpoch: epoch,
			Topics: []addpartitionstotxn.RequestTopic{{Name: r.topic, Partitions: []int32{0}}}}).(*addpartitionstotxn.Response)
		return res.Results[0].Results[0].ErrorCode
	})
}

func (r *raw) end(id int64, epoch int16, commit bool) int16 {
	r.t.Helper()
	return r.call(&endtxn.Request{TransactionalID: r.txnID, ProducerID: id, ProducerEpoch: epoch, Committed: commit}).(*endtxn.Response).ErrorCode
}

// ended is end, repeated as settled does.
func (r *raw) ended(id int64, epoch int16, commit bool) int16 {
	r.t.Helper()
	code, _ := r.settled(func() int16 { return r.end(id, epoch, commit) })
	return code
}

// produce returns the code, 0 without an error, and the base offset.
func (r *raw) produce(id int64, epoch int16, sequence int32, value string) (int16, int64) {
	r.t.Helper()
	b := r.p.NewBatch()
	fill(r.t, b, r.topic, 0, value)
	return r.produceBatch(b, id, epoch, sequence)
}

func (r *raw) produceBatch(b *sink.Batch, id int64, epoch int16, sequence int32) (int16, int64) {
	r.t.Helper()
	ctx := within(r.t, 20*time.Second)
	tp := sink.TopicPartition{Topic: r.topic}
	offset := int64(-1)
	answer, _ := r.settled(func() int16 {
		nodes, err := r.c.Leaders(ctx, []kafka.TopicPartition{tp})
		if err != nil {
			r.t.Fatal(err)
		}
		res, err := r.c.Produce(ctx, nodes[0], &kafka.ProduceRequest{TransactionalID: r.txnID, Timeout: 5 * time.Second,
			Items: []kafka.ProduceItem{{TopicPartition: tp, Batch: b.SealedFor(id, epoch, sequence)}}})
		if err != nil {
			r.t.Fatal(err)
		}
		offset = res[0].BaseOffset
		return code(res[0].Err)
	})
	return answer, offset
}

// code is the number in an error that a broker sent.
func code(err error) int16 {
	if err == nil {
		return 0
	}
	for n := int16(1); n < 200; n++ {
		if kafka.IsCode(err, kafkago.Error(n)) {
			return n
		}
	}
	return -1
}

// want fails unless what a broker answered is one of the codes.
func (r *raw) want(what string, got int16, codes ...int16) {
	r.t.Helper()
	r.t.Logf("%s: %d", what, got)
	for _, c := range codes {
		if got == c {
			return
		}
	}
	r.t.Fatalf("%s was answered with %d, want %v", what, got, codes)
}

func (r *raw) begin() (id int64, epoch int16) {
	r.t.Helper()
	id, epoch, code := r.init(-1, -1)
	r.want("InitProducerID -1/-1", code, 0)
	return id, epoch
}

func (r *raw) opened(id int64, epoch int16) {
	r.t.Helper()
	code, _ := r.add(id, epoch)
	r.want("AddPartitionsToTxn", code, 0)
}

func TestConformanceLateBatchAfterAbort(t *testing.T) {
	r := conformance(t)
	id, epoch := r.begin()
	r.opened(id, epoch)
	code, _ := r.produce(id, epoch, 0, "aborted")
	r.want("Produce", code, 0)
	r.want("EndTxn(abort)", r.ended(id, epoch, false), 0)
	// The next transaction under the same epoch takes the late batch in.
	r.opened(id, epoch)
	code, _ = r.produce(id, epoch, 1, "late")
	r.want("a late batch under the old epoch", code, 0)
	r.want("EndTxn(commit)", r.ended(id, epoch, true), 0)
	expect(t, committed(t, r.c, r.topic, 0, 1), "late")

	r.opened(id, epoch)
	code, _ = r.produce(id, epoch, 2, "aborted too")
	r.want("Produce", code, 0)
	r.want("EndTxn(abort)", r.ended(id, epoch, false), 0)
	id2, epoch2, code := r.init(id, epoch)
	r.want("InitProducerID with id and epoch", code, 0)
	if id2 != id || epoch2 <= epoch {
		t.Fatalf("id %d epoch %d became %d and %d", id, epoch, id2, epoch2)
	}
	r.opened(id2, epoch2)
	code, _ = r.produce(id, epoch, 3, "late again")
	r.want("a late batch after InitProducerID", code, 47)
	code, _ = r.produce(id2, epoch2, 0, "new")
	r.want("the first sequence of the new epoch is 0", code, 0)
	r.want("EndTxn(commit)", r.ended(id2, epoch2, true), 0)
	expect(t, committed(t, r.c, r.topic, 0, 2), "late", "new")
}

func TestConformanceLateEndTxn(t *testing.T) {
	r := conformance(t)
	id, epoch := r.begin()
	r.opened(id, epoch)
	code, _ := r.produce(id, epoch, 0, "one")
	r.want("Produce", code, 0)
	r.want("EndTxn(commit)", r.ended(id, epoch, true), 0)
	r.opened(id, epoch)
	code, _ = r.produce(id, epoch, 1, "two")
	r.want("Produce", code, 0)
	// A second copy of the first commit: nobody asked for the second transaction to end.
	r.want("a late EndTxn(commit) under the same epoch", r.ended(id, epoch, true), 0)
	expect(t, committed(t, r.c, r.topic, 0, 2), "one", "two")

	id2, epoch2, code := r.init(id, epoch)
	r.want("InitProducerID with id and epoch", code, 0)
	r.opened(id2, epoch2)
	code, _ = r.produce(id2, epoch2, 0, "three")
	r.want("Produce", code, 0)
	r.want("a late EndTxn(commit) after InitProducerID", r.end(id, epoch, true), 90, 47)
	r.want("EndTxn(abort)", r.ended(id2, epoch2, false), 0)
	expect(t, committed(t, r.c, r.topic, 0, 2), "one", "two")
}

func TestConformanceRepeatedEndTxn(t *testing.T) {
	r := conformance(t)
	id, epoch := r.begin()
	sequence, concurrent := int32(0), 0
	for range 20 {
		code, n := r.add(id, epoch)
		r.want("AddPartitionsToTxn", code, 0)
		concurrent += n
		code, _ = r.produce(id, epoch, sequence, "v")
		r.want("Produce", code, 0)
		sequence++
		r.want("EndTxn(commit)", r.ended(id, epoch, true), 0)
		code, n = r.settled(func() int16 { return r.end(id, epoch, true) })
		r.want("the same EndTxn(commit) once more", code, 0)
		concurrent += n
	}
	t.Logf("CONCURRENT_TRANSACTIONS came %d times in 20 transactions", concurrent)
	code, _ := r.settled(func() int16 { return r.end(id, epoch, false) })
	r.want("EndTxn(abort) of what was committed", code, 48)
	if got := committed(t, r.c, r.topic, 0, 20); len(got) != 20 {
		t.Fatalf("%d records are visible, want 20", len(got))
	}
}

func TestConformanceZombie(t *testing.T) {
	r := conformance(t)
	id, epoch := r.begin()
	r.opened(id, epoch)
	code, _ := r.produce(id, epoch, 0, "old")
	r.want("Produce", code, 0)
	id2, epoch2 := r.begin()
	if id2 != id || epoch2 <= epoch {
		t.Logf("id %d epoch %d became %d and %d", id, epoch, id2, epoch2)
	}
	r.want("EndTxn of the zombie", r.end(id, epoch, true), 90)
	code, _ = r.produce(id, epoch, 1, "old")
	r.want("Produce of the zombie", code, 47)
	code, _ = r.add(id, epoch)
	r.want("AddPartitionsToTxn of the zombie", code, 90)
	_, _, code = r.init(id, epoch)
	r.want("InitProducerID of the zombie with its id and epoch", code, 90)
	r.opened(id2, epoch2)
	code, _ = r.produce(id2, epoch2, 0, "new")
	r.want("Produce", code, 0)
	r.want("EndTxn(commit)", r.ended(id2, epoch2, true), 0)
	expect(t, committed(t, r.c, r.topic, 0, 1), "new")
}

func TestConformanceSequences(t *testing.T) {
	r := conformance(t)
	id, epoch := r.begin()
	code, _ := r.produce(id, epoch, 0, "unregistered")
	r.want("Produce to a partition that was not added", code, 48)
	r.opened(id, epoch)
	code, first := r.produce(id, epoch, 0, "a")
	r.want("Produce", code, 0)
	code, again := r.produce(id, epoch, 0, "a")
	r.want("the same batch once more", code, 0)
	if first != again {
		t.Errorf("the copy is at offset %d, the first at %d", again, first)
	}
	code, _ = r.produce(id, epoch, 5, "gap")
	r.want("a gap in the sequence", code, 45)
	// What is older than the last five batches is not remembered.
	for i := int32(1); i < 8; i++ {
		code, _ = r.produce(id, epoch, i, fmt.Sprint(i))
		r.want("Produce", code, 0)
	}
	code, _ = r.produce(id, epoch, 0, "a")
	r.want("a batch before the last five", code, 45)
	r.want("EndTxn(commit)", r.ended(id, epoch, true), 0)
	expect(t, committed(t, r.c, r.topic, 0, 8), "a", "1", "2", "3", "4", "5", "6", "7")
}

func TestConformanceInit(t *testing.T) {
	r := conformance(t)
	// The zero values name no producer, and a coordinator that knows none for this transactional id gives one all the same.
	_, _, code := r.init(0, 0)
	r.want("InitProducerID 0/0 of a new transactional id", code, 0)
	id, epoch := r.begin()
	_, _, code = r.init(0, 0)
	r.want("InitProducerID 0/0 of a known one", code, 90)
	// The answer to InitProducerID was lost: the same request again names an epoch that is no longer the current one.
	id2, epoch2, code := r.init(id, epoch)
	r.want("InitProducerID with id and epoch", code, 0)
	id3, epoch3, code := r.init(id, epoch)
	r.want("the same InitProducerID once more", code, 0)
	if id3 != id2 || epoch3 != epoch2 {
		t.Errorf("the copy was answered with %d/%d, the first with %d/%d", id3, epoch3, id2, epoch2)
	}
	_, _, code = r.initTimeout(-1, -1, 24*time.Hour)
	r.want("a transaction time-out of a day", code, 50)
}

// TestConformanceTimeout: the coordinator aborts what is open for too long and bumps the epoch.
func TestConformanceTimeout(t *testing.T) {
	r := conformance(t)
	id, epoch, code := r.initTimeout(-1, -1, 500*time.Millisecond)
	r.want("InitProducerID -1/-1", code, 0)
	r.opened(id, epoch)
	code, _ = r.produce(id, epoch, 0, "too late")
	r.want("Produce", code, 0)
	// The abort moves the stable offset behind its marker.
	ctx := within(t, 40*time.Second)
	for {
		stable, err := r.c.StableOffset(ctx, r.topic, 0)
		if err != nil {
			t.Fatal(err)
		}
		if stable == 2 {
			break
		}
		if err := kafka.Pause(ctx, 5); err != nil {
			t.Fatalf("not aborted: %v", err)
		}
	}
	r.want("EndTxn(commit) after the time-out", r.end(id, epoch, true), 90, 47)
	_, _, code = r.init(id, epoch)
	r.want("InitProducerID with id and epoch after the time-out", code, 0, 90)
	id, epoch = r.begin()
	r.opened(id, epoch)
	code, _ = r.produce(id, epoch, 0, "in time")
	r.want("Produce", code, 0)
	r.want("EndTxn(commit)", r.ended(id, epoch, true), 0)
	expect(t, committed(t, r.c, r.topic, 0, 1), "in time")
}

// TestConformanceInitOverOpen: InitProducerID with id and epoch, while a transaction of these is open. Brokers before 4.0 abort it
// and then take the caller for a zombie: the abort bumps the epoch and does not remember whose it was.
func TestConformanceInitOverOpen(t *testing.T) {
	r := conformance(t)
	id, epoch := r.begin()
	r.opened(id, epoch)
	code, _ := r.produce(id, epoch, 0, "open")
	r.want("Produce", code, 0)
	_, _, code = r.init(id, epoch)
	r.want("InitProducerID with id and epoch over an open transaction", code, 0, 90)
	if code == 90 {
		// So an end of our own comes first where that is allowed.
		id, epoch = r.begin()
		r.opened(id, epoch)
		code, _ = r.produce(id, epoch, 0, "open again")
		r.want("Produce", code, 0)
		r.want("EndTxn(abort)", r.ended(id, epoch, false), 0)
		_, _, code = r.init(id, epoch)
		r.want("InitProducerID with id and epoch after EndTxn(abort)", code, 0)
	}
	expect(t, committed(t, r.c, r.topic, 0, 0))
}

// TestConformanceEpochStays: EndTxn below version 5 does not bump the epoch, with transaction.version 2 as well, so a
// producer that speaks it goes on with the id and epoch that it has.
func TestConformanceEpochStays(t *testing.T) {
	r := conformance(t)
	id, epoch := r.begin()
	for i := range int32(5) {
		r.opened(id, epoch)
		code, _ := r.produce(id, epoch, i, fmt.Sprint(i))
		r.want("Produce", code, 0)
		r.want("EndTxn(commit)", r.ended(id, epoch, true), 0)
	}
	_, after, code := r.init(id, epoch)
	r.want("InitProducerID with id and epoch", code, 0)
	if after != epoch+1 {
		t.Errorf("after 5 commits the epoch went from %d to %d, want one more", epoch, after)
	}
}

// TestConformanceNullKey: one record without a key fails the whole batch of a compacted topic.
func TestConformanceNullKey(t *testing.T) {
	r := conformance(t)
	ctx := within(t, 30*time.Second)
	r.topic += "-compact"
	if _, err := r.p.EnsureTopic(ctx, sink.TopicSpec{Name: r.topic, Partitions: 1, CleanupPolicy: "compact"}); err != nil {
		t.Fatal(err)
	}
	id, epoch := r.begin()
	r.opened(id, epoch)
	b := r.p.NewBatch()
	fill(t, b, r.topic, 0, "good")
	if err := b.Append(r.topic, 0, time.Now(), nil, []byte("no key"), nil); err != nil {
		t.Fatal(err)
	}
	code, _ := r.produceBatch(b, id, epoch, 0)
	r.want("a batch with a null key for a compacted topic", code, 87)
	r.want("EndTxn(abort)", r.ended(id, epoch, false), 0)
	expect(t, committed(t, r.c, r.topic, 0, 0))
}

// TestConformanceRecompress has the broker unpack every codec of ours: it stores the topic in another one.
func TestConformanceRecompress(t *testing.T) {
	b := apache(t)
	c := b.client(t, nil)
	for _, codec := range []string{"none", "gzip", "snappy", "lz4", "zstd"} {
		stored := "gzip"
		if codec == "gzip" {
			stored = "lz4"
		}
		p := b.producer(t, c, sink.Config{Compression: codec, TransactionalID: b.name + codec})
		initialise(t, p)
		name := b.name + "-" + codec
		ctx := within(t, 30*time.Second)
		info, err := p.EnsureTopic(ctx, sink.TopicSpec{Name: name, Partitions: 1, Configs: map[string]string{"compression.type": stored}})
		if err != nil {
			t.Fatal(err)
		}
		if info.CompressionType != stored {
			t.Fatalf("compression.type is %s", info.CompressionType)
		}
		batch := p.NewBatch()
		var want []string
		for i := range 3000 {
			want = append(want, fmt.Sprintf("%d value %d", i, i*i))
		}
		fill(t, batch, name, 0, want...)
		publish(t, p, batch)
		expect(t, committed(t, c, name, 0, len(want)), want...)
	}
}

// TestConformanceTransactionTimeout is the sentence that an operator reads.
func TestConformanceTransactionTimeout(t *testing.T) {
	b := apache(t)
	p := b.producer(t, b.client(t, nil), sink.Config{TransactionTimeout: 24 * time.Hour})
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	err := p.Init(ctx)
	if kafka.Classify(err) != kafka.Fatal || !kafka.IsCode(err, kafkago.InvalidTransactionTimeout) {
		t.Fatalf("error %v", err)
	}
	t.Log(err)
}
