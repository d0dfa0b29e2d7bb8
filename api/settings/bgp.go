package settings

import "slices"

const (
	noPodPeers = "this version of Manx does not peer with pods"

	readsConfiguration = "internal/bgpconfig.TestParseConfiguration"
	readsPeer          = "internal/bgpconfig.TestParsePeer"
	readsFilter        = "internal/bgpconfig.TestParseFilter"
	routerOptions      = "bgp/speaker/gobgp.TestRouterOptions"
	announcesServices  = "bgp/services.TestAnnounce"
	explicitPeers      = "bgp/peering.TestExplicit"
)

var bgpConfiguration = Kind{
	Kind: "BGPConfiguration", Plural: "bgpconfigurations", Only: []string{"default", "node."},
	Entries: slices.Concat([]Entry{
		none("spec.logSeverityScreen", "use FELIX_LOGSEVERITYSCREEN of manx-node", "Info"),
		{Name: "spec.nodeToNodeMeshEnabled", Effect: ActedOn, Shown: "bgp/peering.TestPeers",
			Why: "false ends the sessions between nodes but for those of BGPPeers; a node without any is not ready"},
		acted("spec.asNumber", "internal/datastore.TestBGPConfigurationDefaults"),
		acted("spec.listenPort", "internal/datastore.TestBGPConfigurationDefaults"),
		none("spec.bindMode", "the speaker listens on the node's own addresses, as with NodeIP", "NodeIP"),
		none("spec.ignoredInterfaces", "only blocks and addresses of pools are announced, never those of interfaces", Any),
		{Name: "spec.serviceClusterIPs[].cidr", Effect: ActedOn, Shown: announcesServices,
			Why: "to the peers of BGPPeers; a node with the label node.kubernetes.io/exclude-from-external-load-balancers, " +
				"whatever its value, announces only addresses of services with externalTrafficPolicy Local"},
		acted("spec.serviceExternalIPs[].cidr", announcesServices),
		acted("spec.serviceLoadBalancerIPs[].cidr", announcesServices),
		acted("spec.serviceLoadBalancerAggregation", announcesServices),
	}, below("spec.communities[].", readsConfiguration, "name", "value"),
		below("spec.prefixAdvertisements[].", readsConfiguration, "cidr", "communities"),
		password("spec.nodeMeshPassword", "internal/datastore.TestPasswords"), []Entry{
			acted("spec.nodeMeshMaxRestartTime", readsConfiguration),
			none("spec.localWorkloadPeeringIPV4", noPodPeers),
			none("spec.localWorkloadPeeringIPV6", noPodPeers),
			none("spec.programClusterRoutes", "Manx always writes the routes between nodes", "Disabled"),
			none("spec.ipv4NormalRoutePriority", "Manx's routes have the metric 0", "0"),
			none("spec.ipv6NormalRoutePriority", "Manx's routes have the kernel's metric", "0"),
		}),
}

var bgpPeer = Kind{
	Kind: "BGPPeer", Plural: "bgppeers",
	Entries: slices.Concat([]Entry{
		acted("spec.node", explicitPeers),
		acted("spec.nodeSelector", explicitPeers),
		acted("spec.peerIP", readsPeer),
		acted("spec.asNumber", readsPeer),
		acted("spec.localASNumber", routerOptions),
		acted("spec.peerSelector", explicitPeers),
		refused("spec.localWorkloadSelector", noPodPeers+"; remove the BGPPeer"),
		acted("spec.reversePeering", explicitPeers),
		{Name: "spec.keepOriginalNextHop", Effect: ActedOn, Shown: readsPeer, Why: "nextHopMode comes first"},
		acted("spec.nextHopMode", "bgp/policy.TestSessions"),
	}, password("spec.password", routerOptions), []Entry{
		acted("spec.sourceAddress", explicitPeers),
		acted("spec.maxRestartTime", readsPeer),
		acted("spec.keepaliveTime", routerOptions),
		acted("spec.numAllowedLocalASNumbers", readsPeer),
		acted("spec.ttlSecurity", routerOptions),
		acted("spec.reachableBy", "felix.TestPeerBehindGateway"),
		{Name: "spec.filters", Effect: ActedOn, Shown: "bgp/speaker/gobgp.TestRouter",
			Why: "nothing passes a session that names a BGPFilter that is not there, or not valid"},
	}),
}

var bgpFilter = Kind{
	Kind: "BGPFilter", Plural: "bgpfilters",
	Entries: slices.Concat(
		rule("spec.exportV4[]."), rule("spec.importV4[]."), rule("spec.exportV6[]."), rule("spec.importV6[]."),
	),
}

// rule has the entries of a BGPFilter's rule.
func rule(prefix string) []Entry {
	return slices.Concat(
		below(prefix, readsFilter, "cidr", "matchOperator", "prefixLength.min", "prefixLength.max", "source"),
		[]Entry{{Name: prefix + "interface", Effect: Refused, Weight: NotReady,
			Why: "Manx announces ranges and addresses, not the routes of interfaces, so that the BGPFilter is not valid; match their cidr"}},
		below(prefix, readsFilter, "peerType", "communities.values", "asPathPrefix", "priority", "action",
			"operations[].addCommunity.value", "operations[].prependASPath.prefix", "operations[].setPriority.value"),
	)
}

// below has an entry for each field of a structure, all acted on, as one test shows.
func below(prefix, shown string, names ...string) (out []Entry) {
	for _, n := range names {
		out = append(out, acted(prefix+n, shown))
	}
	return out
}

// password has the entries of a reference to a password.
func password(prefix, shown string) []Entry {
	return []Entry{
		{Name: prefix + ".secretKeyRef.name", Effect: ActedOn, Shown: shown,
			Why: "of a Secret in kube-system; while it cannot be read, the sessions stay down"},
		acted(prefix+".secretKeyRef.key", shown),
		none(prefix+".secretKeyRef.optional", "without its password a session stays down", "false"),
	}
}
