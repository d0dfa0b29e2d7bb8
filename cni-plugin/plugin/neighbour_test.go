package plugin

import (
	"bytes"
	"net"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/manx-cni/manx/cni-plugin/internal/nettest"
	"github.com/manx-cni/manx/internal/nodeapi"
)

// TestInventedNeighbours: a pod that asks for its gateway under a hundred addresses
// that are not its own leaves no trace of them in the node's neighbour table. The pod
// itself finds the gateway and is found.
func TestInventedNeighbours(t *testing.T) {
	r := newRig(t)
	pod := nettest.New(t, "pod")
	r.mustAdd(idA, "web", pod)
	host := nodeapi.HostIfaceName("default", "web")
	// ask has the pod send ARP requests and replies, for the gateway and the node, and
	// waits until one under its own address, the last, has been answered.
	ask := func(all string) (invented int) {
		t.Helper()
		r.node.SetSysctl(t, "ipv4/conf/all/rp_filter", all)
		r.node.IP(t, "neigh flush dev "+host)
		pod.IP(t, "neigh flush dev eth0")
		pod.Do(t, func() { sendARP(t, "eth0", 100) })
		if err := r.roundTrip(pod, "10.99.0.1"); err != nil {
			t.Errorf("pod to node with conf/all/rp_filter=%s: %v", all, err)
		}
		neighbours := r.node.IP(t, "neigh show dev "+host)
		if !strings.Contains(neighbours, "10.99.1.1 ") {
			t.Errorf("the pod itself is no neighbour of the node: %q", neighbours)
		}
		return strings.Count(neighbours, "10.77.")
	}
	for _, all := range []string{"0", "1", "2"} {
		if n := ask(all); n != 0 {
			t.Errorf("conf/all/rp_filter=%s: %d of 100 invented senders are in the node's neighbour table", all, n)
		}
	}

	r.node.SetSysctl(t, "ipv4/conf/"+host+"/rp_filter", "2") // as systemd's udev rules set it
	if n := ask("0"); n != 0 {
		t.Errorf("rp_filter=2: %d of 100 invented senders are in the node's neighbour table", n)
	}
	r.node.SetSysctl(t, "ipv4/conf/"+host+"/rp_filter", "0")
	if n := ask("0"); n != 100 {
		t.Errorf("without rp_filter %d of 100 invented senders are in the node's neighbour table: the test says little", n)
	}
}

// sendARP sends a request and a reply of each of n senders 10.77.0.x, to everybody on
// the link: who has 169.254.1.1, and who has 10.99.0.1 (RFC 826).
func sendARP(t *testing.T, iface string, n int) {
	link, err := net.InterfaceByName(iface)
	if err != nil {
		t.Error(err)
		return
	}
	fd, err := unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Error(err)
		return
	}
	defer unix.Close(fd)
	for i := range n {
		sender := []byte{10, 77, 0, byte(i + 1)}
		for _, op := range []byte{1, 2} {
			for _, target := range [][]byte{{169, 254, 1, 1}, {10, 99, 0, 1}} {
				var f bytes.Buffer
				f.Write(bytes.Repeat([]byte{0xff}, 6))
				f.Write(link.HardwareAddr)
				f.Write([]byte{0x08, 0x06, 0, 1, 0x08, 0, 6, 4, 0, op})
				f.Write(link.HardwareAddr)
				f.Write(sender)
				f.Write(make([]byte, 6))
				f.Write(target)
				if err := unix.Sendto(fd, f.Bytes(), 0, &unix.SockaddrLinklayer{Ifindex: link.Index, Protocol: 0x0608}); err != nil {
					t.Errorf("send an ARP packet: %v", err)
					return
				}
			}
		}
	}
}
