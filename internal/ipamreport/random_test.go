package ipamreport

import (
	"fmt"
	"math/rand/v2"
	"net/netip"
	"slices"
	"strings"
	"testing"
)

// world makes clusters in which nothing is wrong.
type world struct {
	*rand.Rand
	Cluster
	next int // of containers and sequence numbers
}

func pfx(s string) netip.Prefix { return netip.MustParsePrefix(s) }
func ip(s string) netip.Addr    { return netip.MustParseAddr(s) }

func newWorld(seed uint64) *world {
	w := &world{Rand: rand.New(rand.NewPCG(seed, 1))}
	w.Pools = []Pool{
		{Name: "a", CIDR: pfx("10.244.0.0/16"), Exported: true},
		{Name: "b", CIDR: pfx("10.9.0.0/20"), Disabled: w.IntN(2) == 0},
		{Name: "c", CIDR: pfx("fd00:1::/112")},
	}
	nodes := 2 + w.IntN(4)
	for i := range nodes {
		w.Nodes = append(w.Nodes, Node{
			Name: fmt.Sprintf("node%d", i), Addr: ip(fmt.Sprintf("192.0.2.%d", i+1)), Tunnels: map[string]netip.Addr{},
		})
	}
	for i := range nodes {
		w.claim(fmt.Sprintf("node%d", i), pfx(fmt.Sprintf("10.244.%d.0/26", i)))
		if w.IntN(2) == 0 {
			w.claim(fmt.Sprintf("node%d", i), pfx(fmt.Sprintf("10.9.%d.0/28", i)))
			w.claim(fmt.Sprintf("node%d", i), pfx(fmt.Sprintf("fd00:1::%x/122", i*64)))
		}
	}
	w.Blocks = append(w.Blocks, Block{Name: "orphan", CIDR: pfx("10.244.200.0/26")}) // lost its owner, is in use
	w.Blocks = append(w.Blocks, Block{Name: "lb", CIDR: pfx("10.244.201.0/26"), Owner: "load-balancer", Virtual: true})
	w.Affinities = append(w.Affinities, Affinity{
		Name: "lb", Node: "load-balancer", CIDR: pfx("10.244.201.0/26"), Confirmed: true, Virtual: true, State: "confirmed",
	})
	w.pod("node0", pfx("10.244.200.0/26"))
	for i := range w.Nodes {
		n := &w.Nodes[i]
		if w.IntN(3) > 0 {
			n.Tunnels["ipipTunnelAddress"] = w.assign(pfx(fmt.Sprintf("10.244.%d.0/26", i)),
				"ipip-tunnel-addr-"+n.Name, map[string]string{"node": n.Name, "type": "ipipTunnelAddress"})
		}
		for range w.IntN(12) {
			w.pod(n.Name, w.anyBlock(n.Name))
		}
	}
	w.bystanders()
	w.agents()
	return w
}

// anyBlock returns an own block of node, and sometimes another's: then it borrows.
func (w *world) anyBlock(node string) netip.Prefix {
	var out []netip.Prefix
	for _, b := range w.Blocks {
		if b.Owner == node || !b.Virtual && w.IntN(10) == 0 {
			out = append(out, b.CIDR)
		}
	}
	return out[w.IntN(len(out))]
}

func (w *world) claim(node string, cidr netip.Prefix) {
	w.Blocks = append(w.Blocks, Block{Name: cidr.String(), CIDR: cidr, Owner: node})
	w.Affinities = append(w.Affinities, Affinity{
		Name: node + "-" + cidr.String(), Node: node, CIDR: cidr, Confirmed: true, State: "confirmed",
	})
}

func (w *world) block(cidr netip.Prefix) *Block {
	return &w.Blocks[slices.IndexFunc(w.Blocks, func(b Block) bool { return b.CIDR == cidr })]
}

// free returns an address of the block that nobody has.
func (w *world) free(cidr netip.Prefix) netip.Addr {
	for a := cidr.Addr(); ; a = a.Next() {
		taken := slices.ContainsFunc(w.block(cidr).Assigned, func(x Assignment) bool { return x.Addr == a })
		used := slices.ContainsFunc(w.Pods, func(p Pod) bool { return slices.Contains(p.Addrs, a) })
		if !taken && !used {
			return a
		}
	}
}

func (w *world) assign(cidr netip.Prefix, handle string, attrs map[string]string) netip.Addr {
	w.next++
	b, addr := w.block(cidr), w.free(cidr)
	b.Assigned = append(b.Assigned, Assignment{Addr: addr, Block: cidr, Handle: handle, Attrs: attrs, Sequence: int64(1000 + w.next)})
	if handle == "" {
		return addr
	}
	i := slices.IndexFunc(w.Handles, func(h Handle) bool { return h.ID == handle })
	if i < 0 {
		w.Handles = append(w.Handles, Handle{Name: strings.ToLower(handle), ID: handle, Blocks: map[netip.Prefix]int{}})
		i = len(w.Handles) - 1
	}
	w.Handles[i].Blocks[cidr]++
	return addr
}

// pod makes a pod with an address of the block.
func (w *world) pod(node string, cidr netip.Prefix) {
	w.next++
	p := Pod{Namespace: "default", Name: fmt.Sprintf("pod-%d", w.next), Node: node, Iface: fmt.Sprintf("cali%d", w.next)}
	attrs := map[string]string{"pod": p.Name, "namespace": p.Namespace, "node": node}
	p.Addrs = []netip.Addr{w.assign(cidr, fmt.Sprintf("k8s-pod-network.C%d", w.next), attrs)}
	p.Leaving = w.IntN(10) == 0
	w.Pods = append(w.Pods, p)
}

// bystanders are what looks odd and is right.
func (w *world) bystanders() {
	own := pfx("10.244.0.0/26")
	// A pod that starts holds an address before its status says so.
	w.assign(own, "k8s-pod-network.starting", map[string]string{"pod": "starting", "namespace": "default", "node": "node0"})
	w.Pods = append(w.Pods, Pod{Namespace: "default", Name: "starting", Node: "node0", Iface: "cali-s"})
	// A second interface of a pod, which its status does not show.
	w.pod("node0", own)
	twin := w.Pods[len(w.Pods)-1]
	w.assign(own, "blue.C.if-net1", map[string]string{"pod": twin.Name, "namespace": "default", "node": "node0", "interface": "net1"})
	// One that has ended, and one that is leaving, show addresses that are another's now.
	addr := w.Pods[0].Addrs[0]
	w.Pods = append(w.Pods, Pod{Namespace: "default", Name: "job", Node: "node1", Addrs: []netip.Addr{addr}, Finished: true, Iface: "cali-j"},
		Pod{Namespace: "default", Name: "leaving", Node: "node1", Addrs: []netip.Addr{w.free(own)}, Leaving: true, Iface: "cali-l"})
	// Other networks' pods, and addresses whose holder is not named.
	w.Pods = append(w.Pods, Pod{Namespace: "default", Name: "other", Node: "node9", Addrs: []netip.Addr{ip("172.16.0.5")}, Iface: "cali-o"})
	w.assign(own, "", nil)
	w.assign(own, "windows-reserved-ipam-handle", map[string]string{"note": "windows host rsvd"})
	w.assign(pfx("10.244.201.0/26"), "lb-service", map[string]string{"service": "web", "type": "loadBalancer"})
	cooling := w.free(own)
	b := w.block(own)
	b.Assigned = append(b.Assigned, Assignment{Addr: cooling, Block: own, Handle: "k8s-pod-network.gone", CoolingDown: true})
}

// agents answer for most nodes, all for the first two.
func (w *world) agents() {
	for i, n := range w.Nodes {
		if i > 1 && w.IntN(3) == 0 {
			continue
		}
		a := Agent{Node: n.Name, Converged: i < 2 || w.IntN(2) == 0}
		for _, b := range w.Blocks {
			for _, x := range b.Assigned {
				p := slices.IndexFunc(w.Pods, func(p Pod) bool {
					return p.Name == x.Attrs["pod"] && p.Node == n.Name && slices.Contains(p.Addrs, x.Addr)
				})
				if p < 0 {
					continue
				}
				known := Interface{Name: w.Pods[p].Iface, Handle: x.Handle, Addrs: []netip.Addr{x.Addr}}
				if w.IntN(2) == 0 {
					known.Namespace, known.Pod = w.Pods[p].Namespace, w.Pods[p].Name
				}
				a.Interfaces = append(a.Interfaces, known)
			}
		}
		for _, other := range w.Nodes {
			if other.Name != n.Name {
				a.Learned = append(a.Learned, w.announced(other)...)
			}
		}
		a.Learned = append(a.Learned, Learned{Prefix: pfx("203.0.113.0/24"), NextHops: []netip.Addr{ip("192.0.2.254")}}) // a router's
		w.Agents = append(w.Agents, a)
	}
}

func (w *world) announced(n Node) (out []Learned) {
	for _, b := range w.Blocks {
		if !b.CIDR.Addr().Is4() || !w.Pools[0].CIDR.Overlaps(b.CIDR) {
			continue
		}
		if b.Owner == n.Name {
			out = append(out, Learned{Prefix: b.CIDR, NextHops: []netip.Addr{n.Addr}})
			continue
		}
		for _, x := range b.Assigned {
			if x.Node() == n.Name {
				out = append(out, Learned{Prefix: netip.PrefixFrom(x.Addr, 32), NextHops: []netip.Addr{n.Addr}})
			}
		}
	}
	return out
}

// A cluster without a fault has no problem, and a fault is exactly its problem.
func TestFaults(t *testing.T) {
	rounds := 60
	if testing.Short() {
		rounds = 10
	}
	for seed := range uint64(rounds) {
		if got := Check(newWorld(seed).Cluster).Problems; len(got) > 0 {
			t.Fatalf("seed %d: a consistent cluster has problems: %+v", seed, got)
		}
	}
	for name, f := range faults {
		t.Run(name, func(t *testing.T) {
			for seed := range uint64(rounds) {
				w := newWorld(seed)
				subject, node := f.inject(w)
				got := Check(w.Cluster).Problems
				if len(got) != 1 || got[0].Kind != f.kind || got[0].Subject != subject || got[0].Node != node || got[0].Detail == "" {
					t.Fatalf("seed %d: got %+v; want exactly %s of %s, node %q", seed, got, f.kind, subject, node)
				}
			}
		})
	}
}

// Every kind of problem has a fault that makes it.
func TestFaultsAreComplete(t *testing.T) {
	for _, k := range kinds {
		found := false
		for _, f := range faults {
			found = found || f.kind == k.kind
		}
		if !found {
			t.Errorf("no fault makes %s", k.kind)
		}
		if k.what == "" || k.remedy == "" {
			t.Errorf("%s says nothing", k.kind)
		}
	}
}

// What only an unlikely combination shows.
func TestJudgement(t *testing.T) {
	for name, tc := range map[string]struct {
		change func(w *world)
		want   []Kind
	}{
		"agents that have just started hear nothing": {func(w *world) {
			forgetAll(w)
			for i := range w.Agents {
				w.Agents[i].Converged = false
			}
		}, nil},
		"a node that has no BGP yet": {func(w *world) {
			hop := w.Nodes[0].Addr
			w.Nodes[0].Addr = netip.Addr{}
			for i := range w.Agents {
				w.Agents[i].Learned = slices.DeleteFunc(w.Agents[i].Learned, func(l Learned) bool { return l.NextHops[0] == hop })
			}
		}, nil},
		"an interface under the handle of a pod that is gone": {func(w *world) {
			w.assign(own, "k8s-pod-network.kept", map[string]string{"pod": "removed", "namespace": "default", "node": "node0"})
			a := agentOf(w, "node0")
			a.Interfaces = append(a.Interfaces, Interface{Name: "cali-k", Handle: "k8s-pod-network.kept"})
		}, nil},
		"a pod that is not scheduled yet": {func(w *world) {
			w.assign(own, "k8s-pod-network.early", map[string]string{"pod": "early", "namespace": "default", "node": "node0"})
			w.Pods = append(w.Pods, Pod{Namespace: "default", Name: "early"})
		}, nil},
		"a second family is on its way": {func(w *world) {
			p := fresh(w)
			w.claim("node0", pfx("fd00:1::ff00/122"))
			w.assign(pfx("fd00:1::ff00/122"), "k8s-pod-network.six", map[string]string{"pod": p.Name, "namespace": p.Namespace, "node": "node0"})
		}, nil},
		"a block without its affinity that another wants": {func(w *world) {
			w.Affinities = slices.DeleteFunc(w.Affinities, func(a Affinity) bool { return a.CIDR == own })
			forget(w, w.Nodes[0].Addr, own)
			w.Affinities = append(w.Affinities, Affinity{Name: "late", Node: "node1", CIDR: own, State: "pending"})
		}, []Kind{AffinityWithoutBlock, BlockWithoutAffinity}},
	} {
		t.Run(name, func(t *testing.T) {
			for seed := range uint64(10) {
				w := newWorld(seed)
				tc.change(w)
				var got []Kind
				found := Check(w.Cluster).Problems
				for _, p := range found {
					got = append(got, p.Kind)
				}
				if !slices.Equal(got, tc.want) {
					t.Fatalf("seed %d: got %+v; want %v", seed, found, tc.want)
				}
			}
		})
	}
}
