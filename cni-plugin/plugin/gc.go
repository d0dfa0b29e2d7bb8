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
	valid, err := conf.attachments()
	if err != nil {
		return err
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
		if !ours || id.Network != conf.Name || inUse(valid, id, o) {
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

// inUse reports whether the list has an attachment. The name of eth0 was that of every
// interface of its container for older plugins; then the pod's end says which it is,
// and when that cannot be known it is left alone.
func inUse(valid map[types.GCAttachment]bool, id attachment.ID, o veth.Owned) bool {
	if valid[types.GCAttachment{ContainerID: id.ContainerID, IfName: id.IfName}] {
		return true
	}
	if attachment.AliasPrefix+id.Short() != o.Alias {
		return false
	}
	doubtful := false
	for a := range valid {
		doubtful = doubtful || a.ContainerID == id.ContainerID
	}
	if !doubtful {
		return false
	}
	name, err := veth.PodIfName(o)
	return err != nil || name == "" || valid[types.GCAttachment{ContainerID: id.ContainerID, IfName: name}]
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
