package veth

import (
	"fmt"
	"net/netip"
	"slices"

	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"
)

// A pod has one default route, that of its first interface. A further interface gets a
// routing table of its own and a rule for its address: what the pod answers from that
// address leaves where it came in, and nothing else of the pod changes.
//
//	ip rule:      from 10.244.7.9 lookup 70003 proto 70
//	table 70003:  169.254.1.1 dev net1 scope link
//	              default via 169.254.1.1 dev net1
//
// The table goes with the interface; the rule is removed by name of the table and
// protocol, which are the mark.

const (
	// tableBase and the index of the interface in the pod make the table's number: as
	// large as the numbers that people and other plugins choose are not.
	tableBase = 70000
	// ruleProtocol is Manx's number for what it writes, as for the routes of the node.
	ruleProtocol = 70

	fraProtocol = 21 // FRA_PROTOCOL of linux/fib_rules.h
)

// TableOf is the routing table of a further interface, by its index in the pod.
func TableOf(index int) int { return tableBase + index }

// rule is a policy rule of a pod, as far as Manx writes such.
type rule struct {
	src      netip.Prefix
	table    int
	protocol uint8
}

func ruleFor(index int, a netip.Addr) rule {
	return rule{src: netip.PrefixFrom(a, a.BitLen()), table: TableOf(index), protocol: ruleProtocol}
}

func (r rule) message(doing string, typ, flags int) *message {
	m := newMessage(fmt.Sprintf("%s the rule that packets from %s use table %d", doing, r.src, r.table), typ, flags)
	// struct fib_rule_hdr has the layout of struct rtmsg, its action where that has the type.
	m.req.AddData(&nl.RtMsg{RtMsg: unix.RtMsg{
		Family: uint8(family(r.src.Addr())), Src_len: uint8(r.src.Bits()), Type: unix.FR_ACT_TO_TBL,
	}})
	m.attr(unix.FRA_SRC, r.src.Addr().AsSlice())
	m.attr(unix.FRA_TABLE, nl.Uint32Attr(uint32(r.table)))
	return m.attr(fraProtocol, []byte{r.protocol})
}

func addRule(r rule) *message {
	return r.message("add", unix.RTM_NEWRULE, unix.NLM_F_CREATE|unix.NLM_F_EXCL).tolerating(unix.EEXIST)
}

func delRule(r rule) *message {
	return r.message("delete", unix.RTM_DELRULE, 0).tolerating(unix.ENOENT)
}

// inTable puts a route into another table than main.
func (m *message) inTable(table int) *message {
	return m.attr(unix.RTA_TABLE, nl.Uint32Attr(uint32(table)))
}

// routesFor are the messages that lead packets from an address out of the interface:
// by the pod's default route, or by a table of its own where others have that.
func routesFor(index int, name string, a netip.Addr, table int) []*message {
	gateway := Gateway(a)
	var batch []*message
	if a.Is4() {
		batch = append(batch, addRoute(index, name, netip.PrefixFrom(gateway, 32), netip.Addr{}))
	}
	batch = append(batch, addRoute(index, name, defaultOf(a), gateway))
	if table == unix.RT_TABLE_MAIN {
		return batch
	}
	for _, m := range batch {
		m.inTable(table)
	}
	return append(batch, addRule(ruleFor(index, a)))
}

// tableFor chooses the table of an address's routes.
func (p *Pair) tableFor(a netip.Addr, index int) (int, error) {
	if !p.cfg.Secondary {
		return unix.RT_TABLE_MAIN, nil
	}
	var state podState
	if err := p.pod.dump(listRoutes(&state), func() { state.routes = map[podRoute]bool{} }); err != nil {
		return 0, err
	}
	for r := range state.routes {
		if r.table == unix.RT_TABLE_MAIN && r.dst == defaultOf(a) {
			return TableOf(index), nil
		}
	}
	return unix.RT_TABLE_MAIN, nil
}

// removeRules deletes those of our rules whose interface, by its index, is to go.
func (s *socket) removeRules(gone func(index int) bool) error {
	rules, err := s.listRules()
	if err != nil {
		return err
	}
	for _, r := range rules {
		if r.protocol == ruleProtocol && r.table > tableBase && gone(r.table-tableBase) {
			if err := s.do(delRule(r)); err != nil {
				return err
			}
		}
	}
	return nil
}

// removeStaleRules deletes the rules of interfaces that are no more: the agent deletes
// an interface by its end on the node and does not enter pods.
func (s *socket) removeStaleRules() error {
	links, err := s.listLinks()
	if err != nil {
		return err
	}
	return s.removeRules(func(index int) bool {
		return !slices.ContainsFunc(links, func(l *link) bool { return l.index == index })
	})
}

func (s *socket) listRules() (rules []rule, err error) {
	m := newMessage("list rules", unix.RTM_GETRULE, 0)
	m.req.AddData(&nl.RtMsg{RtMsg: unix.RtMsg{Family: unix.AF_UNSPEC}})
	m.answer = unix.RTM_NEWRULE
	m.into = func(b []byte) error {
		if len(b) < unix.SizeofRtMsg {
			return fmt.Errorf("rule message of %d bytes", len(b))
		}
		r := rule{table: int(nl.DeserializeRtMsg(b).Table)}
		for typ, value := range attrs(b[unix.SizeofRtMsg:]) {
			switch typ {
			case unix.FRA_SRC:
				if a, ok := netip.AddrFromSlice(value); ok {
					r.src = netip.PrefixFrom(a, int(nl.DeserializeRtMsg(b).Src_len))
				}
			case unix.FRA_TABLE:
				r.table = int(u32(value))
			case fraProtocol:
				if len(value) > 0 {
					r.protocol = value[0]
				}
			}
		}
		if r.src.IsValid() {
			rules = append(rules, r)
		}
		return nil
	}
	err = s.dump(m, func() { rules = nil })
	return rules, err
}

// ForgetRules removes what Create left in a pod beside the interface, before that is
// deleted. A namespace or an interface that is gone is a success.
func ForgetRules(netns, ifName string) error {
	return inPod(netns, func(pod *socket) error {
		var eth *link
		if err := pod.do(getLink(ifName, &eth)); err != nil || eth == nil {
			return err
		}
		return pod.removeRules(func(index int) bool { return index == eth.index })
	})
}
