package endpoint_test

import (
	"net/netip"
	"testing"

	"github.com/manx-cni/manx/felix/nl"
	"github.com/manx-cni/manx/felix/nl/nltest"
	"github.com/manx-cni/manx/felix/state"
)

// TestSourceCheck: pods' interfaces have their rp_filter on, those that ran before and
// those that come, and have it on again; what is not ours is left alone.
func TestSourceCheck(t *testing.T) {
	w := newWorld(t)
	a, b := ep("cali1", "a", "10.0.0.1"), ep("cali2", "b", "10.0.0.2")
	w.ipam[a.Handle()] = a.Addrs
	index := w.link(a).Index
	w.AddLink(nl.Link{Name: "cali9", Alias: "wl-1"})
	w.AddLink(nl.Link{Name: "eth0", Alias: a.Alias()})
	w.AddLink(nl.Link{Name: "cali3", Alias: ep("cali3", "c").Alias()}) // without an address
	w.AddLink(nl.Link{Name: "cali4", Alias: ep("cali4", "d").Alias(), RPFilter: nl.RPFilterLoose})
	w.ipam["k8s-pod-network.d"] = []netip.Addr{netip.MustParseAddr("10.0.0.4")}
	check := func(when string, want map[string]int) {
		t.Helper()
		for name, mode := range want {
			if l, err := w.LinkByName(name); err != nil || l.RPFilter != mode {
				t.Errorf("%s: rp_filter of %s is %d (%v), want %d", when, name, l.RPFilter, err, mode)
			}
		}
	}
	w.readBack(t)
	check("read back", map[string]int{"cali1": 1, "cali9": 0, "eth0": 0, "cali3": 1, "cali4": 2})
	w.link(b)
	if _, _, err := w.d.Add(b); err != nil {
		t.Fatal(err)
	}
	check("added", map[string]int{"cali2": 1})

	w.SetRPFilter("cali1", 0)
	w.d.RPFilterSet(map[int]bool{index: true, nl.AllLinks: true, 999: true})
	check("turned off by another program", map[string]int{"cali1": 1})
	w.TakeLog()
	w.d.RPFilterSet(map[int]bool{index: true})
	w.readBack(t)
	if log := w.TakeLog(); len(log) != 0 {
		t.Errorf("nothing was to do: %q", log)
	}

	// A refusal is a condition and holds up nothing; a new pod is not let in.
	w.SetRPFilter("cali1", 0)
	w.FailWith(func(op nltest.Op, _ string) error {
		if op == nltest.OpLinkSetRPFilter {
			return errNo
		}
		return nil
	})
	w.ipam["k8s-pod-network.c"] = []netip.Addr{netip.MustParseAddr("10.0.0.3")}
	if added, _ := w.readBack(t); len(added) != 1 {
		t.Errorf("added: %v", added)
	}
	if conds := w.d.Conditions(); len(conds) != 1 || conds[0].Kind != state.SourceUnchecked || conds[0].Subject != "cali1" {
		t.Errorf("conditions: %+v", conds)
	}
	c := ep("cali5", "e", "10.0.0.5")
	w.link(c)
	if _, _, err := w.d.Add(c); err == nil {
		t.Error("a pod was let in without a check of its source")
	}
	w.FailWith(nil)
	w.readBack(t)
	check("in the end", map[string]int{"cali1": 1, "cali5": 1})
	if conds := w.d.Conditions(); len(conds) != 1 || conds[0].Kind != state.EndpointWithoutAddress || conds[0].Subject != "cali5" {
		t.Errorf("conditions in the end: %+v", conds)
	}
}
