package main

import (
	"context"
	"errors"
	"os"
	"os/exec"
	"os/signal"
	"strings"
	"syscall"

	"github.com/spf13/cobra"
	"golang.org/x/sys/unix"

	"github.com/manx-cni/manx/test/lab"
	"github.com/manx-cni/manx/test/lab/machine"
)

func stdio() lab.ExecOptions {
	return lab.ExecOptions{Stdin: os.Stdin, Stdout: os.Stdout, Stderr: os.Stderr}
}

// foreground waits for a command and leaves signals to it: on a terminal it gets an
// interrupt itself, anything else is passed on.
func foreground(p *machine.Process) error {
	signals := make(chan os.Signal, 4)
	signal.Notify(signals, unix.SIGINT, unix.SIGTERM, unix.SIGHUP)
	defer signal.Stop(signals)
	_, err := unix.IoctlGetTermios(int(os.Stdin.Fd()), unix.TCGETS)
	terminal := err == nil
	for {
		select {
		case <-p.Done():
			err := p.Wait()
			if exit := (*exec.ExitError)(nil); errors.As(err, &exit) {
				return ended{exit}
			}
			return err
		case s := <-signals:
			if sig := s.(syscall.Signal); !terminal || sig != unix.SIGINT {
				_ = p.Signal(sig) // It has ended already if this fails.
			}
		}
	}
}

// passArgs leaves the flags after the first argument to the command that is run.
func passArgs(cmd *cobra.Command) *cobra.Command {
	cmd.Flags().SetInterspersed(false)
	return cmd
}

func kubectlCmd() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "kubectl [--] ARGS…",
		Short: "Run kubectl as administrator",
		// Everything after "kubectl" is kubectl's, flags included, but for a --name right there.
		DisableFlagParsing: true,
		RunE: func(cmd *cobra.Command, args []string) error {
			if chosen, rest := splitName(args); chosen != "" {
				name, args = chosen, rest
			}
			if len(args) > 0 && args[0] == "--" {
				args = args[1:]
			}
			c, err := lab.Open(name)
			if err != nil {
				return err
			}
			p, err := c.StartKubectl(context.WithoutCancel(cmd.Context()), stdio(), args...)
			if err != nil {
				return err
			}
			return foreground(p)
		},
	}
	return cmd
}

// splitName takes the lab's name off the front of arguments that cobra does not parse.
// It puts the flags that were given before the command there too.
func splitName(args []string) (chosen string, rest []string) {
	if len(args) > 1 && args[0] == "--name" {
		return args[1], args[2:]
	}
	if len(args) > 0 {
		if v, ok := strings.CutPrefix(args[0], "--name="); ok {
			return v, args[1:]
		}
	}
	return "", args
}

func execCmd() *cobra.Command {
	return passArgs(&cobra.Command{
		Use:   "exec MACHINE CMD…",
		Short: "Run a command on a machine (node1, control) or in a namespace of the fabric (outside, fabric, router)",
		Long: "Run a command in all namespaces of a machine: node1, node2, … or control. The host's files are below\n" +
			"/host there. \"outside\" is a host on the fabric that is no node, \"fabric\" has the bridges and a port per\n" +
			"machine, \"router\" is between the subnets of a lab that has two; a command in these sees the host's files.",
		Args: cobra.MinimumNArgs(2),
		RunE: func(cmd *cobra.Command, args []string) error {
			c, err := lab.Open(name)
			if err != nil {
				return err
			}
			where, command := args[0], args[1:]
			if command[0] == "--" {
				command = command[1:]
			}
			p, err := c.Start(context.WithoutCancel(cmd.Context()), where, stdio(), command...)
			if err != nil {
				return err
			}
			return foreground(p)
		},
	})
}

func nodeCmd() *cobra.Command {
	cmd := &cobra.Command{Use: "node", Short: "Add a node, or switch a machine off and on"}
	verb := func(use, short string, f func(*lab.Cluster, context.Context, string) error) {
		cmd.AddCommand(&cobra.Command{
			Use: use + " NODE", Short: short, Args: cobra.ExactArgs(1),
			RunE: func(cmd *cobra.Command, args []string) error {
				c, err := lab.Open(name)
				if err != nil {
					return err
				}
				return f(c, cmd.Context(), args[0])
			},
		})
	}
	var (
		images []string
		subnet int
	)
	add := &cobra.Command{
		Use: "add NODE", Short: "Add a node to a running lab", Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			c, err := lab.Open(name)
			if err != nil {
				return err
			}
			return c.AddNodeIn(cmd.Context(), subnet, args[0], images...)
		},
	}
	kubernetesFlag(add)
	add.Flags().StringArrayVar(&images, "image", nil, "docker archive to load into it; can be repeated")
	add.Flags().IntVar(&subnet, "subnet", 1, "subnet of the fabric that it is in")
	cmd.AddCommand(add)
	verb("stop", "Switch a machine off, as a power cut does; its disk stays", (*lab.Cluster).StopNode)
	verb("start", "Switch a machine on", (*lab.Cluster).StartNode)
	verb("restart", "Switch a machine off and on", (*lab.Cluster).RestartNode)
	return cmd
}
