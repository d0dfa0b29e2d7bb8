package config

import (
	"fmt"
	"log/slog"
	"time"

	v1 "github.com/manx-cni/manx/api/v1"
	"github.com/manx-cni/manx/internal/autodetect"
)

// setting is the one definition of one environment variable.
type setting struct {
	name    string
	group   string // heading in the docs
	preset  string // the default, in the form the variable has
	kind    string
	accepts string
	doc     string // a sentence or two, for the docs
	parse   func(c *Config, s string) (note string, err error)
}

// fault says what is wrong with value v.
func (s setting) fault(v string, err error) error {
	return fmt.Errorf("%s=%q: %w; want %s", s.name, v, err, s.accepts)
}

// as binds a setting to the field it fills.
func as[T any](k kind[T], field func(*Config) *T, s setting) setting {
	s.kind, s.accepts = k.name, k.accepts
	s.parse = func(c *Config, text string) (string, error) {
		v, note, err := k.parse(text)
		if err == nil {
			*field(c) = v
		}
		return note, err
	}
	return s
}

// poolRangeField stores a poolRange in two fields of a pool.
func poolRangeField(k kind[poolRange], pool func(*Config) *Pool, s setting) setting {
	s.kind, s.accepts = k.name, k.accepts
	s.parse = func(c *Config, text string) (string, error) {
		v, note, err := k.parse(text)
		if err == nil {
			p := pool(c)
			p.CIDR, p.Skip = v.cidr, p.Skip || v.none
		}
		return note, err
	}
	return s
}

// The groups of settings, in the order of the docs.
const (
	groupNode      = "Node and cluster"
	groupAddress   = "Node address"
	groupBGP       = "BGP"
	groupPool      = "Default IPv4 pool"
	groupPool6     = "Default IPv6 pool"
	groupDataplane = "Dataplane"
	groupObserve   = "Health, metrics and log"
)

// settings are all variables that manx-node acts on, in the order of the docs.
var settings = []setting{
	as(nodeName, func(c *Config) *string { return &c.NodeName }, setting{
		name: "NODENAME", group: groupNode,
		doc: "The Kubernetes Node that this agent serves; the manifest takes it from `spec.nodeName`. When empty: the content of " +
			"`CALICO_NODENAME_FILE`, else `HOSTNAME`, else the machine's host name, the latter two in lower case.",
	}),
	as(filePath, func(c *Config) *string { return &c.NodeNameFile }, setting{
		name: "CALICO_NODENAME_FILE", group: groupNode, preset: "/var/lib/calico/nodename",
		doc: "Where to look for the node's name when `NODENAME` is empty. A file that does not exist is passed over.",
	}),
	as(text, func(c *Config) *string { return &c.hostname }, setting{
		name: "HOSTNAME", group: groupNode, doc: "The node's name when neither of the above has one.",
	}),
	as(text, func(c *Config) *string { return &c.ClusterType }, setting{
		name: "CLUSTER_TYPE", group: groupNode,
		doc: "Comma-separated words that describe the cluster, such as `k8s,bgp`. Written to `ClusterInformation` when that is created, " +
			"with `kubeadm` added on a kubeadm cluster, and `kdd`.",
	}),
	as(exactlyTrue, func(c *Config) *bool { return &c.Datastore.Wait }, setting{
		name: "WAIT_FOR_DATASTORE", group: groupNode, preset: "false",
		doc: "Wait at the start until the Kubernetes API answers, trying once a second. Otherwise the start fails when it does not.",
	}),
	as(filePath, func(c *Config) *string { return &c.Datastore.Kubeconfig }, setting{
		name: "KUBECONFIG", group: groupNode, doc: "A kubeconfig file to reach the Kubernetes API with. When empty: the pod's service account.",
	}),

	as(address, func(c *Config) *autodetect.Address { return &c.Address.IP }, setting{
		name: "IP", group: groupAddress,
		doc: "The node's IPv4 address. Empty: the address stored in the Node's annotation `projectcalico.org/IPv4Address`, detected when there " +
			"is none, or when no interface has it and one has the Node's InternalIP. " +
			"`autodetect`: looked for at every start and every `AUTODETECT_POLL_INTERVAL`; " +
			"an address in use stays as long as the method accepts it. " +
			"`none`: the stored one, never detected. An address without a prefix length gets that of the interface that owns it.",
	}),
	as(method, func(c *Config) *autodetect.Method { return &c.Address.Method }, setting{
		name: "IP_AUTODETECTION_METHOD", group: groupAddress, preset: "first-found",
		doc: "How the address is detected. `first-found`: the Node's InternalIP when an interface has it, else the first address of the " +
			"interfaces from the highest index down, without bridges and tunnels. " +
			"`interface`, `skip-interface`: the same walk over interfaces whose " +
			"name matches, or does not match, a regular expression (anywhere in the name; " +
			"write `^eth0$` for an exact one). `can-reach`: the source address " +
			"that the kernel uses towards a destination. " +
			"`cidr`: the first address in one of the ranges. `kubernetes-internal-ip`: the Node's InternalIP only. " +
			"Of the addresses of one interface, " +
			"one with a subnet comes before host addresses (/32) and deprecated ones (`preferred_lft 0`), which float as a rule.",
	}),
	as(address6, func(c *Config) *autodetect.Address { return &c.Address.IP6 }, setting{
		name: "IP6", group: groupAddress,
		doc: "The node's IPv6 address, and with it whether the node carries IPv6: " +
			"BGP sessions over IPv6, routes, rules and pods' addresses. Empty or `none`: " +
			"no IPv6, and the Node's annotation `projectcalico.org/IPv6Address` is removed. `autodetect`: detected as for `IP`; " +
			"the start fails when there is none. An address without a prefix length gets that of the interface that owns it. " +
			"Set it in the container `init-host` too, which turns on IPv6 forwarding.",
	}),
	as(method6, func(c *Config) *autodetect.Method { return &c.Address.Method6 }, setting{
		name: "IP6_AUTODETECTION_METHOD", group: groupAddress, preset: "first-found",
		doc: "How the IPv6 address is detected, with `IP6=autodetect`: the methods of `IP_AUTODETECTION_METHOD`. " +
			"Link-local, temporary, deprecated and not yet confirmed addresses are never taken, " +
			"a /128 only when the interface has nothing else.",
	}),
	as(maybeBool, func(c *Config) **bool { return &c.Address.IPv6Support }, setting{
		name: "FELIX_IPV6SUPPORT", group: groupAddress,
		doc: "Accepted from Calico's manifests; `IP6` decides. `false` with an `IP6` that asks for IPv6 stops the start.",
	}),
	as(duration, func(c *Config) *time.Duration { return &c.Address.PollInterval }, setting{
		name: "AUTODETECT_POLL_INTERVAL", group: groupAddress, preset: "60s",
		doc: "How often to look whether an address has changed, with `IP=autodetect` or `IP6=autodetect`, by the same rules as at the start.",
	}),
	as(exactlyTrue, func(c *Config) *bool { return &c.Address.SkipConflictCheck }, setting{
		name: "DISABLE_NODE_IP_CHECK", group: groupAddress, preset: "false",
		doc: "Do not look whether another Node has the same address. " +
			"Without it a duplicate stops the start, unless the other Node's kubelet no longer reports.",
	}),

	as(choice[Backend]("bird", "bird", "vxlan", "vxlan", "none", "none"), func(c *Config) *Backend { return &c.BGP.Backend }, setting{
		name: "CALICO_NETWORKING_BACKEND", group: groupBGP, preset: "bird",
		doc: "Who carries routes between nodes. `bird`: BGP, spoken by Manx itself. " +
			"Calico's `vxlan` (no BGP) and `none` (no routes between nodes) stop the start: this version of Manx routes over BGP only.",
	}),
	as(asNumber, func(c *Config) *uint32 { return &c.BGP.AS }, setting{
		name: "AS", group: groupBGP,
		doc: "The node's AS number, written to the Node's annotation `projectcalico.org/ASNumber`. Empty: that annotation as it is, else the " +
			"`asNumber` of the BGPConfiguration `default`, else 64512.",
	}),
	as(routerID, func(c *Config) *RouterID { return &c.BGP.RouterID }, setting{
		name: "CALICO_ROUTER_ID", group: groupBGP,
		doc: "The BGP identifier. Empty: the node's IPv4 address. `hash`: made from the node's name.",
	}),

	as(onlyTrue, func(c *Config) *bool { return &c.Pool.Skip }, setting{
		name: "NO_DEFAULT_POOLS", group: groupPool, preset: "false",
		doc: "Create no pool. `CALICO_IPV4POOL_CIDR` and `CALICO_IPV6POOL_CIDR` must be empty then.",
	}),
	poolRangeField(poolCIDR, func(c *Config) *Pool { return &c.Pool }, setting{
		name: "CALICO_IPV4POOL_CIDR", group: groupPool,
		doc: "The pool's range. Empty: kubeadm's `podSubnet`, else 192.168.0.0/16, " +
			"or the first of 172.16.0.0/16 to 172.31.0.0/16 that holds no address of this host when that one does. `none`: create no pool.",
	}),
	as(encapMode, func(c *Config) *v1.EncapMode { return &c.Pool.IPIP }, setting{
		name: "CALICO_IPV4POOL_IPIP", group: groupPool, preset: "Never",
		doc: "When packets to the pool travel in IPIP: always, to nodes in other subnets, or never. Excludes `CALICO_IPV4POOL_VXLAN`. " +
			"It counts when the pool is made; later the pool's `ipipMode` is what holds, and `manxctl status` shows when the two differ.",
	}),
	as(encapMode, func(c *Config) *v1.EncapMode { return &c.Pool.VXLAN }, setting{
		name: "CALICO_IPV4POOL_VXLAN", group: groupPool, preset: "Never",
		doc: "When packets to the pool travel in VXLAN, which this version of Manx does not have: " +
			"any value but `Never` or `Off` stops the start when the pool would be made. " +
			"No effect once there is a pool. Excludes `CALICO_IPV4POOL_IPIP`.",
	}),
	as(blockSize, func(c *Config) *int { return &c.Pool.BlockSize }, setting{
		name: "CALICO_IPV4POOL_BLOCK_SIZE", group: groupPool, preset: "26", doc: "Prefix length of the blocks that nodes claim from the pool.",
	}),
	as(looseBool, func(c *Config) *bool { return &c.Pool.NATOutgoing }, setting{
		name: "CALICO_IPV4POOL_NAT_OUTGOING", group: groupPool, preset: "true",
		doc: "Masquerade packets from the pool to addresses outside every pool.",
	}),
	as(text, func(c *Config) *string { return &c.Pool.NodeSelector }, setting{
		name: "CALICO_IPV4POOL_NODE_SELECTOR", group: groupPool, preset: "all()",
		doc: "Which nodes may claim blocks of the pool, in Calico's selector language.",
	}),
	as(looseBool, func(c *Config) *bool { return &c.Pool.DisableBGPExport }, setting{
		name: "CALICO_IPV4POOL_DISABLE_BGP_EXPORT", group: groupPool, preset: "false",
		doc: "Keep the pool's routes from being announced over BGP.",
	}),

	poolRangeField(poolCIDR6, func(c *Config) *Pool { return &c.Pool6 }, setting{
		name: "CALICO_IPV6POOL_CIDR", group: groupPool6,
		doc: "The pool's range. Empty or `none`: create no pool. (Calico's default is a random range of fd00::/8; Manx asks for one.)",
	}),
	as(blockSize6, func(c *Config) *int { return &c.Pool6.BlockSize }, setting{
		name: "CALICO_IPV6POOL_BLOCK_SIZE", group: groupPool6, preset: "122", doc: "Prefix length of the blocks that nodes claim from the pool.",
	}),
	as(looseBool, func(c *Config) *bool { return &c.Pool6.NATOutgoing }, setting{
		name: "CALICO_IPV6POOL_NAT_OUTGOING", group: groupPool6, preset: "false",
		doc: "Masquerade packets from the pool to addresses outside every pool.",
	}),
	as(text, func(c *Config) *string { return &c.Pool6.NodeSelector }, setting{
		name: "CALICO_IPV6POOL_NODE_SELECTOR", group: groupPool6, preset: "all()",
		doc: "Which nodes may claim blocks of the pool, in Calico's selector language.",
	}),
	as(looseBool, func(c *Config) *bool { return &c.Pool6.DisableBGPExport }, setting{
		name: "CALICO_IPV6POOL_DISABLE_BGP_EXPORT", group: groupPool6, preset: "false",
		doc: "Keep the pool's routes from being announced over BGP.",
	}),

	as(mtu, func(c *Config) *int { return &c.Dataplane.MTU }, setting{
		name: "CNI_MTU", group: groupDataplane, preset: "0",
		doc: "MTU of pods in bytes, of those that run too. " +
			"0: that of the interface with the node's address, less the headers of the encapsulation in use. " +
			"Set it in the container `install-cni` too; the manifest sets both to `veth_mtu` of the ConfigMap `manx-config`.",
	}),
	as(maybeBool, func(c *Config) **bool { return &c.Dataplane.IPIPEnabled }, setting{
		name: "FELIX_IPINIPENABLED", group: groupDataplane,
		doc: "Whether this node has `tunl0`. " +
			"Empty: the `ipipEnabled` of the FelixConfiguration `node.<name>`, else of `default`, else when a pool asks for IPIP. " +
			"`false`: never; pools in IPIP mode do not work on this node then. " +
			"`true`: also when no pool asks for it; `tunl0` has no address as long as none does.",
	}),
	as(mtu, func(c *Config) *int { return &c.Dataplane.IPIPMTU }, setting{
		name: "FELIX_IPINIPMTU", group: groupDataplane, preset: "0",
		doc: "MTU of `tunl0` in bytes, and of pods while packets may travel in IPIP. " +
			"0: the `ipipMTU` of the FelixConfiguration, else that of the interface with the node's address less 20.",
	}),
	as(felixBool, func(c *Config) *bool { return &c.Dataplane.AllowIPIPFromPods }, setting{
		name: "FELIX_ALLOWIPIPPACKETSFROMWORKLOADS", group: groupDataplane, preset: "false",
		doc: "Let pods send packets of IP protocol 4 (IPIP) themselves. Otherwise they are dropped and counted.",
	}),
	as(felixBool, func(c *Config) *bool { return &c.Dataplane.AllowVXLANFromPods }, setting{
		name: "FELIX_ALLOWVXLANPACKETSFROMWORKLOADS", group: groupDataplane, preset: "false",
		doc: "Let pods send packets to UDP port 4789 (VXLAN). Otherwise they are dropped and counted.",
	}),
	as(seconds, func(c *Config) *time.Duration { return &c.Dataplane.RouteRefresh }, setting{
		name: "FELIX_ROUTEREFRESHINTERVAL", group: groupDataplane, preset: "90",
		doc: "How often the kernel's routes are read back and repaired, besides at every event.",
	}),
	as(choice[NFTablesMode]("Auto", "Auto", "Enabled", "Enabled", "Disabled", "Disabled"),
		func(c *Config) *NFTablesMode { return &c.Dataplane.NFTables }, setting{
			name: "FELIX_NFTABLESMODE", group: groupDataplane, preset: "Auto", doc: "Whether nftables holds Manx's rules, as it does " +
				"with `Auto` and `Enabled`. `Disabled` asks for iptables and stops the start: this version of Manx has no iptables backend.",
		}),

	as(felixBool, func(c *Config) *bool { return &c.Health.Enabled }, setting{
		name: "FELIX_HEALTHENABLED", group: groupObserve, preset: "true",
		doc: "Serve `/liveness` and `/readiness`. (Calico's default is false; its manifest sets true.)",
	}),
	as(host, func(c *Config) *string { return &c.Health.Host }, setting{
		name: "FELIX_HEALTHHOST", group: groupObserve, preset: "localhost", doc: "Where to serve health; `localhost` is 127.0.0.1.",
	}),
	as(port, func(c *Config) *uint16 { return &c.Health.Port }, setting{
		name: "FELIX_HEALTHPORT", group: groupObserve, preset: "9099", doc: "The TCP port of health.",
	}),
	as(felixBool, func(c *Config) *bool { return &c.Metrics.Enabled }, setting{
		name: "FELIX_PROMETHEUSMETRICSENABLED", group: groupObserve, preset: "true",
		doc: "Serve Prometheus metrics at `/metrics`. (Calico's default is false.)",
	}),
	as(host, func(c *Config) *string { return &c.Metrics.Host }, setting{
		name: "FELIX_PROMETHEUSMETRICSHOST", group: groupObserve, preset: "localhost",
		doc: "Where to serve metrics. (Calico's default is every address; Manx asks for that to be said: `0.0.0.0`.)",
	}),
	as(port, func(c *Config) *uint16 { return &c.Metrics.Port }, setting{
		name: "FELIX_PROMETHEUSMETRICSPORT", group: groupObserve, preset: "9091", doc: "The TCP port of metrics.",
	}),
	as(logLevel, func(c *Config) *slog.Level { return &c.LogLevel }, setting{
		name: "FELIX_LOGSEVERITYSCREEN", group: groupObserve, preset: "Info", doc: "The least severe level that is logged, to standard error.",
	}),
}
