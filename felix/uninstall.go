package felix

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/manx-cni/manx/felix/former"
	"github.com/manx-cni/manx/felix/nft"
	"github.com/manx-cni/manx/felix/nl"
	"github.com/manx-cni/manx/felix/route"
	"github.com/manx-cni/manx/felix/rpfilter"
	"github.com/manx-cni/manx/felix/state"
	"github.com/manx-cni/manx/felix/tunnel"
	"github.com/manx-cni/manx/internal/attachment"
	"github.com/manx-cni/manx/internal/family"
)

// UninstallOptions says how much Uninstall removes.
type UninstallOptions struct {
	// Pods removes the pods' interfaces as well, which cuts running pods off.
	Pods bool
	// Memory is what the agents had as Config.Memory.
	Memory former.Store
}

// Uninstall removes everything that carries our marks: routes with protocol 70 of
// both families, the address of tunl0, and the tables "ip manx" and "ip6 manx"; and it
// puts back what the memory has. It goes on after an error, except that a tunnel that
// is still open keeps its guard, and is safe to repeat. No agent may be running.
func Uninstall(ctx context.Context, opts UninstallOptions) error {
	k, err := nl.Open(nl.Config{})
	if err != nil {
		return fmt.Errorf("uninstall dataplane: %w", err)
	}
	defer k.Close()
	nft6 := nft.New(nft.Config{Family: family.IPv6})
	nft6.SetAbsent() // where there can be none it is not looked for
	errs := []error{
		route.New(route.Config{Kernel: k}).Uninstall(),
		uninstallTunnel(ctx, k, former.New(opts.Memory, nil), nft.New(nft.Config{})),
		nft6.Apply(ctx),
	}
	if opts.Pods {
		errs = append(errs, removePodLinks(k))
	}
	if err := errors.Join(errs...); err != nil {
		return fmt.Errorf("uninstall dataplane: %w", err)
	}
	return nil
}

// uninstallTunnel removes the tunnel, then what was set for it, and last what guards it.
// Foreign routes that hold our address are no error: there will be no guard any more.
func uninstallTunnel(ctx context.Context, k nl.Kernel, memory *former.Links, filter *nft.Driver) error {
	t := tunnel.New(tunnel.Config{Kernel: k, Memory: memory})
	err := t.Uninstall(ctx)
	if !t.Leaving() {
		err = errors.Join(err, rpfilter.New(rpfilter.Config{Kernel: k, Memory: memory}).Uninstall(ctx))
	}
	if err != nil && t.Open() {
		return fmt.Errorf("%w: the table ip %s stays until the device is down: run it again", err, nft.TableName)
	}
	return errors.Join(err, filter.Uninstall(ctx))
}

func removePodLinks(k nl.Kernel) error {
	links, err := k.Links()
	if err != nil {
		return err
	}
	var errs []error
	for _, l := range links {
		if _, ours := attachment.ParseAlias(l.Alias); !ours || !strings.HasPrefix(l.Name, state.InterfacePrefix) {
			continue
		}
		if err := k.LinkDelete(l.Index); err != nil && !errors.Is(err, nl.ErrNotFound) {
			errs = append(errs, fmt.Errorf("%s: %w", l.Name, err))
		}
	}
	return errors.Join(errs...)
}
