package controllers

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"net/netip"
	"reflect"
	"slices"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/dynamic"

	v1 "github.com/manx-cni/manx/api/v1"
	"github.com/manx-cni/manx/ipam/gc"
)

// statusEvery is the least time between two writes of one pool's status: pods
// come by the hundred, and every agent watches the pools.
const statusEvery = 10 * time.Second

// deletionQuiet is how long a pool that nobody uses stays after its deletion was
// seen, so that no agent assigns from it that has not heard of the deletion yet.
const deletionQuiet = 3 * time.Second

// pools looks after the IPPools: the finalizer that keeps a pool while its
// addresses are in use, the status, and Events about full pools.
type pools struct {
	watch  *watch
	client dynamic.ResourceInterface
	sweep  *sweeper
	// services are the ranges of services; nil: none is known.
	services *serviceRanges
	events   *events
	log      *slog.Logger
	now      func() time.Time
	later    func(time.Duration) // asks for another reconcile
	beat     func()

	memory map[types.UID]*poolMemory
}

// poolMemory is what is remembered of one pool.
type poolMemory struct {
	written  time.Time // when its status was
	full     fullness
	deleting time.Time // when its deletion was first seen
	waiting  bool      // it has been told that its deletion waits
}

// reconcile brings every pool to where it should be.
func (p *pools) reconcile(ctx context.Context) error {
	p.beat()
	blocks, unreadable := p.watch.blocks()
	verdicts := judgePools(p.watch.pools(), blocks, p.watch.reserved())
	bar(verdicts, v1.Network{Nodes: p.watch.nodes(), Services: p.services.ranges(ctx, p.now())})
	memory := map[types.UID]*poolMemory{}
	var errs []error
	for _, v := range verdicts {
		m := p.memory[v.UID]
		if m == nil {
			m = &poolMemory{full: told(v.Status)}
		}
		memory[v.UID] = m
		has := slices.Contains(v.Finalizers, v1.FinalizerPoolInUse)
		gone, err := false, error(nil)
		switch {
		case v.DeletionTimestamp == nil && v.cidr.IsValid() && !has:
			err = p.setFinalizers(ctx, v.IPPool, append(slices.Clone(v.Finalizers), v1.FinalizerPoolInUse))
		case v.DeletionTimestamp != nil && has && p.watch.locked():
			v.text = "is being deleted, which waits until the datastore is not locked any more (datastoreReady of ClusterInformation default)"
		case v.DeletionTimestamp != nil && has:
			gone, err = p.finalize(ctx, v, m, unreadable)
		}
		if err == nil && !gone {
			p.tellFullness(ctx, v, m)
			err = p.writeStatus(ctx, v, m)
		}
		if err != nil {
			errs = append(errs, fmt.Errorf("look after pool %s: %w", v.Name, err))
		}
	}
	p.memory = memory
	return errors.Join(errs...)
}

// finalize lets a pool go whose addresses are all free, after what is left of its
// blocks. gone reports that it did.
func (p *pools) finalize(ctx context.Context, v *verdict, m *poolMemory, unreadable map[string]bool) (gone bool, err error) {
	if v.cidr.IsValid() {
		if free, err := p.isFree(ctx, v, m, unreadable); err != nil || !free {
			return false, err
		}
	}
	keep := slices.DeleteFunc(slices.Clone(v.Finalizers), func(f string) bool { return f == v1.FinalizerPoolInUse })
	if err := p.setFinalizers(ctx, v.IPPool, keep); err != nil {
		return false, err
	}
	p.log.Info("pool let go: none of its addresses is in use", "pool", v.Name, "cidr", v.Spec.CIDR)
	return true, nil
}

// isFree clears the pool and reports whether nothing of it is left.
func (p *pools) isFree(ctx context.Context, v *verdict, m *poolMemory, unreadable map[string]bool) (bool, error) {
	if m.deleting.IsZero() {
		m.deleting = p.now()
	}
	if v.use.Addresses > 0 {
		p.tellWaiting(ctx, v, m)
	}
	if err := p.clear(ctx, v); err != nil {
		return false, err
	}
	if len(unreadable) > 0 {
		v.text = fmt.Sprintf("deletion waits: IPAMBlock %s is malformed and may be of this pool; mend or delete it",
			slices.Min(slices.Collect(maps.Keys(unreadable))))
		return false, nil
	}
	if quiet := m.deleting.Add(deletionQuiet).Sub(p.now()); quiet > 0 {
		p.later(quiet)
		return false, nil
	}
	left, err := p.left(ctx, v.cidr)
	if err == nil && left > 0 {
		p.later(statusEvery)
	}
	return left == 0, err
}

// clear removes the pool's empty blocks and the affinities to them.
func (p *pools) clear(ctx context.Context, v *verdict) error {
	named := map[netip.Prefix]bool{}
	var removals []gc.Removal
	for _, a := range p.watch.affinities() {
		if gc.In(a.CIDR, v.cidr) {
			named[a.CIDR] = true
			removals = append(removals, gc.Removal{CIDR: a.CIDR, Node: a.Node, Affinity: a.Name})
		}
	}
	for _, b := range v.blocks {
		if !named[b.CIDR()] {
			removals = append(removals, gc.Removal{CIDR: b.CIDR(), Node: b.Owner()})
		}
	}
	busy := map[netip.Prefix]bool{}
	for _, b := range v.blocks {
		busy[b.CIDR()] = b.Used() > 0
	}
	var errs []error
	for _, r := range removals {
		if busy[r.CIDR] {
			continue
		}
		outcome, err := p.sweep.take(ctx, r, true)
		if err != nil {
			errs = append(errs, err)
		} else if outcome != "" {
			p.log.Info(outcome, "block", r.CIDR, "node", r.Node, "reason", "pool "+v.Name+" is being deleted")
		}
		p.beat()
	}
	for _, b := range v.blocks {
		if b.Spec().Affinity == nil && b.Used() == 0 {
			errs = append(errs, p.sweep.deleteOrphan(ctx, b))
		}
	}
	return errors.Join(errs...)
}

// left counts the pool's blocks at the API server: the cache may be late, and
// what is decided here cannot be taken back.
func (p *pools) left(ctx context.Context, cidr netip.Prefix) (int, error) {
	blocks, malformed, err := p.sweep.store.Blocks.List(ctx, "")
	if err = errors.Join(append(malformed, err)...); err != nil {
		return 0, err
	}
	n := 0
	for _, o := range blocks {
		if b, err := o.Range(); err == nil && b.Overlaps(cidr) {
			n++
		}
	}
	return n, nil
}

// setFinalizers replaces the pool's finalizers if it is still the one that was
// seen. A pool that has changed comes again.
func (p *pools) setFinalizers(ctx context.Context, pool *v1.IPPool, finalizers []string) error {
	patch, err := json.Marshal(map[string]any{"metadata": map[string]any{"resourceVersion": pool.ResourceVersion, "finalizers": finalizers}})
	if err != nil {
		return err
	}
	_, err = p.client.Patch(ctx, pool.Name, types.MergePatchType, patch, metav1.PatchOptions{})
	return changedMeanwhile(err)
}

// writeStatus writes the pool's status when it is not what it should be, now or
// when it may be written again.
func (p *pools) writeStatus(ctx context.Context, v *verdict, m *poolMemory) error {
	want := v.status(metav1.NewTime(p.now().Truncate(time.Second)))
	if v.Status != nil && reflect.DeepEqual(v.Status, want) {
		return nil
	}
	if wait := m.written.Add(statusEvery).Sub(p.now()); !m.written.IsZero() && wait > 0 {
		p.later(wait)
		return nil
	}
	m.written = p.now()
	patch, err := json.Marshal(map[string]any{"metadata": map[string]any{"resourceVersion": v.ResourceVersion}, "status": want})
	if err != nil {
		return err
	}
	_, err = p.client.Patch(ctx, v.Name, types.MergePatchType, patch, metav1.PatchOptions{}, "status")
	if apierrors.IsConflict(err) {
		m.written = time.Time{}
	}
	return changedMeanwhile(err)
}

// changedMeanwhile drops errors after which the watch brings the object again.
func changedMeanwhile(err error) error {
	if apierrors.IsConflict(err) || apierrors.IsNotFound(err) {
		return nil
	}
	return err
}

// tellFullness raises an Event when the pool has become fuller by a step.
func (p *pools) tellFullness(ctx context.Context, v *verdict, m *poolMemory) {
	if !v.cidr.IsValid() {
		return
	}
	before := m.full
	m.full = fullnessOf(v.use, before)
	if m.full <= before {
		return
	}
	reason := "IPPoolNearlyFull"
	if m.full == full {
		reason = "IPPoolFull"
	}
	note := fmt.Sprintf("%d of %d addresses of %s are assigned (%s); add a pool before pods fail to start",
		v.use.Addresses, v.use.Capacity(), v.cidr, v.use.PercentText())
	p.log.Warn("pool is filling up", "pool", v.Name, "event", reason, "note", note)
	p.events.pool(ctx, v.IPPool, corev1.EventTypeWarning, reason, note)
}

// tellWaiting raises an Event when a deletion begins to wait.
func (p *pools) tellWaiting(ctx context.Context, v *verdict, m *poolMemory) {
	if m.waiting {
		return
	}
	m.waiting = true
	p.log.Info("pool cannot go yet", "pool", v.Name, "why", v.text)
	p.events.pool(ctx, v.IPPool, corev1.EventTypeNormal, "IPPoolInUse", v.text)
}
