package datastore

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"slices"
	"strings"
	"sync"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/cache"

	"github.com/manx-cni/manx/bgp/services"
	"github.com/manx-cni/manx/internal/excerpt"
	"github.com/manx-cni/manx/internal/family"
)

// announced keeps what this node announces of services. It watches Services and
// EndpointSlices while there are ranges to announce, and not otherwise: a cluster can have
// very many of them. What is kept of a Service is its addresses and its policy, of an
// EndpointSlice whether it has a ready endpoint on this node. Snapshots are told when the
// result is another one, not of every object.
type announced struct {
	kube kubernetes.Interface
	node string // this one
	log  *slog.Logger
	wake func() // the result has changed

	mu       sync.Mutex
	ranges   services.Ranges // wanted
	excluded bool
	watched  *serviceWatch // nil: nothing is watched
	result   announcement
}

// announcement is what is announced of services.
type announcement struct {
	prefixes []netip.Prefix // replaced, never changed
	// err says why the objects cannot be read.
	err error
}

func (a announcement) equal(o announcement) bool {
	return slices.Equal(a.prefixes, o.prefixes) && fmt.Sprint(a.err) == fmt.Sprint(o.err)
}

// serviceWatch is one watch of both kinds.
type serviceWatch struct {
	stop             context.CancelFunc
	done             chan struct{}
	services, slices cache.SharedIndexInformer
	touched          chan struct{} // something that counts has changed
	// read is closed when both kinds are listed, or cannot be.
	read     chan struct{}
	readOnce sync.Once

	mu        sync.Mutex
	forbidden map[string]error // by kind
}

func newAnnounced(kube kubernetes.Interface, node string, log *slog.Logger, wake func()) *announced {
	return &announced{kube: kube, node: node, log: log, wake: wake}
}

// current is what is known now.
func (a *announced) current() announcement {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.result
}

// want has the addresses in the ranges announced, until ctx ends. It returns a channel that
// is closed once it is known what that comes to.
func (a *announced) want(ctx context.Context, ranges services.Ranges, excluded bool) <-chan struct{} {
	a.mu.Lock()
	var ended *serviceWatch
	switch {
	case ranges.Empty() && a.watched != nil:
		ended, a.watched = a.watched, nil
	case !ranges.Empty() && a.watched == nil:
		a.watched = a.watch(ctx)
	}
	if !ranges.Equal(a.ranges) || excluded != a.excluded {
		a.ranges, a.excluded = ranges, excluded
		if a.watched != nil {
			a.watched.touch()
		}
	}
	w := a.watched
	changed := false
	if w == nil {
		changed = !a.result.equal(announcement{})
		a.result = announcement{}
	}
	a.mu.Unlock()
	if ended != nil {
		ended.stop()
		<-ended.done
	}
	if changed {
		a.wake()
	}
	if w == nil {
		known := make(chan struct{})
		close(known)
		return known
	}
	return w.read
}

// end ends the watch and returns when it has ended.
func (a *announced) end() {
	a.mu.Lock()
	w := a.watched
	a.mu.Unlock()
	if w != nil {
		w.stop()
		<-w.done
	}
}

// watch starts to watch both kinds.
func (a *announced) watch(ctx context.Context) *serviceWatch {
	ctx, cancel := context.WithCancel(ctx)
	trim := func(o any) (any, error) { return trimService(o, a.node), nil }
	f := informers.NewSharedInformerFactoryWithOptions(a.kube, 0, informers.WithTransform(trim))
	w := &serviceWatch{
		stop: cancel, done: make(chan struct{}), touched: make(chan struct{}, 1), read: make(chan struct{}), forbidden: map[string]error{},
		services: f.Core().V1().Services().Informer(), slices: f.Discovery().V1().EndpointSlices().Informer(),
	}
	var errs []error
	for kind, inf := range map[string]cache.SharedIndexInformer{kindService: w.services, kindEndpointSlice: w.slices} {
		_, err := inf.AddEventHandler(w.handler())
		errs = append(errs, err, inf.SetWatchErrorHandlerWithContext(func(ctx context.Context, r *cache.Reflector, err error) {
			// While the API server is away, what is known holds.
			if apierrors.IsForbidden(err) {
				w.forbid(kind, err)
			} else {
				cache.DefaultWatchErrorHandler(ctx, r, err)
			}
		}))
	}
	if err := errors.Join(errs...); err != nil {
		w.forbid(kindService, err)
	}
	go func() {
		defer close(w.done)
		defer f.Shutdown()
		f.Start(ctx.Done())
		a.keep(ctx, w)
	}()
	return w
}

// keep computes the result again whenever something has changed, until ctx ends.
func (a *announced) keep(ctx context.Context, w *serviceWatch) {
	var listing sync.WaitGroup
	defer listing.Wait()
	listing.Go(func() {
		if cache.WaitForCacheSync(ctx.Done(), w.services.HasSynced, w.slices.HasSynced) {
			w.touch()
		}
	})
	for {
		select {
		case <-ctx.Done():
			return
		case <-w.touched:
		}
		err := w.err()
		if err == nil && !(w.services.HasSynced() && w.slices.HasSynced()) {
			continue // it would be withdrawn what is only not known yet
		}
		if a.settle(w, err) {
			a.wake()
		}
		w.readOnce.Do(func() { close(w.read) })
	}
}

// settle computes the result of a watch; it reports whether it is another one.
func (a *announced) settle(w *serviceWatch, err error) (changed bool) {
	list := w.list()
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.watched != w {
		return false
	}
	now := announcement{
		prefixes: services.Announce(services.Input{Ranges: a.ranges, Excluded: a.excluded, Services: list}), err: err,
	}
	if now.equal(a.result) {
		return false
	}
	if err != nil {
		a.log.Warn("addresses of services are announced without what cannot be read", "err", err)
	}
	a.result = now
	return true
}

func (w *serviceWatch) touch() {
	select {
	case w.touched <- struct{}{}:
	default:
	}
}

// handler tells what of a kind changes the result.
func (w *serviceWatch) handler() cache.ResourceEventHandler {
	counts := func(o any) bool {
		switch o := o.(type) {
		case *serviceObject:
			return o.addresses() > 0
		case *sliceObject:
			return o.ready != [2]bool{}
		}
		return true // a tombstone
	}
	touched := func(o any) {
		if counts(o) {
			w.touch()
		}
	}
	return cache.ResourceEventHandlerFuncs{
		AddFunc: touched, DeleteFunc: touched,
		UpdateFunc: func(old, cur any) {
			if !sameService(old, cur) {
				w.touch()
			}
		},
	}
}

// forbid notes that a kind must not be read. It is tried again by the informer, and counts
// until it is listed.
func (w *serviceWatch) forbid(kind string, err error) {
	w.mu.Lock()
	w.forbidden[kind] = err
	w.mu.Unlock()
	w.touch()
}

// err says why kinds have never been listed.
func (w *serviceWatch) err() error {
	w.mu.Lock()
	defer w.mu.Unlock()
	var kinds []string
	for kind, inf := range map[string]cache.SharedIndexInformer{kindService: w.services, kindEndpointSlice: w.slices} {
		if w.forbidden[kind] != nil && !inf.HasSynced() {
			kinds = append(kinds, kind+"s: "+excerpt.Message(w.forbidden[kind].Error()))
		}
	}
	if len(kinds) == 0 {
		return nil
	}
	slices.Sort(kinds)
	return fmt.Errorf("the agent cannot read %s; give it the ClusterRole manx-node of this version's manifest", strings.Join(kinds, ", "))
}

// list are the services with what their endpoint slices say.
func (w *serviceWatch) list() []services.Service {
	ready := map[string][2]bool{}
	for _, o := range w.slices.GetStore().List() {
		s, ok := o.(*sliceObject)
		if !ok || s.ready == [2]bool{} {
			continue
		}
		r := ready[s.service]
		for _, f := range family.All {
			r[f] = r[f] || s.ready[f]
		}
		ready[s.service] = r
	}
	var out []services.Service
	for _, o := range w.services.GetStore().List() {
		if s, ok := o.(*serviceObject); ok && s.addresses() > 0 {
			service := s.service
			service.Ready = ready[s.Namespace+"/"+s.Name]
			out = append(out, service)
		}
	}
	return out
}
