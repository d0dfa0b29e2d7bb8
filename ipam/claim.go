package ipam

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"strings"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	v1 "github.com/manx-cni/manx/api/v1"
	"github.com/manx-cni/manx/ipam/block"
	"github.com/manx-cni/manx/ipam/pool"
	"github.com/manx-cni/manx/ipam/store"
)

// usable returns the pools for a use and, when there are none, why.
func (a *Allocator) usable(use v1.IPPoolAllowedUse, v6 bool) ([]*v1.IPPool, string) {
	pools, refused := pool.Select(a.cfg.Pools(), pool.Request{IPv6: v6, Use: use})
	if len(refused) == 0 {
		return pools, "there is none"
	}
	var why []string
	for _, r := range refused {
		why = append(why, fmt.Sprintf("%s: %s", r.Pool, r.Reason))
	}
	return pools, strings.Join(why, "; ")
}

func inPools(pools []*v1.IPPool, cidr netip.Prefix) bool {
	for _, p := range pools {
		if p.Prefix().Contains(cidr.Addr()) && p.BlockBits() == cidr.Bits() {
			return true
		}
	}
	return false
}

// claim makes one more block this node's and returns it.
func (a *Allocator) claim(ctx context.Context, pools []*v1.IPPool) (netip.Prefix, error) {
	config, err := a.config(ctx)
	if err != nil {
		return netip.Prefix{}, err
	}
	limit := config.BlockLimit()
	v6 := pools[0].Prefix().Addr().Is6()
	mine := 0
	for _, cidr := range a.ownSorted() {
		if cidr.Addr().Is6() == v6 {
			mine++
		}
	}
	if !config.AutoAllocateBlocks {
		limit = mine
	}
	if mine >= limit {
		return netip.Prefix{}, &BlockLimitError{Node: a.cfg.Node, Limit: limit}
	}
	all, err := a.cfg.Store.Blocks().List(ctx, nil)
	if err != nil {
		return netip.Prefix{}, err
	}
	taken := make(map[string]bool, len(all))
	for i := range all {
		taken[all[i].Name] = true
	}
	full := &PoolFullError{Family: family(v6)}
	for _, p := range pools {
		use := PoolUse{Name: p.Name, CIDR: p.Prefix(), Blocks: pool.BlockCount(p)}
		for cidr := range pool.Blocks(p, a.cfg.Node) {
			if taken[v1.BlockName(cidr)] {
				use.Claimed++
				continue
			}
			err := a.claimBlock(ctx, cidr)
			if err == nil {
				return cidr, nil
			}
			if !errors.Is(err, errTaken) {
				return netip.Prefix{}, err
			}
			use.Claimed++ // another node was faster
		}
		full.Pools = append(full.Pools, use)
	}
	return netip.Prefix{}, full
}

// config reads the cluster's IPAM settings; without an object the defaults hold.
func (a *Allocator) config(ctx context.Context) (v1.IPAMConfigSpec, error) {
	c, err := a.cfg.Store.Configs().Get(ctx, v1.DefaultName)
	if errors.Is(err, store.ErrNotFound) {
		return v1.DefaultIPAMConfigSpec(), nil
	}
	if err != nil {
		return v1.IPAMConfigSpec{}, err
	}
	return c.Spec, nil
}

// errTaken says that the block is another node's.
var errTaken = errors.New("the block is another node's")

// claimBlock is Calico's claim: affinity pending, block, affinity confirmed. It
// fails with errTaken when another node owns the block. A claim that was cut short
// is taken up where it was.
func (a *Allocator) claimBlock(ctx context.Context, cidr netip.Prefix) error {
	affinity, err := a.pendingAffinity(ctx, cidr)
	if err != nil {
		return err
	}
	o, err := a.createBlock(ctx, cidr)
	if errors.Is(err, errTaken) {
		if errDrop := a.dropAffinity(ctx, affinity); errDrop != nil {
			a.cfg.Log.Warn("affinity of a lost claim not removed yet", "block", cidr, "err", errDrop)
		}
		return err
	}
	if err != nil {
		return err
	}
	if !affinity.Spec.State.Confirmed() {
		affinity.Spec.State = v1.AffinityConfirmed
		if _, err := a.cfg.Store.Affinities().Update(ctx, affinity); err != nil {
			return fmt.Errorf("confirm block %s: %w", cidr, err)
		}
	}
	a.put(cidr, o)
	a.cfg.Log.Info("block claimed", "block", cidr)
	return nil
}

// pendingAffinity makes or finds this node's affinity for the block.
func (a *Allocator) pendingAffinity(ctx context.Context, cidr netip.Prefix) (*v1.BlockAffinity, error) {
	name := v1.AffinityName(a.cfg.Node, cidr)
	made, err := a.cfg.Store.Affinities().Create(ctx, &v1.BlockAffinity{
		TypeMeta:   metav1.TypeMeta{APIVersion: v1.SchemeGroupVersion.String(), Kind: "BlockAffinity"},
		ObjectMeta: metav1.ObjectMeta{Name: name, Labels: v1.AffinityLabels(a.cfg.Node, cidr)},
		Spec: v1.BlockAffinitySpec{
			State: v1.AffinityPending, Node: a.cfg.Node, Type: v1.AffinityTypeHost, CIDR: cidr.String(), Deleted: "false",
		},
	})
	if !errors.Is(err, store.ErrExists) {
		return made, err
	}
	have, err := a.cfg.Store.Affinities().Get(ctx, name)
	if err != nil {
		return nil, err
	}
	if have.Spec.State == v1.AffinityPending && have.Spec.Deleted != "true" {
		return have, nil
	}
	if have.Spec.State.Confirmed() && have.Spec.Deleted != "true" {
		return have, nil
	}
	// On its way out: revive it by compare-and-swap.
	have.Spec.State, have.Spec.Deleted = v1.AffinityPending, "false"
	return a.cfg.Store.Affinities().Update(ctx, have)
}

// createBlock makes the block, or finds that it is this node's already.
func (a *Allocator) createBlock(ctx context.Context, cidr netip.Prefix) (*owned, error) {
	b, err := block.New(cidr, a.cfg.Node, a.cfg.Now())
	if err != nil {
		return nil, err
	}
	made, err := a.cfg.Store.Blocks().Create(ctx, &v1.IPAMBlock{
		TypeMeta:   metav1.TypeMeta{APIVersion: v1.SchemeGroupVersion.String(), Kind: "IPAMBlock"},
		ObjectMeta: metav1.ObjectMeta{Name: v1.BlockName(cidr)},
		Spec:       *b.Spec(),
	})
	if err == nil {
		return &owned{object: made, block: b}, nil
	}
	if !errors.Is(err, store.ErrExists) {
		return nil, err
	}
	have, err := a.cfg.Store.Blocks().Get(ctx, v1.BlockName(cidr))
	if err != nil {
		return nil, err
	}
	b, err = block.Parse(&have.Spec)
	if err != nil || have.Spec.Deleted || !b.OwnedBy(a.cfg.Node) {
		return nil, errTaken
	}
	return &owned{object: have, block: b}, nil
}

// dropAffinity deletes an affinity in two writes: marked, then removed.
func (a *Allocator) dropAffinity(ctx context.Context, affinity *v1.BlockAffinity) error {
	affinity.Spec.State, affinity.Spec.Deleted = v1.AffinityPendingDeletion, "true"
	marked, err := a.cfg.Store.Affinities().Update(ctx, affinity)
	if err == nil {
		err = a.cfg.Store.Affinities().Delete(ctx, marked)
	}
	if errors.Is(err, store.ErrNotFound) {
		return nil
	}
	return err
}
