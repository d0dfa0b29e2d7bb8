package agent

import (
	"net/netip"
	"strings"
	"testing"

	"github.com/manx-cni/manx/bgp"
	"github.com/manx-cni/manx/felix/state"
)

// A peer that is shut out is a condition for as long as it is, and an Event each time.
func TestShutOutIsTold(t *testing.T) {
	mesh := bgp.Session{Peer: bgp.Peer{Name: "Mesh_10_0_0_2", Addr: netip.MustParseAddr("10.0.0.2"), Node: "b"}, State: bgp.Established}
	tor := bgp.Session{State: bgp.Established,
		Peer: bgp.Peer{Name: "Global_10_0_0_254", Addr: netip.MustParseAddr("10.0.0.254"), BGPPeer: "tor"}}
	var e shutOutEvents
	look := func(sessions ...bgp.Session) (told []string) {
		e.look(sessions, func(reason, note string) { told = append(told, reason+": "+note) })
		return told
	}
	if got := look(mesh, tor); got != nil || len(peerConditions([]bgp.Session{mesh, tor}, nil)) != 0 {
		t.Errorf("%q of peers that are good", got)
	}
	mesh.State, mesh.OverLimit, mesh.ShutOuts, mesh.LastError = bgp.Idle, true, 1, "it asked for all routes 31 times; shut out for 1m0s"
	const want = "BGP session Mesh_10_0_0_2 with node b"
	got := look(mesh, tor)
	if len(got) != 1 || got[0] != "BGPPeerShutOut: the "+want+" is closed: "+mesh.LastError {
		t.Errorf("%q", got)
	}
	if c := peerConditions([]bgp.Session{mesh, tor}, nil); len(c) != 1 || c[0] != (state.Condition{
		Kind: state.BGPPeerShutOut, Subject: want, Message: mesh.LastError,
	}) {
		t.Errorf("%+v", c)
	}
	if got := look(mesh, tor); got != nil {
		t.Errorf("told again: %q", got)
	}
	mesh.OverLimit = false
	if got := look(mesh, tor); got != nil || len(peerConditions([]bgp.Session{mesh, tor}, nil)) != 0 {
		t.Errorf("%q when it is in again", got)
	}
	mesh.OverLimit, mesh.ShutOuts = true, 2
	tor.OverLimit, tor.ShutOuts = true, 1
	if got := look(mesh, tor); len(got) != 2 || !strings.Contains(got[1], "Global_10_0_0_254 with 10.0.0.254 (BGPPeer tor)") {
		t.Errorf("%q", got)
	}
}
