// Package host checks, before a lab is made, that the machine can carry it, and
// installs the Debian packages that are missing.
package host

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// need is a file that a lab uses and the Debian package that has it.
type need struct{ file, pkg string }

var needs = []need{
	{"/usr/bin/containerd", "containerd"},
	{"/usr/sbin/runc", "runc"},
	{"/usr/lib/cni/bridge", "containernetworking-plugins"},
	{"/usr/lib/cni/portmap", "containernetworking-plugins"},
	{"/usr/sbin/ip", "iproute2"},
	{"/usr/sbin/iptables", "iptables"},
	{"/usr/sbin/nft", "nftables"},
	{"/usr/sbin/ipset", "ipset"},
	{"/usr/sbin/conntrack", "conntrack"},
	{"/usr/bin/tcpdump", "tcpdump"},
	{"/usr/bin/ping", "iputils-ping"},
	{"/usr/bin/curl", "curl"},
	{"/usr/bin/pgrep", "procps"},
	{"/usr/bin/busybox", "busybox-static"},
	{"/usr/bin/setpriv", "util-linux"},
	{"/usr/bin/mount", "mount"},
	{"/usr/sbin/bird", "bird2"},            // the router that tests peer with
	{"/usr/bin/gcc", "gcc"},                // for the race detector
	{"/usr/include/stdlib.h", "libc6-dev"}, // likewise
}

// Ready makes sure that a lab can run here: Linux, root, namespaces, and the
// programs. On Debian it installs what is missing; elsewhere, or when that fails,
// the error names the packages and the command.
func Ready(ctx context.Context, progress func(string)) error {
	if os.Geteuid() != 0 {
		return errors.New("a lab makes network namespaces and mounts, which only root may; run it as root (sudo)")
	}
	for _, ns := range []string{"net", "mnt", "pid", "uts", "ipc", "cgroup"} {
		if _, err := os.Stat("/proc/self/ns/" + ns); err != nil {
			return fmt.Errorf("the kernel has no %s namespaces: %w", ns, err)
		}
	}
	if err := allowWatches(progress); err != nil {
		return err
	}
	missing := Missing()
	if len(missing) == 0 {
		return nil
	}
	if !isDebian() {
		return fmt.Errorf("programs are missing; on Debian they are in the packages %s: apt-get install %[1]s", strings.Join(missing, " "))
	}
	progress("installing Debian packages: " + strings.Join(missing, " "))
	if err := install(ctx, missing); err != nil {
		return fmt.Errorf("install packages (by hand: apt-get update && apt-get install %s): %w", strings.Join(missing, " "), err)
	}
	if still := Missing(); len(still) > 0 {
		return fmt.Errorf("apt-get installed %s, but their programs are still missing", strings.Join(still, " "))
	}
	return nil
}

// inotifyLimit is how many inotify instances one user may have. Each kubelet,
// containerd and control plane takes some; Linux starts at 128, about three nodes' worth.
const inotifyLimit, enoughInotify = "/proc/sys/fs/inotify/max_user_instances", 1024

// allowWatches raises the limit until the machine starts again, and says so. Beyond it
// a kubelet of a second lab dies with "too many open files".
func allowWatches(progress func(string)) error {
	b, err := os.ReadFile(inotifyLimit)
	if err != nil {
		return fmt.Errorf("read how many file watchers there may be: %w", err)
	}
	now, err := strconv.Atoi(strings.TrimSpace(string(b)))
	if err != nil {
		return fmt.Errorf("read %s: %w", inotifyLimit, err)
	}
	if now >= enoughInotify {
		return nil
	}
	if err := os.WriteFile(inotifyLimit, []byte(strconv.Itoa(enoughInotify)), 0); err != nil {
		progress(fmt.Sprintf("fs.inotify.max_user_instances is %d and cannot be raised (%v): labs of many nodes may fail", now, err))
		return nil
	}
	progress(fmt.Sprintf("fs.inotify.max_user_instances raised from %d to %d", now, enoughInotify))
	return nil
}

// Missing names the Debian packages whose programs are not there.
func Missing() []string {
	var pkgs []string
	for _, n := range needs {
		if _, err := os.Stat(n.file); err == nil {
			continue
		}
		// Debian 12 and 13 differ in /bin and /usr/bin for some.
		if _, err := os.Stat(strings.TrimPrefix(n.file, "/usr")); err != nil && !slices.Contains(pkgs, n.pkg) {
			pkgs = append(pkgs, n.pkg)
		}
	}
	return pkgs
}

func install(ctx context.Context, pkgs []string) error {
	if lists, _ := filepath.Glob("/var/lib/apt/lists/*_Packages*"); len(lists) == 0 {
		if err := apt(ctx, "update"); err != nil {
			return err
		}
	}
	args := append([]string{"install", "-y", "-q", "--no-install-recommends"}, pkgs...)
	if apt(ctx, args...) == nil {
		return nil
	}
	// The lists may be older than the archive.
	if err := apt(ctx, "update"); err != nil {
		return err
	}
	return apt(ctx, args...)
}

func apt(ctx context.Context, args ...string) error {
	cmd := exec.CommandContext(ctx, "apt-get", append([]string{"-o", "DPkg::Lock::Timeout=120"}, args...)...)
	cmd.Env = append(os.Environ(), "DEBIAN_FRONTEND=noninteractive")
	out, err := cmd.CombinedOutput()
	if err != nil {
		return fmt.Errorf("apt-get %s: %w\n%s", args[0], err, tail(string(out), 10))
	}
	return nil
}

func isDebian() bool {
	f, err := os.Open("/etc/os-release")
	if err != nil {
		return false
	}
	defer f.Close()
	for sc := bufio.NewScanner(f); sc.Scan(); {
		key, value, _ := strings.Cut(sc.Text(), "=")
		value = strings.Trim(value, `"`)
		if (key == "ID" || key == "ID_LIKE") && slices.Contains(strings.Fields(value), "debian") {
			_, err := exec.LookPath("apt-get")
			return err == nil
		}
	}
	return false
}

func tail(s string, n int) string {
	lines := strings.Split(strings.TrimRight(s, "\n"), "\n")
	return strings.Join(lines[max(0, len(lines)-n):], "\n")
}

// Overlay reports whether overlayfs can have its writable layer in dir, by trying.
// It needs a mount namespace of the caller's own or the right to mount; the trial leaves nothing.
func Overlay(dir string) bool {
	base, err := os.MkdirTemp(dir, "overlay-probe-")
	if err != nil {
		return false
	}
	defer os.RemoveAll(base)
	for _, d := range []string{"lower", "upper", "work", "merged"} {
		if err := os.Mkdir(filepath.Join(base, d), 0o755); err != nil {
			return false
		}
	}
	merged := filepath.Join(base, "merged")
	opts := fmt.Sprintf("lowerdir=%[1]s/lower,upperdir=%[1]s/upper,workdir=%[1]s/work", base)
	if err := unix.Mount("overlay", merged, "overlay", 0, opts); err != nil {
		return false
	}
	defer func() { _ = unix.Unmount(merged, unix.MNT_DETACH) }()
	return os.WriteFile(filepath.Join(merged, "file"), nil, 0o644) == nil
}
