package hostile_test

import (
	"net/netip"
	"testing"

	"github.com/osrg/gobgp/v4/pkg/packet/bgp"

	"github.com/manx-cni/manx/test/hostile"
)

// What is made by hand is what the packet package reads.
func TestMessages(t *testing.T) {
	hop := netip.MustParseAddr("192.0.2.1")
	prefixes := hostile.Blocks(netip.MustParseAddr("10.244.0.0"), 26, 3120)
	var announced, withdrawn int
	for _, m := range hostile.Announce(hostile.Attributes(hop, 64513), prefixes...) {
		announced += len(parse(t, m).(*bgp.BGPUpdate).NLRI)
	}
	for _, m := range hostile.Withdraw(prefixes...) {
		withdrawn += len(parse(t, m).(*bgp.BGPUpdate).WithdrawnRoutes)
	}
	if announced != 3120 || withdrawn != 3120 || prefixes[4].String() != "10.244.1.0/26" {
		t.Errorf("%d announced, %d withdrawn, the fifth is %s", announced, withdrawn, prefixes[4])
	}
	if is, _ := parse(t, hostile.EndOfRIB()).(*bgp.BGPUpdate).IsEndOfRib(); !is {
		t.Error("the End-of-RIB is none")
	}
	if r := parse(t, hostile.Refresh()).(*bgp.BGPRouteRefresh); r.AFI != bgp.AFI_IP || r.SAFI != bgp.SAFI_UNICAST {
		t.Errorf("%+v", r)
	}
	for _, size := range []int{hostile.MaxMessage, hostile.MaxExtendedMessage} {
		for _, attributes := range [][]byte{hostile.Large(hop, size, 7), hostile.ManyCommunities(hop, size, 7)} {
			m := hostile.Announce(attributes, prefixes[0])[0]
			if len(m) > size || len(m) < size-12 {
				t.Errorf("%d bytes, want %d", len(m), size)
			}
			if u := parse(t, m).(*bgp.BGPUpdate); len(u.NLRI) != 1 || len(u.PathAttributes) != 5 {
				t.Errorf("%d prefixes, %d attributes", len(u.NLRI), len(u.PathAttributes))
			}
		}
	}
}

func parse(t *testing.T, b []byte) bgp.BGPBody {
	t.Helper()
	m, err := bgp.ParseBGPMessage(b, &bgp.MarshallingOption{ExtendedMessage: true})
	if err != nil {
		t.Fatal(err)
	}
	return m.Body
}
