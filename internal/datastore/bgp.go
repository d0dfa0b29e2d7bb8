package datastore

import (
	"reflect"
	"slices"
	"strings"

	apiv1 "github.com/manx-cni/manx/api/v1"
	"github.com/manx-cni/manx/bgp"
	"github.com/manx-cni/manx/internal/bgpconfig"
)

// settleBGP fills Calico's defaults into the BGPConfiguration "default", and adds what
// those of single nodes say. A field that is wrong is left out, and why is recorded.
func settleBGP(all []*apiv1.BGPConfiguration) (out BGPConfiguration, invalid []Invalid) {
	out = BGPConfiguration{
		NodeToNodeMesh: true, AS: defaultAS, ListenPort: defaultListenPort,
		Ports: map[string]uint16{}, Advertisements: map[string][]bgp.Advertisement{},
	}
	for _, c := range all {
		node, one := strings.CutPrefix(c.Name, bgpNodePrefix)
		if !one && c.Name != apiv1.DefaultName {
			continue // named in the settings without effect
		}
		read, err := bgpconfig.ParseConfiguration(c)
		if err != nil {
			invalid = append(invalid, Invalid{Kind: kindBGPConf, Name: c.Name, Reason: oneLine(err) + "; the object is used without it"})
		}
		if one {
			if ignored := c.Spec; !only(ignored) {
				invalid = append(invalid, Invalid{Kind: kindBGPConf, Name: c.Name,
					Reason: "of an object for one node only listenPort and prefixAdvertisements with communities count: " +
						"put the other fields into the object default, or take them out"})
			}
			out.Advertisements[node] = read.Advertisements
			if read.ListenPort != 0 {
				out.Ports[node] = read.ListenPort
			}
			continue
		}
		out.Advertisements[""] = read.Advertisements
		out.Services = read.Services
		out.NodeToNodeMesh, out.MeshPassword, out.MeshRestart = read.Mesh, read.MeshPassword, read.MeshRestart
		if read.AS != 0 {
			out.AS = read.AS
		}
		if read.ListenPort != 0 {
			out.ListenPort = read.ListenPort
		}
	}
	return out, invalid
}

// only reports whether a BGPConfiguration says no more than one for a single node can.
func only(s apiv1.BGPConfigurationSpec) bool {
	s.LogSeverityScreen, s.ListenPort, s.PrefixAdvertisements, s.Communities = "", 0, nil, nil
	return reflect.DeepEqual(s, apiv1.BGPConfigurationSpec{})
}

// bgpNodePrefix begins the name of a BGPConfiguration for one node.
const bgpNodePrefix = "node."

// settlePeers are the valid BGPPeers by name.
func settlePeers(all []*apiv1.BGPPeer) (peers []bgpconfig.Peer, invalid []Invalid) {
	for _, o := range all {
		p, err := bgpconfig.ParsePeer(o)
		if err != nil {
			invalid = append(invalid, Invalid{Kind: kindBGPPeer, Name: o.Name, Reason: oneLine(err)})
			continue
		}
		peers = append(peers, p)
	}
	slices.SortFunc(peers, func(a, b bgpconfig.Peer) int { return strings.Compare(a.Name(), b.Name()) })
	return peers, invalid
}

// settleFilters are the valid BGPFilters by name. A peering that names another one is shut:
// half a filter could let through what the rest keeps out.
func settleFilters(all []*apiv1.BGPFilter) (filters map[string]bgp.Filter, invalid []Invalid) {
	filters = make(map[string]bgp.Filter, len(all))
	for _, o := range all {
		f, err := bgpconfig.ParseFilter(o)
		if err != nil {
			invalid = append(invalid, Invalid{Kind: kindBGPFilter, Name: o.Name, Reason: oneLine(err)})
			continue
		}
		filters[o.Name] = f
	}
	return filters, invalid
}
