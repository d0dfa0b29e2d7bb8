package ctl

import (
	"bytes"
	"encoding/json"
	"io"
	"maps"
	"slices"
	"strings"
	"testing"

	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	dynamicfake "k8s.io/client-go/dynamic/fake"
	"sigs.k8s.io/yaml"

	apiv1 "github.com/manx-cni/manx/api/v1"
	"github.com/manx-cni/manx/internal/status"
)

// keys are the names of a JSON or YAML object.
func keys(t *testing.T, text []byte) string {
	t.Helper()
	var object map[string]any
	if err := yaml.Unmarshal(text, &object); err != nil {
		t.Fatalf("%v in\n%s", err, text)
	}
	return strings.Join(slices.Sorted(maps.Keys(object)), " ")
}

// TestOutputs: what programs read has these names, in JSON and in YAML.
func TestOutputs(t *testing.T) {
	pools := func() (PoolMode, error) {
		gvr := apiv1.SchemeGroupVersion.WithResource(apiv1.PluralIPPools)
		client := dynamicfake.NewSimpleDynamicClientWithCustomListKinds(runtime.NewScheme(),
			map[schema.GroupVersionResource]string{gvr: "IPPoolList"}, poolObject("pool", "10.244.0.0/16", "Never", "Never", nil))
		return setPoolMode(t.Context(), client, "pool", apiv1.EncapAlways, false)
	}
	for name, tc := range map[string]struct {
		run  func(o output, w io.Writer) error
		want string
	}{
		"ipam show": {func(o output, w io.Writer) error {
			return (&ipamShowOptions{output: o}).run(t.Context(), w, newIPAMCluster(t).access())
		}, "malformed pools"},
		"ipam show --ip": {func(o output, w io.Writer) error {
			return (&ipamShowOptions{output: o, ip: "10.244.0.2"}).run(t.Context(), w, newIPAMCluster(t).access())
		}, "assignments blocks ip pool poolCIDR"},
		"ipam show --show-borrowed": {func(o output, w io.Writer) error {
			return (&ipamShowOptions{output: o, borrowed: true}).run(t.Context(), w, newIPAMCluster(t).access())
		}, "addresses malformed unknown"},
		"ipam show --show-configuration": {func(o output, w io.Writer) error {
			return (&ipamShowOptions{output: o, configuration: true}).run(t.Context(), w, newIPAMCluster(t).access())
		}, "autoAllocateBlocks blockLimit maxBlocksPerHost strictAffinity"},
		"ipam configure": {func(o output, w io.Writer) error {
			yes := true
			return (&ipamConfigureOptions{output: o, strict: optionalBool{&yes}}).run(t.Context(), w, newIPAMCluster(t).access())
		}, "autoAllocateBlocks blockLimit maxBlocksPerHost strictAffinity"},
		"ipam release": {func(o output, w io.Writer) error {
			return (&ipamReleaseOptions{output: o, ip: "10.244.0.3"}).run(t.Context(), w, newIPAMCluster(t).access())
		}, "alreadyReleased handles kept released"},
		"ippool mode": {func(o output, w io.Writer) error {
			done, err := pools()
			if err != nil {
				return err
			}
			return o.print(w, done, done.writeText)
		}, "before forced mode pool"},
		"version": {func(o output, w io.Writer) error {
			text, err := run("version", "-o", o.format)
			_, _ = io.WriteString(w, text)
			return err
		}, "version"},
	} {
		var js, ys bytes.Buffer
		if err := tc.run(output{asJSON}, &js); err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		if err := tc.run(output{asYAML}, &ys); err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		if !json.Valid(js.Bytes()) || json.Valid(ys.Bytes()) || keys(t, js.Bytes()) != tc.want || keys(t, ys.Bytes()) != tc.want {
			t.Errorf("%s: %q in JSON\n%s\n%q in YAML\n%s\nwant %q", name, keys(t, js.Bytes()), &js, keys(t, ys.Bytes()), &ys, tc.want)
		}
	}
}

// A release says in one value what it did and what it kept, also when it fails.
func TestReleaseOutput(t *testing.T) {
	c := newIPAMCluster(t)
	var out bytes.Buffer
	err := (&ipamReleaseOptions{output: output{asJSON}, ip: "10.244.0.1"}).run(t.Context(), &out, c.access())
	wantError(t, err, "kept 1 address, in use by 10.244.0.1")
	var done IPAMRelease
	if err := json.Unmarshal(out.Bytes(), &done); err != nil || len(done.Kept) != 1 ||
		done.Kept[0].IP != "10.244.0.1" || len(done.Kept[0].UsedBy) == 0 || len(done.Released) != 0 {
		t.Errorf("%v in\n%s", err, &out)
	}
	out.Reset()
	wantError(t, (&ipamReleaseOptions{output: output{asJSON}, ip: "10.244.0.3"}).run(t.Context(), &out, c.access()))
	if err := json.Unmarshal(out.Bytes(), &done); err != nil || len(done.Released) != 1 ||
		done.Released[0] != (ReleasedAddress{IP: "10.244.0.3", Block: blockA, Holder: "pod default/gone on node node1"}) ||
		!slices.Equal(done.Handles, []string{"net.gone"}) {
		t.Errorf("%v in\n%s", err, &out)
	}
}

func TestStatusOutput(t *testing.T) {
	socket := serve(t, status.Node{Name: "node1", Ready: true})
	text, err := run("status", "--socket", socket, "-o", "yaml")
	var nodes []status.Node
	if err != nil || yaml.Unmarshal([]byte(text), &nodes) != nil || len(nodes) != 1 ||
		nodes[0].Name != "node1" || !strings.HasPrefix(text, "- ") {
		t.Errorf("%v\n%s", err, text)
	}
}
