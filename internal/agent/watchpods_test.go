package agent

import (
	"net/netip"
	"slices"
	"testing"

	"github.com/manx-cni/manx/felix/state"
	"github.com/manx-cni/manx/internal/datastore"
	"github.com/manx-cni/manx/internal/nodeapi"
)

// Pods that do not say their addresses are written again, and no others.
func TestPodsThatLostTheirAnnotations(t *testing.T) {
	addrs := []netip.Addr{netip.MustParseAddr("10.244.0.5"), netip.MustParseAddr("fd00:10::5")}
	right := map[string]string{
		"cni.projectcalico.org/containerID": "c1", "cni.projectcalico.org/podIP": "10.244.0.5/32",
		"cni.projectcalico.org/podIPs": "10.244.0.5/32,fd00:10::5/128", "cni.projectcalico.org/ipAddrs": `["10.244.0.5"]`,
	}
	with := func(k, v string) map[string]string {
		out := map[string]string{}
		for key, value := range right {
			out[key] = value
		}
		if out[k] = v; v == "" {
			delete(out, k)
		}
		return out
	}
	var pods []datastore.PodMeta
	var endpoints []state.Endpoint
	for name, annotations := range map[string]map[string]string{
		"right": right, "changed": with("cni.projectcalico.org/podIP", "10.0.0.1/32"),
		"lost": with("cni.projectcalico.org/podIPs", ""), "never": nil,
	} {
		pods = append(pods, datastore.PodMeta{Namespace: "ns", Name: name, UID: "u-" + name, Annotations: annotations})
		endpoints = append(endpoints, state.Endpoint{
			Iface: nodeapi.HostIfaceName("ns", name), Network: "k8s-pod-network", ContainerID: "c1", Addrs: addrs,
		})
	}
	endpoints = append(endpoints, state.Endpoint{Iface: "cali-unknown", ContainerID: "c9", Addrs: addrs})
	var names []string
	for _, r := range unsaid(endpoints, pods, 10) {
		names = append(names, r.pod)
		if r.uid != "u-"+r.pod || r.annotations()["cni.projectcalico.org/podIPs"] != right["cni.projectcalico.org/podIPs"] {
			t.Errorf("%+v", r)
		}
	}
	if slices.Sort(names); !slices.Equal(names, []string{"changed", "lost", "never"}) {
		t.Errorf("written again: %v", names)
	}
	if n := len(unsaid(endpoints, pods, 2)); n != 2 {
		t.Errorf("%d at one look, want 2", n)
	}
}
