package plugin

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"

	"github.com/containernetworking/cni/pkg/skel"
	"github.com/containernetworking/cni/pkg/types"
	current "github.com/containernetworking/cni/pkg/types/100"

	"github.com/manx-cni/manx/cni-plugin/veth"
	"github.com/manx-cni/manx/internal/attachment"
	"github.com/manx-cni/manx/internal/nodeapi"
)

// add connects a container. Either everything of it exists afterwards, or nothing.
func add(args *skel.CmdArgs) error {
	conf, err := ParseNetConf(args.StdinData)
	if err != nil {
		return err
	}
	if conf.PrevResult != nil {
		return types.NewError(types.ErrInvalidNetworkConfig, "prevResult is set, want manx as the first plugin of the list", "")
	}
	ep, err := podEndpoint(args, conf)
	if err != nil {
		return err
	}
	a := &addition{conf: conf, ep: ep, unused: unusedIn(args.StdinData), trace: newTrace("ADD", conf)}
	defer a.trace.end()
	ctx, cancel := context.WithTimeout(context.Background(), nodeapi.Deadline)
	defer cancel()
	if err := a.run(ctx); err != nil {
		e := nodeapi.AsError(err)
		if undo := a.undo(ctx); undo != nil {
			e = &nodeapi.Error{Code: e.Code, Msg: e.Msg, Details: joinText(e.Details, "and undoing it failed: "+undo.Error())}
		}
		return cniError(e)
	}
	a.close()
	return types.PrintResult(a.result(), conf.CNIVersion)
}

// addition is one ADD under way.
type addition struct {
	conf *NetConf
	ep   nodeapi.Endpoint
	// unused are keys of the configuration, for the agent to tell of.
	unused []string
	trace  *trace

	agent    *nodeapi.Client
	pair     *veth.Pair        // nil until made
	assigned *nodeapi.AddReply // nil until answered
}

// run makes the veth while the agent assigns the address.
func (a *addition) run(ctx context.Context) error {
	var err error
	if a.agent, err = nodeapi.Dial(ctx, a.conf.Socket); err != nil {
		return err
	}
	err = a.agent.SendAdd(ctx, nodeapi.AddRequest{
		Endpoint: a.ep,
		IPv4:     a.conf.IPv4, IPv6: a.conf.IPv6,
		IPv4Pools: a.conf.IPv4Pools, IPv6Pools: a.conf.IPv6Pools, Unused: a.unused,
	})
	if err != nil {
		return err
	}
	a.trace.step("ask")
	pair, vethErr := veth.Create(veth.Config{
		HostIface: a.ep.HostIface, IfName: a.ep.IfName, NetNS: a.ep.NetNS,
		Alias: a.ep.Alias(), OwnPrefix: attachment.AliasPrefix,
		MTU: a.conf.MTU, Queues: a.conf.Queues, Forwarding: a.conf.Forwarding, Secondary: !a.ep.ID().Primary(),
		Live: another(a.ep),
	})
	if vethErr == nil {
		a.pair = pair
	}
	a.trace.step("create veth")
	reply, err := a.agent.RecvAdd(ctx)
	if err == nil {
		a.assigned = &reply
	}
	a.trace.step("wait for address")
	if vethErr != nil {
		return a.vethError(vethErr)
	}
	if err != nil {
		return err
	}
	return a.finish(ctx)
}

func (a *addition) finish(ctx context.Context) error {
	if err := checkAddrs(a.assigned.Addrs); err != nil {
		return err
	}
	mac, err := podMAC(a.assigned.MAC)
	if err != nil {
		return err
	}
	settings := veth.Settings{Addrs: a.assigned.Addrs, MTU: a.assigned.MTU, PodMAC: mac}
	if a.conf.MTU != 0 {
		settings.MTU = 0 // the network configuration has the last word
	}
	if err := a.pair.Configure(settings); err != nil {
		return a.vethError(err)
	}
	a.trace.step("configure")
	err = a.agent.Ready(ctx, nodeapi.ReadyRequest{
		Endpoint: a.ep, HostIndex: a.pair.HostIndex, PodMAC: a.pair.PodMAC.String(),
	})
	a.trace.step("wait for route")
	return err
}

// checkAddrs refuses what could not be configured.
func checkAddrs(addrs []netip.Addr) error {
	var v4, v6 int
	for _, addr := range addrs {
		switch {
		case addr.Is4():
			v4++
		case addr.Is6() && !addr.Is4In6() && addr.Zone() == "":
			v6++
		default:
			return fmt.Errorf("the agent assigned %q, which is no address for a pod", addr)
		}
	}
	if v4 > 1 || v6 > 1 || v4+v6 == 0 {
		return fmt.Errorf("the agent assigned %v, want one address of each family asked for", addrs)
	}
	return nil
}

// podMAC is the hardware address that the agent wants for the pod, or nil.
func podMAC(text string) (net.HardwareAddr, error) {
	if text == "" {
		return nil, nil
	}
	mac, err := net.ParseMAC(text)
	if err != nil || len(mac) != 6 || mac[0]&1 != 0 {
		return nil, fmt.Errorf("the agent gave the hardware address %q, which is not of one interface", text)
	}
	return mac, nil
}

// vethError chooses the code by what is wrong.
func (a *addition) vethError(err error) error {
	code := nodeapi.CodeIO
	if errors.Is(err, veth.ErrNamespaceGone) {
		code = int(types.ErrInvalidNetNS)
	}
	return nodeapi.Errorf(code, "connect pod %s/%s: %v", a.ep.Namespace, a.ep.Pod, err)
}

// undo removes the interface, and only then gives the address back.
func (a *addition) undo(ctx context.Context) error {
	defer a.close()
	if a.pair != nil {
		if err := a.pair.Remove(); err != nil {
			// The agent is told by the closing connection; the runtime's DEL follows.
			return err
		}
	}
	if a.assigned == nil || ctx.Err() != nil {
		return nil // nothing to give back, or no time to wait for that: the agent sees the connection close
	}
	err := a.agent.Abort(ctx)
	var down *nodeapi.UnreachableError
	var slow *nodeapi.SlowError
	if errors.As(err, &down) || errors.As(err, &slow) {
		return nil // dead, or still at it: what it assigned is found by the runtime's DEL
	}
	return err
}

func (a *addition) close() {
	if a.agent != nil {
		a.agent.Close()
	}
	if a.pair != nil {
		a.pair.Close()
	}
}

// result tells the runtime and the plugins after this one. There is no gateway
// and no route in it: the pod's only next hop is on no subnet.
func (a *addition) result() *current.Result {
	r := &current.Result{
		CNIVersion: current.ImplementedSpecVersion,
		Interfaces: []*current.Interface{
			{Name: a.ep.HostIface, Mac: veth.HostMAC.String(), Mtu: a.pair.MTU},
			{Name: a.ep.IfName, Mac: a.pair.PodMAC.String(), Mtu: a.pair.MTU, Sandbox: a.ep.NetNS},
		},
	}
	for _, addr := range a.assigned.Addrs {
		r.IPs = append(r.IPs, &current.IPConfig{
			Interface: current.Int(1),
			Address:   net.IPNet{IP: addr.AsSlice(), Mask: net.CIDRMask(addr.BitLen(), addr.BitLen())},
		})
	}
	return r
}

func joinText(a, b string) string {
	if a == "" {
		return b
	}
	return a + "; " + b
}
