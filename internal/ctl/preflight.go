package ctl

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"strings"
	"sync"
	"time"

	"github.com/spf13/cobra"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/client-go/kubernetes"

	apiv1 "github.com/manx-cni/manx/api/v1"
	"github.com/manx-cni/manx/internal/cmdline"
	"github.com/manx-cni/manx/internal/preflight"
	"github.com/manx-cni/manx/internal/progress"
)

type preflightOptions struct {
	kind       preflight.Kind
	output     output
	connection *connection
	namespace  string
	wait       time.Duration
	port       uint16
	mtu        int // of full-size packets; 0: each uplink's
}

// startTime is what starting a program in a pod may take beside its own work: on a busy
// node the runtime alone needs seconds.
const startTime = 30 * time.Second

func newPreflightCommand(c *connection) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "preflight",
		Short: "Try what the fabric between the nodes carries, with real packets between every pair",
		Args:  cobra.NoArgs,
	}
	const how = `

Every agent of the cluster takes part at the same time, in its own pod, started
through the Kubernetes API (needs a kubeconfig with "list" on nodes, and "list" on
pods and "get" and "create" on pods/exec in the agents' namespace). Nothing is
changed anywhere.

Failing pairs are printed first, each with what to do about it, then a matrix of all
nodes. The exit code is 1 when a pair fails or a node does not report.`
	ipip := newPreflightKind(c, preflight.KindIPIP, "Try whether IP protocol 4 (IPIP) passes",
		`Try whether IP protocol 4 (IPIP) passes from every node to every other: small
packets, and packets as large as the MTU of the sender's uplink (or --mtu) that may
not be fragmented. The ipip module is not needed: it works before a pool is changed to
IPIP. Where FELIX_IPINIPMTU is set, 20 more is the largest packet there will be.`+how)
	bgp := newPreflightKind(c, preflight.KindBGP, "Try whether BGP and full-size packets pass",
		`Try whether every node reaches every other's BGP port, and whether packets as large
as the MTU of the sender's uplink (or --mtu) pass that may not be fragmented.
Established BGP sessions do not notice; one that is being opened may take some seconds
longer.

Between nodes of one subnet that have tunnel addresses, packets with these are tried
too: a fabric that checks sources drops those of pods, and lets those of nodes pass.
Nodes have one while a pool's ipipMode is not Never. Without, this cannot be tried,
and the output says so: on a fabric that checks sources, plain routes lose all packets
of pods although everything here passes.`+how)
	cmd.AddCommand(ipip, bgp, newPreflightNodeCommand())
	return cmd
}

func newPreflightKind(c *connection, kind preflight.Kind, short, long string) *cobra.Command {
	o := &preflightOptions{kind: kind, connection: c}
	cmd := &cobra.Command{
		Use:   string(kind),
		Short: short,
		Long:  long,
		Args:  cobra.NoArgs,
		RunE:  func(cmd *cobra.Command, _ []string) error { return o.run(cmd.Context(), cmd.OutOrStdout()) },
	}
	f := cmd.Flags()
	o.output.add(f)
	namespaceFlag(f, &o.namespace)
	f.DurationVar(&o.wait, "wait", preflight.DefaultWait, "how long packets that were not answered are sent again")
	f.IntVar(&o.mtu, "mtu", 0, "size in bytes of full-size packets, the outer IP header included (default: the MTU of each node's uplink)")
	if kind == preflight.KindBGP {
		f.Uint16Var(&o.port, "port", preflight.DefaultPort, "TCP port of the BGP speakers")
	}
	return c.uses(cmd)
}

func (o *preflightOptions) run(ctx context.Context, out io.Writer) error {
	if err := o.validate(); err != nil {
		return err
	}
	cfg, err := o.connection.userConfig()
	if err != nil {
		return fmt.Errorf("preflight %s: %w", o.kind, err)
	}
	client, err := kubernetes.NewForConfig(cfg)
	if err != nil {
		return err
	}
	return o.runWith(ctx, out, client, execIn(cfg, client))
}

func (o *preflightOptions) validate() error {
	if o.wait <= 0 {
		return cmdline.Usagef("--wait=%v: want a time such as 10s", o.wait)
	}
	if o.mtu != 0 && (o.mtu < preflight.MinMTU || o.mtu > preflight.MaxMTU) {
		return cmdline.Usagef("--mtu=%d: want %d to %d bytes", o.mtu, preflight.MinMTU, preflight.MaxMTU)
	}
	return nil
}

// runWith starts the preflight in every agent's pod and prints what comes of it.
func (o *preflightOptions) runWith(ctx context.Context, out io.Writer, client kubernetes.Interface, exec execFunc) error {
	members, err := preflightMembers(ctx, client, o.namespace)
	if err != nil {
		return fmt.Errorf("preflight %s: %w", o.kind, err)
	}
	if o.kind != preflight.KindBGP { // the only one that asks for them
		for i := range members {
			members[i].TunnelAddr = netip.Addr{}
		}
	}
	reports := make([]preflight.Report, len(members))
	var names []string
	for _, m := range members {
		names = append(names, m.Name)
	}
	waits := awaitedOf("nodes have not reported what they hear of the others", names)
	heard := progress.Wait(ctx, waits, "")
	asking := progress.Into(ctx, &progress.Report{})
	var wg sync.WaitGroup
	for i, m := range members {
		wg.Go(func() {
			reports[i] = o.ask(asking, m, members, exec)
			waits.heard(m.Name)
		})
	}
	wg.Wait()
	heard()
	matrix := preflight.Merge(o.kind, reports)
	return errors.Join(o.output.print(out, matrix, matrix.WriteText), matrix.Err())
}

// member is a node that should take part.
type member struct {
	preflight.Target
	pod *corev1.Pod
	// problem says why it cannot.
	problem string
}

// preflightMembers finds the nodes that have an agent or an address of one.
func preflightMembers(ctx context.Context, client kubernetes.Interface, namespace string) ([]member, error) {
	pods, err := agentPods(ctx, client, namespace)
	if err != nil {
		return nil, err
	}
	byNode := agentsByNode(pods)
	nodes, err := agentNodes(ctx, client, byNode)
	if err != nil {
		return nil, err
	}
	var members []member
	for _, n := range nodes {
		pod := byNode[n.Name]
		m := member{Target: preflight.Target{Name: n.Name}, pod: pod, problem: cannotAsk(pod)}
		text := n.Annotations[apiv1.AnnotationNodeIPv4]
		addr, ok := nodeAddress(text)
		if ok {
			m.Addr = addr
			m.TunnelAddr, _ = tunnelAddress(n.Annotations[apiv1.AnnotationNodeIPIPTunnelAddr])
		} else if m.problem == "" {
			m.problem = fmt.Sprintf("its annotation %s=%q is no IPv4 address: look at the agent's log (kubectl -n %s logs %s)",
				apiv1.AnnotationNodeIPv4, text, namespace, m.pod.Name)
		}
		members = append(members, m)
	}
	return members, nil
}

// nodeAddress reads 10.0.0.5/24, or the bare address of old Calico versions.
func nodeAddress(text string) (netip.Addr, bool) {
	text, _, _ = strings.Cut(text, "/")
	addr, err := netip.ParseAddr(text)
	return addr, err == nil && addr.Is4()
}

// tunnelAddress reads the address of a node's tunl0. Many have none.
func tunnelAddress(text string) (netip.Addr, bool) {
	addr, err := netip.ParseAddr(text)
	if err != nil || !addr.Is4() || !addr.IsGlobalUnicast() {
		return netip.Addr{}, false
	}
	return addr, true
}

// ask runs one member's part.
func (o *preflightOptions) ask(ctx context.Context, self member, members []member, exec execFunc) preflight.Report {
	failed := func(why string) preflight.Report {
		return preflight.Report{Node: self.Target, Kind: o.kind, Error: why}
	}
	if self.problem != "" {
		return failed(self.problem)
	}
	ctx, cancel := context.WithTimeout(ctx, o.wait+startTime)
	defer cancel()
	args := []string{"preflight", "node", string(o.kind), "--wait", o.wait.String(), "--self", nameAddr(self.Target)}
	if o.kind == preflight.KindBGP {
		args = append(args, "--port", fmt.Sprint(o.port))
	}
	if o.mtu != 0 {
		args = append(args, "--mtu", fmt.Sprint(o.mtu))
	}
	for _, m := range members {
		if m.Name != self.Name && m.Addr.IsValid() {
			args = append(args, "--target", nameAddr(m.Target))
		}
	}
	raw, err := exec(ctx, self.pod, args...)
	if err != nil {
		return failed(fmt.Sprintf("manxctl in pod %s: %v", self.pod.Name, err))
	}
	var r preflight.Report
	if err := json.Unmarshal(raw, &r); err != nil || r.Node != self.Target || r.Kind != o.kind {
		return failed(fmt.Sprintf("unexpected answer of manxctl in pod %s: %.80q", self.pod.Name, raw))
	}
	// The nodes' clocks need not agree: it ended about now, by this one.
	if !r.Started.IsZero() {
		now := time.Now()
		r.Started, r.Ended = now.Add(r.Started.Sub(r.Ended)), now
	}
	return r
}
