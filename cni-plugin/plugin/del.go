package plugin

import (
	"context"
	"errors"
	"fmt"

	"github.com/containernetworking/cni/pkg/skel"

	"github.com/manx-cni/manx/cni-plugin/veth"
	"github.com/manx-cni/manx/internal/nodeapi"
)

// del disconnects a container. The agent does all of it, and answers before the
// kernel has torn the interface down: that takes 20 ms of grace periods, for
// which nobody has to wait. Repeating it, or deleting what never was, succeeds.
func del(args *skel.CmdArgs) error {
	conf, _ := ParseNetConf(args.StdinData) // a bad setting must not keep a pod from going
	ep, err := endpointOf(args, conf)
	if err != nil {
		return err
	}
	trace := newTrace("DEL", conf)
	defer trace.end()
	ep = recorded(ep)
	if !ep.ID().Primary() && ep.NetNS != "" {
		// The pod may live on with its other interfaces. What stays does nothing.
		_ = veth.ForgetRules(ep.NetNS, ep.IfName)
	}
	ctx, cancel := context.WithTimeout(context.Background(), nodeapi.Deadline)
	defer cancel()
	err = askDel(ctx, conf.Socket, ep)
	trace.step("agent")
	var down *nodeapi.UnreachableError
	if !errors.As(err, &down) {
		if err == nil && ep.HostIface == "" {
			// The runtime forgot the pod's name, so the agent could not tell the
			// interface's. Its owner mark still does.
			err = veth.RemoveOwned(ep.Alias())
		}
		return cniError(err)
	}
	err = delWithoutAgent(ctx, conf.Socket, ep, args.IfName)
	trace.step("without agent")
	return cniError(err)
}

func askDel(ctx context.Context, socket string, ep nodeapi.Endpoint) error {
	agent, err := nodeapi.Dial(ctx, socket)
	if err != nil {
		return err
	}
	defer agent.Close()
	return agent.Del(ctx, nodeapi.DelRequest{Endpoint: ep})
}

// delWithoutAgent removes the interface, and with it the host route, and leaves
// the rest to the next agent. Interfaces are found by their owner: the name may
// belong to the pod's successor by now. inPod is the name of the pod's end.
func delWithoutAgent(ctx context.Context, socket string, ep nodeapi.Endpoint, inPod string) error {
	err := veth.RemoveOwned(ep.Alias())
	if ep.NetNS != "" {
		err = errors.Join(err, veth.RemoveInPod(ep.NetNS, inPod, ep.Alias()))
	}
	if err != nil {
		return nodeapi.Errorf(nodeapi.CodeTryAgain, "remove the interface of container %s while no Manx agent runs: %v", ep.ContainerID, err)
	}
	dir := nodeapi.DeferredDir(socket)
	req := nodeapi.DelRequest{Endpoint: ep}
	if err := nodeapi.Defer(dir, req); err != nil {
		return nodeapi.Errorf(nodeapi.CodeTryAgain, "no Manx agent runs: %v", err)
	}
	// An agent that started meanwhile may have read the records before this one
	// was there. From here on either it is asked, or the next one reads.
	agent, err := nodeapi.Dial(ctx, socket)
	if err != nil {
		return nil
	}
	defer agent.Close()
	if err := agent.Del(ctx, req); err != nil {
		return nil // the record stays and is replayed
	}
	if err := nodeapi.Undefer(dir, ep); err != nil {
		return fmt.Errorf("forget the deferred DEL of %s: %w", ep.ContainerID, err)
	}
	return nil
}
