// Package store is what the allocator needs of the datastore: typed objects and
// compare-and-swap. It knows nothing of blocks' contents.
//
// Every update and delete carries what the writer has seen. An update names the
// object's resource version, a delete its UID and resource version, so a write that
// rests on an old look fails with ErrConflict instead of undoing somebody's work.
// A delete is two writes, as Calico's: first the object is marked deleted, by
// compare-and-swap, then removed. Readers treat a marked object as absent and may
// finish the removal.
//
// The implementations are store/crd (the Kubernetes API) and store/fake (memory,
// failing on demand). store/storetest holds both to one behaviour.
package store

import (
	"context"
	"errors"

	v1 "github.com/manx-cni/manx/api/v1"
)

// What a caller branches on. Implementations wrap them.
var (
	ErrNotFound = errors.New("not found")
	ErrExists   = errors.New("already exists")
	ErrConflict = errors.New("changed by somebody else")
)

// Collection is one kind of object.
type Collection[T any] interface {
	// Get fails with ErrNotFound.
	Get(ctx context.Context, name string) (*T, error)
	// List returns the objects that carry all of the labels, in no order.
	List(ctx context.Context, labels map[string]string) ([]T, error)
	// Create fails with ErrExists. It returns the object as stored.
	Create(ctx context.Context, obj *T) (*T, error)
	// Update fails with ErrConflict when obj's resource version is not the
	// current one, and with ErrNotFound. It returns the object as stored.
	Update(ctx context.Context, obj *T) (*T, error)
	// Delete fails with ErrConflict when obj is not what is stored, and with
	// ErrNotFound.
	Delete(ctx context.Context, obj *T) error
}

// Store is the data that address management lives on.
type Store interface {
	Blocks() Collection[v1.IPAMBlock]
	Affinities() Collection[v1.BlockAffinity]
	Handles() Collection[v1.IPAMHandle]
	Configs() Collection[v1.IPAMConfig]
	Reservations() Collection[v1.IPReservation]
}
