package startup

import (
	"fmt"
	"net/netip"
	"testing"

	v1 "github.com/manx-cni/manx/api/v1"
	"github.com/manx-cni/manx/internal/autodetect"
)

// A running agent and one that starts choose the same address from the same facts: a
// restart does not move the node.
func TestStartAndRunningAgentAgree(t *testing.T) {
	iface := func(name string, index int, addrs ...string) autodetect.Interface {
		i := autodetect.Interface{Name: name, Index: index, Up: true}
		for _, a := range addrs {
			i.Addrs = append(i.Addrs, netip.MustParsePrefix(a))
		}
		return i
	}
	for name, ifaces := range map[string][]autodetect.Interface{
		"nothing changes":             {iface("eth0", 2, "10.0.0.5/24", "fd00::5/64")},
		"an interface appears":        {iface("eth0", 2, "10.0.0.5/24", "fd00::5/64"), iface("eth1", 3, "192.168.1.5/24", "fd00:1::5/64")},
		"an address appears before":   {iface("eth0", 2, "10.0.0.77/24", "10.0.0.5/24", "fd00::77/64", "fd00::5/64")},
		"a floating address appears":  {iface("eth0", 2, "10.0.0.77/32", "10.0.0.5/24", "fd00::77/128", "fd00::5/64")},
		"the subnet changes its size": {iface("eth0", 2, "10.0.0.5/16", "fd00::5/48")},
		"the machine is renumbered":   {iface("eth0", 2, "10.0.0.9/24", "fd00::9/64")},
		"the interface is replaced":   {iface("eth7", 7, "10.7.0.5/24", "fd00:7::5/64")},
		"it moves to the loopback":    {iface("lo", 1, "10.0.0.5/32", "fd00::5/128"), iface("eth0", 2, "10.0.0.9/24", "fd00::9/64")},
	} {
		for _, method := range []string{"first-found", "interface=eth", "skip-interface=docker", "cidr=10.0.0.0/8"} {
			t.Run(name+" "+method, func(t *testing.T) {
				env := []string{"IP=autodetect", "IP6=autodetect", "IP_AUTODETECTION_METHOD=" + method, "CALICO_IPV6POOL_CIDR=none"}
				choose := func(running bool) string {
					c := newCluster(t, node("node-1"))
					c.ifaces = []autodetect.Interface{iface("eth0", 2, "10.0.0.5/24", "fd00::5/64")}
					s := c.start(env...)
					res, err := s.Run(t.Context())
					if err != nil {
						t.Fatal(err)
					}
					c.ifaces = ifaces
					if running {
						if now, changed, err := s.Redetect(t.Context()); err != nil {
							return err.Error()
						} else if changed {
							res = now
						}
					} else if res, err = c.run(env...); err != nil {
						return err.Error()
					}
					a := c.node("node-1").Annotations
					return fmt.Sprint(res.Address, res.Address6, a[v1.AnnotationNodeIPv4], a[v1.AnnotationNodeIPv6])
				}
				running, starting := choose(true), choose(false)
				if running != "look for a changed node address: "+starting && running != starting {
					t.Errorf("the running agent: %s\nafter a restart:   %s", running, starting)
				}
			})
		}
	}
}

// With IP empty the user gives a node its address on the Node, as calicoctl does. A
// running agent takes it as one that starts: when the machine has it.
func TestAddressGivenOnTheNode(t *testing.T) {
	for given, want := range map[string]string{"10.0.0.9/24": "10.0.0.9/24", "10.0.0.77/24": "10.0.0.5/24"} {
		c := newCluster(t, node("node-1"))
		s := c.start("IP=")
		if _, err := s.Run(t.Context()); err != nil {
			t.Fatal(err)
		}
		c.ifaces[1].Addrs = append(c.ifaces[1].Addrs, netip.MustParsePrefix("10.0.0.9/24"))
		if err := s.Annotate(t.Context(), map[string]*string{v1.AnnotationNodeIPv4: &given}); err != nil {
			t.Fatal(err)
		}
		res, changed, err := s.Redetect(t.Context())
		if err != nil || changed != (want == given) || changed && res.Address.String() != want {
			t.Errorf("given %s: %s, changed %v, %v", given, res.Address, changed, err)
		}
		if a := c.node("node-1").Annotations[v1.AnnotationNodeIPv4]; a != given {
			t.Errorf("given %s: the Node says %s", given, a)
		}
	}
}
