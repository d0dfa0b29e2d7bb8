package store

import (
	"context"
	"errors"
)

// ErrLocked means that nothing may be written for now: the ClusterInformation default
// has datastoreReady false. Reading is not affected.
var ErrLocked = errors.New("the datastore is locked (datastoreReady of ClusterInformation default is false): " +
	"nothing is assigned or released until it is true again " +
	"(calicoctl datastore migrate unlock)")

// Guarded is the same store, which refuses every write with ErrLocked while locked
// returns true. locked must not block.
func (s Store) Guarded(locked func() bool) Store { return over(guarded{s.backend, locked}) }

// guarded is a Backend that is written to only while it is not locked.
type guarded struct {
	Backend
	locked func() bool
}

func (g guarded) Create(ctx context.Context, resource string, object []byte) ([]byte, error) {
	if g.locked() {
		return nil, ErrLocked
	}
	return g.Backend.Create(ctx, resource, object)
}

func (g guarded) Update(ctx context.Context, resource, name string, object []byte) ([]byte, error) {
	if g.locked() {
		return nil, ErrLocked
	}
	return g.Backend.Update(ctx, resource, name, object)
}

func (g guarded) Delete(ctx context.Context, resource, name, uid, version string) error {
	if g.locked() {
		return ErrLocked
	}
	return g.Backend.Delete(ctx, resource, name, uid, version)
}
