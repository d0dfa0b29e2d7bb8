//go:build cluster

package controllers

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"os"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	eventsv1 "k8s.io/api/events/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/client-go/dynamic"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
	"sigs.k8s.io/yaml"

	v1 "github.com/manx-cni/manx/api/v1"
	"github.com/manx-cni/manx/internal/health"
	"github.com/manx-cni/manx/internal/testwait"
	"github.com/manx-cni/manx/ipam/block"
	"github.com/manx-cni/manx/ipam/store"
	"github.com/manx-cni/manx/ipam/store/crd"
	"github.com/manx-cni/manx/test/lab/apiserver"
)

// graceInTest is the leak grace period of these tests.
const graceInTest = 3 * time.Second

// testCluster is a real API server with manx-controllers at work on it, with the
// manifest's rights.
type testCluster struct {
	t     *testing.T
	kube  kubernetes.Interface
	pools dynamic.ResourceInterface
	store store.Store
	admin *rest.Config
	proxy *proxy
	watch func() *watch
}

// TestRealAPIServer runs manx-controllers on a real API server, cut off from it now
// and then, with no more rights than the manifest gives.
func TestRealAPIServer(t *testing.T) {
	c := startCluster(t)
	t.Run("quiet watch", c.quietWatch)
	t.Run("pool in use", c.poolStatus)
	t.Run("pools that are not used", c.badPools)
	t.Run("leaks", c.leaks)
	t.Run("reconnect", c.reconnect)
	t.Run("locked", c.locked)
	t.Run("settings without effect", c.settingsReport)
	t.Run("orphaned handles", c.orphanedHandles)
	t.Run("node gone", c.nodeGone)
	t.Run("pool deleted", c.poolDeleted)
}

func startCluster(t *testing.T) *testCluster {
	t.Helper()
	admin := apiserver.Start(t)
	kube := kubernetes.NewForConfigOrDie(admin)
	grant(t, kube)
	s, err := crd.New(admin)
	if err != nil {
		t.Fatal(err)
	}
	c := &testCluster{
		t: t, kube: kube, admin: admin, store: s,
		pools: dynamic.NewForConfigOrDie(admin).Resource(v1.SchemeGroupVersion.WithResource(v1.PluralIPPools)),
	}
	for _, node := range []string{"n1", "n2"} {
		if _, err := kube.CoreV1().Nodes().Create(t.Context(), nodeObject(node), metav1.CreateOptions{}); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := kube.CoreV1().Namespaces().Create(t.Context(),
		&corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: "ns"}}, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	c.pool("p", "10.5.0.0/24", 29)
	cfg, proxy := through(t, admin)
	c.proxy = proxy
	cfg.Impersonate = rest.ImpersonationConfig{
		UserName: "system:serviceaccount:kube-system:manx-controllers", Groups: []string{"system:serviceaccounts"},
	}
	c.run(cfg)
	return c
}

// grant creates the rights of the manifest.
func grant(t *testing.T, kube kubernetes.Interface) {
	t.Helper()
	text, err := os.ReadFile("../../manifests/src/40-controllers.yaml")
	if err != nil {
		t.Fatal(err)
	}
	ctx, create := t.Context(), metav1.CreateOptions{}
	granted := 0
	for _, doc := range strings.Split(string(text), "\n---\n") {
		var kind metav1.TypeMeta
		err := yaml.Unmarshal([]byte(doc), &kind)
		decode := func(o any) { err = errors.Join(err, yaml.UnmarshalStrict([]byte(doc), o)) }
		granted++
		switch kind.Kind {
		case "ClusterRole":
			var o rbacv1.ClusterRole
			decode(&o)
			_, err = kube.RbacV1().ClusterRoles().Create(ctx, &o, create)
		case "ClusterRoleBinding":
			var o rbacv1.ClusterRoleBinding
			decode(&o)
			_, err = kube.RbacV1().ClusterRoleBindings().Create(ctx, &o, create)
		case "Role":
			var o rbacv1.Role
			decode(&o)
			_, err = kube.RbacV1().Roles(o.Namespace).Create(ctx, &o, create)
		case "RoleBinding":
			var o rbacv1.RoleBinding
			decode(&o)
			_, err = kube.RbacV1().RoleBindings(o.Namespace).Create(ctx, &o, create)
		default:
			granted--
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	if granted != 4 {
		t.Fatalf("%d objects that give rights in the manifest, want 4", granted)
	}
}

// run runs the program until the test ends, and then looks at the lease.
func (c *testCluster) run(cfg *rest.Config) {
	e := &epoch{}
	clients, err := connect(cfg, e)
	if err != nil {
		c.t.Fatal(err)
	}
	settings, _, err := ParseSettings([]string{"LEAK_GRACE_PERIOD=" + graceInTest.String()})
	if err != nil {
		c.t.Fatal(err)
	}
	p := &program{
		settings: settings, log: slog.New(slog.NewTextHandler(testLog{c.t}, nil)), lease: defaultLease,
		epoch: e, clients: clients, metrics: newMetrics(), heart: health.New(nil).Heart("controllers", time.Hour),
	}
	c.watch = p.watch.Load
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- p.run(ctx) }()
	c.t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			c.t.Error(err)
		}
		l, err := c.kube.CoordinationV1().Leases("kube-system").Get(context.Background(), leaseName, metav1.GetOptions{})
		if err != nil || l.Spec.HolderIdentity != nil && *l.Spec.HolderIdentity != "" {
			c.t.Errorf("the lease after the stop: %+v, %v", l, err)
		}
	})
}

// testLog writes to the test's log.
type testLog struct{ t *testing.T }

func (l testLog) Write(b []byte) (int, error) {
	l.t.Log(strings.TrimSpace(string(b)))
	return len(b), nil
}

// pool creates a pool.
func (c *testCluster) pool(name, cidr string, blockSize int) {
	c.t.Helper()
	object := &unstructured.Unstructured{Object: map[string]any{
		"apiVersion": v1.SchemeGroupVersion.String(), "kind": "IPPool", "metadata": map[string]any{"name": name},
		"spec": map[string]any{"cidr": cidr, "blockSize": int64(blockSize)},
	}}
	if _, err := c.pools.Create(c.t.Context(), object, metav1.CreateOptions{}); err != nil {
		c.t.Fatal(err)
	}
}

// getPool returns a pool; nil when there is none.
func (c *testCluster) getPool(name string) *v1.IPPool {
	u, err := c.pools.Get(c.t.Context(), name, metav1.GetOptions{})
	if apierrors.IsNotFound(err) {
		return nil
	}
	p := new(v1.IPPool)
	if err == nil {
		err = runtime.DefaultUnstructuredConverter.FromUnstructured(u.Object, p)
	}
	if err != nil {
		c.t.Fatal(err)
	}
	return p
}

// pod creates a pod of node that reports addr.
func (c *testCluster) pod(name, node, addr string) {
	c.t.Helper()
	p := &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: name},
		Spec:       corev1.PodSpec{NodeName: node, Containers: []corev1.Container{{Name: "c", Image: "i"}}},
	}
	p, err := c.kube.CoreV1().Pods("ns").Create(c.t.Context(), p, metav1.CreateOptions{})
	if err == nil {
		p.Status.PodIP, p.Status.PodIPs = addr, []corev1.PodIP{{IP: addr}}
		_, err = c.kube.CoreV1().Pods("ns").UpdateStatus(c.t.Context(), p, metav1.UpdateOptions{})
	}
	if err != nil {
		c.t.Fatal(err)
	}
}

// fixture lends the helpers of the sweeper's tests the real store.
func (c *testCluster) fixture(t *testing.T) *fixture {
	return &fixture{t: t, sweeper: &sweeper{store: c.store}}
}

// tunnel gives addr to a node's tunnel.
func (c *testCluster) tunnel(f *fixture, cidr, addr, node string) {
	f.change(netip.MustParsePrefix(cidr), func(b *block.Block) {
		b.NextSequence()
		if err := b.AssignIP(netip.MustParseAddr(addr), block.Owner{
			Handle: "ipip-tunnel-addr-" + node, Attrs: map[string]string{"node": node, "type": "ipipTunnelAddress"},
		}); err != nil {
			f.t.Fatal(err)
		}
	})
}

// eventually waits until ok returns nothing; what it returns last is told.
func eventually(t *testing.T, what string, ok func() string) {
	t.Helper()
	testwait.Succeeds(t, time.Minute, what, func() error {
		if why := ok(); why != "" {
			return errors.New(why)
		}
		return nil
	})
}

// settles waits until what is stored is as wanted.
func settles(t *testing.T, f *fixture, what string, want map[string]string) {
	t.Helper()
	eventually(t, what, func() string { return cmp.Diff(want, f.state()) })
}

// quietWatch: the API server ends every watch after some minutes. That is no break,
// or nothing would ever be collected.
func (c *testCluster) quietWatch(t *testing.T) {
	e := &epoch{}
	clients, err := connect(c.admin, e)
	if err != nil {
		t.Fatal(err)
	}
	list, err := clients.kube.CoreV1().Pods("").List(t.Context(), metav1.ListOptions{})
	if err != nil {
		t.Fatal(err)
	}
	second := int64(1)
	w, err := clients.watchKube.CoreV1().Pods("").Watch(t.Context(), metav1.ListOptions{
		ResourceVersion: list.ResourceVersion, TimeoutSeconds: &second,
	})
	if err != nil {
		t.Fatal(err)
	}
	for range w.ResultChan() {
		t.Error("something happens to the pods")
	}
	w.Stop()
	if e.now() != 0 {
		t.Errorf("%d epochs after a watch that ended as it should", e.now())
	}
}

// poolStatus: the finalizer, the status and what kubectl shows of them; a pool that
// overlaps another has no finalizer.
func (c *testCluster) poolStatus(t *testing.T) {
	f := c.fixture(t)
	f.claim("10.5.0.0/29", "n1")
	c.pod("live", "n1", "10.5.0.1")
	f.assign("10.5.0.0/29", "10.5.0.1", "k.live", "live", "n1")
	c.pool("q", "10.5.0.128/25", 29)
	eventually(t, "the finalizer and the status", func() string {
		p, q := c.getPool("p"), c.getPool("q")
		if p.Status == nil || p.Status.Use == nil || q.Status == nil {
			return "no status"
		}
		return cmp.Diff("[manx.io/ippool-in-use] Ready 1 1 256 0.4% | [] Overlaps",
			fmt.Sprint(p.Finalizers, " ", p.Status.Conditions[0].Reason, " ", p.Status.Use.Blocks,
				" ", p.Status.Use.Addresses, " ", p.Status.Use.Capacity, " ", p.Status.Use.Percent,
				" | ", q.Finalizers, " ", q.Status.Conditions[0].Reason))
	})
	for plural, want := range map[string][]string{
		v1.PluralIPPools:    {"p", "10.5.0.0/24", "Ready", "0.4%"},
		v1.PluralIPAMBlocks: {"10-5-0-0-29", "10.5.0.0/29", "host:n1", `"pod":"live"`},
	} {
		if got := c.table(t, plural); !strings.Contains(got, want[0]) {
			t.Errorf("kubectl get %s -o wide shows %s", plural, got)
		} else {
			for _, w := range want {
				if !strings.Contains(got, w) {
					t.Errorf("kubectl get %s -o wide shows %s; want %s", plural, got, w)
				}
			}
		}
	}
	if err := c.pools.Delete(t.Context(), "q", metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	if c.getPool("q") != nil {
		t.Error("a pool that was not used does not go at once")
	}
}

// table is what kubectl get -o wide asks for, as text.
func (c *testCluster) table(t *testing.T, plural string) string {
	t.Helper()
	text, err := c.kube.Discovery().RESTClient().Get().AbsPath("/apis/"+v1.SchemeGroupVersion.String()+"/"+plural).
		SetHeader("Accept", "application/json;as=Table;v=v1;g=meta.k8s.io").Do(t.Context()).Raw()
	var table metav1.Table
	if err == nil {
		err = json.Unmarshal(text, &table)
	}
	if err != nil {
		t.Fatal(err)
	}
	var out strings.Builder
	for _, r := range table.Rows {
		fmt.Fprintln(&out, r.Cells...)
	}
	return out.String()
}

func (c *testCluster) leaks(t *testing.T) {
	f := c.fixture(t)
	for i, leak := range []string{"dead", "dead", "other", "done"} {
		f.assign("10.5.0.0/29", fmt.Sprintf("10.5.0.%d", 2+i), "k.Leak-"+leak, leak, "n1")
	}
	c.pod("other", "n1", "10.5.0.77")
	c.pod("done", "n1", "10.5.0.5")
	done, err := c.kube.CoreV1().Pods("ns").Get(t.Context(), "done", metav1.GetOptions{})
	if err != nil {
		t.Fatal(err)
	}
	done.Status.Phase = corev1.PodFailed
	if _, err := c.kube.CoreV1().Pods("ns").UpdateStatus(t.Context(), done, metav1.UpdateOptions{}); err != nil {
		t.Fatal(err)
	}
	c.tunnel(f, "10.5.0.0/29", "10.5.0.6", "n1")
	settles(t, f, "leaked addresses go, with their handles; the live pod's and the tunnel's stay", map[string]string{
		"block 10.5.0.0/29": "n1 k.live ipip-tunnel-addr-n1", "affinity n1-10-5-0-0-29": "confirmed", "handle k.live": "10.5.0.0/29",
	})
	eventually(t, "an Event on the node", func() string {
		list, err := c.kube.EventsV1().Events(metav1.NamespaceDefault).List(t.Context(), metav1.ListOptions{})
		if err != nil {
			return err.Error()
		}
		for _, e := range list.Items {
			if e.Reason == "AddressesReleased" && e.Regarding.Name == "n1" {
				return ""
			}
		}
		return fmt.Sprintf("%d others", len(list.Items))
	})
}

// reconnect: nothing is released within the grace period after the connections
// were cut, however long it has been leaked.
func (c *testCluster) reconnect(t *testing.T) {
	f := c.fixture(t)
	f.assign("10.5.0.0/29", "10.5.0.2", "k.again", "again", "n1")
	started, cut := time.Now(), time.Time{}
	for time.Since(started) < 2*graceInTest {
		c.proxy.cut()
		cut = time.Now()
		time.Sleep(graceInTest / 3) //nolint:forbidigo // cuts come more often than the grace period
		if f.state()["handle k.again"] == "" {
			t.Fatalf("released %s after a reconnect", time.Since(cut))
		}
	}
	eventually(t, "released in the end", func() string { return f.state()["handle k.again"] })
	if d := time.Since(cut); d < graceInTest {
		t.Errorf("released %s after a reconnect, want %s at least", d, graceInTest)
	}
}

func (c *testCluster) orphanedHandles(t *testing.T) {
	f := c.fixture(t)
	want := f.state()
	ids := make(chan int)
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			for i := range ids {
				id := fmt.Sprintf("k8s-pod-network.Orphan%d", i)
				o := &v1.IPAMHandle{
					ObjectMeta: metav1.ObjectMeta{Name: v1.HandleName(id)},
					Spec:       v1.IPAMHandleSpec{HandleID: id, Block: map[string]int{"10.5.0.0/29": 1}},
				}
				if _, err := c.store.Handles.Create(t.Context(), o); err != nil {
					t.Error(err)
				}
			}
		})
	}
	for i := range 700 {
		ids <- i
	}
	close(ids)
	wg.Wait() // on a busy machine the first ones have gone by now
	settles(t, f, "handles without an address go", want)
}

func (c *testCluster) nodeGone(t *testing.T) {
	f := c.fixture(t)
	want := f.state()
	f.claim("10.5.0.8/29", "n2")
	f.claim("10.5.0.16/29", "n2")
	c.tunnel(f, "10.5.0.8/29", "10.5.0.8", "n2")
	for i := range 5 {
		f.assign("10.5.0.8/29", fmt.Sprintf("10.5.0.%d", 9+i), fmt.Sprintf("k.gone-%d", i), fmt.Sprintf("gone-%d", i), "n2")
		c.pod(fmt.Sprintf("gone-%d", i), "n2", fmt.Sprintf("10.5.0.%d", 9+i))
	}
	f.assign("10.5.0.16/29", "10.5.0.17", "k.borrower", "borrower", "n1")
	c.pod("borrower", "n1", "10.5.0.17")
	before := f.state()

	if err := c.kube.CoreV1().Nodes().Delete(t.Context(), "n2", metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	time.Sleep(graceInTest / 2) //nolint:forbidigo // less than the grace period
	if _, err := c.kube.CoreV1().Nodes().Create(t.Context(), nodeObject("n2"), metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	time.Sleep(graceInTest) //nolint:forbidigo // that nothing is released is seen over the grace period
	f.want("a node that comes back loses nothing", before)

	if err := c.kube.CoreV1().Nodes().Delete(t.Context(), "n2", metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	for i := range 5 { // which the pod collector of kube-controller-manager does
		if err := c.kube.CoreV1().Pods("ns").Delete(t.Context(),
			fmt.Sprintf("gone-%d", i), metav1.DeleteOptions{GracePeriodSeconds: new(int64)}); err != nil {
			t.Fatal(err)
		}
	}
	want["block 10.5.0.16/29"], want["handle k.borrower"] = " k.borrower", "10.5.0.16/29"
	settles(t, f, "what the node had goes; what it lent stays", want)
}

func (c *testCluster) poolDeleted(t *testing.T) {
	f := c.fixture(t)
	f.claim("10.5.0.24/29", "n1") // empty
	if err := c.pools.Delete(t.Context(), "p", metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the pool waits and says why", func() string {
		p := c.getPool("p")
		if p == nil {
			t.Fatal("the pool is gone while addresses are in use")
		}
		ready := p.Status.Conditions[0]
		if ready.Reason != v1.PoolFinalizing || !strings.Contains(ready.Message, "3 addresses in use, on n1 (3)") {
			return ready.Message
		}
		return ""
	})
	eventually(t, "the empty block goes", func() string { return f.state()["block 10.5.0.24/29"] })
	list, err := c.kube.EventsV1().Events(metav1.NamespaceDefault).List(t.Context(), metav1.ListOptions{})
	if err != nil ||
		!slices.ContainsFunc(list.Items, func(e eventsv1.Event) bool { return e.Reason == "IPPoolInUse" && e.Regarding.Name == "p" }) {
		t.Errorf("no Event says that the pool is in use (%v)", err)
	}
	for _, r := range []struct{ cidr, handle string }{
		{"10.5.0.0/29", "k.live"},
		{"10.5.0.0/29", "ipip-tunnel-addr-n1"},
		{"10.5.0.16/29", "k.borrower"},
	} {
		f.change(netip.MustParsePrefix(r.cidr), func(b *block.Block) { b.NextSequence(); b.ReleaseHandle(r.handle) })
	}
	eventually(t, "the pool goes", func() string {
		if c.getPool("p") != nil {
			return "it is still there"
		}
		return ""
	})
	for object := range f.state() {
		if !strings.HasPrefix(object, "handle ") {
			t.Errorf("%s outlives its pool", object)
		}
	}
}
