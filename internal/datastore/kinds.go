package datastore

import (
	"cmp"
	"reflect"
	"slices"
	"strings"
	"sync/atomic"

	"k8s.io/client-go/tools/cache"

	apiv1 "github.com/manx-cni/manx/api/v1"
)

// registration is one kind of object that decides something of a snapshot: how it is kept,
// what of a change means anything, and what its objects come to. A kind more is a line in
// registered.
type registration struct {
	kind, plural string
	transform    cache.TransformFunc
	// silent reports an object that comes to nothing: that it is there or not is no change.
	// Nil: no object is.
	silent func(o any) bool
	// essence is what of a kept object means anything; nil: all of it.
	essence func(o any) any
	// settle computes what the objects come to.
	settle func(objects []any) settled
}

// settled is what the objects of a kind come to.
type settled struct {
	put      func(*Snapshot) // puts it into a snapshot; nil for nothing
	invalid  []Invalid
	settings []ObjectSettings // of objects that have some without effect
}

// registered lists the kinds, in the order in which they are put into a snapshot.
func registered() []registration {
	return []registration{
		{kind: kindNode, settle: settleNodes, essence: func(o any) any { return o.(*nodeObject).trimmed }},
		resource(kindPool, apiv1.PluralIPPools, func(p *apiv1.IPPool) any {
			mode, err := forcedMode(p)
			return [5]any{p.Spec, p.Generation, p.DeletionTimestamp != nil, mode, err}
		}, func(pools []*apiv1.IPPool) (func(*Snapshot), []Invalid) {
			kept, invalid := settlePools(pools)
			forced, bad := settleForced(kept)
			return func(s *Snapshot) { s.Pools, s.Forced = kept, forced }, slices.Concat(invalid, bad, malformedSelectors(kept))
		}),
		affinities(),
		resource(kindReservation, apiv1.PluralIPReservations, func(r *apiv1.IPReservation) any { return r.Spec },
			func(all []*apiv1.IPReservation) (func(*Snapshot), []Invalid) {
				reserved, invalid := settleReserved(all)
				return func(s *Snapshot) { s.Reserved = reserved }, invalid
			}),
		resource(kindIPAMConfig, apiv1.PluralIPAMConfigs, func(c *apiv1.IPAMConfig) any { return c.Spec },
			func(all []*apiv1.IPAMConfig) (func(*Snapshot), []Invalid) { return nil, unreadIPAM(all) }),
		resource(kindBGPConf, apiv1.PluralBGPConfigurations, func(c *apiv1.BGPConfiguration) any { return c.Spec },
			func(all []*apiv1.BGPConfiguration) (func(*Snapshot), []Invalid) {
				conf, invalid := settleBGP(all)
				return func(s *Snapshot) { s.BGP = conf }, invalid
			}),
		resource(kindBGPPeer, apiv1.PluralBGPPeers, func(p *apiv1.BGPPeer) any { return p.Spec },
			func(all []*apiv1.BGPPeer) (func(*Snapshot), []Invalid) {
				peers, invalid := settlePeers(all)
				return func(s *Snapshot) { s.BGPPeers = peers }, invalid
			}),
		resource(kindBGPFilter, apiv1.PluralBGPFilters, func(f *apiv1.BGPFilter) any { return f.Spec },
			func(all []*apiv1.BGPFilter) (func(*Snapshot), []Invalid) {
				filters, invalid := settleFilters(all)
				return func(s *Snapshot) { s.BGPFilters = filters }, invalid
			}),
		resource(kindFelix, apiv1.PluralFelixConfigurations, func(c *apiv1.FelixConfiguration) any { return c.Spec },
			func(all []*apiv1.FelixConfiguration) (func(*Snapshot), []Invalid) {
				specs, invalid := settleFelix(all)
				return func(s *Snapshot) { s.felix = specs }, invalid
			}),
		resource(kindClusterInfo, apiv1.PluralClusterInformations, func(i *apiv1.ClusterInformation) any {
			return [2]any{i.Locked(), i.Spec.CalicoVersion}
		}, func(all []*apiv1.ClusterInformation) (func(*Snapshot), []Invalid) {
			var locked bool
			var localPref uint32
			for _, i := range all {
				if i.Name == apiv1.DefaultName {
					locked, localPref = i.Locked(), besideCalico(i.Spec.CalicoVersion)
				}
			}
			return func(s *Snapshot) { s.Locked, s.LocalPref = locked, localPref }, nil
		}),
	}
}

// resource registers a custom resource. Objects that do not decode are invalid, and settle
// is given the others; nil does nothing with either.
func resource[T any](kind, plural string, essence func(*T) any, settle func([]*T) (func(*Snapshot), []Invalid)) registration {
	return registration{
		kind: kind, plural: plural, transform: decodeInto[T],
		essence: func(o any) any {
			obj := o.(*object[T])
			return [2]any{essence(obj.value), obj.err}
		},
		settle: func(objects []any) (out settled) {
			var values []*T
			for _, o := range objects {
				obj, ok := o.(*object[T])
				if !ok {
					continue
				}
				out.settings = append(out.settings, obj.set)
				switch {
				case obj.err == nil:
					values = append(values, obj.value)
				case settle != nil:
					out.invalid = append(out.invalid, Invalid{Kind: kind, Name: obj.Name, Reason: oneLine(obj.err)})
				}
			}
			if settle != nil {
				var invalid []Invalid
				out.put, invalid = settle(values)
				out.invalid = append(out.invalid, invalid...)
			}
			return out
		},
	}
}

// view is what a kind comes to, computed again only when it has changed: snapshots are
// taken at every change of anything.
type view struct {
	registration
	informer cache.SharedIndexInformer
	stale    atomic.Bool // set after the informer's store has changed

	// Guarded by the datastore's lock. What is in settled was handed out: it is replaced,
	// never changed.
	computed bool
	settled  settled
}

// current is what the informer's store comes to now; changed tells whether it was computed
// again.
func (v *view) current() (s settled, changed bool) {
	// What changes from here on makes it stale again.
	if v.stale.Swap(false) || !v.computed {
		v.settled, v.computed, changed = v.settle(v.informer.GetStore().List()), true, true
	}
	return v.settled, changed
}

// handler tells what changes the view.
func (v *view) handler(wake func()) cache.ResourceEventHandler {
	touched := func(o any) {
		if v.silent != nil && v.silent(o) {
			return
		}
		v.stale.Store(true)
		wake()
	}
	return cache.ResourceEventHandlerFuncs{
		AddFunc:    touched,
		DeleteFunc: touched,
		UpdateFunc: func(old, cur any) {
			if !v.same(old, cur) { // kubelets touch their Node every few minutes
				v.stale.Store(true)
				wake()
			}
		},
	}
}

// same reports whether nothing that is used has changed.
func (v *view) same(old, cur any) bool {
	return sameSettings(old, cur) && reflect.DeepEqual(v.essence(old), v.essence(cur))
}

// settleNodes are the nodes by name, those that cannot be used left out.
func settleNodes(objects []any) settled {
	var nodes []Node
	var invalid []Invalid
	for _, o := range objects {
		obj, ok := o.(*nodeObject)
		if !ok {
			continue
		}
		t := obj.trimmed
		if t.err != nil {
			invalid = append(invalid, Invalid{Kind: kindNode, Name: t.node.Name, Reason: oneLine(t.err)})
			continue
		}
		if t.without != nil {
			invalid = append(invalid, Invalid{Kind: kindNode, Name: t.node.Name, Reason: oneLine(t.without) + "; the node is used without it"})
		}
		nodes = append(nodes, t.node)
	}
	slices.SortFunc(nodes, func(a, b Node) int { return strings.Compare(a.Name, b.Name) })
	invalid = append(invalid, settleClaims(nodes)...)
	// A clone: settleNetwork takes addresses from nodes of a snapshot.
	return settled{put: func(s *Snapshot) { s.Nodes = slices.Clone(nodes) }, invalid: invalid}
}

// compareSettings orders by kind and name.
func compareSettings(a, b ObjectSettings) int {
	return cmp.Or(cmp.Compare(a.Kind, b.Kind), cmp.Compare(a.Name, b.Name))
}
