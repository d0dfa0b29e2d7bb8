package v1

import metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

// ClusterInformation, named default, describes the installation.
//
// +kubebuilder:object:root=true
// +kubebuilder:resource:scope=Cluster,categories=manx,path=clusterinformations
// +kubebuilder:printcolumn:name="Type",type=string,JSONPath=`.spec.clusterType`
// +kubebuilder:printcolumn:name="Ready",type=boolean,JSONPath=`.spec.datastoreReady`
// +kubebuilder:printcolumn:name="Age",type=date,JSONPath=`.metadata.creationTimestamp`
type ClusterInformation struct {
	metav1.TypeMeta   `json:",inline"`
	metav1.ObjectMeta `json:"metadata,omitempty"`

	Spec ClusterInformationSpec `json:"spec,omitempty"`
}

// ClusterInformationList is a list of ClusterInformations.
//
// +kubebuilder:object:root=true
type ClusterInformationList struct {
	metav1.TypeMeta `json:",inline"`
	metav1.ListMeta `json:"metadata,omitempty"`
	Items           []ClusterInformation `json:"items"`
}

// ClusterInformationSpec describes the installation.
type ClusterInformationSpec struct {
	// ClusterGUID is a random identity of the cluster.
	// +optional
	ClusterGUID string `json:"clusterGUID,omitempty"`
	// ClusterType is a comma-separated list such as k8s,bgp,kubeadm,kdd.
	// +optional
	ClusterType string `json:"clusterType,omitempty"`
	// CalicoVersion stays empty on a Manx cluster: calicoctl refuses to work
	// with a version that is not its own.
	// +optional
	CalicoVersion string `json:"calicoVersion,omitempty"`
	// Variant stays empty on a Manx cluster.
	// +optional
	Variant string `json:"variant,omitempty"`
	// DatastoreReady false means that a migration is under way: no address is
	// assigned or released and no route changed until it is true again.
	// +optional
	DatastoreReady *bool `json:"datastoreReady,omitempty"`
}

// Locked reports whether a migration of the datastore is under way.
func (c *ClusterInformation) Locked() bool {
	return c.Spec.DatastoreReady != nil && !*c.Spec.DatastoreReady
}
