package registry

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"walferry/schema"
)

// API is what a pipeline needs of a registry. [Client] has it, and [Store.API] for a store in the same process.
type API interface {
	HasSubject(ctx context.Context, subject string) (bool, error)
	Level(ctx context.Context, subject string) (level Level, own bool, err error)
	SetLevel(ctx context.Context, subject string, level Level) error
	DeleteLevel(ctx context.Context, subject string) error
	RegisterSchema(ctx context.Context, subject, avro string, force bool) (int32, error)
	Schema(ctx context.Context, id int32) (string, error)
}

// Registrar registers a pipeline's schemas: it sets a subject's compatibility level when it creates the subject, and
// never again, and it remembers ids. It is safe for concurrent use.
type Registrar struct {
	api API

	mu  sync.Mutex
	ids map[[2]string]int32 // guarded by mu
}

var _ schema.Registrar = (*Registrar)(nil)

// NewRegistrar makes a registrar.
func NewRegistrar(api API) *Registrar {
	return &Registrar{api: api, ids: map[[2]string]int32{}}
}

// Register returns the id of a schema under a subject. level, a [Level], is what the subject gets where it is not there yet; ""
// leaves it to the level of all. Errors are the API's: *IncompatibleError, *UnavailableError, *AuthError, *Error.
func (r *Registrar) Register(ctx context.Context, subject, avro, level string) (int32, error) {
	key := [2]string{subject, avro}
	r.mu.Lock()
	id, ok := r.ids[key]
	r.mu.Unlock()
	if ok {
		return id, nil
	}
	if level != "" {
		if err := r.create(ctx, subject, Level(level)); err != nil {
			return 0, fmt.Errorf("set the compatibility level of subject %s: %w", subject, err)
		}
	}
	id, err := r.api.RegisterSchema(ctx, subject, avro, false)
	if err != nil {
		return 0, err
	}
	r.remember(key, id)
	return id, nil
}

func (r *Registrar) remember(key [2]string, id int32) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if len(r.ids) >= maxCached {
		clear(r.ids)
	}
	r.ids[key] = id
}

// Ledger remembers durably which level a subject had before [Registrar.Force] set it to NONE. level "" is none of its own.
type Ledger interface {
	// Lowered is called before the level is set to NONE, Restored after it has been set back.
	Lowered(ctx context.Context, subject string, level Level) error
	Restored(ctx context.Context, subject string) error
}

// Force registers a schema that Register was refused as incompatible. Ours and Confluent's from 8 on take it by a parameter,
// and the subject's level stays as it is. Others check by the level alone: it is NONE for this one registration, in
// the order
//
//	Lowered → NONE → register → the level before → Restored
//
// Whoever dies in between has the level in its ledger: it calls RestoreLevel when it is back.
func (r *Registrar) Force(ctx context.Context, subject, avro string, ledger Ledger) (int32, error) {
	id, err := r.api.RegisterSchema(ctx, subject, avro, true)
	var incompatible *IncompatibleError
	if errors.As(err, &incompatible) {
		id, err = r.unchecked(ctx, subject, avro, ledger)
	}
	if err != nil {
		return 0, err
	}
	r.remember([2]string{subject, avro}, id)
	return id, nil
}

func (r *Registrar) unchecked(ctx context.Context, subject, avro string, ledger Ledger) (int32, error) {
	level, own, err := r.api.Level(ctx, subject)
	if err != nil {
		return 0, err
	}
	if !own {
		level = ""
	}
	if err := ledger.Lowered(ctx, subject, level); err != nil {
		return 0, fmt.Errorf("save the compatibility level of subject %s: %w", subject, err)
	}
	if err := r.api.SetLevel(ctx, subject, None); err != nil {
		return 0, fmt.Errorf("set the compatibility level of subject %s to NONE: %w", subject, err)
	}
	id, err := r.api.RegisterSchema(ctx, subject, avro, false)
	if e := r.RestoreLevel(ctx, subject, level); e != nil {
		return 0, errors.Join(err, e)
	}
	if e := ledger.Restored(ctx, subject); e != nil {
		return 0, errors.Join(err, fmt.Errorf("save that subject %s has its compatibility level again: %w", subject, e))
	}
	return id, err
}

// RestoreLevel gives a subject the level back that it had before Force. Where it is not NONE, somebody has set another one
// since, and that counts. Doing it again does no harm.
func (r *Registrar) RestoreLevel(ctx context.Context, subject string, level Level) error {
	now, own, err := r.api.Level(ctx, subject)
	switch {
	case err != nil, !own, now != None:
	case level == "":
		err = r.api.DeleteLevel(ctx, subject)
	default:
		err = r.api.SetLevel(ctx, subject, level)
	}
	if err != nil {
		return fmt.Errorf("give subject %s its compatibility level back: %w", subject, err)
	}
	return nil
}

// create sets the level of a subject that is not there yet. Before the first version, not after it: dying in between
// then leaves a level without a subject, and the next start finds no subject and comes this way again.
func (r *Registrar) create(ctx context.Context, subject string, level Level) error {
	exists, err := r.api.HasSubject(ctx, subject)
	if err != nil || exists {
		return err
	}
	if _, own, err := r.api.Level(ctx, subject); err != nil || own {
		return err // somebody has decided about it beforehand
	}
	return r.api.SetLevel(ctx, subject, level)
}

// API returns the store as a client would show it, without HTTP.
func (s *Store) API() API { return embedded{s} }

type embedded struct{ *Store }

// read makes sure that the log has been read.
func (e embedded) read(ctx context.Context) error {
	switch {
	case e.Ready():
		return nil
	case e.member == nil:
		return e.Open(ctx)
	case !e.await(ctx, 30*time.Second, func() bool { return e.ready }):
		return errorf(CodeTimeout, "Timed out: the registry is still reading its topic")
	}
	return nil
}

func (e embedded) HasSubject(ctx context.Context, subject string) (bool, error) {
	if err := e.read(ctx); err != nil {
		return false, err
	}
	return len(e.Versions(subject)) > 0, nil
}

func (e embedded) Level(_ context.Context, subject string) (Level, bool, error) {
	level, own := e.Store.Level(subject)
	return level, own, nil
}

func (e embedded) SetLevel(ctx context.Context, subject string, level Level) error {
	return e.through(ctx, func(ctx context.Context) error { return e.Store.SetLevel(ctx, subject, level) },
		func(ctx context.Context, c *Client) error {
			err := c.SetLevel(ctx, subject, level)
			e.catchUp(ctx, c)
			return err
		})
}

func (e embedded) DeleteLevel(ctx context.Context, subject string) error {
	return e.through(ctx, func(ctx context.Context) error { return e.Store.DeleteLevel(ctx, subject) },
		func(ctx context.Context, c *Client) error {
			err := c.DeleteLevel(ctx, subject)
			e.catchUp(ctx, c)
			return err
		})
}

func (e embedded) RegisterSchema(ctx context.Context, subject, avro string, force bool) (id int32, err error) {
	err = e.through(ctx, func(ctx context.Context) error {
		r, err := e.Register(ctx, subject, Request{Schema: avro, Force: force})
		id = r.ID
		return err
	}, func(ctx context.Context, c *Client) (err error) {
		id, err = c.RegisterSchema(ctx, subject, avro, force)
		e.catchUp(ctx, c)
		return err
	})
	return id, err
}

func (e embedded) Schema(ctx context.Context, id int32) (string, error) {
	if err := e.read(ctx); err != nil {
		return "", err
	}
	r, err := e.ByID(id, "")
	if err != nil {
		return "", err
	}
	if r.Type != TypeAvro {
		return "", errors.New("the schema is of type " + r.Type + ", not AVRO")
	}
	if len(r.References) == 0 {
		return r.Schema, nil
	}
	return e.resolved(r)
}
