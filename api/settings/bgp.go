package settings

const (
	onlyMesh    = "this version of Manx has the mesh of nodes only, and makes no session from a BGPPeer"
	onlyMeshOut = "this version of Manx announces the nodes' blocks and borrowed addresses only"
	noPassword  = "the sessions of this version of Manx have no password (TCP-MD5): they would run without it; " +
		"remove the field, or keep others from the nodes' port of BGP"
)

var bgpConfiguration = Kind{
	Kind: "BGPConfiguration", Plural: "bgpconfigurations", Only: []string{"default"},
	Entries: []Entry{
		none("spec.logSeverityScreen", "use FELIX_LOGSEVERITYSCREEN of manx-node", "Info"),
		{Name: "spec.nodeToNodeMeshEnabled", Effect: ActedOn, Shown: "bgp/peering.TestPeers",
			Why: "false ends all sessions between nodes, and nodes are not ready then: this version of Manx has no other peers"},
		acted("spec.asNumber", "internal/datastore.TestBGPConfigurationDefaults"),
		acted("spec.listenPort", "internal/datastore.TestBGPConfigurationDefaults"),
		none("spec.bindMode", "the speaker listens on the node's own addresses, as with NodeIP", "NodeIP"),
		none("spec.ignoredInterfaces", "only blocks and addresses of pools are announced, never those of interfaces", Any),
		none("spec.serviceClusterIPs", onlyMeshOut),
		none("spec.serviceExternalIPs", onlyMeshOut),
		none("spec.serviceLoadBalancerIPs", onlyMeshOut),
		none("spec.serviceLoadBalancerAggregation", onlyMeshOut, "Enabled"),
		none("spec.communities", "this version of Manx announces no communities"),
		none("spec.prefixAdvertisements", "this version of Manx announces no communities"),
		refused("spec.nodeMeshPassword", noPassword),
		none("spec.nodeMeshMaxRestartTime", "peers keep a restarting node's paths for 120 s", "2m0s", "120s", "2m"),
		none("spec.localWorkloadPeeringIPV4", "this version of Manx does not peer with pods"),
		none("spec.localWorkloadPeeringIPV6", "this version of Manx does not peer with pods"),
		none("spec.programClusterRoutes", "Manx always writes the routes between nodes", "Disabled"),
		none("spec.ipv4NormalRoutePriority", "Manx's routes have the metric 0", "0"),
		none("spec.ipv6NormalRoutePriority", "Manx's routes have the kernel's metric", "0"),
	},
}

var bgpPeer = Kind{
	Kind: "BGPPeer", Plural: "bgppeers",
	Entries: []Entry{
		none("spec.node", onlyMesh),
		none("spec.nodeSelector", onlyMesh),
		none("spec.peerIP", onlyMesh),
		none("spec.asNumber", onlyMesh),
		none("spec.localASNumber", onlyMesh),
		none("spec.peerSelector", onlyMesh),
		none("spec.localWorkloadSelector", onlyMesh),
		none("spec.reversePeering", onlyMesh, "Auto"),
		none("spec.keepOriginalNextHop", onlyMesh, "false"),
		none("spec.nextHopMode", onlyMesh, "Auto"),
		refused("spec.password", onlyMesh+", with a password or without; remove the field"),
		none("spec.sourceAddress", onlyMesh, "UseNodeIP"),
		none("spec.maxRestartTime", onlyMesh),
		none("spec.keepaliveTime", onlyMesh),
		none("spec.numAllowedLocalASNumbers", onlyMesh, "0"),
		none("spec.ttlSecurity", onlyMesh),
		none("spec.reachableBy", onlyMesh),
		none("spec.filters", onlyMesh),
	},
}

const noFilters = "this version of Manx has no sessions that a BGPFilter could be for; " +
	"what nodes learn from one another is decided by the pools"

var bgpFilter = Kind{
	Kind: "BGPFilter", Plural: "bgpfilters",
	Entries: []Entry{
		none("spec.exportV4", noFilters),
		none("spec.importV4", noFilters),
		none("spec.exportV6", noFilters),
		none("spec.importV6", noFilters),
	},
}
