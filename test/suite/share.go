package main

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"
)

// share is a cgroup with a step's share of the CPUs. A machine without that controller
// has none, and its steps share as processes do.
type share struct{ dir string }

// newShare makes it: of version 1's controller or of version 2.
func newShare(s step) share {
	weight := max(s.weight, 2)
	name := fmt.Sprintf("manx-suite-%d-%s", os.Getpid(), strings.ReplaceAll(s.name, " ", "-"))
	for _, v := range []struct {
		root, file string
		one        int // what a process has
	}{
		{"/sys/fs/cgroup/cpu", "cpu.shares", 1024},
		{"/sys/fs/cgroup/cpu,cpuacct", "cpu.shares", 1024},
		{"/sys/fs/cgroup", "cpu.weight", 100},
	} {
		if v.file == "cpu.weight" {
			// The root hands the controller on; that it does already is no error.
			_ = os.WriteFile(filepath.Join(v.root, "cgroup.subtree_control"), []byte("+cpu"), 0)
		} else if _, err := os.Stat(filepath.Join(v.root, v.file)); err != nil {
			continue
		}
		dir := filepath.Join(v.root, name)
		if err := os.Mkdir(dir, 0o755); err != nil {
			continue
		}
		if err := os.WriteFile(filepath.Join(dir, v.file), []byte(strconv.Itoa(weight*v.one)), 0); err != nil {
			_ = os.Remove(dir)
			continue
		}
		return share{dir}
	}
	return share{}
}

func (s share) enter(pid int) error {
	if s.dir == "" {
		return nil
	}
	err := os.WriteFile(filepath.Join(s.dir, "cgroup.procs"), []byte(strconv.Itoa(pid)), 0)
	if err != nil {
		return fmt.Errorf("give a step its share of the CPUs: %w", err)
	}
	return nil
}

// remove removes the cgroup once its processes have ended: a lab's guard has a moment to
// take its lab down.
func (s share) remove() {
	if s.dir == "" {
		return
	}
	for range 300 {
		if err := os.Remove(s.dir); err == nil || errors.Is(err, fs.ErrNotExist) {
			return
		}
		time.Sleep(100 * time.Millisecond)
	}
}
