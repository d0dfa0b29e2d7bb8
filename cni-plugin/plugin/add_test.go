package plugin

import (
	"net"
	"os"
	"os/exec"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/containernetworking/cni/pkg/types"
	"github.com/vishvananda/netlink"

	"github.com/manx-cni/manx/cni-plugin/internal/nettest"
	"github.com/manx-cni/manx/internal/nodeapi"
)

const idA = "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa"

func TestAddThenDel(t *testing.T) {
	r := newRig(t)
	pod := nettest.New(t, "pod")
	result := r.mustAdd(idA, "web", pod)

	host := nodeapi.HostIfaceName("default", "web")
	if len(result.Interfaces) != 2 || result.Interfaces[0].Name != host || result.Interfaces[0].Mac != "ee:ee:ee:ee:ee:ee" ||
		result.Interfaces[1].Name != "eth0" || result.Interfaces[1].Sandbox != pod.Path {
		t.Errorf("interfaces: %v", result.Interfaces)
	}
	if len(result.IPs) != 1 || result.IPs[0].Address.String() != "10.99.1.1/32" ||
		*result.IPs[0].Interface != 1 || result.IPs[0].Gateway != nil {
		t.Errorf("addresses: %v", result.IPs)
	}
	checkHostSide(t, r.node, host)
	checkPodSide(t, pod, result.Interfaces[1].Mac)

	if err := r.roundTrip(pod, "10.99.0.1"); err != nil {
		t.Errorf("pod to node: %v", err)
	}
	if neigh := pod.IP(t, "neigh show 169.254.1.1"); !strings.Contains(neigh, "lladdr ee:ee:ee:ee:ee:ee") {
		t.Errorf("who has 169.254.1.1: %q, want ee:ee:ee:ee:ee:ee", neigh)
	}
	if _, err := r.run(call{verb: "CHECK", id: idA, pod: "web", netns: pod.Path, prev: result}); err != nil {
		t.Errorf("CHECK: %+v", err)
	}

	r.mustDel(idA, "web", pod.Path)
	if r.node.Link(t, host) != nil || pod.Link(t, "eth0") != nil {
		t.Error("DEL left an interface")
	}
	r.mustDel(idA, "web", pod.Path) // eth0 is absent
	pod.Delete()
	r.mustDel(idA, "web", pod.Path) // the namespace is absent
	r.mustDel(idA, "web", "")       // not even named
	r.mustDel("never-seen", "other", "")
	if len(r.agent.held) != 0 {
		t.Errorf("addresses still held: %v", r.agent.held)
	}
}

func checkHostSide(t *testing.T, node *nettest.Namespace, host string) {
	t.Helper()
	l := node.Link(t, host)
	if l == nil {
		t.Fatalf("the node has no %s", host)
	}
	a := l.Attrs()
	if a.HardwareAddr.String() != "ee:ee:ee:ee:ee:ee" || a.Alias != "manx:k8s-pod-network."+idA ||
		a.Flags&net.FlagUp == 0 || a.MTU != 1500 || a.TxQLen != 0 || a.NumTxQueues != 1 {
		t.Errorf("host side: %+v", a)
	}
	if addrs := node.IP(t, "-o address show dev "+host); strings.TrimSpace(addrs) != "" {
		t.Errorf("the host side has addresses: %s", addrs)
	}
	for path, want := range map[string]string{
		"ipv4/conf/" + host + "/proxy_arp":      "1",
		"ipv4/conf/" + host + "/forwarding":     "1",
		"ipv4/conf/" + host + "/route_localnet": "0",
		"ipv4/conf/" + host + "/rp_filter":      "1",
		"ipv4/neigh/" + host + "/proxy_delay":   "0",
		"ipv6/conf/" + host + "/accept_ra":      "0",
		"ipv6/conf/" + host + "/disable_ipv6":   "1",
		"ipv4/conf/all/proxy_arp":               "0",
		"ipv4/conf/uplink/proxy_arp":            "0",
	} {
		if got := node.Sysctl(t, path); got != want {
			t.Errorf("node: %s is %s, want %s", path, got, want)
		}
	}
}

func checkPodSide(t *testing.T, pod *nettest.Namespace, mac string) {
	t.Helper()
	eth := pod.Link(t, "eth0")
	if eth == nil {
		t.Fatal("the pod has no eth0")
	}
	if a := eth.Attrs(); a.Flags&net.FlagUp == 0 || a.MTU != 1500 || a.HardwareAddr.String() != mac {
		t.Errorf("pod side: %+v", a)
	}
	if lo := pod.Link(t, "lo"); lo.Attrs().Flags&net.FlagUp == 0 {
		t.Error("lo is down")
	}
	if addrs := pod.IP(t, "-o address show dev eth0"); strings.Count(addrs, "\n") != 1 ||
		!strings.Contains(addrs, "inet 10.99.1.1/32 scope global eth0") {
		t.Errorf("addresses: %s", addrs)
	}
	want := "default via 169.254.1.1 dev eth0 \n169.254.1.1 dev eth0 scope link \n"
	if got := pod.IP(t, "route show"); got != want {
		t.Errorf("routes:\n%swant\n%s", got, want)
	}
	for path, want := range map[string]string{
		"ipv4/ip_forward": "0", "ipv6/conf/eth0/accept_ra": "0", "ipv6/conf/eth0/disable_ipv6": "1",
	} {
		if got := pod.Sysctl(t, path); got != want {
			t.Errorf("pod: %s is %s, want %s", path, got, want)
		}
	}
}

func TestDualStack(t *testing.T) {
	r := newRig(t)
	r.agent.ipv6 = true
	r.node.IP(t, "address add fd00:99::1/128 dev lo")
	r.node.SetSysctl(t, "ipv6/conf/all/forwarding", "1")
	pod := nettest.New(t, "pod")
	result := r.mustAdd(idA, "web", pod)
	if len(result.IPs) != 2 || result.IPs[1].Address.String() != "fd00:99::7/128" {
		t.Fatalf("addresses: %v", result.IPs)
	}
	if got := pod.IP(t, "-6 route show default"); !strings.HasPrefix(got, "default via fe80::ecee:eeff:feee:eeee dev eth0") {
		t.Errorf("IPv6 default route: %s", got)
	}
	for _, to := range []string{"10.99.0.1", "fd00:99::1"} {
		if err := r.roundTrip(pod, to); err != nil {
			t.Errorf("pod to node %s: %v", to, err)
		}
	}
	if _, err := r.run(call{verb: "CHECK", id: idA, pod: "web", netns: pod.Path, prev: result}); err != nil {
		t.Errorf("CHECK: %+v", err)
	}
	r.node.SetSysctl(t, "ipv6/conf/"+nodeapi.HostIfaceName("default", "web")+"/accept_ra", "1")
	if _, err := r.run(call{verb: "CHECK", id: idA, pod: "web", netns: pod.Path, prev: result}); err == nil ||
		!strings.Contains(err.Msg, "accept_ra is 1, want 0") {
		t.Errorf("CHECK: %+v", err)
	}
}

func TestMTU(t *testing.T) {
	for _, tc := range []struct {
		name        string
		conf, agent int
		want        int
	}{
		{"the agent's", 0, 1450, 1450},
		{"above the default", 0, 9000, 9000},
		{"the configuration's before the agent's", 1400, 1450, 1400},
		{"neither", 0, 0, 1500},
	} {
		t.Run(tc.name, func(t *testing.T) {
			r := newRig(t)
			r.agent.mtu = tc.agent
			r.conf["mtu"] = tc.conf
			pod := nettest.New(t, "pod")
			result := r.mustAdd(idA, "web", pod)
			host, eth := r.node.Link(t, result.Interfaces[0].Name), pod.Link(t, "eth0")
			if host.Attrs().MTU != tc.want || eth.Attrs().MTU != tc.want {
				t.Errorf("MTU %d on the node and %d in the pod, want %d", host.Attrs().MTU, eth.Attrs().MTU, tc.want)
			}
		})
	}
}

// The pod's interface has the hardware address that its annotation asks for
// before it is up, and the result tells of it.
func TestHardwareAddress(t *testing.T) {
	const mac = "0a:58:0a:f4:00:09"
	r := newRig(t)
	r.agent.mac = mac
	pod := nettest.New(t, "pod")
	result := r.mustAdd(idA, "web", pod)
	if got := result.Interfaces[1].Mac; got != mac {
		t.Errorf("the result has %s, want %s", got, mac)
	}
	checkHostSide(t, r.node, result.Interfaces[0].Name)
	checkPodSide(t, pod, mac)
	if err := r.roundTrip(pod, "10.99.0.1"); err != nil {
		t.Errorf("pod to node: %v", err)
	}
	if neigh := r.node.IP(t, "neigh show dev "+result.Interfaces[0].Name); !strings.Contains(neigh, "lladdr "+mac) {
		t.Errorf("the node knows the pod as %q, want %s", neigh, mac)
	}
	if _, err := r.run(call{verb: "CHECK", id: idA, pod: "web", netns: pod.Path, prev: result}); err != nil {
		t.Errorf("CHECK: %+v", err)
	}
	pod.IP(t, "link set eth0 address 0a:58:0a:f4:00:0a")
	if _, err := r.run(call{verb: "CHECK", id: idA, pod: "web", netns: pod.Path, prev: result}); err == nil ||
		!strings.Contains(err.Msg, mac) {
		t.Errorf("CHECK of another address: %+v", err)
	}
	r.mustDel(idA, "web", pod.Path)

	for _, wrong := range []string{"0a:58", "01:00:5e:00:00:01", "x"} {
		r.agent.mac = wrong
		if _, err := r.run(call{verb: "ADD", id: "c", pod: "web", netns: pod.Path}); err == nil || !strings.Contains(err.Msg, `"`+wrong+`"`) {
			t.Errorf("%s: %+v", wrong, err)
		}
	}
	if pod.Link(t, "eth0") != nil || len(r.agent.held) != 0 {
		t.Errorf("a refused address left an interface or %v", r.agent.held)
	}
}

func TestForwardingAndQueues(t *testing.T) {
	r := newRig(t)
	r.conf["container_settings"] = map[string]any{"allow_ip_forwarding": true}
	r.conf["num_queues"] = 2
	pod := nettest.New(t, "pod")
	pod.SetSysctl(t, "ipv4/ip_forward", "1")
	r.mustAdd(idA, "web", pod)
	if got := pod.Sysctl(t, "ipv4/ip_forward"); got != "1" {
		t.Errorf("ip_forward is %s though the network allows it", got)
	}
	if got := pod.Link(t, "eth0").Attrs().NumTxQueues; got != 2 {
		t.Errorf("%d queues, want 2", got)
	}
}

func TestFailedAddLeavesNothing(t *testing.T) {
	for _, tc := range []struct {
		name  string
		set   func(*rig, *nettest.Namespace)
		code  uint
		says  string
		calls []string
	}{
		{"no address", func(r *rig, _ *nettest.Namespace) {
			r.agent.failAdd = nodeapi.Errorf(nodeapi.CodeTryAgain, "pool 10.99.0.0/16 is full")
		}, 11, "pool 10.99.0.0/16 is full", []string{"add"}},
		{"no route", func(r *rig, _ *nettest.Namespace) {
			r.agent.failReady = nodeapi.Errorf(nodeapi.CodeTryAgain, "route refused")
		}, 11, "route refused", []string{"add", "ready", "abort"}},
		{"eth0 is taken", func(r *rig, pod *nettest.Namespace) { pod.IP(r.t, "link add eth0 type bridge") },
			types.ErrIOFailure, "container already has the interface eth0", []string{"add", "abort"}},
		{"foreign host interface", func(r *rig, _ *nettest.Namespace) {
			r.node.IP(r.t, "link add "+nodeapi.HostIfaceName("default", "web")+" type veth peer name other")
			r.node.IP(r.t, "link set "+nodeapi.HostIfaceName("default", "web")+" alias somebody")
		}, types.ErrIOFailure, `belongs to somebody else`, []string{"add", "abort"}},
		{"a bridge under the host's name", func(r *rig, _ *nettest.Namespace) {
			r.node.IP(r.t, "link add "+nodeapi.HostIfaceName("default", "web")+" type bridge")
		}, types.ErrIOFailure, `belongs to somebody else`, []string{"add", "abort"}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			r := newRig(t)
			pod := nettest.New(t, "pod")
			tc.set(r, pod)
			before := r.links()
			_, err := r.run(call{verb: "ADD", id: "c", pod: "web", netns: pod.Path})
			if err == nil || err.Code != tc.code || !strings.Contains(err.Msg, tc.says) {
				t.Errorf("ADD: %+v, want code %d and %q", err, tc.code, tc.says)
			}
			if tc.name == "no address" && err != nil && (err.Msg != tc.says || err.Details != "") {
				t.Errorf("ADD says %q, %q; want the agent's words unchanged", err.Msg, err.Details)
			}
			if after := r.links(); after != before {
				t.Errorf("the node's interfaces changed:\n%s\n%s", before, after)
			}
			var calls []string
			for _, c := range tc.calls {
				calls = append(calls, c+" c")
			}
			r.wantCalls(calls...)
			if len(r.agent.held) != 0 {
				t.Errorf("addresses still held: %v", r.agent.held)
			}
			if pod.Link(t, "eth0") != nil && tc.name != "eth0 is taken" {
				t.Error("eth0 stayed in the pod")
			}
		})
	}
}

func TestBadNamespace(t *testing.T) {
	r := newRig(t)
	file := t.TempDir() + "/netns"
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	for path, code := range map[string]uint{
		"/run/netns/manx-absent": types.ErrInvalidNetNS, file: types.ErrInvalidNetNS, r.node.Path: types.ErrIOFailure,
	} {
		if _, err := r.run(call{verb: "ADD", id: "c", pod: "web", netns: path}); err == nil || err.Code != code {
			t.Errorf("ADD into %s: %+v, want code %d", path, err, code)
		}
		if path != r.node.Path {
			r.mustDel("c", "web", path)
		}
	}
	if len(r.agent.held) != 0 {
		t.Errorf("addresses still held: %v", r.agent.held)
	}
}

func TestMissingPodName(t *testing.T) {
	r := newRig(t)
	for args, says := range map[string]string{
		"IgnoreUnknown=1":  "K8S_POD_NAMESPACE and K8S_POD_NAME",
		"K8S_POD_NAME=web": "K8S_POD_NAMESPACE and K8S_POD_NAME",
		"K8S_POD_NAME":     `"K8S_POD_NAME", want KEY=VALUE`,
		"K8S_POD_NAMESPACE=a/b;K8S_POD_NAME=../x": `pod "a/b/../x"`,
	} {
		_, err := r.run(call{verb: "ADD", id: "c", args: args, netns: "/run/netns/x"})
		if err == nil || err.Code != types.ErrInvalidEnvironmentVariables || !strings.Contains(err.Msg, says) {
			t.Errorf("CNI_ARGS=%s: %+v, want code 4 and %q", args, err, says)
		}
	}
	r.wantCalls()
}

// A repeated ADD replaces what a failed one, or a killed plugin, left.
func TestAddAfterLeftovers(t *testing.T) {
	r := newRig(t)
	host := nodeapi.HostIfaceName("default", "web")
	old, pod := nettest.New(t, "pod"), nettest.New(t, "pod")

	// Killed before it could mark its interface.
	r.node.IP(t, "link add "+host+" type veth peer name eth0 netns "+old.Name)
	first := r.mustAdd(idA, "web", pod)
	// The runtime tries again without a DEL: same container, same address.
	again := r.mustAdd(idA, "web", pod)
	if first.IPs[0].Address.String() != again.IPs[0].Address.String() {
		t.Errorf("the same container got %s, then %s", first.IPs[0].Address.String(), again.IPs[0].Address.String())
	}
	if err := r.roundTrip(pod, "10.99.0.1"); err != nil {
		t.Errorf("pod to node: %v", err)
	}
	if old.Link(t, "eth0") != nil {
		t.Error("the leftover stayed")
	}
}

// The pod is killed between its two steps: the agent takes the address back, and
// the next ADD works.
func TestPluginKilledBeforeReady(t *testing.T) {
	r := newRig(t)
	pod := nettest.New(t, "pod")
	host := nodeapi.HostIfaceName("default", "web")
	hold := make(chan struct{})
	r.stop()
	r.startWith(&blockingAgent{fakeAgent: r.agent, hold: hold})
	cmd := r.command(call{verb: "ADD", id: idA, pod: "web", netns: pod.Path})
	r.node.Do(t, func() {
		if err := cmd.Start(); err != nil {
			t.Error(err)
		}
	})
	nettest.Eventually(t, "the veth is there", func() bool { return r.node.Link(t, host) != nil })
	if err := cmd.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	_ = cmd.Wait()
	// The fake agent insists that an address is not given back before its interface is gone.
	if l := r.node.Link(t, host); l != nil {
		if err := r.node.Handle.LinkDel(l); err != nil {
			t.Fatal(err)
		}
	}
	close(hold)
	nettest.Eventually(t, "the address is back", func() bool { return r.agent.addrs(idA) == nil })
	r.mustAdd(idA, "web", pod)
}

func TestConcurrentAdds(t *testing.T) {
	const pods = 20
	r := newRig(t)
	spaces := make([]*nettest.Namespace, pods)
	for i := range spaces {
		spaces[i] = nettest.New(t, "pod")
	}
	commands := make([]*exec.Cmd, pods)
	begin := time.Now()
	r.node.Do(t, func() {
		for i := range commands {
			name := string(rune('a' + i))
			commands[i] = r.command(call{verb: "ADD", id: name, pod: "web-" + name, netns: spaces[i].Path})
			if err := commands[i].Start(); err != nil {
				t.Error(err)
			}
		}
	})
	for i, cmd := range commands {
		if err := cmd.Wait(); err != nil {
			t.Errorf("ADD %d: %v", i, err)
		}
	}
	t.Logf("%d ADDs started together took %v", pods, time.Since(begin))
	seen := map[string]bool{}
	for _, ns := range spaces {
		eth := ns.Link(t, "eth0")
		if eth == nil {
			t.Fatalf("%s has no eth0", ns.Name)
		}
		addrs, err := ns.Handle.AddrList(eth, netlink.FAMILY_V4)
		if err != nil || len(addrs) != 1 || seen[addrs[0].IP.String()] {
			t.Errorf("addresses %v (%v), seen %v", addrs, err, seen)
			continue
		}
		seen[addrs[0].IP.String()] = true
		if err := r.roundTrip(ns, "10.99.0.1"); err != nil {
			t.Errorf("pod %s to node: %v", addrs[0].IP, err)
		}
	}
}

// operational matches what the kernel finds out about a link by and by: whether it has a
// carrier, and with it its state and queue.
var operational = regexp.MustCompile(`(NO-CARRIER,|,LOWER_UP|,M-DOWN| qdisc \S+| state \S+)`)

// links are the node's interfaces, without what changes by itself.
func (r *rig) links() string {
	r.t.Helper()
	return operational.ReplaceAllString(r.node.IP(r.t, "-o link show"), "")
}
