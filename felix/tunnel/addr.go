package tunnel

import (
	"net/netip"
	"slices"

	"github.com/manx-cni/manx/felix/nl"
)

// addrOf is the device's address as it should be.
func addrOf(link nl.Link, ip netip.Addr) nl.Addr {
	return nl.Addr{LinkIndex: link.Index, Prefix: netip.PrefixFrom(ip, ip.BitLen()), Broadcast: ip}
}

// standIn keeps ip local, and the device's routes alive, while the real address
// is deleted and added: the kernel takes it for another address.
func standIn(link nl.Link, ip netip.Addr) nl.Addr {
	return nl.Addr{LinkIndex: link.Index, Prefix: netip.PrefixFrom(ip, ip.BitLen()-1), NoPrefixRoute: true}
}

// ours reports whether an address on the device is one of ours, perhaps out of
// date.
func (d *Driver) ours(a nl.Addr) bool {
	ip := a.Prefix.Addr()
	shape := a.Prefix.IsSingleIP() || a.NoPrefixRoute && a.Prefix.Bits() == ip.BitLen()-1
	return shape && !a.Peer.IsValid() &&
		(d.placed[ip] || slices.ContainsFunc(d.pools, func(p netip.Prefix) bool { return p.Contains(ip) }))
}

// keepAddress gives the device its address and takes obsolete ones away. While
// the address is not known, what is there stays.
func (d *Driver) keepAddress(link nl.Link, addrs []nl.Addr) bool {
	var mine []nl.Addr
	for _, a := range addrs {
		if d.ours(a) || a.Prefix.Addr() == d.want.Addr {
			mine = append(mine, a)
		}
	}
	d.status.Foreign = len(addrs) - len(mine)
	switch {
	case d.want.Addr.IsValid():
	case d.want.Bare && len(mine) > 0:
		return d.bare(link, mine)
	default:
		return true
	}
	want := addrOf(link, d.want.Addr)
	if !slices.Contains(addrs, want) {
		if i := slices.IndexFunc(addrs, func(a nl.Addr) bool { return a.Prefix == want.Prefix && !a.Peer.IsValid() }); i >= 0 {
			stand := standIn(link, d.want.Addr)
			if !slices.Contains(addrs, stand) {
				if !d.addAddr(stand) {
					return false
				}
				addrs = append(addrs, stand)
			}
			if !d.delAddr(addrs[i]) {
				return false
			}
			addrs = slices.Delete(addrs, i, i+1)
		}
		if !d.addAddr(want) {
			return false
		}
		d.cfg.Log.Info("tunnel address set", "dev", d.link.Name, "addr", d.want.Addr)
	}
	clean := true
	for _, a := range addrs {
		if a == want || !d.ours(a) {
			continue
		}
		if !d.delAddr(a) {
			clean = false
		} else if a.Prefix.Addr() != d.want.Addr {
			delete(d.placed, a.Prefix.Addr())
		}
	}
	return clean
}

// bare takes our addresses from a device that is to have none. Foreign routes are not
// worth more than ours, but nobody would write them again.
func (d *Driver) bare(link nl.Link, mine []nl.Addr) bool {
	routes, ok := d.routesOver(link)
	gone := ok && d.strip(mine, d.status.Foreign, routes.foreign)
	if !gone {
		d.again = d.cfg.Now().Add(retryRetire)
	}
	return gone
}

func (d *Driver) addAddr(a nl.Addr) bool {
	if !d.done(d.link.Name, "add address "+a.Prefix.String(), d.cfg.Kernel.AddrAdd(a)) {
		return false
	}
	d.placed[a.Prefix.Addr()] = true
	return true
}

func (d *Driver) delAddr(a nl.Addr) bool {
	return d.done(d.link.Name, "remove address "+a.Prefix.String(), d.cfg.Kernel.AddrDel(a))
}
