// Package machine runs one machine of a lab: a set of namespaces (network, mount,
// PID, UTS, IPC, cgroup) with a root file system and a PID 1 of their own.
//
// The process that wants a machine re-executes itself as "manx-lab-init DIR" (see
// init.go), so every program that imports this package can be the PID 1 of a
// machine: the lab command as well as a test binary.
//
// What belongs to a machine and how it goes away: every process is in the PID
// namespace of that PID 1, so one SIGKILL to it ends them all, pods included; the
// mounts are in a private mount namespace and the pods' network namespaces are
// held by mounts and processes in it, so they go with the last process. Only the
// named network namespace (package fabric), the cgroups and the disk directory
// outlive it; package sweep removes those.
package machine

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"

	"github.com/google/renameio/v2"
)

// Spec is everything that the PID 1 of a machine needs to know.
type Spec struct {
	Hostname string `json:"hostname"`
	// NetNS is the path of the network namespace that the machine lives in.
	NetNS string `json:"netns"`
	// Cgroup is the machine's cgroup relative to the root of every hierarchy.
	Cgroup string `json:"cgroup"`
	// Share is that cgroup's when the CPUs are not enough for all, in processes; 0 is 1.
	Share int `json:"share,omitempty"`
	// Groups are cgroups made in the machine, by path, with their shares.
	Groups map[string]int `json:"groups,omitempty"`
	// Binds are directories of the host shown in the machine.
	Binds []Bind `json:"binds,omitempty"`
	// Layers are directories of the host whose usr, lib and so on lie above the host's own, the
	// first on top: programs that only this machine has installed.
	Layers []string `json:"layers,omitempty"`
	// Sysctls are written before anything starts, in order.
	Sysctls []Sysctl `json:"sysctls,omitempty"`
	// Components are kept running as long as the machine is on.
	Components []Component `json:"components"`
}

// Bind shows the host's directory Source, read-only, at Target.
type Bind struct {
	Source string `json:"source"`
	Target string `json:"target"`
}

// Sysctl is a kernel setting by its path under /proc/sys.
type Sysctl struct {
	Path  string `json:"path"`
	Value string `json:"value"`
}

// Component is a program of a machine. PID 1 starts it again when it ends,
// as a service manager would.
type Component struct {
	Name string   `json:"name"`
	Args []string `json:"args"`
	// Self is set for a program of the lab's own: the one that PID 1 is, which does
	// what Args[0] says, as it became PID 1 by the name in its first argument.
	Self bool     `json:"self,omitempty"`
	Env  []string `json:"env,omitempty"`
	// WaitPath, WaitTCP and WaitURL hold every start back until a file exists, a
	// connection is accepted there, and the server behind the https URL, with a
	// certificate of the authority in the file WaitCA, says 200.
	WaitPath string `json:"waitPath,omitempty"`
	WaitTCP  string `json:"waitTCP,omitempty"`
	WaitURL  string `json:"waitURL,omitempty"`
	WaitCA   string `json:"waitCA,omitempty"`
}

// Path is the search path of all programs in a machine.
const Path = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin:" + BinDir

// BinDir is where the lab's Kubernetes binaries appear in a machine.
const BinDir = "/k8s/bin"

// HostDir is where the host's files appear in a machine, read-only.
const HostDir = "/host"

func specFile(dir string) string { return filepath.Join(dir, "spec.json") }
func rootDir(dir string) string  { return filepath.Join(dir, "root") }
func diskDir(dir string) string  { return filepath.Join(dir, "disk") }

// BootLog is the log of a machine's PID 1 in the machine's directory.
func BootLog(dir string) string { return filepath.Join(dir, "init.log") }

// Save writes the spec into the machine's directory.
func (s Spec) Save(dir string) error {
	b, err := json.MarshalIndent(s, "", "  ")
	if err != nil {
		return fmt.Errorf("encode machine %s: %w", s.Hostname, err)
	}
	if err := renameio.WriteFile(specFile(dir), b, 0o600); err != nil {
		return fmt.Errorf("save machine %s: %w", s.Hostname, err)
	}
	return nil
}

// Load reads the spec of the machine in dir.
func Load(dir string) (Spec, error) {
	var s Spec
	b, err := os.ReadFile(specFile(dir))
	if err != nil {
		return s, fmt.Errorf("load machine: %w", err)
	}
	if err := json.Unmarshal(b, &s); err != nil {
		return s, fmt.Errorf("load machine %s: %w", dir, err)
	}
	return s, nil
}
