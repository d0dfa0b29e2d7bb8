package ctl

import (
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"net/netip"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"github.com/manx-cni/manx/internal/ipamreport"
	"github.com/manx-cni/manx/ipam/store"
)

type ipamReleaseOptions struct {
	ipamFlags
	output output
	ip     string
	report string
	force  bool
}

func newIPAMReleaseCommand(c *connection) *cobra.Command {
	o := &ipamReleaseOptions{ipamFlags: ipamFlags{connection: c}}
	cmd := &cobra.Command{
		Use:   "release",
		Short: "Release addresses that nobody uses",
		Long: `Release an address, or all that a report of "manxctl ipam check -o FILE" says nobody
uses, and with them the handles that have no address.

An address is released only while the assignment is the one that was seen (by its
handle and sequence number), so one that has got a new holder meanwhile is left
alone, and doing it twice does no harm. It is kept when a pod, a tunnel or an
interface on a node uses it; --force releases it all the same: then two pods may soon
have one address.

Needs a kubeconfig with "list", "get", "update" and "delete" on ipamblocks and
ipamhandles, "list" on ippools and blockaffinities and "get" on clusterinformations,
of crd.projectcalico.org; with "list" on pods and nodes; and, to ask the agents of the
nodes concerned, "get" and "create" on pods/exec in their namespace.`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if cmd.Flags().Changed("ip") { // before anything is asked
				if _, err := parseIP(o.ip); err != nil {
					return fmt.Errorf("ipam release: %w", err)
				}
			}
			return o.with("release", func(a ipamAccess) error { return o.run(cmd.Context(), cmd.OutOrStdout(), a) })
		},
	}
	f := cmd.Flags()
	namespaceFlag(f, &o.namespace)
	o.output.add(f)
	f.StringVar(&o.ip, "ip", "", "release this address")
	f.StringVar(&o.report, "from-report", "", "release what this report says nobody uses")
	f.BoolVar(&o.force, "force", false, "release addresses that are in use too")
	cmd.MarkFlagsMutuallyExclusive("ip", "from-report")
	cmd.MarkFlagsOneRequired("ip", "from-report")
	return c.uses(cmd)
}

// run tells people each thing as it is done, and programs everything at the end, also
// when some of it failed.
func (o *ipamReleaseOptions) run(ctx context.Context, out io.Writer, a ipamAccess) error {
	done := &IPAMRelease{Released: []ReleasedAddress{}, AlreadyReleased: []string{}, Kept: []KeptAddress{}, Handles: []string{}}
	told := out
	if !o.output.forPeople() {
		told = io.Discard
	}
	var err error
	if o.report != "" {
		err = o.fromReport(ctx, told, a, done)
	} else {
		err = o.oneAddress(ctx, told, a, done)
	}
	return errors.Join(err, o.output.print(out, done, func(io.Writer) error { return nil }))
}

func (o *ipamReleaseOptions) oneAddress(ctx context.Context, out io.Writer, a ipamAccess, done *IPAMRelease) error {
	addr, err := parseIP(o.ip)
	if err != nil {
		return err
	}
	now, err := a.readNow(ctx)
	if err != nil {
		return err
	}
	var want []ipamreport.Assignment
	for _, b := range now.cluster.BlocksOf(addr) {
		if b.Unreadable {
			return fmt.Errorf("block %s, which has %s, is malformed: look at it with kubectl get ipamblock %s -o yaml, and repair it first",
				b.CIDR, addr, b.Name)
		}
		for _, held := range b.Assigned {
			if held.Addr == addr && !held.CoolingDown {
				want = append(want, held)
			}
		}
	}
	if len(want) == 0 {
		done.AlreadyReleased = append(done.AlreadyReleased, addr.String())
		_, err := fmt.Fprintf(out, "IP %s is not assigned: nothing to release.\n", addr)
		return err
	}
	return o.release(ctx, out, a, now, want, nil, done)
}

func (o *ipamReleaseOptions) fromReport(ctx context.Context, out io.Writer, a ipamAccess, done *IPAMRelease) error {
	report, err := ipamreport.ReadReport(o.report)
	if err != nil {
		return err
	}
	leaked, err := report.Releasable()
	if err != nil {
		return err
	}
	info, err := a.clusterInformation(ctx)
	if err != nil {
		return err
	}
	if info.Spec.ClusterGUID != report.ClusterGUID {
		return fmt.Errorf("the report %s is of another cluster (its clusterGUID is %q, this cluster's %q): "+
			"write one of this cluster with manxctl ipam check -o FILE", o.report, report.ClusterGUID, info.Spec.ClusterGUID)
	}
	now, err := a.readNow(ctx)
	if err != nil {
		return err
	}
	var want []ipamreport.Assignment
	for _, l := range leaked {
		if held, ok := now.find(l); ok {
			want = append(want, held)
			continue
		}
		done.AlreadyReleased = append(done.AlreadyReleased, l.Addr.String())
		if _, err := fmt.Fprintf(out, "IP %s has been released already, or has a new holder.\n", l.Addr); err != nil {
			return err
		}
	}
	return o.release(ctx, out, a, now, want, report.LeakedHandles, done)
}

// present is the state of the cluster before a release.
type present struct {
	objects ipamreport.Objects
	cluster ipamreport.Cluster
}

func (a ipamAccess) readNow(ctx context.Context) (present, error) {
	objects, err := a.readIPAM(ctx)
	if err == nil {
		err = a.readUsers(ctx, &objects)
	}
	return present{objects: objects, cluster: ipamreport.FromObjects(objects)}, err
}

// find returns the assignment that l is of, if it is still there.
func (p present) find(l ipamreport.Assignment) (ipamreport.Assignment, bool) {
	for _, b := range p.cluster.BlocksOf(l.Addr) {
		for _, held := range b.Assigned {
			if held.Addr == l.Addr && held.Handle == l.Handle && !held.CoolingDown && (l.Sequence == 0 || l.Sequence == held.Sequence) {
				return held, true
			}
		}
	}
	return ipamreport.Assignment{}, false
}

// release releases what is wanted and not in use, and puts the handles right.
func (o *ipamReleaseOptions) release(
	ctx context.Context, out io.Writer, a ipamAccess, now present,
	want []ipamreport.Assignment, leaked []ipamreport.LeakedHandle, done *IPAMRelease,
) error {
	want, kept, err := o.refuseUsed(ctx, out, a, now, want, done)
	if err != nil {
		return err
	}
	r := releaser{store: store.New(a.backend), out: out, done: done}
	byBlock := map[netip.Prefix][]ipamreport.Assignment{}
	for _, w := range want {
		byBlock[w.Block] = append(byBlock[w.Block], w)
	}
	for _, cidr := range slices.SortedFunc(maps.Keys(byBlock), netip.Prefix.Compare) {
		r.fromBlock(ctx, cidr, byBlock[cidr])
	}
	r.repairHandles(ctx)
	r.removeHandles(ctx, now.objects.Handles, leaked)
	r.printf("Released %s; %s removed.\n", addresses(len(done.Released)), handles(len(done.Handles)))
	slices.Sort(done.Handles)
	if len(kept) > 0 {
		r.errs = append(r.errs, fmt.Errorf("kept %s, in use by %s; --force releases what is in use too, and two pods may then get one address",
			addresses(len(kept)), strings.Join(kept, "; ")))
	}
	return errors.Join(r.errs...)
}

// refuseUsed returns what of want may be released, and who uses the rest. The agents
// of the nodes concerned are asked what their kernels have.
func (o *ipamReleaseOptions) refuseUsed(
	ctx context.Context, out io.Writer, a ipamAccess, now present, want []ipamreport.Assignment, done *IPAMRelease,
) (free []ipamreport.Assignment, kept []string, err error) {
	if o.force || len(want) == 0 {
		return want, nil, nil
	}
	nodes := map[string]bool{}
	for _, w := range want {
		if n := w.Node(); n != "" {
			nodes[n] = true
		}
	}
	there := slices.Sorted(maps.Keys(nodes))
	there = slices.DeleteFunc(there, func(n string) bool { // a node that is gone has no agent
		return !slices.ContainsFunc(now.cluster.Nodes, func(o ipamreport.Node) bool { return o.Name == n })
	})
	if len(there) > 0 {
		answers, silent := a.askAgents(ctx, there)
		now.objects.Agents, done.NotAsked = answers, silent
		for _, n := range slices.Sorted(maps.Keys(silent)) {
			if _, err := fmt.Fprintf(out, "Node %s is judged by the Kubernetes API alone: %s\n", n, silent[n]); err != nil {
				return nil, nil, err
			}
		}
	}
	state := map[netip.Addr]ipamreport.Address{}
	for _, addr := range ipamreport.Check(ipamreport.FromObjects(now.objects)).Addresses {
		state[addr.Addr] = addr
	}
	for _, w := range want {
		if s := state[w.Addr]; s.InUse() {
			users := slices.Concat(s.Users, s.Waiting)
			done.Kept = append(done.Kept, KeptAddress{IP: w.Addr.String(), UsedBy: users})
			kept = append(kept, fmt.Sprintf("%s: %s", w.Addr, strings.Join(users, " and ")))
			continue
		}
		free = append(free, w)
	}
	return free, kept, nil
}

func addresses(n int) string {
	if n == 1 {
		return "1 address"
	}
	return fmt.Sprintf("%d addresses", n)
}

func handles(n int) string {
	if n == 1 {
		return "1 handle"
	}
	return fmt.Sprintf("%d handles", n)
}
