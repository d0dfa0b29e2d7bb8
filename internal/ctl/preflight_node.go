package ctl

import (
	"encoding/json"
	"net/netip"
	"strings"

	"github.com/spf13/cobra"

	"github.com/manx-cni/manx/internal/cmdline"
	"github.com/manx-cni/manx/internal/preflight"
)

// newPreflightNodeCommand is one node's part of a preflight.
func newPreflightNodeCommand() *cobra.Command {
	var cfg preflight.Config
	var self string
	var targets []string
	cmd := &cobra.Command{
		Use:    "node ipip|bgp",
		Short:  "One node's part of a preflight",
		Hidden: true,
		Long: `One node's part of a preflight, which the other commands run in the agents' pods:
sends to all targets, answers them, and prints a report as JSON.`,
		Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			kind, err := cmdline.Choice("preflight node", args[0], string(preflight.KindIPIP), string(preflight.KindBGP))
			if err != nil {
				return err
			}
			cfg.Kind = preflight.Kind(kind)
			if cfg.Self, err = parseNameAddr("--self", self); err != nil {
				return err
			}
			for _, t := range targets {
				target, err := parseNameAddr("--target", t)
				if err != nil {
					return err
				}
				cfg.Targets = append(cfg.Targets, target)
			}
			report, err := preflight.Run(cmd.Context(), cfg)
			if err != nil {
				return err
			}
			return json.NewEncoder(cmd.OutOrStdout()).Encode(report)
		},
	}
	f := cmd.Flags()
	f.StringVar(&self, "self", "", "this node, NAME=ADDR, or NAME=ADDR=TUNNELADDR when its tunnel has an address")
	f.StringSliceVar(&targets, "target", nil, "the other nodes, the same way")
	f.IntVar(&cfg.MTU, "mtu", 0, "size in bytes of full-size packets, the outer IP header included (default: the uplink's MTU)")
	f.DurationVar(&cfg.Wait, "wait", preflight.DefaultWait, "how long packets that were not answered are sent again")
	f.Uint16Var(&cfg.BGPPort, "port", preflight.DefaultPort, "TCP port of the BGP speakers")
	return cmd
}

func nameAddr(t preflight.Target) string {
	text := t.Name + "=" + t.Addr.String()
	if t.TunnelAddr.IsValid() {
		text += "=" + t.TunnelAddr.String()
	}
	return text
}

func parseNameAddr(flag, text string) (preflight.Target, error) {
	name, a, _ := strings.Cut(text, "=")
	a, tunnel, tunnelled := strings.Cut(a, "=")
	t := preflight.Target{Name: name}
	var err error
	t.Addr, err = netip.ParseAddr(a)
	ok := name != "" && err == nil && t.Addr.Is4()
	if tunnelled {
		t.TunnelAddr, err = netip.ParseAddr(tunnel)
		ok = ok && err == nil && t.TunnelAddr.Is4()
	}
	if !ok {
		return preflight.Target{}, cmdline.Usagef("%s=%q: want NAME=ADDR or NAME=ADDR=TUNNELADDR, such as node1=10.0.0.5=10.244.0.1", flag, text)
	}
	return t, nil
}
