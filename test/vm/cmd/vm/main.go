// Command vm runs a command in a guest with Debian's kernel; see package vm.
package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/sys/unix"

	"github.com/manx-cni/manx/internal/cmdline"
	"github.com/manx-cni/manx/test/lab/fabric"
	"github.com/manx-cni/manx/test/lab/layout"
	"github.com/manx-cni/manx/test/vm"
)

// Exit codes when the command has none of its own; timeout(1) and docker have the same.
const (
	exitTimeout = 124
	exitFailure = 125
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, unix.SIGTERM, unix.SIGHUP)
	defer stop()
	code := 0
	cmd, err := root(&code).ExecuteContextC(ctx)
	cmdline.Report(os.Stderr, cmd, err)
	if err != nil {
		code = codeOf(cmd, err)
	}
	os.Exit(code)
}

// codeOf is the exit code for an error of this program. "run" has none in common with
// what it runs, whose exit code is 2 for anything.
func codeOf(cmd *cobra.Command, err error) int {
	switch {
	case errors.Is(err, vm.ErrTimeout):
		return exitTimeout
	case cmdline.IsUsage(err) && cmd.Name() != "run":
		return cmdline.ExitUsage
	}
	return exitFailure
}

func root(code *int) *cobra.Command {
	cmd := &cobra.Command{Use: "vm", Short: "Run commands in a virtual machine that has this machine's files and Debian's kernel"}
	cmd.AddCommand(runCmd(code), kernelCmd(), hasIPIPCmd(code))
	cmdline.Strict(cmd)
	return cmd
}

func hasIPIPCmd(code *int) *cobra.Command {
	return &cobra.Command{
		Use:   "has-ipip",
		Short: "Exit with 0 when the kernel at hand has ipip, so that no guest is needed for it, else with 1",
		Args:  cobra.NoArgs,
		Run: func(*cobra.Command, []string) {
			if !vm.HasIPIP() {
				*code = 1
			}
		},
	}
}

func runCmd(code *int) *cobra.Command {
	o := vm.Options{Stdout: os.Stdout, Stderr: os.Stderr}
	var memory string
	var nics []string
	cmd := &cobra.Command{
		Use:   "run [flags] [--] CMD ARG…",
		Short: "Run a command as root in a new guest and exit with its exit code",
		Long: "Run a command as root in a new guest and exit with its exit code. The guest sees all files of this machine,\n" +
			"read-only: what it writes is gone when it ends. It has no network but loopback, unless --nic plugs it into\n" +
			"a bridge of this machine. The exit code is 124 when the command took too long and 125 when there was no\n" +
			"guest or it died.",
		Args: cobra.MinimumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			var err error
			if o.Memory, err = parseMemory(memory); err != nil {
				return &cmdline.UsageError{Err: err}
			}
			for _, n := range nics {
				card, err := parseNIC(n)
				if err != nil {
					return &cmdline.UsageError{Err: err}
				}
				o.NICs = append(o.NICs, card)
			}
			o.Env = callersValues(o.Env, os.LookupEnv)
			o.Args, o.Progress = args, progress()
			*code, err = vm.Run(cmd.Context(), o)
			return err
		},
	}
	f := cmd.Flags()
	f.SetInterspersed(false) // What follows the command is the command's.
	f.DurationVar(&o.Timeout, "timeout", vm.DefaultTimeout, "for the whole run, from power-on")
	f.StringVar(&memory, "memory", strconv.Itoa(vm.DefaultMemory>>10)+"G", "of the guest, in M or G; what it writes takes its part of it")
	f.IntVar(&o.CPUs, "cpus", vm.DefaultCPUs, "of the guest")
	f.StringArrayVar(&o.Env, "env", nil, "NAME=VALUE for the command, or NAME for the value it has here; can be repeated")
	f.StringArrayVar(&nics, "nic", nil,
		"NETNS[:BRIDGE]: a network card that is a port on a bridge ("+defaultBridge+") of a network namespace\n"+
			"(a name that \"ip netns\" lists, or a path); it is uplink0 in the guest, the next one uplink1; can be repeated")
	f.StringVar(&o.Dir, "dir", "", "working directory (default: this one)")
	return cmd
}

func kernelCmd() *cobra.Command {
	return &cobra.Command{
		Use:   "kernel",
		Short: "Fetch the guest's kernel if it is not there, and print its version, image and modules",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if err := vm.Ready(cmd.Context(), progress()); err != nil {
				return err
			}
			k, err := vm.FindKernel(cmd.Context(), progress())
			if err != nil {
				return err
			}
			_, err = fmt.Fprintf(cmd.OutOrStdout(), "%s\n%s\n%s\n", k.Version, k.Image(), k.Modules())
			return err
		},
	}
}

// parseMemory reads a size such as 10G or 512M, in MiB.
func parseMemory(s string) (int, error) {
	number, scale := strings.TrimSuffix(s, "M"), 1
	if g, ok := strings.CutSuffix(s, "G"); ok {
		number, scale = g, 1<<10
	}
	n, err := strconv.Atoi(number)
	if err != nil || n <= 0 || n > 1<<20 {
		return 0, fmt.Errorf("memory %q: want a number with M or G, such as 10G", s)
	}
	return n * scale, nil
}

// defaultBridge is a lab's first.
var defaultBridge = fabric.Bridge(1)

// parseNIC reads NETNS[:BRIDGE].
func parseNIC(s string) (vm.NIC, error) {
	ns, bridge, given := strings.Cut(s, ":")
	if !given {
		bridge = defaultBridge
	}
	if ns == "" || bridge == "" || strings.Contains(bridge, ":") {
		return vm.NIC{}, fmt.Errorf("network card %q: want NETNS[:BRIDGE], such as lab-demo-fabric:br0", s)
	}
	if !strings.Contains(ns, "/") {
		ns = filepath.Join(layout.NetNSDir, ns)
	}
	return vm.NIC{NetNS: ns, Bridge: bridge}, nil
}

// callersValues gives a variable without a value the caller's, and leaves out what the caller does not have.
func callersValues(env []string, lookup func(string) (string, bool)) []string {
	var out []string
	for _, e := range env {
		if strings.Contains(e, "=") {
			out = append(out, e)
		} else if v, ok := lookup(e); ok {
			out = append(out, e+"="+v)
		}
	}
	return out
}

// progress returns a printer of steps with the seconds since it was made.
func progress() func(string) {
	start := time.Now()
	var mu sync.Mutex
	return func(step string) {
		mu.Lock()
		defer mu.Unlock()
		fmt.Fprintf(os.Stderr, "[%5.1f s] %s\n", time.Since(start).Seconds(), step)
	}
}
