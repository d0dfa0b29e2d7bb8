package ctl

import (
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"net/netip"
	"slices"
	"strings"
	"sync"

	"golang.org/x/sync/errgroup"

	apiv1 "github.com/manx-cni/manx/api/v1"
	"github.com/manx-cni/manx/internal/ipamreport"
	"github.com/manx-cni/manx/ipam/block"
	"github.com/manx-cni/manx/ipam/store"
)

// releaser writes. Agents write the same objects at the same time: every write is a
// compare-and-swap, and one that is lost starts again from what is there now.
type releaser struct {
	store store.Store
	out   io.Writer

	mu      sync.Mutex
	touched []string // handles that had an address
	done    *IPAMRelease
	errs    []error
}

func (r *releaser) printf(format string, args ...any) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if _, err := fmt.Fprintf(r.out, format, args...); err != nil {
		r.errs = append(r.errs, err)
	}
}

func (r *releaser) fail(err error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.errs = append(r.errs, err)
}

// fromBlock releases addresses of one block with one write.
func (r *releaser) fromBlock(ctx context.Context, cidr netip.Prefix, want []ipamreport.Assignment) {
	var freed map[netip.Addr]bool
	err := store.Retry(ctx, func() (err error) {
		freed, err = r.tryBlock(ctx, cidr, want)
		return err
	})
	if err != nil {
		r.fail(fmt.Errorf("release %s of block %s: %w; run the command again: what is released already stays so",
			addresses(len(want)), cidr, err))
		return
	}
	for _, w := range want {
		if !freed[w.Addr] {
			r.done.AlreadyReleased = append(r.done.AlreadyReleased, w.Addr.String())
			r.printf("IP %s has been released already, or has a new holder.\n", w.Addr)
			continue
		}
		r.done.Released = append(r.done.Released, ReleasedAddress{IP: w.Addr.String(), Block: cidr.String(), Holder: w.Holder()})
		r.printf("Released IP %s of %s, in block %s.\n", w.Addr, w.Holder(), cidr)
		if w.Handle != "" {
			r.touched = append(r.touched, w.Handle)
		}
	}
}

// tryBlock returns which of the addresses it has released.
func (r *releaser) tryBlock(ctx context.Context, cidr netip.Prefix, want []ipamreport.Assignment) (map[netip.Addr]bool, error) {
	o, err := r.store.Blocks.Get(ctx, apiv1.BlockName(cidr))
	if errors.Is(err, store.ErrNotFound) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	b, err := block.Parse(&o.Spec)
	if err != nil {
		return nil, fmt.Errorf("IPAMBlock %s is malformed: %w", o.Name, err)
	}
	freed := map[netip.Addr]bool{}
	for _, w := range want {
		expect := block.Expect{}
		if w.Handle != "" {
			expect.Handle = &w.Handle
		}
		if w.Sequence != 0 {
			expect.Sequence = &w.Sequence
		}
		switch err := b.Release(w.Addr, expect); {
		case err == nil:
			freed[w.Addr] = true
		case !errors.Is(err, block.ErrNotHeld):
			return nil, err
		}
	}
	if len(freed) == 0 {
		return nil, nil
	}
	b.NextSequence()
	o.Spec = *b.Spec()
	stored, err := r.store.Blocks.Update(ctx, o)
	if err != nil {
		return nil, err
	}
	if b.Owner() == "" && b.Used() == 0 {
		// Nobody is left who would remove it. If somebody is just taking an address
		// of it, that one keeps it.
		if err := r.store.Blocks.Delete(ctx, stored); err != nil && !errors.Is(err, store.ErrConflict) && !errors.Is(err, store.ErrNotFound) {
			return freed, err
		}
	}
	return freed, nil
}

// maxAtOnce is how many handles are worked on at the same time: there may be thousands.
const maxAtOnce = 8

// each works on n handles and prints what work says of each, in order.
func (r *releaser) each(n int, work func(i int) string) {
	lines := make([]string, n)
	var g errgroup.Group
	g.SetLimit(maxAtOnce)
	for i := range n {
		g.Go(func() error {
			lines[i] = work(i)
			return nil
		})
	}
	_ = g.Wait() // what fails is in r.errs
	r.printf("%s", strings.Join(lines, ""))
}

// repairHandles makes the handles of what was released say what the blocks say.
func (r *releaser) repairHandles(ctx context.Context) {
	slices.Sort(r.touched)
	touched := slices.Compact(r.touched)
	r.each(len(touched), func(i int) string {
		removed := false
		err := store.Retry(ctx, func() (err error) {
			removed, err = r.tryHandle(ctx, touched[i])
			return err
		})
		switch {
		case err != nil && !errors.Is(err, store.ErrNotFound):
			r.fail(fmt.Errorf("repair handle %s: %w; its addresses are released all the same, and manxctl ipam check finds what is left",
				touched[i], err))
		case removed:
			return fmt.Sprintf("Removed handle %s: it has no address left.\n", touched[i])
		}
		return ""
	})
}

func (r *releaser) tryHandle(ctx context.Context, handle string) (removed bool, err error) {
	o, err := r.store.Handles.Get(ctx, apiv1.HandleName(handle))
	if err != nil {
		return false, err
	}
	counts := map[string]int{}
	for text, n := range o.Spec.Block {
		left, err := r.left(ctx, text, o.Spec.HandleID, n)
		if err != nil {
			return false, err
		}
		if left > 0 {
			counts[text] = left
		}
	}
	switch {
	case len(counts) == 0:
		if err := r.store.Handles.Delete(ctx, o); err != nil {
			return false, err
		}
		r.noteRemoved(handle)
		return true, nil
	case !maps.Equal(counts, o.Spec.Block):
		o.Spec.Block = counts
		_, err = r.store.Handles.Update(ctx, o)
	}
	return false, err
}

func (r *releaser) noteRemoved(handle string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.done.Handles = append(r.done.Handles, handle)
}

// left returns how many addresses the handle has in a block. Of one that cannot be
// read it believes what the handle says.
func (r *releaser) left(ctx context.Context, cidr, handle string, said int) (int, error) {
	p, err := apiv1.ParseBlock(cidr)
	if err != nil {
		return said, nil
	}
	o, err := r.store.Blocks.Get(ctx, apiv1.BlockName(p))
	switch {
	case errors.Is(err, store.ErrNotFound):
		return 0, nil
	case errors.Is(err, store.ErrMalformed):
		return said, nil
	case err != nil:
		return 0, err
	}
	b, err := block.Parse(&o.Spec)
	if err != nil {
		return said, nil
	}
	return len(b.Held(handle)), nil
}

// removeHandles removes the handles that a report found without addresses, if they
// have none now and have not changed since.
func (r *releaser) removeHandles(ctx context.Context, have []*apiv1.IPAMHandle, leaked []ipamreport.LeakedHandle) {
	if len(leaked) == 0 {
		return
	}
	byID := map[string]*apiv1.IPAMHandle{}
	for _, h := range have {
		byID[h.Spec.HandleID] = h
	}
	blocks, _, err := r.store.Blocks.List(ctx, "")
	if err != nil {
		r.fail(fmt.Errorf("remove %s: %w", handles(len(leaked)), err))
		return
	}
	used := map[string]bool{}
	for _, o := range blocks {
		for _, attr := range o.Spec.Attributes {
			if attr.HandleID != nil {
				used[apiv1.HandleName(*attr.HandleID)] = true
			}
		}
	}
	r.each(len(leaked), func(i int) string {
		l, h := leaked[i], byID[leaked[i].ID]
		switch {
		case h == nil:
			return fmt.Sprintf("Handle %s has been removed already.\n", l.ID)
		case used[h.Name] || h.ResourceVersion != l.Revision || l.UID == nil || string(h.UID) != *l.UID:
			return fmt.Sprintf("Handle %s has changed since the report: kept.\n", l.ID)
		}
		return r.removeHandle(ctx, h)
	})
}

func (r *releaser) removeHandle(ctx context.Context, h *apiv1.IPAMHandle) string {
	switch err := r.store.Handles.Delete(ctx, h); {
	case errors.Is(err, store.ErrNotFound):
		return fmt.Sprintf("Handle %s has been removed already.\n", h.Spec.HandleID)
	case errors.Is(err, store.ErrConflict):
		return fmt.Sprintf("Handle %s has changed since the report: kept.\n", h.Spec.HandleID)
	case err != nil:
		r.fail(err)
		return ""
	}
	r.noteRemoved(h.Spec.HandleID)
	return fmt.Sprintf("Removed handle %s: it has no address.\n", h.Spec.HandleID)
}
