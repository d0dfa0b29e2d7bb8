package main

import (
	"context"
	"fmt"
	"io"
	"maps"
	"net/netip"
	"slices"
	"strings"
	"text/tabwriter"

	"github.com/spf13/cobra"

	"github.com/manx-cni/manx/internal/cmdline"
	"github.com/manx-cni/manx/test/lab"
	"github.com/manx-cni/manx/test/lab/router"
)

// torViews are what there is to see of a router.
var torViews = map[string]func(context.Context, io.Writer, *router.Router) error{
	"peers": printPeers, "routes": printRoutes,
	"config": func(_ context.Context, w io.Writer, r *router.Router) error { return write(w)(r.Text()) },
	"log":    func(_ context.Context, w io.Writer, r *router.Router) error { return write(w)(r.Log()) },
}

func torCmd() *cobra.Command {
	views := strings.Join(slices.Sorted(maps.Keys(torViews)), "|")
	return &cobra.Command{
		Use:   "tor [NAME [" + views + "]]",
		Short: "Show the lab's routers (--tor, --rr), or what one has: its peers, routes, configuration or log",
		Args:  cobra.MaximumNArgs(2),
		RunE: func(cmd *cobra.Command, args []string) error {
			c, err := lab.Open(name)
			if err != nil {
				return err
			}
			if len(args) == 0 {
				return printRouters(cmd.OutOrStdout(), c)
			}
			r, err := c.Router(args[0])
			if err != nil {
				return err
			}
			what := append(args[1:], "peers")[0]
			view, ok := torViews[what]
			if !ok {
				return cmdline.Usagef("%q: want one of %s", what, views)
			}
			return view(cmd.Context(), cmd.OutOrStdout(), r)
		},
	}
}

func write(w io.Writer) func(string, error) error {
	return func(text string, err error) error {
		if err == nil {
			_, err = io.WriteString(w, text)
		}
		return err
	}
}

func printRouters(w io.Writer, c *lab.Cluster) error {
	rs, err := c.Routers()
	if err != nil {
		return err
	}
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	fmt.Fprintln(t, "ROUTER\tDAEMON\tADDRESS\tAS\tROLE")
	for _, r := range rs {
		cfg, err := r.Config()
		if err != nil {
			return err
		}
		role, addr := "router", r.Addr.String()
		if cfg.Reflector {
			role = "route reflector"
		}
		if r.Addr6.IsValid() {
			addr += "," + r.Addr6.String()
		}
		fmt.Fprintf(t, "%s\t%s\t%s\t%d\t%s\n", r.Name, r.Daemon, addr, cfg.AS, role)
	}
	return t.Flush()
}

func printPeers(ctx context.Context, w io.Writer, r *router.Router) error {
	sessions, err := r.Sessions(ctx)
	if err != nil {
		return err
	}
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	fmt.Fprintln(t, "PEER\tSTATE")
	for _, a := range slices.SortedFunc(maps.Keys(sessions), netip.Addr.Compare) {
		fmt.Fprintf(t, "%s\t%s\n", a, sessions[a].State)
	}
	return t.Flush()
}

func printRoutes(ctx context.Context, w io.Writer, r *router.Router) error {
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	fmt.Fprintln(t, "NETWORK\tNEXT HOP\tAS PATH\tCOMMUNITIES\tPREFERENCE\tBEST")
	for _, f := range r.Families() {
		routes, err := r.Routes(ctx, f)
		if err != nil {
			return err
		}
		for _, to := range slices.SortedFunc(maps.Keys(routes), netip.Prefix.Compare) {
			for _, p := range routes[to] {
				hop, best := "own", ""
				if p.NextHop.IsValid() {
					hop = p.NextHop.String()
				}
				if p.Best {
					best = "*"
				}
				fmt.Fprintf(t, "%s\t%s\t%s\t%s\t%d\t%s\n", to, hop, strings.Trim(fmt.Sprint(p.ASPath), "[]"),
					strings.Join(slices.Concat(p.Communities, p.LargeCommunities), " "), p.LocalPref, best)
			}
		}
	}
	return t.Flush()
}

// introduceRouters says how to look at the routers of a lab that is up.
func introduceRouters(c *lab.Cluster, progress func(string)) error {
	rs, err := c.Routers()
	if err != nil || len(rs) == 0 {
		return err
	}
	var names []string
	for _, r := range rs {
		names = append(names, r.Name)
	}
	progress(fmt.Sprintf("routers %s: \"lab tor\" lists them, \"lab tor %s peers\" (routes, config, log) shows what one has",
		strings.Join(names, ", "), names[0]))
	return nil
}
