package datastore

import (
	"context"
	"fmt"
	"strings"
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"

	apiv1 "github.com/manx-cni/manx/api/v1"
	"github.com/manx-cni/manx/internal/testwait"
)

// felixConf is a FelixConfiguration as the API server sends it, with a spec of keys
// and values.
func felixConf(name string, fields ...any) *unstructured.Unstructured {
	spec := map[string]any{}
	for i := 0; i < len(fields); i += 2 {
		spec[fields[i].(string)] = fields[i+1]
	}
	return &unstructured.Unstructured{Object: map[string]any{
		"apiVersion": apiv1.SchemeGroupVersion.String(), "kind": "FelixConfiguration",
		"metadata": map[string]any{"name": name, "uid": "uid-" + name},
		"spec":     spec,
	}}
}

// An MTU that no pod could be given counts as absent; what else the object says holds.
func TestTunnelMTU(t *testing.T) {
	for _, tt := range []struct {
		mtu  int64
		good bool
	}{
		{-1, false}, {0, true}, {1, false}, {40, false}, {575, false}, {576, true}, {1480, true}, {65535, true}, {65536, false},
	} {
		d, _, _ := start(t, nil, felixConf("default", "ipipMTU", int64(1400)), felixConf("node.n", "ipipMTU", tt.mtu, "ipipEnabled", false))
		s := eventually(t, d, "in sync", func(*Snapshot) bool { return true })
		want := 1400 // of the object for all nodes
		if tt.good {
			want = int(tt.mtu)
		}
		got := s.Felix("n")
		if got.IPIPMTU == nil || *got.IPIPMTU != want || got.IPIPEnabled == nil || *got.IPIPEnabled {
			t.Errorf("ipipMTU %d: got %+v; want an MTU of %d", tt.mtu, got, want)
		}
		switch {
		case tt.good && len(s.Invalid) > 0:
			t.Errorf("ipipMTU %d: %+v", tt.mtu, s.Invalid)
		case !tt.good && (len(s.Invalid) != 1 || s.Invalid[0].Kind != "FelixConfiguration" || s.Invalid[0].Name != "node.n" ||
			!strings.Contains(s.Invalid[0].Reason, "want 0 (follows the uplink), or 576 to 65535 bytes; the object is used without it")):
			t.Errorf("ipipMTU %d: invalid %+v", tt.mtu, s.Invalid)
		}
	}

	// It is told on the object, and is over when the object is mended.
	d, dyn, kube := start(t, nil, felixConf("default", "ipipMTU", int64(40)))
	if s := eventually(t, d, "in sync", func(*Snapshot) bool { return true }); s.Felix("n").IPIPMTU != nil {
		t.Errorf("MTU %d", *s.Felix("n").IPIPMTU)
	}
	ctx := context.Background()
	testwait.Succeeds(t, 30*time.Second, "an Event about the object", func() error {
		events, err := kube.EventsV1().Events(metav1.NamespaceDefault).List(ctx, metav1.ListOptions{})
		if err == nil && (len(events.Items) != 1 || !strings.Contains(events.Items[0].Note, "spec.ipipMTU 40")) {
			err = fmt.Errorf("there are %+v", events.Items)
		}
		return err
	})
	confs := dyn.Resource(apiv1.SchemeGroupVersion.WithResource(apiv1.PluralFelixConfigurations))
	if _, err := confs.Update(ctx, felixConf("default", "ipipMTU", int64(1300)), metav1.UpdateOptions{}); err != nil {
		t.Fatal(err)
	}
	eventually(t, d, "the MTU is valid", func(s *Snapshot) bool {
		mtu := s.Felix("n").IPIPMTU
		return mtu != nil && *mtu == 1300 && len(s.Invalid) == 0
	})
}

func TestFelixSwitch(t *testing.T) {
	d, _, _ := start(t, nil, felixConf("default", "wireguardEnabled", true, "vxlanEnabled", false),
		felixConf("node.off", "wireguardEnabled", false), felixConf("node.on", "wireguardEnabled", true),
		felixConf("node.open", "vxlanEnabled", true))
	s := eventually(t, d, "in sync", func(*Snapshot) bool { return true })
	for node, want := range map[string]string{"off": "node.off", "on": "node.on", "open": "default", "without": "default"} {
		on, object := s.FelixSwitch(node, func(c apiv1.FelixConfigurationSpec) *bool { return c.WireguardEnabled })
		if object != want || on != (node != "off") {
			t.Errorf("%s: %t by %s; want it of %s", node, on, object, want)
		}
	}
	if on, object := s.FelixSwitch("on", func(c apiv1.FelixConfigurationSpec) *bool { return c.WireguardEnabledV6 }); on || object != "" {
		t.Errorf("what nobody says: %t by %q", on, object)
	}
}
