package machine

import (
	"bufio"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"golang.org/x/sys/unix"
)

// tunables are settings of the whole kernel that a kubelet insists on. A machine
// shows it these values and leaves the host's kernel alone.
var tunables = map[string]string{
	"vm/overcommit_memory":      "1",
	"vm/panic_on_oom":           "0",
	"kernel/panic":              "10",
	"kernel/panic_on_oops":      "1",
	"kernel/keys/root_maxkeys":  "1000000",
	"kernel/keys/root_maxbytes": "25000000",
}

// buildRoot makes the machine's root file system and moves into it: a tmpfs with the
// disk's directories, the host's programs with a throw-away layer above them, fresh
// proc, sysfs and cgroups, and the host's own files read-only under /host.
func buildRoot(dir string, spec Spec, hiers []Hierarchy) error {
	hostTree, err := cloneHost()
	if err != nil {
		return err
	}
	defer unix.Close(hostTree)
	root := rootDir(dir)
	if err := mount("tmpfs", root, "tmpfs", 0, "mode=755"); err != nil {
		return err
	}
	steps := []func() error{
		func() error { return mountDisk(root, diskDir(dir)) },
		func() error { return mountPrograms(root, spec.Layers) },
		func() error { return mountKernel(root) },
		func() error { return mountCgroups(root, hiers, spec.Groups) },
		func() error { return mountBinds(root, spec.Binds) },
		func() error { return mountHost(root, hostTree) },
		func() error { return pivot(root) },
	}
	for _, step := range steps {
		if err := step(); err != nil {
			return err
		}
	}
	return nil
}

// cloneHost takes a detached copy of the host's mounts before the machine's own are made, so that they are not in it.
func cloneHost() (int, error) {
	fd, err := unix.OpenTree(unix.AT_FDCWD, "/", unix.OPEN_TREE_CLONE|unix.OPEN_TREE_CLOEXEC|unix.AT_RECURSIVE)
	if err != nil {
		return -1, fmt.Errorf("copy the host's mounts: %w", err)
	}
	return fd, nil
}

func mountDisk(root, disk string) error {
	entries, err := os.ReadDir(disk)
	if err != nil {
		return fmt.Errorf("read disk: %w", err)
	}
	for _, e := range entries {
		if err := mount(filepath.Join(disk, e.Name()), filepath.Join(root, e.Name()), "", unix.MS_BIND, ""); err != nil {
			return err
		}
	}
	return nil
}

// mountPrograms shows the host's programs, with those of the given directories above them.
func mountPrograms(root string, above []string) error {
	layers := filepath.Join(root, ".layers")
	for _, name := range []string{"usr", "bin", "sbin", "lib", "lib32", "lib64", "libx32"} {
		host, target := "/"+name, filepath.Join(root, name)
		if link, err := os.Readlink(host); err == nil {
			if err := os.Symlink(link, target); err != nil {
				return fmt.Errorf("link %s: %w", target, err)
			}
			continue
		}
		if _, err := os.Stat(host); errors.Is(err, fs.ErrNotExist) {
			continue
		}
		upper, work := filepath.Join(layers, name, "upper"), filepath.Join(layers, name, "work")
		for _, d := range []string{upper, work} {
			if err := os.MkdirAll(d, 0o755); err != nil {
				return fmt.Errorf("make layer: %w", err)
			}
		}
		lower := host
		for _, layer := range slices.Backward(above) {
			if dir := filepath.Join(layer, name); isDir(dir) {
				lower = dir + ":" + lower
			}
		}
		opts := "lowerdir=" + lower + ",upperdir=" + upper + ",workdir=" + work
		if err := mount("overlay", target, "overlay", 0, opts); err != nil {
			return err
		}
	}
	return nil
}

func isDir(path string) bool {
	info, err := os.Lstat(path)
	return err == nil && info.IsDir()
}

func mountKernel(root string) error {
	at := func(p string) string { return filepath.Join(root, p) }
	mounts := []struct {
		source, target, fstype string
		flags                  uintptr
		data                   string
	}{
		{"proc", at("proc"), "proc", unix.MS_NOSUID | unix.MS_NODEV | unix.MS_NOEXEC, ""},
		{"sysfs", at("sys"), "sysfs", unix.MS_NOSUID | unix.MS_NODEV | unix.MS_NOEXEC, ""},
		{"/dev", at("dev"), "", unix.MS_BIND, ""},
		{"devpts", at("dev/pts"), "devpts", unix.MS_NOSUID | unix.MS_NOEXEC, "newinstance,ptmxmode=0666,mode=620,gid=5"},
		{"tmpfs", at("dev/shm"), "tmpfs", unix.MS_NOSUID | unix.MS_NODEV, ""},
		{"tmpfs", at("run"), "tmpfs", unix.MS_NOSUID | unix.MS_NODEV, "mode=755"},
		{"tmpfs", at("tmp"), "tmpfs", unix.MS_NOSUID | unix.MS_NODEV, "mode=1777"},
	}
	for _, m := range mounts {
		if err := mount(m.source, m.target, m.fstype, m.flags, m.data); err != nil {
			return err
		}
	}
	if err := os.MkdirAll(at("run/lock"), 0o1777); err != nil {
		return err
	}
	for name, value := range tunables {
		shown := filepath.Join(root, ".tunables", strings.ReplaceAll(name, "/", "."))
		if err := os.MkdirAll(filepath.Dir(shown), 0o755); err != nil {
			return err
		}
		if err := os.WriteFile(shown, []byte(value+"\n"), 0o644); err != nil {
			return err
		}
		if err := unix.Mount(shown, at("proc/sys/"+name), "", unix.MS_BIND, ""); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return fmt.Errorf("show sysctl %s: %w", name, err)
		}
	}
	return nil
}

func mountBinds(root string, binds []Bind) error {
	for _, b := range binds {
		target := filepath.Join(root, b.Target)
		if err := mount(b.Source, target, "", unix.MS_BIND, ""); err != nil {
			return err
		}
		if err := unix.Mount("", target, "", unix.MS_BIND|unix.MS_REMOUNT|unix.MS_RDONLY, ""); err != nil {
			return fmt.Errorf("make %s read-only: %w", b.Target, err)
		}
	}
	return nil
}

// mountHost shows the host's files under /host, read-only. Its kernel file systems
// and /run are left out: a copy of a mount in /run/netns would keep alive the
// network namespace of a lab that is taken down while this one is up.
func mountHost(root string, tree int) error {
	target := filepath.Join(root, HostDir)
	if err := os.MkdirAll(target, 0o755); err != nil {
		return err
	}
	if err := unix.MoveMount(tree, "", unix.AT_FDCWD, target, unix.MOVE_MOUNT_F_EMPTY_PATH); err != nil {
		return fmt.Errorf("show the host's files: %w", err)
	}
	points, err := MountPoints()
	if err != nil {
		return err
	}
	slices.Reverse(points)
	for _, p := range points {
		rel, ok := strings.CutPrefix(p, target+"/")
		if !ok {
			continue
		}
		switch first, _, _ := strings.Cut(rel, "/"); first {
		case "proc", "sys", "dev", "run":
			// EINVAL, ENOENT: what the host has removed meanwhile, such as a namespace's name, is gone here too.
			if err := unix.Unmount(p, unix.MNT_DETACH); err != nil && !errors.Is(err, unix.EINVAL) && !errors.Is(err, unix.ENOENT) {
				return fmt.Errorf("hide %s: %w", p, err)
			}
		}
	}
	attr := &unix.MountAttr{Attr_set: unix.MOUNT_ATTR_RDONLY}
	if err := unix.MountSetattr(unix.AT_FDCWD, target, unix.AT_RECURSIVE, attr); err != nil {
		return fmt.Errorf("make the host's files read-only: %w", err)
	}
	return nil
}

func pivot(root string) error {
	old := filepath.Join(root, ".old")
	if err := os.Mkdir(old, 0o700); err != nil {
		return err
	}
	if err := unix.PivotRoot(root, old); err != nil {
		return fmt.Errorf("pivot_root: %w", err)
	}
	if err := os.Chdir("/"); err != nil {
		return err
	}
	if err := unix.Unmount("/.old", unix.MNT_DETACH); err != nil {
		return fmt.Errorf("leave the host's root: %w", err)
	}
	if err := os.Remove("/.old"); err != nil {
		return err
	}
	// The kubelet passes mounts of volumes on to containers.
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_SHARED, ""); err != nil {
		return fmt.Errorf("make mounts shared: %w", err)
	}
	return nil
}

// mount makes the target directory and mounts there.
func mount(source, target, fstype string, flags uintptr, data string) error {
	if err := os.MkdirAll(target, 0o755); err != nil {
		return fmt.Errorf("make mount point: %w", err)
	}
	if err := unix.Mount(source, target, fstype, flags, data); err != nil {
		return fmt.Errorf("mount %s at %s: %w", source, target, err)
	}
	return nil
}

// MountPoints lists the mount points of the calling thread's mount namespace, oldest first.
func MountPoints() ([]string, error) {
	f, err := os.Open("/proc/thread-self/mountinfo")
	if err != nil {
		return nil, fmt.Errorf("list mounts: %w", err)
	}
	defer f.Close()
	var points []string
	sc := bufio.NewScanner(f)
	for sc.Scan() {
		if fields := strings.Fields(sc.Text()); len(fields) > 4 {
			points = append(points, unescape.Replace(fields[4]))
		}
	}
	return points, sc.Err()
}

// unescape undoes mountinfo's octal escapes.
var unescape = strings.NewReplacer(`\040`, " ", `\011`, "\t", `\012`, "\n", `\134`, `\`)
