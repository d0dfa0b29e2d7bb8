package v1

import (
	"fmt"
	"strings"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// IPPool is a range of addresses that pods and tunnels draw from, and how
// packets travel to them.
//
// +kubebuilder:object:root=true
// +kubebuilder:resource:scope=Cluster,categories=manx
// +kubebuilder:subresource:status
// +kubebuilder:printcolumn:name="CIDR",type=string,JSONPath=`.spec.cidr`
// +kubebuilder:printcolumn:name="IPIP",type=string,JSONPath=`.spec.ipipMode`
// +kubebuilder:printcolumn:name="VXLAN",type=string,JSONPath=`.spec.vxlanMode`
// +kubebuilder:printcolumn:name="NAT",type=boolean,JSONPath=`.spec.natOutgoing`
// +kubebuilder:printcolumn:name="Disabled",type=boolean,JSONPath=`.spec.disabled`
// +kubebuilder:printcolumn:name="Ready",type=string,JSONPath=`.status.conditions[?(@.type=="Ready")].reason`
// +kubebuilder:printcolumn:name="Selector",type=string,JSONPath=`.spec.nodeSelector`,priority=1
// +kubebuilder:printcolumn:name="Blocks",type=integer,JSONPath=`.status.use.blocks`,priority=1
// +kubebuilder:printcolumn:name="Addresses",type=integer,JSONPath=`.status.use.addresses`,priority=1
// +kubebuilder:printcolumn:name="Capacity",type=integer,JSONPath=`.status.use.capacity`,priority=1
// +kubebuilder:printcolumn:name="Use",type=string,JSONPath=`.status.use.percent`,priority=1
// +kubebuilder:printcolumn:name="Age",type=date,JSONPath=`.metadata.creationTimestamp`
type IPPool struct {
	metav1.TypeMeta   `json:",inline"`
	metav1.ObjectMeta `json:"metadata,omitempty"`

	Spec IPPoolSpec `json:"spec,omitempty"`
	// +optional
	Status *IPPoolStatus `json:"status,omitempty"`
}

// IPPoolList is a list of IPPools.
//
// +kubebuilder:object:root=true
type IPPoolList struct {
	metav1.TypeMeta `json:",inline"`
	metav1.ListMeta `json:"metadata,omitempty"`
	Items           []IPPool `json:"items"`
}

// EncapMode says when packets to a pool's addresses are encapsulated.
//
// +kubebuilder:validation:Enum=Never;Always;CrossSubnet
type EncapMode string

// The encapsulation modes. CrossSubnet encapsulates only towards nodes outside
// the sender's own subnet. Empty means EncapNever.
const (
	EncapNever       EncapMode = "Never"
	EncapAlways      EncapMode = "Always"
	EncapCrossSubnet EncapMode = "CrossSubnet"
)

// IPPoolAllowedUse is what a pool's addresses may be used for.
//
// +kubebuilder:validation:Enum=Workload;Tunnel;LoadBalancer
type IPPoolAllowedUse string

// The uses of a pool. A pool that names none allows Workload and Tunnel.
const (
	UseWorkload     IPPoolAllowedUse = "Workload"
	UseTunnel       IPPoolAllowedUse = "Tunnel"
	UseLoadBalancer IPPoolAllowedUse = "LoadBalancer"
)

// AssignmentMode says whether a pool is used without being asked for by name.
//
// +kubebuilder:validation:Enum=Automatic;Manual
type AssignmentMode string

// The assignment modes. Empty means AssignAutomatic.
const (
	AssignAutomatic AssignmentMode = "Automatic"
	AssignManual    AssignmentMode = "Manual"
)

// IPPoolSpec says which addresses the pool holds and how they are used.
//
// +kubebuilder:validation:XValidation:rule="!has(self.ipipMode) || !has(self.vxlanMode) || self.ipipMode == 'Never' || self.vxlanMode == 'Never'",message="ipipMode and vxlanMode cannot both be on: a pool has one encapsulation"
// +kubebuilder:validation:XValidation:rule="(has(self.blockSize) && self.blockSize != 0 ? self.blockSize : (self.cidr.contains(':') ? 122 : 26)) == (has(oldSelf.blockSize) && oldSelf.blockSize != 0 ? oldSelf.blockSize : (oldSelf.cidr.contains(':') ? 122 : 26))",message="blockSize cannot be changed (26 for IPv4 and 122 for IPv6 when it is 0 or absent): blocks of the old size would overlap new ones; create another pool and disable this one"
// +kubebuilder:validation:XValidation:rule="!has(self.blockSize) || self.blockSize == 0 || (self.cidr.contains(':') ? self.blockSize >= 116 && self.blockSize <= 128 : self.blockSize >= 20 && self.blockSize <= 32)",message="blockSize must be 20 to 32 for IPv4, 116 to 128 for IPv6, or 0"
// +kubebuilder:validation:XValidation:rule="!self.cidr.contains(':') || !has(self.ipipMode) || self.ipipMode == 'Never'",message="IPIP carries IPv4 only: ipipMode must be Never for an IPv6 range"
type IPPoolSpec struct {
	// CIDR is the pool's range. It cannot be changed.
	// +kubebuilder:validation:Format=cidr
	// +kubebuilder:validation:MaxLength=50
	// +kubebuilder:validation:XValidation:rule="self == oldSelf",message="cidr cannot be changed; create another pool and disable this one"
	CIDR string `json:"cidr"`

	// VXLANMode says when packets to this pool travel in VXLAN.
	// +kubebuilder:default=Never
	// +optional
	VXLANMode EncapMode `json:"vxlanMode,omitempty"`

	// IPIPMode says when packets to this pool travel in IPIP (IPv4 only).
	// +kubebuilder:default=Never
	// +optional
	IPIPMode EncapMode `json:"ipipMode,omitempty"`

	// NATOutgoing masquerades packets from this pool to destinations outside every pool.
	// +optional
	NATOutgoing bool `json:"natOutgoing,omitempty"`

	// Disabled stops new assignments. Addresses in use stay routed.
	// +optional
	Disabled bool `json:"disabled,omitempty"`

	// DisableBGPExport keeps the pool's routes from being announced over BGP.
	// +optional
	DisableBGPExport bool `json:"disableBGPExport,omitempty"`

	// BlockSize is the prefix length of the blocks that nodes claim:
	// 20 to 32 for IPv4 (26 when 0), 116 to 128 for IPv6 (122 when 0).
	// It cannot be changed, except between 0 and what 0 stands for.
	// +kubebuilder:validation:Minimum=0
	// +kubebuilder:validation:Maximum=128
	// +optional
	BlockSize int `json:"blockSize,omitempty"`

	// NodeSelector limits the nodes that may claim blocks; empty and all() mean every node.
	// +optional
	NodeSelector string `json:"nodeSelector,omitempty"`

	// NamespaceSelector limits the namespaces whose pods draw from the pool.
	// +optional
	NamespaceSelector string `json:"namespaceSelector,omitempty"`

	// AllowedUses says what the addresses may be used for; empty means Workload and Tunnel.
	// +listType=set
	// +optional
	AllowedUses []IPPoolAllowedUse `json:"allowedUses,omitempty"`

	// AssignmentMode Manual keeps the pool out of automatic assignment.
	// +kubebuilder:default=Automatic
	// +optional
	AssignmentMode AssignmentMode `json:"assignmentMode,omitempty"`

	// LegacyIPIP is a field of old objects, kept and not used.
	// +optional
	LegacyIPIP *LegacyIPIP `json:"ipip,omitempty"`

	// LegacyNATOutgoing is a field of old objects, kept and not used.
	// +optional
	LegacyNATOutgoing bool `json:"nat-outgoing,omitempty"`
}

// LegacyIPIP is the IPIP setting of Calico's first API.
type LegacyIPIP struct {
	// +optional
	Enabled bool `json:"enabled,omitempty"`
	// +optional
	Mode string `json:"mode,omitempty"`
}

// FinalizerPoolInUse holds a pool that is being deleted while addresses of it are
// in use: without the pool their routes would go. manx-controllers puts it on
// every pool that is used and takes it off when the last address is free.
const FinalizerPoolInUse = "manx.io/ippool-in-use"

// ConditionPoolReady is the condition of an IPPool that says whether addresses are
// assigned from it.
const ConditionPoolReady = "Ready"

// The reasons of ConditionPoolReady; it is True with PoolReady alone.
const (
	PoolReady      = "Ready"
	PoolDisabled   = "Disabled"   // spec.disabled
	PoolInvalid    = "Invalid"    // Validate says why
	PoolOverlaps   = "Overlaps"   // shares addresses with an older pool
	PoolFinalizing = "Finalizing" // is being deleted and has addresses in use

	// PoolOverlapsNetwork: the range has an address of a node, or of services.
	PoolOverlapsNetwork = "OverlapsNetwork"
)

// ConditionPoolReachable is the condition of an IPPool that is False when other nodes
// have no routes to its addresses; it is absent otherwise.
const ConditionPoolReachable = "Reachable"

// PoolNotExported is its reason for a pool whose blocks are not announced
// (spec.disableBGPExport).
const PoolNotExported = "NotExported"

// NotExportedText says what disableBGPExport costs a pool whose routes other nodes have
// from BGP.
func NotExportedText(p *IPPool) string {
	return fmt.Sprintf("spec.disableBGPExport is true and ipipMode is %s: "+
		"other nodes have their routes from BGP, so that the pool's pods (%s) "+
		"cannot be reached from other nodes; set disableBGPExport to false if that is not meant", p.ipipMode(), p.Spec.CIDR)
}

// Encap is an encapsulation that a pool can ask for.
type Encap string

// The encapsulations.
const (
	EncapIPIP  Encap = "IPIP"
	EncapVXLAN Encap = "VXLAN"
)

// Field is the field of an IPPool's spec that asks for it.
func (e Encap) Field() string { return strings.ToLower(string(e)) + "Mode" }

// AsksFor reports whether a pool asks for an encapsulation.
func (p *IPPool) AsksFor(e Encap) bool {
	if e == EncapVXLAN {
		return p.Spec.VXLANMode.on()
	}
	return e == EncapIPIP && p.Spec.IPIPMode.on()
}

func (p *IPPool) ipipMode() EncapMode {
	if p.Spec.IPIPMode == "" {
		return EncapNever
	}
	return p.Spec.IPIPMode
}

// IPPoolStatus says whether the pool is in use and, if not, why. It is written
// by manx-controllers, at most every ten seconds.
type IPPoolStatus struct {
	// +listType=map
	// +listMapKey=type
	// +optional
	Conditions []metav1.Condition `json:"conditions,omitempty"`

	// Use is how much of the pool is taken.
	// +optional
	Use *IPPoolUse `json:"use,omitempty"`
}

// IPPoolUse is how much of a pool is taken.
type IPPoolUse struct {
	// Blocks is the number of blocks that exist in the pool.
	Blocks int64 `json:"blocks"`

	// Addresses is the number of addresses that are assigned.
	Addresses int64 `json:"addresses"`

	// Capacity is the number of addresses that can be assigned: the size of the
	// range less what an IPReservation holds back, at most 2^63-1.
	Capacity int64 `json:"capacity"`

	// Percent is the share of Capacity that is assigned, such as 12.5%.
	Percent string `json:"percent"`
}
