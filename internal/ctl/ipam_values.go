package ctl

import (
	"context"
	"fmt"
	"io"
	"maps"
	"net/netip"
	"slices"

	"github.com/manx-cni/manx/internal/ipamreport"
)

// The values of "ipam show" from a reading of the cluster, and their text.

func (a ipamAccess) usage(ctx context.Context, c ipamreport.Cluster, blocks bool) (IPAMUsage, error) {
	u := IPAMUsage{Pools: []RangeUsage{}, Malformed: len(c.Malformed)}
	reserved, err := a.reserved(ctx)
	if err != nil {
		return u, err
	}
	ranges := func(of []ipamreport.Usage) (out []RangeUsage) {
		for _, r := range of {
			out = append(out, RangeUsage{CIDR: r.CIDR.String(), Total: r.Total, InUse: r.InUse, Free: r.Free})
		}
		return out
	}
	pools, orphans := ipamreport.UsageOf(c, reserved)
	for i, p := range ranges(pools) {
		if blocks {
			p.Blocks = ranges(pools[i].Blocks)
		}
		u.Pools = append(u.Pools, p)
	}
	if blocks {
		u.BlocksWithoutPool = ranges(orphans)
	}
	return u, nil
}

func (u IPAMUsage) writeText(w io.Writer) error {
	t := table{headings: []string{"GROUPING", "CIDR", "IPS TOTAL", "IPS IN USE", "IPS FREE"}, right: map[int]bool{2: true}}
	row := func(grouping string, u RangeUsage) {
		share := func(n float64) string { return fmt.Sprintf("%.5g (%.f%%)", n, 100*n/u.Total) }
		t.add(grouping, u.CIDR, fmt.Sprintf("%.5g", u.Total), share(u.InUse), share(u.Free))
	}
	for _, p := range u.Pools {
		row("IP Pool", p)
		for _, b := range p.Blocks {
			row("Block", b)
		}
	}
	for _, b := range u.BlocksWithoutPool {
		row("Block", b)
	}
	if err := t.write(w); err != nil {
		return err
	}
	return noteMalformed(w, u.Malformed)
}

// noteMalformed says what is missing from a table.
func noteMalformed(w io.Writer, n int) error {
	if n == 0 {
		return nil
	}
	_, err := fmt.Fprintf(w, "\nNote: %d malformed objects are not counted; manxctl ipam check --show-problem-ips names them.\n", n)
	return err
}

func borrowedOf(c ipamreport.Cluster) IPAMBorrowed {
	out := IPAMBorrowed{Addresses: []BorrowedAddress{}, Malformed: len(c.Malformed)}
	for _, b := range slices.SortedFunc(slices.Values(c.Blocks), func(a, b ipamreport.Block) int { return a.CIDR.Compare(b.CIDR) }) {
		for _, a := range b.Assigned {
			switch {
			case a.CoolingDown, a.Node() == b.Owner && a.Node() != "":
			case a.Node() == "":
				out.Unknown++
			default:
				entry := BorrowedAddress{IP: a.Addr.String(), Node: a.Node(), Block: b.CIDR.String(), Owner: b.Owner, Type: a.Attrs["type"]}
				if pod := a.Attrs["pod"]; pod != "" {
					entry.Type, entry.Pod = "pod", a.Attrs["namespace"]+"/"+pod
				}
				out.Addresses = append(out.Addresses, entry)
			}
		}
	}
	return out
}

func (b IPAMBorrowed) writeText(w io.Writer) error {
	t := table{headings: []string{"IP", "BORROWING-NODE", "BLOCK", "BLOCK OWNER", "TYPE", "ALLOCATED-TO"}}
	for _, a := range b.Addresses {
		t.add(a.IP, a.Node, a.Block, a.Owner, a.Type, a.Pod)
	}
	if err := t.write(w); err != nil {
		return err
	}
	if b.Unknown > 0 {
		if _, err := fmt.Fprintf(w, "\nNote: of %d addresses IPAM does not say which node uses them, so they may be borrowed or not.\n",
			b.Unknown); err != nil {
			return err
		}
	}
	return noteMalformed(w, b.Malformed)
}

func (s IPAMSettings) writeText(w io.Writer) error {
	t := table{headings: []string{"PROPERTY", "VALUE"}}
	t.add("StrictAffinity", fmt.Sprint(s.StrictAffinity))
	t.add("AutoAllocateBlocks", fmt.Sprint(s.AutoAllocateBlocks))
	t.add("MaxBlocksPerHost", fmt.Sprint(s.MaxBlocksPerHost))
	if err := t.write(w); err != nil || s.MaxBlocksPerHost != 0 {
		return err
	}
	_, err := fmt.Fprintf(w, "\nNote: MaxBlocksPerHost 0 stands for %d blocks of each address family.\n", s.BlockLimit)
	return err
}

// describeIP is everything that IPAM knows of one address.
func describeIP(c ipamreport.Cluster, addr netip.Addr) (IPAMAddress, error) {
	info := IPAMAddress{IP: addr.String(), Assignments: []AddressAssignment{}, Blocks: []AddressBlock{}}
	for _, b := range c.BlocksOf(addr) {
		if b.Unreadable {
			return info, fmt.Errorf("block %s, which has %s, is malformed, "+
				"so who has the address is not known: look at it with kubectl get ipamblock %s -o yaml", b.CIDR, addr, b.Name)
		}
		info.Blocks = append(info.Blocks, AddressBlock{CIDR: b.CIDR.String(), Affinity: b.Affinity()})
		for _, a := range b.Assigned {
			if a.Addr == addr {
				info.Assignments = append(info.Assignments, AddressAssignment{
					Block: b.CIDR.String(), Handle: a.Handle, Attributes: a.Attrs, CoolingDown: a.CoolingDown,
					Borrowed: a.Node() != "" && a.Node() != b.Owner, Sequence: a.Sequence,
				})
			}
		}
	}
	if pool, ok := c.PoolOf(addr); ok {
		info.Pool, info.PoolCIDR = pool.Name, pool.CIDR.String()
	}
	return info, nil
}

func (i IPAMAddress) writeText(w io.Writer) error {
	var err error
	p := func(format string, args ...any) {
		if err == nil {
			_, err = fmt.Fprintf(w, format+"\n", args...)
		}
	}
	for _, a := range i.Assignments {
		i.writeAssignment(p, a)
	}
	if len(i.Assignments) == 0 {
		p("IP %s is not assigned", i.IP)
		for _, b := range i.Blocks {
			p("Block: %s, affinity %s", b.CIDR, b.Affinity)
		}
	}
	if i.Pool != "" {
		p("Pool: %s (%s)", i.Pool, i.PoolCIDR)
	} else {
		p("Pool: <none>")
	}
	if n := len(i.Assignments); n > 1 {
		p("PROBLEM: it is assigned in %d blocks; see manxctl ipam check", n)
	}
	return err
}

func (i IPAMAddress) writeAssignment(p func(string, ...any), a AddressAssignment) {
	if a.CoolingDown {
		p("IP %s was released and cools down", i.IP)
	} else {
		p("IP %s is in use", i.IP)
	}
	handle := a.Handle
	if handle == "" {
		handle = "<none>"
	}
	p("Handle ID: %s", handle)
	if len(a.Attributes) == 0 {
		p("No attributes defined")
	} else {
		p("Attributes:")
	}
	for _, key := range slices.Sorted(maps.Keys(a.Attributes)) {
		p("  %s: %s", key, a.Attributes[key])
	}
	for _, b := range i.Blocks {
		if b.CIDR == a.Block {
			p("Block: %s, affinity %s", b.CIDR, b.Affinity)
			break
		}
	}
	if a.Borrowed {
		p("Borrowed: node %s uses it, from a block that is not its own", a.Attributes["node"])
	}
	if a.Sequence != 0 {
		p("Assigned at sequence number: %d", a.Sequence)
	}
}
