package state

import "cmp"

// ConditionKind says what sort of thing is wrong, in one CamelCase word.
type ConditionKind string

const (
	// NextHopNotOnLink: a learned prefix's next hop, or the gateway of a peer
	// (reachableBy), is outside the uplink's subnets: no route is written by way of it.
	NextHopNotOnLink ConditionKind = "NextHopNotOnLink"
	// NextHopDown: the link that a route's next hop is behind is down or has no carrier,
	// and the route is taken out until it is back.
	NextHopDown ConditionKind = "NextHopDown"
	// UplinkUnknown: no interface has the node's address.
	UplinkUnknown ConditionKind = "UplinkUnknown"
	// EncapsulationUnsupported: a pool asks for an encapsulation which this
	// build does not write.
	EncapsulationUnsupported ConditionKind = "EncapsulationUnsupported"
	// NoBGPSession: this node has no BGP session to any other node, so that nothing
	// leads there; the Node's condition NetworkUnavailable says so, too.
	NoBGPSession ConditionKind = "NoBGPSession"
	// BGPDrained: an annotation of the Node takes it out of BGP.
	BGPDrained ConditionKind = "BGPDrained"
	// BGPPeerUnusable: a BGPPeer has no session on this node that it asks for, or one that
	// nothing may go through.
	BGPPeerUnusable ConditionKind = "BGPPeerUnusable"
	// BGPSessionHeld: a session is kept down on purpose: its password cannot be read, and
	// without one it would be open to everyone.
	BGPSessionHeld ConditionKind = "BGPSessionHeld"
	// BGPPeerShutOut: a BGP peer sent more than its session may cost (paths, changes,
	// attributes, requests for all routes), and has no session for a while.
	BGPPeerShutOut ConditionKind = "BGPPeerShutOut"
	// EncryptionUnsupported: a FelixConfiguration asks for WireGuard, which this
	// build does not have: packets of pods are not encrypted, and the agent is not
	// ready.
	EncryptionUnsupported ConditionKind = "EncryptionUnsupported"
	// SettingRefused: an object has a setting which this build does not act on, and
	// which is a matter of safety or of who reaches whom: the agent is not ready.
	SettingRefused ConditionKind = "SettingRefused"
	// DatastoreLocked: the ClusterInformation default has datastoreReady false: nothing
	// is assigned or released and no route is changed until it is true again.
	DatastoreLocked ConditionKind = "DatastoreLocked"
	// IPIPUnavailable: a pool asks for IPIP and this node cannot have the tunnel.
	IPIPUnavailable ConditionKind = "IPIPUnavailable"
	// IPIPOwnerUnknown: a prefix is to be reached through IPIP and it is not
	// known which node it belongs to, so that no route can be written for it.
	IPIPOwnerUnknown ConditionKind = "IPIPOwnerUnknown"
	// TunnelFailed: the kernel refuses a change of the tunnel device.
	TunnelFailed ConditionKind = "TunnelFailed"
	// ModeHeld: a change of a pool's mode waits for the nodes that are named.
	ModeHeld ConditionKind = "ModeHeld"
	// LearnedInsideOwnBlock: a peer announces a part of this node's own block.
	LearnedInsideOwnBlock ConditionKind = "LearnedInsideOwnBlock"
	// LearnedPartOfBlock: a peer announces a part of another node's block.
	LearnedPartOfBlock ConditionKind = "LearnedPartOfBlock"
	// OverlapsNodes: what a peer announces, a block of this node or a pod's address
	// covers the address of a node, a next hop or a subnet of the uplink.
	OverlapsNodes ConditionKind = "OverlapsNodes"
	// PoolNotExported: a pool keeps its routes out of BGP (disableBGPExport), from which
	// other nodes would have them: its pods cannot be reached from there.
	PoolNotExported ConditionKind = "PoolNotExported"
	// AddressConflict: two local endpoints, or one and a node it was lent to, claim one address.
	AddressConflict ConditionKind = "AddressConflict"
	// ForeignRoute: another program's route has the destination and metric of one
	// of ours.
	ForeignRoute ConditionKind = "ForeignRoute"
	// RouteFailed: the kernel refuses a route.
	RouteFailed ConditionKind = "RouteFailed"
	// EndpointWithoutAddress: a pod interface of ours has no address in IPAM
	// and therefore gets no route.
	EndpointWithoutAddress ConditionKind = "EndpointWithoutAddress"
	// SourceUnchecked: the kernel refuses the source check (rp_filter) of a pod's
	// interface: the pod may fill the node's neighbour table.
	SourceUnchecked ConditionKind = "SourceUnchecked"
	// CNIConfigShadowed: another plugin's CNI configuration comes before Manx's by
	// name, so that the container runtime gives it all pods, and the agent is not ready.
	CNIConfigShadowed ConditionKind = "CNIConfigShadowed"
	// CNIKeyWithoutEffect: a key of a CNI configuration of Manx is misspelt, or known and
	// not acted on.
	CNIKeyWithoutEffect ConditionKind = "CNIKeyWithoutEffect"
	// CNIConfigMissing: the node's CNI configuration directory has none of Manx's, so
	// that the container runtime gives it no pod, and the agent is not ready.
	CNIConfigMissing ConditionKind = "CNIConfigMissing"
	// LinkNotRemoved: a removed pod's interface could not be deleted.
	LinkNotRemoved ConditionKind = "LinkNotRemoved"
	// NftablesUnavailable: nft(8) is missing, too old, or not permitted.
	NftablesUnavailable ConditionKind = "NftablesUnavailable"
	// ForwardDropped: another table's forward chain drops by default.
	ForwardDropped ConditionKind = "ForwardDropped"
	// SettingChanged: another program has changed a setting of an interface that pods'
	// packets need, which has been set again or cannot be.
	SettingChanged ConditionKind = "SettingChanged"
	// ForwardingDisabled: net.ipv4.ip_forward, or net.ipv6.conf.all.forwarding on a
	// node with IPv6, is 0.
	ForwardingDisabled ConditionKind = "ForwardingDisabled"
)

// Condition is a named state of affairs that needs somebody's attention. It is
// recomputed from current state every time, so it disappears with its cause.
type Condition struct {
	Kind ConditionKind `json:"kind"`
	// Subject is what it is about: a prefix, an interface, a pool.
	Subject string `json:"subject"`
	// Message says what is wrong and what to do about it.
	Message string `json:"message"`
}

// CompareConditions orders by kind, subject, message.
func CompareConditions(a, b Condition) int {
	return cmp.Or(cmp.Compare(a.Kind, b.Kind), cmp.Compare(a.Subject, b.Subject), cmp.Compare(a.Message, b.Message))
}
