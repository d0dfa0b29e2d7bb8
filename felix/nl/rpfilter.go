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
	return h.write(fmt.Sprintf("set rp_filter %d of link %d", mode, index), func(_ *netlink.Handle, rs *rtSocket) error {
		req := nl.NewNetlinkRequest(unix.RTM_SETLINK, unix.NLM_F_ACK)
		msg := nl.NewIfInfomsg(unix.AF_UNSPEC)
		msg.Index = int32(index)
		req.AddData(msg)
		conf := appendAttr(nil, iflaInetConf, appendAttr32(nil, devconfRPFilter, uint32(mode)))
		req.AddRawData(appendAttr(nil, unix.IFLA_AF_SPEC, appendAttr(nil, unix.AF_INET, conf)))
		return rs.ask(req, 0, nil)
	})
}

// Attributes of a struct netconfmsg (linux/netconf.h), and its length: one byte,
// padded.
const (
	netconfaIfIndex  = 1
	netconfaRPFilter = 3
	sizeofNetconfMsg = 4
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

// netconfEvent reports that an rp_filter was set: the kernel says nothing of it with
// the link. Messages about other settings do not have it. A new link's has all of
// them, and so says what its EventLink says.
func netconfEvent(m syscall.NetlinkMessage, event func(Event)) {
	if len(m.Data) < sizeofNetconfMsg || m.Data[0] != unix.AF_INET {
		return
	}
	index, mode := attr(m.Data[sizeofNetconfMsg:], netconfaIfIndex), attr(m.Data[sizeofNetconfMsg:], netconfaRPFilter)
	if len(index) >= 4 && len(mode) >= 4 {
		event(Event{Kind: EventRPFilter, Link: Link{Index: int(int32(binary.NativeEndian.Uint32(index)))}})
	}
}
