package v1

import metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

// BGPPeer is a router, or a set of nodes, that some or all nodes peer with.
//
// +kubebuilder:object:root=true
// +kubebuilder:resource:scope=Cluster,categories=manx
// +kubebuilder:printcolumn:name="Peer",type=string,JSONPath=`.spec.peerIP`
// +kubebuilder:printcolumn:name="AS",type=integer,JSONPath=`.spec.asNumber`
// +kubebuilder:printcolumn:name="Node",type=string,JSONPath=`.spec.node`
// +kubebuilder:printcolumn:name="Node-Selector",type=string,JSONPath=`.spec.nodeSelector`
// +kubebuilder:printcolumn:name="Peer-Selector",type=string,JSONPath=`.spec.peerSelector`,priority=1
// +kubebuilder:printcolumn:name="Age",type=date,JSONPath=`.metadata.creationTimestamp`
type BGPPeer struct {
	metav1.TypeMeta   `json:",inline"`
	metav1.ObjectMeta `json:"metadata,omitempty"`

	Spec BGPPeerSpec `json:"spec,omitempty"`
}

// BGPPeerList is a list of BGPPeers.
//
// +kubebuilder:object:root=true
type BGPPeerList struct {
	metav1.TypeMeta `json:",inline"`
	metav1.ListMeta `json:"metadata,omitempty"`
	Items           []BGPPeer `json:"items"`
}

// BGPPeerSpec says who peers with whom, and how.
//
// +kubebuilder:validation:XValidation:rule="!has(self.node) || size(self.node) == 0 || !has(self.nodeSelector) || size(self.nodeSelector) == 0",message="node and nodeSelector exclude each other"
// +kubebuilder:validation:XValidation:rule="!has(self.peerIP) || size(self.peerIP) == 0 || !has(self.peerSelector) || size(self.peerSelector) == 0",message="peerIP and peerSelector exclude each other"
type BGPPeerSpec struct {
	// Node is the one node that has this peering.
	// +optional
	Node string `json:"node,omitempty"`
	// NodeSelector selects the nodes that have this peering. Without node and
	// nodeSelector every node has it.
	// +optional
	NodeSelector string `json:"nodeSelector,omitempty"`

	// PeerIP is the peer's address with an optional port: 10.0.0.1, 10.0.0.1:179, [fd00::1]:179.
	// +optional
	PeerIP string `json:"peerIP,omitempty"`
	// ASNumber is the peer's AS.
	// +optional
	ASNumber *ASNumber `json:"asNumber,omitempty"`
	// LocalASNumber is the AS to show to this peer instead of the node's own.
	// +optional
	LocalASNumber *ASNumber `json:"localASNumber,omitempty"`
	// PeerSelector selects nodes as peers, in place of peerIP and asNumber.
	// +optional
	PeerSelector string `json:"peerSelector,omitempty"`
	// LocalWorkloadSelector selects pods of the same node as peers.
	// +optional
	LocalWorkloadSelector string `json:"localWorkloadSelector,omitempty"`
	// ReversePeering Manual keeps nodes selected by peerSelector from peering
	// back by themselves (Auto).
	// +kubebuilder:validation:Enum=Auto;Manual
	// +optional
	ReversePeering *string `json:"reversePeering,omitempty"`

	// KeepOriginalNextHop is the older form of nextHopMode Keep.
	// +optional
	KeepOriginalNextHop bool `json:"keepOriginalNextHop,omitempty"`
	// NextHopMode says which next hop is announced (Auto).
	// +kubebuilder:validation:Enum=Auto;Self;Keep
	// +optional
	NextHopMode *string `json:"nextHopMode,omitempty"`

	// Password is the session's TCP-MD5 key.
	// +optional
	Password *BGPPassword `json:"password,omitempty"`

	// SourceAddress is UseNodeIP (default) or None: the kernel chooses.
	// +kubebuilder:validation:Enum=UseNodeIP;None
	// +optional
	SourceAddress string `json:"sourceAddress,omitempty"`

	// MaxRestartTime is the graceful restart time (120s).
	// +optional
	MaxRestartTime *metav1.Duration `json:"maxRestartTime,omitempty"`
	// KeepaliveTime is the time between keepalives.
	// +optional
	KeepaliveTime *metav1.Duration `json:"keepaliveTime,omitempty"`

	// NumAllowedLocalASNumbers is how often our own AS may stand in a received path (0).
	// +optional
	NumAllowedLocalASNumbers *int32 `json:"numAllowedLocalASNumbers,omitempty"`

	// TTLSecurity turns on GTSM (RFC 5082) with this number of hops.
	// +kubebuilder:validation:Minimum=0
	// +kubebuilder:validation:Maximum=255
	// +optional
	TTLSecurity *uint8 `json:"ttlSecurity,omitempty"`

	// ReachableBy is the gateway of a host route to the peer, which is not on link, and of
	// what the peer announces by way of itself.
	// +optional
	ReachableBy string `json:"reachableBy,omitempty"`

	// Filters names the BGPFilters of the peering, in order.
	// +listType=atomic
	// +optional
	Filters []string `json:"filters,omitempty"`
}
