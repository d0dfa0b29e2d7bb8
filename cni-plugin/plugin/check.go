package plugin

import (
	"context"
	"encoding/json"
	"fmt"
	"net/netip"
	"strings"

	"github.com/containernetworking/cni/pkg/skel"
	"github.com/containernetworking/cni/pkg/types"
	current "github.com/containernetworking/cni/pkg/types/100"
	"github.com/containernetworking/cni/pkg/version"

	"github.com/manx-cni/manx/cni-plugin/veth"
	"github.com/manx-cni/manx/internal/attachment"
	"github.com/manx-cni/manx/internal/nodeapi"
)

// codeDamaged is the plugin's own error code (the specification leaves 100 and
// above to plugins): the container's network is not what ADD reported.
const codeDamaged = 100

// check compares the kernel and the agent with what ADD reported, and names every
// difference.
func check(args *skel.CmdArgs) error {
	conf, err := ParseNetConf(args.StdinData)
	if err != nil {
		return err
	}
	ep, err := podEndpoint(args, conf)
	if err != nil {
		return err
	}
	inPod := ep.IfName
	ep = recorded(ep)
	expect, wrong, err := expected(conf, ep, inPod)
	if err != nil {
		return err
	}
	found, err := veth.Check(expect)
	if err != nil {
		return cniError(nodeapi.Errorf(nodeapi.CodeIO, "check pod %s/%s: %v", ep.Namespace, ep.Pod, err))
	}
	wrong = append(wrong, found...)
	ctx, cancel := context.WithTimeout(context.Background(), nodeapi.Deadline)
	defer cancel()
	if err := askCheck(ctx, conf.Socket, ep, expect.Addrs); err != nil {
		if len(wrong) == 0 {
			return cniError(err)
		}
		wrong = append(wrong, "the agent says: "+err.Error())
	}
	if len(wrong) > 0 {
		return types.NewError(codeDamaged, fmt.Sprintf("pod %s/%s: %s", ep.Namespace, ep.Pod, strings.Join(wrong, "; ")), "")
	}
	return nil
}

func askCheck(ctx context.Context, socket string, ep nodeapi.Endpoint, addrs []netip.Addr) error {
	agent, err := nodeapi.Dial(ctx, socket)
	if err != nil {
		return err
	}
	defer agent.Close()
	return agent.Check(ctx, nodeapi.CheckRequest{Endpoint: ep, Addrs: addrs})
}

// expected reads prevResult: what must be there, and what in it cannot be right.
//
// inPod is the name of the pod's end.
func expected(conf *NetConf, ep nodeapi.Endpoint, inPod string) (veth.Expect, []string, error) {
	e := veth.Expect{
		HostIface: ep.HostIface, IfName: inPod, NetNS: ep.NetNS, Alias: ep.Alias(), MTU: conf.MTU, Secondary: inPod != attachment.DefaultIfName,
	}
	prev, err := prevResult(conf)
	if err != nil {
		return e, nil, err
	}
	var wrong []string
	eth, host := -1, false
	for i, iface := range prev.Interfaces {
		switch {
		case iface.Sandbox == "" && iface.Name == ep.HostIface:
			host = true
		case iface.Sandbox == ep.NetNS && iface.Name == inPod:
			eth, e.PodMAC = i, iface.Mac
		}
	}
	if !host {
		wrong = append(wrong, "prevResult lacks the node's interface "+ep.HostIface)
	}
	if eth < 0 {
		wrong = append(wrong, fmt.Sprintf("prevResult lacks the pod's interface %s in %s", inPod, ep.NetNS))
	}
	for _, ip := range prev.IPs {
		if ip.Interface == nil || *ip.Interface != eth {
			continue
		}
		addr, ok := netip.AddrFromSlice(ip.Address.IP)
		if ones, _ := ip.Address.Mask.Size(); !ok || ones != addr.Unmap().BitLen() {
			wrong = append(wrong, fmt.Sprintf("prevResult has the address %s, want a single one", ip.Address.String()))
			continue
		}
		e.Addrs = append(e.Addrs, addr.Unmap())
	}
	if eth >= 0 && len(e.Addrs) == 0 {
		wrong = append(wrong, "prevResult has no address of "+inPod)
	}
	return e, wrong, nil
}

// prevResult decodes the result of ADD as the plugins after this one passed it on.
func prevResult(conf *NetConf) (*current.Result, error) {
	if conf.PrevResult == nil {
		return nil, types.NewError(types.ErrInvalidNetworkConfig, "prevResult is missing, want the result of ADD", "")
	}
	// The runtime may leave its version out; it is that of the configuration.
	var raw map[string]json.RawMessage
	err := json.Unmarshal(conf.PrevResult, &raw)
	if err == nil {
		raw["cniVersion"], err = json.Marshal(conf.CNIVersion)
	}
	var text []byte
	if err == nil {
		text, err = json.Marshal(raw)
	}
	if err == nil {
		var result types.Result
		if result, err = version.NewResult(conf.CNIVersion, text); err == nil {
			var prev *current.Result
			if prev, err = current.NewResultFromResult(result); err == nil {
				return prev, nil
			}
		}
	}
	return nil, types.NewError(types.ErrDecodingFailure, "prevResult: "+err.Error(), "")
}
