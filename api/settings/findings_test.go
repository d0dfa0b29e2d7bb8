package settings_test

import (
	"encoding/json"
	"fmt"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/manx-cni/manx/api/settings"
)

func object(t *testing.T, name, spec string) map[string]any {
	t.Helper()
	o := map[string]any{"metadata": map[string]any{"name": name}}
	var s map[string]any
	if err := json.Unmarshal([]byte(spec), &s); err != nil {
		t.Fatal(err)
	}
	o["spec"] = s
	return o
}

func TestFindings(t *testing.T) {
	for _, tt := range []struct {
		kind, name, spec string
		want             []string // the start of each
		grave            int
	}{
		// What the start of Manx writes says nothing.
		{kind: "FelixConfiguration", name: "default", spec: `{"logSeverityScreen":"Info","reportingInterval":"0s"}`},
		{kind: "BGPConfiguration", name: "default", spec: `{}`},
		{kind: "ClusterInformation", name: "default", spec: `{"clusterGUID":"1","clusterType":"k8s","datastoreReady":true}`},
		{kind: "KubeControllersConfiguration", name: "default", spec: `{"controllers":{"loadBalancer":{"assignIPs":"RequestedServicesOnly"}}}`},
		// Nor does what Calico's own start writes.
		{kind: "KubeControllersConfiguration", name: "default",
			spec: `{"logSeverityScreen":"Info","healthChecks":"Enabled","prometheusMetricsPort":9094,
			"etcdV3CompactionPeriod":"10m0s","controllers":{"node":{"reconcilerPeriod":"5m0s","leakGracePeriod":"15m0s","syncLabels":"Enabled",
			"hostEndpoint":{"autoCreate":"Disabled"}},"policy":{"reconcilerPeriod":"5m0s"}}}`},
		// Acted on, and empty values.
		{kind: "IPPool", name: "p", spec: `{"cidr":"10.0.0.0/16","ipipMode":"Always","vxlanMode":"Never","disabled":true}`},
		{kind: "BGPPeer", name: "p", spec: `{"node":"","filters":[],"password":null}`},
		{kind: "IPAMBlock", name: "b", spec: `{"cidr":"10.0.0.0/26","strictAffinity":true,"invented":1}`},
		// Without effect.
		{kind: "IPPool", name: "p", spec: `{"cidr":"10.0.0.0/16","vxlanMode":"Always","ipip":{"enabled":true}}`,
			want: []string{
				"spec.ipip: a field of Calico's first API",
				"spec.vxlanMode=Always: this version of Manx does not carry VXLAN",
			}, grave: 1},
		{kind: "BGPPeer", name: "p",
			spec: `{"localWorkloadSelector":"all()","reachableBy":"10.0.0.1","peerIP":"10.0.0.2",
			"password":{"secretKeyRef":{"name":"s","key":"k","optional":true}}}`,
			want: []string{
				"spec.localWorkloadSelector=all(): this version of Manx does not peer with pods",
				"spec.password.secretKeyRef.optional=true: without its password",
			}, grave: 1},
		{kind: "BGPConfiguration", name: "default",
			spec: `{"nodeMeshPassword":{"secretKeyRef":{"name":"s","key":"k"}},"logSeverityScreen":"info"}`},
		{kind: "BGPConfiguration", name: "node.n1", spec: `{"listenPort":180}`},
		{kind: "FelixConfiguration", name: "node.n1", spec: `{"wireguardEnabled":true,"vxlanPort":4790,"healthEnabled":false}`,
			want: []string{
				"spec.healthEnabled=false: use FELIX_HEALTHENABLED",
				"spec.vxlanPort=4790: this version of Manx has no VXLAN",
				"spec.wireguardEnabled=true: ",
			}, grave: 1},
		{kind: "BGPFilter", name: "f", spec: `{"exportV4":[{"action":"Accept","cidr":"10.0.0.0/8"}]}`},
		// Unknown, and of Calico.
		{kind: "FelixConfiguration", name: "default", spec: `{"ipipMtu":1400,"bpfEnabled":true,"nonsense":[1],"wireguardEnable":true}`,
			want: []string{
				"spec.bpfEnabled: a field of Calico's", "spec.ipipMtu: no such field, ignored; did you mean ipipMTU?",
				"spec.nonsense: no such field, ignored",
				"spec.wireguardEnable: no such field, ignored; did you mean wireguardEnabled?",
			}},
		{kind: "KubeControllersConfiguration", name: "default", spec: `{"controllers":{"node":{"leakGracePeriods":"5m"}}}`,
			want: []string{"spec.controllers.node.leakGracePeriods: no such field, ignored; did you mean leakGracePeriod?"}},
		// Names that no program reads.
		{kind: "BGPConfiguration", name: "n1", spec: `{"listenPort":180}`,
			want: []string{"metadata.name=n1: the object is not read; default or node.NODE is the name"}},
		{kind: "FelixConfiguration", name: "mine", spec: `{}`,
			want: []string{"metadata.name=mine: the object is not read; default or node.NODE is the name"}},
	} {
		k, ok := settings.Of(tt.kind)
		if !ok {
			t.Fatalf("no kind %s", tt.kind)
		}
		got := k.Findings(object(t, tt.name, tt.spec))
		var texts []string
		for i, f := range got {
			text := f.String()
			if i < len(tt.want) && strings.HasPrefix(text, tt.want[i]) {
				text = tt.want[i]
			}
			texts = append(texts, text)
		}
		if diff := cmp.Diff(tt.want, texts); diff != "" {
			t.Errorf("%s %s: %s", tt.kind, tt.spec, diff)
		}
		if n := len(settings.Grave(got)); n != tt.grave {
			t.Errorf("%s %s: %d grave, want %d", tt.kind, tt.spec, n, tt.grave)
		}
	}
}

// What is said stays short, whatever is in the object.
func TestFindingsAreBounded(t *testing.T) {
	long := strings.Repeat("ü", 100_000)
	spec := map[string]any{"logSeverityScreen": long, "zzz": 1, "wireguardEnabled": true}
	for i := range 499 {
		spec[fmt.Sprintf("x%03d", i)+strings.Repeat("x", i)] = long
	}
	k, _ := settings.Of("FelixConfiguration")
	found := k.Findings(map[string]any{"metadata": map[string]any{"name": "default"}, "spec": spec})
	if len(found) != 101 || found[0].Weight != settings.NotReady || found[100].Field != "402 more fields" {
		t.Fatalf("%d findings, from %v to %v", len(found), found[0], found[len(found)-1])
	}
	for _, f := range found {
		if n := len(f.String()); n > 250 {
			t.Errorf("%d bytes: %.80s…", n, f)
		}
	}
	s := settings.Summary(found, 900)
	if len(s) > 900 || !strings.HasSuffix(s, "…") || strings.ContainsRune(s, '\uFFFD') {
		t.Errorf("a summary of %d bytes: %s", len(s), s)
	}
}

func TestSummaryGroupsByReason(t *testing.T) {
	k, _ := settings.Of("BGPConfiguration")
	found := k.Findings(object(t, "default", `{"localWorkloadPeeringIPV4":"192.0.2.1","localWorkloadPeeringIPV6":"2001:db8::1"}`))
	const want = "spec.localWorkloadPeeringIPV4=192.0.2.1, spec.localWorkloadPeeringIPV6=2001:db8::1: this version of Manx does not peer"
	if got := settings.Summary(found, 1000); !strings.HasPrefix(got, want) || strings.Count(got, "this version") != 1 {
		t.Error(got)
	}
}

func TestOfPod(t *testing.T) {
	var got []string
	for _, f := range settings.OfPod(map[string]string{
		"kubernetes.io/egress-bandwidth": "10M", "cni.projectcalico.org/ipv4pool": `["a"]`, "cni.projectcalico.org/podIP": "10.0.0.1/32",
		"cni.projectcalico.org/allowedSourcePrefixes": "x", "other": "y", "qos.projectcalico.org/dscp": "",
	}) {
		got = append(got, f.String())
	}
	want := []string{
		`cni.projectcalico.org/ipv4pool=["a"]: no such annotation, ignored; did you mean cni.projectcalico.org/ipv4pools?`,
		"kubernetes.io/egress-bandwidth=10M: this version of Manx does not limit what pods send or receive",
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
}
