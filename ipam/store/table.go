package store

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"

	v1 "github.com/manx-cni/manx/api/v1"
)

// object is satisfied by a pointer to a T of package api/v1.
type object[T any] interface {
	*T
	metav1.Object
	runtime.Object
}

// traits is what differs between the kinds.
type traits[T any] struct {
	deleted func(*T) bool // carries the mark of the first step of deletion
	mark    func(*T)      // puts it there
}

// Table is the objects of one kind. Errors match ErrNotFound, ErrExists or
// ErrConflict where these apply, and name the kind and the object.
type Table[T any] struct {
	backend  Backend
	kind     string
	resource string
	traits   traits[T]
	access   access[T]
}

// access reaches the parts of a T that all API objects have. It exists because a
// method of Table cannot name the pointer type that object constrains.
type access[T any] struct {
	meta func(*T) metav1.Object
	copy func(*T) *T
	kind func(*T)
}

func newTable[T any, P object[T]](b Backend, kind, resource string, t traits[T]) *Table[T] {
	gvk := v1.SchemeGroupVersion.WithKind(kind)
	return &Table[T]{backend: b, kind: kind, resource: resource, traits: t, access: access[T]{
		meta: func(o *T) metav1.Object { return P(o) },
		copy: func(o *T) *T { return (*T)(P(o).DeepCopyObject().(P)) },
		kind: func(o *T) { P(o).GetObjectKind().SetGroupVersionKind(gvk) },
	}}
}

// Get returns the object of that name, or ErrNotFound.
func (t *Table[T]) Get(ctx context.Context, name string) (*T, error) {
	text, err := t.backend.Get(ctx, t.resource, name)
	if err != nil {
		return nil, describe("read", t.kind, name, err)
	}
	o, err := t.decode(text)
	if err != nil {
		return nil, describe("decode", t.kind, name, err)
	}
	if t.traits.deleted(o) {
		if err := t.remove(ctx, o); err != nil && !errors.Is(err, ErrNotFound) && !errors.Is(err, ErrConflict) {
			return nil, describe("finish the deletion of", t.kind, name, err)
		}
		return nil, describe("read", t.kind, name, ErrNotFound)
	}
	return o, nil
}

// List returns the objects whose labels match selector (all when empty). Objects
// that do not decode are left out and reported in malformed, one error each.
func (t *Table[T]) List(ctx context.Context, selector string) (objects []*T, malformed []error, err error) {
	items, err := t.backend.List(ctx, t.resource, selector)
	if err != nil {
		return nil, nil, describe("list", t.kind, selector, err)
	}
	for _, item := range items {
		o, err := t.decode(item)
		if err != nil {
			malformed = append(malformed, describe("decode", t.kind, NameOf(item), err))
			continue
		}
		if !t.traits.deleted(o) {
			objects = append(objects, o)
		}
	}
	return objects, malformed, nil
}

// Create stores a new object and returns it as stored, or ErrExists. The rest of
// an object that is being deleted is not in the way.
func (t *Table[T]) Create(ctx context.Context, o *T) (*T, error) {
	name := t.access.meta(o).GetName()
	stored, err := t.create(ctx, o)
	if errors.Is(err, ErrExists) {
		if _, gone := t.Get(ctx, name); errors.Is(gone, ErrNotFound) { // Get finishes a deletion
			stored, err = t.create(ctx, o)
		}
	}
	return stored, describe("create", t.kind, name, err)
}

func (t *Table[T]) create(ctx context.Context, o *T) (*T, error) {
	text, err := t.encode(o)
	if err != nil {
		return nil, err
	}
	text, err = t.backend.Create(ctx, t.resource, text)
	if err != nil {
		return nil, err
	}
	return t.decode(text)
}

// Update replaces the object if o's resource version is the current one, and
// returns it as stored; else ErrConflict, or ErrNotFound. An object without a
// resource version is never written.
func (t *Table[T]) Update(ctx context.Context, o *T) (*T, error) {
	stored, err := t.update(ctx, o)
	return stored, describe("update", t.kind, t.access.meta(o).GetName(), err)
}

func (t *Table[T]) update(ctx context.Context, o *T) (*T, error) {
	m := t.access.meta(o)
	if m.GetResourceVersion() == "" {
		return nil, errors.New("has no resource version; read it first")
	}
	text, err := t.encode(o)
	if err != nil {
		return nil, err
	}
	text, err = t.backend.Update(ctx, t.resource, m.GetName(), text)
	if err != nil {
		return nil, err
	}
	return t.decode(text)
}

// Delete removes the object if o is still its current state; else ErrConflict,
// or ErrNotFound. When the second step fails the object counts as absent
// already, and the error says that removing it is left to the next reader.
func (t *Table[T]) Delete(ctx context.Context, o *T) error {
	name := t.access.meta(o).GetName()
	marked := t.access.copy(o)
	t.traits.mark(marked)
	marked, err := t.update(ctx, marked)
	if err != nil {
		return describe("mark as deleted", t.kind, name, err)
	}
	if err := t.remove(ctx, marked); err != nil && !errors.Is(err, ErrNotFound) {
		return describe("remove", t.kind, name, err)
	}
	return nil
}

// remove is the second step of a deletion.
func (t *Table[T]) remove(ctx context.Context, o *T) error {
	m := t.access.meta(o)
	return t.backend.Delete(ctx, t.resource, m.GetName(), string(m.GetUID()), m.GetResourceVersion())
}

func (t *Table[T]) encode(o *T) ([]byte, error) {
	o = t.access.copy(o)
	t.access.kind(o)
	t.access.meta(o).SetManagedFields(nil)
	return json.Marshal(o)
}

// decode drops managedFields, which is larger than the rest and used by nobody.
func (t *Table[T]) decode(text []byte) (*T, error) {
	o := new(T)
	if err := json.Unmarshal(text, o); err != nil {
		return nil, fmt.Errorf("%w: %w", ErrMalformed, err)
	}
	t.access.meta(o).SetManagedFields(nil)
	return o, nil
}

// NameOf reads the name of an object that does not decode otherwise.
func NameOf(text []byte) string {
	var o struct {
		Metadata struct {
			Name string `json:"name"`
		} `json:"metadata"`
	}
	if json.Unmarshal(text, &o) != nil || o.Metadata.Name == "" {
		return "(no name)"
	}
	return o.Metadata.Name
}

// describe says what was tried on what; nil stays nil.
func describe(verb, kind, name string, err error) error {
	if err == nil {
		return nil
	}
	if name == "" {
		return fmt.Errorf("%s %s objects: %w", verb, kind, err)
	}
	return fmt.Errorf("%s %s %s: %w", verb, kind, name, err)
}
