package felix

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/manx-cni/manx/felix/nft"
	"github.com/manx-cni/manx/felix/nl"
	"github.com/manx-cni/manx/felix/route"
	"github.com/manx-cni/manx/felix/state"
	"github.com/manx-cni/manx/felix/tunnel"
)

// UninstallOptions says how much Uninstall removes.
type UninstallOptions struct {
	// Pods removes the pods' interfaces as well, which cuts running pods off.
	Pods bool
}

// Uninstall removes everything that carries our marks: routes with protocol 70 of
// both families, the tables "ip manx" and "ip6 manx" and the address of tunl0. It
// goes on after an error and is safe to repeat. No agent may be running.
func Uninstall(ctx context.Context, opts UninstallOptions) error {
	k, err := nl.Open(nl.Config{})
	if err != nil {
		return fmt.Errorf("uninstall dataplane: %w", err)
	}
	defer k.Close()
	nft6 := nft.New(nft.Config{Family: nft.IPv6})
	nft6.SetAbsent() // where there can be none it is not looked for
	errs := []error{
		route.New(route.Config{Kernel: k}).Uninstall(),
		nft.New(nft.Config{}).Uninstall(ctx),
		nft6.Apply(ctx),
		tunnel.New(tunnel.Config{Kernel: k}).Uninstall(ctx),
	}
	if opts.Pods {
		errs = append(errs, removePodLinks(k))
	}
	if err := errors.Join(errs...); err != nil {
		return fmt.Errorf("uninstall dataplane: %w", err)
	}
	return nil
}

func removePodLinks(k nl.Kernel) error {
	links, err := k.Links()
	if err != nil {
		return err
	}
	var errs []error
	for _, l := range links {
		if _, _, ours := state.ParseAlias(l.Alias); !ours || !strings.HasPrefix(l.Name, state.InterfacePrefix) {
			continue
		}
		if err := k.LinkDelete(l.Index); err != nil && !errors.Is(err, nl.ErrNotFound) {
			errs = append(errs, fmt.Errorf("%s: %w", l.Name, err))
		}
	}
	return errors.Join(errs...)
}
