package plugin

import (
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/containernetworking/cni/pkg/types"

	"github.com/manx-cni/manx/cni-plugin/internal/nettest"
	"github.com/manx-cni/manx/internal/nodeapi"
)

// Every way for the agent to be away: the ADD fails in time with "try again
// later", the DEL succeeds and is replayed when the agent returns.
func TestAgentAway(t *testing.T) {
	for name, away := range map[string]func(*testing.T, *rig){
		"no socket": func(t *testing.T, r *rig) {
			if err := os.Remove(r.socket); err != nil {
				t.Fatal(err)
			}
		},
		"nobody listens": func(*testing.T, *rig) {},
		"no answer, and not stopped": func(t *testing.T, r *rig) {
			if err := os.Remove(r.socket); err != nil {
				t.Fatal(err)
			}
			l, err := net.Listen("unix", r.socket)
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { l.Close() })
		},
	} {
		t.Run(name, func(t *testing.T) {
			r := newRig(t)
			pod, other := nettest.New(t, "pod"), nettest.New(t, "pod")
			r.mustAdd(idA, "web", pod)
			r.stop()
			away(t, r)

			soon := 10 * time.Second // far less than a runtime waits
			if name == "no answer, and not stopped" {
				soon += nodeapi.Silence
			}
			begin := time.Now()
			_, err := r.run(call{verb: "ADD", id: "b", pod: "db", netns: other.Path})
			if took := time.Since(begin); err == nil || err.Code != types.ErrTryAgainLater ||
				!strings.Contains(err.Msg, "check that the manx-node pod of this node is running") || took > soon {
				t.Errorf("ADD after %v: %+v, want it within %v", took, err, soon)
			}
			if other.Link(t, "eth0") != nil || r.node.Link(t, nodeapi.HostIfaceName("default", "db")) != nil {
				t.Error("the failed ADD left an interface")
			}

			r.mustDel(idA, "web", pod.Path)
			if pod.Link(t, "eth0") != nil || r.node.Link(t, nodeapi.HostIfaceName("default", "web")) != nil {
				t.Error("DEL left the interface")
			}
			if r.agent.addrs(idA) == nil {
				t.Fatal("the address was released while no agent ran")
			}
			record := filepath.Join(nodeapi.DeferredDir(r.socket), idA+".json")
			if info, err := os.Stat(record); err != nil || info.Mode().Perm() != 0o600 {
				t.Errorf("record of the deferred DEL: %v, %v", info, err)
			}
			r.mustDel(idA, "web", pod.Path)
			pod.Delete()
			r.mustDel(idA, "web", pod.Path)

			r.start()
			nettest.Eventually(t, "the address is released", func() bool { return r.agent.addrs(idA) == nil })
			nettest.Eventually(t, "the record is gone", func() bool { _, err := os.Stat(record); return os.IsNotExist(err) })
		})
	}
}

// An ADD killed before it marked its interface, then a DEL without an agent: the
// interface is found through the pod's namespace.
func TestDelWithoutAgentFindsUnmarkedVeth(t *testing.T) {
	r := newRig(t)
	r.stop()
	pod := nettest.New(t, "pod")
	host := nodeapi.HostIfaceName("default", "web")
	r.node.IP(t, "link add "+host+" type veth peer name eth0 netns "+pod.Name)
	r.mustDel(idA, "web", pod.Path)
	if r.node.Link(t, host) != nil {
		t.Error("the interface stayed")
	}
}

// The DEL of a pod comes after the ADD of its successor of the same name.
func TestSamePodNameTwice(t *testing.T) {
	for name, agentRuns := range map[string]bool{"agent runs": true, "agent away": false} {
		t.Run(name, func(t *testing.T) {
			r := newRig(t)
			old, successor := nettest.New(t, "pod"), nettest.New(t, "pod")
			r.mustAdd("old", "web-0", old)
			result := r.mustAdd("new", "web-0", successor)
			if !agentRuns {
				r.stop()
			}
			r.mustDel("old", "web-0", old.Path)
			if !agentRuns {
				r.start()
			}
			nettest.Eventually(t, "the old address is released", func() bool { return r.agent.addrs("old") == nil })
			if err := r.roundTrip(successor, "10.99.0.1"); err != nil {
				t.Errorf("the successor lost its network: %v", err)
			}
			if _, err := r.run(call{verb: "CHECK", id: "new", pod: "web-0", netns: successor.Path, prev: result}); err != nil {
				t.Errorf("CHECK of the successor: %+v", err)
			}
		})
	}
}

func TestDelRepeatedWithOneName(t *testing.T) {
	r := newRig(t)
	for i := range 10 {
		pod := nettest.New(t, "pod")
		id := string(rune('a' + i))
		r.mustAdd(id, "web-0", pod)
		if err := r.roundTrip(pod, "10.99.0.1"); err != nil {
			t.Fatalf("round %d: %v", i, err)
		}
		r.mustDel(id, "web-0", pod.Path)
	}
	if len(r.agent.held) != 0 {
		t.Errorf("addresses still held: %v", r.agent.held)
	}
}

// What the agent refuses is the runtime's to repeat; nothing is deferred.
func TestDelRefused(t *testing.T) {
	r := newRig(t)
	pod := nettest.New(t, "pod")
	r.mustAdd(idA, "web", pod)
	r.agent.failDel = nodeapi.Errorf(nodeapi.CodeTryAgain, "the API server does not answer")
	_, err := r.run(call{verb: "DEL", id: idA, pod: "web", netns: pod.Path})
	if err == nil || err.Code != 11 || !strings.Contains(err.Msg, "API server") {
		t.Errorf("DEL: %+v", err)
	}
	if _, err := os.Stat(nodeapi.DeferredDir(r.socket)); !os.IsNotExist(err) {
		t.Errorf("a refused DEL was deferred: %v", err)
	}
}

// A configuration that no ADD would accept does not keep a pod from going.
func TestDelWithBadConfiguration(t *testing.T) {
	r := newRig(t)
	pod := nettest.New(t, "pod")
	r.mustAdd(idA, "web", pod)
	if _, err := r.run(call{verb: "DEL", id: idA, pod: "web", netns: pod.Path, change: map[string]any{"mtu": "big"}}); err != nil {
		t.Errorf("DEL: %+v", err)
	}
	if r.agent.addrs(idA) != nil {
		t.Error("the address stayed")
	}
}

// CNI_ARGS may be gone by the time of the DEL: the container ID is enough.
func TestDelWithoutPodName(t *testing.T) {
	r := newRig(t)
	pod := nettest.New(t, "pod")
	r.mustAdd(idA, "web", pod)
	r.agent.keepLinks = true
	r.mustDel(idA, "", pod.Path)
	if r.node.Link(t, nodeapi.HostIfaceName("default", "web")) != nil || r.agent.addrs(idA) != nil {
		t.Error("DEL left the interface or the address")
	}
}
