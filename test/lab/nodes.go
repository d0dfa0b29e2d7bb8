package lab

import (
	"context"
	"errors"
	"fmt"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/manx-cni/manx/test/lab/fabric"
	"github.com/manx-cni/manx/test/lab/kubebuild"
	"github.com/manx-cni/manx/test/lab/layout"
	"github.com/manx-cni/manx/test/lab/pki"
	"github.com/manx-cni/manx/test/lab/proc"
	"github.com/manx-cni/manx/test/lab/sweep"
)

func inParallel(names []string, f func(name string) error) error {
	var g errgroup.Group
	for _, name := range names {
		g.Go(func() error { return f(name) })
	}
	return g.Wait()
}

// change runs f with the lab's lock held and its state loaded.
func (c *Cluster) change(ctx context.Context, f func(*builder) error) error {
	unlock, err := lock(ctx, c.Lab, false, c.progress)
	if err != nil {
		return err
	}
	defer unlock()
	s, err := loadState(c.Lab)
	if err != nil {
		return err
	}
	return f(&builder{Cluster: c, state: s})
}

// AddNode makes a new node in the first subnet, with the given images besides the lab's
// own, and returns when it is registered; a light one when pods can be made on it.
func (c *Cluster) AddNode(ctx context.Context, name string, images ...string) error {
	return c.AddNodeIn(ctx, 1, name, images...)
}

// AddNodeIn is AddNode for any subnet; the first is 1.
func (c *Cluster) AddNodeIn(ctx context.Context, subnet int, name string, images ...string) error {
	if err := layout.CheckNode(name); err != nil {
		return err
	}
	return c.change(ctx, func(b *builder) error {
		if subnet < 1 || subnet > b.state.Subnets {
			return fmt.Errorf("lab %s has no subnet %d, it has %d", c.Name, subnet, b.state.Subnets)
		}
		if b.state.machine(name) != nil {
			return fmt.Errorf("lab %s has a node %s already", c.Name, name)
		}
		if b.state.NextAddr >= firstNodeAddr+maxNodes {
			return fmt.Errorf("lab %s has used up its %d node addresses", c.Name, maxNodes)
		}
		var err error
		programs := kubebuild.NodePrograms
		if b.state.Light {
			programs = kubebuild.LightLab // the lab has what else it needs
		}
		if b.bin, err = kubebuild.Build(ctx, b.progress, programs...); err != nil {
			return err
		}
		ca, err := pki.Open(b.PKI())
		if err != nil {
			return err
		}
		if b.state.Light {
			if len(images) > 0 {
				return fmt.Errorf("add node %s: %w", name, errNoImages)
			}
			return b.addLight(ctx, ca, name, subnet)
		}
		if err := b.prepareNode(ca, name, subnet); err != nil {
			return err
		}
		stocks, err := store(ctx, b.bin, images, b.progress)
		if err != nil {
			return err
		}
		if err := b.startNode(ctx, name, stocks, images); err != nil {
			return err
		}
		return b.waitNodes(ctx, []string{name}, registered)
	})
}

// StopNode switches a machine off as a power cut does: every process in it ends at
// once and its interfaces vanish. Its disk stays. The control plane is a machine too.
func (c *Cluster) StopNode(ctx context.Context, name string) error {
	return c.change(ctx, func(b *builder) error { return b.powerOff(ctx, name) })
}

// StartNode switches a machine on and returns when its containerd, or its API server,
// answers; a light node at once, WaitReady waits for it.
func (c *Cluster) StartNode(ctx context.Context, name string) error {
	return c.change(ctx, func(b *builder) error { return b.powerOn(ctx, name) })
}

// RestartNode switches a machine off and on again.
func (c *Cluster) RestartNode(ctx context.Context, name string) error {
	return c.change(ctx, func(b *builder) error {
		if err := b.powerOff(ctx, name); err != nil {
			return err
		}
		return b.powerOn(ctx, name)
	})
}

func (b *builder) powerOff(ctx context.Context, name string) error {
	m := b.state.machine(name)
	if m == nil {
		return unknownMachine(b.Name, name, b.state)
	}
	ctx, cancel := context.WithTimeout(ctx, 30*time.Second)
	defer cancel()
	errs := []error{}
	if m.Init != (proc.ID{}) {
		errs = append(errs, m.Init.Kill(ctx))
	}
	if m.ToR > 0 {
		errs = append(errs, fabric.UnplugBehind(b.Lab, m.ToR, b.state.DualStack))
	}
	errs = append(errs, fabric.Detach(b.Lab, name), sweep.Cgroups(ctx, b.Lab, name))
	if err := errors.Join(errs...); err != nil {
		return fmt.Errorf("switch %s off: %w", name, err)
	}
	m.Init = proc.ID{}
	return b.state.save(b.Lab)
}

func (b *builder) powerOn(ctx context.Context, name string) error {
	m := b.state.machine(name)
	switch {
	case m == nil:
		return unknownMachine(b.Name, name, b.state)
	case m.Init.Alive():
		return fmt.Errorf("machine %s of lab %s is on already", name, b.Name)
	}
	// A machine that died by itself has left its namespace and cgroups.
	if err := b.powerOff(ctx, name); err != nil {
		return err
	}
	if err := b.boot(name); err != nil {
		return err
	}
	switch {
	case name == layout.Control:
		return b.waitAPI(ctx)
	case m.Daemon != "":
		return b.router(*m).WaitServing(ctx)
	case b.state.Light:
		return nil
	}
	return b.waitContainerd(ctx, name)
}
