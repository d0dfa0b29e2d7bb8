package ctl

import (
	"bytes"
	"net/netip"
	"testing"

	corev1 "k8s.io/api/core/v1"

	apiv1 "github.com/manx-cni/manx/api/v1"
	"github.com/manx-cni/manx/internal/ipamreport"
	"github.com/manx-cni/manx/internal/status"
	"github.com/manx-cni/manx/ipam/block"
)

const block6 = "fd00:1::40/122"

// newDualCluster is newIPAMCluster whose pods have IPv6 too, from a block of node1:
//
//	fd00:1::41  pod default/web on node1
//	fd00:1::42  pod default/db on node2, borrowed
//	fd00:1::43  pod default/gone on node1, which does not exist
func newDualCluster(t *testing.T) *ipamCluster {
	t.Helper()
	c := newIPAMCluster(t)
	c.claim("node1", block6, func(b *block.Block) {
		c.assign(b, "fd00:1::41", "web", "node1")
		c.assign(b, "fd00:1::42", "db", "node2")
		c.assign(b, "fd00:1::43", "gone", "node1")
	})
	second := map[string]string{"web": "fd00:1::41", "db": "fd00:1::42", "gone": "fd00:1::43"}
	for pod := range second {
		h, err := c.store.Handles.Get(t.Context(), apiv1.HandleName("net."+pod))
		c.must(err)
		h.Spec.Block[block6] = 1
		_, err = c.store.Handles.Update(t.Context(), h)
		c.must(err)
	}
	for _, o := range c.kube {
		if p, ok := o.(*corev1.Pod); ok && second[p.Name] != "" {
			p.Status.PodIPs = append(p.Status.PodIPs, corev1.PodIP{IP: second[p.Name]})
		}
	}
	for _, n := range c.answers {
		for i := range n.Addresses.Interfaces {
			iface := &n.Addresses.Interfaces[i]
			iface.Addrs = append(iface.Addrs, netip.MustParseAddr(second[iface.Pod]))
		}
	}
	return c
}

func TestIPAMShowIPv6(t *testing.T) {
	c := newDualCluster(t)
	c.put(apiv1.PluralIPReservations, "IPReservation", "six", apiv1.IPReservationSpec{ReservedCIDRs: []string{"fd00:1::50/125"}})
	for name, o := range map[string]ipamShowOptions{
		"show-blocks-ipv6": {blocks: true}, "show-borrowed-ipv6": {borrowed: true},
		"show-ip-used-ipv6": {ip: "fd00:1::41"}, "show-ip-free-ipv6": {ip: "fd00:1:0::0050"},
	} {
		t.Run(name, func(t *testing.T) {
			var out bytes.Buffer
			if err := o.run(t.Context(), &out, c.access()); err != nil {
				t.Fatal(err)
			}
			golden(t, "ipam-"+name, out.String())
		})
	}
}

func TestIPAMCheckIPv6(t *testing.T) {
	c := newDualCluster(t)
	var out bytes.Buffer
	err := (&ipamCheckOptions{text: ipamreport.TextOptions{ProblemIPs: true}}).run(t.Context(), &out, c.access())
	wantError(t, err, "found 2 problems")
	golden(t, "ipam-check-ipv6", out.String())
}

// What is released of a handle in one family leaves what it has in the other.
func TestReleaseIPv6(t *testing.T) {
	c := newDualCluster(t)
	out, err := c.release(ipamReleaseOptions{ip: "fd00:1::43"})
	wantError(t, err)
	if want := "Released 1 address; 0 handles removed.\n"; !bytes.HasSuffix([]byte(out), []byte(want)) {
		t.Errorf("%q; want %q", out, want)
	}
	if held := c.block(block6).Held("net.gone"); len(held) > 0 {
		t.Errorf("still assigned: %v", held)
	}
	c.wantHandle("net.gone", map[string]int{blockA: 1})
	if _, err := c.release(ipamReleaseOptions{ip: "10.244.0.3"}); err != nil {
		t.Fatal(err)
	}
	c.wantHandle("net.gone", nil)

	// What is in use is kept, and named.
	_, err = c.release(ipamReleaseOptions{ip: "fd00:1::41"})
	wantError(t, err, "fd00:1::41: pod default/web on node node1")
	c.agent("node1", status.Addresses{
		Interfaces: []status.Interface{{Name: "cali9", Handle: "net.lost", Addrs: []netip.Addr{netip.MustParseAddr("fd00:1::45")}}},
	})
	c.change(block6, func(b *block.Block) { c.assign(b, "fd00:1::45", "lost", "node1") })
	_, err = c.release(ipamReleaseOptions{ip: "fd00:1::45"})
	wantError(t, err, "fd00:1::45: interface cali9 of node node1")
}
