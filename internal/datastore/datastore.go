package datastore

import (
	"context"
	"fmt"
	"log/slog"
	"maps"
	"net/netip"
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
	"github.com/manx-cni/manx/internal/bgpconfig"
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
	views     []*view // of the kinds that decide something of a snapshot
	kube      kubernetes.Interface
	node      string         // this one
	own       []netip.Prefix // its addresses, with their subnets
	services  atomic.Pointer[[]netip.Prefix]
	changed   chan struct{}
	reports   chan struct{} // has the invalid objects told of, and the passwords looked for
	secrets   *secrets
	announced *announced
	synced    atomic.Bool

	mu   sync.Mutex
	last *Snapshot       // as of the last change; nil: none yet
	seen *[]netip.Prefix // the services' ranges that it has
	// passwords are those that it has; a map that is another one was made again.
	passwords map[bgpconfig.SecretKey]bgpconfig.Password
	said      announcement // of services, that it has
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
	kindBGPFilter   = "BGPFilter"
	kindClusterInfo = "ClusterInformation"
	kindPod         = "Pod"
	kindNamespace   = "Namespace"
	// Of these two only while addresses of services are announced.
	kindService       = "Service"
	kindEndpointSlice = "EndpointSlice"
)

// New prepares the informers; Run starts them.
func New(cfg Config) (*Datastore, error) {
	core := informers.NewSharedInformerFactoryWithOptions(cfg.Kubernetes, 0,
		informers.WithTransform(func(o any) (any, error) { return trimNode(o, cfg.Node) }))
	custom := dynamicinformer.NewFilteredDynamicSharedInformerFactory(cfg.Dynamic, 0, metav1.NamespaceAll, nil)
	d := &Datastore{
		log:       cfg.Log,
		kube:      cfg.Kubernetes,
		node:      cfg.Node,
		own:       cfg.Own,
		factories: []factory{core, custom},
		changed:   make(chan struct{}, 1),
		reports:   make(chan struct{}, 1),
		informers: map[string]cache.SharedIndexInformer{kindNode: core.Core().V1().Nodes().Informer()},
	}
	d.events = newEventWriter(cfg.Kubernetes, cfg.Log, d.wake)
	d.secrets = newSecrets(cfg.Kubernetes, cfg.Log, d.wake)
	d.announced = newAnnounced(cfg.Kubernetes, cfg.Node, cfg.Log, d.wake)
	for _, r := range registered() {
		inf := d.informers[r.kind]
		if inf == nil {
			inf = custom.ForResource(apiv1.SchemeGroupVersion.WithResource(r.plural)).Informer()
			if err := inf.SetTransform(r.transform); err != nil {
				return nil, fmt.Errorf("set transform of %s informer: %w", r.kind, err)
			}
			d.informers[r.kind] = inf
		}
		v := &view{registration: r, informer: inf}
		if _, err := inf.AddEventHandler(v.handler(d.wake)); err != nil {
			return nil, fmt.Errorf("watch %s: %w", r.kind, err)
		}
		d.views = append(d.views, v)
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
	background.Go(func() { d.follow(ctx) })
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
	// The first snapshot has the services, too: a speaker that starts without them would
	// withdraw what its predecessor has announced.
	first := d.snapshot()
	select {
	case <-d.announced.want(ctx, first.BGP.Services, first.excluded(d.node)):
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
	for _, c := range []chan struct{}{d.changed, d.reports} {
		select {
		case c <- struct{}{}:
		default:
		}
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

// Snapshot is the current state; false before the first full sync. It asks nothing and
// writes nothing: what has not changed is what it was, up to the whole snapshot.
func (d *Datastore) Snapshot() (*Snapshot, bool) {
	if !d.synced.Load() {
		return nil, false
	}
	return d.snapshot(), true
}

// snapshot is the same once all informers have listed.
func (d *Datastore) snapshot() *Snapshot {
	d.mu.Lock()
	defer d.mu.Unlock()
	s := &Snapshot{}
	services := d.services.Load()
	passwords := d.secrets.current()
	said := d.announced.current()
	changed := d.last == nil || services != d.seen || !maps.Equal(passwords, d.passwords) || !said.equal(d.said)
	for _, v := range d.views {
		now, again := v.current()
		changed = changed || again
		if now.put != nil {
			now.put(s)
		}
		s.Invalid = append(s.Invalid, now.invalid...)
		s.settings = append(s.settings, now.settings...)
	}
	if !changed {
		return d.last
	}
	var ranges []netip.Prefix
	if services != nil {
		ranges = *services
	}
	s.Invalid = append(s.Invalid, settleNetwork(s, d.node, d.own, ranges)...)
	s.Invalid = append(s.Invalid, settleRanges(s, d.own)...)
	if s.Services = within(said.prefixes, s.BGP.Services.All()); said.err != nil {
		s.Invalid = append(s.Invalid, Invalid{Kind: kindBGPConf, Name: apiv1.DefaultName, Reason: "addresses of services: " + said.err.Error()})
	}
	for i := range s.Invalid { // what a reason quotes of an object is bounded for all readers
		s.Invalid[i].Reason = excerpt.Message(s.Invalid[i].Reason)
	}
	slices.SortStableFunc(s.Invalid, func(a, b Invalid) int { return strings.Compare(a.Kind+"/"+a.Name, b.Kind+"/"+b.Name) })
	slices.SortFunc(s.settings, compareSettings)
	s.passwords = passwords
	d.last, d.seen, d.passwords, d.said = s, services, passwords, said
	return s
}

// follow raises one Event per invalid object and reason, and has watched what the objects
// name (Secrets, and the services of ranges), whenever something has changed, until ctx ends.
func (d *Datastore) follow(ctx context.Context) {
	defer d.secrets.end()
	defer d.announced.end()
	for {
		select {
		case <-ctx.Done():
			return
		case <-d.reports:
		}
		s, ok := d.Snapshot()
		if !ok {
			continue
		}
		d.secrets.want(ctx, s.secretKeys())
		d.announced.want(ctx, s.BGP.Services, s.excluded(d.node))
		d.events.report(s.Invalid, func(kind, name string) (types.UID, bool) {
			// A kind of the cluster's is stored under its name. One that is gone by
			// now needs no Event.
			o, found, err := d.informers[kind].GetStore().GetByKey(name)
			if m, ok := o.(metav1.Object); err == nil && found && ok {
				return m.GetUID(), true
			}
			return "", false
		})
	}
}

// NodeEvent raises an Event about a Node: something that happened on it, with a
// reason in CamelCase. It does not wait, and gives up when the API is away.
func (d *Datastore) NodeEvent(node, reason, note string) {
	if o, found, err := d.informers[kindNode].GetStore().GetByKey(node); err == nil && found {
		d.events.happened(o.(*nodeObject).ObjectMeta, corev1.EventTypeNormal, reason, note)
	}
}

// NodeWarning is NodeEvent for what is wrong, and stays so until it is mended.
func (d *Datastore) NodeWarning(node, reason, note string) {
	if o, found, err := d.informers[kindNode].GetStore().GetByKey(node); err == nil && found {
		d.events.happened(o.(*nodeObject).ObjectMeta, corev1.EventTypeWarning, reason, note)
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
