package main

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"github.com/spf13/cobra"

	"github.com/manx-cni/manx/internal/cmdline"
	"github.com/manx-cni/manx/test/lab"
	"github.com/manx-cni/manx/test/lab/controlplane"
	"github.com/manx-cni/manx/test/lab/fabric"
	"github.com/manx-cni/manx/test/lab/image"
	"github.com/manx-cni/manx/test/lab/kubebuild"
	"github.com/manx-cni/manx/test/lab/layout"
	"github.com/manx-cni/manx/test/lab/router"
)

// manifest is what "up" creates unless told otherwise.
const manifest = "manifests/manx.yaml"

func upCmd() *cobra.Command {
	var (
		o     lab.Options
		noCNI bool
	)
	cmd := &cobra.Command{
		Use:   "up",
		Short: "Bring up a lab",
		Long: "Bring up a lab. Without --no-cni it also loads the images given with --image, creates the manifest\n" +
			"with kubectl, with what --mode and --dual-stack change in it, and waits for the nodes to be Ready.",
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			switch {
			case noCNI && o.Light:
				return cmdline.Usagef("--light excludes --no-cni: a light node has no other pod network than Manx's")
			case noCNI && (o.Manifest != "" || o.Mode != ""):
				return cmdline.Usagef("--no-cni excludes --manifest and --mode")
			case !noCNI && o.Manifest == "":
				repo, err := kubebuild.Repository()
				if err != nil {
					return fmt.Errorf("find %s: %w", manifest, err)
				}
				o.Manifest = filepath.Join(repo, manifest)
				if _, err := os.Stat(o.Manifest); errors.Is(err, fs.ErrNotExist) {
					return fmt.Errorf("%s is not there; give another with --manifest, or --no-cni for a cluster without a pod network", o.Manifest)
				}
			}
			o.Name, o.Progress = name, progress()
			c, err := lab.Up(cmd.Context(), o)
			if err != nil {
				return err
			}
			o.Progress("lab " + c.Name + " is up; \"lab status\" shows it")
			if o.Light {
				o.Progress("pods can be made; \"lab wait\" returns when the BGP sessions are established, in a second or two")
			}
			return introduceRouters(c, o.Progress)
		},
	}
	cmd.Flags().StringVar(&o.ToR, "tor", "", "daemon of a top-of-rack router with a host behind it: "+strings.Join(router.Daemons(), ", "))
	cmd.Flags().IntVar(&o.ToRs, "tors", 0, "how many top-of-rack routers, 1 or 2 (default 1 with --tor)")
	cmd.Flags().IntVar(&o.Reflectors, "rr", 0, "how many route reflectors, with the daemon of --tor, or bird")
	cmd.Flags().IntVar(&o.Nodes, "nodes", 3, "number of nodes")
	cmd.Flags().IntVar(&o.Subnets, "subnets", 1,
		"subnets of the fabric, 1 or 2; with 2 there is a router between, and the second half of the nodes is in the second")
	cmd.Flags().IntVar(&o.MTU, "mtu", fabric.DefaultMTU, "MTU of the machines' uplinks in bytes")
	cmd.Flags().BoolVar(&o.DualStack, "dual-stack", false, "give machines, Services and pods IPv6 beside IPv4")
	cmd.Flags().StringVar(&o.Mode, "mode", "",
		"how pods on different nodes reach each other: "+strings.Join(lab.Modes(), ", ")+" (default: what the manifest says)")
	cmd.Flags().BoolVar(&o.Light, "light", false, "nodes without kubelet and containerd: up in seconds, with the programs of --programs")
	cmd.Flags().StringArrayVar(&o.With, "with", nil, "what a light lab has besides: "+lab.KubeProxy+" for Services; can be repeated")
	cmd.Flags().StringVar(&o.Programs, "programs", "", "directory of Manx's programs for a light lab (default: bin of the repository)")
	cmd.Flags().BoolVar(&noCNI, "no-cni", false, "no pod network: only wait for the nodes to register")
	cmd.Flags().StringVar(&o.Manifest, "manifest", "", "manifest of the pod network (default: the repository's)")
	cmd.Flags().StringArrayVar(&o.Images, "image", nil, "docker archive to load into every node first; can be repeated")
	kubernetesFlag(cmd)
	cmd.Flags().BoolVar(&o.Audit, "audit", false,
		"have the API server log who asks what; the log is "+controlplane.AuditLog+".log of the machine "+layout.Control)
	return cmd
}

func downCmd() *cobra.Command {
	return &cobra.Command{
		Use:   "down",
		Short: "Remove a lab and everything it left, whatever state it is in",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			say := progress()
			if err := lab.Down(cmd.Context(), name, say); err != nil {
				return err
			}
			say("lab " + name + " is gone")
			return nil
		},
	}
}

func statusCmd() *cobra.Command {
	return &cobra.Command{
		Use:   "status",
		Short: "Show a lab's machines and what runs on them",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			c, err := lab.Open(name)
			if err != nil {
				return err
			}
			s, err := c.Status(cmd.Context())
			if err != nil {
				return err
			}
			return s.Print(cmd.OutOrStdout())
		},
	}
}

func waitCmd() *cobra.Command {
	return &cobra.Command{
		Use:   "wait",
		Short: "Wait for the nodes to be Ready, in a light lab also for the agents' BGP sessions",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			c, err := lab.Open(name)
			if err != nil {
				return err
			}
			return c.WaitReady(cmd.Context())
		},
	}
}

func storeCmd() *cobra.Command {
	var images []string
	cmd := &cobra.Command{
		Use:   "store",
		Short: "Unpack images for nodes into the cache; \"up\" with the same images does it when needed",
		Args:  cobra.NoArgs,
		RunE:  func(cmd *cobra.Command, _ []string) error { return lab.PrepareStore(cmd.Context(), images, progress()) },
	}
	kubernetesFlag(cmd)
	cmd.Flags().StringArrayVar(&images, "image", nil, "docker archive; can be repeated")
	return cmd
}

func loadImageCmd() *cobra.Command {
	return &cobra.Command{
		Use:   "load-image TAR [NODE…]",
		Short: "Load a docker archive into the nodes (all of them when none is named)",
		Args:  cobra.MinimumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			c, err := lab.Open(name)
			if err != nil {
				return err
			}
			return c.LoadImage(cmd.Context(), args[0], args[1:]...)
		},
	}
}

func buildImageCmd() *cobra.Command {
	var bin, out string
	cmd := &cobra.Command{
		Use:   "build-image --bin DIR --out TAR",
		Short: "Make the Manx image " + image.Node + " from built programs, without a base image",
		Args:  cobra.NoArgs,
		RunE:  func(*cobra.Command, []string) error { return image.BuildNode(bin, out) },
	}
	cmd.Flags().StringVar(&bin, "bin", "bin", "directory with manx-node, manx and manxctl")
	cmd.Flags().StringVar(&out, "out", "build/manx-node.tar", "docker archive to write")
	return cmd
}
