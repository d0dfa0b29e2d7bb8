// Package store keeps the IPAM objects: blocks, affinities, handles and the
// configuration. Its Store is typed, writes by compare-and-swap only, and hides
// Calico's deletion protocol.
//
// # Compare-and-swap
//
// Every update carries the resource version of the object that it is based on
// and fails with ErrConflict when somebody was faster. Nothing is ever written
// blindly: two nodes that want one block cannot both get it.
//
// # Deletion in two steps
//
// A plain DELETE would not notice that the object has just changed, and would
// take a block away from under a new assignment. So an object is first updated
// to deleted=true, by compare-and-swap, and then removed with its uid and
// resource version as preconditions. Whoever finds an object marked like that
// treats it as absent and finishes the job.
//
// The protocol is here; a Backend only moves JSON. There are two: store/crd over
// the Kubernetes API and store/fake in memory, and store/storetest is what both
// must pass.
package store

import (
	"context"
	"encoding/json"
	"errors"

	v1 "github.com/manx-cni/manx/api/v1"
)

// Errors that callers act on. A Backend's errors match one of them with
// errors.Is or are failures of the store itself, such as an API server that does
// not answer; then a write may or may not have happened.
var (
	ErrNotFound = errors.New("not found")
	ErrExists   = errors.New("already exists")
	ErrConflict = errors.New("changed by somebody else since it was read")
	// ErrMalformed means that the object exists and does not decode.
	ErrMalformed = errors.New("malformed")
)

// Backend moves objects as JSON. The resource is a plural name such as
// ipamblocks; all are cluster scoped, of group crd.projectcalico.org/v1.
type Backend interface {
	Get(ctx context.Context, resource, name string) ([]byte, error)
	// List returns the objects whose labels match selector, in the syntax of
	// Kubernetes; empty matches all.
	List(ctx context.Context, resource, selector string) ([]json.RawMessage, error)
	// Create returns the object as stored, or ErrExists.
	Create(ctx context.Context, resource string, object []byte) ([]byte, error)
	// Update stores the object if its resource version is still the current
	// one, and returns it as stored; else ErrConflict, or ErrNotFound.
	Update(ctx context.Context, resource, name string, object []byte) ([]byte, error)
	// Delete removes the object if uid and version are still the current ones;
	// else ErrConflict, or ErrNotFound.
	Delete(ctx context.Context, resource, name, uid, version string) error
}

// Store gives typed access to the IPAM objects. It is safe for concurrent use.
type Store struct {
	backend Backend

	Blocks     *Table[v1.IPAMBlock]
	Affinities *Table[v1.BlockAffinity]
	Handles    *Table[v1.IPAMHandle]
}

// New returns a Store over b. A request whose answer does not come in time, its
// context's or b's own, is a *progress.OverdueError that names it.
func New(b Backend) Store { return over(asked{b}) }

// over is a Store over b as it is.
func over(b Backend) Store {
	return Store{
		backend: b,
		Blocks: newTable[v1.IPAMBlock](b, "IPAMBlock", v1.PluralIPAMBlocks, traits[v1.IPAMBlock]{
			deleted: func(o *v1.IPAMBlock) bool { return o.Spec.Deleted },
			mark:    func(o *v1.IPAMBlock) { o.Spec.Deleted = true },
		}),
		Affinities: newTable[v1.BlockAffinity](b, "BlockAffinity", v1.PluralBlockAffinities, traits[v1.BlockAffinity]{
			deleted: (*v1.BlockAffinity).Deleted,
			mark:    (*v1.BlockAffinity).SetDeleted,
		}),
		Handles: newTable[v1.IPAMHandle](b, "IPAMHandle", v1.PluralIPAMHandles, traits[v1.IPAMHandle]{
			deleted: func(o *v1.IPAMHandle) bool { return o.Spec.Deleted },
			mark:    func(o *v1.IPAMHandle) { o.Spec.Deleted = true },
		}),
	}
}

// Config returns the cluster's IPAM settings, or the defaults when there is no
// IPAMConfig named default.
func (s Store) Config(ctx context.Context) (v1.IPAMConfigSpec, error) {
	text, err := s.backend.Get(ctx, v1.PluralIPAMConfigs, v1.DefaultName)
	if errors.Is(err, ErrNotFound) {
		return v1.DefaultIPAMConfigSpec(), nil
	}
	if err != nil {
		return v1.IPAMConfigSpec{}, describe("read", "IPAMConfig", v1.DefaultName, err)
	}
	var config v1.IPAMConfig
	if err := json.Unmarshal(text, &config); err != nil {
		return v1.IPAMConfigSpec{}, describe("decode", "IPAMConfig", v1.DefaultName, err)
	}
	return config.Spec, nil
}
