package agent

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/containernetworking/cni/libcni"
	"github.com/containernetworking/cni/pkg/types"
	current "github.com/containernetworking/cni/pkg/types/100"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	apiv1 "github.com/manx-cni/manx/api/v1"
	"github.com/manx-cni/manx/felix"
	"github.com/manx-cni/manx/felix/calc"
	"github.com/manx-cni/manx/felix/nl"
	"github.com/manx-cni/manx/felix/nl/nltest"
	"github.com/manx-cni/manx/felix/state"
	"github.com/manx-cni/manx/internal/nodeapi"
	"github.com/manx-cni/manx/internal/status"
	"github.com/manx-cni/manx/ipam"
	"github.com/manx-cni/manx/ipam/store"
	"github.com/manx-cni/manx/ipam/store/fake"
)

// plugged is a node made of the test's own namespace, with all of the agent that an ADD
// meets: the plugin's binary driven by libcni, the socket, IPAM, the dataplane with its
// routes and its filter. Objects are in memory instead of in the API.
type plugged struct {
	t      *testing.T
	store  store.Store
	socket string
	cni    *libcni.CNIConfig

	ipam      *ipam.Allocator
	inUse     *inUse
	dataplane *felix.Dataplane
	conf      *cniConf
	stop      func() // the agent, as a signal would
}

func newPlugged(t *testing.T) *plugged {
	t.Helper()
	outside := nltest.NewNS(t)
	outside.Veth(t, "eth0", "eth0")
	nltest.Run(t, "ip", "addr", "add", "192.0.2.1/24", "dev", "eth0")
	nltest.Run(t, "ip", "route", "add", "default", "via", "192.0.2.2")
	nltest.Run(t, "sysctl", "-qw", "net.ipv4.ip_forward=1")

	dir, err := os.MkdirTemp("", "manx-run") // a socket's path is short
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	build := exec.Command("go", "build", "-o", filepath.Join(dir, "bin", "manx"), "github.com/manx-cni/manx/cmd/manx")
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("build the plugin: %v: %s", err, out)
	}
	n := &plugged{
		t: t, store: store.New(&fake.Backend{}), socket: filepath.Join(dir, "manx.sock"),
		cni: libcni.NewCNIConfigWithCacheDir([]string{filepath.Join(dir, "bin")}, filepath.Join(dir, "cache"), nil),
	}
	t.Cleanup(func() {
		n.stop()
		if err := felix.Uninstall(context.Background(), felix.UninstallOptions{Pods: true}); err != nil {
			t.Errorf("clean up: %v", err)
		}
	})
	n.start()
	return n
}

func newTestLog(t *testing.T) *slog.Logger { return slog.New(slog.NewTextHandler(t.Output(), nil)) }

// start runs an agent on what is there.
func (n *plugged) start() {
	n.t.Helper()
	log := newTestLog(n.t)
	kernel, err := nl.Open(nl.Config{})
	if err != nil {
		n.t.Fatal(err)
	}
	defer kernel.Close()
	if n.inUse, err = newInUse(kernel, func() []state.Endpoint { return n.dataplane.Endpoints() }); err != nil {
		n.t.Fatal(err)
	}
	pools := []*apiv1.IPPool{{ObjectMeta: metav1.ObjectMeta{Name: "default"}, Spec: apiv1.IPPoolSpec{CIDR: "10.244.0.0/16", BlockSize: 26}}}
	n.ipam = ipam.New(ipam.Config{
		Node: "node1", Store: n.store, Pools: func() []*apiv1.IPPool { return pools }, InUse: n.inUse.addresses, Log: log,
	})
	n.dataplane, err = felix.New(felix.Config{
		Log: log, Interval: 10 * time.Millisecond,
		Addresses: func() map[string][]netip.Addr {
			return withInUse(n.ipam.ByHandle(), n.ipam.Lent(), confirmedBlocks(n.ipam.Blocks()), n.inUse.addresses())
		},
	})
	if err != nil {
		n.t.Fatal(err)
	}
	n.conf = newCNIConf("/absent", log)
	api := &podAPI{
		node: "node1", ipam: n.ipam, dataplane: dataplaneAdaptor{n.dataplane, n.inUse}, annotate: func(podRecord) {},
		lookup: func(context.Context, nodeapi.Endpoint) (podMeta, error) { return podMeta{}, nil }, mtu: func() int { return 1500 },
		ipv6: func() error { return errors.New("IPv4 alone") }, status: func() status.Node { return status.Node{} },
		observe: func(string, time.Time, error) {}, unused: n.conf.unused,
	}
	ctx, cancel := context.WithCancel(context.Background())
	ends := make(chan error, 3)
	for _, run := range []func(context.Context) error{
		n.ipam.Run, n.dataplane.Run,
		func(ctx context.Context) error { return nodeapi.Serve(ctx, n.socket, api, log) },
	} {
		go func() { ends <- run(ctx) }()
	}
	n.stop = func() {
		cancel()
		for range cap(ends) {
			if err := <-ends; err != nil {
				n.t.Errorf("the agent: %v", err)
			}
		}
		n.stop = func() {}
	}
	if err := n.ipam.Sync(n.t.Context()); err != nil {
		n.t.Fatal(err)
	}
	n.dataplane.SetState(felix.State{Cluster: calc.Cluster{
		Node:  calc.Node{Name: "node1", IPv4: netip.MustParsePrefix("192.0.2.1/24")},
		Pools: []calc.Pool{{Name: "default", CIDR: netip.MustParsePrefix("10.244.0.0/16")}},
	}, Converged: true})
	nltest.Eventually(n.t, "the agent is ready", func() bool {
		c, err := nodeapi.Dial(n.t.Context(), n.socket)
		if err == nil {
			c.Close()
		}
		return err == nil && n.dataplane.Ready() == nil
	})
}

// port is one interface of a pod.
type port struct {
	n    *plugged
	list *libcni.NetworkConfigList
	rt   *libcni.RuntimeConf
	addr netip.Addr
}

func (n *plugged) port(network, id, pod, ifName string, ns nltest.NS) *port {
	n.t.Helper()
	list, err := libcni.ConfListFromBytes(fmt.Appendf(nil,
		`{"name":%q,"cniVersion":"1.1.0","plugins":[{"type":"manx","socket":%q,"ipam":{"type":"manx-ipam"}}]}`,
		network, n.socket))
	if err != nil {
		n.t.Fatal(err)
	}
	return &port{n: n, list: list, rt: &libcni.RuntimeConf{
		ContainerID: id, NetNS: filepath.Join("/run/netns", string(ns)), IfName: ifName,
		Args: [][2]string{{"K8S_POD_NAMESPACE", "default"}, {"K8S_POD_NAME", pod}, {"K8S_POD_UID", "u-" + pod}},
	}}
}

func (p *port) add() {
	p.n.t.Helper()
	result, err := p.n.cni.AddNetworkList(p.n.t.Context(), p.list, p.rt)
	if err != nil {
		p.n.t.Fatalf("ADD %s %s: %v", p.list.Name, p.rt.IfName, err)
	}
	now, err := current.NewResultFromResult(result)
	if err != nil {
		p.n.t.Fatal(err)
	}
	p.addr, _ = netip.AddrFromSlice(now.IPs[0].Address.IP.To4())
}

func (p *port) del() {
	p.n.t.Helper()
	if err := p.n.cni.DelNetworkList(p.n.t.Context(), p.list, p.rt); err != nil {
		p.n.t.Errorf("DEL %s %s: %v", p.list.Name, p.rt.IfName, err)
	}
}

func (p *port) gc(valid ...*port) {
	p.n.t.Helper()
	args := &libcni.GCArgs{ValidAttachments: []types.GCAttachment{}}
	for _, v := range valid {
		args.ValidAttachments = append(args.ValidAttachments, types.GCAttachment{ContainerID: v.rt.ContainerID, IfName: v.rt.IfName})
	}
	// A runtime that has lost its own records, which it would work off by DELs.
	cni := libcni.NewCNIConfigWithCacheDir(p.n.cni.Path, filepath.Join(p.n.t.TempDir(), "none"), nil)
	if err := cni.GCNetworkList(p.n.t.Context(), p.list, args); err != nil {
		p.n.t.Errorf("GC of %s: %v", p.list.Name, err)
	}
}

// wantAlone makes sure that these interfaces live, and no others: in the kernel, in the
// dataplane and in IPAM. The filter drops what comes from an address by another
// interface than that which leads to it.
func (n *plugged) wantAlone(ns nltest.NS, want ...*port) {
	n.t.Helper()
	handles, names := map[string][]netip.Addr{}, []string{"lo"}
	for _, p := range want {
		ep := nodeapi.Endpoint{Network: p.list.Name, ContainerID: p.rt.ContainerID, IfName: p.rt.IfName}
		handles[handleOf(ep)], names = []netip.Addr{p.addr}, append(names, p.rt.IfName)
		if err := n.cni.CheckNetworkList(n.t.Context(), p.list, p.rt); err != nil {
			n.t.Errorf("CHECK of %s: %v", p.rt.IfName, err)
		}
		if out, err := nltest.TryRun("ping", "-c1", "-W30", p.addr.String()); err != nil {
			n.t.Errorf("%s at %s does not answer: %v\n%s", p.rt.IfName, p.addr, err, out)
		}
	}
	if got := n.ipam.ByHandle(); !maps.EqualFunc(got, handles, slices.Equal) {
		n.t.Errorf("IPAM has %v, want %v", got, handles)
	}
	attached := map[string][]netip.Addr{}
	for _, e := range n.dataplane.Endpoints() {
		attached[e.Handle()] = e.Addrs
	}
	if !maps.EqualFunc(attached, handles, slices.Equal) {
		n.t.Errorf("the dataplane has %v, want %v", attached, handles)
	}
	slices.Sort(names)
	nltest.Eventually(n.t, fmt.Sprintf("the pod has %v alone", names), func() bool {
		var there []string
		for line := range strings.Lines(ns.Run(n.t, "ip", "-o", "link")) {
			name, _, _ := strings.Cut(strings.Fields(line)[1], "@")
			there = append(there, strings.TrimSuffix(name, ":"))
		}
		slices.Sort(there)
		return slices.Equal(there, names)
	})
}

// Two networks on one pod as Multus calls, one of them twice, and a pod of a network
// whose name begins with another's: each interface has its address and its way back,
// goes alone, is known to the next agent, and no GC of another network takes it.
func TestAttachments(t *testing.T) {
	n := newPlugged(t)
	pod, other := nltest.NewNS(t), nltest.NewNS(t)
	const id = "4f1c0000000000000000000000000000000000000000000000000000000000aa"
	eth0 := n.port("k8s-pod-network", id, "web", "eth0", pod)
	net1 := n.port("k8s-pod-network.blue", id, "web", "net1", pod)
	net2 := n.port("k8s-pod-network", id, "web", "net2", pod)
	for _, p := range []*port{eth0, net1, net2} {
		p.add()
	}
	n.wantAlone(pod, eth0, net1, net2)

	n.stop()
	n.start()
	n.wantAlone(pod, eth0, net1, net2)

	eth0.gc(eth0, net2)
	net1.gc(net1)
	n.wantAlone(pod, eth0, net1, net2)
	eth0.gc(eth0)
	n.wantAlone(pod, eth0, net1)
	net2.add()
	net1.del()
	n.wantAlone(pod, eth0, net2)
	net1.add()
	eth0.gc()
	n.wantAlone(pod, net1)
	net1.del()
	n.wantAlone(pod)

	blue := n.port("k8s-pod-network.blue", "b", "db", "eth0", other)
	blue.add()
	eth0.gc()
	n.wantAlone(other, blue)
	blue.gc()
	n.wantAlone(other)
}
