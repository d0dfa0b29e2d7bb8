package plugin

import (
	"bytes"
	"encoding/json"
	"fmt"
	"maps"
	"path/filepath"
	"slices"
	"strings"

	"github.com/containernetworking/cni/pkg/types"

	"github.com/manx-cni/manx/internal/attachment"
	"github.com/manx-cni/manx/internal/nodeapi"
)

// NetConf is the plugin's part of the network configuration: Calico's keys, so
// that an existing configuration keeps working, and "socket". Keys that steer what
// Manx does not have are checked for their type and have no effect, which the agent says
// ([settings.CNIKeys]).
type NetConf struct {
	CNIVersion string
	Name       string
	MTU        int // bytes, 0: the agent decides
	Queues     int // of the veth, 0: one
	Socket     string
	Debug      bool // log_level debug: print how long each step took on stderr

	IPv4, IPv6           bool     // ipam.assign_ipv4, ipam.assign_ipv6
	IPv4Pools, IPv6Pools []string // ipam.ipv4_pools, ipam.ipv6_pools
	Forwarding           bool     // container_settings.allow_ip_forwarding

	PrevResult json.RawMessage

	lists attachmentLists // what a GC may keep
}

const (
	minMTU     = 576   // the smallest that every IPv4 host accepts, RFC 791 section 3.1
	maxMTU     = 65535 // ETH_MAX_MTU of the kernel
	maxQueues  = 4096  // of a veth: the kernel's limit for any interface
	maxSunPath = 107   // sun_path of unix(7) without its final NUL
)

// ParseNetConf reads a network configuration. On error the valid keys are still
// in the result, for a DEL, which must not fail over a setting that it does not
// use. The error names every bad key, its value and what is accepted, on one line.
func ParseNetConf(stdin []byte) (*NetConf, error) {
	c := &NetConf{Socket: nodeapi.DefaultSocket, IPv4: true}
	var keys map[string]json.RawMessage
	if err := json.Unmarshal(stdin, &keys); err != nil {
		return c, types.NewError(types.ErrDecodingFailure, "the network configuration is not a JSON object: "+err.Error(), "")
	}
	bad := c.walk("", keys)
	if len(bad) == 0 && !c.IPv4 && !c.IPv6 {
		bad = append(bad, `ipam.assign_ipv4 and ipam.assign_ipv6 are both false, want at least one of them "true"`)
	}
	if len(bad) > 0 {
		return c, types.NewError(types.ErrInvalidNetworkConfig, "network configuration: "+strings.Join(bad, "; "), "")
	}
	return c, nil
}

// walk takes the keys of one object, in a fixed order so that the error is too.
func (c *NetConf) walk(prefix string, keys map[string]json.RawMessage) (bad []string) {
	for _, name := range slices.Sorted(maps.Keys(keys)) {
		key, raw := prefix+name, keys[name]
		if slices.Contains(listKeys, key) {
			if want := c.lists.take(key, raw); want != "" {
				bad = append(bad, complaint(key, raw, want))
			}
			continue
		}
		if string(raw) == "null" {
			continue // as if it were not there
		}
		if slices.Contains(objects, key) {
			var inner map[string]json.RawMessage
			if json.Unmarshal(raw, &inner) == nil {
				bad = append(bad, c.walk(key+".", inner)...)
			} else {
				bad = append(bad, complaint(key, raw, "an object"))
			}
			continue
		}
		if want := c.take(key, raw); want != "" {
			bad = append(bad, complaint(key, raw, want))
		}
	}
	return bad
}

func complaint(key string, raw json.RawMessage, want string) string {
	got := string(raw)
	var compact bytes.Buffer
	if json.Compact(&compact, raw) == nil {
		got = compact.String()
	}
	if len(got) > 80 {
		got = strings.ToValidUTF8(got[:80], "") + "…"
	}
	return fmt.Sprintf("%s is %s, want %s", key, got, want)
}

// objects are the keys whose value has keys of its own.
var objects = []string{"ipam", "policy", "kubernetes", "container_settings", "feature_control"}

// take takes one key's value and returns what is accepted when it is something
// else. Unknown keys are accepted: the runtime and other plugins add theirs.
func (c *NetConf) take(key string, raw json.RawMessage) (want string) {
	switch key {
	case "cniVersion":
		return when(raw, "a string", &c.CNIVersion, nil)
	case "name":
		if want = when(raw, "a string", &c.Name, nil); want == "" && attachment.Reserved(c.Name) {
			want = "a name that does not begin as the IPAM handle of a tunnel's address, such as ipip-tunnel-addr-"
		}
		return want
	case "mtu":
		return when(raw, fmt.Sprintf("a number of bytes, 0 (the agent decides) or %d to %d", minMTU, maxMTU), &c.MTU,
			func(n int) bool { return n == 0 || n >= minMTU && n <= maxMTU })
	case "num_queues":
		return when(raw, fmt.Sprintf("a number from 0 to %d", maxQueues), &c.Queues,
			func(n int) bool { return n >= 0 && n <= maxQueues })
	case "socket":
		return when(raw, fmt.Sprintf("an absolute path of up to %d characters", maxSunPath), &c.Socket,
			func(s string) bool { return filepath.IsAbs(s) && len(s) <= maxSunPath && !strings.Contains(s, "\x00") })
	case "log_level":
		var level string
		want = when(raw, "a string", &level, nil)
		c.Debug = strings.EqualFold(level, "debug")
		return want
	case "datastore_type":
		return oneOf(raw, "", "kubernetes")
	case "device_type":
		return oneOf(raw, "", "veth")
	case "policy.type":
		return oneOf(raw, "", "k8s")
	case "ipam.type":
		return oneOf(raw, "", "manx-ipam", "calico-ipam")
	case "ipam.assign_ipv4":
		return boolText(raw, &c.IPv4)
	case "ipam.assign_ipv6":
		return boolText(raw, &c.IPv6)
	case "ipam.ipv4_pools":
		return when(raw, "a list of pool names or CIDRs", &c.IPv4Pools, nil)
	case "ipam.ipv6_pools":
		return when(raw, "a list of pool names or CIDRs", &c.IPv6Pools, nil)
	case "container_settings.allow_ip_forwarding":
		return when(raw, "true or false", &c.Forwarding, nil)
	case "prevResult":
		c.PrevResult = raw
	default:
		return ignored(key, raw)
	}
	return ""
}

// ignored checks the type of Calico's keys that have no effect here: settings of
// a datastore connection, a log file and a policy engine that the plugin lacks.
func ignored(key string, raw json.RawMessage) (want string) {
	switch key {
	case "type", "mode", "nodename", "nodename_file", "ipam.subnet", "ipam_lock_file", "log_file_path",
		"endpoint_status_dir", "calico_api_group", "hostname", "kubernetes.kubeconfig", "kubernetes.k8s_api_root",
		"kubernetes.node_name", "policy.k8s_api_root":
		return when(raw, "a string", new(string), nil)
	case "log_file_max_size", "log_file_max_age", "log_file_max_count", "policy_setup_timeout_seconds":
		return when(raw, "a number", new(int), nil)
	case "nodename_file_optional", "include_default_routes", "require_mtu_file",
		"feature_control.ip_addrs_no_ipam", "feature_control.floating_ips":
		return when(raw, "true or false", new(bool), nil)
	case "readiness_gates":
		return when(raw, "a list of strings", new([]string), nil)
	}
	return ""
}

// when decodes raw into the target if it has the target's type and ok agrees;
// otherwise it leaves the target alone and returns want.
func when[T any](raw json.RawMessage, want string, into *T, ok func(T) bool) string {
	var v T
	if json.Unmarshal(raw, &v) != nil || ok != nil && !ok(v) {
		return want
	}
	*into = v
	return ""
}

func oneOf(raw json.RawMessage, accepted ...string) string {
	want := fmt.Sprintf("one of %q", accepted[1:])
	return when(raw, want, new(string), func(s string) bool { return slices.Contains(accepted, s) })
}

// boolText is Calico's way to write these two: the strings "true" and "false".
func boolText(raw json.RawMessage, into *bool) string {
	const want = `"true" or "false"`
	if when(raw, want, into, nil) == "" {
		return ""
	}
	var text string
	if when(raw, want, &text, func(s string) bool { return s == "true" || s == "false" }) != "" {
		return want
	}
	*into = text == "true"
	return ""
}
