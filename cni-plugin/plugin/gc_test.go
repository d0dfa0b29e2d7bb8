package plugin

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/containernetworking/cni/libcni"
	"github.com/containernetworking/cni/pkg/types"

	"github.com/manx-cni/manx/cni-plugin/internal/nettest"
)

// A list that is absent, null or broken is no list: GC names the key and takes
// nothing. An empty one is an answer: it takes everything.
func TestGCWithoutAList(t *testing.T) {
	r := newRig(t)
	r.conf["cniVersion"] = "1.1.0"
	pod := nettest.New(t, "pod")
	r.mustAdd(idA, "web", pod)
	for name, change := range map[string]map[string]any{
		"no key":             {},
		"null":               {"cni.dev/valid-attachments": nil},
		"null in both":       {"cni.dev/valid-attachments": nil, "cni.dev/attachments": nil},
		"an object":          {"cni.dev/attachments": map[string]any{}},
		"a list of null":     {"cni.dev/valid-attachments": []any{nil}},
		"no interface name":  {"cni.dev/valid-attachments": []any{map[string]any{"containerID": idA}}},
		"no container":       {"cni.dev/attachments": []any{map[string]any{"ifname": "eth0"}}},
		"one of two is good": {"cni.dev/attachments": []any{}, "cni.dev/valid-attachments": "none"},
	} {
		_, err := r.run(call{verb: "GC", change: change})
		if err == nil || err.Code != types.ErrInvalidNetworkConfig || !strings.Contains(err.Msg, "attachments") {
			t.Errorf("%s: %+v, want an error of the configuration that names the key", name, err)
		}
		if r.agent.addrs(idA) == nil || pod.Link(t, "eth0") == nil {
			t.Fatalf("%s: the running pod lost its network", name)
		}
	}

	kept := []types.GCAttachment{{ContainerID: idA, IfName: "eth0"}}
	for name, change := range map[string]map[string]any{
		"libcni's key":               {"cni.dev/valid-attachments": kept},
		"the specification's key":    {"cni.dev/attachments": kept},
		"null beside a list":         {"cni.dev/attachments": kept, "cni.dev/valid-attachments": nil},
		"what is in one list stays":  {"cni.dev/attachments": kept, "cni.dev/valid-attachments": []any{}},
		"whichever of the two it is": {"cni.dev/attachments": []any{}, "cni.dev/valid-attachments": kept},
	} {
		if _, err := r.run(call{verb: "GC", change: change}); err != nil {
			t.Errorf("%s: %+v", name, err)
		}
		if r.agent.addrs(idA) == nil || pod.Link(t, "eth0") == nil {
			t.Fatalf("%s: what is in use lost its network", name)
		}
	}

	if _, err := r.run(call{verb: "GC", change: map[string]any{"cni.dev/attachments": []any{}}}); err != nil {
		t.Errorf("an empty list: %+v", err)
	}
	if r.agent.addrs(idA) != nil || pod.Link(t, "eth0") != nil {
		t.Error("an empty list left what is lost")
	}
}

// runtime drives the plugin as a container runtime does: through libcni, with a cache
// of its own, from the node's namespace.
type runtime struct {
	*rig
	cni *libcni.CNIConfig
}

func newRuntime(t *testing.T, r *rig) *runtime {
	t.Helper()
	path, err := binary()
	if err != nil {
		t.Fatal(err)
	}
	cache, err := os.MkdirTemp("", "manx-cache")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(cache) })
	return &runtime{rig: r, cni: libcni.NewCNIConfigWithCacheDir([]string{filepath.Dir(path)}, cache, nil)}
}

// list is a configuration list of the network with the plugin alone.
func (r *runtime) list(network string) *libcni.NetworkConfigList {
	r.t.Helper()
	list, err := libcni.ConfListFromBytes([]byte(`{"name":"` + network + `","cniVersion":"1.1.0",
		"plugins":[{"type":"manx","socket":"` + r.socket + `","ipam":{"type":"manx-ipam"}}]}`))
	if err != nil {
		r.t.Fatal(err)
	}
	return list
}

func (r *runtime) interfaceOf(id, pod, ifName, netns string) *libcni.RuntimeConf {
	return &libcni.RuntimeConf{ContainerID: id, NetNS: netns, IfName: ifName, Args: [][2]string{
		{"IgnoreUnknown", "1"}, {"K8S_POD_NAMESPACE", "default"}, {"K8S_POD_NAME", pod}, {"K8S_POD_UID", "u-" + pod},
	}}
}

// as runs f in the node's namespace.
func (r *runtime) as(f func(context.Context) error) (err error) {
	r.t.Helper()
	r.node.Do(r.t, func() { err = f(r.t.Context()) })
	return err
}

func (r *runtime) add(list *libcni.NetworkConfigList, rt *libcni.RuntimeConf) (result types.Result, err error) {
	r.t.Helper()
	err = r.as(func(ctx context.Context) (err error) { result, err = r.cni.AddNetworkList(ctx, list, rt); return err })
	return result, err
}

func (r *runtime) del(list *libcni.NetworkConfigList, rt *libcni.RuntimeConf) error {
	r.t.Helper()
	return r.as(func(ctx context.Context) error { return r.cni.DelNetworkList(ctx, list, rt) })
}

// gc is libcni's GC without its cache, which would send DELs by itself.
func (r *runtime) gc(list *libcni.NetworkConfigList, args *libcni.GCArgs) error {
	r.t.Helper()
	cni := libcni.NewCNIConfigWithCacheDir(r.cni.Path, filepath.Join(r.t.TempDir(), "none"), nil)
	return r.as(func(ctx context.Context) error { return cni.GCNetworkList(ctx, list, args) })
}

// The name of one network begins with another's: GC of each takes its own.
func TestGCOfOneNetworkLeavesOthers(t *testing.T) {
	r := newRuntime(t, newRig(t))
	networks := []string{"k8s-pod-network", "k8s-pod-network.blue", "k8s-pod-network.blue.if-eth0"}
	pods := map[string]*nettest.Namespace{}
	for i, network := range networks {
		pods[network] = nettest.New(t, "pod")
		if _, err := r.add(r.list(network),
			r.interfaceOf(fmt.Sprintf("c%d", i), fmt.Sprintf("pod-%d", i), "eth0", pods[network].Path)); err != nil {
			t.Fatal(err)
		}
	}
	for i, network := range networks {
		if err := r.gc(r.list(network), &libcni.GCArgs{ValidAttachments: []types.GCAttachment{}}); err != nil {
			t.Error(err)
		}
		for j, other := range networks {
			if there := pods[other].Link(t, "eth0") != nil; there != (j > i) {
				t.Errorf("after GC of %s, the pod of %s has its network: %v", network, other, there)
			}
		}
	}
}

// What libcni really sends: no arguments, a nil list, an empty one, a full one.
func TestGCThroughLibcni(t *testing.T) {
	r := newRuntime(t, newRig(t))
	list, pod := r.list("k8s-pod-network"), nettest.New(t, "pod")
	if _, err := r.add(list, r.interfaceOf(idA, "web", "eth0", pod.Path)); err != nil {
		t.Fatal(err)
	}
	there := func() bool { return r.agent.addrs(idA) != nil && pod.Link(t, "eth0") != nil }
	for name, args := range map[string]*libcni.GCArgs{"no arguments": nil, "a nil list": {}} {
		if err := r.gc(list, args); err == nil || !strings.Contains(err.Error(), "cni.dev/valid-attachments") || !there() {
			t.Fatalf("%s: %v, the pod has its network: %v", name, err, there())
		}
	}
	if err := r.gc(list, &libcni.GCArgs{ValidAttachments: []types.GCAttachment{{ContainerID: idA, IfName: "eth0"}}}); err != nil || !there() {
		t.Fatalf("what is in use: %v, the pod has its network: %v", err, there())
	}
	if err := r.gc(list, &libcni.GCArgs{ValidAttachments: []types.GCAttachment{}}); err != nil || there() {
		t.Errorf("an empty list: %v, the pod has its network: %v", err, there())
	}
}
