package hostinit

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// routes6 is the kernel's IPv6 routing table as text: of the calling thread's network
// namespace, where /proc/net is that of the process.
const routes6 = "/proc/thread-self/net/ipv6_route"

const forwarding6 = "net/ipv6/conf/all/forwarding"

// Forwards6 tells whether the kernel forwards IPv6. It needs no privilege. procSys is
// "/proc/sys".
func Forwards6(procSys string) (bool, error) {
	v, err := read6(filepath.Join(procSys, forwarding6))
	return v == "1", err
}

// forward6 turns on IPv6 forwarding, and before that keeps the interfaces that live on
// router advertisements listening to them. It returns what it changed.
func forward6(procSys, routes string) (changed []string, err error) {
	all := filepath.Join(procSys, forwarding6)
	now, err := read6(all)
	if err != nil {
		return nil, err
	}
	table, err := os.ReadFile(routes)
	if err != nil {
		return nil, fmt.Errorf("find interfaces with routes from router advertisements: %w", err)
	}
	for _, iface := range advertised(string(table)) {
		path := filepath.Join(procSys, "net/ipv6/conf", iface, "accept_ra")
		v, err := os.ReadFile(path)
		if errors.Is(err, fs.ErrNotExist) {
			continue // the interface has gone
		}
		if err == nil && strings.TrimSpace(string(v)) != "1" {
			continue // 2 is what it is to be; 0 is someone else's decision, e.g. NetworkManager's
		}
		if err == nil {
			err = os.WriteFile(path, []byte("2\n"), 0o644)
		}
		if err != nil {
			return changed, fmt.Errorf("keep %s listening to router advertisements, "+
				"without which it would lose its routes when IPv6 forwarding is on: %w; "+
				"this container must be privileged, or set net.ipv6.conf.%s.accept_ra=2 on the node", iface, err, iface)
		}
		changed = append(changed, fmt.Sprintf("net.ipv6.conf.%s.accept_ra: 1 → 2, its routes come from router advertisements", iface))
	}
	if now == "1" {
		return changed, nil
	}
	if err := os.WriteFile(all, []byte("1\n"), 0o644); err != nil {
		return changed, fmt.Errorf("turn on IPv6 forwarding: %w; "+
			"this container must be privileged, or set net.ipv6.conf.all.forwarding=1 on the node", err)
	}
	return append(changed, fmt.Sprintf("net.ipv6.conf.all.forwarding: %s → 1", now)), nil
}

// read6 reads a setting of IPv6 without the end of its line.
func read6(path string) (string, error) {
	b, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return "", fmt.Errorf("read %s: the kernel runs without IPv6, which IP6 asks for; "+
			"start it without ipv6.disable=1, or set IP6 to none: %w", path, err)
	}
	if err != nil {
		return "", fmt.Errorf("read %s: %w", path, err)
	}
	return strings.TrimSpace(string(b)), nil
}

// advertised names the interfaces that have a route from a router advertisement: flag
// RTF_ADDRCONF (linux/ipv6_route.h), which no other kind of route carries. Such a
// default route goes at once when forwarding is turned on (net/ipv6/route.c,
// rt6_purge_dflt_routers), a network with the addresses in it when its time is up.
//
// A line of the table (net/ipv6/ip6_fib.c, ipv6_route_native_seq_show) has ten words:
// destination and source, each with its length, next hop, metric, two counters, flags,
// interface.
func advertised(table string) (ifaces []string) {
	for line := range strings.Lines(table) {
		f := strings.Fields(line)
		if len(f) != 10 {
			continue
		}
		flags, err := strconv.ParseUint(f[8], 16, 32)
		if err == nil && flags&unix.RTF_ADDRCONF != 0 && !slices.Contains(ifaces, f[9]) {
			ifaces = append(ifaces, f[9])
		}
	}
	return ifaces
}
