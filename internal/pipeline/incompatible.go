package pipeline

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"walferry/checkpoint"
	"walferry/decode"
	"walferry/schema"
	"walferry/schema/registry"
)

// What Config.OnIncompatible can answer.
const (
	incompatibleStop     = "stop"
	incompatibleForce    = "force"
	incompatibleNewTopic = "new-topic"
)

func (l *loop) policy(rel *decode.Relation) string {
	if l.cfg.OnIncompatible == nil {
		return incompatibleStop
	}
	return l.cfg.OnIncompatible(rel.Schema, rel.Name)
}

// level is what walferry gives the table's subjects when it creates them.
func (l *loop) level(rel *decode.Relation) registry.Level {
	if l.cfg.Compatibility == nil {
		return ""
	}
	return l.cfg.Compatibility(rel.Schema, rel.Name)
}

// register compiles a schema and asks for its id. A registry that does not answer is asked again for as long as the
// session lives: the stall limit ends it.
func (l *loop) register(ctx context.Context, rel *decode.Relation, subject, avro string) (int32, error) {
	if _, err := schema.Compile(avro); err != nil {
		return 0, fmt.Errorf("schema of subject %s: %w", subject, err)
	}
	var id int32
	plain := func(ctx context.Context) (err error) {
		id, err = l.registry.Register(ctx, subject, avro, string(l.level(rel)))
		return err
	}
	// What the stall asks is the same question: registering twice gives one id, and the next session finds it at hand.
	err := l.askRegistry(ctx, "register subject "+subject, plain, plain)
	if force, ok := l.registry.(forcer); ok && is[*registry.IncompatibleError](err) && l.policy(rel) == incompatibleForce {
		l.log.Warn("the registry refuses the schema as incompatible, and it is registered all the same: readers that use it on older events fail",
			"table", rel.String(), "subject", subject, "reason", &RefusedSchemaError{Table: rel.String(), Subject: subject, Err: err})
		err = l.askRegistry(ctx, "register subject "+subject, plain, func(ctx context.Context) (err error) {
			if level, ok := l.saved.Levels[subject]; ok {
				// Asked before, without an answer: what the level is now is not what it was.
				if err := force.RestoreLevel(ctx, subject, registry.Level(level)); err != nil {
					return err
				}
			}
			id, err = force.Force(ctx, subject, avro, l)
			return err
		})
		if err == nil {
			l.health.incompatible(incompatibleForce)
		}
	}
	if err != nil && refused(err) {
		return 0, &RefusedSchemaError{Table: rel.String(), Subject: subject, Err: err}
	}
	return id, err
}

// askRegistry asks the registry until it answers, for stall_limit: then the slot is given back until it answers to again. A
// refusal is an answer, and returned as it is.
func (s *session) askRegistry(ctx context.Context, what string, again, ask func(context.Context) error) error {
	ctx, done := context.WithTimeoutCause(ctx, s.cfg.StallLimit, &stallError{
		step: stepRegistry, err: errRegistryStalled,
		ask: func(ctx context.Context) error {
			if err := again(ctx); err != nil && !refused(err) {
				return err
			}
			return nil
		},
	})
	defer done()
	for attempt := 0; ; attempt++ {
		err := ask(ctx)
		switch {
		case err == nil:
			return nil
		case ctx.Err() != nil:
			return fmt.Errorf("%s: %w (%w)", what, context.Cause(ctx), err)
		case is[*registry.AuthError](err), is[*ledgerError](err), refused(err):
			return err
		}
		s.health.failed(err)
		s.log.Warn("registry", "question", what, "error", err)
		if cause := sleep(ctx, s.delay(attempt)); cause != nil {
			return fmt.Errorf("%s: %w (%w)", what, cause, err)
		}
	}
}

// refused tells that a registry has answered and does not take a schema.
func refused(err error) bool {
	var r interface{ Refused() bool }
	return errors.As(err, &r) && r.Refused()
}

// forcer is what a registrar can do beyond its interface: registry.Registrar.
type forcer interface {
	Force(ctx context.Context, subject, avro string, ledger registry.Ledger) (int32, error)
	RestoreLevel(ctx context.Context, subject string, level registry.Level) error
}

// ledgerError ends the session: it is not the registry that did not answer, and what was in flight may be what failed.
type ledgerError struct{ error }

func (e *ledgerError) Unwrap() error { return e.error }

// Lowered is registry.Ledger's: the level is in the checkpoint topic before it is touched, and the next session restores it,
// whatever becomes of this one.
func (l *loop) Lowered(ctx context.Context, subject string, level registry.Level) error {
	value, err := checkpoint.AppendLevel(nil, string(level))
	if err != nil {
		return err
	}
	if err := l.idle(ctx); err != nil { // one Kafka transaction at a time
		return &ledgerError{err}
	}
	if err := l.saveLevel(ctx, subject, value); err != nil {
		return &ledgerError{err}
	}
	if l.saved.Levels == nil {
		l.saved.Levels = map[string]string{}
	}
	l.saved.Levels[subject] = string(level)
	hit("level-saved")
	return nil
}

// Restored is registry.Ledger's.
func (l *loop) Restored(ctx context.Context, subject string) error {
	hit("level-restored")
	if err := l.saveLevel(ctx, subject, nil); err != nil {
		return &ledgerError{err}
	}
	delete(l.saved.Levels, subject)
	return nil
}

func (s *session) saveLevel(ctx context.Context, subject string, value []byte) error {
	return s.bounded(ctx, func(ctx context.Context) error {
		_, err := s.store.write(ctx, []byte(checkpoint.LevelPrefix+subject), value)
		return err
	})
}

// restoreLevels ends what a session before was ended in the middle of: subjects whose level is still NONE get it back.
func (s *session) restoreLevels(ctx context.Context) error {
	for subject, level := range s.saved.Levels {
		force, ok := s.registry.(forcer)
		if !ok {
			return fmt.Errorf("the compatibility level of subject %s cannot be set back to %q with this registry", subject, level)
		}
		s.health.step(stepRegistry)
		restore := func(ctx context.Context) error { return force.RestoreLevel(ctx, subject, registry.Level(level)) }
		if err := s.askRegistry(ctx, "restore the level of subject "+subject, restore, restore); err != nil {
			return err
		}
		if err := s.saveLevel(ctx, subject, nil); err != nil {
			return fmt.Errorf("save that subject %s has its compatibility level again: %w", subject, err)
		}
		delete(s.saved.Levels, subject)
		s.log.Warn("the compatibility level of a subject is as it was before: the last session ended while it was NONE", "subject", subject, "level", level)
	}
	return nil
}

// move takes a table to another topic, from this place on and for good: in the transaction of the first event there.
func (l *loop) move(name, to string, m checkpoint.Move) {
	l.log.Warn("the table's events go on in another topic", "topic", name, "to", to, "from", m.Start.String())
	l.building.moved = append(l.building.moved, l.saved.Move(name, m))
	l.health.incompatible(incompatibleNewTopic)
}

// unused is the next number of a topic that is not the topic of another table by its name, and shares no subject with one.
func (l *loop) unused(rel *decode.Relation, name string, number int) int {
	n := tableName{rel.Schema, rel.Name}
	for number++; ; number++ {
		if topic := checkpoint.MovedTopic(name, number); !l.topics.taken(n, topic) && !l.published.taken(n, topic) {
			return number
		}
	}
}

// RefusedSchemaError says that the registry answered, and did not take a schema.
type RefusedSchemaError struct {
	Table   string
	Subject string
	Err     error
}

// maxRules is how many broken rules one message names.
const maxRules = 8

func (e *RefusedSchemaError) Error() string {
	var incompatible *registry.IncompatibleError
	if !errors.As(e.Err, &incompatible) || len(incompatible.Rules()) == 0 {
		return fmt.Sprintf("the registry refuses the schema of subject %s: %v", e.Subject, e.Err)
	}
	rules := incompatible.Rules()
	more := ""
	if len(rules) > maxRules {
		rules, more = rules[:maxRules], fmt.Sprintf("; and %d more", len(rules)-maxRules)
	}
	return fmt.Sprintf("the new schema of subject %s may not follow the one before: %s%s", e.Subject, strings.Join(rules, "; "), more)
}
func (e *RefusedSchemaError) Unwrap() error { return e.Err }

// Hint is the way on.
func (e *RefusedSchemaError) Hint() string {
	if !is[*registry.IncompatibleError](e.Err) {
		return "nothing is lost, the slot keeps the changes: see what the registry says, and start again"
	}
	return fmt.Sprintf("nothing is lost, the slot keeps the changes. Under schema.tables, %s, on_incompatible: `new-topic` lets the table's events go on in another topic, "+
		"with subjects of its own; `force` registers the schema all the same, and readers that use it on older events fail. "+
		"Or loosen the level with PUT /config/%s. The event that waits has this schema whatever the table is altered to now", e.Table, e.Subject)
}
