package rules

import (
	"encoding/json"
	"flag"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/manx-cni/manx/felix/state"
)

var update = flag.Bool("update", false, "rewrite the golden files")

func addrs(in ...string) []netip.Addr {
	var out []netip.Addr
	for _, a := range in {
		out = append(out, netip.MustParseAddr(a))
	}
	return out
}

// filters are the shapes the packet filter takes.
func filters() map[string]state.PacketFilter {
	masq := state.Masquerade{
		Sources: []netip.Prefix{netip.MustParsePrefix("10.244.0.0/16"), netip.MustParsePrefix("2001:db8::/64")},
		Inside: []netip.Prefix{
			netip.MustParsePrefix("10.244.0.0/16"), netip.MustParsePrefix("172.20.0.0/16"),
			netip.MustParsePrefix("2001:db8::/64"), netip.MustParsePrefix("fd00::/8"),
		},
	}
	nodes := addrs("192.0.2.3", "192.0.2.1", "2001:db8::1", "192.0.2.3", "192.0.2.20")
	return map[string]state.PacketFilter{
		"empty":  {},
		"plain":  {Masquerade: masq, Nodes: nodes},
		"tunnel": {Masquerade: masq, Nodes: nodes, Tunnels: map[state.Encap]string{state.EncapIPIP: state.TunnelDevice}, VXLANPort: 8472},
		"services": {Masquerade: masq, Nodes: nodes, Services: []netip.Prefix{
			netip.MustParsePrefix("10.96.0.0/12"), netip.MustParsePrefix("198.51.100.7/32"), netip.MustParsePrefix("fd96::/112"),
		}},
		"bgp": {Masquerade: masq, Nodes: nodes, BGP: state.BGPPort{
			Listen: addrs("192.0.2.1", "2001:db8::1"), Port: 1179,
			Peers: []netip.AddrPort{
				netip.MustParseAddrPort("192.0.2.3:1179"), netip.MustParseAddrPort("192.0.2.20:1179"),
				netip.MustParseAddrPort("203.0.113.1:179"), netip.MustParseAddrPort("[2001:db8::3]:1179"),
			},
		}},
		"bgp-no-peer":   {Masquerade: masq, BGP: state.BGPPort{Listen: addrs("192.0.2.1"), Port: 179}},
		"allowed-plain": {Masquerade: masq, Nodes: nodes, AllowIPIPFromPods: true, AllowVXLANFromPods: true},
		"allowed": {
			Masquerade: masq, Nodes: nodes, Tunnels: map[state.Encap]string{state.EncapIPIP: state.TunnelDevice},
			AllowIPIPFromPods: true, AllowVXLANFromPods: true,
		},
	}
}

// tables renders every shape for both families.
func tables() map[string]state.Table {
	out := map[string]state.Table{}
	for name, f := range filters() {
		out[name], out[name+"6"] = IPv4(f), IPv6(f)
	}
	return out
}

func TestGolden(t *testing.T) {
	for name, table := range tables() {
		got, err := json.MarshalIndent(table, "", " ")
		if err != nil {
			t.Fatal(err)
		}
		golden := filepath.Join("testdata", name+".golden.json")
		if *update {
			if err := os.WriteFile(golden, append(got, '\n'), 0o644); err != nil {
				t.Fatal(err)
			}
		}
		want, err := os.ReadFile(golden)
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(string(want), string(got)+"\n"); diff != "" {
			t.Errorf("%s (-want +got):\n%s", name, diff)
		}
	}
}

// TestNoTunnelInIPv6: neither the tunnel nor its nodes are IPv6's business, and no
// set has an address of the other family.
func TestNoTunnelInIPv6(t *testing.T) {
	all := filters()
	plain, tunnel := IPv6(all["plain"]), all["tunnel"]
	tunnel.VXLANPort = 0
	if diff := cmp.Diff(plain, IPv6(tunnel), cmp.Comparer(state.Table.Equal)); diff != "" {
		t.Errorf("(-without +with a tunnel):\n%s", diff)
	}
	for name, table := range tables() {
		for _, s := range table.Sets {
			for _, p := range s.Prefixes {
				if p.Addr().Is6() != strings.HasSuffix(name, "6") {
					t.Errorf("%s: set %s has %s", name, s.Name, p)
				}
			}
		}
	}
}

// TestConsistent: every set a rule names is there and every set is named, every
// rule says what it does and why, and counts are told apart by the reason.
func TestConsistent(t *testing.T) {
	for name, table := range tables() {
		exists, used := map[string]bool{"": true}, map[string]bool{}
		for _, s := range table.Sets {
			exists[s.Name] = true
		}
		reasons := map[string]state.Rule{}
		for _, c := range table.Chains {
			for _, r := range c.Rules {
				for _, set := range []string{r.SrcSet, r.DstSet, r.NotSrcSet, r.NotDstSet} {
					used[set] = true
					if !exists[set] {
						t.Errorf("%s: chain %s: rule %+v names a set that does not exist", name, c.Name, r)
					}
				}
				if r.Verdict == "" || r.Comment == "" {
					t.Errorf("%s: chain %s: rule %+v without a verdict or a comment", name, c.Name, r)
				}
				if !r.Counted {
					continue
				}
				other, twice := reasons[r.Comment]
				if other.DstPort = r.DstPort; twice && other != r { // ports are one reason
					t.Errorf("%s: two rules count for the reason %q", name, r.Comment)
				}
				reasons[r.Comment] = r
			}
		}
		for _, s := range table.Sets {
			if !used[s.Name] {
				t.Errorf("%s: no rule names set %s", name, s.Name)
			}
		}
	}
}
