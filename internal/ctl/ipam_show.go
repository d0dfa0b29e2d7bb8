package ctl

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"net/netip"
	"slices"

	"github.com/spf13/cobra"

	apiv1 "github.com/manx-cni/manx/api/v1"
	"github.com/manx-cni/manx/internal/cmdline"
	"github.com/manx-cni/manx/internal/ipamreport"
	"github.com/manx-cni/manx/ipam/store"
)

type ipamShowOptions struct {
	ipamFlags
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
		return showIP(out, c, addr)
	case o.configuration:
		return a.showConfiguration(ctx, out)
	}
	c, err := a.blocksAndPools(ctx)
	if err != nil {
		return err
	}
	if o.borrowed {
		err = showBorrowed(out, c)
	} else {
		err = a.showUsage(ctx, out, c, o.blocks)
	}
	if err != nil {
		return err
	}
	return noteMalformed(out, c)
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

// noteMalformed says what is missing from a table.
func noteMalformed(out io.Writer, c ipamreport.Cluster) error {
	if len(c.Malformed) == 0 {
		return nil
	}
	_, err := fmt.Fprintf(out, "\nNote: %d malformed objects are not counted; manxctl ipam check --show-problem-ips names them.\n", len(c.Malformed))
	return err
}

func (a ipamAccess) showUsage(ctx context.Context, out io.Writer, c ipamreport.Cluster, blocks bool) error {
	reserved, err := a.reserved(ctx)
	if err != nil {
		return err
	}
	t := table{headings: []string{"GROUPING", "CIDR", "IPS TOTAL", "IPS IN USE", "IPS FREE"}, right: map[int]bool{2: true}}
	row := func(grouping string, u ipamreport.Usage) {
		share := func(n float64) string { return fmt.Sprintf("%.5g (%.f%%)", n, 100*n/u.Total) }
		t.add(grouping, u.CIDR.String(), fmt.Sprintf("%.5g", u.Total), share(u.InUse), share(u.Free))
	}
	pools, orphans := ipamreport.UsageOf(c, reserved)
	for _, p := range pools {
		row("IP Pool", p)
		for _, b := range p.Blocks {
			if blocks {
				row("Block", b)
			}
		}
	}
	for _, b := range orphans { // their pool is gone, and addresses are in use
		if blocks {
			row("Block", b)
		}
	}
	return t.write(out)
}

// reserved returns the ranges that are not assigned.
func (a ipamAccess) reserved(ctx context.Context) (out []netip.Prefix, err error) {
	objects, err := list[apiv1.IPReservation](ctx, a.backend, apiv1.PluralIPReservations, func(string, error) {})
	if err != nil {
		return nil, err
	}
	for _, o := range objects {
		for _, text := range o.Spec.ReservedCIDRs {
			if addr, err := netip.ParseAddr(text); err == nil {
				out = append(out, netip.PrefixFrom(addr, addr.BitLen()))
			} else if cidr, err := netip.ParsePrefix(text); err == nil {
				out = append(out, cidr.Masked())
			}
		}
	}
	return out, nil
}

func showBorrowed(out io.Writer, c ipamreport.Cluster) error {
	t := table{headings: []string{"IP", "BORROWING-NODE", "BLOCK", "BLOCK OWNER", "TYPE", "ALLOCATED-TO"}}
	unknown := 0
	for _, b := range slices.SortedFunc(slices.Values(c.Blocks), func(a, b ipamreport.Block) int { return a.CIDR.Compare(b.CIDR) }) {
		for _, a := range b.Assigned {
			switch {
			case a.CoolingDown, a.Node() == b.Owner && a.Node() != "":
			case a.Node() == "":
				unknown++
			default:
				kind, to := a.Attrs["type"], ""
				if pod := a.Attrs["pod"]; pod != "" {
					kind, to = "pod", a.Attrs["namespace"]+"/"+pod
				}
				t.add(a.Addr.String(), a.Node(), b.CIDR.String(), b.Owner, kind, to)
			}
		}
	}
	if err := t.write(out); err != nil || unknown == 0 {
		return err
	}
	_, err := fmt.Fprintf(out, "\nNote: of %d addresses IPAM does not say which node uses them, so they may be borrowed or not.\n", unknown)
	return err
}

func (a ipamAccess) showConfiguration(ctx context.Context, out io.Writer) error {
	spec := apiv1.DefaultIPAMConfigSpec()
	text, err := a.backend.Get(ctx, apiv1.PluralIPAMConfigs, apiv1.DefaultName)
	switch {
	case errors.Is(err, store.ErrNotFound):
	case err != nil:
		return fmt.Errorf("read IPAMConfig %s: %w", apiv1.DefaultName, err)
	default:
		var o apiv1.IPAMConfig
		if err := json.Unmarshal(text, &o); err != nil {
			return fmt.Errorf("read IPAMConfig %s: %w", apiv1.DefaultName, err)
		}
		spec = o.Spec
	}
	return writeConfiguration(out, spec)
}

func writeConfiguration(out io.Writer, spec apiv1.IPAMConfigSpec) error {
	t := table{headings: []string{"PROPERTY", "VALUE"}}
	t.add("StrictAffinity", fmt.Sprint(spec.StrictAffinity))
	t.add("AutoAllocateBlocks", fmt.Sprint(spec.AutoAllocateBlocks))
	t.add("MaxBlocksPerHost", fmt.Sprint(spec.MaxBlocksPerHost))
	if err := t.write(out); err != nil || spec.MaxBlocksPerHost != 0 {
		return err
	}
	_, err := fmt.Fprintf(out, "\nNote: MaxBlocksPerHost 0 stands for %d blocks of each address family.\n", spec.BlockLimit())
	return err
}

// showIP says everything that IPAM knows of one address.
func showIP(out io.Writer, c ipamreport.Cluster, addr netip.Addr) error {
	var err error
	p := func(format string, args ...any) {
		if err == nil {
			_, err = fmt.Fprintf(out, format+"\n", args...)
		}
	}
	blocks, assigned := c.BlocksOf(addr), 0
	for _, b := range blocks {
		if b.Unreadable {
			return fmt.Errorf("block %s, which has %s, is malformed, so who has the address is not known: look at it with kubectl get ipamblock %s -o yaml", b.CIDR, addr, b.Name)
		}
		for _, a := range b.Assigned {
			if a.Addr == addr {
				assigned++
				printAssignment(p, b, a)
			}
		}
	}
	if assigned == 0 {
		p("IP %s is not assigned", addr)
		for _, b := range blocks {
			p("Block: %s, affinity %s", b.CIDR, b.Affinity())
		}
	}
	if pool, ok := c.PoolOf(addr); ok {
		p("Pool: %s (%s)", pool.Name, pool.CIDR)
	} else {
		p("Pool: <none>")
	}
	if assigned > 1 {
		p("PROBLEM: it is assigned in %d blocks; see manxctl ipam check", assigned)
	}
	return err
}

func printAssignment(p func(string, ...any), b ipamreport.Block, a ipamreport.Assignment) {
	if a.CoolingDown {
		p("IP %s was released and cools down", a.Addr)
	} else {
		p("IP %s is in use", a.Addr)
	}
	handle := a.Handle
	if handle == "" {
		handle = "<none>"
	}
	p("Handle ID: %s", handle)
	if len(a.Attrs) == 0 {
		p("No attributes defined")
	} else {
		p("Attributes:")
	}
	for _, key := range slices.Sorted(maps.Keys(a.Attrs)) {
		p("  %s: %s", key, a.Attrs[key])
	}
	p("Block: %s, affinity %s", b.CIDR, b.Affinity())
	if n := a.Node(); n != "" && n != b.Owner {
		p("Borrowed: node %s uses it, from a block that is not its own", n)
	}
	if a.Sequence != 0 {
		p("Assigned at sequence number: %d", a.Sequence)
	}
}
