package settings

const (
	describes = "describes the installation; nothing follows from it"

	fillsNodeStatus = "internal/agent.TestNodeStatusWriter"
	watched         = "objects are watched, and looked at every minute"
	noPolicy        = "this version of Manx has no policy"
)

var clusterInformation = Kind{
	Kind: "ClusterInformation", Plural: "clusterinformations", Only: []string{"default"},
	Entries: []Entry{
		none("spec.clusterGUID", describes, Any),
		none("spec.clusterType", describes, Any),
		{Name: "spec.calicoVersion", Effect: ActedOn, Shown: "internal/datastore.TestCalicoVersion",
			Why: "v3.32 or later: nodes announce with the LOCAL_PREF of Calico's, 2147482623; calicoctl compares it with its own version"},
		none("spec.variant", describes, Any),
		acted("spec.datastoreReady", "internal/agent.TestDatastoreLocked"),
	},
}

var calicoNodeStatus = Kind{
	Kind: "CalicoNodeStatus", Plural: "caliconodestatuses",
	Entries: []Entry{
		{Name: "spec.node", Effect: ActedOn, Shown: fillsNodeStatus,
			Why: "the node's agent fills the first ten, by name, that name it; it takes Kubernetes 1.31 or newer"},
		acted("spec.classes", fillsNodeStatus),
		{Name: "spec.updatePeriodSeconds", Effect: ActedOn, Shown: fillsNodeStatus, Why: "less than 10 counts as 10"},
		{Name: "status.*", Effect: ActedOn, Shown: fillsNodeStatus, Why: "written by the agent, up to 500 peers and 500 routes of each family"},
	},
}

var kubeControllersConfiguration = Kind{
	Kind: "KubeControllersConfiguration", Plural: "kubecontrollersconfigurations", Only: []string{"default"},
	Entries: []Entry{
		none("spec.logSeverityScreen", "use LOG_LEVEL of manx-controllers", "Info"),
		none("spec.healthChecks", "manx-controllers always serves its probes", "Enabled"),
		none("spec.etcdV3CompactionPeriod", "the Kubernetes API is the only datastore", Any),
		none("spec.prometheusMetricsPort", "use METRICS_PORT of manx-controllers", "9094"),
		none("spec.debugProfilePort", "manx-controllers serves no profiles", "0"),
		none("spec.controllers.node.reconcilerPeriod", watched, "5m0s", "5m"),
		none("spec.controllers.node.syncLabels", "a node's labels are those of its Kubernetes Node", "Enabled"),
		none("spec.controllers.node.hostEndpoint.autoCreate", noPolicy, "Disabled"),
		none("spec.controllers.node.hostEndpoint.createDefaultHostEndpoint", noPolicy, "Enabled", "Disabled"),
		none("spec.controllers.node.hostEndpoint.templates", noPolicy),
		acted("spec.controllers.node.leakGracePeriod", "internal/controllers.TestSnapshot"),
		none("spec.controllers.policy.reconcilerPeriod", noPolicy, "5m0s", "5m"),
		none("spec.controllers.workloadEndpoint.reconcilerPeriod", watched, "5m0s", "5m"),
		none("spec.controllers.serviceAccount.reconcilerPeriod", noPolicy, "5m0s", "5m"),
		none("spec.controllers.namespace.reconcilerPeriod", watched, "5m0s", "5m"),
		none("spec.controllers.loadBalancer.assignIPs", "this version of Manx gives no addresses to Services", "RequestedServicesOnly"),
		none("spec.controllers.policyMigration.enabled", noPolicy, "Disabled"),
		none("status.*", "written by Calico's controllers, and kept"),
	},
}
