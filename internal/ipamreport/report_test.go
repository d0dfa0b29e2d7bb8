package ipamreport

import (
	"encoding/json"
	"flag"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

var update = flag.Bool("update", false, "write the golden files instead of comparing them")

func golden(t *testing.T, name, got string) {
	t.Helper()
	path := filepath.Join("testdata", name+".golden")
	if *update {
		if err := os.MkdirAll("testdata", 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(got), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if got != string(want) {
		t.Errorf("%s: got\n%s\nwant\n%s", path, got, want)
	}
}

// small is a cluster of two nodes, where node2 borrows from node1.
func small() Cluster {
	own, other := pfx("10.244.0.0/26"), pfx("10.244.1.0/26")
	attrs := func(pod, node string) map[string]string {
		return map[string]string{"pod": pod, "namespace": "default", "node": node, "timestamp": "2026-11-20 12:00:00 +0000 UTC"}
	}
	held := func(b netip.Prefix, addr, handle string, attrs map[string]string, sequence int64) Assignment {
		return Assignment{Addr: ip(addr), Block: b, Handle: handle, Attrs: attrs, Sequence: sequence}
	}
	return Cluster{
		Pools: []Pool{
			{Name: "default-ipv4-ippool", CIDR: pfx("10.244.0.0/16"), Exported: true},
			{Name: "old", CIDR: pfx("10.9.0.0/24"), Disabled: true},
		},
		Blocks: []Block{
			{Name: "10-244-0-0-26", CIDR: own, Owner: "node1", Assigned: []Assignment{
				held(own, "10.244.0.0", "ipip-tunnel-addr-node1", map[string]string{"node": "node1", "type": "ipipTunnelAddress"}, 100),
				held(own, "10.244.0.1", "net.a", attrs("web", "node1"), 101), held(own, "10.244.0.2", "net.b", attrs("db", "node2"), 102),
			}},
			{Name: "10-244-1-0-26", CIDR: other, Owner: "node2"},
			{Name: "10-244-2-0-26", CIDR: pfx("10.244.2.0/26"), Unreadable: true},
		},
		Affinities: []Affinity{
			{Name: "node1-10-244-0-0-26", Node: "node1", CIDR: own, Confirmed: true, State: "confirmed"},
			{Name: "node2-10-244-1-0-26", Node: "node2", CIDR: other, Confirmed: true, State: "confirmed"},
		},
		Handles: []Handle{
			{Name: "ipip-tunnel-addr-node1", ID: "ipip-tunnel-addr-node1", Blocks: map[netip.Prefix]int{own: 1}},
			{Name: "net.a", ID: "net.a", Blocks: map[netip.Prefix]int{own: 1}}, {Name: "net.b", ID: "net.b", Blocks: map[netip.Prefix]int{own: 1}},
			{Name: "net.gone", ID: "net.Gone", Blocks: map[netip.Prefix]int{other: 1}, UID: "uid-9", Version: "99"},
		},
		Pods: []Pod{
			{Namespace: "default", Name: "db", Node: "node2", Addrs: []netip.Addr{ip("10.244.0.2")}},
			{Namespace: "default", Name: "stray", Node: "node2", Addrs: []netip.Addr{ip("10.244.1.7")}},
			{Namespace: "default", Name: "other", Node: "node2", Addrs: []netip.Addr{ip("172.16.0.1")}},
		},
		Nodes: []Node{
			{Name: "node1", Addr: ip("192.0.2.1"), Tunnels: map[string]netip.Addr{"ipipTunnelAddress": ip("10.244.0.0")}},
			{Name: "node2", Addr: ip("192.0.2.2"), Tunnels: map[string]netip.Addr{}},
		},
		Agents: []Agent{
			{Node: "node1", Converged: true, Learned: []Learned{{Prefix: pfx("10.244.0.2/32"), NextHops: []netip.Addr{ip("192.0.2.2")}}}},
		},
		Malformed: []Malformed{{Kind: "IPAMBlock", Name: "10-244-2-0-26", Reason: "spec.allocations: has 3 entries"}},
	}
}

func smallReport() (Report, Cluster, Result) {
	c := small()
	found := Check(c)
	r := NewReport(c, found, found.Problems)
	r.Version, r.ClusterGUID, r.ClusterType = "v0.1.0", "abc", "k8s,bgp,kdd"
	r.NotAsked = map[string]string{"node2": "its agent (pod manx-b) is not running: Pending"}
	return r, c, found
}

func TestGolden(t *testing.T) {
	r, c, found := smallReport()
	for name, o := range map[string]TextOptions{"text": {}, "text-problems": {ProblemIPs: true}, "text-all": {AllIPs: true}} {
		var b strings.Builder
		if err := r.WriteText(&b, c, found, o); err != nil {
			t.Fatal(err)
		}
		golden(t, name, b.String())
	}
	text, err := json.MarshalIndent(r, "", "  ")
	if err != nil {
		t.Fatal(err)
	}
	golden(t, "report.json", string(text)+"\n")
	var b strings.Builder
	if err := (Report{}).WriteText(&b, Cluster{}, Result{}, TextOptions{}); err != nil {
		t.Fatal(err)
	}
	golden(t, "text-empty", b.String())
}

// What a report says may be released is what was leaked, and nothing else.
func TestReportRoundTrip(t *testing.T) {
	r, _, _ := smallReport()
	text, err := json.Marshal(r)
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(t.TempDir(), "report.json")
	if err := os.WriteFile(path, text, 0o600); err != nil {
		t.Fatal(err)
	}
	back, err := ReadReport(path)
	if err != nil {
		t.Fatal(err)
	}
	got, err := back.Releasable()
	if err != nil || len(got) != 1 || got[0].Addr != ip("10.244.0.1") || got[0].Sequence != 101 ||
		got[0].Handle != "net.a" || got[0].Holder() != "pod default/web on node node1" {
		t.Errorf("releasable %+v, %v", got, err)
	}
	if h := back.LeakedHandles; len(h) != 1 || h[0].ID != "net.Gone" || *h[0].UID != "uid-9" || h[0].Revision != "99" {
		t.Errorf("handles %+v", h)
	}
}

func TestReadReport(t *testing.T) {
	for name, tc := range map[string]struct{ text, err string }{
		"no JSON":             {"", "want a file that `manxctl ipam check -o FILE` has written"},
		"something else":      {`{"kind":"List"}`, "it lists no allocations"},
		"no address":          {`{"allocations":{"x":[{"ip":"x","handle":"h"}]}}`, `allocation of "x" to "x": want an address`},
		"another address":     {`{"allocations":{"10.0.0.1":[{"ip":"10.0.0.2","handle":"h"}]}}`, "want an address"},
		"any assignment":      {`{"allocations":{"10.0.0.1":[{"ip":"10.0.0.1"}]}}`, "neither a sequence number nor a handle"},
		"in use":              {`{"allocations":{"10.0.0.1":[{"ip":"10.0.0.1","inUse":true}]}}`, ""},
		"calicoctl's numbers": {`{"allocations":{"10.0.0.1":[{"ip":"10.0.0.1","sequenceNumber":1755850000000000123,"owners":null}]}}`, ""},
	} {
		t.Run(name, func(t *testing.T) {
			path := filepath.Join(t.TempDir(), "r.json")
			if err := os.WriteFile(path, []byte(tc.text), 0o600); err != nil {
				t.Fatal(err)
			}
			r, err := ReadReport(path)
			if err == nil {
				_, err = r.Releasable()
			}
			if (err == nil) != (tc.err == "") || err != nil && !strings.Contains(err.Error(), tc.err) {
				t.Errorf("error %v; want %q", err, tc.err)
			}
		})
	}
	if _, err := ReadReport(filepath.Join(t.TempDir(), "absent")); err == nil {
		t.Error("an absent file was read")
	}
}
