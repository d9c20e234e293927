package demo

import (
	"context"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"sync/atomic"
	"time"

	"github.com/linkedin/goavro/v2"

	"walferry/internal/kafka"
)

// Faults that can be planted in what the consumer saw.
const (
	BreakDrop   = "drop"
	BreakRepeat = "repeat"
	BreakSwap   = "swap"
)

// event is one change as the consumer saw it.
type event struct {
	table, key string
	op         string
	change     int64 // number of the change that made the row; 0 where there is no row
	xid        int64
}

// id names the change that the event tells of: by its number, or where no row is left by table, key and transaction.
func (e event) id() string {
	if e.change != 0 {
		return strconv.FormatInt(e.change, 10)
	}
	return e.table + "/" + e.key + " " + strconv.FormatInt(e.xid, 10)
}

// consumer reads the topics as a stranger does: read_committed, Avro, schemas by id from the registry. It belongs to one
// goroutine but for its counters.
type consumer struct {
	client   *kafka.Client
	registry string
	screen   *screen
	codecs   map[uint32]*goavro.Codec
	followed map[kafka.TopicPartition]bool
	seen     []event
	received atomic.Int64 // events as they are accounted for
	read     atomic.Int64 // events as they came

	fault   string
	faultAt int64
	held    *event // by swap
}

func newConsumer(client *kafka.Client, registry, fault string, faultAt int64, s *screen) *consumer {
	return &consumer{client: client, registry: registry, screen: s, codecs: map[uint32]*goavro.Codec{},
		followed: map[kafka.TopicPartition]bool{}, fault: fault, faultAt: faultAt}
}

const prefix = "shop.shop."

// run reads until the context ends, whose cause it returns.
func (c *consumer) run(ctx context.Context) error {
	reader := c.client.NewReader(nil)
	var looked time.Time
	for ctx.Err() == nil {
		if time.Since(looked) > time.Second {
			looked = time.Now()
			found, err := c.client.Metadata(ctx)
			if err != nil {
				return err
			}
			for _, t := range found {
				if !strings.HasPrefix(t.Name, prefix) {
					continue
				}
				for p := range t.Partitions {
					tp := kafka.TopicPartition{Topic: t.Name, Partition: int32(p)}
					if !c.followed[tp] {
						c.followed[tp] = true
						reader.Add(tp, kafka.Earliest)
					}
				}
			}
		}
		if len(c.followed) == 0 {
			select {
			case <-ctx.Done():
			case <-time.After(100 * time.Millisecond):
			}
			continue
		}
		records, err := reader.Poll(ctx)
		if err != nil {
			return err
		}
		for i := range records {
			if records[i].Value == nil {
				continue // a tombstone, for compaction; its delete came before it
			}
			e, err := c.event(ctx, &records[i])
			if err != nil {
				return fmt.Errorf("topic %s partition %d offset %d: %w", records[i].Topic, records[i].Partition, records[i].Offset, err)
			}
			c.read.Add(1)
			c.see(e)
		}
	}
	return context.Cause(ctx)
}

// see takes an event into account, with the planted fault.
func (c *consumer) see(e event) {
	if c.held != nil && c.held.table == e.table && c.held.key == e.key {
		c.take(e)
		c.release()
		return
	}
	if c.fault != "" && c.read.Load() > c.faultAt {
		switch c.fault {
		case BreakDrop:
			c.screen.note("planted: an event of %s is dropped", e.table)
			c.fault = ""
			return
		case BreakRepeat:
			c.screen.note("planted: an event of %s is repeated", e.table)
			c.fault = ""
			c.take(e)
		case BreakSwap:
			if e.table == "products" { // whose rows change all the time: the next one comes
				c.screen.note("planted: an event of %s is swapped with the next one of its key", e.table)
				c.fault = ""
				c.held = &e
				return
			}
		}
	}
	c.take(e)
}

// release gives back what swap holds.
func (c *consumer) release() {
	if c.held != nil {
		e := *c.held
		c.held = nil
		c.take(e)
	}
}

func (c *consumer) take(e event) {
	c.seen = append(c.seen, e)
	c.received.Add(1)
}

// event decodes a record in the envelope debezium.
func (c *consumer) event(ctx context.Context, r *kafka.Record) (event, error) {
	e := event{table: strings.TrimPrefix(r.Topic, prefix)}
	key, err := c.decode(ctx, r.Key)
	if err != nil {
		return e, fmt.Errorf("key: %w", err)
	}
	value, err := c.decode(ctx, r.Value)
	if err != nil {
		return e, fmt.Errorf("value: %w", err)
	}
	var parts []string
	for _, column := range tables[e.table] {
		parts = append(parts, fmt.Sprint(plain(key[column])))
	}
	e.key = strings.Join(parts, "/")
	e.op, _ = value["op"].(string)
	from, _ := value["source"].(map[string]any)
	e.xid, _ = plain(from["txId"]).(int64)
	row, _ := plain(value["after"]).(map[string]any)
	if row != nil {
		if e.change, _ = plain(row["change"]).(int64); e.change == 0 {
			return e, errors.New("the row has no number")
		}
	}
	c.screen.event(e, row)
	return e, nil
}

// plain takes a value out of its union: goavro wraps all but null in a map with the branch's name.
func plain(v any) any {
	if m, ok := v.(map[string]any); ok && len(m) == 1 {
		for _, inner := range m {
			return inner
		}
	}
	if n, ok := v.(int32); ok {
		return int64(n)
	}
	return v
}

func (c *consumer) decode(ctx context.Context, b []byte) (map[string]any, error) {
	if len(b) < 5 || b[0] != 0 {
		return nil, errors.New("not in the registry's wire format")
	}
	id := binary.BigEndian.Uint32(b[1:])
	codec := c.codecs[id]
	if codec == nil {
		text, err := c.schema(ctx, id)
		if err != nil {
			return nil, fmt.Errorf("schema %d: %w", id, err)
		}
		if codec, err = goavro.NewCodec(text); err != nil {
			return nil, fmt.Errorf("schema %d: %w", id, err)
		}
		c.codecs[id] = codec
	}
	v, rest, err := codec.NativeFromBinary(b[5:])
	if err != nil {
		return nil, err
	}
	m, ok := v.(map[string]any)
	if !ok || len(rest) > 0 {
		return nil, errors.New("not what its schema says")
	}
	return m, nil
}

// schema asks the registry, https://docs.confluent.io/platform/current/schema-registry/develop/api.html#schemas.
func (c *consumer) schema(ctx context.Context, id uint32) (string, error) {
	body, err := get(ctx, fmt.Sprintf("%s/schemas/ids/%d", c.registry, id))
	if err != nil {
		return "", fmt.Errorf("the registry: %w", err)
	}
	var answer struct {
		Schema string `json:"schema"`
	}
	err = json.Unmarshal(body, &answer)
	return answer.Schema, err
}
