package controllers

import (
	"context"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/dynamic"
	"k8s.io/client-go/dynamic/dynamicinformer"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/cache"

	v1 "github.com/manx-cni/manx/api/v1"
	"github.com/manx-cni/manx/internal/datastore"
	"github.com/manx-cni/manx/ipam/block"
	"github.com/manx-cni/manx/ipam/gc"
)

// The kinds that are watched, as they are named in messages.
const (
	kindPod         = "Pod"
	kindNode        = "Node"
	kindBlock       = "IPAMBlock"
	kindAffinity    = "BlockAffinity"
	kindHandle      = "IPAMHandle"
	kindPool        = "IPPool"
	kindReservation = "IPReservation"
	kindConfig      = "KubeControllersConfiguration"
	kindInformation = "ClusterInformation"
)

// watch is the cluster as the informers see it.
type watch struct {
	epoch     *epoch
	informers map[string]cache.SharedIndexInformer // by kind
	factories []factory
	// configured has a value after a change of the settings.
	configured chan struct{}
}

type factory interface {
	Start(stop <-chan struct{})
	Shutdown()
}

// newWatch prepares the informers; run starts them. changed is called after a
// change of what pools are judged by.
func newWatch(kube kubernetes.Interface, custom dynamic.Interface, e *epoch, changed func()) (*watch, error) {
	core := informers.NewSharedInformerFactoryWithOptions(kube, 0, informers.WithTransform(trimCore))
	dyn := dynamicinformer.NewFilteredDynamicSharedInformerFactory(custom, 0, metav1.NamespaceAll, nil)
	w := &watch{epoch: e, configured: make(chan struct{}, 1), factories: []factory{core, dyn}, informers: map[string]cache.SharedIndexInformer{
		kindPod:  core.Core().V1().Pods().Informer(),
		kindNode: core.Core().V1().Nodes().Informer(),
	}}
	for _, c := range []struct {
		kind, plural string
		trim         cache.TransformFunc
	}{
		{kindBlock, v1.PluralIPAMBlocks, trimWith(blockOf)},
		{kindAffinity, v1.PluralBlockAffinities, trimWith(affinityOf)},
		{kindHandle, v1.PluralIPAMHandles, trimWith(handleOf)},
		{kindPool, v1.PluralIPPools, trimWith(poolOf)},
		{kindReservation, v1.PluralIPReservations, trimWith(reservedOf)},
		{kindConfig, v1.PluralKubeControllersConfigurations, trimWith(configOf)},
		{kindInformation, v1.PluralClusterInformations, trimWith(lockedOf)},
	} {
		inf := dyn.ForResource(v1.SchemeGroupVersion.WithResource(c.plural)).Informer()
		if err := inf.SetTransform(c.trim); err != nil {
			return nil, fmt.Errorf("set transform of %s informer: %w", c.kind, err)
		}
		w.informers[c.kind] = inf
	}
	for kind, inf := range w.informers {
		err := inf.SetWatchErrorHandlerWithContext(func(ctx context.Context, r *cache.Reflector, err error) {
			e.bump()
			cache.DefaultWatchErrorHandler(ctx, r, err)
		})
		if err != nil {
			return nil, fmt.Errorf("watch %s: %w", kind, err)
		}
	}
	configured := func() {
		select {
		case w.configured <- struct{}{}:
		default:
		}
	}
	for kind, tell := range map[string]func(){
		kindBlock: changed, kindPool: changed, kindReservation: changed, kindConfig: configured, kindInformation: w.lockChanged(changed),
	} {
		_, err := w.informers[kind].AddEventHandler(cache.ResourceEventHandlerFuncs{
			AddFunc: func(any) { tell() }, UpdateFunc: func(_, _ any) { tell() }, DeleteFunc: func(any) { tell() },
		})
		if err != nil {
			return nil, fmt.Errorf("watch %s: %w", kind, err)
		}
	}
	return w, nil
}

// run watches until ctx ends.
func (w *watch) run(ctx context.Context) error {
	for _, f := range w.factories {
		f.Start(ctx.Done())
		defer f.Shutdown()
	}
	<-ctx.Done()
	return nil
}

// wait returns when every kind has been listed, or ctx has ended.
func (w *watch) wait(ctx context.Context) bool {
	for _, inf := range w.informers {
		if !cache.WaitForCacheSync(ctx.Done(), inf.HasSynced) {
			return false
		}
	}
	return true
}

// synced says which kinds have not been listed yet.
func (w *watch) synced() error {
	var missing []string
	for kind, inf := range w.informers {
		if !inf.HasSynced() {
			missing = append(missing, kind)
		}
	}
	if len(missing) == 0 {
		return nil
	}
	slices.Sort(missing)
	return fmt.Errorf("waiting for the first list of %s from the Kubernetes API", strings.Join(missing, ", "))
}

// each yields the objects of a kind.
func each[T any](w *watch, kind string, yield func(*kept[T])) {
	for _, o := range w.informers[kind].GetStore().List() {
		if k, ok := o.(*kept[T]); ok {
			yield(k)
		}
	}
}

// snapshot is the cluster for the collector. The epoch is read first: what breaks
// meanwhile makes the snapshot older than it says, never newer.
func (w *watch) snapshot() *gc.Snapshot {
	s := &gc.Snapshot{Epoch: w.epoch.now(), Facts: gc.Facts{Nodes: map[string]bool{}, Pods: map[gc.PodKey]gc.Pod{}}}
	s.Blocks, s.Unreadable = w.blocks()
	each(w, kindAffinity, func(o *kept[*gc.Affinity]) {
		if o.err == nil && o.value != nil {
			s.Affinities = append(s.Affinities, *o.value)
		}
	})
	each(w, kindHandle, func(o *kept[*gc.Handle]) {
		if o.err == nil && o.value != nil {
			s.Handles = append(s.Handles, *o.value)
		}
	})
	// Pods and nodes last: an allocation that is in the blocks above was made for a
	// pod that existed before.
	each(w, kindNode, func(o *kept[[]netip.Addr]) { s.Nodes[o.Name] = true })
	each(w, kindPod, func(o *kept[gc.Pod]) { s.Pods[gc.PodKey{Namespace: o.Namespace, Name: o.Name}] = o.value })
	return s
}

// blocks returns the blocks, and the names of those that make no sense.
func (w *watch) blocks() (blocks []gc.Block, unreadable map[string]bool) {
	unreadable = map[string]bool{}
	each(w, kindBlock, func(o *kept[*block.Block]) {
		switch {
		case o.err != nil:
			unreadable[o.Name] = true
		case o.value != nil:
			blocks = append(blocks, gc.Block{Block: o.value, Name: o.Name, Version: o.ResourceVersion})
		}
	})
	return blocks, unreadable
}

// affinities returns the affinities of hosts.
func (w *watch) affinities() (out []gc.Affinity) {
	each(w, kindAffinity, func(o *kept[*gc.Affinity]) {
		if o.err == nil && o.value != nil {
			out = append(out, *o.value)
		}
	})
	return out
}

// pools returns the pools by name. They must not be changed.
func (w *watch) pools() (out []*v1.IPPool) {
	each(w, kindPool, func(o *kept[*v1.IPPool]) {
		if o.err == nil {
			out = append(out, o.value)
		}
	})
	slices.SortFunc(out, func(a, b *v1.IPPool) int { return strings.Compare(a.Name, b.Name) })
	return out
}

// reserved returns what reservations hold back.
func (w *watch) reserved() (out []netip.Prefix) {
	each(w, kindReservation, func(o *kept[[]netip.Prefix]) { out = append(out, o.value...) })
	return out
}

// nodes returns the addresses of nodes, by their status, with the nodes' names. What is
// in the block of another node is not believed, as in internal/datastore.
func (w *watch) nodes() map[netip.Addr]string {
	owners := map[netip.Prefix]string{}
	for _, a := range w.affinities() {
		if a.State.Confirmed() {
			owners[a.CIDR] = a.Node
		}
	}
	out := map[netip.Addr]string{}
	each(w, kindNode, func(o *kept[[]netip.Addr]) {
		for _, a := range o.value {
			if owner := datastore.BlockOwner(owners, a); owner == "" || owner == o.Name {
				out[a] = o.Name
			}
		}
	})
	return out
}

// leakGrace returns the leakGracePeriod of the KubeControllersConfiguration
// default, or otherwise.
func (w *watch) leakGrace(otherwise time.Duration) (time.Duration, error) {
	o, found, err := w.informers[kindConfig].GetStore().GetByKey(v1.DefaultName)
	if err != nil || !found {
		return otherwise, err
	}
	k, ok := o.(*kept[v1.KubeControllersConfigurationSpec])
	if !ok {
		return otherwise, nil
	}
	if k.err != nil {
		return otherwise, fmt.Errorf("KubeControllersConfiguration %s: %w", v1.DefaultName, k.err)
	}
	if n := k.value.Controllers.Node; n != nil && n.LeakGracePeriod != nil {
		return n.LeakGracePeriod.Duration, nil
	}
	return otherwise, nil
}

// fresh asks the API server whether its pods are older than what the informer
// has seen: then etcd was restored from a copy, and a watch that goes on sees
// nothing of it.
func (w *watch) fresh(ctx context.Context, kube kubernetes.Interface) error {
	list, err := kube.CoreV1().Pods(corev1.NamespaceAll).List(ctx, metav1.ListOptions{Limit: 1})
	if err != nil {
		return fmt.Errorf("ask the API server for its state: %w", err)
	}
	have := w.informers[kindPod].LastSyncResourceVersion()
	if backwards(have, list.ResourceVersion) {
		return fmt.Errorf("%w: pods are at %s, %s was seen before", errBackwards, list.ResourceVersion, have)
	}
	return nil
}
