package veth

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"

	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"
)

// Expect is what an ADD once reported.
type Expect struct {
	HostIface, IfName, NetNS, Alias string
	// Secondary: its routes may be in a table of their own, as Config says.
	Secondary bool
	PodMAC    string
	MTU       int // bytes; 0: any, both ends alike
	Addrs     []netip.Addr
}

// Check compares the kernel with what an ADD left and names every difference,
// most important first. The error is that of a read that failed.
func Check(e Expect) ([]string, error) {
	host, err := openSocket()
	if err != nil {
		return nil, err
	}
	defer host.close()
	var h *link
	if err := host.do(getLink(e.HostIface, &h)); err != nil {
		return nil, err
	}
	gateway := true
	if h != nil && familiesOf(e.Addrs).ipv6 {
		if err := host.do(getAddr(h, Gateway6, &gateway)); err != nil {
			return nil, err
		}
	}
	ns, err := openNamespace(e.NetNS)
	if errors.Is(err, ErrNamespaceGone) {
		return append(e.checkHost(h, gateway), err.Error()), nil
	}
	if err != nil {
		return nil, err
	}
	defer ns.close()
	pod, err := readPod(ns, e.IfName, e.Secondary)
	if err != nil {
		return nil, err
	}
	wrong := append(e.checkHost(h, gateway), e.checkPod(pod)...)
	if h == nil || pod.eth == nil {
		return wrong, nil
	}
	if h.peer != pod.eth.index || pod.eth.peer != h.index {
		wrong = append(wrong, fmt.Sprintf("%s of the node and %s of the pod are not ends of one veth", h.name, pod.eth.name))
	}
	if h.mtu != pod.eth.mtu {
		wrong = append(wrong, fmt.Sprintf("MTU of %s is %d, that of %s in the pod is %d", h.name, h.mtu, pod.eth.name, pod.eth.mtu))
	}
	return wrong, nil
}

// checkHost compares the host side; gateway says whether it has its link-local
// address, which pods with IPv6 need.
func (e Expect) checkHost(h *link, gateway bool) []string {
	if h == nil {
		return []string{"the node has no interface " + e.HostIface}
	}
	var wrong []string
	say := func(format string, args ...any) { wrong = append(wrong, h.name+fmt.Sprintf(format, args...)) }
	if h.kind != "veth" {
		say(" is of kind %q, want veth", h.kind)
	}
	if h.alias != e.Alias {
		say(" belongs to %q, want %q", h.alias, e.Alias)
	}
	if !h.up {
		say(" is down")
	}
	if h.mac.String() != HostMAC.String() {
		say(" has MAC %s, want %s", h.mac, HostMAC)
	}
	if !gateway {
		say(" lacks address %s, the pod's gateway", hostLinkLocal)
	}
	for _, s := range hostSysctls(h.name, familiesOf(e.Addrs)) {
		if diff := s.differs(); diff != "" {
			wrong = append(wrong, diff)
		}
	}
	return wrong
}

func (e Expect) checkPod(p podState) []string {
	if p.eth == nil {
		return []string{"the pod has no interface " + e.IfName}
	}
	var wrong []string
	say := func(format string, args ...any) { wrong = append(wrong, fmt.Sprintf(format, args...)) }
	if !p.eth.up {
		say("%s in the pod is down", e.IfName)
	}
	if e.PodMAC != "" && p.eth.mac.String() != e.PodMAC {
		say("%s in the pod has MAC %s, want %s", e.IfName, p.eth.mac, e.PodMAC)
	}
	if e.MTU != 0 && p.eth.mtu != e.MTU {
		say("%s in the pod has MTU %d, want %d", e.IfName, p.eth.mtu, e.MTU)
	}
	if p.lo == nil || !p.lo.up {
		say("lo in the pod is down")
	}
	for _, a := range e.Addrs {
		if want := netip.PrefixFrom(a, a.BitLen()); !p.addrs[podAddr{p.eth.index, want}] {
			say("%s in the pod lacks address %s", e.IfName, want)
		}
		missing := p.missing(a, e.IfName, unix.RT_TABLE_MAIN)
		if len(missing) > 0 && e.Secondary {
			missing = p.missing(a, e.IfName, TableOf(p.eth.index))
			if r := ruleFor(p.eth.index, a); !slices.Contains(p.rules, r) {
				missing = append(missing, fmt.Sprintf("the pod lacks the rule from %s lookup %d", a, r.table))
			}
		}
		wrong = append(wrong, missing...)
	}
	return wrong
}

// missing says which of an address's routes a table lacks.
func (p podState) missing(a netip.Addr, ifName string, table int) (wrong []string) {
	gateway := Gateway(a)
	where := ""
	if table != unix.RT_TABLE_MAIN {
		where = fmt.Sprintf(" in table %d", table)
	}
	if want := netip.PrefixFrom(gateway, 32); a.Is4() &&
		!p.routes[podRoute{table: table, oif: p.eth.index, dst: want, scope: unix.RT_SCOPE_LINK}] {
		wrong = append(wrong, fmt.Sprintf("the pod lacks the route %s dev %s scope link%s", want, ifName, where))
	}
	if want := defaultOf(a); !p.routes[podRoute{table: table, oif: p.eth.index, dst: want, via: gateway, scope: unix.RT_SCOPE_UNIVERSE}] {
		wrong = append(wrong, fmt.Sprintf("the pod lacks the route %s via %s dev %s%s", want, gateway, ifName, where))
	}
	return wrong
}

// podState is what a check reads in the pod's namespace.
type podState struct {
	eth, lo *link
	addrs   map[podAddr]bool
	routes  map[podRoute]bool
	rules   []rule
}

type podAddr struct {
	index  int
	prefix netip.Prefix
}

type podRoute struct {
	table int
	oif   int
	dst   netip.Prefix
	via   netip.Addr
	scope uint8
}

func readPod(ns *namespace, ifName string, secondary bool) (podState, error) {
	var p podState
	var s *socket
	err := ns.enter(func() (err error) { s, err = openSocket(); return err })
	if err == nil {
		defer s.close()
		err = s.do(getLink("lo", &p.lo), getLink(ifName, &p.eth))
	}
	if err == nil {
		err = s.dump(listAddrs(&p), func() { p.addrs = map[podAddr]bool{} })
	}
	if err == nil {
		err = s.dump(listRoutes(&p), func() { p.routes = map[podRoute]bool{} })
	}
	if err == nil && secondary {
		p.rules, err = s.listRules()
	}
	if err != nil {
		err = fmt.Errorf("in the pod: %w", err)
	}
	return p, err
}

func listAddrs(p *podState) *message {
	m := newMessage("list addresses", unix.RTM_GETADDR, 0)
	m.req.AddData(nl.NewIfAddrmsg(unix.AF_UNSPEC))
	m.answer = unix.RTM_NEWADDR
	m.into = func(b []byte) error {
		if len(b) < unix.SizeofIfAddrmsg {
			return fmt.Errorf("address message of %d bytes", len(b))
		}
		info := nl.DeserializeIfAddrmsg(b)
		for typ, value := range attrs(b[unix.SizeofIfAddrmsg:]) {
			// IFA_ADDRESS is the address itself here: no point-to-point peers.
			if addr, ok := netip.AddrFromSlice(value); ok && typ == unix.IFA_ADDRESS {
				p.addrs[podAddr{int(info.Index), netip.PrefixFrom(addr, int(info.Prefixlen))}] = true
			}
		}
		return nil
	}
	return m
}

func listRoutes(p *podState) *message {
	m := newMessage("list routes", unix.RTM_GETROUTE, 0)
	m.req.AddData(&nl.RtMsg{RtMsg: unix.RtMsg{Family: unix.AF_UNSPEC}})
	m.answer = unix.RTM_NEWROUTE
	m.into = func(b []byte) error {
		if len(b) < unix.SizeofRtMsg {
			return fmt.Errorf("route message of %d bytes", len(b))
		}
		info := nl.DeserializeRtMsg(b)
		if info.Type != unix.RTN_UNICAST {
			return nil
		}
		r := podRoute{table: int(info.Table), scope: info.Scope}
		base := netip.IPv4Unspecified()
		if info.Family == unix.AF_INET6 {
			base = netip.IPv6Unspecified()
		}
		for typ, value := range attrs(b[unix.SizeofRtMsg:]) {
			switch typ {
			case unix.RTA_DST:
				base, _ = netip.AddrFromSlice(value)
			case unix.RTA_GATEWAY:
				r.via, _ = netip.AddrFromSlice(value)
			case unix.RTA_OIF:
				r.oif = int(u32(value))
			case unix.RTA_TABLE:
				r.table = int(u32(value))
			}
		}
		r.dst = netip.PrefixFrom(base, int(info.Dst_len))
		p.routes[r] = true
		return nil
	}
	return m
}
