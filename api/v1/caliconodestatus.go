package v1

import metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

// CalicoNodeStatus asks one node to report its state, and carries the answer: the node's
// agent fills its status.
//
// +kubebuilder:object:root=true
// +kubebuilder:resource:scope=Cluster,categories=manx
// +kubebuilder:subresource:status
// +kubebuilder:selectablefield:JSONPath=`.spec.node`
// +kubebuilder:printcolumn:name="Node",type=string,JSONPath=`.spec.node`
// +kubebuilder:printcolumn:name="Established",type=integer,JSONPath=`.status.bgp.numberEstablishedV4`
// +kubebuilder:printcolumn:name="Not-Established",type=integer,JSONPath=`.status.bgp.numberNotEstablishedV4`
// +kubebuilder:printcolumn:name="Updated",type=date,JSONPath=`.status.lastUpdated`
// +kubebuilder:printcolumn:name="Age",type=date,JSONPath=`.metadata.creationTimestamp`
type CalicoNodeStatus struct {
	metav1.TypeMeta   `json:",inline"`
	metav1.ObjectMeta `json:"metadata,omitempty"`

	Spec   CalicoNodeStatusSpec   `json:"spec,omitempty"`
	Status CalicoNodeStatusStatus `json:"status,omitempty"`
}

// CalicoNodeStatusList is a list of CalicoNodeStatuses.
//
// +kubebuilder:object:root=true
type CalicoNodeStatusList struct {
	metav1.TypeMeta `json:",inline"`
	metav1.ListMeta `json:"metadata,omitempty"`
	Items           []CalicoNodeStatus `json:"items"`
}

// NodeStatusClass is a part of the report.
//
// +kubebuilder:validation:Enum=Agent;BGP;Routes
type NodeStatusClass string

// The parts of the report.
const (
	NodeStatusAgent  NodeStatusClass = "Agent"
	NodeStatusBGP    NodeStatusClass = "BGP"
	NodeStatusRoutes NodeStatusClass = "Routes"
)

// CalicoNodeStatusSpec says which node reports what, how often.
type CalicoNodeStatusSpec struct {
	// Node is the name of the node that reports.
	// +optional
	Node string `json:"node,omitempty"`
	// Classes are the parts of the report.
	// +optional
	Classes []NodeStatusClass `json:"classes,omitempty"`
	// UpdatePeriodSeconds is the time between reports, 10 when it is not set; 0 turns them
	// off.
	// +kubebuilder:validation:Minimum=0
	// +kubebuilder:validation:Maximum=86400
	// +optional
	UpdatePeriodSeconds *uint32 `json:"updatePeriodSeconds,omitempty"`
}

// CalicoNodeStatusStatus is the report.
type CalicoNodeStatusStatus struct {
	// LastUpdated is when the node has reported last.
	// +nullable
	// +optional
	LastUpdated *metav1.Time `json:"lastUpdated,omitempty"`
	// +optional
	Agent *CalicoNodeAgentStatus `json:"agent,omitempty"`
	// +optional
	BGP *CalicoNodeBGPStatus `json:"bgp,omitempty"`
	// +optional
	Routes *CalicoNodeRouteStatus `json:"routes,omitempty"`
}

// CalicoNodeAgentStatus is the state of the BGP speaker per family. The field
// names are those of Calico's BIRD processes.
type CalicoNodeAgentStatus struct {
	// +optional
	BIRDV4 *BGPDaemonStatus `json:"birdV4,omitempty"`
	// +optional
	BIRDV6 *BGPDaemonStatus `json:"birdV6,omitempty"`
}

// BGPDaemonStatus is the state of a BGP speaker.
type BGPDaemonStatus struct {
	// State is Ready or NotReady.
	// +optional
	State string `json:"state,omitempty"`
	// +optional
	Version string `json:"version,omitempty"`
	// +optional
	RouterID string `json:"routerID,omitempty"`
	// +optional
	LastBootTime string `json:"lastBootTime,omitempty"`
	// +optional
	LastReconfigurationTime string `json:"lastReconfigurationTime,omitempty"`
}

// CalicoNodeBGPStatus is the state of the sessions.
type CalicoNodeBGPStatus struct {
	NumberEstablishedV4    int `json:"numberEstablishedV4"`
	NumberNotEstablishedV4 int `json:"numberNotEstablishedV4"`
	NumberEstablishedV6    int `json:"numberEstablishedV6"`
	NumberNotEstablishedV6 int `json:"numberNotEstablishedV6"`
	// +optional
	PeersV4 []CalicoNodePeer `json:"peersV4,omitempty"`
	// +optional
	PeersV6 []CalicoNodePeer `json:"peersV6,omitempty"`
}

// CalicoNodePeer is the state of one session.
type CalicoNodePeer struct {
	// +optional
	PeerIP string `json:"peerIP,omitempty"`
	// Type is NodeMesh, NodePeer or GlobalPeer.
	// +optional
	Type string `json:"type,omitempty"`
	// State is Idle, Connect, Active, OpenSent, OpenConfirm, Established or Close.
	// +optional
	State string `json:"state,omitempty"`
	// Since is when the state was entered.
	// +optional
	Since string `json:"since,omitempty"`
}

// CalicoNodeRouteStatus lists the routes the BGP speaker knows.
type CalicoNodeRouteStatus struct {
	// +optional
	RoutesV4 []CalicoNodeRoute `json:"routesV4,omitempty"`
	// +optional
	RoutesV6 []CalicoNodeRoute `json:"routesV6,omitempty"`
}

// CalicoNodeRoute is one route.
type CalicoNodeRoute struct {
	// Type is FIB (in use) or RIB.
	// +optional
	Type string `json:"type,omitempty"`
	// +optional
	Destination string `json:"destination,omitempty"`
	// +optional
	Gateway string `json:"gateway,omitempty"`
	// +optional
	Interface string `json:"interface,omitempty"`
	// +optional
	LearnedFrom CalicoNodeRouteLearnedFrom `json:"learnedFrom,omitempty"`
}

// CalicoNodeRouteLearnedFrom says where a route came from.
type CalicoNodeRouteLearnedFrom struct {
	// SourceType is Kernel, Static, Direct, NodeMesh or BGPPeer.
	// +optional
	SourceType string `json:"sourceType,omitempty"`
	// +optional
	PeerIP string `json:"peerIP,omitempty"`
}
