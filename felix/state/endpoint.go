package state

import (
	"net/netip"
	"slices"
	"strings"
)

// InterfacePrefix starts the name of every host-side pod interface. It is
// Calico's, so that its users' tools and rules keep matching.
const InterfacePrefix = "cali"

// AliasPrefix starts the IFLA_IFALIAS of every pod interface Manx made. What
// follows is the IPAM handle, "<network>.<containerID>": the link itself says
// which pod sandbox it belongs to, so a restarted agent needs no file for it.
const AliasPrefix = "manx:"

// Endpoint is one pod attached to this node.
type Endpoint struct {
	// Iface is the host-side interface, "cali…". Its name depends on the pod's
	// name only: a recreated pod has the same one.
	Iface string `json:"iface"`
	// Network is the CNI network's name.
	Network string `json:"network"`
	// ContainerID is the sandbox: it tells a recreated pod from its predecessor.
	ContainerID string `json:"containerID"`
	Namespace   string `json:"namespace,omitempty"`
	Pod         string `json:"pod,omitempty"`
	// Addrs are the pod's addresses.
	Addrs []netip.Addr `json:"addrs"`
}

// Handle is the endpoint's IPAM handle.
func (e Endpoint) Handle() string { return e.Network + "." + e.ContainerID }

// Alias is the IFLA_IFALIAS the endpoint's interface carries.
func (e Endpoint) Alias() string { return AliasPrefix + e.Handle() }

// Equal reports whether both describe the same endpoint with the same addresses.
func (e Endpoint) Equal(o Endpoint) bool {
	return e.Iface == o.Iface && e.Network == o.Network && e.ContainerID == o.ContainerID &&
		e.Namespace == o.Namespace && e.Pod == o.Pod && slices.Equal(e.Addrs, o.Addrs)
}

// ParseAlias splits an interface alias into network and container ID. ok is
// false when the alias is not one of ours. A network's name may contain dots; a
// container ID can not.
func ParseAlias(alias string) (network, containerID string, ok bool) {
	handle, ok := strings.CutPrefix(alias, AliasPrefix)
	if !ok {
		return "", "", false
	}
	i := strings.LastIndexByte(handle, '.')
	if i <= 0 || i == len(handle)-1 {
		return "", "", false
	}
	return handle[:i], handle[i+1:], true
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
