package nl

import (
	"encoding/binary"
	"errors"
	"fmt"
	"syscall"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"
)

// Modes of net.ipv4.conf.*.rp_filter (RFC 3704; Documentation/networking/
// ip-sysctl). The one in force on a link is the greater of its own and that of
// conf/all.
const (
	// RPFilterStrict drops a packet unless its sender's route leads back through
	// the link it came in by.
	RPFilterStrict = 1
	// RPFilterLoose drops a packet only when no route leads to its sender.
	RPFilterLoose = 2
)

// LinkSetRPFilter sets a link's own rp_filter. It goes through RTM_SETLINK
// (inet_set_link_af), which needs CAP_NET_ADMIN only, where /proc/sys is mounted
// read-only.
func (h *Handle) LinkSetRPFilter(index, mode int) error {
	return h.setInetConf(fmt.Sprintf("set rp_filter %d of link %d", mode, index), index, devconfRPFilter, mode)
}

// Attributes of a struct netconfmsg (linux/netconf.h), and its length: one byte,
// padded.
const (
	netconfaIfIndex    = 1
	netconfaForwarding = 2
	netconfaRPFilter   = 3
	netconfaProxyNeigh = 5 // proxy_arp, proxy_ndp
	sizeofNetconfMsg   = 4
)

// RPFilterAll reads net.ipv4.conf.all.rp_filter of the handle's namespace.
func (h *Handle) RPFilterAll() (int, error) {
	mode := -1
	err := h.read("read net.ipv4.conf.all.rp_filter", func(_ *netlink.Handle, rs *rtSocket) error {
		req := nl.NewNetlinkRequest(unix.RTM_GETNETCONF, unix.NLM_F_ACK)
		all := int32(AllLinks) // NETCONFA_IFINDEX_ALL
		req.AddRawData(appendAttr32([]byte{unix.AF_INET, 0, 0, 0}, netconfaIfIndex, uint32(all)))
		err := rs.ask(req, unix.RTM_NEWNETCONF, func(m []byte) error {
			if v := attr(m[min(sizeofNetconfMsg, len(m)):], netconfaRPFilter); len(v) >= 4 {
				mode = int(int32(binary.NativeEndian.Uint32(v)))
			}
			return nil
		})
		if err == nil && mode < 0 {
			return errors.New("the kernel's answer does not have it")
		}
		return err
	})
	return mode, err
}

// netconfEvent reports that a setting was changed: the kernel says nothing of it with
// the link. A new link's message has all of them, and so says what its EventLink says.
func netconfEvent(m syscall.NetlinkMessage, event func(Event)) {
	if len(m.Data) < sizeofNetconfMsg {
		return
	}
	attrs := m.Data[sizeofNetconfMsg:]
	has := func(typ uint16) bool { return len(attr(attrs, typ)) >= 4 }
	if !has(netconfaIfIndex) {
		return
	}
	link := Link{Index: int(int32(binary.NativeEndian.Uint32(attr(attrs, netconfaIfIndex))))}
	if m.Data[0] == unix.AF_INET && has(netconfaRPFilter) {
		event(Event{Kind: EventRPFilter, Link: link})
	}
	if has(netconfaForwarding) || has(netconfaProxyNeigh) {
		event(Event{Kind: EventSetting, Link: link})
	}
}
