package ctl

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"os"
	"time"

	"github.com/spf13/cobra"
	"k8s.io/client-go/kubernetes"

	"github.com/manx-cni/manx/internal/cmdline"
	"github.com/manx-cni/manx/internal/nodeapi"
	"github.com/manx-cni/manx/internal/status"
)

func newBGPCommand(c *connection) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "bgp",
		Short: "Show BGP sessions, routes and filters of this node, or of all nodes; take a node out of BGP",
		Args:  cobra.NoArgs,
	}
	cmd.AddCommand(newBGPPeersCommand(c), newBGPRoutesCommand(c), newBGPFiltersCommand(c),
		newBGPDrainCommand(c, true), newBGPDrainCommand(c, false))
	return cmd
}

// bgpOptions are what every bgp command takes.
type bgpOptions struct {
	connection *connection
	output     output
	socket     string
	namespace  string
	nodes      []string
}

// whereAsked is the end of the help of every bgp command.
const whereAsked = `

On a node it asks the agent's socket. Where there is no agent, and with --node,
--namespace or a flag that says how to reach the cluster, it asks every agent at the
same time, as "manxctl status" does and with the same rights. Nodes that do not answer
are named; the exit code is then 1.`

func (o *bgpOptions) flags(cmd *cobra.Command) {
	f := cmd.Flags()
	o.output.add(f)
	f.StringVar(&o.socket, "socket", defaultSocket, "the agent's unix socket, unless it asks through the Kubernetes API")
	namespaceFlag(f, &o.namespace)
	f.StringSliceVar(&o.nodes, "node", nil, "only these nodes, through the Kubernetes API")
}

func newBGPPeersCommand(c *connection) *cobra.Command {
	o := &bgpOptions{connection: c}
	cmd := &cobra.Command{
		Use:   "peers",
		Short: "Show the BGP sessions, and why one is not up",
		Long: `Show the BGP sessions, one a line: the peer's address (and port when that is not 179), the
session's name as Calico's tools have it, what the peer is (a node, or the router of a
BGPPeer), its AS, the session's state and since when, how often it was lost, and how many
routes were received, are used, and are announced. The last column says in words why a
session is not established.` + whereAsked,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return askBGP(cmd, o, nodeapi.BGPRequest{What: nodeapi.BGPPeers}, []string{"bgp", "peers"},
				func(p status.BGPPeers) string { return p.Node }, writePeers)
		},
	}
	o.flags(cmd)
	return c.uses(cmd)
}

func newBGPRoutesCommand(c *connection) *cobra.Command {
	o := &bgpOptions{connection: c}
	var best, received, advertised bool
	var prefix string
	cmd := &cobra.Command{
		Use:   "routes",
		Short: "Show the routes that BGP has learned, has received or announces",
		Long: `Show the routes that BGP has learned: the best ones (--best, unless another is asked for)
with their next hops and the peers that they are from; all that peers have sent
(--received), with the reason why a path is not used; or what the node announces
(--advertised), with next hop, LOCAL_PREF, communities and the peers that a filter keeps it
from. What a route reflector hands on from its peers is not among the latter.

A node says 10,000 routes at most, and how many more there are. --prefix P has it say only
those inside P.` + whereAsked,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			req, args := nodeapi.BGPRequest{What: nodeapi.BGPBest}, []string{"bgp", "routes"}
			switch {
			case received:
				req.What, args = nodeapi.BGPReceived, append(args, "--received")
			case advertised:
				req.What, args = nodeapi.BGPAdvertised, append(args, "--advertised")
			}
			if cmd.Flags().Changed("prefix") {
				p, err := parsePrefix(prefix)
				if err != nil {
					return err
				}
				req.Prefix, args = p, append(args, "--prefix", p.String())
			}
			return askBGP(cmd, o, req, args, func(r status.BGPRoutes) string { return r.Node }, writeRoutes)
		},
	}
	o.flags(cmd)
	f := cmd.Flags()
	f.BoolVar(&best, "best", false, "the routes that are used (default)")
	f.BoolVar(&received, "received", false, "all that peers have sent, and why a path is not used")
	f.BoolVar(&advertised, "advertised", false, "what the node announces")
	f.StringVar(&prefix, "prefix", "", "only routes inside this range, such as 10.244.0.0/16, or to this address")
	cmd.MarkFlagsMutuallyExclusive("best", "received", "advertised")
	return c.uses(cmd)
}

func newBGPFiltersCommand(c *connection) *cobra.Command {
	o := &bgpOptions{connection: c}
	cmd := &cobra.Command{
		Use:   "filters",
		Short: "Show what each BGP session lets in and out",
		Long: `Show for each BGP session the BGPFilters of its BGPPeer, in order, and the rules that are in
force, one a line, with the field of the BGPFilter that a rule is from. In either direction
the first rule that matches a route decides, and what none matches is rejected. Rules that
are of no BGPFilter are those of the pools, which hold for every session.

A BGPFilter that is missing or not valid lets nothing in and nothing out.` + whereAsked,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return askBGP(cmd, o, nodeapi.BGPRequest{What: nodeapi.BGPFilters}, []string{"bgp", "filters"},
				func(f status.BGPFilters) string { return f.Node }, writeFilters)
		},
	}
	o.flags(cmd)
	return c.uses(cmd)
}

// parsePrefix reads a range, or an address as the range of itself.
func parsePrefix(text string) (netip.Prefix, error) {
	if a, err := netip.ParseAddr(text); err == nil && a.Zone() == "" {
		return netip.PrefixFrom(a.Unmap(), a.Unmap().BitLen()), nil
	}
	p, err := netip.ParsePrefix(text)
	if err != nil {
		return p, cmdline.Usagef("--prefix=%q: want a range such as 10.244.0.0/16, or an address", text)
	}
	return p.Masked(), nil
}

// askBGP asks the local agent when there is one and nothing says otherwise, else all
// agents or those of --node, and prints what they say. args is the command that does so in
// an agent's pod.
func askBGP[T any](
	cmd *cobra.Command, o *bgpOptions, req nodeapi.BGPRequest, args []string,
	nameOf func(T) string, text func(io.Writer, []T, time.Time) error,
) error {
	ctx, out := cmd.Context(), cmd.OutOrStdout()
	var said []T
	var silent error
	remote := len(o.nodes) > 0 || len(o.connection.given()) > 0 || cmd.Flags().Changed("namespace")
	if _, err := os.Stat(o.socket); err == nil && !remote {
		one, err := localBGP[T](ctx, o.socket, req)
		if err != nil {
			return err
		}
		said = []T{one}
	} else {
		cfg, err := o.connection.config()
		if err != nil {
			return err
		}
		client, err := kubernetes.NewForConfig(cfg)
		if err != nil {
			return err
		}
		a := agents{client: client, exec: execIn(cfg, client), namespace: o.namespace, timeout: o.connection.requestTimeout(statusTimeout)}
		said, silent, err = bgpOf(ctx, a, o.nodes, question[T]{args: append(args, "-o", "json"), nameOf: nameOf})
		if err != nil {
			return err
		}
	}
	said = append([]T{}, said...) // none is [] and not null
	return errors.Join(silent, o.output.print(out, said, func(w io.Writer) error { return text(w, said, time.Now()) }))
}

// bgpOf asks agents. silent names the nodes that did not answer.
func bgpOf[T any](ctx context.Context, a agents, nodes []string, q question[T]) (said []T, silent, err error) {
	said, quiet, unknown, err := askOf(ctx, a, nodes, q)
	return said, picture{silent: quiet, unknown: unknown}.err(), err
}

// localBGP asks the agent on this machine.
func localBGP[T any](ctx context.Context, socket string, req nodeapi.BGPRequest) (said T, err error) {
	ctx, cancel := context.WithTimeout(ctx, statusTimeout)
	defer cancel()
	c, err := nodeapi.Dial(ctx, socket)
	if err != nil {
		return said, fmt.Errorf("ask the agent at %s: %w; is the manx-node pod of this node running, and are you root?", socket, err)
	}
	defer c.Close()
	raw, err := c.BGP(ctx, req)
	if err != nil {
		return said, fmt.Errorf("ask the agent at %s about BGP: %w", socket, err)
	}
	if err := json.Unmarshal(raw, &said); err != nil {
		return said, fmt.Errorf("read what the agent says of BGP: %w", err)
	}
	return said, nil
}
