package datastore

import (
	"net/netip"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"

	apiv1 "github.com/manx-cni/manx/api/v1"
)

// What cannot be the address of a machine is not taken for one, whoever has written it
// into a Node's annotations.
func TestAddressesThatNoNodeHas(t *testing.T) {
	for _, tt := range []struct{ annotation, value, want string }{
		{apiv1.AnnotationNodeIPv4, "10.0.0.5/24", ""},
		{apiv1.AnnotationNodeIPv4, "8.8.8.8/32", ""},
		{apiv1.AnnotationNodeIPv4, "10.0.0.5/8", ""},
		{apiv1.AnnotationNodeIPv4, "8.8.8.8/0", "subnet length 0 is too short"},
		{apiv1.AnnotationNodeIPv4, "10.0.0.5/0", "subnet length 0"},
		{apiv1.AnnotationNodeIPv4, "10.0.0.5/7", "subnet length 7"},
		{apiv1.AnnotationNodeIPv4, "240.0.0.1/24", "reserved addresses"},
		{apiv1.AnnotationNodeIPv4, "255.255.255.255/32", "unicast address with its prefix length"},
		{apiv1.AnnotationNodeIPv4, "0.1.2.3/8", "this network"},
		{apiv1.AnnotationNodeIPv4, "0.0.0.0/0", "unicast address with its prefix length"},
		{apiv1.AnnotationNodeIPv4, "127.0.0.1/8", "unicast address with its prefix length"},
		{apiv1.AnnotationNodeIPv4, "224.0.0.5/24", "unicast address with its prefix length"},
		{apiv1.AnnotationNodeIPv4, "169.254.1.1/16", "unicast address with its prefix length"},
		{apiv1.AnnotationNodeIPv6, "fd00::5/64", ""},
		{apiv1.AnnotationNodeIPv6, "2001:db8::5/128", ""},
		{apiv1.AnnotationNodeIPv6, "fd00::5/0", "subnet length 0"},
		{apiv1.AnnotationNodeIPv6, "::1/128", "unicast address with its prefix length"},
		{apiv1.AnnotationNodeIPv6, "::/64", "unicast address with its prefix length"},
		{apiv1.AnnotationNodeIPv6, "::5/64", "reserved addresses"},
		{apiv1.AnnotationNodeIPv6, "ff02::5/64", "unicast address with its prefix length"},
		{apiv1.AnnotationNodeIPv6, "fe80::5/64", "unicast address with its prefix length"},
		{apiv1.AnnotationNodeIPIPTunnelAddr, "10.244.0.1", ""},
		{apiv1.AnnotationNodeIPIPTunnelAddr, "240.0.0.1", "want an IPv4 unicast address"},
		{apiv1.AnnotationNodeIPIPTunnelAddr, "0.1.2.3", "want an IPv4 unicast address"},
	} {
		got := parseNode(&corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: "n", Annotations: map[string]string{tt.annotation: tt.value}}})
		text := ""
		for _, err := range []error{got.err, got.without} {
			if err != nil {
				text += err.Error()
			}
		}
		if (text == "") != (tt.want == "") || !strings.Contains(text, tt.want) || text != "" && !strings.Contains(text, tt.annotation) {
			t.Errorf("%s=%s: %q; want %q", tt.annotation, tt.value, text, tt.want)
		}
		if used := got.node.IPv4.IsValid() || got.node.IPv6.IsValid() ||
			got.node.Tunnels[apiv1.EncapIPIP].Addr.IsValid(); used != (tt.want == "") {
			t.Errorf("%s=%s: taken: %t", tt.annotation, tt.value, used)
		}
	}
}

func nodeAt(name, annotation string, status ...string) *corev1.Node {
	n := dualNode(name, annotation, "")
	for _, a := range status {
		n.Status.Addresses = append(n.Status.Addresses, corev1.NodeAddress{Type: corev1.NodeInternalIP, Address: a})
	}
	return n
}

// A pool over the nodes' network is barred and a node with the address of a pod is used
// without it: which of the two is wrong is told by what this node's kernel and the
// kubelets say.
func TestPoolsAndNodes(t *testing.T) {
	garbled := pool("garbled", "10.250.0.0/16")
	garbled.Object["spec"].(map[string]any)["nodeSelector"] = "rack = 1"
	dyn, kube := clients([]runtime.Object{
		nodeAt("self", "192.0.2.1/24"),
		nodeAt("near", "192.0.2.2/24"),                     // without an address in its status
		nodeAt("far", "198.51.100.7/24", "198.51.100.7"),   // in a pool, and the kubelet says so, too
		nodeAt("kubelet", "", "203.0.113.9"),               // no agent runs there
		nodeAt("forged", "10.244.0.77/24", "203.0.114.10"), // in a pool, and the kubelet says otherwise
		nodeAt("silent", "10.244.9.9/16"),                  // in a pool, and the kubelet says nothing
		nodeAt("fine", "203.0.114.11/24", "203.0.114.11"),
		&networkingv1.ServiceCIDR{
			ObjectMeta: metav1.ObjectMeta{Name: "kubernetes"},
			Spec:       networkingv1.ServiceCIDRSpec{CIDRs: []string{"10.96.0.0/12", "fd00:96::/108"}},
		},
	}, pool("pods", "10.244.0.0/16"), pool("over-us", "192.0.2.0/24"),
		pool("over-far", "198.51.0.0/16"), pool("over-kubelet", "203.0.113.0/24"),
		pool("over-services", "10.100.0.0/16"), pool("over-services6", "fd00:96::/112"), garbled)
	d := startWith(t, Config{Kubernetes: kube, Dynamic: dyn, Node: "self", Own: []netip.Prefix{netip.MustParsePrefix("192.0.2.1/24")}})
	s := eventually(t, d, "in sync", func(s *Snapshot) bool { return len(s.Pools) == 7 && len(s.Nodes) == 7 })
	for name, want := range map[string]string{
		"pods": "", "garbled": "",
		"over-us":        "contains 192.0.2.1, the address of node self",
		"over-far":       "contains 198.51.100.7, the address of node far",
		"over-kubelet":   "contains 203.0.113.9, the address of node kubelet",
		"over-services":  "overlaps 10.96.0.0/12, a range of the cluster's services",
		"over-services6": "overlaps fd00:96::/108",
	} {
		if got := s.Barred[name]; (got == "") != (want == "") || !strings.Contains(got, want) {
			t.Errorf("pool %s is barred: %q; want %q", name, got, want)
		}
	}
	for name, has := range map[string]bool{
		"self": true, "near": true, "far": true, "kubelet": false, "forged": false, "silent": false, "fine": true,
	} {
		if n, ok := s.Node(name); !ok || n.IPv4.IsValid() != has {
			t.Errorf("node %s: %+v; has its address: want %t", name, n, has)
		}
	}
	told := map[string]string{}
	for _, i := range s.Invalid {
		told[i.Kind+"/"+i.Name] = i.Reason
	}
	for object, want := range map[string]string{
		"Node/forged": "10.244.0.77/24\": the address is in IPPool pods (10.244.0.0/16)", "Node/silent": "10.244.9.9/16",
		"IPPool/over-us": "192.0.2.1", "IPPool/over-services": "10.96.0.0/12", "IPPool/garbled": "malformed nodeSelector",
	} {
		if !strings.Contains(told[object], want) {
			t.Errorf("%s: %q is said; want %q", object, told[object], want)
		}
	}
	if len(told) != 8 {
		t.Errorf("said of %d objects, want 8: %v", len(told), told)
	}
}

// A Node that claims an address in another's block takes no route away: it is not
// believed, by status or annotation, unless this node's own subnet says that pools and
// nodes are mixed up.
func TestNodeClaimsAnothersBlock(t *testing.T) {
	snapshot := func(cidr, block string, nodes ...*corev1.Node) *Snapshot {
		p := &apiv1.IPPool{ObjectMeta: metav1.ObjectMeta{Name: "p"}, Spec: apiv1.IPPoolSpec{CIDR: cidr}}
		s := &Snapshot{Pools: []*apiv1.IPPool{p}, Owners: map[netip.Prefix]string{netip.MustParsePrefix(block): "owner"}}
		for _, n := range nodes {
			s.Nodes = append(s.Nodes, parseNode(n).node)
		}
		return s
	}
	own := []netip.Prefix{netip.MustParsePrefix("192.0.2.1/24")}
	s := snapshot("10.244.0.0/16", "10.244.1.0/26", nodeAt("forger", "10.244.1.5/24", "10.244.1.5"))
	if settleNetwork(s, "self", own, nil); len(s.Barred) > 0 || len(s.NodeAddrs) > 0 || s.Nodes[0].IPv4.IsValid() {
		t.Errorf("a pod's address is believed: barred %v, node %+v", s.Barred, s.Nodes[0])
	}
	// With another address it gets the pool barred, and still not the pod's.
	s = snapshot("10.244.0.0/16", "10.244.1.0/26", nodeAt("forger", "10.244.1.5/24", "10.244.9.9"))
	if settleNetwork(s, "self", own, nil); len(s.Barred) != 1 || s.Nodes[0].IPv4.IsValid() {
		t.Errorf("a pod's address is believed in a barred pool: %+v", s.Nodes[0])
	}
	// A pool over our own subnet, in which a block was claimed before it was barred.
	s = snapshot("192.0.2.0/24", "192.0.2.0/26", nodeAt("near", "192.0.2.3/24", "192.0.2.3"), nodeAt("owner", "192.0.2.2/24", "192.0.2.2"))
	if settleNetwork(s, "self", own, nil); len(s.Barred) != 1 || !s.Nodes[0].IPv4.IsValid() || !s.Nodes[1].IPv4.IsValid() {
		t.Errorf("neighbours are cut off by a pool over the nodes' network: barred %v, %+v", s.Barred, s.Nodes)
	}
}
