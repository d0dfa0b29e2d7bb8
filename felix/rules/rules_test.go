package rules

import (
	"encoding/json"
	"flag"
	"net/netip"
	"os"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/manx-cni/manx/felix/state"
)

var update = flag.Bool("update", false, "rewrite the golden file")

func TestIPv4(t *testing.T) {
	got, err := json.MarshalIndent(IPv4(state.Masquerade{
		Sources: []netip.Prefix{netip.MustParsePrefix("10.244.0.0/16")},
		Inside:  []netip.Prefix{netip.MustParsePrefix("10.244.0.0/16"), netip.MustParsePrefix("172.20.0.0/16"), netip.MustParsePrefix("2001:db8::/64")},
	}), "", " ")
	if err != nil {
		t.Fatal(err)
	}
	const golden = "testdata/ipv4.golden.json"
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
		t.Errorf("(-want +got):\n%s", diff)
	}
}

// TestSetsExist: every set a rule names is there, whatever the pools.
func TestSetsExist(t *testing.T) {
	table := IPv4(state.Masquerade{})
	sets := map[string]bool{"": true}
	for _, s := range table.Sets {
		sets[s.Name] = true
	}
	for _, c := range table.Chains {
		for _, r := range c.Rules {
			if !sets[r.SrcSet] || !sets[r.NotDstSet] {
				t.Errorf("chain %s: rule %+v names a set that does not exist", c.Name, r)
			}
			if r.Verdict == "" || r.Comment == "" {
				t.Errorf("chain %s: rule %+v without a verdict or a comment", c.Name, r)
			}
		}
	}
}
