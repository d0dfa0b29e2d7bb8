package agent

import (
	"net/netip"
	"slices"
	"testing"
	"time"

	"github.com/manx-cni/manx/bgp"
)

// Sessions of BGPPeers that are lost and that come back are told of, each once in five
// minutes and then as it is; those of the mesh and those that have never been up are not.
func TestSessionEvents(t *testing.T) {
	tor := bgp.Peer{Name: "Global_10_0_0_254", Addr: netip.MustParseAddr("10.0.0.254"), BGPPeer: "tor", AS: 65001}
	mesh := bgp.Peer{Name: "Mesh_10_0_0_2", Addr: netip.MustParseAddr("10.0.0.2"), Node: "b"}
	other := tor
	other.AS = 65002
	const of = "the BGP session Global_10_0_0_254 with 10.0.0.254 (BGPPeer tor)"
	lost, up := "BGPSessionLost: "+of+" is lost: ", "BGPSessionUp: "+of+" is up again"
	var e sessionEvents
	start := time.Unix(1e9, 0)
	for _, step := range []struct {
		name  string
		after time.Duration
		peer  bgp.Peer
		up    bool
		flaps int
		want  []string
	}{
		{"it has never been up", 0, tor, false, 0, nil},
		{"it comes up for the first time", time.Second, tor, true, 0, nil},
		{"it is lost", 2 * time.Second, tor, false, 1, []string{lost + "hold timer expired"}},
		{"it is back within the five minutes", 3 * time.Second, tor, true, 1, nil},
		{"they are over", 6 * time.Minute, tor, true, 1, []string{up}},
		{"it flaps twice", 7 * time.Minute, tor, true, 3, nil},
		{"and once more, unseen", 12 * time.Minute, tor, true, 4,
			[]string{up + "; lost 3 time(s) since the last report, the last time because: hold timer expired"}},
		{"nothing is new", 20 * time.Minute, tor, true, 4, nil},
		{"it is configured anew, and not up", 21 * time.Minute, other, false, 0, nil},
		{"it is up", 22 * time.Minute, other, true, 0, nil},
		{"it is lost", 23 * time.Minute, other, false, 1, []string{lost + "hold timer expired"}},
	} {
		s := bgp.Session{Peer: step.peer, State: bgp.Active, Flaps: step.flaps, LastError: "hold timer expired"}
		if step.up {
			s.State = bgp.Established
		}
		var got []string
		e.look([]bgp.Session{{Peer: mesh, State: bgp.Idle, Flaps: step.flaps}, s}, start.Add(step.after), func(reason, note string) {
			got = append(got, reason+": "+note)
		})
		if !slices.Equal(got, step.want) {
			t.Errorf("%s: %q, want %q", step.name, got, step.want)
		}
	}
	e.look(nil, start, func(reason, note string) { t.Errorf("without sessions: %s %s", reason, note) })
	if len(e.told) != 0 {
		t.Errorf("remembered of sessions that are gone: %v", e.told)
	}
}
