//go:build cluster

package e2e

import (
	"context"
	"fmt"
	"net/netip"
	"os/exec"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	apiv1 "github.com/manx-cni/manx/api/v1"
	"github.com/manx-cni/manx/test/lab/image"
)

// TestIPAMPools: which pool a pod draws from, by what it, its namespace and the pools say.
func TestIPAMPools(t *testing.T) {
	onLab(t)
	t.Run("asked for", poolsAskedFor)
	t.Run("wrong annotations", poolsWrong)
	t.Run("selectors", poolsSelected)
	t.Run("reserved", poolsReserved)
	noLeak(t)
}

func poolsAskedFor(t *testing.T) {
	const node, namespace = "node1", "e2e-green"
	blue := newPool(t, "e2e-blue", byRequest("10.250.0.0/27", 28))
	green := newPool(t, "e2e-green", byRequest("10.250.0.32/27", 28))
	ordinary := netip.MustParsePrefix("10.244.0.0/16")
	namespaceFor(t, namespace)
	kubectl(t, "annotate", "namespace", namespace, annotationPools4+`=["e2e-green"]`)
	const mac = "02:00:5e:10:00:2a"
	pods := map[string]*corev1.Pod{}
	cases := []struct {
		name, namespace string
		annotations     []string
		want            netip.Prefix
	}{
		{"plain", "default", nil, ordinary},
		{"by-name", "default", []string{annotationPools4, `["e2e-blue"]`}, blue},
		{"by-cidr", "default", []string{annotationPools4, `["10.250.0.32/27"]`}, green},
		{"exactly", "default", []string{annotationAddrs, `["10.250.0.37"]`}, netip.MustParsePrefix("10.250.0.37/32")},
		{"mac", "default", []string{annotationMAC, mac}, ordinary},
		{"by-namespace", namespace, nil, green},
		{"pod-wins", namespace, []string{annotationPools4, `["e2e-blue"]`}, blue},
	}
	for _, c := range cases {
		pods[c.name] = asking(newPod(c.namespace, "e2e-"+c.name, node, podImage), c.annotations...)
		createPod(t, pods[c.name])
	}
	far := web(t, "node2")
	for _, c := range cases {
		addr := addrOf(t, pods[c.name])
		t.Logf("%s: %s", c.name, addr)
		if !c.want.Contains(addr) {
			t.Errorf("pod with %q in namespace %s has %s, want one of %s", c.annotations, c.namespace, addr, c.want)
		}
		pings(t, far, addr, ttlOtherNode)
	}
	out, err := exec.CommandContext(t.Context(), "nsenter", "--net="+netnsOf(t, pods["mac"]),
		"ip", "-o", "link", "show", "dev", "eth0").CombinedOutput()
	if err != nil || !strings.Contains(string(out), "link/ether "+mac) {
		t.Errorf("a pod that asks for MAC %s has (%v)\n%s", mac, err, out)
	}
	for _, n := range nodeNames(t) {
		routesSettle(t, n)
	}
	for _, c := range cases {
		deletePod(t, pods[c.name])
	}
}

// poolsWrong: what cannot be is said in the pod's event, with the annotation or its value.
func poolsWrong(t *testing.T) {
	const node = "node2"
	newPool(t, "e2e-blue", byRequest("10.250.0.0/27", 28))
	shut := byRequest("10.250.0.64/27", 28)
	shut.Disabled = true
	newPool(t, "e2e-shut", shut)
	holder := asking(newPod("default", "e2e-holder", node, podImage), annotationAddrs, `["10.250.0.5"]`)
	createPod(t, holder)
	addrOf(t, holder)
	cases := []struct {
		name, annotation, value string
		texts                   []string
	}{
		{"unknown-pool", annotationPools4, `["e2e-nowhere"]`, []string{"e2e-nowhere"}},
		{"unknown-cidr", annotationPools4, `["10.99.0.0/16"]`, []string{"10.99.0.0/16"}},
		{"disabled-pool", annotationPools4, `["e2e-shut"]`, []string{"e2e-shut", "disabled"}},
		{"no-list", annotationPools4, `e2e-blue`, []string{annotationPools4, "e2e-blue"}},
		{"taken", annotationAddrs, `["10.250.0.5"]`, []string{"10.250.0.5"}},
		{"no-pool", annotationAddrs, `["192.0.2.1"]`, []string{"192.0.2.1"}},
		{"two", annotationAddrs, `["10.250.0.6","10.250.0.7"]`, []string{annotationAddrs}},
		{"no-address", annotationAddrs, `["10.250.0"]`, []string{annotationAddrs, "10.250.0"}},
		{"no-mac", annotationMAC, `banana`, []string{annotationMAC, "banana"}},
		{"no-family", annotationFamilies, `["IPv5"]`, []string{annotationFamilies, "IPv5"}},
	}
	pods := make([]*corev1.Pod, len(cases))
	for i, c := range cases {
		pods[i] = asking(newPod("default", "e2e-wrong-"+c.name, node, podImage), c.annotation, c.value)
		createPod(t, pods[i])
	}
	for i, c := range cases {
		t.Run(c.name, func(t *testing.T) { t.Log(refused(t, pods[i], c.texts...)) })
	}
	s, err := readIPAM(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	for i, c := range cases {
		if held := s.pods["default/"+pods[i].Name]; len(held) > 0 {
			t.Errorf("pod with %s=%s was refused, and IPAM holds %v for it", c.annotation, c.value, held)
		}
		deletePod(t, pods[i])
	}
	if got := s.pods["default/"+holder.Name]; len(got) != 1 {
		t.Errorf("the pod whose address another asked for holds %v, want one address", got)
	}
	deletePod(t, holder)
}

// poolsSelected shuts the ordinary pool, so that only selectors decide.
func poolsSelected(t *testing.T) {
	const namespace = "e2e-team"
	namespaceFor(t, namespace)
	kubectl(t, "label", "namespace", namespace, "e2e-team=net")
	t.Cleanup(func() { _, _ = cluster.Kubectl(context.Background(), "label", "node", "node2", "e2e-rack-") })
	kubectl(t, "label", "node", "node2", "e2e-rack=a")
	rack := newPool(t, "e2e-rack", apiv1.IPPoolSpec{
		CIDR: "10.250.1.0/27", BlockSize: 28, NodeSelector: `e2e-rack == "a"`, NamespaceSelector: `!has(e2e-team)`,
	})
	team := newPool(t, "e2e-team", apiv1.IPPoolSpec{CIDR: "10.250.1.32/27", BlockSize: 28, NamespaceSelector: `e2e-team in {"net", "ops"}`})
	disablePool(t, poolName)

	selected := newPod("default", "e2e-by-node", "node2", podImage)
	spaced := newPod(namespace, "e2e-by-namespace", "node1", podImage)
	nowhere := newPod("default", "e2e-by-nothing", "node1", podImage)
	for _, pod := range []*corev1.Pod{selected, spaced, nowhere} {
		createPod(t, pod)
	}
	if addr := addrOf(t, selected); !rack.Contains(addr) {
		t.Errorf("a pod on the selected node has %s, want one of %s", addr, rack)
	}
	if addr := addrOf(t, spaced); !team.Contains(addr) {
		t.Errorf("a pod of the selected namespace has %s, want one of %s", addr, team)
	}
	t.Log(refused(t, nowhere, "e2e-rack", "e2e-team", poolName, "disabled"))
	// A disabled pool gives nothing and stays routed.
	pings(t, web(t, "node1"), addrOf(t, web(t, "node2")), ttlOtherNode)

	enablePool(t, poolName)
	if addr := addrOf(t, nowhere); !netip.MustParsePrefix("10.244.0.0/16").Contains(addr) {
		t.Errorf("once %s is enabled the pod that waited has %s", poolName, addr)
	}
	for _, pod := range []*corev1.Pod{selected, spaced, nowhere} {
		deletePod(t, pod)
	}
}

func disablePool(t *testing.T, name string) {
	t.Helper()
	t.Cleanup(func() { _ = patchCR(context.Background(), apiv1.PluralIPPools, name, `{"spec":{"disabled":false}}`) })
	if err := patchCR(t.Context(), apiv1.PluralIPPools, name, `{"spec":{"disabled":true}}`); err != nil {
		t.Fatal(err)
	}
	agentsKnow(t, name, true)
}

func enablePool(t *testing.T, name string) {
	t.Helper()
	if err := patchCR(t.Context(), apiv1.PluralIPPools, name, `{"spec":{"disabled":false}}`); err != nil {
		t.Fatal(err)
	}
	agentsKnow(t, name, false)
}

// poolsReserved: half of a block is reserved, so four pods find room, in the other half.
func poolsReserved(t *testing.T) {
	const node, count = "node1", 4
	free := netip.MustParsePrefix("10.250.2.4/30")
	reservation := apiv1.IPReservation{
		TypeMeta:   metav1.TypeMeta{APIVersion: apiv1.SchemeGroupVersion.String(), Kind: "IPReservation"},
		ObjectMeta: metav1.ObjectMeta{Name: "e2e-reserved"},
		Spec:       apiv1.IPReservationSpec{ReservedCIDRs: []string{"10.250.2.0/31", "10.250.2.2", "10.250.2.3/32"}},
	}
	t.Cleanup(func() { _ = deleteCR(context.Background(), apiv1.PluralIPReservations, reservation.Name) })
	if err := createCR(t.Context(), apiv1.PluralIPReservations, reservation); err != nil {
		t.Fatal(err)
	}
	newPool(t, "e2e-reserved", byRequest("10.250.2.0/29", 29))
	var pods []*corev1.Pod
	for i := range count {
		pod := fromPool("e2e-reserved", fmt.Sprintf("e2e-reserved-%d", i), node)
		createPod(t, pod)
		pods = append(pods, pod)
	}
	for _, pod := range pods {
		if addr := addrOf(t, pod); !free.Contains(addr) {
			t.Errorf("pod %s has %s, which is reserved; want one of %s", pod.Name, addr, free)
		}
	}
	late := fromPool("e2e-reserved", "e2e-reserved-late", node)
	createPod(t, late)
	refused(t, late, "e2e-reserved")
	if err := deleteCR(t.Context(), apiv1.PluralIPReservations, reservation.Name); err != nil {
		t.Fatal(err)
	}
	if addr := addrOf(t, late); free.Contains(addr) {
		t.Errorf("without the reservation the pod that waited has %s, which another has", addr)
	}
	for _, pod := range append(pods, late) {
		deletePod(t, pod)
	}
}

// pinger is a pod that can ping.
func pinger(pool, name, node string) *corev1.Pod {
	pod := fromPool(pool, name, node)
	pod.Spec.Containers[0].Image = image.Agnhost
	pod.Spec.Containers[0].Args = []string{"pause"}
	return pod
}
