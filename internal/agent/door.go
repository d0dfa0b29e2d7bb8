package agent

import (
	"cmp"
	"net/netip"
	"slices"

	"github.com/manx-cni/manx/bgp"
	"github.com/manx-cni/manx/bgp/speaker"
	"github.com/manx-cni/manx/felix/state"
)

// door keeps the packet filter, which lets the speaker's peers in, and the speaker in step:
// a peer is let in before the speaker expects it, and for as long as the speaker may have
// a session with it. The steering loop owns it.
type door struct {
	// wanted is what the speaker is to be.
	wanted speaker.Desired
	// open are the peers that the packet filter was told of, with those that are to go.
	open state.BGPPort
	// told are the peers that the speaker was told of; nil before the first time.
	told map[netip.Addr]bool
	// waiting are the peers that the speaker is not told of yet, leaving says that some are
	// in open that it was told to let go.
	waiting []netip.Addr
	leaving bool
}

// want takes what the speaker is to be, and returns whom the packet filter must let in.
func (d *door) want(s speaker.Desired) state.BGPPort {
	d.wanted, d.leaving = s, false
	port := state.BGPPort{Port: s.Global.ListenPort}
	for _, a := range []netip.Addr{s.Global.ListenAddr, s.Global.ListenAddr6} {
		if a.IsValid() {
			port.Listen = append(port.Listen, a)
		}
	}
	wanted := make(map[netip.Addr]bool, len(s.Peers))
	for _, p := range s.Peers {
		wanted[p.Addr] = true
		port.Peers = append(port.Peers, netip.AddrPortFrom(p.Addr, cmp.Or(p.Port, bgp.DefaultPort)))
	}
	for _, p := range d.open.Peers {
		if d.told[p.Addr()] && !wanted[p.Addr()] {
			port.Peers, d.leaving = append(port.Peers, p), true
		}
	}
	slices.SortFunc(port.Peers, netip.AddrPort.Compare)
	d.open = port
	return port
}

// admit returns what the speaker is to be told now: without the new peers that the packet
// filter does not let in yet. The first time all of them are in it, or the speaker would
// take the others for peers that know nothing of it.
func (d *door) admit(letsIn func(netip.Addr) bool) speaker.Desired {
	first := d.told == nil
	before := d.told
	d.told, d.waiting = make(map[netip.Addr]bool, len(d.wanted.Peers)), nil
	s := d.wanted
	s.Peers = make([]bgp.Peer, 0, len(d.wanted.Peers))
	for _, p := range d.wanted.Peers {
		if !first && !before[p.Addr] && !letsIn(p.Addr) {
			d.waiting = append(d.waiting, p.Addr)
			continue
		}
		d.told[p.Addr] = true
		s.Peers = append(s.Peers, p)
	}
	return s
}

// lags reports whether there is more to tell: a peer is let in by now, or one is to be let
// in no longer.
func (d *door) lags(letsIn func(netip.Addr) bool) bool {
	return d.leaving || slices.ContainsFunc(d.waiting, letsIn)
}
