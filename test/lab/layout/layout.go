// Package layout says where everything of a lab is and what it is called.
//
// A lab is recognised by its name alone, without any state file: that is what
// lets "lab down" clear up after an "up" that was killed at any point.
//
//	files               <root>/<lab>/…              (root: $MANX_LAB_DIR, default /var/lib/manx-lab)
//	network namespaces  /run/netns/lab-<lab>-<machine>
//	cgroups             …/manx-lab-<lab>/<machine>   in every hierarchy
//	processes           argv[0] = manx-lab-init, argv[1] = <root>/<lab>/machines/<machine>,
//	                    and whatever lives in those namespaces and cgroups
//
// A lab's name has no hyphen, so that one lab's prefix is never the beginning of another's.
package layout

import (
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"slices"
)

const (
	// DefaultName is the lab that commands mean when no name is given.
	DefaultName = "manx"
	// DefaultRoot holds all labs' files unless $MANX_LAB_DIR says otherwise.
	DefaultRoot = "/var/lib/manx-lab"
	// RootEnv names the variable that moves DefaultRoot.
	RootEnv = "MANX_LAB_DIR"
	// NetNSDir is where iproute2 keeps named network namespaces.
	NetNSDir = "/run/netns"

	// Control is the machine that runs etcd and the Kubernetes control plane.
	Control = "control"
	// Fabric is the network namespace that holds the bridges between the machines.
	Fabric = "fabric"
	// Router is the network namespace between the subnets of a lab that has two.
	Router = "router"
	// Outside is a host on the fabric that belongs to no cluster.
	Outside = "outside"
	// Behind is the network namespace of a host in a subnet of its own, behind the lab's
	// top-of-rack routers.
	Behind = "behind"
)

// ToR is the name of the n-th top-of-rack router, counted from 1.
func ToR(n int) string { return fmt.Sprintf("tor%d", n) }

// Reflector is the name of the n-th route reflector, counted from 1.
func Reflector(n int) string { return fmt.Sprintf("rr%d", n) }

// reserved are names that no node can have: the other machines and namespaces, and
// the interfaces of the fabric, where a node's port has the node's name.
var reserved = []string{Control, Fabric, Router, Outside, Behind, "br0", "br1", "router0", "router1", "lo"}

var (
	labName  = regexp.MustCompile(`^[a-z][a-z0-9]{0,19}$`)
	nodeName = regexp.MustCompile(`^[a-z]([-a-z0-9]{0,13}[a-z0-9])?$`)
	// routerName is what ToR and Reflector give.
	routerName = regexp.MustCompile(`^(tor|rr)[0-9]+$`)
)

// Lab is the naming of one lab.
type Lab struct {
	Name string
	Root string
}

// New returns the naming of lab name under $MANX_LAB_DIR or DefaultRoot.
func New(name string) (Lab, error) {
	if !labName.MatchString(name) {
		return Lab{}, fmt.Errorf("lab name %q: want a letter and then up to 19 letters or digits, lower case, no hyphen", name)
	}
	root := os.Getenv(RootEnv)
	if root == "" {
		root = DefaultRoot
	}
	root, err := filepath.Abs(root)
	if err != nil {
		return Lab{}, fmt.Errorf("resolve %s: %w", RootEnv, err)
	}
	return Lab{Name: name, Root: root}, nil
}

// CheckNode reports whether name can be a node of a lab: a DNS label of at most
// 15 characters (it also names the node's port on the fabric), and none of the reserved ones.
func CheckNode(name string) error {
	switch {
	case slices.Contains(reserved, name), routerName.MatchString(name):
		return fmt.Errorf("node name %q is reserved in a lab", name)
	case !nodeName.MatchString(name):
		return fmt.Errorf("node name %q: want 1 to 15 of a-z, 0-9 and inner hyphens, beginning with a letter", name)
	}
	return nil
}

// Dir is the lab's directory; it is removed whole by "lab down".
func (l Lab) Dir() string { return filepath.Join(l.Root, l.Name) }

// StateFile is the lab's record of its machines.
func (l Lab) StateFile() string { return filepath.Join(l.Dir(), "state.json") }

// Kubeconfig is the administrator's kubeconfig; its server address is inside the lab.
func (l Lab) Kubeconfig() string { return filepath.Join(l.Dir(), "kubeconfig") }

// PKI is the directory of the lab's certificate authority and keys.
func (l Lab) PKI() string { return filepath.Join(l.Dir(), "pki") }

// MachinesDir holds one directory per machine.
func (l Lab) MachinesDir() string { return filepath.Join(l.Dir(), "machines") }

// Machine is the directory of one machine: its spec, its disk, its mount point.
func (l Lab) Machine(name string) string { return filepath.Join(l.MachinesDir(), name) }

// Disk is what a machine keeps over a power cycle.
func (l Lab) Disk(name string) string { return filepath.Join(l.Machine(name), "disk") }

// Log is the log file of a component of a machine, as seen from outside it.
func (l Lab) Log(machine, component string) string {
	return filepath.Join(l.Disk(machine), "var/log", component+".log")
}

// NetNSPrefix begins the names of all the lab's network namespaces.
func (l Lab) NetNSPrefix() string { return "lab-" + l.Name + "-" }

// NetNS is the name of a machine's network namespace, as "ip netns" shows it.
func (l Lab) NetNS(machine string) string { return l.NetNSPrefix() + machine }

// NetNSPath is the file that holds a machine's network namespace.
func (l Lab) NetNSPath(machine string) string { return filepath.Join(NetNSDir, l.NetNS(machine)) }

// Cgroup is the name of the lab's cgroup in every hierarchy.
func (l Lab) Cgroup() string { return "manx-lab-" + l.Name }
