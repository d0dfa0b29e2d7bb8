//go:build cluster

package chaos_test

import (
	"context"
	"encoding/json"
	"errors"
	"net/netip"
	"sync"

	v1 "github.com/manx-cni/manx/api/v1"
	"github.com/manx-cni/manx/ipam/store"
)

// How an agent is broken in the controls, which show that the checker and what the
// test does would find such a bug.
const (
	brokenTwice = "answers an address twice"
	brokenBlind = "writes blocks without comparing"
)

// saboteur breaks an agent; one without a mode does nothing.
type saboteur struct {
	mode string

	mu    sync.Mutex
	count int
	last  []netip.Addr
}

// answer gives every tenth handle the addresses of the one before.
func (s *saboteur) answer(_ string, addrs []netip.Addr) []netip.Addr {
	if s.mode != brokenTwice {
		return addrs
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.count++
	if s.count%10 == 0 && s.last != nil {
		return s.last
	}
	s.last = addrs
	return addrs
}

func (s *saboteur) backend(b store.Backend) store.Backend {
	if s.mode != brokenBlind {
		return b
	}
	return blind{b}
}

// blind writes a block again when somebody else was faster, as if it was not so.
type blind struct{ store.Backend }

func (b blind) Update(ctx context.Context, resource, name string, object []byte) ([]byte, error) {
	stored, err := b.Backend.Update(ctx, resource, name, object)
	if resource != v1.PluralIPAMBlocks || !errors.Is(err, store.ErrConflict) {
		return stored, err
	}
	current, err := b.Get(ctx, resource, name)
	if err != nil {
		return nil, err
	}
	var ours, theirs map[string]any
	if err := errors.Join(json.Unmarshal(object, &ours), json.Unmarshal(current, &theirs)); err != nil {
		return nil, err
	}
	ours["metadata"] = theirs["metadata"]
	if object, err = json.Marshal(ours); err != nil {
		return nil, err
	}
	return b.Backend.Update(ctx, resource, name, object)
}
