package v1

import metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

// FelixConfiguration holds the settings of the node's dataplane: the object
// named default for all nodes, the object node.NAME for one. FELIX_* environment
// variables come before both.
//
// +kubebuilder:object:root=true
// +kubebuilder:resource:scope=Cluster,categories=manx
// +kubebuilder:printcolumn:name="Age",type=date,JSONPath=`.metadata.creationTimestamp`
type FelixConfiguration struct {
	metav1.TypeMeta   `json:",inline"`
	metav1.ObjectMeta `json:"metadata,omitempty"`

	// +kubebuilder:pruning:PreserveUnknownFields
	Spec FelixConfigurationSpec `json:"spec,omitempty"`
}

// FelixConfigurationList is a list of FelixConfigurations.
//
// +kubebuilder:object:root=true
type FelixConfigurationList struct {
	metav1.TypeMeta `json:",inline"`
	metav1.ListMeta `json:"metadata,omitempty"`
	Items           []FelixConfiguration `json:"items"`
}

// FelixConfigurationSpec has the settings that Manx knows; what it does with each is
// said there. Calico knows some 150 more; the schema stores them untouched. Because this struct does not carry
// them, writers patch single fields and never write the whole spec back.
// An absent setting has Calico's default, named at each field.
type FelixConfigurationSpec struct {
	// IPIPEnabled turns IPIP on or off; absent means when a pool asks for it.
	// +optional
	IPIPEnabled *bool `json:"ipipEnabled,omitempty"`
	// IPIPMTU is the MTU of tunl0 in bytes, 576 or more; 0 or absent means detected.
	// +kubebuilder:validation:Minimum=0
	// +kubebuilder:validation:Maximum=65535
	// +optional
	IPIPMTU *int `json:"ipipMTU,omitempty"`

	// VXLANEnabled turns VXLAN on or off; absent means when a pool asks for it.
	// +optional
	VXLANEnabled *bool `json:"vxlanEnabled,omitempty"`
	// VXLANMTU is the MTU of vxlan.calico in bytes; 0 or absent means detected.
	// +optional
	VXLANMTU *int `json:"vxlanMTU,omitempty"`
	// VXLANMTUV6 is the MTU of vxlan-v6.calico in bytes; 0 or absent means detected.
	// +optional
	VXLANMTUV6 *int `json:"vxlanMTUV6,omitempty"`
	// VXLANPort is the UDP port of VXLAN (4789).
	// +optional
	VXLANPort *int `json:"vxlanPort,omitempty"`
	// VXLANVNI is the VXLAN network identifier (4096).
	// +optional
	VXLANVNI *int `json:"vxlanVNI,omitempty"`

	// WireguardEnabled encrypts pod traffic between nodes over IPv4 (false). Agents
	// that cannot are not ready while it is true.
	// +optional
	WireguardEnabled *bool `json:"wireguardEnabled,omitempty"`
	// WireguardEnabledV6 encrypts pod traffic between nodes over IPv6 (false). Agents
	// that cannot are not ready while it is true.
	// +optional
	WireguardEnabledV6 *bool `json:"wireguardEnabledV6,omitempty"`
	// WireguardMTU is the MTU of wireguard.cali in bytes; 0 or absent means detected.
	// +optional
	WireguardMTU *int `json:"wireguardMTU,omitempty"`
	// WireguardListeningPort is the UDP port of WireGuard (51820).
	// +optional
	WireguardListeningPort *int `json:"wireguardListeningPort,omitempty"`

	// MTUIfacePattern is a regular expression of the interfaces whose MTU counts
	// as the host's.
	// +optional
	MTUIfacePattern string `json:"mtuIfacePattern,omitempty"`

	// NFTablesMode chooses between nftables and iptables (Auto).
	// +kubebuilder:validation:Enum=Auto;Enabled;Disabled
	// +optional
	NFTablesMode *string `json:"nftablesMode,omitempty"`

	// RouteRefreshInterval is how often the kernel's routes are read back (90s).
	// +optional
	RouteRefreshInterval *metav1.Duration `json:"routeRefreshInterval,omitempty"`
	// InterfaceRefreshInterval is how often the kernel's links are read back (90s).
	// +optional
	InterfaceRefreshInterval *metav1.Duration `json:"interfaceRefreshInterval,omitempty"`
	// ReportingInterval is how often status is reported (30s); 0 turns it off.
	// +optional
	ReportingInterval *metav1.Duration `json:"reportingInterval,omitempty"`

	// DeviceRouteProtocol is the kernel route protocol number of Manx's routes (70).
	// +optional
	DeviceRouteProtocol *int `json:"deviceRouteProtocol,omitempty"`

	// DefaultEndpointToHostAction is what happens to packets from a pod to its
	// own host: Drop, Return or Accept.
	// +optional
	DefaultEndpointToHostAction string `json:"defaultEndpointToHostAction,omitempty"`

	// LogSeverityScreen is the least severe level that is logged (Info).
	// +optional
	LogSeverityScreen string `json:"logSeverityScreen,omitempty"`

	// HealthEnabled serves /liveness and /readiness.
	// +optional
	HealthEnabled *bool `json:"healthEnabled,omitempty"`
	// HealthHost is the address of the health endpoint (localhost).
	// +optional
	HealthHost *string `json:"healthHost,omitempty"`
	// HealthPort is the port of the health endpoint (9099).
	// +optional
	HealthPort *int `json:"healthPort,omitempty"`

	// PrometheusMetricsEnabled serves /metrics.
	// +optional
	PrometheusMetricsEnabled *bool `json:"prometheusMetricsEnabled,omitempty"`
	// PrometheusMetricsHost is the address of the metrics endpoint.
	// +optional
	PrometheusMetricsHost string `json:"prometheusMetricsHost,omitempty"`
	// PrometheusMetricsPort is the port of the metrics endpoint (9091).
	// +optional
	PrometheusMetricsPort *int `json:"prometheusMetricsPort,omitempty"`

	// ProgramClusterRoutes says which program of a mixed Calico installation
	// writes routes between nodes; Manx always does.
	// +optional
	ProgramClusterRoutes *string `json:"programClusterRoutes,omitempty"`
}
