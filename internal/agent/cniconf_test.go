package agent

import (
	"context"
	"log/slog"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/renameio/v2"
	corev1 "k8s.io/api/core/v1"

	apiv1 "github.com/manx-cni/manx/api/v1"
	"github.com/manx-cni/manx/bgp/speaker"
	"github.com/manx-cni/manx/felix"
	"github.com/manx-cni/manx/felix/nl/nltest"
	"github.com/manx-cni/manx/felix/state"
	"github.com/manx-cni/manx/internal/datastore"
	"github.com/manx-cni/manx/ipam"
)

// Another plugin's configuration that comes before Manx's: the agent is not ready, and
// status and the Node's condition name the file and the cure, as long as it is there and
// whenever it comes back.
func TestAnotherConfigurationComesFirst(t *testing.T) {
	dir := t.TempDir()
	put := func(name, text string) { // at once: the agent looks all the time
		t.Helper()
		if err := renameio.WriteFile(filepath.Join(dir, name), []byte(text), 0o600, renameio.WithTempDir(dir)); err != nil {
			t.Fatal(err)
		}
	}
	take := func(name string) {
		t.Helper()
		if err := os.Remove(filepath.Join(dir, name)); err != nil {
			t.Fatal(err)
		}
	}
	const ours = `{"plugins":[{"type":"manx"}]}`
	put("10-manx.conflist", ours)
	log := newTestLog(t)
	a := &Agent{
		node: "n1", log: log, speaker: speaker.New(speaker.Config{}), ipam: ipam.New(ipam.Config{Node: "n1"}),
		modes: newModes("n1", log, modeActions{}, func() {}), cniConf: newCNIConf(dir, log),
	}
	var err error
	if a.dataplane, err = felix.New(felix.Config{
		Kernel: nltest.NewKernel(), Addresses: func() map[string][]netip.Addr { return nil },
	}); err != nil {
		t.Fatal(err)
	}
	a.snapshot.Store(&datastore.Snapshot{})
	a.serving.Store(true)
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- a.cniConf.run(ctx, 5*time.Millisecond) }()
	defer func() {
		cancel()
		if err := <-ended; err != nil {
			t.Error(err)
		}
	}()

	told := func(kind state.ConditionKind) (message string) {
		for _, c := range a.status().Conditions {
			if c.Type == string(kind) {
				message = c.Message
			}
		}
		return message
	}
	unready := func(kind state.ConditionKind) bool { return strings.Contains(a.ready().Error(), string(kind)+": ") }
	wantNone := func(what string) {
		t.Helper()
		nltest.Eventually(t, what, func() bool {
			return told(state.CNIConfigShadowed) == "" && told(state.CNIConfigMissing) == "" &&
				!unready(state.CNIConfigShadowed) && !unready(state.CNIConfigMissing)
		})
	}
	want := func(what string, kind state.ConditionKind, parts ...string) {
		t.Helper()
		nltest.Eventually(t, what, func() bool { return told(kind) != "" && unready(kind) })
		mark := a.mark() // what markNode writes to the Node
		if mark.status != corev1.ConditionTrue || mark.reason != apiv1.ReasonNodeCNIConfig {
			t.Errorf("%s: the Node's condition is to be %v", what, mark)
		}
		for _, part := range parts {
			if !strings.Contains(told(kind), part) || !strings.Contains(mark.message, part) {
				t.Errorf("%s: %q and %q, want %q", what, told(kind), mark.message, part)
			}
		}
	}
	wantNone("alone")
	for _, name := range []string{"05-cilium.conflist", "10-calico.conflist", "10-flannel.conflist", "10-kindnet.conflist"} {
		put(name, `{"plugins":[{"type":"another"}]}`)
		want(name, state.CNIConfigShadowed, "/etc/cni/net.d/"+name, "the plugin another",
			"Manx gets no pod", "rm /etc/cni/net.d/"+name, "CNI_EXCLUSIVE=true")
		take(name)
		wantNone("without " + name)
	}
	put("05-cilium.conflist", "{")
	want("a broken one", state.CNIConfigShadowed, "05-cilium.conflist", "cannot read")
	take("05-cilium.conflist")
	put("20-flannel.conflist", `{"plugins":[{"type":"flannel"}]}`)
	put("00-multus.conf", `{"type":"multus"}`)
	wantNone("Multus, and one that comes later")
	take("10-manx.conflist")
	want("ours is gone", state.CNIConfigMissing, "none of the node's CNI configurations is Manx's", "20-flannel.conflist", "install-cni")
	put("10-manx.conflist", ours)
	wantNone("ours is back")
	if err := os.RemoveAll(dir); err != nil {
		t.Fatal(err)
	}
	wantNone("nothing is concluded from a directory that is not there")
}

// Another plugin writes its configuration in place, and the agent looks in between: only
// what stays unreadable counts.
func TestConfigurationHalfWritten(t *testing.T) {
	dir := t.TempDir()
	c := newCNIConf(dir, slog.New(slog.DiscardHandler))
	look := func(what, name, text string, want state.ConditionKind) {
		t.Helper()
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		c.look()
		var got state.ConditionKind
		for _, condition := range c.conditions() {
			got = condition.Kind
		}
		if got != want {
			t.Errorf("%s: %q, want %q", what, got, want)
		}
	}
	const multus = `{"type":"multus"}`
	look("alone", "10-manx.conflist", `{"plugins":[{"type":"manx"}]}`, "")
	look("Multus begins", "00-multus.conf", "", "")
	look("and is done", "00-multus.conf", multus, "")
	look("Multus once more", "00-multus.conf", multus[:5], "")
	look("and stays like that", "00-multus.conf", multus[:5], state.CNIConfigShadowed)
	look("until it is done", "00-multus.conf", multus, "")
	look("what is whole counts at once", "05-cilium.conf", `{"type":"cilium-cni"}`, state.CNIConfigShadowed)
}

// What cannot be read says nothing.
func TestConfigurationDirectoryUnknown(t *testing.T) {
	c := newCNIConf(filepath.Join(t.TempDir(), "absent"), slog.New(slog.DiscardHandler))
	c.look()
	if got := c.conditions(); len(got) != 0 || c.said == "" {
		t.Errorf("%v, said %q", got, c.said)
	}
}
