package config

import (
	"errors"
	"log/slog"
	"net/netip"
	"os"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	v1 "github.com/manx-cni/manx/api/v1"
)

func TestDefaults(t *testing.T) {
	c, warnings, err := Parse(nil)
	if err != nil || len(warnings) > 0 {
		t.Fatalf("empty environment: %v, %v", warnings, err)
	}
	if c.Pool.IPIP != v1.EncapNever || c.Pool.VXLAN != v1.EncapNever || c.Pool.BlockSize != 26 || !c.Pool.NATOutgoing ||
		c.Pool.NodeSelector != "all()" || c.Pool.DisableBGPExport || c.Pool.Skip || c.Pool.CIDR.IsValid() {
		t.Errorf("pool: %+v", c.Pool)
	}
	if c.Pool6 != (Pool{BlockSize: 122, NodeSelector: "all()"}) || c.Address.WantsIPv6() || c.Address.IPv6Support != nil {
		t.Errorf("IPv6: %+v, %+v", c.Pool6, c.Address)
	}
	if c.Health.Addr() != "127.0.0.1:9099" || !c.Health.Enabled || c.Metrics.Addr() != "127.0.0.1:9091" || !c.Metrics.Enabled {
		t.Errorf("servers: %+v %+v", c.Health, c.Metrics)
	}
	if c.BGP != (BGP{Backend: BackendBGP}) || c.LogLevel != slog.LevelInfo || c.Datastore.Wait || c.Address.PollInterval != time.Minute ||
		c.Dataplane != (Dataplane{RouteRefresh: 90 * time.Second, NFTables: NFTablesAuto}) {
		t.Errorf("%+v", c)
	}
}

// Every value that a variable accepts or refuses, one row each.
func TestValues(t *testing.T) {
	pool := func(c Config) any { return c.Pool.CIDR.String() }
	ipip := func(c Config) any { return c.Pool.IPIP }
	for _, tc := range []struct {
		env  string
		get  func(Config) any
		want any    // nil: refused
		note string // of a warning; of the error when refused
	}{
		{env: "CALICO_IPV4POOL_CIDR=10.244.0.0/16", get: pool, want: "10.244.0.0/16"},
		{env: "CALICO_IPV4POOL_CIDR=10.244.7.0/16", get: pool, want: "10.244.0.0/16", note: "read as 10.244.0.0/16"},
		{env: "CALICO_IPV4POOL_CIDR=none", get: func(c Config) any { return c.Pool.Skip }, want: true},
		{env: "CALICO_IPV4POOL_CIDR=10.244.0.0/33",
			note: `CALICO_IPV4POOL_CIDR="10.244.0.0/33": not an IPv4 CIDR; want e.g. 10.244.0.0/16, or "none"`},
		{env: "CALICO_IPV4POOL_CIDR=10.244.0.0", note: "not an IPv4 CIDR"},
		{env: "CALICO_IPV4POOL_CIDR=fd00::/48", note: "not an IPv4 CIDR"},
		{env: "CALICO_IPV4POOL_CIDR=169.254.0.0/17", note: "overlaps 169.254.0.0/16"},
		{env: "CALICO_IPV4POOL_CIDR=0.0.0.0/0", note: "overlaps"},
		{env: "CALICO_IPV4POOL_CIDR=239.0.0.0/8", note: "overlaps 224.0.0.0/3"},
		{env: "CALICO_IPV4POOL_CIDR=10.0.0.0/27", note: "a block is larger than the pool; want a block size of 27 to 32"},
		{env: "CALICO_IPV4POOL_IPIP=Always", get: ipip, want: v1.EncapAlways},
		{env: "CALICO_IPV4POOL_IPIP=aLWAYS", get: ipip, want: v1.EncapAlways},
		{env: "CALICO_IPV4POOL_IPIP=CrossSubnet", get: ipip, want: v1.EncapCrossSubnet},
		{env: "CALICO_IPV4POOL_IPIP=cross-subnet", get: ipip, want: v1.EncapCrossSubnet},
		{env: "CALICO_IPV4POOL_IPIP=off", get: ipip, want: v1.EncapNever},
		{env: "CALICO_IPV4POOL_IPIP=", get: ipip, want: v1.EncapNever},
		{env: "CALICO_IPV4POOL_IPIP=on",
			note: `CALICO_IPV4POOL_IPIP="on": not one of the accepted words; want Always, CrossSubnet, Cross-Subnet, Never or Off`},
		{env: "CALICO_IPV4POOL_VXLAN=Always", get: func(c Config) any { return c.Pool.VXLAN }, want: v1.EncapAlways},
		{env: "CALICO_IPV4POOL_VXLAN=true", note: "not one of the accepted words"},
		{env: "CALICO_IPV4POOL_BLOCK_SIZE=20", get: func(c Config) any { return c.Pool.BlockSize }, want: 20},
		{env: "CALICO_IPV4POOL_BLOCK_SIZE=19", note: `CALICO_IPV4POOL_BLOCK_SIZE="19": out of range; want 20 to 32`},
		{env: "CALICO_IPV4POOL_BLOCK_SIZE=33", note: "out of range"},
		{env: "CALICO_IPV4POOL_BLOCK_SIZE=26.0", note: "not a number"},
		{env: "CALICO_IPV4POOL_NAT_OUTGOING=F", get: func(c Config) any { return c.Pool.NATOutgoing }, want: false},
		{env: "CALICO_IPV4POOL_NAT_OUTGOING=No", get: func(c Config) any { return c.Pool.NATOutgoing }, want: false},
		{env: "CALICO_IPV4POOL_NAT_OUTGOING=off", get: func(c Config) any { return c.Pool.NATOutgoing }, want: true, note: "read as true"},
		{env: "CALICO_IPV4POOL_DISABLE_BGP_EXPORT=TRUE", get: func(c Config) any { return c.Pool.DisableBGPExport }, want: true},
		{env: "NO_DEFAULT_POOLS=True", get: func(c Config) any { return c.Pool.Skip }, want: true},
		{env: "NO_DEFAULT_POOLS=yes", get: func(c Config) any { return c.Pool.Skip }, want: false, note: "read as false"},
		{env: "WAIT_FOR_DATASTORE=true", get: func(c Config) any { return c.Datastore.Wait }, want: true},
		{env: "WAIT_FOR_DATASTORE=True", get: func(c Config) any { return c.Datastore.Wait }, want: false, note: "read as false"},
		{env: "IP=10.0.0.5/24", get: func(c Config) any { return c.Address.IP.String() }, want: "10.0.0.5/24"},
		{env: "IP=auto", note: `IP="auto": not an IPv4 address; want empty, autodetect, none, or`},
		{env: "IP_AUTODETECTION_METHOD=cidr=10.0.0.0/8", get: func(c Config) any { return c.Address.Method.String() }, want: "cidr=10.0.0.0/8"},
		{env: "IP_AUTODETECTION_METHOD=interface:eth0",
			note: `IP_AUTODETECTION_METHOD="interface:eth0": not an autodetection method; want first-found, interface=REGEX`},
		{env: "AUTODETECT_POLL_INTERVAL=5m", get: func(c Config) any { return c.Address.PollInterval }, want: 5 * time.Minute},
		{env: "AUTODETECT_POLL_INTERVAL=60", note: "not a duration; want a duration such as 60s"},
		{env: "AUTODETECT_POLL_INTERVAL=1ms", note: "shorter than a second"},
		{env: "IP6=none", get: func(c Config) any { return c.Address.WantsIPv6() }, want: false},
		{env: "IP6=", get: func(c Config) any { return c.Address.WantsIPv6() }, want: false},
		{env: "IP6=autodetect", get: func(c Config) any { return c.Address.WantsIPv6() && c.Address.IP6.Detects() }, want: true},
		{env: "IP6=fd00::5/64", get: func(c Config) any { return c.Address.IP6.String() }, want: "fd00::5/64"},
		{env: "IP6=fd00::5", get: func(c Config) any { return c.Address.WantsIPv6() }, want: true},
		{env: "IP6=10.0.0.5", note: `IP6="10.0.0.5": not an IPv6 address; ` +
			`want empty or none for a node without IPv6, autodetect, or this node's IPv6 address such as fd00::5`},
		{env: "IP6=fe80::1", note: `IP6="fe80::1": not a unicast address that other nodes can reach`},
		{env: "IP6_AUTODETECTION_METHOD=cidr=10.0.0.0/8",
			note: `IP6_AUTODETECTION_METHOD="cidr=10.0.0.0/8": "10.0.0.0/8" is not a CIDR of IPv6; want first-found`},
		{env: "FELIX_IPV6SUPPORT=false", get: func(c Config) any { return *c.Address.IPv6Support }, want: false},
		{env: "FELIX_IPV6SUPPORT=True", get: func(c Config) any { return *c.Address.IPv6Support }, want: true},
		{env: "FELIX_IPV6SUPPORT=maybe", note: `FELIX_IPV6SUPPORT="maybe": not a boolean; want empty, or true`},
		{env: "CALICO_IPV6POOL_CIDR=none", get: func(c Config) any { return c.Pool6.Skip && !c.Pool.Skip }, want: true},
		{env: "CALICO_IPV6POOL_CIDR=10.244.0.0/16",
			note: `CALICO_IPV6POOL_CIDR="10.244.0.0/16": not an IPv6 CIDR; want e.g. fd00:10:244::/48, or "none"`},
		{env: "CALICO_IPV6POOL_CIDR=fd00::", note: "not an IPv6 CIDR"},
		{env: "CALICO_IPV6POOL_CIDR=fe80::/64", note: "overlaps fe80::/10, whose addresses cannot be given to pods"},
		{env: "CALICO_IPV6POOL_CIDR=::ffff:10.0.0.0/112", note: "not an IPv6 CIDR"},
		{env: "CALICO_IPV6POOL_CIDR=::/0", note: "overlaps ::/8"},
		{env: "CALICO_IPV6POOL_CIDR=64:ff9b::/96", note: "overlaps ::/8"},
		{env: "CALICO_IPV6POOL_CIDR=ff00::/16", note: "overlaps ff00::/8"},
		{env: "CALICO_IPV6POOL_CIDR=fd00::/124", note: `CALICO_IPV6POOL_BLOCK_SIZE=122 with CALICO_IPV6POOL_CIDR="fd00::/124": ` +
			`a block is larger than the pool; want a block size of 124 to 128`},
		{env: "CALICO_IPV6POOL_BLOCK_SIZE=116", get: func(c Config) any { return c.Pool6.BlockSize }, want: 116},
		{env: "CALICO_IPV6POOL_BLOCK_SIZE=115", note: `CALICO_IPV6POOL_BLOCK_SIZE="115": out of range; want 116 to 128`},
		{env: "CALICO_IPV6POOL_BLOCK_SIZE=129", note: "out of range"},
		{env: "CALICO_IPV6POOL_NAT_OUTGOING=true", get: func(c Config) any { return c.Pool6.NATOutgoing }, want: true},
		{env: "CALICO_IPV6POOL_NODE_SELECTOR=zone == 'a'", get: func(c Config) any { return c.Pool6.NodeSelector }, want: "zone == 'a'"},
		{env: "CALICO_IPV6POOL_DISABLE_BGP_EXPORT=yes", get: func(c Config) any { return c.Pool6.DisableBGPExport }, want: true},
		{env: "CALICO_IPV6POOL_VXLAN=Never", get: func(c Config) any { return c.Pool6.VXLAN }, want: v1.EncapMode("")},
		{env: "CALICO_IPV6POOL_VXLAN=Always", note: `CALICO_IPV6POOL_VXLAN="Always": this version of Manx has no VXLAN; ` +
			`packets to an IPv6 pool travel as they are; want never, or unset`},
		{env: "AS=64512", get: func(c Config) any { return c.BGP.AS }, want: uint32(64512)},
		{env: "AS=1.10", get: func(c Config) any { return c.BGP.AS }, want: uint32(65546)},
		{env: "AS=65535.65535", get: func(c Config) any { return c.BGP.AS }, want: uint32(4294967295)},
		{env: "AS=0", note: `AS="0": not an AS number; want 1 to 4294967295, or asdot such as 1.10`},
		{env: "AS=4294967296", note: "not an AS number"},
		{env: "AS=1.65536", note: "not an AS number"},
		{env: "AS=0.0", note: "not an AS number"},
		{env: "AS=-1", note: "not an AS number"},
		{env: "CALICO_ROUTER_ID=hash", get: func(c Config) any { return c.BGP.RouterID.Hash }, want: true},
		{env: "CALICO_ROUTER_ID=192.0.2.1", get: func(c Config) any { return c.BGP.RouterID.Literal.String() }, want: "192.0.2.1"},
		{env: "CALICO_ROUTER_ID=7", note: "not a router id"},
		{env: "CALICO_ROUTER_ID=0.0.0.0", note: "not a router id"},
		{env: "CALICO_NETWORKING_BACKEND=none", get: func(c Config) any { return c.BGP.Backend }, want: BackendNone},
		{env: "CALICO_NETWORKING_BACKEND=gobgp", note: "want bird, vxlan or none"},
		{env: "NODENAME=Node_1", note: `NODENAME="Node_1": not a name that a Node can have`},
		{env: "CNI_MTU=0", get: func(c Config) any { return c.Dataplane.MTU }, want: 0},
		{env: "CNI_MTU=9000", get: func(c Config) any { return c.Dataplane.MTU }, want: 9000},
		{env: "CNI_MTU=575", note: "out of range; want 0, or 576 to 65535"},
		{env: "CNI_MTU=-1", note: "out of range"},
		{env: "FELIX_IPINIPMTU=575", note: `FELIX_IPINIPMTU="575": out of range; want 0, or 576 to 65535`},
		{env: "FELIX_IPINIPMTU=576", get: func(c Config) any { return c.Dataplane.IPIPMTU }, want: 576},
		{env: "FELIX_ROUTEREFRESHINTERVAL=0.5", get: func(c Config) any { return c.Dataplane.RouteRefresh }, want: 500 * time.Millisecond},
		{env: "FELIX_ROUTEREFRESHINTERVAL=NaN", note: "not a number of seconds"},
		{env: "FELIX_ROUTEREFRESHINTERVAL=90s", note: "not a number of seconds"},
		{env: "FELIX_NFTABLESMODE=enabled", get: func(c Config) any { return c.Dataplane.NFTables }, want: NFTablesEnabled},
		{env: "FELIX_HEALTHENABLED=off", note: "not a boolean"},
		{env: "FELIX_HEALTHENABLED=N", get: func(c Config) any { return c.Health.Enabled }, want: false},
		{env: "FELIX_HEALTHPORT=0", note: "out of range"},
		{env: "FELIX_HEALTHPORT=65536", note: "out of range"},
		{env: "FELIX_HEALTHHOST=::1", get: func(c Config) any { return c.Health.Addr() }, want: "[::1]:9099"},
		{env: "FELIX_PROMETHEUSMETRICSHOST=0.0.0.0", get: func(c Config) any { return c.Metrics.Addr() }, want: "0.0.0.0:9091"},
		{env: "FELIX_PROMETHEUSMETRICSHOST=a b", note: "neither a host name nor an IP address"},
		{env: "FELIX_LOGSEVERITYSCREEN=DEBUG", get: func(c Config) any { return c.LogLevel }, want: slog.LevelDebug},
		{env: "FELIX_LOGSEVERITYSCREEN=loud", note: "want Trace, Debug, Info"},
		{env: "KUBECONFIG=conf", note: "not an absolute path"},
	} {
		t.Run(tc.env, func(t *testing.T) {
			c, warnings, err := Parse([]string{tc.env})
			if tc.want == nil {
				if err == nil || !strings.Contains(err.Error(), tc.note) {
					t.Fatalf("got %v, want an error with %q", err, tc.note)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			if got := tc.get(c); got != tc.want {
				t.Errorf("got %v, want %v", got, tc.want)
			}
			if (tc.note == "") != (len(warnings) == 0) || tc.note != "" && !strings.Contains(warnings[0].Text, tc.note) {
				t.Errorf("warnings %v, want %q", warnings, tc.note)
			}
		})
	}
}

func TestAllErrorsTogether(t *testing.T) {
	_, _, err := Parse([]string{
		"CALICO_IPV4POOL_CIDR=x", "AS=x", "DATASTORE_TYPE=etcdv3", "CALICO_IPV4POOL_IPIP=Always", "CALICO_IPV4POOL_VXLAN=Always",
	})
	if err == nil {
		t.Fatal("accepted")
	}
	lines := strings.Split(err.Error(), "\n")
	for _, want := range []string{"CALICO_IPV4POOL_CIDR=", "AS=", `DATASTORE_TYPE="etcdv3": the Kubernetes API is the only datastore`,
		"a pool has one encapsulation"} {
		if !slices.ContainsFunc(lines, func(l string) bool { return strings.Contains(l, want) }) {
			t.Errorf("no line with %q in:\n%v", want, err)
		}
	}
	if len(lines) != 4 {
		t.Errorf("%d lines, want one per fault:\n%v", len(lines), err)
	}
}

func TestNoDefaultPoolsContradicts(t *testing.T) {
	_, _, err := Parse([]string{"NO_DEFAULT_POOLS=true", "CALICO_IPV4POOL_CIDR=10.0.0.0/16"})
	if err == nil || !strings.Contains(err.Error(), "want one of them unset") {
		t.Errorf("got %v", err)
	}
	if _, _, err := Parse([]string{"NO_DEFAULT_POOLS=true", "CALICO_IPV6POOL_CIDR=fd00::/48"}); err == nil ||
		!strings.Contains(err.Error(), `NO_DEFAULT_POOLS="true" with CALICO_IPV6POOL_CIDR="fd00::/48": contradictory; want one of them unset`) {
		t.Errorf("IPv6: %v", err)
	}
	c, _, err := Parse([]string{"NO_DEFAULT_POOLS=true"})
	if err != nil || !c.Pool.Skip || !c.Pool6.Skip {
		t.Errorf("got %+v, %+v, %v", c.Pool, c.Pool6, err)
	}
}

// Calico's switch and IP6 must not say different things; the one that is unset says nothing.
func TestIPv6Support(t *testing.T) {
	for _, tc := range []struct {
		env []string
		bad bool
	}{
		{[]string{"FELIX_IPV6SUPPORT=false", "IP6=autodetect"}, true},
		{[]string{"FELIX_IPV6SUPPORT=No", "IP6=fd00::5"}, true},
		{[]string{"FELIX_IPV6SUPPORT=false", "IP6=none"}, false},
		{[]string{"FELIX_IPV6SUPPORT=false"}, false},
		{[]string{"FELIX_IPV6SUPPORT=true"}, false},
		{[]string{"FELIX_IPV6SUPPORT=true", "IP6=autodetect", "IP6_AUTODETECTION_METHOD=interface=eth0", "CALICO_IPV6POOL_CIDR=fd00::/48"},
			false},
		{[]string{"IP6=autodetect"}, false},
	} {
		_, warnings, err := Parse(tc.env)
		if len(warnings) > 0 || (err != nil) != tc.bad {
			t.Errorf("%v: %v, %v", tc.env, warnings, err)
		}
		if err != nil &&
			!strings.Contains(err.Error(), "contradictory; want FELIX_IPV6SUPPORT true or unset for a node with IPv6, or IP6 none or unset") {
			t.Errorf("%v: %v", tc.env, err)
		}
	}
}

func TestIPv6Pool(t *testing.T) {
	c, warnings, err := Parse([]string{"IP6=autodetect", "CALICO_IPV6POOL_CIDR=fd00:10:244:0:7::/64", "CALICO_IPV6POOL_BLOCK_SIZE=120"})
	if err != nil || c.Pool6.CIDR != netip.MustParsePrefix("fd00:10:244::/64") ||
		c.Pool6.BlockSize != 120 || c.Pool6.Skip || c.Pool.Skip || c.Pool.CIDR.IsValid() {
		t.Errorf("got %+v, %+v, %v", c.Pool6, c.Pool, err)
	}
	if len(warnings) != 1 || warnings[0].Text != "has host bits set; read as fd00:10:244::/64" {
		t.Errorf("warnings %v", warnings)
	}
}

func TestIPIPEnabledMayBeLeftOpen(t *testing.T) {
	for text, want := range map[string]string{"": "open", "true": "true", "No": "false"} {
		c, _, err := Parse([]string{"FELIX_IPINIPENABLED=" + text})
		if err != nil {
			t.Fatal(err)
		}
		got := "open"
		if v := c.Dataplane.IPIPEnabled; v != nil {
			got = strconv.FormatBool(*v)
		}
		if got != want {
			t.Errorf("FELIX_IPINIPENABLED=%q is %s, want %s", text, got, want)
		}
	}
	if _, _, err := Parse([]string{"FELIX_IPINIPENABLED=perhaps"}); err == nil ||
		!strings.Contains(err.Error(), `FELIX_IPINIPENABLED="perhaps": not a boolean; want empty, or true`) {
		t.Errorf("a bad value: %v", err)
	}
	if _, _, err := Parse([]string{"CALICO_IPV4POOL_IPIP=Allways"}); err == nil ||
		!strings.Contains(err.Error(), `CALICO_IPV4POOL_IPIP="Allways": not one of the accepted words; want Always, CrossSubnet`) {
		t.Errorf("a mode that is misspelt: %v", err)
	}
}

func TestWarnings(t *testing.T) {
	_, warnings, err := Parse([]string{
		"CALICO_IPV4_POOL_CIDR=10.0.0.0/16", "FELIX_NOSUCHTHING=1", "FELIX_IPV6SUPPORT=true", "FELIX_VXLANMTU=1440",
		"CALICO_IPV6POOL_CIDR=fd00::/48", "IP6_AUTODETECTION_METHOD=interface=eth0", "IP6=none",
		"CALICO_TYPHA_SERVICE_HOST=10.96.0.5", "CALICO_TYPHA_SERVICE_PORT=5473", "CALICO_TYPHA_SERVICE_PORT_CALICO_TYPHA=5473",
		"CALICO_TYPHA_PORT=tcp://10.96.0.5:5473", "CALICO_TYPHA_PORT_5473_TCP_ADDR=10.96.0.5", "CALICO_TYPHA_PORT_5473_TCP=x",
		"PATH=/bin", "KUBERNETES_SERVICE_HOST=10.96.0.1", "", "novalue",
	})
	if err != nil {
		t.Fatal(err)
	}
	want := []string{
		`CALICO_IPV4_POOL_CIDR="10.0.0.0/16": not a setting of Manx, ignored; did you mean CALICO_IPV4POOL_CIDR?`,
		`CALICO_IPV6POOL_CIDR="fd00::/48": the pool is made, but this node has no IPv6: set IP6 to autodetect, or to the node's IPv6 address`,
		`FELIX_NOSUCHTHING="1": not a setting of Manx, ignored`,
		`FELIX_VXLANMTU="1440": no effect: this version of Manx has no such tunnel`,
		`IP6_AUTODETECTION_METHOD="interface=eth0": no effect: IP6 is not autodetect`,
	}
	var got []string
	for _, w := range warnings {
		got = append(got, w.String())
	}
	if !slices.Equal(got, want) {
		t.Errorf("got\n%s\nwant\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
}

// Variables of Calico's without one of our prefixes are reported as well, and settings
// of Felix's that exist are not called unknown.
func TestCalicoVariablesAreReported(t *testing.T) {
	_, warnings, err := Parse([]string{
		"BGP_LOGSEVERITYSCREEN=debug", "K8S_CLIENT_QPS=50", "K8S_CLIENT_BURST=100",
		"CNI_TOKEN_REFRESH_INTERVAL=1h", "ETCD_ENDPOINTS=http://192.0.2.1:2379",
		"FELIX_BPFLOGLEVEL=Debug", "FELIX_workloadSourceSpoofing=Any",
	})
	if err != nil {
		t.Fatal(err)
	}
	want := []string{
		`BGP_LOGSEVERITYSCREEN="debug": no effect: use FELIX_LOGSEVERITYSCREEN`,
		`CNI_TOKEN_REFRESH_INTERVAL="1h": no effect: the CNI plugin has no credential to refresh`,
		`ETCD_ENDPOINTS="http://192.0.2.1:2379": no effect: the Kubernetes API is the only datastore`,
		`FELIX_BPFLOGLEVEL="Debug": no effect: a setting of Calico's that this version of Manx does not have`,
		`FELIX_WORKLOADSOURCESPOOFING="Any": no effect: a setting of Calico's that this version of Manx does not have`,
		`K8S_CLIENT_BURST="100": no effect: the agent does not slow its own requests down; the API server's priority and fairness does`,
		`K8S_CLIENT_QPS="50": no effect: the agent does not slow its own requests down; the API server's priority and fairness does`,
	}
	var got []string
	for _, w := range warnings {
		got = append(got, w.String())
	}
	if !slices.Equal(got, want) {
		t.Errorf("got\n%s\nwant\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
}

// The environment of Calico's own manifest raises no warning.
func TestCalicoManifestIsQuiet(t *testing.T) {
	c, warnings, err := Parse([]string{
		"DATASTORE_TYPE=kubernetes", "WAIT_FOR_DATASTORE=true", "NODENAME=node-1.example.com", "CALICO_NETWORKING_BACKEND=bird",
		"CLUSTER_TYPE=k8s,bgp", "IP=autodetect", "CALICO_IPV4POOL_IPIP=Always", "CALICO_IPV4POOL_VXLAN=Never", "CALICO_IPV6POOL_VXLAN=Never",
		"FELIX_IPINIPMTU=0", "FELIX_VXLANMTU=0", "FELIX_WIREGUARDMTU=0", "CALICO_DISABLE_FILE_LOGGING=true",
		"FELIX_DEFAULTENDPOINTTOHOSTACTION=ACCEPT", "FELIX_IPV6SUPPORT=false", "FELIX_HEALTHENABLED=true",
	})
	if err != nil || len(warnings) > 0 || !c.Dataplane.HostOpen {
		t.Fatalf("%v %v", warnings, err)
	}
	if v, ok := c.Given("CALICO_IPV4POOL_IPIP"); v != "Always" || !ok {
		t.Errorf("Given = %q, %v", v, ok)
	}
	if _, ok := c.Given("CALICO_IPV4POOL_CIDR"); ok {
		t.Error("a variable that is not set counts as given")
	}
}

// Encryption that was asked for and does not happen must stop the start.
func TestEncryptionIsNotIgnored(t *testing.T) {
	if _, _, err := Parse([]string{"FELIX_WIREGUARDENABLED=true"}); err == nil || !strings.Contains(err.Error(), "want false, or unset") {
		t.Errorf("got %v", err)
	}
	c, _, err := Parse([]string{"FELIX_WIREGUARDENABLED=false", "FELIX_WIREGUARDENABLEDV6="})
	if err != nil || !c.Dataplane.WireGuardOff || c.Dataplane.WireGuardOffV6 {
		t.Errorf("false: %+v, %v", c.Dataplane, err)
	}
}

// Felix reads the names of its variables in any case.
func TestFelixNamesInAnyCase(t *testing.T) {
	for _, tc := range []struct {
		env  []string
		want int    // of FELIX_IPINIPMTU
		err  string // instead
	}{
		{env: []string{"FELIX_IpInIpMtu=1400"}, want: 1400},
		{env: []string{"felix_ipinipmtu=1400"}, want: 1400},
		{env: []string{"felix_IPINIPMTU=1400", "FELIX_IPINIPMTU=1400"}, want: 1400},
		{env: []string{"felix_ipinipmtu=", "FELIX_IPINIPMTU=1400", "Felix_IpInIpMtu="}, want: 1400},
		{env: []string{"FELIX_IPINIPMTU=", "Felix_IpInIpMtu=1400"}, want: 1400},
		{env: []string{"felix_ipinipmtu=1380", "felix_ipinipmtu=1400"}, want: 1400}, // one spelling: the last counts
		{env: []string{"felix_ipinipmtu=1380", "FELIX_IPINIPMTU=1400"},
			err: `FELIX_IPINIPMTU="1400" and felix_ipinipmtu="1380": two spellings of one variable with different values; want one of them unset`},
		{env: []string{"felix_ipinipmtu=1380", "FELIX_IpInIpMtu=1400"}, err: `FELIX_IpInIpMtu="1400" and felix_ipinipmtu="1380": two spellings`},
		{env: []string{"felix_IpInIpMtu=40"}, err: `FELIX_IPINIPMTU="40": out of range`},
		{env: []string{"felix_wireguardenabled=true"}, err: `FELIX_WIREGUARDENABLED="true"`},
	} {
		c, warnings, err := Parse(tc.env)
		switch {
		case tc.err != "":
			if err == nil || !strings.Contains(err.Error(), tc.err) {
				t.Errorf("%v: %v; want %s", tc.env, err, tc.err)
			}
		case err != nil || len(warnings) > 0 || c.Dataplane.IPIPMTU != tc.want:
			t.Errorf("%v: MTU %d, %v, %v", tc.env, c.Dataplane.IPIPMTU, warnings, err)
		default:
			if v, ok := c.Given("FELIX_IPINIPMTU"); v != "1400" || !ok {
				t.Errorf("%v: Given = %q, %v", tc.env, v, ok)
			}
		}
	}
	_, warnings, err := Parse([]string{"felix_nosuchthing=1", "cni_mtu=1400"})
	if err != nil || len(warnings) != 1 || warnings[0].Name != "FELIX_NOSUCHTHING" {
		t.Errorf("unknown: %v, %v", warnings, err)
	}
}

func TestResolveNodeName(t *testing.T) {
	file := func(content string) func(string) ([]byte, error) {
		return func(path string) ([]byte, error) {
			if content == "" {
				return nil, os.ErrNotExist
			}
			if path != "/var/lib/calico/nodename" {
				t.Errorf("read %s", path)
			}
			return []byte(content), nil
		}
	}
	kernel := func() (string, error) { return "Kernel-Name", nil }
	for _, tc := range []struct {
		env    []string
		file   string
		kernel func() (string, error)
		want   string // "!…" is an error
		source string
	}{
		{env: []string{"NODENAME=a", "HOSTNAME=B"}, file: "c\n", want: "a", source: "NODENAME"},
		{env: []string{"HOSTNAME=B"}, file: "c\n", want: "c", source: "file /var/lib/calico/nodename"},
		{env: []string{"HOSTNAME=B"}, want: "b", source: "HOSTNAME"},
		{want: "kernel-name", source: "the kernel's host name"},
		{kernel: func() (string, error) { return "", errors.New("no name") }, want: "!no name"},
		{env: []string{"HOSTNAME=a_b"}, want: `!node name "a_b" from HOSTNAME`},
	} {
		c, _, err := Parse(tc.env)
		if err != nil {
			t.Fatal(err)
		}
		k := kernel
		if tc.kernel != nil {
			k = tc.kernel
		}
		name, source, err := c.ResolveNodeName(file(tc.file), k)
		if fail, bad := strings.CutPrefix(tc.want, "!"); bad {
			if err == nil || !strings.Contains(err.Error(), fail) {
				t.Errorf("%+v: got %q, %v", tc, name, err)
			}
		} else if err != nil || name != tc.want || source != tc.source {
			t.Errorf("got %q from %q, %v; want %q from %q", name, source, err, tc.want, tc.source)
		}
	}
}

func TestRouterID(t *testing.T) {
	node := netip.MustParseAddr("10.0.0.5")
	if got := (RouterID{}).For("n", node); got != node {
		t.Errorf("empty: %s", got)
	}
	if got := (RouterID{Literal: netip.MustParseAddr("192.0.2.1")}).For("n", node); got != netip.MustParseAddr("192.0.2.1") {
		t.Errorf("literal: %s", got)
	}
	for name, want := range map[string]string{ // sha256sum of the name; the second starts with 245, which is reduced by 32
		"node-1":  "53.151.27.230",
		"node-18": "213.194.139.227",
	} {
		if got := (RouterID{Hash: true}).For(name, node); got != netip.MustParseAddr(want) {
			t.Errorf("hash of %s: %s, want %s", name, got, want)
		}
	}
}

// Anything may be in an environment: no panic, and what is accepted is sane.
func FuzzParse(f *testing.F) {
	for _, s := range settings {
		f.Add(s.name, s.preset)
		f.Add(s.name, "none")
	}
	f.Add("CALICO_IPV4POOL_CIDR", "10.244.0.0/33")
	f.Add("FELIX_X", "1")
	f.Fuzz(func(t *testing.T, name, value string) {
		c, warnings, err := Parse([]string{name + "=" + value})
		if err != nil {
			if err.Error() == "" || !strings.Contains(err.Error(), "want ") {
				t.Fatalf("error does not say what is accepted: %v", err)
			}
			return
		}
		for _, w := range warnings {
			if w.Name == "" || w.Text == "" {
				t.Fatalf("empty warning %+v", w)
			}
		}
		if c.Pool.CIDR.IsValid() && (c.Pool.CIDR != c.Pool.CIDR.Masked() || !c.Pool.CIDR.Addr().Is4() || c.Pool.CIDR.Bits() > c.Pool.BlockSize) {
			t.Fatalf("pool %v with blocks /%d", c.Pool.CIDR, c.Pool.BlockSize)
		}
		if p := c.Pool6; p.CIDR.IsValid() && (p.CIDR != p.CIDR.Masked() || !p.CIDR.Addr().Is6() || p.CIDR.Bits() > p.BlockSize) {
			t.Fatalf("pool %v with blocks /%d", p.CIDR, p.BlockSize)
		}
		if c.Dataplane.RouteRefresh < 0 || c.Address.PollInterval < 0 || c.Health.Port == 0 || c.Metrics.Port == 0 {
			t.Fatalf("%+v", c)
		}
	})
}
