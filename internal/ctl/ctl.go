// Package ctl is the command line of manxctl.
//
// Every command reads the same values that the agents publish. On a node they
// come from the agent's unix socket; from a laptop the command runs itself
// inside each agent's pod through the Kubernetes API, with the rights of the
// user's kubeconfig, and prints all answers. preflight tries the fabric the same
// way, from every agent's pod at once; bgp shows sessions, routes and filters; ippool changes what the user asks for in the
// Kubernetes API; ipam shows who has which address, compares that with who uses it
// (internal/ipamreport judges), and releases what nobody does; uninstall takes Manx off
// the nodes. It owns no state.
package ctl

import (
	"io"

	"github.com/spf13/cobra"

	"github.com/manx-cni/manx/internal/cmdline"
	"github.com/manx-cni/manx/internal/version"
)

// NewCommand builds the command tree, writing to out and errOut.
func NewCommand(out, errOut io.Writer) *cobra.Command {
	root := &cobra.Command{
		Use:   "manxctl",
		Short: "Show what Manx does on nodes, look into BGP, try the fabric, change a pool's mode, look after addresses, take Manx away",
		Long: `Show what Manx does on a node or on all of them, look into BGP, try the fabric, change a
pool's mode, look after addresses, take Manx away.

The exit code is 0, 1 when what was asked for failed or something is wrong, and 2 when
the command line makes no sense: nothing was begun then.

The flags below mean what they mean to kubectl; they are refused by commands that do
not ask the cluster. Where there is no kubeconfig, "status" uses the service account of
the pod that it runs in.

A command that works for more than two seconds tells on standard error what it waits
for.

What commands print with -o json and yaml is described in
docs/reference/manxctl-output.md; fields are added, and neither renamed nor taken away.`,
	}
	root.SetOut(out)
	root.SetErr(errOut)
	c := newConnection(root)
	root.AddCommand(newStatusCommand(c), newPreflightCommand(c), newIPPoolCommand(c),
		newIPAMCommand(c), newBGPCommand(c), newUninstallCommand(c), newVersionCommand())
	withProgress(root)
	cmdline.Strict(root)
	return root
}

func newVersionCommand() *cobra.Command {
	var o output
	cmd := &cobra.Command{
		Use:   "version",
		Short: "Print the version of manxctl",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			v := Version{Version: version.String()}
			return o.print(cmd.OutOrStdout(), v, func(w io.Writer) error {
				_, err := io.WriteString(w, v.Version+"\n")
				return err
			})
		},
	}
	o.add(cmd.Flags())
	return cmd
}
