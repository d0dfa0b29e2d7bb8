package v1

// Annotations of Calico's node data on the Kubernetes Node, written through
// nodes/status.
const (
	// AnnotationNodeIPv4 is the node's address with the prefix length of its
	// subnet, such as 10.0.0.5/24.
	AnnotationNodeIPv4 = "projectcalico.org/IPv4Address"
	// AnnotationNodeIPv6 is the same for IPv6; a node without IPv6 lacks it.
	AnnotationNodeIPv6 = "projectcalico.org/IPv6Address"
	// AnnotationNodeAS is the node's own AS number; without it the cluster's holds.
	AnnotationNodeAS = "projectcalico.org/ASNumber"
	// AnnotationNodeRouteReflector makes the node a route reflector; its value is
	// the cluster ID, a dotted quad (RFC 4456 §7).
	AnnotationNodeRouteReflector = "projectcalico.org/RouteReflectorClusterID"
	// AnnotationNodeIPIPTunnelAddr is the address of the node's tunl0, such as
	// 10.244.0.1; absent while the node has none.
	AnnotationNodeIPIPTunnelAddr = "projectcalico.org/IPv4IPIPTunnelAddr"
)

// Annotations of Manx's own.
const (
	// AnnotationNodeBGPDrain, on a Node, takes the node out of BGP step by step; its value
	// is when that was asked for, RFC 3339. "manxctl bgp drain" sets it.
	AnnotationNodeBGPDrain = "manx.io/bgp-drain"
	// AnnotationNodePoolModes, on a Node, is the node's record of how it receives
	// from and sends to each pool, by which the nodes agree on a change of mode.
	AnnotationNodePoolModes = "manx.io/pool-modes"
	// AnnotationPoolForceMode, on an IPPool, is the EncapMode that nodes go over to
	// although probes between them fail. That every node must accept it first is
	// not changed by it. It counts only while it equals the pool's ipipMode.
	AnnotationPoolForceMode = "manx.io/force-ipip-mode"
	// AnnotationHandleNode, on an IPAMHandle, is the node whose agent writes it. The
	// admission policy in manifests lets no other agent change the handle; the label
	// LabelHostnameHash is a hash, which a policy cannot make.
	AnnotationHandleNode = "manx.io/node"
)

// NodeAnnotations are those that an agent writes by itself, and that mean nothing
// without it. A node's AS number and its cluster ID are the user's to set.
var NodeAnnotations = []string{AnnotationNodeIPv4, AnnotationNodeIPv6, AnnotationNodeIPIPTunnelAddr, AnnotationNodePoolModes}

// ConditionNodeSettings is the condition of a Node that is False while settings are
// set that have no effect there; its message names them. It is absent until there
// were some.
const ConditionNodeSettings = "ManxSettingsEffective"

// Reasons of ConditionNodeSettings.
const (
	ReasonSettingsEffective    = "AllSettingsEffective"
	ReasonSettingWithoutEffect = "SettingWithoutEffect"
	ReasonSettingRefused       = "SettingRefused" // at least one keeps the node from being ready
)

// ConditionNamespacePolicy is the condition of a Namespace that is False while it has
// NetworkPolicies, which this version does not enforce. It is absent otherwise.
const ConditionNamespacePolicy = "ManxNetworkPolicyEnforced"

// Reasons of the Node's condition NetworkUnavailable when an agent has set it.
const (
	ReasonNodeNetworkUp       = "ManxIsUp"
	ReasonNodeIPIPUnavailable = "IPIPUnavailable"
	ReasonNodeNoBGPSession    = "NoBGPSession"
	// ReasonNodeCNIConfig: the container runtime does not use Manx's CNI configuration.
	ReasonNodeCNIConfig = "CNIConfigNotInUse"
)
