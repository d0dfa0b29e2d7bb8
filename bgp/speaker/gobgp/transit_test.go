package gobgp_test

import (
	"net/netip"
	"slices"
	"testing"
	"time"

	gobgp "github.com/osrg/gobgp/v4/pkg/packet/bgp"

	"github.com/manx-cni/manx/bgp"
)

// A peer whose AS changes gets a new session and loses what it sent in the old one;
// and as a peer of another AS it hears of our blocks alone: a node is no transit.
func TestPeerChangesAS(t *testing.T) {
	t.Parallel()
	const otherAS = 65010
	f := newFabric(t, "a", "b", "raw")
	a := f.start(f.spec("a"))
	f.start(f.spec("b"))
	learned := func() bool { return a.has(f.block("raw"), f.addr("raw")) }
	p := f.peer("raw", "a", clusterAS, capabilities(clusterAS, false))
	p.announce(f.addr("raw"), f.block("raw"))
	wait(t, 20*time.Second, "both blocks are learned", func() bool { return learned() && a.has(f.block("b"), f.addr("b")) })

	f.nodes["raw"] = member{Addr: f.addr("raw"), AS: otherAS}
	a.set(f.spec("a"))
	wait(t, 10*time.Second, "the old session and its path are gone", func() bool {
		_, _, err := p.heard()
		return err != nil && !learned()
	})
	p = f.peer("raw", "a", otherAS, capabilities(otherAS, false))
	nh, err := gobgp.NewPathAttributeNextHop(f.addr("raw"))
	if err != nil {
		t.Fatal(err)
	}
	p.send(gobgp.NewBGPUpdateMessage(nil, []gobgp.PathAttributeInterface{
		gobgp.NewPathAttributeOrigin(0), nh,
		gobgp.NewPathAttributeAsPath([]gobgp.AsPathParamInterface{gobgp.NewAs4PathParam(gobgp.BGP_ASPATH_ATTR_TYPE_SEQ, []uint32{otherAS})}),
	}, p.nlri([]netip.Prefix{f.block("raw")})))
	wait(t, 20*time.Second, "the block is learned from the new session", learned)
	wait(t, 10*time.Second, "End-of-RIB", func() bool {
		updates, _, _ := p.heard()
		return slices.ContainsFunc(updates, isEndOfRIB)
	})
	updates, _, _ := p.heard()
	var heard []string
	for _, u := range updates {
		for _, n := range u.NLRI {
			heard = append(heard, n.NLRI.String())
		}
	}
	if want := []string{f.block("a").String()}; !slices.Equal(heard, want) {
		t.Errorf("a peer of another AS hears of %v, want %v", heard, want)
	}
	if x := a.report().Sessions["b"]; x.State != bgp.Established || x.Flaps != 0 {
		t.Errorf("the session with b suffered: %+v", x)
	}
}
