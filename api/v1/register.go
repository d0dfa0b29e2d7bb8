package v1

import (
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
)

// GroupName is the API group of Calico's custom resources.
const GroupName = "crd.projectcalico.org"

// SchemeGroupVersion is the group and version of every kind in this package.
var SchemeGroupVersion = schema.GroupVersion{Group: GroupName, Version: "v1"}

// Plural resource names, as they stand in request paths and RBAC rules.
const (
	PluralIPPools             = "ippools"
	PluralIPAMBlocks          = "ipamblocks"
	PluralBlockAffinities     = "blockaffinities"
	PluralIPAMHandles         = "ipamhandles"
	PluralIPAMConfigs         = "ipamconfigs"
	PluralIPReservations      = "ipreservations"
	PluralBGPConfigurations   = "bgpconfigurations"
	PluralBGPPeers            = "bgppeers"
	PluralBGPFilters          = "bgpfilters"
	PluralFelixConfigurations = "felixconfigurations"
	PluralClusterInformations = "clusterinformations"
	PluralCalicoNodeStatuses  = "caliconodestatuses"

	PluralKubeControllersConfigurations = "kubecontrollersconfigurations"
)

// DefaultName is the name of the cluster-wide object of the singleton kinds:
// IPAMConfig, BGPConfiguration, FelixConfiguration, KubeControllersConfiguration
// and ClusterInformation.
const DefaultName = "default"

// Kind describes one kind of the group. All kinds are cluster scoped.
//
// +kubebuilder:object:generate=false
type Kind struct {
	Kind   string // as in an object's kind field
	Plural string // as in a request path
	New    func() runtime.Object
	List   func() runtime.Object
}

// Resource returns the group, version and plural name of the kind.
func (k Kind) Resource() schema.GroupVersionResource {
	return SchemeGroupVersion.WithResource(k.Plural)
}

// Kinds lists every kind of the group, sorted by plural name.
var Kinds = []Kind{
	kind[BGPConfiguration, BGPConfigurationList]("BGPConfiguration", PluralBGPConfigurations),
	kind[BGPFilter, BGPFilterList]("BGPFilter", PluralBGPFilters),
	kind[BGPPeer, BGPPeerList]("BGPPeer", PluralBGPPeers),
	kind[BlockAffinity, BlockAffinityList]("BlockAffinity", PluralBlockAffinities),
	kind[CalicoNodeStatus, CalicoNodeStatusList]("CalicoNodeStatus", PluralCalicoNodeStatuses),
	kind[ClusterInformation, ClusterInformationList]("ClusterInformation", PluralClusterInformations),
	kind[FelixConfiguration, FelixConfigurationList]("FelixConfiguration", PluralFelixConfigurations),
	kind[IPAMBlock, IPAMBlockList]("IPAMBlock", PluralIPAMBlocks),
	kind[IPAMConfig, IPAMConfigList]("IPAMConfig", PluralIPAMConfigs),
	kind[IPAMHandle, IPAMHandleList]("IPAMHandle", PluralIPAMHandles),
	kind[IPPool, IPPoolList]("IPPool", PluralIPPools),
	kind[IPReservation, IPReservationList]("IPReservation", PluralIPReservations),
	kind[KubeControllersConfiguration, KubeControllersConfigurationList]("KubeControllersConfiguration", PluralKubeControllersConfigurations),
}

// object is satisfied by a pointer to T that is an API object.
type object[T any] interface {
	*T
	runtime.Object
}

func kind[T, L any, PT object[T], PL object[L]](name, plural string) Kind {
	return Kind{
		Kind: name, Plural: plural,
		New:  func() runtime.Object { return PT(new(T)) },
		List: func() runtime.Object { return PL(new(L)) },
	}
}

// AddToScheme registers every kind of the group with s.
func AddToScheme(s *runtime.Scheme) error {
	for _, k := range Kinds {
		s.AddKnownTypeWithName(SchemeGroupVersion.WithKind(k.Kind), k.New())
		s.AddKnownTypeWithName(SchemeGroupVersion.WithKind(k.Kind+"List"), k.List())
	}
	metav1.AddToGroupVersion(s, SchemeGroupVersion)
	return nil
}
