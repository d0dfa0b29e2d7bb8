package datastore

import (
	"fmt"

	apiv1 "github.com/manx-cni/manx/api/v1"
)

// The MTUs of tunl0 that go all the way, in bytes: 576 is what every IPv4 host takes
// (RFC 791 §3.1), and the CNI plugin refuses less for a pod.
const minTunnelMTU, maxTunnelMTU = 576, 65535

// settleFelix are the FelixConfigurations by name. An MTU that pods could not be given
// is left out, and why is recorded; the rest of the object holds.
func settleFelix(confs []*apiv1.FelixConfiguration) (specs map[string]apiv1.FelixConfigurationSpec, invalid []Invalid) {
	specs = make(map[string]apiv1.FelixConfigurationSpec, len(confs))
	for _, c := range confs {
		spec := c.Spec
		if mtu := spec.IPIPMTU; mtu != nil && *mtu != 0 && (*mtu < minTunnelMTU || *mtu > maxTunnelMTU) {
			spec.IPIPMTU = nil
			invalid = append(invalid, Invalid{Kind: kindFelix, Name: c.Name,
				Reason: fmt.Sprintf("spec.ipipMTU %d: want 0 (follows the uplink), or %d to %d bytes; the object is used without it",
					*mtu, minTunnelMTU, maxTunnelMTU)})
		}
		specs[c.Name] = spec
	}
	return specs, invalid
}

// Felix returns the FelixConfiguration of a node: the object node.<name>, and for
// what that leaves open the one called default. Only the settings of IPIP are merged.
func (s *Snapshot) Felix(node string) apiv1.FelixConfigurationSpec {
	spec, all := s.felix[felixOf(node)], s.felix[apiv1.DefaultName]
	if spec.IPIPEnabled == nil {
		spec.IPIPEnabled = all.IPIPEnabled
	}
	if spec.IPIPMTU == nil {
		spec.IPIPMTU = all.IPIPMTU
	}
	return spec
}

// FelixSwitch returns what holds on a node for a setting that is on or off, and the
// FelixConfiguration that says so; false and "" when none does.
func (s *Snapshot) FelixSwitch(node string, of func(apiv1.FelixConfigurationSpec) *bool) (on bool, object string) {
	for _, name := range []string{felixOf(node), apiv1.DefaultName} {
		if v := of(s.felix[name]); v != nil {
			return *v, name
		}
	}
	return false, ""
}

// felixOf is the name of the FelixConfiguration of one node.
func felixOf(node string) string { return "node." + node }
