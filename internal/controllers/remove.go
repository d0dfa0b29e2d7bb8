package controllers

import (
	"context"
	"errors"
	"fmt"

	v1 "github.com/manx-cni/manx/api/v1"
	"github.com/manx-cni/manx/ipam/gc"
	"github.com/manx-cni/manx/ipam/store"
)

// removal takes a block from a node that is gone.
func (r *run) removal(ctx context.Context, m gc.Removal) error {
	if err := r.check(); err != nil {
		return err
	}
	exists, err := r.live.node(ctx, m.Node)
	if err != nil {
		return err
	}
	if exists {
		return r.contradicted(fmt.Sprintf("node %s exists", m.Node))
	}
	if err := r.holdsNone(ctx, m); err != nil {
		return err
	}
	outcome, err := r.take(ctx, m, false)
	if err == nil && outcome != "" {
		r.log.Info(outcome, "block", m.CIDR, "node", m.Node, "reason", "the node does not exist")
	}
	return err
}

// holdsNone returns an error when a pod of the node still has an address of the
// block: then the node is not gone, its object is.
func (r *run) holdsNone(ctx context.Context, m gc.Removal) error {
	_, b, err := r.block(ctx, m.CIDR)
	if err != nil || b == nil {
		return err
	}
	for e := range b.Entries() {
		if pod, ok := gc.PodOf(e.Attrs); ok && gc.NodeOf(e.Attrs) == m.Node && !e.CoolingDown {
			reason, err := r.live.judge(ctx, e.Addr, e.Attrs)
			if err != nil {
				return err
			}
			if reason == "" {
				return r.contradicted(fmt.Sprintf("pod %s of node %s has %s", pod, m.Node, e.Addr))
			}
		}
	}
	return nil
}

// take removes a node's claim to a block and says what became of the block. An
// empty block is deleted; one in use loses its owner, or, with emptyOnly, stays
// as it is and its node keeps the claim.
//
// The order is that of a claim, backwards, so that whoever finds the pieces after
// a crash knows what to do: affinity pendingDeletion, block, affinity.
func (s *sweeper) take(ctx context.Context, m gc.Removal, emptyOnly bool) (outcome string, err error) {
	err = store.Retry(ctx, func() error {
		affinity, err := s.affinity(ctx, m)
		if err != nil {
			return err
		}
		if emptyOnly {
			if _, b, err := s.block(ctx, m.CIDR); err != nil || b != nil && b.Used() > 0 {
				return err
			}
		}
		if affinity, err = s.mark(ctx, affinity, v1.AffinityPendingDeletion); err != nil {
			return err
		}
		object, b, err := s.block(ctx, m.CIDR)
		switch {
		case err != nil:
			return err
		case b == nil || !b.OwnedBy(m.Node):
			if affinity != nil && outcome == "" { // else this is another try
				outcome = "affinity removed"
			}
		case b.Used() == 0:
			if err := s.store.Blocks.Delete(ctx, object); err != nil && !errors.Is(err, store.ErrNotFound) {
				return err
			}
			outcome = "block removed"
		case emptyOnly: // assigned from since
			_, err := s.mark(ctx, affinity, v1.AffinityConfirmed)
			return err
		default:
			b.Spec().Affinity, b.Spec().AffinityClaimTime = nil, nil
			if err := s.write(ctx, object, b); err != nil {
				return err
			}
			outcome = "block in use has no owner any more"
		}
		if affinity == nil {
			return nil
		}
		if err := s.store.Affinities.Delete(ctx, affinity); err != nil && !errors.Is(err, store.ErrNotFound) {
			return err
		}
		return nil
	})
	if err != nil {
		return "", fmt.Errorf("remove block %s of node %s: %w", m.CIDR, m.Node, err)
	}
	return outcome, nil
}

// affinity reads the affinity of a removal; nil when there is none.
func (s *sweeper) affinity(ctx context.Context, m gc.Removal) (*v1.BlockAffinity, error) {
	if m.Affinity == "" {
		return nil, nil
	}
	o, err := s.store.Affinities.Get(ctx, m.Affinity)
	if errors.Is(err, store.ErrNotFound) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	if node, cidr, err := o.Claim(); err != nil || cidr != m.CIDR || node != m.Node {
		return nil, fmt.Errorf("BlockAffinity %s is that of node %s to %s by now", o.Name, o.Spec.Node, o.Spec.CIDR)
	}
	return o, nil
}

// mark gives an affinity a state, and returns it as stored.
func (s *sweeper) mark(ctx context.Context, o *v1.BlockAffinity, state v1.AffinityState) (*v1.BlockAffinity, error) {
	if o == nil || o.State() == state {
		return o, nil
	}
	next := o.DeepCopy()
	next.Spec.State = state
	return s.store.Affinities.Update(ctx, next)
}

// deleteOrphan deletes a block that is empty and nobody's, if it still is.
func (s *sweeper) deleteOrphan(ctx context.Context, seen gc.Block) error {
	object, b, err := s.block(ctx, seen.CIDR())
	if err == nil && b != nil && b.Used() == 0 && object.Spec.Affinity == nil {
		if err = s.store.Blocks.Delete(ctx, object); err == nil {
			s.log.Info("block removed", "block", seen.CIDR(), "reason", "it is empty and has no owner")
		}
	}
	return ignoreChange(err, "remove block %s", seen.CIDR())
}

// deleteLeaving deletes an affinity that somebody was deleting, if nothing has
// happened to it since.
func (s *sweeper) deleteLeaving(ctx context.Context, a gc.Affinity) error {
	o, err := s.store.Affinities.Get(ctx, a.Name)
	if err == nil && o.ResourceVersion == a.Version {
		var object *v1.IPAMBlock
		if object, _, err = s.block(ctx, a.CIDR); err == nil &&
			(object == nil || !object.OwnedBy(a.Node)) {
			if err = s.store.Affinities.Delete(ctx, o); err == nil {
				s.log.Info("affinity removed", "block", a.CIDR, "node", a.Node, "reason", "its deletion was cut off")
			}
		}
	}
	return ignoreChange(err, "remove BlockAffinity %s", a.Name)
}

// ignoreChange drops the errors that say that somebody else did something to the
// object, which a later look will see.
func ignoreChange(err error, format string, args ...any) error {
	if err == nil || errors.Is(err, store.ErrNotFound) || errors.Is(err, store.ErrConflict) {
		return nil
	}
	return fmt.Errorf(format+": %w", append(args, err)...)
}
