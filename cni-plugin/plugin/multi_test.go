package plugin

import (
	"context"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/containernetworking/cni/libcni"
	"github.com/containernetworking/cni/pkg/types"
	current "github.com/containernetworking/cni/pkg/types/100"

	"github.com/manx-cni/manx/cni-plugin/internal/nettest"
	"github.com/manx-cni/manx/internal/attachment"
	"github.com/manx-cni/manx/internal/nodeapi"
)

// attached is one interface of a pod, as libcni has it.
type attached struct {
	*runtime
	list *libcni.NetworkConfigList
	rt   *libcni.RuntimeConf
	addr netip.Addr
	host string
}

// attach adds an interface and checks what ADD says of it.
func (r *runtime) attach(network, id, pod, ifName string, ns *nettest.Namespace) *attached {
	r.t.Helper()
	a := &attached{runtime: r, list: r.list(network), rt: r.interfaceOf(id, pod, ifName, ns.Path)}
	result, err := r.add(a.list, a.rt)
	if err != nil {
		r.t.Fatalf("ADD %s %s: %v", network, ifName, err)
	}
	now, err := current.NewResultFromResult(result)
	if err != nil {
		r.t.Fatal(err)
	}
	a.host = now.Interfaces[0].Name
	a.addr, _ = netip.AddrFromSlice(now.IPs[0].Address.IP.To4())
	if l := r.node.Link(r.t, a.host); l == nil ||
		l.Attrs().Alias != (attachment.ID{Network: network, ContainerID: id, IfName: ifName}).Alias() {
		r.t.Errorf("host side of %s: %+v", ifName, l)
	}
	return a
}

func (a *attached) check() error {
	a.t.Helper()
	return a.as(func(ctx context.Context) error { return a.cni.CheckNetworkList(ctx, a.list, a.rt) })
}

func (a *attached) mustDel() {
	a.t.Helper()
	if err := a.del(a.list, a.rt); err != nil {
		a.t.Errorf("DEL %s %s: %v", a.list.Name, a.rt.IfName, err)
	}
}

func (a *attached) gc(valid ...*attached) {
	a.t.Helper()
	args := &libcni.GCArgs{ValidAttachments: []types.GCAttachment{}}
	for _, v := range valid {
		args.ValidAttachments = append(args.ValidAttachments, types.GCAttachment{ContainerID: v.rt.ContainerID, IfName: v.rt.IfName})
	}
	if err := a.runtime.gc(a.list, args); err != nil {
		a.t.Errorf("GC of %s: %v", a.list.Name, err)
	}
}

// answers connects from the node to the interface's address and reads an answer.
func (a *attached) answers(pod *nettest.Namespace) error {
	a.t.Helper()
	var l net.Listener
	var err error
	pod.Do(a.t, func() { l, err = net.Listen("tcp", netip.AddrPortFrom(a.addr, 0).String()) })
	if err != nil {
		return err
	}
	defer l.Close()
	go func() {
		if conn, err := l.Accept(); err == nil {
			_, _ = io.WriteString(conn, "here")
			conn.Close()
		}
	}()
	a.node.Do(a.t, func() {
		var conn net.Conn
		d := net.Dialer{Timeout: 3 * time.Second}
		if conn, err = d.Dial("tcp", l.Addr().String()); err != nil {
			return
		}
		defer conn.Close()
		var said []byte
		if said, err = io.ReadAll(conn); err == nil && string(said) != "here" {
			err = fmt.Errorf("read %q", said)
		}
	})
	return err
}

// Two networks on one pod, as Multus calls, and one of them twice: every interface has
// an address and a way back of its own, and goes alone. The node drops what comes from
// an address by another interface than the one that leads to it.
func TestSeveralInterfacesOfOnePod(t *testing.T) {
	r := newRuntime(t, newRig(t))
	r.node.Do(t, func() {
		if err := os.WriteFile("/proc/sys/net/ipv4/conf/all/rp_filter", []byte("1"), 0); err != nil {
			t.Fatal(err)
		}
	})
	pod := nettest.New(t, "pod")
	eth0 := r.attach("k8s-pod-network", idA, "web", "eth0", pod)
	net1 := r.attach("blue", idA, "web", "net1", pod)
	net2 := r.attach("k8s-pod-network", idA, "web", "net2", pod)
	all := []*attached{eth0, net1, net2}
	alive := func(want ...*attached) {
		t.Helper()
		for _, a := range all {
			lives := slices.Contains(want, a)
			if there := pod.Link(t, a.rt.IfName) != nil; there != lives {
				t.Errorf("%s is there: %v, want %v", a.rt.IfName, there, lives)
			}
			held := r.agent.addrs(heldAs(nodeapi.Endpoint{Network: a.list.Name, ContainerID: idA, IfName: a.rt.IfName}))
			if (held != nil) != lives {
				t.Errorf("%s holds %v", a.rt.IfName, held)
			}
			if !lives {
				continue
			}
			if err := a.check(); err != nil {
				t.Errorf("CHECK %s: %v", a.rt.IfName, err)
			}
			if err := a.answers(pod); err != nil {
				t.Errorf("%s, %s: %v", a.rt.IfName, a.addr, err)
			}
		}
	}
	if eth0.host != nodeapi.HostIfaceName("default", "web") || net1.host == eth0.host || net2.host == net1.host || net2.host == eth0.host ||
		!strings.HasPrefix(net1.host, "cali") || eth0.addr == net1.addr || net1.addr == net2.addr || eth0.addr == net2.addr {
		t.Fatalf("eth0 %s %s, net1 %s %s, net2 %s %s", eth0.host, eth0.addr, net1.host, net1.addr, net2.host, net2.addr)
	}
	alive(eth0, net1, net2)
	if err := r.roundTrip(pod, "10.99.0.1"); err != nil {
		t.Errorf("the pod's own way out: %v", err)
	}

	// A list of what is valid names interfaces, not containers.
	eth0.gc(eth0, net2)
	net1.gc(net1)
	alive(eth0, net1, net2)
	eth0.gc(eth0)
	alive(eth0, net1)
	net2 = r.attach("k8s-pod-network", idA, "web", "net2", pod)
	all[2] = net2
	alive(eth0, net1, net2)

	net1.mustDel()
	net1.mustDel()
	alive(eth0, net2)
	net2.mustDel()
	alive(eth0)
	if rules := pod.IP(t, "rule"); strings.Contains(rules, "proto 70") {
		t.Errorf("rules are left in the pod: %s", rules)
	}
	net1, net2 = r.attach("blue", idA, "web", "net1", pod), r.attach("k8s-pod-network", idA, "web", "net2", pod)
	all[1], all[2] = net1, net2
	eth0.mustDel()
	alive(net1, net2)

	// The DELs that no agent hears are all replayed.
	r.stop()
	net1.mustDel()
	net2.mustDel()
	r.start()
	nettest.Eventually(t, "all addresses are released", func() bool {
		r.agent.mu.Lock()
		defer r.agent.mu.Unlock()
		return len(r.agent.held) == 0
	})
	alive()
}

// The same interface in another network: the one that is there stays.
func TestInterfaceIsTaken(t *testing.T) {
	for name, agentRuns := range map[string]bool{"agent runs": true, "agent away": false} {
		t.Run(name, func(t *testing.T) {
			r := newRuntime(t, newRig(t))
			pod := nettest.New(t, "pod")
			eth0 := r.attach("k8s-pod-network", idA, "web", "eth0", pod)
			again := r.interfaceOf(idA, "web", "eth0", pod.Path)
			if _, err := r.add(r.list("blue"), again); err == nil || !strings.Contains(err.Error(), "already has the interface eth0") {
				t.Errorf("ADD: %v", err)
			}
			if !agentRuns {
				r.stop()
			}
			if err := r.del(r.list("blue"), again); err != nil {
				t.Errorf("DEL: %v", err)
			}
			if !agentRuns {
				r.start()
			}
			if err := eth0.check(); err != nil {
				t.Error(err)
			}
			if err := eth0.answers(pod); err != nil {
				t.Error(err)
			}
		})
	}
}

// What plugins made that named interfaces by their container alone: known by the other
// end of the pod's interface, whichever it is.
func TestInterfacesOfOlderPlugins(t *testing.T) {
	for name, agentRuns := range map[string]bool{"agent runs": true, "agent away": false} {
		t.Run(name, func(t *testing.T) {
			r := newRuntime(t, newRig(t))
			pod := nettest.New(t, "pod")
			eth0 := r.attach("k8s-pod-network", idA, "web", "eth0", pod)
			const host = "cali0000000old1"
			r.node.IP(t, "link add "+host+" type veth peer name net1 netns "+pod.Name)
			r.node.IP(t, "link set "+host+" alias manx:blue."+idA)
			r.agent.held["blue."+idA] = []netip.Addr{netip.MustParseAddr("10.99.1.200")}
			old := &attached{runtime: r, list: r.list("blue"), rt: r.interfaceOf(idA, "web", "net1", pod.Path)}

			old.gc(old)
			eth0.gc(eth0)
			if pod.Link(t, "net1") == nil || pod.Link(t, "eth0") == nil {
				t.Fatal("GC took an interface that is in use")
			}
			if !agentRuns {
				r.stop()
			}
			if err := r.del(old.list, old.rt); err != nil {
				t.Errorf("DEL: %v", err)
			}
			if !agentRuns {
				record := filepath.Join(nodeapi.DeferredDir(r.socket), idA+".json")
				if _, err := os.Stat(record); err != nil {
					t.Error(err)
				}
				r.start()
			}
			nettest.Eventually(t, "its address is released", func() bool { return r.agent.addrs("blue."+idA) == nil })
			if r.node.Link(t, host) != nil || pod.Link(t, "net1") != nil {
				t.Error("DEL left the interface")
			}
			if err := eth0.check(); err != nil {
				t.Errorf("CHECK of eth0: %v", err)
			}

			// The list has another interface of the container, so the alias of one that is
			// lost could be an old one; its other end tells.
			net2 := r.attach("k8s-pod-network", idA, "web", "net2", pod)
			eth0.gc(net2)
			if pod.Link(t, "eth0") != nil || pod.Link(t, "net2") == nil {
				t.Error("GC did not take eth0 alone")
			}
		})
	}
}
