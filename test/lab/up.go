package lab

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/manx-cni/manx/test/lab/controlplane"
	"github.com/manx-cni/manx/test/lab/fabric"
	"github.com/manx-cni/manx/test/lab/host"
	"github.com/manx-cni/manx/test/lab/image"
	"github.com/manx-cni/manx/test/lab/kubebuild"
	"github.com/manx-cni/manx/test/lab/layout"
	"github.com/manx-cni/manx/test/lab/machine"
	"github.com/manx-cni/manx/test/lab/node"
	"github.com/manx-cni/manx/test/lab/pki"
	"github.com/manx-cni/manx/test/lab/proc"
	"github.com/manx-cni/manx/test/lab/sweep"
)

// firstNodeAddr is the last octet of the first node's address.
const firstNodeAddr = 11

// maxNodes leaves room in the subnet.
const maxNodes = 200

// Options say what lab to bring up.
type Options struct {
	Name  string // layout.DefaultName when empty
	Nodes int    // 3 when zero; they are called node1, node2, …
	// Subnets is how many the fabric has: 1 when zero, at most fabric.MaxSubnets. The nodes are
	// dealt to them in order: of four nodes in two subnets, the first two are in the first.
	Subnets int
	// MTU, in bytes, is that of the machines' uplinks; fabric.DefaultMTU when zero.
	MTU int
	// DualStack gives machines, Services and, with Manifest, pods IPv6 beside IPv4.
	DualStack bool
	// Manifest is created with kubectl once the API server is ready, and Up then waits
	// for the nodes to be Ready. Empty: no pod network, and the nodes only have to be registered.
	Manifest string
	// Mode changes what Manifest says of IPIP, see ManifestForMode; empty leaves it as it is.
	Mode string
	// Images are docker archives to load into every node before Manifest is created.
	Images []string
	// Audit has the API server log every request, for RecordRequests.
	Audit bool
	// Light makes a lab without kubelets and container runtimes, see light.go. It needs Manifest.
	// Up returns when pods can be made on all nodes; WaitReady waits for the BGP sessions, too.
	// On a kernel without ipip the empty Mode is "bgp" when the manifest asks for tunnels.
	Light bool
	// With names what a light lab has besides: KubeProxy.
	With []string
	// ServicesOnCall has KubeProxy of With wait for StartServices: on an emulated machine it is
	// what keeps all others from starting.
	ServicesOnCall bool
	// Programs is the directory of Manx's programs that light nodes run; empty is bin of the repository.
	Programs string
	// ControlOnly makes the control plane of a light lab and no node: they are in a guest,
	// whose network card is plugged into bridge br0 of this lab's fabric, and which makes
	// them with Join.
	ControlOnly bool
	// Join is the directory of a lab made with ControlOnly on the machine around this one,
	// readable here, and the control plane of this light lab. JoinDevice is the network
	// device that leads there.
	Join, JoinDevice string
	// ToR is the daemon of the top-of-rack routers, one of router.Daemons; empty is none. They
	// are called tor1, tor2; ToRs is how many, 1 when zero. Behind them is the host "behind".
	ToR  string
	ToRs int
	// Reflectors is how many route reflectors there are: rr1, rr2, …, with the daemon ToR, or BIRD.
	Reflectors int
	// Progress gets a line for each step; nil is silence.
	Progress func(string)
}

// Up brings up a lab. A lab that an earlier Up left incomplete is removed first.
// When Up fails it leaves what there is, for a look at the logs; Down removes it.
func Up(ctx context.Context, o Options) (*Cluster, error) {
	if o.Name == "" {
		o.Name = layout.DefaultName
	}
	if o.Nodes == 0 {
		o.Nodes = 3
	}
	if o.Nodes < 0 || o.Nodes > maxNodes {
		return nil, fmt.Errorf("a lab of %d nodes: want 1 to %d", o.Nodes, maxNodes)
	}
	plan, err := fabric.Plan{Subnets: o.Subnets, MTU: o.MTU, DualStack: o.DualStack}.Complete()
	if err != nil {
		return nil, err
	}
	if o.Progress == nil {
		o.Progress = func(string) {}
	}
	for _, f := range o.Images {
		if _, err := os.Stat(f); err != nil {
			return nil, fmt.Errorf("bring up lab %s: %w", o.Name, err)
		}
	}
	if err := o.checkRouters(); err != nil {
		return nil, fmt.Errorf("bring up lab %s: %w", o.Name, err)
	}
	if err := o.checkLight(); err != nil {
		return nil, fmt.Errorf("bring up lab %s: %w", o.Name, err)
	}
	if err := o.chooseMode(); err != nil {
		return nil, fmt.Errorf("bring up lab %s: %w", o.Name, err)
	}
	manifest, err := o.manifest()
	if err != nil {
		return nil, fmt.Errorf("bring up lab %s: %w", o.Name, err)
	}
	l, err := layout.New(o.Name)
	if err != nil {
		return nil, err
	}
	if err := host.Ready(ctx, o.Progress); err != nil {
		return nil, err
	}
	layers, err := o.routerPrograms(ctx)
	if err != nil {
		return nil, fmt.Errorf("bring up lab %s: %w", o.Name, err)
	}
	bin, err := kubebuild.Build(ctx, o.Progress, o.kubernetes()...)
	if err != nil {
		return nil, err
	}
	unlock, err := lock(ctx, l, true, o.Progress)
	if err != nil {
		return nil, err
	}
	defer unlock()
	if err := clearIncomplete(ctx, l, o.Progress); err != nil {
		return nil, err
	}
	b := &builder{Cluster: &Cluster{Lab: l, progress: o.Progress}, bin: bin, layers: layers, state: &state{
		Kubernetes: kubebuild.Version, Created: time.Now().UTC().Truncate(time.Second), NextAddr: firstNodeAddr, Subnets: plan.Subnets,
		DualStack: plan.DualStack, Light: o.Light, Joined: o.Join != "",
	}}
	up := b.up
	switch {
	case o.Join != "":
		up = b.upJoined
	case o.Light:
		up = b.upLight
	}
	if err := up(ctx, o, plan, manifest); err != nil {
		return nil, fmt.Errorf("bring up lab %s (\"lab down --name %[1]s\" removes what there is of it): %w", l.Name, err)
	}
	return b.Cluster, nil
}

// kubernetes are the programs that the lab runs.
func (o Options) kubernetes() []string {
	switch {
	case !o.Light:
		return kubebuild.FullLab
	case slices.Contains(o.With, KubeProxy):
		return slices.Concat(kubebuild.LightLab, kubebuild.LightServices)
	}
	return kubebuild.LightLab
}

// clearIncomplete makes room, unless the lab is up. The lab's directory stays: it is the lock.
func clearIncomplete(ctx context.Context, l layout.Lab, progress func(string)) error {
	s, err := loadState(l)
	if err == nil && s.Complete {
		return fmt.Errorf("lab %s is up already; \"lab status --name %[1]s\" shows it, \"lab down --name %[1]s\" removes it", l.Name)
	}
	entries, err := os.ReadDir(l.Dir())
	if err != nil {
		return fmt.Errorf("look at %s: %w", l.Dir(), err)
	}
	if err := notElsewhere(l); err != nil {
		return err
	}
	if len(entries) == 0 && len(sweep.Find(l)) <= 1 {
		return nil
	}
	progress("removing what an interrupted start left")
	return sweep.Contents(ctx, l)
}

func notElsewhere(l layout.Lab) error {
	if root, ok := sweep.Elsewhere(l); ok {
		return fmt.Errorf("a lab %s is running under %s; choose another name, or set %s=%[2]s to work with that one",
			l.Name, root, layout.RootEnv)
	}
	return nil
}

// builder is a Cluster under construction, or one whose machines are being changed.
// The lab's lock is held as long as it is used.
type builder struct {
	*Cluster
	bin    string
	layers []string // of the routers' machines

	mu    sync.Mutex // guards state: machines boot in parallel
	state *state

	sharing sync.Mutex // held while the lab's copy of the images is made
}

func (b *builder) up(ctx context.Context, o Options, plan fabric.Plan, manifest []byte) error {
	if err := b.state.save(b.Lab); err != nil {
		return err
	}
	b.progress(fmt.Sprintf("fabric, control plane and %d nodes", o.Nodes))
	if err := plan.Create(b.Lab); err != nil {
		return err
	}
	if err := b.attach(layout.Outside, OutsideAddr(), false); err != nil {
		return err
	}
	if err := b.startRouters(ctx, o); err != nil {
		return err
	}
	ca, err := pki.Create(b.PKI())
	if err != nil {
		return err
	}
	opts := controlplane.Options{Audit: o.Audit, DualStack: o.DualStack}
	if err := controlplane.Prepare(b.Lab, ca, b.bin, hosts(layout.Control), opts); err != nil {
		return err
	}
	b.state.Machines = append(b.state.Machines, Machine{Name: layout.Control, Addr: controlplane.Addr()})
	var names []string
	for i := range o.Nodes {
		name := fmt.Sprintf("node%d", i+1)
		if err := b.prepareNode(ca, name, subnetOf(i, o.Nodes, plan.Subnets)); err != nil {
			return err
		}
		names = append(names, name)
	}
	if err := b.state.save(b.Lab); err != nil {
		return err
	}
	images, err := store(ctx, b.bin, o.Images, b.progress)
	if err != nil {
		return err
	}
	g, gctx := errgroup.WithContext(ctx)
	g.Go(func() error { return b.startControl(gctx) })
	for _, name := range names {
		g.Go(func() error { return b.startNode(gctx, name, images, o.Images) })
	}
	if err := g.Wait(); err != nil {
		return err
	}
	b.progress("waiting for the nodes to register")
	if err := b.waitNodes(ctx, names, registered); err != nil {
		return err
	}
	if manifest != nil {
		b.progress("kubectl create -f " + o.Manifest + o.changes())
		if err := b.install(ctx, manifest, names); err != nil {
			return err
		}
	}
	b.state.Complete = true
	return b.state.save(b.Lab)
}

// subnetOf is the subnet, counted from 1, of the i-th of n nodes, counted from 0.
func subnetOf(i, n, subnets int) int { return 1 + i*subnets/n }

// prepareNode makes a node's disk and enters it in the state, switched off.
func (b *builder) prepareNode(ca *pki.CA, name string, subnet int) error {
	addr := fabric.AddrIn(subnet, b.state.NextAddr)
	if err := node.Prepare(b.Lab, ca, b.bin, name, addr, b.state.addr6(addr), hosts(name)); err != nil {
		return err
	}
	b.state.NextAddr++
	b.state.Machines = append(b.state.Machines, Machine{Name: name, Addr: addr})
	return nil
}

// attach plugs a machine, or the outside host, into the fabric.
func (b *builder) attach(name string, addr netip.Addr, defaultRoute bool) error {
	if b.state.DualStack { // never changed, so it needs no lock
		return fabric.AttachDual(b.Lab, name, addr, defaultRoute)
	}
	return fabric.Attach(b.Lab, name, addr, defaultRoute)
}

// boot switches a machine on.
func (b *builder) boot(name string) error {
	b.mu.Lock()
	m := *b.state.machine(name)
	b.mu.Unlock()
	if err := b.attach(name, m.Addr, m.Daemon == ""); err != nil {
		return err
	}
	if m.ToR > 0 {
		if err := fabric.PlugBehind(b.Lab, m.ToR, b.state.DualStack); err != nil {
			return err
		}
	}
	id, err := machine.Boot(b.Machine(name))
	if id != (proc.ID{}) {
		b.mu.Lock()
		defer b.mu.Unlock()
		b.state.machine(name).Init = id
		err = errors.Join(err, b.state.save(b.Lab))
	}
	return err
}

func (b *builder) startControl(ctx context.Context) error {
	if err := b.boot(layout.Control); err != nil {
		return err
	}
	if err := b.waitAPI(ctx); err != nil {
		return err
	}
	b.progress("API server ready")
	return b.publishConfig(ctx, b.state.DualStack)
}

// startNode switches a node on that has the base images and the given ones, from the
// store of both when there is one.
func (b *builder) startNode(ctx context.Context, name, store string, images []string) error {
	stocked, err := b.stock(ctx, name, store)
	if err != nil {
		return err
	}
	if !stocked {
		base, err := baseImages(b.bin)
		if err != nil {
			return err
		}
		images = slices.Concat(base, images)
	}
	if err := b.boot(name); err != nil {
		return err
	}
	if err := b.waitContainerd(ctx, name); err != nil {
		return err
	}
	if !stocked {
		for _, archive := range images {
			if err := b.loadImage(ctx, name, archive); err != nil {
				return err
			}
		}
	}
	b.progress(name + ": containerd and images ready")
	return nil
}

func (b *builder) install(ctx context.Context, manifest []byte, names []string) error {
	var out bytes.Buffer
	o := ExecOptions{Stdin: bytes.NewReader(manifest), Stdout: &out, Stderr: &out}
	if err := b.KubectlWith(ctx, o, "create", "-f", "-"); err != nil {
		return fmt.Errorf("create the manifest: %w\n%s", err, out.String())
	}
	b.progress("waiting for the nodes to be Ready")
	if err := b.waitNodes(ctx, names, ready); err != nil {
		pods, podErr := b.Kubectl(context.WithoutCancel(ctx), "get", "pods", "-A", "-o", "wide")
		return errors.Join(err, podErr, errors.New("pods:\n"+pods))
	}
	return nil
}

// baseImages makes the images that every node gets, in the cache.
func baseImages(bin string) ([]string, error) {
	dir := filepath.Join(filepath.Dir(bin), "images")
	pause, agnhost := filepath.Join(dir, "pause.tar"), filepath.Join(dir, "agnhost.tar")
	if err := image.BuildPause(filepath.Join(bin, "pause"), pause); err != nil {
		return nil, err
	}
	if err := image.BuildAgnhost(filepath.Join(bin, "agnhost"), agnhost); err != nil {
		return nil, err
	}
	return []string{pause, agnhost}, nil
}

func hosts(self string) []byte {
	var b strings.Builder
	b.WriteString("127.0.0.1 localhost\n::1 localhost ip6-localhost\n")
	fmt.Fprintf(&b, "%s %s\n%s %s\n", controlplane.Addr(), layout.Control, OutsideAddr(), layout.Outside)
	if self != layout.Control {
		fmt.Fprintf(&b, "127.0.1.1 %s\n", self)
	}
	return []byte(b.String())
}

// Down removes the lab called name, whatever state it is in; that there is none is no error.
func Down(ctx context.Context, name string, progress func(string)) error {
	l, err := layout.New(name)
	if err != nil {
		return err
	}
	if progress == nil {
		progress = func(string) {}
	}
	if os.Geteuid() != 0 {
		return errors.New("take a lab down as root (sudo)")
	}
	if err := notElsewhere(l); err != nil {
		return err
	}
	unlock, err := lock(ctx, l, false, progress)
	if err == nil {
		defer unlock()
	} else if !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return sweep.Lab(ctx, l)
}
