// Package lab runs Kubernetes clusters on one machine: etcd, kube-apiserver,
// controller-manager and scheduler on one machine of the lab, and kubelet,
// containerd, runc and kube-proxy on each node. Machines are sets of namespaces
// on a bridge, or on two with a router between (packages machine and fabric);
// everything in them is the real thing. A light lab has the lab's runner in the place of
// kubelet and containerd, see light.go.
//
// Several labs live side by side under different names, with the same addresses.
// Nothing of a lab listens in the host's network namespace: RESTConfig, Kubectl
// and Exec enter the lab's namespaces.
//
// What a lab leaves on the host, and how it is recognised and removed, is in packages layout and sweep.
package lab

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"

	"github.com/manx-cni/manx/test/lab/fabric"
	"github.com/manx-cni/manx/test/lab/kubebuild"
	"github.com/manx-cni/manx/test/lab/layout"
	"github.com/manx-cni/manx/test/lab/machine"
	"github.com/manx-cni/manx/test/lab/netns"
)

// Cluster is a lab that is up. It holds no state of its own, so it stays right when
// other processes change the lab. Its methods may be called concurrently.
type Cluster struct {
	layout.Lab
	progress func(string)
}

// Open returns the lab called name. One that was not brought up completely can be
// opened too, for a look at what went wrong.
func Open(name string) (*Cluster, error) {
	l, err := layout.New(name)
	if err != nil {
		return nil, err
	}
	if _, err := loadState(l); err != nil {
		return nil, err
	}
	return &Cluster{Lab: l, progress: func(string) {}}, nil
}

// Machines lists the control plane, the nodes and the routers.
func (c *Cluster) Machines() ([]Machine, error) {
	s, err := loadState(c.Lab)
	if err != nil {
		return nil, err
	}
	return s.Machines, nil
}

// Nodes lists the nodes' names, in the order of their addresses.
func (c *Cluster) Nodes() ([]string, error) {
	ms, err := c.Machines()
	if err != nil {
		return nil, err
	}
	var names []string
	for _, m := range ms {
		if m.isNode() {
			names = append(names, m.Name)
		}
	}
	return names, nil
}

// Addr is the fabric address of a machine or of the outside host, and the address of the
// host behind the top-of-rack routers; that of "fabric" and of "router" is the gateway of
// the first subnet.
func (c *Cluster) Addr(name string) (netip.Addr, error) {
	switch name {
	case layout.Outside:
		return OutsideAddr(), nil
	case layout.Behind:
		return fabric.BehindAddr(), nil
	case layout.Fabric, layout.Router:
		return fabric.Gateway(1), nil
	}
	s, err := loadState(c.Lab)
	if err != nil {
		return netip.Addr{}, err
	}
	if m := s.machine(name); m != nil {
		return m.Addr, nil
	}
	return netip.Addr{}, unknownMachine(c.Name, name, s)
}

// Addr6 is the IPv6 address of what Addr has the IPv4 address of, in a dual-stack lab.
func (c *Cluster) Addr6(name string) (netip.Addr, error) {
	s, err := loadState(c.Lab)
	if err != nil {
		return netip.Addr{}, err
	}
	a, err := c.Addr(name)
	if err != nil {
		return netip.Addr{}, err
	}
	if !s.DualStack {
		return netip.Addr{}, fmt.Errorf("lab %s has IPv4 only, so %s has no IPv6 address; \"lab up --dual-stack\" makes one with both",
			c.Name, name)
	}
	return s.addr6(a), nil
}

// OutsideAddr is the address of the outside host in every lab.
func OutsideAddr() netip.Addr { return fabric.Addr(3) }

// HostPath is where a file of the host appears in a machine, read-only. Files below
// /proc, /sys, /dev and /run are not shown.
func HostPath(path string) string { return filepath.Join(machine.HostDir, path) }

// ExecOptions are the streams and extra environment of a command.
type ExecOptions struct {
	Env            []string
	Stdin          io.Reader
	Stdout, Stderr io.Writer
}

// Start starts a command on a machine, in all its namespaces, or in the network
// namespace of "outside", "behind", "fabric" or "router". It is killed when ctx ends or this process dies.
func (c *Cluster) Start(ctx context.Context, where string, o ExecOptions, args ...string) (*machine.Process, error) {
	place, err := c.place(where)
	if err != nil {
		return nil, err
	}
	p, err := place.Start(ctx, machine.Command{Args: args, Env: o.Env, Stdin: o.Stdin, Stdout: o.Stdout, Stderr: o.Stderr})
	if err != nil {
		return nil, fmt.Errorf("on %s: %w", where, err)
	}
	return p, nil
}

func (c *Cluster) place(where string) (machine.Place, error) {
	s, err := loadState(c.Lab)
	if err != nil {
		return machine.Place{}, err
	}
	if slices.Contains(s.namespaces(), where) {
		return machine.Place{NetNS: c.NetNSPath(where)}, nil
	}
	m := s.machine(where)
	switch {
	case m == nil:
		return machine.Place{}, unknownMachine(c.Name, where, s)
	case !m.Init.Alive():
		return machine.Place{}, fmt.Errorf("machine %s of lab %s is off; \"lab node start %[1]s\" switches it on", where, c.Name)
	}
	return machine.Place{Init: m.Init}, nil
}

func unknownMachine(lab, name string, s *state) error {
	var names []string
	for _, m := range s.Machines {
		names = append(names, m.Name)
	}
	return fmt.Errorf("lab %s has no machine %q; it has %s, and the namespaces %s",
		lab, name, strings.Join(names, ", "), strings.Join(s.namespaces(), ", "))
}

// Exec runs a command on a machine and returns what it wrote to its standard output.
// The error of a command that failed has its exit status (errors.As *exec.ExitError) and what it wrote to standard error.
func (c *Cluster) Exec(ctx context.Context, where string, args ...string) (string, error) {
	return c.run(ctx, where, ExecOptions{}, args...)
}

func (c *Cluster) run(ctx context.Context, where string, o ExecOptions, args ...string) (string, error) {
	var stdout, stderr bytes.Buffer
	o.Stdout, o.Stderr = &stdout, &stderr
	p, err := c.Start(ctx, where, o, args...)
	if err != nil {
		return "", err
	}
	if err := p.Wait(); err != nil {
		return stdout.String(), commandError(ctx, where, args, err, stderr.String())
	}
	return stdout.String(), nil
}

func commandError(ctx context.Context, where string, args []string, err error, stderr string) error {
	if ctx.Err() != nil {
		err = errors.Join(ctx.Err(), err)
	}
	return fmt.Errorf("on %s: %s: %w: %s", where, strings.Join(args, " "), err, strings.TrimSpace(stderr))
}

// Kubectl runs the lab's kubectl as administrator and returns its standard output.
// It sees the host's files.
func (c *Cluster) Kubectl(ctx context.Context, args ...string) (string, error) {
	var stdout, stderr bytes.Buffer
	err := c.KubectlWith(ctx, ExecOptions{Stdout: &stdout, Stderr: &stderr}, args...)
	var exit *exec.ExitError
	if errors.As(err, &exit) {
		err = commandError(ctx, layout.Control, append([]string{"kubectl"}, args...), err, stderr.String())
	}
	return stdout.String(), err
}

// KubectlWith runs the lab's kubectl with the given streams.
func (c *Cluster) KubectlWith(ctx context.Context, o ExecOptions, args ...string) error {
	p, err := c.StartKubectl(ctx, o, args...)
	if err != nil {
		return err
	}
	return p.Wait()
}

// StartKubectl starts the lab's kubectl with the given streams.
func (c *Cluster) StartKubectl(ctx context.Context, o ExecOptions, args ...string) (*machine.Process, error) {
	cache, err := kubebuild.Cache()
	if err != nil {
		return nil, err
	}
	return machine.Place{NetNS: c.NetNSPath(layout.Control)}.Start(ctx, machine.Command{
		Args: append([]string{filepath.Join(cache, "bin/kubectl")}, args...),
		// All labs have the same addresses: what kubectl remembers of one is not the next one's.
		Env:   append([]string{"KUBECONFIG=" + c.Kubeconfig(), "KUBECACHEDIR=" + filepath.Join(c.Dir(), "kubectl")}, o.Env...),
		Stdin: o.Stdin, Stdout: o.Stdout, Stderr: o.Stderr,
	})
}

// RESTConfig is the administrator's access to the API server. Its connections are
// opened inside the lab, so it works in any process of root on the host.
func (c *Cluster) RESTConfig() (*rest.Config, error) {
	cfg, err := clientcmd.BuildConfigFromFlags("", c.Kubeconfig())
	if err != nil {
		return nil, fmt.Errorf("read %s: %w", c.Kubeconfig(), err)
	}
	cfg.Dial = c.Dial(layout.Control)
	cfg.QPS, cfg.Burst = 200, 400
	cfg.Wrap(func(rt http.RoundTripper) http.RoundTripper {
		if t, ok := rt.(*http.Transport); ok {
			t.TLSHandshakeTimeout = time.Minute // client-go's 10 s are short for an emulated machine
		}
		return rt
	})
	return cfg, nil
}

// Clientset is a client of the API server as administrator.
func (c *Cluster) Clientset() (*kubernetes.Clientset, error) {
	cfg, err := c.RESTConfig()
	if err != nil {
		return nil, err
	}
	return kubernetes.NewForConfig(cfg)
}

// Dial returns a dialler whose connections start in the network namespace of a
// machine, of "outside", "fabric" or "router". Addresses must be literal.
func (c *Cluster) Dial(where string) func(ctx context.Context, network, address string) (net.Conn, error) {
	path := c.NetNSPath(where)
	return func(ctx context.Context, network, address string) (conn net.Conn, err error) {
		err = netns.Do(path, func() error {
			conn, err = (&net.Dialer{}).DialContext(ctx, network, address)
			return err
		})
		return conn, err
	}
}
