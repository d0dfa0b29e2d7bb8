package settings

const (
	onlyKubernetes = "the Kubernetes API is the only datastore"
	whyMTU         = "this version of Manx has no such tunnel"
	whyClear       = "this version of Manx does not encrypt, and traffic must not leave in clear when encryption was asked for; " +
		"false comes before a FelixConfiguration's "
	whyNoTypha = "agents watch the Kubernetes API themselves"
	whyStderr  = "Manx logs to standard error only"
	whyNoToken = "the CNI plugin has no credential to refresh"
)

var falsy = []string{"false", "0", "no", "n", "f"}

// stops is an entry of a variable whose other values stop the start: going on would
// be less safe than what it asks for.
func stops(name, why string, quiet ...string) Entry { return refused(name, why, quiet...) }

// Variables are those of manx-node that are accepted from Calico's manifests and not
// acted on. What the agent does act on is defined, with its values, in
// internal/config.
var Variables = []Entry{
	stops("DATASTORE_TYPE", onlyKubernetes, "kubernetes"),
	stops("FELIX_DATASTORETYPE", onlyKubernetes, "kubernetes"),
	stops("FELIX_WIREGUARDENABLED", whyClear+"wireguardEnabled", falsy...),
	stops("FELIX_WIREGUARDENABLEDV6", whyClear+"wireguardEnabledV6", falsy...),
	stops("CALICO_IPV6POOL_VXLAN", "this version of Manx has no VXLAN; packets to an IPv6 pool travel as they are", "never", "off"),
	stops("FELIX_DEFAULTENDPOINTTOHOSTACTION", "this version of Manx has no policy: pods reach their own host; "+
		"it comes before a FelixConfiguration's defaultEndpointToHostAction", "accept", "return"),
	none("CALICO_DISABLE_FILE_LOGGING", whyStderr, "true"),
	none("CALICO_STARTUP_LOGLEVEL", "FELIX_LOGSEVERITYSCREEN holds from the first line on"),
	none("CALICO_K8S_NODE_REF", "the Kubernetes Node is the one that NODENAME names"),
	none("CALICO_MANAGE_CNI", whyNoToken, "true", "false"),
	none("CALICO_NETWORKING", "use CALICO_NETWORKING_BACKEND", "true"),
	none("CALICO_ADVERTISE_CLUSTER_IPS", "this version of Manx announces no addresses of Services"),
	none("CALICO_CNI_SERVICE_ACCOUNT", whyNoToken),
	none("CALICO_DISABLE_FELIX", "routes and rules are always written", falsy...),
	none("CALICO_ENDPOINT_STATUS_PATH_PREFIX", "the agent answers the CNI plugin when the pod's route is in the kernel"),
	none("USE_POD_CIDR", "addresses come from blocks of the pools, not from Node.spec.podCIDR", falsy...),
	none("BGP_LOGSEVERITYSCREEN", "use FELIX_LOGSEVERITYSCREEN"),
	none("K8S_CLIENT_QPS", "the agent does not slow its own requests down; the API server's priority and fairness does"),
	none("K8S_CLIENT_BURST", "the agent does not slow its own requests down; the API server's priority and fairness does"),
	none("CNI_TOKEN_REFRESH_INTERVAL", whyNoToken),
	none("ETCD_ENDPOINTS", onlyKubernetes),
	none("ETCD_KEY_FILE", onlyKubernetes),
	none("ETCD_CERT_FILE", onlyKubernetes),
	none("ETCD_CA_CERT_FILE", onlyKubernetes),
	none("ETCD_DISCOVERY_SRV", onlyKubernetes),
	none("FELIX_INTERFACEPREFIX", "host interfaces of pods are always called cali…", "cali"),
	none("FELIX_VXLANENABLED", "Manx decides from the pools", falsy...),
	none("FELIX_VXLANMTU", whyMTU, "0"),
	none("FELIX_WIREGUARDMTU", whyMTU, "0"),
	none("FELIX_BPFENABLED", "the dataplane is routes and nftables", falsy...),
	none("FELIX_TYPHAK8SSERVICENAME", whyNoTypha, "none"),
	none("FELIX_LOGSEVERITYFILE", whyStderr, "none"),
	none("FELIX_LOGSEVERITYSYS", whyStderr, "none"),
	none("FELIX_LOGFILEPATH", whyStderr, "none"),
	none("FELIX_FELIXHOSTNAME", "use NODENAME"),
}

// InstallVariable is a variable of install-cni, the init container that puts the CNI
// plugin on the node.
type InstallVariable struct {
	Name, Preset string
	Doc          string // a sentence or two
}

// InstallVariables are all that install-cni reads, in the order of the docs.
var InstallVariables = []InstallVariable{
	{"CNI_NETWORK_CONFIG", "",
		"The CNI configuration list, with placeholders that are filled in: `__KUBERNETES_NODE_NAME__`, `__CNI_MTU__`, `__LOG_LEVEL__`, " +
			"`__DATASTORE_TYPE__` and `__KUBECONFIG_FILEPATH__`, which is empty. " +
			"The manifest takes it from the ConfigMap `manx-config`. Its keys are in [cni.md](cni.md)."},
	{"CNI_NETWORK_CONFIG_FILE", "", "A file with the list, in place of `CNI_NETWORK_CONFIG`."},
	{"CNI_CONF_NAME", "10-manx.conflist",
		"The configuration's file name in the node's directory; it ends in `.conflist`. Container runtimes use the first file by name."},
	{"CNI_EXCLUSIVE", "false", "`true` takes CNI configurations of other plugins that come before by name out of the way, " +
		"under another name; they come back at uninstallation."},
	{"KUBERNETES_NODE_NAME", "", "The node's name, for the placeholder of that name."},
	{"NODENAME", "", "The same, when `KUBERNETES_NODE_NAME` is empty."},
	{"CNI_MTU", "0", "The MTU of pods in bytes, for the placeholder; 0: the agent decides. Set it for manx-node too."},
	{"LOG_LEVEL", "info", "For the placeholder: `debug` has the plugin print how long each step took."},
	{"DATASTORE_TYPE", "kubernetes", "For the placeholder; the plugin takes `kubernetes` only."},
	{"SKIP_CNI_BINARIES", "", "Plugins that are not installed, comma-separated: of `manx`, `manx-ipam`, `portmap` and `loopback`."},
	{"UPDATE_CNI_BINARIES", "true", "`false` leaves plugins that are there already as they are."},
}
