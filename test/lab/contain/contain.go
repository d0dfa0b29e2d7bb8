// Package contain runs a program as a container runtime would, without one: with a root
// file system of its own that is put together from an image's files and some volumes,
// with the capabilities that a container has, and without a way to more of them. It is
// what Manx's own containers run in on a light node, in milliseconds; runc runs them on
// a node with a kubelet.
//
// What it has of a container: the files (the image's, read-only when that is asked for,
// and the volumes), /proc with a read-only /proc/sys and a read-only /sys unless it is
// privileged, the user, the capabilities, no_new_privs. What it shares with its node
// are the process ids and the devices. There is no seccomp filter: the default profile
// is a package of containerd's, which is a lot to depend on for a test. What that profile
// forbids Manx is tried on a full lab.
//
// The caller starts its own program once more, see [Command]: the second one makes the
// mounts and executes what is to run, so that the process is the caller's child all along.
package contain

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/manx-cni/manx/test/lab/image"
	"github.com/manx-cni/manx/test/lab/machine"
)

// name is argv[0] of the process that makes a container, argv[1] is the file of its Spec.
const name = "manx-lab-contain"

// Spec is a container.
type Spec struct {
	Args []string     `json:"args"`
	Env  []string     `json:"env,omitempty"`
	Root []image.File `json:"root"` // the image's files
	// ReadOnly makes all of the root read-only, but not the volumes.
	ReadOnly bool    `json:"readOnly,omitempty"`
	Mounts   []Mount `json:"mounts,omitempty"`
	// Privileged containers have every capability, and a writable /proc/sys.
	Privileged bool `json:"privileged,omitempty"`
	// Capabilities is what the others have, by names such as NET_ADMIN.
	Capabilities []string `json:"capabilities,omitempty"`
	NoNewPrivs   bool     `json:"noNewPrivs,omitempty"`
	UID          int      `json:"uid,omitempty"`
	GID          int      `json:"gid,omitempty"`
}

// Mount is a volume: a file or directory of the node, which is made when it is not
// there, shown in the container at Target. What is mounted in it later appears, too.
type Mount struct {
	Source   string `json:"source"`
	Target   string `json:"target"`
	ReadOnly bool   `json:"readOnly,omitempty"`
}

// Gate is the file descriptor from which a container's process reads a line before it
// does anything. At an end without one, such as that of who started it, it ends, too.
const Gate = 3

// Command is the process that becomes the container, when there is a line at Gate
// (exec.Cmd.ExtraFiles); file is where its spec is written,
// readable for root alone, since an environment may hold secrets.
func Command(s Spec, file string) (*exec.Cmd, error) {
	if _, err := capabilityMask(s.Capabilities); err != nil {
		return nil, err
	}
	b, err := json.Marshal(s)
	if err != nil {
		return nil, fmt.Errorf("encode a container: %w", err)
	}
	if err := os.WriteFile(file, b, 0o600); err != nil {
		return nil, fmt.Errorf("write a container: %w", err)
	}
	return &exec.Cmd{Path: machine.SelfPath, Args: []string{name, file}, Env: os.Environ(), Dir: "/"}, nil
}

// init turns the process into a container when it was started as one. It happens here,
// before main, so that every program that runs containers can be one.
func init() {
	if len(os.Args) != 2 || os.Args[0] != name {
		return
	}
	runtime.LockOSThread() // namespaces and capabilities belong to a thread, and stay with it over execve
	fmt.Fprintln(os.Stderr, "start a container:", become(os.Args[1]))
	os.Exit(127)
}

// become executes the container's program, and returns only when that fails.
func become(file string) error {
	gate := os.NewFile(Gate, "gate")
	if _, err := gate.Read(make([]byte, 1)); err != nil {
		return fmt.Errorf("wait for the word to begin: %w", err)
	}
	gate.Close()
	b, err := os.ReadFile(file)
	if err != nil {
		return err
	}
	var s Spec
	if err := json.Unmarshal(b, &s); err != nil {
		return fmt.Errorf("read %s: %w", file, err)
	}
	if err := unix.Unshare(unix.CLONE_NEWNS); err != nil {
		return fmt.Errorf("new mount namespace: %w", err)
	}
	// With "/" a slave, what the node mounts later, such as pods' namespaces, appears in
	// the volumes, and nothing that is done here is seen there.
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_SLAVE, ""); err != nil {
		return fmt.Errorf("make mounts private: %w", err)
	}
	if err := buildRoot(&s); err != nil {
		return err
	}
	if err := dropPrivileges(&s); err != nil {
		return err
	}
	program, err := lookPath(s.Args[0], s.Env)
	if err != nil {
		return err
	}
	return fmt.Errorf("execute %s: %w", program, unix.Exec(program, s.Args, s.Env))
}

// newRoot is where the root is put together. The mount covers an empty directory that
// every machine has, in this mount namespace only.
const newRoot, oldRoot = "/mnt", "/.node"

func buildRoot(s *Spec) error {
	volumes := make([]struct {
		tree int
		dir  bool
	}, len(s.Mounts))
	for i, m := range s.Mounts {
		var err error
		if volumes[i].tree, volumes[i].dir, err = openVolume(m); err != nil {
			return fmt.Errorf("volume %s: %w", m.Source, err)
		}
	}
	if err := unix.Mount("tmpfs", newRoot, "tmpfs", 0, "mode=755"); err != nil {
		return fmt.Errorf("mount the container's root: %w", err)
	}
	for _, f := range s.Root {
		if err := show(f); err != nil {
			return fmt.Errorf("file %s of the image: %w", f.Name, err)
		}
	}
	for _, dir := range []string{"/proc", "/sys", "/dev"} {
		if err := unix.Mount(dir, newRoot+dir, "", unix.MS_BIND|unix.MS_REC, ""); err != nil {
			return fmt.Errorf("show %s: %w", dir, err)
		}
	}
	if err := os.Mkdir(newRoot+oldRoot, 0o700); err != nil {
		return err
	}
	if err := unix.PivotRoot(newRoot, newRoot+oldRoot); err != nil {
		return fmt.Errorf("pivot_root: %w", err)
	}
	if err := os.Chdir("/"); err != nil {
		return err
	}
	for i, m := range s.Mounts {
		if err := mountVolume(m, volumes[i].tree, volumes[i].dir); err != nil {
			return fmt.Errorf("volume at %s: %w", m.Target, err)
		}
	}
	if err := unix.Unmount(oldRoot, unix.MNT_DETACH); err != nil {
		return fmt.Errorf("leave the node's root: %w", err)
	}
	if err := os.Remove(oldRoot); err != nil {
		return err
	}
	if !s.Privileged {
		if err := unix.Mount("/proc/sys", "/proc/sys", "", unix.MS_BIND, ""); err != nil {
			return fmt.Errorf("guard /proc/sys: %w", err)
		}
		for _, dir := range []string{"/proc/sys", "/sys"} {
			if err := readOnly(dir); err != nil {
				return err
			}
		}
	}
	if s.ReadOnly {
		return readOnly("/")
	}
	return nil
}

// readOnly makes a mount read-only, without those in it.
func readOnly(dir string) error {
	attr := &unix.MountAttr{Attr_set: unix.MOUNT_ATTR_RDONLY}
	if err := unix.MountSetattr(unix.AT_FDCWD, dir, 0, attr); err != nil {
		return fmt.Errorf("make %s read-only: %w", dir, err)
	}
	return nil
}

// show puts one file of the image into the new root.
func show(f image.File) error {
	at := filepath.Join(newRoot, f.Name)
	switch {
	case f.Mode.IsDir():
		return os.MkdirAll(at, f.Mode.Perm())
	case f.Link != "":
		return os.Symlink(f.Link, at)
	case f.Source == "":
		return os.WriteFile(at, f.Data, f.Mode.Perm())
	}
	if err := os.WriteFile(at, nil, f.Mode.Perm()); err != nil {
		return err
	}
	return unix.Mount(f.Source, at, "", unix.MS_BIND, "")
}

// openVolume takes a copy of a mount while the node's files are still in view.
func openVolume(m Mount) (tree int, dir bool, err error) {
	info, err := os.Stat(m.Source)
	if errors.Is(err, fs.ErrNotExist) {
		if err = os.MkdirAll(m.Source, 0o755); err == nil {
			info, err = os.Stat(m.Source)
		}
	}
	if err != nil {
		return -1, false, err
	}
	tree, err = unix.OpenTree(unix.AT_FDCWD, m.Source, unix.OPEN_TREE_CLONE|unix.OPEN_TREE_CLOEXEC|unix.AT_RECURSIVE)
	return tree, info.IsDir(), err
}

// mountVolume puts the copy where the container looks for it: in the new root, whose
// symbolic links lead where the program's will.
func mountVolume(m Mount, tree int, dir bool) (err error) {
	defer unix.Close(tree)
	if dir {
		err = os.MkdirAll(m.Target, 0o755)
	} else if err = os.MkdirAll(filepath.Dir(m.Target), 0o755); err == nil {
		err = os.WriteFile(m.Target, nil, 0o644)
	}
	if err != nil {
		return err
	}
	if err := unix.MoveMount(tree, "", unix.AT_FDCWD, m.Target, unix.MOVE_MOUNT_F_EMPTY_PATH); err != nil {
		return err
	}
	if m.ReadOnly {
		return readOnly(m.Target)
	}
	return nil
}

// lookPath finds a program as execvp(3) does, by the container's own PATH.
func lookPath(program string, env []string) (string, error) {
	if strings.Contains(program, "/") {
		return program, nil
	}
	for _, e := range env {
		if path, ok := strings.CutPrefix(e, "PATH="); ok {
			for _, dir := range filepath.SplitList(path) {
				file := filepath.Join(dir, program)
				if info, err := os.Stat(file); err == nil && info.Mode().IsRegular() {
					return file, nil
				}
			}
		}
	}
	return "", fmt.Errorf("the image has no program %s in its PATH", program)
}
