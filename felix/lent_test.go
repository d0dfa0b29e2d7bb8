package felix

import (
	"net/netip"
	"strings"
	"testing"

	"github.com/manx-cni/manx/felix/calc"
	"github.com/manx-cni/manx/felix/nl/nltest"
	"github.com/manx-cni/manx/felix/state"
)

// TestLentAddress: an address of our block lives on another node. Packets of our pods
// pass by the block's blackhole and answers come back, also where the kernel checks
// that they come in by the way it would send them. A pod here that has the address
// all the same is not cut off, and does not leave a hole when it goes.
func TestLentAddress(t *testing.T) {
	n := newNode(t)
	ns, ep := n.pod("cali00000000ac1", "c1", "10.244.0.5")
	for _, iface := range []string{uplinkName, ep.Iface} {
		nltest.Run(t, "sysctl", "-qw", "net.ipv4.conf."+iface+".rp_filter=1") // strict
	}
	const borrowed = "10.244.0.7"
	n.outside.Run(t, "ip", "addr", "add", borrowed+"/32", "dev", "lo")
	n.outside.Run(t, "ip", "route", "add", "10.244.0.0/26", "via", "192.0.2.1")
	answers := func() bool {
		_, err := ns.Try("ping", "-n", "-c1", "-W1", borrowed)
		return err == nil
	}

	in := n.input()
	in.Learned = append(in.Learned, calc.Learned{
		Prefix: netip.MustParsePrefix(borrowed + "/32"), NextHops: []netip.Addr{netip.MustParseAddr(outsideAddr)},
	})
	d, _ := n.start(nil)
	set := func() {
		t.Helper()
		in.Generation++
		d.SetState(in)
		nltest.Eventually(t, "the state is applied", func() bool { return d.Status().Applied == in.Generation })
	}
	set()
	if got := routes(t); strings.Contains(got, borrowed) || answers() {
		t.Errorf("followed on a peer's word alone:\n%s", got)
	}
	if c := d.Status().Conditions; len(c) != 1 || c[0].Kind != state.LearnedInsideOwnBlock {
		t.Errorf("conditions: %+v", c)
	}

	in.Lent = map[netip.Addr]netip.Addr{netip.MustParseAddr(borrowed): netip.MustParseAddr(outsideAddr)}
	set()
	lent := func() bool {
		got := routes(t)
		return strings.Contains(got, "blackhole 10.244.0.0/26 proto 70\n") && strings.Contains(got, borrowed+" via 192.0.2.2 dev eth0 proto 70\n")
	}
	if !lent() {
		t.Errorf("no route to the lent address beside the blackhole:\n%s", routes(t))
	}
	if !answers() {
		t.Error("a pod cannot reach an address that its node lends")
	}
	// Who knows only the block sends to us what is for the borrower.
	stranger := nltest.NewNS(t)
	stranger.Veth(t, "eth1", "eth0")
	nltest.Run(t, "ip", "addr", "add", "198.51.100.1/24", "dev", "eth1")
	stranger.Run(t, "ip", "addr", "add", "198.51.100.2/24", "dev", "eth0")
	stranger.Run(t, "ip", "route", "add", "10.244.0.0/26", "via", "198.51.100.1")
	n.outside.Run(t, "ip", "route", "add", "198.51.100.0/24", "via", "192.0.2.1")
	stranger.Reaches(t, borrowed)

	_, twin := n.pod("cali00000000ac2", "c2", borrowed)
	local := func(ep state.Endpoint) bool {
		return strings.Contains(routes(t), borrowed+" dev "+ep.Iface+" proto 70 scope link\n")
	}
	only := func(kind state.ConditionKind, subject string) func() bool {
		return func() bool {
			c := d.Status().Conditions
			return len(c) == 1 && c[0].Kind == kind && c[0].Subject == subject
		}
	}
	if err := d.AddEndpoint(t.Context(), twin); err != nil {
		t.Fatal(err)
	}
	nltest.Eventually(t, "the conflict is reported without a new state", only(state.AddressConflict, borrowed))
	set()
	if !local(twin) {
		t.Errorf("the pod was cut off:\n%s", routes(t))
	}
	if err := d.RemoveEndpoint(t.Context(), twin.Iface, twin.Handle()); err != nil {
		t.Fatal(err)
	}
	nltest.Eventually(t, "the lent address has its route again without a new state", lent)

	// The address comes home: our own pod has it before IPAM's news and the
	// withdrawal are here, then between the two.
	_, pod := n.pod("cali00000000ac3", "c3", borrowed)
	if err := d.AddEndpoint(t.Context(), pod); err != nil {
		t.Fatal(err)
	}
	in.Lent = nil
	set()
	if !local(pod) || !only(state.LearnedInsideOwnBlock, borrowed+"/32")() {
		t.Errorf("our own pod has no route, or nothing is said of the announcement:\n%s%+v", routes(t), d.Status().Conditions)
	}
	in.Learned = in.Learned[:len(in.Learned)-1]
	set()
	if c := d.Status().Conditions; !local(pod) || len(c) != 0 {
		t.Errorf("after the withdrawal:\n%s%+v", routes(t), c)
	}
}
