package nl

import (
	"errors"
	"fmt"

	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"
)

// iflaNumTxQueues is IFLA_NUM_TX_QUEUES.
const iflaNumTxQueues = 31

// KnowsLinkKind reports whether the kernel can make links of a kind ("vxlan",
// "wireguard", …), without making one: the request asks for an impossible
// number of queues, which the kernel looks at only once it has found the kind
// (rtnl_newlink). It may load the kind's module. Needs CAP_NET_ADMIN.
func (h *Handle) KnowsLinkKind(kind string) (bool, error) {
	req := nl.NewNetlinkRequest(unix.RTM_NEWLINK, unix.NLM_F_CREATE|unix.NLM_F_EXCL|unix.NLM_F_ACK)
	req.AddData(nl.NewIfInfomsg(unix.AF_UNSPEC))
	req.AddData(nl.NewRtAttr(unix.IFLA_IFNAME, nl.ZeroTerminated("manx-probe")))
	req.AddData(nl.NewRtAttr(iflaNumTxQueues, nl.Uint32Attr(1<<16)))
	info := nl.NewRtAttr(unix.IFLA_LINKINFO, nil)
	info.AddRtAttr(nl.IFLA_INFO_KIND, nl.NonZeroTerminated(kind))
	req.AddData(info)

	sock, err := nl.GetNetlinkSocketAt(h.ns, noNS, unix.NETLINK_ROUTE)
	if err != nil {
		return false, fmt.Errorf("probe for %s links: %w", kind, err)
	}
	req.Sockets = map[int]*nl.SocketHandle{unix.NETLINK_ROUTE: {Socket: sock}}
	defer sock.Close()
	_, err = req.Execute(unix.NETLINK_ROUTE, 0)
	switch {
	case errors.Is(err, unix.EINVAL):
		return true, nil
	case errors.Is(err, unix.EOPNOTSUPP):
		return false, nil
	case err == nil:
		return false, fmt.Errorf("probe for %s links: the kernel accepted an impossible link; delete manx-probe", kind)
	}
	return false, fmt.Errorf("probe for %s links: %w", kind, err)
}
