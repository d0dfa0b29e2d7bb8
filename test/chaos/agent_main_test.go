//go:build cluster

package chaos_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"net/netip"
	"os"
	"sync"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/client-go/dynamic"
	"k8s.io/client-go/dynamic/dynamicinformer"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/cache"

	v1 "github.com/manx-cni/manx/api/v1"
	"github.com/manx-cni/manx/ipam"
	"github.com/manx-cni/manx/ipam/store"
	"github.com/manx-cni/manx/ipam/store/crd"
	"github.com/manx-cni/manx/test/history"
)

// agent is the part of manx-node that has to do with addresses, without a network.
type agent struct {
	spec
	log      *slog.Logger
	ipam     *ipam.Allocator
	pools    cache.SharedIndexInformer
	saboteur saboteur

	out     sync.Mutex
	answers *json.Encoder

	mu      sync.Mutex
	plugged map[netip.Addr]string
	pods    map[string]string          // by handle
	cancels map[int]context.CancelFunc // of the orders under way
}

// upkeep is how often an allocator looks after its blocks, on its own clock.
const upkeep = 30 * time.Second

// runAgent serves orders until the input ends.
func runAgent(ctx context.Context, s spec, in *json.Decoder, log *slog.Logger) error {
	a := &agent{
		spec: s, log: log, answers: json.NewEncoder(os.Stdout),
		plugged: s.Plugged, pods: s.Pods, cancels: map[int]context.CancelFunc{}, saboteur: saboteur{mode: s.Broken},
	}
	if a.plugged == nil {
		a.plugged = map[netip.Addr]string{}
	}
	if a.pods == nil {
		a.pods = map[string]string{}
	}
	ctx, stop := context.WithCancel(ctx)
	defer stop()
	if err := a.watchPools(ctx); err != nil {
		return err
	}
	bounded := rest.CopyConfig(s.config())
	bounded.Timeout = 10 * time.Second // as in manx-node
	backend, err := crd.NewBackend(bounded)
	if err != nil {
		return err
	}
	ticks := time.NewTicker(upkeep / time.Duration(max(s.Speed, 1)))
	defer ticks.Stop()
	a.ipam = ipam.New(ipam.Config{
		Node: s.Node, Store: store.New(a.saboteur.backend(backend)), Pools: a.currentPools,
		NodeLabels: func() map[string]string { return nil },
		InUse:      a.inUse, Owner: a.owner, Clock: a.clock, Ticks: ticks.C, Log: log,
	})
	var done sync.WaitGroup
	done.Go(func() {
		if err := a.ipam.Run(ctx); err != nil {
			fmt.Fprintln(os.Stderr, "ipam:", err)
			os.Exit(1)
		}
	})
	done.Go(func() { a.start(ctx) })
	for {
		var o order
		if in.Decode(&o) != nil {
			stop()
			done.Wait()
			return nil
		}
		a.take(ctx, o)
	}
}

// start reads what the node has and says so.
func (a *agent) start(ctx context.Context) {
	if !cache.WaitForCacheSync(ctx.Done(), a.pools.HasSynced) {
		return
	}
	for a.ipam.Sync(ctx) != nil {
		select {
		case <-ctx.Done():
			return
		case <-time.After(50 * time.Millisecond):
		}
	}
	a.answer(answer{})
}

func (a *agent) watchPools(ctx context.Context) error {
	client, err := dynamic.NewForConfig(a.config())
	if err != nil {
		return err
	}
	factory := dynamicinformer.NewFilteredDynamicSharedInformerFactory(client, 0, metav1.NamespaceAll, nil)
	a.pools = factory.ForResource(v1.SchemeGroupVersion.WithResource(v1.PluralIPPools)).Informer()
	factory.Start(ctx.Done())
	return nil
}

func (a *agent) currentPools() (out []*v1.IPPool) {
	for _, o := range a.pools.GetStore().List() {
		p := new(v1.IPPool)
		if err := runtime.DefaultUnstructuredConverter.FromUnstructured(o.(*unstructured.Unstructured).Object, p); err != nil {
			a.log.Error("pool", "err", err)
			continue
		}
		out = append(out, p)
	}
	return out
}

// clock is the wall's clock, and goes Speed times as fast since Epoch.
func (a *agent) clock() time.Time {
	return a.Epoch.Add(time.Since(a.Epoch) * time.Duration(max(a.Speed, 1)))
}

func (a *agent) inUse() map[netip.Addr]string {
	a.mu.Lock()
	defer a.mu.Unlock()
	return maps.Clone(a.plugged)
}

func (a *agent) owner(handle string) map[string]string {
	a.mu.Lock()
	defer a.mu.Unlock()
	return attrs(a.Node, a.pods[handle])
}

// take serves an order, in the background if it is to be answered.
func (a *agent) take(ctx context.Context, o order) {
	a.mu.Lock()
	defer a.mu.Unlock()
	switch o.Verb {
	case verbPlug:
		a.pods[o.Handle] = o.Pod
		for _, addr := range o.Addrs {
			a.plugged[addr] = o.Handle
		}
	case verbUnplug:
		delete(a.pods, o.Handle)
		maps.DeleteFunc(a.plugged, func(_ netip.Addr, h string) bool { return h == o.Handle })
	case verbCancel:
		if cancel := a.cancels[o.ID]; cancel != nil {
			cancel()
		}
	default:
		ctx, cancel := context.WithTimeout(ctx, o.Timeout)
		a.cancels[o.ID] = cancel
		go func() {
			a.serve(ctx, o)
			a.mu.Lock()
			defer a.mu.Unlock()
			delete(a.cancels, o.ID)
			cancel()
		}()
	}
}

func (a *agent) serve(ctx context.Context, o order) {
	r := answer{ID: o.ID}
	var err error
	switch o.Verb {
	case verbAdd:
		r.Addrs, err = a.ipam.Assign(ctx, ipam.Request{Handle: o.Handle, Attrs: o.Attrs, Num4: o.Num4, Num6: o.Num6})
		if err == nil {
			r.Addrs = a.saboteur.answer(o.Handle, r.Addrs)
		}
	case verbDel:
		r.Addrs, err = a.ipam.Release(ctx, o.Handle)
	case verbFlush:
		err = a.ipam.Flush(ctx)
	case verbSync:
		err = a.ipam.Sync(ctx)
	case verbState:
		r.State = &state{Blocks: a.ipam.Blocks(), ByHandle: a.ipam.ByHandle(), Borrowed: a.ipam.Borrowed(), Lent: a.ipam.Lent()}
	default:
		err = fmt.Errorf("no such verb: %q", o.Verb)
	}
	if err != nil {
		r.Err = err.Error()
		var full *ipam.PoolFullError
		r.Full = errors.As(err, &full)
	}
	a.answer(r)
}

// answer stamps what was done and says it.
func (a *agent) answer(r answer) {
	r.At = history.Now()
	r.Counters = a.ipam.Counters()
	a.out.Lock()
	defer a.out.Unlock()
	if err := a.answers.Encode(r); err != nil {
		os.Exit(1) // nobody reads any more
	}
}
