package lab

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"golang.org/x/sync/errgroup"
	corev1 "k8s.io/api/core/v1"

	"github.com/manx-cni/manx/test/lab/controlplane"
	"github.com/manx-cni/manx/test/lab/fabric"
	"github.com/manx-cni/manx/test/lab/image"
	"github.com/manx-cni/manx/test/lab/kubebuild"
	"github.com/manx-cni/manx/test/lab/layout"
	"github.com/manx-cni/manx/test/lab/machine"
	"github.com/manx-cni/manx/test/lab/node"
	"github.com/manx-cni/manx/test/lab/pki"
	"github.com/manx-cni/manx/test/lab/runner"
	"github.com/manx-cni/manx/test/vm"
)

// A light lab has the control plane's etcd and API server, and on its nodes, instead of
// kubelet and containerd, the lab's own runner of pods (package runner). It is up in
// seconds, and everything of Manx is real in it: the agents are the programs of the
// manifest's DaemonSet, with their environment, files, accounts and capabilities; the
// plugin connects the pods.

// KubeProxy is what Options.With has for Services.
const KubeProxy = "kube-proxy"

// extras are what a light lab can have besides.
var extras = []string{KubeProxy}

// checkLight says what of the options does not go together.
func (o Options) checkLight() error {
	for _, w := range o.With {
		if !slices.Contains(extras, w) {
			return fmt.Errorf("with %q: a light lab can have %s", w, strings.Join(extras, ", "))
		}
	}
	switch {
	case !o.Light && len(o.With) > 0:
		return errors.New("--with is for a light lab: a full one has everything")
	case o.ServicesOnCall && !slices.Contains(o.With, KubeProxy):
		return errors.New("a kube-proxy on call in a lab without one")
	case o.Light && len(o.Images) > 0:
		return errNoImages
	case o.Light && o.Manifest == "":
		return errors.New("a light lab without a pod network: its nodes have no other")
	}
	return nil
}

var errNoImages = errors.New("a light lab has no images: its nodes run the programs of a directory (--programs)")

// noTunnels replaces test/vm's answer in tests.
var noTunnels = func() bool { return !vm.HasIPIP() }

// chooseMode sees to it that a light lab does not wait for tunnels that the kernel cannot
// make: it has plain routes where the manifest alone says otherwise, and says so.
func (o *Options) chooseMode() error {
	if !o.Light || o.ControlOnly || !noTunnels() { // of a control plane alone the nodes have another kernel
		return nil
	}
	switch o.Mode {
	case "bgp":
	case "":
		b, err := os.ReadFile(o.Manifest)
		if err != nil {
			return fmt.Errorf("read the manifest: %w", err)
		}
		w, err := takeApart(b)
		if err != nil {
			return err
		}
		if v := w.poolMode(); v != "" && v != "Never" {
			o.Progress(fmt.Sprintf("this kernel has no module ipip: --mode bgp (plain routes) instead of the manifest's %s=%s", poolVariable, v))
			o.Mode = "bgp"
		}
	default:
		return fmt.Errorf("mode %s: this kernel has no module ipip, so that no agent would become ready; "+
			"take --mode bgp, or run the lab in a guest whose kernel has it (bin/vm run)", o.Mode)
	}
	return nil
}

// programs is the directory with Manx's programs.
func (o Options) programs() (string, error) {
	dir := o.Programs
	if dir == "" {
		repo, err := kubebuild.Repository()
		if err != nil {
			return "", fmt.Errorf("find Manx's programs: %w", err)
		}
		dir = filepath.Join(repo, "bin")
	}
	dir, err := filepath.Abs(dir)
	if err != nil {
		return "", err
	}
	if _, err := os.Stat(filepath.Join(dir, "manx-node")); err != nil {
		return "", fmt.Errorf("a light lab runs the programs in %s: %w; build them (make build), or name another directory (--programs)",
			dir, err)
	}
	return dir, nil
}

// nodeImages are the files of Manx's image as a machine sees them.
func nodeImages(programs string) (map[string][]image.File, error) {
	tree, err := image.NodeTree(programs)
	if err != nil {
		return nil, err
	}
	files := tree.Files()
	for i, f := range files {
		// What is below /usr is the same in every machine.
		if f.Source != "" && !strings.HasPrefix(f.Source, "/usr/") && !strings.HasPrefix(f.Source, "/lib") {
			files[i].Source = machine.HostDir + f.Source
		}
	}
	return map[string][]image.File{image.Node: files}, nil
}

// lightPlan is what every node of a light lab is made from. It is kept in the lab's
// directory, for nodes that are added later.
type lightPlan struct {
	Images    map[string][]image.File `json:"images"`
	Pods      []*corev1.Pod           `json:"pods"`
	KubeProxy bool                    `json:"kubeProxy,omitempty"`
	OnCall    bool                    `json:"onCall,omitempty"` // kube-proxy waits for StartServices
}

func (b *builder) upLight(ctx context.Context, o Options, plan fabric.Plan, manifest []byte) error {
	ctx, cancel := context.WithTimeout(ctx, lightPatience())
	defer cancel()
	if err := room(b.Lab, o.Nodes); err != nil {
		return err
	}
	w, err := takeApart(manifest)
	if err != nil {
		return err
	}
	dir, err := o.programs()
	if err != nil {
		return err
	}
	p := lightPlan{Pods: w.everyNode, KubeProxy: slices.Contains(o.With, KubeProxy), OnCall: o.ServicesOnCall}
	if p.Images, err = nodeImages(dir); err != nil {
		return err
	}
	if err := b.savePlan(p); err != nil {
		return err
	}
	if err := b.state.save(b.Lab); err != nil {
		return err
	}
	if o.ControlOnly {
		plan.Subnets, plan.NoGateway, o.Nodes = 1, true, 0
	}
	b.progress(fmt.Sprintf("fabric, etcd, API server and %d light nodes", o.Nodes))
	if err := plan.Create(b.Lab); err != nil {
		return err
	}
	if !o.ControlOnly {
		if err := b.attach(layout.Outside, OutsideAddr(), false); err != nil {
			return err
		}
		if err := b.startRouters(ctx, o); err != nil {
			return err
		}
	}
	ca, err := pki.Create(b.PKI())
	if err != nil {
		return err
	}
	err = controlplane.Prepare(b.Lab, ca, b.bin, hosts(layout.Control), controlplane.Options{
		Audit: o.Audit, DualStack: o.DualStack, Light: true, Services: p.KubeProxy,
		Runner: runner.Config{Images: p.Images}, Pods: on(layout.Control, w.control),
	})
	if err != nil {
		return err
	}
	b.state.Machines = append(b.state.Machines, Machine{Name: layout.Control, Addr: controlplane.Addr()})
	var names []string
	for i := range o.Nodes {
		name := fmt.Sprintf("node%d", i+1)
		if err := b.prepareLight(ca, p, name, subnetOf(i, o.Nodes, plan.Subnets)); err != nil {
			return err
		}
		names = append(names, name)
	}
	if err := b.state.save(b.Lab); err != nil {
		return err
	}
	g, gctx := errgroup.WithContext(ctx)
	g.Go(func() error {
		if err := b.boot(layout.Control); err != nil {
			return err
		}
		if err := b.waitServing(gctx); err != nil {
			return err
		}
		b.progress("the objects of " + o.Manifest + o.changes())
		// The agents read it, so that it is there before their accounts.
		if err := b.publishConfig(gctx, b.state.DualStack); err != nil {
			return b.explain(err, layout.Control, "kube-apiserver")
		}
		if err := b.create(gctx, w); err != nil {
			return b.explain(err, layout.Control, "kube-apiserver")
		}
		return nil
	})
	for _, name := range names {
		g.Go(func() error { return b.boot(name) })
	}
	if err := g.Wait(); err != nil {
		return err
	}
	b.progress("waiting for the nodes")
	if err := b.waitUsable(ctx, names); err != nil {
		return err
	}
	b.state.Complete = true
	return b.state.save(b.Lab)
}

// prepareLight makes a light node's disk and enters it in the state, switched off.
func (b *builder) prepareLight(ca *pki.CA, p lightPlan, name string, subnet int) error {
	addr := fabric.AddrIn(subnet, b.state.NextAddr)
	err := node.PrepareLight(b.Lab, ca, b.bin, name, addr, b.state.addr6(addr), hosts(name),
		node.Light{Images: p.Images, Pods: on(name, p.Pods), KubeProxy: p.KubeProxy, OnCall: p.OnCall})
	if err != nil {
		return err
	}
	b.state.NextAddr++
	b.state.Machines = append(b.state.Machines, Machine{Name: name, Addr: addr})
	return nil
}

// addLight is AddNodeIn in a light lab.
func (b *builder) addLight(ctx context.Context, ca *pki.CA, name string, subnet int) error {
	p, err := b.loadPlan()
	if err != nil {
		return err
	}
	if err := room(b.Lab, 1); err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, lightPatience())
	defer cancel()
	if err := b.prepareLight(ca, p, name, subnet); err != nil {
		return err
	}
	if err := b.boot(name); err != nil {
		return err
	}
	return b.waitUsable(ctx, []string{name})
}

// StartServices starts kube-proxy on the light nodes that there are, in a lab that has it
// on call. It returns before Services are served.
func (c *Cluster) StartServices() error {
	nodes, err := c.Nodes()
	if err != nil {
		return err
	}
	for _, name := range nodes {
		if err := os.WriteFile(filepath.Join(c.Disk(name), node.OnCallFile), nil, 0o644); err != nil {
			return fmt.Errorf("start kube-proxy on %s: %w", name, err)
		}
	}
	return nil
}

// PodNetNS is the path, on this machine, of the network namespace of a pod on a light node.
func (c *Cluster) PodNetNS(node, namespace, name string) (string, error) {
	s, err := loadState(c.Lab)
	if err != nil {
		return "", err
	}
	m := s.machine(node)
	if m == nil {
		return "", unknownMachine(c.Name, node, s)
	}
	if !m.Init.Alive() {
		return "", fmt.Errorf("machine %s of lab %s is off", node, c.Name)
	}
	root := fmt.Sprintf("/proc/%d/root", m.Init.PID)
	target, err := os.Readlink(root + runner.NetNSLink(namespace, name))
	if err != nil {
		return "", fmt.Errorf("pod %s/%s has no network on %s: %w", namespace, name, node, err)
	}
	return root + target, nil
}

func (c *Cluster) planFile() string { return filepath.Join(c.Dir(), "light.json") }

func (c *Cluster) savePlan(p lightPlan) error {
	b, err := json.Marshal(p)
	if err != nil {
		return fmt.Errorf("keep what light nodes are made from: %w", err)
	}
	if err := os.WriteFile(c.planFile(), b, 0o644); err != nil {
		return fmt.Errorf("keep what light nodes are made from: %w", err)
	}
	return nil
}

func (c *Cluster) loadPlan() (p lightPlan, err error) {
	b, err := os.ReadFile(c.planFile())
	if err != nil {
		return p, fmt.Errorf("read what light nodes are made from: %w", err)
	}
	if err := json.Unmarshal(b, &p); err != nil {
		return p, fmt.Errorf("read %s: %w", c.planFile(), err)
	}
	return p, nil
}
