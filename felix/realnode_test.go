package felix

import (
	"context"
	"log/slog"
	"maps"
	"net/netip"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/manx-cni/manx/felix/calc"
	"github.com/manx-cni/manx/felix/nl/nltest"
	"github.com/manx-cni/manx/felix/state"
)

// node is a node made of the test's own namespace: an uplink with a neighbour
// behind it, and pods.
type node struct {
	t       *testing.T
	outside nltest.NS

	mu      sync.Mutex
	handles map[string][]netip.Addr
}

const (
	nodeAddr    = "192.0.2.1/24"
	outsideAddr = "192.0.2.2"
	uplinkName  = "eth0"
)

func newNode(t *testing.T) *node {
	t.Helper()
	n := &node{t: t, outside: nltest.NewNS(t), handles: map[string][]netip.Addr{}}
	n.outside.Veth(t, uplinkName, "eth0")
	nltest.Run(t, "ip", "addr", "add", nodeAddr, "dev", uplinkName)
	n.outside.Run(t, "ip", "addr", "add", outsideAddr+"/24", "dev", "eth0")
	nltest.Run(t, "sysctl", "-qw", "net.ipv4.ip_forward=1")
	t.Cleanup(func() {
		if err := Uninstall(context.Background(), UninstallOptions{Pods: true}); err != nil {
			t.Errorf("clean up: %v", err)
		}
	})
	return n
}

func (n *node) addresses() map[string][]netip.Addr {
	n.mu.Lock()
	defer n.mu.Unlock()
	return maps.Clone(n.handles)
}

// pod makes a pod the way the plugin does, and gives it an address in "IPAM".
func (n *node) pod(iface, containerID, addr string) (nltest.NS, state.Endpoint) {
	n.t.Helper()
	ns := nltest.NewNS(n.t)
	ep := state.Endpoint{Iface: iface, Network: "k8s-pod-network", ContainerID: containerID, Addrs: []netip.Addr{netip.MustParseAddr(addr)}}
	n.plug(ns, ep)
	n.mu.Lock()
	defer n.mu.Unlock()
	n.handles[ep.Handle()] = ep.Addrs
	return ns, ep
}

// plug connects a namespace as the plugin does.
func (n *node) plug(ns nltest.NS, ep state.Endpoint) {
	n.t.Helper()
	nltest.Run(n.t, "ip", "link", "add", ep.Iface, "address", "ee:ee:ee:ee:ee:ee",
		"type", "veth", "peer", "name", "eth0", "netns", string(ns))
	// Not in the same request: the kernel ignores IFLA_IFALIAS when it creates.
	nltest.Run(n.t, "ip", "link", "set", ep.Iface, "alias", ep.Alias())
	nltest.Run(n.t, "sysctl", "-qw", "net.ipv4.conf."+ep.Iface+".proxy_arp=1", "net.ipv4.neigh."+ep.Iface+".proxy_delay=0",
		// As the plugin does.
		"net.ipv4.conf."+ep.Iface+".forwarding=1", "net.ipv6.conf."+ep.Iface+".accept_ra=0",
		// As an older plugin left it; the agent turns the kernel's source check on.
		"net.ipv4.conf.all.rp_filter=0", "net.ipv4.conf."+ep.Iface+".rp_filter=0")
	nltest.Run(n.t, "sysctl", "-qw", "net.ipv6.conf."+ep.Iface+".disable_ipv6=1") // dualPod turns it on
	nltest.Run(n.t, "ip", "link", "set", ep.Iface, "up")
	for _, c := range []string{
		"ip addr add " + ep.Addrs[0].String() + "/32 dev eth0", "ip link set eth0 up",
		"ip route add 169.254.1.1 dev eth0 scope link", "ip route add default via 169.254.1.1",
		"ip neigh replace 169.254.1.1 lladdr ee:ee:ee:ee:ee:ee dev eth0 nud permanent",
	} {
		ns.Run(n.t, strings.Fields(c)...)
	}
}

// input is the usual state of the cluster.
func (n *node) input() State {
	return State{Cluster: calc.Cluster{
		Node:      calc.Node{Name: "a", IPv4: netip.MustParsePrefix(nodeAddr)},
		Pools:     []calc.Pool{{Name: "default", CIDR: netip.MustParsePrefix("10.244.0.0/16"), NATOutgoing: true}},
		OwnBlocks: []netip.Prefix{netip.MustParsePrefix("10.244.0.0/26")},
		Learned: []calc.Learned{
			{Prefix: netip.MustParsePrefix("10.244.1.0/26"), NextHops: []netip.Addr{netip.MustParseAddr("192.0.2.2")}},
			{Prefix: netip.MustParsePrefix("10.244.2.0/26"), NextHops: []netip.Addr{netip.MustParseAddr("192.0.2.3")}},
		},
	}, Converged: true}
}

// start runs a dataplane until the returned function, or the test, ends it.
func (n *node) start(change func(*Config)) (*Dataplane, func()) {
	n.t.Helper()
	cfg := Config{Addresses: n.addresses, Log: slog.New(slog.NewTextHandler(n.t.Output(), nil)), Interval: 10 * time.Millisecond}
	if change != nil {
		change(&cfg)
	}
	d, err := New(cfg)
	if err != nil {
		n.t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- d.Run(ctx) }()
	stop := sync.OnceFunc(func() {
		cancel()
		if err := <-done; err != nil {
			n.t.Errorf("run: %v", err)
		}
	})
	n.t.Cleanup(stop)
	return d, stop
}

// ready waits until the dataplane has done all there is to do.
func ready(t *testing.T, d *Dataplane) {
	t.Helper()
	nltest.Eventually(t, "dataplane is ready", func() bool {
		r := d.Status().Driver("route")
		return d.Ready() == nil && r.Pending == 0 && r.LastError == ""
	})
}

func routes(t *testing.T) string {
	t.Helper()
	out := strings.ReplaceAll(nltest.Run(t, "ip", "route", "show", "table", "main"), " \n", "\n")
	return strings.TrimSpace(out) + "\n"
}
