package machine

import (
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"

	"github.com/manx-cni/manx/test/lab/proc"
)

// initName is argv[0] of a machine's PID 1; argv[1] is the machine's directory.
const initName = "manx-lab-init"

// SelfPath is the program that a process runs, for one that starts itself once more as
// another: by what it finds in its first argument.
const SelfPath = "/proc/self/exe"

// IsInit reports whether args are the arguments of a machine's PID 1, and of which directory.
func IsInit(args []string) (dir string, ok bool) {
	if len(args) >= 2 && args[0] == initName {
		return filepath.Clean(args[1]), true
	}
	return "", false
}

// Boot switches on the machine whose spec and disk are in dir and returns its PID 1.
// It returns when the machine's root is set up and its components are being started.
// An error tells which step of the boot failed.
func Boot(dir string) (proc.ID, error) {
	logFile, err := os.OpenFile(BootLog(dir), os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o644)
	if err != nil {
		return proc.ID{}, fmt.Errorf("open boot log: %w", err)
	}
	defer logFile.Close()
	r, w, err := os.Pipe()
	if err != nil {
		return proc.ID{}, fmt.Errorf("boot %s: %w", dir, err)
	}
	defer r.Close()
	cmd := &exec.Cmd{
		Path:       SelfPath,
		Args:       []string{initName, dir},
		Env:        []string{"PATH=" + Path, "HOME=/root", "LANG=C.UTF-8"},
		Dir:        "/",
		Stdout:     logFile,
		Stderr:     logFile,
		ExtraFiles: []*os.File{w},
		SysProcAttr: &syscall.SysProcAttr{
			Setsid: true,
			Cloneflags: syscall.CLONE_NEWPID | syscall.CLONE_NEWNS |
				syscall.CLONE_NEWUTS | syscall.CLONE_NEWIPC,
		},
	}
	err = cmd.Start()
	w.Close()
	if err != nil {
		return proc.ID{}, fmt.Errorf("start PID 1 of %s: %w", dir, err)
	}
	id, idErr := proc.Identify(cmd.Process.Pid)
	go func() { _ = cmd.Wait() }() // Its end is seen through proc.ID; this only reaps it.

	// PID 1 writes its failure, or nothing: the pipe closes when its first stage is over.
	msg, err := io.ReadAll(r)
	switch {
	case err != nil:
		return id, fmt.Errorf("boot %s: %w", dir, err)
	case len(msg) > 0:
		return id, fmt.Errorf("boot %s: %s", dir, strings.TrimSpace(string(msg)))
	case idErr != nil:
		return id, fmt.Errorf("boot %s: PID 1 ended at once: %w", dir, idErr)
	case !id.Alive():
		return id, errors.New("boot " + dir + ": PID 1 ended at once; see " + BootLog(dir))
	}
	return id, nil
}
