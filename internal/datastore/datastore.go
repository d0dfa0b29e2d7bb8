package datastore

import (
	"context"
	"fmt"
	"log/slog"
	"net/netip"
	"reflect"
	"slices"
	"strings"
	"sync"
	"sync/atomic"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/dynamic"
	"k8s.io/client-go/dynamic/dynamicinformer"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/metadata"
	"k8s.io/client-go/tools/cache"

	apiv1 "github.com/manx-cni/manx/api/v1"
	"github.com/manx-cni/manx/internal/excerpt"
)

// Config says where the cluster is.
type Config struct {
	Kubernetes kubernetes.Interface
	Dynamic    dynamic.Interface
	// Metadata reads namespaces; nil: none is known.
	Metadata metadata.Interface
	// Own are the addresses of this node with their subnets, by its kernel.
	Own []netip.Prefix
	// Node is whose pods are watched; empty: none is known.
	Node string
	Log  *slog.Logger
}

// Datastore watches the cluster and offers snapshots of it.
type Datastore struct {
	log       *slog.Logger
	events    *eventWriter
	informers map[string]cache.SharedIndexInformer // by Kind
	factories []factory
	owners    owners
	kube      kubernetes.Interface
	node      string         // this one
	own       []netip.Prefix // its addresses, with their subnets
	services  atomic.Pointer[[]netip.Prefix]
	changed   chan struct{}
	synced    atomic.Bool
}

type factory interface {
	Start(stop <-chan struct{})
	Shutdown()
}

// The kinds that are watched.
const (
	kindNode        = "Node"
	kindPool        = "IPPool"
	kindAffinity    = "BlockAffinity"
	kindReservation = "IPReservation"
	kindIPAMConfig  = "IPAMConfig"
	kindBGPConf     = "BGPConfiguration"
	kindFelix       = "FelixConfiguration"
	kindBGPPeer     = "BGPPeer"
	kindClusterInfo = "ClusterInformation"
	kindPod         = "Pod"
	kindNamespace   = "Namespace"
)

// New prepares the informers; Run starts them.
func New(cfg Config) (*Datastore, error) {
	core := informers.NewSharedInformerFactoryWithOptions(cfg.Kubernetes, 0, informers.WithTransform(func(o any) (any, error) { return trimNode(o, cfg.Node) }))
	custom := dynamicinformer.NewFilteredDynamicSharedInformerFactory(cfg.Dynamic, 0, metav1.NamespaceAll, nil)
	d := &Datastore{
		log:       cfg.Log,
		kube:      cfg.Kubernetes,
		node:      cfg.Node,
		own:       cfg.Own,
		factories: []factory{core, custom},
		changed:   make(chan struct{}, 1),
		informers: map[string]cache.SharedIndexInformer{kindNode: core.Core().V1().Nodes().Informer()},
	}
	d.events = newEventWriter(cfg.Kubernetes, cfg.Log, d.wake)
	for kind, of := range map[string]struct {
		plural    string
		transform cache.TransformFunc
	}{
		kindPool:        {apiv1.PluralIPPools, decodeInto[apiv1.IPPool]},
		kindAffinity:    {apiv1.PluralBlockAffinities, trimAffinity},
		kindReservation: {apiv1.PluralIPReservations, decodeInto[apiv1.IPReservation]},
		kindIPAMConfig:  {apiv1.PluralIPAMConfigs, decodeInto[apiv1.IPAMConfig]},
		kindBGPConf:     {apiv1.PluralBGPConfigurations, decodeInto[apiv1.BGPConfiguration]},
		kindFelix:       {apiv1.PluralFelixConfigurations, decodeInto[apiv1.FelixConfiguration]},
		kindBGPPeer:     {apiv1.PluralBGPPeers, decodeInto[apiv1.BGPPeer]},
		kindClusterInfo: {apiv1.PluralClusterInformations, decodeInto[apiv1.ClusterInformation]},
	} {
		d.informers[kind] = custom.ForResource(apiv1.SchemeGroupVersion.WithResource(of.plural)).Informer()
		if err := d.informers[kind].SetTransform(of.transform); err != nil {
			return nil, fmt.Errorf("set transform of %s informer: %w", kind, err)
		}
	}
	handler := cache.ResourceEventHandlerFuncs{
		AddFunc:    func(any) { d.wake() },
		DeleteFunc: func(any) { d.wake() },
		UpdateFunc: func(old, cur any) {
			if !same(old, cur) { // kubelets touch their Node every few minutes
				d.wake()
			}
		},
	}
	for kind, inf := range d.informers {
		h := cache.ResourceEventHandler(handler)
		if kind == kindAffinity {
			h = d.owners.handler(d.wake)
		}
		if _, err := inf.AddEventHandler(h); err != nil {
			return nil, fmt.Errorf("watch %s: %w", kind, err)
		}
	}
	if err := d.watchWorkloads(cfg); err != nil {
		return nil, err
	}
	return d, nil
}

// watchWorkloads adds the informers that have no handler.
func (d *Datastore) watchWorkloads(cfg Config) error {
	if cfg.Node != "" {
		pods, inf := watchPods(cfg.Kubernetes, cfg.Node)
		d.factories, d.informers[kindPod] = append(d.factories, pods), inf
	}
	if cfg.Metadata != nil {
		namespaces, inf, err := watchNamespaces(cfg.Metadata)
		if err != nil {
			return fmt.Errorf("set transform of %s informer: %w", kindNamespace, err)
		}
		d.factories, d.informers[kindNamespace] = append(d.factories, namespaces), inf
	}
	return nil
}

// Run watches until ctx ends. It returns nil then.
func (d *Datastore) Run(ctx context.Context) error {
	for _, f := range d.factories {
		f.Start(ctx.Done())
		defer f.Shutdown()
	}
	read := make(chan struct{})
	var background sync.WaitGroup
	defer background.Wait()
	background.Go(func() { d.watchServices(ctx, read) })
	for _, inf := range d.informers {
		if !cache.WaitForCacheSync(ctx.Done(), inf.HasSynced) {
			return nil // ctx ended first
		}
	}
	select {
	case <-read:
	case <-ctx.Done():
		return nil
	}
	d.synced.Store(true)
	d.wake()
	d.events.run(ctx)
	return nil
}

// Changed carries no data: it says that Snapshot may differ from the last one.
func (d *Datastore) Changed() <-chan struct{} { return d.changed }

func (d *Datastore) wake() {
	select {
	case d.changed <- struct{}{}:
	default:
	}
}

// Ready tells which kinds have not been listed yet.
func (d *Datastore) Ready() error {
	var missing []string
	for kind, inf := range d.informers {
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

// Snapshot computes the current state; false before the first full sync.
func (d *Datastore) Snapshot() (*Snapshot, bool) {
	if !d.synced.Load() {
		return nil, false
	}
	s := &Snapshot{BGP: BGPConfiguration{NodeToNodeMesh: true, AS: defaultAS, ListenPort: defaultListenPort}}
	for _, o := range d.informers[kindNode].GetStore().List() {
		t := o.(*nodeObject).trimmed
		if t.err != nil {
			s.Invalid = append(s.Invalid, Invalid{Kind: kindNode, Name: t.node.Name, Reason: oneLine(t.err)})
			continue
		}
		if t.without != nil {
			s.Invalid = append(s.Invalid, Invalid{Kind: kindNode, Name: t.node.Name, Reason: oneLine(t.without) + "; the node is used without it"})
		}
		s.Nodes = append(s.Nodes, t.node)
	}
	slices.SortFunc(s.Nodes, func(a, b Node) int { return strings.Compare(a.Name, b.Name) })
	s.Invalid = append(s.Invalid, settleClaims(s.Nodes)...)

	pools, bad := decoded[apiv1.IPPool](d.informers[kindPool], kindPool)
	s.Invalid = append(s.Invalid, bad...)
	kept, bad := settlePools(pools)
	s.Pools, s.Invalid = kept, append(s.Invalid, bad...)
	s.Forced, bad = settleForced(kept)
	s.Invalid = append(s.Invalid, bad...)
	s.Owners, bad = d.owners.current(d.informers[kindAffinity])
	s.Invalid = append(s.Invalid, bad...)
	s.Invalid = append(s.Invalid, malformedSelectors(kept)...)
	var services []netip.Prefix
	if p := d.services.Load(); p != nil {
		services = *p
	}
	s.Invalid = append(s.Invalid, settleNetwork(s, d.node, d.own, services)...)

	reservations, bad := decoded[apiv1.IPReservation](d.informers[kindReservation], kindReservation)
	s.Invalid = append(s.Invalid, bad...)
	s.Reserved, bad = settleReserved(reservations)
	s.Invalid = append(s.Invalid, bad...)
	ipamConfigs, bad := decoded[apiv1.IPAMConfig](d.informers[kindIPAMConfig], kindIPAMConfig)
	s.Invalid = append(s.Invalid, bad...)
	s.Invalid = append(s.Invalid, unreadIPAM(ipamConfigs)...)

	confs, bad := decoded[apiv1.BGPConfiguration](d.informers[kindBGPConf], kindBGPConf)
	s.Invalid = append(s.Invalid, bad...)
	for _, c := range confs {
		if c.Name == "default" {
			s.BGP = settleBGP(c.Spec)
		}
	}
	felix, bad := decoded[apiv1.FelixConfiguration](d.informers[kindFelix], kindFelix)
	s.Invalid = append(s.Invalid, bad...)
	s.felix, bad = settleFelix(felix)
	s.Invalid = append(s.Invalid, bad...)
	s.settings = collectSettings(d.informers)
	infos, bad := decoded[apiv1.ClusterInformation](d.informers[kindClusterInfo], kindClusterInfo)
	s.Invalid = append(s.Invalid, bad...)
	s.Locked = slices.ContainsFunc(infos, func(i *apiv1.ClusterInformation) bool { return i.Name == apiv1.DefaultName && i.Locked() })
	slices.SortFunc(s.Invalid, func(a, b Invalid) int { return strings.Compare(a.Kind+"/"+a.Name, b.Kind+"/"+b.Name) })
	d.report(s.Invalid)
	return s, true
}

// report raises one Event per invalid object and reason. What the reason quotes of the
// object is bounded here, for all readers of the snapshot.
func (d *Datastore) report(invalid []Invalid) {
	for i := range invalid {
		invalid[i].Reason = excerpt.Message(invalid[i].Reason)
	}
	d.events.report(invalid, func(kind, name string) (types.UID, bool) {
		// A kind of the cluster's is stored under its name. One that is gone by
		// now needs no Event.
		o, found, err := d.informers[kind].GetStore().GetByKey(name)
		if m, ok := o.(metav1.Object); err == nil && found && ok {
			return m.GetUID(), true
		}
		return "", false
	})
}

// NodeEvent raises an Event about a Node: something that happened on it, with a
// reason in CamelCase. It does not wait, and gives up when the API is away.
func (d *Datastore) NodeEvent(node, reason, note string) {
	if o, found, err := d.informers[kindNode].GetStore().GetByKey(node); err == nil && found {
		d.events.happened(o.(*nodeObject).ObjectMeta, reason, note)
	}
}

// object is a decoded custom resource as the informer keeps it.
type object[T any] struct {
	metav1.ObjectMeta
	value *T
	err   error
	set   ObjectSettings
}

// nodeObject is a Node as the informer keeps it.
type nodeObject struct {
	metav1.ObjectMeta
	trimmed trimmedNode
	own     *Own // of the agent's own Node
}

// identity is what remains of an object's metadata after trimming.
func identity(m metav1.Object) metav1.ObjectMeta {
	return metav1.ObjectMeta{Name: m.GetName(), UID: m.GetUID(), ResourceVersion: m.GetResourceVersion()}
}

// trimNode keeps what is used of a Node: more of the agent's own.
func trimNode(o any, own string) (any, error) {
	n, ok := o.(*corev1.Node)
	if !ok {
		return o, nil
	}
	kept := &nodeObject{ObjectMeta: identity(n), trimmed: parseNode(n)}
	if n.Name == own {
		kept.own = ownOf(n)
	}
	return kept, nil
}

// decodeInto turns an unstructured object into T on arrival. One that does not
// fit is kept as its error: a typed informer would fail its whole list instead.
func decodeInto[T any](o any) (any, error) {
	u, ok := o.(*unstructured.Unstructured)
	if !ok {
		return o, nil
	}
	v := new(T)
	err := runtime.DefaultUnstructuredConverter.FromUnstructured(u.Object, v)
	return &object[T]{ObjectMeta: identity(u), value: v, err: err, set: settingsOf[T](u)}, nil
}

// same reports whether nothing that is used has changed.
func same(old, cur any) bool {
	return sameSettings(old, cur) && reflect.DeepEqual(essence(old), essence(cur))
}

// essence strips what changes without meaning from a kept object.
func essence(o any) any {
	switch o := o.(type) {
	case *nodeObject:
		return o.trimmed
	case *object[apiv1.IPPool]:
		mode, err := forcedMode(o.value)
		return [6]any{o.value.Spec, o.value.Generation, o.value.DeletionTimestamp != nil, o.err, mode, err}
	case *affinityObject:
		return o.claim
	case *object[apiv1.IPReservation]:
		return [2]any{o.value.Spec, o.err}
	case *object[apiv1.IPAMConfig]:
		return [2]any{o.value.Spec, o.err}
	case *object[apiv1.BGPConfiguration]:
		return [2]any{o.value.Spec, o.err}
	case *object[apiv1.FelixConfiguration]:
		return [2]any{o.value.Spec, o.err}
	case *object[apiv1.ClusterInformation]:
		return [2]any{o.value.Locked(), o.err}
	case *object[apiv1.BGPPeer]:
		return o.err // its settings are compared beside
	}
	return o
}

// decoded lists an informer's objects of type T and those that did not decode.
func decoded[T any](inf cache.SharedIndexInformer, kind string) (out []*T, invalid []Invalid) {
	for _, o := range inf.GetStore().List() {
		obj, ok := o.(*object[T])
		if !ok {
			continue
		}
		if obj.err != nil {
			invalid = append(invalid, Invalid{Kind: kind, Name: obj.Name, Reason: oneLine(obj.err)})
			continue
		}
		out = append(out, obj.value)
	}
	return out, invalid
}

// settleBGP fills Calico's defaults into a BGPConfiguration.
func settleBGP(spec apiv1.BGPConfigurationSpec) BGPConfiguration {
	out := BGPConfiguration{NodeToNodeMesh: true, AS: defaultAS, ListenPort: defaultListenPort}
	if spec.NodeToNodeMeshEnabled != nil {
		out.NodeToNodeMesh = *spec.NodeToNodeMeshEnabled
	}
	if spec.ASNumber != nil && *spec.ASNumber != 0 {
		out.AS = uint32(*spec.ASNumber)
	}
	if spec.ListenPort != 0 {
		out.ListenPort = uint16(spec.ListenPort)
	}
	return out
}
