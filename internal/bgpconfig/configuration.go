package bgpconfig

import (
	"errors"
	"fmt"
	"net/netip"
	"time"

	apiv1 "github.com/manx-cni/manx/api/v1"
	"github.com/manx-cni/manx/bgp"
)

// Configuration is what a BGPConfiguration says. Zero fields are not set.
type Configuration struct {
	Mesh           bool
	AS             uint32
	ListenPort     uint16
	MeshPassword   *SecretKey
	MeshRestart    time.Duration
	Advertisements []bgp.Advertisement
}

// ParseConfiguration reads a BGPConfiguration. What is wrong with it is left out and said.
func ParseConfiguration(o *apiv1.BGPConfiguration) (c Configuration, err error) {
	s := o.Spec
	c = Configuration{Mesh: s.NodeToNodeMeshEnabled == nil || *s.NodeToNodeMeshEnabled, ListenPort: s.ListenPort}
	if s.ASNumber != nil {
		c.AS = uint32(*s.ASNumber)
	}
	var errs []error
	if p := s.NodeMeshPassword; p != nil && p.SecretKeyRef != nil {
		// A reference that is not complete holds the mesh down: see Snapshot.Password.
		c.MeshPassword = &SecretKey{p.SecretKeyRef.Name, p.SecretKeyRef.Key}
	}
	c.MeshRestart, err = seconds("spec.nodeMeshMaxRestartTime", s.NodeMeshMaxRestartTime, 1, maxRestart)
	errs = append(errs, err)

	named := map[string]bgp.Community{}
	for i, n := range s.Communities {
		community, err := bgp.ParseCommunity(n.Value)
		if err != nil {
			errs = append(errs, fmt.Errorf("spec.communities[%d].value: %w", i, err))
			continue
		}
		named[n.Name] = community
	}
	for i, a := range s.PrefixAdvertisements {
		prefix, err := netip.ParsePrefix(a.CIDR)
		if err != nil || prefix != prefix.Masked() {
			errs = append(errs, fmt.Errorf(
				"spec.prefixAdvertisements[%d].cidr %q: want a range such as 10.244.0.0/16, without host bits", i, a.CIDR))
			continue
		}
		out := bgp.Advertisement{Prefix: prefix}
		for j, text := range a.Communities {
			community, known := named[text]
			if !known {
				if community, err = bgp.ParseCommunity(text); err != nil {
					errs = append(errs, fmt.Errorf(
						"spec.prefixAdvertisements[%d].communities[%d]: %q is the name of none of spec.communities, and %w",
						i, j, text, err))
					continue
				}
			}
			out.Communities = append(out.Communities, community)
		}
		c.Advertisements = append(c.Advertisements, out)
	}
	return c, errors.Join(errs...)
}
