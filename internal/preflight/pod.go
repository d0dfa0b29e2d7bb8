package preflight

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"unsafe"

	"golang.org/x/sys/unix"
)

// podProber sends packets with pod addresses as plain routes would: out of the uplink,
// to the hardware address of the node. A packet socket takes neither the routes, which
// may still lead into the tunnel, nor the packet filter's masquerade rule. Answers come
// the present way of the peer, plain or in IPIP, to a raw socket with the own address.
type podProber struct {
	self   netip.Addr
	uplink net.Interface
	out    int // AF_PACKET, only sends
	in     *net.IPConn
}

func newPodProber(ctx context.Context, self netip.Addr, uplink net.Interface) (*podProber, error) {
	in, err := rawSocket(ctx, protoICMP, self, echoFilter)
	if err != nil {
		return nil, err
	}
	// Protocol 0: it receives nothing.
	out, err := unix.Socket(unix.AF_PACKET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
	if err != nil {
		_ = in.Close()
		return nil, fmt.Errorf("open a packet socket on %s (needs CAP_NET_RAW): %w", uplink.Name, err)
	}
	return &podProber{self: self, uplink: uplink, out: out, in: in}, nil
}

func (p *podProber) close() {
	_ = p.in.Close()
	_ = unix.Close(p.out)
}

// send sends the probe to a node.
func (p *podProber) send(pr probe, dst Target) error {
	to := unix.SockaddrLinklayer{Protocol: bigEndian(unix.ETH_P_IP), Ifindex: p.uplink.Index}
	if len(p.uplink.HardwareAddr) > 0 { // not of a point-to-point link
		mac, err := p.neighbour(dst.Addr)
		if err != nil {
			return err
		}
		to.Halen = uint8(copy(to.Addr[:], mac[:]))
	}
	// Connection tracking has not seen what a packet socket sends, and many a firewall
	// drops answers to nothing. This packet, in the present way, is what they answer.
	// That it cannot be sent is no news: it is not what is being tried.
	_ = send(p.in, opener(pr), dst.TunnelAddr)
	return unix.Sendto(p.out, podPacket(pr, p.self, dst.TunnelAddr), 0, &to)
}

// canProbePods reports whether packets can be sent to a neighbour on the interface:
// its hardware addresses are Ethernet's, or it has none.
func canProbePods(uplink net.Interface) bool {
	return len(uplink.HardwareAddr) == 0 || len(uplink.HardwareAddr) == 6
}

// arpreq is struct arpreq of linux/if_arp.h, for Ethernet.
type arpreq struct {
	pa struct {
		family uint16
		port   uint16
		addr   [4]byte
		_      [8]byte
	}
	ha struct {
		family uint16
		mac    [6]byte
		_      [8]byte
	}
	flags   int32
	netmask [16]byte
	dev     [unix.IFNAMSIZ]byte
}

var errNoNeighbour = errors.New("its hardware address is not known")

// neighbour is the hardware address of a node as the kernel has found it out for
// CheckMTU, which goes to the same node first.
func (p *podProber) neighbour(addr netip.Addr) (mac [6]byte, err error) {
	var req arpreq
	req.pa.family, req.pa.addr = unix.AF_INET, addr.As4()
	copy(req.dev[:], p.uplink.Name)
	_, _, errno := unix.Syscall(unix.SYS_IOCTL, uintptr(p.out), unix.SIOCGARP, uintptr(unsafe.Pointer(&req)))
	switch {
	case errno == unix.ENXIO, errno == 0 && req.flags&atfCom == 0:
		return mac, errNoNeighbour
	case errno != 0:
		return mac, fmt.Errorf("read the neighbour entry of %s on %s: %w", addr, p.uplink.Name, errno)
	}
	return req.ha.mac, nil
}

// atfCom is ATF_COM of linux/if_arp.h: the entry is complete.
const atfCom = 0x02

// bigEndian turns a number of this machine into network byte order.
func bigEndian(n uint16) uint16 {
	return binary.NativeEndian.Uint16(binary.BigEndian.AppendUint16(nil, n))
}
