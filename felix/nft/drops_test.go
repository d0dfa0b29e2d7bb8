package nft

import (
	"fmt"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/manx-cni/manx/felix/state"
	"github.com/manx-cni/manx/internal/family"
)

// TestTally: whatever happens to the rules, a sum never falls and nothing that
// was seen is counted twice.
func TestTally(t *testing.T) {
	rule := func(handle int, comment, counter string) string {
		return fmt.Sprintf(`{"rule": {"chain": "input", "handle": %d, "comment": %q, "expr": [{"match": {}}, %s, {"drop": null}]}}`,
			handle, comment, counter)
	}
	packets := func(n int) string { return fmt.Sprintf(`{"counter": {"packets": %d, "bytes": 1}}`, n) }
	const a, a2, b = "manx:01 a", "manx:02 a", "manx:03 b"
	c := newTally()
	c.expect(state.Table{Chains: []state.Chain{{Rules: []state.Rule{
		{Counted: true, Comment: "a"}, {Counted: true, Comment: "b"}, {Comment: "not counted"},
	}}}})
	for _, step := range []struct {
		what  string
		rules string
		a, b  uint64
	}{
		{"nothing there yet", "", 0, 0},
		{"what was counted before the start", rule(4, a, packets(5)), 5, 0},
		{"looked at again", rule(4, a, packets(5)), 5, 0},
		{"more", rule(4, a, packets(7)) + "," + rule(5, b, packets(1)), 7, 1},
		{"replaced, and more than before", rule(9, a, packets(8)) + "," + rule(5, b, packets(1)), 15, 1},
		{"replaced by another text for the same reason", rule(10, a2, packets(2)), 17, 1},
		{"reset by somebody", rule(10, a2, packets(1)), 18, 1},
		{"two rules for one reason", rule(10, a2, packets(2)) + "," + rule(11, a, packets(2)), 21, 1},
		{"table gone", "", 21, 1},
		{"handles begin anew", rule(4, a, packets(1)), 22, 1},
		{
			"others' rules, and ours without a counter we know",
			rule(6, "hello", packets(9)) + "," + rule(7, a, `{"counter": "named"}`) + "," + rule(8, b, `{"counter": null}`) +
				`, {"rule": {"chain": "input", "handle": 3, "comment": "manx:01 a", "expr": "?"}}`, 22, 1,
		},
	} {
		l, err := parseListing([]byte(`{"nftables": [` + step.rules + `]}`))
		if err != nil {
			t.Fatalf("%s: %v", step.what, err)
		}
		c.look(l)
		want := []state.DropCount{{Reason: "a", Packets: step.a}, {Reason: "b", Packets: step.b}}
		if diff := cmp.Diff(want, c.counts()); diff != "" {
			t.Errorf("%s (-want +got):\n%s", step.what, diff)
		}
	}
}

// TestRenderRefuses: what nft could not say, or would mean something else.
func TestRenderRefuses(t *testing.T) {
	for what, r := range map[string]state.Rule{
		"no verdict":          {InIface: "cali*"},
		"port of no protocol": {DstPort: 4789, Verdict: state.VerdictDrop},
		"port of IPIP":        {Protocol: state.IPIP, DstPort: 4789, Verdict: state.VerdictDrop},
		"reset without TCP":   {Protocol: state.UDP, DstPort: 179, Verdict: state.VerdictReset},
		"counted accept":      {Counted: true, Verdict: state.VerdictAccept},
	} {
		if text, err := render(family.IPv4, r); err == nil {
			t.Errorf("%s: rendered as %q", what, text)
		}
	}
}
