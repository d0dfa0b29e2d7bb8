package felix

import (
	"errors"
	"maps"
	"slices"

	"github.com/manx-cni/manx/felix/iface"
	"github.com/manx-cni/manx/felix/linkconf"
	"github.com/manx-cni/manx/felix/nl"
	"github.com/manx-cni/manx/felix/state"
	"github.com/manx-cni/manx/internal/family"
)

// linkWants is what the links should be that pods' packets pass: those by which packets
// come from other nodes, and the pods' own, as the plugin has set them
// (cni-plugin/veth.hostSysctls).
func (d *Dataplane) linkWants() []linkconf.Want {
	forwards := []linkconf.Value{{Setting: nl.Forwarding, Want: 1}}
	var out []linkconf.Want
	for _, name := range d.outerLinks() {
		out = append(out, linkconf.Want{Name: name, Values: forwards})
	}
	if d.under.advertised {
		out = append(out, linkconf.Want{Name: d.host.Uplinks[family.IPv6].Name, Values: []linkconf.Value{{Setting: nl.AcceptRA6, Want: 2}}})
	}
	for _, ep := range d.endpoints.All() {
		out = append(out, linkconf.Want{Name: ep.Iface, Values: podSettings(ep), Alias: ep.Alias()})
	}
	for name, alias := range d.endpoints.Down() { // its settings follow when it is an endpoint again
		out = append(out, linkconf.Want{Name: name, Alias: alias})
	}
	return out
}

// podSettings are those of a pod's interface on the node.
func podSettings(ep state.Endpoint) []linkconf.Value {
	out := []linkconf.Value{{Setting: nl.AcceptRA6, Want: 0}}
	has4, has6 := false, false
	for _, a := range ep.Addrs {
		has4, has6 = has4 || a.Is4(), has6 || state.Is6(a)
	}
	if has4 {
		out = append(out, linkconf.Value{Setting: nl.Forwarding, Want: 1}, linkconf.Value{Setting: nl.ProxyARP, Want: 1})
	}
	if !has6 {
		return append(out, linkconf.Value{Setting: nl.DisableIPv6, Want: 1})
	}
	return append(out, linkconf.Value{Setting: nl.DisableIPv6, Want: 0},
		linkconf.Value{Setting: nl.Forwarding6, Want: 1}, linkconf.Value{Setting: nl.ProxyNDP6, Want: 1})
}

// outerLinks are the links by which packets come from other nodes: the uplink, or those
// that lead to the nodes when no packet comes by it, and the tunnel while it is wanted.
func (d *Dataplane) outerLinks() (out []string) {
	if name := d.host.Uplinks[family.IPv4].Name; name != "" && !d.under.inner.on {
		out = append(out, name)
	}
	out = append(out, d.under.inner.names...)
	for _, e := range slices.Sorted(maps.Keys(d.state.Tunnels)) {
		out = append(out, d.state.Tunnels[e].Name)
	}
	return out
}

// protocolRA is RTPROT_RA: routes that the kernel has from router advertisements.
const protocolRA = 9

// lookAdvertised finds out whether the uplink of the IPv6 address lives on router
// advertisements and does not listen to them any longer: a router, which every node is,
// does so only with accept_ra=2 (ip-sysctl.rst), as init-host sets it. Its routes go when
// their time is up.
func (d *Dataplane) lookAdvertised() error {
	d.under.advertised = false
	name := d.host.Uplinks[family.IPv6].Name
	if name == "" {
		return nil
	}
	link, err := d.kernel.LinkByName(name)
	if errors.Is(err, nl.ErrNotFound) {
		return nil
	}
	if v, known := link.Settings.Get(nl.AcceptRA6); err != nil || !known || v != 1 {
		return err
	}
	return d.kernel.Routes(state.MainTable, func(r nl.Route) {
		d.under.advertised = d.under.advertised || r.Protocol == protocolRA && r.Dst.Addr().Is6() && r.Over(link.Index)
	})
}

// takeSettings has the settings looked at that may have changed.
func (d *Dataplane) takeSettings(c iface.Changes, set map[int]bool) {
	if set[nl.AllLinks] {
		d.linkconf.QueueResync()
		d.features.found = nil // net.ipv4.ip_forward, or IPv6's, is told there
	}
	indexes := d.endpoints.Indexes()
	known := func(index int) bool {
		return indexes[index] || index == d.under.index[family.IPv4] || d.under.inner.links[index] || index == d.tunnel.Index()
	}
	for index := range set {
		if known(index) {
			d.linkconf.Touch(index)
		}
	}
	for index, l := range c.Links {
		if known(index) && !l.Gone {
			d.linkconf.Touch(index)
		}
	}
}

// outerChanged reports whether other links than before are looked after.
func (d *Dataplane) outerChanged() bool {
	now := d.outerLinks()
	if slices.Equal(now, d.under.outer) {
		return false
	}
	d.under.outer = now
	return true
}
