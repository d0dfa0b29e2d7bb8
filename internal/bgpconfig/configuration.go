package bgpconfig

import (
	"errors"
	"fmt"
	"net/netip"
	"time"

	apiv1 "github.com/manx-cni/manx/api/v1"
	"github.com/manx-cni/manx/bgp"
	"github.com/manx-cni/manx/bgp/services"
	"github.com/manx-cni/manx/internal/excerpt"
)

// Configuration is what a BGPConfiguration says. Zero fields are not set.
type Configuration struct {
	Mesh           bool
	AS             uint32
	ListenPort     uint16
	MeshPassword   *SecretKey
	MeshRestart    time.Duration
	Advertisements []bgp.Advertisement
	Services       services.Ranges
}

// ParseConfiguration reads a BGPConfiguration. What is wrong with it is left out and said.
func ParseConfiguration(o *apiv1.BGPConfiguration) (c Configuration, err error) {
	s := o.Spec
	c = Configuration{Mesh: s.NodeToNodeMeshEnabled == nil || *s.NodeToNodeMeshEnabled, ListenPort: s.ListenPort}
	var errs []error
	if s.ASNumber != nil {
		if c.AS = uint32(*s.ASNumber); c.AS == 0 {
			errs = append(errs, fmt.Errorf("spec.asNumber 0 is reserved (RFC 7607): want %s", apiv1.ASNumberForms))
		}
	}
	if p := s.NodeMeshPassword; p != nil && p.SecretKeyRef != nil {
		// A reference that is not complete holds the mesh down: see Snapshot.Password.
		c.MeshPassword = &SecretKey{p.SecretKeyRef.Name, p.SecretKeyRef.Key}
	}
	c.MeshRestart, err = seconds("spec.nodeMeshMaxRestartTime", s.NodeMeshMaxRestartTime, 1, maxRestart)
	errs = append(errs, err)

	for _, list := range []struct {
		name string
		from []apiv1.ServiceIPBlock
		to   *[]netip.Prefix
	}{
		{"serviceClusterIPs", s.ServiceClusterIPs, &c.Services.ClusterIPs},
		{"serviceExternalIPs", s.ServiceExternalIPs, &c.Services.ExternalIPs},
		{"serviceLoadBalancerIPs", s.ServiceLoadBalancerIPs, &c.Services.LoadBalancerIPs},
	} {
		for i, block := range list.from {
			prefix, err := serviceRange(block.CIDR)
			if err != nil {
				errs = append(errs, fmt.Errorf("spec.%s[%d].cidr: %w", list.name, i, err))
				continue
			}
			*list.to = append(*list.to, prefix)
		}
	}
	if a := s.ServiceLoadBalancerAggregation; a != nil {
		c.Services.HostRoutes = *a == "Disabled"
		if *a != "Enabled" && *a != "Disabled" {
			errs = append(errs, fmt.Errorf("spec.serviceLoadBalancerAggregation %q: want Enabled or Disabled", excerpt.Value(*a)))
		}
	}

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

// serviceRange reads a range of services. A default route is none: it would draw all
// packets of the routers to the nodes.
func serviceRange(text string) (netip.Prefix, error) {
	p, err := netip.ParsePrefix(text)
	switch {
	case err != nil || p != p.Masked() || p.Addr().Is4In6():
		return netip.Prefix{}, fmt.Errorf("%q: want a range such as 10.96.0.0/12, or an address such as 192.0.2.7/32, without host bits",
			excerpt.Value(text))
	case p.Bits() == 0:
		return netip.Prefix{}, fmt.Errorf("%q: is every address; want the services' ranges", excerpt.Value(text))
	}
	return p, nil
}
