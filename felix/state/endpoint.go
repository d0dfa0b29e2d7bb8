package state

import (
	"net/netip"
	"slices"

	"github.com/manx-cni/manx/internal/attachment"
)

// InterfacePrefix starts the name of every host-side pod interface. It is
// Calico's, so that its users' tools and rules keep matching.
const InterfacePrefix = "cali"

// Endpoint is one interface of one pod attached to this node. The IFLA_IFALIAS of its
// host side has its name (package attachment): the link itself says which interface of
// which pod sandbox it belongs to, so a restarted agent needs no file for it.
type Endpoint struct {
	// Iface is the host-side interface, "cali…". Its name depends on the pod's
	// name and the interface's only: a recreated pod has the same one.
	Iface string `json:"iface"`
	// Network is the CNI network's name.
	Network string `json:"network"`
	// ContainerID is the sandbox: it tells a recreated pod from its predecessor.
	ContainerID string `json:"containerID"`
	// IfName is the interface in the pod; empty is eth0.
	IfName    string `json:"ifName,omitempty"`
	Namespace string `json:"namespace,omitempty"`
	Pod       string `json:"pod,omitempty"`
	// Addrs are the pod's addresses.
	Addrs []netip.Addr `json:"addrs"`
}

// Handle is the endpoint's IPAM handle.
func (e Endpoint) Handle() string { return e.ID().Handle() }

// Alias is the IFLA_IFALIAS the endpoint's interface carries.
func (e Endpoint) Alias() string { return e.ID().Alias() }

// ID is the endpoint's name.
func (e Endpoint) ID() attachment.ID {
	return attachment.ID{Network: e.Network, ContainerID: e.ContainerID, IfName: e.IfName}
}

// Equal reports whether both describe the same endpoint with the same addresses.
func (e Endpoint) Equal(o Endpoint) bool {
	return e.Iface == o.Iface && e.Handle() == o.Handle() &&
		e.Namespace == o.Namespace && e.Pod == o.Pod && slices.Equal(e.Addrs, o.Addrs)
}

// Routes are the routes that deliver packets to the endpoint: one host route per
// address, on its interface; scope link where the family has scopes.
func (e Endpoint) Routes() []Route {
	routes := make([]Route, 0, len(e.Addrs))
	for _, a := range e.Addrs {
		if !a.Is4() && !Is6(a) {
			continue
		}
		r := Route{Dst: netip.PrefixFrom(a, a.BitLen()), Dev: e.Iface, Table: MainTable}
		if a.Is4() {
			r.Scope = ScopeLink
		}
		routes = append(routes, r)
	}
	return routes
}

// Is6 reports an address that is IPv6 on the wire; one that only wraps an IPv4
// address (::ffff:0:0/96, RFC 4291 §2.5.5.2) is neither.
func Is6(a netip.Addr) bool { return a.Is6() && !a.Is4In6() }
