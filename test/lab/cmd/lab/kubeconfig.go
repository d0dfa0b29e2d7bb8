package main

import (
	"fmt"
	"os"
	"path/filepath"

	"github.com/spf13/cobra"

	"github.com/manx-cni/manx/test/lab"
	"github.com/manx-cni/manx/test/lab/layout"
)

func kubeconfigCmd() *cobra.Command {
	return &cobra.Command{
		Use:   "kubeconfig",
		Short: "Print the path of the administrator's kubeconfig, and how to use it from here",
		Long: "Print the path of the administrator's kubeconfig. Its server has an address inside the lab. Where that is not\n" +
			"reached from here, standard error says what to put in front of a command that uses the file.",
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			c, err := lab.Open(name)
			if err != nil {
				return err
			}
			if _, err := fmt.Fprintln(cmd.OutOrStdout(), c.Kubeconfig()); err != nil {
				return err
			}
			inside, err := standsInside(c.Lab)
			if err != nil || inside {
				return err
			}
			self := os.Args[0]
			if name != layout.DefaultName {
				self += " --name " + name
			}
			_, err = fmt.Fprintf(cmd.ErrOrStderr(),
				"Its server is reached inside the lab only. Put \"%[1]s exec outside\" in front of what uses it, with the file by name:\n"+
					"    %[1]s exec outside manxctl --kubeconfig %[2]s status\n\"%[1]s kubectl\" needs neither.\n", self, c.Kubeconfig())
			return err
		},
	}
}

// standsInside tells whether this process is in a network namespace of the lab.
func standsInside(l layout.Lab) (bool, error) {
	self, err := os.Stat("/proc/self/ns/net")
	if err != nil {
		return false, fmt.Errorf("find out where this is: %w", err)
	}
	names, err := filepath.Glob(l.NetNSPath("*"))
	if err != nil {
		return false, err
	}
	for _, n := range names {
		if there, err := os.Stat(n); err == nil && os.SameFile(self, there) {
			return true, nil
		}
	}
	return false, nil
}
