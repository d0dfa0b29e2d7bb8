//go:build cluster

package e2e

import (
	"context"
	"encoding/json"
	"fmt"
	"net/netip"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	apiv1 "github.com/manx-cni/manx/api/v1"
)

// ipamState is what the IPAM objects say.
type ipamState struct {
	blocks  map[string]string   // CIDR to node
	pods    map[string][]string // namespace/pod to addresses, in all blocks
	addrs   map[string]string   // address to handle
	handles map[string]int      // IPAMHandle to its number of addresses
}

func getList(ctx context.Context, plural string, into any) error {
	b, err := client.RESTClient().Get().AbsPath("/apis", apiv1.SchemeGroupVersion.String(), plural).DoRaw(ctx)
	if err != nil {
		return err
	}
	return json.Unmarshal(b, into)
}

// readIPAM reads blocks and handles and reports an error where they contradict themselves or each other.
func readIPAM(ctx context.Context) (*ipamState, error) {
	var blocks apiv1.IPAMBlockList
	var handles apiv1.IPAMHandleList
	if err := getList(ctx, "ipamblocks", &blocks); err != nil {
		return nil, err
	}
	if err := getList(ctx, "ipamhandles", &handles); err != nil {
		return nil, err
	}
	s := &ipamState{blocks: map[string]string{}, pods: map[string][]string{}, addrs: map[string]string{}, handles: map[string]int{}}
	for _, b := range blocks.Items {
		if b.Spec.Deleted || b.Spec.Affinity == nil {
			continue
		}
		s.blocks[b.Spec.CIDR] = strings.TrimPrefix(*b.Spec.Affinity, "host:")
		if err := s.addBlock(&b.Spec); err != nil {
			return nil, fmt.Errorf("block %s: %w", b.Name, err)
		}
	}
	for _, h := range handles.Items {
		for _, n := range h.Spec.Block {
			if !h.Spec.Deleted {
				s.handles[h.Spec.HandleID] += n
			}
		}
	}
	return s, nil
}

func (s *ipamState) addBlock(b *apiv1.IPAMBlockSpec) error {
	cidr, err := netip.ParsePrefix(b.CIDR)
	if err != nil {
		return err
	}
	addr, used := cidr.Addr(), 0
	for _, index := range b.Allocations {
		if index != nil {
			if *index >= len(b.Attributes) {
				return fmt.Errorf("%s points to attribute %d of %d", addr, *index, len(b.Attributes))
			}
			a := b.Attributes[*index]
			pod := a.Secondary["namespace"] + "/" + a.Secondary["pod"]
			s.pods[pod] = append(s.pods[pod], addr.String())
			if a.HandleID != nil {
				s.addrs[addr.String()] = *a.HandleID
			}
			used++
		}
		addr = addr.Next()
	}
	if used+len(b.Unallocated) != len(b.Allocations) {
		return fmt.Errorf("%d used and %d free of %d", used, len(b.Unallocated), len(b.Allocations))
	}
	return nil
}

// owner is the node whose block has the address; empty for none.
func (s *ipamState) owner(addr string) string {
	a, err := netip.ParseAddr(addr)
	if err != nil {
		return ""
	}
	for cidr, node := range s.blocks {
		if p, err := netip.ParsePrefix(cidr); err == nil && p.Contains(a) {
			return node
		}
	}
	return ""
}

func podsWithNetwork(ctx context.Context) ([]corev1.Pod, error) {
	list, err := client.CoreV1().Pods("").List(ctx, metav1.ListOptions{})
	if err != nil {
		return nil, err
	}
	var pods []corev1.Pod
	for _, p := range list.Items {
		if !p.Spec.HostNetwork {
			pods = append(pods, p)
		}
	}
	return pods, nil
}

// noLeak waits until IPAM holds exactly the addresses of the pods there are, each with its handle.
func noLeak(t *testing.T) {
	t.Helper()
	eventually(t, "addresses in IPAM are those of the pods", func(ctx context.Context) error {
		pods, err := podsWithNetwork(ctx)
		if err != nil {
			return err
		}
		s, err := readIPAM(ctx)
		if err != nil {
			return err
		}
		held := 0
		for _, p := range pods {
			if len(p.Status.PodIPs) == 0 {
				return fmt.Errorf("pod %s/%s has no address yet", p.Namespace, p.Name)
			}
			for _, ip := range p.Status.PodIPs {
				held++
				handle, ok := s.addrs[ip.IP]
				if n := len(p.Status.PodIPs); !ok || s.handles[handle] != n {
					return fmt.Errorf("pod %s/%s has %q, not in IPAM with a handle of as many addresses as it has, %d: %v",
						p.Namespace, p.Name, ip.IP, n, s.pods)
				}
			}
		}
		if len(s.addrs) != held || len(s.handles) != len(pods) {
			return fmt.Errorf("%d pods, %d addresses (%v), %d handles (%v)", len(pods), len(s.addrs), s.pods, len(s.handles), s.handles)
		}
		return nil
	})
}

// TestRelease: a deleted pod's address is taken out of its block, and its handle goes.
func TestRelease(t *testing.T) {
	onLab(t)
	pod := newPod("default", "released", "node1", podImage)
	createPod(t, pod)
	var addr, handle string
	eventually(t, "pod running", func(ctx context.Context) error {
		p, err := client.CoreV1().Pods("default").Get(ctx, pod.Name, metav1.GetOptions{})
		if err != nil {
			return err
		}
		addr = p.Status.PodIP
		return podReady(p)
	})
	eventually(t, "handle", func(ctx context.Context) error { // its object is written behind the block
		s, err := readIPAM(ctx)
		if err != nil {
			return err
		}
		if handle = s.addrs[addr]; !strings.HasPrefix(handle, "k8s-pod-network.") || s.handles[handle] != 1 {
			return fmt.Errorf("address %s of the pod has handle %q, want k8s-pod-network.<container>; addresses %v, handles %v",
				addr, handle, s.addrs, s.handles)
		}
		return nil
	})
	if err := client.CoreV1().Pods("default").Delete(t.Context(), pod.Name, *now()); err != nil {
		t.Fatal(err)
	}
	eventually(t, "release", func(ctx context.Context) error {
		s, err := readIPAM(ctx)
		if err != nil {
			return err
		}
		if _, ok := s.addrs[addr]; ok || s.handles[handle] != 0 {
			return fmt.Errorf("%s is still assigned to %q, or its handle is there: %v", addr, s.addrs[addr], s.handles)
		}
		if out, err := cluster.Exec(ctx, "node1", "ip", "-o", "link", "show"); err != nil || strings.Contains(out, hostIface(pod)) {
			return fmt.Errorf("interface %s is still there: %v", hostIface(pod), err)
		}
		return nil
	})
	noLeak(t)
}
