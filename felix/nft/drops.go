package nft

import (
	"encoding/json"
	"maps"
	"slices"

	"github.com/manx-cni/manx/felix/state"
)

// tally adds up what counted rules drop. The kernel's counters live and die
// with their rule, which is replaced now and then: the sum must not fall then.
type tally struct {
	total map[string]uint64 // by reason, everything ever seen
	last  map[counterKey]uint64
}

// counterKey tells a rule from the one that takes its place: the kernel gives
// every rule of a table another handle, but begins anew with a new table.
type counterKey struct {
	handle  uint64
	comment string
}

func newTally() tally { return tally{total: map[string]uint64{}, last: map[counterKey]uint64{}} }

// expect has the table's counted rules reported before they have dropped anything.
func (c *tally) expect(t state.Table) {
	for _, chain := range t.Chains {
		for _, r := range chain.Rules {
			if r.Counted {
				c.total[r.Comment] += 0
			}
		}
	}
}

// look takes the counters of a listing of our table.
func (c *tally) look(l listing) {
	now := map[counterKey]uint64{}
	for _, o := range l.Objects {
		if o.Rule == nil {
			continue
		}
		reason, ours := reasonOf(o.Rule.Comment)
		if !ours {
			continue
		}
		packets, counted := packetsOf(o.Rule.Expr)
		if !counted {
			continue
		}
		key := counterKey{o.Rule.Handle, o.Rule.Comment}
		now[key] = packets
		if last := c.last[key]; packets >= last {
			c.total[reason] += packets - last
		} else {
			c.total[reason] += packets // somebody has reset it
		}
	}
	c.last = now
}

func (c *tally) counts() []state.DropCount {
	out := make([]state.DropCount, 0, len(c.total))
	for _, reason := range slices.Sorted(maps.Keys(c.total)) {
		out = append(out, state.DropCount{Reason: reason, Packets: c.total[reason]})
	}
	return out
}

// packetsOf finds the counter among a rule's statements:
// [{"match": …}, {"counter": {"packets": 7, "bytes": 588}}, {"drop": null}].
func packetsOf(expr json.RawMessage) (packets uint64, ok bool) {
	var statements []map[string]json.RawMessage
	if json.Unmarshal(expr, &statements) != nil {
		return 0, false
	}
	for _, s := range statements {
		var counter *struct {
			Packets uint64 `json:"packets"`
		}
		if raw, has := s["counter"]; has && json.Unmarshal(raw, &counter) == nil && counter != nil {
			return counter.Packets, true
		}
	}
	return 0, false
}
