package v1

import metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

// BGPFilter says which routes a BGPPeer may receive and send.
//
// +kubebuilder:object:root=true
// +kubebuilder:resource:scope=Cluster,categories=manx
// +kubebuilder:printcolumn:name="Age",type=date,JSONPath=`.metadata.creationTimestamp`
type BGPFilter struct {
	metav1.TypeMeta   `json:",inline"`
	metav1.ObjectMeta `json:"metadata,omitempty"`

	Spec BGPFilterSpec `json:"spec,omitempty"`
}

// BGPFilterList is a list of BGPFilters.
//
// +kubebuilder:object:root=true
type BGPFilterList struct {
	metav1.TypeMeta `json:",inline"`
	metav1.ListMeta `json:"metadata,omitempty"`
	Items           []BGPFilter `json:"items"`
}

// BGPFilterSpec has the rules per direction and family. The first rule that
// matches decides; without one the peer's next filter is asked.
type BGPFilterSpec struct {
	// +listType=atomic
	// +optional
	ExportV4 []BGPFilterRule `json:"exportV4,omitempty"`
	// +listType=atomic
	// +optional
	ImportV4 []BGPFilterRule `json:"importV4,omitempty"`
	// +listType=atomic
	// +optional
	ExportV6 []BGPFilterRule `json:"exportV6,omitempty"`
	// +listType=atomic
	// +optional
	ImportV6 []BGPFilterRule `json:"importV6,omitempty"`
}

// BGPFilterAction is what a rule does with a route that matches.
//
// +kubebuilder:validation:Enum=Accept;Reject
type BGPFilterAction string

// The actions of a rule.
const (
	FilterAccept BGPFilterAction = "Accept"
	FilterReject BGPFilterAction = "Reject"
)

// BGPFilterMatchOperator compares a route's prefix with a rule's cidr.
//
// +kubebuilder:validation:Enum=Equal;NotEqual;In;NotIn
type BGPFilterMatchOperator string

// The operators of a rule.
const (
	MatchEqual    BGPFilterMatchOperator = "Equal"
	MatchNotEqual BGPFilterMatchOperator = "NotEqual"
	MatchIn       BGPFilterMatchOperator = "In"
	MatchNotIn    BGPFilterMatchOperator = "NotIn"
)

// BGPFilterRule accepts or rejects the routes that meet all of its conditions.
// An absent condition is met by every route.
//
// +structType=atomic
// +kubebuilder:validation:XValidation:rule="(has(self.cidr) && size(self.cidr) > 0) == (has(self.matchOperator) && size(self.matchOperator) > 0)",message="cidr and matchOperator go together"
// +kubebuilder:validation:XValidation:rule="!has(self.prefixLength) || (has(self.cidr) && size(self.cidr) > 0)",message="prefixLength needs cidr"
// +kubebuilder:validation:XValidation:rule="!has(self.operations) || size(self.operations) == 0 || self.action == 'Accept'",message="operations need action Accept"
type BGPFilterRule struct {
	// +kubebuilder:validation:MaxLength=43
	// +optional
	CIDR string `json:"cidr,omitempty"`
	// +optional
	MatchOperator BGPFilterMatchOperator `json:"matchOperator,omitempty"`
	// PrefixLength bounds the route's prefix length.
	// +optional
	PrefixLength *BGPFilterPrefixLength `json:"prefixLength,omitempty"`
	// Source RemotePeers is met by routes learned over BGP.
	// +kubebuilder:validation:Enum=RemotePeers
	// +optional
	Source string `json:"source,omitempty"`
	// Interface is met by routes out of that interface; * stands for any text.
	// +optional
	Interface string `json:"interface,omitempty"`
	// +kubebuilder:validation:Enum=eBGP;iBGP
	// +optional
	PeerType string `json:"peerType,omitempty"`
	// +optional
	Communities *BGPFilterCommunities `json:"communities,omitempty"`
	// ASPathPrefix is met by routes whose AS path starts with it.
	// +listType=atomic
	// +optional
	ASPathPrefix []ASNumber `json:"asPathPrefix,omitempty"`
	// Priority is met by routes of that kernel metric.
	// +kubebuilder:validation:Minimum=1
	// +kubebuilder:validation:Maximum=2147483646
	// +optional
	Priority *int `json:"priority,omitempty"`

	Action BGPFilterAction `json:"action"`

	// Operations change an accepted route, in order.
	// +kubebuilder:validation:MinItems=1
	// +kubebuilder:validation:MaxItems=10
	// +listType=atomic
	// +optional
	Operations []BGPFilterOperation `json:"operations,omitempty"`
}

// BGPFilterPrefixLength bounds a prefix length, both ends included.
//
// +structType=atomic
type BGPFilterPrefixLength struct {
	// +kubebuilder:validation:Minimum=0
	// +kubebuilder:validation:Maximum=128
	// +optional
	Min *int32 `json:"min,omitempty"`
	// +kubebuilder:validation:Minimum=0
	// +kubebuilder:validation:Maximum=128
	// +optional
	Max *int32 `json:"max,omitempty"`
}

// BGPFilterCommunities is met by routes that carry the community.
//
// +structType=atomic
type BGPFilterCommunities struct {
	// +kubebuilder:validation:MinItems=1
	// +kubebuilder:validation:MaxItems=1
	// +listType=atomic
	Values []string `json:"values"`
}

// BGPFilterOperation changes a route. Exactly one field is set.
//
// +structType=atomic
// +kubebuilder:validation:MinProperties=1
// +kubebuilder:validation:MaxProperties=1
type BGPFilterOperation struct {
	// +optional
	AddCommunity *BGPFilterAddCommunity `json:"addCommunity,omitempty"`
	// +optional
	PrependASPath *BGPFilterPrependASPath `json:"prependASPath,omitempty"`
	// +optional
	SetPriority *BGPFilterSetPriority `json:"setPriority,omitempty"`
}

// BGPFilterAddCommunity adds a community: aa:nn (RFC 1997) or aa:nn:mm (RFC 8092).
//
// +structType=atomic
type BGPFilterAddCommunity struct {
	// +kubebuilder:validation:MaxLength=32
	Value string `json:"value"`
}

// BGPFilterPrependASPath puts AS numbers before the path, in the order given.
//
// +structType=atomic
type BGPFilterPrependASPath struct {
	// +kubebuilder:validation:MinItems=1
	// +kubebuilder:validation:MaxItems=10
	// +listType=atomic
	Prefix []ASNumber `json:"prefix"`
}

// BGPFilterSetPriority sets the kernel metric.
//
// +structType=atomic
type BGPFilterSetPriority struct {
	// +kubebuilder:validation:Minimum=1
	// +kubebuilder:validation:Maximum=2147483646
	Value int `json:"value"`
}
