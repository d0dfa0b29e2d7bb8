package v1

import metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

// IPAMConfig, named default, holds the cluster's address management settings.
// It may be absent: see DefaultIPAMConfigSpec.
//
// +kubebuilder:object:root=true
// +kubebuilder:resource:scope=Cluster,categories=manx
// +kubebuilder:printcolumn:name="Strict",type=boolean,JSONPath=`.spec.strictAffinity`
// +kubebuilder:printcolumn:name="Auto",type=boolean,JSONPath=`.spec.autoAllocateBlocks`
// +kubebuilder:printcolumn:name="Max-Blocks",type=integer,JSONPath=`.spec.maxBlocksPerHost`
// +kubebuilder:printcolumn:name="Age",type=date,JSONPath=`.metadata.creationTimestamp`
type IPAMConfig struct {
	metav1.TypeMeta   `json:",inline"`
	metav1.ObjectMeta `json:"metadata,omitempty"`

	Spec IPAMConfigSpec `json:"spec,omitempty"`
}

// IPAMConfigList is a list of IPAMConfigs.
//
// +kubebuilder:object:root=true
type IPAMConfigList struct {
	metav1.TypeMeta `json:",inline"`
	metav1.ListMeta `json:"metadata,omitempty"`
	Items           []IPAMConfig `json:"items"`
}

// IPAMConfigSpec holds the settings.
//
// +kubebuilder:validation:XValidation:rule="self.strictAffinity || self.autoAllocateBlocks",message="strictAffinity false needs autoAllocateBlocks true: a node without a block of its own would borrow every address"
type IPAMConfigSpec struct {
	// StrictAffinity keeps nodes from borrowing addresses of other nodes' blocks.
	StrictAffinity bool `json:"strictAffinity"`

	// AutoAllocateBlocks lets nodes claim blocks when they need addresses.
	AutoAllocateBlocks bool `json:"autoAllocateBlocks"`

	// MaxBlocksPerHost limits the blocks of one node, per address family; 0 means 20.
	// +kubebuilder:validation:Minimum=0
	// +kubebuilder:validation:Maximum=2147483647
	// +optional
	MaxBlocksPerHost int `json:"maxBlocksPerHost,omitempty"`

	// KubeVirtVMAddressPersistence is kept and not used.
	// +optional
	KubeVirtVMAddressPersistence *string `json:"kubeVirtVMAddressPersistence,omitempty"`

	// IPCooldownSeconds is kept and not used.
	// +kubebuilder:validation:Minimum=0
	// +kubebuilder:validation:Maximum=1200
	// +optional
	IPCooldownSeconds *int `json:"ipCooldownSeconds,omitempty"`
}

// defaultMaxBlocksPerHost is Calico's limit when maxBlocksPerHost is 0.
const defaultMaxBlocksPerHost = 20

// DefaultIPAMConfigSpec returns what holds when no IPAMConfig exists.
func DefaultIPAMConfigSpec() IPAMConfigSpec {
	return IPAMConfigSpec{AutoAllocateBlocks: true}
}

// BlockLimit returns how many blocks a node may own per address family.
func (s IPAMConfigSpec) BlockLimit() int {
	if s.MaxBlocksPerHost > 0 {
		return s.MaxBlocksPerHost
	}
	return defaultMaxBlocksPerHost
}
