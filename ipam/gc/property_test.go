package gc_test

import (
	"fmt"
	"maps"
	"math/rand/v2"
	"net/netip"
	"slices"
	"testing"
	"time"

	"github.com/manx-cni/manx/ipam/block"
	"github.com/manx-cni/manx/ipam/gc"
)

// livePod is a pod as it is, not as the API server has it.
type livePod struct {
	name, node, handle string
	addr               netip.Addr
	tellAt             time.Time // when the kubelet reports the address; zero: it has
}

// cluster does at random what clusters do.
type cluster struct {
	*world
	rng     *rand.Rand
	now     time.Time
	pods    map[string]*livePod
	missing map[string]time.Time // nodes without an object, since when
	handles int
	history []gc.Facts // what the API server had at the last steps
}

var nodes = []string{"n1", "n2", "n3"}

func newCluster(t *testing.T, seed uint64) *cluster {
	c := &cluster{
		world: newWorld(t, nodes...), rng: rand.New(rand.NewPCG(seed, 4)), now: start,
		pods: map[string]*livePod{}, missing: map[string]time.Time{},
	}
	for i, n := range nodes {
		c.block(fmt.Sprintf("10.0.%d.0/27", i), n)
	}
	return c
}

// attach gives a pod an address, rarely from another node's block.
func (c *cluster) attach(p *livePod) {
	from := slices.Index(nodes, p.node)
	if c.rng.IntN(5) == 0 {
		from = c.rng.IntN(len(nodes))
	}
	b := &c.snapshot.Blocks[from]
	handle := fmt.Sprintf("k.%d", c.handles)
	c.handles++
	b.NextSequence()
	got := b.Assign(block.Owner{Handle: handle, Attrs: ofPod(p.name, p.node)}, 1, nil)
	if len(got) == 0 {
		return
	}
	p.handle, p.addr = handle, got[0]
	p.tellAt = c.now.Add(time.Duration(c.rng.Int64N(int64(grace / 2))))
}

// detach forgets a pod's address; one in three DELs is lost.
func (c *cluster) detach(p *livePod) {
	if c.rng.IntN(3) == 0 {
		return
	}
	for i := range c.snapshot.Blocks {
		c.snapshot.Blocks[i].ReleaseHandle(p.handle)
	}
}

func (c *cluster) remove(name string) {
	c.detach(c.pods[name])
	delete(c.pods, name)
	delete(c.snapshot.Pods, gc.PodKey{Namespace: "ns", Name: name})
}

// step changes something.
func (c *cluster) step() {
	name := fmt.Sprintf("pod-%d", c.rng.IntN(40)) // names come back, as a StatefulSet's do
	p := c.pods[name]
	switch c.rng.IntN(12) {
	case 0, 1, 2, 3:
		node := nodes[c.rng.IntN(len(nodes))]
		if _, away := c.missing[node]; p == nil && !away {
			c.pods[name] = &livePod{name: name, node: node}
			c.pod(name, node)
			c.attach(c.pods[name])
		}
	case 4, 5, 6:
		if p != nil {
			c.remove(name)
		}
	case 7:
		if p != nil { // a new sandbox; the kubelet still reports the old address
			c.detach(p)
			c.attach(p)
		}
	case 8:
		if p != nil { // finished, and its sandbox is gone
			key := gc.PodKey{Namespace: "ns", Name: name}
			done := c.snapshot.Pods[key]
			done.Finished = true
			c.snapshot.Pods[key] = done
			c.detach(p)
			delete(c.pods, name)
		}
	case 9:
		node := nodes[c.rng.IntN(len(nodes))]
		if _, away := c.missing[node]; away {
			delete(c.missing, node)
			c.snapshot.Nodes[node] = true
		} else {
			c.missing[node] = c.now
			delete(c.snapshot.Nodes, node)
		}
	case 10:
		if c.rng.IntN(10) == 0 {
			c.snapshot.Epoch++
		}
	}
	c.settle()
}

// settle lets kubelets report, and Kubernetes delete the pods of missing nodes.
func (c *cluster) settle() {
	for _, name := range slices.Sorted(maps.Keys(c.pods)) {
		p := c.pods[name]
		if since, away := c.missing[p.node]; away {
			if c.now.Sub(since) > time.Minute {
				c.remove(name)
			}
			continue
		}
		if !p.tellAt.IsZero() && !c.now.Before(p.tellAt) {
			c.pod(name, p.node, p.addr.String())
			p.tellAt = time.Time{}
		}
	}
}

// view is the snapshot with the nodes and pods of up to three steps ago.
func (c *cluster) view() *gc.Snapshot {
	c.history = append(c.history, gc.Facts{Nodes: maps.Clone(c.snapshot.Nodes), Pods: maps.Clone(c.snapshot.Pods)})
	c.history = c.history[max(0, len(c.history)-4):]
	s := c.snapshot
	s.Facts = c.history[c.rng.IntN(len(c.history))]
	return &s
}

// apply does what a plan says, and fails when it takes something from a pod.
func (c *cluster) apply(p gc.Plan) {
	c.t.Helper()
	holders := map[string]string{}
	for _, pod := range c.pods {
		holders[pod.handle] = pod.name
	}
	for _, r := range p.Releases {
		if name := holders[r.Handle]; name != "" {
			c.t.Fatalf("releases %s (%s) of the live pod %s", r.Addr, r.Reason, name)
		}
		// By now the pod's own node may have released it.
		_ = c.find(r.Block).Release(r.Addr, r.Expect())
	}
}

// TestNeverFromALivePod runs random clusters under a collector that is shown them
// late. In the end nothing is leaked.
func TestNeverFromALivePod(t *testing.T) {
	total := 0
	for seed := range uint64(60) {
		c := newCluster(t, seed)
		var collector gc.Collector
		for range 400 {
			c.step()
			p := collector.Look(c.view(), c.now, grace)
			total += len(p.Releases)
			c.apply(p)
			c.now = c.now.Add(time.Duration(c.rng.Int64N(int64(grace / 16))))
		}
		for node := range c.missing {
			c.snapshot.Nodes[node] = true
		}
		clear(c.missing)
		for range 4 {
			c.now = c.now.Add(grace)
			c.settle()
			c.apply(collector.Look(&c.snapshot, c.now, grace))
		}
		held := 0
		for _, b := range c.snapshot.Blocks {
			held += b.Used()
		}
		with := 0
		for _, p := range c.pods {
			if p.addr.IsValid() {
				with++
			}
		}
		if held != with {
			t.Errorf("seed %d: %d addresses are assigned in the end, %d pods have one", seed, held, with)
		}
	}
	if total < 100 {
		t.Errorf("only %d addresses were collected: the clusters leak too little to prove anything", total)
	}
}
