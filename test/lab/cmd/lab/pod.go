package main

import (
	"fmt"
	"strings"

	"github.com/spf13/cobra"
	"k8s.io/apimachinery/pkg/labels"

	"github.com/manx-cni/manx/internal/cmdline"
	"github.com/manx-cni/manx/test/lab"
)

func podCmd() *cobra.Command {
	cmd := &cobra.Command{Use: "pod", Short: "Add a pod to a node, or delete one"}
	var (
		p       lab.Pod
		labeled string
	)
	add := &cobra.Command{
		Use: "add NAME NODE", Short: "Make a pod on a node and print its address when it runs", Args: cobra.ExactArgs(2),
		RunE: func(cmd *cobra.Command, args []string) error {
			c, err := lab.Open(name)
			if err != nil {
				return err
			}
			if p.Labels, err = labels.ConvertSelectorToLabelsMap(labeled); err != nil {
				return cmdline.Usagef("--labels %q: want NAME=VALUE,…: %w", labeled, err)
			}
			p.Name, p.Node = args[0], args[1]
			addrs, err := c.AddPod(cmd.Context(), p)
			if err != nil {
				return err
			}
			var text []string
			for _, a := range addrs {
				text = append(text, a.String())
			}
			_, err = fmt.Fprintln(cmd.OutOrStdout(), strings.Join(text, " "))
			return err
		},
	}
	add.Flags().StringVarP(&p.Namespace, "namespace", "n", "default", "its namespace")
	add.Flags().StringVar(&labeled, "labels", "", "its labels: NAME=VALUE,…")
	add.Flags().IntVar(&p.Port, "port", 0, "where it answers HTTP: /hostname, /clientip, …")
	var namespace string
	del := &cobra.Command{
		Use: "delete NAME", Short: "Delete a pod and wait until it has gone", Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			c, err := lab.Open(name)
			if err != nil {
				return err
			}
			return c.DeletePod(cmd.Context(), namespace, args[0])
		},
	}
	del.Flags().StringVarP(&namespace, "namespace", "n", "default", "its namespace")
	cmd.AddCommand(add, del)
	return cmd
}
