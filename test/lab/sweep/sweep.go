// Package sweep removes everything a lab may have left on the host, from what it
// finds there: it needs no state file, so it works after an "up" that was killed
// at any point. Package layout lists the marks that it goes by.
//
// The order matters. Processes first: they hold everything else. Then the named
// network namespaces, mounts under the lab's directory, cgroups, and last the
// directory itself, so that an interrupted sweep can be run again.
package sweep

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/manx-cni/manx/test/lab/layout"
	"github.com/manx-cni/manx/test/lab/machine"
	"github.com/manx-cni/manx/test/lab/netns"
	"github.com/manx-cni/manx/test/lab/proc"
)

// patience is how long Lab waits for the kernel to let go of processes and cgroups.
const patience = 30 * time.Second

// Lab removes all traces of l and fails with a list of what it could not remove.
// That there is nothing to remove is no error.
func Lab(ctx context.Context, l layout.Lab) error {
	errs := []error{Contents(ctx, l), removeFiles(l)}
	if left := Find(l); len(left) > 0 {
		errs = append(errs, fmt.Errorf("lab %s is not gone, left are:\n  %s", l.Name, strings.Join(left, "\n  ")))
	}
	return errors.Join(errs...)
}

// Contents removes all of l but its directory, which it leaves empty: it is the lab's lock.
func Contents(ctx context.Context, l layout.Lab) error {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	return errors.Join(
		killAll(ctx, l),
		removeNetNSs(l),
		unmountAll(l),
		removeCgroups(ctx, l.Cgroup()),
		emptyDir(l),
	)
}

// Cgroups removes the cgroups of one machine, whose processes have ended.
func Cgroups(ctx context.Context, l layout.Lab, machineName string) error {
	return removeCgroups(ctx, filepath.Join(l.Cgroup(), machineName))
}

// Elsewhere reports a running lab of the same name under another root, whose
// namespaces and cgroups have the names of l's: neither may be made or removed.
func Elsewhere(l layout.Lab) (root string, found bool) {
	pids, err := proc.All()
	if err != nil {
		return "", false
	}
	for _, pid := range pids {
		dir, ok := machine.IsInit(proc.Args(pid))
		if !ok {
			continue
		}
		lab := filepath.Dir(filepath.Dir(dir)) // <root>/<lab>/machines/<machine>
		if filepath.Base(lab) == l.Name && lab != l.Dir() {
			return filepath.Dir(lab), true
		}
	}
	return "", false
}

// Find lists what there is of l on the host, for people: processes, namespaces, mounts, cgroups, files.
func Find(l layout.Lab) []string {
	var found []string
	for _, id := range processes(l) {
		found = append(found, fmt.Sprintf("process %d: %s", id.PID, id.Command()))
	}
	for _, p := range netNSs(l) {
		found = append(found, "network namespace "+p)
	}
	for _, p := range mounts(l) {
		found = append(found, "mount "+p)
	}
	for _, p := range cgroups(l.Cgroup()) {
		found = append(found, "cgroup "+p)
	}
	if _, err := os.Lstat(l.Dir()); err == nil {
		found = append(found, "directory "+l.Dir())
	}
	return found
}

// killAll kills in rounds, since a process may start another while it is looked for.
func killAll(ctx context.Context, l layout.Lab) error {
	var errs []error
	for {
		ids := processes(l)
		if len(ids) == 0 {
			return nil
		}
		if ctx.Err() != nil {
			return errors.Join(append(errs, ctx.Err())...)
		}
		for _, id := range ids {
			if err := id.Signal(unix.SIGKILL); err != nil {
				errs = append(errs, err)
			}
		}
		for _, id := range ids {
			if err := id.Kill(ctx); err != nil {
				errs = append(errs, err)
			}
		}
		awaitReaped(ctx, ids)
	}
}

// awaitReaped gives the parents of ended processes (after a crash of "up", the host's
// PID 1) a moment to notice, so that no zombie is seen afterwards. Nothing depends on it.
func awaitReaped(ctx context.Context, ids []proc.ID) {
	ctx, cancel := context.WithTimeout(ctx, 3*time.Second)
	defer cancel()
	for _, id := range ids {
		for !id.Reaped() {
			select {
			case <-ctx.Done():
				return
			case <-time.After(5 * time.Millisecond):
			}
		}
	}
}

// processes finds the lab's processes: the PID 1s by their arguments, whatever is
// in one of its network namespaces, and whatever is in one of its cgroups (pods,
// whose network namespaces have no name on the host). The PID 1s come first:
// the kernel ends everything below them with them. The caller itself and its
// ancestors are never in the list.
func processes(l layout.Lab) []proc.ID {
	namespaces := map[uint64]bool{}
	for _, path := range netNSs(l) {
		var st unix.Stat_t
		if unix.Stat(path, &st) == nil && isNSFS(path) {
			namespaces[st.Ino] = true
		}
	}
	inCgroup := map[int]bool{}
	for _, dir := range cgroups(l.Cgroup()) {
		b, _ := os.ReadFile(filepath.Join(dir, "cgroup.procs"))
		for f := range strings.FieldsSeq(string(b)) {
			if pid, err := strconv.Atoi(f); err == nil {
				inCgroup[pid] = true
			}
		}
	}
	pids, err := proc.All()
	if err != nil {
		return nil
	}
	spared := ancestors()
	var inits, others []proc.ID
	for _, pid := range pids {
		if spared[pid] {
			continue
		}
		id, err := proc.Identify(pid)
		if err != nil || !id.Alive() {
			continue
		}
		dir, isInit := machine.IsInit(proc.Args(pid))
		switch {
		case isInit && filepath.Dir(dir) == l.MachinesDir():
			inits = append(inits, id)
		case inCgroup[pid], namespaces[netNSOf(pid)]:
			others = append(others, id)
		}
	}
	return append(inits, others...)
}

// isNSFS reports whether a namespace is mounted at path, rather than it being a plain file.
func isNSFS(path string) bool {
	var st unix.Statfs_t
	return unix.Statfs(path, &st) == nil && st.Type == unix.NSFS_MAGIC
}

func netNSOf(pid int) uint64 {
	var st unix.Stat_t
	if unix.Stat(fmt.Sprintf("/proc/%d/ns/net", pid), &st) != nil {
		return 0
	}
	return st.Ino
}

func ancestors() map[int]bool {
	pids := map[int]bool{}
	for pid := os.Getpid(); pid > 0; {
		pids[pid] = true
		b, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
		if err != nil {
			break
		}
		f := strings.Fields(string(b[strings.LastIndexByte(string(b), ')')+1:]))
		if len(f) < 2 {
			break
		}
		pid, _ = strconv.Atoi(f[1])
	}
	return pids
}

func netNSs(l layout.Lab) []string {
	paths, _ := filepath.Glob(filepath.Join(layout.NetNSDir, l.NetNSPrefix()+"*"))
	return paths
}

func removeNetNSs(l layout.Lab) error {
	var errs []error
	for _, path := range netNSs(l) {
		errs = append(errs, netns.Remove(path))
	}
	return errors.Join(errs...)
}

// mounts lists the host's mounts in the lab's directory, newest first. There are none
// unless somebody made them: the machines' own are in their mount namespaces.
func mounts(l layout.Lab) []string {
	points, err := machine.MountPoints()
	if err != nil {
		return nil
	}
	points = slices.DeleteFunc(points, func(p string) bool { return p != l.Dir() && !strings.HasPrefix(p, l.Dir()+"/") })
	slices.Reverse(points)
	return points
}

func unmountAll(l layout.Lab) error {
	var errs []error
	for _, p := range mounts(l) {
		if err := unix.Unmount(p, unix.MNT_DETACH); err != nil {
			errs = append(errs, fmt.Errorf("unmount %s: %w", p, err))
		}
	}
	return errors.Join(errs...)
}

// cgroups lists the cgroup name and those below it in all hierarchies, the deepest first.
func cgroups(name string) []string {
	hiers, err := machine.Hierarchies()
	if err != nil {
		return nil
	}
	var dirs []string
	for _, h := range hiers {
		_ = filepath.WalkDir(filepath.Join(h.MountPoint, name), func(path string, d fs.DirEntry, err error) error {
			if err == nil && d.IsDir() {
				dirs = append(dirs, path)
			}
			return nil // What vanishes during the walk is welcome to.
		})
	}
	slices.Reverse(dirs)
	return dirs
}

// removeCgroups removes until none is left: a dying process keeps its cgroup busy for a moment.
func removeCgroups(ctx context.Context, name string) error {
	for {
		dirs := cgroups(name)
		if len(dirs) == 0 {
			return nil
		}
		var last error
		for _, dir := range dirs {
			if err := unix.Rmdir(dir); err != nil && !errors.Is(err, fs.ErrNotExist) {
				last = fmt.Errorf("remove cgroup %s: %w", dir, err)
			}
		}
		if last == nil {
			continue
		}
		select {
		case <-ctx.Done():
			return last
		case <-time.After(20 * time.Millisecond):
		}
	}
}

func removeFiles(l layout.Lab) error {
	if err := os.Remove(l.Dir()); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("remove files: %w", err)
	}
	// The root goes with the last lab.
	if err := os.Remove(l.Root); err != nil && !errors.Is(err, unix.ENOTEMPTY) && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("remove %s: %w", l.Root, err)
	}
	return nil
}

func emptyDir(l layout.Lab) error {
	if left := mounts(l); len(left) > 0 {
		return fmt.Errorf("keep %s: %s is still mounted in it", l.Dir(), left[0])
	}
	entries, err := os.ReadDir(l.Dir())
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("remove files: %w", err)
	}
	for _, e := range entries {
		if err := os.RemoveAll(filepath.Join(l.Dir(), e.Name())); err != nil {
			return fmt.Errorf("remove files: %w", err)
		}
	}
	return nil
}
