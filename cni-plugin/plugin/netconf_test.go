package plugin

import (
	"encoding/json"
	"errors"
	"reflect"
	"strings"
	"testing"

	"github.com/containernetworking/cni/pkg/types"

	"github.com/manx-cni/manx/internal/nodeapi"
)

// calicoConf is what a cluster that came from Calico may have, with every key.
const calicoConf = `{
  "name": "k8s-pod-network", "cniVersion": "0.3.1", "type": "manx", "mode": "", "log_level": "info",
  "log_file_path": "/var/log/calico/cni/cni.log", "log_file_max_size": 100, "log_file_max_age": 30, "log_file_max_count": 10,
  "datastore_type": "kubernetes", "nodename": "n1", "nodename_file": "/x", "nodename_file_optional": false, "mtu": 1440, "num_queues": 1,
  "ipam": {"type": "calico-ipam", "assign_ipv4": "true", "assign_ipv6": "true",
    "ipv4_pools": ["default-ipv4-ippool", "10.1.0.0/16"], "ipv6_pools": []},
  "ipam_lock_file": "/x", "policy": {"type": "k8s"}, "kubernetes": {"kubeconfig": "/etc/cni/net.d/calico-kubeconfig", "node_name": "n1"},
  "feature_control": {"ip_addrs_no_ipam": true, "floating_ips": false}, "container_settings": {"allow_ip_forwarding": true},
  "include_default_routes": true, "readiness_gates": ["http://localhost:9099/readiness"], "policy_setup_timeout_seconds": 0,
  "endpoint_status_dir": "/x", "require_mtu_file": false, "device_type": "veth", "capabilities": {"portMappings": true},
  "runtimeConfig": {"portMappings": []}, "args": {"cni": {}}, "dns": {}, "something_of_tomorrow": [1, {"a": null}]
}`

func TestParseNetConf(t *testing.T) {
	got, err := ParseNetConf([]byte(calicoConf))
	want := &NetConf{
		CNIVersion: "0.3.1", Name: "k8s-pod-network", MTU: 1440, Queues: 1, Socket: nodeapi.DefaultSocket, IPv4: true, IPv6: true,
		IPv4Pools: []string{"default-ipv4-ippool", "10.1.0.0/16"}, IPv6Pools: []string{}, Forwarding: true,
	}
	if err != nil || !reflect.DeepEqual(got, want) {
		t.Errorf("got %+v, %v\nwant %+v", got, err, want)
	}
	least, err := ParseNetConf([]byte(`{"name":"n","cniVersion":"1.0.0","mtu":null}`))
	if want := (&NetConf{CNIVersion: "1.0.0", Name: "n", Socket: nodeapi.DefaultSocket, IPv4: true}); err != nil ||
		!reflect.DeepEqual(least, want) {
		t.Errorf("got %+v, %v", least, err)
	}
}

func TestParseNetConfRefuses(t *testing.T) {
	for conf, says := range map[string]string{
		`{"mtu":"1500"}`:              `mtu is "1500", want a number of bytes, 0 (the agent decides) or 576 to 65535`,
		`{"mtu":-1}`:                  `mtu is -1, want`,
		`{"mtu":100}`:                 `mtu is 100, want`,
		`{"mtu":65536}`:               `mtu is 65536, want`,
		`{"mtu":1500.5}`:              `mtu is 1500.5, want`,
		`{"num_queues":-1}`:           `num_queues is -1, want a number from 0 to 4096`,
		`{"socket":"manx.sock"}`:      `socket is "manx.sock", want an absolute path`,
		`{"datastore_type":"etcdv3"}`: `datastore_type is "etcdv3", want one of ["kubernetes"]`,
		`{"device_type":"netkit"}`:    `device_type is "netkit", want one of ["veth"]`,
		`{"policy":{"type":"none"}}`:  `policy.type is "none", want one of ["k8s"]`,
		`{"policy":"k8s"}`:            `policy is "k8s", want an object`,
		`{"ipam":{"type":"host-local","subnet":"usePodCidr"}}`: `ipam.type is "host-local", want one of ["manx-ipam" "calico-ipam"]`,
		`{"ipam":{"type":"../../x"}}`:                          `ipam.type is "../../x", want`,
		`{"ipam":{"assign_ipv4":"yes"}}`:                       `ipam.assign_ipv4 is "yes", want "true" or "false"`,
		`{"ipam":{"assign_ipv4":"false"}}`:                     `ipam.assign_ipv4 and ipam.assign_ipv6 are both false`,
		`{"ipam":{"ipv4_pools":"default"}}`:                    `ipam.ipv4_pools is "default", want a list`,
		`{"container_settings":{"allow_ip_forwarding":"yes"}}`: `container_settings.allow_ip_forwarding is "yes", want true or false`,
		`{"log_level":3}`:                                      `log_level is 3, want a string`,
		`{"kubernetes":{"kubeconfig":[]}}`:                     `kubernetes.kubeconfig is [], want a string`,
		`{"require_mtu_file":"x"}`:                             `require_mtu_file is "x", want true or false`,
		`{"readiness_gates":"x"}`:                              `readiness_gates is "x", want a list of strings`,
		`{"name":"ipip-tunnel-addr-node1"}`: `name is "ipip-tunnel-addr-node1", ` +
			`want a name that does not begin as the IPAM handle of a tunnel's address`,
		`{"num_queues":"1","mtu":"1"}`: `mtu is "1", want a number of bytes, 0 (the agent decides) or 576 to 65535; num_queues is "1", want`,
	} {
		c, err := ParseNetConf([]byte(conf))
		var e *types.Error
		if !errors.As(err, &e) || e.Code != types.ErrInvalidNetworkConfig || !strings.HasPrefix(e.Msg, "network configuration: "+says) {
			t.Errorf("%s: %v, want %q", conf, err, says)
		}
		if c.Socket != nodeapi.DefaultSocket {
			t.Errorf("%s: socket %q", conf, c.Socket)
		}
	}
	var e *types.Error
	if _, err := ParseNetConf([]byte(`[]`)); !errors.As(err, &e) || e.Code != types.ErrDecodingFailure {
		t.Errorf("a list: %v", err)
	}
}

// The plugin passes the agent's code and message to the runtime, through a real
// process.
func TestBadConfigurationThroughThePlugin(t *testing.T) {
	r := newRig(t)
	_, err := r.run(call{verb: "ADD", id: "c", pod: "web", netns: "/run/netns/x", change: map[string]any{"mtu": "big"}})
	if err == nil || err.Code != types.ErrInvalidNetworkConfig || !strings.Contains(err.Msg, `mtu is "big", want a number of bytes`) {
		t.Errorf("ADD: %+v", err)
	}
	if _, err = r.run(call{
		verb: "ADD", id: "c", pod: "web", netns: "/run/netns/x", change: map[string]any{"cniVersion": "0.2.0"},
	}); err == nil || err.Code != types.ErrIncompatibleCNIVersion {
		t.Errorf("ADD with version 0.2.0: %+v", err)
	}
}

func FuzzParseNetConf(f *testing.F) {
	f.Add([]byte(calicoConf))
	f.Add([]byte(`{"ipam":{"type":"host-local"},"mtu":"x"}`))
	f.Add([]byte(`{"ipam":{"ipam":{"ipam":null}},"socket":"/\u0000"}`))
	f.Fuzz(func(t *testing.T, stdin []byte) {
		c, err := ParseNetConf(stdin)
		if c == nil {
			t.Fatal("no configuration at all")
		}
		if c.MTU != 0 && (c.MTU < minMTU || c.MTU > maxMTU) || c.Queues < 0 || c.Queues > maxQueues ||
			!strings.HasPrefix(c.Socket, "/") || len(c.Socket) > maxSunPath || strings.Contains(c.Socket, "\x00") {
			t.Errorf("accepted %+v", c)
		}
		if err == nil {
			if !json.Valid(stdin) {
				t.Errorf("accepted what is not JSON")
			}
			return
		}
		var e *types.Error
		if !errors.As(err, &e) || e.Code != types.ErrInvalidNetworkConfig && e.Code != types.ErrDecodingFailure {
			t.Errorf("error %v", err)
		} else if strings.ContainsAny(e.Msg, "\n\r") {
			t.Errorf("more than one line: %q", e.Msg)
		}
	})
}

func FuzzParseArgs(f *testing.F) {
	f.Add("IgnoreUnknown=1;K8S_POD_NAMESPACE=default;K8S_POD_NAME=web")
	f.Fuzz(func(t *testing.T, args string) {
		p, err := parseArgs(args)
		if err == nil && strings.Contains(p.name+p.namespace+p.uid, ";") {
			t.Errorf("%q: %+v", args, p)
		}
	})
}
