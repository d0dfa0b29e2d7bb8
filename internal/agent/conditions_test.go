package agent

import (
	"context"
	"log/slog"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	dynamicfake "k8s.io/client-go/dynamic/fake"
	kubefake "k8s.io/client-go/kubernetes/fake"

	apiv1 "github.com/manx-cni/manx/api/v1"
	"github.com/manx-cni/manx/bgp/speaker"
	"github.com/manx-cni/manx/felix"
	"github.com/manx-cni/manx/felix/nl/nltest"
	"github.com/manx-cni/manx/felix/state"
	"github.com/manx-cni/manx/internal/config"
	"github.com/manx-cni/manx/internal/datastore"
	"github.com/manx-cni/manx/ipam"
)

// snapshotOf is what the datastore makes of FelixConfigurations, by name and spec.
func snapshotOf(t *testing.T, felixConfs map[string]map[string]any) *datastore.Snapshot {
	t.Helper()
	var objects []runtime.Object
	for name, spec := range felixConfs {
		objects = append(objects, customObject("FelixConfiguration", name, spec))
	}
	return snapshotFrom(t, nil, objects...)
}

// customObject is an object of our group as the API server sends it.
func customObject(kind, name string, spec map[string]any) *unstructured.Unstructured {
	return &unstructured.Unstructured{Object: map[string]any{
		"apiVersion": apiv1.SchemeGroupVersion.String(), "kind": kind, "metadata": map[string]any{"name": name}, "spec": spec,
	}}
}

// snapshotFrom is what the datastore makes of Nodes and of objects of our group.
func snapshotFrom(t *testing.T, nodes []runtime.Object, objects ...runtime.Object) *datastore.Snapshot {
	t.Helper()
	kinds := map[schema.GroupVersionResource]string{}
	for _, k := range apiv1.Kinds {
		kinds[apiv1.SchemeGroupVersion.WithResource(k.Plural)] = k.Kind + "List"
	}
	d, err := datastore.New(datastore.Config{
		Kubernetes: kubefake.NewClientset(nodes...), Log: slog.New(slog.DiscardHandler),
		Dynamic: dynamicfake.NewSimpleDynamicClientWithCustomListKinds(runtime.NewScheme(), kinds, objects...),
	})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- d.Run(ctx) }()
	defer func() {
		cancel()
		<-done
	}()
	for range d.Changed() {
		if s, ok := d.Snapshot(); ok {
			return s
		}
	}
	return nil
}

// testAgent is an agent of node n1 whose parts do not run.
func testAgent(t *testing.T) *Agent {
	t.Helper()
	log := slog.New(slog.DiscardHandler)
	a := &Agent{
		node: "n1", log: log,
		speaker: speaker.New(speaker.Config{}), ipam: ipam.New(ipam.Config{Node: "n1"}), modes: newModes("n1", log, modeActions{}, func() {}),
	}
	var err error
	if a.dataplane, err = felix.New(felix.Config{
		Kernel: nltest.NewKernel(), Addresses: func() map[string][]netip.Addr { return nil },
	}); err != nil {
		t.Fatal(err)
	}
	return a
}

// An agent that cannot encrypt what the FelixConfiguration in force for its node
// wants encrypted is not ready, and names the object.
func TestEncryptionThatIsNotThere(t *testing.T) {
	on, off := map[string]any{"wireguardEnabled": true}, map[string]any{"wireguardEnabled": false}
	for _, tc := range []struct {
		name  string
		env   []string
		confs map[string]map[string]any
		want  []string // object and field
	}{
		{"nobody asks", nil, map[string]map[string]any{"default": {"ipipEnabled": true}}, nil},
		{"turned off", nil, map[string]map[string]any{"default": off}, nil},
		{"default", nil, map[string]map[string]any{"default": on}, []string{"default wireguardEnabled"}},
		{"this node", nil, map[string]map[string]any{"default": off, "node.n1": on}, []string{"node.n1 wireguardEnabled"}},
		{"all but this node", nil, map[string]map[string]any{"default": on, "node.n1": off}, nil},
		{"another node", nil, map[string]map[string]any{"node.n2": on}, nil},
		{"IPv6", nil, map[string]map[string]any{"default": {"wireguardEnabledV6": true}}, []string{"default wireguardEnabledV6"}},
		{"both, in two objects", nil, map[string]map[string]any{"default": on, "node.n1": {"wireguardEnabledV6": true}},
			[]string{"default wireguardEnabled", "node.n1 wireguardEnabledV6"}},
		{"beside a setting that is invalid", nil, map[string]map[string]any{"default": {"wireguardEnabled": true, "ipipMTU": int64(40)}},
			[]string{"default wireguardEnabled"}},
		{"the environment comes first", []string{"FELIX_WIREGUARDENABLED=false"},
			map[string]map[string]any{"default": {"wireguardEnabled": true, "wireguardEnabledV6": true}}, []string{"default wireguardEnabledV6"}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			settings, _, err := config.Parse(tc.env)
			if err != nil {
				t.Fatal(err)
			}
			a := testAgent(t)
			a.settings = settings
			a.snapshot.Store(snapshotOf(t, tc.confs))
			a.serving.Store(true)

			var told []string
			for _, c := range a.status().Conditions {
				if c.Type == string(state.EncryptionUnsupported) {
					told = append(told, c.Message)
				}
			}
			ready := slices.DeleteFunc(strings.Split(a.ready().Error(), "\n"), func(line string) bool {
				return !strings.HasPrefix(line, "EncryptionUnsupported: ")
			})
			if len(told) != len(tc.want) || len(ready) != len(tc.want) {
				t.Fatalf("conditions %q, not ready for %q; want one for each of %q", told, ready, tc.want)
			}
			for i, want := range tc.want {
				object, field, _ := strings.Cut(want, " ")
				for _, text := range []string{told[i], ready[i]} {
					for _, part := range []string{"FelixConfiguration " + object + ": " + field + " is true", "packets of pods are not encrypted",
						"felixconfigurations.crd.projectcalico.org " + object + ` --type merge -p '{"spec":{"` + field + `":false}}'`} {
						if !strings.Contains(text, part) {
							t.Errorf("%q lacks %q", text, part)
						}
					}
				}
			}
		})
	}
}
