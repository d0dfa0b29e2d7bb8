package agent

import (
	"fmt"
	"net/netip"
	"slices"
	"testing"

	"github.com/manx-cni/manx/bgp"
	"github.com/manx-cni/manx/bgp/speaker"
)

// TestDoor: the packet filter is told of a peer before the speaker, and forgets it after.
func TestDoor(t *testing.T) {
	desired := func(peers ...string) speaker.Desired {
		d := speaker.Desired{Global: bgp.Global{
			ListenAddr: netip.MustParseAddr("192.0.2.1"), ListenAddr6: netip.MustParseAddr("2001:db8::1"), ListenPort: 179,
		}}
		for _, p := range peers {
			d.Peers = append(d.Peers, bgp.Peer{Addr: netip.MustParseAddr(p), Port: 179})
		}
		return d
	}
	var d door
	in := map[string]bool{}
	letsIn := func(a netip.Addr) bool { return in[a.String()] }
	for i, step := range []struct {
		want    []string // of the speaker
		in      []string // by the packet filter, when the speaker is told
		filter  string
		speaker string
		lags    bool
	}{
		{[]string{"192.0.2.2", "2001:db8::2"}, nil, "192.0.2.2 2001:db8::2", "192.0.2.2 2001:db8::2", false}, // the first time
		{[]string{"192.0.2.2", "2001:db8::2", "192.0.2.3"}, []string{"192.0.2.2"},
			"192.0.2.2 192.0.2.3 2001:db8::2", "192.0.2.2 2001:db8::2", false},
		{[]string{"192.0.2.2", "2001:db8::2", "192.0.2.3"}, []string{"192.0.2.3"}, // a peer that has a session keeps it
			"192.0.2.2 192.0.2.3 2001:db8::2", "192.0.2.2 2001:db8::2 192.0.2.3", false},
		{[]string{"192.0.2.2"}, nil, "192.0.2.2 192.0.2.3 2001:db8::2", "192.0.2.2", true},
		{[]string{"192.0.2.2"}, nil, "192.0.2.2", "192.0.2.2", false},
		{[]string{"192.0.2.4"}, nil, "192.0.2.2 192.0.2.4", "", true},
		{nil, nil, "", "", false}, // one that was never let in leaves nothing
	} {
		port := d.want(desired(step.want...))
		if !slices.Equal(port.Listen, []netip.Addr{netip.MustParseAddr("192.0.2.1"), netip.MustParseAddr("2001:db8::1")}) || port.Port != 179 {
			t.Errorf("%d: listens at %v port %d", i, port.Listen, port.Port)
		}
		clear(in)
		for _, a := range step.in {
			in[a] = true
		}
		told := d.admit(letsIn)
		var filter, speaker string
		for _, p := range port.Peers {
			filter += " " + p.Addr().String()
		}
		for _, p := range told.Peers {
			speaker += " " + p.Addr.String()
		}
		got := fmt.Sprintf("filter%s, speaker%s, lags %t", filter, speaker, d.lags(letsIn))
		space := func(s string) string {
			if s == "" {
				return ""
			}
			return " " + s
		}
		if want := fmt.Sprintf("filter%s, speaker%s, lags %t", space(step.filter), space(step.speaker), step.lags); got != want {
			t.Errorf("%d: %s\nwant %s", i, got, want)
		}
	}
	d.want(desired("192.0.2.9"))
	d.admit(letsIn)
	if in["192.0.2.9"] = true; !d.lags(letsIn) {
		t.Error("a peer is let in, and there is nothing to tell")
	}
}
