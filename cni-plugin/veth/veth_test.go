package veth

import (
	"bytes"
	"encoding/binary"
	"errors"
	"net/netip"
	"os"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/manx-cni/manx/cni-plugin/internal/nettest"
)

const prefix = "manx:"

func config(pod *nettest.Namespace) Config {
	return Config{
		HostIface: "cali0", IfName: "eth0", NetNS: pod.Path,
		Alias: prefix + "net." + pod.Name, OwnPrefix: prefix, MTU: 1400,
	}
}

// create makes a pair in the node's namespace.
func create(t *testing.T, node *nettest.Namespace, c Config) (p *Pair, err error) {
	t.Helper()
	node.Do(t, func() { p, err = Create(c) })
	if err == nil {
		t.Cleanup(p.Close)
	}
	return p, err
}

// The interfaces must not appear up, owned or addressed before their turn.
func TestCreateIsSilent(t *testing.T) {
	node, pod := nettest.NewNode(t), nettest.New(t, "pod")
	p, err := create(t, node, config(pod))
	if err != nil {
		t.Fatal(err)
	}
	for where, ns := range map[string]*nettest.Namespace{"cali0": node, "eth0": pod} {
		if a := ns.Link(t, where).Attrs(); a.RawFlags&unix.IFF_UP != 0 || a.MTU != 1400 {
			t.Errorf("%s after Create: %+v", where, a)
		}
	}
	if a := node.Link(t, "cali0").Attrs(); a.Alias != config(pod).Alias || a.Index != p.HostIndex {
		t.Errorf("cali0: %+v", a)
	}
	node.Do(t, func() { err = p.Configure(Settings{Addrs: []netip.Addr{netip.MustParseAddr("10.1.1.1")}, MTU: 1300}) })
	if err != nil || p.MTU != 1300 || p.PodMAC.String() != pod.Link(t, "eth0").Attrs().HardwareAddr.String() {
		t.Errorf("Configure: %v, %+v", err, p)
	}
}

// The kernel refuses an address that is none, and says of which interface.
func TestHardwareAddressRefused(t *testing.T) {
	node, pod := nettest.NewNode(t), nettest.New(t, "pod")
	p, err := create(t, node, config(pod))
	if err != nil {
		t.Fatal(err)
	}
	node.Do(t, func() { err = p.Configure(Settings{PodMAC: make([]byte, 6)}) })
	if err == nil || !strings.Contains(err.Error(), "in the pod: give eth0 the hardware address 00:00:00:00:00:00 and bring it up") {
		t.Errorf("Configure: %v", err)
	}
	if a := pod.Link(t, "eth0").Attrs(); a.RawFlags&unix.IFF_UP != 0 {
		t.Error("the pod side came up with an address that it should not have")
	}
}

// A sysctl is in force before the interface is up: the watcher sees "up" only
// with proxy_arp on.
func TestSysctlsComeBeforeUp(t *testing.T) {
	node, pod := nettest.NewNode(t), nettest.New(t, "pod")
	p, err := create(t, node, config(pod))
	if err != nil {
		t.Fatal(err)
	}
	// A sysctl that cannot be written stops everything before "up".
	node.IP(t, "link set cali0 name cali1")
	node.Do(t, func() { err = p.Configure(Settings{Addrs: []netip.Addr{netip.MustParseAddr("10.1.1.1")}}) })
	if err == nil || !strings.Contains(err.Error(), "set sysctl /proc/sys/net/ipv4/conf/cali0/rp_filter=1") {
		t.Errorf("Configure: %v", err)
	}
	if a := node.Link(t, "cali1").Attrs(); a.RawFlags&unix.IFF_UP != 0 {
		t.Error("the host side came up without its sysctls")
	}
}

// Remove takes the interface that was made, not the one that has its name now.
func TestRemoveGoesByIndex(t *testing.T) {
	node, pod := nettest.NewNode(t), nettest.New(t, "pod")
	p, err := create(t, node, config(pod))
	if err != nil {
		t.Fatal(err)
	}
	node.IP(t, "link set cali0 name cali1")
	node.IP(t, "link add cali0 type bridge")
	for range 2 {
		if err := p.Remove(); err != nil {
			t.Fatal(err)
		}
	}
	if node.Link(t, "cali1") != nil || node.Link(t, "cali0") == nil {
		t.Error("the wrong interface was removed")
	}
}

func TestCreateRefuses(t *testing.T) {
	node, pod := nettest.NewNode(t), nettest.New(t, "pod")
	c := config(pod)
	c.NetNS = node.Path
	if _, err := create(t, node, c); err == nil || !strings.Contains(err.Error(), "node's own network namespace") {
		t.Errorf("own namespace: %v", err)
	}
	c.NetNS = "/run/netns/manx-absent"
	if _, err := create(t, node, c); !errors.Is(err, ErrNamespaceGone) {
		t.Errorf("absent namespace: %v", err)
	}
	c.NetNS = t.TempDir() + "/file"
	if err := os.WriteFile(c.NetNS, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := create(t, node, c); !errors.Is(err, ErrNamespaceGone) {
		t.Errorf("unmounted namespace: %v", err)
	}
	c = config(pod)
	c.MTU = 10
	if _, err := create(t, node, c); err == nil || !strings.Contains(err.Error(), "create veth cali0 with peer eth0: invalid argument") {
		t.Errorf("tiny MTU: %v", err)
	}
	pod.IP(t, "link add eth0 type bridge")
	if _, err := create(t, node, config(pod)); !errors.Is(err, ErrExists) {
		t.Errorf("eth0 is taken: %v", err)
	}
	if node.Link(t, "cali0") != nil {
		t.Error("a failed Create left its interface")
	}
}

// Errors carry the kernel's own words (extended acknowledgements).
func TestKernelExplains(t *testing.T) {
	node, pod := nettest.NewNode(t), nettest.New(t, "pod")
	p, err := create(t, node, config(pod))
	if err != nil {
		t.Fatal(err)
	}
	node.Do(t, func() { err = p.Configure(Settings{MTU: 10}) })
	const want = "set the MTU of cali0 to 10: invalid argument (mtu less than device minimum)"
	if !errors.Is(err, unix.EINVAL) || err.Error() != want {
		t.Errorf("got %v, want %s", err, want)
	}
}

func TestListAndRemoveOwned(t *testing.T) {
	node := nettest.NewNode(t)
	pods := []*nettest.Namespace{nettest.New(t, "pod"), nettest.New(t, "pod")}
	for i, pod := range pods {
		c := config(pod)
		c.HostIface = []string{"cali0", "cali1"}[i]
		if _, err := create(t, node, c); err != nil {
			t.Fatal(err)
		}
	}
	node.IP(t, "link set uplink alias somebody")
	node.Do(t, func() {
		if owned, err := ListOwned(prefix); err != nil || len(owned) != 2 {
			t.Errorf("owned: %v, %v", owned, err)
		}
		for range 2 {
			if err := RemoveOwned(config(pods[0]).Alias); err != nil {
				t.Error(err)
			}
		}
		if owned, err := ListOwned(prefix); err != nil || len(owned) != 1 || owned[0].Name != "cali1" {
			t.Errorf("owned: %v, %v", owned, err)
		}
		for range 2 {
			if err := RemoveInPod(pods[1].Path, "eth0", config(pods[1]).Alias); err != nil {
				t.Error(err)
			}
		}
		if owned, err := ListOwned(""); err != nil || len(owned) != 2 { // the uplink's two ends
			t.Errorf("left: %v, %v", owned, err)
		}
	})
}

// Interfaces come and go during a dump of many: the dump is complete or repeated.
func TestDumpOfMany(t *testing.T) {
	const pairs = 150
	node := nettest.NewNode(t)
	var batch strings.Builder
	for i := range pairs {
		batch.WriteString("link add many" + string(rune('a'+i/26)) + string(rune('a'+i%26)) + " type veth\n")
	}
	file := t.TempDir() + "/batch"
	if err := os.WriteFile(file, []byte(batch.String()), 0o600); err != nil {
		t.Fatal(err)
	}
	node.IP(t, "-batch "+file)
	node.Do(t, func() {
		owned, err := ListOwned("")
		if err != nil || len(owned) != 2*pairs+2 {
			t.Errorf("%d interfaces, want %d (%v)", len(owned), 2*pairs+2, err)
		}
	})
}

func FuzzParseLink(f *testing.F) {
	f.Add(make([]byte, unix.SizeofIfInfomsg))
	f.Add(append(make([]byte, unix.SizeofIfInfomsg), 8, 0, unix.IFLA_MTU, 0, 1, 2, 3, 4))
	f.Add(append(make([]byte, unix.SizeofIfInfomsg), 8, 0, unix.IFLA_LINKINFO, 0, 4, 0, 1, 0))
	f.Fuzz(func(t *testing.T, b []byte) {
		if l, err := parseLink(b); err == nil && l == nil {
			t.Error("neither a link nor an error")
		}
	})
}

func FuzzOutcome(f *testing.F) {
	f.Add([]byte{0, 0, 0, 0}, uint16(0))
	f.Add(append(binary.NativeEndian.AppendUint32(nil, ^uint32(16)), bytes.Repeat([]byte{0}, 24)...), uint16(0x200))
	f.Fuzz(func(t *testing.T, data []byte, flags uint16) {
		m := &message{doing: "test"}
		_ = m.outcome(syscall.NetlinkMessage{Header: syscall.NlMsghdr{Type: unix.NLMSG_ERROR, Flags: flags}, Data: data})
	})
}
