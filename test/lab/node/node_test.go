package node

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"github.com/manx-cni/manx/test/lab/controlplane"
)

// A node has what it is given: with one address everything is about IPv4.
func TestFamilies(t *testing.T) {
	addr, addr6 := netip.MustParseAddr("172.30.0.11"), netip.MustParseAddr("fd00:172:30::11")
	for _, c := range []struct {
		addr6         netip.Addr
		nodeIP, proxy string
	}{
		{netip.Addr{}, "--node-ip=172.30.0.11", "clusterCIDR: 10.244.0.0/16\n"},
		{addr6, "--node-ip=172.30.0.11,fd00:172:30::11", "clusterCIDR: 10.244.0.0/16,fd00:10:244::/48\n"},
	} {
		var args []string
		for _, comp := range components("node1", addr, c.addr6) {
			args = append(args, comp.Args...)
		}
		if !slices.Contains(args, c.nodeIP) {
			t.Errorf("with IPv6 address %s the node's programs have the arguments %q, want %s", c.addr6, args, c.nodeIP)
		}
		config := fmt.Sprintf(proxyConfig, controlplane.PodCIDRs(c.addr6.IsValid()))
		if !strings.Contains(config, c.proxy) || strings.Contains(config, "%!") {
			t.Errorf("with IPv6 address %s kube-proxy has\n%swant %s", c.addr6, config, c.proxy)
		}
	}
}
