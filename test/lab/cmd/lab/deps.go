package main

import (
	"fmt"

	"github.com/spf13/cobra"

	"github.com/manx-cni/manx/test/lab/host"
)

func depsCmd() *cobra.Command {
	return &cobra.Command{
		Use:   "deps",
		Short: "Install the Debian packages that labs and tests use, or name them",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return host.Ready(cmd.Context(), func(line string) { fmt.Fprintln(cmd.ErrOrStderr(), line) })
		},
	}
}
