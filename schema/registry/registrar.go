package registry

import (
	"context"
	"errors"
	"fmt"
	"sync"

	"walferry/schema"
)

// API is what a pipeline needs of a registry. [Client] has it, and [Store.API] for a store in the same process.
type API interface {
	HasSubject(ctx context.Context, subject string) (bool, error)
	Level(ctx context.Context, subject string) (level Level, own bool, err error)
	SetLevel(ctx context.Context, subject string, level Level) error
	RegisterSchema(ctx context.Context, subject, avro string, force bool) (int32, error)
	Schema(ctx context.Context, id int32) (string, error)
}

// Registrar registers a pipeline's schemas: it sets a subject's compatibility level when it creates the subject, and
// never again, and it remembers ids. It is safe for concurrent use.
type Registrar struct {
	api   API
	level Level
	force bool

	mu  sync.Mutex
	ids map[[2]string]int32 // guarded by mu
}

var _ schema.Registrar = (*Registrar)(nil)

// NewRegistrar makes a registrar. level is for subjects that it creates; "" leaves them to the level of all. force
// registers incompatible schemas as well.
func NewRegistrar(api API, level Level, force bool) *Registrar {
	return &Registrar{api: api, level: level, force: force, ids: map[[2]string]int32{}}
}

// Register returns the id of a schema under a subject. Errors are the API's: *IncompatibleError, *UnavailableError,
// *AuthError, *Error.
func (r *Registrar) Register(ctx context.Context, subject, avro string) (int32, error) {
	key := [2]string{subject, avro}
	r.mu.Lock()
	id, ok := r.ids[key]
	r.mu.Unlock()
	if ok {
		return id, nil
	}
	if r.level != "" {
		if err := r.create(ctx, subject); err != nil {
			return 0, fmt.Errorf("set the compatibility level of subject %s: %w", subject, err)
		}
	}
	id, err := r.api.RegisterSchema(ctx, subject, avro, r.force)
	if err != nil {
		return 0, err
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if len(r.ids) >= maxCached {
		clear(r.ids)
	}
	r.ids[key] = id
	return id, nil
}

// create sets the level of a subject that is not there yet. Before the first version, not after it: dying in between
// then leaves a level without a subject, and the next start finds no subject and comes this way again.
func (r *Registrar) create(ctx context.Context, subject string) error {
	exists, err := r.api.HasSubject(ctx, subject)
	if err != nil || exists {
		return err
	}
	if _, own, err := r.api.Level(ctx, subject); err != nil || own {
		return err // somebody has decided about it beforehand
	}
	return r.api.SetLevel(ctx, subject, r.level)
}

// API returns the store as a client would show it, without HTTP.
func (s *Store) API() API { return embedded{s} }

type embedded struct{ *Store }

func (e embedded) HasSubject(ctx context.Context, subject string) (bool, error) {
	if !e.Ready() {
		if err := e.Open(ctx); err != nil {
			return false, err
		}
	}
	return len(e.Versions(subject)) > 0, nil
}

func (e embedded) Level(_ context.Context, subject string) (Level, bool, error) {
	level, own := e.Store.Level(subject)
	return level, own, nil
}

func (e embedded) RegisterSchema(ctx context.Context, subject, avro string, force bool) (int32, error) {
	r, err := e.Register(ctx, subject, Request{Schema: avro, Force: force})
	return r.ID, err
}

func (e embedded) Schema(ctx context.Context, id int32) (string, error) {
	if !e.Ready() {
		if err := e.Open(ctx); err != nil {
			return "", err
		}
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
