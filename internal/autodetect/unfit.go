package autodetect

import (
	"net/netip"
	"os"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// addresses6 is the kernel's list of IPv6 addresses with their flags, which the
// standard library does not tell: of the calling thread's network namespace, where
// /proc/net is that of the process.
const addresses6 = "/proc/thread-self/net/if_inet6"

// on is an address of the interface with that index. Link-local ones may be on
// several.
type on struct {
	index int
	addr  netip.Addr
}

// readUnfit reads which IPv6 addresses are not to be detected, and why. On a
// kernel without IPv6 there are none.
func readUnfit() map[on]string {
	b, err := os.ReadFile(addresses6)
	if err != nil {
		return nil
	}
	return parseUnfit(string(b))
}

// parseUnfit reads lines of if_inet6 (net/ipv6/addrconf.c, if6_seq_show): address,
// interface index, prefix length, scope and flags in hexadecimal, interface name.
// A line of another form is passed over.
func parseUnfit(text string) map[on]string {
	out := map[on]string{}
	for line := range strings.Lines(text) {
		f := strings.Fields(line)
		if len(f) < 5 {
			continue
		}
		addr, ok := parseHex(f[0])
		index, err := strconv.ParseUint(f[1], 16, 31)
		flags, err2 := strconv.ParseUint(f[4], 16, 32)
		if !ok || err != nil || err2 != nil {
			continue
		}
		if why := unfit(flags); why != "" {
			out[on{int(index), addr}] = why
		}
	}
	return out
}

// unfit says why an address with the flags IFA_F_… (linux/if_addr.h) will not do.
func unfit(flags uint64) string {
	switch {
	case flags&unix.IFA_F_DADFAILED != 0:
		return "another host has it too: duplicate address detection failed"
	case flags&unix.IFA_F_TENTATIVE != 0 && flags&unix.IFA_F_OPTIMISTIC == 0:
		return "tentative: duplicate address detection goes on"
	case flags&unix.IFA_F_DEPRECATED != 0:
		return "deprecated: it is about to go"
	case flags&unix.IFA_F_TEMPORARY != 0:
		return "temporary, for privacy"
	}
	return ""
}

// parseHex reads an address as 32 hexadecimal digits.
func parseHex(s string) (netip.Addr, bool) {
	var b [16]byte
	if len(s) != 2*len(b) {
		return netip.Addr{}, false
	}
	for i := range b {
		v, err := strconv.ParseUint(s[2*i:2*i+2], 16, 8)
		if err != nil {
			return netip.Addr{}, false
		}
		b[i] = byte(v)
	}
	return netip.AddrFrom16(b), true
}
