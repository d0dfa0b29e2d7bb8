package lab

import (
	"context"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"

	"golang.org/x/sync/errgroup"

	"github.com/manx-cni/manx/test/lab/fabric"
	"github.com/manx-cni/manx/test/lab/layout"
	"github.com/manx-cni/manx/test/lab/machine"
	"github.com/manx-cni/manx/test/lab/pki"
)

// A lab can be in two places: etcd and API server on a machine at its full speed, the
// nodes in a guest of it that has another kernel and is slow. The two halves are one
// fabric: the guest's network card is a port of the bridges at both of its ends. The
// gateway, the router and the outside host are where the nodes are.
//
//	machine: lab made with ControlOnly          guest: lab made with Join
//	control 172.30.0.2 ── br0 ═══ tap ═ card ═══ br0 ── node1, node2, …, outside, router
//	                                              └──── control: a namespace, for clients

// ClientAddr is where clients of the API server are in a joined lab.
func ClientAddr() netip.Addr { return fabric.Addr(4) }

func (b *builder) upJoined(ctx context.Context, o Options, plan fabric.Plan, _ []byte) error {
	ctx, cancel := context.WithTimeout(ctx, lightPatience())
	defer cancel()
	outside := &Cluster{Lab: layout.Lab{Name: filepath.Base(o.Join), Root: filepath.Dir(o.Join)}}
	p, err := outside.loadPlan()
	if err != nil {
		return fmt.Errorf("join the lab in %s: %w", o.Join, err)
	}
	if err := b.savePlan(p); err != nil {
		return err
	}
	// The keys of the authority too, by which nodes get their certificates.
	if err := machine.CopyTree(outside.PKI(), b.PKI()); err != nil {
		return fmt.Errorf("join the lab in %s: %w", o.Join, err)
	}
	access, err := os.ReadFile(outside.Kubeconfig())
	if err != nil {
		return fmt.Errorf("join the lab in %s: %w", o.Join, err)
	}
	if err := os.WriteFile(b.Kubeconfig(), access, 0o600); err != nil {
		return fmt.Errorf("join the lab in %s: %w", o.Join, err)
	}
	if err := b.state.save(b.Lab); err != nil {
		return err
	}
	b.progress(fmt.Sprintf("fabric and %d light nodes, the control plane outside", o.Nodes))
	if err := plan.Create(b.Lab); err != nil {
		return err
	}
	if err := fabric.Extend(b.Lab, 1, o.JoinDevice); err != nil {
		return err
	}
	if err := b.attach(layout.Outside, OutsideAddr(), false); err != nil {
		return err
	}
	if err := b.attach(layout.Control, ClientAddr(), true); err != nil {
		return err
	}
	if err := b.startRouters(ctx, o); err != nil {
		return err
	}
	ca, err := pki.Open(b.PKI())
	if err != nil {
		return err
	}
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
	var g errgroup.Group
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
