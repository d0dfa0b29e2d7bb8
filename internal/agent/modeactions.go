package agent

import (
	"context"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"time"

	apiv1 "github.com/manx-cni/manx/api/v1"
	"github.com/manx-cni/manx/felix/state"
	"github.com/manx-cni/manx/internal/podnet"
	"github.com/manx-cni/manx/internal/preflight"
	"github.com/manx-cni/manx/ipam"
)

// modeActions connects modes with the rest of the agent.
func (a *Agent) modeActions() modeActions {
	handle := ipipEncap.handle(a.node)
	return modeActions{
		publish:       a.startup.Annotate,
		heldAddresses: func() []netip.Addr { return a.ipam.Held(handle) },
		holdAddresses: func(ctx context.Context, n int) ([]netip.Addr, error) {
			return a.ipam.Assign(ctx, ipam.Request{
				Handle: handle, Attrs: map[string]string{"node": a.node, "type": ipipEncap.addressType},
				Num4: n, Use: apiv1.UseTunnel, Encap: ipipEncap.asked,
			})
		},
		releaseAddress: func(ctx context.Context, addr netip.Addr) error { return a.ipam.ReleaseAddr(ctx, handle, addr) },
		setPodMTU: func(ctx context.Context, mtu int) (int, []string, error) {
			r, err := podnet.SetMTU(ctx, podNetworkSocket, mtu)
			return r.Changed, r.Failed, err
		},
		probe: a.probeNodes,
		answer: func(ctx context.Context, r netReach) error {
			nodes := map[netip.Addr]bool{}
			for _, addr := range r.nodes {
				nodes[addr] = true
			}
			return preflight.Answer(ctx, preflight.Target{Name: a.node, Addr: r.self}, func(addr netip.Addr) bool { return nodes[addr] })
		},
		traffic: func(ctx context.Context) (uint64, bool, error) {
			rx, tx, known, err := a.dataplane.Traffic(ctx)
			return rx + tx, known, err
		},
		changed: func(pool string, was, is state.Way) {
			a.datastore.NodeEvent(a.node, "PoolModeChanged",
				fmt.Sprintf("packets to pool %s now travel with ipipMode %s, before with %s", pool, is, was))
		},
		after: time.After,
	}
}

// probeWait is how long one round of probes waits for answers.
const probeWait = 5 * time.Second

// probeSizes are the largest packets that are sent, in bytes with the outer header; 0
// while the uplink is not known.
type probeSizes struct {
	ipip, plain int
}

// probeSizesOf is what fits through the uplink, or less where the user has set that
// packets are smaller: a path that is too narrow for others is no reason to wait.
func probeSizesOf(set modeSettings, uplink int) probeSizes {
	if uplink == 0 {
		return probeSizes{}
	}
	sizes := probeSizes{ipip: uplink, plain: uplink}
	if set.mtu != 0 {
		sizes.ipip = min(uplink, set.mtu+ipipEncap.overhead)
	}
	if set.podMTU != 0 {
		sizes.plain = min(uplink, set.podMTU)
	}
	return sizes
}

// probeNodes sends probes the new way to all other nodes.
func (a *Agent) probeNodes(ctx context.Context, target state.Way, r netReach) []string {
	configs, failed := r.probes(a.node, target)
	for _, cfg := range configs {
		results, err := preflight.Probe(ctx, cfg)
		if err != nil && ctx.Err() == nil {
			failed = append(failed, err.Error())
		}
		failed = append(failed, unanswered(results)...)
	}
	return failed
}

// probes are what to send to find out whether target works: IPIP to those nodes whose
// packets are to travel in it, plain packets to those whose packets are to travel so. No
// way at all leads to those that failed.
func (r netReach) probes(node string, target state.Way) (configs []preflight.Config, failed []string) {
	var tunnelled, plain []preflight.Target
	for _, name := range slices.Sorted(maps.Keys(r.nodes)) {
		t := preflight.Target{Name: name, Addr: r.nodes[name]}
		near := slices.ContainsFunc(r.uplink.Prefixes, func(p netip.Prefix) bool { return p.Contains(t.Addr) })
		switch {
		case target == state.IPIPAlways || target == state.IPIPCrossSubnet && !near:
			tunnelled = append(tunnelled, t)
		case near:
			t.TunnelAddr = r.tunnels[name] // CheckPod goes there
			plain = append(plain, t)
		default:
			failed = append(failed, fmt.Sprintf("%s (%s) is in no subnet of %s, so that no plain route leads there: use CrossSubnet",
				name, t.Addr, r.uplink.Name))
		}
	}
	add := func(kind preflight.Kind, targets []preflight.Target, size int) {
		if len(targets) == 0 {
			return
		}
		self := preflight.Target{Name: node, Addr: r.self}
		if kind == preflight.KindBGP {
			self.TunnelAddr = r.tunnel
		}
		configs = append(configs, preflight.Config{Kind: kind, Self: self, Targets: targets, Uplink: r.uplink.Name, MTU: size, Wait: probeWait})
	}
	for _, kind := range ipipEncap.probes {
		add(kind, tunnelled, r.sizes.ipip)
	}
	add(preflight.KindBGP, plain, r.sizes.plain)
	return configs, failed
}

// unanswered says which probes were not answered. Who is a BGP peer of whom has nothing
// to do with the pools' modes.
func unanswered(results []preflight.Result) (failed []string) {
	silent := map[preflight.Target]bool{} // also to packets with node addresses
	for _, res := range results {
		if res.Answered || res.Check == preflight.CheckTCP || res.Check == preflight.CheckPod && silent[res.Peer] {
			continue
		}
		what := fmt.Sprintf("%s does not answer the probe %s", res.Peer, res.Check)
		switch {
		case res.Detail != "":
			what += ": " + res.Detail
		case res.Check == preflight.CheckPod:
			what += ": plain packets with pod addresses do not pass, those with node addresses do"
		}
		silent[res.Peer] = silent[res.Peer] || res.Check == preflight.CheckMTU
		failed = append(failed, what)
	}
	return failed
}
