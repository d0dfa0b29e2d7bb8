package machine

import (
	"fmt"
	"os"
	"runtime"

	"golang.org/x/sys/unix"

	"github.com/manx-cni/manx/test/lab/netns"
)

// statusFD is where the first stage reports failure to Boot.
const statusFD = 3

// ownDir is where a running machine keeps its spec, inside.
const ownDir = "/.lab"

// init turns the process into a machine's PID 1 when it was started as one.
// It happens here, before main, so that every program that boots machines can be it.
//
// Stage one runs on the main thread alone: it joins the network namespace and
// cgroups, unshares the cgroup namespace and builds the root. These belong to a
// thread, so it then executes itself once more: stage two has them in every thread.
func init() {
	dir, ok := IsInit(os.Args)
	if !ok {
		return
	}
	runtime.LockOSThread()
	if len(os.Args) == 3 && os.Args[2] == "supervise" {
		supervise()
	}
	err := prepare(dir)
	if err == nil {
		unix.CloseOnExec(statusFD)
		err = unix.Exec(SelfPath, []string{initName, dir, "supervise"}, os.Environ())
	}
	fmt.Fprintln(os.NewFile(statusFD, "status"), err)
	os.Exit(1)
}

// prepare is stage one.
func prepare(dir string) error {
	spec, err := Load(dir)
	if err != nil {
		return err
	}
	if err := netns.Join(spec.NetNS); err != nil {
		return err
	}
	if err := unix.Sethostname([]byte(spec.Hostname)); err != nil {
		return fmt.Errorf("set host name %q: %w", spec.Hostname, err)
	}
	// With "/" a slave, what the host unmounts later goes away here too, and nothing done here is seen there.
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_SLAVE, ""); err != nil {
		return fmt.Errorf("make mounts private: %w", err)
	}
	hiers, err := enterCgroup(spec.Cgroup, max(1, spec.Share))
	if err != nil {
		return err
	}
	if err := buildRoot(dir, spec, hiers); err != nil {
		return err
	}
	if err := os.Mkdir(ownDir, 0o700); err != nil {
		return fmt.Errorf("keep the machine's spec: %w", err)
	}
	if err := spec.Save(ownDir); err != nil {
		return err
	}
	for _, s := range spec.Sysctls {
		if err := os.WriteFile("/proc/sys/"+s.Path, []byte(s.Value), 0); err != nil {
			return fmt.Errorf("set sysctl %s to %s: %w", s.Path, s.Value, err)
		}
	}
	return nil
}
