// Command manxctl shows what Manx does: on a node through the agent's socket,
// from anywhere else through the Kubernetes API.
package main

import (
	"context"
	"os"
	"os/signal"
	"syscall"

	"github.com/manx-cni/manx/internal/cmdline"
	"github.com/manx-cni/manx/internal/ctl"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	os.Exit(cmdline.Run(ctx, ctl.NewCommand(os.Stdout, os.Stderr)))
}
