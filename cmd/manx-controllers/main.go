// Command manx-controllers does what a cluster needs once: it collects leaked
// addresses and looks after the pools.
package main

import (
	"context"
	"fmt"
	"os"
	"os/signal"
	"syscall"

	"github.com/spf13/cobra"

	"github.com/manx-cni/manx/internal/cmdline"
	"github.com/manx-cni/manx/internal/controllers"
	"github.com/manx-cni/manx/internal/obs"
	"github.com/manx-cni/manx/internal/version"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	os.Exit(cmdline.Run(ctx, root()))
}

func root() *cobra.Command {
	root := &cobra.Command{Use: "manx-controllers", Short: "Collects leaked addresses and looks after the pools, once in a cluster"}
	root.AddCommand(
		&cobra.Command{
			Use: "run", Short: "Run the controllers, configured by the environment (docs/reference/controllers.md)", Args: cobra.NoArgs,
			RunE: func(cmd *cobra.Command, _ []string) error { return run(cmd.Context()) },
		},
		&cobra.Command{
			Use: "version", Short: "Print the version", Args: cobra.NoArgs,
			RunE: func(*cobra.Command, []string) error {
				_, err := fmt.Println(version.String())
				return err
			},
		},
	)
	return root
}

// run parses the environment first: a bad value stops here.
func run(ctx context.Context) error {
	settings, notes, err := controllers.ParseSettings(os.Environ())
	if err != nil {
		return fmt.Errorf("configuration: %w", err)
	}
	log := obs.NewLogger(os.Stderr, settings.LogLevel)
	obs.BridgeKlog(log)
	for _, note := range notes {
		log.Warn("setting", "note", note)
	}
	return controllers.Run(ctx, settings, log)
}
