package gc_test

import (
	"net/netip"
	"strings"
	"testing"

	"github.com/manx-cni/manx/ipam/gc"
)

func TestJudge(t *testing.T) {
	addrs := func(texts ...string) (out []netip.Addr) {
		for _, s := range texts {
			out = append(out, netip.MustParseAddr(s))
		}
		return out
	}
	facts := gc.Facts{
		Nodes: map[string]bool{"n1": true, "n2": true},
		Pods: map[gc.PodKey]gc.Pod{
			{Namespace: "ns", Name: "quiet"}:   {Node: "n1"},
			{Namespace: "ns", Name: "web"}:     {Node: "n1", Addrs: addrs("10.0.0.1")},
			{Namespace: "ns", Name: "dual"}:    {Node: "n1", Addrs: addrs("10.0.0.2", "fd00::a")},
			{Namespace: "ns", Name: "done"}:    {Node: "n1", Finished: true, Addrs: addrs("10.0.0.3")},
			{Namespace: "ns", Name: "pending"}: {},
			{Namespace: "ns", Name: "ghost"}:   {Node: "gone", Addrs: addrs("10.0.0.9")},
		},
	}
	pod := func(name, node string) map[string]string {
		return map[string]string{"namespace": "ns", "pod": name, "node": node}
	}
	for _, c := range []struct {
		name, addr string
		attrs      map[string]string
		want       string // in the reason; empty: in use
	}{
		{"no attributes", "10.0.0.1", nil, ""},
		{"a node only", "10.0.0.1", map[string]string{"node": "gone"}, ""},
		{"a pod without a namespace", "10.0.0.1", map[string]string{"pod": "x", "node": "gone"}, ""},
		{"tunnel", "10.0.0.1", map[string]string{"node": "n1", "type": "ipipTunnelAddress"}, ""},
		{"tunnel of a gone node", "10.0.0.1", map[string]string{"node": "gone", "type": "ipipTunnelAddress"},
			"ipipTunnelAddress of node gone, which does not exist"},
		{"tunnel of nobody", "10.0.0.1", map[string]string{"type": "ipipTunnelAddress"}, ""},
		{"reports it", "10.0.0.1", pod("web", "n1"), ""},
		{"reports another", "10.0.0.7", pod("web", "n1"), "pod ns/web has 10.0.0.1 instead"},
		{"reports it, mapped", "::ffff:10.0.0.1", pod("web", "n1"), ""},
		{"reports it in another spelling", "fd00:0:0:0::a", pod("dual", "n1"), ""},
		{"reports nothing yet", "10.0.0.7", pod("quiet", "n1"), ""},
		{"does not exist", "10.0.0.7", pod("none", "n1"), "pod ns/none does not exist"},
		{"neither pod nor node", "10.0.0.7", pod("none", "gone"), "neither pod ns/none nor its node gone exists"},
		{"finished", "10.0.0.3", pod("done", "n1"), "has finished"},
		{"moved", "10.0.0.7", pod("quiet", "n2"), "another of its name runs on n1"},
		{"moved, and reports it all the same", "10.0.0.1", pod("web", "n2"), ""},
		{"waits for a node", "10.0.0.7", pod("pending", "n1"), "waits for a node"},
		{"no node known", "10.0.0.7", pod("quiet", ""), ""},
		{"another interface than eth0", "10.0.0.7", map[string]string{"namespace": "ns", "pod": "web", "node": "n1", "interface": "net1"}, ""},
		{"another interface of a gone pod", "10.0.0.7",
			map[string]string{"namespace": "ns", "pod": "none", "node": "n1", "interface": "net1"}, "does not exist"},
		{"another interface, moved", "10.0.0.7",
			map[string]string{"namespace": "ns", "pod": "web", "node": "n2", "interface": "net1"}, "another of its name runs on n1"},
		{"node missing, pod not deleted yet", "10.0.0.9", pod("ghost", "gone"), ""},
	} {
		got := gc.Judge(netip.MustParseAddr(c.addr), c.attrs, facts)
		if c.want == "" && got != "" || !strings.Contains(got, c.want) {
			t.Errorf("%s: %q, want %q", c.name, got, c.want)
		}
	}
}
