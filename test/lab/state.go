package lab

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"net/netip"
	"os"
	"slices"
	"time"

	"github.com/google/renameio/v2"
	"golang.org/x/sys/unix"

	"github.com/manx-cni/manx/test/lab/fabric"
	"github.com/manx-cni/manx/test/lab/layout"
	"github.com/manx-cni/manx/test/lab/proc"
)

// state is what a lab remembers between commands. Taking it down does not need it.
type state struct {
	Kubernetes string    `json:"kubernetes"`
	Created    time.Time `json:"created"`
	// Complete is set when "up" got to its end.
	Complete bool      `json:"complete"`
	Machines []Machine `json:"machines"`
	// NextAddr is the last octet of the next node's address, whatever its subnet. None is used twice.
	NextAddr int `json:"nextAddr"`
	// Subnets is how many the fabric has.
	Subnets int `json:"subnets"`
	// DualStack is set when every machine has IPv6 too: the address that fabric.Addr6 gives it.
	DualStack bool `json:"dualStack,omitempty"`
	// Light is set when the nodes are light ones.
	Light bool `json:"light,omitempty"`
	// Joined is set when the control plane is in a lab outside this machine.
	Joined bool `json:"joined,omitempty"`
}

// Machine is a machine of a lab: the control plane or a node.
type Machine struct {
	Name string     `json:"name"`
	Addr netip.Addr `json:"addr"`
	// Init is the machine's PID 1; zero when the machine is switched off.
	Init proc.ID `json:"init"`
	// Daemon is, of a router, what it runs (package router); ToR is the number of a
	// top-of-rack router.
	Daemon string `json:"daemon,omitempty"`
	ToR    int    `json:"tor,omitempty"`
}

// isNode tells nodes from the control plane and from routers.
func (m Machine) isNode() bool { return m.Name != layout.Control && m.Daemon == "" }

// namespaces are the network namespaces of the lab that are no machine.
func (s *state) namespaces() []string {
	names := []string{layout.Outside, layout.Fabric}
	if s.Subnets > 1 {
		names = append(names, layout.Router)
	}
	if s.Joined {
		names = append(names, layout.Control)
	}
	if slices.ContainsFunc(s.Machines, func(m Machine) bool { return m.ToR > 0 }) {
		names = append(names, layout.Behind)
	}
	return names
}

func (s *state) machine(name string) *Machine {
	i := slices.IndexFunc(s.Machines, func(m Machine) bool { return m.Name == name })
	if i < 0 {
		return nil
	}
	return &s.Machines[i]
}

// addr6 is the IPv6 address that goes with a, zero in a lab with IPv4 only.
func (s *state) addr6(a netip.Addr) netip.Addr {
	if !s.DualStack {
		return netip.Addr{}
	}
	return fabric.Addr6(a)
}

func loadState(l layout.Lab) (*state, error) {
	b, err := os.ReadFile(l.StateFile())
	if errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("there is no lab %q under %s; start it with \"lab up --name %[1]s\": %[3]w", l.Name, l.Root, err)
	}
	if err != nil {
		return nil, fmt.Errorf("read the state of lab %s: %w", l.Name, err)
	}
	s := new(state)
	if err := json.Unmarshal(b, s); err != nil {
		return nil, fmt.Errorf("read the state of lab %s from %s: %w", l.Name, l.StateFile(), err)
	}
	return s, nil
}

func (s *state) save(l layout.Lab) error {
	b, err := json.MarshalIndent(s, "", "  ")
	if err != nil {
		return fmt.Errorf("encode the state of lab %s: %w", l.Name, err)
	}
	if err := renameio.WriteFile(l.StateFile(), append(b, '\n'), 0o644); err != nil {
		return fmt.Errorf("save the state of lab %s: %w", l.Name, err)
	}
	return nil
}

// lock takes the lab's directory for a command that changes the lab. With create it
// makes the directory; without, a lab that has none gives fs.ErrNotExist.
// The kernel drops the lock when the process ends, however it ends.
func lock(ctx context.Context, l layout.Lab, create bool, progress func(string)) (unlock func(), err error) {
	said := false
	for {
		if create {
			if err := os.MkdirAll(l.Dir(), 0o755); err != nil {
				return nil, fmt.Errorf("make the lab's directory: %w", err)
			}
		}
		f, err := os.Open(l.Dir())
		if errors.Is(err, fs.ErrNotExist) && create {
			continue
		}
		if err != nil {
			return nil, fmt.Errorf("lock lab %s: %w", l.Name, err)
		}
		err = unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB)
		if err == nil && sameFile(f, l.Dir()) {
			return func() { f.Close() }, nil
		}
		f.Close()
		if err == nil { // The directory was removed while we waited.
			continue
		}
		if !errors.Is(err, unix.EWOULDBLOCK) {
			return nil, fmt.Errorf("lock %s: %w", l.Dir(), err)
		}
		if !said {
			progress("waiting for another command on lab " + l.Name)
			said = true
		}
		select {
		case <-ctx.Done():
			return nil, fmt.Errorf("wait for another command on lab %s: %w", l.Name, ctx.Err())
		case <-time.After(50 * time.Millisecond):
		}
	}
}

func sameFile(f *os.File, path string) bool {
	a, err := f.Stat()
	if err != nil {
		return false
	}
	b, err := os.Stat(path)
	return err == nil && os.SameFile(a, b)
}
