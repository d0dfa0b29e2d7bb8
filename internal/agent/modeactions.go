package agent

import (
	"context"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"time"

	apiv1 "github.com/manx-cni/manx/api/v1"
	"github.com/manx-cni/manx/felix/calc"
	"github.com/manx-cni/manx/internal/podnet"
	"github.com/manx-cni/manx/internal/preflight"
	"github.com/manx-cni/manx/ipam"
)

// tunnelHandle is Calico's IPAM handle of a node's IPIP tunnel address, and
// tunnelType the type it writes beside it.
func tunnelHandle(node string) string { return "ipip-tunnel-addr-" + node }

const tunnelType = "ipipTunnelAddress"

// modeActions connects modes with the rest of the agent.
func (a *Agent) modeActions() modeActions {
	handle := tunnelHandle(a.node)
	return modeActions{
		publish: a.startup.Annotate,
		heldAddress: func() (addr netip.Addr) {
			if held := a.ipam.Held(handle); len(held) > 0 {
				addr = held[0]
			}
			return addr
		},
		holdAddress: func(ctx context.Context) (netip.Addr, error) {
			got, err := a.ipam.Assign(ctx, ipam.Request{
				Handle: handle, Attrs: map[string]string{"node": a.node, "type": tunnelType}, Num4: 1, Use: apiv1.UseTunnel, IPIP: true,
			})
			if err != nil {
				return netip.Addr{}, err
			}
			return got[0], nil
		},
		releaseAddress: func(ctx context.Context) error {
			_, err := a.ipam.Release(ctx, handle)
			return err
		},
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
		changed: func(pool string, was, is calc.EncapMode) {
			a.datastore.NodeEvent(a.node, "PoolModeChanged", fmt.Sprintf("packets to pool %s now travel with ipipMode %s, before with %s", pool, is, was))
		},
		after: time.After,
	}
}

// probeWait is how long one round of probes waits for answers.
const probeWait = 5 * time.Second

// probeNodes sends probes the new way to all other nodes: in IPIP when some packets
// are to travel in it, and as they are when some are to travel so.
func (a *Agent) probeNodes(ctx context.Context, target calc.EncapMode, r netReach) []string {
	var tunnelled, plain []preflight.Target
	var failed []string
	for _, name := range slices.Sorted(maps.Keys(r.nodes)) {
		t := preflight.Target{Name: name, Addr: r.nodes[name]}
		near := slices.ContainsFunc(r.uplink.Prefixes, func(p netip.Prefix) bool { return p.Contains(t.Addr) })
		switch {
		case target == calc.Always || target == calc.CrossSubnet && !near:
			tunnelled = append(tunnelled, t)
		case near:
			plain = append(plain, t)
		default:
			failed = append(failed, fmt.Sprintf("%s (%s) is in no subnet of %s, so that no plain route leads there: use CrossSubnet", name, t.Addr, r.uplink.Name))
		}
	}
	probe := func(kind preflight.Kind, targets []preflight.Target) {
		if len(targets) == 0 {
			return
		}
		results, err := preflight.Probe(ctx, preflight.Config{
			Kind: kind, Self: preflight.Target{Name: a.node, Addr: r.self}, Targets: targets, MTU: r.uplink.MTU, Wait: probeWait,
		})
		if err != nil && ctx.Err() == nil {
			failed = append(failed, err.Error())
		}
		for _, res := range results {
			// Who is a BGP peer of whom has nothing to do with the pools' modes.
			if !res.Answered && res.Check != preflight.CheckTCP {
				what := fmt.Sprintf("%s does not answer the probe %s", res.Peer, res.Check)
				if res.Detail != "" {
					what += ": " + res.Detail
				}
				failed = append(failed, what)
			}
		}
	}
	probe(preflight.KindIPIP, tunnelled)
	probe(preflight.KindTunnel, tunnelled)
	probe(preflight.KindBGP, plain)
	return failed
}
