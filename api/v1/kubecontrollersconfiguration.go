package v1

import metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

// KubeControllersConfiguration, named default, configures the cluster's
// controllers. Manx acts on spec.controllers.node.leakGracePeriod alone; all
// other settings, also those that are not in this schema, are kept and not used.
//
// +kubebuilder:object:root=true
// +kubebuilder:resource:scope=Cluster,categories=manx
// +kubebuilder:subresource:status
// +kubebuilder:printcolumn:name="Leak-Grace",type=string,JSONPath=`.spec.controllers.node.leakGracePeriod`
// +kubebuilder:printcolumn:name="Age",type=date,JSONPath=`.metadata.creationTimestamp`
type KubeControllersConfiguration struct {
	metav1.TypeMeta   `json:",inline"`
	metav1.ObjectMeta `json:"metadata,omitempty"`

	// +kubebuilder:pruning:PreserveUnknownFields
	Spec KubeControllersConfigurationSpec `json:"spec,omitempty"`
	// +optional
	Status *KubeControllersConfigurationStatus `json:"status,omitempty"`
}

// KubeControllersConfigurationList is a list of KubeControllersConfigurations.
//
// +kubebuilder:object:root=true
type KubeControllersConfigurationList struct {
	metav1.TypeMeta `json:",inline"`
	metav1.ListMeta `json:"metadata,omitempty"`
	Items           []KubeControllersConfiguration `json:"items"`
}

// KubeControllersConfigurationSpec holds the settings. Durations are text such as
// 15m or 5m30s.
type KubeControllersConfigurationSpec struct {
	// LogSeverityScreen is kept and not used; see LOG_LEVEL.
	// +optional
	LogSeverityScreen string `json:"logSeverityScreen,omitempty"`

	// HealthChecks is kept and not used: Manx always serves its probes.
	// +optional
	HealthChecks string `json:"healthChecks,omitempty"`

	// EtcdV3CompactionPeriod is kept and not used.
	// +optional
	EtcdV3CompactionPeriod *metav1.Duration `json:"etcdV3CompactionPeriod,omitempty"`

	// PrometheusMetricsPort is kept and not used; see METRICS_PORT.
	// +optional
	PrometheusMetricsPort *int32 `json:"prometheusMetricsPort,omitempty"`

	// DebugProfilePort is kept and not used.
	// +optional
	DebugProfilePort *int32 `json:"debugProfilePort,omitempty"`

	// Controllers has the settings of each controller.
	// +optional
	Controllers ControllersConfig `json:"controllers,omitempty"`
}

// ControllersConfig has the settings of each controller. A controller that is
// not named is off in Calico; in Manx that is for ENABLED_CONTROLLERS to say.
type ControllersConfig struct {
	// Node collects leaked addresses and what removed nodes leave.
	// +optional
	Node *NodeControllerConfig `json:"node,omitempty"`

	// Policy is kept and not used.
	// +optional
	Policy *ReconcilerConfig `json:"policy,omitempty"`

	// WorkloadEndpoint is kept and not used.
	// +optional
	WorkloadEndpoint *ReconcilerConfig `json:"workloadEndpoint,omitempty"`

	// ServiceAccount is kept and not used.
	// +optional
	ServiceAccount *ReconcilerConfig `json:"serviceAccount,omitempty"`

	// Namespace is kept and not used.
	// +optional
	Namespace *ReconcilerConfig `json:"namespace,omitempty"`

	// LoadBalancer is kept and not used.
	// +optional
	LoadBalancer *LoadBalancerControllerConfig `json:"loadBalancer,omitempty"`

	// PolicyMigration is kept and not used.
	// +optional
	PolicyMigration *PolicyMigrationConfig `json:"policyMigration,omitempty"`
}

// ReconcilerConfig is the setting of controllers that only have a period.
type ReconcilerConfig struct {
	// +optional
	ReconcilerPeriod *metav1.Duration `json:"reconcilerPeriod,omitempty"`
}

// NodeControllerConfig configures what looks after nodes and their addresses.
type NodeControllerConfig struct {
	// ReconcilerPeriod is kept and not used.
	// +optional
	ReconcilerPeriod *metav1.Duration `json:"reconcilerPeriod,omitempty"`

	// SyncLabels is kept and not used.
	// +optional
	SyncLabels string `json:"syncLabels,omitempty"`

	// HostEndpoint is kept and not used.
	// +optional
	HostEndpoint *AutoHostEndpointConfig `json:"hostEndpoint,omitempty"`

	// LeakGracePeriod is how long an address must look leaked, and a Node be
	// gone, before anything is released; 0 turns collection off. Absent: 15m.
	// +optional
	LeakGracePeriod *metav1.Duration `json:"leakGracePeriod,omitempty"`
}

// AutoHostEndpointConfig is kept and not used.
type AutoHostEndpointConfig struct {
	// +optional
	AutoCreate string `json:"autoCreate,omitempty"`
	// +optional
	CreateDefaultHostEndpoint string `json:"createDefaultHostEndpoint,omitempty"`
	// +listType=atomic
	// +optional
	Templates []HostEndpointTemplate `json:"templates,omitempty"`
}

// HostEndpointTemplate is kept and not used.
type HostEndpointTemplate struct {
	// +optional
	GenerateName string `json:"generateName,omitempty"`
	// +listType=atomic
	// +optional
	InterfaceCIDRs []string `json:"interfaceCIDRs,omitempty"`
	// +optional
	InterfacePattern string `json:"interfacePattern,omitempty"`
	// +optional
	Labels map[string]string `json:"labels,omitempty"`
	// +optional
	NodeSelector string `json:"nodeSelector,omitempty"`
}

// LoadBalancerControllerConfig is kept and not used.
type LoadBalancerControllerConfig struct {
	// +optional
	AssignIPs string `json:"assignIPs,omitempty"`
}

// PolicyMigrationConfig is kept and not used.
type PolicyMigrationConfig struct {
	// +optional
	Enabled string `json:"enabled,omitempty"`
}

// KubeControllersConfigurationStatus is written by Calico's controllers. Manx
// keeps it and does not write it.
type KubeControllersConfigurationStatus struct {
	// +optional
	EnvironmentVars map[string]string `json:"environmentVars,omitempty"`
	// +kubebuilder:pruning:PreserveUnknownFields
	// +optional
	RunningConfig *KubeControllersConfigurationSpec `json:"runningConfig,omitempty"`
}
