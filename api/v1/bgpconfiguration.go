package v1

import metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

// BGPConfiguration holds the settings of the BGP speakers: the object named
// default for all nodes, the object node.NAME for one (of which only
// logSeverityScreen, listenPort and prefixAdvertisements count).
//
// +kubebuilder:object:root=true
// +kubebuilder:resource:scope=Cluster,categories=manx
// +kubebuilder:printcolumn:name="AS",type=integer,JSONPath=`.spec.asNumber`
// +kubebuilder:printcolumn:name="Mesh",type=boolean,JSONPath=`.spec.nodeToNodeMeshEnabled`
// +kubebuilder:printcolumn:name="Port",type=integer,JSONPath=`.spec.listenPort`
// +kubebuilder:printcolumn:name="Age",type=date,JSONPath=`.metadata.creationTimestamp`
type BGPConfiguration struct {
	metav1.TypeMeta   `json:",inline"`
	metav1.ObjectMeta `json:"metadata,omitempty"`

	Spec BGPConfigurationSpec `json:"spec,omitempty"`
}

// BGPConfigurationList is a list of BGPConfigurations.
//
// +kubebuilder:object:root=true
type BGPConfigurationList struct {
	metav1.TypeMeta `json:",inline"`
	metav1.ListMeta `json:"metadata,omitempty"`
	Items           []BGPConfiguration `json:"items"`
}

// BindMode says which addresses the speaker listens on.
//
// +kubebuilder:validation:Enum=None;NodeIP
type BindMode string

// The bind modes. Empty means BindNone: all addresses.
const (
	BindNone   BindMode = "None"
	BindNodeIP BindMode = "NodeIP"
)

// BGPConfigurationSpec holds the settings.
//
// +kubebuilder:validation:XValidation:rule="!has(self.nodeMeshPassword) || !has(self.nodeToNodeMeshEnabled) || self.nodeToNodeMeshEnabled",message="nodeMeshPassword needs nodeToNodeMeshEnabled"
// +kubebuilder:validation:XValidation:rule="!has(self.nodeMeshMaxRestartTime) || !has(self.nodeToNodeMeshEnabled) || self.nodeToNodeMeshEnabled",message="nodeMeshMaxRestartTime needs nodeToNodeMeshEnabled"
type BGPConfigurationSpec struct {
	// LogSeverityScreen is the least severe level that is logged (Info).
	// +optional
	LogSeverityScreen string `json:"logSeverityScreen,omitempty"`

	// NodeToNodeMeshEnabled makes every node a peer of every other (true when absent).
	// +optional
	NodeToNodeMeshEnabled *bool `json:"nodeToNodeMeshEnabled,omitempty"`

	// ASNumber is the AS of nodes that have none of their own (64512).
	// +optional
	ASNumber *ASNumber `json:"asNumber,omitempty"`

	// ListenPort is the TCP port of the speakers (179).
	// +kubebuilder:validation:Minimum=1
	// +kubebuilder:validation:Maximum=65535
	// +optional
	ListenPort uint16 `json:"listenPort,omitempty"`

	// BindMode NodeIP listens on the node's address only.
	// +optional
	BindMode *BindMode `json:"bindMode,omitempty"`

	// IgnoredInterfaces are interfaces whose addresses are not announced.
	// +listType=set
	// +optional
	IgnoredInterfaces []string `json:"ignoredInterfaces,omitempty"`

	// ServiceClusterIPs are the ranges of cluster IPs to announce.
	// +listType=set
	// +optional
	ServiceClusterIPs []ServiceIPBlock `json:"serviceClusterIPs,omitempty"`

	// ServiceExternalIPs are the ranges of external IPs to announce.
	// +listType=set
	// +optional
	ServiceExternalIPs []ServiceIPBlock `json:"serviceExternalIPs,omitempty"`

	// ServiceLoadBalancerIPs are the ranges of load balancer IPs to announce.
	// +listType=set
	// +optional
	ServiceLoadBalancerIPs []ServiceIPBlock `json:"serviceLoadBalancerIPs,omitempty"`

	// ServiceLoadBalancerAggregation Disabled announces single addresses instead of the ranges.
	// +kubebuilder:validation:Enum=Enabled;Disabled
	// +optional
	ServiceLoadBalancerAggregation *string `json:"serviceLoadBalancerAggregation,omitempty"`

	// Communities gives names to BGP communities.
	// +listType=set
	// +optional
	Communities []Community `json:"communities,omitempty"`

	// PrefixAdvertisements adds communities to announced prefixes.
	// +listType=set
	// +optional
	PrefixAdvertisements []PrefixAdvertisement `json:"prefixAdvertisements,omitempty"`

	// NodeMeshPassword is the TCP-MD5 key of the mesh.
	// +optional
	NodeMeshPassword *BGPPassword `json:"nodeMeshPassword,omitempty"`

	// NodeMeshMaxRestartTime is the mesh's graceful restart time (120s).
	// +optional
	NodeMeshMaxRestartTime *metav1.Duration `json:"nodeMeshMaxRestartTime,omitempty"`

	// LocalWorkloadPeeringIPV4 is the address pods peer with.
	// +optional
	LocalWorkloadPeeringIPV4 string `json:"localWorkloadPeeringIPV4,omitempty"`
	// LocalWorkloadPeeringIPV6 is the address pods peer with.
	// +optional
	LocalWorkloadPeeringIPV6 string `json:"localWorkloadPeeringIPV6,omitempty"`

	// ProgramClusterRoutes says which program of a mixed Calico installation
	// writes routes between nodes; Manx always does.
	// +optional
	ProgramClusterRoutes *string `json:"programClusterRoutes,omitempty"`

	// IPv4NormalRoutePriority is the kernel metric that stands for an ordinary IPv4 route (1024).
	// +optional
	IPv4NormalRoutePriority *int `json:"ipv4NormalRoutePriority,omitempty"`
	// IPv6NormalRoutePriority is the kernel metric that stands for an ordinary IPv6 route (1024).
	// +optional
	IPv6NormalRoutePriority *int `json:"ipv6NormalRoutePriority,omitempty"`
}

// ServiceIPBlock is one range of service addresses.
//
// +structType=atomic
type ServiceIPBlock struct {
	// +optional
	CIDR string `json:"cidr,omitempty"`
}

// Community names a BGP community.
//
// +structType=atomic
type Community struct {
	// +optional
	Name string `json:"name,omitempty"`
	// Value is aa:nn (RFC 1997) or aa:nn:mm (RFC 8092).
	// +kubebuilder:validation:Pattern=`^\d+:\d+(:\d+)?$`
	// +optional
	Value string `json:"value,omitempty"`
}

// PrefixAdvertisement adds communities to prefixes inside a range.
//
// +structType=atomic
type PrefixAdvertisement struct {
	// +optional
	CIDR string `json:"cidr,omitempty"`
	// Communities are values, or names from the communities list.
	// +optional
	Communities []string `json:"communities,omitempty"`
}
