package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"walferry/checkpoint"
	"walferry/internal/config"
	"walferry/internal/kafka"
	"walferry/internal/pipeline"
	"walferry/sink"
	"walferry/source"
)

func newRecoverCommand(p *program) *cobra.Command {
	var fromSlot, newSlot, yes bool
	var accept string
	cmd := &cobra.Command{
		Use:   "recover",
		Short: "Show why walferry refuses to start, what going on would cost, and do it",
		Long: `walferry refuses to start where the checkpoint and the database do not belong
together, because going on would lose or repeat changes in silence. Without flags,
compare the two and show what is wrong, what it would cost to go on, and how; that
changes nothing. The flags accept the cost. Stop walferry before using one.

  --from-slot   forget the checkpoint and believe the slot: publishing goes on where
                the slot is. Changes between the two are missed, or published again.
  --new-slot    forget checkpoint and slot, and begin anew with the changes that are
                committed after the next start. Everything in between is a gap.
  --accept-partitions TOPIC
                go on with the partition count that the topic has now. From there on
                keys are in other partitions: order a key's events by commit_lsn.`,
		Args: usage(both(noArgs, exclusive("from-slot", "new-slot", "accept-partitions"))),
		RunE: func(cmd *cobra.Command, _ []string) error {
			c, err := p.load()
			if err != nil {
				return err
			}
			r := &recovery{program: p, config: c, yes: yes}
			switch {
			case fromSlot:
				return r.change(cmd.Context(), r.fromSlot)
			case newSlot:
				return r.change(cmd.Context(), r.newSlot)
			case accept != "":
				return r.change(cmd.Context(), func(ctx context.Context) error { return r.acceptPartitions(ctx, accept) })
			}
			return r.show(cmd.Context())
		},
	}
	cmd.Flags().BoolVar(&fromSlot, "from-slot", false, "forget the checkpoint and believe the slot")
	cmd.Flags().BoolVar(&newSlot, "new-slot", false, "forget checkpoint and slot and begin anew")
	cmd.Flags().StringVar(&accept, "accept-partitions", "", "go on with the partition count that this topic has now")
	cmd.Flags().BoolVarP(&yes, "yes", "y", false, "do not ask")
	return cmd
}

// recovery is one run of the command.
type recovery struct {
	*program
	config *config.Config
	yes    bool

	cat    *source.Catalog
	client *kafka.Client
	slot   source.Slot
	state  checkpoint.State
	broken error             // why the topic's content cannot be believed, or nil
	keys   map[string][]byte // newest committed value of each key in the topic
}

// open connects to both sides. The returned func closes what was opened.
func (r *recovery) open(ctx context.Context) (func(), error) {
	kc, err := r.config.ForKafka()
	if err != nil {
		return nil, err
	}
	if r.client, err = kafka.New(kc); err != nil {
		return nil, within(exitKafka, err)
	}
	if r.cat, err = openCatalog(ctx, r.config); err != nil {
		r.client.Close()
		return nil, err
	}
	done := func() { r.cat.Close(); r.client.Close() }
	if r.slot, err = r.cat.SlotInfo(ctx); err != nil {
		done()
		return nil, within(exitSource, err)
	}
	return done, nil
}

// read folds the checkpoint topic up to an offset. A record that cannot be read is
// noted and not fatal: to recover from it is what the command is for.
func (r *recovery) read(ctx context.Context, until int64) error {
	r.state, r.broken, r.keys = checkpoint.State{}, nil, map[string][]byte{}
	if until < 0 {
		return nil
	}
	broken := map[string]error{}
	err := r.client.Replay(ctx, r.config.Checkpoint.Topic, 0, until, func(rec kafka.Record) error {
		if rec.Value == nil {
			delete(r.keys, string(rec.Key))
		} else {
			r.keys[string(rec.Key)] = bytes.Clone(rec.Value)
		}
		if err := r.state.Apply(rec.Key, rec.Value); err != nil {
			broken[string(rec.Key)] = err
		} else {
			delete(broken, string(rec.Key))
		}
		return nil
	})
	for _, err := range broken {
		// A newer version's record decides: only that version may mend the rest.
		if r.broken == nil || is[*checkpoint.FutureError](err) {
			r.broken = err
		}
	}
	return within(exitKafka, err)
}

// show compares without touching anything. What only the stream can tell (whether
// the last published transaction still stands in its place) is found by a start.
func (r *recovery) show(ctx context.Context) error {
	done, err := r.open(ctx)
	if err != nil {
		return err
	}
	defer done()
	_, exists, err := r.client.Partitions(ctx, r.config.Checkpoint.Topic)
	if err != nil {
		return within(exitKafka, err)
	}
	end := int64(0)
	if exists {
		if end, err = r.client.EndOffset(ctx, r.config.Checkpoint.Topic, 0); err != nil {
			return within(exitKafka, err)
		}
	}
	if err := r.read(ctx, end-1); err != nil {
		return err
	}
	if err := r.printf("database    system %s, timeline %d, WAL end %s\n", r.cat.System().ID, r.cat.System().Timeline, r.cat.System().WALEnd); err != nil {
		return err
	}
	text := "does not exist"
	if r.slot.Exists {
		text = fmt.Sprintf("confirmed %s, keeps %s of WAL", r.slot.Confirmed, bytesText(r.slot.RetainedBytes))
		if lost := r.slot.Lost(); lost != "" {
			text = "lost: " + lost
		}
	}
	if err := r.printf("slot        %s, %s\n", r.config.Source.Slot.Name, text); err != nil {
		return err
	}
	text = "none"
	if c := r.state.Checkpoint; c != nil {
		text = fmt.Sprintf("%s, system %s, timeline %d, slot %s, published up to %s", c.State, c.SystemID, c.Timeline, c.Slot, c.Reach())
	}
	if err := r.printf("checkpoint  %s\n\n", text); err != nil {
		return err
	}
	if r.broken != nil {
		return r.broken
	}
	if lost := r.slot.Lost(); lost != "" {
		return &source.SlotLostError{Slot: r.config.Source.Slot.Name, Reason: lost}
	}
	if err := checkpoint.Compare(r.state.Checkpoint, r.server(), checkpoint.Consent{Adopt: r.config.Source.Slot.Adopt}); err != nil {
		return err
	}
	return r.printf("They belong together as far as can be seen from here: there is nothing to recover from.\n")
}

// server is what the comparison needs. The timelines' history comes over a
// replication connection only, so it is left to a start unless the timeline is the
// checkpoint's own.
func (r *recovery) server() checkpoint.Server {
	sys := r.cat.System()
	s := checkpoint.Server{
		SystemID: sys.ID, Timeline: sys.Timeline, WALEnd: sys.WALEnd,
		Slot: checkpoint.Slot{Name: r.config.Source.Slot.Name, Exists: r.slot.Exists, Confirmed: r.slot.Confirmed},
	}
	if c := r.state.Checkpoint; c != nil && c.Timeline < s.Timeline {
		s.History = []checkpoint.Switch{{Timeline: c.Timeline, LSN: sys.WALEnd}}
	}
	return s
}

// change runs one of the flags with everything locked that a start would take: the
// slot is free and stays so, older producers are fenced, the topic is read.
func (r *recovery) change(ctx context.Context, act func(context.Context) error) error {
	done, err := r.open(ctx)
	if err != nil {
		return err
	}
	defer done()
	// A server takes a moment to see that an instance has ended.
	for deadline := time.Now().Add(inUseTimeout); ; {
		unlock, ok, err := r.cat.AdvisoryLock(ctx, r.config.Source.Slot.Name)
		if err != nil {
			return within(exitSource, err)
		}
		if ok {
			if r.slot, err = r.cat.SlotInfo(ctx); err != nil {
				unlock()
				return within(exitSource, err)
			}
			if !r.slot.Active {
				defer unlock()
				return act(ctx)
			}
			unlock()
		}
		if time.Now().After(deadline) {
			return &source.SlotInUseError{Slot: r.config.Source.Slot.Name, PID: r.slot.ActivePID}
		}
		select {
		case <-time.After(inUseTimeout / 20):
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
}

// inUseTimeout is how long recover waits for an instance to be gone.
const inUseTimeout = 5 * time.Second

// ask shows what is about to happen and wants it confirmed.
func (r *recovery) ask(ctx context.Context, format string, args ...any) error {
	if err := r.printf(format+"\n", args...); err != nil {
		return err
	}
	if r.yes {
		return nil
	}
	return r.confirm(ctx, r.config.Name, "go on")
}

func (r *recovery) fromSlot(ctx context.Context) error {
	name := r.config.Source.Slot.Name
	if !r.slot.Exists || r.slot.Lost() != "" {
		return fmt.Errorf("slot %s cannot be read, so there is nothing to go on from; the way is `%s`", name, checkpoint.RecoverNewSlot)
	}
	if err := r.ask(ctx, "Publishing will go on at %s, where slot %s is. What is published from there on may have been published before, and what was committed before and is not published never will be.", r.slot.Confirmed, name); err != nil {
		return err
	}
	sys := r.cat.System()
	next := checkpoint.Checkpoint{
		SystemID: sys.ID, Timeline: sys.Timeline, Slot: name, State: checkpoint.Live,
		Position: checkpoint.Position{Commit: r.slot.Confirmed},
		Copies:   r.state.Checkpoint != nil && r.state.Checkpoint.Copies,
	}
	if err := r.replace(ctx, &next); err != nil {
		return err
	}
	return r.printf("saved; `walferry run` goes on at %s\n", r.slot.Confirmed)
}

func (r *recovery) newSlot(ctx context.Context) error {
	name := r.config.Source.Slot.Name
	if err := r.ask(ctx, "Slot %s will be dropped and made anew at the next start. Changes committed until then that are not published never will be; rows of tables for which a copy is configured are copied again.", name); err != nil {
		return err
	}
	// {creating} first: whatever happens after it, the next start drops the slot and
	// begins anew. The slot goes right away all the same, since it keeps WAL.
	sys := r.cat.System()
	next := checkpoint.Checkpoint{SystemID: sys.ID, Timeline: sys.Timeline, Slot: name, State: checkpoint.Creating, Copies: true}
	if err := r.replace(ctx, &next); err != nil {
		return err
	}
	if r.slot.Exists {
		if err := r.cat.DropSlot(ctx); err != nil {
			return within(exitSource, err)
		}
	}
	return r.printf("saved; `walferry run` makes a new slot and begins with the changes from then on\n")
}

func (r *recovery) acceptPartitions(ctx context.Context, topic string) error {
	n, exists, err := r.client.Partitions(ctx, topic)
	if err != nil {
		return within(exitKafka, err)
	}
	if !exists {
		return within(exitKafka, fmt.Errorf("topic %s does not exist", topic))
	}
	if err := r.ask(ctx, "Keys of topic %s will be spread over the %d partitions that it has now.", topic, n); err != nil {
		return err
	}
	return r.write(ctx, func() ([]record, error) {
		var out []record
		for _, versions := range r.state.Relations {
			for _, v := range versions {
				// Package pipeline's payload, of which these two are an agreement with it.
				var payload map[string]json.RawMessage
				var of string
				if err := json.Unmarshal(v.Payload, &payload); err != nil {
					return nil, fmt.Errorf("saved relation %d: %w", v.OID, err)
				}
				if err := json.Unmarshal(payload["topic"], &of); err != nil || of != topic {
					continue
				}
				payload["partitions"] = json.RawMessage(fmt.Sprint(n))
				b, err := json.Marshal(payload)
				if err != nil {
					return nil, err
				}
				changed := checkpoint.Relation{OID: v.OID, Start: v.Start, Payload: b}
				value, err := checkpoint.AppendRelation(nil, &changed)
				if err != nil {
					return nil, err
				}
				out = append(out, record{checkpoint.AppendRelationKey(nil, &changed), value})
			}
		}
		if len(out) == 0 {
			return nil, fmt.Errorf("nothing is saved about topic %s: no event was published to it, so its partition count is free", topic)
		}
		return out, nil
	})
}

// replace writes a checkpoint in place of what is there. What was saved of tables is
// kept where it is of this database, and goes with what cannot be read.
func (r *recovery) replace(ctx context.Context, next *checkpoint.Checkpoint) error {
	end := r.cat.System().WALEnd
	return r.write(ctx, func() ([]record, error) {
		value, err := checkpoint.AppendCheckpoint(nil, next)
		if err != nil {
			return nil, err
		}
		out := []record{{[]byte(checkpoint.Key), value}}
		var future *checkpoint.FutureError
		if errors.As(r.broken, &future) {
			return nil, r.broken // a newer version knows more; it shall do this
		}
		old := r.state.Checkpoint
		if r.broken != nil || old != nil && old.SystemID != next.SystemID {
			for key := range r.keys {
				// A level is to be restored in the registry, whatever becomes of the database.
				level := r.broken == nil && strings.HasPrefix(key, checkpoint.LevelPrefix)
				if key != checkpoint.Key && key != checkpoint.SessionKey && !level {
					out = append(out, record{[]byte(key), nil})
				}
			}
			return out, nil
		}
		// What was saved of tables at places that the server's history has not reached, or not any more, is of another one.
		for _, versions := range r.state.Relations {
			for _, v := range versions {
				if v.Start.Commit >= end {
					out = append(out, record{checkpoint.AppendRelationKey(nil, v), nil})
				}
			}
		}
		// What is lost can be in any row, so what was copied is copied again, under the next generation.
		for _, c := range r.state.Copies {
			again, err := pipeline.CopyAgain(c)
			if err != nil {
				return nil, err
			}
			value, err := checkpoint.AppendCopy(nil, again)
			if err != nil {
				return nil, err
			}
			out = append(out, record{checkpoint.AppendCopyKey(nil, c.OID), value})
		}
		for topic, m := range r.state.Moved {
			kept := *m
			for n := len(kept.Moves); n > 0 && kept.Moves[n-1].Start.Commit >= end; n-- {
				kept.Moves = kept.Moves[:n-1]
			}
			if len(kept.Moves) == len(m.Moves) {
				continue
			}
			value, err := checkpoint.AppendMoved(nil, &kept)
			if err != nil {
				return nil, err
			}
			out = append(out, record{[]byte(checkpoint.MovedPrefix + topic), value})
		}
		return out, nil
	})
}

// record is one for the checkpoint topic; a nil value removes its key.
type record struct{ key, value []byte }

// write does what a start does: take the producer id, which fences and settles;
// commit a session record; read the topic up to it; then commit what records makes of it.
func (r *recovery) write(ctx context.Context, records func() ([]record, error)) error {
	producer, err := sink.New(r.client, r.config.ForSink())
	if err != nil {
		return within(exitKafka, err)
	}
	defer func() { _ = producer.Close(context.WithoutCancel(ctx)) }() // every transaction has been ended
	topic := r.config.Checkpoint.Topic
	if _, err := producer.EnsureTopic(ctx, r.config.CheckpointSpec()); err != nil {
		return within(exitKafka, fmt.Errorf("checkpoint topic: %w", err))
	}
	if err := producer.Init(ctx); err != nil {
		return within(exitKafka, fmt.Errorf("take the producer id: %w", err))
	}
	host, err := os.Hostname()
	if err != nil {
		host = "unknown"
	}
	session, err := checkpoint.AppendSession(nil, &checkpoint.Session{
		Instance: "recover", Host: host, PID: os.Getpid(), Started: time.Now(), Program: thisBuild().Version,
	})
	if err != nil {
		return err
	}
	offset, err := publish(ctx, producer, topic, []record{{[]byte(checkpoint.SessionKey), session}})
	if err != nil {
		return err
	}
	if err := r.read(ctx, offset); err != nil {
		return err
	}
	list, err := records()
	if err != nil {
		return err
	}
	if _, err = publish(ctx, producer, topic, list); err != nil {
		return err
	}
	// A commit is answered before its markers are written, and without them the next start, which looks before it fences,
	// would find what was there before. InitProducerID waits for them.
	if err := producer.Init(ctx); err != nil {
		return within(exitKafka, fmt.Errorf("wait for the commit to be visible: %w", err))
	}
	return nil
}

// publish commits records of the checkpoint topic. They may be there twice, since
// the newest one of a key counts; so an unknown outcome is settled by writing again.
func publish(ctx context.Context, producer *sink.Producer, topic string, records []record) (int64, error) {
	batch := producer.NewBatch()
	for _, x := range records {
		if err := batch.AppendLast(topic, 0, time.Now(), x.key, x.value, nil); err != nil {
			return 0, within(exitKafka, err)
		}
	}
	for {
		res, err := producer.Publish(ctx, batch)
		if err == nil {
			return res.LastOffsets[sink.TopicPartition{Topic: topic}], nil
		}
		var uncertain *sink.UncertainError
		var aborted *sink.AbortedError
		switch {
		case ctx.Err() != nil:
			return 0, context.Cause(ctx)
		case errors.As(err, &uncertain):
			if err := producer.Recover(ctx); err != nil {
				return 0, within(exitKafka, err)
			}
		case errors.As(err, &aborted) && !errors.Is(err, sink.ErrFenced) && !errors.Is(err, sink.ErrInitRequired):
		default:
			return 0, within(exitKafka, err)
		}
		if err := wait(ctx, 50*time.Millisecond); err != nil {
			return 0, err
		}
	}
}
