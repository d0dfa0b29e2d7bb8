package plugin

import (
	"encoding/json"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/containernetworking/cni/pkg/types"
	current "github.com/containernetworking/cni/pkg/types/100"

	"github.com/manx-cni/manx/cni-plugin/internal/nettest"
	"github.com/manx-cni/manx/internal/nodeapi"
)

// Each kind of damage is found and named.
func TestCheckFindsDamage(t *testing.T) {
	host := nodeapi.HostIfaceName("default", "web")
	for _, tc := range []struct {
		says   string
		damage func(t *testing.T, r *rig, pod *nettest.Namespace, prev *current.Result)
	}{
		{"the node has no interface " + host,
			func(t *testing.T, r *rig, _ *nettest.Namespace, _ *current.Result) { r.node.IP(t, "link del "+host) }},
		{host + " is down", func(t *testing.T, r *rig, _ *nettest.Namespace, _ *current.Result) {
			r.node.IP(t, "link set "+host+" down")
		}},
		{host + " has MAC 02:00:00:00:00:01", func(t *testing.T, r *rig, _ *nettest.Namespace, _ *current.Result) {
			r.node.IP(t, "link set "+host+" address 02:00:00:00:00:01")
		}},
		{host + ` belongs to "manx:k8s-pod-network.other"`, func(t *testing.T, r *rig, _ *nettest.Namespace, _ *current.Result) {
			r.node.IP(t, "link set "+host+" alias manx:k8s-pod-network.other")
		}},
		{"sysctl ipv4/conf/" + host + "/proxy_arp is 0, want 1", func(t *testing.T, r *rig, _ *nettest.Namespace, _ *current.Result) {
			r.node.SetSysctl(t, "ipv4/conf/"+host+"/proxy_arp", "0")
		}},
		{"sysctl ipv4/conf/" + host + "/forwarding is 0, want 1", func(t *testing.T, r *rig, _ *nettest.Namespace, _ *current.Result) {
			r.node.SetSysctl(t, "ipv4/conf/"+host+"/forwarding", "0")
		}},
		{"sysctl ipv6/conf/" + host + "/accept_ra is 2, want 0", func(t *testing.T, r *rig, _ *nettest.Namespace, _ *current.Result) {
			r.node.SetSysctl(t, "ipv6/conf/"+host+"/accept_ra", "2")
		}},
		{"eth0 in the pod is down", func(t *testing.T, _ *rig, pod *nettest.Namespace, _ *current.Result) { pod.IP(t, "link set eth0 down") }},
		{"lo in the pod is down", func(t *testing.T, _ *rig, pod *nettest.Namespace, _ *current.Result) { pod.IP(t, "link set lo down") }},
		{"eth0 in the pod lacks address 10.99.1.1/32", func(t *testing.T, _ *rig, pod *nettest.Namespace, _ *current.Result) {
			pod.IP(t, "address del 10.99.1.1/32 dev eth0")
		}},
		{"eth0 in the pod lacks address 10.99.1.1/32", func(t *testing.T, _ *rig, pod *nettest.Namespace, _ *current.Result) {
			pod.IP(t, "address del 10.99.1.1/32 dev eth0")
			pod.IP(t, "address add 10.99.1.1/24 dev eth0")
		}},
		{"the pod lacks the route 169.254.1.1/32 dev eth0 scope link", func(t *testing.T, _ *rig, pod *nettest.Namespace, _ *current.Result) {
			pod.IP(t, "route del 169.254.1.1")
		}},
		{"the pod lacks the route 0.0.0.0/0 via 169.254.1.1 dev eth0", func(t *testing.T, _ *rig, pod *nettest.Namespace, _ *current.Result) {
			pod.IP(t, "route del default")
		}},
		{"eth0 in the pod has MAC 02:00:00:00:00:02", func(t *testing.T, _ *rig, pod *nettest.Namespace, _ *current.Result) {
			pod.IP(t, "link set eth0 address 02:00:00:00:00:02")
		}},
		{"MTU of " + host + " is 1500, that of eth0 in the pod is 1400", func(t *testing.T, _ *rig, pod *nettest.Namespace, _ *current.Result) {
			pod.IP(t, "link set eth0 mtu 1400")
		}},
		{"not ends of one veth", func(t *testing.T, r *rig, pod *nettest.Namespace, _ *current.Result) {
			pod.IP(t, "link set eth0 name eth9")
			pod.IP(t, "link add eth0 type veth peer name eth8")
		}},
		{"network namespace is gone", func(_ *testing.T, _ *rig, pod *nettest.Namespace, _ *current.Result) { pod.Delete() }},
		{"prevResult has no address of eth0", func(_ *testing.T, _ *rig, _ *nettest.Namespace, prev *current.Result) { prev.IPs = nil }},
		{"prevResult lacks the node's interface", func(_ *testing.T, _ *rig, _ *nettest.Namespace, prev *current.Result) {
			prev.Interfaces[0].Name = "cali0"
		}},
		{"prevResult lacks the pod's interface", func(_ *testing.T, _ *rig, _ *nettest.Namespace, prev *current.Result) {
			prev.Interfaces[1].Name = "eth1"
		}},
		{"the address is not in the handle", func(_ *testing.T, r *rig, _ *nettest.Namespace, _ *current.Result) {
			r.agent.failCheck = nodeapi.Errorf(codeDamaged, "the address is not in the handle")
		}},
	} {
		t.Run(tc.says, func(t *testing.T) {
			r := newRig(t)
			pod := nettest.New(t, "pod")
			result := r.mustAdd(idA, "web", pod)
			tc.damage(t, r, pod, result)
			_, err := r.run(call{verb: "CHECK", id: idA, pod: "web", netns: pod.Path, prev: result})
			if err == nil || err.Code != codeDamaged || !strings.Contains(err.Msg, tc.says) {
				t.Errorf("CHECK: %+v, want %q", err, tc.says)
			}
		})
	}
}

func TestCheckWithoutAgentOrResult(t *testing.T) {
	r := newRig(t)
	pod := nettest.New(t, "pod")
	result := r.mustAdd(idA, "web", pod)
	if _, err := r.run(call{verb: "CHECK", id: idA, pod: "web", netns: pod.Path}); err == nil || err.Code != types.ErrInvalidNetworkConfig {
		t.Errorf("CHECK without prevResult: %+v", err)
	}
	r.stop()
	if _, err := r.run(call{verb: "CHECK", id: idA, pod: "web", netns: pod.Path, prev: result}); err == nil ||
		err.Code != types.ErrTryAgainLater {
		t.Errorf("CHECK without an agent: %+v", err)
	}
}

// Every version's result is what that version's specification says, and CHECK
// takes it back.
func TestVersions(t *testing.T) {
	for _, v := range []string{"0.3.1", "0.4.0", "1.0.0", "1.1.0"} {
		t.Run(v, func(t *testing.T) {
			r := newRig(t)
			r.conf["cniVersion"] = v
			pod := nettest.New(t, "pod")
			result := r.mustAdd(idA, "web", pod)
			if result.CNIVersion != v {
				t.Errorf("result of version %s", result.CNIVersion)
			}
			_, err := r.run(call{verb: "CHECK", id: idA, pod: "web", netns: pod.Path, prev: result})
			if v == "0.3.1" {
				if err == nil || err.Code != types.ErrIncompatibleCNIVersion {
					t.Errorf("CHECK: %+v", err)
				}
			} else if err != nil {
				t.Errorf("CHECK: %+v", err)
			}
		})
	}
}

func TestVersionAndIPAMName(t *testing.T) {
	path, err := binary()
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"manx", ipamName} {
		program := filepath.Join(filepath.Dir(path), name)
		cmd := exec.Command(program)
		cmd.Env = []string{"CNI_COMMAND=VERSION"}
		out, err := cmd.Output()
		if err != nil || !strings.Contains(string(out), `"supportedVersions":["0.3.1","0.4.0","1.0.0","1.1.0"]`) {
			t.Errorf("%s VERSION: %s, %v", name, out, err)
		}
		cmd = exec.Command(program)
		cmd.Env = []string{}
		if out, err := cmd.CombinedOutput(); err != nil || !strings.Contains(string(out), "plugin "+name+" ") {
			t.Errorf("%s without a command: %s, %v", name, out, err)
		}
	}
	cmd := exec.Command(filepath.Join(filepath.Dir(path), ipamName))
	cmd.Env = []string{"CNI_COMMAND=ADD", "CNI_CONTAINERID=a", "CNI_NETNS=/x", "CNI_IFNAME=eth0", "CNI_PATH=/x"}
	cmd.Stdin = strings.NewReader(`{"name":"n","cniVersion":"1.0.0"}`)
	out, err := cmd.Output()
	var e types.Error
	if err == nil || json.Unmarshal(out, &e) != nil || e.Code != types.ErrInvalidNetworkConfig ||
		!strings.Contains(e.Msg, "the node's agent") {
		t.Errorf("manx-ipam ADD: %s, %v", out, err)
	}
}

func TestStatusAndGC(t *testing.T) {
	r := newRig(t)
	r.conf["cniVersion"] = "1.1.0"
	if _, err := r.run(call{verb: "STATUS"}); err != nil {
		t.Errorf("STATUS: %+v", err)
	}
	kept, lost := nettest.New(t, "pod"), nettest.New(t, "pod")
	r.mustAdd("kept", "web", kept)
	r.mustAdd("lost", "db", lost)
	r.node.IP(t, "link set uplink alias manx:other-network.x")
	_, err := r.run(call{verb: "GC", change: map[string]any{
		"cni.dev/valid-attachments": []types.GCAttachment{{ContainerID: "kept", IfName: "eth0"}},
	}})
	if err != nil {
		t.Errorf("GC: %+v", err)
	}
	if r.agent.addrs("lost") != nil || lost.Link(t, "eth0") != nil {
		t.Error("GC left what is lost")
	}
	if r.agent.addrs("kept") == nil || kept.Link(t, "eth0") == nil || r.node.Link(t, "uplink") == nil {
		t.Error("GC took what is in use")
	}
	r.stop()
	if _, err := r.run(call{verb: "STATUS"}); err == nil || err.Code != types.ErrPluginNotAvailable {
		t.Errorf("STATUS without an agent: %+v", err)
	}
	if _, err := r.run(call{verb: "GC", change: map[string]any{"cni.dev/valid-attachments": []any{}}}); err == nil ||
		err.Code != types.ErrTryAgainLater {
		t.Errorf("GC without an agent: %+v", err)
	}
}
