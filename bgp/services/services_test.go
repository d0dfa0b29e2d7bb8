package services

import (
	"fmt"
	"net/netip"
	"strings"
	"testing"
)

func prefixes(text string) (out []netip.Prefix) {
	for _, p := range strings.Fields(text) {
		out = append(out, netip.MustParsePrefix(p))
	}
	return out
}

func addrs(text string) (out []netip.Addr) {
	for _, a := range strings.Fields(text) {
		out = append(out, netip.MustParseAddr(a))
	}
	return out
}

// TestAnnounce has every rule of the package.
func TestAnnounce(t *testing.T) {
	cluster := Ranges{ClusterIPs: prefixes("10.96.0.0/12 fd96::/112")}
	external := Ranges{ExternalIPs: prefixes("192.0.2.0/24 2001:db8:2::/64")}
	balancer := Ranges{LoadBalancerIPs: prefixes("198.51.100.0/24 2001:db8:3::/64")}
	hosts := balancer
	hosts.HostRoutes = true
	all := Ranges{ClusterIPs: cluster.ClusterIPs, ExternalIPs: external.ExternalIPs, LoadBalancerIPs: balancer.LoadBalancerIPs}
	service := func(local bool, ready [2]bool) Service {
		return Service{
			ClusterIPs: addrs("10.96.0.10 fd96::10"), ExternalIPs: addrs("192.0.2.10 2001:db8:2::10"),
			LoadBalancerIPs: addrs("198.51.100.10 2001:db8:3::10"), Local: local, Ready: ready,
		}
	}
	spread := service(false, [2]bool{})
	here, four, away := service(true, [2]bool{true, true}), service(true, [2]bool{true, false}), service(true, [2]bool{})
	single := Ranges{ClusterIPs: prefixes("10.96.0.10/32 fd96::10/128"), ExternalIPs: prefixes("192.0.2.99/32")}

	for _, tc := range []struct {
		name     string
		ranges   Ranges
		excluded bool
		services []Service
		want     string
	}{
		{"nothing listed", Ranges{}, false, []Service{here}, ""},
		{"whole ranges without a service", all, false, nil,
			"10.96.0.0/12 192.0.2.0/24 198.51.100.0/24 2001:db8:2::/64 2001:db8:3::/64 fd96::/112"},
		{"whole ranges cover policy Cluster", cluster, false, []Service{spread}, "10.96.0.0/12 fd96::/112"},
		{"host bits", Ranges{ClusterIPs: prefixes("10.96.0.1/12")}, false, nil, "10.96.0.0/12"},
		{"Local with endpoints, cluster IPs", cluster, false, []Service{here}, "10.96.0.0/12 10.96.0.10/32 fd96::/112 fd96::10/128"},
		{"Local with endpoints, external IPs", external, false, []Service{here},
			"192.0.2.0/24 192.0.2.10/32 2001:db8:2::/64 2001:db8:2::10/128"},
		{"Local with endpoints, load balancers", balancer, false, []Service{here},
			"198.51.100.0/24 198.51.100.10/32 2001:db8:3::/64 2001:db8:3::10/128"},
		{"Local with an endpoint of one family", cluster, false, []Service{four}, "10.96.0.0/12 10.96.0.10/32 fd96::/112"},
		{"Local without endpoints", cluster, false, []Service{away}, "10.96.0.0/12 fd96::/112"},
		{"an excluded node, policy Cluster", all, true, []Service{spread}, ""},
		{"an excluded node, Local without endpoints", all, true, []Service{away}, ""},
		{"an excluded node, Local with endpoints", cluster, true, []Service{here}, "10.96.0.10/32 fd96::10/128"},
		{"an excluded node, host routes", hosts, true, []Service{spread}, ""},
		{"an excluded node, single addresses", single, true, []Service{spread}, ""},
		{"an excluded node, single addresses, Local", single, true, []Service{here}, "10.96.0.10/32 fd96::10/128"},
		{"single addresses that no service has", single, false, nil, ""},
		{"single addresses, policy Cluster", single, false, []Service{spread}, "10.96.0.10/32 fd96::10/128"},
		{"single addresses, Local with endpoints", single, false, []Service{here}, "10.96.0.10/32 fd96::10/128"},
		{"single addresses, Local without endpoints", single, false, []Service{away}, ""},
		{"a single address inside a range", Ranges{ClusterIPs: prefixes("10.96.0.0/12 10.96.0.10/32")}, false, []Service{spread},
			"10.96.0.0/12 10.96.0.10/32"},
		{"no aggregation, policy Cluster", hosts, false, []Service{spread}, "198.51.100.10/32 2001:db8:3::10/128"},
		{"no aggregation, Local with endpoints", hosts, false, []Service{here}, "198.51.100.10/32 2001:db8:3::10/128"},
		{"no aggregation, Local without endpoints", hosts, false, []Service{away}, ""},
		{"no aggregation is of load balancers alone", Ranges{ClusterIPs: prefixes("10.96.0.0/12"), HostRoutes: true}, false,
			[]Service{spread}, "10.96.0.0/12"},
		{"outside the ranges", Ranges{prefixes("10.0.0.0/16"), prefixes("10.1.0.0/16"), prefixes("10.2.0.0/16"), false}, false, []Service{here},
			"10.0.0.0/16 10.1.0.0/16 10.2.0.0/16"},
		{"in the range of another kind", Ranges{ExternalIPs: prefixes("10.96.0.0/12")}, true, []Service{here}, ""},
		{"an address of two kinds", Ranges{ExternalIPs: prefixes("192.0.2.0/24"), LoadBalancerIPs: prefixes("192.0.2.0/24")}, true,
			[]Service{{ExternalIPs: addrs("192.0.2.9"), LoadBalancerIPs: addrs("192.0.2.9"), Local: true, Ready: [2]bool{true}}}, "192.0.2.9/32"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			got := Announce(Input{Ranges: tc.ranges, Excluded: tc.excluded, Services: tc.services})
			if text := strings.Trim(fmt.Sprint(got), "[]"); text != tc.want {
				t.Errorf("got %q, want %q", text, tc.want)
			}
		})
	}
}

func TestRanges(t *testing.T) {
	r := Ranges{ClusterIPs: prefixes("10.96.0.0/12 fd96::/112"), HostRoutes: true}
	six := r.Only(func(p netip.Prefix) bool { return p.Addr().Is6() })
	if len(six.ClusterIPs) != 1 || !six.HostRoutes || six.Equal(r) || len(r.ClusterIPs) != 2 {
		t.Errorf("of %v the IPv6 ranges are %v", r, six)
	}
	nested := Ranges{prefixes("10.96.0.0/16 fd96::/112"), prefixes("10.96.3.0/24 10.64.0.0/16"), prefixes("10.96.0.1/12"), false}
	if got := fmt.Sprint(nested.All()); got != "[10.64.0.0/16 10.96.0.0/12 fd96::/112]" {
		t.Errorf("all ranges of %v: %s", nested, got)
	}
	if r.Empty() || !(Ranges{HostRoutes: true}).Empty() || !r.Equal(r.Only(func(netip.Prefix) bool { return true })) {
		t.Error("Empty or Equal is wrong")
	}
}
