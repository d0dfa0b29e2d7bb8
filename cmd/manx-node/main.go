// Command manx-node is the agent of a node and what prepares the node for it.
package main

import (
	"context"
	"fmt"
	"log/slog"
	"os"
	"os/signal"
	"strings"
	"syscall"

	"github.com/spf13/cobra"

	"github.com/manx-cni/manx/cni-plugin/install"
	"github.com/manx-cni/manx/internal/agent"
	"github.com/manx-cni/manx/internal/cmdline"
	"github.com/manx-cni/manx/internal/config"
	"github.com/manx-cni/manx/internal/obs"
	"github.com/manx-cni/manx/internal/version"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	os.Exit(cmdline.Run(ctx, root()))
}

func root() *cobra.Command {
	root := &cobra.Command{Use: "manx-node", Short: "The agent of a node, and what prepares the node for it"}
	root.AddCommand(
		command("run", "Run the agent, configured by the environment (docs/reference/settings.md)", run),
		command("pod-network", "Change the MTU of running pods when the agent asks; needs CAP_SYS_ADMIN", agent.PodNetwork),
		command("init-host", "Turn on forwarding (of IPv6 too where IP6 is set) and name the route protocol; needs privilege", agent.InitHost),
		command("install-cni", "Write the CNI binaries and configuration under /host", installCNI),
		uninstallCommand(),
		command("pause", "Do nothing until told to end; for a pod that has done its work in an init container", pause),
		command("version", "Print the version", func(context.Context, *slog.Logger) error {
			_, err := fmt.Println(version.String())
			return err
		}),
	)
	return root
}

func command(use, short string, do func(context.Context, *slog.Logger) error) *cobra.Command {
	return &cobra.Command{Use: use, Short: short, Args: cobra.NoArgs, RunE: func(cmd *cobra.Command, _ []string) error {
		return do(cmd.Context(), obs.NewLogger(os.Stderr, slog.LevelInfo))
	}}
}

func uninstallCommand() *cobra.Command {
	var opts agent.UninstallOptions
	cmd := command("uninstall", "Remove every route, rule and file of Manx from this node; pods lose their network",
		func(ctx context.Context, log *slog.Logger) error {
			return agent.Uninstall(ctx, log, opts)
		})
	cmd.Flags().BoolVar(&opts.Wait, "wait", false, "wait for the agent of this node to end")
	cmd.Flags().BoolVar(&opts.Pods, "pods", false, "remove the interfaces of running pods, too")
	return cmd
}

func pause(ctx context.Context, _ *slog.Logger) error {
	<-ctx.Done()
	return nil
}

// run parses the environment first: a bad value stops here, before anything is touched.
func run(ctx context.Context, _ *slog.Logger) error {
	settings, warnings, err := config.Parse(os.Environ())
	if err != nil {
		return configurationError(err)
	}
	log := obs.NewLogger(os.Stderr, settings.LogLevel)
	obs.BridgeKlog(log)
	for _, w := range warnings {
		log.Warn("setting", "note", w.String())
	}
	return agent.Run(ctx, settings, log)
}

func installCNI(ctx context.Context, log *slog.Logger) error {
	return install.Run(ctx, install.FromEnvironment(os.Environ()), log)
}

// configurationError is one line for one bad variable, and a list for several.
func configurationError(err error) error {
	if strings.Contains(err.Error(), "\n") {
		return fmt.Errorf("configuration:\n%w", err)
	}
	return fmt.Errorf("configuration: %w", err)
}
