package machine

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// PodCgroup is where all containers of a node are, as a path in the machine.
const PodCgroup = "k8s.io"

// ContainerCgroup makes a cgroup of the name id below PodCgroup, in every hierarchy that
// the machine has the CPUs in, and lists its directories. It has the share of a kubelet's
// container that requests milliCPU thousandths of a CPU.
func ContainerCgroup(id string, milliCPU int64) (dirs []string, err error) {
	const root = "/sys/fs/cgroup"
	candidates := []string{root}
	if entries, err := os.ReadDir(root); err == nil {
		for _, e := range entries {
			if e.IsDir() {
				candidates = append(candidates, filepath.Join(root, e.Name()))
			}
		}
	}
	for _, view := range candidates {
		group := filepath.Join(view, PodCgroup)
		file, one, ok := shares(group)
		if !ok {
			continue
		}
		if file == "cpu.weight" {
			if err := delegate(group); err != nil {
				return nil, err
			}
		}
		dir := filepath.Join(group, id)
		if err := os.Mkdir(dir, 0o755); err != nil && !errors.Is(err, fs.ErrExist) {
			return nil, fmt.Errorf("make cgroup: %w", err)
		}
		dirs = append(dirs, dir)
		// A whole CPU is a process's share; the least is 2 of 1024, as the kubelet's, or 1.
		weight := max(int64(one)*milliCPU/1000, min(2, int64(one)/100))
		if err := os.WriteFile(filepath.Join(dir, file), []byte(strconv.FormatInt(weight, 10)), 0); err != nil {
			return nil, fmt.Errorf("set the CPU share of %s: %w", dir, err)
		}
	}
	return dirs, nil
}

// ContainerCgroups lists the directories of the cgroup that ContainerCgroup made for id.
func ContainerCgroups(id string) (dirs []string) {
	for _, pattern := range []string{"/sys/fs/cgroup", "/sys/fs/cgroup/*"} {
		found, _ := filepath.Glob(filepath.Join(pattern, PodCgroup, id)) // a good pattern
		dirs = append(dirs, found...)
	}
	return dirs
}

// KillCgroup ends what is left in a container's cgroup, and removes it.
func KillCgroup(id string) {
	if id == "" {
		return
	}
	dirs := ContainerCgroups(id)
	for _, dir := range dirs {
		b, _ := os.ReadFile(filepath.Join(dir, "cgroup.procs"))
		for f := range strings.FieldsSeq(string(b)) {
			if pid, err := strconv.Atoi(f); err == nil {
				_ = unix.Kill(pid, unix.SIGKILL)
			}
		}
	}
	RemoveCgroups(dirs)
}

// EnterCgroups moves a process.
func EnterCgroups(dirs []string, pid int) error {
	for _, dir := range dirs {
		if err := os.WriteFile(filepath.Join(dir, "cgroup.procs"), []byte(strconv.Itoa(pid)), 0); err != nil {
			return fmt.Errorf("enter cgroup %s: %w", dir, err)
		}
	}
	return nil
}

// RemoveCgroups removes cgroups whose processes have ended or are about to; what the
// kernel does not let go within a moment goes with the machine.
func RemoveCgroups(dirs []string) {
	for _, dir := range dirs {
		for range 50 {
			if err := os.Remove(dir); err == nil || errors.Is(err, fs.ErrNotExist) {
				break
			}
			time.Sleep(20 * time.Millisecond)
		}
	}
}
