package startup

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	dynamicfake "k8s.io/client-go/dynamic/fake"
	"k8s.io/client-go/kubernetes/fake"
	clienttesting "k8s.io/client-go/testing"

	v1 "github.com/manx-cni/manx/api/v1"
	"github.com/manx-cni/manx/internal/autodetect"
	"github.com/manx-cni/manx/internal/config"
)

// cluster is a fake API server and one machine.
type cluster struct {
	t       *testing.T
	kube    *fake.Clientset
	dynamic *dynamicfake.FakeDynamicClient
	ifaces  []autodetect.Interface
	now     time.Time
	noFwd6  bool // the kernel does not forward IPv6
	log     bytes.Buffer
}

func newCluster(t *testing.T, objs ...runtime.Object) *cluster {
	t.Helper()
	lists := map[schema.GroupVersionResource]string{}
	for _, k := range v1.Kinds {
		lists[k.Resource()] = k.Kind + "List"
	}
	c := &cluster{t: t, now: time.Unix(1e9, 0), ifaces: []autodetect.Interface{
		{Name: "lo", Index: 1, Up: true, Addrs: []netip.Prefix{netip.MustParsePrefix("127.0.0.1/8")}},
		{Name: "eth0", Index: 2, Up: true, Addrs: []netip.Prefix{netip.MustParsePrefix("10.0.0.5/24")}},
	}}
	var core, custom []runtime.Object
	for _, o := range objs {
		switch o := o.(type) {
		case *corev1.Node, *corev1.ConfigMap:
			core = append(core, o)
		default:
			u, err := runtime.DefaultUnstructuredConverter.ToUnstructured(o)
			if err != nil {
				t.Fatal(err)
			}
			custom = append(custom, &unstructured.Unstructured{Object: u})
		}
	}
	c.kube = fake.NewClientset(core...)
	c.dynamic = dynamicfake.NewSimpleDynamicClientWithCustomListKinds(runtime.NewScheme(), lists, custom...)
	return c
}

func (c *cluster) start(env ...string) *Startup {
	c.t.Helper()
	set, _, err := config.Parse(env)
	if err != nil {
		c.t.Fatal(err)
	}
	return New(Config{
		Settings: set, NodeName: "node-1", Kubernetes: c.kube, Dynamic: c.dynamic,
		Log:        slog.New(slog.NewTextHandler(&c.log, nil)),
		Interfaces: func() ([]autodetect.Interface, error) { return c.ifaces, nil },
		Reach:      func(context.Context, string) (netip.Addr, error) { return netip.Addr{}, errors.New("no route") },
		Reach6:     func(context.Context, string) (netip.Addr, error) { return netip.Addr{}, errors.New("no IPv6 route") },
		Forwards6:  func() (bool, error) { return !c.noFwd6, nil },
		Random:     strings.NewReader(strings.Repeat("\x2a", 16)),
		Now:        func() time.Time { return c.now },
		RetryEvery: time.Nanosecond,
	})
}

func (c *cluster) run(env ...string) (Result, error) {
	c.t.Helper()
	return c.start(env...).Run(c.t.Context())
}

func (c *cluster) mustRun(env ...string) Result {
	c.t.Helper()
	res, err := c.run(env...)
	if err != nil {
		c.t.Fatal(err)
	}
	return res
}

func (c *cluster) node(name string) *corev1.Node {
	c.t.Helper()
	n, err := c.kube.CoreV1().Nodes().Get(c.t.Context(), name, metav1.GetOptions{})
	if err != nil {
		c.t.Fatal(err)
	}
	return n
}

func (c *cluster) pools() []v1.IPPool {
	c.t.Helper()
	out, err := list[v1.IPPool](c.t.Context(), c.start(), v1.PluralIPPools)
	if err != nil {
		c.t.Fatal(err)
	}
	return out
}

// writes lists every request that changes something, and forgets them.
func (c *cluster) writes() (out []string) {
	for _, a := range append(c.kube.Actions(), c.dynamic.Actions()...) {
		if !slices.Contains([]string{"get", "list", "watch"}, a.GetVerb()) {
			out = append(out, strings.TrimSuffix(fmt.Sprintf("%s %s/%s", a.GetVerb(), a.GetResource().Resource, a.GetSubresource()), "/"))
		}
	}
	c.kube.ClearActions()
	c.dynamic.ClearActions()
	return out
}

func node(name string, annotations ...string) *corev1.Node {
	n := &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: name, Annotations: map[string]string{}}}
	for i := 0; i < len(annotations); i += 2 {
		n.Annotations[annotations[i]] = annotations[i+1]
	}
	return n
}

func TestFirstStart(t *testing.T) {
	c := newCluster(t, node("node-1"), node("node-2", v1.AnnotationNodeIPv4, "10.0.0.6/24"))
	res := c.mustRun("IP=autodetect", "AS=65001", "CLUSTER_TYPE=k8s,bgp",
		"CALICO_IPV4POOL_CIDR=10.244.0.0/16", "CALICO_IPV4POOL_NODE_SELECTOR=zone == 'a'")
	if res.Address != netip.MustParsePrefix("10.0.0.5/24") || res.Interface != "eth0" || res.AS != 65001 ||
		res.RouterID != netip.MustParseAddr("10.0.0.5") || res.Reason == "" || len(res.Notes) > 0 {
		t.Errorf("%+v", res)
	}
	if a := c.node("node-1").Annotations; a[v1.AnnotationNodeIPv4] != "10.0.0.5/24" || a[v1.AnnotationNodeAS] != "65001" || len(a) != 2 {
		t.Errorf("annotations %v", a)
	}
	want := []string{
		"patch nodes/status", "create ippools", "create clusterinformations", "create felixconfigurations", "create bgpconfigurations",
	}
	if got := c.writes(); !slices.Equal(got, want) {
		t.Errorf("writes %v, want %v", got, want)
	}
	p := c.pools()[0]
	if p.Name != "default-ipv4-ippool" || p.Spec.CIDR != "10.244.0.0/16" || p.Spec.BlockSize != 26 || p.Spec.IPIPMode != v1.EncapNever ||
		p.Spec.VXLANMode != v1.EncapNever || !p.Spec.NATOutgoing || p.Spec.NodeSelector != "zone == 'a'" {
		t.Errorf("pool %+v", p)
	}
	ci, err := c.start().get(t.Context(), v1.PluralClusterInformations)
	if err != nil {
		t.Fatal(err)
	}
	spec := ci.Object["spec"].(map[string]any)
	if spec["clusterGUID"] != strings.Repeat("2a", 16) || spec["clusterType"] != "k8s,bgp,kdd" ||
		spec["datastoreReady"] != true || spec["calicoVersion"] != nil {
		t.Errorf("ClusterInformation %v", spec)
	}
	felix, err := c.start().get(t.Context(), v1.PluralFelixConfigurations)
	if err != nil {
		t.Fatal(err)
	}
	if s := felix.Object["spec"].(map[string]any); s["logSeverityScreen"] != "Info" || s["reportingInterval"] != "0s" {
		t.Errorf("FelixConfiguration %v", s)
	}
}

// Whatever the environment: the second start changes nothing.
func TestSecondStartWritesNothing(t *testing.T) {
	for _, env := range [][]string{
		nil,
		{"IP=autodetect"},
		{"IP=10.0.0.5", "AS=1.10", "CALICO_ROUTER_ID=hash"},
		{"IP=10.9.9.9/24", "NO_DEFAULT_POOLS=true"},
		{"IP=autodetect", "IP_AUTODETECTION_METHOD=cidr=10.0.0.0/8", "CALICO_IPV4POOL_CIDR=10.244.3.0/16", "CALICO_IPV4POOL_IPIP=always"},
		{"CALICO_IPV4POOL_CIDR=none", "CLUSTER_TYPE=k8s,kdd"},
		{"CALICO_NETWORKING_BACKEND=none", "IP=none"},
	} {
		c := newCluster(t, node("node-1"), node("node-2", v1.AnnotationNodeIPv4, "10.0.0.6/24"), kubeadm("podSubnet: 10.12.0.0/16"))
		first, firstErr := c.start(env...).Run(t.Context())
		if firstErr != nil {
			t.Fatalf("%v: %v", env, firstErr)
		}
		s := c.start(env...)
		if err := s.SetNetworkReady(t.Context()); err != nil {
			t.Fatalf("%v: %v", env, err)
		}
		if len(c.writes()) == 0 {
			t.Errorf("%v: the first start wrote nothing", env)
		}
		c.now = c.now.Add(time.Hour)
		second, err := s.Run(t.Context())
		if err == nil {
			err = s.SetNetworkReady(t.Context())
		}
		if _, _, redetect := s.Redetect(t.Context()); err == nil {
			err = redetect
		}
		if err != nil {
			t.Fatalf("%v: %v", env, err)
		}
		if w := c.writes(); len(w) > 0 {
			t.Errorf("%v: the second start wrote %v", env, w)
		}
		if second.Address != first.Address || second.AS != first.AS || second.RouterID != first.RouterID || len(second.Notes) > 0 {
			t.Errorf("%v: %+v, then %+v", env, first, second)
		}
	}
}

func TestDuplicateAddress(t *testing.T) {
	objs := []runtime.Object{
		node("node-1"), node("node-2"), node("node-3", v1.AnnotationNodeIPv4, "10.0.0.5/16"), node("node-4", v1.AnnotationNodeIPv4, "nonsense"),
	}
	c := newCluster(t, objs...)
	_, err := c.run("IP=autodetect")
	if err == nil || !strings.Contains(err.Error(),
		`node node-3 already has the address 10.0.0.5 (annotation projectcalico.org/IPv4Address="10.0.0.5/16")`) {
		t.Fatalf("got %v", err)
	}
	if w := c.writes(); len(w) > 0 {
		t.Errorf("wrote %v in spite of the conflict", w)
	}
	if newCluster(t, objs...).mustRun("IP=autodetect", "DISABLE_NODE_IP_CHECK=true").Address.Bits() != 24 {
		t.Error("no address with the check off")
	}
	// An address that is published already is not looked up again.
	c = newCluster(t, node("node-1", v1.AnnotationNodeIPv4, "10.0.0.5/24"))
	c.mustRun()
	for _, a := range c.kube.Actions() {
		if a.GetVerb() == "list" {
			t.Error("listed every Node for an address that has not changed")
		}
	}
}

func TestAddressFailures(t *testing.T) {
	for _, tc := range []struct {
		env  []string
		want string
	}{
		{[]string{"IP=none"}, `IP="none": the node has no IPv4 address`},
		{[]string{"IP_AUTODETECTION_METHOD=interface=ens.*"},
			`IP_AUTODETECTION_METHOD="interface=ens.*": no address qualifies; interfaces seen: eth0 10.0.0.5/24`},
		{[]string{"IP_AUTODETECTION_METHOD=can-reach=8.8.8.8"}, "no route"},
	} {
		_, err := newCluster(t, node("node-1")).run(tc.env...)
		if err == nil || !strings.Contains(err.Error(), tc.want) {
			t.Errorf("%v: got %v, want %q", tc.env, err, tc.want)
		}
	}
	if _, err := newCluster(t).run(); err == nil || !strings.Contains(err.Error(), "want NODENAME to be the name of this machine's Node") {
		t.Errorf("no Node: %v", err)
	}
}

func TestASAndRouterID(t *testing.T) {
	c := newCluster(t, node("node-1", v1.AnnotationNodeAS, "1.10"))
	res := c.mustRun("CALICO_ROUTER_ID=192.0.2.7")
	if res.AS != 65546 || res.RouterID != netip.MustParseAddr("192.0.2.7") || c.node("node-1").Annotations[v1.AnnotationNodeAS] != "1.10" {
		t.Errorf("%+v, annotations %v", res, c.node("node-1").Annotations)
	}
	if res := newCluster(t, node("node-1")).mustRun(); res.AS != 0 {
		t.Errorf("AS %d without any", res.AS)
	}
}

// A Node that is deleted and registered anew comes back without annotations.
func TestRestore(t *testing.T) {
	c := newCluster(t, node("node-1"))
	s := c.start("IP=autodetect", "AS=64600")
	res, err := s.Run(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	c.writes()
	if restored, err := s.Restore(t.Context(), res); err != nil || restored || len(c.writes()) > 0 {
		t.Errorf("nothing is lost, restored %v, %v", restored, err)
	}
	nodes := c.kube.CoreV1().Nodes()
	if err := nodes.Delete(t.Context(), "node-1", metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	if restored, err := s.Restore(t.Context(), res); err == nil || restored || !strings.Contains(err.Error(), "node-1") {
		t.Errorf("there is no Node: %v, %v", restored, err)
	}
	if _, err := nodes.Create(t.Context(), node("node-1"), metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	if restored, err := s.Restore(t.Context(), res); err != nil || !restored {
		t.Errorf("restored %v, %v", restored, err)
	}
	got := c.node("node-1").Annotations
	if got[v1.AnnotationNodeIPv4] != res.Address.String() || got[v1.AnnotationNodeAS] != "64600" {
		t.Errorf("annotations %v", got)
	}
}

func TestRedetect(t *testing.T) {
	c := newCluster(t, node("node-1"), node("node-2", v1.AnnotationNodeIPv4, "10.0.0.6/24"))
	s := c.start("IP=autodetect")
	if _, err := s.Run(t.Context()); err != nil {
		t.Fatal(err)
	}
	c.writes()
	addr := func(p string) []netip.Prefix { return []netip.Prefix{netip.MustParsePrefix(p)} }

	// A second interface that first-found would prefer does not move the node.
	c.ifaces = append(c.ifaces, autodetect.Interface{Name: "eth1", Index: 3, Up: true, Addrs: addr("192.168.1.5/24")})
	if res, changed, err := s.Redetect(t.Context()); err != nil || changed || res.Interface != "eth0" {
		t.Errorf("%+v %v %v", res, changed, err)
	}
	// A renumbered interface does.
	c.ifaces = c.ifaces[:2]
	c.ifaces[1].Addrs = addr("10.0.0.7/24")
	res, changed, err := s.Redetect(t.Context())
	if err != nil || !changed || res.Address != netip.MustParsePrefix("10.0.0.7/24") || res.RouterID != netip.MustParseAddr("10.0.0.7") {
		t.Errorf("%+v %v %v", res, changed, err)
	}
	if got := c.node("node-1").Annotations[v1.AnnotationNodeIPv4]; got != "10.0.0.7/24" {
		t.Errorf("annotation %s", got)
	}
	// Not to an address that another node has, nor to none. What this machine has lost it
	// no longer claims.
	c.writes()
	c.ifaces[1].Addrs = addr("10.0.0.6/24")
	if _, changed, err := s.Redetect(t.Context()); err == nil || changed || !strings.Contains(err.Error(), "node-2") {
		t.Errorf("%v %v", changed, err)
	}
	c.ifaces[1].Addrs = nil
	if _, changed, err := s.Redetect(t.Context()); err == nil || changed {
		t.Errorf("%v %v", changed, err)
	}
	if w := c.writes(); !slices.Equal(w, []string{"patch nodes/status"}) || c.node("node-1").Annotations[v1.AnnotationNodeIPv4] != "" {
		t.Errorf("wrote %v, annotations %v", w, c.node("node-1").Annotations)
	}
}

func TestNetworkReady(t *testing.T) {
	n := node("node-1")
	since := metav1.NewTime(time.Unix(5e8, 0))
	n.Status.Conditions = []corev1.NodeCondition{
		{Type: corev1.NodeReady, Status: corev1.ConditionTrue},
		{Type: corev1.NodeNetworkUnavailable, Status: corev1.ConditionFalse, Reason: "CalicoIsUp", LastTransitionTime: since},
	}
	c := newCluster(t, n)
	if err := c.start().SetNetworkReady(t.Context()); err != nil {
		t.Fatal(err)
	}
	conds := c.node("node-1").Status.Conditions
	if len(conds) != 2 || conds[0].Type != corev1.NodeReady {
		t.Fatalf("conditions %+v", conds)
	}
	if got := conds[1]; got.Status != corev1.ConditionFalse || got.Reason != "ManxIsUp" || got.Message != "Manx is running on this node" ||
		!got.LastTransitionTime.Time.Equal(since.Time) || !got.LastHeartbeatTime.Time.Equal(c.now) {
		t.Errorf("condition %+v", got)
	}
	if got := c.writes(); !slices.Equal(got, []string{"patch nodes/status"}) {
		t.Errorf("writes %v", got)
	}
}

// fail makes the next n reads of Nodes fail with err.
func (c *cluster) fail(n int, err error) {
	c.kube.PrependReactor("get", "nodes", func(clienttesting.Action) (bool, runtime.Object, error) {
		c.now = c.now.Add(time.Second)
		if n--; n >= 0 {
			return true, nil, err
		}
		return false, nil, nil
	})
}

func TestWaitForDatastore(t *testing.T) {
	nodes := schema.GroupResource{Resource: "nodes"}
	down := errors.New("connection refused")
	denied := apierrors.NewForbidden(nodes, "node-1", errors.New("no role"))
	for _, tc := range []struct {
		name  string
		env   string
		fails int
		err   error
		want  string // "": success
		lines int    // log lines about waiting
	}{
		{"waits", "WAIT_FOR_DATASTORE=true", 100, down, "", 4},
		{"does not wait", "WAIT_FOR_DATASTORE=false", 1, down, "set WAIT_FOR_DATASTORE=true", 0},
		{"role binding not seen yet", "WAIT_FOR_DATASTORE=true", 5, denied, "", 1},
		{"denied for good", "WAIT_FOR_DATASTORE=true", 100, denied, "ClusterRole", 1},
		{"denied without waiting", "WAIT_FOR_DATASTORE=false", 1, denied, "ClusterRole", 0},
		{"no such node", "WAIT_FOR_DATASTORE=true", 1, apierrors.NewNotFound(nodes, "node-1"), "NODENAME", 0},
	} {
		t.Run(tc.name, func(t *testing.T) {
			c := newCluster(t, node("node-1"))
			c.fail(tc.fails, tc.err)
			_, err := c.run(tc.env)
			if tc.want == "" && err != nil || tc.want != "" && (err == nil || !strings.Contains(err.Error(), tc.want)) {
				t.Errorf("got %v, want %q", err, tc.want)
			}
			if got := strings.Count(c.log.String(), "waiting for"); got != tc.lines {
				t.Errorf("%d lines about waiting, want %d:\n%s", got, tc.lines, c.log.String())
			}
		})
	}
	t.Run("stops with its context", func(t *testing.T) {
		c := newCluster(t, node("node-1"))
		c.fail(1<<30, down)
		ctx, cancel := context.WithCancel(t.Context())
		s := c.start("WAIT_FOR_DATASTORE=true")
		s.RetryEvery = time.Hour
		time.AfterFunc(10*time.Millisecond, cancel)
		if _, err := s.Run(ctx); !errors.Is(err, context.Canceled) || !strings.Contains(err.Error(), "connection refused") {
			t.Errorf("got %v", err)
		}
	})
}
