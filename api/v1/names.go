package v1

import (
	"crypto/sha256"
	"crypto/sha3"
	"encoding/base32"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"net/netip"
	"strings"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/validation"
)

// Labels of a BlockAffinity. Calico 3.31 and later finds affinities by them.
const (
	LabelHostnameHash = "projectcalico.org/hostname-hash"
	LabelAffinityType = "projectcalico.org/affinity-type"
	LabelIPVersion    = "projectcalico.org/ip-version"
)

// AnnotationMetadata keeps the metadata that a user of calicoctl gave, as JSON.
const AnnotationMetadata = "projectcalico.org/metadata"

// BlockName returns the object name of a block: 10.0.0.64/26 is 10-0-0-64-26.
func BlockName(cidr netip.Prefix) string {
	return strings.NewReplacer(".", "-", ":", "-", "/", "-").Replace(cidr.String())
}

// maxNameLength is the length from which Calico shortens affinity names; a
// Kubernetes object name has at most 253 characters.
const maxNameLength = 253

// AffinityName returns the object name of a node's affinity to a block:
// node1-10-0-0-64-26. A name that would be too long keeps the block whole, loses
// the end of the node's name and gains 11 digits of a SHA-256 over both.
func AffinityName(node string, cidr netip.Prefix) string {
	block := BlockName(cidr)
	name := node + "-" + block
	if len(name) < maxNameLength {
		return name
	}
	const digits = 11
	sum := sha256.Sum256([]byte(node + "+" + block))
	keep := maxNameLength - 1 - len(block) - digits - len("--")
	return fmt.Sprintf("%s-%s-%s", node[:keep], block, hex.EncodeToString(sum[:])[:digits])
}

// HandleName returns the object name of a handle: its lower case. A handle that makes no
// object name so, such as one of a CNI network with a '_', or a long one, gets one in
// which other characters are '-', followed by 11 digits of its SHA-256; Calico has none
// for it.
func HandleName(handle string) string {
	name := strings.ToLower(handle)
	if len(validation.IsDNS1123Subdomain(name)) == 0 {
		return name
	}
	const digits = 11
	sum := sha256.Sum256([]byte(handle))
	name = strings.Map(func(r rune) rune {
		if r >= 'a' && r <= 'z' || r >= '0' && r <= '9' {
			return r
		}
		return '-'
	}, name)
	if name = strings.Trim(name[:min(len(name), maxNameLength-1-digits)], "-"); name == "" {
		name = "handle"
	}
	return name + "-" + hex.EncodeToString(sum[:])[:digits]
}

// HostnameHash returns the value of LabelHostnameHash for a node: base32 without
// padding of the SHA3-256 of its name, because a label value has at most 63
// characters and a node name may have 253.
func HostnameHash(node string) string {
	sum := sha3.Sum256([]byte(node))
	return base32.StdEncoding.WithPadding(base32.NoPadding).EncodeToString(sum[:])
}

// HostAffinity returns the affinity of a block that a node owns: host:NODE.
func HostAffinity(node string) string { return AffinityTypeHost + ":" + node }

// AffinityLabels returns the labels of a node's affinity to a block.
func AffinityLabels(node string, cidr netip.Prefix) map[string]string {
	version := "4"
	if cidr.Addr().Is6() {
		version = "6"
	}
	return map[string]string{
		LabelHostnameHash: HostnameHash(node),
		LabelAffinityType: AffinityTypeHost,
		LabelIPVersion:    version,
	}
}

// UserMetadata returns the labels and annotations that the user of o gave: those
// in the annotation projectcalico.org/metadata when it is there, else o's own.
func UserMetadata(o metav1.ObjectMeta) (labels, annotations map[string]string, err error) {
	text, ok := o.Annotations[AnnotationMetadata]
	if !ok {
		return o.Labels, o.Annotations, nil
	}
	var user struct {
		Labels      map[string]string `json:"labels"`
		Annotations map[string]string `json:"annotations"`
	}
	if err := json.Unmarshal([]byte(text), &user); err != nil {
		return nil, nil, fmt.Errorf("annotation %s: %w", AnnotationMetadata, err)
	}
	return user.Labels, user.Annotations, nil
}
