package nodeapi

import (
	"encoding/json"
	"os"
	"path/filepath"
	"slices"
	"testing"
)

// Each interface of a container has a record of its own, and one that an older plugin
// wrote under the container's ID alone is still one.
func TestEveryInterfaceIsDeferred(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "deferred-del")
	eth0 := endpoint("a")
	net1, odd := eth0, eth0
	net1.IfName, net1.Network = "net1", "blue"
	odd.IfName = "Net_1~"
	for _, e := range []Endpoint{eth0, net1, odd, net1} {
		if err := Defer(dir, DelRequest{e}); err != nil {
			t.Fatal(err)
		}
	}
	old := endpoint("b")
	old.IfName = "net1"
	raw, err := json.Marshal(DelRequest{old})
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "b.json"), raw, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := Undefer(dir, odd); err != nil {
		t.Error(err)
	}
	h := &recorder{}
	if err := ReplayDeferred(t.Context(), dir, h); err != nil {
		t.Error(err)
	}
	calls := slices.Clone(h.calls)
	slices.Sort(calls)
	if want := []string{"del a", "del a", "del b"}; !slices.Equal(calls, want) {
		t.Errorf("%v, want %v", calls, want)
	}
	if left, err := os.ReadDir(dir); err != nil || len(left) != 0 {
		t.Errorf("left: %v %v", left, err)
	}
}

// eth0's name on the node is Calico's; every other interface has another, and none is
// that of another pod's eth0.
func TestHostIface(t *testing.T) {
	seen := map[string]string{}
	for _, pod := range []string{"web", "web.net1", "web.eth0", "net1"} {
		for _, ifName := range []string{"eth0", "net1", "net2", "web"} {
			name := HostIface("default", pod, ifName)
			if len(name) != 15 || name[:4] != "cali" || seen[name] != "" {
				t.Errorf("%s of pod %s: %q, taken by %q", ifName, pod, name, seen[name])
			}
			seen[name] = pod + " " + ifName
		}
	}
	if HostIface("default", "nginx", "eth0") != "calic440f455693" || HostIface("default", "nginx", "") != "calic440f455693" {
		t.Error("eth0 is not named as Calico names it")
	}
}
