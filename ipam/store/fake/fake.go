// Package fake is a store in memory for tests. It behaves as store/crd does
// (store/storetest holds both to it) and fails where a test tells it to.
package fake

import (
	"context"
	"fmt"
	"maps"
	"strconv"
	"sync"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	v1 "github.com/manx-cni/manx/api/v1"
	"github.com/manx-cni/manx/ipam/store"
)

// Store is a store in memory.
type Store struct {
	mu      sync.Mutex
	version int
	before  func(call Call) error
	calls   []Call

	blocks       collection[v1.IPAMBlock, *v1.IPAMBlock]
	affinities   collection[v1.BlockAffinity, *v1.BlockAffinity]
	handles      collection[v1.IPAMHandle, *v1.IPAMHandle]
	configs      collection[v1.IPAMConfig, *v1.IPAMConfig]
	reservations collection[v1.IPReservation, *v1.IPReservation]
}

// Call is one request: get, list, create, update or delete.
type Call struct{ Verb, Plural, Name string }

// New returns an empty store.
func New() *Store {
	s := &Store{}
	s.blocks = newCollection[v1.IPAMBlock](s, v1.PluralIPAMBlocks)
	s.affinities = newCollection[v1.BlockAffinity](s, v1.PluralBlockAffinities)
	s.handles = newCollection[v1.IPAMHandle](s, v1.PluralIPAMHandles)
	s.configs = newCollection[v1.IPAMConfig](s, v1.PluralIPAMConfigs)
	s.reservations = newCollection[v1.IPReservation](s, v1.PluralIPReservations)
	return s
}

// Before makes f judge every call from now on: an error is the call's answer and
// nothing happens. nil ends it.
func (s *Store) Before(f func(Call) error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.before = f
}

// Calls returns the calls so far, and forgets them.
func (s *Store) Calls() []Call {
	s.mu.Lock()
	defer s.mu.Unlock()
	calls := s.calls
	s.calls = nil
	return calls
}

func (s *Store) Blocks() store.Collection[v1.IPAMBlock]           { return s.blocks }
func (s *Store) Affinities() store.Collection[v1.BlockAffinity]   { return s.affinities }
func (s *Store) Handles() store.Collection[v1.IPAMHandle]         { return s.handles }
func (s *Store) Configs() store.Collection[v1.IPAMConfig]         { return s.configs }
func (s *Store) Reservations() store.Collection[v1.IPReservation] { return s.reservations }

type object[T any] interface {
	*T
	metav1.Object
	DeepCopy() *T
}

type collection[T any, P object[T]] struct {
	store  *Store
	plural string
	items  map[string]*T
}

func newCollection[T any, P object[T]](s *Store, plural string) collection[T, P] {
	return collection[T, P]{store: s, plural: plural, items: map[string]*T{}}
}

// enter takes the lock and records the call; leave must follow when err is nil.
func (c collection[T, P]) enter(ctx context.Context, verb, name string) (leave func(), err error) {
	if err := ctx.Err(); err != nil {
		return nil, fmt.Errorf("%s %s %s: %w", verb, c.plural, name, err)
	}
	c.store.mu.Lock()
	call := Call{verb, c.plural, name}
	c.store.calls = append(c.store.calls, call)
	if judge := c.store.before; judge != nil {
		c.store.mu.Unlock() // the judge may look at the store
		if err := judge(call); err != nil {
			return nil, fmt.Errorf("%s %s %s: %w", verb, c.plural, name, err)
		}
		c.store.mu.Lock()
	}
	return c.store.mu.Unlock, nil
}

func (c collection[T, P]) fault(verb, name string, kind error) error {
	return fmt.Errorf("%s %s %s: %w", verb, c.plural, name, kind)
}

func (c collection[T, P]) stamp(obj P) {
	c.store.version++
	obj.SetResourceVersion(strconv.Itoa(c.store.version))
}

func (c collection[T, P]) Get(ctx context.Context, name string) (*T, error) {
	leave, err := c.enter(ctx, "get", name)
	if err != nil {
		return nil, err
	}
	defer leave()
	if have, ok := c.items[name]; ok {
		return P(have).DeepCopy(), nil
	}
	return nil, c.fault("get", name, store.ErrNotFound)
}

func (c collection[T, P]) List(ctx context.Context, labels map[string]string) ([]T, error) {
	leave, err := c.enter(ctx, "list", "")
	if err != nil {
		return nil, err
	}
	defer leave()
	var out []T
	for _, have := range c.items {
		merged := maps.Clone(P(have).GetLabels())
		if merged == nil {
			merged = map[string]string{}
		}
		maps.Copy(merged, labels)
		if maps.Equal(merged, P(have).GetLabels()) || len(labels) == 0 {
			out = append(out, *P(have).DeepCopy())
		}
	}
	return out, nil
}

func (c collection[T, P]) Create(ctx context.Context, obj *T) (*T, error) {
	name := P(obj).GetName()
	leave, err := c.enter(ctx, "create", name)
	if err != nil {
		return nil, err
	}
	defer leave()
	if _, ok := c.items[name]; ok {
		return nil, c.fault("create", name, store.ErrExists)
	}
	kept := P(P(obj).DeepCopy())
	c.stamp(kept)
	kept.SetUID(types.UID("uid-" + kept.GetResourceVersion()))
	c.items[name] = (*T)(kept)
	return kept.DeepCopy(), nil
}

func (c collection[T, P]) Update(ctx context.Context, obj *T) (*T, error) {
	name := P(obj).GetName()
	leave, err := c.enter(ctx, "update", name)
	if err != nil {
		return nil, err
	}
	defer leave()
	have, ok := c.items[name]
	switch {
	case P(obj).GetResourceVersion() == "":
		return nil, fmt.Errorf("update %s %s: no resource version", c.plural, name)
	case !ok:
		return nil, c.fault("update", name, store.ErrNotFound)
	case P(have).GetResourceVersion() != P(obj).GetResourceVersion():
		return nil, c.fault("update", name, store.ErrConflict)
	}
	kept := P(P(obj).DeepCopy())
	kept.SetUID(P(have).GetUID())
	c.stamp(kept)
	c.items[name] = (*T)(kept)
	return kept.DeepCopy(), nil
}

func (c collection[T, P]) Delete(ctx context.Context, obj *T) error {
	name := P(obj).GetName()
	leave, err := c.enter(ctx, "delete", name)
	if err != nil {
		return err
	}
	defer leave()
	have, ok := c.items[name]
	switch {
	case !ok:
		return c.fault("delete", name, store.ErrNotFound)
	case P(have).GetResourceVersion() != P(obj).GetResourceVersion() || P(have).GetUID() != P(obj).GetUID():
		return c.fault("delete", name, store.ErrConflict)
	}
	delete(c.items, name)
	return nil
}
