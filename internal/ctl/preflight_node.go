package ctl

import (
	"encoding/json"
	"fmt"
	"net/netip"
	"strings"

	"github.com/spf13/cobra"

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
			cfg.Kind = preflight.Kind(args[0])
			if cfg.Kind != preflight.KindIPIP && cfg.Kind != preflight.KindBGP {
				return fmt.Errorf("preflight node %q: want ipip or bgp", args[0])
			}
			var err error
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
	f.StringVar(&self, "self", "", "this node, NAME=ADDR")
	f.StringSliceVar(&targets, "target", nil, "the other nodes, NAME=ADDR each")
	f.DurationVar(&cfg.Wait, "wait", preflight.DefaultWait, "how long packets that were not answered are sent again")
	f.Uint16Var(&cfg.BGPPort, "port", preflight.DefaultPort, "TCP port of the BGP speakers")
	return cmd
}

func nameAddr(t preflight.Target) string { return t.Name + "=" + t.Addr.String() }

func parseNameAddr(flag, text string) (preflight.Target, error) {
	name, a, _ := strings.Cut(text, "=")
	addr, err := netip.ParseAddr(a)
	if name == "" || err != nil || !addr.Is4() {
		return preflight.Target{}, fmt.Errorf("%s=%q: want NAME=ADDR, such as node1=10.0.0.5", flag, text)
	}
	return preflight.Target{Name: name, Addr: addr}, nil
}
