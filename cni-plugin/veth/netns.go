package veth

import (
	"errors"
	"fmt"
	"io/fs"
	"net/netip"
	"os"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/manx-cni/manx/internal/netns"
)

// namespace is an open network namespace.
type namespace struct {
	fd   int
	path string
}

// ErrNamespaceGone says that the pod's network namespace does not exist any
// more: for a removal that is a success.
var ErrNamespaceGone = errors.New("network namespace is gone")

// openNamespace opens a namespace file and makes sure that it is one, and not the
// plugin's own: configuring that would cut the node off.
func openNamespace(path string) (*namespace, error) {
	fd, err := unix.Open(path, unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		err = &fs.PathError{Op: "open", Path: path, Err: err}
		if errors.Is(err, fs.ErrNotExist) {
			return nil, fmt.Errorf("%w: %w", ErrNamespaceGone, err)
		}
		return nil, err
	}
	n := &namespace{fd: fd, path: path}
	var theirs, ours unix.Stat_t
	var fsinfo unix.Statfs_t
	err = errors.Join(unix.Fstat(fd, &theirs), unix.Fstatfs(fd, &fsinfo), unix.Stat("/proc/thread-self/ns/net", &ours))
	switch {
	case err != nil:
		err = fmt.Errorf("inspect %s: %w", path, err)
	case fsinfo.Type != unix.NSFS_MAGIC:
		// A bind mount that was taken away leaves an empty file.
		err = fmt.Errorf("%w: %s is an ordinary file", ErrNamespaceGone, path)
	case theirs.Dev == ours.Dev && theirs.Ino == ours.Ino:
		err = fmt.Errorf("%s is the node's own network namespace, want a pod's", path)
	}
	if err != nil {
		n.close()
		return nil, err
	}
	return n, nil
}

func (n *namespace) close() {
	_ = unix.Close(n.fd)
}

// enter runs do in the namespace.
func (n *namespace) enter(do func() error) error {
	if err := netns.Enter(n.fd, do); err != nil {
		return fmt.Errorf("%s: %w", n.path, err)
	}
	return nil
}

// sysctl is one file below /proc/sys/net and the value it must have.
type sysctl struct {
	path, value string
	also        string // a value that is as good
	optional    bool   // the kernel may lack it: IPv6 compiled out or disabled
}

// families are the address families that a pod has.
type families struct{ ipv4, ipv6 bool }

func familiesOf(addrs []netip.Addr) (f families) {
	for _, a := range addrs {
		f.ipv4 = f.ipv4 || a.Is4()
		f.ipv6 = f.ipv6 || a.Is6()
	}
	return f
}

// hostSysctls are those of the host side. Router advertisements are refused
// because a pod could otherwise become the node's default router (CVE-2020-13597).
// A pod without IPv4 is not answered for the IPv4 gateway. rp_filter has the kernel
// learn no neighbour from an ARP request whose sender is not the pod. route_localnet
// stays as the node has it: with it, a pod's packet to 127.0.0.1 would reach the node's own services
// wherever no packet filter stands in the way. The portmap plugin, which needs it for
// hostPorts on localhost, sets it itself.
func hostSysctls(iface string, has families) []sysctl {
	v4, v6 := "ipv4/conf/"+iface+"/", "ipv6/conf/"+iface+"/"
	// Also of a pod without IPv4, which can send ARP requests as well. On a device without
	// an address 2 says the same as 1; systemd's udev rules set it on new devices.
	out := []sysctl{{path: v4 + "rp_filter", value: "1", also: "2"}}
	if has.ipv4 {
		out = append(out,
			sysctl{path: "ipv4/neigh/" + iface + "/proxy_delay", value: "0"},
			sysctl{path: v4 + "proxy_arp", value: "1"},
			sysctl{path: v4 + "forwarding", value: "1"},
		)
	}
	out = append(out, sysctl{path: v6 + "accept_ra", value: "0", optional: true})
	if !has.ipv6 {
		return append(out, sysctl{path: v6 + "disable_ipv6", value: "1", optional: true})
	}
	return append(out,
		sysctl{path: v6 + "accept_dad", value: "0"},
		sysctl{path: v6 + "disable_ipv6", value: "0"},
		sysctl{path: v6 + "proxy_ndp", value: "1"},
		sysctl{path: v6 + "forwarding", value: "1"},
	)
}

// podSysctls are those of the pod. A new namespace copies the node's ip_forward; a
// pod is no router unless its network says so. Of IPv6 it has the kernel's own
// defaults, or the node's with net.core.devconf_inherit_init_net, so both ways are
// written. Runtimes turn IPv6 off in the namespaces of pods whose network they take
// to be IPv4 alone: lo has ::1 again when the pod has IPv6.
func podSysctls(iface string, has families, forwarding bool) []sysctl {
	v6 := "ipv6/conf/" + iface + "/"
	var out []sysctl
	if !forwarding {
		out = append(out, sysctl{path: "ipv4/ip_forward", value: "0"})
	}
	out = append(out, sysctl{path: v6 + "accept_ra", value: "0", optional: true})
	if !has.ipv6 {
		return append(out, sysctl{path: v6 + "disable_ipv6", value: "1", optional: true})
	}
	router := sysctl{path: "ipv6/conf/all/forwarding", value: "0"}
	if forwarding {
		router.value = "1"
	}
	return append(out,
		router,
		sysctl{path: "ipv6/conf/lo/disable_ipv6", value: "0"},
		sysctl{path: v6 + "accept_dad", value: "0"},
		sysctl{path: v6 + "disable_ipv6", value: "0"},
	)
}

const sysctlRoot = "/proc/sys/net/"

func writeSysctls(list []sysctl) error {
	for _, s := range list {
		if err := s.write(); err != nil {
			err = fmt.Errorf("set sysctl %s=%s: %w", sysctlRoot+s.path, s.value, err)
			if errors.Is(err, unix.ENOENT) && strings.HasPrefix(s.path, "ipv6/") {
				err = fmt.Errorf("%w; the pod has an IPv6 address and the interface has no IPv6: is the node's kernel started with ipv6.disable=1?",
					err)
			}
			return err
		}
	}
	return nil
}

// write avoids os.File: a poller registration for four bytes costs more than the
// write itself.
func (s sysctl) write() error {
	fd, err := unix.Open(sysctlRoot+s.path, unix.O_WRONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		if s.optional && err == unix.ENOENT {
			return nil
		}
		return err
	}
	defer unix.Close(fd)
	for {
		if _, err = unix.Write(fd, []byte(s.value)); err != unix.EINTR {
			return err
		}
	}
}

// differs reads the sysctl and says what is wrong, or "".
func (s sysctl) differs() string {
	raw, err := os.ReadFile(sysctlRoot + s.path)
	if s.optional && errors.Is(err, fs.ErrNotExist) {
		return ""
	}
	if err != nil {
		return "sysctl " + s.path + ": " + err.Error()
	}
	if got := string(trimNewline(raw)); got != s.value && (s.also == "" || got != s.also) {
		return fmt.Sprintf("sysctl %s is %s, want %s", s.path, got, s.value)
	}
	return ""
}

func trimNewline(b []byte) []byte {
	for len(b) > 0 && b[len(b)-1] == '\n' {
		b = b[:len(b)-1]
	}
	return b
}
