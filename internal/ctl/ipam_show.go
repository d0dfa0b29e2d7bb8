package ctl

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/netip"

	"github.com/spf13/cobra"

	apiv1 "github.com/manx-cni/manx/api/v1"
	"github.com/manx-cni/manx/internal/cmdline"
	"github.com/manx-cni/manx/internal/ipamreport"
	"github.com/manx-cni/manx/ipam/store"
)

type ipamShowOptions struct {
	ipamFlags
	output                          output
	ip                              string
	blocks, borrowed, configuration bool
}

func newIPAMShowCommand(c *connection) *cobra.Command {
	o := &ipamShowOptions{ipamFlags: ipamFlags{connection: c}}
	cmd := &cobra.Command{
		Use:   "show",
		Short: "Show how full the pools are, or who has an address",
		Long: `Show how full the pools are, or with a flag: their blocks, the addresses that nodes
have borrowed from one another, the settings, or who has one address. The tables are
those of "calicoctl ipam show".

Needs a kubeconfig with "list" on ippools, ipamblocks and ipreservations, and "get"
on ipamconfigs, of crd.projectcalico.org. Nothing is changed.`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if cmd.Flags().Changed("ip") { // before anything is asked
				if _, err := parseIP(o.ip); err != nil {
					return fmt.Errorf("ipam show: %w", err)
				}
			}
			return o.with("show", func(a ipamAccess) error { return o.run(cmd.Context(), cmd.OutOrStdout(), a) })
		},
	}
	f := cmd.Flags()
	o.output.add(f)
	f.StringVar(&o.ip, "ip", "", "who has this address")
	f.BoolVar(&o.blocks, "show-blocks", false, "the blocks of each pool too")
	f.BoolVar(&o.borrowed, "show-borrowed", false, "the addresses that are used on another node than their block's")
	f.BoolVar(&o.configuration, "show-configuration", false, "the settings")
	cmd.MarkFlagsMutuallyExclusive("ip", "show-blocks", "show-borrowed", "show-configuration")
	return c.uses(cmd)
}

func (o *ipamShowOptions) run(ctx context.Context, out io.Writer, a ipamAccess) error {
	switch {
	case o.ip != "":
		addr, err := parseIP(o.ip)
		if err != nil {
			return err
		}
		c, err := a.blocksAndPools(ctx)
		if err != nil {
			return err
		}
		info, err := describeIP(c, addr)
		if err != nil {
			return err
		}
		return o.output.print(out, info, info.writeText)
	case o.configuration:
		return a.showConfiguration(ctx, out, &o.output)
	}
	c, err := a.blocksAndPools(ctx)
	if err != nil {
		return err
	}
	if o.borrowed {
		b := borrowedOf(c)
		return o.output.print(out, b, b.writeText)
	}
	u, err := a.usage(ctx, c, o.blocks)
	if err != nil {
		return err
	}
	return o.output.print(out, u, u.writeText)
}

func parseIP(text string) (netip.Addr, error) {
	addr, err := netip.ParseAddr(text)
	if err != nil || addr.Zone() != "" {
		return netip.Addr{}, cmdline.Usagef("--ip=%q: want an address such as 10.244.0.5", text)
	}
	return addr.Unmap(), nil
}

// blocksAndPools reads who has which address and which pool that is of.
func (a ipamAccess) blocksAndPools(ctx context.Context) (ipamreport.Cluster, error) {
	o, err := a.readAddresses(ctx)
	if err != nil {
		return ipamreport.Cluster{}, err
	}
	return ipamreport.FromObjects(o), nil
}

func (a ipamAccess) showConfiguration(ctx context.Context, out io.Writer, o *output) error {
	spec := apiv1.DefaultIPAMConfigSpec()
	text, err := a.backend.Get(ctx, apiv1.PluralIPAMConfigs, apiv1.DefaultName)
	switch {
	case errors.Is(err, store.ErrNotFound):
	case err != nil:
		return fmt.Errorf("read IPAMConfig %s: %w", apiv1.DefaultName, err)
	default:
		var config apiv1.IPAMConfig
		if err := json.Unmarshal(text, &config); err != nil {
			return fmt.Errorf("read IPAMConfig %s: %w", apiv1.DefaultName, err)
		}
		spec = config.Spec
	}
	return o.printSettings(out, spec)
}

func (o *output) printSettings(out io.Writer, spec apiv1.IPAMConfigSpec) error {
	s := IPAMSettings{
		StrictAffinity: spec.StrictAffinity, AutoAllocateBlocks: spec.AutoAllocateBlocks,
		MaxBlocksPerHost: spec.MaxBlocksPerHost, BlockLimit: spec.BlockLimit(),
	}
	return o.print(out, s, s.writeText)
}

// reserved returns the ranges that are not assigned.
func (a ipamAccess) reserved(ctx context.Context) (out []netip.Prefix, err error) {
	objects, err := list[apiv1.IPReservation](ctx, a.backend, apiv1.PluralIPReservations, func(string, error) {})
	if err != nil {
		return nil, err
	}
	for _, o := range objects {
		ranges, _ := o.Ranges() // entries that are none reserve nothing; the agents tell of them
		out = append(out, ranges...)
	}
	return out, nil
}
