package contain

import (
	"fmt"
	"slices"
	"strings"

	"golang.org/x/sys/unix"
)

// capabilityNames are all capabilities by their numbers (capabilities(7), linux/capability.h).
var capabilityNames = []string{
	"CHOWN", "DAC_OVERRIDE", "DAC_READ_SEARCH", "FOWNER", "FSETID", "KILL", "SETGID", "SETUID",
	"SETPCAP", "LINUX_IMMUTABLE", "NET_BIND_SERVICE", "NET_BROADCAST", "NET_ADMIN", "NET_RAW", "IPC_LOCK", "IPC_OWNER",
	"SYS_MODULE", "SYS_RAWIO", "SYS_CHROOT", "SYS_PTRACE", "SYS_PACCT", "SYS_ADMIN", "SYS_BOOT", "SYS_NICE",
	"SYS_RESOURCE", "SYS_TIME", "SYS_TTY_CONFIG", "MKNOD", "LEASE", "AUDIT_WRITE", "AUDIT_CONTROL", "SETFCAP",
	"MAC_OVERRIDE", "MAC_ADMIN", "SYSLOG", "WAKE_ALARM", "BLOCK_SUSPEND", "AUDIT_READ", "PERFMON", "BPF",
	"CHECKPOINT_RESTORE",
}

// DefaultCapabilities is what containerd gives a container that does not say.
func DefaultCapabilities() []string {
	return []string{
		"CHOWN", "DAC_OVERRIDE", "FSETID", "FOWNER", "MKNOD", "NET_RAW", "SETGID", "SETUID",
		"SETFCAP", "SETPCAP", "NET_BIND_SERVICE", "SYS_CHROOT", "KILL", "AUDIT_WRITE",
	}
}

func capabilityMask(names []string) (mask uint64, err error) {
	for _, n := range names {
		i := slices.Index(capabilityNames, strings.TrimPrefix(n, "CAP_"))
		if i < 0 {
			return 0, fmt.Errorf("capability %q: there is none of that name", n)
		}
		mask |= 1 << i
	}
	return mask, nil
}

// dropPrivileges leaves the thread what its program may have after execve.
func dropPrivileges(s *Spec) error {
	if s.NoNewPrivs {
		if err := unix.Prctl(unix.PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0); err != nil {
			return fmt.Errorf("set no_new_privs: %w", err)
		}
	}
	mask, err := capabilityMask(s.Capabilities)
	if err != nil {
		return err
	}
	for i := range capabilityNames {
		if s.Privileged || mask&(1<<i) != 0 {
			continue
		}
		// EINVAL: a kernel that does not have this one.
		if err := unix.Prctl(unix.PR_CAPBSET_DROP, uintptr(i), 0, 0, 0); err != nil && err != unix.EINVAL {
			return fmt.Errorf("drop capability %s: %w", capabilityNames[i], err)
		}
	}
	// Before the capabilities that it takes are given up. A user other than root has none afterwards.
	if s.GID != 0 || s.UID != 0 {
		if err := unix.Setgroups(nil); err != nil {
			return fmt.Errorf("leave all groups: %w", err)
		}
		if err := unix.Setresgid(s.GID, s.GID, s.GID); err != nil {
			return fmt.Errorf("become group %d: %w", s.GID, err)
		}
		if err := unix.Setresuid(s.UID, s.UID, s.UID); err != nil {
			return fmt.Errorf("become user %d: %w", s.UID, err)
		}
		return nil
	}
	if s.Privileged {
		return nil
	}
	header := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	half := func(m uint64) unix.CapUserData {
		return unix.CapUserData{Effective: uint32(m), Permitted: uint32(m), Inheritable: 0}
	}
	data := [2]unix.CapUserData{half(mask), half(mask >> 32)}
	if err := unix.Capset(&header, &data[0]); err != nil {
		return fmt.Errorf("set the capabilities %v: %w", s.Capabilities, err)
	}
	return nil
}
