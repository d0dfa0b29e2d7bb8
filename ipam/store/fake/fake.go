// Package fake is a store.Backend in memory, for tests of what is built on the
// store. It keeps resource versions and uids like an API server, refuses what
// the CRDs' schemas refuse, and fails on demand, before or after it has done
// what was asked: the second is the answer that got lost on the way.
package fake

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"sync"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/types"

	"github.com/manx-cni/manx/ipam/store"
)

// Op is one call.
type Op struct {
	Verb     string // get, list, create, update, delete
	Resource string // plural
	Name     string // empty for list
}

func (o Op) String() string { return o.Verb + " " + o.Resource + " " + o.Name }

// Write reports whether the call changes the store.
func (o Op) Write() bool { return o.Verb != "get" && o.Verb != "list" }

// Hook decides how a call goes. An error in before is returned and nothing is
// done; one in after is returned although it was done. A Hook may block.
type Hook func(ctx context.Context, op Op) (before, after error)

// Backend is the store. Its zero value is empty and ready.
type Backend struct {
	mu      sync.Mutex
	objects map[string]map[string][]byte // resource, name
	version int
	hook    Hook
	ops     []Op
}

var _ store.Backend = (*Backend)(nil)

// SetHook makes hook decide about every call from now on; nil lets all pass.
func (b *Backend) SetHook(hook Hook) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.hook = hook
}

// TakeOps returns the calls since the last TakeOps, failed ones included.
func (b *Backend) TakeOps() []Op {
	b.mu.Lock()
	defer b.mu.Unlock()
	ops := b.ops
	b.ops = nil
	return ops
}

// call runs one operation under the lock and the hook.
func (b *Backend) call(ctx context.Context, op Op, do func() ([]byte, error)) ([]byte, error) {
	b.mu.Lock()
	b.ops = append(b.ops, op)
	hook := b.hook
	b.mu.Unlock()
	var after error
	if hook != nil {
		var before error
		if before, after = hook(ctx, op); before != nil {
			return nil, before
		}
	}
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	text, err := do()
	if after != nil {
		return nil, after
	}
	return text, err
}

// Get implements store.Backend.
func (b *Backend) Get(ctx context.Context, resource, name string) ([]byte, error) {
	return b.call(ctx, Op{"get", resource, name}, func() ([]byte, error) {
		text, ok := b.objects[resource][name]
		if !ok {
			return nil, store.ErrNotFound
		}
		return slices.Clone(text), nil
	})
}

// List implements store.Backend.
func (b *Backend) List(ctx context.Context, resource, selector string) ([]json.RawMessage, error) {
	match, err := labels.Parse(selector)
	if err != nil {
		return nil, err
	}
	var items []json.RawMessage
	_, err = b.call(ctx, Op{"list", resource, ""}, func() ([]byte, error) {
		for _, name := range slices.Sorted(maps.Keys(b.objects[resource])) {
			text := b.objects[resource][name]
			m, err := metadata(text)
			if err != nil {
				return nil, err
			}
			if match.Matches(labels.Set(m.Labels)) {
				items = append(items, slices.Clone(text))
			}
		}
		return nil, nil
	})
	return items, err
}

// Create implements store.Backend.
func (b *Backend) Create(ctx context.Context, resource string, object []byte) ([]byte, error) {
	m, err := metadata(object)
	if err != nil {
		return nil, err
	}
	return b.call(ctx, Op{"create", resource, m.Name}, func() ([]byte, error) {
		switch _, exists := b.objects[resource][m.Name]; {
		case exists:
			return nil, store.ErrExists
		case m.ResourceVersion != "":
			return nil, fmt.Errorf("create %s %s: resourceVersion must not be set", resource, m.Name)
		}
		return b.put(resource, m.Name, object, types.UID("uid-"+strconv.Itoa(b.version+1)))
	})
}

// Update implements store.Backend.
func (b *Backend) Update(ctx context.Context, resource, name string, object []byte) ([]byte, error) {
	m, err := metadata(object)
	if err != nil {
		return nil, err
	}
	return b.call(ctx, Op{"update", resource, name}, func() ([]byte, error) {
		now, err := b.current(resource, name)
		switch {
		case err != nil:
			return nil, err
		case m.ResourceVersion != now.ResourceVersion, m.UID != "" && m.UID != now.UID:
			return nil, store.ErrConflict
		}
		return b.put(resource, name, object, now.UID)
	})
}

// Delete implements store.Backend.
func (b *Backend) Delete(ctx context.Context, resource, name, uid, version string) error {
	_, err := b.call(ctx, Op{"delete", resource, name}, func() ([]byte, error) {
		now, err := b.current(resource, name)
		switch {
		case err != nil:
			return nil, err
		case string(now.UID) != uid || now.ResourceVersion != version:
			return nil, store.ErrConflict
		}
		delete(b.objects[resource], name)
		return nil, nil
	})
	return err
}

// PutRaw stores an object as it is, unchecked: one that is older than the schema.
func (b *Backend) PutRaw(resource, name, object string) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.set(resource, name, []byte(object))
}

func (b *Backend) current(resource, name string) (metav1.ObjectMeta, error) {
	text, ok := b.objects[resource][name]
	if !ok {
		return metav1.ObjectMeta{}, store.ErrNotFound
	}
	return metadata(text)
}

// put checks an object and stores it under a new version. The lock is held.
func (b *Backend) put(resource, name string, object []byte, uid types.UID) ([]byte, error) {
	if err := validate(resource, name, object); err != nil {
		return nil, err
	}
	var whole map[string]any
	decoder := json.NewDecoder(bytes.NewReader(object))
	decoder.UseNumber() // sequence numbers do not fit a float64
	if err := decoder.Decode(&whole); err != nil {
		return nil, err
	}
	b.version++
	m := whole["metadata"].(map[string]any)
	m["resourceVersion"], m["uid"] = strconv.Itoa(b.version), string(uid)
	text, err := json.Marshal(whole)
	if err != nil {
		return nil, err
	}
	b.set(resource, name, text)
	return slices.Clone(text), nil
}

func (b *Backend) set(resource, name string, text []byte) {
	if b.objects == nil {
		b.objects = map[string]map[string][]byte{}
	}
	if b.objects[resource] == nil {
		b.objects[resource] = map[string][]byte{}
	}
	b.objects[resource][name] = text
}

func metadata(text []byte) (metav1.ObjectMeta, error) {
	var o metav1.PartialObjectMetadata
	err := json.Unmarshal(text, &o)
	return o.ObjectMeta, err
}
