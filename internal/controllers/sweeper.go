package controllers

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"net"
	"net/netip"
	"os"
	"slices"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/client-go/kubernetes"

	v1 "github.com/manx-cni/manx/api/v1"
	"github.com/manx-cni/manx/internal/progress"
	"github.com/manx-cni/manx/ipam/block"
	"github.com/manx-cni/manx/ipam/gc"
	"github.com/manx-cni/manx/ipam/store"
)

// Errors that end a plan: what it rests on does not hold.
var (
	errBroken       = errors.New("the watches broke since the plan was made")
	errContradicted = errors.New("the API server says otherwise than the cache")
)

// sweeper carries out plans.
type sweeper struct {
	store  store.Store
	kube   kubernetes.Interface
	epoch  *epoch
	events *events
	log    *slog.Logger
	// reclaimed is told of every address that was released.
	reclaimed func(gc.Release)
	// refused is told of what could not be changed although the API server answers;
	// nil: nothing asks.
	refused func(gc.Refusal)
	beat    func()
}

// sweep carries out what a plan of the given epoch says, releases first. It goes on past
// what merely fails: one object whose writes are always refused holds up nothing but what
// rests on it. It stops at the first sign that the plan is wrong, or that the API server
// is away.
func (s *sweeper) sweep(ctx context.Context, plan gc.Plan, epoch uint64) error {
	r := &run{sweeper: s, live: newLive(s.kube), made: epoch, blocks: map[netip.Prefix]*block.Block{}, held: map[netip.Prefix]bool{}}
	r.releases(ctx, plan.Releases)
	for _, removal := range plan.Removals {
		if r.over(ctx) {
			break
		}
		if !r.held[removal.CIDR] {
			r.note(r.removal(ctx, removal))
		}
	}
	for _, b := range plan.Orphans {
		if r.over(ctx) {
			break
		}
		r.note(s.deleteOrphan(ctx, b))
	}
	for _, a := range plan.Leavings {
		if r.over(ctx) {
			break
		}
		r.note(s.deleteLeaving(ctx, a))
	}
	for _, h := range plan.Handles {
		if r.over(ctx) {
			break
		}
		if err := r.handle(ctx, h); err != nil {
			r.note(err)
			r.tell(gc.Refusal{Handle: h.Name})
		}
	}
	if r.settled > 0 {
		r.log.Info("handles settled", "handles", r.settled)
	}
	return errors.Join(r.errs...)
}

// run is one sweep.
type run struct {
	*sweeper
	live   *live
	made   uint64                        // the plan's epoch
	blocks map[netip.Prefix]*block.Block // read for handles

	errs    []error               // of what failed
	ended   bool                  // one of them ends the sweep
	held    map[netip.Prefix]bool // blocks of which an address could not be released
	settled int                   // handles that were deleted or corrected
}

// note keeps an error, and whether the sweep can go on after it.
func (r *run) note(err error) {
	if err == nil {
		return
	}
	r.errs = append(r.errs, err)
	r.ended = r.ended || errors.Is(err, errBroken) || errors.Is(err, errContradicted) || away(err)
}

// away reports whether the API server did not answer, or is too busy: nothing else will
// fare better for now. An answer that refuses one object says nothing of others.
func away(err error) bool {
	if errors.Is(err, context.DeadlineExceeded) || errors.Is(err, os.ErrDeadlineExceeded) || progress.IsOverdue(err) {
		return true
	}
	var status apierrors.APIStatus
	if errors.As(err, &status) {
		return apierrors.IsTimeout(err) || apierrors.IsServerTimeout(err) ||
			apierrors.IsTooManyRequests(err) || apierrors.IsServiceUnavailable(err)
	}
	return errors.As(err, new(net.Error))
}

// over reports whether the sweep must end.
func (r *run) over(ctx context.Context) bool {
	r.beat()
	return ctx.Err() != nil || r.ended
}

// tell has the next plans begin with something else.
func (r *run) tell(what gc.Refusal) {
	if r.refused != nil && !r.ended {
		r.refused(what)
	}
}

func (r *run) check() error {
	if r.epoch.now() != r.made {
		return errBroken
	}
	return nil
}

// contradicted forgets everything: a cache that is wrong once is not believed.
func (r *run) contradicted(what string) error {
	r.epoch.bump()
	return fmt.Errorf("%w: %s", errContradicted, what)
}

// releases asks the API server about every address and then releases them, block
// by block. A handle of which one address turns out to be in use keeps all, and so does
// one of which an address could not be asked about.
func (r *run) releases(ctx context.Context, releases []gc.Release) {
	byBlock := map[netip.Prefix][]gc.Release{}
	for len(releases) > 0 {
		n := 1 // those of one handle are next to each other
		for n < len(releases) && releases[n].Handle != "" && releases[n].Handle == releases[0].Handle {
			n++
		}
		judged, err := r.judged(ctx, releases[:n])
		for _, rel := range releases[:n] {
			if err != nil {
				r.held[rel.Block] = true
			}
		}
		releases = releases[n:]
		if r.note(err); r.over(ctx) {
			return
		}
		for _, rel := range judged {
			byBlock[rel.Block] = append(byBlock[rel.Block], rel)
		}
	}
	released := map[string]int{} // by node
	handles := map[string][]*block.Block{}
	for _, cidr := range slices.SortedFunc(maps.Keys(byBlock), func(a, b netip.Prefix) int { return a.Addr().Compare(b.Addr()) }) {
		if r.note(r.check()); r.over(ctx) {
			break
		}
		done, after, err := r.releaseFrom(ctx, cidr, byBlock[cidr])
		if err != nil {
			r.held[cidr] = true
			r.note(err)
			r.tell(gc.Refusal{Block: cidr})
		}
		for _, rel := range done {
			r.log.Info("released", "address", rel.Addr, "handle", rel.Handle, "node", gc.NodeOf(rel.Attrs), "reason", rel.Reason)
			r.reclaimed(rel)
			released[gc.NodeOf(rel.Attrs)]++
			if rel.Handle != "" && !slices.Contains(handles[rel.Handle], after) {
				handles[rel.Handle] = append(handles[rel.Handle], after)
			}
		}
	}
	for _, node := range slices.Sorted(maps.Keys(released)) {
		r.events.node(ctx, node, "AddressesReleased",
			fmt.Sprintf("%d addresses that no pod and no tunnel of this node has were released", released[node]))
	}
	for _, handle := range slices.Sorted(maps.Keys(handles)) {
		if ctx.Err() != nil {
			r.note(ctx.Err())
			return
		}
		r.note(r.settleHandle(ctx, handle, handles[handle])) // also after a sign that the plan is wrong: these are released
	}
}

// judged asks the API server about the addresses of one handle, and returns them with
// its reasons.
func (r *run) judged(ctx context.Context, group []gc.Release) (out []gc.Release, err error) {
	for _, rel := range group {
		reason, err := r.live.judge(ctx, rel.Addr, rel.Attrs)
		if err != nil {
			r.tell(gc.Refusal{Block: rel.Block})
			return nil, fmt.Errorf("release %s: %w", rel.Addr, err)
		}
		if reason == "" {
			return nil, r.contradicted(fmt.Sprintf("%s of handle %s is in use, though %s", rel.Addr, rel.Handle, rel.Reason))
		}
		rel.Reason = reason
		out = append(out, rel)
	}
	return out, nil
}

// releaseFrom frees those of the addresses in one block that are still assigned
// as they were seen. It returns them, and the block afterwards.
func (s *sweeper) releaseFrom(
	ctx context.Context, cidr netip.Prefix, releases []gc.Release,
) (done []gc.Release, after *block.Block, err error) {
	err = store.Retry(ctx, func() error {
		done = nil
		object, b, err := s.block(ctx, cidr)
		if err != nil || b == nil {
			return err
		}
		for _, rel := range releases {
			if b.Release(rel.Addr, rel.Expect()) == nil { // else it is another's by now
				done = append(done, rel)
			}
		}
		after = b
		if len(done) == 0 {
			return nil
		}
		if b.Used() == 0 && object.Spec.Affinity == nil {
			return s.store.Blocks.Delete(ctx, object)
		}
		return s.write(ctx, object, b)
	})
	if err != nil {
		return nil, nil, fmt.Errorf("release %d addresses of block %s: %w", len(releases), cidr, err)
	}
	return done, after, nil
}

// block reads a block; nil when there is none.
func (s *sweeper) block(ctx context.Context, cidr netip.Prefix) (*v1.IPAMBlock, *block.Block, error) {
	object, err := s.store.Blocks.Get(ctx, v1.BlockName(cidr))
	if errors.Is(err, store.ErrNotFound) {
		return nil, nil, nil
	}
	if err != nil {
		return nil, nil, err
	}
	b, err := block.Parse(&object.Spec)
	if err != nil {
		return nil, nil, fmt.Errorf("IPAMBlock %s is malformed: %w", object.Name, err)
	}
	if b.CIDR() != cidr {
		return nil, nil, fmt.Errorf("IPAMBlock %s is malformed: spec.cidr is %s", object.Name, b.CIDR())
	}
	return object, b, nil
}

// write stores a changed block.
func (s *sweeper) write(ctx context.Context, object *v1.IPAMBlock, b *block.Block) error {
	b.NextSequence()
	next := object.DeepCopy()
	next.Spec = *b.Spec()
	_, err := s.store.Blocks.Update(ctx, next)
	return err
}
