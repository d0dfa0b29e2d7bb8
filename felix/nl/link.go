package nl

import (
	"errors"
	"fmt"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"

	"github.com/manx-cni/manx/felix/state"
)

// Links lists all links.
func (h *Handle) Links() ([]Link, error) {
	var out []Link
	err := h.read("list links", func(_ *netlink.Handle, rs *rtSocket) error {
		out = nil
		req := nl.NewNetlinkRequest(unix.RTM_GETLINK, unix.NLM_F_DUMP)
		req.AddData(nl.NewIfInfomsg(unix.AF_UNSPEC))
		return rs.ask(req, unix.RTM_NEWLINK, func(m []byte) error {
			l, err := parseLink(m)
			out = append(out, l)
			return err
		})
	})
	if err != nil {
		return nil, err
	}
	return out, nil
}

// LinkByName finds one link.
func (h *Handle) LinkByName(name string) (Link, error) {
	if name == "" || len(name) >= unix.IFNAMSIZ {
		return Link{}, fmt.Errorf("find link %q: %w", name, ErrNotFound) // no link can be called that
	}
	var out Link
	err := h.read("find link "+name, func(_ *netlink.Handle, rs *rtSocket) error {
		req := nl.NewNetlinkRequest(unix.RTM_GETLINK, unix.NLM_F_ACK)
		req.AddData(nl.NewIfInfomsg(unix.AF_UNSPEC))
		req.AddData(nl.NewRtAttr(unix.IFLA_IFNAME, nl.ZeroTerminated(name)))
		err := rs.ask(req, unix.RTM_NEWLINK, func(m []byte) error {
			var err error
			out, err = parseLink(m)
			return err
		})
		if errors.Is(err, unix.ENODEV) || err == nil && out.Index == 0 {
			return ErrNotFound
		}
		return err
	})
	return out, err
}

// LinkAdd makes a link, with what its kind has for defaults.
func (h *Handle) LinkAdd(spec state.LinkSpec) error {
	attrs := netlink.NewLinkAttrs()
	attrs.Name = spec.Name
	var l netlink.Link = &netlink.GenericLink{LinkAttrs: attrs, LinkType: spec.Kind}
	if spec.Kind == state.TunnelLink.Kind {
		// Said in full, every value of the fallback device (ip_tunnel_init_net):
		// no fixed ends, TTL and TOS of the inner packet, any inner protocol.
		l = &netlink.Iptun{LinkAttrs: attrs}
	}
	return h.write(fmt.Sprintf("add %s link %s", spec.Kind, spec.Name), func(lib *netlink.Handle, _ *rtSocket) error {
		return lib.LinkAdd(l)
	})
}

// LinkDelete removes a link. For a veth the kernel waits for grace periods:
// about 20 ms.
func (h *Handle) LinkDelete(index int) error {
	return h.write(fmt.Sprintf("delete link %d", index), func(lib *netlink.Handle, _ *rtSocket) error {
		return lib.LinkDel(linkOf(index))
	})
}

// LinkSetMTU sets a link's MTU in bytes.
func (h *Handle) LinkSetMTU(index, mtu int) error {
	return h.write(fmt.Sprintf("set MTU %d of link %d", mtu, index), func(lib *netlink.Handle, _ *rtSocket) error {
		return lib.LinkSetMTU(linkOf(index), mtu)
	})
}

// LinkSetUp sets a link up or down.
func (h *Handle) LinkSetUp(index int, up bool) error {
	if up {
		return h.write(fmt.Sprintf("set link %d up", index), func(lib *netlink.Handle, _ *rtSocket) error {
			return lib.LinkSetUp(linkOf(index))
		})
	}
	return h.write(fmt.Sprintf("set link %d down", index), func(lib *netlink.Handle, _ *rtSocket) error {
		return lib.LinkSetDown(linkOf(index))
	})
}

func linkOf(index int) netlink.Link {
	return &netlink.Device{LinkAttrs: netlink.LinkAttrs{Index: index}}
}
