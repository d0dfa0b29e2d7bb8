package agent

import (
	"encoding/json"
	"net/netip"
	"testing"

	"github.com/manx-cni/manx/bgp"
	"github.com/manx-cni/manx/felix/state"
)

// What manxctl ipam check reads: names of fields are part of it, and lists are never null.
func TestAddresses(t *testing.T) {
	addr := netip.MustParseAddr("10.244.0.5")
	for name, tc := range map[string]struct {
		endpoints []state.Endpoint
		learned   []bgp.Learned
		want      string
	}{
		"nothing": {want: `{"interfaces":[],"learned":[],"converged":true}`},
		"some": {
			[]state.Endpoint{{Iface: "cali1", Network: "net", ContainerID: "c", Namespace: "default", Pod: "web", Addrs: []netip.Addr{addr}}},
			[]bgp.Learned{{Prefix: netip.MustParsePrefix("10.244.1.0/26"), NextHops: []netip.Addr{netip.MustParseAddr("192.0.2.2")}}},
			`{"interfaces":[{"name":"cali1","handle":"net.c","namespace":"default","pod":"web","addrs":["10.244.0.5"]}],` +
				`"learned":[{"prefix":"10.244.1.0/26","nextHops":["192.0.2.2"]}],"converged":true}`,
		},
	} {
		t.Run(name, func(t *testing.T) {
			got, err := json.Marshal(addressesOf(tc.endpoints, tc.learned, true))
			if err != nil || string(got) != tc.want {
				t.Errorf("%v\n%s\nwant\n%s", err, got, tc.want)
			}
		})
	}
}
