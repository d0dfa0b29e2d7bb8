package machine

import (
	"bufio"
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

// Hierarchy is a mounted cgroup hierarchy.
type Hierarchy struct {
	MountPoint string
	V2         bool
	Options    string // v1: the mount option that selects it, such as "memory" or "name=systemd"
}

// Hierarchies lists the cgroup hierarchies of the calling process's mount namespace.
func Hierarchies() ([]Hierarchy, error) {
	f, err := os.Open("/proc/thread-self/mountinfo")
	if err != nil {
		return nil, fmt.Errorf("list cgroup hierarchies: %w", err)
	}
	defer f.Close()
	var hs []Hierarchy
	for sc := bufio.NewScanner(f); sc.Scan(); {
		if h, ok := parseHierarchy(sc.Text()); ok && !slices.Contains(hs, h) {
			hs = append(hs, h)
		}
	}
	if len(hs) == 0 {
		return nil, errors.New("no cgroup hierarchy is mounted; mount cgroup2 at /sys/fs/cgroup")
	}
	return hs, nil
}

// parseHierarchy reads one line of mountinfo (proc(5)): … mountpoint options … - fstype source superoptions.
func parseHierarchy(line string) (Hierarchy, bool) {
	before, after, ok := strings.Cut(line, " - ")
	if !ok {
		return Hierarchy{}, false
	}
	f, super := strings.Fields(before), strings.Fields(after)
	if len(f) < 5 || len(super) < 3 {
		return Hierarchy{}, false
	}
	h := Hierarchy{MountPoint: f[4], V2: super[0] == "cgroup2"}
	if super[0] != "cgroup" && !h.V2 {
		return Hierarchy{}, false
	}
	if h.V2 {
		return h, true
	}
	var opts []string
	for o := range strings.SplitSeq(super[2], ",") {
		switch o {
		case "rw", "ro", "xattr", "clone_children", "cpuset_v2_mode", "noprefix", "none":
		default:
			if !strings.HasPrefix(o, "release_agent=") {
				opts = append(opts, o)
			}
		}
	}
	h.Options = strings.Join(opts, ",")
	return h, h.Options != ""
}

// unified reports whether version 2 has the controllers, so that there is nothing else to mount.
func unified(hs []Hierarchy) bool {
	return !slices.ContainsFunc(hs, func(h Hierarchy) bool { return !h.V2 })
}

// enterCgroup makes the cgroup name in every hierarchy, moves the calling process
// there and unshares the cgroup namespace of the calling thread, so that the
// machine sees its own cgroup as the root.
func enterCgroup(name string, share int) ([]Hierarchy, error) {
	hs, err := Hierarchies()
	if err != nil {
		return nil, err
	}
	pure := unified(hs)
	for _, h := range hs {
		dir, err := makeCgroup(h, name, pure)
		if err != nil {
			return nil, err
		}
		if err := weigh(dir, share); err != nil {
			return nil, err
		}
		if err := os.WriteFile(filepath.Join(dir, "cgroup.procs"), []byte("0"), 0); err != nil {
			return nil, fmt.Errorf("enter cgroup %s: %w", dir, err)
		}
	}
	if err := unix.Unshare(unix.CLONE_NEWCGROUP); err != nil {
		return nil, fmt.Errorf("new cgroup namespace: %w", err)
	}
	return hs, nil
}

func makeCgroup(h Hierarchy, name string, pure bool) (string, error) {
	dir := h.MountPoint
	for part := range strings.SplitSeq(name, "/") {
		parent := dir
		if h.V2 && pure {
			if err := delegate(parent); err != nil {
				return "", err
			}
		}
		dir = filepath.Join(parent, part)
		if err := os.Mkdir(dir, 0o755); err != nil && !errors.Is(err, fs.ErrExist) {
			return "", fmt.Errorf("make cgroup: %w", err)
		}
		if parent == h.MountPoint {
			if err := weigh(dir, labShare); err != nil {
				return "", err
			}
		}
		// A new cpuset is empty, and nothing can enter it, until it is given what its parent has.
		for _, f := range []string{"cpuset.cpus", "cpuset.mems"} {
			if b, err := os.ReadFile(filepath.Join(parent, f)); err == nil && !h.V2 {
				if err := os.WriteFile(filepath.Join(dir, f), b, 0); err != nil {
					return "", fmt.Errorf("set up cpuset %s: %w", dir, err)
				}
			}
		}
	}
	return dir, nil
}

// labShare is the share of a lab. With that of one process all its machines together have
// less than the kernel's thread that handles their packets, beside which they stand still.
// With much more, who tests them does.
const labShare = 3

// weigh gives a cgroup the share of so many processes of a CPU that everybody wants; one
// of a hierarchy without the controller has none to get.
func weigh(dir string, processes int) error {
	file, one, ok := shares(dir)
	if !ok {
		return nil
	}
	if err := os.WriteFile(filepath.Join(dir, file), []byte(strconv.Itoa(processes*one)), 0); err != nil {
		return fmt.Errorf("set the CPU share of %s: %w", dir, err)
	}
	return nil
}

// shares is the file of dir that has its share of the CPU, and what one process has there.
func shares(dir string) (file string, one int, ok bool) {
	for file, one := range map[string]int{"cpu.weight": 100, "cpu.shares": 1024} { // cgroups v2 and v1
		if _, err := os.Stat(filepath.Join(dir, file)); err == nil {
			return file, one, true
		}
	}
	return "", 0, false
}

// delegate hands every controller that the v2 cgroup dir has to its children.
func delegate(dir string) error {
	b, err := os.ReadFile(filepath.Join(dir, "cgroup.controllers"))
	if err != nil {
		return fmt.Errorf("read controllers: %w", err)
	}
	for c := range strings.FieldsSeq(string(b)) {
		err := os.WriteFile(filepath.Join(dir, "cgroup.subtree_control"), []byte("+"+c), 0)
		if err != nil && slices.Contains([]string{"cpu", "memory", "pids", "io", "cpuset"}, c) {
			return fmt.Errorf("hand controller %s to the children of %s (it must have no processes of its own): %w", c, dir, err)
		}
	}
	return nil
}

// mountCgroups mounts the machine's view of hs below root, and makes groups there, by
// path, with the shares of so many processes.
func mountCgroups(root string, hs []Hierarchy, groups map[string]int) error {
	base := filepath.Join(root, "sys/fs/cgroup")
	views := []string{base}
	if unified(hs) {
		if err := mountUnified(base); err != nil {
			return err
		}
	} else {
		var err error
		if views, err = mountEach(base, hs); err != nil {
			return err
		}
	}
	for _, view := range views {
		if _, _, ok := shares(view); !ok {
			continue
		}
		for group, share := range groups {
			dir := filepath.Join(view, group)
			if err := os.MkdirAll(dir, 0o755); err != nil {
				return fmt.Errorf("make cgroup: %w", err)
			}
			if err := weigh(dir, share); err != nil {
				return err
			}
		}
	}
	return nil
}

func mountUnified(base string) error {
	if err := unix.Mount("cgroup2", base, "cgroup2", 0, ""); err != nil {
		return fmt.Errorf("mount cgroup2: %w", err)
	}
	// Version 2 allows processes in leaves only.
	leaf := filepath.Join(base, "init")
	if err := os.Mkdir(leaf, 0o755); err != nil && !errors.Is(err, fs.ErrExist) {
		return fmt.Errorf("make cgroup: %w", err)
	}
	if err := os.WriteFile(filepath.Join(leaf, "cgroup.procs"), []byte("0"), 0); err != nil {
		return fmt.Errorf("enter cgroup %s: %w", leaf, err)
	}
	return delegate(base)
}

// mountEach mounts every hierarchy in a directory of base, and lists them.
func mountEach(base string, hs []Hierarchy) (dirs []string, err error) {
	if err := unix.Mount("tmpfs", base, "tmpfs", 0, "mode=755,size=1m"); err != nil {
		return nil, fmt.Errorf("mount %s: %w", base, err)
	}
	for _, h := range hs {
		dir := filepath.Join(base, filepath.Base(h.MountPoint))
		if err := os.MkdirAll(dir, 0o755); err != nil {
			return nil, fmt.Errorf("mount cgroup: %w", err)
		}
		fstype := "cgroup"
		if h.V2 {
			fstype = "cgroup2"
		}
		if err := unix.Mount(fstype, dir, fstype, 0, h.Options); err != nil {
			return nil, fmt.Errorf("mount cgroup %s at %s: %w", h.Options, dir, err)
		}
		dirs = append(dirs, dir)
	}
	return dirs, nil
}
