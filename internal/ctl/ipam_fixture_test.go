package ctl

import (
	"context"
	"encoding/json"
	"errors"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	kubefake "k8s.io/client-go/kubernetes/fake"

	apiv1 "github.com/manx-cni/manx/api/v1"
	"github.com/manx-cni/manx/internal/status"
	"github.com/manx-cni/manx/ipam/block"
	"github.com/manx-cni/manx/ipam/store"
	"github.com/manx-cni/manx/ipam/store/fake"
)

// ipamCluster is a cluster of two nodes: node1 has a block of whose addresses node2
// has borrowed one, and one more is leaked.
//
//	10.244.0.0  the tunnel of node1
//	10.244.0.1  pod default/web on node1
//	10.244.0.2  pod default/db on node2, borrowed
//	10.244.0.3  pod default/gone on node1, which does not exist
type ipamCluster struct {
	t       *testing.T
	backend *fake.Backend
	store   store.Store
	kube    []runtime.Object
	answers map[string]status.Node // by pod
}

const blockA, blockB = "10.244.0.0/26", "10.244.1.0/26"

func newIPAMCluster(t *testing.T) *ipamCluster {
	t.Helper()
	c := &ipamCluster{t: t, backend: &fake.Backend{}, answers: map[string]status.Node{}}
	c.store = store.New(c.backend)
	c.put(apiv1.PluralIPPools, "IPPool", "default-ipv4-ippool", apiv1.IPPoolSpec{CIDR: "10.244.0.0/16"})
	c.put(apiv1.PluralIPPools, "IPPool", "six", apiv1.IPPoolSpec{CIDR: "fd00:1::/112"})
	c.put(apiv1.PluralClusterInformations, "ClusterInformation", "default",
		apiv1.ClusterInformationSpec{ClusterGUID: "abc", ClusterType: "k8s,bgp,kdd"})
	c.claim("node1", blockA, func(b *block.Block) {
		c.must(b.AssignIP(netip.MustParseAddr("10.244.0.0"), block.Owner{
			Handle: "ipip-tunnel-addr-node1", Attrs: map[string]string{"node": "node1", "type": "ipipTunnelAddress"},
		}))
		c.assign(b, "10.244.0.1", "web", "node1")
		c.assign(b, "10.244.0.2", "db", "node2")
		c.assign(b, "10.244.0.3", "gone", "node1")
	})
	c.claim("node2", blockB, nil)
	c.handle("ipip-tunnel-addr-node1", blockA)
	c.handle("net.web", blockA)
	c.handle("net.db", blockA)
	c.handle("net.gone", blockA)
	c.node("node1", "192.0.2.1", "10.244.0.0")
	c.node("node2", "192.0.2.2", "")
	c.pod("web", "node1", "10.244.0.1")
	c.pod("db", "node2", "10.244.0.2")
	c.agent("node1", status.Addresses{
		Interfaces: []status.Interface{
			{Name: "cali1", Handle: "net.web", Namespace: "default", Pod: "web", Addrs: []netip.Addr{netip.MustParseAddr("10.244.0.1")}},
		},
		Learned: []status.Learned{learned("10.244.0.2/32", "192.0.2.2"), learned(blockB, "192.0.2.2")}, Converged: true,
	})
	c.agent("node2", status.Addresses{
		Interfaces: []status.Interface{
			{Name: "cali2", Handle: "net.db", Namespace: "default", Pod: "db", Addrs: []netip.Addr{netip.MustParseAddr("10.244.0.2")}},
		},
		Learned: []status.Learned{learned(blockA, "192.0.2.1")}, Converged: true,
	})
	return c
}

func learned(prefix, hop string) status.Learned {
	return status.Learned{Prefix: netip.MustParsePrefix(prefix), NextHops: []netip.Addr{netip.MustParseAddr(hop)}}
}

func (c *ipamCluster) must(err error) {
	c.t.Helper()
	if err != nil {
		c.t.Fatal(err)
	}
}

func (c *ipamCluster) put(resource, kind, name string, spec any) {
	c.t.Helper()
	text, err := json.Marshal(map[string]any{
		"apiVersion": apiv1.SchemeGroupVersion.String(), "kind": kind, "metadata": map[string]any{"name": name}, "spec": spec,
	})
	c.must(err)
	_, err = c.backend.Create(c.t.Context(), resource, text)
	c.must(err)
}

func (c *ipamCluster) claim(node, cidr string, fill func(*block.Block)) {
	c.t.Helper()
	p := netip.MustParsePrefix(cidr)
	b, err := block.New(p, node, time.Unix(1_755_850_000, 0))
	c.must(err)
	if fill != nil {
		fill(b)
	}
	_, err = c.store.Blocks.Create(c.t.Context(), &apiv1.IPAMBlock{ObjectMeta: metav1.ObjectMeta{Name: apiv1.BlockName(p)}, Spec: *b.Spec()})
	c.must(err)
	_, err = c.store.Affinities.Create(c.t.Context(), &apiv1.BlockAffinity{
		ObjectMeta: metav1.ObjectMeta{Name: apiv1.AffinityName(node, p)},
		Spec: apiv1.BlockAffinitySpec{
			Node: node, CIDR: cidr, State: apiv1.AffinityConfirmed, Type: apiv1.AffinityTypeHost, Deleted: "false",
		},
	})
	c.must(err)
}

func (c *ipamCluster) assign(b *block.Block, addr, pod, node string) {
	c.t.Helper()
	c.must(b.AssignIP(netip.MustParseAddr(addr), block.Owner{Handle: "net." + pod, Attrs: map[string]string{
		"pod": pod, "namespace": "default", "node": node, "timestamp": "2026-11-20 12:00:00 +0000 UTC",
	}}))
}

func (c *ipamCluster) handle(id string, blocks ...string) {
	c.t.Helper()
	counts := map[string]int{}
	for _, b := range blocks {
		counts[b]++
	}
	_, err := c.store.Handles.Create(c.t.Context(), &apiv1.IPAMHandle{
		ObjectMeta: metav1.ObjectMeta{Name: apiv1.HandleName(id)}, Spec: apiv1.IPAMHandleSpec{HandleID: id, Block: counts},
	})
	c.must(err)
}

func (c *ipamCluster) node(name, addr, tunnel string) {
	n := k8sNode(name, addr+"/24")
	if tunnel != "" {
		n.Annotations[apiv1.AnnotationNodeIPIPTunnelAddr] = tunnel
	}
	c.kube = append(c.kube, n, agentPod("manx-"+name, name, corev1.PodRunning))
	c.kube[len(c.kube)-1].(*corev1.Pod).Spec.HostNetwork = true
}

func (c *ipamCluster) pod(name, node, addr string) {
	c.kube = append(c.kube, &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Name: name, Namespace: "default"}, Spec: corev1.PodSpec{NodeName: node},
		Status: corev1.PodStatus{Phase: corev1.PodRunning, PodIP: addr, PodIPs: []corev1.PodIP{{IP: addr}}},
	})
}

func (c *ipamCluster) agent(node string, a status.Addresses) {
	c.answers["manx-"+node] = status.Node{Name: node, Addresses: &a}
}

func (c *ipamCluster) access() ipamAccess {
	return ipamAccess{
		backend: c.backend, kube: kubefake.NewClientset(c.kube...), namespace: "kube-system",
		exec: func(_ context.Context, pod *corev1.Pod, args ...string) ([]byte, error) {
			if strings.Join(args, " ") != "status -o json" {
				return nil, errors.New("unexpected command")
			}
			n, ok := c.answers[pod.Name]
			if !ok {
				return nil, errors.New("connection refused")
			}
			return json.Marshal([]status.Node{n})
		},
	}
}

func (c *ipamCluster) block(cidr string) *block.Block {
	c.t.Helper()
	o, err := c.store.Blocks.Get(c.t.Context(), apiv1.BlockName(netip.MustParsePrefix(cidr)))
	c.must(err)
	b, err := block.Parse(&o.Spec)
	c.must(err)
	return b
}

// change writes a block as somebody else would.
func (c *ipamCluster) change(cidr string, do func(*block.Block)) {
	c.t.Helper()
	o, err := c.store.Blocks.Get(c.t.Context(), apiv1.BlockName(netip.MustParsePrefix(cidr)))
	c.must(err)
	b, err := block.Parse(&o.Spec)
	c.must(err)
	b.NextSequence()
	do(b)
	o.Spec = *b.Spec()
	_, err = c.store.Blocks.Update(c.t.Context(), o)
	c.must(err)
}

// golden compares with testdata/NAME.golden.
func golden(t *testing.T, name, got string) {
	t.Helper()
	path := filepath.Join("testdata", name+".golden")
	if *update {
		if err := os.MkdirAll("testdata", 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(got), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if got != string(want) {
		t.Errorf("%s: got\n%s\nwant\n%s", path, got, want)
	}
}

// wantError fails unless err says all of it; no parts want no error.
func wantError(t *testing.T, err error, parts ...string) {
	t.Helper()
	if err == nil && len(parts) > 0 || err != nil && len(parts) == 0 {
		t.Fatalf("error %v; want %q", err, parts)
	}
	for _, p := range parts {
		if !strings.Contains(err.Error(), p) {
			t.Errorf("error %q; want %q in it", err, p)
		}
	}
}
