// Package v1 holds the Go types of the custom resources Manx shares with
// Calico: group crd.projectcalico.org, version v1, all cluster scoped.
//
// What Manx does with each field is in api/settings, and a test there fails for a field
// that is not: the descriptions in the CRDs are completed from it.
//
// The JSON names, the types and the required fields are Calico's, so a cluster's
// existing objects, its YAML and calicoctl keep working. Every field is here,
// also those Manx does not act on: a Go struct that lacks a field would drop it
// on the next write. The exceptions are FelixConfiguration and
// KubeControllersConfiguration, whose schemas let unknown settings through: Manx
// patches the one and only reads the other.
//
// The IPAM kinds (IPAMBlock, BlockAffinity, IPAMHandle, IPAMConfig) are plain
// objects. The others may carry the annotation projectcalico.org/metadata, in
// which calicoctl keeps the labels and annotations its user gave; see
// UserMetadata.
//
// The package is a leaf: it may import apimachinery and nothing of Manx. The
// deep-copy functions and the YAML in manifests/crds are generated from it by
// hack/tools/generate.sh. The schemas refuse what is wrong at the door, but an object
// may be older than the schema, so readers call Validate as well.
//
// +kubebuilder:object:generate=true
// +groupName=crd.projectcalico.org
package v1

//go:generate ../../hack/tools/generate.sh
