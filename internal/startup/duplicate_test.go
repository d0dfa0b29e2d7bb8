package startup

import (
	"fmt"
	"net/netip"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"

	v1 "github.com/manx-cni/manx/api/v1"
	"github.com/manx-cni/manx/internal/autodetect"
)

// kubelet says what a Node's kubelet, or the node controller in its place, reports.
func kubelet(n *corev1.Node, ready corev1.ConditionStatus, heartbeat time.Time, internal ...string) *corev1.Node {
	n.Status.Conditions = []corev1.NodeCondition{{Type: corev1.NodeReady, Status: ready, LastHeartbeatTime: metav1.NewTime(heartbeat)}}
	for _, a := range internal {
		n.Status.Addresses = append(n.Status.Addresses, corev1.NodeAddress{Type: corev1.NodeInternalIP, Address: a})
	}
	return n
}

// machine is one of several with a cluster in common.
func (c *cluster) machine(name string, addr string, env ...string) *Startup {
	s := c.start(env...)
	s.NodeName = name
	s.Interfaces = func() ([]autodetect.Interface, error) {
		i := autodetect.Interface{Name: "eth0", Index: 2, Up: true}
		for _, a := range strings.Fields(addr) {
			i.Addrs = append(i.Addrs, netip.MustParsePrefix(a))
		}
		return []autodetect.Interface{i}, nil
	}
	return s
}

// Machines that have each other's addresses after a reboot all start, in any order,
// whether two or three of them, and while they run too.
func TestClaimsInARing(t *testing.T) {
	for _, members := range []int{2, 3} {
		for _, six := range []bool{false, true} {
			for _, running := range []bool{false, true} {
				t.Run(fmt.Sprintf("%d members, IPv6 %v, running %v", members, six, running), func(t *testing.T) {
					annotation, format, env := v1.AnnotationNodeIPv4, "10.0.0.%d/24", []string{"IP=autodetect"}
					if six {
						annotation, format = v1.AnnotationNodeIPv6, "fd00::%d/64"
						env = []string{"IP=10.9.9.9/24", "DISABLE_NODE_IP_CHECK=false", "IP6=autodetect", "CALICO_IPV6POOL_CIDR=none"}
					}
					addr := func(i int) string { return fmt.Sprintf(format, 5+i%members) }
					var objs []runtime.Object
					for i := range members {
						n := kubelet(node(fmt.Sprintf("node-%d", i), annotation, addr(i)), corev1.ConditionTrue, time.Unix(1e9, 0))
						if six {
							n.Annotations[v1.AnnotationNodeIPv4] = fmt.Sprintf("10.9.9.%d/24", 9+i)
						}
						objs = append(objs, n)
					}
					c := newCluster(t, objs...)
					var all []*Startup
					for i := range members {
						e := env
						if six {
							e = append([]string{fmt.Sprintf("IP=10.9.9.%d/24", 9+i)}, env[1:]...)
						}
						s := c.machine(fmt.Sprintf("node-%d", i), addr(i), e...)
						if running {
							if _, err := s.Run(t.Context()); err != nil {
								t.Fatal(err)
							}
						}
						all = append(all, s)
					}
					for i, s := range all {
						s.Interfaces = c.machine("", addr(i+1)).Interfaces
					}
					// Each is started, or looks, up to three times: its pod starts again.
					var last error
					for range 3 {
						last = nil
						for i, s := range all {
							var err error
							if running {
								_, _, err = s.Redetect(t.Context())
							} else {
								_, err = s.Run(t.Context())
							}
							if err != nil {
								last = fmt.Errorf("node-%d: %w", i, err)
							}
						}
					}
					if last != nil {
						t.Error(last)
					}
					for i := range members {
						if got := c.node(fmt.Sprintf("node-%d", i)).Annotations[annotation]; got != addr(i+1) {
							t.Errorf("node-%d has %q published, its machine has %s", i, got, addr(i+1))
						}
					}
				})
			}
		}
	}
}

// Whether another Node's claim stands.
func TestClaimsOfOthers(t *testing.T) {
	now := time.Unix(1e9, 0)
	for _, tc := range []struct {
		name    string
		ready   corev1.ConditionStatus
		at      time.Time
		mine    string // of the machine
		ip      string // the variable
		refused string
	}{
		{name: "a renamed machine's old Node", ready: corev1.ConditionUnknown, at: now.Add(-time.Hour), mine: "10.0.0.5/24"},
		{name: "no node controller, the kubelet silent for long", ready: corev1.ConditionFalse, at: now.Add(-time.Hour), mine: "10.0.0.5/24"},
		{name: "both there", ready: corev1.ConditionTrue, at: now, mine: "10.0.0.5/24", refused: "it is there, its kubelet says Ready=True"},
		{name: "both there, the other not ready", ready: corev1.ConditionFalse, at: now.Add(-time.Minute),
			mine: "10.0.0.5/24", refused: "it is there, its kubelet says Ready=False"},
		{name: "nothing is known of the other", mine: "10.0.0.5/24", refused: "nothing says that it is gone"},
		{name: "the other is gone, and the address is no machine's",
			ready: corev1.ConditionUnknown, at: now, mine: "10.0.0.7/24", ip: "10.0.0.5/24",
			refused: "no interface of this machine has the address either"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			other := node("old", v1.AnnotationNodeIPv4, "10.0.0.5/24")
			if tc.ready != "" {
				kubelet(other, tc.ready, tc.at, "10.0.0.5")
			}
			mine := kubelet(node("node-1"), corev1.ConditionTrue, now, strings.TrimSuffix(tc.mine, "/24"))
			c := newCluster(t, mine, other)
			if tc.ip == "" {
				tc.ip = "autodetect"
			}
			_, err := c.machine("node-1", tc.mine, "IP="+tc.ip).Run(t.Context())
			if tc.refused == "" {
				if err != nil {
					t.Fatal(err)
				}
				if got := c.node("node-1").Annotations[v1.AnnotationNodeIPv4]; got != "10.0.0.5/24" ||
					!strings.Contains(c.log.String(), "kubectl delete node old") {
					t.Errorf("published %q\n%s", got, c.log.String())
				}
				return
			}
			if err == nil || !strings.Contains(err.Error(), tc.refused) ||
				!strings.Contains(err.Error(), "node old already has the address 10.0.0.5") ||
				!strings.Contains(err.Error(), "kubectl delete node old") {
				t.Errorf("got %v, want %q", err, tc.refused)
			}
			if w := c.writes(); len(w) > 0 {
				t.Errorf("wrote %v", w)
			}
		})
	}
}

// An own claim that the machine cannot keep is withdrawn though the new address is
// refused, and is not published again behind it.
func TestWithdrawnClaimStaysWithdrawn(t *testing.T) {
	c := newCluster(t, node("node-1"), kubelet(node("node-2", v1.AnnotationNodeIPv4, "10.0.0.6/24"), corev1.ConditionTrue, time.Unix(1e9, 0)))
	s := c.machine("node-1", "10.0.0.5/24", "IP=autodetect")
	res, err := s.Run(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	s.Interfaces = c.machine("", "10.0.0.6/24").Interfaces
	if _, changed, err := s.Redetect(t.Context()); err == nil || changed {
		t.Errorf("%v, %v", changed, err)
	}
	restored, err := s.Restore(t.Context(), res)
	if a := c.node("node-1").Annotations[v1.AnnotationNodeIPv4]; err != nil || restored || a != "" {
		t.Errorf("published %q, restored %v, %v", a, restored, err)
	}
	s.Interfaces = c.machine("", "10.0.0.5/24").Interfaces // it was a moment only
	restored, err = s.Restore(t.Context(), res)
	if a := c.node("node-1").Annotations[v1.AnnotationNodeIPv4]; err != nil || !restored || a != "10.0.0.5/24" {
		t.Errorf("published %q, restored %v, %v", a, restored, err)
	}
}
