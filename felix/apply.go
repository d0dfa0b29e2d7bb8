package felix

import (
	"context"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"time"

	"github.com/manx-cni/manx/felix/calc"
	"github.com/manx-cni/manx/felix/caps"
	"github.com/manx-cni/manx/felix/iface"
	"github.com/manx-cni/manx/felix/nl"
	"github.com/manx-cni/manx/felix/rules"
	"github.com/manx-cni/manx/felix/state"
	"github.com/manx-cni/manx/internal/family"
)

// apply is one round of the loop: look, calculate, write. An error means that
// something is pending and another round is wanted.
func (d *Dataplane) apply(ctx context.Context) error {
	if in := d.mailbox.take(); in != nil {
		d.takeState(*in)
	}
	if !d.haveState {
		return nil // events are kept until somebody has said what is wanted
	}
	changes := d.watcher.Take()
	d.takeChanges(changes)
	rpFilters, settings := d.rpSet.take()
	d.takeRPFilters(rpFilters)
	d.takeSettings(changes, settings)
	if time.Since(d.lastRefresh) >= d.cfg.Refresh {
		d.refresh()
	}
	err := d.lookAndWrite(ctx)
	d.applies++
	if err != nil && ctx.Err() == nil {
		d.failedApplies++
	}
	if d.lastRefresh.IsZero() || len(d.features.found) == 0 {
		d.lastRefresh = time.Now()
		d.probe()
	}
	d.publish()
	return err
}

func (d *Dataplane) takeState(in State) {
	if !d.haveState || in.Node.IPv4.Addr() != d.state.Node.IPv4.Addr() ||
		d.under.inner.on && !slices.Equal(in.Nodes, d.state.Nodes) { // other links may lead to them
		d.look.uplinks[family.IPv4] = true
	}
	if in.Node.IPv6.Addr() != d.state.Node.IPv6.Addr() {
		d.look.uplinks[family.IPv6] = true
		d.host.Uplinks[family.IPv6], d.under.index[family.IPv6] = calc.Uplink{}, 0 // the former address's, if any
		d.features.found = nil                                                     // look what the kernel forwards
	}
	if !d.haveState {
		d.log.Info("first state of the cluster has arrived; the dataplane may write",
			"blocks", len(in.OwnBlocks), "learned", len(in.Learned), "pools", len(in.Pools))
	}
	d.state, d.haveState = in, true
	d.look.calculate = true
}

// takeChanges turns what happened in the kernel into what to look at.
func (d *Dataplane) takeChanges(c iface.Changes) {
	if c.Everything {
		d.refresh()
		return
	}
	if c.Routes {
		d.routes.QueueResync()
	}
	if c.TouchesLink(state.TunnelDevice) {
		d.tunnel.QueueResync()
		d.rpfilter.QueueResync()
		d.routes.QueueResync() // the kernel drops a device's routes with it
	}
	if t := d.state.Tunnels.Get(state.EncapIPIP); t != nil && (c.Addrs[t.Addr] || c.AddrLinks[d.tunnel.Index()]) {
		d.tunnel.QueueResync()
		d.routes.QueueResync() // with a device's last address as well, and without a word
	}
	if c.Touches(d.under.index[family.IPv4], d.state.Node.IPv4.Addr()) ||
		d.host.Uplinks[family.IPv4].Name == "" && (len(c.Links) > 0 || len(c.Addrs) > 0) {
		d.look.uplinks[family.IPv4] = true
		d.routes.QueueResync()
	}
	if d.under.inner.touches(c) {
		d.look.uplinks[family.IPv4] = true
	}
	d.takeChanges6(c)
	for _, l := range c.PodLinks() {
		dropped, readBack := d.endpoints.LinkChanged(l.Link, l.Gone, l.Flushed)
		keys := make([]state.RouteKey, 0, len(dropped))
		for _, r := range dropped {
			keys = append(keys, r.Key())
		}
		d.routes.ForgetLink(l.Name, keys)
		d.look.endpoints = d.look.endpoints || readBack
	}
}

// takeRPFilters has the pods' looked at, and the tunnels' when one was set that counts for
// them: udev applies sysctl.d to every new device, so to tunl0 a moment after it was made.
func (d *Dataplane) takeRPFilters(set map[int]bool) {
	d.endpoints.RPFilterSet(set)
	if set[nl.AllLinks] || set[d.tunnel.Index()] || set[d.under.index[family.IPv4]] {
		d.rpfilter.QueueResync()
	}
}

// takeChanges6 is takeChanges for the uplink of the IPv6 address. What becomes of
// addresses costs no IPv6 route and may happen often: lookUp says whether it means
// anything.
func (d *Dataplane) takeChanges6(c iface.Changes) {
	node := d.state.Node.IPv6.Addr()
	switch {
	case !node.IsValid():
	case c.TouchesIndex(d.under.index[family.IPv6]):
		d.look.uplinks[family.IPv6] = true
		d.routes.QueueResync()
	case c.Touches(d.under.index[family.IPv6], node), d.host.Uplinks[family.IPv6].Name == "" && (len(c.Links) > 0 || len(c.Addrs6) > 0):
		d.look.uplinks[family.IPv6] = true
	}
}

// refresh has everything read back.
func (d *Dataplane) refresh() {
	d.lastRefresh = time.Time{}
	d.look.uplinks[family.IPv4], d.look.uplinks[family.IPv6], d.look.endpoints = true, true, true
	for _, p := range d.parts {
		p.QueueResync()
	}
}

// lookAndWrite does what is due, in the order that keeps traffic safe. Reading
// comes first, and what cannot be read is not acted upon.
func (d *Dataplane) lookAndWrite(ctx context.Context) error {
	if err := d.lookUp(); err != nil {
		return err
	}
	if d.outerChanged() {
		d.linkconf.QueueResync()
	}
	if d.look.calculate {
		if err := d.lookForGateways(); err != nil {
			return err
		}
		d.calculate()
	}
	generation := d.state.Generation
	before := d.tunnel.Unavailable()
	err := d.write(ctx)
	if d.tunnel.Unavailable() != before {
		// What goes through the tunnel depends on whether there can be one.
		d.calculate()
		err = d.write(ctx)
	}
	if err == nil {
		d.applied = generation
	}
	if !d.inSync && d.routes.Status().Resyncs > 0 {
		d.inSync = true
		close(d.synced)
		d.log.Info("dataplane is in sync", "endpoints", len(d.endpoints.All()), "uplink", d.host.Uplinks[family.IPv4].Name)
	}
	return err
}

// setFilter tells the packet filter what was calculated. It guards a tunnel that is
// wanted, also where the kernel cannot have it yet: its module makes it from one
// moment to the next. It guards one that is not wanted as long as that takes packets
// because of us.
func (d *Dataplane) setFilter() {
	guarded := ""
	if d.tunnel.Open() {
		guarded = state.TunnelDevice
	}
	if d.filtered && d.filter.Tunnels[state.EncapIPIP] == guarded {
		return
	}
	d.filter.Tunnels, d.filtered = map[state.Encap]string{state.EncapIPIP: guarded}, true
	d.filters[family.IPv4].SetTable(rules.IPv4(d.filter))
}

// setRPFilter tells which tunnels are wanted, and which are not and have not let go of all
// that is theirs.
func (d *Dataplane) setRPFilter() {
	var wanted, leaving []state.LinkSpec
	for _, e := range slices.Sorted(maps.Keys(d.state.Tunnels)) {
		wanted = append(wanted, d.state.Tunnels[e].LinkSpec)
	}
	if d.tunnel.Leaving() {
		leaving = append(leaving, state.TunnelLink)
	}
	d.rpfilter.SetTunnels(wanted, leaving)
}

// lookUp finds uplinks and endpoints again when there is reason to.
func (d *Dataplane) lookUp() error {
	if d.look.uplinks[family.IPv4] {
		up, index, in, err := d.findUplink(d.state.Node.IPv4.Addr())
		if err != nil {
			return err
		}
		d.under.inner = in
		if up, index, err = d.orDown(family.IPv4, up, index); err != nil {
			return err
		}
		if up.Name != d.host.Uplinks[family.IPv4].Name {
			d.log.Info("uplink found", "iface", up.Name, "subnets", up.Prefixes, "mtu", up.MTU)
		}
		d.host.Uplinks[family.IPv4], d.under.index[family.IPv4] = up, index
		if up.Name != "" {
			d.under.mtu = up.MTU
		}
		d.look.uplinks[family.IPv4], d.look.calculate = false, true
	}
	if d.look.uplinks[family.IPv6] {
		if err := d.lookUp6(); err != nil {
			return err
		}
	}
	if d.look.endpoints {
		added, removed, err := d.endpoints.ReadBack()
		if err != nil {
			return err
		}
		d.look.endpoints = false
		d.endpointsChanged(added, removed)
	}
	return nil
}

// lookUp6 finds the uplink of the IPv6 address again. Only a change of it has
// consequences.
func (d *Dataplane) lookUp6() error {
	var up calc.Uplink
	index := 0
	if node := d.state.Node.IPv6.Addr(); node.IsValid() {
		var err error
		if up, index, _, err = d.findUplink(node); err != nil {
			return err
		}
		if up, index, err = d.orDown(family.IPv6, up, index); err != nil {
			return err
		}
	}
	before := d.host.Uplinks[family.IPv6]
	switch {
	case up.Name == before.Name:
	case up.Name == "":
		d.log.Warn("no interface has the node's IPv6 address any longer; the routes over it are kept",
			"addr", d.state.Node.IPv6.Addr(), "iface", before.Name)
	default:
		d.log.Info("uplink of the IPv6 address found", "iface", up.Name, "subnets", up.Prefixes, "mtu", up.MTU)
	}
	if index != d.under.index[family.IPv6] || !up.Equal(before) {
		d.routes.QueueResync()
		d.look.calculate = true
	}
	d.host.Uplinks[family.IPv6], d.under.index[family.IPv6] = up, index
	d.look.uplinks[family.IPv6] = false
	return d.lookAdvertised()
}

// endpointsChanged spares a node with many routes the calculation of all of
// them when a pod comes or goes, unless the new pod contradicts something.
func (d *Dataplane) endpointsChanged(added, removed []state.Endpoint) {
	for _, ep := range removed {
		d.contested(ep)
		d.routes.Unwant(ep.Routes())
	}
	for _, ep := range added {
		if !d.routes.Want(d.routesTo(ep)) {
			d.look.calculate = true
		}
	}
}

func (d *Dataplane) calculate() {
	host := d.host
	host.Endpoints = d.endpoints.All()
	host.Tunnels = state.Tunnels{}
	ipip := d.wantedTunnel(state.EncapIPIP)
	d.rpfilter.SetUplink(host.Uplinks[family.IPv4].Name)
	d.tunnel.SetTunnel(ipip)
	d.tunnel.SetPools(ranges(d.state.Pools))
	if ipip != nil && d.tunnel.Unavailable() == "" {
		host.Tunnels[state.EncapIPIP] = *ipip
	}
	want := calc.Calculate(d.state.Cluster, host)
	// An uplink without its address for a moment (a DHCP client at work) must
	// not cost the routes over it: the kernel keeps them, so do we. One family's
	// loss is not the other's.
	converged := [2]bool{}
	for _, f := range family.All {
		converged[f] = d.state.Converged && host.Uplinks[f].Name != ""
	}
	ipv6 := d.state.Node.IPv6.IsValid()
	converged[family.IPv6] = converged[family.IPv6] || !ipv6
	d.routes.SetConverged(converged)
	d.routes.SetRoutes(want.Routes)
	d.filter, d.filtered = want.Filter, false
	if ipv6 {
		d.filters[family.IPv6].SetTable(rules.IPv6(want.Filter))
	} else {
		d.filters[family.IPv6].SetAbsent()
	}
	d.calculated = want.Conditions
	d.look.calculate = false
}

// wantedTunnel completes the tunnel that was asked for with what the uplink says. One
// that has lost its address for a moment changes no MTU.
func (d *Dataplane) wantedTunnel(e state.Encap) *state.Tunnel {
	t := d.state.Tunnels.Get(e)
	if t != nil && t.MTU == 0 {
		t.MTU = TunnelMTU(d.under.mtu)
	}
	return t
}

func ranges(pools []calc.Pool) (out []netip.Prefix) {
	for _, p := range pools {
		if p.CIDR.IsValid() && p.CIDR.Addr().Is4() {
			out = append(out, p.CIDR)
		}
	}
	return out
}

// TunnelMTU is the MTU of an IPIP device in bytes over an uplink with the given one.
func TunnelMTU(uplink int) int {
	if uplink == 0 {
		uplink = unknownMTU
	}
	return uplink - state.IPIPOverhead
}

// unknownMTU is taken as long as no uplink has been known: Calico's value for that.
const unknownMTU = 1460

// probe looks at what changes rarely.
func (d *Dataplane) probe() {
	cfg := caps.Config{IPv6: d.state.Node.IPv6.IsValid(), NftVersion: d.filters[family.IPv4].Version()}
	if cfg.NftVersion == "" {
		cfg.NftError = d.filters[family.IPv4].Status().LastError
	}
	cfg.Prober = d.features.prober
	d.features.found = caps.Probe(cfg)
	d.features.forwarding = nil
	sysctls := map[string]string{caps.Forwarding: "net.ipv4.ip_forward", caps.Forwarding6: "net.ipv6.conf.all.forwarding"}
	for _, c := range d.features.found {
		if sysctl := sysctls[c.Name]; sysctl != "" && !c.OK {
			d.features.forwarding = append(d.features.forwarding, state.Condition{
				Kind: state.ForwardingDisabled, Subject: sysctl,
				Message: fmt.Sprintf("%s: this node forwards no packets of its pods; set it to 1", c.Detail),
			})
		}
	}
}
