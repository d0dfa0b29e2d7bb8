package rules

import (
	"encoding/json"
	"flag"
	"net/netip"
	"os"
	"path/filepath"
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
		Sources: []netip.Prefix{netip.MustParsePrefix("10.244.0.0/16")},
		Inside:  []netip.Prefix{netip.MustParsePrefix("10.244.0.0/16"), netip.MustParsePrefix("172.20.0.0/16"), netip.MustParsePrefix("2001:db8::/64")},
	}
	nodes := addrs("192.0.2.3", "192.0.2.1", "2001:db8::1", "192.0.2.3", "192.0.2.20")
	return map[string]state.PacketFilter{
		"empty":  {},
		"plain":  {Masquerade: masq, Nodes: nodes},
		"tunnel": {Masquerade: masq, Nodes: nodes, Tunnel: state.TunnelDevice, VXLANPort: 8472},
		"allowed": {
			Masquerade: masq, Nodes: nodes, Tunnel: state.TunnelDevice, AllowIPIPFromPods: true, AllowVXLANFromPods: true,
		},
	}
}

func TestIPv4(t *testing.T) {
	for name, f := range filters() {
		got, err := json.MarshalIndent(IPv4(f), "", " ")
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

// TestConsistent: every set a rule names is there and every set is named, every
// rule says what it does and why, and counts are told apart by the reason.
func TestConsistent(t *testing.T) {
	for name, f := range filters() {
		table := IPv4(f)
		exists, used := map[string]bool{"": true}, map[string]bool{}
		for _, s := range table.Sets {
			exists[s.Name] = true
		}
		reasons := map[string]bool{}
		for _, c := range table.Chains {
			for _, r := range c.Rules {
				for _, set := range []string{r.SrcSet, r.NotSrcSet, r.NotDstSet} {
					used[set] = true
					if !exists[set] {
						t.Errorf("%s: chain %s: rule %+v names a set that does not exist", name, c.Name, r)
					}
				}
				if r.Verdict == "" || r.Comment == "" {
					t.Errorf("%s: chain %s: rule %+v without a verdict or a comment", name, c.Name, r)
				}
				if r.Counted && reasons[r.Comment] {
					t.Errorf("%s: two rules count for the reason %q", name, r.Comment)
				}
				reasons[r.Comment] = reasons[r.Comment] || r.Counted
			}
		}
		for _, s := range table.Sets {
			if !used[s.Name] {
				t.Errorf("%s: no rule names set %s", name, s.Name)
			}
		}
	}
}
