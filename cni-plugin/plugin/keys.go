package plugin

import (
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strings"
	"unicode"
)

// Key is a key of the plugin's part of the network configuration, with a dot between an
// object and its keys.
type Key struct {
	Name string
	// Why it has no effect; empty for one that is acted on.
	Why string
	// Harmless are values that ask for nothing that does not happen anyway. Any is all.
	Harmless []string
}

// Any stands for all values.
const Any = "*"

const (
	plain  = "the plugin asks its agent over a socket, which has one name of the node and one connection to the API server"
	logged = "the plugin logs to standard error, which the container runtime keeps"
	always = "the agent answers when the pod's route is in the kernel"
	oneAPI = "the Kubernetes API is the only datastore"
	linux  = "the plugin is for Linux"
)

// Keys are all that Calico has and Manx knows: what is done about each. A key that is in
// none of these lists is a misspelling, or somebody else's.
var Keys = []Key{
	{Name: "cniVersion"}, {Name: "name"}, {Name: "type"}, {Name: "mtu"}, {Name: "num_queues"}, {Name: "socket"}, {Name: "log_level"},
	{Name: "datastore_type"}, {Name: "device_type"}, {Name: "policy.type"}, {Name: "ipam.type"}, {Name: "ipam.assign_ipv4"}, {Name: "ipam.assign_ipv6"},
	{Name: "ipam.ipv4_pools"}, {Name: "ipam.ipv6_pools"}, {Name: "container_settings.allow_ip_forwarding"}, {Name: "prevResult"},
	{Name: "cni.dev/valid-attachments"}, {Name: "cni.dev/attachments"},

	{"mode", "the plugin makes a routed interface, and has no other mode", []string{Any}},
	{"nodename", plain, []string{Any}},
	{"nodename_file", plain, []string{Any}},
	{"nodename_file_optional", plain, []string{Any}},
	{"hostname", plain, []string{Any}},
	{"ipam.name", "the agent assigns the addresses", []string{Any}},
	{"ipam.subnet", "addresses come from the pools", []string{"usePodCidr"}},
	{"ipam_lock_file", "the agent does one thing at a time by itself", []string{Any}},
	{"log_file_path", logged, nil},
	{"log_file_max_size", logged, nil},
	{"log_file_max_age", logged, nil},
	{"log_file_max_count", logged, nil},
	{"kubernetes.kubeconfig", plain, []string{Any}},
	{"kubernetes.k8s_api_root", plain, []string{Any}},
	{"kubernetes.node_name", plain, []string{Any}},
	{"policy.k8s_api_root", plain, []string{Any}},
	{"policy_setup_timeout_seconds", "this version of Manx has no policy; " + always, []string{"0"}},
	{"endpoint_status_dir", always, []string{Any}},
	{"readiness_gates", "nothing but the agent is asked before a pod starts", []string{"[]"}},
	{"include_default_routes", "a pod has one default route, by way of its node", []string{"false"}},
	{"require_mtu_file", "the agent says the MTU", []string{"false"}},
	{"feature_control.ip_addrs_no_ipam", "this version of Manx has no addresses beside IPAM's", []string{"false"}},
	{"feature_control.floating_ips", "this version of Manx has no floating addresses", []string{"false"}},
	{"calico_api_group", plain, []string{Any}},
	{"qps", plain, []string{Any}},
	{"burst", plain, []string{Any}},
	{"etcd_endpoints", oneAPI, nil},
	{"etcd_key_file", oneAPI, nil},
	{"etcd_cert_file", oneAPI, nil},
	{"etcd_ca_cert_file", oneAPI, nil},
	{"etcd_authority", oneAPI, nil},
	{"dataplane_options", "the dataplane is routes and nftables", []string{"{}"}},
	{"vxlan_mac_prefix", linux, nil},
	{"vxlan_vni", "this version of Manx has no VXLAN", []string{"0"}},
	{"windows_use_single_network", linux, []string{"false"}},
	{"windows_disable_default_deny_all_allow_all", linux, []string{"false"}},
}

// These are the specification's and the runtime's, and those of plugins that are
// given all of a configuration. What is below them is theirs; topKeys are those of a list.
var (
	entryKeys = []string{"args", "capabilities", "runtimeConfig", "dns", "ipMasq", "routes"}
	topKeys   = []string{"cniVersion", "cniVersions", "name", "plugins", "disableCheck", "disableGC", "loadOnlyInlinedPlugins"}
)

// Unused says which keys of the plugin's part of a network configuration have no effect
// as they are set: those that Manx does not act on, with the reason, and those that no
// program knows, with the name that is probably meant. It says nothing of bad values,
// which ParseNetConf refuses.
func Unused(entry map[string]json.RawMessage) []string {
	known := slices.Clone(entryKeys)
	for _, k := range Keys {
		known = append(known, k.Name)
	}
	return unused("", entry, append(known, objects...))
}

// maxUnused bounds how many keys are told of.
const maxUnused = 16

// unusedIn is Unused of a configuration that ParseNetConf has read.
func unusedIn(stdin []byte) []string {
	var entry map[string]json.RawMessage
	if json.Unmarshal(stdin, &entry) != nil {
		return nil
	}
	out := Unused(entry)
	return out[:min(len(out), maxUnused)]
}

// UnusedOfList is Unused for the keys of the list that has the plugin's part.
func UnusedOfList(list map[string]json.RawMessage) (out []string) {
	for _, key := range slices.Sorted(maps.Keys(list)) {
		if !slices.Contains(topKeys, key) && !strings.Contains(key, "/") {
			out = append(out, unknown(key, topKeys))
		}
	}
	return out
}

func unused(prefix string, keys map[string]json.RawMessage, known []string) (out []string) {
	for _, name := range slices.Sorted(maps.Keys(keys)) {
		key, raw := prefix+name, keys[name]
		if text := string(raw); text == "null" || text == `""` {
			continue // as if it were not there
		}
		var inner map[string]json.RawMessage
		if slices.Contains(objects, key) && json.Unmarshal(raw, &inner) == nil {
			out = append(out, unused(key+".", inner, known)...)
			continue
		}
		i := slices.IndexFunc(Keys, func(k Key) bool { return k.Name == key })
		switch {
		case i >= 0:
			k, value := Keys[i], strings.Trim(string(raw), `"`)
			if k.Why != "" && !slices.Contains(k.Harmless, Any) && !slices.Contains(k.Harmless, value) {
				out = append(out, fmt.Sprintf("%s=%s has no effect: %s", key, short(strings.Join(strings.Fields(string(raw)), " ")), k.Why))
			}
		case strings.Contains(name, "/"), prefix == "" && slices.Contains(entryKeys, key):
			// a name with a domain in front is somebody's
		default:
			out = append(out, unknown(key, known))
		}
	}
	return out
}

func unknown(key string, known []string) string {
	text := short(key) + ": no such key, ignored"
	if near := nearest(key, known); near != "" {
		text += "; did you mean " + near + "?"
	}
	return text
}

// short bounds what is repeated of a configuration.
func short(s string) string {
	const limit = 80
	s = strings.Map(func(r rune) rune {
		if !unicode.IsPrint(r) {
			return '?'
		}
		return r
	}, s)
	if len(s) > limit {
		return strings.ToValidUTF8(s[:limit], "") + "…"
	}
	return s
}

// nearest returns the name that text is probably a misspelling of: in another case, with
// another separator, or at most two letters away; or "".
func nearest(text string, names []string) (best string) {
	least := 3
	for _, name := range names {
		if strings.EqualFold(squeeze(text), squeeze(name)) {
			return name
		}
		if d := distance(text, name); d < least && d < len(name)-1 {
			least, best = d, name
		}
	}
	return best
}

// squeeze takes out what separates words: assignIpv4 is assign_ipv4.
func squeeze(s string) string { return strings.NewReplacer("_", "", "-", "").Replace(s) }

// distance is Levenshtein's, over bytes; 99 when the lengths tell that it is large.
func distance(a, b string) int {
	if len(a)-len(b) > 2 || len(b)-len(a) > 2 {
		return 99
	}
	row := make([]int, len(b)+1)
	for j := range row {
		row[j] = j
	}
	for i := range len(a) {
		diagonal := row[0]
		row[0] = i + 1
		for j := range len(b) {
			cost := diagonal
			if a[i] != b[j] {
				cost++
			}
			diagonal = row[j+1]
			row[j+1] = min(cost, row[j+1]+1, row[j]+1)
		}
	}
	return row[len(b)]
}
