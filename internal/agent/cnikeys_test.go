package agent

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/containernetworking/cni/libcni"

	"github.com/manx-cni/manx/cni-plugin/install"
	"github.com/manx-cni/manx/felix/nl/nltest"
)

// Keys without effect are told of as long as they are there: those of the node's own
// configuration, and those of a network that is configured elsewhere.
func TestKeysWithoutEffect(t *testing.T) {
	c := newCNIConf(t.TempDir(), newTestLog(t))
	put := func(entry string) {
		t.Helper()
		text := `{"name":"k8s-pod-network","cniVersion":"1.0.0","plugins":[{"type":"manx"` + entry + `}]}`
		if err := os.WriteFile(filepath.Join(c.dir, "10-manx.conflist"), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		c.look()
	}
	want := func(texts ...string) {
		t.Helper()
		var got []string
		for _, k := range c.keyConditions() {
			got = append(got, k.Subject+": "+k.Message)
		}
		if len(got) != len(texts) {
			t.Fatalf("%q, want %q", got, texts)
		}
		for i := range got {
			if !strings.HasPrefix(got[i], texts[i]) {
				t.Errorf("%q, want %q", got[i], texts[i])
			}
		}
		if len(c.conditions()) > 0 {
			t.Errorf("a key keeps the node from being ready: %v", c.conditions())
		}
	}
	put("")
	want()
	put(`,"readiness_gates":["x"],"ipam":{"asign_ipv4":"true"}`)
	const ours = `/etc/cni/net.d/10-manx.conflist: ipam.asign_ipv4: no such key, ignored; ` +
		`did you mean ipam.assign_ipv4?; readiness_gates=["x"] has no effect`
	want(ours)
	c.unused("k8s-pod-network", []string{"the same"})
	want(ours)
	c.unused("blue", []string{"mtuu: no such key"})
	want(ours, "CNI network blue: mtuu")
	put("")
	want("CNI network blue: mtuu")
	c.unused("blue", nil)
	want()

	name, keys := install.Unused([]byte(strings.Replace(shipped(t, "/run/manx.sock"), "__CNI_MTU__", "0", 1)))
	if name != "k8s-pod-network" || len(keys) > 0 {
		t.Errorf("the configuration that we ship: %s, %q", name, keys)
	}
}

// A typo in the configuration of a further network, through the plugin: the pod starts,
// and the agent is told.
func TestTypoOfAnotherNetwork(t *testing.T) {
	n := newPlugged(t)
	pod := nltest.NewNS(t)
	p := n.port("blue", "b", "web", "eth0", pod)
	list, err := libcni.ConfListFromBytes([]byte(`{"name":"blue","cniVersion":"1.0.0","plugins":[{"type":"manx","socket":"` +
		n.socket + `","include_default_route":true,"ipam":{"type":"manx-ipam"}}]}`))
	if err != nil {
		t.Fatal(err)
	}
	p.list = list
	p.add()
	if got := n.conf.keyConditions(); len(got) != 1 || got[0].Subject != "CNI network blue" ||
		!strings.Contains(got[0].Message, "did you mean include_default_routes?") {
		t.Errorf("%+v", got)
	}
	p.del()
}
