// Package hostinit makes the settings of a node that only a privileged process can
// make, so that the agent need not be one. It runs as a short init container before
// each start of the agent's pod and does nothing that is done already:
//
//   - net.ipv4.ip_forward=1, without which no packet passes between a pod's veth
//     and the uplink. /proc/sys is read-only to unprivileged containers and the
//     kernel offers no netlink message for it.
//   - for a node with IPv6, net.ipv6.conf.all.forwarding=1 for the same reason. A
//     router does not listen to router advertisements, and the kernel drops what it
//     has learned from them: interfaces that live on them are set to accept_ra=2
//     first, "even if forwarding is enabled" (ip-sysctl.rst, accept_ra).
//   - /etc/iproute2/rt_protos.d/manx.conf, by which `ip route` prints Manx's route
//     protocol as "manx" instead of 70. Nothing depends on it but the reader.
//
// Uninstall removes the file; the forwarding stays, since others rely on it too.
package hostinit

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"github.com/google/renameio/v2"
)

// Config says where the host's files are.
type Config struct {
	ProcSys  string // "/proc/sys"; the pod must be in the host's network namespace
	IPRoute2 string // the host's /etc/iproute2; "" leaves the name out
	Protocol int    // Manx's route protocol, include/uapi/linux/rtnetlink.h rtm_protocol
	IPv6     bool   // the variable IP6 asks for IPv6
}

// Run applies the settings and returns what it changed, one line each.
func Run(cfg Config) (changed []string, err error) {
	forwarding := filepath.Join(cfg.ProcSys, "net/ipv4/ip_forward")
	now, err := os.ReadFile(forwarding)
	if err != nil {
		return nil, fmt.Errorf("read %s: %w", forwarding, err)
	}
	if v := strings.TrimSpace(string(now)); v != "1" {
		if err := os.WriteFile(forwarding, []byte("1\n"), 0o644); err != nil {
			return nil, fmt.Errorf("turn on IPv4 forwarding: %w; this container must be privileged, or set net.ipv4.ip_forward=1 on the node", err)
		}
		changed = append(changed, fmt.Sprintf("net.ipv4.ip_forward: %s → 1", v))
	}
	if cfg.IPv6 {
		more, err := forward6(cfg.ProcSys, routes6)
		changed = append(changed, more...)
		if err != nil {
			return changed, err
		}
	}
	if cfg.IPRoute2 == "" {
		return changed, nil
	}
	path := namePath(cfg.IPRoute2)
	want := fmt.Appendf(nil, "%d\tmanx\n", cfg.Protocol)
	if have, err := os.ReadFile(path); err == nil && bytes.Equal(have, want) {
		return changed, nil
	}
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return changed, fmt.Errorf("name the route protocol: %w", err)
	}
	if err := renameio.WriteFile(path, want, 0o644); err != nil {
		return changed, fmt.Errorf("name the route protocol: %w", err)
	}
	return append(changed, fmt.Sprintf("%s: route protocol %d is called manx", path, cfg.Protocol)), nil
}

// Undo removes what Run wrote to disk.
func Undo(cfg Config) error {
	if cfg.IPRoute2 == "" {
		return nil
	}
	if err := os.Remove(namePath(cfg.IPRoute2)); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("remove the route protocol's name: %w", err)
	}
	return nil
}

func namePath(iproute2 string) string { return filepath.Join(iproute2, "rt_protos.d", "manx.conf") }
