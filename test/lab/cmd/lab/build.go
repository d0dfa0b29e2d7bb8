package main

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"github.com/spf13/cobra"

	"github.com/manx-cni/manx/test/lab/kubebuild"
)

func buildCmd() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "build [PROGRAM…]",
		Short: "Build the Kubernetes binaries into the cache; \"up\" does it when needed",
		Long: "Build the programs of a lab into the cache and print its path: all of them when none is named.\n" +
			"What is there and up to date is not built again. There are " + strings.Join(kubebuild.Programs(), ", ") + ".",
		ValidArgs: kubebuild.Programs(),
		RunE: func(cmd *cobra.Command, args []string) error {
			if len(args) == 0 {
				args = kubebuild.FullLab
			}
			dir, err := kubebuild.Build(cmd.Context(), progress(), args...)
			if err != nil {
				return err
			}
			_, err = fmt.Fprintln(cmd.OutOrStdout(), dir)
			return err
		},
	}
	kubernetesFlag(cmd)
	return cmd
}

// kubernetesFlag gives a command that builds the flag that is kubebuild.SourceEnv.
func kubernetesFlag(cmd *cobra.Command) {
	cmd.Flags().Func("kubernetes",
		"`DIR` with ready-made programs of Kubernetes "+kubebuild.Version+" and etcd, some or all, to take instead of building them; \""+
			kubebuild.FromModules+"\" builds also those that were taken before; also $"+kubebuild.SourceEnv, func(v string) error {
			if v != "" && v != kubebuild.FromModules {
				abs, err := filepath.Abs(v)
				if err != nil {
					return err
				}
				v = abs
			}
			return os.Setenv(kubebuild.SourceEnv, v)
		})
}
