package agent

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	apiv1 "github.com/manx-cni/manx/api/v1"
	"github.com/manx-cni/manx/felix/state"
	"github.com/manx-cni/manx/internal/nodeapi"
	"github.com/manx-cni/manx/internal/status"
	"github.com/manx-cni/manx/ipam"
	"github.com/manx-cni/manx/ipam/block"
	"github.com/manx-cni/manx/ipam/store"
	"github.com/manx-cni/manx/ipam/store/fake"
)

// world is what outlives an agent: the API server, and the kernel, here the routes
// to pods by interface.
type world struct {
	t        *testing.T
	backend  *fake.Backend
	store    store.Store
	kernel   map[string]state.Endpoint
	families families // of its pods
}

func newWorld(t *testing.T, f families) *world {
	w := &world{t: t, backend: &fake.Backend{}, kernel: map[string]state.Endpoint{}, families: f}
	w.store = store.New(w.backend)
	return w
}

// life is one run of an agent over a world. Everything that its podAPI asks of others
// goes through step.
type life struct {
	*world
	api  *podAPI
	ipam *ipam.Allocator
	end  func()

	kill  kill
	steps []string
}

// kill says which step goes wrong and how. The zero value is step 0, before it has
// had its effect, by an error.
type kill struct {
	at    int
	after bool // the step has its effect and its answer gets lost
	crash bool // the agent dies there; else the step fails
}

func (k kill) String() string {
	how, when := "fails", "before"
	if k.crash {
		how = "kills the agent"
	}
	if k.after {
		when = "after"
	}
	return fmt.Sprintf("step %d %s %s its effect", k.at, how, when)
}

// crashed is what a panic carries that stands for the agent's death.
type crashed struct{}

var errInjected = errors.New("injected")

// start runs an agent as its process would: it reads its blocks first.
func (w *world) start(k kill) *life {
	w.t.Helper()
	pools := []*apiv1.IPPool{
		{ObjectMeta: metav1.ObjectMeta{Name: "p"}, Spec: apiv1.IPPoolSpec{CIDR: "10.244.0.0/24", BlockSize: 29}},
		{ObjectMeta: metav1.ObjectMeta{Name: "six"}, Spec: apiv1.IPPoolSpec{CIDR: "fd00:10::/120", BlockSize: 125}},
	}
	l := &life{world: w, kill: k}
	l.ipam = ipam.New(ipam.Config{
		Node: "node1", Store: w.store, Pools: func() []*apiv1.IPPool { return pools },
		InUse: w.inUse, Ticks: make(chan time.Time),
	})
	l.api = &podAPI{
		node: "node1", lookup: l.lookup, ipam: l, dataplane: l, annotate: l.annotate, mtu: func() int { return 1500 },
		ipv6:   func() error { return nil },
		status: func() status.Node { return status.Node{} }, observe: func(string, time.Time, error) {},
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- l.ipam.Run(ctx) }()
	ended := false
	l.end = func() {
		cancel()
		if !ended {
			ended = true
			if err := <-done; err != nil {
				w.t.Errorf("Run: %v", err)
			}
		}
	}
	w.t.Cleanup(l.end)
	if err := l.ipam.Sync(w.t.Context()); err != nil {
		w.t.Fatal(err)
	}
	return l
}

// inUse is what interfaces have, for IPAM.
func (w *world) inUse() map[netip.Addr]string {
	out := map[netip.Addr]string{}
	for _, e := range w.kernel {
		for _, a := range e.Addrs {
			out[a] = e.Handle()
		}
	}
	return out
}

// step lets one call to others happen, or not.
func (l *life) step(name string, effect func() error) error {
	hit := len(l.steps) == l.kill.at
	l.steps = append(l.steps, name)
	if hit && !l.kill.after {
		return l.strike()
	}
	err := effect()
	if hit {
		return l.strike()
	}
	return err
}

func (l *life) strike() error {
	if l.kill.crash {
		panic(crashed{})
	}
	return errInjected
}

// try makes a request, which may be the agent's last.
func (l *life) try(request func(*podAPI) error) (err error) {
	defer func() {
		switch r := recover().(type) {
		case nil:
		case crashed:
			err = errInjected
			l.end()
		default:
			panic(r)
		}
	}()
	return request(l.api)
}

func (l *life) lookup(context.Context, nodeapi.Endpoint) (meta podMeta, err error) {
	return meta, l.step("look the pod up", func() error { return nil })
}

func (l *life) annotate(podRecord) {
	_ = l.step("annotate", func() error { return nil }) // it can only be the agent's last
}

func (l *life) Assign(ctx context.Context, req ipam.Request) (addrs []netip.Addr, err error) {
	err = l.step("assign", func() (err error) { addrs, err = l.ipam.Assign(ctx, req); return err })
	return addrs, err
}

func (l *life) Release(ctx context.Context, handle string) (addrs []netip.Addr, err error) {
	err = l.step("release", func() (err error) {
		for iface, e := range l.kernel {
			if e.Handle() == handle {
				l.t.Errorf("the addresses of %s are released while %s still leads to it", handle, iface)
			}
		}
		addrs, err = l.ipam.Release(ctx, handle)
		return err
	})
	return addrs, err
}

func (l *life) Held(handle string) (addrs []netip.Addr) {
	if l.step("look at what it holds", func() error { addrs = l.ipam.Held(handle); return nil }) != nil {
		return nil
	}
	return addrs
}

func (l *life) AddEndpoint(_ context.Context, ep state.Endpoint) error {
	return l.step("add the endpoint", func() error {
		for iface, e := range l.kernel {
			if iface != ep.Iface && slices.ContainsFunc(e.Addrs, func(a netip.Addr) bool { return slices.Contains(ep.Addrs, a) }) {
				l.t.Errorf("%v is %s's and %s's", ep.Addrs, e.Handle(), ep.Handle())
			}
		}
		l.kernel[ep.Iface] = ep
		return nil
	})
}

func (l *life) RemoveEndpoint(_ context.Context, iface, handle string) error {
	return l.step("remove the endpoint", func() error {
		if l.kernel[iface].Handle() == handle {
			delete(l.kernel, iface)
		}
		return nil
	})
}

func (l *life) CheckEndpoint(context.Context, string, string) error { return nil }

func (l *life) Interface(string) string { return "" }

// add is an ADD as the plugin makes it.
func (l *life) add(e nodeapi.Endpoint) (addrs []netip.Addr, err error) {
	err = l.try(func(p *podAPI) error {
		reply, err := p.Add(l.t.Context(), nodeapi.AddRequest{Endpoint: e, IPv4: l.families.ipv4, IPv6: l.families.ipv6})
		if err != nil {
			return err
		}
		addrs = reply.Addrs
		if familiesOf(addrs) != l.families || len(addrs) > 1 && !addrs[0].Is4() {
			l.t.Errorf("ADD answers %v; want one of each family of %+v, IPv4 first", addrs, l.families)
		}
		return p.Ready(l.t.Context(), nodeapi.ReadyRequest{Endpoint: e})
	})
	return addrs, err
}

func (l *life) del(e nodeapi.Endpoint) error {
	return l.try(func(p *podAPI) error { return p.Del(l.t.Context(), nodeapi.DelRequest{Endpoint: e}) })
}

// mustAdd and mustDel are requests of which nothing goes wrong.
func (l *life) mustAdd(e nodeapi.Endpoint) []netip.Addr {
	l.t.Helper()
	addrs, err := l.add(e)
	if err != nil {
		l.t.Fatalf("ADD %s: %v", e.ContainerID, err)
	}
	return addrs
}

func (l *life) mustDel(e nodeapi.Endpoint) {
	l.t.Helper()
	if err := l.del(e); err != nil {
		l.t.Fatalf("DEL %s: %v", e.ContainerID, err)
	}
}

// held reads from the API server which addresses each handle has, in blocks, and how
// many its handle object counts.
func (w *world) held() map[string][]netip.Addr {
	w.t.Helper()
	out := map[string][]netip.Addr{}
	blocks, _, err := w.store.Blocks.List(w.t.Context(), "")
	if err != nil {
		w.t.Fatal(err)
	}
	for _, o := range blocks {
		b, err := block.Parse(&o.Spec)
		if err != nil {
			w.t.Fatal(err)
		}
		for handle, addrs := range b.ByHandle() {
			out[handle] = append(out[handle], addrs...)
		}
	}
	return out
}

func (w *world) handleCount(id string) (n int) {
	w.t.Helper()
	handles, _, err := w.store.Handles.List(w.t.Context(), "")
	if err != nil {
		w.t.Fatal(err)
	}
	for _, h := range handles {
		if h.Spec.HandleID == id {
			for _, count := range h.Spec.Block {
				n += count
			}
		}
	}
	return n
}

// checkGone fails when anything of a container is left.
func (l *life) checkGone(e nodeapi.Endpoint) {
	l.t.Helper()
	if err := l.ipam.Flush(l.t.Context()); err != nil {
		l.t.Fatal(err)
	}
	handle := handleOf(e)
	if addrs := l.held()[handle]; len(addrs) > 0 || l.handleCount(handle) > 0 {
		l.t.Errorf("%s still holds %v, its handle counts %d", handle, addrs, l.handleCount(handle))
	}
	for iface, ep := range l.kernel {
		if ep.Handle() == handle {
			l.t.Errorf("%s still leads to %s", iface, handle)
		}
	}
}

// checkLives fails unless a container has these addresses, and no other, everywhere.
func (l *life) checkLives(e nodeapi.Endpoint, want []netip.Addr) {
	l.t.Helper()
	if err := l.ipam.Flush(l.t.Context()); err != nil {
		l.t.Fatal(err)
	}
	handle := handleOf(e)
	if addrs := l.held()[handle]; !slices.Equal(addrs, want) || l.handleCount(handle) != len(want) {
		l.t.Errorf("%s holds %v, its handle counts %d; want %s alone", handle, addrs, l.handleCount(handle), want)
	}
	if ep := l.kernel[e.HostIface]; ep.Handle() != handle || !slices.Equal(ep.Addrs, want) {
		l.t.Errorf("%s leads to %+v; want %s with %s", e.HostIface, ep, handle, want)
	}
}

func endpoint(container, iface string) nodeapi.Endpoint {
	e := testEndpoint
	e.ContainerID, e.HostIface = container, iface
	return e
}

// eachKill runs a scenario with every step of one action going wrong, in every way,
// until there is no further step, with pods of either family and of both. The scenario
// returns the steps that the action took: the same whatever the families.
func eachKill(t *testing.T, want []string, scenario func(w *world, k kill) []string) {
	t.Helper()
	for _, f := range []families{{ipv4: true}, {ipv6: true}, {ipv4: true, ipv6: true}} {
		for _, k := range []kill{{}, {after: true}, {crash: true}, {crash: true, after: true}} {
			for ; ; k.at++ {
				taken := scenario(newWorld(t, f), k)
				if t.Failed() {
					t.Fatalf("%+v, %v, of %q", f, k, taken)
				}
				if len(taken) <= k.at { // nothing went wrong
					if !slices.Equal(taken, want) {
						t.Fatalf("the steps are %q; want %q", taken, want)
					}
					break
				}
			}
		}
	}
}

// next is the agent that answers when the kubelet tries again: the same one after an
// error, another after a crash. From now on nothing goes wrong.
func (l *life) next() *life {
	l.t.Helper()
	never := kill{at: -1}
	if l.kill.crash {
		l.end()
		return l.start(never)
	}
	l.kill = never
	return l
}

var (
	addSteps = []string{"look the pod up", "assign", "look at what it holds", "add the endpoint", "annotate"}
	delSteps = []string{"remove the endpoint", "release"}
)

// An ADD that went wrong anywhere is repeated for the same container: it gets the
// address that it has, if it has one, and a DEL leaves nothing.
func TestCrashedAddIsRepeated(t *testing.T) {
	eachKill(t, addSteps, func(w *world, k kill) []string {
		other, e := endpoint("other", "cali0"), endpoint("c1", "cali1")
		l := w.start(kill{at: -1})
		otherAddrs := l.mustAdd(other)
		l.steps, l.kill = nil, k
		told, _ := l.add(e)
		taken, held := l.steps, w.held()[handleOf(e)]

		l = l.next()
		addrs := l.mustAdd(e)
		if told != nil && !slices.Equal(addrs, told) || len(held) > 0 && !slices.Equal(held, addrs) {
			t.Errorf("the container was told %s and held %v; now it gets %s", told, held, addrs)
		}
		if again := l.mustAdd(e); !slices.Equal(again, addrs) {
			t.Errorf("the container gets %s, then %s", addrs, again)
		}
		l.checkLives(e, addrs)
		l.checkLives(other, otherAddrs)
		for range 2 {
			l.mustDel(e)
			l.checkGone(e)
		}
		l.checkLives(other, otherAddrs)
		return taken
	})
}

// An ADD that went wrong anywhere is given up: by the agent itself if it lives, and
// by the runtime's DEL. Then the pod starts in another sandbox.
func TestCrashedAddIsGivenUp(t *testing.T) {
	eachKill(t, addSteps, func(w *world, k kill) []string {
		l, e := w.start(k), endpoint("c1", "cali1")
		_, _ = l.add(e)
		taken := l.steps
		l = l.next()
		if !k.crash {
			if err := l.try(func(p *podAPI) error { return p.Abort(t.Context(), nodeapi.AddRequest{Endpoint: e}) }); err != nil {
				t.Fatal(err)
			}
			l.checkGone(e)
		}
		l.mustDel(e)
		l.checkGone(e)
		again := endpoint("c2", "cali1")
		l.checkLives(again, l.mustAdd(again))
		return taken
	})
}

// A DEL that went wrong anywhere is repeated. Meanwhile another pod starts, and gets
// no address that the first one may still have.
func TestCrashedDelIsRepeated(t *testing.T) {
	eachKill(t, delSteps, func(w *world, k kill) []string {
		l, e, other := w.start(kill{at: -1}), endpoint("c1", "cali1"), endpoint("c2", "cali2")
		l.mustAdd(e)
		l.steps, l.kill = nil, k
		_ = l.del(e)
		taken := l.steps
		l = l.next()
		addrs := l.mustAdd(other)
		for range 2 {
			l.mustDel(e)
			l.checkGone(e)
		}
		l.checkLives(other, addrs)
		return taken
	})
}

// The DEL of a pod's former sandbox comes when its successor lives, on the interface
// of the same name. Wherever it is cut off and however often it is repeated, the
// successor keeps everything.
func TestCrashedStaleDel(t *testing.T) {
	eachKill(t, delSteps, func(w *world, k kill) []string {
		l, old, live := w.start(kill{at: -1}), endpoint("old", "cali1"), endpoint("live", "cali1")
		l.mustAdd(old)
		addrs := l.mustAdd(live)
		l.steps, l.kill = nil, k
		_ = l.del(old)
		taken := l.steps
		l = l.next()
		for range 2 {
			l.mustDel(old)
			l.checkGone(old)
			l.checkLives(live, addrs)
		}
		l.mustDel(endpoint("never seen", "cali1"))
		l.checkLives(live, addrs)
		return taken
	})
}

// blockWrites counts the writes of blocks since it was asked last, by the block.
func (w *world) blockWrites() map[string]int {
	out := map[string]int{}
	for _, op := range w.backend.TakeOps() {
		if op.Write() && op.Resource == apiv1.PluralIPAMBlocks {
			out[op.Name]++
		}
	}
	return out
}

// One ADD and one DEL of a pod with both families write each family's block once.
func TestDualStackWritesOncePerFamily(t *testing.T) {
	w := newWorld(t, families{ipv4: true, ipv6: true})
	l := w.start(kill{at: -1})
	l.mustAdd(endpoint("first", "cali0")) // claims the blocks
	w.blockWrites()
	once := map[string]int{}
	for _, b := range l.ipam.Blocks() {
		once[apiv1.BlockName(b.CIDR)] = 1
	}
	if len(once) != 2 {
		t.Fatalf("blocks %v; want one of each family", once)
	}
	check := func(what string) {
		t.Helper()
		if got := w.blockWrites(); !maps.Equal(got, once) {
			t.Errorf("%s wrote %v; want %v", what, got, once)
		}
	}
	e := endpoint("c1", "cali1")
	l.mustAdd(e)
	check("ADD")
	l.mustAdd(e)
	if got := w.blockWrites(); len(got) > 0 {
		t.Errorf("the same ADD again wrote %v", got)
	}
	l.mustDel(e)
	check("DEL")
}

// When the block of one family cannot be written, the pod is not told of the other
// family's address, and the DEL that follows leaves none.
func TestHalfAnAdd(t *testing.T) {
	for _, family := range []string{"10-244", "fd00"} {
		w := newWorld(t, families{ipv4: true, ipv6: true})
		l, e := w.start(kill{at: -1}), endpoint("c1", "cali1")
		l.mustAdd(endpoint("first", "cali0"))
		w.backend.SetHook(func(_ context.Context, op fake.Op) (before, after error) {
			if op.Write() && op.Resource == apiv1.PluralIPAMBlocks && strings.HasPrefix(op.Name, family) {
				return errInjected, nil
			}
			return nil, nil
		})
		addrs, err := l.add(e)
		if coded := nodeapi.AsError(err); err == nil || coded.Code != nodeapi.CodeTryAgain || addrs != nil || w.kernel["cali1"].Addrs != nil {
			t.Errorf("%s: ADD answers %v, %v", family, addrs, err)
		}
		w.backend.SetHook(nil)
		l.mustDel(e)
		l.checkGone(e)
		l.checkLives(e, l.mustAdd(e))
	}
}
