package plugin

import (
	"bytes"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/manx-cni/manx/cni-plugin/internal/nettest"
	"github.com/manx-cni/manx/internal/nodeapi"
)

// The agent works for longer than any silence is borne, and the plugin gets no
// processor for as long: the ADD succeeds when the agent is done.
func TestSlowAgentAndStoppedPlugin(t *testing.T) {
	r := newRig(t)
	pod := nettest.New(t, "pod")
	hold := make(chan struct{})
	r.stop()
	r.startWith(&blockingAgent{fakeAgent: r.agent, hold: hold})
	cmd := r.command(call{verb: "ADD", id: idA, pod: "web", netns: pod.Path})
	var out bytes.Buffer
	cmd.Stdout = &out
	r.node.Do(t, func() {
		if err := cmd.Start(); err != nil {
			t.Error(err)
		}
	})
	host := nodeapi.HostIfaceName("default", "web")
	nettest.Eventually(t, "the veth is there", func() bool { return r.node.Link(t, host) != nil })
	if err := cmd.Process.Signal(unix.SIGSTOP); err != nil {
		t.Fatal(err)
	}
	time.Sleep(nodeapi.Silence + nodeapi.Patience) //nolint:forbidigo // how long the plugin is stopped is what the test is about
	if err := cmd.Process.Signal(unix.SIGCONT); err != nil {
		t.Fatal(err)
	}
	close(hold)
	if err := cmd.Wait(); err != nil {
		t.Errorf("ADD: %v: %s", err, &out)
	}
	if err := r.roundTrip(pod, "10.99.0.1"); err != nil {
		t.Errorf("pod to node: %v", err)
	}
}
