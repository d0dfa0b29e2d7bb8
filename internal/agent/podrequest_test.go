package agent

import (
	"cmp"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"github.com/manx-cni/manx/internal/nodeapi"
)

// metaOf makes what a pod and its namespace say: "ipAddrs", value, and for the
// namespace "ns:ipv4pools", value.
func metaOf(pairs ...string) podMeta {
	m := podMeta{annotations: map[string]string{}, namespace: map[string]string{}}
	for i := 0; i < len(pairs); i += 2 {
		into, name := m.annotations, pairs[i]
		if rest, ok := strings.CutPrefix(name, "ns:"); ok {
			into, name = m.namespace, rest
		}
		into["cni.projectcalico.org/"+name] = pairs[i+1]
	}
	return m
}

func TestWish(t *testing.T) {
	request := func(pools4 ...string) nodeapi.AddRequest {
		return nodeapi.AddRequest{Endpoint: testEndpoint, IPv4: true, IPv4Pools: pools4}
	}
	dual := request()
	dual.IPv6 = true
	only6 := dual
	only6.IPv4 = false
	configured6 := request()
	configured6.IPv6Pools = []string{"six"}
	configured := dual
	configured.IPv4Pools, configured.IPv6Pools = []string{"four"}, []string{"six"}
	net1 := request("c")
	net1.IfName = "net1"
	const pods, assign6 = " of its pod", `ipam.assign_ipv6="true" of the network configuration`
	const byFamilies, byAddrs = "annotation cni.projectcalico.org/ipFamilies" + pods, "annotation cni.projectcalico.org/ipAddrs" + pods
	for name, tt := range map[string]struct {
		req    nodeapi.AddRequest
		meta   podMeta
		pools4 []string
		pools6 []string
		addrs  string // with spaces in between
		mac    string
		from   string
		want   string // families; "4" when empty
		from6  string // who asks for IPv6
	}{
		"both":                         {req: dual, want: "46", from6: assign6},
		"IPv6 alone":                   {req: only6, want: "6", from6: assign6},
		"both, by families":            {req: request(), meta: metaOf("ipFamilies", `["IPv4","IPv6"]`), want: "46", from6: byFamilies},
		"both, in the other order":     {req: request(), meta: metaOf("ipFamilies", `["IPv6","ipv4"]`), want: "46", from6: byFamilies},
		"IPv6 alone, by families":      {req: dual, meta: metaOf("ipFamilies", `["IPv6"]`), want: "6", from6: byFamilies},
		"families are not a namespace": {req: request(), meta: metaOf("ns:ipFamilies", `["IPv6"]`)},
		"the configuration's pools of both": {req: configured, pools4: []string{"four"}, pools6: []string{"six"}, from: "network configuration",
			want: "46", from6: assign6},
		"pools of both": {req: configured, meta: metaOf("ns:ipv4pools", `["n"]`, "ipv6pools", `["p"]`),
			pools4: []string{"n"}, pools6: []string{"p"},
			from: "annotation cni.projectcalico.org/ipv4pools of its namespace and the annotation cni.projectcalico.org/ipv6pools of its pod",
			want: "46", from6: assign6},
		"pools of the family that is not asked for": {req: configured,
			meta: metaOf("ipFamilies", `["IPv6"]`, "ipv4pools", `["n"]`), pools4: []string{"n"}, pools6: []string{"six"},
			from: "network configuration", want: "6", from6: byFamilies},
		"an IPv6 address": {req: request("c"), meta: metaOf("ipAddrs", `["fd00::9"]`),
			addrs: "fd00::9", from: byAddrs, want: "6", from6: byAddrs},
		"an address of each": {req: request(), meta: metaOf("ipAddrs", `["fd00::9","10.244.0.9"]`),
			addrs: "fd00::9 10.244.0.9", from: byAddrs, want: "46", from6: byAddrs},
		"addresses and the families of them": {req: request(),
			meta:  metaOf("ipAddrs", `["10.244.0.9","fd00::9"]`, "ipFamilies", `["IPv4","IPv6"]`),
			addrs: "10.244.0.9 fd00::9", from: byAddrs, want: "46", from6: byFamilies},
		"an address, and any of the other": {req: configured, meta: metaOf("ipAddrs", `["10.244.0.9"]`, "ipFamilies", `["IPv4","IPv6"]`),
			addrs: "10.244.0.9", pools6: []string{"six"}, from: byAddrs + " and the network configuration", want: "46", from6: byFamilies},
		"an IPv6 address, and any of the other": {req: request(),
			meta:  metaOf("ipAddrs", `["fd00::9"]`, "ipFamilies", `["IPv4","IPv6"]`, "ipv4pools", `["p"]`, "ipv6pools", `["q"]`),
			addrs: "fd00::9", pools4: []string{"p"},
			from: byAddrs + " and the annotation cni.projectcalico.org/ipv4pools of its pod", want: "46", from6: byFamilies},

		"nothing": {req: request()},
		"empty annotations": {req: request(),
			meta: metaOf("ipv4pools", "", "ipv6pools", "", "ipAddrs", "", "ipFamilies", "", "hwAddr", "", "ipAddrsNoIpam", "", "floatingIPs", "")},
		"what is not for the address":    {req: request(), meta: metaOf("podIP", "10.0.0.1/32", "containerID", "x")},
		"the configuration's pools":      {req: request("c"), pools4: []string{"c"}, from: "network configuration"},
		"the configuration's IPv6 pools": {req: configured6, pools6: []string{"six"}, from: "network configuration"},
		"the namespace's pools": {req: request("c"), meta: metaOf("ns:ipv4pools", `["n"]`),
			pools4: []string{"n"}, from: "annotation cni.projectcalico.org/ipv4pools of its namespace"},
		"the pod's pools": {req: request("c"), meta: metaOf("ns:ipv4pools", `["n"]`, "ipv4pools", `[" p ", "10.1.0.0/16"]`),
			pools4: []string{"p", "10.1.0.0/16"}, from: "annotation cni.projectcalico.org/ipv4pools of its pod"},
		"the pod's, against bad others": {req: request(), meta: metaOf("ns:ipv4pools", `x`, "ipv4pools", `["p"]`),
			pools4: []string{"p"}, from: "annotation cni.projectcalico.org/ipv4pools of its pod"},
		"any pool after all": {req: request("c"), meta: metaOf("ns:ipv4pools", `["n"]`, "ipv4pools", `[]`),
			from: "annotation cni.projectcalico.org/ipv4pools of its pod"},
		"IPv6 pools": {req: request(), meta: metaOf("ns:ipv6pools", `["n"]`, "ipv6pools", `["fd00::/48"]`),
			pools6: []string{"fd00::/48"}, from: "annotation cni.projectcalico.org/ipv6pools of its pod"},
		"families":                        {req: request(), meta: metaOf("ipFamilies", `["IPv4"]`)},
		"families, in Calico's other way": {req: request(), meta: metaOf("ipFamilies", `["ipv4"]`)},
		"families against assign_ipv6":    {req: dual, meta: metaOf("ipFamilies", `["IPv4"]`)},
		"families against assign_ipv4":    {req: only6, meta: metaOf("ipFamilies", `["IPv4"]`)},
		"an address": {req: request(), meta: metaOf("ipAddrs", `["10.244.0.9"]`),
			addrs: "10.244.0.9", from: "annotation cni.projectcalico.org/ipAddrs of its pod"},
		"an address against pools": {req: request("c"), meta: metaOf("ipAddrs", `["10.244.0.9"]`, "ipv4pools", `["p"]`, "ipv6pools", `["q"]`),
			addrs: "10.244.0.9", from: "annotation cni.projectcalico.org/ipAddrs of its pod"},
		"an address against assign_ipv6": {req: dual, meta: metaOf("ipAddrs", `["10.244.0.9"]`),
			addrs: "10.244.0.9", from: "annotation cni.projectcalico.org/ipAddrs of its pod"},
		"addresses are not a namespace's": {req: request(),
			meta: metaOf("ns:ipAddrs", `["10.244.0.9"]`, "ns:hwAddr", "x", "ns:floatingIPs", "x")},
		"what is eth0's, for another": {req: net1, meta: metaOf("ipAddrs", `["10.244.0.9"]`, "hwAddr", "0a:58:0a:f4:00:09"),
			pools4: []string{"c"}, from: "network configuration"},
		"a hardware address":              {req: request(), meta: metaOf("hwAddr", "0a:58:0a:f4:00:09"), mac: "0a:58:0a:f4:00:09"},
		"a hardware address, with dashes": {req: request(), meta: metaOf("hwAddr", " 0A-58-0A-F4-00-09 "), mac: "0a:58:0a:f4:00:09"},
	} {
		t.Run(name, func(t *testing.T) {
			tt.meta.namespaceLabels = map[string]string{"team": "a"}
			w, err := wishOf(tt.req, tt.meta)
			if err != nil {
				t.Fatal(err)
			}
			var addrs []netip.Addr
			for _, a := range strings.Fields(tt.addrs) {
				addrs = append(addrs, netip.MustParseAddr(a))
			}
			if !slices.Equal(w.pools4, tt.pools4) || !slices.Equal(w.pools6, tt.pools6) ||
				!slices.Equal(w.addrs, addrs) || w.mac.String() != tt.mac || w.from != tt.from {
				t.Errorf("%+v", w)
			}
			q := w.request("h", nil)
			got := strings.Repeat("4", q.Num4) + strings.Repeat("6", q.Num6)
			if want := cmp.Or(tt.want, "4"); got != want || w.families.ipv6 && w.from6 != tt.from6 {
				t.Errorf("families %s, IPv6 for the %q; want %s, %q", got, w.from6, want, tt.from6)
			}
			if q.Handle != "h" || !slices.Equal(q.Pools4, tt.pools4) || !slices.Equal(q.Pools6, tt.pools6) ||
				!slices.Equal(q.Addrs, addrs) || q.NamespaceLabels["team"] != "a" {
				t.Errorf("request %+v", q)
			}
		})
	}
}

// Every refusal names what is wrong, its value, and what is accepted.
func TestWishRefused(t *testing.T) {
	plain := nodeapi.AddRequest{Endpoint: testEndpoint, IPv4: true}
	none := plain
	none.IPv4 = false
	const pod, namespace = "pod default/web: annotation cni.projectcalico.org/", "namespace default: annotation cni.projectcalico.org/"
	for name, tt := range map[string]struct {
		req  nodeapi.AddRequest
		meta podMeta
		want []string
	}{
		"no family": {none, metaOf(), []string{`ipam.assign_ipv4 is "false"`, "so is ipam.assign_ipv6", `want "true"`}},
		"outside IPAM": {plain, metaOf("ipAddrsNoIpam", `["10.0.0.1"]`),
			[]string{pod + `ipAddrsNoIpam="[\"10.0.0.1\"]"`, "remove the annotation"}},
		"another source": {plain, metaOf("allowedSourcePrefixes", `["192.0.2.0/24"]`), []string{
			pod + `allowedSourcePrefixes="[\"192.0.2.0/24\"]"`, "packets of a pod leave it with its own addresses only", "remove the annotation",
		}},
		"floating":               {plain, metaOf("floatingIPs", `["10.0.0.1"]`), []string{pod + "floatingIPs", "remove the annotation"}},
		"pools: no JSON":         {plain, metaOf("ipv4pools", `pool-a`), []string{pod + `ipv4pools="pool-a"`, wantPools}},
		"pools: a string":        {plain, metaOf("ipv4pools", `"pool-a"`), []string{pod + "ipv4pools", wantPools}},
		"pools: null":            {plain, metaOf("ipv4pools", `null`), []string{pod + `ipv4pools="null"`, wantPools}},
		"pools: numbers":         {plain, metaOf("ipv4pools", `[1]`), []string{pod + "ipv4pools", wantPools}},
		"pools: an empty name":   {plain, metaOf("ipv4pools", `["a"," "]`), []string{pod + "ipv4pools", wantPools}},
		"pools of the namespace": {plain, metaOf("ns:ipv4pools", `[`), []string{namespace + `ipv4pools="["`, wantPools}},
		"IPv6 pools":             {plain, metaOf("ns:ipv6pools", `x`), []string{namespace + `ipv6pools="x"`, wantPools}},
		"families: no JSON":      {plain, metaOf("ipFamilies", `IPv4`), []string{pod + `ipFamilies="IPv4"`, wantFamilies}},
		"families: none":         {plain, metaOf("ipFamilies", `[]`), []string{pod + "ipFamilies", wantFamilies}},
		"families: another": {plain, metaOf("ipFamilies", `["IPX"]`),
			[]string{pod + "ipFamilies", `"IPX" is no address family`, wantFamilies}},
		"families with an address": {plain, metaOf("ipFamilies", `["IPv6"]`, "ipAddrs", `["10.0.0.1"]`),
			[]string{pod + "ipAddrs", "10.0.0.1 is of a family", `ipFamilies="[\"IPv6\"]" leaves out`}},
		"IPv6 address, left out": {plain, metaOf("ipFamilies", `["IPv4"]`, "ipAddrs", `["10.0.0.1","fd00::1"]`),
			[]string{pod + "ipAddrs", "fd00::1 is of a family"}},
		"address: no JSON": {plain, metaOf("ipAddrs", `10.0.0.1`), []string{pod + `ipAddrs="10.0.0.1"`, wantAddrs}},
		"address: none":    {plain, metaOf("ipAddrs", `[]`), []string{pod + "ipAddrs", wantAddrs}},
		"address: a range": {plain, metaOf("ipAddrs", `["10.0.0.1/32"]`),
			[]string{pod + "ipAddrs", `"10.0.0.1/32" is no address`, wantAddrs}},
		"address: two": {plain, metaOf("ipAddrs", `["10.0.0.1","10.0.0.2"]`),
			[]string{pod + "ipAddrs", "one address of a family", wantAddrs}},
		"address: two of IPv6": {plain, metaOf("ipAddrs", `["fd00::2","10.0.0.1","fd00::1"]`),
			[]string{pod + "ipAddrs", "one address of a family", wantAddrs}},
		"address: with a zone":    {plain, metaOf("ipAddrs", `["fe80::1%eth0"]`), []string{pod + "ipAddrs", "is no address", wantAddrs}},
		"address: mapped":         {plain, metaOf("ipAddrs", `["::ffff:10.0.0.1"]`), []string{pod + "ipAddrs", "is no address", wantAddrs}},
		"hardware address: text":  {plain, metaOf("hwAddr", `x`), []string{pod + `hwAddr="x"`, wantMAC}},
		"hardware address: long":  {plain, metaOf("hwAddr", `00:00:00:00:fe:80:00:00`), []string{pod + "hwAddr", wantMAC}},
		"hardware address: none":  {plain, metaOf("hwAddr", `00:00:00:00:00:00`), []string{pod + "hwAddr", wantMAC}},
		"hardware address: group": {plain, metaOf("hwAddr", `01:00:5e:00:00:01`), []string{pod + "hwAddr", "address of a group", wantMAC}},
		"hardware address: ours":  {plain, metaOf("hwAddr", `EE:EE:EE:EE:EE:EE`), []string{pod + "hwAddr", "the pod's gateway", wantMAC}},
		"a long value": {plain, metaOf("ipAddrs", strings.Repeat("é", 500)),
			[]string{pod + "ipAddrs", "é … [", "bytes left out] … é", wantAddrs}},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := wishOf(tt.req, tt.meta)
			if err == nil || nodeapi.AsError(err).Code != nodeapi.CodeInvalidConfig || len(err.Error()) > 512 {
				t.Fatalf("%v; want code 7", err)
			}
			for _, want := range tt.want {
				if !strings.Contains(err.Error(), want) {
					t.Errorf("%v; want %q in it", err, want)
				}
			}
		})
	}
}
