package gc_test

import (
	"fmt"
	"net/netip"
	"testing"
	"time"

	v1 "github.com/manx-cni/manx/api/v1"
	"github.com/manx-cni/manx/ipam/block"
	"github.com/manx-cni/manx/ipam/gc"
)

var start = time.Unix(1_755_850_000, 0)

const grace = 15 * time.Minute

// world is a cluster that the tests change between looks.
type world struct {
	t        *testing.T
	snapshot gc.Snapshot
	version  int
}

func newWorld(t *testing.T, nodes ...string) *world {
	w := &world{t: t, snapshot: gc.Snapshot{
		Epoch: 1, Unreadable: map[string]bool{}, Facts: gc.Facts{Nodes: map[string]bool{}, Pods: map[gc.PodKey]gc.Pod{}},
	}}
	for _, n := range nodes {
		w.snapshot.Nodes[n] = true
	}
	return w
}

func (w *world) next() string {
	w.version++
	return fmt.Sprint(w.version)
}

// block adds a block that node owns, with its affinity.
func (w *world) block(cidr, node string) *gc.Block {
	w.t.Helper()
	p := netip.MustParsePrefix(cidr)
	b, err := block.New(p, node, start)
	if err != nil {
		w.t.Fatal(err)
	}
	w.snapshot.Blocks = append(w.snapshot.Blocks, gc.Block{Block: b, Name: v1.BlockName(p), Version: w.next()})
	w.snapshot.Affinities = append(w.snapshot.Affinities, gc.Affinity{
		Name: v1.AffinityName(node, p), Version: w.next(), Node: node, CIDR: p, State: v1.AffinityConfirmed,
	})
	return &w.snapshot.Blocks[len(w.snapshot.Blocks)-1]
}

// find returns the block of a range.
func (w *world) find(cidr netip.Prefix) *gc.Block {
	for i := range w.snapshot.Blocks {
		if w.snapshot.Blocks[i].CIDR() == cidr {
			return &w.snapshot.Blocks[i]
		}
	}
	w.t.Helper()
	w.t.Fatalf("no block %s", cidr)
	return nil
}

// assign gives addr to the handle.
func (w *world) assign(b *gc.Block, addr, handle string, attrs map[string]string) {
	w.t.Helper()
	b.NextSequence()
	if err := b.AssignIP(netip.MustParseAddr(addr), block.Owner{Handle: handle, Attrs: attrs}); err != nil {
		w.t.Fatal(err)
	}
	b.Version = w.next()
}

// pod enters a pod as the API server has it.
func (w *world) pod(name, node string, addrs ...string) {
	p := gc.Pod{Node: node}
	for _, a := range addrs {
		p.Addrs = append(p.Addrs, netip.MustParseAddr(a))
	}
	w.snapshot.Pods[gc.PodKey{Namespace: "ns", Name: name}] = p
}

func (w *world) handle(id, node string, counts map[string]int) {
	h := gc.Handle{Name: v1.HandleName(id), Version: w.next(), ID: id, Counts: map[netip.Prefix]int{}}
	if node != "" {
		h.NodeHash = v1.HostnameHash(node)
	}
	for cidr, n := range counts {
		h.Counts[netip.MustParsePrefix(cidr)] = n
	}
	w.snapshot.Handles = append(w.snapshot.Handles, h)
}

func ofPod(name, node string) map[string]string {
	return map[string]string{"pod": name, "namespace": "ns", "node": node}
}

// released lists the addresses of a plan, with their reasons.
func released(p gc.Plan) map[string]string {
	out := map[string]string{}
	for _, r := range p.Releases {
		out[r.Addr.String()] = r.Reason
	}
	return out
}

// settle looks twice, the grace period apart, and returns the second plan.
func settle(c *gc.Collector, w *world) gc.Plan {
	w.t.Helper()
	if first := c.Look(&w.snapshot, start, grace); !first.Empty() {
		w.t.Fatalf("the first look plans %+v", first)
	}
	return c.Look(&w.snapshot, start.Add(grace), grace)
}
