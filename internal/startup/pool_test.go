package startup

import (
	"errors"
	"fmt"
	"net/netip"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	clienttesting "k8s.io/client-go/testing"

	v1 "github.com/manx-cni/manx/api/v1"
	"github.com/manx-cni/manx/internal/autodetect"
	"github.com/manx-cni/manx/internal/config"
)

// kubeadm is the ConfigMap of a cluster made by kubeadm, with a line in networking.
func kubeadm(networking string) *corev1.ConfigMap {
	return &corev1.ConfigMap{
		ObjectMeta: metav1.ObjectMeta{Namespace: "kube-system", Name: "kubeadm-config"},
		Data: map[string]string{"ClusterConfiguration": "apiVersion: kubeadm.k8s.io/v1beta4\nkind: ClusterConfiguration\n" +
			"# podSubnet: 1.2.3.0/24\nnetworking:\n  dnsDomain: cluster.local\n  " + networking + "\n  serviceSubnet: 10.96.0.0/12\n"},
	}
}

func pool(name, cidr string) *v1.IPPool {
	return &v1.IPPool{TypeMeta: metav1.TypeMeta{APIVersion: "crd.projectcalico.org/v1", Kind: "IPPool"},
		ObjectMeta: metav1.ObjectMeta{Name: name}, Spec: v1.IPPoolSpec{CIDR: cidr, NATOutgoing: true}}
}

func encapsulated(name string, ipip, vxlan v1.EncapMode) *v1.IPPool {
	p := pool(name, "10.244.0.0/16")
	p.Spec.IPIPMode, p.Spec.VXLANMode = ipip, vxlan
	return p
}

func TestPoolRange(t *testing.T) {
	for _, tc := range []struct {
		name    string
		env     []string
		kubeadm string
		local   []string // further addresses of this host
		want    string   // "": no pool
		note    string
	}{
		{name: "default", want: "192.168.0.0/16"},
		{name: "default taken", local: []string{"192.168.3.4/24"}, want: "172.16.0.0/16"},
		{name: "more taken", local: []string{"192.168.3.4/24", "172.16.0.9/30", "172.17.0.1/16"}, want: "172.18.0.0/16"},
		{name: "env", env: []string{"CALICO_IPV4POOL_CIDR=10.1.0.0/16"}, kubeadm: "podSubnet: 10.12.0.0/16", want: "10.1.0.0/16"},
		{name: "kubeadm", kubeadm: "podSubnet: 10.12.0.0/16", want: "10.12.0.0/16"},
		{name: "kubeadm, quoted", kubeadm: `podSubnet: "10.12.0.0/16"`, want: "10.12.0.0/16"},
		{name: "kubeadm, dual stack", kubeadm: "podSubnet: fd00:10::/48, 10.12.0.0/16", want: "10.12.0.0/16"},
		{name: "kubeadm, IPv6 only", kubeadm: "podSubnet: fd00:10::/48", want: "192.168.0.0/16"},
		{name: "kubeadm, host bits", kubeadm: "podSubnet: 10.12.3.0/16", want: "10.12.0.0/16"},
		{name: "kubeadm, none", kubeadm: "x: y", want: "192.168.0.0/16"},
		{name: "kubeadm, not a CIDR", kubeadm: "podSubnet: ten", want: "192.168.0.0/16", note: `podSubnet "ten" is not a CIDR`},
		{name: "kubeadm, not YAML", kubeadm: "\t: [", want: "192.168.0.0/16", note: "is not YAML"},
		{name: "none", env: []string{"CALICO_IPV4POOL_CIDR=none"}},
		{name: "no default pools", env: []string{"NO_DEFAULT_POOLS=true"}},
		{name: "holds the node's address", env: []string{"CALICO_IPV4POOL_CIDR=10.0.0.0/8"},
			want: "10.0.0.0/8", note: "contains this node's own address 10.0.0.5"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			objs := []runtime.Object{node("node-1")}
			if tc.kubeadm != "" {
				objs = append(objs, kubeadm(tc.kubeadm))
			}
			c := newCluster(t, objs...)
			for i, a := range tc.local {
				c.ifaces = append(c.ifaces, autodetect.Interface{Name: fmt.Sprintf("docker%d", i), Index: 10 + i, Up: true,
					Addrs: []netip.Prefix{netip.MustParsePrefix(a)}})
			}
			res := c.mustRun(append(tc.env, "IP=10.0.0.5")...)
			got := ""
			if p := c.pools(); len(p) > 0 {
				got = p[0].Spec.CIDR
			}
			if got != tc.want {
				t.Errorf("got %q, want %q", got, tc.want)
			}
			checkNotes(t, res.Notes, tc.note)
		})
	}
}

func checkNotes(t *testing.T, notes []Note, want ...string) {
	t.Helper()
	if len(want) == 1 && want[0] == "" {
		want = nil
	}
	if len(notes) != len(want) {
		t.Fatalf("notes %v, want %q", notes, want)
	}
	for i, w := range want {
		if n := notes[i].Subject + ": " + notes[i].Text; !strings.Contains(n, w) {
			t.Errorf("note %q does not contain %q", n, w)
		}
	}
}

func TestNoFreeRange(t *testing.T) {
	c := newCluster(t, node("node-1"))
	c.ifaces[1].Addrs = append(c.ifaces[1].Addrs, netip.MustParsePrefix("192.168.0.1/24"))
	for i := range 16 {
		c.ifaces[1].Addrs = append(c.ifaces[1].Addrs, netip.PrefixFrom(netip.AddrFrom4([4]byte{172, byte(16 + i), 0, 1}), 24))
	}
	if _, err := c.run("IP=10.0.0.5"); err == nil || !strings.Contains(err.Error(), "want CALICO_IPV4POOL_CIDR") {
		t.Errorf("got %v", err)
	}
}

// An existing pool stays; where the environment differs, the note says how to change it.
func TestExistingPool(t *testing.T) {
	env := []string{
		"CALICO_IPV4POOL_CIDR=10.244.0.0/16", "CALICO_IPV4POOL_IPIP=Always",
		"CALICO_IPV4POOL_BLOCK_SIZE=26", "CALICO_IPV4POOL_NAT_OUTGOING=true",
	}
	for _, tc := range []struct {
		name  string
		env   []string
		pools []runtime.Object
		notes []string
	}{
		{"nothing asked", nil, []runtime.Object{pool("default-ipv4-ippool", "10.9.0.0/16")}, nil},
		{"differs", env, []runtime.Object{pool("default-ipv4-ippool", "10.9.0.0/16")}, []string{
			`IPPool default-ipv4-ippool: its cidr is 10.9.0.0/16, while CALICO_IPV4POOL_CIDR="10.244.0.0/16"`,
			`kubectl patch ippools.crd.projectcalico.org default-ipv4-ippool --type merge -p '{"spec":{"ipipMode":"Always"}}'; ` +
				`or set the variable to Never`}},
		// After manxctl ippool mode the variable is what is out of date.
		{"changed since", []string{"CALICO_IPV4POOL_IPIP=Always", "CALICO_IPV4POOL_VXLAN=Never"},
			[]runtime.Object{encapsulated("default-ipv4-ippool", v1.EncapCrossSubnet, v1.EncapNever)},
			[]string{`its ipipMode is CrossSubnet, while CALICO_IPV4POOL_IPIP="Always": the variable counts only when the first pool is created; ` +
				`to change the pool: kubectl patch ippools.crd.projectcalico.org default-ipv4-ippool ` +
				`--type merge -p '{"spec":{"ipipMode":"Always"}}'; or set the variable to CrossSubnet`}},
		// The pool may have one encapsulation: a patch that sets the second alone is refused.
		{"VXLAN, and the manifest's variables", []string{"CALICO_IPV4POOL_IPIP=Always", "CALICO_IPV4POOL_VXLAN=Never"},
			[]runtime.Object{encapsulated("default-ipv4-ippool", v1.EncapNever, v1.EncapAlways)}, []string{
				`-p '{"spec":{"ipipMode":"Always","vxlanMode":"Never"}}'; or set the variable to Never`,
				`its vxlanMode is Always, while CALICO_IPV4POOL_VXLAN="Never": the variable counts only when the first pool is created; ` +
					`this version of Manx has no VXLAN; ` +
					`to change the pool: kubectl patch ippools.crd.projectcalico.org default-ipv4-ippool ` +
					`--type merge -p '{"spec":{"vxlanMode":"Never"}}'`}},
		{"VXLAN, and no IPIP asked for", []string{"CALICO_IPV4POOL_IPIP=Never"},
			[]runtime.Object{encapsulated("default-ipv4-ippool", v1.EncapNever, v1.EncapAlways)}, nil},
		{"VXLAN asked for", []string{"CALICO_IPV4POOL_VXLAN=CrossSubnet"}, []runtime.Object{pool("default-ipv4-ippool", "10.9.0.0/16")},
			[]string{`while CALICO_IPV4POOL_VXLAN="CrossSubnet": the variable counts only when the first pool is created; ` +
				`this version of Manx has no VXLAN: set the variable to Never`}},
		{"same range under another name", env, []runtime.Object{pool("a", "10.8.0.0/16"), pool("mine", "10.244.0.0/16")},
			[]string{"IPPool mine: its ipipMode is Never"}},
		{"one pool of the user", env, []runtime.Object{pool("mine", "10.8.0.0/16")},
			[]string{"IPPool mine: its cidr", "IPPool mine: its ipipMode"}},
		{"several pools of the user", env, []runtime.Object{pool("a", "10.8.0.0/16"), pool("b", "10.9.0.0/16")}, nil},
	} {
		t.Run(tc.name, func(t *testing.T) {
			c := newCluster(t, append(tc.pools, node("node-1"))...)
			c.mustRun(tc.env...)
			set, _, err := config.Parse(tc.env)
			if err != nil {
				t.Fatal(err)
			}
			checkNotes(t, ComparePools(set, c.pools()), tc.notes...)
			if got := len(c.pools()); got != len(tc.pools) {
				t.Errorf("%d pools, want %d", got, len(tc.pools))
			}
		})
	}
	t.Run("an IPv6 pool is none", func(t *testing.T) {
		c := newCluster(t, node("node-1"), pool("default-ipv6-ippool", "fd00::/48"))
		c.mustRun()
		if got := len(c.pools()); got != 2 {
			t.Errorf("%d pools, want 2", got)
		}
	})
}

// A pool that this version cannot carry is not made. What is in a cluster with pools
// has nothing to do with the variable.
func TestVXLANPoolIsNotMade(t *testing.T) {
	for _, tc := range []struct {
		env   []string
		pools []runtime.Object
		err   string
	}{
		{env: []string{"CALICO_IPV4POOL_VXLAN=Always"},
			err: `create IPPool default-ipv4-ippool: CALICO_IPV4POOL_VXLAN="Always": this version of Manx has no VXLAN; want Never, or unset`},
		{env: []string{"CALICO_IPV4POOL_VXLAN=cross-subnet"}, err: `CALICO_IPV4POOL_VXLAN="cross-subnet": this version`},
		{env: []string{"CALICO_IPV4POOL_VXLAN=Always"}, pools: []runtime.Object{pool("six", "fd00::/48")}, err: "no VXLAN"},
		{env: []string{"CALICO_IPV4POOL_VXLAN=off"}},
		{env: []string{"CALICO_IPV4POOL_VXLAN=Always", "NO_DEFAULT_POOLS=true"}},
		{env: []string{"CALICO_IPV4POOL_VXLAN=Always", "CALICO_IPV4POOL_CIDR=none"}},
		{env: []string{"CALICO_IPV4POOL_VXLAN=Always"}, pools: []runtime.Object{pool("mine", "10.9.0.0/16")}},
	} {
		c := newCluster(t, append(tc.pools, node("node-1"))...)
		_, err := c.run(tc.env...)
		if (err == nil) != (tc.err == "") || err != nil && !strings.Contains(err.Error(), tc.err) {
			t.Errorf("%v with %d pools: %v; want %q", tc.env, len(tc.pools), err, tc.err)
		}
		if err != nil && len(c.pools()) != len(tc.pools) {
			t.Errorf("%v: %d pools, want %d", tc.env, len(c.pools()), len(tc.pools))
		}
	}
}

// Another node that creates the objects first is no failure; a missing CRD is.
func TestCreateRaces(t *testing.T) {
	react := func(err func(schema.GroupResource) error) clienttesting.ReactionFunc {
		return func(a clienttesting.Action) (bool, runtime.Object, error) {
			return true, nil, err(a.GetResource().GroupResource())
		}
	}
	c := newCluster(t, node("node-1"))
	c.dynamic.PrependReactor("create", "*", react(func(r schema.GroupResource) error { return apierrors.NewAlreadyExists(r, "x") }))
	if _, err := c.run(); err != nil {
		t.Errorf("AlreadyExists: %v", err)
	}
	c = newCluster(t, node("node-1"))
	c.dynamic.PrependReactor("*", "*", react(func(r schema.GroupResource) error { return apierrors.NewNotFound(r, "") }))
	if _, err := c.run(); err == nil || !strings.Contains(err.Error(), "list ippools") ||
		!strings.Contains(err.Error(), "CustomResourceDefinitions") {
		t.Errorf("missing CRD: %v", err)
	}
	c = newCluster(t, node("node-1"))
	c.dynamic.PrependReactor("create", "*",
		react(func(r schema.GroupResource) error { return apierrors.NewForbidden(r, "x", errors.New("no role")) }))
	if _, err := c.run(); err == nil || !strings.Contains(err.Error(), "create IPPool default-ipv4-ippool") {
		t.Errorf("Forbidden: %v", err)
	}
}

func TestKubeadmIsTolerated(t *testing.T) {
	for _, tc := range []struct {
		err  error
		want bool // success
	}{
		{apierrors.NewForbidden(schema.GroupResource{Resource: "configmaps"}, "kubeadm-config", errors.New("no role")), true},
		{apierrors.NewInternalError(errors.New("etcd is unwell")), false},
	} {
		c := newCluster(t, node("node-1"))
		c.kube.PrependReactor("get", "configmaps", func(clienttesting.Action) (bool, runtime.Object, error) { return true, nil, tc.err })
		if _, err := c.run(); (err == nil) != tc.want {
			t.Errorf("%v: got %v", tc.err, err)
		}
	}
}

func TestDatastoreNotReady(t *testing.T) {
	ready := false
	ci := &v1.ClusterInformation{TypeMeta: metav1.TypeMeta{APIVersion: "crd.projectcalico.org/v1", Kind: "ClusterInformation"},
		ObjectMeta: metav1.ObjectMeta{Name: "default"}, Spec: v1.ClusterInformationSpec{CalicoVersion: "v3.30.0", DatastoreReady: &ready}}
	c := newCluster(t, node("node-1"), ci)
	res := c.mustRun()
	if len(res.Notes) > 0 {
		t.Errorf("notes %v: what holds later too is for status", res.Notes)
	}
	for _, w := range c.writes() { // nothing but the Node's annotations: what is missing may be on its way here
		if !strings.HasPrefix(w, "patch nodes") {
			t.Errorf("written: %s", w)
		}
	}
}

func TestClusterType(t *testing.T) {
	for _, tc := range []struct {
		given   string
		kubeadm bool
		want    string
	}{
		{"", false, "kdd"},
		{"k8s,bgp", true, "k8s,bgp,kubeadm,kdd"},
		{"k8s, kdd ,,k8s", false, "k8s,kdd"},
	} {
		if got := clusterType(tc.given, tc.kubeadm); got != tc.want {
			t.Errorf("clusterType(%q, %v) = %q, want %q", tc.given, tc.kubeadm, got, tc.want)
		}
	}
}
