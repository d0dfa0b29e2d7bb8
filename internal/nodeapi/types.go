package nodeapi

import (
	"context"
	"encoding/hex"
	"encoding/json"
	"net/netip"
	"strings"

	"github.com/manx-cni/manx/internal/attachment"
)

// DefaultSocket is where the agent listens on every node.
const DefaultSocket = "/var/run/manx/manx.sock"

// Endpoint names one interface of one container, as the runtime and the plugin
// know it. Namespace, Pod and HostIface are empty in a DEL whose caller no longer
// knew the pod; ContainerID, IfName and Network always identify the endpoint.
type Endpoint struct {
	ContainerID string `json:"containerID"`
	Namespace   string `json:"namespace,omitempty"`
	Pod         string `json:"pod,omitempty"`
	PodUID      string `json:"podUID,omitempty"`
	NetNS       string `json:"netns,omitempty"`     // path of the container's network namespace on the host
	IfName      string `json:"ifName"`              // interface in the container: eth0
	Network     string `json:"network"`             // name of the CNI network: k8s-pod-network
	HostIface   string `json:"hostIface,omitempty"` // host side of the veth: cali + 11 hex
}

// ID is the endpoint's name.
func (e Endpoint) ID() attachment.ID {
	return attachment.ID{Network: e.Network, ContainerID: e.ContainerID, IfName: e.IfName}
}

// Alias is the owner mark that the plugin puts on the host side of the veth
// (IFLA_IFALIAS): by it everybody tells whose an interface is, whatever its name.
func (e Endpoint) Alias() string { return e.ID().Alias() }

// HostIfaceName is the name of the host veth of a pod's eth0: "cali" and the first 11 hex
// digits of SHA-1("<namespace>.<pod>"), as Calico names it, so that rules and
// tools which look for that name keep working.
func HostIfaceName(namespace, pod string) string {
	sum := sha1Sum([]byte(namespace + "." + pod))
	return "cali" + hex.EncodeToString(sum[:])[:11]
}

// HostIface is the name of the host side of any interface of a pod: that of eth0 is
// [HostIfaceName], and the others' follow from the interface's name too. Neither part of
// a pod's name can have a '/', so no two are derived from the same text.
func HostIface(namespace, pod, ifName string) string {
	if (attachment.ID{IfName: ifName}).Primary() {
		return HostIfaceName(namespace, pod)
	}
	return HostIfaceName(namespace, pod+"/"+ifName)
}

// AddRequest asks for an address.
type AddRequest struct {
	Endpoint
	// IPv4 and IPv6 say which families the network configuration asks for
	// (ipam.assign_ipv4, ipam.assign_ipv6).
	IPv4 bool `json:"ipv4"`
	IPv6 bool `json:"ipv6"`
	// IPv4Pools and IPv6Pools are pool names or CIDRs to choose from
	// (ipam.ipv4_pools, ipam.ipv6_pools); empty: any pool that fits.
	IPv4Pools []string `json:"ipv4Pools,omitempty"`
	IPv6Pools []string `json:"ipv6Pools,omitempty"`
	// Unused are the keys of the network configuration that have no effect, each with the
	// reason: the plugin has no log of its own.
	Unused []string `json:"unused,omitempty"`
}

// AddReply is what the plugin configures. At most one address a family.
type AddReply struct {
	Addrs []netip.Addr `json:"addrs"`
	MTU   int          `json:"mtu,omitempty"` // bytes; 0: the plugin's own default
	MAC   string       `json:"mac,omitempty"` // of the pod's interface; empty: the kernel's choice
}

// ReadyRequest says that the interface exists and is configured.
type ReadyRequest struct {
	Endpoint
	HostIndex int    `json:"hostIndex"` // ifindex of HostIface
	PodMAC    string `json:"podMAC"`
}

// DelRequest asks to forget an endpoint.
type DelRequest struct{ Endpoint }

// CheckRequest asks whether the agent agrees with what the runtime remembers.
type CheckRequest struct {
	Endpoint
	Addrs []netip.Addr `json:"addrs"`
}

// What a BGPRequest asks for.
const (
	BGPPeers      = "peers"      // sessions
	BGPBest       = "best"       // routes that are used
	BGPReceived   = "received"   // routes that peers have sent
	BGPAdvertised = "advertised" // routes that this node announces
	BGPFilters    = "filters"    // policies of the sessions
)

// BGPRequest asks what BGP does. It may cost the agent a walk of its routes: nothing asks
// it by itself.
type BGPRequest struct {
	What string `json:"what"`
	// Prefix: only routes inside it; the zero Prefix is all.
	Prefix netip.Prefix `json:"prefix,omitzero"`
}

// Handler is the agent's side. The server never runs two calls for one
// ContainerID at a time. An error of type [*Error] keeps its CNI code on the way
// to the plugin; any other becomes [CodeInternal], or [CodeTryAgain] when the
// context's time is over.
type Handler interface {
	// Add assigns addresses; for a container that holds some it returns the same.
	Add(context.Context, AddRequest) (AddReply, error)
	// Ready returns once the interface's traffic can flow.
	Ready(context.Context, ReadyRequest) error
	// Abort undoes an Add that was answered and whose Ready never succeeded: the
	// plugin was killed, or failed and has removed the interface.
	Abort(context.Context, AddRequest) error
	// Del releases the addresses and removes the route, then the interface.
	// Idempotent; unknown containers are a success.
	Del(context.Context, DelRequest) error
	// Check fails when the agent's view differs from the request's.
	Check(context.Context, CheckRequest) error
	// Status is what manxctl prints.
	Status(context.Context) (json.RawMessage, error)
	// BGP is what manxctl bgp prints.
	BGP(context.Context, BGPRequest) (json.RawMessage, error)
}

const (
	maxIDLen     = 128 // container runtimes use 64 hex digits
	maxNameLen   = 253 // DNS-1123 subdomain
	maxIfNameLen = 15  // IFNAMSIZ - 1
	maxAliasLen  = 255 // IFALIASZ - 1
	maxPathLen   = 4096
)

// Validate reports the first field that cannot be what it claims.
func (e Endpoint) Validate() error {
	const ids = "letters, digits, '_', '.', '-', the first a letter or digit"
	switch {
	case !validID(e.ContainerID, maxIDLen):
		return invalid("container ID", e.ContainerID, "1 to 128 "+ids)
	case !validID(e.Network, maxIDLen) || len(e.Alias()) > maxAliasLen:
		return invalid("network name", e.Network, "1 to 120 "+ids)
	case !validIfName(e.IfName):
		return invalid("interface name", e.IfName, "1 to 15 characters without '/', ':' and space")
	case e.HostIface != "" && !validIfName(e.HostIface):
		return invalid("host interface name", e.HostIface, "1 to 15 characters without '/', ':' and space")
	case e.Namespace == "" && e.Pod == "":
	case !validID(e.Namespace, maxNameLen) || !validID(e.Pod, maxNameLen):
		return invalid("pod", e.Namespace+"/"+e.Pod, "a namespace and a name as Kubernetes has them")
	}
	switch {
	case len(e.PodUID) > maxIDLen:
		return invalid("pod UID", e.PodUID, "up to 128 characters")
	case len(e.NetNS) > maxPathLen:
		return invalid("network namespace path", e.NetNS, "up to 4096 characters")
	}
	return nil
}

func invalid(what, got, want string) error {
	if len(got) > maxNameLen {
		got = got[:maxNameLen] + "…"
	}
	return Errorf(CodeInvalidEnv, "%s %q: want %s", what, got, want)
}

// validID follows the CNI specification's pattern for container IDs and network
// names, which also keeps them safe as file names.
func validID(s string, limit int) bool {
	if s == "" || len(s) > limit {
		return false
	}
	for i, c := range []byte(s) {
		switch {
		case c >= 'a' && c <= 'z', c >= 'A' && c <= 'Z', c >= '0' && c <= '9':
		case i > 0 && (c == '_' || c == '.' || c == '-'):
		default:
			return false
		}
	}
	return true
}

// validIfName follows dev_valid_name of the kernel (net/core/dev.c).
func validIfName(s string) bool {
	return s != "" && len(s) <= maxIfNameLen && s != "." && s != ".." && !strings.ContainsAny(s, "/: \t\n\v\f\r")
}
