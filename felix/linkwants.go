package felix

import (
	"slices"

	"github.com/manx-cni/manx/felix/iface"
	"github.com/manx-cni/manx/felix/linkconf"
	"github.com/manx-cni/manx/felix/nl"
	"github.com/manx-cni/manx/felix/state"
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
		out = append(out, linkconf.Value{Setting: nl.Forwarding, Want: 1}, linkconf.Value{Setting: nl.ProxyARP, Want: 1}, linkconf.Value{Setting: nl.RouteLocalnet, Want: 1})
	}
	if !has6 {
		return append(out, linkconf.Value{Setting: nl.DisableIPv6, Want: 1})
	}
	return append(out, linkconf.Value{Setting: nl.DisableIPv6, Want: 0}, linkconf.Value{Setting: nl.Forwarding6, Want: 1}, linkconf.Value{Setting: nl.ProxyNDP6, Want: 1})
}

// outerLinks are the links by which packets come from other nodes: the uplink, or those
// that lead to the nodes when no packet comes by it, and the tunnel while it is wanted.
func (d *Dataplane) outerLinks() (out []string) {
	if name := d.input.Uplink.Name; name != "" && !d.inner.on {
		out = append(out, name)
	}
	out = append(out, d.inner.names...)
	if d.input.Tunnel != nil {
		out = append(out, state.TunnelDevice)
	}
	return out
}

// takeSettings has the settings looked at that may have changed.
func (d *Dataplane) takeSettings(c iface.Changes, set map[int]bool) {
	if set[nl.AllLinks] {
		d.linkconf.QueueResync()
		d.capabilities = nil // net.ipv4.ip_forward, or IPv6's, is told there
	}
	indexes := d.endpoints.Indexes()
	known := func(index int) bool {
		return indexes[index] || index == d.uplinkIndex || d.inner.links[index] || index == d.tunnel.Index()
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
	if slices.Equal(now, d.outer) {
		return false
	}
	d.outer = now
	return true
}
