package startup

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"

	v1 "github.com/manx-cni/manx/api/v1"
	"github.com/manx-cni/manx/internal/config"
	"github.com/manx-cni/manx/internal/family"
)

// dual is a cluster on whose machine eth0 has the given IPv6 addresses too.
func dual(t *testing.T, addrs []string, objs ...runtime.Object) *cluster {
	t.Helper()
	c := newCluster(t, objs...)
	c.setIPv6(addrs...)
	return c
}

// setIPv6 gives eth0 these IPv6 addresses instead of what it has.
func (c *cluster) setIPv6(addrs ...string) {
	eth0 := &c.ifaces[1]
	eth0.Addrs = []netip.Prefix{netip.MustParsePrefix("10.0.0.5/24"), netip.MustParsePrefix("fe80::5/64")}
	for _, a := range addrs {
		eth0.Addrs = append(eth0.Addrs, netip.MustParsePrefix(a))
	}
}

func TestFirstStartWithIPv6(t *testing.T) {
	c := dual(t, []string{"fd00::5/64"}, node("node-1"), node("node-2", v1.AnnotationNodeIPv6, "fd00::6/64"))
	res := c.mustRun("IP=autodetect", "IP6=autodetect", "CALICO_IPV4POOL_CIDR=10.244.0.0/16", "CALICO_IPV6POOL_CIDR=fd00:10:244::/48")
	if res.Address != netip.MustParsePrefix("10.0.0.5/24") ||
		res.Address6 != netip.MustParsePrefix("fd00::5/64") || res.Interface6 != "eth0" ||
		res.RouterID != netip.MustParseAddr("10.0.0.5") || res.Reason6 == "" || len(res.Notes) > 0 {
		t.Errorf("%+v", res)
	}
	if a := c.node("node-1").Annotations; a[v1.AnnotationNodeIPv4] != "10.0.0.5/24" ||
		a[v1.AnnotationNodeIPv6] != "fd00::5/64" || len(a) != 2 {
		t.Errorf("annotations %v", a)
	}
	want := []string{
		"patch nodes/status", "create ippools", "create ippools", "create clusterinformations",
		"create felixconfigurations", "create bgpconfigurations",
	}
	if got := c.writes(); !slices.Equal(got, want) {
		t.Errorf("writes %v, want %v", got, want)
	}
	pools := c.pools()
	if len(pools) != 2 || pools[0].Name != "default-ipv4-ippool" {
		t.Fatalf("pools %+v", pools)
	}
	s := pools[1].Spec
	if pools[1].Name != "default-ipv6-ippool" || s.CIDR != "fd00:10:244::/48" ||
		s.BlockSize != 122 || s.IPIPMode != v1.EncapNever || s.VXLANMode != v1.EncapNever ||
		s.NATOutgoing || s.NodeSelector != "all()" || s.DisableBGPExport || len(s.AllowedUses) != 2 {
		t.Errorf("pool %+v", pools[1])
	}
	if err := pools[1].Validate(); err != nil {
		t.Error(err)
	}
	if log := c.log.String(); !strings.Contains(log, `msg="node IPv6 address" node=node-1 address=fd00::5/64 iface=eth0`) {
		t.Errorf("log:\n%s", log)
	}
}

// A node that is not asked to have IPv6 has none, says nothing of it, and takes back
// what it has said before.
func TestWithoutIPv6(t *testing.T) {
	for _, env := range [][]string{nil, {"IP6=none"}, {"IP6=none", "FELIX_IPV6SUPPORT=false"}, {"FELIX_IPV6SUPPORT=true"}} {
		c := dual(t, []string{"fd00::5/64"}, node("node-1"))
		if res := c.mustRun(env...); res.Address6.IsValid() || res.Interface6 != "" || len(res.Notes) > 0 {
			t.Errorf("%v: %+v", env, res)
		}
		if a := c.node("node-1").Annotations; len(a) != 1 {
			t.Errorf("%v: annotations %v", env, a)
		}
		if log := c.log.String(); strings.Contains(log, "6") && strings.Contains(strings.ToLower(log), "ipv6") {
			t.Errorf("%v: the log speaks of IPv6:\n%s", env, log)
		}

		c = dual(t, []string{"fd00::5/64"},
			node("node-1", v1.AnnotationNodeIPv4, "10.0.0.5/24", v1.AnnotationNodeIPv6, "fd00::5/64", "other", "x"))
		c.mustRun(env...)
		if a := c.node("node-1").Annotations; len(a) != 2 || a[v1.AnnotationNodeIPv4] != "10.0.0.5/24" || a["other"] != "x" {
			t.Errorf("%v: annotations %v", env, a)
		}
		c.writes()
		c.mustRun(env...)
		if w := c.writes(); len(w) > 0 {
			t.Errorf("%v: the second start wrote %v", env, w)
		}
	}
}

func TestSecondStartWithIPv6WritesNothing(t *testing.T) {
	for _, env := range [][]string{
		{"IP6=autodetect", "CALICO_IPV6POOL_CIDR=fd00:10:244::/48"},
		{"IP=autodetect", "IP6=autodetect", "CALICO_IPV6POOL_CIDR=fd00:10:244:0::7/64"},
		{"IP6=fd00::5", "CALICO_IPV6POOL_CIDR=none"},
		{"IP=10.0.0.5", "IP6=fd00::9/48", "NO_DEFAULT_POOLS=true"},
		{"IP6=autodetect", "IP6_AUTODETECTION_METHOD=cidr=fd00::/64", "CALICO_IPV4POOL_CIDR=none", "CALICO_IPV6POOL_CIDR=fd00:10:244::/48"},
	} {
		c := dual(t, []string{"2001:db8::5/64", "fd00::5/64"}, node("node-1"))
		first := c.mustRun(env...)
		if len(c.writes()) == 0 {
			t.Errorf("%v: the first start wrote nothing", env)
		}
		c.now = c.now.Add(time.Hour)
		// The kernel lists the latest address first.
		c.setIPv6("2001:db8::77/64", "2001:db8::5/64", "fd00::5/64")
		s := c.start(env...)
		second, err := s.Run(t.Context())
		if err != nil {
			t.Fatalf("%v: %v", env, err)
		}
		if res, changed, err := s.Redetect(t.Context()); err != nil || changed || res.Address6.IsValid() && res.Address6 != first.Address6 {
			t.Errorf("%v: redetect %+v, %t, %v", env, res, changed, err)
		}
		if w := c.writes(); len(w) > 0 {
			t.Errorf("%v: the second start wrote %v", env, w)
		}
		if !second.Address6.IsValid() || second.Address6 != first.Address6 || second.Address != first.Address || len(second.Notes) > 0 {
			t.Errorf("%v: %+v, then %+v", env, first, second)
		}
	}
}

func TestIPv6AddressFailures(t *testing.T) {
	for _, tc := range []struct {
		env  []string
		want string
	}{
		{[]string{"IP6=autodetect"},
			`IP6_AUTODETECTION_METHOD="first-found": no address qualifies; interfaces seen: eth0 fe80::5/64 (not a global unicast address)`},
		{[]string{"IP6=autodetect"}, "or set IP6 to this node's IPv6 address, or to none for a node without IPv6"},
		{[]string{"IP6=autodetect", "IP6_AUTODETECTION_METHOD=can-reach=2001:db8::1"}, "no IPv6 route"},
		{[]string{"IP6=autodetect", "IP6_AUTODETECTION_METHOD=kubernetes-internal-ip"}, "no IPv6 InternalIP"},
		{[]string{"IP6=fd00::6"}, `node node-2 already has the address fd00::6 (annotation projectcalico.org/IPv6Address="fd00::6"); ` +
			`want IP6 or IP6_AUTODETECTION_METHOD to give`},
	} {
		c := dual(t, nil, node("node-1"), node("node-2", v1.AnnotationNodeIPv6, "fd00::6"), node("node-3", v1.AnnotationNodeIPv6, "nonsense"))
		_, err := c.run(tc.env...)
		if err == nil || !strings.Contains(err.Error(), tc.want) {
			t.Errorf("%v: got %v, want %q", tc.env, err, tc.want)
		}
		if w := c.writes(); len(w) > 0 {
			t.Errorf("%v: wrote %v", tc.env, w)
		}
	}
	c := dual(t, nil, node("node-1"), node("node-2", v1.AnnotationNodeIPv6, "fd00::6/64"))
	if res := c.mustRun("IP6=fd00::6/64", "DISABLE_NODE_IP_CHECK=true", "CALICO_IPV6POOL_CIDR=none"); res.Address6.Bits() != 64 {
		t.Errorf("with the check off: %+v", res)
	}
}

func TestInternalIPOfIPv6(t *testing.T) {
	n := node("node-1")
	n.Status.Addresses = []corev1.NodeAddress{
		{Type: corev1.NodeInternalIP, Address: "10.0.0.5"},
		{Type: corev1.NodeInternalIP, Address: "fd00:0::5"},
	}
	c := dual(t, []string{"2001:db8::5/64", "fd00::5/56"}, n)
	res := c.mustRun("IP6=autodetect", "IP6_AUTODETECTION_METHOD=kubernetes-internal-ip", "CALICO_IPV6POOL_CIDR=none")
	if res.Address6 != netip.MustParsePrefix("fd00::5/56") {
		t.Errorf("%+v", res)
	}
}

func TestIPv6PoolNotes(t *testing.T) {
	const cidr = "CALICO_IPV6POOL_CIDR=fd00:10:244::/48"
	for _, tc := range []struct {
		name  string
		env   []string
		pools []runtime.Object
		want  string // the IPv6 pools, space-separated
		note  string
	}{
		{"made", []string{"IP6=autodetect", cidr}, nil, "default-ipv6-ippool", ""},
		{"made for other nodes", []string{cidr}, nil, "default-ipv6-ippool", ""},
		{"beside none of IPv4", []string{"IP6=autodetect", cidr, "CALICO_IPV4POOL_CIDR=none"}, nil, "default-ipv6-ippool", ""},
		{"not asked for", nil, nil, "", ""},
		{"not wanted", []string{"IP6=autodetect", "CALICO_IPV6POOL_CIDR=none"}, nil, "", ""},
		{"no default pools", []string{"IP6=autodetect", "NO_DEFAULT_POOLS=true"}, nil, "", ""},
		{"no range", []string{"IP6=autodetect"}, nil, "",
			"IPPool default-ipv6-ippool: this node has IPv6, and there is no IPv6 pool for its pods: set CALICO_IPV6POOL_CIDR"},
		{"no range needed", []string{"IP6=autodetect"}, []runtime.Object{pool("mine", "fd00:1::/64")}, "mine", ""},
		{"there already", []string{"IP6=autodetect", cidr}, []runtime.Object{pool("mine", "fd00:1::/64")}, "mine", ""},
		{"holds the node's address", []string{"IP6=autodetect", "CALICO_IPV6POOL_CIDR=fd00::/32"}, nil, "default-ipv6-ippool",
			"its range fd00::/32 (CALICO_IPV6POOL_CIDR) contains this node's own address fd00::5: " +
				"pods and nodes must not share a range; set CALICO_IPV6POOL_CIDR"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			c := dual(t, []string{"fd00::5/64"}, append(tc.pools, node("node-1"), kubeadm("podSubnet: fd00:99::/48"))...)
			res := c.mustRun(tc.env...)
			checkNotes(t, res.Notes, tc.note)
			var got []string
			for _, p := range poolsOf(family.IPv6, c.pools()) {
				got = append(got, p.Name)
			}
			if strings.Join(got, " ") != tc.want {
				t.Errorf("pools %q, want %q", got, tc.want)
			}
		})
	}
}

func TestCompareIPv6Pools(t *testing.T) {
	env := []string{
		"IP6=autodetect", "CALICO_IPV6POOL_CIDR=fd00:10:244::/48", "CALICO_IPV6POOL_NAT_OUTGOING=false", "CALICO_IPV6POOL_BLOCK_SIZE=122",
	}
	for _, tc := range []struct {
		name  string
		env   []string
		pools []v1.IPPool
		notes []string
	}{
		{"nothing asked", nil, []v1.IPPool{*pool("default-ipv6-ippool", "fd00:1::/64")}, nil},
		{"differs", env, []v1.IPPool{*pool("default-ipv4-ippool", "10.9.0.0/16"), *pool("default-ipv6-ippool", "fd00:1::/64")}, []string{
			`IPPool default-ipv6-ippool: its cidr is fd00:1::/64, while CALICO_IPV6POOL_CIDR="fd00:10:244::/48"`,
			`IPPool default-ipv6-ippool: its natOutgoing is true, while CALICO_IPV6POOL_NAT_OUTGOING="false"`}},
		{"the same, written otherwise", env, []v1.IPPool{*pool("mine", "FD00:10:244:0::/48"), *pool("other", "fd00:1::/64")},
			[]string{"IPPool mine: its natOutgoing"}},
		{"each family for itself", []string{"CALICO_IPV4POOL_NAT_OUTGOING=false", "CALICO_IPV6POOL_NAT_OUTGOING=false"},
			[]v1.IPPool{*pool("four", "10.9.0.0/16"), *pool("six", "fd00:1::/64")}, []string{
				`IPPool four: its natOutgoing is true, while CALICO_IPV4POOL_NAT_OUTGOING="false"`,
				`IPPool six: its natOutgoing is true, while CALICO_IPV6POOL_NAT_OUTGOING="false"`}},
		{"not wanted", []string{"CALICO_IPV6POOL_CIDR=none", "CALICO_IPV6POOL_NAT_OUTGOING=false"},
			[]v1.IPPool{*pool("six", "fd00:1::/64")}, nil},
		{"an IPv4 pool only", env, []v1.IPPool{*pool("default-ipv4-ippool", "10.9.0.0/16")}, nil},
	} {
		t.Run(tc.name, func(t *testing.T) {
			set, _, err := config.Parse(tc.env)
			if err != nil {
				t.Fatal(err)
			}
			checkNotes(t, ComparePools(set, tc.pools), tc.notes...)
		})
	}
}

func TestRestoreIPv6(t *testing.T) {
	c := dual(t, []string{"fd00::5/64"}, node("node-1"))
	s := c.start("IP6=autodetect", "CALICO_IPV6POOL_CIDR=none")
	res, err := s.Run(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	c.writes()
	if restored, err := s.Restore(t.Context(), res); err != nil || restored || len(c.writes()) > 0 {
		t.Errorf("nothing is lost, restored %v, %v", restored, err)
	}
	for _, lost := range [][]string{{v1.AnnotationNodeIPv6}, {v1.AnnotationNodeIPv4}, {v1.AnnotationNodeIPv4, v1.AnnotationNodeIPv6}} {
		n := c.node("node-1").DeepCopy()
		for _, a := range lost {
			delete(n.Annotations, a)
		}
		if _, err := c.kube.CoreV1().Nodes().Update(t.Context(), n, metav1.UpdateOptions{}); err != nil {
			t.Fatal(err)
		}
		if restored, err := s.Restore(t.Context(), res); err != nil || !restored {
			t.Errorf("without %v: restored %v, %v", lost, restored, err)
		}
		if a := c.node("node-1").Annotations; a[v1.AnnotationNodeIPv4] != "10.0.0.5/24" || a[v1.AnnotationNodeIPv6] != "fd00::5/64" {
			t.Errorf("without %v: annotations %v", lost, a)
		}
	}
}

func TestRedetectIPv6(t *testing.T) {
	for _, ip := range []string{"", "10.0.0.5/24", "autodetect"} {
		t.Run("IP="+ip, func(t *testing.T) {
			c := dual(t, []string{"fd00::5/64"}, node("node-1"), node("node-2", v1.AnnotationNodeIPv6, "fd00::6/64"))
			s := c.start("IP="+ip, "IP6=autodetect", "CALICO_IPV6POOL_CIDR=none")
			first, err := s.Run(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			c.writes()
			// A second address does not move the node, a renumbered interface does.
			c.setIPv6("2001:db8::5/64", "fd00::5/64")
			if res, changed, err := s.Redetect(t.Context()); err != nil || changed ||
				res.Address != first.Address || res.Address6 != first.Address6 {
				t.Errorf("%+v %v %v", res, changed, err)
			}
			c.setIPv6("2001:db8::5/64")
			res, changed, err := s.Redetect(t.Context())
			if err != nil || !changed || res.Address != first.Address || res.Address6 != netip.MustParsePrefix("2001:db8::5/64") {
				t.Errorf("%+v %v %v", res, changed, err)
			}
			if a := c.node("node-1").Annotations; a[v1.AnnotationNodeIPv6] != "2001:db8::5/64" || a[v1.AnnotationNodeIPv4] != "10.0.0.5/24" {
				t.Errorf("annotations %v", a)
			}
			// Not to an address that another node has, nor to none.
			c.writes()
			for want, addrs := range map[string][]string{"node-2": {"fd00::6/64"}, "no address qualifies": nil} {
				c.setIPv6(addrs...)
				if _, changed, err := s.Redetect(t.Context()); err == nil || changed || !strings.Contains(err.Error(), want) {
					t.Errorf("%v %v; want %q", changed, err, want)
				}
			}
			if w := c.writes(); !slices.Equal(w, []string{"patch nodes/status"}) || c.node("node-1").Annotations[v1.AnnotationNodeIPv6] != "" {
				t.Errorf("wrote %v, annotations %v; want the address that is gone withdrawn", w, c.node("node-1").Annotations)
			}
		})
	}
}

// What a user writes to the IPv4 annotation while IP is not autodetect stays, though
// IPv6 is looked at.
func TestRedetectIPv6LeavesIPv4(t *testing.T) {
	for _, ip := range []string{"", "10.0.0.5/24"} {
		c := dual(t, []string{"fd00::5/64"}, node("node-1"))
		s := c.start("IP="+ip, "IP6=autodetect", "CALICO_IPV6POOL_CIDR=none")
		first, err := s.Run(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		mine := "10.0.0.9/24"
		if err := s.Annotate(t.Context(), map[string]*string{v1.AnnotationNodeIPv4: &mine}); err != nil {
			t.Fatal(err)
		}
		c.setIPv6("fd00::7/64")
		if res, changed, err := s.Redetect(t.Context()); err != nil || !changed || res.Address != first.Address {
			t.Errorf("IP=%s: %+v, %v, %v", ip, res, changed, err)
		}
		if a := c.node("node-1").Annotations; a[v1.AnnotationNodeIPv4] != mine || a[v1.AnnotationNodeIPv6] != "fd00::7/64" {
			t.Errorf("IP=%s: annotations %v", ip, a)
		}
	}
}

// A node whose init container was not told of IPv6 says so.
func TestForwardingIsOff(t *testing.T) {
	c := dual(t, []string{"fd00::5/64"}, node("node-1"))
	c.noFwd6 = true
	checkNotes(t, c.mustRun("IP6=autodetect", "CALICO_IPV6POOL_CIDR=none").Notes,
		"Node node-1: it does not forward IPv6, so pods reach nobody over it: set IP6 in the init container init-host")
	checkNotes(t, c.mustRun().Notes)
	s := c.start("IP6=autodetect", "CALICO_IPV6POOL_CIDR=none")
	s.Forwards6 = func() (bool, error) { return false, fmt.Errorf("no such file") }
	res, err := s.Run(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	checkNotes(t, res.Notes, "whether it forwards IPv6 is not known: no such file")
}
