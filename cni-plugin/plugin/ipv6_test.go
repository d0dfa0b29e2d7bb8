package plugin

import (
	"fmt"
	"maps"
	"net/netip"
	"os/exec"
	"slices"
	"strings"
	"testing"

	"github.com/containernetworking/cni/pkg/types"
	current "github.com/containernetworking/cni/pkg/types/100"

	"github.com/manx-cni/manx/cni-plugin/internal/nettest"
	"github.com/manx-cni/manx/internal/nodeapi"
)

const gateway6 = "fe80::ecee:eeff:feee:eeee"

// newRig6 is a node with IPv6 whose network gives pods it, and IPv4 as told.
func newRig6(t *testing.T, ipv4 bool) *rig {
	t.Helper()
	r := newRig(t)
	r.node.IP(t, "address add fd00:99::1/128 dev lo")
	r.node.SetSysctl(t, "ipv6/conf/all/forwarding", "1")
	r.conf["ipam"] = map[string]any{"type": "manx-ipam", "assign_ipv4": fmt.Sprint(ipv4), "assign_ipv6": "true"}
	return r
}

// ping sends one echo request from a namespace.
func ping(t *testing.T, from *nettest.Namespace, to string) error {
	t.Helper()
	var out []byte
	var err error
	from.Do(t, func() { out, err = exec.Command("ping", "-n", "-c", "1", "-W", "30", to).CombinedOutput() })
	if err != nil {
		return fmt.Errorf("ping %s: %w: %s", to, err, out)
	}
	return nil
}

// A pod has both families or IPv6 alone, and reaches the node and is reached by it in
// each as soon as ADD has returned, over a host route and nothing else.
func TestIPv6(t *testing.T) {
	for _, tc := range []struct {
		name  string
		ipv4  bool
		addrs []string
		prep  func(t *testing.T, r *rig, pod *nettest.Namespace)
	}{
		{"both", true, []string{"10.99.1.1/32", "fd00:99::7/128"}, nil},
		{"IPv6 alone", false, []string{"fd00:99::7/128"}, nil},
		{"IPv6 turned off in the pod by its runtime", false, []string{"fd00:99::7/128"}, func(t *testing.T, _ *rig, pod *nettest.Namespace) {
			pod.SetSysctl(t, "ipv6/conf/all/disable_ipv6", "1")
			pod.SetSysctl(t, "ipv6/conf/default/disable_ipv6", "1")
		}},
		{"a router's settings in the pod, IPv6 off for new interfaces of the node", true,
			[]string{"10.99.1.1/32", "fd00:99::7/128"}, func(t *testing.T, r *rig, pod *nettest.Namespace) {
				pod.SetSysctl(t, "ipv6/conf/all/forwarding", "1")
				pod.SetSysctl(t, "ipv6/conf/default/accept_dad", "2")
				r.node.SetSysctl(t, "ipv6/conf/default/disable_ipv6", "1")
			}},
		{"no link-local addresses of EUI-64 on the node", false, []string{"fd00:99::7/128"}, func(t *testing.T, r *rig, _ *nettest.Namespace) {
			r.node.SetSysctl(t, "ipv6/conf/default/addr_gen_mode", "1") // IN6_ADDR_GEN_MODE_NONE
		}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			r := newRig6(t, tc.ipv4)
			pod := nettest.New(t, "pod")
			if tc.prep != nil {
				tc.prep(t, r, pod)
			}
			result := r.mustAdd(idA, "web", pod)
			reaches := func(when string) {
				t.Helper()
				for _, err := range []error{ping(t, pod, "fd00:99::1"), ping(t, r.node, "fd00:99::7"), r.roundTrip(pod, "fd00:99::1")} {
					if err != nil {
						t.Errorf("%s: %v", when, err)
					}
				}
				if !tc.ipv4 {
					return
				}
				if err := r.roundTrip(pod, "10.99.0.1"); err != nil {
					t.Errorf("%s: %v", when, err)
				}
			}
			reaches("after ADD")
			checkResult6(t, result, pod, tc.addrs)
			checkHost6(t, r.node, result.Interfaces[0].Name, tc.ipv4)
			checkPod6(t, pod, tc.addrs)
			if _, err := r.run(call{verb: "CHECK", id: idA, pod: "web", netns: pod.Path, prev: result}); err != nil {
				t.Errorf("CHECK: %+v", err)
			}
			checkResult6(t, r.mustAdd(idA, "web", pod), pod, tc.addrs) // the runtime tries again
			reaches("after another ADD")
			checkPod6(t, pod, tc.addrs)

			r.mustDel(idA, "web", pod.Path)
			if r.node.Link(t, result.Interfaces[0].Name) != nil || pod.Link(t, "eth0") != nil || len(r.agent.held) != 0 {
				t.Errorf("DEL left an interface or addresses: %v", r.agent.held)
			}
			if left := r.node.IP(t, "-6 route show fd00:99::7"); strings.TrimSpace(left) != "" {
				t.Errorf("DEL left %s", left)
			}
		})
	}
}

func checkResult6(t *testing.T, result *current.Result, pod *nettest.Namespace, addrs []string) {
	t.Helper()
	var got []string
	for _, ip := range result.IPs {
		got = append(got, ip.Address.String())
		if ip.Interface == nil || *ip.Interface != 1 || ip.Gateway != nil {
			t.Errorf("%+v; want it on interface 1, without a gateway", ip)
		}
	}
	if !slices.Equal(got, addrs) || len(result.Routes) > 0 {
		t.Errorf("addresses %v, routes %v; want %v and no routes", got, result.Routes, addrs)
	}
	if len(result.Interfaces) != 2 || result.Interfaces[0].Sandbox != "" ||
		result.Interfaces[1].Name != "eth0" || result.Interfaces[1].Sandbox != pod.Path {
		t.Errorf("interfaces %v", result.Interfaces)
	}
}

func checkHost6(t *testing.T, node *nettest.Namespace, host string, ipv4 bool) {
	t.Helper()
	addrs := strings.TrimSpace(node.IP(t, "-o address show dev "+host))
	if strings.Contains(addrs, "\n") || !strings.Contains(addrs, "inet6 "+gateway6+"/64 scope link") || strings.Contains(addrs, "tentative") {
		t.Errorf("addresses of the host side: %s", addrs)
	}
	want := map[string]string{
		"ipv6/conf/" + host + "/accept_ra":    "0",
		"ipv6/conf/" + host + "/accept_dad":   "0",
		"ipv6/conf/" + host + "/disable_ipv6": "0",
		"ipv6/conf/" + host + "/proxy_ndp":    "1",
		"ipv6/conf/" + host + "/forwarding":   "1",
		"ipv4/conf/" + host + "/proxy_arp":    "0",
	}
	if ipv4 {
		want["ipv4/conf/"+host+"/proxy_arp"] = "1"
	}
	checkSysctls(t, "node", node, want)
}

func checkPod6(t *testing.T, pod *nettest.Namespace, addrs []string) {
	t.Helper()
	var want []string
	for _, a := range addrs {
		family := "inet "
		if strings.Contains(a, ":") {
			family = "inet6 "
		}
		want = append(want, family+a)
	}
	var got []string
	for line := range strings.Lines(pod.IP(t, "-o address show dev eth0 scope global")) {
		if f := strings.Fields(line); len(f) > 3 {
			got = append(got, f[2]+" "+f[3])
		}
		if strings.Contains(line, "tentative") || strings.Contains(line, "dadfailed") {
			t.Errorf("an address that cannot be used: %s", line)
		}
	}
	if !slices.Equal(got, want) {
		t.Errorf("the pod has %q; want %q", got, want)
	}
	if got := pod.IP(t, "-6 route show default"); !strings.HasPrefix(got, "default via "+gateway6+" dev eth0 ") ||
		strings.Count(got, "\n") != 1 {
		t.Errorf("IPv6 default routes: %s", got)
	}
	if got := pod.IP(t, "-4 route show"); (len(addrs) == 2) != strings.Contains(got, "169.254.1.1") || len(addrs) == 1 && got != "" {
		t.Errorf("IPv4 routes: %s", got)
	}
	if neigh := pod.IP(t, "-6 neigh show "+gateway6); !strings.Contains(neigh, "lladdr ee:ee:ee:ee:ee:ee") {
		t.Errorf("who has %s: %q, want ee:ee:ee:ee:ee:ee", gateway6, neigh)
	}
	if lo := pod.IP(t, "-6 -o address show dev lo"); !strings.Contains(lo, "inet6 ::1/128") {
		t.Errorf("addresses of lo: %q", lo)
	}
	checkSysctls(t, "pod", pod, map[string]string{
		"ipv4/ip_forward": "0", "ipv6/conf/all/forwarding": "0", "ipv6/conf/eth0/accept_ra": "0",
		"ipv6/conf/eth0/accept_dad": "0", "ipv6/conf/eth0/disable_ipv6": "0",
	})
}

func checkSysctls(t *testing.T, where string, ns *nettest.Namespace, want map[string]string) {
	t.Helper()
	for _, path := range slices.Sorted(maps.Keys(want)) {
		if got := ns.Sysctl(t, path); got != want[path] {
			t.Errorf("%s: %s is %s, want %s", where, path, got, want[path])
		}
	}
}

// A network that lets pods forward packets lets them forward those of both families.
func TestForwardingIPv6(t *testing.T) {
	r := newRig6(t, true)
	r.conf["container_settings"] = map[string]any{"allow_ip_forwarding": true}
	pod := nettest.New(t, "pod")
	pod.SetSysctl(t, "ipv4/ip_forward", "1")
	r.mustAdd(idA, "web", pod)
	checkSysctls(t, "pod", pod, map[string]string{"ipv4/ip_forward": "1", "ipv6/conf/all/forwarding": "1", "ipv6/conf/eth0/accept_ra": "0"})
}

// Each family's damage is found and named.
func TestCheckFindsDamageOfBothFamilies(t *testing.T) {
	host := nodeapi.HostIfaceName("default", "web")
	for _, tc := range []struct {
		says     string
		ns, line string // what ip does in the node or the pod
		sysctl   string // of the node's interface, or
		value    string
	}{
		{says: host + " lacks address " + gateway6 + "/64, the pod's gateway", ns: "node", line: "address del " + gateway6 + "/64 dev " + host},
		{says: "sysctl ipv6/conf/" + host + "/forwarding is 0, want 1", sysctl: "forwarding", value: "0"},
		{says: "sysctl ipv6/conf/" + host + "/proxy_ndp is 0, want 1", sysctl: "proxy_ndp", value: "0"},
		{says: "sysctl ipv6/conf/" + host + "/disable_ipv6 is 1, want 0", sysctl: "disable_ipv6", value: "1"},
		{says: "eth0 in the pod lacks address fd00:99::7/128", ns: "pod", line: "address del fd00:99::7/128 dev eth0"},
		{says: "the pod lacks the route ::/0 via " + gateway6 + " dev eth0", ns: "pod", line: "-6 route del default"},
		{says: "eth0 in the pod lacks address 10.99.1.1/32", ns: "pod", line: "address del 10.99.1.1/32 dev eth0"},
		{says: "the pod lacks the route 0.0.0.0/0 via 169.254.1.1 dev eth0", ns: "pod", line: "route del default"},
	} {
		t.Run(tc.says, func(t *testing.T) {
			r := newRig6(t, true)
			pod := nettest.New(t, "pod")
			result := r.mustAdd(idA, "web", pod)
			switch tc.ns {
			case "node":
				r.node.IP(t, tc.line)
			case "pod":
				pod.IP(t, tc.line)
			default:
				r.node.SetSysctl(t, "ipv6/conf/"+host+"/"+tc.sysctl, tc.value)
			}
			_, err := r.run(call{verb: "CHECK", id: idA, pod: "web", netns: pod.Path, prev: result})
			if err == nil || err.Code != codeDamaged || !strings.Contains(err.Msg, tc.says) {
				t.Errorf("CHECK: %+v, want %q", err, tc.says)
			}
		})
	}
}

// A pod with both families goes while no agent runs: nothing of it is left on the
// node, and the agent that comes back releases both addresses.
func TestDualStackDelWithoutAgent(t *testing.T) {
	r := newRig6(t, true)
	pod := nettest.New(t, "pod")
	r.mustAdd(idA, "web", pod)
	r.stop()
	r.mustDel(idA, "web", pod.Path)
	if pod.Link(t, "eth0") != nil || r.node.Link(t, nodeapi.HostIfaceName("default", "web")) != nil {
		t.Error("DEL left the interface")
	}
	for _, dst := range []string{"10.99.1.1", "fd00:99::7"} {
		if left := r.node.IP(t, "route show "+dst); strings.TrimSpace(left) != "" {
			t.Errorf("DEL left %s", left)
		}
	}
	if got := r.agent.addrs(idA); !slices.Equal(got, []netip.Addr{netip.MustParseAddr("10.99.1.1"), netip.MustParseAddr("fd00:99::7")}) {
		t.Errorf("%v released while no agent ran", got)
	}
	r.start()
	nettest.Eventually(t, "the addresses are released", func() bool { return r.agent.addrs(idA) == nil })
}

// The kernel has no IPv6 on an interface whose MTU is below IPv6's smallest.
func TestIPv6NeedsItsMTU(t *testing.T) {
	r := newRig6(t, true)
	pod := nettest.New(t, "pod")
	for name, set := range map[string]func(mtu int){
		"of the configuration": func(mtu int) { r.conf["mtu"] = mtu },
		"of the agent":         func(mtu int) { r.conf["mtu"], r.agent.mtu = 0, mtu },
	} {
		set(1279)
		_, err := r.run(call{verb: "ADD", id: idA, pod: "web", netns: pod.Path})
		if err == nil || err.Code != types.ErrIOFailure ||
			!strings.Contains(err.Msg, "give eth0 an IPv6 address with an MTU of 1279: want 1280 at least") {
			t.Errorf("%s: %+v", name, err)
		}
		if pod.Link(t, "eth0") != nil || len(r.agent.held) != 0 {
			t.Errorf("%s: a failed ADD left an interface or %v", name, r.agent.held)
		}
		set(1280)
		r.mustAdd(idA, "web", pod)
		if err := ping(t, pod, "fd00:99::1"); err != nil {
			t.Errorf("%s: %v", name, err)
		}
		r.mustDel(idA, "web", pod.Path)
	}
}
