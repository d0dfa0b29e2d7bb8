package settings

const (
	plain  = "the plugin asks its agent over a socket, which has one name of the node and one connection to the API server"
	logged = "the plugin logs to standard error, which the container runtime keeps"
	always = "the agent answers when the pod's route is in the kernel"
)

// CNIKeys are the keys of Manx's entry in the CNI configuration.
var CNIKeys = []Entry{
	acted("cniVersion", "cni-plugin/plugin.TestParseNetConf"),
	acted("name", "cni-plugin/plugin.TestParseNetConf"),
	acted("type", "cni-plugin/plugin.TestParseNetConf"),
	acted("mtu", "cni-plugin/plugin.TestParseNetConf"),
	acted("num_queues", "cni-plugin/plugin.TestParseNetConf"),
	acted("socket", "cni-plugin/plugin.TestParseNetConf"),
	acted("log_level", "cni-plugin/plugin.TestParseNetConf"),
	acted("datastore_type", "cni-plugin/plugin.TestParseNetConf"),
	acted("device_type", "cni-plugin/plugin.TestParseNetConf"),
	acted("policy.type", "cni-plugin/plugin.TestParseNetConf"),
	acted("ipam.type", "cni-plugin/plugin.TestParseNetConf"),
	acted("ipam.assign_ipv4", "cni-plugin/plugin.TestParseNetConf"),
	acted("ipam.assign_ipv6", "cni-plugin/plugin.TestParseNetConf"),
	acted("ipam.ipv4_pools", "cni-plugin/plugin.TestParseNetConf"),
	acted("ipam.ipv6_pools", "cni-plugin/plugin.TestParseNetConf"),
	acted("container_settings.allow_ip_forwarding", "cni-plugin/plugin.TestParseNetConf"),
	acted("prevResult", "cni-plugin/plugin.TestParseNetConf"),
	acted("cni.dev/valid-attachments", "cni-plugin/plugin.TestParseNetConf"),
	acted("cni.dev/attachments", "cni-plugin/plugin.TestParseNetConf"),
	none("mode", "the plugin makes a routed interface, and has no other mode", Any),
	none("nodename", plain, Any),
	none("nodename_file", plain, Any),
	none("nodename_file_optional", plain, Any),
	none("hostname", plain, Any),
	none("ipam.name", "the agent assigns the addresses", Any),
	none("ipam.subnet", "addresses come from the pools", "usePodCidr"),
	none("ipam_lock_file", "the agent does one thing at a time by itself", Any),
	none("log_file_path", logged),
	none("log_file_max_size", logged),
	none("log_file_max_age", logged),
	none("log_file_max_count", logged),
	none("kubernetes.kubeconfig", plain, Any),
	none("kubernetes.k8s_api_root", plain, Any),
	none("kubernetes.node_name", plain, Any),
	none("policy.k8s_api_root", plain, Any),
	none("policy_setup_timeout_seconds", "this version of Manx has no policy; "+always, "0"),
	none("endpoint_status_dir", always, Any),
	none("readiness_gates", "nothing but the agent is asked before a pod starts"),
	none("include_default_routes", "a pod has one default route, by way of its node", "false"),
	none("require_mtu_file", "the agent says the MTU", "false"),
	none("feature_control.ip_addrs_no_ipam", "this version of Manx does not have addresses beside IPAM", "false"),
	none("feature_control.floating_ips", "this version of Manx does not have floating addresses", "false"),
	none("calico_api_group", plain, Any),
	none("qps", plain, Any),
	none("burst", plain, Any),
	none("etcd_endpoints", "the Kubernetes API is the only datastore"),
	none("etcd_key_file", "the Kubernetes API is the only datastore"),
	none("etcd_cert_file", "the Kubernetes API is the only datastore"),
	none("etcd_ca_cert_file", "the Kubernetes API is the only datastore"),
	none("etcd_authority", "the Kubernetes API is the only datastore"),
	none("dataplane_options", "the dataplane is routes and nftables"),
	none("vxlan_mac_prefix", "the plugin is for Linux"),
	none("vxlan_vni", noVXLAN, "0"),
	none("windows_use_single_network", "the plugin is for Linux", "false"),
	none("windows_disable_default_deny_all_allow_all", "the plugin is for Linux", "false"),
}

// standardKeys are keys that the specification, the runtime and other programs give a
// plugin, beside those above.
var standardKeys = []string{"args", "capabilities", "runtimeConfig", "dns", "disableCheck", "disableGC", "loadOnlyInlinedPlugins", "plugins", "ipMasq", "routes"}

// CNIKey returns what is known of a key, such as ipam.subnet, of the CNI
// configuration. known is false, near then being the name it is probably a
// misspelling of, for one that neither Manx, Calico nor the CNI specification has.
// Keys below args, runtimeConfig and the like, and the specification's cni.dev/…, are
// known; they are others' to use.
func CNIKey(key string) (e Entry, near string, known bool) {
	for _, e := range CNIKeys {
		if e.Name == key {
			return e, "", true
		}
	}
	for _, s := range standardKeys {
		if key == s || len(key) > len(s) && key[:len(s)+1] == s+"." {
			return Entry{Name: key, Effect: ActedOn}, "", true
		}
	}
	if len(key) > 8 && key[:8] == "cni.dev/" {
		return Entry{Name: key, Effect: ActedOn}, "", true
	}
	return Entry{}, Nearest(key, append(namesOf(CNIKeys), standardKeys...)), false
}
