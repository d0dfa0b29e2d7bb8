package agent

import (
	"fmt"
	"log/slog"
	"net/netip"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"

	apiv1 "github.com/manx-cni/manx/api/v1"
	"github.com/manx-cni/manx/bgp/speaker"
	"github.com/manx-cni/manx/felix"
	"github.com/manx-cni/manx/felix/nl/nltest"
	"github.com/manx-cni/manx/internal/config"
	"github.com/manx-cni/manx/internal/datastore"
	"github.com/manx-cni/manx/internal/status"
	"github.com/manx-cni/manx/ipam"
)

// servingAgent is node n1's, at work with what the datastore knows.
func servingAgent(t *testing.T, env []string, s *datastore.Snapshot) *Agent {
	t.Helper()
	settings, _, err := config.Parse(env)
	if err != nil {
		t.Fatal(err)
	}
	log := slog.New(slog.DiscardHandler)
	a := &Agent{
		node: "n1", settings: settings, log: log,
		speaker: speaker.New(speaker.Config{}), ipam: ipam.New(ipam.Config{Node: "n1"}), modes: newModes("n1", log, modeActions{}, func() {}),
	}
	if a.dataplane, err = felix.New(felix.Config{
		Kernel: nltest.NewKernel(), Addresses: func() map[string][]netip.Addr { return nil },
	}); err != nil {
		t.Fatal(err)
	}
	a.snapshot.Store(s)
	a.serving.Store(true)
	return a
}

func clusterNode(name, addr string) *corev1.Node {
	return &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: name, Annotations: map[string]string{apiv1.AnnotationNodeIPv4: addr}}}
}

// A setting that is a matter of safety or of who reaches whom keeps the node from being
// ready while it has no effect; another one is a line of status and no more.
func TestSettingsWithoutEffect(t *testing.T) {
	n1, n2 := clusterNode("n1", "10.0.0.1/24"), clusterNode("n2", "10.0.0.2/24")
	for _, tt := range []struct {
		name    string
		env     []string
		nodes   []runtime.Object
		objects []runtime.Object
		refused []string // of the reasons for not being ready, what each begins with
		lines   []string // of status
	}{
		{name: "nothing", nodes: []runtime.Object{n1, n2}},
		{name: "pods as peers", objects: []runtime.Object{
			customObject("BGPPeer", "pods", map[string]any{"localWorkloadSelector": "all()"}),
			customObject("BGPPeer", "other", map[string]any{"node": "n2", "localWorkloadSelector": "all()"})},
			refused: []string{"SettingRefused: BGPPeer/pods: spec.localWorkloadSelector=all(): this version of Manx does not peer with pods"},
			lines:   []string{"BGPPeer/pods: spec.localWorkloadSelector=all(): this"}},
		{name: "a password that may be missing", objects: []runtime.Object{
			customObject("BGPPeer", "tor", map[string]any{"peerIP": "192.0.2.1", "asNumber": int64(64500),
				"password": map[string]any{"secretKeyRef": map[string]any{"name": "s", "key": "k", "optional": true}}})},
			lines: []string{"BGPPeer/tor: spec.password.secretKeyRef.optional=true: without its password"}},
		{name: "the host closed",
			objects: []runtime.Object{customObject("FelixConfiguration", "default", map[string]any{"defaultEndpointToHostAction": "Drop"})},
			refused: []string{"SettingRefused: FelixConfiguration/default: spec.defaultEndpointToHostAction=Drop: " +
				"this version of Manx has no policy"},
			lines: []string{"FelixConfiguration/default: spec.defaultEndpointToHostAction=Drop: "}},
		{name: "the host closed, the environment says otherwise", env: []string{"FELIX_DEFAULTENDPOINTTOHOSTACTION=ACCEPT"},
			objects: []runtime.Object{customObject("FelixConfiguration", "default", map[string]any{"defaultEndpointToHostAction": "Drop"})},
			lines:   []string{"FelixConfiguration/default: spec.defaultEndpointToHostAction=Drop: "}},
		{name: "a pool in VXLAN",
			objects: []runtime.Object{customObject("IPPool", "p", map[string]any{"cidr": "10.244.0.0/16", "vxlanMode": "Always"})},
			lines:   []string{"IPPool/p: spec.vxlanMode=Always: this version of Manx does not carry VXLAN"}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			a := servingAgent(t, tt.env, snapshotFrom(t, tt.nodes, tt.objects...))
			var refused []string
			for _, line := range strings.Split(a.ready().Error(), "\n") {
				if strings.HasPrefix(line, "SettingRefused: ") {
					refused = append(refused, line)
				}
			}
			begins(t, "not ready", refused, tt.refused)
			var told []string
			n := a.status()
			for _, c := range n.Conditions {
				if c.Type == "SettingRefused" {
					told = append(told, c.Type+": "+c.Message)
				}
			}
			begins(t, "conditions", told, tt.refused)
			var lines []string
			for _, s := range n.Settings {
				lines = append(lines, s.Object+": "+s.Text)
			}
			begins(t, "lines of status", lines, tt.lines)
			for _, p := range n.Pools {
				if !strings.HasPrefix(p.Why, "not ready: it asks for VXLAN (vxlanMode Always)") {
					t.Errorf("pool %s: %s", p.Name, p.Why)
				}
			}
		})
	}
}

// begins checks that each text begins as wanted.
func begins(t *testing.T, what string, got, want []string) {
	t.Helper()
	ok := len(got) == len(want)
	for i := 0; ok && i < len(got); i++ {
		ok = strings.HasPrefix(got[i], want[i])
	}
	if !ok {
		t.Errorf("%s:\n%s\nwant each to begin with\n%s", what, strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
}

// The Node's condition and status stay short, however many objects there are.
func TestSettingsConditionIsBounded(t *testing.T) {
	var objects []runtime.Object
	for i := range 200 {
		objects = append(objects, customObject("BGPPeer", fmt.Sprintf("peer-%03d", i), map[string]any{
			"peerIP": "192.0.2.1", "reachableby": strings.Repeat("x", 5000),
		}))
	}
	s := snapshotFrom(t, nil, objects...)
	c := settingsCondition(s.WithoutEffect("n1"))
	if c.Status != corev1.ConditionFalse || c.Reason != apiv1.ReasonSettingWithoutEffect ||
		len(c.Message) > 1024 || !strings.HasPrefix(c.Message, "BGPPeer/peer-000: spec.reachableby") {
		t.Errorf("%+v", c)
	}
	var lines []status.Setting = settingsStatus(s.WithoutEffect("n1"))
	if len(lines) != 51 || lines[50].Object != "150 more objects" {
		t.Errorf("%d lines, the last: %+v", len(lines), lines[len(lines)-1])
	}
	if c := settingsCondition(snapshotFrom(t, nil).WithoutEffect("n1")); c.Status != corev1.ConditionTrue ||
		c.Reason != apiv1.ReasonSettingsEffective {
		t.Errorf("nothing set: %+v", c)
	}
	grave := settingsCondition(snapshotOf(t, map[string]map[string]any{"default": {"wireguardEnabled": true}}).WithoutEffect("n1"))
	if grave.Reason != apiv1.ReasonSettingRefused || !strings.Contains(grave.Message, "spec.wireguardEnabled=true") {
		t.Errorf("encryption: %+v", grave)
	}
}
