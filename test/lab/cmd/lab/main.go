// Command lab runs Kubernetes clusters on this machine; see package lab.
package main

import (
	"context"
	"errors"
	"os"
	"os/exec"
	"os/signal"
	"syscall"

	"github.com/spf13/cobra"
	"golang.org/x/sys/unix"

	"github.com/manx-cni/manx/internal/cmdline"
	"github.com/manx-cni/manx/test/lab/layout"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, unix.SIGTERM)
	defer stop()
	cmd, err := root().ExecuteContextC(screen.context(ctx))
	var e ended
	if errors.As(err, &e) {
		os.Exit(exitCode(e.ExitError)) // The command has said itself what is wrong.
	}
	cmdline.Report(os.Stderr, cmd, err)
	os.Exit(cmdline.Code(err))
}

// ended is the error of a command that ran in the foreground. Any other command that fails,
// a compiler for instance, has its output in the error, and that is to be shown.
type ended struct{ *exec.ExitError }

// exitCode is what a shell would give for a command that ended so.
func exitCode(e *exec.ExitError) int {
	if ws, ok := e.Sys().(syscall.WaitStatus); ok && ws.Signaled() {
		return 128 + int(ws.Signal())
	}
	return e.ExitCode()
}

// name is the lab that the command is about.
var name string

func root() *cobra.Command {
	cmd := &cobra.Command{Use: "lab", Short: "Kubernetes clusters on this machine, made of real components in namespaces"}
	cmd.PersistentFlags().StringVar(&name, "name", defaultName(), "the lab's name; also $MANX_LAB")
	cmd.AddCommand(upCmd(), downCmd(), statusCmd(), kubeconfigCmd(), kubectlCmd(), execCmd(), nodeCmd(), podCmd(),
		loadImageCmd(), storeCmd(), buildImageCmd(), buildCmd(), waitCmd(), torCmd(), depsCmd())
	cmdline.Strict(cmd)
	return cmd
}

func defaultName() string {
	if n := os.Getenv("MANX_LAB"); n != "" {
		return n
	}
	return layout.DefaultName
}
