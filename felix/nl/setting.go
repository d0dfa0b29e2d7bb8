package nl

import (
	"encoding/binary"
	"fmt"
	"os"
	"strconv"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"
)

// Setting is one of a link's values in net.ipv4.conf and net.ipv6.conf, as sysctl(8)
// calls them (Documentation/networking/ip-sysctl).
type Setting uint8

// The settings that Manx relies on. Forwarding is what the kernel looks at for a packet
// that comes in by the link (ip_route_input_slow); net.ipv4.ip_forward only writes it to
// all links. Of IPv6 it looks at conf/all alone.
const (
	Forwarding Setting = iota
	ProxyARP
	Forwarding6
	AcceptRA6
	ProxyNDP6
	DisableIPv6
	numSettings
)

// settings says where each is: its number in IFLA_INET_CONF, which counts from 1
// (IPV4_DEVCONF_*, linux/ip.h), or in IFLA_INET6_CONF, which counts from 0 (DEVCONF_*,
// linux/ipv6.h).
var settings = [numSettings]struct {
	name   string
	number int
	is6    bool
}{
	Forwarding:  {"forwarding", 1, false},
	ProxyARP:    {"proxy_arp", 3, false},
	Forwarding6: {"forwarding", 0, true},
	AcceptRA6:   {"accept_ra", 3, true},
	ProxyNDP6:   {"proxy_ndp", 22, true},
	DisableIPv6: {"disable_ipv6", 26, true},
}

// Sysctl is the setting's name for sysctl(8), of a link or of "*".
func (s Setting) Sysctl(link string) string {
	family := "ipv4"
	if settings[s].is6 {
		family = "ipv6"
	}
	return fmt.Sprintf("net.%s.conf.%s.%s", family, link, settings[s].name)
}

// Is6 reports a setting of IPv6.
func (s Setting) Is6() bool { return settings[s].is6 }

// Settings are those of one link, as far as the kernel has told them.
type Settings struct {
	Known  [numSettings]bool
	Values [numSettings]int
}

// Get returns a value; ok is false when the kernel has not told it: it runs without IPv6.
func (s Settings) Get(of Setting) (value int, ok bool) { return s.Values[of], s.Known[of] }

// With returns s with another value.
func (s Settings) With(of Setting, value int) Settings {
	s.Known[of], s.Values[of] = true, value
	return s
}

// iflaInet6Conf is IFLA_INET6_CONF: the link's net.ipv6.conf values in an array.
const iflaInet6Conf = 2

// parseSettings reads IFLA_AF_SPEC.
func parseSettings(spec []byte) (out Settings) {
	conf4, conf6 := attr(attr(spec, unix.AF_INET), iflaInetConf), attr(attr(spec, unix.AF_INET6), iflaInet6Conf)
	for s := range numSettings {
		at, conf := 4*(settings[s].number-1), conf4
		if settings[s].is6 {
			at, conf = 4*settings[s].number, conf6
		}
		if len(conf) >= at+4 {
			out = out.With(s, int(int32(binary.NativeEndian.Uint32(conf[at:]))))
		}
	}
	return out
}

// LinkSet sets one of a link's settings. IPv4's go through RTM_SETLINK
// (inet_set_link_af), which needs CAP_NET_ADMIN only. For IPv6's the kernel has no
// message: they are written to /proc/sys of the caller's namespace, which unprivileged
// containers have read-only.
func (h *Handle) LinkSet(l Link, s Setting, value int) error {
	what := fmt.Sprintf("set %s to %d", s.Sysctl(l.Name), value)
	if !s.Is6() {
		return h.setInetConf(what, l.Index, settings[s].number, value)
	}
	if err := os.WriteFile("/proc/sys/net/ipv6/conf/"+l.Name+"/"+settings[s].name, []byte(strconv.Itoa(value)), 0o644); err != nil {
		return fmt.Errorf("%s: %w", what, err)
	}
	return nil
}

func (h *Handle) setInetConf(what string, index, number, value int) error {
	return h.write(what, func(_ *netlink.Handle, rs *rtSocket) error {
		req := nl.NewNetlinkRequest(unix.RTM_SETLINK, unix.NLM_F_ACK)
		msg := nl.NewIfInfomsg(unix.AF_UNSPEC)
		msg.Index = int32(index)
		req.AddData(msg)
		conf := appendAttr(nil, iflaInetConf, appendAttr32(nil, uint16(number), uint32(value)))
		req.AddRawData(appendAttr(nil, unix.IFLA_AF_SPEC, appendAttr(nil, unix.AF_INET, conf)))
		return rs.ask(req, 0, nil)
	})
}
