package lab

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"strings"

	"golang.org/x/sync/errgroup"

	"github.com/manx-cni/manx/test/lab/fabric"
	"github.com/manx-cni/manx/test/lab/layout"
	"github.com/manx-cni/manx/test/lab/machine"
	"github.com/manx-cni/manx/test/lab/router"
)

// A lab can have routers of other makers (package router): top-of-rack routers, which are
// external peers with a host behind them, and route reflectors, which are internal ones.
// They wait for the nodes to connect.

// The AS numbers: that of the nodes unless a cluster says otherwise, and that of tor1;
// tor2 has the next.
const (
	ClusterAS uint32 = 64512
	ToRAS     uint32 = 65001
)

// checkRouters completes what the options say of routers.
func (o *Options) checkRouters() error {
	if o.ToR != "" && o.ToRs == 0 {
		o.ToRs = 1
	}
	switch {
	case o.ToR == "" && o.ToRs != 0:
		return fmt.Errorf("--tors is for --tor: want --tor %s", strings.Join(router.Daemons(), "|"))
	case o.ToRs < 0 || o.ToRs > fabric.MaxToRs:
		return fmt.Errorf("%d top-of-rack routers: want 1 to %d", o.ToRs, fabric.MaxToRs)
	case o.Reflectors < 0 || o.Reflectors > fabric.MaxReflectors:
		return fmt.Errorf("%d route reflectors: want 0 to %d", o.Reflectors, fabric.MaxReflectors)
	case o.ToR != "":
		return router.Check(o.ToR)
	}
	return nil
}

// routers are those that the options ask for, switched off.
func (o Options) routers() (ms []Machine) {
	if o.ControlOnly { // they are where the nodes are
		return nil
	}
	for n := 1; n <= o.ToRs; n++ {
		ms = append(ms, Machine{Name: layout.ToR(n), Addr: fabric.ToRAddr(n), Daemon: o.ToR, ToR: n})
	}
	daemon := o.ToR
	if daemon == "" {
		daemon = router.BIRD
	}
	for n := 1; n <= o.Reflectors; n++ {
		ms = append(ms, Machine{Name: layout.Reflector(n), Addr: fabric.ReflectorAddr(n), Daemon: daemon})
	}
	return ms
}

// routerPrograms makes sure that the daemons can run here.
func (o Options) routerPrograms(ctx context.Context) (layers []string, err error) {
	for _, m := range o.routers() {
		if layers, err = router.Ready(ctx, m.Daemon, o.Progress); err != nil {
			return nil, err
		}
	}
	return layers, nil
}

// startRouters makes the routers that the options ask for, on a fabric that is there, and
// returns when they serve.
func (b *builder) startRouters(ctx context.Context, o Options) error {
	ms := o.routers()
	if len(ms) == 0 {
		return nil
	}
	var names []string
	for _, m := range ms {
		b.state.Machines = append(b.state.Machines, m)
		r := b.router(m)
		if err := r.Prepare(b.layers, hosts(m.Name), b.routerConfig(m)); err != nil {
			return err
		}
		names = append(names, m.Name)
	}
	if err := b.state.save(b.Lab); err != nil {
		return err
	}
	b.progress("routers: " + strings.Join(names, ", "))
	if o.ToRs > 0 {
		if err := fabric.MakeBehind(b.Lab); err != nil {
			return err
		}
	}
	for _, m := range ms { // one by one: each changes the default route of the host behind
		if err := b.boot(m.Name); err != nil {
			return err
		}
	}
	var g errgroup.Group
	for _, m := range ms {
		g.Go(func() error { return b.router(m).WaitServing(ctx) })
	}
	return g.Wait()
}

// routerConfig is what a router does unless it is told otherwise.
func (b *builder) routerConfig(m Machine) router.Config {
	c := router.Config{AS: ClusterAS, PeerAS: ClusterAS, Reflector: m.ToR == 0}
	subnets := b.state.Subnets
	if m.ToR > 0 {
		c.AS, subnets = ToRAS+uint32(m.ToR)-1, 1 // an external peer is one link away
		c.Announce = append(c.Announce, fabric.BehindNet())
		if b.state.DualStack {
			c.Announce = append(c.Announce, fabric.BehindNet6())
		}
	}
	for n := 1; n <= subnets; n++ {
		c.Ranges = append(c.Ranges, fabric.Subnet(n))
		if b.state.DualStack {
			c.Ranges = append(c.Ranges, fabric.Subnet6(n))
		}
	}
	return c
}

// router is the router on a machine of the state; its machine's PID 1 is looked up when it is used.
func (b *builder) router(m Machine) *router.Router { return b.Cluster.router(m, b.state.addr6(m.Addr)) }

func (c *Cluster) router(m Machine, addr6 netip.Addr) *router.Router {
	return &router.Router{Lab: c.Lab, Name: m.Name, Daemon: m.Daemon, Addr: m.Addr, Addr6: addr6,
		Place: func() (machine.Place, error) { return c.place(m.Name) }}
}

// Routers are the lab's routers: tor1, tor2, rr1, …
func (c *Cluster) Routers() (rs []*router.Router, err error) {
	s, err := loadState(c.Lab)
	if err != nil {
		return nil, err
	}
	for _, m := range s.Machines {
		if m.Daemon != "" {
			rs = append(rs, c.router(m, s.addr6(m.Addr)))
		}
	}
	return rs, nil
}

// Router is the router of that name.
func (c *Cluster) Router(name string) (*router.Router, error) {
	rs, err := c.Routers()
	if err != nil {
		return nil, err
	}
	var names []string
	for _, r := range rs {
		if r.Name == name {
			return r, nil
		}
		names = append(names, r.Name)
	}
	if len(names) == 0 {
		return nil, errors.New("lab " + c.Name + " has no routers; \"lab up --tor bird\" makes one with")
	}
	return nil, fmt.Errorf("lab %s has no router %q; it has %s", c.Name, name, strings.Join(names, ", "))
}
