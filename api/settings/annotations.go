package settings

const (
	noShaping  = "this version of Manx does not limit what pods send or receive"
	noSpoofing = "packets of a pod leave it with its own addresses only; remove the annotation"
	notHad     = "this version does not have it; remove the annotation"
)

// PodAnnotations are those by which a pod asks for something of its network. Those of
// pools may stand on the namespace too.
var PodAnnotations = []Entry{
	acted("cni.projectcalico.org/ipv4pools", "internal/agent.TestWish"),
	acted("cni.projectcalico.org/ipv6pools", "internal/agent.TestWish"),
	acted("cni.projectcalico.org/ipAddrs", "internal/agent.TestWish"),
	acted("cni.projectcalico.org/ipFamilies", "internal/agent.TestWish"),
	acted("cni.projectcalico.org/hwAddr", "internal/agent.TestWish"),
	refused("cni.projectcalico.org/ipAddrsNoIpam", notHad),
	refused("cni.projectcalico.org/floatingIPs", notHad),
	refused("cni.projectcalico.org/allowedSourcePrefixes", noSpoofing),
	none("kubernetes.io/ingress-bandwidth", noShaping),
	none("kubernetes.io/egress-bandwidth", noShaping),
	none("qos.projectcalico.org/ingressBandwidth", noShaping),
	none("qos.projectcalico.org/egressBandwidth", noShaping),
	none("qos.projectcalico.org/ingressBurst", noShaping),
	none("qos.projectcalico.org/egressBurst", noShaping),
	none("qos.projectcalico.org/ingressPeakrate", noShaping),
	none("qos.projectcalico.org/egressPeakrate", noShaping),
	none("qos.projectcalico.org/ingressMinburst", noShaping),
	none("qos.projectcalico.org/egressMinburst", noShaping),
	none("qos.projectcalico.org/ingressPacketRate", noShaping),
	none("qos.projectcalico.org/egressPacketRate", noShaping),
	none("qos.projectcalico.org/ingressPacketBurst", noShaping),
	none("qos.projectcalico.org/egressPacketBurst", noShaping),
	none("qos.projectcalico.org/ingressMaxConnections", noShaping),
	none("qos.projectcalico.org/egressMaxConnections", noShaping),
	none("qos.projectcalico.org/dscp", "this version of Manx does not mark packets"),
	acted("cni.projectcalico.org/podIP", "internal/agent.TestPodRecordPatch"),
	acted("cni.projectcalico.org/podIPs", "internal/agent.TestPodRecordPatch"),
	acted("cni.projectcalico.org/containerID", "internal/agent.TestPodRecordPatch"),
}

// podPrefixes begin the annotations of pods that are about their network.
var podPrefixes = []string{"cni.projectcalico.org/", "qos.projectcalico.org/"}

// NodeAnnotations are those of Kubernetes Nodes.
var NodeAnnotations = []Entry{
	acted("projectcalico.org/IPv4Address", "internal/datastore.TestParseNode"),
	acted("projectcalico.org/IPv6Address", "internal/datastore.TestParseNodeIPv6"),
	acted("projectcalico.org/ASNumber", "internal/datastore.TestParseNode"),
	{Name: "projectcalico.org/RouteReflectorClusterID", Effect: ActedOn, Shown: "bgp/peering.TestPeers",
		Why: "the node leaves the mesh, and has the sessions of BGPPeers alone"},
	acted("projectcalico.org/IPv4IPIPTunnelAddr", "internal/datastore.TestParseNodeTunnel"),
	acted("manx.io/bgp-drain", "internal/agent.TestDrain"),
	acted("manx.io/pool-modes", "felix/mode.TestParse"),
	none("projectcalico.org/IPv4VXLANTunnelAddr", noVXLAN, Any),
	none("projectcalico.org/VXLANTunnelMACAddr", noVXLAN, Any),
	none("projectcalico.org/IPv6VXLANTunnelAddr", noVXLAN, Any),
	none("projectcalico.org/VXLANTunnelMACAddrV6", noVXLAN, Any),
	none("projectcalico.org/IPv4WireguardInterfaceAddr", noWG, Any),
	none("projectcalico.org/IPv6WireguardInterfaceAddr", noWG, Any),
	none("projectcalico.org/WireguardPublicKey", noWG, Any),
	none("projectcalico.org/WireguardPublicKeyV6", noWG, Any),
	none("projectcalico.org/Interfaces", "written by Calico's agents", Any),
	none("projectcalico.org/labels", "a node's labels are those of its Kubernetes Node", Any),
	none("projectcalico.org/annotations", "a node's annotations are those of its Kubernetes Node", Any),
}

// HandleAnnotations are those of IPAMHandles, which agents write.
var HandleAnnotations = []Entry{acted("manx.io/node", "test/admission.TestAgentMay")}

// PoolAnnotations are those of IPPools.
var PoolAnnotations = []Entry{
	acted("manx.io/force-ipip-mode", "internal/datastore.TestForcedModes"),
	acted("projectcalico.org/metadata", "internal/datastore.TestForcedModes"),
}
