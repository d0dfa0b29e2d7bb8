package plugin

import (
	"context"
	"errors"
	"fmt"

	"github.com/containernetworking/cni/pkg/skel"
	"github.com/containernetworking/cni/pkg/types"

	"github.com/manx-cni/manx/cni-plugin/veth"
	"github.com/manx-cni/manx/internal/attachment"
	"github.com/manx-cni/manx/internal/nodeapi"
)

// gc removes what containers left that the runtime no longer knows: for every
// host side of this network whose owner is not in the list, a DEL. Without a list it
// is an error and nothing is removed. Addresses without an interface are found by the
// agent's own collection.
func gc(args *skel.CmdArgs) error {
	conf, err := ParseNetConf(args.StdinData)
	if err != nil {
		return err
	}
	attachments, err := conf.attachments()
	if err != nil {
		return err
	}
	valid := map[string]bool{}
	for a := range attachments {
		valid[a.ContainerID] = true
	}
	owned, err := veth.ListOwned(attachment.AliasPrefix)
	if err != nil {
		return cniError(nodeapi.Errorf(nodeapi.CodeIO, "collect garbage: %v", err))
	}
	ctx, cancel := context.WithTimeout(context.Background(), nodeapi.Deadline)
	defer cancel()
	var errs []error
	for _, o := range owned {
		id, ours := attachment.ParseAlias(o.Alias)
		if !ours || id.Network != conf.Name || valid[id.ContainerID] {
			continue
		}
		ep := nodeapi.Endpoint{ContainerID: id.ContainerID, Network: id.Network, IfName: id.IfName, HostIface: o.Name}
		err := askDel(ctx, conf.Socket, ep)
		if err == nil {
			err = veth.RemoveOwned(o.Alias)
		}
		if err != nil {
			errs = append(errs, fmt.Errorf("collect what container %s left: %w", id.ContainerID, err))
		}
	}
	return cniError(errors.Join(errs...))
}

// status says whether an ADD could be served.
func status(args *skel.CmdArgs) error {
	conf, err := ParseNetConf(args.StdinData)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(context.Background(), nodeapi.Deadline)
	defer cancel()
	agent, err := nodeapi.Dial(ctx, conf.Socket)
	if err == nil {
		defer agent.Close()
		err = agent.Ping(ctx)
	}
	if err != nil {
		return types.NewError(types.ErrPluginNotAvailable, err.Error(), "")
	}
	return nil
}
