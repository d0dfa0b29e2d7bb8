package settings

const (
	noVXLAN   = "this version of Manx has no VXLAN"
	noWG      = "this version of Manx has no WireGuard"
	noEncrypt = "this version of Manx has no WireGuard: packets of pods would leave the node in clear"
)

// inEnvironment is for settings that are there as variables.
func inEnvironment(variable string) string {
	return "use " + variable + " of manx-node, which needs a restart"
}

var felixConfiguration = Kind{
	Kind: "FelixConfiguration", Plural: "felixconfigurations", Only: []string{"default", "node."},
	Entries: []Entry{
		acted("spec.ipipEnabled", "internal/datastore.TestTunnelMTU"),
		acted("spec.ipipMTU", "internal/datastore.TestTunnelMTU"),
		none("spec.vxlanEnabled", noVXLAN, "false"),
		none("spec.vxlanMTU", noVXLAN, "0"),
		none("spec.vxlanMTUV6", noVXLAN, "0"),
		none("spec.vxlanPort", noVXLAN+"; pods may send nothing to UDP port 4789 all the same", "4789"),
		none("spec.vxlanVNI", noVXLAN, "4096"),
		refused("spec.wireguardEnabled", noEncrypt, "false"),
		refused("spec.wireguardEnabledV6", noEncrypt, "false"),
		none("spec.wireguardMTU", noWG, "0"),
		none("spec.wireguardListeningPort", noWG, "51820"),
		none("spec.mtuIfacePattern", "the MTU is that of the interface with the node's address; use CNI_MTU"),
		none("spec.nftablesMode", "rules are in nftables; this version of Manx has no iptables backend", "Auto", "Enabled"),
		none("spec.routeRefreshInterval", inEnvironment("FELIX_ROUTEREFRESHINTERVAL"), "1m30s", "90s"),
		none("spec.interfaceRefreshInterval", inEnvironment("FELIX_ROUTEREFRESHINTERVAL"), "1m30s", "90s"),
		none("spec.reportingInterval", "manxctl status asks the agent itself; nothing is written", "0s", "0"),
		none("spec.deviceRouteProtocol", "Manx's routes have the protocol 70, by which it knows its own", "70"),
		refused("spec.defaultEndpointToHostAction",
			"this version of Manx has no policy: pods reach their own host; want Accept or Return, or no such field", "Accept", "Return"),
		none("spec.logSeverityScreen", inEnvironment("FELIX_LOGSEVERITYSCREEN"), "Info"),
		none("spec.healthEnabled", inEnvironment("FELIX_HEALTHENABLED"), "true"),
		none("spec.healthHost", inEnvironment("FELIX_HEALTHHOST"), "localhost"),
		none("spec.healthPort", inEnvironment("FELIX_HEALTHPORT"), "9099"),
		none("spec.prometheusMetricsEnabled", inEnvironment("FELIX_PROMETHEUSMETRICSENABLED"), "true"),
		none("spec.prometheusMetricsHost", inEnvironment("FELIX_PROMETHEUSMETRICSHOST"), "localhost"),
		none("spec.prometheusMetricsPort", inEnvironment("FELIX_PROMETHEUSMETRICSPORT"), "9091"),
		none("spec.programClusterRoutes", "Manx always writes the routes between nodes", "Enabled"),
	},
	Calico: []string{
		"allowIPIPPacketsFromWorkloads", "allowVXLANPacketsFromWorkloads", "awsSrcDstCheck", "bpfAttachType", "bpfCTLBLogFilter",
		"bpfConnectTimeLoadBalancing", "bpfConnectTimeLoadBalancingEnabled", "bpfConntrackLogLevel", "bpfConntrackMode", "bpfConntrackTimeouts",
		"bpfDSROptoutCIDRs", "bpfDataIfacePattern", "bpfDisableGROForIfaces", "bpfDisableUnprivileged", "bpfEnabled", "bpfEnforceRPF",
		"bpfExcludeCIDRsFromNAT", "bpfExportBufferSizeMB", "bpfExtToServiceConnmark", "bpfExternalServiceMode", "bpfForceTrackPacketsFromIfaces",
		"bpfHostConntrackBypass", "bpfHostNetworkedNATWithoutCTLB", "bpfJITHardening", "bpfKubeProxyEndpointSlicesEnabled",
		"bpfKubeProxyHealthzPort", "bpfKubeProxyIptablesCleanupEnabled", "bpfKubeProxyMinSyncPeriod", "bpfL3IfacePattern", "bpfLogFilters",
		"bpfLogLevel", "bpfMapSizeConntrack", "bpfMapSizeConntrackCleanupQueue", "bpfMapSizeConntrackScaling", "bpfMapSizeIPSets",
		"bpfMapSizeIfState", "bpfMapSizeNATAffinity", "bpfMapSizeNATBackend", "bpfMapSizeNATFrontend", "bpfMapSizePerCpuConntrack",
		"bpfMapSizeRoute", "bpfPSNATPorts", "bpfPolicyDebugEnabled", "bpfProfiling", "bpfRedirectToPeer", "chainInsertMode",
		"dataplaneDriver", "dataplaneWatchdogTimeout", "debugDisableLogDropping", "debugHost", "debugMemoryProfilePath", "debugPort",
		"debugSimulateCalcGraphHangAfter", "debugSimulateDataplaneApplyDelay", "debugSimulateDataplaneHangAfter", "deviceRouteSourceAddress",
		"deviceRouteSourceAddressIPv6", "disableConntrackInvalidCheck", "endpointReportingDelay", "endpointReportingEnabled",
		"endpointStatusPathPrefix", "externalNodesList", "failsafeInboundHostPorts", "failsafeOutboundHostPorts", "featureDetectOverride",
		"featureGates", "floatingIPs", "flowLogsCollectorDebugTrace", "flowLogsFlushInterval", "flowLogsGoldmaneServer",
		"flowLogsLocalReporter", "flowLogsPolicyEvaluationMode", "genericXDPEnabled", "goGCThreshold", "goMaxProcs", "goMemoryLimitMB",
		"healthTimeoutOverrides", "interfaceExclude", "interfacePrefix", "ipForwarding", "ipsetsRefreshInterval", "iptablesBackend",
		"iptablesFilterAllowAction", "iptablesFilterDenyAction", "iptablesLockFilePath", "iptablesLockProbeInterval", "iptablesLockTimeout",
		"iptablesMangleAllowAction", "iptablesMarkMask", "iptablesNATOutgoingInterfaceFilter", "iptablesPostWriteCheckInterval",
		"iptablesRefreshInterval", "ipv4ElevatedRoutePriority", "ipv4NormalRoutePriority", "ipv6ElevatedRoutePriority",
		"ipv6NormalRoutePriority", "ipv6Support", "istioAmbientMode", "istioDSCPMark", "kubeNodePortRanges", "liveMigrationRouteConvergenceTime",
		"logDebugFilenameRegex", "logFilePath", "logPrefix", "logSeverityFile", "logSeveritySys", "maxIpsetSize", "metadataAddr",
		"metadataPort", "natOutgoingAddress", "natOutgoingExclusions", "natPortRange", "netlinkTimeout", "nftablesFilterAllowAction",
		"nftablesFilterDenyAction", "nftablesMangleAllowAction", "nftablesMarkMask", "nftablesRefreshInterval", "openstackRegion",
		"policySyncPathPrefix", "prometheusGoMetricsEnabled", "prometheusMetricsCAFile", "prometheusMetricsCertFile",
		"prometheusMetricsClientAuth", "prometheusMetricsKeyFile", "prometheusProcessMetricsEnabled", "prometheusWireGuardMetricsEnabled",
		"removeExternalRoutes", "reportingTTL", "requireMTUFile", "routeSource", "routeSyncDisabled", "routeTableRange", "routeTableRanges",
		"serviceLoopPrevention", "sidecarAccelerationEnabled", "usageReportingEnabled", "usageReportingInitialDelay", "usageReportingInterval",
		"useInternalDataplaneDriver", "windowsManageFirewallRules", "wireguardHostEncryptionEnabled", "wireguardInterfaceName",
		"wireguardInterfaceNameV6", "wireguardKeepAlive", "wireguardListeningPortV6", "wireguardMTUV6", "wireguardRoutingRulePriority",
		"wireguardThreadingEnabled", "workloadSourceSpoofing", "xdpEnabled", "xdpRefreshInterval",
	},
}
